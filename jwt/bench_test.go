package jwt_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"

	"signet/jwt"
)

func BenchmarkBareVerify(b *testing.B) {
	key := newKey(b)
	hash := sha256.Sum256([]byte("x"))
	sig, err := ecdsa.SignASN1(rand.Reader, key, hash[:])
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if !ecdsa.VerifyASN1(&key.PublicKey, hash[:], sig) {
			b.Fatal("refused")
		}
	}
}

func BenchmarkVerifyCold(b *testing.B) {
	w := newWorld(b)
	v := newVerifier(b, jwt.VerifierOptions{Keys: w.source, CacheSize: -1})
	benchVerify(b, v, w.token(b, nil))
}

func BenchmarkVerifyCached(b *testing.B) {
	w := newWorld(b)
	v := newVerifier(b, jwt.VerifierOptions{Keys: w.source, Revoked: func(string) bool { return false }})
	benchVerify(b, v, w.token(b, nil))
}

// BenchmarkRemoteKey finds a key in a set that was fetched and is fresh, which each
// verification at another server than the issuer does.
func BenchmarkRemoteKey(b *testing.B) {
	_, keys := newIssuer(string(setOf("one", newKey(b))))
	if err := keys.Prefetch(b.Context()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := keys.Key(b.Context(), "one"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerifyFullCache is a flood of good tokens that do not fit into the cache.
func BenchmarkVerifyFullCache(b *testing.B) {
	w := newWorld(b)
	v := newVerifier(b, jwt.VerifierOptions{Keys: w.source, CacheSize: 1000})
	raws := make([]string, 4000)
	for i := range raws {
		raws[i] = w.token(b, nil)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := v.Verify(context.Background(), raws[i%len(raws)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// BenchmarkVerifyNewTokens verifies live tokens that have never been seen, and reports how much
// memory the verifier holds afterwards. With -benchtime 1000000x there are a million of them.
func BenchmarkVerifyNewTokens(b *testing.B) {
	w := newWorld(b)
	v := newVerifier(b, jwt.VerifierOptions{Keys: w.source})
	before := heapInUse()
	for b.Loop() {
		if _, err := v.Verify(context.Background(), w.token(b, nil)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(heapInUse()-before)/(1<<20), "MiB-held")
	b.ReportMetric(float64(v.Remembered()), "tokens-held")
}

func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func benchVerify(b *testing.B, v *jwt.Verifier, raw string) {
	b.Helper()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(context.Background(), raw); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerifyRefused fails if a structure bomb takes more than 5 ms on average.
func BenchmarkVerifyRefused(b *testing.B) {
	w := newWorld(b)
	for name, raw := range bombs(b, w) {
		b.Run(strings.ReplaceAll(name, " ", "_"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w.verifier.Verify(context.Background(), raw)
			}
			if took := b.Elapsed() / time.Duration(b.N); took > 5*time.Millisecond {
				b.Errorf("refused after %v, want at most 5 ms", took)
			}
		})
	}
}

// BenchmarkParse reads a token, except for its signature, by the scanner and by
// encoding/json, which lets through much that the scanner refuses.
func BenchmarkParse(b *testing.B) {
	raw := newWorld(b).token(b, nil)
	for name, parse := range map[string]func(string) error{"scanner": jwt.Parse, "encoding_json": parseByLibrary} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := parse(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func parseByLibrary(raw string) error {
	part := strings.Split(raw, ".")
	var header struct {
		Algorithm string `json:"alg"`
		Type      string `json:"typ"`
		KeyID     string `json:"kid"`
	}
	var claims jwt.Claims
	for i, v := range []any{&header, &claims} {
		b, err := base64.RawURLEncoding.DecodeString(part[i])
		if err != nil {
			return err
		}
		if err := json.Unmarshal(b, v); err != nil {
			return err
		}
	}
	_, err := base64.RawURLEncoding.DecodeString(part[2])
	return err
}

func BenchmarkBareSign(b *testing.B) {
	key := newKey(b)
	hash := sha256.Sum256([]byte("x"))
	for name, random := range map[string]io.Reader{"nonce_from_random_bytes": rand.Reader, "nonce_from_key_and_hash": nil} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := key.Sign(random, hash[:], crypto.SHA256); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSign(b *testing.B) {
	w := newWorld(b)
	c := goodClaims()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.signer.Sign(c, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSignByLibrary is BenchmarkSign by the JOSE library.
func BenchmarkSignByLibrary(b *testing.B) {
	key, c := newKey(b), goodClaims()
	c.ID = rand.Text()
	b.ReportAllocs()
	for b.Loop() {
		payload, err := json.Marshal(&c)
		if err != nil {
			b.Fatal(err)
		}
		header := jws.NewHeaders()
		header.Set(jws.TypeKey, "at+jwt")
		header.Set(jws.KeyIDKey, keyID)
		if _, err := jws.Sign(payload, jws.WithKey(jwa.ES256, key, jws.WithProtectedHeaders(header))); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerifyWithFeed is BenchmarkVerifyCached with a feed of 100,000 revoked grants.
func BenchmarkVerifyWithFeed(b *testing.B) {
	w := newWorld(b)
	feed := longFeed(b, w)
	v := newVerifier(b, jwt.VerifierOptions{Keys: w.source, Feed: feed})
	benchVerify(b, v, w.token(b, nil))
}

// BenchmarkRevoked asks a feed of 100,000 revoked grants.
func BenchmarkRevoked(b *testing.B) {
	feed := longFeed(b, newWorld(b))
	for name, id := range map[string]string{"yes": grantName(7), "no": "grant"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if feed.Revoked(id) != (name == "yes") {
					b.Fatal(id)
				}
			}
		})
	}
}

// BenchmarkMarshalFeed writes the claims of a feed of 100,000 grants by the method of
// FeedClaims and by encoding/json, which sorts the grants.
func BenchmarkMarshalFeed(b *testing.B) {
	type plain jwt.FeedClaims // without the method
	c := feedOf(100_000)
	sorted := plain(c)
	for name, v := range map[string]any{"any_order": &c, "sorted": &sorted} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := json.Marshal(v); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkSignFeed is the cost of a feed for its issuer, which signs one a second at
// most. BenchmarkReadFeed is the cost for a reader at each poll.
func BenchmarkSignFeed(b *testing.B) {
	w := newWorld(b)
	for _, n := range []int{0, 1000, 100_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			c := feedOf(n)
			for b.Loop() {
				raw, err := w.signer.SignFeed(c, time.Now())
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(raw)))
			}
		})
	}
}

func BenchmarkReadFeed(b *testing.B) {
	w := newWorld(b)
	for _, n := range []int{0, 1000, 100_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			raw, err := w.signer.SignFeed(feedOf(n), time.Now())
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				if _, err := jwt.VerifyFeed(b.Context(), w.source, issuer, raw, time.Now()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func grantName(i int) string { return fmt.Sprintf("%026d", i) }

func feedOf(n int) jwt.FeedClaims {
	now := time.Now().Unix()
	c := jwt.FeedClaims{Issuer: issuer, IssuedAt: now, ExpiresAt: now + 360, TTL: 10, Revoked: make(map[string]int64, n)}
	for i := range n {
		c.Revoked[grantName(i)] = now
	}
	return c
}

// longFeed returns a feed that has read 100,000 grants.
func longFeed(b *testing.B, w *world) *jwt.RevocationFeed {
	b.Helper()
	raw, err := w.signer.SignFeed(feedOf(100_000), time.Now())
	if err != nil {
		b.Fatal(err)
	}
	feed, err := jwt.NewRevocationFeed(jwt.RevocationOptions{URL: "https://auth.test/revoked", Issuer: issuer, Keys: w.source, Client: &http.Client{Transport: serving(raw)}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var runs sync.WaitGroup
	runs.Go(func() { feed.Run(ctx) })
	b.Cleanup(func() { stop(); runs.Wait() })
	// Verify waits for the first poll.
	raw = w.token(b, func(c *jwt.Claims) { c.GrantID = grantName(7) })
	if _, err := newVerifier(b, jwt.VerifierOptions{Keys: w.source, Feed: feed}).Verify(ctx, raw); !errors.Is(err, jwt.ErrRevoked) {
		b.Fatal(err)
	}
	return feed
}
