package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"signet/internal/clients"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/users"
)

// consentData is what the consent page shows.
type consentData struct {
	State      string
	Client     string
	ClientHost string // host of a client id that is a URL
	Unverified bool   // the client chose its name itself
	Host       string // where the browser goes on approval
	Loopback   bool
	Scopes     []string
	Resource   string
	Account    string
	Other      string // link to sign in with another account
}

// consentPage serves the page.
func (e *endpoints) consentPage(r *http.Request) (any, error) {
	query, err := params(r)
	if err != nil {
		return nil, err
	}
	raw := query.Get("state")
	tx, client, user, err := e.openConsent(r, raw, e.o.Store.Now())
	if err != nil {
		return nil, err
	}
	data := consentData{
		State: raw, Client: clientName(client), Unverified: client.Registered, Host: hostOf(tx.RedirectURI), Loopback: oauth.IsLoopbackRedirect(tx.RedirectURI),
		Scopes: tx.Scope, Resource: tx.Resource, Account: accountName(user), Other: e.path + e.o.LoginPath + "?state=" + raw,
	}
	if strings.HasPrefix(client.ID, "https://") {
		data.ClientHost = hostOf(client.ID)
	}
	return page{name: "consent", status: http.StatusOK, data: data}, nil
}

// openConsent opens a transaction whose user has signed in. It checks again what may
// have changed since the transaction began: client, redirect URI, user.
func (e *endpoints) openConsent(r *http.Request, raw string, now time.Time) (seal.Login, *clients.Client, users.User, error) {
	fail := func(err error) (seal.Login, *clients.Client, users.User, error) {
		return seal.Login{}, nil, users.User{}, err
	}
	tx, err := e.openLogin(r, raw, now)
	if err != nil {
		return fail(err)
	}
	if tx.Subject == "" {
		return fail(oauth.Errorf(oauth.InvalidRequest, "no user has signed in for this authorization request"))
	}
	client, err := e.client(r.Context(), tx.ClientID)
	if err != nil {
		return fail(err)
	}
	if _, err := client.RedirectURI(tx.RedirectURI); err != nil {
		return fail(oauth.Errorf(oauth.InvalidRequest, "the application has changed; start again there").Because(err))
	}
	user, err := e.lookup(r.Context(), tx.Subject, tx.UserVersion)
	if errors.Is(err, users.ErrUnknown) {
		return fail(oauth.Errorf(oauth.InvalidRequest, "your account has changed; start again in the application"))
	}
	if err != nil {
		return fail(err)
	}
	return tx, client, user, nil
}

// consent takes the decision. Approving and denying both spend the transaction, before
// anything is issued. Afterwards the browser goes back to the client in either case.
func (e *endpoints) consent(r *http.Request) (any, error) {
	now := e.o.Store.Now()
	tx, client, _, err := e.openConsent(r, r.PostForm.Get("state"), now)
	if err != nil {
		return nil, err
	}
	decision := r.PostForm.Get("decision")
	if decision != "approve" && decision != "deny" {
		return nil, oauth.Errorf(oauth.InvalidRequest, "decision must be approve or deny")
	}
	if err := e.answer(r.Context(), tx); err != nil {
		return nil, err
	}
	if decision == "deny" {
		err := oauth.Errorf(oauth.AccessDenied, "the user denied the request")
		e.audit(r, event{name: "consent", subject: tx.Subject, client: client}, err)
		return nil, e.refuse(client, tx, true, err)
	}
	to, err := e.approve(r, client, tx, now, "")
	if err != nil {
		return nil, err
	}
	return redirect{to: to}, nil
}

// approve makes the grant and its code, and returns where the browser takes it
// (OAuth 2.1 §4.1.2). Nothing is stored: the code is generation 0 of the grant.
func (e *endpoints) approve(r *http.Request, client *clients.Client, tx seal.Login, now time.Time, how string) (string, error) {
	expires := now.Add(e.o.Lives.Code)
	code, err := seal.Seal(e.o.Ring, seal.Code{
		Grant: seal.Grant{
			ID: tx.GrantID, Epoch: tx.Epoch, Subject: tx.Subject, UserVersion: tx.UserVersion,
			ClientHash: client.Hash(), ClientName: clientName(client), ConsentHash: consentHash(tx),
			Scope: tx.Scope, Resource: tx.Resource, AuthTime: tx.AuthTime,
			// An upper bound: redeeming the code sets the end.
			Expires: expires.Add(e.o.Lives.Refresh).Unix(),
		},
		RedirectURI: tx.RedirectURI, Challenge: tx.Challenge, Nonce: tx.Nonce, Expires: expires.Unix(),
	})
	if err != nil {
		return "", err
	}
	e.audit(r, event{name: "consent", subject: tx.Subject, client: client, grantID: tx.GrantID, reason: how}, nil)
	return oauth.AuthorizationResponse(tx.RedirectURI, code, unpackState(tx.State), e.o.Issuer), nil
}

// consentHash identifies the content of a consent. A JSON list is unambiguous.
func consentHash(tx seal.Login) string {
	scope := slices.Sorted(slices.Values(tx.Scope))
	b, err := json.Marshal([]any{tx.Subject, tx.ClientID, tx.RedirectURI, scope, tx.Resource})
	if err != nil {
		return "" // strings always marshal; and "" is never remembered
	}
	return hashText(string(b))
}

// remembered reports whether the user has given exactly this consent before, in a grant
// that is still live. Only an https redirect URI shows that the application is the
// same: a loopback or private-use URI can belong to any program on the machine (RFC
// 8252 §8.6).
func (e *endpoints) remembered(ctx context.Context, tx seal.Login, now time.Time) (bool, error) {
	if prompts(tx, "consent") || !strings.HasPrefix(tx.RedirectURI, "https://") {
		return false, nil
	}
	grants, err := e.o.Denylist.Grants(ctx, tx.Subject, now)
	if err != nil {
		return false, unavailable(err)
	}
	hash := consentHash(tx)
	for _, g := range grants {
		if hash != "" && g.ConsentHash == hash {
			return true, nil
		}
	}
	return false, nil
}
