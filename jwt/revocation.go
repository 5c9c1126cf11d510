package jwt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultPoll   = 10 * time.Second
	defaultMaxAge = time.Minute
)

// ErrRevocationsUnknown is no verdict on a token: the verifier does not know which grants
// were revoked recently, and its options say that it accepts no token then. The answer
// to the client is 503, never 401.
var ErrRevocationsUnknown = errors.New("revoked grants not known")

// Reasons why a poll brought no news.
var (
	errNoFeed    = errors.New("the issuer has none")
	errOlderFeed = errors.New("older than the one before")
)

// RevocationOptions say where the feed is, and what happens without it. URL, Issuer and
// Keys are required.
type RevocationOptions struct {
	URL    string       // of the feed: /.well-known/revoked below the issuer
	Issuer string       // iss must be this very string
	Keys   KeySource    // the issuer's published keys
	Client *http.Client // as for [NewRemoteKeys]

	Poll   time.Duration // time between two polls of the feed; 0 is 10 s
	MaxAge time.Duration // age at which the feed becomes stale; 0 is a minute

	// FailClosed makes a [Verifier] accept no token, with or without a grant, while the
	// feed is stale or was never read ([ErrRevocationsUnknown]). Without it, tokens are
	// accepted until they expire, except for those of grants known to be revoked.
	FailClosed bool

	Log *slog.Logger // nil logs nothing
}

// RevocationFeed knows the grants that the issuer revoked recently. It polls the feed
// that the issuer signs ([Signer.SignFeed]) and answers from memory. It is safe for
// concurrent use.
//
// The feed is verified like an access token, and never goes back in time. A grant that
// was listed once counts as revoked until its last token is dead, also if a later feed
// leaves it out, and the time before which no token counts only moves forward. So an older feed, from a cache or a replica that lags behind, undoes
// nothing and makes nothing fresher. The age of the feed counts from the time at which
// the issuer last read its store, which is in the feed: a feed without news grows
// old. Clocks may differ by [Leeway].
type RevocationFeed struct {
	o      RevocationOptions
	client *http.Client

	known   atomic.Pointer[revocations]
	running atomic.Bool
	tried   chan struct{} // closed at the end of the first poll, good or not

	mu  sync.Mutex
	err error // error of the last poll
}

// revocations are the known revocations. They are never written.
type revocations struct {
	until   map[string]int64 // grant id to the Unix second at which its last token is dead
	issued  int64            // Unix second at which the issuer read its store
	from    int64            // Unix second of iat from which tokens count
	staleAt time.Time
	etag    string
}

// RevocationStatus is the state of a [RevocationFeed], for an operator.
type RevocationStatus struct {
	Issued     time.Time // time of the newest feed, by the issuer's clock; zero: none was read
	Stale      bool      // the newest feed is older than MaxAge, or none was read
	FailClosed bool      // a verifier accepts no token while the feed is stale
	Revoked    int       // number of grants that count as revoked
	Err        error     // error of the last poll; nil: it was good
}

// NewRevocationFeed returns a feed that knows no grant until [RevocationFeed.Run] runs,
// or an error that names the wrong option.
func NewRevocationFeed(o RevocationOptions) (*RevocationFeed, error) {
	switch {
	case o.URL == "":
		return nil, errors.New("revocation feed without a URL")
	case o.Issuer == "":
		return nil, errors.New("revocation feed without an issuer")
	case o.Keys == nil:
		return nil, errors.New("revocation feed without keys")
	case o.Poll < 0 || o.MaxAge < 0:
		return nil, errors.New("revocation feed with a negative duration")
	}
	o.Poll, o.MaxAge = cmp.Or(o.Poll, defaultPoll), cmp.Or(o.MaxAge, defaultMaxAge)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &RevocationFeed{o: o, client: isolated(o.Client), tried: make(chan struct{})}, nil
}

// Revoked reports whether a grant is known to be revoked. It never blocks. It does not
// consider the age of the feed; a [Verifier] that has the feed does.
func (f *RevocationFeed) Revoked(grantID string) bool {
	known := f.known.Load()
	if known == nil {
		return false
	}
	_, revoked := known.until[grantID]
	return revoked
}

// Status returns the state of the feed.
func (f *RevocationFeed) Status() RevocationStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := RevocationStatus{Stale: f.stale(time.Now()), FailClosed: f.o.FailClosed, Err: f.err}
	if known := f.known.Load(); known != nil {
		s.Issued, s.Revoked = time.Unix(known.issued, 0), len(known.until)
	}
	return s
}

func (f *RevocationFeed) stale(now time.Time) bool {
	known := f.known.Load()
	return known == nil || !now.Before(known.staleAt)
}

// check returns the verdict at now on a token with claims c.
func (f *RevocationFeed) check(c *Claims, now time.Time) error {
	if known := f.known.Load(); known != nil && c.IssuedAt < known.from || f.Revoked(c.GrantID) {
		return ErrRevoked
	}
	if f.o.FailClosed && f.stale(now) {
		return ErrRevocationsUnknown
	}
	return nil
}

// ready waits for the end of the first poll, so that a program which has just started
// does not accept the token of a revoked grant.
func (f *RevocationFeed) ready(ctx context.Context) error {
	if f.known.Load() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout) // the longest time of a poll
	defer cancel()
	wait(ctx, f.tried)
	if !f.running.Load() {
		return fmt.Errorf("%w: RevocationFeed.Run does not run", ErrRevocationsUnknown)
	}
	return nil
}

// Run polls the feed, at once and then every [RevocationOptions.Poll], until ctx ends.
// After a failed poll it tries again sooner. A second call of Run returns at once.
func (f *RevocationFeed) Run(ctx context.Context) {
	if f.running.Swap(true) {
		return
	}
	told := teller{log: f.o.Log, failClosed: f.o.FailClosed}
	failures := 0 // number of failed polls since the last good one
	for first := true; ; first = false {
		err := f.poll(ctx)
		if ctx.Err() != nil {
			return
		}
		told.tell(err, f.stale(time.Now()))
		if first {
			close(f.tried)
		}
		if failures++; err == nil {
			failures = 0
		}
		pause := time.NewTimer(f.pause(failures))
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}

// pause returns the time to the next poll after so many failures in a row: a second
// after the first one, because a proxy that has lost a server finds another one, and
// then longer.
func (f *RevocationFeed) pause(failures int) time.Duration {
	d := f.o.Poll
	if failures > 0 {
		d = min(d, time.Second<<min(failures-1, 10))
	}
	return d - rand.N(d/10+1) // replicas poll at different times, and never later than Poll
}

// poll reads the feed once and remembers its revocations.
func (f *RevocationFeed) poll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	next, err := f.get(ctx, f.known.Load())
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err = err; next != nil {
		f.known.Store(next)
	}
	return err
}

// get reads the feed once. It returns the revocations that are known then, nil if the
// answer is no feed.
func (f *RevocationFeed) get(ctx context.Context, old *revocations) (*revocations, error) {
	etag := ""
	if old != nil {
		etag = old.etag
	}
	resp, err := get(ctx, f.client, f.o.URL, "application/"+feedType, etag)
	if err != nil {
		return nil, fmt.Errorf("fetching the revocation feed: %w", err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && old != nil:
		return old, nil // the age stays: the issuer has read nothing new
	case resp.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("fetching the revocation feed: %w: %s answered %s", errNoFeed, f.o.URL, resp.Status)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("fetching the revocation feed: %s answered %s", f.o.URL, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxFeedSize+1))
	if err != nil {
		return nil, fmt.Errorf("fetching the revocation feed: %w", err)
	}
	now := time.Now()
	c, err := verifyFeed(ctx, f.o.Keys, f.o.Issuer, string(body), now)
	if err != nil {
		return nil, fmt.Errorf("revocation feed: %w", err)
	}
	next := f.take(c, old, now)
	next.etag = resp.Header.Get("ETag")
	if c.IssuedAt < next.issued {
		err = fmt.Errorf("revocation feed: %w", errOlderFeed)
	}
	return next, err
}

// take returns the revocations of c together with those of old.
func (f *RevocationFeed) take(c *FeedClaims, old *revocations, now time.Time) *revocations {
	const leeway = int64(Leeway / time.Second)
	next := &revocations{until: c.Revoked, issued: c.IssuedAt, from: min(c.NotBefore, c.IssuedAt+leeway)}
	// The issuer lists a grant from its revocation until its last token is dead.
	life := c.ExpiresAt - c.IssuedAt + leeway
	for id, at := range next.until {
		next.until[id] = min(at, c.IssuedAt+leeway) + life
	}
	next.staleAt = now.Add(f.o.MaxAge)
	if limit := time.Unix(c.IssuedAt, 0).Add(f.o.MaxAge + Leeway); limit.Before(next.staleAt) {
		next.staleAt = limit
	}
	if old == nil {
		return next
	}
	next.from = max(next.from, old.from)
	if c.IssuedAt <= old.issued {
		next.issued, next.staleAt = old.issued, old.staleAt
	}
	for id, until := range old.until {
		if until > now.Unix() {
			next.until[id] = max(until, next.until[id])
		}
	}
	next.bound()
	return next
}

// bound limits the memory that a feed can take. If there are more grants than an issuer
// that keeps its own limit can list, it forgets those whose tokens are dead first.
func (r *revocations) bound() {
	over := len(r.until) - 2*MaxRevoked
	if over <= 0 {
		return
	}
	ends := make([]int64, 0, len(r.until))
	for _, until := range r.until {
		ends = append(ends, until)
	}
	slices.Sort(ends)
	for id, until := range r.until {
		if until <= ends[over-1] {
			delete(r.until, id)
		}
	}
}

// teller logs when a feed begins to fail, when it becomes stale, and when it is fresh
// again.
type teller struct {
	log            *slog.Logger
	failClosed     bool
	failing, stale bool
}

func (t *teller) tell(err error, stale bool) {
	effect := "revoked access tokens are accepted until they expire"
	if t.failClosed {
		effect = "no access token is accepted"
	}
	// An older feed comes from a cache now and then. If no other comes, the feed becomes
	// stale.
	failing := err != nil && !errors.Is(err, errOlderFeed)
	switch {
	case failing && !t.failing && errors.Is(err, errNoFeed):
		t.log.Warn("the issuer has no revocation feed: "+effect, "err", err)
	case stale && !t.stale:
		t.log.Error("the revocation feed is stale: "+effect, "err", err)
	case failing && !t.failing:
		t.log.Warn("the revocation feed cannot be read; known revocations stay", "err", err)
	case !stale && (t.stale || t.failing && !failing):
		t.log.Info("the revocation feed is fresh again")
	}
	t.failing, t.stale = failing, stale
}
