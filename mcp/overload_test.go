package mcp_test

import (
	"io"
	"net/http"
	"sync"
	"testing"

	"signet/internal/admission"
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
