package rawjson

import (
	"encoding/json"
	"strconv"
	"strings"
)

// Writer writes an object as encoding/json does, to the byte, for the few texts that every
// request writes: reflection takes several times as long. Begin and the method for a member come
// in the order of the text.
type Writer struct {
	text    []byte
	strange bool
}

// NewWriter returns a Writer that appends the object to text.
func NewWriter(text []byte) Writer { return Writer{text: text} }

// Text returns the text with the object. ok is false if a string needs an escape, or if encoding/json
// could write a value in another way: then the caller leaves the object to encoding/json.
func (w *Writer) Text() (text []byte, ok bool) { return w.text, !w.strange }

// Append appends v as encoding/json writes it. write writes v if it can; nil: it cannot.
func Append(b []byte, v any, write func(*Writer)) ([]byte, error) {
	if write != nil {
		w := NewWriter(b)
		write(&w)
		if text, ok := w.Text(); ok {
			return text, nil
		}
	}
	text, err := json.Marshal(v)
	return append(b, text...), err
}

// Begin begins an object: the outermost, or the value of the last Name.
func (w *Writer) Begin() { w.text = append(w.text, '{') }

// End ends the object that began last.
func (w *Writer) End() { w.text = append(w.text, '}') }

// Name writes the name of a member, whose value is next.
func (w *Writer) Name(name string) {
	if w.text[len(w.text)-1] != '{' {
		w.text = append(w.text, ',')
	}
	w.value(name)
	w.text = append(w.text, ':')
}

// String writes a member.
func (w *Writer) String(name, value string) {
	w.Name(name)
	w.value(value)
}

// Optional writes a member unless its value is empty.
func (w *Writer) Optional(name, value string) {
	if value != "" {
		w.String(name, value)
	}
}

// Number writes a member.
func (w *Writer) Number(name string, n int64) {
	w.Name(name)
	w.text = strconv.AppendInt(w.text, n, 10)
}

// OptionalNumber writes a member unless its value is 0.
func (w *Writer) OptionalNumber(name string, n int64) {
	if n != 0 {
		w.Number(name, n)
	}
}

// Strings writes a member whose value is a list.
func (w *Writer) Strings(name string, list []string) {
	w.Name(name)
	w.strange = w.strange || len(list) == 0 // null or []
	w.text = append(w.text, '[')
	for i, s := range list {
		if i > 0 {
			w.text = append(w.text, ',')
		}
		w.value(s)
	}
	w.text = append(w.text, ']')
}

func (w *Writer) value(s string) {
	for i := range len(s) {
		if !Plain(s[i]) {
			w.strange = true
			return
		}
	}
	w.text = append(w.text, '"')
	w.text = append(w.text, s...)
	w.text = append(w.text, '"')
}

// Plain reports whether c stands for itself in a string, whoever writes it: encoding/json also
// escapes what means something in HTML.
func Plain(c byte) bool { return plain[c] }

// plain is a table because each character of each token is looked up: it takes half the time of
// comparisons.
var plain = func() (t [256]bool) {
	for c := ' '; c <= '~'; c++ {
		t[c] = !strings.ContainsRune(`"\<>&`, c)
	}
	return t
}()
