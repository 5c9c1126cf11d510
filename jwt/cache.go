package jwt

import (
	"crypto/sha256"
	"sync"
	"time"
)

// shards is the number of parts of a cache, so that many cores do not wait for one lock.
const shards = 16

// cache remembers verified tokens by the hash of their text, so it holds no token that
// could be presented. It holds at most its size, and no refusals. A token that is longer
// than ordinary ones counts for several, because its claims are kept.
//
// It is a map and not the LRU of a library, because a hit then takes a read lock and
// writes nothing: BenchmarkVerifyCached beside BenchmarkVerifyCold shows the gain of a
// hit, BenchmarkVerifyFullCache the cost of a flood that does not fit.
type cache struct {
	shards []shard
}

type shard struct {
	mu     sync.RWMutex
	tokens map[[sha256.Size]byte]*verifiedToken
	weight int   // of all tokens
	size   int   // bound of weight, unless there is only one token
	swept  int64 // Unix second of the last search for expired tokens
}

func newCache(size int) *cache {
	n := min(shards, size)
	c := &cache{shards: make([]shard, n)}
	for i := range c.shards {
		c.shards[i].tokens = map[[sha256.Size]byte]*verifiedToken{}
		c.shards[i].size = size / n
	}
	return c
}

func (c *cache) shard(hash [sha256.Size]byte) *shard {
	return &c.shards[int(hash[0])%len(c.shards)]
}

func (c *cache) get(hash [sha256.Size]byte) *verifiedToken {
	s := c.shard(hash)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.tokens[hash]
}

func (c *cache) put(hash [sha256.Size]byte, t *verifiedToken, now time.Time) {
	s := c.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(hash)
	if s.weight+t.weight() > s.size {
		s.makeRoom(s.size-t.weight(), now)
	}
	s.tokens[hash] = t
	s.weight += t.weight()
}

func (c *cache) forget(hash [sha256.Size]byte) {
	s := c.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(hash)
}

func (s *shard) drop(hash [sha256.Size]byte) {
	if t, ok := s.tokens[hash]; ok {
		s.weight -= t.weight()
		delete(s.tokens, hash)
	}
}

// makeRoom drops expired tokens, or any other if none has expired, until the rest weighs at
// most rest: the next use of a dropped token costs one more signature check. It searches at
// most once a second, because a search reads the whole shard.
func (s *shard) makeRoom(rest int, now time.Time) {
	if s.swept != now.Unix() {
		s.swept = now.Unix()
		for hash, t := range s.tokens {
			if t.checkTime(now) != nil {
				s.drop(hash)
			}
		}
	}
	for hash := range s.tokens {
		if s.weight <= rest {
			return
		}
		s.drop(hash)
	}
}

// ordinary is the length of the longest token that counts as one, in characters.
const ordinary = 1 << 10

// weight is the number of ordinary tokens that t counts for.
func (t *verifiedToken) weight() int { return (t.length + ordinary - 1) / ordinary }
