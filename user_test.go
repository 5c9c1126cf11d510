package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// signet carries out one command line in this process, with a data directory and
// what stdin holds, and returns the status and what it wrote.
func signet(t *testing.T, dir, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	p := process{environ: []string{"SIGNET_DATA_DIR=" + dir}, stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs}
	status = run(t.Context(), p, args)
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
		{"add", "cows\n", []string{"add", "Alice", "--email", "a@example.com", "--name", "Alice A", "--scope", "read", "--scope", "write,admin", "--password-stdin"}, 0, "user alice is added", ""},
		{"add, as JSON", "dogs", []string{"add", "bob", "--password-stdin", "--json"}, 0, `"name": "bob"`, ""},
		{"add again", "cows\n", []string{"add", " ALICE ", "--password-stdin"}, 1, "", "already"},
		{"add without a password", "", []string{"add", "carol", "--password-stdin"}, 2, "", "no password"},
		{"add without a terminal", "cows\n", []string{"add", "carol"}, 2, "", "--password-stdin"},
		{"add with a long password", strings.Repeat("x", 2000), []string{"add", "carol", "--password-stdin"}, 1, "", "1024 bytes"},
		{"add a name that is none", "cows\n", []string{"add", "a\nb", "--password-stdin"}, 2, "", "control"},
		{"add with an unknown scope", "cows\n", []string{"add", "carol", "--scope", "root", "--password-stdin"}, 2, "", "SIGNET_SCOPES"},
		{"add nobody", "cows\n", []string{"add", "--password-stdin"}, 2, "", "arg"},
		{"list", "", []string{"list"}, 0, "alice  enabled  read write admin  a@example.com  Alice A", ""},
		{"passwd", "goats\n", []string{"passwd", "Alice", "--password-stdin"}, 0, "another password", ""},
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
		for _, secret := range []string{"cows", "goats", "argon2id", strings.Repeat("x", 20)} {
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

func TestReadPassword(t *testing.T) {
	for in, want := range map[string]string{
		"cows": "cows", "cows\n": "cows", "cows\r\n": "cows", " cows \n": " cows ", "cows\ndogs\n": "cows", "a\x00b\n": "a\x00b", "cows\r\r\n": "cows\r",
	} {
		if got, err := readPassword(strings.NewReader(in)); got != want || err != nil {
			t.Errorf("%q: %q, %v, want %q", in, got, err, want)
		}
	}
}
