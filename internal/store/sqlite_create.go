package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// Create makes a store that must not exist ([fs.ErrExist]): a new epoch, the schema,
// on SQLite a mirror. fingerprint names the root secret it belongs to. Each file is made aside and
// moved into place, the mirror first: cut short at any point, Create can be
// called again, and what is left is [ErrNoStore] to Open.
func Create(ctx context.Context, o Options, fingerprint string) error {
	o, err := o.check()
	if err != nil {
		return err
	}
	if IsURL(o.Path) {
		return createPostgres(ctx, o, fingerprint)
	}
	l, err := takeLock(o.Path)
	if err != nil {
		return err
	}
	defer l.release()
	if _, err := inspect(ctx, o); !errors.Is(err, ErrNoStore) || errors.Is(err, ErrHalf) {
		if err == nil {
			err = fmt.Errorf("%s: %w", o.Path, fs.ErrExist)
		}
		return fmt.Errorf("creating a store: %w", err)
	}
	return create(ctx, o, fingerprint)
}

// create makes the files. The caller holds the lock.
func create(ctx context.Context, o Options, fingerprint string) error {
	epoch := rand.Text()
	aside := o
	aside.Path = o.Path + ".new"
	defer removeFiles(aside.Path)
	if err := fill(ctx, aside, epoch, fingerprint); err != nil {
		return fmt.Errorf("creating %s: %w", o.Path, err)
	}
	if err := createMirror(o.Mirror, mark{epoch: epoch}); err != nil {
		return fmt.Errorf("creating %s: %w", o.Mirror, err)
	}
	if err := os.Rename(aside.Path, o.Path); err != nil {
		return fmt.Errorf("creating %s: %w", o.Path, err)
	}
	return syncDir(o.Path)
}

// fill makes a whole store in one file.
func fill(ctx context.Context, o Options, epoch, fingerprint string) error {
	removeFiles(o.Path) // what an earlier attempt left
	f, err := os.OpenFile(o.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	c, err := openConn(ctx, o, writing)
	if err != nil {
		return err
	}
	err = fillSchema(c, o, epoch, fingerprint)
	c.close() // moves the log into the file
	if err != nil {
		return err
	}
	if _, err := os.Stat(o.Path + "-wal"); err == nil {
		return errors.New("the log was not moved into the file")
	}
	return f.Sync()
}

func fillSchema(c *conn, o Options, epoch, fingerprint string) error {
	if err := c.begin("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer c.rollback()
	for _, step := range o.steps {
		if _, err := c.c.ExecContext(context.Background(), step); err != nil {
			return err
		}
	}
	_, err := c.Exec("INSERT INTO meta (one, epoch, schema, commits, fingerprint, last_seen) VALUES (1, $1, $2, 0, $3, $4)",
		epoch, len(o.steps), fingerprint, time.Now().UnixMilli())
	if err != nil {
		return err
	}
	return c.commit()
}

// parts are the files that SQLite makes of one path.
var parts = []string{"", "-wal", "-shm", "-journal"}

func removeFiles(path string) {
	for _, part := range parts {
		os.Remove(path + part)
	}
}

// NewEpoch accepts that a store was lost, damaged, restored or replaced. A whole
// one stays and gets a new epoch, so nothing that was issued before is accepted.
// What is no whole store, or was made under a root secret that o.Root does not
// know, is set aside under another name, never removed, and a new one is made. It
// refuses while a server runs.
func NewEpoch(ctx context.Context, o Options, fingerprint string) error {
	o, err := o.check()
	if err != nil {
		return err
	}
	if IsURL(o.Path) {
		return renewPostgres(ctx, o, fingerprint)
	}
	l, err := takeLock(o.Path)
	if err != nil {
		return err
	}
	defer l.release()
	switch _, err := inspect(ctx, o); {
	case errors.Is(err, ErrDamaged), errors.Is(err, ErrNoStore), errors.Is(err, ErrOtherRoot):
		if err := setAside(o); err != nil {
			return err
		}
		return create(ctx, o, fingerprint)
	case err == nil, errors.Is(err, ErrRolledBack), errors.Is(err, ErrOtherStore):
		return renew(ctx, o, fingerprint)
	case errors.Is(err, ErrHalf): // the mirror is missing, or says nothing: the store has not been looked at
		return renewUnknown(ctx, o, fingerprint)
	default:
		return err
	}
}

// renewUnknown is for a store without a mirror to compare it with.
func renewUnknown(ctx context.Context, o Options, fingerprint string) error {
	err := createMirror(o.Mirror, mark{epoch: "unknown"})
	if err != nil {
		return err
	}
	switch _, err := inspect(ctx, o); {
	case errors.Is(err, ErrOtherStore):
		return renew(ctx, o, fingerprint)
	case errors.Is(err, ErrDamaged), errors.Is(err, ErrOtherRoot):
		if err := setAside(o); err != nil {
			return err
		}
		return create(ctx, o, fingerprint)
	default:
		return err
	}
}

// renew gives a whole store another epoch. Between store and mirror it is another
// store than its mirror's, so an interrupted renew is done again.
func renew(ctx context.Context, o Options, fingerprint string) error {
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
	_, err = c.Exec("UPDATE meta SET epoch = $1, fingerprint = $2, commits = commits + 1, last_seen = $3", epoch, fingerprint, time.Now().UnixMilli())
	if err == nil {
		err = c.commit()
	}
	if err != nil {
		return unavailable(o.Path, err)
	}
	return createMirror(o.Mirror, mark{epoch: epoch})
}

// setAside renames all that belongs to a store.
func setAside(o Options) error {
	suffix := time.Now().UTC().Format(".lost-20060102-150405.000")
	for _, part := range parts {
		if err := os.Rename(o.Path+part, o.Path+suffix+part); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(o.Mirror, o.Mirror+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	o.Log.Warn("what was left of the store is set aside", "store", o.Path+suffix)
	return nil
}
