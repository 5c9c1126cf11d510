package upstream

import (
	_ "embed"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"signet/internal/configfile"
)

//go:embed presets.yaml
var presetsFile []byte

// issuerForm is what the issuers of a preset look like.
type issuerForm struct {
	example string
	pattern *regexp.Regexp
}

// presets returns the built-in presets by their names.
func presets() map[string]*yaml.Node {
	r := &reader{}
	all := map[string]*yaml.Node{}
	if root := r.Document(presetsFile); root != nil {
		r.Each(root, "", func(name string, _, value *yaml.Node, _ string) { all[name] = value })
	}
	return all
}

// preset reads the preset that an entry names into it, before the entry's own members.
func (r *reader) preset(n *yaml.Node, path string, e *entry) {
	if n.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != "preset" {
			continue
		}
		named, all := n.Content[i+1], presets()
		preset, ok := all[named.Value]
		if !ok || named.Kind != yaml.ScalarNode {
			r.Fault(named, configfile.Below(path, "preset"), "must be one of %s", strings.Join(slices.Sorted(maps.Keys(all)), ", "))
			return
		}
		known := r.known(e)
		var pattern string
		known["issuer_form"], known["issuer_pattern"] = r.text(&e.form.example), r.text(&pattern)
		r.Members(preset, "preset "+named.Value, known)
		e.form.pattern = regexp.MustCompile(pattern)
		e.at = map[string]*yaml.Node{}
		return
	}
}

// checkForm checks the issuer of an entry with a preset.
func (e *entry) checkForm(wrong func(name, what string)) {
	if e.form.pattern == nil || e.form.pattern.String() == "" {
		return
	}
	if !e.form.pattern.MatchString(e.issuer) {
		wrong("issuer", "must be in the form "+e.form.example)
	}
}
