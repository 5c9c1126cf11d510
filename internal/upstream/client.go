package upstream

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"signet/internal/configfile"
	"signet/internal/oauth"
)

// ClientOptions describe a client at an authorization server by which nobody signs in here: only
// its tokens are of use.
type ClientOptions struct {
	ID, Name string // of the connection

	Preset                string // github and google stand for what their servers need besides; any other name stands for nothing
	Issuer                string // its metadata is discovered, unless the endpoints are set
	AuthorizationEndpoint string // empty: no user connects anything
	TokenEndpoint         string
	RevocationEndpoint    string
	ClientID              string
	Document              string // without ClientID: URL of the client's description, which is its id at servers that fetch such
	ClientSecret          string // empty: a public client, unless ClientKey is set
	ClientAuth            string // how the secret is sent, as in RFC 7591 §2; empty: as the server says
	ClientKey             string // PEM of an RSA or P-256 key, by which the client proves itself (RFC 7523)
	Scopes                []string
	Audience              string // of the tokens that the client gets for itself, or by an exchange; may be empty
	Resource              string // that the tokens of users are for (RFC 8707); may be empty

	Way http.RoundTripper // to the server; nil: the way to the operator's providers
}

// Client gets tokens at an authorization server. It is safe for concurrent use.
type Client struct {
	p        *Provider
	key      crypto.Signer
	audience string
	resource string
	document bool // the client id is the URL of its description
}

// discovered is the kind of an OAuth 2.0 server whose metadata is found by its issuer (RFC 8414).
const discovered = "discovered"

// NewClient returns a client. It asks no server.
func NewClient(o ClientOptions) (*Client, error) {
	e := entry{
		id: o.ID, name: o.Name, kind: OAuth, issuer: o.Issuer, authorization: o.AuthorizationEndpoint, token: o.TokenEndpoint, revocation: o.RevocationEndpoint,
		clientID: o.ClientID, clientSecret: o.ClientSecret, clientAuth: o.ClientAuth, scopes: o.Scopes, authorizeParams: map[string]string{},
	}
	switch o.Preset {
	case "github":
		e.presetGitHub()
	case "google":
		e.authorizeParams["access_type"], e.authorizeParams["prompt"] = "offline", "consent" // without them there is no refresh token
	}
	if e.token == "" {
		e.kind = discovered
	}
	c := &Client{audience: o.Audience, resource: o.Resource}
	if o.ClientID == "" && strings.HasPrefix(o.Document, "https://") && e.kind == discovered {
		e.clientID, c.document = o.Document, true
	}
	if err := c.check(e); err != nil {
		return nil, fmt.Errorf("connection %s: %w", o.ID, err)
	}
	if o.ClientKey != "" {
		var err error
		if c.key, err = oauth.ParseClientKey(o.ClientKey); err != nil {
			return nil, fmt.Errorf("connection %s: the client's key: %w", o.ID, err)
		}
	}
	if o.Way == nil {
		o.Way = newTransport()
	}
	c.p = newProvider(e, o.Way)
	return c, nil
}

// presetGitHub fills in what the entry of GitHub does not say.
func (e *entry) presetGitHub() {
	const at = "https://github.com/login/oauth/"
	if e.token == "" && e.issuer == "" {
		e.authorization, e.token = at+"authorize", at+"access_token"
	}
	if strings.HasPrefix(e.token, at) && e.revocation == "" {
		e.deletion = "https://api.github.com/applications/" + url.PathEscape(e.clientID) + "/token"
	}
}

func (c *Client) check(e entry) error {
	if e.clientID == "" {
		return errors.New("there is no client id")
	}
	if e.token == "" && e.issuer == "" {
		return errors.New("there is neither a token endpoint nor an issuer")
	}
	for _, u := range []struct{ name, url string }{{"issuer", e.issuer}, {"authorization endpoint", e.authorization}, {"token endpoint", e.token}, {"revocation endpoint", e.revocation}} {
		if u.url == "" {
			continue
		}
		if why := configfile.CheckURL(u.url); why != "" {
			return fmt.Errorf("the %s %s", u.name, why)
		}
	}
	return nil
}

// Timeout returns how long one call of the server may take.
func (c *Client) Timeout() time.Duration { return c.p.timeout }

// Bound returns a short hash that names what the client's tokens were made for, as that of a
// [Provider] does. Tokens of another Bound must not be sent to this server.
func (c *Client) Bound() string {
	if c.audience == "" && c.resource == "" {
		return c.p.Bound()
	}
	h := sha256.Sum256([]byte(strings.TrimSuffix(c.p.Bound()+"\n"+c.audience+"\n"+c.resource, "\n")))
	return base64.RawURLEncoding.EncodeToString(h[:16])
}

// AuthorizeURL returns the URL of an authorization request for scopes, to which the browser is
// sent.
func (c *Client) AuthorizeURL(ctx context.Context, a AuthRequest, scopes []string) (string, error) {
	m, err := c.metadata(ctx)
	if err != nil {
		return "", err
	}
	if m.Authorization == "" {
		return "", fmt.Errorf("connection %s: there is no authorization endpoint", c.p.id)
	}
	conf := c.p.oauth(m, a.RedirectURI)
	conf.Scopes = scopes
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(a.Verifier)}
	for name, value := range c.p.authorizeParams {
		options = append(options, oauth2.SetAuthURLParam(name, value))
	}
	if c.resource != "" {
		options = append(options, oauth2.SetAuthURLParam("resource", c.resource))
	}
	return conf.AuthCodeURL(a.State, options...), nil
}

func (c *Client) metadata(ctx context.Context) (*metadata, error) {
	ctx, cancel := c.p.within(ctx, maxTimeout)
	defer cancel()
	m, err := c.p.metadata(ctx)
	if err == nil && c.document && !m.Documents {
		return nil, fmt.Errorf("connection %s: no client id is configured, and the server takes no client ID metadata document", c.p.id)
	}
	return m, err
}

// CheckIssuer checks the parameter iss of an authorization response, "" if there is none (RFC
// 9207 §2.4). If the server's issuer is not known, iss must be of the same origin as the
// server's authorization endpoint. The error wraps [ErrIssuer] if it is wrong.
func (c *Client) CheckIssuer(ctx context.Context, iss string) error {
	m, err := c.metadata(ctx)
	if err != nil || m.Issuer != "" || iss == "" {
		return errors.Join(err, c.p.CheckIssuer(ctx, iss))
	}
	if origin(iss) != origin(m.Authorization) {
		return ErrIssuer
	}
	return nil
}

// origin returns scheme and host of a URL, or the text itself if it has none.
func origin(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return raw
	}
	return strings.ToLower(u.Scheme + "://" + u.Host)
}

// forResource adds the resource to a request for a user's tokens (RFC 8707 §2).
func (c *Client) forResource(form url.Values) url.Values {
	if c.resource != "" {
		form.Set("resource", c.resource)
	}
	return form
}

// Redeem redeems the code of an authorization response. The scope of the result is what the
// server says, or else asked. The error wraps [ErrRefused] if the server refuses the code.
func (c *Client) Redeem(ctx context.Context, back Callback, asked []string) (Tokens, error) {
	form := url.Values{"grant_type": {"authorization_code"}, "code": {back.Code}, "code_verifier": {back.Verifier}, "redirect_uri": {back.RedirectURI}}
	return c.ask(ctx, c.forResource(form), Tokens{Scope: asked})
}

// Refresh gets a new access token. The result has the old refresh token if the server gave no new
// one. The error is [ErrNoRefresh] if t has no refresh token, and wraps [ErrRefused] if the server
// refuses it for good.
func (c *Client) Refresh(ctx context.Context, t Tokens) (Tokens, error) {
	if t.Refresh == "" {
		return Tokens{}, ErrNoRefresh
	}
	return c.ask(ctx, c.forResource(url.Values{"grant_type": {refreshToken}, "refresh_token": {t.Refresh}}), t)
}

// ForItself gets a token for the client itself (RFC 6749 §4.4).
func (c *Client) ForItself(ctx context.Context) (Tokens, error) {
	return c.ask(ctx, c.scoped(url.Values{"grant_type": {"client_credentials"}}), Tokens{Scope: c.p.scopes})
}

// Exchange gets a token for an access token of this issuer, which is for the server (RFC 8693).
func (c *Client) Exchange(ctx context.Context, subject string) (Tokens, error) {
	const access = "urn:ietf:params:oauth:token-type:access_token"
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {subject}, "subject_token_type": {access}, "requested_token_type": {access}}
	return c.ask(ctx, c.scoped(form), Tokens{Scope: c.p.scopes})
}

// scoped adds scope and audience to a request.
func (c *Client) scoped(form url.Values) url.Values {
	if len(c.p.scopes) > 0 {
		form.Set("scope", strings.Join(c.p.scopes, " "))
	}
	if c.audience != "" {
		form.Set("audience", c.audience)
	}
	return form
}

// Revoke tells the server that t is no longer used, if it has an endpoint for that.
func (c *Client) Revoke(ctx context.Context, t Tokens) error {
	if c.key != nil {
		return c.revokeByKey(ctx, t)
	}
	return c.p.Revoke(ctx, t)
}

// revokeByKey revokes tokens as a client that proves itself by its key.
func (c *Client) revokeByKey(ctx context.Context, t Tokens) error {
	ctx, cancel := c.p.within(ctx, maxRefresh)
	defer cancel()
	m, err := c.p.metadata(ctx)
	if err != nil || m.Revocation == "" {
		return err
	}
	form := url.Values{"token": {t.Refresh}, "token_type_hint": {refreshToken}}
	if t.Refresh == "" {
		form = url.Values{"token": {t.Access}, "token_type_hint": {accessToken}}
	}
	if err := c.sign(form, m); err != nil {
		return err
	}
	return c.p.revokeBy(ctx, m.Revocation, oauth2.AuthStyleInParams, form)
}

// Audience returns the audience by which the server knows itself: its issuer, or else its token
// endpoint.
func (c *Client) Audience(ctx context.Context) (string, error) {
	m, err := c.metadata(ctx)
	if err != nil || m.Issuer != "" {
		return m.issuerOrEmpty(), err
	}
	return m.Token, nil
}

func (m *metadata) issuerOrEmpty() string {
	if m == nil {
		return ""
	}
	return m.Issuer
}

// secretParams are the parameters of a token request that no error may repeat.
var secretParams = []string{"code", "code_verifier", "refresh_token", "subject_token", "client_secret", "client_assertion"}

// ask sends a request to the token endpoint. A server that does not identify the client is asked
// once more with the secret in the other place: in that case nothing was spent. What the answer
// leaves out is that of known: the refresh token and the scope.
func (c *Client) ask(ctx context.Context, form url.Values, known Tokens) (Tokens, error) {
	ctx, cancel := c.p.within(ctx, maxRefresh)
	defer cancel()
	m, err := c.metadata(ctx)
	if err != nil {
		return Tokens{}, err
	}
	var t Tokens
	for _, style := range c.p.styles(m) {
		t, err = c.askBy(ctx, m, style, maps.Clone(form), known)
		if err == nil {
			c.p.style.Store(int32(style))
		}
		if !errors.Is(err, ErrClient) {
			break
		}
	}
	return t, err
}

// ErrClient is wrapped by the error if the server does not know the client.
var ErrClient = errors.New("the client is not known, or its secret is wrong")

// askBy is ask with the client's secret in one place.
func (c *Client) askBy(ctx context.Context, m *metadata, style oauth2.AuthStyle, form url.Values, known Tokens) (Tokens, error) {
	basic := style == oauth2.AuthStyleInHeader && c.key == nil
	if !basic {
		form.Set("client_id", c.p.clientID)
	}
	switch {
	case c.key != nil:
		if err := c.sign(form, m); err != nil {
			return Tokens{}, err
		}
	case !basic && c.p.clientSecret != "":
		form.Set("client_secret", c.p.clientSecret)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, m.Token, strings.NewReader(form.Encode()))
	if err != nil {
		return Tokens{}, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if basic {
		r.SetBasicAuth(url.QueryEscape(c.p.clientID), url.QueryEscape(c.p.clientSecret))
	}
	obtained := time.Now().Unix()
	resp, err := client(tokenAnswers{bounded{c.p.way}}, c.p.timeout).Do(r)
	if err != nil {
		return Tokens{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body) // bounded has read it
	if err != nil {
		return Tokens{}, err
	}
	var a tokenAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		return Tokens{}, err
	}
	return c.judge(resp.StatusCode, a, form, obtained, known)
}

// judge makes tokens or an error of an answer of the token endpoint. Some servers say with status
// 200 that they refuse, as GitHub does.
func (c *Client) judge(status int, a tokenAnswer, form url.Values, obtained int64, known Tokens) (Tokens, error) {
	if status/100 != 2 || a.Error != "" {
		return Tokens{}, c.refusal(status, a, form)
	}
	if a.TokenType != "" && !strings.EqualFold(a.TokenType, "bearer") {
		return Tokens{}, fmt.Errorf("the token endpoint of %s gave a token of the type %q, not Bearer", c.p.id, cut(a.TokenType, 32))
	}
	t := Tokens{Access: a.AccessToken, Refresh: a.RefreshToken, Scope: slices.Clone(known.Scope), Obtained: obtained, Expires: expiry(a.AccessToken, obtained, a.ExpiresIn)}
	if t.Refresh == "" {
		t.Refresh = known.Refresh
	}
	if a.Scope != "" {
		t.Scope = strings.FieldsFunc(a.Scope, func(r rune) bool { return r == ' ' || r == ',' })
	}
	if err := t.check(); err != nil {
		return Tokens{}, fmt.Errorf("the token endpoint of %s: %w", c.p.id, err)
	}
	return t, nil
}

func (c *Client) refusal(status int, a tokenAnswer, form url.Values) error {
	secrets := []string{c.p.clientSecret}
	for _, name := range secretParams {
		secrets = append(secrets, form.Get(name))
	}
	what := fmt.Sprintf("the token endpoint of %s answered %d", c.p.id, status)
	if a.Error != "" {
		what += fmt.Sprintf(" %q", cut(without(a.Error, secrets), 64))
	}
	if a.ErrorDescription != "" {
		what += fmt.Sprintf(" (%s)", cut(without(a.ErrorDescription, secrets), 200))
	}
	switch {
	case status < 500 && slices.Contains(refusals, a.Error):
		return fmt.Errorf("%w: %s", ErrRefused, what)
	case a.Error == "invalid_client" || status == http.StatusUnauthorized:
		return fmt.Errorf("%w: %s", ErrClient, what)
	}
	return errors.New(what)
}

// sign adds the client's assertion to a form (RFC 7523 §2.2). Its audience is the server's issuer,
// or its token endpoint if the issuer is not known.
func (c *Client) sign(form url.Values, m *metadata) error {
	audience := m.Issuer
	if audience == "" {
		audience = m.Token
	}
	return oauth.SetAssertion(form, c.key, c.p.clientID, audience)
}
