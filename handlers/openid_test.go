package handlers_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"

	"signet/internal/test/authtest"
	"signet/jwt"
)

// inProcess lets HTTP clients of other libraries talk to the server.
type inProcess struct{ http.Handler }

func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w.Result(), nil
}

// idToken returns the id token of a token response, "" if there is none.
func idToken(t *testing.T, r *authtest.Response) string {
	t.Helper()
	raw, _ := r.JSON(t)["id_token"].(string)
	return raw
}

// A client of another library finds everything by discovery, and accepts the id
// token with its nonce and the hash of the access token.
func TestIDTokenByDiscovery(t *testing.T) {
	s := authtest.New(t)
	ctx := oidc.ClientContext(context.Background(), &http.Client{Transport: inProcess{s}})
	provider, err := oidc.NewProvider(ctx, authtest.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []authtest.Client{s.PUB, s.CONF} {
		begin := time.Now().Unix()
		r := s.Redeem(t, c, s.Code(t, "alice", c, set("scope", "openid mcp:read", "nonce", "n-0S6_WzA2Mj")))
		tok := r.Tokens(t)
		id, err := provider.Verifier(&oidc.Config{ClientID: c.ID}).Verify(ctx, idToken(t, r))
		if err != nil {
			t.Fatal(err)
		}
		if id.Subject != "alice" || id.Nonce != "n-0S6_WzA2Mj" || id.Issuer != authtest.Issuer || len(id.Audience) != 1 {
			t.Errorf("id token %+v", id)
		}
		if err := id.VerifyAccessToken(tok.Access); err != nil {
			t.Errorf("at_hash: %v", err)
		}
		var claims map[string]any
		if err := id.Claims(&claims); err != nil {
			t.Fatal(err)
		}
		if at, _ := claims["auth_time"].(float64); int64(at) < begin {
			t.Errorf("auth_time %v, want %d or later", claims["auth_time"], begin)
		}
		for _, name := range []string{"email", "name", "scope", "gid", "jti"} {
			if claims[name] != nil {
				t.Errorf("the id token has %s", name)
			}
		}
		info, err := provider.UserInfo(ctx, oauth2.StaticTokenSource(&oauth2.Token{AccessToken: tok.Access, TokenType: "Bearer"}))
		if err != nil || info.Subject != id.Subject {
			t.Errorf("userinfo: %+v, %v", info, err)
		}
		if _, err := s.Verifier.Verify(ctx, idToken(t, r)); err == nil {
			t.Error("the id token passes for an access token")
		}
	}
}

// The scopes profile and email add what the source of users knows, to the id token and at
// userinfo alike, and nothing that a token cannot have.
func TestProfileAndEmailAddClaims_Row19(t *testing.T) {
	s := authtest.New(t)
	change := func(name, email, picture string, updated int64) {
		s.Users.Change("bob", func(a *authtest.Account) bool {
			a.DisplayName, a.Email, a.Picture, a.Updated = name, email, picture, updated
			return true
		})
	}
	const picture = "https://corp.example/bob.png?size=96"
	change("Bob B.", "bob@example.com", picture, 1_750_000_000)
	for scope, want := range map[string]jwt.IDClaims{
		"openid":               {},
		"openid email":         {Email: "bob@example.com"},
		"openid profile":       {Name: "Bob B.", PreferredUsername: "bob", Picture: picture, UpdatedAt: 1_750_000_000},
		"openid profile email": {Name: "Bob B.", PreferredUsername: "bob", Picture: picture, UpdatedAt: 1_750_000_000, Email: "bob@example.com"},
	} {
		first := s.Redeem(t, s.PUB, s.Code(t, "bob", s.PUB, set("scope", scope)))
		again := s.Refresh(t, s.PUB, first.Tokens(t).Refresh)
		for _, r := range []*authtest.Response{first, again} {
			got := payload(t, idToken(t, r))
			if got := (jwt.IDClaims{Name: got.Name, PreferredUsername: got.PreferredUsername, Picture: got.Picture, UpdatedAt: got.UpdatedAt, Email: got.Email}); got != want {
				t.Errorf("%s: id token %+v, want %+v", scope, got, want)
			}
		}
		info := userinfo(t, s, "GET", "Authorization", "Bearer "+again.Tokens(t).Access).JSON(t)
		if got, _ := info["updated_at"].(float64); int64(got) != want.UpdatedAt {
			t.Errorf("%s: userinfo says updated_at %v", scope, info["updated_at"])
		}
		if got, _ := info["picture"].(string); got != want.Picture {
			t.Errorf("%s: userinfo says picture %q, want %q", scope, got, want.Picture)
		}
	}
	for _, unfit := range []string{"javascript:alert(1)", "http://corp.example/bob.png", "https://", "https://u:p@corp.example/", "bob.png", picture + "\xff", picture + strings.Repeat("x", 1024)} {
		change("Bob B.", "", unfit, 0)
		tokens := s.Redeem(t, s.PUB, s.Code(t, "bob", s.PUB, set("scope", "openid profile")))
		if got := payload(t, idToken(t, tokens)); got.Picture != "" || got.Name != "Bob B." {
			t.Errorf("picture %q: the id token has %q", unfit, got.Picture)
		}
		if got := userinfo(t, s, "GET", "Authorization", "Bearer "+tokens.Tokens(t).Access).JSON(t)["picture"]; got != nil {
			t.Errorf("picture %q: userinfo says %v", unfit, got)
		}
	}
	change(strings.Repeat("x", 20<<10), "bob\xff@example.com", "", 0) // of a program's own source of users
	got := payload(t, idToken(t, s.Redeem(t, s.PUB, s.Code(t, "bob", s.PUB, set("scope", "openid profile email")))))
	if got.Name != "" || got.Email != "" || got.UpdatedAt != 0 || got.PreferredUsername != "bob" {
		t.Errorf("%.200s", fmt.Sprintf("%+v", got))
	}
}

// Without the scope openid there is no id token, also where a refresh leaves it
// out; a refreshed one has no nonce and tells the first login.
func TestIDTokenFollowsScope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t)
		if r := s.Redeem(t, s.PUB, s.Code(t, "alice", s.PUB)); idToken(t, r) != "" {
			t.Errorf("id token without openid: %s", r.Body)
		}
		first := s.Redeem(t, s.PUB, s.Code(t, "alice", s.PUB, set("scope", "openid mcp:read", "nonce", "n")))
		time.Sleep(10 * time.Minute)
		narrow := s.Refresh(t, s.PUB, first.Tokens(t).Refresh, set("scope", "mcp:read"))
		if idToken(t, narrow) != "" {
			t.Errorf("id token for a request without openid: %s", narrow.Body)
		}
		again := s.Refresh(t, s.PUB, narrow.Tokens(t).Refresh)
		a, b := payload(t, idToken(t, first)), payload(t, idToken(t, again))
		if a.Nonce != "n" || b.Nonce != "" {
			t.Errorf("nonces %q and %q, want n and none", a.Nonce, b.Nonce)
		}
		if a.AuthTime != b.AuthTime || a.Subject != b.Subject || a.Audience != b.Audience || b.IssuedAt < a.IssuedAt+600 {
			t.Errorf("refreshed id token %+v, first %+v", b, a)
		}
		if b.AccessTokenHash != jwt.AccessTokenHash(again.Tokens(t).Access) {
			t.Error("at_hash is not of the access token beside it")
		}
	})
}

func payload(t *testing.T, raw string) (c jwt.IDClaims) {
	t.Helper()
	_, b, err := jwt.UnsafeClaims(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func userinfo(t *testing.T, s *authtest.Server, method string, header ...string) *authtest.Response {
	t.Helper()
	return s.Do(t, request(method, authtest.Issuer+"/userinfo", "", header...))
}

// Row 19: userinfo returns, by GET and POST, the claims that the source of users knows
// and the scopes allow, and nothing else.
func TestUserinfoTellsWhatTheScopeAllows_Row19(t *testing.T) {
	s := authtest.New(t)
	s.Users.Change("bob", func(a *authtest.Account) bool { a.DisplayName, a.Email = "Bob B.", "bob@example.com"; return true })
	for _, c := range []struct {
		user, scope string
		want        map[string]any
	}{
		{"alice", "mcp:read", map[string]any{"sub": "alice", "name": "alice", "preferred_username": "alice", "scope": "mcp:read"}},
		{"alice", "openid email", map[string]any{"sub": "alice", "name": "alice", "preferred_username": "alice", "email": "alice@example.com", "scope": "openid email"}},
		{"bob", "openid profile", map[string]any{"sub": "bob", "name": "Bob B.", "preferred_username": "bob", "scope": "openid profile"}},
		{"bob", "profile email", map[string]any{"sub": "bob", "name": "Bob B.", "preferred_username": "bob", "email": "bob@example.com", "scope": "profile email"}},
	} {
		tok := s.Tokens(t, c.user, s.PUB, set("scope", c.scope))
		for _, method := range []string{"GET", "POST"} {
			r := userinfo(t, s, method, "Authorization", "Bearer "+tok.Access)
			if r.StatusCode != 200 || r.Header.Get("Cache-Control") != "no-store" || r.Header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("%s: %d %v", method, r.StatusCode, r.Header)
			}
			if diff := cmp.Diff(c.want, r.JSON(t)); diff != "" {
				t.Errorf("%s %s with %s (-want +got):\n%s", method, c.user, c.scope, diff)
			}
		}
	}
}

// Row 19: a request without a good access token gets a challenge. If the source of
// users cannot tell, no client is made to throw its token away.
func TestUserinfoRefusesWithAChallenge_Row19(t *testing.T) {
	s := authtest.New(t, several)
	good := s.Redeem(t, s.PUB, s.Code(t, "alice", s.PUB, set("scope", "openid mcp:read", "resource", authtest.ResourceB)))
	tok := good.Tokens(t)
	if r := userinfo(t, s, "GET", "Authorization", "bearer "+tok.Access); r.StatusCode != 200 {
		t.Fatalf("a token for the other resource: %d %s", r.StatusCode, r.Body)
	}
	for name, c := range map[string]struct {
		header    string
		status    int
		challenge string
	}{
		"no token":         {"", 401, `Bearer scope="openid"`},
		"another scheme":   {"Basic YTpi", 401, `Bearer scope="openid"`},
		"nothing":          {"Bearer", 401, `error="invalid_token"`},
		"garbage":          {"Bearer x.y.z", 401, `error="invalid_token"`},
		"changed":          {"Bearer " + tok.Access[:len(tok.Access)-4] + "AAAA", 401, `error="invalid_token"`},
		"a refresh handle": {"Bearer " + tok.Refresh, 401, `error="invalid_token"`},
		"the id token":     {"Bearer " + idToken(t, good), 401, `error="invalid_token"`},
		"two tokens":       {"Bearer " + tok.Access + ", Bearer x", 400, `error="invalid_request"`},
	} {
		var header []string
		if c.header != "" {
			header = []string{"Authorization", c.header}
		}
		r := userinfo(t, s, "GET", header...)
		if r.StatusCode != c.status || !strings.Contains(r.Header.Get("WWW-Authenticate"), c.challenge) || !strings.HasPrefix(r.Header.Get("WWW-Authenticate"), "Bearer ") || r.Error() == "" {
			t.Errorf("%s: %d, %s, %s", name, r.StatusCode, r.Header.Get("WWW-Authenticate"), r.Body)
		}
	}
	if r := s.Do(t, request("POST", authtest.Issuer+"/userinfo", "access_token="+tok.Access, "Content-Type", formType)); r.StatusCode != 401 {
		t.Errorf("a token in the body: %d", r.StatusCode)
	}
	if r := s.Get(t, "/userinfo?access_token="+tok.Access); r.StatusCode != 401 {
		t.Errorf("a token in the query: %d", r.StatusCode)
	}
	s.Users.Change("alice", func(a *authtest.Account) bool { a.Name = ""; return true })
	if r := userinfo(t, s, "GET", "Authorization", "Bearer "+tok.Access); r.JSON(t)["preferred_username"] != nil || r.JSON(t)["name"] != nil {
		t.Errorf("names were invented: %s", r.Body)
	}
	s.Revoke(t, s.PUB, tok.Refresh)
	if r := userinfo(t, s, "GET", "Authorization", "Bearer "+tok.Access); r.StatusCode != 401 || !strings.Contains(r.Header.Get("WWW-Authenticate"), `error="invalid_token"`) {
		t.Errorf("a revoked grant: %d %s", r.StatusCode, r.Body)
	}
	gone := s.Tokens(t, "bob", s.PUB, set("resource", authtest.ResourceA))
	s.Users.Change("bob", func(*authtest.Account) bool { return false })
	if r := userinfo(t, s, "GET", "Authorization", "Bearer "+gone.Access); r.StatusCode != 401 {
		t.Errorf("a user who is gone: %d %s", r.StatusCode, r.Body)
	}
}

// A token of a removed user tells nothing of another one who has the name since.
func TestUserinfoTellsNothingOfALaterUser_Row19(t *testing.T) {
	s := authtest.New(t)
	tok := s.Tokens(t, "alice", s.PUB, set("scope", "openid email"))
	s.Users.Change("alice", func(a *authtest.Account) bool { a.Version, a.Email = "2", "later@example.com"; return true })
	r := userinfo(t, s, "GET", "Authorization", "Bearer "+tok.Access)
	if r.StatusCode != 401 || !strings.Contains(r.Header.Get("WWW-Authenticate"), `error="invalid_token"`) || strings.Contains(r.Body, "later") {
		t.Errorf("%d, %s, %s", r.StatusCode, r.Header.Get("WWW-Authenticate"), r.Body)
	}
	again := s.Tokens(t, "alice", s.PUB, set("scope", "openid email"))
	if got := userinfo(t, s, "GET", "Authorization", "Bearer "+again.Access).JSON(t)["email"]; got != "later@example.com" {
		t.Errorf("the later user's own token: email %v", got)
	}
}

// No link ends a session, wherever it comes from and whatever hint it has: the page
// asks.
func TestLogoutLinkAsksTheUser(t *testing.T) {
	s := authtest.New(t)
	bye := "https://app.test/bye?x=1"
	c := registerLogout(t, s, bye)
	b := s.NewBrowser()
	r := s.Redeem(t, c, b.Code(t, "alice", c, set("scope", "openid")))
	hint := idToken(t, r)
	good := url.Values{"id_token_hint": {hint}, "client_id": {c.ID}, "post_logout_redirect_uri": {bye}, "state": {"S&1"}}
	for name, link := range map[string]url.Values{
		"all":       good,
		"hint only": edit1(good, del("client_id")),
		"id only":   edit1(good, del("id_token_hint")),
		"no state":  edit1(good, del("state")),
	} {
		page := b.Get(t, "/logout?"+link.Encode())
		if page.StatusCode != 200 || !strings.Contains(page.Body, "alice") || !strings.Contains(page.Body, "app.test") {
			t.Errorf("%s: %d %s", name, page.StatusCode, text(page))
		}
	}
	wantConsent(t, b, s)

	// A client may post, too, and is asked the same question.
	b.Header.Set("Sec-Fetch-Site", "cross-site")
	page := b.Post(t, "/logout", good)
	if !strings.Contains(page.Body, "alice") {
		t.Fatalf("posted by the client: %d %s", page.StatusCode, text(page))
	}
	wantConsent(t, b, s)
	b.Header.Set("Sec-Fetch-Site", "same-origin")
	out := b.Submit(t, page)
	if out.StatusCode != 303 || out.Header.Get("Location") != bye+"&state=S%261" {
		t.Errorf("after the logout: %d to %s", out.StatusCode, out.Header.Get("Location"))
	}
	if len(b.Cookies) != 0 {
		t.Errorf("cookies stay: %v", b.Cookies)
	}
	wantLogin(t, b.Get(t, s.AuthorizeURL(s.PUB)))

	// Nobody is signed in: the way back is there, and takes a click.
	page = b.Get(t, "/logout?"+good.Encode())
	if strings.Contains(page.Body, "alice") {
		t.Errorf("signed in still: %s", text(page))
	}
	if out := b.Submit(t, page); out.Header.Get("Location") != bye+"&state=S%261" {
		t.Errorf("back: %d to %s", out.StatusCode, out.Header.Get("Location"))
	}
}

// A client may post a request for a logout, all of whose parameters are optional (OpenID Connect
// RP-Initiated Logout §2). A post from elsewhere ends no session, whatever it has: it leads to the
// page that asks. The page's own form has no more parameters than these.
func TestLogoutPostedFromElsewhereAsksTheUser(t *testing.T) {
	s := authtest.New(t)
	b := s.NewBrowser()
	b.Code(t, "alice", s.PUB)
	post := func(contentType, body string, header ...string) *authtest.Response {
		t.Helper()
		r := request("POST", authtest.Issuer+"/logout", body, header...)
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
		}
		for _, c := range b.Cookies {
			r.AddCookie(c)
		}
		return s.Do(t, r)
	}
	for _, body := range []string{"", "ui_locales=de", "logout_hint=alice", "state=", "unknown=1", "state=S"} {
		for name, header := range map[string][]string{
			"cross-site": {"Sec-Fetch-Site", "cross-site", "Origin", "https://app.test"}, "same site": {"Sec-Fetch-Site", "same-site"}, "a program": nil,
			"without Fetch Metadata": {"Origin", "https://app.test"}, "opaque": {"Origin", "null"},
		} {
			want := "/logout"
			if body == "state=S" {
				want = "/logout?state=S"
			}
			if r := post(formType, body, header...); r.StatusCode != 303 || r.Header.Get("Location") != want || len(r.Cookies()) > 0 {
				t.Errorf("%s, %q: %d to %q", name, body, r.StatusCode, r.Header.Get("Location"))
			}
		}
	}
	if r := post("", "", "Sec-Fetch-Site", "cross-site"); r.StatusCode != 303 || r.Header.Get("Location") != "/logout" {
		t.Errorf("without a body: %d to %q", r.StatusCode, r.Header.Get("Location"))
	}
	for contentType, body := range map[string]string{"": "state=S", "application/json": "{}"} {
		if r := post(contentType, body, "Sec-Fetch-Site", "cross-site"); r.StatusCode != 415 {
			t.Errorf("%q of type %q: %d", body, contentType, r.StatusCode)
		}
	}
	wantConsent(t, b, s)
	if r := post(formType, "", "Sec-Fetch-Site", "same-origin"); r.StatusCode != 200 {
		t.Errorf("the page's own form: %d", r.StatusCode)
	}
	wantLogin(t, b.Get(t, s.AuthorizeURL(s.LOC)))
}

// If anything is wrong with a request for a logout, the browser is sent nowhere, and
// the user can still sign out.
func TestLogoutRedirectsOnlyToRegisteredURIs(t *testing.T) {
	s := authtest.New(t)
	bye := "https://app.test/bye"
	c, other := registerLogout(t, s, bye), registerLogout(t, s, "https://other.test/bye")
	r := s.Redeem(t, c, s.Code(t, "alice", c, set("scope", "openid")))
	tok, hint := r.Tokens(t), idToken(t, r)
	good := url.Values{"id_token_hint": {hint}, "client_id": {c.ID}, "post_logout_redirect_uri": {bye}, "state": {"S"}}
	for name, change := range map[string]edit{
		"not registered":          set("post_logout_redirect_uri", "https://evil.test/"),
		"its redirect URI":        set("post_logout_redirect_uri", c.RedirectURI),
		"another one's":           set("post_logout_redirect_uri", "https://other.test/bye"),
		"longer":                  set("post_logout_redirect_uri", bye+"/x"),
		"twice":                   add("post_logout_redirect_uri", bye),
		"another client":          set("client_id", other.ID),
		"unknown client":          func(v url.Values) { v.Del("id_token_hint"); v.Set("client_id", "nobody") },
		"no client":               func(v url.Values) { v.Del("id_token_hint"); v.Del("client_id") },
		"hint changed":            set("id_token_hint", hint[:len(hint)-4]+"AAAA"),
		"hint is garbage":         set("id_token_hint", "x"),
		"hint is an access token": set("id_token_hint", tok.Access),
		"state too long":          set("state", strings.Repeat("s", 5000)),
	} {
		b := s.NewBrowser()
		b.Code(t, "alice", s.PUB)
		page := b.Get(t, "/logout?"+edit1(good, change).Encode())
		if page.StatusCode != 200 || !strings.Contains(page.Body, "alice") || strings.Contains(page.Body, ".test/") {
			t.Errorf("%s: %d %s", name, page.StatusCode, text(page))
		}
		if name != "twice" { // a form that says something twice is refused
			if r := b.Post(t, "/logout", edit1(good, change)); r.StatusCode != 200 || r.Header.Get("Location") != "" {
				t.Errorf("%s: %d to %q", name, r.StatusCode, r.Header.Get("Location"))
			}
			wantLogin(t, b.Get(t, s.AuthorizeURL(s.PUB)))
		}
	}
}

// A hint counts long after it has expired, as long as its key is known; without the key
// the client must send its id.
func TestLogoutAcceptsAnExpiredHint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t)
		bye := "https://app.test/bye"
		c := registerLogout(t, s, bye)
		hint := idToken(t, s.Redeem(t, c, s.Code(t, "alice", c, set("scope", "openid"))))
		form := url.Values{"id_token_hint": {hint}, "post_logout_redirect_uri": {bye}}
		time.Sleep(20 * time.Minute)
		_, rest, _ := strings.Cut(hint, ".")
		unknown := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","typ":"JWT","kid":"gone"}`)) + "." + rest
		if r := s.NewBrowser().Post(t, "/logout", edit1(form, set("id_token_hint", unknown))); r.Header.Get("Location") != "" {
			t.Errorf("hint of a key that is gone: to %q", r.Header.Get("Location"))
		}
		if r := s.NewBrowser().Post(t, "/logout", edit1(form, set("id_token_hint", unknown, "client_id", c.ID))); r.Header.Get("Location") != bye {
			t.Errorf("the same with client_id: %d to %q", r.StatusCode, r.Header.Get("Location"))
		}
		if r := s.NewBrowser().Post(t, "/logout", form); r.Header.Get("Location") != bye {
			t.Errorf("expired hint: %d to %q", r.StatusCode, r.Header.Get("Location"))
		}
	})
}

// A client that names the user by an id token, also by one that has expired, gets a code for no
// other user: not by a session, not by a login, and not by another account on the consent page.
func TestIDTokenHintNamesTheUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t)
		scope, bobLogin := set("scope", "openid mcp:read"), set("username", "bob", "password", "correct horse bob")
		alice, b := s.NewBrowser(), s.NewBrowser()
		hint := set("id_token_hint", idToken(t, s.Redeem(t, s.PRE, alice.Code(t, "alice", s.PRE, scope))))
		s.Redeem(t, s.PRE, b.Code(t, "bob", s.PRE, scope)).Tokens(t)
		time.Sleep(20 * time.Minute)
		none := set("prompt", "none")
		if r := alice.Get(t, s.AuthorizeURL(s.PRE, scope, hint, none)); r.Sent().Get("code") == "" {
			t.Errorf("the user of the hint: %d %s", r.StatusCode, text(r))
		}
		if r := b.Get(t, s.AuthorizeURL(s.PRE, scope, none)); r.Sent().Get("code") == "" {
			t.Errorf("without a hint: %d %s", r.StatusCode, text(r))
		}
		wantRedirect(t, b.Get(t, s.AuthorizeURL(s.PRE, scope, hint, none)), s.PRE.RedirectURI, "login_required", "S")

		page := b.Get(t, s.AuthorizeURL(s.PRE, scope, hint))
		wantLogin(t, page)
		if !strings.Contains(page.Body, `value="alice"`) {
			t.Errorf("the login page does not say who has to sign in: %s", text(page))
		}
		wantRedirect(t, b.Submit(t, page, bobLogin), s.PRE.RedirectURI, "login_required", "S")
		wantPage(t, b.Submit(t, page, aliceLogin), 400) // the request was answered
		consent := b.Submit(t, b.Get(t, s.AuthorizeURL(s.PRE, scope, hint, set("prompt", "consent"))), aliceLogin)
		wantRedirect(t, b.Submit(t, otherAccount(t, b, consent), bobLogin), s.PRE.RedirectURI, "login_required", "S")
		consent = b.Get(t, s.AuthorizeURL(s.PRE, scope, hint, set("prompt", "consent")))
		id := idToken(t, s.Redeem(t, s.PRE, b.Submit(t, consent, set("decision", "approve")).Sent().Get("code")))
		if got := payload(t, id).Subject; got != "alice" {
			t.Errorf("id token of %q, want alice", got)
		}
	})
}

// A hint that is no id token of the client is an error. If its key is gone the server cannot tell,
// so it takes no session, and the user decides who signs in.
func TestIDTokenHintMustBeOfTheClient(t *testing.T) {
	s := authtest.New(t)
	scope := set("scope", "openid mcp:read")
	b := s.NewBrowser()
	r := s.Redeem(t, s.PRE, b.Code(t, "alice", s.PRE, scope))
	hint := idToken(t, r)
	other := authtest.New(t, func(c *authtest.Config) { c.Issuer = "https://other.test" })
	for name, bad := range map[string]string{
		"garbage":            "x",
		"changed":            hint[:len(hint)-4] + "AAAA",
		"an access token":    r.Tokens(t).Access,
		"another client's":   idToken(t, s.Redeem(t, s.CONF, s.Code(t, "alice", s.CONF, scope))),
		"another issuer's":   idToken(t, other.Redeem(t, other.PRE, other.Code(t, "alice", other.PRE, scope))),
		"longer than it may": hint + strings.Repeat("A", jwt.MaxSize),
	} {
		for _, prompt := range []edit{set("prompt", "none"), del("prompt")} {
			r := b.Get(t, s.AuthorizeURL(s.PRE, scope, set("id_token_hint", bad), prompt))
			wantRedirect(t, r, s.PRE.RedirectURI, "invalid_request", "S")
			if t.Failed() {
				t.Fatal(name)
			}
		}
	}
	_, rest, _ := strings.Cut(hint, ".")
	gone := set("id_token_hint", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","typ":"JWT","kid":"gone"}`))+"."+rest)
	wantRedirect(t, b.Get(t, s.AuthorizeURL(s.PRE, scope, gone, set("prompt", "none"))), s.PRE.RedirectURI, "login_required", "S")
	page := b.Get(t, s.AuthorizeURL(s.PRE, scope, gone))
	wantLogin(t, page)
	if r := b.Submit(t, page, aliceLogin); r.Sent().Get("code") == "" {
		t.Errorf("a hint of a key that is gone, after the login: %d %s", r.StatusCode, text(r))
	}
}

func edit1(v url.Values, change edit) url.Values {
	c := url.Values{}
	for name, values := range v {
		c[name] = append([]string(nil), values...)
	}
	change(c)
	return c
}

func wantConsent(t *testing.T, b *authtest.Browser, s *authtest.Server) {
	t.Helper()
	if r := b.Get(t, s.AuthorizeURL(s.LOC)); !strings.Contains(r.Body, `value="approve"`) {
		t.Errorf("the session has ended: %d %s", r.StatusCode, text(r))
	}
}

func registerLogout(t *testing.T, s *authtest.Server, uri string) authtest.Client {
	t.Helper()
	r := s.Post(t, "/register", "application/json", `{"redirect_uris":["https://app.test/cb"],"token_endpoint_auth_method":"none","post_logout_redirect_uris":["`+uri+`"]}`)
	id, _ := r.JSON(t)["client_id"].(string)
	if r.StatusCode != 201 || id == "" {
		t.Fatalf("%d %s", r.StatusCode, r.Body)
	}
	return authtest.Client{ID: id, RedirectURI: "https://app.test/cb"}
}

// Row 52: the documentation that the metadata names is a page. A server whose one
// resource is the whole host has none, and names none.
func TestRootIsAPageForPeople_Row52(t *testing.T) {
	for _, issuer := range []string{authtest.Issuer, "https://as.test/t1"} {
		s := authtest.New(t, func(c *authtest.Config) { c.Issuer = issuer })
		u, err := url.Parse(issuer)
		if err != nil {
			t.Fatal(err)
		}
		m := s.Do(t, request("GET", "https://as.test/.well-known/oauth-authorization-server"+u.Path, "")).JSON(t)
		at, _ := m["service_documentation"].(string)
		if at != issuer+"/" {
			t.Fatalf("service_documentation %q", at)
		}
		r := s.Do(t, request("GET", at, ""))
		if r.StatusCode != 200 || !strings.Contains(r.Body, authtest.ResourceA) || !strings.Contains(r.Body, "/.well-known/oauth-authorization-server"+u.Path) {
			t.Errorf("%s: %d %s", at, r.StatusCode, text(r))
		}
	}
	s := authtest.New(t, func(c *authtest.Config) { c.Resources = []string{authtest.Issuer + "/"} })
	if m := s.Get(t, "/.well-known/oauth-authorization-server").JSON(t); m["service_documentation"] != nil {
		t.Errorf("service_documentation %v where the resource is", m["service_documentation"])
	}
	if r := s.Get(t, "/"); r.StatusCode != 404 {
		t.Errorf("/: %d", r.StatusCode)
	}
}
