package handlers_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signet/handlers"
	"signet/internal/admission"
	"signet/internal/oauth"
	"signet/internal/test/authtest"
	"signet/internal/test/pgtest"
	"signet/users"
)

// stuckUsers is a source of users that does not answer while it is stuck.
type stuckUsers struct {
	*authtest.Users
	stuck bool
}

func (u *stuckUsers) Lookup(ctx context.Context, subject string) (users.User, error) {
	if u.stuck {
		<-ctx.Done()
		return users.User{}, ctx.Err()
	}
	return u.Users.Lookup(ctx, subject)
}

// K03, INV12: work that does not end is given up after ten seconds, with the answer on
// which clients keep their tokens, and has changed nothing. Neither has a request whose
// client went away before anything was written.
func TestHangingStoreIsAnsweredByTheDeadline_K03_INV12(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &stuckUsers{Users: authtest.NewUsers()}
		classes := admission.New()
		s := authtest.New(t, func(c *authtest.Config) {
			c.Users = source
			c.Change = func(o *handlers.Options) { o.Admission = classes }
		})
		tok := s.Tokens(t, "alice", s.PUB)
		source.stuck = true
		begin := time.Now()
		wantBusy(t, s.Refresh(t, s.PUB, tok.Refresh))
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("given up after %v", took)
		}
		ctx, leave := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, leave)
		r := request("POST", authtest.Issuer+"/token", authtest.RefreshForm(tok.Refresh, set("client_id", s.PUB.ID)).Encode(), "Content-Type", formType)
		begin = time.Now()
		s.Failing(t, r.WithContext(ctx))
		if took := time.Since(begin); took != time.Second {
			t.Errorf("worked on for %v after the client went away", took-time.Second)
		}
		source.stuck = false
		if n := classes.Refresh.Stats().Running; n != 0 {
			t.Errorf("%d slots are held", n)
		}
		if r := s.Refresh(t, s.PUB, tok.Refresh); r.StatusCode != http.StatusOK || r.Tokens(t).Refresh == "" {
			t.Errorf("afterwards: %d %s", r.StatusCode, r.Body)
		}
	})
}

// Pages from which the browser may leave for a provider, whose addresses may have to be asked for
// first, have the time of a login there.
func TestPagesThatLeadToAProviderHaveItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &stuckUsers{Users: authtest.NewUsers()}
		s := withForge(t, "upstreams:\n  - {id: corp, type: oidc, issuer: 'https://corp.test', client_id: signet}\n", true, func(c *authtest.Config) { c.Users = source })
		b := s.NewBrowser()
		b.SignIn(t, "alice", s.PUB)
		source.stuck = true
		for _, path := range []string{"/account", oauth.ConnectionPath + "?" + strings.SplitN(s.AuthorizeURL(s.PUB), "?", 2)[1]} {
			begin := time.Now()
			if r := b.Get(t, path); r.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("%s: %d %s", path, r.StatusCode, text(r))
			}
			if took := time.Since(begin); took != 25*time.Second {
				t.Errorf("%s: given up after %v", path, took)
			}
		}
	})
}

// A store that hangs does not hold slots for ever: each request is given up in time,
// and once the store is back so is the service.
func TestHangingStoreFreesItsSlots(t *testing.T) {
	database := pgtest.URL(t)
	s := authtest.New(t, func(c *authtest.Config) { c.Database = database })
	proxy := pgtest.NewProxy(t, database)
	classes := admission.New()
	s.Config.Change = func(o *handlers.Options) { o.Admission = classes }
	cut := s.Replica(t, proxy.URL)
	tok := s.Tokens(t, "alice", s.PUB)
	proxy.Set(pgtest.Stall)
	var all sync.WaitGroup
	for range 2 * classes.Refresh.Stats().Slots {
		all.Go(func() {
			begin := time.Now()
			wantBusy(t, cut.Refresh(t, s.PUB, tok.Refresh))
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("answered after %v", took)
			}
		})
	}
	all.Wait()
	if st := classes.Refresh.Stats(); st.Running != 0 || st.Waiting != 0 || st.Refused == 0 {
		t.Errorf("%+v: want nobody there, and some who were refused", st)
	}
	proxy.Set(pgtest.Pass)
	deadline := time.Now().Add(10 * time.Second)
	r := cut.Refresh(t, s.PUB, tok.Refresh)
	for ; r.StatusCode == http.StatusServiceUnavailable && time.Now().Before(deadline); r = cut.Refresh(t, s.PUB, tok.Refresh) {
	}
	r.Tokens(t)
}
