package store

import (
	"context"
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
