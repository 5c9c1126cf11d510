// Package throttle refuses logins and requests that come too often. [Logins] counts failed
// logins in the store, for all replicas together. [Requests] limits how many requests one
// process takes a minute.
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
	RetryAfter time.Duration // more than 0; round it up to whole seconds
}

func (e *TooManyError) Error() string {
	return fmt.Sprintf("%v: wait %v", ErrTooMany, e.RetryAfter)
}

func (e *TooManyError) Unwrap() error { return ErrTooMany }

// Logins makes guessing passwords slow (OAuth 2.1 §7.7). It counts failed logins by account
// and address together, and by address alone, in the store for all replicas. It counts
// nothing by account alone, or a stranger could lock a user out: the right password from an
// address without failures always works.
//
// An attempt counts as failed from its beginning, before a hash is computed, so attempts
// at the same time are all counted. On SQLite a power loss may forget the latest counts: no login
// waits for the disk. A login goes like this, with now from
// [store.Store.Now], whether or not the name is a user's:
//
//	attempt, err := logins.Begin(ctx, name, address, now)
//	var throttled *throttle.TooManyError
//	switch {
//	case errors.As(err, &throttled): // 429, Retry-After: throttled.RetryAfter, rounded up
//	case err != nil: // 503: without the store no login begins
//	}
//	user, err := source.Check(ctx, name, password)
//	ctx = context.WithoutCancel(ctx) // the client may have gone; limit the time
//	switch {
//	case err == nil:
//		attempt.Succeeded(ctx) // log its error: the user is signed in all the same
//	case errors.Is(err, users.ErrInvalid): // 401; the attempt stays counted
//	default: // 503: busy, or the source cannot tell
//		attempt.Withdraw(ctx)
//	}
//
// The attempt of a client that goes away meanwhile counts as any other. After a panic in Check
// it is withdrawn.
//
// The store gets hashes only, so it has no unknown names, which may be passwords typed into
// the wrong field. Counts are forgotten with time, and their number is bounded: beyond the
// bound, the counts that would be forgotten next are dropped.
type Logins struct {
	store *store.Store
	log   *slog.Logger
	most  int64 // bound on the number of counts

	rows            atomic.Int64 // number of counts as far as this process knows; uncounted at first
	refused, pruned atomic.Int64
}

const (
	maxBackoff = 15 * time.Minute
	maxCounts  = 100_000 // 10 MB

	pruneAttempts = time.Minute // interval
	pruneBatch    = 200         // rows in one transaction, few enough that no login waits noticeably
	uncounted     = -1
)

// NewLogins returns the counts in the store. A nil log logs nothing.
func NewLogins(st *store.Store, log *slog.Logger) *Logins {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	t := &Logins{store: st, log: log, most: maxCounts}
	t.rows.Store(uncounted)
	return t
}

// Stats are numbers for operators, since the start.
type Stats struct {
	Refused int64 // attempts that had to wait
	Pruned  int64 // counts that were forgotten after their time, or dropped for lack of room
}

// Stats returns the counters.
func (t *Logins) Stats() Stats {
	return Stats{Refused: t.refused.Load(), Pruned: t.pruned.Load()}
}

// rule says how long an attempt waits after failures of one kind.
type rule struct {
	kind   string
	free   int64         // failures that cost no wait
	window time.Duration // time of the free failures; a longer count is forgotten after so long without a failure
}

var (
	byAccount = rule{"account", 5, 24 * time.Hour}
	byAddress = rule{"address", 30, 10 * time.Minute}
)

// wait returns how long the next attempt waits after the latest of n failures: a second
// once the free ones are used up, and twice as long after each further one.
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
	since    int64 // time of the first failure, which also distinguishes this count from a later one of the same key
	latest   int64 // time of the latest failure
	before   int64 // latest before this attempt
}

func (t *Logins) count(r rule, account, address string) count {
	h := sha256.New()
	for _, part := range []string{t.store.Epoch(), r.kind, account, address} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return count{rule: r, key: h.Sum(nil)[:16]}
}

// Begin counts an attempt as a failed one, or refuses it with a [TooManyError] and counts
// nothing. Any other error is the store's. Names with the same form by [users.Normalize] are
// one account, and so are all texts that are no names. An IPv6 network of 64 bits, which
// one customer has, is one address. An attempt from an unknown address (the zero Addr) is
// counted by its account alone, together with the others from unknown addresses: it may be
// anybody's, so its failures must not refuse the logins of other accounts.
func (t *Logins) Begin(ctx context.Context, name string, address netip.Addr, now time.Time) (*Attempt, error) {
	account, err := users.Normalize(name)
	if err != nil {
		account = ""
	}
	network := Network(address)
	counts := []count{t.count(byAccount, account, network)}
	if address.IsValid() {
		counts = append(counts, t.count(byAddress, "", network))
	}
	var wait time.Duration
	var added, dropped int64
	err = t.store.WriteUnsynced(ctx, func(tx store.Tx) (err error) {
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
	return &Attempt{throttle: t, account: counts[0], address: counts[1:]}, nil
}

// Network returns what limits take for one caller's address: an IPv4 address, or a network
// of 64 bits, which one customer has.
func Network(address netip.Addr) string {
	address = address.Unmap()
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	network, _ := address.Prefix(bits) // bits is in range, and the result has no zone
	return network.String()
}

// load reads the count of the key. A count whose time is over is empty.
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

// end returns when the count is forgotten.
func (c *count) end() int64 {
	if c.failures < c.rule.free {
		return c.since + c.rule.window.Milliseconds()
	}
	return c.latest + (c.rule.wait(c.failures) + c.rule.window).Milliseconds()
}

// remaining returns how long an attempt must still wait.
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
	if c.found { // although makeRoom may have dropped it
		insert += " ON CONFLICT (key) DO UPDATE SET failures = $2, since = $3, latest = $4, expires_at = $5"
	}
	_, err := tx.Exec(insert, c.key, c.failures, c.since, c.latest, c.end()/1000+1)
	return err
}

// takeBack undoes add. If the wait of other logins depends on the time of this attempt, the
// time goes back too: a successful login delays no other one.
func (c *count) takeBack(tx store.Tx) error {
	_, err := tx.Exec("UPDATE attempts SET failures = failures - 1, latest = CASE WHEN latest = $1 THEN $2 ELSE latest END WHERE key = $3 AND since = $4",
		c.latest, c.before, c.key, c.since)
	if err != nil {
		return err
	}
	_, err = tx.Exec("DELETE FROM attempts WHERE key = $1 AND failures < 1", c.key)
	return err
}

// forget deletes the count.
func (c *count) forget(tx store.Tx) error {
	_, err := tx.Exec("DELETE FROM attempts WHERE key = $1", c.key)
	return err
}

// Attempt is a login that was counted as a failed one. The first call of Succeeded or
// Withdraw takes effect; without a call it stays a failure.
type Attempt struct {
	throttle *Logins
	account  count
	address  []count // empty if the address is unknown
	over     atomic.Bool
}

// Succeeded deletes the count of account and address, and takes the attempt back from the
// count of the address. The address's other failures stay, or a user could guess other
// users' passwords and hide it by signing in.
func (a *Attempt) Succeeded(ctx context.Context) error { return a.undo(ctx, (*count).forget) }

// Withdraw takes back an attempt in which no password was checked.
func (a *Attempt) Withdraw(ctx context.Context) error { return a.undo(ctx, (*count).takeBack) }

func (a *Attempt) undo(ctx context.Context, account func(*count, store.Tx) error) error {
	if a.over.Swap(true) {
		return nil
	}
	return a.throttle.store.WriteUnsynced(ctx, func(tx store.Tx) error {
		if err := account(&a.account, tx); err != nil {
			return err
		}
		for i := range a.address {
			if err := a.address[i].takeBack(tx); err != nil {
				return err
			}
		}
		return nil
	})
}

// makeRoom drops the counts that are forgotten next, as many as are about to be added beyond
// the bound. The first call counts the rows.
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
	return deleteSome(tx, soonest, min(excess, added)) // Prune drops the rest
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
	background.Every(ctx, pruneAttempts, func() { failing.Fails(ctx, t.Prune(ctx, t.store.Sure())) })
}

// Prune deletes the counts whose time is over, and those beyond the bound, in small
// transactions between other writes.
func (t *Logins) Prune(ctx context.Context, now time.Time) error {
	err := t.pruneAll(ctx, func(tx store.Tx) (int64, error) {
		return deleteSome(tx, "SELECT key FROM attempts WHERE expires_at < $2 ORDER BY expires_at LIMIT $1", pruneBatch, now.Unix())
	})
	if err != nil {
		return err
	}
	return t.pruneAll(ctx, func(tx store.Tx) (int64, error) { // other replicas have added counts
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

// pruneAll calls some until it deletes nothing.
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
