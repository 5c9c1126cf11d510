package backend

import (
	"time"

	"signet/internal/gatewayconfig"
)

// Breaker lets tests give verdicts to a circuit breaker.
type Breaker struct{ b *breaker }

// NewBreaker returns a circuit breaker.
func NewBreaker(failures, successes int, recovery time.Duration) Breaker {
	r := gatewayconfig.Routing{FailureThreshold: failures, SuccessThreshold: successes, Recovery: recovery}
	return Breaker{newBreaker(r, func(string) {})}
}

// Verdicts of messages.
const (
	None = none
	Good = good
	Bad  = bad
)

// Acquire lets a message through, which calls the function with its verdict, or returns nil.
func (b Breaker) Acquire() func(verdict) {
	p, ok := b.b.acquire()
	if !ok {
		return nil
	}
	return func(v verdict) { b.b.done(p, v) }
}

// State is closed, open or half-open.
func (b Breaker) State() string {
	s, _ := b.b.state()
	return s
}
