package handlers

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"

	"signet/internal/oauth"
	"signet/jwt"
	"signet/users"
)

// userinfo is what is known about the user of an access token (OpenID Connect Core
// §5.3.2). A claim that the source of users does not know is left out. There is no
// email_verified, because the address has not been verified here.
type userinfo struct {
	Subject           string `json:"sub"`
	Name              string `json:"name,omitempty"`
	PreferredUsername string `json:"preferred_username,omitempty"`
	Picture           string `json:"picture,omitempty"`
	Email             string `json:"email,omitempty"`
	UpdatedAt         int64  `json:"updated_at,omitempty"`
	Scope             string `json:"scope"`
}

// bearerError is a refusal with a challenge (RFC 6750 §3).
type bearerError struct {
	err   *oauth.Error
	bare  bool     // the request has no token, so the challenge has no error code (RFC 6750 §3.1)
	scope []string // scope for the challenge; a token without it is accepted too
}

var errNoToken = oauth.Errorf(oauth.InvalidToken, "an access token is required")

func (e *bearerError) Error() string { return e.err.Error() }
func (e *bearerError) Unwrap() error { return e.err }

// challenge is the value of WWW-Authenticate.
func (e *bearerError) challenge() string {
	if e.bare {
		return (*oauth.Error)(nil).Challenge("", e.scope)
	}
	return e.err.Challenge("", e.scope)
}

// userinfoError is the refusal of a token at the UserInfo endpoint.
func userinfoError(err *oauth.Error) error {
	return &bearerError{err: err, bare: err == errNoToken, scope: []string{"openid"}}
}

// userinfo serves the UserInfo endpoint (OpenID Connect Core §5.3). It accepts every
// access token of this issuer, whatever its audience and scopes. The name is the least
// that a client learns when a user lets it in; the email address needs the scope email, and
// picture and time of the last change the scope profile.
func (e *endpoints) userinfo(r *http.Request) (any, error) {
	claims, err := e.bearer(r)
	if err != nil {
		return nil, err
	}
	if claims.OfClient() {
		return nil, userinfoError(oauth.Errorf(oauth.InsufficientScope, "a client got the access token for itself: there is no user"))
	}
	user, _, err := e.grantUser(r.Context(), claims) // another user may have the name since
	switch {
	case errors.Is(err, users.ErrUnknown):
		return nil, userinfoError(oauth.Errorf(oauth.InvalidToken, "the user's account has ended").Because(err))
	case errors.Is(err, errNotLive):
		return nil, userinfoError(oauth.Errorf(oauth.InvalidToken, "the access token is no longer valid").Because(err))
	case err != nil:
		return nil, err
	}
	info := userinfo{Subject: claims.Subject, Name: cmp.Or(user.DisplayName, user.Name), PreferredUsername: user.Name, Scope: claims.Scope}
	if slices.Contains(claims.Scopes(), "email") {
		info.Email = user.Email
	}
	if slices.Contains(claims.Scopes(), "profile") {
		info.UpdatedAt, info.Picture = user.Updated, pictureURL(user.Picture)
	}
	return info, nil
}

// bearer returns the claims of the request's access token.
func (e *endpoints) bearer(r *http.Request) (*jwt.Claims, error) {
	raw, ok, err := oauth.Bearer(r.Header["Authorization"])
	if err != nil {
		return nil, userinfoError(oauth.AsError(err))
	}
	if !ok {
		return nil, userinfoError(errNoToken)
	}
	return e.verify(r.Context(), raw)
}

func (e *endpoints) verify(ctx context.Context, raw string) (*jwt.Claims, error) {
	claims, err := e.o.Verifier.Verify(ctx, raw)
	switch {
	case errors.Is(err, jwt.ErrInvalid):
		return nil, userinfoError(oauth.Errorf(oauth.InvalidToken, "the access token is no longer valid").Because(err))
	case err != nil:
		return nil, unavailable(err) // a 401 would make clients throw the token away
	case expired(claims):
		return nil, userinfoError(oauth.Errorf(oauth.InvalidToken, "Token expired: the access token has expired"))
	}
	return claims, nil
}
