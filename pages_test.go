package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"signet/internal/clienttest"
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

// ask evaluates an expression on the page.
func ask[T any](b *browser, expression string, opts ...chromedp.EvaluateOption) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, opts...))
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
	for range 200 {
		// Between two pages there is none.
		got, _ = chromedp.Run(b.ctx, chromedp.Evaluate[string](`document.readyState === "complete" && document.querySelector("h1")?.innerText || ""`))
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
	clienttest.Node(t) // skips where packages of npm are missing
	src, err := os.ReadFile(clienttest.Modules + "/axe-core/axe.min.js")
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

// A name in the error means that axe would notice a fault at all.
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

func pathOf(t *testing.T, b *browser) string {
	t.Helper()
	u, err := url.Parse(ask[string](b, `location.href`))
	if err != nil {
		t.Fatal(err)
	}
	return u.Path
}
