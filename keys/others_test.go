package keys_test

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	josejwt "github.com/go-jose/go-jose/v4/jwt"

	"signet/internal/test/storetest"
	"signet/keys"
)

// Other libraries verify the tokens with the published keys alone.
func TestOthersVerifyOurTokens(t *testing.T) {
	s := open(t, keys.Options{Store: storetest.SQLite.Open(t), Ring: newRing(t), Rotation: time.Hour})
	raw := sign(t, s, 5*time.Minute)
	body, _, _ := s.JWKS(time.Now())
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(body, &set); err != nil {
		t.Fatal(err)
	}
	token, err := josejwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	named := set.Key(token.Headers[0].KeyID)
	if len(named) != 1 || !named[0].Valid() || !named[0].IsPublic() {
		t.Fatalf("%d keys are named %s", len(named), token.Headers[0].KeyID)
	}
	print, err := named[0].Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := token.Headers[0].KeyID, base64.RawURLEncoding.EncodeToString(print); got != want {
		t.Errorf("key ID %s is not the thumbprint %s", got, want)
	}
	var claims josejwt.Claims
	if err := token.Claims(named[0].Key, &claims); err != nil {
		t.Fatal(err)
	}
	if err := claims.Validate(josejwt.Expected{Issuer: issuer, Subject: "alice", AnyAudience: josejwt.Audience{resource}, Time: time.Now()}); err != nil {
		t.Error(err)
	}
	static := &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{named[0].Key}}
	o := oidc.NewVerifier(issuer, static, &oidc.Config{ClientID: resource, SupportedSigningAlgs: []string{"ES256"}})
	if _, err := o.Verify(t.Context(), raw); err != nil {
		t.Error(err)
	}
}
