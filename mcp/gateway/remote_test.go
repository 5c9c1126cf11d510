package gateway_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signet/handlers"
	"signet/internal/clients"
	"signet/internal/gatewayconfig"
	"signet/internal/oauth"
	"signet/internal/store"
	"signet/internal/test/authtest"
	"signet/internal/vault"
	"signet/jwt"
	"signet/mcp/gateway"
)

const backendURL = "https://backend.test/mcp"

// remote is an authorization server behind HTTP, and its client.
func remote(t *testing.T, s *authtest.Server, audiences ...string) *gateway.RemoteIssuer {
	t.Helper()
	c := s.Configure(t, clients.Spec{ID: "gw", Exchange: audiences})
	return remoteAt(t, s, c.ID, c.Secret)
}

func remoteAt(t *testing.T, h http.Handler, id, secret string) *gateway.RemoteIssuer {
	t.Helper()
	web := httptest.NewServer(h)
	t.Cleanup(web.Close)
	i, err := gateway.NewRemoteIssuer(web.URL, gateway.RemoteClient{ID: id, Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// callerOf is the caller with an access token of s.
func callerOf(t *testing.T, s *authtest.Server, access string) gateway.Caller {
	t.Helper()
	claims, err := s.Verifier.For(authtest.ResourceA).Verify(t.Context(), access)
	if err != nil {
		t.Fatal(err)
	}
	return gateway.Caller{Claims: claims, Token: access}
}

// The token of a server is the caller's, for that server only, and with no more scopes.
func TestServersGetATokenOfTheirOwn_Row54(t *testing.T) {
	s := authtest.New(t)
	strategies := strategiesOf(remote(t, s, backendURL), nil)
	tok := s.Tokens(t, "alice", s.PUB, func(f url.Values) { f.Set("scope", "mcp:read mcp:write") })
	caller := callerOf(t, s, tok.Access)
	server := &gatewayconfig.Server{ID: "mail", Strategy: "master_oauth", Audience: backendURL, Scopes: []string{"mcp:read"}}
	h, err := strategies.Headers(t.Context(), caller, server, false)
	if err != nil {
		t.Fatal(err)
	}
	token, ok := strings.CutPrefix(h.Get("Authorization"), "Bearer ")
	if !ok || len(h) != 1 || token == tok.Access {
		t.Fatalf("headers %v", h)
	}
	claims, err := s.Verifier.For(backendURL).Verify(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	if claims.Subject != "alice" || claims.ClientID != caller.Claims.ClientID || claims.GrantID != caller.Claims.GrantID || claims.Scope != "mcp:read" || claims.Actor == nil || claims.Actor.Subject != "gw" || claims.ExpiresAt > caller.Claims.ExpiresAt {
		t.Errorf("claims %+v", claims)
	}
	if _, err := s.Verifier.For("https://other.test/mcp").Verify(t.Context(), token); !errors.Is(err, jwt.ErrInvalid) {
		t.Errorf("another server: %v, want a refusal", err)
	}
	again, err := strategies.Headers(t.Context(), caller, server, false)
	if err != nil || again.Get("Authorization") != h.Get("Authorization") {
		t.Errorf("not kept: %v", err)
	}
	newer, err := strategies.Headers(t.Context(), caller, server, true)
	if err != nil || newer.Get("Authorization") == h.Get("Authorization") {
		t.Errorf("not renewed: %v", err)
	}
}

// What the issuer itself answers is told apart: an end of the login, and what is no verdict.
func TestTheIssuersRefusalsAreToldApart(t *testing.T) {
	s := authtest.New(t)
	i := remote(t, s, backendURL)
	tok := s.Tokens(t, "alice", s.PUB)
	caller := callerOf(t, s, tok.Access)
	if c, err := i.ForAudience(t.Context(), caller, backendURL, nil); err != nil || c.Token == "" || time.Until(c.Expires) <= 0 || c.Version != 0 {
		t.Fatalf("%v, %v", c.Expires, err)
	}
	for name, tt := range map[string]struct {
		issuer   *gateway.RemoteIssuer
		caller   gateway.Caller
		audience string
		scope    []string
		text     string
	}{
		"another audience":  {i, caller, "https://other.test", nil, "the issuer answered invalid_target: the client of this gateway may not exchange tokens for https://other.test"},
		"a wider scope":     {i, caller, backendURL, []string{"admin"}, "the issuer answered 400 Bad Request for " + backendURL},
		"a wrong secret":    {remoteAt(t, s, "gw", "wrong"), caller, backendURL, nil, "the issuer does not know the client of this gateway, or its secret or key is wrong"},
		"another client":    {remoteAt(t, s, s.CONF.ID, s.CONF.Secret), caller, backendURL, nil, "the issuer answered unauthorized_client: the client of this gateway may not exchange tokens for " + backendURL},
		"no such client":    {remoteAt(t, authtest.New(t), "gw", "secret"), caller, backendURL, nil, "the issuer exchanges no tokens, because none of its clients may: make the client of this gateway there"},
		"a malformed scope": {i, caller, backendURL, []string{"a\"b"}, "the issuer answered 400 Bad Request for " + backendURL},
		"no caller":         {i, gateway.Caller{}, backendURL, nil, "the issuer is asked on behalf of callers only"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := tt.issuer.ForAudience(t.Context(), tt.caller, tt.audience, tt.scope)
			if err == nil || err.Error() != tt.text || errors.Is(err, gateway.ErrEnded) || c.Token != "" {
				t.Errorf("%v, want %s", err, tt.text)
			}
		})
	}
	s.Revoke(t, s.PUB, tok.Refresh)
	if _, err := i.ForAudience(t.Context(), caller, backendURL, nil); !errors.Is(err, gateway.ErrEnded) {
		t.Errorf("a revoked grant: %v, want the end of the login", err)
	}
	caller.Token += "x"
	if _, err := i.ForAudience(t.Context(), caller, backendURL, nil); !errors.Is(err, gateway.ErrEnded) {
		t.Errorf("a damaged token: %v, want the end of the login", err)
	}
	caller = callerOf(t, s, s.Tokens(t, "bob", s.PUB).Access)
	s.StopStore(t)
	if _, err := i.ForAudience(t.Context(), caller, backendURL, nil); err == nil || errors.Is(err, gateway.ErrEnded) {
		t.Errorf("a store that is down: %v, want no verdict", err)
	}
}

// The issuer says what a user has not connected, to clients that may ask for it.
func TestTheIssuerSaysWhatIsMissing_Row55(t *testing.T) {
	s := authtest.New(t, func(cfg *authtest.Config) {
		cfg.Change = func(o *handlers.Options) {
			o.Vault = vault.New(vault.Options{Store: o.Store.(*store.Store), Ring: o.Ring, Log: o.Log})
			o.Elsewhere = http.DefaultTransport // which nothing uses
			o.Connections = func() []*gatewayconfig.Connection {
				return []*gatewayconfig.Connection{{ID: "docs", Name: "Docs", Key: true}}
			}
		}
	})
	caller := callerOf(t, s, s.Tokens(t, "alice", s.PUB).Access)
	i := remote(t, s, "gateway")
	var m *gateway.Missing
	for _, stale := range []int64{0, 1} {
		if c, err := i.OfConnection(t.Context(), caller, "docs", stale); !errors.As(err, &m) || *m != (gateway.Missing{Connection: "docs"}) || c.Token != "" {
			t.Errorf("stale %d: %v", stale, err)
		}
	}
	if _, err := i.OfConnection(t.Context(), caller, "other", 0); err == nil || errors.As(err, &m) || errors.Is(err, gateway.ErrEnded) {
		t.Errorf("an unknown connection: %v, want no verdict", err)
	}
	if _, err := remoteAt(t, s, s.CONF.ID, s.CONF.Secret).OfConnection(t.Context(), caller, "docs", 0); err == nil || errors.As(err, &m) || errors.Is(err, gateway.ErrEnded) {
		t.Errorf("another client: %v, want no verdict", err)
	}
}

// tokenEndpoint answers as the token endpoint of an issuer, and keeps the requests.
type tokenEndpoint struct {
	mu     sync.Mutex
	forms  []url.Values
	status int
	header http.Header
	body   string
}

func (e *tokenEndpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id, secret, _ := r.BasicAuth()
	if r.URL.Path != "/token" || r.Method != http.MethodPost || r.ParseForm() != nil || len(r.URL.RawQuery) > 0 {
		http.Error(w, "not a token request", http.StatusTeapot)
		return
	}
	e.forms = append(e.forms, r.PostForm)
	r.PostForm.Set("basic", id+" "+secret)
	w.Header().Set("Content-Type", "application/json")
	for name, values := range e.header {
		w.Header()[name] = values
	}
	w.WriteHeader(e.status)
	fmt.Fprint(w, e.body)
}

const upstreamAnswer = `{"access_token":"provider-token","token_type":"Bearer","issued_token_type":"urn:signet:token-type:upstream","expires_in":600,"scope":"repo","version":7}`

// Requests for a provider's token have exactly the parameters that the issuer knows.
func TestProvidersTokensAreAskedFor(t *testing.T) {
	e := &tokenEndpoint{status: 200, body: upstreamAnswer}
	i := remoteAt(t, e, "g w", "s:c%t")
	user := alice(func(c *jwt.Claims) { c.Subject = "upstream:corp:7" })
	for _, ask := range []func() (gateway.Credential, error){
		func() (gateway.Credential, error) { return i.OfConnection(t.Context(), alice(), "github", 0) },
		func() (gateway.Credential, error) { return i.OfConnection(t.Context(), alice(), "github", 6) },
		func() (gateway.Credential, error) { return i.OfUpstream(t.Context(), user, 0) },
		func() (gateway.Credential, error) { return i.OfUpstream(t.Context(), user, 6) },
	} {
		before := time.Now()
		c, err := ask()
		if err != nil || c.Token != "provider-token" || c.Version != 7 || c.Expires.Before(before.Add(599*time.Second)) || c.Expires.After(time.Now().Add(600*time.Second)) {
			t.Errorf("%q, version %d, %v, %v", c.Token, c.Version, c.Expires, err)
		}
	}
	form := func(edits ...string) url.Values {
		f := url.Values{"basic": {"g+w s%3Ac%25t"}, "grant_type": {oauth.GrantTokenExchange}, "subject_token": {callersToken}, "subject_token_type": {oauth.TokenTypeAccess}, "requested_token_type": {oauth.TokenTypeUpstream}}
		for n := 0; n < len(edits); n += 2 {
			f.Set(edits[n], edits[n+1])
		}
		return f
	}
	want := []url.Values{form("audience", "connection:github"), form("audience", "connection:github", "stale", "6"), form("audience", "upstream:corp"), form("audience", "upstream:corp", "stale", "6")}
	if diff := cmp.Diff(want, e.forms); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if _, err := i.OfUpstream(t.Context(), alice(), 0); err == nil || len(e.forms) != 4 {
		t.Errorf("a user without an upstream: %v, %d requests", err, len(e.forms))
	}
}

// One thing is changed in a good answer each.
func TestTheIssuersAnswersAreReadStrictly(t *testing.T) {
	edit := func(old, replacement string) string { return strings.Replace(upstreamAnswer, old, replacement, 1) }
	const ended, missing, declined, verdict = "ended", "missing", "declined", "no verdict"
	for name, tt := range map[string]struct {
		status int
		header http.Header
		body   string
		want   string
	}{
		"a good answer":                 {200, nil, upstreamAnswer, "provider-token"},
		"no end":                        {200, nil, edit(`"expires_in":600,`, ""), "provider-token"},
		"a very late end":               {200, nil, edit(`600`, "9000000000000000000"), "provider-token"},
		"unknown members":               {200, nil, edit(`{`, `{"x":{"y":[1]},`), "provider-token"},
		"charset":                       {200, http.Header{"Content-Type": {"application/json; charset=utf-8"}}, upstreamAnswer, "provider-token"},
		"no token":                      {200, nil, edit("provider-token", ""), verdict},
		"another type":                  {200, nil, edit("Bearer", "DPoP"), verdict},
		"no type":                       {200, nil, edit(`"token_type":"Bearer",`, ""), verdict},
		"another issued type":           {200, nil, edit("urn:signet:token-type:upstream", oauth.TokenTypeAccess), verdict},
		"expired":                       {200, nil, edit("600", "0"), verdict},
		"a fraction of a second":        {200, nil, edit("600", "1.5"), verdict},
		"a token twice":                 {200, nil, edit("{", `{"access_token":"x",`), verdict},
		"a token in another case":       {200, nil, edit("{", `{"Access_Token":"x",`), verdict},
		"two objects":                   {200, nil, upstreamAnswer + "{}", verdict},
		"an array":                      {200, nil, "[" + upstreamAnswer + "]", verdict},
		"nothing":                       {200, nil, "", verdict},
		"HTML":                          {200, http.Header{"Content-Type": {"text/html"}}, upstreamAnswer, verdict},
		"a long answer":                 {200, nil, edit("{", "{"+strings.Repeat(" ", 300<<10)), verdict},
		"another status":                {201, nil, upstreamAnswer, verdict},
		"a redirect":                    {307, http.Header{"Location": {"/token"}}, upstreamAnswer, verdict},
		"not connected":                 {400, nil, `{"error":"interaction_required","connection":"other","declined":false}`, missing},
		"not connected, and said later": {400, nil, `{"error":"interaction_required","connection":"github","declined":true}`, declined},
		"not connected, with 403":       {403, nil, `{"error":"interaction_required"}`, verdict},
		"ended":                         {400, nil, `{"error":"invalid_grant"}`, ended},
		"ended, with 500":               {500, nil, `{"error":"invalid_grant"}`, verdict},
		"the caller's token is dead":    {400, nil, `{"error":"invalid_request","error_description":"` + oauth.NoSubject + `"}`, ended},
		"a malformed request":           {400, nil, `{"error":"invalid_request","error_description":"stale is not a number"}`, verdict},
		"too many":                      {429, nil, `{"error":"invalid_request","error_description":"` + oauth.NoSubject + `"}`, verdict},
		"the provider is down":          {503, nil, `{"error":"temporarily_unavailable"}`, verdict},
		"a failure":                     {500, nil, `{"error":"server_error"}`, verdict},
		"a proxy's page":                {502, http.Header{"Content-Type": {"text/html"}}, "<html>", verdict},
		"a dead token, not JSON":        {400, http.Header{"Content-Type": {"text/plain"}}, `{"error":"invalid_grant"}`, verdict},
	} {
		t.Run(name, func(t *testing.T) {
			e := &tokenEndpoint{status: tt.status, header: tt.header, body: tt.body}
			c, err := remoteAt(t, e, "gw", "top-secret").OfConnection(t.Context(), alice(), "github", 0)
			got := verdict
			var m *gateway.Missing
			switch {
			case err == nil:
				got = c.Token
			case errors.Is(err, gateway.ErrEnded):
				got = ended
			case errors.As(err, &m) && m.Connection == "github":
				got = map[bool]string{true: declined, false: missing}[m.Declined]
			}
			if err == nil && !c.Expires.IsZero() && time.Until(c.Expires) < time.Minute {
				t.Errorf("it ends at %v", c.Expires)
			}
			if got != tt.want || err != nil && c.Token != "" {
				t.Errorf("%s (%v), want %s", got, err, tt.want)
			}
			if text := fmt.Sprint(err); strings.Contains(text, "top-secret") || strings.Contains(text, callersToken) || strings.Contains(text, "provider-token") {
				t.Errorf("a secret is in the error %s", text)
			}
			if want := map[int]int{502: 2}[tt.status]; want != 0 && len(e.forms) != want || want == 0 && len(e.forms) != 1 {
				t.Errorf("%d requests", len(e.forms))
			}
		})
	}
}

// A connection that breaks is tried once more, at the same place only.
func TestABrokenConnectionIsTriedAgain(t *testing.T) {
	var requests int
	i := remoteAt(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests++; requests == 1 {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, upstreamAnswer)
	}), "gw", "secret")
	if c, err := i.OfConnection(t.Context(), alice(), "github", 0); err != nil || c.Token != "provider-token" || requests != 2 {
		t.Errorf("%v after %d requests", err, requests)
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	dead, err := gateway.NewRemoteIssuer(gone.URL, gateway.RemoteClient{ID: "gw", Secret: "top-secret"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dead.OfConnection(t.Context(), alice(), "github", 0); err == nil || errors.Is(err, gateway.ErrEnded) || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := i.OfConnection(ctx, alice(), "github", 0); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// The client's secret goes to https or to this machine, or nowhere.
func TestNewRemoteIssuerRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		issuer, id, secret string
		ok                 bool
	}{
		"https":              {"https://auth.test/x", "gw", "s", true},
		"loopback":           {"http://127.0.0.1:8080", "gw", "s", true},
		"http":               {"http://auth.test", "gw", "s", false},
		"a name of loopback": {"http://127.0.0.1.evil.test", "gw", "s", false},
		"another scheme":     {"ftp://127.0.0.1", "gw", "s", false},
		"a query":            {"https://auth.test/?x", "gw", "s", false},
		"a password":         {"https://u:p@auth.test/", "gw", "s", false},
		"no host":            {"https:///x", "gw", "s", false},
		"nothing":            {"", "gw", "s", false},
		"no id":              {"https://auth.test", "", "s", false},
		"no secret":          {"https://auth.test", "gw", "", false},
	} {
		if i, err := gateway.NewRemoteIssuer(tt.issuer, gateway.RemoteClient{ID: tt.id, Secret: tt.secret}); (err == nil) != tt.ok || (i != nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if i, err := gateway.NewRemoteIssuer("https://auth.test", gateway.RemoteClient{ID: "gw", Key: key}); err != nil || i == nil {
		t.Errorf("a key: %v", err)
	}
	if _, err := gateway.NewRemoteIssuer("https://auth.test", gateway.RemoteClient{ID: "gw", Secret: "s", Key: key}); err == nil {
		t.Error("a secret and a key are accepted")
	}
}
