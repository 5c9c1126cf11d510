package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"signet/internal/durable"
)

// A restored store is made whole under another name, beside the store that is there.
// Once the file at restoringPath exists, the restored store is the valid one, and all
// that is left to do is to rename files.
func restoredPath(o Options) string  { return o.Path + ".restored" }
func restoringPath(o Options) string { return o.Path + ".restoring" }

func (sqliteEngine) restore(ctx context.Context, o Options, contents Contents, replace bool) (aside string, err error) {
	unlock, err := takeLock(o.Path)
	if err != nil {
		return "", err
	}
	defer unlock()
	finished, err := renameRestored(o)
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(o.Path); !errors.Is(err, fs.ErrNotExist) && !replace && !finished {
		return "", fmt.Errorf("restoring a store: %s: %w", o.Path, fs.ErrExist)
	}
	epoch := rand.Text()
	restored := o
	restored.Path = restoredPath(o)
	if err := load(ctx, restored, epoch, contents); err != nil {
		removeFiles(restored.Path)
		return "", err
	}
	suffix := time.Now().UTC().Format(".replaced-20060102-150405.000")
	if err := durable.Replace(restoringPath(o), []byte(epoch+" "+suffix+"\n")); err != nil {
		removeFiles(restored.Path)
		return "", err
	}
	if _, err := renameRestored(o); err != nil {
		return "", err
	}
	if _, err := os.Lstat(o.Path + suffix); err == nil {
		aside = o.Path + suffix
	}
	return aside, nil
}

func (sqliteEngine) restoring(o Options) bool {
	_, err := os.Lstat(restoringPath(o))
	return err == nil
}

func (e sqliteEngine) finishRestore(o Options) error {
	if !e.restoring(o) {
		return nil
	}
	unlock, err := takeLock(o.Path)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = renameRestored(o)
	return err
}

// renameRestored puts a restored store in its place, if there is one. Each step may
// have been done before. The caller holds the lock.
func renameRestored(o Options) (finished bool, err error) {
	b, err := durable.ReadFile(restoringPath(o), maxMirror)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	epoch, suffix, ok := strings.Cut(strings.TrimSpace(string(b)), " ")
	if !ok || !strings.HasPrefix(suffix, ".replaced-") {
		return false, fmt.Errorf("%w: %s does not say what was being restored: remove it, and restore again", ErrHalf, restoringPath(o))
	}
	if _, err := os.Lstat(restoredPath(o)); err == nil { // so a file at o.Path is another store
		if err := renameStore(o.Path, suffix); err != nil {
			return false, err
		}
		if err := os.Rename(restoredPath(o), o.Path); err != nil {
			return false, err
		}
	}
	if m, err := readMirror(o.Mirror); err != nil || m.epoch != epoch {
		if err := renameIfThere(o.Mirror, o.Mirror+suffix); err != nil {
			return false, err
		}
		if err := createMirror(o.Mirror, mark{epoch: epoch}); err != nil {
			return false, err
		}
	}
	if err := durable.SyncDir(filepath.Dir(o.Path)); err != nil {
		return false, err
	}
	if err := os.Remove(restoringPath(o)); err != nil {
		return false, err
	}
	return true, durable.SyncDir(filepath.Dir(o.Path))
}

// loading is for a file that nothing else uses yet, and that is thrown away unless it
// is completed: it needs no journal.
const loading use = "mode=rw&_pragma=journal_mode(OFF)&_pragma=synchronous(OFF)&_pragma=cache_size(-64000)"

// loadTogether is how many rows share a transaction.
const loadTogether = 10_000

// load makes a whole store of contents in one file, durably.
func load(ctx context.Context, o Options, epoch string, contents Contents) error {
	if err := createFile(ctx, o, meta{epoch: epoch, fingerprint: contents.Fingerprint}); err != nil {
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
	f, err := os.OpenFile(o.Path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(o.Path))
}

func loadRows(ctx context.Context, o Options, contents Contents) error {
	c, err := openConn(ctx, o, loading)
	if err != nil {
		return fmt.Errorf("making %s: %w", o.Path, err)
	}
	defer c.close()
	_, err = c.Exec(restored, contents.restored()...)
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

func loadSome(ctx context.Context, c *sqliteConn, next func() (Table, []any, error)) (more bool, err error) {
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
