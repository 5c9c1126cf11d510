package cluster_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"signet/internal/seal"
	"signet/internal/test/cluster"
	"signet/internal/test/pgtest"
)

// A deed is a request about a grant; its outcome is the answer.
type (
	deed struct {
		grant string
		what  string // one of refresh, revoke and introspect
		gen   int64  // generation of the handle
	}
	outcome string // one of yes, no and unknown
)

const (
	yes     outcome = "yes"
	no      outcome = "no"
	unknown outcome = "unknown"
)

// standing is a grant in the model: the generation of its newest handle.
type standing struct {
	gen  int64
	dead bool
}

// familyModel is the rule of refresh handles: with a window that never ends, or without
// any. A request without an answer may have happened or not.
func familyModel(window bool) porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init: func() []any { return []any{standing{gen: 1}} },
		Step: func(state, input, output any) []any {
			s, d, o := state.(standing), input.(deed), output.(outcome)
			next, answer := s.after(d, window)
			switch {
			case o == unknown && next != s:
				return []any{s, next}
			case o == unknown || o == answer:
				return []any{next}
			}
			return nil
		},
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			parts := map[string][]porcupine.Operation{}
			for _, op := range history {
				grant := op.Input.(deed).grant
				parts[grant] = append(parts[grant], op)
			}
			var list [][]porcupine.Operation
			for _, part := range parts {
				list = append(list, part)
			}
			return list
		},
		Equal: func(a, b any) bool { return a == b },
	}
	return m.ToModel()
}

// after returns the state of a grant after a deed, and the answer to it.
func (s standing) after(d deed, window bool) (standing, outcome) {
	switch {
	case d.what == "revoke":
		return standing{s.gen, true}, yes
	case d.what == "introspect" && !s.dead && d.gen == s.gen:
		return s, yes
	case d.what == "introspect" || s.dead:
		return s, no
	case d.gen == s.gen:
		return standing{s.gen + 1, false}, yes
	case window && d.gen == s.gen-1:
		return s, yes
	}
	return standing{s.gen, true}, no
}

// The model accepts possible histories and refuses impossible ones.
func TestModelKnowsWhatAFamilyMayAnswer(t *testing.T) {
	refresh := func(gen int64, o outcome, call, end int64) porcupine.Operation {
		return porcupine.Operation{Input: deed{"g", "refresh", gen}, Output: o, Call: call, Return: end}
	}
	revoke := porcupine.Operation{Input: deed{"g", "revoke", 0}, Output: yes, Call: 50, Return: 60}
	for name, tt := range map[string]struct {
		window, want bool
		history      []porcupine.Operation
	}{
		"a line":                              {false, true, []porcupine.Operation{refresh(1, yes, 0, 10), refresh(2, yes, 20, 30)}},
		"one of two":                          {false, true, []porcupine.Operation{refresh(1, yes, 0, 10), refresh(1, no, 0, 10)}},
		"both of two":                         {false, false, []porcupine.Operation{refresh(1, yes, 0, 10), refresh(1, yes, 0, 10)}},
		"both of two, in the window":          {true, true, []porcupine.Operation{refresh(1, yes, 0, 10), refresh(1, yes, 0, 10)}},
		"alive after reuse":                   {false, false, []porcupine.Operation{refresh(1, yes, 0, 10), refresh(1, no, 20, 30), refresh(2, yes, 40, 50)}},
		"two behind, in the window":           {true, false, []porcupine.Operation{refresh(1, yes, 0, 10), refresh(2, yes, 20, 30), refresh(1, yes, 40, 50)}},
		"alive after revocation":              {true, false, []porcupine.Operation{revoke, refresh(1, yes, 70, 80)}},
		"refused before revocation":           {true, false, []porcupine.Operation{refresh(1, no, 0, 10), revoke}},
		"repeated after an unknown one":       {true, true, []porcupine.Operation{refresh(1, unknown, 0, math.MaxInt64), refresh(1, yes, 20, 30), refresh(2, yes, 40, 50)}},
		"ended by an unknown one":             {false, true, []porcupine.Operation{refresh(1, unknown, 0, math.MaxInt64), refresh(1, no, 20, 30)}},
		"generation from nowhere":             {true, false, []porcupine.Operation{refresh(2, yes, 0, 10)}},
		"active after it was used":            {true, false, []porcupine.Operation{refresh(1, yes, 0, 10), {Input: deed{"g", "introspect", 1}, Output: yes, Call: 20, Return: 30}}},
		"inactive although nothing was done":  {true, false, []porcupine.Operation{{Input: deed{"g", "introspect", 1}, Output: no, Call: 20, Return: 30}}},
		"introspected as what it will not be": {true, false, []porcupine.Operation{{Input: deed{"g", "introspect", 2}, Output: yes, Call: 20, Return: 30}}},
	} {
		if got := porcupine.CheckOperations(familyModel(tt.window), tt.history); got != tt.want {
			t.Errorf("%s: linearizable %v, want %v", name, got, tt.want)
		}
	}
}

// Several clients contend for each grant at all replicas, while replicas are killed and
// lose the database: the answers are those of one server that handles one request after
// the other.
func TestRefreshesAreLinearizable_M01(t *testing.T) {
	for name, setting := range map[string]string{"strict": "0s", "window": "1h"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, proxies := proxied(t, cluster.Options{MCP: 1, Env: []string{"SIGNET_REPLAY_WINDOW=" + setting, "SIGNET_LIMITS=off"}})
			seed := seedOf(t)
			n := &nemesis{run: newRun(t, start(t, o), time.Hour), seed: seed, random: rand.New(rand.NewPCG(seed, 0)), proxies: proxies}
			h := contend(t, n)
			result := porcupine.CheckOperationsTimeout(familyModel(name == "window"), h.ops, time.Minute)
			t.Logf("seed %d: %d grants, %d requests (%s), %d kills: %s", seed, h.grants, len(h.ops), h.outcomes(), n.kills.Load(), result)
			if result != porcupine.Ok {
				t.Errorf("the history is not linearizable: %s", result)
			}
			if len(n.broken) > 0 {
				t.Error(strings.Join(n.broken, "\n"))
			}
		})
	}
}

// history collects the requests of several clients.
type history struct {
	mu     sync.Mutex
	began  time.Time
	grants int
	ops    []porcupine.Operation
}

func (h *history) add(client int, d deed, o outcome, call time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	op := porcupine.Operation{ClientId: client, Input: d, Output: o, Call: call.Sub(h.began).Nanoseconds(), Return: time.Since(h.began).Nanoseconds()}
	if o == unknown {
		op.Return = math.MaxInt64
	}
	h.ops = append(h.ops, op)
}

func (h *history) outcomes() string {
	n := map[string]int{}
	for _, op := range h.ops {
		n[op.Input.(deed).what+" "+string(op.Output.(outcome))]++
	}
	var list []string
	for what, count := range n {
		list = append(list, fmt.Sprint(what, ": ", count))
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// contend runs clients and a nemesis for some seconds.
func contend(t *testing.T, n *nemesis) *history {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 12*time.Second)
	defer cancel()
	h := &history{began: time.Now()}
	n.began = h.began
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(n.seed, uint64(i)))
			for w := (&worker{run: n.run, random: random, who: demoPerson()}); ctx.Err() == nil; {
				if f, err := w.begin(ctx); err == nil && f.ended == "" && !f.unsure {
					h.fight(ctx, n.run, f, random)
				}
			}
		})
	}
	all.Go(func() {
		for ctx.Err() == nil {
			sleep(ctx, 1500*time.Millisecond)
			n.cut(pgtest.Reset, 50*time.Millisecond)
			sleep(ctx, 1500*time.Millisecond)
			n.kill()
		}
	})
	all.Wait()
	return h
}

// fight lets three clients use one grant until it has ended, or for a while.
func (h *history) fight(ctx context.Context, r *run, f *family, random *rand.Rand) {
	h.mu.Lock()
	h.grants++
	h.mu.Unlock()
	var mu sync.Mutex
	handles := []string{"", f.handle} // by generation
	seeds := []uint64{random.Uint64(), random.Uint64(), random.Uint64()}
	var all sync.WaitGroup
	for client, seed := range seeds {
		all.Go(func() {
			mine := rand.New(rand.NewPCG(seed, 0))
			for range 12 {
				if ctx.Err() != nil {
					return
				}
				sleep(ctx, time.Duration(mine.IntN(60))*time.Millisecond)
				mu.Lock()
				gen := int64(len(handles) - 1)
				if gen > 1 && mine.IntN(12) == 0 {
					gen--
				}
				handle := handles[gen]
				mu.Unlock()
				next := h.act(client, r, f, handle, gen, mine)
				mu.Lock()
				if next != "" && int(gen)+1 == len(handles) {
					handles = append(handles, next)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
}

// act sends one request and records the outcome.
func (h *history) act(client int, r *run, f *family, handle string, gen int64, random *rand.Rand) (next string) {
	base := append(urls(r.c.Auth), r.c.URL)[random.IntN(len(r.c.Auth)+1)]
	d, form, path := deed{f.name, "refresh", gen}, refreshForm(f.client, handle), "/token"
	switch n := random.IntN(30); {
	case n == 0:
		d.what, path, form = "revoke", "/revoke", url.Values{"token": {handle}, "client_id": {f.client.id}}
	case n < 8:
		d.what, path, form = "introspect", "/introspect", url.Values{"token": {handle}, "client_id": {f.client.id}}
	}
	call := time.Now()
	a := postForm(r.http, base+path, form)
	h.add(client, d, judge(d, a), call)
	if next = a.tokens().Refresh; next != "" {
		v, err := seal.Open[seal.Refresh](r.ring, next)
		if err != nil || v.Gen != gen+1 || v.Grant.ID != f.name {
			r.breach("INV3: generation %d of %s was answered to generation %d of %s (%v)", v.Gen, v.Grant.ID, gen, f.name, err)
		}
	}
	if a.ours() && a.status != 200 && a.status != 503 && a.error() != "invalid_grant" {
		r.breach("INV11: %s: %s", d.what, a.label())
	}
	return next
}

// judge translates an answer for the model.
func judge(d deed, a reply) outcome {
	switch {
	case !a.ours() || a.status == 503:
		return unknown
	case d.what == "introspect" && !strings.Contains(a.body, `"active":true`), a.error() == "invalid_grant":
		return no
	}
	return yes
}
