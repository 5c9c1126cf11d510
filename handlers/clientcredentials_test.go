package handlers_test

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"signet/handlers"
	"signet/internal/clients"
	"signet/internal/denylist"
	"signet/internal/seal"
	"signet/internal/test/authtest"
	"signet/internal/test/clientdoc"
	"signet/jwt"
	"signet/users"
)

// machine makes a client that may get tokens for itself.
func machine(t *testing.T, s *authtest.Server, scopes ...string) authtest.Client {
	t.Helper()
	return s.Configure(t, clients.Spec{ID: "worker", ClientCredentials: true, Scopes: scopes})
}

func askForItself(t *testing.T, s *authtest.Server, c authtest.Client, edits ...edit) *authtest.Response {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}}
	for _, e := range edits {
		e(form)
	}
	return s.PostForm(t, "/token", c, form)
}

func claimsOf(t *testing.T, s *authtest.Server, access string) jwt.Claims {
	t.Helper()
	claims, err := s.Verifier.Verify(t.Context(), access)
	if err != nil {
		t.Fatal(err)
	}
	return *claims
}

// The token is the client's own: no user, no refresh, no id token, no row.
func TestClientGetsATokenForItself_D13(t *testing.T) {
	s := authtest.New(t, several)
	c := machine(t, s, "mcp:read", "mcp:write")
	r := askForItself(t, s, c, set("resource", authtest.ResourceB))
	tok := r.Tokens(t)
	if tok.Refresh != "" || tok.Scope != "mcp:read mcp:write" || strings.Contains(r.Body, "id_token") || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s, Cache-Control %s", r.Body, r.Header.Get("Cache-Control"))
	}
	claims := claimsOf(t, s, tok.Access)
	if claims.Subject != "worker" || claims.ClientID != "worker" || claims.Audience != authtest.ResourceB || claims.AuthTime != 0 || !claims.OfClient() || claims.GrantID == "" || claims.ID == "" ||
		claims.ExpiresAt-claims.IssuedAt != int64(handlers.DefaultLives.Access.Seconds()) {
		t.Errorf("%+v", claims)
	}
	if user := claimsOf(t, s, s.Tokens(t, "alice", s.CONF).Access); user.OfClient() {
		t.Errorf("the token of a user: %+v", user)
	}
	grants, err := s.Denylist.All(t.Context(), "", "", 10, time.Now())
	if err != nil || len(grants) != 1 || grants[0].Subject != "alice" {
		t.Errorf("rows of grants: %v, %v; want alice's alone", grants, err)
	}
	for asked, want := range map[string]string{"mcp:read": "mcp:read", "mcp:write mcp:read": "mcp:write mcp:read", "mcp:read openid profile email offline_access": "mcp:read", "mcp:read mcp:admin nope": "mcp:read", "openid": "mcp:read mcp:write"} {
		r := askForItself(t, s, c, set("resource", authtest.ResourceA, "scope", asked))
		if got := r.Tokens(t); got.Scope != want || claimsOf(t, s, got.Access).Scope != want || strings.Contains(r.Body, "id_token") {
			t.Errorf("scope %q: %s, want %q", asked, r.Body, want)
		}
	}
	lines := s.Log.Audit(t, "client_credentials")
	if len(lines) != 6 || lines[0]["outcome"] != "ok" || lines[0]["client"] != seal.ClientHash("worker") || lines[0]["gid"] != claims.GrantID || lines[0]["sub"] != nil {
		t.Errorf("audit: %v", lines)
	}
}

// One thing wrong with a good request each.
func TestClientThatMayNotGetsNoTokenForItself_D13(t *testing.T) {
	s := authtest.New(t, several)
	both := s.Configure(t, clients.Spec{ID: "both", ClientCredentials: true, Scopes: []string{"mcp:read"}, RedirectURIs: []string{appRedirect}})
	api := s.Configure(t, clients.Spec{ID: "api", Resource: authtest.ResourceA})
	unknown := s.Configure(t, clients.Spec{ID: "unknown", ClientCredentials: true, Scopes: []string{"gone"}})
	c := machine(t, s, "mcp:read")
	good := set("resource", authtest.ResourceA)
	askForItself(t, s, c, good).Tokens(t)
	for name, tt := range map[string]struct {
		c      authtest.Client
		edit   edit
		status int
		code   string
	}{
		"configured, not allowed":     {s.CONF, good, 400, "unauthorized_client"},
		"configured, public":          {s.PRE, good, 400, "unauthorized_client"},
		"registered":                  {s.PUB, good, 400, "unauthorized_client"},
		"a resource server":           {api, good, 400, "unauthorized_client"},
		"no secret":                   {authtest.Client{ID: c.ID}, good, 401, "invalid_client"},
		"a wrong secret":              {authtest.Client{ID: c.ID, Secret: "wrong"}, good, 401, "invalid_client"},
		"the secret of another":       {authtest.Client{ID: c.ID, Secret: both.Secret}, good, 401, "invalid_client"},
		"no client":                   {authtest.Client{}, good, 401, "invalid_client"},
		"a scope of others":           {c, set("resource", authtest.ResourceA, "scope", "mcp:write"), 400, "invalid_scope"},
		"an unknown scope":            {c, set("resource", authtest.ResourceA, "scope", "nope"), 400, "invalid_scope"},
		"a malformed scope":           {c, set("resource", authtest.ResourceA, "scope", `a"b`), 400, "invalid_scope"},
		"scopes that no longer exist": {unknown, good, 400, "invalid_scope"},
		"no resource of several":      {c, del("resource"), 400, "invalid_target"},
		"another resource":            {c, set("resource", "https://other.test/mcp"), 400, "invalid_target"},
		"a resource with a fragment":  {c, set("resource", authtest.ResourceA+"#x"), 400, "invalid_target"},
		"two resources":               {c, func(f url.Values) { f["resource"] = []string{authtest.ResourceA, authtest.ResourceB} }, 400, "invalid_target"},
		"another spelling":            {c, set("resource", authtest.ResourceA, "grant_type", "CLIENT_CREDENTIALS"), 400, "unsupported_grant_type"},
	} {
		t.Run(name, func(t *testing.T) { wantError(t, askForItself(t, s, tt.c, tt.edit), tt.status, tt.code) })
	}

	// A client with redirect URIs does both; one without has no users.
	s.Tokens(t, "alice", both, good)
	askForItself(t, s, both, good).Tokens(t)
	wantPage(t, s.NewBrowser().Get(t, s.AuthorizeURL(authtest.Client{ID: c.ID, RedirectURI: appRedirect})), 400)
	wantPage(t, s.NewBrowser().Get(t, s.AuthorizeURL(c)), 400)
	tok := s.Tokens(t, "alice", s.CONF, good)
	wantError(t, s.Refresh(t, c, tok.Refresh), 400, "unauthorized_client")
}

func TestClientWithAKeyGetsATokenForItself(t *testing.T) {
	s := authtest.New(t)
	key := clientdoc.NewKey(t, "a")
	keySet, err := json.Marshal(clientdoc.Set(t, key))
	if err != nil {
		t.Fatal(err)
	}
	c := s.Configure(t, clients.Spec{ID: "worker", ClientCredentials: true, Scopes: []string{"mcp:read"}, JWKS: keySet})
	sign := func(k *clientdoc.Key) edit {
		return set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "client_assertion", k.Assertion(t, c.ID, authtest.Issuer, nil))
	}
	once := sign(key)
	if got := claimsOf(t, s, askForItself(t, s, c, once).Tokens(t).Access); !got.OfClient() || got.Subject != "worker" {
		t.Errorf("%+v", got)
	}
	wantError(t, askForItself(t, s, c, once), 401, "invalid_client")
	wantError(t, askForItself(t, s, c, sign(clientdoc.NewKey(t, "a"))), 401, "invalid_client")
	wantError(t, askForItself(t, s, c), 401, "invalid_client")
}

// Whatever ends a client ends the tokens that it got for itself, and no tokens of others. What
// it gets afterwards is good.
func TestTokensOfAClientForItselfEnd_G01(t *testing.T) {
	s := authtest.New(t, several)
	api := s.Configure(t, clients.Spec{ID: "api", Resource: authtest.ResourceA})
	other := s.Configure(t, clients.Spec{ID: "other", ClientCredentials: true, Scopes: []string{"mcp:read"}})
	c := machine(t, s, "mcp:read")
	good := set("resource", authtest.ResourceA)
	live := func(what string, c authtest.Client, access string, want bool) {
		t.Helper()
		if _, err := s.Verifier.Verify(t.Context(), access); (err == nil) != want {
			t.Errorf("%s: the verifier says %v", what, err)
		}
		for _, asks := range []authtest.Client{c, api} {
			if got := s.Introspect(t, asks, access); got.StatusCode == 200 && (got.JSON(t)["active"] == true) != want || want && got.StatusCode != 200 {
				t.Errorf("%s: introspection for %s: %d %s", what, asks.ID, got.StatusCode, got.Body)
			}
		}
	}
	first, second, others := askForItself(t, s, c, good).Tokens(t).Access, askForItself(t, s, c, good).Tokens(t).Access, askForItself(t, s, other, good).Tokens(t).Access
	live("a good token", c, first, true)
	if got := s.Introspect(t, api, first).JSON(t); got["sub"] != "worker" || got["client_id"] != "worker" || got["username"] != nil || got["scope"] != "mcp:read" {
		t.Errorf("introspection: %v", got)
	}
	if got := s.Introspect(t, other, first).JSON(t); got["active"] != false {
		t.Errorf("another client learns of the token: %v", got)
	}

	s.Revoke(t, other, first)
	live("revoked by another client", c, first, true)
	for range 2 {
		if r := s.Revoke(t, c, first); r.StatusCode != 200 {
			t.Errorf("revocation: %d %s", r.StatusCode, r.Body)
		}
	}
	live("revoked", c, first, false)
	live("the client's other token", c, second, false) // as all tokens of a grant
	second = askForItself(t, s, c, good).Tokens(t).Access
	s.Revoke(t, c, first) // a token that has ended ends nothing
	live("got after the revocation", c, second, true)

	hash := seal.ClientHash(c.ID)
	for range 3 {
		if err := s.Denylist.EndClient(t.Context(), hash); err != nil {
			t.Fatal(err)
		}
		live("ended", c, second, false)
		second = askForItself(t, s, c, good).Tokens(t).Access
		live("got after the end", c, second, true)
	}
	s.Restart(t)
	live("after a restart", c, first, false)
	live("after a restart", c, second, true)

	if err := s.Denylist.Block(t.Context(), denylist.BlockedClient{Hash: hash, ID: c.ID, At: time.Now()}); err != nil {
		t.Fatal(err)
	}
	wantError(t, askForItself(t, s, c, good), 401, "invalid_client")
	live("of a blocked client", c, second, false)
	if err := s.Denylist.Unblock(t.Context(), hash); err != nil {
		t.Fatal(err)
	}
	live("of a client that was blocked", c, second, false)
	live("of a client that is no longer blocked", c, askForItself(t, s, c, good).Tokens(t).Access, true)
	live("of another client", other, others, true)
}

// No user is taken for a client, and no client for a user.
func TestNoTokenOfAClientIsThatOfAUser_F02(t *testing.T) {
	s := authtest.New(t)
	c := machine(t, s, "mcp:read")
	tok := askForItself(t, s, c).Tokens(t)
	r := s.Do(t, request("GET", authtest.Issuer+"/userinfo", "", "Authorization", "Bearer "+tok.Access))
	if r.StatusCode != 403 || r.Error() != "insufficient_scope" {
		t.Errorf("userinfo: %d %s", r.StatusCode, r.Body)
	}
	alice := s.Configure(t, clients.Spec{ID: "alice", ClientCredentials: true, Scopes: []string{"mcp:read"}})
	wantError(t, askForItself(t, s, alice), 400, "unauthorized_client")
	s.Tokens(t, "alice", s.PUB) // the user goes on
	s.Users.Change("alice", func(*authtest.Account) bool { return false })
	askForItself(t, s, alice).Tokens(t)

	// A program's own check cannot tell which users there are: there the user is refused.
	check := users.CheckFunc(func(_ context.Context, name, _ string) (users.User, error) {
		return users.User{Subject: name, Scopes: []string{"mcp:read"}}, nil
	})
	s = authtest.New(t, func(c *authtest.Config) { c.Users = check })
	before := s.Tokens(t, "alice", s.PUB)
	worker, alice := machine(t, s, "mcp:read"), s.Configure(t, clients.Spec{ID: "alice", ClientCredentials: true, Scopes: []string{"mcp:read"}})
	for _, c := range []authtest.Client{worker, alice} {
		askForItself(t, s, c).Tokens(t)
		b := s.NewBrowser()
		page := b.Submit(t, b.Get(t, s.AuthorizeURL(s.PUB)), set("username", c.ID, "password", "correct horse alice"))
		if page.StatusCode != 401 {
			t.Errorf("a user named %s signs in: %d", c.ID, page.StatusCode)
		}
	}
	wantError(t, s.Refresh(t, s.PUB, before.Refresh), 400, "invalid_grant")
	s.Tokens(t, "bob", s.PUB)
}

// Nothing is read from the store, so tokens are given while it is away; before it was read once,
// none are.
func TestTokenForItselfNeedsNoStore(t *testing.T) {
	s := authtest.New(t, func(c *authtest.Config) { c.Limits.TokensClient = 3 })
	c := machine(t, s, "mcp:read")
	s.StopStore(t)
	tok := askForItself(t, s, c).Tokens(t)
	claimsOf(t, s, tok.Access)
	wantError(t, s.Introspect(t, c, tok.Access), 503, "temporarily_unavailable")
	wantError(t, s.Revoke(t, c, tok.Access), 503, "temporarily_unavailable")
	for range 2 {
		askForItself(t, s, c).Tokens(t)
	}
	wantError(t, askForItself(t, s, c), 429, "temporarily_unavailable")
}
