package denylist

import (
	"context"
	"sync"
	"time"

	"signet/internal/store"
)

// How many live grants a user can have. A further one ends the oldest of the same
// client, or of all clients. Users have a few for each machine and session, so only a
// program that signs in again and again comes near. The first bound does not count for a client
// id that all installations of a program share: there it would bound the user's machines.
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
	subjects map[string]map[string]bool // hashes of their clients that have made one, by subject
}

// add notes a user, and with clientHash a client of whose grants the user may have too many.
func (e *excess) add(subject, clientHash string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	made, ok := e.subjects[subject]
	if !ok {
		if len(e.subjects) >= maxExcess {
			return
		}
		made = map[string]bool{}
		e.subjects[subject] = made
	}
	if clientHash != "" {
		made[clientHash] = true
	}
}

func (e *excess) take() map[string]map[string]bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	taken := e.subjects
	e.subjects = map[string]map[string]bool{}
	return taken
}

// restore notes again what was taken.
func (e *excess) restore(subjects map[string]map[string]bool) {
	for subject, made := range subjects {
		e.add(subject, "")
		for hash := range made {
			e.add(subject, hash)
		}
	}
}

// Trim ends grants of users that have made new ones since the last call and have too
// many now. [List.Run] calls it every second.
func (l *List) Trim(ctx context.Context) error {
	subjects := l.excess.take()
	for subject, made := range subjects {
		if err := l.trim(ctx, subject, made); err != nil {
			l.excess.restore(subjects)
			return err
		}
		delete(subjects, subject)
	}
	return nil
}

// trim reads before it writes, because hardly any user has too many.
func (l *List) trim(ctx context.Context, subject string, made map[string]bool) error {
	over, err := l.tooMany(ctx, subject, made)
	if err != nil {
		return err
	}
	_, err = l.revokeIDs(ctx, over)
	return err
}

// tooMany returns the ids of the grants of a user that have to end. made has the clients that
// can have too many.
func (l *List) tooMany(ctx context.Context, subject string, made map[string]bool) (over []any, err error) {
	err = l.store.Read(ctx, func(tx store.Tx) error {
		over = nil
		rows, err := tx.Query("SELECT id, client_hash FROM grants WHERE "+l.ofUser()+"ORDER BY created_at DESC, id DESC", subject)
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
			if stay == MaxOfUser || made[client] && ofClient[client] >= MaxOfClient {
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
