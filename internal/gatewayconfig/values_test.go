package gatewayconfig_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"signet/internal/gatewayconfig"
)

func parse(t *testing.T, text string, o gatewayconfig.Options) *gatewayconfig.Config {
	t.Helper()
	c, err := gatewayconfig.Parse([]byte(text), o)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return c
}

var unexported = cmpopts.IgnoreUnexported(gatewayconfig.Config{})

func TestEveryMemberTakesEffect_Row74_Probe22(t *testing.T) {
	c := parse(t, `
routing:
  prefix: serverId
  separator: __
  loadBalancer: {strategy: health}
  circuitBreaker: {failureThreshold: 3, successThreshold: 4, recoveryTimeoutMs: 1500}
  retry: {maxRetries: 0, baseDelayMs: 10, maxDelayMs: 20, backoffFactor: 1.5, jitter: none, retryOn: {networkErrors: false, httpStatuses: [429], httpStatusClasses: [], anyMethod: true}}
security: {deny_by_default: true}
hosting: {port: 3000, base_url: "https://gw.example"}
logging: {level: debug}
master_oauth: {issuer: "https://idp.example", jwks_uri: "https://idp.example/jwks", client_id: gw}
oauth_delegation:
  providers:
    forge: {provider: custom, issuer: "https://forge.example", client_id: shared, client_secret: quiet, scopes: [repo]}
servers:
  - {id: search, name: Search, type: http, auth_strategy: master_oauth, weight: 3, config: {url: "https://search.example/mcp"}, auth_config: {scopes: [read], audience: "https://search.example/"},
     scopes: [read], tools: {drop: {scopes: [admin], hide: true, idempotent: true}}, expose: ["get_*"], hide: [get_secret], pins: {drop: fa1afe10fa1afe10fa1afe10fa1afe10fa1afe10fa1afe10fa1afe10fa1afe10},
     timeout: 5s, max_answer: 4096, max_requests: 2, health_interval: 10s}
  - {id: search, type: local, auth_strategy: master_oauth, config: {port: 4100}}
  - {id: git.A, type: local, url: "http://localhost:4101/mcp?x=1", auth_strategy: delegate_oauth, ask: elicit, auth_config: {provider: forge, scopes: [issues], header: "X-Forge: token {token}"}}
  - {id: own, type: http, auth_strategy: proxy_oauth, fallback: passthrough, auth_config: {token_endpoint: "https://as.example/t", client_id: c, client_secret: quiet, scopes: [a], audience: "https://own.example"}, instances: [{url: "https://own.example/a"}, {url: "https://own.example/b", weight: 2}]}
  - {id: key, type: http, auth_strategy: user_key, auth_config: {header: X-API-Key}, config: {url: "https://key.example/mcp"}}
  - {id: up, type: http, auth_strategy: upstream, config: {url: "https://up.example/mcp"}}
  - {id: run, type: stdio, auth_strategy: bypass_auth, config: {command: npx, args: [-y, "", 7], env: {A: "", B: "${GITHUB_CLIENT_ID}!"}, dir: sub}}
  - {id: script, type: local, url: "file://./s.cjs", auth_strategy: bypass_auth, config: {environment: {A: b}, args: [x]}}
`, gatewayconfig.Options{Environ: environ, Dir: "/etc/gw", Resources: []string{"https://search.example"}})
	forge := &gatewayconfig.Connection{ID: "forge", Name: "forge", Servers: []string{"git.A"}, Provider: "custom", Issuer: "https://forge.example", ClientID: "shared", ClientSecret: "quiet", Scopes: []string{"repo", "issues"}}
	own := &gatewayconfig.Connection{ID: "own", Name: "own", Servers: []string{"own"}, Own: true, Grant: "client_credentials", TokenEndpoint: "https://as.example/t", ClientID: "c", ClientSecret: "quiet", Scopes: []string{"a"}, Audience: "https://own.example"}
	key := &gatewayconfig.Connection{ID: "key", Name: "key", Servers: []string{"key"}, Key: true}
	server := func(s gatewayconfig.Server) *gatewayconfig.Server {
		if s.Name == "" {
			s.Name = s.ID
		}
		if s.Header == "" {
			s.Header, s.Scheme = "Authorization", "Bearer "
		}
		if s.Ask == "" {
			s.Ask = "auto"
		}
		if s.Timeout == 0 {
			s.Timeout, s.MaxAnswer, s.MaxRequests, s.HealthEvery = time.Minute, 10<<20, 64, 30*time.Second
		}
		return &s
	}
	want := &gatewayconfig.Config{
		Prefix: true, Separator: "__", DenyByDefault: true, BaseURL: "https://gw.example", Port: 3000, LogLevel: "debug",
		CallerIssuer: &gatewayconfig.CallerIssuer{Issuer: "https://idp.example", JWKSURI: "https://idp.example/jwks", Audience: "gw"},
		Routing: gatewayconfig.Routing{Strategy: "health", FailureThreshold: 3, SuccessThreshold: 4, Recovery: 1500 * time.Millisecond, Retries: 0, BaseDelay: 10 * time.Millisecond, MaxDelay: 20 * time.Millisecond,
			Backoff: 1.5, RetryStatuses: []int{429}, RetryClasses: []int{}, RetryAnyMethod: true},
		Connections: []*gatewayconfig.Connection{forge, own, key},
		Servers: []*gatewayconfig.Server{
			server(gatewayconfig.Server{ID: "search", Name: "Search", Strategy: gatewayconfig.MasterOAuth, Audience: "https://search.example/", TokenScopes: []string{"read"},
				Instances: []gatewayconfig.Instance{{URL: "https://search.example/mcp", Weight: 3}, {URL: "http://127.0.0.1:4100", Root: true, Weight: 1}},
				Scopes:    []string{"read"}, Tools: map[string]gatewayconfig.Tool{"drop": {Scopes: []string{"admin"}, Hide: true, Idempotent: true}}, Expose: []string{"get_*"}, Hide: []string{"get_secret"},
				Pins: map[string]string{"drop": strings.Repeat("fa1afe10", 8)}, Timeout: 5 * time.Second, MaxAnswer: 4096, MaxRequests: 2, HealthEvery: 10 * time.Second}),
			server(gatewayconfig.Server{ID: "git.A", Strategy: gatewayconfig.DelegateOAuth, Ask: "elicit", Connection: forge, Header: "X-Forge", Scheme: "token ", Instances: []gatewayconfig.Instance{{URL: "http://localhost:4101/mcp?x=1", Weight: 1}}}),
			server(gatewayconfig.Server{ID: "own", Strategy: gatewayconfig.ProxyOAuth, Fallback: true, Connection: own, Instances: []gatewayconfig.Instance{{URL: "https://own.example/a", Weight: 1}, {URL: "https://own.example/b", Weight: 2}}}),
			server(gatewayconfig.Server{ID: "key", Strategy: gatewayconfig.UserKey, Connection: key, Header: "X-Api-Key", Instances: []gatewayconfig.Instance{{URL: "https://key.example/mcp", Weight: 1}}}),
			server(gatewayconfig.Server{ID: "up", Strategy: gatewayconfig.Upstream, Instances: []gatewayconfig.Instance{{URL: "https://up.example/mcp", Weight: 1}}}),
			server(gatewayconfig.Server{ID: "run", Strategy: gatewayconfig.Bypass, Instances: []gatewayconfig.Instance{{Command: []string{"npx", "-y", "", "7"}, Env: map[string]gatewayconfig.Secret{"A": "", "B": "gh-id!"}, Dir: "/etc/gw/sub", Weight: 1}}}),
			server(gatewayconfig.Server{ID: "script", Strategy: gatewayconfig.Bypass, Instances: []gatewayconfig.Instance{{Command: []string{"node", "/etc/gw/s.cjs", "x"}, Env: map[string]gatewayconfig.Secret{"A": "b"}, Weight: 1}}}),
		},
		Warnings: []string{"servers[3]: without a credential, the server gets the callers' own tokens, with which it can act for them here"},
	}
	if diff := cmp.Diff(want, c, unexported, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestDefaults_Row71(t *testing.T) {
	c := parse(t, `{"servers": [{"id": "a", "type": "local", "auth_strategy": "master_oauth", "config": {"port": 4100}}]}`, gatewayconfig.Options{})
	want := gatewayconfig.Routing{Strategy: "round_robin", FailureThreshold: 5, SuccessThreshold: 2, Recovery: 30 * time.Second, Retries: 2, BaseDelay: 250 * time.Millisecond, MaxDelay: 4 * time.Second, Backoff: 2, Jitter: true, RetryNetwork: true, RetryStatuses: []int{408, 429}, RetryClasses: []int{5}}
	if diff := cmp.Diff(want, c.Routing); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	s, ok := c.Server("a")
	if !ok || !c.Prefix || c.Separator != "." || c.DenyByDefault || c.Port != 0 || c.BaseURL != "" || c.CallerIssuer != nil || s.Audience != "http://127.0.0.1:4100" || s.Pins != nil || s.Ask != "auto" || s.Name != "a" {
		t.Errorf("%+v, server %+v", c, s)
	}
	if _, ok := c.Server("b"); ok {
		t.Error("there is a server b")
	}
	if _, ok := c.Connection("a"); ok {
		t.Error("there is a connection a")
	}
}

// A variable wins over the file, a flag over both; objects merge, arrays replace.
func TestPrecedence_Row71(t *testing.T) {
	const text = "hosting: {port: 1}\nlogging: {level: info}\nrouting: {retry: {maxRetries: 1, retryOn: {httpStatuses: [408, 429]}}}\nmaster_oauth: {client_id: a, issuer: 'https://a.example', jwks_uri: 'https://a.example/jwks'}\nservers: [{id: a, type: local, auth_strategy: bypass_auth, config: {port: 1}}, {id: b, type: local, auth_strategy: bypass_auth, config: {port: 2}}]\n"
	tests := []struct {
		name    string
		environ map[string]string
		flags   []string
		want    func(c *gatewayconfig.Config) any
		is      any
	}{
		{"file", nil, nil, func(c *gatewayconfig.Config) any { return c.Port }, 1},
		{"variable", map[string]string{"MASTER_HOSTING_PORT": "2"}, nil, func(c *gatewayconfig.Config) any { return c.Port }, 2},
		{"weaker variable", map[string]string{"PORT": "4"}, nil, func(c *gatewayconfig.Config) any { return c.Port }, 4},
		{"two variables", map[string]string{"PORT": "4", "MASTER_HOSTING_PORT": "2"}, nil, func(c *gatewayconfig.Config) any { return c.Port }, 2},
		{"empty variable", map[string]string{"MASTER_HOSTING_PORT": ""}, nil, func(c *gatewayconfig.Config) any { return c.Port }, 1},
		{"flag", map[string]string{"MASTER_HOSTING_PORT": "2"}, []string{"--hosting.port=3"}, func(c *gatewayconfig.Config) any { return c.Port }, 3},
		{"last flag", nil, []string{"--hosting.port=3", "--hosting.port=5"}, func(c *gatewayconfig.Config) any { return c.Port }, 5},
		{"flag without a value", nil, []string{"--security.deny_by_default"}, func(c *gatewayconfig.Config) any { return c.DenyByDefault }, true},
		{"flag merges", nil, []string{`--routing={"retry": {"retryOn": {"networkErrors": false}}}`}, func(c *gatewayconfig.Config) any { return []any{c.Routing.Retries, c.Routing.RetryNetwork} }, []any{1, false}},
		{"flag replaces a list", nil, []string{`--routing.retry.retryOn.httpStatuses=[500]`}, func(c *gatewayconfig.Config) any { return c.Routing.RetryStatuses }, []int{500}},
		{"flag into a list", nil, []string{"--servers.1.config.port=3"}, func(c *gatewayconfig.Config) any {
			return []any{c.Servers[0].Instances[0].URL, c.Servers[1].Instances[0].URL, c.Servers[1].ID}
		}, []any{"http://127.0.0.1:1", "http://127.0.0.1:3", "b"}},
		{"flags into a list", nil, []string{"--servers.0.weight=3", "--servers.0.scopes=[\"x\"]", "--servers.0.scopes.0=y"}, func(c *gatewayconfig.Config) any {
			return []any{c.Servers[0].Instances[0].Weight, c.Servers[0].Scopes}
		}, []any{3, []string{"y"}}},
		{"flag into a list of a variable", map[string]string{"MASTER_SERVERS": `[{"id":"c","type":"local","auth_strategy":"bypass_auth","config":{"port":3}}]`}, []string{"--servers.0.id=e"}, func(c *gatewayconfig.Config) any { return c.Servers[0].ID }, "e"},
		{"level", map[string]string{"LOG_LEVEL": "warn"}, nil, func(c *gatewayconfig.Config) any { return c.LogLevel }, "warn"},
		{"stronger level", map[string]string{"LOG_LEVEL": "warn", "MASTER_LOG_LEVEL": "error"}, nil, func(c *gatewayconfig.Config) any { return c.LogLevel }, "error"},
		{"base URL", map[string]string{"MASTER_BASE_URL": "https://gw.example/"}, nil, func(c *gatewayconfig.Config) any { return c.BaseURL }, "https://gw.example"},
		{"issuer of callers", map[string]string{"MASTER_OAUTH_ISSUER": "https://b.example", "MASTER_OAUTH_JWKS_URI": "https://b.example/j", "MASTER_OAUTH_AUDIENCE": "b"}, nil,
			func(c *gatewayconfig.Config) any { return *c.CallerIssuer }, gatewayconfig.CallerIssuer{Issuer: "https://b.example", JWKSURI: "https://b.example/j", Audience: "b"}},
		{"client id", map[string]string{"MASTER_OAUTH_CLIENT_ID": "b", "MASTER_OAUTH_SCOPES": "openid, profile", "MASTER_OAUTH_TOKEN_ENDPOINT": "https://b.example/t", "MASTER_OAUTH_AUTHORIZATION_ENDPOINT": "https://b.example/a", "MASTER_OAUTH_REDIRECT_URI": "x", "MASTER_OAUTH_CLIENT_SECRET": "quiet", "MASTER_HOSTING_PLATFORM": "docker"}, nil,
			func(c *gatewayconfig.Config) any { return c.CallerIssuer.Audience }, "b"},
		{"servers as JSON", map[string]string{"MASTER_SERVERS": `[{"id":"c","type":"local","auth_strategy":"bypass_auth","config":{"port":3}}]`}, nil, func(c *gatewayconfig.Config) any { return []any{len(c.Servers), c.Servers[0].ID} }, []any{1, "c"}},
		{"servers as YAML", map[string]string{"MASTER_SERVERS_YAML": "- id: d\n  type: local\n  auth_strategy: bypass_auth\n  config: {port: 3}\n"}, nil, func(c *gatewayconfig.Config) any { return []any{len(c.Servers), c.Servers[0].ID} }, []any{1, "d"}},
	}
	for _, test := range tests {
		c, err := gatewayconfig.Parse([]byte(text), gatewayconfig.Options{Flags: test.flags, Environ: func(name string) (string, bool) { value, ok := test.environ[name]; return value, ok }})
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if diff := cmp.Diff(test.is, test.want(c)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", test.name, diff)
		}
	}
}

// A flag whose index no entry of the list has is a fault, which names the flag and the path.
func TestFlagsIntoListsAreRefused_Row71(t *testing.T) {
	const text = "servers: [{id: a, type: local, auth_strategy: bypass_auth, config: {port: 1}}]\n"
	for flag, want := range map[string]string{
		"--servers.1.config.port=3":       "servers[1]: is not there: the list is shorter",
		"--servers.9999.config.port=3":    "servers[9999]: is not there",
		"--servers.99999.config.port=3":   "servers: ",
		"--servers.-1.config.port=3":      "servers: ",
		"--servers.x.config.port=3":       "servers: ",
		"--servers.0.config.prt=3":        "servers[0].config.prt",
		"--servers.0.config.port.0=3":     "servers[0].config.port",
		`--servers={"0":{"type":"x"}}`:    "servers[0].type",
		`--servers={"0":{},"id":{"a":1}}`: "servers: ",
	} {
		_, err := gatewayconfig.Parse([]byte(text), gatewayconfig.Options{Flags: []string{flag}})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--servers") {
			t.Errorf("%s: %v, want %s", flag, err, want)
		}
	}
}

// A process of one role needs no secret of the other's.
func TestEachRoleNeedsItsOwnSecrets(t *testing.T) {
	const text = `
servers:
  - {id: a, type: http, auth_strategy: delegate_oauth, auth_config: {issuer: "env:ISSUER", client_id: "${ID}", client_secret: "env:SECRET"}, config: {url: "https://a.example/mcp"}}
  - {id: b, type: http, auth_strategy: proxy_oauth, auth_config: {token_source: "env:TOKEN"}, config: {url: "https://b.example/mcp"}}
  - {id: c, type: stdio, auth_strategy: bypass_auth, config: {command: x, args: ["${ARGUMENT}"], env: {KEY: "enc:x"}}}
  - {id: d, type: http, auth_strategy: proxy_oauth, auth_config: {token_endpoint: "https://d.example/t", client_id: d, client_key: "file:/nowhere/key", refresh_token: "env:REFRESH"}, config: {url: "https://d.example/mcp"}}
`
	tests := []struct {
		part    gatewayconfig.Part
		missing []string
	}{
		{gatewayconfig.Whole, []string{"servers[0].auth_config.issuer", "servers[0].auth_config.client_id", "servers[0].auth_config.client_secret", "servers[1].auth_config.token_source", "servers[2].config.args[0]", "servers[2].config.env.KEY", "servers[3].auth_config.client_key", "servers[3].auth_config.refresh_token"}},
		{gatewayconfig.ForIssuer, []string{"servers[0].auth_config.issuer", "servers[0].auth_config.client_id", "servers[0].auth_config.client_secret", "servers[3].auth_config.client_key", "servers[3].auth_config.refresh_token"}},
		{gatewayconfig.ForGateway, []string{"servers[1].auth_config.token_source", "servers[2].config.args[0]", "servers[2].config.env.KEY"}},
	}
	for _, test := range tests {
		_, err := gatewayconfig.Parse([]byte(text), gatewayconfig.Options{Part: test.part})
		if err == nil {
			t.Errorf("part %d has no fault", test.part)
			continue
		}
		if diff := cmp.Diff(test.missing, paths(t, err)); diff != "" {
			t.Errorf("part %d: -want +got:\n%s", test.part, diff)
		}
	}
	set := func(name string) (string, bool) {
		return "https://" + strings.ToLower(name) + ".example", slices.Contains([]string{"ISSUER", "ID", "SECRET", "TOKEN", "ARGUMENT", "REFRESH"}, name)
	}
	for _, part := range []gatewayconfig.Part{gatewayconfig.Whole, gatewayconfig.ForIssuer} {
		c, err := gatewayconfig.Parse([]byte(text), gatewayconfig.Options{Part: part, Environ: set, Decrypt: func(string) (gatewayconfig.Sealed, error) { return gatewayconfig.Sealed{Value: "opened"}, nil }})
		if err == nil || len(paths(t, err)) != 1 { // the file is nowhere
			t.Errorf("part %d: %v, %v", part, c, err)
		}
	}
	c, err := gatewayconfig.Parse([]byte(text), gatewayconfig.Options{Part: gatewayconfig.ForGateway, Environ: set, Decrypt: func(string) (gatewayconfig.Sealed, error) { return gatewayconfig.Sealed{Value: "opened"}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Servers) != 4 || len(c.Connections) != 2 || c.Servers[1].Token != "https://token.example" || c.Servers[2].Instances[0].Env["KEY"] != "opened" {
		t.Errorf("%+v", c.Redacted())
	}
}

func paths(t *testing.T, err error) (list []string) {
	t.Helper()
	all, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%v is not a list of faults", err)
	}
	for _, err := range all.Unwrap() {
		f, ok := err.(*gatewayconfig.Fault)
		if !ok {
			t.Fatalf("%v is no fault", err)
		}
		list = append(list, f.Path)
	}
	return list
}
