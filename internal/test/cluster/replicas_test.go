package cluster_test

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/internal/seal"
	"signet/internal/test/cluster"
	"signet/internal/test/person"
	"signet/internal/test/process"
)

// eventually waits for a condition and returns how long that took.
func eventually(t *testing.T, what string, done func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !done() {
		if time.Since(began) > process.Patience {
			t.Fatalf("not within %s: %s", process.Patience, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(began)
}

// login returns the tokens of a new client.
func login(t *testing.T, c *cluster.Cluster, h *http.Client, p *person.Person) (registered, tokens) {
	t.Helper()
	client, r := register(h, c.URL)
	if client.id == "" {
		t.Fatalf("registration: %d %s", r.status, r.body)
	}
	got, r := authorize(p, h, c.URL, client, "read write")
	if got.code == "" {
		t.Fatalf("no code: %d %s", r.status, r.body)
	}
	r = postForm(h, c.URL+"/token", codeForm(client, got))
	if r.tokens().Refresh == "" {
		t.Fatalf("no tokens: %d %s", r.status, r.body)
	}
	return client, r.tokens()
}

// generations opens the handles of the answers that have one.
func generations(t *testing.T, c *cluster.Cluster, answers []reply) map[string]map[int64]int {
	t.Helper()
	ring, err := seal.Parse(c.Secret)
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]map[int64]int{}
	for _, r := range answers {
		if handle := r.tokens().Refresh; handle != "" {
			v, err := seal.Open[seal.Refresh](ring, handle)
			if err != nil {
				t.Fatal(err)
			}
			if n[v.Grant.ID] == nil {
				n[v.Grant.ID] = map[int64]int{}
			}
			n[v.Grant.ID][v.Gen]++
		}
	}
	return n
}

func labels(answers []reply) map[string]int {
	n := map[string]int{}
	for _, r := range answers {
		n[r.label()]++
	}
	return n
}

// everywhere sends n requests at once: to nginx and to each auth replica in turn.
func everywhere(c *cluster.Cluster, n int, send func(base string) reply) []reply {
	bases := []string{c.URL}
	for _, r := range c.Auth {
		bases = append(bases, r.URL)
	}
	answers := make([]reply, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { answers[i] = send(bases[i%len(bases)]) })
	}
	all.Wait()
	return answers
}

// Two auth and three mcp replicas, undisturbed, with the replay window of a minute.
func TestClusterServesAsOneServer(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Options{})
	h := newHTTP()

	t.Run("hundred refreshes of one handle, M01, E05", func(t *testing.T) {
		client, tok := login(t, c, h, demoPerson())
		answers := everywhere(c, 100, func(base string) (r reply) {
			for range 5 { // a busy server may answer 503, which changes nothing
				if r = postForm(h, base+"/token", refreshForm(client, tok.Refresh)); r.status != 503 {
					break
				}
			}
			return r
		})
		if n := labels(answers); n["200"] != 100 {
			t.Errorf("answers: %v, want 100 times 200", n)
		}
		n := generations(t, c, answers)
		if len(n) != 1 {
			t.Errorf("%d grants", len(n))
		}
		for _, gens := range n {
			if gens[2] != 100 {
				t.Errorf("generations: %v, want 100 times the second", gens)
			}
		}
		// All answers belong to one line of handles: after the next refresh, any of the
		// others counts as its predecessor.
		for _, r := range []reply{answers[0], answers[99]} {
			if r = postForm(h, c.URL+"/token", refreshForm(client, r.tokens().Refresh)); r.status != 200 {
				t.Errorf("the next refresh: %s", r.label())
			}
		}
		if r := postForm(h, c.URL+"/token", refreshForm(client, tok.Refresh)); r.error() != "invalid_grant" {
			t.Errorf("the first handle, two generations later: %s", r.label())
		}
	})

	t.Run("revocation reaches every replica, G04", func(t *testing.T) {
		client, tok := login(t, c, h, demoPerson())
		for _, r := range c.MCP {
			if got := call(h, r.URL, tok.Access, "whoami", struct{}{}); got.status != 200 || !strings.Contains(got.body, cluster.User) {
				t.Fatalf("%s before the revocation: %d %s", r.Name, got.status, got.body)
			}
		}
		if r := postForm(h, c.Auth[0].URL+"/revoke", url.Values{"token": {tok.Refresh}, "client_id": {client.id}}); r.status != 200 {
			t.Fatalf("revoking: %s", r.label())
		}
		began := time.Now()
		for _, r := range c.Auth { // at once
			if got := postForm(h, r.URL+"/token", refreshForm(client, tok.Refresh)); got.error() != "invalid_grant" {
				t.Errorf("%s refreshed a revoked grant: %s", r.Name, got.label())
			}
			if got := postForm(h, r.URL+"/introspect", url.Values{"token": {tok.Access}, "client_id": {client.id}}); strings.TrimSpace(got.body) != `{"active":false}` {
				t.Errorf("%s introspects: %d %s", r.Name, got.status, got.body)
			}
		}
		var all sync.WaitGroup
		for _, r := range c.MCP {
			all.Go(func() {
				for call(h, r.URL, tok.Access, "whoami", struct{}{}).status != 401 && time.Since(began) < 20*time.Second {
					time.Sleep(50 * time.Millisecond)
				}
				took := time.Since(began)
				t.Logf("%s refuses %s after the revocation", r.Name, took.Round(100*time.Millisecond))
				if took > 15*time.Second {
					t.Errorf("%s still accepted the token 15 s after the revocation", r.Name)
				}
			})
		}
		all.Wait()
	})

	t.Run("disabled user, E13", func(t *testing.T) {
		add := c.Command(t.Context(), "user", "add", "carol", "--scope", "read", "--password-stdin")
		add.Stdin = strings.NewReader("walnut radio summer ladder\n")
		if out, err := add.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var client registered
		var tok tokens
		eventually(t, "the new user can sign in", func() bool {
			var r reply
			if client, r = register(h, c.URL); client.id == "" {
				t.Fatal(r.label())
			}
			got, _ := authorize(person.New("carol", "walnut radio summer ladder"), h, c.URL, client, "read")
			if got.code == "" {
				return false
			}
			tok = postForm(h, c.URL+"/token", codeForm(client, got)).tokens()
			return tok.Refresh != ""
		})
		if out, err := c.Command(t.Context(), "user", "disable", "carol").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, r := range c.Auth {
			took := eventually(t, r.Name+" refuses a disabled user", func() bool {
				got := postForm(h, r.URL+"/introspect", url.Values{"token": {tok.Refresh}, "client_id": {client.id}})
				return strings.TrimSpace(got.body) == `{"active":false}`
			})
			t.Logf("%s refuses a disabled user after %s", r.Name, took.Round(10*time.Millisecond))
			if got := postForm(h, r.URL+"/token", refreshForm(client, tok.Refresh)); got.error() != "invalid_grant" {
				t.Errorf("%s refreshed for a disabled user: %s", r.Name, got.label())
			}
		}
	})

	t.Run("no artefact passes for another, D10", func(t *testing.T) { crossTypes(t, c, h) })
	t.Run("rolling restart, INV21", func(t *testing.T) { rollingRestart(t, c, h) })
}

// crossTypes presents each artefact in place of every other kind.
func crossTypes(t *testing.T, c *cluster.Cluster, h *http.Client) {
	client, tok := login(t, c, h, demoPerson())
	unused, _ := authorize(demoPerson(), h, c.URL, client, "read")
	slots := map[string]func(artefact string) reply{
		"code":   func(a string) reply { return postForm(h, c.URL+"/token", codeForm(client, code{a, unused.verifier})) },
		"handle": func(a string) reply { return postForm(h, c.URL+"/token", refreshForm(client, a)) },
		"access": func(a string) reply { return call(h, c.URL, a, "whoami", struct{}{}) },
		"client": func(a string) reply { return postForm(h, c.URL+"/token", refreshForm(registered{a}, tok.Refresh)) },
	}
	for kind, artefact := range map[string]string{"code": unused.code, "handle": tok.Refresh, "access": tok.Access, "client": client.id} {
		for slot, present := range slots {
			if r := present(artefact); kind != slot && r.status != 400 && r.status != 401 {
				t.Errorf("%s as %s: %s", kind, slot, r.label())
			} else if kind == slot && r.status != 200 {
				t.Errorf("%s as itself: %s", kind, r.label())
			}
		}
		if kind == "handle" {
			tok = postForm(h, c.URL+"/token", refreshForm(client, tok.Refresh)).tokens()
		}
	}
}

// rollingRestart restarts every replica of each role, one after the other, while
// clients go on: no request may fail.
func rollingRestart(t *testing.T, c *cluster.Cluster, h *http.Client) {
	stop := make(chan struct{})
	var all sync.WaitGroup
	var mu sync.Mutex
	n := map[string]int{}
	for range 8 {
		client, tok := login(t, c, h, demoPerson())
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				r := postForm(h, c.URL+"/token", refreshForm(client, tok.Refresh))
				if r.status == 200 {
					tok = r.tokens()
				}
				called := call(h, c.URL, tok.Access, "greet", map[string]string{"name": "World"})
				mu.Lock()
				n["refresh "+r.label()]++
				n["call "+called.label()]++
				mu.Unlock()
				time.Sleep(5 * time.Millisecond) // leaves CPU time for the replicas
			}
		})
	}
	var roles sync.WaitGroup
	for _, role := range [][]*cluster.Replica{c.Auth, c.MCP} {
		roles.Go(func() {
			for _, r := range role {
				if err := r.Restart(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	roles.Wait()
	close(stop)
	all.Wait()
	t.Logf("while every replica was restarted: %v", n)
	if len(n) != 2 || n["refresh 200"] == 0 || n["call 200"] == 0 {
		t.Errorf("answers: %v, want only 200", n)
	}
}

// Without a window, one of a hundred requests is served, and the grant ends.
func TestStrictModeServesOneRequest_M01_E05(t *testing.T) {
	t.Parallel()
	c := start(t, cluster.Options{MCP: 1, Env: []string{"SIGNET_REPLAY_WINDOW=0"}})
	h := newHTTP()
	client, tok := login(t, c, h, demoPerson())
	answers := everywhere(c, 100, func(base string) reply { return postForm(h, base+"/token", refreshForm(client, tok.Refresh)) })
	if n := labels(answers); n["200"] != 1 || n["400 invalid_grant"] != 99 {
		t.Errorf("answers: %v, want one 200 and 99 times invalid_grant", n)
	}
	for _, r := range answers {
		if next := r.tokens().Refresh; next != "" {
			if r := postForm(h, c.URL+"/token", refreshForm(client, next)); r.error() != "invalid_grant" {
				t.Errorf("the winner's next refresh: %s, want invalid_grant: the handle was presented twice", r.label())
			}
		}
	}
}
