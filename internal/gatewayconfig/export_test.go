package gatewayconfig

import "strings"

// Row is one member of the file, for the reference document.
type Row struct{ Path, Form, Default, Meaning string }

// Reference returns all members of the file in order.
func Reference() []Row { return rows(objectSchema(newDocument().members()), "") }

func rows(s schema, path string) (list []Row) {
	for _, p := range s.Properties {
		at := strings.TrimPrefix(path+"."+p.name, ".")
		row := Row{Path: at, Form: formOf(p.schema), Default: p.schema.preset, Meaning: p.schema.Description}
		for _, name := range s.Required {
			if name == p.name {
				row.Default = "required"
			}
		}
		list = append(list, row)
		list = append(list, below(p.schema, at)...)
	}
	return list
}

// below returns the members of a value and of what it contains.
func below(s schema, path string) []Row {
	list := rows(s, path)
	if s.Items != nil {
		list = append(list, below(*s.Items, path+"[]")...)
	}
	if value, ok := s.Additional.(*schema); ok {
		list = append(list, below(*value, path+".NAME")...)
	}
	return list
}

func formOf(s schema) string {
	switch {
	case s.Not != nil:
		return "-"
	case len(s.Enum) > 0:
		return "text"
	case s.Items != nil:
		return "list"
	}
	switch form := s.Type.(type) {
	case []string:
		return map[string]string{"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}[form[0]]
	case string:
		return map[string]string{"object": "object", "string": "text"}[form]
	}
	return ""
}
