package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Contents is what a store is restored from.
type Contents struct {
	Fingerprint string    // of the root secret under which it was made
	Seen        time.Time // the latest time that the store had seen

	// Next returns the rows, table by table, and [io.EOF] after the last, once it is
	// certain that nothing is missing. Values are int64, string or nil.
	Next func() (t Table, values []any, err error)
}

// Restore makes a store of contents, with a new epoch: what was issued before is
// refused. A store that is there is set aside under the name that is returned, and only
// if replace says so, else it is [fs.ErrExist]. It refuses while a server runs. Whatever
// fails, and wherever it is cut short, there is the store of before or the one that is
// restored: on SQLite after [FinishRestore].
func Restore(ctx context.Context, o Options, contents Contents, replace bool) (aside string, err error) {
	o, err = o.check()
	if err != nil {
		return "", err
	}
	if IsURL(o.Path) {
		return restorePostgres(ctx, o, contents, replace)
	}
	l, err := takeLock(o.Path)
	if err != nil {
		return "", err
	}
	defer l.release()
	finished, err := finishRestore(o)
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(o.Path); !errors.Is(err, fs.ErrNotExist) && !replace && !finished {
		return "", fmt.Errorf("restoring a store: %s: %w", o.Path, fs.ErrExist)
	}
	epoch := rand.Text()
	made := o
	made.Path = restored(o)
	if err := load(ctx, made, epoch, contents); err != nil {
		removeFiles(made.Path)
		return "", err
	}
	suffix := time.Now().UTC().Format(".replaced-20060102-150405.000")
	if err := replaceFile(restoring(o), []byte(epoch+" "+suffix+"\n")); err != nil {
		removeFiles(made.Path)
		return "", err
	}
	if _, err := finishRestore(o); err != nil {
		return "", err
	}
	if _, err := os.Lstat(o.Path + suffix); err == nil {
		aside = o.Path + suffix
	}
	return aside, nil
}

// A restored SQLite store is made whole beside the one that is there. From the moment
// at which the file restoring exists, the store is the restored one, and all that is
// left is to give the files their names.
func restored(o Options) string  { return o.Path + ".restored" }
func restoring(o Options) string { return o.Path + ".restoring" }

// Restoring reports whether a restore was cut short, or runs now, so that
// [FinishRestore] is due.
func Restoring(o Options) bool {
	if IsURL(o.Path) {
		return false
	}
	_, err := os.Lstat(restoring(o))
	return err == nil
}

// FinishRestore completes a [Restore] that was cut short. Where there was none, or a
// restore that never came to its end, it does nothing.
func FinishRestore(o Options) error {
	if !Restoring(o) {
		return nil
	}
	l, err := takeLock(o.Path)
	if err != nil {
		return err
	}
	defer l.release()
	_, err = finishRestore(o)
	return err
}

// finishRestore gives the files their names. Each step may have been done before. The
// caller holds the lock.
func finishRestore(o Options) (finished bool, err error) {
	b, err := os.ReadFile(restoring(o))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	epoch, suffix, ok := strings.Cut(strings.TrimSpace(string(b)), " ")
	if !ok || !strings.HasPrefix(suffix, ".replaced-") {
		return false, fmt.Errorf("%w: %s does not say what was being restored: remove it, and restore again", ErrHalf, restoring(o))
	}
	if _, err := os.Lstat(restored(o)); err == nil { // so what has its name is another store
		for _, part := range parts {
			if err := moved(o.Path+part, o.Path+suffix+part); err != nil {
				return false, err
			}
		}
		if err := os.Rename(restored(o), o.Path); err != nil {
			return false, err
		}
	}
	if m, err := readMirror(o.Mirror); err != nil || m.epoch != epoch {
		if err := moved(o.Mirror, o.Mirror+suffix); err != nil {
			return false, err
		}
		if err := createMirror(o.Mirror, mark{epoch: epoch}); err != nil {
			return false, err
		}
	}
	if err := syncDir(o.Path); err != nil {
		return false, err
	}
	if err := os.Remove(restoring(o)); err != nil {
		return false, err
	}
	return true, syncDir(o.Path)
}

func moved(from, to string) error {
	if err := os.Rename(from, to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// loading is for a file that nobody uses yet and that is thrown away when it is not
// finished, so it needs no journal.
const loading use = "mode=rw&_pragma=journal_mode(OFF)&_pragma=synchronous(OFF)&_pragma=cache_size(-64000)"

// loadTogether is how many rows share a transaction.
const loadTogether = 10_000

// load makes a whole store of contents in one file, durably.
func load(ctx context.Context, o Options, epoch string, contents Contents) error {
	if err := fill(ctx, o, epoch, contents.Fingerprint); err != nil {
		return fmt.Errorf("making %s: %w", o.Path, err)
	}
	if err := loadRows(ctx, o, contents); err != nil {
		return err
	}
	c, err := openConn(ctx, o, writing) // from now on with a log
	if err != nil {
		return fmt.Errorf("making %s: %w", o.Path, err)
	}
	err = quickCheck(ctx, c)
	c.close()
	if err != nil {
		return fmt.Errorf("making %s: %w", o.Path, err)
	}
	f, err := os.OpenFile(o.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return syncDir(o.Path)
}

func loadRows(ctx context.Context, o Options, contents Contents) error {
	c, err := openConn(ctx, o, loading)
	if err != nil {
		return fmt.Errorf("making %s: %w", o.Path, err)
	}
	defer c.close()
	_, err = c.Exec("UPDATE meta SET last_seen = max($1, $2)", contents.Seen.UnixMilli(), time.Now().UnixMilli())
	for more := true; more && err == nil; {
		if err = c.begin("BEGIN"); err != nil {
			break
		}
		if more, err = loadSome(ctx, c, contents.Next); err == nil {
			err = c.commit()
		}
	}
	if err != nil && c.err != nil {
		return fmt.Errorf("making %s: %w", o.Path, c.err)
	}
	return err
}

func loadSome(ctx context.Context, c *conn, next func() (Table, []any, error)) (more bool, err error) {
	var name, insert string
	for range loadTogether {
		t, values, err := next()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return false, err
		}
		if t.Name != name {
			name, insert = t.Name, t.insert()
		}
		if _, err := c.Exec(insert, values...); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (t Table) insert() string {
	places := make([]string, len(t.Columns))
	for i := range places {
		places[i] = fmt.Sprintf("$%d", i+1)
	}
	return fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", t.Name, strings.Join(t.Columns, ", "), strings.Join(places, ", "))
}

// restorePostgres does all in one transaction.
func restorePostgres(ctx context.Context, o Options, contents Contents, replace bool) (aside string, err error) {
	var stopped error // by what is restored: not the database's fault
	next := func() (t Table, values []any, err error) {
		t, values, err = contents.Next()
		if err != nil && !errors.Is(err, io.EOF) {
			stopped = err
		}
		return t, values, err
	}
	err = alter(ctx, o, func(ctx context.Context, p *postgres, tx pgx.Tx) error {
		if err := p.alone(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, patient); err != nil {
			return err
		}
		there, err := isThere(ctx, tx)
		if err != nil {
			return err
		}
		if there && !replace {
			return fmt.Errorf("restoring a store: %s: %w", p.name, fs.ErrExist)
		}
		if there {
			if aside, err = p.setAside(ctx, tx, "replaced"); err != nil {
				return err
			}
		}
		if _, err := p.establish(ctx, tx, contents.Fingerprint); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "UPDATE meta SET last_seen = GREATEST(last_seen, $1)", contents.Seen.UnixMilli()); err != nil {
			return err
		}
		return copyRows(ctx, tx, next)
	})
	if stopped != nil {
		err = stopped
	}
	return aside, err
}

// copyRows lets the database read the rows of each table, by COPY.
func copyRows(ctx context.Context, tx pgx.Tx, next func() (Table, []any, error)) error {
	from := &copying{next: next}
	from.advance()
	for from.err == nil {
		t := from.t
		first := true
		_, err := tx.CopyFrom(ctx, pgx.Identifier{t.Name}, t.Columns, pgx.CopyFromFunc(func() ([]any, error) {
			if !first {
				from.advance()
			}
			first = false
			if from.err != nil && !errors.Is(from.err, io.EOF) {
				return nil, from.err
			}
			if from.err != nil || from.t.Name != t.Name {
				return nil, nil
			}
			return from.values, nil
		}))
		if err != nil && (from.err == nil || errors.Is(from.err, io.EOF)) {
			return err
		}
	}
	if errors.Is(from.err, io.EOF) {
		return nil
	}
	return from.err
}

// copying is one row ahead, to see where a table ends.
type copying struct {
	next   func() (Table, []any, error)
	t      Table
	values []any
	err    error
}

func (c *copying) advance() {
	c.t, c.values, c.err = c.next()
	c.values = slices.Clone(c.values)
}
