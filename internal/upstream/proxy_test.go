package upstream_test

import (
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// tunnel is a proxy that connects to one server, whatever it is asked for.
func tunnel(t *testing.T, to string) (proxy *httptest.Server, asked *atomic.Value) {
	asked = &atomic.Value{}
	proxy = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Method + " " + r.Host)
		out, err := net.Dial("tcp", to)
		if err != nil {
			t.Error(err)
			return
		}
		defer out.Close()
		in, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer in.Close()
		io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
		go io.Copy(out, in)
		io.Copy(in, out)
	}))
	t.Cleanup(proxy.Close)
	return proxy, asked
}

// Behind an egress proxy, with a provider whose certificate is of a private authority. A process
// reads these variables once, so the request is made by another one.
func TestProxyAndPrivateAuthority(t *testing.T) {
	if os.Getenv("UPSTREAM_TEST_CHILD") != "" {
		p := parse(t, "upstreams:\n  - {id: corp, type: oauth2, authorization_endpoint: 'https://example.com/a', token_endpoint: 'https://example.com/t', userinfo_endpoint: 'https://example.com/u', client_id: a}\n", "corp")
		if err := p.Check(t.Context()); err != nil {
			t.Error(err)
		}
		p = parse(t, "upstreams:\n  - {id: corp, type: oidc, issuer: 'https://example.com', client_id: a}\n", "corp")
		if err := p.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "token_endpoint must be https, as the issuer is") {
			t.Errorf("an endpoint on this machine: %v", err)
		}
		return
	}
	provider := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"issuer":"https://example.com","authorization_endpoint":"https://example.com/a","token_endpoint":"http://127.0.0.1/t","jwks_uri":"https://example.com/k"}`)
	}))
	defer provider.Close()
	proxy, asked := tunnel(t, provider.Listener.Addr().String())
	authority := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: provider.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	child := func(authority string) (string, error) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProxyAndPrivateAuthority$")
		cmd.Env = append(os.Environ(), "UPSTREAM_TEST_CHILD=1", "HTTPS_PROXY="+proxy.URL, "NO_PROXY=", "SSL_CERT_FILE="+authority, "SSL_CERT_DIR="+t.TempDir())
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := child(authority); err != nil || asked.Load() != "CONNECT example.com:443" {
		t.Errorf("the proxy was asked %v: %v %s", asked.Load(), err, out)
	}
	if out, err := child(os.DevNull); err == nil || !strings.Contains(out, "certificate") {
		t.Errorf("a certificate of nobody known: %v %s", err, out)
	}
}
