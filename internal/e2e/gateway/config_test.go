package gateway

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"signet/internal/e2e"
	"signet/internal/test/backends"
)

// check runs `signet gateway check` for a configuration.
func check(t *testing.T, config string) (status int, output string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "gateway.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	status, out, errOut := e2e.Signet(t, t.TempDir(), "", "gateway", "check", file)
	return status, out + errOut
}

const goodConfig = `hosting: {port: 3000}
servers:
  - id: search
    type: local
    auth_strategy: bypass_auth
    config: {port: 4100}
`

// Each fault of a file is named by its path, all at once, and the exit status is 1. The server
// does not start with it.
func TestFaultsAreNamedByTheirPath_Row62_Row73_Row80(t *testing.T) {
	if status, out := check(t, goodConfig); status != 0 {
		t.Fatalf("the good file: %d %s", status, out)
	}
	for _, c := range []struct{ old, new, want string }{
		{"auth_strategy: bypass_auth", "auth_strategy: none_at_all", "servers[0].auth_strategy: must be one of"},
		{"    auth_strategy: bypass_auth\n", "", "servers[0].auth_strategy"},
		{"auth_strategy: bypass_auth", "auth_strategy: delegate_oauth", "servers[0].auth_config"},
		{"auth_strategy: bypass_auth", "auth_strategy: proxy_oauth", "servers[0].auth_config"},
		{"  - id: search\n    type", "  - type", "servers[0].id"},
		{"port: 4100", "port: many", "servers[0].config.port"},
		{"config: {port: 4100}", "config: {}", "servers[0]"},
		{"type: local", "type: npm\n    package: x", "servers[0]"},
		{"type: local", "type: unheard-of", "servers[0].type: must be one of"},
		{"port: 4100", "url: ftp://127.0.0.1/", "servers[0].config.url"},
		{"port: 4100", "url: http://mcp.example/", "servers[0].config.url"},
		{"port: 4100", "url: '${NOT_SET_ANYWHERE}'", "NOT_SET_ANYWHERE"},
		{"type: local", "type: local\n    unheard_of: 1", "unheard_of"},
		{"hosting:", "hostig:", "hostig"},
		{"hosting: {port: 3000}", "hosting: {port: 3000", "line"},
	} {
		config := strings.Replace(goodConfig, c.old, c.new, 1)
		if status, out := check(t, config); status != e2e.ExitFailed || !strings.Contains(out, c.want) {
			t.Errorf("%q in place of %q: %d %s, want %q", c.new, c.old, status, out, c.want)
		}
	}
	bad := strings.NewReplacer("bypass_auth", "none_at_all", "port: 4100", "port: many").Replace(goodConfig)
	if _, out := check(t, bad); !strings.Contains(out, "servers[0].auth_strategy") || !strings.Contains(out, "servers[0].config.port") {
		t.Errorf("of two faults it names %s", out)
	}
	prepare(t, bad).MustRefuse("servers[0].auth_strategy", "servers[0].config.port")
}

// The schema is JSON that knows the members.
func TestSchema_Row73(t *testing.T) {
	status, out, errOut := e2e.Signet(t, t.TempDir(), "", "gateway", "schema")
	if status != 0 || !json.Valid([]byte(out)) || !strings.Contains(out, "auth_strategy") {
		t.Errorf("%d %s%s", status, out, errOut)
	}
}

// A file is taken up while the server runs: tools of a new server appear, those of one that is
// gone disappear. A file with a fault changes nothing. The log names what has changed, and no
// secret.
func TestChangedFileIsTakenUp_Row75(t *testing.T) {
	a, b := backends.New(t, backends.Options{}), backends.New(t, backends.Options{Legacy: true})
	one := fmt.Sprintf("servers:\n  - {id: a, type: http, auth_strategy: bypass_auth, config: {url: %s}}\n", a.Endpoint())
	more := fmt.Sprintf("  - {id: b, type: http, auth_strategy: proxy_oauth, auth_config: {token_source: 'env:OF_B'}, config: {url: %s}}\n", b.Endpoint())
	w := start(t, one, "OF_B=canary-of-b")
	token := w.token("ann")
	has := func(tool string) bool {
		names, _ := w.tools(token)
		return slices.Contains(names, tool)
	}
	if !has("a.echo") || has("b.echo") {
		t.Error("the tools of the first file")
	}
	w.configure(one + more)
	e2e.Eventually(t, func() bool { return has("b.echo") && has("a.echo") })
	w.WaitFor("servers[b]")
	faults := w.Says("servers[0].auth_strategy")
	w.configure(strings.Replace(one+more, "bypass_auth", "none_at_all", 1))
	w.WaitForMore("servers[0].auth_strategy", faults)
	if !has("a.echo") || !has("b.echo") {
		t.Error("a file with a fault took tools away")
	}
	w.configure(strings.Replace(one+more, "id: b", "id: c", 1))
	e2e.Eventually(t, func() bool { return has("c.echo") && !has("b.echo") })
	if got := w.said(w.call(token, "c.whoami", "{}")); got != "canary-of-b" {
		t.Errorf("the server saw %q", got)
	}
	if w.Says("canary-of-b") > 0 {
		t.Error("the log has a secret")
	}
}

// Each form of a secret reaches the server expanded, and no output.
func TestSecretsAreExpandedAndNeverShown_Row72_Probe22_Probe24(t *testing.T) {
	be := backends.New(t, backends.Options{})
	secretFile := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secretFile, []byte("canary-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := "servers:\n"
	for id, source := range map[string]string{"env": "env:CANARY", "braces": "${CANARY}", "file": "file:" + secretFile} {
		config += fmt.Sprintf("  - {id: %s, type: http, auth_strategy: proxy_oauth, auth_config: {token_source: %q}, config: {url: %s}}\n", id, source, be.Endpoint())
	}
	w := start(t, config, "CANARY=canary-variable")
	token := w.token("ann")
	for id, want := range map[string]string{"env": "canary-variable", "braces": "canary-variable", "file": "canary-file"} {
		if got := w.said(w.call(token, id+".whoami", "{}")); got != want {
			t.Errorf("%s: the server saw %q", id, got)
		}
	}
	out, errOut, status := w.Signet("", "gateway", "check", w.file, "--json")
	if status != 0 || strings.Contains(out+errOut, "canary-") || !strings.Contains(out, "***") {
		t.Errorf("check --json: %d %s%s", status, out, errOut)
	}
	if w.Says("canary-") > 0 {
		t.Error("the log has a secret")
	}
}
