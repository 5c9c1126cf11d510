package cluster_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"signet/jwt"
)

// verifier is a resource server on another machine. It verifies with the published keys
// alone, which it caches for exactly as long as the headers allow and never fetches
// earlier. So it must never meet an unknown key.
type verifier struct {
	run      *run
	base     string
	verifier *jwt.Verifier

	mu    sync.Mutex
	keys  map[string]*ecdsa.PublicKey
	until time.Time
}

func newVerifier(r *run, base string) *verifier {
	v := &verifier{run: r, base: base}
	var err error
	v.verifier, err = jwt.NewVerifier(jwt.VerifierOptions{Issuer: r.c.URL, Audiences: []string{r.c.URL + "/mcp"}, Keys: v})
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

// verify verifies a valid access token, now and once more before it expires.
func (v *verifier) verify(access string) {
	_, err := v.verifier.Verify(context.Background(), access)
	switch {
	case errors.Is(err, jwt.ErrKeysUnavailable):
		return // the issuer did not answer
	case err != nil:
		v.run.breach("INV9: a verifier that has its keys from %s: %v", v.base, err)
	}
	v.run.look("INV9")
}

// Key implements [jwt.KeySource].
func (v *verifier) Key(_ context.Context, kid string) (*ecdsa.PublicKey, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !time.Now().Before(v.until) {
		if !v.fetch() {
			return nil, jwt.ErrKeysUnavailable
		}
	}
	key := v.keys[kid]
	if key == nil {
		return nil, jwt.ErrUnknownKey
	}
	return key, nil
}

// fetch gets the keys; their age counts from the request (RFC 9111 §4.2.3).
func (v *verifier) fetch() bool {
	r, err := http.NewRequest(http.MethodGet, v.base+"/.well-known/jwks.json", nil)
	if err != nil {
		panic(err)
	}
	began := time.Now()
	a := do(v.run.http, r)
	v.run.unavailable("JWKS", a)
	v.run.count("JWKS", v.base, a, began)
	if a.status != http.StatusOK {
		if a.ours() && a.status != 503 {
			v.run.breach("INV11: JWKS: %s", a.label())
		}
		return false
	}
	_, age, ok := strings.Cut(a.header.Get("Cache-Control"), "max-age=")
	seconds, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(age, ",", 2)[0]))
	if !ok || err != nil {
		v.run.breach("INV9: JWKS with Cache-Control %q", a.header.Get("Cache-Control"))
		return false
	}
	keys, err := v.read(a.body)
	if err != nil {
		v.run.breach("INV9: JWKS: %v", err)
		return false
	}
	v.keys, v.until = keys, began.Add(time.Duration(seconds)*time.Second)
	return true
}

// read reads a JWK Set, in which every kid names one key for ever.
func (v *verifier) read(body string) (map[string]*ecdsa.PublicKey, error) {
	var set struct {
		Keys []struct{ Kid, X, Y string }
	}
	if err := json.Unmarshal([]byte(body), &set); err != nil {
		return nil, err
	}
	keys := map[string]*ecdsa.PublicKey{}
	for _, k := range set.Keys {
		v.run.mu.Lock()
		if was := v.run.kids[k.Kid]; was != "" && was != k.X+k.Y {
			v.run.broken = append(v.run.broken, "INV9: kid "+k.Kid+" names two keys")
		}
		v.run.kids[k.Kid] = k.X + k.Y
		v.run.mu.Unlock()
		x, errX := base64.RawURLEncoding.DecodeString(k.X)
		y, errY := base64.RawURLEncoding.DecodeString(k.Y)
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
		if err := errors.Join(errX, errY, err); err != nil {
			return nil, err
		}
		keys[k.Kid] = key
	}
	return keys, nil
}
