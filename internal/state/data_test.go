package state_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"signet/internal/seal"
	"signet/internal/state"
	"signet/server"
)

// snapshot is the content of every file below dir.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, dir+"/")] = fmt.Sprintf("%x", sha256.Sum256(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func prepared(t *testing.T) state.Data {
	t.Helper()
	d := state.Data{Dir: filepath.Join(t.TempDir(), "data")}
	if _, err := state.Prepare(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	return d
}

// issuer is one that no server answers for.
const issuer = "http://localhost:1"

func alone(d state.Data) server.Options { return server.Options{DataDir: d.Dir, Issuer: issuer} }

func TestFirstStartMakesSecretStoreAndMirror(t *testing.T) {
	d := prepared(t)
	for _, name := range []string{"secret", "signet.db", "mirror"} {
		info, err := os.Stat(filepath.Join(d.Dir, name))
		if err != nil {
			t.Error(err)
		} else if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %04o, want 0600", name, info.Mode().Perm())
		}
	}
	if info, err := os.Stat(d.Dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data directory: %v, %v; want mode 0700", info.Mode(), err)
	}
	before := snapshot(t, d.Dir)
	first, err := state.Prepare(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	second, err := state.Prepare(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if first.Fingerprint() != second.Fingerprint() {
		t.Error("the secret changed between two starts")
	}
	if got := snapshot(t, d.Dir); fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("a later start changed files:\n%v\n%v", before, got)
	}
}

// Users and clients may be there before the first start.
func TestFirstStartBesideUsersAndClients(t *testing.T) {
	d := state.Data{Dir: t.TempDir()}
	os.Chmod(d.Dir, 0o700)
	for _, name := range []string{"users", "clients.json"} {
		if err := os.WriteFile(filepath.Join(d.Dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := state.Prepare(t.Context(), d); err != nil {
		t.Error(err)
	}
}

// Whatever step a first start was killed at, the next start completes it.
func TestInterruptedFirstStartIsCompleted_L02(t *testing.T) {
	for name, spoil := range map[string]func(d state.Data) error{
		"nothing made":    func(d state.Data) error { return removeAll(d.Dir, "secret", "signet.db", "mirror") },
		"secret made":     func(d state.Data) error { return removeAll(d.Dir, "signet.db", "mirror") },
		"store made":      func(d state.Data) error { return removeAll(d.Dir, "mirror") },
		"all made":        func(state.Data) error { return nil },
		"half of a store": func(d state.Data) error { return os.Truncate(filepath.Join(d.Dir, "signet.db"), 100) },
	} {
		t.Run(name, func(t *testing.T) {
			d := prepared(t)
			if err := os.WriteFile(filepath.Join(d.Dir, "first-start"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := spoil(d); err != nil {
				t.Fatal(err)
			}
			if name == "half of a store" { // the store is renamed into place before the mirror is made
				removeAll(d.Dir, "mirror")
			}
			if _, err := state.Prepare(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			if fresh, err := state.Inspect(t.Context(), d); fresh || err != nil {
				t.Errorf("after the second try: fresh %t, %v", fresh, err)
			}
		})
	}
}

func removeAll(dir string, names ...string) error {
	for _, n := range names {
		if err := os.RemoveAll(filepath.Join(dir, n)); err != nil {
			return err
		}
	}
	return nil
}

// If a part is missing or damaged, the server does not start, the error names the file and
// the command that accepts the loss, and all files stay as they were.
func TestHalfOfTheStateIsRefused_L02_L08(t *testing.T) {
	write := func(name, content string) func(d state.Data) error {
		return func(d state.Data) error { return os.WriteFile(filepath.Join(d.Dir, name), []byte(content), 0o600) }
	}
	remove := func(names ...string) func(d state.Data) error {
		return func(d state.Data) error { return removeAll(d.Dir, names...) }
	}
	for name, c := range map[string]struct {
		spoil func(d state.Data) error
		file  string
	}{
		"no secret":              {remove("secret"), "secret"},
		"no store":               {remove("signet.db"), "signet.db"},
		"no mirror":              {remove("mirror"), "mirror"},
		"secret alone":           {remove("signet.db", "mirror"), "signet.db"},
		"store alone":            {remove("secret", "mirror"), "secret"},
		"empty secret":           {write("secret", ""), "secret"},
		"cut secret":             {write("secret", "abc"), "secret"},
		"another secret":         {write("secret", seal.NewSecret()), "signet.db"},
		"empty store":            {write("signet.db", ""), "signet.db"},
		"text in place of store": {write("signet.db", strings.Repeat("text\n", 1000)), "signet.db"},
	} {
		t.Run(name, func(t *testing.T) {
			d := prepared(t)
			if err := c.spoil(d); err != nil {
				t.Fatal(err)
			}
			before := snapshot(t, d.Dir)
			_, err := server.New(alone(d))
			if err == nil {
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), filepath.Join(d.Dir, c.file)) || !strings.Contains(err.Error(), "signet doctor --accept-loss") {
				t.Errorf("error %q does not name %s and the command that accepts the loss", err, c.file)
			}
			after := snapshot(t, d.Dir)
			for _, aside := range []string{"signet.db.lock", "signet.db-wal", "signet.db-shm"} { // made by looking, empty
				delete(after, aside)
				delete(before, aside)
			}
			if fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("the refused start changed files:\n%v\n%v", before, after)
			}

			did, err := state.AcceptLoss(t.Context(), d)
			if err != nil || len(did) == 0 {
				t.Fatalf("accepting the loss: %q, %v", did, err)
			}
			srv, err := server.New(alone(d))
			if err != nil {
				t.Fatalf("after accepting the loss: %v", err)
			}
			srv.Close()
		})
	}
}

// The doctor refuses what a start refuses: a store elsewhere whose data directory is gone.
func TestStoreElsewhereWithoutItsDataDirectoryIsRefused_L02(t *testing.T) {
	top := t.TempDir()
	d := state.Data{Dir: filepath.Join(top, "data"), Store: filepath.Join(top, "signet.db")}
	if fresh, err := state.Inspect(t.Context(), d); !fresh || err != nil {
		t.Errorf("before the first start: fresh %v, %v", fresh, err)
	}
	if _, err := state.Prepare(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(d.Dir); err != nil {
		t.Fatal(err)
	}
	_, err := state.Inspect(t.Context(), d)
	if err == nil || !strings.Contains(err.Error(), "missing, although there is "+d.Store) {
		t.Errorf("Inspect: %v, want an error that names the store", err)
	}
	if _, err := os.Stat(d.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the data directory was made (%v)", err)
	}
	if _, started := state.Prepare(t.Context(), d); started == nil || err == nil || started.Error() != err.Error() {
		t.Errorf("Prepare: %v, want %v", started, err)
	}
}

// A directory in the place of the store is neither a loss nor a damaged file.
func TestDirectoryInPlaceOfTheStoreIsRefused(t *testing.T) {
	d := prepared(t)
	d.Store = t.TempDir()
	_, prepare := state.Prepare(t.Context(), d)
	_, inspect := state.Inspect(t.Context(), d)
	_, accept := state.AcceptLoss(t.Context(), d)
	for what, err := range map[string]error{"Prepare": prepare, "Inspect": inspect, "AcceptLoss": accept} {
		if err == nil || !strings.Contains(err.Error(), "SIGNET_STORE: "+d.Store+" is a directory") {
			t.Errorf("%s: %v, want an error that names the directory", what, err)
		}
	}
	if info, err := os.Stat(d.Store); err != nil || !info.IsDir() {
		t.Errorf("the directory was moved (%v)", err)
	}
}

// The setting allows the group to read mounted files, and no other users.
func TestMountedSecretMayBeReadableByItsGroup_L01(t *testing.T) {
	for mode, ok := range map[fs.FileMode]bool{0o440: true, 0o640: true, 0o460: false, 0o444: false, 0o644: false} {
		d := prepared(t)
		users := filepath.Join(d.Dir, "users")
		if err := errors.Join(os.WriteFile(users, nil, 0o600), os.Chmod(users, 0o440), os.Chmod(filepath.Join(d.Dir, "secret"), mode)); err != nil {
			t.Fatal(err)
		}
		srv, err := server.New(server.Options{DataDir: d.Dir, Issuer: issuer, GroupMayRead: true})
		if (err == nil) != ok {
			t.Errorf("mode %o: %v", mode, err)
		}
		if err == nil {
			srv.Close()
		}
		if _, err := server.New(server.Options{DataDir: d.Dir, Issuer: issuer}); err == nil {
			t.Errorf("mode %o: started without the setting", mode)
		}
	}
}

func TestSecretReadableByOthersIsRefused_L01(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		mode fs.FileMode
	}{
		"secret for all":         {"secret", 0o644},
		"secret for the group":   {"secret", 0o640},
		"store for all":          {"signet.db", 0o644},
		"directory for everyone": {"", 0o777},
	} {
		t.Run(name, func(t *testing.T) {
			d := prepared(t)
			if err := os.Chmod(filepath.Join(d.Dir, c.file), c.mode); err != nil {
				t.Fatal(err)
			}
			_, err := server.New(alone(d))
			if err == nil {
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), filepath.Join(d.Dir, c.file)) || !strings.Contains(err.Error(), "0") {
				t.Errorf("error %q does not name the file and the mode", err)
			}
		})
	}
	t.Run("link to a file for all", func(t *testing.T) {
		d := prepared(t)
		secret, open := filepath.Join(d.Dir, "secret"), filepath.Join(t.TempDir(), "open")
		if err := os.Rename(secret, open); err != nil {
			t.Fatal(err)
		}
		os.Chmod(open, 0o644)
		if err := os.Symlink(open, secret); err != nil {
			t.Fatal(err)
		}
		if _, err := server.New(alone(d)); err == nil {
			t.Error("started")
		}
	})
}

func TestSecretFromTheSetting(t *testing.T) {
	d := state.Data{Dir: filepath.Join(t.TempDir(), "data"), Secret: seal.NewSecret()}
	if _, err := state.Prepare(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(d.Dir, "secret")); !os.IsNotExist(err) {
		t.Errorf("a secret file was made although the setting has one: %v", err)
	}
	old := d.Secret
	d.Secret = seal.NewSecret() + "," + old
	if fresh, err := state.Inspect(context.Background(), d); fresh || err != nil {
		t.Errorf("with a new root before the old one: fresh %t, %v", fresh, err)
	}
	d.Secret = seal.NewSecret()
	if _, err := state.Inspect(context.Background(), d); err == nil {
		t.Error("a store made under another root was accepted")
	}
	d.Secret = "short"
	if _, err := state.Prepare(t.Context(), d); err == nil || !strings.Contains(err.Error(), "SIGNET_SECRET") {
		t.Errorf("error %v does not name SIGNET_SECRET", err)
	}
}
