package gatewayconfig

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"signet/internal/configfile"
	"signet/internal/oauth"
)

// credentials are auth_config of a server, or an entry of oauth_delegation.providers.
type credentials struct {
	provider, issuer, authorization, token, revocation, jwks string
	clientID, audience, grant, fallback, header, scheme      string
	clientSecret, clientKey, refreshToken, tokenSource       Secret
	scopes                                                   []string
	passthrough                                              bool
	settings                                                 map[string]Secret
}

// Uses of credentials, besides those of the strategies.
const (
	ofAny      = "any"
	ofProvider = "a provider of several servers"
)

var (
	ofGrants   = []string{"provider", "issuer", "authorization_endpoint", "token_endpoint", "revocation_endpoint", "jwks_uri", "client_id", "client_secret", "client_key", "scopes", "audience"}
	membersFor = map[string][]string{
		ofProvider:    ofGrants,
		DelegateOAuth: append([]string{"header"}, ofGrants...),
		ProxyOAuth:    append([]string{"header", "token_source", "grant", "refresh_token", "fallback"}, ofGrants...),
		MasterOAuth:   {"header", "audience", "scopes", "passthrough"},
		Upstream:      {"header"},
		UserKey:       {"header"},
		Bypass:        {},
	}
)

// members are the members of auth_config for one use.
func (k *credentials) members(use string) []member {
	all := []member{
		text("provider", "delegate_oauth, proxy_oauth: github, google, custom, or a name of oauth_delegation.providers", &k.provider, nil),
		textFor(ForIssuer, "issuer", "delegate_oauth, proxy_oauth: the authorization server, whose metadata has the endpoints; without issuer and endpoints, delegate_oauth asks the server for it", &k.issuer, checkURL),
		textFor(ForIssuer, "authorization_endpoint", "delegate_oauth, proxy_oauth: where users sign in, if there is no issuer", &k.authorization, checkURL),
		textFor(ForIssuer, "token_endpoint", "delegate_oauth, proxy_oauth: where tokens come from, if there is no issuer", &k.token, checkURL),
		textFor(ForIssuer, "revocation_endpoint", "delegate_oauth, proxy_oauth: where tokens are revoked", &k.revocation, checkURL),
		textFor(ForIssuer, "jwks_uri", "delegate_oauth, proxy_oauth: keys of a custom provider's tokens", &k.jwks, checkURL),
		textFor(ForIssuer, "client_id", "delegate_oauth, proxy_oauth: Signet's client at the provider; without one, Signet becomes a client of the issuer itself", &k.clientID, nil),
		textFor(ForIssuer, "client_secret", "delegate_oauth, proxy_oauth: its secret", &k.clientSecret, nil),
		lines(ForIssuer, "client_key", "delegate_oauth, proxy_oauth: its private key as PEM, for private_key_jwt", &k.clientKey, checkKey),
		list("scopes", "delegate_oauth, proxy_oauth: scopes to ask for; master_oauth: the part of the caller's scopes that the server's token has", &k.scopes, checkScope),
		textFor(ForIssuer, "audience", "master_oauth: resource of the token, by default the server's address; proxy_oauth: of the request; custom provider: of its tokens", &k.audience, nil),
		textFor(ForGateway, "token_source", "proxy_oauth: the credential itself, as env:VARIABLE", &k.tokenSource, nil),
		oneOf("grant", "proxy_oauth: refresh_token, client_credentials or exchange", &k.grant, "refresh_token", "client_credentials", "exchange").by("refresh_token if there is one or an authorization_endpoint, else client_credentials"),
		textFor(ForIssuer, "refresh_token", "proxy_oauth: the first one", &k.refreshToken, nil),
		oneOf("fallback", "proxy_oauth: passthrough sends the caller's own token if there is no credential", &k.fallback, "passthrough"),
		flag("passthrough", "master_oauth: true sends the caller's own token", &k.passthrough).by("false"),
		text("header", "header of the credential, with {key} in its place at the end, such as X-API-Key: {key}", &k.header, nil).by("Authorization: Bearer {key}").reading(k.readHeader),
	}
	if use == ofAny {
		return all
	}
	for i := range all {
		m := &all[i]
		if !slices.Contains(membersFor[use], m.name) {
			m.alien, m.read = true, func(r *reader, n *yaml.Node, path string) { r.Fault(n, path, "has no meaning with %s", use) }
		}
	}
	return all
}

// checkKey returns what is wrong with a private key.
func checkKey(s string) string {
	block, _ := pem.Decode([]byte(s))
	if block == nil {
		return "must be a private key as PEM"
	}
	for _, parse := range []func([]byte) error{
		func(der []byte) error { _, err := x509.ParsePKCS8PrivateKey(der); return err },
		func(der []byte) error { _, err := x509.ParseECPrivateKey(der); return err },
		func(der []byte) error { _, err := x509.ParsePKCS1PrivateKey(der); return err },
	} {
		if parse(block.Bytes) == nil {
			return ""
		}
	}
	return "must be a private key as PEM"
}

// ownHeaders are headers that no credential replaces: those that Signet sets, and trace context,
// which comes from the client.
var ownHeaders = []string{"Accept", "Accept-Encoding", "Baggage", "Connection", "Content-Length", "Content-Type", "Cookie", "Host", "Keep-Alive", "Last-Event-Id", "Te", "Traceparent", "Tracestate", "Trailer", "Transfer-Encoding", "Upgrade", "User-Agent"}

// readHeader reads the form of a header.
func (k *credentials) readHeader(r *reader, n *yaml.Node, path, s string) {
	name, value, _ := strings.Cut(s, ":")
	value = strings.TrimLeft(value, " ")
	before, after, found := strings.Cut(value, "{")
	if value == "" {
		found, after = true, "key}"
	}
	canonical := http.CanonicalHeaderKey(name)
	switch {
	case !isToken(name) || slices.Contains(ownHeaders, canonical) || strings.HasPrefix(canonical, "Mcp-") || strings.HasPrefix(canonical, "Proxy-") || strings.HasPrefix(canonical, "X-Forwarded-"):
		r.Fault(n, path, "must begin with the name of a header that Signet does not set itself")
	case !found || after != "key}" && after != "token}":
		r.Fault(n, path, "must have the form NAME: {key}, with {key} at the end")
	case strings.ContainsFunc(before, func(c rune) bool { return c < ' ' || c > '~' }):
		r.Fault(n, path, "has a character that headers do not have")
	}
	k.header, k.scheme = canonical, before
}

// isToken reports whether s is a token of HTTP (RFC 9110 §5.6.2).
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return c <= ' ' || c > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c)
	})
}

// credentials reads auth_config of an entry, of which the members follow from its strategy.
func (r *reader) credentials(e *entry) {
	if e.auth == nil || e.strategy == "" {
		return
	}
	path := e.path + ".auth_config"
	if slices.Contains(strategies, e.strategy) {
		twice := func(name string, there bool) {
			if there && r.at[path+"."+name] != nil {
				r.wrong(path+"."+name, "is there twice: also at the server itself")
			}
		}
		passthrough, fallback := r.has(e.path+".passthrough"), r.has(e.path+".fallback")
		r.object(e.auth, path, e.credentials.members(e.strategy))
		twice("passthrough", passthrough)
		twice("fallback", fallback)
		return
	}
	e.credentials.settings = map[string]Secret{}
	r.at[path] = e.auth
	r.Each(e.auth, path, func(name string, _, value *yaml.Node, path string) {
		if s, ok := r.text(value, path, form{lines: true, empty: true}); ok {
			e.credentials.settings[name] = Secret(s)
		}
	})
}

// strategy fills in what the strategy of an entry needs.
func (r *reader) strategy(c *Config, d *document, e *entry, s *Server) {
	k, path := &e.credentials, e.path+".auth_config"
	s.Header, s.Scheme = k.header, k.scheme
	if s.Header == "" {
		s.Header, s.Scheme = "Authorization", "Bearer "
	}
	if e.strategy != Bypass && slices.ContainsFunc(s.Instances, func(i Instance) bool { return len(i.Command) > 0 }) {
		r.wrong(e.path+".auth_strategy", "must be bypass_auth: a program gets no headers, and has its credentials from config.env")
		return
	}
	if r.has(e.path+".passthrough") && e.strategy != MasterOAuth {
		r.wrong(e.path+".passthrough", "has no meaning with %s", e.strategy)
	}
	if r.has(e.path+".fallback") && e.strategy != ProxyOAuth {
		r.wrong(e.path+".fallback", "has no meaning with %s", e.strategy)
	}
	if r.has(e.path+".ask") && (e.strategy == MasterOAuth || e.strategy == ProxyOAuth || e.strategy == Bypass) {
		r.wrong(e.path+".ask", "has no meaning with %s, which asks users for nothing", e.strategy)
	}
	switch e.strategy {
	case MasterOAuth:
		r.masterOAuth(k, path, s)
	case DelegateOAuth:
		r.delegateOAuth(c, d, e, s)
	case ProxyOAuth:
		r.proxyOAuth(c, d, e, s)
	case UserKey:
		r.connect(c, e, s, &Connection{Key: true})
	default:
		s.Settings = k.settings
	}
}

func (r *reader) masterOAuth(k *credentials, path string, s *Server) {
	s.Audience, s.TokenScopes, s.Passthrough = k.audience, k.scopes, k.passthrough
	if s.Audience == "" {
		resource, err := s.resource()
		if err != nil {
			r.wrong(path+".audience", "is missing, and the server's address is no resource identifier: %v", err)
			return
		}
		s.Audience = resource
	} else if _, err := oauth.CanonicalResource(s.Audience); err != nil {
		r.wrong(path+".audience", "%v", err)
	}
	if !s.Passthrough {
		return
	}
	at := path + ".passthrough"
	if !r.has(at) {
		at = strings.TrimSuffix(path, "auth_config") + "passthrough"
	}
	if s.TokenScopes != nil {
		r.wrong(path+".scopes", "has no meaning with passthrough: the caller's token has all of its scopes")
	}
	if r.Resources != nil && !slices.ContainsFunc(r.Resources, func(resource string) bool { return oauth.SameResource(resource, s.Audience) }) {
		r.wrong(at, "is refused: the server's resource is none of SIGNET_RESOURCES, so that the caller's token is not for it")
		return
	}
	r.warn(at, "the server gets the callers' own tokens, with which it can act for them here")
}

// connection returns a connection with what the file says.
func (k *credentials) connection(id, name string) *Connection {
	conn := &Connection{
		ID: id, Name: name, Issuer: k.issuer, AuthorizationEndpoint: k.authorization, TokenEndpoint: k.token, RevocationEndpoint: k.revocation,
		Provider: k.provider, ClientID: k.clientID, ClientSecret: k.clientSecret, ClientKey: k.clientKey, RefreshToken: k.refreshToken,
		Scopes: k.scopes, Audience: k.audience, JWKSURI: k.jwks,
	}
	known := endpoints[k.provider]
	if conn.Issuer == "" && conn.AuthorizationEndpoint == "" && conn.TokenEndpoint == "" {
		conn.AuthorizationEndpoint, conn.TokenEndpoint = known.authorization, known.token
	}
	if conn.RevocationEndpoint == "" {
		conn.RevocationEndpoint = known.revocation
	}
	return conn
}

// endpoints are those of providers that need not be written down.
var endpoints = map[string]struct{ authorization, token, revocation string }{
	"github": {authorization: "https://github.com/login/oauth/authorize", token: "https://github.com/login/oauth/access_token"},
	"google": {authorization: "https://accounts.google.com/o/oauth2/v2/auth", token: "https://oauth2.googleapis.com/token", revocation: "https://oauth2.googleapis.com/revoke"},
}

var providers = []string{"github", "google", "custom"}

// delegateOAuth makes the connection of a server, or finds the one that the server names.
func (r *reader) delegateOAuth(c *Config, d *document, e *entry, s *Server) {
	path := e.path + ".auth_config"
	if !d.delegation.enabled {
		r.wrong(e.path+".auth_strategy", "is delegate_oauth, but oauth_delegation.enabled is false")
		return
	}
	if e.auth == nil {
		r.wrong(path, "is missing")
		return
	}
	if shared := r.shared(c, e); shared != nil {
		for _, scope := range e.credentials.scopes {
			if !slices.Contains(shared.Scopes, scope) {
				shared.Scopes = append(slices.Clip(shared.Scopes), scope)
			}
		}
		shared.Servers = append(shared.Servers, s.ID)
		s.Connection = shared
		return
	}
	if !r.checkProvider(d, e) {
		return
	}
	conn := e.credentials.connection("", "")
	r.checkConnection(conn, path, true)
	if r.connect(c, e, s, conn) && conn.Issuer == "" && conn.TokenEndpoint == "" {
		if conn.Resource = s.endpoint(); conn.Resource == "" {
			r.wrong(path, "names no provider, and there is no address of the server to ask")
		}
	}
}

// shared returns the connection of oauth_delegation.providers that an entry names and does not
// describe itself, or nil.
func (r *reader) shared(c *Config, e *entry) *Connection {
	for _, name := range ofGrants {
		if name != "provider" && name != "scopes" && r.has(e.path+".auth_config."+name) {
			return nil
		}
	}
	if e.credentials.provider == "" {
		return nil
	}
	i := slices.IndexFunc(c.Connections, func(conn *Connection) bool { return conn.ID == e.credentials.provider && r.table[conn] })
	if i < 0 {
		return nil
	}
	return c.Connections[i]
}

// checkProvider checks the name of an entry's provider.
func (r *reader) checkProvider(d *document, e *entry) bool {
	name := e.credentials.provider
	if name == "" || slices.Contains(providers, name) {
		return true
	}
	for _, p := range d.delegation.providers {
		if p.key == name && r.bad[p.path] {
			return false // that provider has faults of its own
		}
	}
	r.wrong(e.path+".auth_config.provider", "must be one of %s, or a name of oauth_delegation.providers", strings.Join(providers, ", "))
	return false
}

// checkConnection checks what a connection needs. Discover: without issuer and endpoints, the
// server is asked which issuer it has.
func (r *reader) checkConnection(conn *Connection, path string, discover bool) {
	has := func(name string) bool { return r.has(path + "." + name) }
	preset := conn.AuthorizationEndpoint != "" && !has("authorization_endpoint")
	endpoints := has("authorization_endpoint") || has("token_endpoint") || preset
	switch {
	case conn.Provider != "" && !slices.Contains(providers, conn.Provider):
		r.wrong(path+".provider", "must be one of %s", strings.Join(providers, ", "))
	case endpoints && !preset && !has("authorization_endpoint") && !conn.Own:
		r.wrong(path+".authorization_endpoint", "is missing")
	case endpoints && !preset && !has("token_endpoint"):
		r.wrong(path+".token_endpoint", "is missing")
	case !endpoints && !has("issuer") && (!discover || conn.Provider != ""):
		r.wrong(path+".token_endpoint", "is missing, and there is no issuer")
	case !endpoints && !has("issuer") && (has("client_id") || has("client_secret") || has("client_key")):
		r.wrong(path+".client_id", "is that of one issuer: set issuer, or the endpoints")
	case endpoints && !has("client_id"):
		r.wrong(path+".client_id", "is missing")
	}
	if has("client_secret") && has("client_key") {
		r.wrong(path+".client_key", "is there beside client_secret")
	}
	if (has("client_secret") || has("client_key")) && !has("client_id") {
		r.wrong(path+".client_id", "is missing")
	}
}

// proxyOAuth makes the gateway's own credential for a server.
func (r *reader) proxyOAuth(c *Config, d *document, e *entry, s *Server) {
	k, path := &e.credentials, e.path+".auth_config"
	if e.auth == nil {
		r.wrong(path, "is missing")
		return
	}
	if s.Fallback = k.fallback != ""; s.Fallback {
		r.warn(e.path, "without a credential, the server gets the callers' own tokens, with which it can act for them here")
	}
	if r.has(path + ".token_source") {
		s.Token = k.tokenSource
		for _, name := range append([]string{"grant", "refresh_token"}, ofGrants...) {
			if r.has(path + "." + name) {
				r.wrong(path+"."+name, "is there beside token_source, which is the whole credential")
			}
		}
		return
	}
	if !r.checkProvider(d, e) {
		return
	}
	conn := k.connection("", "")
	conn.Own, conn.Grant = true, k.grant
	if conn.Grant == "" {
		conn.Grant = "client_credentials"
		if r.has(path+".refresh_token") || r.has(path+".authorization_endpoint") {
			conn.Grant = "refresh_token"
		}
	}
	r.checkConnection(conn, path, false)
	switch {
	case conn.Grant != "refresh_token" && r.has(path+".refresh_token"):
		r.wrong(path+".refresh_token", "has no meaning with the grant %s", conn.Grant)
	case conn.Grant != "refresh_token" && !r.has(path+".client_secret") && !r.has(path+".client_key"):
		r.wrong(path+".client_secret", "is missing, and there is no client_key: the grant %s needs one", conn.Grant)
	case conn.Grant == "refresh_token" && !r.has(path+".refresh_token"):
		r.warn(path, "there is no refresh_token: calls fail until the vault has one")
	}
	r.connect(c, e, s, conn)
}

// connect adds the connection of a server.
func (r *reader) connect(c *Config, e *entry, s *Server, conn *Connection) bool {
	conn.ID, conn.Name, conn.Servers = connectionID(s.ID), s.Name, []string{s.ID}
	if other, taken := c.Connection(conn.ID); taken {
		of := "the provider " + other.ID
		if !r.table[other] {
			of = "the server " + other.Servers[0]
		}
		r.wrong(e.path+".id", "is too much like that of %s: both would have the connection %s", of, configfile.Cut(conn.ID, 64))
		return false
	}
	c.Connections = append(c.Connections, conn)
	s.Connection = conn
	return true
}

// connectionID returns the id of the connection of a server: lower case, with hyphens in place of
// other characters.
func connectionID(id string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c >= 'A' && c <= 'Z':
			return c + 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			return c
		}
		return '-'
	}, id)
}
