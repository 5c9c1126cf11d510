package jwt

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
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
// A key that the issuer has withdrawn is unknown from the next fetch on. RemoteKeys is
// safe for concurrent use.
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
	etag      string
	refreshAt time.Time // from then on a call fetches again, without waiting
	staleAt   time.Time // from then on a call waits for the fetch
}

// NewRemoteKeys returns the keys at url, which are fetched when they are first needed. A
// nil client means a client that uses no proxy. Whatever the client does, redirects are
// not followed and cookies are not kept: the keys of an issuer come from the URL that
// the operator has configured.
func NewRemoteKeys(url string, client *http.Client) *RemoteKeys {
	return &RemoteKeys{url: url, client: isolated(client)}
}

// Prefetch fetches the set if there is none yet, so that the first token need not wait.
// The error wraps [ErrKeysUnavailable] and the reason.
func (r *RemoteKeys) Prefetch(ctx context.Context) error {
	if r.set.Load() != nil {
		return nil
	}
	wait(ctx, r.fetch(nil, false))
	if r.set.Load() == nil {
		return r.unavailable(ctx)
	}
	return nil
}

// Key returns the key named kid, as a [KeySource] does. An error that wraps
// [ErrKeysUnavailable] wraps the reason, too.
func (r *RemoteKeys) Key(ctx context.Context, kid string) (*ecdsa.PublicKey, error) {
	now := time.Now()
	set := r.set.Load()
	switch {
	case set == nil:
		wait(ctx, r.fetch(nil, false))
	case !now.Before(set.staleAt):
		failing := r.failing()
		if done := r.fetch(set, false); !failing {
			wait(ctx, done)
		}
	case !now.Before(set.refreshAt):
		r.fetch(set, false)
	}
	if set = r.set.Load(); set == nil {
		return nil, r.unavailable(ctx)
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
	if key := r.set.Load().keys[kid]; key != nil {
		return key, nil
	}
	return nil, ErrUnknownKey
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
	if old == nil {
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
	age := freshness(resp.Header)
	now := time.Now()
	set.refreshAt, set.staleAt = now.Add(age*3/4), now.Add(age)
	if resp.StatusCode == http.StatusNotModified && old != nil {
		set.keys, set.etag = old.keys, old.etag
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

// freshness returns how long an answer may be used (RFC 9111 §4.2).
func freshness(h http.Header) time.Duration {
	age := defaultAge
	for _, directive := range strings.Split(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
		switch name {
		case "no-store", "no-cache":
			return minAge
		case "max-age":
			if n, err := strconv.Atoi(strings.Trim(value, `"`)); err == nil && n >= 0 {
				age = time.Duration(min(n, int(maxAge/time.Second))) * time.Second
			}
		}
	}
	if n, err := strconv.Atoi(h.Get("Age")); err == nil && n > 0 {
		age -= time.Duration(min(n, int(maxAge/time.Second))) * time.Second
	}
	return max(age, minAge)
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
