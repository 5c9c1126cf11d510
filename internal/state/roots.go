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

	"signet/internal/background"
	"signet/internal/durable"
	"signet/internal/seal"
	"signet/internal/store"
)

// lookAgain is how often the secret file is checked.
const lookAgain = time.Second

// State is the open state of a server: its store and the root secrets.
type State struct {
	Store *store.Store
	Ring  *seal.Keyring

	data  Data
	log   *slog.Logger
	file  *durable.Live[*seal.Keyring] // of the secret; nil: it is a setting
	stale atomic.Pointer[error]        // why the changed secret file is not in use

	retired atomic.Pointer[map[string]time.Time] // see RetiredAt; nil: not on record yet
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
	opts.Serve, opts.KeepEpoch, opts.Log = true, d.KeepEpoch, log
	if err := s.open(ctx, opts); err != nil {
		return nil, err
	}
	if d.Secret == "" && !d.shared() {
		if s.file, err = durable.Follow(d.secretFile(), d.Access(), maxSecret, s.Ring, d.parseSecret); err != nil {
			return nil, errors.Join(err, s.Store.Close())
		}
	}
	_ = s.retire(ctx, s.Ring) // Run tries again
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

// Reload looks at the secret file now; Run then uses it.
func (s *State) Reload() {
	if s.file != nil {
		s.file.Reload()
	}
}

// Run uses the secret file when it changes, and announces in the store which roots this
// server holds, until ctx ends: a rotation goes on when all servers hold the next root.
func (s *State) Run(ctx context.Context) {
	unusable := background.Condition{Log: s.log, Level: slog.LevelError, Begin: "the changed secret file cannot be used, the root secrets of before stay in use"}
	announced := ""
	once := func() {
		if s.file != nil {
			err := s.useSecret(ctx)
			if ctx.Err() != nil {
				return
			}
			unusable.FailsAnew(ctx, err)
			s.stale.Store(&err)
		}
		if roots := strings.Join(s.Ring.Roots(), ","); roots != announced && s.Store.Announce(ctx, roots) == nil && s.retire(ctx, s.Ring) == nil {
			announced = roots
		}
	}
	once()
	background.Every(ctx, lookAgain, once)
}

// retire puts on record which roots of ring are for client ids only.
func (s *State) retire(ctx context.Context, ring *seal.Keyring) error {
	since, err := s.Store.Retire(ctx, ring.Fingerprint(), ring.RetiredRoots(), s.Store.Now())
	if err == nil {
		s.retired.Store(&since)
	}
	return err
}

// RetiredAt returns since when the root of a fingerprint has been for client ids only: since
// a server with this store first had it so. It is false while that is not known.
func (s *State) RetiredAt(fingerprint string) (time.Time, bool) {
	since := s.retired.Load()
	if since == nil {
		return time.Time{}, false
	}
	at, known := (*since)[fingerprint]
	return at, known
}

// useSecret reads the file. It refuses a list without the root under which the store was
// made: nothing that was issued could be opened.
func (s *State) useSecret(ctx context.Context) error {
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
		return fmt.Errorf("%s: it does not have the root secret under which the store was made: put the right file back", s.data.secretFile())
	}
	if err := s.retire(ctx, next); err != nil { // first, so that their ids are never in doubt
		return err
	}
	s.Ring.Become(next)
	s.log.Info("root secrets of the changed secret file are in use", "roots", len(next.Roots()))
	return nil
}

// Stale returns why the secret file as it is now is not in use, or nil.
func (s *State) Stale() error {
	if err := s.stale.Load(); err != nil {
		return *err
	}
	return nil
}

// rootsOf are the roots that a server announced, the one that seals first.
func rootsOf(one store.Server) []string { return strings.Split(one.Roots, ",") }

// knows reports whether a server can open what is sealed under the root of fingerprint.
func knows(one store.Server, fingerprint string) bool {
	return slices.Contains(rootsOf(one), fingerprint)
}

// seals reports whether a server seals under the root of fingerprint.
func seals(one store.Server, fingerprint string) bool { return rootsOf(one)[0] == fingerprint }
