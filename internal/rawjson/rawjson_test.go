package rawjson

import (
	"encoding/json"
	"reflect"
	"testing"
	"unicode/utf8"
)

// FuzzMembers compares the parts that are found with what encoding/json decodes.
func FuzzMembers(f *testing.F) {
	for _, s := range []string{`{}`, ` {"a" : 1 , "b\u0041":[1,{"c":"}"}], "":null}`, `[]`, `[1,"a\"]",{"x":[]}]`, `"x"`, `1`, ``, ` `} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if !json.Valid(data) || !utf8.Valid(data) {
			return
		}
		var object map[string]json.RawMessage
		if json.Unmarshal(data, &object) == nil && object != nil {
			found := map[string]json.RawMessage{}
			for key, value := range Members(data) {
				found[key] = value
				if again := Replace(data, value, value); string(again) != string(data) {
					t.Fatalf("Replace with the same text gives %q", again)
				}
			}
			if len(object) != len(found) || len(object) > 0 && !reflect.DeepEqual(object, found) {
				t.Fatalf("members %q, encoding/json says %q", found, object)
			}
		}
		var array []json.RawMessage
		if json.Unmarshal(data, &array) == nil {
			i := 0
			for element := range Elements(data) {
				if i >= len(array) || string(element) != string(array[i]) {
					t.Fatalf("element %d is %q, encoding/json says %q", i, element, array)
				}
				i++
			}
			if i != len(array) {
				t.Fatalf("%d elements, encoding/json says %d", i, len(array))
			}
		}
	})
}

func TestReplaceChangesOnePart(t *testing.T) {
	data := []byte(`{"a":{"name":"x<y","z":[1, 2]},"name":"k"}`)
	name := Get(Get(data, "a"), "name")
	if got := string(Replace(data, name, Quote("b&c"))); got != `{"a":{"name":"b&c","z":[1, 2]},"name":"k"}` {
		t.Error(got)
	}
	if text, ok := String(name); !ok || text != "x<y" {
		t.Errorf("String gives %q, %t", text, ok)
	}
}
