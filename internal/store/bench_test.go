package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"signet/internal/store"
)

func insertGrant(tx store.Tx, i int) error {
	_, err := tx.Exec(`INSERT INTO grants (id, gen, rotated_at, revoked_at, sub, client_hash, client_name, consent_hash, scope, resource, created_at, expires_at, user_version, epoch)
		VALUES ($1, 1, $2, 0, $3, $4, $5, $6, $7, $8, $9, $10, '12345678', '1234')`,
		fmt.Sprintf("00d6k%05d%016x", i, rand.Uint64()), 1767225600123+int64(i), fmt.Sprintf("user%06d", rand.N(50000)),
		fmt.Sprintf("%022x", rand.Uint64()), "Claude Code", fmt.Sprintf("%022x", rand.Uint64()), "read write", "https://mcp.example.com/mcp",
		1767225600+i, 1769817600+i)
	return err
}

// A grant costs 300 bytes or less, indexes included.
func TestGrantCostsAtMost300Bytes(t *testing.T) {
	n := 100_000
	if testing.Short() {
		n = 20_000
	}
	o := options(t)
	create(t, o)
	s := open(t, o)
	for i := 0; i < n; i += 1000 {
		err := s.Write(context.Background(), func(tx store.Tx) error {
			for j := range 1000 {
				if err := insertGrant(tx, i+j); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	closeStore(t, s)
	fi, err := os.Stat(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	per := fi.Size() / int64(n)
	t.Logf("%d bytes per grant", per)
	if per > 300 {
		t.Errorf("%d bytes per grant, want at most 300", per)
	}
}

// BenchmarkGroupInsert is the bare cost of one durable row from 64 writers.
func BenchmarkGroupInsert(b *testing.B) {
	o := options(b)
	create(b, o)
	s := open(b, o)
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := s.Write(context.Background(), func(tx store.Tx) error { return insertGrant(tx, rand.N(1000)) }); err != nil {
				b.Fatal(err)
			}
		}
	})
}
