package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"signet/internal/durable"
)

// inspect checks a store without changing it: that it exists, that it is whole, that
// its mirror knows it, and that it lost nothing. The mirror is read before the store,
// because a running server may write both meanwhile. The connection that it was read by
// is open and for reading. small reports whether the file was checked page by page.
func inspect(ctx context.Context, o Options) (c *sqliteConn, small bool, err error) {
	seen, mirrorErr := readMirror(o.Mirror)
	small, err = inspectFile(o)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, missingError(o, seen, mirrorErr)
	}
	if err != nil {
		return nil, false, err
	}
	if errors.Is(mirrorErr, fs.ErrNotExist) {
		return nil, false, fmt.Errorf("%w: %s is there, its mirror %s is not (%s)", ErrHalf, o.Path, o.Mirror, acceptLoss)
	}
	if mirrorErr != nil {
		return nil, false, mirrorErr
	}
	if c, err = openConn(ctx, o, reading); err != nil {
		return nil, false, inspectError(o.Path, err)
	}
	if err := inspectContent(ctx, c, o, seen, small); err != nil {
		c.close()
		return nil, false, err
	}
	return c, small, nil
}

// inspected is inspect without the connection.
func inspected(ctx context.Context, o Options) error {
	c, _, err := inspect(ctx, o)
	if err == nil {
		c.close()
	}
	return err
}

// missingError tells a first start from a loss. A mirror that counts no commit is left
// from a first start that was interrupted.
func missingError(o Options, seen mark, mirrorErr error) error {
	_, logErr := os.Stat(o.Path + "-wal")
	if logErr != nil && (errors.Is(mirrorErr, fs.ErrNotExist) || mirrorErr == nil && seen.commits == 0) {
		return fmt.Errorf("%w: %s", ErrNoStore, o.Path)
	}
	return fmt.Errorf("%w: %w: %s is gone, but its mirror or its log is not (%s)", ErrNoStore, ErrHalf, o.Path, acceptLoss)
}

// smallFile is the size below which the pages of a file are checked at every start.
const smallFile = 64 << 20

// inspectFile checks what can be seen without SQLite, which would take an empty file
// for an empty database. It does not open the file: closing it would drop the locks
// that other connections in this process may hold.
func inspectFile(o Options) (small bool, err error) {
	path := o.Path
	fi, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	if err := (durable.Access{}).Check(path, fi); err != nil { // it holds sealed keys and the users' grants
		return false, err
	}
	if fi.Size() == 0 {
		return false, damaged(path, errors.New("empty"))
	}
	return fi.Size() < cmp.Or(o.small, smallFile), nil
}

func inspectContent(ctx context.Context, c *sqliteConn, o Options, seen mark, small bool) error {
	if small {
		if err := quickCheck(ctx, c); err != nil {
			return inspectError(o.Path, err)
		}
	}
	m, err := readMeta(c)
	if err != nil {
		return inspectError(o.Path, fmt.Errorf("it does not say which store it is: %w", err))
	}
	switch {
	case m.schema > int64(len(o.steps)):
		return fmt.Errorf("%w: %s has schema %d, this program knows %d", ErrNewer, o.Path, m.schema, len(o.steps))
	case !o.Root(m.fingerprint):
		return fmt.Errorf("%w: %s: put the right secret back (%s)", ErrOtherRoot, o.Path, acceptLoss)
	case m.epoch != seen.epoch && !(m.schema >= sqliteWithEnded && readEnded(c, &m) == nil && m.hasEnded(seen.epoch)):
		return fmt.Errorf("%w: %s and its mirror %s have different epochs (%s)", ErrOtherStore, o.Path, o.Mirror, acceptLoss)
	case m.commits < seen.commits:
		return fmt.Errorf("%w: %s has %d commits, its mirror %s counted %d (%s)", ErrRolledBack, o.Path, m.commits, o.Mirror, seen.commits, acceptLoss)
	}
	if base, ok := fileCommits(ctx, o); ok && base < seen.base {
		return fmt.Errorf("%w: %s by itself has %d commits, its mirror %s counted %d: an old copy under a later log (%s)",
			ErrRolledBack, o.Path, base, o.Mirror, seen.base, acceptLoss)
	}
	return nil
}

// inspectError tells damage from a file that cannot be read at the moment.
func inspectError(path string, err error) error {
	e := (*sqlite.Error)(nil)
	if errors.As(err, &e) && !isDamage(err) && e.Code()&0xff != sqlite3.SQLITE_ERROR {
		return unavailable(path, err)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return unavailable(path, err)
	}
	return damaged(path, err)
}

// fileCommits reads the counter from the file without its log. It is not ok if there is no
// log, so that the file has all commits, or if another process is just moving the log into it.
func fileCommits(ctx context.Context, o Options) (commits int64, ok bool) {
	if log, err := os.Stat(o.Path + "-wal"); err == nil && log.Size() == 0 || errors.Is(err, fs.ErrNotExist) {
		return 0, false
	}
	c, err := openConn(ctx, o, fileAlone)
	if err != nil {
		return 0, false
	}
	defer c.close()
	m, err := readMeta(c)
	return m.commits, err == nil
}

// quickCheck checks every page.
func quickCheck(ctx context.Context, c *sqliteConn) error {
	rows, err := c.raw.QueryContext(ctx, "PRAGMA quick_check(3)")
	if err != nil {
		return err
	}
	defer rows.Close()
	var found []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return err
		}
		found = append(found, line)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if len(found) != 1 || found[0] != "ok" {
		return errors.New(strings.Join(found, "; "))
	}
	return nil
}

func damaged(path string, err error) error {
	return fmt.Errorf("%w: %s: %w (the file was left as it is; %s)", ErrDamaged, path, err, acceptLoss)
}
