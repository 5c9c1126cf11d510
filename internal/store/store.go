// Package store opens the database, migrates it and groups commits. It knows no
// meaning: packages keep their own statements, store keeps the schema and the one
// row of meta by which a store is known to be itself and whole.
//
// There are two engines behind the same verbs. SQLite is a file that one server
// has. PostgreSQL is shared by many servers (replicas), each of which may write to
// the same rows. What differs for callers is said at [Tx].
//
// Nothing is acknowledged before it is on disk, and many waiting writers share one
// fsync. A SQLite file that is empty, cut, restored or swapped opens without a
// word, and an empty denylist would give back everything that was ever revoked. So
// [Open] never creates a file, and compares the store with a small mirror beside
// the root secret; when in doubt it refuses, naming the file and the command that
// accepts the loss. It repairs nothing. A PostgreSQL database has no mirror: that
// it was restored shows by its epoch, if the operator gives it a new one as he
// should, or by a generation that is newer than its row (see package denylist).
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// What callers branch on. Every error that wraps one names the store.
var (
	ErrUnavailable = errors.New("store unavailable") // what the engine failed to do; callers answer 503, never a verdict
	ErrDamaged     = errors.New("store damaged")
	ErrRolledBack  = errors.New("store rolled back")              // its commit counter is below the mirror's
	ErrOtherStore  = errors.New("not the store its mirror knows") // another epoch
	ErrHalf        = errors.New("store half there")               // a part of it is missing: data, mirror
	ErrNewer       = errors.New("store made by a newer version of this program")
	ErrNoStore     = errors.New("no such store") // without ErrHalf: nothing was ever there, Create may make it
	ErrOtherRoot   = errors.New("store made under another root secret")
	ErrLocked      = errors.New("store in use by another server")
)

// acceptLoss is the way out that every error about a lost store names.
const acceptLoss = "`signet doctor --accept-loss` accepts the loss: everybody signs in again"

// Options says where a store is and how it is used.
type Options struct {
	Path   string // the SQLite file, or the URL of a PostgreSQL database (see [IsURL])
	Mirror string // SQLite: a small file that copies epoch and commit counter; it belongs beside the root secret, in no backup
	Serve  bool   // SQLite: hold the lock file that only one server may hold. PostgreSQL: wait for a database that is down, see Open

	// Root says whether the store may have been made under the root secret of that
	// fingerprint; nil: any. A store of another one is left as it is.
	Root func(fingerprint string) bool

	// First, on PostgreSQL, is the fingerprint under which Open makes a store where
	// there is none: the first replica that comes does it for all.
	First string

	Log *slog.Logger // nil logs nothing

	steps []string                 // the schema's, in tests others
	fault func(query string) error // in tests: makes statements fail
	small int64                    // in tests: another smallFile
	ahead time.Duration            // in tests: how far our clock is ahead, for comparing clocks
}

func (o Options) check() (Options, error) {
	url := IsURL(o.Path)
	if o.Path == "" || o.Mirror == "" && !url {
		return o, errors.New("store: a path and a mirror are needed")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Root == nil {
		o.Root = func(string) bool { return true }
	}
	if o.steps == nil && url {
		o.steps = postgresSchema
	} else if o.steps == nil {
		o.steps = sqliteSchema
	}
	if o.small == 0 {
		o.small = smallFile
	}
	return o.breakable(), nil
}

// Tx is what runs statements inside Write and Read. Placeholders are $1, $2, ...
// A statement that fails makes the whole Write fail with [ErrUnavailable],
// whatever fn makes of it: state conflicts in SQL (ON CONFLICT), not by errors.
//
// Other replicas write at the same time. A row by which a Write decides is read
// with FOR UPDATE at the end of the statement, which SQLite does not need and does
// not see: nobody changes it until this transaction is over. A row that was found
// missing is inserted without ON CONFLICT: where another replica has been faster, fn
// runs again, and finds it. Who locks several rows always does it in one order.
type Tx interface {
	Exec(query string, args ...any) (sql.Result, error)
	QueryRow(query string, args ...any) *sql.Row
	Query(query string, args ...any) (*sql.Rows, error)
}

// engine is what SQLite and PostgreSQL do each in their own way.
type engine interface {
	writers() []writer // each used by one goroutine
	read(ctx context.Context, fn func(Tx) error) error
	sound() error             // nil while it takes writes; else ErrUnavailable
	work(ctx context.Context) // what goes on in the background until ctx ends
	finish() error            // before the end: nothing else runs any more
	release()                 // gives back what was opened
}

// writer runs one transaction at a time.
type writer interface {
	// transact runs fn in a transaction and commits what it wrote. by is when the
	// answer is due. In a group others depend on the transaction, and it does not
	// wait for rows that are locked. After an error nothing of it is there, except
	// after an [errLost], which says that nobody knows.
	transact(by time.Time, group bool, fn func(session) error) error
	idle() // is called between transactions
}

// session is the Tx of a transaction and what became of it.
type session interface {
	Tx
	written() int            // statements that changed rows
	failure(err error) error // the engine's part in an fn that returned err
}

// state is what both engines share with the Store.
type state struct {
	clock
	o     Options
	name  string               // of the store in errors and logs
	known atomic.Pointer[meta] // nil until a database that was down is there

	id      string                 // of this server, for the others
	roots   atomic.Pointer[string] // what it announced; nil: nothing
	ahead   atomic.Int64           // milliseconds by which our clock is before the database's
	apart   atomic.Int64           // nanoseconds by which the clocks of the servers differ
	foreign atomic.Bool            // the store is under a root secret now that we do not have
}

// Store is an open store. It is safe for concurrent use.
type Store struct {
	*state
	engine engine

	mu     sync.RWMutex // held for reading while a request enters the queue
	closed bool
	queue  chan *request
	stop   context.CancelFunc
	done   sync.WaitGroup
}

// Open opens an existing store; on SQLite it never creates one. It checks the file
// and compares it with its mirror before anything is written, then migrates it.
// Files of 64 MiB and more are checked in the background; [Store.Write] and
// [Store.Check] refuse until that is done.
//
// On PostgreSQL a server does not fail when the database cannot be reached: Open
// returns a store that goes on trying. Until then it is [ErrUnavailable], and its
// Epoch is empty.
func Open(ctx context.Context, o Options) (*Store, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	st := &state{o: o, name: o.Path, id: newServerID()}
	s := &Store{state: st, queue: make(chan *request, queueSize)}
	if IsURL(o.Path) {
		s.engine, err = openPostgres(ctx, st)
	} else {
		s.engine, err = openFile(ctx, st)
	}
	if err != nil {
		return nil, err
	}
	s.warnBehind(s.name, o.Log)
	ctx, s.stop = context.WithCancel(context.Background())
	s.done.Go(func() { s.engine.work(ctx) })
	for _, w := range s.engine.writers() {
		s.done.Go(func() { s.commitLoop(ctx, breakable(w)) })
	}
	return s, nil
}

// Close finishes what is waiting, writes the store's last time and its mirror,
// and releases the lock.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.done.Wait()
	err := s.engine.finish()
	s.engine.release()
	return err
}

// Epoch identifies this store among all that ever were. It is sealed into what
// the store must vouch for; what carries another epoch is refused. It is empty
// while a server still waits for its database, or for a root secret that it would
// need by now.
func (s *Store) Epoch() string {
	if m := s.known.Load(); m != nil && !s.foreign.Load() {
		return m.epoch
	}
	return ""
}

// Read runs fn on one snapshot of what was committed. The Tx refuses to write.
func (s *Store) Read(ctx context.Context, fn func(Tx) error) error {
	s.mu.RLock()
	closed := s.closed
	s.mu.RUnlock()
	if closed {
		return unavailable(s.name, errClosed)
	}
	return s.engine.read(ctx, fn)
}

// Check reports whether the store is sound and answers before ctx ends.
func (s *Store) Check(ctx context.Context) error {
	if err := s.engine.sound(); err != nil {
		return err
	}
	answer := make(chan error, 1)
	go func() { // outlives this call only while the disk hangs, and then waits for one of few readers
		answer <- s.Read(ctx, func(tx Tx) error {
			var epoch string
			return tx.QueryRow("SELECT epoch FROM meta").Scan(&epoch)
		})
	}()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return unavailable(s.name, ctx.Err())
	}
}

var errClosed = errors.New("closed")

// unavailable wraps what the engine said about the store of that name.
func unavailable(name string, err error) error {
	if isDamage(err) {
		return fmt.Errorf("%w: %w: %s: %w", ErrUnavailable, ErrDamaged, name, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, name, err)
}

func damaged(path string, err error) error {
	return fmt.Errorf("%w: %s: %w (the file was left as it is; %s)", ErrDamaged, path, err, acceptLoss)
}
