package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
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
// kept; the second one is not used again, and nothing in it is ever fetched.
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

	// Checked but not repeated: a client library expects a string here.
	Keys json.RawMessage `json:"-"`
}

// LogValue keeps the secret out of logs.
func (r Registration) LogValue() slog.Value { return slog.StringValue("[registration]") }

// Register registers the client that body describes, a JSON document (RFC 7591
// §3.1). Nothing is stored: the id that it returns is the registration. Errors are
// invalid_redirect_uri or invalid_client_metadata.
func (r *Registry) Register(_ context.Context, body []byte) (*Registration, error) {
	if len(body) > maxBody {
		return nil, bad("the document is longer than %d bytes", maxBody).WithStatus(http.StatusRequestEntityTooLarge)
	}
	m, err := parseMetadata(body)
	if err != nil {
		return nil, err
	}
	if err := m.check(r.o.Schemes); err != nil {
		return nil, err
	}
	scope, err := r.registeredScope(m.Scope)
	if err != nil {
		return nil, err
	}
	m.Scope = oauth.FormatScope(scope)
	return r.issue(m, scope, time.Now())
}

// issue seals the values that will be enforced into an id, and derives the secret from it.
func (r *Registry) issue(m *metadata, scope []string, now time.Time) (*Registration, error) {
	sealed := seal.Client{Name: m.Name, RedirectURIs: m.RedirectURIs, Method: m.Method, Scope: scope, Issued: now.Unix(), PostLogoutRedirectURIs: m.PostLogoutRedirectURIs}
	id, err := seal.Seal(r.o.Ring, sealed)
	if err != nil {
		return nil, err
	}
	if len(id) > maxRegisteredID {
		return nil, bad("redirect URIs, name and scope are too long together: the client id would have %d characters, more than %d", len(id), maxRegisteredID)
	}
	reg := &Registration{ClientID: id, IssuedAt: sealed.Issued, metadata: *m}
	if m.Method == methodNone {
		return reg, nil
	}
	if reg.ClientSecret, err = r.o.Ring.ClientSecret(id); err != nil {
		return nil, err
	}
	reg.SecretExpiresAt = new(int64)
	return reg, nil
}

func bad(format string, args ...any) *oauth.Error {
	return oauth.Errorf(oauth.InvalidClientMetadata, format, args...)
}

// parseMetadata reads the document member by member: encoding/json alone would
// take other spellings of a name, and the last of two equal ones. Members that are
// not known are ignored, a client_id among them (RFC 7591 §2).
func parseMetadata(body []byte) (*metadata, error) {
	members, err := readMembers(body)
	if err != nil {
		return nil, err
	}
	m := &metadata{}
	for name, field := range map[string]any{
		"redirect_uris": &m.RedirectURIs, "token_endpoint_auth_method": &m.Method, "grant_types": &m.GrantTypes, "response_types": &m.ResponseTypes,
		"scope": &m.Scope, "client_name": &m.Name, "client_uri": &m.URI, "logo_uri": &m.LogoURI, "tos_uri": &m.TermsURI, "policy_uri": &m.PolicyURI,
		"jwks_uri": &m.KeysURI, "contacts": &m.Contacts, "software_id": &m.SoftwareID, "software_version": &m.SoftwareVersion,
		"application_type": &m.ApplicationType, "jwks": &m.Keys, "post_logout_redirect_uris": &m.PostLogoutRedirectURIs,
	} {
		value, ok := members[name]
		if !ok || string(value) == "null" {
			continue
		}
		if err := json.Unmarshal(value, field); err != nil {
			code := oauth.InvalidClientMetadata
			if name == "redirect_uris" {
				code = oauth.InvalidRedirectURI
			}
			return nil, oauth.Errorf(code, "%s has the wrong type", name)
		}
	}
	return m, nil
}

// readMembers returns the members of a JSON object, each of which occurs once.
func readMembers(body []byte) (map[string]json.RawMessage, error) {
	malformed := bad("the body is not one JSON object")
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

// check refuses impossible values, fills in those that are missing, and cleans the name.
func (m *metadata) check(schemes []string) error {
	if err := m.checkRedirectURIs(schemes); err != nil {
		return err
	}
	if err := m.checkPostLogoutRedirectURIs(schemes); err != nil {
		return err
	}
	if err := m.checkCapabilities(); err != nil {
		return err
	}
	for _, u := range []struct{ name, uri string }{
		{"client_uri", m.URI}, {"logo_uri", m.LogoURI}, {"tos_uri", m.TermsURI}, {"policy_uri", m.PolicyURI}, {"jwks_uri", m.KeysURI},
	} {
		if u.uri != "" && !isWebPage(u.uri) {
			return bad("%s must be an https URL without user information", u.name)
		}
	}
	m.Name = cleanName(m.Name)
	return m.checkKeys()
}

func (m *metadata) checkRedirectURIs(schemes []string) error {
	if n := len(m.RedirectURIs); n == 0 || n > maxRedirectURIs {
		return oauth.Errorf(oauth.InvalidRedirectURI, "redirect_uris must have 1 to %d entries, not %d", maxRedirectURIs, n)
	}
	var unique []string
	for i, uri := range m.RedirectURIs {
		if err := oauth.CheckRedirectURI(uri, schemes); err != nil {
			return oauth.Errorf(oauth.InvalidRedirectURI, "redirect_uris[%d]: %s", i, oauth.AsError(err).Description)
		}
		if !slices.Contains(unique, uri) {
			unique = append(unique, uri)
		}
	}
	m.RedirectURIs = unique
	return nil
}

// checkPostLogoutRedirectURIs applies the rule of redirect URIs, because the browser is
// sent to these too.
func (m *metadata) checkPostLogoutRedirectURIs(schemes []string) error {
	if n := len(m.PostLogoutRedirectURIs); n > maxRedirectURIs {
		return bad("post_logout_redirect_uris must have at most %d entries, not %d", maxRedirectURIs, n)
	}
	for i, uri := range m.PostLogoutRedirectURIs {
		if err := oauth.CheckRedirectURI(uri, schemes); err != nil {
			return bad("post_logout_redirect_uris[%d]: %s", i, oauth.AsError(err).Description)
		}
	}
	return nil
}

// checkCapabilities settles grant types, response types and authentication. A
// client that omits the method gets a secret: that is RFC 7591's default (§2).
// refresh_token is always in the answer, because clients without it do not refresh.
func (m *metadata) checkCapabilities() error {
	for _, g := range m.GrantTypes {
		if !slices.Contains(grantTypes, g) {
			return bad("grant_types: %s is not available to registered clients", g)
		}
	}
	if len(m.GrantTypes) > 0 && !slices.Contains(m.GrantTypes, oauth.GrantAuthorizationCode) {
		return bad("grant_types must have %s", oauth.GrantAuthorizationCode)
	}
	if i := slices.IndexFunc(m.ResponseTypes, func(t string) bool { return t != "code" }); i >= 0 {
		return bad("response_types: only code is supported, not %s", m.ResponseTypes[i])
	}
	m.GrantTypes, m.ResponseTypes = grantTypes, []string{"code"}
	switch m.Method {
	case "":
		m.Method = methodBasic
	case methodNone, methodBasic, methodPost:
	default:
		return bad("token_endpoint_auth_method %s is not supported", m.Method)
	}
	if t := m.ApplicationType; t != "" && t != "native" && t != "web" {
		return bad("application_type must be native or web")
	}
	return nil
}

// checkKeys refuses a private key in jwks: a client that sends one has disclosed it, and
// should learn that (RFC 7591 §2).
func (m *metadata) checkKeys() error {
	if len(m.Keys) == 0 {
		return nil
	}
	if m.KeysURI != "" {
		return bad("jwks and jwks_uri exclude each other")
	}
	var set struct {
		Keys []map[string]json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(m.Keys, &set); err != nil || set.Keys == nil {
		return bad("jwks is not a JWK Set")
	}
	for _, key := range set.Keys {
		for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} { // RFC 7518 §6
			if _, ok := key[private]; ok {
				return bad("jwks holds a private or symmetric key")
			}
		}
	}
	return nil
}

// isWebPage reports whether uri may be shown as a link. It is never fetched.
func isWebPage(uri string) bool {
	u, err := url.Parse(uri)
	return err == nil && u.Scheme == "https" && u.Hostname() != "" && u.User == nil &&
		!strings.ContainsFunc(uri, func(r rune) bool { return r <= ' ' || r == '\\' })
}

func (r *Registry) registeredScope(requested string) ([]string, error) {
	scope, err := oauth.ParseScope(requested)
	if err != nil {
		return nil, bad("%s", oauth.AsError(err).Description)
	}
	for _, name := range scope {
		if !slices.Contains(r.o.Scopes, name) && !slices.Contains(alwaysKnown, name) {
			return nil, bad("scope %s is not supported", name)
		}
	}
	if scope == nil {
		scope = r.o.Default
	}
	return scope, nil
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
