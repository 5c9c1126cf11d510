package gateway

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"signet/internal/e2e"
	"signet/internal/test/npm"
	"signet/internal/test/process"
)

// everything is the script of the server from npm by which the authors of the protocol show all of it.
func everything(t *testing.T) string {
	t.Helper()
	script, err := filepath.Abs(npm.Modules + "/@modelcontextprotocol/server-everything/dist/index.js")
	if err != nil {
		t.Fatal(err)
	}
	return script
}

// serveEverything runs that server over streamable HTTP, with sessions, on a port.
func serveEverything(t *testing.T, port string) *process.Process {
	t.Helper()
	cmd := exec.Command(npm.Node(t), everything(t), "streamableHttp")
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "PORT=" + port}
	p, err := process.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	if err := p.Listens(t.Context(), "127.0.0.1:"+port); err != nil {
		t.Fatal(err)
	}
	return p
}

// The server from npm over HTTP keeps a session, and streams. Everything of it passes through the
// gateway, and a server that has lost the session gets another one.
func TestServerFromNPMOverHTTP_Row76_Row78(t *testing.T) {
	npm.Node(t)
	port := e2e.FreePort(t)
	server := serveEverything(t, port)
	w := start(t, fmt.Sprintf("servers:\n  - {id: all, type: http, auth_strategy: bypass_auth, config: {url: \"http://127.0.0.1:%s/mcp\"}}\n", port))
	token := w.token("ann")
	names, _ := w.tools(token)
	for _, want := range []string{"all.echo", "all.get-sum", "all.get-structured-content", "all.trigger-long-running-operation"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not in %v", want, names)
		}
	}
	checkEverything(t, w, token)
	server.Kill()
	serveEverything(t, port)
	if got := w.said(w.call(token, "all.echo", `{"message":"again"}`)); got != "Echo: again" {
		t.Errorf("after a restart of the server: %s", got)
	}
}

// checkEverything asks for one of each thing that the server has.
func checkEverything(t *testing.T, w *world, token string) {
	t.Helper()
	for params, want := range map[string]string{
		`"tools/call","params":{"name":"all.echo","arguments":{"message":"caf\u00e9"}}`:                  `Echo: café`,
		`"tools/call","params":{"name":"all.get-sum","arguments":{"a":2,"b":40}}`:                        `42`,
		`"tools/call","params":{"name":"all.get-structured-content","arguments":{"location":"Chicago"}}`: `"structuredContent":{`,
		`"tools/call","params":{"name":"all.get-tiny-image","arguments":{}}`:                             `"mimeType":"image/png"`,
		`"prompts/list"`: `"all.args-prompt"`,
		`"prompts/get","params":{"name":"all.args-prompt","arguments":{"city":"Rome"}}`: `weather in Rome`,
		`"resources/list"`:           `"uri":"all.demo://resource/static/document/`,
		`"resources/templates/list"`: `all.demo://resource/dynamic/text/`,
		`"resources/read","params":{"uri":"all.demo://resource/dynamic/text/1"}`:                                                                     `Resource 1`,
		`"completion/complete","params":{"ref":{"type":"ref/prompt","name":"all.completable-prompt"},"argument":{"name":"department","value":"Ma"}}`: `"Marketing"`,
	} {
		if r := w.send(token, `{"jsonrpc":"2.0","id":1,"method":`+params+`}`); r.Status != 200 || !strings.Contains(string(r.Result), want) {
			t.Errorf("%s: %s, want %s", params, r, want)
		}
	}
	long := w.send(token, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"all.trigger-long-running-operation","_meta":{"progressToken":"mine"},"arguments":{"duration":0.1,"steps":3}}}`)
	if len(long.Notifications) != 3 || !strings.Contains(strings.Join(long.Notifications, ""), `"progressToken":"mine"`) || !strings.Contains(w.said(long), "completed") {
		t.Errorf("progress: %s", long)
	}
}
