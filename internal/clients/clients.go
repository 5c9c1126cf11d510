// Package clients knows the OAuth clients: those that the operator configured in
// clients.json, those that registered themselves (RFC 7591), and the one of the
// demo mode. It authenticates them at the endpoints that clients call.
//
// A registration is not stored anywhere: the client id is the registration, sealed,
// and its secret is derived from the id. So any replica knows every registered
// client, a flood of registrations costs no memory, and no registration ends.
package clients

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"signet/internal/durable"
	"signet/internal/fetch"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/jwt"
)

// ErrUnknown is returned for an id that names no client, and ErrBlocked, which is an ErrUnknown
// too, for a client that the operator has blocked.
var (
	ErrUnknown = errors.New("no such client")
	ErrBlocked = fmt.Errorf("%w: this client is blocked", ErrUnknown)
)

// How a client authenticates at the token endpoint (RFC 7591 §2).
const (
	methodNone  = "none"
	methodBasic = "client_secret_basic"
	methodPost  = "client_secret_post"
	methodKey   = "private_key_jwt"
)

// DefaultSchemes are the private-use schemes that registrations may use unless the operator
// says otherwise: those of clients that receive the redirect in no other way. docs/clients.md
// has the source of each.
var DefaultSchemes = []string{"cursor", "vscode", "vscode-insiders", "claude", "warp", "workbuddy"}

// AlwaysKnown are the scopes that mean something without being configured: common clients
// request them unasked, and must not fail because of it.
var AlwaysKnown = []string{"openid", "profile", "email", "offline_access"}

// grantTypes and responseTypes are those that every client may use. The grants
// client_credentials and token-exchange are for the clients of the file that may use them.
var (
	grantTypes    = []string{oauth.GrantAuthorizationCode, oauth.GrantRefreshToken}
	responseTypes = []string{"code"}
)

// idTokenAlg is the algorithm of id tokens, the only one that package jwt signs with.
const idTokenAlg = "ES256"

// Client is a client as the endpoints see it.
type Client struct {
	ID           string
	Name         string // for people; may be empty
	RedirectURIs []string
	Method       string   // none, client_secret_basic, client_secret_post or private_key_jwt
	Scopes       []string // that it may request, or, if Registered, that it requests by default; nil, for a demo client: all that are supported
	GrantTypes   []string // that it may use; none: those of every client
	Registered   bool     // by itself, so its name is not verified
	Issued       int64    // Unix seconds
	KeyOnly      bool     // it authenticates by a key, and in no other way
	Document     string   // digest of its metadata document, if its id is the URL of one; all installations of a program share such an id

	DefaultScopes []string // that a request without scopes is for; none: Scopes

	Consent string // ConsentChoose or ConsentFixed, if the operator says so; empty: what is known of the client decides

	hash string // see Hash; empty: not computed yet

	PostLogoutRedirectURIs []string // where the browser may go after a logout; they must match exactly

	Resource string // audience of the tokens that it may introspect, if it is a resource server; it gets no tokens itself

	// Exchange are the audiences for which it may exchange tokens of users: resources, providers after
	// [oauth.UpstreamAudience], connections after [oauth.ConnectionAudience], and
	// [oauth.GatewayAudience].
	Exchange []string

	Lives Lives  // of what it gets
	Quirk *Quirk // what is known of the program; nil: nothing

	weak bool // see SecretMayBeWeak
}

// Lives are lifetimes of what a client gets. One that is 0, or longer than the server's, is
// the server's.
type Lives struct {
	Access  time.Duration // life of an access token
	Refresh time.Duration // life of a grant
	Idle    time.Duration // life of a refresh handle that is not used
	Replay  time.Duration // how long the last refresh may be repeated; negative: not at all
}

// Within returns the shorter one of each of l and other, of which a field that is 0 does not
// count.
func (l Lives) Within(other Lives) Lives {
	shorter := func(a, b time.Duration) time.Duration {
		if a == 0 || b == 0 {
			return a + b
		}
		return min(a, b)
	}
	return Lives{shorter(l.Access, other.Access), shorter(l.Refresh, other.Refresh), shorter(l.Idle, other.Idle), shorter(l.Replay, other.Replay)}
}

// Hash is the short form of the id that grants carry.
func (c *Client) Hash() string {
	if c.hash != "" {
		return c.hash
	}
	return seal.ClientHash(c.ID)
}

// Public reports whether the client has no secret.
func (c *Client) Public() bool { return c.Method == methodNone }

// SecretMayBeWeak reports whether a person may have chosen the secret by which the client has
// authenticated, so that it may be worth guessing. The secrets that are made here are 256 bits.
func (c *Client) SecretMayBeWeak() bool { return c.weak }

// MayUse reports whether the client may use a grant type.
func (c *Client) MayUse(grantType string) bool {
	if c.Resource != "" {
		return false
	}
	may := c.GrantTypes
	if len(may) == 0 {
		may = grantTypes
	}
	return slices.Contains(may, grantType)
}

// ExchangesFor returns an audience for which the client may exchange tokens of users, as the
// operator spells it.
func (c *Client) ExchangesFor(audience string) (spelled string, ok bool) {
	i := slices.IndexFunc(c.Exchange, func(a string) bool { return oauth.SameResource(a, audience) })
	if i < 0 || !c.MayUse(oauth.GrantTokenExchange) {
		return "", false
	}
	return c.Exchange[i], true
}

// ExchangesForGateway reports whether the client may exchange tokens of users for all that a
// gateway needs.
func (c *Client) ExchangesForGateway() bool {
	return slices.Contains(c.Exchange, oauth.GatewayAudience) && c.MayUse(oauth.GrantTokenExchange)
}

// TicksDefaults reports whether the consent page ticks, of the scopes that the client asks for,
// the default ones only.
func (c *Client) TicksDefaults() bool { return c.Quirk != nil && c.Quirk.Ticked == "defaults" }

// ConsentLocked reports whether its users may only approve or deny a request as a whole.
func (c *Client) ConsentLocked() bool {
	known := c.Quirk != nil && c.Quirk.Choice == "locked"
	return c.Consent == ConsentFixed || known && c.Consent == ""
}

// ConsentChoice returns ConsentChoose or ConsentFixed, and what says so: clients.json, a quirk, or
// nothing.
func (c *Client) ConsentChoice() (choice, by string) {
	switch {
	case c.Consent != "":
		return c.Consent, "clients.json"
	case c.ConsentLocked():
		return ConsentFixed, "the quirk " + c.Quirk.Name
	case c.Quirk != nil && c.Quirk.Choice != "":
		return ConsentChoose, "the quirk " + c.Quirk.Name
	}
	return ConsentChoose, "default"
}

// RedirectURI returns where the response to an authorization request goes, given
// its redirect_uri parameter. That may be missing if the client has one redirect URI
// (OAuth 2.1 §2.3.2). The error is invalid_request and must not be redirected.
func (c *Client) RedirectURI(requested string) (string, error) {
	if requested == "" {
		if len(c.RedirectURIs) != 1 {
			return "", oauth.Errorf(oauth.InvalidRequest, "redirect_uri is required: this client has %d", len(c.RedirectURIs))
		}
		return c.RedirectURIs[0], nil
	}
	for _, registered := range c.RedirectURIs {
		if oauth.RedirectURIMatches(registered, requested) {
			return requested, nil
		}
	}
	return "", oauth.Errorf(oauth.InvalidRequest, "redirect_uri is not registered for this client: %s", requested)
}

// Options are what Open needs.
type Options struct {
	Path         string // of clients.json; without a file there are no configured clients
	GroupMayRead bool   // clients.json may be readable by its group, as a mounted secret is
	Ring         *seal.Keyring
	Scopes       []string // supported; others are left out of registrations
	Default      []string // scopes of a client that has none of its own
	Schemes      []string // private-use redirect schemes for registrations; nil: DefaultSchemes

	Blocked func(id string) bool // whether the operator has blocked a client; nil: none is blocked

	// Retired returns since when a root secret has been for client ids only, and false
	// if that cannot be told now. Later ids under it were made by another holder of the
	// root. Nil: all ids are taken.
	Retired func(fingerprint string) (since time.Time, known bool)

	// Seen reports whether a client has a grant. Of the ids under a retired root only these are
	// taken, where not everybody may register. Nil: everybody may, and all ids are taken.
	Seen func(id string) (bool, error)

	Fetcher     *fetch.Fetcher // of keys and metadata documents; nil: no URL is fetched
	NoDocuments bool           // fetch no metadata documents
	Pinned      []string       // files with metadata documents, in place of those that their hosts serve

	Quirks string // file with the operator's rows of quirks; empty: the built-in ones only

	// For client assertions (RFC 7523): the values of aud that name this server, and what
	// accepts an id once, until its end. Without Once there is no private_key_jwt.
	Audiences []string
	Once      func(ctx context.Context, id string, until time.Time) (fresh bool, err error)

	// Demo clients exist in memory only. One that has an entry in DemoSecrets is
	// confidential.
	Demo        []Client
	DemoSecrets map[string]string

	keys *fetch.Cache[*jwt.ClientKeys] // those that are at URLs
}

// Registry finds clients. It is safe for concurrent use.
type Registry struct {
	o    Options
	demo map[string]known

	documents *documents

	quirks     quirks                // built-in ones
	quirksFile *durable.Live[quirks] // these and the operator's; nil: there are the built-in ones only

	file *durable.Live[configured] // nil: no clients are configured
}

// configured are the clients of clients.json.
type configured struct {
	byID      map[string]known
	exchanges bool // whether one of them may exchange tokens
}

// known is a client with the check of its secret.
type known struct {
	Client
	matches func(secret string) bool // nil: it has no secret
	keys    *keySource               // nil: it has no keys
	strict  bool                     // must use Method; a client that is not strict may send its secret in the other way too
}

// Open reads clients.json. A file that cannot be used is an error here; later, when
// it changes, it is one for [Registry.Stale].
func Open(o Options) (*Registry, error) {
	if o.Ring == nil {
		return nil, errors.New("a registry of clients needs a keyring")
	}
	if o.Schemes == nil {
		o.Schemes = DefaultSchemes
	}
	r := &Registry{o: o, demo: map[string]known{}}
	for _, c := range o.Demo {
		r.demo[c.ID] = o.demo(c)
	}
	var err error
	if r.quirks, r.quirksFile, err = openQuirks(o.Quirks); err != nil {
		return nil, err
	}
	if o.Fetcher != nil {
		r.o.keys = fetch.NewCache(o.Fetcher.JSON, maxKeySet, func(_ string, body []byte) (*jwt.ClientKeys, error) { return jwt.ParseClientKeys(body) })
	}
	if r.documents, err = newDocuments(&r.o); err != nil || o.Path == "" {
		return r, err
	}
	r.file, err = durable.Follow(o.Path, durable.Access{GroupRead: o.GroupMayRead}, maxFile, configured{}, r.o.parse)
	return r, err
}

// parse reads the configured clients.
func (o *Options) parse(text []byte) (configured, error) {
	entries, err := parseNamed(o.Path, text)
	if err != nil {
		return configured{}, err
	}
	all := configured{byID: map[string]known{}}
	for _, e := range entries {
		if all.byID[e.ID], err = e.known(o); err != nil {
			return configured{}, err
		}
		all.exchanges = all.exchanges || len(e.Exchange) > 0
	}
	return all, nil
}

func (o *Options) demo(c Client) known {
	c.GrantTypes = grantTypes
	secret := o.DemoSecrets[c.ID]
	if secret == "" {
		c.Method = methodNone
		return known{Client: c}
	}
	c.Method = methodBasic
	return known{Client: c, matches: func(s string) bool { return equal(s, secret) }}
}

// equal compares secrets in a time that depends neither on content nor on length.
func equal(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// Find returns the client named id: a configured one, the demo mode's, the one whose
// metadata document is at the URL id, or a registered one, which is read from the id itself.
// [ErrUnknown] means that there is none, and any other error that there is no telling now:
// neither Find nor [Registry.Authenticate] fetches anything, see [Registry.Fetch]. The caller
// must not change the elements of the client's slices.
func (r *Registry) Find(_ context.Context, id string) (*Client, error) {
	k, err := r.find(id)
	if err != nil {
		return nil, err
	}
	r.dropURIs(k)
	return &k.Client, nil
}

// dropURIs drops the redirect URIs of a registered client that may no longer be registered: a
// registration never ends, so a rule that became stricter is applied to it here. The URIs of
// other clients are checked when they are read.
func (r *Registry) dropURIs(k *known) {
	if !k.Registered || k.Document != "" {
		return
	}
	refused := func(uri string) bool { return oauth.CheckRedirectURI(uri, r.o.Schemes) != nil }
	k.RedirectURIs = slices.DeleteFunc(k.RedirectURIs, refused)
	k.PostLogoutRedirectURIs = slices.DeleteFunc(k.PostLogoutRedirectURIs, refused)
}

// Ready reports whether Fetch has nothing to do for a request that names the client id, and
// whose form may have an assertion.
func (r *Registry) Ready(id string, form url.Values) bool {
	if r.blocked(id) {
		return true
	}
	k, ok := r.named(id)
	if !ok && isDocumentURL(id) {
		if k, ok = r.documents.ready(id); !ok {
			return false
		}
	}
	if k.keys == nil || !form.Has("client_assertion") {
		return true
	}
	cache, _ := r.newer(&k, form)
	return k.keys.ready() && cache == nil
}

// Fetch fetches what Find and Authenticate need for such a request: the metadata document of
// the client, and its keys if it signs. Hosts may be slow, so it is called before the request
// takes anything that others wait for. The errors are those of Find, and invalid_client for
// keys that cannot be used.
func (r *Registry) Fetch(ctx context.Context, id string, form url.Values) (err error) {
	k, ok := r.named(id)
	if !ok && isDocumentURL(id) {
		if k, err = r.documents.fetch(ctx, id); err != nil {
			return err
		}
	}
	if k.keys == nil || !form.Has("client_assertion") {
		return nil
	}
	if err := k.keys.fetch(ctx); err != nil {
		return err
	}
	if cache, url := r.newer(&k, form); cache != nil {
		_ = cache.Renew(ctx, url) // if it fails, the keys at hand stay
	}
	return nil
}

// Known is Find for a client about which nothing but its kind counts: of one whose id is a
// URL, the document need not be at hand.
func (r *Registry) Known(ctx context.Context, id string) (*Client, error) {
	if isDocumentURL(id) && r.FetchesDocuments() && !r.blocked(id) {
		return &Client{ID: id, Registered: true}, nil
	}
	return r.Find(ctx, id)
}

func (r *Registry) blocked(id string) bool { return r.o.Blocked != nil && r.o.Blocked(id) }

// find returns a client of its own for each call.
func (r *Registry) find(id string) (*known, error) {
	if r.blocked(id) {
		return nil, ErrBlocked
	}
	k, err := r.look(id)
	if err != nil {
		return nil, err
	}
	k.hash = seal.ClientHash(id)
	rows := r.quirkRows()
	if q, _ := rows.of(&k.Client); q != nil {
		r.dropURIs(k) // one that may no longer be registered matches no row
		rows.narrow(k)
	}
	return k, nil
}

func (r *Registry) look(id string) (*known, error) {
	if k, ok := r.named(id); ok {
		return &k, nil
	}
	if isDocumentURL(id) {
		k, err := r.documents.find(id)
		return &k, err
	}
	return r.registered(id)
}

// named returns the client of clients.json or of the demo mode that has the id.
func (r *Registry) named(id string) (k known, ok bool) {
	if k, ok = r.configured()[id]; !ok {
		k, ok = r.demo[id]
	}
	return k, ok
}

// ActsAsSubject reports whether an id is the subject of tokens that a client gets for itself. No
// user may have the same subject (RFC 9068 §5).
func (r *Registry) ActsAsSubject(id string) bool {
	k, ok := r.configured()[id]
	return ok && k.MayUse(oauth.GrantClientCredentials)
}

// registered opens a client id that Register issued. Its redirect URIs are as they were
// registered, see [Registry.dropURIs].
func (r *Registry) registered(id string) (*known, error) {
	c, err := seal.Open[seal.Client](r.o.Ring, id)
	if err != nil {
		return nil, ErrUnknown
	}
	if err := r.checkRetired(id, c); err != nil {
		return nil, err
	}
	k := &known{strict: true, Client: Client{ID: id, Name: c.Name, RedirectURIs: c.RedirectURIs, Method: c.Method, Scopes: r.o.scopeNow(c.Scope),
		GrantTypes: grantTypes, Registered: true, Issued: c.Issued, PostLogoutRedirectURIs: c.PostLogoutRedirectURIs}}
	if c.Method == methodNone {
		return k, nil
	}
	secret, err := r.o.Ring.ClientSecret(id)
	if err != nil {
		return nil, ErrUnknown
	}
	k.matches = func(s string) bool { return equal(s, secret) }
	return k, nil
}

var errCannotTell = errors.New("it is not known yet whether a client id under a retired root secret is good")

// checkRetired refuses an id under a retired root secret that was not made here while the root
// was in use. Whoever has that secret can make ids.
func (r *Registry) checkRetired(id string, c seal.Client) error {
	root, retired := r.o.Ring.RetiredRoot(id)
	if !retired || r.o.Retired == nil {
		return nil
	}
	since, known := r.o.Retired(root)
	switch {
	case !known:
		return errCannotTell
	case c.Issued >= since.Unix(): // of the same second: rather refused
		return ErrUnknown
	case r.o.Seen == nil:
		return nil
	}
	seen, err := r.o.Seen(id)
	if err == nil && !seen {
		err = ErrUnknown
	}
	return err
}

// Stale returns why clients.json, a pinned document or the file of quirks as it is now is not in
// use, or nil; the content of the last good one still is.
func (r *Registry) Stale() (err error) {
	if r.file != nil {
		err = r.file.Stale()
	}
	if r.quirksFile != nil {
		err = errors.Join(err, r.quirksFile.Stale())
	}
	for _, live := range r.documents.pinned {
		err = errors.Join(err, live.Stale())
	}
	return err
}

// Reload looks at clients.json, at pinned documents and at the file of quirks now. Otherwise they are looked at once
// a second at most.
func (r *Registry) Reload() {
	if r.file != nil {
		r.file.Reload()
	}
	if r.quirksFile != nil {
		r.quirksFile.Reload()
	}
	for _, live := range r.documents.pinned {
		live.Reload()
	}
}

// Generation returns a number that grows when other clients of clients.json come into use.
func (r *Registry) Generation() uint64 {
	if r.file == nil {
		return 0
	}
	return r.file.Generation()
}

func (r *Registry) configured() map[string]known {
	if r.file == nil {
		return nil
	}
	return r.file.Get().byID
}

// Exchanges reports whether there is a client that may exchange tokens.
func (r *Registry) Exchanges() bool { return r.file != nil && r.file.Get().exchanges }
