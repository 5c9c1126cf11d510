package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"signet/handlers/pages"
	"signet/internal/clients"
	"signet/internal/denylist"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/users"
)

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
	if tx, err = e.narrowNow(r, client, tx, user); err != nil {
		return nil, err
	}
	choice, err := e.choice(r.Context(), client, tx, e.o.Store.Now())
	if err != nil {
		return nil, err
	}
	return page{status: http.StatusOK, data: e.consentData(raw, tx, client, user, choice, nil)}, nil
}

// consentData makes the data of the page. form is nil, or what the user sent.
func (e *endpoints) consentData(raw string, tx seal.Login, client *clients.Client, user users.User, c choice, form url.Values) pages.Consent {
	data := pages.Consent{
		State: raw, Client: clientName(client), Unverified: client.Registered, Host: hostOf(tx.RedirectURI), Loopback: oauth.IsLoopbackRedirect(tx.RedirectURI),
		Resource: tx.Resource, Account: accountName(user), Other: pages.URL(e.path + e.o.LoginPath + "?state=" + raw),
	}
	if p := e.provider(tx.Provider); p != nil {
		data.SignInAt = p.Name()
	}
	if client.Document != "" {
		data.ClientHost = hostOf(client.ID)
	}
	c.show(&data, form)
	return data
}

// openConsent opens a transaction whose user has signed in, or will sign in at a provider. It checks again what may
// have changed since the transaction began: client, redirect URI, user.
func (e *endpoints) openConsent(r *http.Request, raw string, now time.Time) (seal.Login, *clients.Client, users.User, error) {
	fail := func(err error) (seal.Login, *clients.Client, users.User, error) {
		return seal.Login{}, nil, users.User{}, err
	}
	tx, err := e.openLogin(r, raw, now)
	if err != nil {
		return fail(err)
	}
	// A user who signs in at a provider decides first.
	later := tx.Subject == "" && byBrowser(e.provider(tx.Provider))
	if tx.Subject == "" && !later {
		return fail(oauth.Errorf(oauth.InvalidRequest, "no user has signed in for this authorization request"))
	}
	if !later {
		if err := e.checkConsentSession(r, tx, now); err != nil {
			return fail(err)
		}
	}
	client, err := e.client(r.Context(), tx.ClientID)
	if err != nil {
		return fail(err)
	}
	if _, err := client.RedirectURI(tx.RedirectURI); err != nil {
		return fail(oauth.Errorf(oauth.InvalidRequest, "the application has changed; start again there").Because(err))
	}
	if later {
		return tx, client, users.User{}, nil
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

// narrowNow leaves of a transaction the scopes that can still be granted: the configuration, the
// client or the user may have changed while the page was open. If the request can no longer be
// granted at all, the client learns of it.
func (e *endpoints) narrowNow(r *http.Request, client *clients.Client, tx seal.Login, user users.User) (seal.Login, error) {
	var err error
	if _, served := e.configured(tx.Resource); !served {
		err = oauth.Errorf(oauth.InvalidTarget, "resource is no longer one of this server's: %s", tx.Resource)
	} else if tx.Scope = e.stillAllowed(tx.Scope, client, user); len(tx.Scope) == 0 {
		err = oauth.Errorf(oauth.InvalidScope, "none of the requested scopes can be granted any longer")
	}
	if err == nil {
		return tx, nil
	}
	if err := e.answer(r.Context(), tx); err != nil {
		return tx, err
	}
	return tx, e.refuse(client, tx, r.Method == http.MethodPost, err)
}

// consent takes the decision. Approving and denying both spend the transaction, before
// anything is issued. Afterwards the browser goes back to the client in either case.
func (e *endpoints) consent(r *http.Request) (any, error) {
	now, raw := e.o.Store.Now(), r.PostForm.Get("state")
	tx, client, user, err := e.openConsent(r, raw, now)
	if err != nil {
		return nil, err
	}
	decision := r.PostForm.Get("decision")
	if decision == decideDeny {
		return nil, e.deny(r, client, tx)
	}
	if tx, err = e.narrowNow(r, client, tx, user); err != nil {
		return nil, err
	}
	choice, err := e.choice(r.Context(), client, tx, now)
	if err != nil {
		return nil, err
	}
	if decision != decideApprove && (decision != decideReadOnly || len(choice.readOnly) == 0) {
		return nil, oauth.Errorf(oauth.InvalidRequest, "decision must be approve or deny, or read_only where the page offers it")
	}
	g, err := choice.decide(r.PostForm)
	var problem *choiceProblem
	if errors.As(err, &problem) {
		data := e.consentData(raw, tx, client, user, choice, r.PostForm)
		data.Problem = problem.key
		return page{status: http.StatusBadRequest, data: data}, nil
	}
	if tx.Subject == "" {
		return departure{provider: e.provider(tx.Provider), tx: tx, granted: g}, nil
	}
	if err := e.answer(r.Context(), tx); err != nil {
		return nil, err
	}
	to, err := e.conclude(r, client, tx, g, now, "")
	if err != nil {
		return nil, err
	}
	return redirect{to: to}, nil
}

// deny ends a transaction that the user has denied.
func (e *endpoints) deny(r *http.Request, client *clients.Client, tx seal.Login) error {
	if err := e.answer(r.Context(), tx); err != nil {
		return err
	}
	err := oauth.Errorf(oauth.AccessDenied, "the user denied the request")
	e.audit(r, event{name: "consent", subject: tx.Subject, client: client}, err)
	return e.refuse(client, tx, true, err)
}

// approve makes the grant and its code, and returns where the browser takes it
// (OAuth 2.1 §4.1.2). Nothing is stored: the code is generation 0 of the grant.
func (e *endpoints) approve(r *http.Request, client *clients.Client, tx seal.Login, g granted, now time.Time, how string) (string, error) {
	expires := now.Add(e.o.Lives.Code)
	code, err := seal.Seal(e.o.Ring, seal.Code{
		Grant: seal.Grant{
			ID: tx.GrantID, Epoch: tx.Epoch, Subject: tx.Subject, UserVersion: tx.UserVersion,
			ClientHash: client.Hash(), ClientName: clientName(client), ConsentHash: g.kind + consentHash(tx, client),
			Scope: g.scope, Resource: tx.Resource, AuthTime: tx.AuthTime,
			// An upper bound: redeeming the code sets the end.
			Expires: expires.Add(e.o.Lives.Refresh).Unix(),
			Issued:  max(now.Unix(), addedAt(client)),
		},
		RedirectURI: tx.RedirectURI, Challenge: tx.Challenge, Nonce: tx.Nonce, Expires: expires.Unix(), Ends: g.ends,
	})
	if err != nil {
		return "", err
	}
	e.audit(r, event{name: "consent", subject: tx.Subject, client: client, grantID: tx.GrantID, reason: how}, nil)
	return oauth.AuthorizationResponse(tx.RedirectURI, code, unpackState(tx.State), e.o.Issuer), nil
}

// addedAt returns when the operator added a client, in Unix seconds. A grant from before
// that time was made to another client of the same id. It is 0 for a registered client,
// whose id is never given again.
func addedAt(client *clients.Client) int64 {
	if client.Registered {
		return 0
	}
	return client.Issued
}

// consentHash identifies the content of a consent, the version of the user who gave it,
// the client with the version of its metadata document, and the epoch. A JSON list is
// unambiguous. The epoch is a secret, so no client can search for two consents with one
// hash, and 72 bits of the hash are enough.
func consentHash(tx seal.Login, client *clients.Client) string {
	scope := slices.Sorted(slices.Values(tx.Scope))
	content := []any{tx.Epoch, tx.Subject, tx.UserVersion, tx.ClientID, addedAt(client), tx.RedirectURI, scope, tx.Resource}
	if client.Document != "" {
		content = append(content, client.Document)
	}
	b, err := json.Marshal(content)
	if err != nil {
		return "" // strings always marshal; and "" is never remembered
	}
	return hashText(string(b))[:12]
}

// Kinds of consent. A consent to all that was requested, without a chosen end, has none. The kind
// begins the stored hash, so that an older release does not take one for the other.
const (
	consentLess  = "less:"              // to a part of the requested scopes
	consentEnds  = denylist.ConsentEnds // until an end that the user chose, to all or a part
	consentAgain = "again:"             // after one of these: given silently, to a part
)

var (
	allKinds  = []string{"", consentLess, consentEnds, consentLess + consentAgain, consentEnds + consentAgain}
	wholeKind = []string{""}
)

// tooSoon is how soon a client repeats a request only because it got less than it needs.
const tooSoon = 10 * time.Minute

var errAsk = errors.New("the user has to be asked")

// remembered returns what the user, in its present version, has granted to exactly this request
// before, in a grant that is still live: the scopes, and the end if the user chose it. Otherwise
// the error is errAsk. It is also errAsk if a part was granted silently a moment ago: then the
// client cannot do with less, and would go on asking. Only an https redirect URI shows that
// the application is the same: a loopback or private-use URI can belong to any program
// on the machine (RFC 8252 §8.6).
func (e *endpoints) remembered(ctx context.Context, tx seal.Login, client *clients.Client, now time.Time) (granted, error) {
	hash := consentHash(tx, client)
	if prompts(tx, "consent") || !strings.HasPrefix(tx.RedirectURI, "https://") || hash == "" {
		return granted{}, errAsk
	}
	kinds := allKinds
	if client.ConsentLocked() {
		kinds = wholeKind
	}
	var hashes []string
	for _, kind := range kinds {
		hashes = append(hashes, kind+hash)
	}
	last, err := e.o.Denylist.Consent(ctx, tx.Subject, hashes, now)
	switch {
	case errors.Is(err, denylist.ErrUnknown):
		return granted{}, errAsk
	case err != nil:
		return granted{}, unavailable(err)
	}
	kind, _, _ := strings.Cut(last.ConsentHash, hash)
	g := granted{scope: tx.Scope, kind: kind}
	if g.kind == "" {
		return g, nil
	}
	if g.scope = oauth.IntersectScope(tx.Scope, strings.Fields(last.Scope)); len(g.scope) == 0 {
		return granted{}, errAsk
	}
	if strings.HasPrefix(g.kind, consentEnds) {
		g.ends = last.Expires
	}
	if len(g.scope) == len(tx.Scope) {
		return g, nil
	}
	if strings.HasSuffix(g.kind, consentAgain) {
		if !prompts(tx, "none") && now.Sub(time.Unix(last.Created, 0)) < tooSoon {
			return granted{}, errAsk
		}
		return g, nil
	}
	g.kind += consentAgain
	return g, nil
}

var errSessionEnded = oauth.Errorf(oauth.InvalidRequest, "the login of this page has ended; begin again in the application")

// checkConsentSession refuses a consent page whose login session has ended, or whose
// browser is now signed in as another user. The same user may have signed in again in
// another tab.
func (e *endpoints) checkConsentSession(r *http.Request, tx seal.Login, now time.Time) error {
	who, err := e.session(r, now)
	switch {
	case errors.Is(err, errNoSession), err == nil && who.session.Subject != tx.Subject:
		return errSessionEnded
	case err != nil:
		return err
	case tx.Session == who.session.ID || tx.Session == "": // an older release does not seal it
		return nil
	}
	ended, err := e.o.Denylist.Spent(r.Context(), spentSession, tx.Session)
	switch {
	case err != nil:
		return unavailable(err)
	case ended:
		return errSessionEnded
	}
	return nil
}
