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
func TestC10_ManyLoginsAtOnce(t *testing.T) {
	f, _ := newFile(t)
	const mib = 8
	f.UseParams(mib<<10, 1)
	f.SetLimit(2)
	add(t, f, "alice", "cows")
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
		t.Errorf("%d answered, %d turned away, want at least %d answered of 200", good.Load(), busy.Load(), 2+8*2)
	}
	if took := time.Duration(slowestRefusal.Load()); took > time.Second {
		t.Errorf("turning away took %v", took)
	}
	if s := f.Stats(); s.Running != 0 || s.Waiting != 0 || s.Busy != uint64(busy.Load()) {
		t.Errorf("afterwards: %+v, want %d turned away", s, busy.Load())
	}
}

func TestC10_QueueIsBounded(t *testing.T) {
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
			t.Errorf("%+v, want no hash and nobody waiting", s)
		}
		release()
		check(t, f, "alice", "cows", users.ErrInvalid)
	})
}

// While something more important waits for a core, hashes leave it most of the time;
// whoever had the last one gets the answer at once all the same.
func TestHashesYield(t *testing.T) {
	f, _ := newFile(t)
	f.UseParams(8<<10, 1)
	pressed := false
	f.YieldWhile(func() bool { return pressed })
	f.SetLimit(1)
	took := func(n int) time.Duration {
		begin := time.Now()
		for range n {
			check(t, f, "nobody", "cows", users.ErrInvalid)
		}
		return time.Since(begin)
	}
	took(1)
	alone := took(10)
	pressed = true
	if yielding := took(10); yielding < 5*alone/2 {
		t.Errorf("ten hashes take %v while others wait, %v alone: want four times as long, about", yielding, alone)
	}
	eventually := time.Now().Add(10 * time.Second)
	for f.Stats().Running != 0 {
		if time.Now().After(eventually) {
			t.Fatal("a slot is never given back")
		}
		time.Sleep(time.Millisecond)
	}
}
