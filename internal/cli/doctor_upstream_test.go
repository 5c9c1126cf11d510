package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"signet/internal/test/upstreamtest"
)

// The doctor knows that users may sign in by an upstream, asks each whether it answers, and warns of
// a client secret that others can read.
func TestDoctorExaminesUpstreams(t *testing.T) {
	dir := t.TempDir()
	p := upstreamtest.New(t, upstreamtest.Options{})
	entry := func(secret string) string {
		return fmt.Sprintf("upstreams:\n  - {id: corp, type: oidc, issuer: %q, client_id: signet, client_secret: %q}\n", p.Issuer(), secret)
	}
	doctor := func(text string, mode os.FileMode) string {
		t.Helper()
		file := filepath.Join(dir, "upstreams.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		environ := []string{"SIGNET_DATA_DIR=" + filepath.Join(dir, "data"), "SIGNET_LISTEN=127.0.0.1:0", "SIGNET_METRICS_LISTEN=off", "SIGNET_UPSTREAM_CONFIG=" + file, "CORP_SECRET=the-secret"}
		if status := Run(t.Context(), Process{Environ: environ, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out}, []string{"doctor"}); status != 0 || strings.Contains(out.String(), "the-secret") {
			t.Errorf("status %d: %s", status, out.String())
		}
		return out.String()
	}
	const shared = "a client secret stands in"
	for _, tt := range []struct {
		secret string
		mode   os.FileMode
		warns  bool
	}{{"the-secret", 0o600, false}, {"the-secret", 0o644, true}, {"env:CORP_SECRET", 0o644, false}} {
		out := doctor(entry(tt.secret), tt.mode)
		if strings.Contains(out, "`signet user add NAME`") || !strings.Contains(out, "users sign in by an upstream") || !strings.Contains(out, "corp answers") {
			t.Errorf("%s", out)
		}
		if strings.Contains(out, shared) != tt.warns {
			t.Errorf("%s with mode %o: %s", tt.secret, tt.mode, out)
		}
	}
	p.Down()
	if out := doctor(entry("the-secret"), 0o600); !strings.Contains(out, "warn   upstream") || !strings.Contains(out, "corp: ") {
		t.Errorf("while it is down: %s", out)
	}
}
