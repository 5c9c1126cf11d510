package clients

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"signet/internal/fetch"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/internal/test/clientdoc"
	"signet/jwt"
)

// A client that signs with a key that the server has not seen is not refused before the
// server has looked for newer keys, once.
func TestNewerKeysAreLookedForOnce(t *testing.T) {
	old, next := clientdoc.NewKey(t, "old"), clientdoc.NewKey(t, "next")
	set := func(k *clientdoc.Key) *jwt.ClientKeys {
		text, err := json.Marshal(clientdoc.Set(t, k))
		if err != nil {
			t.Fatal(err)
		}
		keys, err := jwt.ParseClientKeys(text)
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	renewals := 0
	k := known{Client: Client{ID: "c"}, keys: func(_ context.Context, renew bool) (*jwt.ClientKeys, error) {
		if !renew {
			return set(old), nil
		}
		renewals++
		return set(next), nil
	}}
	r := &Registry{o: Options{Audiences: []string{"https://as.test"}}}
	for _, tt := range []struct {
		name     string
		key      *clientdoc.Key
		audience string
		good     bool
		renewals int
	}{
		{"the key at hand", old, "https://as.test", true, 0},
		{"the next one", next, "https://as.test", true, 1},
		{"neither", clientdoc.NewKey(t, "x"), "https://as.test", false, 1},
		{"neither, under a known name", clientdoc.NewKey(t, "old"), "https://as.test", false, 1},
		{"another fault", next, "https://other.test", false, 0},
	} {
		renewals = 0
		a, err := jwt.ParseAssertion(tt.key.Assertion(t, "c", tt.audience, nil))
		if err != nil {
			t.Fatal(err)
		}
		asked := k
		err = r.checkAssertion(t.Context(), a, &asked)
		var refusal *oauth.Error
		if (err == nil) != tt.good || !tt.good && !errors.As(err, &refusal) || renewals != tt.renewals {
			t.Errorf("%s: %v after %d renewals, want %d", tt.name, err, renewals, tt.renewals)
		}
	}
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
	k, err := r.find(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	// The cache gives what it has, since less than a minute has passed.
	if next, err := r.renewed(t.Context(), &k); err != nil || next.Document != k.Document || h.Fetched("/m.json") != 1 {
		t.Errorf("%+v, %v after %d fetches", next, err, h.Fetched("/m.json"))
	}
	k.Document = ""
	if next, err := r.renewed(t.Context(), &k); err != nil || next.ID != id || h.Fetched("/m.json") != 1 {
		t.Errorf("a configured client: %+v, %v after %d fetches", next, err, h.Fetched("/m.json"))
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
