package handlers_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/handlers"
	"signet/internal/test/authtest"
	"signet/internal/test/pgtest"
)

// replicas are three servers on one database.
func replicas(t *testing.T, change ...func(*authtest.Config)) []*authtest.Server {
	t.Helper()
	database := pgtest.URL(t)
	first := authtest.New(t, append(change, func(c *authtest.Config) { c.Database = database })...)
	return []*authtest.Server{first, first.Replica(t, ""), first.Replica(t, "")}
}

// spread sends the same to all of them, n times at once.
func spread(n int, servers []*authtest.Server, send func(s *authtest.Server) *authtest.Response) []*authtest.Response {
	answers := make([]*authtest.Response, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { answers[i] = send(servers[i%len(servers)]) })
	}
	all.Wait()
	return answers
}

func count(answers []*authtest.Response) map[string]int {
	n := map[string]int{}
	for _, r := range answers {
		n[strings.TrimSpace(http.StatusText(r.StatusCode)+" "+r.Error())]++
	}
	return n
}

// Of 50 redemptions of one code at three replicas one succeeds, and the family ends.
func TestConcurrentRedemptionAtReplicasSucceedsOnce_D05(t *testing.T) {
	servers := replicas(t)
	s := servers[0]
	code := s.Code(t, "alice", s.PUB)
	answers := spread(50, servers, func(r *authtest.Server) *authtest.Response { return r.Redeem(t, s.PUB, code) })
	if n := count(answers); n["OK"] != 1 || n["Bad Request invalid_grant"] != 49 {
		t.Fatalf("answers: %v, want one OK and 49 invalid_grant", n)
	}
	for _, r := range answers {
		if r.StatusCode == http.StatusOK {
			if got := servers[1].Refresh(t, s.PUB, r.Tokens(t).Refresh); got.Error() != "invalid_grant" {
				t.Errorf("the winner's handle: %d %s", got.StatusCode, got.Body)
			}
		}
	}
}

// A hundred refreshes with one handle, spread over three replicas: within the window
// all get the same next generation, in strict mode one is served.
func TestRotationIsOneAcrossReplicas_M01(t *testing.T) {
	t.Run("window", func(t *testing.T) {
		servers := replicas(t)
		s := servers[0]
		handle := s.Tokens(t, "alice", s.PUB).Refresh
		generations := map[string]bool{}
		answers := spread(100, servers, func(r *authtest.Server) *authtest.Response { return r.Refresh(t, s.PUB, handle) })
		for _, r := range answers {
			generations[s.Generation(t, r.Tokens(t).Refresh)] = true
		}
		if len(generations) != 1 {
			t.Errorf("generations %v, want one", generations)
		}
		if r := servers[2].Refresh(t, s.PUB, answers[0].Tokens(t).Refresh); r.StatusCode != http.StatusOK {
			t.Errorf("the next refresh: %d %s", r.StatusCode, r.Body)
		}
	})
	t.Run("strict", func(t *testing.T) {
		servers := replicas(t, func(c *authtest.Config) { c.Lives.Replay = handlers.Strict })
		s := servers[0]
		handle := s.Tokens(t, "alice", s.PUB).Refresh
		answers := spread(100, servers, func(r *authtest.Server) *authtest.Response { return r.Refresh(t, s.PUB, handle) })
		if n := count(answers); n["OK"] != 1 || n["Bad Request invalid_grant"] != 99 {
			t.Errorf("answers: %v, want one OK and 99 invalid_grant", n)
		}
	})
}

// A replica that is cut off from the database answers requests that need it with 503 in
// time, and serves the rest. It accepts no code and no handle, the other replicas are
// not affected, and it recovers by itself.
func TestReplicaCutOffFromTheDatabaseSpendsNothing_M02(t *testing.T) {
	for name, mode := range map[string]pgtest.Mode{"stalled": pgtest.Stall, "reset": pgtest.Reset, "half open": pgtest.HalfOpen} {
		t.Run(name, func(t *testing.T) {
			database := pgtest.URL(t)
			s := authtest.New(t, func(c *authtest.Config) { c.Database = database })
			proxy := pgtest.NewProxy(t, database)
			cut := s.Replica(t, proxy.URL)
			code, tokens := s.Code(t, "alice", s.PUB), s.Tokens(t, "alice", s.PUB)
			proxy.Set(mode)
			var all sync.WaitGroup
			for what, send := range map[string]func() *authtest.Response{
				"code":       func() *authtest.Response { return cut.Redeem(t, s.PUB, code) },
				"refresh":    func() *authtest.Response { return cut.Refresh(t, s.PUB, tokens.Refresh) },
				"revoke":     func() *authtest.Response { return cut.Revoke(t, s.PUB, tokens.Refresh) },
				"introspect": func() *authtest.Response { return cut.Introspect(t, s.PUB, tokens.Refresh) },
			} {
				all.Go(func() {
					began := time.Now()
					r := send()
					if d := time.Since(began); r.StatusCode != http.StatusServiceUnavailable || r.Error() != "temporarily_unavailable" || d > 6*time.Second { // a busy machine adds to the 3 s
						t.Errorf("%s: %d %s after %v, want 503 temporarily_unavailable within 3 s", what, r.StatusCode, r.Error(), d)
					}
				})
			}
			for _, path := range []string{"/.well-known/jwks.json", "/.well-known/oauth-authorization-server", "/livez", "/readyz"} {
				if r := cut.Get(t, path); r.StatusCode != http.StatusOK {
					t.Errorf("%s: %d", path, r.StatusCode)
				}
			}
			if _, err := cut.Verifier.Verify(context.Background(), tokens.Access); err != nil {
				t.Errorf("an access token: %v", err)
			}
			next := s.Refresh(t, s.PUB, tokens.Refresh).Tokens(t)
			all.Wait()
			proxy.Set(pgtest.Pass)
			deadline := time.Now().Add(5 * time.Second)
			r := cut.Refresh(t, s.PUB, next.Refresh)
			for ; r.StatusCode == http.StatusServiceUnavailable && time.Now().Before(deadline); r = cut.Refresh(t, s.PUB, next.Refresh) {
			}
			r.Tokens(t)
			cut.Redeem(t, s.PUB, code).Tokens(t)
		})
	}
}
