package throttle

import (
	"hash/maphash"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/go-chi/httprate"
)

// window is the time that a limit of requests is for.
const window = time.Minute

// Requests limits how many requests with one key a process takes in the last minute. A
// nil Requests has no limit.
type Requests struct {
	rate  *httprate.RateLimiter
	limit int
	none  *http.Request // an empty request, for the library
}

// NewRequests returns a limit of requests a minute for each key. It counts in a table of
// that many places.
func NewRequests(limit, places int) *Requests {
	// Without headers: clients need not know how much of the limit is left.
	rate := httprate.NewRateLimiter(limit, window, httprate.WithLimitCounter(newCounter(places)), httprate.WithResponseHeaders(httprate.ResponseHeaders{}))
	return &Requests{rate: rate, limit: limit, none: new(http.Request)}
}

// Take counts a request, or refuses it with a [TooManyError] and counts nothing.
func (r *Requests) Take(key string) error {
	if r != nil && r.rate.OnLimit(nil, r.none, key) {
		return &TooManyError{RetryAfter: window}
	}
	return nil
}

// Full returns the error that Take would return now, and counts nothing.
func (r *Requests) Full(key string) error {
	if r == nil {
		return nil
	}
	if _, rate, err := r.rate.Status(key); err == nil && int(math.Round(rate))+1 > r.limit {
		return &TooManyError{RetryAfter: window}
	}
	return nil
}

// counter is the table in which a limit keeps its numbers. Its size is fixed, so that a
// flood from ever new addresses takes no memory. Keys that fall into the same place are
// counted together, which is unlikely, and no caller can choose it. The table is made
// with the first request that is counted: an unused limit takes no memory.
type counter struct {
	seed   maphash.Seed
	places int

	mu                sync.Mutex
	latest            time.Time // beginning of the window that current counts
	current, previous []uint32
}

func newCounter(places int) *counter { return &counter{seed: maphash.MakeSeed(), places: places} }

// Config does nothing: this counter does not need to know the limit.
func (c *counter) Config(int, time.Duration) {}

// Increment counts one request.
func (c *counter) Increment(key string, now time.Time) error { return c.IncrementBy(key, now, 1) }

// IncrementBy counts n requests in the window that begins at now.
func (c *counter) IncrementBy(key string, now time.Time, n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil {
		c.current, c.previous = make([]uint32, c.places), make([]uint32, c.places)
	}
	c.turn(now)
	c.current[c.place(key)] += uint32(n)
	return nil
}

// Get returns the counts of the window that begins at now, and of the one before.
func (c *counter) Get(key string, now, _ time.Time) (current, previous int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil {
		return 0, 0, nil
	}
	c.turn(now)
	i := c.place(key)
	return int(c.current[i]), int(c.previous[i]), nil
}

func (c *counter) place(key string) uint64 { return maphash.String(c.seed, key) % uint64(c.places) }

// turn makes room for the window that begins at now. If the clock was set back, the
// latest window goes on.
func (c *counter) turn(now time.Time) {
	if !now.After(c.latest) {
		return
	}
	c.current, c.previous = c.previous, c.current
	clear(c.current)
	if now.Sub(c.latest) > window {
		clear(c.previous)
	}
	c.latest = now
}
