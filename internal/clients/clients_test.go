package clients_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"signet/internal/clients"
	"signet/internal/oauth"
	"signet/internal/seal"
)

func ring(t testing.TB) *seal.Keyring {
	t.Helper()
	k, err := seal.Parse(seal.NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// options are those of a server with a demo client and no file yet.
func options(t testing.TB) clients.Options {
	t.Helper()
	return clients.Options{
		Path:        filepath.Join(t.TempDir(), "clients.json"),
		Ring:        ring(t),
		Scopes:      []string{"read", "write", "admin"},
		Default:     []string{"read"},
		Demo:        []clients.Client{{ID: "demo_client", Name: "Demo", RedirectURIs: []string{"http://localhost/cb"}}},
		DemoSecrets: map[string]string{"demo_client": "demo_secret"},
	}
}

func open(t testing.TB, o clients.Options) *clients.Registry {
	t.Helper()
	r, err := clients.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func add(t testing.TB, o clients.Options, s clients.Spec) (secret string) {
	t.Helper()
	if s.RedirectURIs == nil {
		s.RedirectURIs = []string{"https://app.test/cb"}
	}
	_, secret, err := at(o.Path).Add(t.Context(), o.Ring, s)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func register(t testing.TB, r *clients.Registry, doc string) *clients.Registration {
	t.Helper()
	reg, err := r.Register(context.Background(), []byte(doc))
	if err != nil {
		t.Fatalf("%s: %v", doc, err)
	}
	return reg
}

func find(t testing.TB, r *clients.Registry, id string) *clients.Client {
	t.Helper()
	c, err := r.Find(context.Background(), id)
	if err != nil {
		t.Fatalf("%s: %v", id, err)
	}
	return c
}

func unknown(t testing.TB, r *clients.Registry, id string) {
	t.Helper()
	if c, err := r.Find(context.Background(), id); !errors.Is(err, clients.ErrUnknown) {
		t.Errorf("%q: %+v, %v; want ErrUnknown", id, c, err)
	}
}

func wantError(t testing.TB, err error, code oauth.Code, status int) {
	t.Helper()
	var e *oauth.Error
	if !errors.As(err, &e) || e.Code != code || e.Status() != status {
		t.Errorf("got %v, want %s with status %d", err, code, status)
	}
}

func TestFindsEachKindOfClient(t *testing.T) {
	o := options(t)
	add(t, o, clients.Spec{ID: "web", Name: "Web App", Scopes: []string{"read", "write"}})
	add(t, o, clients.Spec{ID: "cli", RedirectURIs: []string{"http://127.0.0.1/cb", "com.example.app:/cb"}, Public: true})
	r := open(t, o)
	reg := register(t, r, `{"redirect_uris":["https://dcr.test/cb"],"client_name":"Self","token_endpoint_auth_method":"client_secret_post","scope":"write openid"}`)
	grants := []string{"authorization_code", "refresh_token"}
	for id, want := range map[string]clients.Client{
		"web":         {Name: "Web App", RedirectURIs: []string{"https://app.test/cb"}, Method: "client_secret_basic", Scopes: []string{"read", "write"}},
		"cli":         {Name: "cli", RedirectURIs: []string{"http://127.0.0.1/cb", "com.example.app:/cb"}, Method: "none", Scopes: []string{"read"}},
		"demo_client": {Name: "Demo", RedirectURIs: []string{"http://localhost/cb"}, Method: "client_secret_basic"},
		reg.ClientID:  {Name: "Self", RedirectURIs: []string{"https://dcr.test/cb"}, Method: "client_secret_post", Scopes: []string{"write", "openid"}, Registered: true},
	} {
		got := *find(t, r, id)
		want.ID, want.GrantTypes, want.Issued = id, grants, got.Issued
		if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(clients.Client{})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got.Hash() != seal.ClientHash(id) {
			t.Errorf("%s has the hash %s", id, got.Hash())
		}
		if got.Hash() != seal.ClientHash(id) || got.Public() != (want.Method == "none") {
			t.Errorf("%s: hash %s, public %v", id, got.Hash(), got.Public())
		}
	}
	for _, id := range []string{"", "nope", "WEB", "web ", "https://app.test/m.json", strings.Repeat("A", 8<<10), "demo_client\x00"} {
		unknown(t, r, id)
	}
}

// A list that is not there grants nothing.
func TestNoDefaultScopesAreNone(t *testing.T) {
	o := options(t)
	o.Default = nil
	add(t, o, clients.Spec{ID: "web"})
	r := open(t, o)
	for _, id := range []string{"web", register(t, r, `{"redirect_uris":["https://a.test/"]}`).ClientID} {
		if got := find(t, r, id).Scopes; got == nil || len(got) != 0 {
			t.Errorf("%.10s: scopes %#v, want an empty list", id, got)
		}
	}
}

func TestDemoClientNeedsDemoMode(t *testing.T) {
	o := options(t)
	o.Demo, o.DemoSecrets = nil, nil
	unknown(t, open(t, o), "demo_client")
}

// With an exact match or one URI to choose from a redirect URI is settled, and not
// without (OAuth 2.1 §2.3.2).
func TestRedirectURIMayBeOmittedIfThereIsOne_B05(t *testing.T) {
	one := clients.Client{RedirectURIs: []string{"https://app.test/cb"}}
	if got, err := one.RedirectURI(""); err != nil || got != "https://app.test/cb" {
		t.Errorf("%q, %v; want the only one", got, err)
	}
	two := clients.Client{RedirectURIs: []string{"https://app.test/cb", "http://localhost/cb"}}
	_, err := two.RedirectURI("")
	wantError(t, err, oauth.InvalidRequest, 400)
	_, err = (&clients.Client{}).RedirectURI("")
	wantError(t, err, oauth.InvalidRequest, 400)
}

func TestUnregisteredRedirectURIIsRefused_B02(t *testing.T) {
	c := clients.Client{RedirectURIs: []string{"https://app.test/cb", "http://localhost/cb?x=1"}}
	for _, uri := range c.RedirectURIs {
		if got, err := c.RedirectURI(uri); err != nil || got != uri {
			t.Errorf("%s: %q, %v", uri, got, err)
		}
	}
	for _, uri := range []string{"https://app.test/cb/", "https://app.test/CB", "https://app.test:443/cb", "https://app.test/%63b", "https://app.test@evil.test/cb", "http://localhost/cb", "http://127.0.0.1/cb?x=1", "javascript:alert(1)"} {
		_, err := c.RedirectURI(uri)
		wantError(t, err, oauth.InvalidRequest, 400)
	}
}

// The response goes to the port that the client requested: the client does not listen on
// the registered one.
func TestLoopbackRedirectMayUseAnyPort_B03(t *testing.T) {
	c := clients.Client{RedirectURIs: []string{"http://127.0.0.1:8080/cb"}}
	if got, err := c.RedirectURI("http://127.0.0.1:51004/cb"); err != nil || got != "http://127.0.0.1:51004/cb" {
		t.Errorf("%q, %v", got, err)
	}
	for _, uri := range []string{"http://localhost:8080/cb", "http://127.0.0.1:0/cb", "http://127.0.0.1:80@evil.test/cb", "http://[::1]:8080/cb"} {
		_, err := c.RedirectURI(uri)
		wantError(t, err, oauth.InvalidRequest, 400)
	}
}

// An id that this instance did not issue, or not in these bytes, names no client; and a
// client cannot choose its own id.
func TestForgedClientIDIsUnknown_H04(t *testing.T) {
	o := options(t)
	r := open(t, o)
	doc := `{"client_id":"alice","client_secret":"mine","redirect_uris":["https://app.test/cb"]}`
	reg := register(t, r, doc)
	if reg.ClientID == "alice" || reg.ClientSecret == "mine" || strings.HasPrefix(reg.ClientID, "https://") {
		t.Errorf("issued id %q, secret %q", reg.ClientID, reg.ClientSecret)
	}
	unknown(t, r, "alice")
	if register(t, r, doc).ClientID == reg.ClientID {
		t.Error("two registrations share an id")
	}
	b, err := base64.RawURLEncoding.DecodeString(reg.ClientID)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] ^= 1
		unknown(t, r, base64.RawURLEncoding.EncodeToString(b))
		b[i] ^= 1
	}
	for _, id := range []string{reg.ClientID[1:], reg.ClientID[:len(reg.ClientID)-1], reg.ClientID + "A", reg.ClientID + "=", " " + reg.ClientID, strings.ToLower(reg.ClientID)} {
		unknown(t, r, id)
	}
	unknown(t, open(t, options(t)), reg.ClientID)
	code, err := seal.Seal(o.Ring, seal.Code{RedirectURI: "https://app.test/cb"})
	if err != nil {
		t.Fatal(err)
	}
	unknown(t, r, code)
}

// A registration outlives the root secret that it was made under, and a redirect
// URI that is no longer allowed does not outlive the rule.
func TestRegistrationLivesOn(t *testing.T) {
	first := seal.NewSecret()
	o := options(t)
	var err error
	if o.Ring, err = seal.Parse(first); err != nil {
		t.Fatal(err)
	}
	reg := register(t, open(t, o), `{"redirect_uris":["cursor://h/cb","https://app.test/cb"]}`)
	if o.Ring, err = seal.Parse(seal.NewSecret() + ",clients:" + first); err != nil {
		t.Fatal(err)
	}
	o.Schemes = []string{}
	r := open(t, o)
	if diff := cmp.Diff([]string{"https://app.test/cb"}, find(t, r, reg.ClientID).RedirectURIs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := authenticate(r, basic(reg.ClientID, reg.ClientSecret), ""); err != nil {
		t.Errorf("the secret ended with its root: %v", err)
	}
}

func marshal(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Whoever has a root secret that was retired can make ids under it. Those that were made here are
// older; where not everybody may register, only those that are in use are taken.
func TestRetiredRootOpensEarlierIdsOnly(t *testing.T) {
	old := seal.NewSecret()
	o := options(t)
	var err error
	if o.Ring, err = seal.Parse(seal.NewSecret() + ",clients:" + old); err != nil {
		t.Fatal(err)
	}
	forger, err := seal.Parse(old)
	if err != nil {
		t.Fatal(err)
	}
	retired := time.Unix(1_800_000_000, 0)
	made := func(k *seal.Keyring, at time.Time) string {
		id, err := seal.Seal(k, seal.Client{RedirectURIs: []string{"https://app.test/cb"}, Method: "client_secret_post", Issued: at.Unix()})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	earlier, later, now := made(forger, retired.Add(-time.Second)), made(forger, retired.Add(time.Hour)), made(o.Ring, retired.Add(time.Hour))
	same := made(forger, retired)
	since, known := retired, true
	o.Retired = func(fingerprint string) (time.Time, bool) {
		if fingerprint != forger.Fingerprint() {
			t.Errorf("asked about %s", fingerprint)
		}
		return since, known
	}
	r := open(t, o)
	find(t, r, earlier)
	find(t, r, now)
	unknown(t, r, later)
	unknown(t, r, same)
	known = false
	if _, err := r.Find(t.Context(), earlier); err == nil || errors.Is(err, clients.ErrUnknown) {
		t.Errorf("%v; want an error that is no verdict", err)
	}
	find(t, r, now)
	known = true
	o.Seen = func(id string) (bool, error) { return id == earlier, nil }
	r = open(t, o)
	find(t, r, earlier)
	find(t, r, now) // the present root needs no grant
	unknown(t, r, made(forger, retired.Add(-time.Second)))
	failure := errors.New("cannot tell")
	o.Seen = func(string) (bool, error) { return true, failure }
	if _, err := open(t, o).Find(t.Context(), earlier); !errors.Is(err, failure) {
		t.Error(err)
	}
}

// A client that the operator has blocked is none, whatever it is.
func TestBlockedClientsAreUnknown(t *testing.T) {
	o := options(t)
	secret := add(t, o, clients.Spec{ID: "web"})
	blocked := map[string]bool{}
	o.Blocked = func(id string) bool { return blocked[id] }
	r := open(t, o)
	reg := register(t, r, document("", nil))
	for id, secret := range map[string]string{"web": secret, "demo_client": "demo_secret", reg.ClientID: reg.ClientSecret} {
		if _, err := authenticate(r, basic(id, secret), ""); err != nil {
			t.Fatal(err)
		}
		blocked[id] = true
		if _, err := r.Find(t.Context(), id); !errors.Is(err, clients.ErrBlocked) || !errors.Is(err, clients.ErrUnknown) {
			t.Errorf("%.20s: %v", id, err)
		}
		_, err := authenticate(r, basic(id, secret), "")
		wantError(t, err, oauth.InvalidClient, 401)
		if !strings.Contains(err.Error(), "blocked") {
			t.Error(err)
		}
	}
}
