package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	tableBegin = "<!-- begin of the settings, written by go test -run TestConfigurationDocument ./internal/cli -update -->\n"
	tableEnd   = "<!-- end of the settings -->"
)

// setting is a variable as .env.example has it: comment lines, then NAME=default.
type setting struct{ name, value, meaning string }

// readSettings reads .env.example.
func readSettings(t *testing.T) (list []setting) {
	t.Helper()
	b, err := os.ReadFile("../../.env.example")
	if err != nil {
		t.Fatal(err)
	}
	for paragraph := range strings.SplitSeq(strings.TrimSpace(string(b)), "\n\n") {
		var s setting
		for line := range strings.Lines(paragraph) {
			line = strings.TrimSuffix(line, "\n")
			if text, ok := strings.CutPrefix(line, "# "); ok && s.name == "" {
				s.meaning = strings.TrimSpace(s.meaning + " " + text)
			} else if name, value, ok := strings.Cut(line, "="); ok && s.name == "" {
				s.name, s.value = name, value
			} else {
				t.Errorf(".env.example: %q is not a comment before the one NAME=default of its paragraph", line)
			}
		}
		if s.name != "" {
			list = append(list, s)
		}
	}
	return list
}

// .env.example has every variable once, in the order of the struct, with its default
// and a meaning, and no variable more.
func TestEnvExampleAgreesWithTheCode(t *testing.T) {
	var want, got []setting
	for _, f := range variables() {
		if name := f.Tag.Get("env"); name != "" {
			value := f.Tag.Get("envDefault")
			if strings.ContainsAny(value, " >") {
				value = "'" + value + "'" // for shells, which would split or redirect
			}
			want = append(want, setting{name: envPrefix + name, value: value})
		}
	}
	for _, s := range readSettings(t) {
		if s.meaning == "" {
			t.Errorf(".env.example does not say what %s means", s.name)
		}
		got = append(got, setting{name: s.name, value: s.value})
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(setting{})); diff != "" {
		t.Errorf(".env.example differs from the settings in the code (-code +file):\n%s", diff)
	}
}

// settingsTable returns the settings as a table for the document.
func settingsTable(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("| variable | default | meaning |\n|---|---|---|\n")
	cell := strings.NewReplacer("|", `\|`, "<", "&lt;", ">", "&gt;")
	for _, s := range readSettings(t) {
		value := strings.Trim(s.value, "'")
		if value != "" {
			value = "`" + value + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.name, value, cell.Replace(s.meaning))
	}
	return b.String()
}

// The table in the document is made from .env.example.
func TestConfigurationDocument(t *testing.T) {
	const file = "../../docs/configuration.md"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	before, rest, ok := strings.Cut(text, tableBegin)
	got, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no marks around the settings", file)
	}
	want := settingsTable(t)
	if *update {
		if err := os.WriteFile(file, []byte(before+tableBegin+want+tableEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("run go test -run %s ./internal/cli -update (-want +got):\n%s", t.Name(), diff)
	}
}

var variable = regexp.MustCompile(`SIGNET_[A-Z_]*[A-Z]`)

// The documents name only settings that exist.
func TestSettingsInTheDocumentsExist(t *testing.T) {
	known := map[string]bool{"SIGNET_TEST_ALL": true}
	for _, f := range variables() {
		known[envPrefix+f.Tag.Get("env")] = true
	}
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	for _, file := range append(files, "../../README.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range variable.FindAllString(string(text), -1) {
			if !known[name] {
				t.Errorf("%s: there is no setting %s", file, name)
			}
		}
	}
}
