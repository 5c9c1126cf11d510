package gatewayconfig

import (
	"bytes"
	"encoding/json"
)

// schema is a JSON Schema, as far as the file needs it.
type schema struct {
	Schema      string     `json:"$schema,omitempty"`
	Title       string     `json:"title,omitempty"`
	Description string     `json:"description,omitempty"`
	Type        any        `json:"type,omitempty"` // a text, or a list of texts
	Enum        []string   `json:"enum,omitempty"`
	Pattern     string     `json:"pattern,omitempty"`
	Minimum     *int       `json:"minimum,omitempty"`
	Maximum     *int       `json:"maximum,omitempty"`
	Items       *schema    `json:"items,omitempty"`
	Required    []string   `json:"required,omitempty"`
	Properties  properties `json:"properties,omitempty"`
	Additional  any        `json:"additionalProperties,omitempty"` // false, or a *schema
	Not         *schema    `json:"not,omitempty"`

	preset string // default, for people
}

// properties are the members of an object, in the order in which people read of them.
type properties []property

type property struct {
	name   string
	schema schema
}

// MarshalJSON returns an object whose members are in the order of p.
func (p properties) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, one := range p {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(one.name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(one.schema.described())
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// described returns s with the default in its description.
func (s schema) described() schema {
	if s.preset != "" {
		s.Description += " (default: " + s.preset + ")"
	}
	return s
}

// objectSchema returns the schema of an object with members.
func objectSchema(members []member) schema {
	s := schema{Type: "object", Additional: false}
	for _, m := range members {
		if m.alien {
			continue
		}
		m.schema.Description, m.schema.preset = m.doc, m.preset
		s.Properties = append(s.Properties, property{m.name, m.schema})
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
