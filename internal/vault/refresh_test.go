package vault_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signet/internal/seal"
	"signet/internal/store"
	"signet/internal/test/storetest"
	"signet/internal/vault"
)

// never is a call that must not happen.
func never(t *testing.T) vault.Call {
	return func(context.Context, vault.Entry) (seal.Credential, error) {
		t.Error("the provider was called")
		return seal.Credential{}, errors.New("not now")
	}
}

// provider answers refreshes, and counts them.
type provider struct {
	calls  atomic.Int64
	called chan struct{} // gets a value when a call has begun
	answer chan error    // what calls return; nil: new tokens
}

func newProvider() *provider {
	return &provider{called: make(chan struct{}, 100), answer: make(chan error, 100)}
}

func (p *provider) refresh(ctx context.Context, e vault.Entry) (seal.Credential, error) {
	n := p.calls.Add(1)
	p.called <- struct{}{}
	select {
	case err := <-p.answer:
		if err != nil {
			return seal.Credential{}, err
		}
		return seal.Credential{Access: fmt.Sprint("fresh-", n), Refresh: e.Refresh + "+"}, nil
	case <-ctx.Done():
		return seal.Credential{}, ctx.Err()
	}
}

// arriving is a context that tells when a request begins to wait with it.
type arriving struct {
	context.Context
	waits func()
}

func (a arriving) Done() <-chan struct{} { a.waits(); return a.Context.Done() }

// outcome is what a request of Refresh got.
type outcome struct {
	entry vault.Entry
	err   error
}

// crowd starts n requests at each vault and returns when all of them wait for one refresh.
func crowd(t *testing.T, n int, stale int64, p *provider, vaults ...*vault.Vault) (outcomes func() []outcome) {
	t.Helper()
	var waiting, done sync.WaitGroup
	var mu sync.Mutex
	var all []outcome
	for _, v := range vaults {
		for range n {
			waiting.Add(1)
			ctx := arriving{t.Context(), sync.OnceFunc(waiting.Done)}
			done.Go(func() {
				e, err := v.Refresh(ctx, ann, corp, stale, p.refresh)
				mu.Lock()
				defer mu.Unlock()
				all = append(all, outcome{e, err})
			})
		}
	}
	waiting.Wait()
	<-p.called
	return func() []outcome { done.Wait(); return all }
}

// two returns two vaults on one store, as of two servers, and a channel that is closed once the
// second one has seen a claim of the first.
func two(t *testing.T, e storetest.Engine) (one, other *vault.Vault, s *store.Store) {
	t.Helper()
	o := e.Empty(t)
	k := ring(t)
	s = storetest.Open(t, o)
	t2 := s
	if e == storetest.PostgreSQL { // a SQLite store is open in one server only
		t2 = storetest.Open(t, o)
	}
	one, other = newVault(t, s, k), newVault(t, t2, k)
	must[vault.Entry](t)(one.Put(t.Context(), tokens(ann, "first")))
	return one, other, s
}

// seesClaim makes v tell when it has looked at a claim.
func seesClaim(v *vault.Vault, now func() time.Time) (seen chan struct{}) {
	seen = make(chan struct{})
	once := sync.OnceFunc(func() { close(seen) })
	v.SetNow(func() time.Time { once(); return now() })
	return seen
}

func TestOneRefreshForAll(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		one, other, _ := two(t, e)
		p := newProvider()
		for range 100 {
			p.answer <- nil
		}
		for stale := range int64(5) {
			outcomes := crowd(t, 20, stale+1, p, one, other)()
			for _, o := range outcomes {
				if o.err != nil || o.entry.Version != stale+2 || o.entry.Access != fmt.Sprint("fresh-", stale+1) || o.entry.Subject != ann || o.entry.Provider != corp || o.entry.Bound != "bound" {
					t.Errorf("after version %d: %+v, %v", stale+1, o.entry.Version, o.err)
				}
			}
			if n := p.calls.Load(); n != stale+1 || len(outcomes) != 40 {
				t.Errorf("%d calls for %d versions", n, stale+1)
			}
		}
		if got := must[vault.Entry](t)(one.Get(t.Context(), ann, corp)); got.Refresh != "first-refresh+++++" {
			t.Errorf("the refresh token is not that of the last answer: version %d", got.Version)
		}
	})
}

func TestLaterTokensNeedNoCall(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		one, other, _ := two(t, e)
		must[vault.Entry](t)(one.Put(t.Context(), tokens(ann, "second")))
		check(t, one.Die(t.Context(), ann, corp)) // also while somebody refreshes them
		for _, stale := range []int64{-5, 0, 1} {
			if got := must[vault.Entry](t)(other.Refresh(t.Context(), ann, corp, stale, never(t))); got.Version != 2 || got.Access != "second" {
				t.Errorf("after version %d: version %d", stale, got.Version)
			}
		}
		_, err := one.Refresh(t.Context(), bob, corp, 0, never(t))
		wantErr(t, "no tokens", err, vault.ErrUnknown)
		if _, err = one.Refresh(t.Context(), ann, corp, 1<<62, never(t)); err == nil {
			t.Error("a version that cannot be was accepted")
		}
	})
}

// A store that was restored has earlier versions than the tokens that were given out.
func TestVersionAfterARestoreIsLater(t *testing.T) {
	v, _, _ := open(t, storetest.SQLite)
	must[vault.Entry](t)(v.Put(t.Context(), tokens(ann, "first")))
	p := newProvider()
	p.answer <- nil
	if got := must[vault.Entry](t)(v.Refresh(t.Context(), ann, corp, 7, p.refresh)); got.Version != 8 {
		t.Errorf("version %d after 7, want 8", got.Version)
	}
}

func TestRefusalEndsTheTokensForAll(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		one, other, _ := two(t, e)
		p := newProvider()
		first := crowd(t, 10, 1, p, one)
		seen := seesClaim(other, time.Now)
		second := make(chan error)
		go func() {
			_, err := other.Refresh(t.Context(), ann, corp, 1, p.refresh)
			second <- err
		}()
		<-seen
		p.answer <- fmt.Errorf("invalid_grant: %w", vault.ErrEnded)
		for _, o := range first() {
			wantErr(t, "at the server that called", o.err, vault.ErrEnded)
		}
		wantErr(t, "at the other server", <-second, vault.ErrEnded)
		_, err := one.Get(t.Context(), ann, corp)
		wantErr(t, "afterwards", err, vault.ErrUnknown)
		if n := p.calls.Load(); n != 1 {
			t.Errorf("%d calls, want 1", n)
		}
	})
}

func TestProviderThatIsDownIsCalledOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		one, other, _ := two(t, e)
		p := newProvider()
		down := errors.New("no route to the provider")
		first := crowd(t, 10, 1, p, one)
		seen := seesClaim(other, time.Now)
		second := make(chan error)
		go func() {
			_, err := other.Refresh(t.Context(), ann, corp, 1, p.refresh)
			second <- err
		}()
		<-seen
		p.answer <- down
		for _, o := range first() {
			wantErr(t, "at the server that called", o.err, down)
		}
		wantErr(t, "at the other server", <-second, vault.ErrBusy)
		if n := p.calls.Load(); n != 1 {
			t.Errorf("%d calls for 11 requests, want 1", n)
		}
		p.answer <- nil // it is up again
		if got := must[vault.Entry](t)(other.Refresh(t.Context(), ann, corp, 1, p.refresh)); got.Version != 2 || got.Access != "fresh-2" {
			t.Errorf("afterwards: version %d", got.Version)
		}
	})
}

// A server that died in the middle of a refresh leaves a claim, which keeps others from the
// provider until it lapses.
func TestClaimOfADeadServerLapses(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		one, other, _ := two(t, e)
		check(t, one.Die(t.Context(), ann, corp))
		var ahead atomic.Int64
		seen := seesClaim(other, func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
		p := newProvider()
		p.answer <- nil
		got := make(chan outcome)
		for range 5 {
			go func() {
				e, err := other.Refresh(t.Context(), ann, corp, 1, p.refresh)
				got <- outcome{e, err}
			}()
		}
		<-seen
		if n := p.calls.Load(); n != 0 {
			t.Error("the provider was called during the claim")
		}
		ahead.Store(int64(vault.ClaimLapses))
		for range 5 {
			if o := <-got; o.err != nil || o.entry.Version != 2 {
				t.Errorf("after the claim lapsed: version %d, %v", o.entry.Version, o.err)
			}
		}
		if n := p.calls.Load(); n != 1 {
			t.Errorf("%d calls, want 1", n)
		}
	})
}

// A claim in the far future was made before the clock was set back, and does not last.
func TestClaimFromAWrongClockLapses(t *testing.T) {
	v, _, _ := open(t, storetest.SQLite)
	must[vault.Entry](t)(v.Put(t.Context(), tokens(ann, "first")))
	v.SetNow(func() time.Time { return time.Now().Add(24 * time.Hour) })
	check(t, v.Die(t.Context(), ann, corp))
	v.SetNow(time.Now)
	p := newProvider()
	p.answer <- nil
	must[vault.Entry](t)(v.Refresh(t.Context(), ann, corp, 1, p.refresh))
}

// The server whose claim lapsed comes back late: its answer does not replace the later one.
func TestLateAnswerIsNotStored(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		one, other, _ := two(t, e)
		p, q := newProvider(), newProvider()
		late := crowd(t, 1, 1, p, one)
		other.SetNow(func() time.Time { return time.Now().Add(vault.ClaimLapses + time.Minute) })
		q.answer <- nil
		second := must[vault.Entry](t)(other.Refresh(t.Context(), ann, corp, 1, func(ctx context.Context, e vault.Entry) (seal.Credential, error) {
			c, err := q.refresh(ctx, e)
			c.Access = "second"
			return c, err
		}))
		p.answer <- nil
		if o := late()[0]; o.err != nil || o.entry.Access != second.Access || o.entry.Version != second.Version {
			t.Errorf("the late server has %q of version %d (%v)", o.entry.Access, o.entry.Version, o.err)
		}
		if got := must[vault.Entry](t)(one.Get(t.Context(), ann, corp)); got.Access != "second" || got.Version != 2 {
			t.Errorf("the store has %q of version %d", got.Access, got.Version)
		}
	})
}

func TestSignInDuringARefreshWins(t *testing.T) {
	for name, answer := range map[string]error{"new tokens": nil, "refused": vault.ErrEnded, "down": errors.New("down")} {
		t.Run(name, func(t *testing.T) {
			storetest.Each(t, func(t *testing.T, e storetest.Engine) {
				one, other, _ := two(t, e)
				p := newProvider()
				outcomes := crowd(t, 3, 1, p, one)
				must[vault.Entry](t)(other.Put(t.Context(), tokens(ann, "signed-in")))
				p.answer <- answer
				for _, o := range outcomes() {
					if name == "down" {
						wantErr(t, "provider down", o.err, answer)
					} else if o.err != nil || o.entry.Access != "signed-in" || o.entry.Version != 2 {
						t.Errorf("got %q of version %d (%v)", o.entry.Access, o.entry.Version, o.err)
					}
				}
				if got := must[vault.Entry](t)(one.Get(t.Context(), ann, corp)); got.Access != "signed-in" || got.Version != 2 {
					t.Errorf("the store has %q of version %d", got.Access, got.Version)
				}
				p.answer <- nil // no claim is left
				must[vault.Entry](t)(other.Refresh(t.Context(), ann, corp, 2, p.refresh))
			})
		})
	}
}

// Tokens that are taken while they are refreshed stay taken. What the provider answered is
// returned, so that it can be revoked too.
func TestTakeDuringARefreshWins(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		one, other, _ := two(t, e)
		p := newProvider()
		outcomes := crowd(t, 2, 1, p, one)
		must[vault.Entry](t)(other.Take(t.Context(), ann, corp))
		p.answer <- nil
		for _, o := range outcomes() {
			if !errors.Is(o.err, vault.ErrEnded) || o.entry.Access != "fresh-1" {
				t.Errorf("got %q, %v; want the answer and ErrEnded", o.entry.Access, o.err)
			}
		}
		_, err := other.Get(t.Context(), ann, corp)
		wantErr(t, "afterwards", err, vault.ErrUnknown)
	})
}

// A request that ends does not take the provider's answer with it.
func TestRefreshOutlivesItsRequest(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		s, k := e.Open(t), ring(t)
		v := vault.New(vault.Options{Store: s, Ring: k})
		must[vault.Entry](t)(v.Put(t.Context(), tokens(ann, "first")))
		p := newProvider()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			_, err := v.Refresh(ctx, ann, corp, 1, p.refresh)
			ended <- err
		}()
		<-p.called
		cancel()
		err := <-ended
		wantErr(t, "the request", err, vault.ErrBusy)
		wantErr(t, "the request", err, context.Canceled)
		p.answer <- nil
		v.Close() // waits for the refresh
		if got := must[vault.Entry](t)(v.Get(t.Context(), ann, corp)); got.Access != "fresh-1" || got.Version != 2 {
			t.Errorf("the store has %q of version %d", got.Access, got.Version)
		}
		if _, err := v.Refresh(t.Context(), ann, corp, 2, never(t)); err == nil {
			t.Error("a closed vault began a refresh")
		}
	})
}

// failing makes changes of the tokens fail while a claim ends, as a database in trouble does.
func failing(t *testing.T, e storetest.Engine, s *store.Store) (mend func()) {
	t.Helper()
	if e == storetest.SQLite {
		write(t, s, "CREATE TRIGGER trouble BEFORE UPDATE ON credentials WHEN NEW.claim = '' BEGIN SELECT RAISE(ABORT, 'trouble'); END")
		return func() { write(t, s, "DROP TRIGGER trouble") }
	}
	write(t, s, "CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trouble'; END $$")
	write(t, s, "CREATE TRIGGER trouble BEFORE UPDATE ON credentials FOR EACH ROW WHEN (NEW.claim = '') EXECUTE FUNCTION trouble()")
	return func() { write(t, s, "DROP TRIGGER trouble ON credentials") }
}

// The provider's answer exists nowhere else, so it is stored again while the store is in trouble.
func TestAnswerIsStoredAfterTroubleOfTheStore(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		one, other, s := two(t, e)
		p := newProvider()
		outcomes := crowd(t, 2, 1, p, one)
		mend := failing(t, e, s)
		p.answer <- nil
		if _, err := other.Put(t.Context(), tokens(ann, "x")); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("the store is not in trouble: %v", err)
		}
		mend()
		for _, o := range outcomes() {
			if o.err != nil || o.entry.Access != "fresh-1" {
				t.Errorf("got %q (%v)", o.entry.Access, o.err)
			}
		}
		if n := p.calls.Load(); n != 1 {
			t.Errorf("%d calls, want 1", n)
		}
	})
}

// A fault in the code that calls the provider is an error of that refresh alone.
func TestPanicOfACallIsAnError(t *testing.T) {
	v, _, _ := open(t, storetest.SQLite)
	must[vault.Entry](t)(v.Put(t.Context(), tokens(ann, "first")))
	_, err := v.Refresh(t.Context(), ann, corp, 1, func(context.Context, vault.Entry) (seal.Credential, error) { panic("first-refresh") })
	if err == nil || errors.Is(err, vault.ErrEnded) {
		t.Errorf("got %v", err)
	}
	p := newProvider()
	p.answer <- nil
	must[vault.Entry](t)(v.Refresh(t.Context(), ann, corp, 1, p.refresh))
}
