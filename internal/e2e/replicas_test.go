package e2e

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"signet/internal/seal"
	"signet/internal/test/npm"
	"signet/internal/test/pgtest"
)

// beside starts a second server with d's settings, but for those that follow. It
// listens elsewhere; d's issuer is its issuer.
func (d *daemon) beside(settings ...string) *daemon {
	second := &daemon{t: d.t, issuer: d.issuer, dir: filepath.Join(d.t.TempDir(), "data"), args: d.args}
	second.env = slices.DeleteFunc(slices.Clone(d.env), func(kv string) bool { return strings.HasPrefix(kv, "SIGNET_LISTEN=") })
	second.env = append(second.env, "SIGNET_LISTEN=127.0.0.1:"+freePort(d.t), "SIGNET_DATA_DIR="+second.dir)
	second.env = append(second.env, settings...)
	d.t.Cleanup(second.kill)
	return second
}

// mustRefuse runs `signet serve` and wants it to end by itself with an error that
// names all of want.
func (d *daemon) mustRefuse(want ...string) {
	d.t.Helper()
	_, errOut, status := d.signet("", d.args...)
	if status != exitFailed {
		d.t.Errorf("exit status %d, want %d: %s", status, exitFailed, errOut)
	}
	for _, w := range want {
		if !strings.Contains(errOut, w) {
			d.t.Errorf("%q does not say %q", errOut, w)
		}
	}
}

func (d *daemon) epochShown() string {
	d.t.Helper()
	resp, err := http.Get(d.issuer + "/readyz")
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	var doc struct{ Epoch string }
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil || doc.Epoch == "" {
		d.t.Fatalf("/readyz: %+v, %v", doc, err)
	}
	return doc.Epoch
}

// Two servers behind one issuer must have one store: a second one with a store of its
// own is refused while the first runs, names both, and says what to do. On the same
// file it is the lock that refuses.
func TestM04_SecondServerBehindTheIssuer(t *testing.T) {
	d := startDaemon(t, nil)
	second := d.beside()
	second.mustRefuse(d.issuer+"/readyz", d.epochShown(), "SIGNET_STORE", "Stop that server first")
	d.beside("SIGNET_DATA_DIR="+d.dir).mustRefuse(filepath.Join(d.dir, "signet.db")+".lock", "one server per SQLite file")
	d.stop()
	second.start()
	second.stop()
	d.start()
}

// A single server behind a proxy starts again, although the proxy answers for it
// meanwhile, and although it finds itself when it asks later.
func TestM04_RestartBehindAProxy(t *testing.T) {
	proxy := npm.NewProxy(t)
	d := startDaemon(t, []string{"SIGNET_ISSUER=" + proxy.URL}, "--demo")
	proxy.To(t, d.listen())
	for _, end := range []func(){func() { d.stop() }, d.kill} {
		end()
		if resp, err := http.Get(proxy.URL + "/readyz"); err != nil || resp.StatusCode != http.StatusBadGateway {
			t.Fatalf("the proxy without its server: %v, %v", resp, err)
		}
		d.start()
	}
	if _, resp := getJSON(t, proxy.URL+"/readyz"); resp.StatusCode != http.StatusOK {
		t.Errorf("/readyz: %s", resp.Status)
	}
}

// Replicas of one database start beside each other. While keys rotate, what one of them
// signs names a key that the other publishes already, and is accepted there at once.
func TestM04_INV9_ReplicasRotateKeys(t *testing.T) {
	d := startDaemon(t, []string{"SIGNET_STORE=" + pgtest.URL(t), "SIGNET_SECRET=" + seal.NewSecret(), "SIGNET_KEY_ROTATION=4s", "SIGNET_ACCESS_TTL=4s"}, "--demo")
	second := d.beside()
	second.start()
	at := []string{d.issuer, second.listen()}
	client, tok := d.login()
	used := map[string]bool{}
	for n := 0; len(used) < 3; n++ {
		if n > 1000 {
			t.Fatalf("only %d keys have signed", len(used))
		}
		here, there := at[n%2], at[(n+1)%2]
		doc, _ := getJSON(t, there+"/.well-known/jwks.json")
		published, _ := json.Marshal(doc)
		var status int
		if tok, status = refresh(t, here, client, tok.RefreshToken); status != 200 {
			t.Fatalf("refresh at %s: %d %+v", here, status, tok)
		}
		var header struct{ Kid string }
		b, _ := base64.RawURLEncoding.DecodeString(strings.Split(tok.AccessToken, ".")[0])
		if err := json.Unmarshal(b, &header); err != nil {
			t.Fatal(err)
		}
		if used[header.Kid] = true; !strings.Contains(string(published), `"`+header.Kid+`"`) {
			t.Errorf("%s signs with %s, which %s did not publish: %s", here, header.Kid, there, published)
		}
		if status := mcpStatus(t, there, tok.AccessToken); status != 200 {
			t.Errorf("a token of %s at %s: %d", here, there, status)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
