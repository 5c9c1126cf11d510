package handlers

import (
	"context"
	"sync/atomic"
	"time"
)

// bounded is a context that ends at a time, as one of [context.WithDeadline] does. It makes
// its timer when somebody waits for its end: most requests are answered before anybody does,
// and the timer costs as much as the client's authentication.
type bounded struct {
	context.Context // the request's
	at              time.Time

	waited atomic.Pointer[withTimer] // nil: nobody has waited yet
	ended  atomic.Bool
}

// withTimer is a context of [context.WithDeadline].
type withTimer struct {
	context.Context
	cancel context.CancelFunc
}

func newBounded(ctx context.Context, lasts time.Duration) *bounded {
	at := time.Now().Add(lasts)
	if earlier, ok := ctx.Deadline(); ok && earlier.Before(at) {
		at = earlier
	}
	return &bounded{Context: ctx, at: at}
}

// end ends the context. The request is answered.
func (b *bounded) end() {
	b.ended.Store(true)
	if w := b.waited.Load(); w != nil {
		w.cancel()
	}
}

// wait makes the timer.
func (b *bounded) wait() *withTimer {
	if w := b.waited.Load(); w != nil {
		return w
	}
	w := new(withTimer)
	w.Context, w.cancel = context.WithDeadline(b.Context, b.at)
	if !b.waited.CompareAndSwap(nil, w) {
		w.cancel() // somebody else was faster
		return b.waited.Load()
	}
	if b.ended.Load() { // perhaps end did not see w
		w.cancel()
	}
	return w
}

func (b *bounded) Deadline() (at time.Time, ok bool) { return b.at, true }

func (b *bounded) Done() <-chan struct{} { return b.wait().Done() }

func (b *bounded) Err() error {
	if b.waited.Load() == nil && b.Context.Err() == nil && time.Now().Before(b.at) && !b.ended.Load() {
		return nil
	}
	return b.wait().Err()
}

// Value asks the context with the timer, if there is one: package context finds there what a
// context that is made from this one has to end with.
func (b *bounded) Value(key any) any {
	if w := b.waited.Load(); w != nil {
		return w.Value(key)
	}
	return b.Context.Value(key)
}
