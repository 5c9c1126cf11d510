// Package denylist remembers which grants were used and revoked, with one row per grant,
// and the ids of login transactions, assertions and ended sessions that were spent.
//
// A grant (one user, one client, one consent) is a family. Its authorization code is
// generation 0, each refresh handle is the next generation, and the row has the highest
// generation issued. From that one number follow the single use of codes (OAuth 2.1
// §4.1.3), the rotation of refresh handles and the detection of their reuse (§4.3.1).
// The family never forks: a client that repeats the last refresh within the replay
// window gets the same successor again, never a sibling.
//
// A row is kept as long as any code or token of its grant could still be accepted, and
// no longer. Revoked grants are also kept in memory, so that access tokens of a grant
// can be refused without asking the store.
package denylist

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"signet/internal/store"
)

// The verdicts. Any other error is the store's ([store.ErrUnavailable]), which is not a
// verdict.
var (
	ErrEpoch      = errors.New("issued by another store")
	ErrRevoked    = errors.New("grant revoked or expired")
	ErrRolledBack = errors.New("a generation that the store has not seen: the store was rolled back")
	ErrReused     = errors.New("already used: the grant is revoked now") // of several calls exactly one returns it, for the audit
	ErrSpent      = errors.New("already spent")
	ErrUnknown    = errors.New("no such grant")
)

// Options are the store, and the durations that the rule depends on.
type Options struct {
	Store  *store.Store
	Window time.Duration // the replay window of the last refresh; with 0 no refresh can be repeated
	Skew   time.Duration // the most by which clocks differ: rows are kept for Skew and Window after their expiry
	Keep   time.Duration // the longest lifetime of an access token that this process issues, plus leeway; see [List.Keep]
	Log    *slog.Logger  // nil logs nothing
}

// List is the denylist. It is safe for concurrent use.
type List struct {
	store   *store.Store
	options Options
	log     *slog.Logger
	revoked revokedSet
	replays replayCounts
	polled  atomic.Int64 // start of the last successful poll, Unix milliseconds by [store.Store.Sure]; 0: none succeeded
	filled  atomic.Bool  // revoked was filled from the store
	excess  excess

	keep      atomic.Int64                     // see Keep
	blocked   atomic.Pointer[map[string]bool]  // see Blocked; nil: not read yet
	ends      atomic.Pointer[map[string]int64] // see ClientGrant; nil: not read yet
	rowsEpoch atomic.Pointer[string]           // the epoch of rows that have none; nil: not read yet

	reused, replayed, rolledBack, pruned atomic.Int64
}

// Grant is the row of one grant.
type Grant struct {
	ID          string // sorts by the time until which the row must be kept, which is at least Expires + Skew + Window
	Subject     string
	ClientHash  string
	ClientName  string
	ConsentHash string
	Scope       string
	Resource    string
	Created     int64 // when the user consented, Unix seconds
	Expires     int64 // Unix seconds; a rotation does not change it
	Gen         int64 // highest generation issued; 0 if the grant was revoked before its code was used
	RotatedAt   int64 // Unix milliseconds
	RevokedAt   int64 // Unix milliseconds, 0 while the grant is not revoked

	// UserVersion is the [VersionHash] of the user for whom the grant was made. It is empty
	// if the user has no version, and in a row that an older release made, until the
	// grant's next refresh.
	UserVersion string

	// Window is a shorter replay window than the list's, for its client; 0: the list's, and
	// negative: none. It is not stored.
	Window time.Duration

	// Shared says that all installations of a program use the client's id, so that the grants of
	// one user to it are not bounded as those of one client. It is not stored.
	Shared bool

	// Replays counts how often the last refresh was repeated within the window, over the
	// life of the grant. It is written some seconds after the requests, and a crash loses
	// these seconds. Nothing is decided by it.
	Replays int64
}

// Stats are counts for the operator, since the start.
type Stats struct {
	Reused     int64 // grants revoked because a code or handle was used again
	Replayed   int64 // refreshes repeated within the window, and answered again
	RolledBack int64 // handles that prove that the store was rolled back
	Pruned     int64 // rows deleted after their time
	Revoked    int   // revoked grants in memory, now
}

// New returns the list after filling the set of revoked grants. A store that is unavailable
// is not an error: until [List.Run] has filled the set, every grant counts as revoked.
func New(ctx context.Context, o Options) (*List, error) {
	if o.Store == nil || o.Window < 0 || o.Skew < 0 || o.Keep < 0 {
		return nil, errors.New("denylist: a store is needed, and durations of 0 or more")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &List{excess: excess{subjects: map[string]map[string]bool{}}, store: o.Store, options: o, log: o.Log, revoked: revokedSet{at: map[string]int64{}}, replays: replayCounts{counts: map[string]int64{}}}
	if err := l.poll(ctx); err != nil && (!errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrDamaged)) {
		return nil, fmt.Errorf("reading the revoked grants: %w", err)
	}
	return l, nil
}

// Stats returns the counters.
func (l *List) Stats() Stats {
	return Stats{Reused: l.reused.Load(), Replayed: l.replayed.Load(), RolledBack: l.rolledBack.Load(), Pruned: l.pruned.Load(), Revoked: l.revoked.len()}
}

// A grant is inserted without its count of replays, which begins at 0. Its epoch is a
// condition of queries and no field.
const (
	insertColumns = "id, gen, rotated_at, revoked_at, sub, client_hash, client_name, consent_hash, scope, resource, created_at, expires_at, user_version"
	grantColumns  = insertColumns + ", replays"
)

// VersionHash returns what a grant's row has of its user's version: no version, no hash.
func VersionHash(version string) string {
	if version == "" {
		return ""
	}
	return shortHash("user version", version, 6)
}

// epochTag is what a grant's row has of the epoch under which it was made.
func epochTag(epoch string) string { return shortHash("epoch", epoch, 3) }

func shortHash(kind, text string, size int) string {
	h := sha256.Sum256([]byte(kind + " " + text))
	return base64.RawURLEncoding.EncodeToString(h[:size])
}

// liveEpochs returns the two values that the column epoch of a live grant may have. A
// row of an older release has none, and is of the epoch that meta says. A row of
// another epoch is dead: its code and handle are no longer accepted.
func (l *List) liveEpochs() (one, other string) {
	epoch := l.store.Epoch()
	tag := epochTag(epoch)
	if rows := l.rowsEpoch.Load(); rows != nil && (*rows == epoch || *rows == "") {
		return "", tag
	}
	return tag, tag
}

type scanner interface{ Scan(...any) error }

// scanGrant scans grantColumns, and the columns after them into more.
func scanGrant(row scanner, more ...any) (g Grant, err error) {
	err = row.Scan(append([]any{&g.ID, &g.Gen, &g.RotatedAt, &g.RevokedAt, &g.Subject, &g.ClientHash, &g.ClientName, &g.ConsentHash,
		&g.Scope, &g.Resource, &g.Created, &g.Expires, &g.UserVersion, &g.Replays}, more...)...)
	return g, err
}

// Find returns a grant, for introspection. The error is nil if the grant is live, and
// [ErrRevoked] if it was revoked, has expired, or was made under another epoch. For a
// grant whose code was never used, or that was pruned, it is [ErrUnknown].
func (l *List) Find(ctx context.Context, id string) (g Grant, err error) {
	current := false
	one, other := l.liveEpochs()
	err = l.store.Read(ctx, func(tx store.Tx) error {
		g, err = scanGrant(tx.QueryRow("SELECT "+grantColumns+", epoch IN ($1, $2) FROM grants WHERE id = $3", one, other, id), &current)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrUnknown
		}
		return err
	})
	if err == nil && (!current || g.RevokedAt != 0 || expired(g.Expires, l.store.Now().UnixMilli())) {
		err = ErrRevoked
	}
	return g, err
}

// ofUser is the condition of a grant of the user $1 that is not revoked. It names what the
// index contains.
func (l *List) ofUser() string { return l.store.OfSubject() + " AND revoked_at = 0 " }

// live is the condition of a live grant of the user $1.
func (l *List) live() string { return l.ofUser() + "AND expires_at > $2 AND epoch IN ($3, $4) " }

// Grants lists a user's live grants, newest first. There are at most [MaxOfUser] of
// them, except for a moment.
func (l *List) Grants(ctx context.Context, subject string, now time.Time) ([]Grant, error) {
	one, other := l.liveEpochs()
	grants, err := l.list(ctx, "SELECT "+grantColumns+" FROM grants WHERE "+l.live()+"ORDER BY created_at DESC, id DESC LIMIT $5", subject, now.Unix(), one, other, MaxOfUser)
	if len(grants) == MaxOfUser {
		l.excess.add(subject, "")
	}
	return grants, err
}

// All lists the live grants of one user, or of all users if subject is empty, in pages
// of at most limit grants. They are in the order of their ids, which is the order in
// which they expire. after is the last id of the page before, or "" for the first page.
// An empty page is the end.
func (l *List) All(ctx context.Context, subject, after string, limit int, now time.Time) ([]Grant, error) {
	if limit < 1 {
		return nil, fmt.Errorf("denylist: a page of %d grants", limit)
	}
	one, other := l.liveEpochs()
	if subject != "" {
		return l.list(ctx, "SELECT "+grantColumns+" FROM grants WHERE "+l.live()+"AND id > $5 ORDER BY id LIMIT $6", subject, now.Unix(), one, other, after, limit)
	}
	return l.list(ctx, "SELECT "+grantColumns+` FROM grants
		WHERE id > $1 AND revoked_at = 0 AND expires_at > $2 AND epoch IN ($3, $4) ORDER BY id LIMIT $5`, after, now.Unix(), one, other, limit)
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
