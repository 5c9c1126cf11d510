package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"signet/internal/store"
)

// TestMain lets this binary be the process that a test kills.
func TestMain(m *testing.M) {
	if job := os.Getenv("SIGNET_TEST_JOB"); job != "" {
		o := store.Options{Path: os.Getenv("SIGNET_TEST_STORE"), Mirror: os.Getenv("SIGNET_TEST_STORE") + ".mirror", Serve: true}
		if err := jobs[job](o); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var jobs = map[string]func(store.Options) error{
	"create": func(o store.Options) error {
		fmt.Println("ready")
		return store.Create(context.Background(), o, "f")
	},
	"migrate": func(o store.Options) error {
		fmt.Println("ready")
		_, err := store.Open(context.Background(), o.WithSteps(longHistory()...))
		return err
	},
	"migrate on PostgreSQL": func(o store.Options) error {
		fmt.Println("ready")
		_, err := store.Open(context.Background(), o.WithSteps(longPostgresHistory()...))
		return err
	},
	"write": func(o store.Options) error {
		s, err := store.Open(context.Background(), o)
		if err != nil {
			return err
		}
		fmt.Println("ready")
		var out sync.Mutex
		for g := range 8 {
			go func() {
				for i := 0; ; i++ {
					id := fmt.Sprintf("%d-%d-%d", os.Getpid(), g, i)
					if err := writes[i%len(writes)].write(s, insert(id)); err != nil {
						panic(err)
					}
					out.Lock()
					fmt.Println(id)
					out.Unlock()
				}
			}()
		}
		select {}
	},
}

// kill runs a job and kills it at a random time within some time after it is ready. It
// returns the lines that the job wrote.
func kill(t *testing.T, job string, o store.Options, within time.Duration) (lines []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SIGNET_TEST_JOB="+job, "SIGNET_TEST_STORE="+o.Path)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	sc := bufio.NewScanner(out)
	if !sc.Scan() || sc.Text() != "ready" {
		t.Errorf("the job wrote %q, want ready", sc.Text())
	}
	go func() {
		time.Sleep(rand.N(within))
		cmd.Process.Kill()
	}()
	for sc.Scan() {
		if strings.HasPrefix(sc.Text(), "error:") {
			t.Error(sc.Text())
		}
		lines = append(lines, sc.Text())
	}
	cmd.Wait()
	return lines
}

func cycles(n int) int {
	if testing.Short() {
		return max(n/10, 5)
	}
	return n
}

func jobOptions(dir string) store.Options {
	path := filepath.Join(dir, "signet.db")
	return store.Options{Path: path, Mirror: path + ".mirror", Serve: true}
}

// longHistory is the schema with two more steps that take some time.
func longHistory() []string {
	steps := store.Schema()
	for _, table := range []string{"one", "two"} {
		var b strings.Builder
		fmt.Fprintf(&b, "CREATE TABLE %s (n INTEGER, text TEXT);", table)
		for i := range 300 {
			fmt.Fprintf(&b, "INSERT INTO %s VALUES (%d, '%s');", table, i, strings.Repeat("x", 100))
		}
		steps = append(steps[:len(steps):len(steps)], b.String())
	}
	return steps
}

// A migration that is killed leaves the old or the new schema, never a part of it. It
// begins with the store of the oldest release.
func TestKilledMigrationLeavesOldOrNewSchema_L16(t *testing.T) {
	template := released(t, "schema1")
	seen := map[int64]int{}
	for range cycles(100) {
		o := jobOptions(t.TempDir())
		copyFile(t, template.Path, o.Path)
		copyFile(t, template.Mirror, o.Mirror)
		kill(t, "migrate", o, 20*time.Millisecond)
		history := longHistory()
		var schema int64
		for known := 1; ; known++ { // the oldest program that can open the store
			s, err := store.Open(t.Context(), o.WithSteps(history[:known]...))
			if errors.Is(err, store.ErrNewer) && known < len(history) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			schema = int64(known)
			for i, table := range []string{"one", "two"} {
				var n int
				err := s.Read(t.Context(), func(tx store.Tx) error { return tx.QueryRow("SELECT count(*) FROM " + table).Scan(&n) })
				if there := known > len(store.Schema())+i; there != (err == nil) || there && n != 300 {
					t.Errorf("schema %d, table %s: %d rows, error %v", known, table, n, err)
				}
			}
			closeStore(t, s)
			break
		}
		seen[schema]++
		s := open(t, o.WithSteps(history...))
		if err := spend(s, "x"); err != nil {
			t.Errorf("after the second migration: %v", err)
		}
		closeStore(t, s)
	}
	t.Logf("schema after the kill: %v", seen)
}

// released is a copy of a store that a released program made.
func released(t *testing.T, name string) store.Options {
	t.Helper()
	o := jobOptions(t.TempDir())
	copyFile(t, filepath.Join("testdata", name+".db"), o.Path)
	copyFile(t, filepath.Join("testdata", name+".mirror"), o.Mirror)
	return o
}

// The store of every release opens with all its rows, and gets the schema of a new
// store. A program of that release no longer opens it.
func TestStoreOfEveryReleaseOpens_L16(t *testing.T) {
	fresh := options(t)
	create(t, fresh)
	today := tables(t, open(t, fresh))
	for i, name := range []string{"schema1", "schema2", "schema3", "schema4", "schema5", "schema6", "schema7"} {
		o := released(t, name)
		old := store.Schema()[:i+1]
		s := open(t, o.WithSteps(old...)) // it has the schema that its name says
		epoch, before := s.Epoch(), commits(t, s)
		closeStore(t, s)
		for i := range 2 { // the second time there is nothing to migrate
			s = open(t, o)
			if s.Epoch() != epoch || s.Fingerprint() != "fixture" || commits(t, s) <= before {
				t.Errorf("%s: epoch %q, want %q; fingerprint %q, %d commits, want more than %d", name, s.Epoch(), epoch, s.Fingerprint(), commits(t, s), before)
			}
			if got := contents(t, s); got != releasedContent {
				t.Errorf("%s: got\n%s\nwant\n%s", name, got, releasedContent)
			}
			if err := spend(s, fmt.Sprint("later", i)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			closeStore(t, s)
		}
		if got, want := tables(t, open(t, o)), today; got != want {
			t.Errorf("%s, migrated, differs from a new store: got\n%s\nwant\n%s", name, got, want)
		}
		o.Serve = false
		if _, err := store.Open(t.Context(), o.WithSteps(old...)); !errors.Is(err, store.ErrNewer) {
			t.Errorf("%s: the old program opens the migrated store: %v, want ErrNewer", name, err)
		}
	}
}

// releasedContent is the content of the stores of every release.
const releasedContent = `grant live gen 3 revoked 0 alice client App consent read write https://mcp.test/mcp 4102444800 replays 0
grant revoked gen 1 revoked 1748779200000 alice client App consent read write https://mcp.test/mcp 4102444800 replays 0
spent login transaction 4102444800
key 1 kid
attempts 0`

func contents(t *testing.T, s *store.Store) string {
	t.Helper()
	return lines(t, s, `SELECT 'grant ' || id || ' gen ' || gen || ' revoked ' || revoked_at || ' ' || sub || ' ' || client_hash || ' ' || client_name || ' ' ||
			consent_hash || ' ' || scope || ' ' || resource || ' ' || expires_at || ' replays ' || replays FROM grants
		UNION ALL SELECT 'spent ' || kind || ' ' || id || ' ' || expires_at FROM spent WHERE kind = 'login'
		UNION ALL SELECT 'key ' || period || ' ' || kid FROM signing_keys
		UNION ALL SELECT 'attempts ' || count(*) FROM attempts`)
}

// tables lists every column of every table, and every index.
func tables(t *testing.T, s *store.Store) string {
	t.Helper()
	return lines(t, s, `SELECT m.type || ' ' || m.name || ' ' || m.tbl_name || ' ' || coalesce(c.name || ' ' || c.type || ' ' || c."notnull" || ' ' || coalesce(c.dflt_value, '') || ' ' || c.pk, '')
		FROM sqlite_schema m LEFT JOIN pragma_table_info(m.name) c ORDER BY m.name, c.cid`)
}

// lines reads a query with one text column, a line for each row.
func lines(t *testing.T, s *store.Store, query string) string {
	t.Helper()
	return strings.Join(column(t, s, query), "\n")
}

// A newer store is refused by name, and not touched.
func TestNewerStoreIsRefused_L16(t *testing.T) {
	o := options(t)
	create(t, o.WithSteps(longHistory()...))
	before := sum(t, o.Path)
	if _, err := store.Open(t.Context(), o); !errors.Is(err, store.ErrNewer) || !strings.Contains(err.Error(), o.Path) {
		t.Errorf("got %v, want ErrNewer naming the file", err)
	}
	if sum(t, o.Path) != before {
		t.Error("the file was changed")
	}
}

// A first start that is killed can be started again.
func TestKilledCreateCanBeRepeated(t *testing.T) {
	made := 0
	for range cycles(50) {
		o := jobOptions(t.TempDir())
		kill(t, "create", o, 15*time.Millisecond)
		s, err := store.Open(t.Context(), o)
		if errors.Is(err, store.ErrNoStore) && !errors.Is(err, store.ErrHalf) {
			create(t, o)
			s, err = store.Open(t.Context(), o)
			made++
		}
		if err != nil {
			t.Fatal(err)
		}
		closeStore(t, s)
		if left, err := filepath.Glob(o.Path + ".new*"); err != nil || len(left) > 0 {
			t.Errorf("files were left: %v", left)
		}
	}
	t.Logf("%d creations had to be repeated", made)
}

// Acknowledged writes survive kill -9, and the store is never behind its mirror.
func TestAcknowledgedSurvivesKill(t *testing.T) {
	o := jobOptions(t.TempDir())
	create(t, o)
	acked := map[string]bool{}
	for range cycles(30) {
		for _, id := range kill(t, "write", o, 60*time.Millisecond) {
			acked[id] = true
		}
		s := open(t, o)
		there := map[string]bool{}
		for _, id := range spent(t, s) {
			there[id] = true
		}
		for id := range acked {
			if !there[id] {
				t.Fatalf("%s was acknowledged and is missing", id)
			}
		}
		closeStore(t, s)
	}
	t.Logf("%d acknowledged writes", len(acked))
}

// A full disk makes writes fail, and nothing else: reading goes on, and so does writing
// once there is room again, without a restart.
func TestFullDiskFailsWritesOnly_L06(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skip("needs the right to mount: ", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	o := jobOptions(dir)
	create(t, o)
	s, err := store.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := spend(s, "before"); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 4<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	acked := 1
	var wg sync.WaitGroup
	var mu sync.Mutex
	failed := 0
	for g := range 8 {
		wg.Go(func() {
			for i := range 50 {
				err := spend(s, fmt.Sprintf("%d-%d-%s", g, i, strings.Repeat("x", 500)))
				mu.Lock()
				if err == nil {
					acked++
				} else if failed++; !errors.Is(err, store.ErrUnavailable) {
					t.Errorf("full disk: %v, want ErrUnavailable", err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if failed == 0 || len(spent(t, s)) != acked {
		t.Errorf("full disk: %d writes failed, %d rows, want %d", failed, len(spent(t, s)), acked)
	}
	if err := s.Check(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Check on a full disk: %v, want ErrUnavailable", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); s.Check(t.Context()) != nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("Check does not see that there is room again")
		}
	}
	if err := spend(s, "after"); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s2, err := store.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s2.Close()
	if n := len(spent(t, s2)); n != acked+1 {
		t.Errorf("%d rows after a restart, want %d", n, acked+1)
	}
}
