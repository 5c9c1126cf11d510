package cli

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

func TestGatewayFileMaySetTheProcessWhereNoVariableDoes_Row71_Row74(t *testing.T) {
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "gateway.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const servers = "servers: [{id: a, type: http, auth_strategy: bypass_auth, config: {url: \"https://a.example/mcp\"}}]\n"
	port := write("hosting: {port: 3000}\nlogging: {level: debug}\n" + servers)
	base := write("hosting: {port: 3000, base_url: \"https://gw.example\"}\n" + servers)
	own := write("hosting: {port: 3000, base_url: \"https://gw.example\"}\nservers: [{id: a, type: http, auth_strategy: master_oauth, auth_config: {passthrough: true, audience: \"https://gw.example/mcp\"}, config: {url: \"http://127.0.0.1:9/mcp\"}}]\n")
	for _, tt := range []struct {
		environ        []string
		issuer, listen string
		level          slog.Level
	}{
		{[]string{"SIGNET_GATEWAY_CONFIG=" + port}, "http://localhost:3000", "127.0.0.1:3000", slog.LevelDebug},
		{[]string{"SIGNET_GATEWAY_CONFIG=" + base}, "https://gw.example", "127.0.0.1:3000", slog.LevelInfo},
		{[]string{"SIGNET_GATEWAY_CONFIG=" + base, "SIGNET_ISSUER=https://other.example", "SIGNET_LISTEN=127.0.0.1:1"}, "https://other.example", "127.0.0.1:1", slog.LevelInfo},
		{[]string{"SIGNET_GATEWAY_CONFIG=" + port, "SIGNET_LOG_LEVEL=warn"}, "http://localhost:3000", "127.0.0.1:3000", slog.LevelWarn},
		{[]string{"SIGNET_GATEWAY_CONFIG=" + own}, "https://gw.example", "127.0.0.1:3000", slog.LevelInfo},
		{[]string{"SIGNET_GATEWAY_CONFIG=" + base, "MASTER_BASE_URL=https://third.example"}, "https://third.example", "127.0.0.1:3000", slog.LevelInfo},
	} {
		c, err := readConfig(tt.environ)
		if err != nil {
			t.Errorf("%q: %v", tt.environ, err)
			continue
		}
		if c.Issuer != tt.issuer || c.Listen != tt.listen || c.LogLevel != tt.level {
			t.Errorf("%q: issuer %s, listen %s, level %s", tt.environ, c.Issuer, c.Listen, c.LogLevel)
		}
	}
}
