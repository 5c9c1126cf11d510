package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"signet/handlers"
	"signet/internal/durable"
	"signet/internal/gatewayconfig"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/internal/upstream"
	"signet/jwt"
	"signet/mcp/gateway"
)

// Gateway says which MCP servers the endpoint serves, in place of tools of its own.
type Gateway struct {
	Config string   // YAML or JSON file (docs/gateway.md), read again when it changes; default: there is no gateway
	Flags  []string // values over those of the file, such as --routing.separator=/

	// ClientID is that of the client with which a process of role mcp asks the issuer for credentials
	// (`signet client add NAME --exchange gateway`). The client proves itself by its secret, or by its
	// private key: ClientKey is the path of a PEM file.
	ClientID, ClientSecret, ClientKey string

	// Strategies are strategies of the program's own, by the name that auth_strategy gives.
	Strategies map[string]gateway.Strategy

	Environ func(name string) (value string, ok bool) // finds variables that Config names; default: os.LookupEnv

	resources []string // those of the process
}

// Check returns an error if the settings contradict each other. It reads no file.
func (g Gateway) Check() error {
	switch {
	case g.ClientSecret != "" && g.ClientKey != "":
		return errors.New("SIGNET_GATEWAY_CLIENT_KEY: there is SIGNET_GATEWAY_CLIENT_SECRET too")
	case (g.ClientID == "") != (g.ClientSecret == "" && g.ClientKey == ""):
		return errors.New("SIGNET_GATEWAY_CLIENT_ID, and SIGNET_GATEWAY_CLIENT_SECRET or SIGNET_GATEWAY_CLIENT_KEY: one is missing")
	case g.Config == "" && g.ClientID != "":
		return errors.New("SIGNET_GATEWAY_CLIENT_ID: there is no gateway: SIGNET_GATEWAY_CONFIG is not set")
	}
	return nil
}

// maxClientKey is the length of a file with a private key, in bytes.
const maxClientKey = 64 << 10

// client returns the client that the gateway is at its issuer.
func (g Gateway) client(access durable.Access) (c gateway.RemoteClient, err error) {
	c = gateway.RemoteClient{ID: g.ClientID, Secret: g.ClientSecret}
	if g.ClientKey == "" {
		return c, nil
	}
	text, err := access.Read(g.ClientKey, maxClientKey)
	if err == nil {
		c.Key, err = oauth.ParseClientKey(string(text))
	}
	if err != nil {
		return c, fmt.Errorf("SIGNET_GATEWAY_CLIENT_KEY: %s: %w", g.ClientKey, err)
	}
	return c, nil
}

// Try reads the configuration as a process of a role does, and returns its faults. Values that only
// the root secret opens are taken for good.
func (g Gateway) Try(role string) error {
	if err := g.Check(); err != nil || g.Config == "" {
		return err
	}
	_, _, err := g.read(gatewayPart(role), func(string) (gatewayconfig.Sealed, error) { return gatewayconfig.Sealed{}, gatewayconfig.ErrSkip })
	return err
}

const (
	maxGatewayFile    = 4 << 20
	gatewayActor      = "gateway" // act of tokens that the gateway of this process gets
	lookAtGatewayFile = time.Second
)

// read returns the configuration and the text that it was read from.
func (g Gateway) read(part gatewayconfig.Part, decrypt func(string) (gatewayconfig.Sealed, error)) (*gatewayconfig.Config, []byte, error) {
	f, err := os.Open(g.Config)
	if err != nil {
		return nil, nil, fmt.Errorf("SIGNET_GATEWAY_CONFIG: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxGatewayFile+1))
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("SIGNET_GATEWAY_CONFIG: %w", err)
	case len(text) > maxGatewayFile:
		return nil, nil, fmt.Errorf("SIGNET_GATEWAY_CONFIG: %s is longer than %d bytes", g.Config, maxGatewayFile)
	}
	config, err := gatewayconfig.Parse(text, g.options(part, decrypt))
	if err != nil {
		return nil, text, fmt.Errorf("SIGNET_GATEWAY_CONFIG: %s:\n%w", g.Config, err)
	}
	return config, text, nil
}

func (g Gateway) options(part gatewayconfig.Part, decrypt func(string) (gatewayconfig.Sealed, error)) gatewayconfig.Options {
	o := gatewayconfig.Options{Resources: g.resources, Environ: g.Environ, Part: part, Flags: g.Flags, Dir: filepath.Dir(g.Config), Decrypt: decrypt}
	if o.Environ == nil {
		o.Environ = os.LookupEnv
	}
	for name := range g.Strategies {
		o.Strategies = append(o.Strategies, name)
	}
	slices.Sort(o.Strategies)
	return o
}

// gatewayPart is the part of the configuration that a process of a role uses.
func gatewayPart(role string) gatewayconfig.Part {
	switch role {
	case "auth":
		return gatewayconfig.ForIssuer
	case "mcp":
		return gatewayconfig.ForGateway
	}
	return gatewayconfig.Whole
}

// readGateway reads the configuration. A process without a root secret opens no sealed values.
func (s *Server) readGateway() (*gatewayconfig.Config, []byte, error) {
	var decrypt func(string) (gatewayconfig.Sealed, error)
	if s.ring != nil {
		decrypt = OpenSettings(func() (*seal.Keyring, error) { return s.ring, nil })
	}
	config, text, err := s.o.Gateway.read(gatewayPart(s.o.Role), decrypt)
	if err == nil {
		config.Warnings = append(config.Warnings, s.scopesOfNobody(config)...)
		config.Warnings = append(config.Warnings, s.withoutIssuer(config)...)
	}
	return config, text, err
}

// scopesOfNobody warns of what no caller can use, because no token has a scope that it needs.
func (s *Server) scopesOfNobody(config *gatewayconfig.Config) (warnings []string) {
	warn := func(what string, scopes []string) {
		for _, scope := range scopes {
			if !slices.Contains(s.o.Scopes, scope) {
				warnings = append(warnings, fmt.Sprintf("%s cannot be used: the scope %s that it needs does not exist (SIGNET_SCOPES)", what, scope))
			}
		}
	}
	for _, server := range config.Servers {
		warn("server "+server.ID, server.Scopes)
		for _, tool := range slices.Sorted(maps.Keys(server.Tools)) {
			warn(fmt.Sprintf("tool %q of server %s", tool, server.ID), server.Tools[tool].Scopes)
		}
	}
	return warnings
}

// withoutIssuer warns of servers that cannot be called, because the gateway is no client of its issuer.
func (s *Server) withoutIssuer(config *gatewayconfig.Config) (warnings []string) {
	if s.o.Role != "mcp" || s.o.Gateway.ClientID != "" {
		return nil
	}
	var ids []string
	for _, server := range config.Servers {
		if needsIssuer(server) {
			ids = append(ids, server.ID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("calls of %s fail: %v", strings.Join(ids, ", "), errNoClient)}
}

// needsIssuer reports whether the credentials of a server come from the issuer.
func needsIssuer(server *gatewayconfig.Server) bool {
	switch server.Strategy {
	case gatewayconfig.MasterOAuth:
		return !server.Passthrough
	case gatewayconfig.ProxyOAuth:
		return server.Token == ""
	case gatewayconfig.DelegateOAuth, gatewayconfig.UserKey, gatewayconfig.Upstream:
		return true
	}
	return false
}

// openGateway reads the configuration of the gateway, and follows it.
func (s *Server) openGateway(ctx context.Context) error {
	if s.o.Gateway.Config == "" {
		return nil
	}
	config, text, err := s.readGateway()
	if err != nil {
		return err
	}
	s.warnOfGateway(config, nil)
	s.gatewayConfig.Store(config)
	s.start(ctx, func(ctx context.Context) { s.followGateway(ctx, text) })
	return nil
}

// startGateway makes the gateway, once it is known how credentials are had.
func (s *Server) startGateway(authorization *handlers.Handler) (err error) {
	config := s.gatewayConfig.Load()
	if config == nil || s.o.Role == "auth" {
		return nil
	}
	var issuer gateway.Issuer
	if authorization != nil {
		issuer = ownIssuer{authorization}
	} else if s.o.Gateway.ClientID == "" {
		issuer = noIssuer{}
	} else if issuer, err = s.remoteIssuer(); err != nil {
		return err
	}
	s.gateway, err = gateway.New(gateway.Options{
		Config: config, Issuer: issuer, IssuerURL: s.o.Issuer, Strategies: s.o.Gateway.Strategies, Agent: "Signet/" + Version, Log: s.o.Log,
		Observe: s.metrics.observeServer,
	})
	if err != nil {
		return fmt.Errorf("SIGNET_GATEWAY_CONFIG: %w", err)
	}
	s.metrics.registry.MustRegister(serverCollector{s.gateway})
	return nil
}

// remoteIssuer is the issuer of a process that holds no secret but that of its client there.
func (s *Server) remoteIssuer() (*gateway.RemoteIssuer, error) {
	client, err := s.o.Gateway.client(durable.Access{GroupRead: s.o.GroupMayRead})
	if err != nil {
		return nil, err
	}
	return gateway.NewRemoteIssuer(s.o.Issuer, client)
}

// others checks access tokens of the issuer that master_oauth names, if it names one. Their users
// are none of Signet's: they have names of their own kind, and no grant.
func (s *Server) others() func(ctx context.Context, rawToken string) (*jwt.Claims, error) {
	config := s.gatewayConfig.Load()
	if s.gateway == nil || config.CallerIssuer == nil || config.CallerIssuer.JWKSURI == "" {
		if s.gateway != nil && config.CallerIssuer != nil {
			s.o.Log.Info("callers need access tokens of this server's own issuer: master_oauth has no jwks_uri for others")
		}
		return nil
	}
	i := config.CallerIssuer
	verifier := upstream.NewCallerVerifier(i.Issuer, i.JWKSURI, i.Audience)
	return func(ctx context.Context, rawToken string) (*jwt.Claims, error) {
		who, err := verifier.Verify(ctx, rawToken)
		switch {
		case errors.Is(err, upstream.ErrCaller):
			return nil, fmt.Errorf("%w: %w", jwt.ErrInvalid, err)
		case err != nil:
			return nil, err
		}
		return &jwt.Claims{
			Issuer: i.Issuer, Subject: otherCaller + who.Subject, ClientID: who.ClientID, Scope: oauth.FormatScope(who.Scopes),
			IssuedAt: who.Issued.Unix(), ExpiresAt: who.Expires.Unix(), GrantID: otherCaller + who.Token,
		}, nil
	}
}

// otherCaller begins the subjects and grant ids of callers with tokens of another issuer.
const otherCaller = "other:"

// Gateway returns the gateway, or nil if there is none in this process.
func (s *Server) Gateway() *gateway.Gateway { return s.gateway }

// connections are what users may connect, as the configuration says now.
func (s *Server) gatewayConnections() []*gatewayconfig.Connection {
	if config := s.gatewayConfig.Load(); config != nil {
		return config.Connections
	}
	return nil
}

// gatewayAudiences are the resources of the servers that get tokens of their own.
func (s *Server) gatewayAudiences() (audiences []string) {
	if config := s.gatewayConfig.Load(); config != nil {
		for _, server := range config.Servers {
			if server.Strategy == gatewayconfig.MasterOAuth && !server.Passthrough {
				audiences = append(audiences, server.Audience)
			}
		}
	}
	return audiences
}

// followGateway takes up a changed configuration. One with a fault changes nothing, and is logged
// once.
func (s *Server) followGateway(ctx context.Context, text []byte) {
	logged := ""
	for sleep(ctx, lookAtGatewayFile) {
		now, err := os.ReadFile(s.o.Gateway.Config)
		if err == nil && bytes.Equal(now, text) {
			continue
		}
		err = s.reloadGateway()
		switch {
		case err == nil:
			logged, text = "", now
		case err.Error() != logged:
			logged = err.Error()
			s.o.Log.Error("the changed gateway configuration cannot be used: the one that was read before stays in force", "err", err)
		}
	}
}

func (s *Server) reloadGateway() error {
	config, _, err := s.readGateway()
	if err != nil {
		return err
	}
	if s.gateway != nil {
		if err := s.gateway.Reload(config); err != nil {
			return err
		}
	}
	old := s.gatewayConfig.Swap(config)
	if old.Port != config.Port || old.BaseURL != config.BaseURL || old.LogLevel != config.LogLevel {
		s.o.Log.Warn("hosting.port, hosting.base_url and logging.level take effect at the next start: restart required")
	}
	s.warnOfGateway(config, old.Warnings)
	s.o.Log.Info("the gateway configuration has changed", "changes", gatewayconfig.Diff(old, config))
	return nil
}

// warnOfGateway logs the warnings of a configuration, except for those that were logged before.
func (s *Server) warnOfGateway(config *gatewayconfig.Config, before []string) {
	for _, warning := range config.Warnings {
		if !slices.Contains(before, warning) {
			s.o.Log.Warn("gateway configuration: " + warning)
		}
	}
}

// ownIssuer gets credentials from the authorization server in this process.
type ownIssuer struct{ *handlers.Handler }

func (i ownIssuer) ForAudience(ctx context.Context, caller gateway.Caller, audience string, scope []string) (gateway.Credential, error) {
	if strings.HasPrefix(caller.Claims.GrantID, otherCaller) {
		return gateway.Credential{}, errOtherCaller
	}
	token, expires, err := i.GatewayToken(ctx, caller.Claims, audience, scope, gatewayActor)
	return gateway.Credential{Token: token, Expires: expires}, credentialError(err)
}

func (i ownIssuer) OfUpstream(ctx context.Context, caller gateway.Caller, stale int64) (gateway.Credential, error) {
	token, version, expires, err := i.UpstreamCredential(ctx, caller.Claims, stale)
	return gateway.Credential{Token: token, Version: version, Expires: expires}, credentialError(err)
}

func (i ownIssuer) OfConnection(ctx context.Context, caller gateway.Caller, connection string, stale int64) (gateway.Credential, error) {
	if caller.Claims != nil && strings.HasPrefix(caller.Claims.GrantID, otherCaller) {
		return gateway.Credential{}, errOtherCaller
	}
	token, version, expires, err := i.ConnectionToken(ctx, caller.Claims, connection, stale)
	return gateway.Credential{Token: token, Version: version, Expires: expires}, credentialError(err)
}

var errOtherCaller = errors.New("it is for callers with a token of this server's own issuer")

// noIssuer is that of a gateway that is no client of its issuer.
type noIssuer struct{}

var errNoClient = errors.New("the gateway is no client of its issuer: SIGNET_GATEWAY_CLIENT_ID is not set (`signet client add NAME --exchange gateway` makes one)")

func (noIssuer) ForAudience(context.Context, gateway.Caller, string, []string) (gateway.Credential, error) {
	return gateway.Credential{}, errNoClient
}

func (noIssuer) OfUpstream(context.Context, gateway.Caller, int64) (gateway.Credential, error) {
	return gateway.Credential{}, errNoClient
}

func (noIssuer) OfConnection(context.Context, gateway.Caller, string, int64) (gateway.Credential, error) {
	return gateway.Credential{}, errNoClient
}

// credentialError returns an error of the authorization server as one that the gateway branches on.
func credentialError(err error) error {
	var missing *handlers.MissingConnection
	var e *oauth.Error
	switch {
	case errors.As(err, &missing):
		return &gateway.Missing{Connection: missing.ID, Declined: missing.Declined}
	case errors.As(err, &e) && e.Code == oauth.InvalidGrant:
		return fmt.Errorf("%w: %w", gateway.ErrEnded, err)
	}
	return err
}
