package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"signet/internal/durable"
)

// create makes a store and its mirror. Each file is written under another name and
// then renamed, the mirror first.
func (sqliteEngine) create(ctx context.Context, o Options, fingerprint string) error {
	unlock, err := takeLock(o.Path)
	if err != nil {
		return err
	}
	defer unlock()
	if err := inspected(ctx, o); !errors.Is(err, ErrNoStore) || errors.Is(err, ErrHalf) {
		if err == nil {
			err = fmt.Errorf("%s: %w", o.Path, fs.ErrExist)
		}
		return fmt.Errorf("creating a store: %w", err)
	}
	return createFiles(ctx, o, meta{fingerprint: fingerprint})
}

// createFiles makes the store and its mirror. The caller holds the lock.
func createFiles(ctx context.Context, o Options, m meta) error {
	m.epoch = rand.Text()
	temporary := o
	temporary.Path = o.Path + ".new"
	defer removeFiles(temporary.Path)
	if err := createFile(ctx, temporary, m); err != nil {
		return fmt.Errorf("creating %s: %w", o.Path, err)
	}
	if err := createMirror(o.Mirror, mark{epoch: m.epoch}); err != nil {
		return fmt.Errorf("creating %s: %w", o.Mirror, err)
	}
	if err := os.Rename(temporary.Path, o.Path); err != nil {
		return fmt.Errorf("creating %s: %w", o.Path, err)
	}
	return durable.SyncDir(filepath.Dir(o.Path))
}

// createFile makes a whole store in one file.
func createFile(ctx context.Context, o Options, m meta) error {
	removeFiles(o.Path) // left by an earlier attempt
	f, err := durable.New(o.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	c, err := openConn(ctx, o, writing)
	if err != nil {
		return err
	}
	err = createTables(c, o, m)
	c.close() // moves the log into the file
	if err != nil {
		return err
	}
	if _, err := os.Stat(o.Path + "-wal"); err == nil {
		return errors.New("the log was not moved into the file")
	}
	return f.Sync()
}

func createTables(c *sqliteConn, o Options, m meta) error {
	if err := c.begin("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer c.rollback()
	for _, step := range o.steps {
		if _, err := c.raw.ExecContext(context.Background(), step); err != nil {
			return err
		}
	}
	_, err := c.Exec("INSERT INTO meta (one, epoch, schema, commits, fingerprint, last_seen) VALUES (1, $1, $2, 0, $3, $4)",
		m.epoch, len(o.steps), m.fingerprint, time.Now().UnixMilli())
	if err != nil {
		return err
	}
	if m.notBefore != 0 {
		if _, err := c.Exec("UPDATE meta SET not_before = $1", m.notBefore); err != nil {
			return err
		}
	}
	return c.commit()
}

// suffixes are those of the files that SQLite makes of one path.
var suffixes = []string{"", "-wal", "-shm", "-journal"}

func removeFiles(path string) {
	for _, suffix := range suffixes {
		os.Remove(path + suffix)
	}
}

func (sqliteEngine) newEpoch(ctx context.Context, o Options, fingerprint string) (aside []string, err error) {
	unlock, err := takeLock(o.Path)
	if err != nil {
		return nil, err
	}
	defer unlock()
	err = inspected(ctx, o)
	if errors.Is(err, ErrHalf) && !errors.Is(err, ErrNoStore) {
		// The mirror is missing or unreadable, so the store itself was not inspected.
		if err := createMirror(o.Mirror, mark{epoch: "unknown"}); err != nil {
			return nil, err
		}
		err = inspected(ctx, o)
	}
	switch {
	case errors.Is(err, ErrDamaged), errors.Is(err, ErrNoStore), errors.Is(err, ErrOtherRoot):
		if aside, err = setFilesAside(o); err != nil {
			return aside, err
		}
		return aside, createFiles(ctx, o, meta{fingerprint: fingerprint, notBefore: notBefore(time.Now())})
	case err == nil, errors.Is(err, ErrRolledBack), errors.Is(err, ErrOtherStore):
		return nil, changeEpoch(ctx, o, fingerprint)
	default:
		return nil, err
	}
}

// changeEpoch gives a whole store another epoch, and then its mirror. If it is
// interrupted between the two, the store is not the one that its mirror knows, and
// NewEpoch changes the epoch again.
func changeEpoch(ctx context.Context, o Options, fingerprint string) error {
	epoch := rand.Text()
	c, err := openConn(ctx, o, writing)
	if err != nil {
		return unavailable(o.Path, err)
	}
	defer c.close()
	if err := migrate(c, o); err != nil {
		return err
	}
	if err := c.begin("BEGIN IMMEDIATE"); err != nil {
		return unavailable(o.Path, err)
	}
	defer c.rollback()
	now := time.Now()
	_, err = c.Exec(acceptLost+", commits = commits + 1", epoch, fingerprint, now.UnixMilli(), notBefore(now))
	if err == nil {
		err = c.commit()
	}
	if err != nil {
		return unavailable(o.Path, err)
	}
	return createMirror(o.Mirror, mark{epoch: epoch})
}

// setFilesAside renames all files of a store. It returns the new names of those that are there.
func setFilesAside(o Options) (aside []string, err error) {
	suffix := time.Now().UTC().Format(".lost-20060102-150405.000")
	if err := renameStore(o.Path, suffix); err != nil {
		return nil, err
	}
	if err := renameIfThere(o.Mirror, o.Mirror+suffix); err != nil {
		return nil, err
	}
	for _, path := range []string{o.Path + suffix, o.Mirror + suffix} {
		if _, err := os.Lstat(path); err == nil {
			aside = append(aside, path)
		}
	}
	o.Log.Warn("the old store is set aside", "store", o.Path+suffix)
	return aside, nil
}

// renameStore appends suffix to the path of a store.
func renameStore(path, suffix string) error {
	for _, part := range suffixes {
		if err := renameIfThere(path+part, path+suffix+part); err != nil {
			return err
		}
	}
	return nil
}

func renameIfThere(from, to string) error {
	if err := os.Rename(from, to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
