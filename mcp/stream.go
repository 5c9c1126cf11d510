package mcp

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"signet/jwt"
)

// watchEvery is how often the grants of open streams are checked.
const watchEvery = time.Second

// streams are the requests whose answers may outlast the revocation of their grant. One
// timer checks all of them, and runs only while there are any: a request costs two short
// locks.
type streams struct {
	verifier *jwt.Verifier

	mu    sync.Mutex
	open  stream // head of a ring: next is the first stream
	timer *time.Timer
	armed bool // whether timer will call look
}

// stream is one request of streams, and the context of its answer. Most handlers never ask
// when their context ends, so what can end is made when one does.
type stream struct {
	context.Context // of the request
	next, prev      *stream
	claims          *jwt.Claims
	listens         bool      // whether it lasts until one side hangs up, so that nothing is lost if it begins anew
	until           time.Time // when it ends at the latest, if it listens

	mu     sync.Mutex
	over   bool
	own    context.Context // nil until it is asked for
	cancel context.CancelFunc
}

// ending returns the context that ends with the stream.
func (one *stream) ending() context.Context {
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.own == nil {
		if one.listens {
			one.own, one.cancel = context.WithDeadline(one.Context, one.until)
		} else {
			one.own, one.cancel = context.WithCancel(one.Context)
		}
		if one.over {
			one.cancel()
		}
	}
	return one.own
}

func (one *stream) end() {
	one.mu.Lock()
	defer one.mu.Unlock()
	one.over = true
	if one.cancel != nil {
		one.cancel()
	}
}

func (one *stream) Deadline() (time.Time, bool) { return one.ending().Deadline() }
func (one *stream) Done() <-chan struct{}       { return one.ending().Done() }
func (one *stream) Err() error                  { return one.ending().Err() }

// Value asks the context that ends, if there is one: contexts derived from it find it so.
func (one *stream) Value(key any) any {
	one.mu.Lock()
	own := one.own
	one.mu.Unlock()
	if own == nil {
		own = one.Context
	}
	return own.Value(key)
}

func newStreams(v *jwt.Verifier) *streams {
	s := &streams{verifier: v}
	s.open.next, s.open.prev = &s.open, &s.open
	return s
}

// watch makes one the context of the answer to r, which ends when the grant of claims is
// revoked and, if it listens until one side hangs up, also when claims are no longer accepted.
// The caller passes it to done when r has been answered.
func (s *streams) watch(one *stream, r *http.Request, claims *jwt.Claims, listens bool) {
	one.Context, one.claims, one.listens = r.Context(), claims, listens
	if listens {
		one.until = s.verifier.AcceptedUntil(claims)
	}
	s.add(one)
}

func (s *streams) done(one *stream) {
	s.remove(one)
	one.end()
}

func (s *streams) add(one *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one.next, one.prev = s.open.next, &s.open
	one.next.prev, one.prev.next = one, one
	switch {
	case s.armed:
		return
	case s.timer == nil:
		s.timer = time.AfterFunc(watchEvery, s.look)
	default:
		s.timer.Reset(watchEvery)
	}
	s.armed = true
}

func (s *streams) remove(one *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one.prev.next, one.next.prev = one.next, one.prev
}

// endAll ends the streams that last until one side hangs up. Calls go on.
func (s *streams) endAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for one := s.open.next; one != &s.open; one = one.next {
		if one.listens {
			one.end()
		}
	}
}

// look ends the streams whose token would now be refused, and runs again after watchEvery
// if any stream is open.
func (s *streams) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.armed = s.open.next != &s.open; s.armed {
		s.timer.Reset(watchEvery)
	}
	now := time.Now()
	for one := s.open.next; one != &s.open; one = one.next {
		// A running call is cut off only if its grant is known to be revoked.
		if err := s.verifier.CheckGrant(one.claims, now); err == jwt.ErrRevoked || err != nil && one.listens {
			one.end()
		}
	}
}

// isStream reports whether r opens a stream that lasts until one side hangs up.
func isStream(r *http.Request) bool {
	return r.Method == http.MethodGet && acceptsEvents(r)
}

// mayStream reports whether the answer to r may be a stream of events. The answer to the
// call of a tool may be one.
func mayStream(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodPost) && acceptsEvents(r)
}

func acceptsEvents(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "text/event-stream")
}
