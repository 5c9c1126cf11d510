package vault_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"signet/internal/seal"
	"signet/internal/store"
	"signet/internal/test/storetest"
	"signet/internal/vault"
)

// strict is a provider that accepts each refresh token once, as OAuth 2.1 §4.3.1 wants. It notes
// the ones that come again, which would end the user's login there.
type strict struct {
	mu     sync.Mutex
	used   map[string]bool
	made   int
	reused []string
}

func (p *strict) next() (access, refresh string) {
	p.made++
	return fmt.Sprint("access-", p.made), fmt.Sprint("refresh-", p.made)
}

func (p *strict) signIn(subject string) seal.Credential {
	p.mu.Lock()
	defer p.mu.Unlock()
	access, refresh := p.next()
	return seal.Credential{Subject: subject, Provider: corp, Access: access, Refresh: refresh}
}

func (p *strict) refresh(_ context.Context, e vault.Entry) (seal.Credential, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.used[e.Refresh] {
		p.reused = append(p.reused, e.Refresh)
	}
	switch rand.IntN(10) {
	case 0:
		return seal.Credential{}, errors.New("down")
	case 1:
		return seal.Credential{}, vault.ErrEnded
	}
	p.used[e.Refresh] = true
	access, refresh := p.next()
	return seal.Credential{Access: access, Refresh: refresh}, nil
}

// refreshes is how many refreshes there were.
func (p *strict) refreshes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.used)
}

// enough refreshes mean that a run has tested something. What the users do is left to chance.
const enough = 10

// Whatever users and servers do at once, no refresh token reaches the provider twice, and what a
// request gets is later than what it has.
func TestNoRefreshTokenIsUsedTwice(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		one, other, _ := two(t, e)
		p := &strict{used: map[string]bool{}}
		rounds := 60
		if testing.Short() {
			rounds = 20
		}
		var all sync.WaitGroup
		for i := range 8 {
			v := []*vault.Vault{one, other}[i%2]
			all.Go(func() {
				for i := 0; i < rounds || p.refreshes() < enough; i++ {
					step(t, v, p, []string{ann, bob}[rand.IntN(2)])
				}
			})
		}
		all.Wait()
		if len(p.reused) > 0 {
			t.Errorf("used again: %v", p.reused)
		}
	})
}

// An entry that was refreshed, taken and put anew between the look at it and the claim is another
// one, although its version is the same: the provider gets its token, and the used one no more.
func TestEntryThatWasPutAnewIsNotTakenForTheOldOne(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		one, other, _ := two(t, e)
		call := func(_ context.Context, e vault.Entry) (seal.Credential, error) {
			return seal.Credential{Access: e.Refresh + "-access", Refresh: e.Refresh + "+"}, nil
		}
		meanwhile := sync.OnceFunc(func() {
			must[vault.Entry](t)(other.Refresh(t.Context(), ann, corp, 1, call))
			must[vault.Entry](t)(other.Take(t.Context(), ann, corp))
			must[vault.Entry](t)(other.Put(t.Context(), tokens(ann, "second")))
		})
		one.SetNow(func() time.Time { meanwhile(); return time.Now() })
		got, err := one.Refresh(t.Context(), ann, corp, 1, call)
		if err != nil || got.Access != "second-refresh-access" {
			t.Errorf("got %q, %v", got.Access, err)
		}
	})
}

// step does what a user or a request may do.
func step(t *testing.T, v *vault.Vault, p *strict, subject string) {
	var err error
	switch rand.IntN(12) {
	case 0:
		_, err = v.Take(t.Context(), subject, corp)
	case 1, 2:
		_, err = v.Put(t.Context(), p.signIn(subject))
	default:
		var have, got vault.Entry
		if have, err = v.Get(t.Context(), subject, corp); err != nil {
			break
		}
		got, err = v.Refresh(t.Context(), subject, corp, have.Version, p.refresh)
		if err == nil && (got.Version <= have.Version || got.Access == have.Access || got.Subject != subject) {
			t.Errorf("version %d of %s after version %d of %s", got.Version, got.Subject, have.Version, have.Subject)
		}
	}
	for _, fine := range []error{nil, vault.ErrUnknown, vault.ErrEnded, vault.ErrBusy, store.ErrUnavailable} {
		if errors.Is(err, fine) {
			return
		}
	}
	if err.Error() != "down" {
		t.Errorf("unexpected: %v", err)
	}
}
