package durable_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"signet/internal/durable"
)

const stranger = 12345 // a user that no test runs as

func write(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, []byte(content), 0o600), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// names are those in a folder.
func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func owner(t *testing.T, path string) int {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return int(info.Sys().(*syscall.Stat_t).Uid)
}

// asRoot skips a test that has to change owners.
func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may change owners")
	}
}

func chown(t *testing.T, path string, uid int) {
	t.Helper()
	if err := os.Lchown(path, uid, uid); err != nil {
		t.Fatal(err)
	}
}

func TestReplaceKeepsTheMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, tt := range []struct{ before, want fs.FileMode }{{0, 0o600}, {0o600, 0o600}, {0o640, 0o640}, {0o400, 0o400}} {
		if tt.before != 0 {
			write(t, path, "old", tt.before)
		}
		if err := durable.Replace(path, []byte("new")); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != tt.want || read(t, path) != "new" {
			t.Errorf("after mode %04o: mode %v with %q, %v; want %04o", tt.before, info.Mode(), read(t, path), err, tt.want)
		}
	}
	if got := names(t, filepath.Dir(path)); len(got) != 1 {
		t.Errorf("left behind: %q", got)
	}
}

func TestCreateReplacesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := durable.Create(path, []byte("first")); err != nil {
		t.Fatal(err)
	}
	if err := durable.Create(path, []byte("second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second time: %v, want %v", err, fs.ErrExist)
	}
	if f, err := durable.New(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("New: %v, %v, want %v", f, err, fs.ErrExist)
	}
	if got := read(t, path); got != "first" {
		t.Errorf("content %q", got)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("left behind: %q", got)
	}
}

func TestDiscardedFileLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	s, err := durable.Stage(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	s.WriteString("half")
	s.Discard()
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("left behind: %q", got)
	}
}

// A symbolic link in the place of a file leads no write elsewhere.
func TestNoWriteFollowsALink(t *testing.T) {
	for name, do := range map[string]func(path string) error{
		"Replace": func(path string) error { return durable.Replace(path, []byte("x")) },
		"Create":  func(path string) error { return durable.Create(path, []byte("x")) },
		"New": func(path string) error {
			f, err := durable.New(path)
			f.Close()
			return err
		},
		"Lock": func(path string) error {
			_, err := durable.Lock(t.Context(), path, 0)
			return err
		},
	} {
		for _, there := range []bool{true, false} {
			dir := t.TempDir()
			target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
			if there {
				write(t, target, "untouched", 0o600)
			}
			if err := os.Symlink(target, link); err != nil {
				t.Fatal(err)
			}
			err := do(link)
			if (name == "Replace") != (err == nil) {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := os.Lstat(target); (err == nil) != there {
				t.Errorf("%s made the file that the link leads to: %v", name, err)
			}
			if there && read(t, target) != "untouched" {
				t.Errorf("%s wrote to the file that the link leads to", name)
			}
		}
	}
}

// What root makes belongs to the owner of the folder.
func TestFilesOfRootBelongToTheOwnerOfTheFolder(t *testing.T) {
	asRoot(t)
	dir := t.TempDir()
	chown(t, dir, stranger)
	in := func(name string) string { return filepath.Join(dir, name) }
	f, err := durable.New(in("new"))
	f.Close()
	unlock, err2 := durable.Lock(t.Context(), in("lock"), 0)
	err3 := errors.Join(durable.Replace(in("replaced"), nil), durable.Create(in("created"), nil), durable.MakeDir(in("a/b")), durable.Replace(in("a/b/file"), nil))
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	unlock()
	for _, name := range []string{"new", "lock", "replaced", "created", "a", "a/b", "a/b/file"} {
		if got := owner(t, in(name)); got != stranger {
			t.Errorf("%s belongs to %d, want %d", name, got, stranger)
		}
	}
	if info, err := os.Stat(in("a/b")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("a/b: %v, %v; want mode 0700", info.Mode(), err)
	}

	// A file that is there keeps its owner, also one that root has set.
	chown(t, in("replaced"), stranger+1)
	chown(t, in("lock"), 0)
	if err := durable.Replace(in("replaced"), []byte("again")); err != nil {
		t.Fatal(err)
	}
	if unlock, err := durable.Lock(t.Context(), in("lock"), 0); err != nil {
		t.Error(err)
	} else {
		unlock()
	}
	if got := owner(t, in("replaced")); got != stranger+1 {
		t.Errorf("the replaced file belongs to %d, want %d", got, stranger+1)
	}
	if got := owner(t, in("lock")); got != 0 { // it may be a hard link to any file of root's
		t.Errorf("a lock file that was there was given to %d", got)
	}
}

func TestLockExcludes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := durable.Lock(t.Context(), path, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, patience := range []time.Duration{0, 30 * time.Millisecond} {
		if _, err := durable.Lock(t.Context(), path, patience); !errors.Is(err, durable.ErrLocked) {
			t.Errorf("patience %v: %v, want %v", patience, err, durable.ErrLocked)
		}
	}
	got := make(chan error)
	go func() {
		unlock, err := durable.Lock(t.Context(), path, time.Minute)
		if err == nil {
			unlock()
		}
		got <- err
	}()
	unlock()
	if err := <-got; err != nil {
		t.Errorf("after the first holder: %v", err)
	}
}

func TestLockFolder(t *testing.T) {
	dir := t.TempDir()
	unlock, err := durable.LockFolder(t.Context(), dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := durable.LockFolder(t.Context(), dir, 0); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("twice: %v, want %v", err, durable.ErrLocked)
	}
	unlock()
	if unlock, err = durable.LockFolder(t.Context(), dir, 0); err != nil {
		t.Errorf("afterwards: %v", err)
	} else {
		unlock()
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("left behind: %q", got)
	}
}

// No edit is lost, and a reader sees whole files alone.
func TestEditsComeOneAfterAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	var access durable.Access
	const n = 20
	var edits sync.WaitGroup
	for i := range n {
		edits.Go(func() {
			err := access.Edit(t.Context(), path, 1<<10, time.Minute, func(old []byte) ([]byte, error) {
				return fmt.Appendf(old, "%02d\n", i), nil
			})
			if err != nil {
				t.Error(err)
			}
			if b, err := access.Read(path, 1<<10); err != nil || len(b)%3 != 0 {
				t.Errorf("read %q, %v", b, err)
			}
		})
	}
	edits.Wait()
	if got := read(t, path); len(got) != 3*n {
		t.Errorf("%d bytes, want %d: %q", len(got), 3*n, got)
	}
}

func TestRefusedEditChangesNothing(t *testing.T) {
	no := errors.New("no")
	for name, tt := range map[string]struct {
		change func([]byte) ([]byte, error)
		limit  int64
	}{
		"an error":  {func([]byte) ([]byte, error) { return nil, no }, 10},
		"too long":  {func([]byte) ([]byte, error) { return make([]byte, 11), nil }, 10},
		"found so":  {func(old []byte) ([]byte, error) { return old, nil }, 2},
		"not alone": {nil, 10},
	} {
		path := filepath.Join(t.TempDir(), "file")
		write(t, path, "old", 0o600)
		if tt.change == nil {
			unlock, err := durable.Lock(t.Context(), path+".lock", 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unlock()
		}
		if err := (durable.Access{}).Edit(t.Context(), path, tt.limit, 0, tt.change); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if got := read(t, path); got != "old" {
			t.Errorf("%s: the file has %q", name, got)
		}
	}
}

// A link stays a link, if it is the user's own or root's. Others could lead root anywhere.
func TestEditFollowsOwnLinks(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	write(t, target, "old", 0o600)
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	edit := func() error {
		return durable.Access{}.Edit(t.Context(), link, 100, 0, func(old []byte) ([]byte, error) { return append(old, "+"...), nil })
	}
	if err := edit(); err != nil || read(t, target) != "old+" {
		t.Errorf("%q, %v", read(t, target), err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link is now %v, %v", info.Mode(), err)
	}
	asRoot(t)
	chown(t, link, stranger)
	if err := edit(); !errors.Is(err, fs.ErrPermission) || read(t, target) != "old+" {
		t.Errorf("through a link of another user: %q, %v", read(t, target), err)
	}
}
