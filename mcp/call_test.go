package mcp_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/mcp"
)

// sdkHandler is the SDK's own handler of the same tools, behind a Guard.
func (w *world) sdkHandler() http.Handler {
	return mcp.Guard(w.options, sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return w.options.Server },
		&sdk.StreamableHTTPOptions{Stateless: true, JSONResponse: true, DisableLocalhostProtection: true}))
}

// sessionCall is a request of a version with sessions.
func (w *world) sessionCall(t testing.TB, body string) *http.Request {
	r := w.call(t, "echo", "{}")
	legacy(r)
	setBody(r, body)
	return r
}

// Most calls do not pass through the SDK's handler. What comes back is the same to the byte.
func TestCallsAreAnsweredAsByTheSDK(t *testing.T) {
	w := newWorld(t)
	ours, theirs := w.handler(t), w.sdkHandler()
	for name, params := range calledWith {
		compareAnswers(t, name, ours, theirs, func() *http.Request {
			return w.sessionCall(t, `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":`+params+`}`)
		})
	}
}

// compareAnswers compares the answers of two handlers to a request.
func compareAnswers(t *testing.T, name string, ours, theirs http.Handler, r func() *http.Request) {
	t.Helper()
	got, want := serve(ours, r()), serve(theirs, r())
	if strings.HasPrefix(want.Header().Get("Content-Type"), "text/plain") { // clients cannot read it
		if !strings.Contains(got.Body.String(), `"error":{`) || got.Code != want.Code && got.Code != http.StatusOK {
			t.Errorf("%s: %d %s, want an error and %d", name, got.Code, got.Body, want.Code)
		}
		return
	}
	if got.Code != want.Code || got.Body.String() != want.Body.String() {
		t.Errorf("%s:\n got %d %s\nwant %d %s", name, got.Code, got.Body, want.Code, want.Body)
	}
	for _, header := range []string{"Content-Type", "Cache-Control"} {
		if got.Header().Get(header) != want.Header().Get(header) {
			t.Errorf("%s: %s is %q, want %q", name, header, got.Header().Get(header), want.Header().Get(header))
		}
	}
}

var calledWith = map[string]string{
	"a text":                   `{"name":"echo","arguments":{"message":"<hi> \u2028 \"you\""}}`,
	"structured":               `{"name":"whoami","arguments":{}}`,
	"no arguments":             `{"name":"greet"}`,
	"null as arguments":        `{"name":"greet","arguments":null}`,
	"an error of the tool":     `{"name":"get_time","arguments":{"timezone":"Nowhere/Else"}}`,
	"a missing argument":       `{"name":"echo","arguments":{}}`,
	"an argument too many":     `{"name":"echo","arguments":{"message":"x","other":1}}`,
	"an argument of a type":    `{"name":"echo","arguments":{"message":7}}`,
	"arguments in a list":      `{"name":"echo","arguments":[1]}`,
	"an unknown tool":          `{"name":"nothing","arguments":{}}`,
	"no name":                  `{"arguments":{}}`,
	"a token for progress":     `{"name":"greet","arguments":{},"_meta":{"progressToken":7}}`,
	"an unknown member":        `{"name":"greet","arguments":{},"more":[{}]}`,
	"spaces between":           "{ \"name\" :\n\"greet\" , \"arguments\" : { } }",
	"a name that is escaped":   `{"name":"gr\u0065et","arguments":{}}`,
	"arguments nested deeply":  `{"name":"echo","arguments":{"message":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `}}`,
	"metadata of another kind": `{"name":"greet","arguments":{},"_meta":7}`,
}

// A message without the version of JSON-RPC is not a call, and runs nothing.
func TestCallsNeedTheVersionOfJSONRPC(t *testing.T) {
	w := newWorld(t)
	h := w.handler(t)
	for _, version := range []string{``, `"jsonrpc":"1.0",`, `"jsonrpc":2,`, `"jsonrpc":"2.\u0030x",`} {
		got := serve(h, w.sessionCall(t, `{`+version+`"id":7,"method":"tools/call","params":{"name":"greet","arguments":{}}}`))
		if r := decode(t, got); got.Code != http.StatusBadRequest || len(r.Error) == 0 {
			t.Errorf("%q: %d %s", version, got.Code, got.Body)
		}
	}
}

// A tool that turns to its client learns that no request reaches it, and answers all the same.
func TestToolsThatTurnToTheirClientAnswer(t *testing.T) {
	w := newWorld(t)
	type none struct{}
	sdk.AddTool(w.options.Server, &sdk.Tool{Name: "turns"}, func(ctx context.Context, req *sdk.CallToolRequest, _ none) (*sdk.CallToolResult, any, error) {
		for range 20 {
			req.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{ProgressToken: "x", Progress: 1})
			if err := req.Session.Ping(ctx, nil); err == nil {
				t.Error("a request to the client was answered")
			}
		}
		req.Extra.CloseSSEStream(sdk.CloseSSEStreamArgs{})
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "done for " + req.Extra.TokenInfo.UserID + " " + req.Extra.Header.Get("X-Test")}}}, nil, nil
	})
	r := w.sessionCall(t, `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"turns","arguments":{}}}`)
	r.Header.Set("X-Test", "with header")
	if got := serve(w.handler(t), r); decode(t, got).text() != "done for alice with header" {
		t.Errorf("%d %s", got.Code, got.Body)
	}
}

// The request of a client that hangs up lasts as long as its tool runs, and counts as long.
func TestCallsLastAsLongAsTheirTool(t *testing.T) {
	w := newWorld(t)
	type none struct{}
	running, goOn := make(chan none), make(chan none)
	var ended atomic.Bool
	sdk.AddTool(w.options.Server, &sdk.Tool{Name: "waits"}, func(context.Context, *sdk.CallToolRequest, none) (*sdk.CallToolResult, any, error) {
		close(running)
		<-goOn
		ended.Store(true)
		return &sdk.CallToolResult{}, nil, nil
	})
	r := w.sessionCall(t, `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"waits","arguments":{}}}`)
	ctx, hangUp := context.WithCancel(t.Context())
	answered := make(chan *httptest.ResponseRecorder)
	h := w.handler(t)
	go func() { answered <- serve(h, r.WithContext(ctx)) }()
	<-running
	hangUp()
	close(goOn)
	<-answered
	if !ended.Load() {
		t.Error("the request ended before its tool")
	}
}

// In the protocol without sessions the headers repeat parts of the message. What does not fit is
// refused as the SDK refuses it, and so are the other faults of a call.
func TestSessionlessCallsAreAnsweredAsByTheSDK(t *testing.T) {
	w := newWorld(t)
	addHeadedTool(w.options.Server, "headed")
	type none struct{}
	sdk.AddTool(w.options.Server, &sdk.Tool{Name: "client"}, func(_ context.Context, req *sdk.CallToolRequest, _ none) (*sdk.CallToolResult, any, error) {
		return nil, map[string]any{"params": req.Session.InitializeParams(), "session": req.Session.ID()}, nil
	})
	ours, theirs := w.handler(t), w.sdkHandler()
	serve(ours, w.call(t, "greet", "{}")) // the first call passes through the SDK's handler
	compare := func(name, params string, edit func(http.Header)) {
		compareAnswers(t, name, ours, theirs, func() *http.Request {
			var tool struct{ Name string }
			_ = json.Unmarshal([]byte(params), &tool) // some have no name
			r := w.call(t, tool.Name, "{}")
			setBody(r, `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":`+params+`}`)
			if edit != nil {
				edit(r.Header)
			}
			return r
		})
	}
	for name, params := range calledWith {
		if !strings.Contains(params, "_meta") {
			compare(name, strings.TrimSuffix(params, "}")+","+meta+"}", nil)
		}
		compare(name+", without the version", params, nil)
	}
	deep := w.call(t, "echo", "{}")
	setBody(deep, body("echo", `{"message":`+strings.Repeat("[", 2000)+strings.Repeat("]", 2000)+`}`))
	if got := serve(ours, deep); got.Code != http.StatusBadRequest {
		t.Errorf("arguments nested deeply: %d %s", got.Code, got.Body)
	}
	for name, params := range map[string]string{
		"progress":                `{"name":"greet","arguments":{},"_meta":{"progressToken":7,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}`,
		"a client that says who":  `{"name":"client","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"},"io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}}}`,
		"a client of no form":     `{"name":"greet","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":7,"io.modelcontextprotocol/clientCapabilities":{}}}`,
		"no capabilities":         `{"name":"greet","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}`,
		"capabilities of no form": `{"name":"greet","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":7}}`,
		"another version":         `{"name":"greet","_meta":{"io.modelcontextprotocol/protocolVersion":"2025-11-25","io.modelcontextprotocol/clientCapabilities":{}}}`,
		"a later version":         `{"name":"greet","_meta":{"io.modelcontextprotocol/protocolVersion":"2027-01-01","io.modelcontextprotocol/clientCapabilities":{}}}`,
		"a version of no form":    `{"name":"greet","_meta":{"io.modelcontextprotocol/protocolVersion":7,"io.modelcontextprotocol/clientCapabilities":{}}}`,
		"more members":            `{"name":"greet","requestState":7,` + meta + `}`,
		"an answer to a question": `{"name":"greet","inputResponses":{"x":{"action":"decline"}},"requestState":"s",` + meta + `}`,
	} {
		compare(name, params, nil)
	}
	good := `{"name":"greet","arguments":{},` + meta + `}`
	for name, edit := range map[string]func(http.Header){
		"no method":            func(h http.Header) { h.Del("Mcp-Method") },
		"another method":       func(h http.Header) { h.Set("Mcp-Method", "tools/list") },
		"no name":              func(h http.Header) { h.Del("Mcp-Name") },
		"another name":         func(h http.Header) { h.Set("Mcp-Name", "echo") },
		"no version":           func(h http.Header) { h.Del("Mcp-Protocol-Version") },
		"a version of before":  func(h http.Header) { h.Set("Mcp-Protocol-Version", "2025-11-25") },
		"a version of later":   func(h http.Header) { h.Set("Mcp-Protocol-Version", "2027-01-01") },
		"a header too many":    func(h http.Header) { h.Set("Mcp-Param-Region", "eu") },
		"a name in other case": func(h http.Header) { h.Set("Mcp-Name", "Greet") },
	} {
		compare(name+" in the headers", good, edit)
	}
	headed := `{"name":"headed","arguments":{"region":"eu"},` + meta + `}`
	compare("an argument in a header", headed, func(h http.Header) { h.Set("Mcp-Param-Region", "eu") })
	compare("an argument that is missing in the headers", headed, nil)
	compare("another argument in a header", headed, func(h http.Header) { h.Set("Mcp-Param-Region", "us") })
}

// addHeadedTool adds a tool whose argument must be in a header, too.
func addHeadedTool(s *sdk.Server, name string) {
	s.AddTool(&sdk.Tool{Name: name, InputSchema: json.RawMessage(`{"type":"object","properties":{"region":{"type":"string","x-mcp\u002dheader":"Region"}}}`)},
		func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			return &sdk.CallToolResult{}, nil
		})
}

// From the moment in which a tool is replaced by one with an argument in a header, the header
// is compared.
func TestToolsThatChangeTheirHeaders(t *testing.T) {
	w := newWorld(t)
	h := w.handler(t)
	greet := func() int {
		r := w.call(t, "greet", "{}")
		setBody(r, body("greet", `{"region":"eu"}`))
		return serve(h, r).Code
	}
	plain := func() {
		w.options.Server.AddTool(&sdk.Tool{Name: "greet", InputSchema: map[string]any{"type": "object"}},
			func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
				return &sdk.CallToolResult{}, nil
			})
	}
	plain()
	for range 3 {
		for range 2 {
			if got := greet(); got != http.StatusOK {
				t.Fatalf("a call without headers: status %d", got)
			}
		}
		addHeadedTool(w.options.Server, "greet")
		for range 2 {
			if got := greet(); got != http.StatusBadRequest {
				t.Errorf("a call whose argument is missing in the headers: status %d, want 400", got)
			}
		}
		plain()
	}
}

// The middleware of the program sees the calls of its clients, and nothing else.
func TestMiddlewareSeesEachCallOnce(t *testing.T) {
	w := newWorld(t)
	addHeadedTool(w.options.Server, "headed")
	var mu sync.Mutex
	var seen []string
	w.options.Server.AddReceivingMiddleware(func(next sdk.MethodHandler) sdk.MethodHandler {
		return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, method)
			return next(ctx, method, req)
		}
	})
	h := w.handler(t)
	for n, tool := range []string{"greet", "greet", "headed", "headed", "greet"} {
		if got := serve(h, w.call(t, tool, "{}")); got.Code != http.StatusOK {
			t.Fatalf("%s: status %d: %s", tool, got.Code, got.Body)
		}
		if len(seen) != n+1 || seen[n] != "tools/call" {
			t.Errorf("after call %d of %s: %q", n+1, tool, seen)
		}
	}
}

// A client that hangs up ends its call, which is what the protocol without sessions has in
// place of notifications/cancelled.
func TestSessionlessCallsEndWithTheirRequest(t *testing.T) {
	w := newWorld(t)
	type none struct{}
	running := make(chan none)
	sdk.AddTool(w.options.Server, &sdk.Tool{Name: "waits"}, func(ctx context.Context, _ *sdk.CallToolRequest, _ none) (*sdk.CallToolResult, any, error) {
		running <- none{}
		<-ctx.Done()
		if ctx.Err() != context.Canceled {
			t.Errorf("the context of the tool ended with %v", ctx.Err())
		}
		return &sdk.CallToolResult{}, nil, nil
	})
	h := w.handler(t)
	for range 3 { // the first call passes through the SDK
		ctx, hangUp := context.WithCancel(t.Context())
		answered := make(chan *httptest.ResponseRecorder)
		go func() { answered <- serve(h, w.call(t, "waits", "{}").WithContext(ctx)) }()
		<-running
		hangUp()
		<-answered
	}
}
