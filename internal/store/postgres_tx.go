package store

import (
	"context"
	"database/sql"
)

// postgresTx is the session of a transaction.
type postgresTx struct {
	ctx   context.Context // of the transaction: its statements have no other
	tx    *sql.Tx
	fault func(query string) error
	record
}

func (t *postgresTx) check(query string) error {
	if t.fault == nil {
		return nil
	}
	err := t.fault(query)
	if err != nil {
		t.noteError(err)
	}
	return err
}

// Exec runs a statement that writes.
func (t *postgresTx) Exec(query string, args ...any) (sql.Result, error) {
	if err := t.check(query); err != nil {
		return nil, err
	}
	res, err := t.tx.ExecContext(t.ctx, query, args...)
	if err != nil {
		t.noteError(err)
		return nil, err
	}
	t.noteExec(res)
	return res, nil
}

// QueryRow reads one row.
func (t *postgresTx) QueryRow(query string, args ...any) *sql.Row {
	t.noteQuery(query)
	ctx := t.ctx
	if t.check(query) != nil {
		ended, end := context.WithCancel(ctx)
		end() // there is no other way to make a Row that holds an error
		ctx = ended
	}
	row := t.tx.QueryRowContext(ctx, query, args...)
	if err := row.Err(); err != nil {
		t.noteError(err)
	}
	return row
}

// Query reads rows.
func (t *postgresTx) Query(query string, args ...any) (*sql.Rows, error) {
	t.noteQuery(query)
	if err := t.check(query); err != nil {
		return nil, err
	}
	rows, err := t.tx.QueryContext(t.ctx, query, args...)
	if err != nil {
		t.noteError(err)
	}
	return rows, err
}

// failure also returns an error that came between two rows, and that the deadline
// has passed.
func (t *postgresTx) failure(err error) error {
	switch {
	case t.err != nil:
		return t.err
	case postgresCode(err) != "":
		return err
	}
	return t.ctx.Err()
}

func (t *postgresTx) commit() error {
	if err := t.check("COMMIT"); err != nil {
		return err
	}
	return t.tx.Commit()
}
