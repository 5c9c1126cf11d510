package backend_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/internal/backend"
	"signet/internal/gatewayconfig"
	"signet/internal/test/backends"
)

// at returns a server with instances at these URLs.
func at(urls ...string) *gatewayconfig.Server {
	s := &gatewayconfig.Server{ID: "srv"}
	for _, u := range urls {
		s.Instances = append(s.Instances, gatewayconfig.Instance{URL: u, Weight: 1})
	}
	return s
}

// open returns the backend of a server, which ends with the test.
func open(t testing.TB, s *gatewayconfig.Server, change ...func(*backend.Options)) *backend.Backend {
	t.Helper()
	o := backend.Options{Server: s, Log: slog.New(slog.DiscardHandler), Agent: "signet/test"}
	for _, c := range change {
		c(&o)
	}
	b, err := backend.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// callOf is the call of a tool with arguments as they are.
func callOf(name, arguments string) backend.Message {
	return backend.Message{
		Method: "tools/call", Name: name, Params: json.RawMessage(`{"name":"` + name + `","arguments":` + arguments + `}`),
		Session: "grant-1", Header: http.Header{"Authorization": {"Bearer good"}},
	}
}

// modern is m as a modern caller sends it.
func modern(m backend.Message) backend.Message {
	const meta = `{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"caller","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}},`
	m.Modern, m.Params = true, json.RawMessage(meta+string(m.Params[1:]))
	return m
}

// mustDo sends a message and returns the result.
func mustDo(t *testing.T, b *backend.Backend, m backend.Message) string {
	t.Helper()
	a, err := b.Do(t.Context(), m, nil)
	if err != nil || a.Error != nil {
		t.Fatalf("%s %s: %v %s", m.Method, m.Name, err, a.Error)
	}
	return string(a.Result)
}

// failure sends a message and returns its error.
func failure(t *testing.T, b *backend.Backend, m backend.Message) *backend.Error {
	t.Helper()
	a, err := b.Do(t.Context(), m, nil)
	var e *backend.Error
	if !errors.As(err, &e) {
		t.Fatalf("%s %s: %v %s%s, want a *backend.Error", m.Method, m.Name, err, a.Result, a.Error)
	}
	if strings.Contains(e.Error(), backends.Canary) || !strings.HasPrefix(e.Error(), "server srv: ") {
		t.Errorf("the error text is %q", e)
	}
	return e
}

// heard keeps notifications.
type heard struct {
	mu   sync.Mutex
	list []string
	all  chan string
}

func newHeard() *heard { return &heard{all: make(chan string, 100)} }

func (h *heard) notify(method string, message json.RawMessage) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, string(message))
	h.all <- method
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for tick := time.NewTicker(time.Millisecond); !holds(); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("it never held: " + what)
		}
	}
}

// proxied is the address of a server before m. If answer reports true, it has answered the request;
// otherwise m does.
func proxied(t *testing.T, m *backends.MCP, answer func(w http.ResponseWriter, r *http.Request, body string) bool) string {
	t.Helper()
	target, err := url.Parse(m.URL())
	if err != nil {
		t.Fatal(err)
	}
	quiet := log.New(io.Discard, "", 0)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorLog = quiet
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, "the body cannot be read", http.StatusBadRequest)
			return
		}
		if answer(w, r, string(body)) {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, r)
	}))
	server.Config.ErrorLog = quiet
	server.Start()
	t.Cleanup(server.Close)
	return server.URL + "/mcp"
}
