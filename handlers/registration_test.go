package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/handlers"
	"signet/internal/fetch"
	"signet/internal/gatewayconfig"
	"signet/internal/oauth"
	"signet/internal/test/authtest"
	"signet/internal/test/upstreamtest"
)

// protected is an MCP server that wants a token, and says in its metadata where that comes from.
type protected struct {
	*httptest.Server

	mu        sync.Mutex
	status    int    // of an answer without a token
	challenge string // of that answer
	metadata  string // JSON; "": there is none
	at        string // path of metadata
	asked     int    // for metadata
}

func newProtected(t *testing.T) *protected {
	t.Helper()
	p := &protected{status: http.StatusUnauthorized, at: "/.well-known/oauth-protected-resource/mcp"}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	p.challenge = `Bearer error="invalid_token", resource_metadata="` + p.URL + p.at + `"`
	return p
}

func (p *protected) resource() string { return p.URL + "/mcp" }

// names sets the metadata: a resource and authorization servers.
func (p *protected) names(resource string, issuers ...string) {
	p.set(func() {
		p.metadata = fmt.Sprintf(`{"resource":%q,"authorization_servers":["%s"],"scopes_supported":["openid"]}`, resource, strings.Join(issuers, `","`))
	})
}

func (p *protected) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *protected) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case r.URL.Path == "/mcp":
		w.Header().Set("WWW-Authenticate", p.challenge)
		w.WriteHeader(p.status)
	case r.URL.Path == p.at && p.metadata != "":
		p.asked++
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, p.metadata)
	default:
		http.NotFound(w, r)
	}
}

// discovered is a gateway with one server, for which neither an authorization server nor a client
// is configured.
type discovered struct {
	*gatewayServer
	p  *upstreamtest.Provider
	at *protected
}

func discover(t *testing.T, o upstreamtest.Options) *discovered {
	t.Helper()
	at := newProtected(t)
	o.Manner, o.Resource = upstreamtest.Strict, at.resource()
	o.RedirectURIs = []string{authtest.Issuer + "/oauth/callback"}
	p := upstreamtest.New(t, o)
	at.names(at.resource(), p.Issuer())
	s := withConnections(t, []*gatewayconfig.Connection{{ID: "notes", Name: "Notes", Servers: []string{"notes-tools"}, Resource: at.resource()}})
	s.Log.Forbid("registered-secret-", "access-ann-", "refresh-ann-")
	return &discovered{s, p, at}
}

// begin presses the button, and returns the answer.
func (d *discovered) begin(t *testing.T, b *authtest.Browser) *authtest.Response {
	t.Helper()
	return b.Submit(t, d.linkTo(t, b, "alice", "server_id=notes-tools"), set("decision", "connect"))
}

// connects goes through all of it as a user of both sides, and returns the authorization request.
func (d *discovered) connects(t *testing.T) url.Values {
	t.Helper()
	b := d.NewBrowser()
	left := d.begin(t, b)
	to, err := url.Parse(left.Header.Get("Location"))
	if err != nil || !strings.HasPrefix(to.String(), d.p.Issuer()+"/authorize?") {
		t.Fatalf("not sent to the provider: %d %s", left.StatusCode, text(left))
	}
	back, err := d.p.Authorize(t.Context(), to.String(), "ann")
	if err != nil {
		t.Fatal(err)
	}
	wantConnected(t, b.Get(t, back))
	return to.Query()
}

// What the browser sends itself has the provider's iss, if the provider promises one.
func TestBrowserSendsTheIssuer_Row66(t *testing.T) {
	d := discover(t, upstreamtest.Options{Registers: true})
	for _, contentType := range []string{"application/json", formType} {
		for iss, status := range map[string]int{"": 400, "https://evil.test": 400, d.p.Issuer(): 200} {
			b := d.NewBrowser()
			back, err := d.p.Authorize(t.Context(), d.begin(t, b).Header.Get("Location"), "ann")
			if err != nil {
				t.Fatal(err)
			}
			sent, err := url.Parse(back)
			if err != nil {
				t.Fatal(err)
			}
			q := sent.Query()
			body := `{"state":"` + q.Get("state") + `","code":"` + q.Get("code") + `","iss":"` + iss + `"}`
			if contentType == formType {
				q.Set("iss", iss)
				body = q.Encode()
			}
			if r := d.Do(t, request("POST", "/oauth/token", body, "Content-Type", contentType, "Cookie", cookies(b))); r.StatusCode != status {
				t.Errorf("%s, iss %q: %d %s, want %d", contentType, iss, r.StatusCode, r.Body, status)
			}
		}
	}
}

// token is the token of the user for the server.
func (d *discovered) token(t *testing.T, stale int64) (token string, version int64, err error) {
	t.Helper()
	return d.connectionToken(t, d.claims(t, d.Tokens(t, "alice", d.PUB).Access), "notes", stale)
}

// The 401 of a server names its metadata, that the authorization server, and that the endpoints.
// Signet registers itself there once, for all users and replicas, whatever proof of a client the
// server wants. Tokens are asked for the server's resource, and are refreshed.
func TestAuthorizationServerIsDiscovered_Row63(t *testing.T) {
	for name, o := range map[string]upstreamtest.Options{
		"public client":      {Registers: true, Public: true},
		"secret":             {Registers: true},
		"description at URL": {Documents: true, Public: true},
	} {
		t.Run(name, func(t *testing.T) {
			d := discover(t, o)
			if _, _, err := d.token(t, 0); err == nil {
				t.Error("there is a token before the user has connected")
			}
			first := d.connects(t)
			if first.Get("resource") != d.at.resource() || first.Get("scope") != "openid" {
				t.Errorf("the request has resource %q and scope %q", first.Get("resource"), first.Get("scope"))
			}
			if id := first.Get("client_id"); o.Documents != (id == authtest.Issuer+"/oauth/client.json") {
				t.Errorf("client_id %q", id)
			}
			if token, _, err := d.token(t, 0); err != nil || d.p.Owner(token) != "ann" {
				t.Fatalf("the token is of %q, %v", d.p.Owner(token), err)
			}
			d.Restart(t)
			if again := d.connects(t); again.Get("client_id") != first.Get("client_id") {
				t.Errorf("another replica is the client %q", again.Get("client_id"))
			}
			token, version, err := d.token(t, 0)
			if err != nil {
				t.Fatal(err)
			}
			d.p.Invalidate(token)
			if token, _, err = d.token(t, version); err != nil || d.p.Owner(token) != "ann" {
				t.Errorf("after a refresh the token is of %q, %v", d.p.Owner(token), err)
			}
			want := 1
			if o.Documents {
				want = 0
			}
			if n := d.p.Count("registration"); n != want {
				t.Errorf("%d registrations, want %d", n, want)
			}
		})
	}
}

// With only the issuer configured, the server is not asked, and Signet registers at the issuer.
func TestRegistersAtTheConfiguredIssuer_Row63(t *testing.T) {
	d := discover(t, upstreamtest.Options{Registers: true})
	d.reload(&gatewayconfig.Connection{ID: "notes", Name: "Notes", Servers: []string{"notes-tools"}, Issuer: d.p.Issuer(), Scopes: []string{"openid"}})
	b := d.NewBrowser()
	left := d.begin(t, b)
	if to := left.Header.Get("Location"); !strings.HasPrefix(to, d.p.Issuer()+"/authorize?") || !strings.Contains(to, "client_id=registered-") || d.at.asked != 0 {
		t.Errorf("sent to %s; the server was asked %d times", to, d.at.asked)
	}
}

// Each thing that is wrong with what a server and its authorization server say of themselves keeps
// the user here, with nothing registered and nothing kept. One thing is changed in a good world each.
func TestDiscoveryIsRefused_Row63_Probe30(t *testing.T) {
	in := func(status int, body string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	const redirect = `"redirect_uris":["` + authtest.Issuer + `/oauth/callback"]`
	for name, tt := range map[string]struct {
		change func(d *discovered)
		log    string
	}{
		"nothing":      {func(*discovered) {}, ""},
		"no challenge": {func(d *discovered) { d.at.set(func() { d.at.challenge = "" }) }, ""},
		"no 401":       {func(d *discovered) { d.at.set(func() { d.at.status = 200 }) }, ""},
		"the metadata of the origin": {func(d *discovered) {
			d.at.set(func() { d.at.challenge, d.at.at = "", "/.well-known/oauth-protected-resource" })
		}, ""},
		"no metadata": {func(d *discovered) { d.at.set(func() { d.at.metadata = "" }) }, "does not say which authorization server"},
		"metadata elsewhere": {func(d *discovered) {
			d.at.set(func() { d.at.challenge = `Bearer resource_metadata="` + d.p.URL() + `/metadata"` })
		}, "another origin"},
		"metadata in a private net": {func(d *discovered) {
			d.at.set(func() { d.at.challenge = `Bearer resource_metadata="http://169.254.169.254/latest"` })
		}, "another origin"},
		"metadata is HTML":             {func(d *discovered) { d.at.set(func() { d.at.metadata = "<html>" }) }, "not one JSON value"},
		"metadata of another resource": {func(d *discovered) { d.at.names("https://bank.example/mcp", d.p.Issuer()) }, "bank.example"},
		"metadata of another path":     {func(d *discovered) { d.at.names(d.at.URL+"/other", d.p.Issuer()) }, "/other"},
		"no authorization server":      {func(d *discovered) { d.at.set(func() { d.at.metadata = `{"resource":"` + d.at.resource() + `"}` }) }, "names no authorization server"},
		"an issuer that is no URL":     {func(d *discovered) { d.at.names(d.at.resource(), "javascript:alert(1)") }, "issuer"},
		"an issuer in a private net":   {func(d *discovered) { d.at.names(d.at.resource(), "https://10.0.0.1/as") }, "full name of a public host"},
		"the metadata service":         {func(d *discovered) { d.at.names(d.at.resource(), "https://metadata.google.internal/as") }, "private network"},
		"metadata of another issuer": {func(d *discovered) {
			d.p.Switch(func(s *upstreamtest.Switches) {
				s.Metadata = func(m map[string]any) { m["issuer"] = "https://accounts.google.com" }
			})
		}, "it is of the issuer"},
		"no PKCE": {func(d *discovered) {
			d.p.Switch(func(s *upstreamtest.Switches) {
				s.Metadata = func(m map[string]any) { m["code_challenge_methods_supported"] = []string{"plain"} }
			})
		}, "PKCE"},
		"no registration": {func(d *discovered) {
			d.p.Switch(func(s *upstreamtest.Switches) {
				s.Metadata = func(m map[string]any) { delete(m, "registration_endpoint") }
			})
		}, "set client_id"},
		"registration in a private net": {func(d *discovered) {
			d.p.Switch(func(s *upstreamtest.Switches) {
				s.Metadata = func(m map[string]any) { m["registration_endpoint"] = "https://192.168.1.1/register" }
			})
		}, "full name of a public host"},
		"only proofs that Signet has not": {func(d *discovered) {
			d.p.Switch(func(s *upstreamtest.Switches) {
				s.Metadata = func(m map[string]any) {
					m["token_endpoint_auth_methods_supported"] = []string{"tls_client_auth"}
				}
			})
		}, "none of the ways"},
		"the registration is refused":         {answering(in(400, `{"error":"invalid_redirect_uri"}`)), "invalid_redirect_uri"},
		"the registration fails":              {answering(in(503, `{}`)), "503"},
		"a redirect":                          {answering(in(302, `{}`)), "302"},
		"no id":                               {answering(in(201, `{`+redirect+`,"client_secret":"s"}`)), "no client_id of use"},
		"an id with a line end":               {answering(in(201, `{"client_id":"a\nb","client_secret":"s"}`)), "no client_id of use"},
		"no secret":                           {answering(in(201, `{"client_id":"x"}`)), "no client_secret of use"},
		"a secret that has expired":           {answering(in(201, `{"client_id":"x","client_secret":"s","client_secret_expires_at":1}`)), "expired"},
		"other redirect URIs":                 {answering(in(201, `{"client_id":"x","client_secret":"s","redirect_uris":["https://evil.example/cb"]}`)), "other redirect URIs"},
		"another proof than was asked":        {answering(in(201, `{"client_id":"x","client_secret":"s","token_endpoint_auth_method":"private_key_jwt"}`)), "another proof"},
		"an id twice":                         {answering(in(201, `{"client_id":"x","client_id":"y","client_secret":"s"}`)), "registration"},
		"an answer that is no JSON":           {answering(in(201, `<html>`)), "registration"},
		"the authorization server is down":    {func(d *discovered) { d.p.Down() }, "connection refused"},
		"the server is down":                  {func(d *discovered) { d.at.Close() }, "connection refused"},
		"the server answers with HTML":        {func(d *discovered) { d.at.set(func() { d.at.status = 503; d.at.metadata = "<html>" }) }, "not one JSON value"},
		"the server redirects to another one": {func(d *discovered) { d.at.set(func() { d.at.status = 302; d.at.metadata = "" }) }, "does not say"},
	} {
		t.Run(name, func(t *testing.T) {
			d := discover(t, upstreamtest.Options{Registers: true})
			tt.change(d)
			left := d.begin(t, d.NewBrowser())
			if tt.log == "" {
				if to := left.Header.Get("Location"); !strings.HasPrefix(to, d.p.Issuer()+"/authorize?") {
					t.Errorf("not sent to the provider: %d %s", left.StatusCode, text(left))
				}
				return
			}
			wantDown(t, left, "notes")
			d.nothing(t)
			if !strings.Contains(d.Log.String(), tt.log) {
				t.Errorf("the log does not say %q: %s", tt.log, d.Log)
			}
		})
	}
}

// answering makes the provider answer registrations.
func answering(answer func(http.ResponseWriter)) func(*discovered) {
	return func(d *discovered) {
		d.p.Switch(func(s *upstreamtest.Switches) { s.RegistrationAnswer = answer })
	}
}

// The authorization server that a server names first stays its own: one that it names later gets no
// user, no code and no token. If the server names both, or is down, nothing changes.
func TestAuthorizationServerStays_Row63_Probe30(t *testing.T) {
	d := discover(t, upstreamtest.Options{Registers: true})
	d.connects(t)
	evil := upstreamtest.New(t, upstreamtest.Options{Manner: upstreamtest.Strict, Registers: true, Resource: d.at.resource()})
	d.at.names(d.at.resource(), evil.Issuer())
	wantDown(t, d.begin(t, d.NewBrowser()), "notes")
	if !strings.Contains(d.Log.String(), "set auth_config.issuer") {
		t.Error("the log does not say what to do")
	}
	token, version, err := d.token(t, 0)
	if err != nil || d.p.Owner(token) != "ann" {
		t.Fatalf("the token is of %q, %v", d.p.Owner(token), err)
	}
	d.p.Invalidate(token)
	if token, _, err = d.token(t, version); err != nil || d.p.Owner(token) != "ann" {
		t.Errorf("the token is refreshed at another server: %v", err)
	}
	if log := evil.Log(); log != "" {
		t.Errorf("the other server was sent\n%s", log)
	}
	d.at.names(d.at.resource(), evil.Issuer(), d.p.Issuer())
	d.connects(t)
	if log := evil.Log(); log != "" {
		t.Errorf("the other server was sent\n%s", log)
	}
}

// An authorization server may register a client with another way to prove itself than was asked for
// (RFC 7591 §3.2.1). Its secret is sent in that way.
func TestRegistrationChoosesTheProof_Row63(t *testing.T) {
	for _, method := range []string{"client_secret_basic", "client_secret_post"} {
		d := discover(t, upstreamtest.Options{Registers: true})
		d.p.Switch(func(s *upstreamtest.Switches) { s.RegistersAs = method })
		d.connects(t)
		d.Restart(t)
		token, version, err := d.token(t, 0)
		if err != nil || d.p.Owner(token) != "ann" {
			t.Fatalf("%s: the token is of %q, %v", method, d.p.Owner(token), err)
		}
		d.p.Invalidate(token)
		if token, _, err = d.token(t, version); err != nil || d.p.Owner(token) != "ann" {
			t.Errorf("%s: after a refresh the token is of %q, %v", method, d.p.Owner(token), err)
		}
	}
}

// What a server says of its resource and its scopes counts as it is when a user connects, and needs no
// other client. Tokens for another resource are asked for anew.
func TestChangedResourceIsFollowed_Row63(t *testing.T) {
	d := discover(t, upstreamtest.Options{Registers: true})
	first := d.connects(t)
	d.at.set(func() {
		d.at.metadata = strings.Replace(d.at.metadata, `["openid"]`, `["openid","write"]`, 1)
	})
	if again := d.connects(t); again.Get("scope") != "openid write" || again.Get("client_id") != first.Get("client_id") {
		t.Errorf("with another scope, the client %s asks for %q", again.Get("client_id"), again.Get("scope"))
	}
	if _, _, err := d.token(t, 0); err != nil {
		t.Errorf("with another scope: %v", err)
	}
	d.at.names(d.at.URL, d.p.Issuer())
	left := d.begin(t, d.NewBrowser())
	to, err := url.Parse(left.Header.Get("Location"))
	if err != nil || to.Query().Get("resource") != d.at.URL || to.Query().Get("client_id") != first.Get("client_id") {
		t.Errorf("with another resource: sent to %s", to)
	}
	_, _, err = d.token(t, 0)
	wantMissing(t, err, "notes", false)
}

// Libraries of MCP servers name an issuer without a path with a slash at its end. It is the same
// issuer, and stays that when the server names it as it is.
func TestIssuerIsNamedWithASlash_Row63(t *testing.T) {
	d := discover(t, upstreamtest.Options{Registers: true})
	first := ""
	for _, issuer := range []string{d.p.Issuer() + "/", d.p.Issuer()} {
		d.at.names(d.at.resource(), issuer)
		client := d.connects(t).Get("client_id")
		if first == "" {
			first = client
		}
		if token, _, err := d.token(t, 0); err != nil || d.p.Owner(token) != "ann" || client != first {
			t.Errorf("with %s: the client %s has a token of %q, %v", issuer, client, d.p.Owner(token), err)
		}
	}
	for _, issuer := range []string{d.p.Issuer() + "//", d.p.Issuer() + "/x/", d.p.Issuer() + "x/"} {
		d.at.names(d.at.resource(), issuer)
		wantDown(t, d.begin(t, d.NewBrowser()), "notes")
	}
}

// A callback that claims to be of another issuer than the one that was discovered connects nothing.
func TestMixUpIsRefused_Row64(t *testing.T) {
	d := discover(t, upstreamtest.Options{Registers: true})
	for name, iss := range map[string]string{"another": "https://evil.example", "none": ""} {
		b := d.NewBrowser()
		back, err := d.p.Authorize(t.Context(), d.begin(t, b).Header.Get("Location"), "ann")
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(back)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		if q.Set("iss", iss); iss == "" {
			q.Del("iss")
		}
		u.RawQuery = q.Encode()
		before := d.p.Count("code")
		if r := b.Get(t, u.String()); r.StatusCode != http.StatusBadRequest || d.p.Count("code") != before {
			t.Errorf("%s: %d %s", name, r.StatusCode, text(r))
		}
	}
}

// A registration ends with its secret, or when the server has forgotten it: the user is asked again,
// and another client is registered at the same issuer.
func TestRegistrationIsRenewed_Row63(t *testing.T) {
	for name, end := range map[string]func(d *discovered, version int64){
		"forgotten": func(d *discovered, version int64) {
			d.p.ForgetClients()
			d.token(t, version) // the refresh learns it
		},
		"another address of this server's": func(d *discovered, _ int64) {
			c := *d.list()[0]
			c.Resource = d.at.URL + "/mcp?v=2"
			d.at.names(c.Resource, d.p.Issuer())
			d.reload(&c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := discover(t, upstreamtest.Options{Registers: true})
			first := d.connects(t)
			_, version, err := d.token(t, 0)
			if err != nil {
				t.Fatal(err)
			}
			end(d, version)
			var missing *handlers.MissingConnection
			if _, _, err := d.token(t, 0); !errors.As(err, &missing) {
				t.Errorf("the user is not asked again: %v", err)
			}
			left := d.begin(t, d.NewBrowser())
			to, err := url.Parse(left.Header.Get("Location"))
			if err != nil || !strings.HasPrefix(to.String(), d.p.Issuer()) || to.Query().Get("client_id") == first.Get("client_id") {
				t.Errorf("sent to %s, the client was %s", to, first.Get("client_id"))
			}
		})
	}
}

func TestRegistrationEndsWithItsSecret_Row63(t *testing.T) {
	d := discover(t, upstreamtest.Options{Registers: true})
	d.p.Switch(func(s *upstreamtest.Switches) { s.SecretExpires = time.Now().Unix() + 3600 })
	first := d.connects(t)
	entry, err := d.vault.Get(t.Context(), "gateway:", "client:notes")
	if err != nil || entry.Registration == nil || entry.Registration.ClientID != first.Get("client_id") || entry.Registration.Secret == "" {
		t.Fatalf("the vault has %+v, %v", entry.Registration, err)
	}
	entry.Registration.Expires = time.Now().Unix() - 1
	if _, err := d.vault.Put(context.Background(), entry.Credential); err != nil {
		t.Fatal(err)
	}
	var refusal *oauth.Error
	if _, _, err := d.token(t, 0); !errors.As(err, &refusal) || refusal.Code != oauth.InteractionRequired {
		t.Errorf("the token with a secret that has expired: %v", err)
	}
	if again := d.connects(t); again.Get("client_id") == first.Get("client_id") || d.p.Count("registration") != 2 {
		t.Errorf("the client is %s, as before", again.Get("client_id"))
	}
}

// Ten users who connect at once make one client.
func TestUsersShareOneRegistration_Row63(t *testing.T) {
	d := discover(t, upstreamtest.Options{Registers: true})
	ids := make(chan string, 10)
	var all sync.WaitGroup
	for range cap(ids) {
		b := d.NewBrowser()
		page := d.linkTo(t, b, "alice", "server_id=notes-tools")
		all.Go(func() {
			left := b.Submit(t, page, set("decision", "connect"))
			to, err := url.Parse(left.Header.Get("Location"))
			if err != nil {
				t.Error(err)
				return
			}
			ids <- to.Query().Get("client_id")
		})
	}
	all.Wait()
	close(ids)
	first := <-ids
	for id := range ids {
		if id != first || id == "" {
			t.Errorf("clients %q and %q", first, id)
		}
	}
}

// A server of role auth never asks hosts that a server of the gateway names in a private network,
// also if the name only leads there.
func TestGuardedWayAsksNoPrivateHost_Row63(t *testing.T) {
	way := fetch.New(fetch.Options{})
	for _, to := range []string{"http://127.0.0.1:1/token", "https://localhost/token", "https://169.254.169.254/token", "https://auth.internal/token", "http://example.com/token", "https://example.com:8443/token"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, to, strings.NewReader("code=x"))
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := way.RoundTrip(r); err == nil || errors.Is(err, fetch.ErrDown) {
			t.Errorf("%s was asked: %v, %v", to, resp, err)
		}
	}
}
