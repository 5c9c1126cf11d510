package handlers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"signet/internal/denylist"
	"signet/internal/gatewayconfig"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/internal/upstream"
	"signet/internal/vault"
	"signet/jwt"
	"signet/users"
)

// ownSubject is the subject of the gateway's own credentials in the vault. No user has it.
const ownSubject = users.GatewayPrefix

// grantExchange is the grant of a connection whose tokens are got by an exchange of the caller's
// own (RFC 8693). They are not kept: what the caller may do decides what they are good for.
const grantExchange = gatewayconfig.GrantExchange

// MissingConnection says that a user has not connected what a server of the gateway needs, or has
// to do it again.
type MissingConnection struct {
	ID       string
	Declined bool // the user was asked, and put it off
}

func (m *MissingConnection) Error() string { return m.refusal().Error() }

// Unwrap returns the answer to a client.
func (m *MissingConnection) Unwrap() error { return m.refusal() }

func (m *MissingConnection) refusal() *oauth.Error {
	return oauth.Errorf(oauth.InteractionRequired, "the user has to connect %s", m.ID)
}

// missingAnswer is the body of the answer to a client.
type missingAnswer struct {
	Error       oauth.Code `json:"error"`
	Description string     `json:"error_description"`
	Connection  string     `json:"connection"`
	Declined    bool       `json:"declined"`
}

func (m *MissingConnection) answer() reply {
	e := m.refusal()
	return reply{e.Status(), missingAnswer{e.Code, e.Description, m.ID, m.Declined}}
}

// link is a connection with the client by which its tokens are got.
type link struct {
	*gatewayconfig.Connection
	client *upstream.Client // nil: users enter a key, or this server has not registered yet
	fault  error            // why nobody can connect it

	registration *seal.Registration   // by which client came to be; nil: the operator has registered it
	version      int64                // of registration
	base         *link                // without the registration
	latest       atomic.Pointer[link] // with the registration, of a base
}

// provider names the connection in the vault. No provider of logins has such an id.
func (l *link) provider() string { return oauth.ConnectionAudience + l.ID }

// bound names what the entry in the vault was made for. A key, and a first refresh token that the
// operator has replaced, make another one.
func (l *link) bound() string {
	switch {
	case l.Key:
		return "key"
	case l.client == nil: // nobody has connected it
		return ""
	case l.RefreshToken != "":
		return hashText(l.client.Bound() + "\n" + string(l.RefreshToken))[:22]
	}
	return l.client.Bound()
}

// links makes the links of connections, and keeps them until the configuration changes.
type links struct {
	mu sync.Mutex
	of map[*gatewayconfig.Connection]*link
}

// link returns the link of a connection, which is one of all. One with a fault is logged when it is
// first met.
func (e *endpoints) link(c *gatewayconfig.Connection, all []*gatewayconfig.Connection) *link {
	s := &e.links
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.of[c]; l != nil {
		return l
	}
	l := &link{Connection: c}
	if !c.Key {
		l.client, l.fault = upstream.NewClient(e.clientOptions(c))
	}
	if l.registers() { // which is to come
		l.fault = nil
	}
	if l.fault != nil {
		e.o.Log.Error("users cannot connect what servers of the gateway need", slog.String("connection", c.ID), slog.Any("cause", l.fault))
	}
	kept := map[*gatewayconfig.Connection]*link{c: l}
	for _, other := range all {
		if known := s.of[other]; known != nil {
			kept[other] = known
		}
	}
	s.of = kept
	return l
}

func (e *endpoints) clientOptions(c *gatewayconfig.Connection) upstream.ClientOptions {
	o := upstream.ClientOptions{
		ID: c.ID, Name: c.Name, Preset: c.Provider, Issuer: c.Issuer, AuthorizationEndpoint: c.AuthorizationEndpoint, TokenEndpoint: c.TokenEndpoint, RevocationEndpoint: c.RevocationEndpoint,
		ClientID: c.ClientID, ClientSecret: string(c.ClientSecret), ClientKey: string(c.ClientKey), Scopes: c.Scopes, Audience: c.Audience,
	}
	if c.ClientID == "" {
		o.Document = e.o.Issuer + clientDocumentPath
	}
	return o
}

// connections are what the gateway's servers need, as the configuration says now.
func (e *endpoints) connections() []*gatewayconfig.Connection {
	if e.o.Connections == nil {
		return nil
	}
	return e.o.Connections()
}

// find returns the link of the first connection that is, or nil.
func (e *endpoints) find(ctx context.Context, is func(*gatewayconfig.Connection) bool) (*link, error) {
	all := e.connections()
	i := slices.IndexFunc(all, is)
	if i < 0 {
		return nil, nil
	}
	l := e.link(all[i], all)
	switch {
	case l.fault != nil:
		return nil, unavailable(l.fault)
	case l.registers():
		return e.registered(ctx, l)
	}
	return l, nil
}

// usersLinks are what users may connect.
func (e *endpoints) usersLinks(ctx context.Context) (list []*link, err error) {
	all := e.connections()
	for _, c := range all {
		if c.Own {
			continue
		}
		l := e.link(c, all)
		if l.registers() {
			if l, err = e.registered(ctx, l); err != nil {
				return nil, err
			}
		}
		if l.fault == nil {
			list = append(list, l)
		}
	}
	return list, nil
}

// linkOf returns the link of a connection, or nil.
func (e *endpoints) linkOf(ctx context.Context, id string) (*link, error) {
	return e.find(ctx, func(c *gatewayconfig.Connection) bool { return c.ID == id })
}

// holder is a user who connects something. Version is the hash of the user's version: what a user
// of an earlier one connected, perhaps another person of the same name, is not this user's. Of a
// user of a provider it is that of the account's identity: who signs out there connects nothing anew.
type holder struct{ subject, version string }

func holderOf(subject, version string) holder {
	if strings.HasPrefix(subject, users.UpstreamPrefix) {
		version = vault.Identity(version)
	}
	return holder{subject, denylist.VersionHash(version)}
}

// connected returns the vault's entry for a connection. It is empty if there is none, or if the
// entry was made for another issuer or client, or by another version of the user: then no request
// may use it. The access token of an entry is empty if the user has put it off.
func (e *endpoints) connected(ctx context.Context, who holder, l *link) (vault.Entry, error) {
	entry, err := e.o.Vault.Get(ctx, who.subject, l.provider())
	switch {
	case errors.Is(err, vault.ErrUnknown), err == nil && (entry.Bound != l.bound() || entry.User != who.version):
		return vault.Entry{}, nil
	case err != nil:
		return vault.Entry{}, unavailable(err)
	}
	return entry, nil
}

// usable reports whether an entry has, or leads to, a token.
func usable(entry vault.Entry, now time.Time) bool {
	return entry.Access != "" && (entry.Refresh != "" || entry.Expires == 0 || now.Unix() < entry.Expires)
}

// errCallerEnded says that the caller has to sign in again.
var errCallerEnded = oauth.Errorf(oauth.InvalidGrant, "the grant of the token has ended: the user has to sign in again")

// ConnectionToken returns what the user of an access token has connected, or the gateway's own
// credential if the connection is one: then claims may be nil, if the gateway asks for itself. If
// stale is not 0, it is the version of a token that a server has refused: then the token is
// refreshed, unless that has happened since. An error that wraps a [MissingConnection] means that
// the user has to connect something; an oauth.Error with the code invalid_grant, that the grant has
// ended. Any other error is no verdict. Expires is zero if it is not known. ConnectionToken is safe
// for concurrent use.
func (h *Handler) ConnectionToken(ctx context.Context, claims *jwt.Claims, connection string, stale int64) (token string, version int64, expires time.Time, err error) {
	entry, err := h.endpoints.connectionEntry(ctx, claims, connection, stale)
	return entry.Access, entry.Version, entryExpires(entry), err
}

// UpstreamCredential is [Handler.UpstreamToken] for a gateway in this process: the token is not
// sealed.
func (h *Handler) UpstreamCredential(ctx context.Context, claims *jwt.Claims, stale int64) (token string, version int64, expires time.Time, err error) {
	entry, err := h.endpoints.upstreamEntry(ctx, claims, stale)
	return entry.Access, entry.Version, entryExpires(entry), err
}

func entryExpires(entry vault.Entry) time.Time {
	if entry.Expires == 0 {
		return time.Time{}
	}
	return time.Unix(entry.Expires, 0)
}

// GatewayToken returns an access token of the user of another one, for an audience. It is of the
// same client and grant, has a part of the scopes, or all if scope is empty, and lives no longer.
// Its act names the actor, a part of this process, after the issuer and a number sign. An
// oauth.Error with the code invalid_grant means that the grant has ended.
func (h *Handler) GatewayToken(ctx context.Context, claims *jwt.Claims, audience string, scope []string, actor string) (token string, expires time.Time, err error) {
	e := h.endpoints
	if _, err := e.callerLives(ctx, claims); err != nil {
		return "", time.Time{}, err
	}
	granted, err := e.narrowed(scope, claims)
	if err != nil {
		return "", time.Time{}, err
	}
	return e.mintFor(claims, audience, granted, actor)
}

// mintFor signs a token for a part of this process that acts for a user.
func (e *endpoints) mintFor(claims *jwt.Claims, audience string, scope []string, actor string) (token string, expires time.Time, err error) {
	wall, err := e.dated(claims.ExpiresAt)
	if err != nil {
		return "", time.Time{}, err
	}
	c := jwt.Claims{
		Issuer: e.o.Issuer, Subject: claims.Subject, Audience: audience, ClientID: claims.ClientID, Scope: oauth.FormatScope(scope),
		IssuedAt: wall.Unix(), ExpiresAt: min(claims.ExpiresAt, wall.Unix()+int64(e.o.Lives.Access/time.Second)), AuthTime: claims.AuthTime, GrantID: claims.GrantID,
		Actor: &jwt.Actor{Subject: e.partOf(actor)},
	}
	token, err = e.o.Signer.Sign(c, wall)
	return token, time.Unix(c.ExpiresAt, 0), err
}

// partOf is the name of a part of this process as an actor. No client id has a fragment, except
// one that an operator chose, and none of those begins with the issuer.
func (e *endpoints) partOf(actor string) string { return e.o.Issuer + "#" + actor }

// callerLives returns the user of an access token, or errCallerEnded if its grant has ended.
func (e *endpoints) callerLives(ctx context.Context, claims *jwt.Claims) (holder, error) {
	if claims.OfClient() { // which has no grant
		return holder{}, nil
	}
	grant, err := e.liveGrant(ctx, claims.GrantID)
	if errors.Is(err, errNotLive) {
		return holder{}, errCallerEnded
	}
	if err != nil || !strings.HasPrefix(claims.Subject, users.UpstreamPrefix) {
		return holder{claims.Subject, grant.UserVersion}, err
	}
	user, err := e.o.Users.Lookup(ctx, claims.Subject)
	switch {
	case errors.Is(err, users.ErrUnknown):
		return holder{}, errCallerEnded
	case err != nil:
		return holder{}, unavailable(err)
	}
	return holderOf(claims.Subject, user.Version), nil
}

// connectionEntry is [Handler.ConnectionToken] for the token as the vault has it.
func (e *endpoints) connectionEntry(ctx context.Context, claims *jwt.Claims, id string, stale int64) (vault.Entry, error) {
	l, err := e.linkOf(ctx, id)
	switch {
	case err != nil:
		return vault.Entry{}, err
	case l == nil:
		return vault.Entry{}, oauth.Errorf(oauth.InvalidTarget, "there is no such connection: %s", id)
	case claims == nil && (!l.Own || l.Grant == grantExchange):
		return vault.Entry{}, oauth.Errorf(oauth.InvalidTarget, "the connection %s is used on behalf of users only", id)
	case claims == nil:
		return e.ownEntry(ctx, l, stale)
	case claims.OfClient() && (!l.Own || l.Grant == grantExchange):
		return vault.Entry{}, oauth.Errorf(oauth.InvalidTarget, "the token is one that a client got for itself: no user has connected %s", id)
	}
	who, err := e.callerLives(ctx, claims)
	if err != nil {
		return vault.Entry{}, err
	}
	switch {
	case l.Own && l.Grant == grantExchange:
		return e.exchangedEntry(ctx, claims, l)
	case l.Own:
		return e.ownEntry(ctx, l, stale)
	}
	return e.userEntry(ctx, who, l, stale)
}

// userEntry returns what a user has connected.
func (e *endpoints) userEntry(ctx context.Context, who holder, l *link, stale int64) (vault.Entry, error) {
	entry, err := e.connected(ctx, who, l)
	if err != nil {
		return vault.Entry{}, err
	}
	now, dead := e.o.Store.Now(), stale != 0 && entry.Version <= stale
	switch {
	case entry.Access == "":
		return vault.Entry{}, &MissingConnection{ID: l.ID, Declined: entry.Version != 0}
	case dead && (l.Key || entry.Refresh == ""): // the user connects anew; other servers may still take this one
		return vault.Entry{}, &MissingConnection{ID: l.ID}
	case l.Key, !dead && !endsSoon(entry, now), !dead && entry.Refresh == "" && usable(entry, now):
		e.noteUse(ctx, entry, now)
		return entry, nil
	}
	entry, err = e.refreshLink(ctx, entry, l, dead, func(ctx context.Context, entry vault.Entry) (upstream.Tokens, error) {
		if entry.Bound != l.bound() || entry.User != who.version {
			return upstream.Tokens{}, errors.New("the tokens were made for another client or issuer, or by another user")
		}
		return l.client.Refresh(ctx, tokensOf(entry.Credential))
	})
	if errors.Is(err, vault.ErrEnded) {
		e.o.Log.LogAttrs(ctx, slog.LevelInfo, "a provider has ended what a user connected: the user has to connect it again", slog.String("connection", l.ID), slog.String("sub", who.subject), slog.Any("cause", err))
		return vault.Entry{}, &MissingConnection{ID: l.ID}
	}
	return entry, err
}

// useNoted is how exactly the account page knows when a connection was used. It bounds the writes.
const useNoted = time.Hour

// noteUse notes that what a user has connected was given out, at most once in useNoted.
func (e *endpoints) noteUse(ctx context.Context, entry vault.Entry, now time.Time) {
	if now.Sub(time.Unix(entry.Used, 0)).Abs() < useNoted {
		return
	}
	if err := e.o.Vault.Use(ctx, entry.Subject, entry.Provider, entry.Version, now.Unix()); err != nil {
		e.o.Log.LogAttrs(ctx, slog.LevelDebug, "the use of a connection could not be noted", slog.String("provider", entry.Provider), slog.Any("cause", err))
	}
}

// ownEntry returns the gateway's own credential.
func (e *endpoints) ownEntry(ctx context.Context, l *link, stale int64) (vault.Entry, error) {
	seen, err := e.o.Vault.Get(ctx, ownSubject, l.provider())
	if errors.Is(err, vault.ErrUnknown) {
		seen, err = e.o.Vault.Add(ctx, seal.Credential{Subject: ownSubject, Provider: l.provider(), Bound: l.bound()})
	}
	if err != nil {
		return vault.Entry{}, unavailable(err)
	}
	none := seen.Access == "" || seen.Bound != l.bound()
	dead := !none && stale != 0 && seen.Version <= stale
	if !none && !dead && !endsSoon(seen, e.o.Store.Now()) {
		return seen, nil
	}
	entry, err := e.refreshLink(ctx, seen, l, none || dead, func(ctx context.Context, entry vault.Entry) (upstream.Tokens, error) {
		return l.forGateway(ctx, entry)
	})
	if errors.Is(err, vault.ErrEnded) {
		return vault.Entry{}, oauth.Errorf(oauth.TemporarilyUnavailable, "the gateway has no credential for %s: its authorization server refuses the grant", l.ID).Because(err)
	}
	return entry, err
}

// forGateway gets a token for the gateway itself.
func (l *link) forGateway(ctx context.Context, entry vault.Entry) (upstream.Tokens, error) {
	if l.Grant == oauth.GrantClientCredentials {
		return l.client.ForItself(ctx)
	}
	tokens := tokensOf(entry.Credential)
	if entry.Bound != l.bound() || tokens.Refresh == "" {
		tokens = upstream.Tokens{Refresh: string(l.RefreshToken), Scope: l.Scopes}
	}
	return l.client.Refresh(ctx, tokens)
}

// exchangedEntry returns a token that the connection's server gave for one of the caller's. It is
// not kept, and its version is 1.
func (e *endpoints) exchangedEntry(ctx context.Context, claims *jwt.Claims, l *link) (vault.Entry, error) {
	audience, err := l.client.Audience(ctx)
	if err != nil {
		return vault.Entry{}, l.down(err)
	}
	subject, _, err := e.mintFor(claims, audience, claims.Scopes(), grantExchange)
	if err != nil {
		return vault.Entry{}, err
	}
	tokens, err := l.client.Exchange(ctx, subject)
	if err != nil {
		return vault.Entry{}, l.down(err)
	}
	return vault.Entry{Credential: l.credential(claims.Subject, tokens), Version: 1}, nil
}

// down is the answer if the connection's server gives no token, which is no verdict on the caller.
func (l *link) down(err error) error { return unavailable(fmt.Errorf("connection %s: %w", l.ID, err)) }

func (l *link) credential(subject string, t upstream.Tokens) seal.Credential {
	return seal.Credential{Subject: subject, Provider: l.provider(), Bound: l.bound(), Access: t.Access, Refresh: t.Refresh, Scope: t.Scope, Obtained: t.Obtained, Expires: t.Expires}
}

// refreshLink gets newer tokens for an entry of which the caller has seen a version. Over all
// servers and requests the provider is asked once. Its answer is committed even if the client has
// gone. The error wraps [vault.ErrEnded] if the provider refuses for good; then the entry is gone.
// Limited says that the call counts against the limit of calls without a token of use.
func (e *endpoints) refreshLink(ctx context.Context, seen vault.Entry, l *link, limited bool, get func(context.Context, vault.Entry) (upstream.Tokens, error)) (vault.Entry, error) {
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), providerTimeout)
	defer cancel()
	entry, err := e.o.Vault.Refresh(work, seen.Subject, seen.Provider, seen.Version, func(ctx context.Context, entry vault.Entry) (seal.Credential, error) {
		if limited {
			if err := e.limits.upstream.take(seen.Subject + " " + l.provider()); err != nil {
				return seal.Credential{}, err
			}
		}
		tokens, err := get(ctx, entry)
		e.countConnection(l, err)
		e.forgetClient(ctx, l, err)
		if errors.Is(err, upstream.ErrRefused) || errors.Is(err, upstream.ErrNoRefresh) {
			return seal.Credential{}, fmt.Errorf("%w: %w", vault.ErrEnded, err)
		}
		c := l.credential(entry.Subject, tokens)
		c.Since, c.User, c.Used = entry.Since, entry.User, e.o.Store.Now().Unix()
		return c, err
	})
	var limit *limitError
	switch {
	case errors.Is(err, vault.ErrEnded), errors.Is(err, vault.ErrUnknown):
		if entry.Access != "" { // the user has disconnected meanwhile, and nobody needs these
			e.revokeAt(work, l, entry)
		}
		return vault.Entry{}, fmt.Errorf("%w: %w", vault.ErrEnded, err)
	case errors.As(err, &limit):
		return vault.Entry{}, err
	case err != nil:
		return vault.Entry{}, l.down(err)
	}
	return entry, nil
}

// countConnection counts a request to the provider of a connection by its outcome.
func (e *endpoints) countConnection(l *link, err error) {
	e.o.CountConnection(l.ID, refreshOutcome(err))
}

// revokeAt revokes tokens at their provider, unless they were made for another one.
func (e *endpoints) revokeAt(ctx context.Context, l *link, entry vault.Entry) {
	if l.client == nil || entry.Access == "" || entry.Bound != l.bound() {
		return
	}
	if err := l.client.Revoke(ctx, tokensOf(entry.Credential)); err != nil {
		e.o.Log.LogAttrs(ctx, slog.LevelWarn, "tokens could not be revoked at the provider: they live until they expire", slog.String("connection", l.ID), slog.String("sub", entry.Subject), slog.Any("cause", err))
	}
}

// lacks returns the connections that a user has neither made nor put off. For the connections of
// one configuration it reads as many rows.
func (e *endpoints) lacks(ctx context.Context, who holder) (list []*link, err error) {
	all, err := e.usersLinks(ctx)
	if err != nil {
		return nil, err
	}
	for _, l := range all {
		if len(l.Servers) == 0 {
			continue
		}
		entry, err := e.connected(ctx, who, l)
		if err != nil {
			return nil, err
		}
		putOff := entry.Version != 0 && entry.Access == ""
		if !putOff && !usable(entry, e.o.Store.Now()) {
			list = append(list, l)
		}
	}
	return list, nil
}

// putOff remembers that a user does not want to connect something now: it is not offered again at
// a login.
func (e *endpoints) putOff(ctx context.Context, who holder, l *link) error {
	none := seal.Credential{Subject: who.subject, Provider: l.provider(), Bound: l.bound(), User: who.version}
	entry, err := e.o.Vault.Add(ctx, none)
	if err == nil && (entry.Bound != none.Bound || entry.User != none.User || !usable(entry, e.o.Store.Now())) {
		if _, err = e.o.Vault.Put(ctx, none); err == nil {
			e.revokeAt(context.WithoutCancel(ctx), l, entry) // nobody can use it any longer
		}
	}
	if err != nil {
		return unavailable(err)
	}
	return nil
}

// maxKey is the longest key that a user may enter, in bytes.
const maxKey = 4096

// keepKey keeps the key that a user has entered.
func (e *endpoints) keepKey(ctx context.Context, who holder, l *link, key string) error {
	key = strings.TrimSpace(key)
	if key == "" || len(key) > maxKey || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errBadKey
	}
	now := e.o.Store.Now().Unix()
	if _, err := e.o.Vault.Put(ctx, seal.Credential{Subject: who.subject, Provider: l.provider(), Bound: l.bound(), Access: key, Obtained: now, Since: now, User: who.version}); err != nil {
		return unavailable(err)
	}
	e.connectionChanged(who.subject, l)
	return nil
}

func (e *endpoints) connectionChanged(subject string, l *link) {
	if e.o.ConnectionChanged != nil {
		e.o.ConnectionChanged(subject, l.ID)
	}
}

var errBadKey = oauth.Errorf(oauth.InvalidRequest, "the key must be 1 to %d printable ASCII characters without spaces", maxKey)

// disconnectLink takes what a user has connected, and has it revoked at its provider.
func (e *endpoints) disconnectLink(r *http.Request, who signedIn, id string) error {
	l, err := e.linkOf(r.Context(), id)
	if err != nil || l == nil || l.Own {
		return errors.Join(err, errNoConnection)
	}
	slot, err := e.enterUpstream(r, who.user.Subject)
	if err != nil {
		return err
	}
	defer slot.Leave()
	entry, err := e.o.Vault.Take(r.Context(), who.user.Subject, l.provider())
	switch {
	case errors.Is(err, vault.ErrUnknown):
		return nil
	case err != nil:
		return unavailable(err)
	}
	e.connectionChanged(who.user.Subject, l)
	e.audit(r, event{name: "disconnect", subject: who.user.Subject, reason: l.ID}, nil)
	e.revokeAt(context.WithoutCancel(r.Context()), l, entry)
	return nil
}

// EndConnection deletes what a user had connected, by the names that the vault has for both, if there
// is no such user any more, or a later one of the name; then nobody can use it. It is revoked at its
// provider.
func (h *Handler) EndConnection(ctx context.Context, subject, provider string) error {
	return h.endpoints.endConnection(ctx, subject, provider)
}

func (e *endpoints) endConnection(ctx context.Context, subject, provider string) error {
	id, ok := strings.CutPrefix(provider, oauth.ConnectionAudience)
	if !ok || subject == ownSubject {
		return nil
	}
	user, err := e.o.Users.Lookup(ctx, subject)
	gone := errors.Is(err, users.ErrUnknown)
	if err != nil && !gone {
		return err
	}
	entry, err := e.o.Vault.Get(ctx, subject, provider)
	if err == nil && (gone || entry.User != holderOf(subject, user.Version).version) {
		entry, err = e.o.Vault.Take(ctx, subject, provider)
	} else if err == nil {
		return nil
	}
	switch {
	case errors.Is(err, vault.ErrUnknown):
		return nil
	case err != nil:
		return err
	}
	e.o.Log.LogAttrs(ctx, slog.LevelInfo, "what a user had connected was deleted: the user was changed or removed", slog.String("connection", id), slog.String("sub", subject))
	l, err := e.linkOf(ctx, id)
	if err != nil || l == nil {
		return err
	}
	e.revokeAt(ctx, l, entry)
	return nil
}

var errNoConnection = oauth.Errorf(oauth.InvalidRequest, "there is no such connection")
