package backends_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/test/backends"
)

// The go-sdk's client uses everything that the server has, in both eras.
func TestMCP(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		m := backends.New(t, backends.Options{Path: "/deep/mcp", Legacy: legacy})
		progress := make(chan float64, 10)
		client := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, &sdk.ClientOptions{
			ProgressNotificationHandler: func(_ context.Context, r *sdk.ProgressNotificationClientRequest) { progress <- r.Params.Progress },
		})
		session, err := client.Connect(t.Context(), &sdk.StreamableClientTransport{Endpoint: m.Endpoint(), DisableStandaloneSSE: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close()
		if v := session.InitializeResult().ProtocolVersion; (v == "2025-11-25") != legacy {
			t.Errorf("legacy %v: protocol %s", legacy, v)
		}
		call := func(name, arguments string) string {
			t.Helper()
			p := &sdk.CallToolParams{Name: name, Arguments: json.RawMessage(arguments)}
			p.SetProgressToken("p")
			res, err := session.CallTool(t.Context(), p)
			if err != nil || res.IsError {
				t.Fatalf("%s: %v %v", name, res, err)
			}
			return res.Content[0].(*sdk.TextContent).Text
		}
		const arguments = `{"n":10000000000000001,"b":1.0,"a":[ ]}`
		if got := call("echo", arguments); !strings.Contains(got, `"n":10000000000000001,"b":1.0`) {
			t.Errorf("echo: %s", got)
		}
		if got := call("slow", `{"steps":2}`); got != "done" || <-progress != 1 || <-progress != 2 {
			t.Errorf("slow: %s", got)
		}
		if r, err := session.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: "file:///notes/x"}); err != nil || r.Contents[0].Text != "note of file:///notes/x" {
			t.Errorf("template: %v %v", r, err)
		}
		p, err := session.GetPrompt(t.Context(), &sdk.GetPromptParams{Name: "greet", Arguments: map[string]string{"name": "Ann"}})
		if err != nil || p.Messages[0].Content.(*sdk.TextContent).Text != "Greet Ann" {
			t.Errorf("prompt: %v %v", p, err)
		}
		if n := len(m.Calls()); n != 2 || !strings.Contains(m.Log(), "/deep/mcp") {
			t.Errorf("%d calls in %s", n, m.Log())
		}
	}
}

// A server answers as the switches say: to one call a status, to a wrong token 401.
func TestSwitches(t *testing.T) {
	m := backends.New(t, backends.Options{Accept: func(token string) bool { return token == "good" }})
	call := func(token string) int {
		t.Helper()
		status, _ := post(t, m.Endpoint(), token)
		return status
	}
	if status := call("bad"); status != http.StatusUnauthorized {
		t.Errorf("a wrong token: %d", status)
	}
	m.Switch(func(s *backends.Switches) { s.Status, s.Times = 503, 1 })
	if first, second := call("good"), call("good"); first != 503 || second != 200 {
		t.Errorf("one failure: %d, %d", first, second)
	}
	m.Down()
	if err := m.Up(); err != nil || call("good") != 200 {
		t.Errorf("after Down and Up: %v", err)
	}
}

func post(t *testing.T, endpoint, token string) (status int, body string) {
	t.Helper()
	message := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"a":1}}}`
	r, err := http.NewRequest(http.MethodPost, endpoint, strings.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	r.Header.Set("Authorization", "Bearer "+token)
	r.Close = true // a kept connection may be one of a server that went down
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // some bodies end early on purpose
	return resp.StatusCode, string(b)
}

// A REST server answers all paths of its shape.
func TestREST(t *testing.T) {
	rest := backends.NewREST(t, backends.RESTOptions{})
	status, body := post(t, rest.URL()+"/mcp/tools/call", "x")
	if status != 200 || !strings.Contains(body, "no such tool") { // the message is not of its shape
		t.Errorf("call: %d %s", status, body)
	}
	for path, want := range map[string]string{"/health": `{"ok":true}`, "/capabilities": "file://a", "/mcp/tools/list": "x-own"} {
		resp, err := http.Get(rest.URL() + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %s %v", path, b, err)
		}
	}
}

// A hostile server is good until it is switched, for one method or all.
func TestHostile(t *testing.T) {
	h := backends.NewHostile(t, backends.HostileOptions{Elsewhere: "http://127.0.0.1:9"})
	for _, m := range backends.Manners {
		h.Switch(m, "tools/list")
		if status, body := post(t, h.Endpoint(), "x"); status != 200 || strings.Contains(body, backends.Canary) {
			t.Errorf("%s, for another method: %d %s", m, status, body)
		}
		if m == backends.Stalled || m == backends.Silent {
			continue // there is no end to wait for
		}
		h.Switch(m)
		status, body := post(t, h.Endpoint(), "x")
		if want := map[backends.Manner]int{backends.Redirect: 307, backends.Challenge: 401}[m]; want != 0 && status != want {
			t.Errorf("%s: %d", m, status)
		} else if want == 0 && !strings.Contains(body, backends.Canary) {
			t.Errorf("%s: %.200s", m, body)
		}
	}
}
