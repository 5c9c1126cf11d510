package denylist

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"signet/internal/store"
)

const (
	flushEvery  = 3 * time.Second
	flushBatch  = 200    // grants in one transaction, see pruneBatch
	maxReplayed = 10_000 // grants whose replays can wait in memory; replays of others are not counted
)

// replayCounts has, for each grant, the replays that are not in the store yet.
type replayCounts struct {
	mu     sync.Mutex
	counts map[string]int64
}

func (c *replayCounts) add(id string, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.counts[id]; ok || len(c.counts) < maxReplayed {
		c.counts[id] += n
	}
}

func (c *replayCounts) take() map[string]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.counts
	c.counts = map[string]int64{}
	return taken
}

// countReplays flushes until ctx ends, and then once more.
func (l *List) countReplays(ctx context.Context) {
	l.every(ctx, flushEvery, "counting replays fails, what is known stays", "counting replays works again", func() error { return l.flushReplays(ctx) })
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushEvery)
	defer cancel()
	if err := l.flushReplays(last); err != nil {
		l.log.Warn("the last replays were not counted", "err", err)
	}
}

// flushReplays adds the counts in memory to the rows. Counts that cannot be written wait
// for the next flush.
func (l *List) flushReplays(ctx context.Context) error {
	counts := l.replays.take()
	ids := slices.Sorted(maps.Keys(counts)) // neighbours share pages
	for len(ids) > 0 {
		batch := ids[:min(len(ids), flushBatch)]
		err := l.store.Write(ctx, func(tx store.Tx) error {
			for _, id := range batch {
				if _, err := tx.Exec("UPDATE grants SET replays = replays + $1 WHERE id = $2", counts[id], id); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			for _, id := range ids {
				l.replays.add(id, counts[id])
			}
			return err
		}
		ids = ids[len(batch):]
	}
	return nil
}
