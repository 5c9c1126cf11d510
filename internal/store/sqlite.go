package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// checkpointAt is how many pages may be in the log, by estimate, before they are
// moved into the file.
const checkpointAt = 4000

// file is the SQLite engine, and its one writer.
type file struct {
	*state
	mirror  *mirror
	lock    *lock
	readers chan *conn // nil entries are opened when they are needed

	checked chan struct{} // closed when the check for damage is done
	damage  error         // its result, read after checked

	// The connection that writes, used by one goroutine alone.
	*conn
	commits int64 // meta's counter, as of our last commit
	pages   int   // written since the last checkpoint, by estimate
	behind  bool  // the log knows already that the clock went back
	blind   bool  // the log knows already that the mirror cannot be written
}

func openFile(ctx context.Context, st *state) (_ *file, err error) {
	o := st.o
	f := &file{state: st, readers: make(chan *conn, maxReaders), checked: make(chan struct{})}
	defer func() {
		if err != nil {
			f.release()
		}
	}()
	if o.Serve {
		if f.lock, err = takeLock(o.Path); err != nil {
			return nil, err
		}
	}
	small, err := inspect(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := writable(o.Path); err != nil {
		return nil, err
	}
	if f.conn, err = openConn(ctx, o, writing); err != nil {
		return nil, unavailable(o.Path, err)
	}
	if err := migrate(f.conn, o); err != nil {
		return nil, err
	}
	m, err := readMeta(f.conn)
	if err != nil {
		return nil, unavailable(o.Path, err)
	}
	if f.mirror, err = openMirror(o.Mirror); err != nil {
		return nil, err
	}
	f.commits = m.commits
	f.known.Store(&m)
	f.takeUp(m.lastSeen)
	for range maxReaders {
		f.readers <- nil
	}
	if small || !o.Serve { // a command that opens a large store leaves the check to the server
		close(f.checked)
	}
	return f, nil
}

func (f *file) writers() []writer { return []writer{f} }

// work checks the pages of a large file.
func (f *file) work(ctx context.Context) {
	select {
	case <-f.checked:
		return
	default:
	}
	defer close(f.checked)
	c, err := openConn(ctx, f.o, inspecting)
	if err == nil {
		defer c.close()
		err = quickCheck(ctx, c)
	}
	if err != nil && ctx.Err() == nil {
		f.damage = damaged(f.o.Path, err)
		f.o.Log.Error("the store failed its check and takes no writes", "err", f.damage)
	}
}

// sound is nil once the check for damage has passed.
func (f *file) sound() error {
	select {
	case <-f.checked:
		return f.damage
	default:
		return fmt.Errorf("%w: %s: still being checked for damage", ErrUnavailable, f.o.Path)
	}
}

func (f *file) read(ctx context.Context, fn func(Tx) error) (err error) {
	var c *conn
	select {
	case c = <-f.readers:
	case <-ctx.Done():
		return unavailable(f.o.Path, ctx.Err())
	}
	defer func() { f.readers <- c }()
	if c == nil {
		if c, err = openConn(ctx, f.o, reading); err != nil {
			return unavailable(f.o.Path, err)
		}
	}
	if err := c.begin("BEGIN"); err != nil {
		return unavailable(f.o.Path, err)
	}
	defer c.rollback()
	err = fn(c)
	if e := c.failure(err); e != nil {
		return unavailable(f.o.Path, e)
	}
	return err
}

// transact runs fn between BEGIN and COMMIT. If fn wrote, the counter in meta is
// raised in the same transaction, and the mirror follows before anybody is told.
// Raising it in SQL counts the writes of other processes too. A disk has no
// deadline, and nobody else locks rows.
func (f *file) transact(_ time.Time, _ bool, fn func(session) error) error {
	if err := f.begin("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	if err := fn(f.conn); err != nil {
		f.rollback()
		return err
	}
	if f.writes == 0 {
		f.rollback()
		return nil
	}
	var commits, seen int64
	err := f.one("UPDATE meta SET commits = commits + 1, last_seen = max(last_seen, $1) RETURNING commits, last_seen",
		[]any{f.Now().UnixMilli()}, &commits, &seen)
	if err == nil {
		err = f.commit()
	}
	if err != nil {
		f.rollback()
		return err
	}
	f.commits = commits
	f.pages += f.writes + 2 // a page for each row at most, and meta's
	f.mirrorCommit(seen)
	return nil
}

// mirrorCommit copies the counter to the mirror, and takes up the time that
// another process may have persisted.
func (f *file) mirrorCommit(seen int64) {
	f.advanceMirror(mark{epoch: f.known.Load().epoch, commits: f.commits})
	f.takeUp(seen)
	if f.behind {
		f.behind = f.Behind() > backwards
	} else {
		f.behind = f.warnBehind(f.name, f.o.Log)
	}
}

func (f *file) idle() {
	if f.pages > checkpointAt {
		f.checkpoint("PASSIVE")
	}
}

// checkpoint moves the log into the file. Once all of it is there, the mirror
// remembers that the file by itself holds that many commits, so an old copy of
// the file under the present log is found out too.
func (f *file) checkpoint(mode string) {
	f.pages = 0
	var busy, logged, moved int
	err := f.one("PRAGMA wal_checkpoint("+mode+")", nil, &busy, &logged, &moved)
	if err != nil || busy != 0 || logged != moved {
		return // readers hold a part of it; the next one gets it
	}
	f.advanceMirror(mark{epoch: f.known.Load().epoch, commits: f.commits, base: f.commits})
}

func (f *file) advanceMirror(to mark) {
	err := f.mirror.advance(to)
	if err != nil && !f.blind {
		f.o.Log.Error("the store's mirror cannot be written: a later loss may go unnoticed", "err", err)
	}
	f.blind = err != nil
}

// finish ends a server's work: it persists the latest time, by which something
// may have been refused, and empties the log. A command leaves both to the server
// that may be running.
func (f *file) finish() error {
	for range maxReaders {
		if c := <-f.readers; c != nil {
			c.close()
		}
	}
	if !f.o.Serve {
		f.checkpoint("PASSIVE")
		return nil
	}
	err := f.transact(time.Time{}, false, func(tx session) error {
		exec := func(query string, args ...any) error {
			_, err := tx.Exec(query, args...)
			return err
		}
		return errors.Join(exec("UPDATE meta SET last_seen = max(last_seen, $1)", f.Now().UnixMilli()), f.leave(exec))
	})
	f.checkpoint("TRUNCATE")
	if err != nil {
		return unavailable(f.o.Path, err)
	}
	return nil
}

func (f *file) release() {
	if f.conn != nil {
		f.conn.close()
	}
	if f.mirror != nil {
		f.mirror.close()
	}
	if f.lock != nil {
		f.lock.release()
	}
}
