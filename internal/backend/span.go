package backend

import (
	"context"
	"errors"
	"io"
	"time"
)

// span is the life of one message at an instance. Its context ends with the caller's, or when the
// server has been silent for the timeout.
type span struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	caller  context.Context
	detach  func() bool
	timer   *time.Timer
	timeout time.Duration
}

var errSilent = errors.New("no answer in time")

// newSpan begins the life of a message. It also ends when the context closed does.
func newSpan(caller, closed context.Context, timeout time.Duration) *span {
	s := &span{caller: caller, timeout: timeout}
	s.ctx, s.cancel = context.WithCancelCause(closed)
	s.detach = context.AfterFunc(caller, func() { s.cancel(context.Cause(caller)) })
	s.timer = time.AfterFunc(timeout, func() { s.cancel(errSilent) })
	return s
}

// alive begins the timeout anew.
func (s *span) alive() { s.timer.Reset(s.timeout) }

// forever removes the timeout.
func (s *span) forever() { s.timer.Stop() }

func (s *span) end() {
	s.detach()
	s.timer.Stop()
	s.cancel(nil)
}

// silent reports whether the span has ended because of the server's silence.
func (s *span) silent() bool { return errors.Is(context.Cause(s.ctx), errSilent) }

// drainTime and drainMost bound what is read after an answer, so that the connection can be used
// again.
const (
	drainTime = time.Second
	drainMost = 64 << 10
)

// drain reads the rest of a body of which the answer has been read, and ends the span. The caller
// no longer waits for it.
func (s *span) drain(body io.ReadCloser) {
	s.detach()
	s.timer.Reset(drainTime)
	_, _ = io.CopyN(io.Discard, body, drainMost) // the answer is there already
	body.Close()
	s.end()
}
