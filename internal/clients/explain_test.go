package clients_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"signet/internal/clients"
	"signet/internal/test/clientdoc"
)

func explain(t *testing.T, r *clients.Registry, id string) *clients.Explanation {
	t.Helper()
	x, err := r.Explain(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestExplanationOfADocumentSaysWhatWasFetched(t *testing.T) {
	h := clientdoc.NewHost(t)
	keys := h.Put(t, "/jwks.json", clientdoc.Set(t, clientdoc.NewKeyFor(t, "RS256", "one"), clientdoc.NewKeyFor(t, "ES256", "two")))
	id := h.Client(t, "/m.json", map[string]any{"client_name": "App", "redirect_uris": []string{"https://app.test/cb", "javascript:alert(1)", "myapp://cb"},
		"token_endpoint_auth_methods_supported": []string{"none", "private_key_jwt"}, "jwks_uri": keys})
	r := open(t, withDocuments(t))
	x := explain(t, r, id)
	if x.KnownBy != "document" || x.Name != "App" || x.Document.Bytes == 0 || x.Document.Error != "" || !slices.Equal(x.Methods, []string{"none", "private_key_jwt"}) || x.Client() == nil {
		t.Errorf("%+v, %+v", x, x.Document)
	}
	if len(x.Keys.List) != 2 || x.Keys.List[0].ID != "one" || !slices.Equal(x.Keys.List[0].Algorithms, []string{"RS256", "PS256"}) && !slices.Equal(x.Keys.List[0].Algorithms, []string{"RS256"}) || x.Keys.URL != keys {
		t.Errorf("keys %+v", x.Keys)
	}
	refused := map[string]string{"https://app.test/cb": "", "javascript:alert(1)": "never allowed", "myapp://cb": "SIGNET_REDIRECT_SCHEMES"}
	for _, uri := range x.RedirectURIs {
		if want := refused[uri.URI]; !strings.Contains(uri.Refused, want) || (uri.Refused == "") != (want == "") {
			t.Errorf("%+v, want %q", uri, want)
		}
	}
	if len(x.RedirectURIs) != 3 || h.Fetched("/m.json") != 1 || h.Fetched("/jwks.json") != 1 {
		t.Errorf("%d redirect URIs, %d and %d fetches", len(x.RedirectURIs), h.Fetched("/m.json"), h.Fetched("/jwks.json"))
	}
}

// What the server would not fetch is not fetched for an explanation either.
func TestExplanationFetchesWhatAServerWould(t *testing.T) {
	h := clientdoc.NewHost(t)
	id := h.Client(t, "/m.json", map[string]any{"redirect_uris": []string{"https://app.test/cb"}})
	for name, change := range map[string]func(*clients.Options){
		"documents are off": func(o *clients.Options) { o.NoDocuments = true },
		"no fetcher":        func(o *clients.Options) { o.Fetcher = nil },
	} {
		o := withDocuments(t)
		change(&o)
		if x := explain(t, open(t, o), id); x.Document.Error == "" || len(x.Refused) == 0 || x.Client() != nil {
			t.Errorf("%s: %+v", name, x)
		}
	}
	if n := h.Fetched("/m.json"); n != 0 {
		t.Errorf("%d fetches", n)
	}
	r := open(t, withDocuments(t))
	for _, id := range []string{"https://10.0.0.1/m.json", "https://app.local/m.json", "http://app.test/m.json", "https://app.test:8443/m.json", "https://[::ffff:10.0.0.1]/m.json", h.URL + "/missing.json"} {
		if x := explain(t, r, id); x.Document.Error == "" || !strings.Contains(x.Refused[0], x.Document.Error) || x.Client() != nil {
			t.Errorf("%s: %+v", id, x)
		}
	}
}

// The explanation has the scopes that the client gets by default now.
func TestExplanationAfterTheRegisteredScopesAreGone(t *testing.T) {
	o := options(t)
	id := mustRegister(t, open(t, o), map[string]any{"redirect_uris": []string{"https://app.test/cb"}, "scope": "write openid"}).ClientID
	for _, c := range []struct{ scopes, want []string }{
		{[]string{"read", "write"}, []string{"write", "openid"}},
		{[]string{"read"}, []string{"read"}},
	} {
		o.Scopes = c.scopes
		if x := explain(t, open(t, o), id); !slices.Equal(x.Scopes, c.want) || !slices.Equal(x.MayRequest, slices.Concat(c.scopes, clients.AlwaysKnown)) {
			t.Errorf("with %q: scopes %q, may request %q", c.scopes, x.Scopes, x.MayRequest)
		}
	}
}

func TestExplanationOfARegisteredClient(t *testing.T) {
	o := options(t)
	r := open(t, o)
	reg := mustRegister(t, r, map[string]any{"client_name": "App", "redirect_uris": []string{"https://app.test/cb", "cursor://x/y"}, "scope": "write"})
	o.Schemes = []string{} // the rule became stricter since
	x := explain(t, open(t, o), reg.ClientID)
	if x.KnownBy != "registration" || x.Name != "App" || x.Since == nil || !slices.Equal(x.Methods, []string{"client_secret_basic"}) || !slices.Equal(x.Scopes, []string{"write"}) {
		t.Errorf("%+v", x)
	}
	if len(x.RedirectURIs) != 2 || x.RedirectURIs[0].Refused != "" || x.RedirectURIs[1].Refused == "" || len(x.Client().RedirectURIs) != 1 {
		t.Errorf("redirect URIs %+v", x.RedirectURIs)
	}
	text, err := json.Marshal(x)
	if err != nil || strings.Contains(string(text), reg.ClientSecret) {
		t.Errorf("the secret is in the explanation: %v", err)
	}
	for _, id := range []string{"nothing", reg.ClientID + "x", ""} {
		if _, err := r.Explain(t.Context(), id); !errors.Is(err, clients.ErrUnknown) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestExplanationOfARegistrationDocument(t *testing.T) {
	r := open(t, options(t))
	for body, want := range map[string]string{
		`{"redirect_uris":["https://app.test/cb"],"token_endpoint_auth_method":"none"}`:                                   "",
		`{"redirect_uris":["https://app.test/cb"]}`:                                                                       "token_endpoint_auth_method is missing: it becomes client_secret_basic",
		`{"redirect_uris":["https://app.test/cb"],"token_endpoint_auth_method":"private_key_jwt"}`:                        `token_endpoint_auth_method "private_key_jwt": it becomes client_secret_basic`,
		`{"redirect_uris":["https://app.test/cb","http://app.test/cb"],"token_endpoint_auth_method":"none"}`:              "http://app.test/cb: must be https",
		`{"redirect_uris":["https://app.test/cb"],"token_endpoint_auth_method":"none","scope":"read other"}`:              `scope: "other" is left out`,
		`{"redirect_uris":["https://app.test/cb"],"token_endpoint_auth_method":"none","response_types":["code","token"]}`: `response_types: "token" is left out`,
		`{"redirect_uris":["https://app.test/cb"],"token_endpoint_auth_method":"none","logo_uri":"http://app.test/logo"}`: "logo_uri",
		`{"redirect_uris":[]}`: "the registration: invalid_redirect_uri",
		`{}`:                   "the registration: invalid_redirect_uri",
		`{"redirect_uris":["http://app.test/cb"]}`:                                                      "the registration: invalid_redirect_uri",
		`{"redirect_uris":["https://app.test/cb"],"grant_types":["password"]}`:                          "the registration: invalid_client_metadata",
		`{"redirect_uris":["https://app.test/cb"],"redirect_uris":["https://app.test/cb"]}`:             "the registration: invalid_client_metadata: redirect_uris occurs more than once",
		`{"redirect_uris":["https://app.test/cb"],"client_name":"` + strings.Repeat("x", 20<<10) + `"}`: "longer than",
	} {
		x, err := r.ExplainRegistration(t.Context(), []byte(body))
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		if all := strings.Join(x.Refused, "\n"); !strings.Contains(all, want) || (all == "") != (want == "") || x.ID != "" || x.Hash != "" {
			t.Errorf("%.200s: %q, want %q", body, all, want)
		}
	}
	for _, body := range []string{"", "[]", "x", "{} {}", "\xff"} {
		if _, err := r.ExplainRegistration(t.Context(), []byte(body)); err == nil {
			t.Errorf("%q: no error", body)
		}
	}
}
