package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

// The guide to the code names no function, type or field that is gone.
func TestNamesInTheGuideToTheCodeExist(t *testing.T) {
	text, err := os.ReadFile("docs/code.md")
	if err != nil {
		t.Fatal(err)
	}
	guide, _, _ := strings.Cut(string(text), "## Codes in test names") // which are no names of the code
	code := map[string]bool{}
	for _, pattern := range []string{"*/*.go", "*/*/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "docs/code_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for word := range strings.FieldsFuncSeq(string(text), func(c rune) bool { return c != '_' && !unicode.IsLetter(c) && !unicode.IsDigit(c) }) {
				code[word] = true
			}
		}
	}
	names := regexp.MustCompile("`(?:[a-z]+\\.)*([A-Za-z]+)`").FindAllStringSubmatch(guide, -1)
	if len(names) < 30 {
		t.Errorf("the guide has %d names", len(names))
	}
	for _, m := range names {
		if !code[m[1]] {
			t.Errorf("the guide names %s, which the code does not have", m[0])
		}
	}
}
