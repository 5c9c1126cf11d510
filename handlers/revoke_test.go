package handlers_test

import (
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"signet/handlers"
	"signet/internal/test/authtest"
	"signet/jwt"
)

const inactive = `{"active":false}`

// G01, G04, row 17: either token ends the grant at once, whatever the hint.
func TestRevocationEndsTheWholeGrant_G01_G04(t *testing.T) {
	s := authtest.New(t)
	for _, c := range []authtest.Client{s.PUB, s.CONF} {
		for _, path := range []string{"/revoke", "/oauth/revoke"} {
			for _, hint := range []string{"", "refresh_token", "access_token", "nonsense"} {
				for _, pick := range []func(authtest.Tokens) string{func(t authtest.Tokens) string { return t.Refresh }, func(t authtest.Tokens) string { return t.Access }} {
					tok := s.Tokens(t, "alice", c)
					r := s.PostForm(t, path, c, url.Values{"token": {pick(tok)}, "token_type_hint": {hint}})
					if r.StatusCode != 200 || r.Body != "" {
						t.Errorf("%d %q", r.StatusCode, r.Body)
					}
					wantDead(t, s, c, tok)
				}
			}
		}
	}
	tok := s.Tokens(t, "alice", s.PUB)
	older := tok
	tok = s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
	s.Revoke(t, s.PUB, older.Refresh)
	wantDead(t, s, s.PUB, older, tok)
	s.Restart(t)
	wantDead(t, s, s.PUB, older, tok)
	if r := s.Revoke(t, s.PUB, tok.Refresh); r.StatusCode != 200 {
		t.Errorf("again: %d", r.StatusCode)
	}
}

// Row 17: a token is revoked although its resource is not configured now.
func TestTokenOfALostResourceIsRevoked_Row17(t *testing.T) {
	s := authtest.New(t, several)
	tok := s.Tokens(t, "alice", s.PUB, set("resource", authtest.ResourceB))
	other := s.Tokens(t, "alice", s.PUB2, set("resource", authtest.ResourceB))
	all := s.Config.Resources
	s.Config.Resources = all[:1]
	s.Restart(t)
	for _, token := range []string{tok.Access, other.Access} {
		if r := s.Revoke(t, s.PUB, token); r.StatusCode != 200 || r.Body != "" {
			t.Errorf("%d %q", r.StatusCode, r.Body)
		}
	}
	s.Config.Resources = all
	s.Restart(t)
	wantDead(t, s, s.PUB, tok)
	s.Refresh(t, s.PUB2, other.Refresh).Tokens(t)
}

// Row 17: only the client of a token can revoke it.
func TestOnlyItsClientRevokesAToken_Row17(t *testing.T) {
	s := authtest.New(t)
	tok := s.Tokens(t, "alice", s.PUB)
	for _, other := range []authtest.Client{s.PUB2, s.CONF} {
		for _, token := range []string{tok.Refresh, tok.Access} {
			if r := s.Revoke(t, other, token); r.StatusCode != 200 || r.Body != "" {
				t.Errorf("another client: %d %q", r.StatusCode, r.Body)
			}
		}
	}
	for _, token := range []string{"unknown", s.PUB.ID, s.Code(t, "alice", s.PUB), strings.Repeat("x", 9<<10)} {
		if r := s.Revoke(t, s.PUB, token); r.StatusCode != 200 || r.Body != "" {
			t.Errorf("unknown token: %d %q", r.StatusCode, r.Body)
		}
	}
	tok = s.Refresh(t, s.PUB, tok.Refresh).Tokens(t) // untouched by all that
	form := url.Values{"token": {tok.Refresh}}
	wantError(t, s.PostForm(t, "/revoke", authtest.Client{}, form), 401, "invalid_client")
	wantError(t, s.PostForm(t, "/revoke", authtest.Client{ID: "nope"}, form), 401, "invalid_client")
	bad := s.PostForm(t, "/revoke", authtest.Client{ID: s.CONF.ID, Secret: "wrong"}, form)
	wantError(t, bad, 401, "invalid_client")
	if !strings.HasPrefix(bad.Header.Get("WWW-Authenticate"), "Basic ") {
		t.Error("no WWW-Authenticate: Basic")
	}
	missing := s.PostForm(t, "/revoke", s.PUB, url.Values{})
	wantError(t, missing, 400, "invalid_request")
	if !strings.Contains(missing.Body, "Missing token parameter") {
		t.Errorf("text: %s", missing.Body)
	}
	s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
}

// Row 18: the answers about live tokens.
func TestIntrospectionDescribesLiveTokens_Row18(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t)
		for _, c := range []authtest.Client{s.PUB, s.CONF} {
			issued := time.Now().Unix()
			tok := s.Tokens(t, "alice", c)
			time.Sleep(10 * time.Second)
			for use, token := range map[string]string{"access": tok.Access, "refresh": tok.Refresh} {
				exp := issued + 300
				if use == "refresh" {
					exp = issued + 336*3600
				}
				got := s.PostForm(t, "/oauth/introspect", c, url.Values{"token": {token}}).JSON(t)
				for name, want := range map[string]any{
					"active": true, "scope": "mcp:read", "client_id": c.ID, "username": "alice", "sub": "alice", "use": use, "iat": float64(issued), "exp": float64(exp),
				} {
					if got[name] != want {
						t.Errorf("%s: %s = %v, want %v", use, name, got[name], want)
					}
				}
				if (got["token_type"] == "Bearer") != (use == "access") {
					t.Errorf("%s: token_type %v", use, got["token_type"])
				}
			}
			next := s.Refresh(t, c, tok.Refresh).Tokens(t)
			if got := s.Introspect(t, c, next.Refresh).JSON(t); got["iat"] != float64(time.Now().Unix()) {
				t.Errorf("iat after a refresh: %v", got["iat"])
			}
		}
	})
}

// G05: about every other token the answer is the same two words.
func TestIntrospectionTellsNothingOfOtherTokens_G05(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t)
		live, revoked, rotated := s.Tokens(t, "alice", s.PUB), s.Tokens(t, "alice", s.PUB), s.Tokens(t, "alice", s.PUB)
		s.Revoke(t, s.PUB, revoked.Refresh)
		s.Refresh(t, s.PUB, rotated.Refresh).Tokens(t)
		ask := func(c authtest.Client, token string) {
			t.Helper()
			if r := s.Introspect(t, c, token); r.StatusCode != 200 || strings.TrimSpace(r.Body) != inactive {
				t.Errorf("%d %s", r.StatusCode, r.Body)
			}
		}
		for _, other := range []authtest.Client{s.PUB2, s.CONF} {
			ask(other, live.Access)
			ask(other, live.Refresh)
		}
		for _, token := range []string{revoked.Access, revoked.Refresh, rotated.Refresh, "junk", "a.b.c", s.PUB.ID, s.Code(t, "alice", s.PUB), live.Access + "x"} {
			ask(s.PUB, token)
		}
		form := url.Values{"token": {live.Access}}
		wantError(t, s.PostForm(t, "/introspect", authtest.Client{}, form), 401, "invalid_client")
		wantError(t, s.PostForm(t, "/introspect", authtest.Client{ID: s.CONF.ID}, form), 401, "invalid_client")
		wantError(t, s.PostForm(t, "/introspect", authtest.Client{ID: s.CONF.ID, Secret: "wrong"}, form), 401, "invalid_client")
		wantError(t, s.PostForm(t, "/introspect", s.PUB, url.Values{}), 400, "invalid_request")
		r := request("POST", authtest.Issuer+"/introspect", form.Encode(), "Content-Type", formType, "Authorization", "Bearer "+live.Access)
		if res := s.Do(t, r); res.StatusCode != http.StatusUnauthorized {
			t.Errorf("a bearer token as client authentication: %d %s", res.StatusCode, res.Body)
		}
		s.Users.Change("alice", func(*authtest.Account) bool { return false })
		ask(s.PUB, live.Access)
		s.Users.Change("bob", func(a *authtest.Account) bool { return true })
		bob := s.Tokens(t, "bob", s.PUB)
		time.Sleep(5*time.Minute - time.Second)
		if r := s.Introspect(t, s.PUB, bob.Access); r.JSON(t)["active"] != true {
			t.Errorf("a second before exp: %s", r.Body)
		}
		time.Sleep(time.Second)
		ask(s.PUB, bob.Access)
	})
}

// The process that dated a token calls it expired at its exp. Verifiers on other machines
// may accept it for a minute more, so until then a client can revoke its grant with it.
func TestExpiredTokenIsOnlyGoodForRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t)
		tok := s.Tokens(t, "alice", s.PUB)
		user := func() *authtest.Response {
			return s.Do(t, request("GET", authtest.Issuer+"/userinfo", "", "Authorization", "Bearer "+tok.Access))
		}
		time.Sleep(5*time.Minute - time.Second)
		if r := user(); r.StatusCode != 200 {
			t.Errorf("userinfo a second before exp: %d %s", r.StatusCode, r.Body)
		}
		time.Sleep(time.Second)
		if r := user(); r.StatusCode != 401 || !strings.Contains(r.Header.Get("WWW-Authenticate"), `error="invalid_token"`) {
			t.Errorf("userinfo at exp: %d %s", r.StatusCode, r.Body)
		}
		claims, err := s.Verifier.Verify(t.Context(), tok.Access)
		if err != nil {
			t.Fatalf("another machine at exp: %v, want the token accepted", err)
		}
		if r := s.Revoke(t, s.PUB, tok.Access); r.StatusCode != 200 {
			t.Fatalf("revoke: %d %s", r.StatusCode, r.Body)
		}
		if !s.Denylist.Revoked(claims.GrantID) {
			t.Error("the grant of an expired token that other machines accept is not revoked")
		}
		if r := s.Refresh(t, s.PUB, tok.Refresh); r.Error() != "invalid_grant" {
			t.Errorf("refresh after the revocation: %d %s", r.StatusCode, r.Body)
		}
	})
}

// G03: a revocation that did not happen is not acknowledged.
func TestRevocationWithoutStoreIsUnavailable_G03(t *testing.T) {
	s := authtest.New(t)
	tok := s.Tokens(t, "alice", s.PUB)
	s.StopStore(t)
	wantError(t, s.Revoke(t, s.PUB, tok.Refresh), 503, "temporarily_unavailable")
	s.Reopen(t)
	s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
}

// G03, INV4, INV11: a replica that has just reached its store and has not yet read the
// revocations knows nothing of any grant. It says so; it neither calls a good token bad
// nor acknowledges a revocation that it did not make.
func TestReplicaThatHasNotReadRevocationsSaysSo_G03(t *testing.T) {
	var known atomic.Bool
	known.Store(true)
	s := authtest.New(t, func(c *authtest.Config) {
		c.Change = func(o *handlers.Options) {
			v, err := jwt.NewVerifier(jwt.VerifierOptions{Issuer: o.Issuer, Audiences: o.Resources, Keys: o.Keys, Revoked: o.Denylist.Revoked, RevokedKnown: known.Load})
			if err != nil {
				t.Fatal(err)
			}
			o.Verifier = v
		}
	})
	tok := s.Tokens(t, "alice", s.PUB)
	userinfo := func() *authtest.Response {
		r := request("GET", authtest.Issuer+"/userinfo", "")
		r.Header.Set("Authorization", "Bearer "+tok.Access)
		return s.Do(t, r)
	}
	known.Store(false)
	for name, r := range map[string]*authtest.Response{
		"revoke": s.Revoke(t, s.PUB, tok.Access), "introspect": s.Introspect(t, s.CONF, tok.Access), "userinfo": userinfo(),
	} {
		if r.StatusCode != 503 || r.Error() != "temporarily_unavailable" {
			t.Errorf("%s: %d %s, want 503", name, r.StatusCode, r.Body)
		}
	}
	known.Store(true)
	if r := userinfo(); r.StatusCode != 200 {
		t.Errorf("userinfo afterwards: %d %s", r.StatusCode, r.Body)
	}
	if r := s.Revoke(t, s.PUB, tok.Access); r.StatusCode != 200 {
		t.Errorf("revoke afterwards: %d %s", r.StatusCode, r.Body)
	}
	if r := s.Refresh(t, s.PUB, tok.Refresh); r.Error() != "invalid_grant" {
		t.Errorf("refresh after the revocation: %d %s", r.StatusCode, r.Body)
	}
}
