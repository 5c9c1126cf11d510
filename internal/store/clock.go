package store

import (
	"log/slog"
	"sync/atomic"
	"time"
)

// backwards is how far the wall clock may be behind the store before it is worth a
// warning.
const backwards = time.Minute

// clock is the wall clock made monotonic across restarts.
type clock struct {
	seen atomic.Int64 // latest time given out or persisted, Unix nanoseconds
}

// Now is the wall clock made monotonic across restarts: never before a time that it
// returned, or that the store has persisted. What was refused as expired stays refused
// when the clock is set back.
func (c *clock) Now() time.Time {
	now := time.Now()
	for {
		seen := c.seen.Load()
		if now.UnixNano() <= seen {
			return time.Unix(0, seen)
		}
		if c.seen.CompareAndSwap(seen, now.UnixNano()) {
			return now
		}
	}
}

// Behind is how far the wall clock is behind [Store.Now]: more than zero after the
// clock was set back.
func (c *clock) Behind() time.Duration {
	return max(0, time.Duration(c.seen.Load()-time.Now().UnixNano()))
}

// takeUp makes Now go on from a time that this or another server has persisted, in
// Unix milliseconds.
func (c *clock) takeUp(ms int64) {
	for ns := ms * int64(time.Millisecond); ; {
		old := c.seen.Load()
		if ns <= old || c.seen.CompareAndSwap(old, ns) {
			return
		}
	}
}

// clockIsBehind is the message when that is more than backwards.
const clockIsBehind = "the clock is behind the store: times go on from the store's"

func (c *clock) warnBehind(name string, log *slog.Logger) {
	if d := c.Behind(); d > backwards {
		log.Warn(clockIsBehind, "store", name, "behind", d)
	}
}
