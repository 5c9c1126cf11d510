package upstream_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"signet/internal/upstream"
)

const document = "../../docs/upstream.md"

// Each file that the document shows is one, and the document names each member that there is.
func TestDocument(t *testing.T) {
	b, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(b), "\r\n", "\n")
	examples := regexp.MustCompile("(?s)```yaml\n(upstreams:.*?)```").FindAllStringSubmatch(text, -1)
	if len(examples) < 5 {
		t.Errorf("%s has %d examples of files", document, len(examples))
	}
	for _, example := range examples {
		if _, err := upstream.Parse([]byte(example[1]), func(string) (string, bool) { return "x", true }); err != nil {
			t.Errorf("%s: %v\n%s", document, err, example[1])
		}
	}
	_, err = upstream.Parse([]byte("upstreams: [{id: x, none: 1}]"), environ)
	if err == nil {
		t.Fatal("there is a member none")
	}
	_, names, ok := strings.Cut(err.Error(), "there are ")
	if !ok {
		t.Fatalf("%v lists no members", err)
	}
	for name := range strings.SplitSeq(names, ", ") {
		if !strings.Contains(text, "`"+name+"`") {
			t.Errorf("%s does not say what %s is", document, name)
		}
	}
}
