package oauth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/url"
	"time"
)

// AssertionType is the type of assertions that are JWTs (RFC 7523 §2.2).
const AssertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// assertionLife is long enough for a request and the difference of two clocks, in seconds.
const assertionLife = 60

// assertionClaims are the claims of a client's assertion (RFC 7523 §3).
type assertionClaims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Audience string `json:"aud"`
	IssuedAt int64  `json:"iat"`
	Expires  int64  `json:"exp"`
	ID       string `json:"jti"`
}

// SetAssertion adds to a form the proof of a client that has a key of [ParseClientKey]
// (private_key_jwt). It counts once, at the authorization server that audience names.
func SetAssertion(form url.Values, key crypto.Signer, clientID, audience string) error {
	now := time.Now().Unix()
	claims, err := json.Marshal(assertionClaims{clientID, clientID, audience, now, now + assertionLife, rand.Text()})
	if err != nil {
		return err
	}
	assertion, err := signJWT(key, claims)
	if err != nil {
		return err
	}
	form.Set("client_id", clientID)
	form.Set("client_assertion_type", AssertionType)
	form.Set("client_assertion", assertion)
	return nil
}

// ParseClientKey reads the private key of a client: PEM of an RSA key or of one of the curve P-256.
func ParseClientKey(text string) (crypto.Signer, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("is not PEM")
	}
	var key any
	var err error
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, errors.New("cannot be read") // the error may show a part of it
	}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return key, nil
	case *ecdsa.PrivateKey:
		if key.Curve.Params().BitSize == 256 {
			return key, nil
		}
	}
	return nil, errors.New("is neither an RSA key nor one of the curve P-256")
}

// signJWT signs a payload with RS256 or ES256 (RFC 7518 §3.1).
func signJWT(key crypto.Signer, payload []byte) (string, error) {
	algorithm := "RS256"
	ec, isEC := key.(*ecdsa.PrivateKey)
	if isEC {
		algorithm = "ES256"
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"`+algorithm+`","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload)
	digest := sha256.Sum256([]byte(text))
	if !isEC {
		signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
		return text + "." + base64.RawURLEncoding.EncodeToString(signature), err
	}
	r, s, err := ecdsa.Sign(rand.Reader, ec, digest[:])
	if err != nil {
		return "", err
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature[:]), nil
}
