package handlers

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"
	"unicode/utf8"

	"signet/internal/admission"
	"signet/internal/clients"
	"signet/internal/denylist"
	"signet/internal/oauth"
	"signet/internal/rawjson"
	"signet/internal/seal"
	"signet/jwt"
	"signet/users"
)

// tokenResponse is the successful answer of the token endpoint (OAuth 2.1 §3.2.3, RFC 8693
// §2.2.1).
type tokenResponse struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in,omitempty"` // 0, of a provider's token: not known
	RefreshToken string `json:"refresh_token,omitempty"`
	IDToken      string `json:"id_token,omitempty"` // OpenID Connect Core §3.1.3.3
	Scope        string `json:"scope,omitempty"`

	IssuedTokenType string `json:"issued_token_type,omitempty"`
	Version         int64  `json:"version,omitempty"` // of a provider's token, for the parameter stale

	// finish, if not nil, completes the answer when the request has left its slot: it may have
	// to wait for a provider.
	finish func(*http.Request) error
}

// write writes what encoding/json would write.
func (t *tokenResponse) write(w *rawjson.Writer) {
	w.Begin()
	w.String("access_token", t.AccessToken)
	w.String("token_type", t.TokenType)
	w.OptionalNumber("expires_in", t.ExpiresIn)
	w.Optional("refresh_token", t.RefreshToken)
	w.Optional("id_token", t.IDToken)
	w.Optional("scope", t.Scope)
	w.Optional("issued_token_type", t.IssuedTokenType)
	w.OptionalNumber("version", t.Version)
	w.End()
}

// grant is a row of the table of grants: how the token endpoint serves one grant type.
type grant struct {
	name  string // grant_type
	rule  func(ctx context.Context, client *clients.Client, form url.Values, now time.Time, ev *event) (*tokenResponse, error)
	class *admission.Class // class of the requests
	event string           // name in the audit log

	offered func() bool // whether a client may use it; nil: always
}

// newGrants returns the table of grants. The metadata lists them in this order.
func (e *endpoints) newGrants() []grant {
	class := e.o.Admission
	return []grant{
		{oauth.GrantAuthorizationCode, e.redeemCode, class.Code, "token", nil},
		{oauth.GrantRefreshToken, e.refresh, class.Refresh, "refresh", nil},
		{oauth.GrantClientCredentials, e.clientCredentials, class.Refresh, "client_credentials", nil}, // a signature and no write
		{oauth.GrantTokenExchange, e.exchange, class.Refresh, "exchange", e.o.Clients.Exchanges},
	}
}

// grant returns the row for a grant type.
func (e *endpoints) grant(name string) (*grant, error) {
	for i := range e.grants {
		if g := &e.grants[i]; g.name == name && (g.offered == nil || g.offered()) {
			return g, nil
		}
	}
	if name == "" {
		return nil, oauth.Errorf(oauth.InvalidRequest, "grant_type is required")
	}
	return nil, oauth.Errorf(oauth.UnsupportedGrantType, "no such grant: %s", name)
}

// token serves the token endpoint (OAuth 2.1 §3.2).
func (e *endpoints) token(r *http.Request) (any, error) {
	grant, err := e.grant(r.PostForm.Get("grant_type"))
	if err != nil {
		return nil, err
	}
	if e.o.Upstreams != nil {
		r = r.WithContext(e.withUpstream(r))
	}
	ev := event{name: grant.event}
	response, err := e.inSlot(r, grant, &ev)
	if err == nil && response.finish != nil {
		err = response.finish(r)
	}
	if ev.judged {
		e.audit(r, ev, err)
	}
	var missing *MissingConnection
	switch {
	case errors.As(err, &missing):
		return missing.answer(), nil
	case err != nil:
		return nil, err
	}
	return response, nil
}

// inSlot authenticates the client of a token request and applies the rule of the grant, in a
// slot of the grant's class.
func (e *endpoints) inSlot(r *http.Request, grant *grant, ev *event) (*tokenResponse, error) {
	slot, err := grant.class.Enter(r.Context())
	if err != nil {
		return nil, err
	}
	defer slot.Leave()
	client, err := e.authenticate(r, ev)
	if err != nil {
		ev.judged = true
		return nil, err
	}
	if !client.MayUse(grant.name) {
		return nil, oauth.Errorf(oauth.UnauthorizedClient, "the client is not registered for this grant: %s", grant.name)
	}
	ev.judged = true
	return grant.rule(r.Context(), client, r.PostForm, e.o.Store.Now(), ev)
}

// authenticate identifies and authenticates the client of a form request. A request
// that names no client has failed to authenticate (OAuth 2.1 §3.2.4), even if a public
// client would have had to send only its id.
func (e *endpoints) authenticate(r *http.Request, ev *event) (*clients.Client, error) {
	client, _, err := e.o.Clients.Authenticate(r.Context(), r.Header, r.PostForm)
	wrong := errors.Is(err, clients.ErrWrongSecret)
	if wrong || err == nil && client.SecretMayBeWeak() {
		if err := e.limitGuesses(r, wrong); err != nil {
			return nil, err
		}
	}
	if err != nil {
		var refusal *oauth.Error
		if !errors.As(err, &refusal) {
			err = unavailable(err)
		}
		return nil, err
	}
	ev.client = client
	return client, nil
}

// limitGuesses refuses a request after too many wrong secrets for its client from its address,
// whether its own secret is wrong or right: the answer would tell. Somebody else at the address,
// such as another user of a hosted client, must not be able to refuse the client's own requests
// that way. These come with a code or token of the client, so they are counted for themselves.
func (e *endpoints) limitGuesses(r *http.Request, wrong bool) error {
	address, id := e.byAddress(r), claimedClient(r)
	keys := []string{address + " " + id}
	err := e.limits.wrongSecret.full(keys[0])
	if err == nil && !wrong {
		return nil
	}
	if grantID := e.provenGrant(r, id); grantID != "" {
		keys = append(keys, address+" "+grantID)
		err = e.limits.wrongSecret.full(keys[1])
	}
	if err == nil && wrong {
		for _, key := range keys {
			_ = e.limits.wrongSecret.take(key) // this request has its answer; full refuses the next
		}
	}
	return err
}

// provenGrant returns the id of the grant whose code or token a request presents, if it is one
// of the client, or "".
func (e *endpoints) provenGrant(r *http.Request, clientID string) string {
	hash := seal.ClientHash(clientID)
	if code, err := seal.Open[seal.Code](e.o.Ring, r.PostForm.Get("code")); err == nil && code.Grant.ClientHash == hash {
		return code.Grant.ID
	}
	for _, raw := range []string{r.PostForm.Get("refresh_token"), r.PostForm.Get("token")} {
		if handle, err := seal.Open[seal.Refresh](e.o.Ring, raw); err == nil && handle.Grant.ClientHash == hash {
			return handle.Grant.ID
		}
	}
	if claims, err := e.o.Verifier.Verify(r.Context(), r.PostForm.Get("token")); err == nil && claims.ClientID == clientID {
		return claims.GrantID
	}
	return ""
}

// claimedClient is the client id that a request claims.
func claimedClient(r *http.Request) string {
	if basic, ok, _ := oauth.Basic(r.Header.Get("Authorization")); ok {
		return basic.DecodedID
	}
	if id := r.PostForm.Get("client_id"); id != "" {
		return id
	}
	return clients.Claimed(r.PostForm)
}

// requestedClient is the client id in an authorization request.
func requestedClient(r *http.Request) string {
	if query, err := params(r); err == nil {
		return query.Get("client_id")
	}
	return ""
}

// pendingClient is the client id in the transaction that a page carries on.
func (e *endpoints) pendingClient(r *http.Request) string {
	if query, err := params(r); err == nil {
		return e.clientOf(query.Get("state"))
	}
	return ""
}

// clientOf is the client id in a sealed transaction, or "".
func (e *endpoints) clientOf(state string) string {
	tx, err := seal.Open[seal.Login](e.o.Ring, state)
	if err != nil {
		return ""
	}
	return tx.ClientID
}

// redeemCode exchanges an authorization code (OAuth 2.1 §4.1.3). A request that fails a
// check leaves the code usable: otherwise anyone who saw a code could end the login by
// presenting it. The request that passes all checks spends it, as the last step.
func (e *endpoints) redeemCode(ctx context.Context, client *clients.Client, form url.Values, now time.Time, ev *event) (*tokenResponse, error) {
	if form.Get("code") == "" {
		return nil, oauth.Errorf(oauth.InvalidRequest, "code is required")
	}
	code, err := seal.Open[seal.Code](e.o.Ring, form.Get("code"))
	if err != nil {
		return nil, oauth.Errorf(oauth.InvalidGrant, "authorization code is not valid")
	}
	g := code.Grant
	ev.subject, ev.grantID = g.Subject, g.ID
	switch {
	case g.ClientHash != client.Hash():
		return nil, oauth.Errorf(oauth.InvalidGrant, "authorization code was issued to another client")
	case g.Epoch != e.o.Store.Epoch():
		return nil, oauth.Errorf(oauth.InvalidGrant, "authorization code is no longer valid")
	}
	// OAuth 2.1 no longer has this parameter (§10.2), but if it is sent it must match.
	if uri := form.Get("redirect_uri"); uri != "" && uri != code.RedirectURI {
		return nil, oauth.Errorf(oauth.InvalidGrant, "Invalid redirect_uri: not the one of the authorization request")
	}
	if err := oauth.CheckVerifier(form.Get("code_verifier"), code.Challenge); err != nil {
		return nil, err
	}
	if now.Unix() >= code.Expires {
		return nil, e.expiredCode(ctx, g, now, ev)
	}
	user, err := e.checkGrant(ctx, g, client, form.Get("resource"))
	if err != nil {
		return nil, err
	}
	if g = e.lose(g, client, user); len(g.Scope) == 0 {
		return nil, errNoScope
	}
	g.Expires = now.Add(e.lives(client).Refresh).Unix()
	if code.Ends != 0 {
		g.Expires = min(g.Expires, code.Ends)
	}
	up, err := heldOf(ctx)
	if err != nil {
		return nil, err
	}
	wall, err := e.ready(client, g)
	if err != nil {
		return nil, err
	}
	handle, err := e.spend(ctx, client, g, 0, now, ev)
	if err != nil {
		return nil, err
	}
	if err := e.checkAgain(ctx, g, now); err != nil {
		return nil, err
	}
	return e.mint(ctx, client, g, issuance{user, g.Scope, code.Nonce, handle, up}, wall)
}

// expiredCode refuses a code that has expired. If it was redeemed before, this is its second use,
// which ends the grant as before the expiry (RFC 6749 §4.1.2): a thief may come late, or first.
func (e *endpoints) expiredCode(ctx context.Context, g seal.Grant, now time.Time, ev *event) error {
	found, err := e.o.Denylist.Find(ctx, g.ID)
	switch {
	case errors.Is(err, denylist.ErrUnknown), errors.Is(err, denylist.ErrRevoked):
		return oauth.Errorf(oauth.InvalidGrant, "authorization code has expired")
	case err != nil:
		return unavailable(err)
	}
	g.Expires = found.Expires // if the grant ends meanwhile, nothing may begin anew
	if _, err := e.o.Denylist.Use(ctx, g.Epoch, row(g, now), 0, now); err != nil {
		return e.refused(err, 0, ev)
	}
	return oauth.Errorf(oauth.InvalidGrant, "authorization code has expired") // unreachable: the grant has a row
}

var errNoScope = oauth.Errorf(oauth.InvalidGrant, "none of the granted scopes is still allowed")

// checkAgain checks the user and the client of a grant whose code has just been spent. If the
// user has changed since [endpoints.checkGrant], or the client was blocked, the grants may have
// been revoked before this one had a row.
func (e *endpoints) checkAgain(ctx context.Context, g seal.Grant, now time.Time) error {
	_, err := e.lookup(ctx, g.Subject, g.UserVersion)
	switch {
	case errors.Is(err, users.ErrUnknown):
		err = errUserChanged
	case err != nil:
		return err
	case e.o.Denylist.Blocked()[g.ClientHash]:
		err = oauth.Errorf(oauth.InvalidClient, "Invalid client: this client is blocked")
	default:
		return nil
	}
	if err := e.o.Denylist.Revoke(ctx, row(g, now), now); err != nil {
		return unavailable(err)
	}
	return err
}

// refresh exchanges a refresh handle (OAuth 2.1 §4.3.1). The request may ask for an
// access token that is narrower than the grant; that does not narrow the next handle
// (§4.3.3).
func (e *endpoints) refresh(ctx context.Context, client *clients.Client, form url.Values, now time.Time, ev *event) (*tokenResponse, error) {
	if form.Get("refresh_token") == "" {
		return nil, oauth.Errorf(oauth.InvalidRequest, "refresh_token is required")
	}
	handle, err := seal.Open[seal.Refresh](e.o.Ring, form.Get("refresh_token"))
	if err != nil {
		return nil, oauth.Errorf(oauth.InvalidGrant, "refresh token is not valid")
	}
	g := handle.Grant
	ev.subject, ev.grantID = g.Subject, g.ID
	switch {
	case g.ClientHash != client.Hash():
		return nil, oauth.Errorf(oauth.InvalidGrant, "refresh token was issued to another client")
	case g.Epoch != e.o.Store.Epoch():
		return nil, oauth.Errorf(oauth.InvalidGrant, "refresh token is no longer valid")
	case handle.Gen < 1 || now.Unix() >= handle.Expires || now.Unix() >= g.Expires:
		return nil, oauth.Errorf(oauth.InvalidGrant, "Token expired")
	}
	user, err := e.checkGrant(ctx, g, client, form.Get("resource"))
	if err != nil {
		return nil, err
	}
	asked, err := oauth.ParseScope(form.Get("scope"))
	if err != nil {
		return nil, err
	}
	if !oauth.ScopeIsSubset(asked, slices.Concat(g.Scope, g.Lost)) { // RFC 6749 §6: the scope originally granted
		return nil, oauth.Errorf(oauth.InvalidScope, "scope was not granted: cannot request more than the refresh token provides")
	}
	granted := g.Scope
	if g = e.lose(g, client, user); len(g.Scope) == 0 {
		return nil, errNoScope
	}
	scope := g.Scope
	if len(asked) > 0 {
		scope = oauth.IntersectScope(asked, scope)
	}
	if len(scope) == 0 {
		return nil, oauth.Errorf(oauth.InvalidScope, "none of the requested scopes is still allowed")
	}
	up, err := heldOf(ctx)
	if err != nil {
		return nil, err
	}
	wall, err := e.ready(client, g)
	if err != nil {
		return nil, err
	}
	next, keep := form.Get("refresh_token"), client.KeyOnly && handle.Expires == g.Expires && slices.Equal(g.Scope, granted)
	if keep {
		keep, err = e.isLatest(ctx, g.ID, handle.Gen)
	}
	if err == nil && !keep {
		next, err = e.spend(ctx, client, g, handle.Gen, now, ev)
	}
	if err != nil {
		return nil, err
	}
	return e.mint(ctx, client, g, issuance{user: user, scope: scope, handle: next, upstream: up}, wall)
}

// isLatest reports whether gen is the latest generation of a live grant. A client that proves a
// key with each request keeps such a handle. Rotation detects a stolen handle, and this one is
// of no use without the key (OAuth 2.1 §4.3.1 asks rotation of public clients; FAPI 2.0
// §5.3.2.1 forbids it for clients like these). So nothing is written, and nothing is lost with
// an answer. Any other handle is judged by the rule.
func (e *endpoints) isLatest(ctx context.Context, grantID string, gen int64) (bool, error) {
	found, err := e.o.Denylist.Find(ctx, grantID)
	switch {
	case errors.Is(err, denylist.ErrRevoked), errors.Is(err, denylist.ErrUnknown):
		return false, nil
	case err != nil:
		return false, unavailable(err)
	}
	return found.Gen == gen, nil
}

var errUserChanged = oauth.Errorf(oauth.InvalidGrant, "the user's account has changed")

// checkGrant checks what may have changed since the grant was made: the user, the client
// and the configured resources. If resource is sent, it must be the grant's, because there is
// one per grant (RFC 8707 §2.2).
func (e *endpoints) checkGrant(ctx context.Context, g seal.Grant, client *clients.Client, resource string) (users.User, error) {
	if resource != "" {
		canonical, err := oauth.CanonicalResource(resource)
		if err != nil {
			return users.User{}, err
		}
		if !oauth.SameResource(canonical, g.Resource) {
			return users.User{}, oauth.Errorf(oauth.InvalidTarget, "resource is not the one that was granted")
		}
	}
	if _, ok := e.configured(g.Resource); !ok {
		return users.User{}, oauth.Errorf(oauth.InvalidGrant, "the granted resource is no longer served")
	}
	if g.Issued != 0 && g.Issued < addedAt(client) {
		return users.User{}, oauth.Errorf(oauth.InvalidGrant, "the client was removed and added again since then")
	}
	user, err := e.lookup(ctx, g.Subject, g.UserVersion)
	if errors.Is(err, users.ErrUnknown) {
		return users.User{}, errUserChanged
	}
	return user, err
}

// stillAllowed is scope without the scopes that client and user have lost since the
// grant was made. Those of a user without a version may be known to the login only.
func (e *endpoints) stillAllowed(scope []string, client *clients.Client, user users.User) []string {
	scope = oauth.IntersectScope(scope, e.o.knownScopes())
	if !client.Registered && len(client.Scopes) > 0 {
		scope = oauth.IntersectScope(scope, slices.Concat(client.Scopes, clients.AlwaysKnown))
	}
	if user.Version != "" || user.Scopes != nil {
		scope = e.userScope(scope, user)
	}
	return scope
}

// lose takes from a grant the scopes that client and user have lost since it was made. They stay
// lost, but a client may go on asking for them.
func (e *endpoints) lose(g seal.Grant, client *clients.Client, user users.User) seal.Grant {
	allowed := e.stillAllowed(g.Scope, client, user)
	if len(allowed) < len(g.Scope) {
		lost := without(g.Scope, func(name string) bool { return slices.Contains(allowed, name) })
		g.Scope, g.Lost = allowed, slices.Concat(g.Lost, lost)
	}
	return g
}

// spend uses generation gen of a grant and returns the next refresh handle, or "" if
// the client is not registered for it. It is the last check, after [endpoints.ready]: when it
// returns, the one write is durable and nothing has been signed.
func (e *endpoints) spend(ctx context.Context, client *clients.Client, g seal.Grant, gen int64, now time.Time, ev *event) (handle string, err error) {
	used := row(g, now)
	used.Window = client.Lives.Replay
	used.Shared = client.Document != ""
	next, err := e.o.Denylist.Use(ctx, g.Epoch, used, gen, now)
	if err != nil {
		return "", e.refused(err, gen, ev)
	}
	if client.MayUse(oauth.GrantRefreshToken) {
		idle := min(now.Add(e.lives(client).Idle).Unix(), g.Expires)
		if client.KeyOnly {
			idle = g.Expires // the handle stays the same, so it cannot tell when it was used
		}
		handle, err = seal.Seal(e.o.Ring, seal.Refresh{Grant: g, Gen: next, Expires: idle})
	}
	return handle, err
}

// ready makes the checks of a grant that come right before its use, and returns the time of
// its tokens. That is taken before the write, because a token must not outlive the memory of
// the denylist for a revocation that follows at once.
func (e *endpoints) ready(client *clients.Client, g seal.Grant) (wall time.Time, err error) {
	if err := e.limitTokens(g, client); err != nil {
		return time.Time{}, err
	}
	return e.dated(g.Expires)
}

// dated returns the time of tokens of a grant that ends at expires, if there is a key for them.
func (e *endpoints) dated(expires int64) (wall time.Time, err error) {
	wall = time.Now() // the clock of verifiers, which the store's clock may be ahead of
	if from := e.o.Store.NotBefore(); wall.Unix() < from {
		wall = time.Unix(from, 0) // the second in which a new epoch began, or another server's clock is a little ahead
	}
	if wall.Unix() >= expires {
		return time.Time{}, oauth.Errorf(oauth.InvalidGrant, "Token expired")
	}
	if _, err := e.o.Keys.Signing(wall); err != nil {
		return time.Time{}, unavailable(err) // before the code is spent for nothing
	}
	return wall, nil
}

// issuance is the part of a grant that one answer gives to the client.
type issuance struct {
	user   users.User
	scope  []string
	nonce  string // for the id token; a refreshed one has none (OpenID Connect Core §12.2)
	handle string // the refresh handle, or ""

	upstream held // the user's upstream token, which the access token contains and does not outlive
}

// mint makes the tokens of a grant. It checks nothing: if the grant has a generation to
// spend, spend was called before.
func (e *endpoints) mint(ctx context.Context, client *clients.Client, g seal.Grant, what issuance, wall time.Time) (*tokenResponse, error) {
	expires := min(wall.Add(e.lives(client).Access).Unix(), g.Expires)
	if end := what.upstream.entry.Expires; end != 0 {
		expires = max(min(expires, end), wall.Unix()+1)
	}
	claim, err := e.claim(ctx, what.upstream, g.ID)
	if err != nil {
		return nil, err
	}
	audience, _ := e.configured(g.Resource) // checkGrant has found it
	scope := oauth.FormatScope(what.scope)
	access, err := e.o.Signer.Sign(jwt.Claims{
		Issuer: e.o.Issuer, Subject: g.Subject, Audience: audience, ClientID: client.ID, Scope: scope,
		IssuedAt: wall.Unix(), ExpiresAt: expires, AuthTime: g.AuthTime, GrantID: g.ID, Upstream: claim,
	}, wall)
	if err != nil {
		return nil, err
	}
	response := &tokenResponse{AccessToken: access, TokenType: "Bearer", ExpiresIn: expires - wall.Unix(), RefreshToken: what.handle, Scope: scope}
	if slices.Contains(what.scope, "openid") {
		claims := jwt.IDClaims{
			Issuer: e.o.Issuer, Subject: g.Subject, Audience: client.ID, IssuedAt: wall.Unix(), ExpiresAt: expires,
			AuthTime: g.AuthTime, Nonce: what.nonce, AccessTokenHash: jwt.AccessTokenHash(access),
		}
		if u := what.user; slices.Contains(what.scope, "profile") {
			claims.Name, claims.PreferredUsername, claims.UpdatedAt = claimText(cmp.Or(u.DisplayName, u.Name)), claimText(u.Name), u.Updated
			claims.Picture = pictureURL(u.Picture)
		}
		if slices.Contains(what.scope, "email") {
			claims.Email = claimText(what.user.Email)
		}
		response.IDToken, err = e.o.Signer.SignID(claims, wall)
	}
	return response, err
}

// claimText returns a text about the user for a claim, or "" if no token can have it: a program's
// own source of users may have any text, and the code is spent already.
func claimText(s string) string {
	if len(s) > 255 || !utf8.ValidString(s) {
		return ""
	}
	return s
}

// maxPicture is the longest URL of a picture that tokens have, in bytes.
const maxPicture = 1024

// pictureURL returns the URL of a user's picture for a claim, or "" if it is not one that a page
// of a client can show safely: providers and programs may have anything there.
func pictureURL(s string) string {
	u, err := url.Parse(s)
	if err != nil || len(s) > maxPicture || !utf8.ValidString(s) || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return ""
	}
	return s
}

// row is the part of a grant that the denylist stores.
func row(g seal.Grant, now time.Time) denylist.Grant {
	return denylist.Grant{
		ID: g.ID, Subject: g.Subject, ClientHash: g.ClientHash, ClientName: g.ClientName, ConsentHash: g.ConsentHash,
		Scope: oauth.FormatScope(g.Scope), Resource: g.Resource, Created: cmp.Or(g.Issued, now.Unix()), Expires: g.Expires,
		UserVersion: denylist.VersionHash(g.UserVersion),
	}
}

// refused turns the denylist's verdict into an answer. Any error that is not a verdict
// means that the denylist could not tell, and clients keep their tokens.
func (e *endpoints) refused(err error, gen int64, ev *event) error {
	verdict := oauth.Errorf(oauth.InvalidGrant, "the grant has ended").Because(err)
	switch {
	case errors.Is(err, denylist.ErrReused) && gen == 0:
		ev.name = "code_reuse"
		return oauth.Errorf(oauth.InvalidGrant, "authorization code was used before").Because(err)
	case errors.Is(err, denylist.ErrReused):
		ev.name = "refresh_reuse"
		return oauth.Errorf(oauth.InvalidGrant, "refresh token was used before").Because(err)
	case errors.Is(err, denylist.ErrRolledBack):
		ev.name = "refresh_rollback"
		return verdict
	case errors.Is(err, denylist.ErrEpoch), errors.Is(err, denylist.ErrRevoked):
		return verdict
	}
	return unavailable(err)
}
