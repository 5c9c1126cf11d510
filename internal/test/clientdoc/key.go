package clientdoc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"maps"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Key is a key pair of a client.
type Key struct {
	ID, Alg string
	pair    jose.JSONWebKey
}

// NewKey makes a key pair for ES256.
func NewKey(t testing.TB, id string) *Key {
	t.Helper()
	return NewKeyFor(t, "ES256", id)
}

// NewKeyFor makes a key pair for ES256, RS256 or PS256. The id may be empty.
func NewKeyFor(t testing.TB, alg, id string) *Key {
	t.Helper()
	var pair crypto.Signer
	var err error
	if alg == "ES256" {
		pair, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	} else {
		pair, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &Key{id, alg, jose.JSONWebKey{Key: pair, KeyID: id, Algorithm: alg, Use: "sig"}}
}

// Private is the private key, for a client in another process.
func (k *Key) Private() *jose.JSONWebKey { return &k.pair }

// Set returns the JWK Set with the public halves of keys, which a test may change.
func Set(t testing.TB, keys ...*Key) map[string]any {
	t.Helper()
	list := []any{}
	for _, k := range keys {
		text, err := k.pair.Public().MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		members := map[string]any{}
		if err := json.Unmarshal(text, &members); err != nil {
			t.Fatal(err)
		}
		list = append(list, members)
	}
	return map[string]any{"keys": list}
}

// Assertion signs an assertion of the client for a minute, with the claims of more in
// addition.
func (k *Key) Assertion(t testing.TB, client, audience string, more map[string]any) string {
	t.Helper()
	now := time.Now().Unix()
	claims := map[string]any{"iss": client, "sub": client, "aud": audience, "jti": rand.Text(), "iat": now, "exp": now + 60}
	maps.Copy(claims, more)
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(k.Alg), Key: k.pair}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}
