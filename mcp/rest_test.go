package mcp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/jwt"
	"signet/mcp"
)

// endpoint returns the endpoint with the options of w.
func (w *world) endpoint(t testing.TB) *mcp.Endpoint {
	t.Helper()
	e, err := mcp.Handler(w.options)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// post returns a good call of a tool by a script.
func (w *world) post(t testing.TB, tool, arguments string) *http.Request {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "https://mcp.example/tools/"+tool, strings.NewReader(arguments))
	r.Header.Set("Authorization", "Bearer "+w.token(t, nil))
	r.Header.Set("Content-Type", "application/json")
	return r
}

// toolResult is the answer to a POST of a tool.
type toolResult struct {
	Content           []struct{ Type, Text string }
	StructuredContent map[string]any
	IsError           bool
	Error             string
	Description       string `json:"error_description"`
}

func decodeResult(t testing.TB, w *httptest.ResponseRecorder) (r toolResult) {
	t.Helper()
	if w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("status %d: headers %v, want JSON that is not stored", w.Code, w.Header())
	}
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil {
		t.Fatalf("status %d, body %q: %v", w.Code, w.Body, err)
	}
	return r
}

// A script calls with curl, for example.
func TestScriptsGetTheAnswersOfMCPClients_Row50(t *testing.T) {
	w := newWorld(t)
	h := w.endpoint(t).Tools()
	for _, tt := range []struct {
		tool, arguments, want string
		isError               bool
	}{
		{"greet", `{"name":"World"}`, "Hello, World!", false},
		{"greet", `{}`, "Hello, World!", false},
		{"greet", "", "Hello, World!", false},
		{"greet", " \n{ \"name\" : \"<Ann & \\u00e9>\" }\n", "Hello, <Ann & é>!", false},
		{"get_secret", `{"key":"api_key"}`, "sk-secret-key-12345", false},
		{"echo", `{}`, "required", true},
		{"echo", `{"message":1}`, "message", true},
	} {
		got := serve(h, w.post(t, tt.tool, tt.arguments))
		if got.Code != http.StatusOK {
			t.Errorf("%s(%s): status %d, want 200: %s", tt.tool, tt.arguments, got.Code, got.Body)
			continue
		}
		r := decodeResult(t, got)
		if len(r.Content) != 1 || r.Content[0].Type != "text" || !strings.Contains(r.Content[0].Text, tt.want) || r.IsError != tt.isError {
			t.Errorf("%s(%s) = %s, want %q", tt.tool, tt.arguments, got.Body, tt.want)
		}
	}
	r := decodeResult(t, serve(h, w.post(t, "whoami", "{}")))
	if r.StructuredContent["sub"] != "alice" || r.StructuredContent["client_id"] != "c1" {
		t.Errorf("whoami: %v", r.StructuredContent)
	}
	// An escaped path is the same path.
	if got := serve(h, w.post(t, "gr%65et", "{}")); got.Code != http.StatusOK {
		t.Errorf("escaped name: status %d, want 200", got.Code)
	}
	// MCP's headers have no effect.
	req := w.post(t, "greet", "{}")
	for name, value := range map[string]string{"Accept": "*/*", "Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list", "Mcp-Name": "admin_action", "Last-Event-ID": "1", "Mcp-Session-Id": "x"} {
		req.Header.Set(name, value)
	}
	if got := serve(h, req); got.Code != http.StatusOK || req.Header.Get("Mcp-Name") == "" {
		t.Errorf("with MCP headers: status %d, want 200: %s", got.Code, got.Body)
	}
}

// Each row changes one thing of a good call.
func TestWrongCallsOfScriptsAreRefused_Row50(t *testing.T) {
	w := newWorld(t)
	w.options.Hierarchy = hierarchy(t, "admin>write>read")
	calls := counted(w.options.Server, "act")
	h := w.endpoint(t).Tools()
	body := func(s string) func(*http.Request) { return func(r *http.Request) { setBody(r, s) } }
	path := func(s string) func(*http.Request) { return func(r *http.Request) { r.URL.Path = s } }
	for _, tt := range []struct {
		name   string
		edit   func(*http.Request)
		status int
		code   string
	}{
		{"no token", func(r *http.Request) { r.Header.Del("Authorization") }, 401, "invalid_token"},
		{"bad token", func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }, 401, "invalid_token"},
		{"token of another resource", func(r *http.Request) {
			r.Header.Set("Authorization", "Bearer "+w.token(t, func(c *jwt.Claims) { c.Audience = "https://mcp.example/other" }))
		}, 401, "invalid_token"},
		{"token in the query", func(r *http.Request) {
			r.URL.RawQuery = "access_token=" + w.token(t, nil)
			r.Header.Del("Authorization")
		}, 401, "invalid_token"},
		{"no token for an unknown tool", func(r *http.Request) { r.Header.Del("Authorization"); r.URL.Path = "/tools/nothing" }, 401, "invalid_token"},
		{"no token, GET", func(r *http.Request) { r.Header.Del("Authorization"); r.Method = "GET" }, 401, "invalid_token"},
		{"without a required scope", func(r *http.Request) { w.as(t, r, "user") }, 403, "insufficient_scope"},
		{"without the tool's scope", path("/tools/admin_action"), 403, "insufficient_scope"},
		{"foreign page", func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }, 403, ""},
		{"unknown tool", path("/tools/nothing"), 404, "invalid_request"},
		{"no tool", path("/tools/"), 404, "invalid_request"},
		{"other case", path("/tools/Act"), 404, "invalid_request"},
		{"below a tool", path("/tools/act/x"), 404, "invalid_request"},
		{"behind dots", path("/tools/x/../act"), 404, "invalid_request"},
		{"not UTF-8", path("/tools/act\xff"), 404, "invalid_request"},
		{"a NUL", path("/tools/act\x00"), 404, "invalid_request"},
		{"JSON in the name", path(`/tools/x","name":"act`), 404, "invalid_request"},
		{"GET", func(r *http.Request) { r.Method = "GET" }, 405, "invalid_request"},
		{"PUT", func(r *http.Request) { r.Method = "PUT" }, 405, "invalid_request"},
		{"form", func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }, 415, "invalid_request"},
		{"no type", func(r *http.Request) { r.Header.Del("Content-Type") }, 415, "invalid_request"},
		{"bad JSON", body(`{"a":`), 400, "invalid_request"},
		{"array", body(`[{}]`), 400, "invalid_request"},
		{"string", body(`"x"`), 400, "invalid_request"},
		{"null", body(`null`), 400, "invalid_request"},
		{"two objects", body(`{}{}`), 400, "invalid_request"},
		{"ends the call early", body(`{}},"method":"tools/list","x":{"y":{}`), 400, "invalid_request"},
		{"not UTF-8 in the body", body("{\"a\":\"\xff\"}"), 400, "invalid_request"},
		{"broken off", func(r *http.Request) { r.Body = io.NopCloser(failing{}) }, 400, "invalid_request"},
		{"too large", body(`{"a":"` + strings.Repeat("x", 4<<20) + `"}`), 413, "invalid_request"},
		{"too large with its envelope", body(`{"a":"` + strings.Repeat("x", 4<<20-8) + `"}`), 413, "invalid_request"},
	} {
		r := w.post(t, "act", "{}")
		tt.edit(r)
		got := serve(h, r)
		if got.Code != tt.status || calls.Load() != 0 {
			t.Errorf("%s: status %d, want %d: %.200s; %d calls", tt.name, got.Code, tt.status, got.Body, calls.Load())
			continue
		}
		if tt.code != "" {
			if e := decodeResult(t, got); e.Error != tt.code || e.Description == "" {
				t.Errorf("%s: body %s, want error %s", tt.name, got.Body, tt.code)
			}
		}
		switch tt.status {
		case 401, 403:
			if tt.code != "" && challenge(t, got)["resource_metadata"] != metadataURL {
				t.Errorf("%s: challenge %q", tt.name, got.Header()["Www-Authenticate"])
			}
		case 405:
			if got.Header().Get("Allow") != "POST, OPTIONS" {
				t.Errorf("%s: Allow %q", tt.name, got.Header().Get("Allow"))
			}
		}
	}
	if got := serve(h, w.post(t, "act", "{}")); got.Code != http.StatusOK || calls.Load() != 1 {
		t.Errorf("the good call: status %d: %s", got.Code, got.Body)
	}
	got := serve(h, w.post(t, "admin_action", "{}"))
	if c := challenge(t, got); c["scope"] != "read admin" || c["error"] != "insufficient_scope" {
		t.Errorf("challenge %v, want both scopes", c)
	}
	if got := serve(h, w.as(t, w.post(t, "admin_action", "{}"), "admin")); got.Code != http.StatusOK {
		t.Errorf("with the broader scope: status %d: %s", got.Code, got.Body)
	}
}

func TestFailingToolsAnswerScripts_Row50(t *testing.T) {
	w := newWorld(t)
	add := func(name string, f func(context.Context, *sdk.CallToolRequest) error) {
		sdk.AddTool(w.options.Server, &sdk.Tool{Name: name}, func(ctx context.Context, r *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, any, error) {
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "done"}}}, nil, f(ctx, r)
		})
	}
	add("panics", func(context.Context, *sdk.CallToolRequest) error { panic("sesame") })
	add("fails", func(context.Context, *sdk.CallToolRequest) error { return fmt.Errorf("no luck") })
	add("refuses", func(context.Context, *sdk.CallToolRequest) error {
		return &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "not like this"}
	})
	add("breaks", func(context.Context, *sdk.CallToolRequest) error {
		return &jsonrpc.Error{Code: -32099, Message: "broken"}
	})
	add("talks", func(ctx context.Context, r *sdk.CallToolRequest) error {
		r.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{ProgressToken: "p"}) // without a stream
		return nil
	})
	h := w.endpoint(t).Tools()
	for _, tt := range []struct {
		tool   string
		status int
		want   string
	}{
		{"panics", 500, `"server_error"`},
		{"fails", 200, "no luck"},
		{"refuses", 400, "not like this"},
		{"breaks", 500, "broken"},
		{"talks", 200, `"text":"done"`},
	} {
		got := serve(h, w.post(t, tt.tool, "{}"))
		if got.Code != tt.status || !strings.Contains(got.Body.String(), tt.want) || strings.Contains(got.Body.String(), "sesame") {
			t.Errorf("%s: status %d, want %d with %s: %s", tt.tool, got.Code, tt.status, tt.want, got.Body)
		}
	}
}

func TestScriptsCallPublicToolsWithoutToken_Row50(t *testing.T) {
	w := newWorld(t)
	w.options.Access.WithoutLogin("greet", "get_secret")
	h := w.endpoint(t).Tools()
	for tool, status := range map[string]int{"greet": 200, "echo": 401, "get_secret": 401, "admin_action": 401, "nothing": 401, "": 401} {
		r := w.post(t, tool, "{}")
		r.Header.Del("Authorization")
		if got := serve(h, r); got.Code != status {
			t.Errorf("%q: status %d, want %d: %s", tool, got.Code, status, got.Body)
		}
	}
	r := w.post(t, "greet", "{")
	r.Header.Del("Authorization")
	if got := serve(h, r); got.Code != http.StatusUnauthorized {
		t.Errorf("bad JSON: status %d, want 401", got.Code)
	}
}

// The caller gets nothing, and nothing is logged.
func TestHangUpIsNoFault_Row50(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		sdk.AddTool(w.options.Server, &sdk.Tool{Name: "slow"}, func(context.Context, *sdk.CallToolRequest, struct{}) (*sdk.CallToolResult, any, error) {
			cancel()
			synctest.Wait() // until the SDK no longer waits
			return &sdk.CallToolResult{}, nil, nil
		})
		got := serve(w.endpoint(t).Tools(), w.post(t, "slow", "{}").WithContext(ctx))
		synctest.Wait()
		if got.Body.Len() > 0 || strings.Contains(w.log.String(), "did not answer") {
			t.Errorf("a hang-up is taken for a fault: %s; log %s", got.Body, w.log)
		}
	})
}

// Inside, all calls have the same id.
func TestConcurrentScriptsGetTheirOwnAnswers_J13(t *testing.T) {
	w := newWorld(t)
	h := w.endpoint(t).Tools()
	var crossed atomic.Int32
	var wg sync.WaitGroup
	for user := range 20 {
		name := fmt.Sprintf("user-%d", user)
		token := w.token(t, func(c *jwt.Claims) { c.Subject = name })
		wg.Go(func() {
			for range 20 {
				r := w.post(t, "whoami", "{}")
				r.Header.Set("Authorization", "Bearer "+token)
				if got := decodeResult(t, serve(h, r)); got.StructuredContent["sub"] != name {
					crossed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := crossed.Load(); n > 0 {
		t.Errorf("%d answers went to another user", n)
	}
}

// The tool in the path is the one that runs, whatever the body says.
func FuzzCallTool(f *testing.F) {
	for _, seed := range [][2]string{
		{"greet", `{"name":"x"}`}, {"forbidden", "{}"}, {"greet", `{}},"params":{"name":"forbidden"`}, {`x","name":"forbidden`, "{}"},
		{"greet", `{"name":"forbidden"}`}, {"greet", `[{},{"method":"tools/call","params":{"name":"forbidden"}}]`}, {"greet/../forbidden", "{}"},
		{"forbidden\x00", "{}"}, {"Forbidden", "{}"}, {"%66orbidden", "{}"}, {"\u017forbidden", "{}"}, {"greet", "{\"a\":\"\xff\"}"},
	} {
		f.Add(seed[0], []byte(seed[1]))
	}
	w := newWorld(f)
	forbidden := counted(w.options.Server, "forbidden")
	w.options.Access.Require("forbidden", "admin")
	allowed := counted(w.options.Server, "allowed")
	h := w.endpoint(f).Tools()
	token := w.token(f, nil)
	f.Fuzz(func(t *testing.T, name string, body []byte) {
		r := httptest.NewRequest(http.MethodPost, "/tools/", bytes.NewReader(body))
		r.URL = &url.URL{Path: "/tools/" + name}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+token)
		before := allowed.Load()
		got := serve(h, r)
		if forbidden.Load() != 0 {
			t.Fatalf("%q with %q ran a tool that the token does not allow", name, body)
		}
		if ran := allowed.Load() != before; ran && name != "allowed" {
			t.Errorf("%q with %q ran another tool", name, body)
		}
		if got.Code >= 500 {
			t.Errorf("%q with %q: status %d: %s", name, body, got.Code, got.Body)
		}
	})
}

func TestConnectSaysWhereALoginBegins_Row05(t *testing.T) {
	w := newWorld(t)
	h := mcp.Connect(w.options, w.options.Issuer+"/register")
	for _, header := range []string{"", "Bearer " + w.token(t, nil)} {
		r := httptest.NewRequest(http.MethodPost, resource+"/connect", nil)
		r.Host = "evil.example"
		r.Header.Set("X-Forwarded-Host", "evil.example")
		if header != "" {
			r.Header.Set("Authorization", header)
		}
		got := serve(h, r)
		if got.Code != http.StatusUnauthorized || got.Header().Get("Content-Type") != "application/json" || got.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("status %d, headers %v", got.Code, got.Header())
		}
		var hint map[string]string
		if err := json.Unmarshal(got.Body.Bytes(), &hint); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{
			"error": "authentication_required", "error_description": "This MCP server requires OAuth authentication",
			"oauth_metadata_url": issuer + "/.well-known/openid-configuration", "registration_endpoint": issuer + "/register",
		}
		if diff := cmp.Diff(want, hint); diff != "" {
			t.Errorf("hint (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[string]string{"resource_metadata": metadataURL, "scope": "read"}, challenge(t, got)); diff != "" {
			t.Errorf("challenge (-want +got):\n%s", diff)
		}
		if got.Header().Get("Access-Control-Allow-Origin") != "*" || got.Header().Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("CORS: %v", got.Header())
		}
	}
	got := serve(h, httptest.NewRequest(http.MethodOptions, resource+"/connect", nil))
	if got.Code != http.StatusNoContent || !strings.Contains(got.Header().Get("Access-Control-Allow-Headers"), "authorization") {
		t.Errorf("preflight: status %d, %v", got.Code, got.Header())
	}
}
