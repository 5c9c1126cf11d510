package admission_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/admission"
)

// fill takes all slots of c, after requests that held them for an hour.
func fill(t *testing.T, c *admission.Class) (taken []admission.Slot) {
	t.Helper()
	for range 2 {
		for range c.Stats().Slots {
			taken = append(taken, enter(t, c))
		}
		if len(taken) > c.Stats().Slots {
			break
		}
		time.Sleep(time.Hour)
		for _, s := range taken {
			s.Leave()
		}
	}
	return taken[c.Stats().Slots:]
}

func enter(t *testing.T, c *admission.Class) admission.Slot {
	t.Helper()
	s, err := c.Enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantDoor(t *testing.T, c *admission.Class, open bool) {
	t.Helper()
	if err := c.Door(t.Context()); (err == nil) != open || err != nil && !errors.Is(err, admission.ErrFull) {
		t.Errorf("the door of %s says %v, want open %t", c.Stats().Class, err, open)
	}
}

// It closes only if the next request would wait too long, and opens with the first free
// slot.
func TestDoorClosesWhenAllSlotsAreTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []*admission.Class{admission.New().Refresh, admission.NewClass("own", 2)} {
			wantDoor(t, c, true)
			taken := fill(t, c)
			wantDoor(t, c, false)
			begin := time.Now()
			if _, err := c.Enter(t.Context()); !errors.Is(err, admission.ErrFull) || time.Since(begin) > 0 {
				t.Errorf("entering gave %v after %v, want %v at once", err, time.Since(begin), admission.ErrFull)
			}
			taken[0].Leave()
			wantDoor(t, c, true)
			enter(t, c)
			wantDoor(t, c, false)
			if s := c.Stats(); s.Running != s.Slots || s.Waiting != 0 || s.Refused != 3 || s.Admitted != uint64(2*s.Slots+1) {
				t.Errorf("%+v", s)
			}
		}
	})
}

// A burst waits if slots are held for a short time only.
func TestBurstWaitsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := admission.New().Refresh
		slots := c.Stats().Slots
		const waits = 900
		var mu sync.Mutex
		var order []int
		var calls sync.WaitGroup
		for i := range slots + waits {
			time.Sleep(time.Microsecond)
			wantDoor(t, c, true)
			calls.Go(func() {
				s := enter(t, c)
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				time.Sleep(10 * time.Millisecond)
				s.Leave()
			})
		}
		synctest.Wait()
		if s := c.Stats(); s.Running != slots || s.Waiting != waits {
			t.Errorf("%+v, want %d running and %d waiting", s, slots, waits)
		}
		calls.Wait()
		for i, n := range order {
			if i != n {
				t.Fatalf("number %d was the %dth", n, i)
			}
		}
		if s := c.Stats(); s.Running != 0 || s.Waiting != 0 || s.Refused != 0 {
			t.Errorf("afterwards: %+v", s)
		}
	})
}

// A request whose client has gone while it waited leaves its slot to the next one.
func TestGoneClientGetsNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := admission.New().Refresh
		var held []admission.Slot
		for range c.Stats().Slots {
			held = append(held, enter(t, c))
		}
		ctx, leave := context.WithCancel(t.Context())
		gone, next := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := c.Enter(ctx)
			gone <- err
		}()
		synctest.Wait()
		go func() {
			_, err := c.Enter(t.Context())
			next <- err
		}()
		synctest.Wait()
		leave()
		held[0].Leave()
		if err := <-gone; !errors.Is(err, admission.ErrFull) || !errors.Is(err, context.Canceled) {
			t.Errorf("the client that has gone: %v, want ErrFull and the context's error", err)
		}
		if err := <-next; err != nil {
			t.Errorf("the next one: %v", err)
		}
	})
}

// Requests that wait too long are refused.
func TestQueueIsBounded_INV20(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := admission.New().Refresh
		for range c.Stats().Slots {
			enter(t, c)
		}
		ctx, leave := context.WithCancel(t.Context())
		const comes, waits = 1060, 1024
		results := make(chan error, comes)
		for i := range comes {
			ctx := ctx
			if i > 0 {
				ctx = t.Context()
			}
			go func() {
				_, err := c.Enter(ctx)
				results <- err
			}()
		}
		synctest.Wait()
		if s := c.Stats(); s.Waiting != waits || len(results) != comes-waits {
			t.Errorf("%d wait and %d are refused, want %d and %d", s.Waiting, len(results), waits, comes-waits)
		}
		wantDoor(t, c, false)
		leave()
		begin := time.Now()
		for range comes {
			if err := <-results; !errors.Is(err, admission.ErrFull) {
				t.Fatalf("got %v, want %v", err, admission.ErrFull)
			}
		}
		if took := time.Since(begin); took != 120*time.Millisecond {
			t.Errorf("the last request waited %v, want 120 ms", took)
		}
		if s := c.Stats(); s.Waiting != 0 {
			t.Errorf("afterwards: %+v", s)
		}
	})
}

// Where more requests come than are served for a while, few wait. After a pause many may.
func TestOnlyABurstFillsTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []*admission.Class{admission.New().Refresh, admission.New().Revoke} {
			usual := min(1024, 32*runtime.GOMAXPROCS(0))
			for _, after := range []struct {
				pause time.Duration
				waits int
			}{{0, 1024}, {0, usual}, {time.Second, usual + 256}, {0, usual}, {4 * time.Second, 1024}} {
				time.Sleep(after.pause)
				var held []admission.Slot
				for range c.Stats().Slots {
					held = append(held, enter(t, c))
				}
				ctx, leave := context.WithCancel(t.Context())
				var calls sync.WaitGroup
				for range 1060 {
					calls.Go(func() {
						if s, err := c.Enter(ctx); err == nil {
							s.Leave()
						}
					})
				}
				synctest.Wait()
				if got, want := c.Stats().Waiting, min(1024, after.waits); got != want {
					t.Errorf("%s: %d wait %v after the requests before, want %d", c.Stats().Class, got, after.pause, want)
				}
				leave() // refusals do not wait for their turn any longer
				if err := c.Door(ctx); !errors.Is(err, admission.ErrFull) {
					t.Errorf("%s: the door says %v, want %v", c.Stats().Class, err, admission.ErrFull)
				}
				for _, s := range held {
					s.Leave()
				}
				calls.Wait()
				synctest.Wait() // until the slots that were kept in the burst are free
			}
		}
	})
}

// After slots were held for long, as in an outage of the store, a moment of normal service
// is enough to admit a burst again.
func TestBurstIsTakenAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := admission.New().Refresh
		for _, s := range fill(t, c) {
			time.Sleep(3 * time.Second)
			s.Leave()
		}
		for range 200 {
			s := enter(t, c)
			time.Sleep(time.Millisecond)
			s.Leave()
		}
		for range c.Stats().Slots {
			enter(t, c)
		}
		wantDoor(t, c, true)
	})
}

// A full class leaves the others open, except registration, which comes after all others.
func TestRegistrationIsShedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		classes := admission.New()
		for _, c := range []*admission.Class{classes.Revoke, classes.Refresh, classes.Introspect, classes.Code, classes.Pages} {
			var taken []admission.Slot
			for range c.Stats().Slots {
				taken = append(taken, enter(t, c))
			}
			for _, other := range classes.All() {
				wantDoor(t, other, true)
			}
			go func() {
				if s, err := c.Enter(t.Context()); err == nil {
					s.Leave()
				}
			}()
			synctest.Wait()
			for _, other := range classes.All() {
				wantDoor(t, other, other != classes.Register)
			}
			for _, s := range taken {
				s.Leave()
			}
			synctest.Wait()
			wantDoor(t, classes.Register, true)
		}
	})
}

// Password hashes beside many requests with a credential leave them three quarters of the time,
// and beside fewer less. Where there are none, hashes follow one another.
func TestHashesRestWhileCredentialsAreUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		classes := admission.New()
		const took = 20 * time.Millisecond
		many := 150 * runtime.GOMAXPROCS(0) // in 100 ms
		wantRest := func(requests int, c *admission.Class, want time.Duration) {
			t.Helper()
			classes.Rest(took)
			for range requests {
				c.Known()
			}
			time.Sleep(100 * time.Millisecond)
			for _, when := range []string{"after", "soon after"} { // hashes on other cores end as well
				if got := classes.Rest(took); (got - want).Abs() > time.Microsecond {
					t.Errorf("%s %d requests of %s in 100 ms: a rest of %v after %v, want %v", when, requests, c.Stats().Class, got, took, want)
				}
				time.Sleep(time.Millisecond)
			}
			time.Sleep(100 * time.Millisecond)
			if got := classes.Rest(took); got != 0 {
				t.Errorf("after 100 ms without requests of %s: a rest of %v, want none", c.Stats().Class, got)
			}
		}
		for _, c := range []*admission.Class{classes.Pages, classes.Login, classes.Register} {
			wantRest(many, c, 0)
		}
		for _, c := range []*admission.Class{classes.Revoke, classes.Refresh, classes.Introspect, classes.Code, classes.MCP} {
			wantRest(2*many, c, 3*took)
			wantRest(many, c, 3*took)
			wantRest(many*17/30, c, 3*took/2) // halfway between few and many
			wantRest(many/10, c, 0)
			wantRest(0, c, 0)
		}
	})
}

func TestRequestWithoutClassIsNeverRefused(t *testing.T) {
	var c *admission.Class
	wantNil := c.Door(t.Context())
	s, err := c.Enter(t.Context())
	if wantNil != nil || err != nil {
		t.Errorf("got %v and %v, want nothing", wantNil, err)
	}
	c.Known()
	c.Yield(t.Context())
	s.Leave()
}

func BenchmarkAdmission(b *testing.B) {
	c := admission.New().Refresh
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if c.Door(b.Context()) != nil {
				b.Fatal("closed")
			}
			s, err := c.Enter(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			s.Leave()
		}
	})
}

// A few refusals do not wait, many are spread, so that they take only a share of the core.
// A refusal does not wait for a client that has gone, and none waits longer than 5 s.
func TestRefusalsAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		classes := admission.New()
		c := classes.MCP // without a queue
		for range c.Stats().Slots {
			enter(t, c)
		}
		const per = 250
		cores := runtime.GOMAXPROCS(0)
		comes := 6 * per * cores // more than five seconds' worth
		took := make(chan time.Duration, comes)
		begin := time.Now()
		for range comes {
			go func() {
				wantDoor(t, c, false)
				took <- time.Since(begin)
			}()
		}
		synctest.Wait()
		if n := len(took); n < 50 || n > comes/10 {
			t.Errorf("%d of %d were refused at once", n, comes)
		}
		atOnce := len(took)
		time.Sleep(time.Second)
		if n := len(took) - atOnce; n < per*cores*9/10 || n > per*cores*11/10 {
			t.Errorf("%d were refused in the first second, want about %d", n, per*cores)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.Door(ctx); !errors.Is(err, admission.ErrFull) || time.Since(begin) > time.Second {
			t.Errorf("the door for a client that has gone says %v, want %v at once", err, admission.ErrFull)
		}
		time.Sleep(4100 * time.Millisecond)
		if len(took) != comes {
			t.Errorf("%d of %d wait for longer than 5 s", comes-len(took), comes)
		}
	})
}

// Requests that anybody may send are spread while credentials are in use, whatever endpoint
// and answer they have. Otherwise they run as they come.
func TestRequestsWithoutCredentialAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		classes := admission.New()
		ways := []func(){
			func() { wantDoor(t, classes.Pages, true) },
			func() { wantDoor(t, classes.Register, true) },
			func() { classes.Yield(t.Context()) },
			func() { classes.MCP.Yield(t.Context()) },
		}
		const each = 1000
		ask := func() time.Duration {
			t.Helper()
			begin := time.Now()
			var asks sync.WaitGroup
			for _, way := range ways {
				for range each {
					asks.Go(way)
				}
			}
			asks.Wait()
			return time.Since(begin)
		}
		if took := ask(); took != 0 {
			t.Errorf("without a request that has a credential they waited %v", took)
		}
		for _, c := range classes.All() {
			enter(t, c).Leave()
		}
		if took := ask(); took != 0 {
			t.Errorf("beside requests whose credentials are not valid they waited %v", took)
		}
		for _, c := range []*admission.Class{classes.Revoke, classes.Refresh, classes.Introspect, classes.Code, classes.MCP} {
			c.Known()
			want := time.Duration(len(ways)*each) * time.Second / time.Duration(3000*runtime.GOMAXPROCS(0))
			if took := ask(); took < want*9/10 || took > want {
				t.Errorf("beside %s they took %v, want about %v", c.Stats().Class, took, want)
			}
			time.Sleep(time.Second)
			if took := ask(); took != 0 {
				t.Errorf("a second after %s they waited %v", c.Stats().Class, took)
			}
		}
		begin := time.Now()
		classes.Refresh.Known()
		for _, c := range classes.All() {
			if c != classes.Pages && c != classes.Register {
				for range each {
					wantDoor(t, c, true)
				}
			}
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("other requests waited %v", took)
		}
	})
}

// What is in memory for everybody has turns of its own, which get little slower on busy cores.
// However many ask, none waits so long that a probe of health fails.
func TestPublicAnswersHaveTurnsOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		classes := admission.New()
		classes.Refresh.Known()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for range 100_000 {
			go classes.Refuse(ctx)
		}
		synctest.Wait()
		gap := time.Second / time.Duration(5000*runtime.GOMAXPROCS(0))
		ask := func(times int) time.Duration {
			begin := time.Now()
			for range times {
				classes.Public(t.Context())
			}
			return time.Since(begin)
		}
		if took, want := ask(550), 500*gap; took < want-gap || took > want {
			t.Errorf("beside a flood of refusals, 550 answers took %v, want about %v", took, want)
		}
		classes.PublicFired(time.Second)
		classes.Refresh.Known()
		if took, want := ask(500), 2*500*gap; took < want*9/10 || took > want {
			t.Errorf("on busy cores, 500 answers took %v, want about %v", took, want)
		}
		classes.Refresh.Known()
		begin := time.Now()
		var all sync.WaitGroup
		for range 20_000 * runtime.GOMAXPROCS(0) {
			all.Go(func() { classes.Public(t.Context()) })
		}
		all.Wait()
		if took, want := time.Since(begin), 500*time.Millisecond; took != want {
			t.Errorf("many answers at once took %v, want %v", took, want)
		}
	})
}

// Turns get slower while timers are late, which shows that the cores are busy.
func TestTurnsGetSlowerOnBusyCores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const gap = time.Millisecond
		for late, want := range map[time.Duration]time.Duration{0: gap, time.Millisecond: 2 * gap, 4 * time.Millisecond: 5 * gap, time.Second: 16 * gap} {
			p := admission.NewPace(gap)
			for range 1000 {
				p.Fired(late)
			}
			for range 51 { // the burst
				p.Wait(t.Context())
			}
			begin := time.Now()
			p.Wait(t.Context())
			if took := time.Since(begin); took < want*9/10 || took > want {
				t.Errorf("timers are %v late: a turn every %v, want %v", late, took, want)
			}
		}
	})
}
