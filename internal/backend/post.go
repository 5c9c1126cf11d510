package backend

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"signet/internal/rawjson"
)

// request returns a POST of a message. Of header, everything is sent.
func (c *httpConn) request(ctx context.Context, body []byte, header http.Header) *http.Request {
	h := make(http.Header, len(header)+8)
	for name, values := range header {
		h[name] = values
	}
	h["Content-Type"], h["Accept"], h["User-Agent"] = jsonType, bothTypes, c.agent
	h["Accept-Encoding"] = identity // without it, any coding is acceptable (RFC 9110 §12.5.3)
	r := c.common.WithContext(ctx)
	r.Header, r.Body, r.ContentLength = h, io.NopCloser(bytes.NewReader(body)), int64(len(body))
	// A connection that the server has closed is noticed before anything is written.
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	return r
}

// Values of headers that all requests have. They are never written.
var (
	jsonType       = []string{"application/json"}
	bothTypes      = []string{"application/json, text/event-stream"}
	identity       = []string{"identity"}
	modernVersions = []string{modernVersion}
)

// setModern sets the headers that the protocol without sessions demands.
func setModern(h http.Header, method, name string) {
	h["Mcp-Protocol-Version"] = modernVersions
	h["Mcp-Method"] = []string{method}
	if name != "" {
		h["Mcp-Name"] = []string{headerValue(name)}
	}
}

// exchange sends a message once, in a session or without, and ends the span.
func (c *httpConn) exchange(s *span, m Message, in *session, notify Notify) (Answer, error) {
	var id uint64
	if !strings.HasPrefix(m.Method, "notifications/") {
		id = c.ids.Add(1)
	}
	params := m.Params
	switch {
	case id == 0, m.Modern == (in == nil):
	case m.Modern: // some servers take the version for a promise to speak it
		params = withTriple(params, "")
	default:
		params = withTriple(params, c.triple)
	}
	r := c.request(s.ctx, encode(id, m.Method, params), m.Header)
	if in == nil {
		setModern(r.Header, m.Method, m.Name)
		c.o.params.set(r.Header, m)
	} else {
		in.set(r.Header)
	}
	resp, err := c.transport.RoundTrip(r)
	if err != nil {
		err = c.unheard(s, err)
		c.cancelled(s, m, in, id)
		s.end()
		return Answer{}, err
	}
	s.alive()
	if id == 0 {
		defer s.drain(resp.Body)
		if resp.StatusCode/100 != 2 {
			return Answer{}, c.refusal(resp)
		}
		return Answer{}, nil
	}
	a, more, err := c.answer(s, resp, id, m.Method, &stream{in: in, m: m, notify: notify})
	if err != nil {
		c.cancelled(s, m, in, id)
	} else {
		err = c.understood(m, in, a)
	}
	if more == nil || err != nil || !c.later(func() { s.drain(more) }) {
		resp.Body.Close()
		s.end()
	}
	return a, err
}

// later does work that no caller waits for, unless the instance is closed.
func (c *httpConn) later(work func()) bool {
	c.laterMu.Lock()
	defer c.laterMu.Unlock()
	if c.closed.Err() != nil {
		return false
	}
	c.behind.Go(work)
	return true
}

// understood refuses an answer that the caller cannot understand.
func (c *httpConn) understood(m Message, in *session, a Answer) error {
	if in != nil || m.Modern || a.Result == nil {
		return nil
	}
	raw := rawjson.Get(a.Result, "resultType")
	kind, _ := rawjson.String(raw)
	what := "its result is of a type that the caller does not know"
	switch {
	case raw == nil, kind == "complete":
		return nil
	case kind == "input_required":
		what = "it asks for input, for which the caller has no means"
	case kind == "task":
		what = "it answers with a task in place of a result, which the caller does not know"
	}
	return malformed(c.server, what).ofMessage()
}

// stream is what a stream of events belongs to.
type stream struct {
	in     *session
	m      Message
	notify Notify
}

// answer reads the answer to the request with an id. If there may be more of the body, which is to
// be drained, the body is returned, too.
func (c *httpConn) answer(s *span, resp *http.Response, id uint64, method string, st *stream) (Answer, io.ReadCloser, error) {
	kind, encoded := mediaType(resp.Header), coding(resp.Header)
	switch {
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden, resp.StatusCode >= 500,
		resp.StatusCode == http.StatusRequestTimeout, resp.StatusCode == http.StatusTooManyRequests:
		return Answer{}, nil, c.refusal(resp)
	case 300 <= resp.StatusCode && resp.StatusCode < 400, (kind != "application/json" || encoded != "") && resp.StatusCode != http.StatusOK:
		return Answer{}, nil, c.refusal(resp).sessionGone(st.lost(resp.StatusCode, heard{}) && c.isPlain(s, resp, id))
	case encoded != "":
		return Answer{}, nil, c.noAnswer(resp.StatusCode, encoded)
	case kind == "text/event-stream":
		a, err := c.stream(s, resp, id, method, st)
		return a, resp.Body, err
	case kind != "application/json":
		return Answer{}, nil, c.noAnswer(resp.StatusCode, "it is not JSON")
	}
	body, err := c.read(s, resp)
	if err != nil {
		return Answer{}, nil, err
	}
	h, wrong := hear(body)
	if wrong == "" && h.method != "" {
		wrong = "it is a request"
	}
	var a Answer
	if wrong == "" {
		a, wrong = h.answers(id, method)
	}
	gone := a.Result == nil && st.lost(resp.StatusCode, h)
	if gone || wrong != "" || a.Error == nil && resp.StatusCode/100 != 2 {
		if resp.StatusCode/100 != 2 {
			return Answer{Error: a.Error}, nil, c.refusal(resp).sessionGone(gone)
		}
		return Answer{}, nil, c.wrongAnswer(resp.StatusCode, wrong, body, h, id)
	}
	return a, nil, nil
}

// isPlain reports whether a response that is not said to be JSON is not the answer to the request
// with an id either.
func (c *httpConn) isPlain(s *span, resp *http.Response, id uint64) bool {
	text, err := c.read(s, resp)
	return err == nil && coding(resp.Header) == "" && mediaType(resp.Header) != "text/event-stream" && !hasID(text, id)
}

// mediaType is the Content-Type without its parameters.
func mediaType(h http.Header) string {
	text := h.Get("Content-Type")
	if text == jsonType[0] {
		return text
	}
	kind, _, _ := mime.ParseMediaType(text)
	return kind
}

// coding says that a body is encoded, which it must not be, or is empty. It names the codings that
// are in use (RFC 9110 §8.4.1).
func coding(h http.Header) string {
	switch text := strings.ToLower(strings.Join(h["Content-Encoding"], ", ")); text {
	case "", "identity":
		return ""
	case "gzip", "x-gzip", "deflate", "br", "zstd":
		return "its Content-Encoding is " + text + ", not identity"
	}
	return "its Content-Encoding is not identity"
}

// read returns the whole body, which has to come within the timeout.
func (c *httpConn) read(s *span, resp *http.Response) ([]byte, error) {
	if resp.ContentLength > int64(c.most) {
		return nil, c.tooLong(resp.StatusCode)
	}
	var body []byte
	var err error
	if n := resp.ContentLength; n >= 0 {
		body = make([]byte, n)
		_, err = io.ReadFull(resp.Body, body)
	} else {
		body, err = io.ReadAll(io.LimitReader(resp.Body, int64(c.most)+1))
	}
	if err != nil {
		return nil, c.unheard(s, err)
	}
	if len(body) > c.most {
		return nil, c.tooLong(resp.StatusCode)
	}
	return body, nil
}

func (c *httpConn) noAnswer(status int, why string) *Error {
	e := malformed(c.server, "what it sent is not an answer: "+why)
	e.Status = status
	return e
}

// wrongAnswer is the failure of the request with an id to which a text is not the answer.
func (c *httpConn) wrongAnswer(status int, why string, text []byte, h heard, id uint64) *Error {
	e := c.noAnswer(status, why)
	e.single = ofMessage(text, h, id)
	return e
}

// tooLong is the failure of a message to which the answer is too long, which may be the wish of
// the caller.
func (c *httpConn) tooLong(status int) *Error {
	e := malformed(c.server, fmt.Sprintf("its answer has more than %d bytes", c.most)).ofMessage()
	e.Status = status
	return e
}

// refusal is the error that the status of a response stands for.
func (c *httpConn) refusal(resp *http.Response) *Error {
	e := &Error{Server: c.server.ID, Status: resp.StatusCode, What: "it answered HTTP " + strconv.Itoa(resp.StatusCode)}
	switch status := resp.StatusCode; {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		e.Kind, e.Challenge = Unauthorized, strings.Join(resp.Header.Values("WWW-Authenticate"), ", ")
		e.What = "it refuses the credential (HTTP " + strconv.Itoa(status) + ")"
	case status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status >= 500:
		e.Kind, e.RetryAfter = Down, retryAfter(resp.Header.Get("Retry-After"), time.Now())
	case status/100 == 3:
		e.Kind, e.What = Malformed, "it answered a redirect, which is not followed (HTTP "+strconv.Itoa(status)+")"
	default:
		e.Kind = Malformed
	}
	return e
}

// sessionGone notes whether the server does not know the session.
func (e *Error) sessionGone(gone bool) *Error {
	e.gone = gone
	return e
}

// maxRetryAfter is the longest that a server can keep us away by a header.
const maxRetryAfter = time.Hour

func retryAfter(value string, now time.Time) time.Duration {
	var d time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		d = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

// unheard is the failure of a message for which no answer came: the caller's, or Down.
func (c *httpConn) unheard(s *span, err error) error {
	if s.caller.Err() != nil {
		return s.caller.Err()
	}
	if s.silent() {
		return &Error{Server: c.server.ID, Kind: Down, What: fmt.Sprintf("it did not answer within %v", s.timeout)}
	}
	if c.closed.Err() != nil {
		return &Error{Server: c.server.ID, Kind: Down, What: "it is no longer configured, or the gateway stops"}
	}
	if errors.Is(err, errTooLong) {
		return c.tooLong(0)
	}
	e := &Error{Server: c.server.ID, Kind: Down, What: what(err)}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		e.unsent = op.Op == "dial" || op.Op == "proxyconnect"
	}
	return e
}

// what describes an error of the network, without what the server may have sent.
func what(err error) string {
	_, certificate := errors.AsType[*tls.CertificateVerificationError](err)
	dns, unknown := errors.AsType[*net.DNSError](err)
	timeout, ok := errors.AsType[net.Error](err)
	switch {
	case certificate:
		return "its certificate is not valid"
	case unknown && dns.IsNotFound:
		return "its host name is not known"
	case unknown:
		return "its host name cannot be looked up"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection ended before the answer did"
	case ok && timeout.Timeout():
		return "connecting to it took too long"
	}
	return "the connection failed"
}

// stream reads events until the answer to the request with an id. It passes notifications on, and
// answers requests.
func (c *httpConn) stream(s *span, resp *http.Response, id uint64, method string, st *stream) (Answer, error) {
	e := newEvents(resp.Body, c.most, s.alive)
	defer e.close()
	for again := 0; ; again++ {
		a, err := c.until(s, e, id, method, st)
		if !errors.Is(err, io.EOF) || s.ctx.Err() != nil {
			return a, err
		}
		resumed, ok := c.resume(s, e, st, again)
		if !ok {
			return Answer{}, c.unheard(s, io.ErrUnexpectedEOF)
		}
		defer resumed.Body.Close()
		e.again(resumed.Body)
	}
}

// until reads events until the answer to the request with an id, or if id is 0 the end. The error
// is io.EOF at the end of the stream.
func (c *httpConn) until(s *span, e *events, id uint64, method string, st *stream) (Answer, error) {
	for {
		data, err := e.next()
		if errors.Is(err, io.EOF) {
			return Answer{}, io.EOF
		}
		if err != nil {
			return Answer{}, c.unheard(s, err)
		}
		h, wrong := hear(data)
		if wrong != "" {
			return Answer{}, c.wrongAnswer(http.StatusOK, wrong, data, h, id)
		}
		switch {
		case h.method != "" && h.id != nil:
			c.reply(st, h)
		case h.method != "":
			c.notified(st, h)
		case id != 0:
			a, wrong := h.answers(id, method)
			if wrong != "" {
				return Answer{}, c.wrongAnswer(http.StatusOK, wrong, data, h, id)
			}
			return a, nil
		}
	}
}

// notified passes a notification on.
func (c *httpConn) notified(st *stream, h heard) {
	switch h.method {
	case "notifications/tools/list_changed":
		c.o.Changed("tools")
	case "notifications/prompts/list_changed":
		c.o.Changed("prompts")
	case "notifications/resources/list_changed":
		c.o.Changed("resources")
	}
	if st != nil && st.notify != nil {
		st.notify(h.method, h.whole)
	}
}

// reply answers a request of the server: it may ask for nothing, except whether we are alive. An
// answer that gets lost is asked for again, or not needed.
func (c *httpConn) reply(st *stream, h heard) {
	if st == nil || st.in == nil {
		return // there are no requests in the protocol without sessions
	}
	answer := `"error":{"code":-32601,"message":"not supported"}`
	if h.method == "ping" {
		answer = `"result":{}`
	}
	c.post(st.in, st.m.Header, []byte(`{"jsonrpc":"2.0","id":`+string(h.id)+`,`+answer+`}`))
}

// post sends a message that has no answer, behind the caller's back.
func (c *httpConn) post(in *session, header http.Header, body []byte) {
	c.later(func() {
		ctx, cancel := context.WithTimeout(c.closed, min(c.timeout, 5*time.Second))
		defer cancel()
		r := c.request(ctx, body, header)
		in.set(r.Header)
		if resp, err := c.transport.RoundTrip(r); err == nil {
			_, _ = io.CopyN(io.Discard, resp.Body, drainMost)
			resp.Body.Close()
		}
	})
}

// cancelled tells a server with sessions that nobody waits for the answer to a request any more.
// Servers without know it by the end of the connection.
func (c *httpConn) cancelled(s *span, m Message, in *session, id uint64) {
	if in == nil || id == 0 || s.ctx.Err() == nil {
		return
	}
	c.post(in, m.Header, encode(0, "notifications/cancelled", json.RawMessage(fmt.Sprintf(`{"requestId":%d,"reason":"nobody waits for the answer"}`, id))))
}
