package gatewayconfig_test

import (
	"strings"
	"testing"

	"signet/internal/gatewayconfig"
)

// fine is a configuration without faults: the tests below change one thing of it each.
const fine = `hosting: {port: 3000, base_url: "https://gw.example"}
logging: {level: info}
security: {audit: true}
master_oauth: {issuer: "https://idp.example", jwks_uri: "https://idp.example/jwks", audience: gw}
routing: {separator: ".", retry: {maxRetries: 2, backoffFactor: 2, jitter: full}}
oauth_delegation:
  enabled: true
  providers:
    forge: {provider: custom, issuer: "https://forge.example", client_id: shared, client_secret: quiet}
servers:
  - id: search
    type: http
    auth_strategy: master_oauth
    config: {url: "https://search.example/mcp"}
    scopes: [read]
    tools: {drop: {scopes: [admin]}}
    expose: ["get_*"]
    timeout: 5s
  - id: git
    type: local
    auth_strategy: delegate_oauth
    auth_config: {authorization_endpoint: "https://git.example/a", token_endpoint: "https://git.example/t", client_id: g, client_secret: quiet}
    config: {port: 4010}
  - id: own
    type: http
    auth_strategy: proxy_oauth
    auth_config: {token_endpoint: "https://as.example/t", client_id: o, client_secret: quiet}
    config: {url: "https://own.example/mcp"}
  - {id: key, type: http, auth_strategy: user_key, auth_config: {header: "X-Key: {key}"}, config: {url: "https://key.example/mcp"}}
  - id: run
    type: stdio
    auth_strategy: bypass_auth
    config: {command: npx, args: [a], env: {A: b}}
  - {id: script, type: local, url: "file://./x.cjs", auth_strategy: bypass_auth}
  - {id: token, type: http, auth_strategy: proxy_oauth, auth_config: {token_source: "env:INTERNAL_BACKEND_TOKEN"}, config: {url: "https://token.example/mcp"}}
`

// Each fault is found at its line and path, and no error shows a value that could be a secret.
func TestFaults_Row73_Probe23(t *testing.T) {
	const git, own, search = "    auth_config: {authorization_endpoint: \"https://git.example/a\", token_endpoint: \"https://git.example/t\", client_id: g, client_secret: quiet}\n", "    auth_config: {token_endpoint: \"https://as.example/t\", client_id: o, client_secret: quiet}\n", "config: {url: \"https://search.example/mcp\"}"
	tests := []struct{ name, old, new, want string }{
		{"unknown member of the file", "logging:", "loging:", "line 2: loging: is not known; there are $schema, hosting, logging"},
		{"unknown member of a server", "    timeout: 5s", "    timeuot: 5s", "line 18: servers[0].timeuot: is not known; there are ask, auth_config"},
		{"unknown member of config", "config: {port: 4010}", "config: {prot: 4010}", "line 23: servers[1].config.prot: is not known; there are args, command, dir"},
		{"unknown member of auth_config", "client_id: g", "clientid: g", "line 22: servers[1].auth_config.clientid: is not known; there are audience, auth"},
		{"unknown member of a tool", "{scopes: [admin]}", "{scope: admin}", "line 16: servers[0].tools.drop.scope: is not known"},
		{"unknown member of routing", "maxRetries: 2", "maxTries: 2", "line 5: routing.retry.maxTries: is not known"},
		{"pin that is no hash", "    timeout: 5s", "    pins: {drop: " + strings.Repeat("fa1afe10", 7) + "fa1afe1}", "line 18: servers[0].pins.drop: is not the hash of a tool"},
		{"pin with a letter that is no digit", "    timeout: 5s", "    pins: {drop: " + strings.Repeat("fa1afe1g", 8) + "}", "line 18: servers[0].pins.drop: is not the hash of a tool"},
		{"member twice", "    timeout: 5s", "    id: again", "line 18: servers[0].id: is there twice"},
		{"no servers", "servers:", "logging2:", "line 1: servers: is missing"},
		{"servers is no list", "oauth_delegation:", "servers: {}\noauth_delegation2:", "line 6: servers: must be a list"},
		{"server is no object", "  - {id: script, type: local, url: \"file://./x.cjs\", auth_strategy: bypass_auth}\n", "  - script\n", "servers[5]: must be members with values"},
		{"no id", "  - id: search\n    type: http", "  - type: http", "servers[0].id: is missing"},
		{"id with a space", "id: search", "id: a search", "line 11: servers[0].id: must be 1 to 64"},
		{"id that is too long", "id: search", "id: " + strings.Repeat("a", 65), "line 11: servers[0].id: must be 1 to 64"},
		{"id with a control character", "id: search", `id: "a\u0007"`, "line 11: servers[0].id: has a control character"},
		{"id that is no text", "id: search", "id: true", "line 11: servers[0].id: must be a text"},
		{"no type", "    type: stdio\n", "", "servers[4].type: is missing"},
		{"unknown type", "type: stdio", "type: std", "line 31: servers[4].type: must be one of http, stdio, local, git, npm, pypi, docker"},
		{"type without an endpoint", "type: local\n    auth_strategy: delegate_oauth\n" + git + "    config: {port: 4010}", "type: npm\n    package: x\n    auth_strategy: delegate_oauth\n" + git, "line 21: servers[1].package: is not supported: nothing is fetched or built"},
		{"git without an endpoint", "type: stdio\n    auth_strategy: bypass_auth\n    config: {command: npx, args: [a], env: {A: b}}", "type: git\n    auth_strategy: bypass_auth", "line 31: servers[4].type: is not supported: nothing is fetched or started"},
		{"no strategy", "    auth_strategy: master_oauth\n", "", "line 11: servers[0].auth_strategy: is missing"},
		{"unknown strategy", "auth_strategy: master_oauth", "auth_strategy: master", "line 13: servers[0].auth_strategy: must be one of master_oauth, delegate_oauth, proxy_oauth, upstream, user_key, bypass_auth"},
		{"no auth_config", git, "", "line 19: servers[1].auth_config: is missing"},
		{"no auth_config of the gateway's credential", own, "", "servers[2].auth_config: is missing"},
		{"empty auth_config of the gateway's credential", own, "    auth_config: {}\n", "line 27: servers[2].auth_config.token_endpoint: is missing"},
		{"auth_config without a value", own, "    auth_config:\n", "line 27: servers[2].auth_config: must be members with values"},
		{"auth_config that has no meaning", "env: {A: b}}", "env: {A: b}}\n    auth_config: {token_source: quiet}", "line 34: servers[4].auth_config.token_source: has no meaning with bypass_auth"},
		{"passthrough elsewhere", "    timeout: 5s", "    timeout: 5s\n    fallback: passthrough", "line 19: servers[0].fallback: has no meaning with master_oauth"},
		{"passthrough that is not a word", own, "    fallback: true\n" + own, "servers[2].fallback: must be a text"},
		{"ask elsewhere", "    timeout: 5s", "    ask: error", "line 18: servers[0].ask: has no meaning with master_oauth"},
		{"unknown ask", "    config: {port: 4010}", "    config: {port: 4010}\n    ask: nicely", "line 24: servers[1].ask: must be one of auto, elicit, challenge, error"},
		{"no authorization endpoint", `authorization_endpoint: "https://git.example/a", `, "", "servers[1].auth_config.authorization_endpoint: is missing"},
		{"no token endpoint", `token_endpoint: "https://git.example/t", `, "", "servers[1].auth_config.token_endpoint: is missing"},
		{"no client id", "client_id: g, client_secret: quiet", "scopes: [repo]", "line 22: servers[1].auth_config.client_id: is missing"},
		{"secret without an issuer", `authorization_endpoint: "https://git.example/a", token_endpoint: "https://git.example/t", `, "", "servers[1].auth_config.client_id: is that of one issuer"},
		{"secret without a client", "client_id: g, ", "", "servers[1].auth_config.client_id: is missing"},
		{"key beside a secret", "client_id: g", "client_key: \"env:KEY\", client_id: g", "servers[1].auth_config.client_key: the environment variable KEY is not set"},
		{"key that is none", "client_id: g", "client_key: quiet, client_id: g", "line 22: servers[1].auth_config.client_key: must be a private key as PEM"},
		{"unknown provider", "client_id: g", "provider: gitlab, client_id: g", "line 22: servers[1].auth_config.provider: must be one of github, google, custom, or a name of oauth_delegation.providers"},
		{"unknown provider of the table", "provider: custom", "provider: gitlab", "line 9: oauth_delegation.providers.forge.provider: must be one of github, google, custom"},
		{"provider of the table without an issuer", `issuer: "https://forge.example", `, "", "line 9: oauth_delegation.providers.forge.token_endpoint: is missing, and there is no issuer"},
		{"provider of the table with a bad name", "forge:", "The Forge:", "oauth_delegation.providers.The Forge: must have a name of a to z"},
		{"delegation that is off", "enabled: true", "enabled: false", "line 21: servers[1].auth_strategy: is delegate_oauth, but oauth_delegation.enabled is false"},
		{"redirect elsewhere", "enabled: true", "callback_base_url: https://other.example", "line 7: oauth_delegation.callback_base_url: must be the same as hosting.base_url"},
		{"http at a provider", "https://git.example/t", "http://git.example/t", "line 22: servers[1].auth_config.token_endpoint: must be https unless"},
		{"http at a provider in the network", "https://git.example/t", "http://git/t", "line 22: servers[1].auth_config.token_endpoint: must be https unless"},
		{"http elsewhere", "https://search.example/mcp", "http://search.example/mcp", "line 14: servers[0].config.url: must be https unless its host is localhost, 127.0.0.0/8 or ::1, a single word, or a name below .internal"},
		{"http at an address", "https://search.example/mcp", "http://10.0.0.1/mcp", "line 14: servers[0].config.url: must be https unless"},
		{"http at an IPv6 address", "https://search.example/mcp", "http://[fd00::1]/mcp", "line 14: servers[0].config.url: must be https unless"},
		{"http at nearly this machine", "https://search.example/mcp", "http://127.0.0.1.example.com/mcp", "line 14: servers[0].config.url: must be https unless"},
		{"other scheme", "https://search.example/mcp", "ws://search.example/mcp", "line 14: servers[0].config.url: must be an https URL"},
		{"no URL", "https://search.example/mcp", "search", "line 14: servers[0].config.url: must be a valid URL"},
		{"port out of range", "https://search.example/mcp", "https://search.example:99999/mcp", "line 14: servers[0].config.url: must be a valid URL"},
		{"user information", "https://search.example/mcp", "https://quiet:quiet@search.example/mcp", "line 14: servers[0].config.url: has user information"},
		{"fragment", "https://search.example/mcp", "https://search.example/mcp#a", "line 14: servers[0].config.url: has a fragment"},
		{"space in a URL", "https://search.example/mcp", "https://search.example/m cp", "line 14: servers[0].config.url: has a character"},
		{"no endpoint", search, "config: {}", "line 14: servers[0].config: has no address"},
		{"no config", "    " + search + "\n", "", "line 11: servers[0].config: has no address"},
		{"two endpoints", search, `config: {url: "https://search.example/mcp", port: 4010}`, "line 14: servers[0].config: has several of port, url and command"},
		{"endpoint and program", search, `config: {url: "https://search.example/mcp", command: x}`, "line 14: servers[0].config: has several"},
		{"another address above", "    config: {port: 4010}", "    url: http://localhost:4011\n    config: {port: 4010}", "line 23: servers[1].url: is there beside an address or program in config"},
		{"port too large", "port: 4010", "port: 65536", "line 23: servers[1].config.port: must be a whole number from 1 to 65535"},
		{"port that is no number", "port: 4010", "port: '4010'", "line 23: servers[1].config.port: must be a whole number"},
		{"port with a fraction", "port: 4010", "port: 40.5", "line 23: servers[1].config.port: must be a whole number"},
		{"program for http", search, "config: {command: x}", "line 14: servers[0].config: has a program: that needs type stdio"},
		{"arguments of an address", search, `config: {url: "https://search.example/mcp", args: [quiet]}`, "line 14: servers[0].config.args: is for programs"},
		{"environment of an address", search, `config: {url: "https://search.example/mcp", environment: {A: quiet}}`, "line 14: servers[0].config.environment: is for programs"},
		{"no command", "command: npx, ", "", "line 33: servers[4].config.command: is missing"},
		{"two environments", "env: {A: b}", "env: {A: b}, environment: {B: c}", "line 33: servers[4].config.environment: is there beside env"},
		{"variable without a name", "env: {A: b}", `env: {"": b}`, "servers[4].config.env.: is not the name of a variable"},
		{"variable with a sign", "env: {A: b}", "env: {A=B: quiet}", "line 33: servers[4].config.env.A=B: is not the name of a variable"},
		{"variable that is a list", "env: {A: b}", "env: {A: [quiet]}", "line 33: servers[4].config.env.A: must be a text"},
		{"program that gets a credential", "    auth_strategy: bypass_auth\n    config: {command", "    auth_strategy: master_oauth\n    auth_config: {audience: \"https://a.example\"}\n    config: {command", "line 32: servers[4].auth_strategy: must be bypass_auth: a program gets no headers"},
		{"program that is none for node", "file://./x.cjs", "file://./x.py", "line 34: servers[5].url: must be a .js, .cjs or .mjs file"},
		{"scope", "scopes: [read]", `scopes: ["a b"]`, "line 15: servers[0].scopes[0]: is not one scope"},
		{"scope of a tool", "scopes: [admin]", "scopes: admin", "line 16: servers[0].tools.drop.scopes: must be a list such as [a, b]"},
		{"pattern", "get_*", "get_[", "line 17: servers[0].expose[0]: is not a pattern"},
		{"timeout", "timeout: 5s", "timeout: 5", "line 18: servers[0].timeout: must be a duration such as 10s"},
		{"header of the client", "X-Key: {key}", "traceparent: {key}", "servers[3].auth_config.header: must begin with the name of a header that Signet does not set"},
		{"header of ours", "X-Key: {key}", "Content-Type: {key}", "servers[3].auth_config.header: must begin with the name of a header that Signet does not set"},
		{"header of the protocol", "X-Key: {key}", "Mcp-Session-Id: {key}", "servers[3].auth_config.header: must begin"},
		{"cookie", "X-Key: {key}", "cookie: {key}", "servers[3].auth_config.header: must begin"},
		{"header that is none", "X-Key: {key}", "X Key: {key}", "servers[3].auth_config.header: must begin"},
		{"header without the key", "X-Key: {key}", "X-Key: quiet", "servers[3].auth_config.header: must have the form NAME: {key}"},
		{"header with something after the key", "X-Key: {key}", "X-Key: {key} x", "servers[3].auth_config.header: must have the form"},
		{"token and client", `token_source: "env:INTERNAL_BACKEND_TOKEN"`, `token_source: "env:INTERNAL_BACKEND_TOKEN", client_id: x`, "line 35: servers[6].auth_config.client_id: is there beside token_source"},
		{"token that is not set", "env:INTERNAL_BACKEND_TOKEN", "env:NONE", "line 35: servers[6].auth_config.token_source: the environment variable NONE is not set"},
		{"token in braces that is not set", "env:INTERNAL_BACKEND_TOKEN", "${NONE}", "line 35: servers[6].auth_config.token_source: the environment variable NONE is not set"},
		{"braces without a name", "env:INTERNAL_BACKEND_TOKEN", "quiet${", "line 35: servers[6].auth_config.token_source: ${ must begin the name of a variable"},
		{"file that is not there", "env:INTERNAL_BACKEND_TOKEN", "file:/nowhere/token", "line 35: servers[6].auth_config.token_source: open /nowhere/token"},
		{"file without an end", "env:INTERNAL_BACKEND_TOKEN", "file:/dev/zero", "line 35: servers[6].auth_config.token_source: /dev/zero has more than"},
		{"sealed value without a root secret", "env:INTERNAL_BACKEND_TOKEN", "enc:quiet", "line 35: servers[6].auth_config.token_source: there is no root secret"},
		{"sealed value of the other gateway without its key", "env:INTERNAL_BACKEND_TOKEN", "enc:gcm:quiet", "line 35: servers[6].auth_config.token_source: the environment variable MASTER_CONFIG_KEY is not set"},
		{"grant without a secret", "client_id: o, client_secret: quiet", "client_id: o", "servers[2].auth_config.client_secret: is missing, and there is no client_key"},
		{"unknown grant", "client_id: o", "grant: password, client_id: o", "line 27: servers[2].auth_config.grant: must be one of refresh_token, client_credentials, exchange"},
		{"refresh token of another grant", "client_id: o", "grant: exchange, refresh_token: quiet, client_id: o", "line 27: servers[2].auth_config.refresh_token: has no meaning with the grant exchange"},
		{"instances that differ", "  - id: git\n", "  - id: search\n", "line 21: servers[1].auth_strategy: differs from that of servers[0]"},
		{"ids that are too much alike", "id: git\n", "id: FORGE\n", "line 19: servers[1].id: is too much like that of the provider forge"},
		{"id below another", "id: git\n", "id: search.git\n", "line 19: servers[1].id: begins with the id search and the separator"},
		{"separator", `separator: "."`, "separator: x", "line 5: routing.separator: must be of the characters"},
		{"retries", "maxRetries: 2", "maxRetries: -1", "line 5: routing.retry.maxRetries: must be a whole number from 0 to 20"},
		{"factor", "backoffFactor: 2", "backoffFactor: .nan", "line 5: routing.retry.backoffFactor: must be a number from 1 to 10"},
		{"jitter", "jitter: full", "jitter: half", "line 5: routing.retry.jitter: must be one of full, none"},
		{"delays", "jitter: full", "maxDelayMs: 100", "line 5: routing.retry.maxDelayMs: is less than baseDelayMs"},
		{"statuses", "jitter: full", "retryOn: {httpStatuses: [200]}", "line 5: routing.retry.retryOn.httpStatuses[0]: must be a whole number from 400 to 599"},
		{"load balancer", "jitter: full}", "jitter: full}, loadBalancer: {strategy: random}", "line 5: routing.loadBalancer.strategy: must be one of round_robin, weighted, health"},
		{"platform", "{port: 3000,", "{platform: cloudflare-workers, port: 3000,", "line 1: hosting.platform: must be one of node, unknown, docker, koyeb: Signet"},
		{"storage", "{port: 3000,", "{storage_backend: memory, port: 3000,", "line 1: hosting.storage_backend: is not supported: tokens are kept where SIGNET_STORE says"},
		{"http as the public address", "https://gw.example", "http://gw.example", "line 1: hosting.base_url: must"},
		{"path of the public address", "https://gw.example", "https://gw.example/?a", "line 1: hosting.base_url: "},
		{"level", "level: info", "level: trace", "line 2: logging.level: must be one of debug, info, warn, error"},
		{"audit", "audit: true", "audit: false", "line 3: security.audit: must be true"},
		{"audit that is no flag", "audit: true", "audit: quiet", "line 3: security.audit: must be true or false"},
		{"callers of no issuer", `issuer: "https://idp.example", `, "", "line 4: master_oauth.issuer: is missing"},
		{"callers of no audience", ", audience: gw", "", "line 4: master_oauth.audience: is missing, and there is no client_id"},
		{"alias", "level: info", "level: &quiet info", "line 2: logging.level: anchors"},
		{"tag", "level: info", "level: !!str info", "line 2: logging.level: anchors"},
		{"null", "level: info", "level:", "line 2: logging.level: must be a text"},
		{"merge", "level: info", "<<: {level: info}", "line 2: logging: has a member whose name is no text"},
		{"not YAML", "level: info", "level: [quiet", "not one YAML document"},
		{"two documents", "level: info", "level: info}\n---\n{a: b", "not one YAML document"},
		{"long file", "level: info", "level: info #" + strings.Repeat("x", 1<<20), "line 1: the file has more than"},
	}
	for _, test := range tests {
		if strings.Count(fine, test.old) != 1 {
			t.Errorf("%s: %q is there %d times", test.name, test.old, strings.Count(fine, test.old))
			continue
		}
		_, err := gatewayconfig.Parse([]byte(strings.Replace(fine, test.old, test.new, 1)), options())
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "quiet") {
			t.Errorf("%s: %v shows a secret", test.name, err)
		}
	}
	for _, good := range []string{fine, strings.Replace(fine, "id: search", "id: "+strings.Repeat("a", 64), 1)} {
		if _, err := gatewayconfig.Parse([]byte(good), options()); err != nil {
			t.Errorf("a good configuration: %v", err)
		}
	}
}

// All faults are reported at once, in the order of the file.
func TestAllFaultsAtOnce_Row73(t *testing.T) {
	_, err := gatewayconfig.Parse([]byte("hosting: {port: 0}\nservers:\n  - {id: a, type: x, auth_strategy: y}\n  - {id: b, type: local, auth_strategy: bypass_auth, config: {}}\n  - {id: c, type: local, auth_strategy: delegate_oauth, config: {port: 1}}\nother: 1\n"), options())
	if err == nil {
		t.Fatal("no fault")
	}
	want := []string{"hosting.port", "servers[0].type", "servers[0].auth_strategy", "servers[1].config", "servers[2].auth_config", "other"}
	if got := paths(t, err); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("the faults are at %v, want %v", got, want)
	}
}

// Two servers whose tools have no prefix cannot have tools of one name.
func TestToolsOfOneNameNeedAPrefix_Row76(t *testing.T) {
	const text = `
routing: {prefix: none}
servers:
  - {id: a, type: local, auth_strategy: bypass_auth, config: {port: 1}, tools: {echo: {hide: true}}}
  - {id: b, type: local, auth_strategy: bypass_auth, config: {port: 2}, expose: [echo]}
`
	_, err := gatewayconfig.Parse([]byte(text), options())
	if want := "line 5: servers[1].tools: the tool echo is also one of the server a, and routing.prefix is none"; err == nil || err.Error() != want {
		t.Errorf("%v, want %q", err, want)
	}
	parse(t, strings.Replace(text, "prefix: none", "prefix: serverId", 1), options())
	c := parse(t, strings.Replace(text, "expose: [echo]", "expose: [echo2]", 1), options())
	if c.Prefix {
		t.Error("names have a prefix")
	}
}

// A server gets the caller's own token only if the token is for it.
func TestPassthroughNeedsAResource_Row54(t *testing.T) {
	const text = "servers: [{id: a, type: http, auth_strategy: master_oauth, auth_config: {passthrough: true}, config: {url: 'https://a.example/mcp'}}]"
	for _, test := range []struct {
		resources []string
		want      string
	}{
		{[]string{"https://a.example/mcp"}, ""},
		{nil, ""},
		{[]string{}, "line 1: servers[0].auth_config.passthrough: is refused: the server's resource is none of SIGNET_RESOURCES"},
		{[]string{"https://a.example", "https://a.example/mcp2"}, "line 1: servers[0].auth_config.passthrough: is refused"},
	} {
		c, err := gatewayconfig.Parse([]byte(text), gatewayconfig.Options{Resources: test.resources})
		if test.want != "" {
			if err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("%v: %v, want %q", test.resources, err, test.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", test.resources, err)
		} else if len(c.Warnings) != 1 || !c.Servers[0].Passthrough {
			t.Errorf("%v: passthrough %t, warnings %q", test.resources, c.Servers[0].Passthrough, c.Warnings)
		}
	}
	if _, err := gatewayconfig.Parse([]byte(strings.Replace(text, "config: {url", "passthrough: true, config: {url", 1)), options()); err == nil || !strings.Contains(err.Error(), "servers[0].auth_config.passthrough: is there twice") {
		t.Errorf("passthrough in two places: %v", err)
	}
}

// A variable that counts for nothing here, or has no effect, is told.
func TestWhatCountsForNothingIsTold_Row74(t *testing.T) {
	const text = "servers: [{id: a, type: local, auth_strategy: bypass_auth, config: {url: 'http://search:4100'}}]\nmaster_oauth: {client_id: x}"
	set := map[string]string{"TOKEN_ENC_KEY": "quiet", "MASTER_CONFIG_PATH": "quiet", "MASTER_ENV": "quiet", "LOG_FORMAT": "json"}
	c := parse(t, text, gatewayconfig.Options{Environ: func(name string) (string, bool) { value, ok := set[name]; return value, ok }})
	all := strings.Join(c.Warnings, "\n")
	for _, want := range []string{
		"TOKEN_ENC_KEY: is not read: tokens are sealed under SIGNET_SECRET", "MASTER_CONFIG_PATH: is not read: SIGNET_GATEWAY_CONFIG", "MASTER_ENV: is not read", "LOG_FORMAT: is not read: SIGNET_LOG_FORMAT",
		"master_oauth: counts for nothing without jwks_uri", "servers[0].config: messages and credentials go to search:4100 in clear text",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no warning %q in\n%s", want, all)
		}
	}
	if strings.Contains(all, "quiet") {
		t.Errorf("a warning shows a secret:\n%s", all)
	}
}

// A strategy that the program has registered gets its settings.
func TestRegisteredStrategy(t *testing.T) {
	const text = "servers: [{id: a, type: local, auth_strategy: sign, auth_config: {key: 'env:GITHUB_CLIENT_SECRET', mode: fast}, config: {port: 1}}]"
	if _, err := gatewayconfig.Parse([]byte(text), options()); err == nil || !strings.Contains(err.Error(), "servers[0].auth_strategy: must be one of") {
		t.Errorf("without the strategy: %v", err)
	}
	o := options()
	o.Strategies = []string{"sign"}
	s := parse(t, text, o).Servers[0]
	if s.Strategy != "sign" || s.Settings["key"] != "gh-quiet" || s.Settings["mode"] != "fast" {
		t.Errorf("the server is %+v", s)
	}
}
