// Package background has what work behind the requests has in common: it is repeated
// until the server stops, and the log is told when something begins to go wrong and
// when that ends, instead of each time.
//
// It imports no other package of this module, so each of them may use it.
package background

import (
	"context"
	"log/slog"
	"time"
)

// Every calls do after each interval, until ctx ends. A call that takes longer than
// the interval delays the next one; two calls never overlap.
func Every(ctx context.Context, interval time.Duration, do func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if ctx.Err() != nil { // select chooses at random if both are ready
			return
		}
		do()
	}
}

// Condition logs one line when something begins to hold and one when it ends. It is
// not safe for concurrent use.
type Condition struct {
	Log   *slog.Logger
	Level slog.Level // of the line at the beginning
	Begin string     // message at the beginning
	End   string     // message at the end, at level info; empty: no line

	reason string // for which the condition held at the last call; empty: it did not hold
}

// Holds takes whether the condition holds now. The attributes, as those of
// [slog.Logger.Log], belong to the line at the beginning.
func (c *Condition) Holds(now bool, attrs ...any) {
	reason := ""
	if now {
		reason = c.Begin
	}
	c.because(reason, c.reason == "", attrs)
}

// Fails takes the result of an attempt: the condition holds while attempts fail. An
// error after the end of ctx is that end, and changes nothing.
func (c *Condition) Fails(ctx context.Context, err error) {
	if ctx.Err() == nil {
		c.Holds(err != nil, "err", err)
	}
}

// FailsAnew is like Fails, but an error with another text than the one before is
// logged too.
func (c *Condition) FailsAnew(ctx context.Context, err error) {
	reason := ""
	if err != nil {
		reason = err.Error()
	}
	if ctx.Err() == nil {
		c.because(reason, reason != c.reason, []any{"err", err})
	}
}

// because logs what has changed since the last call.
func (c *Condition) because(reason string, begins bool, attrs []any) {
	switch {
	case reason != "" && begins:
		c.Log.Log(context.Background(), c.Level, c.Begin, attrs...)
	case reason == "" && c.reason != "" && c.End != "":
		c.Log.Info(c.End)
	}
	c.reason = reason
}
