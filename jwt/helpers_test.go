package jwt_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"sync/atomic"
	"testing"
	"time"

	"signet/jwt"
)

const (
	issuer   = "https://auth.test"
	resource = "https://mcp.test/a"
	keyID    = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
)

var b64 = base64.RawURLEncoding.EncodeToString

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// keySource is a published set that a test can change. It counts its calls.
type keySource struct {
	keys  atomic.Pointer[map[string]*ecdsa.PublicKey]
	calls atomic.Int64
	err   error
}

func (k *keySource) Key(_ context.Context, kid string) (*ecdsa.PublicKey, error) {
	k.calls.Add(1)
	if k.err != nil {
		return nil, k.err
	}
	if key := (*k.keys.Load())[kid]; key != nil {
		return key, nil
	}
	return nil, jwt.ErrUnknownKey
}

func publish(kid string, key *ecdsa.PrivateKey) *keySource {
	k := &keySource{}
	k.keys.Store(&map[string]*ecdsa.PublicKey{kid: &key.PublicKey})
	return k
}

// world is an issuer and a verifier that know the same key.
type world struct {
	key      *ecdsa.PrivateKey
	source   *keySource
	signer   *jwt.Signer
	verifier *jwt.Verifier
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{key: newKey(t)}
	w.source = publish(keyID, w.key)
	w.signer = jwt.NewSigner(func(time.Time) (jwt.SigningKey, error) {
		return jwt.SigningKey{ID: keyID, Private: w.key}, nil
	})
	w.verifier = newVerifier(t, jwt.VerifierOptions{Keys: w.source})
	return w
}

func newVerifier(t testing.TB, o jwt.VerifierOptions) *jwt.Verifier {
	t.Helper()
	if o.Issuer == "" {
		o.Issuer = issuer
	}
	if o.Audiences == nil {
		o.Audiences = []string{resource, "https://mcp.test/b"}
	}
	v, err := jwt.NewVerifier(o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func goodClaims() jwt.Claims {
	now := time.Now()
	return jwt.Claims{
		Issuer: issuer, Subject: "alice", Audience: resource, ClientID: "client", Scope: "read write",
		IssuedAt: now.Unix(), ExpiresAt: now.Add(5 * time.Minute).Unix(), AuthTime: now.Unix(), GrantID: "grant",
	}
}

func (w *world) token(t testing.TB, change func(*jwt.Claims)) string {
	t.Helper()
	c := goodClaims()
	if change != nil {
		change(&c)
	}
	raw, err := w.signer.Sign(c, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func goodHeader() map[string]any {
	return map[string]any{"alg": "ES256", "typ": "at+jwt", "kid": keyID}
}

func goodPayload() map[string]any {
	now := time.Now().Unix()
	return map[string]any{
		"iss": issuer, "sub": "alice", "aud": resource, "client_id": "client", "scope": "read",
		"iat": now, "exp": now + 300, "jti": "1", "gid": "grant",
	}
}

func marshal(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// handmade signs any header and payload, also such that the Signer refuses.
func handmade(t testing.TB, key *ecdsa.PrivateKey, header, payload string) string {
	t.Helper()
	signed := b64([]byte(header)) + "." + b64([]byte(payload))
	return signed + "." + b64(rawSignature(t, key, signed))
}

func rawSignature(t testing.TB, key *ecdsa.PrivateKey, signed string) []byte {
	t.Helper()
	hash := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, hash[:])
	if err != nil {
		t.Fatal(err)
	}
	return concat(r, s)
}

func concat(r, s *big.Int) []byte {
	var b [64]byte
	r.FillBytes(b[:32])
	s.FillBytes(b[32:])
	return b[:]
}
