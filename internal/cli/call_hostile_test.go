package cli

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"signet/internal/mcpclient"
)

// TestMain makes the test servers' certificate, which is for *.example.com, one of the
// system's, and answers for these names.
func TestMain(m *testing.M) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	file, err := os.CreateTemp("", "roots")
	if err == nil {
		err = pem.Encode(file, &pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	}
	if err != nil {
		panic(err)
	}
	file.Close()
	s.Close()
	os.Setenv("SSL_CERT_FILE", file.Name())
	os.Setenv("NO_PROXY", "*")
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: dialNames}
	status := m.Run()
	os.Remove(file.Name())
	os.Exit(status)
}

// dialNames connects to a name server that knows near.example.com, the address that
// this machine has in its network, and takes all other names for this machine.
func dialNames(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe() // so the messages have a length, as over TCP
	go func() {
		defer server.Close()
		b := make([]byte, 1024)
		for {
			n, err := server.Read(b[:2])
			if err != nil || n != 2 {
				return
			}
			if n, err = server.Read(b[:int(b[0])<<8|int(b[1])]); err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil {
				return
			}
			m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA && strings.HasSuffix(q.Name.String(), ".example.com.") {
				ip := net.IPv4(127, 0, 0, 1)
				if q.Name.String() == "near.example.com." {
					ip = nearAddress()
				}
				m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class}, Body: &dnsmessage.AResource{A: [4]byte(ip.To4())}}}
			}
			answer, err := m.Pack()
			if err != nil {
				return
			}
			server.Write(append([]byte{byte(len(answer) >> 8), byte(len(answer))}, answer...))
		}
	}()
	return client, nil
}

// nearAddress returns an address of this machine that is not loopback, nil if there is
// none.
func nearAddress() net.IP {
	list, _ := net.InterfaceAddrs()
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			return n.IP
		}
	}
	return nil
}

// newDistant returns a good server that its user knows by a name of the internet.
func newDistant(t *testing.T) *strange {
	t.Helper()
	s := unstarted(t)
	s.StartTLS()
	s.at("mcp.example.com")
	return s
}

// at tells the server its host.
func (s *strange) at(host string) {
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	s.URL = "https://" + net.JoinHostPort(host, port)
	s.resource, s.issuer = s.URL+"/mcp", s.URL
}

// canary counts the connections to a port of this machine.
func canary(t *testing.T) (port string, seen *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	seen = &atomic.Int32{}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			seen.Add(1)
			c.Close()
		}
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port, seen
}

// naming lists how a server leads a client somewhere.
var naming = map[string]func(s *strange, to string){
	"resource metadata":    func(s *strange, to string) { s.challenge = `Bearer resource_metadata="` + to + `/x"` },
	"authorization server": func(s *strange, to string) { s.servers = []string{to} },
	"authorization endpoint": func(s *strange, to string) {
		s.meta = func(m map[string]any) { m["authorization_endpoint"] = to + "/authorize" }
	},
	"token endpoint": func(s *strange, to string) { s.meta = func(m map[string]any) { m["token_endpoint"] = to + "/token" } },
	"registration endpoint": func(s *strange, to string) {
		s.meta = func(m map[string]any) { m["registration_endpoint"] = to + "/register" }
	},
	"redirect of the endpoint": func(s *strange, to string) { s.moved["/mcp"] = move{307, to + "/mcp", false} },
	"redirect with the token":  func(s *strange, to string) { s.moved["/mcp"] = move{308, to + "/mcp", true} },
	"redirect of resource metadata": func(s *strange, to string) {
		s.moved["/.well-known/oauth-protected-resource/mcp"] = move{302, to + "/x", false}
	},
	"redirect of server metadata": func(s *strange, to string) {
		s.moved["/.well-known/oauth-authorization-server"] = move{301, to + "/x", false}
	},
	"redirect of the registration":  func(s *strange, to string) { s.moved["/register"] = move{307, to + "/register", false} },
	"redirect of the token request": func(s *strange, to string) { s.moved["/token"] = move{307, to + "/token", false} },
	"redirect of the page":          func(s *strange, to string) { s.moved["/authorize"] = move{302, to + "/authorize", false} },
	"redirect of the login":         func(s *strange, to string) { s.leave = to + "/login" },
	"form":                          func(s *strange, to string) { s.loginAction = to + "/login" },
}

// A server elsewhere leads the client to no address of the user's machine, however that
// is written and wherever it is named.
func TestCallReachesNoAddressOfItsMachineForAServerElsewhere(t *testing.T) {
	s := newDistant(t)
	if status, stdout, stderr := s.call(t, s.resource, "say"); status != 0 || !strings.Contains(stdout, "Text:") {
		t.Fatalf("a good server: status %d\n%s%s", status, stdout, stderr)
	}
	refused := func(t *testing.T, way, origin string, seen *atomic.Int32) {
		t.Helper()
		s := newDistant(t)
		naming[way](s, origin)
		status, _, stderr := s.call(t, s.resource, "say")
		if status != exitFailed || s.calls["say"] != 0 {
			t.Errorf("%s %s: status %d\n%s", way, origin, status, stderr)
		}
		if seen.Load() != 0 {
			t.Errorf("%s %s: the client connected to it", way, origin)
		}
	}
	port, seen := canary(t)
	for way := range naming {
		for _, origin := range []string{"http://127.0.0.1:", "https://localhost:"} {
			refused(t, way, origin+port, seen)
		}
	}
	for _, host := range []string{
		"127.0.0.1", "127.1.2.3", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "localhost", "LOCALHOST", "localhost.", "x.localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "１２７.0.0.1", "%6cocalhost",
		"169.254.169.254", "[fe80::1]", "user@127.0.0.1",
	} {
		refused(t, "authorization server", "https://"+host+":"+port, seen)
		refused(t, "authorization endpoint", "https://"+host+":"+port, seen)
	}
}

// The address that is dialled counts, not the name.
func TestCallReachesNoNameOfItsMachineForAServerOfTheNetwork(t *testing.T) {
	near := nearAddress()
	if near == nil {
		t.Skip("this machine has no address in a network")
	}
	l, err := net.Listen("tcp", net.JoinHostPort(near.String(), "0"))
	if err != nil {
		t.Skip(err)
	}
	s := unstarted(t)
	s.Listener.Close()
	s.Listener = l
	s.StartTLS()
	s.at("near.example.com")
	if status, stdout, stderr := s.call(t, s.resource, "say"); status != 0 || !strings.Contains(stdout, "Text:") {
		t.Fatalf("a good server: status %d\n%s%s", status, stdout, stderr)
	}
	port, seen := canary(t)
	naming["authorization server"](s, "https://as.example.com:"+port) // which is 127.0.0.1
	status, _, stderr := s.call(t, s.resource, "say")
	if status != exitFailed || !strings.Contains(stderr, "an address of this machine") || seen.Load() != 0 {
		t.Errorf("status %d, %d connections\n%s", status, seen.Load(), stderr)
	}
}

// No redirect takes the token, the code or the refresh token to another origin, or
// turns a call into something else. Within the origin a redirect is followed.
func TestCallSendsSecretsToNoOtherOrigin(t *testing.T) {
	var hits atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	t.Cleanup(other.Close)
	secure := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	t.Cleanup(secure.Close)
	_, port, _ := net.SplitHostPort(secure.Listener.Addr().String())
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, path := range []string{"/mcp", "/token", "/register"} {
			for _, to := range []string{other.URL, "https://mcp.example.com:" + port, "//other.example.com:" + port} {
				s := newDistant(t)
				s.moved[path] = move{status, to + path, path == "/mcp"}
				if got, _, stderr := s.call(t, s.resource, "say"); got != exitFailed || hits.Load() != 0 || !strings.Contains(stderr, "redirect") {
					t.Errorf("%d of %s to %s: status %d, %d requests\n%s", status, path, to, got, hits.Load(), stderr)
				}
				if s := newStrange(t); to == other.URL { // as well between ports of this machine
					s.moved[path] = move{status, to + path, path == "/mcp"}
					if got, _, stderr := s.call(t, s.resource, "say"); got != exitFailed || hits.Load() != 0 {
						t.Errorf("%d of %s to %s: status %d, %d requests\n%s", status, path, to, got, hits.Load(), stderr)
					}
				}
			}
		}
	}
	for status, want := range map[int]int{307: 0, 308: 0, 302: exitFailed} {
		s := newStrange(t)
		s.moved["/mcp"] = move{status, "/mcp/", false}
		if got, stdout, stderr := s.call(t, s.resource, "say"); got != want || strings.Contains(stdout, "Text:") != (want == 0) || strings.Contains(stderr, "with a redirect to another page") != (want != 0) {
			t.Errorf("%d within the origin: status %d, want %d\n%s%s", status, got, want, stdout, stderr)
		}
	}
}

// opener puts a program in the place of the one that opens addresses, and returns the
// file that it writes the address into.
func opener(t *testing.T) (opened string) {
	t.Helper()
	dir := t.TempDir()
	opened = filepath.Join(dir, "opened")
	for _, name := range []string{"xdg-open", "open"} {
		script := fmt.Sprintf("#!/bin/sh\nprintf '%%s' \"$1\" > '%s.new' && mv '%s.new' '%s'\n", opened, opened, opened)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return opened
}

// Only a page of the web is opened in the browser.
func TestCallOpensOnlyPagesOfTheWeb(t *testing.T) {
	opened := opener(t)
	run := func(ctx context.Context, s *strange) (status int, stderr string) {
		var out, errs lockedBuffer
		p := Process{Environ: []string{"DISPLAY=:0"}, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs}
		status = Run(ctx, p, []string{"call", "say", "--server", s.resource})
		return status, errs.String()
	}
	for _, address := range []string{
		"file://localhost/etc/passwd", "file:///etc/passwd", "smb://localhost/share", "ssh://localhost", "vscode://localhost/x", "ms-msdt://localhost/x", "javascript://localhost/%0aalert(1)", "data:text/html,x", "mailto:x@localhost",
		"ftp://127.0.0.1/x", "HTTP+unix://localhost/x", "http://192.0.2.1/authorize", "http://localhost.example.com/", "https://user:pw@mcp.example.com/", "/etc/passwd", "--help", "",
	} {
		s := newStrange(t)
		s.meta = func(m map[string]any) { m["authorization_endpoint"] = address }
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		status, stderr := run(ctx, s)
		cancel()
		if status != exitFailed || !strings.Contains(stderr, "authorization_endpoint") || len(s.registrations) > 0 {
			t.Errorf("%s: status %d, want %d before any registration\n%s", address, status, exitFailed, stderr)
		}
		if _, err := os.Stat(opened); err == nil {
			t.Fatalf("%s was opened", address)
		}
		(Process{Environ: []string{"DISPLAY=:0"}, Stderr: &lockedBuffer{}}).showLogin(t.Context(), address)
		if _, err := os.Stat(opened); err == nil {
			t.Fatalf("%s was opened", address)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s := newStrange(t)
	go func() {
		for ctx.Err() == nil {
			if address, err := os.ReadFile(opened); err == nil {
				if resp, err := http.Get(s.signIn(t, string(address))); err == nil {
					resp.Body.Close()
				}
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	if status, stderr := run(ctx, s); status != 0 {
		t.Errorf("a page of the web: status %d\n%s", status, stderr)
	}
}

// The password goes to another origin than the server's only if the user names it.
func TestCallGivesThePasswordToNamedOriginsOnly(t *testing.T) {
	pair := func() (s, as *strange) {
		s, as = newStrange(t), newStrange(t)
		s.servers, s.trusts = []string{"https://unused.example.com", as.URL}, as
		slices.Reverse(s.servers)
		return s, as
	}
	for what, c := range map[string]struct {
		change func(s, as *strange) (args []string)
		want   string // of the error
	}{
		"not named":      {func(_, _ *strange) []string { return nil }, "--issuer http://127.0.0.1:"},
		"named":          {func(_, as *strange) []string { return []string{"--issuer", as.URL} }, ""},
		"named, a slash": {func(_, as *strange) []string { return []string{"--issuer", as.URL + "/"} }, ""},
		"named, second":  {func(s, as *strange) []string { slices.Reverse(s.servers); return []string{"--issuer", as.URL} }, ""},
		"another named":  {func(s, _ *strange) []string { return []string{"--issuer", s.URL} }, "authorization server is "},
		"named a path":   {func(_, as *strange) []string { return []string{"--issuer", as.URL + "/x"} }, "authorization server is "},
		"page elsewhere": {func(s, as *strange) []string {
			as.meta = func(m map[string]any) {
				m["authorization_endpoint"] = strings.Replace(as.URL, "127.0.0.1", "localhost", 1) + "/authorize"
			}
			return []string{"--issuer", as.URL}
		}, "without --username"},
		"issuer of another": {func(s, as *strange) []string {
			as.issuer = s.URL
			return []string{"--issuer", as.URL}
		}, "does not match"},
	} {
		s, as := pair()
		args := c.change(s, as)
		status, _, stderr := s.call(t, s.resource, append([]string{"say"}, args...)...)
		if c.want == "" && (status != 0 || as.posts != 1) || c.want != "" && (status != exitFailed || !strings.Contains(stderr, c.want) || as.posts != 0 || len(as.registrations) != 0) {
			t.Errorf("%s: status %d, %d logins, %d registrations, want %q\n%s", what, status, as.posts, len(as.registrations), c.want, stderr)
		}
	}
	for _, yes := range []bool{true, false} {
		s, as := pair()
		var asked []string
		o := mcpclient.Options{Username: "alice", Password: callPassword, Narrator: narrator{&lockedBuffer{}}, Confirm: func(_ context.Context, origin string) (bool, error) {
			asked = append(asked, origin)
			return yes, nil
		}}
		o.Endpoint, _ = url.Parse(s.resource)
		err := (Process{Stdout: &lockedBuffer{}}).call(t.Context(), o, "say", nil, false)
		if (err == nil) != yes || !slices.Equal(asked, []string{as.URL}) || as.posts > 0 != yes {
			t.Errorf("answered %v: %v, asked about %q, %d logins", yes, err, asked, as.posts)
		}
	}
	s := newStrange(t)
	for _, bad := range []string{"x", "http://192.0.2.1", "https://user@x.example.com", "file:///x"} {
		if status, _, stderr := s.call(t, s.resource, "say", "--issuer", bad); status != exitWrongUse || !strings.Contains(stderr, "--issuer: ") {
			t.Errorf("--issuer %s: status %d\n%s", bad, status, stderr)
		}
	}
}

// What was issued for one issuer goes to no other.
func TestCallBindsWhatItHoldsToTheIssuer(t *testing.T) {
	for what, c := range map[string]struct {
		change func(s, other *strange)
		want   string
	}{
		"page of another server, whose answer has no issuer": {func(s, other *strange) {
			s.meta = func(m map[string]any) { m["authorization_endpoint"] = other.URL + "/authorize" }
			s.noIss, other.noIss = true, true
		}, "names no issuer"},
		"page of another server, whose answer has its issuer": {func(s, other *strange) {
			s.meta = func(m map[string]any) { m["authorization_endpoint"] = other.URL + "/authorize" }
		}, "comes from the issuer"},
		"metadata of another issuer": {func(s, other *strange) { s.issuer = other.URL }, "does not match"},
		"no PKCE":                    {func(s, _ *strange) { s.meta = func(m map[string]any) { delete(m, "code_challenge_methods_supported") } }, "PKCE"},
		"PKCE that is plain": {func(s, _ *strange) {
			s.meta = func(m map[string]any) { m["code_challenge_methods_supported"] = []string{"plain"} }
		}, "PKCE"},
		"another way to authenticate": {func(s, _ *strange) {
			s.registered = func(m map[string]any) { m["token_endpoint_auth_method"] = "private_key_jwt" }
		}, "private_key_jwt"},
		"wider resource, from a page of a path": {func(s, _ *strange) {
			s.challenge, s.resource = `Bearer resource_metadata="`+s.URL+`/tenant/metadata"`, s.URL
		}, "metadata of"},
		"wider resource, from a path that leaves": {func(s, _ *strange) {
			s.challenge, s.resource = `Bearer resource_metadata="`+s.URL+`/.well-known/oauth-protected-resource/../../tenant/metadata"`, s.URL
		}, "metadata of"},
	} {
		s, other := newStrange(t), newStrange(t)
		endpoint := s.resource
		c.change(s, other)
		o := mcpclient.Options{Username: "alice", Password: callPassword, Narrator: narrator{&lockedBuffer{}}, Confirm: func(context.Context, string) (bool, error) { return true, nil }}
		o.Endpoint, _ = url.Parse(endpoint)
		err := (Process{Stdout: &lockedBuffer{}}).call(t.Context(), o, "say", nil, false)
		if err == nil || !strings.Contains(err.Error(), c.want) || len(s.tokenRequests)+len(other.tokenRequests) > 0 {
			t.Errorf("%s: %v, want %q before any token request", what, err, c.want)
		}
	}

	s, other := newStrange(t), newStrange(t)
	s.token = func(map[string]any) {
		s.meta = func(m map[string]any) { m["token_endpoint"] = other.URL + "/token" }
		s.servers = []string{other.URL}
	}
	if status, _, stderr := s.call(t, s.resource, "say"); status != 0 || len(other.tokenRequests) > 0 {
		t.Errorf("a server that names another one later: status %d, %v\n%s", status, other.tokenRequests, stderr)
	}
	s = newStrange(t)
	s.challenge = `Bearer resource_metadata="` + s.URL + `/tenant/metadata"`
	if status, _, stderr := s.call(t, s.resource, "say"); status != 0 {
		t.Errorf("metadata of the very resource, from any page: status %d\n%s", status, stderr)
	}
}

// nasty is text that does something to a terminal.
const nasty = "a\x1b[2J\x1b]0;t\x07\x1b]52;c;eA==\x1b\\b\u009b31m\u0085c\rd\be\x7f\u202ef\u2066g\u200fh\u2028i\u2029j\ufeffk\u200bl\U000e0041m\x00n"

// unseen returns the characters of an output that act on a terminal.
func unseen(output string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || !acts(r) {
			return -1
		}
		return r
	}, output)
}

// What a server says in any place reaches a terminal as characters that are seen.
func TestCallPrintsNothingThatActsOnATerminal(t *testing.T) {
	quoted, _ := json.Marshal(nasty)
	for what, change := range map[string]func(s *strange){
		"text": func(s *strange) { s.text = nasty },
		"tools": func(s *strange) {
			s.says = only("tools/list", `"result":{"tools":[{"name":`+string(quoted)+`,"description":`+string(quoted)+`,"inputSchema":{"type":"object"}}]}`)
		},
		"another kind of content": func(s *strange) {
			s.says = only("tools/call", `"result":{"content":[{"type":"image","mimeType":`+string(quoted)+`,"data":"aGk="},{"type":"resource_link","uri":"x:y","name":`+string(quoted)+`}]}`)
		},
		"structured content": func(s *strange) {
			s.says = only("tools/call", `"result":{"content":[],"structuredContent":{`+string(quoted)+`:`+string(quoted)+`}}`)
		},
		"error of the call":    func(s *strange) { s.says = only("tools/call", `"error":{"code":-32000,"message":`+string(quoted)+`}`) },
		"error of the session": func(s *strange) { s.says = only("initialize", `"error":{"code":-32000,"message":`+string(quoted)+`}`) },
		"version of the protocol": func(s *strange) {
			s.says = only("initialize", `"result":{"protocolVersion":`+string(quoted)+`,"capabilities":{},"serverInfo":{"name":"x","version":"1"}}`)
		},
		"schema": func(s *strange) {
			s.says = only("tools/list", `"result":{"tools":[{"name":"say","inputSchema":{"type":"object","properties":{"text":{"type":`+string(quoted)+`}}}}]}`)
		},
		"answer of the login": func(s *strange) {
			s.answer = func(v url.Values) { v.Del("code"); v.Set("error_description", nasty); v.Set("error", nasty) }
		},
		"issuer of the answer":   func(s *strange) { s.answer = func(v url.Values) { v.Set("iss", nasty) } },
		"token answer":           func(s *strange) { s.token = func(m map[string]any) { m["token_type"] = nasty } },
		"scopes of the token":    func(s *strange) { s.token = func(m map[string]any) { m["scope"] = nasty } },
		"registration":           func(s *strange) { s.registered = func(m map[string]any) { m["token_endpoint_auth_method"] = nasty } },
		"resource":               func(s *strange) { s.resource = nasty },
		"authorization server":   func(s *strange) { s.servers = []string{nasty} },
		"issuer":                 func(s *strange) { s.issuer = nasty },
		"authorization endpoint": func(s *strange) { s.meta = func(m map[string]any) { m["authorization_endpoint"] = nasty } },
		"login page":             func(s *strange) { s.loginAction = `/x"><title>` + nasty },
		"challenge": func(s *strange) {
			s.challenge = "Bearer resource_metadata=\"https://x.example.com/\u009b\", scope=\"\u202e\""
		},
		"scope that is missing": func(s *strange) { s.needScope = "a\u009b31m\u202eb" },
	} {
		s := newStrange(t)
		change(s)
		for _, args := range [][]string{{"say", "text=x"}, {"say", "text=x", "--json"}, {}, {"--json"}} {
			_, stdout, stderr := s.call(t, s.URL+"/mcp", args...)
			if bad := unseen(stdout + stderr); bad != "" {
				t.Errorf("%s, %q: %q is in\n%q\n%q", what, args, bad, stdout, stderr)
			}
		}
	}
	s := newStrange(t)
	s.text = nasty
	_, stdout, _ := s.call(t, s.resource, "say", "--json")
	var result struct{ Content []struct{ Text string } }
	if err := json.Unmarshal([]byte(stdout), &result); err != nil || len(result.Content) != 1 || result.Content[0].Text != nasty {
		t.Errorf("--json does not have the text as it was sent: %v, %q", err, stdout)
	}
	s.text = "one\n\ttwo\r\nthree ü 漢 🐄\n"
	if _, stdout, _ := s.call(t, s.resource, "say"); stdout != "one\n\ttwo\nthree ü 漢 🐄\n\n" {
		t.Errorf("lines, tabs and letters: %q", stdout)
	}
}

func only(method, result string) func(string) string {
	return func(m string) string {
		if m == method {
			return result
		}
		return ""
	}
}

// Answers that do not end, do.
func TestCallEndsWithServersThatDoNot(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for what, c := range map[string]struct {
		change func(s *strange)
		want   string
	}{
		"list": {func(s *strange) { s.says = only("tools/list", `"result":{"tools":[],"nextCursor":"x"}`) }, "does not end"},
		"answer": {func(s *strange) {
			s.says = only("tools/call", `"result":{"content":[{"type":"text","text":"`+strings.Repeat(long, 65)+`"}]}`)
		}, "64 MiB"},
		"forms": {func(s *strange) { s.moved["/authorize"] = move{302, "/authorize", false} }, "in circles"},
	} {
		s := newStrange(t)
		c.change(s)
		if status, _, stderr := s.call(t, s.resource, "say"); status != exitFailed || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: status %d, want %q\n%.2000s", what, status, c.want, stderr)
		}
	}
}
