package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// change runs the statement without BEGIN and COMMIT, so the database commits it by itself
// before the end of the answer. If that end does not come, it may have been committed, and
// does not run again.
func (p *postgresDatabase) change(by time.Time, requests []*request) (made []bool, err error) {
	db := p.pools.Load()
	if db == nil {
		return nil, fmt.Errorf("%w: %w", errLost, p.health())
	}
	ctx, cancel := context.WithDeadline(context.Background(), by)
	defer cancel()
	many := requests[0].change.Many
	tx := &postgresTx{ctx: ctx, fault: p.options.fault}
	if err := tx.check(many); err != nil {
		return nil, fmt.Errorf("%w: %w", errLost, err)
	}
	made = make([]bool, len(requests))
	rows, err := db.writing.QueryContext(ctx, many, columns(requests)...)
	if err != nil {
		return nil, p.classifyChange(err)
	}
	defer rows.Close()
	for rows.Next() {
		var number int
		if err := rows.Scan(&number); err != nil {
			return nil, fmt.Errorf("%w: %w", errLost, err)
		}
		made[number-1] = true
	}
	if err := rows.Err(); err != nil {
		return nil, p.classifyChange(err)
	}
	return made, nil
}

// classifyChange tells an error of the statement, which the database has undone, from the
// end of the session, before which it may have committed.
func (p *postgresDatabase) classifyChange(err error) error {
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.SeverityUnlocalized == "ERROR" {
		return p.explain(err)
	}
	return fmt.Errorf("%w: %w", errLost, p.explain(err))
}

// columns are the arguments of Many: an array for each argument of the changes.
func columns(requests []*request) []any {
	list := make([]any, len(requests[0].change.Args))
	for i, arg := range requests[0].change.Args {
		if _, ok := arg.(int64); ok {
			list[i] = column[int64](requests, i)
		} else {
			list[i] = column[string](requests, i)
		}
	}
	return list
}

func column[T any](requests []*request, i int) []T {
	values := make([]T, len(requests))
	for n, r := range requests {
		values[n] = r.change.Args[i].(T)
	}
	return values
}
