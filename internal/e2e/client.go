package e2e

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"signet/internal/test/person"
)

// RedirectURI is the redirect URI of most test clients. No process listens there: tests
// read the parameters from the redirect itself.
const RedirectURI = "http://127.0.0.1:9/callback"

// Verifier is the PKCE verifier of all clients (RFC 7636 appendix B).
const Verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"

// Challenge is the code challenge of the Verifier.
func Challenge() string {
	h := sha256.Sum256([]byte(Verifier))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// Client is an OAuth client of a server. It does not hold tokens: tests keep them, and
// use old ones again.
type Client struct {
	Issuer      string `json:"-"`
	RedirectURI string `json:"-"`
	ID          string `json:"client_id"`
	Secret      string `json:"client_secret"`
}

// Register registers a public client.
func Register(t testing.TB, issuer, redirectURI string) *Client {
	t.Helper()
	c := &Client{Issuer: issuer, RedirectURI: redirectURI}
	c.register(t, "none")
	return c
}

// RegisterWithSecret registers a client that authenticates with a secret in the form.
func RegisterWithSecret(t testing.TB, issuer, redirectURI string) *Client {
	t.Helper()
	c := &Client{Issuer: issuer, RedirectURI: redirectURI}
	if c.register(t, "client_secret_post"); c.Secret == "" {
		t.Fatal("the registration gave no secret")
	}
	return c
}

func (c *Client) register(t testing.TB, method string) {
	t.Helper()
	body, err := json.Marshal(map[string]any{
		"client_name": "Test client", "redirect_uris": []string{c.RedirectURI}, "token_endpoint_auth_method": method,
		"grant_types": []string{"authorization_code", "refresh_token"},
	})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(c.Issuer+"/register", "application/json", strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(c); err != nil || resp.StatusCode != http.StatusCreated || c.ID == "" {
		t.Fatalf("registration: %d, %+v, %v", resp.StatusCode, c, err)
	}
}

// At is the same client at another address of its server, such as a replica's.
func (c *Client) At(base string) *Client {
	there := *c
	there.Issuer = base
	return &there
}

// AuthorizationURL is an authorization request of the client, for all scopes of the
// resource.
func (c *Client) AuthorizationURL(state string) string {
	q := url.Values{
		"response_type": {"code"}, "client_id": {c.ID}, "redirect_uri": {c.RedirectURI}, "state": {state}, "scope": {"read write"},
		"code_challenge": {Challenge()}, "code_challenge_method": {"S256"}, "resource": {c.Issuer + "/mcp"},
	}
	return c.Issuer + "/authorize?" + q.Encode()
}

// SignIn signs in at an authorization request, approves, and returns the last redirect.
func SignIn(t testing.TB, authorize, name, password string) *url.URL {
	t.Helper()
	return SignInOver(t, http.DefaultTransport, authorize, name, password)
}

// SignInOver is SignIn over another transport.
func SignInOver(t testing.TB, transport http.RoundTripper, authorize, name, password string) *url.URL {
	t.Helper()
	page, err := person.Over(transport, name, password).Authorize(authorize)
	if err != nil {
		t.Fatal(err)
	}
	if page.Left() == nil {
		t.Fatalf("the login ends at %s", page)
	}
	return page.Left()
}

// Code signs a user in, approves, and returns the code.
func (c *Client) Code(t testing.TB, name, password string) string {
	t.Helper()
	back := SignIn(t, c.AuthorizationURL("s"), name, password)
	code := back.Query().Get("code")
	if code == "" {
		t.Fatalf("no code in %s", back)
	}
	return code
}

// Login registers a client and returns it with tokens of the demo user.
func (p *Program) Login() (*Client, Tokens) {
	p.T.Helper()
	c := Register(p.T, p.Issuer, RedirectURI)
	return c, c.Exchange(p.T, c.Code(p.T, "demo_user", "demo_password"))
}

// TokenFor is an access token of a user for one of the server's resources.
func TokenFor(t testing.TB, p *Program, resource, name, password string) string {
	t.Helper()
	c := Register(t, p.Issuer, RedirectURI)
	u, err := url.Parse(c.AuthorizationURL("s"))
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("resource", resource)
	u.RawQuery = q.Encode()
	return c.Exchange(t, SignIn(t, u.String(), name, password).Query().Get("code")).AccessToken
}

// Tokens are the answer of the token endpoint, good or bad.
type Tokens struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	TokenType    string `json:"token_type"`
	Scope        string `json:"scope"`
	ExpiresIn    int    `json:"expires_in"`
	Error        string `json:"error"`
}

// Post sends a form to the token endpoint.
func Post(t testing.TB, issuer string, form url.Values) (Tokens, int) {
	t.Helper()
	resp, err := http.PostForm(issuer+"/token", form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var tok Tokens
	if err := json.NewDecoder(resp.Body).Decode(&tok); err != nil {
		t.Fatalf("token endpoint: %d: %v", resp.StatusCode, err)
	}
	return tok, resp.StatusCode
}

// Exchange redeems a code.
func (c *Client) Exchange(t testing.TB, code string) Tokens {
	t.Helper()
	tok, status := Post(t, c.Issuer, c.CodeForm(code))
	if status != http.StatusOK {
		t.Fatalf("code exchange: %d %+v", status, tok)
	}
	return tok
}

// Refresh uses a refresh handle.
func (c *Client) Refresh(t testing.TB, handle string) (Tokens, int) {
	t.Helper()
	return Post(t, c.Issuer, c.RefreshForm(handle))
}

// Revoke ends the grant of a token.
func (c *Client) Revoke(t testing.TB, token string) {
	t.Helper()
	resp, err := http.PostForm(c.Issuer+"/revoke", c.TokenForm(token))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("revoking: %d", resp.StatusCode)
	}
}

// CodeForm is a token request with a code.
func (c *Client) CodeForm(code string) url.Values {
	return c.form(url.Values{"grant_type": {"authorization_code"}, "code": {code}, "code_verifier": {Verifier}})
}

// RefreshForm is a token request with a refresh handle.
func (c *Client) RefreshForm(handle string) url.Values {
	return c.form(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {handle}})
}

// TokenForm is a request about a token: a revocation or an introspection.
func (c *Client) TokenForm(token string) url.Values { return c.form(url.Values{"token": {token}}) }

func (c *Client) form(form url.Values) url.Values {
	form.Set("client_id", c.ID)
	if c.Secret != "" {
		form.Set("client_secret", c.Secret)
	}
	return form
}

// Call calls a tool at an MCP endpoint and returns the HTTP status.
func Call(t testing.TB, endpoint, token string) int {
	t.Helper()
	resp, err := http.DefaultClient.Do(CallRequest(endpoint, token))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// CallRequest is a call of a tool, with a token unless it is empty.
func CallRequest(endpoint, token string) *http.Request {
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"message":"x"}}}`
	r, err := http.NewRequest(http.MethodPost, endpoint, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	for k, v := range map[string]string{"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25"} {
		r.Header.Set(k, v)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}
