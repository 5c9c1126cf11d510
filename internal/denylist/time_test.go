package denylist_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/denylist"
	"signet/internal/store"
	"signet/internal/test/storetest"
)

// Whatever the clock does, a spent, revoked or expired handle is not accepted again.
func TestClockJumpMakesNothingValidAgain_L10(t *testing.T) {
	for _, jump := range []time.Duration{time.Hour, -time.Hour, -10 * time.Minute, -2 * life} {
		now := time.Now()
		l, s := list(t, window)
		spentCode, reused, revoked, live := family(t, l, s, 1, now), family(t, l, s, 3, now), family(t, l, s, 1, now), family(t, l, s, 3, now)
		want(t, l, s, reused, 1, now, 0, denylist.ErrReused)
		if err := l.Revoke(t.Context(), revoked, now); err != nil {
			t.Fatal(err)
		}
		for i := range time.Duration(3) {
			at := now.Add((i + 1) * jump)
			want(t, l, s, reused, 3, at, 0, denylist.ErrRevoked)
			want(t, l, s, revoked, 1, at, 0, denylist.ErrRevoked)
			want(t, l, s, revoked, 0, at, 0, denylist.ErrRevoked)
			want(t, l, s, live, 3+int64(i), at, 4+int64(i), nil)
		}
		want(t, l, s, live, 3, now.Add(jump), 0, denylist.ErrReused)
		want(t, l, s, spentCode, 0, now.Add(jump), 0, denylist.ErrReused)
	}
}

// A grant or a window that has ended stays ended when the machine starts again with an
// earlier clock, because the store's time goes on.
func TestRestartWithEarlierClockMakesNothingValidAgain_L10(t *testing.T) {
	o := pathOptions(t.TempDir())
	session := func(f func(t *testing.T, l *denylist.List, s *store.Store)) {
		synctest.Test(t, func(t *testing.T) { // the clock begins anew each time
			if err := store.Create(t.Context(), o, "f"); err != nil && !errors.Is(err, os.ErrExist) {
				t.Fatal(err)
			}
			s, err := store.Open(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			f(t, listOn(t, s, window), s)
		})
	}
	var ended, rotated denylist.Grant
	session(func(t *testing.T, l *denylist.List, s *store.Store) {
		ended = grantAt(s.Now())
		ended.Expires = s.Now().Add(time.Minute).Unix()
		want(t, l, s, ended, 0, s.Now(), 1, nil)
		rotated = family(t, l, s, 2, s.Now())
		time.Sleep(2 * time.Minute)
		want(t, l, s, ended, 1, s.Now(), 0, denylist.ErrRevoked)
	})
	session(func(t *testing.T, l *denylist.List, s *store.Store) {
		want(t, l, s, ended, 1, s.Now(), 0, denylist.ErrRevoked)
		want(t, l, s, rotated, 1, s.Now(), 0, denylist.ErrReused)
	})
}

// A revocation is in memory at once in this process, within two seconds in another one,
// and is forgotten when the last access token of the grant has expired.
func TestRevocationReachesOtherProcesses(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o := pathOptions(dir)
		o.Serve = false
		storetest.Create(t, o)
		ctx := t.Context()
		var lists []*denylist.List
		for range 2 {
			s, err := store.Open(ctx, o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			lists = append(lists, listOn(t, s, window))
		}
		defer run(t, lists...)()
		now := time.Now()
		g := grantAt(now)
		if err := lists[0].Revoke(ctx, g, now); err != nil {
			t.Fatal(err)
		}
		if !lists[0].Revoked(g.ID) {
			t.Error("the revocation is not known in this process at once")
		}
		time.Sleep(2 * time.Second)
		if !lists[1].Revoked(g.ID) {
			t.Error("the revocation is not known in the other process after 2 s")
		}
		slow := grantAt(now) // its revocation waits long for the commit
		if err := lists[0].Revoke(ctx, slow, time.Now().Add(-10*time.Second)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if !lists[1].Revoked(slow.ID) {
			t.Error("a revocation that was committed late is not known in the other process")
		}
		if lists[1].Revoked(grantAt(now).ID) {
			t.Error("another grant counts as revoked")
		}
		time.Sleep(keep)
		if !lists[0].Revoked(g.ID) || !lists[1].Revoked(g.ID) {
			t.Error("forgotten too early")
		}
		time.Sleep(skew)
		if lists[0].Revoked(g.ID) || lists[1].Revoked(g.ID) || lists[0].Stats().Revoked != 0 {
			t.Error("not forgotten, so the set is unbounded")
		}
		late, err := denylist.New(ctx, denylist.Options{Store: storetest.Open(t, o), Keep: 24 * time.Hour})
		if err != nil || !late.Revoked(g.ID) {
			t.Errorf("a list that keeps revocations longer does not know it at its start: %v", err)
		}
	})
}

// Rows are deleted when nothing of their grants can be accepted any longer, and not
// before. Requests are answered meanwhile.
func TestPruneDeletesInTimeWithoutBlocking_L15_Row23(t *testing.T) {
	storetest.Each(t, testPruneDeletesInTimeWithoutBlocking_L15_Row23)
}

func testPruneDeletesInTimeWithoutBlocking_L15_Row23(t *testing.T, e storetest.Engine) {
	l, s := listIn(t, e, window)
	now := s.Now()
	end := now.Add(life).Truncate(time.Second)
	var due []denylist.Grant
	for i := range 3000 {
		g := grantAt(now)
		g.Gen, g.Subject, g.Expires = 1, fmt.Sprint("user", i), end.Unix()
		due = append(due, g)
	}
	insertRows(t, s, due)
	quiet := grantAt(now) // revoked last, so remembered longest
	quiet.Expires = end.Unix()
	longer := family(t, l, s, 2, now.Add(time.Hour))
	justRevoked := grantAt(now)
	justRevoked.Expires = end.Unix()
	for i := range 300 {
		if err := l.SpendID(t.Context(), "login", fmt.Sprint(i), end); err != nil {
			t.Fatal(err)
		}
	}
	last := end.Add(skew + window) // the last time at which a slow clock accepts
	for g, at := range map[*denylist.Grant]time.Time{&justRevoked: last.Add(-time.Second), &quiet: last.Add(10*time.Minute + time.Second - keep - skew)} {
		if err := l.Revoke(t.Context(), *g, at); err != nil {
			t.Fatal(err)
		}
	}
	prune := func(at time.Time, pruned int64) {
		t.Helper()
		if err := l.Prune(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		if n := l.Stats().Pruned; n != pruned {
			t.Errorf("%v after the end: %d rows pruned in all, want %d", at.Sub(end), n, pruned)
		}
	}
	const codes = 10 * time.Minute // a code may outlive its grant by so much
	prune(end, 0)
	prune(last, 0)
	prune(last.Add(time.Second), 300) // the ids
	prune(last.Add(codes), 300)

	g := family(t, l, s, 1, now.Add(2*time.Hour))
	stop, worst := make(chan bool), make(chan time.Duration, 1)
	var uses atomic.Int64
	go func() {
		var w time.Duration
		defer func() { worst <- w }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			began := time.Now()
			if _, err := l.Use(context.Background(), s.Epoch(), g, 0, now); !errors.Is(err, denylist.ErrReused) && !errors.Is(err, denylist.ErrRevoked) {
				t.Errorf("during pruning: %v", err)
			}
			w = max(w, time.Since(began))
			uses.Add(1)
		}
	}()
	for deadline := time.Now().Add(30 * time.Second); uses.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			close(stop)
			t.Fatal("no request was answered before pruning")
		}
	}
	before := uses.Load()
	prune(last.Add(codes+time.Second), 3301) // 17 batches: a request waits for one or two of them
	between := uses.Load() - before
	close(stop)
	t.Logf("%d requests were answered during pruning, the slowest after %v", between, <-worst)
	if between < 5 {
		t.Errorf("%d requests were answered during pruning, want at least 5", between)
	}

	if _, err := l.Find(t.Context(), due[0].ID); !errors.Is(err, denylist.ErrUnknown) {
		t.Errorf("a pruned grant: %v, want ErrUnknown", err)
	}
	want(t, l, s, longer, 2, now, 3, nil)
	want(t, l, s, quiet, 1, end.Add(-time.Second), 0, denylist.ErrRevoked)
	prune(last.Add(codes+2*time.Second), 3302)
}

// However often a grant rotates, it is one row.
func TestRotationsLeaveOneRow_L15(t *testing.T) { storetest.Each(t, testRotationsLeaveOneRow) }

func testRotationsLeaveOneRow(t *testing.T, e storetest.Engine) {
	l, s := listIn(t, e, window)
	now := s.Now()
	g := family(t, l, s, 200, now)
	var n int
	err := s.Read(t.Context(), func(tx store.Tx) error {
		return tx.QueryRow("SELECT count(*) + (SELECT count(*) FROM spent) FROM grants").Scan(&n)
	})
	if err != nil || n != 1 {
		t.Errorf("%d rows after 200 rotations of %s, want 1 (%v)", n, g.Subject, err)
	}
}
