package server_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/server"
)

// meter counts the bytes that the server reads from its connections, and keeps the write
// deadline of its last write, and the longest time to read for each method.
type meter struct {
	net.Listener
	read     atomic.Int64
	deadline atomic.Pointer[time.Time]

	mu     sync.Mutex
	toRead map[byte]time.Duration // by the first letter of the method
}

func (m *meter) Accept() (net.Conn, error) {
	c, err := m.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &meteredConn{Conn: c, m: m}, nil
}

type meteredConn struct {
	net.Conn
	m        *meter
	deadline atomic.Pointer[time.Time]
	method   atomic.Uint32 // its first letter; 0 before the first byte
}

func (c *meteredConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.m.read.Add(int64(n))
	if n > 0 {
		c.method.CompareAndSwap(0, uint32(b[0]))
	}
	return n, err
}

func (c *meteredConn) SetReadDeadline(t time.Time) error {
	method, left := byte(c.method.Load()), time.Until(t)
	c.m.mu.Lock()
	c.m.toRead[method] = max(c.m.toRead[method], left)
	c.m.mu.Unlock()
	return c.Conn.SetReadDeadline(t)
}

func (c *meteredConn) Write(b []byte) (int, error) {
	c.m.deadline.Store(c.deadline.Load())
	return c.Conn.Write(b)
}

func (c *meteredConn) SetWriteDeadline(t time.Time) error {
	c.deadline.Store(&t)
	return c.Conn.SetWriteDeadline(t)
}

// live runs a server on a free port until the test ends.
func live(t testing.TB, change func(*server.Options)) (addr string, m *meter) {
	t.Helper()
	srv := newServer(t, func(o *server.Options) {
		o.DrainDelay = time.Nanosecond
		if change != nil {
			change(o)
		}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m = &meter{Listener: l, toRead: map[byte]time.Duration{}}
	_, stop := serveOn(t, srv, m)
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String(), m
}

// exchange sends bytes and returns the answers until the server closes, or sends nothing for
// ten seconds.
func exchange(t *testing.T, addr, sent string) (answers string, closed bool) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() { _, _ = io.WriteString(c, sent) }() // the server may close before the end
	var b bytes.Buffer
	for {
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, err := io.CopyN(&b, c, 1)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return b.String(), false
		}
		if err != nil {
			return b.String(), true
		}
	}
}

// status returns the status of the first answer.
func status(answers string) string {
	_, rest, _ := strings.Cut(answers, " ")
	code, _, _ := strings.Cut(rest, " ")
	return code
}

const formHeader = "Content-Type: application/x-www-form-urlencoded\r\nSec-Fetch-Site: same-origin\r\n"

// chunked returns a body in chunks.
func chunked(body string) string {
	var b strings.Builder
	for part := range slices.Chunk([]byte(body), 4000) {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(part), part)
	}
	return b.String() + "0\r\n\r\n"
}

// A body that is too long is refused when its allowed part has been read, with and without
// Content-Length, and the connection ends.
func TestLongBodiesAreRefused_K01(t *testing.T) {
	addr, m := live(t, nil)
	big := "a=" + strings.Repeat("x", 5<<20)
	requests := func(path string) map[string]string {
		head := "POST " + path + " HTTP/1.1\r\nHost: localhost\r\n" + formHeader
		return map[string]string{
			"with Content-Length":    fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(big), big),
			"without Content-Length": head + "Transfer-Encoding: chunked\r\n\r\n" + chunked(big),
		}
	}
	for name, request := range requests("/token") {
		before := m.read.Load()
		if answer, closed := exchange(t, addr, request); status(answer) != "413" || !closed {
			t.Errorf("%s: closed %t, %.200q", name, closed, answer)
		}
		// The server reads somewhat more than the limit, for clients that send the body
		// before they read the answer.
		if read := m.read.Load() - before; read > 350<<10 {
			t.Errorf("%s: %d KB were read", name, read>>10)
		}
	}
	var wg sync.WaitGroup
	for _, path := range []string{"/token", "/login", "/revoke", "/introspect", "/consent", "/account", "/authorize", "/logout", "/oauth/token", "/oauth/login"} {
		for name, request := range requests(path) {
			wg.Go(func() {
				if answer, _ := exchange(t, addr, request[:68<<10]); status(answer) != "413" {
					t.Errorf("%s %s, after 68 KB: %.200q", path, name, answer)
				}
			})
		}
	}
	wg.Wait()
	// The server does not wait for the rest of the body.
	answer, _ := exchange(t, addr, "POST /token HTTP/1.1\r\nHost: localhost\r\n"+formHeader+"Content-Length: 100000\r\n\r\n"+big[:70<<10])
	if status(answer) != "413" {
		t.Errorf("70 KB of 100: %.200q", answer)
	}
	for name, request := range map[string]string{
		"10,001 parameters": "POST /token HTTP/1.1\r\nHost: localhost\r\n" + formHeader + "Content-Length: 30002\r\n\r\n" + strings.Repeat("a=&", 10_000) + "a=",
		"in the query":      "GET /authorize?" + strings.Repeat("a&", 5_000) + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		if answer, _ := exchange(t, addr, request); status(answer) != "400" {
			t.Errorf("%s: %.200q", name, answer)
		}
	}
	document := `{"client_name":"` + strings.Repeat("x", 20<<10) + `"}`
	answer, _ = exchange(t, addr, fmt.Sprintf("POST /register HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(document), document))
	if status(answer) != "413" {
		t.Errorf("registration of 20 KB: %.200q", answer)
	}
}

func TestParallelBodiesAreNotKept_K01(t *testing.T) {
	addr, _ := live(t, nil)
	body := strings.Repeat("x", 1<<20)
	request := fmt.Sprintf("POST /token HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: %d\r\n\r\n%s", formHeader, len(body), body)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			// An answer may be lost if the connection ends while the body arrives.
			answer := ""
			for tries := 0; answer == "" && tries < 5; tries++ {
				answer, _ = exchange(t, addr, request)
			}
			if status(answer) != "413" {
				t.Errorf("%.200q", answer)
			}
		})
	}
	wg.Wait()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("the heap has grown by %d KB", grown>>10)
	}
}

// The refusal ends the connection.
func TestWrongAndLongHeadersAreRefused_K02(t *testing.T) {
	addr, m := live(t, nil)
	const path = "/.well-known/oauth-authorization-server"
	var cookies strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&cookies, "c%d=x; ", i)
	}
	get := func(extra string) string { return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n" + extra + "\r\n" }
	for name, c := range map[string]struct {
		request string
		want    []string
	}{
		"good":                  {get("X: y\r\nConnection: close\r\n"), []string{"200"}},
		"33 KB of headers":      {get("X: " + strings.Repeat("x", 33<<10) + "\r\n"), []string{"431"}},
		"33 KB in many headers": {get(strings.Repeat("X: yyyyyyyyyyyyyyyyyyyyyyyyyy\r\n", 1100)), []string{"431"}},
		"10,000 cookies":        {get("Cookie: " + cookies.String() + "\r\n"), []string{"431", "400"}},
		"request line of 17 KB": {"GET " + path + "?" + strings.Repeat("x", 17<<10) + " HTTP/1.1\r\nHost: localhost\r\n\r\n", []string{"414", "431"}},
		"NUL in a value":        {get("X: a\x00b\r\n"), []string{"400"}},
		"CR in a value":         {get("X: a\rb\r\n"), []string{"400"}},
		"NUL in a name":         {get("X\x00: a\r\n"), []string{"400"}},
		"space after a name":    {get("X : a\r\n"), []string{"400"}},
		"NUL in the target":     {"GET " + path + "?\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", []string{"400"}},
		"no name":               {get(": a\r\n"), []string{"400"}},
		"unknown version":       {"GET " + path + " HTTP/3.1\r\nHost: localhost\r\n\r\n", []string{"400", "505"}},
	} {
		before := m.read.Load()
		answer, closed := exchange(t, addr, c.request)
		if !slices.Contains(c.want, status(answer)) || !closed {
			t.Errorf("%s: closed %t, want %v: %.200q", name, closed, c.want, answer)
		}
		if read := m.read.Load() - before; read > 40<<10 {
			t.Errorf("%s: %d KB were read", name, read>>10)
		}
	}
	// Long requests within the bounds are answered.
	for name, request := range map[string]string{
		"20 KB of headers":      get("X: " + strings.Repeat("x", 20<<10) + "\r\nConnection: close\r\n"),
		"request line of 15 KB": "GET " + path + "?" + strings.Repeat("x", 15<<10) + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
	} {
		if answer, _ := exchange(t, addr, request); status(answer) != "200" {
			t.Errorf("%s: %.200q", name, answer)
		}
	}
}

// slowConnections opens connections that send a byte a second, some in the headers of a HEAD
// request and some in the body of a POST. The channel is closed when the server has closed
// them all; a connection that stays open fails the test.
func slowConnections(t testing.TB, addr string) (n int, closed <-chan struct{}) {
	t.Helper()
	each := 1000
	var files syscall.Rlimit // both ends of a connection are in this process
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	if files.Cur < 5000 {
		each = int(files.Cur) / 5
	}
	var wg sync.WaitGroup
	drip := func(begin string) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		stop := time.AfterFunc(time.Minute, func() {
			t.Errorf("%.20q: still open", begin)
			c.Close()
		})
		defer stop.Stop()
		if _, err := io.WriteString(c, begin); err != nil {
			t.Error(err)
			return
		}
		go func() {
			for { // until a side closes
				if _, err := io.WriteString(c, "x"); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
		_, _ = io.Copy(io.Discard, c)
	}
	for range each {
		wg.Go(func() { drip("HEAD / HTTP/1.1\r\nHost: localhost\r\nX: ") })
		wg.Go(func() {
			drip("POST /token HTTP/1.1\r\nHost: localhost\r\n" + formHeader + "Content-Length: 1000\r\n\r\na=")
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	return 2 * each, done
}

// Connections that never finish their request are closed after their deadline, and other
// clients are answered meanwhile.
func TestSlowConnectionsAreClosedAtADeadline_K03(t *testing.T) {
	t.Parallel() // it takes a quarter of a minute
	addr, m := live(t, nil)
	_, closed := slowConnections(t, addr)
	for open := true; open; {
		select {
		case <-closed:
			open = false
		case <-time.After(50 * time.Millisecond):
		}
		res, err := http.Get("http://" + addr + "/livez")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for method, most := range map[byte]time.Duration{0: 5 * time.Second, 'H': 5 * time.Second, 'P': 15 * time.Second} {
		if got := m.toRead[method]; got > most {
			t.Errorf("%q: the server waits %v for a request, want at most %v", method, got, most)
		}
	}
	if m.toRead[0] < time.Second || m.toRead['P'] < 10*time.Second {
		t.Errorf("the server waits at most %v for headers and %v for a body, which is too short", m.toRead[0], m.toRead['P'])
	}
}

// BenchmarkBesideSlowConnections measures requests while thousands of connections send a
// byte a second.
func BenchmarkBesideSlowConnections(b *testing.B) {
	addr, _ := live(b, nil)
	n, closed := slowConnections(b, addr)
	var took []time.Duration
	for open := true; open; {
		select {
		case <-closed:
			open = false
		case <-time.After(50 * time.Millisecond):
		}
		begin := time.Now()
		res, err := http.Get("http://" + addr + "/livez")
		if err != nil {
			b.Fatal(err)
		}
		res.Body.Close()
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(n), "slow")
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// Nobody gets rid of the write deadline without a token.
func TestAnswersHaveAWriteDeadline_K03(t *testing.T) {
	addr, m := live(t, nil)
	for _, path := range []string{"/mcp", "/tools/echo", "/token", "/livez", "/.well-known/oauth-protected-resource"} {
		for _, authorization := range []string{"", "Bearer x"} {
			r, err := http.NewRequest("POST", "http://"+addr+path, strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			if authorization != "" {
				r.Header.Set("Authorization", authorization)
			}
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			deadline := m.deadline.Load()
			if deadline == nil {
				t.Fatalf("%s: answered without any write deadline", path)
			}
			if left := time.Until(*deadline); left < time.Second || left > time.Minute {
				t.Errorf("%s with %q: write deadline %s", path, authorization, deadline)
			}
		}
	}
}

// Streams that are opened and reset at once, and headers that never end, close their
// connection, and the server answers other clients.
func TestStreamFloodsEndOnlyTheirConnection_K03(t *testing.T) {
	cert, key := selfSigned(t)
	addr, _ := live(t, func(o *server.Options) {
		o.TLSCert, o.TLSKey = cert, key
		o.Issuer = "https://localhost"
	})
	dial := func() *tls.Conn {
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+string(frame(4, 0, 0, nil))); err != nil {
			t.Fatal(err)
		}
		return c
	}
	// :method GET, :scheme https, :path /, :authority localhost
	headers := append([]byte{0x82, 0x87, 0x84, 0x41, 9}, "localhost"...)
	t.Run("reset", func(t *testing.T) {
		c := dial()
		defer c.Close()
		gone := goneAway(c)
		var flood []byte
		for i := range uint32(10_000) {
			flood = append(flood, frame(1, 0x5, 2*i+1, headers)...)
			flood = append(flood, frame(3, 0, 2*i+1, []byte{0, 0, 0, 8})...)
		}
		if _, err := c.Write(flood); err != nil {
			return // the server has closed the connection
		}
		// The server may also answer the flood.
		if _, err := c.Write(frame(6, 0, 0, []byte("12345678"))); err != nil {
			return
		}
		until(t, "at most 100 goroutines after the flood", func() (any, bool) { n := runtime.NumGoroutine(); return n, n <= 100 })
		c.Close()
		wantClosed(t, gone)
	})
	t.Run("continuation", func(t *testing.T) {
		c := dial()
		defer c.Close()
		gone := goneAway(c)
		if _, err := c.Write(frame(1, 0, 1, headers)); err != nil {
			t.Fatal(err)
		}
		more := append([]byte{0, 1, 'x', 127, 0x81, 0x3e}, bytes.Repeat([]byte("y"), 8000)...)
		for range 10_000 {
			if _, err := c.Write(frame(9, 0, 1, more)); err != nil {
				break
			}
		}
		wantClosed(t, gone)
	})
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	res, err := client.Get("https://" + addr + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 || res.ProtoMajor != 2 {
		t.Errorf("afterwards: %s %s", res.Proto, res.Status)
	}
}

// frame returns an HTTP/2 frame (RFC 9113 §4.1).
func frame(kind, flags byte, stream uint32, payload []byte) []byte {
	b := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// goneAway returns a channel that is closed when the server has ended the connection.
func goneAway(c net.Conn) <-chan struct{} {
	gone := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, bufio.NewReader(c))
		close(gone)
	}()
	return gone
}

func wantClosed(t *testing.T, gone <-chan struct{}) {
	t.Helper()
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Error("the connection is still open")
	}
}

// No endpoint believes headers that claim another host or scheme: not in links, redirects,
// cookies or challenges.
func TestForgedHeadersChangeNoAnswer_K04(t *testing.T) {
	srv := newServer(t, nil)
	sdk.AddTool(srv.MCP, &sdk.Tool{Name: "echo"}, func(context.Context, *sdk.CallToolRequest, struct{}) (*sdk.CallToolResult, any, error) {
		return &sdk.CallToolResult{}, nil, nil
	})
	base, stop := serving(t, srv)
	defer stop()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	ask := func(method, path string, forged bool) (*http.Response, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader("a=b"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Accept", "text/html")
		if forged {
			r.Host = "evil.test"
			for name, value := range map[string]string{
				"X-Forwarded-Host": "evil.test", "X-Forwarded-Proto": "gopher", "X-Forwarded-Port": "6666", "X-Forwarded-Prefix": "/evil", "Forwarded": "host=evil.test;proto=gopher",
				"X-Original-Url": "/evil", "X-Original-Host": "evil.test", "X-Rewrite-Url": "/evil", "X-Http-Method-Override": "DELETE", "X-Forwarded-Scheme": "gopher", "X-Host": "evil.test",
			} {
				r.Header.Set(name, value)
			}
		}
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, string(body)
	}
	authorize := "/authorize?" + url.Values{
		"client_id": {registered(t, base)}, "redirect_uri": {"http://127.0.0.1:1/cb"}, "response_type": {"code"}, "scope": {"read"},
		"code_challenge": {"E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"}, "code_challenge_method": {"S256"},
	}.Encode()
	for _, path := range []string{
		"/", "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration", "/.well-known/jwks.json", "/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp",
		authorize, "/authorize", "/login", "/consent", "/logout", "/account", "/token", "/register", "/revoke", "/introspect", "/userinfo", "/mcp", "/connect", "/tools/echo", "/livez", "/readyz", "/nothing", "/favicon.ico",
	} {
		for _, method := range []string{"GET", "POST", "OPTIONS", "DELETE"} {
			plain, plainBody := ask(method, path, false)
			forged, forgedBody := ask(method, path, true)
			name := method + " " + strings.SplitN(path, "?", 2)[0]
			if forged.StatusCode == http.StatusForbidden {
				continue // a foreign host may be refused (DNS rebinding)
			}
			if plain.StatusCode != forged.StatusCode {
				t.Errorf("%s: %d, without forged headers %d", name, forged.StatusCode, plain.StatusCode)
			}
			var head strings.Builder
			_ = forged.Header.Write(&head)
			for _, bad := range []string{"evil.test", "/evil", "%2Fevil", "gopher:", "gopher%3A"} { // none of which base64url contains by chance
				if strings.Contains(head.String()+forgedBody, bad) {
					t.Errorf("%s: the answer says %s: %s%s", name, bad, head.String(), forgedBody)
				}
			}
			if where(plain) != where(forged) || len(plainBody) != len(forgedBody) && !strings.Contains(plainBody, "value=") {
				t.Errorf("%s: to %q, without forged headers to %q; %d and %d bytes", name, where(forged), where(plain), len(forgedBody), len(plainBody))
			}
			if got, want := cookieForms(forged), cookieForms(plain); got != want {
				t.Errorf("%s: cookies %s, without forged headers %s", name, got, want)
			}
		}
	}
}

// where returns the target of a redirect without its sealed query, and the challenge.
func where(r *http.Response) string {
	to, _, _ := strings.Cut(r.Header.Get("Location"), "?")
	return to + r.Header.Get("WWW-Authenticate")
}

// cookieForms returns the cookies without their values.
func cookieForms(r *http.Response) string {
	var forms []string
	for _, c := range r.Cookies() {
		c.Value, c.Raw = "", ""
		forms = append(forms, c.String())
	}
	return strings.Join(forms, ", ")
}

func registered(t *testing.T, base string) string {
	t.Helper()
	res, err := http.Post(base+"/register", "application/json", strings.NewReader(`{"redirect_uris":["http://127.0.0.1:1/cb"],"token_endpoint_auth_method":"none"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), `"client_id":"`)
	id, _, _ := strings.Cut(rest, `"`)
	if id == "" {
		t.Fatalf("registering: %s %s", res.Status, b)
	}
	return id
}

// The client's address is the right-most one in X-Forwarded-For that is not a trusted
// proxy. Without trusted proxies it is the connection's address. If it cannot be read, the
// log has the connection's address.
func TestOnlyTrustedProxiesNameTheClient_K04(t *testing.T) {
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
	for name, c := range map[string]struct {
		trusted []netip.Prefix
		header  []string
		want    string
	}{
		"no header":                {loopback, nil, "127.0.0.1"},
		"one hop":                  {loopback, []string{"198.51.100.7"}, "198.51.100.7"},
		"an address of the client": {loopback, []string{"203.0.113.9, 198.51.100.7"}, "198.51.100.7"},
		"two proxies":              {loopback, []string{"203.0.113.9, 198.51.100.7, 10.1.2.3"}, "198.51.100.7"},
		"two header lines":         {loopback, []string{"203.0.113.9", "198.51.100.7"}, "198.51.100.7"},
		"not an address":           {loopback, []string{"203.0.113.9, unknown"}, "127.0.0.1"},
		"proxies only":             {loopback, []string{"10.1.2.3"}, "127.0.0.1"},
		"no trusted proxy":         {nil, []string{"198.51.100.7"}, "127.0.0.1"},
		"this proxy not trusted":   {loopback[1:], []string{"198.51.100.7"}, "127.0.0.1"},
		"an IPv4 address in IPv6":  {loopback, []string{"::ffff:198.51.100.7"}, "198.51.100.7"},
		"a proxy as IPv6":          {loopback, []string{"198.51.100.7, ::ffff:10.1.2.3"}, "198.51.100.7"},
	} {
		log := &safeBuffer{}
		addr, _ := live(t, func(o *server.Options) {
			o.TrustedProxies, o.Log = c.trusted, slog.New(slog.NewJSONHandler(log, nil))
		})
		r, err := http.NewRequest("POST", "http://"+addr+"/register", strings.NewReader(`{"redirect_uris":["https://app.test/cb"]}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header["X-Forwarded-For"] = c.header
		r.Header.Set("X-Real-Ip", "192.0.2.66")
		r.Header.Set("True-Client-Ip", "192.0.2.66")
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		text := log.String()
		if !strings.Contains(text, `"event":"register","outcome":"ok","address":"`+c.want+`"`) {
			t.Errorf("%s: want %s: %s", name, c.want, grep(text, "register"))
		}
		if warned := strings.Contains(text, "SIGNET_TRUSTED_PROXIES"); warned != (strings.Contains(name, "trusted")) {
			t.Errorf("%s: warned of an unknown proxy: %t", name, warned)
		}
	}
}

func TestForgedAddressesDoNotEscapeLimits_K04_C09(t *testing.T) {
	for name, c := range map[string]struct {
		trusted string
		header  string // %d stands for another number in each request
		refused bool
	}{
		"untrusted, rotating":     {"", "203.0.113.%d", true},
		"trusted, the left part":  {"127.0.0.0/8", "203.0.113.%d, 198.51.100.7", true},
		"trusted, other networks": {"127.0.0.0/8", "203.0.113.%d", false},
		"one IPv6 network":        {"127.0.0.0/8", "2001:db8::%d", true},
		"with ports":              {"127.0.0.0/8", "203.0.113.8:5123%d", true},
		"IPv6 with ports":         {"127.0.0.0/8", "[2001:db8::%d]:5123%d", true},
		"not told":                {"127.0.0.0/8", "unknown", false},
	} {
		addr, _ := live(t, func(o *server.Options) {
			o.Limits = server.Limits{Register: 3}
			if c.trusted != "" {
				o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix(c.trusted)}
			}
		})
		refused := 0
		for i := range 10 {
			r, err := http.NewRequest("POST", "http://"+addr+"/register", strings.NewReader(`{"redirect_uris":["https://app.test/cb"]}`))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("X-Forwarded-For", strings.ReplaceAll(c.header, "%d", fmt.Sprint(i+1)))
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode == http.StatusTooManyRequests && res.Header.Get("Retry-After") != "" {
				refused++
			}
		}
		if want := map[bool]int{true: 7}[c.refused]; refused != want {
			t.Errorf("%s: %d of 10 refused, want %d", name, refused, want)
		}
	}
}

// A request that a proxy in front may read in another way is refused, and is the last one on
// its connection: a second request hidden in the first is never answered.
func TestAmbiguousRequestsEndTheirConnection_K05(t *testing.T) {
	addr, _ := live(t, nil)
	const hidden = "GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
	post := func(headers, rest string) string {
		return "POST /token HTTP/1.1\r\nHost: localhost\r\n" + formHeader + headers + "\r\n" + rest
	}
	for name, c := range map[string]struct {
		request string
		want    []string // possible statuses
	}{
		"CL and TE":                    {post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+hidden), []string{"400"}},
		"TE and CL":                    {post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"+hidden), []string{"400"}},
		"TE twice":                     {post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"+hidden), []string{"400", "501"}},
		"TE in a list":                 {post("Transfer-Encoding: x, chunked\r\n", "0\r\n\r\n"+hidden), []string{"400", "501"}},
		"TE with a tab":                {post("Transfer-Encoding:\tchunked\r\n", "0\r\n\r\n"+hidden), []string{"400"}},
		"TE of HTTP/1.0":               {"POST /token HTTP/1.0\r\nConnection: keep-alive\r\n" + formHeader + "Transfer-Encoding: chunked\r\n\r\n" + hidden, []string{"400"}},
		"two Content-Lengths":          {post("Content-Length: 0\r\nContent-Length: 44\r\n", hidden), []string{"400"}},
		"Content-Length with a sign":   {post("Content-Length: +0\r\n", hidden), []string{"400"}},
		"Content-Length in a list":     {post("Content-Length: 0, 0\r\n", hidden), []string{"400"}},
		"bare LF in a chunk size":      {post("Transfer-Encoding: chunked\r\n", "3\na=b\r\n0\r\n\r\n"+hidden), []string{"400"}},
		"bare LF after a chunk":        {post("Transfer-Encoding: chunked\r\n", "3\r\na=b\n0\r\n\r\n"+hidden), []string{"400"}},
		"chunk size too large":         {post("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n"+hidden), []string{"400"}},
		"chunk size with a sign":       {post("Transfer-Encoding: chunked\r\n", "-1\r\n"+hidden), []string{"400"}},
		"two Hosts":                    {"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: evil.test\r\n\r\n" + hidden, []string{"400"}},
		"no Host":                      {"GET /livez HTTP/1.1\r\n\r\n" + hidden, []string{"400"}},
		"absolute URI of another host": {"GET http://evil.test/livez HTTP/1.1\r\nHost: localhost\r\n\r\n" + hidden, []string{"400"}},
		"space before the colon":       {"GET /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding : chunked\r\n\r\n" + hidden, []string{"400"}},
		"folded line":                  {"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: y\r\n z\r\n\r\n" + hidden, []string{"400"}},
		"folded by a tab":              {"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: y\r\n\tz\r\n\r\n" + hidden, []string{"400"}},
		"folded after bare LF":         {"GET /livez HTTP/1.1\r\nHost: localhost\nX: y\n z\n\n" + hidden, []string{"400"}},
		"line of spaces":               {"GET /livez HTTP/1.1\r\nHost: localhost\r\n  \r\n\r\n" + hidden, []string{"400"}},
		"TE in a folded line":          {post("Content-Length: 0\r\nX: y\r\n Transfer-Encoding: chunked\r\n", "0\r\n\r\n"+hidden), []string{"400"}},
		"TE folded in the middle":      {post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"+hidden), []string{"400"}},
		"folded Host":                  {"GET /livez HTTP/1.1\r\nHost:\r\n localhost\r\n\r\n" + hidden, []string{"400"}},
		"space before the first":       {"GET /livez HTTP/1.1\r\n X: y\r\nHost: localhost\r\n\r\n" + hidden, []string{"400"}},
	} {
		answers, closed := exchange(t, addr, c.request)
		if !slices.Contains(c.want, status(answers)) || !closed || strings.Count(answers, "HTTP/1.") != 1 {
			t.Errorf("%s: closed %t, want %v once: %.300q", name, closed, c.want, answers)
		}
	}
	if answer, _ := exchange(t, addr, "GET http://localhost:8080/livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); status(answer) != "200" {
		t.Errorf("absolute URI of the issuer: %.200q", answer)
	}
}

// Folded lines are refused in every request of a connection, however its bytes arrive, and
// bodies pass unchanged.
func TestFoldedLinesAreFoundInAllRequests_K05(t *testing.T) {
	addr, _ := live(t, nil)
	const first = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
	body := "grant_type=x\r\n y=\n\tz\n\n w"
	second := fmt.Sprintf("POST /token HTTP/1.1\r\nHost: localhost\r\ncontent-length:  %d \r\n%s\r\n%s", len(body), formHeader, body)
	const folded = "GET /livez HTTP/1.1\r\nHost: localhost\r\nX: y\r\n z\r\n\r\n"
	for name, c := range map[string]struct {
		parts []string
		want  []string
	}{
		"second request":           {[]string{first + folded}, []string{"200", "400"}},
		"after a body":             {[]string{second + folded}, []string{"400", "400"}},
		"byte by byte":             {strings.Split(first+second+folded, ""), []string{"200", "400", "400"}},
		"cut before the fold":      {[]string{folded[:strings.Index(folded, " z")], " z\r\n\r\n"}, []string{"400"}},
		"a body with folded lines": {[]string{second, first}, []string{"400", "200"}},
		"long lines":               {[]string{"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("y ", 5000) + "\r\n\r\n" + first}, []string{"200", "200"}},
	} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for _, part := range c.parts {
				_, _ = io.WriteString(conn, part)
				time.Sleep(time.Millisecond)
			}
		}()
		answers := bufio.NewReader(conn)
		for i, want := range c.want {
			res, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatalf("%s: answer %d: %v", name, i+1, err)
			}
			text, err := io.ReadAll(res.Body)
			if err != nil || strconv.Itoa(res.StatusCode) != want {
				t.Errorf("%s: answer %d is %d, want %s: %s %v", name, i+1, res.StatusCode, want, text, err)
			}
		}
		conn.Close()
	}
}

// Connections within the limit are served, and each that ends makes room for another.
func TestConnectionsBeyondTheLimitAreClosed_K03(t *testing.T) {
	const limit = 3
	srv := newServer(t, func(o *server.Options) {
		o.MaxConnections, o.TrustedProxies = limit, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	base, stop := serving(t, srv)
	defer stop()
	addr := strings.TrimPrefix(base, "http://")
	answered := func(c net.Conn) bool {
		t.Helper()
		c.SetDeadline(time.Now().Add(time.Minute)) // a refused connection is closed at once
		if _, err := io.WriteString(c, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			return false
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return false
		}
		_, err = io.Copy(io.Discard, res.Body)
		return err == nil && res.StatusCode == http.StatusOK
	}
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	var within []net.Conn
	for i := range limit {
		c := dial()
		if !answered(c) {
			t.Fatalf("connection %d of %d is not served", i+1, limit)
		}
		within = append(within, c)
	}
	// One of those that are idle makes room. A connection is idle a moment after its answer.
	until(t, "a connection beyond the limit", func() (any, bool) { return "closed", answered(dial()) })
	served := 0
	for _, c := range within {
		if answered(c) {
			served++
		}
	}
	if served != limit-1 {
		t.Errorf("%d of the %d connections before are served, want %d", served, limit, limit-1)
	}
}

// What anybody can send without a credential is spread in every role, whatever the answer is,
// so that it takes a share of the cores: refusals always, and what is in memory for everybody
// while requests with a credential come.
func TestRequestsWithoutCredentialAreSpread(t *testing.T) {
	const public, refused = 5000, 3000 // a second and core
	resource := []string{"GET /.well-known/oauth-protected-resource/mcp", "GET /.well-known/oauth-protected-resource", "OPTIONS /mcp", "OPTIONS /.well-known/oauth-protected-resource"}
	issuer := []string{
		"GET /.well-known/jwks.json", "HEAD /.well-known/jwks.json", "GET /.well-known/jwks.json?again", "GET /.well-known/oauth-authorization-server", "GET /.well-known/openid-configuration",
		"GET /.well-known/revoked", "GET /favicon.ico", "OPTIONS /token", "OPTIONS /register", "OPTIONS /.well-known/jwks.json",
	}
	always := []string{"GET /nothing", "POST /livez", "GET http://evil.test/livez", "GET /livez?" + strings.Repeat("a", 16<<10)}
	gateway, _ := gatewayFile(t, `servers: [{id: a, type: http, auth_strategy: bypass_auth, config: {url: "http://127.0.0.1:1/mcp"}}]`)
	for role, requests := range map[string]map[int][]string{
		"all":  {public: slices.Concat(issuer, resource, []string{"GET /livez", "GET /readyz"}), refused: append(always, "GET /mcp", "POST /mcp/connect", "POST /token", "GET /userinfo")},
		"auth": {public: append(issuer, "GET /livez", "GET /readyz"), refused: append(always, "POST /token", "GET /userinfo")},
		"mcp":  {public: append(resource, "GET /livez", "GET /health"), refused: append(always, "GET /mcp", "POST /mcp/connect")},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv := newServer(t, func(o *server.Options) {
				if o.Role = role; role == "mcp" {
					o.Issuer, o.Check, o.Gateway.Config = "http://127.0.0.1:1", nil, gateway
				}
			})
			const times = 250
			took := func(line string, want int) time.Duration {
				t.Helper()
				method, target, _ := strings.Cut(line, " ")
				begin := time.Now()
				for range times {
					r := httptest.NewRequest(method, target, nil)
					if r.URL.Host == "" {
						r.Host = "localhost"
					}
					w := httptest.NewRecorder()
					srv.Handler().ServeHTTP(w, r)
					if refusal := w.Code >= 400 && w.Code < 500; refusal != (want == refused) || target == "/mcp" && refusal && w.Code != http.StatusUnauthorized {
						t.Fatalf("%s: %.80s: %d", role, line, w.Code)
					}
				}
				return time.Since(begin)
			}
			for perSecond, lines := range requests {
				gap := time.Second / time.Duration(perSecond*runtime.GOMAXPROCS(0))
				for _, line := range lines {
					time.Sleep(2 * time.Second) // no credential is in use
					alone := took(line, perSecond)
					time.Sleep(2 * time.Second) // nothing waits any longer
					srv.Used()
					beside := took(line, perSecond)
					if beside < (times-51)*gap || beside > times*gap {
						t.Errorf("%s: %d of %.80s took %v beside others, want about %v", role, times, line, beside, (times-50)*gap)
					}
					if perSecond == public && alone != 0 {
						t.Errorf("%s: %d of %.80s took %v alone", role, times, line, alone)
					}
				}
			}
		})
	}
}

// A long form costs more than a short one, so it waits for more turns, and before it is read.
// So does one that does not say how long it is.
func TestLongFormsTakeMoreTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t, nil)
		gap := time.Second / time.Duration(3000*runtime.GOMAXPROCS(0))
		for name, c := range map[string]struct {
			path   string
			length int
			hidden bool // whether the request does not say its length
			used   bool // whether requests with a credential come
			turns  time.Duration
		}{
			"short":            {"/token", 2 << 10, false, true, 1},
			"long":             {"/token", 60 << 10, false, true, 1 + 7},
			"says too much":    {"/token", 200 << 10, false, true, 1 + 8},
			"of any length":    {"/token", 2 << 10, true, true, 1 + 8},
			"a document":       {"/register", 16 << 10, false, true, 1 + 1 + 2}, // anybody may register, and this is refused
			"nothing is used":  {"/token", 60 << 10, false, false, 1},
			"a long page form": {"/authorize", 60 << 10, false, true, 1 + 1 + 7},
		} {
			time.Sleep(10 * time.Second) // nothing waits any longer, and nothing is used
			if c.used {
				srv.Used()
			}
			const times = 100
			begin := time.Now()
			for range times {
				r := httptest.NewRequest("POST", c.path, strings.NewReader(strings.Repeat("x", c.length)))
				r.Host = "localhost"
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				if c.hidden {
					r.ContentLength = -1
				}
				w := httptest.NewRecorder()
				if srv.Handler().ServeHTTP(w, r); w.Code < 400 || w.Code >= 500 {
					t.Fatalf("%s: %d", name, w.Code)
				}
			}
			if took, most := time.Since(begin), times*c.turns*gap; took > most || took < most-(50+c.turns)*gap {
				t.Errorf("%s: took %v, want about %v", name, took, most-50*gap)
			}
		}
	})
}
