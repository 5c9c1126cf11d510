package denylist_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/internal/denylist"
	"signet/internal/seal"
	"signet/internal/store"
	"signet/internal/test/storetest"
)

func clientGrant(t *testing.T, l *denylist.List, hash string, at time.Time) string {
	t.Helper()
	id, err := l.ClientGrant(hash, at)
	if err != nil || id == "" {
		t.Fatal(id, err)
	}
	return id
}

// All processes use the same ids, the end of a client revokes those whose tokens may be live,
// at once here and soon elsewhere, and later tokens have others.
func TestEndOfAClientRevokesItsTokens_G01(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		l, s := listIn(t, e, window)
		other := listOn(t, s, window)
		now := time.Now()
		hash, bystander := seal.ClientHash("worker"), seal.ClientHash("other")
		id, ofOther := clientGrant(t, l, hash, now), clientGrant(t, l, bystander, now)
		before := clientGrant(t, l, hash, now.Add(-time.Minute)) // maybe of the day before
		if got := clientGrant(t, other, hash, now); got != id || id == ofOther {
			t.Errorf("another process has %s, this one %s; another client %s", got, id, ofOther)
		}
		if err := l.EndClient(t.Context(), hash); err != nil {
			t.Fatal(err)
		}
		if !l.Revoked(id) || !l.Revoked(before) || l.Revoked(ofOther) {
			t.Errorf("revoked: %v, a minute before: %v, of another client: %v", l.Revoked(id), l.Revoked(before), l.Revoked(ofOther))
		}
		if _, err := l.Find(t.Context(), id); !errors.Is(err, denylist.ErrRevoked) {
			t.Errorf("the store says %v", err)
		}
		next := clientGrant(t, l, hash, now)
		if next == id || l.Revoked(next) {
			t.Errorf("after the end: %s, before %s, revoked %v", next, id, l.Revoked(next))
		}
		if _, err := l.Find(t.Context(), next); !errors.Is(err, denylist.ErrUnknown) {
			t.Errorf("the store says of a later one %v", err)
		}
		stop := run(t, other)
		defer stop()
		for deadline := time.Now().Add(20 * time.Second); !other.Revoked(id); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("another process does not learn of the end")
			}
		}
		if got := clientGrant(t, other, hash, now); got != next {
			t.Errorf("another process goes on with %s, want %s", got, next)
		}
	})
}

// Every token of a client that may be live is found by its grant id, and no other id is taken
// for one.
func TestClientIsFoundByTheGrantOfItsTokens(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		l, _ := listIn(t, e, window)
		hash, now := seal.ClientHash("worker"), time.Now()
		is := func(id, hash string) bool {
			t.Helper()
			found, err := l.IsClientGrant(id, hash)
			if err != nil {
				t.Fatal(err)
			}
			return found
		}
		for day := range 91 {
			if id := clientGrant(t, l, hash, now.Add(-time.Duration(day)*24*time.Hour)); !is(id, hash) || is(id, seal.ClientHash("other")) {
				t.Errorf("the client of a token of %d days ago is not found, or another one is", day)
			}
		}
		id := clientGrant(t, l, hash, now)
		for _, other := range []string{"", "xyz", id[:25], id + "0", strings.ToUpper(id), seal.NewID(now), strings.Repeat("v", 26), strings.Repeat("0", 26)} {
			if is(other, hash) {
				t.Errorf("%q is taken for the grant of a client's tokens", other)
			}
		}
		if err := l.EndClient(t.Context(), hash); err != nil {
			t.Fatal(err)
		}
		if is(id, hash) || !is(clientGrant(t, l, hash, now), hash) {
			t.Error("after the end the client is found by its old grant, or not by the new one")
		}
	})
}

// Long access tokens may be of many periods. Another process may have issued them.
func TestEndOfAClientRevokesAllPeriods(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		_, s := listIn(t, e, window)
		keep := 90 * 24 * time.Hour
		long, err := denylist.New(t.Context(), denylist.Options{Store: s, Keep: keep})
		if err != nil {
			t.Fatal(err)
		}
		now, hash := time.Now(), seal.ClientHash("worker")
		var ids []string
		for day := range 91 {
			ids = append(ids, clientGrant(t, long, hash, now.Add(-time.Duration(day)*24*time.Hour)))
		}
		command, err := denylist.New(t.Context(), denylist.Options{Store: s})
		if err != nil {
			t.Fatal(err)
		}
		if err := command.EndClient(t.Context(), hash); err != nil {
			t.Fatal(err)
		}
		for day, id := range ids {
			if !command.Revoked(id) {
				t.Errorf("a token of %d days ago has not ended", day)
			}
		}
	})
}

// Several servers notice the end of a client at the same time.
func TestEndsOfAClientAtOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		l, s := listIn(t, e, window)
		lists := []*denylist.List{l, listOn(t, s, window), listOn(t, s, window)}
		hash := seal.ClientHash("worker")
		id := clientGrant(t, l, hash, time.Now())
		var all sync.WaitGroup
		for i := range 12 {
			all.Go(func() {
				if err := lists[i%len(lists)].EndClient(t.Context(), hash); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if err := l.EndClient(t.Context(), hash); err != nil {
			t.Fatal(err)
		}
		if next := clientGrant(t, l, hash, time.Now()); !l.Revoked(id) || l.Revoked(next) {
			t.Errorf("revoked: %v, the next one: %v", l.Revoked(id), l.Revoked(next))
		}
	})
}

// The rows of ended clients keep no other row from being pruned, and are pruned themselves.
func TestRowsOfEndedClientsArePruned_INV23(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		l, s := listIn(t, e, window)
		now := time.Now()
		for i := range 3 {
			if err := l.EndClient(t.Context(), seal.ClientHash(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		g := denylist.Grant{ID: seal.NewID(now.Add(time.Hour)), Subject: "alice", ClientHash: "c", Expires: now.Unix() + 60, Created: now.Unix()}
		if _, err := l.Use(t.Context(), s.Epoch(), g, 0, now); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			after time.Duration
			none  bool
		}{{90 * 24 * time.Hour, false}, {96 * 24 * time.Hour, true}} {
			if err := l.Prune(t.Context(), now.Add(tt.after)); err != nil {
				t.Fatal(err)
			}
			if n := left(t, s); (n == 0) != tt.none {
				t.Errorf("%d rows after %s", n, tt.after)
			}
		}
	})
}

// left is the number of grants that have a row.
func left(t *testing.T, s *store.Store) (n int) {
	t.Helper()
	err := s.Read(t.Context(), func(tx store.Tx) error { return tx.QueryRow("SELECT count(*) FROM grants").Scan(&n) })
	if err != nil {
		t.Fatal(err)
	}
	return n
}
