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
	maxSetSize   = 1 << 20

	minAge     = time.Second
	defaultAge = 5 * time.Minute // for a set that does not say how long it is good
	maxAge     = time.Hour

	missInterval    = time.Minute     // between fetches for the sake of unknown key IDs
	maxBackoff      = time.Minute     // between fetches that fail
	maxEmptyBackoff = 5 * time.Second // the same while there is no set at all
)

// RemoteKeys is a [KeySource] that reads the JWK Set at a URL. It fetches when
// somebody asks and what it has is as old as the issuer allows (Cache-Control,
// RFC 9111 §5.2.2.1), and at most once a minute for a key ID it does not know.
// Whoever asks at the same time waits for the same fetch. While the issuer does
// not answer, or answers nonsense, the last good set stays in use; tries become
// rarer and nobody waits for them.
//
// A key that the issuer has withdrawn is unknown from the next fetch on.
type RemoteKeys struct {
	url    string
	client *http.Client
	set    atomic.Pointer[remoteSet]

	mu       sync.Mutex
	fetching chan struct{} // closed when the running fetch has ended; nil: none runs
	failures int           // in a row
	retryAt  time.Time     // the end of the pause after a failure
	missAt   time.Time     // the last fetch for an unknown key ID
	err      error         // of the last fetch
}

// remoteSet is a fetched set. It is never written.
type remoteSet struct {
	keys      map[string]*ecdsa.PublicKey
	etag      string
	refreshAt time.Time // fetch again from here on, without waiting for it
	staleAt   time.Time // wait for it
}

// NewRemoteKeys returns the keys at url, which is asked when they are first needed.
// A nil client means one that uses no proxy. Redirects are never followed and no
// cookies are kept, whatever client says: the keys of an issuer come from the URL
// that the operator wrote down.
func NewRemoteKeys(url string, client *http.Client) *RemoteKeys {
	return &RemoteKeys{url: url, client: isolated(client)}
}

// Prefetch gets the set if there is none yet, so that the first token need not wait.
// Its error says why there is none.
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

// Key implements [KeySource].
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
		// The issuer may sign with a key that it could not tell us about.
		return nil, r.unavailable(ctx)
	}
	// A fresh set has every key that signs, as issuers publish first. This is for
	// those that replaced a key in haste.
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

// wait returns when done is closed, at once when it is nil, or with ctx.
func wait(ctx context.Context, done <-chan struct{}) {
	if done == nil {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// fetch starts to replace the set old unless that is done already, under way, or
// too early after a failure. It returns what to wait for, if anything. forMiss says
// that an unknown key ID is the reason, and that it may be an invention.
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
	go r.replace(old, done) // ends with fetchTimeout at the latest
	return done
}

func (r *RemoteKeys) replace(old *remoteSet, done chan struct{}) {
	// Not the context of whoever asked first: others wait as well.
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

// get asks the issuer once.
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

// keepPointers makes equal keys of two sets the same pointer, which is quicker to
// compare for the verifier's cache.
func (s *remoteSet) keepPointers(old *remoteSet) {
	for kid, key := range s.keys {
		if same := old.keys[kid]; same != nil && same.Equal(key) {
			s.keys[kid] = same
		}
	}
}

// freshness is how long an answer may be used (RFC 9111 §4.2).
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

// isolated returns a client that follows no redirect and keeps no cookies, whatever
// client says, and if that is nil uses no proxy: what an issuer says comes from the
// URL that the operator wrote down.
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

// get asks for a document of the types accept, unless it is still the one that etag
// names.
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
