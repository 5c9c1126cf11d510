package denylist_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"signet/internal/denylist"
	"signet/internal/store"
	"signet/internal/test/storetest"
)

// flush runs the list and stops it at once, which writes the waiting counts.
func flush(l *denylist.List) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	l.Run(ctx)
}

func commits(t testing.TB, s *store.Store) (n int64) {
	t.Helper()
	if err := s.Read(t.Context(), func(tx store.Tx) error { return tx.QueryRow("SELECT commits FROM meta").Scan(&n) }); err != nil {
		t.Fatal(err)
	}
	return n
}

// failOn makes the engine fail if the row of a grant changes, until repair is called.
func failOn(t testing.TB, e storetest.Engine, s *store.Store, id string) (repair func()) {
	t.Helper()
	change := func(query string) {
		t.Helper()
		err := s.Write(t.Context(), func(tx store.Tx) error {
			tx.Exec(query)
			_, err := tx.Exec("UPDATE meta SET last_seen = last_seen") // only a transaction that changes rows is committed
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	change(trigger(e, "fail", "UPDATE ON grants WHEN old.id = '"+id+"'"))
	return func() { change(drop(e, "fail", "grants")) }
}

func wantReplays(t testing.TB, l *denylist.List, g denylist.Grant, n int64) {
	t.Helper()
	got, err := l.Find(t.Context(), g.ID)
	if err != nil && !errors.Is(err, denylist.ErrRevoked) || got.Replays != n {
		t.Errorf("%d replays, %v; want %d", got.Replays, err, n)
	}
}

// A replay costs no write while its client waits, and is counted afterwards. A refusal
// is not a replay, and neither is a first use.
func TestReplaysAreCountedBehindTheRequest(t *testing.T) {
	now := time.Now()
	l, s := list(t, window)
	g, other, code := family(t, l, s, 2, now), family(t, l, s, 2, now), grantAt(now)
	before := commits(t, s)
	for range 5 {
		want(t, l, s, g, 1, now, 2, nil)
	}
	want(t, l, s, other, 1, now, 2, nil)
	if n := commits(t, s); n != before {
		t.Errorf("replays cost %d commits", n-before)
	}
	wantReplays(t, l, g, 0)
	flush(l)
	if n := commits(t, s); n != before+1 {
		t.Errorf("counting two grants cost %d commits, want 1", n-before)
	}
	flush(l)
	if n := commits(t, s); n != before+1 {
		t.Errorf("counting nothing cost %d commits, want none", n-before-1)
	}
	wantReplays(t, l, g, 5)
	wantReplays(t, l, other, 1)

	want(t, l, s, g, 2, now, 3, nil)
	want(t, l, s, g, 2, now, 3, nil)
	want(t, l, s, g, 1, now, 0, denylist.ErrReused)
	want(t, l, s, g, 2, now, 0, denylist.ErrRevoked)
	want(t, l, s, code, 0, now, 1, nil)
	flush(l)
	wantReplays(t, l, g, 6)
	wantReplays(t, l, code, 0)
	if n := l.Stats().Replayed; n != 7 {
		t.Errorf("%d replays in all, want 7", n)
	}
}

// While the list runs, a replay is in the store within seconds.
func TestReplaysAreFlushedWhileRunning(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o := pathOptions(dir)
		storetest.Create(t, o)
		s := storetest.Open(t, o)
		l := listOn(t, s, window)
		defer run(t, l)()
		g := family(t, l, s, 2, time.Now())
		for i := range int64(3) {
			want(t, l, s, g, 1, time.Now(), 2, nil)
			time.Sleep(4 * time.Second)
			wantReplays(t, l, g, i+1)
		}
	})
}

// Counts that could not be written are written later, once. A grant that was deleted
// meanwhile does not stop the others.
func TestReplaysOutliveAFailingStore(t *testing.T) {
	storetest.Each(t, testReplaysOutliveAFailingStore)
}

func testReplaysOutliveAFailingStore(t *testing.T, e storetest.Engine) {
	now := time.Now()
	l, s := listIn(t, e, window)
	var grants []denylist.Grant
	for range 450 { // more than two batches
		grants = append(grants, family(t, l, s, 2, now))
		want(t, l, s, grants[len(grants)-1], 1, now, 2, nil)
	}
	slices.SortFunc(grants, func(a, b denylist.Grant) int { return strings.Compare(a.ID, b.ID) })
	repair := failOn(t, e, s, grants[250].ID)
	flush(l)
	wantReplays(t, l, grants[0], 1)
	wantReplays(t, l, grants[250], 0)
	wantReplays(t, l, grants[449], 0)
	repair()
	raw(t, s, fmt.Sprintf("DELETE FROM grants WHERE id = '%s'", grants[300].ID))
	want(t, l, s, grants[449], 1, now, 2, nil)
	flush(l)
	flush(l)
	for i, g := range grants {
		switch i {
		case 300:
		case 449:
			wantReplays(t, l, g, 2)
		default:
			wantReplays(t, l, g, 1)
		}
	}
}

// The counts that wait in memory are bounded, and replays beyond that are not counted.
func TestReplaysWaitingAreBounded(t *testing.T) {
	const most = 10_000
	now := time.Now()
	s := fastStore(t)
	l := listOn(t, s, window)
	g := grantAt(now)
	first := g.ID
	id := func(i int) string { return fmt.Sprintf("%s-%05d", first, i) }
	var rows []denylist.Grant
	for i := range most + 2 {
		row := g
		row.ID, row.Gen, row.RotatedAt = id(i), 2, now.UnixMilli()
		rows = append(rows, row)
	}
	insertRows(t, s, rows)
	for _, i := range append([]int{most + 1}, indexes(most+1)...) { // the last one exceeds the bound
		g.ID = id(i)
		want(t, l, s, g, 1, now, 2, nil)
	}
	g.ID = id(0)
	want(t, l, s, g, 1, now, 2, nil) // its count waits already
	for range 5 {
		flush(l) // a stop has three seconds, in which a busy machine does not write 10,000
	}
	for i, n := range map[int]int64{0: 2, 1: 1, most - 2: 1, most + 1: 1, most - 1: 0, most: 0} {
		g.ID = id(i)
		wantReplays(t, l, g, n)
	}
	if n := l.Stats().Replayed; n != most+3 {
		t.Errorf("%d replays in all, want %d", n, most+3)
	}
}

func indexes(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

func TestAllPagesThroughLiveGrants(t *testing.T) { storetest.Each(t, testAllPagesThroughLiveGrants) }

func testAllPagesThroughLiveGrants(t *testing.T, e storetest.Engine) {
	now := time.Now()
	l, s := listIn(t, e, window)
	var ids []string
	for i := range 7 {
		g := grantAt(now.Add(time.Duration(i-3) * time.Hour))
		g.Subject = fmt.Sprint("user", i)
		want(t, l, s, g, 0, now, 1, nil)
		ids = append(ids, g.ID)
	}
	revoked, past := family(t, l, s, 1, now), grantAt(now.Add(-life-time.Hour))
	if err := l.Revoke(t.Context(), revoked, now); err != nil {
		t.Fatal(err)
	}
	want(t, l, s, past, 0, now.Add(-life-time.Minute), 1, nil)
	for _, limit := range []int{1, 2, 3, 7, 100} {
		var got []string
		for after := ""; ; {
			page, err := l.All(t.Context(), "", after, limit, now)
			if err != nil || len(page) > limit {
				t.Fatalf("a page of %d, %v; want at most %d", len(page), err, limit)
			}
			if len(page) == 0 {
				break
			}
			for _, g := range page {
				got = append(got, g.ID)
			}
			after = got[len(got)-1]
		}
		if diff := cmp.Diff(ids, got); diff != "" {
			t.Errorf("pages of %d (-want +got):\n%s", limit, diff)
		}
	}
	for _, limit := range []int{0, -1} {
		if _, err := l.All(t.Context(), "", "", limit, now); err == nil {
			t.Errorf("a page of %d is no error", limit)
		}
	}
	s.Close()
	if _, err := l.All(t.Context(), "", "", 1, now); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("store down: %v, want ErrUnavailable", err)
	}
}

// "Sign out everywhere" ends all grants of a user and no others. This process knows at
// once.
func TestRevokeAllEndsOneUsersGrants(t *testing.T) {
	storetest.Each(t, testRevokeAllEndsOneUsersGrants)
}

func testRevokeAllEndsOneUsersGrants(t *testing.T, e storetest.Engine) {
	now := time.Now()
	lists, epoch := replicasOn(t, e, 2, window)
	use := func(g denylist.Grant, gen int64, want error) {
		t.Helper()
		if _, err := lists[0].Use(t.Context(), epoch, g, gen, now); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("generation %d of %s: %v, want %v", gen, g.Subject, err, want)
		}
	}
	const many = 401 // more than two batches
	var live []denylist.Grant
	for range many {
		live = append(live, grantAt(now))
		use(live[len(live)-1], 0, nil)
	}
	bob, gone, unused := grantAt(now), grantAt(now), grantAt(now)
	bob.Subject = "bob"
	use(bob, 0, nil)
	use(gone, 0, nil)
	past := grantAt(now.Add(-life - time.Hour))
	if _, err := lists[0].Use(t.Context(), epoch, past, 0, now.Add(-life-time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := lists[1].Revoke(t.Context(), gone, now.Add(-time.Minute)); err != nil {
		t.Fatal(err)
	}
	n, err := lists[0].RevokeAll(t.Context(), "alice", now)
	if n != many || err != nil {
		t.Errorf("%d, %v; want %d", n, err, many)
	}
	for _, g := range live {
		if !lists[0].Revoked(g.ID) {
			t.Fatal("a revoked grant is not in memory at once")
		}
		use(g, 1, denylist.ErrRevoked)
	}
	if g, _ := lists[0].Find(t.Context(), gone.ID); g.RevokedAt != now.Add(-time.Minute).UnixMilli() {
		t.Errorf("the time of an earlier revocation moved to %v", time.UnixMilli(g.RevokedAt))
	}
	use(bob, 1, nil)
	use(unused, 0, nil) // the user signed in again
	if lists[0].Revoked(bob.ID) {
		t.Error("another user's grant is revoked")
	}
	if n, err := lists[0].RevokeAll(t.Context(), "alice", now); n != 1 || err != nil {
		t.Errorf("again: %d, %v; want the grant that came later", n, err)
	}
	for _, subject := range []string{"alice", "nobody", "", "Alice"} {
		if n, err := lists[0].RevokeAll(t.Context(), subject, now); n != 0 || err != nil {
			t.Errorf("%q: %d, %v; want none", subject, n, err)
		}
	}
}

// If RevokeAll fails between two batches, it returns how many grants it revoked, and the
// rest can be revoked later.
func TestRevokeAllThatStopsHalfWay(t *testing.T) { storetest.Each(t, testRevokeAllThatStopsHalfWay) }

func testRevokeAllThatStopsHalfWay(t *testing.T, e storetest.Engine) {
	now := time.Now()
	l, s := listIn(t, e, window)
	var ids []string
	for range 300 {
		ids = append(ids, family(t, l, s, 1, now).ID)
	}
	slices.Sort(ids)
	repair := failOn(t, e, s, ids[250])
	n, err := l.RevokeAll(t.Context(), "alice", now)
	if n != 200 || !errors.Is(err, store.ErrUnavailable) || !l.Revoked(ids[199]) || l.Revoked(ids[200]) {
		t.Errorf("%d, %v; want 200 and ErrUnavailable", n, err)
	}
	repair()
	if n, err := l.RevokeAll(t.Context(), "alice", now); n != 100 || err != nil {
		t.Errorf("the rest: %d, %v; want 100", n, err)
	}
}

// Other processes notice a revocation of many grants even if it takes long: a late batch
// has its own time, not the time of the beginning.
func TestRevokeAllBatchesHaveTheirOwnTimes(t *testing.T) {
	o := options(t, storetest.SQLite)
	synctest.Test(t, func(t *testing.T) {
		s := storetest.Open(t, o)
		l := listOn(t, s, window)
		now := s.Now()
		for range 250 {
			family(t, l, s, 1, now)
		}
		busy := make(chan bool)
		go s.Write(context.Background(), func(store.Tx) error { close(busy); time.Sleep(500 * time.Millisecond); return nil })
		<-busy
		if n, err := l.RevokeAll(t.Context(), "alice", now); n != 250 || err != nil {
			t.Fatal(n, err)
		}
		var first, last int64
		err := s.Read(t.Context(), func(tx store.Tx) error {
			return tx.QueryRow("SELECT min(revoked_at), max(revoked_at) FROM grants").Scan(&first, &last)
		})
		if err != nil || last-first != 500 {
			t.Errorf("batches 500 ms apart have times %d ms apart (%v)", last-first, err)
		}
	})
}
