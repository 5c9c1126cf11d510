package denylist

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"signet/internal/store"
)

// BlockedClient is a client that the operator has blocked.
type BlockedClient struct {
	Hash string // the ClientHash of its grants
	ID   string // empty: not known
	Name string
	At   time.Time
}

// Block blocks a client, and ends the tokens that it got for itself. It may be repeated. The
// caller ends the client's grants, as every server does that learns of it.
func (l *List) Block(ctx context.Context, c BlockedClient) error {
	return l.endClient(ctx, c.Hash, func(tx store.Tx) error {
		_, err := tx.Exec("INSERT INTO blocked_clients (client_hash, client_id, client_name, blocked_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
			c.Hash, c.ID, c.Name, c.At.Unix())
		return err
	})
}

// Unblock lets a client work again, with new grants. The error is [ErrUnknown] if it is not
// blocked.
func (l *List) Unblock(ctx context.Context, hash string) error {
	var n int64
	err := l.store.Write(ctx, func(tx store.Tx) error {
		res, err := tx.Exec("DELETE FROM blocked_clients WHERE client_hash = $1", hash)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	switch {
	case err != nil:
		return err
	case n == 0:
		return ErrUnknown
	}
	return l.poll(ctx)
}

// BlockedClients returns the blocked clients, the latest first.
func (l *List) BlockedClients(ctx context.Context) (all []BlockedClient, err error) {
	err = l.store.Read(ctx, func(tx store.Tx) error {
		all = nil
		rows, err := tx.Query("SELECT client_hash, client_id, client_name, blocked_at FROM blocked_clients ORDER BY blocked_at DESC, client_hash")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var c BlockedClient
			var at int64
			if err := rows.Scan(&c.Hash, &c.ID, &c.Name, &at); err != nil {
				return err
			}
			c.At = time.Unix(at, 0)
			all = append(all, c)
		}
		return rows.Err()
	})
	return all, err
}

// NameOfClient returns the name of the client of a hash, as the latest of its grants has it. The
// error is [ErrUnknown] if it has none. It reads all grants.
func (l *List) NameOfClient(ctx context.Context, hash string) (name string, err error) {
	err = l.store.Read(ctx, func(tx store.Tx) error {
		return tx.QueryRow("SELECT client_name FROM grants WHERE client_hash = $1 AND sub <> '' ORDER BY id DESC LIMIT 1", hash).Scan(&name)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return "", ErrUnknown
	}
	return name, err
}

// Blocked returns the hashes of the blocked clients, from memory: a block by another process
// is there within a second or two. The caller must not change the map.
func (l *List) Blocked() map[string]bool {
	if blocked := l.blocked.Load(); blocked != nil {
		return *blocked
	}
	return nil
}

// readBlocked returns what Blocked has.
func readBlocked(tx store.Tx) (map[string]bool, error) {
	rows, err := tx.Query("SELECT client_hash FROM blocked_clients")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	blocked := map[string]bool{}
	for rows.Next() {
		var hash string
		if err := rows.Scan(&hash); err != nil {
			return nil, err
		}
		blocked[hash] = true
	}
	return blocked, rows.Err()
}
