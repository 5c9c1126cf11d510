package fleet

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signet/internal/e2e"
	"signet/internal/seal"
	"signet/internal/test/pgtest"
)

func epochShown(d *e2e.Program) string {
	d.T.Helper()
	resp, err := http.Get(d.Issuer + "/readyz")
	if err != nil {
		d.T.Fatal(err)
	}
	defer resp.Body.Close()
	var doc struct{ Epoch string }
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil || doc.Epoch == "" {
		d.T.Fatalf("/readyz: %+v, %v", doc, err)
	}
	return doc.Epoch
}

// Two servers behind one issuer must have one store: a second one with a store of its
// own is refused while the first runs; the error names both stores and the remedy. On
// the same file the lock refuses it.
func TestSecondServerBehindTheIssuerIsRefused_M04(t *testing.T) {
	d := e2e.Start(t, nil)
	second := d.Beside()
	second.MustRefuse(d.Issuer+"/readyz", epochShown(d), "SIGNET_STORE", "Stop that server first")
	d.Beside("SIGNET_DATA_DIR="+d.Dir).MustRefuse(filepath.Join(d.Dir, "signet.db")+".lock", "one server per SQLite file")
	d.Stop()
	second.Start()
	second.Stop()
	d.Start()
}

// A single server behind a proxy can restart, although the proxy answers while it is down,
// and although the server's own request to its issuer reaches itself.
func TestRestartBehindAProxy_M04(t *testing.T) {
	proxy := e2e.NewProxy(t)
	d := e2e.Start(t, []string{"SIGNET_ISSUER=" + proxy.URL}, "--demo")
	proxy.To(t, d.URL())
	for _, end := range []func(){func() { d.Stop() }, d.Kill} {
		end()
		if resp, err := http.Get(proxy.URL + "/readyz"); err != nil || resp.StatusCode != http.StatusBadGateway {
			t.Fatalf("the proxy without its server: %v, %v", resp, err)
		}
		d.Start()
	}
	if _, resp := e2e.GetJSON(t, proxy.URL+"/readyz"); resp.StatusCode != http.StatusOK {
		t.Errorf("/readyz: %s", resp.Status)
	}
}

// Replicas of one database start beside each other. While keys rotate, a token of one
// replica names a key that the other has published already, and is accepted there at
// once.
func TestReplicasSignWithPublishedKeys_M04_INV9(t *testing.T) {
	d := e2e.Start(t, []string{"SIGNET_STORE=" + pgtest.URL(t), "SIGNET_SECRET=" + seal.NewSecret(), "SIGNET_KEY_ROTATION=4s", "SIGNET_ACCESS_TTL=4s"}, "--demo")
	second := d.Beside()
	second.Start()
	at := []string{d.Issuer, second.URL()}
	client, tok := d.Login()
	used := map[string]bool{}
	for n := 0; len(used) < 3; n++ {
		if n > 1000 {
			t.Fatalf("only %d keys have signed", len(used))
		}
		here, there := at[n%2], at[(n+1)%2]
		doc, _ := e2e.GetJSON(t, there+"/.well-known/jwks.json")
		published, _ := json.Marshal(doc)
		var status int
		if tok, status = client.At(here).Refresh(t, tok.RefreshToken); status != 200 {
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
		if status := e2e.Call(t, there+"/mcp", tok.AccessToken); status != 200 {
			t.Errorf("a token of %s at %s: %d", here, there, status)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// A URL may say that no statements are prepared, as some poolers need it. The program then names the
// types of all arguments itself.
func TestStoreWithoutPreparedStatements(t *testing.T) {
	for _, mode := range []string{"exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			u, err := url.Parse(pgtest.URL(t))
			if err != nil {
				t.Fatal(err)
			}
			q := u.Query()
			q.Set("default_query_exec_mode", mode)
			u.RawQuery = q.Encode()
			d := e2e.Start(t, []string{"SIGNET_STORE=" + u.String(), "SIGNET_SECRET=" + seal.NewSecret()}, "--demo")
			client, tok := d.Login()
			for range 3 {
				var status int
				if tok, status = client.Refresh(t, tok.RefreshToken); status != 200 {
					t.Fatalf("refresh: %d %+v", status, tok)
				}
			}
			if list := d.Must("grant", "list", "--json"); !strings.Contains(list, `"demo_user"`) {
				t.Errorf("grants: %s", list)
			}
			d.Must("grant", "revoke", "--user", "demo_user")
			if next, status := client.Refresh(t, tok.RefreshToken); status != 400 {
				t.Errorf("refresh of a revoked grant: %d %+v", status, next)
			}
			file := filepath.Join(t.TempDir(), "backup")
			d.Must("backup", file)
			d.Stop()
			d.Must("restore", "--replace", "--replace-files", file)
			d.Start()
			d.Login()
		})
	}
}
