package handlers

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"signet/handlers/pages"
	"signet/internal/denylist"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/jwt"
	"signet/users"
)

// linkData describes the connections of a user.
func (e *endpoints) linkData(ctx context.Context, who holder) (list []pages.Link, err error) {
	all, err := e.usersLinks(ctx)
	if err != nil {
		return nil, err
	}
	for _, l := range all {
		entry, err := e.connected(ctx, who, l)
		if err != nil {
			return nil, err
		}
		data := pages.Link{ID: l.ID, Name: plain(l.Name, maxName)}
		if entry.Access != "" {
			data.Scopes, data.Since = entry.Scope, time.Unix(entry.Since, 0)
			if entry.Used != 0 {
				data.Used = time.Unix(entry.Used, 0)
			}
		}
		list = append(list, data)
	}
	return list, nil
}

// providerData describes the provider of a user, or returns nil.
func (e *endpoints) providerData(ctx context.Context, user users.User) (*pages.Provider, error) {
	p := e.provider(providerOf(user.Subject))
	if p == nil {
		return nil, nil
	}
	entry, err := e.entry(ctx, user.Subject, p)
	if err != nil {
		return nil, err
	}
	data := &pages.Provider{Name: p.Name(), Account: plain(cmp.Or(user.DisplayName, user.Name)+" "+user.Email, maxHost)}
	if entry.Access != "" {
		data.Renewed = time.Unix(entry.Obtained, 0)
	}
	return data, nil
}

var errForeignSession = oauth.Errorf(oauth.InvalidRequest, "this form belongs to another session; open the account page again").WithStatus(http.StatusForbidden)

// accountPage shows users their connected applications, and lets them disconnect these
// and manage the login. Without a session it asks for a login first.
func (e *endpoints) accountPage(r *http.Request) (any, error) {
	query, err := params(r)
	if err != nil {
		return nil, err
	}
	now := e.o.Store.Now()
	who, login, err := e.accountSession(r, now)
	if login != nil || err != nil {
		return login, err
	}
	data := pages.Account{}
	// Shown only on the way back from the page's own form: a link could claim anything.
	if done := query.Get("done"); r.Header.Get("Sec-Fetch-Site") == "same-origin" && slices.Contains([]string{"disconnected", "password", "link"}, done) {
		data.Done = done
	}
	return e.showAccount(r, who, data, http.StatusOK, now)
}

// The size of the account page: applications on one page, and grants of each.
const (
	appsShown   = 20
	grantsShown = 5
)

// showAccount shows the page of applications that the query asks for, or the first one.
func (e *endpoints) showAccount(r *http.Request, who signedIn, data pages.Account, status int, now time.Time) (any, error) {
	grants, err := e.o.Denylist.Grants(r.Context(), who.user.Subject, now)
	if err != nil {
		return nil, unavailable(err)
	}
	data.Apps, data.Previous, data.Next = pageOf(byApp(grants), r.URL.Query().Get("page"))
	if data.Provider, err = e.providerData(r.Context(), who.user); err != nil {
		return nil, err
	}
	if data.Links, err = e.linkData(r.Context(), holderOf(who.user.Subject, who.user.Version)); err != nil {
		return nil, err
	}
	data.Token, data.Account = formToken(who.session), accountName(who.user)
	data.Password, data.EndsSessions = e.hasPassword(who.user), e.o.EndSessions != nil && who.user.Version != ""
	return page{status: status, data: data}, nil
}

// hasPassword reports whether a user has a password here that can be changed.
func (e *endpoints) hasPassword(user users.User) bool {
	return e.o.ChangePassword != nil && user.Version != "" && !strings.HasPrefix(user.Subject, users.UpstreamPrefix)
}

// byApp groups grants, which are sorted, by application. The order is that of the newest
// grant of each.
func byApp(grants []denylist.Grant) (apps []pages.App) {
	at := map[string]int{}
	for _, g := range grants {
		i, ok := at[g.ClientHash]
		if !ok {
			i = len(apps)
			at[g.ClientHash] = i
			apps = append(apps, pages.App{Client: plain(g.ClientName, maxName), Key: g.ClientHash})
		}
		if apps[i].Count++; apps[i].Count <= grantsShown {
			apps[i].Grants = append(apps[i].Grants, describeGrant(g))
		}
	}
	return apps
}

// pageOf returns one page of the applications, and the numbers of its neighbours. A number
// that is none of a page means the last page or the first.
func pageOf(apps []pages.App, number string) (shown []pages.App, previous, next int) {
	last := max(1, (len(apps)+appsShown-1)/appsShown)
	n, err := strconv.Atoi(number)
	if err != nil {
		n = 1
	}
	n = min(max(n, 1), last)
	if n < last {
		next = n + 1
	}
	return apps[(n-1)*appsShown : min(n*appsShown, len(apps))], n - 1, next
}

func describeGrant(g denylist.Grant) pages.Grant {
	d := pages.Grant{
		ID: g.ID, Client: plain(g.ClientName, maxName), Scopes: strings.Fields(g.Scope), Resource: g.Resource, Replays: g.Replays,
		Since: time.Unix(g.Created, 0), Until: time.Unix(g.Expires, 0),
	}
	if g.Gen > 1 { // the first generation is the code's
		d.Used = time.UnixMilli(g.RotatedAt)
	}
	return d
}

// formToken ties the account page's forms to the session they were made for, so that a
// form that was left open cannot act for another session. Only the server knows a
// session's id.
func formToken(sess seal.Session) string { return hashText("account form " + sess.ID) }

// accountSession returns the session of the account page. If there is none, it returns
// the redirect to a login instead.
func (e *endpoints) accountSession(r *http.Request, now time.Time) (who signedIn, login any, err error) {
	who, err = e.session(r, now)
	if errors.Is(err, errNoSession) {
		login, err = e.signInToAccount(r, now)
	}
	return who, login, err
}

// signInToAccount begins a login that no client asked for. A transaction without a
// client ends at the account page and nowhere else. It counts as an authorization request, because
// anybody can begin it, and one that leads to a provider leaves a row in the store.
func (e *endpoints) signInToAccount(r *http.Request, now time.Time) (any, error) {
	if err := e.limitAuthorize(r); err != nil {
		return nil, err
	}
	expires := now.Add(loginTTL)
	tx := seal.Login{ID: seal.NewID(expires.Add(jwt.Leeway)), Epoch: e.o.Store.Epoch(), Expires: expires.Unix()}
	var set []*http.Cookie
	tx.Browser, set = e.bindBrowser(r)
	return e.toLogin(tx, set)
}

// toAccount reports whether a login leads to the account page.
func toAccount(tx seal.Login) bool { return tx.ClientID == "" }

// account performs the action that the user chose on the account page.
func (e *endpoints) account(r *http.Request) (any, error) {
	now := e.o.Store.Now()
	who, login, err := e.accountSession(r, now)
	if login != nil || err != nil {
		return login, err
	}
	if subtle.ConstantTimeCompare([]byte(r.PostForm.Get("token")), []byte(formToken(who.session))) == 0 {
		return nil, errForeignSession
	}
	action := r.PostForm.Get("action")
	if action == "password" {
		return e.changePassword(r, who, now) // in a slot for logins, because it computes a hash as they do
	}
	if action == "disconnect_link" { // in a slot for what asks providers
		return redirect{to: e.path + "/account?done=link"}, e.disconnectLink(r, who, r.PostForm.Get("connection"))
	}
	slot, err := e.o.Admission.Pages.Enter(r.Context())
	if err != nil {
		return nil, err
	}
	defer slot.Leave()
	switch action {
	case "disconnect":
		return e.disconnect(r, who, now)
	case "disconnect_all":
		return e.disconnectAll(r, who, now)
	case "sign_out":
		return e.signOut(r, who, "")
	case "sign_out_all", "disconnect_provider":
		return e.signOutEverywhere(r, who, now)
	}
	return nil, oauth.Errorf(oauth.InvalidRequest, "action must be disconnect, disconnect_all, disconnect_link, disconnect_provider, password, sign_out or sign_out_all")
}

// disconnect revokes one of the user's grants. The answer is the same if the grant is
// another user's or has already ended.
func (e *endpoints) disconnect(r *http.Request, who signedIn, now time.Time) (any, error) {
	done := redirect{to: e.path + "/account?done=disconnected"}
	g, err := e.o.Denylist.Find(r.Context(), r.PostForm.Get("grant"))
	switch {
	case errors.Is(err, denylist.ErrUnknown), errors.Is(err, denylist.ErrRevoked):
		return done, nil
	case err != nil:
		return nil, unavailable(err)
	case g.Subject != who.user.Subject:
		return done, nil
	}
	if err := e.endGrant(r, event{name: "revoke", reason: "by the user"}, g, now); err != nil {
		return nil, err
	}
	e.settle(g.Subject)
	return done, nil
}

// disconnectAll revokes all of the user's grants to one client.
func (e *endpoints) disconnectAll(r *http.Request, who signedIn, now time.Time) (any, error) {
	ev := event{name: "revoke", subject: who.user.Subject, reason: "by the user"}
	_, err := e.o.Denylist.RevokeClient(r.Context(), who.user.Subject, r.PostForm.Get("client"), now)
	if err != nil {
		err = unavailable(err)
	}
	e.audit(r, ev, err)
	if err == nil {
		e.settle(who.user.Subject)
	}
	return redirect{to: e.path + "/account?done=disconnected"}, err
}

// changePassword sets a new password for a user who knows the current one. Everything
// that began with the current one ends, except this session.
func (e *endpoints) changePassword(r *http.Request, who signedIn, now time.Time) (any, error) {
	if !e.hasPassword(who.user) {
		return nil, oauth.Errorf(oauth.InvalidRequest, "passwords cannot be changed here")
	}
	old, next := r.PostForm.Get("old"), r.PostForm.Get("new")
	if old == "" || next == "" {
		return e.showAccount(r, who, pages.Account{Problem: "login.missing"}, http.StatusBadRequest, now)
	}
	var user users.User
	err := e.throttled(r, e.o.Admission.Login, who.user.Name, now, func() (err error) {
		user, err = e.o.ChangePassword(r.Context(), who.user.Subject, old, next)
		return err
	})
	ev := event{name: "password", subject: who.user.Subject}
	if err != nil {
		var limited *limitError
		if errors.As(err, &limited) {
			e.audit(r, ev, err)
			return nil, err
		}
		problem, refused := passwordProblem(err)
		if problem.Problem == "" {
			e.audit(r, ev, unavailable(err))
			return nil, unavailable(err)
		}
		e.audit(r, ev, refused)
		return e.showAccount(r, who, problem, http.StatusBadRequest, now)
	}
	e.audit(r, ev, nil)
	if err := e.revokeAll(r.Context(), who, now); err != nil {
		return nil, err
	}
	_, cookie, err := e.newSession(user, now.Unix(), now)
	return redirect{to: e.path + "/account?done=password", cookies: []*http.Cookie{cookie}}, err
}

// passwordProblem says what the user can do about err. It returns no problem if the
// user can only wait.
func passwordProblem(err error) (pages.Account, error) {
	var rule users.PasswordError
	switch {
	case errors.Is(err, users.ErrInvalid):
		return pages.Account{Problem: "account.password_invalid", WrongOld: true}, oauth.Errorf(oauth.AccessDenied, "wrong password")
	case errors.As(err, &rule):
		return pages.Account{Problem: "account.password_refused", Reason: rule.Error()}, oauth.Errorf(oauth.InvalidRequest, "the new password is not strong enough or not allowed")
	case errors.Is(err, users.ErrReadOnly):
		return pages.Account{Problem: "account.password_readonly"}, err
	}
	return pages.Account{}, nil
}

func (e *endpoints) revokeAll(ctx context.Context, who signedIn, now time.Time) error {
	if _, err := e.o.Denylist.RevokeAll(ctx, who.user.Subject, now); err != nil {
		return unavailable(err)
	}
	e.settle(who.user.Subject)
	return nil
}

// signOut ends the session of this browser and deletes its binding cookie, so that a
// consent page left open in it is of no use to the next user.
func (e *endpoints) signOut(r *http.Request, who signedIn, note string) (any, error) {
	if err := e.endSession(r.Context(), who.session); err != nil {
		return nil, err
	}
	e.audit(r, event{name: "logout", subject: who.user.Subject}, nil)
	return page{status: http.StatusOK, data: pages.SignedOut{Note: note}, cookies: e.cookies.gone(r)}, nil
}

// signOutEverywhere ends every grant of the user and, if the source of users supports
// it, every session. Otherwise the other sessions last until they expire.
func (e *endpoints) signOutEverywhere(r *http.Request, who signedIn, now time.Time) (any, error) {
	if err := e.revokeAll(r.Context(), who, now); err != nil {
		return nil, err
	}
	note := "logout.disconnected"
	if e.o.EndSessions != nil && who.user.Version != "" {
		switch err := e.o.EndSessions(r.Context(), who.user.Subject); {
		case err == nil:
			note = "logout.everywhere"
		case !errors.Is(err, users.ErrReadOnly) && !errors.Is(err, users.ErrUnknown):
			return nil, unavailable(err)
		}
	}
	return e.signOut(r, who, note)
}
