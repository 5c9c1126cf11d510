package handlers_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"signet/internal/test/authtest"
)

// wantLogin demands that an authorization request was good.
func wantLogin(t *testing.T, r *authtest.Response) {
	t.Helper()
	if r.StatusCode != 200 || !strings.Contains(r.Body, `name="password"`) {
		t.Errorf("got %d %q, want the login page\n%s", r.StatusCode, r.Header.Get("Location"), text(r))
	}
}

// B01: nothing is redirected for a client that does not exist.
func TestUnknownClientIsNeverRedirected_B01(t *testing.T) {
	s := authtest.New(t)
	flipped := []byte(s.PUB.ID)
	flipped[len(flipped)/2] ^= 1
	for name, id := range map[string]string{
		"unknown": "nope", "empty": "", "long": strings.Repeat("a", 8<<10), "flipped": string(flipped), "cut": s.PUB.ID[:len(s.PUB.ID)-1], "extended": s.PUB.ID + "A", "script": "<script>",
	} {
		wantPage(t, s.NewBrowser().Get(t, s.AuthorizeURL(s.PUB, set("client_id", id, "redirect_uri", "https://evil.test"))), 400)
		if t.Failed() {
			t.Fatal(name)
		}
	}
	other := authtest.New(t)
	wantPage(t, other.NewBrowser().Get(t, other.AuthorizeURL(s.PUB)), 400)
}

// B02: an https redirect URI is the registered string or nothing.
func TestRedirectURIMustMatchExactly_B02(t *testing.T) {
	s := authtest.New(t)
	for _, uri := range []string{
		"https://app.test/cb/", "https://app.test/CB", "https://app.test/cb?x=1", "https://app.test/cb#", "https://app.test:443/cb", "https://app.test/x/../cb", "https://app.test/%63b", "https://app.test/cb%00",
		"https://app.test.evil.test/cb", "https://app.test@evil.test/cb", "https://evil.test/?https://app.test/cb", "HTTPS://APP.TEST/cb", "//app.test/cb", `https:\\app.test\cb`, "https://аpp.test/cb", "http://app.test/cb",
		"https://app.test/cb ", "https://app.test", "javascript:alert(1)", "https://claude.ai.evil.example/x", "https://app.test/cb\r\nX: y",
	} {
		r := s.NewBrowser().Get(t, s.AuthorizeURL(s.PUB, set("redirect_uri", uri)))
		wantPage(t, r, 400)
		if t.Failed() {
			t.Fatalf("redirect_uri %q", uri)
		}
	}
	wantLogin(t, s.NewBrowser().Get(t, s.AuthorizeURL(s.PUB)))
	withQuery := s.Register(t, "https://app.test/cb?x=1")
	wantPage(t, s.NewBrowser().Get(t, s.AuthorizeURL(withQuery, set("redirect_uri", "https://app.test/cb"))), 400)
}

// B03: of a loopback redirect URI the port is free and nothing else.
func TestLoopbackRedirectMayUseAnyPort_B03(t *testing.T) {
	s := authtest.New(t)
	for _, uri := range []string{"http://127.0.0.1:1/cb", "http://127.0.0.1:51004/cb", "http://127.0.0.1:65535/cb", "http://127.0.0.1/cb"} {
		wantLogin(t, s.NewBrowser().Get(t, s.AuthorizeURL(s.NAT, set("redirect_uri", uri))))
	}
	for _, uri := range []string{
		"http://localhost:8080/cb", "http://127.0.0.2:8080/cb", "http://[::1]:8080/cb", "https://127.0.0.1:8080/cb", "http://127.0.0.1:8080/cb/", "http://127.0.0.1:8080/cb?x", "http://127.0.0.1:0/cb", "http://127.0.0.1:65536/cb",
		"http://127.0.0.1:80@evil.test/cb", "http://127.0.0.1.evil.test:8080/cb", "http://127.1:8080/cb", "http://2130706433:8080/cb", "http://[::ffff:127.0.0.1]:8080/cb", "http://localhost:80@evil.example/cb",
	} {
		wantPage(t, s.NewBrowser().Get(t, s.AuthorizeURL(s.NAT, set("redirect_uri", uri))), 400)
		if t.Failed() {
			t.Fatalf("redirect_uri %q", uri)
		}
	}
}

// B04: the page warns of a client on localhost and shows where it listens.
func TestConsentWarnsOfLoopbackRedirects_B04(t *testing.T) {
	s := authtest.New(t)
	page := s.NewBrowser().SignIn(t, "alice", s.LOC, set("redirect_uri", "http://localhost:50001/cb"))
	if !strings.Contains(page.Body, "localhost:50001") || !strings.Contains(page.Body, `class="warning"`) {
		t.Errorf("no warning, or not the port: %s", text(page))
	}
	if page := s.NewBrowser().SignIn(t, "alice", s.PUB); strings.Contains(page.Body, `class="warning"`) {
		t.Errorf("a warning for an https client: %s", text(page))
	}
}

// B05: the redirect URI may be left out if there is only one.
func TestRedirectURIMayBeOmittedIfThereIsOne_B05(t *testing.T) {
	s := authtest.New(t)
	r := s.NewBrowser().SignIn(t, "alice", s.PUB, del("redirect_uri"))
	if !strings.Contains(r.Body, "app.test") {
		t.Errorf("not the registered one: %s", text(r))
	}
	two := s.Register(t, "https://app.test/cb", "https://app.test/cb2")
	wantPage(t, s.NewBrowser().Get(t, s.AuthorizeURL(two, del("redirect_uri"))), 400)
	wantPage(t, s.NewBrowser().Get(t, s.AuthorizeURL(two, set("redirect_uri", ""))), 400)
}

// B06: a client that registers itself must not get an open redirector. Clients that the
// operator configured, or on the user's machine, are told.
func TestErrorsMakeNoOpenRedirector_B06(t *testing.T) {
	s := authtest.New(t)
	cases := []struct {
		name, code string
		edit       edit
	}{
		{"bad scope", "invalid_scope", set("scope", "none:such")},
		{"bad response type", "unsupported_response_type", set("response_type", "token")},
		{"prompt none", "login_required", set("prompt", "none")},
		{"no challenge", "invalid_request", del("code_challenge")},
		{"bad resource", "invalid_target", set("resource", "https://other.test/")},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := s.NewBrowser().Get(t, s.AuthorizeURL(s.PUB, c.edit))
			wantPage(t, r, 400)
			if !strings.Contains(r.Body, "app.test") || !strings.Contains(r.Body, c.code) {
				t.Errorf("the page does not name host and error: %s", text(r))
			}
			wantRedirect(t, s.NewBrowser().Get(t, s.AuthorizeURL(s.PRE, c.edit)), s.PRE.RedirectURI, c.code, "S")
			wantRedirect(t, s.NewBrowser().Get(t, s.AuthorizeURL(s.NAT, c.edit)), s.NAT.RedirectURI, c.code, "S")
			wantRedirect(t, s.NewBrowser().Get(t, s.AuthorizeURL(s.LOC, c.edit)), s.LOC.RedirectURI, c.code, "S")
		})
	}
	b := s.NewBrowser()
	page := b.SignIn(t, "alice", s.PUB)
	wantRedirect(t, b.Submit(t, page, set("decision", "deny")), s.PUB.RedirectURI, "access_denied", "S")
}

// B08, B09: every client sends an S256 challenge; B12: request objects are not
// looked at; B13: nothing but a code in the query; B17: scopes; B18: resources.
func TestAuthorizeRefusesWrongRequests_B08_B09_B12_B13(t *testing.T) {
	s := authtest.New(t)
	canary := canaryServer(t)
	cases := []struct {
		name, code string
		edit       edit
	}{
		{"B08 no challenge", "invalid_request", del("code_challenge")},
		{"B08 empty challenge", "invalid_request", set("code_challenge", "")},
		{"B08 neither", "invalid_request", func(v url.Values) { v.Del("code_challenge"); v.Del("code_challenge_method") }},
		{"B08 short challenge", "invalid_request", set("code_challenge", "abc")},
		{"B09 plain", "invalid_request", set("code_challenge_method", "plain")},
		{"B09 absent", "invalid_request", del("code_challenge_method")},
		{"B09 lower case", "invalid_request", set("code_challenge_method", "s256")},
		{"B09 S512", "invalid_request", set("code_challenge_method", "S512")},
		{"B09 none", "invalid_request", set("code_challenge_method", "none")},
		{"B12 request", "request_not_supported", set("request", "e30.e30.")},
		{"B12 request_uri", "request_uri_not_supported", set("request_uri", canary.url)},
		{"B13 token", "unsupported_response_type", set("response_type", "token")},
		{"B13 id_token", "unsupported_response_type", set("response_type", "id_token")},
		{"B13 hybrid", "unsupported_response_type", set("response_type", "code token")},
		{"B13 none", "unsupported_response_type", set("response_type", "none")},
		{"B13 empty", "invalid_request", set("response_type", "")},
		{"B13 missing", "invalid_request", del("response_type")},
		{"B13 fragment", "invalid_request", set("response_mode", "fragment")},
		{"B13 form_post", "invalid_request", set("response_mode", "form_post")},
		{"B13 web_message", "invalid_request", set("response_mode", "web_message")},
		{"B17 quote", "invalid_scope", set("scope", `a"b`)},
		{"B17 backslash", "invalid_scope", set("scope", `a\b`)},
		{"B17 line feed", "invalid_scope", set("scope", "mcp:read\nmcp:write")},
		{"B17 many", "invalid_scope", set("scope", strings.Repeat("a ", 3)+manyScopes(200))},
		{"B17 long", "invalid_scope", set("scope", strings.Repeat("a", 5<<10))},
		{"B17 star", "invalid_scope", set("scope", "*")},
		{"B17 all", "invalid_scope", set("scope", "all")},
		{"B17 pattern", "invalid_scope", set("scope", "mcp:*")},
		{"B18 unknown", "invalid_target", set("resource", "https://mcp.test/c")},
		{"B18 prefix", "invalid_target", set("resource", "https://mcp.test/a/b")},
		{"B18 slash", "invalid_target", set("resource", "https://mcp.test/a/")},
		{"B18 relative", "invalid_target", set("resource", "/a")},
		{"B18 fragment", "invalid_target", set("resource", "https://mcp.test/a#frag")},
		{"B18 http", "invalid_target", set("resource", "http://mcp.test/a")},
		{"B18 path case", "invalid_target", set("resource", "https://mcp.test/A")},
		{"B18 two", "invalid_target", add("resource", "https://mcp.test/b")},
		{"B18 the same twice", "invalid_target", add("resource", "https://mcp.test/a")},
		{"prompt of two minds", "invalid_request", set("prompt", "none login")},
		{"unknown prompt", "invalid_request", set("prompt", "dance")},
		{"max_age", "invalid_request", set("max_age", "-1")},
		{"long nonce", "invalid_request", set("nonce", strings.Repeat("n", 513))},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			wantRedirect(t, s.NewBrowser().Get(t, s.AuthorizeURL(s.PRE, c.edit)), s.PRE.RedirectURI, c.code, "S")
			wantRedirect(t, s.NewBrowser().Get(t, s.AuthorizeURL(s.CONF, c.edit)), s.CONF.RedirectURI, c.code, "S")
			wantRedirect(t, s.NewBrowser().Get(t, s.AuthorizeURL(s.NAT, c.edit)), s.NAT.RedirectURI, c.code, "S")
			wantPage(t, s.NewBrowser().Get(t, s.AuthorizeURL(s.PUB, c.edit)), 400)
		})
	}
	if n := canary.hits.Load(); n != 0 {
		t.Errorf("%d connections to request_uri", n)
	}
}

type canaryListener struct {
	url  string
	hits atomic.Int64
}

func canaryServer(t *testing.T) *canaryListener {
	c := &canaryListener{}
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { c.hits.Add(1) }))
	t.Cleanup(srv.Close)
	c.url = srv.URL
	return c
}

func manyScopes(n int) string {
	var b strings.Builder
	for range n {
		b.WriteString("s" + strings.Repeat("x", b.Len()%7) + string(rune('a'+b.Len()%26)) + " ")
	}
	return b.String()
}

// B11: parameters that mean something occur once; others are ignored.
func TestDuplicateParametersAreRefused_B11(t *testing.T) {
	s := authtest.New(t)
	for _, name := range []string{"client_id", "redirect_uri"} {
		for _, value := range []string{"", "x", s.PRE.ID, s.PRE.RedirectURI} {
			wantPage(t, s.NewBrowser().Get(t, s.AuthorizeURL(s.PRE, add(name, value))), 400)
		}
	}
	for _, name := range []string{"response_type", "scope", "code_challenge", "code_challenge_method"} {
		for _, value := range []string{"", "other"} {
			wantRedirect(t, s.NewBrowser().Get(t, s.AuthorizeURL(s.PRE, add(name, value))), s.PRE.RedirectURI, "invalid_request", "S")
		}
		same := func(v url.Values) { v.Add(name, v.Get(name)) }
		wantRedirect(t, s.NewBrowser().Get(t, s.AuthorizeURL(s.PRE, same)), s.PRE.RedirectURI, "invalid_request", "S")
	}
	wantRedirect(t, s.NewBrowser().Get(t, s.AuthorizeURL(s.PRE, add("state", "T"))), s.PRE.RedirectURI, "invalid_request", "")
	wantLogin(t, s.NewBrowser().Get(t, s.AuthorizeURL(s.PRE, add("foo", "1"), add("foo", "2"), add("Client_ID", "evil"), add("STATE", "x"))))
	// A request that cannot be read is not redirected either.
	for _, tail := range []string{"&x=%zz", ";a=b", "&x=%ff"} {
		wantPage(t, s.NewBrowser().Get(t, s.AuthorizeURL(s.PRE)+tail), 400)
	}
}

// B14, row 12: state comes back byte for byte, once, whatever is in it.
func TestStateComesBackUnchanged_B14(t *testing.T) {
	s := authtest.New(t)
	mixed := strings.Repeat(`%+&"'<>😀\`, 64) + "é="
	for _, c := range []authtest.Client{s.PUB, s.PRE, s.LOC} {
		for _, state := range []string{`a b&c=%#"+`, mixed, strings.Repeat("&", 1024), "\x00\n", "S"} {
			b := s.NewBrowser()
			page := b.SignIn(t, "alice", c, set("state", state))
			got := b.Submit(t, page, set("decision", "approve")).Sent()["state"]
			if len(got) != 1 || got[0] != state {
				t.Errorf("state %.40q came back as %.40q", state, got)
			}
		}
	}
	r := s.NewBrowser().Get(t, s.AuthorizeURL(s.PRE, set("state", strings.Repeat("s", 8<<10))))
	wantRedirect(t, r, s.PRE.RedirectURI, "invalid_request", strings.Repeat("s", 8<<10))
	// A state is echoed whole or refused at once, never lost on the way.
	long := s.Register(t, "http://localhost:1455/"+strings.Repeat("p", 700))
	for size := 1 << 10; size <= 5<<10; size += 256 {
		state := strings.Repeat("s", size)
		b := s.NewBrowser()
		page := b.SignIn(t, "alice", long, set("state", state))
		if page.StatusCode == http.StatusSeeOther {
			wantRedirect(t, page, long.RedirectURI, "invalid_request", state)
		} else if got := b.Submit(t, page, set("decision", "approve")).Sent().Get("state"); got != state {
			t.Errorf("a state of %d bytes came back with %d", size, len(got))
		}
	}
	for _, none := range []edit{del("state"), set("state", "")} {
		b := s.NewBrowser()
		page := b.SignIn(t, "alice", s.PUB, none)
		if q := b.Submit(t, page, set("decision", "approve")).Sent(); q.Has("state") || !q.Has("code") {
			t.Errorf("no state was sent, got %v", q["state"])
		}
	}
}

// B15: every response of the authorization endpoint names the issuer once.
func TestEveryAuthorizationResponseNamesTheIssuer_B15(t *testing.T) {
	s := authtest.New(t)
	b := s.NewBrowser()
	page := b.SignIn(t, "alice", s.PUB)
	r := b.Submit(t, page, set("decision", "approve"))
	if got := r.Sent()["iss"]; len(got) != 1 || got[0] != authtest.Issuer {
		t.Errorf("iss = %q", got)
	}
	withQuery := s.Register(t, "https://app.test/cb?x=1&y")
	page = b.SignIn(t, "alice", withQuery)
	to := b.Submit(t, page, set("decision", "approve")).Header.Get("Location")
	if !strings.HasPrefix(to, "https://app.test/cb?x=1&y&code=") {
		t.Errorf("a redirect URI with a query became %s", to)
	}
}

// B17: scopes that are unknown, or not allowed to the client or to the user, are left
// out, and the answer reports the rest.
func TestGrantedScopeIsWhatClientAndUserMay_B17(t *testing.T) {
	s := authtest.New(t)
	cases := []struct{ user, asked, want string }{
		{"alice", "mcp:read", "mcp:read"},
		{"alice", "mcp:write mcp:read", "mcp:write mcp:read"},
		{"alice", "mcp:read none:such *", "mcp:read"},
		{"alice", "mcp:read admin", "mcp:read"},
		{"alice", "mcp:read mcp:read", "mcp:read"},
		{"alice", "mcp:read openid profile email offline_access", "mcp:read openid profile email offline_access"},
		{"bob", "mcp:read mcp:write admin", "mcp:read"},
		{"alice", "", "mcp:read"},
	}
	for _, c := range cases {
		if got := s.Tokens(t, c.user, s.PRE, set("scope", c.asked)).Scope; got != c.want {
			t.Errorf("%s, %q: granted %q, want %q", c.user, c.asked, got, c.want)
		}
	}
	// A request without a scope gets the scopes that the client registered, as far as
	// the user may grant them.
	for user, want := range map[string]string{"alice": "mcp:read mcp:write", "bob": "mcp:read"} {
		if got := s.Tokens(t, user, s.PUB, del("scope")).Scope; got != want {
			t.Errorf("%s, no scope: granted %q, want %q", user, got, want)
		}
	}
	b := s.NewBrowser()
	wantRedirect(t, b.SignIn(t, "bob", s.PUB, set("scope", "admin")), s.PUB.RedirectURI, "invalid_scope", "S")
	// With another account it works: the session of a user who may not grant the scopes
	// is no dead end.
	wantLogin(t, b.Get(t, s.AuthorizeURL(s.PUB, set("scope", "mcp:write"))))
}

// B18: the token is for the requested resource, and for nothing else.
func TestGrantIsForOneConfiguredResource_B18(t *testing.T) {
	s := authtest.New(t, several)
	for asked, want := range map[string]string{authtest.ResourceA: authtest.ResourceA, authtest.ResourceB: authtest.ResourceB, "HTTPS://MCP.TEST/a": authtest.ResourceA} {
		if got := audience(t, s, s.Tokens(t, "alice", s.PUB, set("resource", asked)).Access); got != want {
			t.Errorf("resource %s: aud %s", asked, got)
		}
	}
	wantRedirect(t, s.NewBrowser().Get(t, s.AuthorizeURL(s.PRE, del("resource"))), s.PRE.RedirectURI, "invalid_target", "S")
	one := authtest.New(t)
	if got := audience(t, one, one.Tokens(t, "alice", one.PUB, del("resource")).Access); got != authtest.ResourceA {
		t.Errorf("default resource: aud %s", got)
	}
}

// Clients add a slash to a resource without a path, and take one away. The audience is the
// configured spelling, also for a grant from before it was changed.
func TestResourceWithoutAPathHasTwoSpellings_B18(t *testing.T) {
	for configured, other := range map[string]string{"https://mcp.test": "https://mcp.test/", "https://mcp.test/": "https://mcp.test"} {
		s := authtest.New(t, func(c *authtest.Config) { c.Resources = []string{configured} })
		for _, asked := range []string{configured, other, "HTTPS://MCP.TEST", "https://MCP.test/"} {
			for _, then := range []edit{set("resource", configured), set("resource", other), del("resource")} {
				tok := s.Redeem(t, s.PUB, s.Code(t, "alice", s.PUB, set("resource", asked)), then).Tokens(t)
				next := s.Refresh(t, s.PUB, tok.Refresh, then).Tokens(t)
				for _, access := range []string{tok.Access, next.Access} {
					if got := audience(t, s, access); got != configured {
						t.Errorf("%s, asked for %s: aud %s", configured, asked, got)
					}
				}
			}
		}
		for _, wrong := range []string{"https://mcp.test//", "https://mcp.test/a", "http://mcp.test/", "https://mcp.test:443/", "https://other.test"} {
			wantRedirect(t, s.NewBrowser().Get(t, s.AuthorizeURL(s.PRE, set("resource", wrong))), s.PRE.RedirectURI, "invalid_target", "S")
			tok := s.Tokens(t, "alice", s.PUB, set("resource", other))
			wantError(t, s.Refresh(t, s.PUB, tok.Refresh, set("resource", wrong)), 400, "invalid_target")
		}
	}
}

// B20: text in a request comes back as text or not at all.
func TestForeignTextIsEscapedOnPages_B20(t *testing.T) {
	s := authtest.New(t)
	for _, payload := range []string{`"><script>alert(1)</script>`, "javascript:alert(1)", "{{.}}", "</title><script>", `' onmouseover='x`} {
		for _, name := range []string{"client_id", "redirect_uri", "scope", "state", "response_type", "code_challenge", "code_challenge_method", "resource", "prompt", "nonce", "max_age", "unknown"} {
			r := s.NewBrowser().Get(t, s.AuthorizeURL(s.PUB, set(name, payload)))
			for _, bad := range []string{"<script>", "onmouseover='x", `href="javascript:`} {
				if strings.Contains(r.Body, bad) {
					t.Errorf("%s=%s: %s", name, payload, text(r))
				}
			}
		}
		for _, path := range []string{"/login?state=", "/consent?state=", "/nothing?x="} {
			r := s.Do(t, request("GET", authtest.Issuer+path+url.QueryEscape(payload), "", "Accept", "text/html"))
			if strings.Contains(r.Body, "<script>") {
				t.Errorf("%s: %s", path, text(r))
			}
		}
	}
}

// The request may come in the body of a POST, from anywhere.
func TestAuthorizationRequestMayBePosted(t *testing.T) {
	s := authtest.New(t)
	u, err := url.Parse(s.AuthorizeURL(s.PUB))
	if err != nil {
		t.Fatal(err)
	}
	b := s.NewBrowser()
	b.Header = http.Header{"Sec-Fetch-Site": {"cross-site"}, "Origin": {"https://app.test"}}
	wantLogin(t, b.Post(t, "/authorize", u.Query()))
	// The query does not speak for the body.
	wantPage(t, b.Post(t, u.String(), url.Values{}), 400)

	// The browser sends its cookies only with the GET that follows. So the session counts, and what
	// was begun before goes on.
	b = s.NewBrowser()
	open := b.SignIn(t, "alice", s.PUB)
	post := func(path string, c authtest.Client, edits ...edit) *authtest.Response {
		t.Helper()
		u, err := url.Parse(s.AuthorizeURL(c, edits...))
		if err != nil {
			t.Fatal(err)
		}
		return s.Do(t, request("POST", authtest.Issuer+path, u.RawQuery, "Content-Type", formType, "Sec-Fetch-Site", "cross-site", "Origin", "https://app.test"))
	}
	state := strings.Repeat("&", 2<<10)
	for _, path := range []string{"/authorize", "/oauth/authorize"} {
		r := post(path, s.PRE, set("state", state))
		if r.StatusCode != http.StatusSeeOther || !strings.HasPrefix(r.Header.Get("Location"), "/authorize?") || len(r.Cookies()) > 0 {
			t.Fatalf("%s: %d to %.60q with %d cookies", path, r.StatusCode, r.Header.Get("Location"), len(r.Cookies()))
		}
		page := b.Get(t, r.Header.Get("Location"))
		if !strings.Contains(page.Body, `value="approve"`) || !strings.Contains(page.Body, "alice") {
			t.Fatalf("%s: the session does not count: %d %s", path, page.StatusCode, text(page))
		}
		if got := b.Submit(t, page, set("decision", "deny")).Sent().Get("state"); got != state {
			t.Errorf("%s: the state of %d bytes came back with %d", path, len(state), len(got))
		}
	}
	if r := b.Submit(t, open, set("decision", "approve")); r.Sent().Get("code") == "" {
		t.Errorf("the consent page that was open: %d %s", r.StatusCode, text(r))
	}
	// Errors are those of a GET.
	wantPage(t, post("/authorize", s.PRE, set("client_id", "nope")), 400)
	wantPage(t, post("/authorize", s.PUB, set("scope", "none:such")), 400)
	wantRedirect(t, post("/authorize", s.PRE, set("scope", "none:such")), s.PRE.RedirectURI, "invalid_scope", "S")
	wantRedirect(t, post("/authorize", s.PRE, set("more", strings.Repeat("x", 20<<10))), s.PRE.RedirectURI, "invalid_request", "S")
}

// max_age=0 asks for a login as prompt=login does, however recent the last login is, and is
// satisfied by that login.
func TestMaxAgeZeroAsksForALogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // where no second passes by itself
		s := authtest.New(t)
		b := s.NewBrowser()
		s.Redeem(t, s.PRE, b.Code(t, "alice", s.PRE)).Tokens(t)
		page := b.Get(t, s.AuthorizeURL(s.PRE, set("max_age", "0")))
		wantLogin(t, page)
		if r := b.Submit(t, page, aliceLogin); r.Sent().Get("code") == "" {
			t.Errorf("no code after the login: %d %s", r.StatusCode, text(r))
		}
		wantRedirect(t, b.Get(t, s.AuthorizeURL(s.PRE, set("max_age", "0", "prompt", "none"))), s.PRE.RedirectURI, "login_required", "S")
		if r := b.Get(t, s.AuthorizeURL(s.PRE, set("max_age", "1", "prompt", "none"))); r.Sent().Get("code") == "" {
			t.Errorf("max_age=1: %d %s", r.StatusCode, text(r))
		}
	})
}

// prompt and max_age decide whether a live session is enough.
func TestPromptAndMaxAgeAreObeyed(t *testing.T) {
	s := authtest.New(t)
	b := s.NewBrowser()
	b.Code(t, "alice", s.PRE)
	consent := func(r *authtest.Response) bool { return strings.Contains(r.Body, `value="approve"`) }
	if r := b.Get(t, s.AuthorizeURL(s.PUB)); !consent(r) || !strings.Contains(r.Body, "alice") {
		t.Errorf("a session does not lead to the consent page: %s", text(r))
	}
	for _, prompt := range []string{"login", "select_account", "login consent"} {
		wantLogin(t, b.Get(t, s.AuthorizeURL(s.PUB, set("prompt", prompt))))
	}
	if r := b.Get(t, s.AuthorizeURL(s.PUB, set("max_age", "3600"))); !consent(r) {
		t.Errorf("max_age=3600: %s", text(r))
	}
	wantRedirect(t, b.Get(t, s.AuthorizeURL(s.PRE, set("prompt", "none", "scope", "mcp:write"))), s.PRE.RedirectURI, "consent_required", "S")
	wantRedirect(t, b.Get(t, s.AuthorizeURL(s.NAT, set("prompt", "none"))), s.NAT.RedirectURI, "consent_required", "S")
	// Nobody vouches for a client that registered itself, and the user has done nothing for it.
	for _, scope := range []string{"mcp:read", "openid"} {
		wantPage(t, b.Get(t, s.AuthorizeURL(s.PUB, set("prompt", "none", "scope", scope))), 400)
	}
}
