package store

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"time"

	"signet/internal/background"
)

// A store that was rolled back to an earlier state has forgotten what was spent and
// revoked since then. Once there is evidence of that, its epoch ends, in the store and so
// for all servers: users sign in again, and no client regains access. Evidence is
//
//   - a handle of a generation that the store has not seen (package denylist)
//   - a grant that a running server knows to be revoked and the store does not (the same)
//   - on SQLite a commit counter that goes back
//   - on PostgreSQL a time last_seen, or an epoch, that goes back
//
// An ordinary race is no evidence: each of these was on disk before any server could know
// of it, and nothing but a rollback takes it back.

// These are the schemas from which meta says which epochs have ended.
const (
	sqliteWithEnded   = 6
	postgresWithEnded = 5
)

// maxEnded is how many ended epochs a store remembers, so that a server that was away
// meanwhile knows the store again.
const maxEnded = 20

// endEpoch ends the epoch of a store that was rolled back.
const endEpoch = `UPDATE meta SET epoch = $1, ended = $2, rolled_back_at = $3,
	not_before = CASE WHEN not_before < $4 THEN $4 ELSE not_before END, ` + keepRowsEpoch + ` WHERE epoch = $5`

// noteRollback notes that a store was rolled back, at most once a minute.
const noteRollback = "UPDATE meta SET rolled_back_at = $1 WHERE rolled_back_at < $2"

// epochs returns the epoch of m and the ended ones, the latest first.
func (m *meta) epochs() []string { return append([]string{m.epoch}, strings.Fields(m.ended)...) }

// hasEnded reports whether epoch is one of the ended epochs of m.
func (m *meta) hasEnded(epoch string) bool { return slices.Contains(strings.Fields(m.ended), epoch) }

// isKin reports whether m and other are of the same store: one is the other after a
// rollback was found, or both are what became of an earlier one.
func (m *meta) isKin(other *meta) bool {
	return slices.ContainsFunc(m.epochs(), func(epoch string) bool { return slices.Contains(other.epochs(), epoch) })
}

// afterRollback returns the statement that notes a rollback in a store that is now in
// epoch, and by default ends that epoch.
func (s *state) afterRollback(epoch string) (query string, args []any) {
	now := time.Now()
	if s.options.KeepEpoch {
		return noteRollback, []any{now.UnixMilli(), now.Add(-time.Minute).UnixMilli()}
	}
	ended := []string{epoch}
	if m := s.known.Load(); m != nil {
		for _, e := range m.epochs() {
			if !slices.Contains(ended, e) && len(ended) < maxEnded {
				ended = append(ended, e)
			}
		}
	}
	return endEpoch, []any{rand.Text(), strings.Join(ended, " "), now.UnixMilli(), notBefore(now), epoch}
}

// notBefore is the second from which tokens count that are issued after now.
func notBefore(now time.Time) int64 { return now.Unix() + 1 }

// FoundRollback is called in a Write that has found evidence that the store was rolled
// back within its epoch. By default it ends the epoch; see [Options.KeepEpoch]. After the
// Write the caller calls [Store.Look].
func (s *Store) FoundRollback(tx Tx, epoch string) error {
	query, args := s.afterRollback(epoch)
	_, err := tx.Exec(query, args...)
	s.changed.Store(true)
	return err
}

// SeenLast is the latest last_seen, in Unix milliseconds, that was read in this epoch. What
// is read later is not less unless the store was rolled back. It is 0 on SQLite, and with
// [Options.KeepEpoch].
func (s *Store) SeenLast() int64 {
	if s.options.KeepEpoch {
		return 0
	}
	return s.seenLast.Load()
}

// Look reads which epoch the store has now, instead of within a second.
func (s *Store) Look(ctx context.Context) error { return s.database.look(ctx) }

// RolledBack is when evidence was found that the store was rolled back, or the zero time.
func (s *Store) RolledBack() time.Time {
	if m := s.known.Load(); m != nil && m.rolledBackAt != 0 {
		return time.UnixMilli(m.rolledBackAt)
	}
	return time.Time{}
}

// NotBefore is the Unix second before which no access token counts that a server issued,
// because its store was lost, restored or rolled back then. It is 0 if that never was.
func (s *Store) NotBefore() int64 {
	if m := s.known.Load(); m != nil {
		return m.notBefore
	}
	return 0
}

// epochEnded is the message of each server that gives up an epoch after a rollback.
const epochEnded = "the store was rolled back: its epoch has ended, and all users sign in again"

// epochKept is the message instead of epochEnded if [Options.KeepEpoch] is set.
const epochKept = "the store was rolled back, and goes on because SIGNET_ROLLBACK=alarm: grants that were revoked lately may work again"

// adopt takes m as what is known of the store.
func (s *state) adopt(m meta) {
	s.adopting.Lock()
	defer s.adopting.Unlock()
	s.adoptLocked(m)
}

func (s *state) adoptLocked(m meta) {
	old := s.known.Load()
	s.known.Store(&m)
	switch {
	case old == nil:
	case old.epoch != m.epoch:
		s.options.Log.Error(epochEnded, "store", s.name)
	case m.rolledBackAt > old.rolledBackAt:
		s.options.Log.Error(epochKept, "store", s.name)
	}
}

// watch looks for evidence, also while no request writes.
func (s *Store) watch(ctx context.Context) {
	failing := background.Condition{Log: s.options.Log, Begin: "the store cannot be compared with what it was"}
	background.Every(ctx, beatEvery, func() {
		err := s.database.compare(ctx)
		if errors.Is(err, ErrRolledBack) {
			// The writer finds the same, and ends the epoch.
			err = s.Write(ctx, func(tx Tx) error {
				_, err := tx.Exec("UPDATE meta SET last_seen = last_seen")
				return err
			})
		}
		failing.Fails(ctx, err)
	})
}
