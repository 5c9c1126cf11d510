package clients

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"signet/internal/durable"
	"signet/internal/fetch"
	"signet/internal/oauth"
	"signet/jwt"
)

const (
	maxDocument = 5 << 10  // bytes (draft-ietf-oauth-client-id-metadata-document §6.6)
	maxKeySet   = 64 << 10 // bytes
)

// DocumentError is the error of a client id that is a URL without a usable document
// behind it. It wraps [ErrUnknown].
type DocumentError struct {
	URL    string
	Reason error
}

func (e *DocumentError) Error() string { return "metadata document of the client: " + e.Reason.Error() }

// Unwrap returns ErrUnknown and the reason.
func (e *DocumentError) Unwrap() []error { return []error{ErrUnknown, e.Reason} }

// OutageError is the error of a document that cannot be had now, which says nothing about
// the client.
type OutageError struct {
	URL    string
	Reason error
}

func (e *OutageError) Error() string { return "metadata document of the client: " + e.Reason.Error() }

// Unwrap returns the reason.
func (e *OutageError) Unwrap() error { return e.Reason }

// documents are the clients whose id is the URL of their metadata.
type documents struct {
	o      *Options
	cached *fetch.Cache[known]
	pinned []*durable.Live[known]
}

// isDocumentURL reports whether a client id is a URL. Ids of configured clients are
// made of other characters, and sealed ones as well.
func isDocumentURL(id string) bool {
	return strings.HasPrefix(id, "https://") || strings.HasPrefix(id, "http://")
}

func newDocuments(o *Options) (*documents, error) {
	d := &documents{o: o}
	if o.Fetcher != nil && !o.NoDocuments {
		d.cached = fetch.NewCache(o.Fetcher.JSON, maxDocument, d.parse)
	}
	for _, path := range o.Pinned {
		live, err := durable.Follow(path, durable.Access{Public: true}, maxDocument, known{}, func(text []byte) (known, error) { return d.parsePinned(path, text) })
		if err == nil && live.Get().ID == "" {
			err = fmt.Errorf("%s: no such file", path)
		}
		if err != nil {
			return nil, fmt.Errorf("SIGNET_CLIENT_DOCUMENT_FILES: %w", err)
		}
		d.pinned = append(d.pinned, live)
	}
	return d, nil
}

// find returns the client of the document at url, if it is at hand. A pinned document
// replaces the one that its host serves.
func (d *documents) find(url string) (known, error) {
	if k, ok := d.pin(url); ok {
		return k, nil
	}
	if err := d.check(url); err != nil {
		return known{}, &DocumentError{url, err}
	}
	if k, ok := d.cached.Peek(url); ok {
		return k, nil
	}
	return known{}, &OutageError{url, errNotFetched}
}

var errNotFetched = errors.New("it is not at hand")

// check returns why the document at url is never fetched, or nil.
func (d *documents) check(url string) error {
	if d.cached == nil {
		return errors.New("clients whose id is a URL are turned off")
	}
	return d.o.Fetcher.Check(url)
}

// fetch has the document at url fetched, if it is not at hand or may have changed.
func (d *documents) fetch(ctx context.Context, url string) (known, error) {
	if k, ok := d.pin(url); ok || d.check(url) != nil {
		return k, nil
	}
	k, err := d.cached.Get(ctx, url)
	switch {
	case err == nil:
		return k, nil
	case isOutage(err):
		return known{}, &OutageError{url, err}
	}
	return known{}, &DocumentError{url, err}
}

// ready returns the client, and whether fetch has nothing to do.
func (d *documents) ready(url string) (k known, ok bool) {
	if k, ok = d.pin(url); ok || d.cached == nil {
		return k, true
	}
	if d.cached.Held(url) {
		k, _ = d.cached.Peek(url)
		return k, true
	}
	return k, d.check(url) != nil
}

// isOutage reports whether err says nothing about the document, only that it cannot be had
// now.
func isOutage(err error) bool {
	return errors.Is(err, fetch.ErrDown) || errors.Is(err, fetch.ErrBusy) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

func (d *documents) pin(url string) (known, bool) {
	for _, live := range d.pinned {
		if k := live.Get(); k.ID == url {
			return k, true
		}
	}
	return known{}, false
}

// FetchesDocuments reports whether a client's id may be the URL of its metadata document.
func (r *Registry) FetchesDocuments() bool {
	return r.documents.cached != nil || len(r.documents.pinned) > 0
}

// parsePinned reads the document in the file at path, which says itself whose it is.
func (d *documents) parsePinned(path string, text []byte) (k known, err error) {
	members, err := readMembers(text)
	id := ""
	switch {
	case err != nil:
		err = errors.New(oauth.AsError(err).Description)
	case json.Unmarshal(members["client_id"], &id) != nil || !isDocumentURL(id):
		err = errors.New("client_id is not the URL of the document")
	default:
		k, err = d.parse(id, text)
	}
	if err != nil {
		return known{}, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// parse reads the document of the client url. Display members other than the name are
// ignored: nothing that they point to is ever shown or fetched.
func (d *documents) parse(url string, body []byte) (known, error) {
	members, err := readMembers(body)
	if err != nil {
		return known{}, errors.New(oauth.AsError(err).Description)
	}
	text := func(name string) string {
		s, _ := stringOf(members[name]) // another type counts as omitted
		return s
	}
	name := cleanName(text("client_name"))
	switch {
	case text("client_id") != url:
		return known{}, errors.New("client_id is not the URL of the document")
	case name == "":
		return known{}, errors.New("client_name is missing")
	case members["client_secret"] != nil || members["client_secret_expires_at"] != nil:
		return known{}, errors.New("the document has a client secret, which everybody can read")
	}
	uris, err := d.redirectURIs(stringsOf(members["redirect_uris"]))
	if err != nil {
		return known{}, err
	}
	k := known{Client: Client{ID: url, Name: name, RedirectURIs: uris, GrantTypes: grantTypes, Registered: true, Scopes: d.o.registeredScope(text("scope"))}}
	k.PostLogoutRedirectURIs, _ = d.redirectURIs(stringsOf(members["post_logout_redirect_uris"]))
	if err := d.authentication(&k, text("token_endpoint_auth_method"), stringsOf(members["token_endpoint_auth_methods_supported"]), members["jwks"], text("jwks_uri")); err != nil {
		return known{}, err
	}
	k.Document = digest(k.RedirectURIs, k.Method, members["jwks"], text("jwks_uri"))
	return k, nil
}

// redirectURIs returns those of a list that a client may register, or the reasons why there
// are none.
func (d *documents) redirectURIs(all []string) (usable []string, err error) {
	var reasons []error
	for _, uri := range all {
		if err := oauth.CheckRedirectURI(uri, d.o.Schemes); err != nil {
			reasons = append(reasons, errors.New(oauth.AsError(err).Description))
		} else if !slices.Contains(usable, uri) {
			usable = append(usable, uri)
		}
	}
	if len(usable) > 0 {
		return usable, nil
	}
	if len(reasons) == 0 {
		return nil, errors.New("redirect_uris is missing")
	}
	return nil, fmt.Errorf("no redirect URI can be used: %w", reasons[0])
}

// authentication settles how the client authenticates. A document may list several methods
// in the plural member of OpenID RP Metadata Choices 1.0, next to the preferred one: then
// each of them will do, at any time. Methods with a shared secret cannot work, because
// everybody reads the document. A client that may do without keys has none if those of the
// document cannot be used, unless one is secret.
func (d *documents) authentication(k *known, preferred string, all []string, keys json.RawMessage, keysURI string) error {
	if strings.HasPrefix(preferred, "client_secret_") {
		return fmt.Errorf("token_endpoint_auth_method %s needs a secret, which the document cannot have", preferred)
	}
	if all = append(all, preferred); slices.Equal(all, []string{""}) {
		all = []string{methodNone}
	}
	none, withKey := slices.Contains(all, methodNone), slices.Contains(all, methodKey)
	if present(keys) || keysURI != "" {
		source, err := d.o.keySource(keys, keysURI)
		if err != nil && (!none || hasSecretKey(keys)) {
			return err
		}
		if err == nil && withKey {
			k.keys = source
		}
	}
	switch {
	case !none && !withKey:
		return errors.New("none of the document's authentication methods is supported: there are none and private_key_jwt")
	case !none && k.keys == nil:
		return errors.New("private_key_jwt needs jwks or jwks_uri")
	case none:
		k.Method = methodNone
	default:
		k.Method, k.KeyOnly = methodKey, true
	}
	return nil
}

// hasSecretKey reports whether a set of keys has one that must not be published.
func hasSecretKey(jwks json.RawMessage) bool {
	_, err := jwt.ParseClientKeys(jwks)
	return errors.Is(err, jwt.ErrSecretKey)
}

// keySource gives the keys of a client: fixed ones, or those at a URL.
type keySource struct {
	fixed *jwt.ClientKeys
	cache *fetch.Cache[*jwt.ClientKeys]
	uri   string
}

// present reports whether a member of a document is there, and not null.
func present(value json.RawMessage) bool { return len(value) > 0 && string(value) != "null" }

// keySource returns the keys in jwks, or those at uri.
func (o *Options) keySource(jwks json.RawMessage, uri string) (*keySource, error) {
	switch {
	case present(jwks) && uri != "":
		return nil, errors.New("jwks and jwks_uri exclude each other")
	case present(jwks):
		keys, err := jwt.ParseClientKeys(jwks)
		if err != nil {
			return nil, fmt.Errorf("jwks: %w", err)
		}
		return &keySource{fixed: keys}, nil
	case o.keys == nil:
		return nil, errors.New("jwks_uri cannot be fetched: fetching is turned off")
	}
	if err := o.Fetcher.Check(uri); err != nil {
		return nil, fmt.Errorf("jwks_uri: %w", err)
	}
	return &keySource{cache: o.keys, uri: uri}, nil
}

// ready reports whether fetch has nothing to do.
func (s *keySource) ready() bool { return s.fixed != nil || s.cache.Held(s.uri) }

// fetch has the keys fetched, if they are not at hand or may have changed.
func (s *keySource) fetch(ctx context.Context) error {
	if s.fixed != nil {
		return nil
	}
	_, err := s.cache.Get(ctx, s.uri)
	switch {
	case err == nil:
		return nil
	case isOutage(err):
		return &OutageError{s.uri, err}
	}
	return invalid("the keys of this client: %v", err)
}

// atHand returns the keys, without a fetch.
func (s *keySource) atHand() (*jwt.ClientKeys, error) {
	if s.fixed != nil {
		return s.fixed, nil
	}
	if keys, ok := s.cache.Peek(s.uri); ok {
		return keys, nil
	}
	return nil, &OutageError{s.uri, errNotFetched}
}

// digest identifies what a user's consent depends on.
func digest(redirectURIs []string, method string, jwks json.RawMessage, keysURI string) string {
	var compact bytes.Buffer
	_ = json.Compact(&compact, jwks) // fails if there is none
	b, err := json.Marshal([]any{slices.Sorted(slices.Values(redirectURIs)), method, compact.String(), keysURI})
	if err != nil {
		return "" // unreachable: strings always marshal
	}
	hash := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(hash[:16])
}
