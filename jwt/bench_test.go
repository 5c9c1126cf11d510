package jwt_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

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

// A flood of good tokens that do not fit into the cache.
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

func benchVerify(b *testing.B, v *jwt.Verifier, raw string) {
	b.Helper()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(context.Background(), raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyRefused(b *testing.B) {
	w := newWorld(b)
	for name, raw := range bombs(b, w) {
		b.Run(strings.ReplaceAll(name, " ", "_"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w.verifier.Verify(context.Background(), raw)
			}
		})
	}
}

func BenchmarkBareSign(b *testing.B) {
	key := newKey(b)
	hash := sha256.Sum256([]byte("x"))
	for b.Loop() {
		if _, err := ecdsa.SignASN1(rand.Reader, key, hash[:]); err != nil {
			b.Fatal(err)
		}
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

// BenchmarkVerifyWithFeed is VerifyCached with a feed of 100,000 revoked grants to
// ask.
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

// BenchmarkSignFeed and BenchmarkReadFeed are what a feed of so many grants costs the
// issuer once a second at most, and a verifier at each poll.
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

// longFeed is a feed that has read 100,000 grants.
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
	for !feed.Revoked(grantName(7)) {
		time.Sleep(time.Millisecond)
	}
	return feed
}
