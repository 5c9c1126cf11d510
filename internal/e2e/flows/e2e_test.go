package flows

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"signet/internal/e2e"
	"signet/internal/test/person"
)

// The go-sdk's client goes from discovery to the result of a tool. Then a second
// process without secret and store accepts the same token, and so does an independent
// library.
func TestTokenOfARealClientIsAcceptedElsewhere(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	login := e2e.SDKLogin(t, "demo_user", "demo_password")
	session := e2e.Connect(t, d.Issuer+"/mcp", login, nil)

	tools, err := session.ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, tool := range tools.Tools {
		names = append(names, tool.Name)
	}
	for _, want := range []string{"whoami", "echo", "greet", "get_time", "admin_action"} { // also tools that need a step-up
		if !slices.Contains(names, want) {
			t.Errorf("tool %s is missing from %v", want, names)
		}
	}
	if got := e2e.CallTool(t, session, "greet", map[string]any{"name": "World"}); got != "Hello, World!" {
		t.Errorf("greet says %q", got)
	}
	if got := e2e.CallTool(t, session, "whoami", nil); !strings.Contains(got, "demo_user") {
		t.Errorf("whoami says %q", got)
	}
	token := e2e.SDKToken(t, login)
	if token.RefreshToken == "" {
		t.Error("the client got no refresh token")
	}
	t.Run("replica", func(t *testing.T) { replicaAccepts(t, d, token) })
	t.Run("third party", func(t *testing.T) { thirdPartyAccepts(t, d.Issuer, token.AccessToken) })
}

// For a tool that needs more scopes than the token has, the client asks the user again,
// with its client id, and the call succeeds.
func TestRealClientStepsUp(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	login := e2e.SDKLogin(t, "demo_user", "demo_password")
	session := e2e.Connect(t, d.Issuer+"/mcp", login, nil)
	if got := e2e.CallTool(t, session, "whoami", nil); strings.Contains(got, "admin") {
		t.Fatalf("the first token has admin already: %s", got)
	}
	e2e.CallTool(t, session, "admin_action", nil)
	if got := e2e.CallTool(t, session, "whoami", nil); !strings.Contains(got, "admin") || !strings.Contains(got, "read") {
		t.Errorf("after stepping up whoami says %q, want both scopes", got)
	}
}

// A user grants less than the client asks for. The client goes on with that, and when it steps
// up the user grants the rest.
func TestRealClientGoesOnWithLess(t *testing.T) {
	d := e2e.Start(t, []string{"SIGNET_DEFAULT_SCOPES=read write"}, "--demo")
	var asked []string
	login := e2e.SDKLoginWith(t, func(link string) (*url.URL, error) {
		u, err := url.Parse(link)
		if err != nil {
			return nil, err
		}
		asked = append(asked, u.Query().Get("scope"))
		decision := url.Values{"decision": {"approve"}}
		if len(asked) == 1 {
			decision["allow"], decision["duration"] = []string{"read"}, []string{"day"}
		}
		return decide(person.New("demo_user", "demo_password"), link, decision)
	})
	session := e2e.Connect(t, d.Issuer+"/mcp", login, nil)
	if got := e2e.CallTool(t, session, "whoami", nil); !strings.Contains(got, "read") || strings.Contains(got, "write") || len(asked) != 1 || !strings.Contains(asked[0], "write") {
		t.Fatalf("asked for %q, and whoami says %s", asked, got)
	}
	e2e.CallTool(t, session, "admin_action", nil)
	if got := e2e.CallTool(t, session, "whoami", nil); !strings.Contains(got, "admin") || !strings.Contains(got, "read") || len(asked) != 2 {
		t.Errorf("asked for %q, and whoami says %s", asked, got)
	}
}

// decide signs in at an authorization request, sends the consent form and returns the redirect.
func decide(p *person.Person, link string, decision url.Values) (*url.URL, error) {
	page, err := p.Open(link)
	if err == nil {
		page, err = p.SignIn(page)
	}
	if err == nil {
		page, err = p.Submit(page, decision)
	}
	if err != nil || page.Left() == nil {
		return nil, fmt.Errorf("not sent back: %v: %v", page, err)
	}
	return page.Left(), nil
}

func replicaAccepts(t *testing.T, d *e2e.Program, token *oauth2.Token) {
	replica := e2e.Start(t, []string{"SIGNET_ISSUER=" + d.Issuer}, "--role", "mcp")
	port := replica.Env[slices.IndexFunc(replica.Env, func(s string) bool { return strings.HasPrefix(s, "SIGNET_LISTEN=") })]
	endpoint := "http://" + strings.TrimPrefix(port, "SIGNET_LISTEN=") + "/mcp"
	bearer := oauth2.NewClient(t.Context(), oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token.AccessToken}))
	session := e2e.Connect(t, endpoint, nil, bearer)
	if got := e2e.CallTool(t, session, "echo", map[string]any{"message": "hi"}); !strings.Contains(got, "hi") {
		t.Errorf("echo says %q", got)
	}
	if _, err := os.Stat(replica.Dir); !os.IsNotExist(err) {
		t.Errorf("the replica has a data directory: %v", err)
	}
	if _, err := os.Stat(filepath.Join(d.Dir, "secret")); err != nil {
		t.Errorf("the authorization server has no secret: %v", err)
	}
	// Without the issuer, the replica goes on verifying with its keys.
	d.Kill()
	if got := e2e.CallTool(t, session, "echo", map[string]any{"message": "still"}); !strings.Contains(got, "still") {
		t.Errorf("with the issuer down echo says %q", got)
	}
	d.Start()
}

// thirdPartyAccepts verifies offline with an independent library.
func thirdPartyAccepts(t *testing.T, issuer, rawToken string) {
	keys := oidc.NewRemoteKeySet(t.Context(), issuer+"/.well-known/jwks.json")
	v := oidc.NewVerifier(issuer, keys, &oidc.Config{ClientID: issuer + "/mcp", SupportedSigningAlgs: []string{"ES256"}})
	token, err := v.Verify(t.Context(), rawToken)
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Scope    string `json:"scope"`
		ClientID string `json:"client_id"`
		GrantID  string `json:"gid"`
	}
	if err := token.Claims(&claims); err != nil || token.Subject != "demo_user" || claims.ClientID == "" || claims.GrantID == "" {
		t.Errorf("claims %+v of %s (%v)", claims, token.Subject, err)
	}
	if _, err := v.Verify(t.Context(), rawToken[:len(rawToken)-4]+"AAAA"); err == nil {
		t.Error("a token with a changed signature was accepted")
	}
}

// Everything that a client has survives a clean restart and a kill: access token,
// refresh handle, client id, and a login in progress.
func TestRestartKeepsWhatClientsHold_Row42(t *testing.T) {
	for name, end := range map[string]func(*e2e.Program){"stopped": func(d *e2e.Program) { d.Stop() }, "killed": (*e2e.Program).Kill} {
		t.Run(name, func(t *testing.T) {
			d := e2e.Start(t, nil, "--demo")
			client, tok := d.Login()
			pending := client.Code(t, "demo_user", "demo_password")
			end(d)
			d.Start()
			if status := e2e.Call(t, d.Issuer+"/mcp", tok.AccessToken); status != 200 {
				t.Errorf("the access token: %d, want 200", status)
			}
			if next, status := client.Refresh(t, tok.RefreshToken); status != 200 {
				t.Errorf("the refresh handle: %d %+v", status, next)
			}
			client.Exchange(t, pending)
		})
	}
}

// Users and clients added on the command line sign in while the server runs, and no
// longer when they are disabled or removed.
func TestUsersAndClientsOfTheCommandLineSignIn_Row07_Row30(t *testing.T) {
	d := e2e.Start(t, nil)
	d.AddUser("ann", "correct horse battery", "--email", "ann@example.com", "--scope", "read")
	var out string
	d.TakesUp("clients", func() {
		out = d.Must("client", "add", "my-app", "--redirect-uri", "https://app.example/cb", "--post-logout-redirect-uri", "https://app.example/bye", "--public", "--json")
	})
	var added struct {
		ID  string   `json:"client_id"`
		Bye []string `json:"post_logout_redirect_uris"`
	}
	if err := json.Unmarshal([]byte(out), &added); err != nil || added.ID != "my-app" || !slices.Equal(added.Bye, []string{"https://app.example/bye"}) {
		t.Fatalf("client add printed %s (%v)", out, err)
	}
	client := &e2e.Client{Issuer: d.Issuer, RedirectURI: "https://app.example/cb", ID: "my-app"}
	tok := client.Exchange(t, client.Code(t, "ann", "correct horse battery"))
	if tok.Scope != "read" {
		t.Errorf("scope %q, want the user's scope read", tok.Scope)
	}

	d.Stop()
	d.Start()
	next, status := client.Refresh(t, tok.RefreshToken)
	if status != 200 {
		t.Fatalf("after a restart: %d %+v", status, next)
	}
	d.TakesUp("users", func() { d.Must("user", "disable", "ann") })
	if again, status := client.Refresh(t, next.RefreshToken); status != 400 || again.Error != "invalid_grant" {
		t.Errorf("a disabled user: %d %+v, want invalid_grant", status, again)
	}
}

// The demo's user and client are accepted with --demo only, also on the data of an
// earlier demo.
func TestDemoLeavesNothing_Row07(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	demo := &e2e.Client{Issuer: d.Issuer, RedirectURI: "http://localhost:3000/callback", ID: "demo_client", Secret: "demo_secret"}
	code := demo.Code(t, "demo_user", "demo_password")
	tok, status := e2e.Post(t, d.Issuer, url.Values{"grant_type": {"authorization_code"}, "code": {code}, "code_verifier": {e2e.Verifier},
		"client_id": {demo.ID}, "client_secret": {demo.Secret}})
	if status != 200 {
		t.Fatalf("demo login: %d %+v", status, tok)
	}
	client, handle := d.Login()
	d.Stop()
	d.Args = []string{"serve"}
	d.Start()
	if resp, err := http.Get(demo.AuthorizationURL("s")); err != nil || resp.StatusCode != 400 {
		t.Errorf("the demo client without --demo: %v %v, want 400", resp, err)
	}
	if got, status := client.Refresh(t, handle.RefreshToken); status != 400 || got.Error != "invalid_grant" {
		t.Errorf("the demo user's grant without --demo: %d %+v, want invalid_grant", status, got)
	}
}

// The demo's user and client have the scopes that exist. A request without a scope is for read and
// write, or for all where neither exists; the client may ask for more.
func TestDemoHasTheScopesThatExist_Row07(t *testing.T) {
	for _, c := range []struct {
		settings                []string
		byDefault, ask, granted string
	}{
		{nil, "read write", "read write admin", "read write admin"},
		{[]string{"SIGNET_SCOPES=norman.read norman.write", "SIGNET_DEFAULT_SCOPES=norman.read", "SIGNET_SCOPE_HIERARCHY=off"}, "norman.read norman.write", "norman.write", "norman.write"},
		{[]string{"SIGNET_SCOPES=read tools:run", "SIGNET_DEFAULT_SCOPES=read", "SIGNET_SCOPE_HIERARCHY=off"}, "read", "tools:run profile email", "tools:run profile email"},
	} {
		d := e2e.Start(t, c.settings, "--demo")
		demo := &e2e.Client{Issuer: d.Issuer, RedirectURI: "http://localhost:3000/callback", ID: "demo_client", Secret: "demo_secret"}
		for ask, want := range map[string]string{"": c.byDefault, c.ask: c.granted} {
			q := url.Values{"response_type": {"code"}, "client_id": {demo.ID}, "redirect_uri": {demo.RedirectURI}, "code_challenge": {e2e.Challenge()}, "code_challenge_method": {"S256"}}
			if ask != "" {
				q.Set("scope", ask)
			}
			back := e2e.SignIn(t, d.Issuer+"/oauth/authorize?"+q.Encode(), "demo_user", "demo_password")
			tok := demo.Exchange(t, back.Query().Get("code"))
			if tok.Scope != want {
				t.Errorf("%v: asking for %q gives %q, want %q", c.settings, ask, tok.Scope, want)
			}
			if strings.Contains(ask, "email") {
				r := e2e.CallRequest(d.Issuer+"/userinfo", tok.AccessToken)
				resp, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				var info map[string]any
				if err := json.NewDecoder(resp.Body).Decode(&info); err != nil || info["name"] != "demo_user" || info["email"] != "demo_user@example.com" {
					t.Errorf("userinfo: %v, %v", info, err)
				}
			}
		}
		d.Stop()
	}
}

// No password, code, verifier, handle, token, secret or cookie reaches the log, even
// at level debug, nor, in clear, the store.
func TestNoSecretIsInLogOrStore_L11(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	client, tok := d.Login()
	next, _ := client.Refresh(t, tok.RefreshToken)
	demo := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}, "client_id": {"demo_client"}, "client_secret": {"demo_secret-wrong"}}
	e2e.Post(t, d.Issuer, demo)
	client.Refresh(t, tok.RefreshToken+"x")
	e2e.Call(t, d.Issuer+"/mcp", next.AccessToken)
	e2e.Call(t, d.Issuer+"/mcp", next.AccessToken+"x")
	secret, err := os.ReadFile(filepath.Join(d.Dir, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	d.Stop()
	haystacks := map[string]string{"log": d.Output()}
	for _, name := range []string{"signet.db", "signet.db-wal", "mirror"} {
		b, _ := os.ReadFile(filepath.Join(d.Dir, name))
		haystacks[name] = string(b)
	}
	if !strings.Contains(haystacks["log"], "audit") || !strings.Contains(haystacks["signet.db"], "demo_user") {
		t.Fatal("log or store is empty, so the search would prove nothing")
	}
	for what, canary := range map[string]string{
		"password": "demo_password", "client secret": "demo_secret", "verifier": e2e.Verifier, "access token": tail(next.AccessToken), "refresh handle": tail(tok.RefreshToken),
		"next handle": tail(next.RefreshToken), "root secret": strings.TrimSpace(string(secret)),
	} {
		for where, text := range haystacks {
			if where == "log" && (what == "password" || what == "client secret") {
				text = strings.ReplaceAll(text, "demo_user / demo_password", "") // text that --demo prints on stdout
				text = strings.ReplaceAll(text, "demo_client / demo_secret", "")
			}
			if strings.Contains(text, canary) {
				t.Errorf("the %s is in the %s", what, where)
			}
		}
	}
}

// tail returns the end of an artefact, which is secret.
func tail(s string) string { return s[len(s)-24:] }

// SIGTERM stops the server cleanly, and the log says so.
func TestStopExitsZero(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	d.Login()
	if status := d.Stop(); status != 0 {
		t.Errorf("exit status %d, want 0:\n%s", status, d.Output())
	}
	for line := range strings.Lines(d.Output()) {
		if strings.HasPrefix(line, "{") && !json.Valid([]byte(line)) {
			t.Errorf("a log line is not JSON: %s", line)
		}
	}
	if _, err := os.Stat(filepath.Join(d.Dir, "signet.db-wal")); err == nil {
		fi, _ := os.Stat(filepath.Join(d.Dir, "signet.db-wal"))
		if fi.Size() > 0 {
			t.Errorf("a clean stop left %d bytes of log behind", fi.Size())
		}
	}
}
