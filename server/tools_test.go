package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/jwt"
	"signet/mcp"
	"signet/server"
)

// issuer is the key of an authorization server, which a process of role mcp needs.
type issuer struct {
	url string
	key *ecdsa.PrivateKey

	upstreamToken http.HandlerFunc // answers at /upstream/token
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	jwks := fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","kid":"k","alg":"ES256","use":"sig","x":%q,"y":%q}]}`, b64(point[1:33]), b64(point[33:]))
	is := &issuer{key: key}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/upstream/token" {
			is.upstreamToken(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, jwks)
	}))
	t.Cleanup(srv.Close)
	is.url = srv.URL
	return is
}

func (i *issuer) token(t *testing.T, resource, scope string) string {
	t.Helper()
	return i.tokenWith(t, resource, scope, "")
}

// tokenWith returns an access token with a claim upstream.
func (i *issuer) tokenWith(t *testing.T, resource, scope, upstream string) string {
	t.Helper()
	now := time.Now()
	signer := jwt.NewSigner(func(time.Time) (jwt.SigningKey, error) { return jwt.SigningKey{ID: "k", Private: i.key}, nil })
	token, err := signer.Sign(jwt.Claims{
		Issuer: i.url, Subject: "alice", Audience: resource, ClientID: "c", Scope: scope,
		IssuedAt: now.Unix(), ExpiresAt: now.Add(time.Minute).Unix(), GrantID: "g", Upstream: upstream,
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// post sends a JSON body with a token, if there is one.
func post(srv *server.Server, url, token, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", url, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	srv.Handler().ServeHTTP(w, r)
	return w
}

type none struct{}

func done(context.Context, *sdk.CallToolRequest, none) (*sdk.CallToolResult, any, error) {
	return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "done"}}}, nil, nil
}

// A tool with a scope takes one line besides AddTool.
func TestToolsOfTheFirstResourceNeedNoMCP_Row50(t *testing.T) {
	is := newIssuer(t)
	log := &safeBuffer{}
	srv := newServer(t, func(o *server.Options) {
		o.Role, o.Issuer, o.Check = "mcp", is.url, nil
		o.Resources = []string{"https://mcp.example/a", "https://mcp.example/b"}
		o.Scopes = []string{"read", "write", "admin"}
		o.PublicTools = []string{"greet", "get_secret"}
		o.Log = slog.New(slog.NewTextHandler(log, nil))
	})
	mcp.AddSampleTools(srv.MCP, srv.Require)
	if strings.Contains(log.String(), "tool=") {
		t.Errorf("log: %s", log)
	}
	srv.Require("wipe", "write")
	sdk.AddTool(srv.MCP, &sdk.Tool{Name: "wipe"}, done)
	srv.Require("never", "root")
	if !strings.Contains(log.String(), "tool=never scope=root") {
		t.Errorf("the log does not say that a scope does not exist: %s", log)
	}
	a := func(scope string) string { return is.token(t, "https://mcp.example/a", scope) }
	for _, tt := range []struct {
		path, token, want string
		status            int
	}{
		{"/tools/wipe", a("write"), "done", 200},
		{"/tools/wipe", a("admin"), "done", 200},
		{"/tools/wipe", a("read"), "insufficient_scope", 403},
		{"/tools/wipe", "", "invalid_token", 401},
		{"/tools/wipe", is.token(t, "https://mcp.example/b", "write"), "invalid_token", 401},
		{"/tools/greet", "", "Hello, World!", 200},
		{"/tools/get_secret", "", "invalid_token", 401},
		{"/tools/nothing", a("read"), "unknown tool", 404},
		{"/tools/", a("read"), "unknown tool", 404},
		{"/tools", a("read"), "nothing is served", 404},
	} {
		if got := post(srv, "https://mcp.example"+tt.path, tt.token, "{}"); got.Code != tt.status || !strings.Contains(got.Body.String(), tt.want) {
			t.Errorf("%s: status %d, want %d with %q: %s", tt.path, got.Code, tt.status, tt.want, got.Body)
		}
	}
}

// The hint is at the first resource's path, and the endpoints that it names are served.
func TestConnectHintNamesServedEndpoints_Row05(t *testing.T) {
	for resource, path := range map[string]string{"": "/mcp/connect", "http://localhost:8080/a": "/a/connect", "http://localhost:8080/a/": "/a/connect"} {
		srv := newServer(t, func(o *server.Options) {
			if resource != "" {
				o.Resources = []string{resource}
			}
		})
		got := post(srv, srv.Issuer()+path, "", "")
		for _, want := range []string{"http://localhost:8080/.well-known/openid-configuration", "http://localhost:8080/register", "authentication_required"} {
			if got.Code != 401 || !strings.Contains(got.Body.String(), want) {
				t.Errorf("%s: status %d, %s; want 401 with %s", path, got.Code, got.Body, want)
			}
		}
		for _, url := range []string{"/.well-known/openid-configuration", "/register"} {
			if got := get(t, srv, url).Code; got == 404 || got >= 500 {
				t.Errorf("GET %s, which the hint names: %d", url, got)
			}
		}
	}
}

// With registration off, nothing names the endpoint.
func TestConnectHintNamesNoRegistrationThatIsOff_Row05(t *testing.T) {
	srv := newServer(t, func(o *server.Options) { o.Registration.Off = true })
	for _, path := range []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server", "/.well-known/oauth-protected-resource", "/"} {
		if body := get(t, srv, path).Body.String(); strings.Contains(body, "register") {
			t.Errorf("%s: %s", path, body)
		}
	}
	got := post(srv, srv.Issuer()+"/mcp/connect", "", "")
	if got.Code != 401 || strings.Contains(got.Body.String(), "regist") || !strings.Contains(got.Body.String(), "openid-configuration") {
		t.Errorf("%d %s", got.Code, got.Body)
	}
}

func TestScopeHierarchyOptionDecidesAtTools(t *testing.T) {
	is := newIssuer(t)
	for _, tt := range []struct {
		hierarchy, scope string
		status           int
	}{
		{"", "admin", 200},
		{"admin>read", "admin", 403},
		{"off", "admin", 403},
		{"off", "write", 200},
	} {
		srv := newServer(t, func(o *server.Options) {
			o.Role, o.Issuer, o.Check, o.ScopeHierarchy, o.RequiredScopes = "mcp", is.url, nil, tt.hierarchy, []string{"write"}
		})
		sdk.AddTool(srv.MCP, &sdk.Tool{Name: "wipe"}, done)
		token := is.token(t, srv.Resources()[0], tt.scope)
		if got := post(srv, srv.Issuer()+"/tools/wipe", token, "{}"); got.Code != tt.status {
			t.Errorf("%q: a token of %s: status %d, want %d: %s", tt.hierarchy, tt.scope, got.Code, tt.status, got.Body)
		}
	}
}

// The host may also be that of the authorization server.
func TestResourceMayBeAWholeHost(t *testing.T) {
	is := newIssuer(t)
	for _, role := range []string{"all", "mcp"} {
		for _, resource := range []string{"http://localhost:8080", "http://localhost:8080/"} {
			srv := newServer(t, func(o *server.Options) {
				o.Role, o.Resources = role, []string{resource}
				if role == "mcp" {
					o.Issuer, o.Check = is.url, nil
				}
			})
			for path, want := range map[string]int{"/": 401, "/connect": 401, "/.well-known/oauth-protected-resource": 200, "/mcp": 404} {
				r := httptest.NewRequest("GET", "http://localhost:8080"+path, nil)
				w := httptest.NewRecorder()
				if srv.Handler().ServeHTTP(w, r); w.Code != want {
					t.Errorf("%s: %s: %s: status %d, want %d", role, resource, path, w.Code, want)
				}
			}
		}
	}
}

// A caller with a token sees every tool that a step-up reaches, and not those that the
// settings or the program hide. A browser may send what tracing adds.
func TestHiddenToolsAreNotListed(t *testing.T) {
	is := newIssuer(t)
	srv := newServer(t, func(o *server.Options) {
		o.Role, o.Issuer, o.Check = "mcp", is.url, nil
		o.Resources = []string{"https://mcp.example"}
		o.HiddenTools = []string{"wipe"}
	})
	srv.Hide("drop")
	for tool, scope := range map[string]string{"read": "read", "write": "write", "wipe": "write", "drop": "admin", "never": "root"} {
		srv.Require(tool, scope)
		sdk.AddTool(srv.MCP, &sdk.Tool{Name: tool}, done)
	}
	for scope, want := range map[string]string{"read": "read write", "read write": "read wipe write", "admin": "drop read wipe write"} {
		got := post(srv, "https://mcp.example/", is.token(t, "https://mcp.example/", scope), `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
		var answer struct{ Result sdk.ListToolsResult }
		if err := json.Unmarshal(got.Body.Bytes(), &answer); err != nil {
			t.Fatalf("%s: status %d: %s", scope, got.Code, got.Body)
		}
		var names []string
		for _, tool := range answer.Result.Tools {
			names = append(names, tool.Name)
		}
		if strings.Join(names, " ") != want {
			t.Errorf("%s: tools %q, want %s", scope, names, want)
		}
	}
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/x"} {
		r := httptest.NewRequest("OPTIONS", "https://mcp.example"+path, nil)
		r.Header.Set("Origin", "https://x.test")
		w := httptest.NewRecorder()
		srv.Handler().ServeHTTP(w, r)
		if allowed := w.Header().Get("Access-Control-Allow-Headers"); w.Code != 204 || w.Header().Get("Access-Control-Allow-Origin") != "*" || !strings.Contains(allowed, "baggage") || !strings.Contains(allowed, "mcp-protocol-version") {
			t.Errorf("preflight of %s: %d %v", path, w.Code, w.Header())
		}
	}
}

// Settings for tools that have no effect are logged at the start.
func TestSettingsForToolsWithoutEffectAreLogged(t *testing.T) {
	log := &safeBuffer{}
	srv := newServer(t, func(o *server.Options) {
		o.PublicTools, o.HiddenTools = []string{"greet", "great", "secret"}, []string{"secret", "secrets", "greet"}
		o.Log = slog.New(slog.NewTextHandler(log, nil))
	})
	add := func(name string) {
		sdk.AddTool(srv.MCP, &sdk.Tool{Name: name}, func(context.Context, *sdk.CallToolRequest, struct{}) (*sdk.CallToolResult, any, error) {
			return nil, nil, nil
		})
	}
	srv.Require("secret", "admin")
	add("greet")
	add("secret")
	_, stop := serving(t, srv)
	until(t, "the start in the log", func() (any, bool) { return log, strings.Contains(log.String(), "msg=serving") })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int{
		`SIGNET_PUBLIC_TOOLS names a tool that does not exist" tool=great`:                      1,
		`SIGNET_PUBLIC_TOOLS names a tool that needs scopes, so it is not public" tool=secret`:  1,
		`SIGNET_HIDDEN_TOOLS names a tool that does not exist" tool=secrets`:                    1,
		`SIGNET_HIDDEN_TOOLS names a tool that needs no scope, so it is not hidden" tool=greet`: 1,
		"level=WARN": 4,
	} {
		if got := strings.Count(log.String(), text); got != want {
			t.Errorf("%d lines with %s, want %d, in: %s", got, text, want, log)
		}
	}
}
