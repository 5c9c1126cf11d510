package users

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	queuePerSlot = 8               // calls that may wait, for each that may run
	maxWait      = 2 * time.Second // of one call
)

// limiter bounds how many hashes run at once. More than one a core makes all of them
// slower and costs memory for each.
type limiter struct {
	slots   chan struct{}
	waiting atomic.Int64
	hashes  atomic.Uint64 // begun
	busy    atomic.Uint64 // turned away
	pressed func() bool   // whether something more important waits for a core; may be nil
}

func newLimiter(n int) *limiter { return &limiter{slots: make(chan struct{}, n)} }

// do runs hash when it is its turn, or returns [ErrBusy] when the queue is full or
// does not move. A call whose ctx ends leaves the queue.
func (l *limiter) do(ctx context.Context, hash func()) error {
	if err := l.enter(ctx); err != nil {
		if ctx.Err() == nil {
			l.busy.Add(1)
		}
		return err
	}
	begin := time.Now()
	defer func() { l.leave(time.Since(begin)) }()
	l.hashes.Add(1)
	hash()
	return nil
}

// rest is how long a slot stays empty after a hash while something waits, in times of
// what the hash took: a hash has a core for itself, in long slices.
const rest = 4

func (l *limiter) leave(took time.Duration) {
	if l.pressed == nil || !l.pressed() {
		<-l.slots
		return
	}
	time.AfterFunc(min(rest*took, maxWait/4), func() { <-l.slots })
}

func (l *limiter) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case l.slots <- struct{}{}: // never past a waiting call: those fill a free slot at once
		return nil
	default:
	}
	if !l.queue() {
		return ErrBusy
	}
	defer l.waiting.Add(-1)
	late := time.NewTimer(maxWait)
	defer late.Stop()
	select {
	case l.slots <- struct{}{}:
		return nil
	case <-late.C:
		return ErrBusy
	case <-ctx.Done():
		return ctx.Err()
	}
}

// full reports whether the queue has no place left.
func (l *limiter) full() bool { return l.waiting.Load() >= int64(queuePerSlot*cap(l.slots)) }

// queue takes a place in the queue, which never holds more than its bound, not even
// for an instant.
func (l *limiter) queue() bool {
	for {
		n := l.waiting.Load()
		if n >= int64(queuePerSlot*cap(l.slots)) {
			return false
		}
		if l.waiting.CompareAndSwap(n, n+1) {
			return true
		}
	}
}
