package fetch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// host plays the hosts of a cache's documents.
type host struct {
	mu    sync.Mutex
	body  string
	fresh time.Duration
	err   error
	delay time.Duration
	count int
}

func (h *host) fetch(ctx context.Context, _ string, _ int) (*Answer, error) {
	h.mu.Lock()
	h.count++
	body, fresh, err, delay := h.body, h.fresh, h.err, h.delay
	h.mu.Unlock()
	time.Sleep(delay)
	if err != nil {
		return nil, err
	}
	return &Answer{Body: []byte(body), Fresh: fresh}, nil
}

func (h *host) set(body string, fresh time.Duration, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.body, h.fresh, h.err = body, fresh, err
}

func (h *host) asked() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, h.count = h.count, 0
	return n
}

var errWrong = errors.New("wrong document")

// newTestCache makes a cache in front of a host. A document "wrong" is refused.
func newTestCache() (*Cache[string], *host) {
	h := &host{body: "one", fresh: 10 * time.Minute}
	c := NewCache(h.fetch, 100, func(_ string, body []byte) (string, error) {
		if string(body) == "wrong" {
			return "", errWrong
		}
		return string(body), nil
	})
	return c, h
}

const someURL = "https://client.test/m.json"

func want(t *testing.T, c *Cache[string], h *host, when, value string, err error, fetches int) {
	t.Helper()
	got, gotErr := c.Get(t.Context(), someURL)
	if n := h.asked(); got != value || !errors.Is(gotErr, err) || (gotErr != nil) != (err != nil) || n != fetches {
		t.Errorf("%s: %q, %v after %d fetches; want %q, %v after %d", when, got, gotErr, n, value, err, fetches)
	}
}

func TestDocumentIsKeptAsLongAsItsHostSays_I08(t *testing.T) {
	for _, tt := range []struct{ says, kept time.Duration }{
		{10 * time.Minute, 10 * time.Minute}, {0, minFresh}, {time.Second, minFresh}, {-1, defaultFresh}, {48 * time.Hour, maxFresh},
	} {
		synctest.Test(t, func(t *testing.T) {
			c, h := newTestCache()
			h.set("one", tt.says, nil)
			want(t, c, h, "first", "one", nil, 1)
			h.set("two", tt.says, nil)
			time.Sleep(tt.kept - time.Second)
			want(t, c, h, fmt.Sprint(tt.says, ", before its end"), "one", nil, 0)
			if !c.Held(someURL) {
				t.Error("not held")
			}
			time.Sleep(time.Second)
			if c.Held(someURL) {
				t.Error("still held")
			}
			want(t, c, h, fmt.Sprint(tt.says, ", at its end"), "two", nil, 1)
		})
	}
}

func TestWrongDocumentIsNotKept_I05(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, h := newTestCache()
		h.set("wrong", time.Hour, nil)
		want(t, c, h, "wrong", "", errWrong, 1)
		want(t, c, h, "wrong again", "", errWrong, 1)
		h.set("one", time.Minute, nil)
		want(t, c, h, "mended", "one", nil, 1)
		h.set("wrong", time.Hour, nil)
		time.Sleep(time.Minute)
		want(t, c, h, "wrong now", "", errWrong, 1)
		want(t, c, h, "the good one is gone", "", errWrong, 1)
	})
}

func TestLastGoodDocumentIsUsedWhileTheHostIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, h := newTestCache()
		want(t, c, h, "first", "one", nil, 1)
		h.set("", 0, fmt.Errorf("%w: refused", ErrDown))
		time.Sleep(10 * time.Minute)
		want(t, c, h, "down", "one", nil, 1)
		want(t, c, h, "asked a moment ago", "one", nil, 0)
		time.Sleep(downWait)
		want(t, c, h, "down, later", "one", nil, 1)
		h.set("", 0, ErrBusy)
		time.Sleep(downWait)
		want(t, c, h, "busy", "one", nil, 1)
		h.set("", 0, ErrDown)
		time.Sleep(kept)
		want(t, c, h, "its end", "", ErrDown, 1)
		want(t, c, h, "after its end", "", ErrDown, 0)
		h.set("two", time.Minute, nil)
		time.Sleep(failWait)
		want(t, c, h, "up again", "two", nil, 1)
	})
}

func TestOutageIsRememberedForSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, h := newTestCache()
		h.set("one", time.Minute, ErrDown)
		want(t, c, h, "down", "", ErrDown, 1)
		want(t, c, h, "down again", "", ErrDown, 0)
		h.set("one", time.Minute, nil)
		time.Sleep(failWait)
		want(t, c, h, "up", "one", nil, 1)
		h.set("", 0, ErrBusy)
		if _, err := c.Get(t.Context(), "https://other.test/m.json"); !errors.Is(err, ErrBusy) {
			t.Error(err)
		}
		h.set("two", time.Minute, nil)
		if v, err := c.Get(t.Context(), "https://other.test/m.json"); v != "two" || err != nil {
			t.Errorf("after a busy moment: %q, %v", v, err)
		}
	})
}

func TestCallsAtTheSameTimeShareOneFetch_I07(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, h := newTestCache()
		h.delay = time.Second
		results := make(chan error, 2*maxWaiting)
		for range 2 * maxWaiting {
			go func() {
				v, err := c.Get(context.Background(), someURL)
				if err == nil && v != "one" {
					err = errors.New(v)
				}
				results <- err
			}()
		}
		busy := 0
		for range 2 * maxWaiting {
			if err := <-results; errors.Is(err, ErrBusy) {
				busy++
			} else if err != nil {
				t.Error(err)
			}
		}
		if n := h.asked(); n != 1 || busy != maxWaiting {
			t.Errorf("%d fetches, %d calls refused; want 1 and %d", n, busy, maxWaiting)
		}
		h.set("one", 0, nil)
		time.Sleep(time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := c.Get(ctx, someURL); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a caller that gives up: %v", err)
		}
		want(t, c, h, "the fetch went on", "one", nil, 1)
	})
}

// Renew fetches a document anew once a minute at most. What is at hand is used meanwhile.
func TestRenewFetchesOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, h := newTestCache()
		renew := func(when string, value string, fetches int) {
			t.Helper()
			if got := c.Renewable(someURL); got != (fetches > 0) {
				t.Errorf("%s: renewable: %v", when, got)
			}
			err := c.Renew(t.Context(), someURL)
			got, ok := c.Peek(someURL)
			if n := h.asked(); got != value || ok != (value != "") || n != fetches || err != nil {
				t.Errorf("%s: %q, %v after %d fetches, %v; want %q after %d", when, got, ok, n, err, value, fetches)
			}
		}
		renew("nothing yet", "", 0)
		want(t, c, h, "first", "one", nil, 1)
		h.set("two", time.Hour, nil)
		renew("at once", "one", 0)
		time.Sleep(minFresh - time.Millisecond)
		renew("before a minute", "one", 0)
		time.Sleep(time.Millisecond)
		h.delay = time.Second
		go c.Renew(context.Background(), someURL)
		synctest.Wait()
		if got, _ := c.Peek(someURL); got != "one" || !c.Renewable(someURL) {
			t.Errorf("%q while a fetch runs, want one, and that it can be waited for", got)
		}
		renew("a minute later, beside another caller", "two", 1)
		h.set("", 0, ErrDown)
		time.Sleep(minFresh)
		renew("down", "two", 1)
		renew("down, again", "two", 0)
		time.Sleep(time.Hour + kept)
		if _, ok := c.Peek(someURL); ok {
			t.Error("there is still a document after its end")
		}
	})
}

// A site cannot push the documents of others out of the cache, and all sites together
// cannot make it grow.
func TestCacheIsBounded_I08(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, h := newTestCache()
		want(t, c, h, "first", "one", nil, 1)
		for i := range 3 * maxSiteEntries {
			time.Sleep(time.Millisecond)
			if _, err := c.Get(t.Context(), fmt.Sprintf("https://h%d.evil.test/m.json", i)); err != nil {
				t.Fatal(err)
			}
		}
		h.asked()
		want(t, c, h, "after a flood of one site", "one", nil, 0)
		if n := len(c.entries); n != maxSiteEntries+1 {
			t.Errorf("%d entries, want %d", n, maxSiteEntries+1)
		}
		for i := range 2 * maxEntries {
			time.Sleep(time.Millisecond)
			if _, err := c.Get(t.Context(), fmt.Sprintf("https://evil%d.test/m.json", i)); err != nil {
				t.Fatal(err)
			}
			if i%100 == 0 {
				h.asked()
				want(t, c, h, "in use", "one", nil, 0)
			}
		}
		if n := len(c.entries); n != maxEntries {
			t.Errorf("%d entries, want %d", n, maxEntries)
		}
	})
}
