package e2e

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"signet/internal/test/process"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// Browser is a tab of a headless Chromium with a profile of its own. Its methods wait
// for the elements that they use, and fail the test:
//
//	b.Open(url).SignIn("ann", password).Approve()
type Browser struct {
	T   *testing.T
	Ctx context.Context // of chromedp
}

// NewBrowser starts a browser.
func NewBrowser(t *testing.T) *Browser {
	t.Helper()
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(Need(t, "chromium")),
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-back-forward-cache", true), // the driver does not follow a page that comes out of that cache
	)
	if os.Geteuid() == 0 {
		opts = append(opts, chromedp.NoSandbox)
	}
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), opts...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &Browser{t, ctx}
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(900, 700)); err != nil {
		t.Fatalf("starting chromium: %v", err)
	}
	return b
}

// patient is how long a page may take: other work may keep the machine busy.
const patient = process.Patience

// Do carries out steps, one after the other.
func (b *Browser) Do(steps ...chromedp.Action[chromedp.Void]) *Browser {
	b.T.Helper()
	ctx, cancel := context.WithTimeout(b.Ctx, patient)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		ctx, cancel := context.WithTimeout(b.Ctx, 2*time.Second) // the page may have no body, or never come
		defer cancel()
		where, _ := chromedp.Run(ctx, chromedp.Location())
		body, _ := chromedp.Run(ctx, chromedp.Text(chromedp.CSS("body")))
		b.T.Fatalf("%v, at %s:\n%s", err, where, body)
	}
	return b
}

// Text is what a person reads in the first element that matches.
func (b *Browser) Text(selector chromedp.CSS) string {
	b.T.Helper()
	ctx, cancel := context.WithTimeout(b.Ctx, patient)
	defer cancel()
	s, err := chromedp.Run(ctx, chromedp.Text(selector))
	if err != nil {
		b.T.Fatalf("reading %s: %v", selector, err)
	}
	return s
}

// Screenshot is a picture of the tab, as PNG.
func (b *Browser) Screenshot() []byte {
	b.T.Helper()
	png, err := chromedp.Run(b.Ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.T.Fatal(err)
	}
	return png
}

// The fields of the login page.
const (
	NameField     chromedp.CSS = `input[name=username]`
	PasswordField chromedp.CSS = `input[name=password]`
)

// Callback serves an OAuth client's redirect URI on loopback. The parameters of the
// redirect are sent to the channel.
func Callback(t *testing.T) (redirectURI string, arrived <-chan url.Values) {
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

// Look sets the width of the window and the preferred theme.
func (b *Browser) Look(width int64, theme string) *Browser {
	b.T.Helper()
	b.Do(chromedp.EmulateViewport(width, 800))
	params := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}}
	if _, err := chromedp.Call(b.Ctx, emulation.SetEmulatedMedia, params); err != nil {
		b.T.Fatal(err)
	}
	return b
}

// Language sets the preferred language.
func (b *Browser) Language(accept string) *Browser {
	b.T.Helper()
	params := network.SetExtraHTTPHeadersParams{Headers: network.Headers{"Accept-Language": accept}}
	if _, err := chromedp.Call(b.Ctx, network.SetExtraHTTPHeaders, params); err != nil {
		b.T.Fatal(err)
	}
	return b
}

// NewTab opens a tab in the same browser.
func (b *Browser) NewTab(t *testing.T) *Browser {
	t.Helper()
	ctx, cancel := chromedp.NewContext(b.Ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(900, 700)); err != nil { // no deadline: the tab would close with the context
		t.Fatal(err)
	}
	return &Browser{t, ctx}
}

// Front brings this tab to the front: a tab in the background takes no clicks.
func (b *Browser) Front() *Browser {
	b.T.Helper()
	if _, err := chromedp.Call(b.Ctx, page.BringToFront, cdp.Empty{}); err != nil {
		b.T.Fatal(err)
	}
	return b
}

// Eval evaluates an expression on the page.
func Eval[T any](b *Browser, expression string, opts ...chromedp.EvaluateOption) T {
	b.T.Helper()
	ctx, cancel := context.WithTimeout(b.Ctx, patient)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, opts...))
	if err != nil {
		b.T.Fatalf("%s: %v", expression[:min(len(expression), 80)], err)
	}
	return v
}

// Open goes to a page and waits for it.
func (b *Browser) Open(url string) *Browser {
	b.T.Helper()
	return b.Do(chromedp.Navigate(url), chromedp.WaitVisible(chromedp.CSS(`h1`)))
}

// Type types on the keyboard, wherever the focus is.
func (b *Browser) Type(text string) *Browser {
	b.T.Helper()
	return b.Do(chromedp.KeyEvent(text))
}

// Wait waits until the page has a heading.
func (b *Browser) Wait(heading string) *Browser {
	b.T.Helper()
	var got string
	ctx, cancel := context.WithTimeout(b.Ctx, patient)
	defer cancel()
	for ctx.Err() == nil {
		// Between two pages there is no heading.
		got, _ = chromedp.Run(ctx, chromedp.Evaluate[string](`document.readyState === "complete" && document.querySelector("h1")?.innerText || ""`))
		if got == heading {
			return b
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.T.Fatalf("the page is %q, want %q:\n%s", got, heading, b.Text(`body`))
	return nil
}

// Focused names the element that has the focus.
func (b *Browser) Focused() string {
	b.T.Helper()
	return Eval[string](b, `(e => e.name ? e.name + (e.tagName === "BUTTON" ? "=" + e.value : "") : e.tagName.toLowerCase())(document.activeElement)`)
}

// SignIn fills in the login form and sends it.
func (b *Browser) SignIn(name, password string) *Browser {
	b.T.Helper()
	return b.Do(chromedp.WaitVisible(NameField), chromedp.SendKeys(NameField, name)).Password(password)
}

// Password fills in the password alone, where the page has kept the name.
func (b *Browser) Password(password string) *Browser {
	b.T.Helper()
	return b.Do(chromedp.SendKeys(PasswordField, password+"\r"))
}

// Approve approves on the consent page, in any language.
func (b *Browser) Approve() *Browser { return b.decide("approve") }

// Deny denies on the consent page.
func (b *Browser) Deny() *Browser { return b.decide("deny") }

func (b *Browser) decide(decision string) *Browser {
	b.T.Helper()
	button := chromedp.CSS(`button[value=` + decision + `]`)
	return b.Do(chromedp.WaitVisible(button), chromedp.Click(button))
}

// Sent waits for the client's page and returns the parameters of the redirect.
func (b *Browser) Sent(arrived <-chan url.Values) url.Values {
	b.T.Helper()
	b.Do(chromedp.WaitVisible(chromedp.CSS(`#done`)))
	select {
	case back := <-arrived:
		return back
	case <-time.After(patient):
		b.T.Fatalf("nothing arrived at the client; the browser is at %s", Eval[string](b, `location.href`))
		return nil
	}
}
