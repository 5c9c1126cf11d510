package backend

import (
	"io"
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

// ReadAnswer reads the answer to the request with an id, and reports whether it is one.
func ReadAnswer(data []byte, id uint64, method string) (Answer, bool) {
	h, wrong := hear(data)
	if wrong != "" || h.method != "" {
		return Answer{}, false
	}
	a, wrong := h.answers(id, method)
	return a, wrong == ""
}

// ReadEvent returns the data of the first event of a stream.
func ReadEvent(r io.Reader) string {
	e := newEvents(r, 100, func() {})
	defer e.close()
	data, _ := e.next()
	return string(data)
}

// ReadEvents returns the data of the events of a stream, up to the first error.
func ReadEvents(r io.Reader, most int) (list []string) {
	e := newEvents(r, most, func() {})
	defer e.close()
	for {
		data, err := e.next()
		if err != nil {
			return list
		}
		list = append(list, string(data))
	}
}
