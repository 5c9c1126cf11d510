package bench

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"signet/internal/e2e"
	"signet/internal/rawjson"
)

// bareBackend is the environment variable with the URL that the bare server is a reverse proxy of.
const bareBackend = "SIGNET_TEST_BARE_BACKEND"

// bareProxy is what the gateway is compared with.
func bareProxy() http.Handler {
	to, err := url.Parse(os.Getenv(bareBackend))
	if err != nil {
		panic(err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 256
	return &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.URL.Path = to.Path }}
}

// fastServer is an MCP server that does the least for an answer.
func fastServer(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	method, _ := rawjson.String(rawjson.Get(body, "method"))
	var result string
	switch method {
	case "server/discover":
		result = `{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":60000,"cacheScope":"private"}`
	case "tools/list":
		result = `{"resultType":"complete","tools":[{"name":"echo","description":"d","inputSchema":{"type":"object"}}],"ttlMs":60000,"cacheScope":"private"}`
	case "tools/call":
		result = `{"resultType":"complete","content":[{"type":"text","text":"x"}]}`
	default:
		http.Error(w, "no", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, rawjson.Get(body, "id"), result)
}

// BenchmarkGateway measures a call of a tool through the gateway beside one through a reverse
// proxy that does nothing else: the gateway on one core, the load and the server on another.
func BenchmarkGateway(b *testing.B) {
	if b.N > 1 {
		return
	}
	core := []string{e2e.Need(b, "taskset"), "--cpu-list", "0"}
	if out, err := exec.Command("taskset", "--all-tasks", "--cpu-list", "--pid", "1", strconv.Itoa(os.Getpid())).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	backend := httptest.NewServer(http.HandlerFunc(fastServer))
	defer backend.Close()
	config := filepath.Join(b.TempDir(), "gateway.yaml")
	text := fmt.Sprintf("servers:\n  - {id: a, type: http, auth_strategy: bypass_auth, config: {url: %q}}\n", backend.URL+"/mcp")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	d := e2e.Start(b, []string{"SIGNET_LOG_LEVEL=info", "SIGNET_GATEWAY_CONFIG=" + config, e2e.WideLimits}, "--demo")
	d.Stop()
	d.Prefix, d.Log = core, filepath.Join(b.TempDir(), "log")
	d.Start()
	_, tok := d.Login()
	b.Setenv(bareBackend, backend.URL+"/mcp")
	bare := startBare(b, core)
	const modern = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	message := func(tool string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + tool + `","arguments":{"message":"x"},` + modern + `}}`
	}
	send := func(path, tool, more string) func(int, *e2e.Wire) error {
		headers := "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: " + tool + "\r\n" + more
		return func(_ int, c *e2e.Wire) error {
			answer, err := c.Do("POST", path, headers, message(tool))
			if err == nil && !bytes.Contains(answer, []byte(`"text":"x"`)) {
				err = fmt.Errorf("%s", answer)
			}
			return err
		}
	}
	r := &report{}
	for _, connections := range []int{1, 8, 32} {
		ours, proxy := inTurns(b, 5, connections, served{d.Issuer, d.PID()}, send("/mcp", "a.echo", "Authorization: Bearer "+tok.AccessToken+"\r\n"), bare, send("/proxy", "echo", ""))
		target := ">= 70 % of a reverse proxy"
		if connections == 1 {
			target += fmt.Sprintf(", p50 <= 150 us more (%s)", ours.percentile(50)-proxy.percentile(50))
		}
		r.row(fmt.Sprintf("call through the gateway, connections: %d", connections), target, ours.against(proxy), "httputil.ReverseProxy: "+proxy.String())
	}
	r.row("memory under load", "", fmt.Sprintf("%.1f MiB", rss(d)), "")
	d.Stop()
	measureMany(b, core, r)
	fmt.Println(r.table())
	if *e2e.Update {
		targets, _, _ := benchmarkParts(b)
		writeBenchmarks(b, targets, "\nThe gateway runs on one core, the load and the servers behind it on another. `httputil.ReverseProxy` stands in front of the same server.\n\n"+r.table())
	}
}
