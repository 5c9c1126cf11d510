package jwt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
)

// IDClaims are the claims of an id token (OpenID Connect Core §2): who signed in,
// when, and at whose request. What else is known about the user a client learns at
// the userinfo endpoint (§5.4). Times are Unix seconds.
type IDClaims struct {
	Issuer          string `json:"iss"`
	Subject         string `json:"sub"`
	Audience        string `json:"aud"` // the client id
	IssuedAt        int64  `json:"iat"`
	ExpiresAt       int64  `json:"exp"`
	AuthTime        int64  `json:"auth_time,omitempty"`
	Nonce           string `json:"nonce,omitempty"`   // of the authorization request
	AccessTokenHash string `json:"at_hash,omitempty"` // see AccessTokenHash
}

// SignID mints an id token of c with the key that signs at now. Its type is JWT,
// so nobody who verifies access tokens takes it for one (RFC 8725 §3.11).
func (s *Signer) SignID(c IDClaims, now time.Time) (string, error) {
	for _, claim := range [...]struct{ name, value string }{{"iss", c.Issuer}, {"sub", c.Subject}, {"aud", c.Audience}, {"nonce", c.Nonce}} {
		if claim.value == "" && claim.name != "nonce" {
			return "", errors.New("jwt: signing: no " + claim.name)
		}
		if !utf8.ValidString(claim.value) {
			return "", errors.New("jwt: signing: " + claim.name + " is not UTF-8")
		}
	}
	if c.IssuedAt <= 0 || c.ExpiresAt <= c.IssuedAt || c.ExpiresAt > maxTime || c.AuthTime < 0 {
		return "", errors.New("jwt: signing: times out of order")
	}
	return s.sign(idType, &c, now, MaxSize)
}

// AccessTokenHash is the claim at_hash for an access token that is issued with an
// id token: the left half of its SHA-256 (OpenID Connect Core §3.1.3.6).
func AccessTokenHash(accessToken string) string {
	hash := sha256.Sum256([]byte(accessToken))
	return encoding.EncodeToString(hash[:len(hash)/2])
}

// VerifyIDHint returns issuer, subject and audience of an id token that issuer made
// at some time. Nobody is authenticated by that: it may have expired long ago, which
// a hint at the end of a session may (OpenID Connect RP-Initiated Logout §2).
// [ErrUnknownKey] says that nothing can be known of the token any more, because its
// key is not published now; other refusals wrap [ErrInvalid].
func VerifyIDHint(ctx context.Context, keys KeySource, issuer, rawToken string) (IDClaims, error) {
	t, payload, err := parseSigned(rawToken, idType, MaxSize)
	if err != nil {
		return IDClaims{}, err
	}
	var c IDClaims
	err = scanObject(payload, func(s *scanner, name string) (err error) {
		switch name {
		case "iss":
			c.Issuer, err = s.string()
		case "sub":
			c.Subject, err = s.string()
		case "aud":
			c.Audience, err = s.string()
		default:
			err = s.skip()
		}
		return err
	})
	switch {
	case err != nil:
		return IDClaims{}, err
	case c.Issuer != issuer:
		return IDClaims{}, refusal("another issuer")
	case c.Subject == "" || c.Audience == "":
		return IDClaims{}, refusal("a required claim is missing")
	}
	key, err := keys.Key(ctx, t.keyID)
	if err != nil {
		return IDClaims{}, fmt.Errorf("jwt: verifying: %w", err)
	}
	if !verifySignature(key, t.signed, t.signature) {
		return IDClaims{}, refusal("wrong signature")
	}
	return c, nil
}
