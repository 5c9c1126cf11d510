package backend_test

import (
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/backend"
)

// opened is a circuit breaker that has just opened.
func opened(t *testing.T) backend.Breaker {
	t.Helper()
	b := backend.NewBreaker(2, 2, time.Minute)
	for range 2 {
		b.Acquire()(backend.Bad)
	}
	if got := b.State(); got != "open" {
		t.Fatalf("the breaker is %s", got)
	}
	return b
}

// Only failures in a row open a circuit breaker.
func TestBreakerOpens_Row83(t *testing.T) {
	b := backend.NewBreaker(2, 2, time.Minute)
	for range 10 {
		b.Acquire()(backend.Bad)
		b.Acquire()(backend.None)
		b.Acquire()(backend.Good)
	}
	if got := b.State(); got != "closed" {
		t.Errorf("the breaker is %s", got)
	}
}

// However long it has been open and whoever was kept back, after its time one message at a time is
// let through, and two that go well close it.
func TestBreakerRecovers_Row83_Probe17(t *testing.T) {
	for _, wait := range []time.Duration{time.Minute, time.Hour, 1000 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			b := opened(t)
			for range 59 {
				if b.Acquire() != nil {
					t.Fatal("a message is let through")
				}
				time.Sleep(time.Second)
			}
			time.Sleep(wait)
			for range 2 {
				done := b.Acquire()
				if done == nil || b.Acquire() != nil {
					t.Fatalf("after %v not one message is let through", wait)
				}
				done(backend.Good)
			}
			if got := b.State(); got != "closed" {
				t.Errorf("the breaker is %s", got)
			}
		})
	}
}

// A trial that fails opens the breaker for the whole time again.
func TestBreakerTrialFails_Row83(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := opened(t)
		time.Sleep(time.Minute)
		b.Acquire()(backend.Bad)
		time.Sleep(time.Minute - time.Second)
		if b.Acquire() != nil {
			t.Error("a message is let through too early")
		}
		time.Sleep(time.Second)
		if b.Acquire() == nil {
			t.Error("no message is let through")
		}
	})
}

// A trial whose caller leaves says nothing, and the next message is the trial.
func TestBreakerTrialWithoutVerdict_Row83(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := opened(t)
		time.Sleep(time.Minute)
		for range 5 {
			b.Acquire()(backend.None)
		}
		for range 2 {
			b.Acquire()(backend.Good)
		}
		if got := b.State(); got != "closed" {
			t.Errorf("the breaker is %s", got)
		}
	})
}

// The verdict of a message that began before the breaker opened does not count afterwards.
func TestBreakerLateVerdict_Row83(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := backend.NewBreaker(2, 2, time.Minute)
		late := b.Acquire()
		for range 2 {
			b.Acquire()(backend.Bad)
		}
		time.Sleep(time.Minute)
		trial := b.Acquire()
		late(backend.Bad)
		if got := b.State(); got != "half-open" {
			t.Errorf("the breaker is %s", got)
		}
		trial(backend.Good)
		b.Acquire()(backend.Good)
		if got := b.State(); got != "closed" {
			t.Errorf("the breaker is %s", got)
		}
	})
}
