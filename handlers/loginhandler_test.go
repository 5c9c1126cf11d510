package handlers_test

import (
	"html/template"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"signet/handlers"
	"signet/handlers/pages"
	"signet/internal/test/authtest"
	"signet/internal/test/clientdoc"
)

var ownForm = template.Must(template.New("").Parse(`<html><title>Mine</title><form method="post" action="/oauth/login"><input type="hidden" name="state" value="{{.State}}">` +
	`<input name="username"><input name="password" type="password"><p class="mine">{{.Problem}}</p></form></html>`))

// ownLogin is a login page as a program would write it.
func ownLogin(w http.ResponseWriter, r *http.Request, complete handlers.Complete) {
	state, problem := r.FormValue("state"), ""
	if r.Method == http.MethodPost {
		redirect, err := complete(state, r.PostFormValue("username"), r.PostFormValue("password"))
		if err == nil {
			http.Redirect(w, r, redirect, http.StatusSeeOther)
			return
		}
		problem = err.Error()
	}
	if r.FormValue("username") == "panic here" {
		panic("a handler with a bug")
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	ownForm.Execute(w, struct{ State, Problem string }{state, problem})
}

func withOwnLogin(c *authtest.Config) {
	c.Change = func(o *handlers.Options) { o.LoginHandler, o.LoginPath = ownLogin, "/norman/login" }
}

// Row 29: a program serves its own login page; all other pages stay the built-in ones.
func TestLoginHandlerServesThePage_Row29(t *testing.T) {
	s := authtest.New(t, withOwnLogin)
	for _, path := range []string{"/login", "/oauth/login", "/norman/login"} {
		if r := s.Get(t, path); r.StatusCode != 200 || !strings.Contains(r.Body, "Mine") {
			t.Errorf("GET %s: %d", path, r.StatusCode)
		}
		for _, method := range []string{"PUT", "PROPFIND"} {
			if r := s.Do(t, request(method, authtest.Issuer+path, "")); r.StatusCode != 405 || r.Header.Get("Allow") != "GET, HEAD, POST" {
				t.Errorf("%s %s: %d, Allow %q", method, path, r.StatusCode, r.Header.Get("Allow"))
			}
		}
	}
	b := s.NewBrowser()
	page := b.Get(t, s.AuthorizeURL(s.PUB, set("state", "client's own")))
	if !strings.Contains(page.Body, "Mine") || strings.Contains(page.Body, "client&#39;s") {
		t.Fatalf("not the program's page: %s", page.Body)
	}
	problem := func(r *authtest.Response) string {
		_, text, _ := strings.Cut(r.Body, `<p class="mine">`)
		text, _, _ = strings.Cut(text, "</p>")
		return text
	}
	for name, c := range map[string]struct {
		edits []edit
		want  string
	}{
		"wrong password": {[]edit{set("username", "alice", "password", "x")}, "Invalid credentials"},
		"nothing":        {nil, "Missing required fields"},
		"unknown state":  {[]edit{aliceLogin, set("state", "unknown")}, "This request cannot be completed"},
		"no state":       {[]edit{aliceLogin, set("state", "")}, "This request cannot be completed"},
		"busy":           {[]edit{set("username", "busy", "password", "x")}, "Please try again in a moment"},
		"broken":         {[]edit{set("username", "broken", "password", "x")}, "Please try again in a moment"},
	} {
		if r := b.Submit(t, page, c.edits...); problem(r) != c.want || hasSession(r) {
			t.Errorf("%s: %q, want %q", name, problem(r), c.want)
		}
	}
	// Browser and origin are checked as for our own page.
	if r := s.NewBrowser().Submit(t, page, aliceLogin); problem(r) != "Started in another browser" || hasSession(r) {
		t.Errorf("another browser: %s", r.Body)
	}
	b.Header.Set("Sec-Fetch-Site", "cross-site")
	wantPage(t, b.Submit(t, page, aliceLogin), 403)
	b.Header.Set("Sec-Fetch-Site", "same-origin")
	wantPage(t, b.Submit(t, page, aliceLogin, set("junk", strings.Repeat("x", 64<<10))), 200) // unread: no fields

	consent := b.Submit(t, page, aliceLogin)
	back := b.Submit(t, consent, set("decision", "approve"))
	if !strings.HasPrefix(back.Header.Get("Location"), s.PUB.RedirectURI) || back.Sent().Get("state") != "client's own" {
		t.Fatalf("the flow ends at %s", back.Header.Get("Location"))
	}
	s.Redeem(t, s.PUB, back.Sent().Get("code")).Tokens(t)
	if r := s.NewBrowser().Get(t, "/account"); !strings.Contains(r.Body, "Mine") {
		t.Error("the account page asks elsewhere")
	}
}

// An error that is meant for the client goes to the client.
func TestLoginHandlerTellsTheClient_Row29(t *testing.T) {
	s := authtest.New(t, withOwnLogin)
	s.Users.Change("bob", func(a *authtest.Account) bool { a.User.Scopes = []string{"mcp:read"}; return true })
	b := s.NewBrowser()
	page := b.Get(t, s.AuthorizeURL(s.PRE, set("scope", "admin")))
	wantRedirect(t, b.Submit(t, page, set("username", "bob", "password", "correct horse bob")), s.PRE.RedirectURI, "invalid_scope", "S")
}

// The document of the client is fetched if it is not at hand, as after a restart.
func TestLoginHandlerFetchesTheClient(t *testing.T) {
	h := clientdoc.NewHost(t)
	s := authtest.New(t, withOwnLogin, fetching)
	b := s.NewBrowser()
	page := b.Get(t, s.AuthorizeURL(documentClient(t, h, "/m.json", nil)))
	s.Restart(t)
	h.Down(true)
	if r := b.Submit(t, page, aliceLogin); !strings.Contains(r.Body, "Please try again in a moment") {
		t.Errorf("with the host down: %d %s", r.StatusCode, r.Body)
	}
	h.Down(false)
	s.Restart(t) // which forgets the outage
	if r := b.Submit(t, page, aliceLogin); !strings.Contains(r.Body, `value="approve"`) {
		t.Errorf("%d %s", r.StatusCode, r.Body)
	}
}

func TestPanicInALoginHandlerIsAnError_Row29(t *testing.T) {
	s := authtest.New(t, withOwnLogin)
	if w := s.Failing(t, request("GET", authtest.Issuer+"/login?username=panic+here", "")); w.StatusCode != 500 || strings.Contains(w.Body, "bug") {
		t.Errorf("%d %s", w.StatusCode, w.Body)
	}
}

// The login page may be elsewhere; the usual places keep working.
func TestLoginPageMayBeElsewhere_Row25(t *testing.T) {
	s := authtest.New(t, func(c *authtest.Config) {
		c.Change = func(o *handlers.Options) { o.LoginPath = "/norman/login" }
	})
	b := s.NewBrowser()
	page := b.Get(t, s.AuthorizeURL(s.PUB))
	if action, _ := page.Form(t); action != "/norman/login" {
		t.Errorf("the form goes to %s", action)
	}
	b.Submit(t, page, aliceLogin)
	_, fields := page.Form(t)
	for _, path := range []string{"/login", "/oauth/login"} {
		if r := b.Post(t, path, url.Values{"state": fields["state"], "username": {"alice"}, "password": {"correct horse alice"}}); !strings.Contains(r.Body, `value="approve"`) {
			t.Errorf("%s: %s", path, text(r))
		}
	}
}

// Row 28 over the wire: an operator's template signs users in and shows errors.
func TestLoginTemplateSignsIn_Row28(t *testing.T) {
	file := filepath.Join(t.TempDir(), "login.html")
	if err := os.WriteFile(file, []byte(`<html><body>{error_message}<form method="post" action="/oauth/login">`+
		`<input type="hidden" name="state" value="{state}"><input name="username" value="{username}"><input name="password" type="password"></form>{app_name}</body></html>`), 0o600); err != nil {
		t.Fatal(err)
	}
	s := authtest.New(t, func(c *authtest.Config) {
		c.Change = func(o *handlers.Options) { o.Pages = pages.Options{LoginTemplate: file} }
	})
	b := s.NewBrowser()
	page := b.Get(t, s.AuthorizeURL(s.PUB))
	r := b.Submit(t, page, set("username", `"><script>{app_name}`, "password", "wrong"))
	if r.StatusCode != 401 || !strings.Contains(r.Body, `<div class="error">Invalid credentials</div>`) || strings.Contains(r.Body, "<script") || strings.Count(r.Body, "Test App") != 1 {
		t.Errorf("%d %s", r.StatusCode, r.Body)
	}
	if r = b.Submit(t, r, aliceLogin); !strings.Contains(r.Body, `value="approve"`) || strings.Contains(r.Header.Get("Content-Security-Policy"), "unsafe") {
		t.Errorf("%v %s", r.Header, text(r))
	}
}
