package upstream_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signet/internal/upstream"
)

// api is a password API that notes what it was sent, and answers what the test says.
type api struct {
	*httptest.Server
	status int
	kind   string
	answer string
	sent   []string
}

func newAPI(t *testing.T) *api {
	a := &api{status: http.StatusOK, kind: "application/json", answer: `{"access":"AT","refresh":"RT"}`}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		a.sent = append(a.sent, r.Method+" "+r.URL.Path+" "+r.Header.Get("Content-Type")+" "+string(body))
		w.Header().Set("Content-Type", a.kind)
		w.WriteHeader(a.status)
		io.WriteString(w, a.answer)
	}))
	t.Cleanup(a.Close)
	return a
}

// provider returns a provider of the API. More are further members, a line each.
func (a *api) provider(t *testing.T, more ...string) *upstream.Provider {
	t.Helper()
	text := fmt.Sprintf(`upstreams:
  - id: finance
    type: password
    base_url: %s/
    login:
      path: api/v1/auth/token/
      body: {username: "{local_part}", email: "{username}", password: "{password}", n: {device: [1, true, null, "x"]}}
      access_token: access
      refresh_token: refresh
      expires_in: life
      LOGIN
    refresh: {path: api/v1/auth/token/refresh/, body: {refresh: "{refresh_token}"}, access_token: access, refresh_token: refresh}
    revoke: {path: api/v1/auth/token/blacklist/, body: {refresh: "{refresh_token}"}}
`, a.URL)
	login := ""
	for _, line := range more {
		if in, ok := strings.CutPrefix(line, "login."); ok {
			login += in + "\n      "
			continue
		}
		text += "    " + line + "\n"
	}
	return parse(t, strings.Replace(text, "LOGIN", login, 1), "finance")
}

func parse(t *testing.T, text, id string) *upstream.Provider {
	t.Helper()
	set, err := upstream.Parse([]byte(text), environ)
	if err != nil {
		t.Fatal(err)
	}
	p, ok := set.Get(id)
	if !ok {
		t.Fatalf("there is no provider %s", id)
	}
	return p
}

func TestPasswordLogin_Row35(t *testing.T) {
	a := newAPI(t)
	p := a.provider(t)
	before := time.Now().Unix()
	who, tokens, err := p.Login(t.Context(), " ann@b.c ", `goo"d},{"x":"`)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`POST /api/v1/auth/token/ application/json {"email":"ann@b.c","n":{"device":[1,true,null,"x"]},"password":"goo\"d},{\"x\":\"","username":"ann"}`}
	if diff := cmp.Diff(want, a.sent); diff != "" {
		t.Errorf("the API was sent (-want +got):\n%s", diff)
	}
	if who.ID != "ann@b.c" || who.Name != "ann@b.c" || who.Scopes != nil {
		t.Errorf("the user is %+v", who)
	}
	if tokens.Access != "AT" || tokens.Refresh != "RT" || tokens.Expires != 0 || tokens.Obtained < before {
		t.Errorf("the tokens are %+v", tokens)
	}
}

func TestPasswordLoginReadsTheAnswer(t *testing.T) {
	a := newAPI(t)
	p := a.provider(t, "login.user_id: user.id", "login.user_name: user.name", "login.email: user.mails.1", "login.picture: user.pic", "login.groups: roles",
		"scopes_from: {claim: roles, map: {staff: [read, write], boss: [admin, read]}}")
	a.answer = `{"access":"AT","life":"90","roles":["staff","boss","x"],"user":{"id":12345678901234567,"name":"Ann\u0007","mails":["a@b.c","ann@example.com"],"pic":"http://pictures.example/a.png"}}`
	who, tokens, err := p.Login(t.Context(), "ann", "good")
	if err != nil {
		t.Fatal(err)
	}
	want := upstream.Identity{ID: "12345678901234567", Name: "Ann", Email: "ann@example.com", EmailVerified: true, Groups: []string{"staff", "boss", "x"}, Scopes: []string{"read", "write", "admin"}}
	if diff := cmp.Diff(want, who); diff != "" {
		t.Errorf("the user (-want +got):\n%s", diff)
	}
	if got := tokens.Expires - tokens.Obtained; got != 90 {
		t.Errorf("the access token lives %d s, want 90", got)
	}
}

// jwtUntil returns what looks like a JWT that expires.
func jwtUntil(exp int64) string {
	return "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, exp)) + ".x"
}

func TestExpiryOfTheTokenItself(t *testing.T) {
	a := newAPI(t)
	p := a.provider(t)
	exp := time.Now().Unix() + 77
	a.answer = `{"access":"` + jwtUntil(exp) + `"}`
	_, tokens, err := p.Login(t.Context(), "ann", "good")
	if err != nil || tokens.Expires != exp {
		t.Errorf("the token expires at %d (%v), want %d", tokens.Expires, err, exp)
	}
}

// What a provider says counts as a refusal only if it is one.
func TestPasswordLoginRefused(t *testing.T) {
	page, long := "<h1>No</h1>", `{"x":"`+strings.Repeat("x", 1<<20)+`"}`
	for _, c := range []struct {
		name    string
		status  int
		kind    string
		answer  string
		refused bool
	}{
		{"401", 401, "application/json", `{"detail":"wrong"}`, true},
		{"400", 400, "application/json", `{"password":["wrong"]}`, true},
		{"403", 403, "application/json", `[]`, true},
		{"401 with a page", 401, "text/html", page, true},
		{"401 with nothing", 401, "", "", true},
		{"403 of a proxy", 403, "text/html", "", false},
		{"404", 404, "application/json", `{}`, false},
		{"429", 429, "application/json", `{"detail":"slow down"}`, false},
		{"500", 500, "application/json", `{}`, false},
		{"503", 503, "text/html", page, false},
		{"302", 302, "application/json", `{"access":"AT"}`, false},
		{"page", 200, "text/html", page, false},
		{"no token", 200, "application/json", `{"refresh":"RT"}`, false},
		{"token that is an object", 200, "application/json", `{"access":{}}`, false},
		{"token with a line end", 200, "application/json", `{"access":"A\r\nT"}`, false},
		{"duplicate member", 200, "application/json", `{"access":"AT","access":"BT"}`, false},
		{"duplicate member inside", 200, "application/json", `{"access":"AT","user":{"a":1,"a":2}}`, false},
		{"two values", 200, "application/json", `{"access":"AT"} {}`, false},
		{"array", 200, "application/json", `[{"access":"AT"}]`, false},
		{"cut off", 200, "application/json", `{"access":"AT"`, false},
		{"not UTF-8", 200, "application/json", "{\"access\":\"AT\",\"x\":\"\xff\"}", false},
		{"long token", 200, "application/json", `{"access":"` + strings.Repeat("x", 33<<10) + `"}`, false},
		{"long white space", 200, "application/json", `{"access":"AT"}` + strings.Repeat(" ", 1<<20), false},
		{"deep", 200, "application/json", `{"access":"AT","x":` + strings.Repeat("[", 99) + strings.Repeat("]", 99) + `}`, false},
		{"long", 200, "application/json", long, false},
	} {
		a := newAPI(t)
		a.status, a.kind, a.answer = c.status, c.kind, c.answer
		_, tokens, err := a.provider(t).Login(t.Context(), "ann", "the-password")
		if err == nil || tokens.Access != "" || errors.Is(err, upstream.ErrCredentials) != c.refused {
			t.Errorf("%s: got %v", c.name, err)
		}
		if err != nil && (strings.Contains(err.Error(), "the-password") || len(err.Error()) > 500) {
			t.Errorf("%s: the error says too much: %v", c.name, err)
		}
		if len(a.sent) != 1 {
			t.Errorf("%s: the API was asked %d times", c.name, len(a.sent))
		}
	}
}

// A redirect is not followed: the password stays where it was sent.
func TestPasswordIsNotRedirected(t *testing.T) {
	elsewhere := newAPI(t)
	s := httptest.NewServer(http.RedirectHandler(elsewhere.URL+"/", http.StatusTemporaryRedirect))
	defer s.Close()
	if _, _, err := (&api{Server: s}).provider(t).Login(t.Context(), "ann", "good"); err == nil || errors.Is(err, upstream.ErrCredentials) {
		t.Errorf("got %v", err)
	}
	if len(elsewhere.sent) > 0 {
		t.Errorf("another server was sent %q", elsewhere.sent)
	}
}

func TestCompressedAnswerRefused(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		io.WriteString(w, `{"access":"AT"}`)
	}))
	defer s.Close()
	if _, _, err := (&api{Server: s}).provider(t).Login(t.Context(), "ann", "good"); err == nil || !strings.Contains(err.Error(), "compressed") {
		t.Errorf("got %v", err)
	}
}

func TestPasswordLoginWithWrongIDs(t *testing.T) {
	for name, id := range map[string]any{
		"missing": nil, "empty": "", "true": true, "array": []string{"a"}, "long": strings.Repeat("x", 201), "control": "a\u0000b", "line": "a\nb",
	} {
		a := newAPI(t)
		answer, err := json.Marshal(map[string]any{"access": "AT", "id": id})
		if err != nil {
			t.Fatal(err)
		}
		a.answer = string(answer)
		who, _, err := a.provider(t, "login.user_id: id").Login(t.Context(), "ann", "good")
		if err == nil || errors.Is(err, upstream.ErrCredentials) {
			t.Errorf("%s: got %+v, %v, want an error", name, who, err)
		}
	}
}

// What cannot be a name or a password is not sent.
func TestCredentialsThatCannotBe(t *testing.T) {
	a := newAPI(t)
	p := a.provider(t)
	for _, c := range [][2]string{{"", "x"}, {"  ", "x"}, {"ann", ""}, {"a\x00b", "x"}, {"a\xff", "x"}, {"ann", "\xff"}, {strings.Repeat("a", 321), "x"}, {"ann", strings.Repeat("x", 4097)}} {
		if _, _, err := p.Login(t.Context(), c[0], c[1]); !errors.Is(err, upstream.ErrCredentials) {
			t.Errorf("%q: got %v", c[0], err)
		}
	}
	if len(a.sent) > 0 {
		t.Errorf("the API was sent %q", a.sent)
	}
}

func TestPasswordProviderDown(t *testing.T) {
	a := newAPI(t)
	p := a.provider(t)
	a.Close()
	if _, _, err := p.Login(t.Context(), "ann", "good"); err == nil || errors.Is(err, upstream.ErrCredentials) {
		t.Errorf("login: %v", err)
	}
	if _, err := p.Refresh(t.Context(), upstream.Tokens{Refresh: "RT"}); err == nil || errors.Is(err, upstream.ErrRefused) {
		t.Errorf("refresh: %v", err)
	}
	if err := p.Check(t.Context()); err == nil {
		t.Error("it answers")
	}
}

// A provider that does not answer is given up after its timeout.
func TestPasswordProviderHangs(t *testing.T) {
	hold := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hold }))
	defer s.Close()
	defer close(hold)
	p := (&api{Server: s}).provider(t, "timeout: 100ms")
	if _, _, err := p.Login(t.Context(), "ann", "good"); err == nil || errors.Is(err, upstream.ErrCredentials) {
		t.Errorf("got %v", err)
	}
}

func TestPasswordRefreshAndRevoke(t *testing.T) {
	a := newAPI(t)
	p := a.provider(t)
	old := upstream.Tokens{Access: "AT", Refresh: "RT", Scope: []string{"x"}}
	a.answer = `{"access":"AT2"}`
	fresh, err := p.Refresh(t.Context(), old)
	if err != nil || fresh.Access != "AT2" || fresh.Refresh != "RT" || len(fresh.Scope) != 1 {
		t.Errorf("got %+v, %v", fresh, err)
	}
	a.answer = `{"access":"AT3","refresh":"RT3"}`
	if fresh, err = p.Refresh(t.Context(), old); err != nil || fresh.Refresh != "RT3" {
		t.Errorf("got %+v, %v", fresh, err)
	}
	a.answer = `{}`
	if err := p.Revoke(t.Context(), old); err != nil {
		t.Error(err)
	}
	want := []string{
		`POST /api/v1/auth/token/refresh/ application/json {"refresh":"RT"}`, `POST /api/v1/auth/token/refresh/ application/json {"refresh":"RT"}`,
		`POST /api/v1/auth/token/blacklist/ application/json {"refresh":"RT"}`,
	}
	if diff := cmp.Diff(want, a.sent); diff != "" {
		t.Errorf("the API was sent (-want +got):\n%s", diff)
	}
	for status, refused := range map[int]bool{400: true, 401: true, 403: true, 404: false, 429: false, 500: false} {
		a.status, a.answer = status, `{"detail":"no"}`
		if _, err := p.Refresh(t.Context(), old); err == nil || errors.Is(err, upstream.ErrRefused) != refused {
			t.Errorf("%d: got %v", status, err)
		}
	}
	a.status, a.answer = 401, "<h1>No</h1>"
	if _, err := p.Refresh(t.Context(), old); err == nil || errors.Is(err, upstream.ErrRefused) {
		t.Errorf("a page: got %v", err)
	}
	if _, err := p.Refresh(t.Context(), upstream.Tokens{Access: "AT"}); !errors.Is(err, upstream.ErrNoRefresh) {
		t.Errorf("without a refresh token: got %v", err)
	}
}

func TestPermit(t *testing.T) {
	a := newAPI(t)
	for _, c := range []struct {
		allow   string
		who     upstream.Identity
		allowed bool
	}{
		{"", upstream.Identity{}, true},
		{"allow: {domains: [Example.com]}", upstream.Identity{Email: "Ann@EXAMPLE.com", EmailVerified: true}, true},
		{"allow: {domains: [example.com]}", upstream.Identity{Email: "ann@example.com"}, false},
		{"allow: {domains: [example.com]}", upstream.Identity{Email: "ann@sub.example.com", EmailVerified: true}, false},
		{"allow: {domains: [example.com]}", upstream.Identity{Email: "ann@example.com.evil.test", EmailVerified: true}, false},
		{"allow: {domains: [example.com]}", upstream.Identity{}, false},
		{"allow: {emails: [ann@example.com]}", upstream.Identity{Email: "Ann@example.com", EmailVerified: true}, true},
		{"allow: {emails: [ann@example.com]}", upstream.Identity{Email: "bob@example.com", EmailVerified: true}, false},
		{"allow: {groups: [staff]}", upstream.Identity{Groups: []string{"x", "staff"}}, true},
		{"allow: {groups: [staff]}", upstream.Identity{Groups: []string{"Staff"}}, false},
		{"allow: {groups: [staff], emails: [ann@example.com]}", upstream.Identity{Email: "ann@example.com", EmailVerified: true}, true},
	} {
		err := a.provider(t, c.allow).Permit(c.who)
		if (err == nil) != c.allowed || err != nil && !errors.Is(err, upstream.ErrNotAllowed) {
			t.Errorf("%s: %+v: got %v", c.allow, c.who, err)
		}
	}
}
