package keys

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"signet/internal/seal"
	"signet/internal/store"
	"signet/jwt"
)

// minRotation keeps two max-ages and a poll within the lead, see schedule.
const minRotation = time.Second

// Options say where the schedule is stored and how long its periods are.
type Options struct {
	Store    *store.Store
	Ring     *seal.Keyring // seals the private halves in the store
	Rotation time.Duration // the signing period, at least a second
	TokenTTL time.Duration // the longest lifetime of a token
	Log      *slog.Logger  // nil logs nothing
}

// Open reads the schedule and makes the keys that it lacks. A store that is down is not
// an error: the set has the keys that could be read, at worst none
// ([jwt.ErrKeysUnavailable]), and [Set.Run] tries again. A private half that was sealed
// under another root secret is an error, and so is a damaged row.
func Open(ctx context.Context, o Options) (*Set, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Rotation < minRotation || o.TokenTTL <= 0 {
		return nil, fmt.Errorf("signing keys: rotation %v (at least %v) and token lifetime %v must be positive", o.Rotation, minRotation, o.TokenTTL)
	}
	s := &Set{log: o.Log, wake: make(chan struct{}, 1)}
	stored := &storedSchedule{Options: o, schedule: schedule{rotation: o.Rotation, tokenTTL: o.TokenTTL}, set: s}
	s.refresh = stored.refresh
	if _, err := s.update(ctx); err != nil {
		if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrDamaged) {
			return nil, err
		}
		s.alarm.report(o.Log, err)
	}
	return s, nil
}

// storedSchedule is the schedule in the store.
type storedSchedule struct {
	Options
	schedule
	set  *Set
	rows []row // as of the last read, used by refresh alone
}

// refresh reads the rows, carries out the plan, and puts the result in force.
func (s *storedSchedule) refresh(ctx context.Context) (time.Duration, error) {
	poll := s.poll()
	now := time.Now()
	rows, err := s.read(ctx)
	if err != nil {
		return poll, fmt.Errorf("reading signing keys: %w", err)
	}
	// The rows are in force whether or not they can be changed.
	if len(rows) > 0 {
		if err := s.putInForce(rows, now); err != nil {
			return poll, err
		}
	}
	if !s.plan(rows, now).isEmpty() {
		if rows, err = s.write(ctx, now); err != nil {
			return poll, fmt.Errorf("writing signing keys: %w", err)
		}
		if err := s.putInForce(rows, now); err != nil {
			return poll, err
		}
	}
	return min(poll, max(time.Until(s.next(rows, now)), time.Millisecond)), nil
}

func (s *storedSchedule) read(ctx context.Context) (rows []row, err error) {
	err = s.Store.Read(ctx, func(tx store.Tx) error {
		rows, err = query(tx)
		return err
	})
	return rows, err
}

// write carries out the plan. The plan is made again inside the transaction, because
// another replica may have been faster.
func (s *storedSchedule) write(ctx context.Context, now time.Time) (rows []row, err error) {
	var done plan
	err = s.Store.Write(ctx, func(tx store.Tx) error {
		if rows, err = query(tx); err != nil {
			return err
		}
		done = s.plan(rows, now)
		for _, n := range done.create {
			if err := s.create(tx, n, now); err != nil {
				return err
			}
		}
		for _, n := range done.erase {
			if _, err := tx.Exec("UPDATE signing_keys SET sealed_private = NULL WHERE period = $1", n); err != nil {
				return err
			}
		}
		for _, n := range done.remove {
			if _, err := tx.Exec("DELETE FROM signing_keys WHERE period = $1", n); err != nil {
				return err
			}
		}
		rows, err = query(tx)
		return err
	})
	if err == nil && !done.isEmpty() {
		s.Log.Info("signing keys changed", "made", done.create, "erased", done.erase, "removed", done.remove)
	}
	return rows, err
}

func query(tx store.Tx) ([]row, error) { return queryRows(tx, "") }

// queryForUpdate reads the rows for a Write that decides by them.
func queryForUpdate(tx store.Tx) ([]row, error) { return queryRows(tx, " FOR UPDATE") }

func queryRows(tx store.Tx, lock string) (rows []row, err error) {
	list, err := tx.Query("SELECT period, kid, public, sealed_private, starts_at, published_at FROM signing_keys ORDER BY starts_at, period" + lock)
	if err != nil {
		return nil, err
	}
	defer list.Close()
	for list.Next() {
		var r row
		var startsAt, publishedAt int64 // Unix milliseconds
		if err := list.Scan(&r.period, &r.id, &r.public, &r.sealed, &startsAt, &publishedAt); err != nil {
			return nil, err
		}
		r.startsAt, r.publishedAt = time.UnixMilli(startsAt), time.UnixMilli(publishedAt)
		rows = append(rows, r)
	}
	return rows, list.Err()
}

// create makes the key of period n, unless another replica does first.
func (s *storedSchedule) create(tx store.Tx, n int64, now time.Time) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	id, err := thumbprint(&private.PublicKey)
	if err != nil {
		return err
	}
	public, err := newPublicJWK(id, &private.PublicKey)
	if err != nil {
		return err
	}
	text, err := json.Marshal(public)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	sealed, err := seal.Seal(s.Ring, seal.SigningKey{KeyID: id, Private: pkcs8})
	if err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO signing_keys (period, kid, public, sealed_private, starts_at, published_at)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`,
		n, id, string(text), sealed, s.start(n).UnixMilli(), now.UnixMilli())
	return err
}

// putInForce makes rows the current keys of the set, all or none of them.
func (s *storedSchedule) putInForce(rows []row, now time.Time) error {
	old := s.set.current.Load()
	if old != nil && slices.Equal(rows, s.rows) {
		return nil
	}
	keys := make([]publishedKey, len(rows))
	for i, r := range rows {
		k, err := s.open(r, old)
		if err != nil {
			return fmt.Errorf("signing key %s of period %d: %w", r.id, r.period, err)
		}
		k.from, k.until = s.signsFrom(r), s.publishedUntil(rows, i)
		keys[i] = k
	}
	next := newSnapshot(keys)
	next.mustBegin = true
	next.maxAge, next.rotation = s.maxAge(), s.rotation
	next.changes = func(now time.Time) time.Time { return s.start(s.period(now) + 1) }
	if k := next.signing(now); old != nil && k != nil && now.Before(k.from) && old.signing(now) != nil && old.signing(now).id != k.id {
		s.Log.Warn("no older private key is left: a key signs before all verifiers can know it", "kid", k.id)
	}
	if old != nil {
		s.reportWithdrawn(old, next, now)
	}
	s.rows = rows
	s.set.current.Store(next)
	return nil
}

// reportWithdrawn logs the keys that were withdrawn before their time.
func (s *storedSchedule) reportWithdrawn(old, next *snapshot, now time.Time) {
	for _, k := range old.keys {
		if next.byID[k.id] == nil && k.published(now) {
			s.Log.Warn("signing key withdrawn: tokens that it signed are refused", "kid", k.id)
		}
	}
}

// open reads the key of r, or takes it from old: equal keys stay the same pointers,
// because a verifier's cache compares those.
func (s *storedSchedule) open(r row, old *snapshot) (publishedKey, error) {
	if old != nil {
		if k := old.byID[r.id]; k != nil && (k.private != nil) == r.sealed.Valid {
			return publishedKey{id: k.id, public: k.public, private: k.private}, nil
		}
	}
	public, private, _, err := parseJWK([]byte(r.public))
	if err != nil {
		return publishedKey{}, err
	}
	if id, err := thumbprint(public); err != nil || id != r.id || private != nil {
		return publishedKey{}, errDamaged
	}
	if old != nil && old.byID[r.id] != nil {
		public = old.byID[r.id].public
	}
	k := publishedKey{id: r.id, public: public}
	if r.sealed.Valid {
		k.private, err = unseal(s.Ring, r, public)
	}
	return k, err
}

var errOtherRoot = errors.New("its private half was not sealed under this root secret (SIGNET_SECRET)")

func unseal(ring *seal.Keyring, r row, public *ecdsa.PublicKey) (*ecdsa.PrivateKey, error) {
	sealed, err := seal.Open[seal.SigningKey](ring, r.sealed.String)
	if err != nil || sealed.KeyID != r.id {
		return nil, errOtherRoot
	}
	key, err := x509.ParsePKCS8PrivateKey(sealed.Private)
	if err != nil {
		return nil, errDamaged
	}
	private, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errNotP256
	}
	return private, checkPair(public, private)
}

var _ jwt.KeySource = (*Set)(nil)
