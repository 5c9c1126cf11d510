package backend

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"signet/internal/gatewayconfig"
	"signet/internal/plainhttp"
	"signet/internal/rawjson"
)

// What a server has unless its configuration says otherwise.
const (
	defaultTimeout     = time.Minute
	defaultMaxAnswer   = 10 << 20
	defaultMaxRequests = 64
	defaultHealthEvery = 30 * time.Second
)

// httpConn is an instance that speaks MCP over streamable HTTP, with or without sessions, or the
// REST shape.
type httpConn struct {
	o         Options
	server    *gatewayconfig.Server
	endpoint  *url.URL
	root      *url.URL // of the REST shape, if the instance may have it
	transport transport
	common    *http.Request // what all requests have in common
	agent     []string      // User-Agent
	triple    string        // of _meta
	info      string        // clientInfo of initialize
	timeout   time.Duration
	most      int // bytes of one answer

	ids      atomic.Uint64
	probing  chan struct{} // one at a time finds out which protocol it is
	protocol atomic.Pointer[string]

	sessions sessions
	laterMu  sync.Mutex
	behind   sync.WaitGroup // work that no caller waits for
	closed   context.Context
	end      context.CancelFunc
}

// transport is a [http.Transport], or what is faster.
type transport interface {
	http.RoundTripper
	CloseIdleConnections()
}

// rest is the protocol of an instance in the REST shape of older gateways.
const rest = "rest"

func newHTTP(o Options, i gatewayconfig.Instance) (*httpConn, error) {
	endpoint, err := url.Parse(i.URL)
	if err != nil || endpoint.Host == "" {
		return nil, malformed(o.Server, "its URL is none")
	}
	if endpoint.Path == "" {
		endpoint.Path = "/" // JoinPath would make a path without a slash of it
	}
	c := &httpConn{
		o: o, server: o.Server, endpoint: endpoint,
		triple: triple(o.Agent), info: implementation(o.Agent),
		timeout: o.Server.Timeout, most: o.Server.MaxAnswer,
		probing: make(chan struct{}, 1),
	}
	if i.Root {
		c.root = endpoint
		c.endpoint = endpoint.JoinPath("mcp")
	}
	if c.timeout <= 0 {
		c.timeout = defaultTimeout
	}
	if c.most <= 0 {
		c.most = defaultMaxAnswer
	}
	c.common = &http.Request{Method: http.MethodPost, URL: c.endpoint, Host: c.endpoint.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	c.agent = []string{o.Agent}
	c.transport = newTransport(o, endpoint, c.timeout)
	c.sessions.open = map[string]*session{}
	c.closed, c.end = context.WithCancel(context.Background())
	return c, nil
}

// newTransport returns the transport to a server. Plain HTTP is spoken to servers on this machine.
func newTransport(o Options, endpoint *url.URL, timeout time.Duration) transport {
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: min(10*time.Second, timeout), KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:    min(10*time.Second, timeout),
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    max(defaultMaxRequests, o.Server.MaxRequests),
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // requests say so themselves
	}
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: endpoint})
	if endpoint.Scheme != "http" || proxy != nil || err != nil {
		return t
	}
	return plainhttp.New(net.JoinHostPort(endpoint.Hostname(), cmp.Or(endpoint.Port(), "80")), t)
}

func (c *httpConn) era() string {
	if p := c.protocol.Load(); p != nil {
		return *p
	}
	return ""
}

func (c *httpConn) learn(protocol string) { c.protocol.Store(&protocol) }

func (c *httpConn) do(ctx context.Context, m Message, notify Notify) (Answer, error) {
	a, protocol, err := c.send(c.span(ctx), m, notify)
	if a.Error != nil && errorCode(a.Error) == codeUnsupportedVersion {
		c.learn("")                              // maybe another server is there now, which has refused the message
		if protocol == modernVersion || m.Safe { // in a session it may be the error of a tool
			a, _, err = c.send(c.span(ctx), m, notify)
		}
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Kind == Malformed && e.Status/100 == 4 && c.era() == modernVersion {
		c.learn("") // maybe so, but this server may have done something
	}
	if a.Result != nil && m.Modern && c.era() != modernVersion {
		a.Result = complete(a.Result)
	}
	return a, err
}

// span returns the life of a message that begins now.
func (c *httpConn) span(caller context.Context) *span { return newSpan(caller, c.closed, c.timeout) }

// send sends a message in the protocol that the server speaks, which it returns, and ends the span.
func (c *httpConn) send(s *span, m Message, notify Notify) (a Answer, protocol string, err error) {
	protocol, opened, err := c.probe(s, m)
	if err != nil {
		s.end()
		return Answer{}, "", err
	}
	switch protocol {
	case rest:
		a, err = c.doREST(s, m)
		s.end()
	case modernVersion:
		a, err = c.exchange(s, m, nil, notify)
	default:
		a, err = c.inSession(s, m, opened, notify)
	}
	return a, protocol, err
}

// probe returns the protocol of the server, which it asks for if nobody has yet. If that opened a
// session for m, the session is returned, too, in use.
func (c *httpConn) probe(s *span, m Message) (protocol string, opened *session, err error) {
	if p := c.era(); p != "" {
		return p, nil, nil
	}
	select {
	case c.probing <- struct{}{}:
		defer func() { <-c.probing }()
	case <-s.ctx.Done():
		return "", nil, c.unheard(s, s.ctx.Err())
	}
	if p := c.era(); p != "" {
		return p, nil, nil
	}
	modern, err := c.discover(s, m.Header)
	if err != nil {
		return "", nil, err
	}
	if modern {
		c.learn(modernVersion)
		return modernVersion, nil, nil
	}
	opened, err = c.session(s, m.Session, m.Header)
	if err != nil && c.root != nil && c.isREST(s) {
		c.learn(rest)
		return rest, nil, nil
	}
	if err != nil {
		return "", nil, err
	}
	c.learn(opened.version)
	return opened.version, opened, nil
}

// discover reports whether the server speaks the protocol without sessions. The error is that of a
// server that is down or refuses the credential.
func (c *httpConn) discover(s *span, header http.Header) (modern bool, err error) {
	id := c.ids.Add(1)
	r := c.request(s.ctx, encode(id, "server/discover", json.RawMessage(`{"_meta":{`+c.triple+`}}`)), header)
	setModern(r.Header, "server/discover", "")
	resp, err := c.transport.RoundTrip(r)
	if err != nil {
		return false, c.unheard(s, err)
	}
	s.alive()
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusTooManyRequests,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return false, c.refusal(resp)
	}
	a, _, err := c.answer(s, resp, id, "server/discover", nil)
	if s.ctx.Err() != nil {
		return false, err
	}
	for v := range rawjson.Elements(rawjson.Get(a.Result, "supportedVersions")) {
		if string(v) == `"`+modernVersion+`"` {
			return true, nil
		}
	}
	return false, nil // also if the answer is none: it may be that of an old server
}

func (c *httpConn) check(ctx context.Context) error {
	s := newSpan(ctx, c.closed, min(c.timeout, 10*time.Second))
	defer s.end()
	c.sweep(time.Now())
	if plain, ok := c.transport.(*plainhttp.Transport); ok {
		plain.Sweep(time.Now())
	}
	if c.era() == rest {
		return c.checkREST(s)
	}
	if c.era() == "" && c.root != nil && c.isREST(s) {
		return nil // either protocol may be spoken here, as the first message will show
	}
	id := c.ids.Add(1)
	method := "ping" // without a session, so that it costs the server nothing
	body, modern := encode(id, method, nil), false
	if p := c.era(); p == "" || p == modernVersion {
		method, modern = "server/discover", true
		body = encode(id, method, json.RawMessage(`{"_meta":{`+c.triple+`}}`))
	}
	r := c.request(s.ctx, body, nil)
	if modern {
		setModern(r.Header, method, "")
	} else {
		r.Header.Set("MCP-Protocol-Version", c.era())
	}
	resp, err := c.transport.RoundTrip(r)
	if err != nil {
		return c.unheard(s, err)
	}
	s.alive()
	defer resp.Body.Close()
	if resp.StatusCode/100 == 4 {
		return nil // it demands a session or a credential: it is alive
	}
	_, _, err = c.answer(s, resp, id, method, nil)
	return err
}

func (c *httpConn) restart(context.Context) error {
	c.learn("")
	c.endSessions()
	c.transport.CloseIdleConnections()
	return nil
}

func (c *httpConn) close() {
	c.endSessions()
	c.laterMu.Lock() // what is begun now is waited for, and the rest is not begun
	c.end()
	c.laterMu.Unlock()
	c.behind.Wait()
	c.transport.CloseIdleConnections()
}
