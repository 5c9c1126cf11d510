package e2e

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Proxy stands between clients and the server, as a load balancer does. It records all
// exchanges and causes faults on request.
type Proxy struct {
	URL string // http://localhost:PORT: the issuer

	mu        sync.Mutex
	exchanges []Exchange
	spoiled   map[string]bool // access tokens
	instead   func(Exchange) (status int, body string)
	next      *httputil.ReverseProxy
}

// Exchange is a request and its answer.
type Exchange struct {
	Method, Path string
	Header       http.Header
	Form         url.Values // of a form
	Body         string
	Status       int
	Answer       string      // its first 64 KiB
	AnswerHeader http.Header // nil while there is no answer
}

// NewProxy listens on a port of its own; [Proxy.To] sets the server.
func NewProxy(t testing.TB) *Proxy {
	p := &Proxy{spoiled: map[string]bool{}}
	srv := httptest.NewServer(p)
	t.Cleanup(func() {
		srv.CloseClientConnections() // an open event stream would keep Close waiting
		srv.Close()
	})
	p.URL = strings.Replace(srv.URL, "127.0.0.1", "localhost", 1)
	return p
}

// To sends requests to the server at base, with the Host header unchanged.
func (p *Proxy) To(t testing.TB, base string) {
	t.Helper()
	to, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = &httputil.ReverseProxy{
		FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			var e *net.OpError
			if errors.As(err, &e) && e.Op == "dial" {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			panic(http.ErrAbortHandler) // the server cut the connection, so the proxy does too
		},
	}
}

// Spoil makes the server see a wrong signature in every access token that was used so
// far: to the client, the token seems to have expired early.
func (p *Proxy) Spoil() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.exchanges {
		if token, ok := strings.CutPrefix(e.Header.Get("Authorization"), "Bearer "); ok {
			p.spoiled[token] = true
		}
	}
}

// Instead lets answer reply in JSON in the server's place, unless it returns status 0;
// nil ends that.
func (p *Proxy) Instead(answer func(Exchange) (status int, body string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.instead = answer
}

// Exchanges returns the exchanges with path, in the order in which they began.
func (p *Proxy) Exchanges(path string) []Exchange {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []Exchange
	for _, e := range p.exchanges {
		if e.Path == path {
			list = append(list, e)
		}
	}
	return list
}

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	e := Exchange{Method: r.Method, Path: r.URL.Path, Header: r.Header.Clone(), Body: string(body)}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		e.Form, _ = url.ParseQuery(e.Body)
	}
	p.mu.Lock()
	answer := &recorder{ResponseWriter: w, p: p, n: len(p.exchanges)}
	p.exchanges = append(p.exchanges, e)
	next := p.next
	token := r.Header.Get("Authorization")
	if p.spoiled[strings.TrimPrefix(token, "Bearer ")] {
		r.Header.Set("Authorization", token[:len(token)-8]+"AAAAAAAA")
	}
	instead := p.instead
	p.mu.Unlock()
	if instead != nil {
		if status, body := instead(e); status != 0 {
			answer.Header().Set("Content-Type", "application/json")
			if status == http.StatusServiceUnavailable {
				answer.Header().Set("Retry-After", "1")
			}
			answer.WriteHeader(status)
			io.WriteString(answer, body)
			return
		}
	}
	if next == nil {
		answer.WriteHeader(http.StatusBadGateway)
		return
	}
	next.ServeHTTP(answer, r)
}

// recorder records an answer before the client can read it.
type recorder struct {
	http.ResponseWriter
	p *Proxy
	n int // of the exchange
}

func (r *recorder) WriteHeader(status int) {
	r.p.mu.Lock()
	e := &r.p.exchanges[r.n]
	e.Status, e.AnswerHeader = status, r.Header().Clone()
	r.p.mu.Unlock()
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	r.p.mu.Lock()
	e := &r.p.exchanges[r.n]
	e.Answer += string(b[:min(len(b), 64<<10-len(e.Answer))])
	r.p.mu.Unlock()
	return r.ResponseWriter.Write(b)
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Refreshes returns the refreshes that ended with status.
func (p *Proxy) Refreshes(status int) []Exchange {
	return slices.DeleteFunc(p.Exchanges("/token"), func(e Exchange) bool {
		return e.Form.Get("grant_type") != "refresh_token" || e.Status != status
	})
}
