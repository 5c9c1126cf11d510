package server

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"signet/handlers"
	"signet/internal/background"
	"signet/internal/upstream"
	"signet/internal/vault"
)

// When a user of an upstream has no grant any more, nobody here needs the upstream's tokens: they
// are deleted, and revoked at the upstream where it can.

const (
	// settleEvery is how often all users are looked at. The ends that this process sees itself are
	// handled at once; the rest is grants that expire, and what commands and other servers end.
	settleEvery = 10 * time.Minute

	// settleAfter is how old tokens are before that look may delete them: a user who has just
	// signed in has no grant until the client redeems its code.
	settleAfter = time.Hour

	// settlePage is how many entries one look at the vault reads.
	settlePage = 500

	// revokeTries is how often the revocation at an upstream is tried, and revokePause the first
	// wait in between, which doubles.
	revokeTries = 4
	revokePause = 2 * time.Second
)

// settled takes note of a user whose grants have ended. It never waits: the next look at all users
// finds what does not fit into the queue.
func (s *Server) settled(subject string) {
	select {
	case s.toSettle <- subject:
	default:
	}
}

// watchVault settles the users of the queue, and now and then all.
func (s *Server) watchVault(ctx context.Context) {
	look := time.NewTicker(settleEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case subject := <-s.toSettle:
			s.settle(ctx, subject)
		case <-look.C:
			s.settleAll(ctx)
		}
	}
}

// settle deletes and revokes the tokens of a user who has no grant.
func (s *Server) settle(ctx context.Context, subject string) {
	grants, err := s.denylist.Grants(ctx, subject, s.store.Now())
	if err != nil || len(grants) > 0 {
		return // an error is the store's, which tells it itself; the next look comes
	}
	for _, p := range s.upstreams.All() {
		entry, err := s.vault.Take(ctx, subject, p.ID())
		if err != nil {
			if !errors.Is(err, vault.ErrUnknown) {
				s.o.Log.LogAttrs(ctx, slog.LevelWarn, "the tokens of a user without a grant stay for now", slog.String("upstream", p.ID()), slog.Any("cause", err))
			}
			continue
		}
		if entry.Bound == p.Bound() {
			s.start(ctx, func(ctx context.Context) { s.revokeAt(ctx, p, entry) })
		}
	}
}

// revokeAt revokes tokens at their upstream. If that fails for good, they live until they expire.
func (s *Server) revokeAt(ctx context.Context, p *upstream.Provider, entry vault.Entry) {
	tokens := upstream.Tokens{Access: entry.Access, Refresh: entry.Refresh, Scope: entry.Scope, Obtained: entry.Obtained, Expires: entry.Expires}
	var err error
	pause := revokePause
	for range revokeTries {
		if err = s.revokeOnce(ctx, p, tokens); err == nil || ctx.Err() != nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause *= 2
	}
	s.o.Log.LogAttrs(ctx, slog.LevelWarn, "tokens could not be revoked at the upstream: they live until they expire", slog.String("upstream", p.ID()), slog.String("sub", entry.Subject), slog.Any("cause", err))
}

func (s *Server) revokeOnce(ctx context.Context, p *upstream.Provider, tokens upstream.Tokens) error {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout())
	defer cancel()
	return p.Revoke(ctx, tokens)
}

// settleAll settles every user whose tokens are old enough.
func (s *Server) settleAll(ctx context.Context) {
	old := s.store.Now().Add(-settleAfter).UnixMilli()
	s.eachEntry(ctx, func(entry vault.Entry) {
		if entry.Changed < old {
			s.settle(ctx, entry.Subject)
		}
	})
}

// eachEntry calls do for all entries of the vault.
func (s *Server) eachEntry(ctx context.Context, do func(vault.Entry)) {
	var subject, provider string
	for {
		page, err := s.vault.Entries(ctx, subject, provider, settlePage)
		if err != nil || len(page) == 0 {
			return
		}
		for _, entry := range page {
			do(entry)
			subject, provider = entry.Subject, entry.Provider
		}
	}
}

// watchConnections ends, now and then, what users had connected who have been changed or removed since.
// What is younger than settleAfter stays: another replica may know of a user before this one does.
func (s *Server) watchConnections(ctx context.Context, h *handlers.Handler) {
	background.Every(ctx, settleEvery, func() {
		old := s.store.Now().Add(-settleAfter).UnixMilli()
		s.eachEntry(ctx, func(entry vault.Entry) {
			if entry.Changed < old {
				s.endConnection(ctx, h, entry)
			}
		})
	})
}

// endConnections ends what a user had connected who was removed.
func (s *Server) endConnections(ctx context.Context, subject string) {
	h := s.authorization.Load()
	if h == nil || s.gatewayConfig.Load() == nil {
		return
	}
	page, err := s.vault.Entries(ctx, subject, "", settlePage)
	if err != nil {
		return // the next look at all of them comes
	}
	for _, entry := range page {
		if entry.Subject == subject {
			s.endConnection(ctx, h, entry)
		}
	}
}

func (s *Server) endConnection(ctx context.Context, h *handlers.Handler, entry vault.Entry) {
	if err := h.EndConnection(ctx, entry.Subject, entry.Provider); err != nil {
		s.o.Log.LogAttrs(ctx, slog.LevelWarn, "what a user had connected stays for now", slog.String("provider", entry.Provider), slog.String("sub", entry.Subject), slog.Any("cause", err))
	}
}

// passwordLogin reports whether users may sign in with a password that is checked here.
func (s *Server) passwordLogin() bool {
	return s.usersFile == nil || s.o.Demo || !s.usersFile.Empty()
}
