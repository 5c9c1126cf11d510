package state

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"signet/internal/durable"
	"signet/internal/seal"
	"signet/internal/store"
)

// lookAgain is how often the secret file is looked at.
const lookAgain = time.Second

// State is the open state of a server: its store and the root secrets.
type State struct {
	Store *store.Store
	Ring  *seal.Keyring

	data  Data
	log   *slog.Logger
	file  *durable.Live[*seal.Keyring] // of the secret; nil: it is a setting
	stale atomic.Pointer[error]        // why the changed secret file is not taken up
}

// Open opens the state for a server, after [Prepare]. The caller runs [State.Run] and
// closes the store.
func Open(ctx context.Context, d Data, log *slog.Logger) (*State, error) {
	ring, err := Prepare(ctx, d)
	if err != nil {
		return nil, err
	}
	s := &State{Ring: ring, data: d, log: log}
	opts := d.storeOptions()
	opts.Serve, opts.Log = true, log
	if err := s.open(ctx, opts); err != nil {
		return nil, err
	}
	if d.Secret == "" && !d.shared() {
		if s.file, err = durable.Follow(d.secretFile(), d.Access(), maxSecret, s.Ring, d.parseSecret); err != nil {
			return nil, errors.Join(err, s.Store.Close())
		}
	}
	return s, nil
}

// open opens the store. A rotation may have changed the secret file between reading it
// and taking the store's lock, so the file is then read again.
func (s *State) open(ctx context.Context, opts store.Options) (err error) {
	s.Store, err = s.data.open(ctx, s.Ring, opts)
	if !errors.Is(err, store.ErrOtherRoot) || s.data.Secret != "" || s.data.shared() {
		return err
	}
	again, readErr := s.data.Ring()
	if readErr != nil || slices.Equal(again.Roots(), s.Ring.Roots()) {
		return err
	}
	s.Ring = again
	s.Store, err = s.data.open(ctx, s.Ring, opts)
	return err
}

// Run takes up the secret file when it changes, and tells through the store which roots
// this server holds, until ctx ends: a rotation goes on when all servers hold the next
// root.
func (s *State) Run(ctx context.Context) {
	said := ""
	for {
		if s.file != nil {
			err := s.takeUpSecret(ctx)
			if ctx.Err() != nil {
				return
			}
			if was := s.Stale(); err != nil && (was == nil || was.Error() != err.Error()) {
				s.log.Error("the secret file cannot be taken up, going on with the roots at hand", "err", err)
			}
			s.stale.Store(&err)
		}
		if roots := strings.Join(s.Ring.Roots(), ","); roots != said && s.Store.Announce(ctx, roots) == nil {
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
func (s *State) takeUpSecret(ctx context.Context) error {
	next := s.file.Get()
	if err := s.file.Stale(); err != nil {
		return err
	}
	if slices.Equal(next.Roots(), s.Ring.Roots()) {
		return nil
	}
	fingerprint, _, err := s.Store.Root(ctx)
	if err != nil {
		return err
	}
	if !next.HasFingerprint(fingerprint) {
		return fmt.Errorf("%s: it does not have the root secret that the store is under: put the right file back", s.data.secretFile())
	}
	s.Ring.Become(next)
	s.log.Info("root secrets taken up from the changed file", "roots", len(next.Roots()))
	return nil
}

// Stale returns why the secret file as it is now is not in use, or nil.
func (s *State) Stale() error {
	if err := s.stale.Load(); err != nil {
		return *err
	}
	return nil
}

// rootsOf are the roots that a server announced.
func rootsOf(one store.Server) []string { return strings.Split(one.Roots, ",") }

// knows reports whether a server that announced list can open what fingerprint seals.
func knows(one store.Server, fingerprint string) bool {
	return slices.Contains(rootsOf(one), fingerprint)
}

// seals reports whether a server that announced list seals under fingerprint.
func seals(one store.Server, fingerprint string) bool { return rootsOf(one)[0] == fingerprint }
