package jwt_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"signet/jwt"
)

// published is a KeySource in memory. Programs that do not hold the issuer's keys take
// jwt.NewRemoteKeys.
type published map[string]*ecdsa.PublicKey

func (p published) Key(_ context.Context, kid string) (*ecdsa.PublicKey, error) {
	if p == nil {
		return nil, jwt.ErrKeysUnavailable
	}
	if key := p[kid]; key != nil {
		return key, nil
	}
	return nil, jwt.ErrUnknownKey
}

// answer returns the answer of a resource server to an error of Verify: the status, and
// the challenge (RFC 6750 §3).
func answer(err error) string {
	switch {
	case err == nil:
		return "200"
	case errors.Is(err, jwt.ErrExpired):
		return `401 Bearer error="invalid_token", error_description="the access token has expired"`
	case errors.Is(err, jwt.ErrRevoked):
		return `401 Bearer error="invalid_token", error_description="the access token was revoked"`
	case errors.Is(err, jwt.ErrInvalid):
		return `401 Bearer error="invalid_token"`
	default: // the token may be good: clients discard theirs on a 401
		return "503"
	}
}

// A resource server needs package jwt alone to choose its answer.
func ExampleVerifier_Verify() {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	signer := jwt.NewSigner(func(time.Time) (jwt.SigningKey, error) {
		return jwt.SigningKey{ID: "key-1", Private: private}, nil
	})
	token := func(issuedAt time.Time, audience, grant string) string {
		raw, err := signer.Sign(jwt.Claims{
			Issuer: "https://auth.example.com", Subject: "alice", Audience: audience, ClientID: "app", Scope: "read",
			IssuedAt: issuedAt.Unix(), ExpiresAt: issuedAt.Add(5 * time.Minute).Unix(), GrantID: grant,
		}, issuedAt)
		if err != nil {
			panic(err)
		}
		return raw
	}
	verify := func(keys published, raw string) string {
		verifier, err := jwt.NewVerifier(jwt.VerifierOptions{
			Issuer: "https://auth.example.com", Audiences: []string{"https://api.example.com"}, Keys: keys,
			Revoked: func(grant string) bool { return grant == "ended" },
		})
		if err != nil {
			panic(err)
		}
		_, err = verifier.Verify(context.Background(), raw)
		return answer(err)
	}

	now, keys := time.Now(), published{"key-1": &private.PublicKey}
	fmt.Println("good:     ", verify(keys, token(now, "https://api.example.com", "lives")))
	fmt.Println("expired:  ", verify(keys, token(now.Add(-time.Hour), "https://api.example.com", "lives")))
	fmt.Println("revoked:  ", verify(keys, token(now, "https://api.example.com", "ended")))
	fmt.Println("elsewhere:", verify(keys, token(now, "https://other.example.com", "lives")))
	fmt.Println("no keys:  ", verify(nil, token(now, "https://api.example.com", "lives")))

	// Output:
	// good:      200
	// expired:   401 Bearer error="invalid_token", error_description="the access token has expired"
	// revoked:   401 Bearer error="invalid_token", error_description="the access token was revoked"
	// elsewhere: 401 Bearer error="invalid_token"
	// no keys:   503
}
