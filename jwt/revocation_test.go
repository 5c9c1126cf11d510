package jwt_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signet/jwt"
)

const life = 6 * 60 // seconds of an access token and the leeway

// feed returns the feed of an issuer that has just read its store.
func (w *world) feed(t testing.TB, grants ...string) string {
	t.Helper()
	return w.feedAt(t, time.Now(), grants...)
}

func (w *world) feedAt(t testing.TB, at time.Time, grants ...string) string {
	t.Helper()
	c := jwt.FeedClaims{Issuer: issuer, IssuedAt: at.Unix(), ExpiresAt: at.Unix() + life, TTL: 10, Revoked: map[string]int64{}}
	for _, id := range grants {
		c.Revoked[id] = at.Unix()
	}
	raw, err := w.signer.SignFeed(c, at)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// follow returns a feed that polls a fake issuer until the end of the test, and a
// verifier that asks the feed.
func (w *world) follow(t *testing.T, f *fakeIssuer, change func(*jwt.RevocationOptions)) (*jwt.RevocationFeed, *jwt.Verifier) {
	t.Helper()
	o := jwt.RevocationOptions{URL: "https://auth.test/.well-known/revoked", Issuer: issuer, Keys: w.source, Client: &http.Client{Transport: f}}
	if change != nil {
		change(&o)
	}
	feed, err := jwt.NewRevocationFeed(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var runs sync.WaitGroup
	runs.Go(func() { feed.Run(ctx) })
	t.Cleanup(func() { stop(); runs.Wait() })
	return feed, newVerifier(t, jwt.VerifierOptions{Keys: w.source, Feed: feed})
}

func serving(body string) *fakeIssuer {
	return &fakeIssuer{status: 200, header: http.Header{}, body: body}
}

// polled returns after the next poll of the feed.
func polled() {
	time.Sleep(11 * time.Second)
	synctest.Wait()
}

// serves changes the feed and returns after the next poll of it.
func (f *fakeIssuer) serves(body string) {
	f.set(func() { f.status, f.body = 200, body })
	polled()
}

func (w *world) verdict(t *testing.T, v *jwt.Verifier, grant string, want error) {
	t.Helper()
	_, err := v.Verify(t.Context(), w.token(t, func(c *jwt.Claims) { c.GrantID = grant }))
	if !errors.Is(err, want) || (want == nil) != (err == nil) {
		t.Errorf("at %v: grant %s: %v, want %v", time.Now().Format(time.TimeOnly), grant, err, want)
	}
}

// Tokens of a listed grant are refused from the next poll on, also those that were
// accepted before; all others are still accepted.
func TestFeedRevokesFromTheNextPollOn_G04(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		f := serving(w.feed(t, "first"))
		feed, v := w.follow(t, f, nil)
		w.verdict(t, v, "first", jwt.ErrRevoked) // the first token waits for the first poll
		seen := w.token(t, func(c *jwt.Claims) { c.GrantID = "second" })
		if _, err := v.Verify(t.Context(), seen); err != nil {
			t.Fatal(err)
		}
		polled()
		f.serves(w.feed(t, "first", "second"))
		if _, err := v.Verify(t.Context(), seen); !errors.Is(err, jwt.ErrRevoked) || !errors.Is(err, jwt.ErrInvalid) {
			t.Errorf("a token seen before: %v, want revoked", err)
		}
		w.verdict(t, v, "third", nil)
		w.verdict(t, v, "", nil)
		if s := feed.Status(); s.Revoked != 2 || s.Stale || s.Err != nil || time.Since(s.Issued) > 12*time.Second {
			t.Errorf("status %+v", s)
		}
		if !feed.Revoked("second") || feed.Revoked("third") || feed.Revoked("") {
			t.Error("Revoked and the verifier differ")
		}
		if got := f.last.Header.Get("Accept"); got != "application/revoked+jwt" {
			t.Errorf("Accept %q", got)
		}
	})
}

// forger changes one thing of a good feed. The functions that its methods return make the
// feed at the time of the call.
type forger struct {
	t *testing.T
	w *world
}

func (f forger) header(from, to string) string {
	return strings.Replace(`{"alg":"ES256","typ":"revoked+jwt","kid":"`+keyID+`"}`, from, to, 1)
}

func (f forger) payload(from, to string) string {
	f.t.Helper()
	now := time.Now().Unix()
	good := fmt.Sprintf(`{"iss":%q,"iat":%d,"exp":%d,"ttl":10,"revoked":{"new":%d}}`, issuer, now, now+life, now)
	if !strings.Contains(good, from) {
		f.t.Errorf("%s is not in %s", from, good)
	}
	return strings.Replace(good, from, to, 1)
}

func (f forger) signed(payload string) string {
	return handmade(f.t, f.w.key, f.header("", ""), payload)
}

func (f forger) good() string { return f.signed(f.payload("", "")) }

// headed changes the header.
func (f forger) headed(from, to string) func() string {
	return func() string { return handmade(f.t, f.w.key, f.header(from, to), f.payload("", "")) }
}

// changed changes the payload.
func (f forger) changed(from, to string) func() string {
	return func() string { return f.signed(f.payload(from, to)) }
}

// moved changes a time of the payload, in seconds from now.
func (f forger) moved(name string, from, to int64) func() string {
	return func() string {
		now := time.Now().Unix()
		return f.signed(f.payload(fmt.Sprintf("%q:%d", name, now+from), fmt.Sprintf("%q:%d", name, now+to)))
	}
}

// listing replaces the list of grants.
func (f forger) listing(list string) func() string {
	return func() string { return f.signed(strings.Split(f.payload("", ""), `{"new"`)[0] + list + "}") }
}

func (f forger) headers() map[string]func() string {
	unsigned := func(header string) string {
		return b64([]byte(header)) + "." + b64([]byte(f.payload("", "")))
	}
	return map[string]func() string{
		"typ of an access token": f.headed("revoked+jwt", "at+jwt"),
		"typ of an id token":     f.headed("revoked+jwt", "JWT"),
		"typ in capitals":        f.headed("revoked+jwt", "REVOKED+JWT"),
		"typ with application":   f.headed("revoked+jwt", "application/revoked+jwt"),
		"no typ":                 f.headed(`"typ":"revoked+jwt",`, ""),
		"alg none":               f.headed("ES256", "none"),
		"alg none, unsigned":     func() string { return unsigned(f.header("ES256", "none")) + "." },
		"alg ES384":              f.headed("ES256", "ES384"),
		"alg HS256": func() string {
			text := unsigned(f.header("ES256", "HS256"))
			mac := hmac.New(sha256.New, must(f.w.key.PublicKey.Bytes()))
			mac.Write([]byte(text))
			return text + "." + b64(mac.Sum(nil))
		},
		"another header member": f.headed(`"kid"`, `"jku":"https://evil.test","kid"`),
		"crit":                  f.headed(`"kid"`, `"crit":["exp"],"kid"`),
		"unknown kid":           f.headed(keyID, "other"),
		"no kid":                f.headed(keyID, ""),
	}
}

func (f forger) claims() map[string]func() string {
	return map[string]func() string{
		"another issuer":       f.changed(issuer, "https://evil.test"),
		"issuer with a slash":  f.changed(issuer, issuer+"/"),
		"no issuer":            f.changed(`"iss":"`+issuer+`",`, ""),
		"issued in the future": f.moved("iat", 0, 75),
		"iat text":             f.changed(`"iat":`, `"iat":"1","x":`),
		"no iat":               f.changed(`"iat"`, `"x"`),
		"expired":              f.moved("exp", life, -61),
		"no exp":               f.changed(`"exp"`, `"x"`),
		"no ttl":               f.changed(`"ttl":10,`, ""),
		"no list":              f.changed(`"revoked"`, `"x"`),
		"list is an array":     f.listing(`["new"]`),
		"list is null":         f.listing(`null`),
		"grant without a time": f.listing(`{"new":true}`),
		"grant listed twice":   f.changed(`{"new"`, `{"new":5,"new"`),
		"grant without an id":  f.changed(`{"new"`, `{"":5,"new"`),
		"escaped grant id":     f.changed(`{"new"`, `{"\u006e":5,"new"`),
		"endless grant id":     f.changed(`{"new"`, `{"`+strings.Repeat("x", 200)+`":5,"new"`),
		"claim twice":          f.changed(`"ttl"`, `"iss":"https://evil.test","ttl"`),
		"claim in capitals":    f.changed(`"ttl"`, `"Revoked":{},"ttl"`),
		"too many grants":      f.changed(`{"new"`, `{`+manyGrants(jwt.MaxRevoked)+`"new"`),
	}
}

func (f forger) texts() map[string]func() string {
	foreign := newKey(f.t)
	return map[string]func() string{
		"another key": func() string { return handmade(f.t, foreign, f.header("", ""), f.payload("", "")) },
		"changed after signing": func() string {
			parts := strings.Split(f.good(), ".")
			return parts[0] + "." + b64([]byte(f.payload("new", "newer"))) + "." + parts[2]
		},
		"something behind": func() string { return f.signed(f.payload("", "") + "x") },
		"an access token":  func() string { return f.w.token(f.t, nil) },
		"not a JWT":        func() string { return "<html>" },
		"empty":            func() string { return "" },
		"two JWTs":         func() string { return f.good() + "\n" + f.good() },
		"a line end":       func() string { return f.good() + "\n" },
		"padded":           func() string { return f.good() + "==" },
		"oversized":        func() string { return f.good() + strings.Repeat("A", 16<<20) },
	}
}

// A forged feed is refused and harms no known revocation.
func TestForgedFeedsAreRefused_G04(t *testing.T) {
	w := newWorld(t)
	f := forger{t, w}
	t.Run("nothing changed", func(t *testing.T) { w.meetsFeed(t, f.good, true) })
	for _, forgeries := range []map[string]func() string{f.headers(), f.claims(), f.texts()} {
		for name, forge := range forgeries {
			t.Run(name, func(t *testing.T) { w.meetsFeed(t, forge, false) })
		}
	}
}

// meetsFeed lets a reader poll a good feed, then the feed that forge returns, then a good
// one again. It checks that the reader accepts the second one exactly if good is set, and
// the others in any case.
func (w *world) meetsFeed(t *testing.T, forge func() string, good bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := serving(w.feed(t, "old"))
		feed, v := w.follow(t, f, nil)
		polled()
		before := feed.Status().Issued
		f.serves(w.feed(t, "old"))
		f.serves(forge())
		if got := feed.Revoked("new"); got != good {
			t.Errorf("accepted: %t, want %t (%v)", got, good, feed.Status().Err)
		}
		s := feed.Status()
		if !good && (s.Err == nil || s.Revoked != 1 || !s.Issued.After(before)) {
			t.Errorf("status %+v, want one grant and an error", s)
		}
		if s.Err != nil && (len(s.Err.Error()) > 200 || strings.Contains(s.Err.Error(), "eyJ")) {
			t.Errorf("the error quotes the feed: %.300v", s.Err)
		}
		w.verdict(t, v, "old", jwt.ErrRevoked)
		w.verdict(t, v, "third", nil)
		f.serves(w.feed(t, "old", "newest"))
		w.verdict(t, v, "newest", jwt.ErrRevoked)
	})
}

func manyGrants(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"%07d":1,`, i)
	}
	return b.String()
}

// After an answer that is not a feed, or none in time, the known revocations stay.
func TestBadAnswersForgetNothing_G04(t *testing.T) {
	w := newWorld(t)
	for name, spoil := range map[string]func(f *fakeIssuer){
		"500":      func(f *fakeIssuer) { f.status = 500 },
		"404":      func(f *fakeIssuer) { f.status = 404 },
		"204":      func(f *fakeIssuer) { f.status = 204 },
		"redirect": func(f *fakeIssuer) { f.status = 302; f.header.Set("Location", "https://evil.test/revoked") },
		"refused":  func(f *fakeIssuer) { f.status = 0 },
		"hanging":  func(f *fakeIssuer) { f.delay = time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := serving(w.feed(t, "old"))
				feed, v := w.follow(t, f, nil)
				polled()
				f.set(func() { f.body = w.feed(t, "old", "new"); spoil(f) })
				time.Sleep(20 * time.Second)
				synctest.Wait()
				if s := feed.Status(); s.Err == nil || feed.Revoked("new") {
					t.Errorf("status %+v", s)
				}
				if n, host := f.count(), f.last.URL.Host; n > 8 || host != "auth.test" {
					t.Errorf("asked %d times, the last time at %s; want at most 8 times, at auth.test", n, host)
				}
				w.verdict(t, v, "old", jwt.ErrRevoked)
			})
		})
	}
}

// A grant that was listed stays revoked until its tokens are dead, whatever comes later:
// nothing, an older feed, or one without the grant.
func TestFeedNeverGoesBack_G04_INV14(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		empty := w.feed(t)
		time.Sleep(time.Second)
		f := serving(w.feed(t, "gone"))
		feed, v := w.follow(t, f, nil)
		w.verdict(t, v, "gone", jwt.ErrRevoked)
		issued := feed.Status().Issued
		f.serves(empty) // from a cache
		f.serves(w.feedAt(t, issued.Add(-time.Second), "another"))
		w.verdict(t, v, "another", jwt.ErrRevoked) // an old feed revokes, too
		w.verdict(t, v, "gone", jwt.ErrRevoked)
		if s := feed.Status(); !s.Issued.Equal(issued) || s.Err == nil {
			t.Errorf("an older feed was taken: %+v", s)
		}
		began := time.Now()
		for time.Since(began) < life*time.Second {
			f.serves(w.feed(t)) // for example from a store that has lost the grant
			w.verdict(t, v, "gone", jwt.ErrRevoked)
		}
		for time.Since(began) < (life+100)*time.Second {
			f.serves(w.feed(t))
		}
		if s := feed.Status(); s.Revoked != 0 {
			t.Errorf("%d grants are still known when all their tokens are dead", s.Revoked)
		}
		// Feeds of two replicas within one second: both count.
		at := time.Now()
		f.serves(w.feedAt(t, at, "one"))
		f.serves(w.feedAt(t, at, "two"))
		w.verdict(t, v, "one", jwt.ErrRevoked)
		w.verdict(t, v, "two", jwt.ErrRevoked)
	})
}

// A feed without news is stale after a minute, however it fails. Then tokens are
// accepted, or none is, as the options say; no known revocation is forgotten.
func TestStaleFeedAcceptsAsConfigured_G04(t *testing.T) {
	w := newWorld(t)
	for name, fail := range map[string]func(f *fakeIssuer){
		"no answer":      func(f *fakeIssuer) { f.status = 0 },
		"the same feed":  func(*fakeIssuer) {}, // the store is down
		"not modified":   func(f *fakeIssuer) { f.status = 304 },
		"an older feed":  func(f *fakeIssuer) { f.body = w.feedAt(t, time.Now().Add(-time.Second)) },
		"no feed at all": func(f *fakeIssuer) { f.status = 404 },
	} {
		for _, closed := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", closed ", closed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					unknown := map[bool]error{true: jwt.ErrRevocationsUnknown}[closed]
					f := serving(w.feed(t, "gone"))
					f.header.Set("ETag", `"1"`)
					feed, v := w.follow(t, f, func(o *jwt.RevocationOptions) { o.FailClosed = closed })
					w.verdict(t, v, "here", nil)
					f.set(func() { fail(f) })
					time.Sleep(59 * time.Second)
					w.verdict(t, v, "here", nil)
					time.Sleep(2 * time.Second)
					w.verdict(t, v, "here", unknown)
					w.verdict(t, v, "gone", jwt.ErrRevoked)
					w.verdict(t, v, "", unknown) // without a grant
					if s := feed.Status(); !s.Stale || s.FailClosed != closed {
						t.Errorf("status %+v, want stale", s)
					}
					if got := f.last.Header.Get("If-None-Match"); got != `"1"` {
						t.Errorf("If-None-Match %q", got)
					}
					f.serves(w.feed(t))
					w.verdict(t, v, "here", nil)
					w.verdict(t, v, "gone", jwt.ErrRevoked)
					if s := feed.Status(); s.Stale || s.Err != nil {
						t.Errorf("status %+v, want fresh", s)
					}
				})
			})
		}
	}
}

// The age of a feed that is replayed to a program that has just started counts from the
// time in the feed.
func TestReplayedFeedIsStale_G04(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		old := w.feed(t)
		time.Sleep(3 * time.Minute)
		feed, v := w.follow(t, serving(old), func(o *jwt.RevocationOptions) { o.FailClosed = true })
		w.verdict(t, v, "here", jwt.ErrRevocationsUnknown)
		if !feed.Status().Stale {
			t.Error("a feed of three minutes ago is not stale")
		}
	})
}

// A proxy that has just lost a server answers well again a moment later, so a program
// without any feed yet polls again after a second.
func TestFailedPollIsRepeatedSoon_G04(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		f := serving(w.feed(t, "first"))
		f.set(func() { f.status = http.StatusBadGateway })
		_, v := w.follow(t, f, nil)
		w.verdict(t, v, "first", nil) // accepted without a feed, after the first poll
		f.set(func() { f.status = http.StatusOK })
		time.Sleep(time.Second)
		synctest.Wait()
		w.verdict(t, v, "first", jwt.ErrRevoked)

		f.set(func() { f.status = http.StatusBadGateway })
		polls := f.count()
		time.Sleep(10 * time.Minute)
		if n := f.count() - polls; n < 60 || n > 75 {
			t.Errorf("an issuer that stays away was asked %d times in ten minutes, want 60 to 75, about as often as one that answers", n)
		}
	})
}

// Clocks that differ by less than the leeway do not make a feed stale.
func TestClocksMayDifferByTheLeeway_G04(t *testing.T) {
	w := newWorld(t)
	for _, ahead := range []time.Duration{-55 * time.Second, 55 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			f := serving(w.feedAt(t, time.Now().Add(ahead)))
			_, v := w.follow(t, f, func(o *jwt.RevocationOptions) { o.FailClosed = true })
			for range 20 {
				w.verdict(t, v, "here", nil)
				f.serves(w.feedAt(t, time.Now().Add(ahead)))
			}
			f.serves(w.feedAt(t, time.Now().Add(ahead), "gone"))
			w.verdict(t, v, "gone", jwt.ErrRevoked)
			time.Sleep(time.Minute)
			w.verdict(t, v, "here", jwt.ErrRevocationsUnknown)
		})
	}
}

// Before the end of the first poll there is no verdict; then tokens of an issuer without
// a feed are accepted, or none is, as the options say.
func TestFirstTokenWaitsForTheFirstPoll_G04(t *testing.T) {
	w := newWorld(t)
	for _, closed := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			f := serving("")
			f.status, f.delay = 404, 3*time.Second
			feed, v := w.follow(t, f, func(o *jwt.RevocationOptions) {
				o.FailClosed, o.Log = closed, slog.New(slog.NewTextHandler(&log, nil))
			})
			began := time.Now()
			w.verdict(t, v, "here", map[bool]error{true: jwt.ErrRevocationsUnknown}[closed])
			if waited := time.Since(began); waited != 3*time.Second {
				t.Errorf("the first token waited %v, want 3s, until the end of the first poll", waited)
			}
			if s := feed.Status(); !s.Stale || !s.Issued.IsZero() {
				t.Errorf("status %+v", s)
			}
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if n := strings.Count(log.String(), "level=WARN"); n != 1 || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "no revocation feed") {
				t.Errorf("after ten minutes the log has:\n%s", &log)
			}
			f.set(func() { f.delay = 0 })
			f.serves(w.feed(t, "gone")) // the issuer was replaced by a newer one
			polled()
			w.verdict(t, v, "gone", jwt.ErrRevoked)
			w.verdict(t, v, "here", nil)
			if !strings.Contains(log.String(), "fresh again") {
				t.Errorf("the log lacks \"fresh again\":\n%s", &log)
			}
		})
	}
	// A feed that does not run gives no verdict.
	synctest.Test(t, func(t *testing.T) {
		feed, err := jwt.NewRevocationFeed(jwt.RevocationOptions{URL: "https://auth.test/revoked", Issuer: issuer, Keys: w.source})
		if err != nil {
			t.Fatal(err)
		}
		w.verdict(t, newVerifier(t, jwt.VerifierOptions{Keys: w.source, Feed: feed}), "here", jwt.ErrRevocationsUnknown)
	})
}

// The log has the begin of an outage, the moment at which the feed is stale, and the end.
func TestLogHasBeginAndEndOfAnOutage(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := serving(w.feed(t))
		w.follow(t, f, func(o *jwt.RevocationOptions) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		polled()
		f.set(func() { f.status = 500 })
		time.Sleep(5 * time.Minute)
		f.serves(w.feed(t))
		polled()
		want := []string{"level=WARN msg=\"the revocation feed cannot be read", "level=ERROR msg=\"the revocation feed is stale: revoked access tokens are accepted", "level=INFO"}
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != len(want) {
			t.Fatalf("the log has:\n%s", &log)
		}
		for i := range want {
			if !strings.Contains(lines[i], want[i]) {
				t.Errorf("line %d: %s, want %s", i, lines[i], want[i])
			}
		}
	})
}

// An issuer that lists other grants each time does not fill the memory.
func TestFeedIsBounded(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		f := serving("")
		feed, _ := w.follow(t, f, nil)
		for round := range 3 {
			c := jwt.FeedClaims{Issuer: issuer, IssuedAt: time.Now().Unix(), ExpiresAt: time.Now().Unix() + 1e9, TTL: 10, Revoked: map[string]int64{}}
			for i := range jwt.MaxRevoked {
				c.Revoked[fmt.Sprint(round, "-", i)] = time.Now().Unix()
			}
			f.serves(must(w.signer.SignFeed(c, time.Now())))
			if feed.Status().Err != nil {
				t.Fatal(feed.Status().Err)
			}
			if !feed.Revoked(fmt.Sprint(round, "-7")) {
				t.Errorf("round %d: a grant of the last feed is not known", round)
			}
		}
		if n := feed.Status().Revoked; n > 2*jwt.MaxRevoked {
			t.Errorf("%d grants are known, want at most %d", n, 2*jwt.MaxRevoked)
		}
	})
}

func TestNewRevocationFeedNamesTheWrongOption(t *testing.T) {
	w := newWorld(t)
	good := jwt.RevocationOptions{URL: "https://auth.test/revoked", Issuer: issuer, Keys: w.source}
	if _, err := jwt.NewRevocationFeed(good); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*jwt.RevocationOptions){
		"URL": func(o *jwt.RevocationOptions) { o.URL = "" }, "issuer": func(o *jwt.RevocationOptions) { o.Issuer = "" },
		"keys": func(o *jwt.RevocationOptions) { o.Keys = nil }, "negative": func(o *jwt.RevocationOptions) { o.Poll = -1 },
	} {
		o := good
		spoil(&o)
		if _, err := jwt.NewRevocationFeed(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one that names %s", err, want)
		}
	}
}

// Claims that every reader would refuse are not signed.
func TestSignFeedRefusesBadClaims(t *testing.T) {
	w := newWorld(t)
	for name, spoil := range map[string]func(*jwt.FeedClaims){
		"no issuer":          func(c *jwt.FeedClaims) { c.Issuer = "" },
		"no time":            func(c *jwt.FeedClaims) { c.IssuedAt = 0 },
		"times out of order": func(c *jwt.FeedClaims) { c.ExpiresAt = c.IssuedAt },
		"a quote in an id":   func(c *jwt.FeedClaims) { c.Revoked[`a":1,"b`] = 1 },
		"an empty id":        func(c *jwt.FeedClaims) { c.Revoked[""] = 1 },
		"not ASCII":          func(c *jwt.FeedClaims) { c.Revoked["ä"] = 1 },
		"too many": func(c *jwt.FeedClaims) {
			for i := range jwt.MaxRevoked + 1 {
				c.Revoked[fmt.Sprint(i)] = 1
			}
		},
	} {
		c := jwt.FeedClaims{Issuer: issuer, IssuedAt: 1e9, ExpiresAt: 1e9 + 1, TTL: 10, Revoked: map[string]int64{"a": 1}}
		if _, err := w.signer.SignFeed(c, time.Now()); err != nil {
			t.Fatal(err)
		}
		spoil(&c)
		if raw, err := w.signer.SignFeed(c, time.Now()); err == nil {
			t.Errorf("%s: signed %.80s", name, raw)
		}
	}
}

// A feed does not pass for an access token or an id token.
func TestFeedIsNoToken_F10(t *testing.T) {
	w := newWorld(t)
	raw := w.feed(t, "gone")
	if _, err := w.verifier.Verify(t.Context(), raw); !errors.Is(err, jwt.ErrInvalid) {
		t.Errorf("as an access token: %v", err)
	}
	if _, err := jwt.VerifyIDHint(t.Context(), w.source, issuer, raw); !errors.Is(err, jwt.ErrInvalid) {
		t.Errorf("as an id token: %v", err)
	}
}

// An issuer that has lost its store says from when on tokens count. Neither an older feed
// nor one without that time takes it back.
func TestFeedSaysFromWhenTokensCount_G04(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		signed := func(notBefore int64) string {
			now := time.Now()
			raw, err := w.signer.SignFeed(jwt.FeedClaims{Issuer: issuer, IssuedAt: now.Unix(), ExpiresAt: now.Unix() + life, TTL: 10, NotBefore: notBefore, Revoked: map[string]int64{}}, now)
			if err != nil {
				t.Fatal(err)
			}
			return raw
		}
		verify := func(v *jwt.Verifier, token, what string, want error) {
			t.Helper()
			if _, err := v.Verify(t.Context(), token); !errors.Is(err, want) || (want == nil) != (err == nil) {
				t.Errorf("%s: %v, want %v", what, err, want)
			}
		}
		f := serving(signed(0))
		_, v := w.follow(t, f, nil)
		before := w.token(t, nil)
		without := w.token(t, func(c *jwt.Claims) { c.GrantID = "" })
		verify(v, before, "before", nil)
		older := signed(0)
		time.Sleep(5 * time.Second)
		at := time.Now().Unix()
		f.serves(signed(at))
		after := w.token(t, func(c *jwt.Claims) { c.IssuedAt = at })
		for _, feed := range []string{signed(at), older, signed(0), signed(at - 3600)} {
			f.serves(feed)
			verify(v, before, "a token seen before", jwt.ErrRevoked)
			verify(v, without, "a token without a grant", jwt.ErrRevoked)
			verify(v, after, "a token of that second", nil)
		}
		f.serves(signed(at + 1e6)) // no issuer means that
		verify(v, w.token(t, func(c *jwt.Claims) { c.IssuedAt = time.Now().Unix() + 61 }), "a later token", jwt.ErrInvalid)
		verify(v, after, "an earlier one", jwt.ErrRevoked)
	})
}

// The issuer's own verifier refuses what was issued before, also tokens that it has seen.
func TestTokensBeforeNotBeforeAreRefused(t *testing.T) {
	w := newWorld(t)
	var from int64
	v := newVerifier(t, jwt.VerifierOptions{Keys: w.source, NotBefore: func() int64 { return from }})
	token := w.token(t, nil)
	claims, err := v.Verify(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	from = claims.IssuedAt
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Errorf("of that second: %v", err)
	}
	from++
	if _, err := v.Verify(t.Context(), token); !errors.Is(err, jwt.ErrRevoked) {
		t.Errorf("seen before: %v, want ErrRevoked", err)
	}
	if err := v.CheckGrant(claims, time.Now()); err != jwt.ErrRevoked {
		t.Errorf("for a stream: %v, want ErrRevoked", err)
	}
}
