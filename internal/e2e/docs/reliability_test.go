package docs

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"signet/internal/e2e"
)

var (
	testName    = regexp.MustCompile("`(Test[A-Za-z0-9_]+)`")
	testRow     = regexp.MustCompile(`^\| ([KLM][0-9]{2}) \|`)
	declaration = regexp.MustCompile(`func (Test[A-Za-z0-9_]+)\(t \*testing\.T\)`)
)

// The tests that docs/reliability.md names exist, each row has one that carries its
// id, and what to run by a pattern finds something.
func TestTestsOfTheReliabilityDocumentExist(t *testing.T) {
	var tests []string
	err := filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && path != "." && strings.HasPrefix(e.Name(), ".") {
			return filepath.SkipDir
		}
		if err == nil && strings.HasSuffix(path, "_test.go") {
			for _, m := range declaration.FindAllStringSubmatch(e2e.ReadText(t, path), -1) {
				tests = append(tests, m[1])
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(e2e.ReadText(t, "docs/reliability.md")) {
		named := testName.FindAllStringSubmatch(line, -1)
		for _, m := range named {
			if !slices.Contains(tests, m[1]) {
				t.Errorf("there is no %s", m[1])
			}
		}
		row := testRow.FindStringSubmatch(line)
		if row == nil {
			continue
		}
		rows++
		if row[1] != "L14" && !slices.ContainsFunc(named, func(m []string) bool { return strings.Contains(m[1]+"_", row[1]+"_") }) {
			t.Errorf("%s names no test of its own", row[1])
		}
	}
	if rows < 20 {
		t.Errorf("only %d rows: the table is not read", rows)
	}
	for _, m := range regexp.MustCompile("`go test (?:-v )?-run ([A-Za-z0-9]+)").FindAllStringSubmatch(e2e.ReadText(t, "docs/reliability.md"), -1) {
		if !slices.ContainsFunc(tests, func(name string) bool { return strings.Contains(name, m[1]) }) {
			t.Errorf("no test has %s in its name", m[1])
		}
	}
}
