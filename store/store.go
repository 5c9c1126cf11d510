// Package store opens the database, migrates it and groups commits. It knows no
// meaning: packages keep their own statements, store keeps the schema and the one
// row of meta by which a store is known to be itself and whole.
//
// Nothing is acknowledged before it is on disk (synchronous=FULL), and many
// waiting writers share one fsync. A SQLite file that is empty, cut, restored or
// swapped opens without a word, and an empty denylist would give back everything
// that was ever revoked. So [Open] never creates a file, and compares the store
// with a small mirror beside the root secret; when in doubt it refuses, naming
// the file and the command that accepts the loss. It repairs nothing.
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

// What callers branch on. Every error that wraps one names the file.
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

// backwards is how far the wall clock may fall behind the store before it is
// worth a warning.
const backwards = time.Minute

// Options says where a store is and how it is used.
type Options struct {
	Path   string // the SQLite file
	Mirror string // a small file that copies epoch and commit counter; it belongs beside the root secret, in no backup
	Serve  bool   // hold the lock file that only one server may hold

	// Root says whether the store may have been made under the root secret of that
	// fingerprint; nil: any. A store of another one is left as it is.
	Root func(fingerprint string) bool

	Log *slog.Logger // nil logs nothing

	steps []string                 // the schema's, in tests others
	fault func(query string) error // in tests: makes statements fail
	small int64                    // in tests: another smallFile
}

func (o Options) check() (Options, error) {
	if o.Path == "" || o.Mirror == "" {
		return o, errors.New("store: a path and a mirror are needed")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Root == nil {
		o.Root = func(string) bool { return true }
	}
	if o.steps == nil {
		o.steps = sqliteSchema
	}
	if o.small == 0 {
		o.small = smallFile
	}
	return o, nil
}

// Tx is what runs statements inside Write and Read. Placeholders are $1, $2, ...
// A statement that fails makes the whole Write fail with [ErrUnavailable],
// whatever fn makes of it: state conflicts in SQL (ON CONFLICT), not by errors.
type Tx interface {
	Exec(query string, args ...any) (sql.Result, error)
	QueryRow(query string, args ...any) *sql.Row
	Query(query string, args ...any) (*sql.Rows, error)
}

// Store is an open store. It is safe for concurrent use.
type Store struct {
	o           Options
	epoch       string
	fingerprint atomic.Value
	seen        atomic.Int64 // latest time given out or persisted, Unix nanoseconds
	log         *slog.Logger

	mirror  *mirror
	lock    *lock
	readers chan *conn // nil entries are opened when they are needed

	checked chan struct{} // closed when the check for damage is done
	damage  error         // its result, read after checked

	mu     sync.RWMutex // held for reading while a request enters the queue
	closed bool
	queue  chan *request
	stop   context.CancelFunc
	done   sync.WaitGroup
	writer *writer
}

// Open opens an existing store; it never creates one. It checks the file and
// compares it with its mirror before anything is written, then migrates it.
// Files of 64 MiB and more are checked in the background; [Store.Write] and
// [Store.Check] refuse until that is done.
func Open(ctx context.Context, o Options) (_ *Store, err error) {
	o, err = o.check()
	if err != nil {
		return nil, err
	}
	s := &Store{o: o, log: o.Log, queue: make(chan *request, queueSize), readers: make(chan *conn, maxReaders), checked: make(chan struct{})}
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	if o.Serve {
		if s.lock, err = takeLock(o.Path); err != nil {
			return nil, err
		}
	}
	small, err := inspect(ctx, o)
	if err != nil {
		return nil, err
	}
	c, err := openConn(ctx, o, writing)
	if err != nil {
		return nil, unavailable(o.Path, err)
	}
	s.writer = &writer{conn: c}
	if err := migrate(c, o); err != nil {
		return nil, err
	}
	m, err := readMeta(c)
	if err != nil {
		return nil, unavailable(o.Path, err)
	}
	if s.mirror, err = openMirror(o.Mirror); err != nil {
		return nil, err
	}
	s.epoch, s.writer.commits = m.epoch, m.commits
	s.fingerprint.Store(m.fingerprint)
	s.seen.Store(m.lastSeen * int64(time.Millisecond))
	for range maxReaders {
		s.readers <- nil
	}
	s.start(small || !o.Serve)
	return s, nil
}

// start begins the writer and, unless the file was checked already, the check.
// A command that opens a large store leaves the check to the server.
func (s *Store) start(checked bool) {
	if d := s.Behind(); d > backwards {
		s.log.Warn("the clock is behind the store: times go on from the store's", "store", s.o.Path, "behind", d)
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	if checked {
		close(s.checked)
	} else {
		s.done.Go(func() { s.checkPages(ctx) })
	}
	s.done.Go(func() { s.commitLoop(ctx) })
}

func (s *Store) checkPages(ctx context.Context) {
	defer close(s.checked)
	c, err := openConn(ctx, s.o, inspecting)
	if err == nil {
		defer c.close()
		err = quickCheck(ctx, c)
	}
	if err != nil && ctx.Err() == nil {
		s.damage = damaged(s.o.Path, err)
		s.log.Error("the store failed its check and takes no writes", "err", s.damage)
	}
}

// sound is nil once the check for damage has passed.
func (s *Store) sound() error {
	select {
	case <-s.checked:
		return s.damage
	default:
		return fmt.Errorf("%w: %s: still being checked for damage", ErrUnavailable, s.o.Path)
	}
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
	for range maxReaders {
		if c := <-s.readers; c != nil {
			c.close()
		}
	}
	err := s.finish()
	s.release()
	return err
}

// release gives back whatever was opened.
func (s *Store) release() {
	if s.writer != nil {
		s.writer.close()
	}
	if s.mirror != nil {
		s.mirror.close()
	}
	if s.lock != nil {
		s.lock.release()
	}
}

// Epoch identifies this store among all that ever were. It is sealed into what
// the store must vouch for; what carries another epoch is refused.
func (s *Store) Epoch() string { return s.epoch }

// Fingerprint names the root secret that the store was made under.
func (s *Store) Fingerprint() string { return s.fingerprint.Load().(string) }

// SetFingerprint follows a rotation of the root secret.
func (s *Store) SetFingerprint(ctx context.Context, fingerprint string) error {
	err := s.Write(ctx, func(tx Tx) error {
		_, err := tx.Exec("UPDATE meta SET fingerprint = $1", fingerprint)
		return err
	})
	if err == nil {
		s.fingerprint.Store(fingerprint)
	}
	return err
}

// Now is the wall clock made monotonic across restarts: never before a time it
// returned, or one that the store has persisted. What was refused as expired
// stays refused when the clock is set back.
func (s *Store) Now() time.Time {
	now := time.Now()
	for {
		seen := s.seen.Load()
		if now.UnixNano() <= seen {
			return time.Unix(0, seen)
		}
		if s.seen.CompareAndSwap(seen, now.UnixNano()) {
			return now
		}
	}
}

// Behind is how far the wall clock is behind [Store.Now]: more than zero after
// the clock was set back.
func (s *Store) Behind() time.Duration {
	return max(0, time.Duration(s.seen.Load()-time.Now().UnixNano()))
}

// Read runs fn on one snapshot of what was committed. The Tx refuses to write.
func (s *Store) Read(ctx context.Context, fn func(Tx) error) (err error) {
	s.mu.RLock()
	closed := s.closed
	s.mu.RUnlock()
	if closed {
		return unavailable(s.o.Path, errClosed)
	}
	var c *conn
	select {
	case c = <-s.readers:
	case <-ctx.Done():
		return unavailable(s.o.Path, ctx.Err())
	}
	defer func() { s.readers <- c }()
	if c == nil {
		if c, err = openConn(ctx, s.o, reading); err != nil {
			return unavailable(s.o.Path, err)
		}
	}
	if err := c.begin("BEGIN"); err != nil {
		return unavailable(s.o.Path, err)
	}
	defer c.rollback()
	err = fn(c)
	if e := c.failure(err); e != nil {
		return unavailable(s.o.Path, e)
	}
	return err
}

// Check reports whether the store is sound and answers before ctx ends.
func (s *Store) Check(ctx context.Context) error {
	if err := s.sound(); err != nil {
		return err
	}
	answer := make(chan error, 1)
	go func() { // outlives this call only while the disk hangs, and then waits for one of few readers
		answer <- s.Read(ctx, func(tx Tx) error {
			var commits int64
			return tx.QueryRow("SELECT commits FROM meta").Scan(&commits)
		})
	}()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return unavailable(s.o.Path, ctx.Err())
	}
}

var errClosed = errors.New("closed")

// unavailable wraps what the engine said about the file at path.
func unavailable(path string, err error) error {
	if isDamage(err) {
		return fmt.Errorf("%w: %w: %s: %w", ErrUnavailable, ErrDamaged, path, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, path, err)
}

func damaged(path string, err error) error {
	return fmt.Errorf("%w: %s: %w (the file was left as it is; %s)", ErrDamaged, path, err, acceptLoss)
}
