package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"signet/internal/seal"
	"signet/internal/test/npm"
	"signet/internal/test/pgtest"
	"signet/jwt"
)

// revokeToken has a client end the grant of its refresh handle.
func revokeToken(t testing.TB, issuer string, client registration, handle string) {
	t.Helper()
	resp, err := http.PostForm(issuer+"/revoke", url.Values{"token": {handle}, "client_id": {client.ClientID}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Fatalf("revoking: %d", resp.StatusCode)
	}
}

// replicaOf is a process of role mcp that follows d.
func replicaOf(d *daemon, settings ...string) *daemon {
	d.t.Helper()
	return startDaemon(d.t, append([]string{"SIGNET_ISSUER=" + d.issuer}, settings...), "--role", "mcp")
}

// until waits for a status of the MCP endpoint, and says how long that took.
func until(t testing.TB, d *daemon, token string, status int, limit time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		got := statusAt(t, d.listen()+"/mcp", token)
		took := time.Since(began)
		if got == status {
			return took
		}
		if took > limit {
			t.Fatalf("after %s still %d, want %d\n%s", limit, got, status, d.output())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// followerHealth is what /readyz of a process of role mcp says.
type followerHealth struct {
	Status      string
	Revocations string
	FeedAge     *int64 `json:"revocation_feed_age"`
}

func (d *daemon) followerHealth() (h followerHealth, status int) {
	d.t.Helper()
	resp, err := http.Get(d.listen() + "/readyz")
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(body, &h)
	}
	if err != nil {
		d.t.Fatalf("%v: %s", err, body)
	}
	return h, resp.StatusCode
}

// G04, INV4: what is revoked anywhere is refused at once where the store is, and
// within 15 seconds by a replica that has nothing but the issuer's URL; also by one
// that starts later.
func TestG04_INV4_RevocationReachesReplicas(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	replica := replicaOf(d)
	client, tok := d.login()
	_, other := d.login()
	for _, token := range []string{tok.AccessToken, other.AccessToken} {
		if got := statusAt(t, replica.listen()+"/mcp", token); got != 200 {
			t.Fatalf("before: %d", got)
		}
	}
	revokeToken(t, d.issuer, client, tok.RefreshToken)
	if got := mcpStatus(t, d.issuer, tok.AccessToken); got != 401 {
		t.Errorf("in the process with the store: %d, want 401 at once", got)
	}
	t.Logf("the replica refused it after %s", until(t, replica, tok.AccessToken, 401, 15*time.Second).Round(10*time.Millisecond))
	if got := statusAt(t, replica.listen()+"/mcp", other.AccessToken); got != 200 {
		t.Errorf("another grant: %d, want 200", got)
	}
	if got := statusAt(t, replicaOf(d).listen()+"/mcp", tok.AccessToken); got != 401 {
		t.Errorf("a replica that starts afterwards: %d, want 401 from its first answer on", got)
	}
	if h, status := replica.followerHealth(); status != 200 || h.Revocations != "current" || h.FeedAge == nil || *h.FeedAge > 15 {
		t.Errorf("readiness: %d %+v", status, h)
	}
	// The grant stays revoked when the issuer has stopped, and after it has started again.
	d.kill()
	if got := statusAt(t, replica.listen()+"/mcp", tok.AccessToken); got != 401 {
		t.Errorf("with the issuer gone: %d, want 401", got)
	}
	d.start()
	if got := statusAt(t, replicaOf(d).listen()+"/mcp", tok.AccessToken); got != 401 {
		t.Errorf("after a kill of the issuer: %d, want 401", got)
	}
}

// G04, F11: verifiers that are not ours, in Go and in JavaScript, as docs/verify.md
// shows them: a token is accepted, refused when the grant has been revoked, and
// refused still when somebody feeds them the list from before.
func TestG04_VerifiersElsewhere(t *testing.T) {
	proxy := npm.NewProxy(t)
	resources := map[string]string{}
	for _, language := range []string{"Go", "JavaScript"} {
		resources[language] = "http://localhost:" + freePort(t) + "/hello"
	}
	d := startDaemon(t, []string{"SIGNET_ISSUER=" + proxy.URL, "SIGNET_RESOURCES=" + resources["Go"] + "," + resources["JavaScript"]}, "--demo")
	proxy.To(t, d.issuer)
	d.issuer = proxy.URL
	_, before := fetchText(t, http.DefaultClient, proxy.URL+"/.well-known/revoked")
	tokens := map[string]string{}
	for language, resource := range resources {
		base := strings.TrimSuffix(resource, "/hello")
		settings := []string{"SIGNET_ISSUER=" + proxy.URL, "RESOURCE=" + resource, "LISTEN=" + strings.TrimPrefix(base, "http://")}
		if language == "Go" {
			startExample(t, "verifier", resource, settings...)
		} else {
			startScript(t, "examples/verifier/verifier.mjs", resource, settings...)
		}
		tokens[language] = tokenFor(t, d, resource, "demo_user", "demo_password")
		if status, body := fetchText(t, bearerClient(t, tokens[language]), resource); status != 200 || body != "Hello, demo_user, with the scopes read write.\n" {
			t.Errorf("%s: before: %d %s", language, status, body)
		}
		for name, bad := range map[string]string{"a changed token": tokens[language][:len(tokens[language])-4] + "AAAA", "the feed as a token": before} {
			if status, _ := fetchText(t, bearerClient(t, bad), resource); status != 401 {
				t.Errorf("%s: %s: %d, want 401", language, name, status)
			}
		}
	}
	out, errOut, status := d.signet("", "grant", "revoke", "--user", "demo_user")
	if status != 0 {
		t.Fatalf("grant revoke: %s%s", out, errOut)
	}
	eventually(t, func() bool { return len(d.feed().Revoked) > 0 }) // the 15 s are the verifiers'
	began := time.Now()
	for language, resource := range resources {
		for status := 0; status != 401; time.Sleep(20 * time.Millisecond) {
			if status, _ = fetchText(t, bearerClient(t, tokens[language]), resource); time.Since(began) > 15*time.Second {
				t.Fatalf("%s: still %d after 15 s", language, status)
			}
		}
	}
	t.Logf("both refused it after %s", time.Since(began).Round(10*time.Millisecond))
	// Both polls come from one proxy: each of the two has polled once more when it has seen three.
	polls := func() int { return len(proxy.Exchanges("/.well-known/revoked")) }
	replayed := polls()
	proxy.Instead(func(e npm.Exchange) (int, string) {
		if e.Path == "/.well-known/revoked" {
			return 200, before
		}
		return 0, ""
	})
	for deadline := time.Now().Add(30 * time.Second); polls() < replayed+3; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the feed is not polled any more")
		}
	}
	for language, resource := range resources {
		if status, _ := fetchText(t, bearerClient(t, tokens[language]), resource); status != 401 {
			t.Errorf("%s: after the old feed was replayed: %d, want 401", language, status)
		}
	}
}

// listen opens the one stream that the endpoint has, and returns what is closed when
// it ends.
func listen(t testing.TB, endpoint, token string) <-chan struct{} {
	t.Helper()
	const body = `{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},` +
		`"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`
	r, err := http.NewRequestWithContext(t.Context(), "POST", endpoint, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]string{
		"Authorization": "Bearer " + token, "Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "subscriptions/listen",
	} {
		r.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 1024)
	if n, err := resp.Body.Read(first); resp.StatusCode != 200 || !strings.Contains(string(first[:n]), "acknowledged") {
		t.Fatalf("%d %q %v", resp.StatusCode, first[:n], err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body) // until the server ends it, or the test does
	}()
	return ended
}

// G04: what a revoked grant has open ends, where the store is and in a replica;
// another's goes on.
func TestG04_OpenStreamsEnd(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	replica := replicaOf(d, "SIGNET_REVOCATION_POLL=1s")
	client, tok := d.login()
	_, other := d.login()
	streams := map[string]<-chan struct{}{"with the store": listen(t, d.issuer+"/mcp", tok.AccessToken), "replica": listen(t, replica.listen()+"/mcp", tok.AccessToken)}
	others := map[string]<-chan struct{}{"with the store": listen(t, d.issuer+"/mcp", other.AccessToken), "replica": listen(t, replica.listen()+"/mcp", other.AccessToken)}
	revokeToken(t, d.issuer, client, tok.RefreshToken)
	began := time.Now()
	for where, ended := range streams {
		select {
		case <-ended:
			t.Logf("%s: ended after %s", where, time.Since(began).Round(10*time.Millisecond))
		case <-time.After(10 * time.Second):
			t.Errorf("%s: still open after %s", where, time.Since(began))
		}
	}
	for where, ended := range others {
		select {
		case <-ended:
			t.Errorf("%s: another grant's stream ended, too", where)
		default:
		}
	}
}

// feed is the feed that d serves.
func (d *daemon) feed() (c jwt.FeedClaims) {
	d.t.Helper()
	status, raw := fetchText(d.t.(*testing.T), http.DefaultClient, d.issuer+"/.well-known/revoked")
	_, payload, err := jwt.UnsafeClaims(raw)
	if err == nil {
		err = json.Unmarshal(payload, &c)
	}
	if status != 200 || err != nil {
		d.t.Fatalf("the feed: %d %s (%v)", status, raw, err)
	}
	return c
}

// M02, INV11: while the database is away the feed is served and grows old. A replica
// that was told so refuses everything, as something that it does not know, and one
// that was not goes on; what is known to be revoked neither takes.
func TestG04_M02_FeedDuringAnOutage(t *testing.T) {
	database := pgtest.NewProxy(t, pgtest.URL(t))
	d := startDaemon(t, []string{"SIGNET_STORE=" + database.URL, "SIGNET_SECRET=" + seal.NewSecret()}, "--demo")
	metrics := "127.0.0.1:" + freePort(t)
	closed := replicaOf(d, "SIGNET_REVOCATION_POLL=1s", "SIGNET_REVOCATION_MAX_AGE=3s", "SIGNET_METRICS_LISTEN="+metrics)
	open := replicaOf(d, "SIGNET_REVOCATION_POLL=1s")
	client, gone := d.login()
	_, tok := d.login()
	revokeToken(t, d.issuer, client, gone.RefreshToken)
	for _, replica := range []*daemon{closed, open} {
		until(t, replica, gone.AccessToken, 401, 10*time.Second)
		until(t, replica, tok.AccessToken, 200, 10*time.Second)
	}
	database.Set(pgtest.Reset)
	t.Logf("failing closed after %s", until(t, closed, tok.AccessToken, 503, 20*time.Second).Round(10*time.Millisecond))
	if age := time.Since(time.Unix(d.feed().IssuedAt, 0)); age < 3*time.Second {
		t.Errorf("the feed looks %s old, as if the store had been read", age)
	}
	if h, status := closed.followerHealth(); status != 503 || h.Revocations != "failing closed" || h.FeedAge == nil || *h.FeedAge < 3 {
		t.Errorf("readiness of the replica that fails closed: %d %+v", status, h)
	}
	if _, text := fetchText(t, http.DefaultClient, "http://"+metrics+"/metrics"); !strings.Contains(text, "\nsignet_revocation_feed_age_seconds ") {
		t.Error("no metric of the feed's age")
	}
	for what, got := range map[string]int{
		"revoked, failing closed": statusAt(t, closed.listen()+"/mcp", gone.AccessToken),
		"revoked, open":           statusAt(t, open.listen()+"/mcp", gone.AccessToken),
		"forged, failing closed":  statusAt(t, closed.listen()+"/mcp", tok.AccessToken[:len(tok.AccessToken)-4]+"AAAA"),
	} {
		if got != 401 {
			t.Errorf("%s: %d, want 401", what, got)
		}
	}
	if got := statusAt(t, open.listen()+"/mcp", tok.AccessToken); got != 200 {
		t.Errorf("a good token where nothing is refused for the feed's age: %d", got)
	}
	database.Set(pgtest.Pass)
	until(t, closed, tok.AccessToken, 200, 20*time.Second)
	until(t, closed, gone.AccessToken, 401, 10*time.Second)
}

// An issuer without a feed, as older ones are, is told in the log and means what was
// configured. Where a feed stood before, its place is no way to give it another one.
func TestG04_IssuerWithoutAFeed(t *testing.T) {
	proxy := npm.NewProxy(t)
	d := startDaemon(t, []string{"SIGNET_ISSUER=" + proxy.URL}, "--demo")
	proxy.To(t, d.issuer)
	d.issuer = proxy.URL
	_, tok := d.login()
	var access atomic.Bool
	proxy.Instead(func(e npm.Exchange) (int, string) {
		switch {
		case e.Path != "/.well-known/revoked":
			return 0, ""
		case access.Load():
			return 200, tok.AccessToken
		}
		return 404, "{}"
	})
	open := replicaOf(d, "SIGNET_REVOCATION_POLL=1s")
	closed := replicaOf(d, "SIGNET_REVOCATION_POLL=1s", "SIGNET_REVOCATION_MAX_AGE=3s")
	check := func(what string) {
		t.Helper()
		if got := statusAt(t, open.listen()+"/mcp", tok.AccessToken); got != 200 {
			t.Errorf("%s: open: %d", what, got)
		}
		if got := statusAt(t, closed.listen()+"/mcp", tok.AccessToken); got != 503 {
			t.Errorf("%s: closed: %d", what, got)
		}
		if h, status := open.followerHealth(); status != 200 || h.Revocations != "failing open" || h.FeedAge != nil {
			t.Errorf("%s: readiness: %d %+v", what, status, h)
		}
	}
	check("no feed")
	if !strings.Contains(open.output(), "the issuer has no revocation feed: revoked access tokens are accepted until they expire") {
		t.Errorf("the log does not say so:\n%s", open.output())
	}
	access.Store(true)
	asked := len(proxy.Exchanges("/.well-known/revoked"))
	eventually(t, func() bool { return len(proxy.Exchanges("/.well-known/revoked")) > asked+3 })
	check("an access token in its place")
	proxy.Instead(nil) // the issuer is replaced by one that has a feed
	until(t, closed, tok.AccessToken, 200, 10*time.Second)
	_, feed := fetchText(t, http.DefaultClient, proxy.URL+"/.well-known/revoked")
	for where, endpoint := range map[string]string{"with the store": d.listen() + "/mcp", "replica": open.listen() + "/mcp"} {
		if got := statusAt(t, endpoint, feed); got != 401 {
			t.Errorf("%s: the feed as an access token: %d, want 401", where, got)
		}
	}
}
