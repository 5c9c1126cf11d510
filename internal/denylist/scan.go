package denylist

import (
	"context"
	"time"

	"signet/internal/store"
)

const (
	// scanPage is how many rows one transaction of a pass through all grants reads, whether
	// they match or not: no statement walks through the whole table.
	scanPage = 2000

	// How many times as long as it works a pass rests after each page.
	restShort = 1
	restLong  = 3
)

// RevokeWhere ends the live grants of all users for which over returns true, and returns
// how many there were. Grants that were used lately come first, because their access tokens
// may be live. Then it reads all grants, and rests in between, so that requests hardly
// notice. Of a grant it passes ID, Subject, ClientHash, UserVersion and Created.
func (l *List) RevokeWhere(ctx context.Context, over func(Grant) bool) (n int, err error) {
	revoke := func(page []Grant) error {
		var ids []any
		for _, g := range page {
			if over(g) {
				ids = append(ids, g.ID)
			}
		}
		done, err := l.revokeIDs(ctx, ids)
		n += done
		return err
	}
	lately := l.store.Now().Add(-l.Keep() - l.options.Skew).UnixMilli()
	if err := l.scan(ctx, lately, restShort, revoke); err != nil {
		return n, err
	}
	err = l.scan(ctx, 0, restLong, revoke)
	return n, err
}

// Each calls do for the live grants of all users, in the order of their ids. It reads them
// page by page, and rests in between. Of a grant it passes what RevokeWhere does.
func (l *List) Each(ctx context.Context, do func(Grant)) error {
	return l.scan(ctx, 0, restShort, func(page []Grant) error {
		for _, g := range page {
			do(g)
		}
		return nil
	})
}

// scan passes the live grants that were used at since (milliseconds) or later to do, page by
// page. After each page it rests for so many times as long as it worked.
func (l *List) scan(ctx context.Context, since int64, rests time.Duration, do func([]Grant) error) error {
	for after := ""; ; {
		began := time.Now()
		var page []Grant
		var last string
		err := l.store.Read(ctx, func(tx store.Tx) (err error) {
			page, last, err = l.page(tx, since, after)
			return err
		})
		if err != nil || last == "" {
			return err
		}
		after = last
		if err := do(page); err != nil {
			return err
		}
		rest := time.NewTimer(rests * time.Since(began))
		select {
		case <-ctx.Done():
			rest.Stop()
			return ctx.Err()
		case <-rest.C:
		}
	}
}

// page reads the next rows after an id and returns those grants among them that are live and
// were used at since or later, and the id of the last row, which is "" after the last page.
func (l *List) page(tx store.Tx, since int64, after string) (grants []Grant, last string, err error) {
	err = tx.QueryRow("SELECT coalesce(max(id), '') FROM (SELECT id FROM grants WHERE id > $1 ORDER BY id LIMIT $2) AS page", after, scanPage).Scan(&last)
	if err != nil || last == "" {
		return nil, "", err
	}
	one, other := l.liveEpochs()
	rows, err := tx.Query(`SELECT id, sub, client_hash, user_version, created_at FROM grants
		WHERE id > $1 AND id <= $2 AND revoked_at = 0 AND expires_at > $3 AND epoch IN ($4, $5) AND rotated_at >= $6 ORDER BY id`,
		after, last, l.store.Now().Unix(), one, other, since)
	if err != nil {
		return nil, "", err
	}
	defer rows.Close()
	for rows.Next() {
		var g Grant
		if err := rows.Scan(&g.ID, &g.Subject, &g.ClientHash, &g.UserVersion, &g.Created); err != nil {
			return nil, "", err
		}
		grants = append(grants, g)
	}
	return grants, last, rows.Err()
}
