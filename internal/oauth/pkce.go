package oauth

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"
)

// The length of a code verifier in characters (RFC 7636 §4.1).
const minVerifier, maxVerifier = 43, 128

var challengeEncoding = base64.RawURLEncoding.Strict()

// CheckChallenge checks code_challenge and code_challenge_method of an
// authorization request (RFC 7636 §4.3); the error is invalid_request. Every client
// must send them. Only S256 is accepted: OAuth 2.1 leaves plain out, and an absent
// method means plain.
func CheckChallenge(challenge, method string) error {
	switch {
	case challenge == "":
		return Errorf(InvalidRequest, "code_challenge is required")
	case method != "S256":
		return Errorf(InvalidRequest, "code_challenge_method must be S256")
	}
	if b, err := challengeEncoding.DecodeString(challenge); err != nil || len(b) != sha256.Size || len(challenge) != minVerifier {
		return Errorf(InvalidRequest, "code_challenge is not the base64url form of a SHA-256 hash")
	}
	return nil
}

// CheckVerifier checks the code_verifier of a token request. The error is
// invalid_request for a verifier of a wrong form (RFC 7636 §4.1), and invalid_grant for
// a verifier that does not match the challenge (§4.6).
func CheckVerifier(verifier, challenge string) error {
	switch {
	case verifier == "":
		return Errorf(InvalidRequest, "code_verifier is required")
	case len(verifier) < minVerifier || len(verifier) > maxVerifier:
		return Errorf(InvalidRequest, "Invalid code_verifier: it must have %d to %d characters", minVerifier, maxVerifier)
	case strings.ContainsFunc(verifier, reserved):
		return Errorf(InvalidRequest, "Invalid code_verifier: it has a character that is not allowed")
	}
	h := sha256.Sum256([]byte(verifier))
	if subtle.ConstantTimeCompare([]byte(challengeEncoding.EncodeToString(h[:])), []byte(challenge)) != 1 {
		return Errorf(InvalidGrant, "Invalid code_verifier: it does not match the code_challenge")
	}
	return nil
}

// reserved reports whether r is not one of the unreserved characters of a URI
// (RFC 3986 §2.3).
func reserved(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '.', r == '_', r == '~':
		return false
	}
	return true
}
