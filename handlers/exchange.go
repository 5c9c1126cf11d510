package handlers

import (
	"cmp"
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
	"signet/internal/vault"
	"signet/jwt"
	"signet/users"
)

// exchange gives a client, for an access token of a user, another token of this user (RFC 8693):
// one for another audience, or the user's own token at a provider. What it gives belongs to the
// grant of the exchanged token, and nothing is stored.
func (e *endpoints) exchange(ctx context.Context, client *clients.Client, form url.Values, _ time.Time, ev *event) (*tokenResponse, error) {
	x, err := readExchange(form)
	if err != nil {
		return nil, err
	}
	audience, ok := e.exchangesFor(client, x.audience)
	if !ok {
		return nil, oauth.Errorf(oauth.InvalidTarget, "the client may not exchange tokens for this audience: %s", x.audience)
	}
	ev.audience = audience
	claims, err := e.subjectToken(ctx, x.subject)
	if err != nil {
		return nil, err
	}
	ev.subject, ev.grantID = claims.Subject, claims.GrantID
	if x.wanted == oauth.TokenTypeUpstream {
		return e.exchangeProvider(client, claims, x)
	}
	scope, err := e.narrowed(x.scope, claims)
	if err != nil {
		return nil, err
	}
	if err := e.limitTokens(seal.Grant{ID: claims.GrantID, ClientHash: client.Hash()}, client); err != nil {
		return nil, err
	}
	wall, err := e.dated(claims.ExpiresAt)
	if err != nil {
		return nil, err
	}
	return e.mintExchanged(client, jwt.Claims{
		Issuer: e.o.Issuer, Subject: claims.Subject, Audience: audience, ClientID: claims.ClientID, Scope: oauth.FormatScope(scope),
		IssuedAt: max(wall.Unix(), addedAt(client)), ExpiresAt: claims.ExpiresAt, AuthTime: claims.AuthTime, GrantID: claims.GrantID,
	}, x.wanted, wall)
}

// mintExchanged signs the token of an exchange. It lives as long as c says, or as the client's
// access tokens do if that is shorter.
func (e *endpoints) mintExchanged(client *clients.Client, c jwt.Claims, kind string, wall time.Time) (*tokenResponse, error) {
	c.Actor = &jwt.Actor{Subject: client.ID}
	c.ExpiresAt = min(c.ExpiresAt, c.IssuedAt+int64(e.lives(client).Access/time.Second))
	if c.ExpiresAt <= c.IssuedAt { // the client was added in this second, and the token ends in it
		return nil, errNoSubject
	}
	access, err := e.o.Signer.Sign(c, wall)
	if err != nil {
		return nil, err
	}
	return &tokenResponse{AccessToken: access, TokenType: "Bearer", ExpiresIn: c.ExpiresAt - wall.Unix(), Scope: c.Scope, IssuedTokenType: kind}, nil
}

// exchangeRequest is the request for an exchange.
type exchangeRequest struct {
	subject  string   // the token
	audience string   // a resource in canonical form, or oauth.UpstreamAudience or ConnectionAudience and an id
	wanted   string   // type of the token that is requested
	scope    []string // empty: that of the token
	stale    int64    // version of a provider's token that was refused there; 0: none
}

// atProvider reports whether an audience is for a token of a provider.
func atProvider(audience string) bool {
	return strings.HasPrefix(audience, oauth.UpstreamAudience) || strings.HasPrefix(audience, oauth.ConnectionAudience)
}

// exchangesFor returns an audience for which the client may exchange tokens, as the operator
// spells it.
func (e *endpoints) exchangesFor(client *clients.Client, audience string) (spelled string, ok bool) {
	if spelled, ok := client.ExchangesFor(audience); ok && audience != oauth.GatewayAudience {
		return spelled, true
	}
	if !client.ExchangesForGateway() {
		return "", false
	}
	if atProvider(audience) {
		return audience, true
	}
	if e.o.Audiences == nil {
		return "", false
	}
	all := e.o.Audiences()
	i := slices.IndexFunc(all, func(a string) bool { return oauth.SameResource(a, audience) })
	if i < 0 {
		return "", false
	}
	return all[i], true
}

// maxVersion is more than any version of a provider's token.
const maxVersion = 1 << 52

// readExchange reads the request (RFC 8693 §2.1).
func readExchange(form url.Values) (x exchangeRequest, err error) {
	invalid := func(why string) (exchangeRequest, error) {
		return exchangeRequest{}, oauth.Errorf(oauth.InvalidRequest, "%s", why)
	}
	x.subject, x.wanted = form.Get("subject_token"), cmp.Or(form.Get("requested_token_type"), oauth.TokenTypeAccess)
	switch kind := form.Get("subject_token_type"); {
	case x.subject == "":
		return invalid("subject_token is required")
	case kind == "":
		return invalid("subject_token_type is required")
	case kind != oauth.TokenTypeAccess && kind != oauth.TokenTypeJWT:
		return invalid("subject_token_type must be " + oauth.TokenTypeAccess)
	case form.Get("actor_token") != "" || form.Get("actor_token_type") != "":
		return invalid("actor_token is not supported: the actor is the client that exchanges")
	case !slices.Contains([]string{oauth.TokenTypeAccess, oauth.TokenTypeJWT, oauth.TokenTypeUpstream}, x.wanted):
		return invalid("requested_token_type must be " + oauth.TokenTypeAccess + " or " + oauth.TokenTypeUpstream)
	}
	if x.audience, err = exchangeAudience(form); err != nil {
		return exchangeRequest{}, err
	}
	if atProvider(x.audience) != (x.wanted == oauth.TokenTypeUpstream) {
		return invalid("the audiences upstream:ID and connection:ID, and the requested_token_type " + oauth.TokenTypeUpstream + ", go together")
	}
	if x.stale, err = strconv.ParseInt(cmp.Or(form.Get("stale"), "0"), 10, 64); err != nil || x.stale < 0 || x.stale > maxVersion || x.stale != 0 && !atProvider(x.audience) {
		return invalid("stale must be the version of a provider's token")
	}
	x.scope, err = oauth.ParseScope(form.Get("scope"))
	return x, err
}

// exchangeAudience returns the one audience or resource of an exchange.
func exchangeAudience(form url.Values) (string, error) {
	switch named := slices.Concat(form["audience"], form["resource"]); {
	case len(named) == 0:
		return "", oauth.Errorf(oauth.InvalidRequest, "audience or resource is required")
	case len(named) > 1:
		return "", oauth.Errorf(oauth.InvalidTarget, "more than one audience or resource")
	case atProvider(form.Get("audience")):
		return named[0], nil
	default:
		return oauth.CanonicalResource(named[0])
	}
}

// errNoSubject has the code that RFC 8693 §2.2.2 demands.
var errNoSubject = oauth.Errorf(oauth.InvalidRequest, oauth.NoSubject)

// subjectToken returns the claims of a live access token of a user, as introspection judges it.
func (e *endpoints) subjectToken(ctx context.Context, raw string) (*jwt.Claims, error) {
	claims, err := e.verifiedToken(ctx, raw)
	switch {
	case errors.Is(err, errNotLive):
		return nil, errNoSubject
	case err != nil:
		return nil, err
	case claims.OfClient():
		return nil, oauth.Errorf(oauth.InvalidRequest, "subject_token is one that a client got for itself: there is no user")
	case claims.Actor != nil:
		return nil, oauth.Errorf(oauth.InvalidRequest, "subject_token is the result of an exchange, and cannot be exchanged again")
	}
	owner, err := e.knownClient(ctx, claims.ClientID)
	if err == nil {
		_, err = e.liveUser(ctx, owner, claims)
	}
	if errors.Is(err, errNotLive) || errors.Is(err, users.ErrUnknown) {
		return nil, errNoSubject
	}
	return claims, err
}

// narrowed returns the requested part of the scope of a token, or all of it. A scope that one of the
// token implies is a part, too.
func (e *endpoints) narrowed(requested []string, claims *jwt.Claims) ([]string, error) {
	if len(requested) == 0 {
		return claims.Scopes(), nil
	}
	if !oauth.ScopeIsSubset(requested, oauth.ExpandScope(e.o.ScopeHierarchy, claims.Scopes())) {
		return nil, oauth.Errorf(oauth.InvalidScope, "cannot request more than the subject_token has")
	}
	return requested, nil
}

// exchangeProvider gives a client the user's own token at a provider. It is read, and refreshed if
// it ends soon, once the request has left its slot.
func (e *endpoints) exchangeProvider(client *clients.Client, claims *jwt.Claims, x exchangeRequest) (*tokenResponse, error) {
	if len(x.scope) > 0 {
		return nil, oauth.Errorf(oauth.InvalidScope, "the scope of a provider's token cannot be chosen")
	}
	id, atUpstream := strings.CutPrefix(x.audience, oauth.UpstreamAudience)
	if atUpstream && (providerOf(claims.Subject) != id || e.provider(id) == nil) {
		return nil, oauth.Errorf(oauth.InvalidTarget, "the user did not sign in at this provider: %s", id)
	}
	if err := e.limitTokens(seal.Grant{ID: claims.GrantID, ClientHash: client.Hash()}, client); err != nil {
		return nil, err
	}
	get := func(ctx context.Context) (vault.Entry, error) { return e.upstreamEntry(ctx, claims, x.stale) }
	if !atUpstream {
		get = func(ctx context.Context) (vault.Entry, error) {
			return e.connectionEntry(ctx, claims, strings.TrimPrefix(x.audience, oauth.ConnectionAudience), x.stale)
		}
	}
	response := &tokenResponse{TokenType: "Bearer", IssuedTokenType: oauth.TokenTypeUpstream}
	response.finish = func(r *http.Request) error { return e.addProvider(r, claims, response, get) }
	return response, nil
}

// addProvider completes the answer of exchangeProvider.
func (e *endpoints) addProvider(r *http.Request, claims *jwt.Claims, response *tokenResponse, get func(context.Context) (vault.Entry, error)) error {
	slot, err := e.enterUpstream(r, claims.Subject)
	if err != nil {
		return err
	}
	defer slot.Leave()
	entry, err := get(r.Context())
	if err != nil {
		return err
	}
	response.AccessToken, response.Scope, response.Version = entry.Access, oauth.FormatScope(entry.Scope), entry.Version
	if entry.Expires != 0 {
		response.ExpiresIn = max(1, entry.Expires-e.o.Store.Now().Unix())
	}
	return nil
}

// mayStillAct returns errNotLive for a token of an exchange whose client is gone, or may no
// longer exchange for the audience.
func (e *endpoints) mayStillAct(ctx context.Context, claims *jwt.Claims) error {
	if claims.Actor == nil || strings.HasPrefix(claims.Actor.Subject, e.partOf("")) {
		return nil
	}
	actor, err := e.knownClient(ctx, claims.Actor.Subject)
	if err != nil {
		return err
	}
	if _, may := e.exchangesFor(actor, claims.Audience); !may || claims.IssuedAt < addedAt(actor) {
		return errNotLive
	}
	return nil
}
