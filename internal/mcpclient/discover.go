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

	"github.com/modelcontextprotocol/go-sdk/oauthex"
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

// findEndpoint finds the MCP endpoint if the server's URL was given without a path: the
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

// findResource fetches the protected resource's metadata: from where the challenge says,
// from the well-known place of the path, or from that of the root. A server without
// metadata is older than RFC 9728, and is its own authorization server.
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

// checkResource refuses the metadata of another resource. RFC 9728 §3.3 requires the URL
// of the request; many servers name their origin instead, or a path above, and most
// clients accept that.
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
// §3 and OpenID Connect Discovery §4, or else takes the paths that were usual before those.
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
