package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// flooded is a server with metrics, a real user, and clients that refresh.
func flooded(t *testing.T, clients int) (d *daemon, metrics string, families []*refreshing) {
	t.Helper()
	metrics = "127.0.0.1:" + freePort(t)
	d = startDaemon(t, []string{"SIGNET_LOG_LEVEL=info", "SIGNET_METRICS_LISTEN=" + metrics, "SIGNET_TRUSTED_PROXIES=127.0.0.0/8", wideLimits, "GOMAXPROCS=1"}, "--demo")
	if _, errOut, status := d.signet("correct horse battery staple\n", "user", "add", "ann", "--password-stdin"); status != 0 {
		t.Fatal(errOut)
	}
	d.stop() // it would look at the users file in a second
	d.start()
	for range clients {
		client, tok := d.login()
		families = append(families, &refreshing{client: client.ClientID, handle: tok.RefreshToken})
	}
	return d, "http://" + metrics + "/metrics", families
}

// measured reads one number from the metrics.
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

// INV20: while far more logins come than can be served, they are refused in time, the
// rest wait within their bound, and refreshes and health probes go on.
func TestINV20_FloodOfLogins(t *testing.T) {
	d, metrics, families := flooded(t, 8)
	client := registerClient(t, d.issuer, "http://127.0.0.1:9/callback")
	login := loginFrom(t, authorizationURL(d.issuer, client, "http://127.0.0.1:9/callback", "s"), "ann", "correct horse battery staple")
	c, err := dial(d.issuer)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if status, err := login(0, c); status != http.StatusSeeOther {
		t.Fatal(status, err)
	}
	refreshes := schedule{rate: 50, connections: len(families), lasts: 3 * time.Second, send: func(i int, c *wire) (int, error) { return families[i].send(c) }}
	var logins, tokens, health seen
	var load sync.WaitGroup
	load.Go(func() {
		logins = schedule{rate: 400, connections: 100, lasts: refreshes.lasts, send: login}.run(t, d.issuer)
	})
	load.Go(func() { tokens = refreshes.run(t, d.issuer) })
	load.Go(func() {
		health = schedule{rate: 20, connections: 2, lasts: refreshes.lasts, send: func(_ int, c *wire) (int, error) {
			status, _, err := c.exchange(getRequest(c.host, "/livez"))
			return status, err
		}}.run(t, d.issuer)
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
	if logins.failures > 0 || len(logins.good) == 0 || len(logins.refused) == 0 || percentile(logins.good, 90) > 5*time.Second {
		t.Errorf("logins: %v; want some to be served within two seconds, and the rest refused", logins)
	}
	if tokens.failures > 0 || len(tokens.refused) > 0 || percentile(tokens.good, 90) > time.Second {
		t.Errorf("refreshes beside them: %v", tokens)
	}
	if health.failures > 0 || len(health.refused) > 0 || percentile(health.good, 90) > time.Second {
		t.Errorf("health probes beside them: %v", health)
	}
}

// INV22, recovery: after more connections than may wait have refreshed as fast as they
// could, everything is as it was: goroutines, descriptors, and a refresh is quick.
func TestINV22_AfterOverload(t *testing.T) {
	d, metrics, families := flooded(t, 8)
	quick := schedule{rate: 50, connections: len(families), lasts: time.Second, send: func(i int, c *wire) (int, error) { return families[i].send(c) }}
	quick.run(t, d.issuer)
	goroutines, files := measured(t, metrics, "go_goroutines"), d.descriptors()
	// Handles that do not open cost as much at the door as others.
	var refused atomic.Int64
	garbage := schedule{rate: 1e9, connections: 1500, lasts: 2 * time.Second, closed: true, send: func(_ int, c *wire) (int, error) {
		status, _, err := c.exchange(formRequest(c.host, "/token", "grant_type=refresh_token&refresh_token=x&client_id="+families[0].client))
		if status == http.StatusServiceUnavailable {
			refused.Add(1)
		}
		return http.StatusOK, err
	}}
	over := garbage.run(t, d.issuer)
	if over.failures > 0 {
		t.Errorf("%d connections broke: %v", over.failures, over.failed)
	}
	begin := time.Now()
	eventually(t, func() bool {
		return measured(t, metrics, "go_goroutines") < goroutines+20 && d.descriptors() < files+20
	})
	after := quick.run(t, d.issuer)
	t.Logf("over: %v, %d refused\nafter %v: %v", over, refused.Load(), time.Since(begin), after)
	if after.failures > 0 || len(after.refused) > 0 || percentile(after.good, 50) > 250*time.Millisecond {
		t.Errorf("after an overload: %v", after)
	}
	for _, class := range []string{"revoke", "refresh", "introspect", "code", "pages", "login", "register", "mcp"} {
		for _, what := range []string{"running", "waiting"} {
			if n := measured(t, metrics, fmt.Sprintf("signet_requests_%s{class=%q}", what, class)); n != 0 {
				t.Errorf("%g requests of class %s are %s for ever", n, class, what)
			}
		}
	}
}

// descriptors counts the daemon's open files.
func (d *daemon) descriptors() int {
	d.t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.p.PID()))
	if err != nil {
		d.t.Fatal(err)
	}
	return len(files)
}

// A request at every class's door carries its class in the metrics, and what is never
// refused is in none.
func TestMetricsByClass(t *testing.T) {
	d, metrics, families := flooded(t, 1)
	c, err := dial(d.issuer)
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
		if status, body, err := c.exchange(getRequest(c.host, path)); status != http.StatusOK || bytes.Contains(body, []byte("error")) || err != nil {
			t.Errorf("%s: %d %v", path, status, err)
		}
	}
	if n := total() - before; n != 0 {
		t.Errorf("%g of them have a class", n)
	}
	if status, err := families[0].send(c); status != http.StatusOK {
		t.Fatal(status, err)
	}
	if n := measured(t, metrics, `signet_requests_admitted_total{class="refresh"}`) - refreshes; n != 1 || total()-before != 1 {
		t.Errorf("a refresh counts as %g in its class and %g in all", n, total()-before)
	}
}
