package fleet

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"signet/internal/e2e"
	"signet/internal/seal"
	"signet/internal/test/pgtest"
	"signet/internal/test/process"
	"signet/jwt"
)

// replicaOf is a process of role mcp that follows d.
func replicaOf(d *e2e.Program, settings ...string) *e2e.Program {
	d.T.Helper()
	return e2e.Start(d.T, append([]string{"SIGNET_ISSUER=" + d.Issuer}, settings...), "--role", "mcp")
}

// until waits for a status of the MCP endpoint, and returns how long that took.
func until(t testing.TB, d *e2e.Program, token string, status int, limit time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		got := e2e.Call(t, d.URL()+"/mcp", token)
		took := time.Since(began)
		if got == status {
			return took
		}
		if took > limit {
			t.Fatalf("after %s still %d, want %d\n%s", limit, got, status, d.Output())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// followerHealth is the answer of /readyz of a process of role mcp.
type followerHealth struct {
	Status      string
	Revocations string
	FeedAge     *int64 `json:"revocation_feed_age"`
}

func healthOf(d *e2e.Program) (h followerHealth, status int) {
	d.T.Helper()
	resp, err := http.Get(d.URL() + "/readyz")
	if err != nil {
		d.T.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(body, &h)
	}
	if err != nil {
		d.T.Fatalf("%v: %s", err, body)
	}
	return h, resp.StatusCode
}

// A revoked token is refused at once by the process with the store, and within 15
// seconds by a replica that has only the issuer's URL; also by a replica that starts
// later.
func TestRevocationReachesReplicas_G04_INV4(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	replica := replicaOf(d)
	client, tok := d.Login()
	_, other := d.Login()
	for _, token := range []string{tok.AccessToken, other.AccessToken} {
		if got := e2e.Call(t, replica.URL()+"/mcp", token); got != 200 {
			t.Fatalf("before: %d", got)
		}
	}
	client.Revoke(t, tok.RefreshToken)
	if got := e2e.Call(t, d.Issuer+"/mcp", tok.AccessToken); got != 401 {
		t.Errorf("in the process with the store: %d, want 401 at once", got)
	}
	t.Logf("the replica refused it after %s", until(t, replica, tok.AccessToken, 401, process.Patience).Round(10*time.Millisecond))
	if got := e2e.Call(t, replica.URL()+"/mcp", other.AccessToken); got != 200 {
		t.Errorf("another grant: %d, want 200", got)
	}
	if got := e2e.Call(t, replicaOf(d).URL()+"/mcp", tok.AccessToken); got != 401 {
		t.Errorf("a replica that starts afterwards: %d, want 401 from its first answer on", got)
	}
	if h, status := healthOf(replica); status != 200 || h.Revocations != "current" || h.FeedAge == nil || *h.FeedAge > 15 {
		t.Errorf("readiness: %d %+v", status, h)
	}
	// The grant stays revoked when the issuer has stopped, and after it has started again.
	d.Kill()
	if got := e2e.Call(t, replica.URL()+"/mcp", tok.AccessToken); got != 401 {
		t.Errorf("with the issuer gone: %d, want 401", got)
	}
	d.Start()
	if got := e2e.Call(t, replicaOf(d).URL()+"/mcp", tok.AccessToken); got != 401 {
		t.Errorf("after a kill of the issuer: %d, want 401", got)
	}
}

// G04, F11: verifiers of other programs, as docs/verify.md shows them: a token is
// accepted, refused when the grant has been revoked or the issuer's store was lost, and
// refused still when the verifier gets the list from before.
func TestOtherVerifiersRefuseWhatIsRevoked_G04(t *testing.T) {
	for language, start := range map[string]func(t *testing.T, resource string, settings ...string){
		"Go": func(t *testing.T, resource string, settings ...string) {
			e2e.StartExample(t, "verifier", resource, settings...)
		},
		"JavaScript": func(t *testing.T, resource string, settings ...string) {
			e2e.StartScript(t, "examples/verifier/verifier.mjs", resource, settings...)
		},
		"Python": func(t *testing.T, resource string, settings ...string) {
			e2e.StartPython(t, "examples/verifier/verifier.py", resource, []string{"jwt", "cryptography"}, settings...)
		},
	} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			listen := "localhost:" + e2e.FreePort(t)
			resource := "http://" + listen + "/hello"
			proxy := e2e.NewProxy(t)
			d := e2e.Start(t, []string{"SIGNET_ISSUER=" + proxy.URL, "SIGNET_RESOURCES=" + resource + ",http://localhost:1/other"}, "--demo")
			proxy.To(t, d.Issuer)
			d.Issuer = proxy.URL
			_, before := e2e.Fetch(t, http.DefaultClient, proxy.URL+"/.well-known/revoked")
			start(t, resource, "SIGNET_ISSUER="+proxy.URL, "RESOURCE="+resource, "LISTEN="+listen)
			token := verifies(t, d, resource, before)
			outlivesStrangers(t, proxy, resource, token)
			revokeAndWait(t, d, resource, token)
			lost := loseAndWait(t, d, resource, func(token string) int {
				status, _ := e2e.Fetch(t, e2e.BearerClient(t, token), resource)
				return status
			})
			polls := func() int { return len(proxy.Exchanges("/.well-known/revoked")) }
			replayed := polls()
			proxy.Instead(func(e e2e.Exchange) (int, string) {
				if e.Path == "/.well-known/revoked" {
					return 200, before
				}
				return 0, ""
			})
			e2e.Eventually(t, func() bool { return polls() >= replayed+2 }) // the feed is still polled
			for what, token := range map[string]string{"revoked": token, "of the lost store": lost} {
				if status, _ := e2e.Fetch(t, e2e.BearerClient(t, token), resource); status != 401 {
					t.Errorf("%s, after the old feed was replayed: %d, want 401", what, status)
				}
			}
		})
	}
}

// verifies returns a token that the verifier at resource accepts, after it has refused
// others, among them the feed.
func verifies(t *testing.T, d *e2e.Program, resource, feed string) string {
	t.Helper()
	token := e2e.TokenFor(t, d, resource, "demo_user", "demo_password")
	if status, body := e2e.Fetch(t, e2e.BearerClient(t, token), resource); status != 200 || body != "Hello, demo_user, with the scopes read write.\n" {
		t.Errorf("a good token: %d %s", status, body)
	}
	r, err := http.NewRequest("GET", resource, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("the scheme in lower case: %d, want 200 (RFC 9110 §11.1)", resp.StatusCode)
	}
	parts := strings.Split(token, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt"}`))
	for name, bad := range map[string]string{
		"none": "", "a changed token": token[:len(token)-4] + "AAAA", "the feed as a token": feed, "no signature": parts[0] + "." + parts[1] + ".", "alg none": none + "." + parts[1] + ".",
		"another header": none + "." + parts[1] + "." + parts[2], "not a token": "x", "of another resource": e2e.TokenFor(t, d, "http://localhost:1/other", "demo_user", "demo_password"),
	} {
		if status, _ := e2e.Fetch(t, e2e.BearerClient(t, bad), resource); status != 401 {
			t.Errorf("%s: %d, want 401", name, status)
		}
	}
	return token
}

// outlivesStrangers sends the verifier a token that names a key which does not exist, while the
// issuer does not answer: the keys that it has must stay in use.
func outlivesStrangers(t *testing.T, proxy *e2e.Proxy, resource, token string) {
	t.Helper()
	proxy.Instead(func(e e2e.Exchange) (int, string) {
		if e.Path == "/.well-known/jwks.json" {
			return 500, "down"
		}
		return 0, ""
	})
	header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","typ":"at+jwt","kid":"stranger"}`))
	if status, _ := e2e.Fetch(t, e2e.BearerClient(t, header+token[strings.Index(token, "."):]), resource); status != 401 && status != 503 {
		t.Errorf("a token of an unknown key: %d, want 401 or 503", status)
	}
	if status, _ := e2e.Fetch(t, e2e.BearerClient(t, token), resource); status != 200 {
		t.Errorf("a good token after that of a stranger, while there are no keys to fetch: %d, want 200", status)
	}
	proxy.Instead(nil)
}

// revokeAndWait revokes the grants and waits until the verifier refuses the token.
func revokeAndWait(t *testing.T, d *e2e.Program, resource, token string) {
	t.Helper()
	out, errOut, status := d.Signet("", "grant", "revoke", "--user", "demo_user")
	if status != 0 {
		t.Fatalf("grant revoke: %s%s", out, errOut)
	}
	e2e.Eventually(t, func() bool { return len(feed(d).Revoked) > 0 })
	e2e.Eventually(t, func() bool {
		status, _ := e2e.Fetch(t, e2e.BearerClient(t, token), resource)
		return status == 401
	})
}

// loseAndWait gives up what the store has issued, and waits until the verifier refuses a token
// that was good before. It returns the token.
func loseAndWait(t *testing.T, d *e2e.Program, resource string, call func(token string) int) string {
	t.Helper()
	token := e2e.TokenFor(t, d, resource, "demo_user", "demo_password")
	if status := call(token); status != 200 {
		t.Errorf("before the store was lost: %d, want 200", status)
	}
	d.Kill()
	if out, errOut, status := d.Signet("", "doctor", "--accept-loss"); status != 0 {
		t.Fatalf("doctor --accept-loss: %s%s", out, errOut)
	}
	d.Start()
	e2e.Eventually(t, func() bool { return call(token) == 401 })
	return token
}

// The nginx of docs/verify.md refuses what it should, learns of a revocation, and lets a
// verified request through with its user.
func TestNginxVerifiesTokens_G04(t *testing.T) {
	e2e.Need(t, "nginx")
	njsModule(t)
	list := e2e.Blocks(t, "docs/verify.md", "nginx")
	if len(list) != 1 {
		t.Fatalf("docs/verify.md has %d nginx blocks, want one", len(list))
	}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "Hello, %s, with the scopes %s.\n", r.Header.Get("X-User"), r.Header.Get("X-Scope"))
	}))
	t.Cleanup(api.Close)
	const audience = "https://api.example.com/hello"
	proxy := e2e.NewProxy(t)
	d := e2e.Start(t, []string{"SIGNET_ISSUER=" + proxy.URL, "SIGNET_RESOURCES=" + audience + ",http://localhost:1/other"}, "--demo")
	proxy.To(t, d.Issuer)
	d.Issuer = proxy.URL
	_, feed := e2e.Fetch(t, http.DefaultClient, proxy.URL+"/.well-known/revoked")
	n := startNginx(t, list[0].Text, e2e.FreePort(t), map[string]string{"https://auth.example.com": proxy.URL, "http://127.0.0.1:8080": api.URL})
	call := func(token string, more ...string) (int, string, http.Header) {
		r, err := http.NewRequest("GET", n.url+"/hello", nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		for _, name := range more {
			r.Header.Set(name, "evil")
		}
		resp, err := (&http.Client{Transport: n.transport, Timeout: 20 * time.Second}).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body), resp.Header
	}
	token := e2e.TokenFor(t, d, audience, "demo_user", "demo_password")
	if status, body, _ := call(token, "X-User", "X-Scope"); status != 200 || body != "Hello, demo_user, with the scopes read write.\n" {
		t.Errorf("a good token: %d %s", status, body)
	}
	parts := strings.Split(token, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt"}`))
	for name, bad := range map[string]string{
		"none": "", "a changed token": token[:len(token)-4] + "AAAA", "a changed claim": parts[0] + "." + parts[1][:len(parts[1])-4] + "AAAA." + parts[2], "the feed as a token": feed, "alg none": none + "." + parts[1] + ".", "not a token": "x",
		"a short signature": parts[0] + "." + parts[1] + ".AAAA", "of another resource": e2e.TokenFor(t, d, "http://localhost:1/other", "demo_user", "demo_password"),
	} {
		if status, _, h := call(bad); status != 401 || !strings.HasPrefix(h.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%s: %d %v, want 401", name, status, h)
		}
	}
	if status, _, _ := call(token); status != 200 {
		t.Errorf("the good token, again: %d", status)
	}
	for _, path := range []string{"/_signet/keys", "/_signet/revoked"} {
		resp, err := (&http.Client{Transport: n.transport}).Get(n.url + path)
		if err != nil || resp.StatusCode != 404 {
			t.Errorf("%s from outside: %v, %v, want 404", path, resp, err)
		}
	}
	for _, seen := range proxy.Exchanges("/.well-known/revoked") {
		if seen.Header.Get("Authorization") != "" {
			t.Error("the issuer gets the caller's token")
		}
	}
	out, errOut, status := d.Signet("", "grant", "revoke", "--user", "demo_user")
	if status != 0 {
		t.Fatalf("grant revoke: %s%s", out, errOut)
	}
	e2e.Eventually(t, func() bool { status, _, _ := call(token); return status == 401 })
	loseAndWait(t, d, audience, func(token string) int { status, _, _ := call(token); return status })
}

// listen opens the event stream of the endpoint, and returns a channel that is closed
// when it ends.
func listen(t testing.TB, client *http.Client, endpoint, token string) <-chan struct{} {
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
	resp, err := client.Do(r)
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
		io.Copy(io.Discard, resp.Body) // until the server or the test ends it
	}()
	return ended
}

// Open streams of a revoked grant end, in the process with the store and in a replica;
// those of another grant go on.
func TestRevocationEndsOpenStreams_G04(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	replica := replicaOf(d, "SIGNET_REVOCATION_POLL=1s")
	client, tok := d.Login()
	_, other := d.Login()
	streams := map[string]<-chan struct{}{"with the store": listen(t, http.DefaultClient, d.Issuer+"/mcp", tok.AccessToken), "replica": listen(t, http.DefaultClient, replica.URL()+"/mcp", tok.AccessToken)}
	others := map[string]<-chan struct{}{"with the store": listen(t, http.DefaultClient, d.Issuer+"/mcp", other.AccessToken), "replica": listen(t, http.DefaultClient, replica.URL()+"/mcp", other.AccessToken)}
	client.Revoke(t, tok.RefreshToken)
	began := time.Now()
	for where, ended := range streams {
		select {
		case <-ended:
			t.Logf("%s: ended after %s", where, time.Since(began).Round(10*time.Millisecond))
		case <-time.After(process.Patience):
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

// feed returns the revocation feed of d.
func feed(d *e2e.Program) (c jwt.FeedClaims) {
	d.T.Helper()
	status, raw := e2e.Fetch(d.T.(*testing.T), http.DefaultClient, d.Issuer+"/.well-known/revoked")
	_, payload, err := jwt.UnsafeClaims(raw)
	if err == nil {
		err = json.Unmarshal(payload, &c)
	}
	if status != 200 || err != nil {
		d.T.Fatalf("the feed: %d %s (%v)", status, raw, err)
	}
	return c
}

// While the database is away, the feed is served and grows old. A replica that fails
// closed then answers 503 to every token, and one that fails open goes on. Both refuse
// tokens that are known to be revoked.
func TestFeedGrowsOldDuringAnOutage_G04_M02(t *testing.T) {
	database := pgtest.NewProxy(t, pgtest.URL(t))
	d := e2e.Start(t, []string{"SIGNET_STORE=" + database.URL, "SIGNET_SECRET=" + seal.NewSecret()}, "--demo")
	metrics := "127.0.0.1:" + e2e.FreePort(t)
	closed := replicaOf(d, "SIGNET_REVOCATION_POLL=1s", "SIGNET_REVOCATION_MAX_AGE=3s", "SIGNET_METRICS_LISTEN="+metrics)
	open := replicaOf(d, "SIGNET_REVOCATION_POLL=1s")
	client, gone := d.Login()
	_, tok := d.Login()
	client.Revoke(t, gone.RefreshToken)
	for _, replica := range []*e2e.Program{closed, open} {
		until(t, replica, gone.AccessToken, 401, process.Patience)
		until(t, replica, tok.AccessToken, 200, process.Patience)
	}
	database.Set(pgtest.Reset)
	t.Logf("failing closed after %s", until(t, closed, tok.AccessToken, 503, process.Patience).Round(10*time.Millisecond))
	if age := time.Since(time.Unix(feed(d).IssuedAt, 0)); age < 3*time.Second {
		t.Errorf("the feed looks %s old, as if the store had been read", age)
	}
	if h, status := healthOf(closed); status != 503 || h.Revocations != "failing closed" || h.FeedAge == nil || *h.FeedAge < 3 {
		t.Errorf("readiness of the replica that fails closed: %d %+v", status, h)
	}
	if _, text := e2e.Fetch(t, http.DefaultClient, "http://"+metrics+"/metrics"); !strings.Contains(text, "\nsignet_revocation_feed_age_seconds ") {
		t.Error("no metric of the feed's age")
	}
	for what, got := range map[string]int{
		"revoked, failing closed": e2e.Call(t, closed.URL()+"/mcp", gone.AccessToken),
		"revoked, open":           e2e.Call(t, open.URL()+"/mcp", gone.AccessToken),
		"forged, failing closed":  e2e.Call(t, closed.URL()+"/mcp", tok.AccessToken[:len(tok.AccessToken)-4]+"AAAA"),
	} {
		if got != 401 {
			t.Errorf("%s: %d, want 401", what, got)
		}
	}
	if got := e2e.Call(t, open.URL()+"/mcp", tok.AccessToken); got != 200 {
		t.Errorf("a good token at the replica that fails open: %d", got)
	}
	database.Set(pgtest.Pass)
	until(t, closed, tok.AccessToken, 200, process.Patience)
	until(t, closed, gone.AccessToken, 401, process.Patience)
}

// An issuer without a feed, such as an older release, is reported in the log, and
// replicas fail open or closed as configured. No other document at the URL of the feed
// is taken for one.
func TestIssuerWithoutAFeedIsReported_G04(t *testing.T) {
	proxy := e2e.NewProxy(t)
	d := e2e.Start(t, []string{"SIGNET_ISSUER=" + proxy.URL}, "--demo")
	proxy.To(t, d.Issuer)
	d.Issuer = proxy.URL
	_, tok := d.Login()
	var access atomic.Bool
	proxy.Instead(func(e e2e.Exchange) (int, string) {
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
		if got := e2e.Call(t, open.URL()+"/mcp", tok.AccessToken); got != 200 {
			t.Errorf("%s: open: %d", what, got)
		}
		if got := e2e.Call(t, closed.URL()+"/mcp", tok.AccessToken); got != 503 {
			t.Errorf("%s: closed: %d", what, got)
		}
		if h, status := healthOf(open); status != 200 || h.Revocations != "failing open" || h.FeedAge != nil {
			t.Errorf("%s: readiness: %d %+v", what, status, h)
		}
	}
	check("no feed")
	if !strings.Contains(open.Output(), "the issuer has no revocation feed: revoked access tokens are accepted until they expire") {
		t.Errorf("the log does not say so:\n%s", open.Output())
	}
	access.Store(true)
	asked := len(proxy.Exchanges("/.well-known/revoked"))
	e2e.Eventually(t, func() bool { return len(proxy.Exchanges("/.well-known/revoked")) > asked+3 })
	check("an access token in place of the feed")
	proxy.Instead(nil) // the issuer is replaced by one that has a feed
	until(t, closed, tok.AccessToken, 200, process.Patience)
	_, feed := e2e.Fetch(t, http.DefaultClient, proxy.URL+"/.well-known/revoked")
	for where, endpoint := range map[string]string{"with the store": d.URL() + "/mcp", "replica": open.URL() + "/mcp"} {
		if got := e2e.Call(t, endpoint, feed); got != 401 {
			t.Errorf("%s: the feed as an access token: %d, want 401", where, got)
		}
	}
}
