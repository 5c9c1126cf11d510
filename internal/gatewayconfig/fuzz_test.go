package gatewayconfig_test

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"signet/internal/gatewayconfig"
	"signet/internal/oauth"
)

const quiet = "geheim-geheim"

// A configuration either has faults, each with a line and without a secret, or servers that can be
// told apart, each with what its strategy needs and with no address in clear text but on this
// machine or in the operator's own network.
func FuzzConfiguration(f *testing.F) {
	files, err := filepath.Glob("testdata/*/*")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text), "")
	}
	f.Add(fine, "--hosting.port=1")
	f.Add(withSecrets, "--servers.a.b=[1, {")
	f.Add("servers:\n  - &a {id: a, type: http, auth_strategy: bypass_auth, config: {url: 'http://127.0.0.1.evil.example'}}\n  - *a\n", "--=")
	f.Add("servers: [{<<: {id: a}, ? [x] : y, !!binary type: http, \"\\u0000\": 1}]", "x")
	f.Add(`{"servers":[{"id":"a","type":"local","auth_strategy":"user_key","auth_config":{"header":"A\r\nB: {key}"},"config":{"port":1e3}}]}`, "--a.b.c.d")
	f.Add("servers: [{id: a, type: stdio, auth_strategy: bypass_auth, config: {command: 'enc:x', args: ['${A}${', 'file:x'], env: {'': x}}}]", "--servers=null")
	f.Add("routing: {prefix: none}\nservers: [{id: a, type: local, auth_strategy: delegate_oauth, auth_config: {provider: a}, config: {port: 1}}]\noauth_delegation: {providers: {a: {provider: github, client_id: x}, '[]': {}}}", "--oauth_delegation.providers.b={}")
	f.Fuzz(func(t *testing.T, text, flag string) {
		o := gatewayconfig.Options{
			Environ: func(name string) (string, bool) { return quiet, !strings.HasPrefix(name, "MASTER_") && len(name) < 4 },
			Decrypt: func(string) (gatewayconfig.Sealed, error) { return gatewayconfig.Sealed{Value: quiet}, nil },
			Dir:     "/nonexistent",
		}
		if flag != "" {
			o.Flags = []string{flag}
		}
		c, err := gatewayconfig.Parse([]byte(text), o)
		if err != nil {
			checkFaults(t, text, flag, err)
			return
		}
		ids := map[string]bool{}
		for _, s := range c.Servers {
			if ids[s.ID] || len(s.Instances) == 0 || s.Header == "" || s.Name == "" || s.Timeout <= 0 {
				t.Errorf("the server %+v", s)
			}
			ids[s.ID] = true
			checkServer(t, c, s)
		}
		shown, err := json.Marshal(c.Redacted())
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(shown), `"client_secret":"`+quiet) {
			t.Errorf("%s shows a secret", shown)
		}
		if lines := gatewayconfig.Diff(c, c); lines != nil {
			t.Errorf("a configuration differs from itself: %q", lines)
		}
	})
}

func checkServer(t *testing.T, c *gatewayconfig.Config, s *gatewayconfig.Server) {
	t.Helper()
	for _, i := range s.Instances {
		if (i.URL == "") == (len(i.Command) == 0) || i.Weight < 1 {
			t.Errorf("server %s: instance %+v", s.ID, i)
		}
		u, err := url.Parse(i.URL)
		if err != nil {
			t.Errorf("server %s: %v", s.ID, err)
			continue
		}
		if host := u.Hostname(); u.Scheme == "http" && !oauth.IsLoopbackHost(host) && strings.ContainsAny(host, ".:") && !strings.HasSuffix(host, ".internal") {
			t.Errorf("server %s is at %s", s.ID, i.URL)
		}
		if len(i.Command) > 0 && s.Strategy != gatewayconfig.Bypass {
			t.Errorf("server %s: a program with the strategy %s", s.ID, s.Strategy)
		}
	}
	needs := s.Strategy == gatewayconfig.DelegateOAuth || s.Strategy == gatewayconfig.UserKey || s.Strategy == gatewayconfig.ProxyOAuth && s.Token == ""
	if needs != (s.Connection != nil) {
		t.Errorf("server %s with the strategy %s has the connection %v", s.ID, s.Strategy, s.Connection)
	}
	if s.Connection != nil {
		if conn, ok := c.Connection(s.Connection.ID); !ok || conn != s.Connection || strings.Trim(conn.ID, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			t.Errorf("server %s has the connection %q", s.ID, s.Connection.ID)
		}
	}
	if (s.Strategy == gatewayconfig.MasterOAuth) != (s.Audience != "") {
		t.Errorf("server %s with the strategy %s has the audience %q", s.ID, s.Strategy, s.Audience)
	}
}

func checkFaults(t *testing.T, text, flag string, err error) {
	t.Helper()
	all, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%v is not a list of faults", err)
	}
	if strings.Contains(err.Error(), quiet) && !strings.Contains(text+flag, quiet) {
		t.Errorf("%v shows a secret", err)
	}
	lines := 2
	for _, end := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} {
		lines += strings.Count(text, end)
	}
	for _, err := range all.Unwrap() {
		f, ok := err.(*gatewayconfig.Fault)
		if !ok || f.What == "" || (f.From == "") != (f.Line > 0) || f.Line > lines {
			t.Errorf("%#v has no line of the text", err)
		}
	}
}
