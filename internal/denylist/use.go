package denylist

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"signet/internal/store"
)

// verdict is the decision about one use.
type verdict struct {
	next  int64 // the generation to issue
	err   error // why none may be issued
	write write
}

// write is the change of the row that a verdict makes.
type write int

const (
	nothing write = iota
	insert        // insert the row, at generation 1
	advance       // advance the row to the next generation
	revoke        // revoke the row
	condemn       // the store was rolled back: end its epoch
)

// Use spends generation gen of g (generation 0 is its code) and returns the generation
// to issue: the next one, or within the replay window the successor again. epoch is the
// epoch that is sealed into the code or handle. When Use returns, the verdict is on
// disk; a token must not be signed earlier. Callers first check everything that can be
// checked without the store (seal, client, resource, scope, the handle's own expiry),
// because a failed request must change nothing.
func (l *List) Use(ctx context.Context, epoch string, g Grant, gen int64, now time.Time) (next int64, err error) {
	switch l.store.Epoch() {
	case epoch:
	case "": // the database could not be reached yet
		return 0, fmt.Errorf("%w: its epoch is not known", store.ErrUnavailable)
	default:
		return 0, ErrEpoch
	}
	if g.ID == "" || gen < 0 {
		return 0, fmt.Errorf("denylist: no grant %q has a generation %d", g.ID, gen)
	}
	seen := l.store.SeenLast() // first, so that what the transaction reads is never older
	var v verdict
	var at int64
	judge := func(tx store.Tx) error {
		row, found, state, err := load(tx, g)
		if err != nil {
			return err
		}
		at = max(now.UnixMilli(), row.RotatedAt) // the clock of another replica may be ahead
		switch {
		case state.epoch != epoch: // another replica has ended it a moment ago
			v = verdict{err: ErrEpoch}
		case state.lastSeen < seen:
			v = verdict{err: ErrRolledBack, write: condemn}
		default:
			v = decide(row, found, gen, at, l.window(g).Milliseconds())
		}
		if v.write == condemn && gen > 0 && !found && state.lastSeen >= seen && g.Expires <= state.prunedTo {
			v = verdict{err: ErrRevoked} // a replica whose clock is ahead has deleted the row
		}
		return l.apply(tx, v, g, epoch, at)
	}
	rotated := false
	if gen == 0 { // there is no row yet
		err = l.store.Write(ctx, judge)
	} else {
		rotated, err = l.store.Change(ctx, rotate(g, epoch, gen, now.UnixMilli(), seen), judge)
	}
	switch {
	case err != nil:
		return 0, err
	case rotated:
		v = verdict{next: gen + 1, write: advance}
	}
	l.note(g, gen, v, at)
	if v.write == condemn {
		l.look(ctx)
	}
	return v.next, v.err
}

// window is the replay window of a grant. That of its client never makes it longer: rows are
// kept for the list's.
func (l *List) window(g Grant) time.Duration {
	if g.Window == 0 {
		return l.options.Window
	}
	return max(0, min(g.Window, l.options.Window))
}

// rotate is the change of the usual verdict, advance. Its conditions hold only where [decide]
// and the checks before it come to that verdict for a row (whose rotated_at is before its end).
func rotate(g Grant, epoch string, gen, now, seen int64) store.Change {
	return store.Change{One: rotateOne, Many: rotateMany, Args: []any{now, g.ID, gen, epoch, seen}}
}

// A row of an older release, which has neither the user's version nor the epoch, is left to
// [verdict.apply], which writes them. The first array of rotateMany hides its length in a
// subquery: if the planner knew it, it would make a new plan for every group.
const (
	rotateOne = `UPDATE grants SET gen = gen + 1, rotated_at = CASE WHEN rotated_at > $1 THEN rotated_at ELSE $1 END
		WHERE id = $2 AND gen = $3 AND revoked_at = 0 AND expires_at * 1000 > $1 AND epoch <> ''
		AND EXISTS (SELECT 1 FROM meta WHERE epoch = $4 AND last_seen >= $5)`

	rotateMany = `UPDATE grants SET gen = grants.gen + 1, rotated_at = greatest(grants.rotated_at, used.now)
		FROM unnest((SELECT $1::bigint[]), $2::text[], $3::bigint[], $4::text[], $5::bigint[])
			WITH ORDINALITY AS used (now, id, gen, epoch, seen, number)
		WHERE grants.id = used.id AND grants.gen = used.gen AND revoked_at = 0 AND expires_at * 1000 > used.now AND grants.epoch <> ''
		AND EXISTS (SELECT 1 FROM meta WHERE epoch = used.epoch AND last_seen >= used.seen)
		RETURNING used.number`
)

// apply makes the change of a verdict, and what follows from it.
func (l *List) apply(tx store.Tx, v verdict, g Grant, epoch string, at int64) error {
	switch err := v.apply(tx, g, epoch, at); {
	case err != nil:
		return err
	case v.write == revoke:
		return l.forgetConsent(tx, g)
	case v.write == condemn:
		return l.store.FoundRollback(tx, epoch)
	}
	return nil
}

// look has the store take up the epoch that follows a rollback. If that fails, the store
// does so within a second.
func (l *List) look(ctx context.Context) {
	if err := l.store.Look(ctx); err != nil {
		l.log.Warn("the epoch after the rollback cannot be read yet", "err", err)
	}
}

// decide is the rule. row is the grant's row, or the sealed grant if no row was found;
// now and window are in milliseconds.
func decide(row Grant, found bool, gen, now, window int64) verdict {
	switch {
	case row.RevokedAt != 0 || expired(row.Expires, now):
		return verdict{err: ErrRevoked}
	case gen > row.Gen:
		// The store does not know of a generation that was issued. That is also so for
		// any handle without a row, because its code must have made one.
		return verdict{err: ErrRolledBack, write: condemn}
	case gen == row.Gen && !found:
		return verdict{next: 1, write: insert}
	case gen == row.Gen:
		return verdict{next: gen + 1, write: advance}
	case gen > 0 && gen == row.Gen-1 && window > 0 && now <= row.RotatedAt+window:
		// The answer to the last refresh may have been lost. A code has no second
		// chance, because its answer contains the first handle (OAuth 2.1 §4.1.3).
		return verdict{next: row.Gen}
	default:
		return verdict{err: ErrReused, write: revoke}
	}
}

// expired reports whether a grant that ends at expires (seconds) is over at now
// (milliseconds).
func expired(expires, now int64) bool { return now >= expires*1000 }

// storeState is what the store says of itself at the moment.
type storeState struct {
	epoch    string
	lastSeen int64
	prunedTo int64 // grants that expired before may have no row any longer; read only if there is no row
}

// load reads the columns that the rule needs. If there is no row, it returns the sealed
// grant's expiry. Until the transaction is over no other request can use the grant. If
// two transactions insert a missing row, the second one runs again.
func load(tx store.Tx, g Grant) (row Grant, found bool, state storeState, err error) {
	row = Grant{Expires: g.Expires}
	err = tx.QueryRow("SELECT gen, rotated_at, revoked_at, expires_at, (SELECT epoch FROM meta), (SELECT last_seen FROM meta) FROM grants WHERE id = $1 FOR UPDATE", g.ID).
		Scan(&row.Gen, &row.RotatedAt, &row.RevokedAt, &row.Expires, &state.epoch, &state.lastSeen)
	if errors.Is(err, sql.ErrNoRows) {
		err = tx.QueryRow("SELECT epoch, last_seen, pruned_to FROM meta").Scan(&state.epoch, &state.lastSeen, &state.prunedTo)
		return row, false, state, err
	}
	return row, true, state, err
}

func (v verdict) apply(tx store.Tx, g Grant, epoch string, now int64) (err error) {
	switch v.write {
	case insert:
		err = insertGrant(tx, g, epoch, 1, now, 0)
	case advance:
		// Version and epoch are news only if an older release made the row.
		_, err = tx.Exec("UPDATE grants SET gen = $1, rotated_at = $2, user_version = $3, epoch = $4 WHERE id = $5",
			v.next, now, g.UserVersion, epochTag(epoch), g.ID)
	case revoke:
		_, err = tx.Exec("UPDATE grants SET revoked_at = $1 WHERE id = $2", now, g.ID)
	}
	return err
}

// Since the consent the user may have ended another grant of the client, and with it the
// consent: then it is not remembered.
// The bound stands first: SQLite takes the first condition for the place where it begins
// to read the index, and would else read all revocations.
var insertRow = "INSERT INTO grants (" + insertColumns + `, epoch) VALUES ($1, $2, $3, $4, $5, $6, $7,
		CASE WHEN EXISTS (SELECT 1 FROM grants WHERE revoked_at >= $15 AND revoked_at > 0 AND sub = $5 AND client_hash = $6) THEN ` + forgotten("$8") + ` ELSE $8 END,
		$9, $10, $11, $12, $13, $14)`

func insertGrant(tx store.Tx, g Grant, epoch string, gen, rotatedAt, revokedAt int64) error {
	_, err := tx.Exec(insertRow,
		g.ID, gen, rotatedAt, revokedAt, g.Subject, g.ClientHash, g.ClientName, g.ConsentHash, g.Scope, g.Resource, g.Created, g.Expires, g.UserVersion, epochTag(epoch), g.Created*1000)
	return err
}

// boundedClient is the hash of g's client, or "" if the number of its grants has no bound.
func boundedClient(g Grant) string {
	if g.Shared {
		return ""
	}
	return g.ClientHash
}

// note counts and logs a verdict that is on disk.
func (l *List) note(g Grant, gen int64, v verdict, now int64) {
	switch v.err {
	case nil:
		switch v.write {
		case nothing:
			l.replayed.Add(1)
			l.replays.add(g.ID, 1)
		case insert:
			l.excess.add(g.Subject, boundedClient(g))
		}
	case ErrReused:
		l.reused.Add(1)
		l.revoked.add(g.ID, now)
	case ErrRolledBack:
		l.rolledBack.Add(1)
		l.log.Error("the store was rolled back: a handle is newer than its grant's row, or the store's time went back", "gid", g.ID, "generation", gen)
	}
}
