package durable_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"signet/internal/durable"
)

type named struct {
	Name string `json:"name"`
}

type list struct {
	Items []item `json:"items"`
	Ready bool   `json:"ready,omitempty"`
	Level level  `json:"level,omitempty"`
}

// level is a type that reads its own text.
type level string

func (l *level) UnmarshalText(text []byte) error {
	if *l = level(text); *l != "" && *l != "low" && *l != "high" {
		return errors.New("neither low nor high")
	}
	return nil
}

type item struct {
	named
	Tags []string `json:"tags"`
	Next *struct {
		N int `json:"n"`
	} `json:"-"`
}

var listJSON = durable.NewJSON[list]()

func TestJSONRefusesWhatIsNotMeant(t *testing.T) {
	for _, tt := range []struct {
		text, path, what string
		line             int
	}{
		{``, "", "not one JSON value", 1},
		{`{"items":[`, "items", "not one JSON value", 1},
		{`{"items":[]}x`, "", "follows", 1},
		{`{"items":[]} {}`, "", "follows", 1},
		{"{\"items\":\n[{\"name\":\"a\",\n\"nmae\":\"b\"}]}", "items[0]", "unknown member; there are name, tags", 3},
		{`{"Items":[]}`, "", "unknown member; there are items, level, ready", 1},
		{`{"items":[],"items":[]}`, "", "items is there twice", 1},
		{"{\"items\":[{},\n{\"name\":\"a\",\"name\":\"a\"}]}", "items[1]", "name is there twice", 2},
		{`{"items":[{"Next":null}]}`, "items[0]", "unknown member", 1},
		{`{"items":{"name":"a"}}`, "items", "wrong type", 1},
		{`{"items":[[]]}`, "items[0]", "wrong type", 1},
		{`{"items":[{"tags":[["a"]]}]}`, "items[0].tags[0]", "wrong type", 1},
		{"{\"items\":[{\"tags\":[\"a\",\n1]}]}", "items.tags", "wrong type", 2},
		{`{"ready":"yes"}`, "ready", "wrong type", 1},
		{"{\"items\":[],\n\"level\":\"PASSWORD\"}", "level", "level: neither low nor high", 2},
		{`{"level":1}`, "level", "wrong type", 1},
		{`[]`, "", "wrong type", 1},
		{"{\"items\":[{\"name\":\"\xff\"}]}", "", "UTF-8", 1},
		{`{"items":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `}`, "items[0]", "wrong type", 1},
	} {
		_, err := listJSON.Parse([]byte(tt.text))
		var fault *durable.JSONFault
		if !errors.As(err, &fault) || fault.Path != tt.path || fault.Line != tt.line || !strings.Contains(err.Error(), tt.what) || strings.Contains(err.Error(), "PASSWORD") {
			t.Errorf("%.60s: %v (%+v); want %q at %s, line %d", tt.text, err, fault, tt.what, tt.path, tt.line)
		}
	}
}

// What is read is what encoding/json reads, and reads the same once more.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{`{"items":[{"name":"a","tags":["b"]}],"ready":true}`, `null`, `{"items":null}`, `{"items":[],"Items":[]}`, `{"ready":1}`, `{"level":"low"}`, `{"level":null}`, `[[`, `{"items":[{}]}{}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := listJSON.Parse([]byte(text))
		if err != nil {
			return
		}
		var want list
		if err := json.Unmarshal([]byte(text), &want); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, encoding/json says %+v, %v", got, want, err)
		}
		b, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := listJSON.Parse(b); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%s: %+v, %v; want %+v", b, again, err, got)
		}
	})
}
