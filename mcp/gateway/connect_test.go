package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/gatewayconfig"
	"signet/internal/test/authtest"
	"signet/internal/test/backends"
	"signet/mcp"
	"signet/mcp/gateway"
)

// front is a gateway at an endpoint, and the tokens for it.
type front struct {
	*authtest.Server
	url     string
	Gateway *gateway.Gateway
}

func newFront(t *testing.T, i gateway.Issuer, own map[string]gateway.Strategy, servers ...*gatewayconfig.Server) *front {
	t.Helper()
	s := authtest.New(t)
	g, err := gateway.New(gateway.Options{
		Config: &gatewayconfig.Config{Prefix: true, Separator: ".", Servers: servers},
		Issuer: i, IssuerURL: authURL, Strategies: own,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	e, err := mcp.Handler(mcp.Options{
		Resource: authtest.ResourceA, Issuer: authtest.Issuer, Verifier: s.Verifier.For(authtest.ResourceA),
		Server: mcp.NewRouterServer("gateway", "1"), Router: g,
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/mcp", e)
	mux.Handle("/mcp/", e.Plain())
	web := httptest.NewServer(mux)
	t.Cleanup(web.Close)
	return &front{s, web.URL, g}
}

// of adds an address to a server.
func of(b *backends.MCP, s *gatewayconfig.Server) *gatewayconfig.Server {
	s.Instances = []gatewayconfig.Instance{{URL: b.Endpoint(), Weight: 1}}
	return s
}

// noise are headers of clients that no server is to see.
var noise = http.Header{
	"Cookie": {"session=noise"}, "Proxy-Authorization": {"Basic noise"}, "X-Forwarded-For": {"10.9.8.7"}, "X-Forwarded-Host": {"noise.test"},
	"Forwarded": {"for=10.9.8.7"}, "X-Real-Ip": {"10.9.8.7"}, "X-User": {"noise"}, "X-Api-Key": {"noise"}, "X-Custom-Auth": {"noise"},
}

// as sends requests with a token, and with noise.
type as string

func (token as) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	for name, values := range noise {
		r.Header[name] = values
	}
	r.Header.Set("Authorization", "Bearer "+string(token))
	return http.DefaultTransport.RoundTrip(r)
}

// connect opens a session of the go-sdk's client. Ask answers when a link is shown; nil: the
// client shows none.
func (f *front) connect(t *testing.T, token string, ask func(*sdk.ElicitParams) string) *sdk.ClientSession {
	t.Helper()
	o := &sdk.ClientOptions{}
	if ask != nil {
		o.Capabilities = &sdk.ClientCapabilities{Elicitation: &sdk.ElicitationCapabilities{URL: &sdk.URLElicitationCapabilities{}}}
		o.ElicitationHandler = func(_ context.Context, r *sdk.ElicitRequest) (*sdk.ElicitResult, error) {
			return &sdk.ElicitResult{Action: ask(r.Params)}, nil
		}
	}
	session, err := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, o).Connect(t.Context(), &sdk.StreamableClientTransport{
		Endpoint: f.url + "/mcp", HTTPClient: &http.Client{Transport: as(token)}, MaxRetries: -1, DisableStandaloneSSE: true,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	return session
}

// callTool calls a tool and returns the text of its result.
func callTool(t *testing.T, s *sdk.ClientSession, name string) (text string, failed bool) {
	t.Helper()
	r, err := s.CallTool(t.Context(), &sdk.CallToolParams{Name: name, Arguments: map[string]any{"message": "hello"}})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if len(r.Content) != 1 {
		t.Fatalf("%s: %d blocks", name, len(r.Content))
	}
	return r.Content[0].(*sdk.TextContent).Text, r.IsError
}

// post sends a message as a client of the older protocol does, or the parameters alone, and
// returns the answer.
func (f *front) post(t *testing.T, path, token, body string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	r.Header.Set("Mcp-Protocol-Version", "2025-11-25")
	resp, err := (&http.Client{Transport: as(token)}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

const echoCall = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"tools.whoami","arguments":{}}}`

// A client that shows links has its user connect the server in the middle of a call.
func TestUserConnectsInTheMiddleOfACall_Row55_Row56(t *testing.T) {
	b := backends.New(t, backends.Options{})
	i := &issuer{err: missingGitHub}
	f := newFront(t, i, nil, of(b, delegated()))
	tok := f.Tokens(t, "alice", f.PUB)
	var shown atomic.Int32
	session := f.connect(t, tok.Access, func(p *sdk.ElicitParams) string {
		shown.Add(1)
		if p.Mode != "url" || !strings.HasPrefix(p.URL, authURL+"/oauth/authorize?server_id=tools&for=") || !strings.Contains(p.Message, "Tools needs your account at GitHub") {
			t.Errorf("%+v", p)
		}
		i.set(func() { i.err = nil }) // the user has followed the link
		return "accept"
	})
	if text, failed := callTool(t, session, "tools.whoami"); failed || text != "cred-1" {
		t.Errorf("failed: %v, %s", failed, text)
	}
	if shown.Load() != 1 {
		t.Errorf("the link was shown %d times", shown.Load())
	}
	if text, failed := callTool(t, session, "tools.whoami"); failed || text != "cred-1" || shown.Load() != 1 {
		t.Errorf("the next call: failed: %v, %s", failed, text)
	}
	if log := b.Log(); strings.Contains(log, tok.Access) || strings.Contains(log, "signet-connect") {
		t.Errorf("the server has seen the caller's token, or what is for the gateway:\n%s", log)
	}
}

// A call for which the user is following the link waits for that.
func TestACallWaitsForTheUser_Row55_Row56(t *testing.T) {
	b := backends.New(t, backends.Options{})
	i := &issuer{err: missingGitHub}
	f := newFront(t, i, nil, of(b, delegated()))
	shown := 0
	session := f.connect(t, f.Tokens(t, "alice", f.PUB).Access, func(*sdk.ElicitParams) string {
		shown++
		i.set(func() { i.fails = 2 }) // two questions later, the user has come back
		return "accept"
	})
	if text, failed := callTool(t, session, "tools.whoami"); failed || text != "cred-1" || shown != 1 {
		t.Errorf("failed: %v, %s; shown %d times", failed, text, shown)
	}
}

// A call waits for the user too if the server refuses what the user has connected, and nothing can
// renew it. Another server goes on with it.
func TestACallWaitsForAnotherToken_Row55_Row56(t *testing.T) {
	strict := backends.New(t, backends.Options{Accept: func(token string) bool { return token == "token-2" }})
	lax := backends.New(t, backends.Options{})
	other := delegated()
	other.ID = "other"
	i := &lasting{version: 1}
	f := newFront(t, i, nil, of(strict, delegated()), of(lax, other))
	shown := 0
	session := f.connect(t, f.Tokens(t, "alice", f.PUB).Access, func(*sdk.ElicitParams) string {
		shown++
		go func() {
			for i.stale.Load() < 3 { // the call has asked again by then
				time.Sleep(time.Millisecond)
			}
			i.mu.Lock()
			defer i.mu.Unlock()
			i.version = 2 // the user is back
		}()
		return "accept"
	})
	if text, failed := callTool(t, session, "tools.whoami"); failed || text != "token-2" || shown != 1 {
		t.Errorf("failed: %v, %s; shown %d times", failed, text, shown)
	}
	if text, failed := callTool(t, session, "other.whoami"); failed || !strings.HasPrefix(text, "token-") || shown != 1 {
		t.Errorf("the other server: failed: %v, %s; shown %d times", failed, text, shown)
	}
}

// lasting gives the user's token, which cannot be renewed until the user connects again.
type lasting struct {
	gateway.Issuer
	mu      sync.Mutex
	version int64
	stale   atomic.Int32 // questions for one in place of a refused one
}

func (i *lasting) OfConnection(_ context.Context, _ gateway.Caller, connection string, stale int64) (gateway.Credential, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if stale != 0 {
		i.stale.Add(1)
	}
	if stale >= i.version {
		return gateway.Credential{}, &gateway.Missing{Connection: connection}
	}
	return gateway.Credential{Token: fmt.Sprintf("token-%d", i.version), Version: i.version}, nil
}

// A user who declines gets an error with the link, and nothing reaches the server.
func TestUserDeclinesALink_Row55(t *testing.T) {
	for _, action := range []string{"decline", "cancel"} {
		b := backends.New(t, backends.Options{})
		f := newFront(t, &issuer{err: missingGitHub}, nil, of(b, delegated()))
		shown := 0
		session := f.connect(t, f.Tokens(t, "alice", f.PUB).Access, func(*sdk.ElicitParams) string { shown++; return action })
		text, failed := callTool(t, session, "tools.whoami")
		if !failed || !strings.Contains(text, authURL+"/oauth/authorize?server_id=tools") || shown != 1 || len(b.Calls()) != 0 {
			t.Errorf("%s: failed: %v, %s; shown %d times", action, failed, text, shown)
		}
	}
}

// A server that wants more scopes of the user's own token has the user asked for them. The next call is
// sent with what the user has then. One thing is changed in a good answer each: the call just fails.
func TestServerWantsMoreScopes_Row55(t *testing.T) {
	const needs = `Bearer error="insufficient_scope", scope="repo"`
	master := func(s *gatewayconfig.Server) {
		s.Strategy, s.Audience = gatewayconfig.MasterOAuth, "https://tools.test/mcp"
	}
	for name, tt := range map[string]struct {
		status    int
		challenge string
		server    func(*gatewayconfig.Server)
		link      bool
	}{
		"good":                   {403, needs, nil, true},
		"any scope":              {403, `Bearer error="insufficient_scope", scope="more"`, func(s *gatewayconfig.Server) { s.Connection.Scopes = nil }, true},
		"a scope not configured": {403, `Bearer error="insufficient_scope", scope="repo more"`, nil, false},
		"no scope":               {403, `Bearer error="insufficient_scope"`, nil, false},
		"a scope that is none":   {403, "Bearer error=\"insufficient_scope\", scope=\"re\\\"po\"", nil, false},
		"another error":          {403, `Bearer error="invalid_token", scope="repo"`, nil, false},
		"another scheme":         {403, `DPoP error="insufficient_scope", scope="repo"`, nil, false},
		"no challenge":           {403, "", nil, false},
		"another status":         {401, needs, nil, false},
		"another strategy":       {403, needs, master, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := backends.New(t, backends.Options{})
			i, server := &issuer{}, delegated()
			server.Connection.Scopes = []string{"repo", "read:user"}
			if tt.server != nil {
				tt.server(server)
			}
			f := newFront(t, i, nil, of(b, server))
			token := f.Tokens(t, "alice", f.PUB).Access
			b.Switch(func(s *backends.Switches) { s.Status, s.Challenge = tt.status, tt.challenge })
			resp, body := f.post(t, "/mcp", token, echoCall)
			if linked := strings.Contains(body, "Tools needs more access") && strings.Contains(body, authURL+"/oauth/authorize?server_id=tools&for="); resp.StatusCode != http.StatusOK || linked != tt.link || !strings.Contains(body, `"isError":true`) {
				t.Fatalf("status %d, %s", resp.StatusCode, body)
			}
			if !tt.link {
				return
			}
			i.set(func() { i.now++ }) // the user has followed the link
			b.Switch(func(s *backends.Switches) { s.Status = 0 })
			if _, body := f.post(t, "/mcp", token, echoCall); !strings.Contains(body, "cred-2") {
				t.Errorf("afterwards: %s", body)
			}
		})
	}
}

// A client of the older protocol gets one challenge, on which it runs its login again, and then
// the error.
func TestOlderClientIsChallengedOnce_Row55(t *testing.T) {
	b := backends.New(t, backends.Options{})
	f := newFront(t, &issuer{err: missingGitHub}, nil, of(b, delegated()))
	token := f.Tokens(t, "alice", f.PUB).Access
	resp, body := f.post(t, "/mcp", token, echoCall)
	challenge := resp.Header.Get("WWW-Authenticate")
	if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(challenge, `error="invalid_token"`) || !strings.Contains(challenge, "GitHub has to be connected before Tools can be used") || !strings.Contains(challenge, "resource_metadata=") {
		t.Errorf("status %d, challenge %s, %s", resp.StatusCode, challenge, body)
	}
	resp, body = f.post(t, "/mcp", f.Tokens(t, "alice", f.PUB).Access, echoCall)
	if resp.StatusCode != http.StatusOK || !strings.Contains(body, `"isError":true`) || !strings.Contains(body, `"oauth_delegation"`) {
		t.Errorf("after the next login: status %d, %s", resp.StatusCode, body)
	}
	resp, body = f.post(t, "/mcp/tools/call", token, `{"name":"tools.whoami","arguments":{}}`)
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(body, `{"content":{"error":"OAuth delegation required","details":{"type":"oauth_delegation",`) || !strings.HasSuffix(body, `"redirect_after_auth":true}},"isError":true}`) {
		t.Errorf("without MCP: status %d, %s", resp.StatusCode, body)
	}
	resp, body = f.post(t, "/mcp/resources/read", token, `{"uri":"tools.file:///notes.txt"}`)
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(body, `{"contents":"{\"error\":\"OAuth delegation required\"`) || !strings.HasSuffix(body, `,"mimeType":"application/json"}`) {
		t.Errorf("a resource without MCP: status %d, %s", resp.StatusCode, body)
	}
	if len(b.Calls()) != 0 {
		t.Errorf("%d calls have reached the server", len(b.Calls()))
	}
}

// Over each of the gateway's fronts, servers see the credential of their strategy and nothing else
// of the caller's request. The caller's token reaches servers only where the configuration says
// so by name.
func TestServersSeeTheirCredentialOnly_Row54_Row60_Row61_Probe4_Probe6_Probe7_J05(t *testing.T) {
	own := &gatewayconfig.Connection{ID: "internal", Own: true}
	for name, tt := range map[string]struct {
		server gatewayconfig.Server
		want   string // the bearer token; "caller": the caller's own
	}{
		"master_oauth":        {gatewayconfig.Server{Strategy: "master_oauth", Audience: "https://backend.test/mcp"}, "cred-1"},
		"with passthrough":    {gatewayconfig.Server{Strategy: "master_oauth", Passthrough: true}, "caller"},
		"delegate_oauth":      {gatewayconfig.Server{Strategy: "delegate_oauth", Connection: github()}, "cred-1"},
		"proxy_oauth":         {gatewayconfig.Server{Strategy: "proxy_oauth", Token: "static"}, "static"},
		"a connection of its": {gatewayconfig.Server{Strategy: "proxy_oauth", Connection: own}, "cred-1"},
		"with a fallback":     {gatewayconfig.Server{Strategy: "proxy_oauth", Fallback: true}, "caller"},
		"user_key":            {gatewayconfig.Server{Strategy: "user_key", Connection: github()}, "cred-1"},
		"bypass_auth":         {gatewayconfig.Server{Strategy: "bypass_auth"}, ""},
	} {
		for _, legacy := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, legacy server %v", name, legacy), func(t *testing.T) {
				b := backends.New(t, backends.Options{Legacy: legacy})
				server := tt.server
				server.ID = "tools"
				f := newFront(t, &issuer{}, nil, of(b, &server))
				token := f.Tokens(t, "alice", f.PUB).Access
				want := tt.want
				if want == "caller" {
					want = token
				}
				session := f.connect(t, token, nil)
				if text, failed := callTool(t, session, "tools.whoami"); failed || text != want {
					t.Errorf("failed: %v, %s", failed, text)
				}
				for path, body := range map[string]string{"/mcp": echoCall, "/mcp/tools/call": `{"name":"tools.whoami","arguments":{}}`, "/mcp/tools/list": "{}", "/mcp/resources/read": `{"uri":"tools.file:///notes.txt"}`} {
					if resp, text := f.post(t, path, token, body); resp.StatusCode != http.StatusOK || strings.Contains(text, `"isError":true`) {
						t.Errorf("%s: status %d, %s", path, resp.StatusCode, text)
					}
				}
				if got := len(b.Calls()); got != 3 {
					t.Errorf("%d calls", got)
				}
				for _, r := range b.Calls() {
					if r.Bearer() != want || want == "" && r.Header["Authorization"] != nil {
						t.Errorf("Authorization %q, want the token %q", r.Header["Authorization"], want)
					}
				}
				log := b.Log()
				for header, values := range noise {
					if strings.Contains(log, header+":") || strings.Contains(log, values[0]) {
						t.Errorf("the server has seen %s", header)
					}
				}
				if strings.Contains(log, "noise") || want != token && strings.Contains(log, token) {
					t.Errorf("the server has seen what is the caller's:\n%s", log)
				}
			})
		}
	}
}

// Two users whose tokens begin alike are told apart, and a credential outlives a refresh of the
// token.
func TestUsersNeverMeet_Row57_Probe1(t *testing.T) {
	b := backends.New(t, backends.Options{})
	i := &perUser{connected: map[string]string{"alice": "alices-token"}}
	f := newFront(t, i, nil, of(b, delegated()))
	alices, bobs := f.Tokens(t, "alice", f.PUB), f.Tokens(t, "bob", f.PUB)
	if alices.Access[:40] != bobs.Access[:40] {
		t.Fatal("the tokens do not begin alike")
	}
	who := func(token string) string {
		_, body := f.post(t, "/mcp/tools/call", token, `{"name":"tools.whoami","arguments":{}}`)
		return body
	}
	for _, step := range []struct{ token, want string }{
		{alices.Access, "alices-token"},
		{bobs.Access, "OAuth delegation required"},
		{f.Refresh(t, f.PUB, alices.Refresh).Tokens(t).Access, "alices-token"},
		{bobs.Access, "OAuth delegation required"},
		{f.Tokens(t, "alice", f.PUB2).Access, "alices-token"},
	} {
		if got := who(step.token); !strings.Contains(got, step.want) {
			t.Errorf("%s, want %s", got, step.want)
		}
	}
	for _, r := range b.Calls() {
		if r.Bearer() != "alices-token" {
			t.Errorf("the server was sent %q", r.Bearer())
		}
	}
}

// perUser gives what each user has connected.
type perUser struct {
	gateway.Issuer
	connected map[string]string
}

func (i *perUser) OfConnection(_ context.Context, caller gateway.Caller, connection string, _ int64) (gateway.Credential, error) {
	token, ok := i.connected[caller.Claims.Subject]
	if !ok {
		return gateway.Credential{}, &gateway.Missing{Connection: connection}
	}
	return gateway.Credential{Token: token, Version: 1}, nil
}

// A provider's token that the server refuses is renewed once, whatever the number of calls; if
// there is no other, the user is asked.
func TestARefusedTokenIsRenewedInTheMiddleOfACall_Row58(t *testing.T) {
	var accepted atomic.Value
	accepted.Store("cred-1")
	b := backends.New(t, backends.Options{Accept: func(token string) bool { return token == accepted.Load() }})
	i := &issuer{}
	f := newFront(t, i, nil, of(b, delegated()))
	token := f.Tokens(t, "alice", f.PUB).Access
	call := func() string {
		_, body := f.post(t, "/mcp/tools/call", token, `{"name":"tools.whoami","arguments":{}}`)
		return body
	}
	if got := call(); !strings.Contains(got, "cred-1") {
		t.Fatal(got)
	}
	accepted.Store("cred-2")
	answers := make(chan string)
	for range 10 {
		go func() { answers <- call() }()
	}
	for range 10 {
		if got := <-answers; !strings.Contains(got, "cred-2") {
			t.Errorf("%s", got)
		}
	}
	if got := fmt.Sprint(i.questions()); got != "[alice connection github 0 alice connection github 1]" {
		t.Errorf("questions %s", got)
	}
	accepted.Store("none")
	asked := len(i.questions())
	for range 20 {
		if got := call(); !strings.Contains(got, `"isError":true`) || !strings.Contains(got, "server tools: ") {
			t.Errorf("a server that refuses everything: %s", got)
		}
	}
	if got := len(i.questions()); got > asked+5 {
		t.Errorf("%d questions for a server that refuses everything", got-asked)
	}
}

// An issuer that ends the login has the client run it again. One that is down does not.
func TestTheEndOfTheLoginIsAChallenge(t *testing.T) {
	b := backends.New(t, backends.Options{})
	i := &issuer{err: fmt.Errorf("%w: revoked", gateway.ErrEnded)}
	f := newFront(t, i, nil, of(b, delegated()))
	token := f.Tokens(t, "alice", f.PUB).Access
	for range 2 {
		if resp, body := f.post(t, "/mcp", token, echoCall); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("ended: status %d, %s", resp.StatusCode, body)
		}
	}
	i.set(func() { i.err = errors.New("the secret detail") })
	if resp, body := f.post(t, "/mcp", token, echoCall); resp.StatusCode != http.StatusOK || !strings.Contains(body, `"isError":true`) || strings.Contains(body, "detail") {
		t.Errorf("down: status %d, %s", resp.StatusCode, body)
	}
}
