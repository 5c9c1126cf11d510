package server

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"signet/internal/background"
	"signet/internal/clients"
	"signet/internal/denylist"
	"signet/users"
)

// manyChanges is the number of changed users from which one pass through all grants is
// cheaper than a search for the grants of each.
const manyChanges = 500

// cannotEnd is the message when the store cannot write the revocations. Logins and
// refreshes of the changed users are refused nevertheless.
const cannotEnd = "the grants of a changed user or client cannot be ended yet: their access tokens are still accepted"

// pending are users or clients that have changed, and whose grants have not been ended yet.
type pending struct {
	mu    sync.Mutex
	names map[string]bool
}

func (p *pending) add(names []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range names {
		if p.names == nil {
			p.names = map[string]bool{}
		}
		p.names[name] = true
	}
}

// take returns all and forgets them.
func (p *pending) take() (names map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	names, p.names = p.names, nil
	return names
}

// watchUsers ends the grants of earlier versions of a user: of users whose password was
// changed, and of users that were signed out everywhere, disabled or removed, by a
// command, an edited file or another file. The first replica that sees a change does it
// for all. A grant that is made in between has the new version and stays.
func (s *Server) watchUsers(ctx context.Context) {
	failing := background.Condition{Log: s.o.Log, Level: slog.LevelError, Begin: cannotEnd, End: "the grants of changed users were ended"}
	background.Every(ctx, lookEvery, func() {
		s.usersFile.Generation() // looks at the file
		changed := s.changedUsers.take()
		failing.Fails(ctx, s.endChanged(ctx, changed))
		s.changedUsers.add(slices.Collect(maps.Keys(changed))) // those that are left
	})
}

// endChanged ends the grants of changed users, and removes finished users from changed.
func (s *Server) endChanged(ctx context.Context, changed map[string]bool) error {
	if len(changed) > manyChanges {
		n, err := s.denylist.RevokeWhere(ctx, func(g denylist.Grant) bool {
			if !changed[g.Subject] {
				return false
			}
			version, known := s.version(ctx, g.Subject)
			return !known || g.UserVersion != version
		})
		if err != nil {
			return err
		}
		s.o.Log.Info("the grants of changed users were ended", "users", len(changed), "grants", n)
		clear(changed)
	}
	for subject := range changed {
		n, err := s.endOthers(ctx, subject)
		if err != nil {
			return err
		}
		if _, known := s.version(ctx, subject); !known {
			s.start(ctx, func(ctx context.Context) { s.endConnections(ctx, subject) })
		}
		s.o.Log.Info("the grants of a changed user were ended", "sub", subject, "grants", n)
		delete(changed, subject)
	}
	return nil
}

// endOthers ends the grants of a user except those of the user's present version.
func (s *Server) endOthers(ctx context.Context, subject string) (n int, err error) {
	version, known := s.version(ctx, subject)
	if !known {
		return s.denylist.RevokeAll(ctx, subject, s.store.Now())
	}
	return s.denylist.RevokeOthers(ctx, subject, version, s.store.Now())
}

// version returns the hash of a user's present version, and whether the user exists.
func (s *Server) version(ctx context.Context, subject string) (hash string, known bool) {
	user, err := s.users.Lookup(ctx, subject)
	return denylist.VersionHash(user.Version), !errors.Is(err, users.ErrUnknown)
}

// watchGrants ends the grants of users and clients that changed while no server ran,
// and from then on those of clients that are removed from clients.json or added there
// again, and of clients that were blocked. Each server does that once it no longer
// makes grants for them itself.
func (s *Server) watchGrants(ctx context.Context) {
	gone := map[string]bool{} // clients whose grants have not been ended yet
	started := false          // the changes before the start are done
	failing := background.Condition{Log: s.o.Log, Level: slog.LevelError, Begin: cannotEnd, End: "the grants of changed users and clients were ended"}
	var blocked map[string]bool // those whose grants have been ended
	background.Every(ctx, lookEvery, func() {
		nowBlocked := s.denylist.Blocked()
		s.clients.Generation() // looks at the file
		maps.Copy(gone, s.goneClients.take())
		endErr := s.endClients(ctx)
		added := s.clients.Added() // after the changes were taken, so as new as they are
		if started && len(gone) == 0 && within(nowBlocked, blocked) {
			blocked = nowBlocked
			failing.Fails(ctx, endErr)
			return
		}
		n, err := s.denylist.RevokeWhere(ctx, func(g denylist.Grant) bool {
			return s.over(ctx, g, added, gone)
		})
		failing.Fails(ctx, cmp.Or(err, endErr))
		if n > 0 {
			s.o.Log.Info("the grants of changed users and clients were ended", "grants", n)
		}
		if err == nil {
			started, blocked = true, nowBlocked
			clear(gone)
		}
	})
}

// endClients ends the tokens that clients got for themselves, of clients that are gone or may no
// longer get such. [denylist.List.Block] does so for a client that is blocked.
func (s *Server) endClients(ctx context.Context) error {
	ended := s.endedClients.take()
	defer func() { s.endedClients.add(slices.Collect(maps.Keys(ended))) }() // those that are left
	for hash := range ended {
		if err := s.denylist.EndClient(ctx, hash); err != nil {
			return err
		}
		s.o.Log.Info("the access tokens that a client got for itself were ended", "client", hash)
		delete(ended, hash)
	}
	return nil
}

// within reports whether all of a are in b.
func within(a, b map[string]bool) bool {
	for name := range a {
		if !b[name] {
			return false
		}
	}
	return true
}

// over reports whether the user or the client of a grant is a different one now. Grants
// of an older release have no version of their user.
func (s *Server) over(ctx context.Context, g denylist.Grant, added clients.Added, gone map[string]bool) bool {
	if _, back := added[g.ClientHash]; gone[g.ClientHash] && !back || g.Created < added[g.ClientHash] {
		return true
	}
	if s.denylist.Blocked()[g.ClientHash] {
		return true
	}
	if s.usersFile == nil || isUpstream(g.Subject) { // without versions, or ended by the command that changes the account
		return false
	}
	version, known := s.version(ctx, g.Subject)
	return !known || g.UserVersion != "" && g.UserVersion != version
}
