package configfile_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"signet/internal/configfile"
)

// A JSON document is read as JSON is meant, also where it is no YAML, and keeps its lines.
func TestJSONIsReadAsItIs(t *testing.T) {
	for text, want := range map[string]string{
		"{\n\t\"a\":\t\"x\"\n}":              "x",
		"{\r\n\t\"a\": \"\\ud83d\\ude00\"}":  "😀",
		"{\n\"a\": \"\\ud83d\"}":             "\uFFFD",
		"{\n\"a\": \"\\\\ud83d\\/\\u0041\"}": `\ud83d/A`,
		"a: \"\\U0001F600\"":                 "😀",
	} {
		r := &configfile.Reader{}
		root := r.Document([]byte(text))
		if root == nil || len(root.Content) != 2 {
			t.Errorf("%q: %v", text, r.Err())
			continue
		}
		if got := root.Content[1]; got.Value != want || strings.HasPrefix(text, "{") && got.Line != 2 {
			t.Errorf("%q: %q in line %d, want %q", text, got.Value, got.Line, want)
		}
	}
}

// Faults come in the order of their lines, those of variables first.
func TestFaultsHaveTheirPlace(t *testing.T) {
	r := &configfile.Reader{}
	root := r.Document([]byte("a: 1\nb: 2\n"))
	if root == nil {
		t.Fatal(r.Err())
	}
	value := r.Value("[x]", "VARIABLE")
	r.Fault(root.Content[3], "b", "is %s", "wrong")
	r.Fault(root.Content[1], "a", "is wrong")
	r.Fault(value.Content[0], "c[0]", "is wrong")
	r.Fault(root, "", "is wrong")
	if want := "VARIABLE: c[0]: is wrong\nline 1: a: is wrong\nline 1: is wrong\nline 2: b: is wrong"; r.Err().Error() != want || r.Faults() != 4 {
		t.Errorf("%v, want %s", r.Err(), want)
	}
	if n := r.Value("[x", "VARIABLE"); n != nil || r.Faults() != 4 {
		t.Errorf("a value that is no YAML is %v, faults %v", n, r.Err())
	}
}

func TestFlagIsTrueOrFalse(t *testing.T) {
	for text, fine := range map[string]bool{"true": true, "false": true, "yes": false, "1": false, "'true'": false, "[true]": false, "&a true": false, "": false} {
		var to bool
		r := &configfile.Reader{}
		r.Members(r.Document([]byte("a: "+text)), "", map[string]configfile.Take{"a": r.Flag(&to)})
		if (r.Err() == nil) != fine || fine && to != (text == "true") {
			t.Errorf("%q: %t, %v", text, to, r.Err())
		}
	}
}

func TestSecretFile(t *testing.T) {
	dir := t.TempDir()
	for name, test := range map[string]struct{ content, want, fault string }{
		"line":  {"secret\r\n", "secret", ""},
		"lines": {"a\nb\n", "a\nb", ""},
		"empty": {"\n", "", "is empty"},
		"long":  {strings.Repeat("x", 1<<16+1), "", "has more than 65536 bytes"},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := configfile.ReadSecret(path)
		if got != test.want || (err == nil) != (test.fault == "") || err != nil && !strings.Contains(err.Error(), test.fault) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := configfile.ReadSecret(filepath.Join(dir, "none")); !os.IsNotExist(err) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// A name in a path has no character that acts on a terminal, and is not long.
func TestPathsAreFitForAnError(t *testing.T) {
	if got := configfile.Below("a", "b\x1b[2J\u202e"); got != "a.b?[2J?" {
		t.Errorf("the path is %q", got)
	}
	if got := configfile.Below("", strings.Repeat("ä", 100)); got != strings.Repeat("ä", 32)+"..." {
		t.Errorf("the path is %q", got)
	}
	r := &configfile.Reader{}
	r.Each(&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "quiet"}, "a", nil)
	if err := r.Err(); err == nil || err.Error() != "line 1: a: must be members with values" {
		t.Errorf("a text in place of members: %v", err)
	}
}

// A text that is no YAML is refused with the line and the reason, which quote nothing.
func TestSyntaxIsExplained(t *testing.T) {
	for text, want := range map[string]string{
		"":                          "line 1: not one YAML document: the file is empty",
		"# nothing\n":               "line 1: not one YAML document: the file is empty",
		"a: 1\n---\nb: 2\n":         "line 1: not one YAML document: there are several",
		"a: 1\nb:\n\tc: COWS\n":     "line 3: not one YAML document: a tab in the indentation, which must be spaces",
		"a: 1\n\tCOWS: 2\n":         "line 2: not one YAML document: a tab in the indentation, which must be spaces",
		"a: 1\nb: @COWS\n":          "line 2: not one YAML document: a value begins with a character that needs quotes",
		"a: 1\nCOWS\nc: 2\n":        "line 2: not one YAML document: a colon is missing",
		"a: 1\nCOWS:x\nc: 2\n":      "line 2: not one YAML document: a colon is missing",
		"a: 1\nb: \"COWS\nc: 2\n":   "line 2: not one YAML document: a quote is not closed",
		"a: 1\nb: 'COWS\n---\n":     "line 2: not one YAML document: a quote is not closed",
		"a: 1\nb: [COWS\nc: 2\n":    "line 2: not one YAML document: a comma or ] is missing",
		"a: 1\nb: {COWS\nc: 2\n":    "line 2: not one YAML document: a comma or } is missing",
		"a:\n    b: COWS\n  c: 2\n": "line 3: not one YAML document: wrong indentation, or text after a value",
		"a: \"COWS\" COWS\n":        "line 1: not one YAML document: wrong indentation, or text after a value",
		"a:\n  - 1\n  COWS: 2\n":    "line 3: not one YAML document: wrong indentation, or a missing -",
		"a: COWS\n  b: 2\n":         "line 2: not one YAML document: wrong indentation, or a colon too many or one without a space",
		"a: 1\nb: *COWS\n":          "line 2: not one YAML document",
	} {
		r := &configfile.Reader{}
		r.Document([]byte(text))
		if err := r.Err(); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}
