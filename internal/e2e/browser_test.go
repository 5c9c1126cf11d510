package e2e

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// browser is a tab of a headless Chromium with a profile of its own. Its methods fail
// the test.
type browser struct {
	t   *testing.T
	ctx context.Context
}

func startBrowser(t *testing.T) *browser {
	t.Helper()
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(need(t, "chromium")),
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-back-forward-cache", true), // the driver loses sight of a page that comes out of it
	)
	if os.Geteuid() == 0 {
		opts = append(opts, chromedp.NoSandbox)
	}
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), opts...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &browser{t, ctx}
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(900, 700)); err != nil {
		t.Fatalf("starting chromium: %v", err)
	}
	return b
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 20*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		ctx, cancel := context.WithTimeout(b.ctx, 2*time.Second) // the page may have no body, or never come
		defer cancel()
		where, _ := chromedp.Run(ctx, chromedp.Location())
		body, _ := chromedp.Run(ctx, chromedp.Text(chromedp.CSS("body")))
		b.t.Fatalf("%v, at %s:\n%s", err, where, body)
	}
}

// text is what a person reads in the first element that matches.
func (b *browser) text(selector chromedp.CSS) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 20*time.Second)
	defer cancel()
	s, err := chromedp.Run(ctx, chromedp.Text(selector))
	if err != nil {
		b.t.Fatalf("reading %s: %v", selector, err)
	}
	return s
}

func (b *browser) screenshot() []byte {
	b.t.Helper()
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Fatal(err)
	}
	return png
}

const (
	nameField     chromedp.CSS = `input[name=username]`
	passwordField chromedp.CSS = `input[name=password]`
	approveButton chromedp.CSS = `button[value=approve]`
)

// callback is an OAuth client's redirect URI on loopback: it hands on what the
// browser brings.
func callback(t *testing.T) (redirectURI string, arrived <-chan url.Values) {
	t.Helper()
	ch := make(chan url.Values, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/callback" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html")
		w.Write([]byte("<title>done</title><p id=done>You may close this window."))
		ch <- r.URL.Query()
	}))
	t.Cleanup(srv.Close)
	return srv.URL + "/callback", ch
}

// A person signs in and approves: the login page, a mistyped password, the consent
// page and the way back all work in a real browser, under our Content-Security-Policy.
func TestChromiumLoginAndConsent(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	redirectURI, arrived := callback(t)
	client := registerClient(t, d.issuer, redirectURI)
	b := startBrowser(t)

	b.do(
		chromedp.Navigate(authorizationURL(d.issuer, client, redirectURI, "st a&te=1")),
		chromedp.WaitVisible(nameField),
		chromedp.SendKeys(nameField, "demo_user"),
		chromedp.SendKeys(passwordField, "wrong"),
		chromedp.Submit(passwordField),
		chromedp.WaitVisible(chromedp.CSS(`[role=alert]`)),
	)
	if got := b.text(`[role=alert]`); !strings.Contains(got, "Invalid credentials") {
		t.Errorf("after a wrong password the page says %q", got)
	}
	b.do(
		chromedp.SendKeys(passwordField, "demo_password\r"), // the name was kept
		chromedp.WaitVisible(approveButton),
	)
	consent := strings.ToLower(b.text(`main`))
	u, _ := url.Parse(redirectURI)
	for _, want := range []string{"test client", "unverified", "demo", u.Host, d.issuer + "/mcp"} {
		if !strings.Contains(consent, strings.ToLower(want)) {
			t.Errorf("the consent page does not show %q:\n%s", want, consent)
		}
	}
	b.do(chromedp.Click(approveButton), chromedp.WaitVisible(chromedp.CSS(`#done`)))
	back := <-arrived
	if back.Get("state") != "st a&te=1" || back.Get("iss") != d.issuer || back.Get("code") == "" {
		t.Errorf("the client got %v", back)
	}
	if tokens := exchange(t, d.issuer, client, back.Get("code")); tokens.RefreshToken == "" {
		t.Errorf("the code gave %+v", tokens)
	}
}

// A page of another site can neither frame our pages nor send our forms.
func TestC01_C02_ForeignSiteInChromium(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	redirectURI, _ := callback(t)
	client := registerClient(t, d.issuer, redirectURI)
	authorize := authorizationURL(d.issuer, client, redirectURI, "s")
	foreign := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Write([]byte(`<iframe id=f src="` + strings.ReplaceAll(authorize, "&", "&amp;") + `"></iframe>
			<form id=steal method=post action="` + d.issuer + `/login"><input name=state value=x><input name=username value=demo_user>
			<input name=password value=demo_password></form>`))
	}))
	defer foreign.Close()
	b := startBrowser(t)
	// Another port of the same host: in the same process, so that its frames can be seen
	// from here, and as foreign to us as any other site.
	b.do(chromedp.Navigate(strings.Replace(foreign.URL, "127.0.0.1", "localhost", 1)), chromedp.WaitReady(chromedp.CSS(`#f`)))
	tree, err := chromedp.Call(b.ctx, page.GetFrameTree, cdp.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(tree.FrameTree.ChildFrames); n != 1 {
		t.Fatalf("%d frames, want 1", n)
	}
	if frame := tree.FrameTree.ChildFrames[0].Frame; frame.UnreachableURL == "" {
		t.Errorf("another site framed %s", frame.URL)
	}
	b.do(chromedp.Submit(chromedp.CSS(`#steal`)), chromedp.WaitReady(chromedp.CSS(`main`)))
	if got := b.text(`main`); !strings.Contains(got, "not sent from a page of this server") {
		t.Errorf("a form of another site was answered with: %s", got)
	}
}

// The pages have pictures in the README; -update takes them anew.
func TestScreenshots(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	redirectURI, arrived := callback(t)
	client := registerClient(t, d.issuer, redirectURI)
	b := startBrowser(t)
	pictures := map[string][]byte{}
	b.do(
		chromedp.EmulateViewport(900, 640),
		chromedp.Navigate(authorizationURL(d.issuer, client, redirectURI, "s")),
		chromedp.WaitVisible(nameField),
	)
	pictures["docs/login.png"] = b.screenshot()
	b.do(
		chromedp.SendKeys(nameField, "demo_user"),
		chromedp.SendKeys(passwordField, "demo_password\r"),
		chromedp.WaitVisible(approveButton),
		chromedp.EmulateViewport(900, 860),
	)
	pictures["docs/consent.png"] = b.screenshot()
	b.do(chromedp.Click(approveButton), chromedp.WaitVisible(chromedp.CSS(`#done`)), chromedp.EmulateViewport(900, 960))
	exchange(t, d.issuer, client, (<-arrived).Get("code"))
	b.open(d.issuer + "/account")
	pictures["docs/account.png"] = b.screenshot()
	for file, png := range pictures {
		if !bytes.HasPrefix(png, []byte("\x89PNG")) {
			t.Errorf("%s would be no picture", file)
		}
		if _, err := os.Stat(file); err != nil && !*update {
			t.Error(err)
		}
		if *update {
			if err := os.WriteFile(file, png, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}
