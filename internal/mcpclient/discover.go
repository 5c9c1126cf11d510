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

	"signet/internal/oauth"
)

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
	resp, err := (&http.Client{Transport: c.web, CheckRedirect: sameOrigin, Timeout: 30 * time.Second}).Do(r)
	var elsewhere *redirectError
	if errors.As(err, &elsewhere) {
		return fmt.Errorf("%s: %w", c.endpoint, elsewhere)
	}
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

// errNotThere stands for a 4xx, after which the next place is tried. Any other failure
// ends the search.
var errNotThere = errors.New("nothing is there")

// resourceMetadata is the part of a protected resource's metadata that the client uses
// (RFC 9728 §2).
type resourceMetadata struct {
	Resource             string   `json:"resource"`
	AuthorizationServers []string `json:"authorization_servers"`
	ScopesSupported      []string `json:"scopes_supported"`
}

// fetchMetadata reads the JSON object at from into v.
func (c *Client) fetchMetadata(ctx context.Context, from string, v any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Accept", "application/json")
	resp, err := c.as.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); {
	case resp.StatusCode >= 400 && resp.StatusCode < 500:
		return errNotThere
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s answers %s", from, resp.Status)
	case media != "application/json":
		return fmt.Errorf("%s is %q, not JSON", from, media)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(v); err != nil {
		return fmt.Errorf("%s is not metadata: %w", from, err)
	}
	return nil
}

// findEndpoint finds the MCP endpoint if the server's URL was given without a path: the
// metadata at the root names the resource.
func (c *Client) findEndpoint(ctx context.Context) error {
	if strings.Trim(c.endpoint.Path, "/") != "" {
		return nil
	}
	c.say("Looking for the MCP endpoint of %s", c.endpoint)
	m := &resourceMetadata{}
	err := c.fetchMetadata(ctx, c.endpoint.ResolveReference(&url.URL{Path: oauth.WellKnownResource}).String(), m)
	if errors.Is(err, errNotThere) {
		return nil
	}
	if err != nil {
		return err
	}
	u, err := ParseEndpoint(m.Resource)
	if err == nil && oauth.Origin(u) == oauth.Origin(c.endpoint) && strings.Trim(u.Path, "/") != "" {
		c.say("It is %s", u)
		c.endpoint = u
	}
	return nil
}

// findResource fetches the protected resource's metadata: from where the challenge says,
// from the well-known place of the path, or from that of the root. A server without
// metadata is older than RFC 9728, and is its own authorization server.
func (c *Client) findResource(ctx context.Context, challenge map[string]string) (*resourceMetadata, error) {
	root := url.URL{Scheme: c.endpoint.Scheme, Host: c.endpoint.Host}
	wellKnown := root.String() + oauth.WellKnownResource
	places := []string{wellKnown + strings.TrimSuffix(c.endpoint.EscapedPath(), "/"), wellKnown}
	if c.endpoint.RawQuery != "" {
		places[0] += "?" + c.endpoint.RawQuery
	}
	if named := challenge["resource_metadata"]; named != "" {
		if _, err := c.parseNamed(named); err != nil {
			return nil, fmt.Errorf("the server's challenge: resource_metadata: %w", err)
		}
		places = slices.Insert(places, 0, named)
	}
	for _, from := range slices.Compact(places) {
		m := &resourceMetadata{}
		err := c.fetchMetadata(ctx, from, m)
		if errors.Is(err, errNotThere) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := c.checkResource(m.Resource, from); err != nil {
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

// checkResource refuses the metadata of another resource.
func (c *Client) checkResource(resource, from string) error {
	if at, err := url.Parse(from); err == nil && oauth.CoversResource(resource, at, c.endpoint) {
		return nil
	}
	return fmt.Errorf("it is the metadata of %q, not of %s", resource, c.endpoint)
}

// parseNamed parses a URL that a server names for requests or for the browser.
func (c *Client) parseNamed(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is not the URL of a server", raw)
	}
	return u, c.reach.check(u)
}

// chooseIssuer returns the issuer to sign in at: the one of the options, if the server
// names it, or else the first.
func (c *Client) chooseIssuer(servers []string) (string, error) {
	if c.options.Issuer == nil {
		return servers[0], nil
	}
	want := c.options.Issuer.String()
	i := slices.IndexFunc(servers, func(s string) bool { return sameIssuer(s, want) })
	if i < 0 {
		return "", fmt.Errorf("the server's authorization server is %s, not %s", strings.Join(servers, ", "), want)
	}
	return servers[i], nil
}

// findServer fetches an authorization server's metadata from the places of RFC 8414
// §3 and OpenID Connect Discovery §4, or else takes the paths that were usual before those.
func (c *Client) findServer(ctx context.Context, issuer string) (*oauthex.AuthServerMeta, error) {
	u, err := c.parseNamed(issuer)
	if err != nil {
		return nil, fmt.Errorf("authorization server: %w", err)
	}
	origin, path := u.Scheme+"://"+u.Host, strings.TrimSuffix(u.EscapedPath(), "/")
	places := []string{origin + "/.well-known/oauth-authorization-server" + path, origin + "/.well-known/openid-configuration" + path}
	if path != "" {
		places = append(places, origin+path+"/.well-known/openid-configuration")
	}
	for _, from := range places {
		m := &oauthex.AuthServerMeta{}
		err := c.fetchMetadata(ctx, from, m)
		if errors.Is(err, errNotThere) {
			continue
		}
		if err == nil {
			err = c.checkServer(m, issuer)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", from, err)
		}
		return m, nil
	}
	c.say("The authorization server has no metadata: trying the usual paths")
	base := strings.TrimSuffix(issuer, "/")
	return &oauthex.AuthServerMeta{
		Issuer: issuer, AuthorizationEndpoint: base + "/authorize", TokenEndpoint: base + "/token", RegistrationEndpoint: base + "/register",
	}, nil
}

// checkServer refuses the metadata of another issuer (RFC 8414 §3.3), and endpoints that
// no secret may be sent to.
func (c *Client) checkServer(m *oauthex.AuthServerMeta, issuer string) error {
	switch {
	case !sameIssuer(m.Issuer, issuer):
		return fmt.Errorf("the metadata's issuer %q does not match %s", m.Issuer, issuer)
	case !slices.Contains(m.CodeChallengeMethodsSupported, "S256"):
		return errors.New("the authorization server does not support PKCE with S256")
	}
	for name, endpoint := range map[string]string{"authorization_endpoint": m.AuthorizationEndpoint, "token_endpoint": m.TokenEndpoint, "registration_endpoint": m.RegistrationEndpoint} {
		if endpoint == "" && name == "registration_endpoint" {
			continue // register says so
		}
		if _, err := c.parseNamed(endpoint); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
