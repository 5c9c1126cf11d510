package handlers

import (
	"context"
	"errors"
	"math"
	"net/url"
	"slices"
	"time"

	"signet/internal/clients"
	"signet/internal/denylist"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/jwt"
	"signet/users"
)

// clientCredentials gives a client a token for itself (OAuth 2.1 §4.2). There is no user, so
// there is no consent, no refresh handle and no id token, and nothing is stored: the client can
// ask again at any time.
func (e *endpoints) clientCredentials(ctx context.Context, client *clients.Client, form url.Values, _ time.Time, ev *event) (*tokenResponse, error) {
	scope, err := e.scopeOfClient(form.Get("scope"), client)
	if err != nil {
		return nil, err
	}
	resource, err := e.resource(form.Get("resource"))
	if err != nil {
		return nil, err
	}
	if err := e.subjectOfUser(ctx, client.ID); err != nil {
		return nil, err
	}
	if err := e.limits.tokensClient.take(client.Hash()); err != nil {
		return nil, err
	}
	wall, err := e.dated(math.MaxInt64)
	if err != nil {
		return nil, err
	}
	if added := time.Unix(addedAt(client), 0); wall.Before(added) { // a moment ago, see clients.File.Add
		wall = added
	}
	id, err := e.o.Denylist.ClientGrant(client.Hash(), wall)
	if err != nil {
		return nil, unavailable(err)
	}
	ev.grantID = id
	g := seal.Grant{ID: id, Subject: client.ID, Resource: resource, Expires: wall.Add(e.lives(client).Access).Unix()}
	return e.mint(ctx, client, g, issuance{scope: scope}, wall)
}

// scopeOfClient returns the scope of a token that a client gets for itself: all that it may
// have, or the part of it that it requests. Other names are left out, not refused, unless nothing
// remains: client libraries request what the challenge or the metadata lists. The standard scopes
// are about a user, and have no effect.
func (e *endpoints) scopeOfClient(requested string, client *clients.Client) ([]string, error) {
	asked, err := oauth.ParseScope(requested)
	if err != nil {
		return nil, err
	}
	allowed := oauth.IntersectScope(client.Scopes, e.o.Scopes)
	asked = slices.DeleteFunc(asked, func(name string) bool { return slices.Contains(clients.AlwaysKnown, name) })
	if len(asked) == 0 {
		asked = allowed
	}
	scope := oauth.IntersectScope(asked, allowed)
	if len(scope) == 0 {
		return nil, oauth.Errorf(oauth.InvalidScope, "none of the requested scopes is allowed to this client: it may have %q", oauth.FormatScope(allowed))
	}
	return scope, nil
}

// subjectOfUser refuses a client whose id is the subject of a user: a resource server could take
// one for the other (RFC 9068 §5). A source of users that cannot tell which there are is served
// in the other direction, by [endpoints.subjectOfClient]: the user is refused.
func (e *endpoints) subjectOfUser(ctx context.Context, id string) error {
	user, err := e.o.Users.Lookup(ctx, id)
	switch {
	case errors.Is(err, users.ErrUnknown) || err == nil && user.Version == "":
		return nil
	case err != nil:
		return unavailable(err)
	}
	return oauth.Errorf(oauth.UnauthorizedClient, "there is a user of this name: remove one of them")
}

// subjectOfClient reports whether a user must be refused because tokens with the same subject are
// those of a client.
func (e *endpoints) subjectOfClient(user users.User) bool {
	return user.Version == "" && e.o.Clients.ActsAsSubject(user.Subject)
}

// introspectOfClient answers about a token that a client got for itself.
func (e *endpoints) introspectOfClient(ctx context.Context, client *clients.Client, claims *jwt.Claims) (introspection, error) {
	if !client.MayUse(oauth.GrantClientCredentials) || claims.IssuedAt < addedAt(client) || expired(claims) {
		return introspection{}, errNotLive
	}
	switch _, err := e.o.Denylist.Find(ctx, claims.GrantID); {
	case errors.Is(err, denylist.ErrUnknown): // it has a row only if it was ended
	case err == nil || errors.Is(err, denylist.ErrRevoked):
		return introspection{}, errNotLive
	default:
		return introspection{}, unavailable(err)
	}
	return introspection{
		Active: true, Scope: claims.Scope, ClientID: claims.ClientID, TokenType: "Bearer", Expires: claims.ExpiresAt, IssuedAt: claims.IssuedAt,
		Subject: claims.Subject, Audience: claims.Audience, Issuer: claims.Issuer, ID: claims.ID, Use: "access",
	}, nil
}
