package gatewayconfig

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"signet/internal/configfile"
)

// member is one member of an object in the file: how it is read, and what editors and people are
// told about it. Reading, the JSON Schema and the reference document come from the same members.
type member struct {
	name, doc string
	preset    string // default, for people
	must      bool
	alien     bool // known, and refused where it is
	schema    schema
	read      func(r *reader, n *yaml.Node, path string)
}

// needed says that the member has to be there.
func (m member) needed() member { m.must = true; return m }

// by says what holds without the member.
func (m member) by(preset string) member { m.preset = preset; return m }

// object reads a mapping. It notes where each value stands, for the checks between members.
func (r *reader) object(n *yaml.Node, path string, members []member) {
	before := r.Faults()
	known := map[string]configfile.Take{}
	for _, m := range members {
		known[m.name] = func(n *yaml.Node, path string) {
			r.at[path] = n
			m.read(r, n, path)
		}
	}
	r.at[path] = n
	r.Members(n, path, known)
	if n.Kind != yaml.MappingNode {
		r.broken(path, before)
		return
	}
	for _, m := range members {
		if at := configfile.Below(path, m.name); m.must && r.at[at] == nil {
			r.Fault(n, at, "is missing")
		}
	}
	r.broken(path, before)
}

// broken notes that the value at path has faults if there are more faults than before.
func (r *reader) broken(path string, before int) {
	if r.Faults() > before {
		r.bad[path] = true
	}
}

// has reports whether the file has a value at path.
func (r *reader) has(path string) bool { return r.at[path] != nil }

// wrong notes a fault at path, which need not be there.
func (r *reader) wrong(path, format string, args ...any) {
	at := path
	for at != "" && r.at[at] == nil {
		at = at[:max(strings.LastIndexAny(at, ".["), 0)]
	}
	n := r.at[at]
	if n == nil {
		n = &yaml.Node{}
	}
	r.Fault(n, path, format, args...)
}

// group is a member that is an object itself.
func group(name, doc string, members []member) member {
	return member{name: name, doc: doc, schema: objectSchema(members), read: func(r *reader, n *yaml.Node, path string) { r.object(n, path, members) }}
}

// each is a member that is a list of objects. It reads one after the other.
func each(name, doc string, members []member, read func(r *reader, n *yaml.Node, path string)) member {
	items := objectSchema(members)
	return member{name: name, doc: doc, schema: schema{Type: "array", Items: &items}, read: func(r *reader, n *yaml.Node, path string) {
		if !r.Plain(n, path) {
			return
		}
		if n.Kind != yaml.SequenceNode {
			r.Fault(n, path, "must be a list")
			return
		}
		for i, element := range n.Content {
			read(r, element, fmt.Sprintf("%s[%d]", path, i))
		}
	}}
}

// named is a member whose members have names of the operator's choice.
func named(name, doc string, value schema, read func(r *reader, name string, n *yaml.Node, path string)) member {
	return member{name: name, doc: doc, schema: schema{Type: "object", Additional: &value}, read: func(r *reader, n *yaml.Node, path string) {
		r.at[path] = n
		r.Each(n, path, func(name string, _, value *yaml.Node, path string) {
			r.at[path] = value
			read(r, name, value, path)
		})
	}}
}

// text is a member that is a text. Check says what is wrong with it; nil: nothing is.
func text[S ~string](name, doc string, to *S, check func(string) string) member {
	return textFor(Whole, name, doc, to, check)
}

// textFor is text for a value that only one part of the configuration needs.
func textFor[S ~string](part Part, name, doc string, to *S, check func(string) string) member {
	return member{name: name, doc: doc, schema: schema{Type: "string"}, read: func(r *reader, n *yaml.Node, path string) {
		s, ok := r.text(n, path, form{part: part})
		if !ok {
			return
		}
		if check != nil {
			if why := check(s); why != "" {
				r.Fault(n, path, "%s", why)
			}
		}
		*to = S(s)
	}}
}

// lines is a member that is a text of several lines, such as a key.
func lines(part Part, name, doc string, to *Secret, check func(string) string) member {
	m := textFor(part, name, doc, to, nil)
	m.read = func(r *reader, n *yaml.Node, path string) {
		s, ok := r.text(n, path, form{part: part, lines: true})
		if !ok {
			return
		}
		if why := check(s); why != "" {
			r.Fault(n, path, "%s", why)
		}
		*to = Secret(s)
	}
	return m
}

// oneOf is a member that is one of several words.
func oneOf(name, doc string, to *string, words ...string) member {
	m := text(name, doc, to, func(s string) string {
		for _, word := range words {
			if s == word {
				return ""
			}
		}
		return "must be one of " + strings.Join(words, ", ")
	})
	m.schema = schema{Type: "string", Enum: words}
	return m
}

// number is a member that is a whole number.
func number(name, doc string, to *int, least, most int) member {
	return member{name: name, doc: doc, schema: schema{Type: []string{"integer", "string"}, Minimum: &least, Maximum: &most, Pattern: elsewhere},
		read: func(r *reader, n *yaml.Node, path string) {
			if i, ok := r.number(n, path, least, most); ok {
				*to = i
			}
		}}
}

func (r *reader) number(n *yaml.Node, path string, least, most int) (int, bool) {
	s, ok := r.plainText(n, path, "!!int", fmt.Sprintf("must be a whole number from %d to %d", least, most))
	if !ok {
		return 0, false
	}
	i, err := strconv.Atoi(s)
	if err != nil || i < least || i > most {
		r.Fault(n, path, "must be a whole number from %d to %d", least, most)
		return 0, false
	}
	return i, true
}

// factor is a member that is a number.
func factor(name, doc string, to *float64, least, most float64) member {
	return member{name: name, doc: doc, schema: schema{Type: []string{"number", "string"}, Pattern: elsewhere}, read: func(r *reader, n *yaml.Node, path string) {
		s, ok := r.plainText(n, path, "!!float", fmt.Sprintf("must be a number from %g to %g", least, most))
		if !ok {
			return
		}
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || !(f >= least && f <= most) {
			r.Fault(n, path, "must be a number from %g to %g", least, most)
			return
		}
		*to = f
	}}
}

// milliseconds is a member that is a whole number of milliseconds.
func milliseconds(name, doc string, to *time.Duration, least, most int) member {
	ms := 0
	m := number(name, doc, &ms, least, most)
	read := m.read
	m.read = func(r *reader, n *yaml.Node, path string) {
		read(r, n, path)
		*to = time.Duration(ms) * time.Millisecond
	}
	return m
}

// period is a member that is a duration such as 10s.
func period(name, doc string, to *time.Duration, least, most time.Duration) member {
	return text(name, doc, new(string), nil).reading(func(r *reader, n *yaml.Node, path, s string) {
		d, err := time.ParseDuration(s)
		if err != nil || d < least || d > most {
			r.Fault(n, path, "must be a duration such as 10s, from %s to %s", least, most)
			return
		}
		*to = d
	})
}

// reading returns a text member with another way to read its text.
func (m member) reading(read func(r *reader, n *yaml.Node, path, s string)) member {
	return m.readingForm(form{}, read)
}

func (m member) readingForm(f form, read func(r *reader, n *yaml.Node, path, s string)) member {
	m.read = func(r *reader, n *yaml.Node, path string) {
		if s, ok := r.text(n, path, f); ok {
			read(r, n, path, s)
		}
	}
	return m
}

// flag is a member that is true or false.
func flag(name, doc string, to *bool) member {
	return member{name: name, doc: doc, schema: schema{Type: []string{"boolean", "string"}, Pattern: elsewhere}, read: func(r *reader, n *yaml.Node, path string) {
		if s, ok := r.plainText(n, path, "!!bool", "must be true or false"); ok {
			if s != "true" && s != "false" {
				r.Fault(n, path, "must be true or false")
				return
			}
			*to = s == "true"
		}
	}}
}

// plainText reads a scalar that has a tag, or a text that stands elsewhere.
func (r *reader) plainText(n *yaml.Node, path, tag, wrong string) (string, bool) {
	if !r.Plain(n, path) {
		return "", false
	}
	got := n.ShortTag()
	switch {
	case n.Kind == yaml.ScalarNode && (got == tag || got == "!!int" && tag == "!!float"):
		return strings.ToLower(n.Value), true
	case n.Kind == yaml.ScalarNode && got == "!!str" && isElsewhere(n.Value):
		return r.text(n, path, form{})
	}
	r.Fault(n, path, "%s", wrong)
	return "", false
}

// list is a member that is a list of texts.
func list(name, doc string, to *[]string, check func(string) string) member {
	return member{name: name, doc: doc, schema: schema{Type: "array", Items: &schema{Type: "string"}}, read: func(r *reader, n *yaml.Node, path string) {
		r.each(n, path, func(n *yaml.Node, path string) {
			s, ok := r.text(n, path, form{})
			if !ok {
				return
			}
			if why := check(s); why != "" {
				r.Fault(n, path, "%s", why)
			}
			*to = append(*to, s)
		})
	}}
}

// numbers is a member that is a list of whole numbers.
func numbers(name, doc string, to *[]int, least, most int) member {
	items := number("", "", new(int), least, most).schema
	return member{name: name, doc: doc, schema: schema{Type: "array", Items: &items}, read: func(r *reader, n *yaml.Node, path string) {
		*to = []int{}
		r.each(n, path, func(n *yaml.Node, path string) {
			if i, ok := r.number(n, path, least, most); ok {
				*to = append(*to, i)
			}
		})
	}}
}

// each calls read for the elements of a list.
func (r *reader) each(n *yaml.Node, path string, read configfile.Take) {
	if !r.Plain(n, path) {
		return
	}
	if n.Kind != yaml.SequenceNode {
		r.Fault(n, path, "must be a list such as [a, b]")
		return
	}
	for i, element := range n.Content {
		read(element, fmt.Sprintf("%s[%d]", path, i))
	}
}
