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

// stream is one request of streams.
type stream struct {
	next, prev *stream
	claims     *jwt.Claims
	listens    bool // whether it lasts until one side hangs up, so that nothing is lost if it begins anew
	end        context.CancelFunc
}

func newStreams(v *jwt.Verifier) *streams {
	s := &streams{verifier: v}
	s.open.next, s.open.prev = &s.open, &s.open
	return s
}

// watch returns a context for the answer to r that ends when the grant of claims is revoked
// and, if r listens until one side hangs up, also when claims are no longer accepted. The
// caller passes the stream to done when r has been answered.
func (s *streams) watch(r *http.Request, claims *jwt.Claims, listens bool) (context.Context, *stream) {
	var ctx context.Context
	one := &stream{claims: claims, listens: listens}
	if listens {
		ctx, one.end = context.WithDeadline(r.Context(), s.verifier.AcceptedUntil(claims))
	} else {
		ctx, one.end = context.WithCancel(r.Context())
	}
	s.add(one)
	return ctx, one
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
