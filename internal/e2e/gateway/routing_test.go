package gateway

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"signet/internal/e2e"
	"signet/internal/test/backends"
)

// The instances of one server share its calls: in turn, or by their weights.
func TestInstancesShareCalls_Row81(t *testing.T) {
	one, other := backends.New(t, backends.Options{}), backends.New(t, backends.Options{})
	for _, c := range []struct {
		name, routing, weights string
		calls, first           int
		within                 int
	}{
		{"in turn", "round_robin", "", 4, 2, 0},
		{"3 to 1", "weighted", "weight: 3, ", 400, 300, 40},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := start(t, fmt.Sprintf(`routing: {loadBalancer: {strategy: %s}}
servers:
  - {id: a, type: http, auth_strategy: bypass_auth, %sconfig: {url: %s}}
  - {id: a, type: http, auth_strategy: bypass_auth, config: {url: %s}}
`, c.routing, c.weights, one.Endpoint(), other.Endpoint()))
			token := w.token("ann")
			w.tools(token)
			one.Forget()
			other.Forget()
			for range c.calls {
				w.said(w.call(token, "a.echo", "{}"))
			}
			if got := len(one.Calls()); got < c.first-c.within || got > c.first+c.within || got+len(other.Calls()) != c.calls {
				t.Errorf("of %d calls, %d reached one instance and %d the other", c.calls, got, len(other.Calls()))
			}
		})
	}
}

// With the strategy health, an instance that fails loses the calls, and gets some again when it
// answers.
func TestFailingInstanceLosesCallsAndRegainsThem_Row81(t *testing.T) {
	one, other := backends.New(t, backends.Options{}), backends.New(t, backends.Options{})
	w := start(t, fmt.Sprintf(`routing: {loadBalancer: {strategy: health}, circuitBreaker: {recoveryTimeoutMs: 100}}
servers:
  - {id: a, type: http, auth_strategy: bypass_auth, config: {url: %s}}
  - {id: a, type: http, auth_strategy: bypass_auth, config: {url: %s}}
`, one.Endpoint(), other.Endpoint()))
	token := w.token("ann")
	w.said(w.call(token, "a.echo", "{}"))
	one.Down()
	failed := 0
	for range 50 {
		if r := w.call(token, "a.echo", "{}"); r.Status != 200 || strings.Contains(r.Body, "rror") {
			failed++
		}
	}
	if failed > 5 {
		t.Errorf("%d of 50 calls failed at an instance that is down", failed)
	}
	one.Forget()
	if err := one.Up(); err != nil {
		t.Fatal(err)
	}
	e2e.Eventually(t, func() bool {
		w.said(w.call(token, "a.echo", "{}"))
		return len(one.Calls()) > 0
	})
}

// What is safe to repeat is repeated after a failure, what is not reaches the server once.
func TestOnlySafeCallsAreRepeated_Row82(t *testing.T) {
	be := backends.New(t, backends.Options{})
	w := start(t, fmt.Sprintf(`routing: {retry: {maxRetries: 2, baseDelayMs: 1, jitter: none}, circuitBreaker: {failureThreshold: 100}}
servers:
  - id: a
    type: http
    auth_strategy: bypass_auth
    config: {url: %s}
    tools: {whoami: {idempotent: true}}
`, be.Endpoint()))
	token := w.token("ann")
	w.tools(token)
	for _, c := range []struct {
		tool          string
		status, times int
		hits          int
		good          bool
	}{
		{"a.echo", 500, 2, 3, true},   // marked as read-only by its server
		{"a.whoami", 500, 2, 3, true}, // marked as idempotent by the operator
		{"a.echo", 429, 1, 2, true},
		{"a.echo", 408, 1, 2, true},
		{"a.echo", 500, 3, 3, false}, // more often than it is tried
		{"a.echo", 400, 1, 1, false},
		{"a.write", 500, 1, 1, false},
	} {
		be.Forget()
		be.Switch(func(s *backends.Switches) { s.Status, s.Times = c.status, c.times })
		r := w.call(token, c.tool, "{}")
		be.Switch(func(s *backends.Switches) { s.Status = 0 })
		if text, failed := r.text(); (r.Error == nil && !failed && r.Result != nil) != c.good || r.Status != 200 {
			t.Errorf("%s after %d times %d: %s %s", c.tool, c.times, c.status, r, text)
		}
		if n := len(be.Calls()); n != c.hits {
			t.Errorf("%s after %d times %d reached the server %d times, want %d", c.tool, c.times, c.status, n, c.hits)
		}
	}
}

// Failed calls open the breaker of a server, as many as configured. While it is open, calls are
// refused at once and reach nothing. After its time, a good call closes it.
func TestBreakerOpensAndCloses_Row83(t *testing.T) {
	be := backends.New(t, backends.Options{})
	w := start(t, fmt.Sprintf(`routing: {retry: {maxRetries: 0}, circuitBreaker: {failureThreshold: 3, successThreshold: 1, recoveryTimeoutMs: 1000}}
servers:
  - {id: a, type: http, auth_strategy: bypass_auth, config: {url: %s}}
`, be.Endpoint()))
	token := w.token("ann")
	w.said(w.call(token, "a.echo", "{}"))
	be.Switch(func(s *backends.Switches) { s.Status = 500 })
	be.Forget()
	for range 3 {
		w.call(token, "a.echo", "{}")
	}
	if n := len(be.Calls()); n != 3 {
		t.Errorf("%d of 3 calls reached the server: the breaker opened too early", n)
	}
	for range 20 {
		if r := w.call(token, "a.echo", "{}"); r.Status >= 500 || !strings.Contains(strings.ToLower(r.Body), "circuit open") {
			t.Errorf("while the breaker is open: %s", r)
			break
		}
	}
	be.Switch(func(s *backends.Switches) { s.Status = 0 })
	e2e.Eventually(t, func() bool { // refused calls prolong nothing
		_, failed := w.call(token, "a.echo", "{}").text()
		return !failed
	})
}

// Every failure is a valid answer of its protocol that names the server and shows nothing of it.
func TestFailuresAreValidAnswers_Row86(t *testing.T) {
	be, h := backends.New(t, backends.Options{}), backends.NewHostile(t, backends.HostileOptions{Elsewhere: "http://127.0.0.1:9"})
	w := start(t, two(be.Endpoint(), h.Endpoint()))
	token := w.token("ann")
	w.tools(token)
	h.Switch(backends.HTML, "tools/call")
	for _, c := range []struct {
		name, body string
		status     int
		code       int // of the JSON-RPC error; 0: a result that is an error
		want       string
	}{
		{"not JSON", `{"jsonrpc":`, 400, -32700, ""},
		{"unknown method", `{"jsonrpc":"2.0","id":1,"method":"tools/none"}`, 0, -32601, ""},
		{"unknown server", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"nope.echo"}}`, 200, -32602, "nope.echo"},
		{"unknown tool", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a.nope"}}`, 200, -32602, "nope"},
		{"no name", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}`, 0, -32602, ""},
		{"name of the wrong type", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}`, 0, -32602, ""},
		{"broken server", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"b.echo"}}`, 200, 0, "b"},
	} {
		r := w.send(token, c.body)
		if c.status != 0 && r.Status != c.status || r.Status >= 500 {
			t.Errorf("%s: %s", c.name, r)
		}
		text, failed := r.text()
		if c.code == 0 && !failed || c.code != 0 && (r.Error == nil || r.Error.Code != c.code) {
			t.Errorf("%s: %s", c.name, r)
		}
		if r.Error != nil {
			text = r.Error.Message
		}
		if !strings.Contains(text, c.want) || strings.Contains(r.Body, backends.Canary) || strings.Contains(r.Body, "goroutine") {
			t.Errorf("%s: %s", c.name, r)
		}
	}
}

// A server answers what no client should believe. Its own calls fail with a message that names
// it; nothing of it reaches the client, and the other server is not touched.
func TestHostileServerFailsAlone(t *testing.T) {
	var elsewhere hits
	away := elsewhere.serve(t)
	be, h := backends.New(t, backends.Options{}), backends.NewHostile(t, backends.HostileOptions{Elsewhere: away})
	config := fmt.Sprintf(`routing: {retry: {maxRetries: 0}, circuitBreaker: {failureThreshold: 1000}}
servers:
  - {id: a, type: http, auth_strategy: bypass_auth, config: {url: %s}}
  - {id: b, type: http, auth_strategy: master_oauth, timeout: 2s, config: {url: %s}}
`, be.Endpoint(), h.Endpoint())
	w := start(t, config)
	token := w.token("ann")
	if got := w.said(w.call(token, "b.echo", `{"x":1}`)); got != `{"x":1}` {
		t.Fatalf("the server before it turns: %s", got)
	}
	for _, m := range backends.Manners {
		t.Run(string(m), func(t *testing.T) {
			h.Switch(m, "tools/call")
			var calls sync.WaitGroup
			calls.Go(func() {
				r := w.call(token, "b.echo", "{}")
				text, failed := r.text()
				if m == backends.Challenge && r.Status == http.StatusUnauthorized {
					failed, text = true, "b" // the user is asked to sign in again
				}
				if r.Status >= 500 || !failed || !strings.Contains(text, "b") || strings.Contains(r.Body, backends.Canary) || strings.Contains(r.Header.Get("WWW-Authenticate"), away) {
					t.Errorf("%s", r)
				}
			})
			if got := w.said(w.call(token, "a.echo", `{"x":1}`)); got != `{"x":1}` {
				t.Errorf("the other server: %s", got)
			}
			calls.Wait()
		})
	}
	h.Switch(backends.Good)
	if got := w.said(w.call(token, "b.echo", `{"x":1}`)); got != `{"x":1}` {
		t.Errorf("when it is good again: %s", got)
	}
	if n := elsewhere.count(); n != 0 {
		t.Errorf("%d requests followed the server elsewhere", n)
	}
}

// Names that are double, ambiguous, another server's or no names are left out; the others are
// served, also when there are very many, or when a description is very long.
func TestBadToolsAreLeftOut(t *testing.T) {
	be := backends.New(t, backends.Options{})
	h := backends.NewHostile(t, backends.HostileOptions{Tools: append(backends.ManyTools(10000), append(backends.BadNames("a"), backends.Tool("wordy", strings.Repeat("word ", 200<<10)), backends.Tool("last", "The last one"))...)})
	w := start(t, two(be.Endpoint(), h.Endpoint()))
	token := w.token("ann")
	names, _ := w.tools(token)
	own := 0
	seen := map[string]bool{}
	for _, name := range names {
		if seen[name] {
			t.Errorf("%q is listed twice", name)
		}
		if seen[name] = true; strings.HasPrefix(name, "a.") {
			own++
		}
		if strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x202e }) || strings.HasPrefix(name, "..") || len(name) > 1000 {
			t.Errorf("the name %q is served", name)
		}
	}
	if own != 4 {
		t.Errorf("the other server has %d tools", own)
	}
	if got := w.said(w.call(token, "a.echo", `{"x":1}`)); got != `{"x":1}` || len(h.Calls()) != 0 {
		t.Errorf("a.echo: %s, with %d calls of the hostile server", got, len(h.Calls()))
	}
	if w.Says("panic") > 0 {
		t.Error("the log has a panic")
	}
}

// hits counts the requests of a server that no request should reach.
type hits struct {
	mu sync.Mutex
	n  int
}

func (h *hits) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.n
}
