package store

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
)

const (
	queueSize = 4096
	maxGroup  = 256             // writes that share one commit
	maxWait   = 3 * time.Second // in the queue

	// yields is how often the writer lets others run before it closes a group.
	// Without it, on a busy core, groups collapse to one write each.
	yields = 2

	// checkpointAt is how many pages may be in the log, by estimate, before they
	// are moved into the file.
	checkpointAt = 4000
)

// request is one call of Write on its way through the queue.
type request struct {
	fn       func(Tx) error
	state    atomic.Int32 // waiting, then once started or abandoned
	err      error
	panicked any
	done     chan struct{}
}

const (
	waiting = iota
	started
	abandoned
)

func (r *request) start() bool   { return r.state.CompareAndSwap(waiting, started) }
func (r *request) abandon() bool { return r.state.CompareAndSwap(waiting, abandoned) }

// Write runs fn in a transaction, which it may share with other waiting calls (one
// fsync for many), and returns when what fn wrote is durable.
//
// fn may run more than once, so it only assigns results and overwrites them all.
// An error that fn returns of its own accord is returned as it is; fn returns it
// before it writes, or what it wrote is undone. What the engine fails to do is
// [ErrUnavailable], and fn wrote nothing. A call whose ctx ends in the queue does
// not run; one that has begun is finished.
func (s *Store) Write(ctx context.Context, fn func(Tx) error) error {
	if err := ctx.Err(); err != nil {
		return unavailable(s.o.Path, err)
	}
	if err := s.sound(); err != nil {
		return err
	}
	r := &request{fn: fn, done: make(chan struct{})}
	if err := s.enqueue(r); err != nil {
		return unavailable(s.o.Path, err)
	}
	late := time.NewTimer(maxWait)
	defer late.Stop()
	select {
	case <-r.done:
	case <-ctx.Done():
		if r.abandon() {
			return unavailable(s.o.Path, ctx.Err())
		}
		<-r.done
	case <-late.C:
		if r.abandon() {
			return unavailable(s.o.Path, fmt.Errorf("no turn in %v", maxWait))
		}
		<-r.done
	}
	if r.panicked != nil {
		panic(r.panicked)
	}
	return r.err
}

func (s *Store) enqueue(r *request) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return errClosed
	}
	select {
	case s.queue <- r:
		return nil
	default:
		return errors.New("too many writes are waiting")
	}
}

// writer is the one connection that writes, used by commitLoop alone.
type writer struct {
	*conn
	commits int64 // meta's counter, as of our last commit
	pages   int   // written since the last checkpoint, by estimate
	behind  bool  // the log knows already that the clock went back
	blind   bool  // the log knows already that the mirror cannot be written
}

// commitLoop commits groups until ctx ends, and then what is still in the queue.
func (s *Store) commitLoop(ctx context.Context) {
	for {
		select {
		case r := <-s.queue:
			s.commitGroup(r)
			continue
		default:
		}
		select {
		case r := <-s.queue:
			s.commitGroup(r)
		case <-ctx.Done():
			for r := s.next(0); r != nil; r = s.next(0) {
				s.answer([]*request{r}, s.transact(func() error { return s.writer.run(r) }))
			}
			return
		}
	}
}

// next takes a waiting request for a group that has size of them already.
func (s *Store) next(size int) *request {
	if size >= maxGroup {
		return nil
	}
	for range 1 + yields {
		for more := true; more; {
			select {
			case r := <-s.queue:
				if r.start() {
					return r
				}
			default:
				more = false
			}
		}
		runtime.Gosched()
	}
	return nil
}

// commitGroup runs first and whatever else is waiting in one transaction. If it
// fails, each runs again in one of its own, so a poisoned write fails alone.
func (s *Store) commitGroup(first *request) {
	if !first.start() {
		return
	}
	group := []*request{first}
	err := s.transact(func() error {
		if err := s.writer.run(first); err != nil {
			return err
		}
		for r := s.next(len(group)); r != nil; r = s.next(len(group)) {
			group = append(group, r)
			if err := s.writer.run(r); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil || len(group) == 1 {
		s.answer(group, err)
		return
	}
	for _, r := range group {
		s.answer([]*request{r}, s.transact(func() error { return s.writer.run(r) }))
	}
}

// answer lets the callers of a group go, with the engine's error if it is one.
func (s *Store) answer(group []*request, err error) {
	for _, r := range group {
		if err != nil && r.panicked == nil && !errors.Is(err, errUndone) {
			r.err = unavailable(s.o.Path, err)
		}
		close(r.done)
	}
	if s.writer.pages > checkpointAt {
		s.checkpoint("PASSIVE")
	}
}

// errUndone stops a transaction for a reason that is fn's, not the engine's.
var errUndone = errors.New("undone")

// run runs r's function. The error it returns is a reason to roll back.
func (w *writer) run(r *request) (err error) {
	r.err, r.panicked = nil, nil
	before := w.writes
	defer func() {
		if p := recover(); p != nil {
			r.panicked, err = p, errUndone
		}
	}()
	r.err = r.fn(w.conn)
	if e := w.failure(r.err); e != nil {
		return e
	}
	if r.err != nil && w.writes > before {
		return errUndone
	}
	return nil
}

// transact runs fn between BEGIN and COMMIT. If fn wrote, the counter in meta is
// raised in the same transaction, and the mirror follows before anybody is told.
// Raising it in SQL counts the writes of other processes too.
func (s *Store) transact(fn func() error) error {
	w := s.writer
	if err := w.begin("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	if err := fn(); err != nil {
		w.rollback()
		return err
	}
	if w.writes == 0 {
		w.rollback()
		return nil
	}
	var commits, seen int64
	err := w.one("UPDATE meta SET commits = commits + 1, last_seen = max(last_seen, $1) RETURNING commits, last_seen",
		[]any{s.Now().UnixMilli()}, &commits, &seen)
	if err == nil {
		err = w.commit()
	}
	if err != nil {
		w.rollback()
		return err
	}
	w.commits = commits
	w.pages += w.writes + 2 // a page for each row at most, and meta's
	s.mirrorCommit(seen)
	return nil
}

// mirrorCommit copies the counter to the mirror, and takes up the time that
// another process may have persisted.
func (s *Store) mirrorCommit(seen int64) {
	w := s.writer
	s.advanceMirror(mark{epoch: s.epoch, commits: w.commits})
	for ns := seen * int64(time.Millisecond); ; {
		old := s.seen.Load()
		if ns <= old || s.seen.CompareAndSwap(old, ns) {
			break
		}
	}
	behind := s.Behind()
	if behind > backwards && !w.behind {
		s.log.Warn("the clock was set back: times go on from the store's", "store", s.o.Path, "behind", behind)
	}
	w.behind = behind > backwards
}

// checkpoint moves the log into the file. Once all of it is there, the mirror
// remembers that the file by itself holds that many commits, so an old copy of
// the file under the present log is found out too.
func (s *Store) checkpoint(mode string) {
	w := s.writer
	w.pages = 0
	var busy, logged, moved int
	err := w.one("PRAGMA wal_checkpoint("+mode+")", nil, &busy, &logged, &moved)
	if err != nil || busy != 0 || logged != moved {
		return // readers hold a part of it; the next one gets it
	}
	s.advanceMirror(mark{epoch: s.epoch, commits: w.commits, base: w.commits})
}

func (s *Store) advanceMirror(to mark) {
	err := s.mirror.advance(to)
	if err != nil && !s.writer.blind {
		s.log.Error("the store's mirror cannot be written: a later loss may go unnoticed", "err", err)
	}
	s.writer.blind = err != nil
}

// finish ends a server's work: it persists the latest time, by which something
// may have been refused, and empties the log. A command leaves both to the server
// that may be running.
func (s *Store) finish() error {
	if !s.o.Serve {
		s.checkpoint("PASSIVE")
		return nil
	}
	err := s.transact(func() error {
		_, err := s.writer.Exec("UPDATE meta SET last_seen = max(last_seen, $1)", s.Now().UnixMilli())
		return err
	})
	s.checkpoint("TRUNCATE")
	if err != nil {
		return unavailable(s.o.Path, err)
	}
	return nil
}
