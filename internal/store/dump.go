package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Table is what a backup holds of one table: the columns, in the order of its values.
type Table struct {
	Name    string
	Columns []string
	key     string // the order of its rows
}

// Tables are what a backup holds, the same for both engines. Meta is not among them,
// because a store that is restored has an epoch of its own; neither are failed logins,
// which are forgotten within hours, and what servers say of themselves.
func Tables() []Table {
	return []Table{
		{"signing_keys", []string{"period", "kid", "public", "sealed_private", "starts_at", "published_at"}, "period"},
		{"withdrawn_keys", []string{"kid", "published_at", "withdrawn_at"}, "kid"},
		{"grants", []string{"id", "gen", "rotated_at", "revoked_at", "sub", "client_hash", "client_name", "consent_hash", "scope", "resource",
			"created_at", "expires_at", "replays"}, "id"},
		{"spent", []string{"kind", "id", "expires_at"}, "kind, id"},
	}
}

func (t Table) query() string {
	return fmt.Sprintf("SELECT %s FROM %s ORDER BY %s", strings.Join(t.Columns, ", "), t.Name, t.key)
}

// Dump calls fn with each row of [Tables], table by table, all of one snapshot. The
// values are int64, string or nil, and the slice is used again. Writes go on meanwhile.
func (s *Store) Dump(ctx context.Context, fn func(t Table, values []any) error) error {
	if p, ok := s.engine.(*postgres); ok {
		return p.dump(ctx, fn)
	}
	var stopped error // by fn: not the engine's fault
	err := s.Read(ctx, func(tx Tx) error {
		for _, t := range Tables() {
			if err := dumpTable(ctx, tx, t, func(values []any) error {
				stopped = fn(t, values)
				return stopped
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if stopped != nil {
		return stopped
	}
	return err
}

func dumpTable(ctx context.Context, tx Tx, t Table, fn func(values []any) error) error {
	rows, err := tx.Query(t.query())
	if err != nil {
		return err
	}
	defer rows.Close()
	values, dest := make([]any, len(t.Columns)), make([]any, len(t.Columns))
	for i := range dest {
		dest[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(values); err != nil {
			return err
		}
	}
	return rows.Err()
}

// dump reads on a connection of its own, which may take longer than an answer.
func (p *postgres) dump(ctx context.Context, fn func(t Table, values []any) error) error {
	c, err := pgx.ConnectConfig(ctx, p.config)
	if err != nil {
		return p.unavailable(err)
	}
	defer c.Close(context.WithoutCancel(ctx))
	tx, err := c.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return p.unavailable(err)
	}
	if _, err := tx.Exec(ctx, patient); err != nil {
		return p.unavailable(err)
	}
	for _, t := range Tables() {
		rows, err := tx.Query(ctx, t.query())
		if err != nil {
			return p.unavailable(err)
		}
		defer rows.Close()
		for rows.Next() {
			values, err := rows.Values()
			if err != nil {
				return p.unavailable(err)
			}
			if err := fn(t, values); err != nil {
				return err
			}
		}
		if err := rows.Err(); err != nil {
			return p.unavailable(err)
		}
	}
	return nil
}

// patient is for a transaction that waits for what it reads from or writes to.
const patient = "SET LOCAL idle_in_transaction_session_timeout = 0"
