package backend_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signet/internal/backend"
	"signet/internal/gatewayconfig"
	"signet/internal/test/backends"
)

// retrying is a routing that repeats at once.
func retrying(change ...func(*gatewayconfig.Routing)) func(*backend.Options) {
	r := gatewayconfig.Routing{
		Retries: 2, BaseDelay: time.Microsecond, MaxDelay: time.Second, Backoff: 2, Jitter: true, FailureThreshold: 100,
		RetryNetwork: true, RetryStatuses: []int{408, 429}, RetryClasses: []int{5},
	}
	for _, c := range change {
		c(&r)
	}
	return func(o *backend.Options) { o.Routing = r }
}

func safe(m backend.Message) backend.Message {
	m.Safe = true
	return m
}

// What is safe to repeat is repeated, if the failure is of a kind that passes; nothing else is.
func TestRetry_Row82_Probe19(t *testing.T) {
	for name, c := range map[string]struct {
		status, times int
		safe          bool
		routing       func(*gatewayconfig.Routing)
		hits          int
		ok            bool
	}{
		"500, 500, ok":           {status: 500, times: 2, safe: true, hits: 3, ok: true},
		"500 three times":        {status: 500, times: 3, safe: true, hits: 3},
		"503":                    {status: 503, times: 1, safe: true, hits: 2, ok: true},
		"408":                    {status: 408, times: 1, safe: true, hits: 2, ok: true},
		"429":                    {status: 429, times: 1, safe: true, hits: 2, ok: true},
		"400":                    {status: 400, times: 1, safe: true, hits: 1},
		"403":                    {status: 403, times: 1, safe: true, hits: 1},
		"not safe":               {status: 500, times: 1, hits: 1},
		"not safe, but opted in": {status: 500, times: 2, hits: 3, ok: true, routing: func(r *gatewayconfig.Routing) { r.RetryAnyMethod = true }},
		"no retries":             {status: 500, times: 1, safe: true, hits: 1, routing: func(r *gatewayconfig.Routing) { r.Retries = 0 }},
		"no such class":          {status: 500, times: 1, safe: true, hits: 1, routing: func(r *gatewayconfig.Routing) { r.RetryClasses = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			if c.routing == nil {
				c.routing = func(*gatewayconfig.Routing) {}
			}
			m := backends.New(t, backends.Options{})
			b := open(t, at(m.Endpoint()), retrying(c.routing))
			m.Switch(func(s *backends.Switches) { s.Status, s.Times = c.status, c.times })
			call := callOf("echo", `{}`)
			call.Safe = c.safe
			a, err := b.Do(t.Context(), call, nil)
			if n := len(m.Calls()); n != c.hits || (err == nil && a.Result != nil) != c.ok {
				t.Errorf("%d hits, %v; want %d, %v", n, err, c.hits, c.ok)
			}
		})
	}
}

// A broken connection is repeated if that is safe; a refused one always, for nothing was done.
func TestRetryNetwork_Row82(t *testing.T) {
	for _, isSafe := range []bool{true, false} {
		var hits atomic.Int32
		front := cutting(t, backends.New(t, backends.Options{}), func() bool { return hits.Add(1) <= 2 })
		b := open(t, at(front), retrying())
		call := callOf("echo", `{}`)
		call.Safe = isSafe
		_, err := b.Do(t.Context(), call, nil)
		want := map[bool]int32{true: 3, false: 1}[isSafe]
		if n := hits.Load(); (err == nil) != isSafe || n != want {
			t.Errorf("safe %v: %v after %d hits, want %d", isSafe, err, n, want)
		}
	}
	dead, alive := backends.New(t, backends.Options{}), backends.New(t, backends.Options{})
	dead.Down()
	b := open(t, at(dead.Endpoint(), alive.Endpoint()), retrying())
	for range 4 {
		mustDo(t, b, callOf("write", `{}`))
	}
	if n := len(alive.Calls()); n != 4 {
		t.Errorf("%d calls at the instance that is alive", n)
	}
}

// cutting is the address of a server before m that cuts the connection of calls as long as cut
// says so.
func cutting(t *testing.T, m *backends.MCP, cut func() bool) string {
	t.Helper()
	return proxied(t, m, func(w http.ResponseWriter, _ *http.Request, body string) bool {
		if !strings.Contains(body, "tools/call") || !cut() {
			return false
		}
		panic(http.ErrAbortHandler)
	})
}

// leaving is the address of a server before m at whose first call the caller leaves.
func leaving(t *testing.T, m *backends.MCP, leave func()) string {
	t.Helper()
	return proxied(t, m, func(_ http.ResponseWriter, _ *http.Request, body string) bool {
		if strings.Contains(body, "tools/call") {
			leave()
		}
		return false
	})
}

// Retry-After is waited for, or the message is given up if that is too long, and the caller learns
// how long.
func TestRetryAfter_Row82(t *testing.T) {
	m := backends.New(t, backends.Options{})
	b := open(t, at(m.Endpoint()), retrying())
	mustDo(t, b, callOf("echo", `{}`))
	m.Switch(func(s *backends.Switches) { s.Status, s.Times, s.RetryAfter = 429, 1, "1" })
	begin := time.Now()
	mustDo(t, b, safe(callOf("echo", `{}`)))
	if d := time.Since(begin); d < time.Second {
		t.Errorf("again after %v", d)
	}
	m.Switch(func(s *backends.Switches) { s.Status, s.Times, s.RetryAfter = 429, 1, "120" })
	if e := failure(t, b, safe(callOf("echo", `{}`))); e.RetryAfter != 2*time.Minute || e.Status != 429 || e.Kind != backend.Down {
		t.Errorf("%+v", e)
	}
}

// A caller who leaves is not waited for.
func TestCancelEndsRetries(t *testing.T) {
	m := backends.New(t, backends.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	b := open(t, at(leaving(t, m, cancel)), retrying(func(r *gatewayconfig.Routing) { r.BaseDelay, r.MaxDelay, r.Jitter = time.Hour, time.Hour, false }))
	m.Switch(func(s *backends.Switches) { s.Status = 500 })
	if _, err := b.Do(ctx, safe(callOf("echo", `{}`)), nil); err != context.Canceled {
		t.Errorf("%v", err)
	}
}

// Instances take turns, in proportion to their weights.
func TestShares_Row81_Probe18(t *testing.T) {
	for strategy, c := range map[string]struct{ calls, first int }{"round_robin": {4, 2}, "weighted": {400, 300}, "health": {40, 20}} {
		one, two := backends.New(t, backends.Options{}), backends.New(t, backends.Options{})
		s := at(one.Endpoint(), two.Endpoint())
		s.Instances[0].Weight = 3
		b := open(t, s, retrying(func(r *gatewayconfig.Routing) { r.Strategy = strategy }))
		for range c.calls {
			mustDo(t, b, callOf("echo", `{}`))
		}
		if n, rest := len(one.Calls()), len(two.Calls()); n != c.first || n+rest != c.calls {
			t.Errorf("%s: %d and %d of %d calls", strategy, n, rest, c.calls)
		}
	}
}

// An instance that fails loses its traffic, and regains it.
func TestHealthMovesTraffic_Row81(t *testing.T) {
	one, two := backends.New(t, backends.Options{}), backends.New(t, backends.Options{})
	b := open(t, at(one.Endpoint(), two.Endpoint()), retrying(func(r *gatewayconfig.Routing) { r.Strategy = "health" }))
	one.Switch(func(s *backends.Switches) { s.Status = 500 })
	for range 100 {
		mustDo(t, b, safe(callOf("echo", `{}`)))
	}
	if n := len(one.Calls()); n > 30 {
		t.Errorf("%d of 100 calls went to the instance that fails", n)
	}
	one.Switch(func(s *backends.Switches) { s.Status = 0 })
	for range 1000 {
		mustDo(t, b, callOf("echo", `{}`))
	}
	one.Forget()
	for range 100 {
		mustDo(t, b, callOf("echo", `{}`))
	}
	if n := len(one.Calls()); n < 45 {
		t.Errorf("%d of 100 calls went to the instance that is well again", n)
	}
}

// So many failed messages in a row open the circuit breaker, however often each was repeated, and
// then nothing is sent. Messages that are kept back do not prolong that, and after it messages that
// go well close the breaker.
func TestBreaker_Row83_Probe17(t *testing.T) {
	m := backends.New(t, backends.Options{})
	const recovery = 200 * time.Millisecond
	b := open(t, at(m.Endpoint()), retrying(func(r *gatewayconfig.Routing) { r.FailureThreshold, r.SuccessThreshold, r.Recovery = 3, 2, recovery }))
	mustDo(t, b, callOf("echo", `{}`))
	m.Switch(func(s *backends.Switches) { s.Status = 500 })
	begin := time.Now()
	for range 3 {
		if got := b.State().Instance[0].Breaker; got != "closed" {
			t.Fatalf("the breaker is %s before 3 failed messages", got)
		}
		failure(t, b, safe(callOf("echo", `{}`)))
	}
	m.Forget()
	e := failure(t, b, callOf("echo", `{}`))
	if e.Kind == backend.Open && (!strings.Contains(e.Error(), "circuit open") || e.RetryAfter <= 0 || e.RetryAfter > recovery || len(m.Calls()) != 0) {
		t.Errorf("%+v, %d calls", e, len(m.Calls()))
	}
	m.Switch(func(s *backends.Switches) { s.Status = 0 })
	eventually(t, "a trial is let through", func() bool {
		_, err := b.Do(t.Context(), callOf("echo", `{}`), nil)
		return err == nil
	})
	if d := time.Since(begin); d < recovery {
		t.Errorf("a trial after %v", d)
	}
	if got := b.State().Instance[0].Breaker; got != "half-open" {
		t.Errorf("the breaker is %s after one good trial of two", got)
	}
	mustDo(t, b, callOf("echo", `{}`))
	if got := b.State().Instance[0].Breaker; got != "closed" {
		t.Errorf("the breaker is %s", got)
	}
}

// What does not mean that the server is ill opens no breaker.
func TestBreakerCountsFailuresOnly_Row83(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404, 429} {
		m := backends.New(t, backends.Options{})
		b := open(t, at(m.Endpoint()), func(o *backend.Options) { o.Routing.FailureThreshold = 1 })
		mustDo(t, b, callOf("echo", `{}`))
		m.Switch(func(s *backends.Switches) { s.Status = status })
		for range 3 {
			if e := failure(t, b, callOf("echo", `{}`)); e.Kind == backend.Open {
				t.Errorf("%d opened the breaker", status)
			}
		}
	}
	hold := make(chan struct{})
	defer close(hold)
	m := backends.New(t, backends.Options{Hold: hold})
	ctx, cancel := context.WithCancel(t.Context())
	b := open(t, at(leaving(t, m, cancel)), func(o *backend.Options) { o.Routing.FailureThreshold = 1 })
	if _, err := b.Do(ctx, callOf("slow", `{"steps":0}`), nil); err != context.Canceled {
		t.Errorf("%v", err)
	}
	mustDo(t, b, callOf("echo", `{}`))
}

// A call whose answer is no answer opens the circuit breaker, unless that may come of the call alone:
// one user or one tool must not take the server away from all. %d is the id of the call.
func TestBreakerAndBadAnswers_Row83(t *testing.T) {
	for name, c := range map[string]struct {
		kind, text string
		ill        bool
	}{
		"too long":              {"application/json", `{"jsonrpc":"2.0","id":%d,"result":{"content":["` + strings.Repeat("x", 1<<20) + `"]}}`, false},
		"too long, events":      {"text/event-stream", `data: {"jsonrpc":"2.0","id":%d,"result":{"content":["` + strings.Repeat("x", 1<<20) + `"]}}` + "\n\n", false},
		"NaN":                   {"application/json", `{"jsonrpc":"2.0","id":%d,"result":{"content":[],"x":NaN}}`, false},
		"NaN, id last":          {"application/json", `{"result":{"content":[],"x":NaN},"jsonrpc":"2.0","id":%d}`, false},
		"NaN, events":           {"text/event-stream", `data: {"jsonrpc":"2.0","id":%d,"result":{"content":[],"x":NaN}}` + "\n\n", false},
		"wrong shape":           {"application/json", `{"jsonrpc":"2.0","id":%d,"result":{"content":{}}}`, false},
		"wrong shape, events":   {"text/event-stream", `data: {"jsonrpc":"2.0","id":%d,"result":{"content":{}}}` + "\n\n", false},
		"no error of JSON-RPC":  {"application/json", `{"jsonrpc":"2.0","id":%d,"error":"text"}`, false},
		"it cannot be read":     {"application/json", `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}`, false},
		"it is no request":      {"application/json", `{"jsonrpc":"2.0","error":{"code":-32600,"message":"Invalid request"}}`, false},
		"input for old callers": {"application/json", `{"jsonrpc":"2.0","id":%d,"result":{"resultType":"input_required"}}`, false},
		"no id":                 {"application/json", `{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"Internal error"}}`, true},
		"other id":              {"application/json", `{"jsonrpc":"2.0","id":1%d,"result":{"content":[]}}`, true},
		"id as a string":        {"application/json", `{"jsonrpc":"2.0","id":"%d","result":{"content":[]}}`, true},
		"no JSON":               {"application/json", `panic: %d`, true},
		"HTML":                  {"text/html", `<h1>Welcome %d</h1>`, true},
		"empty":                 {"application/json", ``, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := backends.New(t, backends.Options{})
			bad := proxied(t, m, func(w http.ResponseWriter, _ *http.Request, body string) bool {
				var request struct {
					ID     int
					Params struct{ Name string }
				}
				if json.Unmarshal([]byte(body), &request) != nil || request.Params.Name != "bad" {
					return false
				}
				w.Header().Set("Content-Type", c.kind)
				io.WriteString(w, strings.ReplaceAll(c.text, "%d", strconv.Itoa(request.ID)))
				return true
			})
			s := at(bad)
			s.MaxAnswer = 1 << 20
			b := open(t, s, func(o *backend.Options) { o.Routing.FailureThreshold = 2 })
			for range 3 {
				failure(t, b, callOf("bad", `{}`))
			}
			if got := b.State().Instance[0].Breaker; (got == "open") != c.ill {
				t.Errorf("the breaker is %s", got)
			}
			if !c.ill {
				mustDo(t, b, callOf("echo", `{}`))
			}
		})
	}
}

// A server that opens no session is ill, whatever is wrong with its answer.
func TestBreakerWithoutSession_Row83(t *testing.T) {
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m struct{ ID json.RawMessage }
		_ = json.NewDecoder(r.Body).Decode(&m)
		answered(w, 200, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":[]}`)
	}))
	defer h.Close()
	b := open(t, at(h.URL), func(o *backend.Options) { o.Routing.FailureThreshold = 1 })
	failure(t, b, callOf("echo", `{}`))
	if got := b.State().Instance[0].Breaker; got != "open" {
		t.Errorf("the breaker is %s", got)
	}
}

// When as many messages run as may, the next one is refused, and let through when one has ended.
func TestBusy(t *testing.T) {
	hold := make(chan struct{})
	m := backends.New(t, backends.Options{Hold: hold})
	s := at(m.Endpoint())
	s.MaxRequests = 2
	var outcomes outcomes
	b := open(t, s, func(o *backend.Options) { o.Observe = outcomes.add })
	var running sync.WaitGroup
	for range 2 {
		running.Go(func() {
			if _, err := b.Do(context.Background(), callOf("slow", `{"steps":0}`), nil); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "two calls run", func() bool { return len(m.Calls()) == 2 })
	if e := failure(t, b, callOf("echo", `{}`)); e.Kind != backend.Busy || e.RetryAfter <= 0 {
		t.Errorf("%+v", e)
	}
	close(hold)
	running.Wait()
	mustDo(t, b, callOf("echo", `{}`))
	if got := outcomes.sorted(); !slices.Equal(got, []string{"busy", "ok", "ok", "ok"}) {
		t.Errorf("outcomes %v", got)
	}
}

type outcomes struct {
	mu   sync.Mutex
	list []string
}

func (o *outcomes) add(outcome string, _ time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = append(o.list, outcome)
}

func (o *outcomes) sorted() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Sorted(slices.Values(o.list))
}

// A disabled server gets nothing, until it is enabled.
func TestDisabled_Row84(t *testing.T) {
	m := backends.New(t, backends.Options{})
	b := open(t, at(m.Endpoint()))
	b.Enable(false)
	if e := failure(t, b, callOf("echo", `{}`)); e.Kind != backend.Disabled || len(m.Calls()) != 0 || b.State().Status != "disabled" {
		t.Errorf("%+v", e)
	}
	if err := b.Listen(t.Context(), "", nil, nil, nil); err == nil {
		t.Error("a disabled server is listened to")
	}
	b.Enable(true)
	mustDo(t, b, callOf("echo", `{}`))
}

// The state of a server follows its health, and its lists may be others when it comes back.
func TestHealth_Row84(t *testing.T) {
	m := backends.New(t, backends.Options{})
	changed := make(chan string, 100)
	s := at(m.Endpoint())
	s.HealthEvery = 10 * time.Millisecond
	b := open(t, s, func(o *backend.Options) { o.Changed = func(list string) { changed <- list } })
	eventually(t, "it runs", func() bool { return b.State().Status == "running" })
	m.Down()
	eventually(t, "it is down", func() bool { return b.State().Status == "error" })
	if got := b.State(); got.Problem != "connection refused" && got.Problem != "connection reset" && !strings.Contains(got.Problem, "connection ended") {
		t.Errorf("problem %q", got.Problem)
	}
	if err := b.Check(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "server srv: ") {
		t.Errorf("check: %v", err)
	}
	if err := m.Up(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it runs again", func() bool { return b.State().Status == "running" })
	if list := <-changed; list != "" {
		t.Errorf("changed: %q", list)
	}
	if err := b.Restart(t.Context()); err != nil {
		t.Error(err)
	}
	m.Switch(func(s *backends.Switches) { s.Unhealthy = 503 })
	eventually(t, "it is ill", func() bool { return b.State().Problem == "it answered HTTP 503" })
}
