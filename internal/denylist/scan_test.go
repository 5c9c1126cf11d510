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

// earlierGrants makes of the table of a new store what an earlier release made.
const earlierGrants = `ALTER TABLE grants ALTER gen TYPE BIGINT, ALTER replays TYPE BIGINT;
	DROP INDEX grants_live; CREATE INDEX grants_live ON grants (sub) WHERE revoked_at = 0`

// What concerns one user reads the grants of that user on PostgreSQL, also in a store that an
// earlier release made, and before the planner knows anything of the table.
func TestUsersGrantsAreFoundByIndex(t *testing.T) {
	for name, before := range map[string]string{
		"new": "", "analyzed": "ANALYZE grants", "of an earlier release": earlierGrants, "of an earlier release, analyzed": earlierGrants + "; ANALYZE grants",
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t, storetest.PostgreSQL)
			now := time.Now()
			const others = 20_000
			s := storetest.Open(t, o)
			of(t, listOn(t, s, window), s, "ann", "1", "c", "consent", now)
			fill(t, s, others, now)
			raw(t, s, "UPDATE grants SET sub = 'user' || id")
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			outside(t, storetest.PostgreSQL, o, before)
			scans, rows := readsOfGrants(t, o)

			s = storetest.Open(t, o)
			l := listOn(t, s, window)
			first := of(t, l, s, "bob", "1", "c", "consent1", now)
			of(t, l, s, "bob", "1", "c", "consent2", now)
			of(t, l, s, "bob", "1", "d", "consent3", now)
			if g, err := l.Consent(t.Context(), "bob", []string{"consent2"}, now); err != nil || g.Subject != "bob" {
				t.Errorf("consent: %+v, %v", g, err)
			}
			if g, err := l.Grants(t.Context(), "bob", now); err != nil || len(g) != 3 {
				t.Errorf("grants: %+v, %v", g, err)
			}
			if g, err := l.All(t.Context(), "bob", first.ID[:2], 10, now); err != nil || len(g) != 3 {
				t.Errorf("grants in pages: %+v, %v", g, err)
			}
			if err := l.Trim(t.Context()); err != nil {
				t.Error(err)
			}
			if err := l.Revoke(t.Context(), first, now); err != nil { // looks for the consents of the user
				t.Error(err)
			}
			if g, err := l.Consent(t.Context(), "bob", []string{"consent2"}, now); !errors.Is(err, denylist.ErrUnknown) {
				t.Errorf("a consent that was ended: %+v, %v", g, err)
			}
			if n, err := l.RevokeClient(t.Context(), "bob", first.ClientHash, now); err != nil || n != 1 {
				t.Errorf("%d grants of a client were revoked, %v", n, err)
			}
			if n, err := l.RevokeAll(t.Context(), "bob", now); err != nil || n != 1 {
				t.Errorf("%d grants of a user were revoked, %v", n, err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}

			scansAfter, rowsAfter := readsOfGrants(t, o)
			if n := scansAfter - scans; n != 0 {
				t.Errorf("%d statements read all grants", n)
			}
			if n := rowsAfter - rows; n > others/20 {
				t.Errorf("%d rows were read, of a user with three", n)
			}
		})
	}
}

// Users whose names have the same hash in PostgreSQL's index have nothing to do with each other.
func TestUsersOfOneHashAreApart(t *testing.T) {
	l, s := listIn(t, storetest.PostgreSQL, window)
	now := time.Now()
	var ann, bob string
	err := s.Read(t.Context(), func(tx store.Tx) error {
		return tx.QueryRow(`SELECT min(name), max(name) FROM (SELECT 'user' || i AS name FROM generate_series(1, 300000) AS i) AS users
			GROUP BY hashtext(name) HAVING count(*) > 1 LIMIT 1`).Scan(&ann, &bob)
	})
	if err != nil {
		t.Fatal(err)
	}
	ofAnn, ofBob := of(t, l, s, ann, "1", "c", "consent", now), of(t, l, s, bob, "1", "c", "consent", now)
	if g, err := l.Grants(t.Context(), ann, now); err != nil || len(g) != 1 || g[0].ID != ofAnn.ID {
		t.Errorf("the grants of %s: %+v, %v", ann, g, err)
	}
	if n, err := l.RevokeAll(t.Context(), ann, now); err != nil || n != 1 {
		t.Errorf("%d grants were revoked, %v", n, err)
	}
	wantLive(t, l, ann, ofAnn, false)
	wantLive(t, l, bob, ofBob, true)
	if _, err := l.Consent(t.Context(), ann, []string{"consent"}, now); !errors.Is(err, denylist.ErrUnknown) {
		t.Errorf("%s has the consent of %s: %v", ann, bob, err)
	}
}

// readsOfGrants returns how many statements read the whole table, and how many rows were found
// by indexes, once all other sessions of the database have ended.
func readsOfGrants(t *testing.T, o store.Options) (scans, rows int64) {
	t.Helper()
	db, err := sql.Open("pgx", o.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for left := 1; left > 0; {
		err := db.QueryRow("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()").Scan(&left)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.QueryRow("SELECT seq_scan, idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'grants'").Scan(&scans, &rows); err != nil {
		t.Fatal(err)
	}
	return scans, rows
}
