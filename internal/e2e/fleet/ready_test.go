package fleet

import (
	"net/http"
	"strings"
	"testing"

	"signet/internal/e2e"
)

// A container has no shell and no HTTP client, so the program checks itself. It asks
// the listener of its settings, with any address, TLS, an issuer with a path, and as a
// replica.
func TestDoctorReadyAsksTheListener(t *testing.T) {
	certificate := t.TempDir()
	selfSigned(t, certificate)
	port := e2e.FreePort(t)
	tls := []string{"SIGNET_TLS_CERT=" + certificate + "/localhost.pem", "SIGNET_TLS_KEY=" + certificate + "/localhost.key"}
	for name, settings := range map[string][]string{
		"plain":    nil,
		"anywhere": {"SIGNET_LISTEN=0.0.0.0:" + port},
		"path":     {"SIGNET_ISSUER=http://localhost:" + port + "/auth", "SIGNET_LISTEN=:" + port},
		"TLS":      append([]string{"SIGNET_ISSUER=https://localhost:" + port, "SIGNET_LISTEN=127.0.0.1:" + port}, tls...),
	} {
		t.Run(name, func(t *testing.T) {
			d := e2e.Start(t, settings)
			if out, errOut, status := d.Signet("", "doctor", "--ready"); status != 0 || !strings.Contains(out, `"ok"`) {
				t.Errorf("ready: %d %s%s", status, out, errOut)
			}
			d.Stop()
			if out, errOut, status := d.Signet("", "doctor", "--ready"); status != 1 || !strings.Contains(errOut, "refused") {
				t.Errorf("stopped: %d %s%s, want 1", status, out, errOut)
			}
		})
	}
}

// A replica that has no keys yet is not ready, and says so.
func TestDoctorReadyOfAReplica(t *testing.T) {
	issuer := e2e.Start(t, nil)
	d := e2e.Start(t, []string{"SIGNET_ISSUER=" + issuer.Issuer, "SIGNET_ROLE=mcp"})
	if _, errOut, status := d.Signet("", "doctor", "--ready"); status != 0 {
		t.Errorf("with an issuer: %d %s", status, errOut)
	}
	nowhere := e2e.Start(t, []string{"SIGNET_ISSUER=http://localhost:" + e2e.FreePort(t), "SIGNET_ROLE=mcp"})
	if _, errOut, status := nowhere.Signet("", "doctor", "--ready"); status != 1 || !strings.Contains(errOut, "waiting for the issuer's keys") {
		t.Errorf("without an issuer: %d %s, want 1", status, errOut)
	}
}

// A replica goes on without its issuer for one period of the signing keys. Then it has no
// keys and says so, until the issuer answers again.
func TestReplicaWithoutItsIssuerEndsAfterAPeriod(t *testing.T) {
	issuer := e2e.Start(t, []string{"SIGNET_KEY_ROTATION=8s", "SIGNET_ACCESS_TTL=1h"}, "--demo")
	_, tok := issuer.Login()
	replica := issuer.Beside()
	replica.Args = []string{"serve", "--role", "mcp"}
	replica.Start()
	call := func() int { return e2e.Call(t, replica.URL()+"/mcp", tok.AccessToken) }
	if status := call(); status != http.StatusOK {
		t.Fatalf("with the issuer: %d, want 200", status)
	}
	issuer.Stop()
	if status := call(); status != http.StatusOK {
		t.Errorf("just without the issuer: %d, want 200", status)
	}
	e2e.Eventually(t, func() bool { return call() == http.StatusServiceUnavailable })
	if _, errOut, status := replica.Signet("", "doctor", "--ready"); status != 1 || !strings.Contains(errOut, "waiting for the issuer's keys") {
		t.Errorf("after a period without the issuer: %d %s, want 1", status, errOut)
	}
	issuer.Start()
	e2e.Eventually(t, func() bool { return call() == http.StatusOK })
}
