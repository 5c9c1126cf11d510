package server

import (
	"context"
	"log/slog"
	"time"

	"signet/internal/background"
	"signet/jwt"
)

// clockEvery is how often the clocks are compared.
const clockEvery = time.Second

// clockLimit is how far clocks may be apart without a warning: a quarter of the lead of a
// signing key, or the leeway of verifiers, whichever is less.
func (o *Options) clockLimit() time.Duration { return min(o.KeyRotation/4, jwt.Leeway) }

func (s *Server) clocksDiffer() bool { return s.store.ClocksApart() > s.o.clockLimit() }

// watchClocks logs when clocks begin to differ too much, and when they agree again.
func (s *Server) watchClocks(ctx context.Context) {
	differ := background.Condition{
		Log: s.o.Log, Level: slog.LevelWarn, End: "clocks agree again",
		Begin: "clocks differ: signing keys and tokens may be taken for too new or too old; run NTP on every machine",
	}
	background.Every(ctx, clockEvery, func() {
		differ.Holds(s.clocksDiffer(), "apart", s.store.ClocksApart().String(), "limit", s.o.clockLimit().String())
	})
}
