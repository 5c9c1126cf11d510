package denylist

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"signet/internal/store"
)

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
