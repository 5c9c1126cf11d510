package gatewayconfig

import (
	"bytes"
	"encoding/json"
)

// schema is a JSON Schema, as far as the file needs it.
type schema struct {
	Schema      string             `json:"$schema,omitempty"`
	Title       string             `json:"title,omitempty"`
	Description string             `json:"description,omitempty"`
	Type        any                `json:"type,omitempty"` // a text, or a list of texts
	Enum        []string           `json:"enum,omitempty"`
	Pattern     string             `json:"pattern,omitempty"`
	Minimum     *int               `json:"minimum,omitempty"`
	Maximum     *int               `json:"maximum,omitempty"`
	Items       *schema            `json:"items,omitempty"`
	Required    []string           `json:"required,omitempty"`
	Properties  map[string]*schema `json:"properties,omitempty"`
	Additional  any                `json:"additionalProperties,omitempty"` // false, or a *schema
	Not         *schema            `json:"not,omitempty"`
}

// objectSchema returns the schema of an object with members.
func objectSchema(members []member) schema {
	s := schema{Type: "object", Properties: map[string]*schema{}, Additional: false}
	for _, m := range members {
		property := m.schema
		property.Description = m.doc
		if m.preset != "" {
			property.Description += " (default: " + m.preset + ")"
		}
		s.Properties[m.name] = &property
		if m.must {
			s.Required = append(s.Required, m.name)
		}
	}
	return s
}

// Schema returns the JSON Schema of the file, for editors. It says less than [Parse] checks: not
// what members need of each other.
func Schema() []byte {
	s := objectSchema(newDocument().members())
	s.Schema, s.Title = "https://json-schema.org/draft/2020-12/schema", "Signet gateway"
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(s); err != nil {
		return nil // a struct of texts and numbers always encodes
	}
	return b.Bytes()
}
