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
	maxGroup  = 256                     // writes that share one commit
	maxWait   = 2 * time.Second         // time in the queue
	answerIn  = 2800 * time.Millisecond // after this a database that does not answer is given up

	// soon is when most calls have their answer. Until then a call does not look whether its
	// context has ended: many contexts are made ready for that by the first who asks.
	soon = 200 * time.Millisecond

	// yields is how often the writer lets other goroutines run before it closes a group.
	// Without it, on a busy core, groups collapse to one write each.
	yields = 2
)

// request is one call of Write on its way through the queue.
type request struct {
	fn       func(Tx) error
	change   Change       // what fn does first; the zero Change: none
	made     bool         // whether the change was made
	by       time.Time    // when its answer is due
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
// fsync for many), and returns when everything that fn wrote is durable.
//
// fn may run more than once, so it must do nothing but assign results, and must assign
// all of them each time. An error of fn's own is returned as it is, and undoes what fn
// wrote. If the engine fails, the error is [ErrUnavailable]: fn wrote nothing, or, if
// the database went away in the middle of a commit, that is unknown. A call whose ctx
// ends in the queue does not run, unless its turn comes within 200 ms. A call that has begun
// is finished.
func (s *Store) Write(ctx context.Context, fn func(Tx) error) error {
	return s.await(ctx, s.queue, &request{fn: fn})
}

// WriteUnsynced is like Write, for what may be forgotten after a power loss: everybody sees it when
// it returns, and it survives a killed process, but on SQLite it may be on disk only after the next
// Write. A process with one core often waits for the disk together with its commit, and does nothing
// meanwhile.
func (s *Store) WriteUnsynced(ctx context.Context, fn func(Tx) error) error {
	if s.options.engine.shared() { // while a database commits, others have the core
		return s.Write(ctx, fn)
	}
	return s.await(ctx, s.unsynced, &request{fn: fn})
}

// await puts r into a queue and waits for its answer.
func (s *Store) await(ctx context.Context, queue chan *request, r *request) error {
	if err := ctx.Err(); err != nil {
		return unavailable(s.name, err)
	}
	if err := s.database.health(); err != nil {
		return err
	}
	r.by, r.done = time.Now().Add(answerIn), make(chan struct{})
	if err := s.enqueue(queue, r); err != nil {
		return unavailable(s.name, err)
	}
	late := time.NewTimer(soon)
	defer late.Stop()
	select {
	case <-r.done:
	case <-late.C:
		if err := waitLonger(ctx, r, late); err != nil {
			return unavailable(s.name, err)
		}
	}
	if r.panicked != nil {
		panic(r.panicked)
	}
	return r.err
}

// waitLonger waits for r's answer until its turn is too late or ctx ends, unless r has begun by
// then.
func waitLonger(ctx context.Context, r *request, late *time.Timer) (err error) {
	late.Reset(maxWait - soon)
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-late.C:
		err = fmt.Errorf("waited %v for its turn", maxWait)
	}
	if r.abandon() {
		return err
	}
	<-r.done
	return nil
}

func (s *Store) enqueue(queue chan *request, r *request) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return errClosed
	}
	select {
	case queue <- r:
		return nil
	default:
		return errFull
	}
}

var errFull = errors.New("too many writes are waiting")

// commitLoop commits groups until ctx ends, and then the rest of the queues.
func (s *Store) commitLoop(ctx context.Context, w writer) {
	g, u := &gatherer{queue: s.queue, mode: grouped}, &gatherer{queue: s.unsynced, mode: unsynced}
	for {
		select {
		case r := <-g.queue:
			s.commitGroup(w, g, r)
		case r := <-u.queue:
			s.commitGroup(w, u, r)
		case <-ctx.Done():
			s.commitRest(w, g.queue)
			s.commitRest(w, u.queue)
			return
		}
	}
}

// commitRest commits what is left in a queue.
func (s *Store) commitRest(w writer, queue chan *request) {
	for r := next(queue, 0); r != nil; r = next(queue, 0) {
		s.commitAlone(w, r)
	}
}

// next takes a waiting request for a group that has size requests already.
func next(queue chan *request, size int) *request {
	if size >= maxGroup {
		return nil
	}
	for range 1 + yields {
		for more := true; more; {
			select {
			case r := <-queue:
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

// gatherer takes the requests of one group after another from a queue.
//
// Where many clients ask again as soon as they have their answers, the first of them are often
// alone in the queue: the others are on their way. A group that closed then would have them all
// wait for the commit of a few. So a group that is small beside those of lately waits for more,
// at most as long as a commit takes.
type gatherer struct {
	queue chan *request
	mode  mode          // of their transaction
	usual int           // size of a group lately
	takes time.Duration // a commit lately

	closes time.Time // when the present group closes at the latest; zero: it has not waited
	closed time.Time // when it did; zero: it has not
}

// longestGather is the longest time for which a group waits.
const longestGather = 2 * time.Millisecond

// next takes a request for a group that has size requests already, or closes the group.
func (g *gatherer) next(size int) *request {
	r := next(g.queue, size)
	if r == nil && size < g.usual/2 {
		r = g.wait()
	}
	if r == nil {
		g.closed = time.Now()
	}
	return r
}

func (g *gatherer) wait() *request {
	if g.closes.IsZero() {
		g.closes = time.Now().Add(min(g.takes, longestGather))
	}
	late := time.NewTimer(time.Until(g.closes))
	defer late.Stop()
	for {
		select {
		case r := <-g.queue:
			if r.start() {
				return r
			}
		case <-late.C:
			return nil
		}
	}
}

// committed takes note of a group, for the next one.
func (g *gatherer) committed(size int) {
	g.usual = max(size, g.usual*7/8)
	if !g.closed.IsZero() {
		g.takes = (7*g.takes + time.Since(g.closed)) / 8
	}
	g.closes, g.closed = time.Time{}, time.Time{}
}

// commitGroup runs first and all other waiting requests in one transaction. If that
// fails, the requests before the one that failed are tried together again, and if that
// fails too, each runs in a transaction of its own: a bad write fails alone.
func (s *Store) commitGroup(w writer, g *gatherer, first *request) {
	if !first.start() {
		return
	}
	group := []*request{first}
	err := w.transact(first.by, g.mode, func(tx session) error {
		for r := first; r != nil; r = g.next(len(group)) {
			if r != first {
				group = append(group, r)
			}
			if err := r.run(tx); err != nil {
				return err
			}
		}
		return nil
	})
	g.committed(len(group))
	if err == nil || errors.Is(err, errLost) || len(group) < 2 && !errors.Is(err, errConflict) {
		s.answer(w, err, group...)
		return
	}
	rest := group[:len(group)-1]
	if len(rest) > 1 && s.commitTogether(w, rest) {
		group = group[len(rest):]
	}
	for _, r := range group {
		s.commitAlone(w, r)
	}
}

// commitTogether is a second try for requests that did not fail themselves.
func (s *Store) commitTogether(w writer, group []*request) (done bool) {
	err := w.transact(group[0].by, grouped, func(tx session) error {
		for _, r := range group {
			if err := r.run(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, errLost) {
		return false
	}
	s.answer(w, err, group...)
	return true
}

// tries is how often a write runs because another replica was faster. Each time the
// other one has committed, so more tries are needed only if many replicas want the same
// row at the same moment.
const tries = 5

func (s *Store) commitAlone(w writer, r *request) {
	var err error
	for range tries {
		err = w.transact(r.by, alone, r.run)
		if !errors.Is(err, errConflict) {
			break
		}
	}
	s.answer(w, err, r)
}

// answer gives the callers of a group their answer: err, if it is the engine's.
func (s *Store) answer(w writer, err error, group ...*request) {
	for _, r := range group {
		if err != nil && r.panicked == nil && !errors.Is(err, errUndone) {
			r.err = unavailable(s.name, err)
		}
		close(r.done)
	}
	w.idle()
}

var (
	errUndone   = errors.New("undone")                // ends a transaction because of fn, not because of the engine
	errConflict = errors.New("other writes conflict") // the same transaction may succeed a moment later
	errLost     = errors.New("the database is gone")  // the commit may have happened or not: the transaction must not run again
)

// run runs r's function. An error is a reason to roll back.
func (r *request) run(tx session) (err error) {
	r.err, r.panicked = nil, nil
	before := tx.written()
	defer func() {
		if p := recover(); p != nil {
			r.panicked, err = p, errUndone
		}
	}()
	r.err = r.fn(tx)
	if e := tx.failure(r.err); e != nil {
		return e
	}
	if r.err != nil && tx.written() > before {
		return errUndone
	}
	return nil
}
