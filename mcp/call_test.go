package mcp_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
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

// Calls in the versions with sessions do not pass through the SDK's handler. What comes back
// is the same to the byte.
func TestCallsAreAnsweredAsByTheSDK(t *testing.T) {
	w := newWorld(t)
	ours, theirs := w.handler(t), w.sdkHandler()
	for name, params := range map[string]string{
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
	} {
		body := `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":` + params + `}`
		got, want := serve(ours, w.sessionCall(t, body)), serve(theirs, w.sessionCall(t, body))
		if strings.HasPrefix(want.Header().Get("Content-Type"), "text/plain") {
			want.Body.Reset() // clients cannot read it
			want.Body.WriteString(got.Body.String())
			if !strings.Contains(got.Body.String(), `"error":{`) {
				t.Errorf("%s: %s, want an error", name, got.Body)
			}
			continue
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
