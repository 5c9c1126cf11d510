package keys_test

import (
	"context"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/seal"
	"signet/internal/test/storetest"
	"signet/jwt"
	"signet/keys"
)

func list(t testing.TB, o keys.Options) keys.Timeline {
	t.Helper()
	timeline, err := keys.List(context.Background(), o.Store, o.Rotation, o.TokenTTL, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return timeline
}

// inState is the last key in that state.
func inState(t testing.TB, o keys.Options, want keys.State) (found keys.Info) {
	t.Helper()
	for _, k := range list(t, o).Keys {
		if k.State == want {
			found = k
		}
	}
	if found.ID == "" {
		t.Fatalf("no key is %s: %+v", want, list(t, o).Keys)
	}
	return found
}

// waitFor waits until ok reports true.
func waitFor(t testing.TB, what string, within time.Duration, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, within)
		}
	}
}

// byTheHeaders caches the JWK Set for as long as max-age says, and fetches it for no
// other reason.
type byTheHeaders struct {
	set   *keys.Set
	keys  map[string]*ecdsa.PublicKey
	until time.Time
}

func (c *byTheHeaders) Key(ctx context.Context, kid string) (*ecdsa.PublicKey, error) {
	if now := time.Now(); !now.Before(c.until) {
		body, _, maxAge := c.set.JWKS(now)
		var set struct {
			Keys []struct{ Kid string }
		}
		if err := json.Unmarshal(body, &set); err != nil {
			return nil, err
		}
		c.keys, c.until = map[string]*ecdsa.PublicKey{}, now.Add(maxAge)
		for _, k := range set.Keys {
			public, err := c.set.Key(ctx, k.Kid)
			if err != nil {
				return nil, err
			}
			c.keys[k.Kid] = public
		}
	}
	if c.keys[kid] == nil {
		return nil, jwt.ErrUnknownKey
	}
	return c.keys[kid], nil
}

// kidOf is the key ID in a token's header.
func kidOf(raw string) string {
	var h struct{ Kid string }
	text, _, _ := strings.Cut(raw, ".")
	b, _ := base64.RawURLEncoding.DecodeString(text)
	json.Unmarshal(b, &h)
	return h.Kid
}

// The operator brings keys forward again and again. Verifiers that cache by the headers
// refuse no token, and both replicas change over together.
func TestBringingKeysForwardRefusesNoToken_F12_INV9(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl = 5 * time.Minute
		o := keys.Options{Store: storetest.SQLite.Open(t), Ring: newRing(t), Rotation: 24 * time.Hour, TokenTTL: ttl}
		sets := []*keys.Set{open(t, o), open(t, o)}
		defer run(t, sets...)()
		verifiers := []*jwt.Verifier{
			verifier(t, &byTheHeaders{set: sets[0]}), verifier(t, &byTheHeaders{set: sets[1]}), verifier(t, sets[0]), verifier(t, sets[1]),
		}
		time.Sleep(time.Minute)
		command := keys.Options{Store: o.Store, Rotation: time.Hour} // its settings are not the servers'
		signed := map[string]bool{}
		var due keys.Rotation
		for i := range 2000 {
			if i%10 == 0 {
				r, err := keys.Rotate(t.Context(), command.Store, command.Rotation)
				if err != nil {
					t.Fatal(err)
				}
				if time.Now().Before(due.Signs) && (r.ID != due.ID || !r.Begun || !r.Signs.Equal(due.Signs)) {
					t.Fatalf("a second call changed %+v to %+v", due, r)
				}
				due = r
			}
			time.Sleep(7 * time.Second)
			for j, s := range sets {
				raw := sign(t, s, ttl)
				for k, v := range verifiers {
					if _, err := v.Verify(t.Context(), raw); err != nil {
						t.Fatalf("step %d: replica %d signed, verifier %d: %v", i, j, k, err)
					}
				}
			}
			if a, b := signingID(t, sets[0]), signingID(t, sets[1]); a != b {
				t.Fatalf("step %d: %s and %s sign", i, a, b)
			}
			signed[signingID(t, sets[0])] = true
		}
		if len(signed) < 6 {
			t.Errorf("%d keys signed in four hours of rotating, want 6: the test tests too little", len(signed))
		}
		if timeline := list(t, command); timeline.Rotation != o.Rotation || timeline.MaxAge != 15*time.Minute {
			t.Errorf("the list has rotation %v and max-age %v, want those of the servers", timeline.Rotation, timeline.MaxAge)
		}
	})
}

// A withdrawn key leaves all replicas: it signs nothing, verifies nothing, not even from a
// verifier's memory, and is no longer a key of the store.
func TestWithdrawnKeyLeavesAllReplicas_L03(t *testing.T) {
	storetest.Each(t, testWithdrawnKeyLeavesAllReplicas)
}

func testWithdrawnKeyLeavesAllReplicas(t *testing.T, e storetest.Engine) {
	log := &logs{}
	at := e.Empty(t)
	o := keys.Options{Store: storetest.Open(t, at), Ring: newRing(t), Rotation: 4 * time.Second, TokenTTL: time.Minute, Log: slog.New(slog.NewTextHandler(log, nil))}
	other := o
	other.Store = storetest.Open(t, at)
	a, b := open(t, o), open(t, other)
	defer run(t, a, b)()
	command := keys.Options{Store: storetest.Open(t, at), TokenTTL: time.Minute}
	const poll = 15 * time.Second // a poll takes 200 ms, but the machine may be busy

	for _, state := range []keys.State{keys.Signing, keys.Next, keys.Past} {
		waitFor(t, "a past, a signing and a next key", poll, func() bool {
			return hasKeyInState(t, command, keys.Past) && hasKeyInState(t, command, keys.Signing) && hasKeyInState(t, command, keys.Next)
		})
		k := inState(t, command, state)
		v, raw := verifier(t, b), sign(t, a, time.Minute)
		if _, err := v.Verify(t.Context(), raw); err != nil {
			t.Fatal(err)
		}
		w, err := keys.Withdraw(t.Context(), command.Store, command.Rotation, k.ID)
		if err != nil {
			t.Fatalf("%s: %v", state, err)
		}
		if w.ID != k.ID || w.Signs == k.ID || w.MaxAge != time.Second {
			t.Errorf("%s: %+v", state, w)
		}
		for i, s := range []*keys.Set{a, b} {
			waitFor(t, "a replica without the withdrawn key", poll, func() bool { return published(t, s)[k.ID] == "" })
			if _, err := s.Key(t.Context(), k.ID); !errors.Is(err, jwt.ErrUnknownKey) {
				t.Errorf("%s: replica %d still has it: %v", state, i, err)
			}
			if signingID(t, s) == k.ID {
				t.Errorf("%s: replica %d signs with it", state, i)
			}
		}
		if _, err := v.Verify(t.Context(), raw); state == keys.Signing && k.ID == kidOf(raw) && !errors.Is(err, jwt.ErrInvalid) {
			t.Errorf("a token of the withdrawn key: %v, want ErrInvalid", err)
		}
		if _, err := keys.Withdraw(t.Context(), command.Store, command.Rotation, k.ID); !errors.Is(err, keys.ErrWithdrawn) {
			t.Errorf("%s: withdrawn again: %v", state, err)
		}
		waitFor(t, "a next key", poll, func() bool { return hasKeyInState(t, command, keys.Next) })
	}
	if n := log.count("signing key withdrawn"); n < 5 { // a replica may never have read the next key
		t.Errorf("the logs have %d withdrawals, want at least 5 of 3 on each replica", n)
	}
}

func hasKeyInState(t testing.TB, o keys.Options, want keys.State) bool {
	for _, k := range list(t, o).Keys {
		if k.State == want {
			return true
		}
	}
	return false
}

func TestRotateAndWithdrawRefuseWithoutSuccessor(t *testing.T) {
	storetest.Each(t, testRotateAndWithdrawRefuseWithoutSuccessor)
}

func testRotateAndWithdrawRefuseWithoutSuccessor(t *testing.T, e storetest.Engine) {
	o := keys.Options{Store: e.Open(t), Ring: newRing(t), Rotation: 1000 * time.Hour, TokenTTL: time.Minute}
	if timeline := list(t, o); len(timeline.Keys) != 0 || !timeline.NextMade.IsZero() {
		t.Errorf("an empty store has %+v", timeline)
	}
	if _, err := keys.Rotate(t.Context(), o.Store, o.Rotation); !errors.Is(err, keys.ErrNoKeys) {
		t.Errorf("rotating without keys: %v, want ErrNoKeys", err)
	}
	if _, err := keys.Withdraw(t.Context(), o.Store, o.Rotation, "x"); !errors.Is(err, keys.ErrNotKept) {
		t.Errorf("withdrawing an unknown key: %v, want ErrNotKept", err)
	}
	open(t, o) // and does not run it
	first, next := inState(t, o, keys.Signing), inState(t, o, keys.Next)
	if first.SignsFrom.After(time.Now()) || !first.SignsUntil.Equal(next.SignsFrom) || first.PublishedUntil.Sub(first.SignsUntil) != time.Minute+jwt.Leeway {
		t.Errorf("the first key: %+v, the next: %+v", first, next)
	}
	if w, err := keys.Withdraw(t.Context(), o.Store, o.Rotation, first.ID); err != nil || w.Was != keys.Signing || w.Signs != next.ID || !w.Known.After(time.Now()) {
		t.Errorf("the first: %+v, %v", w, err)
	}
	if k := inState(t, o, keys.Signing); k.ID != next.ID || k.SignsFrom.After(time.Now()) {
		t.Errorf("after that %+v signs", k)
	}
	if k := inState(t, o, keys.Withdrawn); k.ID != first.ID || k.Private || time.Since(k.WithdrawnAt) > time.Minute {
		t.Errorf("withdrawn: %+v", k)
	}
	if _, err := keys.Withdraw(t.Context(), o.Store, o.Rotation, next.ID); !errors.Is(err, keys.ErrOnlyKey) {
		t.Errorf("the only one: %v, want ErrOnlyKey", err)
	}
	if _, err := keys.Rotate(t.Context(), o.Store, o.Rotation); !errors.Is(err, keys.ErrNoNext) {
		t.Errorf("rotating without a next key: %v, want ErrNoNext", err)
	}
	if got := signingID(t, open(t, o)); got != next.ID { // the next start makes the missing key
		t.Errorf("%s signs, want %s", got, next.ID)
	}
	if k := inState(t, o, keys.Next); k.ID == first.ID || k.ID == next.ID {
		t.Errorf("%+v comes next", k)
	}
}

// A resealed store no longer needs the old root. A second Reseal changes nothing.
func TestResealedStoreNeedsNoOldRoot(t *testing.T) {
	storetest.Each(t, testResealedStoreNeedsNoOldRoot)
}

func testResealedStoreNeedsNoOldRoot(t *testing.T, e storetest.Engine) {
	old, fresh := seal.NewSecret(), seal.NewSecret()
	ring := func(list ...string) *seal.Keyring {
		r, err := seal.Parse(strings.Join(list, ","))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	o := keys.Options{Store: e.Open(t), Ring: ring(old), Rotation: 1000 * time.Hour, TokenTTL: time.Minute}
	kid := signingID(t, open(t, o))
	o.Ring = ring(fresh)
	if _, err := keys.Reseal(t.Context(), o.Store, o.Ring); err == nil || o.Store.Fingerprint() != "fingerprint" {
		t.Errorf("without the old root: %v, fingerprint %s", err, o.Store.Fingerprint())
	}
	o.Ring = ring(fresh, old)
	for _, want := range []int{2, 0} {
		if n, err := keys.Reseal(t.Context(), o.Store, o.Ring); err != nil || n != want {
			t.Errorf("%d keys resealed (%v), want %d", n, err, want)
		}
	}
	if got, since, err := o.Store.Root(t.Context()); err != nil || got != o.Ring.Fingerprint() || time.Since(since) > time.Minute {
		t.Errorf("the store is under %s since %v (%v), want %s", got, since, err, o.Ring.Fingerprint())
	}
	o.Ring = ring(fresh)
	if got := signingID(t, open(t, o)); got != kid {
		t.Errorf("%s signs, want %s", got, kid)
	}
}

// The list says since when a key really signed: the first key at once, because there was no
// other, and the key after a withdrawn one since the withdrawal. Later keys waited until
// all verifiers knew them.
func TestListSaysWhenAKeyReallyBeganToSign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(10 * time.Hour) // into the period
		o := keys.Options{Store: storetest.SQLite.Open(t), Ring: newRing(t), Rotation: 24 * time.Hour, TokenTTL: 5 * time.Minute}
		begun := time.Now().Truncate(time.Millisecond)
		set := open(t, o)
		defer run(t, set)()
		var id string
		for _, wait := range []time.Duration{0, time.Minute, 3 * time.Hour} {
			time.Sleep(wait)
			k := inState(t, o, keys.Signing)
			if id == "" {
				id = k.ID
			}
			if k.ID != id || !k.SignsFrom.Equal(begun) {
				t.Errorf("after %v: the first key signs since %v, want %v", wait, k.SignsFrom, begun)
			}
		}
		time.Sleep(15 * time.Hour)
		if k := inState(t, o, keys.Signing); k.ID == id || k.SignsFrom.Before(begun.Add(13*time.Hour)) {
			t.Errorf("the second key signs since %v", k.SignsFrom)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		o := keys.Options{Store: storetest.SQLite.Open(t), Ring: newRing(t), Rotation: 24 * time.Hour, TokenTTL: 5 * time.Minute}
		defer run(t, open(t, o))()
		time.Sleep(time.Hour)
		if _, err := keys.Withdraw(t.Context(), o.Store, o.Rotation, inState(t, o, keys.Signing).ID); err != nil {
			t.Fatal(err)
		}
		withdrawn := time.Now()
		for _, wait := range []time.Duration{0, time.Minute, 3 * time.Hour} {
			time.Sleep(wait)
			if k := inState(t, o, keys.Signing); k.SignsFrom.Sub(withdrawn).Abs() > time.Minute {
				t.Errorf("%v after the withdrawal the next key signs since %v, want %v", wait, k.SignsFrom, withdrawn)
			}
		}
	})
}
