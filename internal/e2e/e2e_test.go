package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/modelcontextprotocol/go-sdk/auth"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
	"golang.org/x/oauth2"
)

// sdkLogin is the go-sdk's own OAuth client, with a person who signs in.
func sdkLogin(t *testing.T, name, password string) *auth.AuthorizationCodeHandler {
	t.Helper()
	return sdkLoginOver(t, http.DefaultTransport, name, password)
}

func sdkLoginOver(t *testing.T, transport http.RoundTripper, name, password string) *auth.AuthorizationCodeHandler {
	t.Helper()
	const redirectURI = "http://127.0.0.1:9/callback"
	h, err := auth.NewAuthorizationCodeHandler(&auth.AuthorizationCodeHandlerConfig{
		RedirectURL: redirectURI,
		Client:      &http.Client{Transport: transport},
		DynamicClientRegistrationConfig: &auth.DynamicClientRegistrationConfig{Metadata: &oauthex.ClientRegistrationMetadata{
			ClientName: "go-sdk", RedirectURIs: []string{redirectURI}, GrantTypes: []string{"authorization_code", "refresh_token"},
		}},
		AuthorizationCodeFetcher: func(_ context.Context, args *auth.AuthorizationArgs) (*auth.AuthorizationResult, error) {
			back := signInOver(t, transport, args.URL, name, password).Query()
			return &auth.AuthorizationResult{Code: back.Get("code"), State: back.Get("state"), Iss: back.Get("iss")}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// connect opens an MCP session, with a login where login is not nil.
func connect(t *testing.T, endpoint string, login auth.OAuthHandler, httpClient *http.Client) *sdk.ClientSession {
	t.Helper()
	client := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, nil)
	session, err := client.Connect(t.Context(), &sdk.StreamableClientTransport{Endpoint: endpoint, OAuthHandler: login, HTTPClient: httpClient, DisableStandaloneSSE: true}, nil)
	if err != nil {
		t.Fatalf("connecting to %s: %v", endpoint, err)
	}
	t.Cleanup(func() { session.Close() })
	return session
}

func callTool(t *testing.T, session *sdk.ClientSession, name string, args map[string]any) string {
	t.Helper()
	res, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: name, Arguments: args})
	if err != nil {
		t.Fatalf("calling %s: %v", name, err)
	}
	if len(res.Content) == 0 {
		t.Fatalf("%s gave %+v", name, res)
	}
	text, ok := res.Content[0].(*sdk.TextContent)
	if !ok || res.IsError {
		t.Fatalf("%s gave %+v", name, res)
	}
	return text.Text
}

// From nothing to a tool result with the go-sdk's client; then a second process that
// holds no secret and no store accepts the same token, and so does a library that
// has nothing to do with ours.
func TestRealClientThenReplicaThenThirdParty(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	login := sdkLogin(t, "demo_user", "demo_password")
	session := connect(t, d.issuer+"/mcp", login, nil)

	tools, err := session.ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, tool := range tools.Tools {
		names = append(names, tool.Name)
	}
	for _, want := range []string{"whoami", "echo", "greet", "get_time"} {
		if !slices.Contains(names, want) {
			t.Errorf("tool %s is missing from %v", want, names)
		}
	}
	if got := callTool(t, session, "greet", map[string]any{"name": "World"}); got != "Hello, World!" {
		t.Errorf("greet says %q", got)
	}
	if got := callTool(t, session, "whoami", nil); !strings.Contains(got, "demo_user") {
		t.Errorf("whoami says %q", got)
	}
	source, err := login.TokenSource(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	token, err := source.Token()
	if err != nil {
		t.Fatal(err)
	}
	if token.RefreshToken == "" {
		t.Error("the client got no refresh token")
	}
	t.Run("replica", func(t *testing.T) { replicaAccepts(t, d, token) })
	t.Run("third party", func(t *testing.T) { thirdPartyAccepts(t, d.issuer, token.AccessToken) })
}

// A tool that needs more than the token has: the client asks the user for it, with the
// client id it has, and the call goes through.
func TestRealClientStepsUp(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	login := sdkLogin(t, "demo_user", "demo_password")
	session := connect(t, d.issuer+"/mcp", login, nil)
	if got := callTool(t, session, "whoami", nil); strings.Contains(got, "admin") {
		t.Fatalf("the first token has admin already: %s", got)
	}
	callTool(t, session, "admin_action", nil)
	if got := callTool(t, session, "whoami", nil); !strings.Contains(got, "admin") || !strings.Contains(got, "read") {
		t.Errorf("after stepping up whoami says %q, want both scopes", got)
	}
}

func replicaAccepts(t *testing.T, d *daemon, token *oauth2.Token) {
	replica := startDaemon(t, []string{"SIGNET_ISSUER=" + d.issuer}, "--role", "mcp")
	port := replica.env[slices.IndexFunc(replica.env, func(s string) bool { return strings.HasPrefix(s, "SIGNET_LISTEN=") })]
	endpoint := "http://" + strings.TrimPrefix(port, "SIGNET_LISTEN=") + "/mcp"
	bearer := oauth2.NewClient(t.Context(), oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token.AccessToken}))
	session := connect(t, endpoint, nil, bearer)
	if got := callTool(t, session, "echo", map[string]any{"message": "hi"}); !strings.Contains(got, "hi") {
		t.Errorf("echo says %q", got)
	}
	if _, err := os.Stat(replica.dir); !os.IsNotExist(err) {
		t.Errorf("the replica made a data directory: %v", err)
	}
	if _, err := os.Stat(filepath.Join(d.dir, "secret")); err != nil {
		t.Errorf("the authorization server has no secret: %v", err)
	}
	// With the issuer gone, the keys in hand go on verifying.
	d.kill()
	if got := callTool(t, session, "echo", map[string]any{"message": "still"}); !strings.Contains(got, "still") {
		t.Errorf("with the issuer down echo says %q", got)
	}
	d.start()
}

// thirdPartyAccepts verifies offline with a library that shares no code with ours.
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

// Everything a client holds survives a restart, a clean one and a kill: access
// token, refresh handle, client id, and a login that was in progress.
func TestRow42_Restart(t *testing.T) {
	for name, end := range map[string]func(*daemon){"stopped": func(d *daemon) { d.stop() }, "killed": (*daemon).kill} {
		t.Run(name, func(t *testing.T) {
			d := startDaemon(t, nil, "--demo")
			client, tok := d.login()
			const redirectURI = "http://127.0.0.1:9/callback"
			pending := signIn(t, authorizationURL(d.issuer, client, redirectURI, "s"), "demo_user", "demo_password").Query().Get("code")
			end(d)
			d.start()
			if status := mcpStatus(t, d.issuer, tok.AccessToken); status != 200 {
				t.Errorf("the access token: %d, want 200", status)
			}
			if next, status := refresh(t, d.issuer, client, tok.RefreshToken); status != 200 {
				t.Errorf("the refresh handle: %d %+v", status, next)
			}
			exchange(t, d.issuer, client, pending)
		})
	}
}

// mcpStatus calls a tool of the default resource and returns the HTTP status.
func mcpStatus(t testing.TB, issuer, token string) int {
	t.Helper()
	return statusAt(t, issuer+"/mcp", token)
}

// statusAt calls a tool with a token and returns the HTTP status.
func statusAt(t testing.TB, endpoint, token string) int {
	t.Helper()
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"message":"x"}}}`
	r, _ := http.NewRequest("POST", endpoint, strings.NewReader(body))
	for k, v := range map[string]string{"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25"} {
		r.Header.Set(k, v)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// Users and clients that are added on the command line sign in while the server
// runs, and stop doing so when they are changed.
func TestRow07_Row30_UsersAndClientsOnTheCommandLine(t *testing.T) {
	d := startDaemon(t, nil)
	if out, errOut, status := d.signet("correct horse battery\n", "user", "add", "ann", "--email", "ann@example.com", "--scope", "read", "--password-stdin"); status != 0 {
		t.Fatalf("user add: %d %s%s", status, out, errOut)
	}
	out, errOut, status := d.signet("", "client", "add", "my-app", "--redirect-uri", "https://app.example/cb", "--post-logout-redirect-uri", "https://app.example/bye", "--public", "--json")
	if status != 0 {
		t.Fatalf("client add: %d %s", status, errOut)
	}
	var added struct {
		ID  string   `json:"client_id"`
		Bye []string `json:"post_logout_redirect_uris"`
	}
	if err := json.Unmarshal([]byte(out), &added); err != nil || added.ID != "my-app" || !slices.Equal(added.Bye, []string{"https://app.example/bye"}) {
		t.Fatalf("client add printed %s (%v)", out, err)
	}
	client := registration{ClientID: "my-app"}
	var code string
	eventually(t, func() bool { // the file is looked at once a second at most
		resp, err := http.DefaultTransport.RoundTrip(httptest.NewRequest("GET", authorizationURL(d.issuer, client, "https://app.example/cb", "s"), nil))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode == 303
	})
	code = signIn(t, authorizationURL(d.issuer, client, "https://app.example/cb", "s"), "ann", "correct horse battery").Query().Get("code")
	tok := exchange(t, d.issuer, client, code)
	if tok.Scope != "read" {
		t.Errorf("scope %q, want what the user has: read", tok.Scope)
	}

	d.stop()
	d.start()
	next, status := refresh(t, d.issuer, client, tok.RefreshToken)
	if status != 200 {
		t.Fatalf("after a restart: %d %+v", status, next)
	}
	if _, errOut, status := d.signet("", "user", "disable", "ann"); status != 0 {
		t.Fatalf("user disable: %s", errOut)
	}
	eventually(t, func() bool {
		again, status := refresh(t, d.issuer, client, next.RefreshToken)
		if status == 200 {
			next = again
		}
		return status == 400 && again.Error == "invalid_grant"
	})
}

// eventually waits for what another process is about to notice.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	within(t, 10*time.Second, ok)
}

func within(t *testing.T, limit time.Duration, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen within %s", limit)
		}
	}
}

// The demo's names are good under --demo only, also on data that a demo has used.
func TestRow07_DemoLeavesNothing(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	demo := registration{ClientID: "demo_client", ClientSecret: "demo_secret"}
	const redirectURI = "http://localhost:3000/callback"
	code := signIn(t, authorizationURL(d.issuer, demo, redirectURI, "s"), "demo_user", "demo_password").Query().Get("code")
	tok, status := post(t, d.issuer, url.Values{"grant_type": {"authorization_code"}, "code": {code}, "code_verifier": {verifier},
		"client_id": {demo.ClientID}, "client_secret": {demo.ClientSecret}})
	if status != 200 {
		t.Fatalf("demo login: %d %+v", status, tok)
	}
	client, handle := d.login()
	d.stop()
	d.args = []string{"serve"}
	d.start()
	if resp, err := http.Get(authorizationURL(d.issuer, demo, redirectURI, "s")); err != nil || resp.StatusCode != 400 {
		t.Errorf("the demo client without --demo: %v %v, want 400", resp, err)
	}
	if got, status := refresh(t, d.issuer, client, handle.RefreshToken); status != 400 || got.Error != "invalid_grant" {
		t.Errorf("the demo user's grant without --demo: %d %+v, want invalid_grant", status, got)
	}
}

// A kill at any moment loses nothing that was acknowledged and brings nothing back:
// a client that repeats a refresh whose answer it did not get is never logged out.
func TestINV6_INV7_KillWhileRefreshing(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	const workers, cycles = 4, 15
	type family struct {
		client registration
		handle string
		old    []string
	}
	families := make([]*family, workers)
	for i := range families {
		client, tok := d.login()
		families[i] = &family{client: client, handle: tok.RefreshToken}
	}
	idle := func() bool { return slices.ContainsFunc(families, func(f *family) bool { return len(f.old) < cycles }) }
	enough := time.Now().Add(time.Minute)
	for cycle := 0; cycle < cycles || idle() && !t.Failed() && time.Now().Before(enough); cycle++ { // more of them where little is done in each
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for _, f := range families {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					resp, err := http.PostForm(d.issuer+"/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {f.handle}, "client_id": {f.client.ClientID}})
					if err != nil {
						return // the process is gone; whether it spent the handle is unknown
					}
					var tok tokens
					err = json.NewDecoder(resp.Body).Decode(&tok)
					resp.Body.Close()
					if err != nil {
						return
					}
					if resp.StatusCode != 200 {
						t.Errorf("cycle %d: a compliant client got %d %+v", cycle, resp.StatusCode, tok)
						return
					}
					f.old, f.handle = append(f.old, f.handle), tok.RefreshToken
				}
			})
		}
		time.Sleep(time.Duration(20+cycle*5) * time.Millisecond)
		d.kill()
		close(stop)
		wg.Wait()
		d.start()
	}
	for i, f := range families {
		if len(f.old) < cycles {
			t.Errorf("family %d rotated %d times in %d cycles: the test is idle", i, len(f.old), cycles)
		}
		tok, status := refresh(t, d.issuer, f.client, f.handle)
		if status != 200 {
			t.Errorf("family %d: the last handle got %d %+v", i, status, tok)
		}
		// Anything older than the direct predecessor ends the family.
		if got, status := refresh(t, d.issuer, f.client, f.old[len(f.old)-2]); status != 400 || got.Error != "invalid_grant" {
			t.Errorf("family %d: an old handle got %d %+v", i, status, got)
		}
		if got, status := refresh(t, d.issuer, f.client, tok.RefreshToken); status != 400 || got.Error != "invalid_grant" {
			t.Errorf("family %d: alive after reuse: %d %+v", i, status, got)
		}
	}
}

// No password, code, verifier, handle, token, secret or cookie reaches the log, even
// at level debug, nor, in clear, the store.
func TestL11_NoSecretInLogOrStore(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	client, tok := d.login()
	next, _ := refresh(t, d.issuer, client, tok.RefreshToken)
	demo := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}, "client_id": {"demo_client"}, "client_secret": {"demo_secret-wrong"}}
	post(t, d.issuer, demo)
	refresh(t, d.issuer, client, tok.RefreshToken+"x")
	mcpStatus(t, d.issuer, next.AccessToken)
	mcpStatus(t, d.issuer, next.AccessToken+"x")
	secret, err := os.ReadFile(filepath.Join(d.dir, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	d.stop()
	haystacks := map[string]string{"log": d.output()}
	for _, name := range []string{"signet.db", "signet.db-wal", "mirror"} {
		b, _ := os.ReadFile(filepath.Join(d.dir, name))
		haystacks[name] = string(b)
	}
	if !strings.Contains(haystacks["log"], "audit") || !strings.Contains(haystacks["signet.db"], "demo_user") {
		t.Fatal("log or store are empty: nothing is shown by finding nothing in them")
	}
	for what, canary := range map[string]string{
		"password": "demo_password", "client secret": "demo_secret", "verifier": verifier, "access token": tail(next.AccessToken), "refresh handle": tail(tok.RefreshToken),
		"next handle": tail(next.RefreshToken), "root secret": strings.TrimSpace(string(secret)),
	} {
		for where, text := range haystacks {
			if where == "log" && (what == "password" || what == "client secret") {
				text = strings.ReplaceAll(text, "demo_user / demo_password", "") // what --demo prints on stdout
				text = strings.ReplaceAll(text, "demo_client / demo_secret", "")
			}
			if strings.Contains(text, canary) {
				t.Errorf("the %s is in the %s", what, where)
			}
		}
	}
}

// tail is the part of an artefact that no public part shares.
func tail(s string) string { return s[len(s)-24:] }

// A stop is clean under SIGTERM, and says so.
func TestStopExitsZero(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	d.login()
	if status := d.stop(); status != 0 {
		t.Errorf("exit status %d, want 0:\n%s", status, d.output())
	}
	for line := range strings.Lines(d.output()) {
		if strings.HasPrefix(line, "{") && !json.Valid([]byte(line)) {
			t.Errorf("a log line is not JSON: %s", line)
		}
	}
	if _, err := os.Stat(filepath.Join(d.dir, "signet.db-wal")); err == nil {
		fi, _ := os.Stat(filepath.Join(d.dir, "signet.db-wal"))
		if fi.Size() > 0 {
			t.Errorf("a clean stop left %d bytes of log behind", fi.Size())
		}
	}
}
