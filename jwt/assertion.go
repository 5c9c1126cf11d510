package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"
)

// AssertionAlgorithms are the signature algorithms of client assertions, as the metadata
// of an authorization server lists them (RFC 8414 §2).
var AssertionAlgorithms = []string{"RS256", "PS256", "ES256", "EdDSA"}

const (
	maxAssertion     = 8 << 10   // bytes
	maxAssertionLife = time.Hour // how far ahead exp may be
	maxAssertionID   = 256       // bytes of jti
	maxClientKeys    = 50        // in one set
	maxKeysTried     = 4         // for one assertion
	minRSA, maxRSA   = 2048, 8192
)

// Assertion is a client assertion (RFC 7523 §2.2) whose signature is not checked yet: a
// client that has a key pair proves with it who it is.
type Assertion struct {
	Subject string // the client id, which is the issuer, too
	ID      string // jti; the caller must accept it once
	Expires time.Time

	alg, keyID     string
	audience       string
	notBefore      int64
	issuedAt       int64
	signed, issuer string
	signature      []byte
}

// ParseAssertion reads an assertion. Nothing in it is proved until [Assertion.Verify]. The
// error wraps [ErrInvalid].
func ParseAssertion(raw string) (*Assertion, error) {
	header, payload, signature, err := split(raw, maxAssertion)
	if err != nil {
		return nil, err
	}
	a := &Assertion{signed: raw[:len(header)+1+len(payload)]}
	if a.signature, err = decode(signature); err != nil {
		return nil, err
	}
	text, err := decode(header)
	if err != nil {
		return nil, err
	}
	if err := a.parseHeader(string(text)); err != nil {
		return nil, err
	}
	if text, err = decode(payload); err != nil {
		return nil, err
	}
	return a, a.parseClaims(string(text))
}

// parseHeader takes the algorithm from a fixed list. Members that bring a key along, or
// that change how the rest is read, are refused (RFC 8725 §3.1, §3.10); so is a content
// type, because the claims must not be another token (§3.8).
func (a *Assertion) parseHeader(text string) error {
	err := scanObject(text, func(s *scanner, name string) (err error) {
		switch name {
		case "alg":
			a.alg, err = s.string()
		case "kid":
			a.keyID, err = s.string()
		case "jwk", "jku", "x5u", "x5c", "crit", "cty", "b64", "enc", "zip":
			err = refusal("the header member " + name + " is not accepted")
		default:
			err = s.skip()
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case !slices.Contains(AssertionAlgorithms, a.alg):
		return refusal("algorithm is none of RS256, PS256, ES256 and EdDSA")
	case len(a.keyID) > maxKeyID:
		return refusal("key ID too long")
	}
	return nil
}

var assertionNames = []string{"iss", "sub", "aud", "jti", "exp", "iat", "nbf"}

func (a *Assertion) parseClaims(text string) error {
	var exp int64
	err := scanObject(text, func(s *scanner, name string) (err error) {
		switch name {
		case "iss":
			a.issuer, err = s.string()
		case "sub":
			a.Subject, err = s.string()
		case "aud":
			a.audience, err = s.onlyString()
		case "jti":
			a.ID, err = s.string()
		case "exp":
			exp, err = s.date()
		case "iat":
			a.issuedAt, err = s.date()
		case "nbf":
			a.notBefore, err = s.date()
		default:
			err = s.skipUnknown(name, assertionNames)
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case a.Subject == "" || a.issuer != a.Subject:
		return refusal("iss and sub must both be the client id")
	case a.ID == "" || len(a.ID) > maxAssertionID:
		return refusal("jti missing or too long")
	case exp == 0:
		return refusal("exp is missing")
	}
	a.Expires = time.Unix(exp, 0)
	return nil
}

// date reads a NumericDate, which may have a fraction (RFC 7519 §2).
func (s *scanner) date() (int64, error) {
	s.space()
	rest := s.text[s.at:]
	if end := strings.IndexAny(rest, ",}"); end >= 0 {
		rest = rest[:end]
	}
	whole, fraction, _ := strings.Cut(strings.TrimSpace(rest), ".")
	if fraction == "" || strings.Trim(fraction, "0123456789") != "" {
		return s.seconds()
	}
	if err := s.number(); err != nil {
		return 0, err
	}
	return (&scanner{text: whole}).seconds()
}

// onlyString reads a string, or a list of exactly one.
func (s *scanner) onlyString() (string, error) {
	if s.peek() != '[' {
		return s.string()
	}
	s.take('[')
	value, err := s.string()
	if err == nil && !s.take(']') {
		err = refusal("more than one audience")
	}
	return value, err
}

// Verify checks the assertion: its audience must be one of audiences, its time must be
// now, and one of keys must have signed it. It returns an error that wraps [ErrUnknownKey]
// if none has, which new keys of the client may change, and otherwise [ErrInvalid].
//
// The clock of the client may be ahead by [Leeway]. The end has no leeway, because the ID
// is remembered up to it.
func (a *Assertion) Verify(keys *ClientKeys, audiences []string, now time.Time) error {
	switch {
	case !slices.Contains(audiences, a.audience):
		return refusal("aud is neither the issuer nor the token endpoint")
	case !now.Before(a.Expires):
		return refusal("expired")
	case a.Expires.After(now.Add(maxAssertionLife)):
		return refusal("exp is more than an hour ahead")
	case a.notBefore > now.Add(Leeway).Unix(), a.issuedAt > now.Add(Leeway).Unix():
		return refusal("not valid yet")
	}
	tried := 0
	for _, k := range keys.list {
		if !k.mayHaveSigned(a) {
			continue
		}
		if tried++; tried > maxKeysTried {
			break
		}
		if k.verify(a.alg, a.signed, a.signature) {
			return nil
		}
	}
	return errUnknownSigner
}

// MayHaveSigned reports whether one of the keys has the name and the algorithm of the
// assertion. It does not look at the signature.
func (keys *ClientKeys) MayHaveSigned(a *Assertion) bool {
	return slices.ContainsFunc(keys.list, func(k clientKey) bool { return k.mayHaveSigned(a) })
}

func (k clientKey) mayHaveSigned(a *Assertion) bool {
	return (a.keyID == "" || k.id == "" || k.id == a.keyID) && k.signs(a.alg)
}

var errUnknownSigner = fmt.Errorf("%w: %w", refusal("none of the client's keys has signed it"), ErrUnknownKey)

// ClientKeys are the public keys of a client. They are never written.
type ClientKeys struct{ list []clientKey }

// ClientKey describes a public key of a client.
type ClientKey struct {
	ID         string   `json:"kid,omitempty"`
	Algorithms []string `json:"algs"` // with which the client may sign
}

// List describes the keys.
func (keys *ClientKeys) List() []ClientKey {
	var all []ClientKey
	for _, k := range keys.list {
		algs := slices.DeleteFunc(slices.Clone(AssertionAlgorithms), func(alg string) bool { return !k.signs(alg) })
		all = append(all, ClientKey{ID: k.id, Algorithms: algs})
	}
	return all
}

type clientKey struct {
	id, alg string // alg is empty if the set does not say one
	public  crypto.PublicKey
}

// ParseClientKeys reads a JWK Set (RFC 7517 §5). It leaves out keys that cannot verify an
// assertion. A set with a private or symmetric key is the error [ErrSecretKey]: its owner has
// published a secret. A set without a usable key is an error, too.
func ParseClientKeys(body []byte) (*ClientKeys, error) {
	if err := checkPublicSet(body); err != nil {
		return nil, err
	}
	set, err := jwk.Parse(body, jwk.WithIgnoreParseError(true))
	if err != nil {
		return nil, errNoSet // err would quote the body
	}
	if set.Len() > maxClientKeys {
		return nil, errors.New("too many keys in the JWK Set")
	}
	keys := &ClientKeys{}
	for i := range set.Len() {
		key, _ := set.Key(i)
		if public, ok := verifying(key); ok {
			keys.list = append(keys.list, clientKey{id: key.KeyID(), alg: key.Algorithm().String(), public: public})
		}
	}
	if len(keys.list) == 0 {
		return nil, errors.New("no key of the JWK Set can verify RS256, PS256, ES256 or EdDSA")
	}
	return keys, nil
}

// ErrSecretKey is the error of a JWK Set that shows what only its owner may have.
var ErrSecretKey = errors.New("the JWK Set has a private or symmetric key")

var errNoSet = errors.New("not a JWK Set")

// privateMembers are those of private and symmetric keys (RFC 7518 §6).
var privateMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

// checkPublicSet refuses what is not a JWK Set, and private keys, whose types jwx may not
// know.
func checkPublicSet(body []byte) error {
	var set struct {
		Keys []map[string]json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(body, &set) != nil || set.Keys == nil {
		return errNoSet
	}
	for _, key := range set.Keys {
		for _, member := range privateMembers {
			if _, ok := key[member]; ok {
				return ErrSecretKey
			}
		}
	}
	return nil
}

// verifying returns the public key of a JWK that is for signatures, of a length that is
// neither weak nor expensive.
func verifying(key jwk.Key) (crypto.PublicKey, bool) {
	if use := key.KeyUsage(); use != "" && use != string(jwk.ForSignature) {
		return nil, false
	}
	switch key := key.(type) {
	case jwk.RSAPublicKey:
		var k rsa.PublicKey
		if key.Raw(&k) != nil || k.N.BitLen() < minRSA || k.N.BitLen() > maxRSA || k.E < 3 || big.NewInt(int64(k.E)).BitLen() > 32 {
			return nil, false
		}
		return &k, true
	case jwk.ECDSAPublicKey:
		return p256(key)
	case jwk.OKPPublicKey:
		var k ed25519.PublicKey
		if key.Raw(&k) != nil || len(k) != ed25519.PublicKeySize {
			return nil, false
		}
		return k, true
	}
	return nil, false
}

// signs reports whether the key is one for alg.
func (k *clientKey) signs(alg string) bool {
	if k.alg != "" && k.alg != alg {
		return false
	}
	switch k.public.(type) {
	case *rsa.PublicKey:
		return alg == "RS256" || alg == "PS256"
	case *ecdsa.PublicKey:
		return alg == "ES256"
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}

func (k *clientKey) verify(alg, signed string, signature []byte) bool {
	hash := sha256.Sum256([]byte(signed))
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		if alg == "PS256" {
			return rsa.VerifyPSS(public, crypto.SHA256, hash[:], signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, hash[:], signature) == nil
	case *ecdsa.PublicKey:
		if len(signature) != signatureSize {
			return false
		}
		return verifySignature(public, signed, [signatureSize]byte(signature))
	case ed25519.PublicKey:
		return ed25519.Verify(public, []byte(signed), signature)
	}
	return false
}
