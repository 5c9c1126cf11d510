package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signet/handlers"
	"signet/internal/seal"
	"signet/internal/store"
	"signet/internal/test/authtest"
	"signet/users"
)

// openAccount signs a user in at the account page.
func openAccount(t *testing.T, b *authtest.Browser, name string) *authtest.Response {
	t.Helper()
	page := b.Get(t, "/account")
	if strings.Contains(page.Body, `name="password"`) {
		page = b.Submit(t, page, set("username", name, "password", "correct horse "+name))
	}
	if !strings.Contains(page.Body, ">Your account<") {
		t.Fatalf("no account page: %d %s", page.StatusCode, text(page))
	}
	return page
}

// hidden returns the values of the hidden fields of that name on a page.
func hidden(page *authtest.Response, name string) []string {
	var values []string
	for _, part := range strings.Split(page.Body, `name="`+name+`" value="`)[1:] {
		values = append(values, part[:strings.Index(part, `"`)])
	}
	return values
}

// Row 32: the account page lists what is connected and ends it, with its tokens.
func TestAccountPageShowsAndEndsWhatIsConnected_Row32(t *testing.T) {
	s := authtest.New(t)
	tok := s.Tokens(t, "alice", s.PUB)
	s.Tokens(t, "bob", s.PUB2)
	b := s.NewBrowser()
	page := openAccount(t, b, "alice")
	if grants := hidden(page, "grant"); len(grants) != 1 || !strings.Contains(page.Body, "App &lt;b&gt;One&lt;/b&gt;") || !strings.Contains(page.Body, "mcp:read") || !strings.Contains(page.Body, authtest.ResourceA) {
		t.Fatalf("grants %v: %s", grants, text(page))
	}
	next := s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
	if page = b.Get(t, "/account"); strings.Count(page.Body, "<time") != 3 || strings.Contains(page.Body, "Not yet") {
		t.Errorf("the refresh does not show: %s", text(page))
	}
	if done := b.Submit(t, page, set("action", "disconnect")); len(hidden(done, "grant")) != 0 || !strings.Contains(done.Body, "No application") {
		t.Errorf("still connected: %s", text(done))
	}
	wantDead(t, s, s.PUB, tok, next)
	if r := b.Submit(t, page, set("action", "disconnect")); r.StatusCode != 200 {
		t.Errorf("once more: %d", r.StatusCode)
	}
	if n := len(s.Log.Audit(t, "revoke")); n != 1 {
		t.Errorf("%d audit events", n)
	}
}

// A form that differs from a good one in a single part changes nothing.
func TestAccountFormOfAnotherSessionIsRefused(t *testing.T) {
	s := authtest.New(t)
	tok := s.Tokens(t, "alice", s.PUB)
	b, bob := s.NewBrowser(), s.NewBrowser()
	page, bobs := openAccount(t, b, "alice"), openAccount(t, bob, "bob")
	grant := hidden(page, "grant")[0]
	for _, c := range []struct {
		name   string
		status int
		post   func() *authtest.Response
	}{
		{"cross-site", 403, func() *authtest.Response {
			b.Header.Set("Sec-Fetch-Site", "cross-site")
			defer b.Header.Set("Sec-Fetch-Site", "same-origin")
			return b.Submit(t, page, set("action", "disconnect"))
		}},
		{"no token", 403, func() *authtest.Response { return b.Submit(t, page, set("action", "disconnect"), del("token")) }},
		{"token of another session", 403, func() *authtest.Response {
			return b.Submit(t, page, set("action", "disconnect", "token", hidden(bobs, "token")[0]))
		}},
		{"alice's form in bob's browser", 403, func() *authtest.Response { return bob.Submit(t, page, set("action", "disconnect")) }},
		{"bob disconnects alice's grant", 200, func() *authtest.Response {
			return bob.Submit(t, bobs, set("action", "disconnect", "grant", grant))
		}},
		{"no session", 200, func() *authtest.Response { return s.NewBrowser().Submit(t, page, set("action", "disconnect")) }},
		{"no action", 400, func() *authtest.Response { return b.Submit(t, page) }},
		{"unknown action", 400, func() *authtest.Response { return b.Submit(t, page, set("action", "erase")) }},
		{"unknown grant", 200, func() *authtest.Response { return b.Submit(t, page, set("action", "disconnect", "grant", "x")) }},
		{"password without a file", 400, func() *authtest.Response {
			return b.Submit(t, page, set("action", "password", "old", "correct horse alice", "new", "another good password"))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if r := c.post(); r.StatusCode != c.status {
				t.Errorf("got %d, want %d: %s", r.StatusCode, c.status, text(r))
			}
			tok = s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
		})
	}
}

// A login that no client asked for ends at the account page and gives nothing else.
func TestAccountPageAsksForALogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t)
		b := s.NewBrowser()
		page := b.Get(t, "/account?done=password&next=https://evil.test")
		_, fields := page.Form(t)
		wantPage(t, b.Submit(t, page, set("username", "alice", "password", "wrong")), 401)
		wantPage(t, s.NewBrowser().Submit(t, page, aliceLogin), 403)
		r := b.Submit(t, page, aliceLogin)
		if !strings.Contains(r.Body, ">Your account<") || strings.Contains(r.Body, "is changed") || strings.Contains(r.Body, "evil") {
			t.Errorf("got %d %s", r.StatusCode, text(r))
		}
		wantPage(t, b.Get(t, "/consent?state="+fields.Get("state")), 400)
		wantPage(t, b.Post(t, "/consent", url.Values{"state": fields["state"], "decision": {"approve"}}), 400)
		time.Sleep(11 * time.Minute)
		wantPage(t, b.Submit(t, page, aliceLogin), 400)
		time.Sleep(12 * time.Hour)
		wantLogin(t, b.Get(t, "/account"))
		if r := b.Submit(t, r, set("action", "sign_out")); !strings.Contains(r.Body, `name="password"`) {
			t.Errorf("a form of a session that is over: %s", text(r))
		}
	})
}

// withFile is a server whose users are in a file, alice among them.
func withFile(t *testing.T) (*authtest.Server, *users.File) {
	t.Helper()
	file, err := users.OpenFile(filepath.Join(t.TempDir(), "users"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Add(t.Context(), users.User{Name: "alice", Scopes: []string{"mcp:read"}}, "correct horse alice"); err != nil {
		t.Fatal(err)
	}
	return authtest.New(t, func(c *authtest.Config) {
		c.Users = file
		c.Change = func(o *handlers.Options) {
			o.EndSessions = file.SignOut
			o.ChangePassword = func(ctx context.Context, subject, old, next string) (users.User, error) {
				return file.ChangePassword(ctx, subject, old, next, o.App)
			}
		}
	}), file
}

// A new password ends everything but the session that set it.
func TestPasswordChangeEndsEverythingElse(t *testing.T) {
	s, _ := withFile(t)
	const next = "seldom purple anvil quarter"
	s.Log.Forbid(next)
	tok := s.Tokens(t, "alice", s.PUB)
	b, other := s.NewBrowser(), s.NewBrowser()
	page := openAccount(t, b, "alice")
	openAccount(t, other, "alice")
	for _, c := range []struct {
		name, old, next, want string
		status                int
	}{
		{"wrong", "wrong", next, "The current password is wrong.", 400},
		{"empty", "", next, "Missing required fields", 400},
		{"empty new one", "correct horse alice", "", "Missing required fields", 400},
		{"easy", "correct horse alice", "password1", "too easy to guess", 400},
		{"the app's name", "correct horse alice", "Test App 1", "cannot be used", 400},
		{"the same", "correct horse alice", "correct horse alice", "cannot be used", 400},
		{"long", "correct horse alice", strings.Repeat("x", 1025), "1024", 400},
		{"long old one", strings.Repeat("x", 1025), next, "1024", 400},
	} {
		r := b.Submit(t, page, set("action", "password", "old", c.old, "new", c.next))
		if r.StatusCode != c.status || !strings.Contains(r.Body, c.want) || !strings.Contains(r.Body, `role="alert"`) || strings.Contains(r.Body, next) {
			t.Errorf("%s: %d %s", c.name, r.StatusCode, text(r))
		}
	}
	tok = s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
	if r := b.Submit(t, page, set("action", "password", "old", "correct horse alice", "new", next)); !strings.Contains(r.Body, ">Your account<") || len(hidden(r, "grant")) != 0 {
		t.Fatalf("got %d %s", r.StatusCode, text(r))
	}
	wantDead(t, s, s.PUB, tok)
	wantLogin(t, other.Get(t, "/account"))
	if r := b.Get(t, "/account"); !strings.Contains(r.Body, ">Your account<") {
		t.Error("the browser that set the password is signed out")
	}
	fresh := s.NewBrowser()
	login := fresh.Get(t, "/account")
	wantPage(t, fresh.Submit(t, login, aliceLogin), 401)
	if r := fresh.Submit(t, login, set("username", "alice", "password", next)); !strings.Contains(r.Body, ">Your account<") {
		t.Errorf("the new password: %s", text(r))
	}
}

// Signing out everywhere ends grants and, where the users have versions, sessions.
func TestSignOutEverywhereEndsEverySessionAndGrant(t *testing.T) {
	withVersion, file := withFile(t)
	without := authtest.New(t)
	for name, s := range map[string]*authtest.Server{"file": withVersion, "other": without} {
		tok := s.Tokens(t, "alice", s.PUB)
		b, other := s.NewBrowser(), s.NewBrowser()
		page := openAccount(t, b, "alice")
		openAccount(t, other, "alice")
		stolen := s.NewBrowser()
		for name, c := range b.Cookies {
			stolen.Cookies[name] = c
		}
		r := b.Submit(t, page, set("action", "sign_out_all"))
		if !strings.Contains(r.Body, "Signed out") || len(b.Cookies) != 0 {
			t.Errorf("%s: cookies %v: %s", name, b.Cookies, text(r))
		}
		wantDead(t, s, s.PUB, tok)
		wantLogin(t, b.Get(t, "/account"))
		wantLogin(t, stolen.Get(t, "/account"))
		alive := !strings.Contains(other.Get(t, "/account").Body, `name="password"`)
		if ended := strings.Contains(r.Body, "signed out in all other browsers"); ended == alive || ended != (name == "file") {
			t.Errorf("%s: says ended %t, another session lives %t", name, ended, alive)
		}
	}
	if _, err := file.Check(t.Context(), "alice", "correct horse alice"); err != nil {
		t.Errorf("the password changed: %v", err)
	}
}

// Signing out in one browser leaves the others, and the applications.
func TestSignOutEndsOnlyThisSession(t *testing.T) {
	s := authtest.New(t)
	tok := s.Tokens(t, "alice", s.PUB)
	b, other := s.NewBrowser(), s.NewBrowser()
	page := openAccount(t, b, "alice")
	openAccount(t, other, "alice")
	if r := b.Submit(t, page, set("action", "sign_out")); !strings.Contains(r.Body, "Signed out") || len(b.Cookies) != 0 {
		t.Errorf("cookies %v: %s", b.Cookies, text(r))
	}
	openAccount(t, other, "nobody")
	s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
}

// Without the store nothing is decided, and no answer says that it was.
func TestAccountPageWithoutStoreIsUnavailable(t *testing.T) {
	s, _ := withFile(t)
	b := s.NewBrowser()
	s.Redeem(t, s.PUB, b.Code(t, "alice", s.PUB)).Tokens(t)
	page := openAccount(t, b, "alice")
	s.StopStore(t)
	wantPage(t, b.Get(t, "/account"), 503)
	for _, action := range []string{"disconnect", "sign_out", "sign_out_all", "password"} {
		wantPage(t, b.Submit(t, page, set("action", action, "old", "correct horse alice", "new", "seldom purple anvil quarter")), 503)
	}
	s.Reopen(t)
}

// A failing source of users is not reported as a wrong password.
func TestFailingSourceOfUsersIsNoWrongPassword(t *testing.T) {
	s := authtest.New(t, func(c *authtest.Config) {
		c.Change = func(o *handlers.Options) {
			o.ChangePassword = func(_ context.Context, _, old, _ string) (users.User, error) {
				return users.User{}, map[string]error{"busy": users.ErrBusy, "read-only": users.ErrReadOnly, "gone": users.ErrUnknown, "broken": errors.New("disk on fire")}[old]
			}
			o.EndSessions = func(context.Context, string) error { return errors.New("disk on fire") }
		}
	})
	b := s.NewBrowser()
	page := openAccount(t, b, "alice")
	for old, want := range map[string]int{"busy": 503, "read-only": 400, "gone": 503, "broken": 503} {
		r := b.Submit(t, page, set("action", "password", "old", old, "new", "x"))
		if wantPage(t, r, want); strings.Contains(r.Body, "on fire") {
			t.Errorf("%s: %s", old, text(r))
		}
	}
	wantPage(t, b.Submit(t, page, set("action", "sign_out_all")), 503)
}

// The logo is an image and nothing else, and is not sent twice.
func TestLogo(t *testing.T) {
	s := authtest.New(t)
	r := s.Get(t, "/assets/logo")
	h := r.Header
	if r.StatusCode != 200 || h.Get("Content-Type") != "image/svg+xml" || !strings.HasPrefix(h.Get("Content-Security-Policy"), "default-src 'none'") || h.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%d %v", r.StatusCode, h)
	}
	again := s.Do(t, request("GET", authtest.Issuer+"/assets/logo", "", "If-None-Match", h.Get("ETag")))
	if again.StatusCode != http.StatusNotModified || again.Body != "" {
		t.Errorf("%d %q", again.StatusCode, again.Body)
	}
}

// The page groups what is connected by application, and stays short whatever a user has
// connected.
func TestAccountPageIsGroupedAndPaged(t *testing.T) {
	s := authtest.New(t)
	now := s.Store.Now()
	err := s.Store.Write(t.Context(), func(tx store.Tx) error {
		for i := range 900 { // of 45 applications, 20 each
			_, err := tx.Exec(`INSERT INTO grants (id, gen, rotated_at, revoked_at, sub, client_hash, client_name, consent_hash, scope, resource, created_at, expires_at)
				VALUES ($1, 1, 0, 0, 'alice', $2, $3, 'h', 'mcp:read', 'https://mcp.test/a', $4, $5)`,
				seal.NewID(now.AddDate(0, 1, 0)), fmt.Sprint("hash", i%45), fmt.Sprintf("Application %02d", i%45), now.Unix()-900+int64(i), now.AddDate(0, 1, 0).Unix())
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	b := s.NewBrowser()
	openAccount(t, b, "alice")
	names := map[string]int{}
	for number, want := range map[string]struct{ apps, first int }{
		"1": {20, 44}, "2": {20, 24}, "3": {5, 4}, "": {20, 44}, "x": {20, 44}, "-1": {20, 44}, "99999999999999999999": {20, 44}, "77": {5, 4},
	} {
		page := b.Get(t, "/account?page="+number)
		if n := strings.Count(page.Body, "<h3>"); n != want.apps || !strings.Contains(page.Body, fmt.Sprintf("Application %02d", want.first)) {
			t.Errorf("page %q: %d applications: %.2000s", number, n, text(page))
		}
		if n := len(hidden(page, "grant")); n != 5*want.apps || len(page.Body) > 200<<10 {
			t.Errorf("page %q: %d grants, %d bytes", number, n, len(page.Body))
		}
		if next, previous := strings.Contains(page.Body, "Next page"), strings.Contains(page.Body, "Previous page"); next == (want.apps == 5) || previous == (want.first == 44) {
			t.Errorf("page %q: next %v, previous %v", number, next, previous)
		}
		names[number] = strings.Count(page.Body, "connected 20 times")
	}
	if names["1"] != 20 {
		t.Errorf("%d applications say how often they are connected", names["1"])
	}
	page := b.Get(t, "/account?page=3")
	form := url.Values{"token": {hidden(page, "token")[0]}, "client": {"hash4"}, "action": {"disconnect_all"}}
	if r := b.Post(t, "/account", form); strings.Contains(r.Body, "Application 04") || r.StatusCode != 200 {
		t.Errorf("%d %s", r.StatusCode, text(r))
	}
	if left, err := s.Denylist.Grants(t.Context(), "alice", now); len(left) != 880 || err != nil {
		t.Errorf("%d are left, %v", len(left), err)
	}
	form.Set("token", "x")
	form.Set("client", "hash5")
	if r := b.Post(t, "/account", form); r.StatusCode != 403 {
		t.Errorf("without the session's token: %d", r.StatusCode)
	}
	bob := s.NewBrowser()
	form.Set("token", hidden(openAccount(t, bob, "bob"), "token")[0])
	bob.Post(t, "/account", form)
	if left, err := s.Denylist.Grants(t.Context(), "alice", now); len(left) != 880 || err != nil {
		t.Errorf("bob ended some: %d are left, %v", len(left), err)
	}
}

// fixedUser is a source of one user.
type fixedUser users.User

func (u fixedUser) Check(context.Context, string, string) (users.User, error) {
	return users.User(u), nil
}
func (u fixedUser) Lookup(context.Context, string) (users.User, error) { return users.User(u), nil }

// A user who signed in by a provider has no password here that could be changed, but sessions
// that can be ended.
func TestUpstreamUserHasNoPasswordHere(t *testing.T) {
	for subject, want := range map[string]bool{"ann": true, "upstream:corp:1": false} {
		changed := 0
		s := authtest.New(t, func(c *authtest.Config) {
			c.Users = fixedUser{Subject: subject, Name: "ann", Version: "1"}
			c.Change = func(o *handlers.Options) {
				o.ChangePassword = func(context.Context, string, string, string) (users.User, error) {
					changed++
					return users.User{Subject: subject, Name: "ann", Version: "1"}, nil
				}
				o.EndSessions = func(context.Context, string) error { return nil }
			}
		})
		b := s.NewBrowser()
		page := openAccount(t, b, "ann")
		if offers := strings.Contains(page.Body, `name="new"`); offers != want || !strings.Contains(page.Body, "sign_out_all") {
			t.Errorf("%s: the page offers a change of the password: %v, want %v", subject, offers, want)
		}
		r := b.Submit(t, page, set("action", "password", "old", "x", "new", "seldom purple anvil quarter"))
		if (changed == 1) != want || (r.StatusCode == 400) == want {
			t.Errorf("%s: %d changes, status %d", subject, changed, r.StatusCode)
		}
	}
}
