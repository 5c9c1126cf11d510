package users_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"signet/internal/test/process"
	"signet/users"
)

func TestChangePassword(t *testing.T) {
	f, path := newFile(t)
	const good, next = "purple monkey dishwasher", "correct horse battery"
	added, err := f.Add(t.Context(), users.User{Name: "alice", Email: "zaphod@example.com", Scopes: []string{"read"}}, good)
	if err != nil {
		t.Fatal(err)
	}
	add(t, f, "carol", good)
	if err := f.SetDisabled(t.Context(), "carol", true); err != nil {
		t.Fatal(err)
	}
	before := contents(t, path)
	var refused users.PasswordError
	for _, c := range []struct {
		what, subject, old, next string
		is                       error // nil: a PasswordError
		hashes                   uint64
	}{
		{"wrong password", "alice", "cows", next, users.ErrInvalid, 1},
		{"no password", "alice", "", next, users.ErrInvalid, 1},
		{"long old password", "alice", strings.Repeat("x", 1025), next, users.ErrPasswordTooLong, 0},
		{"long new password", "alice", good, strings.Repeat("x", 1025), users.ErrPasswordTooLong, 0},
		{"nobody", "bob", good, next, users.ErrUnknown, 0},
		{"disabled", "carol", good, next, users.ErrUnknown, 0},
		{"weak", "alice", good, "password1", nil, 0},
		{"the e-mail address", "alice", good, "zaphod.example", nil, 0},
		{"the app", "alice", good, "frobnitz-tools1", nil, 0},
		{"the same", "alice", good, good, nil, 1},
	} {
		hashes := f.Stats().Hashes
		_, err := f.ChangePassword(t.Context(), c.subject, c.old, c.next, "Frobnitz Tools")
		if c.is != nil && !errors.Is(err, c.is) || c.is == nil && !errors.As(err, &refused) {
			t.Errorf("%s: %v, want %v", c.what, err, c.is)
		}
		if got := f.Stats().Hashes - hashes; got != c.hashes {
			t.Errorf("%s: %d hashes, want %d", c.what, got, c.hashes)
		}
		if err != nil && (strings.Contains(err.Error(), good) || strings.Contains(err.Error(), c.next)) {
			t.Errorf("%s: a password shows in %v", c.what, err)
		}
	}
	if contents(t, path) != before {
		t.Error("a refused change changed the file")
	}
	changed, err := f.ChangePassword(t.Context(), "alice", good, next, "Frobnitz Tools")
	if err != nil || changed.Version == added.Version {
		t.Fatalf("%v, version %q, want another than %q", err, changed.Version, added.Version)
	}
	if changed.Updated < added.Updated {
		t.Errorf("changed at %d, before it was added at %d", changed.Updated, added.Updated)
	}
	added.Version, added.Updated = changed.Version, changed.Updated
	if diff := cmp.Diff(added, changed); diff != "" {
		t.Errorf("the user changed (-want +got):\n%s", diff)
	}
	for _, f := range []*users.File{f, open(t, path)} {
		check(t, f, "alice", good, users.ErrInvalid)
		u, err := f.Check(t.Context(), "alice", next)
		if err != nil || u.Version != changed.Version {
			t.Errorf("afterwards: version %q, %v, want %q", u.Version, err, changed.Version)
		}
	}
}

// A change by the command line meanwhile wins: an administrator may set another password
// or disable the user because an attacker knows the old password.
func TestAdministratorWinsAgainstChangePassword(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const good, next = "purple monkey dishwasher", "correct horse battery"
		for what, edit := range map[string]func(cli *users.File) error{
			"passwd":  func(cli *users.File) error { return cli.Passwd(t.Context(), "alice", "gnu") },
			"disable": func(cli *users.File) error { return cli.SetDisabled(t.Context(), "alice", true) },
			"remove":  func(cli *users.File) error { return cli.Remove(t.Context(), "alice") },
			"remove and add": func(cli *users.File) error {
				if err := cli.Remove(t.Context(), "alice"); err != nil {
					return err
				}
				_, err := cli.Add(t.Context(), users.User{Name: "alice"}, good)
				return err
			},
		} {
			f, path := newFile(t)
			add(t, f, "alice", good)
			server, cli := open(t, path), open(t, path)
			server.Stale() // it has looked, and does so again in a second
			if err := edit(cli); err != nil {
				t.Fatal(err)
			}
			before := contents(t, path)
			if _, err := server.ChangePassword(t.Context(), "alice", good, next); !errors.Is(err, users.ErrInvalid) && !errors.Is(err, users.ErrUnknown) {
				t.Errorf("%s: %v", what, err)
			}
			if contents(t, path) != before {
				t.Errorf("%s: the file changed", what)
			}
		}
	})
}

// A rehash meanwhile does not change the password.
func TestChangePasswordAfterRehash(t *testing.T) {
	const good, next = "purple monkey dishwasher", "correct horse battery"
	f, path := newFile(t)
	importText(t, f, "alice:"+bcryptHash(t, "$2y$", good))
	server, other := open(t, path), open(t, path)
	check(t, other, "alice", good, nil)
	if _, err := server.ChangePassword(t.Context(), "alice", good, next); err != nil {
		t.Fatal(err)
	}
	check(t, open(t, path), "alice", next, nil)
	check(t, open(t, path), "alice", good, users.ErrInvalid)
}

// Users change their passwords in the server while the command line edits the same
// file: no edit is lost.
func TestServerAndCommandLineEditAtOnce_INV24(t *testing.T) {
	server, path := newFile(t)
	const n = 8
	password := func(i, round int) string { return fmt.Sprintf("purple monkey dishwasher %d %d", i, round) }
	for i := range n {
		add(t, server, fmt.Sprintf("user%d", i), password(i, 0))
	}
	var calls sync.WaitGroup
	for i := range n {
		calls.Go(func() {
			name := fmt.Sprintf("user%d", i)
			for round := range 4 {
				if _, err := server.ChangePassword(t.Context(), name, password(i, round), password(i, round+1)); err != nil {
					t.Errorf("%s, round %d: %v", name, round, err)
				}
			}
		})
	}
	for w := range 2 {
		cli := open(t, path)
		calls.Go(func() {
			for i := range 8 {
				name := fmt.Sprintf("cli%d-%d", w, i)
				if _, err := cli.Add(t.Context(), users.User{Name: name}, "x"); err != nil {
					t.Error(err)
				}
				if err := cli.Passwd(t.Context(), name, "y"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	calls.Wait()
	f := open(t, path)
	for i := range n {
		check(t, f, fmt.Sprintf("user%d", i), password(i, 4), nil)
		for w := range 2 {
			check(t, f, fmt.Sprintf("cli%d-%d", w, i), "y", nil)
		}
	}
	if got := len(f.List()); got != n+2*8 {
		t.Errorf("%d users, want %d", got, n+2*8)
	}
}

func TestChangePasswordOnReadOnlyFile(t *testing.T) {
	if os.Geteuid() == 0 { // root can write to every file
		process.AsUser(t, 65534)
		return
	}
	f, path := newFile(t)
	const good = "purple monkey dishwasher"
	add(t, f, "alice", good)
	dir := filepath.Dir(path)
	if err := errors.Join(os.Remove(path+".lock"), os.Chmod(dir, 0o500)); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o700)
	if _, err := f.ChangePassword(t.Context(), "alice", good, "correct horse battery"); !errors.Is(err, users.ErrReadOnly) {
		t.Errorf("%v, want %v", err, users.ErrReadOnly)
	}
}
