package handlers_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signet/handlers"
	"signet/internal/gatewayconfig"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/internal/test/authtest"
	"signet/internal/test/pgtest"
	"signet/internal/test/upstreamtest"
	"signet/internal/vault"
	"signet/jwt"
)

const linkPath = "/oauth/authorize?"

// linkTo opens a link, signs in if asked, and returns the page that asks what to connect.
func (s *gatewayServer) linkTo(t *testing.T, b *authtest.Browser, user, query string) *authtest.Response {
	t.Helper()
	page := b.Get(t, linkPath+query)
	if page.AsksPassword() && strings.Contains(page.Body, `name="username"`) {
		password := "correct horse " + user
		s.Log.Forbid(password)
		page = b.Submit(t, page, set("username", user, "password", password))
	}
	return page
}

// leaves presses the button of the page, and returns the request at the provider.
func leaves(t *testing.T, b *authtest.Browser, page *authtest.Response, edits ...edit) *url.URL {
	t.Helper()
	if page.StatusCode != http.StatusOK || !strings.Contains(page.Body, `value="connect"`) {
		t.Fatalf("no page that asks: %d %s", page.StatusCode, text(page))
	}
	left := b.Submit(t, page, append([]edit{set("decision", "connect")}, edits...)...)
	to, err := url.Parse(left.Header.Get("Location"))
	if err != nil || left.StatusCode != http.StatusSeeOther || to.Query().Get("state") == "" {
		t.Fatalf("not sent to the provider: %d %s", left.StatusCode, text(left))
	}
	return to
}

// connect connects a user of the forge, and returns the last page.
func (s *gatewayServer) connect(t *testing.T, f *forge, b *authtest.Browser, user, query string) *authtest.Response {
	t.Helper()
	return b.Get(t, f.approve(user, leaves(t, b, s.linkTo(t, b, user, query))))
}

// wantConnected demands the page of a success.
func wantConnected(t *testing.T, r *authtest.Response) {
	t.Helper()
	if r.StatusCode != http.StatusOK || r.At.Path != "/oauth/success" {
		t.Fatalf("not connected: %d %s", r.StatusCode, text(r))
	}
}

// nothing demands that no user has connected anything.
func (s *gatewayServer) nothing(t *testing.T) {
	t.Helper()
	list, err := s.vault.Entries(t.Context(), "", "", 10)
	if err != nil || len(list) != 0 {
		t.Errorf("the vault has %v, %v", list, err)
	}
}

// A user opens the link without being signed in, signs in, goes to the provider and back. From then
// on there is a token for this user, whichever grant asks, and for no other user.
func TestUserConnectsAProviderByALink_Row56_Row57(t *testing.T) {
	f := newForge(t)
	s := withConnections(t, []*gatewayconfig.Connection{f.connection("github")})
	tok := s.Tokens(t, "alice", s.PUB)
	alice, bob := s.claims(t, tok.Access), s.claims(t, s.Tokens(t, "bob", s.PUB).Access)
	link := oauth.ConnectionLink("", "github-tools", "alice") // the issuer is another one: its hash is not that of the user
	b := s.NewBrowser()
	page := s.linkTo(t, b, "alice", strings.TrimPrefix(strings.Split(link, "&for=")[0], linkPath)+"&for="+oauth.ConnectionUser(authtest.Issuer, "alice"))
	if strings.Contains(page.Body, "<script") || !strings.Contains(page.Body, "Github") || !strings.Contains(page.Body, "github-tools") || strings.Contains(page.Body, "forge-secret") {
		t.Errorf("page: %s", text(page))
	}
	for _, c := range page.Cookies() {
		if strings.Contains(c.Name, "upstream") {
			t.Errorf("a cookie before the user has decided: %s", c.Name)
		}
	}
	to := leaves(t, b, page)
	if q := to.Query(); q.Get("scope") != "read write" || q.Get("nonce") != "" || strings.Contains(to.String(), "server_id") {
		t.Errorf("the request is %s", to)
	}
	s.Restart(t)
	wantConnected(t, b.Get(t, f.approve("ann", to)))
	again := s.claims(t, s.Refresh(t, s.PUB, tok.Refresh).Tokens(t).Access)
	for range 2 {
		for _, claims := range []struct {
			who  string
			user string
		}{{"alice", "ann"}, {"bob", ""}} {
			who := alice
			if claims.who == "bob" {
				who = bob
			}
			token, _, err := s.connectionToken(t, who, "github", 0)
			if claims.user == "" {
				wantMissing(t, err, "github", false)
			} else if err != nil || !strings.HasPrefix(token, "forge-access-ann-") {
				t.Errorf("%s has %q, %v", claims.who, token, err)
			}
		}
		if token, _, err := s.connectionToken(t, again, "github", 0); err != nil || !strings.HasPrefix(token, "forge-access-ann-") {
			t.Errorf("after the caller's refresh: %q, %v", token, err)
		}
	}
	if got := f.asked[0]; got.Get("redirect_uri") != authtest.Issuer+"/oauth/callback" || got.Get("code_verifier") == "" {
		t.Errorf("the provider was asked %v", got)
	}
	wantConnected(t, s.connect(t, f, b, "carol", "server_id=github-tools"))
	if token, _, err := s.connectionToken(t, alice, "github", 0); err != nil || !strings.HasPrefix(token, "forge-access-carol-") {
		t.Errorf("after another connection: %q, %v", token, err)
	}
}

// What names a connection, and what does not.
func TestLinksOfConnections_Row63_Probe13(t *testing.T) {
	f := newForge(t)
	s := withConnections(t, []*gatewayconfig.Connection{f.connection("github"), f.connection("machine", own(oauth.GrantClientCredentials)), f.connection("docs", func(c *gatewayconfig.Connection) { c.Key = true })})
	b := s.NewBrowser()
	s.linkTo(t, b, "alice", "server_id=github-tools")
	for _, query := range []string{"server_id=github-tools", "provider=github", "provider=GitHub", "provider=github&scope=read", "server_id=docs-tools", "provider=docs"} {
		if page := b.Get(t, linkPath+query); page.StatusCode != http.StatusOK || !strings.Contains(page.Body, `value="connect"`) {
			t.Errorf("%s: %d %s", query, page.StatusCode, text(page))
		}
	}
	if to := leaves(t, b, b.Get(t, linkPath+"provider=github&scope=read")); to.Query().Get("scope") != "read" {
		t.Errorf("a part of the scopes: %s", to)
	}
	for _, query := range []string{"server_id=other", "provider=other", "provider=master", "server_id=machine-tools", "provider=machine"} {
		r := s.Get(t, linkPath+query)
		if to := r.Header.Get("Location"); r.StatusCode != http.StatusFound || !strings.HasPrefix(to, "/oauth/error?msg=") {
			t.Errorf("%s: %d to %q", query, r.StatusCode, to)
		} else if page := b.Get(t, to); page.StatusCode != http.StatusOK || !strings.Contains(page.Body, "no such server or provider") {
			t.Errorf("%s: %d %s", to, page.StatusCode, text(page))
		}
	}
	for _, query := range []string{
		"", "server_id=", "provider=github&scope=read+admin", "provider=github&scope=admin", `provider=github&scope=%22`, "server_id=github-tools&provider=github",
		"server_id=github-tools&server_id=github-tools", "server_id=github-tools&return_to=/a&return_to=/b", "client_id=unknown&server_id=github-tools",
	} {
		wantPage(t, b.Get(t, linkPath+query), 400)
	}
	wantPage(t, b.Get(t, "/authorize?server_id=github-tools"), 400) // the authorization endpoint's own path
	s.nothing(t)
}

// A link may ask for more than a user has allowed, which is asked for again beside it, however often
// the link is followed. Where the operator lists scopes, no link asks for others.
func TestLinkAsksForMore_Row63(t *testing.T) {
	f := newForge(t)
	s := withConnections(t, []*gatewayconfig.Connection{f.connection("github"), f.connection("open", func(c *gatewayconfig.Connection) { c.Scopes = nil })})
	b := s.NewBrowser()
	s.linkTo(t, b, "alice", "provider=open")
	for _, step := range []struct{ query, want string }{
		{"provider=open&scope=base", "base"},
		{"provider=open&scope=more", "more base"},
		{"provider=open&scope=more", "more base"},
		{"provider=github&scope=read", "read"},
		{"provider=github&scope=write", "write read"},
	} {
		to := leaves(t, b, b.Get(t, linkPath+step.query))
		if got := to.Query().Get("scope"); got != step.want {
			t.Errorf("%s asks for %q, want %q", step.query, got, step.want)
		}
		wantConnected(t, b.Get(t, f.approve("ann", to)))
	}
	s.reload(f.connection("github", func(c *gatewayconfig.Connection) { c.Scopes = []string{"write"} }))
	if to := leaves(t, b, b.Get(t, linkPath+"provider=github&scope=write")); to.Query().Get("scope") != "write" {
		t.Errorf("a scope that is no longer listed is asked for: %s", to)
	}
}

// A link for another user connects nothing.
func TestLinkIsForOneUser_Row64_J11(t *testing.T) {
	f := newForge(t)
	s := withConnections(t, []*gatewayconfig.Connection{f.connection("github")})
	query := "server_id=github-tools&for=" + oauth.ConnectionUser(authtest.Issuer, "bob")
	b := s.NewBrowser()
	page := s.linkTo(t, b, "alice", query)
	wantPage(t, page, 403)
	if !strings.Contains(page.Body, "another user") {
		t.Errorf("page: %s", text(page))
	}
	s.nothing(t)
	if page := s.linkTo(t, s.NewBrowser(), "bob", query); page.StatusCode != http.StatusOK || !strings.Contains(page.Body, `value="connect"`) {
		t.Errorf("for bob: %d %s", page.StatusCode, text(page))
	}
}

// One thing wrong with a good answer of the provider each: nothing is stored.
func TestForeignAnswersConnectNothing_Row64_J11_Probe27(t *testing.T) {
	f := newForge(t)
	s := withConnections(t, []*gatewayconfig.Connection{f.connection("github"), f.connection("gitlab")})
	change := func(edits ...edit) func(*testing.T, *authtest.Browser, string) *authtest.Response {
		return func(t *testing.T, b *authtest.Browser, back string) *authtest.Response {
			u, err := url.Parse(back)
			if err != nil {
				t.Fatal(err)
			}
			q := u.Query()
			for _, e := range edits {
				e(q)
			}
			u.RawQuery = q.Encode()
			return b.Get(t, u.String())
		}
	}
	for name, tt := range map[string]struct {
		come   func(*testing.T, *authtest.Browser, string) *authtest.Response
		status int
	}{
		"another browser": {func(t *testing.T, _ *authtest.Browser, back string) *authtest.Response {
			other := s.NewBrowser()
			s.linkTo(t, other, "alice", "server_id=github-tools")
			return other.Get(t, back)
		}, 403},
		"no session": {func(t *testing.T, b *authtest.Browser, back string) *authtest.Response {
			account := b.Get(t, "/account")
			b.Submit(t, account, set("action", "sign_out"))
			return b.Get(t, back)
		}, 403},
		"another user": {func(t *testing.T, b *authtest.Browser, back string) *authtest.Response {
			b.SignIn(t, "bob", s.PUB, set("prompt", "login"))
			return b.Get(t, back)
		}, 403},
		"denied":         {change(del("code"), set("error", "access_denied", "error_description", "<b>no</b>")), 403},
		"another error":  {change(del("code"), set("error", "invalid_scope")), 400},
		"provider down":  {change(del("code"), set("error", "temporarily_unavailable")), 503},
		"no code":        {change(del("code")), 400},
		"another code":   {change(set("code", "code-of-somebody")), 400},
		"another issuer": {change(set("iss", "https://evil.example")), 400},
		"no state":       {change(del("state")), 403},
		"another state":  {change(set("state", seal.NewID(time.Now().Add(time.Hour)))), 403},
		"two codes":      {change(add("code", "x")), 400},
		"the token endpoint": {func(t *testing.T, b *authtest.Browser, back string) *authtest.Response {
			f.set(func(f *forge) { f.down = true })
			return b.Get(t, back)
		}, 503},
		"a reload": {func(t *testing.T, b *authtest.Browser, back string) *authtest.Response {
			s.reload(f.connection("github", func(c *gatewayconfig.Connection) { c.ClientID = "another" }))
			return b.Get(t, back)
		}, 400},
	} {
		t.Run(name, func(t *testing.T) {
			f.set(func(f *forge) { f.down = false })
			s.reload(f.connection("github"), f.connection("gitlab"))
			b := s.NewBrowser()
			back := f.approve("ann", leaves(t, b, s.linkTo(t, b, "alice", "server_id=github-tools")))
			r := tt.come(t, b, back)
			wantPage(t, r, tt.status)
			if strings.Contains(r.Body, "<b>no") {
				t.Errorf("the provider's text is HTML: %s", text(r))
			}
			s.nothing(t)
		})
	}
}

// A query cannot say for which server the answer is, and an answer counts once.
func TestAnswerCountsOnceForItsServer_Row64(t *testing.T) {
	f := newForge(t)
	s := withConnections(t, []*gatewayconfig.Connection{f.connection("github"), f.connection("gitlab")})
	b := s.NewBrowser()
	back := f.approve("ann", leaves(t, b, s.linkTo(t, b, "alice", "server_id=github-tools"))) + "&server_id=gitlab-tools&provider=gitlab"
	raw := http.Header{"Cookie": {cookies(b)}}
	wantConnected(t, b.Get(t, back))
	for id, want := range map[string]bool{"github": true, "gitlab": false} {
		if _, err := s.vault.Get(t.Context(), "alice", "connection:"+id); (err == nil) != want {
			t.Errorf("%s: %v", id, err)
		}
	}
	before := len(f.asked)
	wantPage(t, b.Get(t, back), 403)
	r := request("GET", back, "")
	r.Header = raw // the cookies of before
	wantPage(t, s.Do(t, r), 403)
	if len(f.asked) != before {
		t.Errorf("the provider was asked again: %v", f.asked[before:])
	}
}

// cookies are the cookies of a browser as it sends them.
func cookies(b *authtest.Browser) string {
	var list []string
	for _, c := range b.Cookies {
		list = append(list, c.Name+"="+c.Value)
	}
	return strings.Join(list, "; ")
}

// An address of this origin is followed afterwards, and no other.
func TestReturnToStaysHere_Row65(t *testing.T) {
	f := newForge(t)
	s := withConnections(t, []*gatewayconfig.Connection{f.connection("github")})
	b := s.NewBrowser()
	s.linkTo(t, b, "alice", "server_id=github-tools")
	for to, want := range map[string]string{
		"/account": "/account", "/ok?a=b": "/ok?a=b", authtest.Issuer + "/ok": "/ok", authtest.Issuer: "/", "": "/oauth/success",
		"//evil.example": "/oauth/success", "/\\evil.example": "/oauth/success", "https://evil.example": "/oauth/success", "%2f%2fevil.example": "/oauth/success", "/%2fevil.example": "/oauth/success",
		"/%5cevil.example": "/oauth/success", "/\t/evil.example": "/oauth/success", authtest.Issuer + ".evil.example/": "/oauth/success", authtest.Issuer + "@evil.example/": "/oauth/success",
		"javascript:alert(1)": "/oauth/success", "ok": "/oauth/success", authtest.Issuer + "//evil.example": "/oauth/success", "https:evil.example": "/oauth/success", "///evil.example": "/oauth/success",
	} {
		page := b.Get(t, linkPath+url.Values{"server_id": {"github-tools"}, "return_to": {to}}.Encode())
		back := f.approve("ann", leaves(t, b, page))
		r := request("GET", back, "", "Cookie", cookies(b))
		if got := s.Do(t, r).Header.Get("Location"); got != want {
			t.Errorf("return_to=%q leads to %q, want %q", to, got, want)
		}
	}
}

// The browser may send state and code itself.
func TestBrowserSendsStateAndCode_Row66(t *testing.T) {
	f := newForge(t)
	s := withConnections(t, []*gatewayconfig.Connection{f.connection("github")})
	send := func(b *authtest.Browser, contentType, body string) *authtest.Response {
		t.Helper()
		header := []string{"Content-Type", contentType}
		if b != nil {
			header = append(header, "Cookie", cookies(b))
		}
		return s.Do(t, request("POST", "/oauth/token", body, header...))
	}
	for _, contentType := range []string{"application/json", formType} {
		b := s.NewBrowser()
		back, err := url.Parse(f.approve("ann", leaves(t, b, s.linkTo(t, b, "alice", "server_id=github-tools"))))
		if err != nil {
			t.Fatal(err)
		}
		state, code := back.Query().Get("state"), back.Query().Get("code")
		body := func(state, code string) string {
			if contentType == formType {
				return url.Values{"state": {state}, "code": {code}}.Encode()
			}
			return `{"state":"` + state + `","code":"` + code + `"}`
		}
		for _, missing := range []string{body("", code), body(state, ""), body("", "")} {
			if r := send(b, contentType, missing); r.StatusCode != 400 || strings.TrimSpace(r.Body) != `{"error":"Missing state or code"}` {
				t.Errorf("%s: %d %s", missing, r.StatusCode, r.Body)
			}
		}
		wantError(t, send(nil, contentType, body(state, code)), 403, "invalid_request")
		other := s.NewBrowser()
		s.linkTo(t, other, "alice", "server_id=github-tools")
		wantError(t, send(other, contentType, body(state, code)), 403, "invalid_request")
		s.nothing(t)
		r := send(b, contentType, body(state, code))
		if r.StatusCode != 200 || strings.TrimSpace(r.Body) != `{"ok":true}` {
			t.Fatalf("good: %d %s", r.StatusCode, r.Body)
		}
		wantError(t, send(b, contentType, body(state, code)), 403, "invalid_request")
		if _, err := s.vault.Take(t.Context(), "alice", "connection:github"); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"{", "[]", `{"state":1,"code":2}`, "", `"x"`} {
		wantError(t, send(nil, "application/json", bad), 400, "invalid_request")
	}
	wantError(t, send(nil, "application/json", `{"state":"`+strings.Repeat("x", 1<<20)+`"}`), 413, "invalid_request")
	wantError(t, send(nil, formType, "grant_type=authorization_code&state=x&code=y"), 401, "invalid_client")
	if r := s.PostForm(t, "/oauth/token", s.PUB, s.CodeForm(s.PUB, s.Code(t, "bob", s.PRE))); r.Error() != "invalid_grant" {
		t.Errorf("a code of another client at the token endpoint: %d %s", r.StatusCode, r.Body)
	}
}

// The pages at the end show text as text, and have no script.
func TestPagesAtTheEnd_Row67(t *testing.T) {
	s := withConnections(t, nil)
	for path, want := range map[string]string{"/oauth/success": "Connected", "/oauth/error": "Not connected", "/oauth/error?msg=" + url.QueryEscape(`<b>bold</b><script>x</script>`): "&lt;b&gt;bold&lt;/b&gt;"} {
		r := s.Get(t, path)
		if r.StatusCode != 200 || !strings.HasPrefix(r.Header.Get("Content-Type"), "text/html") || !strings.Contains(r.Body, want) || strings.Contains(r.Body, "<script") || strings.Contains(r.Body, "<b>") || !strings.Contains(r.Body, "<style>") {
			t.Errorf("%s: %d %s", path, r.StatusCode, text(r))
		}
	}
	r := request("GET", "/oauth/success", "", "Accept-Language", "de")
	if page := s.Do(t, r); !strings.Contains(page.Body, "Verbunden") {
		t.Errorf("in German: %s", text(page))
	}
}

// connected starts a server at which alice has connected the forge.
func connected(t *testing.T, f *forge) (*gatewayServer, authtest.Tokens) {
	t.Helper()
	s := withConnections(t, []*gatewayconfig.Connection{f.connection("github")})
	tok := s.Tokens(t, "alice", s.PUB)
	wantConnected(t, s.connect(t, f, s.NewBrowser(), "alice", "server_id=github-tools"))
	return s, tok
}

// Ten calls with a token that ends soon refresh it once. A refusal asks the user again; a provider
// that is down changes nothing; a reply without a refresh token leaves the one there is.
func TestConnectionsAreRefreshedOnce_Row58(t *testing.T) {
	f := newForge(t)
	f.life = 10
	s, tok := connected(t, f)
	claims := s.claims(t, tok.Access)
	f.set(func(f *forge) { f.life = 3600 })
	stored := func() vault.Entry {
		t.Helper()
		entry, err := s.vault.Get(t.Context(), "alice", "connection:github")
		if err != nil {
			t.Fatal(err)
		}
		return entry
	}
	soon := func() { // the token ends in a moment
		t.Helper()
		entry := stored()
		entry.Obtained, entry.Expires = time.Now().Unix()-3600, time.Now().Unix()+20
		if _, err := s.vault.Put(t.Context(), entry.Credential); err != nil {
			t.Fatal(err)
		}
	}
	soon()
	tokens := make([]string, 10)
	var all sync.WaitGroup
	for i := range tokens {
		all.Go(func() { tokens[i], _, _ = s.connectionToken(t, claims, "github", 0) })
	}
	all.Wait()
	if f.refreshes != 1 || tokens[0] == "" || slices.ContainsFunc(tokens, func(other string) bool { return other != tokens[0] }) {
		t.Fatalf("%d refreshes, tokens %q", f.refreshes, tokens)
	}
	since := stored().Since
	if since == 0 {
		t.Error("it is not known since when it is connected")
	}

	soon()
	before := stored()
	f.set(func(f *forge) { f.down = true })
	var refusal *oauth.Error
	if _, _, err := s.connectionToken(t, claims, "github", 0); !errors.As(err, &refusal) || refusal.Code != oauth.TemporarilyUnavailable {
		t.Errorf("provider down: %v", err)
	}
	if after := stored(); after.Access != before.Access || after.Refresh != before.Refresh {
		t.Error("an outage has changed the entry")
	}

	f.set(func(f *forge) { f.down, f.keeps = false, true })
	token, version, err := s.connectionToken(t, claims, "github", 0)
	if err != nil || token == before.Access || stored().Refresh != before.Refresh || stored().Since != since {
		t.Errorf("a reply without a refresh token: %q, %v; the entry has changed in what it must not", token, err)
	}
	if again, _, err := s.connectionToken(t, claims, "github", version); err != nil || again == token {
		t.Errorf("a token that was refused: %q, %v", again, err)
	}

	f.set(func(f *forge) { f.ended = true })
	soon()
	_, _, err = s.connectionToken(t, claims, "github", 0)
	wantMissing(t, err, "github", false)
	if _, err := s.vault.Get(t.Context(), "alice", "connection:github"); !errors.Is(err, vault.ErrUnknown) {
		t.Errorf("after a refusal: %v", err)
	}
	if got := s.Introspect(t, s.PUB, tok.Access).JSON(t)["active"]; got != true {
		t.Error("the user is signed out because a provider refused")
	}
	f.set(func(f *forge) { f.ended = false })
	wantConnected(t, s.connect(t, f, s.NewBrowser(), "alice", "server_id=github-tools"))
	if _, _, err := s.connectionToken(t, claims, "github", 0); err != nil {
		t.Error(err)
	}
}

// Tokens of a provider that gives no refresh token serve until they end; a life that it does not say
// is not known. A server that refuses one has the user asked for another, and other servers keep it.
func TestTokensWithoutRefresh_Row68(t *testing.T) {
	f := newForge(t)
	f.form = true
	s, tok := connected(t, f)
	claims := s.claims(t, tok.Access)
	token, version, expires, err := s.in(t).ConnectionToken(t.Context(), claims, "github", 0)
	if err != nil || token == "" || !expires.IsZero() {
		t.Fatalf("%q until %v, %v", token, expires, err)
	}
	entry, err := s.vault.Get(t.Context(), "alice", "connection:github")
	if err != nil || !slices.Equal(entry.Scope, []string{"read", "user:email"}) {
		t.Errorf("scopes %v, %v", entry.Scope, err)
	}
	_, _, err = s.connectionToken(t, claims, "github", version)
	wantMissing(t, err, "github", false)
	if kept, _, err := s.connectionToken(t, claims, "github", 0); err != nil || kept != token {
		t.Errorf("another server: %q, %v", kept, err)
	}
	wantConnected(t, s.connect(t, f, s.NewBrowser(), "alice", "server_id=github-tools"))
	if other, _, err := s.connectionToken(t, claims, "github", version); err != nil || other == token {
		t.Errorf("connected again: %q, %v", other, err)
	}
	entry.Expires = time.Now().Unix() - 1
	if _, err := s.vault.Put(t.Context(), entry.Credential); err != nil {
		t.Fatal(err)
	}
	_, _, err = s.connectionToken(t, claims, "github", 0)
	wantMissing(t, err, "github", false)
}

// Tokens are never sent to a provider or by a client for which they were not made.
func TestTokensAreBoundToTheirProvider_Row57(t *testing.T) {
	f := newForge(t)
	s, tok := connected(t, f)
	claims := s.claims(t, tok.Access)
	for name, change := range map[string]func(*gatewayconfig.Connection){
		"another client":   func(c *gatewayconfig.Connection) { c.ClientID = "other" },
		"another endpoint": func(c *gatewayconfig.Connection) { c.TokenEndpoint += "2" },
		"a key":            func(c *gatewayconfig.Connection) { c.Key = true },
	} {
		t.Run(name, func(t *testing.T) {
			s.reload(f.connection("github", change))
			_, _, err := s.connectionToken(t, claims, "github", 0)
			wantMissing(t, err, "github", false)
		})
	}
	s.reload(f.connection("github", func(c *gatewayconfig.Connection) { c.Scopes = []string{"read"} }))
	if _, _, err := s.connectionToken(t, claims, "github", 0); err != nil {
		t.Errorf("fewer scopes in the configuration: %v", err)
	}
}

// The store has ciphertext, which another root secret does not open: then the user is asked again.
func TestVaultIsSealed_Row69(t *testing.T) {
	f := newForge(t)
	s, tok := connected(t, f)
	claims := s.claims(t, tok.Access)
	other, err := seal.Parse(seal.NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	stranger := vault.New(vault.Options{Store: s.Store, Ring: other})
	if _, err := stranger.Get(t.Context(), "alice", "connection:github"); !errors.Is(err, vault.ErrUnknown) {
		t.Errorf("another root secret opens it: %v", err)
	}
	if _, err := stranger.Put(t.Context(), seal.Credential{Subject: "alice", Provider: "connection:github", Access: "x"}); err != nil {
		t.Fatal(err)
	}
	_, _, err = s.connectionToken(t, claims, "github", 0)
	wantMissing(t, err, "github", false)
	wantConnected(t, s.connect(t, f, s.NewBrowser(), "alice", "server_id=github-tools"))
	if _, _, err := s.connectionToken(t, claims, "github", 0); err != nil {
		t.Error(err)
	}
}

// chained starts a server whose logins offer connections.
func chained(t *testing.T, list ...*gatewayconfig.Connection) *gatewayServer {
	t.Helper()
	s := withConnections(t, list)
	s.gateway = ""
	s.Restart(t)
	return s
}

// offered are the connections that a page offers.
func offered(page *authtest.Response) (ids []string) {
	for _, part := range strings.Split(page.Body, `name="connection" value="`)[1:] {
		id, _, _ := strings.Cut(part, `"`)
		ids = append(ids, id)
	}
	return ids
}

// wantOffers demands the page that offers connections.
func wantOffers(t *testing.T, page *authtest.Response, ids ...string) {
	t.Helper()
	if page.StatusCode != http.StatusOK && page.StatusCode != http.StatusBadRequest || page.At.Path != "/oauth/connect" || !slices.Equal(offered(page), ids) {
		t.Fatalf("%d at %s offers %q, want %q: %s", page.StatusCode, page.At.Path, offered(page), ids, text(page))
	}
}

// wantDown demands that page again, with the message that a service did not answer.
func wantDown(t *testing.T, page *authtest.Response, ids ...string) {
	t.Helper()
	wantOffers(t, page, ids...)
	if !strings.Contains(page.Body, `role="alert"`) || !strings.Contains(page.Body, "did not answer as expected") {
		t.Errorf("nothing says that the service did not answer: %s", text(page))
	}
}

// After the consent the user goes through what is missing, in any order, and is back at the client
// with one code. The next login offers nothing.
func TestLoginOffersConnections_Row56(t *testing.T) {
	f := newForge(t)
	s := chained(t, f.connection("github"), f.connection("machine", own(oauth.GrantClientCredentials)), f.connection("docs", func(c *gatewayconfig.Connection) { c.Key = true }), f.connection("gitlab"))
	b := s.NewBrowser()
	consent := b.SignIn(t, "alice", s.PUB)
	page := b.Submit(t, consent, set("decision", "approve"))
	wantOffers(t, page, "github", "docs", "gitlab")
	if !strings.Contains(page.Body, "Later") || strings.Contains(page.Body, "<script") {
		t.Errorf("page: %s", text(page))
	}
	wantPage(t, b.Submit(t, consent, set("decision", "approve")), 400) // the consent counts once
	first := page
	page = b.Get(t, f.approve("ann", leaves(t, b, page, set("connection", "gitlab"))))
	wantOffers(t, page, "github", "docs")
	page = b.Submit(t, page, set("decision", "connect", "connection", "docs", "key", "two words"))
	wantOffers(t, page, "github", "docs")
	page = b.Submit(t, page, set("decision", "connect", "connection", "docs", "key", " key-of-alice-1 "))
	wantOffers(t, page, "github")
	denied := f.approve("ann", leaves(t, b, page, set("connection", "github")))
	page = b.Get(t, strings.Replace(denied, "code=", "error=access_denied&x=", 1))
	wantOffers(t, page, "github")
	if !strings.Contains(page.Body, `role="alert"`) {
		t.Errorf("nothing says that the user denied: %s", text(page))
	}
	f.set(func(f *forge) { f.down = true })
	page = b.Get(t, f.approve("ann", leaves(t, b, page, set("connection", "github"))))
	wantOffers(t, page, "github")
	f.set(func(f *forge) { f.down = false })
	page.StatusCode = http.StatusOK
	back := b.Get(t, f.approve("ann", leaves(t, b, page, set("connection", "github"))))
	if back.Left() == nil || back.Sent().Get("code") == "" || back.Sent().Get("state") == "" {
		t.Fatalf("not back at the client: %d %s", back.StatusCode, text(back))
	}
	wantPage(t, b.Submit(t, first, set("decision", "later")), 400) // the transaction is answered
	claims := s.claims(t, s.Redeem(t, s.PUB, back.Sent().Get("code")).Tokens(t).Access)
	for id, want := range map[string]string{"github": "forge-access-ann", "gitlab": "forge-access-ann", "docs": "key-of-alice-1"} {
		if token, _, err := s.connectionToken(t, claims, id, 0); err != nil || !strings.HasPrefix(token, want) {
			t.Errorf("%s: %q, %v", id, token, err)
		}
	}
	s.Log.Forbid("key-of-alice-1")
	if again := b.Get(t, s.AuthorizeURL(s.PUB)); again.Sent().Get("code") == "" {
		t.Errorf("the next login: %d %s", again.StatusCode, text(again))
	}
}

// A login goes on whatever is wrong with the server of something that the user wants to connect: the
// page is there again, with the other ways.
func TestLoginOutlivesAProviderThatIsDown_Row56(t *testing.T) {
	f := newForge(t)
	gone := newForge(t)
	gone.Close()
	s := chained(t, f.connection("github"), &gatewayconfig.Connection{ID: "corp", Name: "Corp", Servers: []string{"corp-tools"}, Issuer: gone.URL})
	b := s.NewBrowser()
	page := b.Submit(t, b.SignIn(t, "alice", s.PUB), set("decision", "approve"))
	page = b.Submit(t, page, set("decision", "connect", "connection", "corp"))
	wantDown(t, page, "github", "corp")
	if !strings.Contains(s.Log.String(), "connection refused") {
		t.Errorf("the log does not say why: %s", s.Log)
	}
	page = b.Get(t, f.approve("ann", leaves(t, b, page, set("connection", "github"))))
	wantOffers(t, page, "corp")
	if back := b.Submit(t, page, set("decision", "later")); back.Sent().Get("code") == "" {
		t.Errorf("not back at the client: %d %s", back.StatusCode, text(back))
	}
}

// A login goes on whatever the provider answers: the page is there again. An answer counts once.
func TestLoginOutlivesARefusal_Row56(t *testing.T) {
	f := newForge(t)
	s := chained(t, f.connection("github"))
	b := s.NewBrowser()
	page := b.Submit(t, b.SignIn(t, "alice", s.PUB), set("decision", "approve"))
	for _, answer := range []string{"error=invalid_scope&x=", "error=unauthorized_client&x=", "x=", "code=x"} {
		to := strings.Replace(f.approve("ann", leaves(t, b, page, set("connection", "github"))), "code=", answer, 1)
		page = b.Get(t, to)
		wantDown(t, page, "github")
		wantPage(t, b.Get(t, to), 403)
	}
	to := f.approve("ann", leaves(t, b, page, set("connection", "github")))
	wantPage(t, b.Get(t, to+"&iss=https%3A%2F%2Fother.example"), 400)
	if back := b.Submit(t, page, set("decision", "later")); back.Sent().Get("code") == "" {
		t.Errorf("not back at the client: %d %s", back.StatusCode, text(back))
	}
}

// Without a click on anything but "Later" the login goes on, and the next one does not ask again.
// A call says that the user has put it off.
func TestUserPutsConnectionsOff_Row56(t *testing.T) {
	f := newForge(t)
	s := chained(t, f.connection("github"))
	b := s.NewBrowser()
	page := b.Submit(t, b.SignIn(t, "alice", s.PUB), set("decision", "approve"))
	wantOffers(t, page, "github")
	back := b.Submit(t, page, set("decision", "later"))
	code := back.Sent().Get("code")
	if code == "" {
		t.Fatalf("not back at the client: %d %s", back.StatusCode, text(back))
	}
	claims := s.claims(t, s.Redeem(t, s.PUB, code).Tokens(t).Access)
	_, _, err := s.connectionToken(t, claims, "github", 0)
	wantMissing(t, err, "github", true)
	if again := b.Get(t, s.AuthorizeURL(s.PUB)); again.Sent().Get("code") == "" {
		t.Errorf("the next login asks: %d %s", again.StatusCode, text(again))
	}
	if again := s.Code(t, "alice", s.PUB2); again == "" {
		t.Error("another client's login asks")
	}
	s.reload(f.connection("github"), f.connection("gitlab")) // a server that is new
	page = b.Get(t, s.AuthorizeURL(s.PUB))                   // the consent is remembered
	wantOffers(t, page, "gitlab")
	if silent := b.Get(t, s.AuthorizeURL(s.PUB, set("prompt", "none"))); silent.Sent().Get("code") == "" {
		t.Errorf("prompt=none shows a page: %d %s", silent.StatusCode, text(silent))
	}
	s.reload(f.connection("github"))
	if gone := b.Submit(t, page, set("decision", "connect")); gone.Sent().Get("code") == "" { // the server is gone again
		t.Errorf("nothing left to connect: %d %s", gone.StatusCode, text(gone))
	}
	wantConnected(t, s.connect(t, f, b, "alice", "server_id=github-tools"))
	if _, _, err := s.connectionToken(t, claims, "github", 0); err != nil {
		t.Errorf("connected after all: %v", err)
	}
}

// One thing wrong with a good decision each: nothing is stored, and there is no code.
func TestForeignDecisionsConnectNothing_Row64(t *testing.T) {
	f := newForge(t)
	s := chained(t, f.connection("github"))
	for name, tt := range map[string]struct {
		send   func(t *testing.T, b *authtest.Browser, page *authtest.Response) *authtest.Response
		status int
	}{
		"another browser": {func(t *testing.T, _ *authtest.Browser, page *authtest.Response) *authtest.Response {
			other := s.NewBrowser()
			other.SignIn(t, "alice", s.PUB)
			return other.Submit(t, page, set("decision", "later"))
		}, 403},
		"another user": {func(t *testing.T, b *authtest.Browser, page *authtest.Response) *authtest.Response {
			b.SignIn(t, "bob", s.PUB, set("prompt", "login"))
			return b.Submit(t, page, set("decision", "later"))
		}, 400},
		"another site": {func(t *testing.T, b *authtest.Browser, page *authtest.Response) *authtest.Response {
			b.Header = http.Header{"Sec-Fetch-Site": {"cross-site"}}
			return b.Submit(t, page, set("decision", "later"))
		}, 403},
		"no decision": {func(t *testing.T, b *authtest.Browser, page *authtest.Response) *authtest.Response {
			return b.Submit(t, page)
		}, 400},
		"no state": {func(t *testing.T, b *authtest.Browser, page *authtest.Response) *authtest.Response {
			return b.Submit(t, page, del("state"), set("decision", "later"))
		}, 400},
		"the state of a login": {func(t *testing.T, b *authtest.Browser, page *authtest.Response) *authtest.Response {
			consent := b.SignIn(t, "alice", s.PUB2)
			_, fields := consent.Form(t)
			return b.Submit(t, page, set("decision", "later", "state", fields.Get("state")))
		}, 400},
	} {
		t.Run(name, func(t *testing.T) {
			b := s.NewBrowser()
			page := b.Submit(t, b.SignIn(t, "alice", s.PUB), set("decision", "approve"))
			wantOffers(t, page, "github")
			wantPage(t, tt.send(t, b, page), tt.status)
			s.nothing(t)
		})
	}
	b := s.NewBrowser()
	page := b.Submit(t, b.SignIn(t, "alice", s.PUB), set("decision", "approve"))
	_, fields := page.Form(t)
	wantPage(t, b.Get(t, "/consent?"+url.Values{"state": {fields.Get("state")}}.Encode()), 400) // it is no consent
}

// The account page shows what is connected, and ends it. A key is entered and never shown.
func TestAccountShowsConnections_Row56_Row57(t *testing.T) {
	var changed []string // of which a gateway in the process is told
	f := newForge(t)
	s := withConnections(t, []*gatewayconfig.Connection{
		f.connection("github", func(c *gatewayconfig.Connection) { c.RevocationEndpoint = f.URL + "/revoke" }), f.connection("machine", own(oauth.GrantClientCredentials)),
		f.connection("docs", func(c *gatewayconfig.Connection) { c.Key = true }),
	}, func(cfg *authtest.Config) {
		cfg.Change = func(o *handlers.Options) {
			o.ConnectionChanged = func(subject, connection string) { changed = append(changed, subject+" "+connection) }
		}
	})
	claims := s.claims(t, s.Tokens(t, "alice", s.PUB).Access)
	b := s.NewBrowser()
	wantConnected(t, s.connect(t, f, b, "alice", "server_id=github-tools"))
	page := b.Get(t, "/oauth/authorize?provider=docs&return_to=/account")
	page = b.Submit(t, page, set("decision", "connect", "key", "key-of-alice-2"))
	s.Log.Forbid("key-of-alice-2")
	if page.At.Path != "/account" || strings.Contains(page.Body, "key-of-alice-2") || strings.Contains(page.Body, "forge-") || strings.Count(page.Body, `value="disconnect_link"`) != 2 || strings.Contains(page.Body, "Machine") {
		t.Fatalf("account page: %s", text(page))
	}
	token, version, err := s.connectionToken(t, claims, "docs", 0)
	if err != nil || token != "key-of-alice-2" {
		t.Errorf("%q, %v", token, err)
	}
	_, _, err = s.connectionToken(t, claims, "docs", version) // the server refuses it
	wantMissing(t, err, "docs", false)
	end := func(b *authtest.Browser, page *authtest.Response, edits ...edit) *authtest.Response {
		t.Helper()
		return b.Submit(t, page, append([]edit{set("action", "disconnect_link")}, edits...)...)
	}
	bob := s.NewBrowser()
	s.linkTo(t, bob, "bob", "server_id=github-tools")
	bobs := bob.Get(t, "/account")
	if strings.Contains(bobs.Body, `value="disconnect_link"`) || strings.Count(bobs.Body, "/oauth/authorize?provider=") != 2 {
		t.Errorf("the account page of another user: %s", text(bobs))
	}
	end(bob, bobs, set("connection", "github")) // he has none
	wantPage(t, end(b, page, set("connection", "github", "token", "x")), 403)
	wantPage(t, end(b, page, set("connection", "other")), 400)
	wantPage(t, end(b, page, set("connection", "machine")), 400)
	for _, id := range []string{"github", "docs"} {
		if _, err := s.vault.Get(t.Context(), "alice", "connection:"+id); err != nil {
			t.Errorf("%s: %v", id, err)
		}
		done := end(b, page, set("connection", id))
		if done.StatusCode != http.StatusOK || done.At.Path != "/account" {
			t.Errorf("%s: %d %s", id, done.StatusCode, text(done))
		}
		_, _, err := s.connectionToken(t, claims, id, 0)
		wantMissing(t, err, id, false)
	}
	if diff := cmp.Diff([]string{"alice github", "alice docs", "alice github", "alice docs"}, changed); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.revoked) != 1 || !strings.HasPrefix(f.revoked[0], "forge-refresh-alice") {
		t.Errorf("revoked at the provider: %q", f.revoked)
	}
}

// A user who signs in at a provider goes on to the offer, and links lead there too. What they have
// connected stays when they sign out there, and ends when they are disabled.
func TestUsersOfAnUpstreamConnect_Row56(t *testing.T) {
	f, corp := newForge(t), newForge(t)
	s := withForge(t, corp.config(), false, func(cfg *authtest.Config) {})
	g := &gatewayServer{Server: s.Server, connections: []*gatewayconfig.Connection{f.connection("github")}}
	before := s.Config.Change
	s.Config.Change = func(o *handlers.Options) {
		before(o)
		o.Connections, o.Elsewhere = g.list, http.DefaultTransport
	}
	s.Restart(t)
	g.vault = s.vault
	b := s.NewBrowser()
	page := b.Get(t, corp.approve("ann", s.leave(t, b, s.PUB)))
	wantOffers(t, page, "github")
	back := b.Get(t, f.approve("octocat", leaves(t, b, page)))
	if back.Sent().Get("code") == "" {
		t.Fatalf("not back at the client: %d %s", back.StatusCode, text(back))
	}
	claims := g.claims(t, s.Redeem(t, s.PUB, back.Sent().Get("code")).Tokens(t).Access)
	if token, _, err := g.connectionToken(t, claims, "github", 0); err != nil || !strings.HasPrefix(token, "forge-access-octocat") {
		t.Errorf("%q, %v", token, err)
	}

	const ann = "upstream:forge:ann-1"
	again := func(what string) (claims *jwt.Claims) {
		t.Helper()
		if err := g.in(t).EndConnection(t.Context(), ann, "connection:github"); err != nil {
			t.Error(err)
		}
		left := s.NewBrowser()
		page := left.Get(t, corp.approve("ann", s.leave(t, left, s.PUB)))
		code := page.Sent().Get("code")
		if code == "" {
			t.Fatalf("%s: no way back to the client: %d %s", what, page.StatusCode, text(page))
		}
		return g.claims(t, s.Redeem(t, s.PUB, code).Tokens(t).Access)
	}
	for range 2 { // as at each logout at the provider
		if err := s.vault.EndSessions(t.Context(), ann); err != nil {
			t.Fatal(err)
		}
		if token, _, err := g.connectionToken(t, again("signed out"), "github", 0); err != nil || !strings.HasPrefix(token, "forge-access-octocat") {
			t.Errorf("after a logout: %q, %v", token, err)
		}
	}
	for _, disabled := range []bool{true, false} {
		if err := s.vault.SetDisabled(t.Context(), ann, disabled); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.in(t).EndConnection(t.Context(), ann, "connection:github"); err != nil {
		t.Error(err)
	}
	if entry, err := s.vault.Get(t.Context(), ann, "connection:github"); !errors.Is(err, vault.ErrUnknown) {
		t.Errorf("what a user had connected who was disabled meanwhile: %v, %v", entry, err)
	}

	other := s.NewBrowser()
	left := other.Get(t, linkPath+"server_id=github-tools")
	to, err := url.Parse(left.Header.Get("Location"))
	if err != nil || to.Query().Get("state") == "" {
		t.Fatalf("not sent to the upstream: %d %s", left.StatusCode, text(left))
	}
	page = other.Get(t, corp.approve("bob", to))
	wantConnected(t, other.Get(t, f.approve("hubot", leaves(t, other, page))))
	if entry, err := s.vault.Get(t.Context(), "upstream:forge:bob-1", "connection:github"); err != nil || !strings.HasPrefix(entry.Access, "forge-access-hubot") {
		t.Errorf("%v, %v", entry, err)
	}
}

// A flow goes on at another server of the same issuer, and ends once whichever gets the answer.
func TestFlowGoesOnAtAnotherReplica_Row64_Probe26(t *testing.T) {
	f := newForge(t)
	s := withConnections(t, []*gatewayconfig.Connection{f.connection("github")}, func(c *authtest.Config) { c.Database = pgtest.URL(t) })
	other := s.Replica(t, "")
	b := s.NewBrowser()
	back := f.approve("ann", leaves(t, b, s.linkTo(t, b, "alice", "server_id=github-tools")))
	raw := cookies(b)
	answers := spread(10, []*authtest.Server{s.Server, other}, func(r *authtest.Server) *authtest.Response { return r.Do(t, request("GET", back, "", "Cookie", raw)) })
	if n := count(answers); n["See Other"] != 1 || n["Forbidden"] != 9 {
		t.Errorf("answers %v", n)
	}
	if f.exchanges != 1 {
		t.Errorf("the provider was asked %d times", f.exchanges)
	}
}

// What a user connected is not that of a later user of the same name, nor of one whose password has
// changed since.
func TestConnectionEndsWithItsUser_Row57(t *testing.T) {
	f := newForge(t)
	s, tok := connected(t, f)
	if _, _, err := s.connectionToken(t, s.claims(t, tok.Access), "github", 0); err != nil {
		t.Fatal(err)
	}
	s.Users.Change("alice", func(a *authtest.Account) bool { a.Version = "2"; return true })
	b := s.NewBrowser()
	claims := s.claims(t, s.Redeem(t, s.PUB, b.Code(t, "alice", s.PUB)).Tokens(t).Access)
	_, _, err := s.connectionToken(t, claims, "github", 0)
	wantMissing(t, err, "github", false)
	if page := b.Get(t, "/account"); !strings.Contains(page.Body, "/oauth/authorize?provider=github") || strings.Contains(page.Body, `value="disconnect_link"`) {
		t.Errorf("the account page of the later user: %s", text(page))
	}
	wantConnected(t, s.connect(t, f, b, "alice", "server_id=github-tools"))
	if _, _, err := s.connectionToken(t, claims, "github", 0); err != nil {
		t.Error(err)
	}
}

// Who puts off a connection that an earlier user of the name had made does not keep its tokens alive.
func TestPuttingOffRevokesWhatNobodyCanUse_Row57(t *testing.T) {
	f := newForge(t)
	s := chained(t, f.connection("github", func(c *gatewayconfig.Connection) { c.RevocationEndpoint = f.URL + "/revoke" }))
	wantConnected(t, s.connect(t, f, s.NewBrowser(), "alice", "server_id=github-tools"))
	s.Users.Change("alice", func(a *authtest.Account) bool { a.Version = "2"; return true })
	b := s.NewBrowser()
	page := b.Submit(t, b.SignIn(t, "alice", s.PUB), set("decision", "approve"))
	wantOffers(t, page, "github")
	b.Submit(t, page, set("decision", "later"))
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.revoked) != 1 || !strings.HasPrefix(f.revoked[0], "forge-refresh-alice") {
		t.Errorf("revoked at the provider: %q", f.revoked)
	}
}

// What a user has connected who was changed or removed is deleted, and revoked at its provider.
// Nothing else is.
func TestConnectionsOfRemovedUsersAreRevoked_Row57(t *testing.T) {
	p := upstreamtest.New(t, upstreamtest.Options{Manner: upstreamtest.Strict, RedirectURIs: []string{authtest.Issuer + "/oauth/callback"}})
	for name, tt := range map[string]struct {
		change func(s *gatewayServer)
		ended  bool
	}{
		"unchanged": {func(*gatewayServer) {}, false},
		"changed": {func(s *gatewayServer) {
			s.Users.Change("alice", func(a *authtest.Account) bool { a.Version = "2"; return true })
		}, true},
		"removed": {func(s *gatewayServer) { s.Users.Change("alice", func(*authtest.Account) bool { return false }) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := withConnections(t, []*gatewayconfig.Connection{{ID: "notes", Name: "Notes", Servers: []string{"notes-tools"}, Issuer: p.Issuer(), ClientID: p.ClientID(), ClientSecret: gatewayconfig.Secret(p.ClientSecret()), Scopes: []string{"openid"}}})
			b := s.NewBrowser()
			back, err := p.Authorize(t.Context(), leaves(t, b, s.linkTo(t, b, "alice", "server_id=notes-tools")).String(), "ann")
			if err != nil {
				t.Fatal(err)
			}
			wantConnected(t, b.Get(t, back))
			entry, err := s.vault.Get(t.Context(), "alice", "connection:notes")
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range [][2]string{{"gateway:", "connection:notes"}, {"alice", "connection:other"}, {"alice", "notes"}, {"", ""}} {
				if err := s.in(t).EndConnection(t.Context(), id[0], id[1]); err != nil {
					t.Errorf("%v: %v", id, err)
				}
			}
			tt.change(s)
			for range 2 {
				if err := s.in(t).EndConnection(t.Context(), "alice", "connection:notes"); err != nil {
					t.Error(err)
				}
			}
			_, err = s.vault.Get(t.Context(), "alice", "connection:notes")
			if ended := errors.Is(err, vault.ErrUnknown); ended != tt.ended || p.Live(entry.Refresh) == tt.ended {
				t.Errorf("deleted: %t, alive at the provider: %t, %v", ended, p.Live(entry.Refresh), err)
			}
		})
	}
}

// The account page says when what a user has connected was used, to the hour: a call of a server
// costs no write.
func TestAccountShowsTheLastUse_Row56(t *testing.T) {
	f := newForge(t)
	s, tok := connected(t, f)
	b := s.NewBrowser()
	b.Code(t, "alice", s.PUB)
	if page := b.Get(t, "/account"); !strings.Contains(page.Body, "Last used</dt><dd>Not yet") {
		t.Errorf("before the first use: %s", text(page))
	}
	claims := s.claims(t, tok.Access)
	var before vault.Entry
	for i := range 3 {
		if _, _, err := s.connectionToken(t, claims, "github", 0); err != nil {
			t.Fatal(err)
		}
		entry, err := s.vault.Get(t.Context(), "alice", "connection:github")
		if err != nil || time.Since(time.Unix(entry.Used, 0)).Abs() > time.Minute || i > 0 && entry.Used != before.Used || entry.Version != 1 {
			t.Errorf("use %d is noted at %d of version %d, before %d, %v", i, entry.Used, entry.Version, before.Used, err)
		}
		before = entry
	}
	if page := b.Get(t, "/account"); !strings.Contains(page.Body, "Last used</dt><dd><time") {
		t.Errorf("after a use: %s", text(page))
	}
	if err := s.vault.Use(t.Context(), "alice", "connection:github", 1, time.Now().Unix()-7200); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.connectionToken(t, claims, "github", 0); err != nil {
		t.Fatal(err)
	}
	if entry, err := s.vault.Get(t.Context(), "alice", "connection:github"); err != nil || entry.Used < before.Used || entry.Access != before.Access {
		t.Errorf("two hours later: %d, before %d, %v", entry.Used, before.Used, err)
	}
}

// A connection that cannot be made is said so in the log, and stands in the way of nothing else.
func TestFaultyConnectionIsLeftOut_Row63(t *testing.T) {
	f := newForge(t)
	s := chained(t, f.connection("broken", func(c *gatewayconfig.Connection) { c.ClientID = "" }), f.connection("github"))
	b := s.NewBrowser()
	page := b.Submit(t, b.SignIn(t, "alice", s.PUB), set("decision", "approve"))
	wantOffers(t, page, "github")
	back := b.Submit(t, page, set("decision", "later"))
	claims := s.claims(t, s.Redeem(t, s.PUB, back.Sent().Get("code")).Tokens(t).Access)
	if account := b.Get(t, "/account"); account.StatusCode != http.StatusOK || strings.Contains(account.Body, "Broken") || !strings.Contains(account.Body, "provider=github") {
		t.Errorf("account page: %d %s", account.StatusCode, text(account))
	}
	wantPage(t, b.Get(t, linkPath+"provider=broken"), 503)
	var refusal *oauth.Error
	if _, _, err := s.connectionToken(t, claims, "broken", 0); !errors.As(err, &refusal) || refusal.Code != oauth.TemporarilyUnavailable {
		t.Errorf("its token: %v", err)
	}
	if n := strings.Count(s.Log.String(), "there is no client id"); n == 0 || !strings.Contains(s.Log.String(), `"connection":"broken"`) {
		t.Errorf("the log says it %d times", n)
	}
}

// Where the operator has registered no client, the server describes itself.
func TestServerDescribesItselfAsAClient_Row63(t *testing.T) {
	f := newForge(t)
	server, older := issuerOf(t, f, true), issuerOf(t, f, false)
	s := withConnections(t, []*gatewayconfig.Connection{{ID: "corp", Name: "Corp", Servers: []string{"corp-tools"}, Issuer: server, Scopes: []string{"read"}}})
	document := s.Get(t, "/oauth/client.json").JSON(t)
	id := authtest.Issuer + "/oauth/client.json"
	if uris, _ := document["redirect_uris"].([]any); document["client_id"] != id || len(uris) != 1 || uris[0] != authtest.Issuer+"/oauth/callback" || document["token_endpoint_auth_method"] != "none" {
		t.Errorf("document %v", document)
	}
	b := s.NewBrowser()
	to := leaves(t, b, s.linkTo(t, b, "alice", "server_id=corp-tools"))
	if to.Query().Get("client_id") != id || !strings.HasPrefix(to.String(), server+"/authorize?") {
		t.Errorf("the request is %s", to)
	}
	s.reload(&gatewayconfig.Connection{ID: "corp", Name: "Corp", Servers: []string{"corp-tools"}, Issuer: older})
	wantDown(t, b.Submit(t, s.linkTo(t, b, "alice", "server_id=corp-tools"), set("decision", "connect")), "corp")
}

// issuerOf starts an issuer with metadata for a forge. documents says whether it takes client ID
// metadata documents.
func issuerOf(t *testing.T, f *forge, documents bool) string {
	t.Helper()
	var issuer string
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"issuer":%q,"authorization_endpoint":"%s/authorize","token_endpoint":"%s/token","code_challenge_methods_supported":["S256"],"client_id_metadata_document_supported":%t}`, issuer, issuer, f.URL, documents)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	issuer = server.URL
	return issuer
}

// What lies in the browser counts for its state, its epoch, its configuration and ten minutes. One
// thing changed in one that would succeed each.
func TestFlowIsBound_Row64(t *testing.T) {
	f := newForge(t)
	s := withConnections(t, []*gatewayconfig.Connection{f.connection("github"), f.connection("gitlab", func(c *gatewayconfig.Connection) { c.ClientID = "other" }), f.connection("machine", own(oauth.GrantClientCredentials))})
	for name, tt := range map[string]struct {
		change func(*seal.UpstreamLogin)
		status int
	}{
		"nothing":               {func(*seal.UpstreamLogin) {}, 200},
		"expired":               {func(u *seal.UpstreamLogin) { u.Expires = time.Now().Unix() - 1 }, 400},
		"another epoch":         {func(u *seal.UpstreamLogin) { u.Login.Epoch = "another" }, 400},
		"another browser":       {func(u *seal.UpstreamLogin) { u.Login.Browser = "another" }, 403},
		"another state":         {func(u *seal.UpstreamLogin) { u.ID = seal.NewID(time.Now().Add(time.Minute)) }, 403},
		"another user":          {func(u *seal.UpstreamLogin) { u.Login.Subject = "bob" }, 403},
		"another client":        {func(u *seal.UpstreamLogin) { u.Bound = "another" }, 400},
		"another connection":    {func(u *seal.UpstreamLogin) { u.Provider = "connection:gitlab" }, 400},
		"the gateway's own":     {func(u *seal.UpstreamLogin) { u.Provider = "connection:machine" }, 400},
		"no connection":         {func(u *seal.UpstreamLogin) { u.Provider = "connection:gone" }, 400},
		"a way to sign in":      {func(u *seal.UpstreamLogin) { u.Provider = "github" }, 400},
		"nothing to connect":    {func(u *seal.UpstreamLogin) { u.Login.Connect = nil }, 400},
		"another PKCE verifier": {func(u *seal.UpstreamLogin) { u.Verifier = strings.Repeat("x", 43) }, 400},
	} {
		t.Run(name, func(t *testing.T) {
			b := s.NewBrowser()
			back := f.approve("ann", leaves(t, b, s.linkTo(t, b, "alice", "server_id=github-tools")))
			for cookie, c := range b.Cookies {
				u, err := seal.Open[seal.UpstreamLogin](s.Ring, c.Value)
				if err != nil {
					continue
				}
				tt.change(&u)
				raw, err := seal.Seal(s.Ring, u)
				if err != nil {
					t.Fatal(err)
				}
				keep(b, cookie, raw)
			}
			r := b.Get(t, back)
			if tt.status == http.StatusOK {
				wantConnected(t, r)
				if _, err := s.vault.Take(t.Context(), "alice", "connection:github"); err != nil {
					t.Error(err)
				}
				return
			}
			wantPage(t, r, tt.status)
			s.nothing(t)
		})
	}
}
