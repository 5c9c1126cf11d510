package jwt_test

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signet/jwt"
)

func jwkOf(kid string, key *ecdsa.PrivateKey, more string) string {
	point, err := key.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`{"kty":"EC","crv":"P-256","kid":%q,"x":%q,"y":%q%s}`, kid, b64(point[1:33]), b64(point[33:]), more)
}

func setOf(kid string, key *ecdsa.PrivateKey) []byte {
	return []byte(`{"keys":[` + jwkOf(kid, key, `,"use":"sig","alg":"ES256"`) + `]}`)
}

// fakeIssuer answers without a network, which would stop the time of a synctest bubble.
type fakeIssuer struct {
	mu     sync.Mutex
	asked  int
	delay  time.Duration
	status int
	header http.Header
	body   string
	last   *http.Request
}

func (f *fakeIssuer) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	f.asked++
	f.last = r
	delay, status, header, body := f.delay, f.status, f.header.Clone(), f.body
	f.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if status == 0 {
		return nil, errors.New("connection refused")
	}
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Header: header,
		Body: io.NopCloser(strings.NewReader(body)), Request: r,
	}, nil
}

func (f *fakeIssuer) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeIssuer) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

func newIssuer(body string) (*fakeIssuer, *jwt.RemoteKeys) {
	f := &fakeIssuer{status: 200, header: http.Header{"Cache-Control": {"public, max-age=100"}}, body: body}
	return f, jwt.NewRemoteKeys("https://auth.test/jwks", &http.Client{Transport: f})
}

func mustKey(t *testing.T, r *jwt.RemoteKeys, kid string, want error) {
	t.Helper()
	key, err := r.Key(t.Context(), kid)
	if !errors.Is(err, want) || (err == nil) != (key != nil) {
		t.Errorf("Key(%s) = %v, want %v", kid, err, want)
	}
}

func mustCount(t *testing.T, f *fakeIssuer, want int) {
	t.Helper()
	synctest.Wait()
	if n := f.count(); n != want {
		t.Errorf("the issuer was asked %d times, want %d", n, want)
	}
}

func TestRemoteKeysRefreshBeforeTheyAreStale(t *testing.T) {
	a, b := newKey(t), newKey(t)
	synctest.Test(t, func(t *testing.T) {
		f, r := newIssuer(string(setOf("a", a)))
		f.header.Set("ETag", `"1"`)
		mustKey(t, r, "a", nil)
		time.Sleep(70 * time.Second)
		mustKey(t, r, "a", nil)
		mustCount(t, f, 1)
		time.Sleep(10 * time.Second) // 80: a call starts the refresh and does not wait
		mustKey(t, r, "a", nil)
		mustCount(t, f, 2)
		if got := f.last.Header.Get("If-None-Match"); got != `"1"` {
			t.Errorf("If-None-Match %q", got)
		}
		f.set(func() { f.status, f.body = 304, "" })
		time.Sleep(2 * time.Minute)
		mustKey(t, r, "a", nil)
		mustCount(t, f, 3)
		f.set(func() { f.status, f.body = 200, string(setOf("b", b)) })
		time.Sleep(2 * time.Minute) // stale: the call waits for the new set
		mustKey(t, r, "a", jwt.ErrUnknownKey)
		mustKey(t, r, "b", nil)
	})
}

func TestUnknownKeyIDFetchesOnceAMinute(t *testing.T) {
	a, b := newKey(t), newKey(t)
	synctest.Test(t, func(t *testing.T) {
		f, r := newIssuer(string(setOf("a", a)))
		f.header.Set("Cache-Control", "max-age=3600")
		mustKey(t, r, "a", nil)
		f.set(func() { f.body = `{"keys":[` + jwkOf("a", a, "") + "," + jwkOf("b", b, "") + "]}" })
		mustKey(t, r, "b", nil) // at once
		mustCount(t, f, 2)
		for range 5 {
			mustKey(t, r, "c", jwt.ErrKeysUnavailable)
		}
		mustCount(t, f, 2)
		time.Sleep(time.Minute)
		mustKey(t, r, "c", jwt.ErrUnknownKey)
		for range 5 {
			mustKey(t, r, "c", jwt.ErrKeysUnavailable)
		}
		mustCount(t, f, 3)
	})
}

// A key ID has a verdict only if the set was fetched to look for it, or had it before:
// the issuer may have published the key a moment ago.
func TestKeyOfAMomentAgoHasNoVerdict(t *testing.T) {
	a, b := newKey(t), newKey(t)
	synctest.Test(t, func(t *testing.T) {
		f, r := newIssuer(string(setOf("a", a)))
		f.header.Set("Cache-Control", "max-age=3600, stale-if-error=3600")
		mustKey(t, r, "a", nil)
		mustKey(t, r, "invented", jwt.ErrUnknownKey)
		f.set(func() { f.body = string(setOf("b", b)) }) // a is withdrawn, b signs at once
		mustKey(t, r, "b", jwt.ErrKeysUnavailable)
		time.Sleep(time.Minute)
		mustKey(t, r, "b", nil)
		mustCount(t, f, 3)
		for range 5 { // all clients that have tokens of the withdrawn key must learn it
			mustKey(t, r, "a", jwt.ErrUnknownKey)
		}
		mustKey(t, r, "invented", jwt.ErrKeysUnavailable)
		mustCount(t, f, 3)

		time.Sleep(time.Minute)
		f.set(func() { f.status = 0 })
		mustKey(t, r, "c", jwt.ErrKeysUnavailable) // the fetch fails
		mustCount(t, f, 4)
		f.set(func() { f.status, f.delay, f.body = 200, 2*time.Second, string(setOf("a", a)) })
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.Key(ctx, "c"); !errors.Is(err, jwt.ErrKeysUnavailable) {
			t.Errorf("caller who does not wait for the fetch: %v, want ErrKeysUnavailable", err)
		}
		time.Sleep(2 * time.Second)
		mustKey(t, r, "a", nil) // it is back, and so no longer known as withdrawn
		mustKey(t, r, "b", jwt.ErrUnknownKey)
	})
}

// A set that cannot be replaced ends, by what the issuer said and by what caches add.
func TestRemoteKeysEnd(t *testing.T) {
	a := newKey(t)
	for _, tc := range []struct {
		control []string
		age     string
		want    time.Duration
	}{
		{[]string{"public, max-age=900, stale-if-error=85500"}, "", 24 * time.Hour},
		{[]string{"public, max-age=5, stale-if-error=15"}, "", 20 * time.Second},
		{[]string{"max-age=5", "Stale-If-Error=\"15\""}, "", 20 * time.Second},
		{[]string{"max-age=60, stale-if-error=3540"}, "600", 50 * time.Minute}, // a cache that could not refresh it
		{[]string{"stale-if-error=300"}, "", 10 * time.Minute},
		{[]string{"max-age=0, stale-if-error=20"}, "", 20 * time.Second},
		{[]string{"no-store, stale-if-error=0, max-age=0"}, "", time.Second},
		{[]string{"max-age=7200, stale-if-error=7200"}, "", 4 * time.Hour},
		{[]string{"max-age=99999999999999999999, stale-if-error=99999999999999999999"}, "", 366 * 24 * time.Hour},
		{nil, "", 24 * time.Hour},
		{[]string{"max-age=60"}, "", 24 * time.Hour},
		{[]string{"max-age=60"}, "3600", 23 * time.Hour},
		{[]string{"max-age=60, stale-if-error=x"}, "", 24 * time.Hour},
		{[]string{"max-age=60, stale-if-error=-1"}, "", 24 * time.Hour},
	} {
		t.Run(fmt.Sprint(tc.control, tc.age), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, r := newIssuer(string(setOf("a", a)))
				f.header = http.Header{"Cache-Control": tc.control, "Age": {tc.age}}
				mustKey(t, r, "a", nil)
				f.set(func() { f.status = 500 })
				time.Sleep(tc.want - time.Nanosecond)
				mustKey(t, r, "a", nil)
				if err := r.Prefetch(t.Context()); err != nil {
					t.Errorf("Prefetch before the end: %v", err)
				}
				time.Sleep(time.Nanosecond)
				mustKey(t, r, "a", jwt.ErrKeysUnavailable)
				mustKey(t, r, "b", jwt.ErrKeysUnavailable)
				if err := r.Prefetch(t.Context()); !errors.Is(err, jwt.ErrKeysUnavailable) {
					t.Errorf("Prefetch after the end: %v, want ErrKeysUnavailable", err)
				}
				time.Sleep(10 * time.Minute)
				mustKey(t, r, "a", jwt.ErrKeysUnavailable)
				f.set(func() { f.status = 304; f.header = http.Header{"Cache-Control": {"max-age=60"}} })
				time.Sleep(5 * time.Second) // fetches become frequent again, as before the first set
				mustKey(t, r, "a", nil)
			})
		})
	}
}

// A cache that serves a set which has ended brings no keys.
func TestEndedSetFromACacheIsRefused(t *testing.T) {
	a := newKey(t)
	synctest.Test(t, func(t *testing.T) {
		f, r := newIssuer(string(setOf("a", a)))
		f.header = http.Header{"Cache-Control": {"max-age=60, stale-if-error=3540"}, "Age": {"3600"}}
		mustKey(t, r, "a", jwt.ErrKeysUnavailable)
		f.set(func() { f.header.Set("Age", "3599") })
		time.Sleep(time.Second)
		mustKey(t, r, "a", nil)
		time.Sleep(time.Second)
		mustKey(t, r, "a", nil) // fetched again, since it is as old as it may be
		mustCount(t, f, 3)
	})
}

// The memory for withdrawn keys is bounded.
func TestFormerKeysAreBounded(t *testing.T) {
	a := newKey(t)
	synctest.Test(t, func(t *testing.T) {
		f, r := newIssuer(string(setOf("0", a)))
		f.header.Set("Cache-Control", "max-age=1")
		for n := range 300 {
			f.set(func() { f.body = string(setOf(fmt.Sprint(n), a)) })
			mustKey(t, r, fmt.Sprint(n), nil)
			time.Sleep(time.Second)
		}
		if n := r.Former(); n == 0 || n > 100 {
			t.Errorf("%d former keys are remembered, want at most 100", n)
		}
	})
}

// Many callers share one fetch, and one of them may stop waiting.
func TestConcurrentCallersShareOneFetch(t *testing.T) {
	a := newKey(t)
	synctest.Test(t, func(t *testing.T) {
		f, r := newIssuer(string(setOf("a", a)))
		f.delay = time.Second
		for range 50 {
			go mustKey(t, r, "a", nil)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := r.Key(ctx, "a"); !errors.Is(err, jwt.ErrKeysUnavailable) {
			t.Errorf("caller whose context ends: %v, want ErrKeysUnavailable", err)
		}
		time.Sleep(2 * time.Second)
		mustCount(t, f, 1)
	})
}

func TestRemoteKeysOutliveTheIssuer(t *testing.T) {
	a := newKey(t)
	synctest.Test(t, func(t *testing.T) {
		f, r := newIssuer(string(setOf("a", a)))
		f.set(func() { f.status = 0 })
		if err := r.Prefetch(t.Context()); !errors.Is(err, jwt.ErrKeysUnavailable) || !strings.Contains(err.Error(), "refused") {
			t.Errorf("Prefetch = %v", err)
		}
		for range 10 {
			mustKey(t, r, "a", jwt.ErrKeysUnavailable) // within the pause
		}
		mustCount(t, f, 1)
		time.Sleep(time.Second)
		mustKey(t, r, "a", jwt.ErrKeysUnavailable)
		mustCount(t, f, 2)
		for range 600 { // ten minutes of a request a second
			time.Sleep(time.Second)
			mustKey(t, r, "a", jwt.ErrKeysUnavailable)
		}
		if n := f.count(); n > 130 {
			t.Errorf("asked %d times in ten minutes, want at most 130", n)
		}
		f.set(func() { f.status = 200 })
		time.Sleep(5 * time.Second)
		mustKey(t, r, "a", nil)

		before := f.count()
		f.set(func() { f.status, f.delay = 0, 4*time.Second })
		start := time.Now()
		time.Sleep(200 * time.Second)
		mustKey(t, r, "a", nil) // waits once
		for range 600 {
			time.Sleep(time.Second)
			mustKey(t, r, "a", nil) // the old set stays in use
		}
		if waited := time.Since(start) - 800*time.Second; waited > 5*time.Second {
			t.Errorf("callers waited %v, want at most 5s", waited)
		}
		if n := f.count() - before; n > 20 {
			t.Errorf("asked %d times in ten minutes, want at most 20", n)
		}
		// The key of an unknown key ID may sign by now: no verdict.
		mustKey(t, r, "b", jwt.ErrKeysUnavailable)
		f.set(func() { f.status, f.delay = 200, 0 })
		time.Sleep(time.Minute)
		mustKey(t, r, "a", nil)
		synctest.Wait()
		mustKey(t, r, "b", jwt.ErrUnknownKey)
	})
}

// After an answer that is not a set of keys the old set stays in use.
func TestRemoteKeysSurviveBadAnswers(t *testing.T) {
	a, b := newKey(t), newKey(t)
	for name, spoil := range map[string]func(f *fakeIssuer){
		"500":      func(f *fakeIssuer) { f.status = 500 },
		"404":      func(f *fakeIssuer) { f.status = 404 },
		"redirect": func(f *fakeIssuer) { f.status = 302; f.header.Set("Location", "https://evil.test/jwks") },
		"HTML":     func(f *fakeIssuer) { f.body = "<html>" },
		"empty":    func(f *fakeIssuer) { f.body = "" },
		"no keys":  func(f *fakeIssuer) { f.body = `{"keys":[]}` },
		"twins":    func(f *fakeIssuer) { f.body = `{"keys":[` + jwkOf("a", a, "") + "," + jwkOf("a", b, "") + "]}" },
		"too long": func(f *fakeIssuer) { f.body = string(setOf("b", b)) + strings.Repeat(" ", 1<<20) },
		"hanging":  func(f *fakeIssuer) { f.delay = time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, r := newIssuer(string(setOf("a", a)))
				mustKey(t, r, "a", nil)
				f.set(func() { spoil(f) })
				time.Sleep(101 * time.Second)
				start := time.Now()
				mustKey(t, r, "a", nil)
				if waited := time.Since(start); waited > 5*time.Second {
					t.Errorf("waited %v, want at most 5s", waited)
				}
				mustCount(t, f, 2)
			})
		})
	}
}

// Only keys that can verify ES256 are read from a set.
func TestOnlyES256KeysAreRead(t *testing.T) {
	a, other := newKey(t), newKey(t)
	mixed := func(kid string) string { // x of one key, y of another
		return strings.Replace(jwkOf(kid, other, ""), `"y":"`+b64(must(other.PublicKey.Bytes())[33:]), `"y":"`+b64(must(a.PublicKey.Bytes())[33:]), 1)
	}
	for name, jwk := range map[string]string{
		"encryption":  jwkOf("x", other, `,"use":"enc"`),
		"ES384":       jwkOf("x", other, `,"alg":"ES384"`),
		"ECDH":        jwkOf("x", other, `,"alg":"ECDH-ES"`),
		"private":     jwkOf("x", other, `,"d":"`+b64(must(other.Bytes()))+`"`),
		"nameless":    jwkOf("", other, ""),
		"symmetric":   `{"kty":"oct","kid":"x","k":"AAAA"}`,
		"RSA":         `{"kty":"RSA","kid":"x","n":"AQAB","e":"AQAB"}`,
		"Ed25519":     `{"kty":"OKP","crv":"Ed25519","kid":"x","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		"unheard of":  `{"kty":"PQ","kid":"x"}`,
		"broken":      `{"kty":"EC","crv":"P-256","kid":"x","x":"AA"}`,
		"off curve":   mixed("x"),
		"long y":      strings.Replace(jwkOf("x", other, ""), `"y":"`, `"y":"AAAA`, 1),
		"not a key":   `7`,
		"wrong curve": strings.Replace(jwkOf("x", other, ""), "P-256", "secp256k1", 1),
	} {
		keys, err := jwt.ParseSet([]byte(`{"keys":[` + jwk + "," + jwkOf("a", a, "") + "]}"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(keys) != 1 || !keys["a"].Equal(&a.PublicKey) {
			t.Errorf("%s: read %v, want the key a alone", name, keys)
		}
	}
}

func TestBadSetsAreRefused(t *testing.T) {
	a, b := newKey(t), newKey(t)
	for name, body := range map[string]string{
		"two of one name": `{"keys":[` + jwkOf("a", a, "") + "," + jwkOf("a", b, "") + "]}",
		"none":            `{"keys":[]}`,
		"none for ES256":  `{"keys":[` + jwkOf("a", a, `,"use":"enc"`) + "]}",
		"trailing data":   string(setOf("a", a)) + "x",
		"empty":           "",
	} {
		if keys, err := jwt.ParseSet([]byte(body)); err == nil {
			t.Errorf("%s: read %v, want an error", name, keys)
		}
	}
}

// Cookies, of a proxy for one, are not sent back, whatever the caller's client keeps.
func TestRemoteKeysSendNoCookies(t *testing.T) {
	key := newKey(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Cookies()) > 0 {
			t.Errorf("cookies %v", r.Cookies())
		}
		w.Header().Set("Cache-Control", "no-store")
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
		w.Write(setOf("a", key))
	}))
	defer srv.Close()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, client := range []*http.Client{{Jar: jar}, nil} {
		r := jwt.NewRemoteKeys(srv.URL, client)
		mustKey(t, r, "a", nil)
		mustKey(t, r, "b", jwt.ErrUnknownKey) // asks the issuer again
	}
}

// An issuer that forbids caching is still asked at most once a second.
func TestRemoteKeysAskAtMostOnceASecond(t *testing.T) {
	key := newKey(t)
	synctest.Test(t, func(t *testing.T) {
		for _, control := range []string{"max-age=0", "no-store", "no-cache"} {
			f, r := newIssuer(string(setOf("a", key)))
			f.header.Set("Cache-Control", control)
			for range 100 {
				mustKey(t, r, "a", nil)
			}
			mustCount(t, f, 1)
		}
	})
}

func TestRemoteKeysObeyCacheControl(t *testing.T) {
	a := newKey(t)
	for _, tc := range []struct {
		control, age string
		want         time.Duration
	}{
		{"", "", 5 * time.Minute},
		{"max-age=60", "", time.Minute},
		{"public, MAX-AGE=60, must-revalidate", "", time.Minute},
		{"max-age=60", "20", 40 * time.Second},
		{"max-age=60", "100", time.Second},
		{"max-age=0", "", time.Second},
		{"no-store", "", time.Second},
		{"max-age=99999999", "", time.Hour},
		{"max-age=-5", "", 5 * time.Minute},
		{"max-age=x", "x", 5 * time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			f, r := newIssuer(string(setOf("a", a)))
			f.header = http.Header{"Cache-Control": {tc.control}, "Age": {tc.age}}
			mustKey(t, r, "a", nil)
			f.set(func() { f.status = 500 })
			time.Sleep(tc.want - time.Nanosecond)
			synctest.Wait()
			n := f.count()
			time.Sleep(time.Nanosecond)
			mustKey(t, r, "a", nil)
			if n != 1 || f.count() != 2 {
				t.Errorf("%+v: asked %d times before and %d after, want 1 and 2", tc, n, f.count())
			}
		})
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
