package flows

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/internal/e2e"
	"signet/internal/test/invoices"
	"signet/internal/test/npm"
	"signet/internal/test/person"
	"signet/internal/test/upstreamtest"
)

// A user of an OpenID provider signs in, and a tool acts at the provider with the user's own
// token. Two users with interleaved calls are never mixed.
func TestToolActsWithTheCallersOwnUpstreamToken_Row36_Row37(t *testing.T) {
	e2e.OnBothStores(t, func(t *testing.T, settings []string) {
		d, p := e2e.Corp(t, settings)
		_, ann := e2e.LoginAt(t, d, p, "ann")
		_, bob := e2e.LoginAt(t, d, p, "bob")
		if _, text, _ := e2e.Tool(t, d.Issuer+"/mcp", ann.AccessToken, "whoami"); !strings.Contains(text, "upstream:corp:1001") || !strings.Contains(text, `"upstream":"corp"`) {
			t.Errorf("whoami: %s", text)
		}
		var all sync.WaitGroup
		for range 50 {
			for user, tok := range map[string]e2e.Tokens{"ann": ann, "bob": bob} {
				all.Go(func() {
					if status, text, failed := e2e.Tool(t, d.Issuer+"/mcp", tok.AccessToken, "upstream_get"); status != 200 || failed || !strings.Contains(text, `"user":"`+user+`"`) {
						t.Errorf("%s: %d %v %s", user, status, failed, text)
					}
				})
			}
		}
		all.Wait()
		for _, secret := range []string{ann.AccessToken, bob.AccessToken} {
			if strings.Contains(p.Log(), secret) {
				t.Error("the provider saw a token of this server")
			}
		}
		if settings == nil && (inFiles(t, d.Dir, "access-ann") || inFiles(t, d.Dir, "refresh-ann") || inFiles(t, d.Dir, "Ann Example")) {
			t.Error("a file has a token, or what the provider said of the user, in clear")
		}
		doc := userinfo(t, d, ann.AccessToken)
		if doc["sub"] != "upstream:corp:1001" || doc["preferred_username"] != "ann" || doc["name"] != "Ann Example" {
			t.Errorf("userinfo: %v", doc)
		}
		for _, secret := range []string{p.ClientSecret(), "ann-password", "access-ann", "refresh-ann"} {
			if d.Says(secret) > 0 {
				t.Errorf("the log has %s", secret)
			}
		}
	})
}

func userinfo(t testing.TB, d *e2e.Program, token string) map[string]any {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, d.Issuer+"/userinfo", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var doc map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// The upstream ends a token before its time: ten calls at once refresh it once, and all succeed.
// If it cannot be refreshed, the call says so, and the next one is refused, so that any client
// logs in again. Both in one process, and at an MCP replica that holds one derived key.
func TestCallsRefreshTheUpstreamTokenOnce_Row39(t *testing.T) {
	d, p := e2e.Corp(t, nil)
	key := strings.TrimSpace(d.Must("secret", "derive", "upstream"))
	replica := d.Beside("SIGNET_ROLE=mcp", "SIGNET_UPSTREAM_KEY="+key, "SIGNET_REVOCATION_POLL=1s")
	replica.Start()
	for name, at := range map[string]string{"all": d.URL(), "replica": replica.URL()} {
		t.Run(name, func(t *testing.T) {
			_, tok := e2e.LoginAt(t, d, p, "ann")
			p.InvalidateUser("ann")
			before := p.Count("refresh")
			var all sync.WaitGroup
			for range 10 {
				all.Go(func() {
					if status, text, failed := e2e.Tool(t, at+"/mcp", tok.AccessToken, "upstream_get"); status != 200 || failed || !strings.Contains(text, `"user":"ann"`) {
						t.Errorf("%d %v %s", status, failed, text)
					}
				})
			}
			all.Wait()
			if n := p.Count("refresh") - before; n != 1 {
				t.Errorf("%d refreshes at the provider", n)
			}
			p.EndGrants("ann")
			if status, text, failed := e2e.Tool(t, at+"/mcp", tok.AccessToken, "upstream_get"); status != 200 || !failed || !strings.Contains(strings.ToLower(text), "sign in again") {
				t.Errorf("ended: %d %v %s", status, failed, text)
			}
			if status := e2e.Call(t, at+"/mcp", tok.AccessToken); status != http.StatusUnauthorized {
				t.Errorf("the next call: %d", status)
			}
		})
	}
}

// The root secret is replaced: an MCP replica that still has the derived key of the old one goes on,
// also when the upstream refuses a token, and its log says what to do. One with a key of no secret
// of the issuer's gets nothing.
func TestReplicaWithTheOldKeyGoesOn(t *testing.T) {
	d, p := e2e.Corp(t, nil)
	key := strings.TrimSpace(d.Must("secret", "derive", "upstream"))
	replica := d.Beside("SIGNET_ROLE=mcp", "SIGNET_UPSTREAM_KEY="+key)
	replica.Start()
	stranger := d.Beside("SIGNET_ROLE=mcp", "SIGNET_UPSTREAM_KEY="+strings.Repeat("A", 43))
	stranger.Start()
	d.Must("secret", "rotate")
	_, tok := e2e.LoginAt(t, d, p, "ann")
	for range 2 {
		if status, text, failed := e2e.Tool(t, replica.URL()+"/mcp", tok.AccessToken, "upstream_get"); status != 200 || failed || !strings.Contains(text, `"user":"ann"`) {
			t.Errorf("%d %v %s", status, failed, text)
		}
		p.InvalidateUser("ann")
	}
	if replica.Says("SIGNET_UPSTREAM_KEY does not open") == 0 {
		t.Error("the log does not say that the key is old")
	}
	if status, text, failed := e2e.Tool(t, stranger.URL()+"/mcp", tok.AccessToken, "upstream_get"); status != 200 || !failed || strings.Contains(text, "ann") {
		t.Errorf("another key: %d %v %s", status, failed, text)
	}
}

// Failures of the upstream are results of the tool, with a status and words for the user.
func TestUpstreamFailureIsAToolResult_Row40(t *testing.T) {
	d, p := e2e.Corp(t, nil)
	_, tok := e2e.LoginAt(t, d, p, "ann")
	for status, want := range map[int]string{403: "Access forbidden", 404: "Resource not found", 429: "Rate limit exceeded", 500: "Request failed"} {
		p.Switch(func(s *upstreamtest.Switches) { s.APIStatus = status })
		got, text, failed := e2e.Tool(t, d.Issuer+"/mcp", tok.AccessToken, "upstream_get")
		if got != 200 || !failed || !strings.Contains(text, want) || !strings.Contains(text, fmt.Sprintf(`"status_code":%d`, status)) {
			t.Errorf("%d: %d %v %s", status, got, failed, text)
		}
	}
	p.Down()
	if got, text, failed := e2e.Tool(t, d.Issuer+"/mcp", tok.AccessToken, "upstream_get"); got != 200 || !failed || !strings.Contains(text, "Connection error") {
		t.Errorf("down: %d %v %s", got, failed, text)
	}
}

// The provider's answers are checked: another issuer, another client's token, another nonce, no
// keys. Nothing of a refused login is kept.
func TestAnswersOfTheProviderAreChecked_Row36(t *testing.T) {
	d, p := e2e.Corp(t, nil)
	c := e2e.Register(t, d.Issuer, e2e.RedirectURI)
	for _, bad := range []struct {
		name   string
		status int
		change func(*upstreamtest.Switches)
	}{
		{"keys gone, before the first login", 503, func(s *upstreamtest.Switches) { s.KeysGone = true }},
		{"iss of another server in the callback", 400, func(s *upstreamtest.Switches) { s.OtherIssuer = "https://evil.example" }},
		{"no iss in the callback", 400, func(s *upstreamtest.Switches) { s.NoIssuer = true }},
		{"iss of the id token", 503, func(s *upstreamtest.Switches) {
			s.Claims = func(c map[string]any) { c["iss"] = "https://evil.example" }
		}},
		{"aud", 503, func(s *upstreamtest.Switches) { s.Claims = func(c map[string]any) { c["aud"] = "other" } }},
		{"nonce", 503, func(s *upstreamtest.Switches) { s.Claims = func(c map[string]any) { c["nonce"] = "other" } }},
		{"no id token", 503, func(s *upstreamtest.Switches) { s.NoIDToken = true }},
		{"HTML", 503, func(s *upstreamtest.Switches) {
			s.TokenAnswer = func(w http.ResponseWriter) { io.WriteString(w, "<h1>hello</h1>") }
		}},
		{"down", 503, func(s *upstreamtest.Switches) { s.Unavailable = true }},
	} {
		t.Run(bad.name, func(t *testing.T) {
			browser := person.New("", "")
			page, err := browser.Authorize(c.AuthorizationURL("s"))
			if err != nil || page.Left() == nil {
				t.Fatalf("%v %s", err, page)
			}
			p.Switch(func(s *upstreamtest.Switches) {
				if bad.name != "down" {
					bad.change(s)
				}
			})
			callback, err := p.Authorize(t.Context(), page.Left().String(), "ann")
			if err != nil {
				t.Fatal(err)
			}
			p.Switch(bad.change)
			got, err := browser.Open(callback)
			p.Switch(func(s *upstreamtest.Switches) { *s = upstreamtest.Switches{} })
			if err != nil || got.StatusCode != bad.status || got.To() != nil {
				t.Errorf("%v: %s", err, got)
			}
			if out := d.Must("user", "list", "--json"); strings.Contains(out, "upstream:corp") {
				t.Errorf("an account was made: %s", out)
			}
		})
	}
	if back := e2e.SignInAt(t, p, c.AuthorizationURL("s"), "ann"); back.Query().Get("code") == "" {
		t.Errorf("a good login afterwards: %s", back)
	}
}

// The user signs out at the provider: every grant ends.
func TestBackchannelLogoutEndsGrants(t *testing.T) {
	d, p := e2e.Corp(t, nil)
	c, ann := e2e.LoginAt(t, d, p, "ann")
	_, bob := e2e.LoginAt(t, d, p, "bob")
	to := d.Issuer + "/oauth/backchannel-logout/corp"
	send := func(change func(map[string]any)) int {
		t.Helper()
		claims := p.LogoutClaims("ann")
		change(claims)
		status, err := p.SendLogout(t.Context(), to, p.Sign(claims))
		if err != nil {
			t.Fatal(err)
		}
		return status
	}
	for name, change := range map[string]func(map[string]any){
		"nonce":     func(c map[string]any) { c["nonce"] = "n" },
		"aud":       func(c map[string]any) { c["aud"] = "other" },
		"iss":       func(c map[string]any) { c["iss"] = "https://evil.example" },
		"no events": func(c map[string]any) { delete(c, "events") },
		"no jti":    func(c map[string]any) { delete(c, "jti") },
		"no user":   func(c map[string]any) { delete(c, "sub") },
		"expired":   func(c map[string]any) { c["exp"] = time.Now().Add(-time.Hour).Unix() },
	} {
		if status := send(change); status != http.StatusBadRequest {
			t.Errorf("%s: %d", name, status)
		}
	}
	if status := e2e.Call(t, d.Issuer+"/mcp", ann.AccessToken); status != 200 {
		t.Fatalf("before: %d", status)
	}
	var taken map[string]any
	if status := send(func(c map[string]any) { taken = c }); status != 200 {
		t.Fatalf("logout: %d", status)
	}
	if status := e2e.Call(t, d.Issuer+"/mcp", ann.AccessToken); status != http.StatusUnauthorized {
		t.Errorf("ann's token: %d", status)
	}
	if tok, status := c.Refresh(t, ann.RefreshToken); status != 400 || tok.Error != "invalid_grant" {
		t.Errorf("ann's refresh: %d %+v", status, tok)
	}
	if status := e2e.Call(t, d.Issuer+"/mcp", bob.AccessToken); status != 200 {
		t.Errorf("bob's token: %d", status)
	}
	// The same notice again does not end what came after it.
	_, again := e2e.LoginAt(t, d, p, "ann")
	if status, err := p.SendLogout(t.Context(), to, p.Sign(taken)); err != nil || status != 200 {
		t.Errorf("the same notice: %d, %v", status, err)
	}
	if status := e2e.Call(t, d.Issuer+"/mcp", again.AccessToken); status != 200 {
		t.Errorf("ann's later token: %d", status)
	}
}

// When the last grant ends, the tokens are revoked at the provider.
func TestLastGrantsEndRevokesAtTheProvider_Row43(t *testing.T) {
	d, p := e2e.Corp(t, nil)
	c, one := e2e.LoginAt(t, d, p, "ann")
	other, two := e2e.LoginAt(t, d, p, "ann")
	c.Revoke(t, one.RefreshToken)
	if _, text, failed := e2e.Tool(t, d.Issuer+"/mcp", two.AccessToken, "upstream_get"); failed {
		t.Fatalf("the other grant lost its token: %s", text)
	}
	other.Revoke(t, two.RefreshToken)
	e2e.Eventually(t, func() bool { return p.Count("revocation") > 0 })
}

// One OpenID provider needs three variables.
func TestOneProviderByVariables_Row44(t *testing.T) {
	p := upstreamtest.New(t, upstreamtest.Options{Manner: upstreamtest.Strict})
	d := e2e.New(t, []string{"SIGNET_UPSTREAM_ISSUER=" + p.Issuer(), "SIGNET_UPSTREAM_CLIENT_ID=" + p.ClientID(), "SIGNET_UPSTREAM_CLIENT_SECRET=" + p.ClientSecret()})
	p.Register(d.Issuer + "/oauth/callback")
	d.Start()
	_, tok := e2e.LoginAt(t, d, p, "ann")
	if doc := userinfo(t, d, tok.AccessToken); doc["sub"] != "upstream:upstream:1001" {
		t.Errorf("%v", doc)
	}
}

// The go-sdk, the TypeScript SDK and `signet call` log in by an upstream, and their calls reach it.
func TestRealClientsLogInByUpstream(t *testing.T) {
	d, p := e2e.Corp(t, nil)
	t.Run("go-sdk", func(t *testing.T) {
		login := e2e.SDKLoginWith(t, func(link string) (*url.URL, error) { return e2e.SignInAt(t, p, link, "ann"), nil })
		session := e2e.Connect(t, d.Issuer+"/mcp", login, nil)
		if got := e2e.CallTool(t, session, "upstream_get", nil); !strings.Contains(got, `"user":"ann"`) {
			t.Errorf("upstream_get: %s", got)
		}
	})
	for _, version := range []string{"v1", "v2"} {
		t.Run("TypeScript "+version, func(t *testing.T) {
			npm.Node(t)
			c := &sdkClient{driven: driven{npm.Start(t, t.TempDir(), npm.Driver, version, d.Issuer+"/mcp", "auto", "{}"), t}}
			c.visit = func(link string) *url.URL { return e2e.SignInAt(t, p, link, "bob") }
			c.must(sdkCommand{Do: "connect"})
			if got := c.must(sdkCommand{Do: "call", Tool: "upstream_get"}); !strings.Contains(got, "bob") {
				t.Errorf("upstream_get: %s", got)
			}
		})
	}
	t.Run("signet call", func(t *testing.T) {
		for _, field := range []string{"username", "email"} {
			api := invoices.New(t, invoices.Options{})
			entry := strings.Replace(api.Configuration("finance"), "username_field: email", "username_field: "+field, 1)
			d := e2e.Start(t, []string{e2e.UpstreamFile(t, entry)})
			out, errOut, status := d.Signet("ann-password\n", "call", "upstream_get", "--server", d.Issuer+"/mcp", "--username", "ann@example.com")
			if status != 0 || !strings.Contains(out, "publicId") {
				t.Errorf("%s: %d %s%s", field, status, out, errOut)
			}
			if d.Says("ann-password") > 0 || inFiles(t, d.Dir, "ann-password") {
				t.Error("the log or a file has the password")
			}
			_, errOut, status = d.Signet("wrong\n", "call", "upstream_get", "--server", d.Issuer+"/mcp", "--username", "ann@example.com")
			if status == 0 || !strings.Contains(errOut, "does not accept this name and password") {
				t.Errorf("a wrong password: %d %s", status, errOut)
			}
		}
	})
}

// What other servers have at these paths does not exist here.
func TestPathsThatAreNotServed_Row46(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	for _, path := range []string{"/files/upload", "/files/upload/token", "/.well-known/openai-apps-challenge"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			r, err := http.NewRequest(method, d.Issuer+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusNotFound {
				t.Errorf("%s %s: %d", method, path, resp.StatusCode)
			}
		}
	}
	if status, _ := e2e.Fetch(t, http.DefaultClient, d.Issuer+"/favicon.ico"); status != http.StatusNoContent {
		t.Errorf("favicon: %d", status)
	}
}

// An upstream that does not answer is given up after its timeout: the page says so, and no
// password is in the log.
func TestSlowUpstreamIsGivenUp_Row35(t *testing.T) {
	hold := make(chan struct{})
	defer close(hold)
	api := invoices.New(t, invoices.Options{})
	api.Switch(func(s *invoices.Switches) { s.Hold = hold })
	d := e2e.Start(t, []string{e2e.UpstreamFile(t, api.Configuration("finance", "timeout: 100ms"))})
	c := e2e.Register(t, d.Issuer, e2e.RedirectURI)
	browser := person.New("", "")
	page, err := browser.Open(c.AuthorizationURL("s"))
	if err != nil || !page.AsksPassword() {
		t.Fatalf("%v: %s", err, page)
	}
	page, err = browser.Submit(page, url.Values{"email": {"ann@example.com"}, "password": {"ann-password"}})
	if err != nil || page.StatusCode != http.StatusServiceUnavailable || !strings.Contains(page.Body, "Server error. Please try again later.") {
		t.Errorf("%v: %s", err, page)
	}
	if !strings.Contains(api.Log(), `"username":"ann"`) || !strings.Contains(api.Log(), `"email":"ann@example.com"`) {
		t.Errorf("the API was sent %s", api.Log())
	}
	if d.Says("ann-password") > 0 {
		t.Error("the log has the password")
	}
}

// With scopes_from, a user gets the scopes that follow from the claim, and no others.
func TestScopesFollowFromAClaim(t *testing.T) {
	d, p := e2e.Corp(t, nil, "scopes_from: {claim: groups, map: {staff: [read, write]}}")
	if _, ann := e2e.LoginAt(t, d, p, "ann"); ann.Scope != "read write" {
		t.Errorf("ann, of the staff, got %q", ann.Scope)
	}
	c := e2e.Register(t, d.Issuer, e2e.RedirectURI)
	if back := e2e.SignInAt(t, p, c.AuthorizationURL("s"), "bob"); back.Query().Get("error") != "invalid_scope" {
		t.Errorf("bob, of no group, got %s", back)
	}
}

// With allow, only users who are named may sign in.
func TestOnlyAllowedUsersSignIn(t *testing.T) {
	for allow, allowed := range map[string]map[string]bool{
		"allow: {domains: [example.com]}":    {"ann": true, "bob": false},
		"allow: {emails: [bob@example.org]}": {"ann": false, "bob": true},
		"allow: {groups: [staff]}":           {"ann": true, "bob": false},
	} {
		d, p := e2e.Corp(t, nil, allow)
		c := e2e.Register(t, d.Issuer, e2e.RedirectURI)
		for name, want := range allowed {
			page, err := e2e.TryToSignInAt(t.Context(), person.New("", ""), p, c.AuthorizationURL("s"), name)
			if err != nil {
				t.Fatal(err)
			}
			if got := page.Left() != nil && page.Left().Query().Get("code") != ""; got != want || !want && page.StatusCode != http.StatusForbidden {
				t.Errorf("%s, %s: %s", allow, name, page)
			}
		}
	}
}

// inFiles reports whether a file in a directory has a text in clear.
func inFiles(t testing.TB, dir, text string) bool {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", dir, len(files), err)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(text)) {
			return true
		}
	}
	return false
}
