package gateway

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"signet/internal/e2e"
	"signet/internal/test/person"
)

// world is the program with a configuration of the gateway. Its users are ann and bob.
type world struct {
	*e2e.Program
	t    *testing.T
	file string // path of the configuration
}

const bobsPassword = "walnut radio summer ladder"

// prepare returns the program of start before its start.
func prepare(t *testing.T, config string, settings ...string) *world {
	t.Helper()
	file := filepath.Join(t.TempDir(), "gateway.yaml")
	w := &world{Program: e2e.New(t, append([]string{"SIGNET_GATEWAY_CONFIG=" + file}, settings...)), t: t, file: file}
	w.configure(config)
	w.AddUser("ann", e2e.AnnsPassword, "--scope", "read", "--scope", "write")
	w.AddUser("bob", bobsPassword, "--scope", "read")
	return w
}

// start runs the program in front of the servers of a configuration.
func start(t *testing.T, config string, settings ...string) *world {
	t.Helper()
	w := prepare(t, config, settings...)
	w.Start()
	return w
}

// configure writes the configuration.
func (w *world) configure(config string) {
	w.t.Helper()
	next := w.file + ".next"
	if err := os.WriteFile(next, []byte(config), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(next, w.file); err != nil {
		w.t.Fatal(err)
	}
}

// login registers a client and signs a user in, who connects nothing.
func (w *world) login(name string) (*e2e.Client, e2e.Tokens) {
	w.t.Helper()
	c := e2e.Register(w.t, w.Issuer, e2e.RedirectURI)
	return c, c.Exchange(w.t, signIn(w.t, visitor(name), c.AuthorizationURL("s")).Query().Get("code"))
}

// visitor is a user in a browser of their own.
func visitor(name string) *person.Person {
	if name == "bob" {
		return person.New(name, bobsPassword)
	}
	return person.New(name, e2e.AnnsPassword)
}

// signIn signs in at an authorization request, says "Later" to what the page offers to connect,
// and returns the redirect to the client.
func signIn(t *testing.T, p *person.Person, link string) *url.URL {
	t.Helper()
	page, err := p.Authorize(link)
	if err == nil && strings.Contains(page.Body, `value="later"`) {
		page, err = p.Submit(page, url.Values{"decision": {"later"}})
	}
	if err != nil || page.Left() == nil {
		t.Fatalf("the login ends at %s, %v", page, err)
	}
	return page.Left()
}

// token is an access token of a user.
func (w *world) token(name string) string {
	w.t.Helper()
	_, tok := w.login(name)
	return tok.AccessToken
}

// reply is what the gateway answered.
type reply struct {
	Status int
	Header http.Header
	Body   string

	Result        json.RawMessage
	Error         *rpcError
	Notifications []string // the other messages of a stream
}

type rpcError struct {
	Code    int
	Message string
	Data    json.RawMessage
}

func (r reply) String() string { return fmt.Sprintf("%d %.2000s", r.Status, r.Body) }

// do sends a request as it is, and reads the answer.
func (w *world) do(r *http.Request) reply {
	w.t.Helper()
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		w.t.Error(err)
		return reply{}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Error(err)
	}
	a := reply{Status: resp.StatusCode, Header: resp.Header, Body: string(b)}
	for _, message := range messages(resp.Header, a.Body) {
		var m struct {
			Method string
			Result json.RawMessage
			Error  json.RawMessage
		}
		switch json.Unmarshal([]byte(message), &m); {
		case m.Method != "":
			a.Notifications = append(a.Notifications, message)
		case m.Error != nil:
			a.Error = new(rpcError)
			json.Unmarshal(m.Error, a.Error) // an OAuth error is a string, and stays empty here
		default:
			a.Result = m.Result
		}
	}
	return a
}

// messages returns the messages of a body: one of JSON, or those of a stream of events.
func messages(h http.Header, body string) (list []string) {
	if !strings.HasPrefix(h.Get("Content-Type"), "text/event-stream") {
		return []string{body}
	}
	lines := bufio.NewScanner(strings.NewReader(body))
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data:"); ok && strings.TrimSpace(data) != "" {
			list = append(list, data)
		}
	}
	return list
}

// post is a message of protocol version 2025-11-25 for the endpoint.
func (w *world) post(token, body string) *http.Request {
	w.t.Helper()
	r := e2e.CallRequest(w.URL()+"/mcp", token)
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	return r
}

// send sends a message of protocol version 2025-11-25.
func (w *world) send(token, body string) reply {
	w.t.Helper()
	return w.do(w.post(token, body))
}

// modern is a message of protocol version 2026-07-28, with its headers. Params are the members of
// an object, without braces.
func (w *world) modern(token, method, name, params string) *http.Request {
	w.t.Helper()
	if params != "" {
		params += ","
	}
	r := w.post(token, `{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":{`+params+`"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",`+
		`"io.modelcontextprotocol/clientInfo":{"name":"test","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}`)
	r.Header.Set("MCP-Protocol-Version", "2026-07-28")
	r.Header.Set("Mcp-Method", method)
	if name != "" {
		r.Header.Set("Mcp-Name", name)
	}
	return r
}

// call calls a tool.
func (w *world) call(token, tool, arguments string) reply {
	w.t.Helper()
	return w.send(token, fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":%s}}`, tool, arguments))
}

// text is the text of a tool's result, and whether the result is an error.
func (r reply) text() (text string, isError bool) {
	var result struct {
		Content []struct{ Type, Text string }
		IsError bool
	}
	if json.Unmarshal(r.Result, &result) != nil || len(result.Content) == 0 {
		return "", false
	}
	return result.Content[0].Text, result.IsError
}

// said is the text of a result that has to be good.
func (w *world) said(r reply) string {
	w.t.Helper()
	text, failed := r.text()
	if r.Status != http.StatusOK || failed || r.Result == nil {
		w.t.Errorf("a call failed: %s", r)
	}
	return text
}

// tools lists the tools that a caller sees, sorted by name.
func (w *world) tools(token string) (names []string, byName map[string]json.RawMessage) {
	w.t.Helper()
	r := w.send(token, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
	var list struct{ Tools []json.RawMessage }
	if err := json.Unmarshal(r.Result, &list); err != nil {
		w.t.Fatalf("tools/list: %s", r)
	}
	byName = map[string]json.RawMessage{}
	for _, tool := range list.Tools {
		var named struct{ Name string }
		if err := json.Unmarshal(tool, &named); err != nil {
			w.t.Fatalf("tools/list: %s", tool)
		}
		names = append(names, named.Name)
		byName[named.Name] = tool
	}
	slices.Sort(names)
	return names, byName
}

// claims are the claims of a token, unverified.
func claims(t *testing.T, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	var list map[string]any
	if len(parts) != 3 {
		t.Fatalf("%q is no JWT", token)
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		t.Fatal(err)
	}
	return list
}
