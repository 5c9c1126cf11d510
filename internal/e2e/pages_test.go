package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"signet/internal/test/npm"
)

// look sets the width of the window and the theme that the reader prefers.
func (b *browser) look(width int64, theme string) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(width, 800))
	params := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, params); err != nil {
		b.t.Fatal(err)
	}
}

// language sets what the reader prefers to read.
func (b *browser) language(accept string) {
	b.t.Helper()
	params := network.SetExtraHTTPHeadersParams{Headers: network.Headers{"Accept-Language": accept}}
	if _, err := chromedp.Call(b.ctx, network.SetExtraHTTPHeaders, params); err != nil {
		b.t.Fatal(err)
	}
}

// tabBeside opens a tab in the same browser.
func (b *browser) tabBeside(t *testing.T) *browser {
	t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(900, 700)); err != nil { // without a deadline: the tab would end with it
		t.Fatal(err)
	}
	return &browser{t, ctx}
}

// front turns to this tab: what is behind takes no clicks.
func (b *browser) front() {
	b.t.Helper()
	if _, err := chromedp.Call(b.ctx, page.BringToFront, cdp.Empty{}); err != nil {
		b.t.Fatal(err)
	}
}

// ask evaluates an expression on the page.
func ask[T any](b *browser, expression string, opts ...chromedp.EvaluateOption) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 20*time.Second)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, opts...))
	if err != nil {
		b.t.Fatalf("%s: %v", expression[:min(len(expression), 80)], err)
	}
	return v
}

// open goes to a page and waits for it.
func (b *browser) open(url string) {
	b.t.Helper()
	b.do(chromedp.Navigate(url), chromedp.WaitVisible(chromedp.CSS(`h1`)))
}

// keys types on the keyboard, wherever the focus is.
func (b *browser) keys(text string) {
	b.t.Helper()
	b.do(chromedp.KeyEvent(text))
}

// wait waits until the page's heading is what is wanted.
func (b *browser) wait(heading string) {
	b.t.Helper()
	var got string
	ctx, cancel := context.WithTimeout(b.ctx, 20*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		// Between two pages there is none.
		got, _ = chromedp.Run(ctx, chromedp.Evaluate[string](`document.readyState === "complete" && document.querySelector("h1")?.innerText || ""`))
		if got == heading {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.t.Fatalf("the page is %q, want %q:\n%s", got, heading, b.text(`body`))
}

// focused names the element that has the focus.
func (b *browser) focused() string {
	b.t.Helper()
	return ask[string](b, `(e => e.name ? e.name + (e.tagName === "BUTTON" ? "=" + e.value : "") : e.tagName.toLowerCase())(document.activeElement)`)
}

// tab presses the tabulator and demands what gets the focus, visibly.
func (b *browser) tab(want string) {
	b.t.Helper()
	b.keys("\t")
	if got := b.focused(); got != want {
		b.t.Errorf("the tabulator leads to %s, want %s", got, want)
	}
	if !ask[bool](b, `getComputedStyle(document.activeElement).outlineStyle === "solid" && parseFloat(getComputedStyle(document.activeElement).outlineWidth) >= 2`) {
		b.t.Errorf("that %s has the focus cannot be seen", want)
	}
}

// signIn fills in the login form.
func (b *browser) signIn(name, password string) {
	b.t.Helper()
	b.do(chromedp.WaitVisible(nameField), chromedp.SendKeys(nameField, name), chromedp.SendKeys(passwordField, password+"\r"))
}

// decide answers the consent page.
func (b *browser) decide(decision string) {
	b.t.Helper()
	b.wait("Allow access?")
	b.do(chromedp.Click(chromedp.CSS(`button[value=` + decision + `]`)))
}

const annsPassword = "seldom purple anvil quarter"

// withAnn is a server with a user in the file, ann, who has connected two
// applications.
func withAnn(t *testing.T, settings ...string) (*daemon, registration, string) {
	t.Helper()
	d := startDaemon(t, settings)
	if _, errOut, status := d.signet(annsPassword+"\n", "user", "add", "ann", "--email", "ann@example.com", "--scope", "read write", "--password-stdin"); status != 0 {
		t.Fatalf("user add: %d %s", status, errOut)
	}
	time.Sleep(1100 * time.Millisecond) // the server looks at the file once a second
	const redirectURI = "http://127.0.0.1:9/callback"
	client := registerClient(t, d.issuer, redirectURI)
	back := signIn(t, authorizationURL(d.issuer, client, redirectURI, "s"), "ann", annsPassword)
	tok := exchange(t, d.issuer, client, back.Query().Get("code"))
	for range 2 { // used, and once repeated
		refresh(t, d.issuer, client, tok.RefreshToken)
	}
	second := registerClient(t, d.issuer, "https://app.example/callback")
	back = signIn(t, authorizationURL(d.issuer, second, "https://app.example/callback", "s"), "ann", annsPassword)
	exchange(t, d.issuer, second, back.Query().Get("code"))
	return d, client, redirectURI
}

// sent is what the client got, once its page is there.
func (b *browser) sent(arrived <-chan url.Values) url.Values {
	b.t.Helper()
	b.do(chromedp.WaitVisible(chromedp.CSS(`#done`)))
	select {
	case back := <-arrived:
		return back
	case <-time.After(10 * time.Second):
		b.t.Fatalf("nothing arrived at the client; the browser is at %s", ask[string](b, `location.href`))
		return nil
	}
}

// visits brings the browser to every page there is, one after the other.
func visits(t *testing.T, visit func(name string, b *browser)) {
	d, client, redirectURI := withAnn(t)
	begin := authorizationURL(d.issuer, client, redirectURI, "s")
	b := startBrowser(t)
	b.open(begin)
	visit("login", b)
	b.signIn("ann", "wrong")
	b.do(chromedp.WaitVisible(chromedp.CSS(`[role=alert]`)))
	visit("login-wrong", b)
	b.do(chromedp.SendKeys(passwordField, annsPassword+"\r"))
	b.wait("Allow access?")
	visit("consent", b)
	b.open(d.issuer + "/account")
	visit("account", b)
	b.do(chromedp.SendKeys(chromedp.CSS(`#old`), annsPassword), chromedp.SendKeys(chromedp.CSS(`#new`), "password1\r"), chromedp.WaitVisible(chromedp.CSS(`#problem`)))
	visit("account-password", b)
	b.do(chromedp.Click(chromedp.CSS(`button[value=disconnect]`)), chromedp.WaitVisible(chromedp.CSS(`.done`)))
	b.do(chromedp.Click(chromedp.CSS(`button[value=disconnect]`)), chromedp.WaitNotPresent(chromedp.CSS(`.grants`)))
	b.wait("Your account")
	visit("account-empty", b)
	b.open(d.issuer + "/logout")
	visit("logout", b)
	b.do(chromedp.Click(chromedp.CSS(`main button`)))
	b.wait("Signed out")
	visit("signed-out", b)
	b.open(d.issuer + "/nothing")
	visit("missing", b)
	b.open(strings.Replace(begin, "redirect_uri=http", "redirect_uri=https", 1))
	visit("error", b)
	b.open(d.issuer + "/")
	visit("home", b)
	b.open(d.issuer + "/account")
	visit("login-account", b)
	b.language("de")
	b.open(begin)
	visit("login-de", b)
	b.signIn("ann", annsPassword)
	b.wait("Zugriff erlauben?")
	visit("consent-de", b)
	b.language("en")
}

type violation struct {
	ID, Impact, Help string
	Nodes            []struct{ HTML, FailureSummary string }
}

// axe is Deque's checker of accessibility. It comes by the debugger, past the
// policy that forbids scripts.
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
	visits(t, func(name string, b *browser) {
		for _, theme := range []string{"light", "dark"} {
			for _, width := range []int64{360, 1280} {
				b.look(width, theme)
				where := fmt.Sprintf("%s, %s, %d px", name, theme, width)
				ask[bool](b, source+"; true")
				raw := ask[string](b, `axe.run(document).then(r => JSON.stringify(r.violations))`, chromedp.EvalAwaitPromise)
				var violations []violation
				if err := json.Unmarshal([]byte(raw), &violations); err != nil {
					t.Fatal(err)
				}
				for _, v := range violations {
					t.Errorf("%s: %s %s: %s\n%+v", where, v.Impact, v.ID, v.Help, v.Nodes)
				}
				if wide := ask[int](b, `document.documentElement.scrollWidth`); wide > int(width) {
					t.Errorf("%s: the page is %d px wide", where, wide)
				}
				if n := ask[int](b, `document.scripts.length + document.querySelectorAll("[style]").length`); n != 0 {
					t.Errorf("%s: %d scripts and styles that the policy forbids", where, n)
				}
			}
		}
	})
}

// The checker runs on our pages at all, and would notice a fault.
func TestAxeFindsFaults(t *testing.T) {
	source := axe(t)
	d := startDaemon(t, nil, "--demo")
	b := startBrowser(t)
	b.open(d.issuer + "/account")
	ask[bool](b, source+"; true")
	raw := ask[string](b, `document.querySelectorAll("label").forEach(l => l.remove()), axe.run(document).then(r => JSON.stringify(r.violations))`, chromedp.EvalAwaitPromise)
	if !strings.Contains(raw, `"id":"label"`) {
		t.Errorf("inputs without labels go unnoticed: %s", raw)
	}
	if resp, err := http.Get(d.issuer + "/account"); err != nil || !strings.Contains(resp.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("the checker ran on a page without a policy: %v", err)
	}
}

// A person without a mouse signs in and approves. The order of the focus is that of
// the page, and it can be seen.
func TestChromiumByKeyboard(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	redirectURI, arrived := callback(t)
	client := registerClient(t, d.issuer, redirectURI)
	b := startBrowser(t)
	b.open(authorizationURL(d.issuer, client, redirectURI, "s"))
	eventually(t, func() bool { return b.focused() == "username" }) // autofocus comes a moment after
	b.keys("demo_user")
	b.tab("password")
	b.keys("wrong\r")
	b.do(chromedp.WaitVisible(chromedp.CSS(`[role=alert]`)))
	eventually(t, func() bool { return b.focused() == "password" })
	if got := ask[string](b, `document.getElementById(document.activeElement.getAttribute("aria-describedby")).innerText`); got != "Invalid credentials" {
		t.Errorf("the field is described by %q", got)
	}
	b.keys("demo_password")
	b.tab("button")
	b.keys("\r")
	b.wait("Allow access?")
	if got := b.focused(); got != "body" {
		t.Errorf("on the consent page the focus is on %s: Enter would decide unread", got)
	}
	b.tab("a")
	b.tab("decision=deny")
	b.tab("decision=approve")
	b.keys("\r")
	exchange(t, d.issuer, client, b.sent(arrived).Get("code"))

	b.open(d.issuer + "/account")
	b.tab("action=disconnect")
	b.keys("\r")
	b.do(chromedp.WaitVisible(chromedp.CSS(`[role=status]`)))
	if got := b.text(`main`); !strings.Contains(got, "The application is disconnected.") || !strings.Contains(got, "No application is connected") {
		t.Errorf("after disconnecting: %s", got)
	}
	b.tab("action=sign_out")
	b.tab("action=sign_out_all")
	b.keys("\r")
	b.wait("Signed out")
}

// What a client's person meets who changes their mind, waits too long, takes another
// browser or goes back.
func TestChromiumDetours(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	redirectURI, arrived := callback(t)
	client := registerClient(t, d.issuer, redirectURI)
	begin := authorizationURL(d.issuer, client, redirectURI, "s")
	b := startBrowser(t)

	t.Run("deny", func(t *testing.T) {
		b.t = t
		b.open(begin)
		b.signIn("demo_user", "demo_password")
		b.decide("deny")
		if back := b.sent(arrived); back.Get("error") != "access_denied" || back.Get("state") != "s" {
			t.Errorf("the client got %v", back)
		}
	})
	t.Run("back after approval", func(t *testing.T) {
		b.t = t
		b.open(begin)
		b.decide("approve")
		code := b.sent(arrived).Get("code")
		ask[bool](b, `history.back(), true`)
		b.wait("Already answered") // the page is not kept: it is asked for again
		exchange(t, d.issuer, client, code)
	})
	t.Run("two tabs", func(t *testing.T) {
		b.t = t
		second := b.tabBeside(t)
		b.open(begin)
		second.open(strings.Replace(begin, "state=s", "state=second", 1))
		b.front()
		b.decide("approve")
		if back := b.sent(arrived); back.Get("state") != "s" {
			t.Errorf("the first tab's client got %v", back)
		}
		second.front()
		second.decide("approve")
		if back := second.sent(arrived); back.Get("state") != "second" || back.Get("code") == "" {
			t.Errorf("the second tab's client got %v", back)
		}
	})
	t.Run("another browser", func(t *testing.T) {
		b.t = t
		b.open(begin)
		link := ask[string](b, `location.href`)
		other := startBrowser(t)
		other.open(link)
		other.wait("Begun in another browser")
		if got := ask[string](other, `document.documentElement.innerHTML`); strings.Contains(got, "<form") {
			t.Errorf("there is a form: %s", got)
		}
	})
	t.Run("another account", func(t *testing.T) {
		b.t = t
		b.open(begin)
		b.do(chromedp.Click(chromedp.CSS(`main a`)))
		b.wait("Sign in")
	})
	t.Run("signed out meanwhile", func(t *testing.T) {
		b.t = t
		second := b.tabBeside(t)
		b.open(begin)
		second.open(d.issuer + "/logout")
		second.do(chromedp.Click(chromedp.CSS(`main button`)))
		second.wait("Signed out")
		b.front()
		b.decide("approve")
		b.wait("Begun in another browser")
	})
}

// A login page that was left open is told so, and what to do.
func TestChromiumExpired(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	redirectURI, _ := callback(t)
	client := registerClient(t, d.issuer, redirectURI)
	b := startBrowser(t)
	b.open(authorizationURL(d.issuer, client, redirectURI, "s"))
	// Another store has other transactions: what the page brings is of the past.
	d.stop()
	for _, name := range []string{"signet.db", "signet.db-wal", "signet.db-shm", "mirror"} {
		if err := os.Remove(filepath.Join(d.dir, name)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	if _, errOut, status := d.signet("", "doctor", "--accept-loss"); status != 0 {
		t.Fatalf("doctor: %d %s", status, errOut)
	}
	d.start()
	b.signIn("demo_user", "demo_password")
	b.wait("Authorization request expired")
	if got := b.text(`main`); !strings.Contains(got, "begin again there") || !strings.Contains(got, "invalid_request") {
		t.Errorf("the page says %s", got)
	}
}

// The operator's words, logo, colour and languages are on the pages, and the policy
// lets the logo through.
func TestChromiumOwnLook(t *testing.T) {
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
	d := startDaemon(t, []string{"SIGNET_LOGO=" + filepath.Join(dir, "logo.svg"), "SIGNET_MESSAGES=" + filepath.Join(dir, "messages.json"), "SIGNET_COLOR=#ffcc00", "SIGNET_APP_NAME=Letters"}, "--demo")
	redirectURI, _ := callback(t)
	client := registerClient(t, d.issuer, redirectURI)
	b := startBrowser(t)
	b.look(1280, "light")
	b.language("fr-FR, de;q=0.5")
	b.open(authorizationURL(d.issuer, client, redirectURI, "s"))
	b.wait("Connexion")
	b.language("en")
	b.signIn("demo_user", "demo_password")
	b.wait("Allow access?")
	if got := b.text(`body`); !strings.Contains(got, "Look at the letters") || !strings.Contains(got, "Letters") {
		t.Errorf("the page says %s", got)
	}
	if got := ask[int](b, `document.querySelector("header img").naturalWidth`); got != 120 {
		t.Errorf("the logo is %d px wide", got)
	}
	if got := ask[string](b, `(s => s.backgroundColor + " " + s.color)(getComputedStyle(document.querySelector("button.primary")))`); got != "rgb(255, 204, 0) rgb(0, 0, 0)" {
		t.Errorf("the button is %s", got)
	}
}
