package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// Fault is a fault of a configuration file. It quotes no value: there may be a secret.
type Fault struct {
	Line int    // from 1
	Path string // of the value, as upstreams[0].login.path; empty: the whole file
	What string
}

func (f *Fault) Error() string {
	if f.Path == "" {
		return fmt.Sprintf("line %d: %s", f.Line, f.What)
	}
	return fmt.Sprintf("line %d: %s: %s", f.Line, f.Path, f.What)
}

const (
	maxFile   = 1 << 20  // bytes of a configuration file
	maxSecret = 64 << 10 // bytes of a file with a secret
)

// reader reads the nodes of a configuration and collects its faults.
type reader struct {
	environ func(string) (string, bool)
	faults  []error

	secret bool                // a secret stands in the file itself
	absent map[*yaml.Node]bool // values that stand elsewhere and are not there; nil: each is a fault
}

// elsewhere handles a value that stands elsewhere and is not there. A base URL always must be.
func (r *reader) elsewhere(n *yaml.Node, path, format string, args ...any) {
	if r.absent == nil || strings.Contains(path, ".base_url") || strings.HasSuffix(path, ".environment") {
		r.fault(n, path, format, args...)
		return
	}
	r.absent[n] = true
}

func (r *reader) fault(n *yaml.Node, path, format string, args ...any) {
	r.faults = append(r.faults, &Fault{max(n.Line, 1), path, fmt.Sprintf(format, args...)})
}

// document returns the root of text, which is one YAML document, or nil.
func (r *reader) document(text []byte) *yaml.Node {
	var n yaml.Node
	switch {
	case len(text) > maxFile:
		r.fault(&n, "", "the file has more than %d bytes", maxFile)
		return nil
	case !utf8.Valid(text):
		r.fault(&n, "", "not UTF-8")
		return nil
	}
	if err := yaml.Load(text, &n); err != nil {
		r.fault(&yaml.Node{Line: lineOf(err)}, "", "not one YAML document") // the library's text may quote the file
		return nil
	}
	if n.Kind != yaml.DocumentNode || len(n.Content) != 1 {
		r.fault(&n, "", "not one YAML document")
		return nil
	}
	return n.Content[0]
}

// lineOf returns the line of an error of the YAML library.
func lineOf(err error) int {
	var at *yaml.LoadError
	if errors.As(err, &at) {
		return max(at.Mark.Line, 1)
	}
	return 1
}

// take reads a value.
type take func(n *yaml.Node, path string)

// plain reports whether n has neither an anchor nor a tag of its own, and is not an alias.
func (r *reader) plain(n *yaml.Node, path string) bool {
	if n.Kind == yaml.AliasNode || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 {
		r.fault(n, path, "anchors, aliases and tags have no meaning here")
		return false
	}
	return true
}

// each calls do for the members of a mapping. Duplicates are faults.
func (r *reader) each(n *yaml.Node, path string, do func(name string, key, value *yaml.Node, path string)) {
	if !r.plain(n, path) {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.fault(n, path, "must be members with values")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" || !r.plain(key, path) {
			r.fault(key, path, "has a member whose name is no text")
			continue
		}
		if seen[key.Value] {
			r.fault(key, below(path, key.Value), "is there twice")
			continue
		}
		seen[key.Value] = true
		do(key.Value, key, value, below(path, key.Value))
	}
}

func below(path, name string) string {
	name = cut(name, 64)
	if path == "" {
		return name
	}
	return path + "." + name
}

// members reads a mapping that has no members but the known ones.
func (r *reader) members(n *yaml.Node, path string, known map[string]take) {
	r.each(n, path, func(name string, key, value *yaml.Node, path string) {
		if read, ok := known[name]; ok {
			read(value, path)
			return
		}
		r.fault(key, path, "is not known; there are %s", strings.Join(slices.Sorted(maps.Keys(known)), ", "))
	})
}

// text reads a text that is not empty.
func (r *reader) text(to *string) take {
	return func(n *yaml.Node, path string) {
		if s, ok := r.scalar(n, path); ok {
			*to = s
		}
	}
}

func (r *reader) scalar(n *yaml.Node, path string) (string, bool) {
	if !r.plain(n, path) {
		return "", false
	}
	tag := n.ShortTag()
	switch {
	case n.Kind != yaml.ScalarNode || tag != "!!str" && tag != "!!int" && tag != "!!float":
		r.fault(n, path, "must be a text")
	case n.Value == "":
		r.fault(n, path, "must not be empty")
	case strings.ContainsFunc(n.Value, func(c rune) bool { return c < ' ' || c == 0x7f }):
		r.fault(n, path, "has a control character")
	default:
		return n.Value, true
	}
	return "", false
}

// value reads a text that may stand elsewhere: env:VARIABLE or file:PATH.
func (r *reader) value(to *string) take {
	return func(n *yaml.Node, path string) {
		s, ok := r.scalar(n, path)
		if !ok {
			return
		}
		name, isVariable := strings.CutPrefix(s, "env:")
		file, isFile := strings.CutPrefix(s, "file:")
		switch {
		case isVariable:
			if r.environ != nil {
				s, ok = r.environ(name)
			}
			if r.environ == nil || !ok || s == "" {
				r.elsewhere(n, path, "the environment variable %s is not set", cut(name, 64))
				return
			}
		case isFile:
			content, err := readSecret(file)
			if err != nil {
				r.elsewhere(n, path, "%v", err)
				return
			}
			s = content
		}
		if strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f }) || !utf8.ValidString(s) {
			r.fault(n, path, "has a control character, or is not UTF-8")
			return
		}
		*to = s
	}
}

// secretValue is value for a secret.
func (r *reader) secretValue(to *string) take {
	return func(n *yaml.Node, path string) {
		r.value(to)(n, path)
		if n.Kind == yaml.ScalarNode && !strings.HasPrefix(n.Value, "env:") && !strings.HasPrefix(n.Value, "file:") {
			r.secret = true
		}
	}
}

// readSecret returns the content of a file without the line end.
func readSecret(path string) (string, error) {
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

// flag reads true or false.
func (r *reader) flag(to *bool) take {
	return func(n *yaml.Node, path string) {
		if !r.plain(n, path) {
			return
		}
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" || n.Decode(to) != nil {
			r.fault(n, path, "must be true or false")
		}
	}
}

// list reads texts, of which check says what is wrong.
func (r *reader) list(to *[]string, check func(string) string) take {
	return func(n *yaml.Node, path string) {
		if !r.plain(n, path) {
			return
		}
		if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
			r.fault(n, path, "must be a list of texts such as [a, b]")
			return
		}
		*to = nil
		for i, element := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			s, ok := r.scalar(element, at)
			if !ok {
				continue
			}
			if why := check(s); why != "" {
				r.fault(element, at, "%s", why)
			}
			*to = append(*to, s)
		}
	}
}

// body reads the template of a body, in whose texts the names may stand in braces.
func (r *reader) body(to *any, names ...string) take {
	return func(n *yaml.Node, path string) {
		if n.Kind != yaml.MappingNode {
			r.fault(n, path, "must be members with values, which are sent as JSON")
			return
		}
		*to = r.template(n, path, names)
	}
}

func (r *reader) template(n *yaml.Node, path string, names []string) any {
	switch {
	case !r.plain(n, path):
	case n.Kind == yaml.MappingNode:
		object := map[string]any{}
		r.each(n, path, func(name string, key, value *yaml.Node, path string) {
			if strings.ContainsAny(name, "{}") {
				r.fault(key, path, "a name in braces counts in values only")
			}
			object[name] = r.template(value, path, names)
		})
		return object
	case n.Kind == yaml.SequenceNode:
		array := []any{}
		for i, element := range n.Content {
			array = append(array, r.template(element, fmt.Sprintf("%s[%d]", path, i), names))
		}
		return array
	default:
		return r.templateScalar(n, path, names)
	}
	return nil
}

func (r *reader) templateScalar(n *yaml.Node, path string, names []string) any {
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool":
		var b bool
		if n.Decode(&b) == nil {
			return b
		}
	case "!!int", "!!float":
		if json.Valid([]byte(n.Value)) {
			return json.Number(n.Value)
		}
	}
	if why := checkTemplate(n.Value, names); why != "" {
		r.fault(n, path, "%s", why)
	}
	return n.Value
}
