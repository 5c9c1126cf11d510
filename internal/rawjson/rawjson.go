// Package rawjson finds the parts of a JSON text without decoding it, for texts that are passed on
// as they came. It also writes the few texts that every request writes, and lends buffers for them.
package rawjson

import (
	"bytes"
	"encoding/json"
	"iter"
)

// Scanner steps through a JSON text, which must be valid and in UTF-8.
type Scanner struct {
	Data []byte
	Pos  int
}

// Peek skips white space and returns the byte there.
func (s *Scanner) Peek() byte {
	for {
		switch c := s.Data[s.Pos]; c {
		case ' ', '\t', '\r', '\n':
			s.Pos++
		default:
			return c
		}
	}
}

// Value returns the value at Pos and moves behind it.
func (s *Scanner) Value() []byte {
	start := s.Pos
	for depth := 0; s.Pos < len(s.Data); {
		switch c := s.Data[s.Pos]; c {
		case '"':
			s.skipString()
			if depth == 0 {
				return s.Data[start:s.Pos]
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 { // the end of the object or array around a number or a literal
				return s.Data[start:s.Pos]
			}
			if depth--; depth == 0 {
				s.Pos++
				return s.Data[start:s.Pos]
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return s.Data[start:s.Pos]
			}
		}
		s.Pos++
	}
	return s.Data[start:s.Pos]
}

func (s *Scanner) skipString() {
	for s.Pos++; s.Data[s.Pos] != '"'; s.Pos++ {
		if s.Data[s.Pos] == '\\' {
			s.Pos++
		}
	}
	s.Pos++
}

// Members yields the keys and values of an object, which must be valid JSON. The values are parts
// of data. There are none if data is not an object.
func Members(data []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for raw, value := range quoted(data) {
			if key, ok := String(raw); !ok || !yield(key, value) {
				return
			}
		}
	}
}

// quoted is [Members] with the keys as parts of data, with their quotes.
func quoted(data []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		s := Scanner{Data: data}
		if len(bytes.TrimSpace(data)) == 0 || s.Peek() != '{' {
			return
		}
		for s.Pos++; s.Peek() != '}'; {
			if s.Data[s.Pos] == ',' {
				s.Pos++
				s.Peek()
			}
			key := s.Value()
			s.Peek()
			s.Pos++ // the colon
			s.Peek()
			if !yield(key, s.Value()) {
				return
			}
		}
	}
}

// Elements yields the elements of an array, which must be valid JSON, as parts of data. There are
// none if data is not an array.
func Elements(data []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		s := Scanner{Data: data}
		if len(bytes.TrimSpace(data)) == 0 || s.Peek() != '[' {
			return
		}
		for s.Pos++; s.Peek() != ']'; {
			if s.Data[s.Pos] == ',' {
				s.Pos++
				s.Peek()
			}
			if !yield(s.Value()) {
				return
			}
		}
	}
}

// Get returns the value of a member of an object, as a part of data, or nil. Of equal keys, the
// last one counts, as in most parsers.
func Get(data []byte, key string) (value []byte) {
	for raw, v := range quoted(data) {
		if isString(raw, key) {
			value = v
		}
	}
	return value
}

// isString reports whether raw is the JSON string of a text.
func isString(raw []byte, text string) bool {
	if bytes.IndexByte(raw, '\\') < 0 {
		return len(raw) == len(text)+2 && string(raw[1:len(raw)-1]) == text
	}
	s, ok := String(raw)
	return ok && s == text
}

// String returns the text of a JSON string.
func String(raw []byte) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), true
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err == nil
}

// Quote returns s as a JSON string. Unlike json.Marshal it leaves &, < and > as they are.
func Quote(s string) []byte {
	if isPlain(s) {
		b := append(make([]byte, 0, len(s)+2), '"')
		return append(append(b, s...), '"')
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string is always encoded
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// isPlain reports whether s stands in JSON as it is.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// Replace returns data with text in place of part, which must be a part of data.
func Replace(data, part, text []byte) []byte {
	at := cap(data) - cap(part)
	out := make([]byte, 0, len(data)-len(part)+len(text))
	out = append(append(out, data[:at]...), text...)
	return append(out, data[at+len(part):]...)
}
