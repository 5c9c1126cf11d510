package users_test

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/alexedwards/argon2id"
	"golang.org/x/crypto/argon2"

	"signet/users"
)

// Keys are those of argon2.IDKey, whatever the memory holds from the hash before.
func TestArgon2idIsThatOfTheLibrary(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	text := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	key := users.NewArgon2id()
	for _, lanes := range []uint8{1, 2, 3, 4, 16} {
		for _, passes := range []uint32{1, 2, 5} {
			for _, memory := range []uint32{8 * uint32(lanes), 8*uint32(lanes) + 5, 1000, 4099} {
				p := argon2id.Params{Memory: memory, Iterations: passes, Parallelism: lanes, KeyLength: 16 + rng.Uint32N(49)}
				password, salt := text(rng.IntN(200)), text(8+rng.IntN(57))
				want := argon2.IDKey(password, salt, passes, memory, lanes, p.KeyLength)
				if got := key(password, salt, p); !bytes.Equal(got, want) {
					t.Errorf("%+v: %x, want %x", p, got, want)
				}
			}
		}
	}
}

// A hash uses the memory of the one before.
func TestHashesReuseMemory(t *testing.T) {
	f, _ := newFile(t)
	const mib, hashes = 8, 20
	f.UseParams(mib<<10, 1)
	f.SetLimit(1)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range hashes {
		check(t, f, "nobody", "cows", users.ErrInvalid)
	}
	runtime.ReadMemStats(&after)
	// A collection between two hashes frees the memory.
	if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > mib*hashes/2 {
		t.Errorf("%d hashes of %d MiB allocated %d MiB", hashes, mib, n)
	}
	runtime.GC()
	runtime.GC()
	var idle runtime.MemStats
	runtime.ReadMemStats(&idle)
	if n := int64(idle.HeapAlloc) - int64(before.HeapAlloc); n > mib<<19 {
		t.Errorf("%d bytes are kept when no hash runs", n)
	}
}

func BenchmarkHash(b *testing.B) {
	const memory, passes = 19 << 10, 2
	p := argon2id.Params{Memory: memory, Iterations: passes, Parallelism: 1, KeyLength: 32}
	password, salt := []byte("correct horse battery staple"), make([]byte, 16)
	b.Run("users", func(b *testing.B) {
		key := users.NewArgon2id()
		for b.Loop() {
			key(password, salt, p)
		}
	})
	b.Run("library", func(b *testing.B) {
		for b.Loop() {
			argon2.IDKey(password, salt, passes, memory, 1, 32)
		}
	})
}
