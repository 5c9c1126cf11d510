package upstream_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signet/internal/test/upstreamtest"
	"signet/internal/upstream"
)

const callbackURL = "https://signet.example/oauth/callback"

const (
	verifier = "verifier-verifier-verifier-verifier-verifier"
	nonce    = "nonce-of-the-request"
)

// world is a provider, and what we know of it.
type world struct {
	*upstreamtest.Provider
	p *upstream.Provider
}

func newWorld(t *testing.T, o upstreamtest.Options, more ...string) *world {
	t.Helper()
	o.RedirectURIs = append(o.RedirectURIs, callbackURL)
	fake := upstreamtest.New(t, o)
	return &world{fake, parse(t, "upstreams:\n  - "+fake.Configuration("corp", more...)+"\n", "corp")}
}

// authorize lets a user sign in at the provider, and returns the parameters of the callback.
func (w *world) authorize(t *testing.T, name string) url.Values {
	t.Helper()
	at, err := w.p.AuthorizeURL(t.Context(), upstream.AuthRequest{RedirectURI: callbackURL, State: "the-state", Nonce: nonce, Verifier: verifier})
	if err != nil {
		t.Fatal(err)
	}
	back, err := w.Authorize(t.Context(), at, name)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(back)
	if err != nil {
		t.Fatal(err)
	}
	if got := u.Query().Get("state"); got != "the-state" {
		t.Errorf("the state is %q", got)
	}
	return u.Query()
}

func (w *world) callback(t *testing.T, name string) upstream.Callback {
	t.Helper()
	return upstream.Callback{Code: w.authorize(t, name).Get("code"), Verifier: verifier, Nonce: nonce, RedirectURI: callbackURL}
}

// signIn signs a user in.
func (w *world) signIn(t *testing.T, name string) (upstream.Identity, upstream.Tokens) {
	t.Helper()
	who, tokens, err := w.p.Exchange(t.Context(), w.callback(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return who, tokens
}

func TestOpenIDLogin_Row36(t *testing.T) {
	for name, o := range map[string]upstreamtest.Options{
		"ES256": {}, "RS256": {RSA: true}, "public client": {Public: true}, "post": {Manner: upstreamtest.Manner{PostOnly: true}},
		"strange secret": {ClientID: "a b:c", ClientSecret: `p%20+: "ü`},
	} {
		if name == "strange secret" {
			o.ClientID = "sign%40et"
		}
		w := newWorld(t, o)
		who, tokens := w.signIn(t, "ann")
		want := upstream.Identity{ID: "1001", Name: "ann", Email: "ann@example.com", EmailVerified: true, DisplayName: "Ann Example", Picture: "https://pictures.example/ann.png", Groups: []string{"staff"}, Session: "session-1"}
		if diff := cmp.Diff(want, who); diff != "" {
			t.Errorf("%s: the user (-want +got):\n%s", name, diff)
		}
		if w.Owner(tokens.Access) != "ann" || tokens.Refresh == "" || tokens.Expires-tokens.Obtained != 3600 || len(tokens.Scope) != 4 {
			t.Errorf("%s: the tokens are %+v", name, tokens)
		}
		if w.Count("userinfo") != 0 {
			t.Errorf("%s: the userinfo endpoint was asked, although the id token says all", name)
		}
		other, _ := w.signIn(t, "bob")
		if other.ID != "1002" || w.Count("discovery") != 1 {
			t.Errorf("%s: the other user is %+v, after %d discoveries", name, other, w.Count("discovery"))
		}
	}
}

func TestGitHubLogin(t *testing.T) {
	w := newWorld(t, upstreamtest.Options{Manner: upstreamtest.GitHub, Users: map[string]upstreamtest.User{"ann": {Password: "x", ID: "12345678901234567", Name: "Ann", Email: "ann@example.com"}}},
		"picture: avatar_url", "scopes_from: {claim: login, map: {ann: [read]}}")
	who, tokens := w.signIn(t, "ann")
	want := upstream.Identity{ID: "12345678901234567", Name: "ann", Email: "ann@example.com", DisplayName: "Ann", Scopes: []string{"read"}}
	if diff := cmp.Diff(want, who); diff != "" {
		t.Errorf("the user (-want +got):\n%s", diff)
	}
	if w.Owner(tokens.Access) != "ann" || tokens.Refresh != "" || tokens.Expires != 0 || len(tokens.Scope) != 1 {
		t.Errorf("the tokens are %+v", tokens)
	}
	if _, err := w.p.Refresh(t.Context(), tokens); !errors.Is(err, upstream.ErrNoRefresh) {
		t.Errorf("refresh: %v", err)
	}
	if err := w.p.Revoke(t.Context(), tokens); err != nil {
		t.Errorf("revoke: %v", err)
	}
	if err := w.p.Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
}

func TestAuthorizationRequest(t *testing.T) {
	w := newWorld(t, upstreamtest.Options{}, "authorize_params: {access_type: offline, audience: 'https://api.example/', prompt: consent}", "drop_params: [audience, resource]")
	for prompt, want := range map[string]string{"": "consent", "login": "consent"} {
		at, err := w.p.AuthorizeURL(t.Context(), upstream.AuthRequest{RedirectURI: callbackURL, State: "s", Nonce: nonce, Verifier: verifier, Prompt: prompt})
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(at)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		wantQuery := url.Values{
			"response_type": {"code"}, "client_id": {"signet"}, "redirect_uri": {callbackURL}, "state": {"s"}, "nonce": {nonce}, "scope": {"openid profile email offline_access"},
			"code_challenge": q["code_challenge"], "code_challenge_method": {"S256"}, "access_type": {"offline"}, "prompt": {want},
		}
		if diff := cmp.Diff(wantQuery, q); diff != "" || len(q.Get("code_challenge")) != 43 {
			t.Errorf("the request (-want +got):\n%s", diff)
		}
	}
	plain := newWorld(t, upstreamtest.Options{})
	if at, err := plain.p.AuthorizeURL(t.Context(), upstream.AuthRequest{RedirectURI: callbackURL, State: "s", Nonce: nonce, Verifier: verifier, Prompt: "login"}); err != nil || !strings.Contains(at, "prompt=login") {
		t.Errorf("got %s, %v, want prompt=login", at, err)
	}
	d := newWorld(t, upstreamtest.Options{}, "drop_params: [prompt]")
	at, err := d.p.AuthorizeURL(t.Context(), upstream.AuthRequest{RedirectURI: callbackURL, State: "s", Nonce: nonce, Verifier: verifier, Prompt: "login"})
	if err != nil || strings.Contains(at, "prompt") {
		t.Errorf("got %s, %v, want no prompt", at, err)
	}
}

// Each check of the callback's code refuses when one thing of a good exchange is changed.
func TestExchangeRefused(t *testing.T) {
	for name, change := range map[string]func(c *upstream.Callback){
		"code":         func(c *upstream.Callback) { c.Code = "code-other" },
		"verifier":     func(c *upstream.Callback) { c.Verifier += "x" },
		"redirect URI": func(c *upstream.Callback) { c.RedirectURI += "x" },
	} {
		w := newWorld(t, upstreamtest.Options{})
		c := w.callback(t, "ann")
		change(&c)
		if _, tokens, err := w.p.Exchange(t.Context(), c); !errors.Is(err, upstream.ErrRefused) || tokens.Access != "" {
			t.Errorf("%s: got %v", name, err)
		}
	}
	w := newWorld(t, upstreamtest.Options{})
	c := w.callback(t, "ann")
	if _, _, err := w.p.Exchange(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.p.Exchange(t.Context(), c); !errors.Is(err, upstream.ErrRefused) {
		t.Errorf("the code a second time: got %v", err)
	}
	g := newWorld(t, upstreamtest.Options{Manner: upstreamtest.GitHub})
	c = g.callback(t, "ann")
	c.Code += "x"
	if _, _, err := g.p.Exchange(t.Context(), c); !errors.Is(err, upstream.ErrRefused) {
		t.Errorf("a wrong code at GitHub: got %v", err)
	}
}

// Each check of the id token refuses, and it is no verdict about the code.
func TestIDTokenRefused(t *testing.T) {
	for name, change := range map[string]func(claims map[string]any){
		"iss":              func(c map[string]any) { c["iss"] = "https://other.example" },
		"aud":              func(c map[string]any) { c["aud"] = "other" },
		"azp":              func(c map[string]any) { c["azp"] = "other" },
		"aud without azp":  func(c map[string]any) { c["aud"] = []string{"signet", "other"} },
		"exp":              func(c map[string]any) { c["exp"] = time.Now().Add(-time.Minute).Unix() },
		"nbf":              func(c map[string]any) { c["nbf"] = time.Now().Add(time.Hour).Unix() },
		"nonce":            func(c map[string]any) { c["nonce"] = "other" },
		"no nonce":         func(c map[string]any) { delete(c, "nonce") },
		"at_hash":          func(c map[string]any) { c["at_hash"] = "AAAAAAAAAAAAAAAAAAAAAA" },
		"no sub":           func(c map[string]any) { delete(c, "sub") },
		"sub with control": func(c map[string]any) { c["sub"] = "a\nb" },
		"sub that is long": func(c map[string]any) { c["sub"] = strings.Repeat("x", 201) },
	} {
		w := newWorld(t, upstreamtest.Options{})
		w.Switch(func(s *upstreamtest.Switches) { s.Claims = change })
		if who, tokens, err := w.p.Exchange(t.Context(), w.callback(t, "ann")); err == nil || errors.Is(err, upstream.ErrRefused) || tokens.Access != "" {
			t.Errorf("%s: got %+v, %v", name, who, err)
		}
		w.Switch(func(s *upstreamtest.Switches) { s.Claims = nil })
		w.signIn(t, "ann")
	}
	w := newWorld(t, upstreamtest.Options{})
	w.Switch(func(s *upstreamtest.Switches) { s.NoIDToken = true })
	if _, _, err := w.p.Exchange(t.Context(), w.callback(t, "ann")); err == nil || errors.Is(err, upstream.ErrRefused) {
		t.Errorf("no id token: got %v", err)
	}
	w = newWorld(t, upstreamtest.Options{})
	w.Switch(func(s *upstreamtest.Switches) { s.Claims = func(c map[string]any) { delete(c, "nonce") } })
	c := w.callback(t, "ann")
	c.Nonce = ""
	if _, _, err := w.p.Exchange(t.Context(), c); err == nil {
		t.Error("a login without nonce is accepted")
	}
	w = newWorld(t, upstreamtest.Options{})
	w.Switch(func(s *upstreamtest.Switches) { s.KeysGone = true })
	if _, _, err := w.p.Exchange(t.Context(), w.callback(t, "ann")); err == nil || errors.Is(err, upstream.ErrRefused) {
		t.Errorf("no keys: got %v", err)
	}
	w.Switch(func(s *upstreamtest.Switches) { s.KeysGone = false })
	w.signIn(t, "ann")
}

// An id token signed by another key, or by none, or with duplicate members.
func TestIDTokenForged(t *testing.T) {
	other := upstreamtest.New(t, upstreamtest.Options{})
	w := newWorld(t, upstreamtest.Options{})
	claims := func() map[string]any {
		now := time.Now().Unix()
		return map[string]any{"iss": w.Issuer(), "aud": "signet", "sub": "1001", "iat": now, "exp": now + 300, "nonce": nonce, "email": "a@b.c", "name": "A"}
	}
	twice := strings.Replace(`{"sub":"1001","iss":"ISS","aud":"signet","exp":4102444800,"iat":1,"nonce":"nonce-of-the-request","name":"A","email":"a@b.c","email":"c@b.a"}`, "ISS", w.Issuer(), 1)
	for name, token := range map[string]string{
		"other key": other.Sign(claims()), "twice": w.SignText([]byte(twice)), "none": "eyJhbGciOiJub25lIn0." + strings.Split(w.Sign(claims()), ".")[1] + ".", "no JWT": "x.y", "": "",
	} {
		w.Switch(func(s *upstreamtest.Switches) {
			s.TokenAnswer = answerJSON(`{"access_token":"A","token_type":"Bearer","id_token":"` + token + `"}`)
		})
		if _, _, err := w.p.Exchange(t.Context(), w.callback(t, "ann")); err == nil || errors.Is(err, upstream.ErrRefused) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	w.Switch(func(s *upstreamtest.Switches) {
		s.TokenAnswer = answerJSON(`{"access_token":"A","token_type":"Bearer","id_token":"` + w.Sign(claims()) + `"}`)
	})
	if _, _, err := w.p.Exchange(t.Context(), w.callback(t, "ann")); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

func answerJSON(text string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, text)
	}
}

// answers are token answers that are not understood.
var answers = map[string]func(http.ResponseWriter){
	"page": func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, "<h1>access_token=x</h1>")
	},
	"long": func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"access_token":"A","x":"`)
		for range 10 << 10 {
			io.WriteString(w, strings.Repeat("x", 1<<10))
		}
		io.WriteString(w, `"}`)
	},
	"twice":      answerJSON(`{"access_token":"A","access_token":"B"}`),
	"no token":   answerJSON(`{"refresh_token":"A"}`),
	"other type": answerJSON(`{"access_token":"A","token_type":"mac"}`),
	"line end":   answerJSON(`{"access_token":"A\r\nB","token_type":"Bearer"}`),
	"array":      answerJSON(`[]`),
	"redirect": func(w http.ResponseWriter) {
		w.Header().Set("Location", "https://evil.example/token")
		w.WriteHeader(http.StatusTemporaryRedirect)
	},
	"other endpoint": func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"error":"invalid_request","token_endpoint":"https://evil.example/token"}`)
	},
	"form twice": func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/x-www-form-urlencoded")
		io.WriteString(w, "access_token=A&access_token=B")
	},
	"500": func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) },
	"invalid_grant of a proxy": func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadGateway)
		io.WriteString(w, `{"error":"invalid_grant"}`)
	},
}

func TestTokenAnswersThatAreNoVerdict(t *testing.T) {
	for name, answer := range answers {
		w := newWorld(t, upstreamtest.Options{})
		_, tokens := w.signIn(t, "ann")
		c := w.callback(t, "ann")
		w.Switch(func(s *upstreamtest.Switches) { s.TokenAnswer = answer })
		if _, _, err := w.p.Exchange(t.Context(), c); err == nil || errors.Is(err, upstream.ErrRefused) {
			t.Errorf("%s: exchange: got %v", name, err)
		}
		if _, err := w.p.Refresh(t.Context(), tokens); err == nil || errors.Is(err, upstream.ErrRefused) || strings.Contains(err.Error(), tokens.Refresh) {
			t.Errorf("%s: refresh: got %v", name, err)
		}
	}
}

// An error of a provider that repeats what it was sent does not show it.
func TestErrorsShowNoSecret(t *testing.T) {
	w := newWorld(t, upstreamtest.Options{})
	_, tokens := w.signIn(t, "ann")
	w.Switch(func(s *upstreamtest.Switches) {
		s.TokenAnswer = func(rw http.ResponseWriter) {
			rw.Header().Set("Content-Type", "application/json")
			rw.WriteHeader(http.StatusBadRequest)
			io.WriteString(rw, `{"error":"invalid_scope","error_description":"the token `+tokens.Refresh+` of `+w.ClientSecret()+`"}`)
		}
	})
	_, err := w.p.Refresh(t.Context(), tokens)
	if err == nil || !strings.Contains(err.Error(), "invalid_scope") || strings.Contains(err.Error(), tokens.Refresh) || strings.Contains(err.Error(), w.ClientSecret()) {
		t.Errorf("got %v", err)
	}
}

func TestRefresh_Row38(t *testing.T) {
	w := newWorld(t, upstreamtest.Options{})
	_, old := w.signIn(t, "ann")
	w.Switch(func(s *upstreamtest.Switches) { s.KeysGone = true }) // which a refresh must not need
	fresh, err := w.p.Refresh(t.Context(), old)
	if err != nil || fresh.Access == old.Access || fresh.Refresh == old.Refresh || w.Owner(fresh.Access) != "ann" || fresh.Expires-fresh.Obtained != 3600 {
		t.Fatalf("got %+v, %v", fresh, err)
	}
	w.Switch(func(s *upstreamtest.Switches) { s.NoRotation = true })
	kept, err := w.p.Refresh(t.Context(), fresh)
	if err != nil || kept.Refresh != fresh.Refresh {
		t.Errorf("without rotation: got %+v, %v", kept, err)
	}
	w.Switch(func(s *upstreamtest.Switches) { s.Unavailable = true })
	if _, err := w.p.Refresh(t.Context(), kept); err == nil || errors.Is(err, upstream.ErrRefused) {
		t.Errorf("unavailable: got %v", err)
	}
	w.Switch(func(s *upstreamtest.Switches) { s.Unavailable = false })
	w.Down()
	if _, err := w.p.Refresh(t.Context(), kept); err == nil || errors.Is(err, upstream.ErrRefused) {
		t.Errorf("down: got %v", err)
	}
	if err := w.Up(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.p.Refresh(t.Context(), kept); err != nil {
		t.Errorf("after that: %v", err)
	}
	if _, err := w.p.Refresh(t.Context(), old); !errors.Is(err, upstream.ErrRefused) || w.Count("reuse") != 1 {
		t.Errorf("a rotated token: got %v", err)
	}
	if _, err := w.p.Refresh(t.Context(), kept); !errors.Is(err, upstream.ErrRefused) {
		t.Errorf("its family: got %v", err)
	}
	if got := w.Count("refresh ann"); got != 3 {
		t.Errorf("%d refreshes, want 3", got)
	}
}

// A malformed life of the access token does not cost the refresh token.
func TestRefreshKeepsWhatCameWithNonsense(t *testing.T) {
	w := newWorld(t, upstreamtest.Options{})
	_, tokens := w.signIn(t, "ann")
	for life, want := range map[string]int64{`"soon"`: 0, `3599.9`: 3599, `"60"`: 60, `-1`: 0, `{}`: 0, `1e99`: 1<<31 - 1} {
		w.Switch(func(s *upstreamtest.Switches) {
			s.TokenAnswer = answerJSON(`{"access_token":"A","refresh_token":"R","expires_in":` + life + `,"id_token":7,"scope":["a","b"]}`)
		})
		fresh, err := w.p.Refresh(t.Context(), tokens)
		if err != nil || fresh.Refresh != "R" || fresh.Expires != 0 && fresh.Expires-fresh.Obtained != want || fresh.Expires == 0 && want != 0 || len(fresh.Scope) != 2 {
			t.Errorf("%s: got %+v, %v", life, fresh, err)
		}
		if tokens, err = freshTokens(w, t); err != nil {
			t.Fatal(err)
		}
	}
}

func freshTokens(w *world, t *testing.T) (upstream.Tokens, error) {
	w.Switch(func(s *upstreamtest.Switches) { s.TokenAnswer = nil })
	_, tokens, err := w.p.Exchange(t.Context(), w.callback(t, "ann"))
	return tokens, err
}

func TestWrongClientSecretIsNoVerdict(t *testing.T) {
	fake := upstreamtest.New(t, upstreamtest.Options{RedirectURIs: []string{callbackURL}})
	text := "upstreams:\n  - {id: corp, type: oidc, issuer: " + fake.Issuer() + ", client_id: signet, client_secret: wrong}\n"
	w := &world{fake, parse(t, text, "corp")}
	if _, _, err := w.p.Exchange(t.Context(), w.callback(t, "ann")); err == nil || errors.Is(err, upstream.ErrRefused) || !strings.Contains(err.Error(), "invalid_client") {
		t.Errorf("got %v", err)
	}
	if got := w.Count("code"); got != 0 {
		t.Errorf("%d codes redeemed", got)
	}
}

// A provider whose configuration does not say how it takes the secret is asked once more only if
// it did not identify the client.
func TestClientAuthenticationIsFound(t *testing.T) {
	w := newWorld(t, upstreamtest.Options{Manner: upstreamtest.GitHub})
	w.signIn(t, "ann")
	if strings.Contains(w.Log(), "Authorization: Basic") {
		t.Error("the secret was sent in the header first")
	}
	before := strings.Count(w.Log(), "POST /login/oauth/access_token")
	c := w.callback(t, "ann")
	c.Code += "x"
	if _, _, err := w.p.Exchange(t.Context(), c); !errors.Is(err, upstream.ErrRefused) {
		t.Errorf("got %v", err)
	}
	if got := strings.Count(w.Log(), "POST /login/oauth/access_token") - before; got != 1 {
		t.Errorf("a refused code was sent %d times", got)
	}
	first := newWorld(t, upstreamtest.Options{Manner: upstreamtest.GitHub})
	c = first.callback(t, "ann")
	c.Code += "x"
	if _, _, err := first.p.Exchange(t.Context(), c); !errors.Is(err, upstream.ErrRefused) || strings.Count(first.Log(), "POST /login/oauth/access_token") != 1 {
		t.Errorf("a refused code before any other: got %v", err)
	}
}

func TestRevoke(t *testing.T) {
	w := newWorld(t, upstreamtest.Options{})
	_, tokens := w.signIn(t, "ann")
	if err := w.p.Revoke(t.Context(), tokens); err != nil {
		t.Fatal(err)
	}
	if w.Live(tokens.Refresh) || w.Live(tokens.Access) || w.Count("revocation") != 1 {
		t.Errorf("the tokens are live after %d revocations", w.Count("revocation"))
	}
	_, tokens = w.signIn(t, "ann")
	tokens.Refresh = ""
	if err := w.p.Revoke(t.Context(), tokens); err != nil || w.Live(tokens.Access) {
		t.Errorf("without a refresh token: %v", err)
	}
	w.Switch(func(s *upstreamtest.Switches) { s.Unavailable = true })
	if err := w.p.Revoke(t.Context(), tokens); err == nil {
		t.Error("no error while the provider is unavailable")
	}
}

// The response must be of the provider that was asked (RFC 9207).
func TestIssuerOfTheCallback(t *testing.T) {
	sends, silent := newWorld(t, upstreamtest.Options{Manner: upstreamtest.Strict}), newWorld(t, upstreamtest.Options{})
	for _, c := range []struct {
		name string
		p    *upstream.Provider
		iss  string
		ok   bool
	}{
		{"its own", sends.p, sends.Issuer(), true},
		{"missing though promised", sends.p, "", false},
		{"another", sends.p, silent.Issuer(), false},
		{"with a slash", sends.p, sends.Issuer() + "/", false},
		{"missing", silent.p, "", true},
		{"its own though not promised", silent.p, silent.Issuer(), true},
		{"another though not promised", silent.p, sends.Issuer(), false},
	} {
		if err := c.p.CheckIssuer(t.Context(), c.iss); (err == nil) != c.ok {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
	if got := sends.authorize(t, "ann").Get("iss"); got != sends.Issuer() {
		t.Errorf("the callback has the iss %q", got)
	}
}

// Of a provider whose issuer is not known, only the issuer of another provider is foreign.
func TestIssuerOfAProviderWithoutOne(t *testing.T) {
	corp, forge := upstreamtest.New(t, upstreamtest.Options{}), upstreamtest.New(t, upstreamtest.Options{Manner: upstreamtest.GitHub})
	p := parse(t, "upstreams:\n  - "+corp.Configuration("corp")+"\n  - "+forge.Configuration("forge")+"\n", "forge")
	for iss, ok := range map[string]bool{"": true, "https://forge.example": true, corp.Issuer(): false} {
		if err := p.CheckIssuer(t.Context(), iss); (err == nil) != ok {
			t.Errorf("%q: got %v", iss, err)
		}
	}
}

// Start does not need the provider, and discovery is tried again.
func TestDiscoveryWhileDown(t *testing.T) {
	w := newWorld(t, upstreamtest.Options{})
	w.Down()
	if _, err := w.p.AuthorizeURL(t.Context(), upstream.AuthRequest{Verifier: verifier}); err == nil {
		t.Error("an URL without discovery")
	}
	if err := w.p.Check(t.Context()); err == nil {
		t.Error("it answers")
	}
	if err := w.Up(); err != nil {
		t.Fatal(err)
	}
	if err := w.p.Check(t.Context()); err != nil {
		t.Error(err)
	}
	w.signIn(t, "ann")
}

// A discovery document that is old serves while a newer one cannot be had, and then no longer.
func TestOldDiscoveryDocument(t *testing.T) {
	w := newWorld(t, upstreamtest.Options{})
	w.signIn(t, "ann")
	upstream.Age(w.p)
	w.Switch(func(s *upstreamtest.Switches) { s.NoDiscovery = true })
	w.signIn(t, "ann")
	w.Switch(func(s *upstreamtest.Switches) { s.NoDiscovery = false })
	for upstream.IsOld(w.p) {
		w.signIn(t, "ann")
	}
}

// A caller who has gone does not wait for a provider that hangs.
func TestExchangeEndsWithItsContext(t *testing.T) {
	w := newWorld(t, upstreamtest.Options{})
	c := w.callback(t, "ann")
	hold := make(chan struct{})
	defer close(hold)
	w.Switch(func(s *upstreamtest.Switches) { s.Hold = hold })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := w.p.Exchange(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// discoveryServer serves a discovery document that the test writes.
func discoveryServer(t *testing.T, edit func(issuer string) string) *upstream.Provider {
	t.Helper()
	a := newAPI(t)
	a.answer = edit(a.URL)
	return parse(t, "upstreams:\n  - {id: corp, type: oidc, issuer: "+a.URL+", client_id: signet, client_secret: quiet}\n", "corp")
}

func TestDiscoveryRefused(t *testing.T) {
	const document = `{"issuer":"ISS","authorization_endpoint":"ISS/a","token_endpoint":"ISS/t","jwks_uri":"ISS/k"}`
	for name, change := range map[string][2]string{
		"issuer":           {`"issuer":"ISS"`, `"issuer":"https://other.example"`},
		"issuer and slash": {`"issuer":"ISS"`, `"issuer":"ISS/"`},
		"no issuer":        {`"issuer":"ISS",`, ``},
		"twice":            {`"issuer":"ISS"`, `"issuer":"ISS","issuer":"ISS"`},
		"http elsewhere":   {`ISS/t`, `http://evil.example/t`},
		"no token":         {`"token_endpoint":"ISS/t",`, ``},
		"no keys":          {`,"jwks_uri":"ISS/k"`, ``},
		"type":             {`"ISS/t"`, `7`},
		"page":             {document, `<h1>Hello</h1>`},
	} {
		p := discoveryServer(t, func(iss string) string {
			return strings.ReplaceAll(strings.Replace(document, change[0], change[1], 1), "ISS", iss)
		})
		if at, err := p.AuthorizeURL(t.Context(), upstream.AuthRequest{Verifier: verifier}); err == nil {
			t.Errorf("%s: got %s", name, at)
		}
	}
	p := discoveryServer(t, func(iss string) string { return strings.ReplaceAll(document, "ISS", iss) })
	if _, err := p.AuthorizeURL(t.Context(), upstream.AuthRequest{Verifier: verifier}); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

func TestUserInfoCompletesTheIDToken(t *testing.T) {
	w := newWorld(t, upstreamtest.Options{}, "allow: {groups: [staff]}")
	w.Switch(func(s *upstreamtest.Switches) {
		s.Claims = func(c map[string]any) {
			for _, name := range []string{"email", "email_verified", "groups", "name", "picture"} {
				delete(c, name)
			}
		}
	})
	who, _ := w.signIn(t, "ann")
	if who.Email != "ann@example.com" || !who.EmailVerified || w.Count("userinfo") != 1 || w.p.Permit(who) != nil {
		t.Errorf("the user is %+v", who)
	}
	bob, _ := w.signIn(t, "bob")
	if err := w.p.Permit(bob); !errors.Is(err, upstream.ErrNotAllowed) {
		t.Errorf("bob: got %v", err)
	}
	w.Switch(func(s *upstreamtest.Switches) {
		s.Claims = func(c map[string]any) { c["sub"] = "1002"; delete(c, "email") }
	})
	if _, _, err := w.p.Exchange(t.Context(), w.callback(t, "ann")); err == nil {
		t.Error("userinfo of another user is taken")
	}
	// An access token that the userinfo endpoint does not take is for another API.
	w.Switch(func(s *upstreamtest.Switches) {
		s.Claims = func(c map[string]any) { delete(c, "email") }
		s.NoUserInfo = true
	})
	if who, _ := w.signIn(t, "ann"); who.Email != "" || who.EmailVerified {
		t.Errorf("the user is %+v", who)
	}
	w.Switch(func(s *upstreamtest.Switches) { s.Claims = func(c map[string]any) { delete(c, "groups") } })
	if _, _, err := w.p.Exchange(t.Context(), w.callback(t, "ann")); err == nil {
		t.Error("the user's groups are not known, and the user is let in")
	}
	w.Switch(func(s *upstreamtest.Switches) { s.NoUserInfo = false })
	// The address of the id token is not verified by what userinfo says of another one.
	w.Switch(func(s *upstreamtest.Switches) {
		s.Claims = func(c map[string]any) {
			c["email"] = "boss@example.com"
			delete(c, "email_verified")
			delete(c, "groups")
		}
	})
	if who, _ := w.signIn(t, "ann"); who.Email != "boss@example.com" || who.EmailVerified {
		t.Errorf("the user is %+v", who)
	}
	// Neither is that of another claim.
	w = newWorld(t, upstreamtest.Options{}, "email: upn")
	w.Switch(func(s *upstreamtest.Switches) {
		s.Claims = func(c map[string]any) {
			c["upn"] = "boss@example.com"
			for _, name := range []string{"email", "email_verified", "name"} {
				delete(c, name)
			}
		}
	})
	if who, _ := w.signIn(t, "ann"); who.Email != "boss@example.com" || who.EmailVerified || who.DisplayName != "Ann Example" {
		t.Errorf("the user is %+v", who)
	}
}

// An address that the provider has not verified counts for nothing.
func TestAddressThatIsNotVerified(t *testing.T) {
	w := newWorld(t, upstreamtest.Options{Users: map[string]upstreamtest.User{"eve": {Password: "x", ID: "1", Name: "Eve", Email: "eve@example.com", Unverified: true}}}, "allow: {domains: [example.com]}", "trust_email: true")
	who, _ := w.signIn(t, "eve")
	if err := w.p.Permit(who); who.EmailVerified || !errors.Is(err, upstream.ErrNotAllowed) {
		t.Errorf("%+v: got %v", who, err)
	}
}

// The user of a logout token is known by the same claim as at the login.
func TestLogoutTokenOfAnotherClaim(t *testing.T) {
	w := newWorld(t, upstreamtest.Options{}, "user_id: preferred_username")
	who, _ := w.signIn(t, "ann")
	claims := w.LogoutClaims("ann")
	if got, err := w.p.Logout(t.Context(), w.Sign(claims)); !errors.Is(err, upstream.ErrLogoutToken) {
		t.Errorf("without the claim: got %+v, %v", got, err)
	}
	claims["preferred_username"] = "ann"
	if got, err := w.p.Logout(t.Context(), w.Sign(claims)); err != nil || got.Subject != who.ID {
		t.Errorf("got %+v, %v, want the user %s", got, err, who.ID)
	}
}

func TestLogoutToken(t *testing.T) {
	w := newWorld(t, upstreamtest.Options{})
	claims := w.LogoutClaims("ann")
	claims["sid"] = "session-1"
	got, err := w.p.Logout(t.Context(), w.Sign(claims))
	want := upstream.Logout{Subject: "1001", Session: "session-1", ID: claims["jti"].(string), Expires: claims["exp"].(int64)}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("got %v (-want +got):\n%s", err, diff)
	}
	const event = "http://schemas.openid.net/event/backchannel-logout"
	for name, change := range map[string]func(c map[string]any){
		"iss":          func(c map[string]any) { c["iss"] = "https://other.example" },
		"aud":          func(c map[string]any) { c["aud"] = "other" },
		"exp":          func(c map[string]any) { c["exp"] = time.Now().Add(-time.Minute).Unix() },
		"no exp":       func(c map[string]any) { delete(c, "exp") },
		"no iat":       func(c map[string]any) { delete(c, "iat") },
		"no jti":       func(c map[string]any) { delete(c, "jti") },
		"no sub":       func(c map[string]any) { delete(c, "sub") },
		"nonce":        func(c map[string]any) { c["nonce"] = "x" },
		"no event":     func(c map[string]any) { delete(c, "events") },
		"other event":  func(c map[string]any) { c["events"] = map[string]any{"x": map[string]any{}} },
		"event a text": func(c map[string]any) { c["events"] = map[string]any{event: "x"} },
	} {
		claims := w.LogoutClaims("ann")
		change(claims)
		if got, err := w.p.Logout(t.Context(), w.Sign(claims)); !errors.Is(err, upstream.ErrLogoutToken) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	other := upstreamtest.New(t, upstreamtest.Options{})
	for name, token := range map[string]string{"other key": other.Sign(w.LogoutClaims("ann")), "no JWT": "x", "long": strings.Repeat("x", 1<<20), "empty": ""} {
		if got, err := w.p.Logout(t.Context(), token); !errors.Is(err, upstream.ErrLogoutToken) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	claims = w.LogoutClaims("ann")
	claims["x"] = strings.Repeat("x", 20<<10)
	if got, err := w.p.Logout(t.Context(), w.Sign(claims)); !errors.Is(err, upstream.ErrLogoutToken) {
		t.Errorf("a long one: got %+v, %v", got, err)
	}
	before := w.Count("keys")
	for range 50 {
		if _, err := w.p.Logout(t.Context(), other.Sign(w.LogoutClaims("ann"))); !errors.Is(err, upstream.ErrLogoutToken) {
			t.Errorf("a forged one: %v", err)
		}
	}
	if n := w.Count("keys") - before; n > 25 {
		t.Errorf("50 forged tokens had the keys fetched %d times", n)
	}
	fresh := newWorld(t, upstreamtest.Options{})
	fresh.Switch(func(s *upstreamtest.Switches) { s.KeysGone = true })
	if _, err := fresh.p.Logout(t.Context(), fresh.Sign(fresh.LogoutClaims("ann"))); err == nil || errors.Is(err, upstream.ErrLogoutToken) {
		t.Errorf("without keys: got %v", err)
	}
	// An id token is no logout token.
	w.Switch(func(s *upstreamtest.Switches) { s.Claims = nil })
	_, tokens := w.signIn(t, "ann")
	if got, err := w.p.Logout(t.Context(), tokens.Access); !errors.Is(err, upstream.ErrLogoutToken) {
		t.Errorf("an access token: got %+v, %v", got, err)
	}
}
