package upstream_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"signet/internal/oauth"
	"signet/internal/upstream"
)

const quiet = "geheim-geheim"

// A configuration either has faults, each with a line and without a secret, or providers that
// can be told apart and are on this machine unless they are asked by https.
func FuzzConfiguration(f *testing.F) {
	f.Add(good)
	f.Add("upstreams:\n  - {id: a, preset: github, client_id: x, client_secret: env:SECRET}\n")
	f.Add("upstreams:\n  - &a {id: a, preset: google, client_id: x}\n  - *a\n")
	f.Add("upstreams:\n  - {<<: {id: a}, ? [x] : y, !!binary type: oidc, \"\\u0000\": 1}\n")
	f.Add("upstreams: [{id: a, type: oidc, issuer: 'http://127.0.0.1.evil.example', client_id: a}, {id: a, type: oidc, issuer: 'http://[::1]', client_id: env:SECRET}]")
	f.Add("{upstreams: [{id: a, type: password, base_url: 'https://a.example', login: {path: '..//evil.example/', body: {a: '{password}{username}', b: {c: [{}, 1e999]}}, access_token: a.0.b}}]}")
	f.Fuzz(func(t *testing.T, text string) {
		set, err := upstream.Parse([]byte(text), func(string) (string, bool) { return quiet, true })
		if err != nil {
			checkFaults(t, text, err)
			return
		}
		ids := map[string]bool{}
		for _, p := range set.All() {
			if ids[p.ID()] || len(p.ID()) < 1 || len(p.ID()) > 32 || strings.Trim(p.ID(), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
				t.Errorf("the id %q", p.ID())
			}
			ids[p.ID()] = true
			if p.BaseURL() != "" && (!strings.HasSuffix(p.BaseURL(), "/") || strings.HasPrefix(p.BaseURL(), "http:") && !oauth.IsLoopbackHost(strings.Split(p.Host(), ":")[0]) && !strings.Contains(p.Host(), "[")) {
				t.Errorf("the base URL %q", p.BaseURL())
			}
			if p.Bound() == "" || p.Timeout() <= 0 || p.Host() == "" || p.Name() == "" {
				t.Errorf("provider %s: bound %q, timeout %s, host %q, name %q", p.ID(), p.Bound(), p.Timeout(), p.Host(), p.Name())
			}
		}
	})
}

func checkFaults(t *testing.T, text string, err error) {
	t.Helper()
	several, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%v is not a list of faults", err)
	}
	if strings.Contains(err.Error(), quiet) && !strings.Contains(text, quiet) {
		t.Errorf("%v shows a secret", err)
	}
	for _, err := range several.Unwrap() {
		var fault *upstream.Fault
		if !errors.As(err, &fault) || fault.Line < 1 || fault.Line > 2+strings.Count(text, "\n")+strings.Count(text, "\r")+strings.Count(text, "\u0085")+strings.Count(text, "\u2028")+strings.Count(text, "\u2029") {
			t.Errorf("%v has no line of the text", err)
		}
	}
}

// An answer of a provider is a login only if it is one JSON value in which encoding/json finds the
// same token, and the token and the user can be passed on.
func FuzzAnswer(f *testing.F) {
	f.Add(200, `{"access":"AT","refresh":"RT","life":60,"user":{"id":7,"name":"A","email":"a@b.c","picture":"https://a/b"}}`)
	f.Add(200, `{"access":"A","access":"B","user":{"id":1}}`)
	f.Add(200, `{"access":"A\r\nSet-Cookie: x","user":{"id":"a\u0000"}}`)
	f.Add(200, `{"access":"`+jwtUntil(1<<60)+`","life":1e400,"user":{"id":1e400}}`)
	f.Add(401, `{"detail":"no"}`)
	f.Add(200, strings.Repeat("[", 5000))
	var status int
	var body string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}))
	f.Cleanup(server.Close)
	set, err := upstream.Parse([]byte(`upstreams:
  - id: a
    type: password
    base_url: `+server.URL+`
    login: {path: x, body: {u: "{username}", p: "{password}"}, access_token: access, refresh_token: refresh, expires_in: life, user_id: user.id, user_name: user.name, email: user.email, picture: user.picture}
`), environ)
	if err != nil {
		f.Fatal(err)
	}
	p, _ := set.Get("a")
	f.Fuzz(func(t *testing.T, code int, text string) {
		status, body = 200+abs(code)%400, text
		if status == http.StatusNoContent || status == http.StatusNotModified {
			return // which have no body
		}
		who, tokens, err := p.Login(t.Context(), "ann", "password")
		if err != nil {
			return
		}
		var plain struct{ Access any }
		if status/100 != 2 || json.Unmarshal([]byte(text), &plain) != nil {
			t.Fatalf("status %d %q is a login", status, text)
		}
		for _, token := range []string{tokens.Access, tokens.Refresh} {
			if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
				t.Errorf("the token %q", token)
			}
		}
		for _, s := range []string{who.ID, who.Name, who.Email, who.DisplayName, who.Picture} {
			if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) || len(s) > 1200 {
				t.Errorf("the user is %+v", who)
			}
		}
		if who.ID == "" || len(who.ID) > 200 || tokens.Access == "" || who.Picture != "" && !strings.HasPrefix(who.Picture, "https://") || tokens.Expires < 0 {
			t.Errorf("the user is %+v", who)
		}
	})
}

func abs(n int) int { return max(n, -(n + 1)) }
