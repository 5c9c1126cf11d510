package keys_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/seal"
	"signet/internal/store"
	"signet/internal/test/storetest"
	"signet/jwt"
	"signet/keys"
)

const (
	issuer   = "https://auth.test"
	resource = "https://mcp.test/a"
)

func newRing(t testing.TB) *seal.Keyring {
	t.Helper()
	ring, err := seal.Parse(seal.NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func open(t testing.TB, o keys.Options) *keys.Set {
	t.Helper()
	if o.TokenTTL == 0 {
		o.TokenTTL = 5 * time.Minute
	}
	s, err := keys.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs the sets until stop is called.
func run(t testing.TB, sets ...*keys.Set) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, s := range sets {
		wg.Go(func() { s.Run(ctx) })
	}
	return func() { cancel(); wg.Wait() }
}

func exec(t testing.TB, s *store.Store, statement string) {
	t.Helper()
	if err := s.Write(context.Background(), func(tx store.Tx) error {
		if _, err := tx.Exec(statement); err != nil {
			return err
		}
		_, err := tx.Exec("UPDATE meta SET last_seen = last_seen") // a transaction without changed rows is not committed
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// breakStore makes every insert of a key fail, until repairStore is called.
func breakStore(t testing.TB, s *store.Store) {
	t.Helper()
	exec(t, s, `CREATE TRIGGER down BEFORE INSERT ON signing_keys BEGIN SELECT RAISE(ABORT, 'disk on fire'); END`)
}

func repairStore(t testing.TB, s *store.Store) {
	t.Helper()
	exec(t, s, `DROP TRIGGER down`)
}

func sign(t testing.TB, s *keys.Set, ttl time.Duration) string {
	t.Helper()
	now := time.Now()
	raw, err := jwt.NewSigner(s.Signing).Sign(jwt.Claims{
		Issuer: issuer, Subject: "alice", Audience: resource, ClientID: "c",
		IssuedAt: now.Unix(), ExpiresAt: now.Add(ttl).Unix(),
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func verifier(t testing.TB, source jwt.KeySource) *jwt.Verifier {
	t.Helper()
	v, err := jwt.NewVerifier(jwt.VerifierOptions{Issuer: issuer, Audiences: []string{resource}, Keys: source})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func signingID(t testing.TB, s *keys.Set) string {
	t.Helper()
	k, err := s.Signing(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return k.ID
}

func published(t testing.TB, s *keys.Set) map[string]string {
	t.Helper()
	body, _, _ := s.JWKS(time.Now())
	var set struct {
		Keys []struct{ Kid, X string }
	}
	if err := json.Unmarshal(body, &set); err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, k := range set.Keys {
		m[k.Kid] = k.X
	}
	return m
}

// The set shows seven members of each key and no part of a private half.
func TestJWKSHasPublicMembersOnly_A04(t *testing.T) { storetest.Each(t, testJWKSHasPublicMembersOnly) }

func testJWKSHasPublicMembersOnly(t *testing.T, e storetest.Engine) {
	s := open(t, keys.Options{Store: e.Open(t), Ring: newRing(t), Rotation: time.Hour})
	now := time.Now()
	body, etag, maxAge := s.JWKS(now)
	var set map[string][]map[string]string
	if err := json.Unmarshal(body, &set); err != nil || len(set) != 1 || len(set["keys"]) != 2 {
		t.Fatalf("%s: %v", body, err)
	}
	for _, k := range set["keys"] {
		if len(k) != 7 || k["kty"] != "EC" || k["crv"] != "P-256" || k["use"] != "sig" || k["alg"] != "ES256" ||
			len(k["x"]) != 43 || len(k["y"]) != 43 || len(k["kid"]) != 43 {
			t.Errorf("key %v", k)
		}
	}
	if !strings.HasPrefix(etag, `"`) || !strings.HasSuffix(etag, `"`) || len(etag) < 10 {
		t.Errorf("ETag %s", etag)
	}
	if maxAge < 0 || maxAge > 15*time.Minute || maxAge%time.Second != 0 {
		t.Errorf("max-age %v", maxAge)
	}
	again, sameTag, _ := s.JWKS(now)
	if !bytes.Equal(body, again) || etag != sameTag {
		t.Error("the set changed within an instant")
	}
	k, err := s.Signing(now)
	if err != nil {
		t.Fatal(err)
	}
	if got := k.LogValue().String(); got != "[signing key "+k.ID+"]" {
		t.Errorf("in a log: %s", got)
	}
}

// Replicas that start together on an empty store, or later, sign with one key.
func TestReplicasAgree(t *testing.T) { storetest.Each(t, testReplicasAgree) }

func testReplicasAgree(t *testing.T, e storetest.Engine) {
	o, ring := e.Empty(t), newRing(t)
	st := storetest.Open(t, o)
	sets := make([]*keys.Set, 8)
	var wg sync.WaitGroup
	for i := range sets {
		st := storetest.Open(t, o)
		wg.Go(func() { sets[i] = open(t, keys.Options{Store: st, Ring: ring, Rotation: 1000 * time.Hour}) })
	}
	wg.Wait()
	sets = append(sets, open(t, keys.Options{Store: st, Ring: ring, Rotation: 1000 * time.Hour}))
	want, wantTag, _ := sets[0].JWKS(time.Now())
	for i, s := range sets {
		if got, tag, _ := s.JWKS(time.Now()); !bytes.Equal(got, want) || tag != wantTag {
			t.Errorf("replica %d publishes %s, want %s", i, got, want)
		}
		if signingID(t, s) != signingID(t, sets[0]) {
			t.Errorf("replica %d signs with another key", i)
		}
	}
}

// jwksOver serves a set's JWKS as the issuer does, without a network.
type jwksOver struct{ set *keys.Set }

func (j jwksOver) RoundTrip(r *http.Request) (*http.Response, error) {
	body, etag, maxAge := j.set.JWKS(time.Now())
	h := http.Header{"Etag": {etag}, "Cache-Control": {fmt.Sprintf("public, max-age=%d", int(maxAge.Seconds()))}}
	if r.Header.Get("If-None-Match") == etag {
		return &http.Response{StatusCode: 304, Header: h, Body: http.NoBody, Request: r}, nil
	}
	return &http.Response{StatusCode: 200, Header: h, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, nil
}

// Through many rotations no verifier refuses a good token at any time of its life, no key
// ID names two keys, and a key is gone after its time.
func TestRotationRefusesNoGoodToken_F12_INV9(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, ring := storetest.SQLite.Open(t), newRing(t)
		const rotation, ttl = 30 * time.Minute, 5 * time.Minute
		o := keys.Options{Store: st, Ring: ring, Rotation: rotation, TokenTTL: ttl}
		sets := []*keys.Set{open(t, o), open(t, o)}
		defer run(t, sets...)()
		verifiers := []*jwt.Verifier{
			verifier(t, sets[0]), verifier(t, sets[1]),
			verifier(t, jwt.NewRemoteKeys(issuer, &http.Client{Transport: jwksOver{sets[0]}})),
			verifier(t, jwt.NewRemoteKeys(issuer, &http.Client{Transport: jwksOver{sets[1]}})),
		}
		type token struct {
			raw, kid string
			end      time.Time
		}
		var living []token
		seen, signed := map[string]string{}, map[string]bool{}
		for i := range 1500 {
			time.Sleep(7 * time.Second)
			set := sets[i%2]
			kid := signingID(t, set)
			signed[kid] = true
			for j, s := range sets {
				at := published(t, s)
				if at[kid] == "" {
					t.Fatalf("step %d: %s signs and replica %d does not publish it", i, kid, j)
				}
				for kid, x := range at {
					if seen[kid] != "" && seen[kid] != x {
						t.Fatalf("key ID %s names two keys", kid)
					}
					seen[kid] = x
				}
				for _, old := range living {
					if at[old.kid] == "" && time.Now().Before(old.end) {
						t.Fatalf("step %d: %s is gone before its last token", i, old.kid)
					}
				}
			}
			now := time.Now()
			living = append(living, token{sign(t, set, ttl), kid, now.Add(ttl + jwt.Leeway - time.Second)})
			for living[0].end.Before(now) {
				living = living[1:]
			}
			for _, which := range []token{living[len(living)-1], living[0]} {
				for j, v := range verifiers {
					if _, err := v.Verify(t.Context(), which.raw); err != nil {
						t.Fatalf("step %d: verifier %d: %v", i, j, err)
					}
				}
			}
		}
		if len(signed) < 5 {
			t.Errorf("%d keys signed, want one each %v", len(signed), rotation)
		}
		at := published(t, sets[0])
		if len(at) > 3 {
			t.Errorf("%d keys are still published", len(at))
		}
	})
}

// A retired key verifies no token, not even from a verifier's memory.
func TestRetiredKeyIsRefused_F12(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, keys.Options{Store: storetest.SQLite.Open(t), Ring: newRing(t), Rotation: time.Hour})
		defer run(t, s)()
		v := verifier(t, s)
		raw := sign(t, s, 10*time.Hour)
		if _, err := v.Verify(t.Context(), raw); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour + 7*time.Minute)
		if _, err := v.Verify(t.Context(), raw); !errors.Is(err, jwt.ErrInvalid) {
			t.Errorf("Verify = %v, want ErrInvalid", err)
		}
	})
}

// The store erases private halves when their successor signs.
func TestPrivateHalvesAreErased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := storetest.SQLite.Open(t)
		s := open(t, keys.Options{Store: st, Ring: newRing(t), Rotation: time.Hour})
		defer run(t, s)()
		for range 50 {
			time.Sleep(7 * time.Minute)
			var before, total int
			kid := signingID(t, s)
			if err := st.Read(t.Context(), func(tx store.Tx) error {
				return tx.QueryRow(`SELECT count(*), count(CASE WHEN sealed_private IS NOT NULL AND
					starts_at < (SELECT starts_at FROM signing_keys WHERE kid = $1) THEN 1 END) FROM signing_keys`, kid).Scan(&total, &before)
			}); err != nil {
				t.Fatal(err)
			}
			if before != 0 || total > 3 {
				t.Fatalf("%d private halves older than the signing key, %d rows", before, total)
			}
		}
	})
}

// A copy of the set that is used for as long as max-age allows has every key that signs
// meanwhile, and max-age ends when a change is planned.
func TestJWKSMaxAgeEndsBeforeTheSetChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, keys.Options{Store: storetest.SQLite.Open(t), Ring: newRing(t), Rotation: time.Hour})
		defer run(t, s)()
		type copied struct {
			kids map[string]string
			end  time.Time
		}
		var copies []copied
		long := false
		for range 3000 {
			now := time.Now()
			_, _, maxAge := s.JWKS(now)
			if maxAge < 0 || maxAge > 15*time.Minute || maxAge > now.Truncate(time.Hour).Add(time.Hour).Sub(now) {
				t.Fatalf("at %v max-age %v", now, maxAge)
			}
			long = long || maxAge == 15*time.Minute
			copies = append(copies, copied{published(t, s), now.Add(maxAge)})
			kid := signingID(t, s)
			for i := 0; i < len(copies); i++ {
				if copies[i].end.Before(now) {
					copies[i] = copies[len(copies)-1]
					copies = copies[:len(copies)-1]
					i--
				} else if copies[i].kids[kid] == "" {
					t.Fatalf("at %v a valid copy lacks the key that signs", now)
				}
			}
			time.Sleep(5 * time.Second)
		}
		if !long {
			t.Error("max-age is always short")
		}
	})
}

// A set that is not run still retires its keys in time: that does not depend on the rows
// of the store.
func TestKeysRetireByTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, keys.Options{Store: storetest.SQLite.Open(t), Ring: newRing(t), Rotation: time.Hour})
		first := signingID(t, s)
		time.Sleep(62 * time.Minute)
		if _, _, maxAge := s.JWKS(time.Now()); maxAge != 4*time.Minute {
			t.Errorf("max-age %v, want the 4 minutes until a key is retired", maxAge)
		}
		if _, err := s.Key(t.Context(), first); err != nil || published(t, s)[first] == "" {
			t.Errorf("the key is gone too early: %v", err)
		}
		time.Sleep(4 * time.Minute)
		if _, err := s.Key(t.Context(), first); !errors.Is(err, jwt.ErrUnknownKey) || published(t, s)[first] != "" {
			t.Errorf("the key is still there: %v", err)
		}
	})
}

// logs collects the log of a set.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), s)
}

// A store that takes no writes for hours causes alarms, but no token is refused.
func TestStoreOutageStopsNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, log := storetest.SQLite.Open(t), &logs{}
		s := open(t, keys.Options{Store: st, Ring: newRing(t), Rotation: time.Hour, Log: slog.New(slog.NewTextHandler(log, nil))})
		defer run(t, s)()
		v := verifier(t, s)
		breakStore(t, st)
		for range 30 {
			time.Sleep(6 * time.Minute)
			if _, err := v.Verify(t.Context(), sign(t, s, 5*time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Stale(); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("Stale = %v", err)
		}
		// Another replica may have made the key, so it is not known to be wrong.
		if _, err := s.Key(t.Context(), "unknown"); !errors.Is(err, jwt.ErrKeysUnavailable) {
			t.Errorf("an unknown key while the store is down: %v", err)
		}
		if n := log.count("level=ERROR"); n < 10 || n > 185 {
			t.Errorf("%d alarms in three hours, want 10 to 185", n)
		}
		last := signingID(t, s)
		repairStore(t, st)
		time.Sleep(15 * time.Second)
		if err := s.Stale(); err != nil {
			t.Errorf("Stale = %v", err)
		}
		if _, err := s.Key(t.Context(), "unknown"); !errors.Is(err, jwt.ErrUnknownKey) {
			t.Errorf("an unknown key after the outage: %v", err)
		}
		if signingID(t, s) != last {
			t.Error("a key signs that no cache can have yet")
		}
		time.Sleep(time.Hour)
		if signingID(t, s) == last {
			t.Error("no key follows after the outage")
		}
		if log.count("up to date again") != 1 {
			t.Error("the end of the outage is not in the log")
		}
	})
}

// After an outage, whichever replica makes the next key, the others publish it before it
// signs, so that no cache that was filled from them lacks it. Short periods leave the least
// time.
func TestCachesKnowTheNextKeyAfterAnOutage_F12(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, ring := storetest.SQLite.Open(t), newRing(t)
		o := keys.Options{Store: st, Ring: ring, Rotation: 20 * time.Second, TokenTTL: 20 * time.Second}
		old := open(t, o)
		defer run(t, old)()
		for outage := 21 * time.Second; outage < 60*time.Second; outage += 1300 * time.Millisecond {
			time.Sleep(30 * time.Second)
			breakStore(t, st)
			time.Sleep(outage)
			repairStore(t, st)
			fresh := open(t, o)
			stop := run(t, fresh)
			kid := missingKey(t, old, fresh)
			stop()
			if kid != "" {
				t.Errorf("outage of %v: %s signs, but a cache of the other replica's keys lacks it", outage, kid)
			}
		}
	})
}

// missingKey follows two replicas for half a minute. It returns a key with which signer
// signed while a valid cache of from's keys lacked it.
func missingKey(t *testing.T, from, signer *keys.Set) (kid string) {
	t.Helper()
	type cache struct {
		keys  map[string]string
		until time.Time
	}
	var caches []cache
	for range 30 * 4 {
		_, _, age := from.JWKS(time.Now())
		caches = append(caches, cache{published(t, from), time.Now().Add(age)})
		time.Sleep(250 * time.Millisecond)
		kid := signingID(t, signer)
		for _, c := range caches {
			if time.Now().Before(c.until) && c.keys[kid] == "" {
				return kid
			}
		}
	}
	return ""
}

// A set that starts while the store is down waits for it, and meanwhile gives no verdict
// on any key.
func TestStartWaitsForTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, ring := storetest.SQLite.Open(t), newRing(t)
		breakStore(t, st)
		s := open(t, keys.Options{Store: st, Ring: ring, Rotation: time.Hour})
		defer run(t, s)()
		if _, err := s.Signing(time.Now()); !errors.Is(err, jwt.ErrKeysUnavailable) {
			t.Errorf("Signing = %v", err)
		}
		if _, err := s.Key(t.Context(), "x"); !errors.Is(err, jwt.ErrKeysUnavailable) {
			t.Errorf("Key = %v", err)
		}
		if body, _, _ := s.JWKS(time.Now()); body != nil || s.Stale() == nil {
			t.Errorf("JWKS = %s, Stale = %v", body, s.Stale())
		}
		repairStore(t, st)
		time.Sleep(15 * time.Second)
		signingID(t, s)
	})
}

func TestOpenRefusesDamagedRowsAndOtherRoots(t *testing.T) {
	storetest.Each(t, testOpenRefusesDamagedRowsAndOtherRoots)
}

func testOpenRefusesDamagedRowsAndOtherRoots(t *testing.T, e storetest.Engine) {
	ring := newRing(t)
	for name, tc := range map[string]struct {
		spoil string
		ring  *seal.Keyring
		want  string
	}{
		"another root":   {"", newRing(t), "SIGNET_SECRET"},
		"damaged public": {`UPDATE signing_keys SET public = 'x'`, ring, "not a JWK"},
		"another key ID": {`UPDATE signing_keys SET kid = kid || 'x'`, ring, "damaged"},
		"swapped halves": {`UPDATE signing_keys SET sealed_private = (SELECT k.sealed_private FROM signing_keys k WHERE k.period != signing_keys.period)`, ring, "SIGNET_SECRET"},
		"cut private":    {`UPDATE signing_keys SET sealed_private = substr(sealed_private, 1, 50)`, ring, "SIGNET_SECRET"},
	} {
		st := e.Open(t)
		o := keys.Options{Store: st, Ring: ring, Rotation: time.Hour, TokenTTL: time.Minute}
		open(t, o)
		if tc.spoil != "" {
			exec(t, st, tc.spoil)
		}
		o.Ring = tc.ring
		if _, err := keys.Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "period") {
			t.Errorf("%s: Open = %v, want an error with %q and the key", name, err, tc.want)
		}
	}
	st := e.Open(t)
	for _, o := range []keys.Options{{Store: st, Ring: ring, TokenTTL: time.Minute}, {Store: st, Ring: ring, Rotation: time.Hour}} {
		if _, err := keys.Open(t.Context(), o); err == nil {
			t.Errorf("Open with rotation %v and lifetime %v", o.Rotation, o.TokenTTL)
		}
	}
}

// During a rotation of the root secret the keys can be opened with either order of roots.
func TestBothRootsOpenKeysDuringRotation(t *testing.T) {
	storetest.Each(t, testBothRootsOpenKeysDuringRotation)
}

func testBothRootsOpenKeysDuringRotation(t *testing.T, e storetest.Engine) {
	st := e.Open(t)
	old, fresh := seal.NewSecret(), seal.NewSecret()
	var ids []string
	for _, list := range []string{old, old + "," + fresh, fresh + "," + old} {
		ring, err := seal.Parse(list)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, signingID(t, open(t, keys.Options{Store: st, Ring: ring, Rotation: 1000 * time.Hour})))
	}
	if ids[0] != ids[1] || ids[1] != ids[2] {
		t.Errorf("keys changed with the root: %v", ids)
	}
}

// Tokens of one replica are good for both, in real time, with real threads and a rotation
// every four seconds. The test ends when three keys have signed.
func TestRotationUnderConcurrentUse_F12(t *testing.T) {
	storetest.Each(t, testRotationUnderConcurrentUse)
}

func testRotationUnderConcurrentUse(t *testing.T, e storetest.Engine) {
	st, ring := e.Open(t), newRing(t)
	o := keys.Options{Store: st, Ring: ring, Rotation: 4 * time.Second, TokenTTL: time.Minute}
	a, b := open(t, o), open(t, o)
	defer run(t, a, b)()
	va, vb := verifier(t, a), verifier(t, b)
	var kids sync.Map
	var wg sync.WaitGroup
	deadline := time.Now().Add(time.Minute)
	var signed atomic.Int64 // how many keys
	for range 4 {
		wg.Go(func() {
			for signed.Load() < 3 && time.Now().Before(deadline) {
				raw := sign(t, a, time.Minute)
				if _, err := vb.Verify(context.Background(), raw); err != nil {
					t.Errorf("replica b: %v", err)
				}
				if _, err := va.Verify(context.Background(), raw); err != nil {
					t.Errorf("replica a: %v", err)
				}
				if _, known := kids.LoadOrStore(signingID(t, b), true); !known {
					signed.Add(1)
				}
				b.JWKS(time.Now())
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	if n := signed.Load(); n < 3 {
		t.Errorf("%d keys signed in a minute, want 3", n)
	}
}

func BenchmarkBareSign(b *testing.B) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	hash := sha256.Sum256([]byte("x"))
	for b.Loop() {
		if _, err := ecdsa.SignASN1(rand.Reader, key, hash[:]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	s := open(b, keys.Options{Store: storetest.SQLite.Open(b), Ring: newRing(b), Rotation: time.Hour})
	signer := jwt.NewSigner(s.Signing)
	now := time.Now()
	c := jwt.Claims{Issuer: issuer, Subject: "alice", Audience: resource, ClientID: "c", Scope: "read write",
		IssuedAt: now.Unix(), ExpiresAt: now.Unix() + 300, GrantID: seal.NewID(now)}
	for b.Loop() {
		if _, err := signer.Sign(c, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkJWKS(b *testing.B) {
	s := open(b, keys.Options{Store: storetest.SQLite.Open(b), Ring: newRing(b), Rotation: time.Hour})
	for b.Loop() {
		s.JWKS(time.Now())
	}
}
