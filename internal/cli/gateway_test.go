package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What a gateway's configuration says of the process takes effect, unless a variable says
// otherwise, and then a warning tells so.
func TestGatewayConfigurationSetsTheProcess_Row71_Row74(t *testing.T) {
	const servers = "servers: [{id: a, type: local, auth_strategy: bypass_auth, config: {port: 4100}}]\n"
	tests := []struct {
		name, text            string
		environ, flags        []string
		listen, issuer, level string
		warning               string
	}{
		{"nothing", "", nil, nil, "127.0.0.1:8080", "http://localhost:8080", "INFO", ""},
		{"port", "hosting: {port: 3000}\n", nil, nil, "127.0.0.1:3000", "http://localhost:3000", "INFO", ""},
		{"port in a container", "hosting: {port: 3000, platform: docker}\n", nil, nil, ":3000", "http://localhost:3000", "INFO", ""},
		{"public address", "hosting: {port: 3000, base_url: 'https://gw.example'}\n", nil, nil, "127.0.0.1:3000", "https://gw.example", "INFO", ""},
		{"level", "logging: {level: debug}\n", nil, nil, "127.0.0.1:8080", "http://localhost:8080", "DEBUG", ""},
		{"variable of the other gateway", "hosting: {port: 3000}\n", []string{"MASTER_HOSTING_PORT=3001", "PORT=3002"}, nil, "127.0.0.1:3001", "http://localhost:3001", "INFO", ""},
		{"flag", "hosting: {port: 3000}\n", []string{"MASTER_HOSTING_PORT=3001"}, []string{"--hosting.port=3003"}, "127.0.0.1:3003", "http://localhost:3003", "INFO", ""},
		{"variables of ours", "hosting: {port: 3000, base_url: 'https://gw.example'}\nlogging: {level: debug}\n", []string{"SIGNET_LISTEN=127.0.0.1:9", "SIGNET_ISSUER=http://localhost:9", "SIGNET_LOG_LEVEL=warn"}, nil, "127.0.0.1:9", "http://localhost:9", "WARN",
			"hosting.port of the gateway's configuration counts for nothing: SIGNET_LISTEN is set\nhosting.base_url of the gateway's configuration counts for nothing: SIGNET_ISSUER is set\nlogging.level of the gateway's configuration counts for nothing: SIGNET_LOG_LEVEL is set"},
		{"variables that say the same", "hosting: {port: 9, base_url: 'http://localhost:9'}\n", []string{"SIGNET_LISTEN=0.0.0.0:9", "SIGNET_ISSUER=http://localhost:9"}, nil, "0.0.0.0:9", "http://localhost:9", "INFO", ""},
		{"file with a fault", "hosting: {port: 3000}\nnone: 1\n", nil, nil, "127.0.0.1:8080", "http://localhost:8080", "INFO", ""},
	}
	for _, test := range tests {
		file := filepath.Join(t.TempDir(), "gateway.yaml")
		if err := os.WriteFile(file, []byte(test.text+servers), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := readConfigWith(append(slices.Clone(test.environ), "SIGNET_GATEWAY_CONFIG="+file), test.flags)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if c.Listen != test.listen || c.Issuer != test.issuer || c.LogLevel.String() != test.level {
			t.Errorf("%s: listens at %s, issuer %s, level %s; want %s, %s, %s", test.name, c.Listen, c.Issuer, c.LogLevel, test.listen, test.issuer, test.level)
		}
		if all := strings.Join(c.warnings(), "\n"); test.warning != "" && !strings.HasPrefix(all, test.warning) || test.warning == "" && strings.Contains(all, "gateway's") {
			t.Errorf("%s: the warnings are %q", test.name, all)
		}
	}
}

// Flags with a dot in their name are taken out of a command line, up to --.
func TestFlagsOfTheGatewayConfiguration(t *testing.T) {
	rest, overrides := splitOverrides([]string{"gateway", "check", "a.yaml", "--json", "--hosting.port=1", "--role=a.b", "--security.deny_by_default", "--", "--a.b"})
	if got := strings.Join(rest, " "); got != "gateway check a.yaml --json --role=a.b -- --a.b" {
		t.Errorf("what is left is %s", got)
	}
	if got := strings.Join(overrides, " "); got != "--hosting.port=1 --security.deny_by_default" {
		t.Errorf("the flags are %s", got)
	}
}
