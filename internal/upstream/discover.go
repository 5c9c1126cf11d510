package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/oauthex"

	"signet/internal/oauth"
)

// Resource is what an MCP server says of itself (RFC 9728 §2).
type Resource struct {
	ID      string   // resource identifier, which tokens are for
	Issuers []string // authorization servers; never empty
	Scopes  []string // to ask for: those of the challenge, or else all of the resource
}

// FindResource asks an MCP server, which the operator has named, for its authorization servers. Its
// 401 says where its metadata is; otherwise that is at a well-known place of its origin. Nothing is
// asked that is not of this origin.
func FindResource(ctx context.Context, server string) (Resource, error) {
	endpoint, err := url.Parse(server)
	if err != nil {
		return Resource{}, err
	}
	p := newProvider(entry{id: server}, newTransport())
	ctx, cancel := p.within(ctx, maxTimeout)
	defer cancel()
	challenge, err := p.challenge(ctx, server)
	if err != nil {
		return Resource{}, err
	}
	wellKnown := oauth.Origin(endpoint) + oauth.WellKnownResource
	places := []string{wellKnown + strings.TrimSuffix(endpoint.EscapedPath(), "/"), wellKnown}
	if named := challenge["resource_metadata"]; named != "" {
		places = slices.Insert(places, 0, named)
	}
	for _, place := range slices.Compact(places) {
		from, err := url.Parse(place)
		if err != nil || oauth.Origin(from) != oauth.Origin(endpoint) || from.User != nil {
			return Resource{}, fmt.Errorf("the server %s names metadata at another origin", server)
		}
		r, err := p.resource(ctx, from, endpoint)
		var refused *statusError
		if errors.As(err, &refused) && refused.status < 500 {
			continue
		}
		if scope := strings.Fields(challenge["scope"]); err == nil && len(scope) > 0 {
			r.Scopes = scope
		}
		return r, err
	}
	return Resource{}, fmt.Errorf("the server %s does not say which authorization server it has", server)
}

// SameIssuer compares issuers of authorization servers (RFC 8414 §3.3). A path that is only a slash
// counts as none: libraries of MCP servers add it to the issuers that they name (RFC 3986 §6.2.3).
func SameIssuer(a, b string) bool { return withoutRoot(a) == withoutRoot(b) }

func withoutRoot(issuer string) string {
	if origin, ok := strings.CutSuffix(issuer, "/"); ok && strings.Count(origin, "/") == len("//") {
		return origin
	}
	return issuer
}

// challenge returns the parameters of the server's Bearer challenge (RFC 6750 §3), if it has one. A
// ping changes nothing and begins no session.
func (p *Provider) challenge(ctx context.Context, server string) (map[string]string, error) {
	r, err := http.NewRequest(http.MethodPost, server, strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"ping"}`))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	resp, err := client(p.way, p.timeout).Do(r.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		return nil, nil
	}
	all, err := oauthex.ParseWWWAuthenticate(resp.Header.Values("WWW-Authenticate"))
	if err != nil {
		return nil, nil
	}
	for _, c := range all {
		if c.Scheme == "bearer" {
			return c.Params, nil
		}
	}
	return nil, nil
}

// resource reads the metadata of the resource that has an endpoint.
func (p *Provider) resource(ctx context.Context, from, endpoint *url.URL) (Resource, error) {
	m, _, err := p.get(ctx, from.String(), "")
	if err != nil {
		return Resource{}, err
	}
	r := Resource{ID: text(m["resource"]), Issuers: texts(m["authorization_servers"]), Scopes: texts(m["scopes_supported"])}
	if !oauth.CoversResource(r.ID, from, endpoint) {
		return Resource{}, fmt.Errorf("the metadata at %s is of the resource %q, not of %s", from, cut(r.ID, 200), endpoint)
	}
	if len(r.Issuers) == 0 {
		return Resource{}, fmt.Errorf("the metadata at %s names no authorization server", from)
	}
	return r, nil
}

// Description is what a client says of itself where it registers (RFC 7591 §2).
type Description struct {
	Name, RedirectURI string
	Document          string // URL of the same description, for servers that fetch such
}

// Registered is a client that an authorization server knows.
type Registered struct {
	ID, Secret string // Secret is empty: a public client
	Method     string // by which the client sends Secret; empty: the server has not said
	Expires    int64  // of Secret, in Unix seconds; 0: never
}

// Register makes a client known to an authorization server, over way, or over the way to the
// operator's providers if way is nil. The server must support PKCE with S256. One that fetches
// descriptions needs no request: the URL of the description is the client's id.
func Register(ctx context.Context, issuer string, way http.RoundTripper, d Description) (Registered, error) {
	if why := checkIssuer(issuer); why != "" {
		return Registered{}, fmt.Errorf("the issuer %q %s", cut(issuer, 200), why)
	}
	if way == nil {
		way = newTransport()
	}
	p := newProvider(entry{id: issuer, kind: discovered, issuer: issuer}, way)
	ctx, cancel := p.within(ctx, maxTimeout)
	defer cancel()
	m, err := p.metadata(ctx)
	switch {
	case err != nil:
		return Registered{}, err
	case m.Authorization == "":
		return Registered{}, fmt.Errorf("the authorization server %s has no authorization endpoint", issuer)
	case !slices.Contains(m.Challenges, "S256"):
		return Registered{}, fmt.Errorf("the authorization server %s does not say that it supports PKCE with S256", issuer)
	case m.Documents && strings.HasPrefix(d.Document, "https://"):
		return Registered{ID: d.Document}, nil
	case m.Registration == "":
		return Registered{}, fmt.Errorf("the authorization server %s neither takes client ID metadata documents nor registers clients: register Signet there, and set client_id", issuer)
	}
	return p.register(ctx, m, d)
}

// register sends a registration request (RFC 7591 §3).
func (p *Provider) register(ctx context.Context, m *metadata, d Description) (Registered, error) {
	method, err := registrationMethod(m.AuthMethods)
	if err != nil {
		return Registered{}, fmt.Errorf("the authorization server %s: %w", p.issuer, err)
	}
	body, err := json.Marshal(map[string]any{
		"client_name": d.Name, "redirect_uris": []string{d.RedirectURI}, "token_endpoint_auth_method": method,
		"grant_types": []string{"authorization_code", refreshToken}, "response_types": []string{"code"},
	})
	if err != nil {
		return Registered{}, err
	}
	r, err := http.NewRequest(http.MethodPost, m.Registration, bytes.NewReader(body))
	if err != nil {
		return Registered{}, err
	}
	r.Header.Set("Content-Type", "application/json")
	a, err := p.send(ctx, r)
	if err != nil {
		return Registered{}, err
	}
	members, err := parseObject(a.body)
	switch {
	case a.status != http.StatusCreated && a.status != http.StatusOK:
		return Registered{}, fmt.Errorf("the authorization server %s answered %d %q to a registration", p.issuer, a.status, cut(text(members["error"]), 64))
	case err != nil:
		return Registered{}, fmt.Errorf("the answer of the authorization server %s to a registration: %w", p.issuer, err)
	}
	return p.registered(members, method, d.RedirectURI)
}

// registrationMethod chooses how the client proves itself. A public client has no secret that could
// end or be lost; PKCE protects its codes. If the metadata does not say, client_secret_basic is the
// default (RFC 8414 §2).
func registrationMethod(supported []string) (string, error) {
	for _, method := range []string{authNone, authBasic, authPost} {
		if slices.Contains(supported, method) {
			return method, nil
		}
	}
	if len(supported) == 0 {
		return authBasic, nil
	}
	return "", errors.New("it supports none of the ways in which this client can prove itself")
}

// registered reads the answer to a registration (RFC 7591 §3.2.1).
func (p *Provider) registered(members map[string]any, method, redirectURI string) (Registered, error) {
	c := Registered{ID: text(members["client_id"]), Secret: text(members["client_secret"]), Method: text(members["token_endpoint_auth_method"])}
	if c.Method != "" {
		method = c.Method
	}
	wrong := func(why string) (Registered, error) {
		return Registered{}, fmt.Errorf("the answer of the authorization server %s to a registration %s", p.issuer, why)
	}
	uris := texts(members["redirect_uris"])
	switch {
	case c.ID == "" || checkToken("client_id", c.ID) != nil || len(c.ID) > maxClientID:
		return wrong("has no client_id of use")
	case len(uris) > 0 && !slices.Contains(uris, redirectURI):
		return wrong("has other redirect URIs than were registered")
	case method == authNone:
		return Registered{ID: c.ID}, nil
	case method != authBasic && method != authPost:
		return wrong("demands another proof of the client than was registered")
	case c.Secret == "" || checkToken("client_secret", c.Secret) != nil || len(c.Secret) > maxClientID:
		return wrong("has no client_secret of use")
	}
	if life, _ := seconds(members["client_secret_expires_at"]); life != 0 {
		if c.Expires = life; time.Now().Unix() >= life {
			return wrong("has a client_secret that has expired")
		}
	}
	return c, nil
}

const maxClientID = 4 << 10 // bytes; Signet's own ids, which hold the registration, are long
