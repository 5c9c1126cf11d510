package mcp

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"

	"signet/internal/oauth"
	"signet/jwt"
)

// Guard passes requests with a valid access token for o.Resource that has all scopes of
// o.Required to next, and refuses all others, whatever their method. It reads the fields
// Resource, Verifier, Required, Challenge, Hierarchy, Upstream and Log of o.
//
// Behind it [Caller] returns the claims, and tools of the go-sdk find them in the
// TokenInfo of their request, whose Scopes include the implied ones. A stream of events
// that the request opens ends when the token expires. It also ends, like every answer that
// may be a stream, within a second after the verifier has learned that the grant was
// revoked: the request's context ends.
//
// Guard does not answer CORS preflights, does not check Origin or Host, and knows nothing
// of single tools; [Handler] does.
func Guard(o Options, next http.Handler) http.Handler {
	g := newGuard(o)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, err := g.authenticate(r)
		if err != nil {
			g.refuse(w, r, err, g.challenge)
			return
		}
		if err := g.authorize(claims, g.required); err != nil {
			g.refuse(w, r, err, stepUp(r, claims.Scopes(), g.required))
			return
		}
		ctx := g.admit(r, claims)
		if mayStream(r) {
			g.streams.watch(&ctx.stream, r, claims, isStream(r))
			defer g.streams.done(&ctx.stream)
			ctx.Context = &ctx.stream
		}
		next.ServeHTTP(w, &ctx.request)
	})
}

// Caller returns the claims of the access token of the request that ctx belongs to. It
// works in handlers behind a [Guard], in tools behind a [Handler], and in tools of a
// [NewServer] behind a Guard.
func Caller(ctx context.Context) (jwt.Claims, bool) {
	if info, ok := ctx.Value(infoKey{}).(*auth.TokenInfo); ok && info != nil {
		if claims, ok := info.Extra[claimsKey].(*jwt.Claims); ok {
			return *claims.Clone(), true // those of the verifier are read by other requests
		}
	}
	return jwt.Claims{}, false
}

type guard struct {
	resource    string
	metadataURL string
	verifier    *jwt.Verifier
	required    []string
	challenge   []string
	hierarchy   Hierarchy
	streams     *streams
	upstreams   *upstreams // nil: there are no upstream tokens
	others      func(ctx context.Context, rawToken string) (*jwt.Claims, error)
	log         *slog.Logger
	logged      atomic.Int64 // Unix second in which an error was logged last
}

func newGuard(o Options) *guard {
	return &guard{
		resource:    o.Resource,
		metadataURL: oauth.ResourceMetadataURL(o.Resource),
		verifier:    o.Verifier,
		required:    slices.Clone(o.Required),
		challenge:   withoutOffline(o.Challenge),
		hierarchy:   o.Hierarchy,
		streams:     newStreams(o.Verifier),
		upstreams:   newUpstreams(o.Upstream),
		others:      o.Others,
		log:         o.logger(),
	}
}

// errNoCredentials is the only refusal whose challenge has no error in it (RFC 6750 §3.1):
// some hosts start a login on this form only.
var errNoCredentials = errors.New("no bearer token")

// authenticate returns the claims of r's access token, which are shared. Any error it returns is
// errNoCredentials or an *oauth.Error.
func (g *guard) authenticate(r *http.Request) (*jwt.Claims, error) {
	rawToken, ok, err := oauth.Bearer(r.Header["Authorization"])
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errNoCredentials
	}
	claims, err := g.verifier.VerifyShared(r.Context(), rawToken)
	if g.others != nil && errors.Is(err, jwt.ErrInvalid) {
		if other, err := g.others(r.Context(), rawToken); err == nil {
			return other, nil
		} else if !errors.Is(err, jwt.ErrInvalid) {
			return nil, oauth.Errorf(oauth.TemporarilyUnavailable, "access tokens cannot be verified now").Because(err)
		}
	}
	switch {
	case err == nil:
	case errors.Is(err, jwt.ErrExpired):
		return nil, oauth.Errorf(oauth.InvalidToken, "Token expired: the access token has expired").Because(err)
	case errors.Is(err, jwt.ErrRevoked):
		return nil, oauth.Errorf(oauth.InvalidToken, "the access token was revoked").Because(err)
	case errors.Is(err, jwt.ErrInvalid):
		return nil, oauth.Errorf(oauth.InvalidToken, "the access token is not valid for this resource").Because(err)
	default:
		// The token may be good, and on a 401 clients throw their tokens away.
		return nil, oauth.Errorf(oauth.TemporarilyUnavailable, "access tokens cannot be verified now").Because(err)
	}
	if !oauth.SameResource(claims.Audience, g.resource) {
		return nil, oauth.Errorf(oauth.InvalidToken, "the access token is for another resource")
	}
	if claims.GrantID == "" {
		// Nothing could revoke it.
		return nil, oauth.Errorf(oauth.InvalidToken, "the access token belongs to no grant")
	}
	if claims.Confirm != nil {
		// A bound token without proof counts as stolen (RFC 9449 §7.1).
		return nil, oauth.Errorf(oauth.InvalidToken, "the access token is bound to a key and needs a proof")
	}
	if g.upstreams.ended(claims) {
		return nil, oauth.Errorf(oauth.InvalidToken, "the upstream has ended the session of this user: sign in again")
	}
	return claims, nil
}

// authorize refuses a token that lacks one of the needed scopes.
func (g *guard) authorize(claims *jwt.Claims, needed []string) error {
	lacks := func(scope string) bool { return !claims.HasScope(scope) }
	if !slices.ContainsFunc(needed, lacks) || oauth.ScopeIsSubset(needed, g.hierarchy.Expand(claims.Scopes())) {
		return nil
	}
	return oauth.Errorf(oauth.InsufficientScope, "the access token lacks a scope that this operation needs")
}

// stepUp returns the scopes of a 403's challenge: all that the operation needs. Clients of
// the older protocol then ask for exactly these scopes, so for them the challenge repeats
// the scopes that they have.
func stepUp(r *http.Request, granted, needed []string) []string {
	if r.Header.Get("Mcp-Protocol-Version") >= modern {
		return withoutOffline(needed)
	}
	return union(withoutOffline(granted), withoutOffline(needed))
}

// refuse answers with err as JSON and, unless this server failed, with a challenge that
// asks for scope (RFC 6750 §3, RFC 9728 §5.1).
func (g *guard) refuse(w http.ResponseWriter, r *http.Request, err error, scope []string) {
	var e *oauth.Error // nil is the challenge without an error
	if err != errNoCredentials {
		e = oauth.AsError(err)
	}
	level := slog.LevelDebug
	if e != nil && e.Status() >= http.StatusInternalServerError {
		// One line a second: while keys are missing, anybody can cause as many as
		// they send requests.
		if now := time.Now().Unix(); g.logged.Swap(now) != now {
			level = slog.LevelError
		}
	} else {
		w.Header().Set("WWW-Authenticate", e.Challenge(g.metadataURL, scope))
	}
	g.log.Log(r.Context(), level, "request refused", "resource", g.resource, "error", err)
	if e == nil {
		e = oauth.Errorf(oauth.InvalidToken, "this resource needs a bearer access token")
	}
	e.WriteJSON(w, false)
}
