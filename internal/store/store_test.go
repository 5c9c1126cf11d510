package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/store"
)

func options(t testing.TB) store.Options {
	t.Helper()
	dir := t.TempDir()
	// The path has characters with a meaning in a URI.
	return store.Options{Path: filepath.Join(dir, "signet %41?a=b#c.db"), Mirror: filepath.Join(dir, "mirror"), Serve: true}
}

func create(t testing.TB, o store.Options) {
	t.Helper()
	if err := store.Create(t.Context(), o, "fingerprint"); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, o store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func closeStore(t testing.TB, s *store.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// writes are the ways to write.
var writes = []struct {
	name  string
	write func(*store.Store, func(store.Tx) error) error
}{
	{"synced", func(s *store.Store, fn func(store.Tx) error) error { return s.Write(context.Background(), fn) }},
	{"unsynced", func(s *store.Store, fn func(store.Tx) error) error {
		return s.WriteUnsynced(context.Background(), fn)
	}},
}

// spend is the write that most of these tests use.
func spend(s *store.Store, id string) error {
	return s.Write(context.Background(), insert(id))
}

func insert(id string) func(store.Tx) error {
	return func(tx store.Tx) error {
		_, err := tx.Exec("INSERT INTO spent (expires_at, id, kind) VALUES ($3, $2, $1)", "test", id, 7)
		return err
	}
}

// spent returns the ids that spend wrote.
func spent(t testing.TB, s *store.Store) []string {
	t.Helper()
	return column(t, s, "SELECT id FROM spent WHERE kind = $1 ORDER BY id", "test")
}

// column reads a query with one text column.
func column(t testing.TB, s *store.Store, query string, args ...any) (values []string) {
	t.Helper()
	err := s.Read(context.Background(), func(tx store.Tx) error {
		values = nil
		rows, err := tx.Query(query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var value string
			if err := rows.Scan(&value); err != nil {
				return err
			}
			values = append(values, value)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return values
}

func commits(t testing.TB, s *store.Store) (n int64) {
	t.Helper()
	err := s.Read(context.Background(), func(tx store.Tx) error {
		return tx.QueryRow("SELECT commits FROM meta").Scan(&n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestStoreKeepsItsIdentityAndContent(t *testing.T) {
	onBoth(t, testStoreKeepsItsIdentityAndContent)
}

func testStoreKeepsItsIdentityAndContent(t *testing.T, o store.Options) {
	if _, err := store.Open(t.Context(), o); !errors.Is(err, store.ErrNoStore) || errors.Is(err, store.ErrHalf) {
		t.Fatalf("opening nothing: %v, want only ErrNoStore", err)
	}
	create(t, o)
	if err := store.Create(t.Context(), o, "other"); !errors.Is(err, os.ErrExist) {
		t.Errorf("creating twice: %v, want ErrExist", err)
	}
	s := open(t, o)
	epoch := s.Epoch()
	if len(epoch) < 20 || s.Fingerprint() != "fingerprint" {
		t.Errorf("epoch %q, fingerprint %q", epoch, s.Fingerprint())
	}
	if err := spend(s, "a"); err != nil {
		t.Fatal(err)
	}
	rooted := time.UnixMilli(1_900_000_000_123)
	if err := s.Write(t.Context(), func(tx store.Tx) error { return store.SetFingerprint(tx, "rotated", rooted) }); err != nil {
		t.Fatal(err)
	}
	if got, since, err := s.Root(t.Context()); err != nil || got != "rotated" || !since.Equal(rooted) || s.Fingerprint() != "rotated" {
		t.Errorf("root %q since %v (%v), want rotated since %v", got, since, err, rooted)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	if !store.Locate(o.Path).Shared() {
		wantPrivate(t, filepath.Dir(o.Path))
	}
	closeStore(t, s)
	if err := spend(s, "b"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("writing to a closed store: %v, want ErrUnavailable", err)
	}
	if err := s.Read(t.Context(), nil); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("reading a closed store: %v, want ErrUnavailable", err)
	}
	s = open(t, o)
	if s.Epoch() != epoch || s.Fingerprint() != "rotated" || fmt.Sprint(spent(t, s)) != "[a]" {
		t.Errorf("after reopening: epoch %q want %q, fingerprint %q, rows %v", s.Epoch(), epoch, s.Fingerprint(), spent(t, s))
	}
}

// wantPrivate expects the files of an open store, accessible to its user only.
func wantPrivate(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 5 {
		t.Errorf("files %q, want store, log, index of the log, lock, mirror", files)
	}
	for _, f := range files {
		if fi, err := os.Stat(f); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, want 0600", f, fi.Mode())
		}
	}
}

// Many writers share commits, and all rows are there afterwards.
func TestWritersShareCommits(t *testing.T) { onBoth(t, testWritersShareCommits) }

func testWritersShareCommits(t *testing.T, o store.Options) {
	create(t, o)
	s := open(t, o)
	var wg sync.WaitGroup
	for g := range 32 {
		wg.Go(func() {
			for i := range 20 {
				if err := spend(s, fmt.Sprintf("%02d-%02d", g, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(spent(t, s)); n != 640 {
		t.Errorf("%d rows, want 640", n)
	}
	if store.Locate(o.Path).Shared() {
		return
	}
	if n := commits(t, s); n >= 320 {
		t.Errorf("%d commits for 640 writes from 32 writers: they do not share", n)
	}
}

// holdWriters keeps the writers busy until release is called, so that the writes that
// come meanwhile end up in one group.
func holdWriters(t *testing.T, s *store.Store) (release func()) {
	t.Helper()
	released := make(chan bool)
	for range s.Writers() {
		running := make(chan bool)
		var once sync.Once
		go s.Write(context.Background(), func(store.Tx) error {
			once.Do(func() { close(running) })
			<-released
			return nil
		})
		<-running
	}
	var done sync.Once
	return func() { done.Do(func() { close(released) }) }
}

// waitForQueue waits until n writes are in the queue.
func waitForQueue(t *testing.T, s *store.Store, n int) {
	t.Helper()
	eventually(t, fmt.Sprint(n, " writes in the queue"), func() error {
		if got := s.Waiting(); got != n {
			return fmt.Errorf("there are %d", got)
		}
		return nil
	})
}

// One bad write in a group fails alone, with the reason.
func TestPoisonedWriteFailsAlone(t *testing.T) {
	for _, e := range engines {
		for _, w := range writes {
			t.Run(e.name+" "+w.name, func(t *testing.T) { testPoisonedWrite(t, e.options, w.write) })
		}
	}
}

func testPoisonedWrite(t *testing.T, options func(testing.TB) store.Options, write func(*store.Store, func(store.Tx) error) error) {
	own := errors.New("an error of fn's own")
	for name, test := range map[string]struct {
		fn    func(store.Tx) error
		check func(err any) bool
	}{
		"engine error": {
			func(tx store.Tx) error {
				_, err := tx.Exec("INSERT INTO spent VALUES ($1, $2, NULL)", "test", "bad")
				return err
			},
			func(err any) bool { e, _ := err.(error); return errors.Is(e, store.ErrUnavailable) }},
		"engine error that fn swallows": {
			func(tx store.Tx) error { tx.Exec("INSERT INTO nowhere VALUES ($1)", 1); return nil },
			func(err any) bool { e, _ := err.(error); return errors.Is(e, store.ErrUnavailable) }},
		"own error": {
			func(store.Tx) error { return own },
			func(err any) bool { return err == own }},
		"own error after a write": {
			func(tx store.Tx) error { insert("never")(tx); return own },
			func(err any) bool { return err == own }},
		"panic": {
			func(tx store.Tx) error { insert("never")(tx); panic("oh") },
			func(err any) bool { return err == "oh" }},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			create(t, o)
			s := open(t, o)
			release := holdWriters(t, s)
			defer release()
			var wg sync.WaitGroup
			var good [2]error
			var bad any
			wg.Go(func() { good[0] = write(s, insert("good1")) })
			waitForQueue(t, s, 1)
			wg.Go(func() {
				defer func() {
					if p := recover(); p != nil {
						bad = p
					}
				}()
				if err := write(s, test.fn); err != nil {
					bad = err
				}
			})
			waitForQueue(t, s, 2)
			wg.Go(func() { good[1] = write(s, insert("good2")) })
			waitForQueue(t, s, 3)
			release()
			wg.Wait()
			if good[0] != nil || good[1] != nil || fmt.Sprint(spent(t, s)) != "[good1 good2]" {
				t.Errorf("the good writes: %v, rows %v", good, spent(t, s))
			}
			if !test.check(bad) {
				t.Errorf("the bad write: %v", bad)
			}
			if err := write(s, insert("later")); err != nil {
				t.Errorf("the next write: %v", err)
			}
		})
	}
}

// What is written unsynced is read at once, and is not counted: a loss of it is no evidence of a
// store that was rolled back. The writes before and after it wait for the disk.
func TestUnsyncedWrites(t *testing.T) {
	o := options(t)
	create(t, o)
	s := open(t, o)
	level := func(write func(*store.Store, func(store.Tx) error) error) (level int) {
		t.Helper()
		if err := write(s, func(tx store.Tx) error { return tx.QueryRow("SELECT synchronous FROM pragma_synchronous").Scan(&level) }); err != nil {
			t.Fatal(err)
		}
		return level
	}
	synced, unsynced := writes[0].write, writes[1].write
	before := commits(t, s)
	for i := range 3 {
		if got := level(synced); got != 2 {
			t.Errorf("Write at the level %d, want 2 (FULL)", got)
		}
		for range 2 {
			if got := level(unsynced); got != 1 {
				t.Errorf("WriteUnsynced at the level %d, want 1 (NORMAL)", got)
			}
		}
		if err := unsynced(s, insert(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(spent(t, s)); n != 3 {
		t.Errorf("%d rows, want 3", n)
	}
	if n := commits(t, s); n != before {
		t.Errorf("%d commits were counted, want none", n-before)
	}
	closeStore(t, s)
	if n := len(spent(t, open(t, o))); n != 3 {
		t.Errorf("%d rows after a restart, want 3", n)
	}
}

// Close finishes what waits.
func TestCloseFinishesWaitingWrites(t *testing.T) { onBoth(t, testCloseFinishesWaitingWrites) }

func testCloseFinishesWaitingWrites(t *testing.T, o store.Options) {
	create(t, o)
	for i := range 10 { // Close may end the writer at any moment
		s := open(t, o)
		release := holdWriters(t, s)
		defer release()
		var errs [2]error
		var all sync.WaitGroup
		for k, w := range writes {
			all.Go(func() { errs[k] = w.write(s, insert(fmt.Sprint(i, w.name))) })
			waitForQueue(t, s, k+1)
		}
		all.Go(func() { closeStore(t, s) })
		eventually(t, "a closed store", func() error {
			if err := s.Read(context.Background(), func(store.Tx) error { return nil }); err == nil {
				return errors.New("it is read")
			}
			return nil
		})
		release()
		all.Wait()
		if errs[0] != nil || errs[1] != nil {
			t.Errorf("the writes that waited: %v", errs)
		}
	}
	if n := len(spent(t, open(t, o))); n != 20 {
		t.Errorf("%d rows, want 20", n)
	}
}

func TestWriteThatChangesNothingCostsNoCommit(t *testing.T) {
	o := options(t)
	create(t, o)
	s := open(t, o)
	before := commits(t, s)
	err := s.Write(t.Context(), func(tx store.Tx) error {
		var n int
		if _, err := tx.Exec("UPDATE spent SET expires_at = 1 WHERE id = $1", "nobody"); err != nil {
			return err
		}
		return tx.QueryRow("SELECT count(*) FROM spent").Scan(&n)
	})
	if after := commits(t, s); err != nil || after != before {
		t.Errorf("error %v, %d commits, want %d", err, after, before)
	}
	err = s.Write(t.Context(), func(tx store.Tx) error {
		var id string
		return tx.QueryRow("INSERT INTO spent (kind, id, expires_at) VALUES ('test', 'r', 1) RETURNING id").Scan(&id)
	})
	if after := commits(t, s); err != nil || after != before+1 || len(spent(t, s)) != 1 {
		t.Errorf("INSERT ... RETURNING: error %v, %d commits, want %d", err, after, before+1)
	}
}

func TestWriteWhoseContextEndsInTheQueueDoesNotRun(t *testing.T) {
	onBoth(t, testWriteWhoseContextEndsInTheQueueDoesNotRun)
}

func testWriteWhoseContextEndsInTheQueueDoesNotRun(t *testing.T, o store.Options) {
	create(t, o)
	s := open(t, o)
	release := holdWriters(t, s)
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	answer := make(chan error, 1)
	go func() { answer <- s.Write(ctx, insert("never")) }()
	waitForQueue(t, s, 1)
	cancel()
	if err := <-answer; !errors.Is(err, context.Canceled) || !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable and the context's error", err)
	}
	release()
	if err := spend(s, "later"); err != nil || fmt.Sprint(spent(t, s)) != "[later]" {
		t.Errorf("error %v, rows %v, want only the later one", err, spent(t, s))
	}
}

func TestReadRefusesToWrite(t *testing.T) { onBoth(t, testReadRefusesToWrite) }

func testReadRefusesToWrite(t *testing.T, o store.Options) {
	create(t, o)
	s := open(t, o)
	err := s.Read(t.Context(), insert("never"))
	if !errors.Is(err, store.ErrUnavailable) || len(spent(t, s)) != 0 {
		t.Errorf("error %v, rows %v", err, spent(t, s))
	}
	if err := s.Read(t.Context(), func(tx store.Tx) error {
		return tx.QueryRow("SELECT id FROM spent").Scan(new(string))
	}); !errors.Is(err, sql.ErrNoRows) || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("no row: %v, want sql.ErrNoRows as it is", err)
	}
}

// Whichever statement fails, the caller gets ErrUnavailable, nothing is half done, and
// the store works again once the fault is gone.
func TestEveryFaultIsUnavailableAndChangesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, o store.Options) { testEveryFault(t, o, writes[0].write, writes[1].write) })
}

func TestEveryFaultOfAnUnsyncedWriteIsUnavailableToo(t *testing.T) {
	onBoth(t, func(t *testing.T, o store.Options) { testEveryFault(t, o, writes[1].write, writes[0].write) })
}

// testEveryFault has every statement of write fail, each time after a write of the other kind.
func testEveryFault(t *testing.T, o store.Options, write, other func(*store.Store, func(store.Tx) error) error) {
	var mu sync.Mutex
	calls, failAt := 0, 0
	fault := func(string) error {
		mu.Lock()
		defer mu.Unlock()
		if calls++; calls == failAt {
			return errors.New("injected")
		}
		return nil
	}
	o = o.WithFault(fault)
	create(t, o)
	s := open(t, o)
	two := func(tx store.Tx) error {
		if err := insert("a")(tx); err != nil {
			return err
		}
		return insert("b")(tx)
	}
	for n := 1; ; n++ {
		if err := other(s, func(store.Tx) error { return nil }); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		calls, failAt = 0, n
		mu.Unlock()
		err := write(s, two)
		mu.Lock()
		faulted := calls >= n
		failAt = 0
		mu.Unlock()
		if !faulted {
			if err != nil || n < 5 {
				t.Errorf("no fault at %d calls: %v", n, err)
			}
			return
		}
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("fault at statement %d: %v, want ErrUnavailable", n, err)
		}
		if rows := spent(t, s); len(rows) != 0 {
			t.Fatalf("fault at statement %d left %v", n, rows)
		}
	}
}

// The second server on one file gets an error that names the lock. A command needs no
// lock.
func TestSecondServerIsRefused_M04(t *testing.T) {
	o := options(t)
	create(t, o)
	s := open(t, o)
	if _, err := store.Open(t.Context(), o); !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), o.Path+".lock") {
		t.Errorf("second server: %v, want ErrLocked naming the lock", err)
	}
	if _, err := store.NewEpoch(t.Context(), o, "f"); !errors.Is(err, store.ErrLocked) {
		t.Errorf("new epoch under a running server: %v, want ErrLocked", err)
	}
	command := o
	command.Serve = false
	c := open(t, command)
	for i := range 20 { // both processes write and are counted, and neither breaks the mirror
		if err := errors.Join(spend(c, fmt.Sprint("c", i)), spend(s, fmt.Sprint("s", i))); err != nil {
			t.Fatal(err)
		}
	}
	if n := commits(t, s); n != 40 {
		t.Errorf("%d commits, want 40", n)
	}
	closeStore(t, c)
	closeStore(t, s)
	s = open(t, o)
	if len(spent(t, s)) != 40 {
		t.Errorf("%d rows, want 40", len(spent(t, s)))
	}
}

// Time goes on from the latest time that the store has seen, also after a restart.
func TestTimeGoesOnWhenClockIsSetBack_L10(t *testing.T) {
	o := options(t)
	var last time.Time
	synctest.Test(t, func(t *testing.T) {
		create(t, o)
		s, err := store.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		last = s.Now()
		if !last.Equal(time.Now()) || s.Behind() != 0 {
			t.Errorf("Now is %v, the clock says %v", last, time.Now())
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // the clock begins an hour before the store's time
		s, err := store.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if got := s.Now(); got.Before(last.Truncate(time.Millisecond)) {
			t.Errorf("after a restart with the clock set back: %v, want at least %v", got, last)
		}
		if b := s.Behind(); b < 59*time.Minute || b > time.Hour {
			t.Errorf("behind by %v, want an hour", b)
		}
		before := s.Now()
		time.Sleep(2 * time.Hour)
		if passed := s.Now().Sub(before); passed < 118*time.Minute || passed > 2*time.Hour {
			t.Errorf("within two hours %v passed", passed)
		}
		time.Sleep(65 * time.Hour)
		if got := s.Now(); !got.Equal(time.Now()) || s.Behind() != 0 {
			t.Errorf("once the clock has caught up: %v, want %v", got, time.Now())
		}
	})
}

// A large file is checked in the background. Until that is done nothing is written, and
// if the file is damaged nothing ever is.
func TestLargeStoreIsCheckedBeforeItTakesWrites(t *testing.T) {
	for _, broken := range []bool{false, true} {
		o := options(t)
		create(t, o)
		fillUp(t, o)
		if broken {
			scribble(t, o.Path)
		}
		s := open(t, o.WithSmall(1))
		var err error
		eventually(t, "the end of the check", func() error {
			if err = s.Check(t.Context()); errors.Is(err, store.ErrDamaged) {
				return nil
			}
			return err
		})
		if broken != errors.Is(err, store.ErrDamaged) {
			t.Errorf("damaged %v: Check says %v", broken, err)
		}
		if err := spend(s, "x"); broken != errors.Is(err, store.ErrDamaged) {
			t.Errorf("damaged %v: Write says %v", broken, err)
		}
		s.Close()
	}
}
