package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
)

var (
	errNotP256 = errors.New("not an EC key on the curve P-256")
	errDamaged = errors.New("damaged")
)

var b64 = base64.RawURLEncoding

// thumbprint is the key ID of public (RFC 7638).
func thumbprint(public *ecdsa.PublicKey) (string, error) {
	key, err := jwk.FromRaw(public)
	if err != nil {
		return "", err
	}
	hash, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return "", err
	}
	return b64.EncodeToString(hash), nil
}

// publicJWK is a key as it is published. It is a type of its own rather than the
// library's, so that it cannot contain a private member.
type publicJWK struct {
	Type      string `json:"kty"`
	Curve     string `json:"crv"`
	X         string `json:"x"`
	Y         string `json:"y"`
	ID        string `json:"kid"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
}

func newPublicJWK(id string, public *ecdsa.PublicKey) (publicJWK, error) {
	point, err := public.Bytes() // 0x04, x, y
	if err != nil || public.Curve != elliptic.P256() {
		return publicJWK{}, errNotP256
	}
	return publicJWK{
		Type: "EC", Curve: "P-256", X: b64.EncodeToString(point[1:33]), Y: b64.EncodeToString(point[33:]),
		ID: id, Use: "sig", Algorithm: "ES256",
	}, nil
}

// marshalSet renders the JWK Set (RFC 7517 §5).
func marshalSet(keys []publishedKey) []byte {
	set := struct {
		Keys []publicJWK `json:"keys"`
	}{Keys: []publicJWK{}}
	for _, k := range keys {
		if j, err := newPublicJWK(k.id, k.public); err == nil { // checked when k was read
			set.Keys = append(set.Keys, j)
		}
	}
	body, err := json.Marshal(set)
	if err != nil {
		return nil // strings only: cannot fail
	}
	return body
}

// parseJWK reads one EC key for ES256. private is nil if there is no private half. No
// error quotes the text, which may be secret.
func parseJWK(text []byte) (public *ecdsa.PublicKey, private *ecdsa.PrivateKey, key jwk.Key, err error) {
	if json.Valid(text) { // jwx stops reading after the first value
		key, err = jwk.ParseKey(text)
	}
	if key == nil || err != nil {
		return nil, nil, nil, errors.New("not a JWK, or a damaged one")
	}
	if use := key.KeyUsage(); use != "" && use != string(jwk.ForSignature) {
		return nil, nil, nil, errors.New("its use is not sig")
	}
	if alg := key.Algorithm().String(); alg != "" && alg != jwa.ES256.String() {
		return nil, nil, nil, errors.New("its alg is not ES256")
	}
	if public, private, err = rawKey(key); err != nil {
		return nil, nil, nil, err
	}
	if err := checkPair(public, private); err != nil {
		return nil, nil, nil, err
	}
	return public, private, key, nil
}

// rawKey takes the halves of a key on P-256, whose numbers must have their full length
// (RFC 7518 §6.2.1.2).
func rawKey(key jwk.Key) (public *ecdsa.PublicKey, private *ecdsa.PrivateKey, err error) {
	var curve jwa.EllipticCurveAlgorithm
	var numbers [][]byte
	switch k := key.(type) {
	case jwk.ECDSAPrivateKey:
		private = new(ecdsa.PrivateKey)
		public = &private.PublicKey
		curve, numbers, err = k.Crv(), [][]byte{k.X(), k.Y(), k.D()}, k.Raw(private)
	case jwk.ECDSAPublicKey:
		public = new(ecdsa.PublicKey)
		curve, numbers, err = k.Crv(), [][]byte{k.X(), k.Y()}, k.Raw(public)
	}
	if curve != jwa.P256 {
		return nil, nil, errNotP256
	}
	if err != nil || slices.ContainsFunc(numbers, func(n []byte) bool { return len(n) != 32 }) {
		return nil, nil, errDamaged
	}
	return public, private, nil
}

// checkPair refuses points off the curve, and halves that do not belong together: such
// a key would sign tokens that no verifier accepts.
func checkPair(public *ecdsa.PublicKey, private *ecdsa.PrivateKey) error {
	if public.Curve != elliptic.P256() {
		return errNotP256
	}
	if _, err := public.ECDH(); err != nil {
		return errDamaged
	}
	if private == nil {
		return nil
	}
	scalar, err := private.Bytes()
	if err != nil {
		return errDamaged
	}
	derived, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil || !derived.PublicKey.Equal(public) {
		return errors.New("its private and public halves do not belong together")
	}
	return nil
}
