package handlers_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signet/handlers"
	"signet/internal/denylist"
	"signet/internal/test/authtest"
	"signet/users"
)

func strict(c *authtest.Config) { c.Lives.Replay = handlers.Strict }

// E01, row 16: every refresh gives a new pair with the same scope and audience.
func TestEachRefreshRotatesTheHandle_E01(t *testing.T) {
	s := authtest.New(t)
	first := s.Tokens(t, "alice", s.PUB, set("scope", "mcp:read mcp:write"))
	tok := first
	for range 3 {
		next := s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
		if next.Refresh == tok.Refresh || next.Access == tok.Access || next.Scope != first.Scope || audience(t, s, next.Access) != authtest.ResourceA {
			t.Errorf("got %+v after %+v", next, tok)
		}
		tok = next
	}
}

// E02: a handle that comes back after the window ends the family, once.
func TestReuseEndsTheFamily_E02(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t)
		one := s.Tokens(t, "alice", s.PUB)
		two := s.Refresh(t, s.PUB, one.Refresh).Tokens(t)
		time.Sleep(61 * time.Second)
		wantError(t, s.Refresh(t, s.PUB, one.Refresh), 400, "invalid_grant")
		wantDead(t, s, s.PUB, one, two)
		if n := len(s.Log.Audit(t, "refresh_reuse")); n != 1 {
			t.Errorf("%d audit events, want 1", n)
		}
		s.Restart(t)
		wantDead(t, s, s.PUB, one, two)
	})
}

// E03, E04: within the window a handle gives its one successor again; the line
// never forks.
func TestLastRefreshMayBeRepeatedInTheWindow_E03_E04(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t)
		one := s.Tokens(t, "alice", s.PUB)
		var twos []authtest.Tokens
		for range 20 {
			twos = append(twos, s.Refresh(t, s.PUB, one.Refresh).Tokens(t))
			if s.Generation(t, twos[0].Refresh) != s.Generation(t, twos[len(twos)-1].Refresh) {
				t.Fatal("a sibling was made")
			}
			time.Sleep(2 * time.Second)
		}
		three := s.Refresh(t, s.PUB, twos[7].Refresh).Tokens(t)
		time.Sleep(61 * time.Second)
		wantError(t, s.Refresh(t, s.PUB, twos[3].Refresh), 400, "invalid_grant")
		wantDead(t, s, s.PUB, three)
	})
}

// E05: one handle used by many at once.
func TestParallelRefreshesStaySignedIn_E05(t *testing.T) {
	s := authtest.New(t)
	one := s.Tokens(t, "alice", s.PUB)
	var gens []string
	for _, r := range parallel(50, func() *authtest.Response { return s.Refresh(t, s.PUB, one.Refresh) }) {
		gens = append(gens, s.Generation(t, r.Tokens(t).Refresh))
	}
	if gens = slices.Compact(gens); len(gens) != 1 {
		t.Errorf("%d different successors", len(gens))
	}
	s = authtest.New(t, strict)
	one = s.Tokens(t, "alice", s.PUB)
	won := 0
	for _, r := range parallel(50, func() *authtest.Response { return s.Refresh(t, s.PUB, one.Refresh) }) {
		if r.StatusCode == http.StatusOK {
			won++
			continue
		}
		wantError(t, r, 400, "invalid_grant")
	}
	if won != 1 {
		t.Errorf("strict: %d refreshes, want 1", won)
	}
}

// E06: window and verdict survive a restart.
func TestWindowAndVerdictSurviveARestart_E06(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t)
		one := s.Tokens(t, "alice", s.PUB)
		two := s.Refresh(t, s.PUB, one.Refresh).Tokens(t)
		s.Restart(t)
		again := s.Refresh(t, s.PUB, one.Refresh).Tokens(t)
		if s.Generation(t, again.Refresh) != s.Generation(t, two.Refresh) {
			t.Error("a sibling was made")
		}
		s.Restart(t)
		time.Sleep(61 * time.Second)
		wantError(t, s.Refresh(t, s.PUB, one.Refresh), 400, "invalid_grant")
		wantDead(t, s, s.PUB, two)
	})
}

// E07: only the direct predecessor has the window.
func TestOnlyTheLastRefreshMayBeRepeated_E07(t *testing.T) {
	s := authtest.New(t)
	one := s.Tokens(t, "alice", s.PUB)
	two := s.Refresh(t, s.PUB, one.Refresh).Tokens(t)
	three := s.Refresh(t, s.PUB, two.Refresh).Tokens(t)
	wantError(t, s.Refresh(t, s.PUB, one.Refresh), 400, "invalid_grant")
	wantDead(t, s, s.PUB, two, three)
}

// E09, row 16: scope narrows the access token and nothing else, and never widens.
func TestRefreshedScopeNeverGrows_E09(t *testing.T) {
	s := authtest.New(t)
	tok := s.Tokens(t, "alice", s.PUB, set("scope", "mcp:read mcp:write"))
	for _, scope := range []string{"mcp:read mcp:write admin", "admin", "MCP:READ", "mcp:read openid", "*", "mcp:read  admin"} {
		wantError(t, s.Refresh(t, s.PUB, tok.Refresh, set("scope", scope)), 400, "invalid_scope")
	}
	for asked, want := range map[string]string{"mcp:read": "mcp:read", "": "mcp:read mcp:write", "mcp:write mcp:read mcp:write": "mcp:write mcp:read"} {
		if tok = s.Refresh(t, s.PUB, tok.Refresh, set("scope", asked)).Tokens(t); tok.Scope != want {
			t.Errorf("scope %q: granted %q, want %q", asked, tok.Scope, want)
		}
	}
	if tok = s.Refresh(t, s.PUB, tok.Refresh).Tokens(t); tok.Scope != "mcp:read mcp:write" {
		t.Errorf("the handle was narrowed to %q", tok.Scope)
	}
}

// E11: a request that is refused leaves the handle as it was.
func TestRefusedRefreshChangesNothing_E11(t *testing.T) {
	s := authtest.New(t, several, strict)
	cases := []tokenCase{
		{"bad scope", nil, 400, "invalid_scope", []edit{set("scope", `a"b`)}},
		{"wider scope", nil, 400, "invalid_scope", []edit{set("scope", "admin")}},
		{"other resource", nil, 400, "invalid_target", []edit{set("resource", authtest.ResourceB)}},
		{"two resources", nil, 400, "invalid_target", []edit{set("resource", authtest.ResourceA), add("resource", authtest.ResourceB)}},
		{"another client", &s.PUB2, 400, "invalid_grant", nil},
		{"a confidential client", &s.CONF, 400, "invalid_grant", nil},
		{"unknown client", &authtest.Client{ID: "nope"}, 401, "invalid_client", nil},
		{"nobody", &authtest.Client{}, 401, "invalid_client", nil},
		{"two handles", nil, 400, "invalid_request", []edit{add("refresh_token", "x")}},
		{"no handle", nil, 400, "invalid_request", []edit{del("refresh_token")}},
		{"a secret it has not", nil, 401, "invalid_client", []edit{set("client_secret", "x")}},
	}
	tok := s.Tokens(t, "alice", s.PUB)
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			wantError(t, s.PostForm(t, "/token", tc.as(s.PUB), authtest.RefreshForm(tok.Refresh, tc.edits...)), tc.status, tc.code)
			tok = s.Refresh(t, s.PUB, tok.Refresh).Tokens(t) // strict: a first use, or an error
		})
	}
	if tok = s.Refresh(t, s.PUB, tok.Refresh, set("resource", authtest.ResourceA)).Tokens(t); audience(t, s, tok.Access) != authtest.ResourceA {
		t.Error("another audience")
	}
}

// E12, row 15: idle and absolute end; nothing moves the absolute one.
func TestHandlesEndAtTheirTime_E12(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t, func(c *authtest.Config) {
			c.Lives.Access, c.Lives.Refresh, c.Lives.Idle = time.Hour, 10*time.Hour, 4*time.Hour
		})
		idle, tok := s.Tokens(t, "alice", s.PUB), s.Tokens(t, "alice", s.PUB)
		if tok.ExpiresIn != 3600 {
			t.Errorf("expires_in %d", tok.ExpiresIn)
		}
		began := time.Now()
		for range 3 {
			time.Sleep(3 * time.Hour)
			one := tok
			tok = s.Refresh(t, s.PUB, one.Refresh).Tokens(t)
			time.Sleep(30 * time.Second)
			tok = s.Refresh(t, s.PUB, one.Refresh).Tokens(t) // in the window
		}
		wantError(t, s.Refresh(t, s.PUB, idle.Refresh), 400, "invalid_grant")
		if r := s.Introspect(t, s.PUB, idle.Refresh); strings.TrimSpace(r.Body) != inactive {
			t.Errorf("idle for too long: %s", r.Body)
		}
		time.Sleep(time.Until(began.Add(10*time.Hour - 2*time.Second)))
		last := s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
		if last.ExpiresIn > 2 {
			t.Errorf("the access token outlives its grant by %d s", last.ExpiresIn-2)
		}
		time.Sleep(2 * time.Second)
		wantError(t, s.Refresh(t, s.PUB, last.Refresh), 400, "invalid_grant")
		if r := s.Introspect(t, s.PUB, last.Refresh); strings.TrimSpace(r.Body) != inactive {
			t.Errorf("expired: %s", r.Body)
		}
	})
	// The lifetimes of a server that wants one long one.
	s := authtest.New(t, func(c *authtest.Config) {
		c.Lives.Access, c.Lives.Refresh, c.Lives.Idle = 720*time.Hour, 720*time.Hour, 720*time.Hour
	})
	if tok := s.Tokens(t, "alice", s.PUB); tok.ExpiresIn != 720*3600 {
		t.Errorf("expires_in %d", tok.ExpiresIn)
	}
}

// E13: a change of the user takes effect on codes and handles.
func TestChangedUserCannotRefresh_E13(t *testing.T) {
	for name, change := range map[string]func(*authtest.Account) bool{
		"new password": func(a *authtest.Account) bool { a.Version = "2"; return true },
		"gone":         func(*authtest.Account) bool { return false },
	} {
		t.Run(name, func(t *testing.T) {
			s := authtest.New(t)
			tok, code := s.Tokens(t, "alice", s.PUB), s.Code(t, "alice", s.PUB)
			bob := s.Tokens(t, "bob", s.PUB)
			s.Users.Change("alice", change)
			wantError(t, s.Redeem(t, s.PUB, code), 400, "invalid_grant")
			wantError(t, s.Refresh(t, s.PUB, tok.Refresh), 400, "invalid_grant")
			if r := s.Introspect(t, s.PUB, tok.Refresh); strings.TrimSpace(r.Body) != inactive {
				t.Errorf("introspection: %s", r.Body)
			}
			s.Refresh(t, s.PUB, bob.Refresh).Tokens(t)
			s.Restart(t)
			wantError(t, s.Refresh(t, s.PUB, tok.Refresh), 400, "invalid_grant")
		})
	}
	t.Run("fewer scopes", func(t *testing.T) {
		s := authtest.New(t)
		tok := s.Tokens(t, "alice", s.PUB, set("scope", "mcp:read mcp:write"))
		s.Users.Change("alice", func(a *authtest.Account) bool { a.Scopes = []string{"mcp:read"}; return true })
		if tok = s.Refresh(t, s.PUB, tok.Refresh).Tokens(t); tok.Scope != "mcp:read" {
			t.Errorf("scope %q", tok.Scope)
		}
		s.Users.Change("alice", func(a *authtest.Account) bool { a.Scopes = []string{"admin"}; return true })
		wantError(t, s.Refresh(t, s.PUB, tok.Refresh), 400, "invalid_grant")
	})
	t.Run("resource taken away", func(t *testing.T) {
		s := authtest.New(t, several)
		tok := s.Tokens(t, "alice", s.PUB, set("resource", authtest.ResourceB))
		s.Config.Resources = s.Config.Resources[:1]
		s.Restart(t)
		wantError(t, s.Refresh(t, s.PUB, tok.Refresh), 400, "invalid_grant")
	})
}

// A grant whose end comes while the request is worked on has ended.
func TestGrantThatEndsDuringTheRequestHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &failing{Users: authtest.NewUsers()}
		s := authtest.New(t, func(c *authtest.Config) { c.Users, c.Lives.Refresh = source, 10*time.Second })
		tok := s.Tokens(t, "alice", s.PUB)
		time.Sleep(8 * time.Second)
		source.takes = time.Second
		tok = s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
		source.takes = 2 * time.Second
		wantError(t, s.Refresh(t, s.PUB, tok.Refresh), 400, "invalid_grant")
	})
}

// failing is a source of users that cannot say, or takes its time.
type failing struct {
	*authtest.Users
	down  bool
	takes time.Duration
}

func (f *failing) Lookup(ctx context.Context, subject string) (users.User, error) {
	time.Sleep(f.takes)
	if f.down {
		return users.User{}, errors.New("directory unreachable")
	}
	return f.Users.Lookup(ctx, subject)
}

// A source of users that fails is no verdict on the user.
func TestUnavailableUsersAreNoRefusal(t *testing.T) {
	source := &failing{Users: authtest.NewUsers()}
	s := authtest.New(t, func(c *authtest.Config) { c.Users = source })
	tok, code := s.Tokens(t, "alice", s.PUB), s.Code(t, "alice", s.PUB)
	source.down = true
	wantError(t, s.Redeem(t, s.PUB, code), 503, "temporarily_unavailable")
	wantError(t, s.Refresh(t, s.PUB, tok.Refresh), 503, "temporarily_unavailable")
	wantError(t, s.Introspect(t, s.PUB, tok.Access), 503, "temporarily_unavailable")
	source.down = false
	s.Redeem(t, s.PUB, code).Tokens(t)
	s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
}

// Handles and codes of another store are refused, even with the same keys.
func TestHandleOfAnotherEpochIsRefused(t *testing.T) {
	s := authtest.New(t)
	b := s.NewBrowser()
	page := b.SignIn(t, "alice", s.PUB)
	tok, code := s.Tokens(t, "alice", s.PUB), s.Code(t, "alice", s.PUB)
	claims, err := s.Verifier.Verify(t.Context(), tok.Access)
	if err != nil {
		t.Fatal(err)
	}
	s.NewStore(t)
	wantError(t, s.Redeem(t, s.PUB, code), 400, "invalid_grant")
	wantError(t, s.Refresh(t, s.PUB, tok.Refresh), 400, "invalid_grant")
	wantPage(t, b.Submit(t, page, set("decision", "approve")), 400)
	wantLogin(t, b.Get(t, s.AuthorizeURL(s.PUB)))
	s.Revoke(t, s.PUB, tok.Refresh)
	if _, err := s.Denylist.Find(t.Context(), claims.GrantID); !errors.Is(err, denylist.ErrUnknown) {
		t.Errorf("a handle of another store made a row: %v", err)
	}
	for _, token := range []string{tok.Refresh, tok.Access} {
		if r := s.Introspect(t, s.PUB, token); strings.TrimSpace(r.Body) != inactive {
			t.Errorf("introspection: %s", r.Body)
		}
	}
}
