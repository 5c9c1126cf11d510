package rawjson_test

import (
	"encoding/json"
	"testing"

	"signet/internal/rawjson"
)

type written struct {
	Name  string   `json:"n"`
	Other string   `json:"o,omitempty"`
	Count int64    `json:"c"`
	Times int64    `json:"t,omitempty"`
	List  []string `json:"l"`
	Inner *written `json:"i,omitempty"`
}

func (v *written) write(w *rawjson.Writer) {
	w.Begin()
	w.String("n", v.Name)
	w.Optional("o", v.Other)
	w.Number("c", v.Count)
	w.OptionalNumber("t", v.Times)
	w.Strings("l", v.List)
	if v.Inner != nil {
		w.Name("i")
		v.Inner.write(w)
	}
	w.End()
}

// What the writer says it could write is what encoding/json writes.
func TestWriterWritesAsEncodingJSON(t *testing.T) {
	list := []string{"read", "write"}
	for _, v := range []written{
		{Name: "a", List: list},
		{Name: "", Other: "x y~", Count: -1, Times: 1 << 62, List: []string{""}},
		{Name: "a", List: list, Inner: &written{Name: "b", List: list, Inner: &written{Name: "c", Times: -5, List: list}}},
	} {
		w := rawjson.NewWriter([]byte("before"))
		v.write(&w)
		text, ok := w.Text()
		want, err := json.Marshal(v)
		if !ok || err != nil || string(text) != "before"+string(want) {
			t.Errorf("%s, %v; want %s, %v", text, ok, want, err)
		}
	}
}

// Each text of which encoding/json could write a part in another way is left to it.
func TestWriterSaysWhatItCannotWrite(t *testing.T) {
	for _, s := range []string{`"`, `\`, "<", ">", "&", "\n", "\x00", "\x7f", "é", "\u2028", "\xff", "a\tb"} {
		for _, v := range []written{{Name: s, List: []string{"a"}}, {Other: s, List: []string{"a"}}, {List: []string{"a", s}}, {List: []string{"a"}, Inner: &written{Name: s, List: []string{"a"}}}} {
			w := rawjson.NewWriter(nil)
			v.write(&w)
			if text, ok := w.Text(); ok {
				t.Errorf("%q: written as %s", s, text)
			}
		}
	}
	for _, none := range [][]string{nil, {}} {
		w := rawjson.NewWriter(nil)
		(&written{List: none}).write(&w)
		if text, ok := w.Text(); ok {
			t.Errorf("%#v: written as %s", none, text)
		}
	}
}
