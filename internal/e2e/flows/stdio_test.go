package flows

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/e2e"
	"signet/internal/test/invoices"
)

// A program starts the server, speaks to it over pipes, and ends it by closing them. The account
// comes from .env. There is no listener and no data directory.
func TestStdioServerSignsInByEnvironment_Row41(t *testing.T) {
	api := invoices.New(t, invoices.Options{})
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("upstreams.yaml", "upstreams:\n"+api.Configuration("finance"))
	write(".env", "SIGNET_UPSTREAM_CONFIG=upstreams.yaml\nSIGNET_UPSTREAM_USERNAME=ann@example.com\nSIGNET_UPSTREAM_PASSWORD=ann-password\n")
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	log := new(e2e.Buffer)
	cmd := exec.Command(e2e.Binary(t), "serve", "--stdio")
	cmd.Dir, cmd.Stderr = dir, log
	cmd.Env = []string{"HOME=" + dir, "SIGNET_LOG_LEVEL=debug", "SIGNET_LISTEN=" + busy.Addr().String(), "SIGNET_METRICS_LISTEN=" + busy.Addr().String()}
	session, err := sdk.NewClient(&sdk.Implementation{Name: "host", Version: "1"}, nil).Connect(t.Context(), &sdk.CommandTransport{Command: cmd}, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	if got := e2e.CallTool(t, session, "upstream_get", map[string]any{}); !strings.Contains(got, "ann-gmbh") {
		t.Errorf("upstream_get: %s", got)
	}
	api.EndLogins("ann@example.com")
	if got := e2e.CallTool(t, session, "upstream_get", map[string]any{}); !strings.Contains(got, "ann-gmbh") || api.Count("login") != 2 {
		t.Errorf("after the end of the login: %s, and %d logins", got, api.Count("login"))
	}
	if err := session.Close(); err != nil || !cmd.ProcessState.Success() {
		t.Errorf("the end of stdin: %v, %v\n%s", err, cmd.ProcessState, log)
	}
	if _, err := os.Stat(filepath.Join(dir, "data")); err == nil {
		t.Error("there is a data directory")
	}
	if text := log.String(); !strings.Contains(text, `"transport":"stdio"`) || strings.Contains(text, "ann-password") {
		t.Errorf("the log: %s", text)
	}
}

// Over HTTP the account never stands in for a login, and the log says so.
func TestAccountOfTheEnvironmentIsNoLoginOverHTTP_Row41(t *testing.T) {
	api := invoices.New(t, invoices.Options{})
	file := filepath.Join(t.TempDir(), "upstreams.yaml")
	if err := os.WriteFile(file, []byte("upstreams:\n"+api.Configuration("finance")), 0o600); err != nil {
		t.Fatal(err)
	}
	d := e2e.Start(t, []string{"SIGNET_UPSTREAM_CONFIG=" + file, "SIGNET_UPSTREAM_USERNAME=ann@example.com", "SIGNET_UPSTREAM_PASSWORD=ann-password"})
	resp, err := http.Post(d.Issuer+"/tools/upstream_get", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 401 || api.Count("login") != 0 || api.Count("request") != 0 {
		t.Errorf("without a token: %d, after %d logins and %d requests at the upstream", resp.StatusCode, api.Count("login"), api.Count("request"))
	}
	if d.Says("SIGNET_UPSTREAM_PASSWORD") == 0 || d.Says("signet serve --stdio; over HTTP users sign in themselves") == 0 || d.Says("ann-password") != 0 {
		t.Errorf("the log: %s", d.Output())
	}
}

// A wrong account stops the start, and flags of the HTTP server do not go with --stdio.
func TestStdioServerSaysWhatIsWrong(t *testing.T) {
	api := invoices.New(t, invoices.Options{})
	dir := t.TempDir()
	file := filepath.Join(dir, "upstreams.yaml")
	if err := os.WriteFile(file, []byte("upstreams:\n"+api.Configuration("finance")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"serve", "--stdio"}, 1, "SIGNET_UPSTREAM_USERNAME, SIGNET_UPSTREAM_PASSWORD: Invoices refuses them"},
		{[]string{"serve", "--stdio", "--demo"}, 2, "stdio"},
		{[]string{"serve", "--stdio", "--role", "mcp"}, 2, "stdio"},
		{[]string{"serve", "--stdio", "--chaos"}, 2, "stdio"},
	} {
		cmd := exec.Command(e2e.Binary(t), tt.args...)
		cmd.Dir, cmd.Env = dir, []string{"HOME=" + dir, "SIGNET_UPSTREAM_CONFIG=" + file, "SIGNET_UPSTREAM_USERNAME=ann@example.com", "SIGNET_UPSTREAM_PASSWORD=wrong-password"}
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run() // the status is checked
		if got := cmd.ProcessState.ExitCode(); got != tt.status || !strings.Contains(stderr.String(), tt.want) || stdout.Len() > 0 || strings.Contains(stderr.String(), "wrong-password") {
			t.Errorf("%q: status %d, want %d with %s: %s%s", tt.args, got, tt.status, tt.want, stdout.String(), stderr.String())
		}
	}
}
