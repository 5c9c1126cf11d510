package server_test

import (
	"errors"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signet/internal/seal"
	"signet/internal/state"
	"signet/internal/store"
	"signet/internal/test/pgtest"
	"signet/server"
)

// A replica that starts while the database is down serves what its files and flags allow,
// gives no verdict on tokens, and serves everything once the database is up. It makes no
// file, and the password is in no log.
func TestStartDuringOutageServesWhatNeedsNoStore(t *testing.T) {
	proxy := pgtest.NewProxy(t, pgtest.URL(t))
	proxy.Set(pgtest.Reset)
	u, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	log, dir := &safeBuffer{}, filepath.Join(t.TempDir(), "data")
	srv := newServer(t, func(o *server.Options) {
		o.DataDir, o.Store, o.Secret, o.Log = dir, proxy.URL, seal.NewSecret(), slog.New(slog.NewJSONHandler(log, nil))
	})
	post := func(path, form string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", srv.Issuer()+path, strings.NewReader(form))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		srv.Handler().ServeHTTP(w, r)
		return w
	}
	for path, want := range map[string]int{
		"/.well-known/oauth-authorization-server": 200,
		"/.well-known/oauth-protected-resource":   200,
		"/.well-known/jwks.json":                  503,
		"/.well-known/revoked":                    503,
		"/livez":                                  200,
		"/readyz":                                 503,
		"/authorize?client_id=x":                  503,
		"/account":                                503,
	} {
		if got := get(t, srv, path); got.Code != want {
			t.Errorf("GET %s: %d, want %d", path, got.Code, want)
		}
	}
	for _, path := range []string{"/token", "/oauth/token", "/revoke", "/introspect"} {
		if w := post(path, "grant_type=refresh_token&refresh_token=x&token=x&client_id=x"); w.Code != 503 || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "temporarily_unavailable") {
			t.Errorf("POST %s: %d %s, want 503 temporarily_unavailable", path, w.Code, w.Body)
		}
	}
	until(t, "a log line about signing keys", func() (any, bool) { return log, strings.Contains(log.String(), "signing keys") })
	if body := get(t, srv, "/readyz").Body.String(); !strings.Contains(body, `"store":"unavailable"`) || !strings.Contains(body, `"config":"ok"`) {
		t.Errorf("/readyz: %s; want the store as the reason, not a file", body)
	}
	if !strings.Contains(log.String(), "waiting for the store") || strings.Contains(log.String(), password) {
		t.Errorf("logged: %s", log)
	}
	proxy.Set(pgtest.Pass)
	until(t, "readiness after the outage", func() (any, bool) {
		ready := get(t, srv, "/readyz?require=store")
		return ready.Body, ready.Code == 200 && get(t, srv, "/.well-known/revoked").Code == 200
	})
	if w := get(t, srv, "/.well-known/jwks.json"); w.Code != 200 {
		t.Errorf("JWKS after the outage: %d", w.Code)
	}
	if w := post("/token", "grant_type=refresh_token&refresh_token=x&client_id=x"); w.Code == 503 {
		t.Errorf("POST /token after the outage: %d %s", w.Code, w.Body)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a data directory was made")
	}
}

// An outage that begins in the middle of a start ends no server: whichever answer of the
// database is the last one, the replica waits for it, and then serves everything.
func TestOutageInTheMiddleOfAStartEndsNoServer(t *testing.T) {
	proxy, secret := pgtest.NewProxy(t, pgtest.URL(t)), seal.NewSecret()
	start := func() *server.Server {
		return newServer(t, func(o *server.Options) { o.Store, o.Secret = proxy.URL, secret })
	}
	start().Close() // makes the tables
	for answers := 1; ; answers++ {
		proxy.ResetAfter(answers)
		srv := start()
		if proxy.Mode() == pgtest.Pass {
			if answers < 10 {
				t.Errorf("a start is over after %d answers", answers)
			}
			break
		}
		// A start may be complete when the outage comes: the revocation feed tells.
		if w := get(t, srv, "/authorize?client_id=x"); w.Code != 503 && get(t, srv, "/.well-known/revoked").Code == 503 {
			t.Errorf("an outage after %d answers: GET /authorize: %d, want 503, because the server does not know yet what is revoked", answers, w.Code)
		}
		if answers%8 == 0 {
			proxy.Set(pgtest.Pass)
			until(t, "readiness after the outage", func() (any, bool) {
				ready := get(t, srv, "/readyz?require=store")
				return ready.Body, ready.Code == 200
			})
			if w := get(t, srv, "/authorize?client_id=x"); w.Code == 503 {
				t.Errorf("an outage after %d answers: GET /authorize when the server is ready: 503", answers)
			}
		}
		srv.Close()
	}
}

// A server that waited for its database, and is then refused, stops with the reason.
func TestServerStopsWhenDatabaseRefusesItAfterAnOutage(t *testing.T) {
	proxy := pgtest.NewProxy(t, pgtest.URL(t))
	proxy.Set(pgtest.Reset)
	u, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("postgres", "hunter2")
	srv := newServer(t, func(o *server.Options) { o.Store, o.Secret = u.String(), seal.NewSecret() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(t.Context(), l) }()
	proxy.Set(pgtest.Pass)
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "SIGNET_STORE") || !strings.Contains(err.Error(), "check user and password") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v, want SIGNET_STORE, the reason and no password", err)
		}
	case <-time.After(time.Minute):
		t.Error("the server goes on")
	}
}

// With PostgreSQL the secret is a setting, the same for all replicas.
func TestPostgresNeedsTheSecret(t *testing.T) {
	o := server.Options{Check: check, DataDir: t.TempDir(), Store: pgtest.URL(t)}.Alone()
	if _, err := server.New(o); err == nil || !strings.Contains(err.Error(), "SIGNET_SECRET") {
		t.Errorf("no secret: %v, want an error that names SIGNET_SECRET", err)
	}
	o.Secret = seal.NewSecret()
	data := state.Data{Dir: o.DataDir, Secret: o.Secret, Store: o.Store}
	if fresh, err := state.Inspect(t.Context(), data); !fresh || err != nil {
		t.Errorf("before the first start: fresh %v, %v", fresh, err)
	}
	srv, err := server.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if fresh, err := state.Inspect(t.Context(), data); fresh || err != nil {
		t.Errorf("after the first start: fresh %v, %v", fresh, err)
	}
	if _, err := state.AcceptLoss(t.Context(), data); !errors.Is(err, store.ErrLocked) {
		t.Errorf("accepting a loss beside a server: %v, want ErrLocked", err)
	}
	other := o
	other.Secret = seal.NewSecret()
	if _, err := server.New(other); !errors.Is(err, store.ErrOtherRoot) {
		t.Errorf("a replica with another secret: %v, want ErrOtherRoot", err)
	}
	other.Secret += "," + o.Secret
	rotated, err := server.New(other)
	if err != nil {
		t.Fatalf("a replica in the middle of a rotation: %v", err)
	}
	if err := errors.Join(srv.Close(), rotated.Close()); err != nil {
		t.Fatal(err)
	}
	data.Secret = seal.NewSecret()
	did, err := state.AcceptLoss(t.Context(), data)
	for range 5 { // the database may notice late that both have closed
		if !errors.Is(err, store.ErrLocked) {
			break
		}
		did, err = state.AcceptLoss(t.Context(), data)
	}
	if err != nil || len(did) != 2 || !strings.Contains(did[1], "what was there is now in the schema signet_lost_") || strings.Contains(did[0]+did[1], "postgres://") {
		t.Errorf("accepting the loss of the secret: %q, %v", did, err)
	}
	other.Secret = data.Secret
	if srv, err = server.New(other); err != nil {
		t.Fatalf("after the loss was accepted: %v", err)
	}
	srv.Close()
}
