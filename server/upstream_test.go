package server_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"signet/server"
)

// Each wrong setting of the upstreams is found, and the error names its variable.
func TestUpstreamSettings(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("good.yaml", "upstreams:\n  - {id: corp, type: oidc, issuer: https://id.example, client_id: a, client_secret: env:CORP_SECRET}\n")
	wrong := write("wrong.yaml", "upstreams:\n  - {id: corp, type: oidc, issuer: http://id.example, client_id: a}\n")
	scopes := write("scopes.yaml", "upstreams:\n  - {id: corp, type: oidc, issuer: https://id.example, client_id: a, scopes_from: {claim: c, map: {staff: [read, rite]}}}\n")
	environ := func(name string) (string, bool) { return "quiet", name == "CORP_SECRET" }
	for _, c := range []struct {
		name string
		u    server.Upstream
		want string // empty: no error
	}{
		{"none", server.Upstream{}, ""},
		{"file", server.Upstream{Config: file, Environ: environ}, ""},
		{"one provider", server.Upstream{Issuer: "https://id.example", ClientID: "a"}, ""},
		{"both", server.Upstream{Config: file, Environ: environ, Issuer: "https://id.example", ClientID: "a"}, "SIGNET_UPSTREAM_CONFIG, SIGNET_UPSTREAM_ISSUER: "},
		{"no issuer", server.Upstream{ClientID: "a"}, "SIGNET_UPSTREAM_ISSUER: "},
		{"no client id", server.Upstream{Issuer: "https://id.example"}, "SIGNET_UPSTREAM_CLIENT_ID: "},
		{"wrong issuer", server.Upstream{Issuer: "http://id.example", ClientID: "a"}, "SIGNET_UPSTREAM_ISSUER: "},
		{"wrong key", server.Upstream{Key: "short"}, "SIGNET_UPSTREAM_KEY: "},
		{"no file", server.Upstream{Config: filepath.Join(dir, "none")}, "SIGNET_UPSTREAM_CONFIG: "},
		{"wrong file", server.Upstream{Config: wrong}, "SIGNET_UPSTREAM_CONFIG: " + wrong + ":\nline 2: upstreams[0].issuer: "},
		{"scope", server.Upstream{Config: scopes}, "SIGNET_UPSTREAM_CONFIG: " + scopes + ":\nline 2: upstreams[0].scopes_from.map.staff: the scope rite"},
		{"variable", server.Upstream{Config: file}, "SIGNET_UPSTREAM_CONFIG: " + file + ":\nline 2: upstreams[0].client_secret: "},
	} {
		err := c.u.Check()
		set, openErr := c.u.Open([]string{"read"})
		if err == nil {
			err = openErr
		}
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)):
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		case c.want == "" && (set == nil) != (c.name == "none"):
			t.Errorf("%s: the set is %v", c.name, set)
		}
	}
}
