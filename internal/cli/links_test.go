package cli

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// nobody is a user that a service runs as.
const nobody = 65534

// What root does in the data directory of a service follows no link that the service's
// user made there: nothing elsewhere is read, changed or made.
func TestRootFollowsNoLinkInTheDataDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root works in the directories of others")
	}
	const password = "walnut radio summer ladder"
	commands := [][]string{
		{"user", "list"}, {"user", "add", "bob", "--password-stdin"}, {"user", "passwd", "ann", "--password-stdin"}, {"client", "list"}, {"client", "add", "app", "--redirect-uri", "https://app.example.com/cb"},
		{"grant", "list"}, {"key", "list"}, {"key", "rotate"}, {"secret", "rotate"}, {"doctor"}, {"backup", filepath.Join(t.TempDir(), "backup")},
	}
	fresh := func() string {
		dir := filepath.Join(t.TempDir(), "data")
		for _, args := range [][]string{{"user", "add", "ann", "--password-stdin"}, {"client", "add", "one", "--redirect-uri", "https://one.example.com/cb"}, {"grant", "revoke", "--user", "ann"}, {"secret", "new"}} {
			signet(t, dir, password+"\n", args...)
		}
		return dir
	}
	for dir, i := fresh(), 0; i < len(commands); i++ { // without a link, they do what they should
		if status, out, errs := signet(t, dir, password+"\n", commands[i]...); status != 0 && commands[i][0] != "doctor" && commands[i][1] != "rotate" {
			t.Errorf("%q: status %d\n%s%s", commands[i], status, out, errs)
		}
	}
	names := map[string]bool{}
	err := filepath.WalkDir(fresh(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names[filepath.Base(path)] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"secret", "users", "clients.json", "signet.db", "signet.db-wal", "signet.db-shm", "signet.db-journal", "signet.db.lock", "signet.db.new", "signet.db.restored", "signet.db.restoring", "users.lock", "secret.lock"} {
		names[name] = true
	}
	for name := range names {
		for _, exists := range []bool{true, false} {
			if !exists && testing.Short() {
				continue
			}
			dir := fresh()
			elsewhere := t.TempDir()
			victim := filepath.Join(elsewhere, "victim")
			if exists {
				if err := os.WriteFile(victim, []byte("kanarienvogel:x\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			link := filepath.Join(dir, name)
			os.Remove(link)
			if err := os.Symlink(victim, link); err != nil {
				t.Fatal(err)
			}
			err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				return os.Lchown(path, nobody, nobody)
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, args := range commands {
				if args[0] == "backup" {
					args = []string{"backup", filepath.Join(t.TempDir(), "backup")}
				}
				status, out, errs := signet(t, dir, password+"\n", args...)
				if strings.Contains(out+errs, "kanarienvogel") {
					t.Errorf("%s, %q: shows what is elsewhere\n%s%s", name, args, out, errs)
				}
				if exists && status == 0 && (name == "users" && args[0] == "user" || name == "clients.json" && args[0] == "client" || name == "signet.db" && args[0] == "grant") {
					t.Errorf("%s, %q: succeeds\n%s%s", name, args, out, errs)
				}
				checkVictim(t, name+" "+strings.Join(args, " "), elsewhere, exists)
			}
		}
	}
}

// checkVictim fails if the directory elsewhere is not as it was.
func checkVictim(t *testing.T, what, elsewhere string, exists bool) {
	t.Helper()
	list, err := os.ReadDir(elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	if !exists {
		if len(list) != 0 {
			t.Fatalf("%s: made %v elsewhere", what, list)
		}
		return
	}
	victim := filepath.Join(elsewhere, "victim")
	b, err := os.ReadFile(victim)
	info, statErr := os.Lstat(victim)
	if err != nil || statErr != nil || string(b) != "kanarienvogel:x\n" || info.Mode() != 0o600 || len(list) != 1 {
		t.Fatalf("%s: elsewhere are %v, the file has mode %v and\n%q", what, list, info.Mode(), b)
	}
}
