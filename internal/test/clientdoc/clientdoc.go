// Package clientdoc plays clients whose id is the URL of their metadata document, and
// clients that sign: the host of their documents, and their keys.
package clientdoc

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Host serves documents on a loopback port.
type Host struct {
	URL string
	CA  string // file with the certificate of a host of [NewTLSHost]

	mu      sync.Mutex
	bodies  map[string][]byte
	down    bool
	fetched map[string]int
}

// NewHost starts a host that ends with the test.
func NewHost(t testing.TB) *Host {
	t.Helper()
	return start(t, httptest.NewServer)
}

// NewTLSHost is NewHost for clients that accept the URL of a document only if it is https.
// A program trusts the host if SSL_CERT_FILE names its CA.
func NewTLSHost(t testing.TB) *Host {
	t.Helper()
	return start(t, httptest.NewTLSServer)
}

func start(t testing.TB, serve func(http.Handler) *httptest.Server) *Host {
	t.Helper()
	h := &Host{bodies: map[string][]byte{}, fetched: map[string]int{}}
	s := serve(h)
	t.Cleanup(s.Close)
	h.URL = s.URL
	if cert := s.Certificate(); cert != nil {
		h.CA = filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(h.CA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
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
