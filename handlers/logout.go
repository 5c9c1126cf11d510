package handlers

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"signet/handlers/pages"
	"signet/internal/clients"
	"signet/internal/oauth"
	"signet/jwt"
)

// logoutPage asks whether to sign out. A link alone never signs out, whoever made it
// (OpenID Connect RP-Initiated Logout §2 allows asking). A client that sends the
// browser here may name the page to return to.
func (e *endpoints) logoutPage(r *http.Request) (any, error) {
	query, err := params(r)
	if err != nil {
		return nil, err
	}
	way, err := e.wayBack(r.Context(), query)
	if err != nil {
		return nil, err
	}
	who, err := e.session(r, e.o.Store.Now())
	if err != nil && !errors.Is(err, errNoSession) {
		return nil, err
	}
	data := way.data()
	if err == nil {
		data.Account = accountName(who.user)
	}
	return page{status: http.StatusOK, data: data}, nil
}

// logout ends the session for good and deletes the browser's binding, so that the next
// user of the browser cannot answer a consent page that was left open.
//
// A client may post its request instead of linking to it (OpenID Connect RP-Initiated Logout
// §2), also without parameters. Such a post is not the user's answer, so the user is asked.
func (e *endpoints) logout(r *http.Request) (any, error) {
	if e.checkOwnPage(r) != nil {
		return redirect{to: strings.TrimSuffix(e.path+"/logout?"+logoutRequest(r.PostForm).Encode(), "?")}, nil
	}
	way, err := e.wayBack(r.Context(), r.PostForm)
	if err != nil {
		return nil, err
	}
	sess, err := e.openSession(r, e.o.Store.Now())
	if err == nil {
		if err := e.endSession(r.Context(), sess); err != nil {
			return nil, err
		}
		e.audit(r, event{name: "logout", subject: sess.Subject, client: way.client}, nil)
	}
	if way.uri != "" {
		return redirect{to: way.location(), cookies: e.cookies.gone(r)}, nil
	}
	return page{status: http.StatusOK, data: pages.Logout{}, cookies: e.cookies.gone(r)}, nil
}

// logoutRequest returns the parameters of a logout request that count.
func logoutRequest(form url.Values) url.Values {
	request := url.Values{}
	for _, name := range []string{"id_token_hint", "client_id", "post_logout_redirect_uri", "state"} {
		if v := form.Get(name); v != "" {
			request.Set(name, v)
		}
	}
	return request
}

// wayBack says where the browser goes after a logout; nowhere if uri is empty.
type wayBack struct {
	client     *clients.Client
	uri, state string
}

func (w wayBack) data() pages.Logout {
	if w.uri == "" {
		return pages.Logout{}
	}
	return pages.Logout{Host: hostOf(w.uri), ClientID: w.client.ID, RedirectURI: w.uri, State: w.state}
}

func (w wayBack) location() string { return oauth.LogoutResponse(w.uri, w.state) }

// wayBack checks a client's request for a logout (OpenID Connect RP-Initiated Logout
// §2, §3). If the request does not allow a redirect, the logout happens without one,
// because the user wants it. So an error means only that the server cannot tell.
func (e *endpoints) wayBack(ctx context.Context, request url.Values) (wayBack, error) {
	uri, state := request.Get("post_logout_redirect_uri"), request.Get("state")
	if uri == "" || oauth.CheckDuplicates(request) != nil || oauth.CheckState(state) != nil {
		return wayBack{}, nil
	}
	id, err := e.logoutClient(ctx, request)
	if err != nil || id == "" {
		return wayBack{}, err
	}
	client, err := e.o.Clients.Find(ctx, id)
	var outage *clients.OutageError
	switch {
	case errors.Is(err, clients.ErrUnknown), errors.As(err, &outage):
		return wayBack{}, nil
	case err != nil:
		return wayBack{}, unavailable(err)
	case !slices.Contains(client.PostLogoutRedirectURIs, uri):
		return wayBack{}, nil
	}
	return wayBack{client: client, uri: uri, state: state}, nil
}

// leavingClient is the client whose way back has to be looked up, or "".
func (e *endpoints) leavingClient(r *http.Request) string {
	request, err := params(r)
	if err != nil || request.Get("post_logout_redirect_uri") == "" {
		return ""
	}
	id, err := e.logoutClient(r.Context(), request)
	if err != nil {
		return "" // as the endpoint says
	}
	return id
}

// logoutClient returns the client that asks for a logout, identified by client_id or by
// an id token that was issued to it. If both are sent they must agree. A token whose
// key no longer exists is ignored.
func (e *endpoints) logoutClient(ctx context.Context, request url.Values) (string, error) {
	id, hint := request.Get("client_id"), request.Get("id_token_hint")
	if hint == "" {
		return id, nil
	}
	claims, err := jwt.VerifyIDHint(ctx, e.o.Keys, e.o.Issuer, hint)
	switch {
	case errors.Is(err, jwt.ErrUnknownKey):
		return id, nil
	case errors.Is(err, jwt.ErrInvalid), err == nil && id != "" && id != claims.Audience:
		return "", nil
	case err != nil:
		return "", unavailable(err)
	}
	return claims.Audience, nil
}
