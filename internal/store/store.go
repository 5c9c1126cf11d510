// Package store opens the database, migrates it and groups commits. The meaning of
// the rows is not its business: other packages have their own statements, while store
// has the schema and the one row of meta that shows which store this is and whether
// it lost anything.
//
// There are two engines behind the same methods. SQLite is a file that one server
// uses. PostgreSQL is shared by many servers (replicas), each of which may write to
// the same rows. How callers have to respect that is described at [Tx].
//
// Nothing is acknowledged before it is on disk, except what a caller says may be forgotten
// (WriteUnsynced), and many waiting writers share one fsync. A SQLite file that is empty, cut off, restored or swapped opens without an
// error, and an empty denylist would accept again everything that was ever revoked.
// So [Open] never creates a file. It compares the store with a small mirror beside the
// root secret, and in doubt it refuses and names the file and the command that accepts
// the loss. It repairs nothing. A PostgreSQL database has no mirror. What shows that a
// store was rolled back beneath running servers is described in epoch.go.
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

// The errors that callers branch on. Every error that wraps one names the store.
var (
	ErrUnavailable = errors.New("store unavailable") // the engine failed: no verdict, callers answer 503
	ErrDamaged     = errors.New("store damaged")
	ErrRolledBack  = errors.New("store rolled back")              // its commit counter is below the mirror's
	ErrOtherStore  = errors.New("not the store its mirror knows") // its epoch is not the mirror's
	ErrHalf        = errors.New("store half there")               // either its data or its mirror is missing
	ErrNewer       = errors.New("store made by a newer version of this program")
	ErrNoStore     = errors.New("no such store") // without ErrHalf: there never was one, Create may make it
	ErrOtherRoot   = errors.New("store made under another root secret")
	ErrLocked      = errors.New("store in use by another server")
)

// acceptLoss is the remedy that every error about a lost store names.
const acceptLoss = "`signet doctor --accept-loss` accepts the loss: all users sign in again"

// Options says where a store is and how it is used.
type Options struct {
	Path   string // the SQLite file, or the URL of a PostgreSQL database (see [Locate])
	Mirror string // SQLite: a small file with a copy of epoch and commit counter; keep it beside the root secret, out of backups
	Serve  bool   // SQLite: hold the lock file, which only one server can. PostgreSQL: wait for a database that is down, see Open

	// Root reports whether the store may have been made under the root secret with
	// that fingerprint. A store that it rejects is not touched. nil accepts any.
	Root func(fingerprint string) bool

	// First, on PostgreSQL, is the fingerprint for a store that Open makes if there is
	// none. The first replica that comes makes it for all.
	First string

	// KeepEpoch makes a store that was rolled back go on in its epoch, with a line in the
	// log. Otherwise the epoch ends, so that all users sign in again.
	KeepEpoch bool

	Log *slog.Logger // nil logs nothing

	engine engine // the one that Path names, set by check

	steps []string                 // the schema's history, which tests replace
	fault func(query string) error // makes statements fail, in tests
	small int64                    // replaces smallFile, in tests; 0 does not
	ahead time.Duration            // added to the local clock when clocks are compared, in tests
}

func (o Options) check() (Options, error) {
	at := Locate(o.Path)
	if err := at.Check(); err != nil {
		return o, fmt.Errorf("store: %w", err)
	}
	o.engine = at.engine
	if o.Path == "" || o.Mirror == "" && !o.engine.shared() {
		return o, errors.New("store: a path and a mirror are needed")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Root == nil {
		o.Root = func(string) bool { return true }
	}
	if o.steps == nil {
		o.steps = o.engine.schema()
	}
	return o.withFailpoints(), nil
}

// Tx runs statements inside Write and Read. Placeholders are $1, $2, ... A statement
// that fails makes the whole Write fail with [ErrUnavailable], even if fn ignores the
// error: express conflicts in SQL (ON CONFLICT), not by errors.
//
// Other replicas write at the same time. If a Write decides by a row, it reads the row
// with FOR UPDATE at the end of the statement: nothing else changes the row until this
// transaction is over. (SQLite does not need that and does not see it.) If the row was
// missing, fn inserts it without ON CONFLICT: if another replica inserts it first, fn
// runs again and finds it. A Write that locks several rows must lock them in the same
// order as every other Write.
type Tx interface {
	Exec(query string, args ...any) (sql.Result, error)
	QueryRow(query string, args ...any) *sql.Row
	Query(query string, args ...any) (*sql.Rows, error)
}

// database is a store that an engine has opened.
type database interface {
	writers() []writer // each is used by one goroutine
	read(ctx context.Context, fn func(Tx) error) error
	dump(ctx context.Context, fn func(t Table, values []any) error) error
	health() error            // nil while it takes writes, otherwise ErrUnavailable
	full() error              // why the disk refused the last write; nil: it did not
	work(ctx context.Context) // runs in the background until ctx ends
	look(ctx context.Context) error
	compare(ctx context.Context) error // ErrRolledBack: the store is older than what is known of it
	finish() error                     // is called once when nothing else runs any longer
	release()                          // closes what was opened
}

// writer runs one transaction at a time.
type writer interface {
	// transact runs fn in a transaction and commits what it wrote. The answer is due at
	// by. After an error nothing was committed, except after [errLost], when that is
	// unknown.
	transact(by time.Time, m mode, fn func(session) error) error

	// change makes the changes of requests, which have the same Many, in one statement and
	// its own transaction. made tells for each whether it was made. After an error none was,
	// except after [errLost], when that is unknown. Only a store that is shared has it.
	change(by time.Time, requests []*request) (made []bool, err error)

	idle() // is called between transactions
}

// mode is how a transaction is made.
type mode int

const (
	alone    mode = iota // waits for locked rows
	grouped              // does not, because other writes depend on it
	unsynced             // grouped, and the commit does not wait for the disk if only one server uses the store
)

// session is the Tx of one transaction and its state.
type session interface {
	Tx
	written() int            // number of statements that changed rows
	failure(err error) error // the engine's failure, if fn returned err because of one
}

// meta is the one row that identifies a store.
type meta struct {
	epoch, fingerprint        string
	schema, commits, lastSeen int64

	ended                   string // the epochs before this one, by spaces, the latest first
	rolledBackAt, notBefore int64
}

// state is shared by the Store and its database.
type state struct {
	clock
	options Options
	name    string               // of the store, in errors and logs
	known   atomic.Pointer[meta] // nil until a database that was down can be reached

	adopting sync.Mutex   // held while known changes
	seenLast atomic.Int64 // PostgreSQL: the latest last_seen that was read in this epoch, Unix milliseconds
	changed  atomic.Bool  // this process has noted a rollback in meta

	id      string                 // of this server, for the other servers
	roots   atomic.Pointer[string] // what this server announced; nil: nothing
	ahead   atomic.Int64           // milliseconds by which the local clock is ahead of the database's
	apart   atomic.Int64           // nanoseconds by which the clocks of the servers differ
	foreign atomic.Bool            // the store is now under a root secret that this server does not have
	refused chan error             // see Store.Refused; holds one error
}

// Store is an open store. It is safe for concurrent use.
type Store struct {
	*state
	database database

	mu       sync.RWMutex // held for reading while a request enters the queue
	closed   bool
	queue    chan *request
	unsynced chan *request             // not shared: those of WriteUnsynced
	changes  chan *request             // shared store: those that makeChanges takes first
	probed   atomic.Pointer[time.Time] // when Check last tried to write; nil: never
	stop     context.CancelFunc
	done     sync.WaitGroup
}

// Open opens an existing store. On SQLite it never creates one: it checks the file
// and compares it with its mirror before anything is written, then migrates it. Files
// of 64 MiB and more are checked in the background, and until that is done
// [Store.Write] and [Store.Check] refuse.
//
// On PostgreSQL a server does not fail if the database cannot be reached: Open returns
// a store that keeps trying. Until it succeeds the store is [ErrUnavailable], and its
// Epoch is empty. See [Store.Refused].
func Open(ctx context.Context, o Options) (*Store, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	shared := &state{options: o, name: o.Path, id: newServerID(), refused: make(chan error, 1)}
	s := &Store{state: shared, queue: make(chan *request, queueSize), unsynced: make(chan *request, queueSize), changes: make(chan *request, queueSize)}
	if s.database, err = o.engine.open(ctx, shared); err != nil {
		return nil, err
	}
	s.warnBehind(s.name, o.Log)
	ctx, s.stop = context.WithCancel(context.Background())
	s.done.Go(func() { s.database.work(ctx) })
	if o.Serve {
		s.done.Go(func() { s.watch(ctx) })
	}
	writers := s.database.writers()
	for _, w := range writers {
		s.done.Go(func() { s.commitLoop(ctx, withFailpoints(w)) })
	}
	if o.engine.shared() {
		s.done.Go(func() { s.changeLoop(ctx, withFailpoints(writers[0])) })
	}
	return s, nil
}

// Close finishes the waiting writes, persists the store's latest time and its mirror,
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
	err := s.database.finish()
	s.database.release()
	return err
}

func (s *Store) isClosed() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.closed
}

// Epoch identifies this store among all that ever were. It is sealed into every
// artefact that the store has to vouch for; an artefact with another epoch is refused.
// It is empty while a server waits for its database, or for a root secret that the
// store was moved to.
func (s *Store) Epoch() string {
	if m := s.known.Load(); m != nil && !s.foreign.Load() {
		return m.epoch
	}
	return ""
}

// Refused returns a channel that gets an error if the database of a server that waited for
// it can be reached, and refuses the server for a reason that does not pass: Open would have
// failed.
func (s *Store) Refused() <-chan error { return s.refused }

// Read runs fn on one snapshot of the committed rows. The Tx refuses to write.
func (s *Store) Read(ctx context.Context, fn func(Tx) error) error {
	if s.isClosed() {
		return unavailable(s.name, errClosed)
	}
	return s.database.read(ctx, fn)
}

// OfSubject returns the condition that a grant is of the user $1. Together with the condition
// revoked_at = 0 it is how an index finds the rows.
func (s *Store) OfSubject() string { return s.options.engine.ofSubject() }

// Check reports whether the store is sound, answers before ctx ends, and can be written: after
// a write that the disk refused it tries one itself, at most once a second.
func (s *Store) Check(ctx context.Context) error {
	if err := s.database.health(); err != nil {
		return err
	}
	answer := make(chan error, 1)
	go func() { // outlives this call only while the disk hangs, and then waits for one of the few readers
		err := s.Read(ctx, func(tx Tx) error {
			var epoch string
			return tx.QueryRow("SELECT epoch FROM meta").Scan(&epoch)
		})
		if err == nil {
			err = s.checkWrites(ctx)
		}
		answer <- err
	}()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return unavailable(s.name, ctx.Err())
	}
}

// probeEvery is how often Check tries to write while the disk refuses it.
const probeEvery = time.Second

// checkWrites finds that a disk has room again also when no user writes.
func (s *Store) checkWrites(ctx context.Context) error {
	err := s.database.full()
	if err == nil {
		return nil
	}
	now, last := time.Now(), s.probed.Load()
	if last != nil && now.Sub(*last) < probeEvery || !s.probed.CompareAndSwap(last, &now) {
		return unavailable(s.name, err)
	}
	return s.Write(ctx, func(tx Tx) error {
		_, err := tx.Exec("UPDATE meta SET last_seen = last_seen")
		return err
	})
}

var errClosed = errors.New("closed")

// unavailable wraps an error of the engine; name is the store's.
func unavailable(name string, err error) error {
	if isDamage(err) {
		return fmt.Errorf("%w: %w: %s: %w", ErrUnavailable, ErrDamaged, name, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, name, err)
}
