package store_test

import (
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/store"
)

// Calls that come one after the other do not wait for each other.
func TestLoneCallDoesNotWaitForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := store.NewGatherer()
		for range 10 {
			begin := time.Now()
			g.Ask(1)
			if size := g.Group(0); size != 1 || time.Since(begin) != 0 {
				t.Fatalf("a group of %d after %v", size, time.Since(begin))
			}
		}
	})
}

// A call that is the first of many waits for the others, but no longer than a commit takes, nor
// longer than two milliseconds. When there are no more others, it soon does not wait at all.
func TestFirstCallOfManyWaitsForTheOthers(t *testing.T) {
	for commit, longest := range map[time.Duration]time.Duration{400 * time.Microsecond: 400 * time.Microsecond, time.Second: 2 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			g := store.NewGatherer()
			for range 100 { // it learns how long a commit takes
				g.Ask(64)
				if size := g.Group(commit); size != 64 {
					t.Fatalf("a group of %d, want 64", size)
				}
			}
			go func() {
				time.Sleep(longest / 2)
				g.Ask(40)
			}()
			g.Ask(1)
			begin := time.Now()
			if size := g.Group(0); size != 41 || time.Since(begin) != longest/2 {
				t.Errorf("a group of %d after %v, want 41 after %v", size, time.Since(begin), longest/2)
			}
			var waits []time.Duration
			for range 40 {
				begin := time.Now()
				g.Ask(1)
				if size := g.Group(0); size != 1 {
					t.Fatalf("a group of %d, want 1", size)
				}
				waits = append(waits, time.Since(begin))
			}
			if waits[0] > longest || waits[0] < longest/2 || waits[len(waits)-1] != 0 {
				t.Errorf("commits of %v: waits of %v, want %v at first and none at last", commit, waits, longest)
			}
		})
	}
}
