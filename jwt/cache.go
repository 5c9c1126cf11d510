package jwt

import (
	"crypto/sha256"
	"sync"
	"time"
)

// shards divide the cache so that replicas with many cores do not wait for one lock.
const shards = 16

// cache remembers verified tokens by the hash of their text, so it holds no token
// that could be presented. It holds at most its size; refusals are never in it.
type cache struct {
	shards []shard
}

type shard struct {
	mu     sync.RWMutex
	tokens map[[sha256.Size]byte]*verifiedToken
	size   int
	swept  int64 // second of the last look for expired tokens
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
	if len(s.tokens) >= s.size {
		s.makeRoom(now)
	}
	s.tokens[hash] = t
}

func (c *cache) forget(hash [sha256.Size]byte) {
	s := c.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tokens, hash)
}

// makeRoom drops what has expired, and if that is nothing, any token: it costs its
// owner one more signature check. Looking through all is for once a second.
func (s *shard) makeRoom(now time.Time) {
	if s.swept != now.Unix() {
		s.swept = now.Unix()
		for hash, t := range s.tokens {
			if t.checkTime(now) != nil {
				delete(s.tokens, hash)
			}
		}
	}
	for hash := range s.tokens {
		if len(s.tokens) < s.size {
			return
		}
		delete(s.tokens, hash)
	}
}
