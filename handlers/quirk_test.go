package handlers_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/test/authtest"
)

// quirk gives a server a row for the client PRE, with these members.
func quirk(t *testing.T, members string) func(*authtest.Config) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "quirks.json")
	if err := os.WriteFile(path, []byte(`{"quirks":[{"name":"pre","match":{"client_ids":["pre"]},`+members+`}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	return func(c *authtest.Config) { c.Quirks, c.Lives.Refresh, c.Lives.Idle = path, time.Hour, 40*time.Minute }
}

// The lifetimes of a row count where they are shorter than the server's, and for its clients
// only.
func TestQuirkShortensLives(t *testing.T) {
	const (
		shorter = `"access_ttl":"1m","refresh_ttl":"20m","refresh_idle_ttl":"10m","replay_window":"5s"`
		longer  = `"access_ttl":"2h","refresh_ttl":"9000h","refresh_idle_ttl":"8000h","replay_window":"1h"`
	)
	short := func(s *authtest.Server) authtest.Client { return s.PRE }
	other := func(s *authtest.Server) authtest.Client { return s.CONF }
	for _, tt := range []struct {
		name, members              string
		client                     func(*authtest.Server) authtest.Client
		access, grant, idle, again time.Duration
	}{
		{"shorter", shorter, short, time.Minute, 20 * time.Minute, 10 * time.Minute, 5 * time.Second},
		{"shorter, for another client", shorter, other, 5 * time.Minute, time.Hour, 40 * time.Minute, time.Minute},
		{"longer", longer, short, 5 * time.Minute, time.Hour, 40 * time.Minute, time.Minute},
		{"no window", `"replay_window":"0"`, short, 5 * time.Minute, time.Hour, 40 * time.Minute, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := authtest.New(t, quirk(t, tt.members))
				c := tt.client(s)
				refresh := func(tok authtest.Tokens, after time.Duration, good bool) authtest.Tokens {
					t.Helper()
					time.Sleep(after)
					r := s.Refresh(t, c, tok.Refresh)
					if !good {
						wantError(t, r, 400, "invalid_grant")
						return tok
					}
					return r.Tokens(t)
				}
				tok := s.Tokens(t, "alice", c)
				if claims, err := s.Verifier.Verify(t.Context(), tok.Access); err != nil || time.Duration(claims.ExpiresAt-claims.IssuedAt)*time.Second != tt.access {
					t.Errorf("the access token lives %+v, %v; want %s", claims, err, tt.access)
				}
				refresh(tok, tt.idle, false)
				begin := time.Now()
				for tok = s.Tokens(t, "alice", c); time.Since(begin)+tt.idle/2 < tt.grant; {
					tok = refresh(tok, tt.idle/2, true)
				}
				refresh(tok, tt.grant-time.Since(begin), false)
				one := s.Tokens(t, "alice", c)
				refresh(one, 0, true)
				if tt.again > 0 {
					refresh(one, tt.again, true)
				}
				refresh(one, time.Second, false)
			})
		})
	}
}

// A row may tick the default scopes alone, and lock the choice of a client that the operator
// has named.
func TestQuirkTicksDefaultsAndLocksTheChoice(t *testing.T) {
	s := authtest.New(t, choosing, quirk(t, `"ticked":"defaults"`))
	b := s.NewBrowser()
	page := b.SignIn(t, "alice", s.PRE, set("scope", "mcp:read mcp:write"))
	if free, ticked, _ := asksFor(t, page); !slices.Equal(free, []string{"mcp:read", "mcp:write"}) || !slices.Equal(ticked, []string{"mcp:read"}) {
		t.Errorf("the page offers %v and ticks %v", free, ticked)
	}
	tok := s.Redeem(t, s.PRE, b.Submit(t, page, allow("mcp:read", "mcp:write")).Sent().Get("code")).Tokens(t)
	if tok.Scope != "mcp:read mcp:write" {
		t.Errorf("what the user ticked beside the defaults is missing: %q", tok.Scope)
	}

	s = authtest.New(t, choosing, quirk(t, `"choice":"locked"`))
	page = s.NewBrowser().SignIn(t, "alice", s.PRE, set("scope", "mcp:read mcp:write"))
	if free, _, durations := asksFor(t, page); len(free)+len(durations) != 0 {
		t.Errorf("the choice is locked, and the page offers %v for %v", free, durations)
	}
}
