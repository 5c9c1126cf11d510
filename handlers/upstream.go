package handlers

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"signet/handlers/pages"
	"signet/internal/admission"
	"signet/internal/denylist"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/internal/throttle"
	"signet/internal/upstream"
	"signet/internal/vault"
	"signet/jwt"
	"signet/users"
)

// callbackPath is where providers send browsers back, below the issuer's path. It is registered
// at the providers.
const callbackPath = "/oauth/callback"

// spentUpstream is the kind of spent ids that are logins which came back from a provider.
const spentUpstream = "upstream login"

// ways are the ways to sign in.
type ways struct {
	form      bool // with a name and a password that the source of users checks
	providers []*upstream.Provider
}

func (e *endpoints) ways() ways {
	w := ways{form: e.o.PasswordLogin()}
	if e.o.Upstreams != nil {
		w.providers = e.o.Upstreams.All()
	}
	return w
}

// only returns the provider that is the only way to sign in, or nil.
func (w ways) only() *upstream.Provider {
	if w.form || len(w.providers) != 1 {
		return nil
	}
	return w.providers[0]
}

// provider returns the provider of an id, or nil.
func (e *endpoints) provider(id string) *upstream.Provider {
	if e.o.Upstreams == nil || id == "" {
		return nil
	}
	p, ok := e.o.Upstreams.Get(id)
	if !ok {
		return nil
	}
	return p
}

// byBrowser reports whether users sign in at the provider itself, and not with a password that
// they enter here.
func byBrowser(p *upstream.Provider) bool { return p != nil && p.Kind() != upstream.Password }

// toLogin sends the browser to the page where the user signs in. If that is only possible at one
// provider, the user decides about the client first.
func (e *endpoints) toLogin(tx seal.Login, set []*http.Cookie) (any, error) {
	if p := e.ways().only(); byBrowser(p) {
		return e.choose(tx, p, set)
	}
	return e.toPage(e.o.LoginPath, tx, set)
}

// holdsToken reports whether a session of the user leads to tokens as good as those after a login:
// the session of a user of a provider does only while the vault has something for the user.
func (e *endpoints) holdsToken(ctx context.Context, subject string) (bool, error) {
	id := providerOf(subject)
	if id == "" {
		return true, nil
	}
	p := e.provider(id)
	if p == nil {
		return false, nil
	}
	entry, err := e.entry(ctx, subject, p)
	return entry.Access != "" && (entry.Refresh != "" || !endsSoon(entry, e.o.Store.Now())), err
}

// choose continues a transaction for a user who wants to sign in at the provider. The user decides
// about the client before the browser leaves, because no page of this server follows
// afterwards.
func (e *endpoints) choose(tx seal.Login, p *upstream.Provider, set []*http.Cookie) (any, error) {
	if tx.Subject != "" { // the user wants another account
		tx.Prompt = strings.TrimSpace(tx.Prompt + " select_account")
	}
	tx = whole(tx)
	tx.Provider, tx.Subject, tx.UserVersion, tx.AuthTime, tx.Session = p.ID(), "", "", 0, ""
	if toAccount(tx) {
		return departure{provider: p, tx: tx, cookies: set}, nil
	}
	return e.toPage("/consent", tx, set)
}

// depart sends the browser to the provider. What it needs on its way back lies in a cookie: the
// provider gets a random state and no more. The transaction is spent once the addresses of the
// provider are known: while the provider is down, the user may try again.
func (e *endpoints) depart(r *http.Request, d departure) (any, error) {
	p, tx := d.provider, d.tx
	expires := e.o.Store.Now().Add(loginTTL)
	l := seal.UpstreamLogin{
		ID: seal.NewID(expires.Add(jwt.Leeway)), Provider: p.ID(), Bound: p.Bound(), Login: tx, Verifier: randomText(), Nonce: randomText(),
		Scope: d.granted.scope, Kind: d.granted.kind, Ends: d.granted.ends, Expires: expires.Unix(),
	}
	raw, err := seal.Seal(e.o.Ring, l)
	if err != nil {
		return nil, err
	}
	slot, err := e.enterUpstream(r, "")
	if err != nil {
		return nil, err
	}
	defer slot.Leave()
	prompt := promptAt(tx)
	if prompt == "" && e.cookies.refused(r) == p.Bound() {
		prompt = "select_account"
	}
	to, err := p.AuthorizeURL(r.Context(), upstream.AuthRequest{RedirectURI: e.o.Issuer + callbackPath, State: l.ID, Nonce: l.Nonce, Verifier: l.Verifier, Prompt: prompt})
	if err != nil {
		return nil, providerDown(p, err)
	}
	if err := e.answer(r.Context(), tx); err != nil {
		return nil, err
	}
	set := append(d.cookies, e.cookies.dropLogins(r, len(raw))...)
	return redirect{to: to, cookies: append(set, e.cookies.keepLogin(l.ID, raw)...)}, nil
}

// promptAt is the prompt of the request at a provider (OpenID Connect Core §3.1.2.1): what the
// client asks about the login is asked of the provider. If the client asks for one user, another
// one may be signed in there.
func promptAt(tx seal.Login) string {
	switch {
	case prompts(tx, "login"), tx.MaxAge != nil:
		return "login"
	case prompts(tx, "select_account"), tx.Hint != "":
		return "select_account"
	}
	return ""
}

// randomText returns 32 random bytes as 43 unreserved characters, as a code verifier has them
// (RFC 7636 §4.1).
func randomText() string {
	b := make([]byte, 32)
	rand.Read(b)
	return base64url.EncodeToString(b)
}

// errForeignLogin is the answer for every callback that belongs to no login of this browser.
var errForeignLogin = oauth.Errorf(oauth.InvalidRequest, "this answer belongs to no login that was begun in this browser; start again in the application").WithStatus(http.StatusForbidden)

// callback takes the answer of a provider to an authorization request of this server.
func (e *endpoints) callback(r *http.Request) (any, error) {
	if r.Method != http.MethodGet { // HEAD asks about a page, and must not spend a login
		return nil, oauth.Errorf(oauth.InvalidRequest, "method %s is not allowed here", r.Method).WithStatus(http.StatusMethodNotAllowed)
	}
	query, err := oauth.Query(r)
	if err != nil {
		return nil, err
	}
	if name := oauth.Duplicated(query, "code", "state", "iss", "error", "error_description"); name != "" {
		return nil, oauth.Errorf(oauth.InvalidRequest, "%s occurs more than once", name)
	}
	now := e.o.Store.Now()
	l, err := e.opened(r, query.Get("state"), now)
	if err != nil {
		return nil, err
	}
	if isConnect(l) {
		return e.connectCallback(r, l, connectAnswer{query.Get("state"), query.Get("code"), query.Get("iss"), query.Get("error"), query.Get("error_description")})
	}
	p := e.provider(l.Provider)
	if p == nil || p.Bound() != l.Bound {
		return nil, oauth.Errorf(oauth.InvalidRequest, "this way to sign in has changed; start again in the application")
	}
	slot, err := e.enterUpstream(r, "")
	if err != nil {
		return nil, err
	}
	defer slot.Leave()
	if err := p.CheckIssuer(r.Context(), query.Get("iss")); err != nil {
		return nil, fromProvider(p, err)
	}
	err = e.o.Denylist.SpendID(r.Context(), spentUpstream, l.ID, time.Unix(l.Expires, 0).Add(jwt.Leeway))
	switch {
	case errors.Is(err, denylist.ErrSpent):
		return nil, errForeignLogin
	case err != nil:
		return nil, unavailable(err)
	}
	result, err := e.arrive(r, p, l, query.Get("code"), query.Get("error"), query.Get("error_description"))
	var toClient *redirectError
	set := e.cookies.forgetLogin(r, l.ID)
	switch {
	case errors.Is(err, errNotAllowed):
		set = append(set, e.cookies.keepRefused(p.Bound()))
	case err == nil && e.cookies.refused(r) != "":
		set = append(set, e.cookies.forgetRefused())
	}
	if err != nil && !errors.As(err, &toClient) {
		return nil, &loginOver{err, set}
	}
	if to, ok := result.(redirect); ok {
		to.cookies = append(to.cookies, set...)
		return to, nil
	}
	return result, err
}

// loginOver is an error that ends a login at a provider, with the cookies that go.
type loginOver struct {
	err     error
	cookies []*http.Cookie
}

func (e *loginOver) Error() string { return e.err.Error() }
func (e *loginOver) Unwrap() error { return e.err }

// arrive ends a login at a provider, whose state has been spent.
func (e *endpoints) arrive(r *http.Request, p *upstream.Provider, l seal.UpstreamLogin, code, problem, description string) (any, error) {
	ev := event{name: "login", reason: "by " + p.ID()}
	if problem != "" || code == "" {
		err := e.notSignedIn(r, p, l, problem, description)
		e.audit(r, event{name: ev.name}, err)
		return nil, err
	}
	identity, tokens, err := p.Exchange(r.Context(), upstream.Callback{Code: code, Verifier: l.Verifier, Nonce: l.Nonce, RedirectURI: e.o.Issuer + callbackPath})
	if err != nil {
		err = fromProvider(p, err)
		e.audit(r, event{name: ev.name}, err)
		return nil, err
	}
	user, err := e.admit(r.Context(), p, identity, tokens)
	ev.subject = user.Subject
	if err != nil {
		err = fromProvider(p, err)
		e.audit(r, event{name: ev.name, subject: user.Subject}, err)
		return nil, err
	}
	e.audit(r, ev, nil)
	now := e.o.Store.Now() // the provider may have taken its time
	authTime := now.Unix()
	if identity.AuthTime != 0 {
		authTime = min(authTime, identity.AuthTime)
	}
	return e.goBack(r, l, user, authTime, now)
}

// notSignedIn is the answer if the provider says that the user did not sign in (OAuth 2.1
// §4.1.2.1). The client learns only that access was denied: the rest is not about its request.
func (e *endpoints) notSignedIn(r *http.Request, p *upstream.Provider, l seal.UpstreamLogin, problem, description string) error {
	switch problem {
	case "":
		return oauth.Errorf(oauth.InvalidRequest, "the answer of %s has no code; start again in the application", p.Name())
	case "access_denied", "login_required", "consent_required", "interaction_required", "account_selection_required":
		if toAccount(l.Login) {
			return oauth.Errorf(oauth.AccessDenied, "%s says that you did not sign in", p.Name())
		}
		client, err := e.client(r.Context(), l.Login.ClientID)
		if err != nil {
			return err
		}
		return e.refuse(client, l.Login, true, oauth.Errorf(oauth.AccessDenied, "the user did not sign in"))
	case "temporarily_unavailable", "server_error":
		return providerDown(p, fmt.Errorf("%s", plain(problem+" "+description, maxHost)))
	}
	return oauth.Errorf(oauth.InvalidRequest, "%s refused the request: %s; start again in the application", p.Name(), plain(problem+" "+description, maxHost))
}

// fromProvider makes an answer for the user of an error of package upstream or vault.
func fromProvider(p *upstream.Provider, err error) error {
	switch {
	case errors.Is(err, upstream.ErrNotAllowed), errors.Is(err, vault.ErrDisabled):
		return errNotAllowed
	case errors.Is(err, upstream.ErrIssuer):
		return oauth.Errorf(oauth.InvalidRequest, "this answer is not of %s; start again in the application", p.Name()).Because(err)
	case errors.Is(err, upstream.ErrRefused):
		return oauth.Errorf(oauth.InvalidRequest, "%s refused the login; start again in the application", p.Name()).Because(err)
	case errors.Is(err, vault.ErrUnknown), is(err, oauth.TemporarilyUnavailable):
		return unavailable(err)
	}
	return providerDown(p, err)
}

var errNotAllowed = oauth.Errorf(oauth.AccessDenied, "this account may not sign in here").WithStatus(http.StatusForbidden)

// providerDown is the answer if a provider gives no verdict.
func providerDown(p *upstream.Provider, err error) error {
	return unavailable(fmt.Errorf("upstream %s: %w", p.ID(), err))
}

// admit stores the account and the tokens of a user who has signed in at a provider, and returns
// the user. The tokens come last: then the user is known whenever they are there.
func (e *endpoints) admit(ctx context.Context, p *upstream.Provider, who upstream.Identity, tokens upstream.Tokens) (users.User, error) {
	if err := p.Permit(who); err != nil {
		return users.User{}, err
	}
	subject := subjectAt(p, who.ID)
	account := seal.Account{Subject: subject, Name: who.Name, Email: who.Email, DisplayName: who.DisplayName, Picture: who.Picture, Scopes: who.Scopes, NoScope: who.Scopes != nil && len(who.Scopes) == 0}
	if _, err := e.o.Vault.SignedIn(ctx, vault.Account{Account: account, Provider: p.ID(), Session: who.Session}); err != nil {
		if errors.Is(err, vault.ErrDisabled) {
			return users.User{Subject: subject}, err
		}
		return users.User{Subject: subject}, unavailable(err)
	}
	if _, err := e.o.Vault.Put(ctx, credential(subject, p, tokens)); err != nil {
		return users.User{Subject: subject}, unavailable(err)
	}
	user, err := e.o.Users.Lookup(ctx, subject)
	switch {
	case errors.Is(err, users.ErrUnknown), err == nil && e.subjectOfClient(user):
		return users.User{Subject: subject}, upstream.ErrNotAllowed
	case err != nil:
		return users.User{Subject: subject}, unavailable(err)
	}
	return user, nil
}

// subjectAt is the subject of the user with an id at a provider.
func subjectAt(p *upstream.Provider, id string) string {
	return users.UpstreamPrefix + p.ID() + ":" + id
}

// providerOf returns the id of the provider in the subject of a user, or "".
func providerOf(subject string) string {
	rest, ok := strings.CutPrefix(subject, users.UpstreamPrefix)
	if !ok {
		return ""
	}
	id, _, _ := strings.Cut(rest, ":")
	return id
}

// goBack sends a user who has signed in at a provider to the account page, or to the client with
// the code that the user has approved.
func (e *endpoints) goBack(r *http.Request, l seal.UpstreamLogin, user users.User, authTime int64, now time.Time) (any, error) {
	who, cookie, err := e.newSession(user, authTime, now)
	if err != nil {
		return nil, err
	}
	tx := l.Login
	if toAccount(tx) {
		return redirect{to: e.afterLogin(tx), cookies: []*http.Cookie{cookie}}, nil
	}
	client, err := e.client(r.Context(), tx.ClientID)
	if err != nil {
		return nil, err
	}
	if _, err := client.RedirectURI(tx.RedirectURI); err != nil {
		return nil, oauth.Errorf(oauth.InvalidRequest, "the application has changed; start again there").Because(err)
	}
	if err := errors.Join(checkHint(tx, user), checkAuthTime(l, authTime)); err != nil {
		return nil, e.refuse(client, tx, true, err)
	}
	g := granted{scope: e.userScope(l.Scope, user), kind: l.Kind, ends: l.Ends}
	tx.Scope = e.userScope(tx.Scope, user)
	if nothing(g.scope) && !nothing(l.Scope) {
		err := oauth.Errorf(oauth.InvalidScope, "the user may not grant any of the requested scopes")
		return nil, e.refuse(client, tx, true, err)
	}
	tx.Subject, tx.UserVersion, tx.AuthTime, tx.Session = user.Subject, user.Version, who.session.AuthTime, who.session.ID
	to, err := e.conclude(r, client, tx, g, now, "")
	if err != nil {
		return nil, err
	}
	return redirect{to: to, cookies: []*http.Cookie{cookie}}, nil
}

// checkAuthTime refuses a login for which the provider did not have the user sign in again, although
// the client's request demands it (OpenID Connect Core §3.1.2.1).
func checkAuthTime(l seal.UpstreamLogin, authTime int64) error {
	since := time.Unix(l.Expires, 0).Add(-loginTTL - jwt.Leeway).Unix() // when the browser left
	switch tx := l.Login; {
	case prompts(tx, "login"):
	case tx.MaxAge != nil:
		since -= *tx.MaxAge
	default:
		return nil
	}
	if authTime < since {
		return oauth.Errorf(oauth.LoginRequired, "the user has not signed in again")
	}
	return nil
}

// signInAt checks a name and a password at a provider.
func (e *endpoints) signInAt(r *http.Request, p *upstream.Provider, name, password string) (users.User, error) {
	who, tokens, err := p.Login(r.Context(), name, password)
	if errors.Is(err, upstream.ErrCredentials) {
		return users.User{}, users.ErrInvalid
	}
	if err != nil {
		return users.User{}, fmt.Errorf("upstream %s: %w", p.ID(), err)
	}
	return e.admit(r.Context(), p, who, tokens)
}

// enterUpstream takes a slot of the requests that wait for providers. account may be empty.
func (e *endpoints) enterUpstream(r *http.Request, account string) (admission.Slot, error) {
	caller := admission.Caller{Account: account}
	if address := e.addressOf(r); address.IsValid() {
		caller.Address = throttle.Network(address)
	}
	return e.o.Admission.Upstream.EnterAs(r.Context(), caller)
}

// buttons are the providers as the login page shows them, without the one whose form it is.
func (w ways) buttons(shown *upstream.Provider) (list []pages.Way) {
	for _, p := range w.providers {
		if p != shown {
			list = append(list, pages.Way{ID: p.ID(), Name: p.Name()})
		}
	}
	return list
}

// callbackClient is the client id of the login that a callback belongs to.
func (e *endpoints) callbackClient(r *http.Request) string {
	query, err := oauth.Query(r)
	if err != nil {
		return ""
	}
	l, err := seal.Open[seal.UpstreamLogin](e.o.Ring, e.cookies.login(r, query.Get("state")))
	if err != nil {
		return ""
	}
	return l.Login.ClientID
}

// A login at a provider lies in one cookie, or in several parts if it is long: browsers keep 4096
// bytes of a cookie (RFC 6265 §6.1).
const (
	cookiePart  = 3600
	cookieParts = 3
	keptLogins  = 4       // that one browser may have begun at a time
	keptBytes   = 6 << 10 // of them: many proxies take 8 KB of cookies (nginx, large_client_header_buffers)
)

func (c cookies) loginPart(state string, part int) string {
	return fmt.Sprintf("%s_%s_%d", c.upstream, state, part)
}

// keepLogin returns the cookies of a login.
func (c cookies) keepLogin(state, raw string) (set []*http.Cookie) {
	for i, part := range slices.Collect(slices.Chunk([]byte(raw), cookiePart)) {
		set = append(set, c.make(c.loginPart(state, i), string(part), loginTTL))
	}
	return set
}

// login returns what the request's cookies hold under the name of a state, or "". Who goes on with
// the login in it checks first that it has that state.
func (c cookies) login(r *http.Request, state string) string {
	var raw strings.Builder
	for i := range cookieParts {
		part, err := r.Cookie(c.loginPart(state, i))
		if err != nil {
			break
		}
		raw.WriteString(part.Value)
	}
	return raw.String()
}

// forgetLogin deletes the cookies of a login.
func (c cookies) forgetLogin(r *http.Request, state string) (set []*http.Cookie) {
	for i := range cookieParts {
		name := c.loginPart(state, i)
		if _, err := r.Cookie(name); err == nil {
			set = append(set, c.make(name, "", -time.Second))
		}
	}
	return set
}

// keepRefused remembers a provider whose user may not sign in here. It remembers its user too, and
// would answer the next login with the same one at once.
func (c cookies) keepRefused(bound string) *http.Cookie {
	return c.make(c.upstream+"_refused", bound, loginTTL)
}

// refused returns what keepRefused has kept in this browser, or "".
func (c cookies) refused(r *http.Request) string {
	cookie, err := r.Cookie(c.upstream + "_refused")
	if err != nil {
		return ""
	}
	return cookie.Value
}

func (c cookies) forgetRefused() *http.Cookie {
	return c.make(c.upstream+"_refused", "", -time.Second)
}

// dropLogins deletes the oldest logins of a browser that has begun too many, or too long ones, for
// another one of size bytes. Their states begin with the time, so that they sort by it.
func (c cookies) dropLogins(r *http.Request, size int) (set []*http.Cookie) {
	sizes := map[string]int{}
	for _, cookie := range r.Cookies() {
		rest, ok := strings.CutPrefix(cookie.Name, c.upstream+"_")
		if state, _, cut := strings.Cut(rest, "_"); ok && cut {
			sizes[state] += len(cookie.Value)
			size += len(cookie.Value)
		}
	}
	for _, state := range slices.Sorted(maps.Keys(sizes)) {
		if len(sizes) < keptLogins && size <= keptBytes {
			break
		}
		set = append(set, c.forgetLogin(r, state)...)
		size -= sizes[state]
		delete(sizes, state)
	}
	return set
}
