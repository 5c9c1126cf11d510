package mcpclient

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/oauthex"
	"golang.org/x/oauth2"

	"signet/internal/oauth"
)

// register registers this program as a client of the server (RFC 7591): a public client
// if the server allows that.
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
	switch method {
	case "none", "client_secret_post":
	case "client_secret_basic":
		style = oauth2.AuthStyleInHeader
	default:
		return nil, fmt.Errorf("%s registered the client for %q, which it did not ask for", as.RegistrationEndpoint, method)
	}
	return &oauth2.Config{
		ClientID: registered.ClientID, ClientSecret: registered.ClientSecret, RedirectURL: redirectURI, Scopes: scopes,
		Endpoint: oauth2.Endpoint{AuthURL: as.AuthorizationEndpoint, TokenURL: as.TokenEndpoint, AuthStyle: style},
	}, nil
}

// wanted returns the scopes to ask for: those of the options, or else those that the
// challenge names, or else those that the resource supports.
func (c *Client) wanted(challenge map[string]string, m *resourceMetadata, as *oauthex.AuthServerMeta) []string {
	scopes := slices.Clone(c.options.Scopes)
	if len(scopes) == 0 {
		scopes = strings.Fields(challenge["scope"])
	}
	if len(scopes) == 0 {
		scopes = slices.Clone(m.ScopesSupported)
	}
	if slices.Contains(as.ScopesSupported, "offline_access") && !slices.Contains(scopes, "offline_access") {
		scopes = append(scopes, "offline_access") // without it some servers issue no refresh token
	}
	return scopes
}

// signIn performs all steps from a challenge to a token.
func (c *Client) signIn(ctx context.Context, challenge map[string]string) error {
	c.say("It wants a token. Looking for its authorization server")
	m, err := c.findResource(ctx, challenge)
	if err != nil {
		return err
	}
	issuer, err := c.chooseIssuer(m.AuthorizationServers)
	if err != nil {
		return err
	}
	as, err := c.findServer(ctx, issuer)
	if err != nil {
		return err
	}
	if err := c.confirm(ctx, as); err != nil {
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

// confirm makes sure that the password goes to an origin that the user named.
func (c *Client) confirm(ctx context.Context, as *oauthex.AuthServerMeta) error {
	if c.options.Username == "" {
		return nil // the browser shows the person where the page is
	}
	page, err := url.Parse(as.AuthorizationEndpoint)
	if err != nil {
		return err
	}
	origin, named := oauth.Origin(page), c.options.Issuer
	if origin == oauth.Origin(c.endpoint) || named != nil && origin == oauth.Origin(named) {
		return nil
	}
	if c.options.Confirm != nil {
		if ok, err := c.options.Confirm(ctx, origin); ok || err != nil {
			return err
		}
	}
	refused := &OriginError{Origin: origin}
	if ownPage(as) {
		refused.Issuer = as.Issuer
	}
	return refused
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

// ownPage reports whether the authorization endpoint is at the issuer's own origin.
func ownPage(as *oauthex.AuthServerMeta) bool {
	issuer, err := url.Parse(as.Issuer)
	page, pageErr := url.Parse(as.AuthorizationEndpoint)
	return err == nil && pageErr == nil && oauth.Origin(issuer) == oauth.Origin(page)
}

// checkAnswer returns the code of an authorization response. The response must belong to
// this login (state, RFC 6749 §10.12) and come from the server that was asked (iss, RFC
// 9207 §2.4). A server that sends no iss proves itself by the origin of its page: a server
// that names the page of another would get the other's code.
func checkAnswer(answer url.Values, state string, as *oauthex.AuthServerMeta) (string, error) {
	iss := answer.Get("iss")
	switch {
	case answer.Get("state") != state:
		return "", errors.New("the answer's state is not the one that was sent: it belongs to another login")
	case iss != "" && iss != as.Issuer, iss == "" && as.AuthorizationResponseIssParameterSupported:
		return "", fmt.Errorf("the answer comes from the issuer %q, not from %s", iss, as.Issuer)
	case iss == "" && !ownPage(as):
		return "", fmt.Errorf("the answer names no issuer, and the login page was not %s's own: it may be the answer of another server", as.Issuer)
	case answer.Get("error") != "":
		return "", fmt.Errorf("the server did not grant access: %s", strings.TrimSpace(answer.Get("error")+" "+answer.Get("error_description")))
	case answer.Get("code") == "":
		return "", errors.New("the answer has no code")
	}
	return answer.Get("code"), nil
}
