package handlers_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/seal"
	"signet/internal/store"
	"signet/internal/test/authtest"
)

// C05: the transaction is sealed, bound to the browser, and answered once.
func TestTransactionBelongsToItsBrowser_C05(t *testing.T) {
	s := authtest.New(t)
	b := s.NewBrowser()
	page := b.SignIn(t, "alice", s.PUB)
	action, fields := page.Form(t)
	bob := s.NewBrowser()
	_, bobs := bob.SignIn(t, "bob", s.PUB).Form(t)
	unsigned := s.NewBrowser()
	_, before := unsigned.Get(t, s.AuthorizeURL(s.PUB)).Form(t)

	state := fields.Get("state")
	flipped := []byte(state)
	flipped[len(flipped)-20] ^= 1
	cases := []struct {
		name   string
		b      *authtest.Browser
		state  string
		status int
	}{
		{"bob's transaction", b, bobs.Get("state"), 403},
		{"in bob's browser", bob, state, 403},
		{"flipped", b, string(flipped), 400},
		{"cut", b, state[:len(state)-1], 400},
		{"a client id", b, s.PUB.ID, 400},
		{"nobody signed in", unsigned, before.Get("state"), 400},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			wantPage(t, c.b.Post(t, action, url.Values{"state": {c.state}, "decision": {"approve"}}), c.status)
			if c.state != before.Get("state") {
				wantPage(t, c.b.Get(t, action+"?state="+c.state), c.status)
			}
		})
	}
	wantPage(t, b.Post(t, action, url.Values{"state": {state}, "decision": {"maybe"}}), 400)
	wantPage(t, b.Post(t, action, url.Values{"state": {state}}), 400)
	for _, site := range []string{"cross-site", "same-site", ""} {
		b.Header = http.Header{"Sec-Fetch-Site": {site}, "Origin": {"https://app.test"}}
		wantPage(t, b.Post(t, action, url.Values{"state": {state}, "decision": {"approve"}}), 403)
	}
	b.Header = http.Header{"Sec-Fetch-Site": {"same-origin"}}
	// Other fields are ignored: the transaction contains what is granted.
	r := b.Post(t, action, url.Values{"state": {state}, "decision": {"approve"}, "client_id": {s.PUB2.ID}, "redirect_uri": {"https://evil.test/"}, "scope": {"admin"}, "resource": {"https://x.test"}})
	if to := r.Header.Get("Location"); !strings.HasPrefix(to, s.PUB.RedirectURI+"?code=") {
		t.Fatalf("redirect to %s", to)
	}
	if tok := s.Redeem(t, s.PUB, r.Sent().Get("code")).Tokens(t); tok.Scope != "mcp:read" {
		t.Errorf("scope %s", tok.Scope)
	}
	for _, decision := range []string{"approve", "deny"} {
		wantPage(t, b.Post(t, action, url.Values{"state": {state}, "decision": {decision}}), 400)
	}
	wantPage(t, b.Get(t, "/consent?state="+state), 400)
	s.Restart(t)
	wantPage(t, b.Post(t, action, url.Values{"state": {state}, "decision": {"approve"}}), 400)
}

// One transaction makes one grant, also when both buttons are pressed at once and
// when another user signs in on it.
func TestTransactionIsAnsweredOnce(t *testing.T) {
	s := authtest.New(t)
	b := s.NewBrowser()
	login := b.Get(t, s.AuthorizeURL(s.PUB))
	alice := b.Submit(t, login, aliceLogin)
	bob := b.Submit(t, login, set("username", "bob", "password", "correct horse bob"))
	if r := b.Submit(t, bob, set("decision", "approve")); r.Sent().Get("code") == "" {
		t.Fatalf("%d %s", r.StatusCode, r.Body)
	}
	wantPage(t, b.Submit(t, alice, set("decision", "approve")), 400)
	wantPage(t, b.Submit(t, login, aliceLogin), 400)

	// Pressed twenty times at once.
	page := s.NewBrowser()
	consent := page.SignIn(t, "alice", s.PUB)
	action, fields := consent.Form(t)
	fields.Set("decision", "approve")
	codes := 0
	for _, r := range parallel(20, func() *authtest.Response {
		r := request("POST", authtest.Issuer+action, fields.Encode(), "Content-Type", formType, "Sec-Fetch-Site", "same-origin")
		for _, c := range page.Cookies {
			r.AddCookie(c)
		}
		return s.Do(t, r)
	}) {
		if r.Sent().Get("code") != "" {
			codes++
		} else {
			wantPage(t, r, 400)
		}
	}
	if codes != 1 {
		t.Errorf("%d codes, want 1", codes)
	}
}

// A change of the client between login and consent takes effect.
func TestConsentChecksTheClientAgain(t *testing.T) {
	s := authtest.New(t)
	old := s.PRE
	tok := s.Tokens(t, "alice", old)
	b := s.NewBrowser()
	page := b.SignIn(t, "alice", old, set("prompt", "consent"))
	s.PRE.RedirectURI = "https://pre.test/new"
	s.Restart(t)
	wantPage(t, b.Submit(t, page, set("decision", "approve")), 400)
	wantPage(t, b.Submit(t, page, set("decision", "deny")), 400)
	tok = s.Refresh(t, old, tok.Refresh).Tokens(t)
	s.PRE.ID = "another"
	s.Restart(t)
	wantPage(t, b.Submit(t, page, set("decision", "approve")), 400)
	wantError(t, s.Refresh(t, old, tok.Refresh), 401, "invalid_client")
	wantError(t, s.Refresh(t, s.PRE, tok.Refresh), 400, "invalid_grant")
}

// C06, row 32: a consent is remembered for an identical request, and for no other.
func TestConsentIsRememberedOnlyForTheSameRequest_C06(t *testing.T) {
	s := authtest.New(t, several)
	b := s.NewBrowser()
	code := b.Code(t, "alice", s.PUB)
	asks := func(c authtest.Client, edits ...edit) bool {
		t.Helper()
		r := b.Get(t, s.AuthorizeURL(c, edits...))
		if r.Sent().Get("code") == "" && !strings.Contains(r.Body, `value="approve"`) {
			t.Fatalf("neither code nor consent page: %d %s", r.StatusCode, text(r))
		}
		return r.Sent().Get("code") == ""
	}
	if !asks(s.PUB) {
		t.Error("an unused code counts as consent")
	}
	tok := s.Redeem(t, s.PUB, code).Tokens(t)
	if asks(s.PUB) || asks(s.PUB, set("prompt", "none")) {
		t.Error("the same again asks again")
	}
	if !asks(s.PUB, set("prompt", "consent")) {
		t.Error("prompt=consent does not ask")
	}
	if !asks(s.PUB2) {
		t.Error("another registration with the same name and redirect URI does not ask")
	}
	if !asks(s.PUB, set("scope", "mcp:read mcp:write")) || !asks(s.PUB, set("scope", "mcp:read openid")) {
		t.Error("a wider scope does not ask")
	}
	if !asks(s.PUB, set("resource", authtest.ResourceB)) {
		t.Error("another resource does not ask")
	}
	bob := s.NewBrowser()
	if r := bob.SignIn(t, "bob", s.PUB); !strings.Contains(r.Body, `value="approve"`) {
		t.Error("another user is not asked")
	}
	// Skipped after a login as well, and then the transaction is spent.
	fresh := s.NewBrowser()
	login := fresh.Get(t, s.AuthorizeURL(s.PUB))
	if r := fresh.Submit(t, login, aliceLogin); r.Sent().Get("code") == "" {
		t.Errorf("asks after a login: %s", text(r))
	}
	wantPage(t, fresh.Submit(t, login, aliceLogin), 400)

	two := s.Register(t, "https://app.test/one", "https://app.test/two")
	s.Redeem(t, two, b.Code(t, "alice", two, set("redirect_uri", "https://app.test/one")), set("redirect_uri", "https://app.test/one")).Tokens(t)
	if !asks(two, set("redirect_uri", "https://app.test/two")) {
		t.Error("another redirect URI does not ask")
	}
	for _, local := range []authtest.Client{s.NAT, s.LOC, s.Register(t, "cursor://anysphere.cursor-mcp/oauth/callback")} {
		s.Redeem(t, local, b.Code(t, "alice", local)).Tokens(t)
		if !asks(local) {
			t.Errorf("a program on the machine is approved silently: %s", local.RedirectURI)
		}
	}
	s.Revoke(t, s.PUB, tok.Refresh)
	if !asks(s.PUB) {
		t.Error("a revoked grant counts as consent")
	}
}

// Earlier releases stored more of the hash. Those consents are remembered too.
func TestConsentOfAnEarlierReleaseIsRemembered(t *testing.T) {
	s := authtest.New(t)
	b := s.NewBrowser()
	s.Redeem(t, s.PUB, b.Code(t, "alice", s.PUB)).Tokens(t)
	for _, c := range []struct {
		hash       string // as SQL
		remembered bool
	}{{"consent_hash", true}, {"consent_hash || 'abcdef'", true}, {"'x' || consent_hash", false}} {
		err := s.Store.Write(t.Context(), func(tx store.Tx) error {
			_, err := tx.Exec("UPDATE grants SET consent_hash = " + c.hash)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if r := b.Get(t, s.AuthorizeURL(s.PUB)); (r.Sent().Get("code") != "") != c.remembered {
			t.Errorf("with the stored hash %s: %d %s; remembered should be %v", c.hash, r.StatusCode, text(r), c.remembered)
		}
	}
}

// C07: the page names the client and what it asks for, and foreign text stays text.
func TestConsentPageSaysWhoGetsWhat_C07(t *testing.T) {
	s := authtest.New(t)
	page := s.NewBrowser().SignIn(t, "alice", s.PUB, set("scope", "mcp:read mcp:write"))
	for _, want := range []string{"App &lt;b&gt;One&lt;/b&gt;", "unverified", "app.test", "mcp:read", "mcp:write", authtest.ResourceA, "alice", "Use another account", `value="deny"`} {
		if !strings.Contains(page.Body, want) {
			t.Errorf("the page does not show %s: %s", want, text(page))
		}
	}
	if page := s.NewBrowser().SignIn(t, "alice", s.PRE); strings.Contains(page.Body, "unverified") || !strings.Contains(page.Body, "Preregistered") {
		t.Errorf("a configured client: %s", text(page))
	}
	for name, bad := range map[string]string{
		`<img src=x onerror=alert(1)>`:      "<img",
		"safe\u202Eexe.evil":                "\u202E",
		"zero\u200Bwidth\u2060\uFEFF":       "\u200B",
		"isolate\u2066x\u2069":              "\u2066",
		"two\nlines\x00\x1b[31m":            "\x1b",
		strings.Repeat("N", 500):            strings.Repeat("N", 100),
		"Z" + strings.Repeat("\u0301", 100): strings.Repeat("\u0301", 5),
	} {
		raw, err := seal.Seal(s.Ring, seal.Client{Name: name, RedirectURIs: []string{"https://app.test/cb"}, Method: "none", Scope: []string{"mcp:read"}})
		if err != nil {
			t.Fatal(err)
		}
		page := s.NewBrowser().SignIn(t, "alice", authtest.Client{ID: raw, RedirectURI: "https://app.test/cb"})
		if !strings.Contains(page.Body, `value="approve"`) || strings.Contains(text(page), bad) {
			t.Errorf("name %q: %s", name, text(page))
		}
	}
}

// otherAccount follows the link "Use another account" of a consent page.
func otherAccount(t *testing.T, b *authtest.Browser, page *authtest.Response) *authtest.Response {
	t.Helper()
	_, link, _ := strings.Cut(page.Body, `<a href="`)
	link, _, _ = strings.Cut(link, `"`)
	return b.Get(t, link)
}

// "use another account" leads to the login page of the same request.
func TestUserMayUseAnotherAccount(t *testing.T) {
	s := authtest.New(t)
	b := s.NewBrowser()
	page := b.SignIn(t, "alice", s.PUB)
	login := otherAccount(t, b, page)
	wantLogin(t, login)
	if r := b.Submit(t, login, set("username", "bob", "password", "correct horse bob")); !strings.Contains(r.Body, "bob") {
		t.Errorf("not bob: %s", text(r))
	}
}

// A user may grant what the client has requested, and not only what the account before may grant.
func TestAnotherAccountIsAskedForTheWholeRequest(t *testing.T) {
	s := authtest.New(t)
	may := func(user string, scopes ...string) {
		s.Users.Change(user, func(a *authtest.Account) bool { a.Scopes = scopes; return true })
	}
	sealed := func(page *authtest.Response) seal.Login {
		_, fields := page.Form(t)
		tx, err := seal.Open[seal.Login](s.Ring, fields.Get("state"))
		if err != nil {
			t.Fatal(err)
		}
		return tx
	}
	approve := func(b *authtest.Browser, page *authtest.Response) string {
		return s.Redeem(t, s.PUB, b.Submit(t, page, set("decision", "approve")).Sent().Get("code")).Tokens(t).Scope
	}
	bobLogin := set("username", "bob", "password", "correct horse bob")
	may("bob", "mcp:write")
	b := s.NewBrowser()
	whole := set("scope", "mcp:read mcp:write openid", "prompt", "consent")
	page := b.SignIn(t, "bob", s.PUB, whole)
	if got := sealed(page).Scope; !slices.Equal(got, []string{"mcp:write", "openid"}) {
		t.Fatalf("bob is asked for %q", got)
	}
	if session := b.Get(t, s.AuthorizeURL(s.PUB, whole)); !strings.Contains(otherAccount(t, b, session).Body, `name="password"`) {
		t.Fatalf("the session leads to %s", text(session))
	} else if got := approve(b, b.Submit(t, otherAccount(t, b, session), aliceLogin)); got != "mcp:read mcp:write openid" {
		t.Errorf("alice, after the session of bob: granted %q", got)
	}

	may("alice", "mcp:read")
	b = s.NewBrowser()
	page = b.SignIn(t, "bob", s.PUB, whole)
	page = b.Submit(t, otherAccount(t, b, page), aliceLogin)
	if got := sealed(page).Scope; !slices.Equal(got, []string{"mcp:read", "openid"}) {
		t.Errorf("alice is asked for %q", got)
	}
	page = b.Submit(t, otherAccount(t, b, page), bobLogin)
	if got := approve(b, page); got != "mcp:write openid" {
		t.Errorf("bob again: granted %q", got)
	}

	// Only a request of which a part is left out is sealed beside the scope.
	may("alice", "mcp:read", "mcp:write")
	b = s.NewBrowser()
	page = b.SignIn(t, "alice", s.PUB, whole)
	if got := sealed(page); got.Asked != nil {
		t.Errorf("the scope is sealed twice: %q", got.Asked)
	}
	// Releases that know only the scope sealed it without the request.
	b = s.NewBrowser()
	tx := sealed(b.SignIn(t, "bob", s.PUB, whole))
	tx.Asked = nil
	old, err := seal.Seal(s.Ring, tx)
	if err != nil {
		t.Fatal(err)
	}
	if got := approve(b, b.Submit(t, b.Get(t, "/login?state="+old), aliceLogin)); got != "mcp:write openid" {
		t.Errorf("alice, on a transaction of an earlier release: granted %q", got)
	}
}

// A request that the authorization endpoint accepts is not too long after the login, where what the
// user may grant stands beside what was requested.
func TestLongRequestWithScopesOfAnotherUser(t *testing.T) {
	var scopes []string
	for i := range 45 {
		scopes = append(scopes, fmt.Sprintf("scope-%02d-with-a-rather-long-name:read", i))
	}
	s := authtest.New(t, func(cfg *authtest.Config) { cfg.Scopes, cfg.DefaultScopes = scopes, scopes })
	s.Users.Change("alice", func(a *authtest.Account) bool { a.Scopes = scopes[1:]; return true })
	for n := 100; ; n += 100 {
		b, edits := s.NewBrowser(), set("scope", strings.Join(scopes, " "), "state", strings.Repeat("s", n))
		if page := b.Get(t, s.AuthorizeURL(s.PRE, edits)); page.Sent().Get("error") != "" {
			if n == 100 {
				t.Error("even a short state is too long")
			}
			break
		}
		if page := b.SignIn(t, "alice", s.PRE, edits); !strings.Contains(page.Body, `value="approve"`) {
			t.Fatalf("a state of %d: %d %s", n, page.StatusCode, text(page))
		}
	}
}

// E13, before the code exists: a user who is disabled between login and consent
// gives nothing, and a session ends with the password.
func TestChangedUserGivesNoConsent_E13(t *testing.T) {
	s := authtest.New(t)
	b := s.NewBrowser()
	page := b.SignIn(t, "alice", s.PUB)
	s.Users.Change("alice", func(a *authtest.Account) bool { a.Version = "2"; return true })
	wantPage(t, b.Submit(t, page, set("decision", "approve")), 400)
	wantLogin(t, b.Get(t, s.AuthorizeURL(s.PUB)))
	b.Code(t, "alice", s.PUB)
	s.Users.Change("alice", func(*authtest.Account) bool { return false })
	wantLogin(t, b.Get(t, s.AuthorizeURL(s.PUB)))
}

// What can no longer be granted is neither shown nor granted on a page that is open.
func TestOpenConsentPageFollowsTheConfiguration(t *testing.T) {
	both := set("scope", "mcp:read mcp:write", "resource", authtest.ResourceB)
	for name, c := range map[string]struct {
		change func(*authtest.Server)
		code   string // empty: the rest is granted
	}{
		"a scope of the server": {func(s *authtest.Server) { s.Config.Scopes = []string{"mcp:read", "admin"} }, ""},
		"a scope of the user": {func(s *authtest.Server) {
			s.Users.Change("alice", func(a *authtest.Account) bool { a.Scopes = []string{"mcp:read"}; return true })
		}, ""},
		"all scopes": {func(s *authtest.Server) {
			s.Config.Scopes, s.Config.DefaultScopes = []string{"admin"}, []string{"admin"}
		}, "invalid_scope"},
		"the resource": {func(s *authtest.Server) { s.Config.Resources = s.Config.Resources[:1] }, "invalid_target"},
	} {
		t.Run(name, func(t *testing.T) {
			s := authtest.New(t, several)
			shown, posted, denied := s.NewBrowser(), s.NewBrowser(), s.NewBrowser()
			path := shown.SignIn(t, "alice", s.PRE, both).At.RequestURI()
			page, toDeny := posted.SignIn(t, "alice", s.PUB, both), denied.SignIn(t, "alice", s.PUB, both)
			c.change(s)
			s.Restart(t)
			wantRedirect(t, denied.Submit(t, toDeny, set("decision", "deny")), s.PUB.RedirectURI, "access_denied", "S")
			again, approved := shown.Get(t, path), posted.Submit(t, page, set("decision", "approve"))
			if c.code != "" {
				wantRedirect(t, again, s.PRE.RedirectURI, c.code, "S")
				wantRedirect(t, approved, s.PUB.RedirectURI, c.code, "S")
				return
			}
			if !strings.Contains(again.Body, "mcp:read") || strings.Contains(again.Body, "mcp:write") {
				t.Errorf("the page shows\n%s", text(again))
			}
			if approved.StatusCode == http.StatusBadRequest { // the page was of more, so it is shown again
				approved = posted.Submit(t, approved, set("decision", "approve"))
			}
			if got := s.Redeem(t, s.PUB, approved.Sent().Get("code")).Tokens(t).Scope; got != "mcp:read" {
				t.Errorf("granted %q", got)
			}
		})
	}
}

// A session lasts twelve hours.
func TestSessionEndsAfterTwelveHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t)
		b := s.NewBrowser()
		b.Code(t, "alice", s.LOC)
		time.Sleep(12*time.Hour - time.Second)
		if r := b.Get(t, s.AuthorizeURL(s.LOC)); !strings.Contains(r.Body, `value="approve"`) {
			t.Errorf("after 12 h less a second: %s", text(r))
		}
		wantLogin(t, b.Get(t, s.AuthorizeURL(s.LOC, set("max_age", "3600"))))
		time.Sleep(2 * time.Second)
		wantLogin(t, b.Get(t, s.AuthorizeURL(s.LOC)))
	})
}
