package store_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"signet/internal/store"
)

// longPostgresHistory is the schema with two more steps that take some time.
func longPostgresHistory() []string {
	steps := store.PostgresSchema()
	for _, table := range []string{"one", "two"} {
		steps = append(steps, fmt.Sprintf(`CREATE TABLE %[1]s (n BIGINT, text TEXT);
			INSERT INTO %[1]s SELECT n, repeat('x', 100) FROM generate_series(1, 3000) n;
			CREATE INDEX %[1]s_n ON %[1]s (n, text)`, table))
	}
	return steps
}

// A replica that is killed while it migrates leaves the old or the new schema, never a
// part of it: the old release goes on or gets ErrNewer, and the new one migrates again.
func TestKilledPostgresMigrationLeavesOldOrNewSchema_L16(t *testing.T) {
	next := longPostgresHistory()
	seen := map[string]int{}
	for range cycles(20) {
		o := firstOptions(t)
		s := open(t, o)
		if err := spend(s, "before"); err != nil {
			t.Fatal(err)
		}
		closeStore(t, s)
		kill(t, "migrate on PostgreSQL", o, 100*time.Millisecond)
		switch s, err := store.Open(t.Context(), o); {
		case err == nil:
			seen["old"]++
			closeStore(t, s)
		case errors.Is(err, store.ErrNewer):
			seen["new"]++
		default:
			t.Fatal(err)
		}
		s = open(t, o.WithSteps(next...))
		if got := spent(t, s); len(got) != 1 || got[0] != "before" {
			t.Errorf("the rows are %v", got)
		}
		var n int
		err := s.Read(t.Context(), func(tx store.Tx) error {
			return tx.QueryRow("SELECT (SELECT count(*) FROM one) + (SELECT count(*) FROM two)").Scan(&n)
		})
		if err != nil || n != 6000 {
			t.Errorf("%d rows of two migrations (%v)", n, err)
		}
		closeStore(t, s)
	}
	t.Logf("kills by the schema that they left: %v", seen)
}
