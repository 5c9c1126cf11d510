package durable

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lookEvery is how often a [Live] looks at its file, at most.
	lookEvery = time.Second

	// tick is the longest time in which a file may change twice and show one
	// modification time.
	tick = 2 * time.Second
)

// Live is what a file says. The file is looked at when the value is used, at most once a
// second, and read again when its size, time, mode, owner or place on the disk is another
// one. While the file cannot be used, the value of before stays and [Live.Stale] says
// why. It is safe for concurrent use, and no caller waits for another one's look.
//
// A file without a single byte counts as one that cannot be used, unless the value in use is
// that of no file or of an empty one.
type Live[T any] struct {
	path   string
	access Access
	limit  int64
	parse  func([]byte) (T, error)

	value atomic.Pointer[T]
	stale atomic.Pointer[error]
	count atomic.Uint64 // see Generation
	begun time.Time
	next  atomic.Int64 // time of the next look, since begun

	mu     sync.Mutex  // of what follows
	seen   fs.FileInfo // of the file that was read last; nil: read it in any case
	readAt time.Time
	sum    [sha256.Size]byte // of the content that was parsed last
	parsed bool              // there was one
	filled bool              // the value is of a content with at least one byte
	fault  error             // of parsing it
	tell   func(before, now T)
}

// Follow reads the file at path. Without a file the value is none; a file that is there
// and cannot be used is an error. parse gets the content, at most limit bytes.
func Follow[T any](path string, access Access, limit int64, none T, parse func([]byte) (T, error)) (*Live[T], error) {
	l := &Live[T]{path: path, access: access, limit: limit, parse: parse, begun: time.Now()}
	l.value.Store(&none)
	l.Reload()
	if err := l.stale.Load(); err != nil {
		return nil, *err
	}
	l.count.Store(1)
	return l, nil
}

// Get returns the value.
func (l *Live[T]) Get() T {
	l.look(time.Now())
	return *l.value.Load()
}

// Stale returns why the file as it is now is not in use, or nil.
func (l *Live[T]) Stale() error {
	l.look(time.Now())
	if err := l.stale.Load(); err != nil {
		return *err
	}
	return nil
}

// Generation returns the number of values that have been in use: 1 for the first one, with
// or without a file. A caller that sees a number gets that value or a later one.
func (l *Live[T]) Generation() uint64 {
	l.look(time.Now())
	return l.count.Load()
}

// OnChange makes each change of the value from now on known to tell, in their order: a value
// that was in use for a moment is not left out. tell must not use l.
func (l *Live[T]) OnChange(tell func(before, now T)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tell = tell
}

// Reload looks at the file now, as after a change by this program.
func (l *Live[T]) Reload() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = nil
	l.reload(time.Now())
}

func (l *Live[T]) look(now time.Time) {
	if now.Sub(l.begun) < time.Duration(l.next.Load()) || !l.mu.TryLock() {
		return
	}
	defer l.mu.Unlock()
	l.reload(now)
}

// reload reads the file unless it is the one that was read last. It needs l.mu.
func (l *Live[T]) reload(now time.Time) {
	l.next.Store(int64(now.Sub(l.begun) + lookEvery))
	info, err := os.Stat(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		if !l.parsed {
			l.stale.Store(nil)
			return
		}
		// An editor may be at work: a missing file is no reason to forget what it said.
		err = fmt.Errorf("%s is gone: %w", l.path, err)
	}
	if err == nil && l.seen != nil && same(l.seen, info) && info.ModTime().Sub(l.readAt).Abs() > tick {
		return
	}
	var content []byte
	if err == nil {
		content, err = l.access.Read(l.path, l.limit)
	}
	if err == nil && len(content) == 0 && l.filled {
		// So is a file while it is written in place, and after that on a full disk.
		err = fmt.Errorf("%s is empty: what it said before stays in use; to mean nothing, give it a comment or a blank line", l.path)
	}
	if err != nil { // it may pass without a change of the file
		l.seen = nil
		l.stale.Store(&err)
		return
	}
	l.seen, l.readAt = info, now
	if sum := sha256.Sum256(content); !l.parsed || sum != l.sum {
		var value T
		if value, l.fault = l.parse(content); l.fault == nil {
			before := l.value.Swap(&value)
			l.filled = len(content) > 0
			l.count.Add(1)
			if l.tell != nil {
				l.tell(*before, value)
			}
		}
		l.sum, l.parsed = sum, true
	}
	if fault := l.fault; fault != nil {
		l.stale.Store(&fault)
	} else {
		l.stale.Store(nil)
	}
}

// same reports whether nothing shows that a file was changed.
func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.Mode() == b.Mode() && a.ModTime().Equal(b.ModTime()) && ownerOf(a) == ownerOf(b)
}
