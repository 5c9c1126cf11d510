package jwt

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"
	"unicode/utf8"
)

const (
	algorithm = "ES256"
	tokenType = "at+jwt" // RFC 9068 §2.1
	idType    = "JWT"    // RFC 7519 §5.1
)

// signatureSize is the size of r and s in bytes, 32 each (RFC 7518 §3.4).
const signatureSize = 64

// encoding is canonical: Strict refuses set trailing bits, RawURL padding.
var encoding = base64.RawURLEncoding.Strict()

// SigningKey is the private half of a key and the key ID of its public half.
type SigningKey struct {
	ID      string            // RFC 7638 thumbprint
	Private *ecdsa.PrivateKey // on P-256
}

// LogValue keeps the private half out of logs.
func (k SigningKey) LogValue() slog.Value { return slog.StringValue("[signing key " + k.ID + "]") }

// Signer mints access tokens, id tokens and revocation feeds. It is safe for concurrent
// use if its key function is.
type Signer struct {
	key func(now time.Time) (SigningKey, error)
}

// NewSigner returns a Signer. key returns the key that signs at now; its errors come
// back, wrapped, from the Signer's methods.
func NewSigner(key func(now time.Time) (SigningKey, error)) *Signer {
	return &Signer{key: key}
}

// Sign mints an access token of c (RFC 9068 §2) with the key that signs at now. It sets a
// random ID if c has none and changes nothing else. It returns an error for claims that
// every [Verifier] would refuse, and for a token longer than [MaxSize].
func (s *Signer) Sign(c Claims, now time.Time) (string, error) {
	if c.ID == "" {
		c.ID = newID()
	}
	if err := c.check(); err != nil {
		return "", err
	}
	return s.sign(tokenType, &c, now, MaxSize)
}

// sign signs claims, a pointer to a struct, as a token of type typ and of at most limit
// characters.
func (s *Signer) sign(typ string, claims any, now time.Time, limit int) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	key, err := s.key(now)
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	return sign(key, typ, payload, limit)
}

func newID() string {
	var b [16]byte
	rand.Read(b[:])
	return encoding.EncodeToString(b[:])
}

// check returns an error for claims that no verifier would accept (RFC 9068 §4).
func (c *Claims) check() error {
	for _, claim := range [...]struct{ name, value string }{
		{"iss", c.Issuer}, {"sub", c.Subject}, {"aud", c.Audience}, {"client_id", c.ClientID},
		{"jti", c.ID}, {"gid", c.GrantID}, {"scope", c.Scope}, {"upstream", c.Upstream},
	} {
		if claim.value == "" && claim.name != "gid" && claim.name != "scope" && claim.name != "upstream" {
			return errors.New("signing an access token: no " + claim.name)
		}
		// json.Marshal would write U+FFFD instead, and so change the subject.
		if !utf8.ValidString(claim.value) {
			return errors.New("signing an access token: " + claim.name + " is not UTF-8")
		}
	}
	if c.IssuedAt <= 0 || c.ExpiresAt <= c.IssuedAt || c.ExpiresAt > maxTime || c.AuthTime < 0 {
		return errors.New("signing an access token: times out of order")
	}
	return nil
}

// sign uses the standard library and not the JOSE library, which takes about a fifth
// more time for a token: compare BenchmarkSign, BenchmarkSignByLibrary, and
// BenchmarkBareSign for the signature alone.
func sign(key SigningKey, typ string, payload []byte, limit int) (string, error) {
	if key.Private == nil {
		return "", errors.New("signing: no private key")
	}
	header, err := json.Marshal(struct {
		Algorithm string `json:"alg"`
		Type      string `json:"typ"`
		KeyID     string `json:"kid"`
	}{algorithm, typ, key.ID})
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	size := encoding.EncodedLen(len(header)) + 1 + encoding.EncodedLen(len(payload)) + 1 + encoding.EncodedLen(signatureSize)
	if size > limit {
		return "", fmt.Errorf("signing: token of %d characters, more than %d", size, limit)
	}
	token := make([]byte, 0, size)
	token = encoding.AppendEncode(token, header)
	token = append(token, '.')
	token = encoding.AppendEncode(token, payload)
	hash := sha256.Sum256(token)
	r, s, err := ecdsa.Sign(rand.Reader, key.Private, hash[:])
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	var signature [signatureSize]byte
	r.FillBytes(signature[:signatureSize/2])
	s.FillBytes(signature[signatureSize/2:])
	token = append(token, '.')
	return string(encoding.AppendEncode(token, signature[:])), nil
}
