package upstream_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"signet/internal/test/upstreamtest"
	"signet/internal/upstream"
)

// tokenEndpoint is an authorization server that a test answers for.
type tokenEndpoint struct {
	*httptest.Server

	mu     sync.Mutex
	answer func(w http.ResponseWriter, r *http.Request)
	asked  []url.Values
}

func newTokenEndpoint(t *testing.T, answer func(w http.ResponseWriter, r *http.Request)) *tokenEndpoint {
	t.Helper()
	e := &tokenEndpoint{answer: answer}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if r.Method == http.MethodPost && r.ParseForm() == nil {
			e.asked = append(e.asked, r.PostForm)
		}
		e.answer(w, r)
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *tokenEndpoint) options(change ...func(*upstream.ClientOptions)) upstream.ClientOptions {
	o := upstream.ClientOptions{ID: "github", AuthorizationEndpoint: e.URL + "/authorize", TokenEndpoint: e.URL + "/token", ClientID: "id", ClientSecret: "the-client-secret", Scopes: []string{"repo"}}
	for _, f := range change {
		f(&o)
	}
	return o
}

func newClient(t *testing.T, o upstream.ClientOptions) *upstream.Client {
	t.Helper()
	c, err := upstream.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func says(contentType, body string, status ...int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		for _, s := range status {
			w.WriteHeader(s)
		}
		fmt.Fprint(w, body)
	}
}

const (
	jsonType = "application/json"
	formType = "application/x-www-form-urlencoded; charset=utf-8"
)

// Answers of token endpoints as providers give them. A life that is not said is not known.
func TestClientReadsAnswersOfProviders_Row68(t *testing.T) {
	for name, tt := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request)
		want   upstream.Tokens
	}{
		"JSON":               {says(jsonType, `{"access_token":"a","refresh_token":"r","expires_in":3600,"token_type":"Bearer","scope":"x y"}`), upstream.Tokens{Access: "a", Refresh: "r", Scope: []string{"x", "y"}, Expires: 3600}},
		"GitHub's form":      {says(formType, "access_token=a&scope=repo%2Cuser&token_type=bearer"), upstream.Tokens{Access: "a", Scope: []string{"repo", "user"}}},
		"comma scopes":       {says(jsonType, `{"access_token":"a","scope":"repo,user"}`), upstream.Tokens{Access: "a", Scope: []string{"repo", "user"}}},
		"no scope":           {says(jsonType, `{"access_token":"a"}`), upstream.Tokens{Access: "a", Scope: []string{"repo"}}},
		"life as a string":   {says(jsonType, `{"access_token":"a","expires_in":"60"}`), upstream.Tokens{Access: "a", Scope: []string{"repo"}, Expires: 60}},
		"status 201":         {says(jsonType, `{"access_token":"a"}`, 201), upstream.Tokens{Access: "a", Scope: []string{"repo"}}},
		"an empty error too": {says(jsonType, `{"access_token":"a","error":""}`), upstream.Tokens{Access: "a", Scope: []string{"repo"}}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, newTokenEndpoint(t, tt.answer).options())
			got, err := c.Redeem(t.Context(), upstream.Callback{Code: "code", Verifier: verifier, RedirectURI: callbackURL}, []string{"repo"})
			if err != nil {
				t.Fatal(err)
			}
			if tt.want.Expires != 0 {
				tt.want.Expires += got.Obtained
			}
			tt.want.Obtained = got.Obtained
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A refusal of the grant is a verdict, and nothing else is. No error repeats a secret.
func TestClientTellsARefusalFromNoVerdict_Row58(t *testing.T) {
	for name, tt := range map[string]struct {
		answer  func(http.ResponseWriter, *http.Request)
		refused bool
	}{
		"invalid_grant":          {says(jsonType, `{"error":"invalid_grant","error_description":"old-refresh is the-client-secret"}`, 400), true},
		"GitHub's refusal":       {says(formType, "error=bad_refresh_token", 200), true},
		"invalid_client":         {says(jsonType, `{"error":"invalid_client"}`, 401), false},
		"401 without JSON":       {says("text/html", "<h1>no</h1>", 401), false},
		"invalid_request":        {says(jsonType, `{"error":"invalid_request"}`, 400), false},
		"a refusal with 503":     {says(jsonType, `{"error":"invalid_grant"}`, 503), false},
		"HTML":                   {says("text/html", "<h1>maintenance</h1>", 200), false},
		"no token":               {says(jsonType, `{}`), false},
		"a token with a newline": {says(jsonType, `{"access_token":"a\nb"}`), false},
		"another type":           {says(jsonType, `{"access_token":"a","token_type":"mac"}`), false},
		"the member twice":       {says(jsonType, `{"access_token":"a","access_token":"b"}`), false},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, false},
		"nothing": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, newTokenEndpoint(t, tt.answer).options())
			got, err := c.Refresh(t.Context(), upstream.Tokens{Access: "a", Refresh: "old-refresh"})
			if err == nil || errors.Is(err, upstream.ErrRefused) != tt.refused {
				t.Fatalf("%v, %v", got, err)
			}
			if strings.Contains(err.Error(), "old-refresh") || strings.Contains(err.Error(), "the-client-secret") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

// An answer without a refresh token leaves the one there is.
func TestClientKeepsTheRefreshToken_Row58_Probe25(t *testing.T) {
	c := newClient(t, newTokenEndpoint(t, says(jsonType, `{"access_token":"new"}`)).options())
	got, err := c.Refresh(t.Context(), upstream.Tokens{Access: "a", Refresh: "old-refresh", Scope: []string{"x"}})
	if err != nil || got.Access != "new" || got.Refresh != "old-refresh" || !slices.Equal(got.Scope, []string{"x"}) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := c.Refresh(t.Context(), upstream.Tokens{Access: "a"}); !errors.Is(err, upstream.ErrNoRefresh) {
		t.Errorf("without a refresh token: %v", err)
	}
}

// The strict provider accepts the client, with its secret where the provider wants it.
func TestClientConnectsAtAStrictProvider_Row56_Row68(t *testing.T) {
	for name, manner := range map[string]upstreamtest.Manner{"GitHub": {GitHub: true}, "post": {PostOnly: true}, "header": {HeaderOnly: true}, "issuer": {SendsIssuer: true}} {
		t.Run(name, func(t *testing.T) {
			fake := upstreamtest.New(t, upstreamtest.Options{RedirectURIs: []string{callbackURL}, Manner: manner})
			o := upstream.ClientOptions{ID: "corp", Issuer: fake.Issuer(), ClientID: fake.ClientID(), ClientSecret: fake.ClientSecret(), Scopes: []string{"openid", "offline_access"}}
			if manner.GitHub {
				o.Issuer, o.AuthorizationEndpoint, o.TokenEndpoint = "", fake.URL()+"/login/oauth/authorize", fake.URL()+"/login/oauth/access_token"
			}
			c := newClient(t, o)
			at, err := c.AuthorizeURL(t.Context(), upstream.AuthRequest{RedirectURI: callbackURL, State: "the-state", Verifier: verifier}, o.Scopes)
			if err != nil {
				t.Fatal(err)
			}
			back, err := fake.Authorize(t.Context(), at, "ann")
			if err != nil {
				t.Fatal(err)
			}
			u, err := url.Parse(back)
			if err != nil || u.Query().Get("state") != "the-state" {
				t.Fatal(u, err)
			}
			if err := c.CheckIssuer(t.Context(), u.Query().Get("iss")); err != nil {
				t.Error(err)
			}
			if err := c.CheckIssuer(t.Context(), "https://evil.example"); !errors.Is(err, upstream.ErrIssuer) {
				t.Errorf("another issuer: %v", err)
			}
			cb := upstream.Callback{Code: u.Query().Get("code"), Verifier: verifier, RedirectURI: callbackURL}
			tokens, err := c.Redeem(t.Context(), cb, o.Scopes)
			if err != nil || fake.Owner(tokens.Access) != "ann" {
				t.Fatalf("%v", err)
			}
			if _, err := c.Redeem(t.Context(), cb, o.Scopes); !errors.Is(err, upstream.ErrRefused) {
				t.Errorf("the code again: %v", err)
			}
		})
	}
}

// The client proves itself by its key, in a way that a library takes.
func TestClientSignsAssertions_Row60(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]interface{ Public() any }{"ES256": wrap{ec, &ec.PublicKey}, "RS256": wrap{rs, &rs.PublicKey}} {
		t.Run(name, func(t *testing.T) {
			der, err := x509.MarshalPKCS8PrivateKey(key.(wrap).private)
			if err != nil {
				t.Fatal(err)
			}
			e := newTokenEndpoint(t, says(jsonType, `{"access_token":"a"}`))
			c := newClient(t, e.options(func(o *upstream.ClientOptions) {
				o.ClientSecret, o.ClientKey, o.Audience = "", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), "https://api.test"
			}))
			if _, err := c.ForItself(t.Context()); err != nil {
				t.Fatal(err)
			}
			form := e.asked[0]
			if form.Get("client_secret") != "" || form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" || form.Get("audience") != "https://api.test" || form.Get("scope") != "repo" {
				t.Errorf("form %v", form)
			}
			jws, err := jose.ParseSignedCompact(form.Get("client_assertion"), []jose.SignatureAlgorithm{jose.SignatureAlgorithm(name)})
			if err != nil {
				t.Fatal(err)
			}
			payload, err := jws.Verify(key.Public())
			if err != nil {
				t.Fatal(err)
			}
			var claims struct {
				Iss, Sub, Aud, Jti string
				Exp, Iat           int64
			}
			if err := json.Unmarshal(payload, &claims); err != nil || claims.Iss != "id" || claims.Sub != "id" || claims.Aud != e.URL+"/token" || claims.Jti == "" || claims.Exp <= claims.Iat {
				t.Errorf("claims %+v, %v", claims, err)
			}
		})
	}
}

type wrap struct{ private, public any }

func (w wrap) Public() any { return w.public }

// One thing wrong with good options each.
func TestClientIsRefused(t *testing.T) {
	e := newTokenEndpoint(t, says(jsonType, `{"access_token":"a"}`))
	newClient(t, e.options())
	for name, change := range map[string]func(*upstream.ClientOptions){
		"no client id":         func(o *upstream.ClientOptions) { o.ClientID = "" },
		"no endpoint":          func(o *upstream.ClientOptions) { o.TokenEndpoint = "" },
		"http":                 func(o *upstream.ClientOptions) { o.TokenEndpoint = "http://provider.example/token" },
		"user information":     func(o *upstream.ClientOptions) { o.AuthorizationEndpoint = "https://user@provider.example/" },
		"an issuer without //": func(o *upstream.ClientOptions) { o.Issuer = "provider" },
		"a fragment":           func(o *upstream.ClientOptions) { o.RevocationEndpoint = "https://provider.example/#x" },
		"a key that is none":   func(o *upstream.ClientOptions) { o.ClientKey = "key" },
	} {
		t.Run(name, func(t *testing.T) {
			if c, err := upstream.NewClient(e.options(change)); err == nil {
				t.Errorf("got %v", c)
			}
		})
	}
}

// Metadata is found where RFC 8414 puts it, or else where OpenID Connect does, and counts only for
// its own issuer.
func TestClientDiscoversItsServer_Row68(t *testing.T) {
	for name, tt := range map[string]struct {
		path, issuer string
		good         bool
	}{
		"RFC 8414":       {"/.well-known/oauth-authorization-server/x", "/x", true},
		"OpenID Connect": {"/x/.well-known/openid-configuration", "/x", true},
		"before a path":  {"/.well-known/openid-configuration/x", "/x", true},
		"another issuer": {"/.well-known/oauth-authorization-server/x", "/y", false},
		"nowhere":        {"/metadata", "/x", false},
	} {
		t.Run(name, func(t *testing.T) {
			e := newTokenEndpoint(t, nil)
			e.answer = func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case tt.path:
					says(jsonType, fmt.Sprintf(`{"issuer":%q,"authorization_endpoint":"%s/a","token_endpoint":"%s/t"}`, e.URL+tt.issuer, e.URL, e.URL))(w, r)
				case "/t":
					says(jsonType, `{"access_token":"a"}`)(w, r)
				default:
					http.NotFound(w, r)
				}
			}
			c := newClient(t, upstream.ClientOptions{ID: "corp", Issuer: e.URL + "/x", ClientID: "id", ClientSecret: "s"})
			_, err := c.ForItself(context.WithoutCancel(t.Context()))
			if (err == nil) != tt.good {
				t.Errorf("error %v", err)
			}
			if tt.good {
				if audience, err := c.Audience(t.Context()); err != nil || audience != e.URL+"/x" {
					t.Errorf("audience %q, %v", audience, err)
				}
			}
		})
	}
}
