package fleet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"signet/internal/e2e"
	"signet/internal/test/process"
	"signet/jwt"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// usualBlock is an nginx server as in the manuals of other MCP servers: headers that
// Signet does not need, and short timeouts.
const usualBlock = `
server {
    listen 443 ssl;
    server_name auth.example.com;
    ssl_certificate     /etc/ssl/auth.example.com.pem;
    ssl_certificate_key /etc/ssl/auth.example.com.key;
    add_header X-Frame-Options DENY;
    add_header X-Content-Type-Options nosniff;
    location / {
        proxy_pass http://127.0.0.1:8080;
        proxy_set_header Host $host;
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_connect_timeout 60s;
        proxy_send_timeout 60s;
        proxy_read_timeout 60s;
    }
}
`

// nginx is a running nginx with a certificate for localhost.
type nginx struct {
	url       string
	transport *http.Transport // trusts the certificate and connects from clientAddress
}

// clientAddress is the address of the clients, different from the proxy's.
const clientAddress = "127.0.0.2"

// nginxConfig writes a whole configuration around server blocks of the documents.
func nginxConfig(t *testing.T, blocks, port string, upstreams map[string]string) (path string, roots *x509.CertPool) {
	t.Helper()
	dir := t.TempDir()
	roots = selfSigned(t, dir)
	return nginxConfigIn(t, dir, blocks, port, upstreams), roots
}

// nginxConfigIn is nginxConfig in a directory that has a certificate already.
func nginxConfigIn(t *testing.T, dir, blocks, port string, upstreams map[string]string) (path string) {
	t.Helper()
	r := []string{"listen 443 ssl", "listen 127.0.0.1:" + port + " ssl", "/etc/ssl/auth.example.com", filepath.Join(dir, "localhost")}
	for from, to := range upstreams {
		r = append(r, from, to)
	}
	user := ""
	if os.Getuid() == 0 {
		user = "user root;" // the workers store bodies in the test's directory
	}
	var temp strings.Builder
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temp, "%s_temp_path %s/%s;\n", kind, dir, kind)
	}
	if strings.Contains(blocks, "js_import") {
		user += "\nload_module " + njsModule(t) + ";"
		r = append(r, "from signet.js", "from "+filepath.Join(dir, "signet.js"), "/var/cache/nginx", dir)
		if err := os.WriteFile(filepath.Join(dir, "signet.js"), []byte(e2e.ReadText(t, "examples/verifier/signet.js")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	conf := fmt.Sprintf("%s\ndaemon off;\nworker_processes 1;\npid %s/pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n%s%s}\n",
		user, dir, &temp, strings.NewReplacer(r...).Replace(blocks))
	path = filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// njsModule returns nginx's module for JavaScript. Where it is missing the test is
// skipped, or fails if SIGNET_TEST_ALL is set.
func njsModule(t *testing.T) string {
	t.Helper()
	const module = "/usr/lib/nginx/modules/ngx_http_js_module.so"
	if _, err := os.Stat(module); err != nil {
		if os.Getenv("SIGNET_TEST_ALL") != "" {
			t.Fatalf("%v, and SIGNET_TEST_ALL lets nothing be skipped", err)
		}
		t.Skip(err)
	}
	return module
}

// selfSigned writes a certificate for localhost and its key.
func selfSigned(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	for name, b := range map[string]*pem.Block{"localhost.pem": {Type: "CERTIFICATE", Bytes: cert}, "localhost.key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
		if b.Type == "CERTIFICATE" {
			roots.AppendCertsFromPEM(pem.EncodeToMemory(b))
		}
	}
	return roots
}

// startNginx runs nginx at port until the end of the test.
func startNginx(t *testing.T, blocks, port string, upstreams map[string]string) *nginx {
	t.Helper()
	path, roots := nginxConfig(t, blocks, port, upstreams)
	return runNginx(t, path, port, roots)
}

func runNginx(t *testing.T, path, port string, roots *x509.CertPool) *nginx {
	t.Helper()
	cmd, out := exec.Command(e2e.Need(t, "nginx"), "-c", path, "-p", filepath.Dir(path), "-e", "stderr"), new(e2e.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	p, err := process.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("nginx wrote:\n%s", out)
		}
	})
	if err := p.Listens(t.Context(), "127.0.0.1:"+port); err != nil {
		t.Fatalf("nginx: %v\n%s", err, out)
	}
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(clientAddress)}}
	n := &nginx{url: "https://localhost:" + port, transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp4", address)
		},
	}}
	t.Cleanup(n.transport.CloseIdleConnections)
	return n
}

// forger is a client that forges the headers about its address.
type forger struct{ next http.RoundTripper }

const forgedAddress = "203.0.113.66"

func (f forger) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Forwarded-For", forgedAddress)
	r.Header.Set("X-Forwarded-Host", "evil.example")
	r.Header.Set("X-Forwarded-Proto", "http")
	return f.next.RoundTrip(r)
}

func nginxBlocks(t *testing.T) (single, replicas string) {
	t.Helper()
	list := e2e.Blocks(t, "docs/proxy.md", "nginx")
	if len(list) != 2 {
		t.Fatalf("docs/proxy.md has %d nginx blocks, want the plain one and the one with replicas", len(list))
	}
	return list[0].Text, list[1].Text
}

func TestNginxTakesTheBlocksOfTheDocuments_Row91(t *testing.T) {
	program := e2e.Need(t, "nginx")
	for _, file := range e2e.Documents(t) {
		for _, b := range e2e.Blocks(t, file, "nginx") {
			t.Run(b.String(), func(t *testing.T) {
				path, _ := nginxConfig(t, b.Text, e2e.FreePort(t), map[string]string{"https://auth.example.com": "https://localhost"})
				if out, err := exec.Command(program, "-t", "-c", path, "-p", filepath.Dir(path), "-e", "stderr").CombinedOutput(); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	}
}

// A client discovers, registers, signs in and calls a tool through nginx, which speaks
// TLS. Every URL that it gets is the proxy's, and its claims about its own address are
// ignored.
func TestClientsGoThroughNginx_Row89(t *testing.T) {
	e2e.Need(t, "nginx")
	plain, _ := nginxBlocks(t)
	for name, tt := range map[string]struct {
		block string
		state int // length of the state; 4 KB of buffers are too few for the redirect of a longer one
	}{"documented": {plain, longState}, "usual": {usualBlock, 500}} {
		t.Run(name, func(t *testing.T) {
			port := e2e.FreePort(t)
			public := "https://localhost:" + port
			d := e2e.Start(t, []string{"SIGNET_ISSUER=" + public, "SIGNET_TRUSTED_PROXIES=127.0.0.1/32"}, "--demo")
			n := startNginx(t, tt.block, port, map[string]string{"http://127.0.0.1:8080": d.URL()})
			n.useAll(t, tt.state, d)
		})
	}
}

// The same with the authorization server and two MCP replicas behind it.
func TestClientsGoThroughNginxToReplicas_Row89(t *testing.T) {
	e2e.Need(t, "nginx")
	_, block := nginxBlocks(t)
	port := e2e.FreePort(t)
	public := "https://localhost:" + port
	settings := []string{"SIGNET_ISSUER=" + public, "SIGNET_TRUSTED_PROXIES=127.0.0.1/32"}
	d := e2e.Start(t, settings, "--demo", "--role", "auth")
	upstreams := map[string]string{"http://127.0.0.1:8080": d.URL()}
	for _, address := range []string{"127.0.0.1:8081", "127.0.0.1:8082"} {
		// The issuer of a replica is the proxy, whose certificate it has to trust.
		replica := e2e.Start(t, append([]string{"SSL_CERT_FILE=" + filepath.Join(d.Dir, "roots.pem")}, settings...), "--role", "mcp")
		upstreams[address] = strings.TrimPrefix(replica.URL(), "http://")
	}
	n := startNginx(t, block, port, upstreams)
	if err := os.WriteFile(filepath.Join(d.Dir, "roots.pem"), n.certificate(t), 0o600); err != nil {
		t.Fatal(err)
	}
	n.useAll(t, longState, d)
}

// longState is about the longest state that the server accepts, and longer than that of
// any known client.
const longState = 2000

// useAll makes all requests of a client with a forged address, and looks for that
// address in the logs of the authorization servers.
func (n *nginx) useAll(t *testing.T, state int, servers ...*e2e.Program) {
	t.Helper()
	transport := forger{n.transport}
	httpClient := &http.Client{Transport: transport}
	login := e2e.SDKLoginOver(t, transport, "demo_user", "demo_password")
	session := e2e.Connect(t, n.url+"/mcp", login, httpClient)
	if got := e2e.CallTool(t, session, "greet", map[string]any{"name": "World"}); got != "Hello, World!" {
		t.Errorf("greet says %q", got)
	}
	token := e2e.SDKToken(t, login)
	payload, err := json.Marshal(token)
	_, claims, badToken := jwt.UnsafeClaims(token.AccessToken)
	if err := errors.Join(err, badToken); err != nil || strings.Contains(string(payload)+string(claims), "evil.example") {
		t.Errorf("the token names a forged host: %s (%v)", claims, err)
	}
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-protected-resource"} {
		status, body := e2e.Fetch(t, httpClient, n.url+path)
		if status != 200 || !strings.Contains(body, n.url) || strings.Contains(body, "http://") || strings.Contains(body, "evil") {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	n.redirectsArePublic(t, httpClient, state)

	logins, log := 0, ""
	for _, d := range servers {
		log += d.Output()
	}
	for line := range strings.Lines(log) {
		if strings.Contains(line, forgedAddress) {
			t.Errorf("a forged address is in the log: %s", line)
		}
		if strings.Contains(line, `"event":"login"`) {
			logins++
			if !strings.Contains(line, `"address":"`+clientAddress+`"`) {
				t.Errorf("the client's address is not in the log: %s", line)
			}
		}
	}
	if logins == 0 {
		t.Error("no login is in the log")
	}
}

// redirectsArePublic begins a login of a client with a long name and many redirect
// URIs: the longest URLs that pass through nginx.
func (n *nginx) redirectsArePublic(t *testing.T, httpClient *http.Client, state int) {
	t.Helper()
	meta := map[string]any{"client_name": strings.Repeat("long ", 20), "token_endpoint_auth_method": "none"}
	var uris []string
	for i := range 7 {
		uris = append(uris, fmt.Sprintf("https://app.example/%d/%s", i, strings.Repeat("x", 85)))
	}
	meta["redirect_uris"] = uris
	body, err := json.Marshal(meta)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := httpClient.Post(n.url+"/register", "application/json", strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	client := &e2e.Client{Issuer: n.url, RedirectURI: uris[0]}
	answer, _ := io.ReadAll(resp.Body)
	if err := json.Unmarshal(answer, client); err != nil || resp.StatusCode != 201 {
		t.Fatalf("registration: %d %s", resp.StatusCode, answer)
	}
	r, err := http.NewRequest("GET", client.AuthorizationURL(strings.Repeat("s", state)), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err = httpClient.Transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	to, err := r.URL.Parse(resp.Header.Get("Location"))
	if err != nil || resp.StatusCode != 303 || to.Scheme+"://"+to.Host != n.url {
		t.Errorf("a long authorization request: %d, want a redirect to the login page (%v)", resp.StatusCode, err)
		return
	}
	page, err := http.NewRequest("GET", to.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range resp.Cookies() {
		page.AddCookie(c)
	}
	if resp, err = httpClient.Transport.RoundTrip(page); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("its login page: %d", resp.StatusCode)
	}
}

// Events of a server that streams arrive through nginx when they are sent.
func TestEventsStreamThroughNginx_Row89(t *testing.T) {
	e2e.Need(t, "nginx")
	plain, _ := nginxBlocks(t)
	port, inner := e2e.FreePort(t), e2e.FreePort(t)
	public := "https://localhost:" + port
	d := e2e.Start(t, []string{"SIGNET_RESOURCES=" + public + "/mcp," + public + "/sse"}, "--demo")
	e2e.StartExample(t, "stateful", "http://127.0.0.1:"+inner+"/mcp", "SIGNET_ISSUER="+d.Issuer, "BASE_URL="+public, "LISTEN=127.0.0.1:"+inner)
	n := startNginx(t, plain, port, map[string]string{"http://127.0.0.1:8080": "http://127.0.0.1:" + inner})

	token := e2e.TokenFor(t, d, public+"/sse", "demo_user", "demo_password")
	client := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), process.Patience)
	defer cancel()
	session, err := client.Connect(ctx, &sdk.SSEClientTransport{Endpoint: public + "/sse", HTTPClient: &http.Client{Transport: withToken{token, n.transport}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if got := e2e.CallTool(t, session, "whoami", nil); got != "You are demo_user" {
		t.Errorf("whoami says %q", got)
	}
}

// The events of a client that listens arrive at once through an nginx that holds answers back.
func TestListenersHearThroughAnyNginx_Row89(t *testing.T) {
	e2e.Need(t, "nginx")
	port := e2e.FreePort(t)
	public := "https://localhost:" + port
	d := e2e.Start(t, []string{"SIGNET_ISSUER=" + public, "SIGNET_TRUSTED_PROXIES=127.0.0.1/32"}, "--demo")
	n := startNginx(t, usualBlock, port, map[string]string{"http://127.0.0.1:8080": d.URL()})
	client := &http.Client{Transport: n.transport, Timeout: process.Patience / 2} // nginx itself ends a silent answer after a minute
	login := e2e.SDKLoginOver(t, n.transport, "demo_user", "demo_password")
	e2e.Connect(t, public+"/mcp", login, client)
	token := e2e.SDKToken(t, login)
	listen(t, client, public+"/mcp", token.AccessToken)
}

type withToken struct {
	token string
	next  http.RoundTripper
}

func (w withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+w.token)
	return w.next.RoundTrip(r)
}

// certificate returns the certificate of nginx.
func (n *nginx) certificate(t *testing.T) []byte {
	t.Helper()
	u, err := url.Parse(n.url)
	if err != nil {
		t.Fatal(err)
	}
	c, err := tls.Dial("tcp4", u.Host, n.transport.TLSClientConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.ConnectionState().PeerCertificates[0].Raw})
}
