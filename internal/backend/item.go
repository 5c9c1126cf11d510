package backend

import (
	"fmt"
	"strings"

	"signet/internal/rawjson"
)

// forms are the members of the items of each list, by the first bytes that their values may have.
// Clients refuse a whole list for one item of another form.
var forms = map[string]map[string]string{
	"tools":             {"title": text, "description": text, "inputSchema": object, "outputSchema": object, "annotations": object, "icons": array, "execution": object, "_meta": object},
	"prompts":           {"title": text, "description": text, "arguments": array, "icons": array, "_meta": object},
	"resources":         {"name": text, "title": text, "description": text, "mimeType": text, "size": number, "annotations": object, "icons": array, "_meta": object},
	"resourceTemplates": {"name": text, "title": text, "description": text, "mimeType": text, "annotations": object, "icons": array, "_meta": object},
}

const (
	text   = `"`
	object = "{"
	array  = "["
	number = "-0123456789"
)

// ItemProblem returns what is wrong with the form of an item of a list, or "". The item is a JSON
// object whose name was checked.
func ItemProblem(list string, raw []byte) string {
	form := forms[list]
	for name, value := range rawjson.Members(raw) {
		if first, known := form[name]; known && !strings.Contains(first, string(value[:1])) {
			return fmt.Sprintf("its %s is not %s", name, map[string]string{text: "a string", object: "an object", array: "an array", number: "a number"}[first])
		}
	}
	switch list {
	case "tools":
		schema := rawjson.Get(raw, "inputSchema")
		if kind, _ := rawjson.String(rawjson.Get(schema, "type")); kind != "object" {
			return "it has no inputSchema of the type object"
		}
	case "prompts":
		for argument := range rawjson.Elements(rawjson.Get(raw, "arguments")) {
			if _, ok := rawjson.String(rawjson.Get(argument, "name")); !ok {
				return "an argument has no name"
			}
		}
	default:
		if rawjson.Get(raw, "name") == nil {
			return "it has no name"
		}
	}
	return ""
}
