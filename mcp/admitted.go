package mcp

import (
	"context"
	"net/http"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/auth"

	"signet/jwt"
)

// admitted is the context of a request with a verified access token, and the copy of the request
// that has it. It is the one object that a Guard allocates: the rest is made when a handler asks
// for it. The SDK's own middleware would read the header again and make two more contexts.
type admitted struct {
	context.Context // of the request, or the stream
	guard           *guard
	claims          *jwt.Claims
	request         http.Request // has this context
	stream          stream       // used if the answer may be one

	once sync.Once
	info *auth.TokenInfo
}

// admit returns the context and the request for the handling of r on behalf of verified claims.
func (g *guard) admit(r *http.Request, claims *jwt.Claims) *admitted {
	a := &admitted{Context: r.Context(), guard: g, claims: claims}
	a.request = *r.WithContext(a)
	return a
}

// infoKey is where a context holds the *auth.TokenInfo of its request.
type infoKey struct{}

// sdkInfoKey is where the SDK looks for it. The SDK does not export the key, but a context
// sees the keys that it is asked for.
var sdkInfoKey = func() any {
	var asked keyOf
	auth.TokenInfoFromContext(&asked)
	return asked.key
}()

// keyOf is a context that keeps the key it was last asked for.
type keyOf struct {
	context.Context
	key any
}

func (c *keyOf) Value(key any) any {
	c.key = key
	return nil
}

// Value returns the TokenInfo of the request, or what the context of the request holds.
func (a *admitted) Value(key any) any {
	if key == (infoKey{}) || key == sdkInfoKey {
		return a.tokenInfo()
	}
	return a.Context.Value(key)
}

// claimsKey is where TokenInfo.Extra holds the *jwt.Claims.
const claimsKey = "claims"

func (a *admitted) tokenInfo() *auth.TokenInfo {
	a.once.Do(func() {
		a.info = &auth.TokenInfo{
			UserID:     a.claims.Subject,
			Scopes:     a.guard.hierarchy.Expand(a.claims.Scopes()),
			Expiration: a.claims.Expires(),
			Extra: map[string]any{
				"client_id": a.claims.ClientID,
				"gid":       a.claims.GrantID,
				claimsKey:   a.claims,
			},
		}
		if u := a.guard.upstreams; u != nil && a.claims.Upstream != "" {
			a.info.Extra[upstreamKey] = &upstreamCall{u, a.claims, a.request.Header}
		}
	})
	return a.info
}
