package users_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"signet/users"
)

// Two hundred logins at once cost the memory of a few.
func TestManyLoginsAtOnceTakeLittleMemory_C10(t *testing.T) {
	f, _ := newFile(t)
	const mib = 8
	f.UseParams(mib<<10, 1)
	f.SetLimit(2)
	add(t, f, "alice", "cows")
	hashes := f.Stats().Hashes
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)

	var good, busy atomic.Int64
	var slowestRefusal atomic.Int64
	var calls sync.WaitGroup
	for i := range 200 {
		calls.Go(func() {
			name := []string{"alice", "nobody"}[i%2]
			begin := time.Now()
			switch _, err := f.Check(t.Context(), name, "cows"); {
			case errors.Is(err, users.ErrBusy):
				busy.Add(1)
				slowestRefusal.Store(max(slowestRefusal.Load(), int64(time.Since(begin))))
			case err == nil || errors.Is(err, users.ErrInvalid):
				good.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	stop := make(chan struct{})
	var sampler sync.WaitGroup
	sampler.Go(func() {
		for {
			if s := f.Stats(); s.Running > s.Limit || s.Waiting > 8*s.Limit {
				t.Errorf("running %d, waiting %d, with a limit of %d", s.Running, s.Waiting, s.Limit)
			}
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			if grown := int64(now.HeapInuse) - int64(before.HeapInuse); grown > (2+1)*mib<<20+64<<20 {
				t.Errorf("the heap grew by %d MiB", grown>>20)
			}
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	calls.Wait()
	close(stop)
	sampler.Wait()
	if good.Load() < 2+8*2 || good.Load()+busy.Load() != 200 {
		t.Errorf("%d answered, %d refused, want at least %d answered of 200", good.Load(), busy.Load(), 2+8*2)
	}
	if took := time.Duration(slowestRefusal.Load()); took > 5*time.Second { // two in the queue
		t.Errorf("a refusal took %v", took)
	}
	if ran := f.Stats().Hashes - hashes; ran != uint64(good.Load()) {
		t.Errorf("%d hashes for %d answers: a refused call cost one", ran, good.Load())
	}
	if s := f.Stats(); s.Running != 0 || s.Waiting != 0 || s.Busy != uint64(busy.Load()) {
		t.Errorf("afterwards: %+v, want %d refused", s, busy.Load())
	}
}

func TestQueueOfLoginsIsBounded_C10(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := newFile(t)
		f.SetLimit(1)
		release := f.Occupy()
		results := make(chan error, 8)
		ctx, leave := context.WithCancel(t.Context())
		for i := range 8 {
			go func() {
				ctx := ctx
				if i > 0 {
					ctx = t.Context()
				}
				_, err := f.Check(ctx, "alice", "cows")
				results <- err
			}()
		}
		synctest.Wait()
		if s := f.Stats(); s.Running != 1 || s.Waiting != 8 {
			t.Fatalf("%+v, want 8 waiting", s)
		}
		check(t, f, "alice", "cows", users.ErrBusy)

		leave()
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("a caller that went away: %v", err)
		}
		if s := f.Stats(); s.Waiting != 7 {
			t.Errorf("%d wait, want 7", s.Waiting)
		}

		begin := time.Now()
		for range 7 {
			if err := <-results; !errors.Is(err, users.ErrBusy) {
				t.Errorf("a caller whose turn did not come: %v, want %v", err, users.ErrBusy)
			}
		}
		if took := time.Since(begin); took != 2*time.Second {
			t.Errorf("waited %v, want 2s", took)
		}
		if s := f.Stats(); s.Hashes != 0 || s.Waiting != 0 {
			t.Errorf("%+v, want no hash and no caller waiting", s)
		}
		release()
		check(t, f, "alice", "cows", users.ErrInvalid)
	})
}

// After a hash, a slot stays empty for the time that was asked for, but the caller has its
// answer at once.
func TestHashesRest(t *testing.T) {
	f, _ := newFile(t)
	f.UseParams(1<<10, 1)
	var asked atomic.Int64
	const pause = 100 * time.Millisecond
	f.RestAfter(func(took time.Duration) time.Duration {
		if took <= 0 {
			t.Errorf("a hash took %v", took)
		}
		asked.Add(1)
		return pause
	})
	f.SetLimit(1)
	begin := time.Now()
	check(t, f, "nobody", "cows", users.ErrInvalid)
	if s := f.Stats(); s.Running != 1 && time.Since(begin) < pause {
		t.Errorf("%+v: the slot does not rest", s)
	}
	check(t, f, "nobody", "cows", users.ErrInvalid)
	check(t, f, "nobody", "cows", users.ErrInvalid)
	if took := time.Since(begin); took < 2*pause || asked.Load() != 3 {
		t.Errorf("three hashes with two rests between took %v; %d rests", took, asked.Load())
	}
	for deadline := time.Now().Add(10 * time.Second); f.Stats().Running != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a slot is never given back")
		}
	}
}
