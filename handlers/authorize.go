package handlers

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"signet/internal/clients"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/jwt"
	"signet/users"
)

const maxNonce = 512

// authorize serves the authorization endpoint (OAuth 2.1 §4.1.1), which takes GET and
// POST (§3.1). Client and redirect URI come first: until both are verified nothing is
// redirected anywhere. A good request becomes a sealed transaction that the browser
// carries through the login and consent pages; nothing is stored for it.
func (e *endpoints) authorize(r *http.Request) (any, error) {
	params, err := params(r)
	if err != nil {
		return nil, err
	}
	if name := oauth.Duplicated(params, "client_id", "redirect_uri"); name != "" {
		return nil, oauth.Errorf(oauth.InvalidRequest, "%s occurs more than once", name)
	}
	client, err := e.client(r.Context(), params.Get("client_id"))
	if err != nil {
		return nil, err
	}
	redirectURI, err := client.RedirectURI(params.Get("redirect_uri"))
	if err != nil {
		return nil, oauth.Errorf(oauth.InvalidRequest, "Invalid redirect_uri: it is not one that this client has registered").Because(err)
	}
	now := e.o.Store.Now()
	tx, err := e.newLogin(r.Context(), client, redirectURI, params, now)
	if err == nil {
		_, err = e.sealLogin(tx, seal.MaxSize-spareFor(tx))
	}
	again := ""
	if err == nil && r.Method == http.MethodPost && e.checkOwnPage(r) != nil {
		again, err = asQuery(params)
	}
	if err != nil {
		state := params.Get("state")
		if oauth.Duplicated(params, "state") != "" {
			state = ""
		}
		return nil, e.tellClient(client, redirectURI, state, false, err)
	}
	if again != "" {
		return redirect{to: e.path + "/authorize?" + again}, nil
	}
	var set []*http.Cookie
	tx.Browser, set = e.bindBrowser(r)
	return e.begin(r, client, tx, set, now)
}

// maxQuery is the longest query that the server makes of a request that was posted, in bytes. It
// leaves room for cookies in the header that the server reads.
const maxQuery = 16 << 10

// asQuery returns the query with which the browser repeats by GET a request that a page of another
// site has posted. With such a POST browsers send no cookies (SameSite=Lax): the server would not see
// the session, and would bind the browser anew, so that no login begun in it before could go on.
func asQuery(params url.Values) (string, error) {
	query := params.Encode()
	if len(query) > maxQuery {
		return "", errTooLong
	}
	return query, nil
}

// client finds a client for a page. An unknown client is an error page: there is no
// address to which the user could be sent back.
func (e *endpoints) client(ctx context.Context, id string) (*clients.Client, error) {
	if id == "" {
		return nil, oauth.Errorf(oauth.InvalidRequest, "client_id is required")
	}
	client, err := e.o.Clients.Find(ctx, id)
	if err != nil {
		return nil, clientProblem(err)
	}
	return client, nil
}

// clientProblem is the answer of a page for a client that cannot be found.
func clientProblem(err error) error {
	var document *clients.DocumentError
	switch {
	case errors.Is(err, clients.ErrBlocked):
		return oauth.Errorf(oauth.InvalidRequest, "the application is blocked here")
	case errors.As(err, &document):
		return oauth.Errorf(oauth.InvalidRequest, "the description of the application at %s cannot be used: %v", document.URL, document.Reason)
	case errors.Is(err, clients.ErrUnknown):
		return oauth.Errorf(oauth.InvalidRequest, "the application is not known here (client_id)")
	}
	return unavailable(err)
}

// tellClient chooses who learns of an error once client and redirect URI are verified.
// Before the user has signed in, only a client that the operator configured, or one on
// the user's own machine, is told by redirect. Anybody can register a client, and would
// otherwise get an open redirector (OAuth 2.1 §7.12.2). In all other cases the user
// sees the error, and the host that the browser would have gone to.
func (e *endpoints) tellClient(client *clients.Client, redirectURI, state string, userActed bool, err error) error {
	if is(err, oauth.TemporarilyUnavailable) {
		return err // the user can try again here; the client could not do better
	}
	if userActed || !client.Registered || oauth.IsLoopbackRedirect(redirectURI) {
		return &redirectError{redirectURI: redirectURI, state: state, err: err}
	}
	return &userError{host: hostOf(redirectURI), err: err}
}

// refuse ends a transaction with an error.
func (e *endpoints) refuse(client *clients.Client, tx seal.Login, userActed bool, err error) error {
	return e.tellClient(client, tx.RedirectURI, unpackState(tx.State), userActed, err)
}

// newLogin checks all parts of an authorization request except client and redirect URI.
func (e *endpoints) newLogin(ctx context.Context, client *clients.Client, redirectURI string, params url.Values, now time.Time) (seal.Login, error) {
	if err := checkUnsupported(params); err != nil {
		return seal.Login{}, err
	}
	if err := oauth.CheckDuplicates(params); err != nil {
		return seal.Login{}, err
	}
	if err := oauth.CheckState(params.Get("state")); err != nil {
		return seal.Login{}, err
	}
	challenge, nonce := params.Get("code_challenge"), params.Get("nonce")
	if err := oauth.CheckChallenge(challenge, params.Get("code_challenge_method")); err != nil {
		return seal.Login{}, err
	}
	if len(nonce) > maxNonce {
		return seal.Login{}, oauth.Errorf(oauth.InvalidRequest, "nonce is longer than %d bytes", maxNonce)
	}
	resource, err := e.resource(params.Get("resource"))
	if err != nil {
		return seal.Login{}, err
	}
	scope, err := e.scope(params.Get("scope"), client)
	if err != nil {
		return seal.Login{}, err
	}
	prompt, maxAge, err := prompting(params)
	if err != nil {
		return seal.Login{}, err
	}
	hint, err := e.hinted(ctx, params.Get("id_token_hint"), client)
	switch {
	case errors.Is(err, jwt.ErrUnknownKey):
		prompt = strings.TrimSpace(prompt + " login") // the server cannot tell whose token it is, so the user says
	case err != nil:
		return seal.Login{}, err
	}
	expires := now.Add(loginTTL)
	return seal.Login{
		ID: seal.NewID(expires.Add(jwt.Leeway)), GrantID: e.newGrantID(expires), Epoch: e.o.Store.Epoch(),
		ClientID: client.ID, RedirectURI: redirectURI, State: packState(params.Get("state")),
		Scope: scope, Resource: resource, Challenge: challenge, Nonce: nonce,
		Prompt: prompt, MaxAge: maxAge, Hint: hint, Expires: expires.Unix(),
	}, nil
}

// newGrantID returns the id of a grant that can be made until expires, and whose code can be redeemed
// one code's life later.
func (e *endpoints) newGrantID(expires time.Time) string {
	return seal.NewID(expires.Add(e.o.Lives.Code + e.o.Lives.Refresh + e.o.Lives.Window() + jwt.Leeway))
}

// checkUnsupported refuses features that would change the meaning of the request and do
// not exist here: request objects (RFC 9101), the implicit grant, other response modes.
func checkUnsupported(params url.Values) error {
	switch {
	case params.Has("request"):
		return oauth.Errorf(oauth.RequestNotSupported, "request objects are not supported")
	case params.Has("request_uri"):
		return oauth.Errorf(oauth.RequestURINotSupported, "request objects are not supported")
	case oauth.Duplicated(params, "response_type", "response_mode") != "":
		return nil // refused as duplicates
	case params.Get("response_type") == "":
		return oauth.Errorf(oauth.InvalidRequest, "response_type is required")
	case params.Get("response_type") != "code":
		return oauth.Errorf(oauth.UnsupportedResponseType, "response_type must be code")
	case params.Has("response_mode") && params.Get("response_mode") != "query":
		return oauth.Errorf(oauth.InvalidRequest, "response_mode must be query")
	}
	return nil
}

// resource returns the one audience of the grant (RFC 8707 §2): the requested
// resource, which must be configured, or the only one there is.
func (e *endpoints) resource(requested string) (string, error) {
	if requested == "" {
		if len(e.o.Resources) > 1 {
			return "", oauth.Errorf(oauth.InvalidTarget, "resource is required: this server has several")
		}
		return e.o.Resources[0], nil
	}
	resource, err := oauth.CanonicalResource(requested)
	if err != nil {
		return "", err
	}
	served, ok := e.configured(resource)
	if !ok {
		return "", oauth.Errorf(oauth.InvalidTarget, "resource is not one of this server's: %s", resource)
	}
	return served, nil
}

// configured returns a resource of this server as the operator spells it, which is the audience
// of its tokens.
func (e *endpoints) configured(resource string) (string, bool) {
	for _, r := range e.o.Resources {
		if oauth.SameResource(r, resource) {
			return r, true
		}
	}
	return "", false
}

// scope returns the part of the requested scope that exists and is allowed to the
// client. Other names are left out, not refused, unless nothing remains (RFC 6749 §3.3
// allows both).
func (e *endpoints) scope(requested string, client *clients.Client) ([]string, error) {
	asked, err := oauth.ParseScope(requested)
	if err != nil {
		return nil, err
	}
	if len(asked) == 0 {
		asked = e.defaultScope(client)
	}
	scope := oauth.IntersectScope(asked, e.o.knownScopes())
	// The scope that a client registered is a default and not a limit: the client could
	// register again for more, and clients that step up ask with the id they have. The
	// user decides.
	if !client.Registered && len(client.Scopes) > 0 {
		scope = oauth.IntersectScope(scope, slices.Concat(client.Scopes, clients.AlwaysKnown))
	}
	if len(scope) == 0 {
		return nil, oauth.Errorf(oauth.InvalidScope, "none of the requested scopes can be granted to this client")
	}
	return scope, nil
}

// defaultScope is the scope of a request that names none: all that the client may have,
// except the standard scopes, which change the answer and so must be requested.
func (e *endpoints) defaultScope(client *clients.Client) []string {
	if len(client.DefaultScopes) > 0 {
		return client.DefaultScopes
	}
	scope := slices.DeleteFunc(slices.Clone(client.Scopes), func(name string) bool { return slices.Contains(clients.AlwaysKnown, name) })
	switch {
	case len(scope) > 0:
		return scope
	case len(client.Scopes) > 0:
		return client.Scopes
	}
	return e.o.DefaultScopes
}

// narrow leaves of the requested scope what the user may grant. The rest stays in the transaction,
// because another user may sign in on it.
func (e *endpoints) narrow(tx seal.Login, user users.User) seal.Login {
	tx = whole(tx)
	if scope := e.userScope(tx.Scope, user); len(scope) < len(tx.Scope) {
		tx.Scope, tx.Asked = scope, tx.Scope
	}
	return tx
}

// whole returns a transaction with the requested scope, as it is before a user has signed in.
func whole(tx seal.Login) seal.Login {
	if tx.Asked != nil {
		tx.Scope, tx.Asked = tx.Asked, nil
	}
	return tx
}

// userScope returns the part of scope that the user may grant.
func (e *endpoints) userScope(scope []string, user users.User) []string {
	allowed := user.Scopes
	if allowed == nil {
		allowed = e.o.DefaultScopes
	}
	return oauth.IntersectScope(scope, slices.Concat(allowed, clients.AlwaysKnown))
}

// prompting reads prompt and max_age (OpenID Connect Core §3.1.2.1), which say whether
// the user must sign in or consent again.
func prompting(params url.Values) (prompt string, maxAge *int64, err error) {
	values := strings.Fields(params.Get("prompt"))
	for _, v := range values {
		switch v {
		case "login", "consent", "select_account":
		case "none":
			if len(values) > 1 {
				return "", nil, oauth.Errorf(oauth.InvalidRequest, "prompt=none excludes every other value")
			}
		default:
			return "", nil, oauth.Errorf(oauth.InvalidRequest, "prompt must be none, login or consent")
		}
	}
	if raw := params.Get("max_age"); raw != "" {
		age, err := strconv.ParseUint(raw, 10, 31)
		if err != nil {
			return "", nil, oauth.Errorf(oauth.InvalidRequest, "max_age must be a number of seconds")
		}
		seconds := int64(age)
		maxAge = &seconds
	}
	return strings.Join(values, " "), maxAge, nil
}

// hinted returns the subject of an id_token_hint (OpenID Connect Core §3.1.2.1), or "" if there is
// none. The hint must be an id token that this server gave to the client at some time. The error is
// jwt.ErrUnknownKey for a token whose key no longer exists.
func (e *endpoints) hinted(ctx context.Context, hint string, client *clients.Client) (string, error) {
	if hint == "" {
		return "", nil
	}
	claims, err := jwt.VerifyIDHint(ctx, e.o.Keys, e.o.Issuer, hint)
	switch {
	case errors.Is(err, jwt.ErrUnknownKey):
		return "", err
	case errors.Is(err, jwt.ErrInvalid), err == nil && claims.Audience != client.ID:
		return "", oauth.Errorf(oauth.InvalidRequest, "id_token_hint is not an id token of this client").Because(err)
	case err != nil:
		return "", unavailable(err)
	}
	return claims.Subject, nil
}

// checkHint refuses a user other than the one for whom the client asks. No user but that one may
// come back to it (OpenID Connect Core §3.1.2.1).
func checkHint(tx seal.Login, user users.User) error {
	if tx.Hint != "" && tx.Hint != user.Subject {
		return oauth.Errorf(oauth.LoginRequired, "the user who signed in is not the one of id_token_hint")
	}
	return nil
}

func prompts(tx seal.Login, value string) bool {
	return slices.Contains(strings.Fields(tx.Prompt), value)
}

// begin sends the browser to the page that comes next: the login page; with a live
// session the consent page; or, if the user has given exactly this consent before, back
// to the client with a code.
func (e *endpoints) begin(r *http.Request, client *clients.Client, tx seal.Login, set []*http.Cookie, now time.Time) (any, error) {
	who, err := e.session(r, now)
	if err != nil && !errors.Is(err, errNoSession) {
		return nil, err
	}
	reuse := err == nil && e.mayReuse(who.session, tx, now) && checkHint(tx, who.user) == nil
	if reuse {
		if reuse, err = e.holdsToken(r.Context(), who.user.Subject); err != nil {
			return nil, err
		}
	}
	if reuse {
		// If this account may grant no requested scope, another account of the user may.
		if narrowed := e.narrow(tx, who.user); len(narrowed.Scope) > 0 {
			return e.goOn(r, client, narrowed, who, set, now)
		}
	}
	if prompts(tx, "none") {
		err := oauth.Errorf(oauth.LoginRequired, "the user has to sign in")
		return nil, e.refuse(client, tx, false, err)
	}
	return e.toLogin(tx, set)
}

// mayReuse reports whether the session may replace a login. The client's request may forbid
// it. On this machine it never may: browsers send the cookies of localhost to all of its
// ports (RFC 6265 §8.5), so whatever program listens on another port has them, and could
// begin a request of its own with them.
func (e *endpoints) mayReuse(sess seal.Session, tx seal.Login, now time.Time) bool {
	if e.local || prompts(tx, "login") || prompts(tx, "select_account") {
		return false
	}
	if tx.MaxAge == nil {
		return true
	}
	// 0 means prompt=login, also in the second of the login (OpenID Connect Core §3.1.2.1).
	return *tx.MaxAge > 0 && now.Unix()-sess.AuthTime <= *tx.MaxAge
}

// goOn continues a transaction for a user who is signed in.
func (e *endpoints) goOn(r *http.Request, client *clients.Client, tx seal.Login, who signedIn, set []*http.Cookie, now time.Time) (any, error) {
	tx.Provider = "" // which the user may have chosen first
	tx.Subject, tx.UserVersion, tx.AuthTime, tx.Session = who.user.Subject, who.user.Version, who.session.AuthTime, who.session.ID
	g, err := e.remembered(r.Context(), tx, client, now)
	switch {
	case err != nil && !errors.Is(err, errAsk):
		return nil, err
	case err == nil:
		if err := e.answer(r.Context(), tx); err != nil {
			return nil, err
		}
		to, err := e.conclude(r, client, tx, g, now, "remembered")
		if err != nil {
			return nil, err
		}
		return redirect{to: to, cookies: set}, nil
	case prompts(tx, "none"):
		// The user is signed in, but has done nothing for this client.
		err := oauth.Errorf(oauth.ConsentRequired, "the user has to consent")
		return nil, e.refuse(client, tx, false, err)
	}
	return e.toPage("/consent", tx, set)
}

// toPage redirects to one of the server's pages with the transaction.
func (e *endpoints) toPage(path string, tx seal.Login, set []*http.Cookie) (any, error) {
	raw, err := e.sealLogin(tx, seal.MaxSize)
	if err != nil {
		return nil, err
	}
	return redirect{to: e.path + path + "?state=" + raw, cookies: set}, nil
}
