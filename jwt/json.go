package jwt

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Bounds of one JSON text inside a token. A token of the [Signer] has a dozen members
// and depth two.
const (
	maxDepth   = 8
	maxMembers = 64
	maxTime    = 1 << 40 // Unix seconds; the sum of two cannot overflow
)

const errJSON = refusal("malformed JSON")

// scanner reads JSON (RFC 8259) once, from left to right. It is stricter than
// encoding/json, which lets the last of two equal names win, accepts names in another
// case, repairs invalid UTF-8 and reads any depth: two readers of one token could then
// see two different tokens (RFC 8725 §3.8; draft-ietf-oauth-rfc8725bis §2.13). It also
// takes about a third of the time, which counts for each token that is not remembered
// (BenchmarkParse).
type scanner struct {
	text  string
	at    int
	depth int
}

// scanObject reads text, which must be one object and nothing else. It calls member for
// each name, with the scanner before the value, which member must read.
func scanObject(text string, member func(s *scanner, name string) error) error {
	s := &scanner{text: text}
	s.space()
	if err := s.object(member); err != nil {
		return err
	}
	if s.space(); s.at != len(text) {
		return refusal("data after the JSON object")
	}
	return nil
}

func (s *scanner) space() {
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case ' ', '\t', '\r', '\n':
			s.at++
		default:
			return
		}
	}
}

// peek returns the next byte that is not a space, or 0 at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.at == len(s.text) {
		return 0
	}
	return s.text[s.at]
}

// take reports whether the next byte that is not a space is c, and if so moves past it.
func (s *scanner) take(c byte) bool {
	if s.peek() != c || s.at == len(s.text) {
		return false
	}
	s.at++
	return true
}

func (s *scanner) object(member func(s *scanner, name string) error) error {
	if !s.take('{') {
		return refusal("not a JSON object")
	}
	if s.depth++; s.depth > maxDepth {
		return refusal("JSON nested too deep")
	}
	defer func() { s.depth-- }()
	if s.take('}') {
		return nil
	}
	names := make([]string, 0, 16)
	for {
		name, err := s.name()
		if err != nil {
			return err
		}
		for _, other := range names {
			if other == name {
				return refusal("duplicate JSON member")
			}
		}
		if names = append(names, name); len(names) > maxMembers {
			return refusal("too many JSON members")
		}
		if !s.take(':') {
			return errJSON
		}
		if err := member(s, name); err != nil {
			return err
		}
		if s.take('}') {
			return nil
		}
		if !s.take(',') {
			return errJSON
		}
	}
}

// name reads the name of a member. An escape would be another spelling of the name.
func (s *scanner) name() (string, error) {
	s.space()
	start := s.at
	name, err := s.string()
	if err == nil && len(name) != s.at-start-2 {
		return "", refusal("escaped JSON member name")
	}
	return name, err
}

func (s *scanner) array() error {
	if !s.take('[') {
		return errJSON
	}
	if s.depth++; s.depth > maxDepth {
		return refusal("JSON nested too deep")
	}
	defer func() { s.depth-- }()
	if s.take(']') {
		return nil
	}
	for {
		if err := s.skip(); err != nil {
			return err
		}
		if s.take(']') {
			return nil
		}
		if !s.take(',') {
			return errJSON
		}
	}
}

// skip reads one value of any type.
func (s *scanner) skip() error {
	switch c := s.peek(); c {
	case '{':
		return s.object(func(s *scanner, _ string) error { return s.skip() })
	case '[':
		return s.array()
	case '"':
		_, err := s.string()
		return err
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	default:
		return s.number()
	}
}

func (s *scanner) literal(word string) error {
	if !strings.HasPrefix(s.text[s.at:], word) {
		return errJSON
	}
	s.at += len(word)
	return nil
}

func (s *scanner) digits() int {
	start := s.at
	for s.at < len(s.text) && s.text[s.at]-'0' <= 9 {
		s.at++
	}
	return s.at - start
}

// number reads past a number of any size without converting it.
func (s *scanner) number() error {
	next := func(set string) bool {
		for i := 0; s.at < len(s.text) && i < len(set); i++ {
			if s.text[s.at] == set[i] {
				s.at++
				return true
			}
		}
		return false
	}
	next("-")
	if !next("0") && s.digits() == 0 {
		return errJSON
	}
	if next(".") && s.digits() == 0 {
		return errJSON
	}
	if next("eE") {
		if next("+-"); s.digits() == 0 {
			return errJSON
		}
	}
	return nil
}

// seconds reads a NumericDate (RFC 7519 §2) that is whole, positive and written without
// fraction and exponent, as the [Signer] writes it.
func (s *scanner) seconds() (int64, error) {
	s.space()
	start := s.at
	if err := s.number(); err != nil {
		return 0, refusal("time is not a number")
	}
	n, err := strconv.ParseInt(s.text[start:s.at], 10, 64)
	if err != nil || n <= 0 || n > maxTime {
		return 0, refusal("time is not a positive whole number of seconds")
	}
	return n, nil
}

// string reads a string of valid UTF-8.
func (s *scanner) string() (string, error) {
	if !s.take('"') {
		return "", refusal("not a JSON string")
	}
	for start := s.at; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; {
		case c == '"':
			value := s.text[start:s.at]
			s.at++
			if !utf8.ValidString(value) {
				return "", errJSON
			}
			return value, nil
		case c == '\\':
			return s.escaped(start)
		case c < ' ':
			return "", errJSON
		}
	}
	return "", errJSON
}

// escaped reads the rest of the string that began at start, from its first backslash.
func (s *scanner) escaped(start int) (string, error) {
	b := append(make([]byte, 0, 64), s.text[start:s.at]...)
	for s.at < len(s.text) {
		c := s.text[s.at]
		s.at++
		switch {
		case c == '"':
			if !utf8.Valid(b) {
				return "", errJSON
			}
			return string(b), nil
		case c < ' ':
			return "", errJSON
		case c != '\\':
			b = append(b, c)
		default:
			r, ok := s.escape()
			if !ok {
				return "", errJSON
			}
			b = utf8.AppendRune(b, r)
		}
	}
	return "", errJSON
}

// escape reads the characters after a backslash. Half of a surrogate pair is an error.
func (s *scanner) escape() (rune, bool) {
	if s.at == len(s.text) {
		return 0, false
	}
	c := s.text[s.at]
	s.at++
	switch c {
	case '"', '\\', '/':
		return rune(c), true
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	case 'u':
	default:
		return 0, false
	}
	r, ok := s.hex4()
	if !ok || !utf16.IsSurrogate(r) {
		return r, ok
	}
	if s.literal(`\u`) != nil {
		return 0, false
	}
	low, ok := s.hex4()
	r = utf16.DecodeRune(r, low)
	return r, ok && r != utf8.RuneError
}

func (s *scanner) hex4() (rune, bool) {
	if len(s.text)-s.at < 4 {
		return 0, false
	}
	var r rune
	for _, c := range []byte(s.text[s.at : s.at+4]) {
		switch {
		case c-'0' <= 9:
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	s.at += 4
	return r, true
}
