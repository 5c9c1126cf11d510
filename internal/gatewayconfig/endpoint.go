package gatewayconfig

import (
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"signet/internal/configfile"
	"signet/internal/oauth"
)

// endpoint is where an instance of a server is, or how it is started.
type endpoint struct {
	port, weight int
	url          string
	command, dir string
	args         []string
	env          map[string]Secret
	environment  map[string]Secret // the same by another name
	program      string            // path of file://
}

// members are those of config.
func (p *endpoint) members(e *entry) []member {
	return []member{
		number("port", "port of a server on this machine", &p.port, 1, 65535),
		text("url", "address: of the MCP endpoint; or without a path, which means /mcp, or else the REST paths of master-mcp-server", &p.url, nil).readingForm(address, e.readURL(p)),
		text("command", "program that speaks MCP over its standard input and output", &p.command, nil),
		{name: "args", doc: "its arguments", schema: schema{Type: "array", Items: &schema{Type: "string"}}, read: func(r *reader, n *yaml.Node, path string) {
			r.each(n, path, func(n *yaml.Node, path string) {
				s, _ := r.text(n, path, form{part: ForGateway, empty: true, shown: true})
				p.args = append(p.args, s)
			})
		}},
		variables("env", "its environment, besides PATH, HOME, LANG and TMPDIR", &p.env),
		variables("environment", "the same as env", &p.environment),
		text("dir", "its working directory", &p.dir, nil).by("that of Signet"),
	}
}

// instanceMembers are those of an element of instances.
func (p *endpoint) instanceMembers(e *entry) []member {
	return append(p.members(e), number("weight", "share of the messages", &p.weight, 1, 1000).by("1"))
}

// variables is a member that is an environment.
func variables(name, doc string, to *map[string]Secret) member {
	return named(name, doc, schema{Type: []string{"string", "number"}}, func(r *reader, name string, n *yaml.Node, path string) {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			r.Fault(n, path, "is not the name of a variable")
			return
		}
		s, _ := r.text(n, path, form{part: ForGateway, lines: true, empty: true})
		if *to == nil {
			*to = map[string]Secret{}
		}
		(*to)[name] = Secret(s)
	})
}

// readURL reads the address of a server.
func (e *entry) readURL(p *endpoint) func(r *reader, n *yaml.Node, path, s string) {
	return func(r *reader, n *yaml.Node, path, s string) {
		if file, ok := strings.CutPrefix(s, "file://"); ok {
			p.program = file
			if !slices.Contains([]string{".js", ".cjs", ".mjs"}, filepath.Ext(file)) {
				r.Fault(n, path, "must be a .js, .cjs or .mjs file, which node runs: other programs need type stdio")
			}
			return
		}
		if why := checkServerURL(s); why != "" {
			r.Fault(n, path, "%s", why)
		}
		p.url = s
	}
}

// endpoints returns the instances of an entry.
func (r *reader) endpoints(e *entry) (list []Instance) {
	own := e.config
	own.weight = e.weight
	at := e.path + ".config"
	if e.url != "" || e.program != "" {
		if r.twoAddresses(&e.endpoint, &own) {
			r.wrong(e.path+".url", "is there beside an address or program in config: a server has one")
		}
		own.url, own.program, own.port = e.url, e.program, 0
	}
	if own.url != "" || own.program != "" || own.port != 0 || own.command != "" || len(e.instances) == 0 {
		list = r.instance(list, e, &own, at)
	} else if len(own.args)+len(own.env)+len(own.environment) > 0 || own.dir != "" {
		r.wrong(at, "starts nothing without a command")
	} else if e.weight != 0 {
		r.wrong(e.path+".weight", "is that of config, which has no address: each of instances has its own")
	}
	for i, p := range e.instances {
		list = r.instance(list, e, p, e.path+".instances["+strconv.Itoa(i)+"]")
	}
	return list
}

// twoAddresses reports whether config has another address than url.
func (r *reader) twoAddresses(top, config *endpoint) bool {
	if config.program != "" || config.command != "" || config.url != "" && config.url != top.url {
		return true
	}
	u, err := url.Parse(top.url)
	return config.port != 0 && (err != nil || !oauth.IsLoopbackHost(u.Hostname()) || u.Port() != strconv.Itoa(config.port))
}

// instance checks one instance and appends it to list.
func (r *reader) instance(list []Instance, e *entry, p *endpoint, at string) []Instance {
	i := Instance{Weight: max(p.weight, 1)}
	count := 0
	for _, there := range []bool{p.port != 0, p.url != "", p.command != "", p.program != ""} {
		if there {
			count++
		}
	}
	switch {
	case count > 1:
		r.wrong(at, "has several of port, url and command: a server has one")
		return list
	case e.kind == typeStdio && p.command == "":
		r.wrong(at+".command", "is missing")
		return list
	case e.kind == typeHTTP && (p.command != "" || p.program != ""):
		r.wrong(at, "has a program: that needs type stdio")
		return list
	case count == 0 && slices.Contains([]string{typeHTTP, typeLocal}, e.kind):
		r.wrong(at, "has no address: url, or port for a server on this machine")
		return list
	case p.command != "" && e.kind != typeStdio && e.kind != typeLocal, count == 0:
		r.wrong(e.path+".type", "is not supported: nothing is fetched or started for it; config.url or config.port names a server that is running, and type stdio starts a program")
		return list
	case p.command != "" || p.program != "":
		r.program(&i, p, at)
	default:
		r.address(&i, p, at)
	}
	return append(list, i)
}

// program fills in how an instance is started.
func (r *reader) program(i *Instance, p *endpoint, at string) {
	i.Command = append([]string{p.command}, p.args...)
	if p.program != "" {
		i.Command = append([]string{"node", r.inDir(p.program)}, p.args...)
	}
	if p.dir != "" {
		i.Dir = r.inDir(p.dir)
	}
	if len(p.env) > 0 && len(p.environment) > 0 {
		r.wrong(at+".environment", "is there beside env, which means the same")
	}
	i.Env = p.env
	if len(p.env) == 0 {
		i.Env = p.environment
	}
}

// inDir returns a path of the file relative to the file's directory.
func (r *reader) inDir(path string) string {
	if filepath.IsAbs(path) || r.Dir == "" {
		return path
	}
	return filepath.Join(r.Dir, path)
}

// address fills in where an instance is.
func (r *reader) address(i *Instance, p *endpoint, at string) {
	for _, member := range []struct {
		name  string
		there bool
	}{{"args", len(p.args) > 0}, {"env", len(p.env) > 0}, {"environment", len(p.environment) > 0}, {"dir", p.dir != ""}} {
		if member.there {
			r.wrong(at+"."+member.name, "is for programs: this server has an address")
		}
	}
	i.URL = p.url
	if p.port != 0 {
		i.URL = "http://127.0.0.1:" + strconv.Itoa(p.port)
	}
	u, err := url.Parse(i.URL)
	if err != nil {
		r.wrong(at+".url", "is not a URL")
		return
	}
	if (u.Path == "" || u.Path == "/") && u.RawQuery == "" {
		i.URL, i.Root = strings.TrimSuffix(i.URL, "/"), true
	}
	if u.Scheme == "http" && !oauth.IsLoopbackHost(u.Hostname()) {
		r.warn(at, "messages and credentials go to %s in clear text: use https unless the network is yours alone", configfile.Cut(u.Host, 80))
	}
}

// checkServerURL returns what is wrong with the address of a server. Plain http is for this
// machine, and for names that only a network of the operator's can resolve, such as those of
// containers.
func checkServerURL(raw string) string {
	u, err := url.Parse(raw)
	if err == nil && u.Scheme == "http" && isLocalName(u.Hostname()) {
		return checkURL("https" + strings.TrimPrefix(raw, "http"))
	}
	why := checkURL(raw)
	if strings.HasPrefix(why, "must be https unless") {
		why += ", a single word, or a name below .internal"
	}
	return why
}

// isLocalName reports a host name that no public name server resolves: one label, or below
// .internal, which is reserved for private networks.
func isLocalName(host string) bool {
	return host != "" && !strings.ContainsAny(host, ".:") || strings.HasSuffix(host, ".internal")
}

// checkURL returns what is wrong with a URL.
func checkURL(raw string) string {
	why := configfile.CheckURL(raw)
	if u, err := url.Parse(raw); why == configfile.NotURL || why == "" && (err != nil || u.Hostname() == "" || !validPort(u.Port())) {
		return "must be a valid URL"
	}
	return why
}

func validPort(port string) bool {
	if port == "" {
		return true
	}
	n, err := strconv.Atoi(port)
	return err == nil && n > 0 && n < 1<<16
}

// checkBase returns what is wrong with the public address of the gateway, which may end in a slash.
func checkBase(raw string) string {
	if err := oauth.CheckIssuer(strings.TrimSuffix(raw, "/")); err != nil {
		return strings.TrimPrefix(err.Error(), "issuer ")
	}
	return ""
}
