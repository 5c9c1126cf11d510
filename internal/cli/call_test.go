package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// strange is an MCP server with an authorization server of another make, which a test can
// make misbehave.
type strange struct {
	*httptest.Server

	// How the server answers. The zero value is a good server.
	openMCP        bool                       // wants no token
	challenge      string                     // instead of the usual one
	resource       string                     // its metadata name
	issuer         string                     // its metadata name
	gone           map[string]int             // paths answered with a status
	moved          map[string]move            // paths answered with a redirect
	servers        []string                   // its metadata name
	meta           func(map[string]any)       // changes the authorization server's metadata
	registered     func(map[string]any)       // changes the answer to a registration
	says           func(method string) string // the result of an MCP request, as JSON; empty for the usual one
	trusts         *strange                   // also takes the tokens of this one
	text           string                     // of the result of a tool
	posts          int                        // of login forms, seen
	noIss, badIss  bool                       // of the authorization response
	answer         func(url.Values)           // changes the authorization response
	token          func(map[string]any)       // changes the token response
	loginAction    string                     // of the login form
	leave          string                     // where /login redirects to
	refuse         func(token string) bool    // of the MCP server
	needScope      string                     // for tools/call
	tokenRequests  []url.Values               // seen
	authorizations []url.Values               // seen
	registrations  []map[string]any           // seen
	calls          map[string]int             // of tools
	mu             sync.Mutex                 // of all
	live           map[string]bool            // access tokens
	challenges     map[string]string          // of codes
	serial         int                        // of codes and tokens
	mcp            *sdk.StreamableHTTPHandler // the tools
}

// move is a redirect of requests that have a token, or of all.
type move struct {
	status    int
	to        string
	withToken bool
}

const callPassword = "kanarienvogel"

func newStrange(t *testing.T) *strange {
	t.Helper()
	s := unstarted(t)
	s.Start()
	s.resource, s.issuer = s.URL+"/mcp", s.URL
	return s
}

// unstarted returns a server that is to be started, and then to be told its URL.
func unstarted(t *testing.T) *strange {
	t.Helper()
	s := &strange{calls: map[string]int{}, live: map[string]bool{}, challenges: map[string]string{}, gone: map[string]int{}, moved: map[string]move{}}
	tools := sdk.NewServer(&sdk.Implementation{Name: "strange", Version: "1"}, nil)
	type in struct {
		Text string   `json:"text,omitempty"`
		N    int      `json:"n,omitempty"`
		Loud bool     `json:"loud,omitempty"`
		List []string `json:"list,omitempty"`
	}
	tool := func(name string, readOnly, fails bool) {
		sdk.AddTool(tools, &sdk.Tool{Name: name, Description: "says what it was given", Annotations: &sdk.ToolAnnotations{ReadOnlyHint: readOnly}},
			func(_ context.Context, _ *sdk.CallToolRequest, a in) (*sdk.CallToolResult, any, error) {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.calls[name]++
				text := s.text
				if text == "" {
					text = fmt.Sprintf("%+v", a)
				}
				return &sdk.CallToolResult{IsError: fails, Content: []sdk.Content{&sdk.TextContent{Text: text}}}, nil, nil
			})
	}
	tool("say", true, false)
	tool("do", false, false)
	tool("fail", true, true)
	s.mcp = sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return tools }, &sdk.StreamableHTTPOptions{Stateless: true, JSONResponse: true, DisableLocalhostProtection: true})
	mux := http.NewServeMux()
	mux.HandleFunc("/mcp", s.serveMCP)
	mux.HandleFunc("/mcp/{$}", s.serveMCP)
	mux.HandleFunc("GET /tenant/metadata", s.metadata)
	mux.HandleFunc("GET /.well-known/oauth-protected-resource/mcp", s.metadata)
	mux.HandleFunc("GET /.well-known/oauth-protected-resource", s.metadata)
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", s.serverMetadata)
	mux.HandleFunc("GET /.well-known/openid-configuration", s.serverMetadata)
	mux.HandleFunc("POST /register", s.register)
	mux.HandleFunc("GET /authorize", s.authorize)
	mux.HandleFunc("POST /login", s.login)
	mux.HandleFunc("POST /consent", s.consent)
	mux.HandleFunc("POST /token", s.exchange)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		status, moved := s.gone[r.URL.Path], s.moved[r.URL.Path]
		s.mu.Unlock()
		switch {
		case status != 0:
			w.WriteHeader(status)
			return
		case moved.to != "" && (!moved.withToken || r.Header.Get("Authorization") != ""):
			w.Header().Set("Location", moved.to)
			w.WriteHeader(moved.status)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *strange) serveMCP(w http.ResponseWriter, r *http.Request) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	ok := s.openMCP || s.live[token] && (s.refuse == nil || !s.refuse(token))
	scope := s.needScope
	challenge := s.challenge
	s.mu.Unlock()
	if s.trusts != nil {
		s.trusts.mu.Lock()
		ok = ok || s.trusts.live[token]
		s.trusts.mu.Unlock()
	}
	if !ok {
		if challenge == "" {
			challenge = `Bearer resource_metadata="` + s.URL + `/.well-known/oauth-protected-resource/mcp", scope="read"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if scope != "" && bytes.Contains(body, []byte("tools/call")) {
		w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="`+scope+`"`)
		w.WriteHeader(http.StatusForbidden)
		return
	}
	var message struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
	}
	if json.Unmarshal(body, &message) == nil && s.says != nil {
		if said := s.says(message.Method); said != "" {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,%s}`, message.ID, said)
			return
		}
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	s.mcp.ServeHTTP(w, r)
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func (s *strange) metadata(w http.ResponseWriter, _ *http.Request) {
	servers := s.servers
	if servers == nil {
		servers = []string{s.URL}
	}
	reply(w, 200, map[string]any{"resource": s.resource, "authorization_servers": servers, "scopes_supported": []string{"read", "write"}})
}

func (s *strange) serverMetadata(w http.ResponseWriter, _ *http.Request) {
	m := map[string]any{
		"issuer": s.issuer, "authorization_endpoint": s.URL + "/authorize", "token_endpoint": s.URL + "/token", "registration_endpoint": s.URL + "/register",
		"response_types_supported": []string{"code"}, "code_challenge_methods_supported": []string{"S256"}, "authorization_response_iss_parameter_supported": !s.noIss || s.meta == nil,
	}
	if s.meta != nil {
		s.meta(m)
	}
	reply(w, 200, m)
}

func (s *strange) register(w http.ResponseWriter, r *http.Request) {
	var m map[string]any
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		w.WriteHeader(400)
		return
	}
	s.registrations = append(s.registrations, m)
	m["client_id"] = "client-1"
	if s.registered != nil {
		s.registered(m)
	}
	reply(w, 201, m)
}

func (s *strange) authorize(w http.ResponseWriter, r *http.Request) {
	s.authorizations = append(s.authorizations, r.URL.Query())
	action := s.loginAction
	if action == "" {
		action = "/login"
	}
	http.SetCookie(w, &http.Cookie{Name: "begun", Value: "yes"})
	fmt.Fprintf(w, `<form method="post" action="%s"><input type="hidden" name="state" value="%d"><input name="username"><input type="password" name="password"></form>`,
		action, len(s.authorizations)-1)
}

func (s *strange) login(w http.ResponseWriter, r *http.Request) {
	s.posts++
	if _, err := r.Cookie("begun"); err != nil || r.Header.Get("Origin") != s.URL {
		w.WriteHeader(403)
		return
	}
	switch {
	case s.leave != "":
		http.Redirect(w, r, s.leave, http.StatusSeeOther)
	case r.PostFormValue("username") != "alice" || r.PostFormValue("password") != callPassword:
		w.WriteHeader(401)
		fmt.Fprint(w, `<p>Invalid credentials</p><form method="post" action="/login"><input name="username"><input type="password" name="password"></form>`)
	default:
		fmt.Fprintf(w, `<form method="post" action="/consent"><input type="hidden" name="state" value="%s"><button name="decision" value="deny">No</button><button name="decision" value="approve">Yes</button></form>`,
			r.PostFormValue("state"))
	}
}

func (s *strange) consent(w http.ResponseWriter, r *http.Request) {
	if r.PostFormValue("decision") != "approve" {
		w.WriteHeader(400)
		return
	}
	asked := s.authorizations[len(s.authorizations)-1]
	s.serial++
	code := fmt.Sprintf("geheimer-code-%d", s.serial)
	s.challenges[code] = asked.Get("code_challenge")
	answer := url.Values{"code": {code}, "state": {asked.Get("state")}}
	if !s.noIss {
		answer.Set("iss", s.URL)
	}
	if s.badIss {
		answer.Set("iss", "https://evil.example")
	}
	if s.answer != nil {
		s.answer(answer)
	}
	http.Redirect(w, r, asked.Get("redirect_uri")+"?"+answer.Encode(), http.StatusSeeOther)
}

func (s *strange) exchange(w http.ResponseWriter, r *http.Request) {
	r.ParseForm()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokenRequests = append(s.tokenRequests, r.PostForm)
	good := strings.HasPrefix(r.PostForm.Get("refresh_token"), "geheimes-refresh-")
	if r.PostForm.Get("grant_type") == "authorization_code" {
		sum := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
		good = s.challenges[r.PostForm.Get("code")] == base64.RawURLEncoding.EncodeToString(sum[:])
		delete(s.challenges, r.PostForm.Get("code"))
	}
	if !good || r.PostForm.Get("client_id") != "client-1" {
		reply(w, 400, map[string]any{"error": "invalid_grant", "error_description": "no such grant"})
		return
	}
	s.serial++
	clear(s.live)
	token := fmt.Sprintf("geheimes-token-%d", s.serial)
	s.live[token] = true
	m := map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 300, "refresh_token": fmt.Sprintf("geheimes-refresh-%d", s.serial), "scope": "read"}
	if s.token != nil {
		s.token(m)
	}
	reply(w, 200, m)
}

// call carries out `signet call` without a browser, and checks that it prints no secret.
func (s *strange) call(t *testing.T, server string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	args = append([]string{"call", "--server", server, "--username", "alice"}, args...)
	status, stdout, stderr = signet(t, t.TempDir(), callPassword+"\n", args...)
	for _, secret := range []string{callPassword, "geheim", "code_challenge="} {
		if strings.Contains(stdout+stderr, secret) {
			t.Errorf("%q shows in\n%s%s", secret, stdout, stderr)
		}
	}
	return status, stdout, stderr
}

func (s *strange) grants() (list []string) {
	for _, r := range s.tokenRequests {
		list = append(list, r.Get("grant_type"))
	}
	return list
}

// One command signs in, calls the tool, refreshes the token and calls again.
func TestCallFromNothingToAResult(t *testing.T) {
	s := newStrange(t)
	status, stdout, stderr := s.call(t, s.URL+"/mcp", "say", "text=a=b", "n=7", "loud=true", `list=["x","y"]`)
	if want := "{Text:a=b N:7 Loud:true List:[x y]}\n"; status != 0 || stdout != want {
		t.Fatalf("status %d, stdout %q, want %q\n%s", status, stdout, want, stderr)
	}
	if got := strings.Join(s.grants(), " "); got != "authorization_code refresh_token" {
		t.Errorf("token requests: %s", got)
	}
	if s.calls["say"] != 2 {
		t.Errorf("called %d times, want once with each token", s.calls["say"])
	}
	asked, exchanged := s.authorizations[0], s.tokenRequests[0]
	if asked.Get("resource") != s.resource || exchanged.Get("resource") != s.resource || asked.Get("scope") != "read" || asked.Get("code_challenge_method") != "S256" {
		t.Errorf("authorization request %v, token request %v", asked, exchanged)
	}
	if len(asked.Get("state")) < 20 || exchanged.Get("redirect_uri") != asked.Get("redirect_uri") || !strings.HasPrefix(asked.Get("redirect_uri"), "http://127.0.0.1:") {
		t.Errorf("authorization request %v", asked)
	}
	if m := s.registrations[0]; m["token_endpoint_auth_method"] != "none" || m["application_type"] != "native" {
		t.Errorf("registration %v", m)
	}
	for _, step := range []string{"Registering", "Signing in as alice", "State and issuer", "Calling say", "Refreshing", "The refreshed token works"} {
		if !strings.Contains(stderr, step) {
			t.Errorf("it does not say %q:\n%s", step, stderr)
		}
	}
}

// Servers differ in what they offer; the call succeeds with each of them.
func TestCallSucceedsWithServersThatDiffer(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(s *strange)
		server string // of its path
		args   []string
		stdout string // part of it
		stderr string // part of it
		calls  map[string]int
		grants string
	}{
		{"list", nil, "/mcp", nil, "says what it was given", "", nil, "authorization_code refresh_token"},
		{"list as JSON", nil, "/mcp", []string{"--json"}, `"name": "say"`, "", nil, "authorization_code refresh_token"},
		{"result as JSON", nil, "/mcp", []string{"say", "--json"}, `"type": "text"`, "", nil, "authorization_code refresh_token"},
		{"origin only", nil, "", []string{"say"}, "Text:", "It is ", map[string]int{"say": 2}, "authorization_code refresh_token"},
		{"tool that does something", nil, "/mcp", []string{"do"}, "Text:", "may do something twice", map[string]int{"do": 1}, "authorization_code refresh_token"},
		{"no token wanted", func(s *strange) { s.openMCP = true }, "/mcp", []string{"say"}, "Text:", "no token", map[string]int{"say": 1}, ""},
		{"no refresh token", func(s *strange) { s.token = func(m map[string]any) { delete(m, "refresh_token") } }, "/mcp", []string{"say"}, "Text:", "no refresh token", map[string]int{"say": 1}, "authorization_code"},
		{"own scopes", nil, "/mcp", []string{"say", "--scope", "write", "--scope", "admin"}, "Text:", "scopes: write admin", nil, "authorization_code refresh_token"},
		{"plain challenge", func(s *strange) { s.challenge = "Bearer" }, "/mcp", []string{"say"}, "Text:", "scopes: read write", nil, "authorization_code refresh_token"},
		{"malformed challenge", func(s *strange) { s.challenge = `Bearer scope="` }, "/mcp", []string{"say"}, "Text:", "", nil, "authorization_code refresh_token"},
		{"metadata at the root", func(s *strange) { s.challenge = "Bearer"; s.gone["/.well-known/oauth-protected-resource/mcp"] = 404 }, "/mcp", []string{"say"}, "Text:", "", nil, "authorization_code refresh_token"},
		{"resource is the origin", func(s *strange) { s.resource = s.URL }, "/mcp", []string{"say"}, "Text:", "", nil, "authorization_code refresh_token"},
		{"openid-configuration", func(s *strange) { s.gone["/.well-known/oauth-authorization-server"] = 404 }, "/mcp", []string{"say"}, "Text:", "", nil, "authorization_code refresh_token"},
		{"before metadata", func(s *strange) {
			s.challenge = "Bearer"
			for _, p := range []string{"oauth-protected-resource/mcp", "oauth-protected-resource", "oauth-authorization-server", "openid-configuration"} {
				s.gone["/.well-known/"+p] = 404
			}
		}, "/mcp", []string{"say"}, "Text:", "trying the usual paths", nil, "authorization_code refresh_token"},
		{"refused once", func(s *strange) {
			s.refuse = func(token string) bool { return token == "geheimes-token-2" }
		}, "/mcp", []string{"say"}, "Text:", "trying once more", map[string]int{"say": 2}, "authorization_code refresh_token refresh_token"},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := newStrange(t)
			if c.change != nil {
				c.change(s)
			}
			status, stdout, stderr := s.call(t, s.URL+c.server, c.args...)
			if status != 0 || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) {
				t.Errorf("status %d, want 0\nstdout %s, want %q in it\nstderr %s, want %q in it", status, stdout, c.stdout, stderr, c.stderr)
			}
			for tool, want := range c.calls {
				if s.calls[tool] != want {
					t.Errorf("%s was called %d times, want %d", tool, s.calls[tool], want)
				}
			}
			if got := strings.Join(s.grants(), " "); got != c.grants {
				t.Errorf("token requests: %q, want %q", got, c.grants)
			}
		})
	}
}

// When a server, or a party in between, does one thing wrong, no tool is called and no
// login is tried again.
func TestCallStopsAtTheFirstWrong(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(s *strange)
		args   []string
		want   string // part of the error
		grants string
	}{
		{"state of another login", func(s *strange) { s.answer = func(v url.Values) { v.Set("state", "x") } }, nil, "another login", ""},
		{"no state", func(s *strange) { s.answer = func(v url.Values) { v.Del("state") } }, nil, "another login", ""},
		{"another issuer", func(s *strange) { s.badIss = true }, nil, "comes from the issuer", ""},
		{"no issuer, though promised", func(s *strange) { s.noIss = true }, nil, "comes from the issuer", ""},
		{"no code", func(s *strange) { s.answer = func(v url.Values) { v.Del("code") } }, nil, "no code", ""},
		{"denied", func(s *strange) {
			s.answer = func(v url.Values) { v.Del("code"); v.Set("error", "access_denied\x1b[2J") }
		}, nil, "did not grant access: access_denied", ""},
		{"metadata of another resource", func(s *strange) { s.resource = "https://evil.example/mcp" }, nil, "metadata of", ""},
		{"metadata of a path below", func(s *strange) { s.resource = s.URL + "/mcp/x" }, nil, "metadata of", ""},
		{"metadata of a neighbour", func(s *strange) { s.resource = s.URL + "/mc" }, nil, "metadata of", ""},
		{"metadata that fails", func(s *strange) { s.gone["/.well-known/oauth-protected-resource/mcp"] = 500 }, nil, "500", ""},
		{"metadata in clear elsewhere", func(s *strange) { s.challenge = `Bearer resource_metadata="http://192.0.2.1/x"` }, nil, "https", ""},
		{"metadata of another issuer", func(s *strange) { s.issuer = "https://evil.example" }, nil, "does not match", ""},
		{"server metadata that fails", func(s *strange) { s.gone["/.well-known/oauth-authorization-server"] = 503 }, nil, "503", ""},
		{"no registration", func(s *strange) { s.gone["/register"] = 403 }, nil, "registering", ""},
		{"code refused", func(s *strange) { s.answer = func(v url.Values) { v.Set("code", "x") } }, nil, "invalid_grant no such grant", "authorization_code"},
		{"token of another type", func(s *strange) { s.token = func(m map[string]any) { m["token_type"] = "N_A" } }, nil, "not Bearer", "authorization_code"},
		{"token always refused", func(s *strange) { s.refuse = func(string) bool { return true } }, nil, "issued for it a moment ago", "authorization_code refresh_token"},
		{"refresh impossible", func(s *strange) {
			s.refuse = func(string) bool { return true }
			s.token = func(m map[string]any) { delete(m, "refresh_token") }
		}, nil, "no refresh token", "authorization_code"},
		{"wider scope needed", func(s *strange) { s.needScope = "admin" }, nil, `--scope "admin"`, "authorization_code"},
		{"form to another site", func(s *strange) { s.loginAction = "https://evil.example/login" }, nil, "evil.example", ""},
		{"login goes on elsewhere", func(s *strange) { s.leave = "https://evil.example/login" }, nil, "evil.example", ""},
		{"wrong password", nil, []string{"--username", "bob"}, "does not accept", ""},
		{"no such tool", nil, []string{"nothing"}, "it has do, fail, say", "authorization_code"},
		{"tool that fails", nil, []string{"fail"}, "says that it failed", "authorization_code"},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := newStrange(t)
			if c.change != nil {
				c.change(s)
			}
			args := c.args
			if len(args) == 0 || args[0] == "--username" {
				args = append([]string{"say"}, args...)
			}
			status, _, stderr := s.call(t, s.URL+"/mcp", args...)
			if status != exitFailed || !strings.Contains(stderr, c.want) || strings.Contains(stderr, "\x1b") {
				t.Errorf("status %d, want %d\n%s, want %q in it", status, exitFailed, stderr, c.want)
			}
			if got := strings.Join(s.grants(), " "); got != c.grants {
				t.Errorf("token requests: %q, want %q", got, c.grants)
			}
			if s.calls["say"] != 0 {
				t.Error("the tool was called")
			}
		})
	}
}

func TestArgumentsOfTheWrongTypeAreWrongUse(t *testing.T) {
	s := newStrange(t)
	for _, arg := range []string{"n=seven", "n=7.5", "loud=yes", "list=x", "list={}", `list=["a"] x`} {
		status, _, stderr := s.call(t, s.URL+"/mcp", "say", arg)
		if status != exitWrongUse || !strings.Contains(stderr, "must be") {
			t.Errorf("%s: status %d, want %d\n%s", arg, status, exitWrongUse, stderr)
		}
	}
	if s.calls["say"] != 0 {
		t.Error("the tool was called")
	}
}

// Without a user name the address of the login is printed, and only its answer ends the
// wait.
func TestCallWaitsForItsOwnAnswerFromTheBrowser(t *testing.T) {
	s := newStrange(t)
	var out, errs lockedBuffer
	p := Process{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs}
	status := make(chan int)
	go func() { status <- Run(t.Context(), p, []string{"call", "say", "--server", s.URL + "/mcp"}) }()
	var where *url.URL
	for end := time.Now().Add(10 * time.Second); where == nil; time.Sleep(5 * time.Millisecond) {
		for line := range strings.Lines(errs.String()) {
			if strings.HasPrefix(line, s.URL+"/authorize?") && strings.HasSuffix(line, "\n") {
				where, _ = url.Parse(strings.TrimSpace(line))
			}
		}
		if time.Now().After(end) {
			t.Fatalf("no address in\n%s", errs.String())
		}
	}
	asked := where.Query()
	if resp, err := http.Get(asked.Get("redirect_uri") + "?code=evil&state=other"); err != nil || resp.StatusCode != 400 {
		t.Fatalf("an answer with another state: %v, %v", resp, err)
	}
	resp, err := http.Get(s.signIn(t, where.String()))
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("the answer: %v, %v", resp, err)
	}
	if got := <-status; got != 0 || !strings.Contains(out.String(), "Text:") {
		t.Errorf("status %d\n%s%s", got, out.String(), errs.String())
	}
}

// signIn does what a person would do in a browser, and returns the address that the
// browser is sent to at the end.
func (s *strange) signIn(t *testing.T, where string) string {
	t.Helper()
	jar, _ := cookiejar.New(nil)
	browser := &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	send := func(method, to string, form url.Values) *http.Response {
		r, _ := http.NewRequest(method, to, strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", s.URL)
		resp, err := browser.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	send("GET", where, nil)
	send("POST", s.URL+"/login", url.Values{"username": {"alice"}, "password": {callPassword}})
	return send("POST", s.URL+"/consent", url.Values{"decision": {"approve"}}).Header.Get("Location")
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
