package store

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"time"
)

// Fingerprint names the root secret that the store is under, as it was read last.
func (s *Store) Fingerprint() string {
	if m := s.known.Load(); m != nil {
		return m.fingerprint
	}
	return ""
}

// Root reads which root secret the store is under, and since when: the zero time
// means from its first day.
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

// SetFingerprint follows a rotation of the root secret, inside the Write that seals
// anew what the store holds.
func SetFingerprint(tx Tx, fingerprint string, now time.Time) error {
	_, err := tx.Exec("UPDATE meta SET fingerprint = $1, rooted_at = $2", fingerprint, now.UnixMilli())
	return err
}

// Server is what a running server tells of itself through the store.
type Server struct {
	ID    string        // of this run of it: the machine's name and a random part
	Roots string        // see [Store.Announce]
	Ahead time.Duration // of its clock before the database's; zero on SQLite
	Seen  time.Time     // when it last did, by the database's clock
}

// announceEvery is how often servers on PostgreSQL say again who they are.
const announceEvery = 5 * time.Second

// GoneAfter is when one that was not seen any more is taken for gone.
const GoneAfter = 30 * time.Second

// Announce has the store keep what this server says of the root secrets that it
// holds, for [Store.Servers], until it closes the store. On SQLite it takes the place
// of what an earlier server said.
func (s *Store) Announce(ctx context.Context, roots string) error {
	s.roots.Store(&roots)
	return s.Write(ctx, func(tx Tx) error {
		return s.sayWho(func(query string, args ...any) error {
			_, err := tx.Exec(query, args...)
			return err
		})
	})
}

// sayWho writes what was announced, and forgets servers that are gone.
func (s *state) sayWho(exec func(query string, args ...any) error) error {
	now := time.Now().UnixMilli() - s.ahead.Load()
	gone := now + 1 // on SQLite all others are
	if IsURL(s.o.Path) {
		gone = now - 2*GoneAfter.Milliseconds()
	}
	if err := exec("DELETE FROM servers WHERE id != $1 AND seen_at < $2", s.id, gone); err != nil {
		return err
	}
	return exec("INSERT INTO servers (id, roots, ahead, seen_at) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO UPDATE SET roots = $2, ahead = $3, seen_at = $4",
		s.id, *s.roots.Load(), s.ahead.Load(), now)
}

// leave takes the row away.
func (s *state) leave(exec func(query string, args ...any) error) error {
	if s.roots.Load() == nil {
		return nil
	}
	return exec("DELETE FROM servers WHERE id = $1", s.id)
}

// Servers are those that run. On SQLite it is the one that ran last: whether it still
// does, [Hold] knows.
func (s *Store) Servers(ctx context.Context) (list []Server, err error) {
	err = s.Read(ctx, func(tx Tx) error {
		list = nil
		rows, err := tx.Query("SELECT id, roots, ahead, seen_at FROM servers WHERE " + s.alive() + " ORDER BY id")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var one Server
			var ahead, seen int64
			if err := rows.Scan(&one.ID, &one.Roots, &ahead, &seen); err != nil {
				return err
			}
			one.Ahead, one.Seen = time.Duration(ahead)*time.Millisecond, time.UnixMilli(seen)
			list = append(list, one)
		}
		return rows.Err()
	})
	return list, err
}

// ClocksApart is how far the clocks of the running servers and the database are apart,
// as it was seen last; on SQLite how far the clock was set back behind the store.
func (s *Store) ClocksApart() time.Duration { return max(s.Behind(), time.Duration(s.apart.Load())) }

// Hold keeps servers away from the store at path until release is called. Where one
// runs it returns [ErrLocked]; on PostgreSQL there is nothing to hold.
func Hold(path string) (release func(), err error) {
	if IsURL(path) {
		return func() {}, nil
	}
	l, err := takeLock(path)
	if err != nil {
		return nil, err
	}
	return l.release, nil
}

func newServerID() string {
	host, err := os.Hostname()
	if err != nil {
		host = "server"
	}
	return host + "-" + strings.ToLower(rand.Text()[:8])
}

// alive picks the servers that were seen lately, by the database's clock; on SQLite all.
func (s *state) alive() string {
	if !IsURL(s.o.Path) {
		return "1 = 1"
	}
	return fmt.Sprintf("seen_at >= (extract(epoch FROM clock_timestamp()) * 1000)::bigint - %d", GoneAfter.Milliseconds())
}

// measure takes up a reading of the database's clock between before and after, in Unix
// milliseconds. What the way may have taken is no difference.
func (s *state) measure(before, after time.Time, database int64) {
	before, after = before.Add(s.o.ahead), after.Add(s.o.ahead)
	switch early, late := before.UnixMilli()-database, after.UnixMilli()-database; {
	case early > 0:
		s.ahead.Store(early)
	case late < 0:
		s.ahead.Store(late)
	default:
		s.ahead.Store(0)
	}
}
