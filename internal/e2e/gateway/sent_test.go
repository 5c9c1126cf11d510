package gateway

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"signet/internal/test/backends"
)

// The tests in this file are about what servers are sent.

// A server whose strategy is bypass_auth is sent nothing of the caller's: no token, no cookie, no
// header that tells of the caller.
func TestBypassSendsNothingOfTheCallers_Row61_J05(t *testing.T) {
	be, rest := backends.New(t, backends.Options{}), backends.NewREST(t, backends.RESTOptions{})
	w := start(t, fmt.Sprintf(`servers:
  - {id: open, type: http, auth_strategy: bypass_auth, config: {url: %s}}
  - {id: rest, type: local, auth_strategy: bypass_auth, config: {port: %s}}
`, be.Endpoint(), rest.Port()))
	token := w.token("ann")
	for _, tool := range []string{"open.echo", "rest.echo"} {
		r := w.post(token, fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":{"message":"x"}}}`, tool))
		for name, value := range private {
			r.Header.Set(name, value)
		}
		w.said(w.do(r))
	}
	for name, log := range map[string]string{"MCP": be.Log(), "REST": rest.Log()} {
		for header, value := range private {
			if strings.Contains(log, value) || strings.Contains(log, header+":") {
				t.Errorf("%s: the server was sent %s:\n%s", name, header, log)
			}
		}
		for _, banned := range []string{"Authorization", token, token[:40], "requestInfo", "X-Forwarded"} {
			if strings.Contains(log, banned) {
				t.Errorf("%s: the server was sent %s:\n%s", name, banned, log)
			}
		}
		if !strings.Contains(log, "message") {
			t.Errorf("%s: no call in the log:\n%s", name, log)
		}
	}
}

// private are headers of a caller's request that are for no server.
var private = map[string]string{
	"Cookie": "session=canary-cookie", "Proxy-Authorization": "Basic canary-proxy", "X-Forwarded-For": "203.0.113.9", "X-Forwarded-Host": "canary.example",
	"Forwarded": "for=203.0.113.10", "X-User": "canary-user", "X-Real-Ip": "203.0.113.11", "X-Api-Key": "canary-key", "Referer": "https://canary.example/",
}

// A server whose strategy is master_oauth is sent a token of the caller that is for this server
// alone: another one than the caller's, for the same subject, verified by the published keys.
func TestMasterIsSentATokenOfItsOwnAudience_Row54_J05(t *testing.T) {
	a, b := backends.New(t, backends.Options{}), backends.New(t, backends.Options{Legacy: true})
	w := start(t, fmt.Sprintf(`servers:
  - {id: a, type: http, auth_strategy: master_oauth, config: {url: %s}}
  - {id: b, type: http, auth_strategy: master_oauth, config: {url: %s}}
`, a.Endpoint(), b.Endpoint()))
	token := w.token("ann")
	atA, atB := w.said(w.call(token, "a.whoami", "{}")), w.said(w.call(token, "b.whoami", "{}"))
	mine := claims(t, token)
	for at, aud := range map[string]string{atA: a.Endpoint(), atB: b.Endpoint()} {
		c := claims(t, at)
		if c["sub"] != mine["sub"] || c["client_id"] != mine["client_id"] || fmt.Sprint(c["aud"]) != fmt.Sprint(aud) && fmt.Sprint(c["aud"]) != "["+aud+"]" {
			t.Errorf("%s was sent %v, the caller's token is %v", aud, c, mine)
		}
		if c["act"] == nil || c["exp"].(float64) > mine["exp"].(float64) {
			t.Errorf("%s was sent %v, the caller's token is %v", aud, c, mine)
		}
		out, errOut, status := w.Signet(at+"\n", "token", "verify", "--issuer", w.Issuer, "--resource", aud)
		if status != 0 {
			t.Errorf("verifying the token of %s: %d %s%s", aud, status, out, errOut)
		}
		if r := w.call(at, "a.echo", "{}"); r.Status != http.StatusUnauthorized {
			t.Errorf("the token of %s at the gateway: %s", aud, r)
		}
	}
	for _, be := range []*backends.MCP{a, b} {
		if strings.Contains(be.Log(), token) {
			t.Error("a server saw the caller's token")
		}
	}
	if strings.Contains(a.Log(), atB) || strings.Contains(b.Log(), atA) {
		t.Error("a server saw another server's token")
	}
}

// passthrough is refused for a server that is none of the resources that tokens are for, and else
// sends the caller's token itself.
func TestPassthroughIsForConfiguredResources_Row54(t *testing.T) {
	be := backends.New(t, backends.Options{})
	config := fmt.Sprintf("servers:\n  - {id: a, type: http, auth_strategy: master_oauth, auth_config: {passthrough: true}, config: {url: %s}}\n", be.Endpoint())
	prepare(t, config).MustRefuse("servers[0]", "SIGNET_RESOURCES")
	w := prepare(t, config)
	w.Env = append(w.Env, "SIGNET_RESOURCES="+w.Issuer+"/mcp,"+be.Endpoint())
	w.Start()
	token := w.token("ann")
	if got := w.said(w.call(token, "a.whoami", "{}")); got != token {
		t.Errorf("the server saw %q, not the caller's token", got)
	}
}

// A token of the gateway's own comes from the variable that the configuration names.
func TestTokenSource_Row59(t *testing.T) {
	be := backends.New(t, backends.Options{Accept: func(token string) bool { return token == "canary-of-the-gateway" }})
	config := fmt.Sprintf("servers:\n  - {id: internal, type: http, auth_strategy: proxy_oauth, auth_config: {token_source: 'env:INTERNAL_TOKEN'}, config: {url: %s}}\n", be.Endpoint())
	prepare(t, config).MustRefuse("servers[0].auth_config.token_source", "INTERNAL_TOKEN")
	w := start(t, config, "INTERNAL_TOKEN=canary-of-the-gateway")
	token := w.token("ann")
	if names, _ := w.tools(token); len(names) == 0 {
		t.Error("a protected server has no tools")
	}
	if got := w.said(w.call(token, "internal.whoami", "{}")); got != "canary-of-the-gateway" {
		t.Errorf("the server saw %q", got)
	}
	if strings.Contains(be.Log(), token) || w.Says("canary-of-the-gateway") > 0 {
		t.Error("the server saw the caller's token, or the log shows the gateway's")
	}
}
