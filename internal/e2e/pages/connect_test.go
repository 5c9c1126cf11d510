package pages

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"signet/internal/e2e"
	"signet/internal/test/backends"
	"signet/internal/test/upstreamtest"
)

// A person connects what the gateway's servers need, in a real browser: after the consent, a page
// offers the provider and asks for a key, and back at the client there is one code. Every page is
// accessible. On the account page both can be removed.
func TestConnectingInChromium_Row56(t *testing.T) {
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
	p, backend := upstreamtest.New(t, upstreamtest.Options{Manner: upstreamtest.Strict}), backends.New(t, backends.Options{})
	config := filepath.Join(t.TempDir(), "gateway.yaml")
	text := fmt.Sprintf(`servers:
  - id: code
    name: Code host
    type: http
    auth_strategy: delegate_oauth
    auth_config: {provider: custom, issuer: %q, client_id: %q, client_secret: %q, scopes: [openid]}
    config: {url: %q}
  - id: weather
    name: Weather
    type: http
    auth_strategy: user_key
    config: {url: %q}
`, p.Issuer(), p.ClientID(), p.ClientSecret(), backend.Endpoint(), backend.Endpoint())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d := e2e.New(t, []string{"SIGNET_GATEWAY_CONFIG=" + config})
	p.Register(d.Issuer + "/oauth/callback")
	d.AddUser("carol", e2e.AnnsPassword)
	d.Start()
	redirectURI, arrived := e2e.Callback(t)
	client := e2e.Register(t, d.Issuer, redirectURI)
	b := e2e.NewBrowser(t)
	b.Open(client.AuthorizationURL("s")).Wait("Sign in").SignIn("carol", e2e.AnnsPassword).Wait("Allow access?").Approve()

	b.Wait("Connect your accounts")
	if page := b.Text(`main`); !strings.Contains(page, "Code host") || !strings.Contains(page, "Weather") {
		t.Errorf("the page offers: %s", page)
	}
	visit("connect", b)
	b.Do(chromedp.Click(chromedp.CSS(`section[aria-label="Code host"] button[value=connect]`)))
	b.Wait("Sign in at the provider").SignIn("ann", "ann-password")
	b.Wait("Connect your accounts")
	b.Do(chromedp.SendKeys(chromedp.CSS(`input[name=key]`), "the-key-of-carol\r"))
	back := b.Sent(arrived)
	tok := client.Exchange(t, back.Get("code"))
	if back.Get("state") != "s" || tok.AccessToken == "" {
		t.Fatalf("the client got %v, %+v", back, tok)
	}
	b.Open(d.Issuer + "/account").Wait("Your account")
	account := b.Text(`main`)
	if !strings.Contains(account, "Code host") || !strings.Contains(account, "Weather") || strings.Contains(account, "the-key-of-carol") {
		t.Errorf("the account page: %s", account)
	}
	visit("connect-account", b)
}
