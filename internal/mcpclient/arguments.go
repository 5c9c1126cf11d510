package mcpclient

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// Argument is an argument of a tool. Its value is a string unless the tool's input
// schema wants something else; then it is JSON.
type Argument struct{ Name, Value string }

// ArgumentError reports arguments that a tool does not take.
type ArgumentError struct{ error }

// typedArguments turns the arguments into the types that the tool's input schema names.
func typedArguments(tool *sdk.Tool, list []Argument) (map[string]any, error) {
	b, err := json.Marshal(tool.InputSchema)
	if err != nil {
		return nil, err
	}
	var schema struct {
		Properties map[string]json.RawMessage `json:"properties"`
	}
	if err := json.Unmarshal(b, &schema); err != nil {
		return nil, fmt.Errorf("the input schema of %s is malformed: %w", tool.Name, err)
	}
	args := map[string]any{}
	for _, a := range list {
		if _, twice := args[a.Name]; twice {
			return nil, fmt.Errorf("%s is given twice", a.Name)
		}
		types := schemaTypes(schema.Properties[a.Name])
		if len(types) == 0 || slices.Contains(types, "string") {
			args[a.Name] = a.Value
			continue
		}
		d := json.NewDecoder(strings.NewReader(a.Value))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil || d.More() || !slices.ContainsFunc(types, func(t string) bool { return hasType(v, t) }) {
			return nil, fmt.Errorf("%s must be %s in JSON, not %q", a.Name, strings.Join(types, " or "), a.Value)
		}
		args[a.Name] = v
	}
	return args, nil
}

// schemaTypes returns the types that a property may have, none if it does not say.
func schemaTypes(property json.RawMessage) []string {
	var one struct{ Type string }
	if json.Unmarshal(property, &one) == nil && one.Type != "" {
		return []string{one.Type}
	}
	var many struct{ Type []string }
	if json.Unmarshal(property, &many) != nil {
		return nil
	}
	return many.Type
}

func hasType(v any, name string) bool {
	switch v := v.(type) {
	case nil:
		return name == "null"
	case bool:
		return name == "boolean"
	case json.Number:
		return name == "number" || name == "integer" && !strings.ContainsAny(v.String(), ".eE")
	case []any:
		return name == "array"
	case map[string]any:
		return name == "object"
	}
	return false
}
