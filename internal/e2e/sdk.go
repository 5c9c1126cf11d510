package e2e

import (
	"context"
	"net/http"
	"net/url"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/auth"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
	"golang.org/x/oauth2"
)

// SDKLogin is the go-sdk's own OAuth client, with a user that signs in.
func SDKLogin(t *testing.T, name, password string) *auth.AuthorizationCodeHandler {
	t.Helper()
	return SDKLoginOver(t, http.DefaultTransport, name, password)
}

// SDKToken returns the token that the SDK has after a login.
func SDKToken(t *testing.T, login auth.OAuthHandler) *oauth2.Token {
	t.Helper()
	source, err := login.TokenSource(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	token, err := source.Token()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// SDKLoginOver is SDKLogin over another transport.
func SDKLoginOver(t *testing.T, transport http.RoundTripper, name, password string) *auth.AuthorizationCodeHandler {
	t.Helper()
	return sdkLogin(t, transport, signingIn(t, transport, name, password), registering())
}

// SDKLoginWith is SDKLogin with a user who does something else: visit takes an authorization
// request and returns the redirect to the client.
func SDKLoginWith(t *testing.T, visit func(link string) (*url.URL, error)) *auth.AuthorizationCodeHandler {
	t.Helper()
	return sdkLogin(t, http.DefaultTransport, visit, registering())
}

// registering is the configuration of a client that registers itself.
func registering() *auth.AuthorizationCodeHandlerConfig {
	return &auth.AuthorizationCodeHandlerConfig{
		DynamicClientRegistrationConfig: &auth.DynamicClientRegistrationConfig{Metadata: &oauthex.ClientRegistrationMetadata{
			ClientName: "go-sdk", RedirectURIs: []string{RedirectURI}, GrantTypes: []string{"authorization_code", "refresh_token"},
		}},
	}
}

// signingIn returns a visit of a user who signs in and approves.
func signingIn(t *testing.T, transport http.RoundTripper, name, password string) func(string) (*url.URL, error) {
	return func(link string) (*url.URL, error) { return SignInOver(t, transport, link, name, password), nil }
}

// SDKLoginByDocument is SDKLogin for a client whose id is the URL of its metadata document.
func SDKLoginByDocument(t *testing.T, document, name, password string) *auth.AuthorizationCodeHandler {
	t.Helper()
	return sdkLogin(t, http.DefaultTransport, signingIn(t, http.DefaultTransport, name, password), &auth.AuthorizationCodeHandlerConfig{
		ClientIDMetadataDocumentConfig: &auth.ClientIDMetadataDocumentConfig{URL: document},
	})
}

// sdkLogin completes a configuration that says how the client registers.
func sdkLogin(t *testing.T, transport http.RoundTripper, visit func(link string) (*url.URL, error), cfg *auth.AuthorizationCodeHandlerConfig) *auth.AuthorizationCodeHandler {
	t.Helper()
	cfg.RedirectURL, cfg.Client = RedirectURI, &http.Client{Transport: transport}
	cfg.AuthorizationCodeFetcher = func(_ context.Context, args *auth.AuthorizationArgs) (*auth.AuthorizationResult, error) {
		to, err := visit(args.URL)
		if err != nil {
			return nil, err
		}
		back := to.Query()
		return &auth.AuthorizationResult{Code: back.Get("code"), State: back.Get("state"), Iss: back.Get("iss")}, nil
	}
	h, err := auth.NewAuthorizationCodeHandler(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// Connect opens an MCP session, with a login unless login is nil.
func Connect(t *testing.T, endpoint string, login auth.OAuthHandler, httpClient *http.Client) *sdk.ClientSession {
	t.Helper()
	client := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, nil)
	session, err := client.Connect(t.Context(), &sdk.StreamableClientTransport{Endpoint: endpoint, OAuthHandler: login, HTTPClient: httpClient, DisableStandaloneSSE: true}, nil)
	if err != nil {
		t.Fatalf("connecting to %s: %v", endpoint, err)
	}
	t.Cleanup(func() { session.Close() })
	return session
}

func CallTool(t *testing.T, session *sdk.ClientSession, name string, args map[string]any) string {
	t.Helper()
	res, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: name, Arguments: args})
	if err != nil {
		t.Fatalf("calling %s: %v", name, err)
	}
	if len(res.Content) == 0 {
		t.Fatalf("%s gave %+v", name, res)
	}
	text, ok := res.Content[0].(*sdk.TextContent)
	if !ok || res.IsError {
		t.Fatalf("%s gave %+v", name, res)
	}
	return text.Text
}
