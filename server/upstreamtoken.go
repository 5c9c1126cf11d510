package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/handlers"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/internal/upstream"
	"signet/jwt"
	"signet/mcp"
	"signet/users"
)

const (
	upstreamTimeout   = 45 * time.Second // of a question to the issuer, which may wait for the upstream
	maxUpstreamAnswer = 256 << 10
)

// upstreamSource gives tools the callers' upstream tokens: open reads the one in an access
// token, and renew asks for a newer one, sealed in the same way.
type upstreamSource struct {
	open     func(sealed string) (seal.Upstream, error)
	renew    func(ctx context.Context, claims *jwt.Claims, accessToken string, stale int64) (sealed string, err error)
	provider func(id string) mcp.UpstreamProvider

	log    *slog.Logger
	logged atomic.Int64 // Unix second in which an error was logged last
}

// Open is [mcp.UpstreamSource.Open]. A claim that the key does not open is one without a token: the
// issuer may seal under a newer root secret, and its answers are for the key that asks.
func (s *upstreamSource) Open(claims *jwt.Claims) (mcp.UpstreamToken, error) {
	token, err := s.read(claims, claims.Upstream)
	if errors.Is(err, errOtherKey) {
		s.warn(context.Background(), "an upstream token was not opened, so that the issuer is asked", claims, err)
		provider, _, _ := strings.Cut(strings.TrimPrefix(claims.Subject, users.UpstreamPrefix), ":")
		return mcp.UpstreamToken{Provider: provider}, nil
	}
	return token, err
}

// warn logs at most one line a second: while the issuer is down, each call of a tool may cause one.
func (s *upstreamSource) warn(ctx context.Context, what string, claims *jwt.Claims, err error) {
	if now := time.Now().Unix(); s.logged.Swap(now) != now {
		s.log.WarnContext(ctx, what, "sub", claims.Subject, "gid", claims.GrantID, "err", err)
	}
}

// Renew is [mcp.UpstreamSource.Renew].
func (s *upstreamSource) Renew(ctx context.Context, claims *jwt.Claims, accessToken string, stale int64) (mcp.UpstreamToken, error) {
	sealed, err := s.renew(ctx, claims, accessToken, stale)
	if err == nil {
		var token mcp.UpstreamToken
		if token, err = s.read(claims, sealed); err == nil {
			return token, nil
		}
	}
	if !errors.Is(err, mcp.ErrUpstreamEnded) {
		s.warn(ctx, "an upstream token was not renewed", claims, err)
	}
	return mcp.UpstreamToken{}, err
}

// Provider is [mcp.UpstreamSource.Provider].
func (s *upstreamSource) Provider(id string) mcp.UpstreamProvider { return s.provider(id) }

// read opens a sealed token for the grant of claims.
func (s *upstreamSource) read(claims *jwt.Claims, sealed string) (mcp.UpstreamToken, error) {
	u, err := s.open(sealed)
	if err != nil {
		return mcp.UpstreamToken{}, err
	}
	if u.GrantID != claims.GrantID {
		return mcp.UpstreamToken{}, errors.New("the upstream token belongs to another access token")
	}
	token := mcp.UpstreamToken{Provider: u.Provider, Access: u.Access, Version: u.Version}
	if u.Expires != 0 {
		token.Expires = time.Unix(u.Expires, 0)
	}
	return token, nil
}

// describe describes the provider with an id, which need not be in set.
func describe(set *upstream.Set, id string) mcp.UpstreamProvider {
	if set != nil {
		if p, ok := set.Get(id); ok {
			return describeProvider(p)
		}
	}
	return mcp.UpstreamProvider{ID: id, Name: id}
}

func describeProvider(p *upstream.Provider) mcp.UpstreamProvider {
	return mcp.UpstreamProvider{ID: p.ID(), Name: p.Name(), BaseURL: p.BaseURL(), SamplePath: p.SamplePath(), Timeout: p.Timeout()}
}

// upstreamSource returns the source of upstream tokens for the tools of this process.
func (s *Server) upstreamSource(authorization *handlers.Handler) (mcp.UpstreamSource, error) {
	source := &upstreamSource{provider: func(id string) mcp.UpstreamProvider { return describe(s.upstreams, id) }, log: s.o.Log}
	if authorization != nil {
		if s.upstreams == nil {
			return nil, nil
		}
		source.open, source.renew = openByRing(s.ring), ofOwnIssuer(authorization.UpstreamToken)
		return source, nil
	}
	var keys *seal.UpstreamKeys
	if s.o.Upstream.Key != "" {
		var err error
		if keys, err = seal.ParseUpstreamKeys(s.o.Upstream.Key); err != nil {
			return nil, fmt.Errorf("SIGNET_UPSTREAM_KEY: %w", err)
		}
	}
	source.open, source.renew = openWith(keys), newUpstreamIssuer(s.o.Issuer, keys).renew
	return source, nil
}

// AddSamples adds the sample tools: those of [mcp.AddSampleTools], and upstream_get if an
// upstream has a sample path.
func (s *Server) AddSamples() {
	if s.o.Gateway.Config == "" {
		addSamples(s.MCP, s.Require, s.upstreams)
	}
}

func addSamples(to *sdk.Server, require func(tool string, scopes ...string), upstreams *upstream.Set) {
	mcp.AddSampleTools(to, require)
	if upstreams != nil && slices.ContainsFunc(upstreams.All(), func(p *upstream.Provider) bool { return p.SamplePath() != "" }) {
		mcp.AddUpstreamSample(to)
	}
}

// openByRing returns the function that opens tokens in a process that has the root secret.
func openByRing(ring *seal.Keyring) func(sealed string) (seal.Upstream, error) {
	return func(sealed string) (seal.Upstream, error) { return seal.Open[seal.Upstream](ring, sealed) }
}

// errNoUpstreamKey tells the programmer of a tool, and the operator, what is missing.
var errNoUpstreamKey = errors.New("this server cannot read upstream tokens: SIGNET_UPSTREAM_KEY is not set (`signet secret derive upstream` prints it)")

// errOtherKey tells the operator that the issuer seals under another root secret.
var errOtherKey = errors.New("SIGNET_UPSTREAM_KEY does not open the upstream tokens of now: set it to what `signet secret derive upstream` prints")

// openWith returns the function that opens tokens in a process without a root secret. Without
// keys it returns an error that says so.
func openWith(keys *seal.UpstreamKeys) func(sealed string) (seal.Upstream, error) {
	return func(sealed string) (seal.Upstream, error) {
		if keys == nil {
			return seal.Upstream{}, errNoUpstreamKey
		}
		u, err := keys.Open(sealed)
		if err != nil {
			return seal.Upstream{}, errOtherKey
		}
		return u, nil
	}
}

// ofOwnIssuer makes the answer of the authorization server in this process that of an
// [mcp.UpstreamSource].
func ofOwnIssuer(token func(ctx context.Context, claims *jwt.Claims, stale int64) (string, error)) func(context.Context, *jwt.Claims, string, int64) (string, error) {
	return func(ctx context.Context, claims *jwt.Claims, _ string, stale int64) (string, error) {
		sealed, err := token(ctx, claims, stale)
		var e *oauth.Error
		if errors.As(err, &e) && e.Code == oauth.InvalidGrant {
			return "", fmt.Errorf("%w: %w", mcp.ErrUpstreamEnded, err)
		}
		return sealed, err
	}
}

// upstreamIssuer asks the issuer for tokens, at its endpoint /upstream/token.
type upstreamIssuer struct {
	url    string
	keys   *seal.UpstreamKeys
	client *http.Client
}

// newUpstreamIssuer returns a client that uses no proxy, as the one that fetches the issuer's
// keys.
func newUpstreamIssuer(issuer string, keys *seal.UpstreamKeys) *upstreamIssuer {
	client := &http.Client{Timeout: upstreamTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if t, ok := http.DefaultTransport.(*http.Transport); ok {
		t = t.Clone()
		t.Proxy = nil
		client.Transport = t
	}
	return &upstreamIssuer{issuer + "/upstream/token", keys, client}
}

func (i *upstreamIssuer) renew(ctx context.Context, claims *jwt.Claims, accessToken string, stale int64) (sealed string, err error) {
	if i.keys == nil {
		return "", errNoUpstreamKey
	}
	version := strconv.FormatInt(stale, 10)
	proof, err := i.keys.Prove("stale=" + version + "\n" + accessToken)
	if err != nil {
		return "", err
	}
	form := url.Values{"stale": {version}, "proof": {proof}}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, i.url, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	r.Header.Set("Authorization", "Bearer "+accessToken)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	resp, err := i.client.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	return readUpstreamAnswer(resp, claims)
}

// readUpstreamAnswer returns the sealed token in an answer of the issuer.
func readUpstreamAnswer(resp *http.Response, claims *jwt.Claims) (sealed string, err error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxUpstreamAnswer+1))
	if err != nil {
		return "", err
	}
	if len(body) > maxUpstreamAnswer {
		return "", fmt.Errorf("the issuer's answer is longer than %d bytes", maxUpstreamAnswer)
	}
	var answer struct {
		Upstream string     `json:"upstream"`
		Error    oauth.Code `json:"error"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", fmt.Errorf("the issuer answered %s, and not JSON", resp.Status)
	}
	switch {
	case resp.StatusCode == http.StatusOK && answer.Upstream != "":
		return answer.Upstream, nil
	case resp.StatusCode == http.StatusBadRequest && answer.Error == oauth.InvalidGrant,
		// Another server has ended the grant, unless the token has just expired.
		resp.StatusCode == http.StatusUnauthorized && answer.Error == oauth.InvalidToken && time.Until(claims.Expires()) > jwt.Leeway:
		return "", fmt.Errorf("%w: the issuer answered %s", mcp.ErrUpstreamEnded, answer.Error)
	case resp.StatusCode == http.StatusForbidden && answer.Error == oauth.AccessDenied:
		return "", errors.New("the issuer does not know this server's SIGNET_UPSTREAM_KEY")
	}
	return "", fmt.Errorf("the issuer answered %s", resp.Status)
}
