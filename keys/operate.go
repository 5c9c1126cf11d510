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

// What [Rotate] and [Withdraw] refuse. Nothing was changed.
var (
	ErrNoKeys    = errors.New("the store has no signing keys yet: the first start of a server makes them")
	ErrNoNext    = errors.New("no next key is published yet: a running server makes it within seconds")
	ErrNotKept   = errors.New("no such signing key")
	ErrWithdrawn = errors.New("this signing key is withdrawn already")
	ErrOnlyKey   = errors.New("this is the only key that can sign: a running server publishes the next one within seconds, try again then")
)

// Rotation is what became of a [Rotate].
type Rotation struct {
	ID    string    // the key that comes next
	Signs time.Time // from when on
	Begun bool      // it was on its way before: nothing was changed
}

// Rotate brings the next key forward, beside running servers: it signs as soon as
// it has been published for two max-ages and every server has read that it does.
// Servers put a fresh key in the place that it leaves. It asks o for a store alone.
func Rotate(ctx context.Context, o Options) (r Rotation, err error) {
	now := time.Now()
	err = o.Store.Write(ctx, func(tx store.Tx) error {
		rows, err := queryForUpdate(tx)
		if err != nil {
			return err
		}
		s := o.scheduleOf(rows)
		next, signs, err := s.forward(rows, now)
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

// Withdrawal is what became of a [Withdraw].
type Withdrawal struct {
	ID     string
	Was    State
	Signs  string        // the key that signs now
	Known  time.Time     // when every verifier that caches by the headers knows that one
	MaxAge time.Duration // for how long caches may still accept tokens of the withdrawn key
}

// Withdraw takes a key out of the JWK Set at once, and its private half out of the
// store, beside running servers: they follow within seconds. Tokens that it signed
// are invalid from then on. If it was the signing key, its successor signs. It asks
// o for a store alone.
func Withdraw(ctx context.Context, o Options, kid string) (w Withdrawal, err error) {
	now := time.Now()
	err = o.Store.Write(ctx, func(tx store.Tx) error {
		rows, err := queryForUpdate(tx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(rows, func(r row) bool { return r.id == kid })
		if i < 0 {
			return missing(tx, kid)
		}
		s := o.scheduleOf(rows)
		c, err := s.without(rows, i, now)
		if err != nil {
			return err
		}
		w = Withdrawal{ID: kid, Was: s.info(rows, i, now).State, Signs: c.signs.id, Known: c.signs.publishedAt.Add(s.maxAge()), MaxAge: s.maxAge()}
		return withdraw(tx, rows[i], c, now)
	})
	return w, err
}

// missing says why kid is not among the rows.
func missing(tx store.Tx, kid string) error {
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

// move gives a key another beginning. It leaves its period, so that another key can
// be made for that, and is numbered by the instant: below zero, where no period is.
func move(tx store.Tx, r row, startsAt, now time.Time) error {
	_, err := tx.Exec("UPDATE signing_keys SET period = $1, starts_at = $2 WHERE kid = $3", -now.UnixMilli(), startsAt.UnixMilli(), r.id)
	return err
}

// Reseal seals what the store holds under the first root of o.Ring, and has the
// store know that root as its own. It needs a ring that opens everything, and
// servers that know the root already: they read the rows again. It returns how many
// keys were sealed anew; done before, it changes nothing.
func Reseal(ctx context.Context, o Options) (resealed int, err error) {
	err = o.Store.Write(ctx, func(tx store.Tx) error {
		resealed = 0
		rows, err := queryForUpdate(tx)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if !r.sealed.Valid || seal.IsCurrent(o.Ring, r.sealed.String) {
				continue
			}
			if err := reseal(tx, o.Ring, r); err != nil {
				return fmt.Errorf("signing key %s: %w", r.id, err)
			}
			resealed++
		}
		var fingerprint string
		if err := tx.QueryRow("SELECT fingerprint FROM meta").Scan(&fingerprint); err != nil {
			return err
		}
		if fingerprint == o.Ring.Fingerprint() {
			return nil
		}
		return store.SetFingerprint(tx, o.Ring.Fingerprint(), time.Now())
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
