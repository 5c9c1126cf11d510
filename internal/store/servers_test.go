package store_test

import (
	"errors"
	"fmt"
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

// The announcement of a server is there until the server stops. The announcement of a
// killed server is removed by a restart, or after some time.
func TestServersAnnounceThemselves(t *testing.T) { onBoth(t, testServersAnnounceThemselves) }

func testServersAnnounceThemselves(t *testing.T, o store.Options) {
	create(t, o)
	s := open(t, o)
	command := o
	command.Serve = false
	beside := open(t, command)
	if list := servers(t, beside); len(list) != 0 {
		t.Errorf("before any announcement: %+v", list)
	}
	for _, roots := range []string{"a", "a,b"} {
		if err := s.Announce(t.Context(), roots); err != nil {
			t.Fatal(err)
		}
		list := servers(t, beside)
		if len(list) != 1 || list[0].Roots != roots || list[0].ID == "" || time.Since(list[0].Seen).Abs() > 5*time.Second || list[0].Ahead.Abs() > time.Second {
			t.Errorf("announced %s, read %+v", roots, list)
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
		t.Errorf("after a server was killed: %+v", list)
	}
	closeStore(t, s)
	if list := servers(t, beside); len(list) != 0 {
		t.Errorf("after the server has stopped: %+v", list)
	}
}

// A command can keep servers away, and gets an error if one runs.
func TestHoldKeepsServersAway(t *testing.T) {
	o := options(t)
	create(t, o)
	s := open(t, o)
	if _, err := store.Hold(o.Path); !errors.Is(err, store.ErrLocked) {
		t.Errorf("while a server runs: %v, want ErrLocked", err)
	}
	closeStore(t, s)
	release, err := store.Hold(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), o); !errors.Is(err, store.ErrLocked) {
		t.Errorf("a server that starts meanwhile: %v, want ErrLocked", err)
	}
	release()
	closeStore(t, open(t, o))
}

// Every replica sees how far the clocks differ, whichever of them is wrong.
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
		eventually(t, "the replica with the "+name+" clock", func() error {
			if got := s.ClocksApart(); (got - 40*time.Second).Abs() >= time.Second {
				return fmt.Errorf("it sees a difference of %v, want 40 s; servers %+v", got, servers(t, s))
			}
			if apart := time.Until(s.Common()); apart.Abs() >= time.Second {
				return fmt.Errorf("its common time is %v from that of the others", apart)
			}
			return nil
		})
	}
}

// If the root secret was rotated and a replica does not have the next one, the replica
// gives no verdict: it waits, and its errors say for what.
func TestReplicaWithoutTheRotatedRootWaits(t *testing.T) {
	t.Parallel()
	o := firstOptions(t)
	known := o
	known.Root = func(fingerprint string) bool { return fingerprint == "root" }
	s, left := open(t, o), open(t, known)
	if left.Epoch() == "" {
		t.Fatal("no epoch before the rotation")
	}
	rotate := func(fingerprint string) {
		if err := s.Write(t.Context(), func(tx store.Tx) error { return store.SetFingerprint(tx, fingerprint, time.Now()) }); err != nil {
			t.Fatal(err)
		}
	}
	rotate("next")
	eventually(t, "the replica without the next root", func() error {
		if left.Epoch() != "" {
			return errors.New("it goes on as if there was no rotation")
		}
		return nil
	})
	if err := spend(left, "x"); !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, store.ErrOtherRoot) || !strings.Contains(err.Error(), "SIGNET_SECRET") {
		t.Errorf("a write: %v, want ErrUnavailable and the remedy", err)
	}
	if err := spend(s, "y"); err != nil {
		t.Errorf("the replica that has the next root: %v", err)
	}
	rotate("root")
	eventually(t, "once the root is its own again", func() error {
		if left.Epoch() == "" {
			return errors.New("it has no epoch")
		}
		return spend(left, "z")
	})
}
