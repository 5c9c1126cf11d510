package server_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"

	"signet/internal/test/freeport"
	"signet/server"
)

// The path of the login page must not be that of another page or of a resource.
func TestLoginPathMustBeFree(t *testing.T) {
	for _, issuer := range []string{"http://localhost:8080", "http://localhost:8080/auth"} {
		for path, want := range map[string]string{
			"/authorize": "another page", "/oauth/token": "another page", "/register": "another page", "/consent": "another page", "/assets/logo": "another page",
			"/.well-known/jwks.json": "another page", "/favicon.ico": "another page", "/mcp": "resource", "/mcp/connect": "resource",
			"login": "not of the form", "/": "not of the form", "/a?b": "not of the form",
			"/norman/login": "", "/oauth/login": "",
		} {
			o := server.Options{Check: check, Issuer: issuer, DataDir: filepath.Join(t.TempDir(), "data"), LoginPath: path}.Alone()
			srv, err := server.New(o)
			if err == nil {
				srv.Close()
			}
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("issuer %s, login path %s: error %v, want one with %q", issuer, path, err, want)
			}
		}
	}
}

// So must that of a resource, while the issuer itself may be one.
func TestResourcePathMustBeFree(t *testing.T) {
	for _, issuer := range []string{"http://localhost:8080", "http://localhost:8080/auth"} {
		for path, free := range map[string]bool{
			"/token": false, "/login": false, "/readyz": false, "/.well-known/jwks.json": false,
			"": true, "/": true, "/mcp": true, "/token/mcp": true,
		} {
			o := server.Options{Check: check, Issuer: issuer, DataDir: filepath.Join(t.TempDir(), "data"), Resources: []string{"http://localhost:8080/first", issuer + path}}.Alone()
			srv, err := server.New(o)
			if err == nil {
				srv.Close()
			}
			if free != (err == nil) || err != nil && !strings.Contains(err.Error(), "SIGNET_RESOURCES: resource "+issuer+path) {
				t.Errorf("resource %s%s: error %v, want none: %t", issuer, path, err, free)
			}
		}
	}
}

func TestRoleAllServesBothSides(t *testing.T) {
	srv := newServer(t, nil)
	for path, want := range map[string]int{
		"/.well-known/oauth-authorization-server":       200,
		"/.well-known/openid-configuration":             200,
		"/.well-known/jwks.json":                        200,
		"/.well-known/oauth-protected-resource":         200,
		"/.well-known/oauth-protected-resource/mcp":     200,
		"/.well-known/oauth-protected-resource/unknown": 404,
		"/livez":       200,
		"/readyz":      200,
		"/mcp":         401,
		"/favicon.ico": 204,
	} {
		if got := get(t, srv, path).Code; got != want {
			t.Errorf("GET %s: %d, want %d", path, got, want)
		}
	}
}

// A method that no router knows is refused like any other that an endpoint does not have.
func TestUnknownMethodIsRefusedByItsEndpoint(t *testing.T) {
	srv := newServer(t, nil)
	for path, want := range map[string]int{"/token": 405, "/livez": 405, "/mcp": 401, "/nothing": 404} {
		for _, method := range []string{"PROPFIND", "FOO", "TRACE"} {
			w := httptest.NewRecorder()
			srv.Handler().ServeHTTP(w, httptest.NewRequest(method, srv.Issuer()+path, nil))
			if w.Code != want || want == 405 && w.Header().Get("Allow") == "" {
				t.Errorf("%s %s: %d, Allow %q, want %d", method, path, w.Code, w.Header().Get("Allow"), want)
			}
		}
	}
}

// A program may have the handler below a router of its own, whichever that is.
func TestHandlerBelowAnotherRouter(t *testing.T) {
	srv := newServer(t, func(o *server.Options) { o.Issuer = "http://localhost:8080/auth" })
	mounted, routed, mux := chi.NewRouter(), chi.NewRouter(), http.NewServeMux()
	mounted.Mount("/auth", srv.Handler())
	routed.Route("/auth", func(r chi.Router) { r.Handle("/*", srv.Handler()) })
	mux.Handle("/auth/", srv.Handler())
	for name, router := range map[string]http.Handler{"chi, mounted": mounted, "chi, routed": routed, "net/http": mux} {
		for path, want := range map[string]int{"/.well-known/jwks.json": 200, "/readyz": 200, "/token": 405, "/mcp": 401, "/nothing": 404} {
			w := httptest.NewRecorder()
			router.ServeHTTP(w, httptest.NewRequest("GET", srv.Issuer()+path, nil))
			if w.Code != want {
				t.Errorf("%s: GET %s: %d, want %d", name, path, w.Code, want)
			}
		}
	}
}

// A wrong option is an error that names it, before anything is made.
func TestWrongOptionsMakeNothing(t *testing.T) {
	for want, change := range map[string]func(*server.Options){
		`required scopes: "reed"`:                  func(o *server.Options) { o.RequiredScopes = []string{"read", "reed"} },
		`scopes: "read write"`:                     func(o *server.Options) { o.Scopes = []string{"read write"} },
		`scopes: ""`:                               func(o *server.Options) { o.Scopes = []string{"read", ""} },
		"TLSCert and TLSKey":                       func(o *server.Options) { o.TLSKey = "key.pem" },
		`client documents: "http://evil.example"`:  func(o *server.Options) { o.ClientDocuments.DeniedHosts = []string{"http://evil.example"} },
		`client documents: "https://good.example"`: func(o *server.Options) { o.ClientDocuments.Hosts = []string{"https://good.example"} },
		"Access: -1ns":                             func(o *server.Options) { o.Lives.Access = -1 },
		`rollback: "never"`:                        func(o *server.Options) { o.Rollback = "never" },
	} {
		o := server.Options{Check: check, DataDir: filepath.Join(t.TempDir(), "data")}.Alone()
		change(&o)
		srv, err := server.New(o)
		if err == nil {
			srv.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %s", err, want)
		}
		if _, err := os.Stat(o.DataDir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a data directory was made: %v", want, err)
		}
	}
}

// closer closes a listener once the log says that the server stops, as a program may do.
type closer struct{ net.Listener }

func (c closer) Write(line []byte) (int, error) {
	if strings.Contains(string(line), "msg=stopping") {
		c.Close()
	}
	return len(line), nil
}

// The program that has opened the listener may close it while the server stops.
func TestListenerClosedWhileStopping(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := newServer(t, func(o *server.Options) {
		o.DrainDelay, o.Log = time.Millisecond, slog.New(slog.NewTextHandler(closer{l}, nil))
	})
	_, stop := serveOn(t, srv, l)
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestRoleAuthServesNoResource(t *testing.T) {
	srv := newServer(t, func(o *server.Options) { o.Role = "auth" })
	if got := get(t, srv, "/.well-known/jwks.json").Code; got != 200 {
		t.Errorf("JWKS: %d, want 200", got)
	}
	for _, path := range []string{"/mcp", "/.well-known/oauth-protected-resource"} {
		if got := get(t, srv, path).Code; got != 404 {
			t.Errorf("%s: %d, want 404", path, got)
		}
	}
}

// A process of role mcp makes no file, and is not ready before it has keys.
func TestRoleMCPHoldsNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	down := httptest.NewServer(http.NotFoundHandler())
	issuer := down.URL
	down.Close()
	srv := newServer(t, func(o *server.Options) { o.Role, o.DataDir, o.Issuer, o.Check = "mcp", dir, issuer, nil })
	if got := get(t, srv, "/livez").Code; got != 200 {
		t.Errorf("livez: %d, want 200", got)
	}
	if got := get(t, srv, "/readyz"); got.Code != 503 {
		t.Errorf("readyz without keys: %d %s, want 503", got.Code, got.Body)
	}
	for _, path := range []string{"/authorize", "/token", "/.well-known/jwks.json", "/login"} {
		if got := get(t, srv, path); got.Code != 404 || got.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s, want a 404 in JSON", path, got.Code, got.Header().Get("Content-Type"))
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a data directory was made: %v", err)
	}
}

func TestEachResourceHasItsOwnMetadata(t *testing.T) {
	srv := newServer(t, func(o *server.Options) {
		o.Resources = []string{"http://localhost:8080/a", "http://localhost:8080/b", "https://elsewhere.example/mcp"}
	})
	for path, want := range map[string]string{
		"/.well-known/oauth-protected-resource":   "http://localhost:8080/a",
		"/.well-known/oauth-protected-resource/a": "http://localhost:8080/a",
		"/.well-known/oauth-protected-resource/b": "http://localhost:8080/b",
	} {
		var doc struct{ Resource string }
		if err := json.Unmarshal(get(t, srv, path).Body.Bytes(), &doc); err != nil || doc.Resource != want {
			t.Errorf("%s names %q, want %q (%v)", path, doc.Resource, want, err)
		}
	}
	if got := get(t, srv, "/mcp").Code; got != 404 {
		t.Errorf("/mcp: %d, want 404, because it is not a resource", got)
	}
}

// Encoded characters in the path of a resource reach its endpoint, whether net/http decodes
// them or not.
func TestResourceWithEncodedPathIsServed(t *testing.T) {
	for _, path := range []string{"/caf%C3%A9", "/a%40b", "/a%2Fb"} {
		srv := newServer(t, func(o *server.Options) { o.Resources = []string{"http://localhost:8080" + path} })
		for _, below := range []string{"", "/connect"} {
			if got := get(t, srv, path+below).Code; got != 401 {
				t.Errorf("GET %s: %d, want 401", path+below, got)
			}
		}
		var doc struct{ Resource string }
		got := get(t, srv, "/.well-known/oauth-protected-resource"+path)
		if err := json.Unmarshal(got.Body.Bytes(), &doc); err != nil || doc.Resource != srv.Resources()[0] {
			t.Errorf("metadata of %s: %d, resource %q (%v)", path, got.Code, doc.Resource, err)
		}
	}
}

// Otherwise one of two resources would silently not be served.
func TestResourcesHavePathsOfTheirOwn(t *testing.T) {
	const base = "http://localhost:8080"
	for _, tt := range []struct {
		role      string
		resources []string
		want      []string // in the error; nil: there is none
	}{
		{"all", []string{base + "/mcp", base + "/mcp?a=b"}, []string{base + "/mcp ", base + "/mcp?a=b"}},
		{"all", []string{base, base + "/"}, []string{base + " ", base + "/"}},
		{"all", []string{base + "/mcp", base + "/mcp/connect"}, []string{base + "/mcp ", base + "/mcp/connect"}},
		{"all", []string{base + "/mcp/connect", base + "/mcp"}, nil},
		{"all", []string{base + "/mcp", base + "/.well-known/oauth-protected-resource/mcp"}, []string{"the metadata of " + base + "/mcp", "resource " + base + "/.well-known/oauth-protected-resource/mcp"}},
		{"all", []string{base + "/mcp", base + "/.well-known/oauth-protected-resource"}, []string{"the metadata", "resource " + base + "/.well-known/oauth-protected-resource"}},
		{"all", []string{base + "/mcp", base, base + "/MCP", base + "/mcp/"}, nil},
		{"all", []string{base + "/mcp", "https://a.example/mcp", "https://b.example/mcp"}, nil},
		{"mcp", []string{"https://a.example/mcp", "https://b.example/mcp"}, []string{"https://a.example/mcp", "https://b.example/mcp"}},
		{"mcp", []string{"https://a.example/mcp", "https://a.example/livez"}, []string{"the health check", "https://a.example/livez"}},

		{"all", []string{base + "/a*"}, []string{base + "/a*"}},
		{"all", []string{base + "/a/*"}, []string{base + "/a/*"}},
		{"all", []string{base + "/%7Ba%7D"}, []string{base + "/%7Ba%7D"}},
		{"all", []string{base + "/a%20b"}, []string{base + "/a%20b"}},
		{"all", []string{base + "/a%2Ab"}, []string{base + "/a%2Ab"}},
		{"all", []string{base + "/mcp", "https://a.example/*"}, nil},
	} {
		o := server.Options{Role: tt.role, DataDir: filepath.Join(t.TempDir(), "data"), Resources: tt.resources}.Alone()
		if tt.role == "all" {
			o.Check = check
		}
		srv, err := server.New(o)
		if err == nil {
			srv.Close()
		}
		if (err == nil) != (tt.want == nil) {
			t.Errorf("%q: error %v, want one with %q", tt.resources, err, tt.want)
		}
		for _, want := range tt.want {
			if err != nil && !strings.Contains(err.Error()+" ", want) {
				t.Errorf("%q: error %q does not name %q", tt.resources, err, want)
			}
		}
	}
}

func TestNewRefusesWrongOptions(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*server.Options)
		want   string
	}{
		"http issuer beyond loopback": {func(o *server.Options) { o.Issuer = "http://as.example" }, "issuer"},
		"relative resource":           {func(o *server.Options) { o.Resources = []string{"/mcp"} }, "resource"},
		"demo for the world":          {func(o *server.Options) { o.Issuer, o.Demo = "https://as.example", true }, "demo"},
		"demo without users":          {func(o *server.Options) { o.Role, o.Check, o.Demo = "mcp", nil, true }, "demo: a process of role mcp"},
		"unknown role":                {func(o *server.Options) { o.Role = "both" }, "role"},
		"unknown scope implies":       {func(o *server.Options) { o.ScopeHierarchy = "root>read" }, "scope hierarchy"},
		"negative connections":        {func(o *server.Options) { o.MaxConnections = -1 }, "MaxConnections"},
		"negative delay":              {func(o *server.Options) { o.DrainDelay = -time.Second }, "DrainDelay"},
		"wrong secret":                {func(o *server.Options) { o.Secret = "x" }, "SIGNET_SECRET"},
	} {
		o := server.Options{Check: check, DataDir: filepath.Join(t.TempDir(), "data")}
		c.change(&o)
		srv, err := server.New(o)
		if err == nil {
			srv.Close()
			t.Errorf("%s: started", name)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %q does not name %s", name, err, c.want)
		}
	}
}

func TestSecondServerOnOneStoreIsRefused_M04(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	newServer(t, func(o *server.Options) { o.DataDir = dir })
	second, err := server.New(server.Options{Check: check, DataDir: dir}.Alone())
	if err == nil {
		second.Close()
		t.Fatal("a second server has opened the store")
	}
	if !strings.Contains(err.Error(), "signet.db") {
		t.Errorf("error %q does not name the store", err)
	}
}

// Metrics and pprof are on their own listener, and paths from requests are no labels.
func TestPublicListenerHasNoDebugEndpoints_L13(t *testing.T) {
	port, err := freeport.New()
	if err != nil {
		t.Fatal(err)
	}
	metrics := fmt.Sprintf("127.0.0.1:%d", port)
	srv := newServer(t, func(o *server.Options) { o.MetricsListen = metrics })
	for _, path := range []string{"/debug/pprof/", "/debug/vars", "/metrics", "/healthz?verbose"} {
		if got := get(t, srv, path).Code; got != 404 {
			t.Errorf("%s on the public listener: %d, want 404", path, got)
		}
	}
	base, stop := serving(t, srv)
	defer stop()
	for range 50 {
		resp, err := http.Get(base + "/nothing/" + rand.Text())
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	resp, err := http.Get("http://" + metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if !bytes.Contains(body, []byte(`signet_http_requests_total{code="404",route="none"} 5`)) {
		t.Errorf("unknown paths are not counted together:\n%s", grep(string(body), "signet_http_requests_total"))
	}
	if lines := strings.Count(string(body), "\n"); lines > 500 {
		t.Errorf("%d lines of metrics, want fewer than 500", lines)
	}
}

// The clients go elsewhere when an answer asks them to, as a load balancer does.
func TestStopDropsNoRequest(t *testing.T) {
	srv := newServer(t, func(o *server.Options) { o.DrainDelay = 3 * time.Second })
	base, stop := serving(t, srv)
	var answered, broken atomic.Int64
	warm := make(chan struct{}) // closed after some answers
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			tr := &http.Transport{}
			defer tr.CloseIdleConnections()
			c := &http.Client{Transport: tr}
			for {
				resp, err := c.Post(base+"/token", "application/x-www-form-urlencoded", strings.NewReader("grant_type=none"))
				if err != nil {
					t.Error(err)
					broken.Add(1)
					return
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					t.Error(err)
					broken.Add(1)
				}
				resp.Body.Close()
				if answered.Add(1) == 500 {
					close(warm)
				}
				if resp.Close {
					return
				}
			}
		})
	}
	<-warm
	if err := stop(); err != nil {
		t.Errorf("stopping: %v", err)
	}
	clients.Wait()
	if broken.Load() > 0 {
		t.Errorf("%d requests broken, %d answered", broken.Load(), answered.Load())
	}
}

// The clients open a connection for each request and do not ask for readiness. No connection
// is accepted and then dropped with its request.
func TestStopAnswersOrRefusesNewConnections(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux: elsewhere closing a listener drops the connections in its queue")
	}
	for range 3 {
		srv := newServer(t, func(o *server.Options) { o.Listen, o.DrainDelay = "127.0.0.1:0", 2*time.Second })
		base, stop := listening(t, srv)
		stopped := make(chan error, 1)
		var answered atomic.Int64
		var clients sync.WaitGroup
		for range 64 {
			clients.Go(func() {
				tr := &http.Transport{DisableKeepAlives: true}
				c := &http.Client{Transport: tr}
				for {
					resp, err := c.Post(base+"/token", "application/x-www-form-urlencoded", strings.NewReader("grant_type=none"))
					if errors.Is(err, syscall.ECONNREFUSED) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					resp.Body.Close()
					if answered.Add(1) == 500 {
						go func() { stopped <- stop() }()
					}
				}
			})
		}
		clients.Wait()
		if err := <-stopped; err != nil {
			t.Errorf("stopping: %v", err)
		}
	}
}

func TestDrainingServerSendsClientsElsewhere(t *testing.T) {
	forEachRole(t, func(t *testing.T, change func(*server.Options)) {
		srv := newServer(t, func(o *server.Options) { change(o); o.DrainDelay = 3 * time.Second })
		base, stop := serving(t, srv)
		ask := func(path string) (answer string, status int, closed bool) {
			resp, err := http.Get(base + path)
			if err != nil {
				t.Fatalf("%s: %v", path, err) // at the end of the stop at the latest
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			return string(body), resp.StatusCode, resp.Close
		}
		keys, ready := 200, 200
		if strings.HasSuffix(t.Name(), "/mcp") {
			keys, ready = 404, 503 // the keys are its issuer's, which is down
		}
		if answer, status, closed := ask("/readyz"); status != ready || strings.Contains(answer, "draining") || closed {
			t.Fatalf("before the stop: %d %s, closed %t", status, answer, closed)
		}
		go stop()
		for {
			if answer, status, closed := ask("/readyz"); strings.Contains(answer, "draining") {
				if status != 503 || !closed {
					t.Errorf("a draining server says %d, closed %t, want 503 and to close the connection", status, closed)
				}
				break
			}
		}
		for _, path := range []string{"/livez", "/token", "/mcp", "/.well-known/jwks.json", "/nothing"} {
			_, status, closed := ask(path)
			if !closed || path == "/.well-known/jwks.json" && status != keys {
				t.Errorf("%s: a draining server says %d, closed %t; want the usual answer, and to close the connection", path, status, closed)
			}
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// forEachRole runs a test for a server of each role, all at once.
func forEachRole(t *testing.T, test func(t *testing.T, change func(*server.Options))) {
	for _, role := range []string{"all", "auth", "mcp"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			test(t, func(o *server.Options) {
				if o.Role = role; role == "mcp" {
					o.Issuer, o.Check = "http://127.0.0.1:1", nil
				}
			})
		})
	}
}

// What holds for every request holds in every role, also in one without a resource.
func TestEveryRoleCountsAndChecksRequests(t *testing.T) {
	forEachRole(t, func(t *testing.T, change func(*server.Options)) {
		port, err := freeport.New()
		if err != nil {
			t.Fatal(err)
		}
		metrics := fmt.Sprintf("127.0.0.1:%d", port)
		addr, _ := live(t, func(o *server.Options) { change(o); o.MetricsListen = metrics })
		for name, c := range map[string]struct{ request, status string }{
			"good":            {"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "200"},
			"another host":    {"GET http://evil.test/livez HTTP/1.1\r\nHost: localhost\r\n\r\n", "400"},
			"too long":        {"GET /livez?" + strings.Repeat("a", 16<<10) + " HTTP/1.1\r\nHost: localhost\r\n\r\n", "414"},
			"chunked":         {"GET /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "200"},
			"unknown, hidden": {"GET /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", "404"},
		} {
			answers, closed := exchange(t, addr, c.request)
			if status(answers) != c.status || !closed || strings.Count(answers, "HTTP/1.") != 1 || !strings.Contains(answers, "X-Request-Id: ") {
				t.Errorf("%s: closed %t, want %s once, with an ID: %.300q", name, closed, c.status, answers)
			}
		}
		resp, err := http.Get("http://" + metrics + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		for _, want := range []string{`{code="200",route="/livez"} 2`, `{code="404",route="none"} 1`, `{code="400",route="none"} 1`, `{code="414",route="none"} 1`} {
			if want = "signet_http_requests_total" + want; !strings.Contains(string(body), want+"\n") {
				t.Errorf("no %s:\n%s", want, grep(string(body), "signet_http_requests_total"))
			}
		}
	})
}

// A user whose request is refused before it is routed gets a page, and a program JSON. A role
// without pages has only JSON.
func TestBrowserIsToldInAPage(t *testing.T) {
	forEachRole(t, func(t *testing.T, change func(*server.Options)) {
		role := ""
		addr, _ := live(t, func(o *server.Options) { change(o); role = o.Role })
		for accept, page := range map[string]bool{"text/html,application/xhtml+xml,*/*;q=0.8": role != "mcp", "application/json": false, "*/*": false} {
			answers, closed := exchange(t, addr, "GET /authorize?state="+strings.Repeat("a", 16<<10)+" HTTP/1.1\r\nHost: localhost\r\nAccept: "+accept+"\r\n\r\n")
			kind := "Content-Type: application/json"
			if page {
				kind = "Content-Type: text/html"
			}
			if status(answers) != "414" || !closed || !strings.Contains(answers, kind) || !strings.Contains(answers, "is longer than") {
				t.Errorf("Accept %s: closed %t, want 414 with %s: %.600q", accept, closed, kind, answers)
			}
		}
	})
}

// TLS 1.0 and 1.1 fail in the handshake; 1.2 works and speaks HTTP/2.
func TestTLSIsAtLeastVersion12_A05(t *testing.T) {
	cert, key := selfSigned(t)
	srv := newServer(t, func(o *server.Options) { o.Issuer, o.TLSCert, o.TLSKey = "https://localhost:8443", cert, key })
	base, stop := serving(t, srv)
	defer stop()
	addr := strings.TrimPrefix(base, "http://")
	for version, ok := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version, NextProtos: []string{"h2"}})
		if (err == nil) != ok {
			t.Errorf("%s: error %v", tls.VersionName(version), err)
		}
		if err == nil {
			if got := c.ConnectionState().NegotiatedProtocol; got != "h2" {
				t.Errorf("%s speaks %q, want h2", tls.VersionName(version), got)
			}
			c.Close()
		}
	}
}

func TestLogCarriesTheRequestID(t *testing.T) {
	out := &safeBuffer{}
	log := slog.New(server.WithRequestID(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	srv := newServer(t, func(o *server.Options) { o.Log = log })
	id := get(t, srv, "/readyz?secret=canary").Header().Get("X-Request-Id")
	if id == "" || !strings.Contains(out.String(), id) {
		t.Errorf("request id %q is not in the log:\n%s", id, out.String())
	}
	for line := range strings.Lines(out.String()) {
		if strings.Count(line, `"request_id"`) > 1 {
			t.Errorf("two ids in one line: %s", line)
		}
	}
	if strings.Contains(out.String(), "canary") {
		t.Error("the query is in the log")
	}
}

// A port that was changed only in one setting leads clients to another server.
func TestPortOtherThanTheIssuersIsReported(t *testing.T) {
	for _, tt := range []struct {
		issuer, listen string
		warns          bool
	}{
		{"http://localhost:8080", "127.0.0.1:9000", true},
		{"http://localhost:8080", "127.0.0.1:8080", false},
		{"https://auth.example.com", "127.0.0.1:9000", false},
		{"http://localhost:8080", "127.0.0.1:0", false},
	} {
		var log bytes.Buffer
		srv := newServer(t, func(o *server.Options) {
			o.Issuer, o.Listen, o.DrainDelay, o.Log = tt.issuer, tt.listen, 1, slog.New(slog.NewTextHandler(&log, nil))
		})
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := srv.Serve(ctx, l); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(log.String(), "clients are told to go to"); got != tt.warns {
			t.Errorf("issuer %s, listening on %s: warned %t, want %t", tt.issuer, tt.listen, got, tt.warns)
		}
	}
}

// A stop without connections succeeds, also if it comes between accepting and serving.
func TestIdleServerStops(t *testing.T) {
	for range 50 {
		srv, err := server.New(server.Options{Role: "mcp", Issuer: "http://127.0.0.1:1", Listen: "127.0.0.1:0", DrainDelay: time.Nanosecond})
		if err != nil {
			t.Fatal(err)
		}
		base, stop := listening(t, srv)
		if resp, err := http.Get(base + "/livez"); err != nil {
			t.Fatal(err)
		} else {
			resp.Body.Close()
		}
		http.DefaultClient.CloseIdleConnections()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestChaosNeedsALoopbackIssuer(t *testing.T) {
	srv, err := server.New(server.Options{Check: check, DataDir: t.TempDir(), Issuer: "https://auth.example.com", Chaos: 1})
	if err == nil {
		srv.Close()
		t.Fatal("it started")
	}
	if !strings.Contains(err.Error(), "loopback") || !strings.Contains(err.Error(), "https://auth.example.com") {
		t.Errorf("error %q", err)
	}
}
