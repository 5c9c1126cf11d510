package mcpclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/oauthex"
	"golang.org/x/oauth2"
)

// authorized sends MCP requests with the client's token.
type authorized struct{ c *Client }

// RoundTrip sends an MCP request with the token. After a 401 it signs in, or
// refreshes the token once, and tries once more.
func (a authorized) RoundTrip(r *http.Request) (*http.Response, error) {
	c := a.c
	token := c.AccessToken()
	resp, err := c.send(r, token)
	if err != nil {
		return nil, err
	}
	challenge := challengeOf(resp)
	if resp.StatusCode == http.StatusForbidden && challenge["error"] == "insufficient_scope" {
		c.mu.Lock()
		c.needs = challenge["scope"]
		c.mu.Unlock()
	}
	if resp.StatusCode != http.StatusUnauthorized {
		return resp, nil
	}
	resp.Body.Close()
	if err := c.renew(r.Context(), token, challenge); err != nil {
		return nil, err
	}
	again := r.Clone(r.Context())
	if r.GetBody != nil {
		if again.Body, err = r.GetBody(); err != nil {
			return nil, err
		}
	}
	if resp, err = c.send(again, c.AccessToken()); err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	resp.Body.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.loginErr = errors.New("the server refuses the token that was issued for it a moment ago")
	return nil, c.loginErr
}

func (c *Client) send(r *http.Request, token string) (*http.Response, error) {
	if token != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return c.web.RoundTrip(r)
}

func (c *Client) currentToken() *oauth2.Token {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token
}

// AccessToken returns the client's access token, empty if the server wants none.
func (c *Client) AccessToken() string {
	if token := c.currentToken(); token != nil {
		return token.AccessToken
	}
	return ""
}

// renew replaces the refused token. A login that failed is not started a second time.
func (c *Client) renew(ctx context.Context, refused string, challenge map[string]string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.loginErr != nil:
		return c.loginErr
	case c.token == nil:
		c.loginErr = c.signIn(ctx, challenge)
		return c.loginErr
	case c.token.AccessToken != refused: // another request has replaced it
		return nil
	case c.token.RefreshToken == "":
		return errors.New("the server refuses the token, and there is no refresh token")
	}
	c.say("The server refuses the token: refreshing it, and trying once more")
	return c.refreshLocked(ctx)
}

func (c *Client) refresh(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refreshLocked(ctx)
}

func (c *Client) refreshLocked(ctx context.Context) error {
	old := &oauth2.Token{RefreshToken: c.token.RefreshToken}
	token, err := c.retryBusy(ctx, func() (*oauth2.Token, error) {
		return c.retryLost(ctx, c.config.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, c.as), old).Token)
	})
	if err != nil {
		return explainToken("refreshing the token", err)
	}
	rotated := "the same refresh token"
	if token.RefreshToken != old.RefreshToken {
		rotated = "the next refresh token"
	}
	c.say("The server issued a new access token and %s", rotated)
	c.token = token
	return nil
}

// explainToken says what a token endpoint answered, without its body.
func explainToken(doing string, err error) error {
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) {
		return fmt.Errorf("%s: the server answers %d %s", doing, refused.Response.StatusCode, refused.ErrorCode+" "+refused.ErrorDescription)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// challengeOf returns the parameters of the answer's Bearer challenge (RFC 6750 §3). A
// malformed one is none.
func challengeOf(resp *http.Response) map[string]string {
	all, err := oauthex.ParseWWWAuthenticate(resp.Header.Values("WWW-Authenticate"))
	if err != nil {
		return nil
	}
	for _, ch := range all {
		if ch.Scheme == "bearer" {
			return ch.Params
		}
	}
	return nil
}

// probe learns whether the server wants a token, and signs in if it does. A ping
// changes nothing and begins no session.
func (c *Client) probe(ctx context.Context) error {
	c.say("Asking %s without a token", c.endpoint)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint.String(), strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"ping"}`))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	resp, err := c.web.RoundTrip(r)
	if err != nil {
		return fmt.Errorf("no MCP server answers at %s: %w", c.endpoint, err)
	}
	resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		return c.renew(ctx, "", challengeOf(resp))
	case resp.StatusCode >= 500:
		return fmt.Errorf("%s answers %s", c.endpoint, resp.Status)
	}
	return nil
}

// errNotThere is a 4xx: the next place is tried. Any other failure ends the search.
var errNotThere = errors.New("nothing is there")

// resourceMetadata is what is read of a protected resource's metadata (RFC 9728 §2).
type resourceMetadata struct {
	Resource             string   `json:"resource"`
	AuthorizationServers []string `json:"authorization_servers"`
	ScopesSupported      []string `json:"scopes_supported"`
}

func (c *Client) fetchResourceMetadata(ctx context.Context, from string) (*resourceMetadata, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	resp, err := c.as.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); {
	case resp.StatusCode >= 400 && resp.StatusCode < 500:
		return nil, errNotThere
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answers %s", from, resp.Status)
	case media != "application/json":
		return nil, fmt.Errorf("%s is %q, not JSON", from, media)
	}
	m := &resourceMetadata{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(m); err != nil {
		return nil, fmt.Errorf("%s is not the metadata of a resource: %w", from, err)
	}
	return m, nil
}

// findEndpoint finds the MCP endpoint of a server that was given without a path: its
// metadata at the root names the resource.
func (c *Client) findEndpoint(ctx context.Context) error {
	if strings.Trim(c.endpoint.Path, "/") != "" {
		return nil
	}
	c.say("Looking for the MCP endpoint of %s", c.endpoint)
	m, err := c.fetchResourceMetadata(ctx, c.endpoint.ResolveReference(&url.URL{Path: "/.well-known/oauth-protected-resource"}).String())
	if errors.Is(err, errNotThere) {
		return nil
	}
	if err != nil {
		return err
	}
	u, err := url.Parse(m.Resource)
	if err == nil && u.Scheme == c.endpoint.Scheme && u.Host == c.endpoint.Host && strings.Trim(u.Path, "/") != "" {
		c.say("It is %s", u)
		c.endpoint = u
	}
	return nil
}

// findResource fetches the protected resource's metadata: where the challenge says,
// at the well-known place of the path, at that of the root. A server without any is
// from before they existed, and is its own authorization server.
func (c *Client) findResource(ctx context.Context, challenge map[string]string) (*resourceMetadata, error) {
	root := url.URL{Scheme: c.endpoint.Scheme, Host: c.endpoint.Host}
	wellKnown := root.String() + "/.well-known/oauth-protected-resource"
	places := []string{wellKnown + strings.TrimSuffix(c.endpoint.EscapedPath(), "/"), wellKnown}
	if c.endpoint.RawQuery != "" {
		places[0] += "?" + c.endpoint.RawQuery
	}
	if named := challenge["resource_metadata"]; named != "" {
		if _, err := ParseEndpoint(named); err != nil {
			return nil, fmt.Errorf("the server's challenge: resource_metadata %w", err)
		}
		places = slices.Insert(places, 0, named)
	}
	for _, from := range slices.Compact(places) {
		m, err := c.fetchResourceMetadata(ctx, from)
		if errors.Is(err, errNotThere) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := c.checkResource(m.Resource); err != nil {
			return nil, fmt.Errorf("%s: %w", from, err)
		}
		if len(m.AuthorizationServers) == 0 {
			return nil, fmt.Errorf("%s names no authorization server", from)
		}
		return m, nil
	}
	c.say("The server has no metadata: taking %s as its authorization server", &root)
	return &resourceMetadata{AuthorizationServers: []string{root.String()}}, nil
}

// checkResource refuses metadata of something else. RFC 9728 §3.3 wants the very URL
// that was asked; many servers name their origin instead, or a path above, and
// clients at large take that.
func (c *Client) checkResource(resource string) error {
	u, err := url.Parse(resource)
	if err == nil && u.Scheme == c.endpoint.Scheme && u.Host == c.endpoint.Host {
		want, path := strings.TrimSuffix(c.endpoint.EscapedPath(), "/")+"/", strings.TrimSuffix(u.EscapedPath(), "/")+"/"
		if strings.HasPrefix(want, path) {
			return nil
		}
	}
	return fmt.Errorf("it is the metadata of %q, not of %s", resource, c.endpoint)
}

// findServer fetches an authorization server's metadata from the places of RFC 8414
// §3 and OpenID Connect Discovery §4, or goes by the paths that were usual before.
func (c *Client) findServer(ctx context.Context, issuer string) (*oauthex.AuthServerMeta, error) {
	u, err := ParseEndpoint(issuer)
	if err != nil {
		return nil, fmt.Errorf("authorization server: %w", err)
	}
	origin, path := u.Scheme+"://"+u.Host, strings.TrimSuffix(u.EscapedPath(), "/")
	places := []string{origin + "/.well-known/oauth-authorization-server" + path, origin + "/.well-known/openid-configuration" + path}
	if path != "" {
		places = append(places, origin+path+"/.well-known/openid-configuration")
	}
	for _, from := range places {
		m, err := oauthex.GetAuthServerMeta(ctx, from, issuer, c.as)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", from, err)
		}
		if m != nil {
			return m, nil
		}
	}
	c.say("The authorization server has no metadata: trying the usual paths")
	base := strings.TrimSuffix(issuer, "/")
	return &oauthex.AuthServerMeta{
		Issuer: issuer, AuthorizationEndpoint: base + "/authorize", TokenEndpoint: base + "/token", RegistrationEndpoint: base + "/register",
	}, nil
}

// register registers this program as a client of the server (RFC 7591), public if
// the server has such clients.
func (c *Client) register(ctx context.Context, as *oauthex.AuthServerMeta, redirectURI string, scopes []string) (*oauth2.Config, error) {
	if as.RegistrationEndpoint == "" {
		return nil, fmt.Errorf("%s does not let clients register themselves", as.Issuer)
	}
	method := "none"
	if methods := as.TokenEndpointAuthMethodsSupported; len(methods) > 0 && !slices.Contains(methods, method) {
		method = "client_secret_basic"
		if slices.Contains(methods, "client_secret_post") {
			method = "client_secret_post"
		}
	}
	registered, err := oauthex.RegisterClient(ctx, as.RegistrationEndpoint, &oauthex.ClientRegistrationMetadata{
		ClientName: c.options.Name, RedirectURIs: []string{redirectURI}, TokenEndpointAuthMethod: method, ApplicationType: "native",
		GrantTypes: []string{"authorization_code", "refresh_token"}, ResponseTypes: []string{"code"}, Scope: strings.Join(scopes, " "),
	}, c.as)
	if err != nil {
		return nil, fmt.Errorf("registering at %s: %w", as.RegistrationEndpoint, err)
	}
	if registered.TokenEndpointAuthMethod != "" {
		method = registered.TokenEndpointAuthMethod
	}
	style := oauth2.AuthStyleInParams
	if method == "client_secret_basic" {
		style = oauth2.AuthStyleInHeader
	}
	return &oauth2.Config{
		ClientID: registered.ClientID, ClientSecret: registered.ClientSecret, RedirectURL: redirectURI, Scopes: scopes,
		Endpoint: oauth2.Endpoint{AuthURL: as.AuthorizationEndpoint, TokenURL: as.TokenEndpoint, AuthStyle: style},
	}, nil
}

// wanted are the scopes to ask for: those of the command line, else what the
// challenge names, else what the resource supports.
func (c *Client) wanted(challenge map[string]string, m *resourceMetadata, as *oauthex.AuthServerMeta) []string {
	scopes := slices.Clone(c.options.Scopes)
	if len(scopes) == 0 {
		scopes = strings.Fields(challenge["scope"])
	}
	if len(scopes) == 0 {
		scopes = slices.Clone(m.ScopesSupported)
	}
	if slices.Contains(as.ScopesSupported, "offline_access") && !slices.Contains(scopes, "offline_access") {
		scopes = append(scopes, "offline_access") // else some servers issue no refresh token
	}
	return scopes
}

// signIn does everything from a challenge to a token.
func (c *Client) signIn(ctx context.Context, challenge map[string]string) error {
	c.say("It wants a token. Looking for who issues them")
	m, err := c.findResource(ctx, challenge)
	if err != nil {
		return err
	}
	as, err := c.findServer(ctx, m.AuthorizationServers[0])
	if err != nil {
		return err
	}
	back, err := listenForRedirect()
	if err != nil {
		return err
	}
	defer back.close()
	scopes := c.wanted(challenge, m, as)
	c.say("Registering as a client of %s", as.Issuer)
	if c.config, err = c.register(ctx, as, back.uri, scopes); err != nil {
		return err
	}
	c.say("Registered. Asking for the scopes: %s", strings.Join(scopes, " "))
	token, err := c.authorize(ctx, as, m.Resource, back)
	if err != nil {
		return err
	}
	c.token = token
	c.say("Signed in: a token for %s, valid for %s", scopeOf(token, scopes), time.Until(token.Expiry).Round(time.Second))
	return nil
}

func scopeOf(token *oauth2.Token, asked []string) string {
	if granted, ok := token.Extra("scope").(string); ok {
		return granted
	}
	return strings.Join(asked, " ")
}

// authorize is the authorization code grant with PKCE (OAuth 2.1 §4.1).
func (c *Client) authorize(ctx context.Context, as *oauthex.AuthServerMeta, resource string, back *redirect) (*oauth2.Token, error) {
	verifier := oauth2.GenerateVerifier()
	params := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(verifier)}
	exchange := []oauth2.AuthCodeOption{oauth2.VerifierOption(verifier)}
	if resource != "" {
		params = append(params, oauth2.SetAuthURLParam("resource", resource))
		exchange = append(exchange, oauth2.SetAuthURLParam("resource", resource))
	}
	if slices.Contains(c.config.Scopes, "offline_access") {
		params = append(params, oauth2.SetAuthURLParam("prompt", "consent")) // OpenID Connect Core §11
	}
	where := c.config.AuthCodeURL(back.state, params...)
	answer, err := c.visit(ctx, where, back)
	if err != nil {
		return nil, err
	}
	code, err := checkAnswer(answer, back.state, as)
	if err != nil {
		return nil, err
	}
	c.say("State and issuer of the answer are right. Exchanging the code for a token")
	token, err := c.retryBusy(ctx, func() (*oauth2.Token, error) {
		return c.config.Exchange(context.WithValue(ctx, oauth2.HTTPClient, c.as), code, exchange...)
	})
	if err != nil {
		return nil, explainToken("exchanging the code", err)
	}
	if token.Type() != "Bearer" {
		return nil, fmt.Errorf("the server issued a token of type %q, not Bearer", token.TokenType)
	}
	return token, nil
}

// checkAnswer returns the code of an authorization response that is ours (state,
// RFC 6749 §10.12) and of the server we asked (iss, RFC 9207 §2.4).
func checkAnswer(answer url.Values, state string, as *oauthex.AuthServerMeta) (string, error) {
	iss := answer.Get("iss")
	switch {
	case answer.Get("state") != state:
		return "", errors.New("the answer's state is not the one that was sent: it belongs to another login")
	case iss != "" && iss != as.Issuer, iss == "" && as.AuthorizationResponseIssParameterSupported:
		return "", fmt.Errorf("the answer comes from the issuer %q, not from %s", iss, as.Issuer)
	case answer.Get("error") != "":
		return "", fmt.Errorf("the server did not grant access: %s", strings.TrimSpace(answer.Get("error")+" "+answer.Get("error_description")))
	case answer.Get("code") == "":
		return "", errors.New("the answer has no code")
	}
	return answer.Get("code"), nil
}
