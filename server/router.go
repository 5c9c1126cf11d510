package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"signet/handlers"
	"signet/internal/failpoint"
	"signet/internal/oauth"
	"signet/internal/throttle"
	"signet/jwt"
	"signet/mcp"
)

// route builds the handler of the authorization server, if the role has one, and of the
// resources that this process serves.
func (s *Server) route(authorization *handlers.Handler, verify jwt.VerifierOptions) error {
	r := chi.NewRouter()
	var handler http.Handler = r
	if s.o.Role != "auth" {
		if err := s.routeResources(r, authorization, verify); err != nil {
			return err
		}
	}
	if authorization != nil {
		if err := s.checkLoginPath(r); err != nil {
			return err
		}
		// Not r.Mount, which would make a map for each request, of what its pattern has matched.
		r.NotFound(authorization.ServeHTTP)
		r.MethodNotAllowed(handlers.UnknownMethod(r, authorization.ServeHTTP))
	} else {
		s.routeHealth(r.With(s.public))
		r.NotFound(notFound)
		handler = s.spread(r)
	}
	// Not r.Use, whose middleware a router without routes leaves out: that of role auth.
	s.handler = addRequestID(failpoint.Handler(s.measure(s.announceDrain(s.refuseAmbiguous(authorization, handler)))))
	if authorization != nil {
		s.handler = s.answerDocuments(authorization, s.handler)
	}
	if strings.HasPrefix(s.o.Issuer, "https://") && !s.o.loopback() {
		s.handler = strictTransport(s.handler)
	}
	return nil
}

// yearOfHTTPS tells browsers to use https only (RFC 6797 §6.1). It says nothing about
// subdomains, which may be others' business.
var yearOfHTTPS = []string{"max-age=31536000"}

// strictTransport adds the header to every answer. A loopback issuer has none: the header
// is for a host name, and other programs serve http on other ports of localhost.
func strictTransport(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Strict-Transport-Security"] = yearOfHTTPS
		next.ServeHTTP(w, r)
	})
}

// checkLoginPath returns an error if the login page has the path of a resource.
func (s *Server) checkLoginPath(resources chi.Router) error {
	u, err := url.Parse(s.o.Issuer)
	if err != nil {
		return err
	}
	if s.o.LoginPath != "" && resources.Match(chi.NewRouteContext(), http.MethodGet, oauth.RoutePath(u)+s.o.LoginPath) {
		return fmt.Errorf("login path %s belongs to a resource", s.o.LoginPath)
	}
	return nil
}

// answerDocuments answers plain requests for documents that are in memory, without next,
// which would give the same answer and a request ID. Unusual requests go to next, and so do
// all requests while the server stops or writes an access log.
func (s *Server) answerDocuments(authorization *handlers.Handler, next http.Handler) http.Handler {
	quiet := !s.o.Log.Enabled(context.Background(), slog.LevelDebug)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if quiet && r.ProtoAtLeast(1, 1) && !s.draining.Load() {
			begin := time.Now()
			if status := authorization.Document(w, r); status != 0 {
				s.metrics.observe(answer{r.URL.Path, status}, time.Since(begin))
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// routeResources serves the resources on the issuer's origin, or, in a process of role mcp,
// all resources. The first one also has the root metadata path, and the paths for programs
// that do not speak MCP.
func (s *Server) routeResources(r chi.Router, authorization *handlers.Handler, verify jwt.VerifierOptions) error {
	upstreams, err := s.upstreamSource(authorization)
	if err != nil {
		return err
	}
	if err := s.startGateway(authorization); err != nil {
		return err
	}
	if authorization != nil { // otherwise all requests are spread
		r = r.With(s.spread)
	}
	routes := newResourceRoutes(r)
	if authorization == nil {
		routes.owners["/livez"], routes.owners["/readyz"] = "the health check", "the health check"
	}
	for i, resource := range s.o.Resources {
		if !serves(s.o.Role, s.o.Issuer, resource) {
			continue
		}
		verify.Audiences = []string{resource}
		verifier, err := jwt.NewVerifier(verify)
		if err != nil {
			return err
		}
		o := mcp.Options{
			Resource: resource, Issuer: s.o.Issuer, Name: s.o.App, Verifier: verifier, Server: s.MCP,
			Hierarchy: s.hierarchy, Access: &s.access,
			Required: s.o.RequiredScopes, Challenge: union(s.o.RequiredScopes, s.o.DefaultScopes), Scopes: union(s.o.RequiredScopes, s.o.DefaultScopes),
			Origins: s.origins(), Admission: s.classes.MCP, Budget: s.budget, Caller: s.network, Upstream: upstreams, Log: s.o.Log,
		}
		if s.gateway != nil {
			o.Router, o.Others = s.gateway, s.others()
		}
		h, err := mcp.Handler(o)
		if err != nil {
			return err
		}
		s.endpoints = append(s.endpoints, h)
		u, err := url.Parse(resource)
		if err != nil {
			return err
		}
		if err := s.routeResource(routes, o, oauth.RoutePath(u), h); err != nil {
			return err
		}
		if i == 0 {
			r.Handle(oauth.WellKnownResource, s.public(mcp.Metadata(o)))
			r.Handle("/tools/*", h.Tools())
			base := strings.TrimSuffix(oauth.RoutePath(u), "/")
			if err := errors.Join(
				routes.handle(base+"/connect", "the hint for clients of "+resource, mcp.Connect(o, s.registrationEndpoint())),
				s.routePlain(routes, base, h),
			); err != nil {
				return err
			}
		}
	}
	return nil
}

// routeResource serves a resource at path, and its metadata.
func (s *Server) routeResource(r *resourceRoutes, o mcp.Options, path string, h http.Handler) error {
	metadata := s.public(mcp.Metadata(o))
	if path == "" || path == "/" { // the whole host is one resource
		return errors.Join(r.handle("/", "resource "+o.Resource, h), r.handle(oauth.WellKnownResource, rootMetadata, metadata))
	}
	return errors.Join(r.handle(path, "resource "+o.Resource, h), r.handle(oauth.WellKnownResource+path, "the metadata of "+o.Resource, metadata))
}

// resourceRoutes are the paths of resources. A router would let the last handler of a path replace the
// others.
type resourceRoutes struct {
	router chi.Router
	owners map[string]string // what is at each path
}

const rootMetadata = "the metadata of resources"

func newResourceRoutes(r chi.Router) *resourceRoutes {
	return &resourceRoutes{r, map[string]string{oauth.WellKnownResource: rootMetadata}}
}

// take reserves path for owner, or returns an error if something else is there.
func (r *resourceRoutes) take(path, owner string) error {
	if other, taken := r.owners[path]; taken && other != owner {
		return fmt.Errorf("SIGNET_RESOURCES: %s is at the path of %s", owner, other)
	}
	r.owners[path] = owner
	return nil
}

// handle serves path, unless something else is there.
func (r *resourceRoutes) handle(path, owner string, h http.Handler) error {
	if err := r.take(path, owner); err != nil {
		return err
	}
	r.router.Handle(path, h)
	return nil
}

// spread has refusals wait for their turn: anybody can send a token that is not valid. So do
// the answers to what browsers ask before a request. The endpoints of the authorization server
// do so themselves.
func (s *Server) spread(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r)
		ww, ok := w.(middleware.WrapResponseWriter) // measure has wrapped w
		switch {
		case ok && ww.Status() >= 400 && ww.Status() < 500:
			s.classes.Refuse(r.Context())
		case r.Method == http.MethodOptions:
			s.classes.Public(r.Context())
		}
	})
}

// public has a handler wait for its turn whose answer is for everybody.
func (s *Server) public(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodOptions { // see spread
			s.classes.Public(r.Context())
		}
		next.ServeHTTP(w, r)
	})
}

// routePlain serves the gateway's paths for programs that do not speak MCP.
func (s *Server) routePlain(r *resourceRoutes, path string, h *mcp.Endpoint) error {
	if s.gateway == nil {
		return nil
	}
	const owner = "the gateway for programs that do not speak MCP"
	errs := []error{r.take("/health", owner), r.handle("/capabilities", owner, h.Capabilities())}
	for _, below := range mcp.PlainPaths() {
		errs = append(errs, r.handle(path+below, owner, h.Plain()))
	}
	r.router.With(s.public).Get("/health", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]bool{"ok": true})
	})
	return errors.Join(errs...)
}

// registrationEndpoint is where clients register, or "" if they may not. A replica of role mcp says
// what its own settings say.
func (s *Server) registrationEndpoint() string {
	if s.o.Registration.Off {
		return ""
	}
	return s.o.Issuer + "/register"
}

func (s *Server) origins() []string {
	if len(s.o.MCPOrigins) > 0 {
		return s.o.MCPOrigins
	}
	u, err := url.Parse(s.o.Issuer)
	if err != nil {
		return nil
	}
	return []string{u.Scheme + "://" + u.Host}
}

// notFound answers for every path that does not exist. Clients probe paths during discovery,
// also in browsers, where a script must see the 404.
func notFound(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Access-Control-Allow-Origin", "*")
	if r.Method == http.MethodOptions && strings.Contains(r.URL.Path, "/.well-known/") {
		w.Header().Set("Access-Control-Allow-Headers", "authorization, content-type, accept, mcp-protocol-version, "+oauth.TracingHeaders)
		w.WriteHeader(http.StatusNoContent)
		return
	}
	writeJSON(w, http.StatusNotFound, oauth.Errorf(oauth.InvalidRequest, "nothing is served at this path"))
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // an error means that the connection is gone
}

// network is the caller's address as limits count it, or "" if it is not known.
func (s *Server) network(r *http.Request) string {
	if address, own := s.addresses.of(r); own {
		return throttle.Network(address)
	}
	return ""
}

// announceDrain asks clients to go elsewhere while the server stops: a connection that both
// sides agree to close loses no request (RFC 9112 §9.6).
func (s *Server) announceDrain(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

func sameOrigin(a, b string) bool {
	u, errA := url.Parse(a)
	v, errB := url.Parse(b)
	return errA == nil && errB == nil && u.Scheme == v.Scheme && u.Host == v.Host
}

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
