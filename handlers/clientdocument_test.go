package handlers_test

import (
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"signet/handlers"
	"signet/internal/admission"
	"signet/internal/clients"
	"signet/internal/denylist"
	"signet/internal/fetch"
	"signet/internal/seal"
	"signet/internal/test/authtest"
	"signet/internal/test/clientdoc"
)

// fetching makes the server fetch documents from loopback ports.
func fetching(c *authtest.Config) { c.Fetcher = fetch.New(fetch.Options{Loopback: true}) }

const appRedirect = "https://app.test/cb"

func documentClient(t testing.TB, h *clientdoc.Host, path string, more map[string]any) authtest.Client {
	t.Helper()
	return authtest.Client{ID: h.Client(t, path, more), RedirectURI: appRedirect}
}

func TestClientOfADocumentLogsInAndRefreshes(t *testing.T) {
	h := clientdoc.NewHost(t)
	s := authtest.New(t, fetching)
	c := documentClient(t, h, "/m.json", map[string]any{"client_name": "Claimed <b>name</b>"})
	page := s.NewBrowser().SignIn(t, "alice", c)
	host := strings.TrimPrefix(h.URL, "http://")
	for _, want := range []string{"Claimed &lt;b&gt;name&lt;/b&gt;", "unverified", "Application from", host, "It is certain only that its description comes from", "app.test"} {
		if !strings.Contains(page.Body, want) {
			t.Errorf("the page does not show %s: %s", want, text(page))
		}
	}
	tok := s.Tokens(t, "alice", c)
	if claims, err := s.Verifier.Verify(t.Context(), tok.Access); err != nil || claims.ClientID != c.ID {
		t.Errorf("%v, %v", claims, err)
	}
	tok = s.Refresh(t, c, tok.Refresh).Tokens(t)
	// As go-sdk does: Basic with the encoded URL and no secret, no client_id in the body.
	r := request("POST", authtest.Issuer+"/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tok.Refresh}}.Encode(), "Content-Type", formType,
		"Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(c.ID)+":")))
	s.Do(t, r).Tokens(t)
	if n := h.Fetched("/m.json"); n != 1 {
		t.Errorf("%d fetches, want 1", n)
	}
	if m := s.Get(t, "/.well-known/oauth-authorization-server").JSON(t); m["client_id_metadata_document_supported"] != true {
		t.Error("the metadata does not say that documents are fetched")
	}
}

// All installations of a program share the URL, so the bound of grants to one client would be one
// of a user's machines.
func TestGrantsOfASharedIDAreNotThoseOfOneClient(t *testing.T) {
	h := clientdoc.NewHost(t)
	s := authtest.New(t, fetching)
	for want, c := range map[int]authtest.Client{denylist.MaxOfClient + 1: documentClient(t, h, "/m.json", nil), denylist.MaxOfClient: s.PRE} {
		b := s.NewBrowser()
		code := b.Code(t, "alice", c)
		for range denylist.MaxOfClient {
			s.Redeem(t, c, code).Tokens(t)
			code = b.Get(t, s.AuthorizeURL(c)).Sent().Get("code")
		}
		s.Redeem(t, c, code).Tokens(t)
		if err := s.Denylist.Trim(t.Context()); err != nil {
			t.Fatal(err)
		}
		all, err := s.Denylist.All(t.Context(), "alice", "", 1000, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		all = slices.DeleteFunc(all, func(g denylist.Grant) bool { return g.ClientHash != seal.ClientHash(c.ID) })
		if len(all) != want {
			t.Errorf("%s: %d grants, want %d", c.ID, len(all), want)
		}
	}
}

func TestDocumentThatCannotBeUsedIsAnErrorPage_I05(t *testing.T) {
	h := clientdoc.NewHost(t)
	s := authtest.New(t, fetching)
	missing := authtest.Client{ID: h.URL + "/missing.json", RedirectURI: appRedirect}
	for name, c := range map[string]authtest.Client{
		"not there": missing, "wrong": documentClient(t, h, "/wrong.json", map[string]any{"client_id": "x"}), "never fetched": {ID: "https://10.0.0.1/m.json", RedirectURI: appRedirect},
		"with a fragment": {ID: h.URL + "/m.json#x", RedirectURI: appRedirect},
	} {
		page := s.NewBrowser().Get(t, s.AuthorizeURL(c))
		wantPage(t, page, 400)
		if !strings.Contains(text(page), "description of the application at "+c.ID) {
			t.Errorf("%s: the page does not say why: %s", name, text(page))
		}
		wantError(t, s.Refresh(t, c, "x"), 401, "invalid_client")
	}
	other := documentClient(t, h, "/m.json", nil)
	other.RedirectURI = "https://evil.test/cb"
	wantPage(t, s.NewBrowser().Get(t, s.AuthorizeURL(other)), 400)
	other.RedirectURI = appRedirect
	if r := s.NewBrowser().Get(t, s.AuthorizeURL(other, set("response_type", "token"))); r.Header.Get("Location") != "" || r.StatusCode != 400 {
		t.Errorf("an error before the login is redirected to a client that anybody can name: %d %s", r.StatusCode, r.Header.Get("Location"))
	}
}

func TestOutageOfTheHostSpendsNothing(t *testing.T) {
	h := clientdoc.NewHost(t)
	s := authtest.New(t, fetching)
	c := documentClient(t, h, "/m.json", nil)
	code, tok := s.Code(t, "alice", c), s.Tokens(t, "alice", c)
	h.Down(true)
	wantError(t, s.Introspect(t, s.CONF, tok.Access), 200, "")
	s.Refresh(t, c, tok.Refresh).Tokens(t) // the document is at hand
	s.Restart(t)
	page := s.NewBrowser().Get(t, s.AuthorizeURL(c))
	wantBusy(t, page)
	if !strings.Contains(text(page), c.ID+" cannot be fetched now") {
		t.Errorf("the page does not say what is missing: %s", text(page))
	}
	r := s.Redeem(t, c, code)
	wantBusy(t, r)
	if !strings.Contains(r.JSON(t)["error_description"].(string), c.ID+" cannot be fetched now") {
		t.Errorf("the answer does not say what is missing: %s", r.Body)
	}
	h.Down(false)
	s.Restart(t)
	s.Redeem(t, c, code).Tokens(t)
}

func TestChangedDocumentForgetsTheConsent_I08(t *testing.T) {
	h := clientdoc.NewHost(t)
	s := authtest.New(t, fetching)
	c := documentClient(t, h, "/m.json", nil)
	b := s.NewBrowser()
	tok := s.Redeem(t, c, b.Code(t, "alice", c)).Tokens(t)
	asks := func() bool {
		t.Helper()
		r := b.Get(t, s.AuthorizeURL(c))
		if r.Sent().Get("code") == "" && !strings.Contains(r.Body, `value="approve"`) {
			t.Fatalf("neither code nor consent page: %d %s", r.StatusCode, text(r))
		}
		return r.Sent().Get("code") == ""
	}
	if asks() {
		t.Error("the same again asks again")
	}
	documentClient(t, h, "/m.json", map[string]any{"client_name": "Another name"})
	s.Restart(t)
	if asks() {
		t.Error("another name asks again")
	}
	for name, more := range map[string]map[string]any{
		"a further redirect URI": {"redirect_uris": []string{appRedirect, "https://other.test/cb"}}, "keys": {"jwks": clientdoc.Set(t, clientdoc.NewKey(t, "a"))},
	} {
		documentClient(t, h, "/m.json", more)
		s.Restart(t)
		if !asks() {
			t.Errorf("%s: the earlier consent counts", name)
		}
	}
	page := b.Get(t, s.AuthorizeURL(c))
	documentClient(t, h, "/m.json", map[string]any{"redirect_uris": []string{"https://other.test/cb"}})
	s.Restart(t)
	wantPage(t, b.Submit(t, page, set("decision", "approve")), 400)
	wantPage(t, b.Get(t, s.AuthorizeURL(c)), 400)
	s.Refresh(t, c, tok.Refresh).Tokens(t)
}

func TestClientWithKeysAuthenticatesAtEveryEndpoint_D14(t *testing.T) {
	h := clientdoc.NewHost(t)
	s := authtest.New(t, fetching)
	key := clientdoc.NewKey(t, "a")
	c := documentClient(t, h, "/m.json", map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks": clientdoc.Set(t, key)})
	assertion := func(k *clientdoc.Key) edit {
		return set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "client_assertion", k.Assertion(t, c.ID, authtest.Issuer, nil))
	}
	post := func(path string, form url.Values, edits ...edit) *authtest.Response {
		t.Helper()
		for _, e := range edits {
			e(form)
		}
		return s.Do(t, request("POST", authtest.Issuer+path, form.Encode(), "Content-Type", formType))
	}
	code := s.Code(t, "alice", c)
	wantError(t, s.Redeem(t, c, code), 401, "invalid_client")
	wantError(t, s.Redeem(t, c, code, assertion(clientdoc.NewKey(t, "a"))), 401, "invalid_client")
	once := assertion(key)
	tok := s.Redeem(t, c, code, once).Tokens(t) // the refusals have not spent the code
	refresh := func(edits ...edit) *authtest.Response {
		return post("/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tok.Refresh}}, edits...)
	}
	wantError(t, refresh(once), 401, "invalid_client")
	tok = refresh(assertion(key)).Tokens(t) // without client_id: the assertion names the client
	if r := post("/introspect", url.Values{"token": {tok.Access}}, assertion(key)); r.JSON(t)["active"] != true {
		t.Errorf("introspection: %s", r.Body)
	}
	if r := post("/revoke", url.Values{"token": {tok.Refresh}}, assertion(key)); r.StatusCode != 200 {
		t.Errorf("revocation: %s", r.Body)
	}
	wantError(t, refresh(assertion(key)), 400, "invalid_grant")
}

func TestBlockedClientOfADocumentIsNotFetched(t *testing.T) {
	h := clientdoc.NewHost(t)
	s := authtest.New(t, fetching)
	c := documentClient(t, h, "/m.json", nil)
	if err := s.Denylist.Block(t.Context(), denylist.BlockedClient{Hash: seal.ClientHash(c.ID), ID: c.ID, At: time.Now()}); err != nil {
		t.Fatal(err)
	}
	wantPage(t, s.NewBrowser().Get(t, s.AuthorizeURL(c)), 400)
	wantError(t, s.Refresh(t, c, "x"), 401, "invalid_client")
	if n := h.Fetched("/m.json"); n != 0 {
		t.Errorf("%d fetches", n)
	}
}

// What strangers make the server fetch is limited by address, and what is at hand does not
// count.
func TestFetchesAreLimitedByAddress_I07(t *testing.T) {
	h := clientdoc.NewHost(t)
	s := authtest.New(t, fetching, func(c *authtest.Config) { c.Limits.Documents = 2 })
	known := documentClient(t, h, "/known.json", nil)
	b := s.NewBrowser()
	wantLogin(t, b.Get(t, s.AuthorizeURL(known)))
	wantPage(t, b.Get(t, s.AuthorizeURL(authtest.Client{ID: h.URL + "/1.json", RedirectURI: appRedirect})), 400)
	wantPage(t, b.Get(t, s.AuthorizeURL(authtest.Client{ID: h.URL + "/2.json", RedirectURI: appRedirect})), 429)
	wantError(t, s.Refresh(t, authtest.Client{ID: h.URL + "/2.json"}, "x"), 429, "temporarily_unavailable")
	wantLogin(t, b.Get(t, s.AuthorizeURL(known)))
	s.Tokens(t, "alice", known)
	if h.Fetched("/2.json") != 0 {
		t.Error("fetched over the limit")
	}
}

// Requests that wait for a document use slots of their own.
func TestRequestsThatWaitForADocumentTakeNoSlotOfOthers(t *testing.T) {
	h := clientdoc.NewHost(t)
	classes := admission.New()
	classes.Documents = admission.NewClass("documents", 1)
	s := authtest.New(t, fetching, func(c *authtest.Config) {
		c.Change = func(o *handlers.Options) { o.Admission = classes }
	})
	slot, err := classes.Documents.Enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := documentClient(t, h, "/m.json", nil)
	wantBusy(t, s.NewBrowser().Get(t, s.AuthorizeURL(c)))
	wantBusy(t, s.Refresh(t, c, "x"))
	wantLogin(t, s.NewBrowser().Get(t, s.AuthorizeURL(s.PUB)))
	slot.Leave()
	wantLogin(t, s.NewBrowser().Get(t, s.AuthorizeURL(c)))
}

// What a later step of a login needs is fetched in those slots as well, and so are the keys of a
// client that signs: on a replica, or after a restart, nothing is at hand.
func TestLaterStepsWaitForADocumentInNoSlotOfOthers(t *testing.T) {
	h := clientdoc.NewHost(t)
	classes := admission.New()
	classes.Documents = admission.NewClass("documents", 1)
	s := authtest.New(t, fetching, func(c *authtest.Config) {
		c.Change = func(o *handlers.Options) { o.Admission = classes }
	})
	key := clientdoc.NewKey(t, "a")
	c := documentClient(t, h, "/m.json", map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": h.Put(t, "/jwks", clientdoc.Set(t, key)),
		"post_logout_redirect_uris": []string{"https://app.test/bye"}})
	sign := set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "client_assertion", key.Assertion(t, c.ID, authtest.Issuer, nil))
	b, other := s.NewBrowser(), s.NewBrowser()
	login := other.Get(t, s.AuthorizeURL(c))
	consent := b.SignIn(t, "alice", c)
	code := s.Code(t, "alice", c)
	const logout = "/logout?post_logout_redirect_uri=https%3A%2F%2Fapp.test%2Fbye&client_id="

	s.Restart(t)
	slot, err := classes.Documents.Enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*authtest.Response{
		"login page": other.Get(t, login.At.String()), "login": other.Submit(t, login, aliceLogin),
		"consent page": b.Get(t, consent.At.String()), "consent": b.Submit(t, consent, set("decision", "approve")),
	} {
		t.Run(name, func(t *testing.T) { wantBusy(t, r) })
	}
	if r := b.Get(t, logout+url.QueryEscape(c.ID)); r.StatusCode != 200 {
		t.Errorf("logout: %d", r.StatusCode)
	}
	slot.Leave()

	// Each of them has fetched what it needs when there is a slot.
	wantLogin(t, other.Get(t, login.At.String()))
	s.Restart(t)
	if r := other.Submit(t, login, aliceLogin); !strings.Contains(r.Body, `value="approve"`) {
		t.Errorf("login: %d %s", r.StatusCode, text(r))
	}
	s.Restart(t)
	if r := b.Get(t, consent.At.String()); !strings.Contains(r.Body, `value="approve"`) {
		t.Errorf("consent page: %d %s", r.StatusCode, text(r))
	}
	s.Restart(t)
	if b.Submit(t, consent, set("decision", "approve")).Sent().Get("code") == "" {
		t.Error("the consent gave no code")
	}
	if h.Fetched("/jwks") != 0 {
		t.Error("keys were fetched before there was an assertion")
	}
	if slot, err = classes.Documents.Enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantBusy(t, s.Redeem(t, c, code, sign))
	slot.Leave()
	s.Redeem(t, c, code, sign).Tokens(t)
}

// A logout has its way back also if no request before it has fetched the document of the client, and
// happens without one if the document cannot be had.
func TestLogoutFetchesTheDocument(t *testing.T) {
	const bye = "https://app.test/bye"
	h := clientdoc.NewHost(t)
	s := authtest.New(t, fetching, func(c *authtest.Config) { c.Limits.Documents = 1000 })
	c := documentClient(t, h, "/m.json", map[string]any{"post_logout_redirect_uris": []string{bye}})
	hint := idToken(t, s.Redeem(t, c, s.Code(t, "alice", c, set("scope", "openid"))))
	byID, byHint := url.Values{"post_logout_redirect_uri": {bye}, "client_id": {c.ID}}, url.Values{"post_logout_redirect_uri": {bye}, "id_token_hint": {hint}}
	for name, request := range map[string]url.Values{"client_id": byID, "id_token_hint": byHint} {
		s.Restart(t)
		page := s.NewBrowser().Get(t, "/logout?"+request.Encode())
		if wantPage(t, page, 200); !strings.Contains(page.Body, "app.test") {
			t.Errorf("%s: no way back: %s", name, text(page))
		}
		s.Restart(t)
		if r := s.NewBrowser().Submit(t, page); r.StatusCode != 303 || r.Header.Get("Location") != bye {
			t.Errorf("%s: %d to %q", name, r.StatusCode, r.Header.Get("Location"))
		}
	}
	for name, request := range map[string]url.Values{
		"no document":         edit1(byID, set("client_id", h.URL+"/missing.json")),
		"never fetched":       edit1(byID, set("client_id", "https://10.0.0.1/m.json")),
		"wrong document":      edit1(byID, set("client_id", documentClient(t, h, "/wrong.json", map[string]any{"client_id": "x"}).ID)),
		"the host is down":    byID,
		"down, named by hint": byHint,
	} {
		s.Restart(t)
		h.Down(strings.Contains(name, "down"))
		b := s.NewBrowser()
		b.Code(t, "alice", s.PUB)
		page := b.Get(t, "/logout?"+request.Encode())
		if wantPage(t, page, 200); !strings.Contains(page.Body, "alice") || strings.Contains(page.Body, "app.test") {
			t.Errorf("%s: %s", name, text(page))
		}
		wantPage(t, b.Post(t, "/logout", request), 200)
		wantLogin(t, b.Get(t, s.AuthorizeURL(s.PUB)))
	}
	h.Down(false)
	// Without a way back to look up, nothing is fetched.
	s.Restart(t)
	before := h.Fetched("/m.json")
	s.NewBrowser().Get(t, "/logout?"+edit1(byID, del("post_logout_redirect_uri")).Encode())
	s.NewBrowser().Get(t, "/logout?"+edit1(byHint, set("client_id", s.PUB.ID)).Encode())
	if n := h.Fetched("/m.json"); n != before {
		t.Errorf("%d fetches for requests that lead nowhere", n-before)
	}
}

// Over the limit of fetches by address, a logout fetches nothing, and happens.
func TestFetchesOfLogoutsAreLimitedByAddress_I07(t *testing.T) {
	h := clientdoc.NewHost(t)
	s := authtest.New(t, fetching, func(c *authtest.Config) { c.Limits.Documents = 2 })
	for _, path := range []string{"/1.json", "/2.json", "/3.json"} {
		page := s.NewBrowser().Get(t, "/logout?post_logout_redirect_uri=https%3A%2F%2Fapp.test%2Fbye&client_id="+url.QueryEscape(h.URL+path))
		wantPage(t, page, 200)
	}
	if h.Fetched("/3.json") != 0 || h.Fetched("/1.json") != 1 {
		t.Errorf("fetched %d and %d times", h.Fetched("/1.json"), h.Fetched("/3.json"))
	}
}

// A resource server learns about a token while the host of the client's document is down.
func TestIntrospectionNeedsNoDocument(t *testing.T) {
	h := clientdoc.NewHost(t)
	s := authtest.New(t, fetching)
	c := documentClient(t, h, "/m.json", nil)
	api := s.Configure(t, clients.Spec{ID: "api", Resource: authtest.ResourceA})
	tok := s.Tokens(t, "alice", c)
	h.Down(true)
	s.Restart(t)
	if r := s.Introspect(t, api, tok.Access); r.JSON(t)["active"] != true || r.JSON(t)["client_id"] != c.ID {
		t.Errorf("%d %s", r.StatusCode, r.Body)
	}
	if n := h.Fetched("/m.json"); n != 1 {
		t.Errorf("%d fetches, want 1", n)
	}
}

// A document's id stands for all installations of a program: the limit by client does not
// count them together.
func TestLimitByClientDoesNotCountADocument(t *testing.T) {
	h := clientdoc.NewHost(t)
	s := authtest.New(t, fetching, func(c *authtest.Config) { c.Limits.TokensClient = 2 })
	for _, tt := range []struct {
		c    authtest.Client
		last int
	}{{documentClient(t, h, "/m.json", nil), 200}, {s.PRE, 429}} {
		tok := s.Tokens(t, "alice", tt.c)
		tok = s.Refresh(t, tt.c, tok.Refresh).Tokens(t)
		if r := s.Refresh(t, tt.c, tok.Refresh); r.StatusCode != tt.last {
			t.Errorf("the third token request of %s: %d, want %d", tt.c.ID, r.StatusCode, tt.last)
		}
	}
}

// A client that always proves a key keeps its handle: nothing is written, so simultaneous and
// lost answers do no harm. What ends a grant ends it as ever.
func TestClientThatAlwaysProvesAKeyKeepsItsHandle_E01(t *testing.T) {
	h := clientdoc.NewHost(t)
	s := authtest.New(t, fetching, several)
	key := clientdoc.NewKey(t, "a")
	sign := func(id string) edit {
		return set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "client_assertion", key.Assertion(t, id, authtest.Issuer, nil))
	}
	only := documentClient(t, h, "/only.json", map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks": clientdoc.Set(t, key)})
	both := documentClient(t, h, "/both.json", map[string]any{"token_endpoint_auth_methods_supported": []string{"none", "private_key_jwt"}, "jwks": clientdoc.Set(t, key)})
	login := func(c authtest.Client) authtest.Tokens {
		t.Helper()
		return s.Redeem(t, c, s.Code(t, "alice", c, set("scope", "mcp:read mcp:write")), sign(c.ID)).Tokens(t)
	}
	tok, rotated := login(only), login(both)
	for range 3 {
		if next := s.Refresh(t, only, tok.Refresh, sign(only.ID)).Tokens(t); next.Refresh != tok.Refresh || next.Access == tok.Access {
			t.Error("the handle changed, or the access token did not")
		}
	}
	for _, r := range parallel(20, func() *authtest.Response { return s.Refresh(t, only, tok.Refresh, sign(only.ID)) }) {
		if got := r.Tokens(t); got.Refresh != tok.Refresh {
			t.Error("the handle changed")
		}
	}
	if got := s.Generation(t, tok.Refresh); !strings.HasSuffix(got, " 1") {
		t.Errorf("generation %s", got)
	}
	wantError(t, s.Refresh(t, only, tok.Refresh), 401, "invalid_client")
	if next := s.Refresh(t, both, rotated.Refresh, sign(both.ID)).Tokens(t); next.Refresh == rotated.Refresh {
		t.Error("a client that may also send nothing keeps its handle")
	}

	// A scope that is lost is lost with the old handle.
	s.Users.Change("alice", func(a *authtest.Account) bool { a.Scopes = []string{"mcp:read"}; return true })
	next := s.Refresh(t, only, tok.Refresh, sign(only.ID)).Tokens(t)
	if next.Refresh == tok.Refresh || next.Scope != "mcp:read" {
		t.Errorf("after a scope was lost: %+v", next)
	}
	s.Users.Change("alice", func(a *authtest.Account) bool { a.Scopes = []string{"mcp:read", "mcp:write"}; return true })
	if got := s.Refresh(t, only, next.Refresh, sign(only.ID)).Tokens(t); got.Scope != "mcp:read" || got.Refresh != next.Refresh {
		t.Errorf("the scope came back: %+v", got)
	}

	if r := s.Revoke(t, only, next.Refresh); r.StatusCode != 401 { // without an assertion
		t.Errorf("revocation without the key: %d", r.StatusCode)
	}
	form := url.Values{"token": {next.Refresh}}
	sign(only.ID)(form)
	if r := s.Do(t, request("POST", authtest.Issuer+"/revoke", form.Encode(), "Content-Type", formType)); r.StatusCode != 200 {
		t.Fatalf("revocation: %s", r.Body)
	}
	wantError(t, s.Refresh(t, only, next.Refresh, sign(only.ID)), 400, "invalid_grant")

	// Without the store there is no verdict.
	again := login(only)
	s.StopStore(t)
	wantBusy(t, s.Refresh(t, only, again.Refresh, sign(only.ID)))
	s.Reopen(t)
	s.Refresh(t, only, again.Refresh, sign(only.ID)).Tokens(t)
}

// A refresh with rotation, which writes, beside one of a client that proves a key, which
// verifies an assertion and its single use instead.
func BenchmarkRefresh(b *testing.B) {
	h := clientdoc.NewHost(b)
	s := authtest.New(b, fetching)
	key := clientdoc.NewKey(b, "a")
	only := documentClient(b, h, "/only.json", map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks": clientdoc.Set(b, key)})
	sign := func() edit {
		return set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "client_assertion", key.Assertion(b, only.ID, authtest.Issuer, nil))
	}
	b.Run("rotation", func(b *testing.B) {
		tok := s.Tokens(b, "alice", s.PUB)
		for b.Loop() {
			tok = s.Refresh(b, s.PUB, tok.Refresh).Tokens(b)
		}
	})
	b.Run("key", func(b *testing.B) {
		tok := s.Redeem(b, only, s.Code(b, "alice", only), sign()).Tokens(b)
		for b.Loop() {
			s.Refresh(b, only, tok.Refresh, sign()).Tokens(b)
		}
	})
	b.Run("assertion alone", func(b *testing.B) {
		for b.Loop() {
			sign()
		}
	})
}
