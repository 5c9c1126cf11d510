package gateway

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/e2e"
	"signet/internal/test/backends"
	"signet/internal/test/npm"
)

// two is a configuration of two open servers, a and b.
func two(a, b string) string {
	return fmt.Sprintf(`servers:
  - {id: a, type: http, auth_strategy: bypass_auth, config: {url: %s}}
  - {id: b, type: http, auth_strategy: bypass_auth, config: {url: %s}}
`, a, b)
}

// Two servers have a tool of the same name. Their schemas reach the client as they are, arguments
// the right server byte for byte. Prompts and resources are served as well.
func TestServersAreAggregatedAsTheyAre_Row76_Probe5(t *testing.T) {
	a, b := backends.New(t, backends.Options{}), backends.New(t, backends.Options{Legacy: true})
	w := start(t, two(a.Endpoint(), b.Endpoint()))
	token := w.token("ann")
	names, tools := w.tools(token)
	if want := []string{"a.echo", "a.slow", "a.whoami", "a.write", "b.echo", "b.slow", "b.whoami", "b.write"}; !slices.Equal(names, want) {
		t.Errorf("tools %v, want %v", names, want)
	}
	for _, id := range []string{"a", "b"} {
		var tool struct{ InputSchema json.RawMessage }
		if err := json.Unmarshal(tools[id+".echo"], &tool); err != nil || !equalJSON(t, string(tool.InputSchema), backends.EchoSchema) {
			t.Errorf("the schema of %s.echo is %s", id, tool.InputSchema)
		}
	}
	const arguments = `{"n":10000000000000001,"f":1.0e+2,"b":"<\u00e9>","a":[ ],"big":1e400}`
	for id, be := range map[string]*backends.MCP{"a": a, "b": b} {
		a.Forget()
		b.Forget()
		w.call(token, id+".echo", arguments)
		if n := len(a.Calls()) + len(b.Calls()); n != 1 || len(be.Calls()) != 1 {
			t.Fatalf("%s: %d calls reached a, %d reached b", id, len(a.Calls()), len(b.Calls()))
		}
		if body := be.Calls()[0].Body; !strings.Contains(body, `"arguments":`+arguments) || !strings.Contains(body, `"name":"echo"`) {
			t.Errorf("%s was sent %s", id, body)
		}
	}
	for method, want := range map[string]string{
		`"prompts/get","params":{"name":"b.greet","arguments":{"name":"Ann"}}`: "Greet Ann",
		`"prompts/list"`:             `"a.greet"`,
		`"resources/list"`:           "file:///notes.txt",
		`"resources/templates/list"`: "file:///notes/{name}",
		`"resources/read","params":{"uri":"a.file:///notes.txt"}`: "note of file:///notes.txt",
	} {
		if r := w.send(token, `{"jsonrpc":"2.0","id":1,"method":`+method+`}`); r.Status != 200 || !strings.Contains(string(r.Result), want) {
			t.Errorf("%s: %s, want %s", method, r, want)
		}
	}
}

// equalJSON reports whether two texts are the same JSON, numbers by their digits.
func equalJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var texts [2]string
	for i, text := range []string{a, b} {
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		out, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = string(out)
	}
	return texts[0] == texts[1]
}

// Without prefixes, two servers for which the file names the same tool are refused at the start.
func TestCollisionWithoutPrefixIsRefused_Row76(t *testing.T) {
	a, b := backends.New(t, backends.Options{}), backends.New(t, backends.Options{})
	prefix := "routing: {prefix: none}\n"
	w := start(t, prefix+fmt.Sprintf("servers:\n  - {id: a, type: http, auth_strategy: bypass_auth, config: {url: %s}}\n", a.Endpoint()))
	if got := w.said(w.call(w.token("ann"), "echo", `{"x":1}`)); got != `{"x":1}` {
		t.Errorf("echo: %s", got)
	}
	both := strings.ReplaceAll(two(a.Endpoint(), b.Endpoint()), "config:", "tools: {echo: {idempotent: true}}, config:")
	prepare(t, prefix+both).MustRefuse("servers[1].tools", "echo")
}

// Every kind of server is called: MCP at a path of its own in both eras, the REST shape, and a
// program over stdio with its arguments and its environment. One that is down takes only its own
// tools away, and they come back with it.
func TestEveryKindOfServerIsCalled_Row78(t *testing.T) {
	node, script := npm.Node(t), everything(t)
	deep, old := backends.New(t, backends.Options{Path: "/deep/er/mcp"}), backends.New(t, backends.Options{Legacy: true})
	rest, lists := backends.NewREST(t, backends.RESTOptions{}), backends.NewREST(t, backends.RESTOptions{NoCapabilities: true})
	down := backends.New(t, backends.Options{})
	down.Down()
	w := start(t, fmt.Sprintf(`servers:
  - {id: deep, type: http, auth_strategy: bypass_auth, config: {url: %s}}
  - {id: old, type: http, auth_strategy: bypass_auth, config: {url: %s}}
  - {id: rest, type: local, auth_strategy: bypass_auth, config: {port: %s}}
  - {id: lists, type: local, auth_strategy: bypass_auth, url: %s, config: {}}
  - {id: down, type: http, auth_strategy: bypass_auth, config: {url: %s}}
  - {id: stdio, type: stdio, auth_strategy: bypass_auth, config: {command: %q, args: [%q, stdio], env: {CANARY: of-the-environment}}}
`, deep.Endpoint(), old.Endpoint(), rest.Port(), lists.URL(), down.Endpoint(), node, script))
	token := w.token("ann")
	var names []string
	e2e.Eventually(t, func() bool { // on a busy machine the program starts for longer than a list waits
		names, _ = w.tools(token)
		return slices.Contains(names, "stdio.echo")
	})
	for _, want := range []string{"deep.echo", "old.echo", "rest.echo", "lists.echo"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not in %v", want, names)
		}
	}
	if slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, "down.") }) {
		t.Errorf("tools of a server that is down: %v", names)
	}
	for _, id := range []string{"deep", "old", "rest", "lists"} {
		if got := w.said(w.call(token, id+".echo", `{"message":"x"}`)); got != `{"message":"x"}` {
			t.Errorf("%s.echo: %s", id, got)
		}
	}
	if got := w.said(w.call(token, "stdio.echo", `{"message":"x"}`)); got != "Echo: x" {
		t.Errorf("stdio.echo: %s", got)
	}
	if got := w.said(w.call(token, "stdio.get-env", `{}`)); !strings.Contains(got, "of-the-environment") || strings.Contains(got, "SIGNET_") {
		t.Errorf("the environment of the program: %s", got)
	}
	if r := w.call(token, "down.echo", `{}`); r.Status >= 500 || !strings.Contains(r.Body, "down") {
		t.Errorf("a call of a server that is down: %s", r)
	}
	if err := down.Up(); err != nil {
		t.Fatal(err)
	}
	e2e.Eventually(t, func() bool {
		names, _ := w.tools(token)
		return slices.Contains(names, "down.echo")
	})
}

// The program of a server over stdio runs once for all callers, and ends with the gateway.
func TestProgramOverStdioRunsOnceAndEnds_Row79_Row90(t *testing.T) {
	node, script := npm.Node(t), everything(t)
	mark := "--mark=" + e2e.FreePort(t) + filepath.Base(t.TempDir()) // finds the program among others
	w := start(t, fmt.Sprintf("servers:\n  - {id: stdio, type: stdio, auth_strategy: bypass_auth, config: {command: %q, args: [%q, stdio, %q]}}\n", node, script, mark))
	ann, bob := w.token("ann"), w.token("bob")
	var calls sync.WaitGroup
	for i := range 10 {
		for name, token := range map[string]string{"ann": ann, "bob": bob} {
			calls.Go(func() {
				message := fmt.Sprint(name, i)
				if got := w.said(w.call(token, "stdio.echo", fmt.Sprintf(`{"message":%q}`, message))); got != "Echo: "+message {
					t.Errorf("%s got %s", message, got)
				}
			})
		}
	}
	calls.Wait()
	if n := running(mark); n != 1 {
		t.Errorf("the program runs %d times", n)
	}
	if status := w.Stop(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	e2e.Eventually(t, func() bool { return running(mark) == 0 })
}

// running counts the processes whose command line has a text.
func running(mark string) int {
	out, err := exec.Command("pgrep", "-cf", "--", mark).Output()
	if err != nil {
		return 0
	}
	var n int
	fmt.Sscan(string(out), &n)
	return n
}

// The endpoints of other gateways answer in their shapes, and nothing without a token. An
// anonymous request changes nothing. Fifty clients are served at once.
func TestFrontEndpoints_Row77(t *testing.T) {
	a, b := backends.New(t, backends.Options{}), backends.New(t, backends.Options{Legacy: true})
	w := start(t, two(a.Endpoint(), b.Endpoint()))
	token := w.token("ann")
	rest := func(token, method, path, body string) reply {
		t.Helper()
		r, err := http.NewRequest(method, w.URL()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		return w.do(r)
	}
	for _, c := range []struct{ method, path, body, want string }{
		{"POST", "/mcp/tools/list", "{}", `"name":"a.echo"`},
		{"POST", "/mcp/tools/call", `{"name":"b.echo","arguments":{"x":1}}`, `{\"x\":1}`},
		{"POST", "/mcp/resources/list", "{}", `"uri":"a.file:///notes.txt"`},
		{"POST", "/mcp/resources/read", `{"uri":"a.file:///notes.txt"}`, "note of file:///notes.txt"},
		{"GET", "/capabilities", "", `"prompts":[`},
	} {
		a.Forget()
		b.Forget()
		for _, bad := range []string{"", "x.y.z", "any-string"} {
			if r := rest(bad, c.method, c.path, c.body); r.Status != http.StatusUnauthorized || r.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s %s with token %q: %s", c.method, c.path, bad, r)
			}
		}
		if a.Log()+b.Log() != "" {
			t.Errorf("%s: a request without a token reached a server:\n%s%s", c.path, a.Log(), b.Log())
		}
		if r := rest(token, c.method, c.path, c.body); r.Status != http.StatusOK || !strings.Contains(r.Body, c.want) {
			t.Errorf("%s %s: %s, want %s", c.method, c.path, r, c.want)
		}
	}
	for _, method := range []string{"DELETE", "GET", "PUT", "PATCH"} {
		if r := rest("", method, "/mcp", ""); r.Status != http.StatusUnauthorized {
			t.Errorf("anonymous %s: %s", method, r)
		}
	}
	var clients sync.WaitGroup
	for i := range 50 {
		clients.Go(func() {
			want := fmt.Sprintf(`{"client":%d}`, i)
			if got := w.said(w.call(token, "a.echo", want)); got != want {
				t.Errorf("client %d got %s", i, got)
			}
		})
	}
	clients.Wait()
}

// The go-sdk's client logs in by itself, lists, calls, reads and pings.
func TestSDKClient_Row77(t *testing.T) {
	a, b := backends.New(t, backends.Options{}), backends.New(t, backends.Options{Legacy: true})
	w := start(t, two(a.Endpoint(), b.Endpoint()))
	session := e2e.Connect(t, w.Issuer+"/mcp", e2e.SDKLogin(t, "ann", e2e.AnnsPassword), nil)
	n := 0
	for tool, err := range session.Tools(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; !strings.HasPrefix(tool.Name, "a.") && !strings.HasPrefix(tool.Name, "b.") {
			t.Errorf("a tool %s", tool.Name)
		}
	}
	if n != 8 {
		t.Errorf("%d tools", n)
	}
	if got := e2e.CallTool(t, session, "b.echo", map[string]any{"x": 1}); got != `{"x":1}` {
		t.Errorf("b.echo: %s", got)
	}
	if r, err := session.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: "a.file:///notes.txt"}); err != nil || r.Contents[0].Text != "note of file:///notes.txt" {
		t.Errorf("a.file:///notes.txt: %v %v", r, err)
	}
	if r := w.send(w.token("bob"), `{"jsonrpc":"2.0","id":1,"method":"ping"}`); r.Status != 200 || string(r.Result) != "{}" {
		t.Errorf("ping: %s", r)
	}
}

// Progress of a server reaches the client before the result, with the client's own token, in both
// eras on either side.
func TestProgressReachesItsClient_Row79(t *testing.T) {
	a, b := backends.New(t, backends.Options{}), backends.New(t, backends.Options{Legacy: true})
	w := start(t, two(a.Endpoint(), b.Endpoint()))
	token := w.token("ann")
	for _, id := range []string{"a", "b"} {
		old := w.send(token, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"`+id+`.slow","arguments":{"steps":3},"_meta":{"progressToken":"mine-7"}}}`)
		r := w.modern(token, "tools/call", id+".slow", `"name":"`+id+`.slow","arguments":{"steps":3}`)
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Replace(string(body), `"_meta":{`, `"_meta":{"progressToken":"mine-7",`, 1)
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
		for era, got := range map[string]reply{"2025-11-25": old, "2026-07-28": w.do(r)} {
			steps := 0
			for _, n := range got.Notifications {
				if strings.Contains(n, "notifications/progress") && strings.Contains(n, `"mine-7"`) {
					steps++
				}
			}
			if said := w.said(got); steps != 3 || said != "done" {
				t.Errorf("%s.slow, %s: %d steps, %s", id, era, steps, got)
			}
		}
	}
}
