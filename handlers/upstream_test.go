package handlers_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/handlers"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/internal/store"
	"signet/internal/test/authtest"
	"signet/internal/test/upstreamtest"
	"signet/internal/upstream"
	"signet/internal/vault"
	"signet/users"
)

// forge is an OAuth 2.0 server without a login page: a test says which user has signed in.
type forge struct {
	*httptest.Server
	t testing.TB

	mu        sync.Mutex
	codes     map[string]issued // by code
	live      map[string]string // user by access token
	handles   map[string]string // user by refresh token
	refreshes int
	exchanges int
	life      int  // of access tokens, in seconds; 0: it is not said
	down      bool // answers 503
	ended     bool // refuses every refresh token
	keeps     bool // a refresh gives no new refresh token, and the old one goes on
	form      bool // answers with forms, and names scopes as GitHub does
	secret    string
	revoked   []string
	asked     []url.Values // the requests to the token endpoint
}

// issued is what a code was given for.
type issued struct{ user, challenge, redirectURI string }

func newForge(t testing.TB) *forge {
	f := &forge{t: t, codes: map[string]issued{}, live: map[string]string{}, handles: map[string]string{}, life: 3600}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", f.token)
	mux.HandleFunc("GET /user", f.user)
	mux.HandleFunc("POST /revoke", f.revoke)
	mux.HandleFunc("POST /login", f.login)
	f.Server = httptest.NewServer(mux)
	t.Cleanup(f.Close)
	return f
}

// config is the YAML of the forge and of its login API.
func (f *forge) config() string {
	return fmt.Sprintf(`upstreams:
  - {id: forge, name: Forge, type: oauth2, authorization_endpoint: %[1]s/authorize, token_endpoint: %[1]s/token, userinfo_endpoint: %[1]s/user, client_id: signet, client_secret: forge-secret, scopes: [read], user_id: id, user_name: login}
`, f.URL)
}

func (f *forge) passwords() string {
	return fmt.Sprintf(`  - {id: finance, name: Finance, type: password, base_url: %s/, username_field: email, login: {path: login, body: {username: "{local_part}", email: "{username}", password: "{password}"}, access_token: access, refresh_token: refresh, user_id: user.id, user_name: user.name}}
`, f.URL)
}

// approve signs a user in at the authorization request and returns where the browser goes.
func (f *forge) approve(user string, request *url.URL) string {
	f.t.Helper()
	q := request.Query()
	if q.Get("client_id") != "signet" || q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" || q.Get("redirect_uri") != authtest.Issuer+"/oauth/callback" || q.Get("state") == "" {
		f.t.Fatalf("the forge refuses %s", request)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	code := fmt.Sprintf("code-%d", len(f.codes))
	f.codes[code] = issued{user, q.Get("code_challenge"), q.Get("redirect_uri")}
	return q.Get("redirect_uri") + "?" + url.Values{"code": {code}, "state": {q.Get("state")}}.Encode()
}

func (f *forge) token(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		http.Error(w, "maintenance", http.StatusServiceUnavailable)
		return
	}
	id, secret, _ := r.BasicAuth()
	right := cmp.Or(f.secret, "forge-secret")
	if id != "signet" && r.PostFormValue("client_id") != "signet" || secret != right && r.PostFormValue("client_secret") != right {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"error":"invalid_client"}`)
		return
	}
	user, ok := "", false
	f.asked = append(f.asked, r.PostForm)
	switch r.PostFormValue("grant_type") {
	case "refresh_token":
		f.refreshes++
		user, ok = f.handles[r.PostFormValue("refresh_token")]
		ok = ok && !f.ended
		if !f.keeps {
			delete(f.handles, r.PostFormValue("refresh_token"))
		}
	case "client_credentials":
		user, ok = "itself", !f.ended
	case oauth.GrantTokenExchange:
		user, ok = "exchanged", !f.ended && r.PostFormValue("subject_token") != ""
	default:
		f.exchanges++
		var code issued
		code, ok = f.codes[r.PostFormValue("code")]
		delete(f.codes, r.PostFormValue("code"))
		user, ok = code.user, ok && code.challenge == authtest.Challenge(r.PostFormValue("code_verifier")) && code.redirectURI == r.PostFormValue("redirect_uri")
	}
	if !ok {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":"invalid_grant"}`)
		return
	}
	f.give(w, user, map[string]any{"token_type": "Bearer"}, "access_token", "refresh_token")
}

// give answers with new tokens. The caller holds the lock.
func (f *forge) give(w http.ResponseWriter, user string, answer map[string]any, access, refresh string) {
	n := len(f.live)
	answer[access], answer[refresh] = fmt.Sprintf("forge-access-%s-%d", user, n), fmt.Sprintf("forge-refresh-%s-%d", user, n)
	f.live[answer[access].(string)], f.handles[answer[refresh].(string)] = user, user
	if f.life != 0 {
		answer["expires_in"] = f.life
	}
	if f.keeps && f.refreshes > 0 {
		delete(f.handles, answer[refresh].(string))
		delete(answer, refresh)
	}
	if f.form {
		w.Header().Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		fmt.Fprint(w, url.Values{"access_token": {answer[access].(string)}, "scope": {"read,user:email"}, "token_type": {"bearer"}}.Encode())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

func (f *forge) revoke(_ http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.revoked = append(f.revoked, r.PostFormValue("token"))
}

func (f *forge) user(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	user, ok := f.live[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	if !ok {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"id":"%s-1","login":%q}`, user, user)
}

func (f *forge) login(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		http.Error(w, "maintenance", http.StatusServiceUnavailable)
		return
	}
	var in struct{ Username, Email, Password string }
	err := json.NewDecoder(r.Body).Decode(&in)
	if local, _, _ := strings.Cut(in.Email, "@"); err != nil || in.Username != local || in.Password != "good" {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"detail":"no"}`)
		return
	}
	f.give(w, in.Username, map[string]any{"user": map[string]any{"id": 42, "name": in.Username}}, "access", "refresh")
}

// set changes the forge's behaviour.
func (f *forge) set(change func(*forge)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// accounts are the users of a vault, and no others.
type accounts struct{ *vault.Vault }

func (accounts) Check(context.Context, string, string) (users.User, error) {
	return users.User{}, users.ErrInvalid
}

func (a accounts) Lookup(ctx context.Context, subject string) (users.User, error) {
	found, err := a.Vault.Account(ctx, subject)
	if errors.Is(err, vault.ErrUnknown) || err == nil && found.Disabled {
		return users.User{}, users.ErrUnknown
	}
	return users.User{Subject: subject, Name: found.Name, Email: found.Email, Scopes: found.Scopes, Version: found.Version}, err
}

// everybody are the users of the server and those of a vault.
type everybody struct {
	handlers.Users
	accounts accounts
}

func (e everybody) Lookup(ctx context.Context, subject string) (users.User, error) {
	if strings.HasPrefix(subject, users.UpstreamPrefix) {
		return e.accounts.Lookup(ctx, subject)
	}
	return e.Users.Lookup(ctx, subject)
}

// upstreamServer is an authorization server whose users sign in at a forge.
type upstreamServer struct {
	*authtest.Server
	vault   *vault.Vault
	settled []string
}

// withForge starts a server with the upstreams of a configuration. form says whether it also
// has users of its own.
func withForge(t *testing.T, config string, form bool, change ...func(*authtest.Config)) *upstreamServer {
	t.Helper()
	set, err := upstream.Parse([]byte(config), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	s := &upstreamServer{}
	s.Server = authtest.New(t, append(change, func(cfg *authtest.Config) {
		cfg.Change = func(o *handlers.Options) {
			s.vault = vault.New(vault.Options{Store: o.Store.(*store.Store), Ring: o.Ring, Log: o.Log})
			o.Upstreams, o.Vault, o.PasswordLogin = set, s.vault, func() bool { return form }
			o.Settle = func(subject string) { s.settled = append(s.settled, subject) }
			if o.Users = (everybody{o.Users, accounts{s.vault}}); !form {
				o.Users = accounts{s.vault}
			}
		}
	})...)
	return s
}

// leave goes from an authorization request to the provider, and returns the request there.
func (s *upstreamServer) leave(t *testing.T, b *authtest.Browser, c authtest.Client, edits ...authtest.Edit) *url.URL {
	t.Helper()
	page := b.Get(t, s.AuthorizeURL(c, edits...))
	if page.StatusCode != http.StatusOK || !strings.Contains(page.Body, "You sign in at") {
		t.Fatalf("no consent page before the login: %d %s", page.StatusCode, text(page))
	}
	left := b.Submit(t, page, set("decision", "approve"))
	to, err := url.Parse(left.Header.Get("Location"))
	if err != nil || left.StatusCode != http.StatusSeeOther {
		t.Fatalf("approving: %d %s", left.StatusCode, text(left))
	}
	return to
}

// come signs a user in at the forge and returns the answer of the callback.
func (s *upstreamServer) signInAt(t *testing.T, f *forge, b *authtest.Browser, user string, c authtest.Client, edits ...authtest.Edit) *authtest.Response {
	t.Helper()
	return b.Get(t, f.approve(user, s.leave(t, b, c, edits...)))
}

// tokensAt are the tokens of a user who signs in at the forge.
func (s *upstreamServer) tokensAt(t *testing.T, f *forge, user string, c authtest.Client) authtest.Tokens {
	t.Helper()
	back := s.signInAt(t, f, s.NewBrowser(), user, c)
	return s.Redeem(t, c, back.Sent().Get("code")).Tokens(t)
}

// claim is the upstream token in an access token.
func (s *upstreamServer) claim(t *testing.T, access string) seal.Upstream {
	t.Helper()
	claims, err := s.Verifier.Verify(t.Context(), access)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.ParseUpstreamKeys(s.Ring.UpstreamKeys())
	if err != nil {
		t.Fatal(err)
	}
	if claims.Upstream == "" {
		return seal.Upstream{}
	}
	u, err := keys.Open(claims.Upstream)
	if err != nil || u.GrantID != claims.GrantID {
		t.Fatalf("%+v, %v", u, err)
	}
	return u
}

// The user decides about the client before the browser leaves, and comes back to the client with
// a code. The access token has the user's own upstream token in it, and does not outlive it.
func TestUserSignsInAtAProviderAfterTheConsent_Row36_Row37(t *testing.T) {
	f := newForge(t)
	f.life = 100
	s := withForge(t, f.config(), false)
	back := s.signInAt(t, f, s.NewBrowser(), "ann", s.PUB, set("state", "the client's"))
	sent := back.Sent()
	if !strings.HasPrefix(back.Header.Get("Location"), s.PUB.RedirectURI) || sent.Get("state") != "the client's" || sent.Get("iss") != authtest.Issuer {
		t.Fatalf("%d %s", back.StatusCode, back.Header.Get("Location"))
	}
	tok := s.Redeem(t, s.PUB, sent.Get("code"))
	claims, err := s.Verifier.Verify(t.Context(), tok.Tokens(t).Access)
	if err != nil || claims.Subject != "upstream:forge:ann-1" {
		t.Fatalf("%+v, %v", claims, err)
	}
	u := s.claim(t, tok.Tokens(t).Access)
	if f.live[u.Access] != "ann" || u.Provider != "forge" || claims.ExpiresAt > u.Expires {
		t.Errorf("the claim is %q of %q until %d; the access token lives until %d", u.Access, u.Provider, u.Expires, claims.ExpiresAt)
	}
	if strings.Contains(tok.Body, "forge-access") {
		t.Error("the client reads the upstream's token")
	}
	bob := s.tokensAt(t, f, "bob", s.PUB)
	if got := f.live[s.claim(t, bob.Access).Access]; got != "bob" {
		t.Errorf("bob's access token has the token of %s", got)
	}
}

// A client that names the user by an id token gets no code for another user of the provider.
func TestIDTokenHintNamesTheUserAtAProvider(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	b, scope := s.NewBrowser(), set("scope", "openid mcp:read")
	first := s.signInAt(t, f, b, "ann", s.PUB, scope)
	hint := set("id_token_hint", idToken(t, s.Redeem(t, s.PUB, first.Sent().Get("code"))))
	for user, code := range map[string]bool{"ann": true, "bob": false} {
		b := s.NewBrowser()
		to := s.leave(t, b, s.PUB, scope, hint)
		if got := to.Query().Get("prompt"); got != "select_account" {
			t.Errorf("prompt %q at the provider", got)
		}
		back := b.Get(t, f.approve(user, to))
		if !code {
			wantRedirect(t, back, s.PUB.RedirectURI, "login_required", "S")
		} else if back.Sent().Get("code") == "" {
			t.Errorf("%s: %d %s", user, back.StatusCode, text(back))
		}
	}
}

// The time of a login is when the user proved to the provider who they are, as the id token says:
// that may be long ago. A client that demands a new proof gets no code without one.
func TestTimeOfTheLoginIsTheProviders(t *testing.T) {
	p := upstreamtest.New(t, upstreamtest.Options{RedirectURIs: []string{authtest.Issuer + "/oauth/callback"}})
	s := withForge(t, "upstreams:\n  - "+p.Configuration("corp"), false)
	const silent = -1 // the id token does not say
	for name, c := range map[string]struct {
		ago  time.Duration // auth_time of the id token
		want time.Duration // the same, of the client's token
		sent authtest.Edit
		code bool
	}{
		"just now":                  {0, 0, set(), true},
		"an hour ago":               {time.Hour, time.Hour, set(), true},
		"it does not say":           {silent, 0, set(), true},
		"its clock is ahead":        {-time.Hour, 0, set(), true},
		"another account":           {time.Hour, time.Hour, set("prompt", "select_account"), true},
		"within max_age":            {time.Hour, time.Hour, set("max_age", "3600"), true},
		"beyond max_age":            {time.Hour, 0, set("max_age", "3000"), false},
		"again":                     {0, 0, set("prompt", "login"), true},
		"again, its clock behind":   {30 * time.Second, 30 * time.Second, set("prompt", "login"), true},
		"again, it does not say":    {silent, 0, set("prompt", "login"), true},
		"not again":                 {time.Hour, 0, set("prompt", "login"), false},
		"not again, but max_age":    {time.Hour, 0, set("prompt", "login", "max_age", "3600"), false},
		"not again, a max_age of 0": {time.Hour, 0, set("max_age", "0"), false},
	} {
		t.Run(name, func(t *testing.T) {
			p.Switch(func(s *upstreamtest.Switches) {
				s.Claims = func(claims map[string]any) {
					if delete(claims, "auth_time"); c.ago != silent {
						claims["auth_time"] = time.Now().Add(-c.ago).Unix()
					}
				}
			})
			b := s.NewBrowser()
			link, err := p.Authorize(t.Context(), s.leave(t, b, s.PUB, c.sent).String(), "ann")
			if err != nil {
				t.Fatal(err)
			}
			back := b.Get(t, link)
			if !c.code {
				wantRedirect(t, back, s.PUB.RedirectURI, "login_required", "S")
				return
			}
			claims, err := s.Verifier.Verify(t.Context(), s.Redeem(t, s.PUB, back.Sent().Get("code")).Tokens(t).Access)
			if err != nil {
				t.Fatal(err)
			}
			if got := time.Since(time.Unix(claims.AuthTime, 0)); got < c.want || got > c.want+20*time.Second {
				t.Errorf("auth_time is %v ago, want %v", got, c.want)
			}
			if c.want == time.Hour { // the session is as old
				if again := s.leave(t, b, s.PUB, set("max_age", "60")); again.Query().Get("prompt") != "login" {
					t.Errorf("max_age later on leads to %s", again)
				}
			}
		})
	}
}

// The request to the provider is the server's own: it has nothing of the client's.
func TestRequestAtTheProviderIsTheServersOwn_Row36(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	b := s.NewBrowser()
	first, second := s.leave(t, b, s.PUB, set("state", "same")), s.leave(t, b, s.PUB, set("state", "same"))
	for _, name := range []string{"state", "code_challenge"} {
		one, two := first.Query().Get(name), second.Query().Get(name)
		if one == "" || one == two || strings.Contains(one, "same") {
			t.Errorf("%s of two logins: %q and %q", name, one, two)
		}
	}
	if got := first.Query().Get("scope"); got != "read" {
		t.Errorf("scope at the provider: %q", got)
	}
	// Both come back, in either order, to their own clients' requests, also as two users.
	for user, at := range map[string]*url.URL{"ann": second, "bob": first} {
		back := b.Get(t, f.approve(user, at))
		claims, err := s.Verifier.Verify(t.Context(), s.Redeem(t, s.PUB, back.Sent().Get("code")).Tokens(t).Access)
		if err != nil || claims.Subject != "upstream:forge:"+user+"-1" || back.Sent().Get("state") != "same" {
			t.Errorf("%s: %+v, %v", user, claims, err)
		}
	}
}

// A login at a provider ends after ten minutes.
func TestLoginAtAProviderExpires_Row36(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	b := s.NewBrowser()
	link := f.approve("ann", s.leave(t, b, s.PUB))
	for name, cookie := range b.Cookies {
		l, err := seal.Open[seal.UpstreamLogin](s.Ring, cookie.Value)
		if err != nil {
			continue
		}
		if left := time.Until(time.Unix(l.Expires, 0)); left > 10*time.Minute {
			t.Errorf("it lasts for %s", left)
		}
		l.Expires = time.Now().Unix()
		raw, err := seal.Seal(s.Ring, l)
		if err != nil {
			t.Fatal(err)
		}
		b.Cookies[name] = &http.Cookie{Name: name, Value: raw}
	}
	if got := b.Get(t, link); got.StatusCode != http.StatusBadRequest || f.exchanges != 0 || !strings.Contains(got.Body, "expired") {
		t.Errorf("%d, %d exchanges: %s", got.StatusCode, f.exchanges, text(got))
	}
}

// A token that is too long for a claim stays here, and an MCP server asks for it. The operator is
// told once.
func TestLongUpstreamTokenStaysAtTheIssuer(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	tok := s.tokensAt(t, f, "ann", s.PUB)
	long := strings.Repeat("x", 10_000)
	entry, err := s.vault.Get(t.Context(), annAtForge, "forge")
	if err != nil {
		t.Fatal(err)
	}
	entry.Access = long
	if _, err := s.vault.Put(t.Context(), entry.Credential); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		tok = s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
	}
	if u := s.claim(t, tok.Access); !u.Large || u.Access != "" || len(tok.Access) > 2500 {
		t.Fatalf("large %v, %d characters of the token; the access token has %d", u.Large, len(u.Access), len(tok.Access))
	}
	keys, err := seal.ParseUpstreamKeys(s.Ring.UpstreamKeys())
	if err != nil {
		t.Fatal(err)
	}
	sealed, _ := s.upstreamRequest(t, tok.Access, "0", "").JSON(t)["upstream"].(string)
	if u, err := keys.Open(sealed); err != nil || u.Access != long {
		t.Errorf("the issuer gives %d characters, %v", len(u.Access), err)
	}
	if n := strings.Count(fmt.Sprint(s.Log), "too long to travel"); n != 1 {
		t.Errorf("the operator is told %d times", n)
	}
}

// A callback counts once, in the browser that began the login, while the login lasts. Anything
// else is an error page, and stores nothing.
func TestForeignCallbackIsRefused_Row36_J11(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	refused := func(name string, b *authtest.Browser, link string) {
		t.Helper()
		f.set(func(f *forge) { f.exchanges = 0 })
		got, want := b.Get(t, link), http.StatusForbidden
		if name == "two codes" || name == "no code" {
			want = http.StatusBadRequest
		}
		if got.StatusCode != want || got.Header.Get("Location") != "" || f.exchanges != 0 {
			t.Errorf("%s: %d, %d exchanges: %s", name, got.StatusCode, f.exchanges, text(got))
		}
		if list, err := s.vault.Accounts(t.Context(), "", 10); err != nil || len(list) > 1 {
			t.Errorf("%s: accounts %v, %v", name, list, err)
		}
	}
	change := func(link, name, value string) string {
		u, err := url.Parse(link)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		q.Set(name, value)
		if value == "" {
			q.Del(name)
		}
		u.RawQuery = q.Encode()
		return u.String()
	}
	b := s.NewBrowser()
	link := f.approve("ann", s.leave(t, b, s.PUB))
	refused("another browser", s.NewBrowser(), link)
	head := request("HEAD", link, "")
	for _, c := range b.Cookies {
		head.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
	}
	if got := s.Do(t, head); got.StatusCode != http.StatusMethodNotAllowed || f.exchanges != 0 {
		t.Errorf("HEAD: %d, %d exchanges", got.StatusCode, f.exchanges)
	}
	refused("no state", b, change(link, "state", ""))
	refused("unknown state", b, change(link, "state", seal.NewID(time.Now())))
	refused("two codes", b, link+"&code=other")
	if back := b.Get(t, link); back.Sent().Get("code") == "" {
		t.Fatalf("the good request: %d %s", back.StatusCode, text(back))
	}
	refused("again", b, link)

	other := s.NewBrowser()
	link = f.approve("bob", s.leave(t, other, s.PUB))
	refused("no code", other, change(link, "code", ""))
	refused("the same login after that", other, link)
}

// What the provider says is shown escaped and short; the client learns only that access was
// denied.
func TestProviderDenies_Row36(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	callback := func(query string) *authtest.Response {
		b := s.NewBrowser()
		state := s.leave(t, b, s.PUB, set("state", "mine")).Query().Get("state")
		return b.Get(t, authtest.Issuer+"/oauth/callback?state="+state+"&"+query)
	}
	denied := callback("error=access_denied&error_description=" + url.QueryEscape("<script>alert(1)</script>"))
	if sent := denied.Sent(); sent.Get("error") != "access_denied" || sent.Get("state") != "mine" || strings.Contains(sent.Encode(), "alert") {
		t.Errorf("%d %s", denied.StatusCode, denied.Header.Get("Location"))
	}
	wrong := callback("error=" + url.QueryEscape("<b>"+strings.Repeat("x", 5000)))
	if wrong.StatusCode != http.StatusBadRequest || strings.Contains(wrong.Body, "<b>x") || strings.Count(wrong.Body, "x") > 1000 {
		t.Errorf("%d, %d bytes", wrong.StatusCode, len(wrong.Body))
	}
	if down := callback("error=server_error"); down.StatusCode != http.StatusServiceUnavailable || !strings.Contains(down.Body, "Please try again later") {
		t.Errorf("%d %s", down.StatusCode, text(down))
	}
}

// The user may deny before the browser leaves.
func TestUserDeniesBeforeLeaving(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	b := s.NewBrowser()
	back := b.Submit(t, b.Get(t, s.AuthorizeURL(s.PUB)), set("decision", "deny"))
	if back.Sent().Get("error") != "access_denied" {
		t.Errorf("%d %s", back.StatusCode, back.Header.Get("Location"))
	}
}

// With a form and providers, the login page shows both.
func TestLoginPageOffersEveryWay(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config()+f.passwords(), true)
	b := s.NewBrowser()
	page := b.Get(t, s.AuthorizeURL(s.PUB))
	for _, want := range []string{`name="username"`, `value="forge"`, "Continue with", "Finance"} {
		if !strings.Contains(page.Body, want) {
			t.Errorf("the page has no %s: %s", want, text(page))
		}
	}
	_, hidden := page.Form(t)
	post := func(fields ...string) *authtest.Response {
		form := url.Values{"state": {hidden.Get("state")}}
		for i := 0; i < len(fields); i += 2 {
			form.Set(fields[i], fields[i+1])
		}
		return b.Post(t, "/login", form)
	}
	if got := post("provider", "forge"); !strings.Contains(got.Body, "You sign in at") {
		t.Errorf("a provider: %d %s", got.StatusCode, text(got))
	}
	if got := post("provider", "finance"); !strings.Contains(got.Body, `name="email"`) || !strings.Contains(got.Body, `name="provider" value="finance"`) {
		t.Errorf("a provider with passwords: %d %s", got.StatusCode, text(got))
	}
	if got := post("provider", "nobody"); got.StatusCode != http.StatusBadRequest {
		t.Errorf("an unknown provider: %d", got.StatusCode)
	}
	if got := post("provider", "forge", "username", "ann", "password", "good"); got.StatusCode != http.StatusBadRequest {
		t.Errorf("a password for a provider that has a page of its own: %d", got.StatusCode)
	}
	if got := post("username", "alice", "password", "correct horse alice"); !strings.Contains(got.Body, `value="approve"`) {
		t.Errorf("the form: %d %s", got.StatusCode, text(got))
	}
}

// A user who goes from one account to a provider grants what that user may of the whole request.
func TestAnotherAccountAtAProviderIsAskedForTheWholeRequest(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), true)
	s.Users.Change("bob", func(a *authtest.Account) bool { a.Scopes = []string{"mcp:write"}; return true })
	b := s.NewBrowser()
	_, fields := otherAccount(t, b, b.SignIn(t, "bob", s.PUB, set("scope", "mcp:read mcp:write"))).Form(t)
	page := b.Post(t, "/login", url.Values{"state": fields["state"], "provider": {"forge"}})
	to, err := url.Parse(b.Submit(t, page, set("decision", "approve")).Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	back := b.Get(t, f.approve("ann", to))
	if tok := s.Redeem(t, s.PUB, back.Sent().Get("code")).Tokens(t); tok.Scope != "mcp:read" {
		t.Errorf("granted %q, want mcp:read", tok.Scope)
	}
}

// The consent page of a user who chose a provider and then signed in with a password names the user,
// and is of no use to another user of the browser.
func TestPasswordLoginAfterAProviderWasChosen(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), true)
	b := s.NewBrowser()
	_, fields := b.Get(t, s.AuthorizeURL(s.PUB)).Form(t)
	_, fields = b.Post(t, "/login", url.Values{"state": fields["state"], "provider": {"forge"}}).Form(t)
	page := b.Post(t, "/login", url.Values{"state": fields["state"], "username": {"alice"}, "password": {"correct horse alice"}})
	if !strings.Contains(page.Body, "alice") || strings.Contains(page.Body, "You sign in at") {
		t.Errorf("the page does not say who is asked: %s", text(page))
	}
	action, fields := page.Form(t)
	tx, err := seal.Open[seal.Login](s.Ring, fields.Get("state"))
	if err != nil || tx.Subject != "alice" {
		t.Fatalf("transaction of %q, %v", tx.Subject, err)
	}
	tx.Provider = "forge" // as an earlier release sealed it
	old, err := seal.Seal(s.Ring, tx)
	if err != nil {
		t.Fatal(err)
	}
	b.Submit(t, b.Get(t, s.AuthorizeURL(s.PRE, set("prompt", "login"))), set("username", "bob", "password", "correct horse bob"))
	for _, state := range []string{fields.Get("state"), old} {
		wantPage(t, b.Post(t, action, url.Values{"state": {state}, "decision": {"approve"}}), 400)
	}
}

// The password goes to the provider once. Its verdict and its silence are different pages.
func TestPasswordLoginAtAProvider_Row35(t *testing.T) {
	f := newForge(t)
	s := withForge(t, "upstreams:\n"+f.passwords(), false)
	s.Log.Forbid("a wrong password")
	try := func(password string) *authtest.Response {
		b := s.NewBrowser()
		return b.Submit(t, b.Get(t, s.AuthorizeURL(s.PUB)), set("email", "ann@b.test", "password", password))
	}
	if got := try("a wrong password"); got.StatusCode != http.StatusUnauthorized || !strings.Contains(got.Body, "Invalid credentials") || !strings.Contains(got.Body, `value="ann@b.test"`) {
		t.Errorf("wrong: %d %s", got.StatusCode, text(got))
	}
	if got := try(""); got.StatusCode != http.StatusBadRequest || !strings.Contains(got.Body, "Missing required fields") {
		t.Errorf("none: %d %s", got.StatusCode, text(got))
	}
	good := try("good")
	if !strings.Contains(good.Body, `value="approve"`) || !strings.Contains(good.Body, "ann") {
		t.Fatalf("right: %d %s", good.StatusCode, text(good))
	}
	f.set(func(f *forge) { f.down = true })
	if got := try("good"); got.StatusCode != http.StatusServiceUnavailable || !strings.Contains(got.Body, "Server error. Please try again later.") {
		t.Errorf("down: %d %s", got.StatusCode, text(got))
	}
}

// Guesses count before the provider is asked.
func TestGuessesAtAProviderAreThrottled(t *testing.T) {
	f := newForge(t)
	s := withForge(t, "upstreams:\n"+f.passwords(), false)
	b := s.NewBrowser()
	page := b.Get(t, s.AuthorizeURL(s.PUB))
	for n := 0; ; n++ {
		got := b.Submit(t, page, set("email", "ann@b.test", "password", "wrong"))
		if got.StatusCode == http.StatusTooManyRequests {
			break
		}
		if got.StatusCode != http.StatusUnauthorized || n > 100 {
			t.Fatalf("guess %d: %d %s", n, got.StatusCode, text(got))
		}
	}
	if got := b.Submit(t, page, set("email", "ann@b.test", "password", "good")); got.StatusCode != http.StatusTooManyRequests {
		t.Errorf("the right password: %d", got.StatusCode)
	}
}

// expire makes the user's upstream token end now.
func (s *upstreamServer) expire(t *testing.T, subject, provider string) {
	t.Helper()
	entry, err := s.vault.Get(t.Context(), subject, provider)
	if err != nil {
		t.Fatal(err)
	}
	entry.Expires = time.Now().Unix()
	if _, err := s.vault.Put(t.Context(), entry.Credential); err != nil {
		t.Fatal(err)
	}
}

const annAtForge = "upstream:forge:ann-1"

// The refresh grant refreshes at the provider when the token there ends, and only then. A
// provider that is down costs the client nothing; one that refuses ends the user's grants.
func TestRefreshGrantRefreshesAtTheProvider_Row38(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	tok := s.tokensAt(t, f, "ann", s.PUB)
	other := s.tokensAt(t, f, "ann", s.PUB2)
	first := s.claim(t, other.Access).Access

	tok = s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
	if got := s.claim(t, tok.Access).Access; f.refreshes != 0 || got != first {
		t.Fatalf("%d refreshes while the token lives; it is %s, not %s", f.refreshes, got, first)
	}
	s.expire(t, annAtForge, "forge")
	tok = s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
	if got := s.claim(t, tok.Access).Access; f.refreshes != 1 || got == first || f.live[got] != "ann" {
		t.Fatalf("%d refreshes after its end: %s", f.refreshes, got)
	}
	s.expire(t, annAtForge, "forge")
	f.set(func(f *forge) { f.down = true })
	if got := s.Refresh(t, s.PUB, tok.Refresh); got.StatusCode != http.StatusServiceUnavailable || got.Error() != "temporarily_unavailable" {
		t.Fatalf("the provider is down: %d %s", got.StatusCode, got.Body)
	}
	f.set(func(f *forge) { f.down = false })
	tok = s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
	if f.refreshes != 2 {
		t.Fatalf("%d refreshes", f.refreshes)
	}
	s.expire(t, annAtForge, "forge")
	f.set(func(f *forge) { f.ended = true })
	for _, c := range []struct {
		client authtest.Client
		handle string
	}{{s.PUB, tok.Refresh}, {s.PUB2, other.Refresh}} {
		if got := s.Refresh(t, c.client, c.handle); got.Error() != "invalid_grant" {
			t.Errorf("the provider has ended it: %d %s", got.StatusCode, got.Body)
		}
	}
}

// A hundred refreshes of ten clients at once ask the provider once.
func TestParallelRefreshesAskTheProviderOnce_Row39(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	var handles []string
	for range 10 {
		handles = append(handles, s.tokensAt(t, f, "ann", s.PUB).Refresh)
	}
	s.expire(t, annAtForge, "forge")
	var all sync.WaitGroup
	for _, handle := range handles {
		for range 10 {
			all.Go(func() {
				if got := s.Refresh(t, s.PUB, handle); got.StatusCode != http.StatusOK {
					t.Errorf("%d %s", got.StatusCode, got.Body)
				}
			})
		}
	}
	all.Wait()
	if f.refreshes != 1 {
		t.Errorf("the provider was asked %d times", f.refreshes)
	}
}

// A provider that gives no refresh token and no end ends no grant.
func TestProviderWithoutRefreshTokensEndsNoGrant_Row38(t *testing.T) {
	f := newForge(t)
	f.life = 0
	s := withForge(t, f.config(), false)
	tok := s.tokensAt(t, f, "ann", s.PUB)
	entry, err := s.vault.Get(t.Context(), annAtForge, "forge")
	if err != nil {
		t.Fatal(err)
	}
	entry.Refresh = ""
	if _, err := s.vault.Put(t.Context(), entry.Credential); err != nil {
		t.Fatal(err)
	}
	tok = s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
	if f.live[s.claim(t, tok.Access).Access] != "ann" {
		t.Error("the token is gone")
	}
	s.expire(t, annAtForge, "forge")
	if got := s.claim(t, s.Refresh(t, s.PUB, tok.Refresh).Tokens(t).Access); got.Access != "" || f.refreshes != 0 {
		t.Errorf("a token that has ended is given: %+v; %d refreshes", got.Provider, f.refreshes)
	}
}

// Nor does one that gives a refresh token while the configuration has no way to use it.
func TestProviderWithoutAWayToRefreshEndsNoGrant_Row38(t *testing.T) {
	f := newForge(t)
	s := withForge(t, "upstreams:\n"+f.passwords(), false)
	b := s.NewBrowser()
	consent := b.Submit(t, b.Get(t, s.AuthorizeURL(s.PUB)), set("email", "ann@b.test", "password", "good"))
	tok := s.Redeem(t, s.PUB, b.Submit(t, consent, set("decision", "approve")).Sent().Get("code")).Tokens(t)
	s.expire(t, "upstream:finance:42", "finance")
	if u := s.claim(t, s.Refresh(t, s.PUB, tok.Refresh).Tokens(t).Access); u.Access != "" {
		t.Error("a token that has ended is given")
	}
}

// Tokens are for the issuer and client that gave them: another configuration of the same id never
// sees them.
func TestTokensOfAnotherConfigurationStayUnused(t *testing.T) {
	f, evil := newForge(t), newForge(t)
	s := withForge(t, f.config(), false)
	tok := s.tokensAt(t, f, "ann", s.PUB)
	set, err := upstream.Parse([]byte(evil.config()), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	s.expire(t, annAtForge, "forge")
	change := s.Config.Change
	s.Config.Change = func(o *handlers.Options) {
		change(o)
		o.Upstreams = set
	}
	s.Restart(t)
	if got := s.claim(t, s.Refresh(t, s.PUB, tok.Refresh).Tokens(t).Access); got.Access != "" || evil.refreshes != 0 {
		t.Errorf("another server got %d refresh tokens; the client %q", evil.refreshes, got.Provider)
	}
}

// The last grant's end is told, so that the tokens are revoked at the provider.
func TestEndOfGrantsIsTold_Row43(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	tok := s.tokensAt(t, f, "ann", s.PUB)
	s.Revoke(t, s.PUB, tok.Refresh)
	if len(s.settled) != 1 || s.settled[0] != annAtForge {
		t.Errorf("told of %v", s.settled)
	}
}

// A client that ends its old grant while the user is on the way back with a new code does not lose
// the tokens of the new login. A user who has signed in to another application long since is not on
// the way back.
func TestOldGrantEndsAfterANewLogin_Row43(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	old := s.tokensAt(t, f, "ann", s.PUB)
	ahead(t, s.Server, 10*time.Second)
	code := s.signInAt(t, f, s.NewBrowser(), "ann", s.PUB).Sent().Get("code")
	for _, token := range []string{old.Access, old.Refresh} {
		if s.Revoke(t, s.PUB, token); len(s.settled) != 0 {
			t.Errorf("told of %v, who has just signed in", s.settled)
		}
	}
	older := s.Redeem(t, s.PUB, code).Tokens(t)
	ahead(t, s.Server, 20*time.Second)
	newer := s.tokensAt(t, f, "ann", s.PUB2)
	ahead(t, s.Server, 2*time.Minute)
	s.Revoke(t, s.PUB, older.Refresh)
	if len(s.settled) != 1 || s.settled[0] != annAtForge {
		t.Errorf("of an older grant, while there is no code: told of %v", s.settled)
	}
	s.Revoke(t, s.PUB2, newer.Refresh)
	if len(s.settled) != 2 {
		t.Errorf("of the last grant: told of %v", s.settled)
	}
}

// upstreamRequest is the request of an MCP server for a newer token.
func (s *upstreamServer) upstreamRequest(t *testing.T, access, stale, proof string) *authtest.Response {
	t.Helper()
	if proof == "" {
		keys, err := seal.ParseUpstreamKeys(s.Ring.UpstreamKeys())
		if err == nil {
			proof, err = keys.Prove("stale=" + stale + "\n" + access)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	form := url.Values{"stale": {stale}, "proof": {proof}}
	r := request("POST", authtest.Issuer+"/upstream/token", form.Encode(), "Authorization", "Bearer "+access, "Content-Type", "application/x-www-form-urlencoded")
	return s.Do(t, r)
}

// An MCP server gets a newer token for one that the upstream refuses: once, however many ask. The
// caller's access token alone gets nothing.
func TestMCPServerGetsANewerToken_Row39(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	tok := s.tokensAt(t, f, "ann", s.PUB)
	old := s.claim(t, tok.Access)
	stale := fmt.Sprint(old.Version)
	keys, err := seal.ParseUpstreamKeys(s.Ring.UpstreamKeys())
	if err != nil {
		t.Fatal(err)
	}
	open := func(r *authtest.Response) seal.Upstream {
		t.Helper()
		sealed, _ := r.JSON(t)["upstream"].(string)
		u, err := keys.Open(sealed)
		if err != nil || u.GrantID != old.GrantID {
			t.Fatalf("%d %s: %v", r.StatusCode, r.Body, err)
		}
		return u
	}
	if got := open(s.upstreamRequest(t, tok.Access, "0", "")); got.Access != old.Access || f.refreshes != 0 {
		t.Errorf("the current one: version %d, %d refreshes", got.Version, f.refreshes)
	}
	for range 3 {
		if got := open(s.upstreamRequest(t, tok.Access, stale, "")); got.Version <= old.Version || f.refreshes != 1 {
			t.Errorf("version %d, %d refreshes", got.Version, f.refreshes)
		}
	}
	for name, r := range map[string]*authtest.Response{
		"no proof":         s.upstreamRequest(t, tok.Access, stale, "x"),
		"another's proof":  s.upstreamRequest(t, tok.Access, stale, authtest.Challenge("proof")),
		"no access token":  s.upstreamRequest(t, "", stale, ""),
		"a changed one":    s.upstreamRequest(t, tok.Access+"x", stale, ""),
		"no version":       s.upstreamRequest(t, tok.Access, "one", ""),
		"negative version": s.upstreamRequest(t, tok.Access, "-1", ""),
	} {
		if r.StatusCode < 400 || r.StatusCode >= 500 || f.refreshes != 1 {
			t.Errorf("%s: %d %s, %d refreshes", name, r.StatusCode, r.Body, f.refreshes)
		}
	}
	f.set(func(f *forge) { f.ended = true })
	latest := open(s.upstreamRequest(t, tok.Access, "0", ""))
	if got := s.upstreamRequest(t, tok.Access, fmt.Sprint(latest.Version), ""); got.Error() != "invalid_grant" {
		t.Errorf("ended: %d %s", got.StatusCode, got.Body)
	}
	if got := s.Refresh(t, s.PUB, tok.Refresh); got.Error() != "invalid_grant" {
		t.Errorf("the grant lives on: %d %s", got.StatusCode, got.Body)
	}
}

// A user who may not sign in gets a page and no tokens, and can choose another account at the next
// attempt: a provider that remembers the user would answer with the same one.
func TestUserWhoIsNotAllowed(t *testing.T) {
	p := upstreamtest.New(t, upstreamtest.Options{RedirectURIs: []string{authtest.Issuer + "/oauth/callback"}})
	s := withForge(t, "upstreams:\n  - "+p.Configuration("corp", "allow: {domains: [example.org]}"), false)
	b := s.NewBrowser()
	signIn := func(user, prompt string, edits ...authtest.Edit) *authtest.Response {
		t.Helper()
		to := s.leave(t, b, s.PUB, edits...)
		if got := to.Query().Get("prompt"); got != prompt {
			t.Errorf("the provider is asked with the prompt %q, want %q", got, prompt)
		}
		link, err := p.Authorize(t.Context(), to.String(), user)
		if err != nil {
			t.Fatal(err)
		}
		return b.Get(t, link)
	}
	for _, prompt := range []string{"", "select_account"} {
		got := signIn("ann", prompt)
		if got.StatusCode != http.StatusForbidden || !strings.Contains(got.Body, "may not sign in") {
			t.Errorf("%d %s", got.StatusCode, text(got))
		}
		if list, err := s.vault.Accounts(t.Context(), "", 10); err != nil || len(list) != 0 {
			t.Errorf("accounts: %v, %v", list, err)
		}
	}
	if got := signIn("ann", "login", set("prompt", "login")); got.StatusCode != http.StatusForbidden {
		t.Errorf("%d %s", got.StatusCode, text(got))
	}
	for name, cookie := range b.Cookies {
		if strings.HasSuffix(name, "_refused") {
			b.Cookies[name] = &http.Cookie{Name: name, Value: "ofAnotherProvider"}
			signIn("ann", "")
			b.Cookies[name] = cookie
			break
		}
	}
	if got := signIn("bob", "select_account"); got.Sent().Get("code") == "" {
		t.Fatalf("another account: %d %s", got.StatusCode, text(got))
	}
	maps.DeleteFunc(b.Cookies, func(name string, _ *http.Cookie) bool { return strings.Contains(name, "session") })
	signIn("bob", "")
}

// A disabled user loses the grants and cannot sign in again.
func TestDisabledUpstreamUser(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	tok := s.tokensAt(t, f, "ann", s.PUB)
	if err := s.vault.SetDisabled(t.Context(), annAtForge, true); err != nil {
		t.Fatal(err)
	}
	if got := s.Refresh(t, s.PUB, tok.Refresh); got.Error() != "invalid_grant" {
		t.Errorf("refresh: %d %s", got.StatusCode, got.Body)
	}
	if got := s.signInAt(t, f, s.NewBrowser(), "ann", s.PUB); got.StatusCode != http.StatusForbidden {
		t.Errorf("sign in: %d %s", got.StatusCode, text(got))
	}
}

// A login at a provider survives a restart, and a browser that has begun many keeps the latest.
func TestLoginAtAProviderSurvivesARestart_Row42(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	b := s.NewBrowser()
	var links []string
	for range 6 {
		links = append(links, f.approve("ann", s.leave(t, b, s.PUB)))
	}
	s.Restart(t)
	if got := b.Get(t, links[5]); got.Sent().Get("code") == "" {
		t.Errorf("%d %s", got.StatusCode, text(got))
	}
	kept := 0
	for _, link := range links[:5] {
		if b.Get(t, link).Sent().Get("code") != "" {
			kept++
		}
	}
	if kept != 3 {
		t.Errorf("of five earlier logins the browser keeps %d, want 3", kept)
	}
}

// Whatever is not too long for the authorization endpoint comes back from the provider: a login
// there has the scope twice.
func TestLongRequestComesBackFromTheProvider(t *testing.T) {
	f := newForge(t)
	var scopes []string
	for i := range 45 {
		scopes = append(scopes, fmt.Sprintf("scope-%02d-with-a-rather-long-name:read", i))
	}
	s := withForge(t, f.config(), false, func(cfg *authtest.Config) { cfg.Scopes, cfg.DefaultScopes = scopes, scopes })
	longest := 0
	for n := 100; ; n += 100 {
		b, state := s.NewBrowser(), strings.Repeat("s", n)
		page := b.Get(t, s.AuthorizeURL(s.PUB, set("scope", strings.Join(scopes, " "), "state", state)))
		if page.StatusCode != http.StatusOK {
			if !strings.Contains(page.Body, "too long") && !strings.Contains(page.Sent().Get("error_description"), "too long") {
				t.Errorf("a state of %d: %d %s", n, page.StatusCode, text(page))
			}
			break
		}
		to, err := url.Parse(b.Submit(t, page, set("decision", "approve")).Header.Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		if back := b.Get(t, f.approve("ann", to)); back.Sent().Get("code") == "" || back.Sent().Get("state") != state {
			t.Fatalf("a state of %d: %d %s", n, back.StatusCode, text(back))
		}
		longest = n
	}
	if longest == 0 {
		t.Error("even a short state is too long")
	}
}

// Logins at a provider never fill the cookies up: proxies refuse requests with too many.
func TestBegunLoginsLeaveRoomForOtherCookies(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	b := s.NewBrowser()
	var links []string
	for range 5 {
		links = append(links, f.approve("ann", s.leave(t, b, s.PUB, set("state", strings.Repeat("s", 1000)))))
		size := 0
		for _, c := range b.Cookies {
			size += len(c.Name) + len(c.Value)
		}
		if size > 7<<10 {
			t.Errorf("%d logins begun: %d bytes of cookies", len(links), size)
		}
	}
	if back := b.Get(t, links[4]); back.Sent().Get("code") == "" {
		t.Errorf("the last login: %d %s", back.StatusCode, text(back))
	}
	long := s.NewBrowser()
	if back := s.signInAt(t, f, long, "ann", s.PUB, set("state", strings.Repeat("s", 3000))); back.Sent().Get("code") == "" {
		t.Errorf("one long login: %d %s", back.StatusCode, text(back))
	}
}

// The account page shows the provider, and disconnecting it ends everything of the user.
func TestAccountPageShowsTheProvider(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	b := s.NewBrowser()
	back := s.signInAt(t, f, b, "ann", s.PUB)
	tok := s.Redeem(t, s.PUB, back.Sent().Get("code")).Tokens(t)
	page := b.Get(t, "/account")
	if !strings.Contains(page.Body, "Your account at") || strings.Contains(page.Body, `name="old"`) {
		t.Fatalf("%d %s", page.StatusCode, text(page))
	}
	_, hidden := page.Form(t)
	b.Post(t, "/account", url.Values{"token": {hidden.Get("token")}, "action": {"disconnect_provider"}})
	if got := s.Refresh(t, s.PUB, tok.Refresh); got.Error() != "invalid_grant" || len(s.settled) == 0 {
		t.Errorf("%d %s, told of %v", got.StatusCode, got.Body, s.settled)
	}
	// Without a session, the account page leads to the provider and back.
	fresh := s.NewBrowser()
	left := fresh.Get(t, "/account")
	to, err := url.Parse(left.Header.Get("Location"))
	if err != nil || !strings.HasPrefix(to.String(), f.URL) {
		t.Fatalf("%d %s", left.StatusCode, left.Header.Get("Location"))
	}
	if got := fresh.Get(t, f.approve("ann", to)); !strings.Contains(got.Body, "Your account at") {
		t.Errorf("%d %s", got.StatusCode, text(got))
	}
}

// loginCookie returns the browser's cookie of a login at a provider, opened.
func (s *upstreamServer) loginCookie(t *testing.T, b *authtest.Browser) (name string, l seal.UpstreamLogin) {
	t.Helper()
	for name, cookie := range b.Cookies {
		if l, err := seal.Open[seal.UpstreamLogin](s.Ring, cookie.Value); err == nil {
			return name, l
		}
	}
	t.Fatal("the browser has no login at a provider")
	return "", l
}

// keep puts a cookie into a browser.
func keep(b *authtest.Browser, name, value string) {
	b.Cookies[name] = &http.Cookie{Name: name, Value: value}
}

// A login at a provider is that of one browser, one epoch, one state and one configuration, ends once,
// and leads to a redirect URI that the client still has. Each refusal changes one thing of a
// login that would succeed.
func TestLoginAtAProviderIsBound_Row36(t *testing.T) {
	f, evil := newForge(t), newForge(t)
	s := withForge(t, f.config(), false)
	reseal := func(change func(*seal.UpstreamLogin)) func(*authtest.Browser, string) string {
		return func(b *authtest.Browser, link string) string {
			name, l := s.loginCookie(t, b)
			change(&l)
			raw, err := seal.Seal(s.Ring, l)
			if err != nil {
				t.Fatal(err)
			}
			keep(b, name, raw)
			return link
		}
	}
	other := seal.NewID(time.Now().Add(time.Hour))
	for name, change := range map[string]func(b *authtest.Browser, link string) string{
		"another browser": func(b *authtest.Browser, link string) string {
			name, _ := s.loginCookie(t, b)
			raw := b.Cookies[name].Value
			clear(b.Cookies)
			b.Get(t, s.AuthorizeURL(s.PUB)) // gives the browser another binding
			keep(b, name, raw)
			return link
		},
		"another state": func(b *authtest.Browser, link string) string {
			name, l := s.loginCookie(t, b)
			keep(b, strings.Replace(name, l.ID, other, 1), b.Cookies[name].Value)
			return strings.Replace(link, l.ID, other, 1)
		},
		"another epoch":                          reseal(func(l *seal.UpstreamLogin) { l.Login.Epoch = "another" }),
		"another configuration":                  reseal(func(l *seal.UpstreamLogin) { l.Bound = "another" }),
		"a provider that is gone":                reseal(func(l *seal.UpstreamLogin) { l.Provider = "gone" }),
		"a redirect URI that the client has not": reseal(func(l *seal.UpstreamLogin) { l.Login.RedirectURI = evil.URL + "/cb" }),
		"after the login": func(b *authtest.Browser, link string) string {
			name, _ := s.loginCookie(t, b)
			raw := b.Cookies[name].Value
			if back := b.Get(t, link); back.Sent().Get("code") == "" {
				t.Fatalf("the good request: %d %s", back.StatusCode, text(back))
			}
			keep(b, name, raw)
			f.approve("ann", &url.URL{RawQuery: url.Values{"client_id": {"signet"}, "response_type": {"code"}, "code_challenge_method": {"S256"}, "redirect_uri": {authtest.Issuer + "/oauth/callback"}, "state": {"s"}}.Encode()})
			return link
		},
	} {
		b := s.NewBrowser()
		link := change(b, f.approve("ann", s.leave(t, b, s.PUB)))
		exchanged := f.exchanges
		got, want := b.Get(t, link), http.StatusBadRequest
		if slices.Contains([]string{"another browser", "another state", "after the login"}, name) {
			want = http.StatusForbidden
		}
		if got.StatusCode != want || got.Header.Get("Location") != "" {
			t.Errorf("%s: %d %s %s", name, got.StatusCode, got.Header.Get("Location"), text(got))
		}
		if name != "a redirect URI that the client has not" && f.exchanges != exchanged {
			t.Errorf("%s: the provider was asked", name)
		}
	}
}

// The consent page is answered once, also if the answer leads to a provider.
func TestConsentBeforeLeavingCountsOnce(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	b := s.NewBrowser()
	page := b.Get(t, s.AuthorizeURL(s.PUB))
	if left := b.Submit(t, page, set("decision", "approve")); left.StatusCode != http.StatusSeeOther {
		t.Fatalf("%d %s", left.StatusCode, text(left))
	}
	for _, decision := range []string{"approve", "deny"} {
		if again := b.Submit(t, page, set("decision", decision)); again.StatusCode != http.StatusBadRequest || again.Header.Get("Location") != "" {
			t.Errorf("%s again: %d %s", decision, again.StatusCode, again.Header.Get("Location"))
		}
	}
}

// An upstream that refuses every token is not asked for another one at each call for ever.
func TestRefusedTokensAreLimited(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	tok := s.tokensAt(t, f, "ann", s.PUB)
	for n := int64(1); ; n++ {
		entry, err := s.vault.Get(t.Context(), annAtForge, "forge")
		if err != nil {
			t.Fatal(err)
		}
		got := s.upstreamRequest(t, tok.Access, fmt.Sprint(entry.Version), "")
		if got.StatusCode == http.StatusTooManyRequests {
			break
		}
		if got.StatusCode != http.StatusOK || n > 500 {
			t.Fatalf("request %d: %d %s", n, got.StatusCode, got.Body)
		}
	}
	if got := s.Refresh(t, s.PUB, tok.Refresh); got.StatusCode != http.StatusOK {
		t.Errorf("the grant: %d %s", got.StatusCode, got.Body)
	}
}

// Only OpenID providers tell of logouts.
func TestLogoutOfAnotherKindOfProvider(t *testing.T) {
	f := newForge(t)
	s := withForge(t, f.config(), false)
	for _, id := range []string{"forge", "nobody"} {
		if got := s.Post(t, "/oauth/backchannel-logout/"+id, "application/x-www-form-urlencoded", "logout_token=x"); got.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d %s", id, got.StatusCode, got.Body)
		}
	}
}
