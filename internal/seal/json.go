package seal

import (
	"encoding/json"
	"strconv"
	"strings"

	"signet/internal/rawjson"
)

// Every token request opens one [Refresh] and seals one, and opens a [Client] if that has
// registered. For these the reflection of encoding/json took longer than the cipher
// (BenchmarkSealOpenRefresh), so they are written and read here: the same text to the byte.
// What these writers and readers do not expect, such as an escape, is left to encoding/json.

// writable writes itself as JSON.
type writable interface{ write(w *rawjson.Writer) }

// readable reads one member of its JSON, and reports whether it could.
type readable interface {
	read(r *jsonReader, name string) bool
}

// appendJSON appends the JSON of v to b.
func appendJSON[T Artefact](b []byte, v *T) ([]byte, error) {
	if known, ok := any(v).(writable); ok {
		return rawjson.Append(b, v, known.write)
	}
	return rawjson.Append(b, v, nil)
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

func (v *Refresh) write(w *rawjson.Writer) {
	w.Begin()
	w.Name("g")
	v.Grant.write(w)
	w.Number("n", v.Gen)
	w.Number("x", v.Expires)
	w.End()
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

func (g *Grant) write(w *rawjson.Writer) {
	w.Begin()
	w.String("i", g.ID)
	w.String("e", g.Epoch)
	w.String("u", g.Subject)
	w.Optional("v", g.UserVersion)
	w.String("c", g.ClientHash)
	w.Optional("n", g.ClientName)
	w.Optional("h", g.ConsentHash)
	w.Strings("s", g.Scope)
	w.String("r", g.Resource)
	w.Number("a", g.AuthTime)
	w.Number("x", g.Expires)
	w.OptionalNumber("t", g.Issued)
	if len(g.Lost) > 0 {
		w.Strings("l", g.Lost)
	}
	w.End()
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
	case "l":
		return r.strings(&g.Lost)
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

// jsonReader reads what a [rawjson.Writer] writes. Strings that it reads are parts of the text.
type jsonReader struct {
	text string
	at   int
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
	for r.at < len(r.text) && rawjson.Plain(r.text[r.at]) {
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
		if *list == nil {
			*list = make([]string, 0, 4)
		}
		if *list = append(*list, s); r.take(']') {
			return true
		}
	}
	return false
}
