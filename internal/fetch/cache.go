package fetch

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	minFresh     = time.Minute
	maxFresh     = 24 * time.Hour
	defaultFresh = 5 * time.Minute

	kept     = 24 * time.Hour   // how long a document is used after that while its host is down
	downWait = 30 * time.Second // between attempts while it is
	failWait = 3 * time.Second  // the same, while there is no document at all

	maxEntries     = 1000
	maxSiteEntries = 50 // of one site
	maxWaiting     = 64 // calls that wait for one fetch
)

// Cache keeps what was made of documents, by URL. It is safe for concurrent use.
//
// A document is used as long as its host says, but for a minute at least and a day at
// most. Calls for one document at the same time share one fetch. While the host is down,
// its last good document stays in use, for a day; a document that is wrong is not kept, so
// that it can be mended at once.
type Cache[T any] struct {
	fetch Get
	limit int
	make  func(url string, body []byte) (T, error)

	mu      sync.Mutex
	entries map[string]*entry[T]
	flights map[string]*flight[T]
}

type entry[T any] struct {
	value   T
	err     error // of a host that is down, if there is no value
	site    string
	fetched time.Time // of the last attempt that gave the value
	fresh   time.Time // end of the time in which no fetch is needed
	kept    time.Time // end of the value
	retry   time.Time // no fetch before, because the host is down
	used    time.Time
}

// flight is a running fetch.
type flight[T any] struct {
	done    chan struct{}
	waiting int
	value   T // once done is closed
	err     error
}

// Get fetches one document, as [Fetcher.JSON] does.
type Get func(ctx context.Context, url string, limit int) (*Answer, error)

// NewCache returns a cache of documents of at most limit bytes, of which parse makes
// values. An error of parse is about the document.
func NewCache[T any](get Get, limit int, parse func(url string, body []byte) (T, error)) *Cache[T] {
	return &Cache[T]{fetch: get, limit: limit, make: parse, entries: map[string]*entry[T]{}, flights: map[string]*flight[T]{}}
}

// Held reports whether Get would return without a fetch.
func (c *Cache[T]) Held(url string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _, ok := c.held(url, time.Now())
	return ok
}

// Peek returns what was made of the document at url the last time, and whether there is
// something that may still be used. It never fetches.
func (c *Cache[T]) Peek(url string) (value T, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[url]
	if e == nil || !time.Now().Before(e.kept) {
		return value, false
	}
	return e.value, true
}

// Get returns what was made of the document at url. The errors are those of
// [Fetcher.JSON] and of the function that parses.
func (c *Cache[T]) Get(ctx context.Context, url string) (T, error) {
	c.mu.Lock()
	value, err, ok := c.held(url, time.Now())
	if ok {
		c.mu.Unlock()
		return value, err
	}
	return c.wait(ctx, url)
}

// Renewable reports whether Renew has something to do.
func (c *Cache[T]) Renewable(url string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.renewable(url, time.Now())
}

// Renew fetches the document again, if it is known and that was not done within the last
// minute: a client may have changed its keys. The errors are those of Get.
func (c *Cache[T]) Renew(ctx context.Context, url string) (err error) {
	c.mu.Lock()
	if !c.renewable(url, time.Now()) {
		c.mu.Unlock()
		return nil
	}
	_, err = c.wait(ctx, url)
	return err
}

func (c *Cache[T]) renewable(url string, now time.Time) bool {
	e := c.entries[url]
	return c.flights[url] != nil || e != nil && now.Sub(e.fetched) >= minFresh && !now.Before(e.retry)
}

// held returns what is at hand: a fresh value, or what there is while the host is down.
func (c *Cache[T]) held(url string, now time.Time) (value T, err error, ok bool) {
	e := c.entries[url]
	if e == nil {
		return value, nil, false
	}
	e.used = now
	down := now.Before(e.retry)
	switch {
	case now.Before(e.fresh), down && now.Before(e.kept):
		return e.value, nil, true
	case down && e.err != nil:
		return value, e.err, true
	}
	return value, nil, false
}

// wait joins the running fetch of url, or begins one. It is called with the lock held, and
// gives it back.
func (c *Cache[T]) wait(ctx context.Context, url string) (none T, _ error) {
	f := c.flights[url]
	switch {
	case f == nil:
		f = &flight[T]{done: make(chan struct{})}
		c.flights[url] = f
		go c.fly(url, f) // ends at the fetcher's timeout at the latest
	case f.waiting >= maxWaiting:
		c.mu.Unlock()
		return none, ErrBusy
	}
	f.waiting++
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		c.mu.Lock()
		f.waiting--
		c.mu.Unlock()
		return none, context.Cause(ctx)
	}
}

// fly fetches the document. It does not use the context of the first caller, because
// others wait for it as well.
func (c *Cache[T]) fly(url string, f *flight[T]) {
	var value T
	answer, err := c.fetch(context.Background(), url, c.limit)
	if err == nil {
		value, err = c.make(url, answer.Body)
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(f.done)
	delete(c.flights, url)
	old := c.entries[url]
	switch {
	case err == nil:
		fresh := answer.Fresh
		if fresh < 0 {
			fresh = defaultFresh
		}
		until := now.Add(min(max(fresh, minFresh), maxFresh))
		c.put(url, &entry[T]{value: value, fetched: now, fresh: until, kept: until.Add(kept), used: now})
	case errors.Is(err, ErrDown) || errors.Is(err, ErrBusy):
		if old != nil && now.Before(old.kept) {
			value, err = old.value, nil
			old.retry = now.Add(downWait)
		} else if errors.Is(err, ErrDown) {
			c.put(url, &entry[T]{err: err, retry: now.Add(failWait), used: now})
		}
	default:
		delete(c.entries, url)
	}
	f.value, f.err = value, err
}

// put keeps an entry. If there are too many, of this site or of all, the one that was not
// used for the longest time goes.
func (c *Cache[T]) put(url string, e *entry[T]) {
	e.site = siteOf(hostOf(url))
	delete(c.entries, url)
	var oldest, oldestOfSite string
	ofSite := 0
	for other, o := range c.entries {
		if oldest == "" || o.used.Before(c.entries[oldest].used) {
			oldest = other
		}
		if o.site != e.site {
			continue
		}
		if ofSite++; oldestOfSite == "" || o.used.Before(c.entries[oldestOfSite].used) {
			oldestOfSite = other
		}
	}
	switch {
	case ofSite >= maxSiteEntries:
		delete(c.entries, oldestOfSite)
	case len(c.entries) >= maxEntries:
		delete(c.entries, oldest)
	}
	c.entries[url] = e
}
