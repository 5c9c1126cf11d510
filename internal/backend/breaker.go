package backend

import (
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"

	"signet/internal/gatewayconfig"
)

// breaker keeps messages away from an instance that fails. When it has been open for a while, one
// message at a time tries the instance out. What it counts are messages, however often they were
// repeated.
type breaker struct {
	mu sync.Mutex
	cb circuitbreaker.CircuitBreaker[any]

	changes int  // of the state so far
	trial   bool // a message tries the instance out
	spare   bool // a trial ended without a verdict: the next one needs no permit
}

// permit lets one message through.
type permit struct {
	changes int // of the state when it was given
	trial   bool
}

// verdict is what a message says of an instance.
type verdict int

const (
	none verdict = iota // such as when the caller has left
	good
	bad
)

func newBreaker(r gatewayconfig.Routing, changed func(to string)) *breaker {
	b := &breaker{}
	b.cb = circuitbreaker.NewBuilder[any]().
		WithFailureThreshold(uint(r.FailureThreshold)).
		WithSuccessThreshold(uint(r.SuccessThreshold)).
		WithDelay(r.Recovery).
		OnStateChanged(func(e circuitbreaker.StateChangedEvent) { // mu is held
			b.changes, b.trial, b.spare = b.changes+1, false, false
			changed(e.NewState.String())
		}).Build()
	return b
}

func (b *breaker) acquire() (permit, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cb.IsClosed() {
		return permit{changes: b.changes}, true
	}
	if b.trial || !b.spare && !b.cb.TryAcquirePermit() {
		return permit{}, false
	}
	b.trial, b.spare = true, false
	return permit{changes: b.changes, trial: true}, true
}

// done takes the verdict of a message. It does not count if the state has changed since.
func (b *breaker) done(p permit, v verdict) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.changes != b.changes {
		return
	}
	if p.trial {
		b.trial, b.spare = false, v == none
	}
	switch v {
	case good:
		b.cb.RecordSuccess()
	case bad:
		b.cb.RecordFailure()
	}
}

// state is closed, open or half-open, and the time until the next trial.
func (b *breaker) state() (string, time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cb.State().String(), b.cb.RemainingDelay()
}

func (b *breaker) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cb.Close()
}
