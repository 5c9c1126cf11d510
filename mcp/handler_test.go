package mcp_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/admission"
	"signet/internal/oauth"
	"signet/jwt"
	"signet/mcp"
)

// The client is the SDK's own.
func TestToolsAnswerInAllProtocolVersions(t *testing.T) {
	w := newWorld(t)
	h := w.handler(t)
	for _, version := range []string{"2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26"} {
		t.Run(version, func(t *testing.T) {
			session := connect(t, h, w.token(t, nil), version)
			if got := session.InitializeResult().ProtocolVersion; version != protocol && got != version {
				t.Errorf("negotiated %s, want %s", got, version)
			}
			list, err := session.ListTools(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, tool := range list.Tools {
				names = append(names, tool.Name)
				if tool.Description == "" || tool.InputSchema == nil || !tool.Annotations.ReadOnlyHint {
					t.Errorf("%s lacks a description, a schema or the read-only hint", tool.Name)
				}
			}
			if diff := cmp.Diff([]string{"admin_action", "echo", "get_secret", "get_time", "greet", "whoami"}, names); diff != "" {
				t.Errorf("tools (-want +got):\n%s", diff)
			}
			for _, tt := range []struct {
				tool      string
				arguments map[string]any
				want      string
				isError   bool
			}{
				{"echo", map[string]any{"message": "hi"}, "Echo: hi", false},
				{"echo", nil, "required", true},
				{"greet", nil, "Hello, World!", false},
				{"greet", map[string]any{"name": "Ann"}, "Hello, Ann!", false},
				{"get_time", nil, time.Now().UTC().Format("2006-01-02T"), false},
				{"get_time", map[string]any{"timezone": "Mars/Olympus"}, `unknown time zone "Mars/Olympus"`, true},
				{"get_time", map[string]any{"timezone": "Local"}, "unknown time zone", true},
				{"get_time", map[string]any{"timezone": "../../etc/passwd"}, "unknown time zone", true},
				{"whoami", nil, `"sub":"alice"`, false},
			} {
				res, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: tt.tool, Arguments: tt.arguments})
				if err != nil {
					t.Errorf("%s: %v", tt.tool, err)
					continue
				}
				if got := res.Content[0].(*sdk.TextContent).Text; !strings.Contains(got, tt.want) || res.IsError != tt.isError {
					t.Errorf("%s(%v) = %q, error %t; want %q", tt.tool, tt.arguments, got, res.IsError, tt.want)
				}
			}
		})
	}
}

func TestWhoamiShowsTheClaims(t *testing.T) {
	w := newWorld(t)
	session := connect(t, w.handler(t), w.token(t, func(c *jwt.Claims) { c.Scope = "read write" }), "")
	res, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: "whoami"})
	if err != nil {
		t.Fatal(err)
	}
	got := res.StructuredContent.(map[string]any)
	expires, err := time.Parse(time.RFC3339, got["expires"].(string))
	if err != nil || time.Until(expires) > 5*time.Minute || time.Until(expires) < 4*time.Minute {
		t.Errorf("expires %v (%v)", got["expires"], err)
	}
	delete(got, "expires")
	if diff := cmp.Diff(map[string]any{"sub": "alice", "client_id": "c1", "scope": "read write"}, got); diff != "" {
		t.Errorf("whoami (-want +got):\n%s", diff)
	}
}

// A transport without tokens has no caller.
func TestWhoamiWithoutTokenIsAToolError(t *testing.T) {
	server := mcp.NewServer("test", "1")
	mcp.AddSampleTools(server, new(mcp.Access).Require)
	session := connectInMemory(t, server)
	res, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: "whoami"})
	if err != nil || !res.IsError {
		t.Errorf("result %+v, error %v; want a tool error", res, err)
	}
}

// A list may depend on the token, so no cache may share it.
func TestListsArePrivate(t *testing.T) {
	w := newWorld(t)
	session := connect(t, w.handler(t), w.token(t, nil), "")
	list, err := session.ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if list.CacheScope != "private" {
		t.Errorf("cacheScope %q, want private", list.CacheScope)
	}
}

// A program that authorizes a message by its headers, or with another JSON parser than the
// SDK's, must see the message that runs. Each row changes one thing of a good call of echo.
func TestAmbiguousMessagesReachNoTool_J09(t *testing.T) {
	for _, routed := range []bool{false, true} {
		t.Run(fmt.Sprintf("routed=%t", routed), func(t *testing.T) { ambiguousMessagesReachNoTool(t, routed) })
	}
}

func ambiguousMessagesReachNoTool(t *testing.T, routed bool) {
	w := newWorld(t)
	var ran atomic.Int32
	if routed {
		w.options.Server = mcp.NewRouterServer("test", "1")
		w.options.Router = router{route: func(_ context.Context, c *mcp.Call, _ func(json.RawMessage)) mcp.Reply {
			ran.Add(1)
			return echoed(c)
		}}
	}
	w.options.Server.AddReceivingMiddleware(func(next sdk.MethodHandler) sdk.MethodHandler {
		return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
			ran.Add(1)
			return next(ctx, method, req)
		}
	})
	h := w.handler(t)
	const args = `"arguments":{"message":"hi"}`
	good := body("echo", `{"message":"hi"}`)
	params := `"params":{"name":"echo",` + args + `,` + meta + `}`
	header := func(name string, lines ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header[name] = lines }
	}
	sends := func(body string) func(*http.Request) { return func(r *http.Request) { setBody(r, body) } }
	old := func(body string) func(*http.Request) {
		return func(r *http.Request) { legacy(r); setBody(r, body) }
	}
	encode := func(s string) string { return "=?base64?" + base64.StdEncoding.EncodeToString([]byte(s)) + "?=" }
	const mismatch, invalid, parse, badParams = sdk.CodeHeaderMismatch, jsonrpc.CodeInvalidRequest, jsonrpc.CodeParseError, jsonrpc.CodeInvalidParams
	tests := []struct {
		name string
		edit func(*http.Request)
		code int
	}{
		{"other Mcp-Method", header("Mcp-Method", "tools/list"), mismatch},
		{"no Mcp-Method", header("Mcp-Method"), mismatch},
		{"two Mcp-Method", header("Mcp-Method", "tools/call", "tools/list"), mismatch},
		{"other Mcp-Name", header("Mcp-Name", "whoami"), mismatch},
		{"Mcp-Name in other case", header("Mcp-Name", "Echo"), mismatch},
		{"no Mcp-Name", header("Mcp-Name"), mismatch},
		{"two Mcp-Name", header("Mcp-Name", "echo", "whoami"), mismatch},
		{"encoded other name", header("Mcp-Name", encode("whoami")), mismatch},
		{"not Base64", header("Mcp-Name", "=?base64?!?="), mismatch},
		{"Base64 with trailing bits", header("Mcp-Name", "=?base64?ZWNob3==?="), mismatch},
		{"encoded nothing", header("Mcp-Name", "=?base64??="), mismatch},
		{"two versions", header("Mcp-Protocol-Version", protocol, "2025-11-25"), mismatch},
		{"no version", header("Mcp-Protocol-Version"), mismatch},
		{"version of the other era", header("Mcp-Protocol-Version", "2025-11-25"), mismatch},
		{"a later version", header("Mcp-Protocol-Version", "2027-01-01"), mismatch},
		{"an earlier version", header("Mcp-Protocol-Version", "2025-03-26"), mismatch},
		{"a version before those", header("Mcp-Protocol-Version", "2024-11-05"), sdk.CodeUnsupportedProtocolVersion},
		{"name that looks encoded", func(r *http.Request) {
			setBody(r, strings.Replace(good, `"name":"echo"`, `"name":"=?base64?ZWNobw==?="`, 1))
			r.Header.Set("Mcp-Name", "=?base64?ZWNobw==?=")
		}, mismatch},

		{"batch", sends("[" + good + "]"), invalid},
		{"batch of the older protocol", old(`[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo",` + args + `}}]`), invalid},
		{"batch without a version", func(r *http.Request) {
			old(`[{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}]`)(r)
			r.Header.Del("Mcp-Protocol-Version")
		}, invalid},
		{"empty batch", sends("[]"), invalid},
		{"two messages", sends(good + good), parse},
		{"rubbish behind", sends(good + "x"), parse},
		{"byte order mark", sends("\ufeff" + good), parse},
		{"invalid UTF-8", sends(strings.Replace(good, "hi", "h\xff", 1)), parse},
		{"empty body", sends(""), parse},
		{"null", sends("null"), invalid},
		{"a string", sends(`"tools/call"`), invalid},
		{"method twice", old(`{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call",` + params + `}`), invalid},
		{"method twice, once escaped", old(`{"jsonrpc":"2.0","id":1,"method":"tools/list","m\u0065thod":"tools/call",` + params + `}`), invalid},
		{"Method besides method", old(`{"jsonrpc":"2.0","id":1,"Method":"tools/list","method":"tools/call",` + params + `}`), invalid},
		{"Method alone", old(`{"jsonrpc":"2.0","id":1,"Method":"tools/call",` + params + `}`), invalid},
		{"paramſ", old(`{"jsonrpc":"2.0","id":1,"method":"tools/call","paramſ":{},` + params + `}`), invalid},
		{"params twice", old(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"whoami"},` + params + `}`), invalid},
		{"name twice", old(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"whoami","name":"echo",` + args + `}}`), invalid},
		{"Name besides name", old(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"Name":"whoami","name":"echo",` + args + `}}`), invalid},
		{"arguments twice", old(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{},` + args + `}}`), invalid},
		{"version in meta twice", sends(strings.Replace(good, `"_meta":{`, `"_meta":{"io.modelcontextprotocol/protocolVersion":"2025-11-25",`, 1)), invalid},
		{"no capabilities of the client", sends(strings.Replace(good, `,"io.modelcontextprotocol/clientCapabilities":{}`, "", 1)), badParams},
		{"params is an array", old(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["echo"]}`), invalid},
		{"name is a number", old(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":1}}`), badParams},
		{"method is null", old(`{"jsonrpc":"2.0","id":1,"method":null,` + params + `}`), invalid},
		{"method and result", old(`{"jsonrpc":"2.0","id":1,"method":"tools/call",` + params + `,"result":{}}`), invalid},
		{"method and error", old(`{"jsonrpc":"2.0","id":1,"method":"tools/call",` + params + `,"error":{}}`), invalid},
		{"id is an object", old(`{"jsonrpc":"2.0","id":{},"method":"tools/call",` + params + `}`), invalid},
		{"id out of range", old(`{"jsonrpc":"2.0","id":1e999,"method":"tools/call",` + params + `}`), invalid},
		{"too many members", old(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{` + manyMembers(300) + `}}`), invalid},
	}
	for _, tt := range tests {
		r := w.call(t, "echo", `{"message":"hi"}`)
		tt.edit(r)
		got := serve(h, r)
		if got.Code != http.StatusBadRequest {
			t.Errorf("%s: status %d, want 400: %s", tt.name, got.Code, got.Body)
			continue
		}
		if code := decode(t, got).code(t); code != tt.code {
			t.Errorf("%s: code %d, want %d: %s", tt.name, code, tt.code, got.Body)
		}
	}
	if ran.Load() != 0 {
		t.Errorf("%d refused messages ran", ran.Load())
	}
	okMessagesRun(t, w, h, good)
}

// okMessagesRun sends messages whose form is unusual, and not ambiguous.
func okMessagesRun(t *testing.T, w *world, h http.Handler, good string) {
	t.Helper()
	header := func(name string, lines ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header[name] = lines }
	}
	sends := func(body string) func(*http.Request) { return func(r *http.Request) { setBody(r, body) } }
	old := func(body string) func(*http.Request) {
		return func(r *http.Request) { legacy(r); setBody(r, body) }
	}
	encode := func(s string) string { return "=?base64?" + base64.StdEncoding.EncodeToString([]byte(s)) + "?=" }
	r := w.call(t, "echo", "{}")
	old(`{"jsonrpc":"2.0","id":1,"method":"ping","params":null}`)(r)
	if got := serve(h, r); got.Code != http.StatusOK {
		t.Errorf("params is null: status %d, want 200: %s", got.Code, got.Body)
	}
	for name, edit := range map[string]func(*http.Request){
		"as it is":         func(*http.Request) {},
		"older protocol":   legacy,
		"encoded name":     header("Mcp-Name", encode("echo")),
		"Last-Event-ID":    header("Last-Event-Id", "x_1"),
		"a session":        header("Mcp-Session-Id", "x"),
		"space around":     sends("\r\n " + strings.ReplaceAll(good, ",", "\t,\n ") + "\n"),
		"escaped name":     sends(strings.Replace(good, `"echo"`, `"\u0065cho"`, 1)),
		"charset":          header("Content-Type", "application/json; charset=utf-8"),
		"another argument": sends(strings.Replace(good, `"message"`, `"Message":1,"message"`, 1)),
	} {
		r := w.call(t, "echo", `{"message":"hi"}`)
		edit(r)
		got := serve(h, r)
		if got.Code != http.StatusOK {
			t.Errorf("%s: status %d, want 200: %s", name, got.Code, got.Body)
			continue
		}
		if reply := decode(t, got); reply.text() != "Echo: hi" && name != "another argument" {
			t.Errorf("%s: %s", name, got.Body)
		}
	}
}

func manyMembers(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(`"k%d":%d`, i, i)
	}
	return strings.Join(list, ",")
}

func TestNameOutsideASCIIIsSentEncoded(t *testing.T) {
	w := newWorld(t)
	w.options.Server.AddPrompt(&sdk.Prompt{Name: "grüße"}, func(context.Context, *sdk.GetPromptRequest) (*sdk.GetPromptResult, error) {
		return &sdk.GetPromptResult{Description: "found"}, nil
	})
	r := w.call(t, "echo", "{}")
	r.Header.Set("Mcp-Method", "prompts/get")
	r.Header.Set("Mcp-Name", "=?base64?"+base64.StdEncoding.EncodeToString([]byte("grüße"))+"?=")
	setBody(r, `{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"grüße",`+meta+`}}`)
	if got := serve(w.handler(t), r); got.Code != http.StatusOK || !strings.Contains(got.Body.String(), "found") {
		t.Errorf("status %d: %s", got.Code, got.Body)
	}
}

func TestUnsupportedVersionNamesTheSupportedOnes(t *testing.T) {
	w := newWorld(t)
	r := w.call(t, "echo", "{}")
	legacy(r)
	r.Header.Set("Mcp-Protocol-Version", "2024-11-05")
	got := serve(w.handler(t), r)
	var e struct {
		Data sdk.UnsupportedProtocolVersionData
	}
	if err := json.Unmarshal(decode(t, got).Error, &e); err != nil {
		t.Fatal(err)
	}
	want := sdk.UnsupportedProtocolVersionData{Supported: []string{"2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26"}, Requested: "2024-11-05"}
	if diff := cmp.Diff(want, e.Data); diff != "" {
		t.Errorf("data (-want +got):\n%s", diff)
	}
}

// Each row changes one thing of a good request.
func TestWrongFormsOfRequestsAreRefused_J10(t *testing.T) {
	w := newWorld(t)
	h := w.handler(t)
	huge := body("echo", `{"message":"`+strings.Repeat("x", 4<<20)+`"}`)
	for _, tt := range []struct {
		name   string
		edit   func(*http.Request)
		status int
	}{
		{"GET", func(r *http.Request) { r.Method = "GET" }, 405},
		{"DELETE", func(r *http.Request) { r.Method = "DELETE" }, 405},
		{"HEAD", func(r *http.Request) { r.Method = "HEAD" }, 405},
		{"J10: text", func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, 415},
		{"J10: no type", func(r *http.Request) { r.Header.Del("Content-Type") }, 415},
		{"J10: form", func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }, 415},
		{"declared too large", func(r *http.Request) { setBody(r, huge); r.Body = unread{t} }, 413},
		{"chunked too large", func(r *http.Request) { setBody(r, huge); r.ContentLength = -1 }, 413},
		{"ends early", func(r *http.Request) { r.Body = io.NopCloser(io.MultiReader(strings.NewReader("{"), failing{})) }, 400},
	} {
		r := w.call(t, "echo", `{"message":"hi"}`)
		tt.edit(r)
		got := serve(h, r)
		if got.Code != tt.status {
			t.Errorf("%s: status %d, want %d", tt.name, got.Code, tt.status)
		}
		if allow := got.Header().Get("Allow"); (allow == "POST, OPTIONS") != (tt.status == 405) {
			t.Errorf("%s: Allow %q", tt.name, allow)
		}
		decode(t, got)
	}
}

// unread is a body that must not be read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) { u.t.Error("the body was read"); return 0, io.EOF }
func (u unread) Close() error             { return nil }

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// They are refused with a token and without.
func TestForeignOriginsAndReboundHostsAreRefused_J10(t *testing.T) {
	w := newWorld(t)
	public := w.handler(t)
	w.options.Resource = "http://localhost:8080/mcp"
	w.options.Verifier = w.verifier(t, w.options.Resource)
	w.options.Server = mcp.NewServer("test", "1")
	mcp.AddSampleTools(w.options.Server, w.options.Access.Require)
	local := w.handler(t)
	for _, tt := range []struct {
		name, resource string
		h              http.Handler
		host           string
		origins        []string
		status         int
	}{
		{"program", resource, public, "mcp.example", nil, 200},
		{"configured", resource, public, "mcp.example", []string{"https://app.example"}, 200},
		{"behind a proxy", resource, public, "10.0.0.7:8080", nil, 200},
		{"foreign", resource, public, "mcp.example", []string{"https://evil.example"}, 403},
		{"opaque", resource, public, "mcp.example", []string{"null"}, 403},
		{"other port", resource, public, "mcp.example", []string{"https://app.example:8443"}, 403},
		{"other scheme", resource, public, "mcp.example", []string{"http://app.example"}, 403},
		{"suffix", resource, public, "mcp.example", []string{"https://app.example.evil.example"}, 403},
		{"two", resource, public, "mcp.example", []string{"https://app.example", "https://evil.example"}, 403},
		{"the same twice", resource, public, "mcp.example", []string{"https://app.example", "https://app.example"}, 403},
		{"loopback calls public", resource, public, "mcp.example", []string{"http://localhost:3000"}, 403},

		{"local program", w.options.Resource, local, "localhost:8080", nil, 200},
		{"local by address", w.options.Resource, local, "127.0.0.1:8080", nil, 200},
		{"local by IPv6", w.options.Resource, local, "[::1]:8080", nil, 200},
		{"local without port", w.options.Resource, local, "[::1]", nil, 200},
		{"local page", w.options.Resource, local, "localhost:8080", []string{"http://127.0.0.1:6274"}, 200},
		{"rebound", w.options.Resource, local, "evil.test:8080", nil, 403},
		{"rebound page", w.options.Resource, local, "evil.test:8080", []string{"http://evil.test:8080"}, 403},
		{"rebound to look local", w.options.Resource, local, "localhost.evil.test", nil, 403},
		{"no host", w.options.Resource, local, "", nil, 403},
		{"foreign page", w.options.Resource, local, "localhost:8080", []string{"https://evil.example"}, 403},
		{"page that looks local", w.options.Resource, local, "localhost:8080", []string{"http://localhost:80@evil.example"}, 403},
		{"page with a path", w.options.Resource, local, "localhost:8080", []string{"http://localhost/x"}, 403},
		{"page of an extension", w.options.Resource, local, "localhost:8080", []string{"chrome-extension://localhost"}, 403},
	} {
		for _, authorized := range []bool{true, false} {
			r := w.call(t, "whoami", "{}")
			r.Host = tt.host
			r.Header["Origin"] = tt.origins
			want := tt.status
			if authorized {
				r.Header.Set("Authorization", "Bearer "+w.token(t, func(c *jwt.Claims) { c.Audience = tt.resource }))
			} else if r.Header.Del("Authorization"); want == 200 {
				want = 401
			}
			got := serve(tt.h, r)
			if got.Code != want {
				t.Errorf("%s: authorized %t: status %d, want %d", tt.name, authorized, got.Code, want)
			}
			allowed := got.Header().Get("Access-Control-Allow-Origin")
			if tt.status == 200 && len(tt.origins) == 1 {
				if allowed != tt.origins[0] || !strings.Contains(got.Header().Get("Access-Control-Expose-Headers"), "WWW-Authenticate") {
					t.Errorf("%s: the page cannot read the answer: %v", tt.name, got.Header())
				}
			} else if allowed != "" {
				t.Errorf("%s: Access-Control-Allow-Origin %q", tt.name, allowed)
			}
			if got.Header().Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%s: credentials allowed", tt.name)
			}
		}
	}
}

// The proxy is on the same machine.
func TestLocalProxyMayPassThePublicHost(t *testing.T) {
	w := newWorld(t)
	srv := httptest.NewServer(w.handler(t))
	defer srv.Close()
	r := w.call(t, "greet", "{}")
	req, err := http.NewRequest(http.MethodPost, srv.URL, r.Body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header, req.Host = r.Header, "mcp.example"
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("status %d, want 200", res.StatusCode)
	}
}

func TestToolLearnsThatItsCallerHungUp(t *testing.T) {
	w := newWorld(t)
	started, ended := make(chan bool), make(chan bool, 1)
	w.options.Server.AddTool(&sdk.Tool{Name: "waits", InputSchema: json.RawMessage(`{"type":"object"}`)},
		func(ctx context.Context, _ *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			close(started)
			select {
			case <-ctx.Done():
				ended <- true
			case <-time.After(10 * time.Second):
				ended <- false
			}
			return nil, ctx.Err()
		})
	ctx, hangUp := context.WithCancel(t.Context())
	go func() {
		<-started
		hangUp()
	}()
	serve(w.handler(t), w.call(t, "waits", "{}").WithContext(ctx))
	if !<-ended {
		t.Error("the context of the tool has not ended")
	}
}

// The version is negotiated in the body, whatever a header says. Nothing is offered that
// needs a session.
func TestInitializeOffersASupportedVersionAndNoSession(t *testing.T) {
	w := newWorld(t)
	h := w.handler(t)
	for asked, want := range map[string]string{
		"2025-11-25": "2025-11-25", "2025-06-18": "2025-06-18", "2025-03-26": "2025-03-26",
		"2024-11-05": "2025-11-25", "2026-07-28": "2025-11-25", "2027-01-01": "2025-11-25", "1": "2025-11-25", "": "2025-11-25",
	} {
		for _, header := range []string{"", "2025-03-26", "2025-11-25", "2026-07-28", "2024-11-05", "2027-01-01", "DRAFT-2026-v1", "x"} {
			r := w.call(t, "echo", "{}")
			legacy(r)
			r.Header.Set("Mcp-Protocol-Version", header)
			if header == "" {
				r.Header.Del("Mcp-Protocol-Version")
			}
			setBody(r, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"`+asked+`","clientInfo":{"name":"c","version":"1"},"capabilities":{}}}`)
			got := serve(h, r)
			var answer struct {
				Result struct {
					ProtocolVersion string
					Capabilities    map[string]any
				}
			}
			if err := json.Unmarshal(got.Body.Bytes(), &answer); err != nil || got.Code != http.StatusOK {
				t.Fatalf("%q with the header %q: status %d: %s", asked, header, got.Code, got.Body)
			}
			if v := answer.Result.ProtocolVersion; v != want {
				t.Errorf("%q with the header %q: version %q, want %s", asked, header, v, want)
			}
			if _, ok := answer.Result.Capabilities["logging"]; ok || answer.Result.Capabilities["tools"] == nil {
				t.Errorf("capabilities %v, want tools and no logging", answer.Result.Capabilities)
			}
			if id := got.Header().Get("Mcp-Session-Id"); id != "" {
				t.Errorf("session %q", id)
			}
		}
	}
}

func TestPreflightAllowsMCPHeaders(t *testing.T) {
	w := newWorld(t)
	h := w.handler(t)
	r := httptest.NewRequest(http.MethodOptions, resource, nil)
	r.Header.Set("Origin", "https://app.example")
	r.Header.Set("Access-Control-Request-Method", "POST")
	r.Header.Set("Access-Control-Request-Headers", "authorization,mcp-param-region, Mcp-Param-Zone,x-other,mcp-param-a b")
	got := serve(h, r)
	if got.Code != http.StatusNoContent {
		t.Fatalf("status %d, want 204", got.Code)
	}
	want := map[string]string{
		"Access-Control-Allow-Origin":      "https://app.example",
		"Access-Control-Allow-Methods":     "POST, GET, DELETE",
		"Access-Control-Allow-Headers":     "authorization, content-type, accept, mcp-protocol-version, mcp-method, mcp-name, mcp-session-id, last-event-id, " + oauth.TracingHeaders + ", mcp-param-region, mcp-param-zone",
		"Access-Control-Allow-Credentials": "",
		"Www-Authenticate":                 "",
	}
	for name, value := range want {
		if got := got.Header().Get(name); got != value {
			t.Errorf("%s: %q, want %q", name, got, value)
		}
	}
	if vary := strings.Join(got.Header().Values("Vary"), ", "); !strings.Contains(vary, "Origin") {
		t.Errorf("Vary: %q", vary)
	}

	r.Header.Set("Origin", "https://evil.example")
	if got := serve(h, r); got.Code != http.StatusForbidden || got.Header().Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("foreign page: status %d, %v", got.Code, got.Header())
	}
	r.Header.Del("Origin")
	if got := serve(h, r); got.Code != http.StatusNoContent || got.Header().Get("Access-Control-Allow-Headers") != "" {
		t.Errorf("no page: status %d, %v", got.Code, got.Header())
	}
}

// A web client on this machine, such as the MCP Inspector, may send to an endpoint on this
// machine the headers of both protocols, and read the headers that it needs. A public
// endpoint allows configured origins only.
func TestLocalBrowserClientsReachLocalEndpoints_Row20(t *testing.T) {
	w := newWorld(t)
	public := w.endpoint(t)
	w.options.Resource = "http://localhost:8080/mcp"
	w.options.Verifier = w.verifier(t, w.options.Resource)
	w.options.Origins = []string{"http://localhost:8080"}
	local := w.endpoint(t)
	const asked = "authorization,content-type,accept,mcp-protocol-version,mcp-method,mcp-name,mcp-param-region,mcp-session-id,last-event-id,traceparent,tracestate,baggage,sentry-trace,x-requested-with"
	for _, tt := range []struct {
		name, origin string
		e            *mcp.Endpoint
		host         string
		allowed      bool
	}{
		{"Inspector", "http://localhost:6274", local, "localhost:8080", true},
		{"Inspector by address", "http://127.0.0.1:6274", local, "127.0.0.1:8080", true},
		{"Inspector by IPv6", "http://[::1]:6274", local, "localhost:8080", true},
		{"the issuer's pages", "http://localhost:8080", local, "localhost:8080", true},
		{"a public page", "https://app.example", local, "localhost:8080", false},
		{"a page named like Inspector's", "http://localhost.evil.example:6274", local, "localhost:8080", false},
		{"Inspector and a public server", "http://localhost:6274", public, "mcp.example", false},
		{"a configured page and a public server", "https://app.example", public, "mcp.example", true},
	} {
		for path, h := range map[string]http.Handler{"/mcp": tt.e, "/tools/greet": tt.e.Tools()} {
			r := httptest.NewRequest(http.MethodOptions, path, nil)
			r.Host = tt.host
			r.Header.Set("Origin", tt.origin)
			r.Header.Set("Access-Control-Request-Method", "POST")
			r.Header.Set("Access-Control-Request-Headers", asked)
			got := serve(h, r)
			if !tt.allowed {
				if got.Code != http.StatusForbidden || got.Header().Get("Access-Control-Allow-Origin") != "" {
					t.Errorf("%s: %s: status %d, %v", tt.name, path, got.Code, got.Header())
				}
				continue
			}
			if got.Code != http.StatusNoContent || got.Header().Get("Access-Control-Allow-Origin") != tt.origin {
				t.Errorf("%s: %s: preflight: status %d, %v", tt.name, path, got.Code, got.Header())
			}
			allowed := strings.Split(got.Header().Get("Access-Control-Allow-Headers"), ", ")
			for name := range strings.SplitSeq(asked, ",") {
				if !slices.Contains(allowed, name) {
					t.Errorf("%s: %s: %s is not among the allowed %q", tt.name, path, name, allowed)
				}
			}
			r.Method = http.MethodPost // without a token: the page must see where to get one
			got = serve(h, r)
			exposed := strings.Split(got.Header().Get("Access-Control-Expose-Headers"), ", ")
			for _, name := range []string{"WWW-Authenticate", "Retry-After", "Mcp-Session-Id", "MCP-Protocol-Version"} {
				if got.Code != http.StatusUnauthorized || got.Header().Get("Access-Control-Allow-Origin") != tt.origin || !slices.Contains(exposed, name) {
					t.Errorf("%s: %s: status %d, exposed %q, want %s", tt.name, path, got.Code, exposed, name)
				}
			}
			if got.Header().Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%s: %s: credentials allowed", tt.name, path)
			}
		}
	}
}

// All calls have the same JSON-RPC id.
func TestConcurrentCallsGetTheirOwnAnswers_J13(t *testing.T) {
	w := newWorld(t)
	srv := httptest.NewServer(w.handler(t))
	defer srv.Close()
	transport := &http.Transport{MaxIdleConnsPerHost: 32}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	const users, calls = 50, 20
	var group sync.WaitGroup
	for u := range users {
		name := fmt.Sprintf("user-%d", u)
		token := w.token(t, func(c *jwt.Claims) { c.Subject = name })
		for c := range calls {
			r := w.call(t, "whoami", "{}")
			if c%2 == 1 {
				legacy(r)
				setBody(r, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"whoami"}}`)
			}
			req, err := http.NewRequest(http.MethodPost, srv.URL, r.Body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header = r.Header
			req.Header.Set("Authorization", "Bearer "+token)
			group.Go(func() {
				res, err := client.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				defer res.Body.Close()
				body, err := io.ReadAll(res.Body)
				if err != nil || !bytes.Contains(body, []byte(`"sub":"`+name+`"`)) || bytes.Count(body, []byte("user-")) != bytes.Count(body, []byte(name+`\"`))+bytes.Count(body, []byte(name+`"`)) {
					t.Errorf("%s got %s (%v)", name, body, err)
				}
			})
		}
	}
	group.Wait()
}

func TestPanickingToolFailsItsCallOnly_L17(t *testing.T) {
	w := newWorld(t)
	schema := json.RawMessage(`{"type":"object"}`)
	w.options.Server.AddTool(&sdk.Tool{Name: "panics", InputSchema: schema}, func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		panic("secret plan")
	})
	w.options.Server.AddTool(&sdk.Tool{Name: "nothing", InputSchema: schema}, func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		return nil, nil
	})
	h := w.handler(t)
	// This middleware is added after Handler, and contained all the same.
	w.options.Server.AddReceivingMiddleware(func(next sdk.MethodHandler) sdk.MethodHandler {
		return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
			if method == "tools/list" {
				panic("no list")
			}
			return next(ctx, method, req)
		}
	})
	for _, version := range []string{"2026-07-28", "2025-11-25"} {
		session := connect(t, h, w.token(t, nil), version)
		for _, tool := range []string{"panics", "nothing"} {
			_, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: tool})
			if e, ok := errors.AsType[*jsonrpc.Error](err); !ok || e.Code != jsonrpc.CodeInternalError || strings.Contains(e.Message, "secret") {
				t.Errorf("%s: %s: error %v, want an internal error", version, tool, err)
			}
		}
		if _, err := session.ListTools(t.Context(), nil); err == nil || strings.Contains(err.Error(), "no list") {
			t.Errorf("%s: tools/list: error %v, want an internal error", version, err)
		}
		if _, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: "greet"}); err != nil {
			t.Errorf("%s: after the panic: %v", version, err)
		}
	}
	for _, want := range []string{"secret plan", "no list", "handler_test.go", "neither a result nor an error"} {
		if !strings.Contains(w.log.String(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
}

// The SDK drops such results, and the calls would never end.
func TestResultsThatCannotBeEncodedAreInternalErrors(t *testing.T) {
	w := newWorld(t)
	nan := sdk.Meta{"mean": math.NaN()}
	schema := json.RawMessage(`{"type":"object"}`)
	tools := map[string]*sdk.CallToolResult{
		"number":      {StructuredContent: map[string]any{"mean": math.NaN()}},
		"channel":     {StructuredContent: make(chan int)},
		"meta":        {Meta: sdk.Meta{"mean": math.Inf(1)}},
		"text":        {Content: []sdk.Content{&sdk.TextContent{Text: "x", Meta: nan}}},
		"image":       {Content: []sdk.Content{&sdk.ImageContent{Meta: nan}}},
		"annotations": {Content: []sdk.Content{&sdk.TextContent{Annotations: &sdk.Annotations{Priority: math.NaN()}}}},
		"link":        {Content: []sdk.Content{&sdk.ResourceLink{Meta: nan}}},
	}
	for name, res := range tools {
		w.options.Server.AddTool(&sdk.Tool{Name: name, InputSchema: schema}, func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			return res, nil
		})
	}
	w.options.Server.AddTool(&sdk.Tool{Name: "fine", InputSchema: schema}, func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		return &sdk.CallToolResult{
			Meta:              sdk.Meta{"k": 1},
			Content:           []sdk.Content{&sdk.TextContent{Text: "x", Meta: sdk.Meta{"k": 2}}},
			StructuredContent: struct{ Mean float64 }{1.5},
		}, nil
	})
	w.options.Server.AddResource(&sdk.Resource{URI: "x://1", Name: "r"}, func(context.Context, *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
		return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{{URI: "x://1", Meta: nan}}}, nil
	})
	w.options.Server.AddPrompt(&sdk.Prompt{Name: "p"}, func(context.Context, *sdk.GetPromptRequest) (*sdk.GetPromptResult, error) {
		return &sdk.GetPromptResult{Meta: nan}, nil
	})
	h := w.handler(t)
	for _, version := range []string{"2026-07-28", "2025-11-25"} {
		session := connect(t, h, w.token(t, nil), version)
		wantInternal := func(name string, call func(context.Context) error) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			err := call(ctx)
			if e, ok := errors.AsType[*jsonrpc.Error](err); !ok || e.Code != jsonrpc.CodeInternalError {
				t.Errorf("%s: %s: error %v, want an internal error", version, name, err)
			}
		}
		for name := range tools {
			wantInternal(name, func(ctx context.Context) error {
				_, err := session.CallTool(ctx, &sdk.CallToolParams{Name: name})
				return err
			})
		}
		wantInternal("resource", func(ctx context.Context) error {
			_, err := session.ReadResource(ctx, &sdk.ReadResourceParams{URI: "x://1"})
			return err
		})
		wantInternal("prompt", func(ctx context.Context) error {
			_, err := session.GetPrompt(ctx, &sdk.GetPromptParams{Name: "p"})
			return err
		})
		res, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: "fine"})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]any{"Mean": 1.5}, res.StructuredContent); diff != "" || res.Meta["k"] != 1.0 {
			t.Errorf("%s: meta %v, structured content (-want +got):\n%s", version, res.Meta, diff)
		}
	}
	if !strings.Contains(w.log.String(), "NaN") {
		t.Error("the log does not say why")
	}
}

func TestContainWithoutLogger(t *testing.T) {
	server := mcp.NewServer("test", "1")
	server.AddTool(&sdk.Tool{Name: "panics", InputSchema: json.RawMessage(`{"type":"object"}`)}, func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		panic("no log")
	})
	server.AddReceivingMiddleware(mcp.Contain(nil))
	_, err := connectInMemory(t, server).CallTool(t.Context(), &sdk.CallToolParams{Name: "panics"})
	if e, ok := errors.AsType[*jsonrpc.Error](err); !ok || e.Code != jsonrpc.CodeInternalError {
		t.Errorf("error %v, want an internal error", err)
	}
}

func TestSubscriptionEndsWithItsToken(t *testing.T) {
	w := newWorld(t)
	w.options.Admission = admission.NewClass("mcp", 1)
	srv := httptest.NewServer(w.handler(t))
	t.Cleanup(srv.Close)
	token := w.token(t, func(c *jwt.Claims) { c.IssuedAt -= 354; c.ExpiresAt = c.IssuedAt + 300 })
	start := time.Now()
	res := w.subscribe(t, srv.URL, token)
	if n := w.options.Admission.Stats().Running; n != 0 {
		t.Error("the stream holds a slot")
	}
	stream, err := io.ReadAll(res.Body)
	if err != nil || !bytes.Contains(stream, []byte("acknowledged")) {
		t.Errorf("status %d, stream %q, %v", res.StatusCode, stream, err)
	}
	if d := time.Since(start); d > 15*time.Second {
		t.Errorf("the stream ended after %v, want at most 15 s", d)
	}
}

func TestHandlerRefusesToStart(t *testing.T) {
	for name, edit := range map[string]func(*mcp.Options){
		"no verifier":          func(o *mcp.Options) { o.Verifier = nil },
		"no server":            func(o *mcp.Options) { o.Server = nil },
		"relative resource":    func(o *mcp.Options) { o.Resource = "/mcp" },
		"fragment":             func(o *mcp.Options) { o.Resource = resource + "#x" },
		"origin with a path":   func(o *mcp.Options) { o.Origins = []string{"https://app.example/"} },
		"any origin":           func(o *mcp.Options) { o.Origins = []string{"*"} },
		"origin without host":  func(o *mcp.Options) { o.Origins = []string{"https://"} },
		"origin without colon": func(o *mcp.Options) { o.Origins = []string{"app.example"} },
		"switches of the SDK":  func(*mcp.Options) { t.Setenv("MCPGODEBUG", "allowsessionsinstateless=1") },
	} {
		o := newWorld(t).options
		t.Setenv("MCPGODEBUG", "")
		edit(&o)
		if _, err := mcp.Handler(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// The message that is authorized is the one that the SDK runs.
func FuzzInspect(f *testing.F) {
	for _, seed := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"Name":"b"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"prompts/get","method":"tools/call","params":{"name":"a"}}`,
		`{"jsonrpc":"2.0","id":1,"Method":"tools/list","method":"tools/call","params":{"name":"a"}}`,
		`{"jsonrpc":"2.0","id":1,"m\u0065thod":"tools\/call","params":{"n\u0061me":"\ud83d\ude00\ud83d"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///a","name":"x"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":null}`,
		`[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}]`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/list"}{"jsonrpc":"2.0","id":1,"method":"tools/call"}`,
		` {"a":[{"b":"]}\""},1e5],"jsonrpc":"2.0", "id":"x" ,"method":"tools/call","params":{ } } `,
	} {
		f.Add([]byte(seed))
	}
	type run struct{ method, name string }
	ran := make(chan run, 1)
	server := mcp.NewServer("test", "1")
	server.AddReceivingMiddleware(func(sdk.MethodHandler) sdk.MethodHandler {
		return func(_ context.Context, method string, req sdk.Request) (sdk.Result, error) {
			got := run{method: method}
			switch p := req.GetParams().(type) {
			case *sdk.CallToolParamsRaw:
				got.name = p.Name
			case *sdk.GetPromptParams:
				got.name = p.Name
			case *sdk.ReadResourceParams:
				got.name = p.URI
			case *sdk.SubscribeParams:
				got.name = p.URI
			case *sdk.UnsubscribeParams:
				got.name = p.URI
			}
			ran <- got
			return nil, errors.New("seen")
		}
	})
	h := sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return server },
		&sdk.StreamableHTTPOptions{Stateless: true, JSONResponse: true})
	f.Fuzz(func(t *testing.T, body []byte) {
		method, name, ok := mcp.Inspect(body)
		if !ok {
			return
		}
		r := httptest.NewRequest(http.MethodPost, resource, bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "application/json, text/event-stream")
		r.Header.Set("Mcp-Protocol-Version", "2025-11-25")
		serve(h, r)
		select {
		case got := <-ran:
			if want := (run{method, name}); got != want {
				t.Fatalf("inspect read %q, the SDK ran %q", want, got)
			}
		default: // refused, or a response
		}
	})
}
