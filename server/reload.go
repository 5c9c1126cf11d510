package server

import (
	"context"
	"errors"
	"time"
)

// lookEvery is how often the files of users and clients are checked for changes, whether
// or not requests come.
const lookEvery = time.Second

// Reload checks the files of users and clients for changes now, instead of within a
// second, and logs the result.
func (s *Server) Reload() {
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
		case <-tick.C:
		}
		logged = s.logStaleFiles(logged, asked)
	}
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

// staleFiles returns why the files of users and clients are not in use as they are now.
func (s *Server) staleFiles() error {
	errs := []error{s.clients.Stale()}
	if s.usersFile != nil {
		errs = append(errs, s.usersFile.Stale())
	}
	return errors.Join(errs...)
}
