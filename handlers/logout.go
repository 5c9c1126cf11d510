package handlers

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"

	"signet/internal/clients"
	"signet/internal/oauth"
	"signet/jwt"
)

// logoutData is what the page shows and its form sends back. Host is where the
// browser goes afterwards, if anywhere.
type logoutData struct {
	Account, Client, Host        string
	ClientID, RedirectURI, State string
}

// logoutPage asks whether to sign out; a link alone never does, whoever made it
// (OpenID Connect RP-Initiated Logout §2 leaves that to us). A client that sends
// the browser here may say where it is to go afterwards.
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
	return page{name: "logout", status: http.StatusOK, data: data}, nil
}

// logout ends the session for good and forgets the browser's binding, so that a
// consent page left open in it cannot be answered by whoever sits there next.
//
// A client may post its request as well as link to it. That is no answer to our
// question, so it is asked.
func (e *endpoints) logout(r *http.Request) (any, error) {
	if err := e.checkOwnPage(r); err != nil {
		if request := logoutRequest(r.PostForm); len(request) > 0 {
			return redirect{to: e.path + "/logout?" + request.Encode()}, nil
		}
		return nil, err
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
		return redirect{to: way.location(), cookies: e.cookies.gone()}, nil
	}
	return page{name: "logout", status: http.StatusOK, data: logoutData{}, cookies: e.cookies.gone()}, nil
}

// logoutRequest is what of a request for a logout is looked at.
func logoutRequest(form url.Values) url.Values {
	request := url.Values{}
	for _, name := range []string{"id_token_hint", "client_id", "post_logout_redirect_uri", "state"} {
		if v := form.Get(name); v != "" {
			request.Set(name, v)
		}
	}
	return request
}

// wayBack is where the browser goes after a logout, if uri is set.
type wayBack struct {
	client     *clients.Client
	uri, state string
}

func (w wayBack) data() logoutData {
	if w.uri == "" {
		return logoutData{}
	}
	return logoutData{Client: clientName(w.client), Host: hostOf(w.uri), ClientID: w.client.ID, RedirectURI: w.uri, State: w.state}
}

func (w wayBack) location() string { return oauth.LogoutResponse(w.uri, w.state) }

// wayBack checks a client's request for a logout (OpenID Connect RP-Initiated Logout
// §2, §3). A request that cannot be answered with a redirect is answered without
// one: it is still the user's logout. So the only error is that we cannot say.
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
	switch {
	case errors.Is(err, clients.ErrUnknown):
		return wayBack{}, nil
	case err != nil:
		return wayBack{}, unavailable(err)
	case !slices.Contains(client.PostLogoutRedirectURIs, uri):
		return wayBack{}, nil
	}
	return wayBack{client: client, uri: uri, state: state}, nil
}

// logoutClient is the client that asks for a logout, by client_id or by an id token
// that was made for it, which must agree. A token whose key is gone says nothing.
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
