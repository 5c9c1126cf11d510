package gatewayconfig

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"go.yaml.in/yaml/v4"

	"signet/internal/rawjson"
)

// ErrByHand says that the pins of a server cannot be written into the text, because the text is
// JSON, or YAML in braces.
var ErrByHand = errors.New("is not written in lines of its own, so its pins must be added by hand")

// Pins are hashes of tools, by the servers' ids and the servers' own names of tools.
type Pins map[string]map[string]string

// Section returns pins as they stand in the entry of a server.
func (p Pins) Section(id, indent string) string {
	if len(p[id]) == 0 {
		return indent + "pins: {}\n"
	}
	b := []byte(indent + "pins:\n")
	for _, name := range slices.Sorted(maps.Keys(p[id])) { // quoted: some names and hashes look like numbers
		b = fmt.Appendf(b, "%s  %s: %s\n", indent, rawjson.Quote(name), rawjson.Quote(p[id][name]))
	}
	return string(b)
}

// Write returns the text of a configuration in YAML with the pins of these servers, in place of the
// pins that the text has for them. Everything else, comments too, stays as it is.
func (p Pins) Write(text []byte) ([]byte, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	written := map[string]bool{}
	entries := memberOf(&document, "servers")
	for i := range entries.Content { // from the last line to the first one, so that line numbers stay true
		entry := entries.Content[len(entries.Content)-1-i]
		id := memberOf(entry, "id").Value
		if _, ok := p[id]; !ok || entry != first(entries, id) {
			continue
		}
		if (document.Content[0].Style|entries.Style|entry.Style)&yaml.FlowStyle != 0 {
			return nil, fmt.Errorf("the server %s %w", id, ErrByHand)
		}
		written[id] = true
		lines = p.replace(lines, entry, id)
	}
	for _, id := range slices.Sorted(maps.Keys(p)) {
		if !written[id] {
			return nil, fmt.Errorf("the server %s is not in the file", id)
		}
	}
	out := bytes.Join(lines, nil)
	return out, p.verify(text, out)
}

// replace replaces the lines of an entry that have the pins, or adds them below the id.
func (p Pins) replace(lines [][]byte, entry *yaml.Node, id string) [][]byte {
	begin := memberOf(entry, "id").Line // the number of a line is the index of the next one
	end := begin
	for i := 0; i+1 < len(entry.Content); i += 2 {
		if entry.Content[i].Value == "pins" {
			begin, end = entry.Content[i].Line-1, lastLine(entry.Content[i+1])
		}
	}
	section := p.Section(id, string(bytes.Repeat([]byte(" "), entry.Content[0].Column-1)))
	if begin > 0 && !bytes.HasSuffix(lines[begin-1], []byte("\n")) { // the text ends here
		section = "\n" + section
	}
	if bytes.HasSuffix(lines[max(0, begin-1)], []byte("\r\n")) {
		section = string(bytes.ReplaceAll([]byte(section), []byte("\n"), []byte("\r\n")))
	}
	return slices.Concat(lines[:begin], [][]byte{[]byte(section)}, lines[min(end, len(lines)):])
}

// verify reports an error unless the texts differ in nothing but the pins.
func (p Pins) verify(before, after []byte) error {
	var old, now struct {
		Servers []map[string]any `yaml:"servers"`
		Rest    map[string]any   `yaml:",inline"`
	}
	if err := errors.Join(yaml.Unmarshal(before, &old), yaml.Unmarshal(after, &now)); err != nil {
		return fmt.Errorf("the file %w", ErrByHand)
	}
	seen := map[string]bool{}
	for _, server := range old.Servers {
		id, _ := server["id"].(string)
		if pins, ok := p[id]; ok && !seen[id] {
			seen[id] = true
			all := map[string]any{}
			for name, hash := range pins {
				all[name] = hash
			}
			server["pins"] = all
		}
	}
	if !reflect.DeepEqual(old, now) {
		return fmt.Errorf("the file %w", ErrByHand)
	}
	return nil
}

// memberOf returns a member of a mapping, or an empty node.
func memberOf(n *yaml.Node, name string) *yaml.Node {
	if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		n = n.Content[0]
	}
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return &yaml.Node{}
}

// first returns the first entry with an id.
func first(entries *yaml.Node, id string) *yaml.Node {
	for _, entry := range entries.Content {
		if memberOf(entry, "id").Value == id {
			return entry
		}
	}
	return nil
}

func lastLine(n *yaml.Node) int {
	last := n.Line
	for _, c := range n.Content {
		last = max(last, lastLine(c))
	}
	return last
}
