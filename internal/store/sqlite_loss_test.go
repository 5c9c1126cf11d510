package store_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"signet/internal/store"
)

// fillUp writes some pages of rows into a store and closes it.
func fillUp(t testing.TB, o store.Options) {
	t.Helper()
	s := open(t, o)
	for i := range 20 {
		err := s.Write(context.Background(), func(tx store.Tx) error {
			for j := range 100 {
				if err := insert(fmt.Sprintf("%s-%03d-%03d", strings.Repeat("x", 100), i, j))(tx); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	closeStore(t, s)
}

// scribble overwrites one page in the middle of the file.
func scribble(t testing.TB, path string) {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(strings.Repeat("scribble", 512)), fi.Size()/2/4096*4096); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// crashed makes a store whose server was killed with commits in its log: the files are
// copied while the server runs. The copy in yesterday is older, and in between the log
// was moved into the file.
func crashed(t testing.TB) (o store.Options, yesterday string) {
	t.Helper()
	live := options(t)
	create(t, live)
	fillUp(t, live)
	yesterday = filepath.Join(t.TempDir(), "yesterday")
	copyFile(t, live.Path, yesterday)
	s := open(t, live)
	if err := spend(s, "today"); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	s = open(t, live)
	for i := range 10 {
		if err := spend(s, fmt.Sprint("last", i)); err != nil {
			t.Fatal(err)
		}
	}
	o = options(t)
	for _, part := range []string{"", "-wal"} {
		copyFile(t, live.Path+part, o.Path+part)
	}
	copyFile(t, live.Mirror, o.Mirror)
	return o, yesterday
}

func sum(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return "none"
	}
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

func truncate(t testing.TB, path string, size func(now int64) int64) {
	t.Helper()
	fi, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, size(fi.Size()))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func zero(int64) int64   { return 0 }
func half(n int64) int64 { return n / 2 }

func remove(t testing.TB, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
}

// Whatever happens to the files of a stopped server, it does not start with less than it
// had: the error names the file and the remedy, and nothing is touched. The remedy is a
// new epoch, after which the old store is still there.
func TestLostStoreIsRefused_L08(t *testing.T) {
	for _, test := range []struct {
		name string
		harm func(t *testing.T, o store.Options, yesterday string)
		want error
	}{
		{"store deleted", func(t *testing.T, o store.Options, _ string) { remove(t, o.Path) }, store.ErrHalf},
		{"store and log deleted", func(t *testing.T, o store.Options, _ string) { remove(t, o.Path, o.Path+"-wal") }, store.ErrHalf},
		{"store and mirror deleted", func(t *testing.T, o store.Options, _ string) { remove(t, o.Path, o.Mirror) }, store.ErrHalf},
		{"0 bytes", func(t *testing.T, o store.Options, _ string) { truncate(t, o.Path, zero) }, store.ErrDamaged},
		{"0 bytes, no log", func(t *testing.T, o store.Options, _ string) {
			truncate(t, o.Path, zero)
			remove(t, o.Path+"-wal")
		}, store.ErrDamaged},
		{"log deleted", func(t *testing.T, o store.Options, _ string) { remove(t, o.Path+"-wal") }, store.ErrRolledBack},
		{"log emptied", func(t *testing.T, o store.Options, _ string) { truncate(t, o.Path+"-wal", zero) }, store.ErrRolledBack},
		{"log cut to half", func(t *testing.T, o store.Options, _ string) { truncate(t, o.Path+"-wal", half) }, store.ErrRolledBack},
		{"header zeroed", func(t *testing.T, o store.Options, _ string) {
			f, err := os.OpenFile(o.Path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			f.Write(make([]byte, 100))
			remove(t, o.Path+"-wal")
		}, store.ErrDamaged},
		{"main file cut", func(t *testing.T, o store.Options, _ string) { truncate(t, o.Path, half) }, store.ErrDamaged},
		{"page scribbled", func(t *testing.T, o store.Options, _ string) { scribble(t, o.Path) }, store.ErrDamaged},
		{"text file", func(t *testing.T, o store.Options, _ string) {
			os.WriteFile(o.Path, []byte("hello, this is no database\n"), 0o600)
		}, store.ErrDamaged},
		{"another program's database", func(t *testing.T, o store.Options, _ string) {
			steps := []string{"CREATE TABLE meta (one, epoch, schema, commits, fingerprint, last_seen)"}
			for i := range 100 { // more than Signet will ever have
				steps = append(steps, fmt.Sprintf("CREATE TABLE t%d (x)", i))
			}
			other := options(t).WithSteps(steps...)
			create(t, other)
			copyFile(t, other.Path, o.Path)
			remove(t, o.Path+"-wal")
		}, store.ErrNewer},
		{"yesterday's copy", func(t *testing.T, o store.Options, yesterday string) {
			copyFile(t, yesterday, o.Path)
			remove(t, o.Path+"-wal")
		}, store.ErrRolledBack},
		{"yesterday's copy under today's log", func(t *testing.T, o store.Options, yesterday string) {
			copyFile(t, yesterday, o.Path)
		}, store.ErrRolledBack},
		{"another instance's store", func(t *testing.T, o store.Options, _ string) {
			other := options(t)
			create(t, other)
			copyFile(t, other.Path, o.Path)
			remove(t, o.Path+"-wal")
		}, store.ErrOtherStore},
		{"mirror deleted", func(t *testing.T, o store.Options, _ string) { remove(t, o.Mirror) }, store.ErrHalf},
		{"mirror emptied", func(t *testing.T, o store.Options, _ string) { truncate(t, o.Mirror, zero) }, store.ErrHalf},
	} {
		t.Run(test.name, func(t *testing.T) {
			o, yesterday := crashed(t)
			test.harm(t, o, yesterday)
			before, log := sum(t, o.Path), sum(t, o.Path+"-wal")
			for range 2 {
				s, err := store.Open(t.Context(), o)
				if err == nil {
					s.Close()
					t.Fatal("the store was opened")
				}
				if !errors.Is(err, test.want) {
					t.Errorf("got %v, want %v", err, test.want)
				}
				if !strings.Contains(err.Error(), filepath.Dir(o.Path)) || test.want != store.ErrNewer && !strings.Contains(err.Error(), "signet doctor --accept-loss") {
					t.Errorf("%v: it names no file or no remedy", err)
				}
				if err := store.Create(t.Context(), o, "f"); err == nil {
					t.Fatal("a new store was made in its place")
				}
			}
			if sum(t, o.Path) != before {
				t.Error("the file was changed")
			}
			if got := sum(t, o.Path+"-wal"); got != log && log != "none" {
				t.Error("the log was changed")
			}
			if test.want != store.ErrNewer {
				acceptLoss(t, o)
			}
		})
	}
}

// acceptLoss accepts the loss twice, and expects a working store with another epoch each
// time.
func acceptLoss(t *testing.T, o store.Options) {
	t.Helper()
	var epochs []string
	for _, fingerprint := range []string{"f1", "f2"} {
		if _, err := store.NewEpoch(t.Context(), o, fingerprint); err != nil {
			t.Fatalf("accepting the loss: %v", err)
		}
		s := open(t, o)
		if s.Fingerprint() != fingerprint {
			t.Errorf("fingerprint %q, want %q", s.Fingerprint(), fingerprint)
		}
		epochs = append(epochs, s.Epoch())
		if err := spend(s, "after"+fingerprint); err != nil {
			t.Errorf("writing after the loss: %v", err)
		}
		closeStore(t, s)
	}
	if epochs[0] == epochs[1] {
		t.Error("the epoch is the old one")
	}
}

// The files of a killed server open with all acknowledged rows.
func TestCrashedStoreOpens(t *testing.T) {
	o, _ := crashed(t)
	s := open(t, o)
	rows := strings.Join(spent(t, s), " ")
	if !strings.Contains(rows, "today") || !strings.Contains(rows, "last9") {
		t.Error("acknowledged rows are missing")
	}
}

// A store of another root secret is refused before it is touched. Accepting the loss sets
// it aside, because its keys cannot be opened.
func TestStoreOfAnotherRootIsRefused(t *testing.T) {
	o := options(t)
	create(t, o)
	o.Root = func(fingerprint string) bool { return fingerprint == "another" }
	before := sum(t, o.Path)
	_, err := store.Open(t.Context(), o)
	if !errors.Is(err, store.ErrOtherRoot) || !strings.Contains(err.Error(), o.Path) || !strings.Contains(err.Error(), "--accept-loss") {
		t.Errorf("got %v, want ErrOtherRoot with the file and the remedy", err)
	}
	if sum(t, o.Path) != before {
		t.Error("the file was changed")
	}
	if _, err := store.NewEpoch(t.Context(), o, "another"); err != nil {
		t.Fatal(err)
	}
	if s := open(t, o); s.Fingerprint() != "another" {
		t.Errorf("fingerprint %q, want another", s.Fingerprint())
	}
	aside, err := filepath.Glob(filepath.Join(filepath.Dir(o.Path), "*.lost-*"))
	if err != nil || !slices.ContainsFunc(aside, func(path string) bool { return sum(t, path) == before }) {
		t.Errorf("set aside: %q, %v; want the unchanged store among them", aside, err)
	}
}

// A first start that was interrupted between mirror and store is still a first start.
func TestInterruptedCreateCanBeRepeated(t *testing.T) {
	o := options(t)
	create(t, o)
	remove(t, o.Path)
	if err := os.WriteFile(o.Path+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), o); !errors.Is(err, store.ErrNoStore) || errors.Is(err, store.ErrHalf) {
		t.Errorf("got %v, want only ErrNoStore", err)
	}
	create(t, o)
	open(t, o)
	if _, err := os.Stat(o.Path + ".new"); err == nil {
		t.Error("the temporary file is still there")
	}
}

func TestStoreReadableByOthersIsRefused_L01(t *testing.T) {
	o := options(t)
	create(t, o)
	for _, mode := range []os.FileMode{0o644, 0o640, 0o660, 0o604} {
		if err := os.Chmod(o.Path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), o.Path) || !strings.Contains(err.Error(), "0600") {
			t.Errorf("mode %v: %v, want an error naming file and mode", mode, err)
		}
	}
	if err := os.Chmod(o.Path, 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, o)
}

// A write of the mirror that is torn anywhere leaves one of its two marks whole.
func TestTornMirrorKeepsAMark(t *testing.T) {
	o := options(t)
	create(t, o)
	s := open(t, o)
	if err := errors.Join(spend(s, "a"), spend(s, "b")); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	whole, err := os.ReadFile(o.Mirror)
	if err != nil || len(whole)%2 != 0 {
		t.Fatalf("mirror of %d bytes: %v", len(whole), err)
	}
	for torn := range len(whole) / 2 {
		b := append([]byte(nil), whole...)
		b[torn] ^= 1
		if err := os.WriteFile(o.Mirror, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := store.Open(t.Context(), o)
		if err != nil {
			t.Fatalf("one mark torn at %d: %v", torn, err)
		}
		s.Close()
	}
	if err := os.WriteFile(o.Mirror, []byte(strings.ToUpper(string(whole))), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), o); !errors.Is(err, store.ErrHalf) {
		t.Errorf("both marks torn: %v, want ErrHalf", err)
	}
}
