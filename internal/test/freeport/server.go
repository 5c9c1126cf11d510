package freeport

import (
	"fmt"
	"net"
	"net/http"
	"sync"
)

// Server is an HTTP server that a test takes down and up again at the same address. Its methods
// are safe for concurrent use.
type Server struct {
	address string
	handler http.Handler

	mu       sync.Mutex
	listener net.Listener // nil while the server is down
	server   *http.Server
}

// NewServer returns a server at address, or, if that is empty, at a port of [New]. It is down.
func NewServer(address string, h http.Handler) (*Server, error) {
	if address == "" {
		port, err := New()
		if err != nil {
			return nil, err
		}
		address = fmt.Sprintf("127.0.0.1:%d", port)
	}
	return &Server{address: address, handler: h}, nil
}

// URL returns the URL of the server without a path.
func (s *Server) URL() string { return "http://" + s.address }

// Up starts the server, for the first time or after Down.
func (s *Server) Up() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		return err
	}
	s.listener, s.server = l, &http.Server{Handler: s.handler}
	go s.server.Serve(l)
	return nil
}

// Down ends the server: when it returns, connections are cut, and others are refused.
func (s *Server) Down() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return
	}
	s.listener.Close() // before the goroutine of Serve has begun, the server does not know it
	s.server.Close()
	s.listener = nil
}
