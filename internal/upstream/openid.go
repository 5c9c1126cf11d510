package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"

	"signet/internal/configfile"
)

const (
	// metadataAge is how long a discovery document is used before it is fetched again.
	metadataAge = time.Hour

	maxLogoutToken = 16 << 10 // bytes
)

// metadata is what is known of a provider: its discovery document (OpenID Connect Discovery 1.0
// §3), or what the configuration says.
type metadata struct {
	Issuer        string   `json:"issuer"`
	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	UserInfo      string   `json:"userinfo_endpoint"`
	Revocation    string   `json:"revocation_endpoint"`
	Keys          string   `json:"jwks_uri"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	AuthMethods   []string `json:"token_endpoint_auth_methods_supported"`
	SendsIssuer   bool     `json:"authorization_response_iss_parameter_supported"` // RFC 9207 §3
	Documents     bool     `json:"client_id_metadata_document_supported"`          // OAuth Client ID Metadata Document §5
	Registration  string   `json:"registration_endpoint"`
	Challenges    []string `json:"code_challenge_methods_supported"`

	fetched time.Time
	keys    *oidc.RemoteKeySet // of id tokens
	slow    *oidc.RemoteKeySet // of logout tokens, which anybody can send
}

// metadata returns the provider's metadata. A discovery document that was fetched once serves
// until a newer one is there. No caller waits for that one: the provider's other endpoints may
// answer while that for the document does not.
func (p *Provider) metadata(ctx context.Context) (*metadata, error) {
	switch p.kind {
	case Password:
		return nil, fmt.Errorf("the provider %s takes passwords", p.id)
	case OAuth:
		return &metadata{Issuer: p.issuer, Authorization: p.authorization, Token: p.token, UserInfo: p.userinfo, Revocation: p.revocation}, nil
	}
	known := p.known.Load()
	if known == nil {
		return p.discover(ctx)
	}
	if time.Since(known.fetched) >= metadataAge {
		p.fetch(ctx)
	}
	return known, nil
}

// discover fetches the discovery document.
func (p *Provider) discover(ctx context.Context) (*metadata, error) {
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("the discovery document of %s: %w", p.id, context.Cause(ctx))
	case result := <-p.fetch(ctx):
		m, _ := result.Val.(*metadata)
		return m, result.Err
	}
}

// fetch begins to fetch the discovery document, unless that is under way.
func (p *Provider) fetch(ctx context.Context) <-chan singleflight.Result {
	return p.fetches.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.timeout)
		defer cancel()
		return p.fetchMetadata(ctx)
	})
}

func (p *Provider) fetchMetadata(ctx context.Context) (*metadata, error) {
	text, err := p.document(ctx)
	if err != nil {
		return nil, err
	}
	m := &metadata{fetched: time.Now()}
	if json.Unmarshal(text, m) != nil {
		return nil, fmt.Errorf("the discovery document of %s has a member of a wrong type", p.id)
	}
	if err := p.checkMetadata(m); err != nil {
		return nil, fmt.Errorf("the discovery document of %s: %w", p.id, err)
	}
	if p.revocation != "" {
		m.Revocation = p.revocation
	}
	m.keys = oidc.NewRemoteKeySet(oidc.ClientContext(ctx, client(&keysAnswers{way: bounded{p.way}}, p.timeout)), m.Keys)
	m.slow = oidc.NewRemoteKeySet(oidc.ClientContext(ctx, client(&keysAnswers{way: bounded{p.way}, age: keysAge}, p.timeout)), m.Keys)
	p.known.Store(m)
	return m, nil
}

// document returns the text of the discovery document. That of an OAuth 2.0 server is at the place of
// RFC 8414 §3.1, or else at that of OpenID Connect, whose suffix stands before the issuer's path (RFC
// 8414 §5) or after it.
func (p *Provider) document(ctx context.Context) ([]byte, error) {
	const openID = "/.well-known/openid-configuration"
	issuer := strings.TrimSuffix(p.issuer, "/")
	if p.kind == discovered {
		u, err := url.Parse(issuer)
		if err != nil {
			return nil, err
		}
		for _, suffix := range []string{"/.well-known/oauth-authorization-server", openID} {
			_, text, err := p.get(ctx, u.Scheme+"://"+u.Host+suffix+u.EscapedPath(), "")
			var refused *statusError
			if !errors.As(err, &refused) || refused.status >= 500 {
				return text, err
			}
		}
	}
	_, text, err := p.get(ctx, issuer+openID, "")
	return text, err
}

// checkMetadata checks the issuer, byte by byte for logins (OpenID Connect Discovery 1.0 §4.3), and that
// each endpoint may be asked.
func (p *Provider) checkMetadata(m *metadata) error {
	if m.Issuer != p.issuer && !(p.kind == discovered && SameIssuer(m.Issuer, p.issuer)) {
		return fmt.Errorf("it is of the issuer %q, not of %q", cut(m.Issuer, 200), p.issuer)
	}
	loopback := strings.HasPrefix(p.issuer, "http:")
	for _, e := range []struct {
		name, url string
		needed    bool
	}{
		{"authorization_endpoint", m.Authorization, p.kind == OpenID}, {"token_endpoint", m.Token, true}, {"jwks_uri", m.Keys, p.kind == OpenID},
		{"userinfo_endpoint", m.UserInfo, false}, {"revocation_endpoint", m.Revocation, false}, {"registration_endpoint", m.Registration, false},
	} {
		if e.url == "" && !e.needed {
			continue
		}
		why := configfile.CheckURL(e.url)
		if why == "" && !loopback && strings.HasPrefix(e.url, "http:") {
			why = "must be https, as the issuer is"
		}
		if why != "" {
			return fmt.Errorf("%s %s", e.name, why)
		}
	}
	return nil
}

// signature checks signatures, and remembers if that failed for want of keys.
type signature struct {
	keys        *oidc.RemoteKeySet
	unavailable error
}

func (s *signature) VerifySignature(ctx context.Context, raw string) ([]byte, error) {
	payload, err := s.keys.VerifySignature(ctx, raw)
	if err != nil && (errors.Is(err, errKeys) || ctx.Err() != nil) {
		s.unavailable = err
	}
	return payload, err
}

// signingAlgorithms are the ones that an issuer may use.
var signingAlgorithms = []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA}

// verifier checks the tokens that the provider signed for this client.
func (p *Provider) verifier(m *metadata, s *signature) *oidc.IDTokenVerifier {
	algorithms := slices.DeleteFunc(slices.Clone(m.Algorithms), func(a string) bool { return !slices.Contains(signingAlgorithms, a) })
	return oidc.NewVerifier(p.issuer, s, &oidc.Config{ClientID: p.clientID, SupportedSigningAlgs: algorithms})
}

// openIDUser returns the user of a token answer with an id token.
func (p *Provider) openIDUser(ctx context.Context, m *metadata, t *oauth2.Token, nonce string) (Identity, error) {
	raw, _ := t.Extra("id_token").(string)
	claims, err := p.checkIDToken(ctx, m, raw, t.AccessToken, nonce)
	if err != nil {
		return Identity{}, fmt.Errorf("the id token of %s: %w", p.id, err)
	}
	authTime, _ := seconds(claims["auth_time"])
	if wanted, needed := p.lacks(claims); wanted && m.UserInfo != "" {
		err := p.addUserInfo(ctx, m, t.AccessToken, claims)
		var refused *statusError
		isRefused := errors.As(err, &refused) && refused.status < 500 // the token is for another API
		if err != nil && (needed || !isRefused) {
			return Identity{}, err
		}
	}
	who, err := p.identify(p.fields.orElse(fields{userID: "sub", userName: "preferred_username"}), claims, "")
	who.AuthTime = authTime
	return who, err
}

// checkIDToken does what OpenID Connect Core §3.1.3.7 demands.
func (p *Provider) checkIDToken(ctx context.Context, m *metadata, raw, access, nonce string) (map[string]any, error) {
	if raw == "" {
		return nil, errors.New("there is none")
	}
	s := &signature{keys: m.keys}
	token, err := p.verifier(m, s).Verify(ctx, raw)
	switch {
	case s.unavailable != nil:
		return nil, s.unavailable
	case err != nil:
		return nil, errors.New(cut(err.Error(), 300))
	case nonce == "" || token.Nonce != nonce:
		return nil, errors.New("it does not have the nonce of the request")
	case token.AccessTokenHash != "" && token.VerifyAccessToken(access) != nil:
		return nil, errors.New("it belongs to another access token")
	}
	var payload json.RawMessage
	if err := token.Claims(&payload); err != nil {
		return nil, err
	}
	claims, err := parseObject(payload)
	if err != nil {
		return nil, err
	}
	if azp := text(claims["azp"]); azp != p.clientID && (azp != "" || len(token.Audience) > 1) {
		return nil, errors.New("it was issued to another client")
	}
	return claims, nil
}

// lacks reports whether an id token has no claim that the userinfo endpoint may have. Needed is
// true if it decides whether the user may sign in, or with which scopes.
func (p *Provider) lacks(claims map[string]any) (wanted, needed bool) {
	f := p.fields.orElse(standard)
	var must []string
	if len(p.allow.groups) > 0 {
		must = append(must, f.groups)
	}
	if len(p.allow.emails)+len(p.allow.domains) > 0 {
		must = append(must, f.email)
	}
	if p.scopesFrom.claim != "" {
		must = append(must, p.scopesFrom.claim)
	}
	absent := func(path string) bool { return lookup(claims, path) == nil }
	needed = slices.ContainsFunc(must, absent)
	return needed || absent(f.email) || absent(f.displayName), needed
}

// addUserInfo adds claims of the userinfo endpoint to those of the id token, of which none
// changes (OpenID Connect Core §5.3.2).
func (p *Provider) addUserInfo(ctx context.Context, m *metadata, access string, claims map[string]any) error {
	more, _, err := p.get(ctx, m.UserInfo, access)
	switch {
	case err != nil:
		return err
	case text(more["sub"]) != text(claims["sub"]):
		return fmt.Errorf("the userinfo endpoint of %s answered for another user", p.id)
	}
	f := p.fields.orElse(standard)
	address, verified := lookup(claims, f.email), lookup(claims, f.emailVerified)
	for name, value := range more {
		if _, said := claims[name]; !said {
			claims[name] = value
		}
	}
	if address != nil {
		claims[f.emailVerified] = verified // userinfo may say it of another address
	}
	return nil
}

// Logout checks a logout token (OpenID Connect Back-Channel Logout 1.0 §2.6). The error wraps
// [ErrLogoutToken] if the token is not valid; that it is used once is up to the caller.
func (p *Provider) Logout(ctx context.Context, logoutToken string) (Logout, error) {
	if p.kind != OpenID || len(logoutToken) > maxLogoutToken {
		return Logout{}, ErrLogoutToken
	}
	ctx, cancel := p.within(ctx, maxTimeout)
	defer cancel()
	m, err := p.metadata(ctx)
	if err != nil {
		return Logout{}, err
	}
	s := &signature{keys: m.slow}
	token, err := p.verifier(m, s).VerifyLogout(ctx, logoutToken)
	switch {
	case s.unavailable != nil:
		return Logout{}, s.unavailable
	case err != nil:
		return Logout{}, fmt.Errorf("%w: %s", ErrLogoutToken, cut(err.Error(), 300))
	case token.IssuedAt.IsZero(): // which go-oidc does not demand
		return Logout{}, fmt.Errorf("%w: it has no iat", ErrLogoutToken)
	}
	var payload json.RawMessage
	if err := token.Claims(&payload); err != nil {
		return Logout{}, err
	}
	claims, err := parseObject(payload)
	if err != nil {
		return Logout{}, fmt.Errorf("%w: %w", ErrLogoutToken, err)
	}
	if _, ok := lookup(claims["events"], logoutEvent).(map[string]any); !ok {
		return Logout{}, fmt.Errorf("%w: the event is not an object", ErrLogoutToken)
	}
	subject := token.Subject
	if p.fields.userID != "" {
		subject = text(lookup(claims, p.fields.userID))
	}
	if subject == "" && token.SessionID == "" {
		return Logout{}, fmt.Errorf("%w: it names no user", ErrLogoutToken)
	}
	return Logout{Subject: subject, Session: token.SessionID, ID: token.TokenID, Expires: token.Expiry.Unix()}, nil
}

const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"
