package store

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// dump reads on a connection of its own, because it may take longer than a request.
func (p *postgresDatabase) dump(ctx context.Context, fn func(t Table, values []any) error) error {
	c, err := p.connect(ctx)
	if err != nil {
		return p.unavailable(err)
	}
	defer c.Close(context.WithoutCancel(ctx))
	tx, err := c.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return p.unavailable(err)
	}
	if _, err := tx.Exec(ctx, noIdleTimeout); err != nil {
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

// noIdleTimeout lets a transaction wait for the other end of a copy.
const noIdleTimeout = "SET LOCAL idle_in_transaction_session_timeout = 0"
