package flows

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/e2e"
)

func TestSimpleExample_Row34_Row93(t *testing.T) {
	issuer, dir := e2e.StartServerExample(t, "simple")
	session := e2e.Connect(t, issuer+"/mcp", e2e.SDKLogin(t, "alice", "cows"), nil)
	if got := e2e.CallTool(t, session, "echo", map[string]any{"message": "hi"}); got != "Echo: hi" {
		t.Errorf("echo says %q", got)
	}
	if got, err := time.Parse(time.RFC3339, e2e.CallTool(t, session, "get_time", nil)); err != nil || time.Since(got) > time.Minute {
		t.Errorf("get_time says %s (%v)", got, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "data", "signet.db")); err != nil {
		t.Errorf("its store: %v", err)
	}
}

func TestCustomExample_Row34(t *testing.T) {
	issuer, dir := e2e.StartServerExample(t, "custom")
	admin := e2e.Connect(t, issuer+"/mcp", e2e.SDKLogin(t, "root", "wheels"), nil)
	if got := names(t, admin); !slices.Contains(got, "admin_action") {
		t.Errorf("without the scope admin the tools are %v, so a step-up is impossible", got)
	}
	if got := e2e.CallTool(t, admin, "admin_action", nil); got != "Done for user 0" { // after stepping up
		t.Errorf("admin_action says %q", got)
	}

	alice := e2e.Connect(t, issuer+"/mcp", e2e.SDKLogin(t, "alice", "cows"), nil)
	if res, err := alice.CallTool(t.Context(), &sdk.CallToolParams{Name: "admin_action"}); err == nil {
		t.Errorf("alice, who may only read, got %+v", res)
	}
	if status, body := e2e.Fetch(t, http.DefaultClient, issuer+"/about"); status != 200 || !strings.Contains(body, "own") {
		t.Errorf("the program's own page: %d %s", status, body)
	}
	if _, err := os.Stat(filepath.Join(dir, "custom-data", "custom.db")); err != nil {
		t.Errorf("its store: %v", err)
	}
}

func TestFileCredentialsExample_Row34(t *testing.T) {
	issuer, dir := e2e.StartServerExample(t, "filecredentials")
	for name, want := range map[string]string{"alice:cows": "You are user 1", "bob:dogs": "You are user 2"} {
		user, password, _ := strings.Cut(name, ":")
		session := e2e.Connect(t, issuer+"/mcp", e2e.SDKLogin(t, user, password), nil)
		if got := e2e.CallTool(t, session, "whoami", nil); got != want {
			t.Errorf("whoami says %q to %s", got, user)
		}
	}

	// A server imports the same file.
	d := e2e.Start(t, nil)
	d.TakesUp("users", func() { d.Must("user", "import", "--plaintext", filepath.Join(dir, "users.txt")) })
	if _, out, _ := d.Signet("dogs\n", "call", "whoami", "--server", d.Issuer+"/mcp", "--username", "bob"); !strings.Contains(out, "Done.") {
		t.Errorf("bob's call says %s", out)
	}
}

func TestVerifierExample_Row34(t *testing.T) {
	port := e2e.FreePort(t)
	d := e2e.Start(t, []string{"SIGNET_RESOURCES=http://localhost:" + port + "/hello"}, "--demo")
	base := "http://localhost:" + port
	e2e.StartExample(t, "verifier", base+"/hello", "SIGNET_ISSUER="+d.Issuer, "RESOURCE="+base+"/hello", "LISTEN=127.0.0.1:"+port)
	token := e2e.TokenFor(t, d, base+"/hello", "demo_user", "demo_password")
	if status, body := e2e.Fetch(t, e2e.BearerClient(t, token), base+"/hello"); status != 200 || body != "Hello, demo_user, with the scopes read write.\n" {
		t.Errorf("with a token: %d %s", status, body)
	}
	for name, bad := range map[string]string{"no token": "", "a changed one": token[:len(token)-4] + "AAAA", "one without signature": token[:strings.LastIndex(token, ".")+1]} {
		if status, _ := e2e.Fetch(t, e2e.BearerClient(t, bad), base+"/hello"); status != 401 {
			t.Errorf("%s: %d, want 401", name, status)
		}
	}
	deps, err := exec.Command("go", "list", "-f", `{{join .Deps "\n"}}`, "./examples/verifier").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, dep := range strings.Fields(string(deps)) {
		if strings.HasPrefix(dep, "signet/") && !slices.Contains([]string{"signet/jwt", "signet/internal/oauth", "signet/internal/rawjson"}, dep) {
			t.Errorf("the verifier depends on %s", dep)
		}
	}
}

func TestStatefulExample_Row45(t *testing.T) {
	port := e2e.FreePort(t)
	base := "http://localhost:" + port
	d := e2e.Start(t, []string{"SIGNET_RESOURCES=" + base + "/mcp," + base + "/sse"}, "--demo")
	d.AddUser("eve", "bucket of violet yarn", "--scope", "read")
	e2e.StartExample(t, "stateful", base+"/mcp", "SIGNET_ISSUER="+d.Issuer, "BASE_URL="+base, "LISTEN=127.0.0.1:"+port)
	for _, path := range []string{"/mcp", "/sse"} {
		if status, _ := e2e.Fetch(t, http.DefaultClient, base+path); status != 401 {
			t.Errorf("GET %s without a token: %d, want 401", path, status)
		}
	}

	// Discovery, registration and login all begin at the guarded endpoint.
	client := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, nil)
	session, err := client.Connect(t.Context(), &sdk.StreamableClientTransport{Endpoint: base + "/mcp", OAuthHandler: e2e.SDKLogin(t, "demo_user", "demo_password")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	if session.ID() == "" {
		t.Error("no session: the handler is not the stateful one")
	}
	statefulTools(t, session)

	token := e2e.TokenFor(t, d, base+"/sse", "demo_user", "demo_password")
	watched := &sseWatcher{next: e2e.BearerClient(t, token).Transport}
	old, err := client.Connect(t.Context(), &sdk.SSEClientTransport{Endpoint: base + "/sse", HTTPClient: &http.Client{Transport: watched}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { old.Close() })
	statefulTools(t, old)

	// Another user that knows the id of the session cannot write into it, nor can a
	// token for the other resource.
	body := `{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"whoami"}}`
	eve := e2e.TokenFor(t, d, base+"/sse", "eve", "bucket of violet yarn")
	for want, token := range map[int]string{404: eve, 401: e2e.TokenFor(t, d, base+"/mcp", "demo_user", "demo_password"), 202: token} {
		resp, err := e2e.BearerClient(t, token).Post(watched.posted(), "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("a message into the session: %d, want %d", resp.StatusCode, want)
		}
	}
}

// statefulTools calls a tool that the token allows, and one that it does not.
func statefulTools(t *testing.T, session *sdk.ClientSession) {
	t.Helper()
	if got := e2e.CallTool(t, session, "whoami", nil); got != "You are demo_user" {
		t.Errorf("whoami says %q", got)
	}
	if got := names(t, session); !slices.Equal(got, []string{"whoami", "wipe"}) { // wipe is listed because a step-up reaches it
		t.Errorf("tools are %v, want whoami and wipe", got)
	}
	if res, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: "wipe"}); err == nil {
		t.Errorf("wipe without the scope admin gave %+v", res)
	}
}

// sseWatcher remembers the URL to which the client posts its messages.
type sseWatcher struct {
	next http.RoundTripper
	mu   sync.Mutex
	url  string
}

func (s *sseWatcher) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPost {
		s.mu.Lock()
		s.url = r.URL.String()
		s.mu.Unlock()
	}
	return s.next.RoundTrip(r)
}

func (s *sseWatcher) posted() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.url
}

func names(t *testing.T, session *sdk.ClientSession) (list []string) {
	t.Helper()
	for tool, err := range session.Tools(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, tool.Name)
	}
	return list
}
