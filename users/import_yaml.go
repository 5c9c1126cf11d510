package users

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// yamlBegin is the line before the users in a users file of Authelia.
var yamlBegin = regexp.MustCompile(`(?m)^users:[ \t]*(#.*)?\r?$`)

func isYAML(text []byte) bool { return yamlBegin.Match(text) }

// ignored are the members of an Authelia user that a user of Signet does not have.
var ignored = []string{
	"groups", "given_name", "family_name", "middle_name", "nickname", "gender", "birthdate", "website", "profile", "picture", "zoneinfo", "locale", "phone_number", "phone_extension", "address", "extra",
}

// parseYAML reads a users file of Authelia: a mapping of names to their hashes and
// what else is known. The library's errors may quote the file, so only the line is kept.
func parseYAML(text []byte) []parsed {
	if !utf8.Valid(text) {
		return []parsed{{line: 1, err: errors.New("not UTF-8; convert the file first, for example with iconv")}}
	}
	var document yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&document); err != nil {
		line := 1
		var at *yaml.LoadError
		if errors.As(err, &at) {
			line = max(line, at.Mark.Line)
		}
		return []parsed{{line: line, err: errors.New("not YAML as Authelia has it")}}
	}
	if err := d.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return []parsed{{line: 1, err: errors.New("more than one YAML document")}}
	}
	root := document.Content[0]
	var users *yaml.Node
	for _, m := range members(root) {
		if m.err != nil || m.name != "users" || users != nil {
			return []parsed{{line: m.line, err: errors.New("a users file of Authelia has the member users, and nothing beside it")}}
		}
		users = m.value
	}
	if users == nil || users.Kind != yaml.MappingNode {
		return []parsed{{line: root.Line, err: errors.New("a users file of Authelia has users with members of their own")}}
	}
	var all []parsed
	for _, m := range members(users) {
		e, err := &entry{}, m.err
		if err == nil {
			e, err = parseMember(m)
		}
		all = append(all, parsed{e, m.line, err})
	}
	return all
}

// member is a member of a mapping.
type member struct {
	name  string
	value *yaml.Node
	line  int
	err   error
}

// members returns the members of a mapping in their order.
func members(n *yaml.Node) (all []member) {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		m := member{name: key.Value, value: value, line: key.Line}
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" || value.Kind == yaml.AliasNode {
			m.err = errors.New("an alias, or a name that is not a text")
		}
		all = append(all, m)
	}
	return all
}

// parseMember reads one user.
func parseMember(m member) (*entry, error) {
	name, err := CheckName(m.name)
	if err != nil {
		return nil, err
	}
	e := &entry{line: m.line, Imported: Imported{User: User{Subject: name, Name: name}}}
	var seen []string
	for _, f := range members(m.value) {
		if f.err != nil || slices.Contains(seen, f.name) {
			return nil, fmt.Errorf("line %d has a member twice, or an alias", f.line)
		}
		seen = append(seen, f.name)
		if slices.Contains(ignored, f.name) {
			continue
		}
		if err := e.takeMember(f); err != nil {
			return nil, err
		}
	}
	if e.hash == "" {
		return nil, errors.New("the user has no member password with a hash of bcrypt or argon2id")
	}
	r := record{Email: e.Email, DisplayName: e.DisplayName}
	return e, r.checkText()
}

// takeMember takes one member of a user.
func (e *entry) takeMember(f member) error {
	if f.value.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d is not one value", f.line)
	}
	switch f.name {
	case "password":
		known, err := e.takeHash(f.value.Value)
		if err == nil && !known {
			err = errors.New("no hash of bcrypt or argon2id")
		}
		return err
	case "displayname":
		e.DisplayName = f.value.Value
	case "email":
		e.Email = f.value.Value
	case "disabled":
		if f.value.Tag != "!!bool" {
			return errors.New("disabled is neither true nor false")
		}
		return f.value.Decode(&e.Disabled)
	default:
		return fmt.Errorf("line %d has a member that Authelia's users do not have", f.line)
	}
	return nil
}
