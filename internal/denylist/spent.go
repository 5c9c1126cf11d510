package denylist

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"signet/internal/store"
)

// longID is the longest id that is stored as it is. Ids of assertions come from other
// issuers (RFC 7523 §3) and may have any length.
const longID = 64

func spentKey(id string) string {
	if len(id) <= longID && utf8.ValidString(id) && !strings.ContainsRune(id, 0) { // PostgreSQL's text is UTF-8 without NUL
		return id
	}
	h := sha256.Sum256([]byte(id))
	return base64.RawURLEncoding.EncodeToString(h[:]) + ":sha256 of a long identifier" // longer than longID, so no short id equals it
}

// SpendID remembers the id of an assertion, an ended session or an answered login until exp. Of
// several calls with the same kind and id exactly one returns nil; the others return [ErrSpent].
func (l *List) SpendID(ctx context.Context, kind, id string, exp time.Time) error {
	return spend(ctx, l.store.Write, kind, id, exp)
}

// SpendUnsynced is SpendID for what may be presented again after a power loss, see
// [store.Store.WriteUnsynced].
func (l *List) SpendUnsynced(ctx context.Context, kind, id string, exp time.Time) error {
	return spend(ctx, l.store.WriteUnsynced, kind, id, exp)
}

func spend(ctx context.Context, write func(context.Context, func(store.Tx) error) error, kind, id string, exp time.Time) error {
	var n int64
	err := write(ctx, func(tx store.Tx) error {
		res, err := tx.Exec("INSERT INTO spent (kind, id, expires_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", kind, spentKey(id), ceilSeconds(exp))
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	if err == nil && n == 0 {
		err = ErrSpent
	}
	return err
}

// ceilSeconds rounds up: an id is rather kept a moment too long.
func ceilSeconds(t time.Time) int64 { return t.Add(time.Second - 1).Unix() }

// Spent reports whether SpendID was called for kind and id.
func (l *List) Spent(ctx context.Context, kind, id string) (spent bool, err error) {
	err = l.store.Read(ctx, func(tx store.Tx) error {
		var one int
		err := tx.QueryRow("SELECT 1 FROM spent WHERE kind = $1 AND id = $2", kind, spentKey(id)).Scan(&one)
		spent = err == nil
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	return spent, err
}

// Once reports whether the id of a client assertion is presented for the first time, and
// remembers it until its end by the wall clock. The store's clock may be ahead of that one,
// but not behind.
func (l *List) Once(ctx context.Context, id string, until time.Time) (fresh bool, err error) {
	err = l.SpendID(ctx, "assertion", id, l.store.Now().Add(time.Until(until)+time.Second))
	if errors.Is(err, ErrSpent) {
		return false, nil
	}
	return err == nil, err
}
