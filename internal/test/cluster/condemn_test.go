package cluster_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"signet/internal/seal"
	"signet/internal/test/cluster"
	"signet/internal/test/journal"
	"signet/internal/test/pgtest"
	"signet/internal/test/storetest"
	"signet/jwt"
	"signet/keys"
)

// The tests in this file show that the mixed load finds violations: in misconfigured
// clusters, and in data that was changed behind their back. The package journal has
// such tests of its own.

// wants checks that all these invariants were found broken, and clears the list.
func (r *run) wants(t *testing.T, invariants ...string) {
	t.Helper()
	broken := strings.Join(r.verdict(), "\n")
	for _, name := range invariants {
		if !strings.Contains(broken, name) {
			t.Errorf("%s was broken, but the violations found are:\n%.3000s", name, broken)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = nil
}

// The clients of the load detect an auth replica that takes repeated refreshes for
// reuse, and an mcp replica that fetches the list of revoked grants too seldom.
func TestCheckersCondemnMisconfiguredReplicas(t *testing.T) {
	t.Parallel()
	o, proxies := proxied(t, cluster.Options{
		Env: []string{"SIGNET_ACCESS_TTL=" + accessTTL.String(), "SIGNET_LIMITS=off"},
		EnvOf: func(replica string) []string {
			return map[string][]string{"auth-2": {"SIGNET_REPLAY_WINDOW=0"}, "mcp-2": {"SIGNET_REVOCATION_POLL=5m"}}[replica]
		},
	})
	r := newRun(t, start(t, o), time.Minute)
	n := &nemesis{run: r, proxies: proxies}
	c := chaos{duration: 8 * time.Second}
	c.loadAlone(r)
	for deadline := time.Now().Add(time.Minute); !strings.Contains(strings.Join(r.verdict(), "\n"), "INV6") && time.Now().Before(deadline); {
		c.loadAlone(r) // a repeated refresh has to reach that replica
	}
	settle(t, r)
	r.wants(t, "INV6", "INV4")

	list := r.families()
	pgtest.Exec(t, r.c.Postgres.URL, "UPDATE signet.grants SET revoked_at = 0")
	r.rows(list)
	r.wants(t, "INV4")
	pgtest.Exec(t, r.c.Postgres.URL, "UPDATE signet.grants SET gen = gen + 7")
	r.rows(list)
	r.wants(t, "INV23")
	pgtest.Exec(t, r.c.Postgres.URL, "DELETE FROM signet.grants")
	r.rows(list)
	r.wants(t, "INV23: no row")
	for range 10*len(r.c.Auth) + 1 {
		c, err := pgx.Connect(t.Context(), r.c.Postgres.URL+"&application_name=signet")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.WithoutCancel(t.Context()))
	}
	r.connections()
	r.wants(t, "INV22")
	f, err := os.OpenFile(r.c.MCP[0].Log, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(f, "{\"token\":%q}\n", list[0].access)
	f.Close()
	r.logs()
	r.wants(t, "INV16")
	n.failed("kill", r.c.MCP[0].Stop())
	n.failed("kill", r.c.MCP[0].Kill()) // the replica no longer runs
	r.wants(t, "nemesis")
}

// loadAlone runs the load without a nemesis, to its end.
func (c chaos) loadAlone(r *run) {
	ctx, cancel := context.WithTimeout(context.Background(), c.duration)
	defer cancel()
	done := make(chan struct{})
	workers := newWorkers(r, 3, 1) // workers without passwords
	for _, w := range workers {
		go func() {
			w.work(ctx)
			done <- struct{}{}
		}()
	}
	for range workers {
		<-done
	}
}

// issuer starts a server of keys whose answers can be changed, and a run with one
// verifier that uses it.
func issuer(t *testing.T) (r *run, answer *http.HandlerFunc) {
	t.Helper()
	answer = new(http.HandlerFunc)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { (*answer)(w, q) }))
	t.Cleanup(srv.Close)
	return newRun(t, &cluster.Cluster{URL: srv.URL, Secret: seal.NewSecret()}, time.Minute), answer
}

// A verifier that caches by the headers finds an issuer that signs with a key that it
// could not know, a kid that names two keys, and a JWK Set without a lifetime.
func TestCheckersCondemnUnpublishedKeys_INV9(t *testing.T) {
	r, answer := issuer(t)
	sets := [2]*keys.Set{signingKeys(t, r.ring), signingKeys(t, r.ring)}
	sign := func(s *keys.Set) string {
		now := time.Now()
		token, err := jwt.NewSigner(s.Signing).Sign(jwt.Claims{
			Issuer: r.c.URL, Subject: "s", Audience: r.c.URL + "/mcp", ClientID: "c", IssuedAt: now.Unix(), ExpiresAt: now.Add(time.Minute).Unix(), GrantID: "g",
		}, now)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	body, _, _ := sets[0].JWKS(time.Now())
	*answer = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=60")
		w.Write(body)
	}
	v := r.others[0]
	v.verify(sign(sets[0]))
	if broken := r.verdict(); len(broken) > 0 || r.looked()["INV9"] != 1 {
		t.Fatalf("a good token: %v", broken)
	}
	v.verify(sign(sets[1]))
	r.wants(t, "INV9: a verifier")

	other, _, _ := sets[1].JWKS(time.Now())
	first, _, _ := strings.Cut(strings.SplitN(string(body), `"kid":"`, 2)[1], `"`)
	second, _, _ := strings.Cut(strings.SplitN(string(other), `"kid":"`, 2)[1], `"`)
	body, v.until = []byte(strings.ReplaceAll(string(other), second, first)), time.Time{}
	v.verify(sign(sets[0]))
	r.wants(t, "INV9: kid")

	*answer = func(w http.ResponseWriter, _ *http.Request) { w.Write(body) }
	v.until = time.Time{}
	v.verify(sign(sets[0]))
	r.wants(t, "INV9: JWKS with Cache-Control")
}

func signingKeys(t *testing.T, ring *seal.Keyring) *keys.Set {
	t.Helper()
	set, err := keys.Open(t.Context(), keys.Options{Store: storetest.SQLite.Open(t), Ring: ring, Rotation: time.Hour, TokenTTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// The checkers find answers that no server may give.
func TestCheckersCondemnWrongAnswers(t *testing.T) {
	r, answer := issuer(t)
	f := &family{name: "g", client: registered{"c"}, user: "alice", handle: "h", access: "a.b.c", gen: 1}
	say := func(status int, body string) {
		*answer = func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	refresh := func() (reply, tokens) {
		return r.ask(f, journal.Request{Op: journal.Introspect, Artefact: "h"}, r.c.URL, refreshForm(f.client, f.handle))
	}
	say(503, `{"error":"temporarily_unavailable"}`)
	refresh()
	r.wants(t, "INV11: a 503") // without Retry-After
	say(500, `{"error":"server_error"}`)
	refresh()
	r.wants(t, "INV11: got 500")
	say(200, `{"act`)
	refresh()
	r.wants(t, "INV21: introspection")
	say(200, `{"result":{"structuredContent":{"sub":"bob"}}}`)
	r.call(f, r.c.URL)
	r.wants(t, "INV19")
	w := &worker{run: r, random: rand.New(rand.NewPCG(1, 1)), who: demoPerson()}
	say(401, "")
	r.c.Auth = []*cluster.Replica{{URL: r.c.URL}}
	w.login()
	r.wants(t, "INV11: register")

	for gen, grant := range map[int64]string{2: "other", 3: "g"} {
		handle, err := seal.Seal(r.ring, seal.Refresh{Grant: seal.Grant{ID: grant}, Gen: gen})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.take(f, 1, tokens{Access: "a.b.c", Refresh: handle}); err == nil || !strings.Contains(err.Error(), "INV3") {
			t.Errorf("a handle of generation %d of %s after generation 1 of g: %v", gen, grant, err)
		}
	}
}
