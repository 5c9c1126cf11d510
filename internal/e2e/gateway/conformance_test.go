package gateway

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"signet/internal/e2e"
	"signet/internal/test/npm"
	"signet/internal/test/process"
)

const (
	conformance   = "@modelcontextprotocol/conformance/dist/index.js"
	fixtureServer = "github.com/modelcontextprotocol/go-sdk/conformance/everything-server"
)

// withToken passes requests on to a server, with a token and with the Host that they came with: the
// suite sends no token, and tries foreign hosts.
func withToken(t *testing.T, server, token string) (base string) {
	t.Helper()
	to, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		out := r.Clone(context.WithoutCancel(r.Context()))
		out.URL.Scheme, out.URL.Host, out.RequestURI = to.Scheme, to.Host, ""
		out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		out.Header.Set("Authorization", "Bearer "+token)
		resp, err := transport.RoundTrip(out)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		for name, values := range resp.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(resp.StatusCode)
		for buffer := make([]byte, 32<<10); ; {
			n, err := resp.Body.Read(buffer)
			if _, gone := w.Write(buffer[:n]); gone != nil || err != nil {
				return
			}
			http.NewResponseController(w).Flush()
		}
	}))
	t.Cleanup(s.CloseClientConnections)
	_, port, _ := strings.Cut(s.Listener.Addr().String(), ":")
	return "http://localhost:" + port
}

// The MCP project's conformance suite finds behind the gateway what it finds at the server itself:
// everything passes, except for what a server without sessions cannot ask clients in the older
// protocol versions.
func TestConformanceSuitePassesThroughTheGateway_Row76(t *testing.T) {
	npm.Node(t)
	program := filepath.Join(t.TempDir(), "everything-server")
	if err := process.Compile(t.Context(), program, fixtureServer); err != nil {
		t.Fatal(err)
	}
	address := "localhost:" + e2e.FreePort(t)
	p, err := process.Start(exec.Command(program, "-http="+address, "-stateless=true"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	if err := p.Listens(t.Context(), address); err != nil {
		t.Fatal(err)
	}
	// Names have no prefix, because the suite calls them by their own names.
	w := start(t, fmt.Sprintf("routing: {prefix: none}\nservers:\n  - {id: fixture, type: http, auth_strategy: bypass_auth, config: {url: \"http://%s/mcp\"}}\n", address), "SIGNET_ACCESS_TTL=1h")
	base := withToken(t, w.URL(), w.token("ann"))
	expected := filepath.Join(t.TempDir(), "expected.yml")
	if err := os.WriteFile(expected, []byte("server: [tools-call-sampling, tools-call-elicitation, elicitation-sep1034-defaults, elicitation-sep1330-enums, server-sse-multiple-streams]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for version, more := range map[string][]string{"2026-07-28": nil, "2025-11-25": {"--expected-failures", expected}} {
		args := append([]string{"server", "--url", base + "/mcp", "--requirements", version, "-o", t.TempDir()}, more...)
		suite := npm.Start(t, t.TempDir(), filepath.Join(npm.Modules, conformance), args...)
		status := suite.Status()
		_, summary, found := strings.Cut(suite.Output(), "=== SUMMARY ===")
		if status != 0 || !found || strings.Count(summary, "✓") < 25 {
			t.Errorf("%s: status %d: %s", version, status, summary)
		}
	}
}
