package denylist_test

import (
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signet/internal/denylist"
	"signet/internal/test/storetest"
)

var (
	steps = flag.Int("steps", 30_000, "random steps of the model test on SQLite; a tenth of them on PostgreSQL")
	seed  = flag.Uint64("seed", 0, "its seed (default random)")
)

// reference is the rule once more, as the history of one family rather than as a row:
// which handle is valid, and when its predecessor was spent.
type reference struct {
	begun, dead  bool
	valid        int64     // generation of the valid handle
	lastSpentAt  time.Time // when generation valid-1 was spent, in whole milliseconds
	end          time.Time
	replayWindow time.Duration
}

func (r *reference) use(gen int64, now time.Time) (int64, error) {
	now = now.Truncate(time.Millisecond)
	if now.Before(r.lastSpentAt) {
		now = r.lastSpentAt
	}
	if r.dead || !now.Before(r.end) {
		return 0, denylist.ErrRevoked
	}
	if !r.begun {
		if gen != 0 {
			return 0, denylist.ErrRolledBack
		}
		r.begun, r.valid, r.lastSpentAt = true, 1, now
		return 1, nil
	}
	if gen > r.valid {
		return 0, denylist.ErrRolledBack
	}
	if gen == r.valid {
		r.valid, r.lastSpentAt = gen+1, now
		return r.valid, nil
	}
	if gen == r.valid-1 && gen != 0 && r.replayWindow != 0 && now.Sub(r.lastSpentAt) <= r.replayWindow {
		return r.valid, nil
	}
	r.dead = true
	return 0, denylist.ErrReused
}

// walker takes random steps with one grant after another.
type walker struct {
	rand         *rand.Rand
	list         *denylist.List
	epoch        string
	now          time.Time
	replayWindow time.Duration

	grant denylist.Grant
	model reference
	age   int
}

func (w *walker) begin() {
	w.grant = grantAt(w.now)
	w.model = reference{end: time.Unix(w.grant.Expires, 0), replayWindow: w.replayWindow}
	w.age = 0
}

// step does the same to list and model, and reports whether they agree.
func (w *walker) step(t *testing.T) bool {
	switch w.rand.IntN(12) {
	case 0:
		w.now = w.now.Add(time.Duration(w.rand.Int64N(int64(2*window) + 1)))
	case 1:
		w.now = w.now.Add(-time.Duration(w.rand.Int64N(int64(window))))
	case 2: // exactly at the edge of the window
		w.now = w.model.lastSpentAt.Add(window + time.Duration(w.rand.IntN(3)-1)*time.Millisecond)
		if w.model.lastSpentAt.IsZero() {
			w.now = time.Now()
		}
	case 3:
		if w.rand.IntN(20) == 0 {
			w.now = w.model.end.Add(time.Duration(w.rand.IntN(3)-1) * time.Millisecond)
		}
	}
	if w.rand.IntN(60) == 0 {
		w.model.dead = true
		if err := patient(func() error { return w.list.Revoke(context.Background(), w.grant, w.now) }); err != nil {
			t.Errorf("revoking: %v", err)
			return false
		}
	}
	gen := w.model.valid
	switch n := w.rand.IntN(20); {
	case n < 4:
		gen--
	case n == 4 && w.rand.IntN(4) == 0:
		gen = w.rand.Int64N(w.model.valid + 3)
	}
	gen = max(gen, 0)
	before := w.model
	want, wantErr := w.model.use(gen, w.now)
	var got int64
	err := patient(func() (err error) {
		got, err = w.list.Use(context.Background(), w.epoch, w.grant, gen, w.now)
		return err
	})
	if got != want || !errors.Is(err, wantErr) || wantErr == nil && err != nil {
		t.Errorf("generation %d at %v of %+v: got %d, %v; want %d, %v", gen, w.now, before, got, err, want, wantErr)
		return false
	}
	if w.age++; w.age > 40 || w.model.dead && w.rand.IntN(3) == 0 || w.now.After(w.model.end) {
		w.now = time.Now()
		w.begin()
	}
	return true
}

// The list and the reference agree on every one of many random steps.
func TestRuleEqualsReference(t *testing.T) { storetest.Each(t, testRuleEqualsReference) }

func testRuleEqualsReference(t *testing.T, e storetest.Engine) {
	n := *steps
	if e == storetest.PostgreSQL {
		n /= 10
	}
	first := *seed
	if first == 0 {
		first = rand.Uint64()
	}
	t.Logf("%d steps, -seed %d", n, first)
	s := fastStoreOn(t, e, keepEpoch)
	const walkers = 128
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(n))
	lists := []*denylist.List{listOn(t, s, window), listOn(t, s, 0)}
	for i := range walkers {
		wg.Go(func() {
			w := walker{rand: rand.New(rand.NewPCG(first, uint64(i))), list: lists[i%2], epoch: s.Epoch(), now: time.Now()}
			w.replayWindow = []time.Duration{window, 0}[i%2]
			w.begin()
			for left.Add(-1) >= 0 && !t.Failed() {
				if !w.step(t) {
					return
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%+v %+v", lists[0].Stats(), lists[1].Stats())
}
