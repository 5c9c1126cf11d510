package authtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"signet/internal/seal"
	"signet/internal/test/person"
)

// Verifier is the code verifier of every flow unless a test sets another.
const Verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"

// Challenge returns the S256 challenge of a verifier.
func Challenge(verifier string) string {
	h := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// Response is an answer whose body was read.
type Response struct{ *person.Page }

// JSON returns the body as a JSON object.
func (r *Response) JSON(t testing.TB) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(r.Body), &v); err != nil {
		t.Fatalf("%d: body is not a JSON object: %v: %q", r.StatusCode, err, r.Body)
	}
	return v
}

// Error returns the OAuth error code of a JSON answer, or "".
func (r *Response) Error() string {
	var v struct {
		Error string `json:"error"`
	}
	if json.Unmarshal([]byte(r.Body), &v) != nil {
		return ""
	}
	return v.Error
}

// Sent returns the parameters of the redirect that leaves the server, or none.
func (r *Response) Sent() url.Values {
	u, err := url.Parse(r.Header.Get("Location"))
	if err != nil {
		return nil
	}
	return u.Query()
}

// Do sends a request and checks rules for every answer: no failure except 503, no
// redirect that repeats the body, no-store unless the answer is public, JSON or HTML
// with their headers, and no secret in the log.
func (s *Server) Do(t testing.TB, r *http.Request) *Response {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	res := &Response{&person.Page{Response: w.Result(), Body: string(body), At: r.URL}}
	fail := func(what string) {
		t.Helper()
		t.Errorf("%s %s: %d: %s", r.Method, r.URL.Path, res.StatusCode, what)
	}
	h := res.Header
	switch {
	case res.StatusCode >= 500 && res.StatusCode != http.StatusServiceUnavailable:
		fail("a server error: " + res.Body)
	case res.StatusCode == http.StatusServiceUnavailable && h.Get("Retry-After") == "" && r.URL.Path != "/readyz":
		fail("no Retry-After")
	case res.StatusCode == 302 && r.Method == http.MethodGet && strings.HasPrefix(h.Get("Location"), "/oauth/error?"): // in answer to a link
	case res.StatusCode == 307 || res.StatusCode == 308 || res.StatusCode == 301 || res.StatusCode == 302:
		fail("a redirect other than 303")
	}
	if cache := h.Get("Cache-Control"); cache != "no-store" && !strings.HasPrefix(cache, "public, max-age=") {
		fail("Cache-Control: " + cache)
	}
	policy := h.Get("Referrer-Policy")
	if h.Get("X-Content-Type-Options") != "nosniff" || policy != "no-referrer" && policy != "same-origin" {
		fail("nosniff or a Referrer-Policy is missing")
	}
	if strings.HasPrefix(h.Get("Content-Type"), "text/html") {
		if policy != "same-origin" {
			fail("forms of this page hide their origin: " + policy)
		}
		csp := h.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") || strings.Contains(csp, "form-action") || h.Get("X-Frame-Options") != "DENY" {
			fail("page headers: " + csp)
		}
	} else if len(body) > 0 && r.URL.Path != "/assets/logo" && h.Get("Content-Type") != "application/revoked+jwt" && (h.Get("Content-Type") != "application/json" || !json.Valid(body)) {
		fail("neither page nor JSON: " + h.Get("Content-Type"))
	}
	s.remember(res)
	return res
}

// remember forbids the log to contain the secrets of an answer.
func (s *Server) remember(r *Response) {
	s.Log.Forbid(r.Sent().Get("code"))
	var v map[string]any
	if json.Unmarshal([]byte(r.Body), &v) != nil {
		return
	}
	for _, name := range []string{"access_token", "refresh_token", "id_token", "client_secret"} {
		if secret, ok := v[name].(string); ok {
			s.Log.Forbid(secret)
		}
	}
}

// Get requests a path of the issuer, without cookies.
func (s *Server) Get(t testing.TB, path string) *Response {
	t.Helper()
	return s.Do(t, httptest.NewRequestWithContext(context.Background(), "GET", s.Config.Issuer+path, nil))
}

// Post posts a body.
func (s *Server) Post(t testing.TB, path, contentType, body string) *Response {
	t.Helper()
	r := httptest.NewRequestWithContext(context.Background(), "POST", s.Config.Issuer+path, strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	return s.Do(t, r)
}

// PostForm posts a form as client c, with its authentication method. A client without
// id posts the form unchanged.
func (s *Server) PostForm(t testing.TB, path string, c Client, form url.Values) *Response {
	t.Helper()
	form = maps.Clone(form)
	if c.ID != "" && c.Secret == "" && !form.Has("client_id") {
		form.Set("client_id", c.ID)
	}
	r := httptest.NewRequestWithContext(context.Background(), "POST", s.Config.Issuer+path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if c.Secret != "" {
		r.SetBasicAuth(c.ID, c.Secret)
	}
	return s.Do(t, r)
}

// Edit changes the parameters of a good request.
type Edit func(url.Values)

// Set sets parameters, given as name, value, name, value.
func Set(pairs ...string) Edit {
	return func(v url.Values) {
		for i := 0; i < len(pairs); i += 2 {
			v.Set(pairs[i], pairs[i+1])
		}
	}
}

// Add adds one more value to a parameter.
func Add(name, value string) Edit { return func(v url.Values) { v.Add(name, value) } }

// Del removes a parameter.
func Del(name string) Edit { return func(v url.Values) { v.Del(name) } }

// AuthorizeURL is a good authorization request of client c, edited.
func (s *Server) AuthorizeURL(c Client, edits ...Edit) string {
	q := url.Values{
		"response_type": {"code"}, "client_id": {c.ID}, "redirect_uri": {c.RedirectURI}, "scope": {s.Config.DefaultScopes[0]}, "state": {"S"},
		"code_challenge": {Challenge(Verifier)}, "code_challenge_method": {"S256"}, "resource": {s.Config.Resources[0]},
	}
	for _, e := range edits {
		e(q)
	}
	return s.Config.Issuer + "/authorize?" + q.Encode()
}

// CodeForm is a good token request for a code, edited.
func (s *Server) CodeForm(c Client, code string, edits ...Edit) url.Values {
	return edited(url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {c.RedirectURI}, "code_verifier": {Verifier}}, edits)
}

// RefreshForm is a good refresh request, edited.
func RefreshForm(handle string, edits ...Edit) url.Values {
	return edited(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {handle}}, edits)
}

func edited(v url.Values, edits []Edit) url.Values {
	for _, e := range edits {
		e(v)
	}
	return v
}

// Code runs a flow with a new browser up to the code. The edits apply to the
// authorization request.
func (s *Server) Code(t testing.TB, user string, c Client, edits ...Edit) string {
	t.Helper()
	return s.NewBrowser().Code(t, user, c, edits...)
}

// Redeem exchanges a code.
func (s *Server) Redeem(t testing.TB, c Client, code string, edits ...Edit) *Response {
	t.Helper()
	return s.PostForm(t, "/token", c, s.CodeForm(c, code, edits...))
}

// Refresh uses a refresh handle.
func (s *Server) Refresh(t testing.TB, c Client, handle string, edits ...Edit) *Response {
	t.Helper()
	return s.PostForm(t, "/token", c, RefreshForm(handle, edits...))
}

// Tokens are a token response.
type Tokens struct {
	Access    string `json:"access_token"`
	Type      string `json:"token_type"`
	ExpiresIn int64  `json:"expires_in"`
	Refresh   string `json:"refresh_token"`
	Scope     string `json:"scope"`
}

// Tokens runs a whole flow with a new browser.
func (s *Server) Tokens(t testing.TB, user string, c Client, edits ...Edit) Tokens {
	t.Helper()
	code := s.Code(t, user, c, edits...)
	return s.Redeem(t, c, code).Tokens(t)
}

// Tokens returns the tokens of a successful token response.
func (r *Response) Tokens(t testing.TB) Tokens {
	t.Helper()
	var v Tokens
	if err := json.Unmarshal([]byte(r.Body), &v); err != nil || r.StatusCode != http.StatusOK || v.Access == "" {
		t.Fatalf("no tokens: %d %s", r.StatusCode, r.Body)
	}
	return v
}

// Introspect introspects a token, as client c.
func (s *Server) Introspect(t testing.TB, c Client, token string) *Response {
	t.Helper()
	return s.PostForm(t, "/introspect", c, url.Values{"token": {token}})
}

// Revoke revokes a token, as client c.
func (s *Server) Revoke(t testing.TB, c Client, token string) *Response {
	t.Helper()
	return s.PostForm(t, "/revoke", c, url.Values{"token": {token}})
}

// Browser is a user's browser, whose requests do not leave the process. It follows no
// redirect to another origin: its methods return that redirect.
type Browser struct {
	*person.Person
	s *Server
}

// NewBrowser returns a browser without cookies.
func (s *Server) NewBrowser() *Browser {
	b := &Browser{Person: person.Over(nil, "", ""), s: s}
	b.Header = http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {"null"}}
	return b
}

// way is a transport that passes a browser's requests to the server.
type way struct {
	t testing.TB
	s *Server
}

func (w way) RoundTrip(r *http.Request) (*http.Response, error) {
	w.t.Helper()
	var body io.Reader
	if r.Body != nil {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	there := httptest.NewRequestWithContext(context.Background(), r.Method, r.URL.String(), body)
	there.Header = r.Header
	page := w.s.Do(w.t, there)
	for _, c := range page.Cookies() {
		w.s.Log.Forbid(c.Value)
	}
	answer := *page.Response
	answer.Body = io.NopCloser(strings.NewReader(page.Body))
	return &answer, nil
}

// do runs an action of the user in the name of the test t.
func (b *Browser) do(t testing.TB, what func() (*person.Page, error)) *Response {
	t.Helper()
	b.Way = way{t, b.s}
	page, err := what()
	if err != nil {
		t.Fatal(err)
	}
	return &Response{page}
}

// Get opens a URL of the issuer and follows redirects on it.
func (b *Browser) Get(t testing.TB, target string) *Response {
	t.Helper()
	return b.do(t, func() (*person.Page, error) { return b.Open(b.absolute(t, target)) })
}

// Post sends a form as a page of the server would.
func (b *Browser) Post(t testing.TB, target string, form url.Values) *Response {
	t.Helper()
	return b.do(t, func() (*person.Page, error) { return b.Person.Post(b.absolute(t, target), form) })
}

func (b *Browser) absolute(t testing.TB, target string) string {
	t.Helper()
	base, err := url.Parse(b.s.Config.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	u, err := base.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	return u.String()
}

// Form returns the action of the form on a page, and its hidden fields.
func (r *Response) Form(t testing.TB) (action string, fields url.Values) {
	t.Helper()
	action, fields = r.Page.Form()
	if action == "" {
		t.Fatalf("no form: %s", r)
	}
	return action, fields
}

// Submit fills in the form on a page and sends it.
func (b *Browser) Submit(t testing.TB, page *Response, edits ...Edit) *Response {
	t.Helper()
	action, fields := page.Form(t)
	return b.Post(t, action, edited(fields, edits))
}

// SignIn begins an authorization and signs in if asked to. It returns the next page:
// the consent page, or the redirect to the client.
func (b *Browser) SignIn(t testing.TB, user string, c Client, edits ...Edit) *Response {
	t.Helper()
	b.Name, b.Password = user, "correct horse "+user
	b.s.Log.Forbid(b.Password)
	page := b.Get(t, b.s.AuthorizeURL(c, edits...))
	return b.do(t, func() (*person.Page, error) { return b.Person.SignIn(page.Page) })
}

// Code runs a flow and returns the code.
func (b *Browser) Code(t testing.TB, user string, c Client, edits ...Edit) string {
	t.Helper()
	consent := b.SignIn(t, user, c, edits...)
	res := b.do(t, func() (*person.Page, error) { return b.Approve(consent.Page) })
	code := res.Sent().Get("code")
	if code == "" {
		t.Fatalf("no code: %s", res)
	}
	return code
}

// Failing is Do for a request that may end in a server error.
func (s *Server) Failing(t testing.TB, r *http.Request) *Response {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return &Response{&person.Page{Response: w.Result(), Body: w.Body.String(), At: r.URL}}
}

// ShownName returns how the login page shows the name of a registered client, as
// HTML.
func (s *Server) ShownName(t testing.TB, name string) string {
	t.Helper()
	id, err := seal.Seal(s.Ring, seal.Client{Name: name, RedirectURIs: []string{"https://app.test/cb"}, Method: "none", Scope: s.Config.DefaultScopes})
	if err != nil {
		t.Fatal(err)
	}
	page := s.NewBrowser().Get(t, s.AuthorizeURL(Client{ID: id, RedirectURI: "https://app.test/cb"}))
	_, shown, ok := strings.Cut(page.Body, `<strong class="name">`)
	if !ok {
		t.Fatalf("no name on the page: %d %s", page.StatusCode, page.Body)
	}
	shown, _, _ = strings.Cut(shown, "</strong>")
	return shown
}
