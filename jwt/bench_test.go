package jwt_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"strings"
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
