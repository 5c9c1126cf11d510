package mcp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"signet/jwt"
	"signet/mcp"
)

// router is a [mcp.Router] of functions.
type router struct {
	needs  func(method, name string) []string
	route  func(ctx context.Context, c *mcp.Call, notify func(json.RawMessage)) mcp.Reply
	listen func(ctx context.Context, c *mcp.Call, notify func(json.RawMessage)) mcp.Reply
}

func (r router) Needs(method, name string, _ []string) []string {
	if r.needs == nil {
		return nil
	}
	return r.needs(method, name)
}

func (r router) Route(ctx context.Context, c *mcp.Call, notify func(json.RawMessage)) mcp.Reply {
	return r.route(ctx, c, notify)
}

func (r router) Listen(ctx context.Context, c *mcp.Call, notify func(json.RawMessage)) mcp.Reply {
	return r.listen(ctx, c, notify)
}

// echoed answers as the tool echo does.
func echoed(c *mcp.Call) mcp.Reply {
	var p struct{ Arguments map[string]any }
	if err := json.Unmarshal(c.Params, &p); err != nil {
		return mcp.ErrorReply(-32602, err.Error())
	}
	text, _ := json.Marshal(fmt.Sprint("Echo: ", p.Arguments["message"]))
	return mcp.Reply{Result: json.RawMessage(`{"content":[{"type":"text","text":` + string(text) + `}]}`)}
}

// routed returns a world whose messages a function answers.
func routed(t *testing.T, route func(ctx context.Context, c *mcp.Call, notify func(json.RawMessage)) mcp.Reply) *world {
	w := newWorld(t)
	w.options.Server = mcp.NewRouterServer("test", "1")
	w.options.Router = router{route: route}
	return w
}

func TestRouterGetsTheMessageAsItWasSent_Row76(t *testing.T) {
	var got mcp.Call
	var renamed string
	w := routed(t, func(_ context.Context, c *mcp.Call, _ func(json.RawMessage)) mcp.Reply {
		got, renamed = *c, string(c.Renamed("other"))
		return mcp.Reply{Result: json.RawMessage(`{"content":[], "x":1.0}`)}
	})
	const arguments = `{ "a":[1.0, 1e2 ],"name":"echo" ,"u":"\u00e9<&>", "n":12345678901234567890 }`
	const params = `{"arguments":` + arguments + `, "name" : "e\u0063ho" ,` + meta + `}`
	r := w.call(t, "echo", "{}")
	setBody(r, `{"jsonrpc":"2.0","id":"a\/b","method":"tools/call","params":`+params+`}`)
	res := serve(w.handler(t), r)
	if want := `{"jsonrpc":"2.0","id":"a\/b","result":{"content":[], "x":1.0}}`; res.Code != http.StatusOK || res.Body.String() != want {
		t.Errorf("status %d, body %s; want %s", res.Code, res.Body, want)
	}
	if string(got.Params) != params || got.Name != "echo" || got.Method != "tools/call" || !got.Modern || string(got.Capabilities) != "{}" {
		t.Errorf("the router got %+v with the parameters %s", got, got.Params)
	}
	if want := strings.Replace(params, `"e\u0063ho"`, `"other"`, 1); renamed != want {
		t.Errorf("renamed to %s, want %s", renamed, want)
	}
	if got.Claims.Subject != "alice" || !strings.Contains(r.Header.Get("Authorization"), got.Token) || got.Token == "" {
		t.Errorf("the caller is %+v with the token %q", got.Claims, got.Token)
	}
}

func TestRoutedMessageNamesTheVersionOfJSONRPC(t *testing.T) {
	routes := 0
	w := routed(t, func(context.Context, *mcp.Call, func(json.RawMessage)) mcp.Reply {
		routes++
		return mcp.Reply{Result: json.RawMessage(`{}`)}
	})
	h := w.handler(t)
	for _, params := range []string{"", `,"params":{"name":"echo"}`} {
		routes = 0
		for _, version := range []string{`"jsonrpc":"2.0",`, ``, `"jsonrpc":"1.0",`, `"jsonrpc":2.0,`, `"jsonrpc":null,`} {
			r := w.legacyCall(t, "echo", "{}")
			setBody(r, `{`+version+`"id":7,"method":"tools/call"`+params+`}`)
			got := serve(h, r)
			if version == `"jsonrpc":"2.0",` {
				if got.Code != http.StatusOK || routes != 1 {
					t.Errorf("status %d, routed %d times: %s", got.Code, routes, got.Body)
				}
			} else if got.Code != http.StatusBadRequest || decode(t, got).code(t) != -32600 || !strings.Contains(got.Body.String(), `"id":7`) || routes != 1 {
				t.Errorf("%q%s: status %d, routed %d times: %s", version, params, got.Code, routes-1, got.Body)
			}
		}
	}
}

func TestCompletionIsNamedByItsReference(t *testing.T) {
	for ref, name := range map[string]string{`{"type":"ref/prompt","name":"p"}`: "p", `{"type":"ref/resource","uri":"file://{x}"}`: "file://{x}"} {
		w := routed(t, func(_ context.Context, c *mcp.Call, _ func(json.RawMessage)) mcp.Reply {
			return mcp.Reply{Result: json.RawMessage(`{"name":"` + c.Name + `","params":` + string(c.Renamed("z")) + `}`)}
		})
		r := w.call(t, "echo", "{}")
		legacy(r)
		setBody(r, `{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":`+ref+`,"argument":{"name":"name","value":"p"}}}`)
		want := `"result":{"name":"` + name + `","params":{"ref":` + strings.Replace(ref, `"`+name+`"`, `"z"`, 1) + `,"argument":{"name":"name","value":"p"}}}`
		if got := serve(w.handler(t), r); !strings.Contains(got.Body.String(), want) {
			t.Errorf("%s: %s, want %s", ref, got.Body, want)
		}
	}
}

// The endpoint itself answers what concerns it; all the rest needs a token, and goes to the router.
func TestRouterGetsNothingWithoutAToken_Row77_Probe2_Probe3(t *testing.T) {
	ran := 0
	w := routed(t, func(_ context.Context, c *mcp.Call, _ func(json.RawMessage)) mcp.Reply {
		ran++
		return echoed(c)
	})
	w.options.Access.WithoutLogin("echo")
	h := w.endpoint(t)
	plain := h.Plain()
	paths := []string{"", "/tools/list", "/tools/call", "/resources/list", "/resources/read", "/prompts/list", "/prompts/get"}
	for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodDelete, http.MethodPut} {
		for _, path := range paths {
			handler := plain
			if path == "" {
				handler = h
			}
			r := w.call(t, "echo", `{"message":"hi"}`)
			r.Method, r.URL.Path = method, "/mcp"+path
			r.Header.Del("Authorization")
			if got := serve(handler, r); got.Code != http.StatusUnauthorized || got.Header().Get("WWW-Authenticate") == "" {
				t.Errorf("%s /mcp%s without token: status %d, challenge %q", method, path, got.Code, got.Header().Get("WWW-Authenticate"))
			}
		}
	}
	r := httptest.NewRequest(http.MethodGet, "https://mcp.example/capabilities", nil)
	if got := serve(h.Capabilities(), r); got.Code != http.StatusUnauthorized {
		t.Errorf("capabilities without token: status %d", got.Code)
	}
	if ran != 0 {
		t.Errorf("the router got %d messages", ran)
	}
	r = w.call(t, "echo", `{"message":"hi"}`)
	if got := serve(h, r); decode(t, got).text() != "Echo: hi" {
		t.Errorf("with a token: %s", got.Body)
	}
}

func TestMissingScopeOfARoutedMessageIsOneChallenge_J02(t *testing.T) {
	ran := 0
	w := routed(t, nil)
	w.options.Router = router{
		needs: func(method, name string) []string {
			if method == "tools/call" && name == "echo" {
				return []string{"write"}
			}
			return nil
		},
		route: func(_ context.Context, c *mcp.Call, _ func(json.RawMessage)) mcp.Reply { ran++; return echoed(c) },
	}
	h := w.handler(t)
	got := serve(h, w.call(t, "echo", `{"message":"hi"}`))
	if got.Code != http.StatusForbidden || ran != 0 {
		t.Fatalf("status %d, %d runs", got.Code, ran)
	}
	if c := challenge(t, got); c["error"] != "insufficient_scope" || c["scope"] != "read write" {
		t.Errorf("challenge %v", c)
	}
	r := w.call(t, "echo", `{"message":"hi"}`)
	r.Header.Set("Authorization", "Bearer "+w.token(t, func(c *jwt.Claims) { c.Scope = "read write" }))
	if got := serve(h, r); decode(t, got).text() != "Echo: hi" || ran != 1 {
		t.Errorf("with the scope: status %d, %d runs: %s", got.Code, ran, got.Body)
	}
	r = w.call(t, "other", `{"message":"hi"}`)
	if got := serve(h, r); got.Code != http.StatusOK {
		t.Errorf("a tool that needs none: status %d", got.Code)
	}
}

func TestRouterMayAskForANewLogin(t *testing.T) {
	w := routed(t, func(context.Context, *mcp.Call, func(json.RawMessage)) mcp.Reply {
		return mcp.Reply{Challenge: "connect the provider"}
	})
	got := serve(w.handler(t), w.call(t, "echo", "{}"))
	if c := challenge(t, got); got.Code != http.StatusUnauthorized || c["error"] != "invalid_token" || c["error_description"] != "connect the provider" {
		t.Errorf("status %d, challenge %v", got.Code, c)
	}
}

func TestNotificationsComeBeforeTheAnswer(t *testing.T) {
	w := routed(t, func(_ context.Context, c *mcp.Call, notify func(json.RawMessage)) mcp.Reply {
		notify(json.RawMessage("{\"jsonrpc\":\"2.0\",\n\"method\":\"notifications/progress\"}"))
		return echoed(c)
	})
	h := w.handler(t)
	got := serve(h, w.call(t, "echo", `{"message":"hi"}`))
	want := "event: message\ndata: {\"jsonrpc\":\"2.0\", \"method\":\"notifications/progress\"}\n\n" +
		"event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"Echo: hi\"}]}}\n\n"
	if got.Header().Get("Content-Type") != "text/event-stream" || got.Body.String() != want {
		t.Errorf("%s: %q, want %q", got.Header().Get("Content-Type"), got.Body, want)
	}
	r := w.call(t, "echo", `{"message":"hi"}`)
	r.Header.Set("Accept", "application/json")
	if got := serve(h, r); decode(t, got).text() != "Echo: hi" {
		t.Errorf("a client that takes JSON alone got %s", got.Body)
	}
}

func TestClientCancelsARoutedMessage(t *testing.T) {
	begun := make(chan struct{})
	w := routed(t, func(ctx context.Context, c *mcp.Call, _ func(json.RawMessage)) mcp.Reply {
		close(begun)
		<-ctx.Done()
		return mcp.ErrorReply(-32603, "cancelled")
	})
	h := w.handler(t)
	cancel := func(id, grant string) int {
		r := w.call(t, "echo", "{}")
		r.Header.Set("Authorization", "Bearer "+w.token(t, func(c *jwt.Claims) { c.GrantID = grant }))
		legacy(r)
		setBody(r, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":`+id+`}}`)
		return serve(h, r).Code
	}
	done := make(chan *httptest.ResponseRecorder)
	go func() {
		r := w.call(t, "echo", "{}")
		legacy(r)
		done <- serve(h, r)
	}()
	<-begun
	for _, other := range []struct{ id, grant string }{{"2", "g1"}, {`"1"`, "g1"}, {"1", "g2"}} {
		if code := cancel(other.id, other.grant); code != http.StatusAccepted {
			t.Errorf("status %d", code)
		}
		select {
		case <-done:
			t.Fatalf("the message ended by the notification for id %s of grant %s", other.id, other.grant)
		default:
		}
	}
	cancel("1", "g1")
	if got := <-done; !strings.Contains(got.Body.String(), "cancelled") {
		t.Errorf("%s", got.Body)
	}
}

// Messages of two clients of one grant may have the same id. Neither client ends the other's.
func TestCancellationThatMayBeAnothersEndsNothing(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	w := routed(t, func(ctx context.Context, c *mcp.Call, _ func(json.RawMessage)) mcp.Reply {
		begun <- struct{}{}
		select {
		case <-ctx.Done():
			return mcp.ErrorReply(-32603, "cancelled")
		case <-end:
			return echoed(c)
		}
	})
	h := w.handler(t)
	send := func(body string) *httptest.ResponseRecorder {
		r := w.call(t, "echo", `{"message":"hi"}`)
		legacy(r)
		if body != "" {
			setBody(r, body)
		}
		return serve(h, r)
	}
	done := make(chan *httptest.ResponseRecorder)
	for range 2 {
		go func() { done <- send("") }()
		<-begun
	}
	const cancel = `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`
	for i := range 3 {
		if i == 1 { // a third, while the second goes on
			go func() { done <- send("") }()
			<-begun
		}
		send(cancel)
		select {
		case end <- struct{}{}:
			if got := <-done; decode(t, got).text() != "Echo: hi" {
				t.Errorf("one of several: %s", got.Body)
			}
		case got := <-done:
			t.Errorf("one of several was cancelled: %s", got.Body)
		}
	}
	go func() { done <- send("") }() // a message alone is cancelled again
	<-begun
	send(cancel)
	select {
	case got := <-done:
		if !strings.Contains(got.Body.String(), "cancelled") {
			t.Errorf("a message alone: %s", got.Body)
		}
	case <-time.After(time.Minute):
		t.Error("a message alone cannot be cancelled")
		end <- struct{}{}
		<-done
	}
}

// Clients of the older protocol have no stream of the server's own.
func TestOlderClientsArePromisedNoChanges(t *testing.T) {
	w := routed(t, nil)
	h := w.handler(t)
	r := w.call(t, "echo", "{}")
	legacy(r)
	setBody(r, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}`)
	got := serve(h, r).Body.String()
	if strings.Contains(got, "listChanged") || strings.Contains(got, "subscribe") {
		t.Errorf("initialize promises changes: %s", got)
	}
	for _, want := range []string{`"tools":{`, `"prompts":{`, `"resources":{`, `"completions":{`, `"logging":{`} {
		if !strings.Contains(got, want) {
			t.Errorf("initialize does not declare %s: %s", want, got)
		}
	}
	r = w.call(t, "echo", "{}")
	r.Header.Set("Mcp-Method", "server/discover")
	r.Header.Del("Mcp-Name")
	setBody(r, `{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{`+meta+`}}`)
	if got := serve(h, r).Body.String(); !strings.Contains(got, `"listChanged":true`) || !strings.Contains(got, `"subscribe":true`) {
		t.Errorf("discover: %s", got)
	}
}

func TestPlainRequestsNeedNoJSONRPC_Row77(t *testing.T) {
	w := routed(t, func(_ context.Context, c *mcp.Call, _ func(json.RawMessage)) mcp.Reply {
		switch {
		case c.Name == "nope":
			return mcp.ErrorReply(-32602, `unknown tool "nope"`)
		case c.Name == "plain":
			return mcp.Reply{Result: json.RawMessage(`{"contents":"{}","mimeType":"application/json"}`)}
		case c.Method == "resources/read":
			return mcp.Reply{Result: json.RawMessage(`{"contents":[{"uri":"a","mimeType":"text/plain","text":"T\u0041"}]}`)}
		case strings.HasSuffix(c.Method, "/list"):
			kind, _, _ := strings.Cut(c.Method, "/")
			return mcp.Reply{Result: json.RawMessage(`{"` + kind + `":[{"name":"x"}]}`)}
		}
		return echoed(c)
	})
	e := w.endpoint(t)
	for _, tt := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"/tools/list", `{}`, 200, `{"tools":[{"name":"x"}]}`},
		{"/tools/list", ``, 200, `{"tools":[{"name":"x"}]}`},
		{"/tools/call", `{"name":"echo","arguments":{"message":"hi"}}`, 200, `{"content":[{"type":"text","text":"Echo: hi"}]}`},
		{"/tools/call", `{"name":"nope"}`, 200, `{"content":[{"type":"text","text":"unknown tool \"nope\""}],"isError":true}`},
		{"/resources/read", `{"uri":"a"}`, 200, `{"contents":"T\u0041","mimeType":"text/plain"}`},
		{"/resources/read", `{"uri":"plain"}`, 200, `{"contents":"{}","mimeType":"application/json"}`},
		{"/tools/call", `{"name":"echo"`, 400, ""},
		{"/tools/call", `[]`, 400, ""},
		{"/tools/call", `{"name":"echo","name":"nope"}`, 400, ""},
		{"/tools/call", `{"name":1}`, 400, ""},
		{"/tools/call", `{}],"id":2,"x":[{}`, 400, ""},
		{"/tools/call", `{"name":"echo"},"method":"tools/list","x":{}`, 400, ""},
	} {
		r := w.call(t, "echo", "{}")
		r.URL.Path = "/mcp" + tt.path
		setBody(r, tt.body)
		got := serve(e.Plain(), r)
		if got.Code != tt.status || tt.want != "" && got.Body.String() != tt.want {
			t.Errorf("%s %s: status %d, %s; want %d, %s", tt.path, tt.body, got.Code, got.Body, tt.status, tt.want)
		}
	}
	r := httptest.NewRequest(http.MethodGet, "https://mcp.example/capabilities", nil)
	r.Header.Set("Authorization", "Bearer "+w.token(t, nil))
	if got := serve(e.Capabilities(), r); got.Body.String() != `{"tools":[{"name":"x"}],"resources":[{"name":"x"}],"prompts":[{"name":"x"}]}` {
		t.Errorf("capabilities: %s", got.Body)
	}
	r = w.call(t, "echo", "{}")
	r.URL.Path = "/tools/nope"
	setBody(r, "{}")
	if got := serve(e.Tools(), r); got.Code != http.StatusNotFound {
		t.Errorf("/tools/nope: status %d, %s", got.Code, got.Body)
	}
}

func TestRoutedSubscriptionEndsWhenTheServerStops(t *testing.T) {
	w := routed(t, nil)
	w.options.Router = router{listen: func(ctx context.Context, c *mcp.Call, notify func(json.RawMessage)) mcp.Reply {
		notify(json.RawMessage(`{"ack":` + string(c.ID) + `}`))
		<-ctx.Done()
		return mcp.Reply{Result: json.RawMessage(`{"end":true}`)}
	}}
	e := w.endpoint(t)
	s := httptest.NewServer(e)
	defer s.Close()
	res := w.subscribe(t, s.URL, w.token(t, nil))
	first := make([]byte, 64)
	n, err := res.Body.Read(first)
	if err != nil || !strings.Contains(string(first[:n]), `data: {"ack":1}`) {
		t.Fatalf("%q, %v", first[:n], err)
	}
	e.EndStreams()
	rest, err := io.ReadAll(res.Body)
	if err != nil || !strings.Contains(string(rest), `"result":{"end":true}`) {
		t.Errorf("%q, %v", rest, err)
	}
}
