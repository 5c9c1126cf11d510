package gatewayconfig

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"signet/internal/configfile"
	"signet/internal/oauth"
)

// document is the file as it is written, before its parts are checked against each other.
type document struct {
	master struct {
		issuer, authorization, token, jwks, clientID, redirect, audience string
		secret                                                           Secret
		scopes                                                           []string
	}
	hosting struct {
		platform, base string
		port           int
	}
	level    string
	routing  Routing
	prefix   string
	sep      string
	jitter   string
	security struct {
		keyVariable string
		audit       bool
		rotation    int // days
		deny        bool
	}
	delegation struct {
		enabled   bool
		callback  string
		providers []*provider
	}
	entries []*entry
}

// provider is one entry of oauth_delegation.providers.
type provider struct {
	key, path string
	credentials
}

func newDocument() *document {
	d := &document{sep: ".", prefix: "serverId", jitter: "full"}
	d.security.audit, d.delegation.enabled = true, true
	d.routing = Routing{
		Strategy: "round_robin", FailureThreshold: 5, SuccessThreshold: 2, Recovery: 30 * time.Second,
		Retries: 2, BaseDelay: 250 * time.Millisecond, MaxDelay: 4 * time.Second, Backoff: 2,
		RetryNetwork: true, RetryStatuses: []int{408, 429}, RetryClasses: []int{5},
	}
	return d
}

// Platforms on which other machines reach the process by its port, and the others.
var (
	containers = []string{"docker", "koyeb"}
	platforms  = append([]string{"node", "unknown"}, containers...)
)

// members are the members of the file.
func (d *document) members() []member {
	return []member{
		text("$schema", "address of the JSON Schema, for editors", new(string), nil),
		each("servers", "the MCP servers behind the gateway; several entries with one id are instances of one server", newEntry("").members(), d.entry).needed(),
		group("routing", "how tools are called, how messages are shared out among instances, and what is repeated", d.routingMembers()),
		group("oauth_delegation", "providers that several servers name", []member{
			flag("enabled", "false: no server may have the strategy delegate_oauth", &d.delegation.enabled).by("true"),
			text("callback_base_url", "must be hosting.base_url: the redirect URI is at the issuer", &d.delegation.callback, nil),
			named("providers", "by the name that auth_config.provider of a server gives", objectSchema(new(provider).members(ofProvider)), d.provider),
		}),
		group("master_oauth", "another issuer whose access tokens callers may bring beside Signet's own, if jwks_uri is set; callers sign in at Signet, so that the rest counts for nothing", []member{
			text("issuer", "issuer of the tokens", &d.master.issuer, checkURL),
			text("jwks_uri", "address of the issuer's keys", &d.master.jwks, checkURL),
			text("audience", "audience of the tokens", &d.master.audience, nil).by("client_id"),
			text("client_id", "the audience, if audience is not set", &d.master.clientID, nil),
			textFor(ForIssuer, "client_secret", "counts for nothing", &d.master.secret, nil),
			text("authorization_endpoint", "counts for nothing", &d.master.authorization, checkURL),
			text("token_endpoint", "counts for nothing", &d.master.token, checkURL),
			text("redirect_uri", "counts for nothing", &d.master.redirect, nil),
			list("scopes", "count for nothing", &d.master.scopes, checkNothing),
		}),
		group("hosting", "where the gateway is found", []member{
			text("platform", "docker, koyeb: port is listened on at all addresses; node, unknown: on this machine only", &d.hosting.platform, checkPlatform),
			number("port", "port to listen on", &d.hosting.port, 1, 65535).by("that of SIGNET_LISTEN"),
			text("base_url", "public address, which is the issuer", &d.hosting.base, checkBase).by("SIGNET_ISSUER"),
			refused("storage_backend", "tokens are kept where SIGNET_STORE says"),
		}),
		group("logging", "the log", []member{oneOf("level", "debug, info, warn or error", &d.level, "debug", "info", "warn", "error").by("SIGNET_LOG_LEVEL")}),
		group("security", "sealed values, and what is served", []member{
			text("config_key_env", "variable with the key of values that begin with enc:gcm:, which master-mcp-server has sealed", &d.security.keyVariable, nil).by("MASTER_CONFIG_KEY"),
			flag("audit", "must be true: the audit log is always written", &d.security.audit).by("true"),
			number("rotation_days", "days after which a warning asks to seal an enc: value anew", &d.security.rotation, 1, 3650).by("no warning"),
			flag("deny_by_default", "true: only tools that a server exposes are served", &d.security.deny).by("false"),
		}),
	}
}

// routingMembers are the members of routing.
func (d *document) routingMembers() []member {
	rt := &d.routing
	return []member{
		oneOf("prefix", "serverId: the names of tools begin with the id of their server; none: they do not", &d.prefix, "serverId", "none").by("serverId"),
		text("separator", "between the id of a server and the name of a tool", &d.sep, checkSeparator).by("."),
		group("loadBalancer", "how instances of a server take turns", []member{
			oneOf("strategy", "round_robin, weighted or health", &rt.Strategy, "round_robin", "weighted", "health").by("round_robin"),
		}),
		group("circuitBreaker", "when an instance that fails gets no messages", []member{
			number("failureThreshold", "failed messages in a row that open the breaker", &rt.FailureThreshold, 1, 1000).by("5"),
			number("successThreshold", "successful trials that close it", &rt.SuccessThreshold, 1, 1000).by("2"),
			milliseconds("recoveryTimeoutMs", "time from opening to the first trial", &rt.Recovery, 1, 86400000).by("30000"),
		}),
		group("retry", "how messages that are safe to repeat are repeated", []member{
			number("maxRetries", "0: nothing is repeated", &rt.Retries, 0, 20).by("2"),
			milliseconds("baseDelayMs", "before the first repetition", &rt.BaseDelay, 1, 60000).by("250"),
			milliseconds("maxDelayMs", "before any repetition", &rt.MaxDelay, 1, 600000).by("4000"),
			factor("backoffFactor", "by which the delay grows", &rt.Backoff, 1, 10).by("2"),
			oneOf("jitter", "full: the delay is random, up to its value; none: it is not", &d.jitter, "full", "none").by("full"),
			group("retryOn", "after what", []member{
				flag("networkErrors", "connection refused or reset, no answer", &rt.RetryNetwork).by("true"),
				numbers("httpStatuses", "HTTP statuses", &rt.RetryStatuses, 400, 599).by("[408, 429]"),
				numbers("httpStatusClasses", "first digits of HTTP statuses", &rt.RetryClasses, 4, 5).by("[5]"),
				flag("anyMethod", "true: also messages that may not be safe to repeat", &rt.RetryAnyMethod).by("false"),
			}),
		}),
	}
}

// refused is a member that other gateways have. The text says what there is in its place.
func refused(name, what string) member {
	return member{name: name, doc: "refused: " + what, schema: schema{Not: &schema{}}, read: func(r *reader, n *yaml.Node, path string) { r.Fault(n, path, "is not supported: %s", what) }}
}

// entry reads one entry of servers.
func (d *document) entry(r *reader, n *yaml.Node, path string) {
	e := newEntry(path)
	before := r.Faults()
	r.object(n, path, e.members())
	r.credentials(e)
	r.broken(path, before)
	d.entries = append(d.entries, e)
}

// provider reads one entry of oauth_delegation.providers.
func (d *document) provider(r *reader, name string, n *yaml.Node, path string) {
	p := &provider{key: name, path: path}
	r.object(n, path, p.members(ofProvider))
	d.delegation.providers = append(d.delegation.providers, p)
}

func checkPlatform(s string) string {
	if !slices.Contains(platforms, s) {
		return "must be one of " + strings.Join(platforms, ", ") + ": Signet runs nowhere else"
	}
	return ""
}

func checkNothing(string) string { return "" }

func checkScope(s string) string {
	if scope, err := oauth.ParseScope(s); err != nil || len(scope) != 1 {
		return "is not one scope"
	}
	return ""
}

func checkSeparator(s string) string {
	if len(s) > 4 {
		return "has more than 4 characters"
	}
	for _, c := range s {
		if !(c == '.' || c == '_' || c == '-' || c == '/' || c == ':') {
			return "must be of the characters . _ - / and :"
		}
	}
	return ""
}

// config checks the parts of a file against each other, and returns the configuration.
func (r *reader) config(d *document) *Config {
	d.routing.Jitter = d.jitter == "full"
	c := &Config{
		Prefix: d.prefix == "serverId", Separator: d.sep, DenyByDefault: d.security.deny, Routing: d.routing,
		BaseURL: strings.TrimSuffix(d.hosting.base, "/"), Port: d.hosting.port, LogLevel: d.level,
		AllAddresses: slices.Contains(containers, d.hosting.platform),
	}
	r.checkRouting(d)
	r.checkSettings(d)
	c.CallerIssuer = r.callerIssuer(d)
	r.providers(c, d)
	for _, e := range d.entries {
		if !r.bad[e.path] {
			r.server(c, d, e)
		}
	}
	r.checkNames(c)
	return c
}

func (r *reader) checkRouting(d *document) {
	if d.routing.MaxDelay < d.routing.BaseDelay {
		r.wrong("routing.retry.maxDelayMs", "is less than baseDelayMs")
	}
}

// checkSettings checks what is about the whole gateway.
func (r *reader) checkSettings(d *document) {
	if !d.security.audit {
		r.wrong("security.audit", "must be true: the audit log is always written")
	}
	if d.delegation.callback != "" && d.delegation.callback != d.hosting.base {
		r.wrong("oauth_delegation.callback_base_url", "must be the same as hosting.base_url: the redirect URI is at the issuer")
	}
	days := time.Duration(d.security.rotation) * 24 * time.Hour
	for _, s := range r.sealed {
		if age := time.Since(s.at); days > 0 && age > days {
			r.warn(s.path, "was sealed %d days ago: seal it anew with `signet secret encrypt`", int(age.Hours()/24))
		}
	}
}

// callerIssuer returns the other issuer of callers' tokens.
func (r *reader) callerIssuer(d *document) *CallerIssuer {
	m := &d.master
	switch {
	case !r.has("master_oauth"):
		return nil
	case !r.has("master_oauth.jwks_uri"):
		r.warn("master_oauth", "counts for nothing without jwks_uri: callers sign in at Signet, and bring its access tokens")
		return nil
	}
	if !r.has("master_oauth.issuer") {
		r.wrong("master_oauth.issuer", "is missing: tokens that the keys of jwks_uri verify must be of this issuer")
	}
	if m.audience == "" {
		m.audience = m.clientID
	}
	if m.audience == "" {
		r.wrong("master_oauth.audience", "is missing, and there is no client_id")
	}
	return &CallerIssuer{Issuer: m.issuer, JWKSURI: m.jwks, Audience: m.audience}
}

// providers makes the connections of oauth_delegation.providers.
func (r *reader) providers(c *Config, d *document) {
	for _, p := range d.delegation.providers {
		if r.bad[p.path] {
			continue
		}
		if id := connectionID(p.key); id != p.key {
			r.wrong(p.path, "must have a name of a to z, 0 to 9 and hyphen, because it is part of addresses")
			continue
		}
		conn := p.connection(p.key, p.key)
		r.checkConnection(conn, p.path, false)
		r.table[conn] = true
		c.Connections = append(c.Connections, conn)
	}
}

// checkNames finds names that callers could not tell apart.
func (r *reader) checkNames(c *Config) {
	owners := map[string]string{}
	for _, s := range c.Servers {
		for _, other := range c.Servers {
			if c.Prefix && strings.HasPrefix(other.ID, s.ID+c.Separator) {
				r.wrong(r.paths[other.ID]+".id", "begins with the id %s and the separator, so that names of tools would be ambiguous", s.ID)
			}
		}
		if c.Prefix {
			continue
		}
		for _, name := range s.toolNames() {
			if owner, taken := owners[name]; taken && owner != s.ID {
				r.wrong(r.paths[s.ID]+".tools", "the tool %s is also one of the server %s, and routing.prefix is none", configfile.Cut(name, 64), owner)
			}
			owners[name] = s.ID
		}
	}
}

// warn notes what holds although a user may expect something else.
func (r *reader) warn(path, format string, args ...any) {
	r.warnings = append(r.warnings, path+": "+fmt.Sprintf(format, args...))
}
