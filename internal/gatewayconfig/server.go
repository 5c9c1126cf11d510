package gatewayconfig

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"signet/internal/oauth"
)

// entry is one entry of servers: a server, or another instance of one.
type entry struct {
	path string

	id, name, kind, strategy, ask string
	endpoint                      // url of the entry, and weight
	config                        endpoint
	instances                     []*endpoint
	auth                          *yaml.Node
	credentials                   credentials

	scopes, expose, hide []string
	tools                map[string]Tool
	pins                 map[string]string

	timeout, health        time.Duration
	maxAnswer, maxRequests int
}

func newEntry(path string) *entry {
	return &entry{
		path: path, ask: "auto", timeout: time.Minute, health: 30 * time.Second, maxAnswer: 10 << 20, maxRequests: 64,
		tools: map[string]Tool{}, pins: map[string]string{},
	}
}

// strategies are those that need no program of the operator's.
var strategies = []string{MasterOAuth, DelegateOAuth, ProxyOAuth, Upstream, UserKey, Bypass}

// Types of servers.
const (
	typeHTTP  = "http"
	typeStdio = "stdio"
	typeLocal = "local"
)

// serverTypes are the types that there are. Those after local need the address of a server that
// the operator runs.
var serverTypes = []string{typeHTTP, typeStdio, typeLocal, "git", "npm", "pypi", "docker"}

// members are the members of an entry of servers.
func (e *entry) members() []member {
	notFetched := "nothing is fetched or built; a package starts with type stdio, such as command: npx, args: [-y, NAME]"
	return []member{
		text("id", "begins the names of the server's tools; of letters, digits, dot, hyphen and underscore", &e.id, checkID).needed(),
		text("name", "for people", &e.name, checkName).by("id"),
		oneOf("type", "http: an address; stdio: a program; local, and the others if a server of theirs is running: a port or an address", &e.kind, serverTypes...).needed(),
		{name: "auth_strategy", doc: "what the server gets to know the caller by: " + strings.Join(strategies, ", ") + ", or the name of a strategy that the program has registered",
			must: true, schema: schema{Type: "string"}, read: e.readStrategy},
		{name: "auth_config", doc: "what the strategy needs", schema: objectSchema(new(credentials).members(ofAny)), read: func(r *reader, n *yaml.Node, _ string) { e.auth = n }},
		text("url", "address of the server, or file://PATH of a JavaScript program for node", &e.url, nil).readingForm(address, e.readURL(&e.endpoint)),
		group("config", "where the server is, or how it is started", e.config.members(e)),
		each("instances", "more instances of the server, each with the members of config and weight", new(endpoint).instanceMembers(e), func(r *reader, n *yaml.Node, path string) {
			i := &endpoint{}
			r.object(n, path, i.instanceMembers(e))
			e.instances = append(e.instances, i)
		}),
		number("weight", "share of the messages, with loadBalancer.strategy weighted", &e.weight, 1, 1000).by("1"),
		list("scopes", "that callers need for everything of this server", &e.scopes, checkScope),
		named("tools", "by the server's own names", objectSchema(toolMembers(&Tool{})), func(r *reader, name string, n *yaml.Node, path string) {
			var t Tool
			r.object(n, path, toolMembers(&t))
			e.tools[name] = t
		}),
		list("expose", "patterns of the names of tools that are served, such as get_*", &e.expose, checkPattern).by("all, unless security.deny_by_default"),
		list("hide", "patterns of the names of tools that are not served", &e.hide, checkPattern),
		named("pins", "hashes of the tools that the operator has reviewed, as `signet gateway pin` prints them; with pins, no other tool is served, and none that has changed since", schema{Type: "string"}, func(r *reader, name string, n *yaml.Node, path string) {
			s, ok := r.text(n, path, form{})
			switch {
			case ok && (len(s) != 2*sha256.Size || strings.Trim(s, "0123456789abcdef") != ""):
				r.Fault(n, path, "is not the hash of a tool: `signet gateway pin` prints them, of 64 digits and letters from a to f")
			case ok:
				e.pins[name] = s
			}
		}),
		oneOf("ask", "how a user is asked to connect an account: auto, elicit (URL elicitation), challenge (401) or error (result of the call)", &e.ask, "auto", "elicit", "challenge", "error").by("auto"),
		flag("passthrough", "the same as auth_config.passthrough", &e.credentials.passthrough).by("false"),
		oneOf("fallback", "the same as auth_config.fallback", &e.credentials.fallback, "passthrough"),
		period("timeout", "of one message; a stream that sends events is not ended by it", &e.timeout, time.Millisecond, time.Hour).by("60s"),
		number("max_answer", "bytes of one answer", &e.maxAnswer, 1<<10, 1<<30).by("10485760"),
		number("max_requests", "messages that run at once, over all instances", &e.maxRequests, 1, 1<<16).by("64"),
		period("health_interval", "between two checks of the server", &e.health, time.Second, 24*time.Hour).by("30s"),
		refused("package", notFetched), refused("version", notFetched), refused("branch", notFetched),
	}
}

func toolMembers(t *Tool) []member {
	return []member{
		list("scopes", "that callers need besides those of the server", &t.Scopes, checkScope),
		flag("hide", "true: callers without the scopes do not see the tool", &t.Hide).by("false"),
		flag("idempotent", "true: the tool may be called again if an outcome is not known", &t.Idempotent).by("false"),
	}
}

func (e *entry) readStrategy(r *reader, n *yaml.Node, path string) {
	known := append(slices.Clone(strategies), r.Strategies...)
	s, ok := r.text(n, path, form{})
	switch {
	case ok && !slices.Contains(known, s):
		r.Fault(n, path, "must be one of %s", strings.Join(known, ", "))
	case ok:
		e.strategy = s
	}
}

// idForm leaves out the length, which would be compiled into dozens of states at every start.
var idForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

func checkID(s string) string {
	if len(s) > 64 || !idForm.MatchString(s) {
		return "must be 1 to 64 letters, digits, dots, hyphens and underscores, and begin with a letter or digit"
	}
	return ""
}

func checkName(s string) string {
	if len(s) > 64 {
		return "has more than 64 bytes"
	}
	return ""
}

func checkPattern(s string) string {
	if _, err := path.Match(s, ""); err != nil {
		return "is not a pattern: * stands for any characters, ? for one, [a-z] for one of several"
	}
	return ""
}

// server adds the server of an entry to c, or the entry's instances to the server of an earlier
// entry.
func (r *reader) server(c *Config, d *document, e *entry) {
	before := r.Faults()
	instances := r.endpoints(e)
	if r.Faults() > before {
		return
	}
	if first, ok := c.Server(e.id); ok {
		if r.agree(e, r.paths[e.id]) {
			first.Instances = append(first.Instances, instances...)
		}
		return
	}
	s := &Server{
		ID: e.id, Name: e.name, Instances: instances, Strategy: e.strategy, Ask: e.ask,
		Scopes: e.scopes, Tools: e.tools, Expose: e.expose, Hide: e.hide,
		Timeout: e.timeout, MaxAnswer: e.maxAnswer, MaxRequests: e.maxRequests, HealthEvery: e.health,
	}
	if s.Name == "" {
		s.Name = s.ID
	}
	if r.has(e.path + ".pins") {
		s.Pins = e.pins
	}
	r.paths[e.id] = e.path
	c.Servers = append(c.Servers, s)
	r.strategy(c, d, e, s)
}

// instanceOnly are the members that entries of one id need not have in common.
var instanceOnly = []string{"url", "config", "instances", "weight", "type"}

// agree checks that a later entry of an id says the same as the first one.
func (r *reader) agree(e *entry, first string) bool {
	before := r.Faults()
	for _, m := range e.members() {
		at := e.path + "." + m.name
		if r.has(at) && !slices.Contains(instanceOnly, m.name) && !same(r.at[at], r.at[first+"."+m.name]) {
			r.wrong(at, "differs from that of %s, which has the same id: it stands there only", first)
		}
	}
	return r.Faults() == before
}

// same reports whether two values are the same.
func same(a, b *yaml.Node) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Kind == b.Kind && a.Value == b.Value && slices.EqualFunc(a.Content, b.Content, same)
}

// toolNames are the tools that the configuration names.
func (s *Server) toolNames() []string {
	names := slices.Collect(maps.Keys(s.Tools))
	names = slices.AppendSeq(names, maps.Keys(s.Pins))
	for _, pattern := range s.Expose {
		if !strings.ContainsAny(pattern, `*?[\`) {
			names = append(names, pattern)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// resource returns the resource identifier of a server that has an address.
func (s *Server) resource() (string, error) {
	for _, i := range s.Instances {
		if i.URL != "" {
			return oauth.CanonicalResource(i.URL)
		}
	}
	return "", fmt.Errorf("the server has no address")
}

// endpoint returns the URL of the MCP endpoint of the first instance that has one, or "".
func (s *Server) endpoint() string {
	for _, i := range s.Instances {
		switch {
		case i.Root:
			return strings.TrimSuffix(i.URL, "/") + "/mcp"
		case i.URL != "":
			return i.URL
		}
	}
	return ""
}
