package server

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"

	"signet/internal/background"
	"signet/internal/denylist"
	"signet/internal/seal"
)

// seenClients are the clients that have a grant, by their hash. Of those whose id is under a
// retired root secret none is added later where not everybody may register: it would need a
// grant to get one.
type seenClients struct {
	hashes atomic.Pointer[map[string]bool] // nil: not read yet
}

var errNotSeenYet = errors.New("the clients that have grants were not read yet")

// has is [clients.Options.Seen].
func (c *seenClients) has(id string) (bool, error) {
	hashes := c.hashes.Load()
	if hashes == nil {
		return false, errNotSeenYet
	}
	return (*hashes)[seal.ClientHash(id)], nil
}

// watchSeen reads the clients that have grants, once there is a retired root.
func (s *Server) watchSeen(ctx context.Context, seen *seenClients) {
	failing := background.Condition{Log: s.o.Log, Level: slog.LevelWarn, Begin: "the clients that have grants cannot be read: those whose ids are under a retired root secret get 503"}
	background.Every(ctx, lookEvery, func() {
		if len(s.ring.RetiredRoots()) == 0 || seen.hashes.Load() != nil {
			return
		}
		hashes := map[string]bool{}
		err := s.denylist.Each(ctx, func(g denylist.Grant) { hashes[g.ClientHash] = true })
		failing.Fails(ctx, err)
		if err == nil {
			seen.hashes.Store(&hashes)
		}
	})
}
