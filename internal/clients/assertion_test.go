package clients_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"signet/internal/clients"
	"signet/internal/oauth"
	"signet/internal/test/clientdoc"
)

const jwtBearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

func assertionForm(assertion string, more ...string) string {
	v := url.Values{"client_assertion_type": {jwtBearer}, "client_assertion": {assertion}}
	for i := 0; i < len(more); i += 2 {
		v.Set(more[i], more[i+1])
	}
	return v.Encode()
}

func keySetText(t testing.TB, keys ...*clientdoc.Key) []byte {
	t.Helper()
	text, err := json.Marshal(clientdoc.Set(t, keys...))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestClientWithAKeyAuthenticatesByAssertion_D14(t *testing.T) {
	h := clientdoc.NewHost(t)
	key := clientdoc.NewKey(t, "a")
	o := withDocuments(t)
	add(t, o, clients.Spec{ID: "file", JWKS: keySetText(t, key)})
	add(t, o, clients.Spec{ID: "fetched", JWKSURI: h.Put(t, "/jwks", clientdoc.Set(t, key))})
	inline := h.Client(t, "/inline.json", map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks": clientdoc.Set(t, key)})
	linked := h.Client(t, "/linked.json", map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": h.URL + "/jwks"})
	both := h.Client(t, "/both.json", map[string]any{"token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_methods_supported": []string{"none", "private_key_jwt"}, "jwks_uri": h.URL + "/jwks"})
	r := open(t, o)
	for _, id := range []string{"file", "fetched", inline, linked, both} {
		for _, form := range []string{
			assertionForm(key.Assertion(t, id, "https://as.test", nil)), assertionForm(key.Assertion(t, id, "https://as.test/token", nil), "client_id", id),
		} {
			if got, err := authenticate(r, "", form); got != id || err != nil {
				t.Errorf("%s: %s, %v", id, got, err)
			}
		}
		_, err := authenticate(r, "", "client_id="+url.QueryEscape(id))
		if id == both && err != nil || id != both && !isCode(err, oauth.InvalidClient) {
			t.Errorf("%s, without an assertion: %v", id, err)
		}
		if _, err := authenticate(r, "", "client_secret=x&client_id="+url.QueryEscape(id)); !isCode(err, oauth.InvalidClient) {
			t.Errorf("%s, with a secret: %v", id, err)
		}
	}
	if n := h.Fetched("/jwks"); n != 1 {
		t.Errorf("%d fetches of the same keys, want 1", n)
	}
}

func TestAssertionThatIsSentMustVerify_D14(t *testing.T) {
	h := clientdoc.NewHost(t)
	key, other := clientdoc.NewKey(t, "a"), clientdoc.NewKey(t, "a")
	o := withDocuments(t)
	add(t, o, clients.Spec{ID: "signs", JWKS: keySetText(t, key)})
	secret := add(t, o, clients.Spec{ID: "web"})
	add(t, o, clients.Spec{ID: "cli", Public: true})
	both := h.Client(t, "/both.json", map[string]any{"token_endpoint_auth_methods_supported": []string{"none", "private_key_jwt"}, "jwks": clientdoc.Set(t, key)})
	none := h.Client(t, "/none.json", map[string]any{"jwks": clientdoc.Set(t, key)})
	r := open(t, o)
	good := func(id string) string { return key.Assertion(t, id, "https://as.test", nil) }
	for name, tt := range map[string]struct {
		header, form string
		code         oauth.Code
	}{
		"signed by another key":     {"", assertionForm(other.Assertion(t, "signs", "https://as.test", nil)), oauth.InvalidClient},
		"and none would do":         {"", assertionForm(other.Assertion(t, both, "https://as.test", nil), "client_id", both), oauth.InvalidClient},
		"for another server":        {"", assertionForm(key.Assertion(t, "signs", "https://other.test", nil)), oauth.InvalidClient},
		"expired":                   {"", assertionForm(key.Assertion(t, "signs", "https://as.test", map[string]any{"exp": time.Now().Unix() - 1})), oauth.InvalidClient},
		"of another client":         {"", assertionForm(good("signs"), "client_id", both), oauth.InvalidClient},
		"of an unknown client":      {"", assertionForm(good("nobody")), oauth.InvalidClient},
		"of a client with a secret": {"", assertionForm(good("web")), oauth.InvalidClient},
		"of a public client":        {"", assertionForm(good("cli")), oauth.InvalidClient},
		"of a document with none":   {"", assertionForm(good(none)), oauth.InvalidClient},
		"no assertion":              {"", "client_assertion_type=" + url.QueryEscape(jwtBearer), oauth.InvalidClient},
		"empty":                     {"", assertionForm("", "client_id", both), oauth.InvalidClient},
		"no JWT":                    {"", assertionForm("x", "client_id", both), oauth.InvalidClient},
		"no type":                   {"", "client_assertion=" + good("signs"), oauth.InvalidClient},
		"another type":              {"", assertionForm(good("signs"), "client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"), oauth.InvalidClient},
		"beside a secret":           {"", assertionForm(good("signs"), "client_secret", "x"), oauth.InvalidRequest},
		"beside Basic":              {basic("web", secret), assertionForm(good("signs")), oauth.InvalidRequest},
	} {
		if got, err := authenticate(r, tt.header, tt.form); !isCode(err, tt.code) {
			t.Errorf("%s: %q, %v, want %s", name, got, err, tt.code)
		}
	}
	once := assertionForm(good("signs"))
	if _, err := authenticate(r, "", once); err != nil {
		t.Fatal(err)
	}
	if _, err := authenticate(r, "", once); !isCode(err, oauth.InvalidClient) {
		t.Errorf("used twice: %v", err)
	}
	same := map[string]any{"jti": "the same"}
	for _, id := range []string{"signs", both} {
		if _, err := authenticate(r, "", assertionForm(key.Assertion(t, id, "https://as.test", same))); err != nil {
			t.Errorf("an ID that another client used: %v", err)
		}
	}
}

// An assertion that fails a check has spent nothing, and where the store cannot tell there
// is no verdict.
func TestAssertionIsSpentLast(t *testing.T) {
	key := clientdoc.NewKey(t, "a")
	o := withDocuments(t)
	add(t, o, clients.Spec{ID: "signs", JWKS: keySetText(t, key)})
	spent, trouble := 0, errors.New("no store")
	o.Once = func(context.Context, string, time.Time) (bool, error) {
		spent++
		return false, trouble
	}
	r := open(t, o)
	for _, form := range []string{
		assertionForm(clientdoc.NewKey(t, "a").Assertion(t, "signs", "https://as.test", nil)), assertionForm(key.Assertion(t, "signs", "https://other.test", nil)),
		assertionForm(key.Assertion(t, "signs", "https://as.test", nil), "client_id", "other"),
	} {
		if _, err := authenticate(r, "", form); !isCode(err, oauth.InvalidClient) {
			t.Error(err)
		}
	}
	if spent != 0 {
		t.Errorf("%d refused assertions were spent", spent)
	}
	if _, err := authenticate(r, "", assertionForm(key.Assertion(t, "signs", "https://as.test", nil))); !errors.Is(err, trouble) || spent != 1 {
		t.Errorf("%v, spent %d", err, spent)
	}
}

// New keys count when an assertion is signed by one of them, and keys that cannot be had
// are no verdict.
func TestNewKeysOfAClientAreFetched(t *testing.T) {
	h := clientdoc.NewHost(t)
	key := clientdoc.NewKey(t, "a")
	o := withDocuments(t)
	linked := h.Client(t, "/linked.json", map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": h.URL + "/jwks"})
	r := open(t, o)
	h.Put(t, "/jwks", "no keys")
	if _, err := authenticate(r, "", assertionForm(key.Assertion(t, linked, "https://as.test", nil))); !isCode(err, oauth.InvalidClient) || !strings.Contains(err.Error(), "keys") {
		t.Errorf("a set that is none: %v", err)
	}
	h.Put(t, "/jwks", clientdoc.Set(t, key))
	if _, err := authenticate(r, "", assertionForm(key.Assertion(t, linked, "https://as.test", nil))); err != nil {
		t.Errorf("mended: %v", err)
	}
	other := h.Client(t, "/other.json", map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": h.URL + "/jwks2"})
	if _, err := fetched(t, r, other); err != nil {
		t.Fatal(err)
	}
	h.Down(true)
	var refusal *oauth.Error
	if _, err := authenticate(r, "", assertionForm(key.Assertion(t, other, "https://as.test", nil))); err == nil || errors.As(err, &refusal) {
		t.Errorf("keys that cannot be had now: %v", err)
	}
}

func TestClaimedIsTheClientOfAnAssertion(t *testing.T) {
	key := clientdoc.NewKey(t, "a")
	for form, want := range map[string]string{
		"client_assertion=" + key.Assertion(t, "signs", "x", nil): "signs", "client_assertion=x": "", "client_id=a": "",
	} {
		v, err := url.ParseQuery(form)
		if err != nil {
			t.Fatal(err)
		}
		if got := clients.Claimed(v); got != want {
			t.Errorf("%.20s: %q", form, got)
		}
	}
}

func TestKeysOfAConfiguredClientAreChecked(t *testing.T) {
	key := clientdoc.NewKey(t, "a")
	o := withDocuments(t)
	good := clients.Spec{ID: "c", RedirectURIs: []string{"https://app.test/cb"}}
	private := []byte(`{"keys":[{"kty":"oct","k":"AAAA"}]}`)
	for name, change := range map[string]func(*clients.Spec){
		"private":         func(s *clients.Spec) { s.JWKS = private },
		"no set":          func(s *clients.Spec) { s.JWKS = []byte(`{}`) },
		"in two ways":     func(s *clients.Spec) { s.JWKS, s.JWKSURI = keySetText(t, key), "https://app.test/jwks" },
		"public":          func(s *clients.Spec) { s.JWKS, s.Public = keySetText(t, key), true },
		"with a secret":   func(s *clients.Spec) { s.JWKS, s.Secret = keySetText(t, key), "long enough!" },
		"http elsewhere":  func(s *clients.Spec) { s.JWKSURI = "http://app.test/jwks" },
		"a private host":  func(s *clients.Spec) { s.JWKSURI = "https://10.0.0.1/jwks" },
		"no URL":          func(s *clients.Spec) { s.JWKSURI = "app.test/jwks" },
		"of another port": func(s *clients.Spec) { s.JWKSURI = "https://app.test:8443/jwks" },
	} {
		spec := good
		change(&spec)
		if _, _, err := at(o.Path).Add(t.Context(), o.Ring, spec); err == nil || strings.Contains(err.Error(), "AAAA") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(o.Path); err == nil {
			t.Fatalf("%s: the file was written", name)
		}
	}
	for _, change := range []func(*clients.Spec){
		func(s *clients.Spec) { s.ID, s.JWKS = "a", keySetText(t, key) }, func(s *clients.Spec) { s.ID, s.JWKSURI = "b", "https://app.test/jwks" },
	} {
		spec := good
		change(&spec)
		c, secret, err := at(o.Path).Add(t.Context(), o.Ring, spec)
		if err != nil || secret != "" || c.Public {
			t.Errorf("%+v, %q, %v", c, secret, err)
		}
	}
	if _, err := clients.Open(o); err != nil {
		t.Errorf("the file with both: %v", err)
	}
	o.Fetcher = nil
	if _, err := clients.Open(o); err == nil || !strings.Contains(err.Error(), "client b") {
		t.Errorf("where nothing is fetched: %v, want an error that names the client", err)
	}
}

func TestResourceServerHasNothingButItsResource(t *testing.T) {
	o := withDocuments(t)
	good := clients.Spec{ID: "api", Resource: "https://api.example.com"}
	for name, change := range map[string]func(*clients.Spec){
		"redirect URI":        func(s *clients.Spec) { s.RedirectURIs = []string{"https://app.test/cb"} },
		"logout redirect URI": func(s *clients.Spec) { s.PostLogoutRedirectURIs = []string{"https://app.test/cb"} },
		"scope":               func(s *clients.Spec) { s.Scopes = []string{"read"} },
		"public":              func(s *clients.Spec) { s.Public = true },
		"no URL":              func(s *clients.Spec) { s.Resource = "api" },
		"fragment":            func(s *clients.Spec) { s.Resource = "https://api.example.com/#x" },
		"no resource":         func(s *clients.Spec) { s.Resource = "" },
	} {
		spec := good
		change(&spec)
		if _, _, err := at(o.Path).Add(t.Context(), o.Ring, spec); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	c, secret, err := at(o.Path).Add(t.Context(), o.Ring, good)
	if err != nil || secret == "" || c.Resource != good.Resource {
		t.Fatalf("%+v, %v", c, err)
	}
	found, err := open(t, o).Find(t.Context(), "api")
	if err != nil || found.MayUse("refresh_token") || found.MayUse("authorization_code") {
		t.Errorf("%+v, %v", found, err)
	}
}
