package jwt_test

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"signet/jwt"
)

// A remembered token is refused as soon as a new one would be, and forgotten.
func TestRememberedTokenIsRefusedLikeANewOne(t *testing.T) {
	other := newKey(t)
	var revoked atomic.Bool
	for name, tc := range map[string]struct {
		change func(w *world)
		want   error
	}{
		"expiry":    {func(*world) { time.Sleep(6 * time.Minute) }, jwt.ErrExpired},
		"withdrawn": {func(w *world) { w.source.keys.Store(&map[string]*ecdsa.PublicKey{}) }, jwt.ErrInvalid},
		"replaced":  {func(w *world) { w.source.keys.Store(publish(keyID, other).keys.Load()) }, jwt.ErrInvalid},
		"revoked":   {func(*world) { revoked.Store(true) }, jwt.ErrRevoked},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			revoked.Store(false)
			w.verifier = newVerifier(t, jwt.VerifierOptions{Keys: w.source, Revoked: func(string) bool { return revoked.Load() }})
			raw := w.token(t, nil)
			w.accepts(t, name, raw)
			w.accepts(t, name+" again", raw)
			if n := w.verifier.Remembered(); n != 1 {
				t.Errorf("%s: %d remembered, want 1", name, n)
			}
			tc.change(w)
			if _, err := w.verifier.Verify(t.Context(), raw); !errors.Is(err, tc.want) || !errors.Is(err, jwt.ErrInvalid) {
				t.Errorf("%s: %v, want %v", name, err, tc.want)
			}
			if n := w.verifier.Remembered(); n != 0 {
				t.Errorf("%s: %d still remembered", name, n)
			}
		})
	}
}

func TestRevokedTokenIsRefusedAtFirstSight(t *testing.T) {
	w := newWorld(t)
	w.verifier = newVerifier(t, jwt.VerifierOptions{Keys: w.source, Revoked: func(id string) bool { return id == "grant" }})
	for range 2 {
		if _, err := w.verifier.Verify(t.Context(), w.token(t, nil)); !errors.Is(err, jwt.ErrRevoked) {
			t.Errorf("Verify = %v, want ErrRevoked", err)
		}
	}
	w.accepts(t, "another grant", w.token(t, func(c *jwt.Claims) { c.GrantID = "other" }))
	w.accepts(t, "no grant", w.token(t, func(c *jwt.Claims) { c.GrantID = "" }))
}

func TestRememberedTokenOutlivesAnEqualKey(t *testing.T) {
	w := newWorld(t)
	raw := w.token(t, nil)
	w.accepts(t, "first", raw)
	same := w.key.PublicKey
	w.source.keys.Store(&map[string]*ecdsa.PublicKey{keyID: &same})
	w.accepts(t, "same key, another pointer", raw)
}

// A caller that changes its claims changes no later answer.
func TestCallerMayChangeItsClaims(t *testing.T) {
	w := newWorld(t)
	raw := w.token(t, func(c *jwt.Claims) { c.Actor = &jwt.Actor{Subject: "bot"} })
	for range 3 {
		c, err := w.verifier.Verify(t.Context(), raw)
		if err != nil {
			t.Fatal(err)
		}
		if c.Subject != "alice" || c.Actor.Subject != "bot" {
			t.Fatalf("got %s acting as %s", c.Actor.Subject, c.Subject)
		}
		c.Subject, c.Actor.Subject = "admin", "admin"
	}
}

func TestCacheIsBounded(t *testing.T) {
	for _, size := range []int{1, 5, 100} {
		w := newWorld(t)
		w.verifier = newVerifier(t, jwt.VerifierOptions{Keys: w.source, CacheSize: size})
		for range 3*size + 20 {
			raw := w.token(t, nil)
			w.accepts(t, "new", raw)
			w.accepts(t, "again", raw)
		}
		if n := w.verifier.Remembered(); n > size || n == 0 {
			t.Errorf("%d remembered, want 1 to %d", n, size)
		}
	}
	w := newWorld(t)
	w.verifier = newVerifier(t, jwt.VerifierOptions{Keys: w.source, CacheSize: -1})
	w.accepts(t, "without a cache", w.token(t, nil))
}

// Long tokens count for several, because their claims are kept.
func TestCacheIsBoundedInBytes(t *testing.T) {
	w := newWorld(t)
	const size = 100
	w.verifier = newVerifier(t, jwt.VerifierOptions{Keys: w.source, CacheSize: size})
	long := func(c *jwt.Claims) { c.Upstream = strings.Repeat("x", 4000) } // more than 5 KiB in base64
	for range 2 * size {
		w.accepts(t, "long", w.token(t, long))
	}
	if n := w.verifier.Remembered(); n > size/5 || n == 0 {
		t.Errorf("%d long tokens remembered, want 1 to %d", n, size/5)
	}
	for range 10 * size { // they make room
		w.accepts(t, "ordinary", w.token(t, nil))
	}
	if n := w.verifier.Remembered(); n <= size/5 || n > size {
		t.Errorf("%d ordinary tokens remembered, want %d to %d", n, size/5, size)
	}
}

// Forgotten and repeated tokens leave the bound where it was.
func TestCacheCountsEachTokenOnce(t *testing.T) {
	w := newWorld(t)
	var revoked atomic.Bool
	w.verifier = newVerifier(t, jwt.VerifierOptions{Keys: w.source, CacheSize: 1, Revoked: func(string) bool { return revoked.Load() }})
	raw := w.token(t, nil)
	for range 10 {
		w.accepts(t, "good", raw)
		if n := w.verifier.Remembered(); n != 1 {
			t.Fatalf("%d remembered, want 1", n)
		}
		revoked.Store(true)
		if _, err := w.verifier.Verify(t.Context(), raw); !errors.Is(err, jwt.ErrRevoked) {
			t.Fatalf("Verify = %v, want ErrRevoked", err)
		}
		if n := w.verifier.Remembered(); n != 0 {
			t.Fatalf("%d remembered, want 0", n)
		}
		revoked.Store(false)
	}
}

// A remembered token costs no memory.
func TestVerifySharedOfARememberedTokenAllocatesNothing(t *testing.T) {
	w := newWorld(t)
	raw := w.token(t, nil)
	w.accepts(t, "first", raw)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := w.verifier.VerifyShared(t.Context(), raw); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func TestVerifierServesConcurrentCallers(t *testing.T) {
	w := newWorld(t)
	w.verifier = newVerifier(t, jwt.VerifierOptions{Keys: w.source, CacheSize: 20})
	raws := make([]string, 40)
	for i := range raws {
		raws[i] = w.token(t, nil)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 200 {
				if _, err := w.verifier.Verify(context.Background(), raws[i%len(raws)]); err != nil {
					t.Error(err)
				}
				w.verifier.Verify(context.Background(), raws[i%len(raws)]+"x")
			}
		})
	}
	wg.Wait()
}
