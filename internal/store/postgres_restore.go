package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/jackc/pgx/v5"
)

// restore does everything in one transaction, so nothing can be left to finish.
func (postgresEngine) restore(ctx context.Context, o Options, contents Contents, replace bool) (aside string, err error) {
	var stopped error // by contents, so the database did not fail
	next := func() (t Table, values []any, err error) {
		t, values, err = contents.Next()
		if err != nil && !errors.Is(err, io.EOF) {
			stopped = err
		}
		return t, values, err
	}
	err = alter(ctx, o, func(ctx context.Context, p *postgresDatabase, tx pgx.Tx) error {
		if err := p.lockOutServers(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, noIdleTimeout); err != nil {
			return err
		}
		exists, err := storeExists(ctx, tx)
		if err != nil {
			return err
		}
		if exists && !replace {
			return fmt.Errorf("restoring a store: %s: %w", p.name, fs.ErrExist)
		}
		if exists {
			if aside, err = p.setSchemaAside(ctx, tx, "replaced"); err != nil {
				return err
			}
		}
		if _, err := p.createTables(ctx, tx, meta{fingerprint: contents.Fingerprint}); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, restored, contents.restored()...); err != nil {
			return err
		}
		return copyRows(ctx, tx, next)
	})
	if stopped != nil {
		err = stopped
	}
	return aside, err
}

func (postgresEngine) restoring(Options) bool { return false }

func (postgresEngine) finishRestore(Options) error { return nil }

// copyRows sends the rows of each table to the database by COPY.
func copyRows(ctx context.Context, tx pgx.Tx, next func() (Table, []any, error)) error {
	rows := &rowReader{next: next}
	rows.advance()
	for rows.err == nil {
		t := rows.table
		first := true
		_, err := tx.CopyFrom(ctx, pgx.Identifier{t.Name}, t.Columns, pgx.CopyFromFunc(func() ([]any, error) {
			if !first {
				rows.advance()
			}
			first = false
			if rows.err != nil && !errors.Is(rows.err, io.EOF) {
				return nil, rows.err
			}
			if rows.err != nil || rows.table.Name != t.Name {
				return nil, nil
			}
			return rows.values, nil
		}))
		if err != nil && (rows.err == nil || errors.Is(rows.err, io.EOF)) {
			return err
		}
	}
	if errors.Is(rows.err, io.EOF) {
		return nil
	}
	return rows.err
}

// rowReader holds the next row, so that copyRows sees where a table ends.
type rowReader struct {
	next   func() (Table, []any, error)
	table  Table
	values []any
	err    error
}

func (r *rowReader) advance() {
	r.table, r.values, r.err = r.next()
	r.values = slices.Clone(r.values)
}
