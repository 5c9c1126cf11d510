package server

import (
	"context"
	"errors"
	"time"
)

// lookEvery is how often the files of users and clients are looked at when no request
// does it.
const lookEvery = time.Second

// Reload looks at the files of users and clients now, in place of within a second,
// and tells the log what it finds.
func (s *Server) Reload() {
	select {
	case s.reload <- struct{}{}:
	default: // somebody has asked already
	}
}

// watchFiles tells the log when a file was changed into something that cannot be
// used, and when that is over. The keys tell it themselves.
func (s *Server) watchFiles(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for said := ""; ; {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-s.reload:
			asked = true
		case <-tick.C:
		}
		now := ""
		if err := s.staleFiles(); err != nil {
			now = err.Error()
		}
		switch {
		case now != "" && (asked || now != said):
			s.o.Log.Error("a changed file cannot be used: what was read before stays in force", "err", now)
		case now == "" && (asked || said != ""):
			s.o.Log.Info("users and clients are as their files say")
		}
		said = now
	}
}

// staleFiles says which file of users or clients is not the one in use.
func (s *Server) staleFiles() error {
	errs := []error{s.clients.Stale()}
	if s.usersFile != nil {
		errs = append(errs, s.usersFile.Stale())
	}
	return errors.Join(errs...)
}
