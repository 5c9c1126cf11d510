package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Deadlines of a connection. Handlers of the authorization server have shorter ones of
// their own. Package mcp removes the write deadline while a message runs that has been
// allowed, and for a stream, which may last as long as its token.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second
	writeTimeout      = 30 * time.Second // except for long answers, see admission.Send
	idleTimeout       = 90 * time.Second
	maxHeaderBytes    = 28 << 10 // net/http adds 4 KB
	shutdownTimeout   = 25 * time.Second
	handshakeTime     = 50 * time.Millisecond // see settle
	lingerTime        = time.Second           // see shutdown
)

// ListenAndServe serves until ctx ends, stops without dropping a request, and closes s. It
// returns nil after such a stop.
//
// The stop has three steps. For DrainDelay the server still answers, while /readyz says
// no and every answer asks the client to open its next connection elsewhere. Then the
// server no longer accepts connections, and for up to a second serves the open ones.
// Then it waits for the running requests, and closes the store.
func (s *Server) ListenAndServe(ctx context.Context) error {
	l, err := s.Listen()
	if err != nil {
		return errors.Join(err, s.Close())
	}
	return s.Serve(ctx, l)
}

// Listen opens the listener of Options.Listen, for a caller that needs the address before
// it passes the listener to Serve.
func (s *Server) Listen() (net.Listener, error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false) // settle cannot filter such sockets
	l, err := c.Listen(context.Background(), "tcp", s.o.Listen)
	if err != nil {
		return nil, fmt.Errorf("SIGNET_LISTEN: listening: %w", err)
	}
	return l, nil
}

// Serve is like ListenAndServe, on an open listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) (err error) {
	defer func() { err = errors.Join(err, s.Close()) }()
	for _, w := range s.o.warnings() {
		s.o.Log.Warn(w)
	}
	s.warnTools(ctx)
	stopMetrics, err := s.serveMetrics()
	if err != nil {
		l.Close()
		return err
	}
	defer stopMetrics()
	srv, err := s.httpServer()
	if err != nil {
		l.Close()
		return err
	}
	s.o.Log.Info("serving", "issuer", s.o.Issuer, "listen", l.Addr().String(), "role", s.o.Role)
	failed := make(chan error, 1)
	go func() {
		if srv.TLSConfig != nil {
			failed <- srv.ServeTLS(wire{l, true}, "", "")
		} else {
			failed <- srv.Serve(wire{l, false})
		}
	}()
	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case err := <-s.storeRefused():
		srv.Close()
		<-failed
		return fmt.Errorf("SIGNET_STORE: %w", err)
	case <-ctx.Done():
	}
	s.drain(l)
	<-failed
	return s.shutdown(srv)
}

// storeRefused gets an error if the store that the server waited for refuses it.
func (s *Server) storeRefused() <-chan error {
	if s.store == nil { // role mcp
		return nil
	}
	return s.store.Refused()
}

// httpServer returns the server of the public listener.
func (s *Server) httpServer() (*http.Server, error) {
	srv := &http.Server{
		Handler: s.handler, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog:  slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug),
		ConnState: s.connections.changed,
	}
	srv.RegisterOnShutdown(s.EndStreams)
	if s.o.TLSCert == "" {
		return srv, nil
	}
	var err error
	srv.TLSConfig, err = s.tlsConfig()
	return srv, err
}

// drain sends clients elsewhere, and then closes the listener.
func (s *Server) drain(l net.Listener) {
	s.o.Log.Info("stopping", "drain", s.o.DrainDelay.String())
	s.draining.Store(true)
	time.Sleep(s.o.DrainDelay)
	settle(l, min(s.o.DrainDelay/10, handshakeTime))
	l.Close()
}

// shutdown ends a server whose listener is closed.
func (s *Server) shutdown(srv *http.Server) error {
	// A proxy that uses an idle connection at the moment in which the server closes it
	// loses the request, and may not send it again. So connections stay open a little
	// longer than the listener: the proxy finds out by a refused connection, which loses
	// nothing, and then leaves the open ones alone.
	for end := time.Now().Add(min(s.o.DrainDelay/2, lingerTime)); s.connections.count() > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	err := srv.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("requests were still running after %s", shutdownTimeout)
	}
	if err != nil {
		srv.Close()
		return fmt.Errorf("stopping: %w", err)
	}
	return nil
}

func (s *Server) tlsConfig() (*tls.Config, error) {
	current := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.certificate.Load(), nil }
	return &tls.Config{GetCertificate: current, MinVersion: tls.VersionTLS12}, s.loadCertificate()
}

// loadCertificate reads the certificate for the connections to come.
func (s *Server) loadCertificate() error {
	cert, err := tls.LoadX509KeyPair(s.o.TLSCert, s.o.TLSKey)
	if err != nil {
		return fmt.Errorf("SIGNET_TLS_CERT, SIGNET_TLS_KEY: %w", err)
	}
	s.certificate.Store(&cert)
	return nil
}

// operators is what the listener for operators serves.
func (s *Server) operators() http.Handler {
	admin := http.Handler(http.HandlerFunc(noGateway))
	if s.gateway != nil {
		admin = gatewayAdmin(s.gateway)
	}
	return s.metrics.handler(s.o.MetricsListen, admin)
}

// serveMetrics serves metrics and pprof on their own listener until the returned
// function is called.
func (s *Server) serveMetrics() (stop func(), err error) {
	if s.o.MetricsListen == "" {
		return func() {}, nil
	}
	l, err := net.Listen("tcp", s.o.MetricsListen)
	if err != nil {
		if s.o.MetricsOptional {
			s.o.Log.Warn("no metrics: their port is busy; SIGNET_METRICS_LISTEN names another", "listen", s.o.MetricsListen)
			return func() {}, nil
		}
		return nil, fmt.Errorf("SIGNET_METRICS_LISTEN: %w", err)
	}
	srv := &http.Server{Handler: s.operators(), ReadHeaderTimeout: readHeaderTimeout}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(l) // returns ErrServerClosed after Close
	}()
	return func() { srv.Close(); <-done }, nil
}
