package clients

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"signet/internal/oauth"
	"signet/internal/seal"
)

const (
	maxFile      = 16 << 20
	maxID        = 128
	minSecret    = 8
	maxSecret    = 256
	lockPatience = 5 * time.Second
)

// Configured is a client of clients.json, without its secret.
type Configured struct {
	ID           string   `json:"client_id"`
	Name         string   `json:"client_name,omitempty"`
	RedirectURIs []string `json:"redirect_uris"`
	Public       bool     `json:"public"`
	Scopes       []string `json:"scopes,omitempty"`
	Created      int64    `json:"created_at"` // Unix seconds

	PostLogoutRedirectURIs []string `json:"post_logout_redirect_uris,omitempty"`
}

// file is the form of clients.json.
type file struct {
	Clients []entry `json:"clients"`
}

type entry struct {
	Configured
	SecretHash string `json:"secret_hash,omitempty"` // seal.Keyring.SecretHash
}

func (e *entry) known(o Options) known {
	k := known{Client: Client{ID: e.ID, Name: e.Name, RedirectURIs: e.RedirectURIs, Method: methodNone, Scopes: e.Scopes, GrantTypes: grantTypes, Issued: e.Created,
		PostLogoutRedirectURIs: e.PostLogoutRedirectURIs}}
	if len(k.Scopes) == 0 {
		k.Scopes = append([]string{}, o.Default...)
	}
	if !e.Public {
		k.Method = methodBasic
		id, hash := e.ID, e.SecretHash
		k.matches = func(secret string) bool { return o.Ring.SecretMatches(id, secret, hash) }
	}
	return k
}

// check says what is wrong with an entry of the file.
func (e *entry) check() error {
	switch {
	case e.ID == "" || len(e.ID) > maxID:
		return fmt.Errorf("client_id must have 1 to %d characters", maxID)
	case strings.ContainsFunc(e.ID, func(r rune) bool { return !unreserved(r) }):
		// Such an id is the same raw and form-encoded, and never a URL.
		return fmt.Errorf("client_id %q: only letters, digits and - . _ ~ are allowed", e.ID)
	case len(e.RedirectURIs) == 0:
		return fmt.Errorf("client %s: no redirect URI", e.ID)
	case e.Public && e.SecretHash != "":
		return fmt.Errorf("client %s: a public client has no secret", e.ID)
	case !e.Public && e.SecretHash == "":
		return fmt.Errorf("client %s: neither public nor with a secret", e.ID)
	}
	for _, uri := range slices.Concat(e.RedirectURIs, e.PostLogoutRedirectURIs) {
		if err := oauth.CheckRedirectURI(uri, configuredSchemes(uri)); err != nil {
			return fmt.Errorf("client %s: %q: %s", e.ID, uri, oauth.AsError(err).Description)
		}
	}
	for _, name := range e.Scopes {
		if scope, err := oauth.ParseScope(name); err != nil || len(scope) != 1 {
			return fmt.Errorf("client %s: %q is not a scope", e.ID, name)
		}
	}
	return nil
}

// configuredSchemes are the private-use schemes for one redirect URI of a
// configured client. Writing it into the file lists it, so any scheme goes that
// RFC 8252 §7.1 allows, one with a domain name in it.
func configuredSchemes(uri string) []string {
	if scheme, _, ok := strings.Cut(uri, ":"); ok && strings.Contains(scheme, ".") {
		return []string{scheme}
	}
	return defaultSchemes
}

// unreserved reports whether r needs no escape anywhere (RFC 3986 §2.3).
func unreserved(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-._~", r)
}

// readFile reads clients.json whole. A file that does not exist has no clients and
// no info; anything wrong with one that does is an error that names it.
func readFile(path string, groupMayRead bool) ([]entry, os.FileInfo, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	} else if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if err := checkAccess(path, info, groupMayRead); err != nil {
		return nil, nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, nil, err
	}
	if len(b) > maxFile {
		return nil, nil, fmt.Errorf("%s: longer than %d bytes", path, maxFile)
	}
	entries, err := parseFile(b)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return entries, info, nil
}

func parseFile(b []byte) ([]entry, error) {
	var list file
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&list); err != nil {
		return nil, fmt.Errorf("not a list of clients: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("not a list of clients: something follows it")
	}
	if list.Clients == nil {
		return nil, errors.New(`not a list of clients: no "clients"`)
	}
	seen := map[string]bool{}
	for _, e := range list.Clients {
		if err := e.check(); err != nil {
			return nil, err
		}
		if seen[e.ID] {
			return nil, fmt.Errorf("client %s is listed twice", e.ID)
		}
		seen[e.ID] = true
	}
	return list.Clients, nil
}

// checkAccess refuses a file that others could have read or replaced. info is of
// the opened file, so a symbolic link stands for what it points to.
func checkAccess(path string, info os.FileInfo, groupMayRead bool) error {
	forbidden := os.FileMode(0o077)
	if groupMayRead {
		forbidden = 0o037
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&forbidden != 0 {
		return fmt.Errorf("%s has mode %04o, others have access to it: want 0600 (chmod 600 %s)", path, mode, path)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d, not to user %d who runs this: want mode 0600 and the right owner", path, st.Uid, os.Geteuid())
	}
	return checkDir(filepath.Dir(path))
}

// checkDir refuses a folder in which everybody may put a file of their own in the
// place of ours.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if mode := info.Mode(); mode.Perm()&0o002 != 0 && mode&os.ModeSticky == 0 {
		return fmt.Errorf("folder %s has mode %04o, everybody may write to it: want 0700 (chmod 700 %s)", dir, mode.Perm(), dir)
	}
	return nil
}

// Spec describes a client to be added. Without Secret one is made, unless the
// client is public.
type Spec struct {
	ID           string
	Name         string // the id if empty
	RedirectURIs []string
	Scopes       []string // none: the server's default scopes
	Public       bool
	Secret       string

	PostLogoutRedirectURIs []string // where the browser may go after a logout
}

// Add puts a client into the file at path, which it makes if need be, and returns
// it with its secret. The secret is kept as a hash and never seen again. A running
// server notices within about a second.
func Add(path string, ring *seal.Keyring, spec Spec) (Configured, string, error) {
	c := Configured{ID: spec.ID, Name: cleanName(spec.Name), RedirectURIs: spec.RedirectURIs, Public: spec.Public, Scopes: spec.Scopes, Created: time.Now().Unix(),
		PostLogoutRedirectURIs: spec.PostLogoutRedirectURIs}
	if c.Name == "" {
		c.Name = c.ID
	}
	e := entry{Configured: c}
	secret := spec.Secret
	if err := checkSecret(secret, spec.Public); err != nil {
		return Configured{}, "", fmt.Errorf("client %s: %w", spec.ID, err)
	}
	if !spec.Public {
		if secret == "" {
			secret = newSecret()
		}
		e.SecretHash = ring.SecretHash(e.ID, secret)
	}
	if err := e.check(); err != nil {
		return Configured{}, "", err
	}
	err := change(path, func(list []entry) ([]entry, error) {
		if slices.ContainsFunc(list, func(other entry) bool { return other.ID == e.ID }) {
			return nil, fmt.Errorf("client %s exists already", e.ID)
		}
		return append(list, e), nil
	})
	if err != nil {
		return Configured{}, "", err
	}
	return c, secret, nil
}

// checkSecret says what is wrong with a secret that the operator chose. The lower
// bound is not what makes it hard to guess offline: its hash is keyed.
func checkSecret(secret string, public bool) error {
	switch {
	case secret == "":
		return nil
	case public:
		return errors.New("a public client has no secret")
	case len(secret) < minSecret || len(secret) > maxSecret:
		return fmt.Errorf("the secret must have %d to %d characters", minSecret, maxSecret)
	case strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("the secret must be printable ASCII without spaces")
	}
	return nil
}

// newSecret makes 256 bits of unreserved characters.
func newSecret() string {
	b := make([]byte, 32)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// List returns the clients in the file at path.
func List(path string) ([]Configured, error) {
	entries, _, err := readFile(path, false)
	list := make([]Configured, 0, len(entries)) // "[]" in JSON, not "null"
	for _, e := range entries {
		list = append(list, e.Configured)
	}
	return list, err
}

// Remove takes the client named id out of the file at path. It is [ErrUnknown] if
// it is not there.
func Remove(path, id string) error {
	return change(path, func(list []entry) ([]entry, error) {
		i := slices.IndexFunc(list, func(e entry) bool { return e.ID == id })
		if i < 0 {
			return nil, fmt.Errorf("%w: %s", ErrUnknown, id)
		}
		return slices.Delete(list, i, i+1), nil
	})
}

// change replaces the file by what edit makes of its clients. Of two processes
// that do so one waits; a reader sees the old file or the new one, whole.
func change(path string, edit func([]entry) ([]entry, error)) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // replace the file, not the link to it
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := checkDir(dir); err != nil {
		return err
	}
	unlock, err := lock(path + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	list, _, err := readFile(path, false)
	if err != nil {
		return err
	}
	if list, err = edit(list); err != nil {
		return err
	}
	if list == nil {
		list = []entry{}
	}
	b, err := json.MarshalIndent(file{Clients: list}, "", "  ")
	if err != nil {
		return err
	}
	return replace(path, append(b, '\n'))
}

// lock takes a lock that ends with the process at the latest. It is on a file of
// its own, because the one that it guards is replaced.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) || time.Since(start) > lockPatience {
			return nil, errors.Join(fmt.Errorf("locking %s, which another command may hold: %w", path, err), f.Close())
		}
	}
}

// replace writes a file aside and renames it, so that a crash leaves the old one
// or the new one.
func replace(path string, b []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
