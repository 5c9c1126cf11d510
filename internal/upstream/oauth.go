package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

// The ways in which a client proves itself at the token endpoint (RFC 7591 §2).
const (
	authBasic = "client_secret_basic"
	authPost  = "client_secret_post"
	authNone  = "none"
)

// refusals are the errors by which a provider refuses a code or a refresh token for good: that
// of RFC 6749 §5.2, and those of GitHub.
var refusals = []string{"invalid_grant", "bad_verification_code", "bad_refresh_token"}

// AuthorizeURL returns the URL of an authorization request, to which the browser is sent. The
// configuration's prompt, of which a refresh token may depend, counts before that of a.
func (p *Provider) AuthorizeURL(ctx context.Context, a AuthRequest) (string, error) {
	ctx, cancel := p.within(ctx, maxTimeout)
	defer cancel()
	m, err := p.metadata(ctx)
	if err != nil {
		return "", err
	}
	c := p.oauth(m, a.RedirectURI)
	params := map[string]string{}
	if a.Prompt != "" {
		params["prompt"] = a.Prompt
	}
	maps.Copy(params, p.authorizeParams)
	if p.kind == OpenID && a.Nonce != "" {
		params["nonce"] = a.Nonce
	}
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(a.Verifier)}
	for name, value := range params {
		if !slices.Contains(p.dropParams, name) {
			options = append(options, oauth2.SetAuthURLParam(name, value))
		}
	}
	return c.AuthCodeURL(a.State, options...), nil
}

// CheckIssuer checks the parameter iss of an authorization response, "" if there is none (RFC
// 9207 §2.4). The error wraps [ErrIssuer] if it is wrong.
func (p *Provider) CheckIssuer(ctx context.Context, iss string) error {
	ctx, cancel := p.within(ctx, maxTimeout)
	defer cancel()
	m, err := p.metadata(ctx)
	switch {
	case err != nil:
		return err
	case iss == "" && m.SendsIssuer:
		return fmt.Errorf("%w: it has no iss, which the provider promises to send", ErrIssuer)
	case iss == "" || iss == m.Issuer:
		return nil
	case m.Issuer != "" || slices.Contains(p.foreign, iss):
		return ErrIssuer
	}
	return nil // the provider has no issuer that is known here
}

// oauth returns the settings for x/oauth2.
func (p *Provider) oauth(m *metadata, redirectURI string) *oauth2.Config {
	return &oauth2.Config{
		ClientID: p.clientID, ClientSecret: p.clientSecret, RedirectURL: redirectURI, Scopes: p.scopes,
		Endpoint: oauth2.Endpoint{AuthURL: m.Authorization, TokenURL: m.Token},
	}
}

// styles returns the ways to send the client's secret, the first one to try first. There is a
// second one only if neither the configuration nor the provider says which it is.
func (p *Provider) styles(m *metadata) []oauth2.AuthStyle {
	header, params := oauth2.AuthStyleInHeader, oauth2.AuthStyleInParams
	switch {
	case p.clientSecret == "", p.clientAuth == authNone, p.clientAuth == authPost:
		return []oauth2.AuthStyle{params}
	case p.clientAuth == authBasic, slices.Contains(m.AuthMethods, authBasic):
		return []oauth2.AuthStyle{header}
	case slices.Contains(m.AuthMethods, authPost):
		return []oauth2.AuthStyle{params}
	}
	if style := oauth2.AuthStyle(p.style.Load()); style != 0 {
		return []oauth2.AuthStyle{style}
	}
	if p.kind == OpenID {
		return []oauth2.AuthStyle{header, params} // OpenID Connect Core §9: client_secret_basic is the default
	}
	return []oauth2.AuthStyle{params, header}
}

// retrieve asks the token endpoint. A client that the endpoint did not identify is sent once more
// in the other way: in that case nothing was spent. Secrets are what the error must not contain.
func (p *Provider) retrieve(ctx context.Context, m *metadata, redirectURI string, secrets []string, ask func(context.Context, *oauth2.Config) (*oauth2.Token, error)) (*oauth2.Token, error) {
	ctx = context.WithValue(ctx, oauth2.HTTPClient, client(tokenAnswers{bounded{p.way}}, p.timeout))
	var t *oauth2.Token
	var err error
	for _, style := range p.styles(m) {
		c := p.oauth(m, redirectURI)
		c.Endpoint.AuthStyle = style
		t, err = ask(ctx, c)
		if err == nil {
			p.style.Store(int32(style))
		}
		var refused *oauth2.RetrieveError
		if !errors.As(err, &refused) || refused.ErrorCode != "invalid_client" {
			break
		}
	}
	return t, p.restate(err, append(secrets, p.clientSecret))
}

// restate returns the error of a token request without what must not be in it: x/oauth2 shows the
// provider's answer.
func (p *Provider) restate(err error, secrets []string) error {
	var refused *oauth2.RetrieveError
	if !errors.As(err, &refused) {
		return err
	}
	what := fmt.Sprintf("the token endpoint of %s answered %d", p.id, refused.Response.StatusCode)
	if refused.ErrorCode != "" {
		what += fmt.Sprintf(" %q", cut(without(refused.ErrorCode, secrets), 64))
	}
	if refused.ErrorDescription != "" {
		what += fmt.Sprintf(" (%s)", cut(without(refused.ErrorDescription, secrets), 200))
	}
	if refused.Response.StatusCode < 500 && slices.Contains(refusals, refused.ErrorCode) {
		return fmt.Errorf("%w: %s", ErrRefused, what)
	}
	return errors.New(what)
}

// without returns s, or a placeholder if a secret is in it.
func without(s string, secrets []string) string {
	for _, secret := range secrets {
		if secret != "" && strings.Contains(s, secret) {
			return "[not shown: it repeats a secret]"
		}
	}
	return s
}

// Exchange redeems the code of an authorization response and tells who signed in. The error wraps
// [ErrRefused] if the provider refuses the code.
func (p *Provider) Exchange(ctx context.Context, c Callback) (Identity, Tokens, error) {
	if p.kind == Password {
		return Identity{}, Tokens{}, fmt.Errorf("the provider %s takes passwords", p.id)
	}
	ctx, cancel := p.within(ctx, maxTimeout)
	defer cancel()
	m, err := p.metadata(ctx)
	if err != nil {
		return Identity{}, Tokens{}, err
	}
	obtained := time.Now().Unix()
	raw, err := p.retrieve(ctx, m, c.RedirectURI, []string{c.Code, c.Verifier}, func(ctx context.Context, conf *oauth2.Config) (*oauth2.Token, error) {
		return conf.Exchange(ctx, c.Code, oauth2.VerifierOption(c.Verifier))
	})
	if err != nil {
		return Identity{}, Tokens{}, err
	}
	t, err := p.tokens(raw, obtained, p.scopes)
	if err != nil {
		return Identity{}, Tokens{}, err
	}
	who, err := p.whoIs(ctx, m, raw, c.Nonce)
	if err != nil {
		return Identity{}, Tokens{}, err
	}
	return who, t, nil
}

// whoIs returns the user of a token answer.
func (p *Provider) whoIs(ctx context.Context, m *metadata, t *oauth2.Token, nonce string) (Identity, error) {
	if p.kind == OpenID {
		return p.openIDUser(ctx, m, t, nonce)
	}
	answer, _, err := p.get(ctx, m.UserInfo, t.AccessToken)
	if err != nil {
		return Identity{}, err
	}
	if f := p.fields.orElse(standard); p.emails != "" && text(lookup(answer, f.email)) == "" {
		address, err := p.primaryEmail(ctx, t.AccessToken)
		if err != nil {
			return Identity{}, err
		}
		if address != "" {
			answer[f.email], answer[f.emailVerified] = address, true
		}
	}
	return p.identify(p.fields.orElse(fields{userID: "sub", userName: "preferred_username"}), answer, "")
}

// primaryEmail returns the user's primary address if it is verified, or "". A provider that does
// not tell it for this token has none.
func (p *Provider) primaryEmail(ctx context.Context, access string) (string, error) {
	list, _, err := p.getJSON(ctx, p.emails, access)
	var refused *statusError
	switch {
	case errors.As(err, &refused) && refused.status < 500:
		return "", nil
	case err != nil:
		return "", err
	}
	addresses, _ := list.([]any)
	for _, a := range addresses {
		if isTrue(lookup(a, "primary")) && isTrue(lookup(a, "verified")) {
			return text(lookup(a, "email")), nil
		}
	}
	return "", nil
}

// tokens reads a token answer.
func (p *Provider) tokens(raw *oauth2.Token, obtained int64, scope []string) (Tokens, error) {
	if kind := raw.TokenType; kind != "" && !strings.EqualFold(kind, "bearer") {
		return Tokens{}, fmt.Errorf("the token endpoint of %s gave a token of the type %q, not Bearer", p.id, cut(kind, 32))
	}
	t := Tokens{Access: raw.AccessToken, Refresh: raw.RefreshToken, Scope: slices.Clone(scope), Obtained: obtained}
	t.Expires = expiry(t.Access, obtained, raw.ExpiresIn)
	if s, _ := raw.Extra("scope").(string); s != "" {
		t.Scope = strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' })
	}
	if err := t.check(); err != nil {
		return Tokens{}, fmt.Errorf("the token endpoint of %s: %w", p.id, err)
	}
	return t, nil
}

// refreshByGrant refreshes with the grant refresh_token (RFC 6749 §6). It looks at nothing in the
// answer but the tokens: an id token that cannot be checked must not cost a refresh token.
func (p *Provider) refreshByGrant(ctx context.Context, t Tokens) (Tokens, error) {
	m, err := p.metadata(ctx)
	if err != nil {
		return Tokens{}, err
	}
	obtained := time.Now().Unix()
	raw, err := p.retrieve(ctx, m, "", []string{t.Refresh, t.Access}, func(ctx context.Context, conf *oauth2.Config) (*oauth2.Token, error) {
		return conf.TokenSource(ctx, &oauth2.Token{RefreshToken: t.Refresh}).Token()
	})
	if err != nil {
		return Tokens{}, err
	}
	return p.tokens(raw, obtained, t.Scope)
}

// revokeToken revokes tokens at the revocation endpoint (RFC 7009 §2).
func (p *Provider) revokeToken(ctx context.Context, t Tokens) error {
	m, err := p.metadata(ctx)
	if err != nil || m.Revocation == "" {
		return errors.Join(err, p.deleteToken(ctx, t))
	}
	form := url.Values{"token": {t.Refresh}, "token_type_hint": {refreshToken}}
	if t.Refresh == "" {
		form = url.Values{"token": {t.Access}, "token_type_hint": {accessToken}}
	}
	for _, style := range p.styles(m) {
		err = p.revokeBy(ctx, m.Revocation, style, form)
		var refused *statusError
		if !errors.As(err, &refused) || refused.status != http.StatusUnauthorized {
			break
		}
	}
	return err
}

// deleteToken deletes an access token in the manner of GitHub, if the provider has an endpoint for
// that. A token that is not there any more is deleted.
func (p *Provider) deleteToken(ctx context.Context, t Tokens) error {
	if p.deletion == "" {
		return nil
	}
	body, err := json.Marshal(map[string]string{"access_token": t.Access})
	if err != nil {
		return err
	}
	r, err := http.NewRequest(http.MethodDelete, p.deletion, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.SetBasicAuth(p.clientID, p.clientSecret)
	err = p.sent(ctx, r)
	var gone *statusError
	if errors.As(err, &gone) && (gone.status == http.StatusNotFound || gone.status == http.StatusUnprocessableEntity) {
		return nil
	}
	return err
}

// revokeBy sends a revocation request with the client's secret in one of the two ways.
func (p *Provider) revokeBy(ctx context.Context, endpoint string, style oauth2.AuthStyle, form url.Values) error {
	form = maps.Clone(form)
	if style == oauth2.AuthStyleInParams {
		form.Set("client_id", p.clientID)
		if p.clientSecret != "" {
			form.Set("client_secret", p.clientSecret)
		}
	}
	r, err := http.NewRequest(http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if style == oauth2.AuthStyleInHeader {
		r.SetBasicAuth(url.QueryEscape(p.clientID), url.QueryEscape(p.clientSecret))
	}
	return p.sent(ctx, r)
}
