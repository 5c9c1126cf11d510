package e2e

import (
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/oauth2"

	"signet/internal/test/npm"
)

// exampleBinaries builds all examples once.
var exampleBinaries = sync.OnceValues(func() (string, error) {
	path, err := plainBinary() // its directory is removed at the end
	if err != nil {
		return "", err
	}
	dir := filepath.Join(filepath.Dir(path), "examples")
	out, err := exec.Command("go", "build", "-o", dir+"/", "./examples/...").CombinedOutput()
	if err != nil {
		return "", &exec.Error{Name: "go build ./examples/...: " + string(out), Err: err}
	}
	return dir, nil
})

// startExample runs an example in a directory of its own until it answers at base,
// and returns that directory.
func startExample(t *testing.T, name, base string, settings ...string) (dir string) {
	t.Helper()
	binaries, err := exampleBinaries()
	if err != nil {
		t.Fatal(err)
	}
	return runExample(t, name, base, exec.Command(filepath.Join(binaries, name)), settings...)
}

// startScript runs an example in JavaScript, as startExample does.
func startScript(t *testing.T, path, base string, settings ...string) {
	t.Helper()
	node, dir := npm.Node(t), t.TempDir()
	modules, err := filepath.Abs(npm.Modules)
	if err == nil {
		err = os.Symlink(modules, filepath.Join(dir, "node_modules"))
	}
	script := filepath.Join(dir, filepath.Base(path))
	if err == nil {
		err = os.WriteFile(script, []byte(readText(t, path)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	runExample(t, path, base, exec.Command(node, script), settings...)
}

// runExample runs cmd in a directory of its own until it answers at base.
func runExample(t *testing.T, name, base string, cmd *exec.Cmd, settings ...string) (dir string) {
	t.Helper()
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{"HOME=" + cmd.Dir}, settings...)
	files, _ := filepath.Glob("examples/" + name + "/*.txt")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(filepath.Join(cmd.Dir, filepath.Base(file)), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	out := new(syncBuffer)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		var err error
		select {
		case err = <-ended:
		case <-time.After(20 * time.Second):
			cmd.Process.Kill()
			err = <-ended
			t.Errorf("%s: still running 20 s after the interrupt", name)
		}
		if t.Failed() {
			t.Logf("%s wrote, before it ended with %v:\n%s", name, err, out)
		}
	})
	eventually(t, func() bool {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s stopped at once: %v\n%s", name, err, out)
		default:
		}
		resp, err := http.Get(base)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return true
	})
	return cmd.Dir
}

// startServerExample runs an example that is an authorization server as well.
func startServerExample(t *testing.T, name string, settings ...string) (issuer, dir string) {
	t.Helper()
	port := freePort(t)
	issuer = "http://localhost:" + port
	return issuer, startExample(t, name, issuer+"/livez", append(settings, "SIGNET_ISSUER="+issuer, "SIGNET_LISTEN=127.0.0.1:"+port)...)
}

func TestRow34_Row93_SimpleExample(t *testing.T) {
	issuer, dir := startServerExample(t, "simple")
	session := connect(t, issuer+"/mcp", sdkLogin(t, "alice", "cows"), nil)
	if got := callTool(t, session, "echo", map[string]any{"message": "hi"}); got != "Echo: hi" {
		t.Errorf("echo says %q", got)
	}
	if got, err := time.Parse(time.RFC3339, callTool(t, session, "get_time", nil)); err != nil || time.Since(got) > time.Minute {
		t.Errorf("get_time says %s (%v)", got, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "data", "signet.db")); err != nil {
		t.Errorf("its store: %v", err)
	}
}

func TestRow34_CustomExample(t *testing.T) {
	issuer, dir := startServerExample(t, "custom")
	admin := connect(t, issuer+"/mcp", sdkLogin(t, "root", "wheels"), nil)
	if got := names(t, admin); slices.Contains(got, "admin_action") {
		t.Errorf("without the scope admin there are %v", got)
	}
	if got := callTool(t, admin, "admin_action", nil); got != "Done for user 0" { // after stepping up
		t.Errorf("admin_action says %q", got)
	}
	if got := names(t, admin); !slices.Contains(got, "admin_action") {
		t.Errorf("with the scope admin there are %v", got)
	}

	alice := connect(t, issuer+"/mcp", sdkLogin(t, "alice", "cows"), nil)
	if res, err := alice.CallTool(t.Context(), &sdk.CallToolParams{Name: "admin_action"}); err == nil {
		t.Errorf("alice, who may only read, got %+v", res)
	}
	if status, body := fetchText(t, http.DefaultClient, issuer+"/about"); status != 200 || !strings.Contains(body, "own") {
		t.Errorf("the program's own page: %d %s", status, body)
	}
	if _, err := os.Stat(filepath.Join(dir, "custom-data", "custom.db")); err != nil {
		t.Errorf("its store: %v", err)
	}
}

func TestRow34_FileCredentialsExample(t *testing.T) {
	issuer, dir := startServerExample(t, "filecredentials")
	for name, want := range map[string]string{"alice:cows": "You are user 1", "bob:dogs": "You are user 2"} {
		user, password, _ := strings.Cut(name, ":")
		session := connect(t, issuer+"/mcp", sdkLogin(t, user, password), nil)
		if got := callTool(t, session, "whoami", nil); got != want {
			t.Errorf("whoami says %q to %s", got, user)
		}
	}

	// The same file as the users of a server.
	d := startDaemon(t, nil)
	if _, errOut, status := d.signet("", "user", "import", filepath.Join(dir, "users.txt")); status != 0 {
		t.Fatalf("user import: %s", errOut)
	}
	eventually(t, func() bool { // the file is looked at once a second at most
		_, out, _ := d.signet("dogs\n", "call", "whoami", "--server", d.issuer+"/mcp", "--username", "bob")
		return strings.Contains(out, "Done.")
	})
}

func TestRow34_VerifierExample(t *testing.T) {
	port := freePort(t)
	d := startDaemon(t, []string{"SIGNET_RESOURCES=http://localhost:" + port + "/hello"}, "--demo")
	base := "http://localhost:" + port
	startExample(t, "verifier", base+"/hello", "SIGNET_ISSUER="+d.issuer, "RESOURCE="+base+"/hello", "LISTEN=127.0.0.1:"+port)
	token := tokenFor(t, d, base+"/hello", "demo_user", "demo_password")
	if status, body := fetchText(t, bearerClient(t, token), base+"/hello"); status != 200 || body != "Hello, demo_user, with the scopes read write.\n" {
		t.Errorf("with a token: %d %s", status, body)
	}
	for name, bad := range map[string]string{"no token": "", "a changed one": token[:len(token)-4] + "AAAA", "one without signature": token[:strings.LastIndex(token, ".")+1]} {
		if status, _ := fetchText(t, bearerClient(t, bad), base+"/hello"); status != 401 {
			t.Errorf("%s: %d, want 401", name, status)
		}
	}
	deps, err := exec.Command("go", "list", "-f", `{{join .Deps "\n"}}`, "./examples/verifier").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, dep := range strings.Fields(string(deps)) {
		if strings.HasPrefix(dep, "signet/") && dep != "signet/jwt" && dep != "signet/internal/oauth" {
			t.Errorf("the verifier depends on %s", dep)
		}
	}
}

func TestRow45_StatefulExample(t *testing.T) {
	port := freePort(t)
	base := "http://localhost:" + port
	d := startDaemon(t, []string{"SIGNET_RESOURCES=" + base + "/mcp," + base + "/sse"}, "--demo")
	if _, errOut, status := d.signet("bucket of violet yarn\n", "user", "add", "eve", "--scope", "read", "--password-stdin"); status != 0 {
		t.Fatal(errOut)
	}
	d.stop()
	d.start() // or the file is read again a second later
	startExample(t, "stateful", base+"/mcp", "SIGNET_ISSUER="+d.issuer, "BASE_URL="+base, "LISTEN=127.0.0.1:"+port)
	for _, path := range []string{"/mcp", "/sse"} {
		if status, _ := fetchText(t, http.DefaultClient, base+path); status != 401 {
			t.Errorf("GET %s without a token: %d, want 401", path, status)
		}
	}

	// Discovery, registration and login all begin at the guarded endpoint.
	client := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, nil)
	session, err := client.Connect(t.Context(), &sdk.StreamableClientTransport{Endpoint: base + "/mcp", OAuthHandler: sdkLogin(t, "demo_user", "demo_password")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	if session.ID() == "" {
		t.Error("no session: the handler is not the stateful one")
	}
	statefulTools(t, session)

	token := tokenFor(t, d, base+"/sse", "demo_user", "demo_password")
	watched := &sseWatcher{next: bearerClient(t, token).Transport}
	old, err := client.Connect(t.Context(), &sdk.SSEClientTransport{Endpoint: base + "/sse", HTTPClient: &http.Client{Transport: watched}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { old.Close() })
	statefulTools(t, old)

	// Another user who knows the id of the session cannot write into it; nor can a
	// token for the other resource.
	body := `{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"whoami"}}`
	eve := tokenFor(t, d, base+"/sse", "eve", "bucket of violet yarn")
	for want, token := range map[int]string{404: eve, 401: tokenFor(t, d, base+"/mcp", "demo_user", "demo_password"), 202: token} {
		resp, err := bearerClient(t, token).Post(watched.posted(), "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("a message into the session: %d, want %d", resp.StatusCode, want)
		}
	}
}

// statefulTools calls what the demo user may, and what the token does not allow.
func statefulTools(t *testing.T, session *sdk.ClientSession) {
	t.Helper()
	if got := callTool(t, session, "whoami", nil); got != "You are demo_user" {
		t.Errorf("whoami says %q", got)
	}
	if got := names(t, session); !slices.Equal(got, []string{"whoami"}) {
		t.Errorf("tools are %v, want whoami alone", got)
	}
	if res, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: "wipe"}); err == nil {
		t.Errorf("wipe without the scope admin gave %+v", res)
	}
}

// sseWatcher remembers where the client posts its messages.
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

// tokenFor is an access token of a user for one of the daemon's resources.
func tokenFor(t *testing.T, d *daemon, resource, name, password string) string {
	t.Helper()
	const redirectURI = "http://127.0.0.1:9/callback"
	client := registerClient(t, d.issuer, redirectURI)
	u, err := url.Parse(authorizationURL(d.issuer, client, redirectURI, "s"))
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("resource", resource)
	u.RawQuery = q.Encode()
	return exchange(t, d.issuer, client, signIn(t, u.String(), name, password).Query().Get("code")).AccessToken
}

func bearerClient(t *testing.T, token string) *http.Client {
	if token == "" {
		return http.DefaultClient
	}
	return oauth2.NewClient(t.Context(), oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token}))
}

func fetchText(t *testing.T, c *http.Client, from string) (status int, body string) {
	t.Helper()
	resp, err := c.Get(from)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}
