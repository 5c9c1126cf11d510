package server_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"signet/server"
)

// Metrics and pprof are for operators, not for a page whose name was rebound to the listener.
func TestOperatorsListenerRefusesForeignHosts_L13(t *testing.T) {
	for _, c := range []struct {
		listen, host string
		want         int
	}{
		{"127.0.0.1:9090", "localhost:9090", 200},
		{"127.0.0.1:9090", "LOCALHOST", 200},
		{"127.0.0.1:9090", "127.0.0.1:9090", 200},
		{"127.0.0.1:9090", "[::1]:9090", 200},
		{"127.0.0.1:9090", "evil.test:9090", 403},
		{"127.0.0.1:9090", "signet:9090", 403},
		{"127.0.0.1:9090", "localhost.evil.example", 403},
		{"localhost:9090", "evil.example", 403},
		{"[::1]:9090", "evil.example", 403},
		{"127.0.0.1:9090", "", 403},
		{"0.0.0.0:9090", "10.1.2.3:9090", 200},
		{":9090", "[fd00::1]:9090", 200},
		{"0.0.0.0:9090", "signet:9090", 200},
		{"0.0.0.0:9090", "signet.default.svc.cluster.local:9090", 200},
		{"0.0.0.0:9090", "signet.default.svc:9090", 200},
		{"0.0.0.0:9090", "host.docker.internal:9090", 200},
		{"0.0.0.0:9090", "localhost:9090", 200},
		{"0.0.0.0:9090", "evil.example:9090", 403},
		{"0.0.0.0:9090", "evil.example.:9090", 403},
		{"0.0.0.0:9090", "local.evil.example", 403},
		{"metrics.example.com:9090", "metrics.example.com:9090", 200},
		{"metrics.example.com:9090", "METRICS.example.com.", 200},
		{"metrics.example.com:9090", "evil.example.com:9090", 403},
	} {
		for _, path := range []string{"/metrics", "/debug/pprof/"} {
			r := httptest.NewRequest("GET", path, nil)
			r.Host = c.host
			w := httptest.NewRecorder()
			server.Operators(c.listen).ServeHTTP(w, r)
			if w.Code != c.want {
				t.Errorf("%s on %s, named %q: %d, want %d", path, c.listen, c.host, w.Code, c.want)
			}
		}
	}
}

// The metrics say how many tokens were issued and how logins and refreshes ended.
func TestMetricsCountTokensAndLogins(t *testing.T) {
	events := [][2]string{
		{"login", "ok"}, {"login", "refused"}, {"login", "refused"}, {"login", "throttled"}, {"login", "failed"}, {"consent", "ok"}, {"token", "ok"}, {"token", "refused"}, {"code_reuse", "refused"},
		{"refresh", "ok"}, {"refresh", "ok"}, {"refresh", "refused"}, {"refresh", "throttled"}, {"refresh", "failed"}, {"refresh_reuse", "refused"}, {"refresh_rollback", "refused"},
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/metrics", nil)
	r.Host = "localhost"
	server.Operators("127.0.0.1:9090", events...).ServeHTTP(w, r)
	for _, want := range []string{
		`signet_logins_total{outcome="ok"} 1`, `signet_logins_total{outcome="refused"} 2`, `signet_logins_total{outcome="throttled"} 1`, `signet_logins_total{outcome="failed"} 1`,
		`signet_access_tokens_total{grant="authorization_code"} 1`, `signet_access_tokens_total{grant="refresh_token"} 2`,
		`signet_refreshes_total{outcome="ok"} 2`, `signet_refreshes_total{outcome="refused"} 1`, `signet_refreshes_total{outcome="throttled"} 1`, `signet_refreshes_total{outcome="failed"} 1`,
		`signet_refreshes_total{outcome="reused"} 1`, `signet_refreshes_total{outcome="rolled_back"} 1`,
	} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("no line %s:\n%s", want, grep(w.Body.String(), "signet_"))
		}
	}
}

// Pages of a loopback issuer are served under the names of this machine only. What programs
// of any origin may ask is served under all names, as is everything of a public issuer, whose
// proxy may send any.
func TestPagesOfALoopbackIssuerNeedALoopbackHost_J10(t *testing.T) {
	pages := []string{"/", "/authorize", "/oauth/authorize", "/login", "/oauth/login", "/consent", "/account", "/logout", "/assets/logo", "/favicon.ico"}
	programs := []string{"/livez", "/readyz", "/.well-known/jwks.json", "/.well-known/oauth-authorization-server", "/userinfo"}
	local, public := newServer(t, nil), newServer(t, func(o *server.Options) { o.Issuer = "https://auth.example.com" })
	status := func(srv *server.Server, path, host string) int {
		r := httptest.NewRequest("GET", "http://"+host+path, nil)
		r.URL.Scheme, r.URL.Host, r.Host, r.RequestURI = "", "", host, path
		w := httptest.NewRecorder()
		srv.Handler().ServeHTTP(w, r)
		return w.Code
	}
	for _, host := range []string{"evil.test", "evil.test:8080", "localhost.evil.test", "192.0.2.1:8080", "0.0.0.0:8080", "signet:8080"} {
		for _, path := range pages {
			if got := status(local, path, host); got != http.StatusForbidden {
				t.Errorf("%s at %s: %d, want 403", path, host, got)
			}
			if got := status(public, path, host); got == http.StatusForbidden {
				t.Errorf("%s at %s, with a public issuer: %d", path, host, got)
			}
		}
		for _, path := range programs {
			if got := status(local, path, host); got == http.StatusForbidden {
				t.Errorf("%s at %s: %d", path, host, got)
			}
		}
	}
	for _, host := range []string{"localhost:8080", "LOCALHOST:3000", "127.0.0.1:8080", "127.1.2.3", "[::1]:8080"} {
		for _, path := range pages {
			if got := status(local, path, host); got == http.StatusForbidden {
				t.Errorf("%s at %s: %d", path, host, got)
			}
		}
	}
}

// Browsers are told to use https from now on, if the issuer is a public https URL.
func TestHTTPSIsDemandedOfBrowsers(t *testing.T) {
	for issuer, want := range map[string]bool{
		"https://auth.example.com": true, "https://auth.example.com/auth": true, "https://auth.example.com:8443": true, "http://localhost:8080": false, "https://localhost:8443": false, "https://127.0.0.1": false,
	} {
		srv := newServer(t, func(o *server.Options) { o.Issuer = issuer })
		for _, path := range []string{"/", "/login", "/nothing", "/livez", "/mcp", "/.well-known/jwks.json", "/.well-known/oauth-protected-resource"} {
			got := get(t, srv, path).Header().Get("Strict-Transport-Security")
			if (got != "") != want || strings.Contains(strings.ToLower(got), "subdomains") {
				t.Errorf("%s%s: %q, want one: %t", issuer, path, got, want)
			}
		}
	}
}
