// Package seal makes and opens the self-contained artefacts that clients and
// browsers carry for us: authorization codes, refresh handles, login
// transactions, login sessions, registered client ids; and the signing keys'
// private halves at rest.
//
// Every kind of artefact is a Go type with a key of its own, derived from the
// root secret by HKDF-SHA256, and is sealed with XChaCha20-Poly1305. An artefact
// of one kind therefore never opens as another, and a changed bit, a cut end or
// another spelling of the same bytes is refused without asking any store.
// Sealed does not mean single-use: that is what package denylist is for.
package seal

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"

	"golang.org/x/crypto/chacha20poly1305"
)

// RootSize is the length of a root secret in bytes.
const RootSize = 32

// MaxSize is the longest artefact that Open looks at, in characters. Longer
// input is refused before it is decoded.
const MaxSize = 8 << 10

// ErrInvalid is what Open returns for everything that this keyring did not seal
// as the wanted kind. It does not say why: the answer would help a forger only.
var ErrInvalid = errors.New("seal: not a valid artefact")

// version is the first byte of every artefact; another layout gets another one.
const version = 1

// rootIDSize is how many bytes of an artefact name the root that sealed it.
const rootIDSize = 4

const overhead = 1 + rootIDSize + chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead

// encoding is canonical: Strict refuses set trailing bits, RawURL padding.
var encoding = base64.RawURLEncoding.Strict()

// purpose is what a key is for. The strings are part of the wire format.
type purpose string

const (
	forCode    purpose = "authorization code"
	forRefresh purpose = "refresh handle"
	forLogin   purpose = "login transaction"
	forSession purpose = "login session"
	forClient  purpose = "registered client"
	forKey     purpose = "signing key"
	forBackup  purpose = "backup"

	forClientSecret purpose = "registered client secret"
	forSecretHash   purpose = "configured client secret"
	forFingerprint  purpose = "fingerprint"
	forUpstream     purpose = "upstream credential"
)

var purposes = []purpose{forCode, forRefresh, forLogin, forSession, forClient, forKey, forBackup}

// Keyring holds the keys derived from one or more root secrets. The first root
// seals, all of them open. It is safe for concurrent use, also while [Keyring.Become]
// gives it other roots: whatever is done is done with the old ones or with the new.
type Keyring struct {
	current atomic.Pointer[[]root] // never written, never empty
}

func (k *Keyring) roots() []root { return *k.current.Load() }

// Become gives k the roots of next, for all who hold k.
func (k *Keyring) Become(next *Keyring) { k.current.Store(next.current.Load()) }

// Roots names the roots in their order by their fingerprints. Those that are for
// clients only have "clients:" before them, as in the list that Parse reads.
func (k *Keyring) Roots() []string {
	var names []string
	for _, r := range k.roots() {
		name := r.fingerprint
		if r.clientsOnly {
			name = clientsPrefix + name
		}
		names = append(names, name)
	}
	return names
}

type root struct {
	id          [rootIDSize]byte
	fingerprint string
	clientsOnly bool // opens registered client ids and their secrets, nothing else
	aeads       map[purpose]cipher.AEAD
	macs        map[purpose][]byte // and keys that are handed out
}

// LogValue keeps keys out of logs.
func (k *Keyring) LogValue() slog.Value { return slog.StringValue("[keyring]") }

// What may stand before a root secret in a list.
const (
	clientsPrefix = "clients:"
	nextPrefix    = "next:"
)

// NewSecret makes a random root secret in the form that Parse reads.
func NewSecret() string {
	b := make([]byte, RootSize)
	rand.Read(b)
	return encoding.EncodeToString(b)
}

// Parse reads a comma-separated list of root secrets, each the base64url form
// (unpadded) of 32 bytes. The first one seals. An entry written "clients:SECRET"
// opens only registered client ids and derives only their secrets: registrations
// never expire, so a retired root stays listed that way. An entry written
// "next:SECRET" is one that will seal soon: it opens like the others, and says that
// a rotation has begun.
func Parse(list string) (*Keyring, error) {
	var roots []root
	for i, entry := range strings.Split(list, ",") {
		entry = strings.TrimSpace(entry)
		secret, clientsOnly := strings.CutPrefix(entry, clientsPrefix)
		secret, next := strings.CutPrefix(secret, nextPrefix)
		b, err := encoding.DecodeString(secret)
		if err != nil || len(b) != RootSize {
			return nil, fmt.Errorf("root secret %d: must be base64url (unpadded) of %d bytes", i+1, RootSize)
		}
		if i == 0 && (clientsOnly || next) {
			return nil, errors.New("root secret 1: the first secret seals, so it cannot be for clients only, nor the next one")
		}
		if clientsOnly && next {
			return nil, fmt.Errorf("root secret %d: for clients only, and the next one", i+1)
		}
		r, err := newRoot(b, clientsOnly)
		if err != nil {
			return nil, fmt.Errorf("root secret %d: %w", i+1, err)
		}
		for _, other := range roots {
			if other.id == r.id {
				return nil, fmt.Errorf("root secret %d: listed twice", i+1)
			}
		}
		roots = append(roots, r)
	}
	k := &Keyring{}
	k.current.Store(&roots)
	return k, nil
}

func newRoot(secret []byte, clientsOnly bool) (root, error) {
	derive := func(p purpose) ([]byte, error) {
		return hkdf.Key(sha256.New, secret, nil, "signet/1 "+string(p), 32)
	}
	r := root{clientsOnly: clientsOnly, aeads: map[purpose]cipher.AEAD{}, macs: map[purpose][]byte{}}
	for _, p := range purposes {
		key, err := derive(p)
		if err != nil {
			return root{}, err
		}
		if r.aeads[p], err = chacha20poly1305.NewX(key); err != nil {
			return root{}, err
		}
	}
	for _, p := range []purpose{forClientSecret, forSecretHash, forUpstream} {
		key, err := derive(p)
		if err != nil {
			return root{}, err
		}
		r.macs[p] = key
	}
	fp, err := derive(forFingerprint)
	if err != nil {
		return root{}, err
	}
	copy(r.id[:], fp)
	r.fingerprint = encoding.EncodeToString(fp[rootIDSize : rootIDSize+12])
	return r, nil
}

// Fingerprint names the sealing root without telling anything about it.
func (k *Keyring) Fingerprint() string { return k.roots()[0].fingerprint }

// HasFingerprint reports whether fp names one of the roots that may open
// everything. A store keeps the fingerprint of the root it was made under.
func (k *Keyring) HasFingerprint(fp string) bool {
	for _, r := range k.roots() {
		if !r.clientsOnly && r.fingerprint == fp {
			return true
		}
	}
	return false
}

// UpstreamKey is the one derived key that a process without the root secret may be
// given: it opens upstream credentials and nothing else.
func (k *Keyring) UpstreamKey() string {
	return encoding.EncodeToString(k.roots()[0].macs[forUpstream])
}

// Seal returns v as an opaque string of unreserved characters (RFC 3986 §2.3).
func Seal[T Artefact](k *Keyring, v T) (string, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("sealing a %s: %w", v.purpose(), err)
	}
	r := &k.roots()[0]
	b := make([]byte, overhead-chacha20poly1305.Overhead, overhead+len(plain))
	b[0] = version
	copy(b[1:], r.id[:])
	nonce := b[1+rootIDSize:]
	rand.Read(nonce)
	b = r.aeads[v.purpose()].Seal(b, nonce, plain, b[:1+rootIDSize])
	return encoding.EncodeToString(b), nil
}

// Open returns what Seal sealed as a T under one of the keyring's roots, or
// [ErrInvalid]. What it returns is authentic, nothing more: expiry, epoch, client
// and single use are the caller's to check.
func Open[T Artefact](k *Keyring, raw string) (T, error) {
	var v, zero T
	if len(raw) > MaxSize {
		return zero, ErrInvalid
	}
	// DecodeString skips line breaks, so another spelling would get through.
	if strings.ContainsAny(raw, "\r\n") {
		return zero, ErrInvalid
	}
	b, err := encoding.DecodeString(raw)
	if err != nil || len(b) < overhead || b[0] != version {
		return zero, ErrInvalid
	}
	p := v.purpose()
	r := k.root([rootIDSize]byte(b[1:1+rootIDSize]), p)
	if r == nil {
		return zero, ErrInvalid
	}
	head, rest := b[:1+rootIDSize], b[1+rootIDSize:]
	nonce, sealed := rest[:chacha20poly1305.NonceSizeX], rest[chacha20poly1305.NonceSizeX:]
	plain, err := r.aeads[p].Open(sealed[:0], nonce, sealed, head)
	if err != nil {
		return zero, ErrInvalid
	}
	if err := json.Unmarshal(plain, &v); err != nil {
		return zero, ErrInvalid
	}
	return v, nil
}

// IsCurrent reports whether raw names the sealing root. It opens nothing.
func IsCurrent(k *Keyring, raw string) bool {
	b, err := encoding.DecodeString(raw)
	return err == nil && len(b) >= overhead && [rootIDSize]byte(b[1:1+rootIDSize]) == k.roots()[0].id
}

func (k *Keyring) root(id [rootIDSize]byte, p purpose) *root {
	roots := k.roots()
	for i := range roots {
		if r := &roots[i]; r.id == id && (!r.clientsOnly || p == forClient) {
			return r
		}
	}
	return nil
}

// ClientSecret derives the secret of the registered client clientID, which must
// be an artefact that opens as a [Client]: nothing is stored for it. The root
// that sealed the id derives the secret, so it survives rotation of the root.
func (k *Keyring) ClientSecret(clientID string) (string, error) {
	b, err := encoding.DecodeString(clientID)
	if err != nil || len(b) < overhead {
		return "", ErrInvalid
	}
	r := k.root([rootIDSize]byte(b[1:1+rootIDSize]), forClient)
	if r == nil {
		return "", ErrInvalid
	}
	return mac(r.macs[forClientSecret], clientID), nil
}

// SecretHash is the keyed hash under which a configured client's secret is kept.
// Such secrets are long and random, so no slow password hash is needed. id is part
// of the hash: equal secrets of two clients do not look equal.
func (k *Keyring) SecretHash(id, secret string) string {
	return mac(k.roots()[0].macs[forSecretHash], id+"\x00"+secret)
}

// SecretMatches reports in constant time whether hash is the [Keyring.SecretHash]
// of id and secret under any root.
func (k *Keyring) SecretMatches(id, secret, hash string) bool {
	ok := false
	for _, r := range k.roots() {
		if hmac.Equal([]byte(mac(r.macs[forSecretHash], id+"\x00"+secret)), []byte(hash)) {
			ok = true
		}
	}
	return ok
}

func mac(key []byte, msg string) string {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(msg))
	return encoding.EncodeToString(h.Sum(nil))
}
