package gateway

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/e2e"
	"signet/internal/test/npm"
	"signet/internal/test/person"
)

// exampleGateway runs the example, with the program from npm if Node is there.
func exampleGateway(t *testing.T) (issuer string, withNode bool) {
	t.Helper()
	path := os.Getenv("PATH")
	if script, err := filepath.Abs(npm.Modules + "/@modelcontextprotocol/server-everything/dist/index.js"); err == nil {
		if _, err := os.Stat(script); err == nil {
			path, withNode = npx(t, script)+":"+path, true
		}
	}
	port := e2e.FreePort(t)
	issuer = "http://localhost:" + port
	e2e.StartExample(t, "gateway", issuer+"/livez", "PATH="+path, "SIGNET_GATEWAY_CONFIG=gateway.yaml", "SIGNET_ISSUER="+issuer, "SIGNET_LISTEN=127.0.0.1:"+port)
	return issuer, withNode
}

// npx returns a directory with a program npx that runs what is installed, without the network.
func npx(t *testing.T, script string) string {
	t.Helper()
	dir := t.TempDir()
	text := "#!/bin/sh\nexec '" + npm.Node(t) + "' '" + script + "' stdio\n"
	if err := os.WriteFile(filepath.Join(dir, "npx"), []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// connectAs is an MCP session of a user of the example.
func connectAs(t *testing.T, issuer, name, password string) *sdk.ClientSession {
	t.Helper()
	login := e2e.SDKLoginWith(t, func(link string) (*url.URL, error) { return signIn(t, person.New(name, password), link), nil })
	return e2e.Connect(t, issuer+"/mcp", login, nil)
}

// The example serves its servers: the internal one gets a token of its own, the one with a login of
// its own asks the user.
func TestExampleServesItsServers(t *testing.T) {
	issuer, withNode := exampleGateway(t)
	session := connectAs(t, issuer, "alice", "cows")
	if got := e2e.CallTool(t, session, "calendar.whose", nil); !strings.HasPrefix(got, "the calendar of user 1, ") {
		t.Errorf("calendar.whose: %s", got)
	}
	if withNode {
		if got := e2e.CallTool(t, session, "everything.echo", map[string]any{"message": "hello"}); got != "Echo: hello" {
			t.Errorf("everything.echo: %s", got)
		}
	}
	res, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: "tickets.mine"})
	if err != nil || !res.IsError || !strings.Contains(res.Content[0].(*sdk.TextContent).Text, issuer+"/oauth/authorize?server_id=tickets") {
		t.Errorf("tickets.mine: %+v %v", res, err)
	}
}
