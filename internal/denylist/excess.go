package denylist

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"signet/internal/store"
)

// How many live grants a user can have. A further one ends the oldest of the same
// client, or of all clients. Users have a few for each machine and session, so only a
// program that signs in again and again comes near.
const (
	MaxOfClient = 100 // grants of one user to one client
	MaxOfUser   = 1000
)

const trimEvery = time.Second

// maxExcess is how many users can wait for their grants to be counted. A user that is
// left out is counted after the next grant.
const maxExcess = 10_000

// excess holds the users that may have too many grants, because they have made another
// one.
type excess struct {
	mu       sync.Mutex
	subjects map[string]bool
}

func (e *excess) add(subject string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.subjects) < maxExcess {
		e.subjects[subject] = true
	}
}

func (e *excess) take() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	taken := slices.Collect(maps.Keys(e.subjects))
	clear(e.subjects)
	return taken
}

// Trim ends grants of users that have made new ones since the last call and have too
// many now. [List.Run] calls it every second.
func (l *List) Trim(ctx context.Context) error {
	subjects := l.excess.take()
	for i, subject := range subjects {
		if err := l.trim(ctx, subject); err != nil {
			for _, left := range subjects[i:] {
				l.excess.add(left)
			}
			return err
		}
	}
	return nil
}

// trim reads before it writes, because hardly any user has too many.
func (l *List) trim(ctx context.Context, subject string) error {
	over, err := l.tooMany(ctx, subject)
	if err != nil {
		return err
	}
	_, err = l.revokeIDs(ctx, over)
	return err
}

// tooMany returns the ids of the grants of a user that have to end.
func (l *List) tooMany(ctx context.Context, subject string) (over []any, err error) {
	err = l.store.Read(ctx, func(tx store.Tx) error {
		over = nil
		rows, err := tx.Query("SELECT id, client_hash FROM grants WHERE sub = $1 AND revoked_at = 0 ORDER BY created_at DESC, id DESC", subject)
		if err != nil {
			return err
		}
		defer rows.Close()
		stay, ofClient := 0, map[string]int{}
		for rows.Next() {
			var id, client string
			if err := rows.Scan(&id, &client); err != nil {
				return err
			}
			if stay == MaxOfUser || ofClient[client] == MaxOfClient {
				over = append(over, id)
				continue
			}
			stay++
			ofClient[client]++
		}
		return rows.Err()
	})
	return over, err
}
