package server_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"signet/internal/test/backends"
	"signet/server"
)

// managed is a gateway in front of a server that works, and of one that is down.
type managed struct {
	*server.Server
	notes, dead *backends.MCP
}

const managedToken = "cows-in-spring"

func newManaged(t *testing.T) *managed {
	t.Helper()
	m := &managed{notes: backends.New(t, backends.Options{}), dead: backends.New(t, backends.Options{})}
	m.dead.Down()
	file := filepath.Join(t.TempDir(), "gateway.yaml")
	text := "servers:\n" +
		"  - {id: notes, type: http, auth_strategy: proxy_oauth, auth_config: {token_source: env:NOTES_TOKEN}, config: {url: '" + m.notes.Endpoint() + "'}}\n" +
		"  - {id: dead, type: http, auth_strategy: bypass_auth, config: {url: '" + m.dead.Endpoint() + "'}}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	m.Server = newServer(t, func(o *server.Options) {
		o.MetricsListen = "127.0.0.1:9090"
		o.Gateway = server.Gateway{Config: file, Environ: func(name string) (string, bool) { return managedToken, name == "NOTES_TOKEN" }}
	})
	return m
}

// The settings for tools are those of the program's own, and say so.
func TestSettingsForToolsHaveNoEffectOnAGateway(t *testing.T) {
	file, log := filepath.Join(t.TempDir(), "gateway.yaml"), &safeBuffer{}
	if err := os.WriteFile(file, []byte("servers:\n  - {id: notes, type: http, auth_strategy: bypass_auth, config: {url: 'http://127.0.0.1:1/mcp'}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	srv := newServer(t, func(o *server.Options) {
		o.Gateway, o.PublicTools, o.HiddenTools = server.Gateway{Config: file}, []string{"notes.echo"}, []string{"notes.secret"}
		o.Log = slog.New(slog.NewTextHandler(log, nil))
	})
	_, stop := serving(t, srv)
	until(t, "the start in the log", func() (any, bool) { return log, strings.Contains(log.String(), "msg=serving") })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); strings.Count(got, "have no effect on the servers of SIGNET_GATEWAY_CONFIG") != 1 || strings.Contains(got, "does not exist") {
		t.Errorf("the log: %s", got)
	}
}

// ask sends a request to the listener for operators, as a program on this machine does, apart
// from what change changes.
func (m *managed) ask(t *testing.T, method, path string, change func(r *http.Request)) (status int, body string) {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	r.Host, r.RemoteAddr = "localhost:9090", "127.0.0.1:40000"
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json")
	}
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	m.Operators().ServeHTTP(w, r)
	text, _ := io.ReadAll(w.Body)
	if strings.Contains(string(text), managedToken) {
		t.Errorf("%s %s shows the token of a server", method, path)
	}
	return w.Code, string(text)
}

// status is the status of a server in an answer, or in the list.
func (m *managed) status(t *testing.T, id string) string {
	t.Helper()
	code, body := m.ask(t, "GET", "/gateway/servers", nil)
	var list struct {
		Servers []struct {
			ID, Status string
			Instances  []struct{ Address, Status, Breaker string }
		}
	}
	if err := json.Unmarshal([]byte(body), &list); err != nil || code != 200 || len(list.Servers) != 2 {
		t.Fatalf("the list of servers: %d %s", code, body)
	}
	for _, s := range list.Servers {
		if s.ID == id {
			if len(s.Instances) != 1 || s.Instances[0].Breaker != "closed" || !strings.HasPrefix(s.Instances[0].Address, "http://127.0.0.1:") {
				t.Errorf("the instances of %s: %+v", id, s.Instances)
			}
			return s.Status
		}
	}
	t.Fatalf("no server %s in %s", id, body)
	return ""
}

func TestOperatorsManageServers_Row84(t *testing.T) {
	m := newManaged(t)
	act := func(path string, want int, contains string) {
		t.Helper()
		if code, body := m.ask(t, "POST", "/gateway/servers/"+path, nil); code != want || !strings.Contains(body, contains) {
			t.Errorf("%s: %d %s, want %d with %s", path, code, body, want, contains)
		}
	}
	wantStatus := func(id, want string) {
		t.Helper()
		if got := m.status(t, id); got != want {
			t.Errorf("%s is %q, want %q", id, got, want)
		}
	}
	act("notes/check", 200, `"status":"running"`)
	act("dead/check", 502, `"error":"server dead: `)
	act("dead/restart", 502, `"error":"server dead: `)
	wantStatus("notes", "running")
	wantStatus("dead", "error")

	act("notes/disable", 200, `"status":"disabled"`)
	wantStatus("notes", "disabled")
	act("notes/enable", 200, `"id":"notes"`)
	act("notes/restart", 200, `"status":"running"`)
	wantStatus("notes", "running")

	if err := m.dead.Up(); err != nil {
		t.Fatal(err)
	}
	act("dead/check", 200, `"status":"running"`)
	wantStatus("dead", "running")

	// The same from a program that has the server as a library.
	g := m.Gateway()
	if err := g.Enable("notes", false); err != nil {
		t.Error(err)
	}
	wantStatus("notes", "disabled")
	if err := g.Enable("notes", true); err != nil {
		t.Error(err)
	}
	if err := g.Restart(t.Context(), "notes"); err != nil {
		t.Error(err)
	}
	wantStatus("notes", "running")
	if err := g.Enable("none", true); err == nil {
		t.Error("a server that does not exist is enabled")
	}
}

// One thing of a good request is changed. What is refused changes nothing.
func TestManagementIsForProgramsOnThisMachine(t *testing.T) {
	m := newManaged(t)
	const disable = "/gateway/servers/notes/disable"
	header := func(name, value string) func(r *http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for name, c := range map[string]struct {
		method, path string
		change       func(r *http.Request)
		want         int
	}{
		"another machine":         {"POST", disable, func(r *http.Request) { r.RemoteAddr = "192.0.2.1:40000" }, 403},
		"another machine, list":   {"GET", "/gateway/servers", func(r *http.Request) { r.RemoteAddr = "[2001:db8::1]:40000" }, 403},
		"a name of a page":        {"POST", disable, func(r *http.Request) { r.Host = "evil.example:9090" }, 403},
		"a page":                  {"POST", disable, header("Origin", "https://evil.example"), 403},
		"a page, as browsers say": {"POST", disable, header("Sec-Fetch-Site", "cross-site"), 403},
		"a form":                  {"POST", disable, header("Content-Type", "application/x-www-form-urlencoded"), 415},
		"a form with text":        {"POST", disable, header("Content-Type", "text/plain"), 415},
		"no content type":         {"POST", disable, func(r *http.Request) { r.Header.Del("Content-Type") }, 415},
		"GET":                     {"GET", disable, nil, 405},
		"no such action":          {"POST", "/gateway/servers/notes/delete", nil, 404},
		"no such server":          {"POST", "/gateway/servers/none/disable", nil, 404},
		"the id of a page":        {"POST", "/gateway/servers/%3Cb%3E/disable", nil, 404},
	} {
		if code, body := m.ask(t, c.method, c.path, c.change); code != c.want {
			t.Errorf("%s: %d %s, want %d", name, code, body, c.want)
		}
		if m.status(t, "notes") == "disabled" {
			t.Fatalf("%s: the server is disabled", name)
		}
	}
	if code, _ := m.ask(t, "POST", disable, func(r *http.Request) { r.RemoteAddr = "[::1]:40000" }); code != 200 || m.status(t, "notes") != "disabled" {
		t.Errorf("a good request: %d, and the server is %s", code, m.status(t, "notes"))
	}
	if code := get(t, m.Server, "/gateway/servers").Code; code != 404 {
		t.Errorf("on the public listener: %d, want 404", code)
	}
	none := &managed{Server: newServer(t, nil)}
	if code, body := none.ask(t, "GET", "/gateway/servers", nil); code != 404 || !strings.Contains(body, "no gateway") {
		t.Errorf("without a gateway: %d %s", code, body)
	}
}

// Servers are counted by what the configuration calls them.
func TestMetricsOfServers_Row85(t *testing.T) {
	m := newManaged(t)
	m.ask(t, "POST", "/gateway/servers/notes/check", nil)
	m.ask(t, "POST", "/gateway/servers/dead/check", nil)
	m.Observe("notes", "ok", "forge", "refused")
	_, body := m.ask(t, "GET", "/metrics", nil)
	for _, want := range []string{
		`signet_gateway_server_up{server="notes"} 1`, `signet_gateway_server_up{server="dead"} 0`,
		`signet_gateway_breaker_state{address="` + m.notes.Endpoint() + `",server="notes"} 0`,
		`signet_gateway_messages_total{outcome="ok",server="notes"} 1`, `signet_gateway_message_seconds_count{server="notes"} 1`,
		`signet_gateway_refreshes_total{connection="forge",outcome="refused"} 1`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("no line %s:\n%s", want, grep(body, "signet_gateway"))
		}
	}
}
