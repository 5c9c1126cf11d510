package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"signet/internal/clients"
	"signet/internal/denylist"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/jwt"
)

// revoke serves token revocation (RFC 7009 §2). Either kind of token ends its whole
// grant, and one that a client got for itself all such tokens of the client: it can get others.
// For a token that is not valid, or belongs to another client, the answer is the
// same and nothing happens (§2.2). The hint is not needed: the kinds of token are easy
// to tell apart.
func (e *endpoints) revoke(r *http.Request) (any, error) {
	ev := event{name: "revoke"}
	client, raw, err := e.aboutToken(r, &ev)
	if err != nil {
		return nil, err
	}
	now := e.o.Store.Now()
	grant, err := e.grantOf(r.Context(), client, raw, now)
	if errors.Is(err, errNotLive) {
		return fruitless{}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := e.endGrant(r, ev, grant, now); err != nil {
		return nil, err
	}
	e.settleUnlessBack(r.Context(), grant, now)
	return nil, nil
}

// endGrant revokes a grant. It reports success only if the revocation happened (RFC
// 7009 §2.2.1).
func (e *endpoints) endGrant(r *http.Request, ev event, grant denylist.Grant, now time.Time) error {
	ev.subject, ev.grantID = grant.Subject, grant.ID
	var err error
	if grant.Subject == "" {
		err = e.o.Denylist.EndClient(r.Context(), grant.ClientHash)
	} else {
		err = e.o.Denylist.Revoke(r.Context(), grant, now)
	}
	if err != nil {
		err = unavailable(err)
	}
	e.audit(r, ev, err)
	return err
}

// aboutToken reads the parts that requests for revocation and introspection share: the
// client that asks and the token.
func (e *endpoints) aboutToken(r *http.Request, ev *event) (client *clients.Client, raw string, err error) {
	if client, err = e.authenticate(r, ev); err != nil {
		e.audit(r, *ev, err)
		return nil, "", err
	}
	if raw = r.PostForm.Get("token"); raw == "" {
		return nil, "", oauth.Errorf(oauth.InvalidRequest, "Missing token parameter")
	}
	return client, raw, nil
}

// errNotLive means that a token is not valid or does not belong to the client that
// asks.
var errNotLive = errors.New("not a live token of this client")

// grantOf returns the grant of a live token of client, or errNotLive.
func (e *endpoints) grantOf(ctx context.Context, client *clients.Client, raw string, now time.Time) (denylist.Grant, error) {
	if handle, err := seal.Open[seal.Refresh](e.o.Ring, raw); err == nil {
		if handle.Grant.ClientHash != client.Hash() || handle.Grant.Epoch != e.o.Store.Epoch() || now.Unix() >= handle.Grant.Expires {
			return denylist.Grant{}, errNotLive
		}
		return row(handle.Grant, now), nil
	}
	claims, err := e.accessToken(ctx, client, raw)
	if err != nil {
		return denylist.Grant{}, err
	}
	if claims.OfClient() {
		return denylist.Grant{ID: claims.GrantID, ClientHash: client.Hash()}, nil // no subject: it is no grant of a user
	}
	return denylist.Grant{
		ID: claims.GrantID, Subject: claims.Subject, ClientHash: client.Hash(), ClientName: clientName(client),
		Scope: claims.Scope, Resource: claims.Audience, Created: claims.IssuedAt, Expires: now.Add(e.o.Lives.Refresh).Unix(),
	}, nil
}

// accessToken returns the claims of an access token of client that a resource server may still
// accept, or errNotLive. So the token may have expired by this process's clock
// ([expired]), and its resource need not be configured now: it may be again while the token lives.
// A token of an exchange counts only for a configured resource.
func (e *endpoints) accessToken(ctx context.Context, client *clients.Client, raw string) (*jwt.Claims, error) {
	audience := unverifiedAudience(raw)
	if audience == "" {
		return nil, errNotLive
	}
	claims, err := verifiedBy(ctx, e.o.Verifier.For(audience), raw)
	if err != nil {
		return nil, err
	}
	_, served := e.configured(claims.Audience)
	if claims.ClientID != client.ID || claims.Actor != nil && !served {
		return nil, errNotLive
	}
	return claims, nil
}

// unverifiedAudience returns the audience that a text which may be a token names, or "".
func unverifiedAudience(raw string) string {
	_, payload, err := jwt.UnsafeClaims(raw)
	if err != nil {
		return ""
	}
	var claims struct {
		Audience string `json:"aud"`
	}
	_ = json.Unmarshal(payload, &claims) // "" if there is none, and the token is refused
	return claims.Audience
}

// verifiedToken returns the claims of an access token of any client for a configured resource, or
// errNotLive.
func (e *endpoints) verifiedToken(ctx context.Context, raw string) (*jwt.Claims, error) {
	return verifiedBy(ctx, e.o.Verifier, raw)
}

func verifiedBy(ctx context.Context, v *jwt.Verifier, raw string) (*jwt.Claims, error) {
	claims, err := v.Verify(ctx, raw)
	switch {
	case errors.Is(err, jwt.ErrInvalid):
		return nil, errNotLive
	case err != nil:
		return nil, unavailable(err)
	case claims.GrantID == "":
		return nil, errNotLive
	}
	return claims, nil
}

// expired reports whether a token has expired by the clock of this process, which dates the
// tokens. The leeway of [jwt.Verifier] is for the clocks of other machines.
func expired(claims *jwt.Claims) bool { return time.Now().Unix() >= claims.ExpiresAt }
