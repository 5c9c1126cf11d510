package flows

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"signet/internal/e2e"
	"signet/internal/test/invoices"
	"signet/internal/test/upstreamtest"
)

// A replica without the root secret, the store and the client secrets has the caller's token, has
// it refreshed by the issuer, and makes the client sign in again when the upstream ends it.
func TestReplicaActsForTheUserAtTheUpstream_Row39(t *testing.T) {
	api := invoices.New(t, invoices.Options{})
	corp := upstreamtest.New(t, upstreamtest.Options{})
	file := filepath.Join(t.TempDir(), "upstreams.yaml")
	text := "upstreams:\n" + api.Configuration("finance") + `  - {id: corp, name: Corp, type: oidc, issuer: "` + corp.Issuer() + `", client_id: signet, client_secret: "env:CORP_SECRET"}` + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	port := e2e.FreePort(t)
	resource := "http://localhost:" + port + "/mcp"
	d := e2e.Start(t, []string{"SIGNET_UPSTREAM_CONFIG=" + file, "CORP_SECRET=" + corp.ClientSecret(), "SIGNET_RESOURCES=" + resource})
	replica := e2e.New(t, []string{
		"SIGNET_ISSUER=" + d.Issuer, "SIGNET_LISTEN=127.0.0.1:" + port, "SIGNET_RESOURCES=" + resource, "SIGNET_UPSTREAM_CONFIG=" + file,
		"SIGNET_UPSTREAM_KEY=" + strings.TrimSpace(d.Must("secret", "derive", "upstream")),
	}, "--role", "mcp")
	replica.Start()
	login := byPassword(t, "finance", "ann@example.com", "ann-password")
	session := e2e.Connect(t, resource, login, nil)
	companies := func() {
		t.Helper()
		if got := e2e.CallTool(t, session, "upstream_get", map[string]any{}); !strings.Contains(got, "ann-gmbh") {
			t.Errorf("upstream_get: %s", got)
		}
	}
	companies()
	if got := e2e.CallTool(t, session, "whoami", map[string]any{}); !strings.Contains(got, `"upstream":"finance"`) || !strings.Contains(got, `"upstream_token":true`) {
		t.Errorf("whoami: %s", got)
	}
	logins := api.Count("login")
	api.Invalidate("ann@example.com")
	companies()
	companies()
	if refreshes := api.Count("refresh"); refreshes != 1 || api.Count("login") != logins {
		t.Errorf("%d refreshes, %d new logins", refreshes, api.Count("login")-logins)
	}
	token := e2e.SDKToken(t, login)
	api.EndLogins("ann@example.com")
	post := func() (int, string) {
		return callByREST(t, token.AccessToken, "http://localhost:"+port+"/tools/upstream_get")
	}
	if status, text := post(); status != http.StatusOK || !strings.Contains(text, "Please sign in again") {
		t.Errorf("the call: %d %s", status, text)
	}
	if status, text := post(); status != http.StatusUnauthorized || !strings.Contains(text, "invalid_token") {
		t.Errorf("the next call: %d %s", status, text)
	}
	companies() // the client signs in again
	if api.Count("login") != logins+1 {
		t.Errorf("%d new logins, want 1", api.Count("login")-logins)
	}
	for _, secret := range []string{"ann-password", "refresh-ann", token.AccessToken} {
		if d.Says(secret)+replica.Says(secret) > 0 {
			t.Errorf("a log has %s", secret)
		}
	}
}
