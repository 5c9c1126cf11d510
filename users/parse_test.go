package users_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"signet/users"
)

// goodHash is well formed and cheap. Its password is unknown.
const goodHash = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b+dWRWJTmaaJObG"

func goodLine(name string) string {
	return fmt.Sprintf(`{"name":%q,"hash":%q}`, name, goodHash)
}

func TestBrokenLines(t *testing.T) {
	good := goodLine("alice")
	if all, _, err := users.RoundTrip([]byte(good)); err != nil || len(all) != 1 {
		t.Fatalf("the good line: %v, %v", all, err)
	}
	for _, c := range []struct{ what, line, want string }{
		{"clear text", "alice:cows", "signet user import"},
		{"array", "[" + good + "]", "signet user import"},
		{"two objects", good + good, "something follows"},
		{"cut", good[:len(good)-1], "not one JSON value"},
		{"unknown field", strings.Replace(good, "{", `{"admin":true,`, 1), "unknown member"},
		{"other spelling", strings.Replace(good, "{", `{"Disabled":true,`, 1), "unknown member"},
		{"twice", strings.Replace(good, "{", `{"name":"bob",`, 1), "twice"},
		{"wrong type", strings.Replace(good, "{", `{"disabled":"yes",`, 1), "disabled: wrong type"},
		{"no name", goodLine(""), "name is empty"},
		{"bad name", strings.Replace(good, "alice", `a\u0000`, 1), "control"},
		{"reserved name", goodLine("upstream:corp:1"), "reserved"},
		{"reserved name in capitals", goodLine("Upstream:"), "reserved"},
		{"not UTF-8", "{\"name\":\"a\xff\"}", "UTF-8"},
		{"same user", goodLine("Carol"), "same user as in line 1"},
		{"bad scope", strings.Replace(good, "{", `{"scopes":["read write"],`, 1), "scope"},
		{"bad email", strings.Replace(good, "{", `{"email":"a\nb",`, 1), "email"},
		{"long", strings.Replace(good, "{", strings.Repeat(" ", 20<<10)+"{", 1) + strings.Repeat(" ", 20<<10) + "x", ""},
		{"no hash", `{"name":"alice"}`, "PHC"},
		{"clear hash", `{"name":"alice","hash":"cows"}`, "PHC"},
		{"argon2i", strings.Replace(good, "argon2id", "argon2i", 1), "PHC"},
		{"version", strings.Replace(good, "v=19", "v=16", 1), "PHC"},
		{"trailing text", strings.Replace(good, "p=1", "p=1,x=2", 1), "PHC"},
		{"leading zero", strings.Replace(good, "t=1", "t=01", 1), "PHC"},
		{"much memory", strings.Replace(good, "m=64", "m=1048577", 1), "m is 1048577"},
		{"overflowing memory", strings.Replace(good, "m=64", "m=4294967360", 1), "PHC"},
		{"no memory", strings.Replace(good, "m=64", "m=0", 1), "m is 0"},
		{"many rounds", strings.Replace(good, "t=1", "t=17", 1), "t is 17"},
		{"no rounds", strings.Replace(good, "t=1", "t=0", 1), "t is 0"},
		{"many lanes", strings.Replace(good, "p=1", "p=17", 1), "p is 17"},
		{"no lanes", strings.Replace(good, "p=1", "p=0", 1), "p is 0"},
		{"short salt", strings.Replace(good, "c29tZXNhbHRzb21lc2FsdA", "c29t", 1), "salt"},
		{"short key", strings.Replace(good, "RdescudvJCsgt3ub+b+dWRWJTmaaJObG", "Rdes", 1), "key"},
	} {
		text := goodLine("carol") + "\n# a comment\n\n" + c.line + "\n" + goodLine("dave") + "\n"
		_, _, err := users.RoundTrip([]byte(text))
		if err == nil || !strings.HasPrefix(err.Error(), "4: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want line 4 and %q", c.what, err, c.want)
		}
	}
}

// For passwords in clear the error names the file, the line and the command to run, also if
// the mode is wrong too.
func TestClearTextFile(t *testing.T) {
	for _, mode := range []os.FileMode{0o600, 0o644} {
		path := filepath.Join(t.TempDir(), "users.txt")
		if err := os.WriteFile(path, []byte("alice:cows\nbob:dogs"), mode); err != nil {
			t.Fatal(err)
		}
		_, err := users.OpenFile(path)
		if err == nil || !strings.Contains(err.Error(), path+":1: ") || !strings.Contains(err.Error(), "signet user import") || strings.Contains(err.Error(), "cows") {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
}

func TestLineEndings(t *testing.T) {
	for _, end := range []string{"\n", "\r\n"} {
		for _, last := range []string{end, ""} {
			text := goodLine("alice") + end + goodLine("bob") + last
			all, _, err := users.RoundTrip([]byte(text))
			if err != nil || len(all) != 2 {
				t.Errorf("%q: %d users, %v", end+last, len(all), err)
			}
		}
	}
}

// A line written by hand has no version; then the version changes with the hash.
// A version has the time of the change in it. Others, of an earlier release or by hand, tell none.
func TestVersionTellsWhenTheUserChanged(t *testing.T) {
	f := filepath.Join(t.TempDir(), "users")
	file, err := users.OpenFile(f)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now().Unix()
	if _, err := file.Add(t.Context(), users.User{Name: "ann"}, "correct horse battery"); err != nil {
		t.Fatal(err)
	}
	u, err := file.Lookup(t.Context(), "ann")
	if err != nil || u.Updated < begin || u.Updated > time.Now().Unix() {
		t.Errorf("%+v, %v", u, err)
	}
	text, err := os.ReadFile(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"ABCDEFGH", "x.y", ".", "v.5", "a.-5", "a.1.2", ""} {
		if err := os.WriteFile(f, bytes.ReplaceAll(text, []byte(u.Version), []byte(version)), 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := users.OpenFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if u, err := again.Lookup(t.Context(), "ann"); err != nil || u.Updated != 0 {
			t.Errorf("%q: %d, %v", version, u.Updated, err)
		}
	}
}

func TestVersionOfHandWrittenLine(t *testing.T) {
	version := func(line string) string {
		t.Helper()
		all, _, err := users.RoundTrip([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		return all[0].Version
	}
	line := goodLine("alice")
	a, b := version(line), version(strings.Replace(line, "c29t", "d29t", 1))
	if a == "" || a == b || a != version(line) {
		t.Errorf("versions %q and %q of two passwords", a, b)
	}
}

func FuzzUsersFile(f *testing.F) {
	f.Add("alice:cows\nbob:dogs")
	f.Add(goodLine("alice") + "\n# x\n\n" + goodLine("bob") + "\r\n")
	f.Add(goodLine("alice") + "\n" + goodLine(" ALICE"))
	f.Add(`{"name":"a","hash":"` + goodHash + `","scopes":["a b"],"disabled":null,"version":"v"}`)
	f.Add(`{"name":"a","name":"b","hash":"` + goodHash + `"}`)
	f.Fuzz(func(t *testing.T, text string) {
		got, again, err := users.RoundTrip([]byte(text))
		if err != nil {
			return
		}
		if diff := cmp.Diff(got, again); diff != "" {
			t.Errorf("written and read again (-read +again):\n%s", diff)
		}
		seen := map[string]bool{}
		for _, a := range got {
			if n, err := users.Normalize(a.Name); err != nil || n != a.Name || seen[n] {
				t.Errorf("user %q: normal form %q, %v, seen before %v", a.Name, n, err, seen[n])
			}
			seen[a.Name] = true
			if a.Version == "" || a.Subject != a.Name {
				t.Errorf("user %+v", a)
			}
		}
	})
}

func FuzzHash(f *testing.F) {
	f.Add(goodHash)
	f.Add(strings.Replace(goodHash, "p=1", "p=1,data=x", 1))
	f.Add(strings.Replace(goodHash, "m=64", "m=4294967295", 1))
	f.Add("$argon2id$v=19$m=64,t=0,p=0$$")
	f.Add("$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := users.ParseHash(s)
		if err != nil {
			return
		}
		if p.Memory > 1<<20 || p.Iterations-1 >= 16 || p.Parallelism-1 >= 16 || p.SaltLength < 8 || p.KeyLength < 16 {
			t.Errorf("%q has parameters %+v", s, p)
		}
		if !strings.HasPrefix(s, fmt.Sprintf("$argon2id$v=19$m=%d,t=%d,p=%d$", p.Memory, p.Iterations, p.Parallelism)) {
			t.Errorf("%q was read as %+v", s, p)
		}
	})
}

func FuzzNormalize(f *testing.F) {
	for _, s := range []string{"alice", " Alice ", "JOSE\u0301", "İ", "ẞ", "\u212a", "ǅ", "a\u200db", "\u1e9b\u0323", "Σ", "\u0345"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		once, err := users.Normalize(s)
		if err != nil {
			return
		}
		if twice, err := users.Normalize(once); err != nil || twice != once {
			t.Errorf("%q: %q, then %q, %v", s, once, twice, err)
		}
		if once == "" || len(once) > 128 || strings.ContainsFunc(once, unicode.IsControl) {
			t.Errorf("%q: %q is no name", s, once)
		}
	})
}

func TestNormalizeIsIdempotent(t *testing.T) {
	step := rune(1)
	if testing.Short() {
		step = 101
	}
	for r := rune(0); r <= unicode.MaxRune; r += step {
		for _, s := range []string{string(r), "a" + string(r) + "\u0301"} {
			once, err := users.Normalize(s)
			if err != nil {
				continue
			}
			if twice, err := users.Normalize(once); err != nil || twice != once {
				t.Errorf("%q: %q, then %q, %v", s, once, twice, err)
			}
		}
	}
}
