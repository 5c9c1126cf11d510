package store

import (
	"log/slog"
	"sync"
	"time"
)

const (
	// backwards is how far the wall clock may be behind the store before it is worth a
	// warning.
	backwards = time.Minute

	// maxLeap is how far the store's time follows a wall clock that leaps forward, until
	// the leap has lasted for leapLasts: a clock that is wrong for a moment moves the
	// store's time by no more.
	maxLeap   = time.Hour
	leapLasts = time.Minute
	smallLeap = 2 * time.Second // is no leap

	// slower is by which part the store's time goes slower than the monotonic clock while
	// it is ahead of the wall clock, so that an hour is made up for within three days.
	slower = 64
)

// clock is the wall clock made monotonic, also across restarts. If the wall clock goes back,
// the store's time goes on from where it is.
type clock struct {
	mu     sync.Mutex
	seen   time.Time // the latest time given out or persisted, without a monotonic part; zero: none
	seenAt time.Time // when that was
	sure   time.Time // the latest time of the wall clock that was no leap, without a monotonic part
	sureAt time.Time // when that was
	leapAt time.Time // when the wall clock was first seen to have leapt forward; zero: it has not
}

// Now is the wall clock made monotonic across restarts: never before a time that it
// returned, or that the store has persisted. What was refused as expired stays refused
// when the clock is set back.
func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, _ := c.read()
	return now
}

// Sure is the time that has passed for certain: Now, but behind it while the wall clock is
// ahead for less than a minute, or was and the store's time is still ahead of it. What is
// forgotten is forgotten by this time, and other machines are told it.
func (c *clock) Sure() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, wall := c.read()
	if sure := c.sure.Add(wall.Sub(c.sureAt)); sure.Before(now) {
		return sure
	}
	return now
}

// Behind is how far the wall clock is behind [Store.Now]: more than zero after the
// clock was set back.
func (c *clock) Behind() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, wall := c.read()
	return max(0, now.Sub(wall.Round(0)))
}

// read returns the store's time and the wall clock.
func (c *clock) read() (now, wall time.Time) {
	wall = time.Now()
	bare := wall.Round(0) // without its monotonic part
	now = c.at(wall, bare)
	if now.Equal(bare) {
		now = wall // differences of such times are monotonic
	}
	return now, wall
}

// at returns the store's time when the monotonic clock says passing, and the wall clock wall.
func (c *clock) at(passing, wall time.Time) (now time.Time) {
	now = c.follow(passing, wall)
	if !c.seen.IsZero() {
		passed := passing.Sub(c.seenAt)
		if on := c.seen.Add(passed - passed/slower); on.After(now) {
			now = on
		}
	}
	if now.After(c.seen) {
		c.seen, c.seenAt = now, passing
	}
	return now
}

// follow returns how far the store's time follows the wall clock.
func (c *clock) follow(passing, wall time.Time) time.Time {
	sure := c.sure.Add(passing.Sub(c.sureAt))
	if !c.sureAt.IsZero() && wall.Sub(sure) > smallLeap {
		if c.leapAt.IsZero() {
			c.leapAt = passing
		}
		if passing.Sub(c.leapAt) < leapLasts {
			if limit := sure.Add(maxLeap); wall.After(limit) {
				return limit
			}
			return wall
		}
	}
	c.sure, c.sureAt, c.leapAt = wall, passing, time.Time{}
	return wall
}

// takeUp makes Now go on from a time that this store has persisted, in Unix milliseconds.
func (c *clock) takeUp(ms int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.goOn(time.UnixMilli(ms))
}

// hear is takeUp for a time that another process has persisted just now. Its clock may
// have leapt.
func (c *clock) hear(ms int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, wall := c.read()
	at := time.UnixMilli(ms)
	if limit := c.sure.Add(wall.Sub(c.sureAt) + maxLeap); at.After(limit) {
		at = limit
	}
	c.goOn(at)
}

func (c *clock) goOn(at time.Time) {
	now, wall := c.read()
	if at.After(now) {
		c.seen, c.seenAt = at, wall
	}
}

// clockIsBehind is the message when that is more than backwards.
const clockIsBehind = "the clock is behind the store: times go on from the store's; if the clock is right, `signet doctor --accept-clock` goes on from it"

func (c *clock) warnBehind(name string, log *slog.Logger) {
	if d := c.Behind(); d > backwards {
		log.Warn(clockIsBehind, "store", name, "behind", d)
	}
}
