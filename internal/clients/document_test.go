package clients_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/internal/clients"
	"signet/internal/fetch"
	"signet/internal/oauth"
	"signet/internal/test/clientdoc"
)

// withDocuments are the options of a server on loopback that fetches documents and accepts
// assertions.
func withDocuments(t testing.TB) clients.Options {
	t.Helper()
	o := options(t)
	o.Fetcher = fetch.New(fetch.Options{Loopback: true})
	o.Audiences = []string{"https://as.test", "https://as.test/token"}
	var mu sync.Mutex
	used := map[string]bool{}
	o.Once = func(_ context.Context, id string, until time.Time) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		fresh := !used[id]
		used[id] = true
		return fresh, nil
	}
	return o
}

func TestClientIsWhatItsDocumentSays(t *testing.T) {
	h := clientdoc.NewHost(t)
	r := open(t, withDocuments(t))
	id := h.Client(t, "/m.json", map[string]any{
		"client_name": "Some\u202E Client", "redirect_uris": []any{"https://app.test/cb", "http://127.0.0.1/cb", "javascript:alert(1)", "http://app.test/cb", 5, "https://app.test/cb"},
		"scope": "write nonsense openid", "logo_uri": h.URL + "/logo", "client_uri": "http://localhost:1", "grant_types": []string{"urn:x", "client_credentials"}, "unknown": map[string]any{},
	})
	if r.Ready(id, nil) {
		t.Error("ready before it was fetched")
	}
	c, err := fetched(t, r, id)
	if err != nil {
		t.Fatal(err)
	}
	if c.ID != id || c.Name != "Some Client" || !slices.Equal(c.RedirectURIs, []string{"https://app.test/cb", "http://127.0.0.1/cb"}) || c.Method != "none" || !c.Registered ||
		!slices.Equal(c.Scopes, []string{"write", "openid"}) || c.Document == "" || c.MayUse("client_credentials") {
		t.Errorf("%+v", c)
	}
	if !r.Ready(id, nil) || h.Fetched("/m.json") != 1 || h.Fetched("/logo") != 0 {
		t.Errorf("ready: %v; %d fetches of the document, %d of the logo", r.Ready(id, nil), h.Fetched("/m.json"), h.Fetched("/logo"))
	}
	if plain, err := fetched(t, r, h.Client(t, "/plain.json", map[string]any{"token_endpoint_auth_method": nil})); err != nil || plain.Method != "none" || !slices.Equal(plain.Scopes, []string{"read"}) {
		t.Errorf("without a method and a scope: %+v, %v", plain, err)
	}
}

func TestDocumentWithOneThingWrongIsRefused_I05(t *testing.T) {
	h := clientdoc.NewHost(t)
	r := open(t, withDocuments(t))
	key := clientdoc.NewKey(t, "a")
	private := clientdoc.Set(t, key)
	private["keys"].([]any)[0].(map[string]any)["d"] = "AAAA"
	signing := func(members ...any) map[string]any {
		m := map[string]any{"token_endpoint_auth_method": "private_key_jwt"}
		for i := 0; i < len(members); i += 2 {
			m[members[i].(string)] = members[i+1]
		}
		return m
	}
	good := `{"client_id":"` + h.URL + `/x.json","client_name":"X","redirect_uris":["https://app.test/cb"]`
	for name, doc := range map[string]any{
		"another URL": map[string]any{"client_id": h.URL + "/other.json"}, "a slash more": map[string]any{"client_id": h.URL + "/x.json/"}, "no client_id": map[string]any{"client_id": nil}, "client_id of another type": map[string]any{"client_id": []string{h.URL + "/x.json"}},
		"no name": map[string]any{"client_name": nil}, "invisible name": map[string]any{"client_name": "\u200b "}, "name of another type": map[string]any{"client_name": 5},
		"no redirect URI": map[string]any{"redirect_uris": nil}, "an empty list": map[string]any{"redirect_uris": []string{}}, "no list": map[string]any{"redirect_uris": "https://app.test/cb"}, "unusable redirect URIs": map[string]any{"redirect_uris": []string{"http://app.test/cb", "javascript:x"}},
		"secret": map[string]any{"client_secret": "s"}, "end of a secret": map[string]any{"client_secret_expires_at": 0},
		"basic": map[string]any{"token_endpoint_auth_method": "client_secret_basic"}, "post": map[string]any{"token_endpoint_auth_method": "client_secret_post"}, "HMAC": map[string]any{"token_endpoint_auth_method": "client_secret_jwt"},
		"basic beside none": map[string]any{"token_endpoint_auth_method": "client_secret_basic", "token_endpoint_auth_methods_supported": []string{"none"}},
		"TLS":               map[string]any{"token_endpoint_auth_method": "tls_client_auth"}, "only secrets": map[string]any{"token_endpoint_auth_method": nil, "token_endpoint_auth_methods_supported": []string{"client_secret_basic"}},
		"key without keys": map[string]any{"token_endpoint_auth_method": "private_key_jwt"}, "private key": map[string]any{"jwks": private}, "private key and a URL": map[string]any{"jwks": private, "jwks_uri": h.URL + "/jwks"},
		"keys in two ways": signing("jwks", clientdoc.Set(t, key), "jwks_uri", h.URL+"/jwks"), "private key of a client that signs": signing("jwks", private), "no keys": signing("jwks", map[string]any{"keys": []any{}}), "keys of another type": signing("jwks", "x"),
		"keys elsewhere": signing("jwks_uri", "http://app.test/jwks"), "keys in a private network": signing("jwks_uri", "https://10.0.0.1/jwks"),
		"duplicate": good + `,"client_name":"Y"}`, "duplicate redirect_uris": good + `,"redirect_uris":["https://evil.test/cb"]}`, "HTML": `<html>`, "list": `[` + good + `}]`, "two": good + `}{}`, "cut off": good, "long": good + `,"x":"` + strings.Repeat("x", 5<<10) + `"}`, "not UTF-8": good + ",\"x\":\"\xff\"}",
	} {
		id := h.URL + "/x.json"
		if more, ok := doc.(map[string]any); ok {
			h.Client(t, "/x.json", more)
		} else {
			h.Put(t, "/x.json", doc)
		}
		before := h.Fetched("/x.json")
		c, err := fetched(t, r, id)
		var refused *clients.DocumentError
		if !errors.As(err, &refused) || !errors.Is(err, clients.ErrUnknown) || refused.URL != id || c != nil {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
		if _, err := authenticate(r, "", "client_id="+url.QueryEscape(id)); !isCode(err, oauth.InvalidClient) {
			t.Errorf("%s, at the token endpoint: %v", name, err)
		}
		if n := h.Fetched("/x.json") - before; n != 2 {
			t.Errorf("%s: %d fetches for two requests: a wrong document is not kept", name, n)
		}
	}
	h.Client(t, "/x.json", nil)
	if _, err := fetched(t, r, h.URL+"/x.json"); err != nil {
		t.Errorf("mended: %v", err)
	}
	if n := h.Fetched("/jwks"); n != 0 {
		t.Errorf("%d fetches of keys that no assertion asked for", n)
	}
}

// A client that may do without keys is not refused because of some that cannot be used. It has none
// then: an assertion is refused.
func TestDocumentThatNeedsNoKeysMayHaveUselessOnes_I05(t *testing.T) {
	h := clientdoc.NewHost(t)
	key := clientdoc.NewKey(t, "a")
	forEncryption := clientdoc.Set(t, key)
	forEncryption["keys"].([]any)[0].(map[string]any)["use"] = "enc"
	for name, keys := range map[string]map[string]any{
		"no keys": {"jwks": map[string]any{"keys": []any{}}}, "for encryption": {"jwks": forEncryption}, "another type": {"jwks": "x"},
		"in a private network": {"jwks_uri": "https://10.0.0.1/jwks"}, "not https": {"jwks_uri": "http://app.test/jwks"}, "in two ways": {"jwks": clientdoc.Set(t, key), "jwks_uri": h.URL + "/jwks"},
	} {
		for _, methods := range [][]string{nil, {"none"}, {"none", "private_key_jwt"}} {
			more := maps.Clone(keys)
			if methods == nil {
				more["token_endpoint_auth_method"] = nil
			} else {
				more["token_endpoint_auth_methods_supported"] = methods
			}
			id := h.Client(t, "/x.json", more)
			r := open(t, withDocuments(t))
			if c, err := fetched(t, r, id); err != nil || c.Method != "none" || c.KeyOnly {
				t.Errorf("%s, %v: %+v, %v", name, methods, c, err)
			}
			if _, err := authenticate(r, "", "client_id="+url.QueryEscape(id)); err != nil {
				t.Errorf("%s, %v, at the token endpoint: %v", name, methods, err)
			}
			if _, err := authenticate(r, "", assertionForm(key.Assertion(t, id, "https://as.test", nil))); !isCode(err, oauth.InvalidClient) {
				t.Errorf("%s, %v, with an assertion: %v", name, methods, err)
			}
		}
	}
}

func isCode(err error, code oauth.Code) bool {
	var e *oauth.Error
	return errors.As(err, &e) && e.Code == code
}

func TestURLThatIsNeverFetchedIsNoClient(t *testing.T) {
	h := clientdoc.NewHost(t)
	id := h.Client(t, "/m.json", nil)
	for name, change := range map[string]func(*clients.Options){
		"turned off":    func(o *clients.Options) { o.NoDocuments = true },
		"no fetcher":    func(o *clients.Options) { o.Fetcher = nil },
		"public issuer": func(o *clients.Options) { o.Fetcher = fetch.New(fetch.Options{}) },
		"host not in a list": func(o *clients.Options) {
			o.Fetcher = fetch.New(fetch.Options{Loopback: true, Allow: []string{"claude.ai"}})
		},
		"host that is denied": func(o *clients.Options) {
			o.Fetcher = fetch.New(fetch.Options{Loopback: true, Deny: []string{"127.0.0.1"}})
		},
	} {
		o := withDocuments(t)
		change(&o)
		r := open(t, o)
		if _, err := fetched(t, r, id); !errors.Is(err, clients.ErrUnknown) || !r.Ready(id, nil) {
			t.Errorf("%s: %v, ready %v", name, err, r.Ready(id, nil))
		}
		if on := name == "public issuer" || strings.HasPrefix(name, "host"); r.FetchesDocuments() != on {
			t.Errorf("%s: says that documents are fetched: %v", name, !on)
		}
	}
	if n := h.Fetched("/m.json"); n != 0 {
		t.Errorf("%d fetches", n)
	}
}

func TestHostThatIsDownIsNoVerdict(t *testing.T) {
	h := clientdoc.NewHost(t)
	r := open(t, withDocuments(t))
	id := h.Client(t, "/m.json", nil)
	h.Down(true)
	if _, err := fetched(t, r, id); err == nil || errors.Is(err, clients.ErrUnknown) {
		t.Errorf("%v", err)
	}
	var refusal *oauth.Error
	if _, err := authenticate(r, "", "client_id="+url.QueryEscape(id)); err == nil || errors.As(err, &refusal) {
		t.Errorf("at the token endpoint: %v", err)
	}
}

func TestPinnedDocumentReplacesTheOneAtItsURL(t *testing.T) {
	h := clientdoc.NewHost(t)
	id := h.Client(t, "/m.json", nil)
	file := filepath.Join(t.TempDir(), "client.json")
	write := func(m map[string]any) {
		t.Helper()
		text, err := json.Marshal(m)
		if err == nil {
			err = os.WriteFile(file, text, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	pinned := map[string]any{"client_id": id, "client_name": "Pinned", "redirect_uris": []string{"https://app.test/cb"}}
	write(pinned)
	o := withDocuments(t)
	o.Pinned = []string{file}
	c, err := fetched(t, open(t, o), id)
	if err != nil || c.Name != "Pinned" || h.Fetched("/m.json") != 0 {
		t.Errorf("%+v, %v, %d fetches", c, err, h.Fetched("/m.json"))
	}
	o.Fetcher = nil
	if c, err = fetched(t, open(t, o), id); err != nil || c.Name != "Pinned" {
		t.Errorf("where nothing is fetched: %+v, %v", c, err)
	}
	for name, break_ := range map[string]func(){
		"no name": func() { write(map[string]any{"client_id": id, "redirect_uris": []string{"https://app.test/cb"}}) },
		"no URL": func() {
			write(map[string]any{"client_id": "web", "client_name": "x", "redirect_uris": []string{"https://app.test/cb"}})
		},
		"no JSON":  func() { os.WriteFile(file, []byte("x"), 0o644) },
		"writable": func() { write(pinned); os.Chmod(file, 0o666) },
		"no file":  func() { os.Remove(file) },
		"a folder": func() { os.Mkdir(file, 0o755) },
	} {
		os.RemoveAll(file)
		break_()
		if _, err := clients.Open(o); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v, want an error that names the file", name, err)
		}
	}
}
