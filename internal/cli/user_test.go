package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signet/users"
)

// signet carries out one command line in this process, with a data directory and
// what stdin holds, and returns the status and what it wrote.
func signet(t *testing.T, dir, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	p := Process{Environ: []string{"SIGNET_DATA_DIR=" + dir}, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs}
	status = Run(t.Context(), p, args)
	return status, out.String(), errs.String()
}

func TestUserCommands(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	for _, c := range []struct {
		what, stdin string
		args        []string
		status      int
		stdout      string // part of it
		stderr      string // part of it
	}{
		{"list of nobody", "", []string{"list", "--json"}, 0, "[]", ""},
		{"add", "correct horse cows\n", []string{"add", "Alice", "--email", "a@example.com", "--name", "Alice A", "--scope", "read", "--scope", "write,admin", "--password-stdin"}, 0, "user alice is added", ""},
		{"add, as JSON", "purple monkey dogs", []string{"add", "bob", "--password-stdin", "--json"}, 0, `"name": "bob"`, ""},
		{"add again", "cows\n", []string{"add", " ALICE ", "--password-stdin"}, 1, "", "already"},
		{"add without a password", "", []string{"add", "carol", "--password-stdin"}, 2, "", "no password"},
		{"add without a terminal", "cows\n", []string{"add", "carol"}, 2, "", "--password-stdin"},
		{"add with a long password", strings.Repeat("x", 2000), []string{"add", "carol", "--password-stdin"}, 1, "", "1024 bytes"},
		{"add with a weak password", "Summer2024!\n", []string{"add", "carol", "--password-stdin"}, 1, "", "too easy to guess"},
		{"add with a short password", "xk9!mQ2\n", []string{"add", "carol", "--password-stdin"}, 1, "", "8 characters"},
		{"add with the name as password", "zaphodbeeblebrox1\n", []string{"add", "carol", "--name", "Zaphod Beeblebrox", "--password-stdin"}, 1, "", "your name"},
		{"add a name that is none", "cows\n", []string{"add", "a\nb", "--password-stdin"}, 2, "", "control"},
		{"add with an unknown scope", "cows\n", []string{"add", "carol", "--scope", "root", "--password-stdin"}, 2, "", "SIGNET_SCOPES"},
		{"add nobody", "cows\n", []string{"add", "--password-stdin"}, 2, "", "arg"},
		{"list", "", []string{"list"}, 0, "alice  enabled  read write admin  a@example.com  Alice A", ""},
		{"passwd", "correct horse goats\n", []string{"passwd", "Alice", "--password-stdin"}, 0, "another password", ""},
		{"weak passwd", "a@example.com-1\n", []string{"passwd", "alice", "--password-stdin"}, 1, "", "too easy to guess"},
		{"passwd with the app's name", "signet-signet1\n", []string{"passwd", "alice", "--password-stdin"}, 1, "", "name of this service"},
		{"passwd of nobody", "goats\n", []string{"passwd", "carol", "--password-stdin"}, 1, "", "no such user"},
		{"disable", "", []string{"disable", "bob"}, 0, "bob is disabled", ""},
		{"list the disabled", "", []string{"list"}, 0, "bob    disabled", ""},
		{"enable", "", []string{"enable", "bob"}, 0, "bob is enabled", ""},
		{"remove", "", []string{"remove", "bob"}, 0, "bob is removed", ""},
		{"remove again", "", []string{"remove", "bob"}, 1, "", "no such user"},
		{"unknown verb", "", []string{"frobnicate"}, 2, "", "user"},
	} {
		status, stdout, stderr := signet(t, dir, c.stdin, append([]string{"user"}, c.args...)...)
		if status != c.status || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%s: status %d, want %d\nstdout %q, want %q in it\nstderr %q, want %q in it", c.what, status, c.status, stdout, c.stdout, stderr, c.stderr)
		}
		for _, secret := range []string{"cows", "goats", "Summer2024", "example.com-1", "argon2id", strings.Repeat("x", 20)} {
			if strings.Contains(stdout+stderr, secret) {
				t.Errorf("%s: %q shows in\n%s%s", c.what, secret, stdout, stderr)
			}
		}
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data directory: %v, %v, want mode 0700", info.Mode(), err)
	}
	_, stdout, _ := signet(t, dir, "", "user", "list", "--json")
	var got []account
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	want := []account{{Name: "alice", Email: "a@example.com", DisplayName: "Alice A", Scopes: []string{"read", "write", "admin"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("list --json (-want +got):\n%s", diff)
	}
}

// The users of another system's file sign in afterwards.
func TestUserImport(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	file := filepath.Join(t.TempDir(), "users.txt")
	hashed := filepath.Join(t.TempDir(), "htpasswd")
	for path, text := range map[string]string{
		file:   "alice:cows\nbob:purple monkey dogs",
		hashed: "dave:$2y$04$PFEy5uwdUhEYpVh.8oCbKOdunBjNzTpqpeBOpJz1jRqrRHjPGQ1DW\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		what, stdin string
		args        []string
		status      int
		stdout      string // part of it
		stderr      string // part of it
	}{
		{"no file", "", nil, 2, "", "arg"},
		{"absent file", "", []string{file + ".absent"}, 1, "", "no such file"},
		{"directory", "", []string{dir}, 1, "", "directory"},
		{"unknown scope", "", []string{file, "--scope", "root"}, 2, "", "SIGNET_SCOPES"},
		{"fault", "alice:cows\nbob\n", []string{"-"}, 1, "", "stdin:2: no colon"},
		{"faults", "a\nb\n", []string{"-"}, 1, "", "stdin:1: no colon, as in name:password\nsignet: stdin:2: "},
		{"clear text", "", []string{file, "--scope", "read,write"}, 0, "imported 2 of 2 users", "user alice: the password has fewer than 8 characters"},
		{"again", "", []string{file}, 1, "", file + ":1: there is a user alice already"},
		{"again, skipping", "", []string{file, "--skip-existing"}, 0, "imported 0 of 2 users", file + " holds passwords in clear"},
		{"stdin", "carol:purple monkey goats\r\n", []string{"-", "--json"}, 0, `"status": "imported"`, ""},
		{"htpasswd", "", []string{hashed, "--json"}, 0, `"hash": "bcrypt"`, ""},
	} {
		status, stdout, stderr := signet(t, dir, c.stdin, append([]string{"user", "import"}, c.args...)...)
		if status != c.status || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%s: status %d, want %d\nstdout %q, want %q in it\nstderr %q, want %q in it", c.what, status, c.status, stdout, c.stdout, stderr, c.stderr)
		}
		for _, secret := range []string{"cows", "dogs", "goats", "PFEy5uwd"} {
			if strings.Contains(stdout+stderr, secret) {
				t.Errorf("%s: %q shows in\n%s%s", c.what, secret, stdout, stderr)
			}
		}
	}
	_, stdout, _ := signet(t, dir, "", "user", "list", "--json")
	var got []account
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	want := []account{{Name: "alice", Scopes: []string{"read", "write"}}, {Name: "bob", Scopes: []string{"read", "write"}}, {Name: "carol"}, {Name: "dave"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("list --json (-want +got):\n%s", diff)
	}
	users, err := users.OpenFile(filepath.Join(dir, "users"))
	if err != nil {
		t.Fatal(err)
	}
	for name, password := range map[string]string{"alice": "cows", "bob": "purple monkey dogs", "carol": "purple monkey goats"} {
		if _, err := users.Check(t.Context(), name, password); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReadPassword(t *testing.T) {
	for in, want := range map[string]string{
		"cows": "cows", "cows\n": "cows", "cows\r\n": "cows", " cows \n": " cows ", "cows\ndogs\n": "cows", "a\x00b\n": "a\x00b", "cows\r\r\n": "cows\r",
	} {
		if got, err := readPassword(strings.NewReader(in)); got != want || err != nil {
			t.Errorf("%q: %q, %v, want %q", in, got, err, want)
		}
	}
}
