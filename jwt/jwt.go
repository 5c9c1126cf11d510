// Package jwt signs and verifies the access tokens of RFC 9068, and signs the id
// tokens of OpenID Connect.
//
// A [Signer] mints them with a key that the caller provides; the authorization server
// does so. A [Verifier] needs public keys only, in process or from the issuer's JWK Set
// ([RemoteKeys]), and learns of revoked grants from a [RevocationFeed]. Package mcp
// verifies with it, and so does any other program that takes the tokens: it holds no
// secret, cannot mint, and imports no other package of Signet, also to tell the errors
// apart. A refusal wraps [ErrInvalid]; see there for the answer to the client.
//
// The verifier accepts the exact profile that the signer makes and nothing wider,
// although a general JOSE library would accept more (RFC 8725 §3.1, §3.12):
//
//   - three parts in canonical base64url, together at most [MaxSize] characters;
//   - a header of exactly alg=ES256, typ=at+jwt and kid;
//   - one string each for iss, sub, aud, client_id, scope and jti, whole seconds
//     for iat and exp; auth_time, gid, act, nbf and upstream are optional. Members with other
//     names are ignored, so that an issuer can add some before its verifiers know
//     them, but no name occurs twice, and no known name in another case.
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

// MaxSize is the length of the longest token, in characters.
const MaxSize = 8 << 10

// Claims of an access token (RFC 9068 §2.2). Times are Unix seconds.
type Claims struct {
	Issuer    string        `json:"iss"`
	Subject   string        `json:"sub"`
	Audience  string        `json:"aud"` // exactly one resource (RFC 8707)
	ClientID  string        `json:"client_id"`
	Scope     string        `json:"scope"` // names separated by spaces (RFC 6749 §3.3)
	IssuedAt  int64         `json:"iat"`
	ExpiresAt int64         `json:"exp"`
	ID        string        `json:"jti"`
	AuthTime  int64         `json:"auth_time,omitempty"` // when the user signed in; 0: not said
	GrantID   string        `json:"gid,omitempty"`       // the grant that a revocation names; empty: none
	Actor     *Actor        `json:"act,omitempty"`
	Confirm   *Confirmation `json:"cnf,omitempty"`
	Upstream  string        `json:"upstream,omitempty"` // the user's token at another server, sealed for the issuer and its MCP servers; empty: none
}

// Actor is the party that acts for the subject (RFC 8693 §4.1).
type Actor struct {
	Subject string `json:"sub"`
}

// Confirmation names the key to which a token is bound (RFC 7800 §3.1), by its
// thumbprint (RFC 9449 §6.1).
type Confirmation struct {
	Thumbprint string `json:"jkt"`
}

// Scopes returns the names in Scope.
func (c *Claims) Scopes() []string {
	return strings.FieldsFunc(c.Scope, func(r rune) bool { return r == ' ' })
}

// HasScope reports whether scope is one of Scopes, without a list of them.
func (c *Claims) HasScope(scope string) bool {
	for rest := c.Scope; rest != ""; {
		var name string
		if name, rest, _ = strings.Cut(rest, " "); name == scope && name != "" {
			return true
		}
	}
	return false
}

// OfClient reports whether a client got the token for itself, with the grant
// client_credentials: then Subject is the id of the client, and no user takes part
// (RFC 9068 §2.2, §5). The token of a user says when the user signed in.
func (c *Claims) OfClient() bool { return c.Subject == c.ClientID && c.AuthTime == 0 }

// Expires returns ExpiresAt as a time.
func (c *Claims) Expires() time.Time { return time.Unix(c.ExpiresAt, 0) }

// KeySource finds public keys by key ID. [RemoteKeys] is one, and so is the set of
// signing keys of an issuer in the same process. It must be safe for concurrent use,
// and must answer from memory as a rule: a [Verifier] asks for every token, also for one
// that it remembers.
type KeySource interface {
	// Key returns the published P-256 key named kid, [ErrUnknownKey] if the set has
	// no key of that name, and [ErrKeysUnavailable] if there is no set to look in, so
	// that kid may name a key or not.
	Key(ctx context.Context, kid string) (*ecdsa.PublicKey, error)
}

var (
	// ErrInvalid is wrapped by every refusal of a token. The answer to the client is
	// 401 with the error code invalid_token (RFC 6750 §3.1). An error of
	// [Verifier.Verify] that does not wrap ErrInvalid is no verdict on the token: the
	// answer is 503, because clients discard their tokens on a 401.
	ErrInvalid = errors.New("invalid token")
	// ErrExpired and ErrRevoked are refusals that a caller may want to tell apart. They
	// wrap ErrInvalid.
	ErrExpired error = refusal("expired")
	ErrRevoked error = refusal("revoked")
	// ErrUnknownKey is the verdict of a [KeySource] on a key ID. [Verifier.Verify]
	// makes a refusal of it.
	ErrUnknownKey = errors.New("unknown key ID")
	// ErrKeysUnavailable is no verdict: without keys the token may be good or not.
	ErrKeysUnavailable = errors.New("no keys available")
)

// refusal is the reason for refusing a token. It holds no text of the token.
type refusal string

func (r refusal) Error() string { return ErrInvalid.Error() + ": " + string(r) }
func (r refusal) Unwrap() error { return ErrInvalid }
