// Package throttle refuses what comes too often: logins after failed ones, which are
// counted in the store for all replicas together ([Logins]), and requests, of which each
// process takes so many a minute ([Requests]).
package throttle

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"signet/internal/background"
	"signet/internal/store"
	"signet/users"
)

// ErrTooMany says that too many logins have failed, or too many requests have come: the
// answer is 429, and no password is checked.
var ErrTooMany = errors.New("too many requests or failed logins")

// TooManyError is the [ErrTooMany] of one login or request.
type TooManyError struct {
	RetryAfter time.Duration // more than 0; in whole seconds it is rounded up
}

func (e *TooManyError) Error() string {
	return fmt.Sprintf("%v: wait %v", ErrTooMany, e.RetryAfter)
}

func (e *TooManyError) Unwrap() error { return ErrTooMany }

// Logins makes guessing passwords slow (OAuth 2.1 §7.7). Failed logins are counted
// by account and address together, and by address alone, for all replicas in the
// store. Nothing is counted by account alone, or anybody could lock a user out: the
// right password from an address that has not failed always works.
//
// An attempt counts as failed from its beginning, before a hash is computed, so as
// many as come at once count as many. This is how a login goes, with now from
// [store.Store.Now], for names of nobody as for those of users:
//
//	attempt, err := logins.Begin(ctx, name, address, now)
//	var throttled *throttle.TooManyError
//	switch {
//	case errors.As(err, &throttled): // 429, Retry-After: throttled.RetryAfter, rounded up
//	case err != nil: // 503: the store cannot say, and nobody is let in unseen
//	}
//	user, err := source.Check(ctx, name, password)
//	switch {
//	case err == nil:
//		attempt.Succeeded(ctx) // its error is for the log: the user is who it is
//	case errors.Is(err, users.ErrInvalid): // 401; it stays counted
//	default: // 503: busy, or the source cannot tell
//		attempt.Withdraw(ctx)
//	}
//
// A client that goes away meanwhile leaves its attempt counted.
//
// The store learns hashes, so names of nobody, which may be passwords typed into the
// wrong field, are not in it. Counts are forgotten with time, and there is a bound on
// how many there are: beyond it those go that would go first anyway.
type Logins struct {
	store *store.Store
	log   *slog.Logger
	most  int64 // counts that are kept

	rows            atomic.Int64 // as far as we know; uncounted at first
	refused, pruned atomic.Int64
}

const (
	maxBackoff = 15 * time.Minute
	maxCounts  = 100_000 // 10 MB

	pruneAttempts = time.Minute // how often
	pruneBatch    = 200         // rows in one transaction, so that no login waits for it noticeably
	uncounted     = -1
)

// NewLogins returns a throttle over the store. A nil log logs nothing.
func NewLogins(st *store.Store, log *slog.Logger) *Logins {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	t := &Logins{store: st, log: log, most: maxCounts}
	t.rows.Store(uncounted)
	return t
}

// Stats count since the start what an operator should see.
type Stats struct {
	Refused int64 // attempts that had to wait
	Pruned  int64 // counts forgotten after their time, or for want of room
}

// Stats returns the counters.
func (t *Logins) Stats() Stats {
	return Stats{Refused: t.refused.Load(), Pruned: t.pruned.Load()}
}

// rule says how failures of one kind slow down the next attempt.
type rule struct {
	kind   string
	free   int64         // failures that cost no wait
	window time.Duration // in which these have to happen; a longer count is forgotten when it was quiet that long
}

var (
	byAccount = rule{"account", 5, 24 * time.Hour}
	byAddress = rule{"address", 30, 10 * time.Minute}
)

// wait is how long the next attempt waits after the latest of n failures: a second
// once the free ones are used up, then each time twice as long.
func (r rule) wait(n int64) time.Duration {
	if n < r.free {
		return 0
	}
	return min(time.Second<<min(n-r.free, 20), maxBackoff)
}

// count is one row. Times are Unix milliseconds.
type count struct {
	rule     rule
	key      []byte
	found    bool
	failures int64
	since    int64 // the first failure, which also tells this count from a later one of the same key
	latest   int64
	before   int64 // what latest was before this attempt
}

func (t *Logins) count(r rule, account, address string) count {
	h := sha256.New()
	for _, part := range []string{t.store.Epoch(), r.kind, account, address} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return count{rule: r, key: h.Sum(nil)[:16]}
}

// Begin counts an attempt as a failed one, or refuses it with a [TooManyError] and
// counts nothing. Any other error is the store's. Names that [users.Normalize] to the same
// are one account, and what is no name at all is one, too. An IPv6 network of 64 bits
// is one address, as one customer has it; so are all addresses that are not known
// (the zero Addr).
func (t *Logins) Begin(ctx context.Context, name string, address netip.Addr, now time.Time) (*Attempt, error) {
	account, err := users.Normalize(name)
	if err != nil {
		account = ""
	}
	network := networkOf(address)
	counts := [2]count{t.count(byAccount, account, network), t.count(byAddress, "", network)}
	var wait time.Duration
	var added, dropped int64
	err = t.store.Write(ctx, func(tx store.Tx) (err error) {
		wait, added, dropped = 0, 0, 0
		for i := range counts {
			c := &counts[i]
			if err := c.load(tx, now.UnixMilli()); err != nil {
				return err
			}
			wait = max(wait, c.remaining(now))
			if !c.found {
				added++
			}
		}
		if wait > 0 {
			return nil
		}
		if dropped, err = t.makeRoom(tx, added); err != nil {
			return err
		}
		for i := range counts {
			if err := counts[i].add(tx, now.UnixMilli()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if wait > 0 {
		t.refused.Add(1)
		return nil, &TooManyError{RetryAfter: wait}
	}
	t.rows.Add(added - dropped)
	t.pruned.Add(dropped)
	return &Attempt{throttle: t, account: counts[0], address: counts[1]}, nil
}

func networkOf(address netip.Addr) string {
	address = address.Unmap()
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	network, _ := address.Prefix(bits) // in range, and without a zone
	return network.String()
}

// load reads what is counted under the key, nothing if it is to be forgotten.
func (c *count) load(tx store.Tx, now int64) error {
	*c = count{rule: c.rule, key: c.key}
	err := tx.QueryRow("SELECT failures, since, latest FROM attempts WHERE key = $1 FOR UPDATE", c.key).Scan(&c.failures, &c.since, &c.latest)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	c.found = true
	if now >= c.end() {
		c.failures, c.since, c.latest = 0, 0, 0
	}
	return err
}

// end is when the count is forgotten.
func (c *count) end() int64 {
	if c.failures < c.rule.free {
		return c.since + c.rule.window.Milliseconds()
	}
	return c.latest + (c.rule.wait(c.failures) + c.rule.window).Milliseconds()
}

// remaining is how long an attempt must still wait.
func (c *count) remaining(now time.Time) time.Duration {
	wait := c.rule.wait(c.failures)
	return min(wait, max(0, time.UnixMilli(c.latest).Add(wait).Sub(now))) // the clock of another replica may be ahead
}

// add counts an attempt.
func (c *count) add(tx store.Tx, now int64) error {
	if c.failures == 0 {
		c.since = now
	}
	c.failures++
	c.before, c.latest = c.latest, max(now, c.latest)
	insert := "INSERT INTO attempts (key, failures, since, latest, expires_at) VALUES ($1, $2, $3, $4, $5)"
	if c.found { // or makeRoom has just dropped it
		insert += " ON CONFLICT (key) DO UPDATE SET failures = $2, since = $3, latest = $4, expires_at = $5"
	}
	_, err := tx.Exec(insert, c.key, c.failures, c.since, c.latest, c.end()/1000+1)
	return err
}

// takeBack undoes add. While the wait of others depends on the time of this attempt,
// that goes back, too: who signs in delays nobody.
func (c *count) takeBack(tx store.Tx) error {
	_, err := tx.Exec("UPDATE attempts SET failures = failures - 1, latest = CASE WHEN latest = $1 THEN $2 ELSE latest END WHERE key = $3 AND since = $4",
		c.latest, c.before, c.key, c.since)
	if err != nil {
		return err
	}
	_, err = tx.Exec("DELETE FROM attempts WHERE key = $1 AND failures < 1", c.key)
	return err
}

// forget begins the count anew.
func (c *count) forget(tx store.Tx) error {
	_, err := tx.Exec("DELETE FROM attempts WHERE key = $1", c.key)
	return err
}

// Attempt is a login that was counted as a failed one. Of Succeeded and Withdraw the
// first call counts; without any it stays a failure.
type Attempt struct {
	throttle         *Logins
	account, address count
	over             atomic.Bool
}

// Succeeded begins the count of account and address anew, and takes the attempt back
// from that of the address: its other failures stay, or whoever has an account could
// wipe out the traces of guessing others'.
func (a *Attempt) Succeeded(ctx context.Context) error { return a.undo(ctx, (*count).forget) }

// Withdraw takes back an attempt in which no password was checked.
func (a *Attempt) Withdraw(ctx context.Context) error { return a.undo(ctx, (*count).takeBack) }

func (a *Attempt) undo(ctx context.Context, account func(*count, store.Tx) error) error {
	if a.over.Swap(true) {
		return nil
	}
	return a.throttle.store.Write(ctx, func(tx store.Tx) error {
		if err := account(&a.account, tx); err != nil {
			return err
		}
		return a.address.takeBack(tx)
	})
}

// makeRoom drops as many counts, the next to go, as are about to be added beyond the
// bound. The first call finds out how many there are.
func (t *Logins) makeRoom(tx store.Tx, added int64) (dropped int64, err error) {
	if t.rows.Load() == uncounted {
		n, err := countRows(tx)
		if err != nil {
			return 0, err
		}
		t.rows.CompareAndSwap(uncounted, n)
	}
	excess := t.rows.Load() + added - t.most
	if excess <= 0 {
		return 0, nil
	}
	return deleteSome(tx, soonest, min(excess, added)) // the rest is left to Prune
}

// soonest finds the counts that are forgotten next.
const soonest = "SELECT key FROM attempts ORDER BY expires_at LIMIT $1"

func countRows(tx store.Tx) (n int64, err error) {
	err = tx.QueryRow("SELECT count(*) FROM attempts").Scan(&n)
	return n, err
}

// deleteSome deletes the counts that a query finds.
func deleteSome(tx store.Tx, query string, args ...any) (n int64, err error) {
	res, err := tx.Exec("DELETE FROM attempts WHERE key IN ("+query+")", args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// Run prunes every minute until ctx ends.
func (t *Logins) Run(ctx context.Context) {
	failing := background.Condition{Log: t.log, Level: slog.LevelWarn, Begin: "pruning failed logins fails", End: "pruning failed logins works again"}
	background.Every(ctx, pruneAttempts, func() { failing.Fails(ctx, t.Prune(ctx, t.store.Now())) })
}

// Prune forgets the counts whose time is over, and what is beyond the bound on their
// number, in small transactions between other writes.
func (t *Logins) Prune(ctx context.Context, now time.Time) error {
	err := t.pruneAll(ctx, func(tx store.Tx) (int64, error) {
		return deleteSome(tx, "SELECT key FROM attempts WHERE expires_at < $2 ORDER BY expires_at LIMIT $1", pruneBatch, now.Unix())
	})
	if err != nil {
		return err
	}
	return t.pruneAll(ctx, func(tx store.Tx) (int64, error) { // replicas do not see what others add
		rows, err := countRows(tx)
		if err != nil {
			return 0, err
		}
		t.rows.Store(rows)
		if rows <= t.most {
			return 0, nil
		}
		return deleteSome(tx, soonest, min(pruneBatch, rows-t.most))
	})
}

// pruneAll repeats some until it deletes nothing.
func (t *Logins) pruneAll(ctx context.Context, some func(store.Tx) (int64, error)) error {
	for {
		var n int64
		err := t.store.Write(ctx, func(tx store.Tx) (err error) {
			n, err = some(tx)
			return err
		})
		if err != nil || n == 0 {
			return err
		}
		t.pruned.Add(n)
	}
}
