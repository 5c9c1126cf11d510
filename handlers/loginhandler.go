package handlers

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"

	"signet/handlers/pages"
	"signet/internal/oauth"
)

// LoginHandler is a program's own login page. It is called for every GET and POST of
// the login path. The parameter state must come back with the form, beside the user's
// input. Before it is called, the server has checked that a POST comes from one of its
// own pages, and has bounded the body.
//
// complete checks the state, the browser and the password. It sets the session's
// cookie, so call it before you write. On success send the browser to redirect with
// status 303; on failure the text of the error is for the user.
//
// The headers are set to a policy without scripts, which a handler may replace.
type LoginHandler func(w http.ResponseWriter, r *http.Request, complete Complete)

// Complete ends a login. See [LoginHandler].
type Complete func(state, username, password string) (redirect string, err error)

// loginError is an error with a text for the user.
type loginError struct {
	text  string
	cause error
}

func (e *loginError) Error() string { return e.text }
func (e *loginError) Unwrap() error { return e.cause }

// checkLoginPath refuses a path that has a meaning in routes or URLs.
func checkLoginPath(p string) error {
	if !strings.HasPrefix(p, "/") || strings.HasPrefix(p, "//") || strings.ContainsAny(p, "?#{}*\\ \"<>") || strings.HasSuffix(p, "/") {
		return fmt.Errorf("login path %q is not of the form /login", p)
	}
	return nil
}

// routeLogin serves the login page, the built-in one or the program's, at its path and
// where clients and templates expect it. All other routes exist already: the path of
// the login page must not be one of theirs.
func (e *endpoints) routeLogin(r chi.Router, handle func(route, ...string)) error {
	paths := []string{e.path + "/login", e.path + "/oauth/login"}
	if own := e.path + e.o.LoginPath; !slices.Contains(paths, own) {
		if r.Match(chi.NewRouteContext(), http.MethodGet, own) {
			return fmt.Errorf("handlers: login path %s belongs to another page", e.o.LoginPath)
		}
		paths = append(paths, own)
	}
	if e.o.LoginHandler == nil {
		handle(route{get: e.loginPage, post: e.login, client: e.pendingClient, limit: maxForm, ownPages: true, class: e.o.Admission.Pages, posted: e.o.Admission.Login, ownSlot: true, asks: true}, paths...)
		return nil
	}
	for _, p := range paths {
		r.HandleFunc(p, e.ownLogin)
	}
	return nil
}

// ownLogin calls the program's login handler.
func (e *endpoints) ownLogin(w http.ResponseWriter, r *http.Request) {
	rt := &route{e: e, asks: true, class: e.o.Admission.Pages, posted: e.o.Admission.Login}
	ctx := newBounded(r.Context(), rt.timeout())
	defer ctx.end()
	r = r.WithContext(ctx)
	h := w.Header()
	rt.setHeaders(h)
	h.Set("X-Frame-Options", "DENY")
	h.Set("Content-Security-Policy", pages.LenientPolicy)
	if err := e.checkHost(r); err != nil {
		rt.fail(w, r, err)
		return
	}
	if !slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodPost}, r.Method) {
		rt.refuseMethod(w, r, "GET, HEAD, POST")
		return
	}
	if err := rt.door(r); err != nil {
		rt.fail(w, r, err)
		return
	}
	if r.Method == http.MethodPost {
		if err := e.checkOwnPage(r); err != nil {
			rt.fail(w, r, err)
			return
		}
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	defer func() {
		if p := recover(); p != nil {
			e.logPanic(r, p)
			rt.fail(w, r, errors.New("panic in the login handler"))
		}
	}()
	e.o.LoginHandler(w, r, func(state, username, password string) (string, error) {
		return e.complete(w, r, state, username, password)
	})
}

// complete does for a program's login page what login does for the built-in one.
func (e *endpoints) complete(w http.ResponseWriter, r *http.Request, state, username, password string) (string, error) {
	if r.Method != http.MethodPost {
		return "", errors.New("a login is completed by a POST")
	}
	if err := e.fetchClient(r, e.clientOf(state)); err != nil {
		return "", e.loginError(r, (&route{e: e}).clientProblem(err))
	}
	result, err := e.signIn(r, state, "", username, password)
	var toClient *redirectError
	if errors.As(err, &toClient) {
		return oauth.AsError(err).RedirectTo(toClient.redirectURI, toClient.state, e.o.Issuer), nil
	}
	if err != nil {
		return "", e.loginError(r, err)
	}
	to := result.(redirect)
	setCookies(w, to.cookies)
	return to.to, nil
}

// loginError turns err into words for the user. The log gets the cause.
func (e *endpoints) loginError(r *http.Request, err error) error {
	var problem *loginProblem
	key := ""
	if errors.As(err, &problem) {
		key = problem.key
	} else {
		refusal := oauth.AsError(unanswered(err))
		(&route{e: e}).log(r, refusal)
		key = "error." + errorPage(refusal, err).data.(pages.Error).Kind + "_title"
	}
	return &loginError{text: e.pages.Text(r.Header.Get("Accept-Language"), key), cause: err}
}
