package backend_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"signet/internal/backend"
	"signet/internal/test/backends"
)

// A server that is only an origin speaks MCP at /mcp, or has the REST shape.
func TestOrigin_Row78_Probe14(t *testing.T) {
	m := backends.New(t, backends.Options{})
	s := at(m.URL())
	s.Instances[0].Root = true
	b := open(t, s)
	if got := mustDo(t, b, callOf("echo", `{"a":1}`)); !strings.Contains(got, `{\"a\":1}`) || b.State().Era != "2026-07-28" {
		t.Errorf("%s, era %s", got, b.State().Era)
	}
}

// Tools and resources of the REST shape become those of MCP, with the exact arguments.
func TestREST_Row78(t *testing.T) {
	for _, o := range []backends.RESTOptions{{}, {NoCapabilities: true}} {
		r := backends.NewREST(t, o)
		s := at(r.URL())
		s.Instances[0].Root = true
		b := open(t, s)
		for list, want := range map[string]string{"tools": `"x-own"`, "resources": "file://a"} {
			items, err := b.List(t.Context(), list, "", nil)
			text, _ := json.Marshal(items)
			if err != nil || len(items) != 1 || !strings.Contains(string(text), want) {
				t.Errorf("%s: %s %v", list, text, err)
			}
		}
		for _, list := range []string{"prompts", "resourceTemplates"} {
			if items, err := b.List(t.Context(), list, "", nil); err != nil || len(items) != 0 {
				t.Errorf("%s: %s %v", list, items, err)
			}
		}
		const want = `{"content":[{"text":"{\"n\":10000000000000001,\"b\":1.0}","type":"text"}],"isError":false}`
		if got := mustDo(t, b, callOf("echo", `{"n":10000000000000001,"b":1.0}`)); strings.TrimSpace(got) != want {
			t.Errorf("call: %s", got)
		}
		if got := mustDo(t, b, modern(callOf("echo", `{}`))); !strings.HasPrefix(got, `{"resultType":"complete",`) {
			t.Errorf("modern call: %s", got)
		}
		read := backend.Message{Method: "resources/read", Name: "file://a", Params: json.RawMessage(`{"uri":"file://a"}`)}
		if got := mustDo(t, b, read); got != `{"contents":[{"uri":"file://a","mimeType":"text/plain","text":"the text of a"}]}` {
			t.Errorf("read: %s", got)
		}
		a, err := b.Do(t.Context(), backend.Message{Method: "prompts/get", Name: "x"}, nil)
		if err != nil || !strings.Contains(string(a.Error), "-32601") {
			t.Errorf("prompt: %s %v", a.Error, err)
		}
		if got := b.State(); got.Era != "rest" {
			t.Errorf("%+v", got)
		}
		if r.Calls()[0].Bearer() != "good" || strings.Contains(r.Log(), "grant-1") {
			t.Errorf("the server saw %s", r.Log())
		}
	}
}

// An error in the place of the content becomes a valid result.
func TestRESTErrors_Row86_Probe29(t *testing.T) {
	for body, want := range map[string]string{
		`{"content":{"error":"no \"such\" tool"},"isError":true}`:         `{"content":[{"type":"text","text":"no \"such\" tool"}],"isError":true}`,
		`{"content":{"other":[1]},"isError":true}`:                        `{"content":[{"type":"text","text":"{\"other\":[1]}"}],"isError":true}`,
		`{"content":"plain"}`:                                             `{"content":[{"type":"text","text":"plain"}]}`,
		`{"content":[{"type":"text","text":"ok"}],"own":{"content":[1]}}`: `{"content":[{"type":"text","text":"ok"}],"own":{"content":[1]}}`,
		`{"own":1}`:     "its result has no content",
		`[]`:            "it is not a JSON object",
		`<h1>html</h1>`: "it is not a JSON object",
		``:              "it is not a JSON object",
		`{"content":`:   "it is not a JSON object",
		"gzip":          "its Content-Encoding is gzip, not identity",
	} {
		mux := http.NewServeMux()
		mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"ok":true}`)) })
		mux.HandleFunc("POST /mcp/tools/call", func(w http.ResponseWriter, _ *http.Request) {
			if body == "gzip" {
				w.Header().Set("Content-Encoding", body)
			}
			w.Write([]byte(body))
		})
		h := httptest.NewServer(mux)
		defer h.Close()
		s := at(h.URL)
		s.Instances[0].Root = true
		b := open(t, s, func(o *backend.Options) { o.Routing.FailureThreshold = 1 })
		a, err := b.Do(t.Context(), callOf("echo", `{}`), nil)
		if err != nil {
			a.Result = json.RawMessage(err.Error())
		}
		if !strings.HasSuffix(string(a.Result), want) {
			t.Errorf("%s became %s", body, a.Result)
		}
		if got := b.State().Instance[0].Breaker; (got == "open") != strings.Contains(want, " not ") {
			t.Errorf("the breaker after %s is %s", body, got)
		}
	}
}

// A server in the REST shape is down when it says that it is not well.
func TestRESTHealth_Row84(t *testing.T) {
	answer := `{"ok":true}`
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			http.NotFound(w, r)
			return
		}
		w.Write([]byte(answer))
	}))
	defer h.Close()
	s := at(h.URL)
	s.Instances[0].Root = true
	b := open(t, s)
	if got := mustDo(t, b, backend.Message{Method: "ping"}); got != `{}` {
		t.Errorf("ping: %s", got)
	}
	if err := b.Check(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "the first check has ended", func() bool { return b.State().Status == "running" })
	answer = `{"ok":false}`
	if err := b.Check(t.Context()); err == nil || b.State().Status != "error" {
		t.Errorf("check: %v", err)
	}
}
