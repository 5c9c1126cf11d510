package handlers

import (
	"context"
	"errors"
	"net/http"
	"time"

	"signet/internal/clients"
	"signet/internal/denylist"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/jwt"
	"signet/users"
)

// introspection is the answer about a token (RFC 7662 §2.2). For every token that is
// not live, or is not the caller's, it is active=false and nothing else.
type introspection struct {
	Active    bool   `json:"active"`
	Scope     string `json:"scope,omitempty"`
	ClientID  string `json:"client_id,omitempty"`
	Username  string `json:"username,omitempty"`
	TokenType string `json:"token_type,omitempty"`
	Expires   int64  `json:"exp,omitempty"`
	IssuedAt  int64  `json:"iat,omitempty"`
	Subject   string `json:"sub,omitempty"`
	Audience  string `json:"aud,omitempty"`
	Issuer    string `json:"iss,omitempty"`
	ID        string `json:"jti,omitempty"`
	Use       string `json:"use,omitempty"` // access or refresh

	Actor *jwt.Actor `json:"act,omitempty"` // the client that exchanged another token for it (RFC 8693 §4.1)
}

// introspect serves token introspection. Clients can ask about their own tokens only, and
// resource servers about the access tokens for their resource. It asks the store every time, so its answer is current even while a verifier still
// accepts the token.
func (e *endpoints) introspect(r *http.Request) (any, error) {
	ev := event{name: "introspect"}
	client, raw, err := e.aboutToken(r, &ev)
	if err != nil {
		return nil, err
	}
	var answer introspection
	if handle, openErr := seal.Open[seal.Refresh](e.o.Ring, raw); openErr == nil {
		answer, err = e.introspectHandle(r.Context(), client, handle, e.o.Store.Now())
	} else {
		answer, err = e.introspectAccess(r.Context(), client, raw)
	}
	if errors.Is(err, errNotLive) || errors.Is(err, users.ErrUnknown) {
		return fruitless{introspection{}}, nil
	}
	if err != nil {
		return nil, err
	}
	return answer, nil
}

func (e *endpoints) introspectAccess(ctx context.Context, client *clients.Client, raw string) (introspection, error) {
	claims, err := verifiedBy(ctx, e.verifierFor(client), raw)
	if err != nil {
		return introspection{}, err
	}
	if client, err = e.askedAbout(ctx, client, claims); err != nil {
		return introspection{}, err
	}
	if claims.OfClient() {
		return e.introspectOfClient(ctx, client, claims)
	}
	user, err := e.liveUser(ctx, client, claims)
	if err != nil {
		return introspection{}, err
	}
	if err := e.mayStillAct(ctx, claims); err != nil {
		return introspection{}, err
	}
	return introspection{
		Active: true, Scope: claims.Scope, ClientID: claims.ClientID, Username: user.Name, TokenType: "Bearer",
		Expires: claims.ExpiresAt, IssuedAt: claims.IssuedAt, Subject: claims.Subject, Audience: claims.Audience, Issuer: claims.Issuer, ID: claims.ID, Use: "access",
		Actor: claims.Actor,
	}, nil
}

// verifierFor returns the verifier of the tokens about which a client may ask: a resource server
// may have an audience that only exchanges give.
func (e *endpoints) verifierFor(asks *clients.Client) *jwt.Verifier {
	if _, served := e.configured(asks.Resource); asks.Resource == "" || served {
		return e.o.Verifier
	}
	return e.o.Verifier.For(asks.Resource)
}

// liveUser returns the user of a verified access token of a client. The error is errNotLive or
// [users.ErrUnknown] if the token does not count any more.
func (e *endpoints) liveUser(ctx context.Context, client *clients.Client, claims *jwt.Claims) (users.User, error) {
	user, grant, err := e.grantUser(ctx, claims)
	if err != nil {
		return users.User{}, err
	}
	// The grants of an earlier client of the same id are revoked a moment after the change.
	if grant.Created < addedAt(client) || expired(claims) {
		return users.User{}, errNotLive
	}
	return user, nil
}

// grantUser returns the grant of a verified access token and its user, in the version that gave the
// grant. The error is errNotLive or [users.ErrUnknown] if either has ended.
func (e *endpoints) grantUser(ctx context.Context, claims *jwt.Claims) (users.User, denylist.Grant, error) {
	grant, err := e.liveGrant(ctx, claims.GrantID)
	if err != nil {
		return users.User{}, denylist.Grant{}, err
	}
	user, err := e.o.Users.Lookup(ctx, claims.Subject)
	switch {
	case errors.Is(err, users.ErrUnknown):
		return users.User{}, denylist.Grant{}, err
	case err != nil:
		return users.User{}, denylist.Grant{}, unavailable(err)
	case grant.UserVersion != "" && grant.UserVersion != denylist.VersionHash(user.Version):
		return users.User{}, denylist.Grant{}, errNotLive // revoked a moment after the change
	}
	return user, grant, nil
}

// askedAbout returns the client of an access token, if the client that asks may know of the
// token: it is its own, or for the resource that it serves.
func (e *endpoints) askedAbout(ctx context.Context, asks *clients.Client, claims *jwt.Claims) (*clients.Client, error) {
	switch {
	case asks.Resource == "" && claims.ClientID == asks.ID:
		return asks, nil
	case asks.Resource == "" || !oauth.SameResource(asks.Resource, claims.Audience):
		return nil, errNotLive
	}
	return e.knownClient(ctx, claims.ClientID)
}

// knownClient returns the client named id, or errNotLive if there is none.
func (e *endpoints) knownClient(ctx context.Context, id string) (*clients.Client, error) {
	client, err := e.o.Clients.Known(ctx, id)
	switch {
	case errors.Is(err, clients.ErrUnknown):
		return nil, errNotLive
	case err != nil:
		return nil, unavailable(err)
	}
	return client, nil
}

// introspectHandle answers about a refresh handle. The token type is not Bearer,
// because a resource server that checks only that must not take the handle for an
// access token.
func (e *endpoints) introspectHandle(ctx context.Context, client *clients.Client, handle seal.Refresh, now time.Time) (introspection, error) {
	g := handle.Grant
	if g.ClientHash != client.Hash() || g.Epoch != e.o.Store.Epoch() || now.Unix() >= handle.Expires || now.Unix() >= g.Expires {
		return introspection{}, errNotLive
	}
	found, err := e.liveGrant(ctx, g.ID)
	if err != nil {
		return introspection{}, err
	}
	if found.Created < addedAt(client) {
		return introspection{}, errNotLive
	}
	if found.Gen != handle.Gen {
		return introspection{}, errNotLive // rotated, or issued by a store that was rolled back since
	}
	user, err := e.lookup(ctx, g.Subject, g.UserVersion)
	if err != nil {
		return introspection{}, err
	}
	return introspection{
		Active: true, Scope: oauth.FormatScope(g.Scope), ClientID: client.ID, Username: user.Name, TokenType: "refresh_token",
		Expires: handle.Expires, IssuedAt: found.RotatedAt / 1000, Subject: g.Subject, Issuer: e.o.Issuer, Use: "refresh",
	}, nil
}

// liveGrant asks the store about a grant. If the store does not know it, it was never
// redeemed here or ended long ago.
func (e *endpoints) liveGrant(ctx context.Context, id string) (denylist.Grant, error) {
	grant, err := e.o.Denylist.Find(ctx, id)
	switch {
	case errors.Is(err, denylist.ErrRevoked), errors.Is(err, denylist.ErrUnknown):
		return denylist.Grant{}, errNotLive
	case err != nil:
		return denylist.Grant{}, unavailable(err)
	}
	return grant, nil
}
