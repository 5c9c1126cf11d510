package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"signet/handlers"
	"signet/handlers/pages"
	"signet/internal/chaos"
	"signet/internal/clients"
	"signet/internal/fetch"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/internal/store"
	"signet/mcp"
	"signet/users"
)

// Roles are the roles of a process: everything, the authorization server alone, or the
// resource server alone, which needs an issuer and holds no secret.
var Roles = []string{"all", "auth", "mcp"}

// Groups of settings, under this package's name so that a program imports no other.
type (
	Lives        = handlers.Lives
	Limits       = handlers.Limits
	Registration = handlers.Registration
	Pages        = pages.Options
)

// ClientDocuments says which clients may have the URL of their metadata document as their
// id (draft-ietf-oauth-client-id-metadata-document). The keys of clients are fetched by
// the same rules.
type ClientDocuments struct {
	Off         bool     // no document is fetched
	Hosts       []string // hosts whose documents are fetched; "*.example.com" is each host below; default: all public hosts
	DeniedHosts []string // hosts, in the same form, whose documents are not fetched
	Files       []string // documents that are used in place of those at their URLs
}

// Strict, as Lives.Replay, makes refresh handles single use without exception.
const Strict = handlers.Strict

// Version is the version of the program.
const Version = "0.1.0"

// Options say what to serve. The zero value of each field stands for the default that
// its comment names.
type Options struct {
	App   string          // name on pages and in the MCP handshake; default: Signet
	Check users.CheckFunc // checks names and passwords; default: the users file does

	// Lookup, optional, says whether a user of Check is still there: users.ErrUnknown ends the
	// user's sessions, codes and refresh handles. What it leaves empty of the user is what
	// Check returned at the last login. Scopes that the user no longer has are taken from
	// sessions, and from grants at the next refresh. Any other error is no verdict. It is asked at each refresh, and
	// by many requests at once.
	Lookup func(ctx context.Context, subject string) (users.User, error)

	Issuer          string // public base URL; default: http://localhost:8080
	Listen          string // address to listen on; default: 127.0.0.1:8080
	TLSCert, TLSKey string // PEM files; default: plain HTTP, for a proxy or loopback
	Role            string // one of Roles; default: all

	Resources []string // identifiers that tokens may name, the default one first; default: <issuer>/mcp

	DataDir     string // directory of the secret, the mirror, and the files below that are not set; default: data
	Secret      string // root secrets, as seal.Parse reads them; default: the file secret in DataDir
	Store       string // SQLite file, or URL of a PostgreSQL database, which needs Secret; default: signet.db in DataDir
	UsersFile   string // default: users in DataDir
	ClientsFile string // default: clients.json in DataDir

	GroupMayRead bool // the group may read the files of secret, users, clients and keys, as mounted secrets need

	Scopes         []string // existing scopes; default: read write admin
	DefaultScopes  []string // scopes of users, clients and requests that name none; default: the first of Scopes
	RequiredScopes []string // scopes that every MCP request needs, except those for public tools; default: none
	ScopeHierarchy string   // scopes that imply others, as mcp.ParseHierarchy reads them; default: mcp.DefaultHierarchy
	PublicTools    []string // tools that need no login, unless they need a scope; default: none
	HiddenTools    []string // tools that only callers who have their scopes see in tools/list; default: none

	ClientDocuments ClientDocuments // of clients whose id is a URL; default: those of all public hosts are fetched
	ClientQuirks    string          // file with rows of quirks (docs/clients.md), live like ClientsFile; default: the built-in rows only

	Upstream Upstream // accounts elsewhere by which users sign in; default: none

	Gateway Gateway // MCP servers behind the endpoint; default: none, tools are those of [Server.MCP]

	Lives        Lives        // of codes, tokens and grants; default: handlers.DefaultLives
	Limits       Limits       // requests a minute; default: handlers.DefaultLimits
	Registration Registration // which clients may register; default: all
	Pages        Pages        // how the pages look

	RedirectSchemes []string // private-use schemes of redirect URIs that clients may register; empty but not nil: none; default: those of desktop clients, such as cursor

	KeyRotation time.Duration // how long a signing key signs; default: 24 h
	KeysDir     string        // directory of the operator's own signing keys; default: keys are made in the store

	LoginPath    string                // path of the login page; default: /login
	LoginHandler handlers.LoginHandler // the program's own login page; default: the built-in page

	TrustedProxies []netip.Prefix // proxies whose X-Forwarded-For is believed; default: none
	MCPOrigins     []string       // browser origins that may call the MCP endpoint; default: the issuer's

	RevocationPoll   time.Duration // how often role mcp reads the issuer's revocation feed; default: 10 s
	RevocationMaxAge time.Duration // age of the feed from which role mcp accepts no token; default: tokens are accepted until they expire

	MaxConnections int // open connections, of which one address, unless it is a trusted proxy, has a quarter at most; for a further one, an idle one is closed; default: 10,000

	MetricsListen   string // address of metrics and pprof; default: they are not served
	MetricsOptional bool   // if the port of MetricsListen is busy, warn instead of failing

	DrainDelay time.Duration // see ListenAndServe; default: 5 s, or 500 ms if the issuer is loopback
	Demo       bool          // add demo_user and demo_client, in memory only; needs a loopback issuer
	Rollback   string        // what follows when a rollback of the store is found: its epoch ends (new-epoch, the default), or only the log, the metrics and /readyz tell (alarm)
	Chaos      uint64        // seed with which answers are lost, refused and distorted on purpose (package chaos); needs a loopback issuer; default: no chaos
	Log        *slog.Logger  // default: nothing is logged

	askAgain time.Duration // replaces the constant of that name in tests
	alone    bool          // in tests: do not ask whether another server has this issuer
}

// complete sets the defaults, and returns an error if a setting is wrong.
func (o *Options) complete() error {
	o.setDefaults()
	if err := o.check(); err != nil {
		return err
	}
	o.shortenLives()
	o.Resources = slices.Clone(o.Resources)
	for i, r := range o.Resources {
		canonical, err := oauth.CanonicalResource(r)
		if err != nil {
			return fmt.Errorf("resource %s: %w", r, err)
		}
		if err := CheckResource(o.Role, o.Issuer, canonical); err != nil {
			return fmt.Errorf("SIGNET_RESOURCES: %w", err)
		}
		o.Resources[i] = canonical
	}
	return nil
}

// CheckResource returns an error if a process of role at issuer is to serve a resource and
// cannot, because its router would take the path for a pattern.
func CheckResource(role, issuer, resource string) error {
	u, err := url.Parse(resource)
	if err != nil {
		return fmt.Errorf("resource %s: %w", resource, err)
	}
	if serves(role, issuer, resource) && strings.ContainsAny(oauth.RoutePath(u), " \t*{}") {
		return fmt.Errorf("resource %s cannot be served: its path contains a space, *, { or }", resource)
	}
	return nil
}

// serves reports whether a process of role at issuer serves a resource.
func serves(role, issuer, resource string) bool {
	return role == "mcp" || role == "all" && sameOrigin(resource, issuer)
}

func (o *Options) setDefaults() {
	setDefault(&o.App, "Signet")
	setDefault(&o.Issuer, "http://localhost:8080")
	setDefault(&o.Listen, "127.0.0.1:8080")
	setDefault(&o.Role, "all")
	setDefault(&o.DataDir, "data")
	setDefault(&o.Store, filepath.Join(o.DataDir, "signet.db"))
	setDefault(&o.UsersFile, filepath.Join(o.DataDir, "users"))
	setDefault(&o.ClientsFile, filepath.Join(o.DataDir, "clients.json"))
	o.Lives = o.Lives.OrDefault()
	setDefault(&o.KeyRotation, 24*time.Hour)
	setDefault(&o.MaxConnections, 10_000)
	setDefault(&o.askAgain, askAgain)
	setDefault(&o.Rollback, "new-epoch")
	setDefault(&o.RevocationPoll, 10*time.Second)
	setDefault(&o.ScopeHierarchy, mcp.DefaultHierarchy)
	if o.loopback() {
		setDefault(&o.DrainDelay, 500*time.Millisecond)
	}
	setDefault(&o.DrainDelay, 5*time.Second)
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
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (o *Options) check() error {
	if err := oauth.CheckIssuer(o.Issuer); err != nil {
		return fmt.Errorf("issuer: %w", err)
	}
	if err := store.Locate(o.Store).Check(); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	switch {
	case o.Lookup != nil && o.Check == nil:
		return errors.New("lookup: it is asked about users of Check, which is not set")
	case !slices.Contains(Roles, o.Role):
		return fmt.Errorf("role: %q is not one of %s", o.Role, strings.Join(Roles, ", "))
	case o.Rollback != "new-epoch" && o.Rollback != "alarm":
		return fmt.Errorf("rollback: %q is not new-epoch or alarm", o.Rollback)
	case o.Demo && !o.loopback():
		return fmt.Errorf("demo: its password is public, so it needs a loopback issuer, not %s", o.Issuer)
	case o.Demo && o.Role == "mcp":
		return errors.New("demo: a process of role mcp has no users, so the demo's are added at its issuer")
	case o.Chaos != 0 && !o.loopback():
		return fmt.Errorf("chaos: it loses answers on purpose, so it needs a loopback issuer, not %s", o.Issuer)
	case o.MaxConnections < 0:
		return fmt.Errorf("MaxConnections: %d is negative", o.MaxConnections)
	case o.DrainDelay < 0:
		return fmt.Errorf("DrainDelay: %s is negative", o.DrainDelay)
	case (o.TLSCert == "") != (o.TLSKey == ""):
		return errors.New("TLSCert and TLSKey go together")
	}
	if err := errors.Join(o.Upstream.Check(), o.Gateway.Check(), o.Lives.Check(), o.checkScopes()); err != nil {
		return err
	}
	for _, host := range slices.Concat(o.ClientDocuments.Hosts, o.ClientDocuments.DeniedHosts) {
		if err := fetch.CheckHost(host); err != nil {
			return fmt.Errorf("client documents: %w", err)
		}
	}
	for _, scheme := range o.RedirectSchemes {
		if why := oauth.CheckScheme(scheme); why != "" {
			return fmt.Errorf("redirect scheme %q %s", scheme, why)
		}
	}
	return nil
}

// checkScopes refuses names that no request can have, and scopes that no token can have.
func (o *Options) checkScopes() error {
	for _, scope := range o.Scopes {
		if names, err := oauth.ParseScope(scope); err != nil || !slices.Equal(names, []string{scope}) {
			return fmt.Errorf("scopes: %q is not the name of a scope", scope)
		}
	}
	for _, scope := range o.RequiredScopes {
		if !slices.Contains(o.Scopes, scope) {
			return fmt.Errorf("required scopes: %q is not among Scopes", scope)
		}
	}
	return nil
}

// shortenLives makes keys and access tokens live as short as chaos demands.
func (o *Options) shortenLives() {
	if o.Chaos != 0 {
		o.KeyRotation = min(o.KeyRotation, chaos.KeyRotation)
		o.Lives.Access = min(o.Lives.Access, chaos.AccessTTL)
	}
}

// named returns err with the variable whose value a start failed for, unless it names one.
func named(variable string, err error) error {
	if err == nil || strings.HasPrefix(err.Error(), "SIGNET_") {
		return err
	}
	return fmt.Errorf("%s: %w", variable, err)
}

// stateVariables are the variables of the place that the state is in.
func (o *Options) stateVariables() string {
	switch {
	case store.Locate(o.Store).Shared():
		return "SIGNET_STORE"
	case filepath.Dir(o.Store) != filepath.Clean(o.DataDir):
		return "SIGNET_DATA_DIR, SIGNET_STORE"
	}
	return "SIGNET_DATA_DIR"
}

// loopback reports whether the issuer can be reached from this machine only.
func (o *Options) loopback() bool {
	u, err := url.Parse(o.Issuer)
	return err == nil && oauth.IsLoopbackHost(u.Hostname())
}

func (o *Options) clientOptions(ring *seal.Keyring) clients.Options {
	c := clients.Options{Path: o.ClientsFile, Ring: ring, Scopes: o.Scopes, Default: o.DefaultScopes, Schemes: o.RedirectSchemes, GroupMayRead: o.GroupMayRead,
		NoDocuments: o.ClientDocuments.Off, Pinned: o.ClientDocuments.Files, Quirks: o.ClientQuirks,
		Fetcher:   fetch.New(fetch.Options{Loopback: o.loopback(), Allow: o.ClientDocuments.Hosts, Deny: o.ClientDocuments.DeniedHosts, Agent: "Signet/" + Version}),
		Audiences: []string{o.Issuer, o.Issuer + "/token", o.Issuer + "/oauth/token"}}
	if o.Demo {
		c.Demo, c.DemoSecrets = demoClients(o.Scopes)
	}
	return c
}
