package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signet/internal/store"
	"signet/internal/test/pgtest"
)

func pgOptions(t testing.TB) store.Options {
	t.Helper()
	return store.Options{Path: pgtest.URL(t), Serve: true}
}

// engines are the stores that the tests of both engines run on.
var engines = []struct {
	name    string
	options func(testing.TB) store.Options
}{{"sqlite", options}, {"postgres", pgOptions}}

// onBoth runs a test on each engine, with the options of a store that is not made yet.
func onBoth(t *testing.T, test func(t *testing.T, o store.Options)) {
	t.Helper()
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) { test(t, e.options(t)) })
	}
}

// atOnce opens n replicas at the same moment.
func atOnce(t *testing.T, n int, o store.Options) []*store.Store {
	t.Helper()
	replicas := make([]*store.Store, n)
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { replicas[i], errs[i] = store.Open(t.Context(), o) })
	}
	all.Wait()
	for _, s := range replicas {
		if s != nil {
			t.Cleanup(func() { s.Close() })
		}
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return replicas
}

// If replicas start together on an empty database, one of them makes the store, and all
// use it.
func TestFirstStartOfManyReplicas(t *testing.T) {
	o := pgOptions(t)
	if _, err := store.Open(t.Context(), o); !errors.Is(err, store.ErrNoStore) {
		t.Errorf("opening nothing: %v, want ErrNoStore", err)
	}
	o.First = "root"
	replicas := atOnce(t, 8, o)
	for i, s := range replicas {
		if s.Epoch() == "" || s.Epoch() != replicas[0].Epoch() || s.Fingerprint() != "root" {
			t.Errorf("replica %d has epoch %q, fingerprint %q; the first has %q", i, s.Epoch(), s.Fingerprint(), replicas[0].Epoch())
		}
		if err := spend(s, fmt.Sprint(i)); err != nil {
			t.Error(err)
		}
	}
	if n := len(spent(t, replicas[0])); n != 8 {
		t.Errorf("%d rows, want 8", n)
	}
}

// Replicas of a new release migrate once, while a replica of the old release goes on.
// After that no replica of the old release can start.
func TestReplicasThatStartTogetherMigrateOnce_L16(t *testing.T) {
	o := firstOptions(t)
	old := open(t, o)
	next := store.PostgresSchema()
	for i := range 3 {
		next = append(next, fmt.Sprintf("CREATE TABLE later%d (n BIGINT); INSERT INTO later%d VALUES (1)", i, i))
	}
	replicas := atOnce(t, 4, o.WithSteps(next...))
	for i, s := range append(replicas, old) {
		if err := spend(s, fmt.Sprint(i)); err != nil || s.Epoch() != old.Epoch() {
			t.Errorf("replica %d: %v, epoch %q, want %q", i, err, s.Epoch(), old.Epoch())
		}
	}
	var n int
	err := replicas[0].Read(t.Context(), func(tx store.Tx) error {
		return tx.QueryRow("SELECT (SELECT count(*) FROM later0) + (SELECT count(*) FROM later1) + (SELECT count(*) FROM later2)").Scan(&n)
	})
	if err != nil || n != 3 {
		t.Errorf("%d rows of three migrations (%v)", n, err)
	}
	if _, err := store.Open(t.Context(), o); !errors.Is(err, store.ErrNewer) {
		t.Errorf("the old release: %v, want ErrNewer", err)
	}
	broken := append(next, "CREATE TABLE half (n BIGINT); CREATE TABLE later0 (n BIGINT)")
	if _, err := store.Open(t.Context(), o.WithSteps(broken...)); err == nil {
		t.Error("a migration that fails gives no error")
	}
	s := open(t, o.WithSteps(next...)) // the schema did not change
	if err := s.Read(t.Context(), func(tx store.Tx) error { return tx.QueryRow("SELECT count(*) FROM half").Scan(&n) }); err == nil {
		t.Error("a part of the failed migration is there")
	}
}

// The grants of a store that an earlier release made stay in their table, and its replicas go
// on with it. A new store has the table that takes less room.
func TestOnlyNewStoresHaveTheNarrowTable(t *testing.T) {
	const narrow = 8 // the step that makes it
	table := func(s *store.Store) (gen, index string, rows int) {
		err := s.Read(t.Context(), func(tx store.Tx) error {
			return tx.QueryRow(`SELECT (SELECT data_type FROM information_schema.columns WHERE table_name = 'grants' AND column_name = 'gen'),
				(SELECT indexdef FROM pg_indexes WHERE indexname = 'grants_live'), (SELECT count(*) FROM grants)`).Scan(&gen, &index, &rows)
		})
		if err != nil {
			t.Fatal(err)
		}
		return gen, index, rows
	}
	for _, rows := range []int{0, 1} {
		o := firstOptions(t)
		before := open(t, o.WithSteps(store.PostgresSchema()[:narrow]...))
		for i := range rows {
			if err := before.Write(t.Context(), func(tx store.Tx) error { return insertGrant(tx, i) }); err != nil {
				t.Fatal(err)
			}
		}
		after := open(t, o)
		for i, s := range []*store.Store{before, after} {
			if gen, index, n := table(s); gen != "bigint" || !strings.Contains(index, "(sub)") || n != rows+i {
				t.Errorf("an earlier store: numbers are %s, the index is %s, and %d grants are there", gen, index, n)
			}
			if err := s.Write(t.Context(), func(tx store.Tx) error { return insertGrant(tx, 10+i) }); err != nil {
				t.Error(err)
			}
		}
	}
	if gen, index, _ := table(open(t, firstOptions(t))); gen != "integer" || !strings.Contains(index, "(hashtext(sub))") {
		t.Errorf("a new store: numbers are %s, and the index is %s", gen, index)
	}
}

// A replica with another root secret refuses to start. If the secret is lost, the loss
// can be accepted once no server runs.
func TestReplicaWithAnotherRootIsRefused(t *testing.T) {
	o := firstOptions(t)
	s := open(t, o)
	if err := spend(s, "kept"); err != nil {
		t.Fatal(err)
	}
	other := o
	other.First, other.Root = "other", func(fingerprint string) bool { return fingerprint == "other" }
	if _, err := store.Open(t.Context(), other); !errors.Is(err, store.ErrOtherRoot) || !strings.Contains(err.Error(), "--accept-loss") {
		t.Errorf("another root: %v, want ErrOtherRoot and the remedy", err)
	}
	for _, o := range []store.Options{o, other} {
		if _, err := store.NewEpoch(t.Context(), o, "other"); !errors.Is(err, store.ErrLocked) {
			t.Errorf("a new epoch while a server runs: %v, want ErrLocked", err)
		}
	}
	epoch := s.Epoch()
	closeStore(t, s)
	if _, err := store.NewEpoch(t.Context(), o, "root"); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	if s.Epoch() == epoch || len(spent(t, s)) != 1 {
		t.Errorf("epoch %q, was %q; rows %v, want the one", s.Epoch(), epoch, spent(t, s))
	}
	closeStore(t, s)
	if _, err := store.NewEpoch(t.Context(), other, "other"); err != nil {
		t.Fatal(err)
	}
	s = open(t, other)
	if s.Fingerprint() != "other" || len(spent(t, s)) != 0 {
		t.Errorf("fingerprint %q, rows %v; want a fresh store", s.Fingerprint(), spent(t, s))
	}
	var aside string
	err := s.Read(t.Context(), func(tx store.Tx) error {
		return tx.QueryRow("SELECT table_schema FROM information_schema.tables WHERE table_name = 'spent' AND table_schema LIKE 'signet_lost_%'").Scan(&aside)
	})
	if err != nil {
		t.Errorf("the old store is gone: %v", err)
	}
}

// patient repeats a write that a busy machine has no time for, as a client does after a
// 503, and returns how often it did. A write without an answer may have been committed.
func patient(s *store.Store, fn func(store.Tx) error) (repeated int, err error) {
	for ; repeated < 5; repeated++ {
		if err = s.Write(context.Background(), fn); !errors.Is(err, store.ErrUnavailable) {
			break
		}
	}
	return repeated, err
}

// If several replicas read a row and change it, none of them changes it by an old value.
// A row that all of them find missing is inserted once.
func TestReplicasLockRows(t *testing.T) {
	o := firstOptions(t)
	replicas := atOnce(t, 3, o)
	var all sync.WaitGroup
	var unanswered atomic.Int64
	const each = 60
	for i := range 3 * each {
		all.Go(func() {
			repeated, err := patient(replicas[i%3], func(tx store.Tx) error {
				var n int64
				err := tx.QueryRow("SELECT expires_at FROM spent WHERE kind = $1 AND id = $2 FOR UPDATE", "count", "x").Scan(&n)
				if err != nil {
					_, err = tx.Exec("INSERT INTO spent (kind, id, expires_at) VALUES ($1, $2, 1)", "count", "x")
					return err
				}
				_, err = tx.Exec("UPDATE spent SET expires_at = $1 WHERE kind = $2 AND id = $3", n+1, "count", "x")
				return err
			})
			if err != nil {
				t.Error(err)
			}
			unanswered.Add(int64(repeated))
		})
	}
	all.Wait()
	var n int
	err := replicas[0].Read(t.Context(), func(tx store.Tx) error { return tx.QueryRow("SELECT expires_at FROM spent").Scan(&n) })
	if most := 3*each + int(unanswered.Load()); err != nil || n < 3*each || n > most {
		t.Errorf("counted to %d (%v), want %d, or up to %d with the writes that had no answer", n, err, 3*each, most)
	}
}

// Groups of two replicas that write the same rows in opposite orders do not wait for each
// other forever.
func TestGroupsDoNotDeadlock(t *testing.T) {
	o := firstOptions(t)
	replicas := atOnce(t, 2, o)
	const rows = 20
	err := replicas[0].Write(t.Context(), func(tx store.Tx) error {
		for i := range rows {
			if _, err := tx.Exec("INSERT INTO spent (kind, id, expires_at) VALUES ('row', $1, 0)", fmt.Sprint(i)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var worst atomic.Int64
	var all sync.WaitGroup
	for r, s := range replicas {
		for w := range 32 {
			all.Go(func() {
				for i := range 10 {
					row := (w + i) % rows
					if r == 1 {
						row = rows - 1 - row
					}
					start := time.Now()
					_, err := patient(s, func(tx store.Tx) error {
						_, err := tx.Exec("UPDATE spent SET expires_at = expires_at + 1 WHERE kind = 'row' AND id = $1", fmt.Sprint(row))
						return err
					})
					if err != nil {
						t.Error(err)
					}
					if d := int64(time.Since(start)); d > worst.Load() {
						worst.Store(d)
					}
				}
			})
		}
	}
	all.Wait()
	var n int
	if err := replicas[0].Read(t.Context(), func(tx store.Tx) error { return tx.QueryRow("SELECT sum(expires_at)::bigint FROM spent").Scan(&n) }); err != nil || n != 640 {
		t.Errorf("%d updates are there (%v), want 640", n, err)
	}
	t.Logf("640 writes to %d rows in %v, the slowest in %v", rows, time.Since(began), time.Duration(worst.Load()))
}

// A replica that stops or is cut off in the middle of a transaction does not keep its
// rows locked.
func TestHungReplicaLetsGo(t *testing.T) {
	t.Parallel() // waits most of the time
	o := firstOptions(t)
	other := open(t, o)
	proxy := pgtest.NewProxy(t, o.Path)
	o.Path = proxy.URL
	hung := open(t, o)
	if err := spend(other, "x"); err != nil {
		t.Fatal(err)
	}
	touch := func(s *store.Store, then func()) error {
		return s.Write(context.Background(), func(tx store.Tx) error {
			_, err := tx.Exec("UPDATE spent SET expires_at = expires_at + 1")
			then()
			return err
		})
	}
	locked, answer := make(chan bool), make(chan error)
	go func() { answer <- touch(hung, func() { proxy.Set(pgtest.Stall); close(locked) }) }()
	<-locked
	eventually(t, "the other replica", func() error { return touch(other, func() {}) })
	if err := <-answer; !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("the hung replica: %v, want ErrUnavailable", err)
	}
}

// inTime fails the test if do takes longer than 6 s. The store answers in 3 s; a busy
// machine may take longer.
func inTime(t *testing.T, what string, do func() error) error {
	t.Helper()
	began := time.Now()
	err := do()
	if d := time.Since(began); d > 6*time.Second {
		t.Errorf("%s: answered after %v, want at most 6 s", what, d)
	}
	return err
}

// eventually repeats do until it succeeds.
func eventually(t *testing.T, what string, do func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for err := do(); err != nil; err = do() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A replica that is cut off from its database answers in time, takes no writes, and goes
// on by itself when it is connected again. The other replica is not affected.
func TestReplicaCutOffFromDatabaseRefusesAndRecovers_M02(t *testing.T) {
	direct := firstOptions(t)
	for name, mode := range map[string]pgtest.Mode{"stalled": pgtest.Stall, "reset": pgtest.Reset, "half open": pgtest.HalfOpen} {
		t.Run(name, func(t *testing.T) {
			proxy := pgtest.NewProxy(t, direct.Path)
			far := direct
			far.Path = proxy.URL
			s, other := open(t, far), open(t, direct)
			if err := spend(s, name+"before"); err != nil {
				t.Fatal(err)
			}
			proxy.Set(mode)
			var all sync.WaitGroup
			for i := range 40 {
				all.Go(func() {
					time.Sleep(time.Duration(i) * 20 * time.Millisecond) // before and after the cut is noticed
					err := inTime(t, "write", func() error { return spend(s, fmt.Sprint(name, "during", i)) })
					if !errors.Is(err, store.ErrUnavailable) {
						t.Errorf("write: %v, want ErrUnavailable", err)
					}
					err = inTime(t, "read", func() error {
						return s.Read(context.Background(), func(tx store.Tx) error { return tx.QueryRow("SELECT id FROM spent").Scan(new(string)) })
					})
					if !errors.Is(err, store.ErrUnavailable) {
						t.Errorf("read: %v, want ErrUnavailable", err)
					}
				})
			}
			if err := spend(other, name+"other"); err != nil {
				t.Errorf("the other replica: %v", err)
			}
			all.Wait()
			if err := inTime(t, "check", func() error { return s.Check(t.Context()) }); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("Check: %v, want ErrUnavailable", err)
			}
			for _, id := range spent(t, other) {
				if strings.Contains(id, "during") {
					t.Errorf("%s was written although its caller got an error", id)
				}
			}
			proxy.Set(pgtest.Pass)
			eventually(t, "after the partition", func() error { return spend(s, fmt.Sprint(name, "after", time.Now())) })
			if err := s.Check(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A write whose connection broke at its commit may have been committed. It does not run
// again, because the second time it would look like reuse.
func TestLostCommitRunsOnce(t *testing.T) {
	o := firstOptions(t)
	proxy := pgtest.NewProxy(t, o.Path)
	o.Path = proxy.URL
	var armed atomic.Bool
	s := open(t, o.WithFault(func(query string) error {
		if query == "COMMIT" && armed.CompareAndSwap(true, false) {
			proxy.Set(pgtest.Reset)
			proxy.Set(pgtest.Pass)
		}
		return nil
	}))
	release := holdWriters(t, s)
	var runs [40]int
	var lost atomic.Int64
	var all sync.WaitGroup
	for i := range runs { // more than there are writers: some share a commit
		all.Go(func() {
			err := s.Write(context.Background(), func(tx store.Tx) error { runs[i]++; return insert(fmt.Sprint(i))(tx) })
			if err != nil && !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("%v, want ErrUnavailable", err)
			} else if err != nil {
				lost.Add(1)
			}
		})
	}
	waitForQueue(t, s, len(runs))
	armed.Store(true)
	release()
	all.Wait()
	if slices.Max(runs[:]) != 1 || lost.Load() == 0 {
		t.Errorf("runs: %v, want none twice; %d were lost, want some", runs, lost.Load())
	}
}

// A server starts while its database is down, takes no writes, and works once the
// database is up. A command does not wait.
func TestServerStartsDuringOutage(t *testing.T) {
	o := firstOptions(t)
	proxy := pgtest.NewProxy(t, o.Path)
	o.Path = proxy.URL
	proxy.Set(pgtest.Reset)
	command := o
	command.Serve = false
	if _, err := store.Open(t.Context(), command); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a command: %v, want ErrUnavailable", err)
	}
	log := &logText{}
	o.Log = slog.New(slog.NewTextHandler(log, nil))
	s := open(t, o)
	for _, err := range []error{spend(s, "x"), s.Check(t.Context()), s.Read(t.Context(), nil)} {
		if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "waiting") {
			t.Errorf("%v, want ErrUnavailable and that it waits", err)
		}
	}
	if s.Epoch() != "" || s.Fingerprint() != "" || time.Until(s.Now()).Abs() > time.Second {
		t.Errorf("epoch %q, fingerprint %q, time %v", s.Epoch(), s.Fingerprint(), s.Now())
	}
	proxy.Set(pgtest.Pass)
	eventually(t, "once the database is up", func() error { return spend(s, "y") })
	if s.Epoch() == "" || fmt.Sprint(spent(t, s)) != "[y]" {
		t.Errorf("epoch %q, rows %v", s.Epoch(), spent(t, s))
	}
	if out := log.String(); strings.Count(out, "level=ERROR") != 1 || !strings.Contains(out, "waiting for the store") {
		t.Errorf("logged: %s", out)
	}
}

type logText struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Another store behind the same URL, or a new epoch, is detected: at once by a new
// connection, at the next heartbeat by the others.
func TestReplacedDatabaseIsDetected(t *testing.T) {
	t.Parallel() // waits most of the time
	o := firstOptions(t)
	s := open(t, o)
	spent(t, s) // over a connection that stays open
	pgtest.Exec(t, o.Path, "UPDATE signet.meta SET epoch = epoch || 'x'")
	eventually(t, "another epoch", func() error {
		for what, err := range map[string]error{
			"write": spend(s, fmt.Sprint(time.Now())),
			"read":  s.Read(t.Context(), func(tx store.Tx) error { return tx.QueryRow("SELECT epoch FROM meta").Scan(new(string)) }),
		} {
			if !errors.Is(err, store.ErrOtherStore) || !errors.Is(err, store.ErrUnavailable) {
				return fmt.Errorf("%s: %v, want ErrOtherStore", what, err)
			}
		}
		return nil
	})
	pgtest.Exec(t, o.Path, "UPDATE signet.meta SET epoch = replace(epoch, 'x', '')")
	eventually(t, "the right one again", func() error { return spend(s, fmt.Sprint("back", time.Now())) })
}

// Acknowledged writes are on disk, even if the database is set up otherwise.
func TestCommitsAreSynchronous(t *testing.T) {
	o := firstOptions(t)
	u := parse(t, o.Path)
	for setting, want := range map[string]string{"off": "on", "remote_apply": "remote_apply"} {
		pgtest.Exec(t, o.Path, "ALTER DATABASE "+u.Path[1:]+" SET synchronous_commit = "+setting)
		s := open(t, o)
		var got string
		if err := s.Write(t.Context(), func(tx store.Tx) error { return tx.QueryRow("SHOW synchronous_commit").Scan(&got) }); err != nil || got != want {
			t.Errorf("set to %s: %s (%v), want %s", setting, got, err, want)
		}
	}
}

// Replicas share the time: it goes on from the latest time that one of them persisted.
func TestReplicasShareTheTime_L10(t *testing.T) {
	t.Parallel() // waits most of the time
	o := firstOptions(t)
	s := open(t, o)
	late := time.Now().Add(30 * time.Second)
	pgtest.Exec(t, o.Path, fmt.Sprintf("UPDATE signet.meta SET last_seen = %d", late.UnixMilli()))
	eventually(t, "a running replica", func() error {
		if now := s.Now(); now.Before(late.Truncate(time.Millisecond)) {
			return fmt.Errorf("now is %v, want %v", now, late)
		}
		return nil
	})
	if now := open(t, o).Now(); now.Before(late.Truncate(time.Millisecond)) {
		t.Errorf("a replica that starts: now is %v, want %v", now, late)
	}
}

// A replica whose clock is wrong does not mislead the others.
func TestReplicaWithWrongClockMisleadsNoOther_L10(t *testing.T) {
	t.Parallel() // waits most of the time
	o := firstOptions(t)
	wrong, other := open(t, o), open(t, o)
	wrong.TakeUp(time.Now().Add(time.Hour))
	lastSeen := func() (ms int64) {
		if err := other.Read(t.Context(), func(tx store.Tx) error { return tx.QueryRow("SELECT last_seen FROM meta").Scan(&ms) }); err != nil {
			t.Fatal(err)
		}
		return ms
	}
	var first int64
	eventually(t, "the wrong clock in the database, and at the other replica", func() error {
		if first = lastSeen(); time.Until(time.UnixMilli(first)) < 30*time.Second || time.Until(other.Now()) < 30*time.Second {
			return fmt.Errorf("the database's time is %v, the other replica's %v", time.UnixMilli(first), other.Now())
		}
		return nil
	})
	eventually(t, "the next heartbeats", func() error {
		if now := lastSeen(); now < first+1500 { // a heartbeat of either replica adds at most a second
			return fmt.Errorf("the database's time is %v", time.UnixMilli(now))
		}
		return nil
	})
	if ahead := time.Until(other.Now()); ahead > 62*time.Second {
		t.Errorf("the other replica is %v ahead", ahead)
	}
	if ahead := time.Until(wrong.Now()); ahead < 59*time.Minute {
		t.Errorf("the wrong clock went back: it is %v ahead, want an hour", ahead)
	}
}

func parse(t *testing.T, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Errors say how to mend them, and never show the password.
func TestPostgresErrorsNameRemedyAndNoPassword(t *testing.T) {
	good := pgtest.URL(t)
	standby := pgtest.URL(t)
	name := func(raw string) string { return parse(t, raw).Path[1:] }
	if err := store.Create(t.Context(), store.Options{Path: standby}, "root"); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, standby, "ALTER DATABASE "+name(standby)+" SET default_transaction_read_only = on")
	user := "u" + name(good)
	pgtest.Exec(t, good, "CREATE ROLE "+user+" LOGIN PASSWORD 'hunter2'")
	t.Cleanup(func() { pgtest.Exec(t, good, "DROP ROLE "+user) })
	for what, test := range map[string]struct {
		change func(u *url.URL)
		want   string
		waits  bool // a server waits, because the error may pass
	}{
		"wrong password":  {func(u *url.URL) { u.User = url.UserPassword(user, "hunter23") }, "password", false},
		"no such user":    {func(u *url.URL) { u.User = url.UserPassword("nobody_"+user, "hunter2") }, "check user", false},
		"no database":     {func(u *url.URL) { u.Path = "/none_" + user }, "CREATE DATABASE", false},
		"no right":        {func(u *url.URL) {}, "GRANT CREATE ON DATABASE", false},
		"standby":         {func(u *url.URL) { *u = *parse(t, standby) }, "standby", true},
		"unknown setting": {func(u *url.URL) { u.RawQuery += "&search_pth=x" }, "search_pth", false},
		"wrong setting":   {func(u *url.URL) { u.RawQuery += "&lock_timeout=long" }, "parameters of the URL", false},
		"late setting":    {func(u *url.URL) { u.RawQuery += "&max_connections=9" }, "parameters of the URL", false},
		"no TLS":          {func(u *url.URL) { u.RawQuery = "sslmode=require" }, "sslmode", false},
		"no server":       {func(u *url.URL) { u.Host = "127.0.0.1:1" }, "refused", true},
		"no such host":    {func(u *url.URL) { u.Host = "nowhere.invalid" }, "nowhere.invalid", true},
	} {
		t.Run(what, func(t *testing.T) {
			u := parse(t, good)
			u.User = url.UserPassword(user, "hunter2")
			test.change(u)
			o := store.Options{Path: u.String(), First: "root"}
			s, err := store.Open(t.Context(), store.Options{Path: u.String(), First: "root", Serve: true})
			if s != nil {
				closeStore(t, s)
			}
			if (err == nil) != test.waits {
				t.Errorf("a server: %v; should it wait: %v", err, test.waits)
			}
			for verb, do := range map[string]func() error{
				"Open":     func() error { _, err := store.Open(t.Context(), o); return err },
				"Create":   func() error { return store.Create(t.Context(), o, "f") },
				"NewEpoch": func() error { _, err := store.NewEpoch(t.Context(), o, "f"); return err },
			} {
				if err := do(); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hunter") {
					t.Errorf("%s: %v, want ErrUnavailable with %q and no password", verb, err, test.want)
				}
			}
		})
	}
	if _, err := store.Open(t.Context(), store.Options{Path: "postgres://u:hun/ter2@h/x"}); err == nil || strings.Contains(err.Error(), "hun") {
		t.Errorf("not a URL: %v, want an error that does not show it", err)
	}
}

// The log warns at the start if the password may cross a network without TLS.
func TestPostgresWithoutTLSIsLogged(t *testing.T) {
	for raw, warned := range map[string]bool{
		"postgres://u@nowhere.invalid/x":                     true,
		"postgres://u@nowhere.invalid/x?sslmode=disable":     true,
		"postgres://u@localhost:1,nowhere.invalid/x":         true,
		"postgres://u@nowhere.invalid/x?sslmode=require":     false,
		"postgres://u@nowhere.invalid/x?sslmode=verify-full": false,
		"postgres://u@localhost:1/x":                         false,
		"postgres://u@[::1]:1/x":                             false,
		"postgres:///x?host=/nowhere&user=u":                 false,
	} {
		var log strings.Builder
		s, err := store.Open(t.Context(), store.Options{Path: raw, Serve: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err == nil {
			closeStore(t, s)
		}
		if got := strings.Contains(log.String(), "without TLS"); got != warned {
			t.Errorf("%s: warned: %v, want %v", raw, got, warned)
		}
	}
}
