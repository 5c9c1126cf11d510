package users

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	queuePerSlot = 8               // calls that may wait for each one that may run
	maxWait      = 2 * time.Second // of one call
)

// limiter bounds how many hashes run at once. More than one a core would make all of them
// slower, and each takes memory.
type limiter struct {
	slots   chan struct{}
	waiting atomic.Int64
	hashes  atomic.Uint64                          // that began
	busy    atomic.Uint64                          // refused
	rest    func(took time.Duration) time.Duration // how long a slot stays empty after a hash; may be nil
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

func (l *limiter) leave(took time.Duration) {
	pause := time.Duration(0)
	if l.rest != nil {
		pause = min(l.rest(took), maxWait/4)
	}
	if pause <= 0 {
		<-l.slots
		return
	}
	time.AfterFunc(pause, func() { <-l.slots })
}

func (l *limiter) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case l.slots <- struct{}{}: // passes no waiting call: that fills a free slot at once
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

// queue takes a place in the queue, which never holds more calls than its bound, not even
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
