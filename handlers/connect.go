package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"signet/handlers/pages"
	"signet/internal/clients"
	"signet/internal/denylist"
	"signet/internal/gatewayconfig"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/internal/upstream"
	"signet/jwt"
)

// spentConnect is the kind of spent ids that are answers of providers to a user who connects one.
const spentConnect = "connect"

var errOtherUser = oauth.Errorf(oauth.AccessDenied, "this link is for another user").WithStatus(http.StatusForbidden)

// authorizeOrConnect serves the path of the links at which users connect a provider. It is also a
// path of the authorization endpoint: a request without a client that names a server or a
// provider is not one of a client.
func (e *endpoints) authorizeOrConnect(r *http.Request) (any, error) {
	if r.Method != http.MethodPost && e.o.Connections != nil {
		query, err := oauth.Query(r)
		if err == nil && !query.Has("client_id") && (query.Has("server_id") || query.Has("provider")) {
			return e.followLink(r, query)
		}
	}
	return e.authorize(r)
}

// linkParams are the parameters of a link.
var linkParams = []string{"server_id", "provider", "scope", "return_to", "for"}

// followLink asks the user of a link whether to connect what it names. A user who is not signed in
// signs in first.
func (e *endpoints) followLink(r *http.Request, query url.Values) (any, error) {
	if name := oauth.Duplicated(query, linkParams...); name != "" {
		return nil, oauth.Errorf(oauth.InvalidRequest, "%s occurs more than once", name)
	}
	l, err := e.named(r.Context(), query)
	switch {
	case err != nil:
		return nil, err
	case l == nil:
		return redirect{to: e.path + "/oauth/error?msg=" + url.QueryEscape("no such server or provider, or nothing that users connect"), status: http.StatusFound}, nil
	}
	scope, err := l.part(query.Get("scope"))
	if err != nil {
		return nil, err
	}
	now := e.o.Store.Now()
	tx, set := e.newConnect(r, now)
	who, err := e.session(r, now)
	switch {
	case errors.Is(err, errNoSession):
		tx.Connect = &seal.Connect{Query: r.URL.RawQuery}
		return e.toLogin(tx, set)
	case err != nil:
		return nil, err
	case query.Has("for") && query.Get("for") != oauth.ConnectionUser(e.o.Issuer, who.user.Subject):
		e.audit(r, event{name: "connect", subject: who.user.Subject}, errOtherUser)
		return nil, errOtherUser
	}
	tx.Subject, tx.UserVersion, tx.AuthTime, tx.Session = who.user.Subject, who.user.Version, who.session.AuthTime, who.session.ID
	if query.Has("scope") {
		if scope, err = e.withAllowed(r.Context(), holderOf(who.user.Subject, who.user.Version), l, scope); err != nil {
			return nil, err
		}
	}
	tx.Connect = &seal.Connect{Only: l.ID, Scope: scope, Return: e.samePath(query.Get("return_to"))}
	result, err := e.showConnect(tx, "", accountName(who.user), "", []*link{l})
	if p, ok := result.(page); ok {
		p.cookies = set
		return p, err
	}
	return result, err
}

// newConnect begins a transaction in which a user connects something.
func (e *endpoints) newConnect(r *http.Request, now time.Time) (seal.Login, []*http.Cookie) {
	expires := now.Add(loginTTL)
	tx := seal.Login{ID: seal.NewID(expires.Add(jwt.Leeway)), Epoch: e.o.Store.Epoch(), Expires: expires.Unix()}
	var set []*http.Cookie
	tx.Browser, set = e.bindBrowser(r)
	return tx, set
}

// named returns the link that a query names by a server or a provider, or nil.
func (e *endpoints) named(ctx context.Context, query url.Values) (*link, error) {
	server, provider := query.Get("server_id"), query.Get("provider")
	if server != "" && provider != "" {
		return nil, oauth.Errorf(oauth.InvalidRequest, "server_id and provider exclude each other")
	}
	return e.find(ctx, func(c *gatewayconfig.Connection) bool {
		if c.Own {
			return false
		}
		return server != "" && slices.Contains(c.Servers, server) || provider != "" && c.ID == connectionID(provider)
	})
}

// connectionID is the id of the connection for a provider as the configuration names it.
func connectionID(provider string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(provider))
}

// part returns the requested scopes, which must be some of the configured ones, if there are any; none
// means all.
func (l *link) part(requested string) ([]string, error) {
	scope, err := oauth.ParseScope(requested)
	switch {
	case err != nil:
		return nil, err
	case len(scope) == 0:
		return l.Scopes, nil
	case (l.Key || len(l.Scopes) > 0) && !oauth.ScopeIsSubset(scope, l.Scopes):
		return nil, oauth.Errorf(oauth.InvalidScope, "scope must be a part of what is configured for %s", l.ID)
	}
	return scope, nil
}

// withAllowed adds to requested scopes those that a user has allowed before: a token has what the last
// request has asked for.
func (e *endpoints) withAllowed(ctx context.Context, who holder, l *link, requested []string) ([]string, error) {
	entry, err := e.connected(ctx, who, l)
	if err != nil || entry.Access == "" {
		return requested, err
	}
	all := slices.Clone(requested)
	for _, scope := range entry.Scope {
		if !slices.Contains(all, scope) && (len(l.Scopes) == 0 || slices.Contains(l.Scopes, scope)) {
			all = append(all, scope)
		}
	}
	return all, nil
}

// samePath returns the path, with its query, of an address of this origin. Any other address has
// none.
func (e *endpoints) samePath(raw string) string {
	if rest, ok := strings.CutPrefix(raw, e.origin); ok {
		if raw = rest; raw == "" {
			raw = "/"
		}
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil, !strings.HasPrefix(raw, "/"), u.Host != "", strings.HasPrefix(u.Path, "//"), len(raw) > 1024:
		return ""
	case strings.ContainsFunc(raw+u.Path, func(r rune) bool { return r <= ' ' || r == '\\' || r == 0x7f }):
		return ""
	}
	return raw
}

// afterLogin is the path where a login that no client asked for ends.
func (e *endpoints) afterLogin(tx seal.Login) string {
	if tx.Connect != nil {
		return e.path + oauth.ConnectionPath + "?" + tx.Connect.Query
	}
	return e.path + "/account"
}

// showConnect shows what the user may connect. client is the name of the client that waits, or
// empty.
func (e *endpoints) showConnect(tx seal.Login, client, account, problem string, offers []*link) (any, error) {
	raw, err := e.sealLogin(tx, seal.MaxSize)
	if err != nil {
		return nil, err
	}
	data := pages.Connect{State: raw, Account: account, Client: client, Problem: problem}
	for _, l := range offers {
		offer := pages.Offer{ID: l.ID, Name: plain(l.Name, maxName), Servers: l.Servers, Key: l.Key}
		if !l.Key {
			offer.Host, offer.Scopes = l.host(), l.scopes()
		}
		if tx.Connect.Only != "" && len(tx.Connect.Scope) > 0 {
			offer.Scopes = tx.Connect.Scope
		}
		data.Offers = append(data.Offers, offer)
	}
	status := http.StatusOK
	if problem == "connect.bad_key" {
		status = http.StatusBadRequest
	}
	return page{status: status, data: data}, nil
}

// openConnect opens a transaction in which the user of this browser connects something.
func (e *endpoints) openConnect(r *http.Request, raw string, now time.Time) (seal.Login, error) {
	tx, err := e.openTransaction(r, raw, now)
	if err != nil {
		return seal.Login{}, err
	}
	if tx.Connect == nil || tx.Subject == "" {
		return seal.Login{}, oauth.Errorf(oauth.InvalidRequest, "this request connects nothing")
	}
	return tx, e.checkConsentSession(r, tx, now)
}

// offers are what a transaction offers to the user.
func (e *endpoints) offers(ctx context.Context, tx seal.Login) ([]*link, error) {
	if tx.Connect.Only == "" {
		return e.lacks(ctx, holderOf(tx.Subject, tx.UserVersion))
	}
	l, err := e.linkOf(ctx, tx.Connect.Only)
	if err != nil || l == nil || l.Own {
		return nil, errors.Join(err, errNoConnection)
	}
	return []*link{l}, nil
}

// connectProblems are the messages that the page may show.
var connectProblems = map[string]string{"denied": "connect.denied", "down": "connect.down", "bad_key": "connect.bad_key"}

// connectPage shows what is left to connect after a login.
func (e *endpoints) connectPage(r *http.Request) (any, error) {
	query, err := params(r)
	if err != nil {
		return nil, err
	}
	now := e.o.Store.Now()
	tx, err := e.openConnect(r, query.Get("state"), now)
	if err != nil {
		return nil, err
	}
	return e.showOffers(r, tx, connectProblems[query.Get("problem")], now)
}

// showOffers shows what a transaction offers, or ends it if there is nothing left.
func (e *endpoints) showOffers(r *http.Request, tx seal.Login, problem string, now time.Time) (any, error) {
	offers, err := e.offers(r.Context(), tx)
	if err != nil {
		return nil, err
	}
	if len(offers) == 0 {
		return e.endConnect(r, tx, now)
	}
	user, err := e.lookup(r.Context(), tx.Subject, tx.UserVersion)
	if err != nil {
		return nil, oauth.Errorf(oauth.InvalidRequest, "your account has changed; start again in the application").Because(err)
	}
	name := ""
	if tx.ClientID != "" {
		client, err := e.client(r.Context(), tx.ClientID)
		if err != nil {
			return nil, err
		}
		if name = clientName(client); name == "" {
			name = e.pages.Text(r.Header.Get("Accept-Language"), "client.unnamed")
		}
	}
	return e.showConnect(tx, name, accountName(user), problem, offers)
}

// connect takes what the user decides on the page.
func (e *endpoints) connect(r *http.Request) (any, error) {
	now := e.o.Store.Now()
	tx, err := e.openConnect(r, r.PostForm.Get("state"), now)
	if err != nil {
		return nil, err
	}
	offers, err := e.offers(r.Context(), tx)
	if err != nil {
		return nil, err
	}
	switch r.PostForm.Get("decision") {
	case "later":
		return e.later(r, tx, offers, now)
	case "connect":
	default:
		return nil, oauth.Errorf(oauth.InvalidRequest, "decision must be connect or later")
	}
	id := r.PostForm.Get("connection")
	i := slices.IndexFunc(offers, func(l *link) bool { return l.ID == id })
	switch {
	case i < 0 && tx.Connect.Only == "": // it was made in another tab
		return e.showOffers(r, tx, "", now)
	case i < 0:
		return nil, errNoConnection
	case !offers[i].Key:
		return departure{link: offers[i], tx: tx}, nil
	}
	err = e.keepKey(r.Context(), holderOf(tx.Subject, tx.UserVersion), offers[i], r.PostForm.Get("key"))
	if errors.Is(err, errBadKey) {
		return e.showOffers(r, tx, "connect.bad_key", now)
	}
	if err != nil {
		return nil, err
	}
	e.audit(r, event{name: "connect", subject: tx.Subject, reason: id}, nil)
	return e.goOnConnecting(r, tx, now)
}

// later ends a transaction without further connections. At a login they are put off for good: the
// account page offers them.
func (e *endpoints) later(r *http.Request, tx seal.Login, offers []*link, now time.Time) (any, error) {
	if tx.Connect.Only != "" {
		return redirect{to: e.path + "/account"}, nil
	}
	for _, l := range offers {
		if err := e.putOff(r.Context(), holderOf(tx.Subject, tx.UserVersion), l); err != nil {
			return nil, err
		}
	}
	return e.endConnect(r, tx, now)
}

// goOnConnecting continues after a connection was made.
func (e *endpoints) goOnConnecting(r *http.Request, tx seal.Login, now time.Time) (any, error) {
	switch left, err := e.leftToConnect(r.Context(), tx); {
	case err != nil:
		return nil, err
	case left:
		return e.toPage("/oauth/connect", tx, nil)
	}
	return e.endConnect(r, tx, now)
}

func (e *endpoints) leftToConnect(ctx context.Context, tx seal.Login) (bool, error) {
	if tx.Connect.Only != "" {
		return false, nil
	}
	left, err := e.lacks(ctx, holderOf(tx.Subject, tx.UserVersion))
	return len(left) > 0, err
}

// endConnect sends the browser on: after a link where that says, after a login back to the client
// with the code that the user has approved.
func (e *endpoints) endConnect(r *http.Request, tx seal.Login, now time.Time) (any, error) {
	c := tx.Connect
	if tx.ClientID == "" {
		if c.Return != "" {
			return redirect{to: c.Return}, nil
		}
		return redirect{to: e.path + "/oauth/success"}, nil
	}
	client, err := e.client(r.Context(), tx.ClientID)
	if err != nil {
		return nil, err
	}
	if _, err := client.RedirectURI(tx.RedirectURI); err != nil {
		return nil, oauth.Errorf(oauth.InvalidRequest, "the application has changed; start again there").Because(err)
	}
	if err := e.answer(r.Context(), tx); err != nil {
		return nil, err
	}
	to, err := e.approve(r, client, tx, granted{scope: c.Granted, kind: c.Kind, ends: c.Ends}, now, c.How)
	if err != nil {
		return nil, err
	}
	return redirect{to: to}, nil
}

// conclude returns where the browser goes when the user has approved a request, which is spent:
// back to the client with a code, or first to the page of what the gateway's servers need and the
// user has neither connected nor put off. That is an offer: whatever goes wrong with it does not
// end the login.
func (e *endpoints) conclude(r *http.Request, client *clients.Client, tx seal.Login, g granted, now time.Time, how string) (string, error) {
	to, err := e.offerConnections(r, tx, g, now, how)
	if err != nil {
		e.o.Log.LogAttrs(r.Context(), slog.LevelWarn, "a login goes on without an offer to connect what the gateway's servers need", slog.Any("cause", err))
	}
	if to != "" {
		return to, nil
	}
	return e.approve(r, client, tx, g, now, how)
}

// offerConnections returns the page of the connections that a user lacks, or "" if there are none.
func (e *endpoints) offerConnections(r *http.Request, tx seal.Login, g granted, now time.Time, how string) (string, error) {
	gateway := e.o.GatewayResource == "" || oauth.SameResource(e.o.GatewayResource, tx.Resource)
	if e.o.Connections == nil || !gateway || prompts(tx, "none") {
		return "", nil
	}
	lacks, err := e.lacks(r.Context(), holderOf(tx.Subject, tx.UserVersion))
	if err != nil || len(lacks) == 0 {
		return "", err
	}
	expires := now.Add(loginTTL)
	tx.ID, tx.GrantID, tx.Expires = seal.NewID(expires.Add(jwt.Leeway)), e.newGrantID(expires), expires.Unix()
	tx.Asked = nil // the user has decided
	tx.Connect = &seal.Connect{Granted: g.scope, Kind: g.kind, Ends: g.ends, How: how}
	raw, err := e.sealLogin(tx, seal.MaxSize)
	if err != nil {
		return "", err
	}
	return e.path + "/oauth/connect?state=" + raw, nil
}

// departToConnect sends the browser to the provider of a connection. If that is not possible now, the
// page is shown again, where a user who signs in can choose another way.
func (e *endpoints) departToConnect(r *http.Request, d departure) (any, error) {
	slot, err := e.enterUpstream(r, d.tx.Subject)
	if err != nil {
		return nil, err
	}
	defer slot.Leave()
	to, err := e.toConnection(r, d)
	if is(err, oauth.TemporarilyUnavailable) {
		return e.backToPage(r, d.tx, err, nil)
	}
	return to, err
}

// toConnection leads to the provider of a connection. What is needed on the way back lies in a cookie,
// as for a login.
func (e *endpoints) toConnection(r *http.Request, d departure) (any, error) {
	tx := d.tx
	l, err := e.enrol(r.Context(), d.link)
	if err != nil {
		return nil, err
	}
	scope := l.scopes()
	if tx.Connect.Only != "" && len(tx.Connect.Scope) > 0 {
		scope = tx.Connect.Scope
	}
	expires := e.o.Store.Now().Add(loginTTL)
	u := seal.UpstreamLogin{ID: seal.NewID(expires.Add(jwt.Leeway)), Provider: l.provider(), Bound: l.bound(), Login: tx, Verifier: randomText(), Scope: scope, Expires: min(expires.Unix(), tx.Expires)}
	raw, err := seal.Seal(e.o.Ring, u)
	if err != nil {
		return nil, err
	}
	to, err := l.client.AuthorizeURL(r.Context(), upstream.AuthRequest{RedirectURI: e.o.Issuer + callbackPath, State: u.ID, Verifier: u.Verifier}, scope)
	if err != nil {
		return nil, l.down(err)
	}
	return redirect{to: to, cookies: append(e.cookies.dropLogins(r, len(raw)), e.cookies.keepLogin(u.ID, raw)...)}, nil
}

// connectAnswer is what a provider answered to a user who connects it.
type connectAnswer struct{ state, code, iss, problem, description string }

// connectCallback takes the answer of a provider from the browser.
func (e *endpoints) connectCallback(r *http.Request, u seal.UpstreamLogin, a connectAnswer) (any, error) {
	now := e.o.Store.Now()
	spent, err := e.connectBy(r, u, a, now)
	forget := e.cookies.forgetLogin(r, u.ID)
	switch {
	case err == nil:
	case u.Login.Connect.Only == "" && (spent || is(err, oauth.TemporarilyUnavailable)):
		return e.backToPage(r, u.Login, err, forget)
	default:
		return nil, &loginOver{err, forget}
	}
	result, err := e.goOnConnecting(r, u.Login, now)
	var toClient *redirectError
	if err != nil && !errors.As(err, &toClient) {
		return nil, &loginOver{err, forget}
	}
	if to, ok := result.(redirect); ok {
		to.cookies = append(to.cookies, forget...)
		return to, nil
	}
	return result, err
}

// backToPage shows the page of connections again, because one could not be made.
func (e *endpoints) backToPage(r *http.Request, tx seal.Login, cause error, set []*http.Cookie) (any, error) {
	problem := "denied"
	if !is(cause, oauth.AccessDenied) {
		problem = "down"
		e.o.Log.LogAttrs(r.Context(), slog.LevelWarn, "a user could not connect what servers of the gateway need", slog.String("sub", tx.Subject), slog.Any("cause", cause))
	}
	result, err := e.toPage("/oauth/connect", tx, set)
	if to, ok := result.(redirect); ok {
		to.to += "&problem=" + problem
		return to, nil
	}
	return result, err
}

// opened opens what a browser keeps of a login at a provider whose answer has a state. It must have
// begun in this browser and in this epoch.
func (e *endpoints) opened(r *http.Request, state string, now time.Time) (seal.UpstreamLogin, error) {
	raw := e.cookies.login(r, state)
	if raw == "" {
		return seal.UpstreamLogin{}, errForeignLogin
	}
	u, err := seal.Open[seal.UpstreamLogin](e.o.Ring, raw)
	if err != nil || u.ID != state || !e.begunIn(r, u.Login) {
		return seal.UpstreamLogin{}, errForeignLogin
	}
	if u.Login.Epoch != e.o.Store.Epoch() || now.Unix() >= u.Expires {
		return seal.UpstreamLogin{}, errExpired
	}
	return u, nil
}

// connectBy makes a connection by the answer of a provider, for the user who began in this browser
// and is still signed in there. It is the same whether the browser followed the provider's
// redirect or sent state and code on its own. An error after the answer was spent is the provider's,
// or that its tokens could not be stored.
func (e *endpoints) connectBy(r *http.Request, u seal.UpstreamLogin, a connectAnswer, now time.Time) (spent bool, err error) {
	l, err := e.linkOf(r.Context(), strings.TrimPrefix(u.Provider, oauth.ConnectionAudience))
	switch {
	case err != nil:
		return false, err
	case l == nil || l.Own || l.client == nil || l.bound() != u.Bound:
		return false, oauth.Errorf(oauth.InvalidRequest, "this connection has changed; start again in the application")
	}
	if err := e.checkConnectSession(r, u.Login, now); err != nil {
		return false, err
	}
	slot, err := e.enterUpstream(r, u.Login.Subject)
	if err != nil {
		return false, err
	}
	defer slot.Leave()
	if err := l.client.CheckIssuer(r.Context(), a.iss); err != nil {
		return false, l.problem(err)
	}
	err = e.o.Denylist.SpendID(r.Context(), spentConnect, u.ID, time.Unix(u.Expires, 0).Add(jwt.Leeway))
	switch {
	case errors.Is(err, denylist.ErrSpent):
		return false, errForeignLogin
	case err != nil:
		return false, unavailable(err)
	}
	err = e.redeemLink(r, l, u, a, now)
	e.audit(r, event{name: "connect", subject: u.Login.Subject, reason: l.ID}, err)
	return true, err
}

// checkConnectSession refuses the answer of a provider if the user who asked for it is not signed
// in any more.
func (e *endpoints) checkConnectSession(r *http.Request, tx seal.Login, now time.Time) error {
	err := e.checkConsentSession(r, tx, now)
	if !errors.Is(err, errSessionEnded) {
		return err
	}
	if who, other := e.session(r, now); other == nil && who.user.Subject != tx.Subject {
		return errOtherUser
	}
	return err
}

// redeemLink stores what a provider gives for a code. Nothing of the answer is looked at before
// that: it may be the only copy.
func (e *endpoints) redeemLink(r *http.Request, l *link, u seal.UpstreamLogin, a connectAnswer, now time.Time) error {
	switch a.problem {
	case "":
	case "access_denied", "login_required", "consent_required", "interaction_required":
		return oauth.Errorf(oauth.AccessDenied, "%s says that you did not allow the access", l.Name)
	case "temporarily_unavailable", "server_error":
		return l.down(fmt.Errorf("%s", plain(a.problem+" "+a.description, maxHost)))
	default:
		return oauth.Errorf(oauth.InvalidRequest, "%s refused the request: %s; start again in the application", l.Name, plain(a.problem+" "+a.description, maxHost))
	}
	if a.code == "" {
		return oauth.Errorf(oauth.InvalidRequest, "the answer of %s has no code; start again in the application", l.Name)
	}
	tokens, err := l.client.Redeem(r.Context(), upstream.Callback{Code: a.code, Verifier: u.Verifier, RedirectURI: e.o.Issuer + callbackPath}, u.Scope)
	if err != nil {
		e.forgetClient(r.Context(), l, err)
		return l.problem(err)
	}
	c := l.credential(u.Login.Subject, tokens)
	c.Since, c.User = now.Unix(), holderOf(u.Login.Subject, u.Login.UserVersion).version
	if _, err := e.o.Vault.Put(context.WithoutCancel(r.Context()), c); err != nil {
		return unavailable(err)
	}
	e.connectionChanged(c.Subject, l)
	return nil
}

// problem makes an answer for the user of an error of package upstream.
func (l *link) problem(err error) error {
	switch {
	case errors.Is(err, upstream.ErrIssuer):
		return oauth.Errorf(oauth.InvalidRequest, "this answer is not of %s; start again in the application", l.Name).Because(err)
	case errors.Is(err, upstream.ErrRefused):
		return oauth.Errorf(oauth.InvalidRequest, "%s refused the code; start again in the application", l.Name).Because(err)
	}
	return l.down(err)
}

// connectOK is the answer to a browser that has sent state and code. It has no token.
type connectOK struct {
	OK bool `json:"ok"`
}

// connectMissing is the answer if one of them is missing.
type connectMissing struct {
	Error string `json:"error"`
}

// connectToken takes state and code from the browser that began, as JSON or as a form, in place of
// the provider's redirect; and iss, if the provider has sent it (RFC 9207 §2).
func (e *endpoints) connectToken(r *http.Request, a connectAnswer) (any, error) {
	if a.state == "" || a.code == "" {
		return reply{http.StatusBadRequest, connectMissing{"Missing state or code"}}, nil
	}
	now := e.o.Store.Now()
	u, err := e.opened(r, a.state, now)
	if err == nil && !isConnect(u) {
		err = errForeignLogin
	}
	if err != nil {
		return nil, err
	}
	if _, err := e.connectBy(r, u, a, now); err != nil {
		return nil, err
	}
	return connectOK{true}, nil
}

// isConnect reports whether a login at a provider is that of a user who connects it.
func isConnect(u seal.UpstreamLogin) bool {
	return strings.HasPrefix(u.Provider, oauth.ConnectionAudience) && u.Login.Connect != nil
}

// tokenOrConnect serves a path of the token endpoint at which browsers may also send state and
// code. A form with grant_type is for the token endpoint.
func (e *endpoints) tokenOrConnect(r *http.Request) (any, error) {
	if e.o.Connections == nil || r.PostForm.Has("grant_type") {
		return e.token(r)
	}
	return e.connectToken(r, connectAnswer{state: r.PostForm.Get("state"), code: r.PostForm.Get("code"), iss: r.PostForm.Get("iss")})
}

// connectJSON is tokenOrConnect for JSON.
func (e *endpoints) connectJSON(r *http.Request) (any, error) {
	text, err := io.ReadAll(r.Body)
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		return nil, oauth.Errorf(oauth.InvalidRequest, "body is longer than %d bytes", tooLong.Limit).WithStatus(http.StatusRequestEntityTooLarge)
	case err != nil:
		return nil, oauth.Errorf(oauth.InvalidRequest, "body could not be read").Because(err)
	}
	var body struct{ State, Code, Iss string }
	if err := json.Unmarshal(text, &body); err != nil {
		return nil, oauth.Errorf(oauth.InvalidRequest, "the body is not a JSON object with the strings state, code and iss")
	}
	return e.connectToken(r, connectAnswer{state: body.State, code: body.Code, iss: body.Iss})
}

// byType serves JSON with one route, and everything else with another.
func byType(other, forJSON route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err == nil && media == "application/json" && r.Method == http.MethodPost {
			forJSON.ServeHTTP(w, r)
			return
		}
		other.ServeHTTP(w, r)
	})
}

func (e *endpoints) connectedPage(*http.Request) (any, error) {
	return page{status: http.StatusOK, data: pages.Connected{}}, nil
}

func (e *endpoints) connectFailedPage(r *http.Request) (any, error) {
	query, err := params(r)
	if err != nil {
		return nil, err
	}
	return page{status: http.StatusOK, data: pages.ConnectFailed{Message: plain(query.Get("msg"), maxHost)}}, nil
}

// clientDocumentPath is the path, below the issuer's, of the description of the client that this
// server is at authorization servers where the operator has registered none.
const clientDocumentPath = "/oauth/client.json"

// clientDocument describes this server as a client (OAuth Client ID Metadata Document §4).
type clientDocument struct {
	ClientID      string   `json:"client_id"`
	ClientName    string   `json:"client_name"`
	RedirectURIs  []string `json:"redirect_uris"`
	GrantTypes    []string `json:"grant_types"`
	ResponseTypes []string `json:"response_types"`
	AuthMethod    string   `json:"token_endpoint_auth_method"`
}

func (e *endpoints) serveClientDocument(*http.Request) (any, error) {
	body, err := json.Marshal(clientDocument{
		ClientID: e.o.Issuer + clientDocumentPath, ClientName: e.o.App, RedirectURIs: []string{e.o.Issuer + callbackPath},
		GrantTypes: []string{oauth.GrantAuthorizationCode, oauth.GrantRefreshToken}, ResponseTypes: []string{"code"}, AuthMethod: "none",
	})
	return &document{body: body, etag: entityTag(body), maxAge: time.Hour}, err
}
