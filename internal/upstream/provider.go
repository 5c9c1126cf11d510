package upstream

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	defaultTimeout = 10 * time.Second
	minTimeout     = 100 * time.Millisecond
	maxTimeout     = 5 * time.Minute

	// maxRefresh bounds a refresh, during which other requests wait for its outcome.
	maxRefresh = 20 * time.Second
)

// Set are the providers of a configuration. It is never empty.
type Set struct {
	list   []*Provider
	secret bool
}

// HoldsSecret reports whether a client secret stands in the configuration itself.
func (s *Set) HoldsSecret() bool { return s.secret }

// All returns the providers in the order of the configuration.
func (s *Set) All() []*Provider { return slices.Clone(s.list) }

// Get returns the provider with an id.
func (s *Set) Get(id string) (*Provider, bool) {
	i := slices.IndexFunc(s.list, func(p *Provider) bool { return p.ID() == id })
	if i < 0 {
		return nil, false
	}
	return s.list[i], true
}

// Provider is a place where users have accounts. It is safe for concurrent use.
type Provider struct {
	entry
	timeout time.Duration
	way     http.RoundTripper
	foreign []string // issuers of other providers

	fetches singleflight.Group // of the discovery document
	known   atomic.Pointer[metadata]
	style   atomic.Int32 // an oauth2.AuthStyle that was accepted; 0: none yet
}

// newProvider returns the provider of an entry that has no fault.
func newProvider(e entry, way http.RoundTripper) *Provider {
	p := &Provider{entry: e, timeout: e.timeout, way: way}
	if p.timeout == 0 {
		p.timeout = defaultTimeout
	}
	if p.name == "" {
		p.name = p.id
	}
	return p
}

// newSet returns the providers of entries that have no fault.
func newSet(entries []entry) *Set {
	way, s := newTransport(), &Set{}
	for _, e := range entries {
		s.list = append(s.list, newProvider(e, way))
	}
	for _, p := range s.list {
		for _, other := range s.list {
			if other.issuer != "" && other.issuer != p.issuer {
				p.foreign = append(p.foreign, other.issuer)
			}
		}
	}
	return s
}

// ID returns the provider's id, of the characters a to z, 0 to 9 and hyphen.
func (p *Provider) ID() string { return p.id }

// Name returns the provider's name for people.
func (p *Provider) Name() string { return p.name }

// Kind returns [Password], [OAuth] or [OpenID].
func (p *Provider) Kind() string { return p.kind }

// UsernameField returns what the login page asks for: "username" or "email".
func (p *Provider) UsernameField() string {
	if p.usernameField == "" {
		return "username"
	}
	return p.usernameField
}

// SamplePath returns the path below BaseURL that the sample tool reads, or "".
func (p *Provider) SamplePath() string { return strings.TrimPrefix(p.samplePath, "/") }

// BaseURL returns the URL, with a slash at its end, of the API that the tokens are for. If the
// configuration does not say, it is the host of the provider's issuer, or of the endpoint that
// tells who the user is.
func (p *Provider) BaseURL() string {
	if p.baseURL != "" {
		return p.baseURL
	}
	for _, raw := range []string{p.issuer, p.userinfo} {
		if u, err := url.Parse(raw); err == nil && u.Host != "" {
			return u.Scheme + "://" + u.Host + "/"
		}
	}
	return ""
}

// Timeout returns how long a login may take. A refresh takes no longer than 20 s.
func (p *Provider) Timeout() time.Duration { return p.timeout }

// Host returns the host that users of the provider know.
func (p *Provider) Host() string {
	for _, raw := range []string{p.issuer, p.authorization, p.baseURL} {
		if u, err := url.Parse(raw); err == nil && u.Host != "" {
			return u.Host
		}
	}
	return ""
}

// Bound returns a short hash that names what the provider's tokens were made for: the issuer or
// the endpoints, and the client. Tokens of another Bound must not be sent to this provider.
func (p *Provider) Bound() string {
	parts := []string{p.kind, p.issuer, p.clientID}
	switch p.kind {
	case Password:
		parts = append(parts, p.baseURL, p.login.path)
	case OAuth:
		parts = append(parts, p.authorization, p.token)
	}
	h := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return base64.RawURLEncoding.EncodeToString(h[:16])
}

// within bounds a call to the provider.
func (p *Provider) within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, min(p.timeout, limit))
}

// Refresh gets a new access token. The result has the old refresh token if the provider gave no
// new one. The error is [ErrNoRefresh] if t cannot be refreshed, and wraps [ErrRefused] if the
// provider refuses it for good.
func (p *Provider) Refresh(ctx context.Context, t Tokens) (Tokens, error) {
	if t.Refresh == "" || p.kind == Password && p.refresh == nil {
		return Tokens{}, ErrNoRefresh
	}
	ctx, cancel := p.within(ctx, maxRefresh)
	defer cancel()
	if p.kind == Password {
		return p.refreshByAPI(ctx, t)
	}
	return p.refreshByGrant(ctx, t)
}

// Revoke tells the provider that t is no longer used. A provider without an endpoint for that is
// not told. The refresh token is revoked, with which a provider ends the access token (RFC 7009
// §2.1); without one, the access token.
func (p *Provider) Revoke(ctx context.Context, t Tokens) error {
	ctx, cancel := p.within(ctx, maxRefresh)
	defer cancel()
	if p.kind == Password {
		return p.revokeByAPI(ctx, t)
	}
	return p.revokeToken(ctx, t)
}

// Check asks the provider whether it answers. It sends no credentials.
func (p *Provider) Check(ctx context.Context) error {
	ctx, cancel := p.within(ctx, maxTimeout)
	defer cancel()
	if p.kind == OpenID {
		m, err := p.discover(ctx)
		if err != nil {
			return err
		}
		_, _, err = p.get(ctx, m.Keys, "")
		return err
	}
	at := p.token
	if p.kind == Password {
		at = p.baseURL + p.login.path
	}
	r, err := http.NewRequest(http.MethodGet, at, nil)
	if err != nil {
		return err
	}
	a, err := p.send(ctx, r)
	if err == nil && a.status >= 500 {
		err = fmt.Errorf("%s answered %d", at, a.status)
	}
	return err
}

// checkToken returns an error for a token that cannot be a value of a header.
func checkToken(name, token string) error {
	switch {
	case len(token) > maxToken:
		return fmt.Errorf("the %s has more than %d bytes", name, maxToken)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return fmt.Errorf("the %s has a character that tokens do not have", name)
	}
	return nil
}

const maxToken = 32 << 10 // bytes

// check returns an error if tokens that a provider gave cannot be used.
func (t Tokens) check() error {
	if t.Access == "" {
		return errors.New("the answer has no access token")
	}
	return errors.Join(checkToken("access token", t.Access), checkToken("refresh token", t.Refresh))
}

// expiry returns when an access token expires that was asked for at a time: after its life in
// seconds, or else when it says so itself, as a JWT does; 0 if neither is known.
func expiry(token string, obtained, life int64) int64 {
	if life > 0 {
		return obtained + life
	}
	_, rest, _ := strings.Cut(token, ".")
	payload, _, three := strings.Cut(rest, ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil || !three {
		return 0
	}
	claims, err := parseObject(text)
	if err != nil {
		return 0
	}
	exp, _ := seconds(claims["exp"])
	return exp
}
