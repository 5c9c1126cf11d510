package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"signet/internal/clienttest"
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
	for got := 0; got != status; time.Sleep(20 * time.Millisecond) {
		if got = statusAt(t, d.listen()+"/mcp", token); time.Since(began) > limit {
			t.Fatalf("after %s still %d, want %d\n%s", limit, got, status, d.output())
		}
	}
	return time.Since(began)
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
	proxy := clienttest.NewProxy(t)
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
	proxy.Instead(func(e clienttest.Exchange) (int, string) {
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
