package configfile

import (
	"bytes"
	"encoding/json"
	"regexp"
)

// asYAML returns text as the YAML library reads it. A JSON document is YAML, except for tabs
// between its tokens, of which JSON has none inside of strings, and escapes of UTF-16 surrogates.
func asYAML(text []byte) []byte {
	if !json.Valid(text) {
		return text
	}
	text = bytes.ReplaceAll(text, []byte("\t"), []byte(" "))
	return escape.ReplaceAllFunc(text, func(escaped []byte) []byte {
		if len(escaped) <= len(`\n`) {
			return escaped
		}
		var character string
		if json.Unmarshal([]byte(`"`+string(escaped)+`"`), &character) != nil {
			return escaped
		}
		return []byte(character)
	})
}

// escape matches pairs of surrogates, lone ones, and the beginning of every other escape, so that
// an escaped backslash hides what follows it.
var escape = regexp.MustCompile(`\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\.`)
