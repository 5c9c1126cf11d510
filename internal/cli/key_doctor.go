package cli

import (
	"context"
	"errors"
	"time"

	"signet/internal/state"
	"signet/internal/store"
	"signet/keys"
)

// examineKeys says which key signs and which comes next. That none comes next is wrong
// only where a server runs, which should have made it.
func examineKeys(ctx context.Context, cfg *config) (fine string, err error) {
	now := time.Now()
	var t keys.Timeline
	running := false
	err = withStore(ctx, cfg, func(st *store.Store) error {
		if t, err = keys.List(ctx, st, cfg.KeyRotation, cfg.Lives.Access, now); err != nil {
			return err
		}
		running, err = state.Runs(ctx, cfg.data(), st)
		return err
	})
	switch {
	case errors.Is(err, store.ErrNoStore) && !errors.Is(err, store.ErrHalf):
		return "none yet, the first start of a server makes them", nil
	case err != nil:
		return "", err
	}
	var signing, next keys.Info
	for _, k := range t.Keys {
		switch {
		case k.State == keys.Signing:
			signing = k
		case k.State == keys.Next && next.ID == "":
			next = k
		}
	}
	switch {
	case signing.ID == "" && !running:
		return "none yet, a server makes them when it starts", nil
	case signing.ID == "":
		return "", errors.New("no key signs, although a server runs: see its log")
	case next.ID != "":
		return signing.ID + " signs, the next one " + moment(next.SignsFrom, now), nil
	case running:
		return "", errors.New(signing.ID + " signs, and the next key is late, although a server runs: see its log")
	}
	return signing.ID + " signs, the next one is made when a server starts", nil
}
