package pages

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"signet/internal/e2e"
)

// A user signs in and approves: the login page, a mistyped password, the consent page
// and the redirect work in a real browser, under the server's Content-Security-Policy.
func TestLoginAndConsentInChromium(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	redirectURI, arrived := e2e.Callback(t)
	client := e2e.Register(t, d.Issuer, redirectURI)
	b := e2e.NewBrowser(t)

	b.Open(client.AuthorizationURL("st a&te=1")).SignIn("demo_user", "wrong").Do(chromedp.WaitVisible(chromedp.CSS(`[role=alert]`)))
	if got := b.Text(`[role=alert]`); !strings.Contains(got, "Invalid credentials") {
		t.Errorf("after a wrong password the page says %q", got)
	}
	b.Password("demo_password").Wait("Allow access?")
	consent := strings.ToLower(b.Text(`main`))
	u, _ := url.Parse(redirectURI)
	for _, want := range []string{"test client", "unverified", "demo", u.Host, d.Issuer + "/mcp"} {
		if !strings.Contains(consent, strings.ToLower(want)) {
			t.Errorf("the consent page does not show %q:\n%s", want, consent)
		}
	}
	back := b.Approve().Sent(arrived)
	if back.Get("state") != "st a&te=1" || back.Get("iss") != d.Issuer || back.Get("code") == "" {
		t.Errorf("the client got %v", back)
	}
	if tokens := client.Exchange(t, back.Get("code")); tokens.RefreshToken == "" {
		t.Errorf("the code gave %+v", tokens)
	}
}

// Browsers without Fetch Metadata sign in, approve and sign out too: the pages do not make
// them hide where a form comes from (`Origin: null`).
func TestBrowserWithoutFetchMetadataInChromium(t *testing.T) {
	var origins []string // of the forms
	var mu sync.Mutex
	proxy := &httputil.ReverseProxy{}
	front := httptest.NewServer(proxy)
	defer front.Close()
	issuer := strings.Replace(front.URL, "127.0.0.1", "localhost", 1)
	d := e2e.Start(t, []string{"SIGNET_ISSUER=" + issuer}, "--demo")
	to, err := url.Parse(d.URL())
	if err != nil {
		t.Fatal(err)
	}
	proxy.Rewrite = func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host
		for name := range r.Out.Header {
			if strings.HasPrefix(name, "Sec-Fetch-") {
				r.Out.Header.Del(name)
			}
		}
		if r.In.Method == http.MethodPost {
			mu.Lock()
			defer mu.Unlock()
			origins = append(origins, r.In.URL.Path+" "+r.In.Header.Get("Origin"))
		}
	}
	redirectURI, arrived := e2e.Callback(t)
	client := e2e.Register(t, issuer, redirectURI)
	b := e2e.NewBrowser(t)
	b.Open(client.AuthorizationURL("s")).SignIn("demo_user", "demo_password").Wait("Allow access?")
	if back := b.Approve().Sent(arrived); back.Get("code") == "" {
		t.Errorf("the client got %v", back)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, want := range []string{"/login " + issuer, "/consent " + issuer} {
		if !slices.Contains(origins, want) {
			t.Errorf("forms were sent from %q, want %s among them", origins, want)
		}
	}
}

// A page of another site can neither frame the server's pages nor send their forms.
func TestForeignSiteCannotFrameOrPost_C01_C02(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	redirectURI, _ := e2e.Callback(t)
	client := e2e.Register(t, d.Issuer, redirectURI)
	authorize := client.AuthorizationURL("s")
	foreign := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Write([]byte(`<iframe id=f src="` + strings.ReplaceAll(authorize, "&", "&amp;") + `"></iframe>
			<form id=steal method=post action="` + d.Issuer + `/login"><input name=state value=x><input name=username value=demo_user>
			<input name=password value=demo_password></form>`))
	}))
	defer foreign.Close()
	b := e2e.NewBrowser(t)
	// Another port of the same host is as foreign as any other site, but its pages are
	// in the same process of the browser, so that the test sees their frames.
	b.Do(chromedp.Navigate(strings.Replace(foreign.URL, "127.0.0.1", "localhost", 1)), chromedp.WaitReady(chromedp.CSS(`#f`)))
	tree, err := chromedp.Call(b.Ctx, page.GetFrameTree, cdp.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(tree.FrameTree.ChildFrames); n != 1 {
		t.Fatalf("%d frames, want 1", n)
	}
	if frame := tree.FrameTree.ChildFrames[0].Frame; frame.UnreachableURL == "" {
		t.Errorf("another site framed %s", frame.URL)
	}
	b.Do(chromedp.Submit(chromedp.CSS(`#steal`)), chromedp.WaitReady(chromedp.CSS(`main`)))
	if got := b.Text(`main`); !strings.Contains(got, "not sent from a page of this server") {
		t.Errorf("a form of another site was answered with: %s", got)
	}
}

// The README shows pictures of the pages; -update takes new ones.
func TestScreenshots(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	redirectURI, arrived := e2e.Callback(t)
	client := e2e.Register(t, d.Issuer, redirectURI)
	b := e2e.NewBrowser(t)
	pictures := map[string][]byte{}
	b.Do(chromedp.EmulateViewport(900, 640)).Open(client.AuthorizationURL("s"))
	pictures["docs/login.png"] = b.Screenshot()
	b.SignIn("demo_user", "demo_password").Wait("Allow access?")
	b.Do(chromedp.EmulateViewport(900, e2e.Eval[int64](b, `document.documentElement.scrollHeight`))) // to the last button
	pictures["docs/consent.png"] = b.Screenshot()
	client.Exchange(t, b.Approve().Sent(arrived).Get("code"))
	b.Do(chromedp.EmulateViewport(900, 960))
	b.Open(d.Issuer + "/account")
	pictures["docs/account.png"] = b.Screenshot()
	for file, png := range pictures {
		if !bytes.HasPrefix(png, []byte("\x89PNG")) {
			t.Errorf("the picture %s would be empty", file)
		}
		if _, err := os.Stat(file); err != nil && !*e2e.Update {
			t.Error(err)
		}
		if *e2e.Update {
			if err := os.WriteFile(file, png, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}
