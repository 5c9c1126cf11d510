// Package configfile reads files of settings that people write, in YAML or JSON. It finds every
// fault of a file at once, each with its line and path. What the members of a file mean is known to
// the packages that use it.
//
// No fault quotes a value: there may be a secret.
package configfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// Fault is a fault of a file.
type Fault struct {
	Line int    // from 1; 0: the value does not stand in the file
	From string // variable or flag that has the value; empty: the file
	Path string // of the value, such as servers[0].auth_config.scopes; empty: the whole file
	What string
}

func (f *Fault) Error() string {
	where := f.From
	if where == "" {
		where = "line " + strconv.Itoa(f.Line)
	}
	if f.Path == "" {
		return where + ": " + f.What
	}
	return where + ": " + f.Path + ": " + f.What
}

const (
	maxFile   = 1 << 20  // bytes of a file
	maxSecret = 64 << 10 // bytes of a file with a secret
)

// Reader reads the nodes of a file and collects its faults.
type Reader struct {
	from   map[*yaml.Node]string
	faults []error
}

// Fault notes a fault of n.
func (r *Reader) Fault(n *yaml.Node, path, format string, args ...any) {
	f := &Fault{From: r.from[n], Path: path, What: fmt.Sprintf(format, args...)}
	if f.From == "" {
		f.Line = max(n.Line, 1)
	}
	r.faults = append(r.faults, f)
}

// Faults returns the number of faults up to now.
func (r *Reader) Faults() int { return len(r.faults) }

// Err joins the faults, each a [*Fault], in the order of their lines. It is nil if there is none.
func (r *Reader) Err() error {
	slices.SortStableFunc(r.faults, func(a, b error) int { return a.(*Fault).Line - b.(*Fault).Line })
	return errors.Join(r.faults...)
}

// Document returns the root of text, which is one document of YAML or JSON, or nil.
func (r *Reader) Document(text []byte) *yaml.Node {
	var n yaml.Node
	switch {
	case len(text) > maxFile:
		r.Fault(&n, "", "the file has more than %d bytes", maxFile)
		return nil
	case !utf8.Valid(text):
		r.Fault(&n, "", "not UTF-8")
		return nil
	}
	if err := yaml.Load(asYAML(text), &n); err != nil {
		line, why := explain(err, text)
		r.Fault(&yaml.Node{Line: line}, "", "not one YAML document%s", why)
		return nil
	}
	if n.Kind != yaml.DocumentNode || len(n.Content) != 1 {
		r.Fault(&n, "", "not one YAML document")
		return nil
	}
	return n.Content[0]
}

// Value is Document for a value that stands in a variable or flag, which from names.
func (r *Reader) Value(text, from string) *yaml.Node {
	inner := &Reader{}
	n := inner.Document([]byte(text))
	if n == nil {
		return nil
	}
	r.Mark(n, from)
	return n
}

// Mark says that n and all below it come from a variable or flag.
func (r *Reader) Mark(n *yaml.Node, from string) {
	if r.from == nil {
		r.from = map[*yaml.Node]string{}
	}
	r.from[n] = from
	for _, below := range n.Content {
		r.Mark(below, from)
	}
}

// From returns the variable or flag from which n comes; empty: the file.
func (r *Reader) From(n *yaml.Node) string { return r.from[n] }

const (
	tabs  = "a tab in the indentation, which must be spaces"
	quote = "a quote is not closed"
)

// reasons say what constant texts of the YAML library mean. Its other texts may quote the file.
var reasons = map[string]struct {
	what  string
	begun bool // the fault is where that began which did not end
}{
	"yaml: no documents in stream":                    {"the file is empty", false},
	"yaml: expected single document, found multiple":  {"there are several", false},
	"found a tab character that violates indentation": {tabs, false},
	"found character that cannot start any token":     {"a value begins with a character that needs quotes", false},
	"could not find expected ':'":                     {"a colon is missing", true},
	"found unexpected end of stream":                  {quote, true},
	"found unexpected document indicator":             {quote, true},
	"did not find expected ',' or ']'":                {"a comma or ] is missing", true},
	"did not find expected ',' or '}'":                {"a comma or } is missing", true},
	"did not find expected key":                       {"wrong indentation, or text after a value", false},
	"did not find expected '-' indicator":             {"wrong indentation, or a missing -", false},
	"mapping values are not allowed in this context":  {"wrong indentation, or a colon too many or one without a space", false},
}

// explain returns the line of an error of the YAML library, and why the text is wrong if that
// is known.
func explain(err error, text []byte) (line int, why string) {
	var at *yaml.LoadError
	if !errors.As(err, &at) {
		return 1, ""
	}
	line = at.Mark.Line
	reason, known := reasons[at.Message]
	if !known {
		return line, ""
	}
	if reason.begun && at.ContextMark.Line > 0 {
		line = at.ContextMark.Line
	}
	if lines := bytes.Split(text, []byte("\n")); line >= 1 && line <= len(lines) {
		if indent := lines[line-1][:len(lines[line-1])-len(bytes.TrimLeft(lines[line-1], " \t"))]; bytes.ContainsRune(indent, '\t') {
			reason.what = tabs
		}
	}
	return line, ": " + reason.what
}

// Take reads a value.
type Take func(n *yaml.Node, path string)

// Plain reports whether n has neither an anchor nor a tag of its own, and is not an alias.
func (r *Reader) Plain(n *yaml.Node, path string) bool {
	if n.Kind == yaml.AliasNode || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 {
		r.Fault(n, path, "anchors, aliases and tags have no meaning here")
		return false
	}
	return true
}

// Each calls do for the members of a mapping. Duplicates are faults.
func (r *Reader) Each(n *yaml.Node, path string, do func(name string, key, value *yaml.Node, path string)) {
	if !r.Plain(n, path) {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.Fault(n, path, "must be members with values")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" || !r.Plain(key, path) {
			r.Fault(key, path, "has a member whose name is no text")
			continue
		}
		if seen[key.Value] {
			r.Fault(key, Below(path, key.Value), "is there twice")
			continue
		}
		seen[key.Value] = true
		do(key.Value, key, value, Below(path, key.Value))
	}
}

// Members reads a mapping that has no members but the known ones.
func (r *Reader) Members(n *yaml.Node, path string, known map[string]Take) {
	r.Each(n, path, func(name string, key, value *yaml.Node, path string) {
		if read, ok := known[name]; ok {
			read(value, path)
			return
		}
		r.Fault(key, path, "is not known; there are %s", strings.Join(slices.Sorted(maps.Keys(known)), ", "))
	})
}

// Scalar reads a text that is not empty, or a number as it was written.
func (r *Reader) Scalar(n *yaml.Node, path string) (string, bool) {
	return r.scalar(n, path, IsControl)
}

// Lines is Scalar for a text that may have several lines.
func (r *Reader) Lines(n *yaml.Node, path string) (string, bool) {
	return r.scalar(n, path, func(c rune) bool { return c != '\n' && IsControl(c) })
}

func (r *Reader) scalar(n *yaml.Node, path string, wrong func(rune) bool) (string, bool) {
	if !r.Plain(n, path) {
		return "", false
	}
	tag := n.ShortTag()
	switch {
	case n.Kind != yaml.ScalarNode || tag != "!!str" && tag != "!!int" && tag != "!!float":
		r.Fault(n, path, "must be a text")
	case n.Value == "":
		r.Fault(n, path, "must not be empty")
	case strings.ContainsFunc(n.Value, wrong):
		r.Fault(n, path, "has a control character")
	default:
		return n.Value, true
	}
	return "", false
}

// Flag reads true or false.
func (r *Reader) Flag(to *bool) Take {
	return func(n *yaml.Node, path string) {
		if !r.Plain(n, path) {
			return
		}
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" || n.Decode(to) != nil {
			r.Fault(n, path, "must be true or false")
		}
	}
}

// IsControl reports a character that no setting has.
func IsControl(c rune) bool { return c < ' ' || c == 0x7f }

// Below returns the path of a member.
func Below(path, name string) string {
	name = Cut(name, 64)
	if path == "" {
		return name
	}
	return path + "." + name
}

// Cut returns at most n bytes of s, for an error: printable characters only.
func Cut(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}

// ReadSecret returns the content of a file without the line end. The file has at most 64 KiB.
func ReadSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	secret := strings.TrimRight(string(content), "\r\n")
	switch {
	case err != nil:
		return "", err
	case len(content) > maxSecret:
		return "", fmt.Errorf("%s has more than %d bytes", path, maxSecret)
	case secret == "":
		return "", fmt.Errorf("%s is empty", path)
	}
	return secret, nil
}
