package mcp_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/jwt"
	"signet/mcp"
)

func hierarchy(t testing.TB, text string) mcp.Hierarchy {
	t.Helper()
	h, err := mcp.ParseHierarchy(text, []string{"read", "write", "admin", "user", "norman.read", "norman.write", "mcp:*", "mcp:read"})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// as gives r a token of the given scope.
func (w *world) as(t testing.TB, r *http.Request, scope string) *http.Request {
	t.Helper()
	r.Header.Set("Authorization", "Bearer "+w.token(t, func(c *jwt.Claims) { c.Scope = scope }))
	return r
}

// legacyCall is like call, in the protocol with sessions.
func (w *world) legacyCall(t testing.TB, tool, arguments string) *http.Request {
	t.Helper()
	r := w.call(t, tool, arguments)
	legacy(r)
	setBody(r, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"`+tool+`","arguments":`+arguments+`}}`)
	return r
}

// counted adds a tool that counts its calls.
func counted(s *sdk.Server, name string) *atomic.Int32 {
	var calls atomic.Int32
	sdk.AddTool(s, &sdk.Tool{Name: name}, func(context.Context, *sdk.CallToolRequest, struct{}) (*sdk.CallToolResult, any, error) {
		calls.Add(1)
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "done"}}}, nil, nil
	})
	return &calls
}

// One challenge names all scopes that the call needs, so that one step-up is enough. Clients
// of the older protocol ask for exactly these scopes, so for them it repeats the scopes
// that they have.
func TestToolsNeedTheirScopes_J02(t *testing.T) {
	w := newWorld(t)
	w.options.Hierarchy = hierarchy(t, "admin>write>read")
	calls := counted(w.options.Server, "delete")
	w.options.Access.Require("delete", "write")
	w.options.Access.Require("delete", "user", "offline_access")
	h := w.handler(t)
	for _, tt := range []struct {
		granted        string
		modern, legacy string // the challenge's scope; empty: allowed
	}{
		{"read write user offline_access", "", ""},
		{"write user offline_access", "", ""},
		{"admin user offline_access", "", ""},
		{"read", "read write user", "read write user"},
		{"admin", "read write user", "admin read write user"},
		{"read user offline_access", "read write user", "read user write"},
		{"user admi offline_access", "read write user", "user admi read write"},
		{"Write user read offline_access", "read write user", "Write user read write"},
		{"", "read write user", "read write user"},
	} {
		for era, r := range map[string]*http.Request{"modern": w.call(t, "delete", "{}"), "legacy": w.legacyCall(t, "delete", "{}")} {
			want := map[string]string{"modern": tt.modern, "legacy": tt.legacy}[era]
			before := calls.Load()
			got := serve(h, w.as(t, r, tt.granted))
			if want == "" {
				if got.Code != http.StatusOK || calls.Load() != before+1 {
					t.Errorf("%s: %q: status %d, want 200: %s", era, tt.granted, got.Code, got.Body)
				}
				continue
			}
			if got.Code != http.StatusForbidden || calls.Load() != before {
				t.Errorf("%s: %q: status %d, want 403; ran %d times", era, tt.granted, got.Code, calls.Load()-before)
				continue
			}
			wantChallenge := map[string]string{
				"error": "insufficient_scope", "scope": want, "resource_metadata": metadataURL,
				"error_description": "the access token lacks a scope that this operation needs",
			}
			if diff := cmp.Diff(wantChallenge, challenge(t, got)); diff != "" {
				t.Errorf("%s: %q: challenge (-want +got):\n%s", era, tt.granted, diff)
			}
			if body := decode(t, got); string(body.Error) != `"insufficient_scope"` || got.Header().Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %q: body %s, headers %v", era, tt.granted, got.Body, got.Header())
			}
		}
	}
}

// This holds for the scopes that every request needs as well; never the other way round, and
// never without a link.
func TestBroaderScopesImplyNarrowerOnes_J02(t *testing.T) {
	w := newWorld(t)
	w.options.Required = []string{"write"}
	for _, tt := range []struct {
		hierarchy, granted string
		status             int
	}{
		{"admin>write>read", "write", 200},
		{"admin>write>read", "admin", 200},
		{"admin>write>read", "read", 403},
		{"admin>write>read", "user", 403},
		{"admin>read", "admin", 403},
		{"read>write", "admin", 403},
		{"", "admin", 403},
		{"", "write", 200},
	} {
		w.options.Hierarchy = hierarchy(t, tt.hierarchy)
		passed := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
		for name, h := range map[string]http.Handler{"Handler": w.handler(t), "Guard": mcp.Guard(w.options, passed)} {
			if got := serve(h, w.as(t, w.call(t, "greet", "{}"), tt.granted)); got.Code != tt.status {
				t.Errorf("%s: %q with %q: status %d, want %d", name, tt.hierarchy, tt.granted, got.Code, tt.status)
			}
		}
	}
}

// Tools that decide for themselves see the implied scopes; the claims are the signed ones.
func TestToolsSeeImpliedScopes(t *testing.T) {
	w := newWorld(t)
	w.options.Hierarchy = hierarchy(t, "admin>write>read")
	sdk.AddTool(w.options.Server, &sdk.Tool{Name: "scopes"}, func(ctx context.Context, r *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, any, error) {
		c, _ := mcp.Caller(ctx)
		text := fmt.Sprint(r.Extra.TokenInfo.Scopes, c.Scopes())
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: text}}}, nil, nil
	})
	got := decode(t, serve(w.handler(t), w.as(t, w.call(t, "scopes", "{}"), "admin"))).text()
	if want := "[admin write read] [admin]"; got != want {
		t.Errorf("scopes %q, want %q", got, want)
	}
}

func listed(t *testing.T, w *world, h http.Handler, scope, version string) []string {
	t.Helper()
	session := connect(t, h, w.token(t, func(c *jwt.Claims) { c.Scope = scope }), version)
	list, err := session.ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if list.CacheScope != "private" {
		t.Errorf("%s: a list that depends on the token has the cacheScope %q", scope, list.CacheScope)
	}
	var names []string
	for _, tool := range list.Tools {
		names = append(names, tool.Name)
	}
	return names
}

// A client calls only what is listed, so a tool whose scope it lacks is listed: the call
// brings it the challenge. With and without sessions.
func TestListHasTheToolsThatAStepUpReaches(t *testing.T) {
	w := newWorld(t)
	w.options.Required = nil
	h := w.handler(t)
	want := []string{"admin_action", "echo", "get_secret", "get_time", "greet", "whoami"}
	for _, scope := range []string{"user", "read", "write", "admin"} {
		for _, version := range []string{"2026-07-28", "2025-11-25"} {
			if diff := cmp.Diff(want, listed(t, w, h, scope, version)); diff != "" {
				t.Errorf("%s: %s: tools (-want +got):\n%s", version, scope, diff)
			}
		}
	}
}

// Who has the scopes of a hidden tool sees it, with and without sessions.
func TestHiddenToolsAreListedForTheirCallers(t *testing.T) {
	w := newWorld(t)
	w.options.Required = nil
	w.options.Hierarchy = hierarchy(t, "admin>write>read")
	w.options.Access.Hide("get_secret", "admin_action", "echo") // everybody may call echo
	h := w.handler(t)
	public := []string{"echo", "get_time", "greet", "whoami"}
	for scope, more := range map[string][]string{
		"user": nil, "read": {"get_secret"}, "write": {"get_secret"}, "admin": {"get_secret", "admin_action"},
	} {
		want := slices.Sorted(slices.Values(append(more, public...)))
		for _, version := range []string{"2026-07-28", "2025-11-25"} {
			if diff := cmp.Diff(want, listed(t, w, h, scope, version)); diff != "" {
				t.Errorf("%s: %s: tools (-want +got):\n%s", version, scope, diff)
			}
		}
	}
}

// A middleware that keeps a list does not show one caller's list to the next, and the default
// of a server from elsewhere does not make it shared.
func TestListKeptByMiddlewareIsFilteredForEachCaller(t *testing.T) {
	w := newWorld(t)
	w.options.Server = sdk.NewServer(&sdk.Implementation{Name: "foreign", Version: "1"}, nil)
	mcp.AddSampleTools(w.options.Server, w.options.Access.Require)
	w.options.Access.Hide("admin_action")
	var kept sdk.Result
	w.options.Server.AddReceivingMiddleware(func(next sdk.MethodHandler) sdk.MethodHandler {
		return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
			if method != "tools/list" {
				return next(ctx, method, req)
			}
			if kept == nil {
				kept, _ = next(ctx, method, req)
			}
			return kept, nil
		}
	})
	h := w.handler(t)
	for _, tt := range []struct {
		scope string
		admin bool
	}{{"read", false}, {"read admin", true}, {"read", false}} {
		if got := listed(t, w, h, tt.scope, ""); slices.Contains(got, "admin_action") != tt.admin {
			t.Errorf("%s: tools %q", tt.scope, got)
		}
	}
}

// A tool that is not listed cannot be called by its name either, and a change applies from
// the next call on.
func TestAccessIsCheckedAtEachCall_J07(t *testing.T) {
	w := newWorld(t)
	calls := counted(w.options.Server, "reports")
	h := w.handler(t)
	call := func(tool, scope string) *httptest.ResponseRecorder {
		return serve(h, w.as(t, w.call(t, tool, "{}"), scope))
	}
	if got := call("reports", "read"); got.Code != http.StatusOK || calls.Load() != 1 {
		t.Fatalf("before: status %d: %s", got.Code, got.Body)
	}
	w.options.Access.Require("reports", "write")
	if got := call("reports", "read"); got.Code != http.StatusForbidden || calls.Load() != 1 {
		t.Errorf("after the tool needs write: status %d, %d calls", got.Code, calls.Load())
	}
	if got := call("reports", "read write"); got.Code != http.StatusOK || calls.Load() != 2 {
		t.Errorf("with write: status %d: %s", got.Code, got.Body)
	}
	if got := listed(t, w, h, "read", ""); !slices.Contains(got, "reports") {
		t.Errorf("tools %q, without one that a step-up reaches", got)
	}
	w.options.Access.Hide("reports", "admin_action")
	if got := listed(t, w, h, "read", ""); slices.Contains(got, "reports") || slices.Contains(got, "admin_action") {
		t.Errorf("tools %q, some of which are hidden", got)
	}
	if c := challenge(t, call("reports", "read")); c["error"] != "insufficient_scope" || c["scope"] != "read write" {
		t.Errorf("hidden tool: challenge %v, want one for read write", c)
	}
	if got := call("admin_action", "read write"); got.Code != http.StatusForbidden {
		t.Errorf("guessed name: status %d, want 403", got.Code)
	}
	w.revoked["g1"] = true
	if got := call("reports", "read write"); got.Code != http.StatusUnauthorized || calls.Load() != 2 {
		t.Errorf("after the grant was revoked: status %d, %d calls", got.Code, calls.Load())
	}
	delete(w.revoked, "g1")
	// An unknown tool gets the SDK's error, without a challenge.
	got := call("no_such_tool", "read")
	if got.Code != http.StatusBadRequest || decode(t, got).code(t) != -32602 || got.Header().Get("WWW-Authenticate") != "" {
		t.Errorf("unknown tool: status %d, %v: %s", got.Code, got.Header(), got.Body)
	}
	// Names that resemble a tool's are other names.
	for _, name := range []string{"Admin_Action", "admin_action ", "admin_action\\u0000"} {
		r := w.legacyCall(t, name, "{}")
		if got := serve(h, w.as(t, r, "read")); strings.Contains(got.Body.String(), "done") {
			t.Errorf("%q ran: %s", name, got.Body)
		}
	}
}

// The other handler knows nothing of scopes, and even runs batches.
func TestMiddlewareDecidesBehindOtherHandlers_J07(t *testing.T) {
	w := newWorld(t)
	w.options.Required = nil
	calls := counted(w.options.Server, "reports")
	w.options.Access.Require("reports", "write")
	w.options.Access.Hide("reports")
	w.options.Server.AddReceivingMiddleware(w.options.Access.Middleware)
	h := mcp.Guard(w.options, sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return w.options.Server },
		&sdk.StreamableHTTPOptions{Stateless: true, JSONResponse: true}))
	single := func(r *http.Request) {}
	batch := func(r *http.Request) {
		r.Header.Del("Mcp-Protocol-Version")
		setBody(r, `[{"jsonrpc":"2.0","id":1,"method":"tools/list"},{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"reports","arguments":{}}}]`)
	}
	for name, edit := range map[string]func(*http.Request){"single": single, "batch": batch} {
		r := w.as(t, w.legacyCall(t, "reports", "{}"), "read")
		edit(r)
		got := serve(h, r)
		if calls.Load() != 0 || !strings.Contains(got.Body.String(), "lacks a scope") || strings.Contains(got.Body.String(), `"name":"reports"`) {
			t.Errorf("%s: ran %d times: %s", name, calls.Load(), got.Body)
		}
		r = w.as(t, w.legacyCall(t, "reports", "{}"), "write")
		edit(r)
		if got := serve(h, r); calls.Swap(0) != 1 {
			t.Errorf("%s: with the scope it did not run: %s", name, got.Body)
		}
	}
}

func TestTransportWithoutTokensHasNoScopes(t *testing.T) {
	var access mcp.Access
	server := mcp.NewServer("test", "1")
	mcp.AddSampleTools(server, access.Require)
	access.WithoutLogin("greet", "get_secret")
	server.AddReceivingMiddleware(access.Middleware)
	session := connectInMemory(t, server)
	for tool, allowed := range map[string]bool{"greet": true, "get_secret": false, "whoami": false, "admin_action": false} {
		_, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: tool, Arguments: map[string]any{}})
		if (err == nil) != allowed {
			t.Errorf("%s: error %v, allowed %t", tool, err, allowed)
		}
	}
}

// The lists of scopes are those of the reference systems.
func TestMissingScopeIsRefusedWithAChallenge_Row21(t *testing.T) {
	for _, tt := range []struct {
		name             string
		required         []string
		toolNeeds        string
		hierarchy, scope string
		status           int
		challenged       string
	}{
		{"admin_action with read", []string{"read"}, "admin", "admin>write>read", "read", 403, "read admin"},
		{"admin_action with write", []string{"read"}, "admin", "admin>write>read", "read write", 403, "read admin"},
		{"admin_action with admin", []string{"read"}, "admin", "admin>write>read", "admin", 200, ""},
		{"dotted scopes", []string{"norman.read"}, "norman.write", "", "norman.read", 403, "norman.read norman.write"},
		{"dotted scopes granted", []string{"norman.read"}, "norman.write", "", "norman.read norman.write", 200, ""},
		{"dots are no hierarchy", []string{"norman.read"}, "norman.write", "", "norman", 403, "norman.read norman.write"},
		{"a star is a name", nil, "mcp:read", "", "mcp:*", 403, "mcp:read"},
		{"a star implies what the hierarchy says", nil, "mcp:read", "mcp:*>mcp:read", "mcp:*", 200, ""},
		{"four scopes", []string{"read", "user"}, "admin", "", "read write admin", 403, "read user admin"},
	} {
		w := newWorld(t)
		w.options.Required = tt.required
		w.options.Hierarchy = hierarchy(t, tt.hierarchy)
		calls := counted(w.options.Server, "act")
		w.options.Access.Require("act", tt.toolNeeds)
		got := serve(w.handler(t), w.as(t, w.call(t, "act", "{}"), tt.scope))
		if got.Code != tt.status || (calls.Load() == 1) != (tt.status == 200) {
			t.Errorf("%s: status %d, want %d; %d calls", tt.name, got.Code, tt.status, calls.Load())
		}
		if tt.status == http.StatusForbidden {
			if c := challenge(t, got); c["error"] != "insufficient_scope" || c["scope"] != tt.challenged {
				t.Errorf("%s: challenge %v, want scope %q", tt.name, c, tt.challenged)
			}
		}
	}
}

// Public tools may be listed and called without a token. All other requests need one.
func TestPublicToolsNeedNoToken_Row48(t *testing.T) {
	w := newWorld(t)
	closed := w.handler(t)
	w.options.Access = new(mcp.Access)
	w.options.Server = mcp.NewServer("test", "1")
	mcp.AddSampleTools(w.options.Server, w.options.Access.Require)
	w.options.Access.WithoutLogin("greet", "whoami", "get_secret", "no_such_tool")
	open := w.handler(t)
	message := func(body string) func(*http.Request) {
		return func(r *http.Request) { legacy(r); setBody(r, body) }
	}
	call := func(tool string) func(*http.Request) {
		return message(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + tool + `","arguments":{}}}`)
	}
	for _, tt := range []struct {
		name   string
		edit   func(*http.Request)
		status int
		want   string // in the body
	}{
		{"open tool", func(*http.Request) {}, 200, "Hello, World!"},
		{"open tool, older protocol", call("greet"), 200, "Hello, World!"},
		{"open tool that wants a caller", call("whoami"), 200, "without an access token"},
		{"unknown tool", call("no_such_tool"), 200, "unknown tool"},
		{"initialize", message(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}`), 200, "serverInfo"},
		{"initialized", message(`{"jsonrpc":"2.0","method":"notifications/initialized"}`), 202, ""},
		{"cancelled", message(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`), 202, ""},
		{"ping", message(`{"jsonrpc":"2.0","id":1,"method":"ping"}`), 200, "result"},

		{"closed tool", call("echo"), 401, ""},
		{"named, but needs a scope", call("get_secret"), 401, ""},
		{"needs a scope", call("admin_action"), 401, ""},
		{"other case", call("Greet"), 401, ""},
		{"no name", message(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{}}}`), 401, ""},
		{"prompts", message(`{"jsonrpc":"2.0","id":1,"method":"prompts/list"}`), 401, ""},
		{"resource", message(`{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"greet"}}`), 401, ""},
		{"prompt of that name", message(`{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"greet"}}`), 401, ""},
		{"subscription", message(`{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":{}}}`), 401, ""},
		{"logging", message(`{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"debug"}}`), 401, ""},
		{"unknown method", message(`{"jsonrpc":"2.0","id":1,"method":"tools/callx","params":{"name":"greet"}}`), 401, ""},
		{"response", message(`{"jsonrpc":"2.0","id":1,"result":{}}`), 401, ""},
		{"batch", message(`[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"greet"}},{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo"}}]`), 401, ""},
		{"two names", message(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"greet","name":"echo"}}`), 401, ""},
		{"not JSON", message(`{`), 401, ""},
		{"GET", func(r *http.Request) { r.Method = http.MethodGet }, 405, "keeps no sessions"},
		{"DELETE", func(r *http.Request) { r.Method = http.MethodDelete }, 405, "keeps no sessions"},
		{"GET with a bad token", func(r *http.Request) {
			r.Method = http.MethodGet
			r.Header.Set("Authorization", "Bearer garbage")
		}, 401, ""},
		{"form", func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }, 401, ""},
		{"other protocol", func(r *http.Request) { r.Header.Set("Mcp-Protocol-Version", "2024-11-05") }, 401, ""},
		{"bad token", func(r *http.Request) { r.Header.Set("Authorization", "Bearer garbage") }, 401, ""},
		{"header names another tool", func(r *http.Request) { r.Header.Set("Mcp-Name", "echo") }, 400, ""},
		{"body names another tool", func(r *http.Request) { setBody(r, body("echo", `{"message":"x"}`)) }, 401, ""},
		{"foreign page", func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }, 403, ""},
		{"token without a required scope", func(r *http.Request) { w.as(t, r, "user") }, 200, "Hello, World!"},
		{"list with a token without a required scope", func(r *http.Request) {
			message(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)(r)
			w.as(t, r, "user")
		}, 200, "greet"},
		{"closed tool, token without a required scope", func(r *http.Request) {
			call("echo")(r)
			w.as(t, r, "user")
		}, 403, ""},
		{"needs a scope, token without it", func(r *http.Request) {
			call("get_secret")(r)
			w.as(t, r, "user")
		}, 403, ""},
		{"prompts, token without a required scope", func(r *http.Request) {
			message(`{"jsonrpc":"2.0","id":1,"method":"prompts/list"}`)(r)
			w.as(t, r, "user")
		}, 403, ""},
	} {
		r := w.call(t, "greet", "{}")
		r.Header.Del("Authorization")
		tt.edit(r)
		got := serve(open, r)
		if got.Code != tt.status || !strings.Contains(got.Body.String(), tt.want) {
			t.Errorf("%s: status %d, want %d with %q: %s", tt.name, got.Code, tt.status, tt.want, got.Body)
		}
		if got.Code == http.StatusUnauthorized {
			if c := challenge(t, got); c["resource_metadata"] != metadataURL {
				t.Errorf("%s: challenge %v", tt.name, c)
			}
		}
	}
	r := w.call(t, "greet", "{}")
	r.Header.Del("Authorization")
	r.Body = unread{t}
	if got := serve(closed, r); got.Code != http.StatusUnauthorized {
		t.Errorf("without the option: status %d, want 401", got.Code)
	}
	r.Method = http.MethodGet
	if got := serve(closed, r); got.Code != http.StatusUnauthorized {
		t.Errorf("GET without the option: status %d, want 401", got.Code)
	}
}

// The SDK's client lists and calls without a token, with and without sessions; with a token
// it sees what the token allows.
func TestListWithoutTokenHasPublicTools_Row48(t *testing.T) {
	w := newWorld(t)
	w.options.Access.WithoutLogin("greet", "get_secret")
	h := w.handler(t)
	anonymous := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		r.Header.Del("Authorization")
		h.ServeHTTP(rw, r)
	})
	for _, version := range []string{"2026-07-28", "2025-11-25"} {
		if diff := cmp.Diff([]string{"greet"}, listed(t, w, anonymous, "", version)); diff != "" {
			t.Errorf("%s: without a token (-want +got):\n%s", version, diff)
		}
		if got := listed(t, w, h, "read", version); len(got) != 6 {
			t.Errorf("%s: with a token: %q", version, got)
		}
		session := connect(t, anonymous, "", version)
		res, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: "greet"})
		if err != nil || res.Content[0].(*sdk.TextContent).Text != "Hello, World!" {
			t.Errorf("%s: %v, %v", version, res, err)
		}
	}
}

// With a token they answer with the texts of the reference system.
func TestSampleToolsAnswerOnlyWithAToken_Row49(t *testing.T) {
	w := newWorld(t)
	h := w.handler(t)
	for _, tt := range []struct{ tool, arguments, scope, want string }{
		{"greet", `{}`, "read", "Hello, World!"},
		{"greet", `{"name":"World"}`, "read", "Hello, World!"},
		{"get_secret", `{"key":"api_key"}`, "read", "sk-secret-key-12345"},
		{"get_secret", `{"key":"database"}`, "read", "postgresql://user:pass@localhost/db"},
		{"get_secret", `{"key":"API_KEY"}`, "read", "Secret not found"},
		{"get_secret", `{"key":""}`, "read", "Secret not found"},
		{"admin_action", `{}`, "read admin", "Admin action done for alice"},
	} {
		if got := decode(t, serve(h, w.as(t, w.call(t, tt.tool, tt.arguments), tt.scope))); got.text() != tt.want {
			t.Errorf("%s(%s): %q, want %q", tt.tool, tt.arguments, got.text(), tt.want)
		}
		r := w.call(t, tt.tool, tt.arguments)
		r.Header.Del("Authorization")
		if got := serve(h, r); got.Code != http.StatusUnauthorized || strings.Contains(got.Body.String(), tt.want) {
			t.Errorf("%s(%s) without a token: status %d: %s", tt.tool, tt.arguments, got.Code, got.Body)
		}
	}
	w.options.Required = nil
	if got := serve(w.handler(t), w.as(t, w.call(t, "get_secret", `{"key":"api_key"}`), "user")); got.Code != http.StatusForbidden {
		t.Errorf("get_secret without read: status %d, want 403", got.Code)
	}
}
