package handlers_test

import (
	"testing"
	"time"

	"signet/handlers"
	"signet/internal/clients"
	"signet/internal/test/authtest"
)

// A client's own lives are those of its tokens and grants, unless the server's are shorter.
func TestClientHasLivesOfItsOwn(t *testing.T) {
	s := authtest.New(t, func(c *authtest.Config) {
		c.Lives = handlers.Lives{Access: 5 * time.Minute, Refresh: 24 * time.Hour}
	})
	for _, tt := range []struct {
		id              string
		access, refresh time.Duration // of the client
		wantA, wantR    time.Duration
	}{
		{"none", 0, 0, 5 * time.Minute, 24 * time.Hour},
		{"shorter", time.Minute, time.Hour, time.Minute, time.Hour},
		{"longer", time.Hour, 240 * time.Hour, 5 * time.Minute, 24 * time.Hour},
		{"access", 2 * time.Minute, 0, 2 * time.Minute, 24 * time.Hour},
		{"short-grant", 0, time.Minute, time.Minute, time.Minute},
	} {
		t.Run(tt.id, func(t *testing.T) {
			c := s.Configure(t, clients.Spec{ID: tt.id, RedirectURIs: []string{appRedirect}, ClientCredentials: true, Scopes: []string{"mcp:read"}, AccessTTL: tt.access, RefreshTTL: tt.refresh})
			began := time.Now().Unix()
			r := s.Redeem(t, c, s.Code(t, "alice", c))
			tok := r.Tokens(t)
			claims := claimsOf(t, s, tok.Access)
			grant, err := s.Denylist.Find(t.Context(), claims.GrantID)
			if err != nil {
				t.Fatal(err)
			}
			if got := grant.Expires - began; got < int64(tt.wantR.Seconds()) || got > int64(tt.wantR.Seconds())+60 {
				t.Errorf("the grant lives %d s, want %s", got, tt.wantR)
			}
			wantLife(t, s, "the code", r, tt.wantA)
			wantLife(t, s, "the refresh", s.Refresh(t, c, tok.Refresh), tt.wantA)
			wantOwn := tt.wantA
			if tt.id == "short-grant" {
				wantOwn = 5 * time.Minute // there is no grant of a user
			}
			wantLife(t, s, "the client itself", askForItself(t, s, c), wantOwn)
		})
	}
}

// wantLife demands that expires_in and exp of an answer's access token agree, and that they are
// of a length; an end of the grant may have cut off some seconds.
func wantLife(t *testing.T, s *authtest.Server, what string, r *authtest.Response, want time.Duration) {
	t.Helper()
	claims := claimsOf(t, s, r.Tokens(t).Access)
	life, says := claims.ExpiresAt-claims.IssuedAt, r.JSON(t)["expires_in"]
	if says != float64(life) || life > int64(want.Seconds()) || life < int64(want.Seconds())-30 {
		t.Errorf("the token of %s lives %d s, the answer says %v, want %s", what, life, says, want)
	}
}
