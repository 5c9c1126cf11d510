// Package server puts the parts together: the authorization server, the MCP endpoint, or
// both in one process. `signet serve` runs it, and a Go program that can check users
// imports it and gets the rest.
//
//	srv, err := server.New(server.Options{App: "my-app", Check: check})
//	...
//	sdk.AddTool(srv.MCP, &sdk.Tool{Name: "echo"}, echo)
//	err = srv.ListenAndServe(ctx)
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/handlers"
	"signet/internal/admission"
	"signet/internal/chaos"
	"signet/internal/clients"
	"signet/internal/denylist"
	"signet/internal/gatewayconfig"
	"signet/internal/seal"
	"signet/internal/state"
	"signet/internal/store"
	"signet/internal/throttle"
	"signet/internal/upstream"
	"signet/internal/vault"
	"signet/jwt"
	"signet/keys"
	"signet/mcp"
	"signet/mcp/gateway"
	"signet/users"
)

// Server is a running set of parts. Make it with New, end it with Close.
type Server struct {
	// MCP takes the tools, before or while the server runs. A process of role auth
	// does not serve it, and neither does a gateway, which has the tools of other servers.
	MCP *sdk.Server

	o           Options
	hierarchy   mcp.Hierarchy
	access      mcp.Access
	handler     http.Handler
	endpoints   []*mcp.Endpoint
	addresses   *addresses
	draining    atomic.Bool
	metrics     *metrics
	classes     *admission.Classes
	connections *connections
	budget      *admission.Budget // of the bytes of MCP messages

	certificate atomic.Pointer[tls.Certificate] // of the listener, if it takes TLS

	otherStore atomic.Bool // whether the issuer leads to a server with another store

	// The following are set in role mcp.
	remote *jwt.RemoteKeys
	feed   *jwt.RevocationFeed

	// The following are set in the roles all and auth.
	state    *state.State
	store    *store.Store
	ring     *seal.Keyring
	keys     *keys.Set
	denylist *denylist.List
	throttle *throttle.Logins
	clients  *clients.Registry
	users    *accounts
	// upstreams is nil if there are none.
	upstreams *upstream.Set
	// usersFile is nil if Options.Check replaces the file.
	usersFile *users.File

	gatewayConfig atomic.Pointer[gatewayconfig.Config] // nil: there is no gateway
	gateway       *gateway.Gateway                     // nil: there is none, or it is in other processes

	vault         *vault.Vault
	authorization atomic.Pointer[handlers.Handler] // nil before the start, and in role mcp

	toSettle chan string // subjects of users of upstreams whose grants have ended

	changedUsers, goneClients, endedClients pending

	reload chan struct{} // asks watchFiles to look now
	stop   context.CancelFunc
	work   sync.WaitGroup // started by start
}

// New opens what the role needs and starts the work behind the requests. On a first start
// it makes the content of the data directory (see docs/operations.md).
func New(o Options) (*Server, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	o.Gateway.resources = o.Resources
	hierarchy, err := mcp.ParseHierarchy(o.ScopeHierarchy, o.Scopes)
	if err != nil {
		return nil, fmt.Errorf("scope hierarchy: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{
		MCP: newMCP(o), o: o, hierarchy: hierarchy, metrics: newMetrics(), classes: admission.New(),
		budget: newBudget(os.DirFS("/")), addresses: newAddresses(o.TrustedProxies, o.Log), reload: make(chan struct{}, 1), toSettle: make(chan string, 1024), stop: stop,
	}
	s.connections = newConnections(o.MaxConnections, s.addresses.trusts)
	s.metrics.publishClasses(s.classes)
	s.access.WithoutLogin(o.PublicTools...)
	s.access.Hide(o.HiddenTools...)
	if err := s.build(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if o.Chaos != 0 {
		s.handler = chaos.Handler(o.Chaos, o.Log, s.handler)
		s.start(ctx, func(ctx context.Context) { chaos.Warn(ctx, o.Chaos, o.Log) })
	}
	return s, nil
}

// newMCP returns the server that the tools are added to.
func newMCP(o Options) *sdk.Server {
	if o.Gateway.Config != "" {
		return mcp.NewRouterServer(o.App, Version)
	}
	return mcp.NewServer(o.App, Version)
}

func (s *Server) build(ctx context.Context) error {
	if s.o.Role == "mcp" {
		if err := s.followIssuer(ctx); err != nil {
			return err
		}
		if err := s.openGateway(ctx); err != nil {
			return err
		}
		return s.route(nil, jwt.VerifierOptions{Issuer: s.o.Issuer, Keys: s.remote, Feed: s.feed})
	}
	if err := s.openAll(ctx); err != nil {
		return err
	}
	if err := s.openGateway(ctx); err != nil {
		return err
	}
	authorization, err := s.authorizationServer()
	if err != nil {
		return err
	}
	s.authorization.Store(authorization)
	if s.gatewayConfig.Load() != nil {
		s.start(ctx, func(ctx context.Context) { s.watchConnections(ctx, authorization) })
	}
	return s.route(authorization, s.verification())
}

// start starts work that Close ends and waits for.
func (s *Server) start(ctx context.Context, work func(context.Context)) {
	s.work.Go(func() { work(ctx) })
}

// Close ends the work behind the requests and closes the store. The server must no longer
// serve requests. A second call does nothing.
func (s *Server) Close() error {
	s.stop()
	s.work.Wait()
	if s.gateway != nil {
		s.gateway.Close()
	}
	if s.store == nil {
		return nil
	}
	if s.vault != nil {
		s.vault.Close()
	}
	st := s.store
	s.store = nil
	return st.Close()
}

// Handler returns the handler of all endpoints of the role, for a program that has an HTTP
// server of its own. Paths are relative to the issuer's root.
func (s *Server) Handler() http.Handler { return s.handler }

// EndStreams ends the event streams of MCP clients, which then connect again to another
// replica. Serve calls it when it stops. A program that has an HTTP server of its own
// passes it to [http.Server.RegisterOnShutdown], otherwise Shutdown waits for the streams.
func (s *Server) EndStreams() {
	for _, e := range s.endpoints {
		e.EndStreams()
	}
}

// Require makes a tool need all of scopes, besides those that every request needs. Call it
// before you add the tool.
//
//	srv.Require("admin_action", "admin")
//	sdk.AddTool(srv.MCP, &sdk.Tool{Name: "admin_action"}, adminAction)
func (s *Server) Require(tool string, scopes ...string) {
	for _, scope := range scopes {
		if !slices.Contains(s.o.Scopes, scope) {
			s.access.Hide(tool) // no step-up leads to it
			s.o.Log.Warn("this tool cannot be called: it needs a scope that does not exist", "tool", tool, "scope", scope)
		}
	}
	s.access.Require(tool, scopes...)
}

// Hide keeps tools out of the lists of callers who lack their scopes. All other tools are
// listed for every caller with a token, so that clients can ask for the scopes.
func (s *Server) Hide(tools ...string) { s.access.Hide(tools...) }

// Issuer returns the public base URL, without a trailing slash.
func (s *Server) Issuer() string { return s.o.Issuer }

// Resources returns the identifiers that tokens may name, the default first.
func (s *Server) Resources() []string { return slices.Clone(s.o.Resources) }
