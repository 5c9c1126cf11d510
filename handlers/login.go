package handlers

import (
	"errors"
	"net/http"
	"time"

	"signet/handlers/pages"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/users"
)

// loginPage serves the login form.
func (e *endpoints) loginPage(r *http.Request) (any, error) {
	query, err := params(r)
	if err != nil {
		return nil, err
	}
	raw := query.Get("state")
	tx, err := e.openLogin(r, raw, e.o.Store.Now())
	if err != nil {
		return nil, err
	}
	return e.loginForm(r, tx, raw, e.lastName(r), "", http.StatusOK)
}

// lastName is the name of the user who is signed in in this browser although the password
// is asked for, so that only the password has to be entered.
func (e *endpoints) lastName(r *http.Request) string {
	if !e.local {
		return ""
	}
	who, err := e.session(r, e.o.Store.Now())
	if err != nil {
		return ""
	}
	return who.user.Name
}

func (e *endpoints) loginForm(r *http.Request, tx seal.Login, raw, name, problem string, status int) (any, error) {
	data := pages.Login{State: raw, Username: name, Problem: problem, Account: toAccount(tx)}
	if !data.Account {
		client, err := e.client(r.Context(), tx.ClientID)
		if err != nil {
			return nil, err
		}
		data.Client, data.Host = clientName(client), hostOf(tx.RedirectURI)
	}
	return page{name: "login", status: status, data: data}, nil
}

// loginProblem is a problem that the user can correct on the login page.
type loginProblem struct {
	tx     seal.Login
	key    string // of a message
	status int
}

func (e *loginProblem) Error() string { return e.key }

// login checks the password. The form has three fields: state, username and password.
// The route checks that the form was sent from the server's own page, and the
// transaction's cookie shows that the same browser began the login.
func (e *endpoints) login(r *http.Request) (any, error) {
	raw, name := r.PostForm.Get("state"), r.PostForm.Get("username")
	result, err := e.signIn(r, raw, name, r.PostForm.Get("password"))
	var problem *loginProblem
	if errors.As(err, &problem) {
		return e.loginForm(r, problem.tx, raw, name, problem.key, problem.status)
	}
	return result, err
}

// signIn continues the sealed transaction raw as the user with this name and password.
func (e *endpoints) signIn(r *http.Request, raw, name, password string) (any, error) {
	now := e.o.Store.Now()
	tx, err := e.openLogin(r, raw, now)
	if err != nil {
		return nil, err
	}
	if len(password) > users.MaxPassword || len(name) > users.MaxPassword {
		return nil, oauth.Errorf(oauth.InvalidRequest, "user name or password is longer than %d bytes", users.MaxPassword)
	}
	if name == "" || password == "" {
		return nil, &loginProblem{tx, "login.missing", http.StatusBadRequest}
	}
	var user users.User
	err = e.throttled(r, name, now, func() (err error) {
		user, err = e.o.Users.Check(r.Context(), name, password)
		return err
	})
	ev := event{name: "login", subject: user.Subject}
	var limited *limitError
	switch {
	case errors.As(err, &limited):
		e.audit(r, ev, err)
		return nil, err
	case errors.Is(err, users.ErrPasswordTooLong):
		return nil, oauth.Errorf(oauth.InvalidRequest, "the password is longer than %d bytes", users.MaxPassword)
	case errors.Is(err, users.ErrInvalid):
		// The name is not logged: it may be a password typed into the wrong field.
		e.audit(r, ev, oauth.Errorf(oauth.AccessDenied, "wrong name or password"))
		return nil, &loginProblem{tx, "login.invalid", http.StatusUnauthorized}
	case err != nil:
		e.audit(r, ev, unavailable(err))
		return nil, unavailable(err)
	case user.Subject == "":
		return nil, errors.New("the user check returned a user without a subject")
	case e.subjectOfClient(user):
		e.audit(r, ev, oauth.Errorf(oauth.AccessDenied, "there is a client with client_credentials of this name"))
		return nil, &loginProblem{tx, "login.invalid", http.StatusUnauthorized}
	}
	e.audit(r, ev, nil)
	return e.welcome(r, tx, user, now)
}

// welcome continues for a user who has just signed in: it makes a new session, and the
// transaction carries the user from here on.
func (e *endpoints) welcome(r *http.Request, tx seal.Login, user users.User, now time.Time) (any, error) {
	who, cookie, err := e.newSession(user, now)
	if err != nil {
		return nil, err
	}
	if toAccount(tx) {
		return redirect{to: e.path + "/account", cookies: []*http.Cookie{cookie}}, nil
	}
	client, err := e.client(r.Context(), tx.ClientID)
	if err != nil {
		return nil, err
	}
	if tx.Scope = e.userScope(tx.Scope, user); len(tx.Scope) == 0 {
		if err := e.answer(r.Context(), tx); err != nil {
			return nil, err
		}
		err := oauth.Errorf(oauth.InvalidScope, "the user may not grant any of the requested scopes")
		return nil, e.refuse(client, tx, true, err)
	}
	return e.goOn(r, client, tx, who, []*http.Cookie{cookie}, now)
}
