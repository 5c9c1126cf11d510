// Package keys manages the signing keys: which key signs now, which keys are published
// as the JWK Set (RFC 7517 §5), and when a private half is erased.
//
// With [Open] the keys follow a schedule that the replicas share through the store,
// without talking to each other. Every period has a random P-256 key of its own, made
// one period ahead by the first replica that comes. A key signs when its period has
// begun and it has been published for two max-ages, so that every verifier that caches
// by the headers knows it before its first token; until then its predecessor goes on
// signing. Once the successor signs, the private half is erased; the public half stays
// published until the last token has expired everywhere. If the store is down, the last
// key goes on signing, and the published keys stay published.
//
// With [ReadDir] the keys are files that the operator owns.
//
// The key ID is the RFC 7638 thumbprint, so a key ID never names two keys. A JWK file
// may have a kid of its own.
package keys

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"log/slog"
	"sync/atomic"
	"time"

	"signet/jwt"
)

// Set is a set of signing keys. It is a [jwt.KeySource] for verifiers in this
// process, safe for concurrent use, and answers from memory.
type Set struct {
	current atomic.Pointer[snapshot]
	view    atomic.Pointer[view]
	stale   atomic.Pointer[error]

	refresh func(ctx context.Context) (next time.Duration, err error)
	log     *slog.Logger
	alarm   alarm         // used by Run alone
	wake    chan struct{} // ends a pause of Run
}

// Reload makes Run read the keys now.
func (s *Set) Reload() {
	select {
	case s.wake <- struct{}{}:
	default: // Run has not yet taken an earlier one
	}
}

// snapshot is the set as of its last read. It is never written.
type snapshot struct {
	keys    []publishedKey // oldest first
	byID    map[string]*publishedKey
	changes func(now time.Time) time.Time // when the set will next gain a key
	maxAge  time.Duration
	// rotation is the period of the keys, 0 for those of an operator.
	rotation time.Duration
	// mustBegin lets the oldest key sign if no key may sign yet. It is set for the keys
	// of a store, whose first key must begin at once. The dates of an operator's files
	// are obeyed.
	mustBegin bool
}

// publishedKey is a key and its times.
type publishedKey struct {
	id      string
	public  *ecdsa.PublicKey
	private *ecdsa.PrivateKey // nil if it was erased, or never was here
	from    time.Time         // the key signs from then on, until a later key does
	until   time.Time         // the key is published until then; zero: no end is known
}

func (k *publishedKey) published(now time.Time) bool { return k.until.IsZero() || now.Before(k.until) }

func newSnapshot(keys []publishedKey) *snapshot {
	s := &snapshot{keys: keys, byID: make(map[string]*publishedKey, len(keys))}
	for i := range keys {
		s.byID[keys[i].id] = &keys[i]
	}
	return s
}

// signing returns the key that signs at now, or nil.
func (s *snapshot) signing(now time.Time) *publishedKey {
	var first *publishedKey
	for i := len(s.keys) - 1; i >= 0; i-- {
		k := &s.keys[i]
		if k.private == nil {
			continue
		}
		if !now.Before(k.from) {
			return k
		}
		first = k
	}
	if s.mustBegin {
		return first
	}
	return nil
}

// Signing returns the key that signs at now. It asks no store and takes no lock.
// Without any key the error is [jwt.ErrKeysUnavailable].
func (s *Set) Signing(now time.Time) (jwt.SigningKey, error) {
	current := s.current.Load()
	if current == nil {
		return jwt.SigningKey{}, jwt.ErrKeysUnavailable
	}
	k := current.signing(now)
	if k == nil {
		return jwt.SigningKey{}, jwt.ErrKeysUnavailable
	}
	return jwt.SigningKey{ID: k.id, Private: k.private}, nil
}

// Key implements [jwt.KeySource]: it returns the key that the JWK Set has under kid now.
// While the set is stale, the error for a key that it does not have is
// [jwt.ErrKeysUnavailable].
func (s *Set) Key(_ context.Context, kid string) (*ecdsa.PublicKey, error) {
	current := s.current.Load()
	if current == nil {
		return nil, jwt.ErrKeysUnavailable
	}
	k := current.byID[kid]
	if k == nil && s.Stale() != nil { // another replica may have made it meanwhile
		return nil, jwt.ErrKeysUnavailable
	}
	if k == nil || !k.until.IsZero() && !k.published(time.Now()) {
		return nil, jwt.ErrUnknownKey
	}
	return k.public, nil
}

// Stale returns why the last read of the set failed, or nil. The keys that were read
// before stay in force.
func (s *Set) Stale() error {
	if err := s.stale.Load(); err != nil {
		return *err
	}
	return nil
}

// view is the JWK Set on the wire, between two changes.
type view struct {
	of    *snapshot
	from  time.Time
	until time.Time // when the next key leaves the set; zero: none does
	body  []byte
	etag  string
}

// JWKS returns the JWK Set at now: the body, its strong entity tag (quoted, RFC
// 9110 §8.8.3), and for how long it may be cached, which is never beyond the next
// planned change of the set. While there is no set the body is nil, and the answer
// should be 503. The body must not be modified.
func (s *Set) JWKS(now time.Time) (body []byte, etag string, maxAge time.Duration) {
	current := s.current.Load()
	if current == nil {
		return nil, "", 0
	}
	v := s.view.Load()
	if v == nil || v.of != current || now.Before(v.from) || !v.until.IsZero() && !now.Before(v.until) {
		v = render(current, now)
		s.view.Store(v)
	}
	maxAge = current.maxAge
	if !v.until.IsZero() {
		maxAge = min(maxAge, v.until.Sub(now))
	}
	if current.changes != nil {
		maxAge = min(maxAge, current.changes(now).Sub(now))
	}
	return v.body, v.etag, maxAge.Truncate(time.Second)
}

// Rotation returns the period of the signing keys. A verifier that has had no newer set for
// so long may lack the key that signs. It is 0 if the operator owns the keys.
func (s *Set) Rotation() time.Duration {
	if current := s.current.Load(); current != nil {
		return current.rotation
	}
	return 0
}

func render(s *snapshot, now time.Time) *view {
	v := &view{of: s, from: now}
	var list []publishedKey
	for _, k := range s.keys {
		if !k.published(now) {
			continue
		}
		list = append(list, k)
		if !k.until.IsZero() && (v.until.IsZero() || k.until.Before(v.until)) {
			v.until = k.until
		}
	}
	v.body = marshalSet(list)
	hash := sha256.Sum256(v.body)
	v.etag = `"` + base64.RawURLEncoding.EncodeToString(hash[:16]) + `"`
	return v
}

// Run keeps the set up to date until ctx ends: it reads it again every few seconds,
// and makes, retires and erases keys when their time comes.
func (s *Set) Run(ctx context.Context) {
	for {
		next, err := s.update(ctx)
		if ctx.Err() != nil {
			return
		}
		s.alarm.report(s.log, err)
		pause := s.alarm.pause(next)
		if s.current.Load() == nil { // no token can be signed before that
			pause = min(pause, time.Second)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-s.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// update refreshes once and records the result.
func (s *Set) update(ctx context.Context) (next time.Duration, err error) {
	if next, err = s.refresh(ctx); ctx.Err() == nil {
		s.stale.Store(&err)
	}
	return next, err
}

const (
	maxPause    = 10 * time.Second // between tries while the store is down
	alarmPeriod = time.Minute      // between log lines about one failure
)

// alarm logs failures, but not at every try, and spaces the tries.
type alarm struct {
	failures int
	logged   time.Time // when text was logged
	text     string
}

func (a *alarm) report(log *slog.Logger, err error) {
	now := time.Now()
	switch {
	case err == nil && a.failures > 0:
		log.Info("signing keys are up to date again", "tries", a.failures)
		*a = alarm{}
	case err != nil:
		a.failures++
		if a.text != err.Error() || now.Sub(a.logged) >= alarmPeriod {
			log.Error("signing keys could not be updated, going on with the present ones", "err", err, "tries", a.failures)
			a.logged, a.text = now, err.Error()
		}
	}
}

// pause is the time to wait before the next try. It grows little: after an outage
// another replica may make a key at once, which has to be published here before it
// signs.
func (a *alarm) pause(next time.Duration) time.Duration {
	if a.failures < 2 {
		return next
	}
	return max(next, min(2*next, maxPause))
}
