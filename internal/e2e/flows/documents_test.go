package flows

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"signet/internal/e2e"
	"signet/internal/test/clientdoc"
	"signet/internal/test/person"
)

// The go-sdk's client sends Basic credentials on each token request: the URL of its
// document, form-encoded, and an empty secret.
func TestGoSDKClientSignsInByItsDocument(t *testing.T) {
	host := clientdoc.NewTLSHost(t)
	// The SDK refreshes ten seconds before the end of a token: with this life always.
	site := newSite(t, e2e.Trusts(host), "SIGNET_ACCESS_TTL=9s")
	id := e2e.PublishClient(t, host, "/client.json", map[string]any{"token_endpoint_auth_method": "none"})
	session := e2e.Connect(t, site.endpoint, e2e.SDKLoginByDocument(t, id, "demo_user", "demo_password"), nil)
	if got := e2e.CallTool(t, session, "whoami", nil); !strings.Contains(got, "demo_user") {
		t.Errorf("whoami says %s", got)
	}
	if got := e2e.CallTool(t, session, "echo", map[string]any{"message": "again"}); !strings.Contains(got, "again") {
		t.Errorf("echo says %s", got)
	}
	checkKnownClient(t, site.proxy, 2)
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(id)+":"))
	for _, e := range site.proxy.Exchanges("/token") {
		if e.Header.Get("Authorization") != want || e.Form.Has("client_id") {
			t.Errorf("the client sent %q and %v: this test is about Basic with an empty secret", e.Header.Get("Authorization"), e.Form)
		}
	}
	if n := host.Fetched("/client.json"); n != 1 {
		t.Errorf("the document was fetched %d times, want once", n)
	}
}

// checkKnownClient looks at what a client said that need not register: one code, and
// refreshes, and nothing was refused.
func checkKnownClient(t *testing.T, proxy *e2e.Proxy, refreshes int) {
	t.Helper()
	if n := len(proxy.Exchanges("/register")); n != 0 {
		t.Errorf("%d registrations, want none", n)
	}
	codes := 0
	for _, e := range proxy.Exchanges("/token") {
		if e.Status != http.StatusOK {
			t.Errorf("token request %v was answered %d %s", e.Form, e.Status, e.Answer)
		}
		if e.Form.Get("grant_type") == "authorization_code" {
			codes++
		}
	}
	if got := len(proxy.Refreshes(http.StatusOK)); codes != 1 || got < refreshes {
		t.Errorf("%d codes and %d refreshes, want one and %d at least", codes, got, refreshes)
	}
}

// The TypeScript SDKs, by which most clients are made, with a document and with a key.
func TestTypeScriptClientNeedsNoRegistration(t *testing.T) {
	for _, ts := range typeScripts {
		for name, publish := range map[string]func(*testing.T, *site, *clientdoc.Host) sdkIdentity{
			"with a document": documentWithoutKey, "with keys in its document": documentWithKeys,
			"with keys at a URL": documentWithKeysElsewhere, "configured with keys": configuredWithKeys,
		} {
			t.Run(ts.name+" "+name, func(t *testing.T) {
				host := clientdoc.NewTLSHost(t)
				site := startSite(t, e2e.Trusts(host))
				identity := publish(t, site, host)
				c := ts.connectAs(t, site, identity)
				c.echo("after login")
				for range 2 {
					site.proxy.Spoil()
					c.echo("after a refresh")
				}
				checkKnownClient(t, site.proxy, 2)
				if c.logins != 1 {
					t.Errorf("the user had to sign in %d times, want once", c.logins)
				}
				for _, e := range site.proxy.Exchanges("/token") {
					if signed := e.Form.Get("client_assertion") != ""; signed != (identity.Key != nil) {
						t.Errorf("the client sent %v", e.Form)
					}
				}
			})
		}
	}
}

func documentWithoutKey(t *testing.T, _ *site, host *clientdoc.Host) sdkIdentity {
	return sdkIdentity{Document: e2e.PublishClient(t, host, "/client.json", map[string]any{"token_endpoint_auth_method": "none"})}
}

func documentWithKeys(t *testing.T, _ *site, host *clientdoc.Host) sdkIdentity {
	signer := clientdoc.NewKeyFor(t, "ES256", "one")
	return sdkIdentity{Key: signer.Private(), Document: e2e.PublishClient(t, host, "/client.json", map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks": clientdoc.Set(t, signer)})}
}

func documentWithKeysElsewhere(t *testing.T, _ *site, host *clientdoc.Host) sdkIdentity {
	signer := clientdoc.NewKeyFor(t, "PS256", "one")
	keys := host.Put(t, "/jwks.json", clientdoc.Set(t, signer))
	return sdkIdentity{Key: signer.Private(), Document: e2e.PublishClient(t, host, "/client.json", map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": keys})}
}

func configuredWithKeys(t *testing.T, site *site, _ *clientdoc.Host) sdkIdentity {
	signer := clientdoc.NewKeyFor(t, "RS256", "")
	addClientWithKeys(t, site.Program, "my-app", signer)
	return sdkIdentity{Key: signer.Private(), Client: "my-app"}
}

// addClientWithKeys adds a client by the command, with a file of its keys, while the
// server runs.
func addClientWithKeys(t *testing.T, p *e2e.Program, id string, signer *clientdoc.Key) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "keys.json")
	text, err := json.Marshal(clientdoc.Set(t, signer))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	p.TakesUp("clients", func() {
		p.Must("client", "add", id, "--redirect-uri", e2e.RedirectURI, "--scope", "read", "--scope", "write", "--scope", "openid", "--scope", "profile", "--jwks", file)
	})
}

// published is a document as a known client publishes it, except for its host.
type published struct {
	name, path string
	members    map[string]any
	redirect   string // what an installation sends
}

// documents returns the documents of known applications. The members logo_uri and policy_uri
// must not be shown.
func documents(keys string) []published {
	web := func(members map[string]any) map[string]any {
		doc := map[string]any{"client_uri": "https://app.example", "logo_uri": "https://app.example/logo.png", "policy_uri": "https://app.example/policy", "application_type": "web"}
		maps.Copy(doc, members)
		return doc
	}
	native := func(members map[string]any) map[string]any {
		members["application_type"] = "native"
		return web(members)
	}
	return []published{
		{"Claude", "/oauth/mcp-oauth-client-metadata", web(map[string]any{
			"redirect_uris": []string{"https://claude.ai/api/mcp/auth_callback", "https://claude.com/api/mcp/auth_callback"}, "token_endpoint_auth_method": "none",
		}), "https://claude.ai/api/mcp/auth_callback"},
		{"Claude Code", "/oauth/claude-code-client-metadata", native(map[string]any{
			"redirect_uris": []string{"http://localhost/callback", "http://127.0.0.1/callback"}, "token_endpoint_auth_method": "none",
		}), "http://localhost:54212/callback"},
		{"ChatGPT", "/oauth/client.json", web(map[string]any{
			"redirect_uris":              []string{"https://chatgpt.com/connector/oauth/abc123", "https://chatgpt.com/connector_platform_oauth_redirect"},
			"token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_methods_supported": []string{"none", "private_key_jwt"},
			"token_endpoint_auth_signing_alg": "RS256", "jwks_uri": keys,
		}), "https://chatgpt.com/connector/oauth/abc123"},
		{"ChatGPT connector", "/oauth/abc123/client.json", web(map[string]any{
			"redirect_uris":              []string{"https://chatgpt.com/connector/oauth/abc123"},
			"token_endpoint_auth_method": nil, "token_endpoint_auth_methods_supported": []string{"none", "private_key_jwt"}, "token_endpoint_auth_signing_alg_values_supported": []string{"RS256"}, "jwks_uri": keys,
		}), "https://chatgpt.com/connector/oauth/abc123"},
		{"Visual Studio Code", "/oauth/client-metadata.json", native(map[string]any{
			"redirect_uris": []string{"https://vscode.dev/redirect", "https://insiders.vscode.dev/redirect", "http://127.0.0.1/", "http://127.0.0.1:33418/"}, "token_endpoint_auth_method": "none",
		}), "http://127.0.0.1:50123/"},
		{"opencode", "/oauth/opencode/client.json", native(map[string]any{
			"redirect_uris": []string{"http://127.0.0.1:19876/callback"}, "token_endpoint_auth_method": "none",
		}), "http://127.0.0.1:19877/callback"},
		{"GitHub Copilot CLI", "/copilot/cli/client-metadata.json", native(map[string]any{
			"redirect_uris": []string{"http://127.0.0.1:33418/"}, "token_endpoint_auth_method": nil,
		}), "http://127.0.0.1:41907/"},
	}
}

func TestPublishedDocumentsSignInRefreshAndCall(t *testing.T) {
	host := clientdoc.NewTLSHost(t)
	site := newSite(t, e2e.Trusts(host))
	signer := clientdoc.NewKeyFor(t, "RS256", "key-1")
	for _, doc := range documents(host.Put(t, "/oauth/jwks.json", clientdoc.Set(t, signer))) {
		t.Run(doc.name, func(t *testing.T) {
			doc.members["client_name"] = doc.name
			client := &e2e.Client{Issuer: site.proxy.URL, RedirectURI: doc.redirect, ID: e2e.PublishClient(t, host, doc.path, doc.members)}
			checkConsentNames(t, client, strings.TrimPrefix(host.URL, "https://"), doc)
			tok := client.Exchange(t, client.Code(t, "demo_user", "demo_password"))
			site.refreshAndCall(t, client, tok)
			if n := host.Fetched(doc.path); n != 1 {
				t.Errorf("the document was fetched %d times, want once", n)
			}
		})
	}
	if n := host.Fetched("/oauth/jwks.json"); n != 0 {
		t.Errorf("keys were fetched %d times, but no client has signed", n)
	}
}

// refreshAndCall refreshes twice, as clients do without a resource, and calls a tool with
// each access token.
func (s *site) refreshAndCall(t *testing.T, client *e2e.Client, tok e2e.Tokens) {
	t.Helper()
	for range 3 {
		if status := e2e.Call(t, s.endpoint, tok.AccessToken); status != http.StatusOK {
			t.Errorf("a call with the access token: %d", status)
		}
		next, status := client.Refresh(t, tok.RefreshToken)
		if status != http.StatusOK || next.Scope != tok.Scope {
			t.Fatalf("refresh: %d %+v, want the scope %q", status, next, tok.Scope)
		}
		tok = next
	}
}

// checkConsentNames wants a consent page that names the host of the document beside what
// the client calls itself, and shows nothing that the document points to.
func checkConsentNames(t *testing.T, client *e2e.Client, host string, doc published) {
	t.Helper()
	ann := person.New("demo_user", "demo_password")
	page, err := ann.Open(client.AuthorizationURL("s"))
	if err == nil {
		page, err = ann.SignIn(page)
	}
	if err != nil || !page.AsksConsent() {
		t.Fatalf("no consent page: %v, %v", page, err)
	}
	for _, want := range []string{doc.name, host} {
		if !strings.Contains(page.Body, want) {
			t.Errorf("the consent page does not name %s: %s", want, page.Body)
		}
	}
	if strings.Contains(page.Body, "app.example") {
		t.Errorf("the consent page shows what the document points to: %s", page.Body)
	}
}

// ChatGPT goes on without a key for days after it has begun to sign: both will do at any
// time, but an assertion that is sent must be right.
func TestChatGPTSignsOrNotInOneSession(t *testing.T) {
	host := clientdoc.NewTLSHost(t)
	site := newSite(t, e2e.Trusts(host))
	signer, other := clientdoc.NewKeyFor(t, "RS256", "key-1"), clientdoc.NewKeyFor(t, "RS256", "key-1")
	issuer := site.proxy.URL
	for _, doc := range documents(host.Put(t, "/oauth/jwks.json", clientdoc.Set(t, signer))) {
		if !strings.HasPrefix(doc.name, "ChatGPT") {
			continue
		}
		t.Run(doc.name, func(t *testing.T) {
			client := &e2e.Client{Issuer: issuer, RedirectURI: doc.redirect, ID: e2e.PublishClient(t, host, doc.path, doc.members)}
			sign := func(form url.Values, by *clientdoc.Key, audience string) url.Values {
				return e2e.Signed(form, by.Assertion(t, client.ID, audience, nil))
			}
			tok, status := e2e.Post(t, issuer, sign(client.CodeForm(client.Code(t, "demo_user", "demo_password")), signer, issuer))
			if status != http.StatusOK {
				t.Fatalf("code with an assertion: %d %+v", status, tok)
			}
			for n, audience := range []string{"", issuer + "/token", "", issuer} {
				form := client.RefreshForm(tok.RefreshToken)
				if audience != "" {
					form = sign(form, signer, audience)
				}
				if tok, status = e2e.Post(t, issuer, form); status != http.StatusOK {
					t.Fatalf("refresh %d, assertion for %q: %d %+v", n, audience, status, tok)
				}
				if status := e2e.Call(t, site.endpoint, tok.AccessToken); status != http.StatusOK {
					t.Errorf("a call after refresh %d: %d", n, status)
				}
			}
			wrong := map[string]url.Values{
				"signed by another key":     sign(client.RefreshForm(tok.RefreshToken), other, issuer),
				"for another issuer":        sign(client.RefreshForm(tok.RefreshToken), signer, "https://as.example"),
				"of another client":         e2e.Signed(client.RefreshForm(tok.RefreshToken), signer.Assertion(t, client.ID+"x", issuer, nil)),
				"that is no assertion":      e2e.Signed(client.RefreshForm(tok.RefreshToken), "x"),
				"that is empty":             e2e.Signed(client.RefreshForm(tok.RefreshToken), ""),
				"whose payload was changed": e2e.Signed(client.RefreshForm(tok.RefreshToken), signer.Assertion(t, client.ID, issuer, nil)+"AA"),
			}
			for name, form := range wrong {
				if got, status := e2e.Post(t, issuer, form); status != http.StatusUnauthorized || got.Error != "invalid_client" {
					t.Errorf("an assertion %s: %d %+v, want 401 invalid_client", name, status, got)
				}
			}
			site.refreshAndCall(t, client, tok) // nothing of that has spent the handle
		})
	}
}

// A document that the operator has pinned to a file is good without its host, here
// under the id that Claude Code really has, and a change of the file takes effect.
func TestPinnedDocumentNeedsNoHost(t *testing.T) {
	const id = "https://claude.ai/oauth/claude-code-client-metadata"
	file := filepath.Join(t.TempDir(), "claude-code.json")
	pin := func(redirects string) {
		text := `{"client_id":"` + id + `","client_name":"Claude Code","token_endpoint_auth_method":"none","redirect_uris":[` + redirects + `]}`
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pin(`"http://localhost/callback","http://127.0.0.1/callback"`)
	// The allow-list has another host: a fetch would be refused.
	site := newSite(t, "SIGNET_CLIENT_DOCUMENT_FILES="+file, "SIGNET_CLIENT_DOCUMENT_HOSTS=documents.example")
	client := &e2e.Client{Issuer: site.proxy.URL, RedirectURI: "http://localhost:54212/callback", ID: id}
	checkConsentNames(t, client, "claude.ai", published{name: "Claude Code"})
	tok := client.Exchange(t, client.Code(t, "demo_user", "demo_password"))
	site.refreshAndCall(t, client, tok)

	pin(`"http://127.0.0.1/callback"`)
	e2e.Eventually(t, func() bool {
		page, err := person.New("demo_user", "demo_password").Open(client.AuthorizationURL("s"))
		return err == nil && page.StatusCode == http.StatusBadRequest && strings.Contains(page.Body, "redirect")
	})
	client.RedirectURI = "http://127.0.0.1:54213/callback"
	client.Exchange(t, client.Code(t, "demo_user", "demo_password"))
}

// Where documents are turned off, the metadata does not offer them, and clients that have
// one register instead.
func TestClientWithADocumentRegistersWhereDocumentsAreOff(t *testing.T) {
	for _, ts := range typeScripts[:2] {
		t.Run(ts.name, func(t *testing.T) {
			host := clientdoc.NewTLSHost(t)
			site := startSite(t, e2e.Trusts(host), "SIGNET_CLIENT_DOCUMENTS=off")
			c := ts.connectAs(t, site, documentWithoutKey(t, site, host))
			site.proxy.Spoil()
			c.echo("after a refresh")
			checkOneLogin(t, site.proxy, 1)
			client := &e2e.Client{Issuer: site.proxy.URL, RedirectURI: e2e.RedirectURI, ID: host.URL + "/client.json"}
			page, err := person.New("demo_user", "demo_password").Open(client.AuthorizationURL("s"))
			if err != nil || page.StatusCode != http.StatusBadRequest || !strings.Contains(page.Body, "turned off") {
				t.Errorf("a client that sends its URL all the same: %v, %v", page, err)
			}
			if n := host.Fetched("/client.json"); n != 0 {
				t.Errorf("the document was fetched %d times", n)
			}
		})
	}
}

// opencode has published one path and listened at another: a mismatch that no port
// excuses. The user reads the reason, and the browser is not redirected.
func TestRedirectThatTheDocumentDoesNotNameIsRefused(t *testing.T) {
	host := clientdoc.NewTLSHost(t)
	site := newSite(t, e2e.Trusts(host))
	for _, doc := range documents(host.Put(t, "/oauth/jwks.json", clientdoc.Set(t, clientdoc.NewKeyFor(t, "RS256", "")))) {
		id := e2e.PublishClient(t, host, doc.path, doc.members)
		u, err := url.Parse(doc.redirect)
		if err != nil {
			t.Fatal(err)
		}
		for _, redirect := range []string{
			u.Scheme + "://" + u.Host + "/mcp/oauth/callback", u.Scheme + "://" + u.Host + u.Path + "?x=1", u.Scheme + "://" + u.Host + ".attacker.example" + u.Path, "https://attacker.example/callback",
		} {
			client := &e2e.Client{Issuer: site.proxy.URL, RedirectURI: redirect, ID: id}
			page, err := person.New("demo_user", "demo_password").Open(client.AuthorizationURL("s"))
			if err != nil || page.StatusCode != http.StatusBadRequest || !strings.Contains(page.Body, "redirect") {
				t.Errorf("%s with the redirect URI %s: %v, %v; want a page that says so", doc.name, redirect, page, err)
			}
		}
	}
}

// Codex asks for all scopes that the metadata lists, names no resource, and listens on a
// port that changes with each login, at a path that is made from the server's URL.
func TestCodexSignsInRefreshesAndCalls(t *testing.T) {
	host := clientdoc.NewTLSHost(t)
	site := newSite(t, e2e.Trusts(host))
	metadata, _ := e2e.GetJSON(t, site.proxy.URL+"/.well-known/oauth-authorization-server")
	if !slices.Contains(texts(metadata["token_endpoint_auth_methods_supported"]), "none") || metadata["client_id_metadata_document_supported"] != true {
		t.Errorf("Codex would not send the URL of its document: %v", metadata)
	}
	const registered, sent = "http://127.0.0.1:40001/callback/9b1c", "http://127.0.0.1:%s/callback/9b1c"
	for name, id := range map[string]string{
		"registered":      register(t, site, map[string]any{"client_name": "Codex", "redirect_uris": []string{registered}, "token_endpoint_auth_method": "none"}).ID,
		"with a document": e2e.PublishClient(t, host, "/codex.json", map[string]any{"client_name": "Codex", "redirect_uris": []string{registered}, "token_endpoint_auth_method": "none"}),
	} {
		t.Run(name, func(t *testing.T) {
			for _, port := range []string{"40002", "40003"} {
				client := &e2e.Client{Issuer: site.proxy.URL, RedirectURI: strings.Replace(sent, "%s", port, 1), ID: id}
				scope := texts(metadata["scopes_supported"])
				back := e2e.SignIn(t, changed(t, client.AuthorizationURL("s"), func(q url.Values) {
					q.Set("scope", strings.Join(scope, " "))
					q.Del("resource")
				}), "demo_user", "demo_password")
				tok := client.Exchange(t, back.Query().Get("code"))
				if granted := strings.Fields(tok.Scope); !slices.Contains(granted, "read") || slices.ContainsFunc(granted, func(s string) bool { return !slices.Contains(scope, s) }) {
					t.Errorf("the scope %q was granted of %v", tok.Scope, scope)
				}
				if back.Port() != port {
					t.Errorf("the browser was sent to port %s, want %s", back.Port(), port)
				}
				site.refreshAndCall(t, client, tok)
			}
		})
	}
}

// Copilot Studio knows registration only, asks for no scope, and takes no secret if it
// has registered none.
func TestCopilotStudioSignsInRefreshesAndCalls(t *testing.T) {
	site := newSite(t)
	const redirect = "https://global.consent.azure-apim.net/redirect/signet-5f1c"
	for _, method := range []string{"client_secret_post", "none"} {
		t.Run(method, func(t *testing.T) {
			client := register(t, site, map[string]any{"client_name": "Copilot Studio", "redirect_uris": []string{redirect}, "token_endpoint_auth_method": method,
				"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"}})
			if (client.Secret == "") != (method == "none") {
				t.Errorf("the registration for %s has the secret %q", method, client.Secret)
			}
			back := e2e.SignIn(t, changed(t, client.AuthorizationURL("s"), func(q url.Values) {
				q.Del("scope")
				q.Del("resource")
			}), "demo_user", "demo_password")
			tok := client.Exchange(t, back.Query().Get("code"))
			if tok.Scope != "read" {
				t.Errorf("the scope is %q, want the default", tok.Scope)
			}
			site.refreshAndCall(t, client, tok)
		})
	}
}

// VS Code registers two web pages and two loopback addresses, and listens on any port if
// its own is taken. It goes on only if the resource is its URL, letter for letter.
func TestVSCodeSignsInRefreshesAndCallsFromAnotherPort(t *testing.T) {
	site := newSite(t)
	resource, _ := e2e.GetJSON(t, site.proxy.URL+"/.well-known/oauth-protected-resource/mcp")
	if resource["resource"] != site.endpoint {
		t.Errorf("the resource is %v, want %s", resource["resource"], site.endpoint)
	}
	client := register(t, site, map[string]any{"client_name": "Visual Studio Code", "client_uri": "https://code.visualstudio.com", "application_type": "native", "token_endpoint_auth_method": "none",
		"grant_types": []string{"authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"}, "response_types": []string{"code"},
		"redirect_uris": []string{"https://insiders.vscode.dev/redirect", "https://vscode.dev/redirect", "http://127.0.0.1/", "http://127.0.0.1:33418/"}})
	for _, redirect := range []string{"http://127.0.0.1:33418/", "http://127.0.0.1:57011/", "https://vscode.dev/redirect"} {
		client.RedirectURI = redirect
		site.refreshAndCall(t, client, client.Exchange(t, client.Code(t, "demo_user", "demo_password")))
	}
}

// register registers a client at a site with the metadata that it sends.
func register(t *testing.T, site *site, metadata map[string]any) *e2e.Client {
	t.Helper()
	body, err := json.Marshal(metadata)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(site.proxy.URL+"/register", "application/json", strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	client := &e2e.Client{Issuer: site.proxy.URL}
	if err := json.NewDecoder(resp.Body).Decode(client); err != nil || resp.StatusCode != http.StatusCreated || client.ID == "" {
		t.Fatalf("registration of %s: %d, %v", body, resp.StatusCode, err)
	}
	client.RedirectURI = metadata["redirect_uris"].([]string)[0]
	return client
}

// changed is an authorization request with other parameters.
func changed(t *testing.T, link string, change func(url.Values)) string {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	change(q)
	u.RawQuery = q.Encode()
	return u.String()
}

// texts is a list of strings in JSON.
func texts(v any) (list []string) {
	all, _ := v.([]any)
	for _, v := range all {
		if s, ok := v.(string); ok {
			list = append(list, s)
		}
	}
	return list
}
