package server_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"signet/internal/seal"
	"signet/internal/test/pgtest"
	"signet/server"
)

// issuerAt returns the URL of an issuer whose requests h answers.
func issuerAt(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	front := httptest.NewServer(h)
	t.Cleanup(func() {
		front.CloseClientConnections()
		front.Close()
	})
	return front.URL
}

const otherEpoch = "AAAAAAAAAAAAAAAA"

// The error says why, and what to do. Other answers, or no answer, do not stop the start.
func TestAnotherStoreBehindTheIssuerStopsTheStart_M04(t *testing.T) {
	elsewhere := issuerAt(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"epoch":%q}`, otherEpoch) })
	for _, tt := range []struct {
		name    string
		answer  http.HandlerFunc
		refused bool
	}{
		{"another store", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"status":"ok","epoch":%q}`, otherEpoch) }, true},
		{"another store, draining", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(503)
			fmt.Fprintf(w, `{"status":"draining","epoch":%q}`, otherEpoch)
		}, true},
		{"a release that shows no epoch", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"status":"ok"}`) }, false},
		{"a server that waits for its store", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"epoch":""}`) }, false},
		{"an epoch of another form", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"epoch":"1970"}`) }, false},
		{"an epoch of another type", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"epoch":1}`) }, false},
		{"a proxy without a server", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "Bad Gateway", http.StatusBadGateway) }, false},
		{"a page", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>welcome</html>") }, false},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere, http.StatusFound) }, false},
		{"an endless answer", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := fmt.Fprint(w, `{"status":"`, strings.Repeat("x", 4<<10)); err != nil {
					return
				}
			}
		}, false},
		{"no answer", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			issuer := issuerAt(t, tt.answer)
			o := server.Options{Check: check, Issuer: issuer, DataDir: filepath.Join(t.TempDir(), "data")}
			began := time.Now()
			srv, err := server.New(o)
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("the start took %v, want at most 10 s", took)
			}
			if !tt.refused {
				if err != nil {
					t.Fatal(err)
				}
				srv.Close()
				return
			}
			if err == nil {
				srv.Close()
				t.Fatal("it started")
			}
			for _, want := range []string{issuer, otherEpoch, "SIGNET_STORE", "SIGNET_ISSUER"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not name %s", err, want)
				}
			}
		})
	}
}

// It is the same after a restart, another one for another store, and never the epoch itself.
func TestReadinessShowsAFingerprintOfTheStore_M04(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	var shown []string
	for _, d := range []string{dir, dir, dir + "2"} {
		srv := newServer(t, func(o *server.Options) { o.DataDir = d })
		_, doc := readiness(t, srv)
		shown = append(shown, doc.Epoch)
		srv.Close()
	}
	if len(shown[0]) != 16 || shown[1] != shown[0] || shown[2] == shown[0] {
		t.Errorf("the fingerprints of one store, the same and another are %q", shown)
	}
}

// Replicas of one database start behind the issuer that the first of them serves. A replica
// that starts while the database is down finds out later that the issuer leads to another
// store, logs it, and is ready again when the other server is gone.
func TestReplicasBehindOneIssuerShareAStore_M04(t *testing.T) {
	proxy := pgtest.NewProxy(t, pgtest.URL(t))
	var front atomic.Pointer[http.Handler]
	other := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"epoch":%q}`, otherEpoch) }))
	none := http.NotFoundHandler()
	front.Store(&none)
	issuer := issuerAt(t, func(w http.ResponseWriter, r *http.Request) { (*front.Load()).ServeHTTP(w, r) })
	secret, log := seal.NewSecret(), &safeBuffer{}
	replica := func() *server.Server {
		return newServer(t, func(o *server.Options) {
			*o = server.Options{App: "my-app", Check: check, DataDir: o.DataDir}
			o.Issuer, o.Store, o.Secret, o.Log = issuer, proxy.URL, secret, slog.New(slog.NewJSONHandler(log, nil))
			o.AskAgain(10 * time.Millisecond)
		})
	}
	first := replica()
	handler := first.Handler()
	front.Store(&handler)
	second := replica()
	for _, srv := range []*server.Server{first, second} {
		if status, doc := readiness(t, srv); status != 200 || doc.Epoch == "" {
			t.Errorf("a replica: %d %+v", status, doc)
		}
	}

	proxy.Set(pgtest.Reset)
	front.Store(&other)
	third := replica()
	if _, doc := readiness(t, third); doc.Epoch != "" {
		t.Errorf("without a store: %+v", doc)
	}
	proxy.Set(pgtest.Pass)
	status := func(want string) func() (any, bool) {
		return func() (any, bool) { _, doc := readiness(t, third); return doc, strings.Contains(doc.Status, want) }
	}
	until(t, "a status that names another store", status("another store"))
	if status, _ := readiness(t, third); status != 503 {
		t.Errorf("/readyz beside another store: %d, want 503", status)
	}
	if !strings.Contains(log.String(), otherEpoch) {
		t.Errorf("logged: %s", log)
	}
	front.Store(&none)
	until(t, "the status ok", status("ok"))
}
