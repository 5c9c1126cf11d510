// Package handlers is the authorization server on the wire: discovery, registration,
// the authorization endpoint with its login and consent pages, the token endpoint,
// revocation, introspection, userinfo and logout. Its Options take internal types;
// other programs reach it through package server.
//
// An endpoint is a method that reads a request and returns a value or an error. One
// adapter (route) renders both, so headers, caching, CORS and the form of errors exist
// in one place. The endpoints hold no state of their own: the state of a login or a
// grant travels sealed with browsers and clients, and package denylist, asked last and
// before anything is signed, knows what has been spent.
package handlers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"

	"signet/handlers/pages"
	"signet/internal/admission"
	"signet/internal/clients"
	"signet/internal/denylist"
	"signet/internal/gatewayconfig"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/internal/throttle"
	"signet/internal/upstream"
	"signet/internal/vault"
	"signet/jwt"
	"signet/keys"
	"signet/users"
)

// Users is the source of the users who may sign in. Both methods are safe for
// concurrent use.
type Users interface {
	// Check returns the user with a name and a password, users.ErrInvalid if there is
	// none, or users.ErrBusy if it cannot tell at the moment.
	Check(ctx context.Context, name, password string) (users.User, error)
	// Lookup returns a user who signed in earlier, or users.ErrUnknown if that user no
	// longer exists. Any other error means that it cannot tell.
	Lookup(ctx context.Context, subject string) (users.User, error)
}

// Store is the part of the store that the endpoints use directly. For what has been
// spent they ask package denylist.
type Store interface {
	// Epoch identifies the store's life: nothing that was issued in another epoch is
	// accepted.
	Epoch() string
	// Check returns nil if the store answers.
	Check(ctx context.Context) error
	// Now is the wall clock, but never earlier than a time that the store has seen: if
	// a request was refused as expired, it stays refused when the clock is set back.
	Now() time.Time
	// NotBefore is the Unix second of iat from which access tokens count, or 0.
	NotBefore() int64
	// RolledBack is when it was found that the store was rolled back, or the zero time.
	RolledBack() time.Time
}

// Options are the parts and settings of the endpoints. All are required except those
// marked optional.
type Options struct {
	Issuer string // must pass oauth.CheckIssuer
	App    string // name on the pages

	Ring     *seal.Keyring
	Store    Store
	Keys     *keys.Set
	Denylist *denylist.List
	Throttle *throttle.Logins
	Clients  *clients.Registry
	Users    Users
	Signer   *jwt.Signer
	Verifier *jwt.Verifier // for all Resources; accepts what verifiers on other machines accept

	Resources     []string // resources that tokens may name, in canonical form; the first is the default
	Scopes        []string // scopes that exist
	DefaultScopes []string // scopes of a request, a client or a user that names none

	RequiredScopes []string            // optional: scopes without which a token is of no use
	ScopeHierarchy map[string][]string // optional: for each scope the next narrower scopes, which it implies

	Lives        Lives         // optional
	Limits       Limits        // optional
	Registration Registration  // optional
	Pages        pages.Options // optional: how the pages look

	// Upstreams, optional, are the providers at which users may sign in. Vault keeps their
	// accounts and tokens, and is needed with them; Settle, optional, is told of a user whose
	// grants have ended.
	Upstreams *upstream.Set
	Vault     *vault.Vault
	Settle    func(subject string)

	// Connections, optional, returns what the servers of a gateway need for their users or for the
	// gateway, as its configuration says now; nobody changes what it has returned. It is safe for
	// concurrent use, and needs a Vault. Audiences, optional, returns the audiences of those servers,
	// for which a client with the audience gateway may exchange tokens. GatewayResource, optional,
	// is the one of Resources that is the gateway: other logins offer no connections. Elsewhere is
	// the way to authorization servers that no operator has named, but a server of the gateway: it
	// must ask no host that strangers must not make this server ask.
	Connections     func() []*gatewayconfig.Connection
	Elsewhere       http.RoundTripper
	Audiences       func() []string
	GatewayResource string

	// ConnectionChanged, optional, is called when a user has connected something in this process,
	// or has disconnected it, so that a gateway here does not use what it had before.
	ConnectionChanged func(subject, connection string)

	// PasswordLogin, optional, reports whether Users has users who sign in with a password. If
	// it is nil, it has.
	PasswordLogin func() bool

	LoginPath string // optional: path of the login page below the issuer's path; /login

	// LoginHandler, optional, serves the login page in place of the built-in one.
	LoginHandler LoginHandler

	// What the source of users can do for a user who has signed in; both are optional.
	// They are called only for users with a version, and change it.
	ChangePassword func(ctx context.Context, subject, old, next string) (users.User, error)
	EndSessions    func(ctx context.Context, subject string) error

	Admission *admission.Classes // optional: how many requests run at once; admission.New()

	Draining   func() bool // optional: whether the server is about to stop
	OtherStore func() bool // optional: whether the issuer leads to a server with another store

	UsersGeneration func() uint64 // optional: how many versions of the users file have been in use

	ClocksDiffer func() bool  // optional: whether the servers' clocks are too far apart
	Stale        func() error // optional: why a file on disk is not the one in use
	Log          *slog.Logger

	// Count, optional, counts an event of the audit log by its outcome: ok, refused,
	// throttled or failed. Neither contains anything of the request.
	Count func(event, outcome string)

	// CountConnection, optional, counts a request for a token of a connection, whose id it gets,
	// by its outcome: ok, refused or failed.
	CountConnection func(connection, outcome string)

	// ClientIP, optional, returns the caller's address for limits and the audit log, and
	// whether it is the caller's own. Limits by address do not count a request whose
	// address is that of a proxy with many callers. Default: the connection's address.
	ClientIP func(*http.Request) (address netip.Addr, own bool)
}

// endpoints is what the endpoints, its methods, share.
type endpoints struct {
	o       Options
	path    string // path of the issuer; "" for most
	origin  string // origin of the issuer, as browsers send it
	local   bool   // whether the issuer is on this machine, so that no other host may be named
	cookies cookies
	pages   *pages.Set
	limits  limits
	grants  []grant
	served  *document // the metadata, which never changes
	feed    feed
	large   largeTokens
	links   links

	servedExchange *document // the metadata while a client may exchange tokens

	keySet atomic.Pointer[document] // as it was last served
}

// Handler is the authorization server, made by [New].
type Handler struct {
	http.Handler
	documents map[string]*route
	endpoints *endpoints
}

// Document answers a plain GET for a document that is in memory, such as the metadata,
// with the answer that the Handler would give, and returns the status. It returns 0 and
// writes nothing if r is any other request, or if the document does not exist yet. A
// program may call it before the Handler and before any middleware that documents do
// not need: routing costs more than the answer.
func (h *Handler) Document(w http.ResponseWriter, r *http.Request) (status int) {
	rt, ok := h.documents[r.URL.Path]
	if !ok || r.Method != http.MethodGet || r.RequestURI != r.URL.Path || r.ContentLength != 0 {
		return 0
	}
	h.endpoints.o.Admission.Public(r.Context())
	result, err := rt.run(w, r, rt.get)
	d, ok := result.(*document)
	if err != nil || !ok {
		return 0
	}
	rt.setHeaders(w.Header())
	return writeDocument(w, r, d)
}

// New returns the authorization server. Its paths are below the path of the issuer,
// except the well-known ones, which RFC 8414 §3.1 puts before it.
func New(o Options) (*Handler, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("handlers: %w", err)
	}
	u, err := url.Parse(o.Issuer)
	if err != nil {
		return nil, fmt.Errorf("handlers: issuer: %w", err)
	}
	e := &endpoints{o: o, path: u.EscapedPath(), origin: u.Scheme + "://" + u.Host, local: oauth.IsLoopbackHost(u.Hostname()), cookies: newCookies(o.Issuer), limits: newLimits(o.Limits)}
	site := pages.Site{App: o.App, Path: e.path, Login: o.LoginPath, Scopes: o.knownScopes()}
	if e.pages, err = pages.New(site, o.Pages); err != nil {
		return nil, fmt.Errorf("handlers: pages: %w", err)
	}
	e.grants = e.newGrants()
	if e.served, err = e.newMetadata(false); err != nil {
		return nil, fmt.Errorf("handlers: %w", err)
	}
	if e.servedExchange, err = e.newMetadata(true); err != nil {
		return nil, fmt.Errorf("handlers: %w", err)
	}
	return e.routes()
}

func (o *Options) check() error {
	if err := oauth.CheckIssuer(o.Issuer); err != nil {
		return err
	}
	if o.Ring == nil || o.Store == nil || o.Keys == nil || o.Denylist == nil || o.Throttle == nil || o.Clients == nil || o.Users == nil || o.Signer == nil || o.Verifier == nil || o.Log == nil {
		return errors.New("a part is missing: Ring, Store, Keys, Denylist, Throttle, Clients, Users, Signer, Verifier and Log are needed")
	}
	if o.App == "" || len(o.Resources) == 0 || len(o.DefaultScopes) == 0 {
		return errors.New("the fields App, Resources and DefaultScopes must not be empty")
	}
	if !oauth.ScopeIsSubset(o.DefaultScopes, o.knownScopes()) {
		return errors.New("a default scope is not among Scopes")
	}
	o.Lives = o.Lives.OrDefault()
	if err := errors.Join(o.Lives.Check(), o.Registration.Check()); err != nil {
		return err
	}
	if o.Upstreams != nil && o.Vault == nil {
		return errors.New("upstreams need a vault")
	}
	if o.Connections != nil && (o.Vault == nil || o.Elsewhere == nil) {
		return errors.New("connections need a vault, and a way elsewhere")
	}
	for _, r := range o.Resources {
		if canonical, err := oauth.CanonicalResource(r); err != nil || canonical != r {
			return fmt.Errorf("resource %s is not in canonical form", r)
		}
	}
	if o.Draining == nil {
		o.Draining = func() bool { return false }
	}
	if o.ClocksDiffer == nil {
		o.ClocksDiffer = func() bool { return false }
	}
	if o.OtherStore == nil {
		o.OtherStore = func() bool { return false }
	}
	if o.UsersGeneration == nil {
		o.UsersGeneration = func() uint64 { return 0 }
	}
	if o.PasswordLogin == nil {
		o.PasswordLogin = func() bool { return true }
	}
	if o.Settle == nil {
		o.Settle = func(string) {}
	}
	if o.Stale == nil {
		o.Stale = func() error { return nil }
	}
	if o.Admission == nil {
		o.Admission = admission.New()
	}
	if o.LoginPath == "" {
		o.LoginPath = "/login"
	}
	if err := checkLoginPath(o.LoginPath); err != nil {
		return err
	}
	if o.Count == nil {
		o.Count = func(string, string) {}
	}
	if o.CountConnection == nil {
		o.CountConnection = func(string, string) {}
	}
	if o.ClientIP == nil {
		o.ClientIP = remoteIP
	}
	return nil
}

func remoteIP(r *http.Request) (address netip.Addr, own bool) {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return peer.Addr().Unmap(), err == nil
}

// knownScopes are the scopes of the operator, and those that are known whatever is configured.
func (o *Options) knownScopes() []string { return slices.Concat(o.Scopes, clients.AlwaysKnown) }

// Limits of request bodies.
const (
	maxForm     = 64 << 10
	maxDocument = 16 << 10
)

// routes makes the handler from the table of what is served at which path.
func (e *endpoints) routes() (*Handler, error) {
	r, documents := chi.NewRouter(), map[string]*route{}
	handle := func(rt route, paths ...string) {
		rt.e = e
		for _, p := range paths {
			r.Handle(p, &rt)
			if rt.atHand {
				documents[p] = &rt
			}
		}
	}
	p, class := e.path, e.o.Admission
	handle(route{api: true, get: e.metadata, atHand: true}, e.metadataPaths()...)
	handle(route{api: true, get: e.jwks, atHand: true}, p+"/.well-known/jwks.json")
	handle(route{api: true, get: e.revoked, atHand: true}, p+"/.well-known/revoked")
	if !e.o.Registration.Off {
		handle(route{api: true, post: e.register, limit: maxDocument, document: true, rate: e.limitRegister, class: class.Register, ownSlot: true}, p+"/register", p+"/oauth/register")
	}
	token := route{e: e, api: true, post: e.token, client: claimedClient, limit: maxForm, class: class.Refresh, ownSlot: true, asks: true}
	handle(token, p+"/token")
	forJSON := token
	token.post = e.tokenOrConnect
	forJSON.post, forJSON.client, forJSON.document, forJSON.limit = e.connectJSON, nil, true, maxDocument
	if e.o.Connections == nil {
		forJSON = token
	}
	r.Handle(p+"/oauth/token", byType(token, forJSON))
	handle(route{api: true, post: e.revoke, client: claimedClient, limit: maxForm, class: class.Revoke}, p+"/revoke", p+"/oauth/revoke")
	handle(route{api: true, post: e.introspect, client: claimedClient, limit: maxForm, class: class.Introspect}, p+"/introspect", p+"/oauth/introspect")
	handle(route{api: true, get: e.userinfo, post: e.userinfo, limit: maxDocument, document: true, class: class.Introspect}, p+"/userinfo")
	handle(route{api: true, get: e.livez}, p+"/livez")
	handle(route{api: true, get: e.readyz}, p+"/readyz")

	handle(route{get: e.authorize, post: e.authorize, client: requestedClient, limit: maxForm, rate: e.limitAuthorize, class: class.Pages}, p+"/authorize")
	handle(route{get: e.authorizeOrConnect, post: e.authorize, client: requestedClient, limit: maxForm, rate: e.limitAuthorize, class: class.Pages, asks: true}, p+oauth.ConnectionPath)
	handle(route{get: e.consentPage, post: e.consent, client: e.pendingClient, limit: maxForm, ownPages: true, class: class.Pages, asks: true}, p+"/consent")
	handle(route{get: e.accountPage, class: class.Pages, post: e.account, limit: maxForm, ownPages: true, ownSlot: true, asks: true}, p+"/account")
	handle(route{get: e.logoutPage, post: e.logout, client: e.leavingClient, mayLack: true, limit: maxForm, class: class.Pages}, p+"/logout")
	handle(route{get: e.logo}, p+"/assets/logo")
	if e.hasHome() {
		handle(route{get: e.home, class: class.Pages}, p+"/")
	}
	handle(route{get: noIcon}, p+"/favicon.ico")

	if e.o.Upstreams != nil || e.o.Connections != nil {
		handle(route{get: e.callback, client: e.callbackClient, rate: e.limitAuthorize, class: class.Pages, ownSlots: true, asks: true}, p+callbackPath)
	}
	if e.o.Connections != nil {
		handle(route{get: e.connectPage, post: e.connect, client: e.pendingClient, limit: maxForm, ownPages: true, class: class.Pages, asks: true}, p+"/oauth/connect")
		handle(route{api: true, get: e.serveClientDocument}, p+clientDocumentPath)
		handle(route{get: e.connectedPage}, p+"/oauth/success")
		handle(route{get: e.connectFailedPage}, p+"/oauth/error")
	}
	if e.o.Upstreams != nil {
		handle(route{api: true, post: e.upstreamEndpoint, limit: maxForm, class: class.Introspect, ownSlot: true, asks: true}, p+"/upstream/token")
		handle(route{api: true, post: e.backchannelLogout, limit: maxForm, class: class.Revoke, ownSlot: true, asks: true}, p+"/oauth/backchannel-logout/{provider}")
	}
	if err := errors.Join(e.routeLogin(r, handle), e.checkResources(r)); err != nil {
		return nil, err
	}
	r.NotFound(e.absent)
	r.MethodNotAllowed(UnknownMethod(r, e.absent))
	return &Handler{r, documents, e}, nil
}

// checkResources refuses a resource at the path of an endpoint, which could not be reached then.
func (e *endpoints) checkResources(r chi.Router) error {
	for _, resource := range e.o.Resources {
		u, err := url.Parse(resource)
		if err != nil {
			return fmt.Errorf("SIGNET_RESOURCES: resource: %w", err)
		}
		if u.Scheme+"://"+u.Host == e.origin && r.Match(chi.NewRouteContext(), http.MethodGet, oauth.RoutePath(u)) {
			return fmt.Errorf("SIGNET_RESOURCES: resource %s is at the path of another endpoint", resource)
		}
	}
	return nil
}
