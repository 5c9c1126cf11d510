package flows

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/internal/e2e"
)

// The tests in this file are rows of the catalogue, run against the program.

// Resource metadata, at the root and at the path.
func TestResourceMetadataAtRootAndPath_Row03(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	for _, path := range []string{"", "/mcp"} {
		doc, resp := e2e.GetJSON(t, d.Issuer+"/.well-known/oauth-protected-resource"+path)
		if resp.StatusCode != 200 || doc["resource"] != d.Issuer+"/mcp" {
			t.Errorf("%s: %d, resource %v", path, resp.StatusCode, doc["resource"])
		}
		if servers, _ := json.Marshal(doc["authorization_servers"]); string(servers) != `["`+d.Issuer+`"]` {
			t.Errorf("%s: authorization servers %s", path, servers)
		}
		if methods, _ := json.Marshal(doc["bearer_methods_supported"]); string(methods) != `["header"]` {
			t.Errorf("%s: bearer methods %s", path, methods)
		}
		if scopes, _ := json.Marshal(doc["scopes_supported"]); !strings.Contains(string(scopes), `"read"`) || strings.Contains(string(scopes), "offline_access") {
			t.Errorf("%s: scopes %s", path, scopes)
		}
	}
}

// Requests without a token, with garbage or with an expired token get 401, JSON and a
// challenge that names the metadata; with every method, and never a redirect.
func TestRequestsWithoutATokenAreChallenged_Row04(t *testing.T) {
	d := e2e.Start(t, []string{"SIGNET_ACCESS_TTL=1s"}, "--demo")
	_, tok := d.Login()
	metadata := `resource_metadata="` + d.Issuer + `/.well-known/oauth-protected-resource/mcp"`
	for _, method := range []string{"POST", "GET", "DELETE", "PUT"} {
		for name, header := range map[string]string{"none": "", "garbage": "Bearer x.y.z", "cut": "Bearer " + tok.AccessToken[:40]} {
			r, _ := http.NewRequest(method, d.Issuer+"/mcp", nil)
			if header != "" {
				r.Header.Set("Authorization", header)
			}
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			challenge := resp.Header.Get("WWW-Authenticate")
			if resp.StatusCode != 401 || !strings.HasPrefix(challenge, "Bearer ") || !strings.Contains(challenge, metadata) || !strings.Contains(string(body), `"invalid_token"`) {
				t.Errorf("%s with %s: %d, %s, %s", method, name, resp.StatusCode, challenge, body)
			}
			if hasError := strings.Contains(challenge, `error="invalid_token"`); hasError != (header != "") {
				t.Errorf("%s with %s: challenge %s", method, name, challenge)
			}
		}
	}
	if tok.ExpiresIn != 1 {
		t.Errorf("expires_in %d, want 1", tok.ExpiresIn)
	}
	time.Sleep(time.Second) // no leeway applies in the process that issued the token
	if status := e2e.Call(t, d.Issuer+"/mcp", tok.AccessToken); status != 401 {
		t.Errorf("an expired token: %d, want 401", status)
	}
}

// Every authentication method works, a wrong secret is refused, and a request without a
// client does not spend the code.
func TestClientsAuthenticateInEveryWay_Row08(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	var conf *e2e.Client
	d.TakesUp("clients", func() { conf = d.Confidential() })
	send := func(code string, user, password string, form url.Values) (e2e.Tokens, int, http.Header) {
		t.Helper()
		form.Set("grant_type", "authorization_code")
		form.Set("code", code)
		form.Set("code_verifier", e2e.Verifier)
		r, _ := http.NewRequest("POST", d.Issuer+"/token", strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if user != "" {
			r.SetBasicAuth(user, password)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var tok e2e.Tokens
		if err := json.NewDecoder(resp.Body).Decode(&tok); err != nil {
			t.Fatal(err)
		}
		return tok, resp.StatusCode, resp.Header
	}
	code := func(c *e2e.Client) string {
		return c.Code(t, "demo_user", "demo_password")
	}
	public := e2e.Register(t, d.Issuer, e2e.RedirectURI)
	for name, c := range map[string]struct {
		client         *e2e.Client
		user, password string
		form           url.Values
	}{
		"none":                   {public, "", "", url.Values{"client_id": {public.ID}}},
		"none, id in Basic only": {public, public.ID, "", url.Values{}},
		"post":                   {conf, "", "", url.Values{"client_id": {conf.ID}, "client_secret": {conf.Secret}}},
		"basic":                  {conf, conf.ID, conf.Secret, url.Values{}},
	} {
		if tok, status, _ := send(code(c.client), c.user, c.password, c.form); status != 200 {
			t.Errorf("%s: %d %+v", name, status, tok)
		}
	}
	once := code(conf)
	if tok, status, h := send(once, conf.ID, "wrong-secret", url.Values{}); status != 401 || tok.Error != "invalid_client" || !strings.HasPrefix(h.Get("WWW-Authenticate"), "Basic") {
		t.Errorf("wrong secret: %d %+v %q", status, tok, h.Get("WWW-Authenticate"))
	}
	if tok, status, _ := send(once, "", "", url.Values{}); status == 200 {
		t.Errorf("no client: %d %+v", status, tok)
	}
	tok, status, _ := send(once, conf.ID, conf.Secret, url.Values{})
	if status != 200 {
		t.Fatalf("the code after two failures: %d %+v", status, tok)
	}
	// A public client revokes its own token.
	mine, _, _ := send(code(public), "", "", url.Values{"client_id": {public.ID}})
	resp, err := http.PostForm(d.Issuer+"/revoke", url.Values{"token": {mine.RefreshToken}, "client_id": {public.ID}})
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("revoke: %v %v", resp, err)
	}
	if again, status := public.Refresh(t, mine.RefreshToken); status != 400 || again.Error != "invalid_grant" {
		t.Errorf("after revocation: %d %+v", status, again)
	}
	if status := e2e.Call(t, d.Issuer+"/mcp", mine.AccessToken); status != 401 {
		t.Errorf("the access token after revocation: %d, want 401", status)
	}
}

// PKCE with S256 is required of every client; a wrong verifier does not spend the code.
func TestPKCEIsRequiredOfEveryClient_Row11(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	client := e2e.Register(t, d.Issuer, e2e.RedirectURI)
	good := client.AuthorizationURL("s")
	for name, change := range map[string]func(url.Values){
		"no challenge":    func(q url.Values) { q.Del("code_challenge"); q.Del("code_challenge_method") },
		"empty challenge": func(q url.Values) { q.Set("code_challenge", "") },
		"method plain":    func(q url.Values) { q.Set("code_challenge_method", "plain") },
		"method left out": func(q url.Values) { q.Del("code_challenge_method") },
		"method in small": func(q url.Values) { q.Set("code_challenge_method", "s256") },
		"challenge cut":   func(q url.Values) { q.Set("code_challenge", e2e.Challenge()[:42]) },
	} {
		u, _ := url.Parse(good)
		q := u.Query()
		change(q)
		u.RawQuery = q.Encode()
		r, _ := http.NewRequest("GET", u.String(), nil)
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		to, _ := url.Parse(resp.Header.Get("Location"))
		if resp.StatusCode != 303 || to.Query().Get("error") != "invalid_request" || to.Query().Has("code") || to.Query().Get("iss") != d.Issuer {
			t.Errorf("%s: %d %s", name, resp.StatusCode, to)
		}
	}
	code := e2e.SignIn(t, good, "demo_user", "demo_password").Query().Get("code")
	form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "client_id": {client.ID}, "code_verifier": {strings.Repeat("x", 43)}}
	if tok, status := e2e.Post(t, d.Issuer, form); status != 400 || tok.Error != "invalid_grant" {
		t.Errorf("wrong verifier: %d %+v", status, tok)
	}
	client.Exchange(t, code)
}

// The token response has all members, and must not be cached.
func TestTokenResponseIsNotStored_Row14(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	client := e2e.Register(t, d.Issuer, e2e.RedirectURI)
	code := client.Code(t, "demo_user", "demo_password")
	resp, err := http.PostForm(d.Issuer+"/token", url.Values{"grant_type": {"authorization_code"}, "code": {code}, "client_id": {client.ID}, "code_verifier": {e2e.Verifier}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var doc map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
		t.Fatal(err)
	}
	if doc["token_type"] != "Bearer" || doc["expires_in"] != 300.0 || doc["scope"] != "read write" || doc["access_token"] == "" || doc["refresh_token"] == "" {
		t.Errorf("token response %v", doc)
	}
	if got := resp.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control %q", got)
	}
}

// Lifetimes follow the settings; refreshes do not extend a grant.
func TestLifetimesFollowTheSettings_Row15(t *testing.T) {
	for access, want := range map[string]int{"1h": 3600, "24h": 86400, "720h": 2592000} {
		d := e2e.Start(t, []string{"SIGNET_ACCESS_TTL=" + access}, "--demo")
		client, tok := d.Login()
		next, _ := client.Refresh(t, tok.RefreshToken)
		if tok.ExpiresIn != want || next.ExpiresIn > want || next.ExpiresIn < want-10 {
			t.Errorf("SIGNET_ACCESS_TTL=%s: expires_in %d, then %d, want %d", access, tok.ExpiresIn, next.ExpiresIn, want)
		}
		d.Kill()
	}
	d := e2e.Start(t, []string{"SIGNET_REFRESH_TTL=3s"}, "--demo")
	earliest := time.Now().Add(3 * time.Second)
	client, tok := d.Login()
	latest := time.Now().Add(3 * time.Second)
	for {
		asked := time.Now()
		next, status := client.Refresh(t, tok.RefreshToken)
		if status != 200 {
			if next.Error != "invalid_grant" || time.Now().Before(earliest.Add(-time.Second)) {
				t.Errorf("%s before the end: %d %+v", time.Until(earliest), status, next)
			}
			return
		}
		if asked.After(latest.Add(2 * time.Second)) {
			t.Fatal("refreshes extended the grant")
		}
		tok = next
	}
}

// The last handle, repeated or used in parallel, gives the same successor; an older one
// ends the family.
func TestLastHandleGivesOneSuccessor_Row16(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	client, first := d.Login()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var handles []string
	for range 50 {
		wg.Go(func() {
			tok, status := client.Refresh(t, first.RefreshToken)
			if status != 200 {
				t.Errorf("a parallel refresh: %d %+v", status, tok)
			}
			mu.Lock()
			defer mu.Unlock()
			handles = append(handles, tok.RefreshToken)
		})
	}
	wg.Wait()
	// All of them are the same next generation: once one is used, every other is a
	// repetition of it, with the same successor.
	second, status := client.Refresh(t, handles[0])
	if status != 200 {
		t.Fatalf("the successor: %d %+v", status, second)
	}
	for _, h := range handles[1:5] {
		if tok, status := client.Refresh(t, h); status != 200 {
			t.Errorf("another copy of the same generation: %d %+v", status, tok)
		}
	}
	if tok, status := e2e.Post(t, d.Issuer, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {second.RefreshToken}, "client_id": {client.ID}, "scope": {"read"}}); status != 200 || tok.Scope != "read" {
		t.Errorf("a narrower scope: %d %+v", status, tok)
	}
	if tok, status := e2e.Post(t, d.Issuer, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {second.RefreshToken}, "client_id": {client.ID}, "scope": {"read admin"}}); status != 400 || tok.Error != "invalid_scope" {
		t.Errorf("a wider scope: %d %+v", status, tok)
	}
	if tok, status := client.Refresh(t, first.RefreshToken); status != 400 || tok.Error != "invalid_grant" {
		t.Errorf("an old handle: %d %+v", status, tok)
	}
	if tok, status := client.Refresh(t, second.RefreshToken); status != 400 || tok.Error != "invalid_grant" {
		t.Errorf("the family after reuse: %d %+v", status, tok)
	}
	if status := e2e.Call(t, d.Issuer+"/mcp", second.AccessToken); status != 401 {
		t.Errorf("an access token of the family after reuse: %d, want 401", status)
	}
}

// A token names one resource and is accepted only there.
func TestTokenIsGoodAtOneResource_Row24(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	a, b := d.Issuer+"/a", d.Issuer+"/b"
	d.Stop()
	d.Env = append(d.Env, "SIGNET_RESOURCES="+a+","+b)
	d.Start()
	client := e2e.Register(t, d.Issuer, e2e.RedirectURI)
	ask := func(resources ...string) *url.URL {
		u, _ := url.Parse(client.AuthorizationURL("s"))
		q := u.Query()
		q["resource"] = resources
		u.RawQuery = q.Encode()
		return e2e.SignIn(t, u.String(), "demo_user", "demo_password")
	}
	tok := client.Exchange(t, ask(a).Query().Get("code"))
	var claims struct{ Aud any }
	payload, _ := base64.RawURLEncoding.DecodeString(strings.Split(tok.AccessToken, ".")[1])
	if err := json.Unmarshal(payload, &claims); err != nil || claims.Aud != a {
		t.Errorf("aud %v, want %s", claims.Aud, a)
	}
	for path, want := range map[string]int{"/a": 200, "/b": 401} {
		if got := e2e.Call(t, d.Issuer+path, tok.AccessToken); got != want {
			t.Errorf("at %s: %d, want %d", path, got, want)
		}
	}
	for name, resources := range map[string][]string{"unknown": {d.Issuer + "/c"}, "none of several": nil, "two": {a, b}, "relative": {"/a"}, "fragment": {a + "#x"}} {
		if got := ask(resources...).Query().Get("error"); got != "invalid_target" {
			t.Errorf("%s: error %q, want invalid_target", name, got)
		}
	}
	if tok, status := e2e.Post(t, d.Issuer, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tok.RefreshToken}, "client_id": {client.ID}, "resource": {b}}); status != 400 || tok.Error != "invalid_target" {
		t.Errorf("another resource on refresh: %d %+v", status, tok)
	}
	if next, status := client.Refresh(t, tok.RefreshToken); status != 200 {
		t.Errorf("the handle after that: %d %+v", status, next)
	}
}

// The demo tools, without a token and with one.
func TestDemoTools_Row49(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	if status := e2e.Call(t, d.Issuer+"/mcp", ""); status != 401 {
		t.Errorf("without a token: %d, want 401", status)
	}
	session := e2e.Connect(t, d.Issuer+"/mcp", e2e.SDKLogin(t, "demo_user", "demo_password"), nil)
	for _, c := range []struct {
		tool string
		args map[string]any
		want string
	}{
		{"greet", map[string]any{"name": "World"}, "Hello, World!"},
		{"get_secret", map[string]any{"key": "api_key"}, "sk-secret-key-12345"},
		{"get_secret", map[string]any{"key": "nothing"}, "Secret not found"},
	} {
		if got := e2e.CallTool(t, session, c.tool, c.args); got != c.want {
			t.Errorf("%s(%v) says %q, want %q", c.tool, c.args, got, c.want)
		}
	}
}
