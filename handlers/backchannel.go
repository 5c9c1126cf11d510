package handlers

import (
	"errors"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"signet/internal/denylist"
	"signet/internal/oauth"
	"signet/internal/upstream"
	"signet/internal/vault"
)

// spentLogout is the kind of spent ids that are logout tokens.
const spentLogout = "logout token"

// backchannelLogout takes the notice of an OpenID provider that a user has signed out there
// (OpenID Connect Back-Channel Logout 1.0 §2.5). The user's sessions and grants end, as with
// "sign out everywhere".
func (e *endpoints) backchannelLogout(r *http.Request) (any, error) {
	p := e.provider(chi.URLParam(r, "provider"))
	if p == nil || p.Kind() != upstream.OpenID {
		return nil, oauth.Errorf(oauth.InvalidRequest, "no such OpenID provider").WithStatus(http.StatusNotFound)
	}
	raw := r.PostForm.Get("logout_token")
	if raw == "" {
		return nil, oauth.Errorf(oauth.InvalidRequest, "logout_token is required")
	}
	slot, err := e.enterUpstream(r, "")
	if err != nil {
		return nil, err
	}
	defer slot.Leave()
	notice, err := p.Logout(r.Context(), raw)
	switch {
	case errors.Is(err, upstream.ErrLogoutToken):
		return nil, oauth.Errorf(oauth.InvalidRequest, "the logout token is not valid").Because(err)
	case err != nil:
		return nil, providerDown(p, err)
	}
	subjects, err := e.signedOut(r, p, notice)
	if err != nil {
		return nil, err
	}
	for _, subject := range subjects {
		if err := e.endUser(r, subject); err != nil {
			return nil, err
		}
	}
	// Spent last: a notice whose work failed half way may come again.
	err = e.o.Denylist.SpendID(r.Context(), spentLogout, p.Bound()+" "+notice.ID, time.Unix(notice.Expires, 0).Add(time.Minute))
	if err != nil && !errors.Is(err, denylist.ErrSpent) {
		return nil, unavailable(err)
	}
	return nil, nil
}

// signedOut returns the subjects that a notice is about. A notice that was taken before is about
// none: the user may have signed in again.
func (e *endpoints) signedOut(r *http.Request, p *upstream.Provider, notice upstream.Logout) ([]string, error) {
	taken, err := e.o.Denylist.Spent(r.Context(), spentLogout, p.Bound()+" "+notice.ID)
	switch {
	case err != nil:
		return nil, unavailable(err)
	case taken:
		return nil, nil
	case notice.Subject != "":
		return []string{subjectAt(p, notice.Subject)}, nil
	}
	subjects, err := e.o.Vault.BySession(r.Context(), p.ID(), notice.Session)
	if err != nil {
		return nil, unavailable(err)
	}
	return subjects, nil
}

// endUser ends the sessions and grants of a user of a provider.
func (e *endpoints) endUser(r *http.Request, subject string) error {
	err := e.o.Vault.EndSessions(r.Context(), subject)
	if errors.Is(err, vault.ErrUnknown) {
		return nil
	}
	if err == nil {
		_, err = e.o.Denylist.RevokeAll(r.Context(), subject, e.o.Store.Now())
	}
	if err != nil {
		err = unavailable(err)
	}
	e.audit(r, event{name: "logout", subject: subject, reason: "by the provider"}, err)
	if err == nil {
		e.settle(subject)
	}
	return err
}
