// Package seal makes and opens the self-contained artefacts that clients and
// browsers carry for the server: authorization codes, refresh handles, login
// transactions, login sessions, registered client ids. It also seals the private
// halves of signing keys at rest, secrets in configuration files and the end of a backup.
//
// Every kind of artefact is a Go type with its own key, derived from the root
// secret by HKDF-SHA256 (RFC 5869), and is sealed with XChaCha20-Poly1305. An
// artefact of one kind therefore never opens as another, and a changed bit, a cut
// end or another spelling of the same bytes is refused without asking any store.
// Sealed does not mean single-use: package denylist is for that.
//
// Package handlers seals the artefacts of an authorization flow, package clients
// the registered client ids, package keys the signing keys, package backup the end
// of a backup.
package seal

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"

	"golang.org/x/crypto/chacha20poly1305"

	"signet/internal/rawjson"
)

// RootSize is the length of a root secret in bytes.
const RootSize = 32

// MaxSize is the longest artefact that Open looks at, in characters. Longer
// input is refused before it is decoded.
const MaxSize = 8 << 10

// maxStored is the same for a [Credential], an [Account] and an [Upstream]: none of them travels
// with clients if it is long.
const maxStored = 256 << 10

// ErrInvalid is the error of Open for everything that this keyring did not seal
// as the wanted kind. It gives no reason, which would help only a forger.
var ErrInvalid = errors.New("not a valid sealed artefact")

// version is the first byte of every artefact. Another layout gets another version.
const version = 1

// rootIDSize is the number of bytes in an artefact that name the root that sealed it.
const rootIDSize = 4

const overhead = 1 + rootIDSize + chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead

// encoding is canonical: Strict refuses set trailing bits, RawURL padding.
var encoding = base64.RawURLEncoding.Strict()

// purpose is the use of a derived key. The strings are part of the wire format.
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

	forCredential    purpose = "vault entry"
	forUpstreamLogin purpose = "upstream login"
	forAccount       purpose = "account"
	forSetting       purpose = "setting"
)

var purposes = []purpose{forCode, forRefresh, forLogin, forSession, forClient, forKey, forBackup, forUpstream, forCredential, forUpstreamLogin, forAccount, forSetting}

// Keyring holds the keys derived from one or more root secrets. The first root
// seals, all of them open. It is safe for concurrent use, also while [Keyring.Become]
// gives it other roots: each call works with the old roots or with the new ones.
type Keyring struct {
	current atomic.Pointer[[]root] // a slice that is never written and never empty
}

func (k *Keyring) roots() []root { return *k.current.Load() }

// Become gives k the roots of next. Every holder of k works with them from its next
// call on.
func (k *Keyring) Become(next *Keyring) { k.current.Store(next.current.Load()) }

// Roots returns the fingerprints of the roots in their order. The fingerprint of a
// root that is for clients only follows "clients:", as in the list that Parse reads.
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
	macs        map[purpose][]byte // keys of HMAC-SHA256, and the one of [UpstreamKeys]

	upstreamProof []byte
}

// LogValue keeps keys out of logs.
func (k *Keyring) LogValue() slog.Value { return slog.StringValue("[keyring]") }

// Prefixes of a root secret in a list.
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
// "next:SECRET" will seal soon: it opens like the others, and shows that a rotation
// has begun. An error names the entry by its number and never repeats a secret.
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
			return nil, errors.New("root secret 1: the first secret seals, so it has neither the prefix clients: nor next: of later secrets")
		}
		if clientsOnly && next {
			return nil, fmt.Errorf("root secret %d: has both prefixes (clients: and next:)", i+1)
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
	var err error
	if r.upstreamProof, err = proofKey(r.macs[forUpstream]); err != nil {
		return root{}, err
	}
	fp, err := derive(forFingerprint)
	if err != nil {
		return root{}, err
	}
	copy(r.id[:], fp)
	r.fingerprint = encoding.EncodeToString(fp[rootIDSize : rootIDSize+12])
	return r, nil
}

// Fingerprint returns a name of the sealing root that reveals nothing about it.
func (k *Keyring) Fingerprint() string { return k.roots()[0].fingerprint }

// HasFingerprint reports whether fp names one of the roots that open artefacts of
// every kind. A store keeps the fingerprint of the root under which it was made.
func (k *Keyring) HasFingerprint(fp string) bool {
	for _, r := range k.roots() {
		if !r.clientsOnly && r.fingerprint == fp {
			return true
		}
	}
	return false
}

// Seal returns v as an opaque string of unreserved characters (RFC 3986 §2.3),
// sealed under the first root of k.
func Seal[T Artefact](k *Keyring, v T) (string, error) { return sealUnder(&k.roots()[0], v) }

func sealUnder[T Artefact](r *root, v T) (string, error) {
	scratch := rawjson.Buffer()
	defer rawjson.Release(scratch)
	plain, err := appendJSON(*scratch, &v)
	if err != nil {
		return "", fmt.Errorf("sealing a %s: %w", v.purpose(), err)
	}
	b := append(append(plain, version), r.id[:]...)
	b = append(b, make([]byte, chacha20poly1305.NonceSizeX)...)
	head, nonce := b[len(plain):len(b)-chacha20poly1305.NonceSizeX], b[len(b)-chacha20poly1305.NonceSizeX:]
	rand.Read(nonce)
	b = r.aeads[v.purpose()].Seal(b, nonce, plain, head)
	text := encoding.AppendEncode(b, b[len(plain):])
	*scratch = text
	return string(text[len(b):]), nil
}

// Open returns the value that Seal sealed as a T under one of the roots of k, or
// [ErrInvalid]. The value is authentic, nothing more: the caller checks expiry,
// epoch, client and single use.
func Open[T Artefact](k *Keyring, raw string) (T, error) {
	var v, zero T
	p := v.purpose()
	if len(raw) > MaxSize && (p != forCredential && p != forAccount && p != forUpstream || len(raw) > maxStored) {
		return zero, ErrInvalid
	}
	scratch := rawjson.Buffer()
	defer rawjson.Release(scratch)
	b, err := decode(*scratch, raw)
	if *scratch = b; err != nil || len(b) < overhead || b[0] != version {
		return zero, ErrInvalid
	}
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
	if err := unmarshal(plain, &v); err != nil {
		return zero, ErrInvalid
	}
	return v, nil
}

// decode appends the bytes that raw spells to b.
func decode(b []byte, raw string) ([]byte, error) {
	// Decoding skips line breaks, which would make another spelling.
	if strings.ContainsAny(raw, "\r\n") {
		return b, ErrInvalid
	}
	return encoding.AppendDecode(b, []byte(raw))
}

// rootOf returns the name of the root in an artefact. It opens nothing, so raw may be forged.
func rootOf(raw string) (id [rootIDSize]byte, ok bool) {
	const spelled = (1 + rootIDSize + 2) / 3 * 4 // characters, of which each four spell three bytes
	if len(raw) < encoding.EncodedLen(overhead) {
		return id, false
	}
	b, err := decode(make([]byte, 0, spelled), raw[:spelled])
	if err != nil || len(b) < 1+rootIDSize || b[0] != version {
		return id, false
	}
	return [rootIDSize]byte(b[1:]), true
}

// IsCurrent reports whether raw names the sealing root. It opens nothing, so raw
// may be forged.
func IsCurrent(k *Keyring, raw string) bool {
	id, ok := rootOf(raw)
	return ok && id == k.roots()[0].id
}

// RetiredRoot returns the fingerprint of the root that raw names, if that root is for clients
// only. It opens nothing, so raw may be forged.
func (k *Keyring) RetiredRoot(raw string) (fingerprint string, retired bool) {
	id, ok := rootOf(raw)
	if r := k.root(id, forClient); ok && r != nil && r.clientsOnly {
		return r.fingerprint, true
	}
	return "", false
}

// RetiredRoots returns the fingerprints of the roots that are for clients only.
func (k *Keyring) RetiredRoots() (fingerprints []string) {
	for _, r := range k.roots() {
		if r.clientsOnly {
			fingerprints = append(fingerprints, r.fingerprint)
		}
	}
	return fingerprints
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

// ClientSecret derives the secret of the registered client clientID, so that no
// store keeps it. The caller has opened clientID as a [Client] before. The root that
// sealed the id derives the secret, so the secret survives a rotation of the root.
// The error is [ErrInvalid] for an id that names no root of k.
func (k *Keyring) ClientSecret(clientID string) (string, error) {
	id, ok := rootOf(clientID)
	r := k.root(id, forClient)
	if !ok || r == nil {
		return "", ErrInvalid
	}
	return mac(r.macs[forClientSecret], clientID), nil
}

// SecretHash returns the keyed hash (HMAC-SHA256) that the clients file has in place
// of a configured client's secret. Such secrets are long and random, so no slow
// password hash is needed. id is part of the hash, so that equal secrets of two
// clients have different hashes.
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
