package bench

import (
	"context"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/alexedwards/argon2id"
	"golang.org/x/crypto/chacha20poly1305"

	"signet/internal/e2e"
	"signet/internal/seal"
	"signet/internal/store"
)

// bareSecret is the secret of the only client of [bareTokens].
const bareSecret = "a secret of the bare server"

// bareTokens is the least that a token endpoint does: it signs a token, and for a refresh it
// opens a handle, changes a row and seals the next handle. It has no limits, logs or checks.
type bareTokens struct {
	key    *ecdsa.PrivateKey
	header string
	handle cipher.AEAD
	store  *store.Store
	secret [sha256.Size]byte
}

// newBareTokens keeps its rows in a new store in dir, which commits as Signet's does.
func newBareTokens(dir string) (*bareTokens, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	secret := make([]byte, chacha20poly1305.KeySize)
	rand.Read(secret)
	handle, err := chacha20poly1305.NewX(secret)
	if err != nil {
		return nil, err
	}
	o := store.Options{Path: dir + "/bare.db", Mirror: dir + "/mirror", Serve: true}
	if err := store.Create(context.Background(), o, "bare"); err != nil {
		return nil, err
	}
	s, err := store.Open(context.Background(), o)
	if err != nil {
		return nil, err
	}
	header := encode([]byte(`{"alg":"ES256","typ":"at+jwt","kid":"a"}`))
	return &bareTokens{key, header, handle, s, sha256.Sum256([]byte(bareSecret))}, nil
}

var encode = base64.RawURLEncoding.EncodeToString

// forClient serves client_credentials.
func (t *bareTokens) forClient(w http.ResponseWriter, r *http.Request) {
	got := sha256.Sum256([]byte(r.PostFormValue("client_secret")))
	if subtle.ConstantTimeCompare(got[:], t.secret[:]) != 1 || r.PostFormValue("grant_type") != "client_credentials" {
		http.Error(w, "no", http.StatusUnauthorized)
		return
	}
	t.answer(w, r.PostFormValue("client_id"), "")
}

// refresh serves refresh_token.
func (t *bareTokens) refresh(w http.ResponseWriter, r *http.Request) {
	next, err := t.rotate(r.Context(), r.PostFormValue("refresh_token"))
	if err != nil || r.PostFormValue("grant_type") != "refresh_token" {
		http.Error(w, "no", http.StatusBadRequest)
		return
	}
	t.answer(w, "user", next)
}

// begin adds a row with as many bytes as one of Signet's, and answers with its first handle.
func (t *bareTokens) begin(w http.ResponseWriter, r *http.Request) {
	id, now := seal.NewID(time.Now()), time.Now().Unix()
	err := t.store.Write(r.Context(), func(tx store.Tx) error {
		_, err := tx.Exec(`INSERT INTO grants (id, gen, rotated_at, revoked_at, sub, client_hash, client_name, consent_hash, scope, resource, created_at, expires_at, user_version, epoch)
			VALUES ($1, 1, $2, 0, 'demo_user', $3, 'Test client', $4, 'read write', 'http://localhost:8080/mcp', $5, $6, '', 'abcd')`,
			id, now*1000, rand.Text()[:22], rand.Text()[:16], now, now+1e6)
		return err
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Write([]byte(t.seal(id, 1)))
}

// rotate raises the generation of a row by one, if it is the handle's.
func (t *bareTokens) rotate(ctx context.Context, handle string) (next string, err error) {
	id, gen, err := t.open(handle)
	if err != nil {
		return "", err
	}
	var changed int64
	err = t.store.Write(ctx, func(tx store.Tx) error {
		result, err := tx.Exec("UPDATE grants SET gen = gen + 1, rotated_at = $1 WHERE id = $2 AND gen = $3", time.Now().UnixMilli(), id, gen)
		if err == nil {
			changed, err = result.RowsAffected()
		}
		return err
	})
	if err == nil && changed != 1 {
		err = errors.New("used before")
	}
	return t.seal(id, gen+1), err
}

// seal makes a handle of a generation and an id.
func (t *bareTokens) seal(id string, gen uint64) string {
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	rand.Read(nonce)
	plain := append(binary.BigEndian.AppendUint64(nil, gen), id...)
	return encode(t.handle.Seal(nonce, nonce, plain, nil))
}

func (t *bareTokens) open(handle string) (id string, gen uint64, err error) {
	b, err := base64.RawURLEncoding.DecodeString(handle)
	if err != nil || len(b) < chacha20poly1305.NonceSizeX {
		return "", 0, errors.New("no handle")
	}
	plain, err := t.handle.Open(nil, b[:chacha20poly1305.NonceSizeX], b[chacha20poly1305.NonceSizeX:], nil)
	if err != nil {
		return "", 0, err
	}
	return string(plain[8:]), binary.BigEndian.Uint64(plain), nil
}

func (t *bareTokens) answer(w http.ResponseWriter, subject, handle string) {
	now := time.Now().Unix()
	claims, err := json.Marshal(map[string]any{
		"iss": "http://localhost", "sub": subject, "client_id": subject, "aud": "http://localhost/mcp",
		"scope": "read", "iat": now, "exp": now + 300, "jti": rand.Text(),
	})
	if err != nil {
		panic(err)
	}
	signed := t.header + "." + encode(claims)
	hash := sha256.Sum256([]byte(signed))
	x, y, err := ecdsa.Sign(rand.Reader, t.key, hash[:])
	if err != nil {
		panic(err)
	}
	signature := append(x.FillBytes(make([]byte, 32)), y.FillBytes(make([]byte, 32))...)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	answer := map[string]any{"access_token": signed + "." + encode(signature), "token_type": "Bearer", "expires_in": 300, "scope": "read"}
	if handle != "" {
		answer["refresh_token"] = handle
	}
	json.NewEncoder(w).Encode(answer)
}

// bareFamilies are grants at the bare server.
func bareFamilies(b *testing.B, base string, n int) []*family {
	b.Helper()
	families := make([]*family, n)
	c, err := e2e.Dial(base)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for i := range families {
		handle, err := c.Do("POST", "/begin", "", "")
		if err != nil {
			b.Fatal(err)
		}
		families[i] = &family{client: &e2e.Client{ID: "bare"}, handle: string(handle)}
	}
	return families
}

// bareHash hashes a password with the parameters of Signet, one at a time.
func bareHash() http.HandlerFunc {
	p := argon2id.Params{Memory: 19 << 10, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}
	var one sync.Mutex
	return func(w http.ResponseWriter, _ *http.Request) {
		one.Lock()
		defer one.Unlock()
		if _, err := argon2id.CreateHash("correct horse battery staple", &p); err != nil {
			panic(err)
		}
	}
}
