package plainhttp_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"signet/internal/plainhttp"
)

// server is a TCP server whose connections answer each request with the next text of a script, and
// end with it.
type server struct {
	address  string
	accepted atomic.Int64
	requests chan *http.Request // with their bodies read
	ended    chan struct{}      // gets one for each connection that the client has closed
	closed   chan struct{}      // gets one for each connection that the server has closed
}

func serve(t *testing.T, script ...string) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &server{address: l.Addr().String(), requests: make(chan *http.Request, 100), ended: make(chan struct{}, 100), closed: make(chan struct{}, 100)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			go s.answer(c, script)
		}
	}()
	return s
}

func (s *server) answer(c net.Conn, script []string) {
	defer func() {
		c.Close()
		s.closed <- struct{}{}
	}()
	in := bufio.NewReader(c)
	for _, text := range script {
		r, err := http.ReadRequest(in)
		if err != nil {
			s.ended <- struct{}{}
			return
		}
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		s.requests <- r
		io.WriteString(c, strings.TrimSuffix(text, closes))
	}
	if !strings.HasSuffix(script[len(script)-1], closes) {
		in.ReadByte() // until the client closes
		s.ended <- struct{}{}
	}
}

const (
	ok     = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	closes = "\x00" // at the end of a script: the server closes the connection
)

func transport(s *server) *plainhttp.Transport {
	return plainhttp.New(s.address, &http.Transport{
		DialContext: (&net.Dialer{}).DialContext, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 4 << 10,
	})
}

func request(t *testing.T, ctx context.Context, s *server, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.address+"/mcp?a=b", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-One", "1")
	return r
}

// send sends a request, and returns the status and the whole body of the response.
func send(t *testing.T, tr http.RoundTripper, r *http.Request) (int, string, error) {
	t.Helper()
	resp, err := tr.RoundTrip(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

func TestResponses(t *testing.T) {
	for _, c := range []struct {
		name, script string
		status       int
		body         string
		again        bool // the connection is used again
	}{
		{"length", ok, 200, "ok", true},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", 200, "ok", true},
		{"nothing", "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", 202, "", true},
		{"no content", "HTTP/1.1 204 No Content\r\n\r\n", 204, "", true},
		{"interim", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok, 200, "ok", true},
		{"announced end", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 200, "ok", false},
		{"old version", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", false},
		{"other protocol", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", 101, "", false},
		{"more than asked for", ok + ok, 200, "ok", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, c.script, c.script, c.script)
			tr := transport(s)
			defer tr.CloseIdleConnections()
			for range 2 {
				status, body, err := send(t, tr, request(t, t.Context(), s, "hello"))
				if status != c.status || body != c.body || err != nil {
					t.Fatalf("%d %q %v, want %d %q", status, body, err, c.status, c.body)
				}
				r := <-s.requests
				sent, _ := io.ReadAll(r.Body)
				if r.RequestURI != "/mcp?a=b" || r.Host != s.address || r.Header.Get("X-One") != "1" || string(sent) != "hello" {
					t.Errorf("the server got %s %s %v %q", r.RequestURI, r.Host, r.Header, sent)
				}
			}
			if n := s.accepted.Load(); (n == 1) != c.again {
				t.Errorf("%d connections for two requests", n)
			}
		})
	}
}

// A connection that the server has closed while it was idle loses no request.
func TestClosedConnection(t *testing.T) {
	s := serve(t, ok, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"+closes)
	tr := transport(s)
	for i := range 20 {
		if _, body, err := send(t, tr, request(t, t.Context(), s, "hello")); body != "ok" || err != nil {
			t.Fatalf("%q %v", body, err)
		}
		if i%2 == 1 {
			<-s.closed
		}
	}
	if n := len(s.requests); n != 20 {
		t.Errorf("the server got %d requests, want 20", n)
	}
}

// A response that is none is an error, and what was sent is not sent again.
func TestNoResponse(t *testing.T) {
	for name, script := range map[string]string{
		"end":         closes,
		"end in body": "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok" + closes,
		"no HTTP":     "SSH-2.0-x\r\n\r\n",
		"long header": "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 5<<10) + "\r\n\r\n",
		"two lengths": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
		"many hints":  strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: xxxxxxxxxxxxxxxxxxxx\r\n\r\n", 200),
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, script)
			tr := transport(s)
			if status, body, err := send(t, tr, request(t, t.Context(), s, "hello")); err == nil {
				t.Errorf("%d %q", status, body)
			}
			if n := len(s.requests); n != 1 {
				t.Errorf("the server got %d requests", n)
			}
		})
	}
}

// The end of the context ends the connection, in each part of an exchange.
func TestCancel(t *testing.T) {
	for name, script := range map[string]string{
		"before the response": "",
		"in the body":         "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, script)
			tr := transport(s)
			why := errors.New("no longer needed")
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() {
				<-s.requests
				cancel(why)
			}()
			if _, _, err := send(t, tr, request(t, ctx, s, "hello")); !errors.Is(err, why) {
				t.Errorf("%v, want the cause", err)
			}
			<-s.ended
			if _, _, err := send(t, tr, request(t, ctx, s, "hello")); !errors.Is(err, context.Canceled) && !errors.Is(err, why) {
				t.Errorf("with a context that has ended: %v", err)
			}
		})
	}
}

// A response that is not read to its end costs the connection.
func TestUnreadBody(t *testing.T) {
	s := serve(t, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok")
	resp, err := transport(s).RoundTrip(request(t, t.Context(), s, "hello"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	<-s.ended
	if _, err := resp.Body.Read(make([]byte, 1)); err == nil {
		t.Error("a closed body can be read")
	}
}

func TestIdleConnections(t *testing.T) {
	for name, end := range map[string]func(tr *plainhttp.Transport){
		"closed": (*plainhttp.Transport).CloseIdleConnections,
		"swept":  func(tr *plainhttp.Transport) { tr.Sweep(time.Now().Add(2 * time.Minute)) },
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, ok, ok, ok)
			tr := transport(s)
			for range 2 {
				if _, body, err := send(t, tr, request(t, t.Context(), s, "hello")); body != "ok" || err != nil {
					t.Fatalf("%q %v", body, err)
				}
				tr.Sweep(time.Now()) // it is not time yet
			}
			end(tr)
			<-s.ended
			if n := s.accepted.Load(); n != 1 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// A header that would be two, or part of the body, is not sent.
func TestBadHeaders(t *testing.T) {
	s := serve(t, ok)
	for name, value := range map[string]string{"X-A": "1\r\nX-B: 2", "X A": "1", "X-A:": "1", "X-C": "1\x00"} {
		r := request(t, t.Context(), s, "hello")
		r.Header[name] = []string{value}
		if _, _, err := send(t, transport(s), r); err == nil || strings.Contains(err.Error(), "X-B") {
			t.Errorf("%q: %q: %v", name, value, err)
		}
	}
	if n := s.accepted.Load(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

// A server may answer a long request without reading it.
func TestLongRequest(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			c.Read(make([]byte, 1))
			io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
		}
	}()
	s := &server{address: l.Addr().String()}
	if status, _, err := send(t, transport(s), request(t, t.Context(), s, strings.Repeat("x", 64<<20))); status != 413 || err != nil {
		t.Errorf("%d %v", status, err)
	}
}
