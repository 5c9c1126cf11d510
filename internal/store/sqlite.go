package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"signet/internal/background"
)

// checkpointAt is how many pages may be in the log, by estimate, before they are moved
// into the file.
const checkpointAt = 4000

// sqliteEngine keeps a store in a file that one server uses.
type sqliteEngine struct{}

func (sqliteEngine) shared() bool { return false }

func (sqliteEngine) checkLocation(string) error { return nil }

func (sqliteEngine) schema() []string { return sqliteSchema }

// runningServers is true for every row: there is at most one, of the server that ran
// last. Whether it still runs is known by its lock, see [Hold].
func (sqliteEngine) runningServers() string { return "1 = 1" }

func (sqliteEngine) ofSubject() string { return "sub = $1" }

// staleServers has the row of every earlier server deleted.
func (sqliteEngine) staleServers(now int64) int64 { return now + 1 }

func (sqliteEngine) hold(path string) (release func(), err error) {
	return takeLock(path)
}

// sqliteFile is an open SQLite store, and its one writer.
type sqliteFile struct {
	*state
	mirror *mirror
	unlock func()           // nil unless it serves
	reads  chan struct{}    // one for each read that runs
	unused chan *sqliteConn // connections for reading that are open and wait for a read

	checked chan struct{} // closed when the check for damage is done
	damage  error         // result of that check, read after checked is closed

	// The connection that writes, used by one goroutine alone.
	*sqliteConn
	refused     atomic.Pointer[error] // see full
	commits     atomic.Int64          // meta's counter, as of the last commit here; written by that goroutine
	pages       int                   // written since the last checkpoint, by estimate
	clockBehind background.Condition
	mirrorFails background.Condition
}

func (sqliteEngine) open(ctx context.Context, s *state) (_ database, err error) {
	o := s.options
	f := &sqliteFile{
		state: s, reads: make(chan struct{}, maxReaders), unused: make(chan *sqliteConn, maxReaders), checked: make(chan struct{}),
		clockBehind: background.Condition{Log: o.Log, Level: slog.LevelWarn, Begin: clockIsBehind},
		mirrorFails: background.Condition{Log: o.Log, Level: slog.LevelError, Begin: "the store's mirror cannot be written: a later loss may go unnoticed"},
	}
	defer func() {
		if err != nil {
			f.release()
		}
	}()
	if o.Serve {
		if f.unlock, err = takeLock(o.Path); err != nil {
			return nil, err
		}
	}
	reader, small, err := inspect(ctx, o)
	if err != nil {
		return nil, err
	}
	f.unused <- reader
	if err := checkWritable(o.Path); err != nil {
		return nil, err
	}
	if f.sqliteConn, err = openConn(ctx, o, writing); err != nil {
		return nil, unavailable(o.Path, err)
	}
	if err := migrate(f.sqliteConn, o); err != nil {
		return nil, err
	}
	m, err := readMeta(f.sqliteConn)
	if err != nil {
		return nil, unavailable(o.Path, err)
	}
	if m.schema >= sqliteWithEnded {
		if err := readEnded(f.sqliteConn, &m); err != nil {
			return nil, unavailable(o.Path, err)
		}
	}
	if f.mirror, err = openMirror(o.Mirror); err != nil {
		return nil, err
	}
	if err := f.renewMirror(m); err != nil { // it may be of an ended epoch, see inspectContent
		return nil, err
	}
	f.commits.Store(m.commits)
	f.known.Store(&m)
	f.takeUp(m.lastSeen)
	if small || !o.Serve { // a command that opens a large store leaves the check to the server
		close(f.checked)
	}
	return f, nil
}

func (f *sqliteFile) writers() []writer { return []writer{f} }

// work checks the pages of a large file.
func (f *sqliteFile) work(ctx context.Context) {
	select {
	case <-f.checked:
		return
	default:
	}
	defer close(f.checked)
	c, err := openConn(ctx, f.options, reading)
	if err == nil {
		defer c.close()
		err = quickCheck(ctx, c)
	}
	if err != nil && ctx.Err() == nil {
		f.damage = damaged(f.options.Path, err)
		f.options.Log.Error("the store failed its check and takes no writes", "err", f.damage)
	}
}

// health is nil once the check for damage has passed.
func (f *sqliteFile) health() error {
	select {
	case <-f.checked:
		return f.damage
	default:
		return fmt.Errorf("%w: %s: still being checked for damage", ErrUnavailable, f.options.Path)
	}
}

func (f *sqliteFile) full() error {
	if err := f.refused.Load(); err != nil {
		return *err
	}
	return nil
}

func (f *sqliteFile) read(ctx context.Context, fn func(Tx) error) (err error) {
	select {
	case f.reads <- struct{}{}:
	case <-ctx.Done():
		return unavailable(f.options.Path, ctx.Err())
	}
	defer func() { <-f.reads }()
	var c *sqliteConn
	select {
	case c = <-f.unused:
	default:
		if c, err = openConn(ctx, f.options, reading); err != nil {
			return unavailable(f.options.Path, err)
		}
	}
	defer func() { f.unused <- c }()
	if err := c.begin("BEGIN"); err != nil {
		return unavailable(f.options.Path, err)
	}
	defer c.rollback()
	err = fn(c)
	if e := c.failure(err); e != nil {
		return unavailable(f.options.Path, e)
	}
	return err
}

// transact runs fn between BEGIN and COMMIT. If fn wrote, it raises the counter in
// meta in the same transaction, and the mirror before a caller gets its answer. The
// counter is raised in SQL, so that it counts the writes of other processes too. A
// disk has no deadline, and there are no row locks to wait for.
//
// An unsynced transaction is not counted, because the mirror must never be ahead of the disk.
func (f *sqliteFile) transact(_ time.Time, m mode, fn func(session) error) (err error) {
	defer func() {
		if diskRefuses(err) {
			why := err // the result need not be on the heap otherwise
			f.refused.Store(&why)
		}
	}()
	if err := f.syncs(m != unsynced); err != nil {
		return err
	}
	if err := f.begin("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	if err := fn(f.sqliteConn); err != nil {
		f.rollback()
		return err
	}
	if f.writes == 0 {
		f.rollback()
		return nil
	}
	if m == unsynced {
		if err := f.commit(); err != nil {
			f.rollback()
			return err
		}
		f.pages += f.writes
		f.refused.Store(nil)
		return nil
	}
	var commits, seen int64
	var epoch string
	now := int64(0)
	if f.options.Serve { // a command refuses nothing by its time, and would not notice that its clock has leapt
		now = f.Now().UnixMilli()
	}
	err = f.one("UPDATE meta SET commits = commits + 1, last_seen = max(last_seen, $1) RETURNING commits, last_seen, epoch",
		[]any{now}, &commits, &seen, &epoch)
	if last := f.commits.Load(); err == nil && commits <= last {
		f.rollback()
		if !f.options.Serve { // a command leaves it to the server
			return fmt.Errorf("%w: %s", ErrRolledBack, f.name)
		}
		return errors.Join(f.rolledBack(epoch, last), fmt.Errorf("%w: its commit counter went back from %d to %d", ErrRolledBack, last, commits-1))
	}
	if err == nil {
		err = f.commit()
	}
	if err != nil {
		f.rollback()
		return err
	}
	f.commits.Store(commits)
	f.refused.Store(nil)
	f.pages += f.writes + 2 // at most a page for each row, and meta's
	if epoch != f.known.Load().epoch || f.changed.Swap(false) {
		f.readAgain()
	}
	f.mirrorCommit(seen)
	return nil
}

// change is not called: the store is not shared.
func (f *sqliteFile) change(time.Time, []*request) ([]bool, error) { return nil, errUndone }

// rolledBack takes the counter of a file that was rolled back to where it was, after last,
// and ends the epoch.
func (f *sqliteFile) rolledBack(epoch string, last int64) error {
	if err := f.begin("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer f.rollback()
	query, args := f.afterRollback(epoch)
	_, err := f.Exec(query, args...)
	if err == nil {
		_, err = f.Exec("UPDATE meta SET commits = $1", last+1)
	}
	if err == nil {
		err = f.commit()
	}
	if err == nil {
		f.commits.Store(last + 1)
		f.readAgain()
	}
	return err
}

// readAgain takes up an epoch that has just been written, in the mirror too. If it is
// interrupted before that, the next start finds that the mirror's epoch is one of those
// that have ended.
func (f *sqliteFile) readAgain() {
	m, err := readMeta(f.sqliteConn)
	if err == nil {
		err = readEnded(f.sqliteConn, &m)
	}
	if err != nil {
		f.changed.Store(true) // so that the next commit tries again
		return
	}
	f.mirrorFails.Fails(context.Background(), f.renewMirror(m))
	f.adopt(m)
}

// renewMirror makes a mirror for the present epoch, if it has another one.
func (f *sqliteFile) renewMirror(m meta) error {
	if seen, err := readMirror(f.options.Mirror); err != nil || seen.epoch == m.epoch {
		return err
	}
	if err := createMirror(f.options.Mirror, mark{epoch: m.epoch, commits: m.commits}); err != nil {
		return err
	}
	next, err := openMirror(f.options.Mirror)
	if err != nil {
		return err
	}
	f.mirror.close()
	f.mirror = next
	return nil
}

// look does nothing: each commit here takes up the epoch.
func (f *sqliteFile) look(context.Context) error { return nil }

// compare finds a file that was put back while it was open.
func (f *sqliteFile) compare(ctx context.Context) error {
	last := f.commits.Load() // first, so that what is read is never older
	var commits int64
	err := f.read(ctx, func(tx Tx) error { return tx.QueryRow("SELECT commits FROM meta").Scan(&commits) })
	if err == nil && commits < last {
		return fmt.Errorf("%w: %s", ErrRolledBack, f.name)
	}
	return err
}

// mirrorCommit copies the counter to the mirror, and takes up the time that another
// process may have persisted.
func (f *sqliteFile) mirrorCommit(seen int64) {
	f.advanceMirror(mark{epoch: f.known.Load().epoch, commits: f.commits.Load()})
	f.hear(seen)
	d := f.Behind()
	f.clockBehind.Holds(d > backwards, "store", f.name, "behind", d)
}

func (f *sqliteFile) idle() {
	if f.pages > checkpointAt {
		f.checkpoint("PASSIVE")
	}
}

// checkpoint moves the log into the file. Once the whole log is there, the mirror
// notes how many commits the file contains by itself, so that an old copy of the file
// under the present log is detected too.
func (f *sqliteFile) checkpoint(mode string) {
	f.pages = 0
	var busy, logged, moved int
	err := f.one("PRAGMA wal_checkpoint("+mode+")", nil, &busy, &logged, &moved)
	if err != nil || busy != 0 || logged != moved {
		return // readers hold a part of the log: the next checkpoint moves it
	}
	f.advanceMirror(mark{epoch: f.known.Load().epoch, commits: f.commits.Load(), base: f.commits.Load()})
}

func (f *sqliteFile) advanceMirror(to mark) {
	f.mirrorFails.Fails(context.Background(), f.mirror.advance(to))
}

// finish ends a server's work: it persists the latest time, by which a request may
// have been refused, and empties the log. A command leaves both to the server that may
// be running.
func (f *sqliteFile) finish() error {
	for range maxReaders { // the reads that run end, and none begins
		f.reads <- struct{}{}
	}
	f.closeUnused()
	if !f.options.Serve {
		f.checkpoint("PASSIVE")
		return nil
	}
	err := f.transact(time.Time{}, alone, func(tx session) error {
		exec := func(query string, args ...any) error {
			_, err := tx.Exec(query, args...)
			return err
		}
		return errors.Join(exec("UPDATE meta SET last_seen = max(last_seen, $1)", f.Now().UnixMilli()), f.deleteServer(exec))
	})
	f.checkpoint("TRUNCATE")
	if err != nil {
		return unavailable(f.options.Path, err)
	}
	return nil
}

// closeUnused closes the connections for reading. Those of reads that run are not among them.
func (f *sqliteFile) closeUnused() {
	for len(f.unused) > 0 {
		(<-f.unused).close()
	}
}

func (f *sqliteFile) release() {
	f.closeUnused()
	if f.sqliteConn != nil {
		f.sqliteConn.close()
	}
	if f.mirror != nil {
		f.mirror.close()
	}
	if f.unlock != nil {
		f.unlock()
	}
}
