package server_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/server"
	"signet/users"
)

func check(_ context.Context, name, password string) (users.User, error) {
	if name == "alice" && password == "cows" {
		return users.User{Subject: "1", Name: name}, nil
	}
	return users.User{}, users.ErrInvalid
}

func newServer(t testing.TB, change func(*server.Options)) *server.Server {
	t.Helper()
	o := server.Options{App: "my-app", Check: check, DataDir: filepath.Join(t.TempDir(), "data")}.Alone()
	if change != nil {
		change(&o)
	}
	srv, err := server.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	return srv
}

func get(t testing.TB, srv *server.Server, path string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest("GET", srv.Issuer()+path, nil)
	w := httptest.NewRecorder()
	srv.Handler().ServeHTTP(w, r)
	return w
}

// serving runs srv on a free port; stop ends it and returns the result of Serve.
func serving(t testing.TB, srv *server.Server) (base string, stop func() error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, srv, l)
}

// listening is like serving, on the listener that the options name.
func listening(t *testing.T, srv *server.Server) (base string, stop func() error) {
	t.Helper()
	l, err := srv.Listen()
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, srv, l)
}

func serveOn(t testing.TB, srv *server.Server, l net.Listener) (base string, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, l) }()
	return "http://" + l.Addr().String(), sync.OnceValue(func() error { cancel(); return <-done })
}

// grep returns the lines of s that contain word.
func grep(s, word string) string {
	var out []string
	for line := range strings.Lines(s) {
		if strings.Contains(line, word) {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// safeBuffer is a log that several goroutines write.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// health is the answer of /readyz.
type health struct {
	Status, Config, Epoch string
	Users, Clients        *int
}

func readiness(t *testing.T, srv *server.Server) (status int, doc health) {
	t.Helper()
	w := get(t, srv, "/readyz")
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatalf("/readyz: %s: %v", w.Body, err)
	}
	return w.Code, doc
}

func selfSigned(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// until waits until fact holds. It fails the test with what fact has seen last.
func until(t testing.TB, want string, fact func() (seen any, holds bool)) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		seen, holds := fact()
		if holds {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("seen %v, want %s", seen, want)
		}
	}
}
