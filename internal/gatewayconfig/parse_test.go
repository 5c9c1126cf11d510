package gatewayconfig_test

import (
	"path/filepath"
	"strings"
	"testing"

	"signet/internal/gatewayconfig"
)

// environ has every variable that the files of testdata name.
func environ(name string) (string, bool) {
	value, ok := map[string]string{
		"GITHUB_CLIENT_ID": "gh-id", "GITHUB_CLIENT_SECRET": "gh-quiet", "GOOGLE_CLIENT_ID": "g-id", "GOOGLE_CLIENT_SECRET": "g-quiet",
		"INTERNAL_BACKEND_TOKEN": "internal-quiet", "MASTER_OAUTH_CLIENT_SECRET": "master-quiet",
	}[name]
	return value, ok
}

func options() gatewayconfig.Options { return gatewayconfig.Options{Environ: environ} }

// The files that master-mcp-server documents are read as they are.
func TestFilesOfTheOtherGatewayAreRead_Row71(t *testing.T) {
	files, err := filepath.Glob("testdata/good/*")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	for _, file := range files {
		c, err := gatewayconfig.Load(file, options())
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if len(c.Servers) == 0 {
			t.Errorf("%s has no servers", file)
		}
	}
}

// Their incomplete files are refused by path.
func TestIncompleteFilesAreRefused_Row62_Row71(t *testing.T) {
	for file, want := range map[string]string{
		"no-endpoint.yaml": "line 5: servers[0].config: has no address",
		"npm.yaml":         "line 2: servers[0].auth_config: is missing",
	} {
		_, err := gatewayconfig.Load(filepath.Join("testdata/refused", file), options())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", file, err, want)
		}
	}
}

// A server for which neither an authorization server nor a client is named is asked for it.
func TestServerThatIsAskedForItsIssuer_Row63(t *testing.T) {
	for config, want := range map[string]string{
		`auth_config: {}, config: {url: "https://one.example/a/mcp"}`:                             "https://one.example/a/mcp",
		`auth_config: {}, config: {url: "https://one.example"}`:                                   "https://one.example/mcp",
		`auth_config: {scopes: [x]}, config: {port: 4100}`:                                        "http://127.0.0.1:4100/mcp",
		`auth_config: {issuer: "https://as.example"}, config: {url: "https://one.example/a/mcp"}`: "",
	} {
		c, err := gatewayconfig.Parse([]byte("servers:\n  - {id: a, type: http, auth_strategy: delegate_oauth, "+config+"}\n"), options())
		if err != nil {
			t.Errorf("%s: %v", config, err)
			continue
		}
		if got := c.Connections[0].Resource; got != want {
			t.Errorf("%s: %q, want %q", config, got, want)
		}
	}
}
