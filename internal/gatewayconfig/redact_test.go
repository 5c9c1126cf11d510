package gatewayconfig_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signet/internal/gatewayconfig"
)

const withSecrets = `
servers:
  - {id: a, type: http, auth_strategy: delegate_oauth, auth_config: {issuer: "https://a.example", client_id: a, client_secret: quiet-1}, config: {url: "https://a.example/mcp?key=quiet-2&b"}}
  - {id: b, type: http, auth_strategy: proxy_oauth, auth_config: {token_source: quiet-3}, config: {url: "https://b.example/${PATH_SECRET}/mcp"}}
  - {id: c, type: stdio, auth_strategy: bypass_auth, config: {command: npx, args: [--token, quiet-5, --key=quiet-6, "env:ARGUMENT", plain], env: {KEY: quiet-8}}}
  - {id: d, type: http, auth_strategy: proxy_oauth, auth_config: {token_endpoint: "https://d.example/t", client_id: d, client_secret: quiet-9, grant: refresh_token, refresh_token: quiet-10}, config: {url: "https://d.example/mcp"}}
`

func secretsOf(name string) (string, bool) {
	value, ok := map[string]string{"PATH_SECRET": "quiet-4", "ARGUMENT": "quiet-7"}[name]
	return value, ok
}

// What people and logs see of a configuration has no secret.
func TestConfigurationIsShownWithoutSecrets_Row72(t *testing.T) {
	c := parse(t, withSecrets, gatewayconfig.Options{Environ: secretsOf})
	text, err := json.Marshal(c.Redacted())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"https://a.example/mcp?key=***\u0026b"`, `"https://b.example/***/mcp"`, `["npx","--token","***","--key=***","***","plain"]`, `"KEY":"***"`, `"client_secret":"***"`, `"refresh_token":"***"`, `"token_source":"***"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s is not in %s", want, text)
		}
	}
	var log bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	logger.Debug("a", "redacted", c.Redacted(), "secret", c.Connections[0].ClientSecret, "connection", c.Connections[1], "env", c.Servers[2].Instances[0].Env)
	fmt.Fprintf(&log, "%v %+v %s", c.Connections[0], *c.Connections[1], c.Servers[1].Token)
	if shown := string(text) + log.String(); strings.Contains(shown, "quiet") {
		t.Errorf("a secret is in %s", shown)
	}
}

// The differences between two configurations are named by path, and show no secret.
func TestDifferences_Row75(t *testing.T) {
	before := parse(t, withSecrets, gatewayconfig.Options{Environ: secretsOf})
	if lines := gatewayconfig.Diff(before, parse(t, withSecrets, gatewayconfig.Options{Environ: secretsOf})); lines != nil {
		t.Errorf("equal configurations differ: %q", lines)
	}
	for _, test := range []struct {
		name, old, new string
		want           []string
	}{
		{"secret", "quiet-1}", "quiet-11}", []string{"connections[a].client_secret: changed"}},
		{"secret in an address", "quiet-2", "quiet-12", []string{"servers[a].instances[0].url: changed"}},
		{"secret that stands elsewhere", "${PATH_SECRET}", "${ARGUMENT}", []string{"servers[b].instances[0].url: changed"}},
		{"argument", "plain", "simple", []string{"servers[c].instances[0].command[5]: simple, was plain"}},
		{"variable", "KEY: quiet-8", "KEY: quiet-13", []string{"servers[c].instances[0].env.KEY: changed"}},
		{"server", "id: c,", "id: e,", []string{"servers[c]: removed", "servers[e]: added"}},
		{"token", "token_source: quiet-3", "token_source: quiet-14", []string{"servers[b].token_source: changed"}},
		{"timeout", "id: c,", "id: c, timeout: 5s,", []string{"servers[c].timeout: 5s, was 1m0s"}},
		{"scopes", "id: c,", "id: c, scopes: [read],", []string{"servers[c].scopes[0]: read"}},
		{"routing", "servers:", "routing: {retry: {maxRetries: 3}}\nservers:", []string{"routing.maxRetries: 3, was 2"}},
		{"port", "servers:", "hosting: {port: 3000}\nservers:", []string{"port: 3000"}},
	} {
		after := parse(t, strings.Replace(withSecrets, test.old, test.new, 1), gatewayconfig.Options{Environ: secretsOf})
		if diff := cmp.Diff(test.want, gatewayconfig.Diff(before, after)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", test.name, diff)
		}
	}
	lines := gatewayconfig.Diff(nil, before)
	if all := strings.Join(lines, "\n"); !strings.Contains(all, "servers[a]: added") || strings.Contains(all, "quiet") || strings.Contains(all, "servers[a].") {
		t.Errorf("a first configuration: %q", lines)
	}
}
