package keys

import (
	"cmp"
	"context"
	"slices"
	"time"

	"signet/internal/store"
)

// State is the state of a key at some time.
type State string

// The states of a key, in the order of its life.
const (
	Next      State = "next"      // published, and does not sign yet
	Signing   State = "signing"   // signs now
	Past      State = "past"      // published until its last token has expired
	Withdrawn State = "withdrawn" // removed before its time, see [Withdraw]
)

// Info describes a key without its private half. Times that are not known are zero.
type Info struct {
	ID             string
	State          State
	Private        bool      // the private half exists
	PublishedAt    time.Time // zero for a key from a file
	SignsFrom      time.Time
	SignsUntil     time.Time // zero: no successor is known
	PublishedUntil time.Time // zero: no end is known
	WithdrawnAt    time.Time
}

// Timeline is the keys of one issuer, first the withdrawn ones and then the others, each
// oldest first, and the rules by which they follow each other.
type Timeline struct {
	Keys     []Info
	Rotation time.Duration // zero: the operator decides when a key signs
	MaxAge   time.Duration // the longest for which a verifier caches the JWK Set
	NextMade time.Time     // when a server makes the key after these; zero: never
}

// List lists the keys in the store at now, also beside a running server: it opens no
// private half and makes nothing. The timeline has the rotation that the keys were made
// with; rotation is the configured one, which counts only if the keys do not show theirs.
// tokenTTL is the longest lifetime of a token.
func List(ctx context.Context, st *store.Store, rotation, tokenTTL time.Duration, now time.Time) (t Timeline, err error) {
	var rows []row
	err = st.Read(ctx, func(tx store.Tx) error {
		t.Keys = nil
		if rows, err = query(tx); err != nil {
			return err
		}
		list, err := tx.Query("SELECT kid, published_at, withdrawn_at FROM withdrawn_keys ORDER BY withdrawn_at, kid")
		if err != nil {
			return err
		}
		defer list.Close()
		for list.Next() {
			var published, withdrawn int64
			k := Info{State: Withdrawn}
			if err := list.Scan(&k.ID, &published, &withdrawn); err != nil {
				return err
			}
			k.PublishedAt, k.WithdrawnAt = time.UnixMilli(published), time.UnixMilli(withdrawn)
			t.Keys = append(t.Keys, k)
		}
		return list.Err()
	})
	if err != nil {
		return Timeline{}, err
	}
	s := scheduleOf(rows, schedule{rotation: rotation, tokenTTL: tokenTTL})
	t.Rotation, t.MaxAge = s.rotation, s.maxAge()
	if len(rows) > 0 {
		t.NextMade = s.start(s.period(now) + 1)
	}
	withdrawn := t.Keys
	for i := range rows {
		t.Keys = append(t.Keys, s.info(rows, i, now))
	}
	if len(rows) > 0 {
		if k, at := &t.Keys[len(withdrawn)], alone(rows[0], withdrawn); k.State != Next && !at.IsZero() && at.Before(s.signsFrom(rows[0])) {
			k.SignsFrom = at
		}
	}
	return t, nil
}

// alone returns when r, the oldest key, began to sign before it was known everywhere
// because no other key could: the very first key at once, and another one when its
// predecessor was withdrawn. It is zero if there was a predecessor until the end.
func alone(r row, withdrawn []Info) (at time.Time) {
	first := r.publishedAt.After(r.startsAt) // each other key is made before its period
	for _, k := range withdrawn {
		if k.PublishedAt.After(r.publishedAt) {
			continue
		}
		first = false
		if k.WithdrawnAt.After(r.publishedAt) && k.WithdrawnAt.After(at) {
			at = k.WithdrawnAt
		}
	}
	if first {
		return r.publishedAt
	}
	return at
}

// scheduleOf is the schedule by which rows were made. The settings of a command may
// differ from those of the servers, but the number of a period and its beginning show
// how long a period is. If no row shows that, the schedule is configured.
func scheduleOf(rows []row, configured schedule) schedule {
	newest := slices.SortedFunc(slices.Values(rows), func(a, b row) int {
		return cmp.Or(b.publishedAt.Compare(a.publishedAt), cmp.Compare(b.period, a.period))
	})
	for _, r := range newest {
		ms := r.startsAt.UnixMilli()
		if r.period <= 0 || ms%r.period != 0 {
			continue
		}
		if rotation := time.Duration(ms/r.period) * time.Millisecond; rotation >= minRotation {
			return schedule{rotation: rotation, tokenTTL: configured.tokenTTL}
		}
	}
	return configured
}

// info describes rows[i].
func (s schedule) info(rows []row, i int, now time.Time) Info {
	r := rows[i]
	k := Info{ID: r.id, State: Next, Private: r.sealed.Valid, PublishedAt: r.publishedAt, SignsFrom: s.signsFrom(r), PublishedUntil: s.publishedUntil(rows, i)}
	if at, ok := s.successorSigns(rows, i); ok {
		k.SignsUntil = at
	}
	made := r.startsAt // if no other key could sign, this one did from the beginning
	if r.publishedAt.After(made) {
		made = r.publishedAt
	}
	switch signing := s.signing(rows, now); {
	case i == signing:
		k.State = Signing
		if k.SignsFrom.After(now) {
			k.SignsFrom = made
		}
	case i < signing || !r.sealed.Valid:
		k.State = Past
		if k.SignsFrom.After(k.SignsUntil) {
			k.SignsFrom = made
		}
	}
	return k
}

// List lists the keys of the set at now.
func (s *Set) List(now time.Time) Timeline {
	current := s.current.Load()
	if current == nil {
		return Timeline{}
	}
	t := Timeline{MaxAge: current.maxAge}
	signing := current.signing(now)
	for i := range current.keys {
		k := &current.keys[i]
		info := Info{ID: k.id, State: Past, Private: k.private != nil, SignsFrom: k.from, PublishedUntil: k.until}
		for _, later := range current.keys[i+1:] {
			if later.private != nil && info.SignsUntil.IsZero() {
				info.SignsUntil = later.from
			}
		}
		switch {
		case k == signing:
			info.State = Signing
		case k.private != nil && k.from.After(now):
			info.State = Next
		}
		t.Keys = append(t.Keys, info)
	}
	return t
}
