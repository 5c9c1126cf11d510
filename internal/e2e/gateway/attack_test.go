package gateway

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"signet/internal/e2e"
	"signet/internal/test/backends"
)

func (h *hits) serve(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.n++
		http.NotFound(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// scoped is a configuration of two servers of which b needs a scope that only some users have.
func scoped(a, b string) string {
	return fmt.Sprintf(`servers:
  - {id: a, type: http, auth_strategy: bypass_auth, config: {url: %s}}
  - {id: b, type: http, auth_strategy: bypass_auth, scopes: [write], config: {url: %s}}
`, a, b)
}

// A message whose headers and body disagree, or whose JSON can be read in two ways, reaches no
// server.
func TestSmuggledMessagesReachNoServer_J09(t *testing.T) {
	a, b := backends.New(t, backends.Options{}), backends.New(t, backends.Options{})
	w := start(t, scoped(a.Endpoint(), b.Endpoint()))
	bob := w.token("bob")
	w.tools(bob)
	good := func() *http.Request {
		return w.modern(bob, "tools/call", "a.echo", `"name":"a.echo","arguments":{}`)
	}
	if r := w.do(good()); r.Status != 200 || r.Result == nil {
		t.Fatalf("the good message: %s", r)
	}
	body := func(text string) func(*http.Request) {
		return func(r *http.Request) { r.Body, r.ContentLength = w.post(bob, text).Body, int64(len(text)) }
	}
	const call = `"method":"tools/call","params":{"name":"b.write","arguments":{}}`
	for _, c := range []struct {
		name   string
		change func(*http.Request)
	}{
		{"Mcp-Method of a list", func(r *http.Request) { r.Header.Set("Mcp-Method", "tools/list") }},
		{"no Mcp-Method", func(r *http.Request) { r.Header.Del("Mcp-Method") }},
		{"Mcp-Name of another tool", func(r *http.Request) { r.Header.Set("Mcp-Name", "b.write") }},
		{"no Mcp-Name", func(r *http.Request) { r.Header.Del("Mcp-Name") }},
		{"two Mcp-Name headers", func(r *http.Request) { r.Header.Add("Mcp-Name", "b.write") }},
		{"Mcp-Name in base64 of another tool", func(r *http.Request) { r.Header.Set("Mcp-Name", "=?base64?Yi53cml0ZQ==?=") }},
		{"two methods", body(`{"jsonrpc":"2.0","id":1,"method":"ping",` + call + `}`)},
		{"two methods in other letters", body(`{"jsonrpc":"2.0","id":1,"Method":"ping",` + call + `}`)},
		{"two names", body(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a.echo","name":"b.write","arguments":{}}}`)},
		{"two names in other letters", body(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a.echo","Name":"b.write","arguments":{}}}`)},
		{"two params", body(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a.echo"},"params":{"name":"b.write"}}`)},
		{"a batch", body(`[{"jsonrpc":"2.0","id":1,` + call + `}]`)},
		{"two messages", body(`{"jsonrpc":"2.0","id":1,"method":"ping"}{"jsonrpc":"2.0","id":1,` + call + `}`)},
	} {
		a.Forget()
		b.Forget()
		r := good()
		c.change(r)
		got := w.do(r)
		if got.Status < 400 || got.Status >= 500 {
			t.Errorf("%s: %s", c.name, got)
		}
		if len(a.Calls())+len(b.Calls()) != 0 {
			t.Errorf("%s: the message reached a server:\n%s%s", c.name, a.Log(), b.Log())
		}
	}
}

// Paths that are written in another way lead nowhere, or to what they are checked as. Nothing
// reaches a server without a token that may.
func TestPathTricksReachNoServer_J04(t *testing.T) {
	a, b := backends.New(t, backends.Options{}), backends.New(t, backends.Options{})
	w := start(t, scoped(a.Endpoint(), b.Endpoint()))
	bob := w.token("bob")
	w.tools(bob)
	a.Forget()
	b.Forget()
	const body = `{"name":"b.write","arguments":{}}`
	for _, path := range []string{
		"/mcp/../mcp/tools/call", "/mcp/%2e%2e/mcp/tools/call", "//mcp/tools/call", "/mcp//tools/call", "/mcp/tools/call;x=1", "/mcp;/tools/call", "/MCP/tools/call",
		"/mcp/tools%2fcall", "/mcp/tools/call%00", "/mcp/tools/call/", "/livez/../mcp/tools/call", "/.well-known/..%2fmcp/tools/call", "/tools/b.write", "/tools/a.echo/../b.write",
		"/tools/b%2ewrite", "/tools/b.write;", "/tools/%62.write", "/mcp/tools/call#/livez", `/mcp\tools\call`,
	} {
		for name, token := range map[string]string{"without a token": "", "without the scope": bob} {
			status := w.raw("POST", path, token, body)
			if status < 300 || status >= 500 {
				t.Errorf("%s %s: %d", path, name, status)
			}
			if log := b.Log(); log != "" {
				t.Fatalf("%s %s reached the server:\n%s", path, name, log)
			}
		}
	}
}

// raw sends a request whose target no library rewrites, and returns the status.
func (w *world) raw(method, target, token, body string, headers ...string) int {
	w.t.Helper()
	c, err := net.Dial("tcp", w.Setting("SIGNET_LISTEN"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	text := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nContent-Length: %d\r\n",
		method, target, strings.TrimPrefix(w.Issuer, "http://"), len(body))
	if token != "" {
		headers = append(headers, "Authorization: Bearer "+token)
	}
	for _, h := range headers {
		text += h + "\r\n"
	}
	if _, err := fmt.Fprintf(c, "%s\r\n%s", text, body); err != nil {
		w.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, target, err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// A user without the scope of a server cannot see or call its tools, by whatever name; a call
// names the scope that is missing. A user who has it can.
func TestScopesDecideAtEveryCall_J07(t *testing.T) {
	a, b := backends.New(t, backends.Options{}), backends.New(t, backends.Options{})
	w := start(t, scoped(a.Endpoint(), b.Endpoint()))
	ann, bob := w.token("ann"), w.token("bob")
	for _, name := range names(w, bob) {
		if strings.HasPrefix(name, "b.") {
			t.Errorf("bob sees %s", name)
		}
	}
	b.Forget()
	r := w.call(bob, "b.echo", "{}")
	if challenge := r.Header.Get("WWW-Authenticate"); r.Status != http.StatusForbidden || !strings.Contains(challenge, `error="insufficient_scope"`) || !strings.Contains(challenge, "write") {
		t.Errorf("bob calls b.echo: %s, %s", r, challenge)
	}
	for _, guess := range []string{"B.echo", " b.echo", "b.echo ", "b..echo", "b/echo", "a.b.echo", "b.echo\u0000", "ｂ.echo", "a.../b.echo"} {
		if r := w.call(bob, guess, "{}"); r.Status == 200 && r.Error == nil {
			t.Errorf("bob calls %q: %s", guess, r)
		}
	}
	if log := b.Calls(); len(log) != 0 {
		t.Errorf("a call of bob's reached the server:\n%s", b.Log())
	}
	if got := w.said(w.call(ann, "b.echo", `{"x":1}`)); got != `{"x":1}` {
		t.Errorf("ann calls b.echo: %s", got)
	}
}

func names(w *world, token string) []string {
	w.t.Helper()
	list, _ := w.tools(token)
	return list
}

// Headers by which other gateways route inside do not change where a message goes, nor as whom.
func TestRoutingHeadersChangeNothing_J08(t *testing.T) {
	a, b := backends.New(t, backends.Options{}), backends.New(t, backends.Options{})
	w := start(t, scoped(a.Endpoint(), b.Endpoint()))
	bob := w.token("bob")
	w.tools(bob)
	b.Forget()
	const body = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a.echo","arguments":{}}}`
	for _, header := range []string{
		"Mcp-Init-Host: " + b.URL(), "Router-Key: secret", "X-Original-Url: /mcp/tools/call", "X-Rewrite-Url: /mcp/tools/call", "X-Forwarded-Host: " + strings.TrimPrefix(b.URL(), "http://"),
		"X-Mcp-Server: b", "X-Server-Id: b", "Mcp-Session-Id: b", "X-Forwarded-User: ann", "X-Http-Method-Override: DELETE",
	} {
		a.Forget()
		if status := w.raw("POST", "/mcp", bob, body, "MCP-Protocol-Version: 2025-11-25", header); status != 200 && status != 404 {
			t.Errorf("%s: %d", header, status)
		}
		if status := w.raw("POST", "/mcp", "", body, "MCP-Protocol-Version: 2025-11-25", header); status != http.StatusUnauthorized {
			t.Errorf("%s, without a token: %d", header, status)
		}
		if log := b.Log(); log != "" {
			t.Fatalf("%s: the message reached another server:\n%s", header, log)
		}
	}
}

// Twenty users call at once with the same ids. Each answer, and each credential that a server
// sees, is the user's own.
func TestUsersAreNeverMixed_J13_Row57(t *testing.T) {
	a, b := backends.New(t, backends.Options{}), backends.New(t, backends.Options{Legacy: true})
	w := prepare(t, fmt.Sprintf(`servers:
  - {id: a, type: http, auth_strategy: master_oauth, config: {url: %s}}
  - {id: b, type: http, auth_strategy: master_oauth, config: {url: %s}}
`, a.Endpoint(), b.Endpoint()), "SIGNET_LIMITS=register=100000,register_all=100000,login=100000,authorize=100000")
	for i := range 20 {
		w.AddUser(fmt.Sprint("user", i), e2e.AnnsPassword, "--scope", "read")
	}
	w.Start()
	tokens := map[string]string{}
	for i := range 20 {
		name := fmt.Sprint("user", i)
		tokens[name] = w.token(name)
	}
	var calls sync.WaitGroup
	for name, token := range tokens {
		mine := claims(t, token)
		calls.Go(func() {
			for i := range 20 {
				canary := fmt.Sprintf(`{"message":"%s-%d"}`, name, i)
				id := []string{"a", "b"}[i%2]
				if got := w.said(w.call(token, id+".echo", canary)); got != canary {
					t.Errorf("%s got %s", canary, got)
				}
				if c := claims(t, w.said(w.call(token, id+".whoami", "{}"))); c["sub"] != mine["sub"] || c["gid"] != mine["gid"] {
					t.Errorf("%s: the server saw %v", name, c)
				}
			}
		})
	}
	calls.Wait()
}
