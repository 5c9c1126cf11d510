package handlers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"signet/internal/denylist"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/internal/upstream"
	"signet/internal/vault"
	"signet/jwt"
)

// maxClaim is the longest sealed upstream token, in characters, that an access token contains. A
// longer one stays in the vault.
const maxClaim = 2560

func credential(subject string, p *upstream.Provider, t upstream.Tokens) seal.Credential {
	return seal.Credential{Subject: subject, Provider: p.ID(), Bound: p.Bound(), Access: t.Access, Refresh: t.Refresh, Scope: t.Scope, Obtained: t.Obtained, Expires: t.Expires}
}

func tokensOf(c seal.Credential) upstream.Tokens {
	return upstream.Tokens{Access: c.Access, Refresh: c.Refresh, Scope: c.Scope, Obtained: c.Obtained, Expires: c.Expires}
}

// held is what the vault has for the user of a token request. The zero value is that of a user who
// did not sign in at a provider.
type held struct {
	provider string      // id
	entry    vault.Entry // empty: nothing of use
	err      error       // the request's answer, if it passes all other checks
}

type heldKey struct{}

// heldOf returns what [endpoints.withUpstream] has found, or its error.
func heldOf(ctx context.Context) (held, error) {
	h, _ := ctx.Value(heldKey{}).(held)
	return h, h.err
}

// withUpstream returns the context of a token request, with the upstream token of its user, which
// is refreshed if it ends soon. That happens before the request takes a slot, because the
// provider may be slow; and before the code or handle is spent, because a provider that is down
// must not cost the client its handle.
func (e *endpoints) withUpstream(r *http.Request) context.Context {
	ctx := r.Context()
	subject := e.subjectOf(r)
	id := providerOf(subject)
	if id == "" {
		return ctx
	}
	h := held{provider: id}
	if p := e.provider(id); p == nil {
		h.err = oauth.Errorf(oauth.InvalidGrant, "the user's way to sign in is no longer offered")
	} else {
		h.entry, h.err = e.current(r, subject, p)
	}
	return context.WithValue(ctx, heldKey{}, h)
}

// subjectOf is the subject of the code or handle in a token request, or "".
func (e *endpoints) subjectOf(r *http.Request) string {
	switch r.PostForm.Get("grant_type") {
	case oauth.GrantAuthorizationCode:
		code, _ := seal.Open[seal.Code](e.o.Ring, r.PostForm.Get("code"))
		return code.Grant.Subject
	case oauth.GrantRefreshToken:
		handle, _ := seal.Open[seal.Refresh](e.o.Ring, r.PostForm.Get("refresh_token"))
		return handle.Grant.Subject
	}
	return ""
}

// current returns a user's upstream token. If it ends soon, it is refreshed first; if that is not
// possible, there is none.
func (e *endpoints) current(r *http.Request, subject string, p *upstream.Provider) (vault.Entry, error) {
	entry, err := e.entry(r.Context(), subject, p)
	if err != nil || !endsSoon(entry, e.o.Store.Now()) {
		return entry, err
	}
	if entry.Refresh == "" {
		return vault.Entry{}, nil
	}
	slot, err := e.enterUpstream(r, subject)
	if err != nil {
		return vault.Entry{}, err
	}
	defer slot.Leave()
	return e.renew(r.Context(), entry, p)
}

// entry returns the vault's entry of a user. It is empty if there is none, or if the entry was
// made for another issuer or client of the provider: then no request may use it.
func (e *endpoints) entry(ctx context.Context, subject string, p *upstream.Provider) (vault.Entry, error) {
	entry, err := e.o.Vault.Get(ctx, subject, p.ID())
	switch {
	case errors.Is(err, vault.ErrUnknown), err == nil && entry.Bound != p.Bound():
		return vault.Entry{}, nil
	case err != nil:
		return vault.Entry{}, unavailable(err)
	}
	return entry, nil
}

// endsSoon reports whether an upstream token is not worth being given to a client: it ends within
// half a minute, or within a fifth of its life if that is less.
func endsSoon(entry vault.Entry, now time.Time) bool {
	if entry.Expires == 0 {
		return false
	}
	margin := max(1, min(30, (entry.Expires-entry.Obtained)/5))
	return entry.Expires-now.Unix() <= margin
}

// renew refreshes a user's upstream token, of which the caller has seen a version. Over all
// servers and requests the provider is asked once. Its answer is committed even if the client
// has gone: it may be the only copy of a new refresh token.
//
// If the provider refuses, the user's grants end. If there is no way to refresh, the entry is
// empty.
func (e *endpoints) renew(ctx context.Context, seen vault.Entry, p *upstream.Provider) (vault.Entry, error) {
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), providerTimeout)
	defer cancel()
	entry, err := e.o.Vault.Refresh(work, seen.Subject, seen.Provider, seen.Version, func(ctx context.Context, entry vault.Entry) (seal.Credential, error) {
		if entry.Bound != p.Bound() {
			return seal.Credential{}, errors.New("the tokens were made for another client or issuer")
		}
		tokens, err := p.Refresh(ctx, tokensOf(entry.Credential))
		e.countRefresh(err)
		switch {
		case errors.Is(err, upstream.ErrRefused):
			return seal.Credential{}, fmt.Errorf("%w: %w", vault.ErrEnded, err)
		case err != nil:
			return seal.Credential{}, err
		}
		return credential(entry.Subject, p, tokens), nil
	})
	switch {
	case errors.Is(err, vault.ErrEnded), errors.Is(err, vault.ErrUnknown):
		e.o.Log.LogAttrs(ctx, slog.LevelWarn, "the upstream has ended a user's tokens: the user has to sign in again", slog.String("upstream", p.ID()), slog.String("sub", seen.Subject), slog.Any("cause", err))
		if entry.Access != "" { // the tokens were taken meanwhile: these replace them, and nobody needs them
			if err := p.Revoke(work, tokensOf(entry.Credential)); err != nil {
				e.o.Log.LogAttrs(ctx, slog.LevelWarn, "tokens could not be revoked at the upstream: they live until they expire", slog.String("upstream", p.ID()), slog.String("sub", seen.Subject), slog.Any("cause", err))
			}
		}
		if _, err := e.o.Denylist.RevokeAll(work, seen.Subject, e.o.Store.Now()); err != nil {
			return vault.Entry{}, unavailable(err)
		}
		return vault.Entry{}, errUpstreamEnded
	case errors.Is(err, upstream.ErrNoRefresh): // no way to refresh is configured
		return vault.Entry{}, nil
	case err != nil:
		return vault.Entry{}, unavailable(fmt.Errorf("upstream %s: %w", p.ID(), err))
	}
	return entry, nil
}

// countRefresh counts a request to a provider by its outcome.
func (e *endpoints) countRefresh(err error) {
	e.o.Count("upstream_refresh", refreshOutcome(err))
}

// refreshOutcome names the outcome of a request to a provider in metrics.
func refreshOutcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, upstream.ErrRefused):
		return "refused"
	}
	return "failed"
}

var errUpstreamEnded = oauth.Errorf(oauth.InvalidGrant, "the upstream has ended the user's login: the user has to sign in again")

// settle has the upstream's tokens of a user revoked there, if the user has no grant any more.
func (e *endpoints) settle(subject string) {
	if providerOf(subject) != "" {
		e.o.Settle(subject)
	}
}

// settleUnlessBack is settle after a client has ended a grant. A user who has signed in since it was
// given, no longer ago than a code lives, may be on the way back to that client, which has no new
// grant until it redeems the code: then the tokens stay for now.
func (e *endpoints) settleUnlessBack(ctx context.Context, grant denylist.Grant, now time.Time) {
	if providerOf(grant.Subject) == "" {
		return
	}
	account, err := e.o.Vault.Account(ctx, grant.Subject)
	if err == nil && account.Seen > grant.Created && now.Before(time.Unix(account.Seen+1, 0).Add(e.o.Lives.Code)) {
		return
	}
	e.settle(grant.Subject)
}

// claim returns the claim of an access token with the user's upstream token, or "" if the user did
// not sign in at a provider. A claim without a token says that the issuer has it, or that only a
// new login brings one: a tool that needs the token asks, and learns it.
func (e *endpoints) claim(ctx context.Context, h held, grantID string) (string, error) {
	if h.provider == "" {
		return "", nil
	}
	u := upstreamToken(h.entry, grantID)
	u.Provider = h.provider
	sealed, err := seal.Seal(e.o.Ring, u)
	if err != nil || len(sealed) <= maxClaim {
		return sealed, err
	}
	e.large.tell(ctx, e.o.Log, u.Provider)
	u.Access, u.Large = "", true
	return seal.Seal(e.o.Ring, u)
}

func upstreamToken(entry vault.Entry, grantID string) seal.Upstream {
	return seal.Upstream{GrantID: grantID, Provider: entry.Provider, Version: entry.Version, Access: entry.Access, Expires: entry.Expires}
}

// largeTokens tells the operator once for each provider that its tokens are large.
type largeTokens struct{ told sync.Map }

func (l *largeTokens) tell(ctx context.Context, log *slog.Logger, provider string) {
	if _, told := l.told.LoadOrStore(provider, true); !told {
		log.LogAttrs(ctx, slog.LevelWarn, "the tokens of an upstream are too long to travel in access tokens: MCP servers ask the issuer for them", slog.String("upstream", provider))
	}
}

// UpstreamToken returns the upstream token of the user of an access token, sealed for the
// [seal.UpstreamKeys]. If stale is not 0, it is the version of a token that the upstream has
// refused: then the token is refreshed, unless that has happened since. An oauth.Error with the
// code invalid_grant means that the grant has ended; any other error is no verdict.
func (h *Handler) UpstreamToken(ctx context.Context, claims *jwt.Claims, stale int64) (sealed string, err error) {
	return h.endpoints.upstreamToken(ctx, claims, stale)
}

func (e *endpoints) upstreamToken(ctx context.Context, claims *jwt.Claims, stale int64) (string, error) {
	entry, err := e.upstreamEntry(ctx, claims, stale)
	if err != nil {
		return "", err
	}
	return seal.Seal(e.o.Ring, upstreamToken(entry, claims.GrantID))
}

// upstreamEntry is [Handler.UpstreamToken] for the token as the vault has it.
func (e *endpoints) upstreamEntry(ctx context.Context, claims *jwt.Claims, stale int64) (vault.Entry, error) {
	p := e.provider(providerOf(claims.Subject))
	if p == nil {
		return vault.Entry{}, oauth.Errorf(oauth.InvalidRequest, "the user did not sign in by an upstream that is configured")
	}
	grant, err := e.liveGrant(ctx, claims.GrantID)
	if errors.Is(err, errNotLive) {
		return vault.Entry{}, errUpstreamEnded
	}
	if err != nil {
		return vault.Entry{}, err
	}
	entry, err := e.entry(ctx, claims.Subject, p)
	if err != nil {
		return vault.Entry{}, err
	}
	if dead := stale != 0 && entry.Version <= stale; dead || endsSoon(entry, e.o.Store.Now()) {
		if entry, err = e.replace(ctx, grant, entry, p, dead); err != nil {
			return vault.Entry{}, err
		}
	}
	if entry.Access == "" {
		return vault.Entry{}, e.endWithout(ctx, grant)
	}
	return entry, nil
}

// replace returns a newer upstream token. dead says that the upstream refuses the one there is.
func (e *endpoints) replace(ctx context.Context, grant denylist.Grant, entry vault.Entry, p *upstream.Provider, dead bool) (vault.Entry, error) {
	if entry.Refresh == "" {
		return vault.Entry{}, nil
	}
	if dead {
		if err := e.limits.upstream.take(grant.Subject); err != nil {
			return vault.Entry{}, err
		}
	}
	return e.renew(ctx, entry, p)
}

// endWithout ends a grant whose upstream token is of no use and cannot be refreshed: only a new
// login brings another one.
func (e *endpoints) endWithout(ctx context.Context, grant denylist.Grant) error {
	if err := e.o.Denylist.Revoke(ctx, grant, e.o.Store.Now()); err != nil {
		return unavailable(err)
	}
	return errUpstreamEnded
}

// upstreamAnswer is the answer of the endpoint for MCP servers.
type upstreamAnswer struct {
	Upstream string `json:"upstream"`
}

// upstreamEndpoint serves the upstream tokens of callers to MCP servers. The request has the
// caller's access token, and a proof that the server has the key which opens the answer: a client
// that has the token alone learns nothing, and changes nothing.
func (e *endpoints) upstreamEndpoint(r *http.Request) (any, error) {
	claims, err := e.bearer(r)
	if err != nil {
		return nil, err
	}
	raw, _, err := oauth.Bearer(r.Header["Authorization"])
	if err != nil {
		return nil, err
	}
	text, proof := r.PostForm.Get("stale"), r.PostForm.Get("proof")
	message := "stale=" + text + "\n" + raw
	if !e.o.Ring.ProvesUpstream(message, proof) {
		return nil, oauth.Errorf(oauth.AccessDenied, "the proof is not one of this server's upstream key").WithStatus(http.StatusForbidden)
	}
	stale, err := strconv.ParseInt(cmp.Or(text, "0"), 10, 64)
	if err != nil || stale < 0 {
		return nil, oauth.Errorf(oauth.InvalidRequest, "stale must be the version of an upstream token")
	}
	slot, err := e.enterUpstream(r, claims.Subject)
	if err != nil {
		return nil, err
	}
	defer slot.Leave()
	entry, err := e.upstreamEntry(r.Context(), claims, stale)
	if err != nil {
		return nil, err
	}
	sealed, err := e.o.Ring.SealUpstream(upstreamToken(entry, claims.GrantID), message, proof)
	if err != nil {
		return nil, err
	}
	return upstreamAnswer{sealed}, nil
}
