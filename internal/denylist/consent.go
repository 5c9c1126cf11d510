package denylist

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"signet/internal/store"
)

// A [Grant.ConsentHash] begins with ConsentEnds if the user chose the end of the grant. Of a
// consent that is forgotten ConsentEnds is left, or else ConsentForgotten; earlier releases left
// nothing of either. Neither begins with a hash, so [List.Consent] does not find it.
const (
	ConsentEnds      = "ends:"
	ConsentForgotten = "none:"
)

// forgotten returns what is left of a consent, both as SQL.
func forgotten(consent string) string {
	return "CASE WHEN substr(" + consent + ", 1, 5) = '" + ConsentEnds + "' THEN '" + ConsentEnds + "' WHEN " + consent + " = '' THEN '' ELSE '" + ConsentForgotten + "' END"
}

// Consent returns the newest live grant of a user whose ConsentHash begins with one of those
// given, or [ErrUnknown]. Earlier releases stored more characters of a hash.
func (l *List) Consent(ctx context.Context, subject string, hashes []string, now time.Time) (newest Grant, err error) {
	one, other := l.liveEpochs()
	err = l.store.Read(ctx, func(tx store.Tx) error {
		newest = Grant{}
		for _, hash := range hashes { // a few, and each is one look into the index
			if hash == "" {
				continue
			}
			g, err := scanGrant(tx.QueryRow("SELECT "+grantColumns+" FROM grants WHERE "+l.live()+"AND substr(consent_hash, 1, $6) = $5 ORDER BY created_at DESC, rotated_at DESC LIMIT 1",
				subject, now.Unix(), one, other, hash, len(hash)))
			switch {
			case errors.Is(err, sql.ErrNoRows):
			case err != nil:
				return err
			case newest.ID == "" || g.Created > newest.Created || g.Created == newest.Created && g.RotatedAt > newest.RotatedAt:
				newest = g
			}
		}
		return nil
	})
	if err == nil && newest.ID == "" {
		err = ErrUnknown
	}
	return newest, err
}
