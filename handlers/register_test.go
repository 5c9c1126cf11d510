package handlers_test

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"

	"signet/internal/test/authtest"
)

// Row 6: registration in the form that clients send it, at both paths.
func TestClientsRegisterThemselves_Row06(t *testing.T) {
	s := authtest.New(t, func(c *authtest.Config) {
		c.Scopes, c.DefaultScopes = []string{"read", "write", "admin"}, []string{"read"}
	})
	post := func(path, body string) *authtest.Response {
		t.Helper()
		return s.Post(t, path, "application/json; charset=utf-8", body)
	}
	for _, path := range []string{"/register", "/oauth/register"} {
		r := post(path, `{"redirect_uris":["http://localhost:5000/callback"],"client_name":"My App","scope":"read write","client_uri":"https://app.test/"}`)
		if r.StatusCode != 201 || r.Header.Get("Cache-Control") != "no-store" {
			t.Fatalf("%d %s", r.StatusCode, r.Body)
		}
		v := r.JSON(t)
		for name, want := range map[string]any{
			"client_name": "My App", "scope": "read write", "token_endpoint_auth_method": "client_secret_basic", "client_secret_expires_at": 0.0, "client_uri": "https://app.test/",
		} {
			if v[name] != want {
				t.Errorf("%s = %v, want %v", name, v[name], want)
			}
		}
		id, _ := v["client_id"].(string)
		secret, _ := v["client_secret"].(string)
		if id == "" || secret == "" || v["client_id_issued_at"] == nil {
			t.Errorf("%s", r.Body)
		}
		c := authtest.Client{ID: id, Secret: secret, RedirectURI: "http://localhost:5000/callback"}
		if tok := s.Tokens(t, "bob", c); tok.Scope != "read" {
			t.Errorf("scope %s", tok.Scope)
		}
	}
	if v := post("/register", `{"redirect_uris":["https://app.test/cb"],"token_endpoint_auth_method":"none"}`).JSON(t); v["client_secret"] != nil || v["scope"] != "read" {
		t.Errorf("a public client: %v", v)
	}
	for body, code := range map[string]string{
		`{}`: "", `{"redirect_uris":[]}`: "", `not json`: "invalid_client_metadata", ``: "invalid_client_metadata",
		`{"redirect_uris":["javascript:alert(1)"]}`:                            "invalid_redirect_uri",
		`{"redirect_uris":["http://app.test/cb"]}`:                             "invalid_redirect_uri",
		`{"redirect_uris":["https://app.test/cb#"]}`:                           "invalid_redirect_uri",
		`{"redirect_uris":["https://app.test/cb"],"grant_types":["password"]}`: "invalid_client_metadata",
	} {
		r := post("/register", body)
		if r.StatusCode != 400 || code != "" && r.Error() != code || code == "" && r.Error() != "invalid_redirect_uri" && r.Error() != "invalid_client_metadata" {
			t.Errorf("%s: %d %s", body, r.StatusCode, r.Body)
		}
	}
	if r := post("/register", `{"redirect_uris":["https://app.test/cb"],"scope":"openid profile email offline_access read"}`); r.StatusCode != 201 {
		t.Errorf("standard scopes: %d %s", r.StatusCode, r.Body)
	}
}

// H04: a client id is only what this server issued, and only valid here.
func TestClientIDCannotBeForged_H04(t *testing.T) {
	s := authtest.New(t)
	r := s.Post(t, "/register", "application/json", `{"redirect_uris":["https://app.test/cb"],"client_id":"alice","client_secret":"a secret of my own"}`)
	id, _ := r.JSON(t)["client_id"].(string)
	if r.StatusCode != 201 || id == "alice" || strings.HasPrefix(id, "https://") || strings.Contains(r.Body, "of my own") {
		t.Errorf("%d %s", r.StatusCode, r.Body)
	}
}

// H06: bounds of a registration.
func TestRegistrationIsBounded_H06(t *testing.T) {
	s := authtest.New(t)
	wantError(t, s.Post(t, "/register", "application/json", `{"client_name":"`+strings.Repeat("x", 16<<10)+`"}`), 413, "invalid_client_metadata")
	uris, err := json.Marshal([]string{"https://app.test/" + strings.Repeat("a", 1500)})
	if err != nil {
		t.Fatal(err)
	}
	if r := s.Post(t, "/register", "application/json", `{"redirect_uris":`+string(uris)+`}`); r.StatusCode != 400 {
		t.Errorf("%d %s", r.StatusCode, r.Body)
	}
	wantError(t, s.Post(t, "/register", formType, "redirect_uris=x"), 415, "invalid_client_metadata")
	wantError(t, s.Post(t, "/register", "text/plain", ""), 415, "invalid_client_metadata")
	wantError(t, s.Post(t, "/register", "", "redirect_uris=x"), 400, "invalid_client_metadata")
	for _, media := range []string{"", formType, "text/plain;charset=UTF-8", "application/octet-stream", "x"} { // clients that do not name what they send
		if r := s.Post(t, "/register", media, registration); r.StatusCode != 201 {
			t.Errorf("Content-Type %q: %d %s", media, r.StatusCode, r.Body)
		}
	}
}

// H07: a header that means nothing here is no failure.
func TestRegistrationIgnoresOtherAuthorization_H07(t *testing.T) {
	s := authtest.New(t)
	for _, header := range []string{"Bearer", "Bearer  ", "Basic", "Basic %", "Bearer " + strings.Repeat("x", 64<<10)} {
		r := request("POST", authtest.Issuer+"/register", `{"redirect_uris":["https://app.test/cb"]}`, "Content-Type", "application/json", "Authorization", header)
		if res := s.Do(t, r); res.StatusCode != 201 {
			t.Errorf("%.20s: %d", header, res.StatusCode)
		}
	}
}

// H07: where an initial access token is required, everything else is a 401 and never a
// failure; with the token any registration is accepted.
func TestRegistrationMayNeedAToken_H07(t *testing.T) {
	s := authtest.New(t)
	s.Config.Registration.Token = "correct-horse-battery-staple"
	s.Restart(t)
	ask := func(headers ...string) *authtest.Response {
		return s.Do(t, request("POST", authtest.Issuer+"/register", registration, append([]string{"Content-Type", "application/json"}, headers...)...))
	}
	for _, header := range []string{"", "Bearer", "Bearer  ", "Bearer correct-horse-battery-stapl", "Bearer correct-horse-battery-staple2", "Bearer Correct-horse-battery-staple",
		"Basic Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5LXN0YXBsZQ==", "Basic", "correct-horse-battery-staple", "Bearer " + strings.Repeat("x", 64<<10)} {
		r := ask()
		if header != "" {
			r = ask("Authorization", header)
		}
		wantError(t, r, 401, "invalid_token")
		// Without a token the challenge has no error code (RFC 6750 §3.1).
		got := r.Header.Get("WWW-Authenticate")
		if token := strings.HasPrefix(header, "Bearer"); token != strings.HasPrefix(got, `Bearer error="invalid_token"`) || !token && got != "Bearer" {
			t.Errorf("%.40q: WWW-Authenticate %q", header, got)
		}
		if !strings.Contains(r.Body, "initial access token") {
			t.Errorf("%.40q: %s", header, r.Body)
		}
	}
	if r := ask("Authorization", "bearer correct-horse-battery-staple"); r.StatusCode != 201 {
		t.Errorf("with the token: %d %s", r.StatusCode, r.Body)
	}
}

// A02: with registration off, the endpoint is neither advertised nor served, and
// registered clients stay clients.
func TestRegistrationMayBeOff_A02(t *testing.T) {
	s := authtest.New(t)
	s.Config.Registration.Off = true
	s.Restart(t)
	if _, there := s.Get(t, "/.well-known/oauth-authorization-server").JSON(t)["registration_endpoint"]; there {
		t.Error("registration is advertised")
	}
	for _, path := range []string{"/register", "/oauth/register"} {
		if r := s.Post(t, path, "application/json", registration); r.StatusCode != 404 {
			t.Errorf("%s: %d, want 404", path, r.StatusCode)
		}
	}
	s.Tokens(t, "alice", s.PUB)
}

// Rows 9 and 10: an unknown client, and redirect URIs of all kinds, end to end.
func TestRedirectsOfAllKindsWorkEndToEnd_Row09_Row10(t *testing.T) {
	s := authtest.New(t)
	wantPage(t, s.NewBrowser().Get(t, "/authorize?client_id=made-up"), 400)
	c := s.Register(t, "cursor://anysphere.cursor-mcp/oauth/callback", "https://www.cursor.com/agents/mcp/oauth/callback", "http://localhost:8787/callback")
	for _, uri := range []string{"cursor://anysphere.cursor-mcp/oauth/callback", "https://www.cursor.com/agents/mcp/oauth/callback", "http://localhost:50002/callback"} {
		b := s.NewBrowser()
		page := b.SignIn(t, "alice", c, set("redirect_uri", uri))
		r := b.Submit(t, page, set("decision", "approve"))
		if !strings.HasPrefix(r.Header.Get("Location"), uri+"?code=") {
			t.Errorf("%s: redirect to %s", uri, r.Header.Get("Location"))
		}
		s.Redeem(t, c, r.Sent().Get("code"), set("redirect_uri", uri)).Tokens(t)
	}
}

// Registrations as clients send them, with more than there is. Each of these clients gets what it
// was told, by a login from end to end.
func TestClientsThatAskForMoreCanConnect_H03(t *testing.T) {
	s := authtest.New(t)
	for name, c := range map[string]struct{ body, redirectURI string }{
		"Claude":        {`{"client_name":"Claude","redirect_uris":["https://claude.ai/api/mcp/auth_callback"],"grant_types":["authorization_code","refresh_token","urn:ietf:params:oauth:grant-type:jwt-bearer"],"response_types":["code"],"token_endpoint_auth_method":"none","scope":"claudeai"}`, "https://claude.ai/api/mcp/auth_callback"},
		"use-mcp":       {`{"client_name":"x","client_uri":"http://localhost:5173","redirect_uris":["http://localhost:5173/oauth/callback"],"token_endpoint_auth_method":"none","application_type":"spa","contacts":"me"}`, "http://localhost:5173/oauth/callback"},
		"openid-client": {`{"redirect_uris":["https://rp.test/cb"],"id_token_signed_response_alg":"RS256","token_endpoint_auth_method":"private_key_jwt","jwks":{"keys":[{"kty":"EC","d":"x"}]},"response_types":["code","id_token"]}`, "https://rp.test/cb"},
		"desktop":       {`{"redirect_uris":["zed://cb","vscode://ext.one/cb","http://192.168.1.2/cb"],"token_endpoint_auth_method":"none"}`, "vscode://ext.one/cb"},
	} {
		v := s.Post(t, "/register", "application/json", c.body).JSON(t)
		if v["id_token_signed_response_alg"] != "ES256" || v["jwks"] != nil {
			t.Errorf("%s: %v", name, v)
		}
		secret, _ := v["client_secret"].(string)
		tokens := s.Tokens(t, "alice", authtest.Client{ID: v["client_id"].(string), Secret: secret, RedirectURI: c.redirectURI})
		if tokens.Scope != v["scope"] || tokens.Refresh == "" {
			t.Errorf("%s: %+v, registered were %v", name, tokens, v)
		}
	}
}

// The short paths and their aliases are the same endpoints.
func TestOAuthPathsAreAliases(t *testing.T) {
	s := authtest.New(t)
	b := s.NewBrowser()
	page := b.Get(t, strings.Replace(s.AuthorizeURL(s.PUB), "/authorize?", "/oauth/authorize?", 1))
	wantLogin(t, page)
	code := b.Submit(t, b.Submit(t, page, aliceLogin), set("decision", "approve")).Sent().Get("code")
	tok := s.PostForm(t, "/oauth/token", s.PUB, s.CodeForm(s.PUB, code)).Tokens(t)
	if r := s.PostForm(t, "/oauth/introspect", s.PUB, url.Values{"token": {tok.Access}}); r.JSON(t)["active"] != true {
		t.Errorf("%s", r.Body)
	}
}

// The grants that a client is registered for are among those that the metadata lists.
func TestClientsRegisterForGrantsThatAreServed(t *testing.T) {
	s := authtest.New(t)
	supported := s.Get(t, "/.well-known/oauth-authorization-server").JSON(t)["grant_types_supported"].([]any)
	registered := s.Post(t, "/register", "application/json", `{"redirect_uris":["https://app.test/cb"]}`).JSON(t)["grant_types"].([]any)
	if len(registered) == 0 {
		t.Error("a client is registered for no grant")
	}
	for _, name := range registered {
		if !slices.Contains(supported, name) {
			t.Errorf("a client is registered for %v, the metadata lists %v", name, supported)
		}
	}
}
