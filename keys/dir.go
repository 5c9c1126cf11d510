package keys

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"

	"signet/internal/durable"
	"signet/jwt"
)

const (
	dirPoll    = 5 * time.Second
	dirMaxAge  = 5 * time.Minute
	maxFiles   = 64
	maxKeyFile = 16 << 10
	maxKeyID   = 128 // the limit of the verifiers in package jwt
)

// ReadDir reads the operator's keys: every file in dir whose name does not begin with a
// dot is one EC key on P-256, in PEM (SEC 1, PKCS #8, or a public key) or as a JWK, with
// mode 0600 if it is private. All keys are published. The private key with the latest
// not-before in the past signs. Its not-before is the beginning of the file's name
// (2026-12-01T00:00:00Z-name.pem, 20261201T000000Z-name.pem or 2026-12-01-name.pem) or
// the member nbf of the JWK; a key without a not-before may always sign. The key ID is
// the JWK's kid, or else the thumbprint.
//
// [Set.Run] reads the directory again every few seconds. If it finds a mistake, the keys
// that were read before stay in force ([Set.Stale]). Nothing is ever written. Removing a
// file withdraws its key at once, so the file should stay for tokenTTL and [jwt.Leeway]
// after another key began to sign; otherwise the log warns.
func ReadDir(dir string, tokenTTL time.Duration, log *slog.Logger) (*Set, error) {
	return follow(dir, durable.Access{}, tokenTTL, log)
}

// ReadMounted is [ReadDir] for files that their group may read too. Mounted secrets are
// such files: they belong to root.
func ReadMounted(dir string, tokenTTL time.Duration, log *slog.Logger) (*Set, error) {
	return follow(dir, durable.Access{GroupRead: true}, tokenTTL, log)
}

func follow(dir string, access durable.Access, tokenTTL time.Duration, log *slog.Logger) (*Set, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	f := &folder{dir: dir, access: access, keep: tokenTTL + jwt.Leeway, log: log}
	s := &Set{log: log, wake: make(chan struct{}, 1)}
	f.set = s
	s.refresh = f.refresh
	if _, err := s.update(context.Background()); err != nil {
		return nil, err
	}
	return s, nil
}

// folder is a directory of key files, read again and again.
type folder struct {
	dir    string
	access durable.Access
	keep   time.Duration
	log    *slog.Logger
	set    *Set
}

func (f *folder) refresh(context.Context) (time.Duration, error) {
	keys, err := f.readFiles()
	if err != nil {
		return dirPoll, fmt.Errorf("signing keys in %s: %w", f.dir, err)
	}
	now := time.Now()
	next := newSnapshot(keys)
	next.maxAge = dirMaxAge
	if next.signing(now) == nil {
		return dirPoll, fmt.Errorf("signing keys in %s: no private key may sign at this time", f.dir)
	}
	old := f.set.current.Load()
	if old == nil {
		f.set.current.Store(next)
		return dirPoll, nil
	}
	if f.compare(old, next, now) {
		f.set.current.Store(next)
	}
	return dirPoll, nil
}

// compare reports whether next differs from old, and logs changes that make verifiers
// refuse good tokens. Equal keys stay the same pointers.
func (f *folder) compare(old, next *snapshot, now time.Time) (changed bool) {
	for i := range next.keys {
		k := &next.keys[i]
		was := old.byID[k.id]
		if was == nil {
			changed = true
			f.log.Info("signing key added", "kid", k.id, "from", k.from)
			if k.private != nil && k.from.Before(now.Add(2*dirMaxAge)) && next.signing(now.Add(2*dirMaxAge)).id == k.id {
				f.log.Warn("a key signs before all verifiers can know it: give it a later not-before", "kid", k.id, "max-age", dirMaxAge)
			}
			continue
		}
		if !was.public.Equal(k.public) || !was.from.Equal(k.from) || (was.private == nil) != (k.private == nil) {
			changed = true
		} else {
			k.public = was.public
		}
	}
	for _, was := range old.keys {
		if next.byID[was.id] != nil {
			continue
		}
		changed = true
		f.log.Info("signing key withdrawn", "kid", was.id)
		if k := old.signing(now); k != nil && (k.id == was.id || k.from.After(now.Add(-f.keep))) {
			f.log.Warn("tokens of a withdrawn key have not expired yet and are refused", "kid", was.id)
		}
	}
	return changed
}

func (f *folder) readFiles() ([]publishedKey, error) {
	if err := durable.Folder(f.dir); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, err
	}
	// Files that begin with a dot belong to editors and to Kubernetes (..data).
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), ".") })
	if len(entries) > maxFiles {
		return nil, fmt.Errorf("%d files, more than %d", len(entries), maxFiles)
	}
	keys := make([]publishedKey, 0, len(entries))
	for _, e := range entries {
		k, err := f.readFile(filepath.Join(f.dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		for i, other := range keys {
			if other.id == k.id || other.public.Equal(k.public) {
				return nil, fmt.Errorf("%s: the same key or key ID as in %s", e.Name(), entries[i].Name())
			}
		}
		keys = append(keys, k)
	}
	slices.SortStableFunc(keys, func(a, b publishedKey) int {
		return cmp.Or(a.from.Compare(b.from), strings.Compare(a.id, b.id))
	})
	return keys, nil
}

func (f *folder) readFile(path string) (k publishedKey, err error) {
	// A pipe would block, so the file is opened without waiting. A pipe is refused below.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return k, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return k, err
	}
	if !info.Mode().IsRegular() {
		return k, errors.New("not a regular file")
	}
	text, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err != nil {
		return k, err
	}
	if len(text) > maxKeyFile {
		return k, fmt.Errorf("longer than %d bytes: not one key", maxKeyFile)
	}
	if k, err = parseFile(filepath.Base(path), text); err != nil {
		return k, err
	}
	if k.private == nil {
		return k, durable.Access{Public: true}.Check(path, info)
	}
	return k, f.access.Check(path, info)
}

// parseFile reads one key. Its errors say what is wrong, and do not quote the text.
func parseFile(name string, text []byte) (k publishedKey, err error) {
	dated, err := parseName(name)
	if err != nil {
		return k, err
	}
	text = bytes.TrimLeft(text, " \t\n")
	switch {
	case len(bytes.TrimSpace(text)) == 0:
		return k, errors.New("empty")
	case text[0] != '{' && !bytes.HasPrefix(text, []byte("-----BEGIN ")):
		return k, errors.New("neither PEM nor a JWK")
	case bytes.ContainsRune(text, '\r'):
		return k, errors.New("has Windows line ends (CRLF): convert it to LF")
	case text[0] == '{':
		k, err = parseJWKFile(text)
	default:
		k.public, k.private, err = parsePEM(text)
	}
	if err != nil {
		return k, err
	}
	if !dated.IsZero() {
		if !k.from.IsZero() && !k.from.Equal(dated) {
			return k, errors.New("its name and its nbf give different times")
		}
		k.from = dated
	}
	if k.id == "" {
		k.id, err = thumbprint(k.public)
	}
	return k, err
}

var looksDated = regexp.MustCompile(`^[0-9]{4}-?[0-9]{2}-?[0-9]{2}(T[0-9:]*Z?)?`)

// parseName returns the time with which a file name begins, or zero.
func parseName(name string) (time.Time, error) {
	date := looksDated.FindString(name)
	if date == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, "20060102T150405Z", time.DateOnly} {
		if t, err := time.Parse(layout, date); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errors.New("its name begins like a time but is none of 2006-01-02T15:04:05Z, 20060102T150405Z, 2006-01-02")
}

func parseJWKFile(text []byte) (k publishedKey, err error) {
	var key jwk.Key
	if bytes.Contains(text, []byte(`"keys"`)) {
		return k, errors.New("a JWK Set: want one key per file")
	}
	if k.public, k.private, key, err = parseJWK(text); err != nil {
		return k, err
	}
	k.id = key.KeyID()
	if len(k.id) > maxKeyID {
		return k, fmt.Errorf("its kid is longer than %d bytes", maxKeyID)
	}
	if nbf, ok := key.Get("nbf"); ok {
		seconds, ok := nbf.(float64)
		if !ok || seconds != float64(int64(seconds)) || seconds < 0 || seconds > 1<<40 {
			return k, errors.New("its nbf is not a whole number of seconds")
		}
		k.from = time.Unix(int64(seconds), 0)
	}
	return k, nil
}

func parsePEM(text []byte) (public *ecdsa.PublicKey, private *ecdsa.PrivateKey, err error) {
	block, err := onlyBlock(text)
	if err != nil {
		return nil, nil, err
	}
	var key any
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "CERTIFICATE":
		return nil, nil, errors.New("a certificate, not a key")
	default:
		return nil, nil, fmt.Errorf("a %.40q, %w", block.Type, errNotP256)
	}
	if err != nil {
		return nil, nil, errDamaged
	}
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		public, private = &k.PublicKey, k
	case *ecdsa.PublicKey:
		public = k
	default:
		return nil, nil, errNotP256
	}
	return public, private, checkPair(public, private)
}

// onlyBlock decodes the one PEM block of text.
func onlyBlock(text []byte) (*pem.Block, error) {
	block, rest, err := nextBlock(text)
	if err == nil && block.Type == "EC PARAMETERS" { // openssl ecparam -genkey writes the curve first
		block, rest, err = nextBlock(rest)
	}
	switch {
	case err != nil:
		return nil, err
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("more than one key, or something after the key: want one key per file")
	case strings.Contains(block.Type, "ENCRYPTED") || len(block.Headers) > 0:
		return nil, errors.New("an encrypted key: decrypt it, and let its mode of 0600 protect it")
	}
	return block, nil
}

// nextBlock decodes the PEM block that text begins with. encoding/pem by itself would
// skip any text before a block.
func nextBlock(text []byte) (*pem.Block, []byte, error) {
	text = bytes.TrimSpace(text)
	if len(text) == 0 {
		return nil, nil, errors.New("no key in it")
	}
	block, rest := pem.Decode(text)
	// Decode skips a damaged block too: the text that it consumed must contain one block.
	if block == nil || !bytes.HasPrefix(text, []byte("-----BEGIN ")) ||
		bytes.Count(text[:len(text)-len(rest)], []byte("-----BEGIN ")) != 1 {
		return nil, nil, errors.New("damaged or cut off PEM")
	}
	return block, rest, nil
}
