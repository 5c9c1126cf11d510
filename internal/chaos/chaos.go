// Package chaos is a middleware for authors of clients. It does what a server may do and
// seldom does: answers to refreshes are lost after they were committed, token requests
// are refused for a moment, documents have unknown members in another order, and header
// names are in another case. Keys and access tokens live for seconds.
//
// What happens to the nth request of a path depends on the seed, the path and n alone,
// so a run in which a client fails can be repeated.
package chaos

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"signet/internal/background"
)

// While there is chaos, signing keys and access tokens live no longer than this.
const (
	KeyRotation = 20 * time.Second
	AccessTTL   = 30 * time.Second
)

// Header marks every answer.
const Header = "Signet-Chaos"

// What happens to one answer of a hundred.
const (
	lostOf100 = 5 // answers to refreshes that are lost after they were committed
	busyOf100 = 2 // token requests that are answered with 503 before anything is done
)

// maxPaths bounds the paths that are counted: a caller may make them up.
const maxPaths = 1000

type chaos struct {
	seed uint64
	log  *slog.Logger
	next http.Handler

	mu    sync.Mutex
	count map[string]uint64 // requests, by path
}

// Handler returns next with chaos in its answers.
func Handler(seed uint64, log *slog.Logger, next http.Handler) http.Handler {
	return &chaos{seed: seed, log: log, next: next, count: map[string]uint64{}}
}

// Warn logs once a minute, until ctx ends, that there is chaos.
func Warn(ctx context.Context, seed uint64, log *slog.Logger) {
	warn := func() {
		log.Warn("CHAOS: answers are lost, refused and distorted on purpose; not for production", "seed", seed)
	}
	warn()
	background.Every(ctx, time.Minute, warn)
}

func (c *chaos) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(Header, fmt.Sprintf("seed=%d", c.seed))
	d := c.dice(r.URL.Path)
	out := &otherCase{ResponseWriter: w, d: d}
	switch {
	case strings.HasSuffix(r.URL.Path, "/token"):
		c.token(out, r, d)
	case isDocument(r.URL.Path):
		distort(out, c.capture(r), d, r.URL.Path)
	default:
		c.next.ServeHTTP(out, r)
	}
}

func isDocument(path string) bool {
	for _, end := range []string{"/register", "/userinfo", "/introspect", "/readyz"} {
		if strings.HasSuffix(path, end) {
			return true
		}
	}
	return strings.Contains(path, "/.well-known/")
}

// dice are the random numbers of the nth request of a path.
type dice struct {
	*rand.Rand
	n uint64
}

func (c *chaos) dice(path string) dice {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.count) > maxPaths {
		clear(c.count)
	}
	c.count[path]++
	n := c.count[path]
	seed := c.seed
	for _, b := range []byte(path) {
		seed = seed*1099511628211 + uint64(b)
	}
	return dice{rand.New(rand.NewPCG(seed, n)), n}
}

func (d dice) of100(n int) bool { return d.IntN(100) < n }

// token answers a token request. Some answers are lost, some requests refused.
func (c *chaos) token(w http.ResponseWriter, r *http.Request, d dice) {
	busy, lost := d.of100(busyOf100), d.of100(lostOf100)
	if busy && r.Method == http.MethodPost {
		c.logWhat(r, "busy", d)
		h := w.Header()
		h.Set("Retry-After", "1")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Type", "application/json")
		h.Set("Access-Control-Allow-Origin", "*")
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, `{"error":"temporarily_unavailable","error_description":"chaos: try again in a second"}`)
		return
	}
	// A code cannot be used twice, so only answers to refreshes are lost: those can be
	// repeated.
	lost = lost && isRefresh(r)
	answer := c.capture(r)
	if lost && answer.status == http.StatusOK {
		c.logWhat(r, "lost", d)
		panic(http.ErrAbortHandler) // closes the connection
	}
	distort(w, answer, d, r.URL.Path)
}

// isRefresh reports whether the body is the form of a refresh, and leaves it unread.
func isRefresh(r *http.Request) bool {
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	if err != nil {
		return false
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), r.Body), r.Body}
	form, err := url.ParseQuery(string(body))
	return err == nil && form.Get("grant_type") == "refresh_token"
}

func (c *chaos) logWhat(r *http.Request, what string, d dice) {
	c.log.LogAttrs(r.Context(), slog.LevelInfo, "chaos", slog.String("what", what), slog.String("path", r.URL.Path), slog.Uint64("request", d.n))
}

// captured is an answer that has not been sent yet.
type captured struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *captured) Header() http.Header { return a.header }

func (a *captured) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

func (a *captured) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(b)
}

func (c *chaos) capture(r *http.Request) *captured {
	r.Header.Del("If-None-Match") // no two answers are the same
	a := &captured{header: http.Header{}}
	c.next.ServeHTTP(a, r)
	a.WriteHeader(http.StatusOK)
	return a
}
