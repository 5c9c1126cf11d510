package seal

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"
)

// UpstreamKeys are the derived keys that a process without a root secret may have. They open
// the users' upstream tokens ([Upstream]) in access tokens, and prove to the issuer that the
// process may ask for a newer one. They are safe for concurrent use.
type UpstreamKeys struct {
	keys []upstreamKey
}

type upstreamKey struct {
	aead cipher.AEAD
	mac  []byte
}

// proofKey is the key of proofs that follows from an upstream key.
func proofKey(key []byte) ([]byte, error) {
	return hkdf.Key(sha256.New, key, nil, "signet/1 upstream proof", 32)
}

// ParseUpstreamKeys reads a list that [Keyring.UpstreamKeys] made. An error names the entry by
// its number and never repeats a key.
func ParseUpstreamKeys(list string) (*UpstreamKeys, error) {
	k := &UpstreamKeys{}
	for i, entry := range strings.Split(list, ",") {
		b, err := encoding.DecodeString(strings.TrimSpace(entry))
		if err != nil || len(b) != chacha20poly1305.KeySize {
			return nil, fmt.Errorf("upstream key %d: must be base64url (unpadded) of %d bytes", i+1, chacha20poly1305.KeySize)
		}
		aead, err := chacha20poly1305.NewX(b)
		if err != nil {
			return nil, err
		}
		proof, err := proofKey(b)
		if err != nil {
			return nil, err
		}
		k.keys = append(k.keys, upstreamKey{aead, proof})
	}
	return k, nil
}

// UpstreamKeys returns the keys that open upstream tokens, as base64url: that of the sealing
// root first, then those of other roots that are not for clients only.
func (k *Keyring) UpstreamKeys() string {
	var keys []string
	for _, r := range k.roots() {
		if !r.clientsOnly {
			keys = append(keys, encoding.EncodeToString(r.macs[forUpstream]))
		}
	}
	return strings.Join(keys, ",")
}

// LogValue keeps keys out of logs.
func (k *UpstreamKeys) LogValue() slog.Value { return slog.StringValue("[upstream keys]") }

// Open is [Open] for an Upstream. The caller checks that the grant is that of the access token.
func (k *UpstreamKeys) Open(raw string) (Upstream, error) {
	if len(raw) > maxStored || strings.ContainsAny(raw, "\r\n") {
		return Upstream{}, ErrInvalid
	}
	b, err := encoding.DecodeString(raw)
	if err != nil || len(b) < overhead || b[0] != version {
		return Upstream{}, ErrInvalid
	}
	head, rest := b[:1+rootIDSize], b[1+rootIDSize:]
	nonce, sealed := rest[:chacha20poly1305.NonceSizeX], rest[chacha20poly1305.NonceSizeX:]
	for _, key := range k.keys {
		plain, err := key.aead.Open(nil, nonce, sealed, head)
		if err != nil {
			continue
		}
		var u Upstream
		if err := json.Unmarshal(plain, &u); err != nil {
			return Upstream{}, ErrInvalid
		}
		return u, nil
	}
	return Upstream{}, ErrInvalid
}

// errNoUpstreamKey is returned by Prove of the zero UpstreamKeys.
var errNoUpstreamKey = errors.New("no upstream key")

// Prove returns a proof that its maker has the key, for one message (HMAC-SHA256).
func (k *UpstreamKeys) Prove(message string) (string, error) {
	if len(k.keys) == 0 {
		return "", errNoUpstreamKey
	}
	return mac(k.keys[0].mac, message), nil
}

// ProvesUpstream reports in constant time whether proof is [UpstreamKeys.Prove] of message
// under a key of any root that is not for clients only.
func (k *Keyring) ProvesUpstream(message, proof string) bool { return k.prover(message, proof) != nil }

// prover returns the root under whose key proof was made, or nil.
func (k *Keyring) prover(message, proof string) (found *root) {
	roots := k.roots()
	for i := range roots {
		r := &roots[i]
		if !r.clientsOnly && hmac.Equal([]byte(mac(r.upstreamProof, message)), []byte(proof)) {
			found = r
		}
	}
	return found
}

// SealUpstream is [Seal] for the maker of a proof. While the root secret is being replaced, an MCP
// server may not have the key of the root that seals by now.
func (k *Keyring) SealUpstream(u Upstream, message, proof string) (string, error) {
	r := k.prover(message, proof)
	if r == nil {
		return "", errors.New("the proof is not one of an upstream key")
	}
	return sealUnder(r, u)
}
