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

// feed is what an issuer that read its store just now would serve.
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

// follow has a feed poll a fake issuer until the end of the test, and a verifier ask it.
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

// polled lets the feed be read once more.
func polled() {
	time.Sleep(11 * time.Second)
	synctest.Wait()
}

// serves changes the feed and has it read.
func (f *fakeIssuer) serves(body string) {
	f.set(func() { f.status, f.body = 200, body })
	polled()
}

func (w *world) verdict(t *testing.T, v *jwt.Verifier, grant string, want error) {
	t.Helper()
	_, err := v.Verify(t.Context(), w.token(t, func(c *jwt.Claims) { c.GrantID = grant }))
	if !errors.Is(err, want) || (want == nil) != (err == nil) {
		t.Errorf("%v: grant %s: %v, want %v", time.Now().Format(time.TimeOnly), grant, err, want)
	}
}

// G04: what the feed lists is refused from the next poll on, also a token that was
// accepted before; everything else is not touched.
func TestG04_FeedRevokes(t *testing.T) {
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
			t.Error("Revoked says something else than the verifier")
		}
		if got := f.last.Header.Get("Accept"); got != "application/revoked+jwt" {
			t.Errorf("Accept %q", got)
		}
	})
}

// Each forgery is a good feed with one thing changed. None is taken, and none harms
// what is known.
func TestG04_ForgedFeeds(t *testing.T) {
	w, foreign := newWorld(t), newKey(t)
	header := func(change string) string {
		return strings.Replace(`{"alg":"ES256","typ":"revoked+jwt","kid":"`+keyID+`"}`, strings.Split(change, "=>")[0], strings.Split(change, "=>")[1], 1)
	}
	const same = "=>"
	payload := func(from, to string) string {
		now := time.Now().Unix()
		good := fmt.Sprintf(`{"iss":%q,"iat":%d,"exp":%d,"ttl":10,"revoked":{"new":%d}}`, issuer, now, now+life, now)
		if !strings.Contains(good, from) {
			t.Fatalf("%s is not in %s", from, good)
		}
		return strings.Replace(good, from, to, 1)
	}
	claim := func(name string, from, to int64) func() string { // moves a time
		return func() string {
			now := time.Now().Unix()
			return handmade(t, w.key, header(same), payload(fmt.Sprintf("%q:%d", name, now+from), fmt.Sprintf("%q:%d", name, now+to)))
		}
	}
	changed := func(from, to string) func() string {
		return func() string { return handmade(t, w.key, header(same), payload(from, to)) }
	}
	headed := func(change string) func() string {
		return func() string { return handmade(t, w.key, header(change), payload("", "")) }
	}
	for name, forge := range map[string]func() string{
		"nothing (control)": headed(same),

		"typ of an access token": headed("revoked+jwt=>at+jwt"),
		"typ of an id token":     headed("revoked+jwt=>JWT"),
		"typ in capitals":        headed("revoked+jwt=>REVOKED+JWT"),
		"typ with application":   headed("revoked+jwt=>application/revoked+jwt"),
		"no typ":                 headed(`"typ":"revoked+jwt",=>`),
		"alg none":               headed("ES256=>none"),
		"alg none, unsigned": func() string {
			return b64([]byte(header("ES256=>none"))) + "." + b64([]byte(payload("", ""))) + "."
		},
		"alg ES384": headed("ES256=>ES384"),
		"alg HS256": func() string {
			signed := b64([]byte(header("ES256=>HS256"))) + "." + b64([]byte(payload("", "")))
			mac := hmac.New(sha256.New, must(w.key.PublicKey.Bytes()))
			mac.Write([]byte(signed))
			return signed + "." + b64(mac.Sum(nil))
		},
		"another header member": headed(`"kid"=>"jku":"https://evil.test","kid"`),
		"crit":                  headed(`"kid"=>"crit":["exp"],"kid"`),
		"another key":           func() string { return handmade(t, foreign, header(same), payload("", "")) },
		"unknown kid":           headed(keyID + "=>other"),
		"no kid":                headed(keyID + "=>"),
		"changed after signing": func() string {
			parts := strings.Split(headed(same)(), ".")
			return parts[0] + "." + b64([]byte(payload("new", "newer"))) + "." + parts[2]
		},
		"another issuer":       changed(issuer, "https://evil.test"),
		"issuer with a slash":  changed(issuer, issuer+"/"),
		"no issuer":            changed(`"iss":"`+issuer+`",`, ""),
		"issued in the future": claim("iat", 0, 75),
		"iat text":             changed(`"iat":`, `"iat":"1","x":`),
		"no iat":               changed(`"iat"`, `"x"`),
		"expired":              claim("exp", life, -61),
		"no exp":               changed(`"exp"`, `"x"`),
		"no ttl":               changed(`"ttl":10,`, ""),
		"no list":              changed(`"revoked"`, `"x"`),
		"list is an array": func() string {
			return handmade(t, w.key, header(same), strings.Split(payload("", ""), `{"new"`)[0]+`["new"]}`)
		},
		"list is null": func() string {
			return handmade(t, w.key, header(same), strings.Split(payload("", ""), `{"new"`)[0]+`null}`)
		},
		"grant without a time": func() string {
			return handmade(t, w.key, header(same), strings.Split(payload("", ""), `{"new"`)[0]+`{"new":true}}`)
		},
		"grant listed twice":  changed(`{"new"`, `{"new":5,"new"`),
		"grant without an id": changed(`{"new"`, `{"":5,"new"`),
		"escaped grant id":    changed(`{"new"`, `{"\u006e":5,"new"`),
		"endless grant id":    changed(`{"new"`, `{"`+strings.Repeat("x", 200)+`":5,"new"`),
		"claim twice":         changed(`"ttl"`, `"iss":"https://evil.test","ttl"`),
		"claim in capitals":   changed(`"ttl"`, `"Revoked":{},"ttl"`),
		"something behind":    func() string { return handmade(t, w.key, header(same), payload("", "")+"x") },
		"an access token":     func() string { return w.token(t, nil) },
		"not a JWT":           func() string { return "<html>" },
		"empty":               func() string { return "" },
		"two JWTs":            func() string { return headed(same)() + "\n" + headed(same)() },
		"a line end":          func() string { return headed(same)() + "\n" },
		"padded":              func() string { return headed(same)() + "==" },
		"oversized":           func() string { return headed(same)() + strings.Repeat("A", 16<<20) },
		"too many grants":     changed(`{"new"`, `{`+manyGrants(jwt.MaxRevoked)+`"new"`),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := serving(w.feed(t, "old"))
				feed, v := w.follow(t, f, nil)
				polled()
				before := feed.Status().Issued
				f.set(func() { f.body = w.feed(t, "old") })
				polled()
				f.set(func() { f.body = forge() })
				polled()
				taken := strings.Contains(name, "control")
				if got := feed.Revoked("new"); got != taken {
					t.Errorf("taken: %t (%v)", got, feed.Status().Err)
				}
				s := feed.Status()
				if !taken && (s.Err == nil || s.Revoked != 1 || !s.Issued.After(before)) {
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
		})
	}
}

func manyGrants(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"%07d":1,`, i)
	}
	return b.String()
}

// Answers that are no feed, and an issuer that does not answer in time.
func TestG04_FeedAnswers(t *testing.T) {
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
					t.Errorf("asked %d times, the last time at %s", n, host)
				}
				w.verdict(t, v, "old", jwt.ErrRevoked)
			})
		})
	}
}

// INV14: a grant that was listed stays revoked until its tokens are dead, whatever
// comes later: nothing, an older feed, or one that leaves it out.
func TestG04_INV14_FeedDoesNotGoBack(t *testing.T) {
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
		w.verdict(t, v, "another", jwt.ErrRevoked) // whoever says so
		w.verdict(t, v, "gone", jwt.ErrRevoked)
		if s := feed.Status(); !s.Issued.Equal(issued) || s.Err == nil {
			t.Errorf("an older feed was taken: %+v", s)
		}
		began := time.Now()
		for time.Since(began) < life*time.Second {
			f.serves(w.feed(t)) // from a store that has lost it, say
			w.verdict(t, v, "gone", jwt.ErrRevoked)
		}
		for time.Since(began) < (life+100)*time.Second {
			f.serves(w.feed(t))
		}
		if s := feed.Status(); s.Revoked != 0 {
			t.Errorf("%d grants are still kept when all their tokens are dead", s.Revoked)
		}
		// Two replicas in one second: both count.
		at := time.Now()
		f.serves(w.feedAt(t, at, "one"))
		f.serves(w.feedAt(t, at, "two"))
		w.verdict(t, v, "one", jwt.ErrRevoked)
		w.verdict(t, v, "two", jwt.ErrRevoked)
	})
}

// A feed that nothing new comes from is stale after a minute, however it fails. Then
// tokens are accepted, or none is, as configured; nothing that is known is forgotten.
func TestG04_StaleFeed(t *testing.T) {
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
					w.verdict(t, v, "", nil)
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

// A feed replayed to a program that has just begun is as old as it says.
func TestG04_ReplayedFeedIsStale(t *testing.T) {
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

// A proxy that has just lost a server answers well again a moment later, so who knows
// nothing yet does not wait for a whole poll.
func TestG04_FailedPollIsRepeated(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		f := serving(w.feed(t, "first"))
		f.set(func() { f.status = http.StatusBadGateway })
		_, v := w.follow(t, f, nil)
		w.verdict(t, v, "first", nil) // failing open, after the first poll
		f.set(func() { f.status = http.StatusOK })
		time.Sleep(time.Second)
		synctest.Wait()
		w.verdict(t, v, "first", jwt.ErrRevoked)

		f.set(func() { f.status = http.StatusBadGateway })
		polls := f.count()
		time.Sleep(10 * time.Minute)
		if n := f.count() - polls; n < 60 || n > 75 {
			t.Errorf("an issuer that stays away was asked %d times in ten minutes, want about as often as one that is there", n)
		}
	})
}

// Clocks that differ by less than the leeway make no feed stale.
func TestG04_FeedOfAnotherClock(t *testing.T) {
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

// Before the first poll has ended nobody is judged; then an issuer without a feed
// means what was configured.
func TestG04_FeedThatNeverWas(t *testing.T) {
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
				t.Errorf("the first token waited %v, want for the first poll", waited)
			}
			if s := feed.Status(); !s.Stale || !s.Issued.IsZero() {
				t.Errorf("status %+v", s)
			}
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if n := strings.Count(log.String(), "level=WARN"); n != 1 || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "no revocation feed") {
				t.Errorf("in ten minutes the log says:\n%s", &log)
			}
			f.set(func() { f.delay = 0 })
			f.serves(w.feed(t, "gone")) // the issuer was replaced by a newer one
			polled()
			w.verdict(t, v, "gone", jwt.ErrRevoked)
			w.verdict(t, v, "here", nil)
			if !strings.Contains(log.String(), "fresh again") {
				t.Errorf("the log says:\n%s", &log)
			}
		})
	}
	// One that nobody runs says so, and does not let pass what it cannot know.
	synctest.Test(t, func(t *testing.T) {
		feed, err := jwt.NewRevocationFeed(jwt.RevocationOptions{URL: "https://auth.test/revoked", Issuer: issuer, Keys: w.source})
		if err != nil {
			t.Fatal(err)
		}
		w.verdict(t, newVerifier(t, jwt.VerifierOptions{Keys: w.source, Feed: feed}), "here", jwt.ErrRevocationsUnknown)
	})
}

// The log tells of an outage when it begins, when it matters and when it is over.
func TestFeedLog(t *testing.T) {
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
			t.Fatalf("the log says:\n%s", &log)
		}
		for i := range want {
			if !strings.Contains(lines[i], want[i]) {
				t.Errorf("line %d: %s, want %s", i, lines[i], want[i])
			}
		}
	})
}

// An issuer that lists others each time does not fill the memory.
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
				t.Errorf("round %d: what was listed last is not known", round)
			}
		}
		if n := feed.Status().Revoked; n > 2*jwt.MaxRevoked {
			t.Errorf("%d grants are kept", n)
		}
	})
}

func TestRevocationOptions(t *testing.T) {
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
			t.Errorf("%s: %v", want, err)
		}
	}
}

// What nobody would take is not signed.
func TestSignFeedRefuses(t *testing.T) {
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

// A feed passes for no token, by anybody who verifies one.
func TestF10_FeedIsNoToken(t *testing.T) {
	w := newWorld(t)
	raw := w.feed(t, "gone")
	if _, err := w.verifier.Verify(t.Context(), raw); !errors.Is(err, jwt.ErrInvalid) {
		t.Errorf("as an access token: %v", err)
	}
	if _, err := jwt.VerifyIDHint(t.Context(), w.source, issuer, raw); !errors.Is(err, jwt.ErrInvalid) {
		t.Errorf("as an id token: %v", err)
	}
}
