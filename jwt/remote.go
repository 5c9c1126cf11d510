package jwt

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	fetchTimeout = 5 * time.Second
	maxSetSize   = 1 << 20 // bytes

	minAge     = time.Second
	defaultAge = 5 * time.Minute // of a set without Cache-Control
	maxAge     = time.Hour

	defaultKept = 24 * time.Hour       // life of a set without stale-if-error
	maxKept     = 366 * 24 * time.Hour // longest life of a set
	maxFormer   = 100                  // former keys to remember

	missInterval    = time.Minute     // between fetches because of unknown key IDs
	maxBackoff      = time.Minute     // between failing fetches
	maxEmptyBackoff = 5 * time.Second // between failing fetches while there is no set at all
)

// RemoteKeys is a [KeySource] that reads the JWK Set at a URL (RFC 7517 §5). It fetches
// the set when a key is asked for and the set is as old as the issuer allows
// (Cache-Control, RFC 9111 §5.2.2.1; between a second and an hour), and at most once a
// minute for an unknown key ID. Calls at the same time wait for the same fetch, which
// takes five seconds at most. While the issuer does not answer, or answers with anything
// but a set of keys, the last good set stays in use; fetches become rarer, up to one a
// minute, and calls do not wait for them.
//
// A set that cannot be replaced comes to its end, because by then the issuer may sign with
// other keys, and may have withdrawn these: max-age and stale-if-error (RFC 5861 §4) after
// the issuer's answer, which is one period of the signing keys of a Signet issuer; a day
// if the answer has no stale-if-error. From then on there are no keys.
//
// A key that the issuer has withdrawn is unknown from the next fetch on. A key ID that was
// never in a set has no verdict as long as the set may not be fetched again: the issuer may
// have published the key since. RemoteKeys is safe for concurrent use.
type RemoteKeys struct {
	url    string
	client *http.Client
	set    atomic.Pointer[remoteSet]

	mu       sync.Mutex
	fetching chan struct{} // closed at the end of the running fetch; nil: none runs
	failures int           // number of failed fetches since the last good one
	retryAt  time.Time     // end of the pause after a failure
	missAt   time.Time     // time of the last fetch for an unknown key ID
	err      error         // error of the last fetch
}

// remoteSet is a fetched set. It is never written.
type remoteSet struct {
	keys      map[string]*ecdsa.PublicKey
	former    map[string]bool // key IDs of earlier sets that are not in this one
	etag      string
	refreshAt time.Time // from then on a call fetches again, without waiting
	staleAt   time.Time // from then on a call waits for the fetch
	endsAt    time.Time // from then on the set is not used
}

// NewRemoteKeys returns the keys at url, which are fetched when they are first needed. A
// nil client means a client that uses no proxy. Whatever the client does, redirects are
// not followed and cookies are not kept: the keys of an issuer come from the URL that
// the operator has configured.
func NewRemoteKeys(url string, client *http.Client) *RemoteKeys {
	return &RemoteKeys{url: url, client: isolated(client)}
}

// Prefetch fetches the set if there is none that may be used, so that the first token need
// not wait. The error wraps [ErrKeysUnavailable] and the reason.
func (r *RemoteKeys) Prefetch(ctx context.Context) error {
	if old, ok := r.usable(time.Now()); !ok {
		wait(ctx, r.fetch(old, false))
	}
	if _, ok := r.usable(time.Now()); !ok {
		return r.unavailable(ctx)
	}
	return nil
}

// usable returns the last good set, nil if there is none, and whether it has not ended at now.
func (r *RemoteKeys) usable(now time.Time) (set *remoteSet, ok bool) {
	set = r.set.Load()
	return set, set != nil && now.Before(set.endsAt)
}

// Key returns the key named kid, as a [KeySource] does. An error that wraps
// [ErrKeysUnavailable] wraps the reason, too.
func (r *RemoteKeys) Key(ctx context.Context, kid string) (*ecdsa.PublicKey, error) {
	now := time.Now()
	set, ok := r.usable(now)
	if !ok || !now.Before(set.refreshAt) {
		r.renew(ctx, set, now)
		if set, ok = r.usable(time.Now()); !ok {
			return nil, r.unavailable(ctx)
		}
	}
	if key := set.keys[kid]; key != nil {
		return key, nil
	}
	if !now.Before(set.staleAt) {
		// The issuer may sign with a key that is not in this stale set.
		return nil, r.unavailable(ctx)
	}
	// A fresh set has every key that signs, because issuers publish a key before they
	// sign with it, except for one that replaced its key in haste.
	wait(ctx, r.fetch(set, true))
	next := r.set.Load()
	if key := next.keys[kid]; key != nil {
		return key, nil
	}
	if next == set && !set.former[kid] {
		return nil, fmt.Errorf("%w: the set without this key ID may not be the newest", ErrKeysUnavailable)
	}
	return nil, ErrUnknownKey
}

// renew starts to replace a set, which may be nil, once its time for that has come. It waits for
// the result if the set has ended, or is stale and fetches succeed.
func (r *RemoteKeys) renew(ctx context.Context, set *remoteSet, now time.Time) {
	ended := set == nil || !now.Before(set.endsAt)
	patient := ended || !now.Before(set.staleAt) && !r.failing()
	if done := r.fetch(set, false); patient {
		wait(ctx, done)
	}
}

func (r *RemoteKeys) failing() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failures > 0
}

func (r *RemoteKeys) unavailable(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.err
	if ctx.Err() != nil || err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		return ErrKeysUnavailable
	}
	return fmt.Errorf("%w: %w", ErrKeysUnavailable, err)
}

// wait returns when done is closed or ctx ends, and at once if done is nil.
func wait(ctx context.Context, done <-chan struct{}) {
	if done == nil {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// fetch starts to replace the set old, unless it is replaced already, a fetch is
// running, or the pause after a failure lasts. It returns a channel that closes at the
// end of the fetch, nil if there is none. forMiss means that the reason is an unknown
// key ID, which may be an invention.
func (r *RemoteKeys) fetch(old *remoteSet, forMiss bool) <-chan struct{} {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.set.Load() != old:
		return nil
	case r.fetching != nil:
		return r.fetching
	case now.Before(r.retryAt):
		return nil
	case forMiss && !r.missAt.IsZero() && now.Sub(r.missAt) < missInterval:
		return nil
	}
	if forMiss {
		r.missAt = now
	}
	done := make(chan struct{})
	r.fetching = done
	go r.replace(old, done) // ends after fetchTimeout at the latest
	return done
}

// replace fetches the set and closes done.
func (r *RemoteKeys) replace(old *remoteSet, done chan struct{}) {
	// Not the context of the first caller, because others wait for the fetch as well.
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	set, err := r.get(ctx, old)
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	defer close(done)
	r.fetching, r.err = nil, err
	if err == nil {
		r.failures, r.retryAt = 0, time.Time{}
		r.set.Store(set)
		return
	}
	limit := maxBackoff
	if old == nil || !now.Before(old.endsAt) {
		limit = maxEmptyBackoff
	}
	r.retryAt = now.Add(min(time.Second<<min(r.failures, 10), limit))
	r.failures++
}

// get fetches the set once.
func (r *RemoteKeys) get(ctx context.Context, old *remoteSet) (*remoteSet, error) {
	etag := ""
	if old != nil {
		etag = old.etag
	}
	resp, err := get(ctx, r.client, r.url, "application/jwk-set+json, application/json", etag)
	if err != nil {
		return nil, fmt.Errorf("fetching keys: %w", err)
	}
	defer resp.Body.Close()
	set := &remoteSet{etag: resp.Header.Get("ETag")}
	fresh, kept := lives(resp.Header)
	if kept <= 0 {
		return nil, errors.New("fetching keys: a cache answered with a set that has ended")
	}
	now := time.Now()
	set.refreshAt, set.staleAt, set.endsAt = now.Add(fresh*3/4), now.Add(fresh), now.Add(kept)
	if resp.StatusCode == http.StatusNotModified && old != nil {
		set.keys, set.former, set.etag = old.keys, old.former, old.etag
		return set, nil
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetching keys: %s answered %s", r.url, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxSetSize+1))
	if err != nil {
		return nil, fmt.Errorf("fetching keys: %w", err)
	}
	if len(body) > maxSetSize {
		return nil, errors.New("fetching keys: the set is too long")
	}
	if set.keys, err = parseSet(body); err != nil {
		return nil, fmt.Errorf("fetching keys: %w", err)
	}
	if old != nil {
		set.keepPointers(old)
		set.remember(old)
	}
	return set, nil
}

// keepPointers gives equal keys of two sets the same pointer, which the verifier's cache
// compares faster.
func (s *remoteSet) keepPointers(old *remoteSet) {
	for kid, key := range s.keys {
		if same := old.keys[kid]; same != nil && same.Equal(key) {
			s.keys[kid] = same
		}
	}
}

// remember notes the key IDs that left the set: a token that names one has a verdict.
func (s *remoteSet) remember(old *remoteSet) {
	s.former = map[string]bool{}
	for _, earlier := range []iter.Seq[string]{maps.Keys(old.keys), maps.Keys(old.former)} {
		for kid := range earlier {
			if s.keys[kid] == nil && len(s.former) < maxFormer {
				s.former[kid] = true
			}
		}
	}
}

// lives returns for how long an answer is fresh (RFC 9111 §4.2), and for how long it may
// be used while no other comes (RFC 5861 §4). Both count from the time at which the issuer
// answered. What is no longer fresh is so for minAge at least.
func lives(h http.Header) (fresh, kept time.Duration) {
	fresh, kept = defaultAge, defaultKept
	cacheable, stale := true, time.Duration(-1)
	for _, directive := range strings.Split(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
		switch name {
		case "no-store", "no-cache":
			cacheable = false
		case "max-age":
			fresh = seconds(value, fresh)
		case "stale-if-error":
			stale = seconds(value, stale)
		}
	}
	if stale >= 0 {
		kept = max(fresh+stale, minAge)
	}
	if !cacheable {
		fresh = 0
	}
	age := seconds(h.Get("Age"), 0)
	return max(min(fresh, maxAge)-age, minAge), min(kept, maxKept) - age
}

// seconds reads a delta-seconds (RFC 9111 §1.2.2). Anything else is instead.
func seconds(value string, instead time.Duration) time.Duration {
	n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 63)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return instead
	}
	return time.Duration(min(n, uint64(maxKept/time.Second))) * time.Second
}

// isolated returns a copy of client that follows no redirect and keeps no cookies, or if
// client is nil, such a client that uses no proxy: the documents of an issuer come from
// the URL that the operator has configured.
func isolated(client *http.Client) *http.Client {
	c := http.Client{}
	if client != nil {
		c = *client
	} else if t, ok := http.DefaultTransport.(*http.Transport); ok {
		t = t.Clone()
		t.Proxy = nil
		c.Transport = t
	}
	c.Jar = nil
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

// get requests a document of the types accept, if it is not the one that etag names.
func get(ctx context.Context, client *http.Client, url, accept, etag string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	return client.Do(req)
}
