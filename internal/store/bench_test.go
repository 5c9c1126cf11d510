package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"signet/internal/store"
)

// insertGrant inserts a row whose values are as long as a server's.
func insertGrant(tx store.Tx, i int) error {
	_, err := tx.Exec(`INSERT INTO grants (id, gen, rotated_at, revoked_at, sub, client_hash, client_name, consent_hash, scope, resource, created_at, expires_at, user_version, epoch)
		VALUES ($1, 1, $2, 0, $3, $4, $5, $6, $7, $8, $9, $10, '12345678', '1234')`,
		grantID(i), 1767225600123+int64(i), fmt.Sprintf("user%06d", rand.N(50000)),
		fmt.Sprintf("%022x", rand.Uint64()), "Claude Code", fmt.Sprintf("%012x", rand.N(int64(1)<<48)), "read write", "https://mcp.example.com/mcp",
		1767225600+i, 1769817600+i)
	return err
}

// grantID returns the same id for the same number. Like the ids of a server, they sort by time.
func grantID(i int) string {
	return fmt.Sprintf("00d6k%05d%013x", i, rand.New(rand.NewPCG(uint64(i), 0)).Uint64()>>12)
}

// A grant costs 300 bytes or less, indexes included, also after it has rotated.
func TestGrantCostsAtMost300Bytes(t *testing.T) {
	onBoth(t, func(t *testing.T, o store.Options) {
		const n, most = 20_000, 300
		create(t, o)
		s := open(t, o)
		write := func(fn func(tx store.Tx) error) {
			if err := s.Write(context.Background(), fn); err != nil {
				t.Fatal(err)
			}
		}
		check := func(when string) {
			per := grantsSize(t, s, o) / n
			t.Logf("%s: %d bytes per grant", when, per)
			if per > most {
				t.Errorf("%s: %d bytes per grant, want at most %d", when, per, most)
			}
		}
		for i := 0; i < n; i += 1000 {
			write(func(tx store.Tx) error {
				for j := range 1000 {
					if err := insertGrant(tx, i+j); err != nil {
						return err
					}
				}
				return nil
			})
		}
		check("new")
		ids := make([]any, n)
		rounds := 1 // SQLite writes a row where it was
		if store.Locate(o.Path).Shared() {
			rounds = 3
		}
		for range rounds {
			for i, at := range rand.Perm(n) {
				ids[at] = grantID(i)
			}
			for group := range slices.Chunk(ids, 20) { // as large as a group of commits
				write(func(tx store.Tx) error {
					places := strings.Repeat(", $%d", len(group))[2:]
					for i := range group {
						places = strings.Replace(places, "%d", fmt.Sprint(i+1), 1)
					}
					_, err := tx.Exec("UPDATE grants SET gen = gen + 1, rotated_at = rotated_at + 1000 WHERE id IN ("+places+")", group...)
					return err
				})
			}
		}
		check("rotated")
	})
}

// grantsSize is the size of the grants on disk: of their table and its indexes, or of the file.
func grantsSize(t *testing.T, s *store.Store, o store.Options) (n int64) {
	t.Helper()
	query := "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
	if store.Locate(o.Path).Shared() {
		query = "SELECT pg_total_relation_size('grants')"
	}
	if err := s.Read(t.Context(), func(tx store.Tx) error { return tx.QueryRow(query).Scan(&n) }); err != nil {
		t.Fatal(err)
	}
	return n
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
