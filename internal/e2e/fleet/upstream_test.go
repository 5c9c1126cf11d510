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
// In every fifth round one issuer is killed after the upstream has answered and before the answer is
// committed: that one user signs in again, because the upstream accepts a refresh token once.
// The other user notices nothing.
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

	call := func(at *e2e.Program, user string) (status int, text string, failed bool) {
		t.Helper()
		return e2e.Tool(t, at.URL()+"/mcp", tokens[user], "upstream_get")
	}
	works := func(at *e2e.Program, user string) {
		t.Helper()
		if status, text, failed := call(at, user); status != 200 || failed || !strings.Contains(text, `"user":"`+user+`"`) {
			t.Errorf("%s: %d %v %s", user, status, failed, text)
		}
	}
	issuers := []*e2e.Program{first, second}
	for round := 1; round <= 10; round++ {
		balancer.To(t, issuers[round%2].URL())
		before := map[string]int{"ann": p.Count("refresh ann"), "bob": p.Count("refresh bob")}
		p.InvalidateUser("ann")
		p.InvalidateUser("bob")
		var all sync.WaitGroup
		for n := range 10 {
			for user := range tokens {
				all.Go(func() { works(replicas[n%2], user) })
			}
		}
		all.Wait()
		for user, n := range before {
			if got := p.Count("refresh "+user) - n; got != 1 {
				t.Errorf("round %d: %d refreshes for %s", round, got, user)
			}
		}
		if round%5 != 0 {
			continue
		}
		lost, other := "ann", "bob"
		dies, lives := issuers[round%2], issuers[(round+1)%2]
		if round == 10 {
			lost, other = other, lost
		}
		killBeforeCommit(t, p, dies, func() {
			p.InvalidateUser(lost)
			if status, text, failed := call(replicas[0], lost); status != 200 || !failed {
				t.Errorf("the issuer dies: %d %v %s", status, failed, text)
			}
		})
		balancer.To(t, lives.URL())
		// The claim of the dead issuer lapses. Then the upstream refuses the old refresh token,
		// which ends the user's grant; until then no call gets a verdict.
		e2e.Eventually(t, func() bool {
			status, _, _ := call(replicas[0], lost)
			return status == http.StatusUnauthorized
		})
		works(replicas[0], other)
		dies.Start()
		_, again := e2e.LoginAt(t, first, p, lost)
		tokens[lost] = again.AccessToken
		works(replicas[1], lost)
	}
}

// killBeforeCommit has an issuer killed after the upstream has refreshed a token, and before the
// issuer has the answer. call makes it refresh one.
func killBeforeCommit(t *testing.T, p *upstreamtest.Provider, issuer *e2e.Program, call func()) {
	t.Helper()
	p.Switch(func(s *upstreamtest.Switches) {
		s.TokenAnswer = func(w http.ResponseWriter) {
			issuer.Kill()
			w.WriteHeader(http.StatusOK)
		}
	})
	call()
	p.Switch(func(s *upstreamtest.Switches) { s.TokenAnswer = nil })
}
