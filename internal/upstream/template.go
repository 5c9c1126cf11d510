package upstream

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// The names that may stand in braces in the values of a body.
const (
	typedName      = "username"
	localPart      = "local_part" // of the typed name: what is before the @
	typedPassword  = "password"
	refreshToken   = "refresh_token"
	accessToken    = "access_token"
	anyPlaceholder = `\{([a-z_]+)\}`
)

var placeholder = regexp.MustCompile(anyPlaceholder)

// checkTemplate returns what is wrong with a text in a body in which only names may stand in
// braces.
func checkTemplate(s string, names []string) string {
	for _, found := range placeholder.FindAllStringSubmatch(s, -1) {
		if !slices.Contains(names, found[1]) {
			return fmt.Sprintf("{%s} is not known here; there are {%s}", found[1], strings.Join(names, "}, {"))
		}
	}
	if strings.ContainsAny(placeholder.ReplaceAllString(s, ""), "{}") {
		return "braces enclose one of {" + strings.Join(names, "}, {") + "}"
	}
	return ""
}

// uses returns the names that stand in braces in a body.
func uses(body any) (names []string) {
	switch v := body.(type) {
	case string:
		for _, found := range placeholder.FindAllStringSubmatch(v, -1) {
			names = append(names, found[1])
		}
	case map[string]any:
		for _, member := range v {
			names = append(names, uses(member)...)
		}
	case []any:
		for _, element := range v {
			names = append(names, uses(element)...)
		}
	}
	return names
}

// fill returns the JSON of a body in which values replace the names in braces. It replaces in
// strings before they become JSON, so that no value can end its string.
func fill(body any, values map[string]string) ([]byte, error) {
	return json.Marshal(replace(body, values))
}

func replace(body any, values map[string]string) any {
	switch v := body.(type) {
	case string:
		return placeholder.ReplaceAllStringFunc(v, func(s string) string { return values[strings.Trim(s, "{}")] })
	case map[string]any:
		filled := make(map[string]any, len(v))
		for name, member := range v {
			filled[name] = replace(member, values)
		}
		return filled
	case []any:
		filled := make([]any, len(v))
		for i, element := range v {
			filled[i] = replace(element, values)
		}
		return filled
	}
	return body
}
