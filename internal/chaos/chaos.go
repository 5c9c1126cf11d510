// Package chaos is a middleware that does to clients what a server may do and few ever
// do, so that their authors meet it early: answers to refreshes are lost after they were
// committed, token requests are refused for a moment, documents have unknown members and
// another order, names of headers another case. Signing keys and access tokens are
// short-lived meanwhile.
//
// What it decides about the nth request of a path follows from the seed, the path and n
// alone, so a client that fails can be run again.
package chaos

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
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

// dice are the chances of one request.
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

// token loses and refuses some answers.
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
	// A code that was spent cannot be used again, so only what can be repeated is lost.
	lost = lost && isRefresh(r)
	answer := c.capture(r)
	if lost && answer.status == http.StatusOK {
		c.logWhat(r, "lost", d)
		panic(http.ErrAbortHandler) // closes the connection
	}
	distort(w, answer, d, r.URL.Path)
}

// isRefresh looks into a form, and leaves it to be read.
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

// captured is an answer that nobody has seen yet.
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
	r.Header.Del("If-None-Match") // each answer is another one
	a := &captured{header: http.Header{}}
	c.next.ServeHTTP(a, r)
	a.WriteHeader(http.StatusOK)
	return a
}

// distort writes an answer in another form that means the same.
func distort(w http.ResponseWriter, a *captured, d dice, path string) {
	maps.Copy(w.Header(), a.header)
	body := a.body.Bytes()
	if object, err := parseObject(body); err == nil {
		body = object.distorted(d, path)
		w.Header().Set("Content-Type", []string{"application/json", "application/json;charset=UTF-8", "application/json; charset=utf-8"}[d.IntN(3)])
		w.Header().Del("Content-Length")
		w.Header().Del("Etag")
	}
	w.WriteHeader(a.status)
	w.Write(body)
}

// object is a JSON object whose values are kept as they are.
type object map[string]json.RawMessage

func parseObject(body []byte) (o object, err error) {
	err = json.Unmarshal(body, &o)
	if o == nil && err == nil {
		err = errors.New("null")
	}
	return o, err
}

// distorted says the same with its members in another order, other whitespace, and
// members that nobody has heard of.
func (o object) distorted(d dice, path string) []byte {
	if strings.HasSuffix(path, "/readyz") {
		o["chaos"] = json.RawMessage(`"on"`)
		return o.format(d)
	}
	o.addUnknown(d)
	if _, ok := o["token_type"]; ok {
		o["token_type"] = json.RawMessage([]string{`"Bearer"`, `"bearer"`, `"BEARER"`}[d.IntN(3)])
	}
	var keys []object
	if strings.HasSuffix(path, "/jwks.json") && json.Unmarshal(o["keys"], &keys) == nil {
		o["keys"] = distortedKeys(keys, d)
	}
	return o.format(d)
}

// addUnknown adds what a client must ignore (RFC 6749 §5.1, RFC 8414 §3.2, RFC 7517 §4).
func (o object) addUnknown(d dice) {
	for range 1 + d.IntN(3) {
		values := []string{`"?"`, `null`, `-1.5e3`, `true`, `[]`, `{"a":[{"b":null}]}`, `"☂ \u0000 \"</script>"`}
		o[fmt.Sprintf("x_chaos_%d", d.IntN(1000))] = json.RawMessage(values[d.IntN(len(values))])
	}
}

func (o object) format(d dice) []byte {
	names := slices.Sorted(maps.Keys(o))
	d.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	space := func() string { return []string{"", " ", "\n", "\t ", "\r\n  "}[d.IntN(5)] }
	var b bytes.Buffer
	b.WriteString(space() + "{")
	for i, name := range names {
		if i > 0 {
			b.WriteString(",")
		}
		quoted, _ := json.Marshal(name) // a string always can be
		b.WriteString(space())
		b.Write(quoted)
		b.WriteString(space() + ":" + space())
		b.Write(o[name])
		b.WriteString(space())
	}
	b.WriteString("}" + space())
	return b.Bytes()
}

// distortedKeys adds keys of other kinds, which a verifier of ours has to pass over
// (RFC 7517 §5), and changes their order.
func distortedKeys(keys []object, d dice) json.RawMessage {
	number := func(bytes int) string {
		b := make([]byte, bytes)
		for i := range b {
			b[i] = byte(d.Uint32()) | 1
		}
		b[0] |= 0x80
		return base64.RawURLEncoding.EncodeToString(b)
	}
	for _, text := range []string{
		fmt.Sprintf(`{"kty":"RSA","use":"enc","alg":"RSA-OAEP-256","kid":"chaos-rsa-%d","n":%q,"e":"AQAB"}`, d.IntN(100), number(256)),
		fmt.Sprintf(`{"kty":"OKP","crv":"X25519","use":"enc","alg":"ECDH-ES","kid":"chaos-okp-%d","x":%q}`, d.IntN(100), number(32)),
		fmt.Sprintf(`{"kty":"CHAOS","kid":"chaos-%d"}`, d.IntN(100)),
	} {
		if o, err := parseObject([]byte(text)); err == nil && d.of100(80) {
			keys = append(keys, o)
		}
	}
	d.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	list := make([][]byte, len(keys))
	for i, k := range keys {
		k.addUnknown(d)
		list[i] = k.format(d)
	}
	return slices.Concat([]byte("["), bytes.Join(list, []byte(",")), []byte("]"))
}

// otherCase writes names of headers in other cases, which mean the same (RFC 9110 §5.1).
type otherCase struct {
	http.ResponseWriter
	d     dice
	wrote bool
}

// Those that net/http looks for under the names it knows stay as they are.
var keptCase = map[string]bool{"Content-Type": true, "Content-Length": true, "Content-Encoding": true, "Transfer-Encoding": true, "Connection": true, "Date": true, "Trailer": true}

func (w *otherCase) WriteHeader(status int) {
	if !w.wrote && status >= 200 {
		w.wrote = true
		h := w.Header()
		for _, name := range slices.Sorted(maps.Keys(h)) {
			if keptCase[name] {
				continue
			}
			values := h[name]
			delete(h, name)
			h[[]string{name, strings.ToLower(name), strings.ToUpper(name)}[w.d.IntN(3)]] = values
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *otherCase) Write(b []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

// Flush is for streams.
func (w *otherCase) Flush() {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *otherCase) Unwrap() http.ResponseWriter { return w.ResponseWriter }
