package handlers

import (
	"context"
	"errors"
	"net/http"
	"time"

	"signet/internal/denylist"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/jwt"
)

// loginTTL is how long a user may take from the authorization request to the
// decision.
const loginTTL = 10 * time.Minute

// spentLogin is the denylist's kind of login transactions that were answered.
const spentLogin = "login"

var (
	errExpired      = oauth.Errorf(oauth.InvalidRequest, "Authorization request expired")
	errAnswered     = oauth.Errorf(oauth.InvalidRequest, "this authorization request was answered already; begin again in the application")
	errOtherBrowser = oauth.Errorf(oauth.InvalidRequest, "this authorization request was begun in another browser").WithStatus(http.StatusForbidden)
)

// spare is what a transaction may grow by on its way: it gets a browser and a user.
const spare = 1 << 10

// sealLogin seals a transaction for its way through the browser. The client's
// state is the one part without a tight bound, so it may be what makes a
// transaction too long to come back.
func (e *endpoints) sealLogin(tx seal.Login, limit int) (string, error) {
	raw, err := seal.Seal(e.o.Ring, tx)
	if err != nil {
		return "", err
	}
	if len(raw) > limit {
		return "", oauth.Errorf(oauth.InvalidRequest, "the authorization request is too long")
	}
	return raw, nil
}

// openLogin returns the transaction that the browser brings back. It must be this
// browser's own, not expired, and not answered yet.
func (e *endpoints) openLogin(r *http.Request, raw string, now time.Time) (seal.Login, error) {
	if raw == "" {
		return seal.Login{}, oauth.Errorf(oauth.InvalidRequest, "there is no authorization request to go on with; begin again in the application")
	}
	tx, err := seal.Open[seal.Login](e.o.Ring, raw)
	switch {
	case err != nil:
		return seal.Login{}, oauth.Errorf(oauth.InvalidRequest, "this authorization request is not known; begin again in the application")
	case tx.Browser != e.browserOf(r):
		return seal.Login{}, errOtherBrowser
	case tx.Epoch != e.o.Store.Epoch() || now.Unix() >= tx.Expires:
		return seal.Login{}, errExpired
	}
	answered, err := e.o.Denylist.Spent(r.Context(), spentLogin, tx.ID)
	switch {
	case err != nil:
		return seal.Login{}, unavailable(err)
	case answered:
		return seal.Login{}, errAnswered
	}
	return tx, nil
}

// answer spends a transaction: of several answers, in whatever tab, one counts.
func (e *endpoints) answer(ctx context.Context, tx seal.Login) error {
	err := e.o.Denylist.SpendID(ctx, spentLogin, tx.ID, time.Unix(tx.Expires, 0).Add(jwt.Leeway))
	switch {
	case errors.Is(err, denylist.ErrSpent):
		return errAnswered
	case err != nil:
		return unavailable(err)
	}
	return nil
}

// packState keeps a client's state at a third above its size in the sealed JSON,
// where quotes and ampersands would take up to six bytes each.
func packState(state string) string { return base64url.EncodeToString([]byte(state)) }

func unpackState(packed string) string {
	state, err := base64url.DecodeString(packed)
	if err != nil {
		return "" // sealed by us: cannot be
	}
	return string(state)
}
