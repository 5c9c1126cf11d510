package denylist_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"signet/internal/denylist"
	"signet/internal/store"
	"signet/internal/test/storetest"
)

// fill makes n live grants of one user whose ids have an order, and none of which was used
// lately.
func fill(t testing.TB, s *store.Store, n int, now time.Time) {
	t.Helper()
	err := s.Write(t.Context(), func(tx store.Tx) error {
		_, err := tx.Exec(`WITH RECURSIVE numbers (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < $1)
			INSERT INTO grants (id, gen, rotated_at, revoked_at, sub, client_hash, client_name, consent_hash, scope, resource, created_at, expires_at, user_version, epoch)
			SELECT 'id' || substr(CAST(10000000 + i AS TEXT), 2), 1, 0, 0, 'alice', 'client', 'name', 'hash', 'read', 'https://mcp.test/a', $2, $3, 'version', (SELECT max(epoch) FROM grants)
			FROM numbers`, n, now.Unix(), now.Add(life).Unix())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// explained is a transaction that says how the engine reads grants for each statement.
type explained struct {
	store.Tx
	t          *testing.T
	engine     storetest.Engine
	statements int
}

func (x *explained) QueryRow(query string, args ...any) *sql.Row {
	x.explain(query, args)
	return x.Tx.QueryRow(query, args...)
}

func (x *explained) Query(query string, args ...any) (*sql.Rows, error) {
	x.explain(query, args)
	return x.Tx.Query(query, args...)
}

// explain fails the test if a statement reads grants without a bound.
func (x *explained) explain(query string, args []any) {
	x.t.Helper()
	x.statements++
	if x.engine == storetest.PostgreSQL {
		x.countRows(query, args)
		return
	}
	rows, err := x.Tx.Query("EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		x.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id, parent, unused int
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			x.t.Fatal(err)
		}
		if !strings.Contains(step, "grants") {
			continue
		}
		limited := strings.Contains(query, "LIMIT") && strings.HasPrefix(step, "SEARCH grants USING PRIMARY KEY (id>?")
		if !limited && !strings.Contains(step, "PRIMARY KEY (id>? AND id<?)") {
			x.t.Errorf("%s\n%s", query, step)
		}
	}
}

// plan is a step of PostgreSQL's plan after it ran.
type plan struct {
	Relation string  `json:"Relation Name"`
	Returned float64 `json:"Actual Rows"`
	Filtered float64 `json:"Rows Removed by Filter"`
	Plans    []plan
}

func (x *explained) countRows(query string, args []any) {
	x.t.Helper()
	var text []byte
	if err := x.Tx.QueryRow("EXPLAIN (ANALYZE, FORMAT JSON) "+query, args...).Scan(&text); err != nil {
		x.t.Fatal(err)
	}
	var top []struct{ Plan plan }
	if err := json.Unmarshal(text, &top); err != nil {
		x.t.Fatal(err)
	}
	for steps := []plan{top[0].Plan}; len(steps) > 0; steps = steps[1:] {
		steps = append(steps, steps[0].Plans...)
		if p := steps[0]; p.Relation == "grants" && p.Returned+p.Filtered > denylist.ScanPage {
			x.t.Errorf("%s\n%s", query, text)
		}
	}
}

// A pass through all grants reads a bounded number of rows with each statement, also if
// hardly any grant was used lately.
func TestNoStatementWalksThroughAllGrants(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		now := time.Now()
		l, s := listIn(t, e, window)
		lately := of(t, l, s, "bob", "1", "c", "h", now) // after all others
		const many = 10 * denylist.ScanPage
		fill(t, s, many, now)
		raw(t, s, "UPDATE grants SET id = 'z' || id WHERE sub = 'bob'")
		if e == storetest.PostgreSQL {
			raw(t, s, "ANALYZE grants")
		}
		for _, since := range []int64{0, now.Add(-time.Minute).UnixMilli()} {
			found, pages := 0, 0
			for after := ""; ; pages++ {
				var last string
				err := s.Read(t.Context(), func(tx store.Tx) (err error) {
					x := &explained{Tx: tx, t: t, engine: e}
					var page []denylist.Grant
					page, last, err = l.Page(x, since, after)
					found += len(page)
					if x.statements > 2 {
						t.Errorf("a page takes %d statements", x.statements)
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				if last == "" {
					break
				}
				after = last
			}
			want := many + 1
			if since > 0 {
				want = 1
			}
			if found != want || pages != 11 {
				t.Errorf("since %d: %d grants in %d pages, want %d in 11", since, found, pages, want)
			}
		}
		// The grant that was used lately ends first, although it is in the last page.
		stop, stopped := context.WithCancel(t.Context())
		n, err := l.RevokeWhere(stop, func(g denylist.Grant) bool {
			if g.Subject == "bob" {
				return true
			}
			stopped()
			return false
		})
		if n != 1 || !errors.Is(err, context.Canceled) || !l.Revoked("z"+lately.ID) {
			t.Errorf("stopped at the first other grant: %d ended, %v; want the one that was used lately", n, err)
		}
	})
}

// Each passes every live grant once, and no dead one.
func TestEachPassesEveryLiveGrant(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		now := time.Now()
		l, s := listIn(t, e, window)
		first := of(t, l, s, "bob", "1", "c", "h", now)
		const many = 3 * denylist.ScanPage
		fill(t, s, many, now)
		raw(t, s, fmt.Sprintf("UPDATE grants SET revoked_at = 1 WHERE id >= 'id%07d' AND id <= 'id%07d'", denylist.ScanPage-10, 2*denylist.ScanPage+10)) // a whole page
		raw(t, s, "UPDATE grants SET expires_at = 1 WHERE id = 'id0000001'")
		raw(t, s, "UPDATE grants SET epoch = 'another' WHERE id = 'id0000002'")
		seen := map[string]bool{}
		last := ""
		err := l.Each(t.Context(), func(g denylist.Grant) {
			if seen[g.ID] || g.ID < last {
				t.Errorf("%s comes again, or late", g.ID)
			}
			seen[g.ID], last = true, g.ID
			if g.ID == first.ID {
				if got := (denylist.Grant{ID: first.ID, Subject: first.Subject, ClientHash: first.ClientHash, UserVersion: first.UserVersion, Created: first.Created}); g != got {
					t.Errorf("%+v, want %+v", g, got)
				}
			}
		})
		if want := many + 1 - (denylist.ScanPage + 21) - 2; len(seen) != want || err != nil || !seen[first.ID] {
			t.Errorf("%d grants, %v; want %d", len(seen), err, want)
		}
		s.Close()
		if err := l.Each(t.Context(), func(denylist.Grant) {}); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("store down: %v, want ErrUnavailable", err)
		}
	})
}
