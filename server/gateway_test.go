package server_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signet/internal/test/backends"
	"signet/internal/test/upstreamtest"
	"signet/server"
)

// gatewayFile writes a configuration, which write changes.
func gatewayFile(t *testing.T, text string) (path string, write func(text string)) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "gateway.yaml")
	write = func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write(text)
	return path, write
}

func bypassed(id string, b *backends.MCP) string {
	return fmt.Sprintf("  - {id: %s, type: http, auth_strategy: bypass_auth, config: {url: %q}}\n", id, b.Endpoint())
}

// gatewayOf returns a gateway of role mcp, and its log.
func gatewayOf(t *testing.T, is *issuer, path string, change func(o *server.Options)) (*server.Server, *safeBuffer) {
	t.Helper()
	log := &safeBuffer{}
	return newServer(t, func(o *server.Options) {
		o.Role, o.Issuer, o.Check = "mcp", is.url, nil
		o.Resources = []string{"https://mcp.example/mcp"}
		o.Gateway.Config = path
		o.Log = slog.New(slog.NewTextHandler(log, nil))
		if change != nil {
			change(o)
		}
	}), log
}

func TestGatewayServesOtherServersInPlaceOfItsOwnTools_Row77(t *testing.T) {
	is, a := newIssuer(t), backends.New(t, backends.Options{Name: "a"})
	path, _ := gatewayFile(t, "servers:\n"+bypassed("a", a))
	srv, _ := gatewayOf(t, is, path, nil)
	srv.AddSamples()
	token := is.token(t, "https://mcp.example/mcp", "read")
	const root = "https://mcp.example"
	for _, tt := range []struct{ path, body, want string }{
		{"/mcp/tools/list", `{}`, `"a.echo"`},
		{"/mcp/tools/call", `{"name":"a.echo","arguments":{"message":"hi"}}`, `hi`},
		{"/mcp/resources/list", `{}`, `"a.file:///notes.txt"`},
		{"/mcp/resources/read", `{"uri":"a.file:///notes.txt"}`, `"contents":`},
		{"/mcp/tools/call", `{"name":"nope.echo"}`, `unknown tool`},
		{"/mcp/tools/call", `{"name":"greet"}`, `unknown tool`},
		{"/tools/a.echo", `{"message":"hi"}`, `hi`},
		{"/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a.echo","arguments":{"message":"hi"}}}`, `hi`},
		{"/mcp", `{"jsonrpc":"2.0","id":1,"method":"ping"}`, `"result":{}`},
	} {
		if got := post(srv, root+tt.path, token, tt.body); got.Code != http.StatusOK || !strings.Contains(got.Body.String(), tt.want) {
			t.Errorf("%s %s: status %d, %s", tt.path, tt.body, got.Code, got.Body)
		}
		if got := post(srv, root+tt.path, "", tt.body); got.Code != http.StatusUnauthorized {
			t.Errorf("%s %s without token: status %d, %s", tt.path, tt.body, got.Code, got.Body)
		}
	}
	if got := post(srv, root+"/mcp/tools/list", token, "{}"); strings.Contains(got.Body.String(), "greet\"") && strings.Contains(got.Body.String(), `"greet"`) {
		t.Errorf("samples are listed: %s", got.Body)
	}
	r := httptest.NewRequest(http.MethodGet, root+"/capabilities", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	srv.Handler().ServeHTTP(w, r)
	if !strings.Contains(w.Body.String(), `"a.echo"`) || !strings.Contains(w.Body.String(), `"prompts":[`) {
		t.Errorf("/capabilities: status %d, %s", w.Code, w.Body)
	}
	w = httptest.NewRecorder()
	srv.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, root+"/health", nil))
	if strings.TrimSpace(w.Body.String()) != `{"ok":true}` {
		t.Errorf("/health: status %d, %s", w.Code, w.Body)
	}
	if strings.Contains(a.Log(), token) || strings.Contains(a.Log(), "Authorization") {
		t.Errorf("the server got the caller's token: %s", a.Log())
	}
}

func TestChangedConfigurationIsTakenUpAndABadOneIsNot_Row75_Probe28(t *testing.T) {
	is, a, b := newIssuer(t), backends.New(t, backends.Options{Name: "a"}), backends.New(t, backends.Options{Name: "b"})
	path, write := gatewayFile(t, "servers:\n"+bypassed("a", a))
	srv, log := gatewayOf(t, is, path, nil)
	token := is.token(t, "https://mcp.example/mcp", "read")
	list := func() string { return post(srv, "https://mcp.example/mcp/tools/list", token, "{}").Body.String() }
	logged := func(text string) func() (any, bool) {
		return func() (any, bool) { return log.String(), strings.Contains(log.String(), text) }
	}
	write("servers:\n" + bypassed("a", a) + "  - {id: c, type: http, auth_strategy: nobody, config: {url: \"https://c.example\"}}\n")
	until(t, "the fault in the log", logged("servers[1].auth_strategy"))
	if got := list(); !strings.Contains(got, `"a.echo"`) {
		t.Errorf("after a bad edit: %s", got)
	}
	write("servers:\n" + bypassed("a", a) + bypassed("b", b))
	until(t, "the tools of the new server", func() (any, bool) { got := list(); return got, strings.Contains(got, `"b.echo"`) })
	until(t, "the change in the log", logged("the gateway configuration has changed"))
	write("servers:\n" + bypassed("a", a) + strings.Replace(bypassed("b", b), "auth_strategy:", "scopes: [read, reed], tools: {echo: {scopes: [writ]}}, auth_strategy:", 1))
	until(t, "a warning of the scope of a server", logged(`server b cannot be used: the scope reed that it needs does not exist (SIGNET_SCOPES)`))
	until(t, "a warning of the scope of a tool", logged(`of server b cannot be used: the scope writ that`))
	if strings.Contains(log.String(), "the scope read ") {
		t.Errorf("a warning of a scope that exists: %s", log)
	}
	write("hosting: {port: 3999}\nservers:\n" + bypassed("b", b))
	until(t, "the first server is gone", func() (any, bool) { got := list(); return got, !strings.Contains(got, `"a.echo"`) })
	until(t, "the log says that a port needs a restart", logged("restart required"))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	until(t, "the log says that the file is gone", logged("no such file"))
	if got := list(); !strings.Contains(got, `"b.echo"`) {
		t.Errorf("without the file: %s", got)
	}
}

func TestGatewayThatCannotWorkDoesNotStart_Row73_Probe21(t *testing.T) {
	is := newIssuer(t)
	good := "servers:\n  - {id: a, type: http, auth_strategy: bypass_auth, config: {url: \"https://a.example/mcp\"}}\n"
	path, _ := gatewayFile(t, good)
	bad, _ := gatewayFile(t, strings.Replace(good, "bypass_auth", "pass_all", 1))
	through, _ := gatewayFile(t, strings.Replace(good, "bypass_auth, ", "master_oauth, auth_config: {passthrough: true}, ", 1))
	for name, tt := range map[string]struct {
		change func(o *server.Options)
		want   string
	}{
		"no file":            {func(o *server.Options) { o.Gateway.Config = path + "x" }, "SIGNET_GATEWAY_CONFIG"},
		"a fault":            {func(o *server.Options) { o.Gateway.Config = bad }, "servers[0].auth_strategy"},
		"token for a server": {func(o *server.Options) { o.Gateway.Config = through }, "passthrough"},
		"half a client":      {func(o *server.Options) { o.Gateway.ClientID = "gw" }, "SIGNET_GATEWAY_CLIENT_SECRET"},
		"a secret and a key": {func(o *server.Options) {
			o.Gateway.ClientID, o.Gateway.ClientSecret, o.Gateway.ClientKey = "gw", "s", path
		}, "SIGNET_GATEWAY_CLIENT_KEY"},
		"no file of a key":   {func(o *server.Options) { o.Gateway.ClientID, o.Gateway.ClientKey = "gw", path+"x" }, "SIGNET_GATEWAY_CLIENT_KEY"},
		"a key that is none": {func(o *server.Options) { o.Gateway.ClientID, o.Gateway.ClientKey = "gw", path }, "is not PEM"},
		"client, no gateway": {func(o *server.Options) {
			o.Gateway.Config, o.Gateway.ClientID, o.Gateway.ClientSecret = "", "gw", "s"
		}, "SIGNET_GATEWAY_CONFIG"},
	} {
		o := server.Options{Role: "mcp", Issuer: is.url, Resources: []string{"https://mcp.example/mcp"}, DataDir: filepath.Join(t.TempDir(), "data")}.Alone()
		o.Gateway.Config = path
		tt.change(&o)
		srv, err := server.New(o)
		if err == nil {
			srv.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
	srv, _ := gatewayOf(t, is, path, nil)
	if srv.Gateway() == nil {
		t.Error("the good file gives no gateway")
	}
}

// A gateway that is no client of its issuer says so at the start, if it has servers for which it must be
// one.
func TestGatewayWithoutAClientWarns(t *testing.T) {
	is, a := newIssuer(t), backends.New(t, backends.Options{Name: "a"})
	minted := func(id string) string { return strings.Replace(bypassed(id, a), "bypass_auth", "master_oauth", 1) }
	for name, tt := range map[string]struct {
		servers string
		client  string
		warns   bool
	}{
		"no client":     {bypassed("a", a) + minted("b"), "", true},
		"not needed":    {bypassed("a", a), "", false},
		"with a client": {bypassed("a", a) + minted("b"), "gw", false},
	} {
		path, _ := gatewayFile(t, "servers:\n"+tt.servers)
		_, log := gatewayOf(t, is, path, func(o *server.Options) {
			if o.Gateway.ClientID = tt.client; tt.client != "" {
				o.Gateway.ClientSecret = "secret"
			}
		})
		if got := strings.Contains(log.String(), "calls of b fail: the gateway is no client of its issuer"); got != tt.warns {
			t.Errorf("%s: %s", name, log)
		}
	}
}

func TestCallersWithTokensOfAnotherIssuer_Row53(t *testing.T) {
	is, a, idp := newIssuer(t), backends.New(t, backends.Options{Name: "a"}), upstreamtest.New(t, upstreamtest.Options{})
	path, _ := gatewayFile(t, fmt.Sprintf("master_oauth: {issuer: %q, authorization_endpoint: %q, token_endpoint: %q, jwks_uri: %q, client_id: gw, client_secret: s, redirect_uri: %q, scopes: [openid]}\nservers:\n",
		idp.Issuer(), idp.URL()+"/authorize", idp.URL()+"/token", idp.URL()+"/jwks", idp.URL())+bypassed("a", a)+
		fmt.Sprintf("  - {id: minted, type: http, auth_strategy: master_oauth, config: {url: %q}}\n", a.Endpoint()))
	srv, _ := gatewayOf(t, is, path, nil)
	now := time.Now().Unix()
	claims := map[string]any{"iss": idp.Issuer(), "sub": "carol", "aud": "gw", "iat": now, "exp": now + 300, "scope": "read"}
	body := `{"name":"a.echo","arguments":{"message":"hi"}}`
	if got := post(srv, "https://mcp.example/mcp/tools/call", idp.Sign(claims), body); got.Code != http.StatusOK || !strings.Contains(got.Body.String(), "hi") {
		t.Errorf("a token of the other issuer: status %d, %s", got.Code, got.Body)
	}
	if got := post(srv, "https://mcp.example/mcp/tools/call", is.token(t, "https://mcp.example/mcp", "read"), body); got.Code != http.StatusOK {
		t.Errorf("a token of the own issuer: status %d, %s", got.Code, got.Body)
	}
	if got := post(srv, "https://mcp.example/mcp/tools/call", idp.Sign(claims), strings.Replace(body, "a.echo", "minted.echo", 1)); !strings.Contains(got.Body.String(), `"isError":true`) {
		t.Errorf("a server that needs a token of the own issuer: status %d, %s", got.Code, got.Body)
	}
	claims["aud"] = "other"
	if got := post(srv, "https://mcp.example/mcp/tools/call", idp.Sign(claims), body); got.Code != http.StatusUnauthorized {
		t.Errorf("another audience: status %d, %s", got.Code, got.Body)
	}
	if n := len(a.Calls()); n != 2 {
		t.Errorf("the server got %d calls, want 2", n)
	}
}
