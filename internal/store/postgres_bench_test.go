package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"signet/internal/store"
)

// BenchmarkPostgresInsert is BenchmarkGroupInsert on PostgreSQL. The database runs on the
// same machine.
func BenchmarkPostgresInsert(b *testing.B) {
	s := open(b, firstOptions(b))
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := s.Write(context.Background(), func(tx store.Tx) error { return insertGrant(tx, rand.N(1000)) }); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkPostgresRotate is a refresh: a row is locked, read and changed. Three
// replicas share the work.
func BenchmarkPostgresRotate(b *testing.B) {
	for _, n := range []int{1, 3} {
		b.Run(fmt.Sprint(n, " replicas"), func(b *testing.B) {
			o := firstOptions(b)
			var replicas []*store.Store
			for range n {
				replicas = append(replicas, open(b, o))
			}
			const rows = 10_000
			err := replicas[0].Write(b.Context(), func(tx store.Tx) error {
				for i := range rows {
					if _, err := tx.Exec("INSERT INTO spent (kind, id, expires_at) VALUES ('row', $1, 0)", fmt.Sprintf("%06d", i)); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
			var turn atomic.Int64
			b.SetParallelism(32)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				s := replicas[int(turn.Add(1))%n]
				for pb.Next() {
					id := fmt.Sprintf("%06d", rand.N(rows))
					err := s.Write(context.Background(), func(tx store.Tx) error {
						var n int64
						if err := tx.QueryRow("SELECT expires_at FROM spent WHERE kind = 'row' AND id = $1 FOR UPDATE", id).Scan(&n); err != nil {
							return err
						}
						_, err := tx.Exec("UPDATE spent SET expires_at = $1 WHERE kind = 'row' AND id = $2", n+1, id)
						return err
					})
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

func firstOptions(t testing.TB) store.Options {
	t.Helper()
	o := pgOptions(t)
	o.First = "root"
	return o
}
