package handlers_test

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/test/authtest"
	"signet/users"
)

var aliceLogin = set("username", "alice", "password", "correct horse alice")

func hasSession(r *authtest.Response) bool {
	for _, c := range r.Cookies() {
		if strings.Contains(c.Name, "session") {
			return true
		}
	}
	return false
}

// C02: a login counts only in the browser that began it, from our own page.
func TestLoginFromAnotherSiteIsRefused_C02(t *testing.T) {
	s := authtest.New(t)
	other := s.NewBrowser()
	other.Get(t, s.AuthorizeURL(s.PUB))
	cases := []struct {
		name string
		edit func(*authtest.Browser)
	}{
		{"no cookie", func(b *authtest.Browser) { clear(b.Cookies) }},
		{"another browser's cookie", func(b *authtest.Browser) { b.Cookies = other.Cookies }},
		{"cross-site", func(b *authtest.Browser) { b.Header.Set("Sec-Fetch-Site", "cross-site") }},
		{"same-site", func(b *authtest.Browser) { b.Header.Set("Sec-Fetch-Site", "same-site") }},
		{"none", func(b *authtest.Browser) { b.Header.Set("Sec-Fetch-Site", "none") }},
		{"foreign origin", func(b *authtest.Browser) { b.Header = http.Header{"Origin": {"https://evil.test"}} }},
		{"origin null", func(b *authtest.Browser) { b.Header = http.Header{"Origin": {"null"}} }},
		{"origin with another port", func(b *authtest.Browser) { b.Header = http.Header{"Origin": {authtest.Issuer + ":8443"}} }},
		{"neither header", func(b *authtest.Browser) { b.Header = http.Header{} }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := s.NewBrowser()
			page := b.Get(t, s.AuthorizeURL(s.PUB))
			c.edit(b)
			r := b.Submit(t, page, aliceLogin)
			wantPage(t, r, 403)
			if hasSession(r) {
				t.Error("a session was made")
			}
		})
	}
	for _, header := range []http.Header{{"Sec-Fetch-Site": {"same-origin"}, "Origin": {"null"}}, {"Origin": {authtest.Issuer}}} {
		b := s.NewBrowser()
		page := b.Get(t, s.AuthorizeURL(s.PUB))
		b.Header = header
		if r := b.Submit(t, page, aliceLogin); !strings.Contains(r.Body, `value="approve"`) {
			t.Errorf("%v: %d %s", header, r.StatusCode, text(r))
		}
	}
}

// C04: the attributes of every cookie.
func TestCookiesAreBoundToTheHost_C04(t *testing.T) {
	s := authtest.New(t)
	b := s.NewBrowser()
	for range 3 {
		b.Code(t, "alice", s.PUB, set("prompt", "login"))
	}
	if len(b.Cookies) != 2 {
		t.Errorf("%d cookies, want 2", len(b.Cookies))
	}
	size := 0
	for _, c := range b.Cookies {
		size += len(c.String())
		if !strings.HasPrefix(c.Name, "__Host-") || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
			t.Errorf("cookie %s", strings.ReplaceAll(c.String(), c.Value, "..."))
		}
	}
	if size > 4<<10 {
		t.Errorf("cookies of %d bytes", size)
	}
	local := authtest.New(t, func(c *authtest.Config) { c.Issuer = "http://localhost:8080" })
	b = local.NewBrowser()
	b.Code(t, "alice", local.PUB)
	for _, c := range b.Cookies {
		if strings.HasPrefix(c.Name, "__") || c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
			t.Errorf("on http: cookie %s", strings.ReplaceAll(c.String(), c.Value, "..."))
		}
	}
}

// Other programs on this machine get the cookies of localhost, so with a loopback issuer
// cookies replace neither the password nor the consent, whatever the request asks for and
// whatever the user has consented to. The page knows the name.
func TestCookiesAloneSignNobodyInOnThisMachine_C06(t *testing.T) {
	for issuer, want := range map[string]bool{"http://localhost:8080": true, "http://127.0.0.1:8080": true, "http://[::1]:8080": true, "https://localhost:8443": true, authtest.Issuer: false} {
		s := authtest.New(t, func(c *authtest.Config) { c.Issuer = issuer })
		b := s.NewBrowser()
		b.Code(t, "alice", s.PUB)
		for name, c := range map[string]authtest.Client{"the same client": s.PUB, "another client": s.PUB2, "a program on this machine": s.NAT, "the operator's client": s.PRE} {
			for _, prompt := range []string{"", "consent", "none"} {
				target := s.AuthorizeURL(c)
				if prompt != "" {
					target = s.AuthorizeURL(c, set("prompt", prompt))
				}
				page := b.Get(t, target)
				asks := strings.Contains(page.Body, `name="password"`)
				back := page.Sent()
				if want && (back.Get("code") != "" || strings.Contains(page.Body, `name="decision"`) || prompt != "none" && !asks) {
					t.Errorf("%s, %s, prompt=%q: the password is asked for: %t; sent back %q", issuer, name, prompt, asks, back)
				}
				if want && asks && !strings.Contains(page.Body, `value="alice"`) {
					t.Errorf("%s, %s: the page does not know the name", issuer, name)
				}
				if !want && asks {
					t.Errorf("%s, %s, prompt=%q: the password is asked for", issuer, name, prompt)
				}
			}
		}
		b.Code(t, "alice", s.PUB2) // with the password
	}
}

// Row 25: the login page, and the errors it shows.
func TestLoginPageSignsIn_Row25(t *testing.T) {
	s := authtest.New(t)
	b := s.NewBrowser()
	page := b.Get(t, s.AuthorizeURL(s.PUB))
	for _, want := range []string{"Test App", `for="username"`, `for="password"`, `autocomplete="username"`, `autocomplete="current-password"`} {
		if !strings.Contains(page.Body, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	cases := []struct {
		name   string
		edits  []edit
		status int
		text   string
	}{
		{"wrong password", []edit{set("username", "alice", "password", "wrong")}, 401, "Invalid credentials"},
		{"unknown user", []edit{set("username", "mallory<b>", "password", "wrong")}, 401, "Invalid credentials"},
		{"no password", []edit{set("username", "alice")}, 400, "Missing required fields"},
		{"no name", []edit{set("password", "x")}, 400, "Missing required fields"},
		{"neither", nil, 400, "Missing required fields"},
		{"long password", []edit{set("username", "alice", "password", strings.Repeat("x", 1025))}, 400, "longer than 1024"},
		{"two names", []edit{set("username", "alice", "password", "x"), add("username", "bob")}, 400, "more than once"},
		{"busy", []edit{set("username", "busy", "password", "x")}, 503, "try again"},
		{"broken", []edit{set("username", "broken", "password", "x")}, 503, "try again"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := b.Submit(t, page, c.edits...)
			wantPage(t, r, c.status)
			if !strings.Contains(r.Body, c.text) || hasSession(r) || strings.Contains(r.Body, "<b>") || strings.Contains(r.Body, "on fire") {
				t.Errorf("want %q and no session: %s", c.text, text(r))
			}
			if c.status == 401 && !strings.Contains(r.Body, `role="alert"`) {
				t.Error("the error is no alert")
			}
		})
	}
	if r := b.Submit(t, page, set("username", "alice", "password", "wrong")); !strings.Contains(r.Body, `value="alice"`) {
		t.Error("the user name is not kept")
	}
	wantPage(t, b.Submit(t, page, aliceLogin, set("junk", strings.Repeat("x", 64<<10))), 413)
	// After all that the right password still works.
	if r := b.Submit(t, page, aliceLogin); !strings.Contains(r.Body, `value="approve"`) {
		t.Errorf("got %d %s", r.StatusCode, text(r))
	}
	if n := len(s.Log.Audit(t, "login")); n < 5 {
		t.Errorf("%d audit events", n)
	}
}

// Row 26: a transaction must be known, fresh and unanswered.
func TestUnknownAndExpiredRequestsAreRefused_Row26(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t)
		b := s.NewBrowser()
		page := b.Get(t, s.AuthorizeURL(s.PUB))
		for _, path := range []string{"/login", "/oauth/login", "/consent"} {
			wantPage(t, b.Get(t, path), 400)
			wantPage(t, b.Get(t, path+"?state=unknown"), 400)
			wantPage(t, b.Post(t, path, url.Values{"username": {"alice"}, "password": {"correct horse alice"}}), 400)
			wantPage(t, b.Post(t, path, url.Values{"state": {"unknown"}, "username": {"alice"}, "password": {"correct horse alice"}}), 400)
		}
		time.Sleep(10*time.Minute - time.Second)
		consent := b.Submit(t, page, aliceLogin)
		if !strings.Contains(consent.Body, `value="approve"`) {
			t.Fatalf("just before the end: %s", text(consent))
		}
		time.Sleep(2 * time.Second)
		for _, r := range []*authtest.Response{b.Submit(t, page, aliceLogin), b.Submit(t, consent, set("decision", "approve"))} {
			wantPage(t, r, 400)
			if !strings.Contains(r.Body, "Authorization request expired") {
				t.Errorf("another text: %s", text(r))
			}
		}
	})
}

// Row 28: a form with state, username and password alone, posted to the alias,
// is enough.
func TestPlainFormSignsIn_Row28(t *testing.T) {
	s := authtest.New(t)
	b := s.NewBrowser()
	_, fields := b.Get(t, s.AuthorizeURL(s.PUB)).Form(t)
	r := b.Post(t, "/oauth/login", url.Values{"state": {fields.Get("state")}, "username": {"alice"}, "password": {"correct horse alice"}})
	if r = b.Submit(t, r, set("decision", "approve")); r.Sent().Get("code") == "" {
		t.Errorf("no code: %d %s", r.StatusCode, r.Body)
	}
	if len(fields) != 1 {
		t.Errorf("hidden fields %v", fields)
	}
}

// Row 12: two flows with one state, in one browser, end each with its own client, also
// if the user signs in for each. If another user signs in for the second, the first
// consent page is dead, and nothing comes of it.
func TestParallelFlowsDoNotDisturbEachOther_Row12(t *testing.T) {
	s := authtest.New(t)
	b := s.NewBrowser()
	one := b.Get(t, s.AuthorizeURL(s.PUB))
	two := b.Get(t, s.AuthorizeURL(s.PRE))
	one = b.Submit(t, one, aliceLogin)
	bobs := b.Get(t, s.AuthorizeURL(s.PRE, set("prompt", "login")))
	two = b.Submit(t, two, aliceLogin)
	codeOne := b.Submit(t, one, set("decision", "approve")).Sent().Get("code")
	codeTwo := b.Submit(t, two, set("decision", "approve")).Sent().Get("code")
	for _, c := range []struct {
		client     authtest.Client
		code, want string
	}{{s.PUB, codeOne, "alice"}, {s.PRE, codeTwo, "alice"}} {
		claims, err := s.Verifier.Verify(context.Background(), s.Redeem(t, c.client, c.code).Tokens(t).Access)
		if err != nil || claims.Subject != c.want {
			t.Errorf("sub %v, %v; want %s", claims, err, c.want)
		}
	}
	one = b.Get(t, s.AuthorizeURL(s.PUB, set("prompt", "consent")))
	two = b.Submit(t, bobs, set("username", "bob", "password", "correct horse bob"))
	wantPage(t, b.Submit(t, one, set("decision", "approve")), 400)
	codeTwo = b.Submit(t, two, set("decision", "approve")).Sent().Get("code")
	claims, err := s.Verifier.Verify(context.Background(), s.Redeem(t, s.PRE, codeTwo).Tokens(t).Access)
	if err != nil || claims.Subject != "bob" {
		t.Errorf("sub %v, %v; want bob", claims, err)
	}
}

// Two tabs of a browser without cookies begin a login each, before either has its answer. The
// cookies of both answers are kept, and later logins have no new one.
func TestFirstLoginsOfABrowserAtOnce_Row12(t *testing.T) {
	s := authtest.New(t)
	b, other := s.NewBrowser(), s.NewBrowser()
	one := b.Get(t, s.AuthorizeURL(s.PUB))
	two := other.Get(t, s.AuthorizeURL(s.PRE)) // as another tab: without the cookie of the first answer
	maps.Copy(b.Cookies, other.Cookies)
	for _, tab := range []struct {
		client authtest.Client
		page   *authtest.Response
	}{{s.PUB, one}, {s.PRE, two}} {
		consent := b.Submit(t, tab.page, aliceLogin)
		code := b.Submit(t, consent, set("decision", "approve")).Sent().Get("code")
		if answer := s.Redeem(t, tab.client, code); answer.StatusCode != 200 {
			t.Errorf("the code of a tab: %s", answer)
		}
	}
	names := func() []string { return slices.Sorted(maps.Keys(b.Cookies)) }
	before := names()
	if len(before) != 3 { // and the session
		t.Errorf("cookies %q, want those of both tabs and the session", before)
	}
	b.Get(t, s.AuthorizeURL(s.PUB))
	if after := names(); !slices.Equal(after, before) {
		t.Errorf("cookies %q after another login, want %q", after, before)
	}
	wantPage(t, s.NewBrowser().Submit(t, two, aliceLogin), 403)
	b.Submit(t, b.Get(t, "/account"), set("action", "sign_out"))
	if left := names(); len(left) > 0 {
		t.Errorf("cookies %q after signing out", left)
	}
}

// A user check with a bug fails one request, not the server.
func TestPanicIsAnError(t *testing.T) {
	s := authtest.New(t)
	b := s.NewBrowser()
	page := b.Get(t, s.AuthorizeURL(s.PUB))
	action, fields := page.Form(t)
	fields.Set("username", "panic")
	fields.Set("password", "x")
	r := request("POST", authtest.Issuer+action, fields.Encode(), "Content-Type", formType, "Sec-Fetch-Site", "same-origin")
	for _, c := range b.Cookies {
		r.AddCookie(c)
	}
	w := s.Failing(t, r)
	if w.StatusCode != 500 || strings.Contains(w.Body, "bug") {
		t.Errorf("%d %s", w.StatusCode, w.Body)
	}
	if r := b.Submit(t, page, aliceLogin); !strings.Contains(r.Body, `value="approve"`) {
		t.Errorf("after it: %d %s", r.StatusCode, text(r))
	}
}

// A CheckFunc is asked once; the scopes it returned hold for the session.
func TestUsersMayComeFromAFunction_Row22(t *testing.T) {
	check := users.CheckFunc(func(_ context.Context, name, password string) (users.User, error) {
		if name != "carol" || password != "correct horse carol" {
			return users.User{}, users.ErrInvalid
		}
		return users.User{Subject: "0", Name: "carol", Scopes: []string{"mcp:read", "admin"}}, nil
	})
	s := authtest.New(t, func(c *authtest.Config) { c.Users = check })
	b := s.NewBrowser()
	for range 2 {
		code := b.Code(t, "carol", s.PRE, set("scope", "mcp:read admin mcp:write"))
		tok := s.Redeem(t, s.PRE, code).Tokens(t)
		if tok = s.Refresh(t, s.PRE, tok.Refresh).Tokens(t); tok.Scope != "mcp:read admin" {
			t.Errorf("scope %q", tok.Scope)
		}
	}
	// It believes every subject, so an empty subject must not pass for a user.
	fresh := s.NewBrowser()
	_, fields := fresh.Get(t, s.AuthorizeURL(s.PRE)).Form(t)
	wantPage(t, fresh.Get(t, "/consent?state="+fields.Get("state")), 400)
	wantPage(t, fresh.Post(t, "/consent", url.Values{"state": fields["state"], "decision": {"approve"}}), 400)
}

// The users file is a source like any other: without an entry in it no user can sign
// in, and a new password ends everything issued before.
func TestUsersMayComeFromAFile(t *testing.T) {
	file, err := users.OpenFile(filepath.Join(t.TempDir(), "users"))
	if err != nil {
		t.Fatal(err)
	}
	s := authtest.New(t, func(c *authtest.Config) { c.Users = file })
	b := s.NewBrowser()
	page := b.Get(t, s.AuthorizeURL(s.PUB))
	wantPage(t, b.Submit(t, page, aliceLogin), 401)
	if _, err := file.Add(t.Context(), users.User{Name: "alice"}, "correct horse alice"); err != nil {
		t.Fatal(err)
	}
	tok := s.Tokens(t, "alice", s.PUB)
	tok = s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
	if err := file.Passwd(t.Context(), "alice", "another good password"); err != nil {
		t.Fatal(err)
	}
	wantError(t, s.Refresh(t, s.PUB, tok.Refresh), 400, "invalid_grant")
}

// Signing out ends the session for good, also for a copy of its cookie, and ends
// everything that was begun in it.
func TestLogoutEndsTheSession(t *testing.T) {
	s := authtest.New(t)
	b := s.NewBrowser()
	b.Code(t, "alice", s.PUB)
	pending := b.SignIn(t, "alice", s.LOC)
	stolen := s.NewBrowser()
	for name, c := range b.Cookies {
		stolen.Cookies[name] = c
	}
	page := b.Get(t, "/logout")
	if !strings.Contains(page.Body, "alice") {
		t.Errorf("the page does not name the account: %s", text(page))
	}
	if r := b.Get(t, s.AuthorizeURL(s.LOC)); !strings.Contains(r.Body, `value="approve"`) {
		t.Error("a GET signed out")
	}
	b.Header.Set("Sec-Fetch-Site", "cross-site")
	wantPage(t, b.Submit(t, page), 200) // it asks again
	wantConsent(t, b, s)
	b.Header.Set("Sec-Fetch-Site", "same-origin")
	b.Submit(t, page)
	if len(b.Cookies) != 0 {
		t.Errorf("cookies stay: %v", b.Cookies)
	}
	wantLogin(t, stolen.Get(t, s.AuthorizeURL(s.PUB)))
	s.Restart(t)
	wantLogin(t, stolen.Get(t, s.AuthorizeURL(s.PUB)))
	wantPage(t, b.Submit(t, pending, set("decision", "approve")), 403)
}

// Without the store no user can sign in, and no answer is a verdict.
func TestLoginWithoutStoreIsUnavailable(t *testing.T) {
	s := authtest.New(t)
	b := s.NewBrowser()
	page := b.Get(t, s.AuthorizeURL(s.PUB))
	consent := b.Submit(t, page, aliceLogin)
	s.StopStore(t)
	wantPage(t, b.Submit(t, page, aliceLogin), 503)
	wantPage(t, b.Submit(t, consent, set("decision", "approve")), 503)
	s.Reopen(t)
	if r := b.Submit(t, consent, set("decision", "approve")); r.Sent().Get("code") == "" {
		t.Errorf("after the outage: %d %s", r.StatusCode, r.Body)
	}
}
