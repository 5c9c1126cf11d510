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

// allTests are the names of all tests of the module.
func allTests(t *testing.T) (tests []string) {
	t.Helper()
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
	return tests
}

// codesOf are the codes at the end of a test's name.
func codesOf(test string) []string {
	_, codes, _ := strings.Cut(test, "_")
	return strings.FieldsFunc(codes, func(r rune) bool { return r == '_' })
}

var (
	code      = regexp.MustCompile(`^([A-Z]|INV|Row|Probe)[0-9]{1,2}$`)
	explained = regexp.MustCompile("(?m)^\\| `([A-Z]|Row|Probe)` \\|")
	invariant = regexp.MustCompile(`(?m)^\| (INV[0-9]+) \|`)
)

// A test's name says in words what must hold, and ends with codes that docs/code.md
// explains.
func TestCodesInTestNamesAreExplained(t *testing.T) {
	_, section, ok := strings.Cut(e2e.ReadText(t, "docs/code.md"), "## Codes in test names")
	if !ok {
		t.Fatal("docs/code.md has no section on codes")
	}
	known := map[string]bool{}
	for _, m := range slices.Concat(explained.FindAllStringSubmatch(section, -1), invariant.FindAllStringSubmatch(section, -1)) {
		known[m[1]] = true
	}
	used := 0
	for _, test := range allTests(t) {
		for _, c := range codesOf(test) {
			m := code.FindStringSubmatch(c)
			if m == nil {
				t.Errorf("%s ends with %s, which is no code", test, c)
				continue
			}
			used++
			if !known[m[1]] && !known[c] {
				t.Errorf("docs/code.md does not explain the code %s of %s", c, test)
			}
		}
	}
	if used < 200 {
		t.Errorf("only %d codes: the names are not parsed", used)
	}
}

// The tests that docs/reliability.md names exist, each row has a test with its code,
// and the patterns for -run match tests.
func TestTestsOfTheReliabilityDocumentExist(t *testing.T) {
	tests := allTests(t)
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
		if !slices.ContainsFunc(named, func(m []string) bool { return slices.Contains(codesOf(m[1]), row[1]) }) {
			t.Errorf("%s names no test of its own", row[1])
		}
	}
	if rows < 20 {
		t.Errorf("only %d rows: the table is not parsed", rows)
	}
	for _, m := range regexp.MustCompile("`go test (?:-v )?-run ([A-Za-z0-9]+)").FindAllStringSubmatch(e2e.ReadText(t, "docs/reliability.md"), -1) {
		if !slices.ContainsFunc(tests, func(name string) bool { return strings.Contains(name, m[1]) }) {
			t.Errorf("no test has %s in its name", m[1])
		}
	}
}
