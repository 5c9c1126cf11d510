package flows

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"signet/internal/e2e"
	"signet/internal/test/backends"
	"signet/internal/test/npm"
)

// behindGateway starts a site whose endpoint is a gateway, in front of a server of each protocol era.
func behindGateway(t *testing.T) *site {
	t.Helper()
	modern, legacy := backends.New(t, backends.Options{}), backends.New(t, backends.Options{Legacy: true})
	file := filepath.Join(t.TempDir(), "gateway.yaml")
	text := fmt.Sprintf("servers:\n  - {id: modern, type: http, auth_strategy: master_oauth, config: {url: %q}}\n  - {id: legacy, type: http, auth_strategy: bypass_auth, config: {url: %q}}\n", modern.Endpoint(), legacy.Endpoint())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return startSite(t, "SIGNET_GATEWAY_CONFIG="+file)
}

// The Inspector signs in at the gateway, and calls tools of both servers in both eras.
func TestInspectorThroughTheGateway_Row77(t *testing.T) {
	site := behindGateway(t)
	home := t.TempDir()
	out, status, logins := inspect(t, home, site.endpoint, "", "--callback-url", "http://127.0.0.1:"+e2e.FreePort(t)+"/oauth/callback", "--method", "tools/list")
	if status != 0 || logins != 1 || !strings.Contains(out, `"modern.echo"`) || !strings.Contains(out, `"legacy.echo"`) {
		t.Fatalf("status %d, %d logins: %s", status, logins, out)
	}
	for _, era := range []string{"legacy", "modern"} {
		for _, tool := range []string{"modern.echo", "legacy.echo"} {
			out, status, _ = inspect(t, home, site.endpoint, "", "--stored-auth-only", "--protocol-era", era, "--method", "tools/call", "--tool-name", tool, "--tool-arg", "message=hi "+era)
			if status != 0 || !strings.Contains(out, "hi "+era) {
				t.Errorf("%s in the era %s: status %d: %s", tool, era, status, out)
			}
		}
	}
}

// An application on the desktop uses the gateway by mcp-remote, over pipes.
func TestMCPRemoteThroughTheGateway_Row77(t *testing.T) {
	for _, era := range []string{"legacy", "auto"} {
		site := behindGateway(t)
		args := []string{site.endpoint, e2e.FreePort(t)}
		if era == "auto" {
			args = append(args, "--protocol", "auto")
		}
		h := &host{Process: npm.Start(t, t.TempDir(), filepath.Join(npm.Modules, "mcp-remote/dist/proxy.js"), args...), t: t}
		h.request("initialize", `{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"host","version":"1"}}`)
		h.Send(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
		for _, tool := range []string{"modern.echo", "legacy.echo"} {
			if tools := h.request("tools/list", `{}`); !strings.Contains(tools, `"`+tool+`"`) {
				t.Errorf("%s: tools are %s", era, tools)
			}
			if got := h.request("tools/call", `{"name":"`+tool+`","arguments":{"message":"hello"}}`); !strings.Contains(got, "hello") {
				t.Errorf("%s: %s says %s", era, tool, got)
			}
			site.proxy.Spoil()
		}
		if h.logins != 1 {
			t.Errorf("%s: the user had to sign in %d times, want once", era, h.logins)
		}
	}
}
