package denylist

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"signet/internal/background"
	"signet/internal/store"
)

const (
	pollEvery  = time.Second
	pruneEvery = time.Minute

	// overlap is how long after its own time a revocation may be committed: it waits in
	// a queue, and for other processes.
	overlap = 15 * time.Second
)

// revokedSet has the recently revoked grants.
type revokedSet struct {
	mu sync.RWMutex
	at map[string]int64 // time of the revocation, in Unix milliseconds, by grant
}

func (s *revokedSet) add(id string, at int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.at[id]; !ok || at > old {
		s.at[id] = at
	}
}

// since returns the grants that were revoked at from or later.
func (s *revokedSet) since(from int64) map[string]bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := map[string]bool{}
	for id, at := range s.at {
		if at >= from {
			list[id] = true
		}
	}
	return list
}

func (s *revokedSet) has(id string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.at[id]
	return ok
}

func (s *revokedSet) len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.at)
}

// latest copies the set, but at most the latest limit of its entries.
func (s *revokedSet) latest(limit int) map[string]int64 {
	s.mu.RLock()
	all := maps.Clone(s.at)
	s.mu.RUnlock()
	over := len(all) - limit
	if over <= 0 {
		return all
	}
	times := slices.Sorted(maps.Values(all))
	for id, at := range all {
		if over > 0 && at <= times[len(times)-limit-1] {
			delete(all, id)
			over--
		}
	}
	return all
}

// forget removes the grants that were revoked before the time.
func (s *revokedSet) forget(before int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, at := range s.at {
		if at < before {
			delete(s.at, id)
		}
	}
}

// Revoked reports whether a grant was revoked so recently that an access token of it may
// still be valid. It looks into memory only: a revocation by this process is there when
// it is acknowledged, a revocation by another process within a second or two, while
// [List.Run] runs.
func (l *List) Revoked(grantID string) bool { return !l.filled.Load() || l.revoked.has(grantID) }

// Known reports whether the revoked grants were read. Until then Revoked reports true
// for every grant, for callers that have no third answer.
func (l *List) Known() bool { return l.filled.Load() }

// Recent returns the grants that Revoked knows, with the times of their revocation in
// Unix milliseconds, but at most the latest limit of them. readAt is the value of ReadAt
// before the grants were copied.
func (l *List) Recent(limit int) (revoked map[string]int64, readAt time.Time) {
	readAt = l.ReadAt() // first, so that the grants are never older than readAt promises
	return l.revoked.latest(limit), readAt
}

// ReadAt is when this process last read the revocations from the store: all that were
// acknowledged anywhere before that time are known. It is zero until the first read.
func (l *List) ReadAt() time.Time {
	if at := l.polled.Load(); at != 0 {
		return time.UnixMilli(at)
	}
	return time.Time{}
}

// Run follows the revocations of other processes, writes the counts of replays and
// prunes, until ctx ends.
func (l *List) Run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() {
		l.every(ctx, pollEvery, "following revocations fails, what is known stays", "following revocations works again", func() error { return l.poll(ctx) })
	})
	all.Go(func() {
		l.every(ctx, pruneEvery, "pruning fails, what is known stays", "pruning works again", func() error { return l.Prune(ctx, l.store.Sure()) })
	})
	all.Go(func() {
		l.every(ctx, trimEvery, "ending the oldest grants fails, what is known stays", "ending the oldest grants works again", func() error { return l.Trim(ctx) })
	})
	all.Go(func() { l.countReplays(ctx) })
	all.Wait()
}

// every calls do until ctx ends, and logs when it begins to fail and when it works again.
func (l *List) every(ctx context.Context, interval time.Duration, begin, end string, do func() error) {
	failing := background.Condition{Log: l.log, Level: slog.LevelWarn, Begin: begin, End: end}
	background.Every(ctx, interval, func() { failing.Fails(ctx, do()) })
}

// Keep is how long a revoked grant is remembered: as long as the longest access token
// lives that any server ever issued with this store, plus leeway. Servers that have a
// shorter life in their settings must remember what others revoked, or they themselves
// before they were started anew.
func (l *List) Keep() time.Duration { return max(l.options.Keep, time.Duration(l.keep.Load())) }

// poll reads the revocations since the last poll, and again those shortly before it.
func (l *List) poll(ctx context.Context) error {
	known := l.revoked.since(l.polled.Load() - overlap.Milliseconds())
	began := l.store.Sure().UnixMilli()
	var kept int64 // seconds
	var epoch string
	var oldest int64
	var blocked map[string]bool
	var ends map[string]int64
	// A revocation is added after the ends are in force: otherwise this process would go on
	// making tokens of a client whose grant it refuses. Nothing is made before the first poll,
	// which may read many.
	var fresh []revocation
	add := l.revoked.add
	if l.filled.Load() {
		add = func(id string, at int64) { fresh = append(fresh, revocation{id, at}) }
	}
	err := l.store.Read(ctx, func(tx store.Tx) error {
		fresh = fresh[:0]
		if err := tx.QueryRow("SELECT keep_revoked, rows_epoch FROM meta").Scan(&kept, &epoch); err != nil {
			return err
		}
		var err error
		if blocked, err = readBlocked(tx); err != nil {
			return err
		}
		keep := max(l.options.Keep, time.Duration(kept)*time.Second)
		oldest = began - (keep + l.options.Skew).Milliseconds()
		since := oldest
		if keep <= l.Keep() { // otherwise revocations that were forgotten already count again
			since = max(oldest, l.polled.Load()-(overlap+l.options.Skew).Milliseconds())
		}
		if err := l.readRevoked(tx, since, known, add); err != nil {
			return err
		}
		ends, err = readEnds(tx) // last, so that it is as new as the revocations
		return err
	})
	if err != nil {
		return err
	}
	l.ends.Store(&ends)
	for _, r := range fresh {
		l.revoked.add(r.id, r.at)
	}
	if err := l.missing(ctx, known); err != nil {
		return err
	}
	l.keep.Store(kept * int64(time.Second))
	l.rowsEpoch.Store(&epoch)
	l.blocked.Store(&blocked)
	l.polled.Store(began)
	l.filled.Store(true)
	l.revoked.forget(oldest)
	return l.rememberKeep(ctx, kept)
}

// maxMissing is how many grants of known one poll looks for. One that is not revoked is
// enough.
const maxMissing = 50

// missing looks for the grants that are left in known: this process knows that they were
// revoked lately, and the store did not say so. If it has them, and they are not revoked,
// it was rolled back.
func (l *List) missing(ctx context.Context, known map[string]bool) error {
	left := maxMissing
	for id := range known {
		if left--; left < 0 {
			return nil
		}
		var revokedAt int64
		var epoch string
		var current bool // the grant is of the present epoch
		one, other := l.liveEpochs()
		err := l.store.Read(ctx, func(tx store.Tx) error {
			return tx.QueryRow("SELECT revoked_at, (SELECT epoch FROM meta), epoch IN ($1, $2) FROM grants WHERE id = $3", one, other, id).
				Scan(&revokedAt, &epoch, &current)
		})
		switch {
		case errors.Is(err, sql.ErrNoRows): // pruned
			continue
		case err != nil:
			return err
		case revokedAt != 0 || !current || epoch != l.store.Epoch():
			continue
		}
		if err := l.store.Write(ctx, func(tx store.Tx) error { return l.store.FoundRollback(tx, epoch) }); err != nil {
			return err
		}
		l.rolledBack.Add(1)
		l.log.Error("the store was rolled back: it has lost a revocation", "gid", id)
		l.look(ctx)
		return nil
	}
	return nil
}

// revocation is a grant and when it was revoked, in Unix milliseconds.
type revocation struct {
	id string
	at int64
}

// readRevoked gives the grants that were revoked at since or later to add, and takes them out
// of known.
func (l *List) readRevoked(tx store.Tx, since int64, known map[string]bool, add func(id string, at int64)) error {
	// The bound stands first: SQLite takes the first condition for the place where it begins to
	// read the index, whose own condition is the second one.
	rows, err := tx.Query("SELECT id, revoked_at FROM grants WHERE revoked_at >= $1 AND revoked_at > 0", since)
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
		add(id, at)
		delete(known, id)
	}
	return rows.Err()
}

// rememberKeep writes down how long this process must remember revoked grants, if that
// is longer than what is in the store.
func (l *List) rememberKeep(ctx context.Context, kept int64) error {
	own := int64((l.options.Keep + time.Second - 1) / time.Second)
	if own <= kept {
		return nil
	}
	return l.store.Write(ctx, func(tx store.Tx) error {
		_, err := tx.Exec("UPDATE meta SET keep_revoked = $1 WHERE keep_revoked < $1", own)
		return err
	})
}

// pruneBatch is how many rows one transaction deletes: few enough that no request waits
// noticeably.
const pruneBatch = 200

// maxCode is the longest life of a code that settings allow. A grant's code may outlive
// the grant, and a row that is gone is no evidence that the code was used.
const maxCode = 10 * time.Minute

// Prune deletes grants and spent ids once no code, token or id that they concern can be
// accepted, by any clock. It works in small transactions between other writes.
func (l *List) Prune(ctx context.Context, now time.Time) error {
	kept := (l.options.Skew + l.options.Window).Milliseconds()
	over := (now.UnixMilli() - kept - maxCode.Milliseconds()) / 1000      // whole seconds, so rather too late than too early
	quiet := now.UnixMilli() - (l.Keep() + l.options.Skew).Milliseconds() // the last access token of a grant revoked before has expired
	if err := l.notePruned(ctx, over); err != nil {
		return err
	}
	err := l.pruneAll(ctx, `DELETE FROM grants WHERE expires_at < $1 AND revoked_at < $2
		AND id IN (SELECT id FROM grants ORDER BY id LIMIT $3)`, over, quiet, pruneBatch)
	if err != nil {
		return err
	}
	return l.pruneAll(ctx, `DELETE FROM spent WHERE (kind, id) IN
		(SELECT kind, id FROM spent WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)`, (now.UnixMilli()-kept)/1000, pruneBatch)
}

// notePruned notes that grants that expired before the second are about to be deleted, if
// there are any: their handles must not look as if the store had lost the rows.
func (l *List) notePruned(ctx context.Context, before int64) error {
	return l.store.Write(ctx, func(tx store.Tx) error {
		_, err := tx.Exec(`UPDATE meta SET pruned_to = $1 WHERE pruned_to < $1
			AND EXISTS (SELECT 1 FROM (SELECT expires_at FROM grants ORDER BY id LIMIT $2) AS first WHERE expires_at < $1)`, before, pruneBatch)
		return err
	})
}

// pruneAll repeats a statement until it deletes nothing. Ids of grants sort by the time
// until which their rows must be kept, so the rows that are due come first, and no
// search is needed.
func (l *List) pruneAll(ctx context.Context, query string, args ...any) error {
	for {
		var n int64
		err := l.store.Write(ctx, func(tx store.Tx) error {
			res, err := tx.Exec(query, args...)
			if err != nil {
				return err
			}
			n, err = res.RowsAffected()
			return err
		})
		if err != nil || n == 0 {
			return err
		}
		l.pruned.Add(n)
	}
}
