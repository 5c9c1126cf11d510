package server

import (
	"context"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"signet/handlers"
	"signet/internal/denylist"
	"signet/internal/seal"
	"signet/internal/vault"
	"signet/jwt"
	"signet/mcp"
	"signet/users"
)

// AskAgain sets how long after a start the issuer is asked again.
func (o *Options) AskAgain(d time.Duration) { o.askAgain = d }

// Alone makes the server not ask its issuer: a demo on this machine may have the issuer of
// the tests.
func (o Options) Alone() Options {
	o.alone = true
	return o
}

// CheckMemory is the check of the start, in another file system.
func CheckMemory(root fs.FS, hashes users.Stats) error { return checkMemory(root, hashes) }

// Callers returns a function that finds the addresses of callers behind trusted proxies.
func Callers(log *slog.Logger, trusted ...netip.Prefix) func(*http.Request) (address netip.Addr, own bool) {
	return newAddresses(trusted, log).of
}

// Connections returns the hook for the states of at most so many connections, of which those
// of proxies have no bound of their own, and how many are open.
func Connections(most int, proxies ...netip.Prefix) (change func(net.Conn, http.ConnState), count func() int) {
	cs := newConnections(most, newAddresses(proxies, slog.New(slog.DiscardHandler)).trusts)
	return cs.changed, cs.count
}

// UpstreamOfIssuer returns the source of a process of role mcp, with keys or without.
func UpstreamOfIssuer(issuer string, keys *seal.UpstreamKeys, log *slog.Logger) mcp.UpstreamSource {
	return &upstreamSource{open: openWith(keys), renew: newUpstreamIssuer(issuer, keys).renew, provider: func(id string) mcp.UpstreamProvider { return describe(nil, id) }, log: log}
}

// UpstreamOfRing returns the source of a process that has the root secret, whose authorization
// server answers with token.
func UpstreamOfRing(ring *seal.Keyring, token func(context.Context, *jwt.Claims, int64) (string, error)) mcp.UpstreamSource {
	return &upstreamSource{open: openByRing(ring), renew: ofOwnIssuer(token), provider: func(id string) mcp.UpstreamProvider { return describe(nil, id) }, log: slog.New(slog.DiscardHandler)}
}

// Operators returns the handler of metrics and pprof on a listener, after some events, each
// with its outcome.
func Operators(listen string, events ...[2]string) http.Handler {
	m := newMetrics()
	for _, e := range events {
		m.count(e[0], e[1])
	}
	return m.handler(listen, http.HandlerFunc(noGateway))
}

// Operators returns what the listener for operators serves.
func (s *Server) Operators() http.Handler { return s.operators() }

// Observe counts a message to a server behind the gateway, and a refresh of a connection.
func (s *Server) Observe(server, outcome, connection, refresh string) {
	s.metrics.observeServer(server, outcome, time.Second)
	s.metrics.countConnection(connection, refresh)
}

// EndChanged ends the grants of changed users in a denylist. The versions of the users are
// those of source.
func EndChanged(ctx context.Context, list *denylist.List, source handlers.Users, changed map[string]bool) error {
	s := &Server{o: Options{Log: slog.New(slog.DiscardHandler)}, denylist: list, users: &accounts{file: source}}
	return s.endChanged(ctx, changed)
}

// Vault returns the vault of a server.
func (s *Server) Vault() *vault.Vault { return s.vault }

// Users returns the users of all sources of a server.
func (s *Server) Users() *accounts { return s.users }

// ReadNoStore makes every read of the vault fail the test.
func (s *Server) ReadNoStore() { s.users.vault = nil }

// Used has the server believe that a request with a credential has come.
func (s *Server) Used() { s.classes.MCP.Known() }
