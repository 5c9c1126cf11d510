// Package clientdoc plays clients whose id is the URL of their metadata document, and
// clients that sign: the host of their documents, and their keys.
package clientdoc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// Host serves documents on a loopback port.
type Host struct {
	URL string

	mu      sync.Mutex
	bodies  map[string][]byte
	down    bool
	fetched map[string]int
}

// NewHost starts a host that ends with the test.
func NewHost(t testing.TB) *Host {
	t.Helper()
	h := &Host{bodies: map[string][]byte{}, fetched: map[string]int{}}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	h.URL = s.URL
	return h
}

func (h *Host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fetched[r.URL.Path]++
	body, ok := h.bodies[r.URL.Path]
	switch {
	case h.down:
		w.WriteHeader(http.StatusServiceUnavailable)
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	default:
		w.Header().Set("Content-Type", "application/json")
		w.Write(body)
	}
}

// Put serves v, or a string as it is, at path.
func (h *Host) Put(t testing.TB, path string, v any) (url string) {
	t.Helper()
	body, err := json.Marshal(v)
	if text, ok := v.(string); ok {
		body, err = []byte(text), nil
	}
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bodies[path] = body
	return h.URL + path
}

// Client serves the document of a client without keys, with the members of more in
// addition, and returns its id.
func (h *Host) Client(t testing.TB, path string, more map[string]any) (id string) {
	t.Helper()
	m := map[string]any{
		"client_id": h.URL + path, "client_name": "Client of a document", "redirect_uris": []string{"https://app.test/cb"}, "token_endpoint_auth_method": "none",
		"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"},
	}
	for name, v := range more {
		if m[name] = v; v == nil {
			delete(m, name)
		}
	}
	return h.Put(t, path, m)
}

// Down makes the host answer that it is out of order.
func (h *Host) Down(down bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = down
}

// Fetched returns how many requests for path came.
func (h *Host) Fetched(path string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fetched[path]
}

// Key is a key pair of a client, for ES256.
type Key struct {
	ID      string
	private *ecdsa.PrivateKey
}

// NewKey makes a key pair.
func NewKey(t testing.TB, id string) *Key {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &Key{id, k}
}

// Set returns the JWK Set with the public halves of keys.
func Set(t testing.TB, keys ...*Key) map[string]any {
	t.Helper()
	list := []any{}
	for _, k := range keys {
		point, err := k.private.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, map[string]any{"kty": "EC", "crv": "P-256", "kid": k.ID, "use": "sig", "alg": "ES256", "x": encode(point[1:33]), "y": encode(point[33:])})
	}
	return map[string]any{"keys": list}
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Assertion signs an assertion of the client for a minute, with the claims of more in
// addition.
func (k *Key) Assertion(t testing.TB, client, audience string, more map[string]any) string {
	t.Helper()
	now := time.Now().Unix()
	claims := map[string]any{"iss": client, "sub": client, "aud": audience, "jti": rand.Text(), "iat": now, "exp": now + 60}
	for name, v := range more {
		claims[name] = v
	}
	header, err := json.Marshal(map[string]string{"alg": "ES256", "kid": k.ID, "typ": "JWT"})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	text := encode(header) + "." + encode(payload)
	hash := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, k.private, hash[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + encode(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}
