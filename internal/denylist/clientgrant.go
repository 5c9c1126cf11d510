package denylist

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"signet/internal/store"
)

// A token that a client gets for itself has no consent, no handle and no row. Its grant id is
// made from what every server knows, and all tokens of the client have the same one in one
// period. So a revocation, which is a row, ends them together, for every verifier that knows
// the revoked grants. The time of the last end is part of the id: what the client gets
// afterwards has another one.

const (
	// period is how long the tokens of a client have one grant id. Ending them revokes the ids
	// of the periods in which live ones were made.
	period = 24 * time.Hour

	// maxAccess is the longest life of an access token that settings allow, and more.
	maxAccess = 91 * 24 * time.Hour
)

// ClientGrant returns the grant id of a token that the client of the hash gets for itself at a
// time. It looks into memory only. The error is [store.ErrUnavailable] if the store has not
// been read yet.
func (l *List) ClientGrant(hash string, at time.Time) (string, error) {
	ends := l.ends.Load()
	if ends == nil {
		return "", fmt.Errorf("%w: the ends of clients are not known", store.ErrUnavailable)
	}
	return l.clientGrant(hash, (*ends)[hash], at), nil
}

// clientGrant returns the grant id of the tokens that a client gets for itself in the period of
// at, if its tokens were ended last at ended. It begins like the ids of other grants, with the
// time until which a row must be kept. The epoch is a secret, so the id says nothing about the
// client.
func (l *List) clientGrant(hash string, ended int64, at time.Time) string {
	number := at.Unix() / int64(period/time.Second)
	text := append(make([]byte, 0, 160), "client credentials "...)
	text = append(strconv.AppendQuote(text, l.store.Epoch()), ' ')
	text = append(strconv.AppendQuote(text, hash), ' ')
	text = append(strconv.AppendInt(text, ended, 10), ' ')
	sum := sha256.Sum256(strconv.AppendInt(text, number, 10))
	var id [16]byte
	var until [8]byte
	binary.BigEndian.PutUint64(until[:], uint64(endOf(at)+2*int64(period/time.Second)))
	copy(id[:5], until[3:])
	copy(id[5:], sum[:])
	return idEncoding.EncodeToString(id[:])
}

// IsClientGrant reports whether an id is that of tokens that the client of the hash got for
// itself, if they have not been ended. The error is that of [List.ClientGrant].
func (l *List) IsClientGrant(id, hash string) (bool, error) {
	raw, err := idEncoding.DecodeString(id)
	if err != nil || len(raw) != 16 {
		return false, nil
	}
	var until [8]byte
	copy(until[3:], raw[:5])
	began := time.Unix(int64(binary.BigEndian.Uint64(until[:])), 0).Add(-maxAccess - 3*period)
	grant, err := l.ClientGrant(hash, began)
	return grant == id, err
}

// idEncoding keeps the order of the bytes, as that of other ids does.
var idEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// endOf is the second by which all tokens of at's period have expired.
func endOf(at time.Time) int64 {
	return (at.Unix()/int64(period/time.Second)+1)*int64(period/time.Second) + int64(maxAccess/time.Second)
}

// EndClient ends the tokens that the client of the hash got for itself. The client may get
// others afterwards.
func (l *List) EndClient(ctx context.Context, hash string) error {
	return l.endClient(ctx, hash, func(store.Tx) error { return nil })
}

// endClient is EndClient together with another write.
func (l *List) endClient(ctx context.Context, hash string, also func(store.Tx) error) error {
	now := l.store.Now()
	var ids []string
	err := l.store.Write(ctx, func(tx store.Tx) (err error) {
		if ids, err = l.revokeClient(tx, hash, now); err != nil {
			return err
		}
		return also(tx)
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		l.revoked.add(id, now.UnixMilli())
	}
	return l.poll(ctx)
}

// revokeClient revokes the grant ids of the tokens of a client that may be live, and moves the
// client to others.
func (l *List) revokeClient(tx store.Tx, hash string, now time.Time) (ids []string, err error) {
	if _, err := tx.Exec("INSERT INTO client_ends (client_hash, ended_at) VALUES ($1, 0) ON CONFLICT DO NOTHING", hash); err != nil {
		return nil, err
	}
	var ended, kept int64
	err = tx.QueryRow("SELECT ended_at, (SELECT keep_revoked FROM meta) FROM client_ends WHERE client_hash = $1 FOR UPDATE", hash).Scan(&ended, &kept)
	if err != nil {
		return nil, err
	}
	life := max(l.Keep(), time.Duration(kept)*time.Second) + l.options.Skew
	last := now.Add(l.options.Skew + time.Minute) // a server whose clock is ahead
	for at := now.Add(-life); ; at = at.Add(period) {
		at = earlier(at, last)
		id := l.clientGrant(hash, ended, at)
		if len(ids) == 0 || ids[len(ids)-1] != id {
			ids = append(ids, id)
			g := Grant{ID: id, ClientHash: hash, Created: now.Unix(), Expires: endOf(at)}
			if err := insertGrant(tx, g, l.store.Epoch(), 0, 0, now.UnixMilli()); err != nil {
				return nil, err
			}
		}
		if at.Equal(last) {
			break
		}
	}
	_, err = tx.Exec("UPDATE client_ends SET ended_at = $1 WHERE client_hash = $2", max(now.UnixMilli(), ended+1), hash)
	return ids, err
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// readEnds returns when the tokens of clients were ended last, by the hash of the client.
func readEnds(tx store.Tx) (map[string]int64, error) {
	rows, err := tx.Query("SELECT client_hash, ended_at FROM client_ends")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	ends := map[string]int64{}
	for rows.Next() {
		var hash string
		var at int64
		if err := rows.Scan(&hash, &at); err != nil {
			return nil, err
		}
		ends[hash] = at
	}
	return ends, rows.Err()
}
