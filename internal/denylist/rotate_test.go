package denylist_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"signet/internal/denylist"
	"signet/internal/store"
	"signet/internal/test/storetest"
)

// The statement for one rotation changes a row only under all of its conditions, and so does
// the one for many, for each of them. That one reads no other rows.
func TestRotationsChangeRowsOnlyUnderTheirConditions(t *testing.T) {
	storetest.Each(t, testRotations)
}

func testRotations(t *testing.T, e storetest.Engine) {
	now := time.Now()
	l, s := listIn(t, e, window)
	const gen = 2
	grant := func() denylist.Grant { return family(t, l, s, gen, now) }
	revoked := grant()
	if err := l.Revoke(t.Context(), revoked, now); err != nil {
		t.Fatal(err)
	}
	at, end, late := now.UnixMilli(), now.Add(life).Unix()*1000, now.Add(-time.Minute).UnixMilli()
	const seen = 1
	twice, ahead, old := grant(), grant(), grant()
	raw(t, s, fmt.Sprintf("UPDATE grants SET user_version = '', epoch = '' WHERE id = '%s'", old.ID))
	cases := []struct {
		name   string
		change store.Change
		made   bool
		at     int64 // rotated_at after it
	}{
		{"current", denylist.Rotation(grant(), s.Epoch(), gen, at+5, seen), true, at + 5},
		{"predecessor", denylist.Rotation(grant(), s.Epoch(), gen-1, at+5, seen), false, at},
		{"successor", denylist.Rotation(grant(), s.Epoch(), gen+1, at+5, seen), false, at},
		{"revoked", denylist.Rotation(revoked, s.Epoch(), gen, at+5, seen), false, at},
		{"expired", denylist.Rotation(grant(), s.Epoch(), gen, end, seen), false, at},
		{"last moment", denylist.Rotation(grant(), s.Epoch(), gen, end-1, seen), true, end - 1},
		{"no row", denylist.Rotation(grantAt(now), s.Epoch(), gen, at+5, seen), false, -1},
		{"another epoch", denylist.Rotation(grant(), "other", gen, at+5, seen), false, at},
		{"time that went back", denylist.Rotation(grant(), s.Epoch(), gen, at+5, at+1e9), false, at},
		{"clock of another replica ahead", denylist.Rotation(ahead, s.Epoch(), gen, late, seen), true, at},
		{"row of an older release", denylist.Rotation(old, s.Epoch(), gen, at+5, seen), false, at},
		{"twice", denylist.Rotation(twice, s.Epoch(), gen, at+5, seen), true, at + 5},
		{"the second time", denylist.Rotation(twice, s.Epoch(), gen, at+5, seen), false, at + 5},
	}
	if e == storetest.PostgreSQL {
		fill(t, s, 10*denylist.ScanPage, now)
		raw(t, s, "ANALYZE grants")
	}
	made := make([]bool, len(cases))
	err := s.Write(t.Context(), func(tx store.Tx) error {
		clear(made)
		if e == storetest.PostgreSQL {
			return many(t, tx, made, func(i int) store.Change { return cases[i].change })
		}
		for i, c := range cases {
			result, err := tx.Exec(c.change.One, c.change.Args...)
			if err != nil {
				return err
			}
			n, err := result.RowsAffected()
			if made[i] = n == 1; err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if last := len(made) - 1; made[last] { // which of the two is not said
		made[last-1], made[last] = true, made[last-1]
	}
	for i, c := range cases {
		if made[i] != c.made {
			t.Errorf("%s: changed: %t, want %t", c.name, made[i], c.made)
		}
		gotGen, gotAt := int64(-1), int64(-1)
		err := s.Read(t.Context(), func(tx store.Tx) error {
			return tx.QueryRow("SELECT coalesce(max(gen), -1), coalesce(max(rotated_at), -1) FROM grants WHERE id = $1", c.change.Args[1]).Scan(&gotGen, &gotAt)
		})
		wantGen := int64(gen)
		if c.made || c.name == "the second time" {
			wantGen++
		}
		if c.at < 0 {
			wantGen = -1
		}
		if err != nil || gotGen != wantGen || gotAt != c.at {
			t.Errorf("%s: generation %d at %d (%v), want %d at %d", c.name, gotGen, gotAt, err, wantGen, c.at)
		}
	}
}

// many runs the statement for many changes, and checks its plan.
func many(t *testing.T, tx store.Tx, made []bool, change func(int) store.Change) error {
	t.Helper()
	args := make([]any, len(change(0).Args))
	for i := range args {
		if _, ok := change(0).Args[i].(int64); ok {
			args[i] = arrayOf[int64](len(made), i, change)
		} else {
			args[i] = arrayOf[string](len(made), i, change)
		}
	}
	rows, err := tx.Query(change(0).Many, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var number int
		if err := rows.Scan(&number); err != nil {
			return err
		}
		made[number-1] = true
	}
	if err := rows.Err(); err != nil {
		return err
	}
	x := &explained{Tx: tx, t: t, engine: storetest.PostgreSQL}
	x.explain(change(0).Many, args)
	return nil
}

func arrayOf[T any](n, arg int, change func(int) store.Change) []T {
	return slices.Collect(func(yield func(T) bool) {
		for i := range n {
			if !yield(change(i).Args[arg].(T)) {
				return
			}
		}
	})
}
