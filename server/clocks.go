package server

import (
	"context"
	"time"

	"signet/jwt"
)

// clockEvery is how often the clocks are compared.
const clockEvery = time.Second

// clockLimit is how far clocks may be apart before it is worth a warning: a quarter of
// the lead of a signing key, or the leeway of verifiers, whichever is less.
func (o *Options) clockLimit() time.Duration { return min(o.KeyRotation/4, jwt.Leeway) }

func (s *Server) clocksDiffer() bool { return s.store.ClocksApart() > s.o.clockLimit() }

// watchClocks tells the log when clocks begin to differ too much, and when they agree.
func (s *Server) watchClocks(ctx context.Context) {
	differ := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(clockEvery):
		}
		switch now := s.clocksDiffer(); {
		case now && !differ:
			s.o.Log.Warn("clocks differ: signing keys and tokens may be taken for too new or too old; run NTP on every machine",
				"apart", s.store.ClocksApart().String(), "limit", s.o.clockLimit().String())
		case !now && differ:
			s.o.Log.Info("clocks agree again")
		}
		differ = s.clocksDiffer()
	}
}
