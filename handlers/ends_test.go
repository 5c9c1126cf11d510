package handlers_test

import (
	"context"
	"maps"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/denylist"
	"signet/internal/seal"
	"signet/internal/test/authtest"
	"signet/users"
)

// wantAsked demands the consent page.
func wantAsked(t *testing.T, what string, r *authtest.Response) {
	t.Helper()
	if r.Sent().Get("code") != "" || !strings.Contains(r.Body, `value="approve"`) {
		t.Errorf("%s: not asked: %d to %q", what, r.StatusCode, r.Header.Get("Location"))
	}
}

// A consent counts for the version of the user who gave it, and until a grant to the
// client is ended.
func TestConsentIsForgottenWithTheUsersVersionAndWithAnyGrant(t *testing.T) {
	version := func(v string) func(*authtest.Account) bool {
		return func(a *authtest.Account) bool { a.Version = v; return true }
	}
	for name, change := range map[string]func(t *testing.T, s *authtest.Server, b *authtest.Browser, first, second authtest.Tokens){
		"another password": func(t *testing.T, s *authtest.Server, b *authtest.Browser, _, _ authtest.Tokens) {
			s.Users.Change("alice", version("2"))
		},
		"disabled and enabled": func(t *testing.T, s *authtest.Server, b *authtest.Browser, _, _ authtest.Tokens) {
			s.Users.Change("alice", version("2"))
			s.Users.Change("alice", version("3"))
		},
		"first grant revoked": func(t *testing.T, s *authtest.Server, b *authtest.Browser, first, _ authtest.Tokens) {
			s.Revoke(t, s.PUB, first.Refresh)
		},
		"second grant revoked by its access token": func(t *testing.T, s *authtest.Server, b *authtest.Browser, _, second authtest.Tokens) {
			s.Revoke(t, s.PUB, second.Access)
		},
		"disconnected": func(t *testing.T, s *authtest.Server, b *authtest.Browser, _, _ authtest.Tokens) {
			b.Submit(t, b.Get(t, "/account"), set("action", "disconnect"))
		},
		"handle reused": func(t *testing.T, s *authtest.Server, b *authtest.Browser, first, _ authtest.Tokens) {
			next := s.Refresh(t, s.PUB, first.Refresh).Tokens(t)
			s.Refresh(t, s.PUB, next.Refresh).Tokens(t)
			wantError(t, s.Refresh(t, s.PUB, first.Refresh), 400, "invalid_grant")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := authtest.New(t)
			b := s.NewBrowser()
			first := s.Redeem(t, s.PUB, b.Code(t, "alice", s.PUB)).Tokens(t)
			again := b.Get(t, s.AuthorizeURL(s.PUB)).Sent().Get("code")
			if again == "" {
				t.Fatal("the same again is asked")
			}
			second := s.Redeem(t, s.PUB, again).Tokens(t)
			change(t, s, b, first, second)
			fresh := s.NewBrowser()
			wantAsked(t, "after it", fresh.SignIn(t, "alice", s.PUB))
		})
	}
}

// A scope that user or server lost since the consent is in no token, and stays lost.
func TestScopeLostSinceTheConsentIsNotGranted(t *testing.T) {
	s := authtest.New(t)
	scopes := func(names ...string) {
		s.Users.Change("alice", func(a *authtest.Account) bool { a.Scopes = names; return true })
	}
	both := set("scope", "mcp:read mcp:write")
	b := s.NewBrowser()
	code := b.Code(t, "alice", s.PUB, both)
	scopes("mcp:read")
	tok := s.Redeem(t, s.PUB, code).Tokens(t)
	if tok.Scope != "mcp:read" {
		t.Errorf("a code gives %q", tok.Scope)
	}
	scopes("mcp:read", "mcp:write")
	if tok = s.Refresh(t, s.PUB, tok.Refresh).Tokens(t); tok.Scope != "mcp:read" {
		t.Errorf("a handle gives %q again", tok.Scope)
	}
	code = b.Code(t, "alice", s.PUB2, both)
	tok = s.Redeem(t, s.PUB2, code).Tokens(t)
	scopes("mcp:read")
	if tok = s.Refresh(t, s.PUB2, tok.Refresh).Tokens(t); tok.Scope != "mcp:read" {
		t.Errorf("a handle gives %q", tok.Scope)
	}
	scopes("mcp:read", "mcp:write")
	if tok = s.Refresh(t, s.PUB2, tok.Refresh).Tokens(t); tok.Scope != "mcp:read" {
		t.Errorf("a handle gives %q again", tok.Scope)
	}
	wantError(t, s.Refresh(t, s.PUB2, tok.Refresh, set("scope", "mcp:write")), 400, "invalid_scope")
	// A request for less loses nothing.
	code = b.Code(t, "alice", s.PRE, both)
	tok = s.Redeem(t, s.PRE, code).Tokens(t)
	tok = s.Refresh(t, s.PRE, tok.Refresh, set("scope", "mcp:read")).Tokens(t)
	if tok = s.Refresh(t, s.PRE, tok.Refresh).Tokens(t); tok.Scope != "mcp:read mcp:write" {
		t.Errorf("after a narrower request: %q", tok.Scope)
	}
	// With none left the code is not spent.
	code = b.Code(t, "alice", s.PRE, set("scope", "mcp:write", "prompt", "consent"))
	scopes("mcp:read")
	wantError(t, s.Redeem(t, s.PRE, code), 400, "invalid_grant")
	scopes("mcp:write")
	s.Redeem(t, s.PRE, code).Tokens(t)
}

// A client that repeats the granted scope at each refresh goes on with what is left of it, and one
// that asks for a lost scope alone keeps its handle.
func TestLostScopeMayBeRequestedAgain(t *testing.T) {
	s := authtest.New(t)
	scopes := func(names ...string) {
		s.Users.Change("alice", func(a *authtest.Account) bool { a.Scopes = names; return true })
	}
	both := set("scope", "mcp:read mcp:write")
	for name, lose := range map[string]func(authtest.Client) authtest.Tokens{
		"before the code is redeemed": func(c authtest.Client) authtest.Tokens {
			code := s.Code(t, "alice", c, both)
			scopes("mcp:read")
			return s.Redeem(t, c, code).Tokens(t)
		},
		"after it": func(c authtest.Client) authtest.Tokens {
			tok := s.Tokens(t, "alice", c, both)
			scopes("mcp:read")
			return tok
		},
	} {
		t.Run(name, func(t *testing.T) {
			scopes("mcp:read", "mcp:write")
			tok := lose(s.PUB)
			for range 3 {
				if tok = s.Refresh(t, s.PUB, tok.Refresh, both).Tokens(t); tok.Scope != "mcp:read" {
					t.Errorf("scope %q", tok.Scope)
				}
				scopes("mcp:read", "mcp:write") // it stays lost
			}
			wantError(t, s.Refresh(t, s.PUB, tok.Refresh, set("scope", "mcp:write")), 400, "invalid_scope")
			wantError(t, s.Refresh(t, s.PUB, tok.Refresh, set("scope", "mcp:read admin")), 400, "invalid_scope")
			s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
		})
	}
}

// A consent page works in the login session that opened it.
func TestConsentPageDiesWithItsSession(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, s *authtest.Server, b *authtest.Browser){
		"signed out": func(t *testing.T, s *authtest.Server, b *authtest.Browser) {
			binding := maps.Clone(b.Cookies)
			b.Submit(t, b.Get(t, "/logout"))
			for _, c := range binding { // whoever kept the other cookie
				if strings.Contains(c.Name, "browser") {
					b.Cookies[c.Name] = c
				}
			}
		},
		"its cookies are back": func(t *testing.T, s *authtest.Server, b *authtest.Browser) {
			kept := maps.Clone(b.Cookies)
			b.Submit(t, b.Get(t, "/logout"))
			for _, c := range kept {
				b.Cookies[c.Name] = c
			}
		},
		"signed out everywhere": func(t *testing.T, s *authtest.Server, b *authtest.Browser) {
			b.Submit(t, b.Get(t, "/account"), set("action", "sign_out_all"))
		},
		"another account": func(t *testing.T, s *authtest.Server, b *authtest.Browser) {
			b.Submit(t, b.Get(t, s.AuthorizeURL(s.PRE, set("prompt", "login"))), set("username", "bob", "password", "correct horse bob"))
		},
		"the session's cookie is gone": func(t *testing.T, s *authtest.Server, b *authtest.Browser) {
			for name := range b.Cookies {
				if strings.Contains(name, "session") {
					delete(b.Cookies, name)
				}
			}
		},
		"another password": func(t *testing.T, s *authtest.Server, b *authtest.Browser) {
			s.Users.Change("alice", func(a *authtest.Account) bool { a.Version = "2"; return true })
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := authtest.New(t)
			b := s.NewBrowser()
			page := b.SignIn(t, "alice", s.PUB)
			action, fields := page.Form(t)
			end(t, s, b)
			for _, decision := range []string{"approve", "deny"} {
				r := b.Post(t, action, url.Values{"state": fields["state"], "decision": {decision}})
				if r.StatusCode != 400 && r.StatusCode != 403 || r.Header.Get("Location") != "" {
					t.Errorf("%s: %d to %q", decision, r.StatusCode, r.Header.Get("Location"))
				}
			}
		})
	}
	// The same user in another tab changes nothing.
	s := authtest.New(t)
	b := s.NewBrowser()
	page := b.SignIn(t, "alice", s.PUB)
	b.Submit(t, b.Get(t, s.AuthorizeURL(s.PRE, set("prompt", "login"))), aliceLogin)
	if r := b.Submit(t, page, set("decision", "approve")); r.Sent().Get("code") == "" {
		t.Errorf("after a second login of the same user: %d %s", r.StatusCode, text(r))
	}
}

// A code is single use also if it outlives its grant.
func TestCodeThatOutlivesItsGrantIsRedeemedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t, func(c *authtest.Config) { c.Lives.Refresh, c.Lives.Code = 5*time.Second, 10*time.Minute })
		code := s.Code(t, "alice", s.PUB)
		s.Redeem(t, s.PUB, code).Tokens(t)
		for range 9 {
			time.Sleep(time.Minute)
			if err := s.Denylist.Prune(context.Background(), s.Store.Now()); err != nil {
				t.Fatal(err)
			}
			wantError(t, s.Redeem(t, s.PUB, code), 400, "invalid_grant")
		}
	})
}

// A grant dates from its consent and not from the use of its code: what was removed, added again
// or disconnected in between ends it.
func TestGrantDatesFromItsConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t)
		consented := s.Store.Now().Unix()
		code := s.Code(t, "alice", s.PUB)
		time.Sleep(30 * time.Second)
		s.Redeem(t, s.PUB, code).Tokens(t)
		grants, err := s.Denylist.Grants(t.Context(), "alice", s.Store.Now())
		if err != nil || len(grants) != 1 || grants[0].Created != consented {
			t.Errorf("%+v, %v; want one grant of %d", grants, err, consented)
		}
	})
}

// Introspection does not wait until the grants of a changed user are revoked.
func TestIntrospectionKnowsTheUsersVersion(t *testing.T) {
	s := authtest.New(t)
	tok := s.Tokens(t, "alice", s.PUB)
	s.Users.Change("alice", func(a *authtest.Account) bool { a.Version = "2"; return true })
	for _, token := range []string{tok.Access, tok.Refresh} {
		if r := s.Introspect(t, s.PUB, token); strings.TrimSpace(r.Body) != inactive {
			t.Errorf("%s", r.Body)
		}
	}
}

// A user without a version keeps the session of the login, and loses in it the scopes that the
// source says are lost.
func TestSessionLosesScopesOfItsUser(t *testing.T) {
	s := authtest.New(t)
	s.Users.Change("alice", func(a *authtest.Account) bool { a.Version = ""; return true })
	b := s.NewBrowser()
	s.Redeem(t, s.PUB, b.Code(t, "alice", s.PUB)).Tokens(t)
	write := s.AuthorizeURL(s.PUB, set("scope", "mcp:write"), set("prompt", "consent"))
	if r := b.Get(t, write); !strings.Contains(r.Body, "Allow access") {
		t.Errorf("before: %d %s", r.StatusCode, text(r))
	}
	s.Users.Change("alice", func(a *authtest.Account) bool { a.Scopes = []string{"mcp:read"}; return true })
	if r := b.Get(t, write); !strings.Contains(r.Body, `name="password"`) {
		t.Errorf("another user has to sign in: %d %s", r.StatusCode, text(r))
	}
	s.Users.Change("alice", func(a *authtest.Account) bool { a.Scopes = nil; return true })
	if r := b.Get(t, write); !strings.Contains(r.Body, "Allow access") {
		t.Errorf("if the source does not know: %d %s", r.StatusCode, text(r))
	}
}

// changing is a source whose user changes while a code is redeemed.
type changing struct {
	*authtest.Users
	lookups int
	instead func() // nil: the password changes
}

func (c *changing) Lookup(ctx context.Context, subject string) (users.User, error) {
	u, err := c.Users.Lookup(ctx, subject)
	if c.lookups--; c.lookups == 0 && c.instead != nil { // right after this one
		c.instead()
	} else if c.lookups == 0 {
		c.Users.Change("alice", func(a *authtest.Account) bool { a.Version = "2"; return true })
	}
	return u, err
}

// A user who changes between the check of a code and its row gets no tokens, and the
// grant is revoked.
func TestUserWhoChangesWhileACodeIsRedeemed(t *testing.T) {
	source := &changing{Users: authtest.NewUsers()}
	s := authtest.New(t, func(c *authtest.Config) { c.Users = source })
	code := s.Code(t, "alice", s.PUB)
	source.lookups = 1
	wantError(t, s.Redeem(t, s.PUB, code), 400, "invalid_grant")
	if source.lookups >= 0 {
		t.Fatal("the user was looked up once")
	}
	if grants, err := s.Denylist.Grants(t.Context(), "alice", s.Store.Now()); len(grants) > 0 || err != nil {
		t.Errorf("%d grants are live, %v", len(grants), err)
	}
	if n := s.Denylist.Stats().Revoked; n != 1 {
		t.Errorf("%d grants are revoked, want 1", n)
	}
}

// A blocked client gets nothing at any endpoint, and its users see why.
func TestBlockedClientGetsNothing(t *testing.T) {
	s := authtest.New(t)
	b := s.NewBrowser()
	tok := s.Redeem(t, s.PUB, b.Code(t, "alice", s.PUB)).Tokens(t)
	code := b.Code(t, "alice", s.PUB, set("prompt", "consent"))
	page := b.Get(t, s.AuthorizeURL(s.PUB, set("prompt", "consent")))
	if err := s.Denylist.Block(t.Context(), denylist.BlockedClient{Hash: seal.ClientHash(s.PUB.ID), ID: s.PUB.ID, At: s.Store.Now()}); err != nil {
		t.Fatal(err)
	}
	wantError(t, s.Redeem(t, s.PUB, code), 401, "invalid_client")
	wantError(t, s.Refresh(t, s.PUB, tok.Refresh), 401, "invalid_client")
	wantError(t, s.Introspect(t, s.PUB, tok.Access), 401, "invalid_client")
	for name, r := range map[string]*authtest.Response{
		"authorization": b.Get(t, s.AuthorizeURL(s.PUB)), "approval": b.Submit(t, page, set("decision", "approve")), "denial": b.Submit(t, page, set("decision", "deny")),
	} {
		if r.StatusCode != 400 || r.Header.Get("Location") != "" || !strings.Contains(r.Body, "blocked") {
			t.Errorf("%s: %d to %q", name, r.StatusCode, r.Header.Get("Location"))
		}
	}
	s.Redeem(t, s.PUB2, b.Code(t, "alice", s.PUB2)).Tokens(t)
	if err := s.Denylist.Unblock(t.Context(), seal.ClientHash(s.PUB.ID)); err != nil {
		t.Fatal(err)
	}
	s.Redeem(t, s.PUB, code).Tokens(t)
}

// A client that is blocked while its code is redeemed gets no tokens, and the grant is revoked.
func TestClientThatIsBlockedWhileACodeIsRedeemed(t *testing.T) {
	source := &changing{Users: authtest.NewUsers()}
	s := authtest.New(t, func(c *authtest.Config) { c.Users = source })
	code := s.Code(t, "alice", s.PUB)
	source.lookups = 1
	blocked := 0 // revoked by the block itself: what the client may have got for itself
	source.instead = func() {
		if err := s.Denylist.Block(t.Context(), denylist.BlockedClient{Hash: seal.ClientHash(s.PUB.ID), At: s.Store.Now()}); err != nil {
			t.Error(err)
		}
		blocked = s.Denylist.Stats().Revoked
	}
	wantError(t, s.Redeem(t, s.PUB, code), 401, "invalid_client")
	if grants, err := s.Denylist.Grants(t.Context(), "alice", s.Store.Now()); len(grants) > 0 || err != nil {
		t.Errorf("%d grants are live, %v", len(grants), err)
	}
	if n := s.Denylist.Stats().Revoked; n != blocked+1 {
		t.Errorf("%d grants are revoked, want %d", n, blocked+1)
	}
}
