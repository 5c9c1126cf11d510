package handlers_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"signet/internal/test/authtest"
)

// Short names for what the tests use most.
var (
	set = authtest.Set
	add = authtest.Add
	del = authtest.Del
)

type edit = authtest.Edit

// wantPage demands an error page that sends the browser nowhere.
func wantPage(t *testing.T, r *authtest.Response, status int) {
	t.Helper()
	if r.StatusCode != status || r.Header.Get("Location") != "" || !strings.HasPrefix(r.Header.Get("Content-Type"), "text/html") {
		t.Errorf("got %d, Location %q, %s; want page %d\n%s", r.StatusCode, r.Header.Get("Location"), r.Header.Get("Content-Type"), status, text(r))
	}
}

// wantRedirect demands an error redirect to a client, with each parameter once.
func wantRedirect(t *testing.T, r *authtest.Response, redirectURI, code, state string) {
	t.Helper()
	to := r.Header.Get("Location")
	if r.StatusCode != http.StatusSeeOther || !strings.HasPrefix(to, redirectURI+"?") {
		t.Errorf("got %d to %q, want 303 to %s\n%s", r.StatusCode, to, redirectURI, text(r))
		return
	}
	q := r.Sent()
	want := map[string]string{"error": code, "iss": authtest.Issuer, "state": state}
	for name, value := range want {
		if value == "" && !q.Has(name) {
			continue
		}
		if len(q[name]) != 1 || q.Get(name) != value {
			t.Errorf("%s = %q, want once %q", name, q[name], value)
		}
	}
	if q.Has("code") || q.Has("access_token") {
		t.Errorf("an error response with a code or token: %v", q)
	}
}

// wantError demands a JSON error.
func wantError(t *testing.T, r *authtest.Response, status int, code string) {
	t.Helper()
	if r.StatusCode != status || r.Error() != code || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("got %d %s, want %d %s", r.StatusCode, r.Body, status, code)
	}
}

// wantDead demands that nothing of a grant works any longer.
func wantDead(t *testing.T, s *authtest.Server, c authtest.Client, tokens ...authtest.Tokens) {
	t.Helper()
	for _, tok := range tokens {
		if r := s.Introspect(t, c, tok.Access); strings.TrimSpace(r.Body) != inactive {
			t.Errorf("access token of a dead grant: %s", r.Body)
		}
		if _, err := s.Verifier.Verify(context.Background(), tok.Access); err == nil {
			t.Error("the verifier takes an access token of a dead grant")
		}
		if r := s.Introspect(t, c, tok.Refresh); strings.TrimSpace(r.Body) != inactive {
			t.Errorf("refresh handle of a dead grant: %s", r.Body)
		}
		wantError(t, s.Refresh(t, c, tok.Refresh), 400, "invalid_grant")
	}
}

// text is the text of a page, for messages.
func text(r *authtest.Response) string {
	_, main, ok := strings.Cut(r.Body, "<main>")
	if !ok {
		return r.Body
	}
	return main
}

func audience(t *testing.T, s *authtest.Server, token string) string {
	t.Helper()
	claims, err := s.Verifier.Verify(context.Background(), token)
	if err != nil {
		t.Fatal(err)
	}
	return claims.Audience
}

// request makes a request with a header, given as name, value, name, value.
func request(method, target, body string, header ...string) *http.Request {
	r := httptest.NewRequestWithContext(context.Background(), method, target, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

const formType = "application/x-www-form-urlencoded"

// several has two resources, as the security catalogue's server does.
func several(c *authtest.Config) {
	c.Resources = []string{authtest.ResourceA, authtest.ResourceB}
}
