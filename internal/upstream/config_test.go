package upstream_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signet/internal/upstream"
)

// good is a configuration with one provider of each type.
const good = `upstreams:
  - id: finance
    name: Finance
    type: password
    base_url: http://127.0.0.1:9000/
    timeout: 2s
    username_field: email
    sample_path: api/v1/companies/
    login:
      path: api/v1/auth/token/
      body: {username: "{local_part}", email: "{username}", password: "{password}"}
      access_token: access
      refresh_token: refresh
      user_id: user.id
    refresh: {path: api/v1/auth/token/refresh/, body: {refresh: "{refresh_token}"}, access_token: access}
  - {id: corp, name: Corp, type: oidc, issuer: http://127.0.0.1:9001, client_id: signet, client_secret: "env:CORP_SECRET", scopes: [openid, profile, email, offline_access]}
  - {id: forge, type: oauth2, authorization_endpoint: "https://forge.example/a", token_endpoint: "https://forge.example/t", userinfo_endpoint: "https://forge.example/u", client_id: c, client_secret: s, user_id: id, user_name: login, authorize_params: {access_type: offline}, allow: {domains: [example.com]}, scopes_from: {claim: groups, map: {staff: [read, write]}}}
`

func environ(name string) (string, bool) {
	value, ok := map[string]string{"CORP_SECRET": "quiet", "EMPTY": ""}[name]
	return value, ok
}

func TestConfiguration(t *testing.T) {
	set, err := upstream.Parse([]byte(good), environ)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(set.All()); n != 3 {
		t.Fatalf("%d providers, want 3", n)
	}
	finance, ok := set.Get("finance")
	if !ok || finance.Kind() != upstream.Password || finance.Name() != "Finance" || finance.UsernameField() != "email" || finance.Timeout() != 2*time.Second ||
		finance.BaseURL() != "http://127.0.0.1:9000/" || finance.SamplePath() != "api/v1/companies/" || finance.Host() != "127.0.0.1:9000" {
		t.Errorf("finance is %v", finance)
	}
	forge, ok := set.Get("forge")
	if !ok || forge.Kind() != upstream.OAuth || forge.Name() != "forge" || forge.Host() != "forge.example" || forge.UsernameField() != "username" || forge.Timeout() != 10*time.Second {
		t.Errorf("forge is %v", forge)
	}
	if _, ok := set.Get("other"); ok {
		t.Error("there is a provider other")
	}
	bounds := map[string]bool{}
	for _, p := range set.All() {
		bounds[p.Bound()] = true
	}
	if len(bounds) != 3 {
		t.Errorf("the bounds of three providers are %v", bounds)
	}
}

// Each fault is found at its line and path, and no error shows a value that could be a secret.
func TestConfigurationFaults(t *testing.T) {
	tests := []struct{ name, old, new, want string }{
		{"unknown member", "timeout: 2s", "timeuot: 2s", "line 6: upstreams[0].timeuot: is not known"},
		{"duplicate member", "timeout: 2s", "name: Again", "line 6: upstreams[0].name: is there twice"},
		{"duplicate id", "id: corp", "id: finance", "line 16: upstreams[1].id: is the id of two providers"},
		{"id in capitals", "id: corp", "id: Corp", "line 16: upstreams[1].id: must be"},
		{"no id", "id: corp, ", "", "upstreams[1].id: must be"},
		{"unknown type", "type: password", "type: saml", "line 4: upstreams[0].type: must be"},
		{"member of another type", "timeout: 2s", "issuer: https://x.example", "line 6: upstreams[0].issuer: is not a member"},
		{"http elsewhere", "http://127.0.0.1:9000/", "http://10.0.0.1/", "line 5: upstreams[0].base_url: must be https"},
		{"http issuer elsewhere", "issuer: http://127.0.0.1:9001", "issuer: http://corp.example", "upstreams[1].issuer: must be https"},
		{"user information", "https://forge.example/t", "https://u:SECRET@forge.example/t", "upstreams[2].token_endpoint: has user information"},
		{"fragment", "https://forge.example/t", "https://forge.example/t#a", "upstreams[2].token_endpoint: has a fragment"},
		{"authentication without a secret", "client_secret: s, ", "client_auth: client_secret_basic, ", "upstreams[2].client_secret: is missing"},
		{"secret without authentication", "user_id: id", "client_auth: none", "upstreams[2].client_secret: is not sent"},
		{"long file", "name: Finance", "name: Finance #" + strings.Repeat("x", 1<<20), "line 1: the file has more than"},
		{"long secret", "env:CORP_SECRET", "file:/dev/zero", "line 16: upstreams[1].client_secret: /dev/zero has more than"},
		{"timeout", "timeout: 2s", "timeout: 2", "line 6: upstreams[0].timeout: must be a duration"},
		{"timeout too long", "timeout: 2s", "timeout: 24h", "line 6: upstreams[0].timeout: must be a duration"},
		{"username_field", "username_field: email", "username_field: phone", "line 7: upstreams[0].username_field: must be"},
		{"unknown brace", "{local_part}", "{login}", "line 11: upstreams[0].login.body.username: {login} is not known here"},
		{"lone brace", "{local_part}", "{local_part", "line 11: upstreams[0].login.body.username: braces"},
		{"refresh token at login", "{local_part}", "{refresh_token}", "line 11: upstreams[0].login.body.username: {refresh_token} is not known here"},
		{"password at refresh", `{refresh: "{refresh_token}"}`, `{refresh: "{refresh_token}", p: "{password}"}`, "line 15: upstreams[0].refresh.body.p: {password} is not known here"},
		{"no password", `password: "{password}"`, `password: "SECRET"`, "upstreams[0].login.body: does not contain {password}"},
		{"no access token", "access_token: access\n      refresh_token", "refresh_token", "upstreams[0].login.access_token: is missing"},
		{"path elsewhere", "path: api/v1/auth/token/\n", "path: https://evil.example/\n", "upstreams[0].login.path: must be a path"},
		{"path up", "path: api/v1/auth/token/\n", "path: api/../x\n", "upstreams[0].login.path: has a dot segment"},
		{"sample path elsewhere", "sample_path: api/v1/companies/", "sample_path: //evil.example/", "line 8: upstreams[0].sample_path: must be a path"},
		{"variable", "env:CORP_SECRET", "env:NONE", "line 16: upstreams[1].client_secret: the environment variable NONE is not set"},
		{"empty variable", "env:CORP_SECRET", "env:EMPTY", "line 16: upstreams[1].client_secret: the environment variable EMPTY is not set"},
		{"file", "env:CORP_SECRET", "file:/nowhere/secret", "line 16: upstreams[1].client_secret: open /nowhere/secret"},
		{"no client id", "client_id: signet, ", "", "upstreams[1].client_id: is missing"},
		{"no openid", "scopes: [openid, profile", "scopes: [profile", "line 16: upstreams[1].scopes: must contain openid"},
		{"scope", "offline_access]", `"a b"]`, "upstreams[1].scopes[3]: is not one scope"},
		{"own parameter", "access_type: offline", "state: fixed", "line 17: upstreams[2].authorize_params.state: is not"},
		{"no token endpoint", `token_endpoint: "https://forge.example/t", `, "", "upstreams[2].token_endpoint: is missing"},
		{"client_auth", "user_id: id", "client_auth: jwt", "upstreams[2].client_auth: must be"},
		{"domain", "domains: [example.com]", "domains: ['*.example.com']", "upstreams[2].allow.domains[0]: is not a domain"},
		{"empty allow", "allow: {domains: [example.com]}", "allow: {}", "upstreams[2].allow: admits no user"},
		{"claim", "claim: groups, ", "", "upstreams[2].scopes_from: must have a claim"},
		{"alias", "name: Finance", "name: &n Finance", "line 3: upstreams[0].name: anchors"},
		{"tag", "name: Finance", "name: !!str Finance", "line 3: upstreams[0].name: anchors"},
		{"wrong type", "name: Finance", "name: [Finance]", "line 3: upstreams[0].name: must be a text"},
		{"null", "name: Finance", "name:", "line 3: upstreams[0].name: must be a text"},
		{"not YAML", "name: Finance", "name: [SECRET", "not one YAML document"},
		{"two documents", "name: Finance", "name: Finance\n---\na: b", "not one YAML document"},
		{"environment", "timeout: 2s", "environment: sandbox", "line 6: upstreams[0].environment: needs a base_url"},
		{"unknown environment", "base_url: http://127.0.0.1:9000/", "base_url: {production: 'https://a.example/', sandbox: 'https://b.example/'}\n    environment: test", "upstreams[0].environment: must be one of production, sandbox"},
	}
	for _, test := range tests {
		if strings.Count(good, test.old) != 1 {
			t.Errorf("%s: %q is not there once", test.name, test.old)
		}
		_, err := upstream.Parse([]byte(strings.Replace(good, test.old, test.new, 1)), environ)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "SECRET\"") || err != nil && strings.Contains(err.Error(), ":SECRET@") {
			t.Errorf("%s: %v shows a value", test.name, err)
		}
	}
}

func TestConfigurationNamesAllFaultsAtOnce(t *testing.T) {
	text := strings.NewReplacer("timeout: 2s", "timeout: never", "{local_part}", "{what}", "type: oidc", "kind: oidc").Replace(good)
	_, err := upstream.Parse([]byte(text), environ)
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("got %v, want three faults", err)
	}
}

func TestConfigurationReadsFilesAndEnvironments(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("sandbox\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(good, "base_url: http://127.0.0.1:9000/", "base_url: {production: 'https://a.example', sandbox: 'https://b.example'}\n    environment: file:"+secret, 1)
	set, err := upstream.Parse([]byte(text), environ)
	if err != nil {
		t.Fatal(err)
	}
	finance, _ := set.Get("finance")
	if got, want := finance.BaseURL(), "https://b.example/"; got != want {
		t.Errorf("the base URL is %s, want %s", got, want)
	}
}

func TestConfigurationWithoutProviders(t *testing.T) {
	for _, text := range []string{"", "upstreams: []", "{}", "upstreams:", "[]", "\xff", "upstreams: {a: b}", "- a"} {
		if _, err := upstream.Parse([]byte(text), environ); err == nil {
			t.Errorf("%q is a configuration", text)
		}
	}
}

func TestSingleProvider(t *testing.T) {
	set, err := upstream.Single("https://id.example/", "signet", "quiet")
	if err != nil {
		t.Fatal(err)
	}
	p, ok := set.Get("upstream")
	if !ok || p.Kind() != upstream.OpenID || p.Name() != "id.example" {
		t.Errorf("the provider is %v", p)
	}
	for _, wrong := range [][2]string{{"http://id.example", "signet"}, {"id.example", "signet"}, {"https://id.example?a=b", "signet"}, {"https://id.example", ""}, {"", "signet"}} {
		if _, err := upstream.Single(wrong[0], wrong[1], "quiet"); err == nil {
			t.Errorf("issuer %q and client id %q are taken", wrong[0], wrong[1])
		}
	}
}

// A process that only calls APIs needs no secrets. Base URLs and the form of the rest it needs.
func TestConfigurationForToolsNeedsNoSecrets(t *testing.T) {
	nothing := func(string) (string, bool) { return "", false }
	text := strings.Replace(good, "id: corp,", "client_auth: client_secret_basic, authorize_params: {hint: 'file:/nonexistent/hint'}, id: corp,", 1)
	if _, err := upstream.Parse([]byte(text), nothing); err == nil {
		t.Fatal("the test's file needs no secret")
	}
	set, err := upstream.ParseForTools([]byte(text), nothing)
	if err != nil {
		t.Fatal(err)
	}
	finance, ok := set.Get("finance")
	if !ok || finance.BaseURL() != "http://127.0.0.1:9000/" || finance.SamplePath() != "api/v1/companies/" || len(set.All()) != 3 {
		t.Errorf("got %v, %v", finance, set.All())
	}
	for change, want := range map[string][2]string{
		"a base URL that is not there": {"http://127.0.0.1:9000/", "env:NOWHERE"},
		"a fault elsewhere":            {"type: oidc", "type: odic"},
		"an unknown member":            {"id: corp", "idd: corp"},
	} {
		if _, err := upstream.ParseForTools([]byte(strings.Replace(text, want[0], want[1], 1)), nothing); err == nil {
			t.Errorf("%s is accepted", change)
		}
	}
}

// Without a base_url, the API is at the host of the issuer, or of the endpoint that tells who the
// user is.
func TestBaseURLFollowsFromTheProvider(t *testing.T) {
	set, err := upstream.Parse([]byte(`upstreams:
  - {id: corp, name: Corp, type: oidc, issuer: "https://login.example/realms/staff", client_id: c, client_secret: s, sample_path: api/v1/companies/}
  - {id: forge, name: Forge, type: oauth2, authorization_endpoint: "https://forge.example/a", token_endpoint: "https://forge.example/t", userinfo_endpoint: "https://api.forge.example/user", client_id: c, client_secret: s, user_id: id, sample_path: repos}
`), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{"corp": "https://login.example/", "forge": "https://api.forge.example/"} {
		if p, ok := set.Get(id); !ok || p.BaseURL() != want {
			t.Errorf("%s: %s, want %s", id, p.BaseURL(), want)
		}
	}
}
