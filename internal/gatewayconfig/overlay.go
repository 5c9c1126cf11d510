package gatewayconfig

import (
	"encoding/json"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"signet/internal/configfile"
)

// overrides are the variables that win over the file, with the paths of what they set.
var overrides = []struct{ name, path string }{
	{"PORT", "hosting.port"}, {"LOG_LEVEL", "logging.level"}, // MASTER_* win over these two
	{"MASTER_HOSTING_PLATFORM", "hosting.platform"}, {"MASTER_HOSTING_PORT", "hosting.port"}, {"MASTER_BASE_URL", "hosting.base_url"},
	{"MASTER_LOG_LEVEL", "logging.level"},
	{"MASTER_OAUTH_ISSUER", "master_oauth.issuer"}, {"MASTER_OAUTH_AUTHORIZATION_ENDPOINT", "master_oauth.authorization_endpoint"},
	{"MASTER_OAUTH_TOKEN_ENDPOINT", "master_oauth.token_endpoint"}, {"MASTER_OAUTH_JWKS_URI", "master_oauth.jwks_uri"},
	{"MASTER_OAUTH_CLIENT_ID", "master_oauth.client_id"}, {"MASTER_OAUTH_CLIENT_SECRET", "master_oauth.client_secret"},
	{"MASTER_OAUTH_REDIRECT_URI", "master_oauth.redirect_uri"}, {"MASTER_OAUTH_SCOPES", "master_oauth.scopes"},
	{"MASTER_OAUTH_AUDIENCE", "master_oauth.audience"},
	{"MASTER_SERVERS_YAML", "servers"}, {"MASTER_SERVERS", "servers"},
}

// counterparts are variables of master-mcp-server that have another name here.
var counterparts = []struct{ name, what string }{
	{"MASTER_CONFIG_PATH", "is not read: SIGNET_GATEWAY_CONFIG names the file"},
	{"MASTER_ENV", "is not read: there is one file, which SIGNET_GATEWAY_CONFIG names"},
	{"TOKEN_ENC_KEY", "is not read: tokens are sealed under SIGNET_SECRET, or the secret of the data directory"},
	{"LOG_FORMAT", "is not read: SIGNET_LOG_FORMAT sets the form of the log"},
}

// overlay puts the values of variables and flags over those of the file.
func (r *reader) overlay(root *yaml.Node) {
	for _, o := range overrides {
		if text, err := r.variable(o.name); err == nil {
			r.set(root, o.path, r.override(o.name, o.path, text))
		}
	}
	for _, c := range counterparts {
		if _, err := r.variable(c.name); err == nil {
			r.warn(c.name, "%s", c.what)
		}
	}
	for _, flag := range r.Flags {
		r.flag(root, flag)
	}
	r.keyVariable = "MASTER_CONFIG_KEY"
	if n := child(child(root, "security"), "config_key_env"); n != nil && n.Kind == yaml.ScalarNode {
		r.keyVariable = n.Value
	}
}

// override returns the value of a variable.
func (r *reader) override(name, path, text string) *yaml.Node {
	switch path {
	case "servers", "hosting.port":
		if n := r.Value(text, name); n != nil {
			return n
		}
		r.Fault(r.marked(&yaml.Node{}, name), path, "must be YAML or JSON")
		return nil
	case "master_oauth.scopes":
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for scope := range strings.SplitSeq(text, ",") {
			if scope = strings.TrimSpace(scope); scope != "" {
				n.Content = append(n.Content, textNode(scope))
			}
		}
		return r.marked(n, name)
	}
	return r.marked(textNode(text), name)
}

func (r *reader) marked(n *yaml.Node, from string) *yaml.Node {
	r.Mark(n, from)
	return n
}

func textNode(s string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Style: yaml.DoubleQuotedStyle, Tag: "!!str", Value: s}
}

// flag puts the value of a flag such as --hosting.port=4000 over that of the file. A value that is
// JSON counts as JSON, any other one as text.
func (r *reader) flag(root *yaml.Node, text string) {
	name, value, given := strings.Cut(text, "=")
	path, ok := strings.CutPrefix(name, "--")
	name = configfile.Cut(name, 64)
	if !ok || path == "" {
		r.Fault(r.marked(&yaml.Node{}, name), "", "must have the form --path.of.a.member=VALUE")
		return
	}
	if !given {
		value = "true"
	}
	n := r.marked(textNode(value), name)
	if json.Valid([]byte(value)) {
		if parsed := r.Value(value, name); parsed != nil {
			n = parsed
		}
	}
	r.set(root, path, n)
}

// set puts value at the path below root. Objects merge, everything else replaces what is there.
func (r *reader) set(root *yaml.Node, path string, value *yaml.Node) {
	if value == nil {
		return
	}
	names := strings.Split(path, ".")
	if len(names) > maxDepth {
		r.Fault(value, path, "is nested too deep")
		return
	}
	for i := len(names) - 1; i > 0; i-- {
		key := textNode(names[i])
		value = r.like(value, &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{r.like(value, key), value}})
	}
	r.merge(root, names[0], value)
}

const maxDepth = 32 // of the path of a flag

// like marks n as coming from where of comes from.
func (r *reader) like(of, n *yaml.Node) *yaml.Node {
	r.Mark(n, r.From(of))
	return n
}

// merge sets a member of the mapping n.
func (r *reader) merge(n *yaml.Node, name string, value *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			n.Content[i+1] = r.merged(name, n.Content[i+1], value)
			return
		}
	}
	n.Content = append(n.Content, r.like(value, textNode(name)), value)
}

// merged returns what a value makes of what is there. An object whose members are numbers changes the
// entries of a list with these indices.
func (r *reader) merged(name string, there, value *yaml.Node) *yaml.Node {
	switch {
	case value.Kind != yaml.MappingNode:
		return value
	case there.Kind == yaml.MappingNode:
		for j := 0; j+1 < len(value.Content); j += 2 {
			r.merge(there, value.Content[j].Value, value.Content[j+1])
		}
		return there
	case there.Kind != yaml.SequenceNode || !indices(value):
		return value
	}
	for j := 0; j+1 < len(value.Content); j += 2 {
		index, change := value.Content[j].Value, value.Content[j+1]
		i, err := strconv.Atoi(index)
		if err != nil || i >= len(there.Content) {
			r.Fault(change, name+"["+index+"]", "is not there: the list is shorter")
			continue
		}
		there.Content[i] = r.merged(index, there.Content[i], change)
	}
	return there
}

// indices reports whether all members of an object are indices of a list.
func indices(n *yaml.Node) bool {
	for j := 0; j+1 < len(n.Content); j += 2 {
		name := n.Content[j].Value
		if name == "" || len(name) > 4 || strings.Trim(name, "0123456789") != "" {
			return false
		}
	}
	return len(n.Content) > 0
}

// child returns a member of a mapping, or nil.
func child(n *yaml.Node, name string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}
