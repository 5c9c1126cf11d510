package pages

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"signet/internal/e2e"
)

// A user unticks a scope. The tool that needs it is refused, the client asks for what the
// challenge names, and the page asks for just the rest. The account page shows what was granted.
func TestUserUnticksAScopeInChromium(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	redirectURI, arrived := e2e.Callback(t)
	client := e2e.Register(t, d.Issuer, redirectURI)
	asks := func(scope string) string {
		return strings.Replace(client.AuthorizationURL("s"), "scope=read+write", "scope="+url.QueryEscape(scope), 1)
	}
	b := e2e.NewBrowser(t)
	b.Open(asks("read admin")).SignIn("demo_user", "demo_password").Wait("Allow access?")
	b.Do(chromedp.Click(chromedp.CSS(`input[value=admin]`)), chromedp.Click(chromedp.CSS(`input[value=day]`)))
	tok := client.Exchange(t, b.Approve().Sent(arrived).Get("code"))
	if tok.Scope != "read" {
		t.Errorf("granted %q", tok.Scope)
	}
	status, challenge := callAdmin(t, d, tok.AccessToken)
	scope := regexp.MustCompile(`scope="([^"]*)"`).FindStringSubmatch(challenge)
	if status != http.StatusForbidden || scope == nil || !strings.Contains(scope[1], "admin") {
		t.Fatalf("the tool is answered with %d %s", status, challenge)
	}

	b.Open(asks(scope[1])).Password("demo_password").Wait("Allow access?")
	if got := e2e.Eval[string](b, `[...document.querySelectorAll("input[name=allow]")].map(e => e.value).join()`); got != "admin" {
		t.Errorf("the page asks for %q", got)
	}
	if text := b.Text(`main`); !strings.Contains(text, "It already may") || !strings.Contains(text, "as you chose before") {
		t.Errorf("the page says: %s", text)
	}
	tok = client.Exchange(t, b.Approve().Sent(arrived).Get("code"))
	if status, challenge := callAdmin(t, d, tok.AccessToken); tok.Scope != "read admin" || status != http.StatusOK {
		t.Errorf("with %q the tool is answered with %d %s", tok.Scope, status, challenge)
	}
	b.Open(d.Issuer + "/account")
	days := e2e.Eval[float64](b, `(times => (Date.parse(times[times.length - 1].dateTime) - Date.parse(times[0].dateTime)) / 86400000)(document.querySelectorAll(".grants dl:first-of-type time"))`)
	if text := b.Text(`main`); !strings.Contains(text, "admin") || days < 0.9 || days > 1 {
		t.Errorf("the account page shows a grant of %f days: %s", days, text)
	}
}

// Read only, in one press.
func TestUserApprovesReadOnlyInChromium(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	redirectURI, arrived := e2e.Callback(t)
	client := e2e.Register(t, d.Issuer, redirectURI)
	b := e2e.NewBrowser(t)
	b.Open(client.AuthorizationURL("s")).SignIn("demo_user", "demo_password").Wait("Allow access?")
	b.Do(chromedp.Click(chromedp.CSS(`button[value=read_only]`)))
	if tok := client.Exchange(t, b.Sent(arrived).Get("code")); tok.Scope != "read" {
		t.Errorf("granted %q", tok.Scope)
	}
}

// A user who unticks everything sees the page again, with what is wrong.
func TestUserUnticksEverythingInChromium(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	redirectURI, arrived := e2e.Callback(t)
	client := e2e.Register(t, d.Issuer, redirectURI)
	b := e2e.NewBrowser(t)
	b.Open(client.AuthorizationURL("s")).SignIn("demo_user", "demo_password").Wait("Allow access?")
	b.Do(chromedp.Click(chromedp.CSS(`input[value=read]`)), chromedp.Click(chromedp.CSS(`input[value=write]`)))
	b.Approve().Do(chromedp.WaitVisible(chromedp.CSS(`[role=alert]`)))
	if got := b.Text(`[role=alert]`); !strings.Contains(got, "Tick what the application may do") {
		t.Errorf("the page says %q", got)
	}
	b.Do(chromedp.Click(chromedp.CSS(`input[value=write]`)))
	if tok := client.Exchange(t, b.Approve().Sent(arrived).Get("code")); tok.Scope != "write" {
		t.Errorf("granted %q", tok.Scope)
	}
}

// callAdmin calls the tool that needs admin, and returns the status and the challenge.
func callAdmin(t *testing.T, d *e2e.Program, token string) (status int, challenge string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, d.Issuer+"/tools/admin_action", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode, resp.Header.Get("WWW-Authenticate")
}
