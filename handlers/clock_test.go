package handlers_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"signet/internal/store"
	"signet/internal/test/authtest"
)

// ahead makes the store remember a time that is that much later than now, as if the
// clock had been ahead and was set right.
func ahead(t *testing.T, s *authtest.Server, by time.Duration) {
	t.Helper()
	err := s.Store.Write(t.Context(), func(tx store.Tx) error {
		_, err := tx.Exec("UPDATE meta SET last_seen = $1", time.Now().Add(by).UnixMilli())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Restart(t)
}

// After a clock that was ahead is set back, everything that had expired stays expired.
// Tokens are dated by the clock that verifiers compare with.
func TestClockSetBackRevivesNothing_L10(t *testing.T) {
	s := authtest.New(t)
	code := s.Code(t, "alice", s.PUB)
	tokens := s.Tokens(t, "alice", s.PUB)
	ahead(t, s, 2*time.Minute)
	wantError(t, s.Redeem(t, s.PUB, code), http.StatusBadRequest, "invalid_grant")

	next := s.Refresh(t, s.PUB, tokens.Refresh).Tokens(t)
	claims, err := s.Verifier.Verify(t.Context(), next.Access)
	if err != nil {
		t.Fatalf("a token made after the clock was set back: %v", err)
	}
	if late := claims.IssuedAt - time.Now().Unix(); late > 1 {
		t.Errorf("the token is dated %d s ahead", late)
	}
	if life := claims.ExpiresAt - claims.IssuedAt; life != 300 {
		t.Errorf("the token lives %d s, want 300", life)
	}
	ahead(t, s, 721*time.Hour)
	wantError(t, s.Refresh(t, s.PUB, next.Refresh), http.StatusBadRequest, "invalid_grant")
}

// Row 21: the scope of a registration is the default and no bound: clients that step up
// ask for more with the id they have, and the user decides. A configured client's scope
// is a bound.
func TestRegisteredScopeIsADefaultAndNoBound_Row21(t *testing.T) {
	s := authtest.New(t)
	r := s.Post(t, "/register", "application/json", `{"redirect_uris":["https://app.test/cb"],"token_endpoint_auth_method":"none","scope":"mcp:read"}`)
	narrow := authtest.Client{ID: r.JSON(t)["client_id"].(string), RedirectURI: "https://app.test/cb"}
	for asked, want := range map[string]string{
		"":                        "mcp:read",
		"mcp:read":                "mcp:read",
		"mcp:read mcp:write":      "mcp:read mcp:write",
		"mcp:read mcp:write root": "mcp:read mcp:write",
	} {
		edit := set("scope", asked)
		if asked == "" {
			edit = del("scope")
		}
		if got := s.Tokens(t, "alice", narrow, edit).Scope; got != want {
			t.Errorf("asked for %q: granted %q, want %q", asked, got, want)
		}
	}
	// Bob has less than the client asks for.
	if got := s.Tokens(t, "bob", narrow, set("scope", "mcp:read admin")).Scope; strings.Contains(got, "admin") {
		t.Errorf("bob granted %q, which is not his to grant", got)
	}
}

// Row 21: a client whose registered scopes no longer exist gets the default scopes when it names none.
func TestRegisteredScopesThatAreGone_Row21(t *testing.T) {
	s := authtest.New(t)
	r := s.Post(t, "/register", "application/json", `{"redirect_uris":["https://app.test/cb"],"token_endpoint_auth_method":"none","scope":"mcp:write offline_access"}`)
	c := authtest.Client{ID: r.JSON(t)["client_id"].(string), RedirectURI: "https://app.test/cb"}
	s.Config.Scopes = []string{"mcp:read"}
	s.Restart(t)
	if got := s.Tokens(t, "alice", c, del("scope")).Scope; got != "mcp:read" {
		t.Errorf("granted %q", got)
	}
}
