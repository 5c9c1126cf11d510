package store

import (
	"database/sql"
	"strings"
)

// record is what is known of a transaction's statements.
type record struct {
	writes int   // statements that changed rows
	err    error // the first one that failed
}

func (r *record) written() int { return r.writes }

func (r *record) failed(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *record) executed(res sql.Result) {
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		r.writes++
	}
}

// returning notes a query that may write (INSERT ... RETURNING).
func (r *record) returning(query string) {
	if !strings.HasPrefix(strings.TrimSpace(query), "SELECT") {
		r.writes++
	}
}
