package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signet/handlers"
	"signet/internal/admission"
	"signet/internal/test/authtest"
	"signet/users"
)

// wantTooMany demands a refusal with a time, in JSON or as a page.
func wantTooMany(t *testing.T, r *authtest.Response) {
	t.Helper()
	seconds, err := strconv.Atoi(r.Header.Get("Retry-After"))
	if r.StatusCode != http.StatusTooManyRequests || err != nil || seconds < 1 || r.Header.Get("Location") != "" {
		t.Errorf("got %d, Retry-After %q, Location %q; want 429 with a time\n%s", r.StatusCode, r.Header.Get("Retry-After"), r.Header.Get("Location"), text(r))
	}
	if r.Header.Get("Content-Type") == "application/json" && r.Error() != "temporarily_unavailable" {
		t.Errorf("got %s; want a code on which clients keep their tokens", r.Body)
	}
}

func limited(l handlers.Limits) func(*authtest.Config) {
	return func(c *authtest.Config) {
		for _, f := range []struct{ to, from *int }{
			{&c.Limits.Authorize, &l.Authorize}, {&c.Limits.Login, &l.Login}, {&c.Limits.Register, &l.Register}, {&c.Limits.RegisterAll, &l.RegisterAll},
			{&c.Limits.WrongSecret, &l.WrongSecret}, {&c.Limits.TokensGrant, &l.TokensGrant}, {&c.Limits.TokensClient, &l.TokensClient},
		} {
			if *f.from != 0 {
				*f.to = *f.from
			}
		}
	}
}

// from sends a request as if it came from an address.
func from(t *testing.T, s *authtest.Server, address, method, target, contentType, body string) *authtest.Response {
	t.Helper()
	r := request(method, target, body, "Content-Type", contentType, "Accept", "text/html")
	r.RemoteAddr = address
	return s.Do(t, r)
}

// Authorization requests are counted by address, and an IPv6 network of 64 bits is one
// address. A browser over the limit gets a page, and a minute later another chance.
func TestAuthorizationRequestsAreLimitedByAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t, limited(handlers.Limits{Authorize: 10}))
		ask := func(address string) *authtest.Response {
			return from(t, s, address, "GET", s.AuthorizeURL(s.PUB), "", "")
		}
		for i := range 10 {
			if r := ask(fmt.Sprintf("[2001:db8::%x]:1000", i)); r.StatusCode != 303 {
				t.Fatalf("request %d: %d", i+1, r.StatusCode)
			}
		}
		r := ask("[2001:db8::ffff]:1000")
		wantTooMany(t, r)
		if !strings.HasPrefix(r.Header.Get("Content-Type"), "text/html") {
			t.Errorf("a user is told in %s", r.Header.Get("Content-Type"))
		}
		for _, other := range []string{"[2001:db8:0:1::1]:1000", "192.0.2.7:1000", "[::ffff:192.0.2.8]:1000"} {
			if r := ask(other); r.StatusCode != 303 {
				t.Errorf("another address, %s: %d", other, r.StatusCode)
			}
		}
		time.Sleep(2 * time.Minute)
		if r := ask("[2001:db8::1]:1000"); r.StatusCode != 303 {
			t.Errorf("after a while: %d", r.StatusCode)
		}
	})
}

// A login that no client asked for counts too, and the account page of a user who is signed in does
// not.
func TestLoginsForTheAccountPageAreLimitedByAddress(t *testing.T) {
	s := authtest.New(t, limited(handlers.Limits{Authorize: 3}))
	b := s.NewBrowser()
	b.SignIn(t, "alice", s.PUB) // one
	for range 5 {
		if r := b.Get(t, "/account"); r.StatusCode != http.StatusOK {
			t.Fatalf("the user's own page: %d %s", r.StatusCode, text(r))
		}
	}
	for range 2 {
		wantLogin(t, s.NewBrowser().Get(t, "/account"))
	}
	wantTooMany(t, s.NewBrowser().Get(t, "/account"))
}

// Steady use within the limit is never refused.
func TestLimitIsPerMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t, limited(handlers.Limits{Authorize: 10}))
		for minute := range 6 {
			for range 5 {
				if r := from(t, s, "192.0.2.7:1000", "GET", s.AuthorizeURL(s.PUB), "", ""); r.StatusCode != 303 {
					t.Fatalf("minute %d: %d", minute, r.StatusCode)
				}
			}
			time.Sleep(time.Minute)
		}
	})
}

// Users behind a proxy that does not tell their addresses are not one user: one who fails,
// or who sends too much, keeps no other from signing in. Guessing one user's password is
// slowed down all the same.
func TestUsersWithoutAddressAreNotOneUser_C09(t *testing.T) {
	s := authtest.New(t, func(c *authtest.Config) {
		limited(handlers.Limits{Authorize: 10, Login: 100, Register: 10})(c)
		change := c.Change
		c.Change = func(o *handlers.Options) {
			if change != nil {
				change(o)
			}
			o.ClientIP = func(*http.Request) (netip.Addr, bool) { return netip.MustParseAddr("127.0.0.1"), false }
		}
	})
	for i := range 60 {
		if r := tryLogin(t, s, "192.0.2.7:1000", fmt.Sprintf("user%d", i), "wrong"); r.StatusCode != http.StatusUnauthorized {
			t.Fatalf("a wrong password, number %d: %d", i+1, r.StatusCode)
		}
		if r := from(t, s, "192.0.2.7:1000", "POST", authtest.Issuer+"/register", "application/json", registration); r.StatusCode != http.StatusCreated {
			t.Fatalf("registration %d: %d", i+1, r.StatusCode)
		}
	}
	guesses := 0
	for guesses < 20 && tryLogin(t, s, "192.0.2.7:1000", "bob", "wrong").StatusCode == http.StatusUnauthorized {
		guesses++
	}
	if guesses != 5 {
		t.Errorf("%d guesses for one user before the first wait, want 5", guesses)
	}
	if r := tryLogin(t, s, "192.0.2.7:1000", "alice", "correct horse alice"); r.StatusCode != 303 {
		t.Errorf("the right password of another user: %d", r.StatusCode)
	}
}

// stalling holds up the logins of bob until one at a time is let go.
type stalling struct {
	*authtest.Users
	goOn chan struct{}
}

func (u *stalling) Check(ctx context.Context, name, password string) (users.User, error) {
	if name == "bob" {
		<-u.goOn
	}
	return u.Users.Check(ctx, name, password)
}

// A user whose right passwords fill the queue keeps no other user from signing in, whether
// they come from the same address or not.
func TestManyGoodLoginsOfOneUserLeaveTurnsToOthers_C10(t *testing.T) {
	for name, address := range map[string]string{"from elsewhere": "198.51.100.1:1000", "from the same network": "[2001:db8::9]:1000"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := &stalling{authtest.NewUsers(), make(chan struct{})}
				classes := admission.New()
				classes.Logins(1)
				s := authtest.New(t, func(c *authtest.Config) {
					c.Users = source
					c.Change = func(o *handlers.Options) { o.Admission = classes }
				})
				var flood sync.WaitGroup
				for i := range 14 {
					flood.Go(func() { tryLogin(t, s, fmt.Sprintf("[2001:db8::%d]:1000", i+1), "bob", "correct horse bob") })
				}
				synctest.Wait()
				if stats := classes.Login.Stats(); stats.Running != 2 || stats.Waiting != 7 {
					t.Fatalf("%+v", stats)
				}
				alice := make(chan int, 1)
				go func() { alice <- tryLogin(t, s, address, "alice", "correct horse alice").StatusCode }()
				synctest.Wait()
				source.goOn <- struct{}{}
				select {
				case status := <-alice:
					if status != http.StatusSeeOther {
						t.Errorf("another user's login: %d, want %d", status, http.StatusSeeOther)
					}
				case <-time.After(time.Second):
					t.Error("another user's login was not next")
				}
				close(source.goOn)
				flood.Wait()
			})
		})
	}
}

const registration = `{"redirect_uris":["https://app.test/cb"],"token_endpoint_auth_method":"none"}`

// H06: ten thousand registrations in a minute, from one address or from as many, are
// refused for the greater part, add no row, and take no memory.
func TestRegistrationFloodIsLimitedAsAWhole_H06(t *testing.T) {
	for name, address := range map[string]func(int) string{
		"one address":    func(int) string { return "192.0.2.7:1000" },
		"many addresses": func(i int) string { return fmt.Sprintf("10.%d.%d.1:1000", i/256, i%256) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // or it may take more than a minute
				s := authtest.New(t, func(c *authtest.Config) { c.Limits = handlers.Limits{} })
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				refused := 0
				for i := range 10_000 {
					r := request("POST", authtest.Issuer+"/register", registration, "Content-Type", "application/json")
					r.RemoteAddr = address(i)
					switch res := s.Failing(t, r); res.StatusCode {
					case http.StatusCreated:
					case http.StatusTooManyRequests:
						if refused++; refused == 1 {
							wantTooMany(t, res)
						}
					default:
						t.Fatalf("%d %s", res.StatusCode, res.Body)
					}
				}
				if want := 10_000 - handlers.DefaultLimits.RegisterAll; refused < want*9/10 {
					t.Errorf("%d of 10,000 were refused, want about %d", refused, want)
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
					t.Errorf("the heap has grown by %d KB", grown>>10)
				}
			})
		})
	}
}

// Anybody can present handles, codes and tokens that are not valid. The answers to them are
// spread, whether they are refusals or not.
func TestAnswersToWrongTokensAreSpread(t *testing.T) {
	for name, ask := range map[string]struct {
		path   string
		form   url.Values
		status int
	}{
		"handle":              {"/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}}, 400},
		"code":                {"/token", url.Values{"grant_type": {"authorization_code"}, "code": {"x"}, "code_verifier": {"x"}}, 400},
		"introspected token":  {"/introspect", url.Values{"token": {"x"}}, 200},
		"revoked token":       {"/revoke", url.Values{"token": {"x"}}, 200},
		"client":              {"/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}, "client_id": {"nobody"}}, 401},
		"path of no endpoint": {"/nothing", url.Values{}, 404},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := authtest.New(t)
				if !ask.form.Has("client_id") {
					ask.form.Set("client_id", s.PUB.ID)
				}
				s.Tokens(t, "alice", s.PUB) // credentials are in use
				begin := time.Now()
				const times = 250
				for range times {
					r := from(t, s, "192.0.2.7:1000", "POST", ask.path, "application/x-www-form-urlencoded", ask.form.Encode())
					if r.StatusCode != ask.status {
						t.Fatalf("got %d, want %d", r.StatusCode, ask.status)
					}
				}
				if took, gap := time.Since(begin), time.Second/time.Duration(3000*runtime.GOMAXPROCS(0)); took < (times-51)*gap || took > times*gap {
					t.Errorf("%d took %v, want about %v", times, took, (times-50)*gap)
				}
			})
		})
	}
}

// Refusals for a limit take a share of the core, not all of it: the first are given at
// once, and those of a flood one after the other. Whoever is within a limit waits for
// nobody.
func TestRefusalsForALimitAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t, limited(handlers.Limits{Authorize: 1}))
		ask := func(address string, want int) time.Duration {
			t.Helper()
			begin := time.Now()
			if r := from(t, s, address, "GET", s.AuthorizeURL(s.PUB), "", ""); r.StatusCode != want {
				t.Fatalf("got %d, want %d", r.StatusCode, want)
			}
			return time.Since(begin)
		}
		ask("192.0.2.7:1000", 303)
		var first, later time.Duration
		for range 40 {
			first += ask("192.0.2.7:1000", 429)
		}
		for range 1000 {
			later += ask("192.0.2.7:1000", 429)
		}
		if gap := time.Second / time.Duration(3000*runtime.GOMAXPROCS(0)); first != 0 || later < 900*gap || later > 1000*gap {
			t.Errorf("40 refusals took %v, 1000 more %v; want none, and about %v", first, later, 1000*gap)
		}
		if took := ask("192.0.2.8:1000", 303); took != 0 {
			t.Errorf("another address waited for %v", took)
		}
	})
}

// A client's secret cannot be guessed from one address, whichever client is named. No
// other client or address is affected.
func TestWrongSecretsAreLimited(t *testing.T) {
	s := authtest.New(t, limited(handlers.Limits{WrongSecret: 5}))
	tok := s.Tokens(t, "alice", s.CONF)
	wrong := s.CONF
	wrong.Secret = "wrong"
	for range 5 {
		wantError(t, s.Refresh(t, wrong, tok.Refresh), 401, "invalid_client")
	}
	wantTooMany(t, s.Refresh(t, wrong, tok.Refresh))
	wantTooMany(t, s.Refresh(t, s.CONF, tok.Refresh)) // or the answer would tell the right one
	wantTooMany(t, s.Introspect(t, wrong, tok.Access))
	inBody := url.Values{"client_id": {s.CONF.ID}, "client_secret": {"wrong"}}
	wantTooMany(t, s.PostForm(t, "/token", authtest.Client{}, authtest.RefreshForm(tok.Refresh, func(v url.Values) { maps.Copy(v, inBody) })))
	bobs := s.Tokens(t, "bob", s.CONF) // whose handle the guesser does not have
	bobs = s.Refresh(t, s.CONF, bobs.Refresh).Tokens(t)
	if r := s.Introspect(t, s.CONF, bobs.Access); r.JSON(t)["active"] != true {
		t.Errorf("introspection of another user's token: %d %s", r.StatusCode, r.Body)
	}
	wantTooMany(t, s.Refresh(t, s.CONF, "made-up"))
	s.Revoke(t, s.CONF, bobs.Refresh)
	pre := s.Tokens(t, "alice", s.PRE)
	s.Refresh(t, s.PRE, pre.Refresh).Tokens(t) // another client from there

	r := request("POST", authtest.Issuer+"/token", authtest.RefreshForm(tok.Refresh).Encode(), "Content-Type", formType)
	r.SetBasicAuth(s.CONF.ID, s.CONF.Secret)
	r.RemoteAddr = "198.51.100.1:1000"
	s.Do(t, r).Tokens(t) // the client itself, from elsewhere
}

// Only secrets that a person may have chosen are limited. Other callers at a client's
// address cannot block the requests of a public client, or of one that registered.
func TestWrongSecretsOfOtherClientsBlockNothing(t *testing.T) {
	s := authtest.New(t, limited(handlers.Limits{WrongSecret: 5}))
	v := s.Post(t, "/register", "application/json", `{"redirect_uris":["https://app.test/cb"]}`).JSON(t)
	registered := authtest.Client{ID: v["client_id"].(string), Secret: v["client_secret"].(string), RedirectURI: "https://app.test/cb"}
	for name, c := range map[string]authtest.Client{"public": s.PUB, "preregistered": s.PRE, "registered": registered} {
		tok := s.Tokens(t, "alice", c)
		bad := c
		bad.Secret = "wrong"
		for range 20 {
			wantError(t, s.Refresh(t, bad, tok.Refresh), 401, "invalid_client")
			wantError(t, s.Refresh(t, bad, "made-up"), 401, "invalid_client")
			wantError(t, s.Introspect(t, bad, "x"), 401, "invalid_client")
		}
		tok = s.Refresh(t, c, tok.Refresh).Tokens(t)
		if r := s.Introspect(t, c, tok.Access); r.JSON(t)["active"] != true {
			t.Errorf("%s: %d %s", name, r.StatusCode, r.Body)
		}
		s.Revoke(t, c, tok.Refresh)
	}
	for i := range 20 { // clients that do not exist
		wantError(t, s.Refresh(t, authtest.Client{ID: "nobody", Secret: fmt.Sprint("guess", i)}, "x"), 401, "invalid_client")
	}
}

// A machine or a resource server presents no token of its own. Its secret was made here, so other
// callers at its address cannot block it either.
func TestWrongSecretsDoNotBlockAMadeOne(t *testing.T) {
	s := authtest.New(t, limited(handlers.Limits{WrongSecret: 5}))
	c := machine(t, s)
	tok := s.Tokens(t, "alice", s.PUB)
	wrong := c
	wrong.Secret = "wrong"
	for range 5 {
		wantError(t, askForItself(t, s, wrong), 401, "invalid_client")
	}
	wantTooMany(t, askForItself(t, s, wrong))
	askForItself(t, s, c).Tokens(t)
	if r := s.Introspect(t, c, tok.Access); r.StatusCode != 200 {
		t.Errorf("introspection: %s", r)
	}
}

// A grant that asks too often waits and keeps its tokens. Other grants of the client do
// not wait, and made-up handles are not counted.
func TestTokenRequestsOfOneGrantAreLimited(t *testing.T) {
	s := authtest.New(t, limited(handlers.Limits{TokensGrant: 5}))
	busy, other := s.Tokens(t, "alice", s.PUB), s.Tokens(t, "bob", s.PUB) // their codes are the first request
	for range 20 {
		wantError(t, s.Refresh(t, s.PUB, "made-up"), 400, "invalid_grant")
	}
	for range 4 {
		busy = s.Refresh(t, s.PUB, busy.Refresh).Tokens(t)
	}
	wantTooMany(t, s.Refresh(t, s.PUB, busy.Refresh))
	s.Refresh(t, s.PUB, other.Refresh).Tokens(t)
	if _, err := s.Verifier.Verify(context.Background(), busy.Access); err != nil {
		t.Errorf("the grant has ended: %v", err)
	}
}

func TestTokenRequestsOfOneClientAreLimited(t *testing.T) {
	s := authtest.New(t, limited(handlers.Limits{TokensClient: 3}))
	a, b, c := s.Code(t, "alice", s.PUB), s.Code(t, "bob", s.PUB), s.Code(t, "alice", s.PUB2)
	tok := s.Redeem(t, s.PUB, a).Tokens(t)
	for range 2 {
		tok = s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
	}
	wantTooMany(t, s.Refresh(t, s.PUB, tok.Refresh))
	wantTooMany(t, s.Redeem(t, s.PUB, b))
	s.Redeem(t, s.PUB2, c).Tokens(t)
}

// tryLogin sends a login form from an address and returns the answer.
func tryLogin(t *testing.T, s *authtest.Server, address, name, password string, header ...string) *authtest.Response {
	t.Helper()
	return s.Do(t, loginRequest(t, s, address, name, password, header...))
}

// loginRequest returns the request with which a login form is sent from an address.
func loginRequest(t *testing.T, s *authtest.Server, address, name, password string, header ...string) *http.Request {
	t.Helper()
	b := s.NewBrowser()
	page := b.Get(t, s.AuthorizeURL(s.PUB))
	action, form := page.Form(t)
	form.Set("username", name)
	form.Set("password", password)
	r := request("POST", authtest.Issuer+action, form.Encode(), append(header, "Content-Type", formType, "Sec-Fetch-Site", "same-origin", "Accept", "text/html")...)
	for _, c := range b.Cookies {
		r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
	}
	r.RemoteAddr = address
	return r
}

// C09: one password tried on many users from one address is stopped early, before
// the passwords are looked at. A header that claims another address changes nothing.
func TestSprayingIsThrottledByAddress_C09(t *testing.T) {
	source := &counted{Users: authtest.NewUsers()}
	s := authtest.New(t, func(c *authtest.Config) { c.Users = source })
	first := 0
	for i := range 60 {
		r := tryLogin(t, s, "192.0.2.7:1000", fmt.Sprintf("user%d", i), "password1", "X-Forwarded-For", fmt.Sprintf("10.0.0.%d", i), "X-Real-Ip", fmt.Sprintf("10.0.0.%d", i))
		if r.StatusCode == http.StatusTooManyRequests {
			if first == 0 {
				first = i + 1
				wantTooMany(t, r)
				if !strings.HasPrefix(r.Header.Get("Content-Type"), "text/html") || strings.Contains(r.Body, "user"+strconv.Itoa(i)) {
					t.Errorf("the page: %s", text(r))
				}
			}
		} else if r.StatusCode != 401 {
			t.Fatalf("%d %s", r.StatusCode, text(r))
		}
	}
	if first == 0 || first >= 50 {
		t.Errorf("refused from attempt %d, want before 50", first)
	}
	if got := source.checks(); got >= 50 {
		t.Errorf("%d passwords were looked at", got)
	}
	if r := tryLogin(t, s, "198.51.100.1:1000", "alice", "correct horse alice"); r.StatusCode != 303 {
		t.Errorf("the right password from elsewhere: %d %s", r.StatusCode, text(r))
	}
}

// counted counts the passwords that are looked at.
type counted struct {
	*authtest.Users
	mu sync.Mutex
	n  int
}

func (c *counted) Check(ctx context.Context, name, password string) (users.User, error) {
	c.mu.Lock()
	c.n++
	c.mu.Unlock()
	return c.Users.Check(ctx, name, password)
}

func (c *counted) checks() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// C09: spellings of one name are one account, and tries at the same time count like
// tries one after the other.
func TestAllLoginsShareOneCounter_C09(t *testing.T) {
	for name, names := range map[string][]string{
		"spellings": {"alice", "Alice", " alice", "ALICE ", "\u0041lice"},
		"NFC, NFD":  {"jos\u00e9", "jose\u0301", "JOSE\u0301"},
	} {
		s := authtest.New(t)
		statuses := map[int]int{}
		for i := range 30 {
			statuses[tryLogin(t, s, "192.0.2.7:1000", names[i%len(names)], "wrong").StatusCode]++
		}
		if statuses[401] > 8 || statuses[401]+statuses[429] != 30 {
			t.Errorf("%s: %v, want few 401 and the rest 429", name, statuses)
		}
	}

	source := &counted{Users: authtest.NewUsers()}
	s := authtest.New(t, func(c *authtest.Config) { c.Users = source })
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { tryLogin(t, s, "192.0.2.7:1000", "alice", "wrong") })
	}
	wg.Wait()
	if got := source.checks(); got > 8 {
		t.Errorf("%d of 50 parallel tries had their password looked at", got)
	}
	if r := tryLogin(t, s, "198.51.100.1:1000", "alice", "correct horse alice"); r.StatusCode != 303 {
		t.Errorf("alice is locked out: %d %s", r.StatusCode, text(r))
	}
}

// Row 33: ten wrong passwords do not keep out a user who gives the right one from
// elsewhere, and attempts that the source of users could not check do not count.
func TestFailedLoginsDoNotLockTheUserOut_Row33(t *testing.T) {
	s := authtest.New(t)
	for range 20 {
		if r := tryLogin(t, s, "192.0.2.7:1000", "busy", "x"); r.StatusCode != 503 {
			t.Fatalf("an overloaded source: %d", r.StatusCode)
		}
	}
	limited := false
	for range 10 {
		limited = tryLogin(t, s, "192.0.2.7:1000", "alice", "wrong").StatusCode == 429 || limited
	}
	if !limited {
		t.Error("ten wrong passwords, and no 429")
	}
	if r := tryLogin(t, s, "192.0.2.7:1000", "bob", "correct horse bob"); r.StatusCode != 303 {
		t.Errorf("another user of the address: %d %s", r.StatusCode, text(r))
	}
	if r := tryLogin(t, s, "198.51.100.1:1000", "alice", "correct horse alice"); r.StatusCode != 303 {
		t.Errorf("alice elsewhere: %d %s", r.StatusCode, text(r))
	}
	for _, record := range s.Log.Audit(t, "login") {
		if record["outcome"] == "refused" && record["sub"] != nil {
			t.Errorf("a refused login is logged with a name: %v", record)
		}
	}
}

// Only wrong passwords count as failed logins, whether the client waits for the answer or goes
// away while the password is looked at.
func TestLoginsOfClientsThatGoAwayCountLikeOthers(t *testing.T) {
	for _, tt := range []struct {
		name  string
		check func(gone context.Context) (users.User, error)
		after int // status of the next login, with the right password
	}{
		{"right password", func(context.Context) (users.User, error) { return users.User{Subject: "1", Name: "alice"}, nil }, 303},
		{"wrong password", func(context.Context) (users.User, error) { return users.User{}, users.ErrInvalid }, 429},
		{"check that gives up", func(gone context.Context) (users.User, error) { return users.User{}, gone.Err() }, 303},
		{"check that panics", func(context.Context) (users.User, error) { panic("a check with a bug") }, 303},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // the last login has to come within a second
				var leave context.CancelFunc
				s := authtest.New(t, func(c *authtest.Config) {
					c.Users = users.CheckFunc(func(ctx context.Context, _, _ string) (users.User, error) {
						if leave == nil {
							return users.User{Subject: "1", Name: "alice"}, nil
						}
						leave()
						return tt.check(ctx)
					})
				})
				for range 6 {
					ctx, cancel := context.WithCancel(t.Context())
					leave = cancel
					s.Failing(t, loginRequest(t, s, "192.0.2.7:1000", "alice", "x").WithContext(ctx))
					cancel()
				}
				leave = nil
				if r := tryLogin(t, s, "192.0.2.7:1000", "alice", "right"); r.StatusCode != tt.after {
					t.Errorf("the next login: %d, want %d: %s", r.StatusCode, tt.after, text(r))
				}
			})
		})
	}
}

// A password is not looked at while too many logins come from an address, right or
// wrong: each costs a hash.
func TestLoginsAreLimitedByAddress(t *testing.T) {
	s := authtest.New(t, limited(handlers.Limits{Login: 3}))
	for range 3 {
		if r := tryLogin(t, s, "192.0.2.7:1000", "alice", "correct horse alice"); r.StatusCode != 303 {
			t.Fatalf("%d %s", r.StatusCode, text(r))
		}
	}
	wantTooMany(t, tryLogin(t, s, "192.0.2.7:2000", "alice", "correct horse alice"))
	if r := tryLogin(t, s, "198.51.100.1:1000", "alice", "correct horse alice"); r.StatusCode != 303 {
		t.Errorf("elsewhere: %d", r.StatusCode)
	}
}

// A stranger at another user's session cannot guess the password there either.
func TestPasswordChangesAreThrottledLikeLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the sixth has to come within a second
		s, _ := withFile(t)
		b := s.NewBrowser()
		page := openAccount(t, b, "alice")
		for range 5 {
			if r := b.Submit(t, page, set("action", "password", "old", "wrong", "new", "seldom purple anvil quarter")); r.StatusCode != 400 {
				t.Fatalf("a wrong password: %d %s", r.StatusCode, text(r))
			}
		}
		wantTooMany(t, b.Submit(t, page, set("action", "password", "old", "correct horse alice", "new", "seldom purple anvil quarter")))
	})
}

// A program's own check may find a password too long.
func TestTooLongPasswordIsRefused(t *testing.T) {
	for _, err := range []error{users.ErrPasswordTooLong, fmt.Errorf("checking: %w", users.ErrPasswordTooLong)} {
		s := authtest.New(t, func(c *authtest.Config) {
			c.Users = users.CheckFunc(func(context.Context, string, string) (users.User, error) { return users.User{}, err })
		})
		if r := tryLogin(t, s, "192.0.2.7:1000", "alice", "x"); r.StatusCode != 400 || !errors.Is(err, users.ErrPasswordTooLong) {
			t.Errorf("%v: %d %s", err, r.StatusCode, text(r))
		}
	}
}
