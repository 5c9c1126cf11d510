package clients

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"signet/internal/durable"
	"signet/internal/fetch"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/jwt"
)

const (
	maxFile   = 16 << 20
	maxID     = 128
	minSecret = 8
	maxSecret = 256
	patience  = 10 * time.Second // how long an edit waits for another one
)

// Configured is a client of clients.json, without its secret.
type Configured struct {
	ID           string   `json:"client_id"`
	Name         string   `json:"client_name,omitempty"`
	RedirectURIs []string `json:"redirect_uris"`
	Public       bool     `json:"public"`
	Scopes       []string `json:"scopes,omitempty"`
	Created      int64    `json:"created_at"` // Unix seconds

	JWKS    json.RawMessage `json:"jwks,omitempty"`     // public keys of a client that authenticates by private_key_jwt (RFC 7517 §5)
	JWKSURI string          `json:"jwks_uri,omitempty"` // URL of the keys, in place of JWKS

	Resource string `json:"resource,omitempty"` // of a resource server, which may introspect the tokens for it and gets none itself

	PostLogoutRedirectURIs []string `json:"post_logout_redirect_uris,omitempty"`

	ClientCredentials bool `json:"client_credentials,omitempty"` // it may get tokens for itself, without a user

	Exchange []string `json:"exchange,omitempty"` // audiences for which it may exchange tokens of users (RFC 8693), see Client.Exchange

	AccessTTL  Life `json:"access_ttl,omitempty"`  // of its access tokens; 0, or longer than the server's: the server's
	RefreshTTL Life `json:"refresh_ttl,omitempty"` // of its grants, likewise

	Consent string `json:"consent,omitempty"` // whether its users may choose scopes and duration: ConsentChoose, ConsentFixed, or empty for the default
}

// Life is a duration such as "10m" in JSON.
type Life time.Duration

func (l Life) MarshalText() ([]byte, error) { return []byte(time.Duration(l).String()), nil }

func (l *Life) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if err != nil {
		return errors.New("not a duration such as 10m")
	}
	*l = Life(d)
	return nil
}

// The values of Configured.Consent.
const (
	ConsentChoose = "choose" // users may grant less than is requested
	ConsentFixed  = "fixed"  // users may approve or deny a request as a whole
)

// File is clients.json as the commands edit it.
type File struct {
	Path         string
	GroupMayRead bool // it may be readable by its group, as a mounted secret is
}

func (f File) access() durable.Access { return durable.Access{GroupRead: f.GroupMayRead} }

// content is the form of clients.json.
type content struct {
	Clients []entry `json:"clients"`
}

var contentJSON = durable.NewJSON[content]()

type entry struct {
	Configured
	SecretHash string `json:"secret_hash,omitempty"` // seal.Keyring.SecretHash
}

// signs reports whether the client authenticates by a key.
func (e *entry) signs() bool { return present(e.JWKS) || e.JWKSURI != "" }

// known makes the client that the server uses. The error is that of keys that it may not
// fetch.
func (e *entry) known(o *Options) (k known, err error) {
	k = known{Client: Client{ID: e.ID, Name: e.Name, RedirectURIs: e.RedirectURIs, Method: methodNone, Scopes: e.Scopes, GrantTypes: grantTypes, Issued: e.Created,
		PostLogoutRedirectURIs: e.PostLogoutRedirectURIs, Resource: e.Resource, Exchange: e.Exchange, Consent: e.Consent, Lives: Lives{Access: time.Duration(e.AccessTTL), Refresh: time.Duration(e.RefreshTTL)}}}
	if len(k.Scopes) == 0 {
		k.Scopes = append([]string{}, o.Default...)
	}
	if e.ClientCredentials || len(e.Exchange) > 0 {
		k.GrantTypes = e.grantTypes()
	}
	switch {
	case e.signs():
		k.Method, k.KeyOnly = methodKey, true
		if k.keys, err = o.keySource(e.JWKS, e.JWKSURI); err != nil {
			return k, fmt.Errorf("%s: client %s: %w", o.Path, e.ID, err)
		}
	case !e.Public:
		k.Method = methodBasic
		id, hash := e.ID, e.SecretHash
		k.matches = func(secret string) bool { return o.Ring.SecretMatches(id, secret, hash) }
	}
	return k, nil
}

// grantTypes are the grants of a client that may get tokens for itself, or exchange tokens.
// Without redirect URIs it has no users.
func (e *entry) grantTypes() (all []string) {
	if len(e.RedirectURIs) > 0 {
		all = append(all, grantTypes...)
	}
	if e.ClientCredentials {
		all = append(all, oauth.GrantClientCredentials)
	}
	if len(e.Exchange) > 0 {
		all = append(all, oauth.GrantTokenExchange)
	}
	return all
}

// check returns what is wrong with an entry of the file.
func (e *entry) check() error {
	switch {
	case e.ID == "" || len(e.ID) > maxID:
		return fmt.Errorf("client_id must have 1 to %d characters", maxID)
	case strings.ContainsFunc(e.ID, func(r rune) bool { return !unreserved(r) }):
		// Such an id is the same raw and form-encoded, and never a URL.
		return fmt.Errorf("client_id %q: only letters, digits and - . _ ~ are allowed", e.ID)
	case e.Resource != "":
		if err := e.checkResource(); err != nil {
			return fmt.Errorf("client %s: %w", e.ID, err)
		}
	case len(e.RedirectURIs) == 0 && !e.ClientCredentials && len(e.Exchange) == 0:
		return fmt.Errorf("client %s: no redirect URI", e.ID)
	}
	switch {
	case e.ClientCredentials && e.Public:
		return fmt.Errorf("client %s: a public client gets no tokens for itself (client_credentials): it cannot prove who it is", e.ID)
	case e.signs() && (e.Public || e.SecretHash != ""):
		return fmt.Errorf("client %s: a client with keys is not public and has no secret", e.ID)
	case e.Public && e.SecretHash != "":
		return fmt.Errorf("client %s: a public client has no secret", e.ID)
	case !e.Public && !e.signs() && e.SecretHash == "":
		return fmt.Errorf("client %s: neither public nor with a secret or keys", e.ID)
	}
	if err := errors.Join(e.checkKeys(), e.checkLives(), e.checkExchange()); err != nil {
		return fmt.Errorf("client %s: %w", e.ID, err)
	}
	for _, uri := range slices.Concat(e.RedirectURIs, e.PostLogoutRedirectURIs) {
		if err := oauth.CheckConfiguredRedirectURI(uri); err != nil {
			return fmt.Errorf("client %s: %q: %s", e.ID, uri, oauth.AsError(err).Description)
		}
	}
	for _, name := range e.Scopes {
		if scope, err := oauth.ParseScope(name); err != nil || len(scope) != 1 {
			return fmt.Errorf("client %s: %q is not a scope", e.ID, name)
		}
	}
	return e.checkConsent()
}

func (e *entry) checkConsent() error {
	switch {
	case e.Consent == "":
		return nil
	case e.Consent != ConsentChoose && e.Consent != ConsentFixed:
		return fmt.Errorf("client %s: consent must be %s or %s, not %q", e.ID, ConsentFixed, ConsentChoose, e.Consent)
	case len(e.RedirectURIs) == 0:
		return fmt.Errorf("client %s: consent has no meaning for a client without redirect URIs, to which no user consents", e.ID)
	}
	return nil
}

func (e *entry) checkResource() error {
	switch _, err := oauth.CanonicalResource(e.Resource); {
	case err != nil:
		return fmt.Errorf("resource %q: %s", e.Resource, oauth.AsError(err).Description)
	case e.Public:
		return errors.New("a resource server is not public: it proves who it is")
	case len(e.RedirectURIs)+len(e.PostLogoutRedirectURIs)+len(e.Scopes)+len(e.Exchange) > 0 || e.ClientCredentials:
		return errors.New("a resource server has no redirect URIs, no scopes, no client_credentials and no exchange: it gets no tokens itself")
	}
	return nil
}

func (e *entry) checkExchange() error {
	switch {
	case len(e.Exchange) == 0:
		return nil
	case e.Public:
		return errors.New("a public client exchanges no tokens: it cannot prove who it is")
	case len(e.Scopes) > 0 && len(e.RedirectURIs) == 0 && !e.ClientCredentials:
		return errors.New("scopes have no effect: an exchange gives those of the exchanged token, or fewer")
	}
	for i, audience := range e.Exchange {
		if err := checkAudience(audience); err != nil {
			return fmt.Errorf("exchange: %q: %w", audience, err)
		}
		if slices.ContainsFunc(e.Exchange[:i], func(a string) bool { return oauth.SameResource(a, audience) }) {
			return fmt.Errorf("exchange: %q is listed twice", audience)
		}
	}
	return nil
}

// checkAudience returns what is wrong with an audience of exchanges.
func checkAudience(audience string) error {
	if audience == oauth.GatewayAudience {
		return nil
	}
	for prefix, what := range map[string]string{oauth.UpstreamAudience: "provider", oauth.ConnectionAudience: "connection"} {
		id, ok := strings.CutPrefix(audience, prefix)
		if !ok {
			continue
		}
		if id == "" || strings.ContainsFunc(id, func(r rune) bool { return !unreserved(r) }) {
			return fmt.Errorf("after %s there must be the id of a %s", prefix, what)
		}
		return nil
	}
	canonical, err := oauth.CanonicalResource(audience)
	switch {
	case err != nil:
		return errors.New(oauth.AsError(err).Description)
	case canonical != audience:
		return fmt.Errorf("must be written as %s", canonical)
	}
	return nil
}

// checkLives returns what is wrong with lives in themselves. Longer ones than the server's are not
// wrong: the server's may have become shorter.
func (e *entry) checkLives() error {
	for name, life := range map[string]Life{"access_ttl": e.AccessTTL, "refresh_ttl": e.RefreshTTL} {
		if life != 0 && time.Duration(life) < time.Second {
			return fmt.Errorf("%s is %s, less than a second", name, time.Duration(life))
		}
	}
	switch {
	case e.Resource != "" && (e.AccessTTL != 0 || e.RefreshTTL != 0):
		return errors.New("a resource server has no access_ttl and no refresh_ttl: it gets no tokens itself")
	case e.RefreshTTL != 0 && len(e.RedirectURIs) == 0:
		return errors.New("refresh_ttl has no effect: without redirect URIs there are no grants of users")
	}
	return nil
}

func (e *entry) checkKeys() error {
	if present(e.JWKS) {
		if e.JWKSURI != "" {
			return errors.New("jwks and jwks_uri exclude each other")
		}
		if _, err := jwt.ParseClientKeys(e.JWKS); err != nil {
			return fmt.Errorf("jwks: %w", err)
		}
	}
	if e.JWKSURI != "" {
		if err := anywhere.Check(e.JWKSURI); err != nil {
			return fmt.Errorf("jwks_uri: %w", err)
		}
	}
	return nil
}

// anywhere judges the form of URLs. Whether the server may fetch one depends on its settings.
var anywhere = fetch.Options{Loopback: true}

// Warnings returns what the operator should know about the redirect URIs of a client.
func (c *Configured) Warnings() []string {
	var all []string
	for _, uri := range slices.Concat(c.RedirectURIs, c.PostLogoutRedirectURIs) {
		if why := oauth.RedirectURIWarning(uri); why != "" {
			all = append(all, uri+": "+why)
		}
	}
	return all
}

// unreserved reports whether r needs no escape anywhere (RFC 3986 §2.3).
func unreserved(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-._~", r)
}

// parseNamed is parseFile with errors that name the file and the line.
func parseNamed(path string, text []byte) ([]entry, error) {
	entries, err := parseFile(text)
	var fault *durable.JSONFault
	if errors.As(err, &fault) {
		return nil, fmt.Errorf("%s:%d: %w", path, fault.Line, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return entries, nil
}

func parseFile(text []byte) ([]entry, error) {
	list, err := contentJSON.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("not a list of clients: %w", err)
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

// Spec describes a client to be added. If Secret is empty, a secret is made, unless the
// client is public.
type Spec struct {
	ID           string
	Name         string // the id if empty
	RedirectURIs []string
	Scopes       []string // none: the server's default scopes
	Public       bool
	Secret       string

	JWKS    []byte // JWK Set of a client that authenticates by private_key_jwt
	JWKSURI string // URL of the set

	Resource string // of a resource server

	PostLogoutRedirectURIs []string // where the browser may go after a logout

	ClientCredentials bool // it may get tokens for itself; then it needs no redirect URI

	Exchange []string // audiences for which it may exchange tokens of users; with some it needs no redirect URI

	AccessTTL, RefreshTTL time.Duration // 0: the server's

	Consent string // ConsentChoose, ConsentFixed, or empty for the default
}

// Add adds a client to the file, which it makes if there is none, and returns the client
// with its secret. The file has only a hash of the secret. A running server notices the
// client within about a second. The client counts as added in the second after this one, so
// that what was granted to an earlier client of the same id was granted before.
func (f File) Add(ctx context.Context, ring *seal.Keyring, spec Spec) (Configured, string, error) {
	c := Configured{ID: spec.ID, Name: cleanName(spec.Name), RedirectURIs: spec.RedirectURIs, Public: spec.Public, Scopes: spec.Scopes, Created: time.Now().Unix() + 1,
		PostLogoutRedirectURIs: spec.PostLogoutRedirectURIs, JWKS: spec.JWKS, JWKSURI: spec.JWKSURI, Resource: spec.Resource, ClientCredentials: spec.ClientCredentials, Exchange: spec.Exchange,
		AccessTTL: Life(spec.AccessTTL), RefreshTTL: Life(spec.RefreshTTL), Consent: spec.Consent}
	if c.RedirectURIs == nil {
		c.RedirectURIs = []string{} // "[]" in JSON, not "null"
	}
	if c.Name == "" {
		c.Name = c.ID
	}
	e := entry{Configured: c}
	secret := spec.Secret
	if err := checkSecret(secret, spec.Public); err != nil {
		return Configured{}, "", fmt.Errorf("client %s: %w", spec.ID, err)
	}
	if !spec.Public && (!e.signs() || secret != "") {
		if secret == "" {
			secret = newSecret()
		}
		e.SecretHash = ring.SecretHash(e.ID, secret)
	}
	if err := e.check(); err != nil {
		return Configured{}, "", err
	}
	err := f.change(ctx, func(list []entry) ([]entry, error) {
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

// checkSecret returns what is wrong with a secret that the operator chose. The lower
// bound need not prevent guessing offline: the hash is keyed.
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

// madeSecret is the length of the secrets that newSecret makes. Longer ones are not worth guessing
// either.
const madeSecret = 43

// newSecret makes 256 bits of unreserved characters.
func newSecret() string {
	b := make([]byte, 32)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// List returns the clients in the file. Without a file there are none.
func (f File) List() ([]Configured, error) {
	text, err := f.access().Read(f.Path, maxFile)
	list := []Configured{} // "[]" in JSON, not "null"
	if errors.Is(err, fs.ErrNotExist) {
		return list, nil
	} else if err != nil {
		return nil, err
	}
	entries, err := parseNamed(f.Path, text)
	for _, e := range entries {
		list = append(list, e.Configured)
	}
	return list, err
}

// Remove removes the client named id from the file. The error is [ErrUnknown] if there is
// none. A client that was added a moment ago is removed once the time has come from which it
// counts as added: another one that is then added under its id has a later time.
func (f File) Remove(ctx context.Context, id string) error {
	return f.change(ctx, func(list []entry) ([]entry, error) {
		i := slices.IndexFunc(list, func(e entry) bool { return e.ID == id })
		if i < 0 {
			return nil, fmt.Errorf("%w: %s", ErrUnknown, id)
		}
		if wait := time.Until(time.Unix(list[i].Created, 0)); wait <= time.Second {
			time.Sleep(wait)
		}
		return slices.Delete(list, i, i+1), nil
	})
}

// change replaces the list of clients in the file by the result of edit.
func (f File) change(ctx context.Context, edit func([]entry) ([]entry, error)) error {
	if err := durable.MakeDir(filepath.Dir(f.Path)); err != nil {
		return err
	}
	return f.access().Edit(ctx, f.Path, maxFile, patience, func(old []byte) (text []byte, err error) {
		list := []entry{}
		if old != nil {
			if list, err = parseNamed(f.Path, old); err != nil {
				return nil, err
			}
		}
		if list, err = edit(list); err != nil {
			return nil, err
		}
		text, err = json.MarshalIndent(content{list}, "", "  ")
		return append(text, '\n'), err
	})
}
