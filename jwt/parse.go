package jwt

import (
	"encoding/json"
	"strings"
)

// unverifiedToken is a token of the right form whose signature is not checked yet.
type unverifiedToken struct {
	keyID     string
	claims    Claims
	notBefore int64
	signed    string // the text under the signature (RFC 7515 §5.2)
	signature [signatureSize]byte
}

// maxKeyID is the length of the longest key ID, in bytes. Thumbprints have 43.
const maxKeyID = 128

// parse reads an access token by the profile in the package comment.
func parse(rawToken string) (*unverifiedToken, error) {
	t, payload, err := parseSigned(rawToken, tokenType, MaxSize)
	if err != nil {
		return nil, err
	}
	return t, t.parseClaims(payload)
}

// parseSigned reads a token of type typ, of at most limit characters, in the compact
// serialisation (RFC 7515 §7.1) and leaves its payload, the JSON of the claims, to
// the caller.
func parseSigned(rawToken, typ string, limit int) (t *unverifiedToken, claims string, err error) {
	header, payload, signature, err := split(rawToken, limit)
	if err != nil {
		return nil, "", err
	}
	t = &unverifiedToken{signed: rawToken[:len(header)+1+len(payload)]}
	if len(signature) != encoding.EncodedLen(signatureSize) {
		return nil, "", refusal("signature is not 64 bytes")
	}
	b, err := decode(signature)
	if err != nil {
		return nil, "", err
	}
	copy(t.signature[:], b)
	if b, err = decode(header); err != nil {
		return nil, "", err
	}
	if t.keyID, err = parseHeader(string(b), typ); err != nil {
		return nil, "", err
	}
	if b, err = decode(payload); err != nil {
		return nil, "", err
	}
	return t, string(b), nil
}

func split(rawToken string, limit int) (header, payload, signature string, err error) {
	if len(rawToken) > limit {
		return "", "", "", refusal("too long")
	}
	header, rest, _ := strings.Cut(rawToken, ".")
	payload, signature, ok := strings.Cut(rest, ".")
	if !ok || strings.Contains(signature, ".") {
		return "", "", "", refusal("not three parts")
	}
	return header, payload, signature, nil
}

// decode accepts one spelling only: no padding, no other alphabet, no line breaks (which
// encoding/base64 skips), no bits left over (RFC 7515 §2).
func decode(part string) ([]byte, error) {
	if strings.ContainsAny(part, "\r\n") {
		return nil, refusal("not base64url")
	}
	b, err := encoding.DecodeString(part)
	if err != nil {
		return nil, refusal("not base64url") // err would quote the token
	}
	return b, nil
}

// parseHeader returns the key ID. The header has exactly the members that the [Signer]
// writes: the algorithm is not the token's choice (RFC 8725 §3.1), and a member that
// points to a key or changes how the rest is read is refused, never followed (§3.10).
func parseHeader(text, want string) (keyID string, err error) {
	var alg, typ string
	err = scanObject(text, func(s *scanner, name string) (err error) {
		switch name {
		case "alg":
			alg, err = s.string()
		case "typ":
			typ, err = s.string()
		case "kid":
			keyID, err = s.string()
		default:
			err = refusal("a header member other than alg, typ and kid")
		}
		return err
	})
	switch {
	case err != nil:
		return "", err
	case alg != algorithm:
		return "", refusal("algorithm is not " + algorithm)
	case typ != want:
		return "", refusal("type is not " + want)
	case keyID == "" || len(keyID) > maxKeyID:
		return "", refusal("key ID missing or too long")
	}
	return keyID, nil
}

// claimNames are the claims that the verifier reads.
var claimNames = []string{
	"iss", "sub", "aud", "client_id", "scope", "jti", "gid",
	"iat", "exp", "auth_time", "nbf", "act", "cnf", "upstream",
}

func (t *unverifiedToken) parseClaims(text string) error {
	c := &t.claims
	hasScope := false
	err := scanObject(text, func(s *scanner, name string) (err error) {
		switch name {
		case "iss":
			c.Issuer, err = s.string()
		case "sub":
			c.Subject, err = s.string()
		case "aud":
			c.Audience, err = s.string()
		case "client_id":
			c.ClientID, err = s.string()
		case "scope":
			hasScope = true
			c.Scope, err = s.string()
		case "jti":
			c.ID, err = s.string()
		case "gid":
			c.GrantID, err = s.string()
		case "iat":
			c.IssuedAt, err = s.seconds()
		case "exp":
			c.ExpiresAt, err = s.seconds()
		case "auth_time":
			c.AuthTime, err = s.seconds()
		case "nbf":
			t.notBefore, err = s.seconds()
		case "act":
			c.Actor, err = s.actor()
		case "upstream":
			c.Upstream, err = s.string()
		case "cnf":
			// RFC 9449 §7.1: a bound token is worth nothing without a proof, which
			// Verify does not take.
			err = refusal("bound to a key, presented as a bearer token")
		default:
			err = s.skipUnknown(name, claimNames)
		}
		return err
	})
	if err != nil {
		return err
	}
	// RFC 9068 §2.2: all of these are required.
	if c.Issuer == "" || c.Subject == "" || c.Audience == "" || c.ClientID == "" || c.ID == "" ||
		c.IssuedAt == 0 || c.ExpiresAt == 0 || !hasScope {
		return refusal("a required claim is missing")
	}
	return nil
}

// skipUnknown reads the value of a member whose name is not in known. A name that
// differs from a known one only in case is refused, because other readers of the token
// take it for the known one.
func (s *scanner) skipUnknown(name string, known []string) error {
	for _, k := range known {
		if strings.EqualFold(name, k) {
			return refusal("claim name in another case")
		}
	}
	return s.skip()
}

var actorNames = []string{"sub"}

// actor reads the claim act, of which only the member sub has a meaning.
func (s *scanner) actor() (*Actor, error) {
	a := &Actor{}
	err := s.object(func(s *scanner, name string) (err error) {
		if name == "sub" {
			a.Subject, err = s.string()
			return err
		}
		return s.skipUnknown(name, actorNames)
	})
	if err == nil && a.Subject == "" {
		err = refusal("actor without a subject")
	}
	return a, err
}

// UnsafeClaims returns the JSON of header and payload of a token without verifying
// anything, to show the token to a person. No decision may rest on it. The error wraps
// [ErrInvalid] if the text does not have the form of a token.
func UnsafeClaims(rawToken string) (header, payload []byte, err error) {
	h, p, _, err := split(rawToken, MaxSize)
	if err != nil {
		return nil, nil, err
	}
	if header, err = decode(h); err != nil {
		return nil, nil, err
	}
	if payload, err = decode(p); err != nil {
		return nil, nil, err
	}
	if !json.Valid(header) || !json.Valid(payload) {
		return nil, nil, errJSON
	}
	return header, payload, nil
}
