package seal

import (
	"encoding/json"
	"strconv"
	"strings"
)

// Every token request opens one [Refresh] and seals one, and opens a [Client] if that has
// registered. For these the reflection of encoding/json took longer than the cipher
// (BenchmarkSealOpenRefresh), so they are written and read here: the same text to the byte.
// What these writers and readers do not expect, such as an escape, is left to encoding/json.

// writable writes itself as JSON.
type writable interface{ write(w *jsonWriter) }

// readable reads one member of its JSON, and reports whether it could.
type readable interface {
	read(r *jsonReader, name string) bool
}

func marshal[T Artefact](v *T) ([]byte, error) {
	if known, ok := any(v).(writable); ok {
		w := jsonWriter{text: make([]byte, 0, 512)}
		if known.write(&w); !w.strange {
			return w.text, nil
		}
	}
	return json.Marshal(v)
}

// unmarshal reads text into v, which points to a zero value.
func unmarshal[T Artefact](text []byte, v *T) error {
	if known, ok := any(v).(readable); ok {
		r := jsonReader{text: string(text)}
		if r.object(known) && r.at == len(r.text) {
			return nil
		}
		*v = *new(T)
	}
	return json.Unmarshal(text, v)
}

func (v *Refresh) write(w *jsonWriter) {
	w.begin()
	w.name("g")
	v.Grant.write(w)
	w.number("n", v.Gen)
	w.number("x", v.Expires)
	w.end()
}

func (v *Refresh) read(r *jsonReader, name string) bool {
	switch name {
	case "g":
		return r.object(&v.Grant)
	case "n":
		return r.number(&v.Gen)
	case "x":
		return r.number(&v.Expires)
	}
	return false
}

func (g *Grant) write(w *jsonWriter) {
	w.begin()
	w.string("i", g.ID)
	w.string("e", g.Epoch)
	w.string("u", g.Subject)
	w.optional("v", g.UserVersion)
	w.string("c", g.ClientHash)
	w.optional("n", g.ClientName)
	w.optional("h", g.ConsentHash)
	w.strings("s", g.Scope)
	w.string("r", g.Resource)
	w.number("a", g.AuthTime)
	w.number("x", g.Expires)
	if g.Issued != 0 {
		w.number("t", g.Issued)
	}
	w.end()
}

func (g *Grant) read(r *jsonReader, name string) bool {
	switch name {
	case "i":
		return r.string(&g.ID)
	case "e":
		return r.string(&g.Epoch)
	case "u":
		return r.string(&g.Subject)
	case "v":
		return r.string(&g.UserVersion)
	case "c":
		return r.string(&g.ClientHash)
	case "n":
		return r.string(&g.ClientName)
	case "h":
		return r.string(&g.ConsentHash)
	case "s":
		return r.strings(&g.Scope)
	case "r":
		return r.string(&g.Resource)
	case "a":
		return r.number(&g.AuthTime)
	case "x":
		return r.number(&g.Expires)
	case "t":
		return r.number(&g.Issued)
	}
	return false
}

func (c *Client) read(r *jsonReader, name string) bool {
	switch name {
	case "n":
		return r.string(&c.Name)
	case "r":
		return r.strings(&c.RedirectURIs)
	case "m":
		return r.string(&c.Method)
	case "s":
		return r.strings(&c.Scope)
	case "t":
		return r.number(&c.Issued)
	case "l":
		return r.strings(&c.PostLogoutRedirectURIs)
	}
	return false
}

// jsonWriter writes objects as encoding/json does.
type jsonWriter struct {
	text    []byte
	strange bool // a string needs an escape, or may need one
}

func (w *jsonWriter) begin() { w.text = append(w.text, '{') }
func (w *jsonWriter) end()   { w.text = append(w.text, '}') }

func (w *jsonWriter) name(name string) {
	if w.text[len(w.text)-1] != '{' {
		w.text = append(w.text, ',')
	}
	w.value(name)
	w.text = append(w.text, ':')
}

func (w *jsonWriter) value(s string) {
	for i := range len(s) {
		w.strange = w.strange || !isPlain(s[i])
	}
	w.text = append(w.text, '"')
	w.text = append(w.text, s...)
	w.text = append(w.text, '"')
}

func (w *jsonWriter) string(name, value string) {
	w.name(name)
	w.value(value)
}

// optional leaves an empty value out.
func (w *jsonWriter) optional(name, value string) {
	if value != "" {
		w.string(name, value)
	}
}

func (w *jsonWriter) number(name string, n int64) {
	w.name(name)
	w.text = strconv.AppendInt(w.text, n, 10)
}

func (w *jsonWriter) strings(name string, list []string) {
	w.name(name)
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

// jsonReader reads what a jsonWriter writes. Strings that it reads are parts of the text.
type jsonReader struct {
	text string
	at   int
}

// isPlain reports whether c stands for itself in a JSON string, whoever writes it.
func isPlain(c byte) bool {
	return c >= ' ' && c <= '~' && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
}

// take reports whether c is next, and if so moves past it.
func (r *jsonReader) take(c byte) bool {
	if r.at == len(r.text) || r.text[r.at] != c {
		return false
	}
	r.at++
	return true
}

func (r *jsonReader) object(v readable) bool {
	for open := byte('{'); r.take(open); open = ',' {
		var name string
		if !r.string(&name) || !r.take(':') || !v.read(r, name) {
			return false
		}
		if r.take('}') {
			return true
		}
	}
	return false
}

func (r *jsonReader) string(s *string) bool {
	if !r.take('"') {
		return false
	}
	start := r.at
	for r.at < len(r.text) && isPlain(r.text[r.at]) {
		r.at++
	}
	*s = r.text[start:r.at]
	return r.take('"')
}

func (r *jsonReader) number(n *int64) bool {
	start := r.at
	for r.at < len(r.text) && (r.text[r.at]-'0' <= 9 || r.text[r.at] == '-') {
		r.at++
	}
	text := r.text[start:r.at]
	var err error
	*n, err = strconv.ParseInt(text, 10, 64)
	return err == nil && (text == "0" || strings.TrimPrefix(text, "-")[0] != '0')
}

func (r *jsonReader) strings(list *[]string) bool {
	for open := byte('['); r.take(open); open = ',' {
		var s string
		if !r.string(&s) {
			return false
		}
		if *list = append(*list, s); r.take(']') {
			return true
		}
	}
	return false
}
