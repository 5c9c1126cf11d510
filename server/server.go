// Package server puts the parts together: the authorization server, the MCP
// endpoint, or both in one process. It is what `signet serve` runs, and what a Go
// program imports that has a user check and wants the rest.
//
//	srv, err := server.New(server.Options{App: "my-app", Check: check})
//	...
//	sdk.AddTool(srv.MCP, &sdk.Tool{Name: "echo"}, echo)
//	err = srv.ListenAndServe(ctx)
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/handlers"
	"signet/handlers/pages"
	"signet/internal/admission"
	"signet/internal/chaos"
	"signet/internal/clients"
	"signet/internal/denylist"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/internal/state"
	"signet/internal/store"
	"signet/internal/throttle"
	"signet/jwt"
	"signet/keys"
	"signet/mcp"
	"signet/users"
)

// Roles are what a process may be: everything, the authorization server alone, or
// the resource server alone, which needs an issuer and holds no secret.
var Roles = []string{"all", "auth", "mcp"}

// Groups of settings, under this package's name so that a program imports no other.
type (
	Lives        = handlers.Lives
	Limits       = handlers.Limits
	Registration = handlers.Registration
	Pages        = pages.Options
)

// Strict, as Lives.Replay, makes refresh handles single use without exception.
const Strict = handlers.Strict

// Version is what the program says it is.
const Version = "0.1.0"

// Options say what to serve. The zero value of every field is a sensible default.
type Options struct {
	App   string          // name on pages and in the MCP handshake; Signet
	Check users.CheckFunc // who may sign in; nil: the users file

	Issuer          string // public base URL; http://localhost:8080
	Listen          string // 127.0.0.1:8080
	TLSCert, TLSKey string // PEM files; empty: plain HTTP, for a proxy or loopback
	Role            string // one of Roles; all

	Resources []string // identifiers that tokens may name, the first is the default; <issuer>/mcp

	DataDir     string // secret, mirror and, unless named below, the rest; data
	Secret      string // root secrets in place of the file (see seal.Parse)
	Store       string // SQLite file, or URL of a PostgreSQL database (then Secret must be set); signet.db in DataDir
	UsersFile   string // users in DataDir
	ClientsFile string // clients.json in DataDir

	GroupMayRead bool // secret, users, clients and key files may be readable by their group, as mounted secrets are

	Scopes         []string // that exist; read write admin
	DefaultScopes  []string // of who names none; the first of Scopes
	RequiredScopes []string // of every MCP request; none
	ScopeHierarchy string   // which scopes imply which (see mcp.ParseHierarchy); mcp.DefaultHierarchy
	PublicTools    []string // tools that need no login, unless they need a scope; none

	Lives        Lives        // of codes, tokens and grants; handlers.DefaultLives
	Limits       Limits       // requests a minute; handlers.DefaultLimits
	Registration Registration // who may register a client; everybody
	Pages        Pages        // how the pages look

	KeyRotation time.Duration // 24 h
	KeysDir     string        // the operator's own signing keys; empty: made in the store

	LoginPath    string                // where the login page is; /login
	LoginHandler handlers.LoginHandler // the program's own login page

	TrustedProxies []netip.Prefix // whose X-Forwarded-For counts; none
	MCPOrigins     []string       // browser origins that may call the MCP endpoint; the issuer's

	RevocationPoll   time.Duration // of role mcp: between two looks at the issuer's revocation feed; 10 s
	RevocationMaxAge time.Duration // of role mcp: beyond this age of the feed no token is accepted; 0: tokens are accepted until they expire

	MaxConnections int // open at the same time; more are closed at once; 10,000

	MetricsListen   string // metrics and pprof; empty: none
	MetricsOptional bool   // a busy MetricsListen is a warning, not an error

	DrainDelay time.Duration // see ListenAndServe; 5 s, 500 ms when the issuer is loopback
	Demo       bool          // adds demo_user and demo_client, in memory only, for a loopback issuer
	Chaos      uint64        // a seed: lose, refuse and distort answers on purpose, for authors of clients, on a loopback issuer; 0: do not
	Log        *slog.Logger  // nil: none

	askAgain time.Duration // in tests: other than askAgain
	alone    bool          // in tests: whatever else runs on this machine, nobody has this issuer
}

// Server is a running set of parts. Make it with New, end it with Close.
type Server struct {
	// MCP takes the tools, before or while the server runs. A process of role auth
	// does not serve it.
	MCP *sdk.Server

	o         Options
	hierarchy mcp.Hierarchy
	access    mcp.Access
	handler   http.Handler
	endpoints []*mcp.Endpoint
	draining  atomic.Bool
	open      atomic.Int64 // connections
	metrics   *metrics
	classes   *admission.Classes

	otherStore atomic.Bool // the issuer leads to a server with another store

	// What role mcp has.
	remote *jwt.RemoteKeys
	feed   *jwt.RevocationFeed

	// What role all and auth have.
	state    *state.State
	store    *store.Store
	ring     *seal.Keyring
	keys     *keys.Set
	denylist *denylist.List
	throttle *throttle.Logins
	clients  *clients.Registry
	users    handlers.Users
	// usersFile is users when they come from the file.
	usersFile *users.File

	reload chan struct{} // asks watchFiles to look now
	stop   context.CancelFunc
	runs   sync.WaitGroup
}

// New opens what the role needs and starts the work that goes on behind the
// requests. It makes the data directory's content on a first start (see docs/operations.md).
func New(o Options) (*Server, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	hierarchy, err := mcp.ParseHierarchy(o.ScopeHierarchy, o.Scopes)
	if err != nil {
		return nil, fmt.Errorf("scope hierarchy: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{o: o, hierarchy: hierarchy, stop: stop, reload: make(chan struct{}, 1), MCP: mcp.NewServer(o.App, Version), metrics: newMetrics(), classes: admission.New()}
	s.metrics.publishClasses(s.classes)
	s.access.WithoutLogin(o.PublicTools...)
	if err := s.build(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if o.Chaos != 0 {
		s.handler = chaos.Handler(o.Chaos, o.Log, s.handler)
		s.run(ctx, func(ctx context.Context) { chaos.Warn(ctx, o.Chaos, o.Log) })
	}
	return s, nil
}

func (s *Server) build(ctx context.Context) error {
	if s.o.Role == "mcp" {
		if err := s.followIssuer(ctx); err != nil {
			return err
		}
		return s.route(nil, jwt.VerifierOptions{Issuer: s.o.Issuer, Keys: s.remote, Feed: s.feed})
	}
	if err := s.openState(ctx); err != nil {
		return err
	}
	authorization, err := s.authorizationServer()
	if err != nil {
		return err
	}
	return s.route(authorization, s.verification())
}

// openState opens, in import order, what the authorization server keeps.
func (s *Server) openState(ctx context.Context) (err error) {
	o := &s.o
	theirs := make(chan string, 1)
	s.run(ctx, func(ctx context.Context) { theirs <- s.askIssuer(ctx) })
	data := state.Data{Dir: o.DataDir, Secret: o.Secret, Store: o.Store, GroupMayRead: o.GroupMayRead}
	if s.state, err = state.Open(ctx, data, o.Log); err != nil {
		return err
	}
	s.store, s.ring = s.state.Store, s.state.Ring
	s.run(ctx, s.state.Run)
	s.run(ctx, s.watchClocks)
	if err := s.compareStores(<-theirs); err != nil {
		return err
	}
	s.run(ctx, s.watchIssuer)
	if o.KeysDir != "" {
		readDir := keys.ReadDir
		if o.GroupMayRead {
			readDir = keys.ReadMounted
		}
		s.keys, err = readDir(o.KeysDir, o.Lives.Access, o.Log)
	} else {
		s.keys, err = keys.Open(ctx, keys.Options{Store: s.store, Ring: s.ring, Rotation: o.KeyRotation, TokenTTL: o.Lives.Access, Log: o.Log})
	}
	if err != nil {
		return err
	}
	s.run(ctx, s.keys.Run)
	s.denylist, err = denylist.New(ctx, denylist.Options{Store: s.store, Window: o.Lives.Window(), Skew: jwt.Leeway, Keep: o.Lives.Access + jwt.Leeway, Log: o.Log})
	if err != nil {
		return err
	}
	s.run(ctx, s.denylist.Run)
	s.throttle = throttle.NewLogins(s.store, o.Log)
	s.run(ctx, s.throttle.Run)
	if err := s.openUsers(); err != nil {
		return err
	}
	if s.clients, err = clients.Open(o.clientOptions(s.ring)); err != nil {
		return err
	}
	s.run(ctx, s.watchFiles)
	s.publishGauges()
	return nil
}

// openUsers takes the program's own check, or the users file, to which a demo adds
// its user.
func (s *Server) openUsers() (err error) {
	if s.o.Check != nil {
		s.users = s.o.Check
		return nil
	}
	openFile := users.OpenFile
	if s.o.GroupMayRead {
		openFile = users.OpenMounted
	}
	if s.usersFile, err = openFile(s.o.UsersFile); err != nil {
		return err
	}
	if err := checkMemory(os.DirFS("/"), s.usersFile.Stats()); err != nil {
		return err
	}
	s.usersFile.RestAfter(s.classes.Rest)
	s.users = s.usersFile
	if s.o.Demo {
		s.users = demoUsers{s.usersFile}
	}
	return nil
}

// stale says which file was changed into something that cannot be used, while the
// earlier content stays in force. That the store is away, with the keys in it, is
// another matter, which is told as such.
func (s *Server) stale() error {
	keys := s.keys.Stale()
	if errors.Is(keys, store.ErrUnavailable) {
		keys = nil
	}
	return errors.Join(s.staleFiles(), s.state.Stale(), keys)
}

// publishGauges shows operators what the parts count.
func (s *Server) publishGauges() {
	gauge := s.metrics.gauge
	gauge("signet_grants_reused", "Grants revoked because a code or a refresh handle was used again.", func() float64 { return float64(s.denylist.Stats().Reused) })
	gauge("signet_grants_rolled_back", "Handles that prove that the store was rolled back.", func() float64 { return float64(s.denylist.Stats().RolledBack) })
	gauge("signet_rows_pruned", "Rows forgotten after their time.", func() float64 { return float64(s.denylist.Stats().Pruned) })
	gauge("signet_logins_throttled", "Logins refused because too many had failed.", func() float64 { return float64(s.throttle.Stats().Refused) })
	apart := s.store.ClocksApart
	gauge("signet_clocks_apart_seconds", "How far the clocks of the servers and of the database are apart.", func() float64 { return apart().Seconds() })
	gauge("signet_config_stale", "1 while a changed file cannot be used.", func() float64 {
		if s.stale() != nil {
			return 1
		}
		return 0
	})
	if f := s.usersFile; f != nil {
		gauge("signet_password_hashes", "Password hashes computed.", func() float64 { return float64(f.Stats().Hashes) })
		gauge("signet_password_hashes_running", "Password hashes being computed.", func() float64 { return float64(f.Stats().Running) })
		gauge("signet_password_hashes_waiting", "Logins waiting for a hash.", func() float64 { return float64(f.Stats().Waiting) })
	}
}

// verification is what a verifier in the process of the authorization server asks.
func (s *Server) verification() jwt.VerifierOptions {
	return jwt.VerifierOptions{Issuer: s.o.Issuer, Keys: s.keys, Revoked: s.denylist.Revoked, RevokedKnown: s.denylist.Known}
}

func (s *Server) authorizationServer() (*handlers.Handler, error) {
	o := &s.o
	verify := s.verification()
	verify.Audiences = o.Resources
	verifier, err := jwt.NewVerifier(verify)
	if err != nil {
		return nil, err
	}
	h := handlers.Options{
		Issuer: o.Issuer, App: o.App, Ring: s.ring, Store: s.store, Keys: s.keys, Denylist: s.denylist, Throttle: s.throttle, Clients: s.clients, Users: s.users,
		Signer: jwt.NewSigner(s.keys.Signing), Verifier: verifier,
		Resources: o.Resources, Scopes: o.Scopes, DefaultScopes: o.DefaultScopes,
		Lives: o.Lives, Limits: o.Limits, Registration: o.Registration, Pages: o.Pages, LoginPath: o.LoginPath, LoginHandler: o.LoginHandler, Admission: s.classes,
		Draining: s.draining.Load, OtherStore: s.otherStore.Load, Stale: s.stale, ClocksDiffer: s.clocksDiffer, ClientIP: clientIP, Log: o.Log,
	}
	if f := s.usersFile; f != nil {
		s.classes.Logins(f.Stats().Most)
		h.EndSessions = f.SignOut
		h.ChangePassword = func(ctx context.Context, subject, old, next string) (users.User, error) {
			return f.ChangePassword(ctx, subject, old, next, o.App)
		}
	}
	return handlers.New(h)
}

// run starts work that Close ends and waits for.
func (s *Server) run(ctx context.Context, f func(context.Context)) {
	s.runs.Go(func() { f(ctx) })
}

// Close ends the background work and closes the store. The server must not be
// serving any more. Closing twice is fine.
func (s *Server) Close() error {
	s.stop()
	s.runs.Wait()
	if s.store == nil {
		return nil
	}
	st := s.store
	s.store = nil
	return st.Close()
}

// Handler serves everything of the role, for a program that has a server of its
// own. Paths are those of the issuer's root.
func (s *Server) Handler() http.Handler { return s.handler }

// EndStreams ends the event streams of MCP clients, which listen again elsewhere. Serve
// does that when it stops; a program that has a server of its own gives it to
// [http.Server.RegisterOnShutdown], or Shutdown waits for them.
func (s *Server) EndStreams() {
	for _, e := range s.endpoints {
		e.EndStreams()
	}
}

// Require makes a tool need all of scopes, besides those that every request needs.
// Call it before you add the tool.
//
//	srv.Require("admin_action", "admin")
//	sdk.AddTool(srv.MCP, &sdk.Tool{Name: "admin_action"}, adminAction)
func (s *Server) Require(tool string, scopes ...string) {
	for _, scope := range scopes {
		if !slices.Contains(s.o.Scopes, scope) {
			s.o.Log.Warn("nobody can call this tool: it needs a scope that does not exist", "tool", tool, "scope", scope)
		}
	}
	s.access.Require(tool, scopes...)
}

// Issuer is the public base URL, without a trailing slash.
func (s *Server) Issuer() string { return s.o.Issuer }

// Resources are the identifiers that tokens may name, the default first.
func (s *Server) Resources() []string { return slices.Clone(s.o.Resources) }

func (o *Options) setDefaults() error {
	or(&o.App, "Signet")
	or(&o.Issuer, "http://localhost:8080")
	or(&o.Listen, "127.0.0.1:8080")
	or(&o.Role, "all")
	or(&o.DataDir, "data")
	or(&o.Store, filepath.Join(o.DataDir, "signet.db"))
	or(&o.UsersFile, filepath.Join(o.DataDir, "users"))
	or(&o.ClientsFile, filepath.Join(o.DataDir, "clients.json"))
	o.Lives = o.Lives.OrDefault()
	or(&o.KeyRotation, 24*time.Hour)
	or(&o.MaxConnections, 10_000)
	or(&o.askAgain, askAgain)
	or(&o.RevocationPoll, 10*time.Second)
	or(&o.ScopeHierarchy, mcp.DefaultHierarchy)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if len(o.Scopes) == 0 {
		o.Scopes = []string{"read", "write", "admin"}
	}
	if len(o.DefaultScopes) == 0 {
		o.DefaultScopes = o.Scopes[:1]
	}
	if len(o.Resources) == 0 {
		o.Resources = []string{o.Issuer + "/mcp"}
	}
	if err := oauth.CheckIssuer(o.Issuer); err != nil {
		return fmt.Errorf("issuer: %w", err)
	}
	if !slices.Contains(Roles, o.Role) {
		return fmt.Errorf("role: %q is not one of %s", o.Role, strings.Join(Roles, ", "))
	}
	if o.DrainDelay == 0 {
		o.DrainDelay = 5 * time.Second
		if o.loopback() {
			o.DrainDelay = 500 * time.Millisecond
		}
	}
	if o.Demo && !o.loopback() {
		return fmt.Errorf("demo: its password is public, so it needs a loopback issuer, not %s", o.Issuer)
	}
	if err := o.beChaotic(); err != nil {
		return err
	}
	for i, r := range o.Resources {
		canonical, err := oauth.CanonicalResource(r)
		if err != nil {
			return fmt.Errorf("resource %s: %w", r, err)
		}
		o.Resources[i] = canonical
	}
	return nil
}

// beChaotic shortens the lives of keys and tokens, and refuses an issuer that others may
// depend on.
func (o *Options) beChaotic() error {
	if o.Chaos == 0 {
		return nil
	}
	if !o.loopback() {
		return fmt.Errorf("chaos: it loses answers on purpose, so it needs a loopback issuer, not %s", o.Issuer)
	}
	o.KeyRotation = min(o.KeyRotation, chaos.KeyRotation)
	o.Lives.Access = min(o.Lives.Access, chaos.AccessTTL)
	return nil
}

func or[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// loopback reports whether the issuer can be reached from this machine only.
func (o *Options) loopback() bool {
	u, err := url.Parse(o.Issuer)
	return err == nil && oauth.IsLoopbackHost(u.Hostname())
}

func (o *Options) clientOptions(ring *seal.Keyring) clients.Options {
	c := clients.Options{Path: o.ClientsFile, Ring: ring, Scopes: o.Scopes, Default: o.DefaultScopes, GroupMayRead: o.GroupMayRead}
	if o.Demo {
		c.Demo, c.DemoSecrets = demoClients()
	}
	return c
}

// warnings names settings that are legal and seldom meant.
func (o *Options) warnings() []string {
	var list []string
	host, err := netip.ParseAddrPort(o.Listen)
	if err != nil || !o.loopback() {
		return nil
	}
	if !host.Addr().IsLoopback() && o.TLSCert == "" {
		list = append(list, fmt.Sprintf("listening on %s, beyond this machine, while the issuer %s is loopback: clients elsewhere cannot use it", o.Listen, o.Issuer))
	}
	if u, err := url.Parse(o.Issuer); err == nil && o.Role != "mcp" && host.Port() != 0 && u.Port() != strconv.Itoa(int(host.Port())) && len(o.TrustedProxies) == 0 {
		list = append(list, fmt.Sprintf("listening on %s, while clients are told to go to the issuer %s: unless something there passes requests on, set the issuer", o.Listen, o.Issuer))
	}
	return list
}
