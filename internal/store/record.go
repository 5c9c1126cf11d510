package store

import (
	"database/sql"
	"strings"
)

// record counts the statements of a transaction.
type record struct {
	writes int   // statements that changed rows
	err    error // error of the first statement that failed
}

func (r *record) written() int { return r.writes }

func (r *record) noteError(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *record) noteExec(res sql.Result) {
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		r.writes++
	}
}

// noteQuery counts a query that may write (INSERT ... RETURNING).
func (r *record) noteQuery(query string) {
	if !strings.HasPrefix(strings.TrimSpace(query), "SELECT") {
		r.writes++
	}
}
