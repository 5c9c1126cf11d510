package e2e

import (
	"strings"
	"testing"
)

// One command goes from nothing to a result of a server of Signet.
func TestOneCommandCallsATool_Row51(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	for _, server := range []string{d.issuer, d.issuer + "/mcp"} {
		status, stdout, stderr := signet(t, t.TempDir(), "demo_password\n", "call", "greet", "--server", server, "--username", "demo_user", "name=Ada")
		if status != 0 || stdout != "Hello, Ada!\n" || !strings.Contains(stderr, "The refreshed token works") {
			t.Errorf("%s: status %d, stdout %q\n%s", server, status, stdout, stderr)
		}
		if strings.Contains(stderr, "demo_password") {
			t.Errorf("the password shows in\n%s", stderr)
		}
	}
}

// A tool that the token's scopes hide is told apart from a tool that does not exist.
func TestHiddenToolIsNotCalledMissing(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	for tool, want := range map[string]string{"admin_action": `run again with --scope "admin"`, "nonsense": "the server has no tool"} {
		if _, stderr, status := d.signet("demo_password\n", "call", tool, "--server", d.issuer+"/mcp", "--username", "demo_user"); status != 1 || !strings.Contains(stderr, want) {
			t.Errorf("%s: status %d, want 1 and %q:\n%s", tool, status, want, stderr)
		}
	}
}
