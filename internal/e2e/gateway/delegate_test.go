package gateway

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"signet/internal/e2e"
	"signet/internal/test/backends"
	"signet/internal/test/person"
	"signet/internal/test/upstreamtest"
)

// delegated is a gateway with one server, at which users act by their own accounts at a provider.
type delegated struct {
	*world
	p  *upstreamtest.Provider
	be *backends.MCP
}

// startDelegated starts a gateway with one server that asks with the results of calls. The provider
// is found by its metadata, or by its endpoints.
func startDelegated(t *testing.T, discovery bool) *delegated {
	t.Helper()
	p := upstreamtest.New(t, upstreamtest.Options{Manner: upstreamtest.Strict, ClientID: "client-of-tickets"})
	be := backends.New(t, backends.Options{Accept: func(token string) bool { return p.Owner(token) != "" }})
	where := fmt.Sprintf("issuer: %q", p.Issuer())
	if !discovery {
		where = fmt.Sprintf("authorization_endpoint: %q, token_endpoint: %q", p.Issuer()+"/authorize", p.Issuer()+"/token")
	}
	w := prepare(t, fmt.Sprintf(`servers:
  - id: tickets
    type: http
    auth_strategy: delegate_oauth
    ask: error
    auth_config: {provider: custom, %s, client_id: client-of-tickets, client_secret: %q, scopes: [openid, offline_access]}
    config: {url: %s}
`, where, p.ClientSecret(), be.Endpoint()))
	p.Register(w.Issuer + "/oauth/callback")
	w.Start()
	return &delegated{w, p, be}
}

// toProvider opens a link, signs in if the page asks for it, and returns where the browser is sent.
func (d *delegated) toProvider(b *person.Person, link string) (string, *person.Page) {
	d.t.Helper()
	page, err := b.Open(link)
	if err == nil && page.AsksPassword() {
		page, err = b.SignIn(page)
	}
	if err == nil && strings.Contains(page.Body, `value="connect"`) {
		page, err = b.Submit(page, url.Values{"decision": {"connect"}})
	}
	if err != nil {
		d.t.Fatal(err)
	}
	if page.Left() != nil {
		return page.Left().String(), page
	}
	if m := regexp.MustCompile(`href="(` + regexp.QuoteMeta(d.p.URL()) + `[^"]*)"`).FindStringSubmatch(page.Body); m != nil {
		return html.UnescapeString(m[1]), page
	}
	return "", page
}

// connect follows a link to its end, as a user of both sides, and returns the last page.
func (d *delegated) connect(b *person.Person, link string) *person.Page {
	d.t.Helper()
	to, page := d.toProvider(b, link)
	if to == "" {
		d.t.Fatalf("the browser is not sent to the provider: %s", page)
	}
	back, err := d.p.Authorize(d.t.Context(), to, b.Name)
	if err != nil {
		d.t.Fatal(err)
	}
	page, err = b.Open(back)
	if err != nil {
		d.t.Fatal(err)
	}
	return page
}

var anyLink = regexp.MustCompile(`https?://[^\s"\\)]+/oauth/authorize\?[^\s"\\)]+`)

// asked checks that a call of the user asks to connect, and returns the link.
func (d *delegated) asked(token string) (link string) {
	d.t.Helper()
	r := d.call(token, "tickets.whoami", "{}")
	text, failed := r.text()
	link = anyLink.FindString(html.UnescapeString(text))
	if r.Status != http.StatusOK || !failed || link == "" {
		d.t.Fatalf("the call does not ask the user: %s", r)
	}
	return link
}

// A call for which a user has to connect something is a result that is an error, with the link
// and the object that other gateways send; their plain endpoint has the object alone. It has no
// secret.
func TestCallThatNeedsAConnectionAsksTheUser_Row55(t *testing.T) {
	d := startDelegated(t, false)
	token := d.token("ann")
	link := d.asked(token)
	if u, err := url.Parse(link); err != nil || u.Path != "/oauth/authorize" || u.Query().Get("server_id") != "tickets" || !strings.HasPrefix(link, d.Issuer) {
		t.Errorf("the link is %s", link)
	}
	r := d.call(token, "tickets.whoami", "{}")
	if !strings.Contains(r.Body, "oauth_delegation") || strings.Contains(r.Body, d.p.ClientSecret()) {
		t.Errorf("%s", r)
	}
	plain := d.post(token, `{"name":"tickets.whoami","arguments":{}}`)
	plain.URL.Path = "/mcp/tools/call"
	r = d.do(plain)
	var object struct {
		Content struct {
			Error   string
			Details struct {
				Type          string
				AuthEndpoint  string `json:"auth_endpoint"`
				TokenEndpoint string `json:"token_endpoint"`
				ClientInfo    struct {
					ClientID string `json:"client_id"`
				} `json:"client_info"`
				RequiredScopes    []string `json:"required_scopes"`
				RedirectAfterAuth bool     `json:"redirect_after_auth"`
			}
		}
		IsError bool
	}
	err := json.Unmarshal([]byte(r.Body), &object)
	is := object.Content.Details
	if err != nil || r.Status != 200 || !object.IsError || object.Content.Error != "OAuth delegation required" || is.Type != "oauth_delegation" || is.ClientInfo.ClientID != "client-of-tickets" ||
		is.TokenEndpoint != d.p.Issuer()+"/token" || is.AuthEndpoint != d.p.Issuer()+"/authorize" || strings.Join(is.RequiredScopes, " ") != "openid offline_access" || !is.RedirectAfterAuth || strings.Contains(r.Body, d.p.ClientSecret()) {
		t.Errorf("the plain endpoint: %s, %v", r, err)
	}
	if n := len(d.be.Calls()); n != 0 {
		t.Errorf("%d calls reached the server", n)
	}
}

// The user connects in a browser without any token. Then the server is sent this user's token, at
// every token of the user's, and no other user's calls.
func TestConnectionIsOneUsersAndLasts_Row56_Row57_Probe8_Probe9_Probe10(t *testing.T) {
	d := startDelegated(t, true)
	client, ann := d.login("ann")
	bob := d.token("bob")
	if page := d.connect(visitor("ann"), d.asked(ann.AccessToken)); page.StatusCode != http.StatusOK || page.To() != nil {
		t.Fatalf("the callback ends at %s", page)
	}
	whoami := func(token string) string { return d.said(d.call(token, "tickets.whoami", "{}")) }
	if got := whoami(ann.AccessToken); d.p.Owner(got) != "ann" {
		t.Errorf("the server saw %q", got)
	}
	if ann.AccessToken[:16] != bob[:16] {
		t.Error("the tokens of two users begin in different ways, the test shows less than it says")
	}
	d.be.Forget()
	d.asked(bob)
	if n := len(d.be.Calls()); n != 0 {
		t.Errorf("a call of bob's reached the server:\n%s", d.be.Log())
	}
	next, status := client.Refresh(t, ann.RefreshToken)
	if status != 200 || d.p.Owner(whoami(next.AccessToken)) != "ann" || d.p.Owner(whoami(d.token("ann"))) != "ann" {
		t.Errorf("after a refresh, or another login: %d %s", status, next.Error)
	}
	d.connect(visitor("bob"), d.asked(bob))
	if got := whoami(bob); d.p.Owner(got) != "bob" {
		t.Errorf("bob: the server saw %q", got)
	}
	d.Restart()
	if got := whoami(d.token("ann")); d.p.Owner(got) != "ann" {
		t.Errorf("after a restart the server saw %q", got)
	}
	for _, secret := range []string{ann.AccessToken, bob, "access-ann", "refresh-ann", d.p.ClientSecret()} {
		if d.Says(secret) > 0 {
			t.Errorf("the log has %.20s", secret)
		}
	}
	if strings.Contains(d.be.Log(), ann.AccessToken) || strings.Contains(d.p.Log(), ann.AccessToken) {
		t.Error("the caller's own token reached the server or the provider")
	}
}

// Only the user whose call asked can follow the link to its end, in the browser that began, once.
// Nothing is stored otherwise.
func TestLinkIsForItsUserAndBrowser_Row64_Probe11(t *testing.T) {
	d := startDelegated(t, true)
	ann := d.token("ann")
	link := d.asked(ann)
	if to, page := d.toProvider(visitor("bob"), link); to != "" || page.StatusCode < 400 {
		t.Errorf("bob follows ann's link: %s to %s", page, to)
	}
	begin := func() (*person.Person, string) {
		t.Helper()
		b := visitor("ann")
		to, page := d.toProvider(b, link)
		if to == "" {
			t.Fatalf("%s", page)
		}
		back, err := d.p.Authorize(t.Context(), to, "ann")
		if err != nil {
			t.Fatal(err)
		}
		return b, back
	}
	change := func(back, name, value string) string {
		u, err := url.Parse(back)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		if q.Set(name, value); value == "" {
			q.Del(name)
		}
		u.RawQuery = q.Encode()
		return u.String()
	}
	for name, visit := range map[string]func(b *person.Person, back string) (*person.Page, error){
		"another browser": func(_ *person.Person, back string) (*person.Page, error) { return visitor("ann").Open(back) },
		"no state":        func(b *person.Person, back string) (*person.Page, error) { return b.Open(change(back, "state", "")) },
		"another state":   func(b *person.Person, back string) (*person.Page, error) { return b.Open(change(back, "state", "x")) },
		"no iss":          func(b *person.Person, back string) (*person.Page, error) { return b.Open(change(back, "iss", "")) },
		"iss of another server": func(b *person.Person, back string) (*person.Page, error) {
			return b.Open(change(back, "iss", "https://evil.example"))
		},
		"an error": func(b *person.Person, back string) (*person.Page, error) {
			return b.Open(change(change(back, "code", ""), "error", "access_denied"))
		},
		"a code of another flow": func(b *person.Person, back string) (*person.Page, error) { return b.Open(change(back, "code", "x")) },
	} {
		b, back := begin()
		page, err := visit(b, back)
		if err != nil || page.StatusCode < 300 || page.StatusCode >= 300 && page.StatusCode < 400 && !strings.Contains(page.Header.Get("Location"), "/oauth/error") {
			t.Errorf("%s: %s %v", name, page, err)
		}
		d.asked(ann)
	}
	b, back := begin()
	first, err := b.Open(change(back, "server_id", "another"))
	if err != nil || first.StatusCode != 200 {
		t.Errorf("a good callback: %s %v", first, err)
	}
	if got := d.said(d.call(ann, "tickets.whoami", "{}")); d.p.Owner(got) != "ann" {
		t.Errorf("the server saw %q", got)
	}
	codes := d.p.Count("code")
	if again, err := b.Open(back); err != nil || d.p.Count("code") != codes || again.StatusCode == 200 && !strings.Contains(again.Header.Get("Content-Type"), "html") {
		t.Errorf("the callback a second time: %s %v", again, err)
	}
}

// return_to is followed on this server only, never to another one.
func TestReturnLeadsNowhereElse_Row65_Probe12(t *testing.T) {
	d := startDelegated(t, true)
	for to, want := range map[string]string{
		"/account": "/account", "//evil.example/x": "", `/\evil.example`: "", "https://evil.example/": "", "%2f%2fevil.example": "", "javascript:alert(1)": "",
	} {
		b := visitor("ann")
		page := d.connect(b, d.Issuer+"/oauth/authorize?server_id=tickets&return_to="+url.QueryEscape(to))
		if left := page.To(); left != nil && left.Host != "" && left.Host != strings.TrimPrefix(d.Issuer, "http://") {
			t.Errorf("return_to=%s leads to %s", to, left)
		}
		if want != "" && (page.At == nil || page.At.Path != want) {
			t.Errorf("return_to=%s ends at %s, want %s", to, page, want)
		}
	}
}

// A token that has ended is refreshed once, whatever the number of calls. An answer without a
// refresh token keeps the old one. If the provider is down, nothing is lost; if it refuses, the
// user is asked again.
func TestTokensOfUsersAreRefreshed_Row58(t *testing.T) {
	d := startDelegated(t, true)
	token := d.token("ann")
	d.connect(visitor("ann"), d.asked(token))
	good := func(when string) {
		t.Helper()
		if got := d.said(d.call(token, "tickets.whoami", "{}")); d.p.Owner(got) != "ann" {
			t.Errorf("%s the server saw %q", when, got)
		}
	}
	ten := func(when string) {
		t.Helper()
		d.p.InvalidateUser("ann")
		before := d.p.Count("refresh")
		var calls sync.WaitGroup
		for range 10 {
			calls.Go(func() { good(when) })
		}
		calls.Wait()
		if n := d.p.Count("refresh") - before; n != 1 {
			t.Errorf("%s ten calls made %d refreshes", when, n)
		}
	}
	ten("when the server refuses the token")
	d.p.Switch(func(s *upstreamtest.Switches) { s.NoRotation = true })
	ten("when the refresh answer has no refresh token")
	ten("after such an answer")
	d.p.InvalidateUser("ann")
	d.p.Switch(func(s *upstreamtest.Switches) { s.Unavailable = true })
	r := d.call(token, "tickets.whoami", "{}")
	if text, failed := r.text(); r.Status != 200 || !failed || anyLink.MatchString(text) {
		t.Errorf("while the provider is down: %s", r)
	}
	d.p.Switch(func(s *upstreamtest.Switches) { s.Unavailable = false })
	e2e.Eventually(t, func() bool { _, failed := d.call(token, "tickets.whoami", "{}").text(); return !failed })
	if n := d.p.Count("reuse"); n != 0 {
		t.Errorf("%d refresh tokens were used twice", n)
	}
	d.p.EndGrants("ann")
	d.connect(visitor("ann"), d.asked(token))
	good("after connecting again")
}

// The address that users open leads to an error page unless it names a server or provider that
// users connect, and no more scopes than are configured. Without parameters it is the
// authorization endpoint. Texts from the address are shown as texts.
func TestFormsOfTheLink_Row63_Row67(t *testing.T) {
	d := startDelegated(t, true)
	for query, good := range map[string]bool{
		"server_id=tickets": true, "server_id=tickets&scope=openid": true,
		"server_id=tickets&scope=openid+admin": false, "server_id=none": false, "provider=none": false, "provider=master": false,
	} {
		b := visitor("ann")
		page, err := b.Open(d.Issuer + "/oauth/authorize?" + query)
		if err == nil && page.AsksPassword() {
			page, err = b.SignIn(page)
		}
		if err != nil {
			t.Fatal(err)
		}
		failed := page.At.Path == "/oauth/error" || page.StatusCode >= 400
		if failed == good || strings.Contains(page.Body, "<script") {
			t.Errorf("%s ends at %s, %s", query, page, page.At)
		}
	}
	if status, _ := e2e.Fetch(t, http.DefaultClient, d.Issuer+"/oauth/authorize"); status != http.StatusBadRequest {
		t.Errorf("without parameters: %d", status)
	}
	for _, path := range []string{"/oauth/success", "/oauth/error?msg=" + url.QueryEscape("<b>bold</b><script>")} {
		status, body := e2e.Fetch(t, http.DefaultClient, d.Issuer+path)
		if status != http.StatusOK || strings.Contains(body, "<b>bold") || strings.Contains(body, "<script") {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

// A server with a login of its own needs nothing but its address: its 401 leads to its authorization
// server, where Signet registers itself. Two users connect, after a restart too, as one client.
func TestServerWithALoginOfItsOwnNeedsOnlyItsAddress_Row63(t *testing.T) {
	p := upstreamtest.New(t, upstreamtest.Options{Manner: upstreamtest.Strict, Registers: true})
	be := backends.New(t, backends.Options{Accept: func(token string) bool { return p.Owner(token) != "" }, Issuer: p.Issuer()})
	w := start(t, fmt.Sprintf("servers:\n  - {id: tickets, type: http, auth_strategy: delegate_oauth, ask: error, auth_config: {}, config: {url: %s}}\n", be.Endpoint()))
	d := &delegated{w, p, be}
	for _, name := range []string{"ann", "bob"} {
		token := d.token(name)
		d.connect(visitor(name), d.asked(token))
		if got := d.said(d.call(token, "tickets.whoami", "{}")); p.Owner(got) != name {
			t.Errorf("the server saw %q", got)
		}
		p.InvalidateUser(name)
		if got := d.said(d.call(token, "tickets.whoami", "{}")); p.Owner(got) != name {
			t.Errorf("after a refresh the server saw %q", got)
		}
		d.Restart()
	}
	if n := p.Count("registration"); n != 1 {
		t.Errorf("%d registrations, want 1", n)
	}
	if d.Says("registered-secret-") > 0 {
		t.Error("the log has the client's secret")
	}
}

// When a user is removed, what the user had connected is deleted, and revoked at the provider. What
// others have connected stays.
func TestConnectionsOfARemovedUserAreRevoked_Row57(t *testing.T) {
	d := startDelegated(t, true)
	tokens := map[string]string{}
	for _, name := range []string{"ann", "bob"} {
		token := d.token(name)
		d.connect(visitor(name), d.asked(token))
		tokens[name] = d.said(d.call(token, "tickets.whoami", "{}"))
	}
	d.TakesUp("users", func() { d.Must("user", "remove", "ann") })
	e2e.Eventually(t, func() bool { return !d.p.Live(tokens["ann"]) })
	if n := d.p.Count("revocation"); n != 1 || !d.p.Live(tokens["bob"]) {
		t.Errorf("%d revocations, and bob's token counts: %t", n, d.p.Live(tokens["bob"]))
	}
}
