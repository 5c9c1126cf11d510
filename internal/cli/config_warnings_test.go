package cli

import (
	"strings"
	"testing"
)

// Settings that contradict each other are warned of by the name of the variable, and usual
// settings are not.
func TestContradictionsAreWarnedOf(t *testing.T) {
	for settings, want := range map[string]string{
		"REFRESH_IDLE_TTL=1m":                               "REFRESH_IDLE_TTL",
		"REFRESH_IDLE_TTL=1h ACCESS_TTL=2h":                 "REFRESH_IDLE_TTL",
		"REFRESH_IDLE_TTL=800h":                             "REFRESH_IDLE_TTL",
		"REFRESH_TTL=1m REFRESH_IDLE_TTL=1m":                "REFRESH_TTL",
		"ACCESS_TTL=1000h REFRESH_IDLE_TTL=720h":            "REFRESH_TTL",
		"REPLAY_WINDOW=1h REFRESH_IDLE_TTL=30m":             "REPLAY_WINDOW",
		"CODE_TTL=10m REFRESH_TTL=6m REFRESH_IDLE_TTL=6m":   "CODE_TTL",
		"KEY_ROTATION=1m":                                   "KEY_ROTATION",
		"KEY_ROTATION=48h KEYS_DIR=keys":                    "KEY_ROTATION",
		"MCP_ORIGINS=https://*.example.com":                 "MCP_ORIGINS",
		"MCP_ORIGINS=https://x.example:443":                 "MCP_ORIGINS",
		"MCP_ORIGINS=http://x.example:80":                   "MCP_ORIGINS",
		"MCP_ORIGINS=https://X.example":                     "MCP_ORIGINS",
		"MCP_ORIGINS=https://x.example:":                    "MCP_ORIGINS",
		"MCP_ORIGINS=https://a.example,https://bücher.test": "MCP_ORIGINS",
		"TRUSTED_PROXIES=0.0.0.0/0":                         "TRUSTED_PROXIES",
		"TRUSTED_PROXIES=::/0":                              "TRUSTED_PROXIES",
		"TRUSTED_PROXIES=10.0.0.0/8,128.0.0.0/1":            "TRUSTED_PROXIES",
		"TRUSTED_PROXIES=::ffff:0.0.0.0/96":                 "TRUSTED_PROXIES",
		"TRUSTED_PROXIES=2000::/3":                          "TRUSTED_PROXIES",
		"TRUSTED_PROXIES=8.0.0.0/6":                         "TRUSTED_PROXIES",
		"REQUIRED_SCOPES=write":                             "REQUIRED_SCOPES",
		"TLS_CERT=c TLS_KEY=k":                              "TLS_CERT",
		"RESOURCES=https://elsewhere.example/mcp":           "RESOURCES",
		"ROLE=mcp SECRET=" + strings.Repeat("A", 43):        "SECRET",
		"ROLE=mcp USERS_FILE=u":                             "USERS_FILE",
		"ROLE=mcp ACCESS_TTL=1h":                            "ACCESS_TTL",
		"ROLE=auth PUBLIC_TOOLS=greet":                      "PUBLIC_TOOLS",
		"ROLE=auth MCP_ORIGINS=https://a.example":           "MCP_ORIGINS",
		"REVOCATION_POLL=5s":                                "REVOCATION_POLL",
		"REGISTRATION=off REDIRECT_SCHEMES=cursor":          "REDIRECT_SCHEMES",

		"CLIENT_DOCUMENTS=off CLIENT_DOCUMENT_HOSTS=a.example": "CLIENT_DOCUMENT_HOSTS",
		"ROLE=mcp ROLLBACK=alarm":                              "ROLLBACK",

		"":                      "",
		"REFRESH_IDLE_TTL=336h": "",
		"REFRESH_TTL=24h":       "",
		"REPLAY_WINDOW=0":       "",
		"ROLE=mcp REVOCATION_POLL=5s PUBLIC_TOOLS=greet":                                                                                      "",
		"MCP_ORIGINS=https://a.example,http://localhost:5173,https://b.example:8443,http://[::1]:3":                                           "",
		"TRUSTED_PROXIES=10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,127.0.0.1/32,fc00::/7,::1/128,203.0.113.7/32,173.245.48.0/20,2400:cb00::/32": "",
		"REQUIRED_SCOPES=read":                                                          "",
		"ISSUER=https://as.example TLS_CERT=c TLS_KEY=k":                                "",
		"ISSUER=https://as.example RESOURCES=https://as.example/mcp,https://b.example/": "",
		"ISSUER=https://as.example/a RESOURCES=https://as.example/mcp":                  "",
		"ROLE=auth RESOURCES=https://elsewhere.example/mcp":                             "",
		"ROLE=auth SECRET=" + strings.Repeat("A", 43):                                   "",
	} {
		var environ []string
		for setting := range strings.FieldsSeq(settings) {
			environ = append(environ, envPrefix+setting)
		}
		c, err := readConfig(environ)
		if err != nil {
			t.Errorf("%s: %v", settings, err)
			continue
		}
		got := c.warnings()
		if want == "" && len(got) == 0 {
			continue
		}
		if want == "" || len(got) != 1 || !strings.HasPrefix(got[0], envPrefix+want+": ") {
			t.Errorf("%s: %q, want a warning of %q", settings, got, want)
		}
	}
}
