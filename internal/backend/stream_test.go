package backend_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"go.uber.org/goleak"

	"signet/internal/backend"
	"signet/internal/test/backends"
)

// Changes of lists and resources reach a listener, in both eras.
func TestListen(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		m := backends.New(t, backends.Options{Legacy: legacy})
		changed := make(chan string, 10)
		b := open(t, at(m.Endpoint()), func(o *backend.Options) { o.Changed = func(list string) { changed <- list } })
		ctx, cancel := context.WithCancel(t.Context())
		h := newHeard()
		ended := make(chan error)
		go func() { ended <- b.Listen(ctx, "grant-1", nil, []string{"file:///notes.txt"}, h.notify) }()
		eventually(t, "somebody listens", func() bool {
			log := m.Log()
			return strings.Contains(log, "subscriptions/listen") || strings.Contains(log, "GET /mcp")
		})
		// The request is there, but the server may not have taken it up yet: it says it again.
		until(t, changed, "tools", func() {
			m.SDK.AddTool(&sdk.Tool{Name: "late", InputSchema: json.RawMessage(`{"type":"object"}`)}, nil)
		})
		until(t, h.all, "notifications/resources/updated", func() {
			_ = m.SDK.ResourceUpdated(ctx, &sdk.ResourceUpdatedNotificationParams{URI: "file:///notes.txt"})
		})
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("legacy %v: %v", legacy, err)
		}
		if legacy {
			eventually(t, "the session ends", func() bool { return strings.Contains(m.Log(), "DELETE /mcp") })
		}
	}
}

// until calls say until heard has a value.
func until(t *testing.T, heard <-chan string, want string, say func()) {
	t.Helper()
	for deadline := time.After(time.Minute); ; {
		say()
		select {
		case got := <-heard:
			if got == want {
				return
			}
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			t.Fatalf("%s was never heard", want)
		}
	}
}

// A listener to a server that says nothing unasked waits for its own end. One whose stream ends
// learns it.
func TestListenToNothing(t *testing.T) {
	b := open(t, at(backends.NewHostile(t, backends.HostileOptions{}).Endpoint()))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := b.Listen(ctx, "", nil, nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	m := backends.New(t, backends.Options{})
	b = open(t, at(m.Endpoint()))
	mustDo(t, b, callOf("echo", `{}`))
	ended := make(chan error)
	go func() { ended <- b.Listen(t.Context(), "", nil, nil, nil) }()
	eventually(t, "somebody listens", func() bool { return strings.Contains(m.Log(), "subscriptions/listen") })
	m.Down()
	var e *backend.Error
	if err := <-ended; !errors.As(err, &e) || e.Kind != backend.Down {
		t.Errorf("%v", err)
	}
}

// script is a server of protocol version 2025-11-25 with sessions whose calls a function answers.
type script struct {
	*httptest.Server
	mu       sync.Mutex
	sessions int
	post     chan string
}

func newScript(t *testing.T, call func(w http.ResponseWriter, r *http.Request, id string)) *script {
	s := &script{post: make(chan string, 100)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var m struct {
			ID     json.RawMessage
			Method string
		}
		_ = json.Unmarshal(body, &m) // a GET has no body
		switch {
		case m.Method == "server/discover" || r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusBadRequest)
		case m.Method == "initialize":
			s.mu.Lock()
			s.sessions++
			w.Header().Set("Mcp-Session-Id", fmt.Sprintf("session-%d", s.sessions))
			s.mu.Unlock()
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-06-18","capabilities":{}}}`, m.ID)
		case m.Method == "tools/call" || r.Method == http.MethodGet:
			call(w, r, string(m.ID))
		default:
			w.WriteHeader(http.StatusAccepted)
			s.post <- string(body)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// events begins a stream of events and sends the first.
func events(w http.ResponseWriter, text ...string) {
	w.Header().Set("Content-Type", "text/event-stream")
	for _, one := range text {
		io.WriteString(w, one)
	}
	http.NewResponseController(w).Flush()
}

func resultOf(id string) string {
	return "data: {\"jsonrpc\":\"2.0\",\"id\":" + id + ",\"result\":{\"content\":[]}}\n\n"
}

// A server that asks its client for something while it works gets an answer: nothing is supported
// but a ping.
func TestRequestsOfServers(t *testing.T) {
	var s *script
	s = newScript(t, func(w http.ResponseWriter, _ *http.Request, id string) {
		for _, method := range []string{"ping", "sampling/createMessage", "elicitation/create", "roots/list"} {
			events(w, `data: {"jsonrpc":"2.0","id":"ask","method":"`+method+`","params":{}}`+"\n\n")
			answer := <-s.post
			for strings.Contains(answer, "notifications/initialized") {
				answer = <-s.post
			}
			want := `{"jsonrpc":"2.0","id":"ask","error":{"code":-32601,"message":"not supported"}}`
			if method == "ping" {
				want = `{"jsonrpc":"2.0","id":"ask","result":{}}`
			}
			if answer != want {
				t.Errorf("%s: %s", method, answer)
			}
		}
		events(w, resultOf(id))
	})
	h := newHeard()
	if _, err := open(t, at(s.URL)).Do(t.Context(), callOf("x", `{}`), h.notify); err != nil || len(h.list) != 0 {
		t.Errorf("%v, notifications %v", err, h.list)
	}
}

// Streams are read as the standard says, whatever their line ends, comments and other fields.
func TestEvents(t *testing.T) {
	note := `{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"x"}}`
	for name, text := range map[string]string{
		"plain":         "data: " + note + "\n\n",
		"CR LF":         "data: " + note + "\r\n\r\n",
		"CR":            "data: " + note + "\r\r",
		"mixed ends":    "retry: 1\r\n\rdata: " + note + "\n\r",
		"byte order":    "\ufeffdata: " + note + "\n\n",
		"no space":      "data:" + note + "\n\n",
		"comments":      ": hello\n\n:\n\ndata: " + note + "\n: between\n\n",
		"other fields":  "event: message\nid: 7\nretry: 100\nown: 1\ndata: " + note + "\n\n",
		"no type":       "event:\ndata: " + note + "\n\n",
		"other types":   "event: ping\ndata: hello\n\ndata: " + note + "\n\ndata: {}\nevent: x\n\n",
		"type, no data": "event: ping\n\ndata: " + note + "\n\n",
		"last type":     "event: ping\nevent: message\ndata: " + note + "\n\n",
		"several lines": "data: {\"jsonrpc\":\"2.0\",\ndata: \"method\":\"notifications/message\",\"params\":{\"data\":\"x\"}}\n\n",
		"empty data":    "id: 8\ndata:\n\ndata: " + note + "\n\n",
		"long line":     "data: " + strings.Repeat(" ", 100_000) + note + "\n\n",
		"long line, CR": "data: " + strings.Repeat(" ", 100_000) + note + "\r\r",
	} {
		s := newScript(t, func(w http.ResponseWriter, _ *http.Request, id string) { events(w, text, resultOf(id)) })
		h := newHeard()
		if _, err := open(t, at(s.URL)).Do(t.Context(), callOf("x", `{}`), h.notify); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(h.list) != 1 || <-h.all != "notifications/message" || !json.Valid([]byte(h.list[0])) {
			t.Errorf("%s: %v", name, h.list)
		}
	}
}

// A CR ends a line at once, whether an LF follows or not, and a byte order mark counts only at the
// beginning.
func TestEventsAtOnce(t *testing.T) {
	r, w := io.Pipe()
	got := make(chan []string)
	go func() { got <- backend.ReadEvents(r, 100) }()
	for _, text := range []string{"\ufeffdata: a\r", "\ndata: b\r", "\r", "\n", "data: c\r\n\r", "\ufeffdata: d\r\r", "data: \ufeffe\r\r"} {
		io.WriteString(w, text)
	}
	w.Close()
	if list := <-got; !slices.Equal(list, []string{"a\nb", "c", "\ufeffe"}) {
		t.Errorf("%q", list)
	}
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		heard := make(chan string, 1)
		go func() { heard <- backend.ReadEvent(r) }()
		go io.WriteString(w, "data: a\r\r")
		synctest.Wait()
		select {
		case got := <-heard:
			if got != "a" {
				t.Errorf("%q", got)
			}
		default:
			t.Error("the event waits for what follows")
		}
		w.Close()
	})
}

// A stream in which anything is wrong fails its message, and what was right before it has been
// passed on.
func TestBadEvents(t *testing.T) {
	for text, want := range map[string]string{
		"data: <h1>\n\n": "not one JSON value",
		"data: {}\n\n":   "no result and no error",
		"data: {\"jsonrpc\":\"2.0\",\"id\":ID,\"result\":{},\"error\":{\"code\":1,\"message\":\"\"}}\n\n": "or both",
		"data: {\"jsonrpc\":\"2.0\",\"id\":ID,\"result\":{},\"result\":{}}\n\n":                           "twice",
		"data: {\"jsonrpc\":\"2.0\",\"id\":ID,\"result\":[]}\n\n":                                         "wrong shape",
		"data: {\"jsonrpc\":\"2.0\",\"id\":ID,\"result\":{\"content\":{}}}\n\n":                           "wrong shape",
		"data: {\"jsonrpc\":\"2.0\",\"id\":ID,\"error\":\"text\"}\n\n":                                    "not one of JSON-RPC",
		"data: {\"jsonrpc\":\"2.0\",\"id\":\"ID\",\"result\":{}}\n\n":                                     "another request",
		"data: {\"jsonrpc\":\"2.0\",\"id\":1ID,\"result\":{}}\n\n":                                        "another request",
		"data: {\"jsonrpc\":\"2.0\",\"id\":ID,\"method\":7}\n\n":                                          "method is not a string",
		"data: " + strings.Repeat("x", 2<<20) + "\n\n":                                                    "more than 1048576 bytes",
		strings.Repeat("data: "+strings.Repeat("x", 1000)+"\n", 2000) + "\n":                              "more than 1048576 bytes",
		"": "the connection ended before the answer did",
		"data: {\"jsonrpc\":\"2.0\",\"id\":ID,\"result\":{}}": "the connection ended before the answer did",
	} {
		s := newScript(t, func(w http.ResponseWriter, _ *http.Request, id string) {
			events(w, "data: {\"method\":\"notifications/x\"}\n\n", strings.ReplaceAll(text, "ID", id))
		})
		config := at(s.URL)
		config.MaxAnswer = 1 << 20
		h := newHeard()
		_, err := open(t, config).Do(t.Context(), callOf("x", `{}`), h.notify)
		if err == nil || !strings.Contains(err.Error(), want) || len(h.list) != 1 {
			t.Errorf("%.80q: %v, notifications %v", text, err, h.list)
		}
	}
}

// A result that asks for input has no content yet; the go-sdk writes null.
func TestResultThatAsksForInputPasses(t *testing.T) {
	const asks = `{"resultType":"input_required","content":null,"inputRequests":{"a":{"method":"elicitation/create","params":{}}}}`
	for result, passes := range map[string]bool{asks: true, strings.Replace(asks, "input_required", "complete", 1): false, strings.Replace(asks, "null", "{}", 1): false} {
		s := newScript(t, func(w http.ResponseWriter, _ *http.Request, id string) {
			events(w, "data: {\"jsonrpc\":\"2.0\",\"id\":"+id+",\"result\":"+result+"}\n\n")
		})
		answer, err := open(t, at(s.URL)).Do(t.Context(), callOf("x", `{}`), nil)
		if passes != (err == nil) || passes && string(answer.Result) != result {
			t.Errorf("%s: %s, %v", result, answer.Result, err)
		}
	}
}

// A caller of a version without result types gets complete results only, and learns what came.
func TestResultTypes(t *testing.T) {
	for kind, want := range map[string]string{
		`"complete"`: "", `"compl\u0065te"`: "",
		`"input_required"`: "it asks for input, for which the caller has no means",
		`"task"`:           "it answers with a task in place of a result, which the caller does not know",
		`"later"`:          "its result is of a type that the caller does not know",
		`7`:                "its result is of a type that the caller does not know",
	} {
		h := httptest.NewServer(answering(`{"content":[],"resultType":` + kind + `}`))
		defer h.Close()
		b := open(t, at(h.URL))
		mustDo(t, b, modern(callOf("echo", `{}`)))
		if want == "" {
			mustDo(t, b, callOf("echo", `{}`))
		} else if e := failure(t, b, callOf("echo", `{}`)); e.Kind != backend.Malformed || e.Error() != "server srv: "+want {
			t.Errorf("%s: %v", kind, e)
		}
	}
}

// A stream that the server ends early, with an event's id, goes on where it was.
func TestResume(t *testing.T) {
	var id string
	s := newScript(t, func(w http.ResponseWriter, r *http.Request, called string) {
		if r.Method == http.MethodPost {
			id = called
			events(w, "event: prime\nid: 1\nretry: 1\ndata: x\n\n") // the id counts, whatever the type
			return
		}
		switch last := r.Header.Get("Last-Event-Id"); last {
		case "1":
			events(w, "id: 2\ndata: {\"method\":\"notifications/x\"}\n\n")
		case "2":
			events(w, resultOf(id))
		default:
			t.Errorf("Last-Event-Id %q", last)
		}
	})
	h := newHeard()
	if a, err := open(t, at(s.URL)).Do(t.Context(), callOf("x", `{}`), h.notify); err != nil || a.Result == nil || len(h.list) != 1 {
		t.Errorf("%v %s %v", err, a.Result, h.list)
	}
}

// A stream that goes on sending something is not ended by the timeout.
func TestLongStream(t *testing.T) {
	s := newScript(t, func(w http.ResponseWriter, _ *http.Request, id string) {
		for range 8 {
			events(w, ": alive\n")
			<-time.After(100 * time.Millisecond) // together more than the timeout
		}
		events(w, resultOf(id))
	})
	config := at(s.URL)
	config.Timeout = 600 * time.Millisecond
	mustDo(t, open(t, config), callOf("x", `{}`))
}

// answered answers with a status and JSON.
func answered(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	io.WriteString(w, text)
}

// A server that has lost a session says so with 404 or 400. The message is then sent once more, in
// another session, though it is not safe: nothing was done. Each row is what a known server says.
func TestLostSession(t *testing.T) {
	for _, refuse := range []func(w http.ResponseWriter, id string){
		func(w http.ResponseWriter, _ string) { http.Error(w, "session not found", http.StatusNotFound) }, // Go
		func(w http.ResponseWriter, _ string) { // TypeScript
			answered(w, 404, `{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}`)
		},
		func(w http.ResponseWriter, _ string) { // examples in TypeScript
			answered(w, 400, `{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"},"id":null}`)
		},
		func(w http.ResponseWriter, _ string) { // Python
			answered(w, 404, `{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"Session not found"}}`)
		},
		func(w http.ResponseWriter, _ string) { // older Python
			http.Error(w, "Bad Request: No valid session ID provided", http.StatusBadRequest)
		},
		func(w http.ResponseWriter, id string) { answered(w, 404, `{"jsonrpc":"2.0","id":`+id+`}`) }, // Java (Helidon)
		func(w http.ResponseWriter, _ string) { answered(w, 404, `{"error":"Session not found or expired"}`) },
	} {
		var mu sync.Mutex
		lost := map[string]bool{}
		calls := 0
		s := newScript(t, func(w http.ResponseWriter, r *http.Request, id string) {
			mu.Lock()
			defer mu.Unlock()
			calls++
			if lost[r.Header.Get("Mcp-Session-Id")] || lost["all"] {
				refuse(w, id)
				return
			}
			events(w, resultOf(id))
		})
		b := open(t, at(s.URL))
		mustDo(t, b, callOf("x", `{}`))
		mu.Lock()
		lost["session-1"] = true
		mu.Unlock()
		mustDo(t, b, callOf("x", `{}`))
		mu.Lock()
		lost["all"] = true
		before := calls
		mu.Unlock()
		if a, err := b.Do(t.Context(), callOf("x", `{}`), nil); err == nil {
			t.Errorf("a server that loses every session: %s%s", a.Result, a.Error)
		}
		if calls != before+2 {
			t.Errorf("%d calls to a server that loses every session", calls-before)
		}
	}
}

// An answer with the id of a call is the server's answer to it, whatever its status: the call is not
// sent again, for it may have done something. If the session may be lost, the next call opens another.
func TestAnsweredCallIsNotSentAgain(t *testing.T) {
	for name, c := range map[string]struct {
		status     int
		rest       string // of the answer
		header     http.Header
		safe, anew bool // the message is safe, the next one opens a session
		calls      int
		fails      bool // it is no answer
	}{
		"400":               {status: 400, rest: `"error":{"code":-32000,"message":"payment booked, mail failed"}`, calls: 1, anew: true},
		"400, safe":         {status: 400, rest: `"error":{"code":-32000,"message":"No valid session ID"}`, safe: true, calls: 2, anew: true},
		"400, other code":   {status: 400, rest: `"error":{"code":-32602,"message":"no such customer"}`, calls: 1},
		"404":               {status: 404, rest: `"error":{"code":-32602,"message":"no such customer"}`, calls: 1, anew: true},
		"404 with a result": {status: 404, rest: `"result":{"content":[]}`, calls: 1, fails: true},
		"400 as text":       {status: 400, rest: `"error":{"code":-32000,"message":"booked"}`, header: http.Header{"Content-Type": {"text/plain"}}, calls: 1, fails: true},
		"404 as text":       {status: 404, rest: `"error":{"code":-32000,"message":"booked"}`, header: http.Header{"Content-Type": {"text/html"}}, calls: 1, fails: true},
		"404 as event":      {status: 404, rest: `"error":{"code":-32000,"message":"booked"}`, header: http.Header{"Content-Type": {"text/event-stream"}}, calls: 1, fails: true},
		"404 encoded":       {status: 404, rest: `"error":{"code":-32000,"message":"booked"}`, header: http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}, calls: 1, fails: true},
		"no version":        {status: 200, rest: `"error":{"code":-32022,"message":"sold out"}`, calls: 1},
		"no version, 400":   {status: 400, rest: `"error":{"code":-32022,"message":"sold out"}`, calls: 1},
		"no version, safe":  {status: 200, rest: `"error":{"code":-32022,"message":"sold out"}`, safe: true, calls: 2},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex // held while a call is served, and while the test looks
			var sessions []string
			bad := false
			s := newScript(t, func(w http.ResponseWriter, r *http.Request, id string) {
				mu.Lock()
				defer mu.Unlock()
				sessions = append(sessions, r.Header.Get("Mcp-Session-Id"))
				if bad && sessions[len(sessions)-1] == "session-1" {
					text := `{"jsonrpc":"2.0","id":` + id + `,` + c.rest + `}`
					if c.header == nil {
						answered(w, c.status, text)
						return
					}
					maps.Copy(w.Header(), c.header)
					w.WriteHeader(c.status)
					io.WriteString(w, text)
					return
				}
				events(w, resultOf(id))
			})
			b := open(t, at(s.URL))
			mustDo(t, b, callOf("pay", `{}`))
			set := func(now bool) {
				mu.Lock()
				defer mu.Unlock()
				sessions, bad = nil, now
			}
			seen := func() []string {
				mu.Lock()
				defer mu.Unlock()
				return sessions
			}
			set(true)
			m := callOf("pay", `{}`)
			m.Safe = c.safe
			a, err := b.Do(t.Context(), m, nil)
			if calls := len(seen()); calls != c.calls || (err != nil) != c.fails || c.calls == 1 && !c.fails && a.Error == nil {
				t.Errorf("%d calls, %s %s %v", calls, a.Result, a.Error, err)
			}
			set(false)
			mustDo(t, b, callOf("pay", `{}`))
			if got := seen(); len(got) != 1 || (got[0] != "session-1") != c.anew {
				t.Errorf("sessions %q", got)
			}
		})
	}
}

// Parallel messages of many callers get their own answers.
func TestParallel(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		m := backends.New(t, backends.Options{Legacy: legacy})
		b := open(t, at(m.Endpoint()))
		var all sync.WaitGroup
		for i := range 64 {
			all.Go(func() {
				call := callOf("whoami", `{}`)
				call.Session, call.Header = fmt.Sprint("grant-", i), http.Header{"Authorization": {fmt.Sprintf("Bearer token-%d.", i)}}
				for range 5 {
					a, err := b.Do(context.Background(), call, nil)
					if err != nil || !strings.Contains(string(a.Result), fmt.Sprintf("token-%d.", i)) {
						t.Errorf("caller %d: %s %s %v", i, a.Result, a.Error, err)
					}
				}
			})
		}
		all.Wait()
	}
}

// A closed server leaves nothing behind, and messages that come too late fail.
func TestClose(t *testing.T) {
	before := goleak.IgnoreCurrent()
	m, err := backends.Start(backends.Options{Legacy: true})
	if err != nil {
		t.Fatal(err)
	}
	b, err := backend.New(backend.Options{Server: at(m.Endpoint()), Log: nil})
	if err != nil {
		t.Fatal(err)
	}
	mustDo(t, b, callOf("echo", `{}`))
	listening := make(chan error)
	go func() { listening <- b.Listen(context.Background(), "", nil, nil, nil) }()
	eventually(t, "somebody listens", func() bool { return strings.Contains(m.Log(), "GET /mcp") })
	b.Close()
	if err := <-listening; err == nil {
		t.Error("a listener to a closed server")
	}
	if _, err := b.Do(t.Context(), callOf("echo", `{}`), nil); err == nil {
		t.Error("a message to a closed server")
	}
	m.Down()
	goleak.VerifyNone(t, before)
}
