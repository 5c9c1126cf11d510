package denylist_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signet/internal/denylist"
	"signet/internal/seal"
	"signet/internal/store"
	"signet/internal/test/pgtest"
	"signet/internal/test/storetest"
)

const (
	window = time.Minute
	skew   = time.Minute
	keep   = 6 * time.Minute
	life   = 30 * 24 * time.Hour
)

func pathOptions(dir string) store.Options {
	path := filepath.Join(dir, "signet.db")
	return store.Options{Path: path, Mirror: path + ".mirror", Serve: true}
}

// options makes a store and returns its options.
func options(t testing.TB, e storetest.Engine) store.Options {
	t.Helper()
	o := e.Empty(t)
	o.Serve = e == storetest.SQLite
	return o
}

func listOn(t testing.TB, s *store.Store, w time.Duration) *denylist.List {
	t.Helper()
	l, err := denylist.New(t.Context(), denylist.Options{Store: s, Window: w, Skew: skew, Keep: keep})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// list is a denylist on a store of its own.
func list(t testing.TB, w time.Duration) (*denylist.List, *store.Store) {
	t.Helper()
	return listIn(t, storetest.SQLite, w)
}

func listIn(t testing.TB, e storetest.Engine, w time.Duration) (*denylist.List, *store.Store) {
	t.Helper()
	s := storetest.Open(t, options(t, e))
	return listOn(t, s, w), s
}

// run runs the lists until stop is called.
func run(t testing.TB, lists ...*denylist.List) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, l := range lists {
		running.Go(func() { l.Run(ctx) })
	}
	return func() { cancel(); running.Wait() }
}

func grantAt(now time.Time) denylist.Grant {
	end := now.Add(life)
	return denylist.Grant{ID: seal.NewID(end.Add(skew + window)), Subject: "alice", ClientHash: seal.ClientHash("c"), ClientName: "App",
		ConsentHash: "h", Scope: "read", Resource: "https://mcp.test/a", Created: now.Unix(), Expires: end.Unix()}
}

// family is a grant whose code was used at now, and which was rotated to generation gen.
func family(t testing.TB, l *denylist.List, s *store.Store, gen int64, now time.Time) denylist.Grant {
	t.Helper()
	g := grantAt(now)
	for i := range gen {
		want(t, l, s, g, i, now, i+1, nil)
	}
	return g
}

// insertRow inserts the row of a grant, whatever its times are.
func insertRow(tx store.Tx, g denylist.Grant) error {
	_, err := tx.Exec(`INSERT INTO grants (id, gen, rotated_at, revoked_at, sub, client_hash, client_name, consent_hash, scope, resource, created_at, expires_at)
		VALUES ($1, $2, $3, 0, $4, $5, $6, $7, $8, $9, $10, $11)`,
		g.ID, g.Gen, g.RotatedAt, g.Subject, g.ClientHash, g.ClientName, g.ConsentHash, g.Scope, g.Resource, g.Created, g.Expires)
	return err
}

// insertRows inserts the rows of many grants, in several writes because each of them has a
// deadline.
func insertRows(t testing.TB, s *store.Store, grants []denylist.Grant) {
	t.Helper()
	for batch := range slices.Chunk(grants, 200) {
		err := patient(func() error {
			return s.Write(t.Context(), func(tx store.Tx) error {
				for _, g := range batch {
					if err := insertRow(tx, g); err != nil {
						return err
					}
				}
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// want uses a generation and expects a verdict.
func want(t testing.TB, l *denylist.List, s *store.Store, g denylist.Grant, gen int64, now time.Time, next int64, verdict error) {
	t.Helper()
	got, err := l.Use(context.Background(), s.Epoch(), g, gen, now)
	if got != next || !errors.Is(err, verdict) || verdict == nil && err != nil {
		t.Errorf("generation %d: got %d, %v; want %d, %v", gen, got, err, next, verdict)
	}
}

// clientWindow gives a grant a replay window of its client.
func clientWindow(w time.Duration) func(*denylist.List, *denylist.Grant) {
	return func(_ *denylist.List, g *denylist.Grant) { g.Window = w }
}

func TestUseFollowsTheRule(t *testing.T) { storetest.Each(t, testUseFollowsTheRule) }

func testUseFollowsTheRule(t *testing.T, e storetest.Engine) {
	now := time.Now()
	o := options(t, e)
	o.KeepEpoch = true
	s := storetest.Open(t, o)
	for _, test := range []struct {
		name    string
		gen     int64 // of the grant's row, 0 for none
		use     int64
		after   time.Duration
		change  func(l *denylist.List, g *denylist.Grant)
		next    int64
		verdict error
	}{
		{"code", 0, 0, 0, nil, 1, nil},
		{"current handle", 1, 1, 0, nil, 2, nil},
		{"current handle, long after", 3, 3, 24 * time.Hour, nil, 4, nil},
		{"predecessor at once", 3, 2, 0, nil, 3, nil},
		{"predecessor at the end of the window", 3, 2, window, nil, 3, nil},
		{"predecessor after the window", 3, 2, window + time.Millisecond, nil, 0, denylist.ErrReused},
		{"predecessor at the end of its client's shorter window", 3, 2, 2 * time.Second, clientWindow(2 * time.Second), 3, nil},
		{"predecessor after its client's shorter window", 3, 2, 2*time.Second + time.Millisecond, clientWindow(2 * time.Second), 0, denylist.ErrReused},
		{"predecessor at once, whose client has no window", 3, 2, 0, clientWindow(-1), 0, denylist.ErrReused},
		{"predecessor after the window, whose client has a longer one", 3, 2, window + time.Millisecond, clientWindow(time.Hour), 0, denylist.ErrReused},
		{"predecessor, clock set back", 3, 2, -time.Hour, nil, 3, nil},
		{"predecessor's predecessor", 3, 1, 0, nil, 0, denylist.ErrReused},
		{"code again", 1, 0, 0, nil, 0, denylist.ErrReused},
		{"code again, later", 1, 0, 30 * time.Second, nil, 0, denylist.ErrReused},
		{"code after a rotation", 2, 0, 0, nil, 0, denylist.ErrReused},
		{"handle that the row has not seen", 3, 4, 0, nil, 0, denylist.ErrRolledBack},
		{"handle without a row", 0, 1, 0, nil, 0, denylist.ErrRolledBack},
		{"at the grant's end", 1, 1, life, nil, 0, denylist.ErrRevoked},
		{"just before the grant's end", 1, 1, life - time.Second, nil, 2, nil},
		{"code after the grant's end", 0, 0, life, nil, 0, denylist.ErrRevoked},
		{"handle after the grant's end, row pruned", 0, 1, life, nil, 0, denylist.ErrRevoked},
		{"revoked", 2, 2, 0, func(l *denylist.List, g *denylist.Grant) { l.Revoke(t.Context(), *g, now) }, 0, denylist.ErrRevoked},
		{"predecessor, revoked", 2, 1, 0, func(l *denylist.List, g *denylist.Grant) { l.Revoke(t.Context(), *g, now) }, 0, denylist.ErrRevoked},
		{"code, revoked before", 0, 0, 0, func(l *denylist.List, g *denylist.Grant) { l.Revoke(t.Context(), *g, now) }, 0, denylist.ErrRevoked},
		{"a longer life than the row's", 1, 1, life, func(_ *denylist.List, g *denylist.Grant) { g.Expires += 1e6 }, 0, denylist.ErrRevoked},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := listOn(t, s, window)
			g := family(t, l, s, test.gen, now)
			if test.change != nil {
				test.change(l, &g)
			}
			at := now.Add(test.after)
			if test.after == life {
				at = time.Unix(g.Expires, 0)
			}
			if test.name == "a longer life than the row's" {
				at = now.Add(life)
			}
			before, _ := l.Find(t.Context(), g.ID)
			want(t, l, s, g, test.use, at, test.next, test.verdict)
			after, _ := l.Find(t.Context(), g.ID)
			switch {
			case errors.Is(test.verdict, denylist.ErrReused):
				want(t, l, s, g, test.gen, at, 0, denylist.ErrRevoked) // the family is dead
				if !l.Revoked(g.ID) || l.Stats().Reused != 1 {
					t.Errorf("reuse: in memory %v, counted %d times", l.Revoked(g.ID), l.Stats().Reused)
				}
			case test.verdict != nil && before != after:
				t.Errorf("a refusal changed the row: %s", cmp.Diff(before, after))
			}
			if n := l.Stats().RolledBack; (n == 1) != errors.Is(test.verdict, denylist.ErrRolledBack) {
				t.Errorf("%d alarms", n)
			}
		})
	}
}

func TestUseRefusesForeignEpochAndNonsense(t *testing.T) {
	storetest.Each(t, testUseRefusesForeignEpochAndNonsense)
}

func testUseRefusesForeignEpochAndNonsense(t *testing.T, e storetest.Engine) {
	l, s := listIn(t, e, window)
	g := family(t, l, s, 1, time.Now())
	if _, err := l.Use(t.Context(), "another", g, 1, time.Now()); !errors.Is(err, denylist.ErrEpoch) {
		t.Errorf("another epoch: %v, want ErrEpoch", err)
	}
	if _, err := l.Use(t.Context(), s.Epoch(), g, -1, time.Now()); err == nil {
		t.Error("a negative generation was accepted")
	}
	if _, err := l.Use(t.Context(), s.Epoch(), denylist.Grant{}, 0, time.Now()); err == nil {
		t.Error("a grant without id was accepted")
	}
	want(t, l, s, g, 1, time.Now(), 2, nil)
	s.Close() // the epoch is looked at before the store is asked
	if _, err := l.Use(t.Context(), "another", g, 2, time.Now()); !errors.Is(err, denylist.ErrEpoch) {
		t.Errorf("another epoch, store down: %v, want ErrEpoch", err)
	}
	if _, err := l.Use(t.Context(), s.Epoch(), g, 2, time.Now()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("store down: %v, want ErrUnavailable", err)
	}
}

// patient repeats a call that the store is too busy for, as a client does after a 503.
func patient(do func() error) (err error) {
	for range 5 {
		if err = do(); !errors.Is(err, store.ErrUnavailable) {
			break
		}
	}
	return err
}

// together calls use n times at once and counts the verdicts.
func together(n int, use func(i int) (int64, error)) (next map[int64]int, errs map[error]int) {
	next, errs = map[int64]int{}, map[error]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var g int64
			err := patient(func() (err error) { g, err = use(i); return err })
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs[err]++
			} else {
				next[g]++
			}
		})
	}
	wg.Wait()
	return next, errs
}

// replicas are lists on several connections to one store, as of several processes.
func replicasOn(t testing.TB, e storetest.Engine, n int, w time.Duration) (lists []*denylist.List, epoch string) {
	t.Helper()
	o := options(t, e)
	o.Serve = false
	for range n {
		s := storetest.Open(t, o)
		lists, epoch = append(lists, listOn(t, s, w)), s.Epoch()
	}
	return lists, epoch
}

// Of 50 requests that redeem one code at once, exactly one gets a generation, and the
// family is revoked.
func TestConcurrentRedemptionServesOneAndRevokes_D05(t *testing.T) {
	storetest.Each(t, testConcurrentRedemptionServesOneAndRevokes)
}

func testConcurrentRedemptionServesOneAndRevokes(t *testing.T, e storetest.Engine) {
	now := time.Now()
	lists, epoch := replicasOn(t, e, 3, window)
	g := grantAt(now)
	next, errs := together(50, func(i int) (int64, error) { return lists[i%3].Use(context.Background(), epoch, g, 0, now) })
	if diff := cmp.Diff(map[int64]int{1: 1}, next); diff != "" || errs[denylist.ErrReused] != 1 || errs[denylist.ErrRevoked] != 48 {
		t.Errorf("issued %v, refused %v", next, errs)
	}
	if _, err := lists[0].Use(t.Context(), epoch, g, 1, now); !errors.Is(err, denylist.ErrRevoked) {
		t.Errorf("the winner's handle: %v, want ErrRevoked", err)
	}
}

// A second use of a code revokes the family, whether it comes at once or later, and the
// family stays revoked after a restart.
func TestCodeReplayRevokes_D02(t *testing.T) { storetest.Each(t, testCodeReplayRevokes) }

func testCodeReplayRevokes(t *testing.T, e storetest.Engine) {
	for _, after := range []time.Duration{0, 30 * time.Second} {
		now := time.Now()
		o := options(t, e)
		s := storetest.Open(t, o)
		l := listOn(t, s, window)
		g := family(t, l, s, 1, now)
		want(t, l, s, g, 0, now.Add(after), 0, denylist.ErrReused)
		s.Close()
		s = storetest.Open(t, o)
		l = listOn(t, s, window)
		want(t, l, s, g, 1, now.Add(after), 0, denylist.ErrRevoked)
		if !l.Revoked(g.ID) {
			t.Error("after a restart the access tokens of the grant would pass")
		}
	}
}

// A handle that is used again after the window revokes the family, and counts once.
func TestReuseRevokesTheFamily_E02(t *testing.T) { storetest.Each(t, testReuseRevokesTheFamily) }

func testReuseRevokesTheFamily(t *testing.T, e storetest.Engine) {
	now := time.Now()
	l, s := listIn(t, e, window)
	g := family(t, l, s, 2, now)
	late := now.Add(window + time.Second)
	want(t, l, s, g, 1, late, 0, denylist.ErrReused)
	want(t, l, s, g, 1, late, 0, denylist.ErrRevoked)
	want(t, l, s, g, 2, late, 0, denylist.ErrRevoked)
	if n := l.Stats().Reused; n != 1 {
		t.Errorf("reuse counted %d times, want once", n)
	}
}

// However often the last refresh is repeated, the family has one line of handles.
func TestRepeatedRefreshDoesNotFork_E04(t *testing.T) {
	storetest.Each(t, testRepeatedRefreshDoesNotFork)
}

func testRepeatedRefreshDoesNotFork(t *testing.T, e storetest.Engine) {
	now := time.Now()
	l, s := listIn(t, e, window)
	g := family(t, l, s, 1, now)
	next, errs := together(20, func(int) (int64, error) { return l.Use(context.Background(), s.Epoch(), g, 1, now) })
	if diff := cmp.Diff(map[int64]int{2: 20}, next); diff != "" {
		t.Fatalf("issued %v, refused %v; want generation 2 twenty times", next, errs)
	}
	want(t, l, s, g, 2, now, 3, nil)
	want(t, l, s, g, 2, now.Add(window+time.Millisecond), 0, denylist.ErrReused)
	want(t, l, s, g, 3, now, 0, denylist.ErrRevoked)
}

func TestRacingRefreshesGetOneGeneration_E05(t *testing.T) {
	storetest.Each(t, testRacingRefreshesGetOneGeneration)
}

func testRacingRefreshesGetOneGeneration(t *testing.T, e storetest.Engine) {
	now := time.Now()
	for _, w := range []time.Duration{window, 0} {
		lists, epoch := replicasOn(t, e, 3, w)
		g := grantAt(now)
		if _, err := lists[0].Use(t.Context(), epoch, g, 0, now); err != nil {
			t.Fatal(err)
		}
		next, errs := together(50, func(i int) (int64, error) { return lists[i%3].Use(context.Background(), epoch, g, 1, now) })
		if w > 0 {
			if next[2] != 50 {
				t.Errorf("window %v: issued %v, refused %v; want generation 2 fifty times", w, next, errs)
			}
			continue
		}
		if next[2] != 1 || len(next) != 1 || errs[denylist.ErrReused] != 1 || errs[denylist.ErrRevoked] != 48 {
			t.Errorf("strict: issued %v, refused %v; want one", next, errs)
		}
	}
	t.Run("8 s apart", func(t *testing.T) {
		lists, epoch := replicasOn(t, e, 3, window)
		g := grantAt(now)
		if _, err := lists[0].Use(t.Context(), epoch, g, 0, now); err != nil {
			t.Fatal(err)
		}
		for i, l := range lists {
			if next, err := l.Use(t.Context(), epoch, g, 1, now.Add(time.Duration(i)*8*time.Second)); next != 2 || err != nil {
				t.Errorf("process %d: %d, %v; want 2", i, next, err)
			}
		}
	})
}

// A hundred refreshes with one handle, spread over three replicas, all get the same next
// generation, and the family has one line of handles afterwards.
func TestReplicasIssueOneNextGeneration_M01(t *testing.T) {
	storetest.Each(t, testReplicasIssueOneNextGeneration)
}

func testReplicasIssueOneNextGeneration(t *testing.T, e storetest.Engine) {
	now := time.Now()
	lists, epoch := replicasOn(t, e, 3, window)
	g := grantAt(now)
	if _, err := lists[0].Use(t.Context(), epoch, g, 0, now); err != nil {
		t.Fatal(err)
	}
	for gen := int64(1); gen < 6; gen++ {
		next, errs := together(100, func(i int) (int64, error) { return lists[i%3].Use(context.Background(), epoch, g, gen, now) })
		if diff := cmp.Diff(map[int64]int{gen + 1: 100}, next); diff != "" || len(errs) != 0 {
			t.Fatalf("generation %d: issued %v, refused %v; want the next one a hundred times", gen, next, errs)
		}
	}
	late := now.Add(window + time.Second)
	_, errs := together(100, func(i int) (int64, error) { return lists[i%3].Use(context.Background(), epoch, g, 5, late) })
	if errs[denylist.ErrReused] != 1 || errs[denylist.ErrRevoked] != 99 {
		t.Errorf("after the window: %v; want the reuse found once, and all refused", errs)
	}
	for i, l := range lists {
		if _, err := l.Use(t.Context(), epoch, g, 6, now); !errors.Is(err, denylist.ErrRevoked) {
			t.Errorf("replica %d: %v, want ErrRevoked", i, err)
		}
	}
}

// The replay window and the reuse after it are on disk.
func TestReplayWindowAndReuseSurviveRestart_E06(t *testing.T) {
	storetest.Each(t, testReplayWindowAndReuseSurviveRestart)
}

func testReplayWindowAndReuseSurviveRestart(t *testing.T, e storetest.Engine) {
	now := time.Now()
	o := options(t, e)
	reopen := func() (*denylist.List, *store.Store) {
		s, err := store.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return listOn(t, s, window), s
	}
	l, s := reopen()
	g := family(t, l, s, 2, now)
	s.Close()
	l, s = reopen()
	want(t, l, s, g, 1, now.Add(window), 2, nil)
	s.Close()
	l, s = reopen()
	want(t, l, s, g, 1, now.Add(window+time.Millisecond), 0, denylist.ErrReused)
	s.Close()
	l, s = reopen()
	defer s.Close()
	want(t, l, s, g, 2, now, 0, denylist.ErrRevoked)
}

func TestOnlyDirectPredecessorCanBeRepeated_E07(t *testing.T) {
	storetest.Each(t, testOnlyDirectPredecessorCanBeRepeated)
}

func testOnlyDirectPredecessorCanBeRepeated(t *testing.T, e storetest.Engine) {
	now := time.Now()
	l, s := listIn(t, e, window)
	g := family(t, l, s, 3, now)
	want(t, l, s, g, 1, now, 0, denylist.ErrReused)
	want(t, l, s, g, 3, now, 0, denylist.ErrRevoked)
}

// A repeated refresh does not extend the window, which counts from the first use.
func TestRepeatedRefreshDoesNotExtendTheWindow(t *testing.T) {
	storetest.Each(t, testRepeatedRefreshDoesNotExtendTheWindow)
}

func testRepeatedRefreshDoesNotExtendTheWindow(t *testing.T, e storetest.Engine) {
	now := time.Now()
	l, s := listIn(t, e, window)
	g := family(t, l, s, 2, now)
	for range 3 {
		want(t, l, s, g, 1, now.Add(window-time.Second), 2, nil)
	}
	want(t, l, s, g, 1, now.Add(window+time.Second), 0, denylist.ErrReused)
}

// A store that was put back to an earlier state is shown by a handle that is newer than
// its row.
func TestNewerHandleShowsRolledBackStore_L08(t *testing.T) {
	storetest.Each(t, testNewerHandleShowsRolledBackStore)
}

func testNewerHandleShowsRolledBackStore(t *testing.T, e storetest.Engine) {
	now := time.Now()
	for what, back := range map[string]string{"older row": "UPDATE grants SET gen = 3 WHERE gen = 5", "no row": "DELETE FROM grants WHERE gen = 5"} {
		t.Run(what, func(t *testing.T) {
			o := options(t, e)
			lists, epoch := stores(t, e, o)
			l, s := lists[0].list, lists[0].store
			g, other := family(t, l, s, 5, now), family(t, l, s, 2, now)
			if err := l.Revoke(t.Context(), other, now); err != nil {
				t.Fatal(err)
			}
			raw(t, s, back)
			raw(t, s, "UPDATE grants SET revoked_at = 0") // of another user
			want(t, l, s, g, 5, now, 0, denylist.ErrRolledBack)
			if s.Epoch() == epoch || s.RolledBack().IsZero() || s.NotBefore() < now.Unix() {
				t.Errorf("the epoch is %s, rolled back at %v, tokens count from %d", s.Epoch(), s.RolledBack(), s.NotBefore())
			}
			for _, at := range lists { // at once, also where the new epoch was not read yet
				for _, one := range []denylist.Grant{g, other} {
					for gen := range int64(6) {
						if next, err := at.list.Use(t.Context(), epoch, one, gen, now); !errors.Is(err, denylist.ErrEpoch) {
							t.Errorf("generation %d after the rollback: %d, %v", gen, next, err)
						}
					}
				}
			}
			if n := l.Stats().RolledBack; n != 1 {
				t.Errorf("%d alarms, want 1", n)
			}
			want(t, l, s, grantAt(now), 0, now, 1, nil) // who signs in again goes on
		})
	}
}

// opened is a store and a list on it.
type opened struct {
	store *store.Store
	list  *denylist.List
}

// stores opens what can be open at once: two replicas, or one server.
func stores(t *testing.T, e storetest.Engine, o store.Options) (all []opened, epoch string) {
	t.Helper()
	o.Serve = true
	n := 1
	if e == storetest.PostgreSQL {
		n = 2
	}
	for range n {
		s := storetest.Open(t, o)
		all, epoch = append(all, opened{s, listOn(t, s, window)}), s.Epoch()
	}
	return all, epoch
}

// A database whose time goes back is found by the next use, before any heartbeat.
func TestTimeThatGoesBackShowsRolledBackStore_L08(t *testing.T) {
	all, epoch := stores(t, storetest.PostgreSQL, options(t, storetest.PostgreSQL))
	l, s := all[0].list, all[0].store
	now := time.Now()
	g := family(t, l, s, 2, now)
	if err := s.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	raw(t, s, "UPDATE meta SET last_seen = last_seen - 60000")
	if next, err := l.Use(t.Context(), epoch, g, 2, now); !errors.Is(err, denylist.ErrRolledBack) && !errors.Is(err, denylist.ErrEpoch) {
		t.Errorf("%d, %v: want ErrRolledBack, or ErrEpoch after a heartbeat", next, err)
	}
	if s.Epoch() == epoch {
		t.Error("the epoch goes on")
	}
}

// A revocation that a running server knows and the store has lost is evidence too.
func TestLostRevocationShowsRolledBackStore_L08(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		all, epoch := stores(t, e, options(t, e))
		l, s := all[0].list, all[0].store
		now := s.Now()
		g := family(t, l, s, 2, now)
		if err := l.Revoke(t.Context(), g, now); err != nil {
			t.Fatal(err)
		}
		defer run(t, l)()
		reads := func() (at time.Time) {
			for before := l.ReadAt(); !l.ReadAt().After(before); {
				time.Sleep(10 * time.Millisecond)
			}
			return l.ReadAt()
		}
		reads()
		reads()
		if s.Epoch() != epoch {
			t.Fatal("a revocation that is there counts as lost")
		}
		raw(t, s, "UPDATE grants SET revoked_at = 0")
		reads()
		reads()
		if s.Epoch() == epoch || l.Stats().RolledBack != 1 {
			t.Errorf("the epoch goes on; %d alarms", l.Stats().RolledBack)
		}
	})
}

// A handle whose row was deleted after its time is no evidence, wherever the clocks are.
func TestPrunedGrantIsNoEvidence(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		all, epoch := stores(t, e, options(t, e))
		l, s := all[0].list, all[0].store
		now := time.Now()
		g := family(t, l, s, 3, now)
		if err := l.Prune(t.Context(), now.Add(life+time.Hour)); err != nil { // by a clock that is far ahead
			t.Fatal(err)
		}
		want(t, l, s, g, 3, now, 0, denylist.ErrRevoked)
		if s.Epoch() != epoch || l.Stats().RolledBack != 0 {
			t.Error("the epoch ended")
		}
		later := family(t, l, s, 3, now.Add(2*time.Hour))
		raw(t, s, "DELETE FROM grants")
		want(t, l, s, later, 3, now.Add(2*time.Hour), 0, denylist.ErrRolledBack)
	})
}

// An operator who wants only to be told loses no session.
func TestEpochIsKeptIfTheOperatorSaysSo(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		o := options(t, e)
		o.KeepEpoch = true
		all, epoch := stores(t, e, o)
		l, s := all[0].list, all[0].store
		now := time.Now()
		g, other := family(t, l, s, 5, now), family(t, l, s, 2, now)
		raw(t, s, "UPDATE grants SET gen = 3 WHERE gen = 5")
		want(t, l, s, g, 5, now, 0, denylist.ErrRolledBack)
		want(t, l, s, g, 5, now, 0, denylist.ErrRolledBack)
		want(t, l, s, other, 2, now, 3, nil)
		if s.Epoch() != epoch || s.RolledBack().IsZero() || s.NotBefore() != 0 || l.Stats().RolledBack != 2 {
			t.Errorf("the epoch is %s, rolled back at %v, tokens count from %d, %d alarms", s.Epoch(), s.RolledBack(), s.NotBefore(), l.Stats().RolledBack)
		}
	})
}

// raw runs a statement that the package itself would not run.
func raw(t testing.TB, s *store.Store, query string) {
	t.Helper()
	if err := s.Write(context.Background(), func(tx store.Tx) error { _, err := tx.Exec(query); return err }); err != nil {
		t.Fatal(err)
	}
}

// An acknowledged revocation wins every race.
func TestRevocationWinsRaces(t *testing.T) { storetest.Each(t, testRevocationWinsRaces) }

func testRevocationWinsRaces(t *testing.T, e storetest.Engine) {
	now := time.Now()
	lists, epoch := replicasOn(t, e, 2, window)
	for range 20 {
		g := grantAt(now)
		if _, err := lists[0].Use(t.Context(), epoch, g, 0, now); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() { lists[i%2].Use(context.Background(), epoch, g, 1, now) })
		}
		wg.Go(func() {
			if err := lists[1].Revoke(context.Background(), g, now); err != nil {
				t.Error(err)
			}
			for gen := range int64(4) {
				if next, err := lists[0].Use(context.Background(), epoch, g, gen, now); !errors.Is(err, denylist.ErrRevoked) {
					t.Errorf("after the revocation, generation %d: %d, %v", gen, next, err)
				}
			}
		})
		wg.Wait()
		if err := lists[0].Revoke(t.Context(), g, now.Add(time.Second)); err != nil {
			t.Errorf("revoking again: %v", err)
		}
	}
}

func TestFindAndGrants(t *testing.T) { storetest.Each(t, testFindAndGrants) }

func testFindAndGrants(t *testing.T, e storetest.Engine) {
	now := time.Now()
	l, s := listIn(t, e, window)
	live, older, revoked, unused := family(t, l, s, 3, now), grantAt(now.Add(-time.Hour)), family(t, l, s, 1, now), grantAt(now)
	want(t, l, s, older, 0, now, 1, nil)
	bob := grantAt(now)
	bob.Subject = "bob"
	want(t, l, s, bob, 0, now, 1, nil)
	past := grantAt(now.Add(-life - time.Hour))
	want(t, l, s, past, 0, now.Add(-life), 1, nil)
	for _, g := range []denylist.Grant{revoked, unused} {
		if err := l.Revoke(t.Context(), g, now); err != nil {
			t.Fatal(err)
		}
	}
	wantLive := live
	wantLive.Gen, wantLive.RotatedAt, wantLive.ConsentHash = 3, now.UnixMilli(), denylist.ConsentForgotten // forgotten with the revocation of another one
	got, err := l.Find(t.Context(), live.ID)
	if diff := cmp.Diff(wantLive, got); err != nil || diff != "" {
		t.Errorf("Find: %v (-want +got):\n%s", err, diff)
	}
	for name, test := range map[string]struct {
		id   string
		want error
	}{"revoked": {revoked.ID, denylist.ErrRevoked}, "revoked before its code was used": {unused.ID, denylist.ErrRevoked},
		"expired": {past.ID, denylist.ErrRevoked}, "never seen": {grantAt(now).ID, denylist.ErrUnknown}} {
		if _, err := l.Find(t.Context(), test.id); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	grants, err := l.Grants(t.Context(), "alice", now)
	var ids []string
	for _, g := range grants {
		ids = append(ids, g.ID)
	}
	if diff := cmp.Diff([]string{live.ID, older.ID}, ids); err != nil || diff != "" {
		t.Errorf("alice's grants: %v (-want +got):\n%s", err, diff)
	}
}

func TestSpendIDSucceedsOnce(t *testing.T) { storetest.Each(t, testSpendIDSucceedsOnce) }

func testSpendIDSucceedsOnce(t *testing.T, e storetest.Engine) {
	l, _ := listIn(t, e, window)
	exp := time.Now().Add(time.Hour)
	long := strings.Repeat("a", 5000)
	for i, id := range []string{"short", long, long + "b", "", "a\x00b", "\xff"} {
		ways := []func(context.Context, string, string, time.Time) error{l.SpendID, l.SpendUnsynced}
		if spent, err := l.Spent(t.Context(), "login", id); spent || err != nil {
			t.Errorf("before: %v, %v", spent, err)
		}
		next, errs := together(30, func(int) (int64, error) { return 0, ways[i%2](context.Background(), "login", id, exp) })
		if next[0] != 1 || errs[denylist.ErrSpent] != 29 {
			t.Errorf("%.8q: %v, %v; want one", id, next, errs)
		}
		if spent, err := l.Spent(t.Context(), "login", id); !spent || err != nil {
			t.Errorf("after: %v, %v", spent, err)
		}
		for _, spend := range ways { // also what the other way has spent
			if err := spend(t.Context(), "login", id, exp); !errors.Is(err, denylist.ErrSpent) {
				t.Errorf("%.8q once more: %v", id, err)
			}
		}
		if err := l.SpendID(t.Context(), "assertion", id, exp); err != nil {
			t.Errorf("the same id of another kind: %v", err)
		}
	}
}

// While the store fails there is no verdict, neither yes nor no.
func TestStoreFailureIsNoVerdict(t *testing.T) { storetest.Each(t, testStoreFailureIsNoVerdict) }

func testStoreFailureIsNoVerdict(t *testing.T, e storetest.Engine) {
	now := time.Now()
	o := options(t, e)
	s := storetest.Open(t, o)
	l := listOn(t, s, window)
	g := family(t, l, s, 1, now)
	verbs := []string{"INSERT ON grants", "UPDATE ON grants", "INSERT ON spent"}
	for _, verb := range verbs {
		breakOn(t, e, o, verb)
	}
	for name, call := range map[string]func() error{
		"code":          func() error { _, err := l.Use(t.Context(), s.Epoch(), grantAt(now), 0, now); return err },
		"handle":        func() error { _, err := l.Use(t.Context(), s.Epoch(), g, 1, now); return err },
		"reuse":         func() error { _, err := l.Use(t.Context(), s.Epoch(), g, 0, now); return err },
		"revoke":        func() error { return l.Revoke(t.Context(), g, now) },
		"revoke no row": func() error { return l.Revoke(t.Context(), grantAt(now), now) },
		"id":            func() error { return l.SpendID(t.Context(), "assertion", "x", now.Add(time.Hour)) },
		"id of a login": func() error { return l.SpendUnsynced(t.Context(), "login", "x", now.Add(time.Hour)) },
	} {
		if err := call(); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v, want ErrUnavailable", name, err)
		}
	}
	if l.Revoked(g.ID) || l.Stats() != (denylist.Stats{}) {
		t.Errorf("a failure was counted or remembered: %+v", l.Stats())
	}
	for _, verb := range verbs {
		mend(t, e, o, verb)
	}
	want(t, l, s, g, 1, now, 2, nil)
}

// breakOn makes the engine itself fail at a verb, until mend is called.
func breakOn(t testing.TB, e storetest.Engine, o store.Options, verb string) {
	t.Helper()
	outside(t, e, o, trigger(e, "fail_"+strings.ReplaceAll(verb, " ", "_"), verb))
}

func mend(t testing.TB, e storetest.Engine, o store.Options, verb string) {
	t.Helper()
	_, table, _ := strings.Cut(verb, " ON ")
	outside(t, e, o, drop(e, "fail_"+strings.ReplaceAll(verb, " ", "_"), table))
}

// trigger is a statement that makes a verb fail, such as "INSERT ON grants".
func trigger(e storetest.Engine, name, verb string) string {
	if e == storetest.SQLite {
		return "CREATE TRIGGER " + name + " BEFORE " + verb + " BEGIN SELECT RAISE(ABORT, 'no'); END"
	}
	verb, when, conditional := strings.Cut(verb, " WHEN ")
	if conditional {
		when = " WHEN (" + when + ")"
	}
	return "CREATE FUNCTION " + name + "() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;" +
		"CREATE TRIGGER " + name + " BEFORE " + verb + " FOR EACH ROW" + when + " EXECUTE FUNCTION " + name + "()"
}

func drop(e storetest.Engine, name, table string) string {
	if e == storetest.SQLite {
		return "DROP TRIGGER " + name
	}
	return "DROP TRIGGER " + name + " ON " + table + "; DROP FUNCTION " + name
}

func outside(t testing.TB, e storetest.Engine, o store.Options, query string) {
	t.Helper()
	if e == storetest.PostgreSQL {
		pgtest.Exec(t, o.Path, "SET search_path = signet; "+query)
		return
	}
	db, err := sql.Open("sqlite", o.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(query); err != nil {
		t.Fatal(err)
	}
}

// If the database is down at the start, there is no verdict, and every grant counts as
// revoked until the revocations were read.
func TestListThatStartsDuringAnOutage(t *testing.T) {
	o := options(t, storetest.PostgreSQL)
	proxy := pgtest.NewProxy(t, o.Path)
	proxy.Set(pgtest.Reset)
	o.Path, o.Serve = proxy.URL, true
	s := storetest.Open(t, o)
	l := listOn(t, s, window)
	defer run(t, l)()
	g := grantAt(time.Now())
	for _, epoch := range []string{"", "any"} {
		if _, err := l.Use(t.Context(), epoch, g, 0, time.Now()); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("epoch %q: %v, want ErrUnavailable", epoch, err)
		}
	}
	if !l.Revoked(g.ID) {
		t.Error("a grant is not revoked before the revocations were read")
	}
	if at := l.ReadAt(); !at.IsZero() {
		t.Errorf("read at %v, want never", at)
	}
	proxy.Set(pgtest.Pass)
	for deadline := time.Now().Add(10 * time.Second); l.Revoked(g.ID); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("all grants are still revoked after the outage")
		}
	}
	want(t, l, s, g, 0, time.Now(), 1, nil)
}

func TestNewChecksItsOptions(t *testing.T) {
	s := storetest.Open(t, options(t, storetest.SQLite))
	for _, o := range []denylist.Options{{}, {Store: s, Window: -1}, {Store: s, Skew: -1}, {Store: s, Keep: -1}} {
		if _, err := denylist.New(t.Context(), o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

// fastDir is a directory in memory, if the machine has one, for tests that are not about
// the disk.
func fastDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "signet")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// keepEpoch has a store go on in its epoch after a rollback was found.
func keepEpoch(o *store.Options) { o.KeepEpoch = true }

func fastStore(t testing.TB, change ...func(*store.Options)) *store.Store {
	t.Helper()
	o := pathOptions(fastDir(t))
	for _, c := range change {
		c(&o)
	}
	storetest.Create(t, o)
	return storetest.Open(t, o)
}

func fastStoreOn(t testing.TB, e storetest.Engine, change ...func(*store.Options)) *store.Store {
	t.Helper()
	if e == storetest.SQLite {
		return fastStore(t, change...)
	}
	o := options(t, e)
	for _, c := range change {
		c(&o)
	}
	return storetest.Open(t, o)
}

// Recent lists the grants that Revoked knows, the latest ones if there are too many, and
// its time is never newer than the last read of the store.
func TestRecentListsLatestRevocations_G04(t *testing.T) {
	s := fastStore(t)
	before := time.Now().Add(-time.Second)
	l := listOn(t, s, window)
	now := time.Now()
	if at := l.ReadAt(); at.Before(before) || at.After(now) {
		t.Errorf("read at %v, opened between %v and %v", at, before, now)
	}
	grants := []denylist.Grant{grantAt(now), grantAt(now), grantAt(now), grantAt(now)}
	for i, g := range grants {
		at := now.Add(time.Duration(max(i, 1)) * time.Millisecond) // the first two at the same time
		if err := l.Revoke(t.Context(), g, at); err != nil {
			t.Fatal(err)
		}
	}
	for limit, n := range map[int]int{10: 4, 4: 4, 3: 3, 2: 2, 1: 1} {
		recent, readAt := l.Recent(limit)
		if len(recent) != n || !readAt.Equal(l.ReadAt()) {
			t.Errorf("at most %d: %v, read at %v", limit, recent, readAt)
		}
		if at := recent[grants[3].ID]; at != now.Add(3*time.Millisecond).UnixMilli() {
			t.Errorf("at most %d: the last one is missing from %v", limit, recent)
		}
	}
	recent, _ := l.Recent(10)
	clear(recent)
	if !l.Revoked(grants[0].ID) {
		t.Error("a change of the copy changed the list")
	}
}
