package backend_test

import (
	"strings"
	"testing"

	"signet/internal/backend"
)

// Each item is good but for one member.
func TestItemsOfAnotherFormAreFound(t *testing.T) {
	good := map[string]string{
		"tools":             `{"name":"n","title":"t","description":"d","inputSchema":{"type":"object"},"outputSchema":{},"annotations":{},"icons":[],"execution":{},"_meta":{},"x":1}`,
		"prompts":           `{"name":"n","title":"t","description":"d","arguments":[{"name":"a"}],"icons":[],"_meta":{},"x":1}`,
		"resources":         `{"uri":"u","name":"n","title":"t","description":"d","mimeType":"m","size":-1,"annotations":{},"icons":[],"_meta":{},"x":1}`,
		"resourceTemplates": `{"uriTemplate":"u","name":"n","title":"t","description":"d","mimeType":"m","annotations":{},"icons":[],"_meta":{},"x":1}`,
	}
	for list, item := range good {
		if why := backend.ItemProblem(list, []byte(item)); why != "" {
			t.Errorf("a good item of %s: %s", list, why)
		}
	}
	for list, changes := range map[string][][3]string{
		"tools": {
			{`"t"`, `null`, "its title is not a string"}, {`"d"`, `5`, "its description is not a string"}, {`{"type":"object"}`, `[]`, "its inputSchema is not an object"},
			{`{"type":"object"}`, `null`, "its inputSchema is not an object"}, {`"object"`, `"string"`, "it has no inputSchema of the type object"}, {`{"type":"object"}`, `{}`, "it has no inputSchema"},
			{`"inputSchema"`, `"y"`, "it has no inputSchema"}, {`"outputSchema":{}`, `"outputSchema":true`, "its outputSchema is not an object"}, {`"annotations":{}`, `"annotations":"x"`, "its annotations is not an object"},
			{`"icons":[]`, `"icons":{}`, "its icons is not an array"}, {`"execution":{}`, `"execution":null`, "its execution is not an object"}, {`"_meta":{}`, `"_meta":[]`, "its _meta is not an object"},
		},
		"prompts": {
			{`[{"name":"a"}]`, `{}`, "its arguments is not an array"}, {`{"name":"a"}`, `{}`, "an argument has no name"}, {`{"name":"a"}`, `"a"`, "an argument has no name"}, {`"a"`, `1`, "an argument has no name"},
		},
		"resources":         {{`"name":"n",`, ``, "it has no name"}, {`"n"`, `1`, "its name is not a string"}, {`"m"`, `[]`, "its mimeType is not a string"}, {`-1`, `"1"`, "its size is not a number"}},
		"resourceTemplates": {{`"name":"n",`, ``, "it has no name"}, {`"annotations":{}`, `"annotations":null`, "its annotations is not an object"}},
	} {
		for _, c := range changes {
			item := strings.Replace(good[list], c[0], c[1], 1)
			if why := backend.ItemProblem(list, []byte(item)); !strings.HasPrefix(why, c[2]) {
				t.Errorf("%s: %q, want %q", item, why, c[2])
			}
		}
	}
}
