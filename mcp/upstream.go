package mcp

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"

	"signet/internal/oauth"
	"signet/jwt"
)

// UpstreamSource gives the tokens that callers have at the upstream by which they signed in.
// Package server has one for each role. It is safe for concurrent use.
type UpstreamSource interface {
	// Open returns the token in the claim upstream, from memory only. Access is empty if
	// the token is too long for a claim.
	Open(claims *jwt.Claims) (UpstreamToken, error)

	// Renew returns a token of a version above stale, on behalf of the caller with
	// accessToken, whose claims are verified. The error wraps [ErrUpstreamEnded] if there
	// will be none; any other error is no verdict.
	Renew(ctx context.Context, claims *jwt.Claims, accessToken string, stale int64) (UpstreamToken, error)

	// Provider describes the upstream with that id. Of one that is not known here, only
	// ID and Name are set.
	Provider(id string) UpstreamProvider
}

// UpstreamProvider is an upstream as a tool needs it.
type UpstreamProvider struct {
	ID         string
	Name       string            // shown to people
	BaseURL    string            // of its API, with a slash at the end; empty: not known
	SamplePath string            // below BaseURL, for the tool upstream_get; may be empty
	Timeout    time.Duration     // of one request; 0: 30 s
	Transport  http.RoundTripper // for requests to it; nil: http.DefaultTransport
}

// UpstreamToken is a user's own token at an upstream.
type UpstreamToken struct {
	Provider string // id of the upstream
	Access   string
	Version  int64     // grows with each refresh and each login
	Expires  time.Time // zero: not known
}

// LogValue keeps tokens out of logs.
func (t UpstreamToken) LogValue() slog.Value { return slog.StringValue(t.String()) }

// String keeps tokens out of texts.
func (t UpstreamToken) String() string { return "[token of " + t.Provider + "]" }

// GoString keeps tokens out of %#v.
func (t UpstreamToken) GoString() string { return t.String() }

var (
	// ErrUpstreamEnded says that the upstream has refused to renew the caller's token, so
	// that only a new login helps. The grant of the call is refused from then on, and
	// clients log in again.
	ErrUpstreamEnded = errors.New("the upstream has ended the session of this user")

	// ErrNoUpstream says that the caller did not sign in by an upstream.
	ErrNoUpstream = errors.New("the caller did not sign in by an upstream")
)

// Upstream returns the upstream by which the caller of a tool signed in. It works where
// [Caller] works, and asks nobody. An error other than [ErrNoUpstream] says why the tokens
// of upstreams cannot be had in this process; its text may be shown to the caller.
//
//	up, err := mcp.Upstream(ctx)
//	if err != nil {
//		return nil, nil, err
//	}
//	resp, err := up.Client().Get(up.Provider().BaseURL + "companies/")
//	if no := up.Failure(resp, err); no != nil {
//		return no, nil, nil
//	}
//	defer resp.Body.Close()
func Upstream(ctx context.Context) (*UpstreamCaller, error) {
	info, _ := ctx.Value(infoKey{}).(*auth.TokenInfo)
	if info == nil {
		return nil, errors.New("this call came without an access token")
	}
	call, ok := info.Extra[upstreamKey].(*upstreamCall)
	if !ok {
		if claims, ok := info.Extra[claimsKey].(*jwt.Claims); ok && claims.Upstream != "" {
			return nil, errors.New("this server was set up without a source of upstream tokens")
		}
		return nil, ErrNoUpstream
	}
	token, err := call.current()
	if err != nil {
		return nil, err
	}
	return &UpstreamCaller{call: call, provider: call.upstreams.source.Provider(token.Provider)}, nil
}

// WithCaller returns a context for a server that is not behind a Guard, such as one over
// stdin and stdout: [Caller] returns claims in its tools, and [Upstream] asks source, which
// may be nil. Pass it to the server's Run or Connect.
func WithCaller(ctx context.Context, claims jwt.Claims, source UpstreamSource) context.Context {
	info := &auth.TokenInfo{UserID: claims.Subject, Scopes: claims.Scopes(), Extra: map[string]any{claimsKey: &claims}}
	if u := newUpstreams(source); u != nil {
		info.Extra[upstreamKey] = &upstreamCall{upstreams: u, claims: &claims}
	}
	return context.WithValue(ctx, infoKey{}, info)
}

// UpstreamCaller is a caller's own access to the upstream by which the caller signed in. It
// is safe for concurrent use, for as long as the call lasts.
type UpstreamCaller struct {
	call     *upstreamCall
	provider UpstreamProvider
}

// Provider returns the upstream.
func (c *UpstreamCaller) Provider() UpstreamProvider { return c.provider }

// Token returns the caller's token, for a library that has a client of its own. It asks the
// issuer if the token has expired, or was too long for the claim. The error is as that of a
// [UpstreamSource]'s Renew.
func (c *UpstreamCaller) Token(ctx context.Context) (string, error) {
	token, err := c.token(ctx)
	return token.Access, err
}

func (c *UpstreamCaller) token(ctx context.Context) (UpstreamToken, error) {
	token, err := c.call.current()
	switch {
	case err != nil:
		return UpstreamToken{}, err
	case token.Access == "":
		return c.renew(ctx, 0)
	case !token.Expires.IsZero() && !time.Now().Before(token.Expires):
		return c.renew(ctx, token.Version)
	}
	return token, nil
}

// renew returns a token of a version above stale. Its errors have texts for the caller.
func (c *UpstreamCaller) renew(ctx context.Context, stale int64) (UpstreamToken, error) {
	token, err := c.call.upstreams.renew(ctx, c.call, stale)
	switch {
	case err == nil:
		return token, nil
	case errors.Is(err, ErrUpstreamEnded):
		return UpstreamToken{}, &endedError{c.name(), err}
	case ctx.Err() != nil:
		return UpstreamToken{}, err
	}
	return UpstreamToken{}, &noVerdictError{c.name(), err}
}

// name is the upstream's name in texts.
func (c *UpstreamCaller) name() string {
	if c.provider.Name != "" {
		return c.provider.Name
	}
	return c.provider.ID
}

// upstreamCall is what TokenInfo.Extra holds of a caller who signed in by an upstream.
type upstreamCall struct {
	upstreams *upstreams
	claims    *jwt.Claims
	header    http.Header // of the request, whose token has been checked; nil in a server without a Guard
}

// accessToken returns the token that the caller presented.
func (c *upstreamCall) accessToken() string {
	rawToken, _, err := oauth.Bearer(c.header["Authorization"])
	if err != nil {
		return ""
	}
	return rawToken
}

// String keeps the access token out of logs.
func (c *upstreamCall) String() string { return "[caller]" }

// GoString keeps the access token out of %#v.
func (c *upstreamCall) GoString() string { return c.String() }

// upstreamKey is where TokenInfo.Extra holds the *upstreamCall. The claim is not opened before
// a tool asks.
const upstreamKey = "upstream"

// current returns the newest token of the caller that this process has. Access may be empty.
func (c *upstreamCall) current() (UpstreamToken, error) {
	token, err := c.upstreams.source.Open(c.claims)
	if err != nil {
		return UpstreamToken{}, err
	}
	if newer, ok := c.upstreams.newer(c.claims.GrantID); ok && newer.Version >= token.Version {
		return newer, nil
	}
	return token, nil
}
