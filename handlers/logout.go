package handlers

import (
	"errors"
	"net/http"
	"time"
)

type logoutData struct{ Account string }

// logoutPage asks whether to sign out: a link alone must not (principle of every
// change of state by POST).
func (s *server) logoutPage(r *http.Request) (any, error) {
	who, err := s.session(r, s.o.Store.Now())
	if err != nil && !errors.Is(err, errNoSession) {
		return nil, err
	}
	data := logoutData{}
	if err == nil {
		data.Account = accountName(who.user)
	}
	return page{name: "logout", status: http.StatusOK, data: data}, nil
}

// logout ends the session for good and forgets the browser's binding, so that a
// consent page left open in it cannot be answered by whoever sits there next.
func (s *server) logout(r *http.Request) (any, error) {
	gone := []*http.Cookie{s.cookies.make(s.cookies.session, "", -time.Second), s.cookies.make(s.cookies.browser, "", -time.Second)}
	sess, err := s.openSession(r, s.o.Store.Now())
	if err == nil {
		if err := s.endSession(r.Context(), sess); err != nil {
			return nil, err
		}
		s.audit(r, event{name: "logout", subject: sess.Subject}, nil)
	}
	return page{name: "logout", status: http.StatusOK, data: logoutData{}, cookies: gone}, nil
}
