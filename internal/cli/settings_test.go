package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	tableBegin = "<!-- begin of the settings, written by go test -run TestConfigurationDocument ./internal/cli -update -->\n"
	tableEnd   = "<!-- end of the settings -->"
)

// settingsTable renders the settings for the document.
func settingsTable() string {
	var b strings.Builder
	b.WriteString("| variable | default | meaning |\n|---|---|---|\n")
	cell := strings.NewReplacer("|", `\|`, "<", "&lt;", ">", "&gt;")
	for f := range reflect.TypeFor[config]().Fields() {
		name := f.Tag.Get("env")
		if name == "" {
			continue
		}
		value := f.Tag.Get("envDefault")
		if value != "" {
			value = "`" + value + "`"
		}
		fmt.Fprintf(&b, "| `%s%s` | %s | %s |\n", envPrefix, name, value, cell.Replace(f.Tag.Get("doc")))
	}
	return b.String()
}

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
		t.Fatalf("%s has no place for the settings", file)
	}
	want := settingsTable()
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

// The documents name no setting that does not exist.
func TestSettingsInTheDocumentsExist(t *testing.T) {
	known := map[string]bool{"SIGNET_TEST_ALL": true}
	for f := range reflect.TypeFor[config]().Fields() {
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
