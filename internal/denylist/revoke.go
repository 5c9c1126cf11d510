package denylist

import (
	"context"
	"errors"
	"fmt"
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
		return forgetConsent(tx, g)
	})
	if err == nil {
		l.revoked.add(g.ID, at)
	}
	return err
}

// forgetConsent clears the consent in the other live grants of g's user and client.
// There are few of them, see [List.Trim].
func forgetConsent(tx store.Tx, g Grant) error {
	_, err := tx.Exec(`UPDATE grants SET consent_hash = '' WHERE sub = $1 AND revoked_at = 0 AND client_hash = $2 AND id <> $3 AND consent_hash <> ''`,
		g.Subject, g.ClientHash, g.ID)
	return err
}

// RevokeAll ends all live grants of a user and returns how many there were. It works in
// small transactions between other writes; transactions that were committed before an
// error stay committed. A code that was not used yet has no row and is not revoked: it
// can be used for the rest of its minute, unless the user's version changes too.
func (l *List) RevokeAll(ctx context.Context, subject string, now time.Time) (n int, err error) {
	return l.revokeBatches(ctx, now, func(after string, at int64) (string, []any) {
		return `UPDATE grants SET revoked_at = $1 WHERE id IN
			(SELECT id FROM grants WHERE sub = $2 AND id > $3 AND revoked_at = 0 AND expires_at > $4 ORDER BY id LIMIT $5)
			RETURNING id`, []any{at, subject, after, now.Unix(), revokeBatch}
	})
}

// RevokeClient is like RevokeAll for the grants to one client.
func (l *List) RevokeClient(ctx context.Context, subject, clientHash string, now time.Time) (n int, err error) {
	return l.revokeBatches(ctx, now, func(after string, at int64) (string, []any) {
		return `UPDATE grants SET revoked_at = $1 WHERE id IN
			(SELECT id FROM grants WHERE sub = $2 AND id > $3 AND revoked_at = 0 AND expires_at > $4 AND client_hash = $5 ORDER BY id LIMIT $6)
			RETURNING id`, []any{at, subject, after, now.Unix(), clientHash, revokeBatch}
	})
}

// RevokeOthers is like RevokeAll, but spares the grants that were made for the user's
// version with that [VersionHash].
func (l *List) RevokeOthers(ctx context.Context, subject, version string, now time.Time) (n int, err error) {
	return l.revokeBatches(ctx, now, func(after string, at int64) (string, []any) {
		return `UPDATE grants SET revoked_at = $1 WHERE id IN
			(SELECT id FROM grants WHERE sub = $2 AND id > $3 AND revoked_at = 0 AND expires_at > $4 AND user_version <> $5 ORDER BY id LIMIT $6)
			RETURNING id`, []any{at, subject, after, now.Unix(), version, revokeBatch}
	})
}

// RevokeWhere ends the live grants of all users for which over returns true, and returns
// how many there were. Grants that were used lately come first, because their access tokens
// may be live. Then it reads all grants, and rests in between, so that requests hardly
// notice. Of a grant it passes ID, Subject, ClientHash, UserVersion and Created.
func (l *List) RevokeWhere(ctx context.Context, over func(Grant) bool) (n int, err error) {
	lately := l.store.Now().Add(-l.Keep() - l.options.Skew).UnixMilli()
	n, _ = l.revokeWhere(ctx, lately, 0, over) // if there are too many grants for such a search, the pass below finds them
	more, err := l.revokeWhere(ctx, 0, scanRest, over)
	return n + more, err
}

// revokeWhere is one pass through the grants that were used at since (milliseconds) or later.
// After each page it rests for so many times as long as it worked.
func (l *List) revokeWhere(ctx context.Context, since int64, rests time.Duration, over func(Grant) bool) (n int, err error) {
	for after := ""; ; {
		began := time.Now()
		page, err := l.usedSince(ctx, since, after, scanPage)
		if err != nil || len(page) == 0 {
			return n, err
		}
		after = page[len(page)-1].ID
		var ids []any
		for _, g := range page {
			if over(g) {
				ids = append(ids, g.ID)
			}
		}
		for len(ids) > 0 {
			batch := ids[:min(len(ids), revokeBatch)]
			ids = ids[len(batch):]
			done, err := l.revokeIDs(ctx, batch)
			n += done
			if err != nil {
				return n, err
			}
		}
		rest := time.NewTimer(rests * time.Since(began))
		select {
		case <-ctx.Done():
			rest.Stop()
			return n, ctx.Err()
		case <-rest.C:
		}
	}
}

const (
	// revokeBatch is the number of grants that one transaction revokes, see pruneBatch.
	revokeBatch = 200

	scanPage = 500 // grants that RevokeWhere reads at a time
	scanRest = 3   // how much longer it rests than it works
)

func (l *List) revokeIDs(ctx context.Context, ids []any) (n int, err error) {
	places := make([]string, len(ids))
	for i := range places {
		places[i] = fmt.Sprintf("$%d", i+2)
	}
	at := l.store.Now().UnixMilli()
	revoked, err := l.change(ctx, "UPDATE grants SET revoked_at = $1 WHERE revoked_at = 0 AND id IN ("+strings.Join(places, ", ")+") RETURNING id",
		append([]any{at}, ids...)...)
	for _, id := range revoked {
		l.revoked.add(id, at)
	}
	return len(revoked), err
}

// revokeBatches revokes batch after batch. statement returns how to revoke the next one,
// whose ids come after another, at a time: other processes look for recent revocations,
// so each batch has its own time.
func (l *List) revokeBatches(ctx context.Context, now time.Time, statement func(after string, at int64) (string, []any)) (n int, err error) {
	began := time.Now()
	var at int64
	ids, err := l.batches(ctx, func(after string) (string, []any) {
		at = now.Add(time.Since(began)).UnixMilli()
		return statement(after, at)
	})
	for _, id := range ids {
		l.revoked.add(id, at) // the time of the last batch: too late is safer than too early
	}
	return len(ids), err
}

// batches runs statements that each change at most revokeBatch grants and return their
// ids, until one changes fewer. It returns the ids of all, also after an error.
func (l *List) batches(ctx context.Context, statement func(after string) (string, []any)) (all []string, err error) {
	for after := ""; ; {
		query, args := statement(after)
		ids, err := l.change(ctx, query, args...)
		if err != nil {
			return all, err
		}
		all = append(all, ids...)
		for _, id := range ids {
			after = max(after, id)
		}
		if len(ids) < revokeBatch {
			return all, nil
		}
	}
}

// change runs one statement that returns ids.
func (l *List) change(ctx context.Context, query string, args ...any) (ids []string, err error) {
	err = l.store.Write(ctx, func(tx store.Tx) error {
		ids = nil
		rows, err := tx.Query(query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				return err
			}
			ids = append(ids, id)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	return ids, nil
}
