package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
)

func (postgresEngine) create(ctx context.Context, o Options, fingerprint string) error {
	return alter(ctx, o, func(ctx context.Context, p *postgresDatabase, tx pgx.Tx) error {
		exists, err := storeExists(ctx, tx)
		if err != nil {
			return err
		}
		if exists {
			return fmt.Errorf("creating a store: %s: %w", p.name, fs.ErrExist)
		}
		_, err = p.createTables(ctx, tx, meta{fingerprint: fingerprint})
		return err
	})
}

func (postgresEngine) newEpoch(ctx context.Context, o Options, fingerprint string) (aside []string, err error) {
	err = alter(ctx, o, func(ctx context.Context, p *postgresDatabase, tx pgx.Tx) error {
		if err := p.lockOutServers(ctx, tx); err != nil {
			return err
		}
		exists, err := storeExists(ctx, tx)
		if err != nil {
			return err
		}
		var m meta
		if exists {
			m, err = p.inspect(ctx, tx)
		}
		switch {
		case errors.Is(err, ErrOtherRoot), errors.Is(err, ErrDamaged):
			schema, err := p.setSchemaAside(ctx, tx, "lost")
			if err != nil {
				return err
			}
			aside, exists = []string{schema}, false
		case err != nil:
			return err
		}
		if !exists {
			_, err := p.createTables(ctx, tx, meta{fingerprint: fingerprint, notBefore: notBefore(time.Now())})
			return err
		}
		if err := p.migrate(ctx, tx, m.schema); err != nil {
			return err
		}
		now := time.Now()
		_, err = tx.Exec(ctx, acceptLost, rand.Text(), fingerprint, now.UnixMilli(), notBefore(now))
		return err
	})
	if err != nil {
		return nil, err
	}
	return aside, nil
}

// alter runs fn in a transaction that may change the store as a whole.
func alter(ctx context.Context, o Options, fn func(context.Context, *postgresDatabase, pgx.Tx) error) error {
	config, settings, err := postgresConfig(o.Path)
	if err != nil {
		return err
	}
	p := &postgresDatabase{state: &state{options: o, name: postgresName(config)}, config: config, settings: settings}
	err = p.withMakingLock(ctx, func(ctx context.Context, tx pgx.Tx) error { return fn(ctx, p, tx) })
	return p.unavailable(err)
}

// lockOutServers fails while a server runs, and keeps servers from starting until tx
// ends.
func (p *postgresDatabase) lockOutServers(ctx context.Context, tx pgx.Tx) error {
	// The session of a server that has just stopped may take a moment to end.
	if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '2s'"); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", servingLock)
	if postgresCode(err) == lockNotAvailable {
		return fmt.Errorf("%w: servers are connected to %s: stop all replicas first", ErrLocked, p.name)
	}
	return err
}

// setSchemaAside renames the schema with all its tables. The new name contains why.
func (p *postgresDatabase) setSchemaAside(ctx context.Context, tx pgx.Tx, why string) (aside string, err error) {
	var schema string
	if err := tx.QueryRow(ctx, "SELECT current_schema()").Scan(&schema); err != nil {
		return "", err
	}
	if schema != defaultSchema {
		return "", fmt.Errorf("store: the tables in schema %s of %s are in the way: rename the schema, or create another database", schema, p.name)
	}
	aside = schema + "_" + why + time.Now().UTC().Format("_20060102_150405")
	p.options.Log.Warn("the old store is set aside", "store", p.name, "schema", aside)
	_, err = tx.Exec(ctx, "ALTER SCHEMA "+defaultSchema+" RENAME TO "+aside)
	return aside, err
}
