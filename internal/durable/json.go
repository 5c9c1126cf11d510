package durable

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxDepth is how deep values may be nested.
const maxDepth = 16

// JSON reads values of type T from text that people edit. It refuses what
// [json.Unmarshal] lets pass: members that it does not know, in other spellings, or twice,
// text that follows the value, and bytes that are not UTF-8. A misspelt "disabled" must not
// be a user who may sign in.
type JSON[T any] struct {
	members map[reflect.Type]map[string]reflect.Type
}

// JSONFault is a fault of a text. It quotes nothing of the text except for the names of
// known members: there may be a password.
type JSONFault struct {
	Line int    // of the text, from 1
	Path string // of the value, as clients[1].scopes; empty: the whole
	what string
}

func (f *JSONFault) Error() string {
	if f.Path == "" {
		return f.what
	}
	return f.Path + ": " + f.what
}

// NewJSON makes a reader for T, which is made of structs, slices and plain values. What is
// in a [json.RawMessage] is the caller's to check.
func NewJSON[T any]() JSON[T] {
	j := JSON[T]{members: map[reflect.Type]map[string]reflect.Type{}}
	j.learn(reflect.TypeFor[T]())
	return j
}

func (j JSON[T]) learn(t reflect.Type) {
	switch {
	case t.Kind() == reflect.Slice:
		j.learn(t.Elem())
	case t.Kind() == reflect.Struct && j.members[t] == nil:
		known := map[string]reflect.Type{}
		j.members[t] = known
		for _, f := range reflect.VisibleFields(t) {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name != "" && name != "-" {
				known[name] = f.Type
				j.learn(f.Type)
			}
		}
	}
}

// Parse reads text. Its errors are of type [*JSONFault].
func (j JSON[T]) Parse(text []byte) (value T, err error) {
	c := &checking{d: json.NewDecoder(bytes.NewReader(text)), text: text, members: j.members}
	if !utf8.Valid(text) {
		return value, c.fault("not UTF-8")
	}
	if err := c.value(reflect.TypeFor[T]()); err != nil {
		return value, err
	}
	if _, err := c.d.Token(); !errors.Is(err, io.EOF) {
		return value, c.fault("something follows the JSON value")
	}
	err = json.Unmarshal(text, &value)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return value, &JSONFault{lineAt(text, wrong.Offset), wrong.Field, "wrong type"}
	}
	if err != nil {
		return value, c.fault(notJSON)
	}
	return value, nil
}

const notJSON = "not one JSON value, or cut off"

// checking walks through a text beside the type that it is of.
type checking struct {
	d       *json.Decoder
	text    []byte
	members map[reflect.Type]map[string]reflect.Type
	path    []step
}

// step leads from a value to one in it: a member, or an element if it has no name.
type step struct {
	name  string
	index int
}

func (c *checking) fault(what string) error {
	var path strings.Builder
	for i, s := range c.path {
		switch {
		case s.name == "":
			fmt.Fprintf(&path, "[%d]", s.index)
		case i > 0:
			path.WriteString("." + s.name)
		default:
			path.WriteString(s.name)
		}
	}
	return &JSONFault{lineAt(c.text, c.d.InputOffset()), path.String(), what}
}

func lineAt(text []byte, offset int64) int {
	return 1 + bytes.Count(text[:min(int(offset), len(text))], []byte("\n"))
}

// foreign is the type of values that the caller parses.
var foreign = reflect.TypeFor[json.RawMessage]()

func (c *checking) value(t reflect.Type) error {
	if t == foreign {
		var raw json.RawMessage
		if c.d.Decode(&raw) != nil {
			return c.fault(notJSON)
		}
		return nil
	}
	token, err := c.d.Token()
	switch {
	case err != nil:
		return c.fault(notJSON)
	case len(c.path) > maxDepth:
		return c.fault("nested too deep")
	}
	switch token {
	case json.Delim('{'):
		err = c.object(t)
	case json.Delim('['):
		err = c.array(t)
	default:
		return c.plain(t, token)
	}
	if err != nil {
		return err
	}
	if _, err := c.d.Token(); err != nil {
		return c.fault(notJSON)
	}
	return nil
}

// plain checks a string that a type of its own reads. The error of that type must not quote it.
func (c *checking) plain(t reflect.Type, token json.Token) error {
	text, ok := token.(string)
	if !ok {
		return nil
	}
	if value, ok := reflect.New(t).Interface().(encoding.TextUnmarshaler); ok {
		if err := value.UnmarshalText([]byte(text)); err != nil {
			return c.fault(err.Error())
		}
	}
	return nil
}

func (c *checking) object(t reflect.Type) error {
	known, ok := c.members[t]
	if !ok {
		return c.fault("wrong type")
	}
	seen := map[string]bool{}
	for c.d.More() {
		token, err := c.d.Token()
		name, _ := token.(string)
		of, ok := known[name]
		switch {
		case err != nil:
			return c.fault(notJSON)
		case !ok:
			return c.fault("unknown member; there are " + strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		case seen[name]:
			return c.fault(name + " is there twice")
		}
		seen[name] = true
		if err := c.inside(step{name: name}, of); err != nil {
			return err
		}
	}
	return nil
}

func (c *checking) array(t reflect.Type) error {
	if t.Kind() != reflect.Slice {
		return c.fault("wrong type")
	}
	for i := 0; c.d.More(); i++ {
		if err := c.inside(step{index: i}, t.Elem()); err != nil {
			return err
		}
	}
	return nil
}

func (c *checking) inside(s step, t reflect.Type) error {
	c.path = append(c.path, s)
	err := c.value(t)
	c.path = c.path[:len(c.path)-1]
	return err
}
