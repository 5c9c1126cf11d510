package upstream_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"signet/internal/test/upstreamtest"
	"signet/internal/upstream"
)

// Each preset signs users in at a provider that behaves as the documents of the real one say, and
// gets a refresh token where the provider gives them.
func TestPresets(t *testing.T) {
	for preset, c := range map[string]struct {
		manner  upstreamtest.Manner
		more    string
		refresh bool
	}{
		"google":   {upstreamtest.Google, "", true},
		"github":   {upstreamtest.GitHub, "authorization_endpoint: URL/login/oauth/authorize, token_endpoint: URL/login/oauth/access_token, userinfo_endpoint: URL/user, ", false},
		"entra":    {upstreamtest.Entra, "authorize_params: {resource: 'https://graph.example'}, ", true},
		"keycloak": {upstreamtest.Keycloak, "", true},
		"okta":     {upstreamtest.Okta, "", true},
		"auth0":    {upstreamtest.Auth0, "authorize_params: {audience: 'https://api.example'}, ", true},
		"gitlab":   {upstreamtest.GitLab, "", true},
	} {
		fake := upstreamtest.New(t, upstreamtest.Options{Manner: c.manner, RedirectURIs: []string{callbackURL}})
		issuer := "issuer: " + fake.Issuer() + ", "
		if preset == "github" {
			issuer = ""
		}
		entry := "{id: corp, preset: " + preset + ", " + issuer + strings.ReplaceAll(c.more, "URL", fake.URL()) + "client_id: signet, client_secret: " + fake.ClientSecret() + "}"
		w := &world{fake, parse(t, "upstreams:\n  - "+entry+"\n", "corp")}
		who, tokens := w.signIn(t, "ann")
		if who.ID != "1001" || who.Name != "ann" || who.DisplayName != "Ann Example" || who.Email != "ann@example.com" || who.EmailVerified != (preset != "entra") || who.Picture != "https://pictures.example/ann.png" {
			t.Errorf("%s: the user is %+v", preset, who)
		}
		if (tokens.Refresh != "") != c.refresh {
			t.Errorf("%s: the refresh token is %q", preset, tokens.Refresh)
		}
		if err := w.p.Check(t.Context()); err != nil {
			t.Errorf("%s: %v", preset, err)
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.TrimSuffix(fake.Issuer(), "/")+"/api/me", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+tokens.Access)
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: the API answers %d", preset, resp.StatusCode)
		}
		if !c.refresh {
			continue
		}
		if fresh, err := w.p.Refresh(t.Context(), tokens); err != nil || w.Owner(fresh.Access) != "ann" {
			t.Errorf("%s: refresh: %+v, %v", preset, fresh, err)
		}
		w.EndGrants("ann")
		if _, err := w.p.Refresh(t.Context(), tokens); err == nil || !strings.Contains(err.Error(), upstream.ErrRefused.Error()) {
			t.Errorf("%s: refresh after the end: %v", preset, err)
		}
	}
}

// Without its preset, each of these providers refuses the request or gives no refresh token: the
// fakes are as strict as the presets need.
func TestProvidersWithoutTheirPresets(t *testing.T) {
	for name, c := range map[string]struct {
		manner upstreamtest.Manner
		more   string
	}{
		"google, no parameters": {upstreamtest.Google, "scopes: [openid]"},
		"google, its scope":     {upstreamtest.Google, "scopes: [openid, offline_access]"},
		"entra, no scope":       {upstreamtest.Entra, "scopes: [openid]"},
		"entra, resource":       {upstreamtest.Entra, "scopes: [openid, offline_access], authorize_params: {resource: x}"},
		"okta, no scope":        {upstreamtest.Okta, "scopes: [openid]"},
		"auth0, no scope":       {upstreamtest.Auth0, "scopes: [openid]"},
		"gitlab, its scope":     {upstreamtest.GitLab, "scopes: [openid, offline_access]"},
	} {
		fake := upstreamtest.New(t, upstreamtest.Options{Manner: c.manner, RedirectURIs: []string{callbackURL}})
		entry := "{id: corp, type: oidc, issuer: " + fake.Issuer() + ", client_id: signet, client_secret: " + fake.ClientSecret() + ", " + c.more + "}"
		w := &world{fake, parse(t, "upstreams:\n  - "+entry+"\n", "corp")}
		back := w.authorize(t, "ann")
		if back.Get("error") != "" {
			continue
		}
		if _, tokens, err := w.p.Exchange(t.Context(), upstream.Callback{Code: back.Get("code"), Verifier: verifier, Nonce: nonce, RedirectURI: callbackURL}); err != nil || tokens.Refresh != "" {
			t.Errorf("%s: got %+v, %v, want a login without refresh token", name, tokens, err)
		}
	}
}

func TestPresetsNameTheirProviders(t *testing.T) {
	for preset, want := range map[string][2]string{"google": {"accounts.google.com", "Google"}, "github": {"github.com", "GitHub"}, "gitlab": {"gitlab.com", "GitLab"}} {
		p := parse(t, "upstreams:\n  - {id: x, preset: "+preset+", client_id: a, client_secret: b}\n", "x")
		if p.Host() != want[0] || p.Name() != want[1] {
			t.Errorf("%s: host %s, name %s", preset, p.Host(), p.Name())
		}
	}
	for entry, want := range map[string]string{
		"preset: entra, client_id: a": "line 2: upstreams[0].issuer: is missing; it has the form https://login.microsoftonline.com/TENANT-ID/v2.0",
		"preset: entra, client_id: a, issuer: 'https://login.microsoftonline.com/common/v2.0'": "line 2: upstreams[0].issuer: must be in the form",
		"preset: keycloak, client_id: a, issuer: 'https://id.example/'":                        "upstreams[0].issuer: must be in the form https://HOST/realms/REALM",
		"preset: auth0, client_id: a, issuer: 'https://x.auth0.com'":                           "upstreams[0].issuer: must be in the form",
		"preset: okta, client_id: a, issuer: 'https://x.okta.com/'":                            "upstreams[0].issuer: must be in the form",
		"preset: google":                                                          "upstreams[0].client_id: is missing",
		"preset: gogle, client_id: a":                                             "line 2: upstreams[0].preset: must be one of auth0, entra, github, gitlab, google, keycloak, okta",
		"preset: [google], client_id: a":                                          "line 2: upstreams[0].preset: must be one of",
		"preset: github, client_id: a, issuer_form: x":                            "line 2: upstreams[0].issuer_form: is not known",
		"preset: github, client_id: a, issuer_pattern: x":                         "line 2: upstreams[0].issuer_pattern: is not known",
		"preset: google, client_id: a, login: {path: a, body: {p: '{password}'}}": "upstreams[0].login",
	} {
		_, err := upstream.Parse([]byte("upstreams:\n  - {id: x, "+entry+"}\n"), environ)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", entry, err, want)
		}
	}
}

func TestScopesThatDoNotExist(t *testing.T) {
	set, err := upstream.Parse([]byte(good), environ)
	if err != nil {
		t.Fatal(err)
	}
	if err := set.CheckScopes([]string{"read", "write"}); err != nil {
		t.Error(err)
	}
	if err := set.CheckScopes([]string{"read"}); err == nil || err.Error() != "line 17: upstreams[2].scopes_from.map.staff: the scope write does not exist" {
		t.Errorf("got %v", err)
	}
}

// The address of a user whose profile at GitHub shows none.
func TestGitHubPrivateAddress(t *testing.T) {
	users := map[string]upstreamtest.User{
		"ann": {Password: "x", ID: "1", Email: "ann@example.com", Private: true},
		"bob": {Password: "x", ID: "2", Email: "bob@example.com", Private: true, Unverified: true},
	}
	fake := upstreamtest.New(t, upstreamtest.Options{Manner: upstreamtest.GitHub, RedirectURIs: []string{callbackURL}, Users: users})
	entry := strings.ReplaceAll("{id: corp, preset: github, authorization_endpoint: URL/login/oauth/authorize, token_endpoint: URL/login/oauth/access_token, userinfo_endpoint: URL/user, MORE client_id: signet, client_secret: "+fake.ClientSecret()+", allow: {domains: [example.com]}}", "URL", fake.URL())
	for _, c := range []struct {
		name, more, user, email string
	}{
		{"verified", "emails_endpoint: URL/user/emails,", "ann", "ann@example.com"},
		{"not verified", "emails_endpoint: URL/user/emails,", "bob", ""},
		{"without the scope", "emails_endpoint: URL/user/emails, scopes: [user],", "ann", ""},
		{"verified, not trusted", "emails_endpoint: URL/user/emails, trust_email: false,", "ann", "ann@example.com"},
		{"endpoint of the preset", "", "ann", ""}, // which is at another server than the others
	} {
		text := strings.ReplaceAll(strings.Replace(entry, "MORE", c.more, 1), "URL", fake.URL())
		w := &world{fake, parse(t, "upstreams:\n  - "+text+"\n", "corp")}
		who, _ := w.signIn(t, c.user)
		if who.Email != c.email || who.EmailVerified != (c.email != "") || (w.p.Permit(who) == nil) != (c.email != "") {
			t.Errorf("%s: the user is %+v", c.name, who)
		}
	}
}

// A client secret that counts in the header only, at a provider that does not say so.
func TestSecretInTheHeaderOnly(t *testing.T) {
	w := newWorld(t, upstreamtest.Options{Manner: upstreamtest.Manner{GitHub: true, HeaderOnly: true}})
	revocation := "revocation_endpoint: " + w.URL() + "/revoke"
	before := strings.Count(w.Log(), "POST /login/oauth/access_token")
	w.signIn(t, "ann")
	w.signIn(t, "bob")
	if got := strings.Count(w.Log(), "POST /login/oauth/access_token") - before; got != 3 {
		t.Errorf("the token endpoint was asked %d times, want 3: the way was found at the first login", got)
	}
	_, tokens := w.signIn(t, "ann")
	started := parse(t, "upstreams:\n  - "+w.Configuration("corp", revocation)+"\n", "corp")
	if err := started.Revoke(t.Context(), tokens); err != nil || w.Live(tokens.Access) {
		t.Errorf("a process that has not seen a login: %v", err)
	}
}

// A token endpoint that answers 401 in its own words did not identify the client.
func TestSecretInTheHeaderOnlyInOwnWords(t *testing.T) {
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, secret, basic := r.BasicAuth()
		switch {
		case r.URL.Path == "/u":
			io.WriteString(w, `{"sub":"1001"}`)
		case !basic || secret != "quiet":
			asked = append(asked, "refused")
			http.Error(w, "<h1>Who are you?</h1>", http.StatusUnauthorized)
		default:
			asked = append(asked, "accepted")
			io.WriteString(w, `{"access_token":"A","token_type":"bearer"}`)
		}
	}))
	defer s.Close()
	for secret, want := range map[string]string{"quiet": "refused accepted", "wrong": "refused refused"} {
		asked = nil
		p := parse(t, strings.ReplaceAll("upstreams: [{id: x, type: oauth2, authorization_endpoint: URL/a, token_endpoint: URL/t, userinfo_endpoint: URL/u, client_id: signet, client_secret: "+secret+"}]", "URL", s.URL), "x")
		who, _, err := p.Exchange(t.Context(), upstream.Callback{Code: "c", Verifier: verifier, RedirectURI: callbackURL})
		if got := strings.Join(asked, " "); got != want || (who.ID == "1001") != (secret == "quiet") || errors.Is(err, upstream.ErrRefused) {
			t.Errorf("%s: %s, %+v, %v", secret, got, who, err)
		}
	}
}

// Tokens are deleted at GitHub in its own manner, and the client's secret is never sent to GitHub
// for tokens of another server.
func TestGitHubDeletesTokens(t *testing.T) {
	fake := upstreamtest.New(t, upstreamtest.Options{Manner: upstreamtest.GitHub, RedirectURIs: []string{callbackURL}})
	entry := strings.ReplaceAll("{id: corp, preset: github, authorization_endpoint: URL/login/oauth/authorize, token_endpoint: URL/login/oauth/access_token, userinfo_endpoint: URL/user, client_id: signet, client_secret: "+fake.ClientSecret(), "URL", fake.URL())
	with := &world{fake, parse(t, "upstreams:\n  - "+entry+", deletion_endpoint: '"+fake.URL()+"/applications/{client_id}/token'}\n", "corp")}
	_, tokens := with.signIn(t, "ann")
	for range 2 { // the second time it is gone already
		if err := with.p.Revoke(t.Context(), tokens); err != nil || with.Live(tokens.Access) || with.Count("revocation") != 1 {
			t.Errorf("got %v after %d deletions", err, with.Count("revocation"))
		}
	}
	without := &world{fake, parse(t, "upstreams:\n  - "+entry+"}\n", "corp")}
	_, tokens = without.signIn(t, "ann")
	if err := without.p.Revoke(t.Context(), tokens); err != nil || !without.Live(tokens.Access) {
		t.Errorf("without an endpoint: %v", err)
	}
	with.Switch(func(s *upstreamtest.Switches) { s.Unavailable = true })
	if err := with.p.Revoke(t.Context(), tokens); err == nil {
		t.Error("no error while the provider is unavailable")
	}
}
