package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"signet/internal/store"
	"signet/jwt"
)

// lookAgain is how often the secret file and the clocks are looked at.
const lookAgain = time.Second

// openWith opens the store. The secret file may be another one by the time that the
// store is ours: a rotation may have come between.
func (s *Server) openWith(ctx context.Context, data Data, opts store.Options) (err error) {
	s.store, err = data.open(ctx, s.ring, opts)
	if !errors.Is(err, store.ErrOtherRoot) || data.Secret != "" || data.shared() {
		return err
	}
	again, readErr := data.Ring()
	if readErr != nil || slices.Equal(again.Roots(), s.ring.Roots()) {
		return err
	}
	s.ring = again
	s.store, err = data.open(ctx, s.ring, opts)
	return err
}

// followRoots takes up what the secret file says when it changes, and tells through the
// store which roots this server holds: a rotation goes on when all hold the next one.
func (s *Server) followRoots(ctx context.Context, data Data) {
	said := ""
	for {
		if data.Secret == "" && !data.shared() {
			err := s.takeUpSecret(ctx, data)
			if ctx.Err() != nil {
				return
			}
			if was := s.staleSecret(); err != nil && (was == nil || was.Error() != err.Error()) {
				s.o.Log.Error("the secret file cannot be taken up, going on with the roots at hand", "err", err)
			}
			s.secretStale.Store(&err)
		}
		if roots := strings.Join(s.ring.Roots(), ","); roots != said && s.store.Announce(ctx, roots) == nil {
			said = roots
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookAgain):
		}
	}
}

// takeUpSecret reads the file. A list without the root that the store is under is
// refused: nothing that was issued would open.
func (s *Server) takeUpSecret(ctx context.Context, data Data) error {
	next, err := data.Ring()
	if err != nil {
		return err
	}
	if slices.Equal(next.Roots(), s.ring.Roots()) {
		return nil
	}
	fingerprint, _, err := s.store.Root(ctx)
	if err != nil {
		return err
	}
	if !next.HasFingerprint(fingerprint) {
		return fmt.Errorf("%s: it does not have the root secret that the store is under: put the right file back", data.secretFile())
	}
	s.ring.Become(next)
	s.o.Log.Info("root secrets taken up from the changed file", "roots", len(next.Roots()))
	return nil
}

func (s *Server) staleSecret() error {
	if err := s.secretStale.Load(); err != nil {
		return *err
	}
	return nil
}

// clockLimit is how far clocks may be apart before it is worth a warning: a quarter of
// the lead of a signing key, or what verifiers bear with, whichever is less.
func (o *Options) clockLimit() time.Duration { return min(o.KeyRotation/4, jwt.Leeway) }

func (s *Server) clocksDiffer() bool { return s.store.ClocksApart() > s.o.clockLimit() }

// watchClocks tells the log when clocks begin to differ too much, and when they agree.
func (s *Server) watchClocks(ctx context.Context) {
	differ := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookAgain):
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

// rootsOf are the roots that a server announced.
func rootsOf(one store.Server) []string { return strings.Split(one.Roots, ",") }

// knows reports whether a server that announced list can open what fingerprint seals.
func knows(one store.Server, fingerprint string) bool {
	return slices.Contains(rootsOf(one), fingerprint)
}

// seals reports whether a server that announced list seals under fingerprint.
func seals(one store.Server, fingerprint string) bool { return rootsOf(one)[0] == fingerprint }
