package handlers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/internal/upstream"
	"signet/internal/vault"
)

// Where the operator has registered no client, this server registers itself when the first user
// connects. What it is there lies in the vault, for all replicas. If the operator has not even named
// the authorization server, the MCP server does, once: the issuer that it names first stays the one
// of the connection, so that a server which names another one later gets nobody's tokens or codes
// sent there.

// registers reports whether this server has to become a client of the connection's server itself.
func (l *link) registers() bool { return !l.Key && !l.Own && l.ClientID == "" && l.TokenEndpoint == "" }

// registrant names the client of a connection in the vault, among the gateway's own credentials.
func (l *link) registrant() string { return "client:" + l.ID }

// registrationBound names what a registration was made for. Another configuration needs another one.
func (e *endpoints) registrationBound(l *link) string {
	return hashText(cmp.Or(l.Issuer, "of "+l.Resource) + "\n" + e.o.Issuer + callbackPath)[:22]
}

func (e *endpoints) registrationEntry(l *link, r seal.Registration) seal.Credential {
	return seal.Credential{Subject: ownSubject, Provider: l.registrant(), Bound: e.registrationBound(l), Registration: &r}
}

// registration returns the registration that the vault has for a connection, or nil.
func (e *endpoints) registration(ctx context.Context, l *link) (*seal.Registration, int64, error) {
	entry, err := e.o.Vault.Get(ctx, ownSubject, l.registrant())
	switch {
	case errors.Is(err, vault.ErrUnknown), err == nil && entry.Bound != e.registrationBound(l):
		return nil, 0, nil
	case err != nil:
		return nil, 0, unavailable(err)
	}
	return entry.Registration, entry.Version, nil
}

func current(r *seal.Registration, now time.Time) bool {
	return r != nil && r.ClientID != "" && (r.Expires == 0 || now.Unix() < r.Expires)
}

// registered returns a link with the client that this server is at the connection's server, or the
// link as it is if there is none yet.
func (e *endpoints) registered(ctx context.Context, l *link) (*link, error) {
	r, version, err := e.registration(ctx, l)
	if err != nil || !current(r, e.o.Store.Now()) {
		return l, err
	}
	if known := l.latest.Load(); known != nil && known.version == version {
		return known, nil
	}
	o := e.clientOptions(l.Connection)
	o.Issuer, o.Resource, o.ClientID, o.ClientSecret, o.ClientAuth, o.Way = r.Issuer, r.Resource, r.ClientID, r.Secret, r.Method, e.wayTo(l)
	client, err := upstream.NewClient(o)
	if err != nil {
		return nil, unavailable(err)
	}
	known := &link{Connection: l.Connection, client: client, registration: r, version: version, base: l}
	l.latest.Store(known)
	return known, nil
}

// wayTo is the way to a connection's authorization server: the guarded one unless the operator has
// named the server.
func (e *endpoints) wayTo(l *link) http.RoundTripper {
	if l.Issuer != "" {
		return nil
	}
	return e.o.Elsewhere
}

// enrol makes sure that the connection's server knows this one as a client, and that it is still
// the server that the MCP server names.
func (e *endpoints) enrol(ctx context.Context, l *link) (*link, error) {
	if !l.registers() {
		return l, nil
	}
	base := cmp.Or(l.base, l)
	r, _, err := e.registration(ctx, base)
	if err != nil {
		return nil, err
	}
	next, err := e.authorizationServer(ctx, base, r)
	if err != nil {
		return nil, err
	}
	switch {
	case !current(r, e.o.Store.Now()):
		err = e.becomeClient(ctx, base, next)
	case r.Resource != next.Resource || !slices.Equal(r.Scope, next.Scope): // as the MCP server says now
		next.ClientID, next.Secret, next.Method, next.Expires = r.ClientID, r.Secret, r.Method, r.Expires
		if _, err = e.o.Vault.Put(ctx, e.registrationEntry(base, next)); err != nil {
			err = unavailable(err)
		}
	}
	if err != nil {
		return nil, err
	}
	return e.registered(ctx, base)
}

// becomeClient registers at the authorization server of a connection, and keeps the client with what is known of the server.
func (e *endpoints) becomeClient(ctx context.Context, l *link, r seal.Registration) error {
	client, err := upstream.Register(ctx, r.Issuer, e.wayTo(l), upstream.Description{Name: e.o.App, RedirectURI: e.o.Issuer + callbackPath, Document: e.o.Issuer + clientDocumentPath})
	if err != nil {
		return l.down(err)
	}
	r.ClientID, r.Secret, r.Method, r.Expires = client.ID, client.Secret, client.Method, client.Expires
	if err := e.keepRegistration(ctx, l, r); err != nil {
		return err
	}
	e.o.Log.LogAttrs(ctx, slog.LevelInfo, "this server is a client of the authorization server of a connection", slog.String("connection", l.ID), slog.String("issuer", r.Issuer), slog.String("client_id", plain(client.ID, maxName)))
	return nil
}

// authorizationServer returns the issuer of a connection: that of the configuration, or the one that
// the MCP server names. Known is what the vault has.
func (e *endpoints) authorizationServer(ctx context.Context, l *link, known *seal.Registration) (seal.Registration, error) {
	if l.Issuer != "" {
		return seal.Registration{Issuer: l.Issuer}, nil
	}
	found, err := upstream.FindResource(ctx, l.Resource)
	if err != nil {
		return seal.Registration{}, l.down(err)
	}
	next := seal.Registration{Issuer: found.Issuers[0], Resource: found.ID, Scope: found.Scopes}
	if known == nil {
		return next, nil
	}
	if next.Issuer = known.Issuer; !slices.ContainsFunc(found.Issuers, func(issuer string) bool { return upstream.SameIssuer(issuer, known.Issuer) }) {
		err := fmt.Errorf("the server names the authorization server %q, and has named %q before: if that is meant to be, set auth_config.issuer", plain(found.Issuers[0], maxHost), known.Issuer)
		e.o.Log.LogAttrs(ctx, slog.LevelError, "users cannot connect a server of the gateway", slog.String("connection", l.ID), slog.Any("cause", err))
		return seal.Registration{}, oauth.Errorf(oauth.TemporarilyUnavailable, "%s names another authorization server than before; ask the operator", l.Name).Because(err)
	}
	return next, nil
}

// keepRegistration keeps a registration, unless another replica has made one meanwhile.
func (e *endpoints) keepRegistration(ctx context.Context, l *link, r seal.Registration) error {
	c := e.registrationEntry(l, r)
	entry, err := e.o.Vault.Add(ctx, c)
	if err == nil && (entry.Bound != c.Bound || !current(entry.Registration, e.o.Store.Now())) {
		_, err = e.o.Vault.Put(ctx, c)
	}
	if err != nil {
		return unavailable(err)
	}
	return nil
}

// forgetClient forgets the client of a connection if err says that the server does not know it any
// more. The issuer stays. Another client is registered when a user connects the next time.
func (e *endpoints) forgetClient(ctx context.Context, l *link, err error) {
	if l.registration == nil || !errors.Is(err, upstream.ErrClient) {
		return
	}
	e.o.Log.LogAttrs(ctx, slog.LevelWarn, "an authorization server has forgotten its client: users have to connect again", slog.String("connection", l.ID), slog.Any("cause", err))
	r := seal.Registration{Issuer: l.registration.Issuer, Resource: l.registration.Resource, Scope: l.registration.Scope}
	if _, err := e.o.Vault.Put(ctx, e.registrationEntry(l, r)); err != nil {
		e.o.Log.LogAttrs(ctx, slog.LevelWarn, "a client could not be forgotten", slog.String("connection", l.ID), slog.Any("cause", err))
	}
}

// scopes are what is asked of the connection's server if a user does not choose a part of it.
func (l *link) scopes() []string {
	if len(l.Scopes) > 0 || l.registration == nil {
		return l.Scopes
	}
	return l.registration.Scope
}

// host names the connection's server for people.
func (l *link) host() string {
	issuer := l.Issuer
	if l.registration != nil {
		issuer = l.registration.Issuer
	}
	return hostOf(cmp.Or(l.AuthorizationEndpoint, issuer, l.Resource))
}
