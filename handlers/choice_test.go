package handlers_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signet/handlers"
	"signet/internal/clients"
	"signet/internal/store"
	"signet/internal/test/authtest"
)

// wide is a request for more than one scope.
const wide = "openid mcp:read mcp:write"

// choosing has a hierarchy of scopes.
func choosing(c *authtest.Config) {
	change := c.Change
	c.Change = func(o *handlers.Options) {
		if change != nil {
			change(o)
		}
		o.ScopeHierarchy = map[string][]string{"admin": {"mcp:write"}, "mcp:write": {"mcp:read"}}
	}
}

// asksFor returns the scopes that a consent page offers as checkboxes, those that are ticked,
// and the durations.
func asksFor(t *testing.T, r *authtest.Response) (free, ticked, durations []string) {
	t.Helper()
	if !r.AsksConsent() {
		t.Fatalf("no consent page: %d %s %s", r.StatusCode, r.Header.Get("Location"), text(r))
	}
	for _, tag := range strings.Split(r.Body, "<input ")[1:] {
		tag, _, _ = strings.Cut(tag, ">")
		_, value, _ := strings.Cut(tag, `value="`)
		value, _, _ = strings.Cut(value, `"`)
		switch {
		case strings.Contains(tag, `name="allow"`):
			free = append(free, value)
			if strings.HasSuffix(tag, " checked") {
				ticked = append(ticked, value)
			}
		case strings.Contains(tag, `name="duration"`):
			durations = append(durations, value)
		}
	}
	return free, ticked, durations
}

// allow sets the ticks of the consent form, and approves until the user revokes it.
func allow(scopes ...string) edit {
	return func(v url.Values) {
		v["allow"], v["decision"], v["duration"] = scopes, []string{"approve"}, []string{"revoked"}
	}
}

func TestUserGrantsAPartOfTheRequest(t *testing.T) {
	s := authtest.New(t, choosing)
	b := s.NewBrowser()
	page := b.SignIn(t, "alice", s.NAT, set("scope", wide+" admin"))
	free, ticked, durations := asksFor(t, page)
	if !slices.Equal(free, []string{"mcp:read", "mcp:write"}) || !slices.Equal(ticked, free) || !slices.Equal(durations, []string{"revoked", "month", "day", "hour"}) {
		t.Errorf("the page offers %v, ticks %v, for %v", free, ticked, durations)
	}
	if !strings.Contains(page.Body, `<code>openid</code> <span class="needed">required</span>`) {
		t.Errorf("the page does not say that openid is required: %s", text(page))
	}
	tok := s.Redeem(t, s.NAT, b.Submit(t, page, allow("mcp:read")).Sent().Get("code")).Tokens(t)
	if tok.Scope != "openid mcp:read" {
		t.Errorf("granted %q", tok.Scope)
	}
	if claims, err := s.Verifier.Verify(t.Context(), tok.Access); err != nil || claims.Scope != "openid mcp:read" {
		t.Errorf("token of %+v, %v", claims, err)
	}
	wantError(t, s.Refresh(t, s.NAT, tok.Refresh, set("scope", "mcp:write")), 400, "invalid_scope")
	if next := s.Refresh(t, s.NAT, tok.Refresh).Tokens(t); next.Scope != "openid mcp:read" {
		t.Errorf("a refresh gives %q", next.Scope)
	}
	if page := b.Get(t, "/account"); !strings.Contains(page.Body, "<code>mcp:read</code>") || strings.Contains(page.Body, "<code>mcp:write</code>") {
		t.Errorf("the account page: %s", text(page))
	}
}

// A form in which one thing is wrong grants nothing and spends nothing.
func TestWrongChoicesAreRefused(t *testing.T) {
	s := authtest.New(t, choosing)
	cases := []struct {
		name string
		edit edit
		says string
	}{
		{"a scope that the user may not grant", add("allow", "admin"), "cannot be granted"},
		{"a scope that was not requested", add("allow", "email"), "cannot be granted"},
		{"a scope that does not exist", add("allow", "root"), "cannot be granted"},
		{"two scopes in one field", set("allow", "mcp:read mcp:write"), "cannot be granted"},
		{"an unknown duration", set("duration", "year"), "none of these"},
		{"a number as a duration", set("duration", "99999999999"), "none of these"},
		{"two durations", add("duration", "hour"), "none of these"},
		{"a duration that is not offered", set("duration", "kept"), "none of these"},
		{"no scope", del("allow"), "Tick what"},
		{"an unknown decision", set("decision", "approve_all"), "decision must be"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b, client := s.NewBrowser(), s.Register(t, "http://127.0.0.1:8080/cb")
			page := b.SignIn(t, "alice", client, set("scope", "mcp:read mcp:write admin"))
			r := b.Submit(t, page, allow("mcp:read"), c.edit)
			if wantPage(t, r, 400); !strings.Contains(r.Body, c.says) {
				t.Errorf("the page does not say %q: %s", c.says, text(r))
			}
			if tok := s.Redeem(t, client, b.Submit(t, page, allow("mcp:read")).Sent().Get("code")).Tokens(t); tok.Scope != "mcp:read" {
				t.Errorf("then the good form grants %q", tok.Scope)
			}
		})
	}
	// The page keeps what was chosen.
	b := s.NewBrowser()
	page := b.SignIn(t, "alice", s.NAT, set("scope", wide))
	again := b.Submit(t, page, allow("mcp:write", "root"), set("duration", "day"))
	if _, ticked, _ := asksFor(t, again); !slices.Equal(ticked, []string{"mcp:write"}) || !strings.Contains(again.Body, `value="day" checked`) || strings.Count(again.Body, ` checked>`) != 2 {
		t.Errorf("the page forgot the choice: %s", text(again))
	}
}

// A form with a decision and nothing else approves what the page shows at first.
func TestFormWithoutChoiceApprovesTheRequest(t *testing.T) {
	s := authtest.New(t, choosing)
	b := s.NewBrowser()
	page := b.SignIn(t, "alice", s.NAT, set("scope", wide))
	if tok := s.Redeem(t, s.NAT, b.Submit(t, page, set("decision", "approve")).Sent().Get("code")).Tokens(t); tok.Scope != wide {
		t.Errorf("granted %q", tok.Scope)
	}
}

// What the flow cannot do without is fixed: openid, offline_access, what the resource always
// needs, and the only scope.
func TestRequiredScopesAreFixed(t *testing.T) {
	for _, c := range []struct {
		request, required string
		allow             []string
		free              []string
		granted           string // "": refused
	}{
		{"openid mcp:read", "", nil, []string{"mcp:read"}, "openid"},
		{"mcp:read", "", nil, nil, "mcp:read"},
		{"offline_access mcp:read", "", nil, nil, "offline_access mcp:read"},
		{"offline_access mcp:read mcp:write", "", nil, []string{"mcp:read", "mcp:write"}, ""},
		{"offline_access mcp:read mcp:write", "", []string{"mcp:read"}, []string{"mcp:read", "mcp:write"}, "offline_access mcp:read"},
		{"mcp:read mcp:write", "mcp:read", nil, []string{"mcp:write"}, "mcp:read"},
		{"openid profile email", "", nil, []string{"profile", "email"}, "openid"},
		{"profile email", "", []string{"email"}, []string{"profile", "email"}, "email"},
	} {
		t.Run(c.request+" without "+c.required, func(t *testing.T) {
			s := authtest.New(t, func(o *authtest.Config) {
				o.Change = func(o *handlers.Options) { o.RequiredScopes = strings.Fields(c.required) }
			}, choosing)
			b := s.NewBrowser()
			page := b.SignIn(t, "alice", s.NAT, set("scope", c.request))
			if free, _, _ := asksFor(t, page); !slices.Equal(free, c.free) {
				t.Errorf("free are %v, want %v", free, c.free)
			}
			r := b.Submit(t, page, allow(c.allow...))
			if c.granted == "" {
				wantPage(t, r, 400)
			} else if tok := s.Redeem(t, s.NAT, r.Sent().Get("code")).Tokens(t); tok.Scope != c.granted {
				t.Errorf("granted %q, want %q", tok.Scope, c.granted)
			}
		})
	}
}

// Read only is offered where it is a choice, and ticks do not count then.
func TestReadOnly(t *testing.T) {
	dots := map[string][]string{"files.write": {"files.readonly"}, "owner": {"deploy"}}
	for _, c := range []struct {
		request, required string
		hierarchy         map[string][]string // nil: that of choosing
		granted           string              // "": not offered
	}{
		{request: "openid offline_access mcp:read mcp:write", granted: "openid offline_access mcp:read"},
		{request: "email mcp:write mcp:read", granted: "email mcp:read"},
		{request: "openid mcp:read"},
		{request: "openid mcp:write"},
		{request: "mcp:read mcp:write", required: "mcp:write"},
		{request: "mcp:read mcp:write", required: "mcp:read", granted: "mcp:read"},
		{request: "mcp:read mcp:write", hierarchy: map[string][]string{}},
		{request: "files.readonly files.write owner mcp:write", hierarchy: dots, granted: "files.readonly"},
		{request: "deploy owner", hierarchy: dots},
	} {
		t.Run(c.request+" without "+c.required, func(t *testing.T) {
			s := authtest.New(t, choosing, func(o *authtest.Config) {
				o.Scopes = []string{"mcp:read", "mcp:write", "files.readonly", "files.write", "owner", "deploy"}
				before := o.Change
				o.Change = func(o *handlers.Options) {
					before(o)
					if o.RequiredScopes = strings.Fields(c.required); c.hierarchy != nil {
						o.ScopeHierarchy = c.hierarchy
					}
				}
			})
			s.Users.Change("alice", func(a *authtest.Account) bool { a.Scopes = s.Config.Scopes; return true })
			b := s.NewBrowser()
			page := b.SignIn(t, "alice", s.NAT, set("scope", c.request))
			if offered := strings.Contains(page.Body, `value="read_only"`); offered != (c.granted != "") {
				t.Fatalf("read only is offered: %v: %s", offered, text(page))
			}
			r := b.Submit(t, page, allow(strings.Fields(c.request)...), set("decision", "read_only"))
			if c.granted == "" {
				wantPage(t, r, 400)
			} else if tok := s.Redeem(t, s.NAT, r.Sent().Get("code")).Tokens(t); tok.Scope != c.granted {
				t.Errorf("granted %q, want %q", tok.Scope, c.granted)
			}
		})
	}
}

// A grant ends when its user chose: neither refreshes nor access tokens last longer.
func TestGrantEndsWhenItsUserChose(t *testing.T) {
	for name, life := range map[string]time.Duration{"hour": time.Hour, "day": 24 * time.Hour, "month": 30 * 24 * time.Hour, "revoked": 60 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := authtest.New(t, func(c *authtest.Config) { c.Lives.Refresh, c.Lives.Idle = 60*24*time.Hour, 60*24*time.Hour })
				b := s.NewBrowser()
				page := b.SignIn(t, "alice", s.NAT)
				begin := time.Now()
				code := b.Submit(t, page, set("decision", "approve", "duration", name)).Sent().Get("code")
				tok := s.Redeem(t, s.NAT, code).Tokens(t)
				grants, err := s.Denylist.Grants(t.Context(), "alice", s.Store.Now())
				if end := begin.Add(life).Unix(); err != nil || len(grants) != 1 || grants[0].Expires != end {
					t.Fatalf("%+v, %v; want one that ends at %d", grants, err, end)
				}
				if life > time.Hour {
					return // a month of the clock of the test takes minutes
				}
				time.Sleep(life - 2*time.Second)
				tok = s.Refresh(t, s.NAT, tok.Refresh).Tokens(t)
				if tok.ExpiresIn != 2 {
					t.Errorf("two seconds before the end an access token lasts %d s", tok.ExpiresIn)
				}
				time.Sleep(2 * time.Second)
				wantError(t, s.Refresh(t, s.NAT, tok.Refresh), 400, "invalid_grant")
				if r := s.Introspect(t, s.NAT, tok.Access); strings.TrimSpace(r.Body) != inactive {
					t.Errorf("after the end: %s", r.Body)
				}
			})
		})
	}
}

// No duration is longer than the configuration's.
func TestDurationsAreNotLongerThanTheConfigurations(t *testing.T) {
	for life, want := range map[time.Duration]string{
		time.Minute: "revoked", time.Hour - time.Second: "revoked", time.Hour: "revoked hour", 24 * time.Hour: "revoked day hour", 720*time.Hour - time.Second: "revoked day hour",
		720 * time.Hour: "revoked month day hour",
	} {
		s := authtest.New(t, func(c *authtest.Config) { c.Lives.Refresh = life })
		b := s.NewBrowser()
		page := b.SignIn(t, "alice", s.NAT)
		_, _, durations := asksFor(t, page)
		if got := strings.Join(durations, " "); got != want {
			t.Errorf("%s: %s, want %s", life, got, want)
		}
		if !slices.Contains(durations, "month") {
			wantPage(t, b.Submit(t, page, set("decision", "approve", "duration", "month")), 400)
		}
	}
}

// The same request gives silently what the user chose, and no more.
func TestRememberedConsentRemembersTheChoice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t, choosing)
		b := s.NewBrowser()
		approve := func(edits ...edit) authtest.Tokens {
			t.Helper()
			page := b.SignIn(t, "alice", s.PUB, set("scope", wide, "prompt", "consent"))
			return s.Redeem(t, s.PUB, b.Submit(t, page, edits...).Sent().Get("code")).Tokens(t)
		}
		silent := func(edits ...edit) authtest.Tokens {
			t.Helper()
			r := b.Get(t, s.AuthorizeURL(s.PUB, append([]edit{set("scope", wide)}, edits...)...))
			if r.Sent().Get("code") == "" {
				t.Fatalf("not silent: %d %s", r.StatusCode, text(r))
			}
			return s.Redeem(t, s.PUB, r.Sent().Get("code")).Tokens(t)
		}
		ends := func(tok authtest.Tokens) time.Duration {
			t.Helper()
			claims, err := s.Verifier.Verify(t.Context(), tok.Access)
			if err != nil {
				t.Fatal(err)
			}
			g, err := s.Denylist.Find(t.Context(), claims.GrantID)
			if err != nil {
				t.Fatal(err)
			}
			return time.Until(time.Unix(g.Expires, 0)).Round(time.Second)
		}
		approve(allow("mcp:read"))
		time.Sleep(time.Second)
		tok := silent(set("scope", "mcp:write openid mcp:read")) // the order does not count
		if tok.Scope != "openid mcp:read" || ends(tok) != s.Config.Lives.Refresh {
			t.Errorf("a part: silently %q for %s", tok.Scope, ends(tok))
		}
		// A client that asks again at once cannot do with less: the page asks for the rest.
		time.Sleep(time.Minute)
		if free, _, _ := asksFor(t, b.Get(t, s.AuthorizeURL(s.PUB, set("scope", wide)))); !slices.Equal(free, []string{"mcp:write"}) {
			t.Errorf("the page asks for %v", free)
		}
		if tok := silent(set("prompt", "none")); tok.Scope != "openid mcp:read" {
			t.Errorf("without a page: %q", tok.Scope)
		}
		time.Sleep(11 * time.Minute)
		if tok := silent(); tok.Scope != "openid mcp:read" {
			t.Errorf("later: silently %q", tok.Scope)
		}
		time.Sleep(time.Second)
		if tok := approve(allow("mcp:read", "mcp:write")); tok.Scope != wide {
			t.Errorf("the user added a scope: %q", tok.Scope)
		}
		time.Sleep(time.Second)
		if tok := silent(); tok.Scope != wide {
			t.Errorf("all: silently %q", tok.Scope)
		}
		time.Sleep(time.Second)
		approve(allow("mcp:read", "mcp:write"), set("duration", "hour"))
		time.Sleep(40 * time.Minute)
		tok = silent()
		if tok.Scope != wide || ends(tok) != 20*time.Minute {
			t.Errorf("for an hour: after 40 minutes silently %q for %s", tok.Scope, ends(tok))
		}
		time.Sleep(20 * time.Minute)
		wantError(t, s.Refresh(t, s.PUB, tok.Refresh), 400, "invalid_grant")
	})
}

// A request for more asks for just the rest. It keeps what was granted, and the end that the
// user chose.
func TestStepUpAsksForTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t, choosing)
		b := s.NewBrowser()
		page := b.SignIn(t, "alice", s.NAT, set("scope", wide))
		first := s.Redeem(t, s.NAT, b.Submit(t, page, allow("mcp:read"), set("duration", "day")).Sent().Get("code")).Tokens(t)
		time.Sleep(time.Hour)

		page = b.Get(t, s.AuthorizeURL(s.NAT, set("scope", wide+" email")))
		free, _, durations := asksFor(t, page)
		if !slices.Equal(free, []string{"mcp:write", "email"}) || !slices.Equal(durations, []string{"kept"}) || strings.Contains(page.Body, `value="read_only"`) {
			t.Errorf("the page asks for %v, for %v: %s", free, durations, text(page))
		}
		wantPage(t, b.Submit(t, page, allow("mcp:write")), 400) // for longer than the earlier grant
		tok := s.Redeem(t, s.NAT, b.Submit(t, page, allow("mcp:write"), set("duration", "kept")).Sent().Get("code")).Tokens(t)
		if tok.Scope != wide {
			t.Errorf("granted %q", tok.Scope)
		}
		// Denied, or with nothing added, nothing is lost.
		page = b.Get(t, s.AuthorizeURL(s.NAT, set("scope", wide+" email")))
		if same := s.Redeem(t, s.NAT, b.Submit(t, page, allow(), set("duration", "kept")).Sent().Get("code")).Tokens(t); same.Scope != wide {
			t.Errorf("nothing added: %q", same.Scope)
		}
		wantRedirect(t, b.Submit(t, b.Get(t, s.AuthorizeURL(s.NAT, set("scope", wide+" email"))), set("decision", "deny")), s.NAT.RedirectURI, "access_denied", "S")
		if still := s.Refresh(t, s.NAT, first.Refresh).Tokens(t); still.Scope != "openid mcp:read" {
			t.Errorf("the first grant gives %q", still.Scope)
		}
		// The same request again has nothing left to ask, so the user decides anew.
		if free, _, durations := asksFor(t, b.Get(t, s.AuthorizeURL(s.NAT, set("scope", wide)))); len(free) != 2 || len(durations) != 4 {
			t.Errorf("decided anew: %v for %v", free, durations)
		}
		time.Sleep(23 * time.Hour)
		wantError(t, s.Refresh(t, s.NAT, tok.Refresh), 400, "invalid_grant")
	})
}

// When another grant of the client has ended, and the consents with it, the page still tells an
// end that the user chose from one that the user did not choose. An earlier release kept neither:
// then the end is not extended.
func TestEndIsTheUsersAfterAnotherGrantHasEnded(t *testing.T) {
	s := authtest.New(t, choosing)
	for _, c := range []struct {
		duration, want string
		byEarlier      bool // release
	}{{"revoked", "revoked month day hour", false}, {"day", "kept", false}, {"revoked", "kept", true}, {"day", "kept", true}} {
		client, b := s.Register(t, "http://127.0.0.1:8080/cb"), s.NewBrowser()
		other := s.Redeem(t, client, s.Code(t, "alice", client)).Tokens(t)
		page := b.SignIn(t, "alice", client, set("scope", "mcp:write", "prompt", "consent"))
		s.Redeem(t, client, b.Submit(t, page, allow("mcp:write"), set("duration", c.duration)).Sent().Get("code")).Tokens(t)
		s.Revoke(t, client, other.Refresh)
		if c.byEarlier {
			err := s.Store.Write(t.Context(), func(tx store.Tx) error {
				_, err := tx.Exec("UPDATE grants SET consent_hash = ''")
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		page = b.Get(t, s.AuthorizeURL(client, set("scope", "mcp:write email")))
		if _, _, durations := asksFor(t, page); strings.Join(durations, " ") != c.want {
			t.Errorf("%+v: the page offers %v", c, durations)
		}
	}
}

// What counts as granted before was granted by this user, to this client, for this resource.
func TestStepUpIsOfTheSameClientUserAndResource(t *testing.T) {
	s := authtest.New(t, choosing, several)
	b := s.NewBrowser()
	grant := func(b *authtest.Browser, user string, c authtest.Client, edits ...edit) authtest.Tokens {
		t.Helper()
		return s.Redeem(t, c, b.Code(t, user, c, edits...)).Tokens(t)
	}
	asked := func(edits ...edit) int {
		t.Helper()
		free, _, _ := asksFor(t, b.SignIn(t, "alice", s.NAT, append([]edit{set("scope", "mcp:read mcp:write")}, edits...)...))
		return len(free)
	}
	grant(b, "alice", s.LOC)
	grant(b, "alice", s.NAT, set("resource", authtest.ResourceB))
	grant(s.NewBrowser(), "bob", s.NAT)
	if n := asked(); n != 2 {
		t.Errorf("after grants of others the page asks for %d scopes", n)
	}
	tok := grant(b, "alice", s.NAT)
	if n := asked(); n != 1 {
		t.Errorf("after the client's own grant the page asks for %d scopes", n)
	}
	s.Revoke(t, s.NAT, tok.Refresh)
	if n := asked(); n != 2 {
		t.Errorf("after its end the page asks for %d scopes", n)
	}
}

// Where the choice is locked, the page shows the scopes, and nothing in the form counts. An
// earlier choice of the user is not remembered then.
func TestLockedConsent(t *testing.T) {
	s := authtest.New(t, choosing)
	spec := clients.Spec{ID: "fixed", RedirectURIs: []string{"https://fixed.test/cb"}, Scopes: []string{"mcp:read", "mcp:write"}, Public: true, Consent: clients.ConsentFixed}
	fixed := s.Configure(t, spec)
	spec.ID, spec.Consent = "choose", clients.ConsentChoose
	choose := s.Configure(t, spec)
	b := s.NewBrowser()
	page := b.SignIn(t, "alice", fixed, set("scope", wide))
	free, _, durations := asksFor(t, page)
	if len(free)+len(durations) > 0 || strings.Contains(page.Body, "read_only") || !strings.Contains(page.Body, "mcp:write") || strings.Contains(page.Body, "required") {
		t.Errorf("the page lets choose %v %v: %s", free, durations, text(page))
	}
	wantPage(t, b.Submit(t, page, set("decision", "read_only")), 400)
	tok := s.Redeem(t, fixed, b.Submit(t, page, allow("mcp:read", "root"), set("duration", "hour")).Sent().Get("code")).Tokens(t)
	grants, err := s.Denylist.Grants(t.Context(), "alice", s.Store.Now())
	if tok.Scope != wide || err != nil || len(grants) != 1 || grants[0].Expires-grants[0].Created < int64((700*time.Hour).Seconds()) {
		t.Errorf("granted %q: %+v, %v", tok.Scope, grants, err)
	}
	if r := b.Get(t, s.AuthorizeURL(fixed, set("scope", wide))); r.Sent().Get("code") == "" {
		t.Errorf("the consent is not remembered: %s", text(r))
	}
	if free, _, _ := asksFor(t, b.Get(t, s.AuthorizeURL(choose, set("scope", wide)))); len(free) != 2 {
		t.Errorf("the other client's page offers %v", free)
	}
}
