package handlers

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"signet/internal/clients"
	"signet/internal/oauth"
	"signet/internal/seal"
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
	audience, ok := client.ExchangesFor(x.audience)
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
		return e.exchangeUpstream(client, claims, x)
	}
	scope, err := narrowed(x.scope, claims)
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
	audience string   // a resource in canonical form, or oauth.UpstreamAudience and the id of a provider
	wanted   string   // type of the token that is requested
	scope    []string // empty: that of the token
}

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
	if strings.HasPrefix(x.audience, oauth.UpstreamAudience) != (x.wanted == oauth.TokenTypeUpstream) {
		return invalid("the audience upstream:ID and the requested_token_type " + oauth.TokenTypeUpstream + " go together")
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
	case strings.HasPrefix(form.Get("audience"), oauth.UpstreamAudience):
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

// narrowed returns the requested part of the scope of a token, or all of it.
func narrowed(requested []string, claims *jwt.Claims) ([]string, error) {
	if len(requested) == 0 {
		return claims.Scopes(), nil
	}
	if !oauth.ScopeIsSubset(requested, claims.Scopes()) {
		return nil, oauth.Errorf(oauth.InvalidScope, "cannot request more than the subject_token has")
	}
	return requested, nil
}

// exchangeUpstream gives a client the user's own token at a provider. It is read, and refreshed
// if it ends soon, once the request has left its slot.
func (e *endpoints) exchangeUpstream(client *clients.Client, claims *jwt.Claims, x exchangeRequest) (*tokenResponse, error) {
	id := strings.TrimPrefix(x.audience, oauth.UpstreamAudience)
	switch {
	case len(x.scope) > 0:
		return nil, oauth.Errorf(oauth.InvalidScope, "the scope of a provider's token cannot be chosen")
	case providerOf(claims.Subject) != id || e.provider(id) == nil:
		return nil, oauth.Errorf(oauth.InvalidTarget, "the user did not sign in at this provider: %s", id)
	}
	if err := e.limitTokens(seal.Grant{ID: claims.GrantID, ClientHash: client.Hash()}, client); err != nil {
		return nil, err
	}
	response := &tokenResponse{TokenType: "Bearer", IssuedTokenType: oauth.TokenTypeUpstream}
	response.finish = func(r *http.Request) error { return e.addUpstream(r, claims, response) }
	return response, nil
}

// addUpstream completes the answer of exchangeUpstream.
func (e *endpoints) addUpstream(r *http.Request, claims *jwt.Claims, response *tokenResponse) error {
	slot, err := e.enterUpstream(r, claims.Subject)
	if err != nil {
		return err
	}
	defer slot.Leave()
	entry, err := e.upstreamEntry(r.Context(), claims, 0)
	if err != nil {
		return err
	}
	response.AccessToken, response.Scope = entry.Access, oauth.FormatScope(entry.Scope)
	if entry.Expires != 0 {
		response.ExpiresIn = max(1, entry.Expires-e.o.Store.Now().Unix())
	}
	return nil
}

// mayStillAct returns errNotLive for a token of an exchange whose client is gone, or may no
// longer exchange for the audience.
func (e *endpoints) mayStillAct(ctx context.Context, claims *jwt.Claims) error {
	if claims.Actor == nil {
		return nil
	}
	actor, err := e.knownClient(ctx, claims.Actor.Subject)
	if err != nil {
		return err
	}
	if _, may := actor.ExchangesFor(claims.Audience); !may || claims.IssuedAt < addedAt(actor) {
		return errNotLive
	}
	return nil
}
