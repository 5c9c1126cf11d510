package flows

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"signet/internal/e2e"
	"signet/internal/test/npm"
)

// site is the demo behind a proxy that plays the network: the proxy's URL is the
// issuer, and the proxy records the requests of clients.
type site struct {
	*e2e.Program
	proxy    *e2e.Proxy
	endpoint string
}

// startSite starts a site for clients from npm. settings are more variables.
func startSite(t *testing.T, settings ...string) *site {
	t.Helper()
	npm.Node(t) // skips before anything is built
	return newSite(t, settings...)
}

func newSite(t *testing.T, settings ...string) *site {
	t.Helper()
	proxy := e2e.NewProxy(t)
	d := e2e.Start(t, append([]string{"SIGNET_ISSUER=" + proxy.URL}, settings...), "--demo")
	proxy.To(t, d.URL())
	return &site{d, proxy, proxy.URL + "/mcp"}
}

// driven is a client behind one of the scripts of internal/test/npm, which answer each
// command by a line.
type driven struct {
	*npm.Process
	t *testing.T
}

// sdkClient is a client of the TypeScript SDK, behind driver.mjs.
type sdkClient struct {
	driven
	logins int
	visit  func(authorize string) *url.URL // signs the user in; nil: as the demo user
}

// sdkCommand is a command to the driver.
type sdkCommand struct {
	Do        string            `json:"do"`
	Back      string            `json:"back,omitempty"`
	Tool      string            `json:"tool,omitempty"`
	Arguments map[string]string `json:"arguments,omitempty"`
	Times     int               `json:"times,omitempty"`
}

// sdkAnswer is an answer of the driver.
type sdkAnswer struct {
	Result    json.RawMessage `json:"result"`
	Authorize string          `json:"authorize"`
	Error     struct {
		Name, Message string
		Code          any
	} `json:"error"`
	raw string
}

func (a sdkAnswer) String() string { return a.raw }

func (c *driven) ask(command any) sdkAnswer {
	c.t.Helper()
	text, err := json.Marshal(command)
	if err != nil {
		c.t.Fatal(err)
	}
	c.Send(string(text))
	for {
		line, ok := c.Next()
		if !ok {
			c.t.Fatalf("the client ended instead of %s", text)
		}
		answer := sdkAnswer{raw: line.Text}
		if !line.Stderr && json.Unmarshal([]byte(line.Text), &answer) == nil {
			return answer
		}
	}
}

// do carries out a command. If the client asks for a login, the user signs in, once,
// and the command is repeated.
func (c *sdkClient) do(command sdkCommand) sdkAnswer {
	c.t.Helper()
	answer := c.ask(command)
	if answer.Authorize == "" {
		return answer
	}
	c.logins++
	visit := c.visit
	if visit == nil {
		visit = func(authorize string) *url.URL { return e2e.SignIn(c.t, authorize, "demo_user", "demo_password") }
	}
	back := visit(answer.Authorize).String()
	if done := c.ask(sdkCommand{Do: "finish", Back: back}); done.Error.Name != "" {
		c.t.Fatalf("after the login: %s", done)
	}
	return c.ask(command)
}

// must is do for a command that must succeed.
func (c *sdkClient) must(command sdkCommand) string {
	c.t.Helper()
	answer := c.do(command)
	if answer.Result == nil {
		c.t.Fatalf("%s %s: %s", command.Do, command.Tool, answer)
	}
	return string(answer.Result)
}

func (c *sdkClient) echo(text string) {
	c.t.Helper()
	if got := c.must(sdkCommand{Do: "call", Tool: "echo", Arguments: map[string]string{"message": text}}); !strings.Contains(got, text) {
		c.t.Errorf("echo says %s", got)
	}
}

// typeScript is a version of the SDK that most MCP clients use.
type typeScript struct{ name, version, era string }

var typeScripts = []typeScript{
	{"v1", "v1", "legacy"},
	{"v2 legacy", "v2", "legacy"},
	{"v2 auto", "v2", "auto"},
}

// connect starts a client, which registers, and signs the user in.
func (ts typeScript) connect(t *testing.T, site *site) *sdkClient {
	t.Helper()
	return ts.connectAs(t, site, sdkIdentity{})
}

// sdkIdentity describes a client that does not register.
type sdkIdentity struct {
	Document string           `json:"document,omitempty"` // URL of its metadata
	Client   string           `json:"client,omitempty"`   // id of a configured client
	Key      *jose.JSONWebKey `json:"key,omitempty"`      // for private_key_jwt
}

// connectAs is connect for a client that is known without a registration.
func (ts typeScript) connectAs(t *testing.T, site *site, as sdkIdentity) *sdkClient {
	t.Helper()
	identity, err := json.Marshal(as)
	if err != nil {
		t.Fatal(err)
	}
	c := &sdkClient{driven: driven{npm.Start(t, t.TempDir(), npm.Driver, ts.version, site.endpoint, ts.era, string(identity)), t}}
	c.must(sdkCommand{Do: "connect"})
	// In the background a client of the older protocol asks for a stream of events,
	// which the server does not have. Wait for that: a login that it starts would
	// disturb the login of the next call.
	e2e.Eventually(t, func() bool {
		return ts.era != "legacy" || slices.ContainsFunc(site.proxy.Exchanges("/mcp"), func(e e2e.Exchange) bool {
			return e.Method == http.MethodGet && e.Status == http.StatusMethodNotAllowed
		})
	})
	return c
}

func TestTypeScriptClientSignsInOnce(t *testing.T) {
	for _, ts := range typeScripts {
		t.Run(ts.name, func(t *testing.T) {
			site := startSite(t)
			c := ts.connect(t, site)
			if tools := c.must(sdkCommand{Do: "tools"}); !strings.Contains(tools, `"whoami"`) {
				t.Errorf("tools are %s", tools)
			}
			c.echo("after login")
			for n := range 3 {
				site.proxy.Spoil()
				c.echo(fmt.Sprint("after refresh ", n))
			}
			site.proxy.Spoil()
			// Each of these refreshes, with the same handle: none is answered before all
			// are sent, since a handle that arrives after the next but one is taken for a
			// thief's. SDK 1 keeps one flag for all its requests, and may mistake the 401
			// of one for a refused refresh of another.
			site.proxy.Instead(together("/token", 5))
			many := c.do(sdkCommand{Do: "call", Tool: "whoami", Times: 5})
			site.proxy.Instead(nil)
			if many.Result == nil && !(ts.version == "v1" && strings.Contains(many.Error.Message, "401 after successful authentication")) {
				t.Errorf("five calls at once gave %s", many)
			}
			c.echo("after many refreshes")
			checkOneLogin(t, site.proxy, 4)
			if c.logins != 1 {
				t.Errorf("the user had to sign in %d times, want once", c.logins)
			}
		})
	}
}

// together holds requests with path until n of them have arrived.
func together(path string, n int32) func(e2e.Exchange) (status int, body string) {
	var arrived atomic.Int32
	all := make(chan struct{})
	return func(e e2e.Exchange) (int, string) {
		if e.Path == path {
			if arrived.Add(1) == n {
				close(all)
			}
			<-all
		}
		return 0, "" // the server answers
	}
}

// checkOneLogin checks all requests of a client: one registration, one code for one
// token of this resource, and refreshes.
func checkOneLogin(t *testing.T, proxy *e2e.Proxy, refreshes int) {
	t.Helper()
	if got := proxy.Exchanges("/register"); len(got) != 1 || got[0].Status != http.StatusCreated {
		t.Errorf("registrations %+v, want one", got)
	}
	var codes []e2e.Exchange
	for _, e := range proxy.Exchanges("/token") {
		if e.Status != http.StatusOK {
			t.Errorf("token request %v was answered %d %s", e.Form, e.Status, e.Answer)
		}
		if e.Form.Get("grant_type") == "authorization_code" {
			codes = append(codes, e)
		}
	}
	if len(codes) != 1 || codes[0].Form.Get("resource") != proxy.URL+"/mcp" {
		t.Errorf("codes were redeemed by %+v, want one for %s/mcp", codes, proxy.URL)
	}
	if got := len(proxy.Refreshes(http.StatusOK)); got < refreshes {
		t.Errorf("%d refreshes, want %d at least", got, refreshes)
	}
}

// overloaded is the answer of an overloaded server to a refresh.
func overloaded(e e2e.Exchange) (status int, body string) {
	if e.Form.Get("grant_type") != "refresh_token" {
		return 0, ""
	}
	return http.StatusServiceUnavailable, `{"error":"temporarily_unavailable","error_description":"come back later"}`
}

// overloadedMCP is the answer of an overloaded server to a call of a tool.
func overloadedMCP(e e2e.Exchange) (status int, body string) {
	if e.Path != "/mcp" || !strings.Contains(e.Body, "tools/call") {
		return 0, ""
	}
	return http.StatusServiceUnavailable, `{"error":"temporarily_unavailable","error_description":"try again in a moment"}`
}

// Overload causes no new login: the client keeps its tokens and uses them later.
func TestTypeScriptClientKeepsTokensWhenOverloaded(t *testing.T) {
	for _, ts := range typeScripts {
		t.Run(ts.name, func(t *testing.T) {
			site := startSite(t)
			c := ts.connect(t, site)
			site.proxy.Spoil()
			site.proxy.Instead(overloaded)
			if got := c.ask(sdkCommand{Do: "call", Tool: "whoami"}); got.Error.Name == "" {
				t.Fatalf("while refreshes are refused: %s, want an error", got)
			}
			site.proxy.Instead(overloadedMCP)
			if got := c.ask(sdkCommand{Do: "call", Tool: "whoami"}); got.Error.Name == "" {
				t.Fatalf("while calls are refused: %s, want an error", got)
			}
			site.proxy.Instead(nil)
			c.echo("later")
			if refused, done := len(site.proxy.Refreshes(http.StatusServiceUnavailable)), len(site.proxy.Refreshes(http.StatusOK)); refused == 0 || done == 0 {
				t.Errorf("%d refreshes refused and %d done, want some of both", refused, done)
			}
			if n := len(site.proxy.Exchanges("/register")); n != 1 || c.logins != 1 {
				t.Errorf("%d registrations and %d logins, want 1 and 1", n, c.logins)
			}
		})
	}
}

// A client whose tokens are no longer accepted asks the user to sign in again, once,
// and goes on: after a revocation as the same client, and after the server lost its
// data as a client that registers again.
func TestTypeScriptClientStartsAgain(t *testing.T) {
	for _, ts := range typeScripts {
		t.Run(ts.name, func(t *testing.T) {
			site := startSite(t)
			c := ts.connect(t, site)

			codes := site.proxy.Exchanges("/token")
			var tok e2e.Tokens
			if err := json.Unmarshal([]byte(codes[0].Answer), &tok); err != nil {
				t.Fatal(err)
			}
			resp, err := http.PostForm(site.proxy.URL+"/revoke", url.Values{"token": {tok.RefreshToken}, "client_id": {codes[0].Form.Get("client_id")}})
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("revocation: %v, %v", resp, err)
			}
			resp.Body.Close()
			c.echo("after the grant was revoked")
			if n := len(site.proxy.Exchanges("/register")); n != 1 || c.logins != 2 {
				t.Errorf("%d registrations and %d logins, want 1 and 2", n, c.logins)
			}

			site.Stop()
			if err := os.RemoveAll(site.Dir); err != nil {
				t.Fatal(err)
			}
			site.Start()
			c.echo("after the server lost its data")
			if n := len(site.proxy.Exchanges("/register")); n != 2 || c.logins != 3 {
				t.Errorf("%d registrations and %d logins, want 2 and 3", n, c.logins)
			}
		})
	}
}

// A tool that needs more scopes than the first login gave causes a step-up, and the
// same client gets them. TypeScript SDK 1 does not step up as long as it can refresh
// (typescript-sdk issues 1582 and 2255): it must report the error and go on.
func TestTypeScriptClientStepsUp(t *testing.T) {
	for _, ts := range typeScripts {
		t.Run(ts.name, func(t *testing.T) {
			site := startSite(t)
			c := ts.connect(t, site)
			admin := sdkCommand{Do: "call", Tool: "admin_action"}
			answer := c.do(admin)
			if ts.version == "v1" {
				if !strings.Contains(answer.Error.Message, "403") || c.logins != 1 {
					t.Errorf("admin_action gave %s after %d logins, want its 403 after 1", answer, c.logins)
				}
				c.echo("with the scope it has")
				return
			}
			if answer.Result == nil {
				t.Fatalf("admin_action gave %s", answer)
			}
			if c.logins != 2 {
				t.Errorf("the user had to sign in %d times, want 2", c.logins)
			}
			checkSteppedUp(t, site.proxy, "read admin")
			site.proxy.Spoil()
			c.must(admin)
			c.echo("with the scope it had")
		})
	}
}

// checkSteppedUp checks for a second login of the same client, for scope.
func checkSteppedUp(t *testing.T, proxy *e2e.Proxy, scope string) {
	t.Helper()
	if n := len(proxy.Exchanges("/register")); n != 1 {
		t.Errorf("%d registrations, want 1", n)
	}
	var granted string
	for _, e := range proxy.Exchanges("/token") {
		var tok e2e.Tokens
		if json.Unmarshal([]byte(e.Answer), &tok) == nil && e.Form.Get("grant_type") == "authorization_code" {
			granted = tok.Scope
		}
	}
	if granted != scope {
		t.Errorf("the last login gave the scope %q, want %q", granted, scope)
	}
}

// runClient runs a client that ends by itself and listens for the redirect. The user
// signs in when the client names a URL.
func runClient(t *testing.T, home, input, script string, args ...string) (output string, status, logins int) {
	t.Helper()
	p := npm.Start(t, home, filepath.Join(npm.Modules, script), args...)
	if input != "" {
		p.Send(input)
	}
	logins = signInWhenAsked(t, p, func(npm.Line) bool { return false })
	return p.Output(), p.Status(), logins
}

// signInWhenAsked reads what a client says until it ends or says what until looks for, and
// signs in wherever it asks for that.
func signInWhenAsked(t *testing.T, p *npm.Process, until func(npm.Line) bool) (logins int) {
	t.Helper()
	for {
		line, ok := p.Next()
		if !ok || until(line) {
			return logins
		}
		authorize := line.Authorization()
		if authorize == "" {
			continue
		}
		logins++
		deliver(t, e2e.SignIn(t, authorize, "demo_user", "demo_password").String())
	}
}

// deliver sends the redirect to a client, as a browser does. It tries again, since
// mcp-remote does not listen yet when it names the URL.
func deliver(t *testing.T, back string) {
	t.Helper()
	var resp *http.Response
	e2e.Eventually(t, func() (ok bool) {
		var err error
		resp, err = http.Get(back)
		return err == nil
	})
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the client answers its redirect with %s", resp.Status)
	}
}

const inspectorScript = "@modelcontextprotocol/inspector/clients/launcher/build/index.js"

// inspect runs the Inspector once. Its tokens are stored in home.
func inspect(t *testing.T, home, endpoint, input string, args ...string) (output string, status, logins int) {
	t.Helper()
	args = append([]string{"--cli", "--server-url", endpoint, "--transport", "http", "--format", "json"}, args...)
	return runClient(t, home, input, inspectorScript, args...)
}

func TestInspectorSignsInOnce(t *testing.T) {
	site := startSite(t)
	home, redirect := t.TempDir(), "http://127.0.0.1:"+e2e.FreePort(t)+"/oauth/callback"
	out, status, logins := inspect(t, home, site.endpoint, "", "--callback-url", redirect, "--method", "tools/list")
	if status != 0 || logins != 1 || !strings.Contains(out, `"whoami"`) {
		t.Fatalf("first run: status %d, %d logins: %s", status, logins, out)
	}
	for n, era := range []string{"legacy", "modern", "auto"} {
		site.proxy.Spoil()
		out, status, _ = inspect(t, home, site.endpoint, "", "--stored-auth-only", "--protocol-era", era, "--method", "tools/call", "--tool-name", "echo", "--tool-arg", "message=hi "+era)
		if status != 0 || !strings.Contains(out, "hi "+era) {
			t.Errorf("run %d, %s, with an expired token: status %d: %s", n+2, era, status, out)
		}
	}
	checkOneLogin(t, site.proxy, 3)
	out, status, logins = inspect(t, home, site.endpoint, "", "--callback-url", redirect, "--relogin", "--method", "tools/list")
	if status != 0 || logins != 1 {
		t.Errorf("with --relogin: status %d, %d logins: %s", status, logins, out)
	}
}

// The Inspector asks the user before it steps up, if its configuration has OAuth
// settings; otherwise it refreshes and gives up. It calls only tools of tools/list.
func TestInspectorStepsUp(t *testing.T) {
	site := startSite(t)
	home := t.TempDir()
	config := filepath.Join(home, "mcp.json")
	servers := fmt.Sprintf(`{"mcpServers":{"signet":{"type":"streamable-http","url":%q,"oauth":{"scopes":"read"}}}}`, site.endpoint)
	if err := os.WriteFile(config, []byte(servers), 0o600); err != nil {
		t.Fatal(err)
	}
	out, status, logins := runClient(t, home, "y", inspectorScript, "--cli", "--config", config, "--server", "signet", "--format", "json",
		"--callback-url", "http://127.0.0.1:"+e2e.FreePort(t)+"/oauth/callback", "--method", "tools/call", "--tool-name", "admin_action")
	if status != 0 || logins != 2 || !strings.Contains(out, "demo_user") {
		t.Errorf("status %d, %d logins: %s", status, logins, out)
	}
	checkSteppedUp(t, site.proxy, "read admin")
}

func TestMCPRemoteSignsInOnce(t *testing.T) {
	site := startSite(t)
	home, port := t.TempDir(), e2e.FreePort(t)
	for n := range 2 {
		p := npm.Start(t, home, filepath.Join(npm.Modules, "mcp-remote/dist/client.js"), site.endpoint, port)
		connected := false
		logins := signInWhenAsked(t, p, func(line npm.Line) bool {
			connected = connected || strings.Contains(line.Text, "Connected successfully!")
			return connected && strings.Contains(line.Text, "whoami")
		})
		if want := 1 - n; !connected || logins != want {
			t.Fatalf("run %d: connected %v, %d logins, want %d", n+1, connected, logins, want)
		}
		site.proxy.Spoil()
	}
	checkOneLogin(t, site.proxy, 1)
}

// A desktop application starts mcp-remote and speaks MCP with it over pipes.
func TestMCPRemoteServesAnApplication(t *testing.T) {
	for _, era := range []string{"legacy", "auto"} {
		t.Run(era, func(t *testing.T) {
			site := startSite(t)
			args := []string{site.endpoint, e2e.FreePort(t)}
			if era == "auto" {
				args = append(args, "--protocol", "auto")
			}
			h := &host{Process: npm.Start(t, t.TempDir(), filepath.Join(npm.Modules, "mcp-remote/dist/proxy.js"), args...), t: t}
			h.request("initialize", `{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"host","version":"1"}}`)
			h.Send(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
			if tools := h.request("tools/list", `{}`); !strings.Contains(tools, `"whoami"`) {
				t.Errorf("tools are %s", tools)
			}
			for n := range 3 {
				text := fmt.Sprint("hello ", n)
				if got := h.request("tools/call", `{"name":"echo","arguments":{"message":"`+text+`"}}`); !strings.Contains(got, text) {
					t.Errorf("echo says %s", got)
				}
				site.proxy.Spoil()
			}
			if h.logins != 1 {
				t.Errorf("the user had to sign in %d times, want once", h.logins)
			}
			checkOneLogin(t, site.proxy, 2)
			if got := h.request("tools/call", `{"name":"admin_action","arguments":{}}`); !strings.Contains(got, "demo_user") {
				t.Errorf("admin_action says %s", got)
			}
			if h.logins != 2 {
				t.Errorf("the user had to sign in %d times, want twice", h.logins)
			}
			checkSteppedUp(t, site.proxy, "read admin")
		})
	}
}

// host is the application that speaks with mcp-remote over pipes.
type host struct {
	*npm.Process
	t      *testing.T
	id     int
	logins int
}

// request sends an MCP request and returns its result.
func (h *host) request(method, params string) string {
	h.t.Helper()
	h.id++
	h.Send(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":%s}`, h.id, method, params))
	var answer struct {
		ID            int
		Result, Error json.RawMessage
	}
	h.logins += signInWhenAsked(h.t, h.Process, func(line npm.Line) bool {
		answer.ID = 0
		return !line.Stderr && json.Unmarshal([]byte(line.Text), &answer) == nil && answer.ID == h.id
	})
	if answer.ID != h.id || answer.Result == nil {
		h.t.Fatalf("%s was answered %s", method, answer.Error)
	}
	return string(answer.Result)
}
