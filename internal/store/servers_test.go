package store_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"signet/internal/store"
)

func servers(t *testing.T, s *store.Store) []store.Server {
	t.Helper()
	list, err := s.Servers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// What a server says of itself is there for others until it ends; of one that was
// killed a restart, or time, does away with.
func TestServersAnnounceThemselves(t *testing.T) { onBoth(t, testServersAnnounceThemselves) }

func testServersAnnounceThemselves(t *testing.T, o store.Options) {
	create(t, o)
	s := open(t, o)
	command := o
	command.Serve = false
	beside := open(t, command)
	if list := servers(t, beside); len(list) != 0 {
		t.Errorf("before anybody has said anything: %+v", list)
	}
	for _, roots := range []string{"a", "a,b"} {
		if err := s.Announce(t.Context(), roots); err != nil {
			t.Fatal(err)
		}
		list := servers(t, beside)
		if len(list) != 1 || list[0].Roots != roots || list[0].ID == "" || time.Since(list[0].Seen).Abs() > 5*time.Second || list[0].Ahead.Abs() > time.Second {
			t.Errorf("said %s, read %+v", roots, list)
		}
	}
	exec := func(query string) {
		if err := s.Write(t.Context(), func(tx store.Tx) error { _, err := tx.Exec(query); return err }); err != nil {
			t.Fatal(err)
		}
	}
	exec("INSERT INTO servers (id, roots, ahead, seen_at) VALUES ('killed', 'a', 0, 1000)")
	if err := s.Announce(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if list := servers(t, beside); len(list) != 1 || list[0].Roots != "b" {
		t.Errorf("beside one that was killed: %+v", list)
	}
	closeStore(t, s)
	if list := servers(t, beside); len(list) != 0 {
		t.Errorf("after it has ended: %+v", list)
	}
}

// A command can keep servers away, and is told when there is one.
func TestHoldKeepsServersAway(t *testing.T) {
	o := options(t)
	create(t, o)
	s := open(t, o)
	if _, err := store.Hold(o.Path); !errors.Is(err, store.ErrLocked) {
		t.Errorf("beside a server: %v, want ErrLocked", err)
	}
	closeStore(t, s)
	release, err := store.Hold(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), o); !errors.Is(err, store.ErrLocked) {
		t.Errorf("a server that starts then: %v, want ErrLocked", err)
	}
	release()
	closeStore(t, open(t, o))
}

// Replicas see how far their clocks are apart, whichever of them is wrong.
func TestReplicasSeeHowFarClocksDiffer(t *testing.T) {
	t.Parallel()
	o := firstOptions(t)
	right, wrong := open(t, o), open(t, o.WithClockAhead(-40*time.Second))
	for _, s := range []*store.Store{right, wrong} {
		if err := s.Announce(t.Context(), "root"); err != nil {
			t.Fatal(err)
		}
	}
	for name, s := range map[string]*store.Store{"right": right, "wrong": wrong} {
		for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			if got := s.ClocksApart(); (got - 40*time.Second).Abs() < time.Second {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the one with the %s clock sees a difference of %v, want 40 s; %+v", name, s.ClocksApart(), servers(t, s))
			}
		}
	}
}

// A replica that has not got the root secret to which the others went over gives no
// verdict: it waits, and says for what.
func TestReplicaWithoutTheRotatedRootWaits(t *testing.T) {
	t.Parallel()
	o := firstOptions(t)
	known := o
	known.Root = func(fingerprint string) bool { return fingerprint == "root" }
	s, left := open(t, o), open(t, known)
	if left.Epoch() == "" {
		t.Fatal("no epoch before anything has happened")
	}
	turn := func(fingerprint string) {
		if err := s.Write(t.Context(), func(tx store.Tx) error { return store.SetFingerprint(tx, fingerprint, time.Now()) }); err != nil {
			t.Fatal(err)
		}
	}
	wait := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal(what)
			}
		}
	}
	turn("next")
	wait("it goes on as if nothing had happened", func() bool { return left.Epoch() == "" })
	if err := spend(left, "x"); !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, store.ErrOtherRoot) || !strings.Contains(err.Error(), "SIGNET_SECRET") {
		t.Errorf("a write: %v, want ErrUnavailable and what to do", err)
	}
	if err := spend(s, "y"); err != nil {
		t.Errorf("the replica that has it: %v", err)
	}
	turn("root")
	wait("it does not go on when the root is its own again", func() bool { return left.Epoch() != "" && spend(left, "z") == nil })
}
