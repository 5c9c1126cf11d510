package handlers_test

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/handlers"
	"signet/internal/clients"
	"signet/internal/fetch"
	"signet/internal/gatewayconfig"
	"signet/internal/oauth"
	"signet/internal/store"
	"signet/internal/test/authtest"
	"signet/internal/vault"
	"signet/jwt"
)

// gatewayServer is an authorization server beside a gateway.
type gatewayServer struct {
	*authtest.Server
	vault   *vault.Vault
	gateway string // resource whose logins offer connections

	mu          sync.Mutex
	connections []*gatewayconfig.Connection
}

// withConnections starts a server whose gateway needs connections.
func withConnections(t *testing.T, list []*gatewayconfig.Connection, change ...func(*authtest.Config)) *gatewayServer {
	t.Helper()
	s := &gatewayServer{connections: list, gateway: "https://gateway.test/mcp"}
	s.Server = authtest.New(t, append(change, func(cfg *authtest.Config) {
		before := cfg.Change
		cfg.Change = func(o *handlers.Options) {
			if before != nil {
				before(o)
			}
			s.vault = vault.New(vault.Options{Store: o.Store.(*store.Store), Ring: o.Ring, Log: o.Log})
			o.Vault, o.Connections, o.Audiences = s.vault, s.list, func() []string { return []string{backend} }
			o.GatewayResource, o.Elsewhere = s.gateway, fetch.New(fetch.Options{Loopback: true})
		}
	})...)
	s.Log.Forbid("forge-secret", "forge-access-", "forge-refresh-", "first-refresh")
	return s
}

func (s *gatewayServer) list() []*gatewayconfig.Connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connections
}

// reload replaces the configuration.
func (s *gatewayServer) reload(list ...*gatewayconfig.Connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connections = list
}

// connection is one at the forge.
func (f *forge) connection(id string, change ...func(*gatewayconfig.Connection)) *gatewayconfig.Connection {
	c := &gatewayconfig.Connection{
		ID: id, Name: strings.ToUpper(id[:1]) + id[1:], Servers: []string{id + "-tools"}, AuthorizationEndpoint: f.URL + "/authorize", TokenEndpoint: f.URL + "/token",
		ClientID: "signet", ClientSecret: "forge-secret", Scopes: []string{"read", "write"},
	}
	for _, edit := range change {
		edit(c)
	}
	return c
}

func own(grant string) func(*gatewayconfig.Connection) {
	return func(c *gatewayconfig.Connection) { c.Own, c.Grant = true, grant }
}

// in returns the Handler, past its document cache.
func (s *gatewayServer) in(t *testing.T) *handlers.Handler {
	t.Helper()
	h, ok := s.Handler.(*handlers.Handler)
	if !ok {
		t.Fatalf("the handler is a %T", s.Handler)
	}
	return h
}

func (s *gatewayServer) claims(t *testing.T, access string) *jwt.Claims {
	t.Helper()
	claims, err := s.Verifier.Verify(t.Context(), access)
	if err != nil {
		t.Fatal(err)
	}
	return claims
}

func (s *gatewayServer) connectionToken(t *testing.T, claims *jwt.Claims, id string, stale int64) (token string, version int64, err error) {
	t.Helper()
	token, version, _, err = s.in(t).ConnectionToken(t.Context(), claims, id, stale)
	return token, version, err
}

// wantMissing demands that the user has to connect something.
func wantMissing(t *testing.T, err error, id string, declined bool) {
	t.Helper()
	var missing *handlers.MissingConnection
	if !errors.As(err, &missing) || missing.ID != id || missing.Declined != declined {
		t.Errorf("error %v, want that %s is missing (declined: %t)", err, id, declined)
	}
}

// The gateway's own credential is got once for any number of calls, is the same for all users, and
// is renewed when it ends or is refused.
func TestGatewayHasCredentialsOfItsOwn_Row60(t *testing.T) {
	f := newForge(t)
	f.handles["first-refresh"] = "gw"
	s := withConnections(t, []*gatewayconfig.Connection{
		f.connection("stored", own(oauth.GrantRefreshToken), func(c *gatewayconfig.Connection) { c.RefreshToken = "first-refresh" }),
		f.connection("machine", own(oauth.GrantClientCredentials), func(c *gatewayconfig.Connection) { c.Audience = "https://api.test" }),
	})
	alice, bob := s.claims(t, s.Tokens(t, "alice", s.PUB).Access), s.claims(t, s.Tokens(t, "bob", s.PUB).Access)
	for _, id := range []string{"stored", "machine"} {
		t.Run(id, func(t *testing.T) {
			f.set(func(f *forge) { f.life, f.asked = 3600, nil })
			tokens := make([]string, 10)
			var all sync.WaitGroup
			for i := range tokens {
				all.Go(func() {
					token, _, err := s.connectionToken(t, alice, id, 0)
					if tokens[i] = token; err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if tokens[0] == "" || slices.ContainsFunc(tokens, func(other string) bool { return other != tokens[0] }) || len(f.asked) != 1 {
				t.Fatalf("tokens %q by %d requests", tokens, len(f.asked))
			}
			if id == "machine" && (f.asked[0].Get("audience") != "https://api.test" || f.asked[0].Get("scope") != "read write") {
				t.Errorf("the request was %v", f.asked[0])
			}
			again, version, err := s.connectionToken(t, bob, id, 0)
			if err != nil || again != tokens[0] {
				t.Errorf("another user: %q, %v", again, err)
			}
			renewed, next, err := s.connectionToken(t, bob, id, version)
			if err != nil || renewed == again || next <= version {
				t.Errorf("a token that was refused: %q in version %d after %d, %v", renewed, next, version, err)
			}
			if same, _, err := s.connectionToken(t, alice, id, version); err != nil || same != renewed {
				t.Errorf("the same one refused again: %q, %v; want that of before", same, err)
			}
			f.set(func(f *forge) { f.down = true })
			if token, _, err := s.connectionToken(t, bob, id, next); err == nil || errors.Is(err, vault.ErrEnded) {
				t.Errorf("server down: %q, %v", token, err)
			}
			f.set(func(f *forge) { f.down = false })
			if token, _, err := s.connectionToken(t, bob, id, 0); err != nil || token != renewed {
				t.Errorf("after the outage: %q, %v", token, err)
			}
		})
	}
}

// A refused refresh token of the gateway's is a clear error. One that the operator replaces counts
// at once.
func TestOperatorReplacesTheGatewaysRefreshToken_Row60(t *testing.T) {
	f := newForge(t)
	with := func(token string) *gatewayconfig.Connection {
		return f.connection("stored", own(oauth.GrantRefreshToken), func(c *gatewayconfig.Connection) { c.RefreshToken = gatewayconfig.Secret(token) })
	}
	s := withConnections(t, []*gatewayconfig.Connection{with("first-refresh")})
	alice := s.claims(t, s.Tokens(t, "alice", s.PUB).Access)
	for range 2 {
		var refusal *oauth.Error
		if token, _, err := s.connectionToken(t, alice, "stored", 0); !errors.As(err, &refusal) || refusal.Code != oauth.TemporarilyUnavailable || !strings.Contains(refusal.Description, "stored") {
			t.Errorf("a refused refresh token: %q, %v", token, err)
		}
	}
	for _, token := range []string{"second-refresh", "third-refresh"} {
		f.set(func(f *forge) { f.handles[token] = token })
		s.reload(with(token))
		got, _, err := s.connectionToken(t, alice, "stored", 0)
		if err != nil || !strings.HasPrefix(got, "forge-access-"+token) {
			t.Errorf("with %s: %q, %v", token, got, err)
		}
	}
}

// The token of an exchange at a backend's own server is got for a token of the same user, which is
// for that server alone. It is not kept: each grant gets its own.
func TestGatewayExchangesAtTheBackendsServer_Row60(t *testing.T) {
	f := newForge(t)
	s := withConnections(t, []*gatewayconfig.Connection{f.connection("partner", own("exchange"), func(c *gatewayconfig.Connection) { c.Audience = "https://api.test" })})
	access := s.Tokens(t, "alice", s.PUB).Access
	claims := s.claims(t, access)
	first, _, err := s.connectionToken(t, claims, "partner", 0)
	if err != nil {
		t.Fatal(err)
	}
	second, _, err := s.connectionToken(t, claims, "partner", 0)
	if err != nil || second == first {
		t.Errorf("the second exchange gave %q after %q, %v", second, first, err)
	}
	if _, err := s.vault.Get(t.Context(), "alice", "connection:partner"); !errors.Is(err, vault.ErrUnknown) {
		t.Errorf("an exchanged token is kept: %v", err)
	}
	subject := f.asked[0].Get("subject_token")
	got, err := s.Verifier.For(f.URL+"/token").Verify(t.Context(), subject)
	if err != nil || got.Subject != "alice" || got.Scope != claims.Scope || got.GrantID != claims.GrantID || got.Actor == nil || subject == access {
		t.Errorf("exchanged was %+v, %v", got, err)
	}
	f.set(func(f *forge) { f.ended = true })
	var refusal *oauth.Error
	if _, _, err := s.connectionToken(t, claims, "partner", 0); !errors.As(err, &refusal) || refusal.Code != oauth.TemporarilyUnavailable {
		t.Errorf("a refused exchange: %v", err)
	}
}

// One thing wrong with a good call each.
func TestConnectionTokenIsRefused_Row57(t *testing.T) {
	f := newForge(t)
	s := withConnections(t, []*gatewayconfig.Connection{f.connection("machine", own(oauth.GrantClientCredentials)), f.connection("github"), f.connection("partner", own("exchange"))})
	tok := s.Tokens(t, "alice", s.PUB)
	claims := s.claims(t, tok.Access)
	worker := s.claims(t, askForItself(t, s.Server, machine(t, s.Server, "mcp:read")).Tokens(t).Access)
	if _, _, err := s.connectionToken(t, worker, "machine", 0); err != nil {
		t.Errorf("a client's own token, and the gateway's credential: %v", err)
	}
	if _, _, err := s.connectionToken(t, nil, "machine", 0); err != nil {
		t.Errorf("no caller, and the gateway's credential: %v", err)
	}
	_, _, err := s.connectionToken(t, claims, "github", 0)
	wantMissing(t, err, "github", false)
	wantCode := func(err error, code oauth.Code) {
		t.Helper()
		var refusal *oauth.Error
		if !errors.As(err, &refusal) || refusal.Code != code {
			t.Errorf("error %v, want %s", err, code)
		}
	}
	_, _, err = s.connectionToken(t, claims, "other", 0)
	wantCode(err, oauth.InvalidTarget)
	for _, id := range []string{"github", "partner"} {
		_, _, err = s.connectionToken(t, nil, id, 0)
		wantCode(err, oauth.InvalidTarget)
	}
	_, _, err = s.connectionToken(t, worker, "github", 0)
	wantCode(err, oauth.InvalidTarget)
	_, _, err = s.connectionToken(t, worker, "partner", 0)
	wantCode(err, oauth.InvalidTarget)
	s.Revoke(t, s.PUB, tok.Refresh)
	_, _, err = s.connectionToken(t, claims, "machine", 0)
	wantCode(err, oauth.InvalidGrant)
	_, _, err = s.in(t).GatewayToken(t.Context(), claims, backend, nil, "gateway")
	wantCode(err, oauth.InvalidGrant)
}

// The gateway of this process gets tokens as a client of the issuer does: of the same user, client
// and grant, with a part of the scopes.
func TestGatewayTokenIsOfTheSameUser_Row54(t *testing.T) {
	s := withConnections(t, nil)
	api := s.Configure(t, clients.Spec{ID: "api", Resource: backend})
	tok := s.Tokens(t, "alice", s.PUB, set("scope", "mcp:read mcp:write"))
	claims := s.claims(t, tok.Access)
	token, expires, err := s.in(t).GatewayToken(t.Context(), claims, backend, []string{"mcp:write"}, "gateway")
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Verifier.For(backend).Verify(t.Context(), token)
	if err != nil || got.Subject != "alice" || got.ClientID != s.PUB.ID || got.GrantID != claims.GrantID || got.Scope != "mcp:write" || got.Actor == nil || got.Actor.Subject != authtest.Issuer+"#gateway" ||
		got.ExpiresAt > claims.ExpiresAt || expires != time.Unix(got.ExpiresAt, 0) {
		t.Errorf("claims %+v, %v", got, err)
	}
	if _, err := s.Verifier.Verify(t.Context(), token); err == nil {
		t.Error("the token is good at the gateway itself")
	}
	if r := s.Introspect(t, api, token); r.JSON(t)["active"] != true {
		t.Errorf("introspection by the backend: %s", r.Body)
	}
	if _, _, err := s.in(t).GatewayToken(t.Context(), claims, backend, []string{"admin"}, "gateway"); err == nil {
		t.Error("a scope that the caller does not have")
	}
	s.Revoke(t, s.PUB, tok.Refresh)
	if r := s.Introspect(t, api, token); r.JSON(t)["active"] != false {
		t.Errorf("introspection after the grant has ended: %s", r.Body)
	}
}

// atConnection asks for a connection's token.
func atConnection(id string, pairs ...string) edit {
	return set(append([]string{"audience", "connection:" + id, "requested_token_type", oauth.TokenTypeUpstream}, pairs...)...)
}

// A gateway elsewhere gets the same by an exchange, as a client that may.
func TestConnectionIsExchangedFor_Row57_Row60(t *testing.T) {
	f := newForge(t)
	s := withConnections(t, []*gatewayconfig.Connection{f.connection("machine", own(oauth.GrantClientCredentials)), f.connection("github")})
	all := s.Configure(t, clients.Spec{ID: "all", Exchange: []string{"gateway"}})
	one := gateway(t, s.Server, "connection:machine")
	tok := s.Tokens(t, "alice", s.PUB)
	for _, c := range []authtest.Client{all, one} {
		answer := exchanged(t, s.Server, c, tok.Access, atConnection("machine")).JSON(t)
		version, _ := answer["version"].(float64)
		token, want := answer["access_token"], "forge-access-itself-"
		if text, _ := token.(string); !strings.HasPrefix(text, want) || version < 1 || answer["issued_token_type"] != oauth.TokenTypeUpstream || answer["expires_in"] == nil {
			t.Fatalf("client %s: %v", c.ID, answer)
		}
		renewed := exchanged(t, s.Server, c, tok.Access, atConnection("machine", "stale", strconv.Itoa(int(version)))).JSON(t)
		if next, _ := renewed["version"].(float64); renewed["access_token"] == token || next <= version {
			t.Errorf("client %s, a token that was refused: %v", c.ID, renewed)
		}
	}
	missing := exchanged(t, s.Server, all, tok.Access, atConnection("github"))
	if body := missing.JSON(t); missing.StatusCode != 400 || body["error"] != "interaction_required" || body["connection"] != "github" || body["declined"] != false {
		t.Errorf("nothing connected: %d %s", missing.StatusCode, missing.Body)
	}
	exchanged(t, s.Server, all, tok.Access).Tokens(t) // the audience of a server
	for name, tt := range map[string]struct {
		c    authtest.Client
		edit edit
		code string
	}{
		"another connection":   {one, atConnection("github"), "invalid_target"},
		"an audience":          {one, set(), "invalid_target"},
		"no such connection":   {all, atConnection("other"), "invalid_target"},
		"no server's audience": {all, set("audience", "https://other.test/mcp"), "invalid_target"},
		"its own resource":     {all, set("audience", authtest.ResourceA), "invalid_target"},
		"the word itself":      {all, set("audience", "gateway"), "invalid_target"},
		"a scope":              {all, atConnection("machine", "scope", "mcp:read"), "invalid_scope"},
		"an access token":      {all, set("audience", "connection:machine"), "invalid_request"},
		"stale is no number":   {all, atConnection("machine", "stale", "x"), "invalid_request"},
		"stale is negative":    {all, atConnection("machine", "stale", "-1"), "invalid_request"},
		"stale is huge":        {all, atConnection("machine", "stale", "99999999999999999"), "invalid_request"},
		"stale of an audience": {all, set("stale", "1"), "invalid_request"},
		"nobody's token":       {all, atConnection("machine", "subject_token", "x"), "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) { wantError(t, exchanged(t, s.Server, tt.c, tok.Access, tt.edit), 400, tt.code) })
	}
	f.set(func(f *forge) { f.down = true })
	wantError(t, exchanged(t, s.Server, all, tok.Access, atConnection("machine", "stale", "1000")), 503, "temporarily_unavailable")
}
