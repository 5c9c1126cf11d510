package pages

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"signet/internal/e2e"
	"signet/internal/test/invoices"
	"signet/internal/test/upstreamtest"
)

// A person signs in with a provider, in a real browser: the server's own form and the providers
// on one page, consent before the browser leaves, the provider's page, and back to the client.
// Every page on the way is accessible.
func TestLoginByUpstreamInChromium_Row36(t *testing.T) {
	source := axe(t)
	visit := func(name string, b *e2e.Browser) {
		t.Helper()
		if dir := os.Getenv("SIGNET_TEST_PICTURES"); dir != "" {
			if err := os.WriteFile(filepath.Join(dir, name+".png"), b.Screenshot(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		checkAccess(t, source, name, b)
	}
	d, p := e2e.Corp(t, nil)
	d.AddUser("carol", e2e.AnnsPassword)
	redirectURI, arrived := e2e.Callback(t)
	client := e2e.Register(t, d.Issuer, redirectURI)
	b := e2e.NewBrowser(t)

	b.Open(client.AuthorizationURL("s")).Wait("Sign in")
	visit("upstream-login", b)
	b.Do(chromedp.Click(chromedp.CSS(`button[value=corp]`))).Wait("Allow access?")
	if consent := b.Text(`main`); !strings.Contains(consent, "You sign in at Corp next.") || strings.Contains(p.Log(), "/authorize") {
		t.Errorf("the consent page before leaving: %s", consent)
	}
	visit("upstream-consent", b)
	b.Approve().Wait("Sign in at the provider").SignIn("ann", "ann-password")
	back := b.Sent(arrived)
	if back.Get("state") != "s" || back.Get("iss") != d.Issuer {
		t.Errorf("the client got %v", back)
	}
	if tok := client.Exchange(t, back.Get("code")); tok.RefreshToken == "" {
		t.Errorf("the code gave %+v", tok)
	}

	b.Open(d.Issuer + "/account").Wait("Your account")
	if account := b.Text(`main`); !strings.Contains(account, "Ann Example ann@example.com") {
		t.Errorf("the account page: %s", account)
	}
	visit("upstream-account", b)
	b.Do(chromedp.Click(chromedp.CSS(`button[value=disconnect_provider]`))).Wait("Signed out")

	p.Switch(func(s *upstreamtest.Switches) { s.Deny = true })
	b.Open(client.AuthorizationURL("t")).Wait("Sign in")
	b.Do(chromedp.Click(chromedp.CSS(`button[value=corp]`))).Wait("Allow access?").Approve()
	if denied := b.Sent(arrived); denied.Get("error") != "access_denied" || denied.Get("state") != "t" {
		t.Errorf("denied at the provider, the client got %v", denied)
	}

	u, err := url.Parse(d.Issuer + "/oauth/callback?code=c&state=s")
	if err != nil {
		t.Fatal(err)
	}
	b.Open(u.String()).Wait("This login cannot be continued")
	visit("upstream-foreign", b)
}

// A person signs in with the password of an account at an API, whose form asks for the e-mail
// address.
func TestPasswordOfAnUpstreamInChromium_Row35(t *testing.T) {
	source := axe(t)
	api := invoices.New(t, invoices.Options{})
	d := e2e.Start(t, []string{e2e.UpstreamFile(t, api.Configuration("finance"))})
	redirectURI, arrived := e2e.Callback(t)
	client := e2e.Register(t, d.Issuer, redirectURI)
	b := e2e.NewBrowser(t)
	enter := func(password string) {
		b.Do(chromedp.SetValue(chromedp.CSS(`#email`), "ann@example.com"), chromedp.SendKeys(chromedp.CSS(`#password`), password+"\r"))
	}
	b.Open(client.AuthorizationURL("s")).Wait("Sign in")
	enter("wrong")
	b.Do(chromedp.WaitVisible(chromedp.CSS(`[role=alert]`)))
	if got := b.Text(`[role=alert]`); !strings.Contains(got, "Invalid credentials") {
		t.Errorf("after a wrong password the page says %q", got)
	}
	checkAccess(t, source, "upstream-password", b)
	enter("ann-password")
	b.Wait("Allow access?").Approve()
	if back := b.Sent(arrived); client.Exchange(t, back.Get("code")).RefreshToken == "" {
		t.Errorf("the client got %v", back)
	}
}
