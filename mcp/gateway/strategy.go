package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"signet/internal/backend"
	"signet/internal/gatewayconfig"
	"signet/internal/oauth"
)

// strategies get the headers by which servers know callers. What the issuer gave for them is kept
// until it expires.
type strategies struct {
	issuer    Issuer
	issuerURL string
	custom    map[string]Strategy
	log       *slog.Logger
	known     *credentials
}

// Server is an MCP server behind the gateway, as the configuration describes it.
type Server = gatewayconfig.Server

// ForServer, before the id of a server, is the name of a strategy in [Options.Strategies] whose
// headers are added to those of the server's configured strategy.
const ForServer = "server:"

// newStrategies returns the strategies for servers. Those of the program are in custom, by the name
// that a server's configuration gives, or by [ForServer] and the id of a server.
func newStrategies(issuer Issuer, issuerURL string, custom map[string]Strategy, log *slog.Logger) *strategies {
	return &strategies{issuer: issuer, issuerURL: issuerURL, custom: maps.Clone(custom), log: log, known: newCredentials()}
}

// forget drops all credentials. A server of a new configuration never gets one of an old
// configuration, also without this.
func (s *strategies) forget() { s.known.clear() }

// changed drops the credentials of a user that came from a connection.
func (s *strategies) changed(subject, connection string) {
	s.known.drop(func(e *credential) bool {
		c := e.key.server.Connection
		return e.subject == subject && c != nil && c.ID == connection
	})
}

// ConnectionChanged says that a user has connected something else, or has disconnected it: what the
// gateway had of it is no longer used. Without this, that is noticed within a minute.
func (g *Gateway) ConnectionChanged(subject, connection string) {
	g.strategies.changed(subject, connection)
}

// knows reports whether there is a strategy for server.
func (s *strategies) knows(server *gatewayconfig.Server) bool {
	switch server.Strategy {
	case gatewayconfig.MasterOAuth, gatewayconfig.DelegateOAuth, gatewayconfig.ProxyOAuth, gatewayconfig.Upstream, gatewayconfig.UserKey, gatewayconfig.Bypass:
		return true
	}
	return s.custom[server.Strategy] != nil
}

// renews reports whether another credential may be had after server has refused one.
func (s *strategies) renews(server *gatewayconfig.Server) bool {
	switch server.Strategy {
	case gatewayconfig.Bypass:
		return s.custom[ForServer+server.ID] != nil
	case gatewayconfig.MasterOAuth:
		return !server.Passthrough
	case gatewayconfig.ProxyOAuth:
		return server.Token == "" && server.Connection != nil
	}
	return true
}

// headers returns the headers by which server knows the caller. The error is a *[Missing], wraps
// [ErrEnded], or is a *[backend.Error] whose text may be shown; any other error is no verdict.
//
// Refused says that the server has just refused the caller's credential. Then the issuer is asked
// for another one, unless it has just given one. A caller whose new credential is refused too
// does not ask again. The claims of the caller are nil for what the gateway does without one.
func (s *strategies) headers(ctx context.Context, caller Caller, server *gatewayconfig.Server, refused bool) (http.Header, error) {
	if refused && !s.renews(server) {
		return nil, refusedBy(server)
	}
	h, err := s.configured(ctx, caller, server, refused)
	if err != nil {
		return nil, err
	}
	more := s.custom[ForServer+server.ID]
	if more == nil {
		return h, nil
	}
	added, err := more(ctx, caller, server, refused)
	if err != nil {
		return nil, err
	}
	if h == nil {
		h = http.Header{}
	}
	for name, values := range added {
		h[http.CanonicalHeaderKey(name)] = values
	}
	return h, nil
}

// configured returns the headers of the strategy that the configuration names.
func (s *strategies) configured(ctx context.Context, caller Caller, server *gatewayconfig.Server, refused bool) (http.Header, error) {
	switch server.Strategy {
	case gatewayconfig.Bypass:
		return http.Header{}, nil
	case gatewayconfig.ProxyOAuth:
		return s.own(ctx, caller, server, refused)
	}
	if own := s.custom[server.Strategy]; own != nil {
		return own(ctx, caller, server, refused)
	}
	if caller.Claims == nil {
		return nil, &backend.Error{Server: server.ID, Kind: backend.Unauthorized, What: "it is used on behalf of callers only"}
	}
	switch server.Strategy {
	case gatewayconfig.MasterOAuth:
		return s.minted(ctx, caller, server, refused)
	case gatewayconfig.DelegateOAuth, gatewayconfig.UserKey:
		return s.connected(ctx, caller, server, refused)
	case gatewayconfig.Upstream:
		return s.upstream(ctx, caller, server, refused)
	}
	return nil, fmt.Errorf("server %s: there is no strategy %q", server.ID, server.Strategy)
}

// minted is the strategy master_oauth: an access token for the server's audience.
func (s *strategies) minted(ctx context.Context, caller Caller, server *gatewayconfig.Server, refused bool) (http.Header, error) {
	if server.Passthrough {
		return credentialHeader(server, caller.Token)
	}
	scope, err := tokenScope(caller, server)
	if err != nil {
		return nil, err
	}
	return s.get(ctx, question{
		key:    credentialKey{server: server, grant: caller.Claims.GrantID, scope: caller.Claims.Scope},
		caller: caller, refused: refused,
		fetch: func(ctx context.Context, _ int64) (Credential, error) {
			return s.issuer.ForAudience(ctx, caller, server.Audience, scope)
		},
	})
}

// tokenScope returns the scopes of the token for server; none means all of the caller's.
func tokenScope(caller Caller, server *gatewayconfig.Server) ([]string, error) {
	listed := server.TokenScopes
	if listed == nil {
		listed = server.Scopes
	}
	if len(listed) == 0 {
		return nil, nil
	}
	var scope []string
	granted := caller.Granted
	if granted == nil {
		granted = caller.Claims.Scopes()
	}
	for _, name := range granted {
		if slices.Contains(listed, name) {
			scope = append(scope, name)
		}
	}
	if len(scope) == 0 {
		return nil, &backend.Error{Server: server.ID, Kind: backend.Unauthorized, What: "the access token has none of the scopes that this server is sent: " + oauth.FormatScope(listed)}
	}
	return scope, nil
}

// connected is the strategies delegate_oauth and user_key: what the user has connected.
func (s *strategies) connected(ctx context.Context, caller Caller, server *gatewayconfig.Server, refused bool) (http.Header, error) {
	if server.Connection == nil {
		return nil, fmt.Errorf("server %s has no connection", server.ID)
	}
	return s.get(ctx, question{
		key:    credentialKey{server: server, grant: caller.Claims.GrantID},
		caller: caller, refused: refused, checked: true,
		fetch: s.ofConnection(caller, server.Connection.ID),
	})
}

func (s *strategies) ofConnection(caller Caller, id string) func(context.Context, int64) (Credential, error) {
	return func(ctx context.Context, stale int64) (Credential, error) {
		return s.issuer.OfConnection(ctx, caller, id, stale)
	}
}

// upstream is the strategy of that name: the user's token at the upstream of the login.
func (s *strategies) upstream(ctx context.Context, caller Caller, server *gatewayconfig.Server, refused bool) (http.Header, error) {
	if upstreamOf(caller) == "" {
		return nil, &backend.Error{Server: server.ID, Kind: backend.Unauthorized, What: "it is for users who sign in by an upstream"}
	}
	return s.get(ctx, question{
		key:    credentialKey{server: server, grant: caller.Claims.GrantID},
		caller: caller, refused: refused, checked: true,
		fetch: func(ctx context.Context, stale int64) (Credential, error) {
			return s.issuer.OfUpstream(ctx, caller, stale)
		},
	})
}

// upstreamOf returns the id of the upstream by which the caller signed in, or nothing.
func upstreamOf(caller Caller) string {
	id, ok := strings.CutPrefix(caller.Claims.Subject, oauth.UpstreamAudience)
	if !ok {
		return ""
	}
	id, _, _ = strings.Cut(id, ":")
	return id
}

// own is the strategy proxy_oauth: a credential of the gateway's own. It is the same for all
// callers, unless it is got in exchange for each caller's token.
func (s *strategies) own(ctx context.Context, caller Caller, server *gatewayconfig.Server, refused bool) (http.Header, error) {
	if server.Token != "" {
		return credentialHeader(server, string(server.Token))
	}
	if server.Connection == nil {
		return s.fallback(caller, server)
	}
	key := credentialKey{server: server}
	if server.Connection.Grant == gatewayconfig.GrantExchange && caller.Claims != nil {
		key.grant = caller.Claims.GrantID
	}
	h, err := s.get(ctx, question{key: key, caller: caller, refused: refused, checked: true, fetch: s.ofConnection(caller, server.Connection.ID)})
	var missing *Missing
	if errors.As(err, &missing) {
		return s.fallback(caller, server)
	}
	return h, err
}

// fallback returns the caller's token if the configuration says so by name.
func (s *strategies) fallback(caller Caller, server *gatewayconfig.Server) (http.Header, error) {
	if server.Fallback && caller.Token != "" {
		return credentialHeader(server, caller.Token)
	}
	return nil, &backend.Error{Server: server.ID, Kind: backend.Unauthorized, What: "the gateway has no credential for it"}
}

// get returns the header with a credential of the issuer's.
func (s *strategies) get(ctx context.Context, q question) (http.Header, error) {
	c, err := s.known.get(ctx, q)
	if err != nil {
		return nil, err
	}
	return credentialHeader(q.key.server, c.Token)
}

// credentialHeader returns the header in which server expects a credential.
func credentialHeader(server *gatewayconfig.Server, text string) (http.Header, error) {
	name, scheme := server.Header, server.Scheme
	if name == "" {
		name, scheme = "Authorization", cmp.Or(scheme, "Bearer ")
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) || text == "" {
		return nil, &backend.Error{Server: server.ID, Kind: backend.Unauthorized, What: "its credential is empty or has characters that a header cannot have"}
	}
	return http.Header{http.CanonicalHeaderKey(name): {scheme + text}}, nil
}

func refusedBy(server *gatewayconfig.Server) error {
	return &backend.Error{Server: server.ID, Kind: backend.Unauthorized, What: "it refuses the credential that it is sent", Status: http.StatusUnauthorized}
}

const (
	connectEvery = time.Second      // between two questions whether a user has connected
	connectWait  = 45 * time.Second // for a user who follows a link
)

// await returns what headers returns once the user, who has a link to the page for it, has
// connected what server needs. After a time without that, the error is a *[Missing]. The headers
// that server has just refused do not count: the issuer has them until the user is back.
func (s *strategies) await(ctx context.Context, caller Caller, server *gatewayconfig.Server) (http.Header, error) {
	sent, _ := ctx.Value(sentKey{}).(http.Header)
	var missing *Missing
	end := time.After(connectWait)
	ticks := time.NewTicker(connectEvery)
	defer ticks.Stop()
	for {
		h, err := s.headers(ctx, caller, server, sent != nil)
		known := err == nil && sent != nil && maps.EqualFunc(h, sent, slices.Equal)
		if !known && !errors.As(err, &missing) {
			return h, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-end:
			if missing == nil {
				return nil, refusedBy(server)
			}
			return nil, missing
		case <-ticks.C:
		}
	}
}
