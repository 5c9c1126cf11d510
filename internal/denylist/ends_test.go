package denylist_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"signet/internal/denylist"
	"signet/internal/seal"
	"signet/internal/store"
	"signet/internal/test/storetest"
)

// of makes a live grant of a user's version to a client, with a consent.
func of(t testing.TB, l *denylist.List, s *store.Store, subject, version, client, consent string, now time.Time) denylist.Grant {
	t.Helper()
	g := grantAt(now)
	g.Subject, g.UserVersion, g.ClientHash, g.ConsentHash = subject, denylist.VersionHash(version), seal.ClientHash(client), consent
	want(t, l, s, g, 0, now, 1, nil)
	return g
}

func wantLive(t testing.TB, l *denylist.List, what string, g denylist.Grant, live bool) {
	t.Helper()
	_, err := l.Find(context.Background(), g.ID)
	if live && err != nil || !live && !errors.Is(err, denylist.ErrRevoked) {
		t.Errorf("%s: %v, want live %v", what, err, live)
	}
	if l.Revoked(g.ID) == live && live {
		t.Errorf("%s: the grant's access tokens are refused", what)
	}
}

// When a user's version moves, the grants of other versions end, and no others.
func TestRevokeOthersSparesThePresentVersion(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		now := time.Now()
		l, s := listIn(t, e, window)
		var old []denylist.Grant
		for range 210 { // more than a batch
			old = append(old, of(t, l, s, "alice", "1", "c", "h", now))
		}
		none := of(t, l, s, "alice", "", "c", "h", now)
		present, bob := of(t, l, s, "alice", "2", "c", "h", now), of(t, l, s, "bob", "1", "c", "h", now)
		if n, err := l.RevokeOthers(t.Context(), "alice", denylist.VersionHash("2"), now); n != 211 || err != nil {
			t.Errorf("%d, %v; want 211", n, err)
		}
		for _, g := range append(old, none) {
			wantLive(t, l, "another version", g, false)
			if !l.Revoked(g.ID) {
				t.Fatal("the revocation is not in memory at once")
			}
		}
		wantLive(t, l, "the present version", present, true)
		wantLive(t, l, "another user", bob, true)
		if n, err := l.RevokeOthers(t.Context(), "alice", "", now); n != 1 || err != nil {
			t.Errorf("a removed user: %d, %v; want 1", n, err)
		}
		wantLive(t, l, "of a removed user", present, false)
	})
}

// A row of an older release has no version until the next refresh.
func TestRefreshTellsTheVersionOfAnOldRow(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		now := time.Now()
		l, s := listIn(t, e, window)
		g := of(t, l, s, "alice", "1", "c", "h", now)
		raw(t, s, "UPDATE meta SET rows_epoch = epoch")
		raw(t, s, "UPDATE grants SET user_version = '', epoch = ''")
		l = listOn(t, s, window)
		wantLive(t, l, "a row of an older release", g, true)
		want(t, l, s, g, 1, now, 2, nil)
		if found, err := l.Find(t.Context(), g.ID); err != nil || found.UserVersion != g.UserVersion {
			t.Errorf("version %q, %v; want %q", found.UserVersion, err, g.UserVersion)
		}
		raw(t, s, "UPDATE meta SET rows_epoch = 'another'")
		l = listOn(t, s, window)
		wantLive(t, l, "after the refresh", g, true)
	})
}

// RevokeWhere ends the grants that its caller chooses, of all users and pages.
func TestRevokeWhereReadsEveryLiveGrant(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		now := time.Now()
		_, s := listIn(t, e, window)
		const many = 1203 // many batches
		err := s.Write(t.Context(), func(tx store.Tx) error {
			for i := range many {
				g := grantAt(now)
				_, err := tx.Exec(`INSERT INTO grants (id, gen, rotated_at, revoked_at, sub, client_hash, client_name, consent_hash, scope, resource, created_at, expires_at)
					VALUES ($1, 1, 0, 0, $2, 'c', 'n', 'h', 's', 'r', $3, $4)`, g.ID, fmt.Sprint("user", i%3), i, g.Expires)
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		raw(t, s, "UPDATE meta SET rows_epoch = epoch")
		l := listOn(t, s, window)
		over := func(g denylist.Grant) bool { return g.Subject == "user1" || g.Created >= many-3 }
		if n, err := l.RevokeWhere(t.Context(), over); n != many/3+2 || err != nil {
			t.Errorf("%d, %v; want %d", n, err, many/3+2)
		}
		left, err := l.All(t.Context(), "", "", many, now)
		if len(left) != many-many/3-2 || err != nil {
			t.Errorf("%d are left, %v", len(left), err)
		}
		for _, g := range left {
			if over(g) || l.Revoked(g.ID) {
				t.Errorf("%+v", g)
			}
		}
		if n, err := l.RevokeWhere(t.Context(), over); n != 0 || err != nil {
			t.Errorf("again: %d, %v; want none", n, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := l.RevokeWhere(ctx, over); err == nil {
			t.Error("a stopped scan returned no error")
		}
	})
}

// A consent counts while a grant of it lives, in its epoch, and until the user ends any
// grant of the same client.
func TestConsentedFollowsTheGrants(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		now := time.Now()
		l, s := listIn(t, e, window)
		check := func(what, subject, consent string, yes bool) {
			t.Helper()
			if got, err := remembers(t, l, subject, consent, now); got != yes || err != nil {
				t.Errorf("%s: %v, %v; want %v", what, got, err, yes)
			}
		}
		one, two := of(t, l, s, "alice", "1", "c", "read", now), of(t, l, s, "alice", "1", "c", "read", now)
		of(t, l, s, "alice", "1", "c", "write", now)
		of(t, l, s, "alice", "1", "d", "other", now)
		of(t, l, s, "bob", "1", "c", "bob's", now)
		check("the same", "alice", "read", true)
		check("another", "alice", "admin", false)
		check("another user", "bob", "read", false)
		check("no hash", "alice", "", false)
		if err := l.Revoke(t.Context(), one, now); err != nil {
			t.Fatal(err)
		}
		wantLive(t, l, "the other grant", two, true)
		check("one of two is revoked", "alice", "read", false)
		check("of the same client", "alice", "write", false)
		check("of another client", "alice", "other", true)
		check("of another user", "bob", "bob's", true)

		now = now.Add(time.Second) // in the second of the revocation a consent is not remembered
		again := of(t, l, s, "alice", "1", "c", "read", now)
		check("consented again", "alice", "read", true)
		want(t, l, s, again, 0, now, 0, denylist.ErrReused)
		check("reused", "alice", "read", false)

		now = now.Add(time.Second)
		of(t, l, s, "alice", "1", "c", "read", now)
		check("consented once more", "alice", "read", true)
		if got, err := remembers(t, l, "alice", "read", now.Add(life)); got || err != nil {
			t.Errorf("when the grant is over: %v, %v", got, err)
		}
	})
}

// A grant of an earlier epoch is dead, without a change of its row: a backup may
// contain the row as it was before its revocation.
func TestGrantsOfAnotherEpochAreDead(t *testing.T) {
	now := time.Now()
	o := options(t, storetest.SQLite)
	s := storetest.Open(t, o)
	l := listOn(t, s, window)
	live, old := of(t, l, s, "alice", "1", "c", "h", now), of(t, l, s, "alice", "1", "c", "h", now)
	raw(t, s, fmt.Sprintf("UPDATE grants SET epoch = '' WHERE id = '%s'", old.ID)) // as in a row of an older release
	for _, g := range []denylist.Grant{live, old} {
		wantLive(t, l, "before", g, true)
	}
	s.Close()
	if _, err := store.NewEpoch(t.Context(), o, "f"); err != nil {
		t.Fatal(err)
	}
	s = storetest.Open(t, o)
	l = listOn(t, s, window)
	for _, g := range []denylist.Grant{live, old} {
		wantLive(t, l, "after", g, false)
	}
	if grants, err := l.Grants(t.Context(), "alice", now); len(grants) > 0 || err != nil {
		t.Errorf("%d grants, %v", len(grants), err)
	}
	for _, subject := range []string{"", "alice"} {
		if grants, err := l.All(t.Context(), subject, "", 10, now); len(grants) > 0 || err != nil {
			t.Errorf("all of %q: %d grants, %v", subject, len(grants), err)
		}
	}
	if yes, err := remembers(t, l, "alice", "h", now); yes || err != nil {
		t.Errorf("consented: %v, %v", yes, err)
	}
	wantLive(t, l, "made since", of(t, l, s, "alice", "1", "c", "h", now), true)
}

// A user has a bounded number of grants; the oldest end.
func TestOldestGrantsEndWhenThereAreTooMany(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		now := time.Now()
		s := fastStoreOn(t, e)
		l := listOn(t, s, window)
		insert := func(client string, n int, created time.Time) {
			t.Helper()
			err := s.Write(t.Context(), func(tx store.Tx) error {
				for i := range n {
					g := grantAt(now.Add(-time.Duration(i) * time.Second)) // the order of ids differs from that of the grants
					_, err := tx.Exec(`INSERT INTO grants (id, gen, rotated_at, revoked_at, sub, client_hash, client_name, consent_hash, scope, resource, created_at, expires_at, epoch)
						VALUES ($1, 1, 0, 0, 'alice', $2, 'n', 'h', 's', 'r', $3, $4, (SELECT epoch FROM grants WHERE sub = 'bob'))`,
						g.ID, seal.ClientHash(client), created.Unix()+int64(i), g.Expires)
					if err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		count := func() (n int, ofClient map[string]int) {
			t.Helper()
			ofClient = map[string]int{}
			all, err := l.All(t.Context(), "alice", "", 10_000, now)
			if err != nil {
				t.Fatal(err)
			}
			for _, g := range all {
				ofClient[g.ClientHash]++
			}
			return len(all), ofClient
		}
		trim := func() {
			t.Helper()
			if err := l.Trim(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		bob := of(t, l, s, "bob", "1", "c", "h", now)
		insert("c", 500, now.Add(-time.Hour))
		insert("d", 50, now.Add(-2*time.Hour))
		newest := of(t, l, s, "alice", "1", "c", "h", now)
		trim()
		if n, of := count(); n != denylist.MaxOfClient+50 || of[seal.ClientHash("d")] != 50 {
			t.Errorf("%d grants, %v", n, of)
		}
		wantLive(t, l, "the newest", newest, true)
		wantLive(t, l, "another user's", bob, true)
		for i := range 12 {
			insert(fmt.Sprint("more", i), denylist.MaxOfClient, now.Add(-time.Minute))
		}
		newest = of(t, l, s, "alice", "1", "e", "h", now)
		trim()
		if n, of := count(); n != denylist.MaxOfUser || of[seal.ClientHash("d")] != 0 {
			t.Errorf("%d grants in all, %v", n, of)
		}
		wantLive(t, l, "the newest", newest, true)
		insert("shared", denylist.MaxOfClient+50, now.Add(-time.Second))
		shared := grantAt(now)
		shared.Subject, shared.ClientHash, shared.ConsentHash, shared.Shared = "alice", seal.ClientHash("shared"), "h", true
		want(t, l, s, shared, 0, now, 1, nil)
		trim()
		if n, of := count(); n != denylist.MaxOfUser || of[shared.ClientHash] != denylist.MaxOfClient+51 {
			t.Errorf("with those of an id that installations share: %d grants, %v", n, of)
		}
		if e == storetest.SQLite {
			before := commits(t, s)
			of(t, l, s, "carol", "1", "c", "h", now)
			trim()
			if n := commits(t, s) - before; n != 1 {
				t.Errorf("a user's first grant cost %d commits, want 1", n)
			}
		}
	})
}

// A revocation is kept for the longest life that an access token ever had, whatever the
// settings of the servers are now.
func TestRevocationsAreKeptByTheLongestLife(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		s := storetest.Open(t, options(t, e))
		with := func(keep time.Duration) *denylist.List {
			t.Helper()
			l, err := denylist.New(t.Context(), denylist.Options{Store: s, Window: window, Skew: skew, Keep: keep})
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		now := s.Now()
		short := with(time.Minute)
		g := family(t, short, s, 1, now.Add(-10*time.Hour))
		if err := short.Revoke(t.Context(), g, now.Add(-10*time.Hour)); err != nil {
			t.Fatal(err)
		}
		if l := with(time.Minute); l.Revoked(g.ID) || l.Keep() != time.Minute {
			t.Errorf("with short lives: revoked %v, kept %v", l.Revoked(g.ID), l.Keep())
		}
		if !with(24 * time.Hour).Revoked(g.ID) {
			t.Error("with long lives the revocation is forgotten")
		}
		for range 2 {
			if l := with(time.Minute); !l.Revoked(g.ID) || l.Keep() != 24*time.Hour {
				t.Errorf("with short lives again: revoked %v, kept %v", l.Revoked(g.ID), l.Keep())
			}
		}
		// A running server learns the longer life from another one.
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer stop()
		running.Go(func() { short.Run(ctx) })
		for deadline := time.Now().Add(20 * time.Second); !short.Revoked(g.ID); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the other server forgot it")
			}
		}
	})
}

// A code that outlives its grant is also accepted only once.
func TestCodeThatOutlivesItsGrantIsUsedOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		l, s := listIn(t, e, 0)
		now := time.Now()
		g := denylist.Grant{ID: seal.NewID(now.Add(20 * time.Minute)), Subject: "alice", ClientHash: "c", Created: now.Unix(), Expires: now.Add(time.Second).Unix()}
		want(t, l, s, g, 0, now, 1, nil)
		for _, later := range []time.Duration{2 * time.Second, 3 * time.Minute, 9 * time.Minute, 10*time.Minute - time.Second} {
			if err := l.Prune(t.Context(), now.Add(later)); err != nil {
				t.Fatal(err)
			}
			again := g
			again.Expires = now.Add(later + time.Second).Unix() // when the code is redeemed
			if next, err := l.Use(t.Context(), s.Epoch(), again, 0, now.Add(later)); err == nil {
				t.Errorf("after %v the code is accepted again: %d", later, next)
			}
		}
	})
}

// A code that was approved before the user ended another grant of the client, and is
// redeemed after it, brings no consent back. One that was approved later does.
func TestCodeFromBeforeTheEndBringsNoConsentBack(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		l, s := listIn(t, e, window)
		now := time.Now()
		consented := func() bool {
			t.Helper()
			got, err := remembers(t, l, "alice", "h", now)
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		first, before, after := family(t, l, s, 1, now), grantAt(now), grantAt(now)
		before.Created, after.Created = now.Add(-10*time.Second).Unix(), now.Add(10*time.Second).Unix()
		if err := l.Revoke(t.Context(), first, now); err != nil {
			t.Fatal(err)
		}
		want(t, l, s, before, 0, now, 1, nil)
		if consented() {
			t.Error("the consent is remembered again")
		}
		other := grantAt(now)
		other.ClientHash, other.ConsentHash, other.Created = "other", "g", before.Created
		want(t, l, s, other, 0, now, 1, nil)
		if got, err := remembers(t, l, "alice", "g", now); err != nil || !got {
			t.Errorf("the consent to another client is not remembered (%v)", err)
		}
		want(t, l, s, after, 0, now, 1, nil)
		if !consented() {
			t.Error("a later consent is not remembered")
		}
	})
}

// A grant whose consent is forgotten still says whether the user chose its end. What is left of
// the consent matches no lookup, and is not written again.
func TestForgottenConsentSaysWhetherTheEndWasChosen(t *testing.T) {
	const hash = "abcdefABCDEF"
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		l, s := listIn(t, e, window)
		now := time.Now()
		for consent, left := range map[string]string{
			hash: denylist.ConsentForgotten, "less:" + hash: denylist.ConsentForgotten, "less:again:" + hash: denylist.ConsentForgotten, "ENDS:" + hash: denylist.ConsentForgotten,
			denylist.ConsentEnds + hash: denylist.ConsentEnds, denylist.ConsentEnds + "again:" + hash: denylist.ConsentEnds, "": "",
		} {
			client := "client of " + consent
			live := of(t, l, s, "alice", "1", client, consent, now)
			ended := of(t, l, s, "alice", "1", client, "h", now)
			before := grantAt(now) // its code is used when the other grant has ended
			before.ClientHash, before.ConsentHash = live.ClientHash, consent
			for range 2 {
				if err := l.Revoke(t.Context(), ended, now.Add(time.Second)); err != nil {
					t.Fatal(err)
				}
			}
			want(t, l, s, before, 0, now.Add(2*time.Second), 1, nil)
			for name, g := range map[string]denylist.Grant{"a grant": live, "a code": before} {
				if found, err := l.Find(t.Context(), g.ID); err != nil || found.ConsentHash != left {
					t.Errorf("%s with the consent %q: %q is left (%v), want %q", name, consent, found.ConsentHash, err, left)
				}
			}
		}
		for _, kind := range []string{"", "less:", denylist.ConsentEnds, "less:again:", denylist.ConsentEnds + "again:"} {
			if got, err := remembers(t, l, "alice", kind+hash, now.Add(2*time.Second)); got || err != nil {
				t.Errorf("%q is remembered: %v, %v", kind+hash, got, err)
			}
		}
	})
}

// remembers reports whether a user has a live grant with that consent.
func remembers(t *testing.T, l *denylist.List, subject, consent string, now time.Time) (bool, error) {
	t.Helper()
	_, err := l.Consent(t.Context(), subject, []string{consent}, now)
	if errors.Is(err, denylist.ErrUnknown) {
		return false, nil
	}
	return err == nil, err
}
