package clients_test

import (
	"cmp"
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"testing"

	"signet/internal/clients"
	"signet/internal/oauth"
)

func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
}

// authenticate sends a request with an Authorization header and a form. As the server does, it
// has fetched before what the request needs.
func authenticate(r *clients.Registry, authorization, form string) (string, error) {
	h := http.Header{}
	if authorization != "" {
		h.Set("Authorization", authorization)
	}
	v, err := url.ParseQuery(form)
	if err != nil {
		return "", err
	}
	if id := cmp.Or(v.Get("client_id"), clients.Claimed(v)); !r.Ready(id, v) {
		if err := r.Fetch(context.Background(), id, v); err != nil {
			return "", clients.Refusal(err)
		}
	}
	c, _, err := r.Authenticate(context.Background(), h, v)
	if err != nil {
		return "", err
	}
	return c.ID, nil
}

// fetched is Find after what it needs was fetched.
func fetched(t testing.TB, r *clients.Registry, id string) (*clients.Client, error) {
	t.Helper()
	if !r.Ready(id, nil) {
		if err := r.Fetch(t.Context(), id, nil); err != nil {
			return nil, err
		}
	}
	return r.Find(t.Context(), id)
}

// oddSecret reads differently raw and form-decoded.
const oddSecret = "p+s%41&=:/"

type authFixture struct {
	r                                             *clients.Registry
	secret                                        string // of "web", configured
	regPublic, regBasic, regPost                  string
	regBasicSecret, regPostSecret, publicByConfig string
}

func newAuthFixture(t testing.TB) authFixture {
	t.Helper()
	o := options(t)
	f := authFixture{secret: add(t, o, clients.Spec{ID: "web"}), publicByConfig: "cli"}
	add(t, o, clients.Spec{ID: "cli", Public: true})
	add(t, o, clients.Spec{ID: "odd", Secret: oddSecret})
	f.r = open(t, o)
	f.regPublic = register(t, f.r, `{"redirect_uris":["https://a.test/"],"token_endpoint_auth_method":"none"}`).ClientID
	b := register(t, f.r, `{"redirect_uris":["https://a.test/"]}`)
	p := register(t, f.r, `{"redirect_uris":["https://a.test/"],"token_endpoint_auth_method":"client_secret_post"}`)
	f.regBasic, f.regBasicSecret, f.regPost, f.regPostSecret = b.ClientID, b.ClientSecret, p.ClientID, p.ClientSecret
	return f
}

func TestAuthenticates(t *testing.T) {
	f := newAuthFixture(t)
	const odd = oddSecret
	for name, c := range map[string]struct{ header, form, want string }{
		"configured, Basic":                 {basic("web", f.secret), "", "web"},
		"configured, Basic and client_id":   {basic("web", f.secret), "client_id=web&client_secret=", "web"},
		"configured, body":                  {"", "client_id=web&client_secret=" + f.secret, "web"},
		"configured public":                 {"", "client_id=cli", "cli"},
		"configured public, Basic":          {basic("cli", ""), "", "cli"},
		"configured public, empty secret":   {"", "client_id=cli&client_secret=", "cli"},
		"odd secret, Basic raw":             {basic("odd", odd), "", "odd"},
		"odd secret, Basic form-encoded":    {basic("odd", url.QueryEscape(odd)), "", "odd"},
		"odd secret, body":                  {"", "client_id=odd&client_secret=" + url.QueryEscape(odd), "odd"},
		"demo, Basic":                       {basic("demo_client", "demo_secret"), "", "demo_client"},
		"demo, Basic, form-encoded id":      {basic("demo%5Fclient", "demo%5Fsecret"), "client_id=demo_client", "demo_client"},
		"demo, body":                        {"", "client_id=demo_client&client_secret=demo_secret", "demo_client"},
		"registered public":                 {"", "client_id=" + f.regPublic, f.regPublic},
		"registered public, Basic":          {basic(f.regPublic, ""), "client_id=" + f.regPublic, f.regPublic},
		"registered, Basic":                 {basic(f.regBasic, f.regBasicSecret), "", f.regBasic},
		"registered, body":                  {"", "client_id=" + f.regPost + "&client_secret=" + f.regPostSecret, f.regPost},
		"public with a header of something": {"Bearer x", "client_id=cli", "cli"},
	} {
		if got, err := authenticate(f.r, c.header, c.form); err != nil || got != c.want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// A client with a secret proves it, in the way that it registered; one without
// sends none; and a request says once who it is from.
func TestClientsWithSecretsProveThem_D11(t *testing.T) {
	f := newAuthFixture(t)
	secret := "&client_secret=" + f.secret
	for name, c := range map[string]struct {
		header, form string
		want         oauth.Code
	}{
		"nobody":                                {"", "", oauth.InvalidClient},
		"unknown":                               {"", "client_id=nope" + secret, oauth.InvalidClient},
		"unknown, Basic":                        {basic("nope", f.secret), "", oauth.InvalidClient},
		"a secret without an id":                {"", secret[1:], oauth.InvalidClient},
		"no secret":                             {"", "client_id=web", oauth.InvalidClient},
		"empty secret":                          {"", "client_id=web&client_secret=", oauth.InvalidClient},
		"empty secret, Basic":                   {basic("web", ""), "", oauth.InvalidClient},
		"wrong secret":                          {"", "client_id=web" + secret + "x", oauth.InvalidClient},
		"wrong secret, Basic":                   {basic("web", f.secret[1:]), "", oauth.InvalidClient},
		"secret in the other case":              {basic("demo_client", "DEMO_SECRET"), "", oauth.InvalidClient},
		"secret of another client":              {basic("demo_client", f.secret), "", oauth.InvalidClient},
		"registered Basic, sent in the body":    {"", "client_id=" + f.regBasic + "&client_secret=" + f.regBasicSecret, oauth.InvalidClient},
		"registered body, sent by Basic":        {basic(f.regPost, f.regPostSecret), "", oauth.InvalidClient},
		"registered, no secret":                 {"", "client_id=" + f.regBasic, oauth.InvalidClient},
		"registered, no secret, Basic":          {basic(f.regPost, ""), "", oauth.InvalidClient},
		"registered, wrong secret":              {basic(f.regBasic, f.regPostSecret), "", oauth.InvalidClient},
		"public, configured, with a secret":     {"", "client_id=cli" + secret, oauth.InvalidClient},
		"public, configured, with one, Basic":   {basic("cli", "x"), "", oauth.InvalidClient},
		"public, registered, with a secret":     {"", "client_id=" + f.regPublic + secret, oauth.InvalidClient},
		"public, registered, with one, Basic":   {basic(f.regPublic, "x"), "", oauth.InvalidClient},
		"bad base64":                            {"Basic !", "client_id=cli", oauth.InvalidClient},
		"no colon":                              {"Basic d2Vi", "client_id=cli", oauth.InvalidClient},
		"nothing after Basic":                   {"Basic", "client_id=cli", oauth.InvalidClient},
		"a client assertion":                    {"", "client_id=cli&client_assertion=x", oauth.InvalidClient},
		"Basic and body":                        {basic("web", f.secret), "client_id=web" + secret, oauth.InvalidRequest},
		"Basic and body, public":                {basic("cli", ""), "client_id=cli&client_secret=x", oauth.InvalidRequest},
		"client_id is not the header's":         {basic("web", f.secret), "client_id=cli", oauth.InvalidRequest},
		"client_id is the header's, upper case": {basic("web", f.secret), "client_id=WEB", oauth.InvalidRequest},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := authenticate(f.r, c.header, c.form)
			wantError(t, err, c.want, map[oauth.Code]int{oauth.InvalidClient: 401, oauth.InvalidRequest: 400}[c.want])
		})
	}
}

func TestTwoAuthorizationHeaders(t *testing.T) {
	f := newAuthFixture(t)
	_, _, err := f.r.Authenticate(context.Background(), http.Header{"Authorization": {basic("web", f.secret), basic("cli", "")}}, nil)
	wantError(t, err, oauth.InvalidRequest, 400)
}

// The renderer learns that Basic was tried, so that a 401 names the scheme.
func TestAuthenticateTellsAboutBasic(t *testing.T) {
	f := newAuthFixture(t)
	for header, want := range map[string]bool{basic("web", f.secret): true, basic("web", "x"): true, basic("nope", "x"): true, "Basic !": true, "": false, "Bearer x": false} {
		_, got, _ := f.r.Authenticate(context.Background(), http.Header{"Authorization": {header}}, url.Values{"client_id": {"web"}})
		if got != want {
			t.Errorf("%q: used Basic: %v, want %v", header, got, want)
		}
	}
}

// Only the right header or form authenticates a confidential client, and every other one
// gets one of the two codes.
func FuzzAuthenticate(f *testing.F) {
	x := newAuthFixture(f)
	f.Add(basic("web", ""), "web", "")
	f.Add(basic("demo_client", "demo%5Fsecre"), "", "")
	f.Add("Basic", "web", "x")
	f.Add("", "cli", "x")
	f.Add(basic("web:", "")+"=", "web", "\x00")
	f.Add("", x.regPost, x.regBasicSecret)
	f.Fuzz(func(t *testing.T, header, id, secret string) {
		c, _, err := x.r.Authenticate(context.Background(), http.Header{"Authorization": {header}}, url.Values{"client_id": {id}, "client_secret": {secret}})
		if err != nil {
			if e := oauth.AsError(err); e.Code != oauth.InvalidClient && e.Code != oauth.InvalidRequest {
				t.Errorf("%v", err)
			}
			return
		}
		// The secrets of the others are random, the fuzzer does not know them.
		if demo := c.ID == "demo_client"; !c.Public() && !demo || c.Public() && secret != "" {
			t.Errorf("%q, %q, %q: came in as %s", header, id, secret, c.ID)
		}
	})
}
