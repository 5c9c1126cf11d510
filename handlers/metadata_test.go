package handlers_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"signet/internal/test/authtest"
)

var forged = []string{
	"Host", "evil.test", "X-Forwarded-Host", "evil.test", "X-Forwarded-Proto", "http", "Forwarded", "host=evil.test;proto=http", "X-Original-Host", "evil.test", "X-Original-Url", "/evil",
}

// A01: the issuer and everything derived from it is the configured string, at all
// three places where clients look, whatever the request claims about its host.
func TestIssuerIsTheConfiguredOne_A01(t *testing.T) {
	s := authtest.New(t, func(c *authtest.Config) { c.Issuer = "https://as.test/t1" })
	var first string
	for _, path := range []string{"/.well-known/oauth-authorization-server/t1", "/.well-known/openid-configuration/t1", "/t1/.well-known/openid-configuration"} {
		for _, header := range [][]string{nil, forged} {
			r := request("GET", "https://as.test"+path+"?x=1", "", header...)
			if header != nil {
				r.Host = "evil.test"
			}
			res := s.Do(t, r)
			if res.StatusCode != 200 || res.JSON(t)["issuer"] != "https://as.test/t1" {
				t.Fatalf("%s: %d %s", path, res.StatusCode, res.Body)
			}
			if first == "" {
				first = res.Body
			}
			if res.Body != first {
				t.Errorf("%s with %v: another document", path, header)
			}
		}
	}
	if r := s.Do(t, request("GET", "https://as.test/.well-known/oauth-authorization-server", "")); r.StatusCode != 404 {
		t.Errorf("metadata of another issuer: %d", r.StatusCode)
	}
	// The whole flow works below the path.
	if tok := s.Tokens(t, "alice", s.PUB); tok.Refresh == "" {
		t.Error("no refresh handle")
	}
}

// A02: the metadata lists what works, all of it answers, and nothing else.
func TestMetadataListsWhatWorks_A02(t *testing.T) {
	s := authtest.New(t)
	m := s.Get(t, "/.well-known/oauth-authorization-server").JSON(t)
	for name, want := range map[string]any{
		"issuer": authtest.Issuer, "authorization_response_iss_parameter_supported": true, "client_id_metadata_document_supported": false, "request_uri_parameter_supported": false,
	} {
		if m[name] != want {
			t.Errorf("%s = %v, want %v", name, m[name], want)
		}
	}
	for name, want := range map[string][]string{
		"response_types_supported": {"code"}, "code_challenge_methods_supported": {"S256"}, "grant_types_supported": {"authorization_code", "refresh_token", "client_credentials"},
		"token_endpoint_auth_methods_supported":            {"none", "client_secret_post", "client_secret_basic", "private_key_jwt"},
		"token_endpoint_auth_signing_alg_values_supported": {"RS256", "PS256", "ES256", "EdDSA"}, "scopes_supported": {"mcp:read", "mcp:write", "admin", "openid", "profile", "email"},
	} {
		var got []string
		list, _ := m[name].([]any)
		for _, v := range list {
			got = append(got, v.(string))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
	for name, v := range m {
		if target, ok := v.(string); ok && strings.HasPrefix(target, "http") && name != "issuer" {
			u, err := url.Parse(target)
			if err != nil || u.Scheme+"://"+u.Host != authtest.Issuer {
				t.Errorf("%s = %s: not on the issuer", name, target)
			}
			if r := s.Get(t, u.Path); r.StatusCode == http.StatusNotFound {
				t.Errorf("%s = %s: 404", name, target)
			}
		}
		if strings.Contains(name, "_alg_") && slices.Contains(v.([]any), any("none")) {
			t.Errorf("%s lists none", name)
		}
	}
}

// A04: only public members of keys are published, and the cache life is told.
func TestKeySetHasPublicKeysOnly_A04(t *testing.T) {
	s := authtest.New(t)
	r := s.Get(t, "/.well-known/jwks.json")
	keys, _ := r.JSON(t)["keys"].([]any)
	if len(keys) == 0 || !strings.HasPrefix(r.Header.Get("Cache-Control"), "public, max-age=") {
		t.Fatalf("%d %s %s", r.StatusCode, r.Header.Get("Cache-Control"), r.Body)
	}
	// A copy may be used for one period of the keys, a day, and no longer.
	var fresh, stale int
	if _, err := fmt.Sscanf(r.Header.Get("Cache-Control"), "public, max-age=%d, stale-if-error=%d", &fresh, &stale); err != nil || fresh+stale != 24*60*60 {
		t.Errorf("Cache-Control %q, want a max-age and a stale-if-error of one day together", r.Header.Get("Cache-Control"))
	}
	for _, k := range keys {
		for name, v := range k.(map[string]any) {
			if !slices.Contains([]string{"kty", "crv", "x", "y", "kid", "use", "alg"}, name) {
				t.Errorf("member %s is published", name)
			}
			if name == "alg" && v != "ES256" {
				t.Errorf("alg %v", v)
			}
		}
	}
	if r := s.Post(t, "/.well-known/jwks.json", formType, ""); r.StatusCode != 405 || r.Header.Get("Allow") != "GET, HEAD, OPTIONS" {
		t.Errorf("POST: %d, Allow %q", r.StatusCode, r.Header.Get("Allow"))
	}
	for _, etag := range []string{r.Header.Get("ETag"), "W/" + r.Header.Get("ETag"), `"x", ` + r.Header.Get("ETag"), "*"} {
		if r := s.Do(t, request("GET", authtest.Issuer+"/.well-known/jwks.json", "", "If-None-Match", etag)); r.StatusCode != 304 || r.Body != "" {
			t.Errorf("If-None-Match %s: %d", etag, r.StatusCode)
		}
	}
}

// A06: programs of every origin may call the endpoints for programs, and none may
// call the pages.
func TestScriptsOfAnyOriginMayCallTheAPIAndNoPage_A06(t *testing.T) {
	s := authtest.New(t)
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/openid-configuration", "/.well-known/jwks.json", "/token", "/register", "/revoke", "/introspect", "/userinfo", "/oauth/token"} {
		for _, method := range []string{"GET", "POST", "OPTIONS"} {
			r := s.Do(t, request(method, authtest.Issuer+path, "", "Origin", "https://x.test", "Access-Control-Request-Method", "POST"))
			h := r.Header
			if h.Get("Access-Control-Allow-Origin") != "*" || h.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%s %s: origin %q, credentials %q", method, path, h.Get("Access-Control-Allow-Origin"), h.Get("Access-Control-Allow-Credentials"))
			}
			if h.Get("Access-Control-Expose-Headers") != "WWW-Authenticate, Retry-After" {
				t.Errorf("%s %s: exposed %q", method, path, h.Get("Access-Control-Expose-Headers"))
			}
			if method == "OPTIONS" && r.StatusCode != http.StatusNoContent {
				t.Errorf("preflight of %s: %d", path, r.StatusCode)
			}
			for _, name := range []string{"authorization", "content-type", "mcp-protocol-version", "traceparent", "tracestate", "baggage", "sentry-trace", "x-requested-with"} {
				if method == "OPTIONS" && !strings.Contains(h.Get("Access-Control-Allow-Headers"), name) {
					t.Errorf("%s %s: %s is not allowed", method, path, name)
				}
			}
		}
	}
	for _, path := range []string{"/authorize", "/login", "/consent", "/logout", "/oauth/authorize", "/oauth/login"} {
		for _, method := range []string{"GET", "POST", "OPTIONS"} {
			r := s.Do(t, request(method, authtest.Issuer+path, "", "Origin", "https://x.test", "Access-Control-Request-Method", "POST"))
			if r.Header.Get("Access-Control-Allow-Origin") != "" || method == "OPTIONS" && r.StatusCode != 405 {
				t.Errorf("%s %s: %d, origin %q", method, path, r.StatusCode, r.Header.Get("Access-Control-Allow-Origin"))
			}
		}
	}
}

// Clients in browsers probe for discovery documents. They must see that one is absent, so
// the preflight of its path is answered.
func TestPreflightOfAnAbsentDiscoveryPath(t *testing.T) {
	s := authtest.New(t)
	for _, path := range []string{
		"/.well-known/oauth-authorization-server/mcp", "/.well-known/openid-configuration/mcp", "/mcp/.well-known/openid-configuration", "/.well-known/oauth-protected-resource/x", "/.well-known/x",
	} {
		r := s.Do(t, request("OPTIONS", authtest.Issuer+path, "", "Origin", "https://x.test", "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "mcp-protocol-version,traceparent"))
		if allowed := r.Header.Get("Access-Control-Allow-Headers"); r.StatusCode != 204 || r.Header.Get("Access-Control-Allow-Origin") != "*" || !strings.Contains(allowed, "mcp-protocol-version") || !strings.Contains(allowed, "traceparent") {
			t.Errorf("preflight of %s: %d %v", path, r.StatusCode, r.Header)
		}
		r = s.Do(t, request("GET", authtest.Issuer+path, "", "Origin", "https://x.test", "MCP-Protocol-Version", "2025-11-25", "Accept", "application/json"))
		if r.StatusCode != 404 || r.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: %d %v", path, r.StatusCode, r.Header)
		}
	}
	if r := s.Do(t, request("OPTIONS", authtest.Issuer+"/nothing", "", "Origin", "https://x.test")); r.StatusCode != 404 {
		t.Errorf("preflight of another absent path: %d, want 404", r.StatusCode)
	}
}

// K04: headers that claim another host or scheme change no answer.
func TestForgedHostChangesNothing_K04(t *testing.T) {
	s := authtest.New(t)
	authorize := strings.TrimPrefix(s.AuthorizeURL(s.PRE, set("scope", "none:such")), authtest.Issuer)
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/openid-configuration", authorize, "/livez", "/nothing"} {
		r := request("GET", authtest.Issuer+path, "", forged...)
		r.Host = "evil.test"
		got, want := s.Do(t, r), s.Get(t, path)
		if got.StatusCode != want.StatusCode || got.Body != want.Body || got.Header.Get("Location") != want.Header.Get("Location") {
			t.Errorf("%s: %d %q %s, want %d %q %s", path, got.StatusCode, got.Header.Get("Location"), got.Body, want.StatusCode, want.Header.Get("Location"), want.Body)
		}
	}
	b := s.NewBrowser()
	r := request("GET", s.AuthorizeURL(s.PUB), "", forged...)
	r.Host = "evil.test"
	if to := s.Do(t, r).Header.Get("Location"); !strings.HasPrefix(to, "/login?state=") {
		t.Errorf("redirect to %s", to)
	}
	b.Header.Set("X-Forwarded-Host", "evil.test")
	if b.Code(t, "alice", s.PUB) == "" {
		t.Error("no code")
	}
}

// Rows 1 and 2: both documents, and a head request.
func TestMetadataForMCPClients_Row01_Row02(t *testing.T) {
	s := authtest.New(t)
	a, o := s.Get(t, "/.well-known/oauth-authorization-server"), s.Get(t, "/.well-known/openid-configuration")
	if a.Body != o.Body {
		t.Error("the two documents differ")
	}
	m := o.JSON(t)
	for _, name := range []string{"jwks_uri", "subject_types_supported", "id_token_signing_alg_values_supported", "revocation_endpoint", "introspection_endpoint", "registration_endpoint", "userinfo_endpoint", "end_session_endpoint", "claims_supported"} {
		if m[name] == nil {
			t.Errorf("%s is missing", name)
		}
	}
	if a.Header.Get("Cache-Control") != "public, max-age=3600" {
		t.Errorf("Cache-Control %s", a.Header.Get("Cache-Control"))
	}
	if r := s.Do(t, request("HEAD", authtest.Issuer+"/.well-known/openid-configuration", "")); r.StatusCode != 200 || r.Header.Get("ETag") != a.Header.Get("ETag") {
		t.Errorf("HEAD: %d, ETag %s", r.StatusCode, r.Header.Get("ETag"))
	}
	if r := s.Do(t, request("GET", authtest.Issuer+"/.well-known/openid-configuration", "", "If-None-Match", a.Header.Get("ETag"))); r.StatusCode != 304 {
		t.Errorf("If-None-Match: %d", r.StatusCode)
	}
}

func TestProbesSayWhetherToSendRequests(t *testing.T) {
	s := authtest.New(t)
	status := func(path string) int {
		t.Helper()
		return s.Get(t, path).StatusCode
	}
	for _, path := range []string{"/livez", "/readyz", "/readyz?require=store"} {
		if got := status(path); got != 200 {
			t.Errorf("%s: %d", path, got)
		}
	}
	s.StopStore(t)
	if r := s.Get(t, "/readyz"); r.StatusCode != 200 || r.JSON(t)["store"] != "unavailable" {
		t.Errorf("/readyz without store: %d %s", r.StatusCode, r.Body)
	}
	if got := status("/readyz?require=store"); got != 503 {
		t.Errorf("/readyz?require=store without store: %d", got)
	}
	if got := status("/livez"); got != 200 {
		t.Errorf("/livez without store: %d", got)
	}
	s.Reopen(t)
	s.Drain()
	if got := status("/readyz"); got != 503 {
		t.Errorf("/readyz while stopping: %d", got)
	}
}

// An unknown path is 404 for every method and caller, a method that is not allowed 405,
// and neither is a redirect.
func TestUnknownPathIsNotFoundAndNoRedirect(t *testing.T) {
	s := authtest.New(t)
	for _, path := range []string{"/authorize/", "/oauth/", "/.well-known/oauth-authorization-server/", "/files/upload", "/%2e%2e/token", "//token", "/oauth/consent"} {
		for _, method := range []string{"GET", "POST", "DELETE", "HEAD", "PROPFIND", "FOO"} {
			if r := s.Do(t, request(method, authtest.Issuer+path, "")); r.StatusCode != 404 {
				t.Errorf("%s %s: %d", method, path, r.StatusCode)
			}
		}
		if r := s.Do(t, request("GET", authtest.Issuer+path, "", "Accept", "text/html,*/*")); r.StatusCode != 404 || !strings.Contains(r.Body, "<h1>") {
			t.Errorf("%s in a browser: %d %s", path, r.StatusCode, r.Body)
		}
	}
	for path, allow := range map[string]string{"/login": "GET, HEAD, POST", "/oauth/login": "GET, HEAD, POST", "/consent": "GET, HEAD, POST", "/token": "POST, OPTIONS"} {
		for _, method := range []string{"PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "FOO"} {
			r := s.Do(t, request(method, authtest.Issuer+path, ""))
			if r.StatusCode != 405 || r.Header.Get("Allow") != allow {
				t.Errorf("%s %s: %d, Allow %q, want %q", method, path, r.StatusCode, r.Header.Get("Allow"), allow)
			}
			if path == "/token" && (r.Error() == "" || r.Header.Get("Access-Control-Allow-Origin") != "*") {
				t.Errorf("%s %s: %v %s", method, path, r.Header, r.Body)
			}
		}
	}
	if r := s.Get(t, "/token"); r.StatusCode != 405 || r.Error() == "" {
		t.Errorf("GET /token: %d %s", r.StatusCode, r.Body)
	}
	if r := s.Get(t, "/favicon.ico"); r.StatusCode != 204 {
		t.Errorf("/favicon.ico: %d", r.StatusCode)
	}
}
