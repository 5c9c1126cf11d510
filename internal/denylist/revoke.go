package denylist

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"signet/internal/store"
)

// Revoke ends a grant, even if its code was not used yet, and forgets the user's
// consent for the client: the next authorization request asks again, also if other
// grants of this user and client go on. It may be repeated.
func (l *List) Revoke(ctx context.Context, g Grant, now time.Time) error {
	if g.ID == "" {
		return errors.New("denylist: revoking a grant without an id")
	}
	at := now.UnixMilli()
	epoch := l.store.Epoch()
	err := l.store.Write(ctx, func(tx store.Tx) error {
		row, found, _, err := load(tx, g)
		switch {
		case err != nil:
			return err
		case !found:
			err = insertGrant(tx, g, epoch, 0, 0, at)
		case row.RevokedAt == 0:
			err = verdict{write: revoke}.apply(tx, g, epoch, at)
		}
		if err != nil {
			return err
		}
		return l.forgetConsent(tx, g)
	})
	if err == nil {
		l.revoked.add(g.ID, at)
	}
	return err
}

// forgetConsent clears the consent in the other live grants of g's user and client.
// There are few of them, see [List.Trim].
func (l *List) forgetConsent(tx store.Tx, g Grant) error {
	_, err := tx.Exec("UPDATE grants SET consent_hash = "+forgotten("consent_hash")+" WHERE "+l.ofUser()+"AND client_hash = $2 AND id <> $3 AND consent_hash NOT IN ('', '"+ConsentEnds+"', '"+ConsentForgotten+"')",
		g.Subject, g.ClientHash, g.ID)
	return err
}

// RevokeAll ends all live grants of a user and returns how many there were. It works in
// small transactions between other writes; transactions that were committed before an
// error stay committed. A code that was not used yet has no row and is not revoked: it
// can be used for the rest of its minute, unless the user's version changes too.
func (l *List) RevokeAll(ctx context.Context, subject string, now time.Time) (n int, err error) {
	return l.revokeOf(ctx, subject, now, "TRUE")
}

// RevokeClient is like RevokeAll for the grants to one client.
func (l *List) RevokeClient(ctx context.Context, subject, clientHash string, now time.Time) (n int, err error) {
	return l.revokeOf(ctx, subject, now, "client_hash = $5", clientHash)
}

// RevokeOthers is like RevokeAll, but spares the grants that were made for the user's
// version with that [VersionHash].
func (l *List) RevokeOthers(ctx context.Context, subject, version string, now time.Time) (n int, err error) {
	return l.revokeOf(ctx, subject, now, "user_version <> $5", version)
}

// revokeBatch is the number of grants that one transaction revokes, see pruneBatch.
const revokeBatch = 200

// revokeOf ends the live grants of a user that meet a condition, whose arguments begin
// with $5. Other processes look for recent revocations, so each batch has its own time.
func (l *List) revokeOf(ctx context.Context, subject string, now time.Time, condition string, args ...any) (n int, err error) {
	query := `UPDATE grants SET revoked_at = $2 WHERE id IN
		(SELECT id FROM grants WHERE ` + l.ofUser() + `AND expires_at > $3 AND ` + condition + ` ORDER BY id LIMIT $4)
		RETURNING id, revoked_at`
	for began := time.Now(); ; {
		at := now.Add(time.Since(began)).UnixMilli()
		done, err := l.revoke(ctx, query, append([]any{subject, at, now.Unix(), revokeBatch}, args...)...)
		n += done
		if err != nil || done < revokeBatch {
			return n, err
		}
	}
}

// revokeIDs ends grants by their ids, and returns how many were live.
func (l *List) revokeIDs(ctx context.Context, ids []any) (n int, err error) {
	for batch := range slices.Chunk(ids, revokeBatch) {
		query := "UPDATE grants SET revoked_at = $1 WHERE revoked_at = 0 AND id IN (" + places(2, len(batch)) + ") RETURNING id, revoked_at"
		done, err := l.revoke(ctx, query, append([]any{l.store.Now().UnixMilli()}, batch...)...)
		n += done
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// places returns n placeholders, from $first.
func places(first, n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("$%d", first+i)
	}
	return strings.Join(list, ", ")
}

// revoke runs one statement that ends grants and returns their ids and the times of their
// revocation, takes them into memory, and returns how many there were.
func (l *List) revoke(ctx context.Context, query string, args ...any) (n int, err error) {
	ended := map[string]int64{}
	err = l.store.Write(ctx, func(tx store.Tx) error {
		clear(ended)
		rows, err := tx.Query(query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			var at int64
			if err := rows.Scan(&id, &at); err != nil {
				return err
			}
			ended[id] = at
		}
		return rows.Err()
	})
	if err != nil {
		return 0, err
	}
	for id, at := range ended {
		l.revoked.add(id, at)
	}
	return len(ended), nil
}
