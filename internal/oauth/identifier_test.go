package oauth_test

import (
	"net/url"
	"strings"
	"testing"

	"signet/internal/oauth"
)

func TestCanonicalResourceChangesSchemeAndHostOnly_B18(t *testing.T) {
	for raw, want := range map[string]string{
		"https://mcp.test/a":          "https://mcp.test/a",
		"HTTPS://MCP.TEST/a":          "https://mcp.test/a",
		"https://mcp.test":            "https://mcp.test",
		"https://mcp.test/":           "https://mcp.test/", // as it is; SameResource compares
		"https://MCP.test:443/A?B=C":  "https://mcp.test:443/A?B=C",
		"https://mcp.test?X=Y":        "https://mcp.test?X=Y",
		"http://LocalHost:8080/mcp":   "http://localhost:8080/mcp",
		"https://mcp.test/%41/../b//": "https://mcp.test/%41/../b//",
	} {
		if got, err := oauth.CanonicalResource(raw); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", raw, got, err, want)
		}
	}
	for _, raw := range []string{
		"", "/mcp", "mcp.test/a", "//mcp.test/a", "https:", "https:/a", "https:a", "https:///a", "https://", "https://mcp.test/a#", "https://mcp.test/a#frag",
		"https://u@mcp.test/a", "https://mcp.test/a b", "https://mcp.test\\a", "https://mcp.test:0/", "https://mcp.test:x/", "https://mcp.test/%zz", "ftp://mcp.test/", "urn:x:y",
		"javascript:alert(1)", "https://mcp.test/\n", "https://" + strings.Repeat("a", 2<<10),
	} {
		if got, err := oauth.CanonicalResource(raw); err == nil {
			t.Errorf("%q became %q", raw, got)
		} else {
			wantCode(t, err, oauth.InvalidTarget)
		}
	}
}

func TestOnlyTheSlashOfAURLWithoutPathIsNoDifference(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{"https://mcp.test", "https://mcp.test/", true},
		{"https://mcp.test:8443", "https://mcp.test:8443/", true},
		{"http://[::1]:8080", "http://[::1]:8080/", true},
		{"https://mcp.test?a=b", "https://mcp.test/?a=b", true},
		{"https://mcp.test/a", "https://mcp.test/a", true},
		{"https://mcp.test/a", "https://mcp.test/a/", false},
		{"https://mcp.test", "https://mcp.test//", false},
		{"https://mcp.test/", "https://mcp.test//", false},
		{"https://mcp.test?a=/", "https://mcp.test?a=", false},
		{"https://mcp.test", "https://mcp.test/?", false},
		{"https://mcp.test", "https://mcp.test/a", false},
		{"https://mcp.test", "http://mcp.test/", false},
		{"https://mcp.test", "https://mcp.test.evil.test/", false},
		{"https://mcp.test", "https://MCP.test", false},
		{"mcp.test", "mcp.test/", false},
		{"", "/", false},
	} {
		if oauth.SameResource(tt.a, tt.b) != tt.same || oauth.SameResource(tt.b, tt.a) != tt.same {
			t.Errorf("%q and %q: want %t", tt.a, tt.b, tt.same)
		}
	}
}

// The canonical form is stable; only the case of scheme and host differs from the input.
func FuzzCanonicalResource(f *testing.F) {
	for _, raw := range []string{"HTTPS://MCP.TEST/a?B#c", "https://a@b/", "https://a?b/c", "//x", "https://[::1]/A", "https:// /"} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := oauth.CanonicalResource(raw)
		if err != nil {
			wantCode(t, err, oauth.InvalidTarget)
			return
		}
		if again, err := oauth.CanonicalResource(got); err != nil || again != got {
			t.Errorf("%q is not stable: %q, %v", got, again, err)
		}
		u, err := url.Parse(got)
		if err != nil || u.Host == "" || u.User != nil || u.Host != strings.ToLower(u.Host) || !strings.EqualFold(raw, got) || strings.Contains(got, "#") {
			t.Errorf("%q became %q (%v)", raw, got, err)
		}
		if path := u.EscapedPath(); !strings.HasSuffix(strings.TrimSuffix(raw, "?"+u.RawQuery), path) {
			t.Errorf("%q: the path became %q", raw, path)
		}
		if prm, err := url.Parse(oauth.ResourceMetadataURL(got)); err != nil || prm.Host != u.Host || prm.RawQuery != u.RawQuery || !strings.HasPrefix(prm.EscapedPath(), "/.well-known/oauth-protected-resource") {
			t.Errorf("%q has its metadata at %v, %v", got, prm, err)
		}
	})
}

func TestIssuerHasOneSpelling(t *testing.T) {
	for _, issuer := range []string{"https://as.test", "https://as.test/t1", "https://as.test:8443/a/b", "http://localhost:8080", "http://127.0.0.1:1", "http://127.9.9.9", "http://[::1]:8080/x", "https://localhost"} {
		if err := oauth.CheckIssuer(issuer); err != nil {
			t.Errorf("%s: %v", issuer, err)
		}
	}
	for _, issuer := range []string{
		"", "as.test", "//as.test", "http://as.test", "http://10.0.0.1", "http://localhost.evil.test", "http://[::ffff:127.0.0.1]", "http://0.0.0.0",
		"https://as.test/", "https://as.test/t1/", "https://as.test?", "https://as.test?x=1", "https://as.test#", "https://u@as.test", "https://AS.test", "HTTPS://as.test",
		"https://as.test:443", "http://localhost:80", "https://as.test:0", "https://as.test:", "https:///x", "https:as.test", "https://as.test/a/../b", "https://as.test//a", "ftp://as.test", "https://*.test", " https://as.test", "https://as.test/a b",
	} {
		if oauth.CheckIssuer(issuer) == nil {
			t.Errorf("%q was accepted", issuer)
		}
	}
}

func TestLoopbackHostsAreExact(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "LOCALHOST": true, "127.0.0.1": true, "127.255.0.9": true, "::1": true, "[::1]": true,
		"": false, "localhost.": false, "127.1": false, "2130706433": false, "::ffff:127.0.0.1": false, "::": false, "0.0.0.0": false, "::1%lo": false, "127.0.0.1:80": false, "as.test": false, "[": false,
	} {
		if got := oauth.IsLoopbackHost(host); got != want {
			t.Errorf("%q: %v, want %v", host, got, want)
		}
	}
}

func TestMetadataPathStandsBeforeTheResourcePath(t *testing.T) {
	for resource, want := range map[string]string{
		"https://mcp.test":        "https://mcp.test/.well-known/oauth-protected-resource",
		"https://mcp.test/":       "https://mcp.test/.well-known/oauth-protected-resource",
		"https://mcp.test/a":      "https://mcp.test/.well-known/oauth-protected-resource/a",
		"https://mcp.test/a/b/":   "https://mcp.test/.well-known/oauth-protected-resource/a/b/",
		"https://mcp.test:1/a?b":  "https://mcp.test:1/.well-known/oauth-protected-resource/a?b",
		"https://mcp.test/?k=v":   "https://mcp.test/.well-known/oauth-protected-resource?k=v",
		"http://localhost:80/mcp": "http://localhost:80/.well-known/oauth-protected-resource/mcp",
	} {
		if got := oauth.ResourceMetadataURL(resource); got != want {
			t.Errorf("%s: %s, want %s", resource, got, want)
		}
	}
}

func TestHostnameHasNoPort(t *testing.T) {
	for host, want := range map[string]string{
		"localhost": "localhost", "localhost:8080": "localhost", "127.0.0.1:1": "127.0.0.1", "[::1]:8080": "::1", "[::1]": "::1", "::1": "::1",
		"app.test:": "app.test", "": "", ":8080": "", "a:b:c": "a:b:c",
	} {
		if got := oauth.Hostname(host); got != want {
			t.Errorf("%q: %q, want %q", host, got, want)
		}
	}
}

func TestMetadataCountsForItsResource_J01(t *testing.T) {
	const well = "https://mcp.example.com/.well-known/oauth-protected-resource"
	for _, tt := range []struct {
		resource, from string
		want           bool
	}{
		{"https://mcp.example.com/a/mcp", well + "/a/mcp", true},
		{"https://MCP.example.com:443/a/mcp/", well, true},
		{"https://mcp.example.com", well, true},
		{"https://mcp.example.com/a", well + "/a", true},
		{"https://mcp.example.com/a/mcp", "https://mcp.example.com/a/metadata", true},
		{"https://mcp.example.com/a", "https://mcp.example.com/a/metadata", false},
		{"https://mcp.example.com", "https://mcp.example.com/.well-known/oauth-protected-resource/../a", false},
		{"https://mcp.example.com/ab", well, false},
		{"https://mcp.example.com/a/mcp/more", well, false},
		{"http://mcp.example.com/a/mcp", well, false},
		{"https://mcp.example.com:8443/a/mcp", well, false},
		{"https://evil.example/a/mcp", well, false},
		{"https://user@mcp.example.com/a/mcp", well, false},
		{"https://mcp.example.com/a/mcp#x", well, false},
		{"%", well, false},
		{"", well, false},
	} {
		from, err := url.Parse(tt.from)
		if err != nil {
			t.Fatal(err)
		}
		endpoint := &url.URL{Scheme: "https", Host: "mcp.example.com", Path: "/a/mcp"}
		if got := oauth.CoversResource(tt.resource, from, endpoint); got != tt.want {
			t.Errorf("%q from %s: %t, want %t", tt.resource, tt.from, got, tt.want)
		}
	}
}
