package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"signet/internal/store"
	"signet/internal/test/pgtest"
)

// divide sets a row's expires_at from was to 12 divided by by.
func divide(id string, by, was int64) store.Change {
	return store.Change{
		One: "UPDATE spent SET expires_at = 12 / $1 WHERE kind = 'test' AND id = $2 AND expires_at = $3",
		Many: `UPDATE spent SET expires_at = 12 / used.part FROM unnest($1::bigint[], $2::text[], $3::bigint[]) WITH ORDINALITY AS used (part, id, was, number)
			WHERE kind = 'test' AND spent.id = used.id AND expires_at = used.was RETURNING used.number`,
		Args: []any{by, id, was},
	}
}

// rowsOf returns the rows that spend wrote, with their times, without that of the first change.
func rowsOf(t *testing.T, s *store.Store) string {
	t.Helper()
	return strings.Join(column(t, s, "SELECT id || '=' || CAST(expires_at AS TEXT) FROM spent WHERE kind = 'test' AND id <> 'first' ORDER BY id"), " ")
}

// changes are calls of Change that start while another one is under way, so that they are a
// group, and their results by name.
type changes struct {
	t       *testing.T
	s       *store.Store
	gate    chan bool // holds up the first change
	all     sync.WaitGroup
	mu      sync.Mutex
	results map[string]string
	queued  int
	many    int    // statements for many changes
	second  func() // is called before the second of these; nil: nothing is
}

// newChanges opens a store, with the rows of spend, and one for the first change.
func newChanges(t *testing.T, o store.Options, ids ...string) *changes {
	t.Helper()
	c := &changes{t: t, gate: make(chan bool), results: map[string]string{}}
	first := make(chan bool)
	var once sync.Once
	c.s = open(t, o.WithFault(func(query string) error {
		usual := divide("", 0, 0)
		if query == usual.Many {
			c.mu.Lock()
			if c.many++; c.many == 2 && c.second != nil {
				c.second()
			}
			c.mu.Unlock()
		}
		if query == usual.One || query == usual.Many {
			once.Do(func() { close(first); <-c.gate })
		}
		return nil
	}))
	for _, id := range append(ids, "first") {
		if err := spend(c.s, id); err != nil {
			t.Fatal(err)
		}
	}
	c.all.Go(func() {
		if _, err := c.s.Change(context.Background(), divide("first", 1, 7), ran); err != nil {
			t.Error(err)
		}
	})
	<-first
	return c
}

// run lets the group start, and waits for its answers.
func (c *changes) run() {
	close(c.gate)
	c.all.Wait()
}

func (c *changes) start(name string, change store.Change, otherwise func(store.Tx) error) {
	c.t.Helper()
	c.all.Go(func() {
		made, err := c.s.Change(context.Background(), change, otherwise)
		result := fmt.Sprint(made)
		switch {
		case errors.Is(err, store.ErrUnavailable):
			result = "unavailable"
		case err != nil:
			result = err.Error()
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.results[name] = result
	})
	c.queued++
	waitForQueue(c.t, c.s, c.queued)
}

// want compares the results, and the rows after them.
func (c *changes) want(results map[string]string, rows string) {
	c.t.Helper()
	if fmt.Sprint(c.results) != fmt.Sprint(results) {
		c.t.Errorf("got %v, want %v", c.results, results)
	}
	if got := rowsOf(c.t, c.s); got != rows {
		c.t.Errorf("the rows are %s, want %s", got, rows)
	}
}

func ran(store.Tx) error { return errors.New("ran") }

// Each of many changes that wait is made if its conditions hold, and otherwise its function
// runs, which reads the row as the others left it. On PostgreSQL all are one statement.
func TestChangesOfAGroup(t *testing.T) { onBoth(t, testChangesOfAGroup) }

func testChangesOfAGroup(t *testing.T, o store.Options) {
	create(t, o)
	own := errors.New("an error of its own")
	var seen int64
	c := newChanges(t, o, "a", "b", "c")
	for _, name := range []string{"a", "a again"} { // of which one is made
		c.start(name, divide("a", 3, 7), func(tx store.Tx) error {
			return tx.QueryRow("SELECT expires_at FROM spent WHERE kind = 'test' AND id = 'a' FOR UPDATE").Scan(&seen)
		})
	}
	c.start("other time", divide("b", 3, 8), func(store.Tx) error { return own })
	c.start("no row", divide("d", 3, 7), insert("d"))
	c.start("c", divide("c", 2, 7), ran)
	c.run()
	if c.results["a"] == "false" {
		c.results["a"], c.results["a again"] = c.results["a again"], c.results["a"]
	}
	c.want(map[string]string{"a": "true", "a again": "false", "other time": own.Error(), "no row": "false", "c": "true"}, "a=4 b=7 c=6 d=7")
	if seen != 4 {
		t.Errorf("the second call for a read %d, want 4, as the first one left it", seen)
	}
	want := 0
	if store.Locate(o.Path).Shared() {
		want = 2
	}
	if c.many != want {
		t.Errorf("%d statements for many changes, want %d", c.many, want)
	}
}

// If one change of a group fails in the database, it alone fails.
func TestBadChangeFailsAlone(t *testing.T) { onBoth(t, testBadChangeFailsAlone) }

func testBadChangeFailsAlone(t *testing.T, o store.Options) {
	create(t, o)
	c := newChanges(t, o, "a", "b", "c", "d")
	c.start("a", divide("a", 3, 7), ran)
	c.start("bad", divide("b", 0, 7), ran)
	c.start("no change", divide("c", 3, 8), ran)
	c.start("d", divide("d", 6, 7), ran)
	c.run()
	c.want(map[string]string{"a": "true", "bad": "unavailable", "no change": "ran", "d": "true"}, "a=4 b=7 c=7 d=2")
}

// A change whose commit fails was not made, although the database had returned its number.
func TestChangeWhoseCommitFails(t *testing.T) {
	o := firstOptions(t)
	c := newChanges(t, o, "a")
	pgtest.Exec(t, o.Path, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
		CREATE CONSTRAINT TRIGGER refused AFTER UPDATE ON signet.spent DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.id = 'a') EXECUTE FUNCTION refuse()`)
	c.start("a", divide("a", 3, 7), ran)
	c.run()
	c.want(map[string]string{"a": "unavailable"}, "a=7")
}

// A row that another program has locked holds up its own change only.
func TestLockedRowHoldsUpItsOwnChange(t *testing.T) {
	o := firstOptions(t)
	c := newChanges(t, o, "a", "b", "c")
	other, err := pgx.Connect(t.Context(), o.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	if _, err := other.Exec(t.Context(), "BEGIN; SELECT FROM signet.spent WHERE id = 'b' FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	c.start("a", divide("a", 3, 7), ran)
	c.start("b", divide("b", 3, 7), ran)
	c.start("c", divide("c", 3, 7), ran)
	c.run() // although the row is still locked
	c.want(map[string]string{"a": "true", "b": "unavailable", "c": "true"}, "a=4 b=7 c=4")
}

// Changes whose answer is lost may have been made. They do not run again, and their callers
// get no verdict.
func TestLostChangesRunOnce(t *testing.T) {
	o := firstOptions(t)
	direct := open(t, o)
	proxy := pgtest.NewProxy(t, o.Path)
	u := parse(t, proxy.URL)
	q := u.Query()
	q.Set("default_query_exec_mode", "exec") // prepares nothing, so that the lost answer is that of the statement
	u.RawQuery = q.Encode()
	o.Path = u.String()
	c := newChanges(t, o, "a", "b")
	c.second = func() { proxy.Set(pgtest.HalfOpen) }
	c.start("a", divide("a", 3, 7), ran)
	c.start("b", divide("b", 3, 7), ran)
	close(c.gate)
	eventually(t, "the changes", func() error {
		if got := rowsOf(t, direct); got != "a=4 b=4" {
			return errors.New(got)
		}
		return nil
	})
	proxy.Set(pgtest.Reset)
	proxy.Set(pgtest.Pass)
	c.all.Wait()
	if want := map[string]string{"a": "unavailable", "b": "unavailable"}; fmt.Sprint(c.results) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", c.results, want)
	}
}
