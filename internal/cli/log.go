package cli

import (
	"context"
	"io"
	"log/slog"
	"runtime"
	"sync"

	"signet/server"
)

func (c *config) logger(w io.Writer) *slog.Logger {
	lines, opts := newLines(w), &slog.HandlerOptions{Level: c.LogLevel}
	handler := slog.Handler(slog.NewJSONHandler(lines, opts))
	if c.LogFormat == "text" {
		handler = slog.NewTextHandler(lines, opts)
	}
	return slog.New(server.WithRequestID(linesHandler{handler, lines}))
}

// maxSpare is the largest buffer that is kept for later lines, in bytes.
const maxSpare = 64 << 10

// lines writes the lines of concurrent requests together: one call of the system for many, as
// the store has one fsync for many. The order of the lines is kept.
type lines struct {
	w io.Writer

	mu              sync.Mutex
	next            sync.Cond // a write has ended
	waiting, spare  []byte    // lines to write, and an empty buffer
	added, finished uint64    // lines so far: added to waiting, and written
	writing         bool
	err             error // of the last write
}

func newLines(w io.Writer) *lines {
	l := &lines{w: w}
	l.next.L = &l.mu
	return l
}

// Write adds a line that [lines.flush] writes.
func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, line...)
	l.added++
	return len(line), nil
}

// flush returns when all lines that were added before are written, and the error of the write.
func (l *lines) flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for upTo := l.added; l.finished < upTo; {
		if l.writing {
			l.next.Wait()
		} else {
			l.write()
		}
	}
	return l.err
}

// write writes the waiting lines. It lets other goroutines run before, which may add lines of
// their own: requests that have waited for the same commit run one after the other now.
func (l *lines) write() {
	l.writing = true
	l.mu.Unlock()
	runtime.Gosched()
	l.mu.Lock()
	text, upTo := l.waiting, l.added
	l.waiting = l.spare[:0]
	l.mu.Unlock()
	_, err := l.w.Write(text)
	l.mu.Lock()
	if l.spare = nil; cap(text) <= maxSpare {
		l.spare = text
	}
	l.finished, l.err, l.writing = upTo, err, false
	l.next.Broadcast()
}

// linesHandler is a handler that writes to lines. A record is written when Handle returns, so
// what a server has answered is in the log, whatever happens next.
type linesHandler struct {
	slog.Handler
	lines *lines
}

func (h linesHandler) Handle(ctx context.Context, rec slog.Record) error {
	if err := h.Handler.Handle(ctx, rec); err != nil {
		return err
	}
	return h.lines.flush()
}

func (h linesHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return linesHandler{h.Handler.WithAttrs(attrs), h.lines}
}

func (h linesHandler) WithGroup(name string) slog.Handler {
	return linesHandler{h.Handler.WithGroup(name), h.lines}
}
