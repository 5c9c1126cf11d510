package backend

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"signet/internal/rawjson"
)

// How many sessions an instance has, and how long an unused one is kept. At the limit the session
// ends that has been unused the longest.
const (
	maxSessions = 1000
	sessionIdle = 10 * time.Minute
)

// sessions are those of a server of the protocol versions that have them.
type sessions struct {
	mu   sync.Mutex
	open map[string]*session // by Message.Session
}

// session is one session. Its id and version do not change once it is open.
type session struct {
	key     string
	id      string // empty: the server keeps none
	version string
	opening chan struct{} // one at a time opens it
	opened  chan struct{} // closed when it is open

	// These belong to sessions.mu.
	users  int
	used   time.Time
	header http.Header // of its last message, to end it with
}

// set sets the headers of the session.
func (in *session) set(h http.Header) {
	h["Mcp-Protocol-Version"] = []string{in.version}
	if in.id != "" {
		h["Mcp-Session-Id"] = []string{in.id}
	}
}

// lost reports whether an answer may say that the server does not know the session. Many servers
// say so with 400 in place of 404: with the error -32000, or with text that is no JSON-RPC message,
// of which h has nothing.
func (st *stream) lost(status int, h heard) bool {
	if st == nil || st.in == nil || st.in.id == "" {
		return false
	}
	return status == http.StatusNotFound || status == http.StatusBadRequest && (h.err == nil || errorCode(h.err) == codeServer)
}

// session returns the open session of a key, in use. The caller releases it.
func (c *httpConn) session(s *span, key string, header http.Header) (*session, error) {
	in := c.use(key, header)
	select {
	case <-in.opened:
		return in, nil
	case in.opening <- struct{}{}:
		defer func() { <-in.opening }()
	case <-s.ctx.Done():
		c.release(in)
		return nil, c.unheard(s, s.ctx.Err())
	}
	select {
	case <-in.opened:
		return in, nil
	default:
	}
	if err := c.initialize(s, in, header); err != nil {
		c.forget(in)
		c.release(in)
		return nil, err
	}
	close(in.opened)
	return in, nil
}

// use returns the session of a key, which may not be open yet, and counts a user of it.
func (c *httpConn) use(key string, header http.Header) *session {
	c.sessions.mu.Lock()
	defer c.sessions.mu.Unlock()
	in := c.sessions.open[key]
	if in == nil {
		in = &session{key: key, opening: make(chan struct{}, 1), opened: make(chan struct{})}
		c.makeRoom()
		c.sessions.open[key] = in
	}
	in.users++
	in.header = header
	return in
}

// makeRoom ends the session that has been unused the longest if there are too many. The caller
// holds sessions.mu.
func (c *httpConn) makeRoom() {
	if len(c.sessions.open) < maxSessions {
		return
	}
	var oldest *session
	for _, in := range c.sessions.open {
		if in.users == 0 && (oldest == nil || in.used.Before(oldest.used)) {
			oldest = in
		}
	}
	if oldest != nil {
		c.drop(oldest)
	}
}

// drop removes a session without users, and tells the server. The caller holds sessions.mu.
func (c *httpConn) drop(in *session) {
	delete(c.sessions.open, in.key)
	header := in.header
	c.later(func() { c.delete(c.closed, in, header) })
}

// sweep ends the sessions that have been unused for long.
func (c *httpConn) sweep(now time.Time) {
	c.sessions.mu.Lock()
	defer c.sessions.mu.Unlock()
	for _, in := range c.sessions.open {
		if in.users == 0 && now.Sub(in.used) > sessionIdle {
			c.drop(in)
		}
	}
}

func (c *httpConn) release(in *session) {
	c.sessions.mu.Lock()
	defer c.sessions.mu.Unlock()
	in.users--
	in.used = time.Now()
}

// forget removes a session that the server does not know, or that could not be opened. The next
// message of its key opens another one.
func (c *httpConn) forget(in *session) {
	c.sessions.mu.Lock()
	defer c.sessions.mu.Unlock()
	if c.sessions.open[in.key] == in {
		delete(c.sessions.open, in.key)
	}
}

// endSessions ends all sessions, and gives the server a short time to hear of it.
func (c *httpConn) endSessions() {
	c.sessions.mu.Lock()
	all := c.sessions.open
	c.sessions.open = map[string]*session{}
	headers := map[*session]http.Header{}
	for _, in := range all {
		headers[in] = in.header
	}
	c.sessions.mu.Unlock()
	ctx, cancel := context.WithTimeout(c.closed, 2*time.Second)
	defer cancel()
	var wait sync.WaitGroup
	turns := make(chan struct{}, 16)
	for in, header := range headers {
		turns <- struct{}{}
		wait.Go(func() {
			defer func() { <-turns }()
			c.delete(ctx, in, header)
		})
	}
	wait.Wait()
}

// delete tells the server that a session has ended. The server may refuse to hear of it.
func (c *httpConn) delete(ctx context.Context, in *session, header http.Header) {
	select {
	case <-in.opened:
	default:
		return
	}
	if in.id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, min(c.timeout, 5*time.Second))
	defer cancel()
	r := c.request(ctx, nil, header)
	r.Method, r.Body, r.GetBody = http.MethodDelete, nil, nil
	r.Header.Del("Content-Type")
	in.set(r.Header)
	if resp, err := c.transport.RoundTrip(r); err == nil {
		_, _ = io.CopyN(io.Discard, resp.Body, drainMost)
		resp.Body.Close()
	}
}

// initialize opens a session at the server. A server that refuses the version in place of choosing
// another (MCP 2025-11-25, Lifecycle, Error Handling) is asked once more.
func (c *httpConn) initialize(s *span, in *session, header http.Header) error {
	a, resp, err := c.propose(s, legacyVersion, header)
	if err == nil && a.Error != nil {
		a, resp, err = c.propose(s, otherVersion(a.Error), header)
	}
	if err != nil {
		return err
	}
	if a.Error != nil {
		return c.noAnswer(resp.StatusCode, "it refuses initialize")
	}
	in.version, _ = rawjson.String(rawjson.Get(a.Result, "protocolVersion"))
	if !slices.Contains(legacyVersions, in.version) {
		return c.noAnswer(resp.StatusCode, "it has no protocol version of ours")
	}
	in.id = resp.Header.Get("Mcp-Session-Id")
	if len(in.id) > 1024 || slices.ContainsFunc([]byte(in.id), func(b byte) bool { return b <= ' ' || b > '~' }) {
		return c.noAnswer(resp.StatusCode, "its session id is none")
	}
	return c.initialized(s, in, header)
}

// propose asks the server for a session of a version. The body of the response is closed.
func (c *httpConn) propose(s *span, version string, header http.Header) (Answer, *http.Response, error) {
	id := c.ids.Add(1)
	params := json.RawMessage(`{"protocolVersion":"` + version + `","capabilities":{},"clientInfo":` + c.info + `}`)
	resp, err := c.transport.RoundTrip(c.request(s.ctx, encode(id, "initialize", params), header))
	if err != nil {
		return Answer{}, nil, c.unheard(s, err)
	}
	s.alive()
	a, _, err := c.answer(s, resp, id, "initialize", nil)
	resp.Body.Close()
	if e, ok := errors.AsType[*Error](err); ok {
		e.single = false // no message can be sent
	}
	return a, resp, err
}

// otherVersion returns the version to propose after the first was refused: the first of those that
// the error names, or the next if it names none that is spoken here.
func otherVersion(refusal json.RawMessage) string {
	var named []string
	for v := range rawjson.Elements(rawjson.Get(rawjson.Get(refusal, "data"), "supported")) {
		version, _ := rawjson.String(v)
		named = append(named, version)
	}
	for _, version := range legacyVersions[1:] {
		if slices.Contains(named, version) {
			return version
		}
	}
	return legacyVersions[1]
}

// initialized tells the server that the session is open here, too.
func (c *httpConn) initialized(s *span, in *session, header http.Header) error {
	r := c.request(s.ctx, encode(0, "notifications/initialized", nil), header)
	in.set(r.Header)
	resp, err := c.transport.RoundTrip(r)
	if err != nil {
		return c.unheard(s, err)
	}
	s.alive()
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return c.refusal(resp)
	}
	return nil
}

// inSession sends a message in its session, and ends the span. If the server does not know the
// session, the message is sent once more, in another session. An error with the id of the message
// may be that of a tool which has done something, so only a safe message is then sent again.
func (c *httpConn) inSession(s *span, m Message, in *session, notify Notify) (Answer, error) {
	fresh := in != nil
	for {
		if in == nil {
			var err error
			if in, err = c.session(s, m.Session, m.Header); err != nil {
				s.end()
				return Answer{}, err
			}
		}
		a, err := c.exchange(s, m, in, notify)
		c.release(in)
		e, ok := err.(*Error)
		if !ok || !e.gone {
			return a, err
		}
		if fresh && a.Error != nil {
			return a, nil // it means something else
		}
		c.forget(in)
		if a.Error != nil && !m.Safe {
			return a, nil
		}
		if fresh {
			return a, err
		}
		in, fresh = nil, true
		s = c.span(s.caller)
	}
}

// resume asks for the rest of a stream that the server has ended before the answer. It reports
// false if there is none.
func (c *httpConn) resume(s *span, e *events, st *stream, again int) (*http.Response, bool) {
	const most = 100
	if st == nil || st.in == nil || e.id == "" || again == most {
		return nil, false
	}
	wait := time.NewTimer(min(max(e.retry, 100*time.Millisecond), 30*time.Second))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-s.ctx.Done():
		return nil, false
	}
	resp, err := c.get(s, st.in, st.m.Header, e.id)
	if err != nil {
		return nil, false
	}
	s.alive()
	if !isEvents(resp) {
		resp.Body.Close()
		return nil, false
	}
	return resp, true
}

// get opens a stream of events of a session.
func (c *httpConn) get(s *span, in *session, header http.Header, after string) (*http.Response, error) {
	r := c.request(s.ctx, nil, header)
	r.Method, r.Body, r.GetBody = http.MethodGet, nil, nil
	r.Header.Del("Content-Type")
	r.Header["Accept"] = []string{"text/event-stream"}
	in.set(r.Header)
	if after != "" {
		r.Header["Last-Event-Id"] = []string{after}
	}
	return c.transport.RoundTrip(r)
}
