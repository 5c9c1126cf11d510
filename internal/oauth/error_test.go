package oauth_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"

	"signet/internal/oauth"
)

// allowed is the charset of a description (RFC 6749 §5.2).
var allowed = regexp.MustCompile(`^[\x20-\x21\x23-\x5B\x5D-\x7E]*$`)

func TestStatusFollowsFromCode(t *testing.T) {
	for code, want := range map[oauth.Code]int{
		oauth.InvalidRequest:         400,
		oauth.InvalidGrant:           400,
		oauth.InvalidScope:           400,
		oauth.InvalidTarget:          400,
		oauth.InvalidRedirectURI:     400,
		oauth.UnsupportedGrantType:   400,
		oauth.InvalidClient:          401,
		oauth.InvalidToken:           401,
		oauth.InsufficientScope:      403,
		oauth.ServerError:            500,
		oauth.TemporarilyUnavailable: 503,
	} {
		if got := oauth.Errorf(code, "x").Status(); got != want {
			t.Errorf("%s: status %d, want %d", code, got, want)
		}
	}
	if got := oauth.Errorf(oauth.InvalidRequest, "x").WithStatus(413).Status(); got != 413 {
		t.Errorf("status %d, want the one that was set, 413", got)
	}
}

func TestCauseStaysInside(t *testing.T) {
	shared := oauth.Errorf(oauth.InvalidGrant, "no such code")
	e := shared.Because(io.ErrUnexpectedEOF)
	if !errors.Is(e, io.ErrUnexpectedEOF) || !strings.Contains(e.Error(), "unexpected EOF") {
		t.Errorf("%v: the text for the log lacks the cause", e)
	}
	if shared.Unwrap() != nil {
		t.Error("Because changed the error that it was called on")
	}
	w := httptest.NewRecorder()
	e.WriteJSON(w, false)
	if strings.Contains(w.Body.String(), "EOF") || strings.Contains(e.RedirectTo("https://a/", "", "i"), "EOF") || strings.Contains(e.Challenge("", nil), "EOF") {
		t.Error("a rendering for clients shows the cause")
	}
}

func TestForeignErrorBecomesServerError(t *testing.T) {
	if e := oauth.AsError(nil); e != nil {
		t.Errorf("no error became %v", e)
	}
	e := oauth.AsError(io.EOF)
	if e.Code != oauth.ServerError || e.Description != "" || !errors.Is(e, io.EOF) {
		t.Errorf("a foreign error became %+v", e)
	}
	known := oauth.Errorf(oauth.InvalidScope, "x")
	if got := oauth.AsError(errors.Join(io.EOF, known)); got != known {
		t.Errorf("got %v, want the error in the chain", got)
	}
}

// Every error of the JSON endpoints has the same form: no-store, JSON, and text in the
// character set of the RFC, also if it repeats foreign bytes.
func TestErrorsHaveOneForm_D01(t *testing.T) {
	w := httptest.NewRecorder()
	oauth.Errorf(oauth.UnsupportedGrantType, "no such grant: %s", "a\"b\\c\r\nd\x00é<\x7f").WriteJSON(w, true)
	if w.Code != 400 || w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("status %d, header %v", w.Code, w.Header())
	}
	for _, name := range []string{"WWW-Authenticate", "Retry-After"} {
		if got := w.Header().Get(name); got != "" {
			t.Errorf("%s is %q in the answer to a bad grant, want none", name, got)
		}
	}
	want := map[string]string{"error": "unsupported_grant_type", "error_description": "no such grant: a'b?c??d??<?"}
	if diff := cmp.Diff(want, decode(t, w)); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
}

func decode(t *testing.T, w *httptest.ResponseRecorder) map[string]string {
	t.Helper()
	var m map[string]string
	if err := json.Unmarshal(w.Body.Bytes(), &m); err != nil {
		t.Fatalf("%v in %s", err, w.Body)
	}
	return m
}

func TestInvalidClientNamesTheSchemeThatWasUsed(t *testing.T) {
	for usedBasic, want := range map[bool]string{true: `Basic realm="OAuth"`, false: ""} {
		w := httptest.NewRecorder()
		oauth.Errorf(oauth.InvalidClient, "").WriteJSON(w, usedBasic)
		if got := w.Header().Get("WWW-Authenticate"); w.Code != 401 || got != want {
			t.Errorf("Basic used: %v: status %d, challenge %q, want 401 and %q", usedBasic, w.Code, got, want)
		}
	}
}

func TestRetryAfterIsSpread(t *testing.T) {
	seen := map[int]bool{}
	for range 200 {
		w := httptest.NewRecorder()
		oauth.Errorf(oauth.TemporarilyUnavailable, "busy").WriteJSON(w, false)
		n, err := strconv.Atoi(w.Header().Get("Retry-After"))
		if err != nil || n < 1 || n > 5 || w.Code != 503 {
			t.Fatalf("status %d, Retry-After %q, want 503 and 1 to 5", w.Code, w.Header().Get("Retry-After"))
		}
		seen[n] = true
	}
	if len(seen) < 2 {
		t.Error("Retry-After is the same in 200 answers: all clients return together")
	}
	w := httptest.NewRecorder()
	w.Header().Set("Retry-After", "60")
	oauth.Errorf(oauth.InvalidRequest, "slow down").WithStatus(http.StatusTooManyRequests).WriteJSON(w, false)
	if got := w.Header().Get("Retry-After"); w.Code != 429 || got != "60" {
		t.Errorf("status %d, Retry-After %q, want 429 and the limiter's 60", w.Code, got)
	}
}

// State comes back byte for byte, once, or not at all if none was sent. A redirect URI
// keeps the query with which it was registered.
func TestStateComesBackUnchanged_B14(t *testing.T) {
	states := []string{"a b&c=%#\"+", "é🙂'\\", strings.Repeat("%+&🙂", 120), "iss=https://evil.test&code=x", "\r\nLocation: x"}
	for _, state := range states {
		for name, got := range map[string]string{
			"code":  oauth.AuthorizationResponse("https://app.test/cb?x=1", "c0de", state, "https://as.test"),
			"error": oauth.Errorf(oauth.AccessDenied, "no").RedirectTo("https://app.test/cb?x=1", state, "https://as.test"),
		} {
			u, err := url.Parse(got)
			if err != nil {
				t.Fatal(err)
			}
			q := u.Query()
			if !strings.HasPrefix(got, "https://app.test/cb?x=1&"+name+"=") {
				t.Errorf("%s: the redirect URI or its query was changed", got)
			}
			if diff := cmp.Diff([]string{state}, q["state"]); diff != "" {
				t.Errorf("state (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{"https://as.test"}, q["iss"]); diff != "" {
				t.Errorf("iss (-want +got):\n%s", diff)
			}
		}
	}
	if got := oauth.AuthorizationResponse("https://app.test/cb", "c", "", "https://as.test"); got != "https://app.test/cb?code=c&iss=https%3A%2F%2Fas.test" {
		t.Errorf("%s, want no state, as none was sent", got)
	}
	for base, want := range map[string]string{"cursor://h/cb": "cursor://h/cb?code=c", "https://h/?": "https://h/?code=c", "https://h/?a&": "https://h/?a&code=c"} {
		if got := oauth.AuthorizationResponse(base, "c", "", ""); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if err := oauth.CheckState(strings.Repeat("s", 1<<10)); err != nil {
		t.Errorf("1 KB of state: %v", err)
	}
	wantCode(t, oauth.CheckState(strings.Repeat("s", 8<<10)), oauth.InvalidRequest)
}

func wantCode(t *testing.T, err error, want oauth.Code) {
	t.Helper()
	var e *oauth.Error
	if !errors.As(err, &e) || e.Code != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestChallengeNamesErrorAndScope(t *testing.T) {
	const prm = "https://mcp.test/.well-known/oauth-protected-resource/a"
	scope := []string{"read", "write"}
	for name, c := range map[string]struct {
		err  *oauth.Error
		want string
	}{
		"no credentials": {nil, `Bearer resource_metadata="` + prm + `", scope="read write"`},
		"bad token": {oauth.Errorf(oauth.InvalidToken, "the token has expired"),
			`Bearer error="invalid_token", error_description="the token has expired", resource_metadata="` + prm + `", scope="read write"`},
		"scope is missing": {oauth.Errorf(oauth.InsufficientScope, "write is needed"),
			`Bearer error="insufficient_scope", scope="read write", resource_metadata="` + prm + `", error_description="write is needed"`},
		"text that looks like parameters": {oauth.Errorf(oauth.InvalidToken, `x", scope="all" error=none`),
			`Bearer error="invalid_token", error_description="x', scope:'all' error:none", resource_metadata="` + prm + `", scope="read write"`},
	} {
		if got := c.err.Challenge(prm, scope); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
	}
	if got := (*oauth.Error)(nil).Challenge("", nil); got != "Bearer" {
		t.Errorf("without parameters: %q, want Bearer", got)
	}
}

// Whatever the parts of an error are, a client reads back one Bearer challenge with its
// parameters, and the client's regular expressions find those first.
func FuzzChallenge(f *testing.F) {
	f.Add("expired", "https://mcp.test/prm", "read write", true)
	f.Add(`x", scope="admin`, "https://mcp.test/prm", "read", true)
	f.Add("a\\", "https://mcp.test/prm", "", false)
	f.Add("Basic realm=x, Bearer error=invalid_token\r\nSet-Cookie: a=b", "", "a,b=c", false)
	firstScope := regexp.MustCompile(`scope="([^"]*)"|scope=([^\s,]+)`)
	f.Fuzz(func(t *testing.T, text, metadata, scopes string, token bool) {
		scope, err := oauth.ParseScope(scopes)
		if err != nil || strings.Contains(metadata, "scope=") || strings.Contains(scopes, "scope=") {
			return
		}
		code := oauth.InsufficientScope
		if token {
			code = oauth.InvalidToken
		}
		got := oauth.Errorf(code, "%s", text).Challenge(metadata, scope)
		if !strings.HasPrefix(got, "Bearer ") || strings.ContainsAny(got, "\r\n\\") {
			t.Fatalf("%q is not a challenge", got)
		}
		list, err := oauthex.ParseWWWAuthenticate([]string{got})
		if err != nil || len(list) != 1 || list[0].Scheme != "bearer" {
			t.Fatalf("%s reads as %v, %v", got, list, err)
		}
		for name, value := range list[0].Params {
			if !allowed.MatchString(value) {
				t.Errorf("%s=%q has a character outside of the set", name, value)
			}
		}
		if p := list[0].Params; p["error"] != string(code) || p["scope"] != strings.Join(scope, " ") {
			t.Errorf("%s reads as %v", got, p)
		}
		if m := firstScope.FindStringSubmatch(got); len(scope) > 0 && (m == nil || m[1] != strings.Join(scope, " ")) {
			t.Errorf("%s: a client finds the scope %q", got, m)
		}
	})
}
