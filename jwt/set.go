package jwt

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
)

// parseSet reads the keys of a JWK Set (RFC 7517 §5) that can verify an ES256 signature
// and have a key ID. It leaves out other keys, and a key whose private half is
// published with it, which proves nothing. A set without a usable key is an error, so
// that a mistake of the issuer does not replace the last good set. Two keys with one key
// ID are an error, too.
func parseSet(body []byte) (map[string]*ecdsa.PublicKey, error) {
	if !json.Valid(body) { // jwx stops reading after the first value
		return nil, errors.New("not a JWK Set")
	}
	set, err := jwk.Parse(body, jwk.WithIgnoreParseError(true))
	if err != nil {
		return nil, errors.New("not a JWK Set") // err would quote the body
	}
	keys := map[string]*ecdsa.PublicKey{}
	for i := range set.Len() {
		key, _ := set.Key(i)
		public, ok := usable(key)
		if !ok {
			continue
		}
		if keys[key.KeyID()] != nil {
			return nil, fmt.Errorf("two keys are named %q", key.KeyID())
		}
		keys[key.KeyID()] = public
	}
	if len(keys) == 0 {
		return nil, errors.New("no usable key in the JWK Set")
	}
	return keys, nil
}

// usable returns the public key of a JWK for ES256 that has a key ID.
func usable(key jwk.Key) (*ecdsa.PublicKey, bool) {
	public, ok := key.(jwk.ECDSAPublicKey)
	if _, private := key.(jwk.ECDSAPrivateKey); private || !ok || key.KeyID() == "" {
		return nil, false
	}
	if use := key.KeyUsage(); use != "" && use != string(jwk.ForSignature) {
		return nil, false
	}
	if alg := key.Algorithm().String(); alg != "" && alg != algorithm {
		return nil, false
	}
	return p256(public)
}

// p256 returns the key of a JWK that is a point of P-256.
func p256(public jwk.ECDSAPublicKey) (*ecdsa.PublicKey, bool) {
	if public.Crv() != jwa.P256 {
		return nil, false
	}
	var k ecdsa.PublicKey
	if err := public.Raw(&k); err != nil || k.Curve != elliptic.P256() {
		return nil, false
	}
	if len(public.X()) != 32 || len(public.Y()) != 32 { // RFC 7518 §6.2.1.2
		return nil, false
	}
	// jwx does not check that the point is on the curve.
	if _, err := k.ECDH(); err != nil {
		return nil, false
	}
	return &k, true
}
