package pages

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"signet/internal/e2e"
	"signet/internal/test/npm"
)

// tab presses the Tab key and checks which element gets the focus, visibly.
func tab(b *e2e.Browser, want string) {
	b.T.Helper()
	b.Type("\t")
	if got := b.Focused(); got != want {
		b.T.Errorf("Tab moves the focus to %s, want %s", got, want)
	}
	if !e2e.Eval[bool](b, `getComputedStyle(document.activeElement).outlineStyle === "solid" && parseFloat(getComputedStyle(document.activeElement).outlineWidth) >= 2`) {
		b.T.Errorf("the focus on %s is not visible", want)
	}
}

// withAnn starts a server with a user in the file, ann, and two applications that she
// connected.
func withAnn(t *testing.T, settings ...string) (*e2e.Program, *e2e.Client) {
	t.Helper()
	d := e2e.Start(t, settings)
	d.AddUser("ann", e2e.AnnsPassword, "--email", "ann@example.com", "--scope", "read write")
	client := e2e.Register(t, d.Issuer, e2e.RedirectURI)
	back := e2e.SignIn(t, client.AuthorizationURL("s"), "ann", e2e.AnnsPassword)
	tok := client.Exchange(t, back.Query().Get("code"))
	for range 2 { // used, and repeated once
		client.Refresh(t, tok.RefreshToken)
	}
	second := e2e.Register(t, d.Issuer, "https://app.example/callback")
	back = e2e.SignIn(t, second.AuthorizationURL("s"), "ann", e2e.AnnsPassword)
	second.Exchange(t, back.Query().Get("code"))
	return d, client
}

// visits opens every page in the browser, one after the other.
func visits(t *testing.T, visit func(name string, b *e2e.Browser)) {
	d, client := withAnn(t)
	begin := client.AuthorizationURL("s")
	b := e2e.NewBrowser(t)
	b.Open(begin)
	visit("login", b)
	b.SignIn("ann", "wrong")
	b.Do(chromedp.WaitVisible(chromedp.CSS(`[role=alert]`)))
	visit("login-wrong", b)
	b.Password(e2e.AnnsPassword).Wait("Allow access?")
	visit("consent", b)
	b.Do(chromedp.Click(chromedp.CSS(`input[value=read]`)), chromedp.Click(chromedp.CSS(`input[value=write]`))).Approve()
	b.Do(chromedp.WaitVisible(chromedp.CSS(`[role=alert]`)))
	visit("consent-nothing", b)
	b.Open(d.Issuer + "/account")
	visit("account", b)
	b.Do(chromedp.SendKeys(chromedp.CSS(`#old`), e2e.AnnsPassword), chromedp.SendKeys(chromedp.CSS(`#new`), "password1\r"), chromedp.WaitVisible(chromedp.CSS(`#problem`)))
	visit("account-password", b)
	b.Do(chromedp.Click(chromedp.CSS(`button[value=disconnect]`)), chromedp.WaitVisible(chromedp.CSS(`.done`)))
	b.Do(chromedp.Click(chromedp.CSS(`button[value=disconnect]`)), chromedp.WaitNotPresent(chromedp.CSS(`.grants`)))
	b.Wait("Your account")
	visit("account-empty", b)
	b.Open(d.Issuer + "/logout")
	visit("logout", b)
	b.Do(chromedp.Click(chromedp.CSS(`main button`)))
	b.Wait("Signed out")
	visit("signed-out", b)
	b.Open(d.Issuer + "/nothing")
	visit("missing", b)
	b.Open(strings.Replace(begin, "redirect_uri=http", "redirect_uri=https", 1))
	visit("error", b)
	b.Open(d.Issuer + "/")
	visit("home", b)
	b.Open(d.Issuer + "/account")
	visit("login-account", b)
	b.Language("de")
	b.Open(begin)
	visit("login-de", b)
	b.SignIn("ann", e2e.AnnsPassword).Wait("Zugriff erlauben?")
	visit("consent-de", b)
	b.Language("en")
}

type violation struct {
	ID, Impact, Help string
	Nodes            []struct{ HTML, FailureSummary string }
}

// axe returns the source of Deque's checker of accessibility. The debugger injects it,
// since the policy of the pages forbids scripts.
func axe(t *testing.T) string {
	t.Helper()
	npm.Node(t) // skips where packages of npm are missing
	src, err := os.ReadFile(npm.Modules + "/axe-core/axe.min.js")
	if err != nil {
		t.Fatal(err)
	}
	return string(src)
}

func TestPagesAreAccessible(t *testing.T) {
	source := axe(t)
	visits(t, func(name string, b *e2e.Browser) { checkAccess(t, source, name, b) })
}

// checkAccess checks a page at several widths, in both themes.
func checkAccess(t *testing.T, source, name string, b *e2e.Browser) {
	t.Helper()
	for _, theme := range []string{"light", "dark"} {
		for _, width := range []int64{360, 1280} {
			b.Look(width, theme)
			where := fmt.Sprintf("%s, %s, %d px", name, theme, width)
			e2e.Eval[bool](b, source+"; true")
			raw := e2e.Eval[string](b, `axe.run(document).then(r => JSON.stringify(r.violations))`, chromedp.EvalAwaitPromise)
			var violations []violation
			if err := json.Unmarshal([]byte(raw), &violations); err != nil {
				t.Fatal(err)
			}
			for _, v := range violations {
				t.Errorf("%s: %s %s: %s\n%+v", where, v.Impact, v.ID, v.Help, v.Nodes)
			}
			if wide := e2e.Eval[int](b, `document.documentElement.scrollWidth`); wide > int(width) {
				t.Errorf("%s: the page is %d px wide", where, wide)
			}
			if n := e2e.Eval[int](b, `document.scripts.length + document.querySelectorAll("[style]").length`); n != 0 {
				t.Errorf("%s: the policy blocked %d scripts and styles", where, n)
			}
		}
	}
}

// The checker runs on the server's pages, and finds a fault that is there.
func TestAxeFindsFaults(t *testing.T) {
	source := axe(t)
	d := e2e.Start(t, nil, "--demo")
	b := e2e.NewBrowser(t)
	b.Open(d.Issuer + "/account")
	e2e.Eval[bool](b, source+"; true")
	raw := e2e.Eval[string](b, `document.querySelectorAll("label").forEach(l => l.remove()), axe.run(document).then(r => JSON.stringify(r.violations))`, chromedp.EvalAwaitPromise)
	if !strings.Contains(raw, `"id":"label"`) {
		t.Errorf("inputs without labels go unnoticed: %s", raw)
	}
	if resp, err := http.Get(d.Issuer + "/account"); err != nil || !strings.Contains(resp.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("the checker ran on a page without a policy: %v", err)
	}
}

// A user without a mouse signs in and approves. The focus follows the order of the
// page, and it is visible.
func TestKeyboardIsEnough(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	redirectURI, arrived := e2e.Callback(t)
	client := e2e.Register(t, d.Issuer, redirectURI)
	b := e2e.NewBrowser(t)
	b.Open(client.AuthorizationURL("s"))
	e2e.Eventually(t, func() bool { return b.Focused() == "username" }) // autofocus takes a moment
	b.Type("demo_user")
	tab(b, "password")
	b.Type("wrong\r")
	b.Do(chromedp.WaitVisible(chromedp.CSS(`[role=alert]`)))
	e2e.Eventually(t, func() bool { return b.Focused() == "password" })
	if got := e2e.Eval[string](b, `document.getElementById(document.activeElement.getAttribute("aria-describedby")).innerText`); got != "Invalid credentials" {
		t.Errorf("the field is described by %q", got)
	}
	b.Type("demo_password")
	tab(b, "button")
	b.Type("\r")
	b.Wait("Allow access?")
	if got := b.Focused(); got != "body" {
		t.Errorf("on the consent page the focus is on %s: Enter would decide at once", got)
	}
	tab(b, "allow")
	tab(b, "allow")
	b.Type(" ") // unticks write
	tab(b, "a")
	tab(b, "duration")
	tab(b, "decision=deny")
	tab(b, "decision=approve")
	b.Type("\r")
	if tok := client.Exchange(t, b.Sent(arrived).Get("code")); tok.Scope != "read" {
		t.Errorf("granted %q", tok.Scope)
	}

	b.Open(d.Issuer + "/account")
	tab(b, "action=disconnect")
	b.Type("\r")
	b.Do(chromedp.WaitVisible(chromedp.CSS(`[role=status]`)))
	if got := b.Text(`main`); !strings.Contains(got, "The application is disconnected.") || !strings.Contains(got, "No application is connected") {
		t.Errorf("after disconnecting: %s", got)
	}
	tab(b, "action=sign_out")
	tab(b, "action=sign_out_all")
	b.Type("\r")
	b.Wait("Signed out")
}

// Pages for users that change their mind, wait too long, take another browser or go
// back.
func TestDetoursInChromium(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	redirectURI, arrived := e2e.Callback(t)
	client := e2e.Register(t, d.Issuer, redirectURI)
	begin := client.AuthorizationURL("s")
	b := e2e.NewBrowser(t)

	t.Run("deny", func(t *testing.T) {
		b.T = t
		if back := b.Open(begin).SignIn("demo_user", "demo_password").Deny().Sent(arrived); back.Get("error") != "access_denied" || back.Get("state") != "s" {
			t.Errorf("the client got %v", back)
		}
	})
	t.Run("back after approval", func(t *testing.T) {
		b.T = t
		code := b.Open(begin).Password("demo_password").Approve().Sent(arrived).Get("code")
		e2e.Eval[bool](b, `history.back(), true`)
		b.Wait("Already answered") // the page is not cached: the browser loads it again
		client.Exchange(t, code)
	})
	t.Run("two tabs", func(t *testing.T) {
		b.T = t
		second := b.NewTab(t)
		b.Open(begin).Password("demo_password").Wait("Allow access?")
		second.Open(strings.Replace(begin, "state=s", "state=second", 1)).Password("demo_password").Wait("Allow access?")
		b.Front()
		b.Approve()
		if back := b.Sent(arrived); back.Get("state") != "s" {
			t.Errorf("the first tab's client got %v", back)
		}
		second.Front()
		second.Approve()
		if back := second.Sent(arrived); back.Get("state") != "second" || back.Get("code") == "" {
			t.Errorf("the second tab's client got %v", back)
		}
	})
	t.Run("another browser", func(t *testing.T) {
		b.T = t
		b.Open(begin)
		link := e2e.Eval[string](b, `location.href`)
		other := e2e.NewBrowser(t)
		other.Open(link)
		other.Wait("Started in another browser")
		if got := e2e.Eval[string](other, `document.documentElement.innerHTML`); strings.Contains(got, "<form") {
			t.Errorf("there is a form: %s", got)
		}
	})
	t.Run("another account", func(t *testing.T) {
		b.T = t
		b.Open(begin).Password("demo_password").Wait("Allow access?")
		b.Do(chromedp.Click(chromedp.CSS(`main a`)))
		b.Wait("Sign in")
	})
	t.Run("signed out meanwhile", func(t *testing.T) {
		b.T = t
		second := b.NewTab(t)
		b.Open(begin).Password("demo_password").Wait("Allow access?")
		second.Open(d.Issuer + "/logout")
		second.Do(chromedp.Click(chromedp.CSS(`main button`)))
		second.Wait("Signed out")
		b.Front()
		b.Approve()
		b.Wait("Started in another browser")
	})
}

// A login from an expired page gets a page that says so, and what to do.
func TestExpiredLoginPageSaysWhatToDo(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	redirectURI, _ := e2e.Callback(t)
	client := e2e.Register(t, d.Issuer, redirectURI)
	b := e2e.NewBrowser(t)
	b.Open(client.AuthorizationURL("s"))
	// Another store does not know the login in progress.
	d.Stop()
	for _, name := range []string{"signet.db", "signet.db-wal", "signet.db-shm", "mirror"} {
		if err := os.Remove(filepath.Join(d.Dir, name)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	if _, errOut, status := d.Signet("", "doctor", "--accept-loss"); status != 0 {
		t.Fatalf("doctor: %d %s", status, errOut)
	}
	d.Start()
	b.SignIn("demo_user", "demo_password")
	b.Wait("Authorization request expired")
	if got := b.Text(`main`); !strings.Contains(got, "start again there") || !strings.Contains(got, "invalid_request") {
		t.Errorf("the page says %s", got)
	}
}

// The operator's words, logo, colour and languages are on the pages, and the policy
// allows the logo.
func TestPagesHaveTheOperatorsLook(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{
		"logo.svg":      `<svg xmlns="http://www.w3.org/2000/svg" width="120" height="40" viewBox="0 0 120 40"><style>rect{fill:#b00}</style><rect width="120" height="40"/></svg>`,
		"messages.json": `{"en": {"scope.read": "Look at the letters"}, "fr": {"login.title": "Connexion"}}`,
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := e2e.Start(t, []string{"SIGNET_LOGO=" + filepath.Join(dir, "logo.svg"), "SIGNET_MESSAGES=" + filepath.Join(dir, "messages.json"), "SIGNET_COLOR=#ffcc00", "SIGNET_APP_NAME=Letters"}, "--demo")
	redirectURI, _ := e2e.Callback(t)
	client := e2e.Register(t, d.Issuer, redirectURI)
	b := e2e.NewBrowser(t)
	b.Look(1280, "light")
	b.Language("fr-FR, de;q=0.5")
	b.Open(client.AuthorizationURL("s"))
	b.Wait("Connexion")
	b.Language("en")
	b.SignIn("demo_user", "demo_password")
	b.Wait("Allow access?")
	if got := b.Text(`body`); !strings.Contains(got, "Look at the letters") || !strings.Contains(got, "Letters") {
		t.Errorf("the page says %s", got)
	}
	if got := e2e.Eval[int](b, `document.querySelector("header img").naturalWidth`); got != 120 {
		t.Errorf("the logo is %d px wide", got)
	}
	if got := e2e.Eval[string](b, `(s => s.backgroundColor + " " + s.color)(getComputedStyle(document.querySelector("button.primary")))`); got != "rgb(255, 204, 0) rgb(0, 0, 0)" {
		t.Errorf("the button is %s", got)
	}
}
