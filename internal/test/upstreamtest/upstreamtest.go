// Package upstreamtest has providers for tests: an OpenID provider, and an OAuth 2.0 server in
// the manner of GitHub. They are as strict as the real ones, count what they do, and keep a log of
// all that they received. Switches make them fail in the ways in which real ones do.
package upstreamtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/internal/test/freeport"
)

// User is an account at a provider.
type User struct {
	Password   string
	ID         string // sub; id in the manner of GitHub
	Name       string // full name
	Email      string
	Unverified bool // the e-mail address
	Private    bool // the e-mail address, in the manner of GitHub: the profile does not show it
	Picture    string
	Groups     []string
}

// Options say what a provider is like. The zero value of each field stands for the default that
// its comment names.
type Options struct {
	Manner       Manner          // default: a strict OpenID provider
	RSA          bool            // sign with RS256; default: ES256
	ClientID     string          // default: signet
	ClientSecret string          // default: a secret of the provider's own
	Public       bool            // the client has no secret
	RedirectURIs []string        // that the client has registered; see also Register
	Registers    bool            // clients register themselves, and there is no other one
	Documents    bool            // the URL of a client's description is a client id; its redirect URIs are RedirectURIs
	Resource     string          // that requests have to name; default: any, or none
	Users        map[string]User // by the name with which they sign in; default: ann and bob
}

// Switches change what a provider does from now on.
type Switches struct {
	SignedIn   string        // user who is signed in at the provider already: the page is not shown
	Deny       bool          // the user denies
	AccessLife time.Duration // of access tokens; default: an hour
	NoRefresh  bool          // no refresh token is given
	NoRotation bool          // refresh tokens stay the same, and a refresh answer has none

	Unavailable bool            // every endpoint answers 503 with a page
	KeysGone    bool            // the key set answers 503
	NoDiscovery bool            // the discovery document answers 503
	Hold        <-chan struct{} // the token, userinfo and API endpoints answer when it is closed
	TokenAnswer func(http.ResponseWriter)
	// TokenAnswer, if set, answers a token request in place of the provider, after the request
	// was carried out.

	Metadata           func(m map[string]any)    // changes the metadata
	RegistrationAnswer func(http.ResponseWriter) // answers a registration in place of the provider
	RegistersAs        string                    // client authentication of those who register; "": as they ask
	SecretExpires      int64                     // of clients that register from now on

	Claims      func(claims map[string]any) // changes the claims of id tokens
	NoIDToken   bool
	NoUserInfo  bool   // the userinfo endpoint answers 401
	NoIssuer    bool   // the callback has no iss, although the metadata promises it
	OtherIssuer string // iss of the callback
	APIStatus   int    // the API answers this status
}

// Provider is a running provider.
type Provider struct {
	*freeport.Server
	o   Options
	key crypto.Signer

	mu       sync.Mutex
	s        Switches
	log      bytes.Buffer
	codes    map[string]*code
	access   map[string]*grant
	refresh  map[string]*grant
	counts   map[string]int
	clients  map[string]registration // that have registered themselves
	sessions int
	users    map[string]User
}

// grant is what one user gave to the client once: a family of tokens.
type grant struct {
	client               string // id
	user, nonce, session string
	audience             string
	scope                []string
	ended                bool
	offline              bool                 // there are refresh tokens
	current              string               // refresh token
	expires              map[string]time.Time // of access tokens
}

type code struct {
	*grant
	redirectURI, challenge string
	expires                time.Time
	spent                  bool
}

// New starts a provider, which ends with the test.
func New(t testing.TB, o Options) *Provider {
	t.Helper()
	p, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Down)
	return p
}

// Start starts a provider. Down ends it.
func Start(o Options) (*Provider, error) {
	if o.ClientID == "" {
		o.ClientID = "signet"
	}
	if o.ClientSecret == "" && !o.Public {
		o.ClientSecret = "client-secret-" + random()
	}
	if o.Users == nil {
		o.Users = map[string]User{
			"ann": {Password: "ann-password", ID: "1001", Name: "Ann Example", Email: "ann@example.com", Groups: []string{"staff"}, Picture: "https://pictures.example/ann.png"},
			"bob": {Password: "bob-password", ID: "1002", Name: "Bob Example", Email: "bob@example.org"},
		}
	}
	p := &Provider{o: o, codes: map[string]*code{}, access: map[string]*grant{}, refresh: map[string]*grant{}, counts: map[string]int{}, clients: map[string]registration{}, users: o.Users}
	var err error
	if o.RSA {
		p.key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, err
	}
	if p.Server, err = freeport.NewServer("", p); err != nil {
		return nil, err
	}
	return p, p.Up()
}

func random() string { return rand.Text() }

// Issuer returns the issuer identifier.
func (p *Provider) Issuer() string { return p.URL() + p.o.Manner.Path }

// ClientID returns the id of the client.
func (p *Provider) ClientID() string { return p.o.ClientID }

// ClientSecret returns the secret of the client.
func (p *Provider) ClientSecret() string { return p.o.ClientSecret }

// Register adds a redirect URI to those of the client.
func (p *Provider) Register(uri string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.o.RedirectURIs = append(p.o.RedirectURIs, uri)
}

// Switch changes the switches.
func (p *Provider) Switch(change func(s *Switches)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.s)
}

// Count returns how often something has happened: "refresh" and "refresh ann" (accepted ones),
// "reuse" (of a rotated refresh token), "code", "revocation", "userinfo", "api", "keys",
// "discovery", "registration".
func (p *Provider) Count(what string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts[what]
}

// Log returns everything that the provider has received: request lines, Authorization headers and
// bodies.
func (p *Provider) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// Invalidate ends an access token before its time.
func (p *Provider) Invalidate(token string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.access, token)
}

// InvalidateUser ends all access tokens of a user before their time.
func (p *Provider) InvalidateUser(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for token, g := range p.access {
		if g.user == name {
			delete(p.access, token)
		}
	}
}

// EndGrants ends everything that a user gave to the client.
func (p *Provider) EndGrants(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, g := range p.refresh {
		if g.user == name {
			g.ended = true
		}
	}
	for _, g := range p.access {
		if g.user == name {
			g.ended = true
		}
	}
}

// Live reports whether a token, access or refresh, is accepted.
func (p *Provider) Live(token string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if g := p.refresh[token]; g != nil && !g.ended && g.current == token {
		return true
	}
	return p.owner(token) != ""
}

// Owner returns the user whose live access token this is, or "".
func (p *Provider) Owner(token string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.owner(token)
}

func (p *Provider) owner(token string) string {
	g := p.access[token]
	if g == nil || g.ended || time.Now().After(g.expires[token]) {
		return ""
	}
	return g.user
}

// Configuration returns the provider's entry for a file of upstreams, on one line. More is
// appended to its members, as "allow: {...}".
func (p *Provider) Configuration(id string, more ...string) string {
	members := []string{"id: " + id, "name: " + strings.ToUpper(id[:1]) + id[1:], "client_id: " + p.o.ClientID}
	if p.o.ClientSecret != "" {
		members = append(members, fmt.Sprintf("client_secret: %q", p.o.ClientSecret))
	}
	if p.o.Manner.GitHub {
		members = append(members, "type: oauth2", "authorization_endpoint: "+p.URL()+pathGitHub+"/authorize", "token_endpoint: "+p.URL()+pathGitHub+"/access_token",
			"userinfo_endpoint: "+p.URL()+"/user", "scopes: [user]", "user_id: id", "user_name: login")
	} else {
		members = append(members, "type: oidc", "issuer: "+p.Issuer(), "scopes: [openid, profile, email, offline_access]")
	}
	return "{" + strings.Join(append(members, more...), ", ") + "}"
}

// ServeHTTP serves the provider's endpoints.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	p.mu.Lock()
	fmt.Fprintf(&p.log, "%s %s\nAuthorization: %s\n%s\n\n", r.Method, r.URL, r.Header.Get("Authorization"), body)
	s := p.s
	p.mu.Unlock()
	if s.Unavailable {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, "<h1>Service Unavailable</h1>")
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, strings.TrimSuffix(p.o.Manner.Path, "/"))
	if !ok {
		http.NotFound(w, r)
		return
	}
	serve := p.endpoints()[path]
	switch {
	case strings.HasPrefix(path, "/api/"):
		serve = p.serveAPI
	case serve == nil:
		http.NotFound(w, r)
		return
	}
	if s.Hold != nil && path != "/authorize" && path != "/.well-known/openid-configuration" && path != "/jwks" {
		select {
		case <-s.Hold:
		case <-r.Context().Done():
			return
		}
	}
	serve(w, r)
}

func (p *Provider) endpoints() map[string]http.HandlerFunc {
	if p.o.Manner.GitHub {
		return map[string]http.HandlerFunc{pathGitHub + "/authorize": p.authorize, pathGitHub + "/access_token": p.token, "/user": p.gitHubUser, "/user/emails": p.gitHubEmails, "/revoke": p.revoke, "/applications/" + p.o.ClientID + "/token": p.gitHubDelete}
	}
	return map[string]http.HandlerFunc{
		"/.well-known/openid-configuration": p.discovery, "/jwks": p.keys, "/authorize": p.authorize, "/token": p.token, "/userinfo": p.userinfo, "/revoke": p.revoke, "/register": p.register,
	}
}

const pathGitHub = "/login/oauth"

// Authorize does what a user's browser does with the URL of an authorization request: it signs in
// as name and returns the URL to which the provider sends the browser then.
func (p *Provider) Authorize(ctx context.Context, authorizeURL, name string) (string, error) {
	p.mu.Lock()
	password := p.users[name].Password
	p.mu.Unlock()
	form := url.Values{"username": {name}, "password": {password}}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, authorizeURL, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if to := resp.Header.Get("Location"); to != "" {
		return to, nil
	}
	text, err := io.ReadAll(resp.Body)
	return "", fmt.Errorf("status %d: %s %w", resp.StatusCode, text, err)
}
