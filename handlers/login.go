package handlers

import (
	"cmp"
	"errors"
	"net/http"
	"time"

	"signet/handlers/pages"
	"signet/internal/admission"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/internal/upstream"
	"signet/internal/vault"
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
	w := e.ways()
	if p := w.only(); byBrowser(p) {
		return e.choose(tx, p, nil)
	}
	p, err := e.formAt(w, query.Get("provider"))
	if err != nil {
		return nil, err
	}
	return e.loginForm(r, loginTry{tx: tx, raw: raw, provider: p, name: e.lastName(r, tx)}, "", http.StatusOK)
}

// loginTry is what a user entered on the login page, or will enter.
type loginTry struct {
	tx       seal.Login
	raw      string             // tx as it was sealed
	provider *upstream.Provider // checks the password; nil: the source of users does
	name     string
	password string
}

// formAt returns the provider whose form the login page shows: the one of the id, or the only one
// with a form. It is nil for the form of the source of users, and if there is no form at all.
func (e *endpoints) formAt(w ways, id string) (*upstream.Provider, error) {
	switch p := e.provider(id); {
	case p != nil && !byBrowser(p):
		return p, nil
	case id != "":
		return nil, oauth.Errorf(oauth.InvalidRequest, "there is no such way to sign in with a password")
	case w.form:
		return nil, nil
	}
	var only *upstream.Provider
	for _, p := range w.providers {
		if byBrowser(p) {
			continue
		}
		if only != nil {
			return nil, nil
		}
		only = p
	}
	return only, nil
}

// lastName is the name of the user for whom the client asks, or who is signed in in this browser
// although the password is asked for, so that only the password has to be entered.
func (e *endpoints) lastName(r *http.Request, tx seal.Login) string {
	if tx.Hint != "" {
		user, err := e.o.Users.Lookup(r.Context(), tx.Hint)
		if err != nil || providerOf(tx.Hint) != "" { // users of a provider have the names that it knows
			return ""
		}
		return user.Name
	}
	if !e.local {
		return ""
	}
	who, err := e.session(r, e.o.Store.Now())
	if err != nil {
		return ""
	}
	return who.user.Name
}

func (e *endpoints) loginForm(r *http.Request, try loginTry, problem string, status int) (any, error) {
	w := e.ways()
	data := pages.Login{
		State: try.raw, Username: try.name, Problem: problem, Account: toAccount(try.tx), Field: "username", Form: w.form || try.provider != nil, Ways: w.buttons(try.provider),
	}
	if p := try.provider; p != nil {
		data.Field, data.Provider, data.At = p.UsernameField(), p.ID(), p.Name()
	}
	if !data.Account {
		client, err := e.client(r.Context(), try.tx.ClientID)
		if err != nil {
			return nil, err
		}
		data.Client, data.Host = clientName(client), hostOf(try.tx.RedirectURI)
	}
	return page{status: status, data: data}, nil
}

// loginProblem is a problem that the user can correct on the login page.
type loginProblem struct {
	try    loginTry
	key    string // of a message
	status int
}

func (e *loginProblem) Error() string { return e.key }

// login checks the password. The form has the fields state, username (or email, as the provider
// has it) and password, and the field provider if a provider checks the password. A form with a
// provider and nothing else chooses that way to sign in.
//
// The route checks that the form was sent from the server's own page, and the
// transaction's cookie shows that the same browser began the login.
func (e *endpoints) login(r *http.Request) (any, error) {
	form := r.PostForm
	raw, id, name := form.Get("state"), form.Get("provider"), cmp.Or(form.Get("username"), form.Get("email"))
	if id != "" && name == "" && !form.Has("password") {
		return e.chooseWay(r, raw, id)
	}
	result, err := e.signIn(r, raw, id, name, form.Get("password"))
	var problem *loginProblem
	if errors.As(err, &problem) {
		return e.loginForm(r, problem.try, problem.key, problem.status)
	}
	return result, err
}

// chooseWay continues for a user who wants to sign in at the provider with the id.
func (e *endpoints) chooseWay(r *http.Request, raw, id string) (any, error) {
	p := e.provider(id)
	if p == nil {
		return nil, oauth.Errorf(oauth.InvalidRequest, "there is no such way to sign in")
	}
	tx, err := e.openLogin(r, raw, e.o.Store.Now())
	if err != nil {
		return nil, err
	}
	if byBrowser(p) {
		return e.choose(tx, p, nil)
	}
	return redirect{to: e.path + e.o.LoginPath + "?state=" + raw + "&provider=" + id}, nil
}

// signIn continues the sealed transaction raw as the user with this name and password. id is
// that of the provider that checks them, or empty.
func (e *endpoints) signIn(r *http.Request, raw, id, name, password string) (any, error) {
	now := e.o.Store.Now()
	tx, err := e.openLogin(r, raw, now)
	if err != nil {
		return nil, err
	}
	w := e.ways()
	p, err := e.formAt(w, id)
	if err != nil {
		return nil, err
	}
	if p == nil && !w.form {
		return nil, oauth.Errorf(oauth.InvalidRequest, "no user signs in here with a password: choose one of the ways on the page")
	}
	try := loginTry{tx: tx, raw: raw, provider: p, name: name, password: password}
	if len(password) > users.MaxPassword || len(name) > users.MaxPassword {
		return nil, oauth.Errorf(oauth.InvalidRequest, "user name or password is longer than %d bytes", users.MaxPassword)
	}
	if name == "" || password == "" {
		return nil, &loginProblem{try, "login.missing", http.StatusBadRequest}
	}
	user, err := e.check(r, try, now)
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
		return nil, &loginProblem{try, "login.invalid", http.StatusUnauthorized}
	case errors.Is(err, upstream.ErrNotAllowed), errors.Is(err, vault.ErrDisabled):
		e.audit(r, ev, errNotAllowed)
		return nil, &loginProblem{try, "login.not_allowed", http.StatusForbidden}
	case err != nil && p != nil && !errors.Is(err, admission.ErrFull):
		e.audit(r, ev, unavailable(err))
		(&route{e: e}).log(r, oauth.AsError(unavailable(err)))
		return nil, &loginProblem{try, "login.upstream_down", http.StatusServiceUnavailable}
	case err != nil:
		e.audit(r, ev, unavailable(err))
		return nil, unavailable(err)
	case user.Subject == "":
		return nil, errors.New("the user check returned a user without a subject")
	case e.subjectOfClient(user):
		e.audit(r, ev, oauth.Errorf(oauth.AccessDenied, "there is a client with client_credentials of this name"))
		return nil, &loginProblem{try, "login.invalid", http.StatusUnauthorized}
	}
	e.audit(r, ev, nil)
	return e.welcome(r, tx, user, now)
}

// check returns the user with a name and a password, of the source of users or of a provider.
// Failures count for the account there, so that one provider's users are not refused because of
// guesses at another's.
func (e *endpoints) check(r *http.Request, try loginTry, now time.Time) (user users.User, err error) {
	class, account, check := e.o.Admission.Login, try.name, func() (users.User, error) { return e.o.Users.Check(r.Context(), try.name, try.password) }
	if p := try.provider; p != nil {
		class, account, check = e.o.Admission.Upstream, p.ID()+":"+try.name, func() (users.User, error) { return e.signInAt(r, p, try.name, try.password) }
	}
	err = e.throttled(r, class, account, now, func() (err error) {
		user, err = check()
		return err
	})
	return user, err
}

// welcome continues for a user who has just signed in: it makes a new session, and the
// transaction carries the user from here on.
func (e *endpoints) welcome(r *http.Request, tx seal.Login, user users.User, now time.Time) (any, error) {
	who, cookie, err := e.newSession(user, now.Unix(), now)
	if err != nil {
		return nil, err
	}
	if toAccount(tx) {
		return redirect{to: e.afterLogin(tx), cookies: []*http.Cookie{cookie}}, nil
	}
	client, err := e.client(r.Context(), tx.ClientID)
	if err != nil {
		return nil, err
	}
	err = checkHint(tx, user)
	if tx = e.narrow(tx, user); err == nil && len(tx.Scope) == 0 {
		err = oauth.Errorf(oauth.InvalidScope, "the user may not grant any of the requested scopes")
	}
	if err != nil {
		if err := e.answer(r.Context(), tx); err != nil {
			return nil, err
		}
		return nil, e.refuse(client, tx, true, err)
	}
	return e.goOn(r, client, tx, who, []*http.Cookie{cookie}, now)
}
