package backend_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/backend"
	"signet/internal/test/backends"
)

// Both kinds of messages reach servers of both eras, at an endpoint with a path, with their bytes as
// they are.
func TestBothErasBothWays_Row78_Probe14(t *testing.T) {
	const arguments = `{"n":10000000000000001,"b":1.0,"a":"\u00e9"}`
	for _, legacy := range []bool{false, true} {
		m := backends.New(t, backends.Options{Path: "/deep/mcp", Legacy: legacy})
		b := open(t, at(m.Endpoint()))
		for _, call := range []backend.Message{callOf("echo", arguments), modern(callOf("echo", arguments))} {
			got := mustDo(t, b, call)
			if want := `\"n\":10000000000000001,\"b\":1.0,\"a\":\"\\u00e9\"`; !strings.Contains(got, want) {
				t.Errorf("legacy %v: %s, want %s in it", legacy, got, want)
			}
			if call.Modern && !strings.Contains(got, `"resultType":"complete"`) {
				t.Errorf("legacy %v: a modern caller got %s", legacy, got)
			}
		}
		want := map[bool]string{false: "2026-07-28", true: "2025-11-25"}[legacy]
		if got := b.State().Era; got != want {
			t.Errorf("era %s, want %s", got, want)
		}
		checkHeaders(t, m, want)
	}
}

// checkHeaders looks for headers that nobody has asked for.
func checkHeaders(t *testing.T, m *backends.MCP, version string) {
	t.Helper()
	allowed := map[string]bool{"Accept": true, "Accept-Encoding": true, "Authorization": true, "Content-Length": true, "Content-Type": true, "Host": true,
		"Mcp-Method": true, "Mcp-Name": true, "Mcp-Protocol-Version": true, "Mcp-Session-Id": true, "User-Agent": true}
	calls := m.Calls()
	if len(calls) != 2 {
		t.Fatalf("%d calls reached the server", len(calls))
	}
	for _, r := range calls {
		for name := range r.Header {
			if !allowed[name] {
				t.Errorf("header %s: %s", name, r.Header[name])
			}
		}
		if r.Path != "/deep/mcp" || r.Header.Get("Mcp-Protocol-Version") != version || r.Bearer() != "good" || r.Header.Get("User-Agent") != "signet/test" || r.Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("%s %v", r.Path, r.Header)
		}
	}
}

// A session of a server belongs to one caller, is used again, and opened anew when the server has
// lost it.
func TestSessions(t *testing.T) {
	m := backends.New(t, backends.Options{Legacy: true})
	b := open(t, at(m.Endpoint()))
	bob := callOf("write", `{}`)
	bob.Session = "grant-2"
	sessions := map[string]string{}
	for range 2 {
		for _, call := range []backend.Message{callOf("write", `{}`), bob} {
			mustDo(t, b, call)
			calls := m.Calls()
			id := calls[len(calls)-1].Header.Get("Mcp-Session-Id")
			if before := sessions[call.Session]; id == "" || before != "" && before != id {
				t.Errorf("session %q after %q", id, before)
			}
			sessions[call.Session] = id
		}
	}
	if sessions["grant-1"] == sessions["grant-2"] {
		t.Error("two callers have one session")
	}
	for s := range m.SDK.Sessions() {
		s.Close()
	}
	m.Forget()
	mustDo(t, b, callOf("write", `{}`))
	if n := len(m.Calls()); n > 2 {
		t.Errorf("%d calls after the server lost its sessions", n)
	}
	b2 := open(t, at(m.Endpoint()))
	mustDo(t, b2, callOf("write", `{}`))
	if err := b2.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(m.Log(), "DELETE /mcp") {
		t.Error("the end of a session is not told")
	}
}

// Requests ask for answers without a coding, by both transports: a long one leaves plainhttp. The
// error about an answer in another one names it, if it is known.
func TestContentEncoding(t *testing.T) {
	for coding, want := range map[string]string{
		"": "", "identity": "", "gzip": "its Content-Encoding is gzip, not identity", "BR": "its Content-Encoding is br, not identity",
		backends.Canary: "its Content-Encoding is not identity", "gzip, gzip": "its Content-Encoding is not identity",
	} {
		for kind, prefix := range map[string]string{"application/json": "", "text/event-stream": "data: "} {
			asked := make(chan string, 8)
			h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var m struct{ ID json.RawMessage }
				_ = json.NewDecoder(r.Body).Decode(&m)
				result := `{"supportedVersions":["2026-07-28"]}`
				if r.Header.Get("Mcp-Method") == "tools/call" {
					result = `{"content":[]}`
					asked <- strings.Join(r.Header["Accept-Encoding"], ", ")
					w.Header().Set("Content-Encoding", coding)
				}
				w.Header().Set("Content-Type", kind)
				io.WriteString(w, prefix+`{"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":`+result+"}\n\n")
			}))
			defer h.Close()
			b := open(t, at(h.URL))
			for _, argument := range []string{"", strings.Repeat("x", 100_000)} {
				call := callOf("echo", `{"x":"`+argument+`"}`)
				if want == "" {
					mustDo(t, b, call)
				} else if e := failure(t, b, call); e.Kind != backend.Malformed || !strings.HasSuffix(e.Error(), ": "+want) {
					t.Errorf("%q: %v", coding, e)
				}
			}
			if len(asked) != 2 || <-asked != "identity" || <-asked != "identity" {
				t.Error("calls do not ask for identity, or are sent again")
			}
		}
	}
}

// Progress reaches the caller of the message, in its order.
func TestProgress(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		m := backends.New(t, backends.Options{Legacy: legacy})
		b := open(t, at(m.Endpoint()))
		call := callOf("slow", `{"steps":3}`)
		call.Params = []byte(`{"name":"slow","_meta":{"progressToken":"p"},"arguments":{"steps":3}}`)
		h := newHeard()
		if a, err := b.Do(t.Context(), call, h.notify); err != nil || !strings.Contains(string(a.Result), "done") {
			t.Fatalf("%s %v", a.Result, err)
		}
		if len(h.list) != 3 || !strings.Contains(h.list[2], `"progress":3`) || !strings.Contains(h.list[0], `"progressToken":"p"`) {
			t.Errorf("legacy %v: %v", legacy, h.list)
		}
	}
}

// A caller who leaves ends the call at the server.
func TestCancel(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		hold := make(chan struct{})
		m := backends.New(t, backends.Options{Legacy: legacy, Hold: hold})
		defer close(hold)
		b := open(t, at(m.Endpoint()))
		ctx, cancel := context.WithCancel(t.Context())
		call := callOf("slow", `{"steps":1}`)
		call.Params = []byte(`{"name":"slow","_meta":{"progressToken":"p"},"arguments":{"steps":1}}`)
		_, err := b.Do(ctx, call, func(string, json.RawMessage) { cancel() })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("legacy %v: %v", legacy, err)
		}
		if legacy {
			eventually(t, "the server hears of it", func() bool { return strings.Contains(m.Log(), "notifications/cancelled") })
		}
	}
}

// A server that refuses the credential says so with its challenge.
func TestUnauthorized(t *testing.T) {
	m := backends.New(t, backends.Options{Accept: func(token string) bool { return token == "good" }})
	b := open(t, at(m.Endpoint()))
	bad := callOf("echo", `{}`)
	bad.Header = http.Header{"Authorization": {"Bearer bad"}}
	for range 2 { // before and after the server's protocol is known
		e := failure(t, b, bad)
		if e.Kind != backend.Unauthorized || e.Status != 401 || !strings.Contains(e.Challenge, "invalid_token") || strings.Contains(e.Error(), "bad") {
			t.Errorf("%+v", e)
		}
		mustDo(t, b, callOf("echo", `{}`))
	}
	m.Switch(func(s *backends.Switches) { s.Status = 403 })
	if e := failure(t, b, callOf("echo", `{}`)); e.Kind != backend.Unauthorized || e.Status != 403 {
		t.Errorf("%+v", e)
	}
}

// A server that refuses the newest version with sessions is asked once more, for one that it names.
// What is no answer is not tried again.
func TestRefusedVersion(t *testing.T) {
	const refusal = `"error":{"code":-32602,"message":"Unsupported protocol version","data":{"supported":[%s],"requested":"2025-11-25"}}`
	for name, c := range map[string]struct {
		status  int
		refusal string
		speaks  string
		asked   string
	}{
		"the example":    {200, fmt.Sprintf(refusal, `"2025-06-18"`), "2025-06-18", "2025-11-25 2025-06-18"},
		"status 400":     {400, fmt.Sprintf(refusal, `"2025-06-18"`), "2025-06-18", "2025-11-25 2025-06-18"},
		"an older one":   {200, fmt.Sprintf(refusal, `"1.0","2024-11-05","2025-03-26"`), "2025-03-26", "2025-11-25 2025-03-26"},
		"none is named":  {200, `"error":{"code":-32602,"message":"no"}`, "2025-06-18", "2025-11-25 2025-06-18"},
		"foreign ones":   {200, fmt.Sprintf(refusal, `"1.0",7`), "", "2025-11-25 2025-06-18"},
		"another reason": {200, `"error":{"code":-32603,"message":"no"}`, "", "2025-11-25 2025-06-18"},
		"no answer":      {200, `"result":7`, "2025-06-18", "2025-11-25"},
		"a status":       {503, fmt.Sprintf(refusal, `"2025-06-18"`), "2025-06-18", "2025-11-25"},
	} {
		var asked []string
		h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var m struct {
				ID     json.RawMessage
				Method string
				Params struct{ ProtocolVersion string }
			}
			_ = json.NewDecoder(r.Body).Decode(&m)
			answer := func(status int, text string) { answered(w, status, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,`+text+`}`) }
			switch {
			case m.Method == "server/discover":
				w.WriteHeader(http.StatusBadRequest)
			case m.Method == "notifications/initialized":
				w.WriteHeader(http.StatusAccepted)
			case m.Method == "tools/call":
				answer(200, `"result":{"content":[]}`)
			case m.Params.ProtocolVersion == c.speaks:
				asked = append(asked, c.speaks)
				answer(200, `"result":{"protocolVersion":"`+c.speaks+`","capabilities":{}}`)
			default:
				asked = append(asked, m.Params.ProtocolVersion)
				answer(c.status, c.refusal)
			}
		}))
		defer h.Close()
		b := open(t, at(h.URL))
		_, err := b.Do(t.Context(), callOf("x", `{}`), nil)
		got := strings.Join(asked, " ")
		if got != c.asked || (err == nil) != strings.HasSuffix(got, " "+c.speaks) || err == nil && b.State().Era != c.speaks {
			t.Errorf("%s: asked for %s, want %s: %v", name, got, c.asked, err)
		}
	}
}

// Errors of JSON-RPC are answers, not failures, in both eras.
func TestErrorsAreAnswers(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		b := open(t, at(backends.New(t, backends.Options{Legacy: legacy}).Endpoint()))
		for _, call := range []backend.Message{callOf("absent", `{}`), modern(callOf("absent", `{}`))} {
			a, err := b.Do(t.Context(), call, nil)
			if err != nil || !strings.Contains(string(a.Error), `"code":-32602`) || a.Result != nil {
				t.Errorf("legacy %v: %s %s %v", legacy, a.Error, a.Result, err)
			}
		}
	}
}

// Connections are used again, also those whose answers were streams.
func TestConnectionsAreUsedAgain(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		server := sdk.NewServer(&sdk.Implementation{Name: "s", Version: "1"}, nil)
		server.AddTool(&sdk.Tool{Name: "echo", InputSchema: json.RawMessage(`{"type":"object"}`)}, func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			return &sdk.CallToolResult{}, nil
		})
		h := httptest.NewUnstartedServer(sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return server }, &sdk.StreamableHTTPOptions{Stateless: true, JSONResponse: asJSON}))
		var opened atomic.Int32
		h.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				opened.Add(1)
			}
		}
		h.Start()
		defer h.Close()
		b := open(t, at(h.URL))
		for range 100 {
			mustDo(t, b, callOf("echo", `{}`))
		}
		if n := opened.Load(); n > 20 {
			t.Errorf("JSON %v: %d connections for 100 calls", asJSON, n)
		}
	}
}

// When another server comes to an address, in the other era, messages reach it.
func TestEraChanges(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		m := backends.New(t, backends.Options{Legacy: legacy})
		b := open(t, at(m.Endpoint()), func(o *backend.Options) { o.Routing.FailureThreshold = 100 })
		mustDo(t, b, callOf("echo", `{}`))
		m.Down()
		endSessions(m)
		other := backends.New(t, backends.Options{Legacy: !legacy, Address: strings.TrimPrefix(m.URL(), "http://")})
		eventually(t, "a message reaches it", func() bool {
			a, err := b.Do(t.Context(), callOf("echo", `{}`), nil)
			return err == nil && a.Result != nil
		})
		if len(other.Calls()) == 0 {
			t.Error("it had no call")
		}
		endSessions(other)
	}
}

// endSessions ends the sessions of a server that can no longer be told that they have ended.
func endSessions(m *backends.MCP) {
	for s := range m.SDK.Sessions() {
		s.Close()
	}
}
