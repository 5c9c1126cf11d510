// Package upstream signs users in by the accounts that they have elsewhere: at an API that
// takes a name and a password, at an OAuth 2.0 server, or at an OpenID provider. It speaks to
// these providers and keeps nothing.
package upstream

import (
	"errors"
	"log/slog"
)

// The kinds of providers.
const (
	Password = "password" // a login API that takes the user's password
	OAuth    = "oauth2"   // an OAuth 2.0 server with an endpoint that tells who the user is
	OpenID   = "oidc"     // an OpenID provider
)

// Errors that a caller branches on. Any other error means that the provider gave no verdict: it
// cannot be reached, or its answer is not understood.
var (
	// ErrCredentials says that the provider refused a name and a password.
	ErrCredentials = errors.New("the provider refused the credentials")

	// ErrRefused says that the provider refused a code or a refresh token for good.
	ErrRefused = errors.New("the provider refused the grant")

	// ErrNoRefresh says that there is nothing with which a token could be refreshed.
	ErrNoRefresh = errors.New("the provider gave no refresh token")

	// ErrIssuer says that an authorization response is not, or not provably, the provider's.
	ErrIssuer = errors.New("the response is not of this issuer")

	// ErrLogoutToken says that a logout token is not one of the provider's for this client.
	ErrLogoutToken = errors.New("the logout token is not valid")

	// ErrNotAllowed says that the operator does not let this user in.
	ErrNotAllowed = errors.New("the user is not allowed to sign in here")
)

// Tokens are what a provider gave for one user. Times are Unix seconds.
type Tokens struct {
	Access   string
	Refresh  string   // may be empty
	Scope    []string // may be nil
	Obtained int64
	Expires  int64 // of Access; 0: the provider does not say
}

// LogValue keeps tokens out of logs.
func (Tokens) LogValue() slog.Value { return slog.StringValue("[tokens]") }

// Identity is the user who signed in, as the provider describes the user.
type Identity struct {
	ID          string // at the provider, never empty
	Name        string // what the user signs in with
	Email       string
	DisplayName string
	Picture     string   // an https URL, or empty
	Groups      []string // values of the claim groups
	Scopes      []string // scopes that the user may grant here; nil: the server's default
	Session     string   // sid of the id token, for back-channel logout; may be empty
	AuthTime    int64    // when the user proved to the provider who they are, Unix seconds; 0: the id token does not say

	EmailVerified bool // the provider vouches for Email
}

// Callback is what came back from an authorization request at a provider.
type Callback struct {
	Code        string
	Verifier    string // code_verifier
	Nonce       string // that the id token must have
	RedirectURI string
}

// LogValue keeps the code and the verifier out of logs.
func (Callback) LogValue() slog.Value { return slog.StringValue("[callback]") }

// AuthRequest is what an authorization request at a provider needs.
type AuthRequest struct {
	RedirectURI string
	State       string
	Nonce       string
	Verifier    string // code_verifier, of which the request has the S256 challenge (RFC 7636 §4.2)
	Prompt      string // may be empty
}

// LogValue keeps the verifier out of logs.
func (AuthRequest) LogValue() slog.Value { return slog.StringValue("[authorization request]") }

// Logout is what a logout token says (OpenID Connect Back-Channel Logout 1.0 §2.4). Subject or
// Session is set, or both.
type Logout struct {
	Subject string // id of the user at the provider
	Session string // sid
	ID      string // jti, which is accepted once
	Expires int64  // Unix seconds
}
