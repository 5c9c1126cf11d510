// Package jwt signs and verifies the access tokens of RFC 9068, and signs the id
// tokens of OpenID Connect.
//
// A [Signer] mints them with a key that the caller provides. A [Verifier] needs
// public keys only, in process or from the issuer's JWK Set ([RemoteKeys]): a
// program that only verifies holds no secret and cannot mint. The verifier takes
// the exact profile that the signer makes and nothing wider, whatever a general
// JOSE library would accept as well (RFC 8725 §3.1, §3.12):
//
//   - three parts in canonical base64url, together at most [MaxSize] characters;
//   - a header of exactly alg=ES256, typ=at+jwt and kid;
//   - one string each for iss, sub, aud, client_id, scope and jti, whole seconds
//     for iat and exp; auth_time, gid, act and nbf may be there. Members of other
//     names are ignored, so that an issuer can add some before its verifiers know
//     them, but no name occurs twice or in another case.
package jwt

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"strings"
	"time"
)

// Leeway is the most by which the clocks of issuer and verifier may differ
// (RFC 7519 §4.1.4). A published key must outlive its last token by as much.
const Leeway = 60 * time.Second

// MaxSize is the longest token that is looked at, in characters.
const MaxSize = 8 << 10

// Claims of an access token (RFC 9068 §2.2). Times are Unix seconds.
type Claims struct {
	Issuer    string        `json:"iss"`
	Subject   string        `json:"sub"`
	Audience  string        `json:"aud"` // exactly one (RFC 8707)
	ClientID  string        `json:"client_id"`
	Scope     string        `json:"scope"`
	IssuedAt  int64         `json:"iat"`
	ExpiresAt int64         `json:"exp"`
	ID        string        `json:"jti"`
	AuthTime  int64         `json:"auth_time,omitempty"`
	GrantID   string        `json:"gid,omitempty"`
	Actor     *Actor        `json:"act,omitempty"`
	Confirm   *Confirmation `json:"cnf,omitempty"`
}

// Actor is who acts for the subject (RFC 8693 §4.1).
type Actor struct {
	Subject string `json:"sub"`
}

// Confirmation names the key to which a token is bound (RFC 7800 §3.1), by its
// thumbprint (RFC 9449 §6.1).
type Confirmation struct {
	Thumbprint string `json:"jkt"`
}

// Scopes returns the single scopes of Scope.
func (c *Claims) Scopes() []string {
	return strings.FieldsFunc(c.Scope, func(r rune) bool { return r == ' ' })
}

// Expires returns ExpiresAt as a time.
func (c *Claims) Expires() time.Time { return time.Unix(c.ExpiresAt, 0) }

// KeySource finds public keys by key ID. It must be safe for concurrent use and
// answer from memory as a rule: it is asked for every token, also a remembered one.
type KeySource interface {
	// Key returns the published key named kid, [ErrUnknownKey] when the set has
	// none of that name, and [ErrKeysUnavailable] when there is no set to look
	// in, so that nothing can be said about kid.
	Key(ctx context.Context, kid string) (*ecdsa.PublicKey, error)
}

var (
	// ErrUnknownKey is a verdict of a [KeySource] about a key ID.
	ErrUnknownKey = errors.New("jwt: unknown key ID")
	// ErrKeysUnavailable is no verdict: the answer to the client is 503, never 401.
	ErrKeysUnavailable = errors.New("jwt: no keys available")
	// ErrInvalid is what every refusal of a token wraps.
	ErrInvalid = errors.New("jwt: invalid token")
	// ErrExpired and ErrRevoked are refusals that a caller may want to tell apart.
	ErrExpired error = refusal("expired")
	ErrRevoked error = refusal("revoked")
)

// refusal is the reason why a token is not accepted. It holds no text of the token.
type refusal string

func (r refusal) Error() string { return ErrInvalid.Error() + ": " + string(r) }
func (r refusal) Unwrap() error { return ErrInvalid }
