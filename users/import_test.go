package users_test

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/bcrypt"

	"signet/users"
)

// bcryptHash returns a bcrypt hash in the spelling of another program.
func bcryptHash(t *testing.T, prefix, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return prefix + strings.TrimPrefix(string(hash), "$2a$")
}

func importText(t *testing.T, f *users.File, text string) []users.Imported {
	t.Helper()
	all, err := f.Import(t.Context(), "users.txt", strings.NewReader(text), users.ImportOptions{Plaintext: true})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// The first user and the last one sign in, with and without a final line end.
func TestImportClearText(t *testing.T) {
	for _, text := range []string{
		"alice:cows-and-cows\nbob:dogs", "alice:cows-and-cows\nbob:dogs\n", "alice:cows-and-cows\r\nbob:dogs\r\n", "alice:cows-and-cows\r\nbob:dogs", "alice:cows-and-cows\rbob:dogs\r", "alice:cows-and-cows\r\rbob:dogs", "alice:cows-and-cows\n\rbob:dogs\r\n", "\ufeffalice:cows-and-cows\n\n# staff\n \nBob :dogs\n",
	} {
		f, path := newFile(t)
		all := importText(t, f, text)
		if len(all) != 2 || all[0].Subject != "alice" || all[1].Name != "bob" || !all[0].Clear || all[0].Hash != "argon2id" || all[1].Skipped {
			t.Errorf("%q: %+v", text, all)
		}
		for _, f := range []*users.File{f, open(t, path)} {
			check(t, f, "alice", "cows-and-cows", nil)
			check(t, f, "bob", "dogs", nil)
			check(t, f, "bob", "dogs\n", users.ErrInvalid)
		}
		if got := contents(t, path); strings.Contains(got, "cows-and") || strings.Count(got, `"$argon2id$`) != 2 {
			t.Errorf("%q: the file is\n%s", text, got)
		}
	}
}

// A password is everything after the first colon.
func TestImportTakesPasswordsAsTheyAre(t *testing.T) {
	for _, password := range []string{"a:b", " cows ", "cows\t", ":", "#", "🐄", "$", "$5", "{", "{}", "pa$$word", "P@$$w0rd!", "it's", "\"", "a=b", "shadow-cat", "crypto-market", "50%", "1234567890123456", "correct horse battery staple", "purplemonkeydishwasher",
		"Tr0ub4dor&3", "6f1c2b1e-9d0f-4c55-8a37-0f5a5a1ad3b0", "Wb7kQ2xLp9Rt4Zs8", "kX9-fT2_mQ7.vB4~", strings.Repeat("y", 73), strings.Repeat("x", 1024), "correcthorse1", "CorrectHorseZ"} {
		f, _ := newFile(t)
		importText(t, f, "alice:"+password+"\n")
		check(t, f, "alice", password, nil)
	}
}

func TestImportFaults(t *testing.T) {
	const secret = "kanarienvogel"
	for _, c := range []struct{ what, line, want string }{
		{"no colon", secret, "no colon"},
		{"no name", ":" + secret, "name is empty"},
		{"bad name", "a\x00b:" + secret, "control"},
		{"long name", strings.Repeat("a", 129) + ":" + secret, "longer"},
		{"no password", "carol:", "password is empty"},
		{"long password", "carol:" + strings.Repeat(secret, 100), "1024 bytes"},
		{"Latin-1", "carol:" + secret + "\xe9", "UTF-8"},
		{"same user", "ALICE:" + secret, "same user as in line 1"},
		{"user of the file", "Zoe:" + secret, "there is a user zoe already"},
		{"Signet's own", goodLine("carol"), "no import"},
		{"apr1", "carol:$apr1$" + secret + "$RdescudvJCsgt3ub", "apr1"},
		{"SHA", "carol:{SHA}" + secret + "=", "SHA"},
		{"SSHA", "carol:{SSHA}" + secret, "{SHA}"},
		{"crypt MD5", "carol:$1$" + secret + "$x", "hash of crypt"},
		{"crypt SHA-256", "carol:$5$" + secret + "$x", "hash of crypt"},
		{"crypt SHA-512", "carol:$6$rounds=5000$" + secret, "hash of crypt"},
		{"yescrypt", "carol:$y$j9T$" + secret, "hash of crypt"},
		{"the oldest crypt", "carol:rEK1ecacw.7.c", "hash of crypt"},
		{"htdigest", "carol:" + secret + ":0123456789abcdef0123456789abcdef", "htdigest"},
		{"2x", "carol:" + bcryptHash(t, "$2x$", secret), "2x"},
		{"cut bcrypt", "carol:" + bcryptHash(t, "$2y$", secret)[:59], "damaged"},
		{"long bcrypt", "carol:" + bcryptHash(t, "$2y$", secret) + "x", "damaged"},
		{"costly bcrypt", "carol:$2y$15$" + bcryptHash(t, "", secret)[3:], "cost"},
		{"cheap bcrypt", "carol:$2y$03$" + bcryptHash(t, "", secret)[3:], "cost"},
	} {
		f, path := newFile(t)
		add(t, f, "zoe", "cows")
		before := contents(t, path)
		hashes := f.Stats().Hashes
		_, err := f.Import(t.Context(), "users.txt", strings.NewReader("alice:cows\n# a comment\n\n"+c.line+"\nbob:dogs\n"), users.ImportOptions{Plaintext: true})
		if err == nil || !strings.HasPrefix(err.Error(), "users.txt:4: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want line 4 and %q", c.what, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "RdescudvJC")) {
			t.Errorf("%s: a secret shows in %v", c.what, err)
		}
		if contents(t, path) != before || f.Stats().Hashes != hashes {
			t.Errorf("%s: the file was changed", c.what)
		}
	}
}

// All faults are named at once, up to a screenful.
func TestImportNamesAllFaults(t *testing.T) {
	f, path := newFile(t)
	_, err := f.Import(t.Context(), "-", strings.NewReader("alice\nbob:dogs\ncarol\n"+strings.Repeat("x\n", 20)), users.ImportOptions{Plaintext: true})
	if err == nil || !strings.Contains(err.Error(), "-:1: ") || !strings.Contains(err.Error(), "-:3: ") || strings.Contains(err.Error(), "-:2: ") || !strings.Contains(err.Error(), "and 12 more") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("there is a users file")
	}
}

func TestImportSkipsExisting(t *testing.T) {
	f, path := newFile(t)
	version := add(t, f, "alice", "cows").Version
	o := users.ImportOptions{Plaintext: true, SkipExisting: true, Scopes: []string{"read"}}
	const text = "Alice:dogs\nbob:goats\n"
	for round, wantSkipped := range [][]bool{{true, false}, {true, true}} {
		before := contents(t, path)
		all, err := f.Import(t.Context(), "users.txt", strings.NewReader(text), o)
		if err != nil {
			t.Fatal(err)
		}
		if got := []bool{all[0].Skipped, all[1].Skipped}; !cmp.Equal(got, wantSkipped) {
			t.Errorf("round %d: skipped %v, want %v", round, got, wantSkipped)
		}
		if same := contents(t, path) == before; same != (round == 1) {
			t.Errorf("round %d: the file is the same: %v", round, same)
		}
	}
	u, err := f.Check(t.Context(), "alice", "cows")
	if err != nil || u.Version != version || u.Scopes != nil {
		t.Errorf("alice: %+v, %v", u, err)
	}
	u, err = f.Check(t.Context(), "bob", "goats")
	if err != nil || !cmp.Equal(u.Scopes, o.Scopes) || len(u.Version) < 16 {
		t.Errorf("bob: %+v, %v", u, err)
	}
}

func TestImportWarnsOfWeakPasswords(t *testing.T) {
	f, _ := newFile(t)
	o := users.ImportOptions{Plaintext: true, Words: []string{"Gizmo Tools"}}
	all, err := f.Import(t.Context(), "users.txt", strings.NewReader("alice:cows\nbob:purple monkey dishwasher\ncarol:gizmotools1\ndave:"+bcryptHash(t, "$2y$", "cows")), o)
	if err != nil {
		t.Fatal(err)
	}
	for i, weak := range []bool{true, false, true, false} {
		if (all[i].Weak != nil) != weak {
			t.Errorf("%s: %v, want a warning %v", all[i].Name, all[i].Weak, weak)
		}
		if all[i].Weak != nil && strings.Contains(all[i].Weak.Error(), "cows") {
			t.Errorf("%s: the password is in %v", all[i].Name, all[i].Weak)
		}
	}
	check(t, f, "alice", "cows", nil)
}

// Hashes of htpasswd -B and of other bcrypt programs let their users in, once each.
func TestImportBcrypt(t *testing.T) {
	for _, prefix := range []string{"$2a$", "$2b$", "$2y$"} {
		f, path := newFile(t)
		hash := bcryptHash(t, prefix, "cows and dogs")
		all := importText(t, f, "alice:"+hash+"\r\n")
		if all[0].Clear || all[0].Hash != "bcrypt" || !strings.Contains(contents(t, path), `"`+hash+`"`) {
			t.Fatalf("%s: %+v, the file is\n%s", prefix, all, contents(t, path))
		}
		version := all[0].Version
		check(t, f, "alice", "cows and goats", users.ErrInvalid)
		check(t, f, "alice", "cows and dogs\n", users.ErrInvalid)
		if !strings.Contains(contents(t, path), hash) {
			t.Errorf("%s: a failed login changed the hash", prefix)
		}
		u, err := open(t, path).Check(t.Context(), "alice", "cows and dogs")
		if err != nil || u.Version != version {
			t.Errorf("%s: version %q, %v, want %q", prefix, u.Version, err, version)
		}
		if got := contents(t, path); strings.Contains(got, `"$2`) || !strings.Contains(got, `"$argon2id$`) {
			t.Errorf("%s: after the login the file is\n%s", prefix, got)
		}
		f = open(t, path)
		check(t, f, "alice", "cows and dogs", nil)
		check(t, f, "alice", "cows and goats", users.ErrInvalid)
	}
}

// Bcrypt ignores byte 73, and what follows a NUL: passwords that differ only there are not
// the same.
func TestBcryptTruncatesNoPassword_C11(t *testing.T) {
	long := strings.Repeat("x", 72)
	f, _ := newFile(t)
	importText(t, f, "long:"+bcryptHash(t, "$2y$", long)+"\nshort:"+bcryptHash(t, "$2y$", "cow")+"\nnul:"+bcryptHash(t, "$2y$", "a\x00b"))
	before := f.Stats().Hashes
	for _, wrong := range []struct{ name, password string }{{"long", long + "y"}, {"long", long + "\x00"}, {"short", "cow\x00cow"}, {"nul", "a\x00b"}, {"short", ""}} {
		check(t, f, wrong.name, wrong.password, users.ErrInvalid)
	}
	if got := f.Stats().Hashes - before; got != 5 {
		t.Errorf("5 checks made %d hashes", got)
	}
	check(t, f, "long", long, nil)
	check(t, f, "short", "cow", nil)
}

// The users file itself bounds what a bcrypt hash costs.
func TestBcryptCostIsBounded(t *testing.T) {
	rest := bcryptHash(t, "", "cows")[3:]
	for cost, ok := range map[string]bool{"04": true, "14": true, "15": false, "31": false, "03": false, "99": false} {
		text := fmt.Sprintf(`{"name":"alice","hash":"$2b$%s$%s"}`, cost, rest)
		if _, _, err := users.RoundTrip([]byte(text)); (err == nil) != ok {
			t.Errorf("cost %s: %v, want it taken: %v", cost, err, ok)
		}
	}
}

// Of two imports at the same time, one adds all users and the other adds none.
func TestImportsAtOnce(t *testing.T) {
	_, path := newFile(t)
	var text strings.Builder
	for i := range 20 {
		fmt.Fprintf(&text, "user%d:password%d\n", i, i)
	}
	var good, bad int
	var mu sync.Mutex
	var calls sync.WaitGroup
	for range 4 {
		f := open(t, path)
		calls.Go(func() {
			_, err := f.Import(t.Context(), "users.txt", strings.NewReader(text.String()), users.ImportOptions{Plaintext: true})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				good++
			} else if bad++; !strings.Contains(err.Error(), "users.txt:1: there is a user user0 already") {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if good != 1 || bad != 3 || len(open(t, path).List()) != 20 {
		t.Errorf("%d imports went well and %d did not, %d users", good, bad, len(open(t, path).List()))
	}
}

func TestImportOfTooMuch(t *testing.T) {
	f, _ := newFile(t)
	if _, err := f.Import(t.Context(), "users.txt", endless{}, users.ImportOptions{Plaintext: true}); err == nil || !strings.Contains(err.Error(), "64 MiB") {
		t.Errorf("%v", err)
	}
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if _, err := f.Import(t.Context(), "dir", dir, users.ImportOptions{Plaintext: true}); err == nil || !strings.Contains(err.Error(), "reading dir") {
		t.Errorf("%v", err)
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

func FuzzImport(f *testing.F) {
	f.Add("alice:cows\nbob:dogs")
	f.Add("\ufeffalice:cows\r\n\r\n# x\r\nbob:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\r\n")
	f.Add("alice:$apr1$x$y\nbob:{SHA}x\ncarol:rEK1ecacw.7.c")
	f.Add("a:b:c\nA:b\n:x\nx:\n{\"name\":\"a\"}\n\xff:\xfe")
	f.Add("a:b\rc:d\n\u2028e:f")
	f.Fuzz(func(t *testing.T, text string) {
		all, passwords, err := users.ParseImport([]byte(text))
		if err != nil {
			return
		}
		var lines []string
		if strings.Contains(text, "users:") {
			return // perhaps YAML
		}
		for _, line := range strings.FieldsFunc(strings.TrimPrefix(text, "\ufeff"), func(r rune) bool { return r == '\r' || r == '\n' }) {
			if strings.TrimSpace(line) != "" && line[0] != '#' {
				lines = append(lines, line)
			}
		}
		if len(lines) != len(all) {
			t.Fatalf("%d users of %d lines", len(all), len(lines))
		}
		seen := map[string]bool{}
		for i, u := range all {
			name, secret, _ := strings.Cut(lines[i], ":")
			if n, err := users.Normalize(name); err != nil || n != u.Name || n != u.Subject || seen[n] {
				t.Errorf("line %q is user %q, seen before %v", lines[i], u.Name, seen[n])
			}
			seen[u.Name] = true
			switch password := passwords[i]; {
			case u.Hash == "bcrypt":
				if cost, err := bcrypt.Cost([]byte(strings.Trim(secret, "\"'`"))); err != nil || cost > 14 || password != "" {
					t.Errorf("%q was taken for a bcrypt hash of cost %d, %v", secret, cost, err)
				}
			case !u.Clear:
				if _, err := users.ParseHash(strings.Trim(secret, "\"'`")); err != nil || password != "" {
					t.Errorf("%q was taken for an argon2id hash, %v", secret, err)
				}
			case password != secret || password == "" || len(password) > users.MaxPassword || !utf8.ValidString(password):
				t.Errorf("line %q has the password %q", lines[i], password)
			case strings.HasPrefix(password, "$2y$") || strings.HasPrefix(password, "$apr1$") || strings.HasPrefix(password, "{SHA}"):
				t.Errorf("%q was taken for a password", password)
			}
		}
	})
}
