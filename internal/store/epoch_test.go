package store_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signet/internal/store"
	"signet/internal/test/pgtest"
)

// alter changes rows as nothing in the program does.
func alter(t *testing.T, s *store.Store, query string) {
	t.Helper()
	err := s.Write(t.Context(), func(tx store.Tx) error { _, err := tx.Exec(query); return err })
	if err != nil && !errors.Is(err, store.ErrUnavailable) {
		t.Fatal(err)
	}
}

// wantEnded waits until s has another epoch than the one given, and takes writes.
func wantEnded(t *testing.T, s *store.Store, epoch string) {
	t.Helper()
	eventually(t, "another epoch", func() error {
		if s.Epoch() == epoch {
			return fmt.Errorf("it is still %s", epoch)
		}
		return spend(s, fmt.Sprint(time.Now()))
	})
	if s.RolledBack().IsZero() || s.NotBefore() == 0 || s.NotBefore() > time.Now().Unix()+1 {
		t.Errorf("rolled back at %v, tokens count from %d", s.RolledBack(), s.NotBefore())
	}
}

// What goes back beneath a running server ends the epoch, once, and is told.
func TestWhatGoesBackEndsTheEpoch_L08(t *testing.T) {
	for name, test := range map[string]struct {
		options func(testing.TB) store.Options
		back    string
	}{
		"commits on SQLite":       {options, "UPDATE meta SET commits = commits - 5"},
		"last_seen on PostgreSQL": {firstOptions, "UPDATE meta SET last_seen = last_seen - 5000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // waits most of the time
			var log logText
			o := test.options(t)
			o.Log = slog.New(slog.NewTextHandler(&log, nil))
			if !store.Locate(o.Path).Shared() {
				create(t, o)
			}
			s := open(t, o)
			for i := range 10 {
				if err := spend(s, fmt.Sprint("before", i)); err != nil {
					t.Fatal(err)
				}
			}
			epoch := s.Epoch()
			eventually(t, "a later time", func() error { return s.Look(t.Context()) })
			alter(t, s, test.back)
			wantEnded(t, s, epoch)
			next := s.Epoch()
			if n := strings.Count(log.String(), "its epoch has ended, and all users sign in again"); n != 1 {
				t.Errorf("the log has the end %d times:\n%s", n, log.String())
			}
			time.Sleep(2500 * time.Millisecond) // two heartbeats
			closeStore(t, s)
			if s = open(t, o); s.Epoch() != next || s.RolledBack().IsZero() || s.NotBefore() == 0 {
				t.Errorf("after a restart the epoch is %s, want %s; rolled back at %v, tokens count from %d", s.Epoch(), next, s.RolledBack(), s.NotBefore())
			}
		})
	}
}

// The operator can keep the epoch, and is told all the same.
func TestWhatGoesBackIsToldIfTheEpochIsKept_L08(t *testing.T) {
	onBoth(t, func(t *testing.T, o store.Options) {
		o.KeepEpoch, o.First = true, "fingerprint"
		back := "UPDATE meta SET last_seen = last_seen - 5000"
		if !store.Locate(o.Path).Shared() {
			create(t, o)
			back = "UPDATE meta SET commits = commits - 5"
		}
		s := open(t, o)
		for i := range 10 {
			if err := spend(s, fmt.Sprint("before", i)); err != nil {
				t.Fatal(err)
			}
		}
		epoch := s.Epoch()
		alter(t, s, back)
		eventually(t, "the alarm", func() error {
			if s.RolledBack().IsZero() {
				return errors.New("not yet")
			}
			return spend(s, fmt.Sprint(time.Now()))
		})
		if s.Epoch() != epoch || s.NotBefore() != 0 {
			t.Errorf("the epoch is %s, want %s; tokens count from %d", s.Epoch(), epoch, s.NotBefore())
		}
		closeStore(t, s)
		open(t, o)
	})
}

// A kill between the new epoch and its mirror loses nothing.
func TestMirrorOfAnEndedEpochIsRenewed(t *testing.T) {
	o := options(t)
	create(t, o)
	s := open(t, o)
	epoch := s.Epoch()
	mirror := filepath.Join(t.TempDir(), "mirror")
	copyFile(t, o.Mirror, mirror)
	if err := s.Write(t.Context(), func(tx store.Tx) error { return s.FoundRollback(tx, epoch) }); err != nil {
		t.Fatal(err)
	}
	wantEnded(t, s, epoch)
	next := s.Epoch()
	closeStore(t, s)
	if err := os.Rename(mirror, o.Mirror); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	if s.Epoch() != next {
		t.Errorf("the epoch is %s, want %s", s.Epoch(), next)
	}
	closeStore(t, s)
	o.Serve = false
	open(t, o) // its mirror has the present epoch again
}

// A database that is put back beneath two replicas ends the epoch at both, and so does one
// from before the present epoch.
func TestDatabasePutBackBeneathReplicasEndsTheEpoch_L08(t *testing.T) {
	t.Parallel()  // waits most of the time
	pgtest.URL(t) // skips the test where there is no PostgreSQL
	db, err := pgtest.NewServer()
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { db.Close() })
	replicas := atOnce(t, 2, store.Options{Path: db.URL, Serve: true, First: "fingerprint"})
	if err := db.Save(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		epoch := replicas[0].Epoch()
		eventually(t, "the saved database", func() error {
			return errors.Join(spend(replicas[0], fmt.Sprint(time.Now())), spend(replicas[1], fmt.Sprint(time.Now())))
		})
		saved := lastSeen(t, replicas[1]) // or later than that
		eventually(t, "a later time, read by both", func() error {
			if replicas[0].SeenLast() <= saved || replicas[1].SeenLast() <= saved {
				return errors.New("not yet")
			}
			return nil
		})
		if err := db.PutBack(); err != nil {
			t.Fatal(err)
		}
		for _, s := range replicas {
			wantEnded(t, s, epoch)
		}
		eventually(t, "the same epoch", func() error {
			if a, b := replicas[0].Epoch(), replicas[1].Epoch(); a != b {
				return fmt.Errorf("%s and %s", a, b)
			}
			return nil
		})
	}
}

func lastSeen(t *testing.T, s *store.Store) (ms int64) {
	t.Helper()
	if err := s.Read(t.Context(), func(tx store.Tx) error { return tx.QueryRow("SELECT last_seen FROM meta").Scan(&ms) }); err != nil {
		t.Fatal(err)
	}
	return ms
}
