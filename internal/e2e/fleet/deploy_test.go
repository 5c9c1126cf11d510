package fleet

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"signet/internal/e2e"
	"signet/internal/seal"
	"signet/internal/test/pgtest"
	"signet/internal/test/process"
)

const nginxFile = "deploy/nginx/signet.conf"

// The names of the replicas in deploy/nginx.
var (
	authNames = []string{"auth-1:8080", "auth-2:8080"}
	mcpNames  = []string{"mcp-1:8080", "mcp-2:8080", "mcp-3:8080"}
)

// edge is the nginx of deploy/nginx before it runs, with its addresses and the
// certificate that replicas have to trust.
type edge struct {
	t                     *testing.T
	dir, port, plain, url string
	roots                 string // PEM file
}

func newEdge(t *testing.T) *edge {
	t.Helper()
	e2e.Need(t, "nginx")
	e := &edge{t: t, dir: t.TempDir(), port: e2e.FreePort(t), plain: e2e.FreePort(t)}
	e.url, e.roots = "https://localhost:"+e.port, filepath.Join(e.dir, "localhost.pem")
	return e
}

// certify makes the certificate. start then starts nginx; replicas maps the names of
// the replicas to host:port.
func (e *edge) certify() (start func(replicas map[string]string) *nginx) {
	roots := selfSigned(e.t, e.dir)
	return func(replicas map[string]string) *nginx {
		e.t.Helper()
		r := map[string]string{"listen 80;": "listen 127.0.0.1:" + e.plain + ";", "/var/log/nginx": e.dir}
		for name, address := range replicas {
			r[name] = address
		}
		path := nginxConfigIn(e.t, e.dir, e2e.ReadText(e.t, nginxFile), e.port, r)
		if out, err := exec.Command(e2e.Need(e.t, "nginx"), "-t", "-c", path, "-p", e.dir, "-e", "stderr").CombinedOutput(); err != nil {
			e.t.Fatalf("%v\n%s", err, out)
		}
		return runNginx(e.t, path, e.port, roots)
	}
}

// accessLog returns the access log of nginx.
func (e *edge) accessLog() string { return e2e.ReadText(e.t, filepath.Join(e.dir, "signet.log")) }

// fleet is a deployment as in deploy/: authorization servers and MCP replicas on one
// database, behind nginx.
type fleet struct {
	*nginx
	edge      *edge
	auth, mcp []*e2e.Program
}

// startFleet starts one process for each list of settings. args are more arguments of
// the authorization servers.
func startFleet(t *testing.T, e *edge, auth, mcp [][]string, args ...string) *fleet {
	t.Helper()
	start, f := e.certify(), &fleet{edge: e}
	replicas := map[string]string{}
	run := func(names []string, all [][]string, args ...string) (list []*e2e.Program) {
		if len(all) != len(names) {
			t.Fatalf("%d replicas, and nginx knows %d", len(all), len(names))
		}
		for i, settings := range all {
			d := e2e.Start(t, append([]string{"SSL_CERT_FILE=" + e.roots}, settings...), args...)
			replicas[names[i]] = strings.TrimPrefix(d.URL(), "http://")
			list = append(list, d)
		}
		return list
	}
	f.auth = run(authNames, auth, args...)
	f.mcp = run(mcpNames, mcp)
	f.nginx = start(replicas)
	return f
}

func times(n int, settings []string) (all [][]string) {
	for range n {
		all = append(all, settings)
	}
	return all
}

// Clients go through nginx to any replica, and do not notice that one has ended.
func TestShippedNginxHidesAReplicaThatIsGone(t *testing.T) {
	e := newEdge(t)
	settings := []string{"SIGNET_ISSUER=" + e.url, "SIGNET_TRUSTED_PROXIES=127.0.0.1/32"}
	auth := append([]string{"SIGNET_ROLE=auth", "SIGNET_STORE=" + pgtest.URL(t), "SIGNET_SECRET=" + seal.NewSecret()}, settings...)
	f := startFleet(t, e, times(2, auth), times(3, append([]string{"SIGNET_ROLE=mcp"}, settings...)), "--demo")
	f.useAll(t, longState, f.auth...)

	c := &http.Client{Transport: f.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Get("http://localhost:" + e.plain + "/login?x=y")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if to := resp.Header.Get("Location"); resp.StatusCode != 301 || to != "https://auth.example.com/login?x=y" {
		t.Errorf("plain HTTP: %d to %q, want a redirect to https", resp.StatusCode, to)
	}

	// One replica of each role is killed.
	f.auth[0].Kill()
	f.mcp[1].Kill()
	for i := range 6 {
		for _, path := range []string{"/.well-known/jwks.json", "/.well-known/oauth-protected-resource"} {
			if status, body := e2e.Fetch(t, c, f.url+path); status != 200 {
				t.Errorf("GET %s, try %d with a replica gone: %d %s", path, i, status, body)
			}
		}
		for path, want := range map[string]int{"/token": 400, "/mcp": 401} {
			resp, err := c.Post(f.url+path, "application/x-www-form-urlencoded", strings.NewReader("x=y"))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("POST %s, try %d with a replica gone: %d, want %d", path, i, resp.StatusCode, want)
			}
		}
	}
	for line := range strings.Lines(e.accessLog()) {
		if strings.Contains(line, "state=") || strings.Contains(line, "client_id") || strings.Contains(line, "?") {
			t.Errorf("a query is in the access log: %s", line)
		}
	}
	if !strings.Contains(e.accessLog(), `"path":"/authorize"`) {
		t.Error("the access log has no path")
	}
}

// breaker closes the connection when it has read a request for path, and answers other
// requests.
func breaker(t *testing.T, path string) (address string, read *atomic.Int64) {
	t.Helper()
	read = new(atomic.Int64)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == path {
			io.Copy(io.Discard, r.Body)
			read.Add(1)
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String(), read
}

// all maps every replica to one address.
func all(address string) map[string]string {
	replicas := map[string]string{}
	for _, name := range slices.Concat(authNames, mcpNames) {
		replicas[name] = address
	}
	return replicas
}

// A request that may change something is sent to one replica only, even if that replica
// dies while it handles it. A request that only reads is sent to the next replica.
func TestShippedNginxRepeatsNoPOST(t *testing.T) {
	for _, tt := range []struct {
		method, path string
		names        []string
		sent         int64
	}{
		{"POST", "/token", authNames, 1},
		{"POST", "/revoke", authNames, 1},
		{"POST", "/mcp", mcpNames, 1},
		{"POST", "/tools/echo", mcpNames, 1},
		{"GET", "/.well-known/jwks.json", authNames, 2},
		{"GET", "/capabilities", mcpNames, 3},
		{"GET", "/.well-known/oauth-protected-resource", mcpNames, 3},
	} {
		t.Run(tt.method+tt.path, func(t *testing.T) {
			e := newEdge(t)
			address, read := breaker(t, tt.path)
			n := e.certify()(all(address))
			r, err := http.NewRequest(tt.method, n.url+tt.path, strings.NewReader("x=y"))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := n.transport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != 502 || read.Load() != tt.sent {
				t.Errorf("status %d after %d replicas read the request, want 502 after %d", resp.StatusCode, read.Load(), tt.sent)
			}
		})
	}
}

// Events of an MCP server that streams arrive when they are sent.
func TestShippedNginxStreams(t *testing.T) {
	e := newEdge(t)
	seen := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(seen) })
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/mcp" {
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: one\n\n")
		w.(http.Flusher).Flush()
		<-seen // send the second event after the first has arrived
		fmt.Fprint(w, "data: two\n\n")
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(goOn)
	n := e.certify()(all(srv.Listener.Addr().String()))
	c := &http.Client{Transport: n.transport, Timeout: process.Patience}
	resp, err := c.Get(n.url + "/mcp")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	events := bufio.NewReader(resp.Body)
	if line, err := events.ReadString('\n'); line != "data: one\n" || err != nil {
		t.Errorf("the first event: %q, %v", line, err)
	}
	goOn()
	if rest, err := io.ReadAll(events); !strings.Contains(string(rest), "two") || err != nil {
		t.Errorf("then: %q, %v", rest, err)
	}
}

// replicaPlan is how a file of deploy/ starts one process.
type replicaPlan struct {
	Name        string
	Args        []string
	Environment map[string]string
	Mounts      map[string]string
}

type deployPlans struct {
	Image               replicaPlan
	Build, Health       []string
	User                string
	Compose, Kubernetes []replicaPlan
}

// readPlans runs deploy/check, which reads the files as their programs do.
var readPlans = sync.OnceValues(func() (p deployPlans, err error) {
	dir, err := os.MkdirTemp("", "signet-check-")
	if err != nil {
		return p, err
	}
	defer os.RemoveAll(dir)
	check := filepath.Join(dir, "check")
	if out, err := exec.Command("go", "-C", "deploy/check", "build", "-o", check, ".").CombinedOutput(); err != nil {
		return p, fmt.Errorf("%w: %w\n%s", errNoCheck, err, out)
	}
	out, err := exec.Command(check, "deploy").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w\n%s", err, exit.Stderr)
		}
		return p, err
	}
	return p, json.Unmarshal(out, &p)
})

var errNoCheck = errors.New("deploy/check is not built: run .ci/setup")

func plansOfDeploy(t *testing.T) deployPlans {
	t.Helper()
	p, err := readPlans()
	if errors.Is(err, errNoCheck) && os.Getenv("SIGNET_TEST_ALL") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// settings returns the settings of the plan, with addresses and files of this machine.
func (p replicaPlan) settings(t *testing.T, here map[string]string) (list []string) {
	t.Helper()
	for name, value := range p.Environment {
		if name == "SIGNET_LISTEN" {
			if value != "0.0.0.0:8080" {
				t.Errorf("%s listens on %s", p.Name, value)
			}
			continue // the test sets it
		}
		if own, ok := here[name]; ok {
			value = own
		}
		for path := range p.Mounts {
			if rest, below := strings.CutPrefix(value, path); below {
				value = here[path] + rest
			}
		}
		list = append(list, name+"="+value)
	}
	return list
}

// byRole returns the plans of one role.
func byRole(plans []replicaPlan, role string) (list []replicaPlan) {
	for _, p := range plans {
		if p.Environment["SIGNET_ROLE"] == role {
			list = append(list, p)
		}
	}
	return list
}

// The processes that compose.yaml and the manifests of Kubernetes describe serve a
// client, with exactly their settings.
func TestPlansOfComposeAndKubernetesServe(t *testing.T) {
	plans := plansOfDeploy(t)
	data := t.TempDir()
	if status, _, errOut := e2e.Signet(t, data, e2e.AnnsPassword, "user", "add", "ann", "--password-stdin"); status != 0 {
		t.Fatal(errOut)
	}
	for name, tt := range map[string]struct {
		plans []replicaPlan
		mount map[string]string
	}{
		"compose":    {plans.Compose, map[string]string{"/data": data}},
		"kubernetes": {plans.Kubernetes, map[string]string{"/etc/signet": mountedSecret(t, data)}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEdge(t)
			here := map[string]string{
				"SIGNET_ISSUER": e.url, "SIGNET_TRUSTED_PROXIES": "127.0.0.1/32", "SIGNET_METRICS_LISTEN": "127.0.0.1:0",
				"SIGNET_STORE": pgtest.URL(t), "SIGNET_SECRET": seal.NewSecret(),
			}
			maps.Copy(here, tt.mount)
			replicas := func(role string, n int) (all [][]string) {
				list := byRole(tt.plans, role)
				for i := range n {
					all = append(all, list[i%len(list)].settings(t, here)) // Kubernetes has one plan for all
				}
				return all
			}
			f := startFleet(t, e, replicas("auth", 2), replicas("mcp", 3))
			f.serves(t, "ann", e2e.AnnsPassword)
			for _, d := range slices.Concat(f.auth, f.mcp) {
				for _, wrong := range []string{"unknown variable", "SIGNET_TRUSTED_PROXIES does not name"} {
					if strings.Contains(d.Output(), wrong) {
						t.Errorf("%s is in the log of %s", wrong, d.Issuer)
					}
				}
			}
		})
	}
}

// mountedSecret returns a folder like a secret that Kubernetes mounts with mode 0440:
// all users may add files to it, and its files are links.
func mountedSecret(t *testing.T, from string) string {
	t.Helper()
	dir := t.TempDir()
	now := filepath.Join(dir, "..2026_01_02")
	err := errors.Join(os.Chmod(dir, 0o777|os.ModeSticky), os.Mkdir(now, 0o755), os.Symlink("..2026_01_02", filepath.Join(dir, "..data")))
	b, err2 := os.ReadFile(filepath.Join(from, "users"))
	err = errors.Join(err, err2, os.WriteFile(filepath.Join(now, "users"), b, 0o440), os.Symlink("..data/users", filepath.Join(dir, "users")))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// serves logs in and calls a tool until every replica got a call.
func (f *fleet) serves(t *testing.T, name, password string) {
	t.Helper()
	login := e2e.SDKLoginOver(t, f.transport, name, password)
	session := e2e.Connect(t, f.url+"/mcp", login, &http.Client{Transport: f.transport})
	for range 2 * len(f.mcp) {
		if got := e2e.CallTool(t, session, "whoami", nil); !strings.Contains(got, name) {
			t.Errorf("whoami says %q", got)
		}
	}
	for _, d := range f.mcp {
		if address := strings.TrimPrefix(d.URL(), "http://"); !strings.Contains(f.edge.accessLog(), address) {
			t.Errorf("the replica at %s got no call", address)
		}
	}
}

// The image has one static file, certificates and an empty directory. As its user, on a
// read-only root, the program serves, is healthy and stops.
func TestImageServesOnAReadOnlyRoot(t *testing.T) {
	plans := plansOfDeploy(t)
	if os.Geteuid() != 0 {
		t.Skip("only root may change the root directory")
	}
	root, data := filepath.Join(t.TempDir(), "root"), filepath.Join(t.TempDir(), "data")
	uid, gid := 65532, 65532
	if plans.User != fmt.Sprintf("%d:%d", uid, gid) {
		t.Fatalf("runs as %s", plans.User)
	}
	err := errors.Join(os.MkdirAll(filepath.Join(root, "data"), 0o755), os.Mkdir(data, 0o700), os.Chown(data, uid, gid))
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(plans.Build, func(s string) bool { return strings.Contains(s, "go build") })
	if i < 0 {
		t.Fatalf("the Dockerfile has no command that builds the program: %q", plans.Build)
	}
	if out, err := exec.Command("sh", "-c", strings.Replace(plans.Build[i], "/out/signet", filepath.Join(root, "signet"), 1)).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	in := []string{e2e.Need(t, "unshare"), "--mount", "sh", "-ec",
		`mount --bind "$0" "$0"; mount --bind "$1" "$0/data"; mount -o remount,ro,bind "$0"; root=$0; shift; exec chroot --userspec=` + plans.User + ` "$root" "$@"`, root, data}

	port := e2e.FreePort(t)
	d := &e2e.Program{T: t, Issuer: "http://localhost:" + port, Dir: data, Prefix: in, Path: plans.Image.Args[0], Args: plans.Image.Args[1:]}
	for name, value := range plans.Image.Environment {
		d.Env = append(d.Env, name+"="+strings.Replace(value, "0.0.0.0:8080", "0.0.0.0:"+port, 1))
	}
	d.Env = append(d.Env, "PATH="+os.Getenv("PATH"), "SIGNET_ISSUER="+d.Issuer)
	d.Start()
	t.Cleanup(d.Kill)
	healthy := func() error {
		cmd := exec.Command(in[0], append(slices.Clone(in[1:]), plans.Health[1:]...)...)
		cmd.Env = d.Env
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := healthy(); err != nil {
		t.Errorf("the health check: %v", err)
	}
	if info, err := os.Stat(filepath.Join(data, "secret")); err != nil || info.Sys().(*syscall.Stat_t).Uid != uint32(uid) {
		t.Errorf("the secret: %v, %v", info, err)
	}
	if status := d.Stop(); status != 0 {
		t.Errorf("stopped with status %d:\n%s", status, d.Output())
	}
	if healthy() == nil {
		t.Error("the health check succeeds after the stop")
	}
}
