package jwt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"
)

// IDClaims are the claims of an id token (OpenID Connect Core §2): the user who signed
// in, the time, and the client that asked. Times are Unix seconds.
type IDClaims struct {
	Issuer          string `json:"iss"`
	Subject         string `json:"sub"`
	Audience        string `json:"aud"` // the client id
	IssuedAt        int64  `json:"iat"`
	ExpiresAt       int64  `json:"exp"`
	AuthTime        int64  `json:"auth_time,omitempty"` // when the user signed in; 0: not said
	Nonce           string `json:"nonce,omitempty"`     // of the authorization request; empty: none
	AccessTokenHash string `json:"at_hash,omitempty"`   // from the function AccessTokenHash

	// What is known about the user, as far as the scopes allow (OpenID Connect Core §5.1, §5.4).
	Name              string `json:"name,omitempty"`
	PreferredUsername string `json:"preferred_username,omitempty"`
	Picture           string `json:"picture,omitempty"` // a URL
	UpdatedAt         int64  `json:"updated_at,omitempty"`
	Email             string `json:"email,omitempty"`
}

// SignID mints an id token of c with the key that signs at now. Its typ is JWT, so that
// it does not pass for an access token (RFC 8725 §3.11). It returns an error for claims
// that are missing, not UTF-8, or whose times are out of order, and for a token longer
// than [MaxSize].
func (s *Signer) SignID(c IDClaims, now time.Time) (string, error) {
	for _, claim := range [...]struct{ name, value string }{{"iss", c.Issuer}, {"sub", c.Subject}, {"aud", c.Audience}, {"nonce", c.Nonce}, {"name", c.Name},
		{"preferred_username", c.PreferredUsername}, {"picture", c.Picture}, {"email", c.Email}} {
		if claim.value == "" && slices.Contains([]string{"iss", "sub", "aud"}, claim.name) {
			return "", errors.New("signing an id token: no " + claim.name)
		}
		if !utf8.ValidString(claim.value) {
			return "", errors.New("signing an id token: " + claim.name + " is not UTF-8")
		}
	}
	if c.IssuedAt <= 0 || c.ExpiresAt <= c.IssuedAt || c.ExpiresAt > maxTime || c.AuthTime < 0 {
		return "", errors.New("signing an id token: times out of order")
	}
	return s.sign(idType, &c, now, MaxSize)
}

// AccessTokenHash returns the claim at_hash of an id token that is issued with
// accessToken: the left half of its SHA-256 (OpenID Connect Core §3.1.3.6).
func AccessTokenHash(accessToken string) string {
	hash := sha256.Sum256([]byte(accessToken))
	return encoding.EncodeToString(hash[:len(hash)/2])
}

// VerifyIDHint returns issuer, subject and audience of an id token that issuer made at
// some time. This authenticates no user: the token may have expired long ago, as the
// hint of a logout may (OpenID Connect RP-Initiated Logout §2). The error wraps
// [ErrUnknownKey] if the key of the token is no longer published, so that the token
// cannot be judged, and another error of keys in the same way. A refusal wraps
// [ErrInvalid].
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
		return IDClaims{}, refusal("wrong issuer")
	case c.Subject == "" || c.Audience == "":
		return IDClaims{}, refusal("a required claim is missing")
	}
	key, err := keys.Key(ctx, t.keyID)
	if err != nil {
		return IDClaims{}, fmt.Errorf("verifying an id token: %w", err)
	}
	if !verifySignature(key, t.signed, t.signature) {
		return IDClaims{}, refusal("wrong signature")
	}
	return c, nil
}
