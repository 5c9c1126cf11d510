package fleet

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"signet/internal/e2e"
	"signet/internal/test/upstreamtest"
)

// Two users call over two MCP replicas and two issuers, which share a database. No call is made
// with another user's token, and the upstream is asked once each time a token ends, although both
// replicas notice and each asks another issuer.
//
// One issuer is killed after the upstream has answered and before the answer is committed: that
// one user signs in again, because the upstream accepts a refresh token once. The other user
// notices nothing.
func TestUpstreamTokensOverReplicas_Row37_Row39_Row42(t *testing.T) {
	balancer := e2e.NewProxy(t)
	first, p := e2e.Corp(t, append(e2e.SharedStore(t), "SIGNET_ISSUER="+balancer.URL))
	p.Register(balancer.URL + "/oauth/callback")
	second := first.Beside()
	second.Start()
	balancer.To(t, first.URL())
	first.Issuer = balancer.URL
	key := strings.TrimSpace(first.Must("secret", "derive", "upstream"))
	replica := func(issuer *e2e.Program) *e2e.Program {
		// A replica of its own asks through the balancer, which leads to this issuer.
		r := first.Beside("SIGNET_ROLE=mcp", "SIGNET_UPSTREAM_KEY="+key, "SIGNET_REVOCATION_POLL=1s", "SIGNET_STORE=", "SIGNET_SECRET=")
		balancer.To(t, issuer.URL())
		r.Start()
		return r
	}
	replicas := []*e2e.Program{replica(first), replica(second)}
	_, ann := e2e.LoginAt(t, first, p, "ann")
	_, bob := e2e.LoginAt(t, first, p, "bob")
	tokens := map[string]string{"ann": ann.AccessToken, "bob": bob.AccessToken}

	for round := range 10 {
		balancer.To(t, []*e2e.Program{first, second}[round%2].URL())
		before := map[string]int{"ann": p.Count("refresh ann"), "bob": p.Count("refresh bob")}
		p.InvalidateUser("ann")
		p.InvalidateUser("bob")
		var all sync.WaitGroup
		for n := range 10 {
			for user, token := range tokens {
				all.Go(func() {
					status, text, failed := e2e.Tool(t, replicas[n%2].URL()+"/mcp", token, "upstream_get")
					if status != 200 || failed || !strings.Contains(text, `"user":"`+user+`"`) {
						t.Errorf("round %d, %s: %d %v %s", round, user, status, failed, text)
					}
				})
			}
		}
		all.Wait()
		for user, n := range before {
			if got := p.Count("refresh "+user) - n; got != 1 {
				t.Errorf("round %d: %d refreshes for %s", round, got, user)
			}
		}
	}

	balancer.To(t, second.URL())
	p.InvalidateUser("ann")
	p.Switch(func(s *upstreamtest.Switches) {
		s.TokenAnswer = func(w http.ResponseWriter) {
			second.Kill()
			w.WriteHeader(http.StatusOK)
		}
	})
	if status, text, failed := e2e.Tool(t, replicas[0].URL()+"/mcp", ann.AccessToken, "upstream_get"); status != 200 || !failed {
		t.Errorf("the issuer dies: %d %v %s", status, failed, text)
	}
	p.Switch(func(s *upstreamtest.Switches) { s.TokenAnswer = nil })
	balancer.To(t, first.URL())
	// The claim of the dead issuer lapses. Then the upstream refuses the old refresh token, which
	// ends ann's grant; until then no call gets a verdict.
	e2e.Eventually(t, func() bool {
		status, _, _ := e2e.Tool(t, replicas[0].URL()+"/mcp", ann.AccessToken, "upstream_get")
		return status == http.StatusUnauthorized
	})
	if status, text, failed := e2e.Tool(t, replicas[0].URL()+"/mcp", bob.AccessToken, "upstream_get"); status != 200 || failed || !strings.Contains(text, `"user":"bob"`) {
		t.Errorf("bob: %d %v %s", status, failed, text)
	}
	_, again := e2e.LoginAt(t, first, p, "ann")
	if status, text, failed := e2e.Tool(t, replicas[1].URL()+"/mcp", again.AccessToken, "upstream_get"); status != 200 || failed || !strings.Contains(text, `"user":"ann"`) {
		t.Errorf("ann signs in again: %d %v %s", status, failed, text)
	}
}
