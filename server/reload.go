package server

import (
	"context"
	"errors"
	"time"
)

// lookEvery is how often the files of users and clients are checked for changes, whether
// or not requests come.
const lookEvery = time.Second

// Reload looks at all files now: users, clients, secret, keys, and the certificate, which is
// read at no other time. It logs the result. The files of the pages are read at a start only.
func (s *Server) Reload() {
	if s.o.TLSCert != "" {
		if err := s.loadCertificate(); err != nil {
			s.o.Log.Error("the certificate cannot be used: the one that was read before stays in use", "err", err)
		} else {
			s.o.Log.Info("the certificate is as its files say")
		}
	}
	select {
	case s.reload <- struct{}{}:
	default: // a call of Reload waits already
	}
}

// watchFiles logs when a file was changed and cannot be used, and when that ends. The keys
// log it themselves.
func (s *Server) watchFiles(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for logged := ""; ; {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-s.reload:
			asked = true
			s.lookNow()
		case <-tick.C:
		}
		logged = s.logStaleFiles(logged, asked)
	}
}

// lookNow reads the files also if they were looked at just before.
func (s *Server) lookNow() {
	s.clients.Reload()
	if s.usersFile != nil {
		s.usersFile.Reload()
	}
	s.state.Reload()
	s.keys.Reload()
}

// logStaleFiles logs what has changed since the problem that was logged, or in any case if
// the operator asked. It returns the problem of now, empty if there is none.
func (s *Server) logStaleFiles(logged string, asked bool) (problem string) {
	if err := s.staleFiles(); err != nil {
		problem = err.Error()
	}
	switch {
	case problem != "" && (asked || problem != logged):
		s.o.Log.Error("a changed file cannot be used: what was read before stays in force", "err", problem)
	case problem == "" && (asked || logged != ""):
		s.o.Log.Info("users and clients are as their files say")
	}
	return problem
}

// staleFiles returns why the files of users, clients, their documents and quirks are not in use as
// they are now.
func (s *Server) staleFiles() error {
	errs := []error{s.clients.Stale()}
	if s.usersFile != nil {
		errs = append(errs, s.usersFile.Stale())
	}
	return errors.Join(errs...)
}
