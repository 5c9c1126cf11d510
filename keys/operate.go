package keys

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"signet/internal/seal"
	"signet/internal/store"
)

// The reasons for which [Rotate] and [Withdraw] refuse and change nothing.
var (
	ErrNoKeys    = errors.New("the store has no signing keys yet: the first start of a server makes them")
	ErrNoNext    = errors.New("no next key is published yet: a running server makes it within seconds")
	ErrNotKept   = errors.New("no such signing key")
	ErrWithdrawn = errors.New("this signing key is withdrawn already")
	ErrOnlyKey   = errors.New("this is the only key that can sign: a running server publishes the next one within seconds, try again then")
)

// Rotation is the result of a [Rotate].
type Rotation struct {
	ID    string    // the next key
	Signs time.Time // time from which the next key signs
	Begun bool      // the key had been brought forward already: nothing was changed
}

// Rotate brings the next key forward, also beside running servers: it signs as soon as
// it has been published for two max-ages and every server has read its new time.
// Servers make another key for the period that it leaves. rotation is the configured
// one, which counts only if the keys do not show theirs.
func Rotate(ctx context.Context, st *store.Store, rotation time.Duration) (r Rotation, err error) {
	now := time.Now()
	err = st.Write(ctx, func(tx store.Tx) error {
		rows, err := queryForUpdate(tx)
		if err != nil {
			return err
		}
		s := scheduleOf(rows, schedule{rotation: rotation})
		next, signs, err := s.bringForward(rows, now)
		if err != nil {
			return err
		}
		r = Rotation{ID: rows[next].id, Signs: signs, Begun: !signs.Before(s.signsFrom(rows[next]))}
		if r.Begun {
			r.Signs = s.signsFrom(rows[next])
			return nil
		}
		return move(tx, rows[next], signs, now)
	})
	return r, err
}

// Withdrawal is the result of a [Withdraw].
type Withdrawal struct {
	ID     string        // the withdrawn key
	Was    State         // its state before
	Signs  string        // the key that signs now
	Known  time.Time     // time at which every verifier that caches by the headers knows the key that signs
	MaxAge time.Duration // for how long caches may still accept tokens of the withdrawn key
}

// Withdraw removes a key from the JWK Set at once, and its private half from the store,
// also beside running servers, which follow within seconds. Tokens that the key signed
// are invalid from then on. If it was the signing key, its successor signs. rotation is
// as in [Rotate].
func Withdraw(ctx context.Context, st *store.Store, rotation time.Duration, kid string) (w Withdrawal, err error) {
	now := time.Now()
	err = st.Write(ctx, func(tx store.Tx) error {
		rows, err := queryForUpdate(tx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(rows, func(r row) bool { return r.id == kid })
		if i < 0 {
			return whyNotKept(tx, kid)
		}
		s := scheduleOf(rows, schedule{rotation: rotation})
		c, err := s.withdraw(rows, i, now)
		if err != nil {
			return err
		}
		w = Withdrawal{ID: kid, Was: s.info(rows, i, now).State, Signs: c.signs.id, Known: c.signs.publishedAt.Add(s.maxAge()), MaxAge: s.maxAge()}
		return withdraw(tx, rows[i], c, now)
	})
	return w, err
}

// whyNotKept is the reason why kid is not among the rows.
func whyNotKept(tx store.Tx, kid string) error {
	var at int64
	err := tx.QueryRow("SELECT withdrawn_at FROM withdrawn_keys WHERE kid = $1", kid).Scan(&at)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotKept
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%w, since %s", ErrWithdrawn, time.UnixMilli(at).UTC().Format(time.DateTime+" MST"))
}

func withdraw(tx store.Tx, r row, c consequence, now time.Time) error {
	_, err := tx.Exec("INSERT INTO withdrawn_keys (kid, published_at, withdrawn_at) VALUES ($1, $2, $3)", r.id, r.publishedAt.UnixMilli(), now.UnixMilli())
	if err != nil {
		return err
	}
	if _, err := tx.Exec("DELETE FROM signing_keys WHERE kid = $1", r.id); err != nil {
		return err
	}
	for _, older := range c.erase {
		if _, err := tx.Exec("UPDATE signing_keys SET sealed_private = NULL WHERE kid = $1", older.id); err != nil {
			return err
		}
	}
	if c.early {
		return move(tx, c.signs, now, now)
	}
	return nil
}

// move changes the time at which a key begins to sign. The key leaves its period, so
// that another key can be made for that period. Its number becomes the time of the
// move, negated, because no period is below zero.
func move(tx store.Tx, r row, startsAt, now time.Time) error {
	_, err := tx.Exec("UPDATE signing_keys SET period = $1, starts_at = $2 WHERE kid = $3", -now.UnixMilli(), startsAt.UnixMilli(), r.id)
	return err
}

// Reseal seals the private halves in the store under the first root of ring, and records
// that the store is under that root. ring must open all of them, and running servers
// must have the root already, because they read the rows again. It returns how many
// keys were resealed: none if that was done before.
func Reseal(ctx context.Context, st *store.Store, ring *seal.Keyring) (resealed int, err error) {
	err = st.Write(ctx, func(tx store.Tx) error {
		resealed = 0
		rows, err := queryForUpdate(tx)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if !r.sealed.Valid || seal.IsCurrent(ring, r.sealed.String) {
				continue
			}
			if err := reseal(tx, ring, r); err != nil {
				return fmt.Errorf("signing key %s: %w", r.id, err)
			}
			resealed++
		}
		var fingerprint string
		if err := tx.QueryRow("SELECT fingerprint FROM meta").Scan(&fingerprint); err != nil {
			return err
		}
		if fingerprint == ring.Fingerprint() {
			return nil
		}
		return store.SetFingerprint(tx, ring.Fingerprint(), time.Now())
	})
	return resealed, err
}

func reseal(tx store.Tx, ring *seal.Keyring, r row) error {
	private, err := seal.Open[seal.SigningKey](ring, r.sealed.String)
	if err != nil || private.KeyID != r.id {
		return errOtherRoot
	}
	sealed, err := seal.Seal(ring, private)
	if err != nil {
		return err
	}
	_, err = tx.Exec("UPDATE signing_keys SET sealed_private = $1 WHERE kid = $2", sealed, r.id)
	return err
}
