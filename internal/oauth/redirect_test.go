package oauth_test

import (
	"net/url"
	"strings"
	"testing"

	"signet/internal/oauth"
)

var cursor = []string{"cursor"}

func TestRedirectURIsOfRealClientsAreAccepted(t *testing.T) {
	for _, uri := range []string{
		"https://app.test/cb", "https://app.test", "https://app.test:8443/cb?x=1", "https://xn--80ak6aa92e.test/cb", "https://[2001:db8::1]/cb",
		"https://claude.ai/api/mcp/auth_callback", "https://vscode.dev/redirect",
		"http://127.0.0.1/", "http://127.0.0.1:33418/", "http://127.0.0.1:8080/cb", "http://[::1]:5000/cb", "http://localhost:8787/callback", "http://localhost/callback",
		"cursor://anysphere.cursor-mcp/oauth/callback", "cursor:/oauth/callback",
	} {
		if err := oauth.CheckRedirectURI(uri, cursor); err != nil {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

// A URI that runs in the browser, travels in clear text, hides its host or breaks the
// response may not be registered.
func TestDangerousRedirectURIsAreRefused_H01(t *testing.T) {
	for _, uri := range []string{
		"", "javascript:alert(1)", "JaVaScRiPt:alert(1)", "javascript://app.test/%0aalert(1)", " javascript:alert(1)", "\tjavascript:alert(1)", "\x00javascript:alert(1)",
		" https://app.test/cb", "https://app.test/cb ", "https://app.test/c\tb", "https://app.test/\r\nb",
		"data:text/html,x", "vbscript:x", "file:///etc/passwd", "about:blank", "blob:https://app.test/x", "ws://app.test/",
		"http://app.test/cb", "http://127.0.0.2/cb", "http://127.0.0.1.evil.test/cb", "http://localhost.evil.test/", "http://LOCALHOST/", "http://0.0.0.0/cb", "http://[::]/",
		"http://localhost:80@evil.test/", "http://u@127.0.0.1/", "http://127.0.0.1:0/", "http://127.0.0.1:65536/", "http://127.0.0.1:/",
		"https://*/cb", "https://*.app.test/cb", "https://u:p@app.test/", "https://app.test@evil.test/", "https:///cb", "https:cb", "https:/cb", "https://", "https://:443/", "https://app.test:/", "https://app.test:99999/",
		"https://app.test/cb#", "https://app.test/cb#x", "cursor://h/#", `https:\\app.test\cb`, `https://app.test/\cb`, "https://аpp.test/cb", "https://app%2etest/cb",
		"//app.test/cb", "/cb", "cb", "app.test/cb", "HTTPS://app.test/cb", "https://app.test/%zz", "https://app.test/cb?a;b", "https://[::1/cb",
		"https://app.test/?code=x", "https://app.test/?a=b&state=x", "https://app.test/?iss=x", "https://app.test/?%63ode=x", "cursor://h/?error=x",
		"https://app.test/" + strings.Repeat("a", 2<<10),
		"vscode://x/cb", "cursor2://h/cb", "cursor", "cursor/", "cursor:", "cursor:x", "Cursor://h/cb", "cursor://u:p@h/cb", "urn:ietf:wg:oauth:2.0:oob",
	} {
		if err := oauth.CheckRedirectURI(uri, cursor); err == nil {
			t.Errorf("%q was accepted", uri)
		} else {
			wantCode(t, err, oauth.InvalidRedirectURI)
		}
	}
	for _, uri := range []string{"https://127.1/cb", "https://2130706433/cb", "https://0x7f000001/", "https://0x7f.1/", "https://10.0.0.256/", "https://1.2.3.4.5/", "https://app.42/", "https://127.0.0.01/", "https://127.0.0.1./"} {
		wantCode(t, oauth.CheckRedirectURI(uri, cursor), oauth.InvalidRedirectURI)
		wantCode(t, oauth.CheckConfiguredRedirectURI(uri), oauth.InvalidRedirectURI)
	}
	for _, uri := range []string{"https://127.0.0.1/cb", "https://1.2.3.4:8443/", "https://[::ffff:1.2.3.4]/", "https://42.test/", "https://app1/", "https://a.0xyz/"} {
		if err := oauth.CheckRedirectURI(uri, cursor); err != nil {
			t.Errorf("%s: %v", uri, err)
		}
	}
	wantCode(t, oauth.CheckRedirectURI("cursor://h/cb", nil), oauth.InvalidRedirectURI)
	for _, uri := range []string{"javascript://h/x", "data:/x", "file:///x"} { // also if an operator lists them
		wantCode(t, oauth.CheckRedirectURI(uri, []string{"javascript", "data", "file"}), oauth.InvalidRedirectURI)
	}
}

// The operator vouches for the clients that are configured, so they may have any private-use
// scheme and http on a private network. Some of that deserves a warning.
// The reason is the fault, and not the rule for hosts that a wrong port breaks too.
func TestRefusedRedirectURIHasItsFault(t *testing.T) {
	for uri, want := range map[string]string{
		"http://127.0.0.1:0/cb":    "port",
		"http://localhost:/cb":     "port",
		"http://ann@localhost/cb":  "user information",
		"http://127.1/cb":          "in another spelling",
		"http://app.example/cb":    "must be https",
		"https://app.example:0/cb": "port",
	} {
		for name, err := range map[string]error{"registered": oauth.CheckRedirectURI(uri, nil), "configured": oauth.CheckConfiguredRedirectURI(uri)} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s, %s: error %v, want one with %q", uri, name, err, want)
			}
		}
	}
}

func TestConfiguredClientsMayHaveMore(t *testing.T) {
	for uri, warned := range map[string]bool{
		"https://app.test/cb": false, "http://127.0.0.1/cb": false, "http://localhost:1/cb": false, "http://[::1]/cb": false,
		"com.example.app:/cb": false, "com.example.app://cb": false, "org.example.a-b+c:/x/y?z=1": false,
		"myapp://cb": true, "cursor://h/cb": true, "obsidian://mcp-auth": true, "zed:///cb": true, "web+app://h/cb": true,
		"http://10.1.2.3/cb": true, "http://192.168.0.7:8080/cb": true, "http://172.16.0.1/": true, "http://[fd00::1]/cb": true, "http://169.254.1.1/": true, "http://127.0.0.2/cb": true,
		"http://nas/cb": true, "http://nas.local/cb": true, "http://host.docker.internal:3000/cb": true, "http://box.lan/": true, "http://box.home.arpa/": true,
	} {
		if err := oauth.CheckConfiguredRedirectURI(uri); err != nil {
			t.Errorf("%s: %v", uri, err)
		}
		if got := oauth.RedirectURIWarning(uri); (got != "") != warned {
			t.Errorf("%s: warning %q", uri, got)
		}
	}
	for _, uri := range []string{
		"", "cb", "/cb", "app.test/cb", "localhost:3000/cb", "com.example.app:cb", "com.example.app:", "Com.Example.App:/cb", "1app:/cb", "my_app:/cb", "com.example.app://u:p@h/cb", "myapp://h/#x", "myapp://h/?code=1",
		"htps://app.test/cb", "htttps://app.test/cb", "hhttps://app.test/cb", "httsp://app.test/cb", "ttps://app.test/cb", "httpss://app.test/cb", "htpp://localhost/cb", "htp://localhost/cb", "httpx://a/cb", "HTTPS://app.test/cb",
		"http://app.test/cb", "http://8.8.8.8/cb", "http://0.0.0.0/cb", "http://app.local.evil.test/cb", "http://10.1/cb", "http://u@10.0.0.1/cb", "http:///cb", "http://nas:0/cb", "http://[2001:db8::1]/cb",
		"javascript://h/x", "javascript:alert(1)", "data:/x", "vbscript://x", "file:///x", "blob:/x", "about:/blank", "ws://h/", "wss://h/", "ftp://h/", "sftp://h/", "ssh://h/", "smb://h/x", "ldap://h/", "view-source://h/", "intent://h/x", "android-app://h/x",
		"ms-word:/x", "ms-settings://x", "ms-msdt:/id", "ms-appinstaller:/x", "search-ms:/x", "chrome://settings", "chrome-extension://id/x", "moz-extension://id/x", "resource://x/y", "jar:/x", "mailto:/x", "tel:/1", "itms-services://x", "urn:ietf:wg:oauth:2.0:oob",
	} {
		wantCode(t, oauth.CheckConfiguredRedirectURI(uri), oauth.InvalidRedirectURI)
	}
	if got := oauth.CheckConfiguredRedirectURI("htps://app.test/cb").Error(); !strings.Contains(got, "misspelt") {
		t.Error(got)
	}
}

// Only the registered string itself matches.
func TestRedirectURIMatchesExactly_B02(t *testing.T) {
	const registered = "https://app.test/cb"
	if !oauth.RedirectURIMatches(registered, registered) {
		t.Fatal("the registered URI does not match itself")
	}
	for _, uri := range []string{
		"", "https://app.test/cb/", "https://app.test/CB", "https://app.test/cb?x=1", "https://app.test/cb?", "https://app.test/cb#", "https://app.test:443/cb",
		"https://app.test/x/../cb", "https://app.test/%63b", "https://app.test/cb%00", "https://app.test.evil.test/cb", "https://app.test@evil.test/cb",
		"https://evil.test/?https://app.test/cb", "HTTPS://APP.TEST/cb", "//app.test/cb", `https:\\app.test\cb`, "https://аpp.test/cb", "http://app.test/cb",
		" https://app.test/cb", "https://app.test/cb\n",
	} {
		if oauth.RedirectURIMatches(registered, uri) {
			t.Errorf("%q matches %s", uri, registered)
		}
	}
	if oauth.RedirectURIMatches("https://app.test/cb?x=1", registered) {
		t.Error("a URI without the registered query matches")
	}
	if oauth.RedirectURIMatches("https://localhost:1/cb", "https://localhost:2/cb") || oauth.RedirectURIMatches("cursor://127.0.0.1:1/", "cursor://127.0.0.1:2/") {
		t.Error("the port may differ in a URI that is not http")
	}
}

// On a loopback host the port may differ and nothing else.
func TestLoopbackPortMayDiffer_B03(t *testing.T) {
	const registered = "http://127.0.0.1:8080/cb"
	for _, uri := range []string{"http://127.0.0.1:1/cb", "http://127.0.0.1:51004/cb", "http://127.0.0.1:65535/cb", "http://127.0.0.1/cb", registered} {
		if !oauth.RedirectURIMatches(registered, uri) {
			t.Errorf("%s does not match %s", uri, registered)
		}
	}
	for _, uri := range []string{
		"http://localhost:8080/cb", "http://127.0.0.2:8080/cb", "http://[::1]:8080/cb", "https://127.0.0.1:8080/cb", "http://127.0.0.1:8080/cb/", "http://127.0.0.1:8080/cb?x",
		"http://127.0.0.1:0/cb", "http://127.0.0.1:65536/cb", "http://127.0.0.1:080/cb", "http://127.0.0.1:/cb", "http://127.0.0.1:+1/cb", "http://127.0.0.1:1 /cb",
		"http://127.0.0.1:80@evil.test/cb", "http://127.0.0.1.evil.test/cb", "http://127.1/cb", "http://2130706433/cb", "http://[::ffff:127.0.0.1]/cb",
		"http://127.0.0.1@evil.test/cb", `http://127.0.0.1\@evil.test/cb`, "http://127.0.0.1:8080", "http://127.0.0.1:8080/CB", "http://127.0.0.1:8080/cb#", "HTTP://127.0.0.1:8080/cb",
		"http://u@127.0.0.1:8080/cb", "http://127.0.0.1:8080/%63b", "http://127.0.0.1:8080//cb", "http://127.0.0.1:8080:1/cb",
	} {
		if oauth.RedirectURIMatches(registered, uri) {
			t.Errorf("%s matches %s", uri, registered)
		}
	}
	for registered, uri := range map[string]string{
		"http://127.0.0.1/":                 "http://127.0.0.1:40000/",
		"http://[::1]:9/cb?x=1":             "http://[::1]:10/cb?x=1",
		"http://localhost/callback":         "http://localhost:51004/callback",
		"http://localhost:1455/cb":          "http://localhost:1456/cb",
		"http://127.0.0.1:33418":            "http://127.0.0.1:33419",
		"http://127.0.0.1:33418/a?b:c@d/e?": "http://127.0.0.1:1/a?b:c@d/e?",
	} {
		if !oauth.RedirectURIMatches(registered, uri) {
			t.Errorf("%s does not match %s", uri, registered)
		}
	}
}

// URIs that match are the same string, or the same except for a port on this machine.
func FuzzRedirectURIMatches(f *testing.F) {
	f.Add("http://127.0.0.1/cb", "http://127.0.0.1.evil.example/cb")
	f.Add("http://localhost:1/cb", "http://localhost:80@evil.example/cb")
	f.Add("http://127.0.0.1:8080/cb", "http://127.0.0.1:9/cb")
	f.Add("http://[::1]/cb", "http://[::1]:1/cb")
	f.Add("https://app.test/cb", "https://app.test/cb/")
	f.Add("http://localhost?x", "http://localhost:5?x")
	f.Fuzz(func(t *testing.T, registered, uri string) {
		if oauth.CheckRedirectURI(registered, cursor) != nil || !oauth.RedirectURIMatches(registered, uri) || registered == uri {
			return
		}
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatalf("%q matched %q: %v", uri, registered, err)
		}
		r, err := url.Parse(registered)
		if err != nil {
			t.Fatal(err)
		}
		if h := u.Hostname(); h != "localhost" && h != "127.0.0.1" && h != "::1" {
			t.Errorf("%q matched %q: not on this machine", registered, uri)
		}
		// A naive comparison: without the first ":port" after the host.
		bare := func(u *url.URL, s string) string { return strings.Replace(s, u.Host, u.Hostname(), 1) }
		if bare(r, registered) != bare(u, uri) || u.Scheme != "http" || u.User != nil {
			t.Errorf("%q matched %q", registered, uri)
		}
	})
}

// A URI that may be registered parses to the host that it shows, and leaves the
// parameters of the response single.
func FuzzCheckRedirectURI(f *testing.F) {
	for _, uri := range []string{"https://app.test/cb?x=1", "javascript:alert(1)", "https://u@app.test/", "http://localhost:1/", "cursor://a/b", "cursor", `https:\\a`, "https://a#"} {
		f.Add(uri)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		if oauth.CheckRedirectURI(uri, cursor) != nil {
			return
		}
		if strings.ContainsAny(uri, "#\\ \t\r\n\"<>") {
			t.Errorf("%q was accepted", uri)
		}
		if !oauth.RedirectURIMatches(uri, uri) {
			t.Errorf("%q does not match itself", uri)
		}
		u, err := url.Parse(oauth.AuthorizationResponse(uri, "c", "s", "i"))
		if err != nil {
			t.Fatalf("%q: the response is no URI: %v", uri, err)
		}
		if u.User != nil || u.Scheme == "" || u.Scheme == "https" && u.Hostname() == "" || u.Scheme == "http" && !oauth.IsLoopbackRedirect(uri) {
			t.Errorf("%q was accepted", uri)
		}
		if q := u.Query(); len(q["code"]) != 1 || len(q["state"]) != 1 || len(q["iss"]) != 1 {
			t.Errorf("%q: a response parameter occurs twice: %v", uri, q)
		}
	})
}
