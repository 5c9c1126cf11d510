package e2e

import (
	"strings"
	"testing"
)

// A container has no shell and no client: the program asks itself. Any address, TLS,
// an issuer with a path and a replica: always the listener of these settings.
func TestDoctorReady(t *testing.T) {
	certificate := t.TempDir()
	selfSigned(t, certificate)
	port := freePort(t)
	tls := []string{"SIGNET_TLS_CERT=" + certificate + "/localhost.pem", "SIGNET_TLS_KEY=" + certificate + "/localhost.key"}
	for name, settings := range map[string][]string{
		"plain":    nil,
		"anywhere": {"SIGNET_LISTEN=0.0.0.0:" + port},
		"path":     {"SIGNET_ISSUER=http://localhost:" + port + "/auth", "SIGNET_LISTEN=:" + port},
		"TLS":      append([]string{"SIGNET_ISSUER=https://localhost:" + port, "SIGNET_LISTEN=127.0.0.1:" + port}, tls...),
	} {
		t.Run(name, func(t *testing.T) {
			d := startDaemon(t, settings)
			if out, errOut, status := d.signet("", "doctor", "--ready"); status != 0 || !strings.Contains(out, `"ok"`) {
				t.Errorf("ready: %d %s%s", status, out, errOut)
			}
			d.stop()
			if out, errOut, status := d.signet("", "doctor", "--ready"); status != 1 || !strings.Contains(errOut, "refused") {
				t.Errorf("stopped: %d %s%s, want 1", status, out, errOut)
			}
		})
	}
}

// A replica that has no keys yet is not ready, and says so.
func TestDoctorReady_Replica(t *testing.T) {
	issuer := startDaemon(t, nil)
	d := startDaemon(t, []string{"SIGNET_ISSUER=" + issuer.issuer, "SIGNET_ROLE=mcp"})
	if _, errOut, status := d.signet("", "doctor", "--ready"); status != 0 {
		t.Errorf("with an issuer: %d %s", status, errOut)
	}
	nowhere := startDaemon(t, []string{"SIGNET_ISSUER=http://localhost:" + freePort(t), "SIGNET_ROLE=mcp"})
	if _, errOut, status := nowhere.signet("", "doctor", "--ready"); status != 1 || !strings.Contains(errOut, "waiting for the issuer's keys") {
		t.Errorf("without an issuer: %d %s, want 1", status, errOut)
	}
}
