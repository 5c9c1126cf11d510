package denylist_test

import (
	"context"
	"sync/atomic"
	"testing"

	"signet/internal/denylist"
	"signet/internal/store"
	"signet/internal/test/storetest"
)

// BenchmarkUse compares a rotation with a bare insert of one row, both durable, from 64
// goroutines.
func BenchmarkUse(b *testing.B) {
	b.Run("bare insert", func(b *testing.B) {
		s := storetest.Open(b, options(b, storetest.SQLite))
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				id := grantAt(s.Now()).ID
				err := s.Write(context.Background(), func(tx store.Tx) error {
					_, err := tx.Exec("INSERT INTO spent (kind, id, expires_at) VALUES ($1, $2, $3)", "k", id, 1)
					return err
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	})
	b.Run("code", func(b *testing.B) {
		l, s := list(b, window)
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := l.Use(context.Background(), s.Epoch(), grantAt(s.Now()), 0, s.Now()); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
	b.Run("refresh", func(b *testing.B) {
		l, s := list(b, window)
		grants := make([]denylist.Grant, 1000)
		for i := range grants {
			grants[i] = family(b, l, s, 1, s.Now())
		}
		var next atomic.Int64
		b.SetParallelism(32)
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			g := grants[next.Add(1)] // each goroutine has a grant of its own
			for gen := int64(1); pb.Next(); gen++ {
				if _, err := l.Use(context.Background(), s.Epoch(), g, gen, s.Now()); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}

func BenchmarkRevoked(b *testing.B) {
	l, s := list(b, window)
	g := grantAt(s.Now())
	if err := l.Revoke(b.Context(), g, s.Now()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if !l.Revoked(g.ID) {
			b.Fatal("not revoked")
		}
	}
}
