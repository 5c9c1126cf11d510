package handlers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/internal/store"
	"signet/internal/test/authtest"
	"signet/jwt"
)

const feedPath = "/.well-known/revoked"

// readFeed takes a feed apart without verifying it.
func readFeed(t testing.TB, raw string) (header map[string]string, c jwt.FeedClaims) {
	t.Helper()
	if strings.Count(raw, ".") != 2 {
		t.Fatalf("not a JWT: %.200s", raw)
	}
	h, p, err := jwt.UnsafeClaims(raw)
	if err == nil {
		err = json.Unmarshal(h, &header)
	}
	if err == nil {
		err = json.Unmarshal(p, &c)
	}
	if err != nil {
		t.Fatalf("%v: %.200s", err, raw)
	}
	return header, c
}

// grantOf is the id of the grant of an access token.
func grantOf(t testing.TB, s *authtest.Server, token string) string {
	t.Helper()
	claims, err := s.Verifier.Verify(context.Background(), token)
	if err != nil {
		t.Fatal(err)
	}
	return claims.GrantID
}

// follow reads the feed once as a verifier elsewhere does.
func follow(t *testing.T, s *authtest.Server) *jwt.RevocationFeed {
	t.Helper()
	client := &http.Client{Transport: direct{s}}
	feed, err := jwt.NewRevocationFeed(jwt.RevocationOptions{
		URL: authtest.Issuer + feedPath, Issuer: authtest.Issuer, Client: client, Keys: jwt.NewRemoteKeys(authtest.Issuer+"/.well-known/jwks.json", client),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var runs sync.WaitGroup
	runs.Go(func() { feed.Run(ctx) })
	t.Cleanup(func() { stop(); runs.Wait() })
	for deadline := time.Now().Add(10 * time.Second); feed.Status().Issued.IsZero(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the feed is not read: %+v", feed.Status())
		}
	}
	return feed
}

// direct sends requests to a handler without a network.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w.Result(), nil
}

// discard is a ResponseWriter that drops the answer.
type discard http.Header

func (n discard) Header() http.Header         { return http.Header(n) }
func (n discard) Write(p []byte) (int, error) { return len(p), nil }
func (n discard) WriteHeader(int)             {}

// feedWith asks until the feed is another one than before, which takes a second.
func feedWith(t testing.TB, s *authtest.Server, before string) *authtest.Response {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if r := s.Get(t, feedPath); r.Body != before {
			return r
		}
		if time.Now().After(deadline) {
			t.Fatal("the feed does not change")
		}
	}
}

// G04: the feed is a public document that caches may keep for two seconds; it is
// signed by the published key, is of a type of its own, and lists ids alone.
func TestFeedListsRevokedGrants_G04(t *testing.T) {
	s := authtest.New(t)
	tok, other := s.Tokens(t, "alice", s.PUB), s.Tokens(t, "bob", s.PUB)
	gid := grantOf(t, s, tok.Access)
	empty := s.Get(t, feedPath)
	if _, c := readFeed(t, empty.Body); c.Issuer != authtest.Issuer || len(c.Revoked) != 0 || c.ExpiresAt != c.IssuedAt+6*60 || c.TTL != 10 {
		t.Errorf("before anything was revoked: %+v", c)
	}
	s.Revoke(t, s.PUB, tok.Refresh)
	r := feedWith(t, s, empty.Body)
	for name, want := range map[string]string{
		"Content-Type": "application/revoked+jwt", "Cache-Control": "public, max-age=2", "Access-Control-Allow-Origin": "*", "Access-Control-Allow-Credentials": "",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	header, c := readFeed(t, r.Body)
	key, err := s.Keys.Signing(time.Now())
	if err != nil || len(header) != 3 || header["alg"] != "ES256" || header["typ"] != "revoked+jwt" || header["kid"] != key.ID {
		t.Errorf("header %v (%v)", header, err)
	}
	if at := c.Revoked[gid]; len(c.Revoked) != 1 || time.Since(time.Unix(at, 0)).Abs() > 5*time.Second {
		t.Errorf("it lists %v, want %s alone, revoked now", c.Revoked, gid)
	}
	for _, secret := range []string{`"alice"`, `"bob"`, s.PUB.ID, grantOf(t, s, other.Access)} {
		if _, payload, _ := jwt.UnsafeClaims(r.Body); strings.Contains(string(payload), secret) {
			t.Errorf("%s is in it", secret)
		}
	}
	// A reader of the feed believes it, and nothing accepts it as any other token.
	feed := follow(t, s)
	if !feed.Revoked(gid) || feed.Revoked(grantOf(t, s, other.Access)) {
		t.Errorf("a reader knows %+v", feed.Status())
	}
	if r := s.Do(t, request("GET", authtest.Issuer+"/userinfo", "", "Authorization", "Bearer "+r.Body)); r.StatusCode != 401 {
		t.Errorf("as an access token: %d", r.StatusCode)
	}
	if r := s.Introspect(t, s.CONF, r.Body); strings.TrimSpace(r.Body) != inactive {
		t.Errorf("introspection of the feed: %s", r.Body)
	}
	if r := s.Revoke(t, s.PUB, r.Body); r.StatusCode != 200 {
		t.Errorf("revocation of the feed: %d", r.StatusCode)
	}
	if r := s.Do(t, request("GET", authtest.Issuer+"/logout?id_token_hint="+r.Body, "")); r.StatusCode >= 500 {
		t.Errorf("as an id token hint: %d", r.StatusCode)
	}
	if uri := s.Get(t, "/.well-known/openid-configuration").JSON(t)["revoked_grants_uri"]; uri != authtest.Issuer+feedPath {
		t.Errorf("revoked_grants_uri = %v", uri)
	}
}

// The same bytes have the same strong tag, other bytes another one. The feed is signed
// once for all requests of a second, and not again while the store has no news.
func TestFeedIsMadeOnceASecondAtMost(t *testing.T) {
	s := authtest.New(t)
	r := s.Get(t, feedPath)
	etag := r.Header.Get("ETag")
	if !strings.HasPrefix(etag, `"`) {
		t.Errorf("ETag %s", etag)
	}
	if again := s.Do(t, request("GET", authtest.Issuer+feedPath, "", "If-None-Match", etag)); again.StatusCode != 304 || again.Body != "" || again.Header.Get("ETag") != etag {
		t.Errorf("unchanged: %d %q", again.StatusCode, again.Body)
	}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			w := httptest.NewRecorder()
			s.ServeHTTP(w, request("GET", authtest.Issuer+feedPath, ""))
			if w.Body.String() != r.Body {
				t.Error("signed again")
			}
		})
	}
	all.Wait()
	time.Sleep(1100 * time.Millisecond) // nothing happens: no event to wait for
	if again := s.Get(t, feedPath); again.Body != r.Body || again.Header.Get("ETag") != etag {
		t.Error("signed again, without any news")
	}
	if head := s.Do(t, request("HEAD", authtest.Issuer+feedPath, "")); head.StatusCode != 200 || head.Header.Get("ETag") != etag {
		t.Errorf("HEAD: %d", head.StatusCode)
	}
	s.Revoke(t, s.PUB, s.Tokens(t, "alice", s.PUB).Refresh)
	next := feedWith(t, s, r.Body)
	if next.Header.Get("ETag") == etag {
		t.Error("another feed has the same tag")
	}
	if stale := s.Do(t, request("GET", authtest.Issuer+feedPath, "", "If-None-Match", etag)); stale.StatusCode != 200 || stale.Body != next.Body {
		t.Errorf("changed: %d", stale.StatusCode)
	}
	if post := s.Do(t, request("POST", authtest.Issuer+feedPath, "")); post.StatusCode != 405 {
		t.Errorf("POST: %d", post.StatusCode)
	}
}

// A store that is down breaks nothing here, and the feed does not look fresh.
func TestFeedDoesNotLookFreshWhileTheStoreIsDown_G04(t *testing.T) {
	s := authtest.New(t)
	tok := s.Tokens(t, "alice", s.PUB)
	s.Revoke(t, s.PUB, tok.Refresh)
	_, before := readFeed(t, s.Get(t, feedPath).Body)
	s.StopStore(t)
	time.Sleep(2100 * time.Millisecond) // so that now is another second than the last reading
	r := s.Get(t, feedPath)
	if r.StatusCode != 200 {
		t.Fatalf("%d %s", r.StatusCode, r.Body)
	}
	if _, c := readFeed(t, r.Body); c.IssuedAt != before.IssuedAt || len(c.Revoked) != 1 {
		t.Errorf("iat %d, %d before; it lists %v", c.IssuedAt, before.IssuedAt, c.Revoked)
	}
	s.Restart(t)
}

// A01: below the path of an issuer.
func TestFeedIsBelowThePathOfTheIssuer_A01(t *testing.T) {
	s := authtest.New(t, func(c *authtest.Config) { c.Issuer = "https://as.test/t1" })
	r := s.Do(t, request("GET", "https://as.test/t1"+feedPath, ""))
	if _, c := readFeed(t, r.Body); c.Issuer != "https://as.test/t1" {
		t.Errorf("iss %s", c.Issuer)
	}
	uri := s.Do(t, request("GET", "https://as.test/.well-known/oauth-authorization-server/t1", "")).JSON(t)["revoked_grants_uri"]
	if uri != "https://as.test/t1"+feedPath {
		t.Errorf("revoked_grants_uri = %v", uri)
	}
}

// BenchmarkFeed serves the feed with 100,000 grants in it, beside a handler that
// writes the same bytes.
func BenchmarkFeed(b *testing.B) {
	s := authtest.New(b)
	const grants = 100_000
	now := time.Now()
	err := s.Store.Write(b.Context(), func(tx store.Tx) error {
		for i := range grants {
			_, err := tx.Exec(`INSERT INTO grants (id, gen, rotated_at, revoked_at, sub, client_hash, client_name, consent_hash, scope, resource, created_at, expires_at)
				VALUES ($1, 1, 0, $2, 'u', '', '', '', '', '', $3, $4)`, fmt.Sprintf("%026d", i), now.UnixMilli(), now.Unix(), now.Add(time.Hour).Unix())
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	s.Restart(b)
	body := []byte(s.Get(b, feedPath).Body)
	if len(body) < 48*grants {
		b.Fatalf("it has %d bytes", len(body))
	}
	bare := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(body) })
	for _, bb := range []struct {
		name string
		h    http.Handler
	}{{"bare", bare}, {"feed", s}} {
		b.Run(bb.name, func(b *testing.B) {
			r := request("GET", authtest.Issuer+feedPath, "")
			for b.Loop() {
				bb.h.ServeHTTP(discard{}, r)
			}
		})
	}
}
