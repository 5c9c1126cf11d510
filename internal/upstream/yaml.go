package upstream

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"signet/internal/configfile"
)

// Fault is a fault of a configuration file. It quotes no value: there may be a secret.
type Fault = configfile.Fault

// reader reads the nodes of a configuration and collects its faults.
type reader struct {
	configfile.Reader
	environ func(string) (string, bool)

	secret bool                // a secret stands in the file itself
	absent map[*yaml.Node]bool // values that stand elsewhere and are not there; nil: each is a fault
}

// elsewhere handles a value that stands elsewhere and is not there. A base URL always must be.
func (r *reader) elsewhere(n *yaml.Node, path, format string, args ...any) {
	if r.absent == nil || strings.Contains(path, ".base_url") || strings.HasSuffix(path, ".environment") {
		r.Fault(n, path, format, args...)
		return
	}
	r.absent[n] = true
}

// take reads a value.
type take = configfile.Take

// text reads a text that is not empty.
func (r *reader) text(to *string) take {
	return func(n *yaml.Node, path string) {
		if s, ok := r.Scalar(n, path); ok {
			*to = s
		}
	}
}

// value reads a text that may stand elsewhere: env:VARIABLE or file:PATH.
func (r *reader) value(to *string) take {
	return func(n *yaml.Node, path string) {
		s, ok := r.Scalar(n, path)
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
			content, err := configfile.ReadSecret(file)
			if err != nil {
				r.elsewhere(n, path, "%v", err)
				return
			}
			s = content
		}
		if strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f }) || !utf8.ValidString(s) {
			r.Fault(n, path, "has a control character, or is not UTF-8")
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

// list reads texts, of which check says what is wrong.
func (r *reader) list(to *[]string, check func(string) string) take {
	return func(n *yaml.Node, path string) {
		if !r.Plain(n, path) {
			return
		}
		if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
			r.Fault(n, path, "must be a list of texts such as [a, b]")
			return
		}
		*to = nil
		for i, element := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			s, ok := r.Scalar(element, at)
			if !ok {
				continue
			}
			if why := check(s); why != "" {
				r.Fault(element, at, "%s", why)
			}
			*to = append(*to, s)
		}
	}
}

// body reads the template of a body, in whose texts the names may stand in braces.
func (r *reader) body(to *any, names ...string) take {
	return func(n *yaml.Node, path string) {
		if n.Kind != yaml.MappingNode {
			r.Fault(n, path, "must be members with values, which are sent as JSON")
			return
		}
		*to = r.template(n, path, names)
	}
}

func (r *reader) template(n *yaml.Node, path string, names []string) any {
	switch {
	case !r.Plain(n, path):
	case n.Kind == yaml.MappingNode:
		object := map[string]any{}
		r.Each(n, path, func(name string, key, value *yaml.Node, path string) {
			if strings.ContainsAny(name, "{}") {
				r.Fault(key, path, "a name in braces counts in values only")
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
		r.Fault(n, path, "%s", why)
	}
	return n.Value
}
