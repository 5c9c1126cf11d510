package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"signet/internal/backend"
	"signet/internal/gatewayconfig"
	"signet/jwt"
	"signet/mcp/gateway"
)

// issuer gives numbered credentials, and notes what it was asked.
type issuer struct {
	mu    sync.Mutex
	asked []string

	life  time.Duration // of a credential; 0: not known
	err   error
	fails int           // questions that err answers; -1: none any more; 0: all
	hold  chan struct{} // if not nil, an answer waits until it is closed
	ended string        // user whose grant has ended
	stuck bool          // a stale credential is given again
	now   int64         // version of the last one
}

func (i *issuer) give(ctx context.Context, what string, stale int64) (gateway.Credential, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked = append(i.asked, what)
	if hold := i.hold; hold != nil {
		i.mu.Unlock()
		select {
		case <-hold:
		case <-ctx.Done():
		}
		i.mu.Lock()
	}
	if ctx.Err() != nil {
		return gateway.Credential{}, ctx.Err()
	}
	if i.err != nil && i.fails >= 0 {
		if i.fails == 1 {
			i.fails = -1
		} else if i.fails > 1 {
			i.fails--
		}
		return gateway.Credential{}, i.err
	}
	if i.ended != "" && strings.HasPrefix(what, i.ended+" ") {
		return gateway.Credential{}, gateway.ErrEnded
	}
	if i.now == 0 || i.now == stale && !i.stuck {
		i.now++
	}
	c := gateway.Credential{Token: "cred-" + strconv.FormatInt(i.now, 10), Version: i.now}
	if i.life != 0 {
		c.Expires = time.Now().Add(i.life)
	}
	return c, nil
}

func (i *issuer) ForAudience(ctx context.Context, caller gateway.Caller, audience string, scope []string) (gateway.Credential, error) {
	c, err := i.give(ctx, fmt.Sprintf("%s audience %s %v", caller.Claims.Subject, audience, scope), -1)
	if err == nil {
		i.mu.Lock()
		i.now++ // each token is another one
		i.mu.Unlock()
	}
	return gateway.Credential{Token: c.Token, Expires: c.Expires}, err
}

func (i *issuer) OfUpstream(ctx context.Context, caller gateway.Caller, stale int64) (gateway.Credential, error) {
	return i.give(ctx, fmt.Sprintf("%s upstream %d", caller.Claims.Subject, stale), stale)
}

func (i *issuer) OfConnection(ctx context.Context, caller gateway.Caller, connection string, stale int64) (gateway.Credential, error) {
	subject := ""
	if caller.Claims != nil {
		subject = caller.Claims.Subject
	}
	return i.give(ctx, fmt.Sprintf("%s connection %s %d", subject, connection, stale), stale)
}

func (i *issuer) questions() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]string(nil), i.asked...)
}

// set changes the issuer while it is asked.
func (i *issuer) set(change func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change()
}

const callersToken = "header.the-callers-token.signature"

// alice is a caller whose token lives an hour.
func alice(edits ...func(*jwt.Claims)) gateway.Caller {
	c := &jwt.Claims{Subject: "alice", ClientID: "app", GrantID: "g1", ID: "t1", Scope: "mcp:read mail:send", ExpiresAt: time.Now().Add(time.Hour).Unix()}
	for _, edit := range edits {
		edit(c)
	}
	return gateway.Caller{Claims: c, Token: callersToken}
}

func github() *gatewayconfig.Connection {
	return &gatewayconfig.Connection{ID: "github", Name: "GitHub", Servers: []string{"tools"}}
}

// delegated is a server that gets what the user has connected.
func delegated() *gatewayconfig.Server {
	return &gatewayconfig.Server{ID: "tools", Name: "Tools", Strategy: gatewayconfig.DelegateOAuth, Connection: github(), Header: "Authorization", Scheme: "Bearer "}
}

func strategiesOf(i gateway.Issuer, custom map[string]gateway.Strategy) *gateway.Strategies {
	return gateway.NewStrategies(i, "https://auth.test", custom, slog.New(slog.DiscardHandler))
}

// bearer is the one header that is expected.
func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

func wantHeaders(t *testing.T, s *gateway.Strategies, caller gateway.Caller, server *gatewayconfig.Server, refused bool, want http.Header) {
	t.Helper()
	got, err := s.Headers(t.Context(), caller, server, refused)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

// Each server gets what its strategy says, and nothing else. The caller's token is sent only where
// the configuration says so by name.
func TestServersGetWhatTheirStrategySays_Row54_Row59_Row60_Row61_Probe7_J05(t *testing.T) {
	own := &gatewayconfig.Connection{ID: "internal", Own: true}
	for name, tt := range map[string]struct {
		server gatewayconfig.Server
		caller func(*jwt.Claims)
		want   http.Header
		asked  string
	}{
		"master_oauth": {gatewayconfig.Server{Strategy: "master_oauth", Audience: "https://mail.test/mcp"}, nil,
			bearer("cred-1"), "alice audience https://mail.test/mcp []"},
		"master_oauth, scopes of the server": {gatewayconfig.Server{Strategy: "master_oauth", Audience: "https://mail.test/mcp", Scopes: []string{"mail:send", "mail:admin"}}, nil,
			bearer("cred-1"), "alice audience https://mail.test/mcp [mail:send]"},
		"master_oauth, scopes of the token": {gatewayconfig.Server{Strategy: "master_oauth", Audience: "a", Scopes: []string{"mail:send"}, TokenScopes: []string{"mcp:read"}}, nil,
			bearer("cred-1"), "alice audience a [mcp:read]"},
		"master_oauth with passthrough": {gatewayconfig.Server{Strategy: "master_oauth", Passthrough: true}, nil, bearer(callersToken), ""},
		"delegate_oauth":                {gatewayconfig.Server{Strategy: "delegate_oauth", Connection: github()}, nil, bearer("cred-1"), "alice connection github 0"},
		"master_oauth with a fallback":  {gatewayconfig.Server{Strategy: "master_oauth", Audience: "a", Fallback: true}, nil, bearer("cred-1"), "alice audience a []"},
		"proxy_oauth, a token":          {gatewayconfig.Server{Strategy: "proxy_oauth", Token: "static"}, nil, bearer("static"), ""},
		"proxy_oauth, a connection":     {gatewayconfig.Server{Strategy: "proxy_oauth", Connection: own}, nil, bearer("cred-1"), "alice connection internal 0"},
		"proxy_oauth, a fallback not needed": {gatewayconfig.Server{Strategy: "proxy_oauth", Connection: own, Fallback: true}, nil,
			bearer("cred-1"), "alice connection internal 0"},
		"proxy_oauth, nothing but a fallback": {gatewayconfig.Server{Strategy: "proxy_oauth", Fallback: true}, nil, bearer(callersToken), ""},
		"upstream": {gatewayconfig.Server{Strategy: "upstream"}, func(c *jwt.Claims) { c.Subject = "upstream:corp:7" },
			bearer("cred-1"), "upstream:corp:7 upstream 0"},
		"user_key":                    {gatewayconfig.Server{Strategy: "user_key", Connection: github()}, nil, bearer("cred-1"), "alice connection github 0"},
		"user_key in another header":  {gatewayconfig.Server{Strategy: "user_key", Connection: github(), Header: "x-api-key"}, nil, http.Header{"X-Api-Key": {"cred-1"}}, "alice connection github 0"},
		"user_key with another form":  {gatewayconfig.Server{Strategy: "user_key", Connection: github(), Header: "Authorization", Scheme: "Token "}, nil, http.Header{"Authorization": {"Token cred-1"}}, "alice connection github 0"},
		"user_key without a scheme":   {gatewayconfig.Server{Strategy: "user_key", Connection: github(), Header: "Authorization"}, nil, http.Header{"Authorization": {"cred-1"}}, "alice connection github 0"},
		"bypass_auth":                 {gatewayconfig.Server{Strategy: "bypass_auth"}, nil, http.Header{}, ""},
		"bypass_auth with a fallback": {gatewayconfig.Server{Strategy: "bypass_auth", Fallback: true, Passthrough: true}, nil, http.Header{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			i := &issuer{}
			tt.server.ID = "s"
			edits := []func(*jwt.Claims){}
			if tt.caller != nil {
				edits = append(edits, tt.caller)
			}
			wantHeaders(t, strategiesOf(i, nil), alice(edits...), &tt.server, false, tt.want)
			if got := strings.Join(i.questions(), "; "); got != tt.asked {
				t.Errorf("the issuer was asked %q, want %q", got, tt.asked)
			}
		})
	}
}

// One thing is changed in a good request each: the server gets nothing then, and never the
// caller's token.
func TestNoCredentialMeansNothingIsSent_Row60_Probe7(t *testing.T) {
	down := errors.New("the issuer is down")
	ended := fmt.Errorf("%w: the issuer answered invalid_grant", gateway.ErrEnded)
	own := func(edit func(*gatewayconfig.Server)) *gatewayconfig.Server {
		s := &gatewayconfig.Server{ID: "s", Strategy: "proxy_oauth", Connection: &gatewayconfig.Connection{ID: "internal", Own: true}}
		edit(s)
		return s
	}
	same := func(*gatewayconfig.Server) {}
	for name, tt := range map[string]struct {
		server *gatewayconfig.Server
		caller gateway.Caller
		err    error
		text   string
	}{
		"a user who has not connected":       {delegated(), alice(), &gateway.Missing{Connection: "github"}, "the user has not connected github"},
		"a grant that has ended":             {delegated(), alice(), ended, ended.Error()},
		"an issuer that is down":             {delegated(), alice(), down, down.Error()},
		"nothing of the gateway's own":       {own(same), alice(), &gateway.Missing{Connection: "internal"}, "server s: the gateway has no credential for it"},
		"no token and no connection":         {own(func(s *gatewayconfig.Server) { s.Connection = nil }), alice(), nil, "server s: the gateway has no credential for it"},
		"own, and an issuer that is down":    {own(same), alice(), down, down.Error()},
		"a fallback, an issuer that is down": {own(func(s *gatewayconfig.Server) { s.Fallback = true }), alice(), down, down.Error()},
		"no caller":                          {delegated(), gateway.Caller{}, nil, "server tools: it is used on behalf of callers only"},
		"an empty credential":                {own(func(s *gatewayconfig.Server) { s.Connection, s.Token = nil, "" }), alice(), nil, "server s: the gateway has no credential for it"},
		"a credential with a line break":     {own(func(s *gatewayconfig.Server) { s.Token = "a\r\nX-User: root" }), alice(), nil, "server s: its credential is empty or has characters that a header cannot have"},
		"a user without an upstream":         {&gatewayconfig.Server{ID: "s", Strategy: "upstream"}, alice(), nil, "server s: it is for users who sign in by an upstream"},
		"none of the scopes":                 {&gatewayconfig.Server{ID: "s", Strategy: "master_oauth", TokenScopes: []string{"x", "y"}}, alice(), nil, "server s: the access token has none of the scopes that this server is sent: x y"},
		"a strategy that nothing registers":  {&gatewayconfig.Server{ID: "s", Strategy: "odd"}, alice(), nil, `server s: there is no strategy "odd"`},
		"a strategy with the name's case":    {&gatewayconfig.Server{ID: "s", Strategy: "Bypass_auth"}, alice(), nil, `server s: there is no strategy "Bypass_auth"`},
	} {
		t.Run(name, func(t *testing.T) {
			h, err := strategiesOf(&issuer{err: tt.err}, nil).Headers(t.Context(), tt.caller, tt.server, false)
			if h != nil || err == nil || err.Error() != tt.text {
				t.Errorf("headers %v, error %v, want %s", h, err, tt.text)
			}
			if tt.err == ended && !errors.Is(err, gateway.ErrEnded) {
				t.Error("the error does not say that the grant has ended")
			}
		})
	}
	// A scope that one of the token implies may be the server's.
	implying := alice()
	implying.Granted = append(implying.Claims.Scopes(), "x")
	wantHeaders(t, strategiesOf(&issuer{}, nil), implying, &gatewayconfig.Server{ID: "s", Strategy: "master_oauth", TokenScopes: []string{"x", "y"}}, false, bearer("cred-1"))
	// With the fallback that the configuration names, and only then.
	server := own(func(s *gatewayconfig.Server) { s.Fallback = true })
	wantHeaders(t, strategiesOf(&issuer{err: &gateway.Missing{Connection: "internal"}}, nil), alice(), server, false, bearer(callersToken))
}

// A credential is one user's, at one server of one configuration. Callers are told apart by the
// verified claims: their tokens here are all the same text.
func TestCredentialsAreKeptForOneUserAndOneServer_Row57_Probe1(t *testing.T) {
	i := &issuer{life: time.Hour}
	s := strategiesOf(i, nil)
	server := delegated()
	wantHeaders(t, s, alice(), server, false, bearer("cred-1"))
	for name, tt := range map[string]struct {
		caller gateway.Caller
		server *gatewayconfig.Server
		asks   bool
	}{
		"the same":                 {alice(), server, false},
		"after a refresh":          {alice(func(c *jwt.Claims) { c.ID = "t2"; c.ExpiresAt += 60 }), server, false},
		"another grant":            {alice(func(c *jwt.Claims) { c.GrantID = "g2" }), server, true},
		"another user":             {alice(func(c *jwt.Claims) { c.Subject, c.GrantID = "mallory", "g3" }), server, true},
		"another server":           {alice(), &gatewayconfig.Server{ID: "other", Strategy: "delegate_oauth", Connection: github()}, true},
		"the server, reconfigured": {alice(), delegated(), true},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(i.questions())
			if _, err := s.Headers(t.Context(), tt.caller, tt.server, false); err != nil {
				t.Fatal(err)
			}
			if asked := len(i.questions()) > before; asked != tt.asks {
				t.Errorf("asked the issuer: %v, want %v", asked, tt.asks)
			}
		})
	}
	for _, q := range i.questions() {
		if strings.Contains(q, callersToken) {
			t.Errorf("the question %q has the caller's token", q)
		}
	}
}

// A token for an audience has the scopes of the caller's token, so one with fewer scopes of the
// same grant gets another.
func TestMintedTokensFollowTheCallersScope(t *testing.T) {
	i := &issuer{life: time.Hour}
	s := strategiesOf(i, nil)
	server := &gatewayconfig.Server{ID: "s", Strategy: "master_oauth", Audience: "a"}
	wantHeaders(t, s, alice(), server, false, bearer("cred-1"))
	wantHeaders(t, s, alice(), server, false, bearer("cred-1"))
	wantHeaders(t, s, alice(func(c *jwt.Claims) { c.Scope = "mcp:read" }), server, false, bearer("cred-2"))
}

// A credential of the gateway's own is one for all callers, unless it is got in exchange for
// each caller's token.
func TestTheGatewaysOwnCredentialIsOneForAll_Row60(t *testing.T) {
	for grant, want := range map[string]int{"refresh_token": 1, "client_credentials": 1, "exchange": 2} {
		i := &issuer{life: time.Hour}
		s := strategiesOf(i, nil)
		server := &gatewayconfig.Server{ID: "s", Strategy: "proxy_oauth", Connection: &gatewayconfig.Connection{ID: "internal", Own: true, Grant: grant}}
		for _, caller := range []gateway.Caller{alice(), alice(func(c *jwt.Claims) { c.Subject, c.GrantID = "bob", "g2" })} {
			if _, err := s.Headers(t.Context(), caller, server, false); err != nil {
				t.Fatal(err)
			}
		}
		if got := len(i.questions()); got != want {
			t.Errorf("%s: %d questions, want %d", grant, got, want)
		}
	}
}

// When a credential is asked for again.
func TestCredentialsAreUsedUntilShortlyBeforeTheirEnd_Row58(t *testing.T) {
	for name, tt := range map[string]struct {
		life     time.Duration // of the credential; 0: not known
		caller   time.Duration // life of the caller's token
		own      bool
		kept     time.Duration
		strategy string
	}{
		"30 s before its end":           {10 * time.Minute, time.Hour, false, 9*time.Minute + 30*time.Second, "master_oauth"},
		"a fifth before its end":        {time.Minute, time.Hour, false, 48 * time.Second, "master_oauth"},
		"with the caller's token":       {time.Hour, 5 * time.Minute, false, 5 * time.Minute, "master_oauth"},
		"its end is not known":          {0, 5 * time.Minute, false, 5 * time.Minute, "master_oauth"},
		"what a user may take back":     {time.Hour, time.Hour, false, time.Minute, "delegate_oauth"},
		"of the upstream of the login":  {time.Hour, time.Hour, false, time.Minute, "upstream"},
		"one of the gateway's own":      {40 * time.Second, time.Second, true, 32 * time.Second, "proxy_oauth"},
		"own, and its end is not known": {0, time.Second, true, time.Minute, "proxy_oauth"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := &issuer{life: tt.life}
				s := strategiesOf(i, nil)
				server := &gatewayconfig.Server{ID: "s", Strategy: tt.strategy, Connection: github()}
				caller := alice(func(c *jwt.Claims) { c.Subject = "upstream:corp:7"; c.ExpiresAt = time.Now().Add(tt.caller).Unix() })
				ask := func() int {
					if _, err := s.Headers(t.Context(), caller, server, false); err != nil {
						t.Fatal(err)
					}
					return len(i.questions())
				}
				if got := ask(); got != 1 {
					t.Fatalf("%d questions", got)
				}
				time.Sleep(tt.kept - time.Second)
				if got := ask(); got != 1 {
					t.Errorf("a second before: %d questions, want 1", got)
				}
				time.Sleep(time.Second)
				if got := ask(); got != 2 {
					t.Errorf("in time: %d questions, want 2", got)
				}
			})
		})
	}
}

// While the issuer cannot say whether the user has taken a credential back, it is used until it
// ends.
func TestCredentialsOutliveAnIssuerThatIsDown(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		used bool
	}{
		"down":         {errors.New("connection refused"), true},
		"disconnected": {&gateway.Missing{Connection: "github"}, false},
		"ended":        {gateway.ErrEnded, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := &issuer{life: time.Hour}
				s := strategiesOf(i, nil)
				server, caller := delegated(), alice()
				wantHeaders(t, s, caller, server, false, bearer("cred-1"))
				time.Sleep(2 * time.Minute)
				i.set(func() { i.err = tt.err })
				if tt.used {
					wantHeaders(t, s, caller, server, false, bearer("cred-1"))
					wantHeaders(t, s, caller, server, false, bearer("cred-1"))
					if got := len(i.questions()); got != 2 {
						t.Errorf("%d questions, want one that failed", got)
					}
					i.set(func() { i.hold = make(chan struct{}) }) // it does not answer at all
					time.Sleep(2 * time.Minute)
					wantHeaders(t, s, caller, server, false, bearer("cred-1"))
					i.set(func() { close(i.hold); i.hold = nil })
					time.Sleep(time.Hour)
				}
				for range 2 {
					if h, err := s.Headers(t.Context(), caller, server, false); !errors.Is(err, tt.err) || h != nil {
						t.Errorf("%v, %v, want %v", h, err, tt.err)
					}
				}
			})
		})
	}
}

// Any number of callers at a time cause one question, and a refused credential is renewed once.
func TestParallelCallersAskOnce_Row58(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{life: time.Hour, hold: make(chan struct{})}
		s := strategiesOf(i, nil)
		server := delegated()
		all := func(refused bool) []string {
			var work sync.WaitGroup
			got := make([]string, 10)
			for n := range got {
				work.Go(func() {
					h, err := s.Headers(t.Context(), alice(func(c *jwt.Claims) { c.ID = fmt.Sprint("t", n) }), server, refused)
					got[n] = fmt.Sprint(h.Get("Authorization"), err)
				})
			}
			synctest.Wait()
			i.set(func() { close(i.hold); i.hold = make(chan struct{}) })
			work.Wait()
			return got
		}
		for round, refused := range []bool{false, true} {
			want := fmt.Sprintf("Bearer cred-%d<nil>", round+1)
			for _, got := range all(refused) {
				if got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			}
		}
		// The message of this caller was on its way with the refused credential meanwhile.
		wantHeaders(t, s, alice(), server, true, bearer("cred-2"))
		if diff := cmp.Diff([]string{"alice connection github 0", "alice connection github 1"}, i.questions()); diff != "" {
			t.Errorf("questions (-want +got):\n%s", diff)
		}
		close(i.hold)
	})
}

// A server that refuses every credential does not make the gateway ask again and again.
func TestARefusedCredentialIsRenewedOnce_Row58(t *testing.T) {
	for name, tt := range map[string]struct {
		server gatewayconfig.Server
		want   []string
	}{
		"delegate_oauth": {gatewayconfig.Server{Strategy: "delegate_oauth", Connection: github()}, []string{"alice connection github 0", "alice connection github 1"}},
		"master_oauth":   {gatewayconfig.Server{Strategy: "master_oauth", Audience: "a"}, []string{"alice audience a []", "alice audience a []"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := &issuer{life: time.Hour}
				s := strategiesOf(i, nil)
				tt.server.ID = "s"
				wantHeaders(t, s, alice(), &tt.server, false, bearer("cred-1"))
				for range 5 {
					wantHeaders(t, s, alice(), &tt.server, true, bearer("cred-2"))
				}
				if diff := cmp.Diff(tt.want, i.questions()); diff != "" {
					t.Errorf("questions (-want +got):\n%s", diff)
				}
				time.Sleep(2 * time.Minute) // long after, it is renewed again
				wantHeaders(t, s, alice(), &tt.server, true, bearer("cred-3"))
			})
		})
	}
}

// What is the answer to a refusal, if there is no other credential.
func TestARefusalIsNamed(t *testing.T) {
	refused := "server s: it refuses the credential that it is sent"
	for name, tt := range map[string]struct {
		server gatewayconfig.Server
		issuer *issuer
		err    error
		text   string
	}{
		"a static token":          {gatewayconfig.Server{Strategy: "proxy_oauth", Token: "static"}, &issuer{}, nil, refused},
		"the caller's":            {gatewayconfig.Server{Strategy: "master_oauth", Passthrough: true}, &issuer{}, nil, refused},
		"the fallback":            {gatewayconfig.Server{Strategy: "proxy_oauth", Fallback: true}, &issuer{}, nil, refused},
		"nothing":                 {gatewayconfig.Server{Strategy: "bypass_auth"}, &issuer{}, nil, refused},
		"nothing newer":           {gatewayconfig.Server{Strategy: "delegate_oauth", Connection: github()}, &issuer{stuck: true}, nil, refused},
		"no longer connected":     {gatewayconfig.Server{Strategy: "delegate_oauth", Connection: github()}, &issuer{}, &gateway.Missing{Connection: "github"}, "the user has not connected github"},
		"a provider that is down": {gatewayconfig.Server{Strategy: "delegate_oauth", Connection: github()}, &issuer{}, errors.New("down"), "down"},
	} {
		t.Run(name, func(t *testing.T) {
			s := strategiesOf(tt.issuer, nil)
			tt.server.ID = "s"
			if _, err := s.Headers(t.Context(), alice(), &tt.server, false); err != nil {
				t.Fatal(err)
			}
			tt.issuer.err = tt.err
			h, err := s.Headers(t.Context(), alice(), &tt.server, true)
			if err == nil || err.Error() != tt.text || h != nil {
				t.Errorf("headers %v, error %v, want %s", h, err, tt.text)
			}
			var b *backend.Error
			if errors.As(err, &b) != (tt.text == refused) {
				t.Errorf("error %#v", err)
			}
			if tt.err != nil && tt.text == "down" { // it is not thrown away for that
				tt.issuer.err = nil
				wantHeaders(t, s, alice(), &tt.server, false, bearer("cred-2"))
			}
		})
	}
}

// slow is an issuer whose first answer to a check is late.
type slow struct {
	gateway.Issuer
	late  chan struct{} // the answer to the second question comes when it is closed
	asked int
}

func (i *slow) OfConnection(_ context.Context, _ gateway.Caller, _ string, stale int64) (gateway.Credential, error) {
	i.asked++
	if i.asked == 2 {
		<-i.late
	}
	return gateway.Credential{Token: fmt.Sprint("cred-", stale+1), Version: stale + 1}, nil
}

// An answer that is overtaken by one with a newer credential replaces nothing.
func TestAnOvertakenAnswerIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &slow{late: make(chan struct{})}
		s := strategiesOf(i, nil)
		server, caller := delegated(), alice()
		wantHeaders(t, s, caller, server, false, bearer("cred-1"))
		time.Sleep(2 * time.Minute)
		var work sync.WaitGroup
		work.Go(func() { wantHeaders(t, s, caller, server, false, bearer("cred-2")) }) // checks what it has
		synctest.Wait()
		wantHeaders(t, s, caller, server, true, bearer("cred-2"))
		close(i.late)
		work.Wait()
		wantHeaders(t, s, caller, server, false, bearer("cred-2"))
	})
}

// The end of one caller's grant is no answer to another caller who waits for the same question.
func TestTheEndOfAnotherGrantEndsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{hold: make(chan struct{}), ended: "alice"}
		s := strategiesOf(i, nil)
		server := &gatewayconfig.Server{ID: "s", Strategy: "proxy_oauth", Connection: &gatewayconfig.Connection{ID: "internal", Own: true}}
		var work sync.WaitGroup
		work.Go(func() {
			if _, err := s.Headers(t.Context(), alice(), server, false); !errors.Is(err, gateway.ErrEnded) {
				t.Errorf("the caller whose grant has ended: %v", err)
			}
		})
		synctest.Wait()
		work.Go(func() {
			h, err := s.Headers(t.Context(), alice(func(c *jwt.Claims) { c.Subject, c.GrantID, c.ID = "bob", "g2", "t2" }), server, false)
			if err != nil || h.Get("Authorization") != "Bearer cred-1" {
				t.Errorf("another caller: %v, %v", h, err)
			}
		})
		synctest.Wait()
		close(i.hold)
		work.Wait()
		if diff := cmp.Diff([]string{"alice connection internal 0", "bob connection internal 0"}, i.questions()); diff != "" {
			t.Errorf("questions (-want +got):\n%s", diff)
		}
	})
}

// A caller who hangs up gets no answer, and the others do.
func TestACallerMayHangUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{hold: make(chan struct{})}
		s := strategiesOf(i, nil)
		server := delegated()
		ctx, hangUp := context.WithCancel(t.Context())
		var work sync.WaitGroup
		work.Go(func() {
			if _, err := s.Headers(ctx, alice(), server, false); !errors.Is(err, context.Canceled) {
				t.Errorf("the caller who hangs up: %v", err)
			}
		})
		synctest.Wait()
		work.Go(func() {
			if h, err := s.Headers(t.Context(), alice(), server, false); err != nil || h.Get("Authorization") != "Bearer cred-1" {
				t.Errorf("the other caller: %v, %v", h, err)
			}
		})
		synctest.Wait()
		hangUp()
		synctest.Wait()
		close(i.hold)
		work.Wait()
		if got := len(i.questions()); got != 1 {
			t.Errorf("%d questions, want 1", got)
		}
	})
}

// The memory is bounded: the credential that was not used for longest goes first.
func TestCredentialsAreBounded(t *testing.T) {
	i := &issuer{life: time.Hour}
	s := strategiesOf(i, nil)
	server := delegated()
	of := func(n int) gateway.Caller {
		return alice(func(c *jwt.Claims) { c.GrantID = strconv.Itoa(n) })
	}
	get := func(n int) int {
		if _, err := s.Headers(t.Context(), of(n), server, false); err != nil {
			t.Fatal(err)
		}
		return len(i.questions())
	}
	for n := range gateway.MaxCredentials {
		get(n)
	}
	get(0)
	if asked, kept := get(-1), s.Kept(); asked != gateway.MaxCredentials+1 || kept != gateway.MaxCredentials {
		t.Fatalf("%d questions, %d kept", asked, kept)
	}
	if get(0) != gateway.MaxCredentials+1 {
		t.Error("the last used credential was dropped")
	}
	if get(1) != gateway.MaxCredentials+2 {
		t.Error("the credential that was used first was kept")
	}
}

// A disconnected user's credential is dropped, and no other.
func TestADisconnectedCredentialIsDropped(t *testing.T) {
	i := &issuer{life: time.Hour}
	s := strategiesOf(i, nil)
	server := delegated()
	bob := alice(func(c *jwt.Claims) { c.Subject, c.GrantID = "bob", "g2" })
	wantHeaders(t, s, alice(), server, false, bearer("cred-1"))
	wantHeaders(t, s, bob, server, false, bearer("cred-1"))
	s.Changed("alice", "gitlab")
	if s.Kept() != 2 {
		t.Fatal("another connection's credential was dropped")
	}
	s.Changed("alice", "github")
	i.err = &gateway.Missing{Connection: "github"}
	if _, err := s.Headers(t.Context(), alice(), server, false); !errors.Is(err, i.err) {
		t.Errorf("alice: %v", err)
	}
	wantHeaders(t, s, bob, server, false, bearer("cred-1"))
	s.Forget()
	if s.Kept() != 0 {
		t.Error("not all were forgotten")
	}
}

// A strategy of the program is found by its name, or adds headers for one server.
func TestOwnStrategies_Row70_Probe30(t *testing.T) {
	var seen []string
	add := func(_ context.Context, caller gateway.Caller, server *gatewayconfig.Server, refused bool) (http.Header, error) {
		seen = append(seen, fmt.Sprint(caller.Claims.Subject, server.ID, refused))
		return http.Header{"x-custom-auth": {"enabled"}}, nil
	}
	s := strategiesOf(&issuer{}, map[string]gateway.Strategy{"mine": func(ctx context.Context, caller gateway.Caller, server *gatewayconfig.Server, refused bool) (http.Header, error) {
		return http.Header{"X-Whole": {server.ID}}, nil
	}, gateway.ForServer + "tools": add})
	wantHeaders(t, s, alice(), delegated(), false, http.Header{"Authorization": {"Bearer cred-1"}, "X-Custom-Auth": {"enabled"}})
	wantHeaders(t, s, alice(), &gatewayconfig.Server{ID: "tools", Strategy: "bypass_auth"}, true, http.Header{"X-Custom-Auth": {"enabled"}})
	wantHeaders(t, s, alice(), &gatewayconfig.Server{ID: "other", Strategy: "bypass_auth"}, false, http.Header{})
	wantHeaders(t, s, alice(), &gatewayconfig.Server{ID: "third", Strategy: "mine"}, false, http.Header{"X-Whole": {"third"}})
	if diff := cmp.Diff([]string{"alicetoolsfalse", "alicetoolstrue"}, seen); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	for strategy, want := range map[string]bool{"mine": true, "bypass_auth": true, "delegate_oauth": true, "other": false, "": false, "Mine": false} {
		if got := s.Knows(&gatewayconfig.Server{ID: "x", Strategy: strategy}); got != want {
			t.Errorf("%q is known: %v", strategy, got)
		}
	}
	failing := strategiesOf(&issuer{}, map[string]gateway.Strategy{gateway.ForServer + "tools": func(context.Context, gateway.Caller, *gatewayconfig.Server, bool) (http.Header, error) {
		return nil, gateway.ErrEnded
	}})
	if h, err := failing.Headers(t.Context(), alice(), delegated(), false); h != nil || !errors.Is(err, gateway.ErrEnded) {
		t.Errorf("%v, %v, want the strategy's error", h, err)
	}
}

// A caller who follows a link is waited for.
func TestTheUserIsWaitedFor_Row56(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		missing := &gateway.Missing{Connection: "github"}
		i := &issuer{err: missing}
		s := strategiesOf(i, nil)
		go func() {
			time.Sleep(10 * time.Second)
			i.set(func() { i.err = nil })
		}()
		if h, err := s.Await(t.Context(), alice(), delegated()); err != nil || h.Get("Authorization") != "Bearer cred-1" {
			t.Errorf("%v, %v", h, err)
		}
		i.set(func() { i.err = missing })
		begin := time.Now()
		if _, err := s.Await(t.Context(), alice(), delegated()); !errors.Is(err, error(missing)) || time.Since(begin) > time.Minute {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		i.set(func() { i.err = errors.New("down") })
		if _, err := s.Await(t.Context(), alice(), delegated()); err == nil || err.Error() != "down" {
			t.Errorf("%v", err)
		}
	})
}

// Neither callers nor credentials show their tokens.
func TestTokensStayOutOfTexts_J05(t *testing.T) {
	var log strings.Builder
	c := gateway.Credential{Token: "cred-1"}
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "caller", alice(), "credential", c)
	text := log.String() + fmt.Sprintf("%v %+v %#v %v %+v %#v", alice(), alice(), alice(), c, c, c)
	if strings.Contains(text, callersToken) || strings.Contains(text, "cred-1") {
		t.Errorf("a token is in %s", text)
	}
}
