package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signet/internal/cli"
	"signet/internal/test/process"
)

// dotenv reads text from a file of a mode.
func dotenv(t *testing.T, text string, mode os.FileMode, environ ...string) ([]string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), ".env")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return cli.Environ(environ, path)
}

func TestDotenvIsReadAsAShellReadsIt(t *testing.T) {
	text := "\ufeff# settings\n\n  SIGNET_A=1\r\nexport SIGNET_B=two # not this\nSIGNET_C='read write $x \\ \"#'\nSIGNET_D=\"a \\\"b\\\" \\\\ \\$x\" # nor this\n" +
		"SIGNET_E=\nSIGNET_F=''\nSIGNET_G=#no\nSIGNET_H=a#b=c\nSIGNET_I= # empty\nSIGNET_J=Zoë"
	got, err := dotenv(t, text, 0o644, "HOME=/", "SIGNET_A=0", "SIGNET_E=x")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"HOME=/", "SIGNET_A=0", "SIGNET_E=x", "SIGNET_B=two", `SIGNET_C=read write $x \ "#`, `SIGNET_D=a "b" \ $x`,
		"SIGNET_F=", "SIGNET_G=", "SIGNET_H=a#b=c", "SIGNET_I=", "SIGNET_J=Zoë"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The settings that are printed can be saved as they are.
func TestDotenvExampleCanBeRead(t *testing.T) {
	b, err := os.ReadFile("../../.env.example")
	if err != nil {
		t.Fatal(err)
	}
	got, err := dotenv(t, string(b), 0o644)
	if err != nil || len(got) < 40 {
		t.Errorf("%d variables, %v", len(got), err)
	}
}

func TestDotenvErrorNamesTheLineAndQuotesNothing(t *testing.T) {
	for line, want := range map[string]string{
		"hunter2":                  "not of the form NAME=value",
		"=hunter2":                 "not of the form NAME=value",
		"SIGNET-X=hunter2":         "not of the form NAME=value",
		"SIGNET_X =hunter2":        "not of the form NAME=value",
		"1X=hunter2":               "not of the form NAME=value",
		"SIGNET_X: hunter2":        "not of the form NAME=value",
		"SIGNET_X=hunter2 hunter2": "put it into quotes",
		"SIGNET_X= hunter2":        "put it into quotes",
		`SIGNET_X=hunter2"`:        "put it into quotes",
		`SIGNET_X=hunter2\n`:       "put it into quotes",
		"SIGNET_X=hunter2$Y":       "single quotes",
		"SIGNET_X=`hunter2`":       "single quotes",
		`SIGNET_X="hunter2$Y"`:     "single quotes",
		`SIGNET_X="hunter2`:        "no closing quote",
		"SIGNET_X='hunter2":        "no closing quote",
		`SIGNET_X="hunter2"x`:      "after its closing quote",
		"SIGNET_X='hunter2' x":     "after its closing quote",
		`SIGNET_X="hunter2\n"`:     "backslash",
		"SIGNET_X=hunter2\xff":     "not UTF-8",
		"SIGNET_X=hunter2\x00":     "not UTF-8",
		"SIGNET_A=hunter2":         "SIGNET_A is set in line 1, too",
	} {
		got, err := dotenv(t, "SIGNET_A=1\n# comment\n"+line+"\n", 0o600)
		if err == nil || got != nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), ".env: line 3: ") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %q, %v; want an error of line 3 with %q", line, got, err, want)
		}
	}
}

// Others may read a file without a secret in it, and may write none.
func TestDotenvWithASecretIsPrivate(t *testing.T) {
	for _, tt := range []struct {
		line    string
		mode    os.FileMode
		refused bool
	}{
		{"SIGNET_ISSUER=https://a.example", 0o644, false},
		{"SIGNET_ISSUER=https://a.example", 0o664, true},
		{"SIGNET_ISSUER=https://a.example", 0o646, true},
		{"SIGNET_SECRET=", 0o644, false},
		{"SIGNET_TLS_KEY=key.pem", 0o644, false},
		{"SIGNET_KEYS_DIR=keys", 0o644, false},
		{"SIGNET_SECRET=x", 0o644, true},
		{"SIGNET_SECRET=x", 0o640, true},
		{"SIGNET_SECRET=x", 0o600, false},
		{"SIGNET_REGISTRATION_TOKEN=x", 0o644, true},
		{"SIGNET_UPSTREAM_CLIENT_SECRET=x", 0o644, true},
		{"SIGNET_UPSTREAM_KEY=x", 0o644, true},
		{"SIGNET_UPSTREAM_PASSWORD=x", 0o644, true},
		{"SIGNET_STORE=postgres://user:x@db/signet", 0o644, true},
		{"SIGNET_STORE=signet.db", 0o644, false},
		{"CORP_KEY=x", 0o644, true},
		{"CORP_KEY=x", 0o600, false},
	} {
		_, err := dotenv(t, tt.line+"\n", tt.mode)
		if refused := err != nil; refused != tt.refused {
			t.Errorf("%s, mode %o: %v, want refused %v", tt.line, tt.mode, err, tt.refused)
		}
		if err != nil && !strings.Contains(err.Error(), "chmod") {
			t.Errorf("%s: %v does not say what to do", tt.line, err)
		}
	}
}

func TestDotenvNeedNotBeThere(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{filepath.Join(dir, ".env"), dir} {
		if got, err := cli.Environ([]string{"A=1"}, path); err != nil || cmp.Diff([]string{"A=1"}, got) != "" {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	dangling := filepath.Join(dir, "link")
	if err := os.Symlink("nowhere", dangling); err != nil {
		t.Fatal(err)
	}
	if _, err := cli.Environ(nil, dangling); err != nil {
		t.Errorf("a dangling link: %v", err)
	}
	long := strings.Repeat("# comment\n", 200_000)
	if _, err := dotenv(t, long, 0o600); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a long file: %v", err)
	}
}

// After `sudo -u`, the working directory may be closed to the user.
func TestDotenvInAClosedFolderIsNotThere(t *testing.T) {
	if os.Geteuid() == 0 { // no folder is closed to root
		process.AsUser(t, 65534)
		return
	}
	dir := filepath.Join(t.TempDir(), "closed")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, ".env")
	if err := os.WriteFile(path, []byte("not a variable"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := cli.Environ(nil, path); err == nil {
		t.Error("the test's file can be read")
	}
	if err := os.Chmod(dir, 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o700)
	if got, err := cli.Environ([]string{"A=1"}, path); err != nil || len(got) != 1 {
		t.Errorf("%q, %v", got, err)
	}
}

func FuzzDotenv(f *testing.F) {
	for _, seed := range []string{"A=1\n", "export A='x y'\nB=\"a\\\"b\"", "A=$B", "A==\n#", "\ufeffA=1", "A=1\r\nA=2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), ".env")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := cli.Environ([]string{"GIVEN=1"}, path)
		if err != nil {
			return
		}
		names := map[string]bool{}
		for _, kv := range got {
			name, value, ok := strings.Cut(kv, "=")
			if !ok || name == "" || names[name] || strings.ContainsAny(value, "\x00\n") || strings.ContainsAny(name, " \t'\"$#") {
				t.Errorf("%q gives %q", text, kv)
			}
			names[name] = true
		}
		if got[0] != "GIVEN=1" {
			t.Errorf("the environment is changed: %q", got)
		}
	})
}
