package bench

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signet/internal/e2e"
)

// flooded starts a server with metrics, a user with a real password, and clients that
// refresh.
func flooded(t *testing.T, clients int) (d *e2e.Program, metrics string, families []*e2e.Refreshing) {
	t.Helper()
	metrics = "127.0.0.1:" + e2e.FreePort(t)
	d = e2e.Start(t, []string{"SIGNET_LOG_LEVEL=info", "SIGNET_METRICS_LISTEN=" + metrics, "SIGNET_TRUSTED_PROXIES=127.0.0.0/8", e2e.WideLimits, "GOMAXPROCS=1"}, "--demo")
	d.AddUser("ann", "correct horse battery staple")
	for range clients {
		client, tok := d.Login()
		families = append(families, &e2e.Refreshing{Client: client.ID, Handle: tok.RefreshToken})
	}
	return d, "http://" + metrics + "/metrics", families
}

// measured reads the value of one metric.
func measured(t *testing.T, url, name string) float64 {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// During a flood of logins, the numbers of hashes at once and of waiting logins stay
// within their bounds, other logins are refused, and refreshes and health probes go on.
func TestFloodOfLoginsLeavesRefreshesAlone_INV20(t *testing.T) {
	d, metrics, families := flooded(t, 8)
	client := e2e.Register(t, d.Issuer, "http://127.0.0.1:9/callback")
	login := loginFrom(t, client.AuthorizationURL("s"), "ann", "correct horse battery staple")
	c, err := e2e.Dial(d.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if status, err := login(0, c); status != http.StatusSeeOther {
		t.Fatal(status, err)
	}
	refreshes := e2e.Schedule{Rate: 50, Connections: len(families), Lasts: 3 * time.Second, Send: func(i int, c *e2e.Wire) (int, error) { return families[i].Send(c) }}
	var logins, tokens, health e2e.Seen
	var load sync.WaitGroup
	load.Go(func() {
		logins = e2e.Schedule{Rate: 400, Connections: 100, Lasts: refreshes.Lasts, Send: login}.Run(t, d.Issuer)
	})
	load.Go(func() { tokens = refreshes.Run(t, d.Issuer) })
	load.Go(func() {
		health = e2e.Schedule{Rate: 20, Connections: 2, Lasts: refreshes.Lasts, Send: func(_ int, c *e2e.Wire) (int, error) {
			status, _, err := c.Exchange(e2e.GetRequest(c.Host, "/livez"))
			return status, err
		}}.Run(t, d.Issuer)
	})
	done := make(chan struct{})
	go func() { load.Wait(); close(done) }()
	for sampling := true; sampling; {
		if n := measured(t, metrics, "signet_password_hashes_running"); n > 1 {
			t.Errorf("%g hashes run at once on one core", n)
		}
		if n := measured(t, metrics, "signet_password_hashes_waiting"); n > 8 {
			t.Errorf("%g logins wait, want 8 at most", n)
		}
		select {
		case <-done:
			sampling = false
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Logf("logins: %v\nrefreshes: %v\nhealth: %v", logins, tokens, health)
	if logins.Failures > 0 || len(logins.Good) == 0 || len(logins.Refused) == 0 {
		t.Errorf("logins: %v; want some to be served, and the rest refused", logins)
	}
	if tokens.Failures > 0 || len(tokens.Good) == 0 || len(tokens.Refused) > 0 {
		t.Errorf("refreshes beside them: %v; want all to be served", tokens)
	}
	if health.Failures > 0 || len(health.Good) == 0 || len(health.Refused) > 0 {
		t.Errorf("health probes beside them: %v; want all to be served", health)
	}
}

// After an overload of refreshes over more connections than may wait, goroutines and
// descriptors are back at their earlier number, and refreshes are served.
func TestNothingIsLeftOfAnOverload_INV22(t *testing.T) {
	d, metrics, families := flooded(t, 8)
	quick := e2e.Schedule{Rate: 50, Connections: len(families), Lasts: time.Second, Send: func(i int, c *e2e.Wire) (int, error) { return families[i].Send(c) }}
	quick.Run(t, d.Issuer)
	goroutines, files := measured(t, metrics, "go_goroutines"), d.Descriptors()
	// Handles that do not open take the same slots as others.
	var refused atomic.Int64
	garbage := e2e.Schedule{Rate: 1e9, Connections: 1500, Lasts: 2 * time.Second, Closed: true, Send: func(_ int, c *e2e.Wire) (int, error) {
		status, _, err := c.Exchange(e2e.FormRequest(c.Host, "/token", "grant_type=refresh_token&refresh_token=x&client_id="+families[0].Client))
		if status == http.StatusServiceUnavailable {
			refused.Add(1)
		}
		return http.StatusOK, err
	}}
	over := garbage.Run(t, d.Issuer)
	if over.Failures > 0 {
		t.Errorf("%d connections broke: %v", over.Failures, over.Failed)
	}
	e2e.Eventually(t, func() bool {
		return measured(t, metrics, "go_goroutines") < goroutines+20 && d.Descriptors() < files+20
	})
	after := quick.Run(t, d.Issuer)
	t.Logf("over: %v, %d refused\nafter: %v", over, refused.Load(), after)
	if after.Failures > 0 || len(after.Good) == 0 || len(after.Refused) > 0 {
		t.Errorf("after an overload: %v", after)
	}
	for _, class := range []string{"revoke", "refresh", "introspect", "code", "pages", "login", "register", "mcp"} {
		for _, what := range []string{"running", "waiting"} {
			if n := measured(t, metrics, fmt.Sprintf("signet_requests_%s{class=%q}", what, class)); n != 0 {
				t.Errorf("%g requests of class %s are still %s", n, class, what)
			}
		}
	}
}

// The metrics count each request by its class, except for requests that have none
// because they are never refused.
func TestMetricsCountRequestsByClass(t *testing.T) {
	d, metrics, families := flooded(t, 1)
	c, err := e2e.Dial(d.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	total := func() (n float64) {
		for _, class := range []string{"revoke", "refresh", "introspect", "code", "pages", "login", "register", "mcp"} {
			n += measured(t, metrics, fmt.Sprintf("signet_requests_admitted_total{class=%q}", class))
		}
		return n
	}
	before, refreshes := total(), measured(t, metrics, `signet_requests_admitted_total{class="refresh"}`)
	for _, path := range []string{"/livez", "/readyz", "/.well-known/jwks.json", "/.well-known/oauth-authorization-server", "/.well-known/revoked"} {
		if status, body, err := c.Exchange(e2e.GetRequest(c.Host, path)); status != http.StatusOK || bytes.Contains(body, []byte("error")) || err != nil {
			t.Errorf("%s: %d %v", path, status, err)
		}
	}
	if n := total() - before; n != 0 {
		t.Errorf("%g of them have a class", n)
	}
	if status, err := families[0].Send(c); status != http.StatusOK {
		t.Fatal(status, err)
	}
	if n := measured(t, metrics, `signet_requests_admitted_total{class="refresh"}`) - refreshes; n != 1 || total()-before != 1 {
		t.Errorf("a refresh counts as %g in its class and %g in all", n, total()-before)
	}
}
