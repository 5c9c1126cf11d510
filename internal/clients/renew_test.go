package clients

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/fetch"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/internal/test/clientdoc"
	"signet/jwt"
)

// keyHost serves the keys of a client.
type keyHost struct {
	keys  []*clientdoc.Key
	down  bool
	asked int
}

// signing is a registry in which the client c has its keys at a host.
func signing(t *testing.T, h *keyHost) *Registry {
	cache := fetch.NewCache(func(context.Context, string, int) (*fetch.Answer, error) {
		h.asked++
		text, err := json.Marshal(clientdoc.Set(t, h.keys...))
		if h.down {
			err = fetch.ErrDown
		}
		return &fetch.Answer{Body: text, Fresh: time.Hour}, err
	}, maxKeySet, func(_ string, body []byte) (*jwt.ClientKeys, error) { return jwt.ParseClientKeys(body) })
	c := known{Client: Client{ID: "c"}, keys: &keySource{cache: cache, uri: "https://c.test/jwks"}}
	r := &Registry{o: Options{Audiences: []string{"https://as.test"}, Once: func(context.Context, string, time.Time) (bool, error) { return true, nil }}}
	r.demo = map[string]known{"c": c}
	return r
}

// A client that signs with a key that the server has not seen is not refused before the
// server has looked for newer keys, once a minute at most; and not in the time of its answer.
func TestNewerKeysAreLookedForOnce(t *testing.T) {
	old, next := clientdoc.NewKey(t, "old"), clientdoc.NewKey(t, "next")
	const good, refused, later = "", "invalid_client", "later"
	for _, tt := range []struct {
		name     string
		key      *clientdoc.Key
		audience string
		first    string // the outcome
		again    string // and of one more request
		fetches  int    // before the answer
		after    int    // with those behind it
	}{
		{"the key at hand", old, "https://as.test", good, good, 0, 0},
		{"the next one", next, "https://as.test", good, good, 1, 1},
		{"neither", clientdoc.NewKey(t, "x"), "https://as.test", refused, refused, 1, 1},
		{"neither, under a known name", clientdoc.NewKey(t, "old"), "https://as.test", later, refused, 0, 1},
		{"another fault", old, "https://other.test", refused, refused, 0, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := &keyHost{keys: []*clientdoc.Key{old}}
			r := signing(t, h)
			ask := func(when, want string, fetches int) {
				t.Helper()
				h.asked = 0
				form := url.Values{"client_assertion_type": {oauth.AssertionType}, "client_assertion": {tt.key.Assertion(t, "c", tt.audience, nil)}}
				if !r.Ready("c", form) {
					if err := r.Fetch(t.Context(), "c", form); err != nil {
						t.Fatal(err)
					}
				}
				fetched := h.asked
				_, _, err := r.Authenticate(t.Context(), nil, form)
				got := good
				var refusal *oauth.Error
				var outage *OutageError
				switch {
				case errors.As(err, &refusal):
					got = string(refusal.Code)
				case errors.As(err, &outage):
					got = later
				}
				if got != want || fetched != fetches {
					t.Errorf("%s, %s: %v after %d fetches, want %q after %d", tt.name, when, err, fetched, want, fetches)
				}
				synctest.Wait()
			}
			if err := r.Fetch(t.Context(), "c", url.Values{"client_assertion": {"x"}}); err != nil || h.asked != 1 {
				t.Fatalf("%v after %d fetches", err, h.asked)
			}
			h.keys = []*clientdoc.Key{next, old}
			time.Sleep(time.Minute)
			ask("first", tt.first, tt.fetches)
			if h.asked != tt.after {
				t.Errorf("%s: %d fetches with those behind the answer, want %d", tt.name, h.asked, tt.after)
			}
			ask("again", tt.again, 0)
		})
	}
}

// Where newer keys cannot be had, those at hand count.
func TestKeysAtHandCountWhileTheirHostIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, next := clientdoc.NewKey(t, "old"), clientdoc.NewKey(t, "next")
		h := &keyHost{keys: []*clientdoc.Key{old}}
		r := signing(t, h)
		ask := func(k *clientdoc.Key) error {
			form := url.Values{"client_assertion_type": {oauth.AssertionType}, "client_assertion": {k.Assertion(t, "c", "https://as.test", nil)}}
			if err := r.Fetch(t.Context(), "c", form); err != nil {
				return err
			}
			_, _, err := r.Authenticate(t.Context(), nil, form)
			return err
		}
		if err := ask(old); err != nil {
			t.Fatal(err)
		}
		h.down = true
		time.Sleep(2 * time.Minute)
		var refusal *oauth.Error
		if err := ask(next); !errors.As(err, &refusal) {
			t.Errorf("a key that was never seen: %v", err)
		}
		if err := ask(old); err != nil {
			t.Errorf("the key at hand: %v", err)
		}
	})
}

// Keys in the document itself are renewed with the document.
func TestKeysInADocumentAreRenewedWithIt(t *testing.T) {
	h := clientdoc.NewHost(t)
	key := clientdoc.NewKey(t, "a")
	r, err := Open(Options{Ring: testRing(t), Scopes: []string{"read"}, Fetcher: fetch.New(fetch.Options{Loopback: true})})
	if err != nil {
		t.Fatal(err)
	}
	id := h.Client(t, "/m.json", map[string]any{"token_endpoint_auth_methods_supported": []string{"none", "private_key_jwt"}, "jwks": clientdoc.Set(t, key)})
	if err := r.Fetch(t.Context(), id, nil); err != nil {
		t.Fatal(err)
	}
	k, err := r.find(id)
	if err != nil {
		t.Fatal(err)
	}
	if cache, url := r.source(k); cache != renewer(r.documents.cached) || url != id {
		t.Errorf("%v, %s", cache, url)
	}
	k.Document = ""
	if cache, _ := r.source(k); cache != nil {
		t.Errorf("a configured client: %v", cache)
	}
}

func testRing(t *testing.T) *seal.Keyring {
	t.Helper()
	ring, err := seal.Parse(seal.NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	return ring
}
