package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"signet/internal/pgtest"
	"signet/seal"
)

const nginxFile = "deploy/nginx/signet.conf"

// The names under which deploy/nginx knows the replicas.
var (
	authNames = []string{"auth-1:8080", "auth-2:8080"}
	mcpNames  = []string{"mcp-1:8080", "mcp-2:8080", "mcp-3:8080"}
)

// edge is the nginx of deploy/nginx before it runs: where it will be, and its
// certificate, which replicas have to trust.
type edge struct {
	t                     *testing.T
	dir, port, plain, url string
	roots                 string // PEM file
}

func newEdge(t *testing.T) *edge {
	t.Helper()
	need(t, "nginx")
	e := &edge{t: t, dir: t.TempDir(), port: freePort(t), plain: freePort(t)}
	e.url, e.roots = "https://localhost:"+e.port, filepath.Join(e.dir, "localhost.pem")
	return e
}

// certify makes the certificate, and starts nginx once it is known where the
// replicas are: replicas maps their names to host:port.
func (e *edge) certify() (start func(replicas map[string]string) *nginx) {
	roots := selfSigned(e.t, e.dir)
	return func(replicas map[string]string) *nginx {
		e.t.Helper()
		r := map[string]string{"listen 80;": "listen 127.0.0.1:" + e.plain + ";", "/var/log/nginx": e.dir}
		for name, address := range replicas {
			r[name] = address
		}
		path := nginxConfigIn(e.t, e.dir, readText(e.t, nginxFile), e.port, r)
		if out, err := exec.Command(need(e.t, "nginx"), "-t", "-c", path, "-p", e.dir, "-e", "stderr").CombinedOutput(); err != nil {
			e.t.Fatalf("%v\n%s", err, out)
		}
		return runNginx(e.t, path, e.port, roots)
	}
}

// accessLog is what nginx wrote about the requests so far.
func (e *edge) accessLog() string { return readText(e.t, filepath.Join(e.dir, "signet.log")) }

// fleet is what deploy/ describes: authorization servers and MCP replicas on one
// database, behind nginx.
type fleet struct {
	*nginx
	edge      *edge
	auth, mcp []*daemon
}

// startFleet starts one process for each list of settings. args are more arguments of
// the authorization servers.
func startFleet(t *testing.T, e *edge, auth, mcp [][]string, args ...string) *fleet {
	t.Helper()
	start, f := e.certify(), &fleet{edge: e}
	replicas := map[string]string{}
	run := func(names []string, all [][]string, args ...string) (list []*daemon) {
		if len(all) != len(names) {
			t.Fatalf("%d replicas, and nginx knows %d", len(all), len(names))
		}
		for i, settings := range all {
			d := startDaemon(t, append([]string{"SSL_CERT_FILE=" + e.roots}, settings...), args...)
			replicas[names[i]] = strings.TrimPrefix(d.listen(), "http://")
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

// Clients go through nginx to any replica, and notice nothing of one that is gone.
func TestDeploy_Nginx(t *testing.T) {
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

	// One of each is gone, without a word.
	f.auth[0].kill()
	f.mcp[1].kill()
	for i := range 6 {
		for _, path := range []string{"/.well-known/jwks.json", "/.well-known/oauth-protected-resource"} {
			if status, body := fetchText(t, c, f.url+path); status != 200 {
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

// breaker breaks the connection when it has read a request for path, and answers
// others.
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

// all has every replica at one address.
func all(address string) map[string]string {
	replicas := map[string]string{}
	for _, name := range slices.Concat(authNames, mcpNames) {
		replicas[name] = address
	}
	return replicas
}

// What changes something is sent to one replica only, also when that one dies with it
// in hand; what only asks is sent to the next.
func TestDeploy_NginxRepeatsNoPOST(t *testing.T) {
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
func TestDeploy_NginxStreams(t *testing.T) {
	e := newEdge(t)
	seen := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/mcp" {
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: one\n\n")
		w.(http.Flusher).Flush()
		<-seen // the second is not sent before the first has arrived
		fmt.Fprint(w, "data: two\n\n")
	}))
	t.Cleanup(srv.Close)
	n := e.certify()(all(srv.Listener.Addr().String()))
	c := &http.Client{Transport: n.transport, Timeout: 20 * time.Second}
	resp, err := c.Get(n.url + "/mcp")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	events := bufio.NewReader(resp.Body)
	if line, err := events.ReadString('\n'); line != "data: one\n" || err != nil {
		t.Errorf("the first event: %q, %v", line, err)
	}
	close(seen)
	if rest, err := io.ReadAll(events); !strings.Contains(string(rest), "two") || err != nil {
		t.Errorf("then: %q, %v", rest, err)
	}
}
