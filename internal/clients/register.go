package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"signet/internal/oauth"
	"signet/internal/seal"
)

const (
	maxBody         = 16 << 10
	maxRedirectURIs = 10
	maxRegisteredID = 1500 // it travels in URLs, beside other parameters
	maxName         = 100  // characters
)

// ErrNotObject is the cause of the error for a registration that is not one JSON object.
var ErrNotObject = errors.New("not one JSON object")

// Registration is the answer to a registration (RFC 7591 §3.2.1). It has the
// values that will be enforced, and repeats the rest of what the client sent.
type Registration struct {
	ClientID        string `json:"client_id"`
	ClientSecret    string `json:"client_secret,omitempty"`
	SecretExpiresAt *int64 `json:"client_secret_expires_at,omitempty"` // 0, which means never, beside a secret
	IssuedAt        int64  `json:"client_id_issued_at"`

	metadata
}

// metadata is what a client may say about itself (RFC 7591 §2). Only the first group is
// kept; the second one is not used again, and nothing in it is ever fetched. A jwks is not
// repeated: client libraries expect a string there, and no key of a client is used.
type metadata struct {
	RedirectURIs  []string `json:"redirect_uris"`
	Method        string   `json:"token_endpoint_auth_method"`
	GrantTypes    []string `json:"grant_types"`
	ResponseTypes []string `json:"response_types"`
	Scope         string   `json:"scope,omitempty"`
	Name          string   `json:"client_name,omitempty"`

	PostLogoutRedirectURIs []string `json:"post_logout_redirect_uris,omitempty"` // OpenID Connect RP-Initiated Logout §3.1

	URI             string   `json:"client_uri,omitempty"`
	LogoURI         string   `json:"logo_uri,omitempty"`
	TermsURI        string   `json:"tos_uri,omitempty"`
	PolicyURI       string   `json:"policy_uri,omitempty"`
	KeysURI         string   `json:"jwks_uri,omitempty"`
	Contacts        []string `json:"contacts,omitempty"`
	SoftwareID      string   `json:"software_id,omitempty"`
	SoftwareVersion string   `json:"software_version,omitempty"`
	ApplicationType string   `json:"application_type,omitempty"` // OpenID Connect Registration §2

	// Always said: where an answer does not say it, OpenID clients expect RS256 (OpenID Connect
	// Registration §2) and refuse the id token.
	IDTokenAlg string `json:"id_token_signed_response_alg"`
}

// LogValue keeps the secret out of logs.
func (r Registration) LogValue() slog.Value { return slog.StringValue("[registration]") }

// Register registers the client that body describes, a JSON document (RFC 7591
// §3.1). Nothing is stored: the id that it returns is the registration. What is not supported
// is left out or replaced, and the answer says what remains (§2, §3.2.1): clients ask for more
// than they need, and expect that. Refused is only a document that leaves nothing to register.
// Errors are invalid_redirect_uri or invalid_client_metadata.
func (r *Registry) Register(_ context.Context, body []byte) (*Registration, error) {
	if len(body) > maxBody {
		return nil, bad("the document is longer than %d bytes", maxBody).WithStatus(http.StatusRequestEntityTooLarge)
	}
	m, err := parseMetadata(body)
	if err != nil {
		return nil, err
	}
	if err := m.narrow(r.o.Schemes); err != nil {
		return nil, err
	}
	if err := r.checkMethod(m); err != nil {
		return nil, err
	}
	return r.issue(m, r.o.registeredScope(m.Scope), time.Now())
}

// checkMethod refuses a method that the operator does not accept from the client. No other one
// is taken in its place: that might be a weaker one.
func (r *Registry) checkMethod(m *metadata) error {
	q, _ := r.quirkRows().of(&Client{RedirectURIs: m.RedirectURIs, Name: m.Name})
	if !q.accepts(m.Method) {
		return bad("token_endpoint_auth_method: the operator accepts %s only from this client, not %s", strings.Join(q.Methods, " and "), m.Method)
	}
	return nil
}

// issue seals the values that will be enforced into an id, and derives the secret from it. If
// the id becomes too long, it goes without what the client can do without.
func (r *Registry) issue(m *metadata, scope []string, now time.Time) (*Registration, error) {
	id, err := r.sealID(m, scope, now)
	if err == nil && len(id) > maxRegisteredID {
		m.PostLogoutRedirectURIs = nil
		id, err = r.sealID(m, scope, now)
	}
	if err == nil && len(id) > maxRegisteredID {
		scope = r.o.Default // which an id without a scope has
		id, err = r.sealID(m, nil, now)
	}
	switch {
	case err != nil:
		return nil, err
	case len(id) > maxRegisteredID:
		return nil, bad("redirect URIs and name are too long together: the client id would have %d characters, more than %d", len(id), maxRegisteredID)
	}
	m.Scope = oauth.FormatScope(scope)
	reg := &Registration{ClientID: id, IssuedAt: now.Unix(), metadata: *m}
	if m.Method == methodNone {
		return reg, nil
	}
	if reg.ClientSecret, err = r.o.Ring.ClientSecret(id); err != nil {
		return nil, err
	}
	reg.SecretExpiresAt = new(int64)
	return reg, nil
}

func (r *Registry) sealID(m *metadata, scope []string, now time.Time) (string, error) {
	return seal.Seal(r.o.Ring, seal.Client{Name: m.Name, RedirectURIs: m.RedirectURIs, Method: m.Method, Scope: scope, Issued: now.Unix(), PostLogoutRedirectURIs: m.PostLogoutRedirectURIs})
}

func bad(format string, args ...any) *oauth.Error {
	return oauth.Errorf(oauth.InvalidClientMetadata, format, args...)
}

// parseMetadata reads the document member by member: encoding/json alone would
// take other spellings of a name, and the last of two equal ones. Members that are
// not known are ignored, a client_id among them (RFC 7591 §2). A member of the wrong type
// counts as omitted, and so does an entry of a list that is no string.
func parseMetadata(body []byte) (*metadata, error) {
	members, err := readMembers(body)
	if err != nil {
		return nil, err
	}
	m := &metadata{}
	for name, field := range map[string]*string{
		"token_endpoint_auth_method": &m.Method, "scope": &m.Scope, "client_name": &m.Name, "client_uri": &m.URI, "logo_uri": &m.LogoURI, "tos_uri": &m.TermsURI,
		"policy_uri": &m.PolicyURI, "jwks_uri": &m.KeysURI, "software_id": &m.SoftwareID, "software_version": &m.SoftwareVersion, "application_type": &m.ApplicationType,
	} {
		*field, _ = stringOf(members[name])
	}
	for name, field := range map[string]*[]string{
		"redirect_uris": &m.RedirectURIs, "grant_types": &m.GrantTypes, "response_types": &m.ResponseTypes, "contacts": &m.Contacts, "post_logout_redirect_uris": &m.PostLogoutRedirectURIs,
	} {
		*field = stringsOf(members[name])
	}
	return m, nil
}

// stringOf returns the string that value is, if it is one.
func stringOf(value json.RawMessage) (string, bool) {
	if len(value) == 0 || value[0] != '"' {
		return "", false
	}
	var s string
	err := json.Unmarshal(value, &s)
	return s, err == nil
}

// stringsOf returns the strings in the list that value is.
func stringsOf(value json.RawMessage) []string {
	var list []json.RawMessage
	if json.Unmarshal(value, &list) != nil {
		return nil
	}
	var all []string
	for _, entry := range list {
		if s, ok := stringOf(entry); ok {
			all = append(all, s)
		}
	}
	return all
}

// readMembers returns the members of a JSON object, each of which occurs once.
func readMembers(body []byte) (map[string]json.RawMessage, error) {
	malformed := bad("the body is not one JSON object").Because(ErrNotObject)
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('{') || !utf8.Valid(body) {
		return nil, malformed
	}
	all := map[string]json.RawMessage{}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, malformed
		}
		if _, twice := all[name]; twice {
			return nil, bad("%s occurs more than once", name)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, malformed
		}
		all[name] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, malformed
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, malformed
	}
	return all, nil
}

// narrow leaves out what is not supported or not allowed, fills in what is missing, and cleans
// the name.
func (m *metadata) narrow(schemes []string) error {
	if err := m.narrowRedirectURIs(schemes); err != nil {
		return err
	}
	m.narrowPostLogoutRedirectURIs(schemes)
	if err := m.narrowCapabilities(); err != nil {
		return err
	}
	for _, uri := range []*string{&m.URI, &m.LogoURI, &m.TermsURI, &m.PolicyURI, &m.KeysURI} {
		if !isWebPage(*uri) {
			*uri = ""
		}
	}
	if m.ApplicationType != "native" && m.ApplicationType != "web" {
		m.ApplicationType = ""
	}
	m.Name = cleanName(m.Name)
	return nil
}

// narrowRedirectURIs leaves out the redirect URIs that are not allowed. If none remains, the
// error says why.
func (m *metadata) narrowRedirectURIs(schemes []string) error {
	var usable, reasons []string
	for i, uri := range m.RedirectURIs {
		if err := oauth.CheckRedirectURI(uri, schemes); err != nil {
			reasons = append(reasons, fmt.Sprintf("redirect_uris[%d]: %s", i, strings.TrimPrefix(oauth.AsError(err).Description, "redirect URI ")))
		} else if !slices.Contains(usable, uri) {
			usable = append(usable, uri)
		}
	}
	switch {
	case len(m.RedirectURIs) == 0:
		return oauth.Errorf(oauth.InvalidRedirectURI, "redirect_uris must be a list with at least one redirect URI")
	case len(usable) == 0:
		return oauth.Errorf(oauth.InvalidRedirectURI, "%s", strings.Join(reasons, "; "))
	case len(usable) > maxRedirectURIs:
		return oauth.Errorf(oauth.InvalidRedirectURI, "redirect_uris must have at most %d entries, not %d", maxRedirectURIs, len(usable))
	}
	m.RedirectURIs = usable
	return nil
}

// narrowPostLogoutRedirectURIs applies the rule of redirect URIs, because the browser is
// sent to these too.
func (m *metadata) narrowPostLogoutRedirectURIs(schemes []string) {
	var usable []string
	for _, uri := range m.PostLogoutRedirectURIs {
		if oauth.CheckRedirectURI(uri, schemes) == nil && !slices.Contains(usable, uri) && len(usable) < maxRedirectURIs {
			usable = append(usable, uri)
		}
	}
	m.PostLogoutRedirectURIs = usable
}

// narrowCapabilities settles grant types, response types and authentication. A client that
// omits the method, or names one that is not supported, gets a secret: that is RFC 7591's
// default (§2). refresh_token is always in the answer, because clients without it do not
// refresh. A client that names only what does not exist here could do nothing with its
// registration, so it learns that at once.
func (m *metadata) narrowCapabilities() error {
	for _, list := range []struct {
		name             string
		asked, supported []string
	}{{"grant_types", m.GrantTypes, grantTypes}, {"response_types", m.ResponseTypes, responseTypes}} {
		if len(list.asked) > 0 && !slices.ContainsFunc(list.asked, func(s string) bool { return slices.Contains(list.supported, s) }) {
			return bad("%s: none of those that were asked for is available to registered clients, who may use %s", list.name, strings.Join(list.supported, " and "))
		}
	}
	m.GrantTypes, m.ResponseTypes, m.IDTokenAlg = grantTypes, responseTypes, idTokenAlg
	if m.Method != methodNone && m.Method != methodPost {
		m.Method = methodBasic
	}
	return nil
}

// isWebPage reports whether uri may be shown as a link. It is never fetched.
func isWebPage(uri string) bool {
	u, err := url.Parse(uri)
	return err == nil && u.Scheme == "https" && u.Hostname() != "" && u.User == nil &&
		!strings.ContainsFunc(uri, func(r rune) bool { return r <= ' ' || r == '\\' })
}

// registeredScope returns the part of the requested scope that exists, or else the default
// scope.
func (o *Options) registeredScope(requested string) []string {
	asked, err := oauth.ParseScope(requested)
	if scope := oauth.IntersectScope(asked, slices.Concat(o.Scopes, AlwaysKnown)); err == nil && len(scope) > 0 {
		return scope
	}
	return o.Default
}

// scopeNow returns the part of a registered scope that still exists. If nothing is left that a
// resource knows, it is the default scope, as for a client that registered none (RFC 6749 §3.3).
func (o *Options) scopeNow(registered []string) []string {
	left, atResource := make([]string, 0, len(registered)), false
	for _, name := range registered {
		if exists := slices.Contains(o.Scopes, name); exists || slices.Contains(AlwaysKnown, name) {
			left, atResource = append(left, name), atResource || exists
		}
	}
	if len(left) == 0 || !atResource && len(left) < len(registered) {
		return append(left[:0], o.Default...)
	}
	return left
}

// cleanName makes a name that the client chose fit to be shown: one line of at most 100
// characters, none of which is invisible or changes the direction of the text.
func cleanName(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError, unicode.In(r, unicode.C, unicode.Zl, unicode.Zp, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector):
			return -1
		}
		return r
	}, name)
	name = strings.Join(strings.Fields(name), " ")
	if runes := []rune(name); len(runes) > maxName {
		name = strings.TrimSpace(string(runes[:maxName]))
	}
	return name
}
