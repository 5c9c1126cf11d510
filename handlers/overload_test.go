package handlers_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signet/handlers"
	"signet/internal/admission"
	"signet/internal/test/authtest"
	"signet/internal/test/clientdoc"
	"signet/users"
)

// narrow is a server that works on one request of each class at a time.
func narrow(t *testing.T) (*authtest.Server, *admission.Classes) {
	t.Helper()
	c := &admission.Classes{}
	for name, class := range map[string]**admission.Class{
		"revoke": &c.Revoke, "refresh": &c.Refresh, "introspect": &c.Introspect, "code": &c.Code, "pages": &c.Pages, "login": &c.Login, "upstream": &c.Upstream, "register": &c.Register, "documents": &c.Documents, "mcp": &c.MCP,
	} {
		*class = admission.NewClass(name, 1)
	}
	return authtest.New(t, fetching, func(cfg *authtest.Config) {
		cfg.Change = func(o *handlers.Options) {
			o.Admission = c
			o.ChangePassword = func(context.Context, string, string, string) (users.User, error) {
				return users.User{}, users.ErrInvalid
			}
		}
	}), c
}

// wantBusy demands the one form of a refusal for want of room: a status, a time that
// is not the same for all, and JSON on which clients keep their tokens, or a page.
func wantBusy(t *testing.T, r *authtest.Response) {
	t.Helper()
	seconds, err := strconv.Atoi(r.Header.Get("Retry-After"))
	if r.StatusCode != http.StatusServiceUnavailable || err != nil || seconds < 1 || seconds > 5 || r.Header.Get("Location") != "" || r.Header.Get("Connection") != "" {
		t.Errorf("got %d, Retry-After %q, Connection %q; want 503 and 1 to 5 s\n%s", r.StatusCode, r.Header.Get("Retry-After"), r.Header.Get("Connection"), text(r))
		return
	}
	switch r.Header.Get("Content-Type") {
	case "application/json":
		if r.Error() != "temporarily_unavailable" || r.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("got %s, readable for %q", r.Body, r.Header.Get("Access-Control-Allow-Origin"))
		}
	default:
		if !strings.Contains(r.Body, "Reload this page in a few seconds") {
			t.Errorf("the page does not say what to do:\n%s", text(r))
		}
	}
}

// A class that is full refuses its own requests and no others; none of those has
// changed anything; health, keys and metadata are answered whatever happens (INV12).
func TestOverloadOfOneClassLeavesTheOthers(t *testing.T) {
	s, classes := narrow(t)
	tok := s.Tokens(t, "alice", s.PUB)
	code := s.Code(t, "alice", s.PUB)
	b := s.NewBrowser()
	page := b.Get(t, s.AuthorizeURL(s.PUB))
	_, hidden := page.Form(t)
	h, documents := clientdoc.NewHost(t), 0
	registration := `{"redirect_uris":["https://app.test/cb"],"token_endpoint_auth_method":"none"}`

	requests := []struct {
		name   string
		class  *admission.Class // that refuses it
		also   *admission.Class // likewise; nil for most
		harmed bool             // the request spends what it brings, so it is sent last
		send   func() *authtest.Response
	}{
		{"metadata", nil, nil, false, func() *authtest.Response { return s.Get(t, "/.well-known/oauth-authorization-server") }},
		{"JWKS", nil, nil, false, func() *authtest.Response { return s.Get(t, "/.well-known/jwks.json") }},
		{"livez", nil, nil, false, func() *authtest.Response { return s.Get(t, "/livez") }},
		{"readyz", nil, nil, false, func() *authtest.Response { return s.Get(t, "/readyz") }},
		{"authorize", classes.Pages, nil, false, func() *authtest.Response { return b.Get(t, s.AuthorizeURL(s.PUB)) }},
		{"login page", classes.Pages, nil, false, func() *authtest.Response { return b.Get(t, "/login?state="+url.QueryEscape(hidden.Get("state"))) }},
		{"home", classes.Pages, nil, false, func() *authtest.Response { return b.Get(t, "/") }},
		{"account page", classes.Pages, nil, false, func() *authtest.Response { return b.Get(t, "/account") }},
		{"login", classes.Login, nil, false, func() *authtest.Response {
			return b.Submit(t, page, set("username", "alice", "password", "wrong"))
		}},
		{"register", classes.Register, nil, false, func() *authtest.Response { return s.Post(t, "/register", "application/json", registration) }},
		{"document", classes.Documents, classes.Pages, false, func() *authtest.Response {
			documents++ // another one each time, because a document is kept
			return s.NewBrowser().Get(t, s.AuthorizeURL(documentClient(t, h, fmt.Sprintf("/%d.json", documents), nil)))
		}},
		{"introspect", classes.Introspect, nil, false, func() *authtest.Response { return s.Introspect(t, s.PUB, tok.Access) }},
		{"userinfo", classes.Introspect, nil, false, func() *authtest.Response {
			return s.Do(t, request("GET", authtest.Issuer+"/userinfo", "", "Authorization", "Bearer "+tok.Access))
		}},
		{"refresh", classes.Refresh, nil, true, func() *authtest.Response { return s.Refresh(t, s.PUB, tok.Refresh) }},
		{"code", classes.Code, classes.Refresh, true, func() *authtest.Response { return s.Redeem(t, s.PUB, code) }},
		{"revoke", classes.Revoke, nil, true, func() *authtest.Response { return s.Revoke(t, s.PUB, tok.Access) }},
	}
	for _, full := range classes.All() {
		slot, err := full.Enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range requests {
			if r.class == full || r.also == full {
				wantBusy(t, r.send())
			} else if !r.harmed {
				if got := r.send(); got.StatusCode >= 500 {
					t.Errorf("%s, while %s is full: %d %s", r.name, full.Stats().Class, got.StatusCode, text(got))
				}
			}
		}
		slot.Leave()
	}
	for _, r := range requests {
		if got := r.send(); got.StatusCode >= 400 && r.name != "login" {
			t.Errorf("%s, with room for it: %d %s", r.name, got.StatusCode, text(got))
		}
	}
	for _, c := range classes.All() {
		if running := c.Stats().Running; running != 0 {
			t.Errorf("%s: %d slots were not given back", c.Stats().Class, running)
		}
	}
	if log := fmt.Sprint(s.Log); strings.Contains(log, `"level":"WARN"`) && strings.Contains(log, admission.ErrFull.Error()) {
		t.Error("a flood would fill the log")
	}
}

// unread is a body that must not be read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body is read of a request that is refused at the door")
	return 0, io.EOF
}

func TestOverloadIsRefusedUnread(t *testing.T) {
	s, classes := narrow(t)
	for _, c := range classes.All() {
		if _, err := c.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"/token", "/oauth/token", "/revoke", "/introspect", "/register", "/login", "/consent", "/account", "/logout", "/authorize"} {
		r := request("POST", authtest.Issuer+path, "", "Content-Type", formType, "Sec-Fetch-Site", "same-origin")
		r.Body = io.NopCloser(unread{t})
		wantBusy(t, s.Do(t, r))
	}
}

// slow is a body that arrives when it is let go.
type slow struct{ wait, arrived chan struct{} }

func (b slow) Read([]byte) (int, error) {
	close(b.arrived)
	<-b.wait
	return 0, io.EOF
}

// K03: a request that arrives slowly holds no slot.
func TestSlowBodiesHoldNoSlot_K03(t *testing.T) {
	s, classes := narrow(t)
	for path, class := range map[string]*admission.Class{
		"/token": classes.Refresh, "/revoke": classes.Revoke, "/introspect": classes.Introspect, "/register": classes.Register, "/login": classes.Login, "/consent": classes.Pages,
	} {
		body := slow{make(chan struct{}), make(chan struct{})}
		done := make(chan struct{})
		contentType := formType
		if path == "/register" {
			contentType = "application/json"
		}
		r := request("POST", authtest.Issuer+path, "", "Content-Type", contentType, "Sec-Fetch-Site", "same-origin")
		r.Body = io.NopCloser(body)
		go func() { defer close(done); s.Do(t, r) }()
		<-body.arrived
		if running := class.Stats().Running; running != 0 {
			t.Errorf("%s: a slot is held while the body arrives", path)
		}
		close(body.wait)
		<-done
	}
}

// A password is checked in a slot for logins, also when it is changed; everything else
// on the account page is not held up by logins.
func TestPasswordsAreCheckedInSlotsForLogins(t *testing.T) {
	s, classes := narrow(t)
	b := s.NewBrowser()
	b.SignIn(t, "alice", s.PUB)
	page := b.Get(t, "/account")
	_, fields := page.Form(t)
	slot, err := classes.Login.Enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer slot.Leave()
	wantBusy(t, b.Post(t, "/account", url.Values{"token": {fields.Get("token")}, "action": {"password"}, "old": {"cows"}, "new": {"more cows"}}))
	form := url.Values{"token": {fields.Get("token")}, "action": {"sign_out"}}
	if r := b.Post(t, "/account", form); r.StatusCode >= 400 {
		t.Errorf("signing out while logins are refused: %d %s", r.StatusCode, text(r))
	}
}

// Only a request whose credential is valid has the requests that anybody can send wait. A flood
// of wrong ones must not slow the logins down either, which rest beside valid ones.
func TestOnlyValidCredentialsCountAsUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		classes := admission.New()
		s := authtest.New(t, func(cfg *authtest.Config) {
			cfg.Change = func(o *handlers.Options) { o.Admission = classes }
		})
		tok, other := s.Tokens(t, "alice", s.PUB), s.Tokens(t, "alice", s.PUB)
		code := s.Code(t, "alice", s.PUB)
		userinfo := func(token string) func() *authtest.Response {
			return func() *authtest.Response {
				return s.Do(t, request("GET", authtest.Issuer+"/userinfo", "", "Authorization", "Bearer "+token))
			}
		}
		for _, c := range []struct {
			name string
			used bool
			send func() *authtest.Response
		}{
			{"code", true, func() *authtest.Response { return s.Redeem(t, s.PUB, code) }},
			{"refresh", true, func() *authtest.Response { return s.Refresh(t, s.PUB, tok.Refresh) }},
			{"introspect", true, func() *authtest.Response { return s.Introspect(t, s.PUB, tok.Access) }},
			{"userinfo", true, userinfo(tok.Access)},
			{"revoke", true, func() *authtest.Response { return s.Revoke(t, s.PUB, other.Access) }},
			{"wrong code", false, func() *authtest.Response { return s.Redeem(t, s.PUB, "x") }},
			{"code again", false, func() *authtest.Response { return s.Redeem(t, s.PUB, code) }},
			{"wrong handle", false, func() *authtest.Response { return s.Refresh(t, s.PUB, "x") }},
			{"revoked handle", false, func() *authtest.Response { return s.Refresh(t, s.PUB, other.Refresh) }},
			{"introspect a wrong token", false, func() *authtest.Response { return s.Introspect(t, s.PUB, "x") }},
			{"userinfo of a wrong token", false, userinfo("x")},
			{"revoke a wrong token", false, func() *authtest.Response { return s.Revoke(t, s.PUB, "x") }},
			{"authorize", false, func() *authtest.Response { return s.NewBrowser().Get(t, s.AuthorizeURL(s.PUB)) }},
			{"account page", false, func() *authtest.Response { return s.NewBrowser().Get(t, "/account") }},
			{"keys", false, func() *authtest.Response { return s.Get(t, "/.well-known/jwks.json") }},
		} {
			time.Sleep(2 * time.Second) // no credential is in use
			r := c.send()
			begin := time.Now()
			for range 100 {
				classes.Public(t.Context())
			}
			if used := time.Since(begin) > 0; used != c.used {
				t.Errorf("%s (%d): used is %t, want %t", c.name, r.StatusCode, used, c.used)
			}
		}
	})
}
