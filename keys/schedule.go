package keys

import (
	"database/sql"
	"slices"
	"time"

	"signet/jwt"
)

// The limits of schedule.poll.
const (
	minPoll = 200 * time.Millisecond
	maxPoll = 5 * time.Second
)

// maxMaxAge bounds the JWK Set's max-age when periods are long.
const maxMaxAge = 15 * time.Minute

// schedule decides from the rows of the store and the time alone, so that all replicas
// come to the same decision.
type schedule struct {
	rotation time.Duration
	tokenTTL time.Duration
}

// row is a key in the store.
type row struct {
	period      int64 // below zero if the key was moved out of its period
	id          string
	public      string         // JWK
	sealed      sql.NullString // NULL once erased
	startsAt    time.Time      // when the period begins
	publishedAt time.Time      // when the key was made
}

// maxAge is the longest max-age of the JWK Set. It is a quarter of the lead, which is
// one period: two max-ages, and the time in which replicas learn of a new row, fit into
// the lead.
func (s schedule) maxAge() time.Duration { return min(s.rotation/4, maxMaxAge) }

// poll is the time between two reads of the rows, in which all replicas learn of a
// change. It is much shorter than the lead.
func (s schedule) poll() time.Duration { return min(max(s.rotation/20, minPoll), maxPoll) }

// period is the number of the period at t.
func (s schedule) period(t time.Time) int64 {
	n := t.UnixMilli() / s.rotation.Milliseconds()
	if t.UnixMilli() < 0 {
		n--
	}
	return n
}

func (s schedule) start(period int64) time.Time {
	return time.UnixMilli(period * s.rotation.Milliseconds())
}

// signsFrom is when r may sign: its period has begun and all caches have the key.
func (s schedule) signsFrom(r row) time.Time {
	known := r.publishedAt.Add(2 * s.maxAge())
	if known.After(r.startsAt) {
		return known
	}
	return r.startsAt
}

// successorSigns is when rows[i] stops signing because a later key begins to; ok is
// false while there is no later key.
func (s schedule) successorSigns(rows []row, i int) (at time.Time, ok bool) {
	for _, r := range rows[i+1:] {
		if from := s.signsFrom(r); !ok || from.Before(at) {
			at, ok = from, true
		}
	}
	return at, ok
}

// publishedUntil is when the last token of rows[i] has expired for every verifier. It
// is zero while the key has no successor.
func (s schedule) publishedUntil(rows []row, i int) time.Time {
	at, ok := s.successorSigns(rows, i)
	if !ok {
		return time.Time{}
	}
	return at.Add(s.tokenTTL + jwt.Leeway)
}

// signing is the index of the key that signs at now, -1 if no row has a private half.
// If no key may sign yet, the oldest does: either the store is new, or all others have
// lost their private halves.
func (s schedule) signing(rows []row, now time.Time) int {
	first := -1
	for i, r := range slices.Backward(rows) {
		if !r.sealed.Valid {
			continue
		}
		if !now.Before(s.signsFrom(r)) {
			return i
		}
		first = i
	}
	return first
}

// plan lists the periods whose rows have to change.
type plan struct {
	create []int64 // make a key
	erase  []int64 // erase the private half
	remove []int64 // delete the row
}

func (p plan) isEmpty() bool { return len(p.create)+len(p.erase)+len(p.remove) == 0 }

// plan decides what has to change at now. The oldest row is the first.
func (s schedule) plan(rows []row, now time.Time) plan {
	var p plan
	signing := s.signing(rows, now)
	current := s.period(now)
	for _, n := range []int64{current, current + 1} {
		// No key is made that would be older than the signing one: a replica whose
		// clock is behind would reverse the order of the keys.
		if signing >= 0 && !rows[signing].startsAt.Before(s.start(n)) {
			continue
		}
		if !slices.ContainsFunc(rows, func(r row) bool { return s.covers(r, n) }) {
			p.create = append(p.create, n)
		}
	}
	for i, r := range rows {
		at, ok := s.successorSigns(rows, i)
		if !ok || now.Before(at) {
			continue
		}
		if r.sealed.Valid {
			p.erase = append(p.erase, r.period)
		}
		if !now.Before(s.publishedUntil(rows, i)) {
			p.remove = append(p.remove, r.period)
		}
	}
	return p
}

// bringForward finds the next key and the earliest time at which it can sign. By then
// every cache has it, and every replica has read its new time, so that all of them
// change over together.
func (s schedule) bringForward(rows []row, now time.Time) (next int, signs time.Time, err error) {
	if len(rows) == 0 {
		return 0, signs, ErrNoKeys
	}
	signing := s.signing(rows, now)
	for i := signing + 1; i < len(rows); i++ {
		if !rows[i].sealed.Valid || signing < 0 {
			continue
		}
		signs = now.Add(2 * s.poll())
		if known := rows[i].publishedAt.Add(2 * s.maxAge()); known.After(signs) {
			signs = known
		}
		if first := rows[signing].startsAt.Add(time.Millisecond); first.After(signs) {
			signs = first
		}
		return i, signs, nil
	}
	return 0, signs, ErrNoNext
}

// consequence is what follows from withdrawing a key.
type consequence struct {
	signs row   // the key that signs then
	early bool  // the period of that key has not begun, so the key leaves it
	erase []row // older keys, whose private halves must not sign again
}

// withdraw decides what happens to the other keys when rows[i] is withdrawn.
func (s schedule) withdraw(rows []row, i int, now time.Time) (c consequence, err error) {
	rest := slices.Delete(slices.Clone(rows), i, i+1)
	if rows[i].sealed.Valid && s.signing(rows, now) == i {
		if later := s.signing(rest[i:], now); later >= 0 { // signing never goes back to an older key
			c.signs = rest[i+later]
			c.early = now.Before(c.signs.startsAt)
			for _, r := range rest[:i] {
				if r.sealed.Valid {
					c.erase = append(c.erase, r)
				}
			}
			return c, nil
		}
	}
	signing := s.signing(rest, now)
	if signing < 0 {
		return c, ErrOnlyKey
	}
	c.signs = rest[signing]
	return c, nil
}

// covers reports whether r is the key of period n, even if r was made when periods had
// another length.
func (s schedule) covers(r row, n int64) bool {
	return r.period == n || !r.startsAt.Before(s.start(n)) && r.startsAt.Before(s.start(n+1))
}

// next is the time after now at which the plan or the signing key changes.
func (s schedule) next(rows []row, now time.Time) time.Time {
	next := s.start(s.period(now) + 1)
	for i, r := range rows {
		for _, t := range []time.Time{s.signsFrom(r), s.publishedUntil(rows, i)} {
			if t.After(now) && t.Before(next) {
				next = t
			}
		}
	}
	return next
}
