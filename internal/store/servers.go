package store

import (
	"context"
	"crypto/rand"
	"os"
	"strings"
	"time"
)

// Fingerprint names the root secret that the store is under, as of the last time that
// it was read.
func (s *Store) Fingerprint() string {
	if m := s.known.Load(); m != nil {
		return m.fingerprint
	}
	return ""
}

// Root reads which root secret the store is under, and since when. The zero time means
// since the store was made.
func (s *Store) Root(ctx context.Context) (fingerprint string, since time.Time, err error) {
	var ms int64
	err = s.Read(ctx, func(tx Tx) error {
		return tx.QueryRow("SELECT fingerprint, rooted_at FROM meta").Scan(&fingerprint, &ms)
	})
	if err != nil {
		return "", time.Time{}, err
	}
	if m := s.known.Load(); m != nil && m.fingerprint != fingerprint {
		next := *m
		next.fingerprint = fingerprint
		s.known.CompareAndSwap(m, &next)
	}
	if ms > 0 {
		since = time.UnixMilli(ms)
	}
	return fingerprint, since, nil
}

// SetFingerprint records a rotation of the root secret. It belongs into the Write that
// seals the rows of the store under the next root.
func SetFingerprint(tx Tx, fingerprint string, now time.Time) error {
	_, err := tx.Exec("UPDATE meta SET fingerprint = $1, rooted_at = $2", fingerprint, now.UnixMilli())
	return err
}

// Retire records that the roots with the retired fingerprints are for client ids only, from now
// on unless that is on record already, and that the sealing root is not. It returns since when
// each retired root has been.
func (s *Store) Retire(ctx context.Context, sealing string, retired []string, now time.Time) (since map[string]time.Time, err error) {
	err = s.Write(ctx, func(tx Tx) error {
		since = map[string]time.Time{}
		if _, err := tx.Exec("DELETE FROM retired_roots WHERE fingerprint = $1", sealing); err != nil {
			return err
		}
		for _, fingerprint := range retired {
			_, err := tx.Exec("INSERT INTO retired_roots (fingerprint, retired_at) VALUES ($1, $2) ON CONFLICT DO NOTHING", fingerprint, now.UnixMilli())
			if err != nil {
				return err
			}
			var ms int64
			if err := tx.QueryRow("SELECT retired_at FROM retired_roots WHERE fingerprint = $1", fingerprint).Scan(&ms); err != nil {
				return err
			}
			since[fingerprint] = time.UnixMilli(ms)
		}
		return nil
	})
	return since, err
}

// Server is a running server, as it announces itself through the store.
type Server struct {
	ID    string        // of one run of the server: the machine's name and a random part
	Roots string        // see [Store.Announce]
	Ahead time.Duration // of its clock, compared with the database's; zero on SQLite
	Seen  time.Time     // time of its last announcement, by the database's clock
}

// announceEvery is how often a server on PostgreSQL announces itself again.
const announceEvery = 5 * time.Second

// GoneAfter is the time after its last announcement at which a server counts as gone.
const GoneAfter = 30 * time.Second

// Announce stores which root secrets this server has, for [Store.Servers], until the
// server closes the store. On SQLite it replaces the announcement of earlier servers. A power loss
// ends the server too.
func (s *Store) Announce(ctx context.Context, roots string) error {
	s.roots.Store(&roots)
	return s.WriteUnsynced(ctx, func(tx Tx) error {
		return s.writeServer(func(query string, args ...any) error {
			_, err := tx.Exec(query, args...)
			return err
		})
	})
}

// writeServer writes this server's row, and deletes the rows of servers that are gone.
func (s *state) writeServer(exec func(query string, args ...any) error) error {
	now := time.Now().UnixMilli() - s.ahead.Load()
	err := exec("DELETE FROM servers WHERE id != $1 AND seen_at < $2", s.id, s.options.engine.staleServers(now))
	if err != nil {
		return err
	}
	return exec("INSERT INTO servers (id, roots, ahead, seen_at) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO UPDATE SET roots = $2, ahead = $3, seen_at = $4",
		s.id, *s.roots.Load(), s.ahead.Load(), now)
}

// deleteServer deletes this server's row, if it has one.
func (s *state) deleteServer(exec func(query string, args ...any) error) error {
	if s.roots.Load() == nil {
		return nil
	}
	return exec("DELETE FROM servers WHERE id = $1", s.id)
}

// Servers returns the running servers. On SQLite it is the server that ran last:
// whether it still runs is known by its lock, see [Hold].
func (s *Store) Servers(ctx context.Context) (list []Server, err error) {
	err = s.Read(ctx, func(tx Tx) error {
		list = nil
		rows, err := tx.Query("SELECT id, roots, ahead, seen_at FROM servers WHERE " + s.options.engine.runningServers() + " ORDER BY id")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var server Server
			var ahead, seen int64
			if err := rows.Scan(&server.ID, &server.Roots, &ahead, &seen); err != nil {
				return err
			}
			server.Ahead, server.Seen = time.Duration(ahead)*time.Millisecond, time.UnixMilli(seen)
			list = append(list, server)
		}
		return rows.Err()
	})
	return list, err
}

// ClocksApart is the largest difference between the clocks of the running servers and
// the database, as of the last comparison. On SQLite it is how far the clock was set
// back behind the store.
func (s *Store) ClocksApart() time.Duration { return max(s.Behind(), time.Duration(s.apart.Load())) }

// Sure is like [clock.Sure], and not after the database's time.
func (s *Store) Sure() time.Time {
	return s.clock.Sure().Add(-max(0, time.Duration(s.ahead.Load())*time.Millisecond))
}

// Common is the time by the clock that all servers of the store have in common: on PostgreSQL
// the database's, as of the last comparison, and on SQLite this machine's. It may go back.
func (s *Store) Common() time.Time {
	return time.Now().Add(s.options.ahead - time.Duration(s.ahead.Load())*time.Millisecond)
}

// Hold keeps servers away from the store at path until release is called. While one
// runs the error is [ErrLocked]. On PostgreSQL Hold does nothing.
func Hold(path string) (release func(), err error) { return Locate(path).engine.hold(path) }

func newServerID() string {
	host, err := os.Hostname()
	if err != nil {
		host = "server"
	}
	return host + "-" + strings.ToLower(rand.Text()[:8])
}

// measure compares the local clock with the database's, which was read, in Unix
// milliseconds, between before and after. Within the time that the reading took,
// clocks count as equal.
func (s *state) measure(before, after time.Time, database int64) {
	before, after = before.Add(s.options.ahead), after.Add(s.options.ahead)
	switch early, late := before.UnixMilli()-database, after.UnixMilli()-database; {
	case early > 0:
		s.ahead.Store(early)
	case late < 0:
		s.ahead.Store(late)
	default:
		s.ahead.Store(0)
	}
}
