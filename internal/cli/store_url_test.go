package cli

import (
	"bytes"
	"context"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/internal/seal"
)

// output is what a command writes, and can be read meanwhile.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// serveUntil runs the server until its output contains text, or until it stops.
func serveUntil(t *testing.T, text string, environ ...string) (out *output) {
	t.Helper()
	out = &output{}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	p := Process{Environ: append([]string{"SIGNET_LISTEN=127.0.0.1:0", "SIGNET_METRICS_LISTEN=off", "SIGNET_DRAIN_DELAY=1ms"}, environ...), Stdin: strings.NewReader(""), Stdout: out, Stderr: out}
	go func() {
		defer close(ended)
		Run(ctx, p, []string{"serve"})
	}()
	defer func() { stop(); <-ended }()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(out.String(), text); {
		select {
		case <-ended:
			return out
		case <-time.After(5 * time.Millisecond):
			if time.Now().After(deadline) {
				t.Fatalf("the server writes no %q, but: %s", text, out)
			}
		}
	}
	return out
}

// No command writes a part of the store's password, whether the URL is right or wrong.
func TestStorePasswordIsInNoOutput(t *testing.T) {
	dir := t.TempDir()
	commands := [][]string{
		{"doctor"}, {"doctor", "--json"}, {"doctor", "--ready"}, {"doctor", "--accept-loss"}, {"backup", filepath.Join(dir, "backup")}, {"restore", filepath.Join(dir, "backup")},
		{"grant", "list"}, {"grant", "revoke", "x"}, {"key", "list"}, {"key", "rotate"}, {"client", "list"}, {"user", "list"}, {"secret", "rotate"}, {"token", "verify"}, {"help", "settings"}, {"serve", "--help"},
	}
	password := "hunter2 @:/#?%secret"
	for name, store := range map[string]string{
		"right": "postgres://u:" + url.QueryEscape(password) + "@127.0.0.1:1/x", "parameters": "postgres://127.0.0.1:1/x?user=u&password=hunter2secret&sslpassword=hunter2secret",
		"@": "postgres://u:hunter2@secret@127.0.0.1:1/x", ":": "postgres://u:hunter2:secret@127.0.0.1:1/x", "/": "postgres://u:hunter2/secret@127.0.0.1:1/x",
		"#": "postgres://u:hunter2#secret@127.0.0.1:1/x", "?": "postgres://u:hunter2?secret@127.0.0.1:1/x", "%": "postgres://u:hunter2%secret@127.0.0.1:1/x",
		"key=value": "host=127.0.0.1 user=u password=hunter2secret dbname=x", "no scheme": "u:hunter2secret@127.0.0.1:1/x",
	} {
		environ := []string{"SIGNET_STORE=" + store, "SIGNET_SECRET=" + seal.NewSecret(), "SIGNET_DATA_DIR=" + filepath.Join(dir, "data")}
		check := func(what, out string) {
			for _, part := range []string{"hunter2", "secret@", "%secret", ":secret", "/secret", "#secret", "?secret"} {
				if strings.Contains(out, part) {
					t.Errorf("%s: %s writes a part of the password: %s", name, what, out)
				}
			}
		}
		out := serveUntil(t, "serving", environ...).String()
		check("serve", out)
		if good := name == "right" || name == "parameters"; good != strings.Contains(out, "waiting for the store") || good == strings.Contains(out, "SIGNET_STORE") {
			t.Errorf("%s: serve: %s", name, out)
		}
		for _, args := range commands {
			var out strings.Builder
			Run(t.Context(), Process{Environ: environ, Stdin: strings.NewReader("x\n"), Stdout: &out, Stderr: &out}, args)
			check(strings.Join(args, " "), out.String())
		}
	}
}
