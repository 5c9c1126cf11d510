package handlers_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"
	otherjwt "github.com/lestrrat-go/jwx/v2/jwt"

	"signet/handlers"
	"signet/internal/admission"
	"signet/internal/clients"
	"signet/internal/denylist"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/internal/test/authtest"
	"signet/internal/test/clientdoc"
	"signet/jwt"
)

const backend = "https://backend.test/mcp"

// gateway makes a client that may exchange tokens.
func gateway(t *testing.T, s *authtest.Server, audiences ...string) authtest.Client {
	t.Helper()
	return s.Configure(t, clients.Spec{ID: "gw", Exchange: audiences})
}

// exchanged asks for a token of the backend in exchange for another one.
func exchanged(t *testing.T, s *authtest.Server, c authtest.Client, subject string, edits ...edit) *authtest.Response {
	t.Helper()
	form := url.Values{"grant_type": {oauth.GrantTokenExchange}, "subject_token": {subject}, "subject_token_type": {oauth.TokenTypeAccess}, "audience": {backend}}
	for _, e := range edits {
		e(form)
	}
	return s.PostForm(t, "/token", c, form)
}

// writes are the rows of grants, with what a use changes in them.
func writes(t *testing.T, s *authtest.Server) string {
	t.Helper()
	list, err := s.Denylist.All(t.Context(), "", "", 10, s.Store.Now())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The token is one of the same user, client and grant, for the other audience and for no longer.
func TestTokenIsExchangedForAnotherAudience(t *testing.T) {
	s := authtest.New(t)
	c := gateway(t, s, backend)
	tok := s.Tokens(t, "alice", s.PUB, set("scope", "mcp:read mcp:write"))
	before, rows := claimsOf(t, s, tok.Access), writes(t, s)
	r := exchanged(t, s, c, tok.Access)
	got := r.Tokens(t)
	answer := r.JSON(t)
	if got.Refresh != "" || answer["id_token"] != nil || answer["token_type"] != "Bearer" || answer["issued_token_type"] != oauth.TokenTypeAccess || got.Scope != "mcp:read mcp:write" {
		t.Errorf("answer: %s", r.Body)
	}
	claims, err := s.Verifier.For(backend).Verify(t.Context(), got.Access)
	if err != nil {
		t.Fatal(err)
	}
	want := before
	want.Audience, want.Actor, want.ID, want.IssuedAt = backend, &jwt.Actor{Subject: c.ID}, claims.ID, claims.IssuedAt
	if claims.Actor == nil || *claims.Actor != *want.Actor || claims.ID == before.ID || claims.ExpiresAt > before.ExpiresAt || answer["expires_in"].(float64) > float64(before.ExpiresAt-time.Now().Unix()+1) {
		t.Errorf("claims %+v of %+v", claims, before)
	}
	if claims.Actor = want.Actor; *claims != want {
		t.Errorf("claims %+v, want %+v", *claims, want)
	}
	if now := writes(t, s); now != rows {
		t.Errorf("an exchange writes: %s, before %s", now, rows)
	}
	lines := s.Log.Audit(t, "exchange")
	if len(lines) != 1 || lines[0]["outcome"] != "ok" || lines[0]["sub"] != "alice" || lines[0]["client"] != seal.ClientHash("gw") || lines[0]["gid"] != before.GrantID || lines[0]["audience"] != backend {
		t.Errorf("audit: %v", lines)
	}
	s.Refresh(t, s.PUB, tok.Refresh).Tokens(t) // the user's client goes on
}

// Ways to ask for the same.
func TestExchangeIsAskedForInSeveralWays(t *testing.T) {
	s := authtest.New(t)
	c := gateway(t, s, backend, "https://root.test")
	tok := s.Tokens(t, "alice", s.PUB, set("scope", "mcp:read mcp:write"))
	for name, tt := range map[string]struct {
		edit                  edit
		scope, kind, audience string
	}{
		"resource":                 {func(f url.Values) { del("audience")(f); set("resource", backend)(f) }, "mcp:read mcp:write", oauth.TokenTypeAccess, backend},
		"host in another case":     {set("audience", "https://BACKEND.test/mcp"), "mcp:read mcp:write", oauth.TokenTypeAccess, backend},
		"root with a slash":        {set("audience", "https://root.test/"), "mcp:read mcp:write", oauth.TokenTypeAccess, "https://root.test"},
		"a part of the scope":      {set("scope", "mcp:write"), "mcp:write", oauth.TokenTypeAccess, backend},
		"requested as a JWT":       {set("requested_token_type", oauth.TokenTypeJWT), "mcp:read mcp:write", oauth.TokenTypeJWT, backend},
		"requested by its name":    {set("requested_token_type", oauth.TokenTypeAccess), "mcp:read mcp:write", oauth.TokenTypeAccess, backend},
		"a JWT in exchange":        {set("subject_token_type", oauth.TokenTypeJWT), "mcp:read mcp:write", oauth.TokenTypeAccess, backend},
		"an empty actor_token":     {set("actor_token", ""), "mcp:read mcp:write", oauth.TokenTypeAccess, backend},
		"the secret in the header": {func(url.Values) {}, "mcp:read mcp:write", oauth.TokenTypeAccess, backend},
	} {
		t.Run(name, func(t *testing.T) {
			r := exchanged(t, s, c, tok.Access, tt.edit)
			got := r.Tokens(t)
			claims, err := s.Verifier.For(tt.audience).Verify(t.Context(), got.Access)
			if err != nil || claims.Audience != tt.audience || claims.Scope != tt.scope || got.Scope != tt.scope || r.JSON(t)["issued_token_type"] != tt.kind {
				t.Errorf("%+v, %v; answer %s", claims, err, r.Body)
			}
		})
	}
}

// A scope that another one implies is a part of it.
func TestImpliedScopeMayBeExchanged(t *testing.T) {
	s := authtest.New(t, choosing)
	c := gateway(t, s, backend)
	tok := s.Tokens(t, "alice", s.PUB, set("scope", "mcp:write"))
	got := exchanged(t, s, c, tok.Access, set("scope", "mcp:read")).Tokens(t)
	if claims, err := s.Verifier.For(backend).Verify(t.Context(), got.Access); err != nil || claims.Scope != "mcp:read" {
		t.Errorf("%+v, %v", claims, err)
	}
	reader := s.Tokens(t, "alice", s.PUB, set("scope", "mcp:read"))
	if r := exchanged(t, s, c, reader.Access, set("scope", "mcp:write")); r.StatusCode != 400 || r.JSON(t)["error"] != "invalid_scope" {
		t.Errorf("the wider scope: status %d, %s", r.StatusCode, r.Body)
	}
}

// One thing wrong with a good request each.
func TestExchangeIsRefused(t *testing.T) {
	s := authtest.New(t, several)
	worker := machine(t, s, "mcp:read")
	both := s.Configure(t, clients.Spec{ID: "both", Exchange: []string{"https://other.test/mcp"}, RedirectURIs: []string{appRedirect}})
	api := s.Configure(t, clients.Spec{ID: "api", Resource: backend})
	c := gateway(t, s, backend, authtest.ResourceB)
	good := set()
	tok := s.Tokens(t, "alice", both, set("resource", authtest.ResourceA, "scope", "mcp:read openid"))
	own := askForItself(t, s, worker, set("resource", authtest.ResourceA)).Tokens(t)
	once := exchanged(t, s, c, tok.Access, set("audience", authtest.ResourceB)).Tokens(t)
	forBackend := exchanged(t, s, c, tok.Access).Tokens(t)
	signed := func(change func(*jwt.Claims)) string {
		claims := claimsOf(t, s, tok.Access)
		change(&claims)
		raw, err := jwt.NewSigner(s.Keys.Signing).Sign(claims, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	id, _ := s.Redeem(t, both, s.Code(t, "alice", both, set("resource", authtest.ResourceA, "scope", "mcp:read openid"))).JSON(t)["id_token"].(string)
	if id == "" {
		t.Fatal("no id token")
	}
	subject := func(raw string) edit { return set("subject_token", raw) }
	exchanged(t, s, c, signed(func(c *jwt.Claims) { c.ID = "" })).Tokens(t) // a token as the next ones, with nothing changed
	for name, tt := range map[string]struct {
		c      authtest.Client
		edit   edit
		status int
		code   string
	}{
		"configured, not allowed":        {s.CONF, good, 400, "unauthorized_client"},
		"a machine":                      {worker, good, 400, "unauthorized_client"},
		"configured, public":             {s.PRE, good, 400, "unauthorized_client"},
		"registered":                     {s.PUB, good, 400, "unauthorized_client"},
		"a resource server":              {api, good, 400, "unauthorized_client"},
		"allowed for something else":     {both, good, 400, "invalid_target"},
		"no secret":                      {authtest.Client{ID: c.ID}, good, 401, "invalid_client"},
		"a wrong secret":                 {authtest.Client{ID: c.ID, Secret: "wrong"}, good, 401, "invalid_client"},
		"no client":                      {authtest.Client{}, good, 401, "invalid_client"},
		"no subject_token":               {c, del("subject_token"), 400, "invalid_request"},
		"two subject_tokens":             {c, add("subject_token", tok.Access), 400, "invalid_request"},
		"no subject_token_type":          {c, del("subject_token_type"), 400, "invalid_request"},
		"another subject_token_type":     {c, set("subject_token_type", "urn:ietf:params:oauth:token-type:refresh_token"), 400, "invalid_request"},
		"an id token's type":             {c, set("subject_token_type", "urn:ietf:params:oauth:token-type:id_token"), 400, "invalid_request"},
		"an actor_token":                 {c, set("actor_token", own.Access, "actor_token_type", oauth.TokenTypeAccess), 400, "invalid_request"},
		"an actor_token_type":            {c, set("actor_token_type", oauth.TokenTypeAccess), 400, "invalid_request"},
		"unknown requested_token_type":   {c, set("requested_token_type", "urn:ietf:params:oauth:token-type:saml2"), 400, "invalid_request"},
		"a refresh token requested":      {c, set("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"), 400, "invalid_request"},
		"a provider's token, no ID":      {c, set("requested_token_type", oauth.TokenTypeUpstream), 400, "invalid_request"},
		"a provider, no such type":       {c, set("audience", "upstream:forge"), 400, "invalid_request"},
		"a provider, not allowed":        {c, set("audience", "upstream:forge", "requested_token_type", oauth.TokenTypeUpstream), 400, "invalid_target"},
		"no audience":                    {c, del("audience"), 400, "invalid_request"},
		"another audience":               {c, set("audience", "https://other.test/mcp"), 400, "invalid_target"},
		"a longer audience":              {c, set("audience", backend+"/x"), 400, "invalid_target"},
		"an audience that is no URL":     {c, set("audience", "backend"), 400, "invalid_target"},
		"an audience with a fragment":    {c, set("audience", backend+"#x"), 400, "invalid_target"},
		"two audiences":                  {c, add("audience", authtest.ResourceB), 400, "invalid_target"},
		"the same audience twice":        {c, add("audience", backend), 400, "invalid_target"},
		"two resources":                  {c, func(f url.Values) { del("audience")(f); f["resource"] = []string{backend, authtest.ResourceB} }, 400, "invalid_target"},
		"audience and resource":          {c, set("resource", backend), 400, "invalid_target"},
		"a wider scope":                  {c, set("scope", "mcp:read mcp:write"), 400, "invalid_scope"},
		"another scope":                  {c, set("scope", "admin"), 400, "invalid_scope"},
		"a malformed scope":              {c, set("scope", `a"b`), 400, "invalid_scope"},
		"a refresh handle":               {c, subject(tok.Refresh), 400, "invalid_request"},
		"an id token":                    {c, subject(id), 400, "invalid_request"},
		"junk":                           {c, subject("junk"), 400, "invalid_request"},
		"tampered":                       {c, subject(tok.Access[:len(tok.Access)-3] + "abc"), 400, "invalid_request"},
		"expired":                        {c, subject(signed(func(c *jwt.Claims) { c.IssuedAt -= 3600; c.ExpiresAt = time.Now().Unix() - 1 })), 400, "invalid_request"},
		"of another issuer":              {c, subject(signed(func(c *jwt.Claims) { c.Issuer = "https://other.test" })), 400, "invalid_request"},
		"for another audience":           {c, subject(signed(func(c *jwt.Claims) { c.Audience = "https://other.test/mcp" })), 400, "invalid_request"},
		"without a grant":                {c, subject(signed(func(c *jwt.Claims) { c.GrantID = "" })), 400, "invalid_request"},
		"of a grant that does not exist": {c, subject(signed(func(c *jwt.Claims) { c.GrantID = seal.NewID(time.Now().Add(time.Hour)) })), 400, "invalid_request"},
		"of a client that does not":      {c, subject(signed(func(c *jwt.Claims) { c.ClientID = "nobody" })), 400, "invalid_request"},
		"of a user who does not":         {c, subject(signed(func(c *jwt.Claims) { c.Subject = "nobody" })), 400, "invalid_request"},
		"a client's own":                 {c, subject(own.Access), 400, "invalid_request"},
		"exchanged before":               {c, subject(once.Access), 400, "invalid_request"},
		"the backend's own":              {c, subject(forBackend.Access), 400, "invalid_request"},
		"another spelling of the grant":  {c, set("grant_type", strings.ToUpper(oauth.GrantTokenExchange)), 400, "unsupported_grant_type"},
	} {
		t.Run(name, func(t *testing.T) { wantError(t, exchanged(t, s, tt.c, tok.Access, tt.edit), tt.status, tt.code) })
	}
	exchanged(t, s, c, tok.Access).Tokens(t) // nothing of that has changed anything
	s.Tokens(t, "alice", both, set("resource", authtest.ResourceA))
	wantPage(t, s.NewBrowser().Get(t, s.AuthorizeURL(authtest.Client{ID: c.ID, RedirectURI: appRedirect})), 400)
	if got := exchanged(t, s, c, once.Access); !strings.Contains(got.Body, "cannot be exchanged again") {
		t.Errorf("exchanged before: %s", got.Body)
	}
}

// Without a client that may exchange there is no such grant; the metadata follows the file.
func TestExchangeIsOfferedWhileAClientMay(t *testing.T) {
	s := authtest.New(t)
	offered := func() bool {
		list, _ := s.Get(t, "/.well-known/oauth-authorization-server").JSON(t)["grant_types_supported"].([]any)
		return len(list) == 4 && list[3] == oauth.GrantTokenExchange
	}
	tok := s.Tokens(t, "alice", s.PUB)
	if offered() {
		t.Error("the grant is offered, and no client may use it")
	}
	wantError(t, exchanged(t, s, s.CONF, tok.Access), 400, "unsupported_grant_type")
	c := gateway(t, s, backend)
	if !offered() {
		t.Error("the grant is not offered")
	}
	wantError(t, exchanged(t, s, s.CONF, tok.Access), 400, "unauthorized_client")
	exchanged(t, s, c, tok.Access).Tokens(t)
}

func TestClientWithAKeyExchanges(t *testing.T) {
	s := authtest.New(t)
	key := clientdoc.NewKey(t, "a")
	keySet, err := json.Marshal(clientdoc.Set(t, key))
	if err != nil {
		t.Fatal(err)
	}
	c := s.Configure(t, clients.Spec{ID: "gw", Exchange: []string{backend}, JWKS: keySet})
	tok := s.Tokens(t, "alice", s.PUB)
	once := set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "client_assertion", key.Assertion(t, c.ID, authtest.Issuer, nil))
	exchanged(t, s, c, tok.Access, once).Tokens(t)
	wantError(t, exchanged(t, s, c, tok.Access, once), 401, "invalid_client")
	wantError(t, exchanged(t, s, c, tok.Access), 401, "invalid_client")
}

// A program that knows nothing of Signet verifies the token with the published keys. It is of no
// use anywhere else.
func TestExchangedTokenIsGoodForItsAudienceOnly(t *testing.T) {
	s := authtest.New(t)
	c := gateway(t, s, backend)
	got := exchanged(t, s, c, s.Tokens(t, "alice", s.PUB).Access).Tokens(t).Access
	set, err := jwk.Parse([]byte(s.Get(t, "/.well-known/jwks.json").Body))
	if err != nil {
		t.Fatal(err)
	}
	parse := func(audience string) (otherjwt.Token, error) {
		return otherjwt.Parse([]byte(got), otherjwt.WithKeySet(set), otherjwt.WithIssuer(authtest.Issuer), otherjwt.WithAudience(audience), otherjwt.WithValidate(true), otherjwt.WithAcceptableSkew(jwt.Leeway))
	}
	token, err := parse(backend)
	if err != nil {
		t.Fatal(err)
	}
	if act, _ := token.Get("act"); token.Subject() != "alice" || act.(map[string]any)["sub"] != "gw" {
		t.Errorf("sub %s, act %v", token.Subject(), act)
	}
	if _, err := parse("https://other.test/mcp"); err == nil {
		t.Error("another backend takes the token")
	}
	if _, err := s.Verifier.Verify(t.Context(), got); err == nil {
		t.Error("the MCP endpoint takes the token")
	}
	r := s.Do(t, request("GET", authtest.Issuer+"/userinfo", "", "Authorization", "Bearer "+got))
	if r.StatusCode != 401 {
		t.Errorf("userinfo: %d %s", r.StatusCode, r.Body)
	}
}

// A token that the client's own life makes shorter, and one that the exchanged token does.
func TestExchangedTokenLivesNoLonger(t *testing.T) {
	s := authtest.New(t)
	short := s.Configure(t, clients.Spec{ID: "short", Exchange: []string{backend}, AccessTTL: time.Minute})
	long := gateway(t, s, backend)
	app := s.Configure(t, clients.Spec{ID: "app", RedirectURIs: []string{appRedirect}, Scopes: []string{"mcp:read"}, AccessTTL: 2 * time.Minute})
	tok := s.Tokens(t, "alice", app)
	subject := claimsOf(t, s, tok.Access)
	for _, tt := range []struct {
		c     authtest.Client
		until func(*jwt.Claims) int64
	}{
		{short, func(c *jwt.Claims) int64 { return c.IssuedAt + 60 }},
		{long, func(*jwt.Claims) int64 { return subject.ExpiresAt }},
	} {
		claims, err := s.Verifier.For(backend).Verify(t.Context(), exchanged(t, s, tt.c, tok.Access).Tokens(t).Access)
		if err != nil || claims.ExpiresAt != tt.until(claims) {
			t.Errorf("%s: %+v, %v; the exchanged one ends at %d", tt.c.ID, claims, err, subject.ExpiresAt)
		}
	}
}

// Whatever ends the grant ends what an exchange gave, at the verifier and in introspection, and
// the exchanged token buys nothing any more.
func TestExchangedTokenEndsWithItsGrant(t *testing.T) {
	block := func(t *testing.T, s *authtest.Server, id string) {
		t.Helper()
		if err := s.Denylist.Block(t.Context(), denylist.BlockedClient{Hash: seal.ClientHash(id), ID: id, At: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		end     func(*testing.T, *authtest.Server, authtest.Client, authtest.Tokens)
		status  int // of another exchange
		code    string
		offline bool // whether a verifier takes the token until a running server has ended the grants, or the token expires
	}{
		"the client revokes": {func(t *testing.T, s *authtest.Server, app authtest.Client, tok authtest.Tokens) {
			s.Revoke(t, app, tok.Access)
		}, 400, "invalid_request", false},
		"the user is gone": {func(t *testing.T, s *authtest.Server, _ authtest.Client, _ authtest.Tokens) {
			s.Users.Change("alice", func(*authtest.Account) bool { return false })
		}, 400, "invalid_request", true},
		"the user has changed": {func(t *testing.T, s *authtest.Server, _ authtest.Client, _ authtest.Tokens) {
			s.Users.Change("alice", func(a *authtest.Account) bool { a.User.Version = "next"; return true })
		}, 400, "invalid_request", true},
		"the user's client is blocked": {func(t *testing.T, s *authtest.Server, app authtest.Client, _ authtest.Tokens) {
			block(t, s, app.ID)
		}, 400, "invalid_request", true},
		"the user's client is removed": {func(t *testing.T, s *authtest.Server, app authtest.Client, _ authtest.Tokens) {
			remove(t, s, app.ID)
		}, 400, "invalid_request", true},
		"the exchanging client is blocked": {func(t *testing.T, s *authtest.Server, _ authtest.Client, _ authtest.Tokens) {
			block(t, s, "gw")
		}, 401, "invalid_client", true},
		"the exchanging client is removed": {func(t *testing.T, s *authtest.Server, _ authtest.Client, _ authtest.Tokens) {
			remove(t, s, "gw")
		}, 401, "invalid_client", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := authtest.New(t)
			app := s.Configure(t, clients.Spec{ID: "app", RedirectURIs: []string{appRedirect}, Scopes: []string{"mcp:read"}})
			api := s.Configure(t, clients.Spec{ID: "api", Resource: backend})
			s.Configure(t, clients.Spec{ID: "second", Exchange: []string{backend}}) // so that the grant is offered
			c := gateway(t, s, backend)
			tok := s.Tokens(t, "alice", app)
			got := exchanged(t, s, c, tok.Access).Tokens(t).Access
			if answer := s.Introspect(t, api, got).JSON(t); answer["active"] != true || answer["sub"] != "alice" || answer["client_id"] != "app" || answer["aud"] != backend || answer["act"].(map[string]any)["sub"] != "gw" {
				t.Errorf("introspection: %v", answer)
			}
			tt.end(t, s, app, tok)
			if answer := s.Introspect(t, api, got); answer.StatusCode != http.StatusOK || strings.TrimSpace(answer.Body) != inactive {
				t.Errorf("introspection afterwards: %d %s", answer.StatusCode, answer.Body)
			}
			if _, err := s.Verifier.For(backend).Verify(t.Context(), got); (err == nil) != tt.offline {
				t.Errorf("the verifier says %v", err)
			}
			wantError(t, exchanged(t, s, c, tok.Access), tt.status, tt.code)
		})
	}
}

// A verifier elsewhere, which reads the list of revoked grants alone, refuses the token with the
// others of its grant.
func TestFeedEndsAnExchangedToken(t *testing.T) {
	s := authtest.New(t)
	c := gateway(t, s, backend)
	alice, bob := s.Tokens(t, "alice", s.PUB), s.Tokens(t, "bob", s.PUB)
	ended, live := exchanged(t, s, c, alice.Access).Tokens(t).Access, exchanged(t, s, c, bob.Access).Tokens(t).Access
	before := s.Get(t, feedPath).Body
	s.Revoke(t, s.PUB, alice.Refresh)
	feedWith(t, s, before)
	v, err := jwt.NewVerifier(jwt.VerifierOptions{Issuer: authtest.Issuer, Audiences: []string{backend}, Keys: s.Keys, Feed: follow(t, s)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), ended); !errors.Is(err, jwt.ErrRevoked) {
		t.Errorf("the token of the revoked grant: %v", err)
	}
	if _, err := v.Verify(t.Context(), live); err != nil {
		t.Errorf("the token of another grant: %v", err)
	}
}

// remove takes a client out of the file, as a running server notices it.
func remove(t *testing.T, s *authtest.Server, id string) {
	t.Helper()
	if err := s.RemoveClient(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	s.Restart(t)
}

// Only the resource server of the audience learns of the token, and only while the client may
// exchange for it.
func TestIntrospectionOfAnExchangedToken(t *testing.T) {
	s := authtest.New(t)
	api := s.Configure(t, clients.Spec{ID: "api", Resource: backend})
	other := s.Configure(t, clients.Spec{ID: "other", Resource: "https://other.test/mcp"})
	own := s.Configure(t, clients.Spec{ID: "own", Resource: authtest.ResourceA})
	c := gateway(t, s, backend)
	tok := s.Tokens(t, "alice", s.CONF)
	got := exchanged(t, s, c, tok.Access).Tokens(t).Access
	for _, asks := range []authtest.Client{other, own, c, s.CONF} {
		if r := s.Introspect(t, asks, got); r.StatusCode != http.StatusOK || strings.TrimSpace(r.Body) != inactive {
			t.Errorf("%s learns of the token: %s", asks.ID, r.Body)
		}
		if r := s.Revoke(t, asks, got); r.StatusCode != http.StatusOK || r.Body != "" {
			t.Errorf("%s revokes the token: %d %s", asks.ID, r.StatusCode, r.Body)
		}
	}
	if r := s.Introspect(t, api, tok.Access); strings.TrimSpace(r.Body) != inactive {
		t.Errorf("the backend learns of the token that was exchanged: %s", r.Body)
	}
	if r := s.Introspect(t, api, got); r.JSON(t)["active"] != true || r.JSON(t)["act"] == nil {
		t.Errorf("the backend: %s", r.Body)
	}
	if r := s.Introspect(t, own, tok.Access); r.JSON(t)["active"] != true || r.JSON(t)["act"] != nil {
		t.Errorf("the token that was exchanged: %s", r.Body)
	}
	if err := s.RemoveClient(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	gateway(t, s, "https://other.test/mcp")
	if r := s.Introspect(t, api, got); strings.TrimSpace(r.Body) != inactive {
		t.Errorf("after the client lost the audience: %s", r.Body)
	}
}

// An exchange for another resource of this server gives a token that its MCP endpoint takes, and
// that the user's client may revoke.
func TestExchangeBetweenResourcesOfThisServer(t *testing.T) {
	s := authtest.New(t, several)
	api := s.Configure(t, clients.Spec{ID: "api", Resource: authtest.ResourceB})
	c := gateway(t, s, authtest.ResourceB)
	tok := s.Tokens(t, "alice", s.PUB, set("resource", authtest.ResourceA))
	got := exchanged(t, s, c, tok.Access, set("audience", authtest.ResourceB)).Tokens(t).Access
	if claims := claimsOf(t, s, got); claims.Audience != authtest.ResourceB || claims.Actor == nil {
		t.Errorf("%+v", claims)
	}
	if answer := s.Introspect(t, api, got).JSON(t); answer["active"] != true || answer["act"] == nil {
		t.Errorf("introspection: %v", answer)
	}
	s.Revoke(t, c, got)
	if answer := s.Introspect(t, api, got).JSON(t); answer["active"] != true {
		t.Errorf("the client that exchanged it has revoked it: %v", answer)
	}
	s.Revoke(t, s.PUB, got)
	wantDead(t, s, s.PUB, tok)
}

// An exchange asks the store whether the grant lives. While it cannot tell, there is no verdict.
func TestExchangeWithoutStoreIsUnavailable(t *testing.T) {
	s := authtest.New(t)
	c := gateway(t, s, backend)
	tok := s.Tokens(t, "alice", s.PUB)
	s.StopStore(t)
	wantError(t, exchanged(t, s, c, tok.Access), 503, "temporarily_unavailable")
	s.Reopen(t)
	exchanged(t, s, c, tok.Access).Tokens(t)
}

func TestExchangeIsLimited(t *testing.T) {
	for name, limits := range map[string]handlers.Limits{"of the grant": {TokensGrant: 3, TokensClient: -1}, "of the client": {TokensGrant: -1, TokensClient: 3}} {
		t.Run(name, func(t *testing.T) {
			s := authtest.New(t, func(c *authtest.Config) { c.Limits = limits })
			c := gateway(t, s, backend)
			tok := s.Tokens(t, "alice", s.PUB) // counts for the grant, and for its own client
			last := exchanged(t, s, c, tok.Access)
			for n := 0; last.StatusCode == http.StatusOK && n < 5; n++ {
				last = exchanged(t, s, c, tok.Access)
			}
			wantError(t, last, 429, "temporarily_unavailable")
			wantError(t, exchanged(t, s, c, "junk"), 400, "invalid_request") // is not counted, and has its own answer
		})
	}
}

// upstreamOf asks for the user's own token at the forge.
func upstreamOf(t *testing.T, s *authtest.Server, c authtest.Client, subject string, edits ...edit) *authtest.Response {
	t.Helper()
	return exchanged(t, s, c, subject, append([]edit{set("audience", "upstream:forge", "requested_token_type", oauth.TokenTypeUpstream)}, edits...)...)
}

// A client that is allowed gets the user's own token out of the vault, in clear.
func TestTokenIsExchangedForTheOneOfAProvider(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	c := gateway(t, s.Server, backend, "upstream:forge", "upstream:gone")
	tok, bob := s.tokensAt(t, f, "ann", s.PUB), s.tokensAt(t, f, "bob", s.PUB)
	for user, access := range map[string]string{"ann": tok.Access, "bob": bob.Access} {
		r := upstreamOf(t, s.Server, c, access)
		answer := r.JSON(t)
		if got := r.Tokens(t); f.live[got.Access] != user || got.Refresh != "" || answer["token_type"] != "Bearer" || answer["issued_token_type"] != oauth.TokenTypeUpstream || answer["expires_in"].(float64) < 3500 {
			t.Errorf("%s: %s", user, r.Body)
		}
	}
	if line := s.Log.Audit(t, "exchange")[0]; line["audience"] != "upstream:forge" || line["outcome"] != "ok" || line["gid"] == nil {
		t.Errorf("audit: %v", line)
	}
	// What a backend gets has no provider's token in it.
	got := exchanged(t, s.Server, c, tok.Access).Tokens(t)
	claims, err := s.Verifier.For(backend).Verify(t.Context(), got.Access)
	if err != nil || claims.Upstream != "" || claimsOf(t, s.Server, tok.Access).Upstream == "" {
		t.Errorf("%+v, %v", claims, err)
	}
	only := s.Configure(t, clients.Spec{ID: "only", Exchange: []string{backend}})
	for name, tt := range map[string]struct {
		c    authtest.Client
		edit edit
		code string
	}{
		"a client for resources only": {only, set(), "invalid_target"},
		"a provider that is gone":     {c, set("audience", "upstream:gone"), "invalid_target"},
		"no type":                     {c, del("requested_token_type"), "invalid_request"},
		"another audience":            {c, set("audience", backend), "invalid_request"},
		"as a resource":               {c, func(v url.Values) { v.Set("resource", v.Get("audience")); v.Del("audience") }, "invalid_target"},
		"a scope":                     {c, set("scope", "read"), "invalid_scope"},
	} {
		t.Run(name, func(t *testing.T) { wantError(t, upstreamOf(t, s.Server, tt.c, tok.Access, tt.edit), 400, tt.code) })
	}
}

// The token is refreshed if it ends soon. A provider that is down is no verdict; one that refuses
// ends the user's grants.
func TestExchangedTokenOfAProviderIsFresh(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	c := gateway(t, s.Server, "upstream:forge")
	tok := s.tokensAt(t, f, "ann", s.PUB)
	first := upstreamOf(t, s.Server, c, tok.Access).Tokens(t).Access
	if again := upstreamOf(t, s.Server, c, tok.Access).Tokens(t).Access; again != first || f.refreshes != 0 {
		t.Errorf("%d refreshes while the token lives", f.refreshes)
	}
	s.expire(t, annAtForge, "forge")
	if next := upstreamOf(t, s.Server, c, tok.Access).Tokens(t).Access; next == first || f.live[next] != "ann" || f.refreshes != 1 {
		t.Errorf("%s after its end, %d refreshes", next, f.refreshes)
	}
	s.expire(t, annAtForge, "forge")
	f.set(func(f *forge) { f.down = true })
	wantError(t, upstreamOf(t, s.Server, c, tok.Access), 503, "temporarily_unavailable")
	f.set(func(f *forge) { f.down, f.life = false, 0 })
	if r := upstreamOf(t, s.Server, c, tok.Access); r.JSON(t)["expires_in"] != nil || f.live[r.Tokens(t).Access] != "ann" {
		t.Errorf("a token of which the end is not known: %s", r.Body)
	}
	s.expire(t, annAtForge, "forge")
	f.set(func(f *forge) { f.ended = true })
	wantError(t, upstreamOf(t, s.Server, c, tok.Access), 400, "invalid_grant")
	wantError(t, upstreamOf(t, s.Server, c, tok.Access), 400, "invalid_request") // the grant has ended
	wantError(t, s.Refresh(t, s.PUB, tok.Refresh), 400, "invalid_grant")
}

// Without a refresh token there is nothing to refresh with, and the user has to sign in again.
func TestExchangeEndsAGrantWithoutATokenOfItsProvider(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	c := gateway(t, s.Server, "upstream:forge")
	tok := s.tokensAt(t, f, "ann", s.PUB)
	entry, err := s.vault.Get(t.Context(), annAtForge, "forge")
	if err != nil {
		t.Fatal(err)
	}
	entry.Refresh, entry.Expires = "", time.Now().Unix()
	if _, err := s.vault.Put(t.Context(), entry.Credential); err != nil {
		t.Fatal(err)
	}
	wantError(t, upstreamOf(t, s.Server, c, tok.Access), 400, "invalid_grant")
	wantError(t, s.Refresh(t, s.PUB, tok.Refresh), 400, "invalid_grant")
}

// Only the user who signed in at the provider has a token there.
func TestUserOfThisServerHasNoTokenOfAProvider(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), true)
	c := gateway(t, s.Server, "upstream:forge")
	b := s.NewBrowser()
	page := b.Submit(t, b.Get(t, s.AuthorizeURL(s.PUB)), set("username", "alice", "password", "correct horse alice"))
	back := b.Submit(t, page, set("decision", "approve"))
	tok := s.Redeem(t, s.PUB, back.Sent().Get("code")).Tokens(t)
	wantError(t, upstreamOf(t, s.Server, c, tok.Access), 400, "invalid_target")
}

func withAdmission(change func(*handlers.Options), classes *admission.Classes) func(*handlers.Options) {
	return func(o *handlers.Options) {
		change(o)
		o.Admission = classes
	}
}

// A provider that hangs holds no slot of the requests that need none.
func TestExchangeWaitsForAProviderWithoutASlot(t *testing.T) {
	f := newForge(t)
	asked, forge := make(chan struct{}, 1), f.Config.Handler
	f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.PostFormValue("grant_type") == "refresh_token" {
			asked <- struct{}{}
		}
		forge.ServeHTTP(w, r)
	})
	classes := admission.New()
	classes.Refresh = admission.NewClass("refresh", 1)
	s := withForge(t, f.config(), false)
	s.Config.Change = withAdmission(s.Config.Change, classes)
	c := gateway(t, s.Server, backend, "upstream:forge")
	tok := s.tokensAt(t, f, "ann", s.PUB)
	s.expire(t, annAtForge, "forge")
	f.mu.Lock()
	answer := make(chan *authtest.Response)
	go func() { answer <- upstreamOf(t, s.Server, c, tok.Access) }()
	<-asked
	got := exchanged(t, s.Server, c, tok.Access)
	f.mu.Unlock()
	if got.StatusCode != http.StatusOK {
		t.Errorf("while the provider hangs: %d %s", got.StatusCode, got.Body)
	}
	(<-answer).Tokens(t)
}
