package fleet

import (
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"signet/internal/e2e"
	"signet/internal/seal"
	"signet/internal/test/pgtest"
)

// A replica with a wrong clock is reported in the readiness, the log and the metrics of
// all replicas, which go on serving. The end of the fault is reported, too.
func TestClocksOfReplicasThatDifferAreReported_L10(t *testing.T) {
	url := pgtest.URL(t)
	metrics := "127.0.0.1:" + e2e.FreePort(t)
	d := e2e.Start(t, []string{"SIGNET_STORE=" + url, "SIGNET_SECRET=" + seal.NewSecret(), "SIGNET_METRICS_LISTEN=" + metrics}, "--demo")
	read := func(at string) string {
		resp, err := http.Get(at)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 200 {
			t.Fatalf("%s: %d %s", at, resp.StatusCode, b)
		}
		return string(b)
	}
	clock := func() string {
		var health struct{ Clock string }
		if err := json.Unmarshal([]byte(read(d.Issuer+"/readyz")), &health); err != nil {
			t.Fatal(err)
		}
		return health.Clock
	}
	apart := regexp.MustCompile(`(?m)^signet_clocks_apart_seconds ([0-9.]+)$`)
	faked := func(ms string) {
		pgtest.Exec(t, url, "INSERT INTO signet.servers (id, roots, ahead, seen_at) VALUES ('faked', 'x', "+ms+
			", (extract(epoch FROM clock_timestamp()) * 1000)::bigint + 3600000) ON CONFLICT (id) DO UPDATE SET ahead = excluded.ahead")
	}
	faked("-30000") // within the leeway of verifiers
	e2e.Eventually(t, func() bool {
		return strings.HasPrefix(apart.FindString(read("http://"+metrics+"/metrics")), "signet_clocks_apart_seconds 30")
	})
	if clock() != "ok" || strings.Contains(d.Output(), "clocks differ") {
		t.Errorf("30 s apart: clock %q", clock())
	}
	faked("-90000")
	d.WaitFor(`"msg":"clocks differ`)
	e2e.Eventually(t, func() bool { return clock() == "differs" })
	if got := apart.FindString(read("http://" + metrics + "/metrics")); !strings.HasPrefix(got, "signet_clocks_apart_seconds 9") {
		t.Errorf("the metric says %q, want 90 s", got)
	}
	if _, tok := d.Login(); e2e.Call(t, d.Issuer+"/mcp", tok.AccessToken) != 200 {
		t.Error("the server does not go on serving")
	}
	pgtest.Exec(t, url, "DELETE FROM signet.servers WHERE id = 'faked'")
	d.WaitFor("clocks agree again")
	e2e.Eventually(t, func() bool { return clock() == "ok" })
}

// The doctor reports the signing key, and a next key that is late.
func TestDoctorLooksAtTheKeys(t *testing.T) {
	url := pgtest.URL(t)
	d := e2e.Start(t, []string{"SIGNET_STORE=" + url, "SIGNET_SECRET=" + seal.NewSecret()})
	keysLine := func() string {
		out, _, _ := d.Signet("", "doctor")
		for line := range strings.Lines(out) {
			if strings.Contains(line, " keys ") {
				return line
			}
		}
		return out
	}
	if got := keysLine(); !strings.HasPrefix(got, "ok") || !strings.Contains(got, "the next one in") {
		t.Errorf("beside a server: %s", got)
	}
	// The database refuses new keys, so the server cannot make the next one.
	pgtest.Exec(t, url, "DELETE FROM signet.signing_keys WHERE starts_at > (extract(epoch FROM now()) * 1000); ALTER TABLE signet.signing_keys ADD CONSTRAINT none CHECK (published_at < 0) NOT VALID")
	if got := keysLine(); !strings.HasPrefix(got, "WRONG") || !strings.Contains(got, "the next key is late") {
		t.Errorf("with a late key: %s", got)
	}
	d.Stop()
	if got := keysLine(); !strings.HasPrefix(got, "ok") || !strings.Contains(got, "made when a server starts") {
		t.Errorf("without a server that makes keys: %s", got)
	}
}
