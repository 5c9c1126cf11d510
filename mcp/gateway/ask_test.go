package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/gatewayconfig"
	"signet/internal/oauth"
	"signet/jwt"
	"signet/mcp"
	"signet/mcp/gateway"
)

const authURL = "https://auth.test"

// hub is a server with all that the reference's object has.
func hub() *gatewayconfig.Server {
	return &gatewayconfig.Server{ID: "github-tools", Name: "GitHub tools", Ask: "auto", Strategy: "delegate_oauth", Connection: &gatewayconfig.Connection{
		ID: "github", Name: "GitHub", ClientID: "gh-id", ClientSecret: "gh-secret", Scopes: []string{"repo", "read:user"},
		AuthorizationEndpoint: "https://github.com/login/oauth/authorize", TokenEndpoint: "https://github.com/login/oauth/access_token",
	}}
}

// call is a call of a tool by a client of the older protocol.
func call(edits ...func(*mcp.Call)) *mcp.Call {
	c := &mcp.Call{Claims: &jwt.Claims{Subject: "alice", ClientID: "app"}, Method: "tools/call", Name: "github-tools.search", ID: json.RawMessage("1"), Params: json.RawMessage(`{"name":"github-tools.search"}`)}
	for _, edit := range edits {
		edit(c)
	}
	return c
}

func modern(c *mcp.Call) {
	c.Modern, c.Capabilities = true, json.RawMessage(`{"elicitation":{"form":{},"url":{}}}`)
}

func capable(text string) func(*mcp.Call) {
	return func(c *mcp.Call) { c.Modern, c.Capabilities = true, json.RawMessage(text) }
}

func plain(c *mcp.Call) { c.Plain = true }

func method(name string) func(*mcp.Call) { return func(c *mcp.Call) { c.Method = name } }

// answering is a message with the user's answer to the link.
func answering(action string) func(*mcp.Call) {
	return func(c *mcp.Call) {
		c.Params = json.RawMessage(`{"name":"github-tools.search","inputResponses":{"signet-connect-github":{"action":"` + action + `"}}}`)
	}
}

var missingGitHub = &gateway.Missing{Connection: "github"}

// form names the kind of a reply.
func form(t *testing.T, r mcp.Reply) string {
	t.Helper()
	var v struct {
		ResultType string
		IsError    bool
		Code       int
		MimeType   string
	}
	switch {
	case r.Challenge != "" && r.Result == nil && r.Error == nil:
		return "challenge"
	case (r.Error == nil) == (r.Result == nil) || json.Unmarshal(append(r.Result, r.Error...), &v) != nil:
		t.Fatalf("not a reply: %s %s %s", r.Result, r.Error, r.Challenge)
	case r.Error != nil:
		return fmt.Sprint("error ", v.Code)
	case v.ResultType == "input_required":
		return "elicitation"
	case v.IsError:
		return strings.TrimSpace("result " + v.ResultType)
	case v.MimeType != "":
		return "resource"
	}
	t.Fatalf("not an answer: %s", r.Result)
	return ""
}

// How a user is asked follows from the client, the setting and what the user said before.
func TestTheUserIsAskedInTheFormOfTheClient_Row55(t *testing.T) {
	const elicitation, challenge, result = "elicitation", "challenge", "result"
	ask := func(how string) func(*gatewayconfig.Server) {
		return func(s *gatewayconfig.Server) { s.Ask = how }
	}
	declined := &gateway.Missing{Connection: "github", Declined: true}
	more := &gateway.Missing{Connection: "github", Scope: "repo"}
	for name, tt := range map[string]struct {
		call    *mcp.Call
		server  func(*gatewayconfig.Server)
		missing *gateway.Missing
		want    string
	}{
		"auto, link shown by the client":   {call(modern), nil, nil, elicitation},
		"auto, a prompt":                   {call(modern, method("prompts/get")), nil, nil, elicitation},
		"auto, a resource":                 {call(modern, method("resources/read")), nil, nil, elicitation},
		"auto, what takes no requests":     {call(modern, method("completion/complete")), nil, nil, challenge},
		"auto, forms only":                 {call(capable(`{"elicitation":{"form":{}}}`)), nil, nil, challenge},
		"auto, elicitation of old":         {call(capable(`{"elicitation":{}}`)), nil, nil, challenge},
		"auto, null":                       {call(capable(`{"elicitation":{"url":null}}`)), nil, nil, challenge},
		"auto, no elicitation":             {call(capable(`{}`)), nil, nil, challenge},
		"auto, elicitation is no object":   {call(capable(`{"elicitation":"url"}`)), nil, nil, challenge},
		"auto, older protocol":             {call(), nil, nil, challenge},
		"auto, older, capabilities":        {call(modern, func(c *mcp.Call) { c.Modern = false }), nil, nil, challenge},
		"auto, said later":                 {call(), nil, declined, result},
		"auto, said later, newer protocol": {call(capable(`{}`)), nil, declined, "result complete"},
		"auto, said later, link shown":     {call(modern), nil, declined, elicitation},
		"no setting":                       {call(), ask(""), nil, challenge},
		"elicit":                           {call(modern), ask("elicit"), nil, elicitation},
		"elicit, older protocol":           {call(), ask("elicit"), nil, "error -32042"},
		"elicit, not shown by the client":  {call(capable(`{}`)), ask("elicit"), nil, "result complete"},
		"challenge":                        {call(modern), ask("challenge"), nil, challenge},
		"challenge, said later":            {call(modern), ask("challenge"), declined, "result complete"},
		"error":                            {call(modern), ask("error"), nil, "result complete"},
		"error, older protocol":            {call(), ask("error"), nil, result},
		"error, a prompt":                  {call(method("prompts/get")), ask("error"), nil, "error -32010"},
		"error, a resource":                {call(modern, method("resources/read")), ask("error"), nil, "error -32010"},
		"error, a completion":              {call(method("completion/complete")), ask("error"), nil, "error -32010"},
		"the user declines":                {call(modern, answering("decline")), nil, nil, "result complete"},
		"the user closes the dialog":       {call(modern, answering("cancel")), nil, nil, "result complete"},
		"the user is not back yet":         {call(modern, answering("accept")), nil, nil, "result complete"},
		"an answer to another question": {call(modern, func(c *mcp.Call) {
			c.Params = json.RawMessage(`{"inputResponses":{"signet-connect-gitlab":{"action":"accept"}}}`)
		}), nil, nil, elicitation},
		"more, link shown":      {call(modern), nil, more, elicitation},
		"more, older protocol":  {call(), nil, more, result},
		"more, elicit":          {call(), ask("elicit"), more, "error -32042"},
		"more, challenge":       {call(), ask("challenge"), more, result},
		"no MCP":                {call(plain), nil, nil, result},
		"no MCP, and challenge": {call(plain), ask("challenge"), nil, result},
		"no MCP, a resource":    {call(plain, method("resources/read")), nil, nil, "resource"},
	} {
		t.Run(name, func(t *testing.T) {
			server := hub()
			if tt.server != nil {
				tt.server(server)
			}
			if tt.missing == nil {
				tt.missing = missingGitHub
			}
			if got := form(t, gateway.Answer(gateway.NewAsker(authURL), tt.call, server, tt.missing)); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// A client gets one challenge for a connection, and then the link.
func TestNoSecondChallengeForTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := gateway.NewAsker(authURL)
		ask := func(missing string, edits ...func(*mcp.Call)) string {
			return form(t, gateway.Answer(a, call(edits...), hub(), &gateway.Missing{Connection: missing}))
		}
		for n, step := range []struct {
			missing string
			edit    func(*mcp.Call)
			want    string
		}{
			{"github", func(*mcp.Call) {}, "challenge"},
			{"github", func(*mcp.Call) {}, "result"},
			{"github", func(c *mcp.Call) { c.Claims.GrantID = "of the next login" }, "result"},
			{"gitlab", func(*mcp.Call) {}, "challenge"},
			{"github", func(c *mcp.Call) { c.Claims.Subject = "bob" }, "challenge"},
			{"github", func(c *mcp.Call) { c.Claims.ClientID = "other" }, "challenge"},
		} {
			if got := ask(step.missing, step.edit); got != step.want {
				t.Errorf("step %d: %s, want %s", n, got, step.want)
			}
		}
		time.Sleep(time.Hour)
		if got := ask("github"); got != "challenge" {
			t.Errorf("an hour later: %s, want a challenge", got)
		}
		// The memory is bounded.
		for n := range 3 * gateway.MaxChallenged {
			ask(fmt.Sprint("c", n))
		}
		if got := ask("github"); got != "challenge" && got != "result" {
			t.Errorf("after many: %s", got)
		}
	})
}

// wantLink checks that a link is for alice, and for this server.
func wantLink(t *testing.T, link string) {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil || u.Scheme+"://"+u.Host != authURL || u.Path != "/oauth/authorize" || u.Query().Get("server_id") != "github-tools" || u.Query().Get("for") != oauth.ConnectionUser(authURL, "alice") || len(u.Query()) != 2 {
		t.Errorf("link %s, %v", link, err)
	}
}

// The object is that of the reference, member for member, with a state that is new each time.
func TestPlainClientsGetTheReferencesObject_Row55(t *testing.T) {
	answer := func(edits ...func(*mcp.Call)) string {
		return string(gateway.Answer(gateway.NewAsker(authURL), call(edits...), hub(), missingGitHub).Result)
	}
	state := func(text string) string {
		_, rest, _ := strings.Cut(text, `state":"`)
		if strings.Contains(text, `state\":\"`) {
			_, rest, _ = strings.Cut(text, `state\":\"`)
		}
		return strings.FieldsFunc(rest, func(r rune) bool { return r == '"' || r == '\\' })[0]
	}
	const object = `{"error":"OAuth delegation required","details":{"type":"oauth_delegation","auth_endpoint":"https://github.com/login/oauth/authorize","token_endpoint":"https://github.com/login/oauth/access_token","client_info":{"client_id":"gh-id","metadata":{"state":"STATE"}},"required_scopes":["repo","read:user"],"redirect_after_auth":true}}`
	tool, again := answer(plain), answer(plain)
	if got, want := strings.Replace(tool, state(tool), "STATE", 1), `{"content":`+object+`,"isError":true}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if s := state(tool); len(s) < 20 || s == state(again) {
		t.Errorf("states %s and %s", s, state(again))
	}
	resource := answer(plain, method("resources/read"))
	if got, want := strings.Replace(resource, state(resource), "STATE", 1), `{"contents":"`+strings.ReplaceAll(object, `"`, `\"`)+`","mimeType":"application/json"}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if strings.Contains(tool+resource, "gh-secret") {
		t.Error("the client's secret is in the object")
	}
}

// Where the configuration says less, the object has the defaults, and Signet's own addresses.
func TestTheObjectHasDefaults_Row55(t *testing.T) {
	for name, tt := range map[string]struct {
		edit                       func(*gatewayconfig.Server)
		auth, token, client, scope string
	}{
		"no scopes":          {func(s *gatewayconfig.Server) { s.Connection.Scopes = nil }, "https://github.com/login/oauth/authorize", "https://github.com/login/oauth/access_token", "gh-id", "openid"},
		"discovery":          {func(s *gatewayconfig.Server) { s.Connection.AuthorizationEndpoint = "" }, "", authURL + "/oauth/token", "gh-id", "repo read:user"},
		"no client":          {func(s *gatewayconfig.Server) { s.Connection.ClientID = "" }, "https://github.com/login/oauth/authorize", "https://github.com/login/oauth/access_token", "", "repo read:user"},
		"an API key":         {func(s *gatewayconfig.Server) { s.Connection = &gatewayconfig.Connection{ID: "github", Key: true} }, "", authURL + "/oauth/token", "", "openid"},
		"another connection": {func(s *gatewayconfig.Server) { s.Connection.ID = "other" }, "", authURL + "/oauth/token", "", "openid"},
	} {
		t.Run(name, func(t *testing.T) {
			server := hub()
			tt.edit(server)
			var got struct {
				Content struct {
					Details struct {
						Auth   string `json:"auth_endpoint"`
						Token  string `json:"token_endpoint"`
						Client struct {
							ID string `json:"client_id"`
						} `json:"client_info"`
						Scopes []string `json:"required_scopes"`
					}
				}
			}
			if err := json.Unmarshal(gateway.Answer(gateway.NewAsker(authURL), call(plain), server, missingGitHub).Result, &got); err != nil {
				t.Fatal(err)
			}
			d := got.Content.Details
			if tt.auth == "" {
				wantLink(t, d.Auth)
				d.Auth = ""
			}
			if d.Auth != tt.auth || d.Token != tt.token || d.Client.ID != tt.client || strings.Join(d.Scopes, " ") != tt.scope {
				t.Errorf("%+v", d)
			}
		})
	}
}

// A result is one that MCP clients read: text for people, with the link, and the object.
func TestErrorResultIsValidAndHasTheLink_Row55_Probe29(t *testing.T) {
	server := hub()
	server.Ask = "error"
	for name, c := range map[string]*mcp.Call{"older": call(), "newer": call(modern)} {
		reply := gateway.Answer(gateway.NewAsker(authURL), c, server, missingGitHub)
		var got sdk.CallToolResult
		if err := json.Unmarshal(reply.Result, &got); err != nil {
			t.Fatalf("%s: %v in %s", name, err, reply.Result)
		}
		text := got.Content[0].(*sdk.TextContent).Text
		object, _ := got.StructuredContent.(map[string]any)
		details, _ := object["details"].(map[string]any)
		if !got.IsError || len(got.Content) != 1 || object["error"] != "OAuth delegation required" || details["type"] != "oauth_delegation" {
			t.Errorf("%s: %s", name, reply.Result)
		}
		before, rest, found := strings.Cut(text, " Open ")
		link, after, _ := strings.Cut(rest, " ")
		if !found || before != "GitHub tools needs your account at GitHub. Sign in there to connect it." || after != "in a browser, and then try again." {
			t.Errorf("%s: text %q", name, text)
		}
		wantLink(t, link)
		if strings.Contains(string(reply.Result), "gh-secret") {
			t.Errorf("%s: a secret is in %s", name, reply.Result)
		}
	}
	var e jsonrpc.Error
	reply := gateway.Answer(gateway.NewAsker(authURL), call(method("prompts/get")), server, missingGitHub)
	if err := json.Unmarshal(reply.Error, &e); err != nil || !strings.Contains(string(e.Data), `"oauth_delegation"`) || !strings.Contains(e.Message, authURL+"/oauth/authorize?") {
		t.Errorf("%v, %s", err, reply.Error)
	}
	server.Connection = &gatewayconfig.Connection{ID: "github", Name: "GitHub", Key: true}
	if text := string(gateway.Answer(gateway.NewAsker(authURL), call(), server, missingGitHub).Result); !strings.Contains(text, "GitHub tools needs your API key for GitHub. Open "+authURL) {
		t.Errorf("an API key: %s", text)
	}
}

// The request to show the link is read by the SDK, and has no state that a client could change.
func TestElicitationIsReadByClients_Row55_J15(t *testing.T) {
	reply := gateway.Answer(gateway.NewAsker(authURL), call(modern), hub(), missingGitHub)
	var result sdk.CallToolResult
	if err := json.Unmarshal(reply.Result, &result); err != nil {
		t.Fatal(err)
	}
	p, _ := result.InputRequests["signet-connect-github"].(*sdk.ElicitParams)
	if p == nil || !result.NeedsInput() || len(result.InputRequests) != 1 || result.RequestState != "" || len(result.Content) != 0 {
		t.Fatalf("%s", reply.Result)
	}
	wantLink(t, p.URL)
	if p.Mode != "url" || p.Message != "GitHub tools needs your account at GitHub. Sign in there to connect it." || len(p.ElicitationID) < 20 {
		t.Errorf("%+v", p)
	}
	server := hub()
	server.Ask = "elicit"
	reply = gateway.Answer(gateway.NewAsker(authURL), call(), server, missingGitHub)
	var e struct {
		Code    int64
		Message string
		Data    struct{ Elicitations []sdk.ElicitParams }
	}
	if err := json.Unmarshal(reply.Error, &e); err != nil || e.Code != sdk.CodeURLElicitationRequired || len(e.Data.Elicitations) != 1 || e.Data.Elicitations[0].Mode != "url" {
		t.Fatalf("%v: %s", err, reply.Error)
	}
	wantLink(t, e.Data.Elicitations[0].URL)
}

// The user's answer to the link stays here, and every other byte reaches the server.
func TestResponsesForTheGatewayStayHere(t *testing.T) {
	for in, want := range map[string]string{
		`{"name":"x"}`: `{"name":"x"}`,
		`{ "name" : "x", "arguments":{"a": 1.0, "signet-connect-a": 2} }`:                                                                  `{ "name" : "x", "arguments":{"a": 1.0, "signet-connect-a": 2} }`,
		`{"name":"x","inputResponses":{"signet-connect-github":{"action":"accept"}},"arguments":{"a": 1.0}}`:                               `{"name":"x","arguments":{"a": 1.0}}`,
		`{"inputResponses":{"q":{"action":"accept", "content":{"n":1e3}},"signet-connect-github":{"action":"accept"}},"requestState":"s"}`: `{"inputResponses":{"q":{"action":"accept", "content":{"n":1e3}}},"requestState":"s"}`,
		`{"inputResponses":{"q":{"action":"accept"}}}`:                                                                                     `{"inputResponses":{"q":{"action":"accept"}}}`,
		`{"inputResponses":"signet-connect-"}`:                                                                                             `{}`,
	} {
		if got := string(gateway.WithoutResponses(json.RawMessage(in))); got != want {
			t.Errorf("%s\n got %s\nwant %s", in, got, want)
		}
	}
	if gateway.WithoutResponses(nil) != nil {
		t.Error("no parameters became some")
	}
	got := map[string]bool{}
	for name, c := range map[string]*mcp.Call{
		"accept": call(modern, answering("accept")), "decline": call(modern, answering("decline")), "nothing": call(modern), "older": call(answering("accept")),
	} {
		got[name] = gateway.Accepted(c, missingGitHub)
	}
	if diff := cmp.Diff(map[string]bool{"accept": true, "decline": false, "nothing": false, "older": false}, got); diff != "" {
		t.Errorf("accepted (-want +got):\n%s", diff)
	}
}
