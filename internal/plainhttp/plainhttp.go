// Package plainhttp is a client of HTTP/1.1 servers on this machine. The goroutine of a request
// writes it and reads its response, so a connection has no goroutines of its own: their turns are a
// large part of what http.Transport costs where the network costs nothing.
package plainhttp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// Transport is an [http.RoundTripper] for one server, without TLS and without a proxy. It is safe for
// concurrent use.
//
// A server may answer a long request before it has read it. So the bodies of a Transport are short,
// and others are left to an [http.Transport].
type Transport struct {
	address string
	long    *http.Transport

	mu   sync.Mutex
	idle []*conn // the one used last is the last
}

// maxBody is the longest body of a request that a connection takes without being read from, with
// the smallest buffers that sockets have.
const maxBody = 16 << 10

// New returns a transport for the server at address, "host:port". What it does not send itself it
// leaves to long, whose DialContext and limits are its own, too.
func New(address string, long *http.Transport) *Transport {
	return &Transport{address: address, long: long}
}

// RoundTrip sends a request. As in [http.Transport], a request that meets a connection which the
// server has closed meanwhile is sent on another one, unless a part of it was written.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && (r.ContentLength < 0 || r.ContentLength > maxBody) {
		return t.long.RoundTrip(r)
	}
	text := texts.Get().(*[]byte)
	defer texts.Put(text)
	var err error
	if *text, err = appendRequest((*text)[:0], r); err != nil {
		return nil, err
	}
	for {
		c, err := t.take(r.Context())
		if err != nil {
			return nil, err
		}
		resp, unsent, err := t.exchange(c, r, *text)
		if err == nil || !unsent || !c.used || r.Context().Err() != nil {
			return resp, err
		}
	}
}

// texts are buffers for requests.
var texts = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// appendRequest appends the text of a request.
func appendRequest(b []byte, r *http.Request) ([]byte, error) {
	b = append(append(b, r.Method...), ' ')
	b = append(append(b, r.URL.RequestURI()...), " HTTP/1.1\r\nHost: "...)
	b = append(append(b, r.Host...), "\r\n"...)
	for name, values := range r.Header {
		if !httpguts.ValidHeaderFieldName(name) {
			return b, fmt.Errorf("plainhttp: invalid name of a header")
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return b, fmt.Errorf("plainhttp: invalid value of the header %s", name)
			}
			b = append(append(append(append(b, name...), ": "...), v...), "\r\n"...)
		}
	}
	if r.Body == nil {
		return append(b, "\r\n"...), nil
	}
	defer r.Body.Close()
	b = append(strconv.AppendInt(append(b, "Content-Length: "...), r.ContentLength, 10), "\r\n\r\n"...)
	from := len(b)
	b = slices.Grow(b, int(r.ContentLength))[:from+int(r.ContentLength)]
	_, err := io.ReadFull(r.Body, b[from:])
	return b, err
}

// take returns a connection: an idle one that the server has not closed, or else another one.
func (t *Transport) take(ctx context.Context) (*conn, error) {
	for c := t.last(); c != nil; c = t.last() {
		if c.isQuiet() {
			return c, nil
		}
		c.Close()
	}
	nc, err := t.long.DialContext(ctx, "tcp", t.address)
	if err != nil {
		return nil, err
	}
	return newConn(nc), nil
}

// last removes the idle connection that was used last, or returns nil.
func (t *Transport) last() (c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.idle); n > 0 {
		c, t.idle = t.idle[n-1], t.idle[:n-1]
	}
	return c
}

// put keeps a connection whose response has been read.
func (t *Transport) put(c *conn) {
	c.used, c.since = true, time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.idle) >= t.long.MaxIdleConnsPerHost {
		c.Close()
		return
	}
	t.idle = append(t.idle, c)
}

// CloseIdleConnections closes the connections that no request uses.
func (t *Transport) CloseIdleConnections() {
	t.long.CloseIdleConnections()
	t.closeIdle(time.Now())
}

// Sweep closes the connections that have been idle for the IdleConnTimeout of the [http.Transport].
// It is to be called from time to time.
func (t *Transport) Sweep(now time.Time) { t.closeIdle(now.Add(-t.long.IdleConnTimeout)) }

func (t *Transport) closeIdle(before time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := t.idle[:0]
	for _, c := range t.idle {
		if c.since.After(before) {
			kept = append(kept, c)
		} else {
			c.Close()
		}
	}
	clear(t.idle[len(kept):])
	t.idle = kept
}

// exchange sends the text of a request, and reads the header of the response. Unsent says that
// nothing of the text was written.
func (t *Transport) exchange(c *conn, r *http.Request, text []byte) (resp *http.Response, unsent bool, err error) {
	ctx := r.Context()
	detach := context.AfterFunc(ctx, c.abort)
	n, err := c.Write(text)
	if err == nil {
		resp, err = c.response(r, t.long.MaxResponseHeaderBytes)
	}
	if err != nil {
		detach()
		c.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, n == 0, err
	}
	b := &body{from: resp.Body, ctx: ctx, detach: detach, t: t, c: c, keep: !resp.Close && resp.StatusCode != http.StatusSwitchingProtocols}
	resp.Body = b
	if resp.ContentLength == 0 {
		b.end(true, io.EOF)
	}
	return resp, false, nil
}

// conn is a connection that one request at a time uses.
type conn struct {
	net.Conn
	in    *bufio.Reader
	room  int64 // bytes that may still be read
	abort func()

	used  bool // for a request before
	since time.Time
	quiet func() bool
}

// longAgo is a deadline that ends what waits.
var longAgo = time.Unix(1, 0)

func newConn(nc net.Conn) *conn {
	c := &conn{Conn: nc, quiet: quiet(nc)}
	c.in = bufio.NewReader((*limited)(c))
	c.abort = func() { _ = c.SetDeadline(longAgo) } // fails if it is closed already
	return c
}

// isQuiet reports whether the connection is open and nothing has come that no request asked for.
func (c *conn) isQuiet() bool { return c.in.Buffered() == 0 && c.quiet() }

// response reads the header of a response, and those of interim ones before it. Together they may
// have most bytes.
func (c *conn) response(r *http.Request, most int64) (*http.Response, error) {
	for c.room = most; ; {
		resp, err := http.ReadResponse(c.in, r)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode/100 != 1 || resp.StatusCode == http.StatusSwitchingProtocols {
			c.room = 1<<63 - 1
			return resp, nil
		}
	}
}

// limited reads from a connection while it has room.
type limited conn

var errLongHeader = errors.New("plainhttp: the header of the response is too long")

func (c *limited) Read(p []byte) (int, error) {
	if c.room <= 0 {
		return 0, errLongHeader
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), c.room)])
	c.room -= int64(n)
	return n, err
}

// body is the body of a response. Its connection is kept when all of it has been read, and otherwise
// closed. Its methods must not be called concurrently.
type body struct {
	from   io.Reader
	ctx    context.Context
	detach func() bool
	t      *Transport
	c      *conn
	keep   bool
	err    error // of all that is read from now on
}

func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.from.Read(p)
	if err != nil {
		if err != io.EOF && b.ctx.Err() != nil {
			err = context.Cause(b.ctx)
		}
		b.end(err == io.EOF, err)
	}
	return n, err
}

func (b *body) Close() error {
	if b.err == nil {
		b.end(false, http.ErrBodyReadAfterClose)
	}
	return nil
}

// end gives the connection back. Reads get err from now on.
func (b *body) end(whole bool, err error) {
	b.err = err
	if b.detach() && whole && b.keep {
		b.t.put(b.c)
	} else {
		b.c.Close()
	}
}
