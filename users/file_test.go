package users_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"signet/users"
)

// newFile returns an empty users file with cheap hashes.
func newFile(t testing.TB) (*users.File, string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "users")
	return open(t, path), path
}

func open(t testing.TB, path string) *users.File {
	t.Helper()
	f, err := users.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f.UseParams(64, 1)
	return f
}

func add(t testing.TB, f *users.File, name, password string) users.User {
	t.Helper()
	u, err := f.Add(t.Context(), users.User{Name: name}, password)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func check(t *testing.T, f *users.File, name, password string, want error) {
	t.Helper()
	if _, err := f.Check(t.Context(), name, password); !errors.Is(err, want) {
		t.Errorf("Check(%q): %v, want %v", name, err, want)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func contents(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestReservedNameIsNotAdded(t *testing.T) {
	f, path := newFile(t)
	for _, name := range []string{"upstream:corp:1", " UPSTREAM:x"} {
		if _, err := f.Add(t.Context(), users.User{Name: name}, "correct horse battery"); err == nil || !strings.Contains(err.Error(), "reserved") {
			t.Errorf("%q: %v", name, err)
		}
	}
	if len(f.List()) > 0 {
		t.Errorf("%s has %v", path, f.List())
	}
	if name, err := users.CheckName("upstream"); name != "upstream" || err != nil {
		t.Errorf("a name that only begins alike: %q, %v", name, err)
	}
}

func TestCheck(t *testing.T) {
	f, path := newFile(t)
	want := users.User{Subject: "alice", Name: "alice", Email: "a@example.com", DisplayName: "Alice & Co", Scopes: []string{"read", "write"}}
	added, err := f.Add(t.Context(), users.User{Name: " Alice", Email: want.Email, DisplayName: want.DisplayName, Scopes: want.Scopes}, "cows")
	if err != nil {
		t.Fatal(err)
	}
	want.Version, want.Updated = added.Version, added.Updated
	if len(want.Version) < 16 {
		t.Errorf("version %q is not random", want.Version)
	}
	for _, f := range []*users.File{f, open(t, path)} {
		got, err := f.Check(t.Context(), "alice", "cows")
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("Check: %v, %v, want %v", got, err, want)
		}
		got, err = f.Lookup(t.Context(), "alice")
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("Lookup: %v, %v, want %v", got, err, want)
		}
		for _, wrong := range []struct{ what, name, password string }{
			{"password", "alice", "cow"},
			{"longer password", "alice", "cows "},
			{"empty password", "alice", ""},
			{"name", "bob", "cows"},
			{"empty name", "", "cows"},
			{"no name", "a\x00", "cows"},
			{"long name", strings.Repeat("a", 1<<20), "cows"},
		} {
			if _, err := f.Check(t.Context(), wrong.name, wrong.password); !errors.Is(err, users.ErrInvalid) {
				t.Errorf("wrong %s: %v, want %v", wrong.what, err, users.ErrInvalid)
			}
		}
	}
	if _, err := f.Lookup(t.Context(), "bob"); !errors.Is(err, users.ErrUnknown) {
		t.Errorf("Lookup of an unknown user: %v, want %v", err, users.ErrUnknown)
	}
}

func TestNoFileIsNoUsers(t *testing.T) {
	f, _ := newFile(t)
	check(t, f, "alice", "cows", users.ErrInvalid)
	if err := f.Stale(); err != nil {
		t.Errorf("Stale: %v", err)
	}
}

// refused are names that no password signs in, and alice, whose password is not "dogs".
func refused(t testing.TB, f *users.File) (names []string) {
	t.Helper()
	add(t, f, "alice", "cows")
	add(t, f, "carol", "cows")
	if err := f.SetDisabled(t.Context(), "carol", true); err != nil {
		t.Fatal(err)
	}
	return []string{"alice", "carol", "nobody", "not\x00a name"}
}

// Unknown users, disabled users and wrong passwords get the same answer after the same work:
// one hash of the same parameters. BenchmarkRefused measures the times.
func TestUnknownUserCostsTheSame_C08(t *testing.T) {
	f, _ := newFile(t)
	f.UseParams(4<<10, 2)
	for _, name := range refused(t, f) {
		hashes := f.Stats().Hashes
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		check(t, f, name, "dogs", users.ErrInvalid)
		runtime.ReadMemStats(&after)
		if n := f.Stats().Hashes - hashes; n != 1 {
			t.Errorf("%q costs %d hashes, want 1", name, n)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n < 4<<20 || n > 5<<20 { // so the hash was made
			t.Errorf("%q takes %d bytes, want little more than the 4 MiB of a hash", name, n)
		}
	}
	if dummy, err := users.ParseHash(f.DummyHash()); err != nil || dummy.Memory != 4<<10 || dummy.Iterations != 2 || dummy.Parallelism != 1 {
		t.Errorf("the hash in place of an unknown user's has %+v, %v", dummy, err)
	}
}

func BenchmarkRefused(b *testing.B) {
	_, path := newFile(b)
	f, err := users.OpenFile(path) // with the hashes of every user
	if err != nil {
		b.Fatal(err)
	}
	for i, name := range refused(b, f) {
		b.Run([]string{"wrong_password", "disabled", "unknown", "not_a_name"}[i], func(b *testing.B) {
			for b.Loop() {
				if _, err := f.Check(b.Context(), name, "dogs"); !errors.Is(err, users.ErrInvalid) {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestSpellingsOfANameAreOneUser_C09(t *testing.T) {
	f, _ := newFile(t)
	add(t, f, "José", "cows")
	for _, name := range []string{"josé", "JOSÉ", " José\t", "Jose\u0301", "JOSE\u0301"} {
		u, err := f.Check(t.Context(), name, "cows")
		if err != nil || u.Subject != "josé" {
			t.Errorf("%q: subject %q, %v", name, u.Subject, err)
		}
		if n, err := users.Normalize(name); n != "josé" || err != nil {
			t.Errorf("Normalize(%q) = %q, %v", name, n, err)
		}
		if _, err := f.Add(t.Context(), users.User{Name: name}, "x"); err == nil {
			t.Errorf("%q could be added beside José", name)
		}
	}
	for _, name := range []string{"", "  ", "a\x00b", "a\nb", "a\x7f", "a\u202eb", "a\u200bb", "a\xffb", strings.Repeat("a", 129), strings.Repeat("é", 65)} {
		if n, err := users.Normalize(name); err == nil {
			t.Errorf("Normalize(%q) = %q, want an error", name, n)
		}
	}
}

func TestPasswordsAreComparedByteByByte_C11(t *testing.T) {
	f, _ := newFile(t)
	long := strings.Repeat("x", users.MaxPassword)
	for name, password := range map[string]string{
		"long": long, "nul": "a\x00b", "emoji": "🐄🐄", "nfd": "cafe\u0301", "space": " cows ", "binary": "\xff\xfe", "seventy": strings.Repeat("y", 80),
	} {
		add(t, f, name, password)
		check(t, f, name, password, nil)
	}
	for name, password := range map[string]string{
		"long": long[1:], "nul": "a", "emoji": "🐄", "nfd": "café", "space": "cows", "binary": "\xff", "seventy": strings.Repeat("y", 72),
	} {
		check(t, f, name, password, users.ErrInvalid)
	}
	before := f.Stats().Hashes
	check(t, f, "long", long+"x", users.ErrPasswordTooLong)
	check(t, f, "nobody", strings.Repeat("x", 2<<10), users.ErrPasswordTooLong)
	if _, err := f.Add(t.Context(), users.User{Name: "new"}, long+"x"); !errors.Is(err, users.ErrPasswordTooLong) {
		t.Errorf("Add: %v, want %v", err, users.ErrPasswordTooLong)
	}
	if _, err := f.Add(t.Context(), users.User{Name: "new"}, ""); err == nil {
		t.Error("an empty password could be set")
	}
	if after := f.Stats().Hashes; after != before {
		t.Errorf("%d hashes for passwords that are refused unseen", after-before)
	}
}

// A change of a user changes its version, so that tokens issued before end.
func TestVersionMovesWithPasswordAndDisabling_E13(t *testing.T) {
	f, _ := newFile(t)
	ctx := t.Context()
	last := add(t, f, "alice", "cows").Version
	for _, step := range []struct {
		what  string
		do    func() error
		moves bool
	}{
		{"passwd", func() error { return f.Passwd(ctx, "Alice", "dogs") }, true},
		{"same password", func() error { return f.Passwd(ctx, "alice", "dogs") }, true},
		{"login", func() error { _, err := f.Check(ctx, "alice", "dogs"); return err }, false},
		{"enable when enabled", func() error { return f.SetDisabled(ctx, "alice", false) }, false},
		{"disable and enable", func() error {
			return errors.Join(f.SetDisabled(ctx, "alice", true), f.SetDisabled(ctx, "alice", false))
		}, true},
		{"remove and add", func() error {
			_, err := f.Add(ctx, users.User{Name: "alice"}, "dogs")
			return errors.Join(f.Remove(ctx, "alice"), func() error { _, err = f.Add(ctx, users.User{Name: "alice"}, "dogs"); return err }())
		}, true},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		u, err := f.Lookup(ctx, "alice")
		if err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		if (u.Version != last) != step.moves {
			t.Errorf("%s: version moved %v, want %v", step.what, u.Version != last, step.moves)
		}
		last = u.Version
	}
	check(t, f, "alice", "cows", users.ErrInvalid)
	if err := f.SetDisabled(ctx, "alice", true); err != nil {
		t.Fatal(err)
	}
	check(t, f, "alice", "dogs", users.ErrInvalid)
	if _, err := f.Lookup(ctx, "alice"); !errors.Is(err, users.ErrUnknown) {
		t.Errorf("Lookup of a disabled user: %v, want %v", err, users.ErrUnknown)
	}
}

func TestEditsOfUnknownUsersAreRefused(t *testing.T) {
	f, _ := newFile(t)
	add(t, f, "alice", "cows")
	for what, err := range map[string]error{
		"passwd":  f.Passwd(t.Context(), "bob", "x"),
		"disable": f.SetDisabled(t.Context(), "bob", true),
		"remove":  f.Remove(t.Context(), "bob"),
	} {
		if !errors.Is(err, users.ErrUnknown) {
			t.Errorf("%s: %v, want %v", what, err, users.ErrUnknown)
		}
	}
	for what, u := range map[string]users.User{
		"name":         {Name: "a\nb"},
		"scope":        {Name: "bob", Scopes: []string{"read write"}},
		"email":        {Name: "bob", Email: "a\r\nb"},
		"display name": {Name: "bob", DisplayName: strings.Repeat("x", 300)},
	} {
		if _, err := f.Add(t.Context(), u, "x"); err == nil {
			t.Errorf("a user with a bad %s could be added", what)
		}
	}
	if got := len(f.List()); got != 1 {
		t.Errorf("%d users, want alice alone", got)
	}
}

func TestEditKeepsTheRest(t *testing.T) {
	f, path := newFile(t)
	add(t, f, "alice", "cows")
	text := "# staff\n\n" + contents(t, path) + "  # end\n"
	write(t, path, text)
	f = open(t, path)
	add(t, f, "bob", "dogs")
	if err := f.Remove(t.Context(), "BOB"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(text, contents(t, path)); diff != "" {
		t.Errorf("the file changed (-want +got):\n%s", diff)
	}
	if err := f.Remove(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	check(t, f, "alice", "cows", users.ErrInvalid)
	if err := f.Stale(); err != nil {
		t.Errorf("a file without users: %v", err)
	}
}

// A file that an editor is writing is empty for a moment. One whose last user was removed is
// not, so that a server believes it.
func TestRemovalOfTheLastUserIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, path := newFile(t)
		add(t, f, "alice", "cows")
		cli := open(t, path)
		if err := cli.Remove(t.Context(), "alice"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		check(t, f, "alice", "cows", users.ErrInvalid)
		if err := f.Stale(); err != nil || len(f.List()) != 0 {
			t.Errorf("a file without users: %v, %d users", err, len(f.List()))
		}
		add(t, cli, "bob", "dogs")
		time.Sleep(time.Second)
		check(t, f, "bob", "dogs", nil)
	})
}

// A hash made with other parameters is replaced at the next login, and is still the
// same password.
func TestRehash(t *testing.T) {
	f, path := newFile(t)
	version := add(t, f, "alice", "cows").Version
	f.UseParams(128, 1)
	check(t, f, "alice", "dogs", users.ErrInvalid)
	if !strings.Contains(contents(t, path), "$m=64,") {
		t.Error("a failed login changed the hash")
	}
	u, err := f.Check(t.Context(), "alice", "cows")
	if err != nil || u.Version != version {
		t.Fatalf("login: version %q, %v, want %q", u.Version, err, version)
	}
	if got := contents(t, path); !strings.Contains(got, "$m=128,") || strings.Contains(got, "$m=64,") {
		t.Error("the hash is the old one")
	}
	if u, err := f.Lookup(t.Context(), "alice"); err != nil || u.Version != version {
		t.Errorf("after the rehash: version %q, %v, want %q", u.Version, err, version)
	}
	check(t, f, "alice", "cows", nil)
	check(t, f, "alice", "dogs", users.ErrInvalid)
}

// A file that cannot be written is no reason to refuse a login.
func TestRehashOnReadOnlyDirectory(t *testing.T) {
	f, path := newFile(t)
	add(t, f, "alice", "cows")
	if err := os.Remove(path + ".lock"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path+".lock", 0o700); err != nil { // cannot be opened for writing, by root either
		t.Fatal(err)
	}
	f.UseParams(128, 1)
	for range 2 {
		check(t, f, "alice", "cows", nil)
	}
	if !strings.Contains(contents(t, path), "$m=64,") {
		t.Error("the hash changed")
	}
}

// A password that was changed during a login is not put back by its rehash.
func TestPasswdWinsAgainstRehash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, path := newFile(t)
		add(t, f, "alice", "cows")
		old, other := open(t, path), open(t, path)
		if err := other.Passwd(t.Context(), "alice", "dogs"); err != nil {
			t.Fatal(err)
		}
		old.UseParams(128, 1)
		check(t, old, "alice", "cows", nil) // it has not looked again yet
		check(t, open(t, path), "alice", "dogs", nil)
	})
}

func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, path := newFile(t)
		add(t, f, "alice", "cows")
		cli := open(t, path)
		add(t, cli, "bob", "dogs")
		time.Sleep(time.Second)
		check(t, f, "bob", "dogs", nil)
		if err := cli.SetDisabled(t.Context(), "alice", true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if _, err := f.Lookup(t.Context(), "alice"); !errors.Is(err, users.ErrUnknown) {
			t.Errorf("a second after the disable: %v, want %v", err, users.ErrUnknown)
		}
	})
}

// After a bad edit the users of before stay in use and Stale returns an error, until the
// file is right again.
func TestBadUsersFileLeavesUsersInForce_L03(t *testing.T) {
	for _, bad := range []struct {
		what, want string
		spoil      func(t *testing.T, path, text string)
	}{
		{"half a line", "users:1: ", func(t *testing.T, path, text string) { write(t, path, text[:len(text)/2]) }},
		{"second line", "users:2: ", func(t *testing.T, path, text string) { write(t, path, text+"garbage\n") }},
		{"no hash", "users:1: ", func(t *testing.T, path, text string) { write(t, path, `{"name":"alice"}`) }},
		{"mode", "chmod 0600", func(t *testing.T, path, text string) {
			if err := os.Chmod(path, 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		{"empty", "users is empty", func(t *testing.T, path, _ string) { write(t, path, "") }},
		{"gone", "no such file", func(t *testing.T, path, text string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(bad.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, path := newFile(t)
				add(t, f, "alice", "cows")
				good := contents(t, path)
				bad.spoil(t, path, good)
				time.Sleep(time.Second)
				if err := f.Stale(); err == nil || !strings.Contains(err.Error(), bad.want) {
					t.Errorf("Stale: %v, want something with %q", err, bad.want)
				}
				check(t, f, "alice", "cows", nil)
				check(t, f, "bob", "cows", users.ErrInvalid)
				time.Sleep(time.Second)
				if f.Stale() == nil {
					t.Error("Stale forgot the error although the file is as bad as before")
				}
				write(t, path, good+"\n")
				time.Sleep(time.Second)
				if err := f.Stale(); err != nil {
					t.Errorf("Stale of the mended file: %v", err)
				}
			})
		})
	}
}

func TestUsersFileOpenToOthersIsRefused_L01(t *testing.T) {
	f, path := newFile(t)
	add(t, f, "alice", "cows")
	dir := filepath.Dir(path)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what           string
		open           string
		mode, dirMode  os.FileMode
		wantFile, want string // empty: fine
	}{
		{"private", path, 0o600, 0o700, "", ""},
		{"link to private", link, 0o600, 0o700, "", ""},
		{"read-only", path, 0o400, 0o755, "", ""},
		{"world-readable", path, 0o644, 0o700, path, "chmod 0600"},
		{"group-readable", path, 0o640, 0o700, path, "chmod 0600"},
		{"link to world-readable", link, 0o644, 0o700, link, "chmod 0600"},
		{"replaceable by others", path, 0o600, 0o777, dir, "chmod 0700"},
	} {
		if err := errors.Join(os.Chmod(path, c.mode), os.Chmod(dir, c.dirMode)); err != nil {
			t.Fatal(err)
		}
		_, err := users.OpenFile(c.open)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.what, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.wantFile) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error naming %s and %q", c.what, err, c.wantFile, c.want)
		}
	}
	if _, err := users.OpenFile(dir); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a directory: %v", err)
	}
}

// A mounted secret belongs to root and is readable by the group of the process. A link
// leads to it, from a directory in which all users may add files but not replace them.
func TestMountedUsersMayBeReadableByTheirGroup_L01(t *testing.T) {
	f, path := newFile(t)
	add(t, f, "alice", "cows")
	mount := t.TempDir()
	link := filepath.Join(mount, "users")
	if err := errors.Join(os.Chmod(mount, 0o777|os.ModeSticky), os.Symlink(path, link)); err != nil {
		t.Fatal(err)
	}
	for mode, ok := range map[os.FileMode]bool{0o440: true, 0o640: true, 0o400: true, 0o460: false, 0o444: false, 0o644: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		mounted, err := users.OpenMounted(link)
		if (err == nil) != ok {
			t.Errorf("mode %o: %v", mode, err)
		}
		if err == nil && len(mounted.List()) != 1 {
			t.Errorf("mode %o: %d users", mode, len(mounted.List()))
		}
	}
}

// A reader sees a whole file while it is edited, and no edit of several programs is lost.
func TestEditsAreWholeAndNoneIsLost_INV24(t *testing.T) {
	f, path := newFile(t)
	for i := range 10 {
		add(t, f, fmt.Sprintf("user%d", i), "cows")
	}
	done := make(chan struct{})
	var reader, writers sync.WaitGroup
	reader.Go(func() {
		for reads := 0; ; reads++ {
			select {
			case <-done:
				if reads == 0 {
					t.Error("nothing was read meanwhile")
				}
				return
			default:
			}
			all, _, err := users.RoundTrip([]byte(contents(t, path)))
			if err != nil || len(all) < 10 {
				t.Errorf("a reader saw %d users, %v", len(all), err)
				return
			}
		}
	})
	for w := range 3 {
		cli := open(t, path)
		writers.Go(func() {
			for i := range 8 {
				name := fmt.Sprintf("writer%d-%d", w, i)
				_, err := cli.Add(t.Context(), users.User{Name: name}, "x")
				if err := errors.Join(err, cli.SetDisabled(t.Context(), fmt.Sprintf("user%d", i), w == 0)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	close(done)
	reader.Wait()
	if got := len(open(t, path).List()); got != 10+3*8 {
		t.Errorf("%d users, want %d", got, 10+3*8)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".users.*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestEditThroughLink(t *testing.T) {
	f, path := newFile(t)
	add(t, f, "alice", "cows")
	link := filepath.Join(filepath.Dir(path), "link")
	if err := os.Symlink("users", link); err != nil {
		t.Fatal(err)
	}
	add(t, open(t, link), "bob", "dogs")
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link became %v, %v", info.Mode(), err)
	}
	check(t, open(t, path), "bob", "dogs", nil)
}

func TestEditRefusesABrokenFile(t *testing.T) {
	f, path := newFile(t)
	add(t, f, "alice", "cows")
	broken := contents(t, path) + "garbage\n"
	write(t, path, broken)
	if _, err := f.Add(t.Context(), users.User{Name: "bob"}, "x"); err == nil || !strings.Contains(err.Error(), "users:2: ") {
		t.Errorf("Add: %v, want the broken line", err)
	}
	if contents(t, path) != broken {
		t.Error("the broken file was overwritten")
	}
}

// Errors and logs show no password and no hash.
func TestErrorsAndLogsShowNoSecret_L11(t *testing.T) {
	f, path := newFile(t)
	const canary = "kanarienvogel"
	add(t, f, "alice", canary+"-password")
	good := contents(t, path)
	_, hash, _ := strings.Cut(good, "$m=64,t=1,p=1$")
	hash = hash[:20]
	var said strings.Builder
	for _, text := range []string{
		"alice:" + canary, canary, `{"name":"` + canary, `{"name":"alice","hash":"` + canary + `"}`, `{"name":5,"hash":"` + canary + `"}`,
		`{"` + canary + `":1}`, `["` + canary + `"]`, good[:len(good)-4], good + good, strings.Replace(good, "argon2id", "argon2i", 1),
		strings.Replace(good, "t=1", "t=99", 1), `{"name":"a","disabled":"` + canary + `"}`, good[:len(good)-1] + canary, `{"name":"a\u0000` + canary + `"}`,
	} {
		_, _, err := users.RoundTrip([]byte(text))
		if err == nil {
			t.Errorf("%.20q… was taken", text)
			continue
		}
		said.WriteString(err.Error() + "\n")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, name := range []string{"alice", "bob"} {
		for _, ctx := range []context.Context{t.Context(), ctx} {
			_, err := f.Check(ctx, name, canary)
			_, err2 := f.Add(ctx, users.User{Name: "alice"}, canary)
			said.WriteString(fmt.Sprintln(err, err2, f.Passwd(ctx, "bob", canary)))
		}
	}
	slog.New(slog.NewJSONHandler(&said, nil)).Info("x", "file", f, "list", f.List())
	if s := said.String(); strings.Contains(s, canary) || strings.Contains(s, hash) {
		t.Errorf("a secret shows in:\n%s", s)
	}
}

func TestCheckFunc(t *testing.T) {
	boom := errors.New("boom")
	f := users.CheckFunc(func(_ context.Context, name, password string) (users.User, error) {
		switch {
		case name == "nobody":
			return users.User{}, nil
		case name == "down":
			return users.User{}, boom
		case password != "cows":
			return users.User{}, users.ErrInvalid
		}
		return users.User{Subject: "0", Version: "7"}, nil
	})
	got, err := f.Check(t.Context(), "Alice", "cows")
	if want := (users.User{Subject: "0", Name: "Alice"}); err != nil || !cmp.Equal(got, want) {
		t.Errorf("Check: %v, %v, want %v", got, err, want)
	}
	got, err = f.Lookup(t.Context(), "0")
	if want := (users.User{Subject: "0"}); err != nil || !cmp.Equal(got, want) {
		t.Errorf("Lookup: %v, %v, want %v", got, err, want)
	}
	for name, want := range map[string]error{"alice": users.ErrInvalid, "down": boom} {
		if _, err := f.Check(t.Context(), name, "x"); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	if _, err := f.Check(t.Context(), "nobody", "cows"); err == nil {
		t.Error("a user without a subject signed in")
	}
	if _, err := f.Check(t.Context(), "alice", strings.Repeat("x", 1025)); !errors.Is(err, users.ErrPasswordTooLong) {
		t.Errorf("long password: %v", err)
	}
}
