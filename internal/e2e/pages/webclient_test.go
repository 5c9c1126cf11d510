package pages

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"signet/internal/e2e"
	"signet/internal/test/process"
)

// webClient does the requests of an MCP client in a browser, such as the Inspector's
// page on its own loopback port. Every step is a request across origins, and reports
// when the browser blocks it.
const webClient = `(async (mcp, token) => {
	const did = {};
	const step = async (name, f) => { try { did[name] = await f() } catch (e) { did[name] = 'refused: ' + e } };
	let metadata, issuer, as, client;
	await step('challenge', async () => {
		const r = await fetch(mcp, {method: 'POST', headers: {'Content-Type': 'application/json', 'MCP-Protocol-Version': '2025-11-25'}, body: '{}'});
		metadata = /resource_metadata="([^"]*)"/.exec(r.headers.get('WWW-Authenticate'))[1];
		return r.status;
	});
	await step('resource metadata', async () => {
		const r = await fetch(metadata, {headers: {'MCP-Protocol-Version': '2025-11-25'}});
		issuer = (await r.json()).authorization_servers[0];
		return r.status;
	});
	await step('server metadata', async () => {
		const r = await fetch(issuer + '/.well-known/oauth-authorization-server', {headers: {'MCP-Protocol-Version': '2025-11-25'}});
		as = await r.json();
		return r.status;
	});
	await step('keys', async () => (await fetch(as.jwks_uri)).status);
	await step('registration', async () => {
		const r = await fetch(as.registration_endpoint, {method: 'POST', headers: {'Content-Type': 'application/json'},
			body: JSON.stringify({redirect_uris: [location.origin + '/callback'], token_endpoint_auth_method: 'none'})});
		client = (await r.json()).client_id;
		return r.status;
	});
	await step('token', async () => {
		const r = await fetch(as.token_endpoint, {method: 'POST', headers: {Authorization: 'Basic ' + btoa(client + ':')},
			body: new URLSearchParams({grant_type: 'refresh_token', refresh_token: 'x'})});
		return r.status + ' ' + (await r.json()).error;
	});
	await step('tool', async () => {
		const r = await fetch(mcp, {method: 'POST', headers: {'Content-Type': 'application/json', Accept: 'application/json, text/event-stream',
			'MCP-Protocol-Version': '2025-11-25', Authorization: 'Bearer ' + token},
			body: JSON.stringify({jsonrpc: '2.0', id: 1, method: 'tools/call', params: {name: 'greet', arguments: {name: 'World'}}})});
		return (await r.json()).result.content[0].text;
	});
	return JSON.stringify(did);
})`

// In a real browser, a page on another loopback port connects to a loopback issuer as a
// client; a page of another origin cannot call a tool.
func TestClientInABrowserConnects(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	_, tok := d.Login()
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Write([]byte("<title>client</title><p id=client>a client"))
	}))
	defer page.Close()
	b := e2e.NewBrowser(t)
	run := func(from string) map[string]any {
		t.Helper()
		b.Do(chromedp.Navigate(from), chromedp.WaitReady(chromedp.CSS(`#client`)))
		ctx, cancel := context.WithTimeout(b.Ctx, process.Patience)
		defer cancel()
		arguments, err := json.Marshal([]string{d.Issuer + "/mcp", tok.AccessToken})
		if err != nil {
			t.Fatal(err)
		}
		text, err := chromedp.Run(ctx, chromedp.Evaluate[string](webClient+"(..."+string(arguments)+")", chromedp.EvalAwaitPromise))
		if err != nil {
			t.Fatal(err)
		}
		var did map[string]any
		if err := json.Unmarshal([]byte(text), &did); err != nil {
			t.Fatal(err)
		}
		return did
	}
	did := run(strings.Replace(page.URL, "127.0.0.1", "localhost", 1))
	for step, want := range map[string]any{
		"challenge": 401.0, "resource metadata": 200.0, "server metadata": 200.0, "keys": 200.0, "registration": 201.0,
		"token": "400 invalid_grant", "tool": "Hello, World!",
	} {
		if got := did[step]; got != want {
			t.Errorf("%s: %v, want %v", step, got, want)
		}
	}
	if got, _ := run("data:text/html,<p id=client>a client without an origin")["tool"].(string); !strings.HasPrefix(got, "refused") {
		t.Errorf("a page of no known origin called a tool: %s", got)
	}
}
