package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Advisory locks, with numbers that no other program is likely to use.
const (
	makingLock  int64 = 0x5349474e45540001 // held while the store is made, migrated, restored or given a new epoch
	servingLock int64 = 0x5349474e45540002 // shared by the servers that use the store
)

// lookIn is the time for inspecting the store at a start, makeIn for making or
// migrating it.
const (
	lookIn = 5 * time.Second
	makeIn = 15 * time.Minute
)

// prepare inspects the store. If there is none and Options.First is set, it makes one;
// if the schema is old, it migrates it. No other replica does either at the same time.
func (p *postgresDatabase) prepare(ctx context.Context) (m meta, err error) {
	exists := false
	look := func(ctx context.Context, tx pgx.Tx) error {
		if exists, err = storeExists(ctx, tx); err != nil || !exists {
			return err
		}
		m, err = p.inspect(ctx, tx)
		return err
	}
	if err := p.inTransaction(ctx, lookIn, look); err != nil || exists && m.schema == int64(len(p.options.steps)) {
		return m, err
	}
	if !exists && p.options.First == "" {
		return m, fmt.Errorf("%w: %s has no tables of Signet", ErrNoStore, p.name)
	}
	err = p.withMakingLock(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := look(ctx, tx); err != nil {
			return err
		}
		if !exists {
			m, err = p.createTables(ctx, tx, meta{fingerprint: p.options.First})
			return err
		}
		return p.migrate(ctx, tx, m.schema)
	})
	return m, err
}

// inTransaction runs fn in a transaction on a connection of its own.
func (p *postgresDatabase) inTransaction(ctx context.Context, within time.Duration, fn func(context.Context, pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	tx, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	if err := fn(ctx, tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// withMakingLock runs fn in a transaction during which no other process makes or changes
// the store as a whole.
func (p *postgresDatabase) withMakingLock(ctx context.Context, fn func(context.Context, pgx.Tx) error) error {
	return p.inTransaction(ctx, makeIn, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = "+milliseconds(lookIn)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", makingLock); err != nil {
			if postgresCode(err) == lockNotAvailable {
				return fmt.Errorf("another replica is making or migrating it: %w", err)
			}
			return err
		}
		return fn(ctx, tx)
	})
}

// storeExists reads the catalog as a table. The function to_regclass would answer from a
// cache, which may be older than the lock that this transaction waited for.
func storeExists(ctx context.Context, tx pgx.Tx) (exists bool, err error) {
	err = tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_tables WHERE tablename = 'meta' AND schemaname = ANY (current_schemas(false)))").Scan(&exists)
	return exists, err
}

// inspect reads the store's meta, and refuses a store that this program cannot use.
func (p *postgresDatabase) inspect(ctx context.Context, tx pgx.Tx) (m meta, err error) {
	err = tx.QueryRow(ctx, "SELECT epoch, fingerprint, schema, last_seen FROM meta WHERE one = 1").Scan(&m.epoch, &m.fingerprint, &m.schema, &m.lastSeen)
	switch {
	case errors.Is(err, pgx.ErrNoRows), postgresCode(err) == "42703":
		return m, fmt.Errorf("%w: %s: its table meta does not say which store it is (%s)", ErrDamaged, p.name, acceptLoss)
	case err != nil:
		return m, err
	case m.schema > int64(len(p.options.steps)):
		return m, fmt.Errorf("%w: %s has schema %d, this program knows %d", ErrNewer, p.name, m.schema, len(p.options.steps))
	case !p.options.Root(m.fingerprint):
		return m, fmt.Errorf("%w: %s: give this replica the secret of the others (SIGNET_SECRET), or, if it is lost, %s", ErrOtherRoot, p.name, acceptLoss)
	}
	if m.schema >= postgresWithEnded {
		err = tx.QueryRow(ctx, "SELECT ended, rolled_back_at, not_before FROM meta").Scan(&m.ended, &m.rolledBackAt, &m.notBefore)
	}
	return m, err
}
