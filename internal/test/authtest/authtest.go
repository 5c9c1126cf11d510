// Package authtest runs a whole authorization server in a test: real store, real keys,
// real signatures, with known users and clients, and a scripted browser that goes
// through its pages. Requests do not leave the process, so the package works inside
// testing/synctest.
//
// Rules for every answer are checked on every answer (see [Server.Do]).
package authtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/handlers"
	"signet/internal/clients"
	"signet/internal/denylist"
	"signet/internal/fetch"
	"signet/internal/seal"
	"signet/internal/store"
	"signet/internal/throttle"
	"signet/jwt"
	"signet/keys"
	"signet/users"
)

// The issuer and the resources.
const (
	Issuer    = "https://as.test"
	ResourceA = "https://mcp.test/a"
	ResourceB = "https://mcp.test/b"
)

// Config are the settings that a test may change. New fills in the zero fields.
type Config struct {
	Issuer        string
	Resources     []string
	Scopes        []string
	DefaultScopes []string
	Users         handlers.Users // nil: a [Users] with alice and bob

	Lives        handlers.Lives
	Limits       handlers.Limits // none
	Registration handlers.Registration

	Fetcher *fetch.Fetcher // of clients' documents; nil: none are fetched
	Pinned  []string       // files with such documents
	Quirks  string         // file of quirks; empty: the built-in ones

	Change func(*handlers.Options) // optional: changes any other option

	Database string // URL of an empty PostgreSQL database; empty: a SQLite file
}

// Client is a known client of the server.
type Client struct {
	ID, Secret, RedirectURI string
}

// Server is a running authorization server and its parts.
type Server struct {
	http.Handler
	Config   Config
	Ring     *seal.Keyring
	Store    *store.Store
	Keys     *keys.Set
	Denylist *denylist.List
	Clients  *clients.Registry
	Verifier *jwt.Verifier
	Throttle *throttle.Logins
	Users    *Users // nil if Config.Users was set
	Log      *Log

	PUB, PUB2 Client // registered, public, https
	NAT, LOC  Client // registered, public, on 127.0.0.1 and on localhost
	CONF      Client // configured, with a secret that is short enough for a person's, HTTP Basic
	PRE       Client // configured, public, https

	dir      string
	draining bool
}

// New starts a server that ends with the test.
func New(t testing.TB, change ...func(*Config)) *Server {
	t.Helper()
	c := Config{
		Issuer: Issuer, Resources: []string{ResourceA}, Scopes: []string{"mcp:read", "mcp:write", "admin"}, DefaultScopes: []string{"mcp:read"},
		Lives:  handlers.DefaultLives,
		Limits: handlers.Limits{Authorize: -1, Login: -1, Register: -1, RegisterAll: -1, WrongSecret: -1, TokensGrant: -1, TokensClient: -1},
	}
	for _, f := range change {
		f(&c)
	}
	s := &Server{Config: c, Log: &Log{}, dir: t.TempDir()}
	if c.Users == nil {
		s.Users = NewUsers()
		s.Config.Users = s.Users
	}
	var err error
	if s.Ring, err = seal.Parse(seal.NewSecret()); err != nil {
		t.Fatal(err)
	}
	if err := store.Create(t.Context(), s.storeOptions(), s.Ring.Fingerprint()); err != nil {
		t.Fatal(err)
	}
	s.CONF = Client{ID: "conf", Secret: rand.Text(), RedirectURI: "https://conf.test/cb"}
	s.PRE = Client{ID: "pre", RedirectURI: "https://pre.test/cb"}
	s.open(t)
	t.Cleanup(func() {
		s.close(t)
		s.Log.check(t)
	})
	s.Log.Forbid(s.CONF.Secret)
	s.PUB = s.Register(t, "https://app.test/cb")
	s.PUB2 = s.Register(t, "https://app.test/cb")
	s.NAT = s.Register(t, "http://127.0.0.1:8080/cb")
	s.LOC = s.Register(t, "http://localhost:1455/cb")
	return s
}

func (s *Server) storeOptions() store.Options {
	if s.Config.Database != "" {
		return store.Options{Path: s.Config.Database, Serve: true}
	}
	return store.Options{Path: filepath.Join(s.dir, "signet.db"), Mirror: filepath.Join(s.dir, "mirror"), Serve: true}
}

// open makes the parts of the server from the files in the directory.
func (s *Server) open(t testing.TB) {
	t.Helper()
	ctx, log, c := context.WithoutCancel(t.Context()), slog.New(slog.NewJSONHandler(s.Log, &slog.HandlerOptions{Level: slog.LevelDebug})), s.Config
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	s.Store, err = store.Open(ctx, s.storeOptions())
	fail(err)
	s.Keys, err = keys.Open(ctx, keys.Options{Store: s.Store, Ring: s.Ring, Rotation: 24 * time.Hour, TokenTTL: c.Lives.Access, Log: log})
	fail(err)
	s.Denylist, err = denylist.New(ctx, denylist.Options{Store: s.Store, Window: c.Lives.Window(), Skew: jwt.Leeway, Keep: c.Lives.Access + jwt.Leeway, Log: log})
	fail(err)
	s.Clients, err = clients.Open(clients.Options{
		Path: filepath.Join(s.dir, "clients.json"), Ring: s.Ring, Scopes: c.Scopes, Default: c.DefaultScopes,
		Demo: []clients.Client{
			{ID: s.CONF.ID, Name: "Confidential", RedirectURIs: []string{s.CONF.RedirectURI}, Method: "client_secret_basic", GrantTypes: bothGrants},
			{ID: s.PRE.ID, Name: "Preregistered", RedirectURIs: []string{s.PRE.RedirectURI}, Method: "none", GrantTypes: bothGrants},
		},
		DemoSecrets: map[string]string{s.CONF.ID: s.CONF.Secret},
		Blocked:     func(id string) bool { return s.Denylist.Blocked()[seal.ClientHash(id)] },
		Fetcher:     c.Fetcher, Pinned: c.Pinned, Quirks: c.Quirks, Audiences: []string{c.Issuer, c.Issuer + "/token"}, Once: s.Denylist.Once,
	})
	fail(err)
	s.Verifier, err = jwt.NewVerifier(jwt.VerifierOptions{Issuer: c.Issuer, Audiences: c.Resources, Keys: s.Keys, Revoked: s.Denylist.Revoked, RevokedKnown: s.Denylist.Known})
	fail(err)
	s.Throttle = throttle.NewLogins(s.Store, log)
	options := handlers.Options{
		Issuer: c.Issuer, App: "Test App", Ring: s.Ring, Store: s.Store, Keys: s.Keys, Denylist: s.Denylist, Throttle: s.Throttle, Clients: s.Clients, Users: c.Users,
		Signer: jwt.NewSigner(s.Keys.Signing), Verifier: s.Verifier, Resources: c.Resources, Scopes: c.Scopes, DefaultScopes: c.DefaultScopes,
		Lives: c.Lives, Limits: c.Limits, Registration: c.Registration,
		Draining: func() bool { return s.draining }, Log: log,
	}
	if c.Change != nil {
		c.Change(&options)
	}
	s.Handler, err = handlers.New(options)
	fail(err)
}

var bothGrants = []string{"authorization_code", "refresh_token"}

func (s *Server) close(t testing.TB) {
	t.Helper()
	if err := s.Store.Close(); err != nil {
		t.Errorf("closing the store: %v", err)
	}
}

// Restart closes the server and starts another one on the same files.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.close(t)
	s.open(t)
}

// StopStore makes the store fail until Restart.
func (s *Server) StopStore(t testing.TB) {
	t.Helper()
	s.close(t)
}

// Drain makes the server announce that it is about to stop.
func (s *Server) Drain() { s.draining = true }

// Register registers a public client with the redirect URIs.
func (s *Server) Register(t testing.TB, redirectURIs ...string) Client {
	t.Helper()
	return s.RegisterAs(t, "App <b>One</b>", redirectURIs...)
}

// RegisterAs is Register with a client name.
func (s *Server) RegisterAs(t testing.TB, name string, redirectURIs ...string) Client {
	t.Helper()
	body, err := json.Marshal(map[string]any{
		"client_name": name, "redirect_uris": redirectURIs, "token_endpoint_auth_method": "none", "grant_types": bothGrants,
		"scope": strings.Join(s.Config.Scopes, " "),
	})
	if err != nil {
		t.Fatal(err)
	}
	r := s.Post(t, "/register", "application/json", string(body))
	if r.StatusCode != http.StatusCreated {
		t.Fatalf("registering %v: %d %s", redirectURIs, r.StatusCode, r.Body)
	}
	return Client{ID: r.JSON(t)["client_id"].(string), RedirectURI: redirectURIs[0]}
}

// Log keeps what the server logs.
type Log struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	secrets []string
}

// Write takes one record.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

// String returns all that was logged.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Forbid names strings that must not be in the log when the test ends.
func (l *Log) Forbid(secrets ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.secrets = append(l.secrets, secrets...)
}

func (l *Log) check(t testing.TB) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.secrets {
		if s != "" && strings.Contains(l.buf.String(), s) {
			t.Errorf("a secret is in the log: %.12s...", s)
		}
	}
}

// Audit returns the audit records of an event, oldest first.
func (l *Log) Audit(t testing.TB, event string) []map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var records []map[string]any
	for line := range strings.Lines(l.buf.String()) {
		var r map[string]any
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("a log line is not one JSON object: %q", line)
		}
		if r["msg"] == "audit" && r["event"] == event {
			records = append(records, r)
		}
	}
	return records
}

// Users are resource owners in memory. Alice has all scopes except admin, Bob has only
// the defaults.
type Users struct {
	mu     sync.Mutex
	byName map[string]*Account
}

// Account is a user and the password.
type Account struct {
	users.User
	Password string
}

// NewUsers returns alice and bob.
func NewUsers() *Users {
	return &Users{byName: map[string]*Account{
		"alice": {users.User{Subject: "alice", Name: "alice", Email: "alice@example.com", Scopes: []string{"mcp:read", "mcp:write"}, Version: "1"}, "correct horse alice"},
		"bob":   {users.User{Subject: "bob", Name: "bob", Version: "1"}, "correct horse bob"},
	}}
}

// Change changes or, if f returns false, removes a user.
func (u *Users) Change(name string, f func(*Account) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if a := u.byName[name]; a != nil && !f(a) {
		delete(u.byName, name)
	}
}

// Check implements handlers.Users. For the names "busy" and "broken" the source is
// overloaded or fails.
func (u *Users) Check(_ context.Context, name, password string) (users.User, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch name {
	case "busy":
		return users.User{}, users.ErrBusy
	case "broken":
		return users.User{}, errors.New("disk on fire")
	case "panic":
		panic("a user check with a bug")
	}
	if a := u.byName[name]; a != nil && a.Password == password {
		return a.User, nil
	}
	return users.User{}, users.ErrInvalid
}

// Lookup implements handlers.Users.
func (u *Users) Lookup(_ context.Context, subject string) (users.User, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if a := u.byName[subject]; a != nil {
		return a.User, nil
	}
	return users.User{}, users.ErrUnknown
}

// Replica starts another server with the same secret, users and clients, on the same
// database. A URL, if given, is used in place of the database's own.
func (s *Server) Replica(t testing.TB, database string) *Server {
	t.Helper()
	r := *s
	if database != "" {
		r.Config.Database = database
	}
	r.open(t)
	t.Cleanup(func() { r.close(t) })
	return &r
}

// Reopen starts the server again after StopStore.
func (s *Server) Reopen(t testing.TB) {
	t.Helper()
	s.open(t)
}

// NewStore replaces the store by an empty one, with another epoch.
func (s *Server) NewStore(t testing.TB) {
	t.Helper()
	s.close(t)
	s.dir = t.TempDir()
	if err := store.Create(t.Context(), s.storeOptions(), s.Ring.Fingerprint()); err != nil {
		t.Fatal(err)
	}
	s.open(t)
}

// Generation names the grant and the generation of a refresh handle: two handles
// of one generation may be different strings.
func (s *Server) Generation(t testing.TB, handle string) string {
	t.Helper()
	h, err := seal.Open[seal.Refresh](s.Ring, handle)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(h.Grant.ID, " ", h.Gen)
}

// Configure adds a client to the file of clients and starts the server again.
func (s *Server) Configure(t testing.TB, spec clients.Spec) Client {
	t.Helper()
	c, secret, err := clients.File{Path: filepath.Join(s.dir, "clients.json")}.Add(t.Context(), s.Ring, spec)
	if err != nil {
		t.Fatal(err)
	}
	s.Log.Forbid(secret)
	s.Restart(t)
	added := Client{ID: c.ID, Secret: secret}
	if len(c.RedirectURIs) > 0 {
		added.RedirectURI = c.RedirectURIs[0]
	}
	return added
}

// RemoveClient removes a client from the file of clients. The server notices when it is started
// again.
func (s *Server) RemoveClient(ctx context.Context, id string) error {
	return clients.File{Path: filepath.Join(s.dir, "clients.json")}.Remove(ctx, id)
}
