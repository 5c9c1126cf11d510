package store_test

import (
	"testing"
	"time"

	"signet/internal/store"
)

// Time passes whatever the wall clock does, never goes back, and follows a clock that is
// wrong for a moment by an hour at most.
func TestTimePassesWhateverTheClockDoes_L10(t *testing.T) {
	const day = 24 * time.Hour
	type step struct {
		after time.Duration // since the step before
		ahead time.Duration // of the wall clock
		now   time.Duration // how far the store's time is ahead, in the end
		sure  time.Duration // the same of what has passed for certain
	}
	for name, steps := range map[string][]step{
		"right":                           {{time.Second, 0, 0, 0}, {day, 0, 0, 0}},
		"one leap of a day":               {{time.Second, day, time.Hour, 0}, {time.Second, 0, time.Hour, 0}, {time.Minute, 0, time.Hour - time.Second, 0}},
		"one leap of a year":              {{time.Second, 365 * day, time.Hour, 0}, {time.Second, 0, time.Hour, 0}},
		"one leap of ten minutes":         {{time.Second, 10 * time.Minute, 10 * time.Minute, 0}, {time.Second, 0, 10 * time.Minute, 0}},
		"leap after leap":                 {{time.Second, day, time.Hour, 0}, {time.Second, 0, time.Hour, 0}, {time.Second, day, time.Hour, 0}, {time.Second, 0, time.Hour, 0}, {time.Second, 2 * day, time.Hour, 0}},
		"a leap that lasts":               {{time.Second, day, time.Hour, 0}, {59 * time.Second, day, time.Hour, 0}, {time.Second, day, day, day}, {time.Hour, day, day, day}},
		"leaps that do not last together": {{time.Second, day, time.Hour, 0}, {50 * time.Second, 0, time.Hour, 0}, {30 * time.Second, day, time.Hour, 0}, {50 * time.Second, day, time.Hour, 0}},
		"back an hour":                    {{time.Second, -time.Hour, 0, -time.Hour}, {time.Minute, -time.Hour, -time.Second, -time.Hour}},
		"back for a moment":               {{time.Second, -time.Hour, 0, -time.Hour}, {time.Second, 0, 0, -time.Hour}, {time.Minute, 0, 0, 0}},
		"an hour is made up for":          {{time.Second, time.Hour, time.Hour, 0}, {time.Second, 0, time.Hour, 0}, {65 * time.Hour, 0, 0, 0}},
		"NTP":                             {{time.Second, 100 * time.Millisecond, 100 * time.Millisecond, 100 * time.Millisecond}, {time.Minute, 0, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			var c store.Clock
			real := time.Unix(1e9, 0)
			last, _ := c.At(real, real)
			for i, s := range steps {
				real = real.Add(s.after)
				now, sure := c.At(real, real.Add(s.ahead))
				if now.Before(last) {
					t.Errorf("step %d: time goes back by %v", i, last.Sub(now))
				}
				if d := now.Sub(real) - s.now; d.Abs() > time.Second {
					t.Errorf("step %d: the store's time is %v ahead, want %v", i, now.Sub(real), s.now)
				}
				if d := sure.Sub(real) - s.sure; d.Abs() > time.Second {
					t.Errorf("step %d: the time that has passed for certain is %v ahead, want %v", i, sure.Sub(real), s.sure)
				}
				last = now
			}
		})
	}
}

// However often the clock leaps, time passes in between.
func TestTimePassesWhileTheStoreIsAhead(t *testing.T) {
	var c store.Clock
	now := time.Unix(1e9, 0)
	c.At(now, now)
	first, _ := c.At(now, now.Add(time.Hour))
	for range 60_000 {
		now = now.Add(time.Millisecond)
		c.At(now, now)
	}
	if last, _ := c.At(now, now); last.Sub(first) < 59*time.Second {
		t.Errorf("within a minute %v passed", last.Sub(first))
	}
}
