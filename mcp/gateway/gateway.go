// Package gateway serves many MCP servers at one endpoint: their tools, resources and prompts
// under their servers' ids. It checks what a caller may use, gets the credential that a server is
// to be sent, and passes the rest on as it came.
package gateway

import (
	"context"
	"net/http"
	"time"

	"signet/internal/gatewayconfig"
	"signet/jwt"
)

// Caller is whose message it is.
type Caller struct {
	Claims *jwt.Claims
	Token  string // the access token; it is for the issuer only, and for servers that opted in by name
}

// Strategy returns the headers by which server knows the caller. The error is a *Missing if the
// user has to connect something first, and ErrEnded if the caller has to sign in again. Refused
// says that the server has refused the headers of the time before: then they are got anew.
type Strategy func(ctx context.Context, caller Caller, server *gatewayconfig.Server, refused bool) (http.Header, error)

// Credential is what the issuer gave for a caller and a server.
type Credential struct {
	Token   string
	Version int64     // of a token that the vault has; 0: none
	Expires time.Time // zero: not known
}

// Issuer is where credentials come from: the authorization server of this process, or a client of
// another one (RFC 8693). Its errors are *Missing, ErrEnded, or no verdict.
type Issuer interface {
	// ForAudience returns an access token of the caller for another audience, with a part of the
	// scopes; none means all.
	ForAudience(ctx context.Context, caller Caller, audience string, scope []string) (Credential, error)

	// OfUpstream returns the caller's token at the upstream of the login. Stale is the version of
	// one that was refused there, or 0.
	OfUpstream(ctx context.Context, caller Caller, stale int64) (Credential, error)

	// OfConnection returns what the caller has connected, or the gateway's own credential.
	OfConnection(ctx context.Context, caller Caller, connection string, stale int64) (Credential, error)
}
