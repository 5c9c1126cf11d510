// Package backends has MCP servers for tests of the gateway: a good one on the go-sdk in the
// protocol versions with and without sessions ([MCP]), one in the REST shape of older gateways
// ([REST]), and one that answers what no client should believe ([Hostile]). Each keeps every
// request that reached it.
package backends

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"

	"signet/internal/test/freeport"
)

// Request is one request that reached a server.
type Request struct {
	Method, Path, Query string
	Header              http.Header
	Body                string
}

// Bearer is the token of the Authorization header, or empty.
func (r Request) Bearer() string {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return token
}

// Server is what all servers of this package have in common: an address, and a log.
type Server struct {
	*freeport.Server
	handler http.Handler

	mu       sync.Mutex
	requests []Request
}

func listen(address string, h http.Handler) (*Server, error) {
	s := &Server{handler: h}
	var err error
	if s.Server, err = freeport.NewServer(address, s); err != nil {
		return nil, err
	}
	return s, s.Up()
}

// ServeHTTP keeps the request and answers it.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 16<<20))
	if err != nil {
		http.Error(w, "the body cannot be read", http.StatusBadRequest)
		return
	}
	header := r.Header.Clone()
	header.Set("Host", r.Host)
	s.mu.Lock()
	s.requests = append(s.requests, Request{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, header, string(body)})
	s.mu.Unlock()
	r.Body = io.NopCloser(bytes.NewReader(body))
	s.handler.ServeHTTP(w, r)
}

// Port is the port of the server.
func (s *Server) Port() string {
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(s.URL(), "http://"))
	return port
}

// Requests returns the requests so far.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.requests...)
}

// Calls returns the requests that call a tool, in both shapes.
func (s *Server) Calls() (list []Request) {
	for _, r := range s.Requests() {
		if r.Path == "/mcp/tools/call" || strings.Contains(r.Body, `"tools/call"`) {
			list = append(list, r)
		}
	}
	return list
}

// Log returns everything that has reached the server: request lines, headers and bodies.
func (s *Server) Log() string {
	var b strings.Builder
	for _, r := range s.Requests() {
		fmt.Fprintf(&b, "%s %s?%s\n", r.Method, r.Path, r.Query)
		r.Header.Write(&b)
		b.WriteString(r.Body + "\n\n")
	}
	return b.String()
}

// Forget empties the log.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = nil
}
