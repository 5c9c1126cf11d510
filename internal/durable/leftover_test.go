package durable_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"signet/internal/durable"
)

// What a killed process left beside a file is removed by the next write of that file, and
// nothing else is: not the file of a writer that is at work, and no file of other names.
func TestLeftoversOfKilledWritersAreRemoved(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "users")
	old := time.Now().Add(-2 * time.Hour)
	names := []string{".users.123456", ".users.12a", ".users.", ".users", "users.123456", ".users.lock", ".clients.json.123456", ".users.backup", "users.lock"}
	for _, name := range names {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, old, old); err != nil {
			t.Fatal(err)
		}
	}
	for name, make := range map[string]func(string) error{".users.777": func(p string) error { return os.Mkdir(p, 0o700) }, ".users.888": func(p string) error { return os.Symlink("users.lock", p) }} {
		if err := make(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	young, err := durable.Stage(path)
	if err != nil {
		t.Fatal(err)
	}
	defer young.Discard()
	if err := durable.Replace(path, []byte("new")); err != nil {
		t.Fatal(err)
	}
	want := append(names[1:], "users", filepath.Base(young.Name()))
	slices.Sort(want)
	var got []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("there are %q, want %q", got, want)
	}
}
