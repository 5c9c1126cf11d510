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

// spentLogin is the kind of spent ids that are answered login transactions.
const spentLogin = "login"

var (
	errExpired      = oauth.Errorf(oauth.InvalidRequest, "Authorization request expired")
	errTooLong      = oauth.Errorf(oauth.InvalidRequest, "the authorization request is too long")
	errAnswered     = oauth.Errorf(oauth.InvalidRequest, "this authorization request has already been answered; start again in the application")
	errOtherBrowser = oauth.Errorf(oauth.InvalidRequest, "this authorization request was started in another browser").WithStatus(http.StatusForbidden)
)

// spare is how much a transaction may grow on its way, when browser and user are added, or the
// login at a provider.
const spare = 1 << 10

// spareFor is how much a transaction may grow, in characters. It has the scope a second time once
// the user is known, for what this user may grant of it, and at a provider, for what the user has
// approved.
func spareFor(tx seal.Login) int {
	grows := spare
	for _, name := range tx.Scope {
		grows += (len(name) + len(`"",`)) * 4 / 3
	}
	return grows
}

// sealLogin seals a transaction for its way through the browser. Only the client's
// state has no tight bound, so it can make a transaction too long to come back.
func (e *endpoints) sealLogin(tx seal.Login, limit int) (string, error) {
	raw, err := seal.Seal(e.o.Ring, tx)
	if err != nil {
		return "", err
	}
	if len(raw) > limit {
		return "", errTooLong
	}
	return raw, nil
}

// openLogin returns the transaction that the browser brings back. It must have begun in
// this browser, and be neither expired nor answered.
func (e *endpoints) openLogin(r *http.Request, raw string, now time.Time) (seal.Login, error) {
	tx, err := e.openTransaction(r, raw, now)
	if err == nil && tx.Connect != nil && tx.Connect.Query == "" {
		return seal.Login{}, oauth.Errorf(oauth.InvalidRequest, "this request is one to connect something; start again in the application")
	}
	return tx, err
}

// openTransaction is openLogin also for a transaction in which the user connects something.
func (e *endpoints) openTransaction(r *http.Request, raw string, now time.Time) (seal.Login, error) {
	if raw == "" {
		return seal.Login{}, oauth.Errorf(oauth.InvalidRequest, "there is no authorization request to continue; start again in the application")
	}
	tx, err := seal.Open[seal.Login](e.o.Ring, raw)
	switch {
	case err != nil:
		return seal.Login{}, oauth.Errorf(oauth.InvalidRequest, "this authorization request is not known; start again in the application")
	case !e.begunIn(r, tx):
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

// answer spends a transaction. Only the first answer counts, whichever tab it comes
// from. After a power loss its browser may answer again: the codes of both answers are of one
// grant, of which the first use counts, and that is on disk.
func (e *endpoints) answer(ctx context.Context, tx seal.Login) error {
	err := e.o.Denylist.SpendUnsynced(ctx, spentLogin, tx.ID, time.Unix(tx.Expires, 0).Add(jwt.Leeway))
	switch {
	case errors.Is(err, denylist.ErrSpent):
		return errAnswered
	case err != nil:
		return unavailable(err)
	}
	return nil
}

// packState encodes a client's state so that it takes a third more space in the sealed
// JSON, where plain quotes and ampersands would take up to six bytes each.
func packState(state string) string { return base64url.EncodeToString([]byte(state)) }

func unpackState(packed string) string {
	state, err := base64url.DecodeString(packed)
	if err != nil {
		return "" // cannot happen: the server sealed it
	}
	return string(state)
}
