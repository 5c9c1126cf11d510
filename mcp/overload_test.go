package mcp_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/admission"
	"signet/jwt"
	"signet/mcp"
)

// taker is a body that calls take when it is read.
type taker struct {
	io.ReadCloser
	take func()
}

func (b taker) Read(p []byte) (int, error) {
	b.take()
	return b.ReadCloser.Read(p)
}

// The refusal has no challenge, over MCP and without, so that clients keep their tokens and
// come back. A page of an allowed origin can read it.
func TestOverloadRefusesBeforeTokenAndBody(t *testing.T) {
	w := newWorld(t)
	class := admission.NewClass("mcp", 1)
	w.options.Admission = class
	e := w.endpoint(t)
	for name, h := range map[string]http.Handler{"mcp": e, "tools": e.Tools()} {
		send := func(edit func(*http.Request)) (int, http.Header, reply) {
			r := w.post(t, "echo", `{"message":"x"}`)
			if name == "mcp" {
				r = w.call(t, "echo", `{"message":"x"}`)
			}
			r.Header.Set("Origin", "https://app.example")
			if edit != nil {
				edit(r)
			}
			got := serve(h, r)
			var body reply
			if got.Body.Len() > 0 {
				body = decode(t, got)
			}
			return got.Code, got.Header(), body
		}
		if code, _, body := send(nil); code != http.StatusOK {
			t.Fatalf("%s: %d %v", name, code, body)
		}
		// Another request may take the last slot while the body arrives.
		var slot admission.Slot
		code, h, body := send(func(r *http.Request) {
			r.Body = taker{r.Body, sync.OnceFunc(func() { slot, _ = class.Enter(t.Context()) })}
		})
		if code != http.StatusServiceUnavailable || string(body.Error) != `"temporarily_unavailable"` || h.Get("Retry-After") == "" {
			t.Errorf("%s: filled meanwhile: %d %s", name, code, body.Error)
		}
		for what, edit := range map[string]func(*http.Request){
			"a call":        func(r *http.Request) { r.Body = unread{t} },
			"a forged call": func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") },
		} {
			code, h, body := send(edit)
			if code != http.StatusServiceUnavailable || string(body.Error) != `"temporarily_unavailable"` || h.Get("Retry-After") == "" || h.Get("WWW-Authenticate") != "" {
				t.Errorf("%s: %s: %d %s, Retry-After %q, challenge %q", name, what, code, body.Error, h.Get("Retry-After"), h.Get("WWW-Authenticate"))
			}
			if h.Get("Access-Control-Allow-Origin") == "" {
				t.Errorf("%s: %s: a page cannot read the answer", name, what)
			}
		}
		if code, _, _ := send(func(r *http.Request) {
			r.Method = http.MethodOptions
			r.Header.Set("Access-Control-Request-Method", "POST")
		}); code != http.StatusNoContent {
			t.Errorf("%s: preflight: %d", name, code)
		}
		slot.Leave()
		if code, _, body := send(nil); code != http.StatusOK {
			t.Errorf("%s, with room again: %d %v", name, code, body)
		}
		if s := class.Stats(); s.Running != 0 {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// A grant with many bytes in the server has to wait before more are read, and others do not.
// A message whose answer finds no room has run, so its answer is not a refusal to try again.
func TestBytesOfAGrantAreBounded(t *testing.T) {
	w := newWorld(t)
	w.options.Access.WithoutLogin("echo")
	w.options.Budget = admission.NewBudget(1<<20, 16<<20)
	w.options.Required = nil
	w.options.Caller = func(r *http.Request) string { return r.Header.Get("X-From") }
	e := w.endpoint(t)
	argument := func(bytes int) string { return `{"message":"` + strings.Repeat("x", bytes) + `"}` }
	anonymous := func(bytes int, from string) *http.Request {
		r := w.call(t, "echo", argument(bytes))
		r.Header.Del("Authorization")
		r.Header.Set("X-From", from)
		return r
	}
	of := func(grant string, r *http.Request) *http.Request {
		r.Header.Set("Authorization", "Bearer "+w.token(t, func(c *jwt.Claims) { c.GrantID = grant }))
		return r
	}
	unknownLength := func(r *http.Request) *http.Request { r.ContentLength = -1; return r }
	wantStatus := func(what string, h http.Handler, r *http.Request, want int) {
		t.Helper()
		got := serve(h, r)
		if got.Code != want || want == http.StatusServiceUnavailable && (got.Header().Get("Retry-After") == "" || decode(t, got).Error == nil || got.Header().Get("WWW-Authenticate") != "") {
			t.Errorf("%s: %d %.200s, want %d", what, got.Code, got.Body, want)
		}
	}
	for what, h := range map[string]http.Handler{"mcp": e, "tools": e.Tools()} {
		big, small := func() *http.Request { return w.call(t, "echo", argument(600<<10)) }, func() *http.Request { return w.call(t, "echo", argument(10)) }
		if what == "tools" {
			big, small = func() *http.Request { return w.post(t, "echo", argument(600<<10)) }, func() *http.Request { return w.post(t, "echo", argument(10)) }
		}
		wantStatus(what+": a large message alone", h, big(), http.StatusOK)
		// While the body of one arrives, others come.
		first := big()
		first.Body = taker{first.Body, sync.OnceFunc(func() {
			r := big()
			r.Body = unread{t}
			wantStatus(what+": a second one", h, r, http.StatusServiceUnavailable)
			wantStatus(what+": one of unknown length", h, unknownLength(big()), http.StatusServiceUnavailable)
			wantStatus(what+": a small one", h, small(), http.StatusOK)
			wantStatus(what+": another grant's", h, of("g2", big()), http.StatusOK)
		})}
		wantStatus(what+": the first one", h, first, http.StatusOK)
		wantStatus(what+": afterwards", h, unknownLength(big()), http.StatusOK)
	}
	first := anonymous(600<<10, "192.0.2.1")
	first.Body = taker{first.Body, sync.OnceFunc(func() {
		wantStatus("without token, the same address", e, anonymous(600<<10, "192.0.2.1"), http.StatusServiceUnavailable)
		wantStatus("without token, another address", e, anonymous(600<<10, "192.0.2.2"), http.StatusOK)
		wantStatus("without token, no known address", e, anonymous(600<<10, ""), http.StatusOK)
	})}
	wantStatus("without token", e, first, http.StatusOK)
	if used := w.options.Budget.Used(); used != 0 {
		t.Errorf("%d bytes were not given back", used)
	}
	w.options.Budget = admission.NewBudget(200<<10, 16<<20)
	sdk.AddTool(w.options.Server, &sdk.Tool{Name: "big"}, func(context.Context, *sdk.CallToolRequest, struct{}) (*sdk.CallToolResult, any, error) {
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: strings.Repeat("x", 200<<10)}}}, nil, nil
	})
	e = w.endpoint(t)
	if got := decode(t, serve(e, w.call(t, "big", "{}"))); got.code(t) != -32603 {
		t.Errorf("an answer without room: code %d", got.code(t))
	}
	if got := serve(e.Tools(), w.post(t, "big", "{}")); got.Code != http.StatusInternalServerError {
		t.Errorf("a result without room: %d", got.Code)
	}
}

// A message that a tool for everybody needs no token for waits for its turn beside messages
// with a token. One whose token is not valid does not make it wait.
func TestMessagesWithoutTokenAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.options.Access.WithoutLogin("echo")
		w.options.Admission = admission.New().MCP
		e := w.endpoint(t)
		send := func(h http.Handler, r *http.Request, authorization string, want int) {
			t.Helper()
			if r.Header.Del("Authorization"); authorization != "" {
				r.Header.Set("Authorization", authorization)
			}
			if got := serve(h, r); got.Code != want {
				t.Fatalf("%d %s, want %d", got.Code, got.Body, want)
			}
		}
		mcp, plain := func() *http.Request { return w.call(t, "echo", `{"message":"x"}`) }, func() *http.Request { return w.post(t, "echo", `{"message":"x"}`) }
		took := func() time.Duration {
			begin := time.Now()
			for range 100 {
				send(e, mcp(), "", http.StatusOK)
				send(e.Tools(), plain(), "", http.StatusOK)
			}
			return time.Since(begin)
		}
		send(e, mcp(), "Bearer x", http.StatusUnauthorized)
		if took := took(); took != 0 {
			t.Errorf("beside a token that is not valid: %v", took)
		}
		token := "Bearer " + w.token(t, nil)
		for name, known := range map[string]func(){
			"mcp":   func() { send(e, mcp(), token, http.StatusOK) },
			"tools": func() { send(e.Tools(), plain(), token, http.StatusOK) },
		} {
			time.Sleep(2 * time.Second)
			known()
			gap := time.Second / time.Duration(3000*runtime.GOMAXPROCS(0))
			if took := took(); took < 148*gap || took > 150*gap {
				t.Errorf("beside a token at %s: %v, want about %v", name, took, 150*gap)
			}
		}
	})
}

// Refusals for want of bytes are spread like all others, and hold no bytes while they wait.
func TestRefusalsOfACrowdAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := routed(t, func(_ context.Context, c *mcp.Call, _ func(json.RawMessage)) mcp.Reply { return echoed(c) })
		w.options.Admission = admission.New().MCP
		w.options.Budget = admission.NewBudget(128<<10, 16<<20)
		e := w.endpoint(t)
		held, err := w.options.Budget.Open("grant g1")
		if err != nil {
			t.Fatal(err)
		}
		defer held.Close()
		const times, most = 100, 64 << 10
		large := `{"message":"` + strings.Repeat("x", most) + `"}`
		for name, send := range map[string]func() int{
			"mcp":   func() int { return serve(e, w.call(t, "echo", large)).Code },
			"tools": func() int { return serve(e.Tools(), w.post(t, "echo", large)).Code },
			"plain": func() int {
				r := w.post(t, "echo", large)
				r.URL.Path = "/mcp/tools/call"
				return serve(e.Plain(), r).Code
			},
			"many": func() int {
				r := w.call(t, "echo", `{"message":"x"}`)
				r.Body = io.NopCloser(unread{t})
				return serve(e, r).Code
			},
		} {
			if name == "many" {
				if err := held.Take(most); err != nil {
					t.Fatal(err)
				}
			}
			used := w.options.Budget.Used()
			time.Sleep(10 * time.Second) // nothing waits any longer
			begin := time.Now()
			var all sync.WaitGroup
			for range times {
				all.Go(func() {
					if code := send(); code != http.StatusServiceUnavailable {
						t.Errorf("%s: %d", name, code)
					}
				})
			}
			synctest.Wait()
			if got := w.options.Budget.Used(); got != used {
				t.Errorf("%s: refusals that wait hold %d bytes", name, got-used)
			}
			all.Wait()
			if took, gap := time.Since(begin), time.Second/time.Duration(250*runtime.GOMAXPROCS(0)); took < (times-52)*gap || took > times*gap {
				t.Errorf("%s: %d refusals took %v, want about %v", name, times, took, (times-50)*gap)
			}
			if name == "many" {
				held.Reset()
			}
		}
	})
}
