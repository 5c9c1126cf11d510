// Package denylist remembers what was spent and what was revoked: one row per
// grant, and the ids of login transactions, assertions and ended sessions.
//
// A grant (one user, one client, one consent) is a family. Its authorization code
// is generation 0, each refresh handle the next, and the row holds the highest
// generation issued. That one number is the single use of codes (OAuth 2.1
// §4.1.3), the rotation of refresh handles and the detection of their reuse
// (§4.3.1). The family never forks: whoever repeats the last refresh within the
// replay window is given the same successor again, never a sibling.
//
// A row lives as long as anything it speaks of could still be accepted, and no
// longer. Revoked grants are also kept in memory, so that access tokens of a
// grant can be refused without asking the store.
package denylist

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"signet/internal/store"
)

// The verdicts. Any other error is the store's ([store.ErrUnavailable]) and no
// verdict at all.
var (
	ErrEpoch      = errors.New("issued by another store")
	ErrRevoked    = errors.New("grant revoked or expired")
	ErrRolledBack = errors.New("a generation that the store has not seen: the store was rolled back")
	ErrReused     = errors.New("already used: the grant is revoked now") // of several calls exactly one gets it, for the audit
	ErrSpent      = errors.New("already spent")
	ErrUnknown    = errors.New("no such grant")
)

// Options are the store and the times that the rule depends on.
type Options struct {
	Store  *store.Store
	Window time.Duration // the replay window of the last refresh; 0 is strict
	Skew   time.Duration // by which clocks may differ: rows are kept that long after their expiry, plus Window
	Keep   time.Duration // how long access tokens of a revoked grant may still live: longest lifetime plus leeway
	Log    *slog.Logger  // nil logs nothing
}

// List is the denylist. It is safe for concurrent use.
type List struct {
	store   *store.Store
	o       Options
	log     *slog.Logger
	revoked revokedSet
	replays replayCounts
	polled  atomic.Int64 // when the last poll that succeeded began, Unix milliseconds; 0: none did
	filled  atomic.Bool

	reused, replayed, rolledBack, pruned atomic.Int64
}

// Grant is one row: what the store remembers of a grant.
type Grant struct {
	ID          string // sorts by the time until which it must be remembered, which is not before Expires + Skew + Window
	Subject     string
	ClientHash  string
	ClientName  string
	ConsentHash string
	Scope       string
	Resource    string
	Created     int64 // Unix seconds
	Expires     int64 // Unix seconds; no rotation moves it
	Gen         int64 // highest generation issued; 0 if the grant was revoked before its code was used
	RotatedAt   int64 // Unix milliseconds
	RevokedAt   int64 // Unix milliseconds, 0 while it is not

	// Replays counts how often the last refresh was repeated within the window, over
	// the grant's life. It is written behind the requests: it lags by some seconds,
	// and a crash loses those. Nothing is decided by it.
	Replays int64
}

// Stats count since the start what an operator should see.
type Stats struct {
	Reused     int64 // grants revoked because something was used again
	Replayed   int64 // refreshes repeated within the window, and answered again
	RolledBack int64 // handles that prove that the store was rolled back
	Pruned     int64 // rows forgotten after their time
	Revoked    int   // grants in memory
}

// New returns the list after filling the set of revoked grants. A store that is
// waiting for its database is no error: until [List.Run] has filled the set, every
// grant counts as revoked.
func New(ctx context.Context, o Options) (*List, error) {
	if o.Store == nil || o.Window < 0 || o.Skew < 0 || o.Keep < 0 {
		return nil, errors.New("denylist: a store is needed, and durations of 0 or more")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &List{store: o.Store, o: o, log: o.Log, revoked: revokedSet{at: map[string]int64{}}, replays: replayCounts{n: map[string]int64{}}}
	if err := l.poll(ctx, o.Store.Now()); err != nil && o.Store.Epoch() != "" {
		return nil, fmt.Errorf("reading the revoked grants: %w", err)
	}
	return l, nil
}

// Stats returns the counters.
func (l *List) Stats() Stats {
	return Stats{Reused: l.reused.Load(), Replayed: l.replayed.Load(), RolledBack: l.rolledBack.Load(), Pruned: l.pruned.Load(), Revoked: l.revoked.len()}
}

// A grant is inserted without the count of its replays, which begins at 0.
const (
	insertColumns = "id, gen, rotated_at, revoked_at, sub, client_hash, client_name, consent_hash, scope, resource, created_at, expires_at"
	grantColumns  = insertColumns + ", replays"
)

type scanner interface{ Scan(...any) error }

func scanGrant(row scanner) (g Grant, err error) {
	err = row.Scan(&g.ID, &g.Gen, &g.RotatedAt, &g.RevokedAt, &g.Subject, &g.ClientHash, &g.ClientName, &g.ConsentHash,
		&g.Scope, &g.Resource, &g.Created, &g.Expires, &g.Replays)
	return g, err
}

// Find returns a grant, for introspection: with nil if it is live, with
// [ErrRevoked] if it was revoked or has expired. One that never came to a token,
// or that was pruned, is [ErrUnknown].
func (l *List) Find(ctx context.Context, id string) (g Grant, err error) {
	err = l.store.Read(ctx, func(tx store.Tx) error {
		g, err = scanGrant(tx.QueryRow("SELECT "+grantColumns+" FROM grants WHERE id = $1", id))
		if errors.Is(err, sql.ErrNoRows) {
			return ErrUnknown
		}
		return err
	})
	if err == nil && (g.RevokedAt != 0 || expired(g.Expires, l.store.Now().UnixMilli())) {
		err = ErrRevoked
	}
	return g, err
}

// Grants lists a user's live grants, newest first.
func (l *List) Grants(ctx context.Context, subject string, now time.Time) ([]Grant, error) {
	return l.list(ctx, "SELECT "+grantColumns+` FROM grants
		WHERE sub = $1 AND revoked_at = 0 AND expires_at > $2 ORDER BY created_at DESC, id DESC`, subject, now.Unix())
}

// All lists the live grants of all users in the order of their ids, which is that
// of their ends, a page of at most limit at a time: the first page comes after "",
// the next one after the last id of the one before, and an empty one is the end.
func (l *List) All(ctx context.Context, after string, limit int, now time.Time) ([]Grant, error) {
	if limit < 1 {
		return nil, fmt.Errorf("denylist: a page of %d grants", limit)
	}
	return l.list(ctx, "SELECT "+grantColumns+` FROM grants
		WHERE id > $1 AND revoked_at = 0 AND expires_at > $2 ORDER BY id LIMIT $3`, after, now.Unix(), limit)
}

func (l *List) list(ctx context.Context, query string, args ...any) (grants []Grant, err error) {
	err = l.store.Read(ctx, func(tx store.Tx) error {
		grants = nil
		rows, err := tx.Query(query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			g, err := scanGrant(rows)
			if err != nil {
				return err
			}
			grants = append(grants, g)
		}
		return rows.Err()
	})
	return grants, err
}
