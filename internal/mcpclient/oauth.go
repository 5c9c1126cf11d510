package mcpclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/modelcontextprotocol/go-sdk/oauthex"
	"golang.org/x/oauth2"

	"signet/internal/oauth"
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
	if token != "" && oauth.Origin(r.URL) == oauth.Origin(c.endpoint) {
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
