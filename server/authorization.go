package server

import (
	"context"
	"errors"
	"os"

	"signet/handlers"
	"signet/internal/clients"
	"signet/internal/denylist"
	"signet/internal/durable"
	"signet/internal/fetch"
	"signet/internal/seal"
	"signet/internal/state"
	"signet/internal/store"
	"signet/internal/throttle"
	"signet/internal/vault"
	"signet/jwt"
	"signet/keys"
	"signet/users"
)

// openAll opens, in import order, what the authorization server keeps, and starts the work
// behind it.
func (s *Server) openAll(ctx context.Context) error {
	if err := s.openUpstreams(); err != nil {
		return err
	}
	if err := s.openState(ctx); err != nil {
		return err
	}
	if err := s.openKeys(ctx); err != nil {
		return err
	}
	if err := s.openDenylist(ctx); err != nil {
		return err
	}
	s.vault = vault.New(vault.Options{Store: s.store, Ring: s.ring, Log: s.o.Log})
	if s.upstreams != nil {
		s.start(ctx, s.watchVault)
	}
	s.throttle = throttle.NewLogins(s.store, s.o.Log)
	s.start(ctx, s.throttle.Run)
	if err := s.openUsers(); err != nil {
		return err
	}
	var err error
	o := s.clientOptions(ctx)
	o.Once = s.denylist.Once
	if s.clients, err = clients.Open(o); err != nil {
		return named("SIGNET_CLIENTS_FILE", err)
	}
	durable.RemoveLeftovers(s.o.UsersFile)
	durable.RemoveLeftovers(s.o.ClientsFile)
	s.start(ctx, s.watchFiles)
	s.clients.OnChange(func(gone, ended []string) {
		s.goneClients.add(gone)
		s.endedClients.add(ended)
	})
	s.start(ctx, s.watchGrants)
	if s.usersFile != nil {
		s.usersFile.OnChange(s.changedUsers.add)
		s.start(ctx, s.watchUsers)
	}
	s.publishGauges()
	return nil
}

// openState opens the secret and the store. Another server with another store behind the
// issuer is an error.
func (s *Server) openState(ctx context.Context) (err error) {
	other := make(chan string, 1)
	s.start(ctx, func(ctx context.Context) { other <- s.askIssuer(ctx) })
	data := state.Data{Dir: s.o.DataDir, Secret: s.o.Secret, Store: s.o.Store, GroupMayRead: s.o.GroupMayRead, KeepEpoch: s.o.Rollback == "alarm"}
	if s.state, err = state.Open(ctx, data, s.o.Log); err != nil {
		return named(s.o.stateVariables(), err)
	}
	s.store, s.ring = s.state.Store, s.state.Ring
	s.start(ctx, s.state.Run)
	s.start(ctx, s.watchClocks)
	if err := s.compareStores(<-other); err != nil {
		return err
	}
	s.start(ctx, s.watchIssuer)
	return nil
}

func (s *Server) openKeys(ctx context.Context) (err error) {
	o := &s.o
	if o.KeysDir != "" {
		readDir := keys.ReadDir
		if o.GroupMayRead {
			readDir = keys.ReadMounted
		}
		s.keys, err = readDir(o.KeysDir, o.Lives.Access, o.Log)
		err = named("SIGNET_KEYS_DIR", err)
	} else {
		s.keys, err = keys.Open(ctx, keys.Options{Store: s.store, Ring: s.ring, Rotation: o.KeyRotation, TokenTTL: o.Lives.Access, Log: o.Log})
	}
	if err != nil {
		return err
	}
	s.start(ctx, s.keys.Run)
	return nil
}

func (s *Server) openDenylist(ctx context.Context) (err error) {
	lives := s.o.Lives
	s.denylist, err = denylist.New(ctx, denylist.Options{Store: s.store, Window: lives.Window(), Skew: jwt.Leeway, Keep: lives.Access + jwt.Leeway, Log: s.o.Log})
	if err != nil {
		return err
	}
	s.start(ctx, s.denylist.Run)
	return nil
}

// openUsers takes the program's own check, or the users file, to which a demo adds its
// user.
func (s *Server) openUsers() (err error) {
	s.users = &accounts{vault: s.vault, check: s.o.Check, lookup: s.o.Lookup}
	if s.o.Check != nil {
		return nil
	}
	warnManyUsers(s.o.Log, s.o.UsersFile)
	openFile := users.OpenFile
	if s.o.GroupMayRead {
		openFile = users.OpenMounted
	}
	if s.usersFile, err = openFile(s.o.UsersFile); err != nil {
		return named("SIGNET_USERS_FILE", err)
	}
	if s.usersFile.Empty() && !s.o.Demo && s.upstreams == nil {
		s.o.Log.Warn("no user can sign in yet: `signet user add NAME` adds one", "file", s.o.UsersFile)
	}
	if err := checkMemory(os.DirFS("/"), s.usersFile.Stats()); err != nil {
		return err
	}
	s.usersFile.RestAfter(s.classes.Rest)
	s.users.file, s.users.signOut = s.usersFile, s.usersFile.SignOut
	if s.o.Demo {
		s.users.file = demoUsers{s.usersFile, demoUser(s.o.Scopes)}
	}
	return nil
}

func (s *Server) clientOptions(ctx context.Context) clients.Options {
	o := s.o.clientOptions(s.ring)
	o.Retired = s.state.RetiredAt
	o.Blocked = func(id string) bool {
		blocked := s.denylist.Blocked()
		return len(blocked) > 0 && blocked[seal.ClientHash(id)]
	}
	if r := s.o.Registration; r.Off || r.Token != "" {
		seen := &seenClients{}
		s.start(ctx, func(ctx context.Context) { s.watchSeen(ctx, seen) })
		o.Seen = seen.has
	}
	return o
}

// stale returns why a changed file is not in use, while its earlier content stays in force.
// Keys that are stale because the store is unavailable do not count: the store's own status
// says so.
func (s *Server) stale() error {
	keys := s.keys.Stale()
	if errors.Is(keys, store.ErrUnavailable) {
		keys = nil
	}
	return errors.Join(s.staleFiles(), s.state.Stale(), keys)
}

// publishGauges adds the numbers of the parts to the metrics.
func (s *Server) publishGauges() {
	gauge := s.metrics.gauge
	gauge("signet_grants_reused", "Grants revoked because a code or a refresh handle was used again.", func() float64 { return float64(s.denylist.Stats().Reused) })
	gauge("signet_grants_rolled_back", "Handles that prove that the store was rolled back.", func() float64 { return float64(s.denylist.Stats().RolledBack) })
	rolledBack := s.store.RolledBack
	gauge("signet_store_rolled_back_timestamp_seconds", "When it was found that the store was rolled back; 0 if that never was.", func() float64 {
		if at := rolledBack(); !at.IsZero() {
			return float64(at.Unix())
		}
		return 0
	})
	gauge("signet_rows_pruned", "Rows forgotten after their time.", func() float64 { return float64(s.denylist.Stats().Pruned) })
	gauge("signet_logins_throttled", "Logins refused because too many had failed.", func() float64 { return float64(s.throttle.Stats().Refused) })
	apart := s.store.ClocksApart
	gauge("signet_clocks_apart_seconds", "Difference of the clocks of the servers and of the database.", func() float64 { return apart().Seconds() })
	gauge("signet_config_stale", "1 while a changed file cannot be used.", func() float64 {
		if s.stale() != nil {
			return 1
		}
		return 0
	})
	if f := s.usersFile; f != nil {
		gauge("signet_password_hashes", "Password hashes computed.", func() float64 { return float64(f.Stats().Hashes) })
		gauge("signet_password_hashes_running", "Password hashes being computed.", func() float64 { return float64(f.Stats().Running) })
		gauge("signet_password_hashes_waiting", "Logins waiting for a hash.", func() float64 { return float64(f.Stats().Waiting) })
	}
}

// verification returns the options of a verifier in the process of the authorization
// server, for its MCP endpoint.
func (s *Server) verification() jwt.VerifierOptions {
	return jwt.VerifierOptions{Issuer: s.o.Issuer, Keys: s.keys, Revoked: s.denylist.Revoked, RevokedKnown: s.denylist.Known, NotBefore: s.store.NotBefore, SameClock: true}
}

func (s *Server) authorizationServer() (*handlers.Handler, error) {
	o := &s.o
	verify := s.verification()
	verify.Audiences, verify.SameClock = o.Resources, false // a token that another machine still accepts can be revoked
	verifier, err := jwt.NewVerifier(verify)
	if err != nil {
		return nil, err
	}
	h := handlers.Options{
		Issuer: o.Issuer, App: o.App, Ring: s.ring, Store: s.store, Keys: s.keys, Denylist: s.denylist, Throttle: s.throttle, Clients: s.clients, Users: s.users,
		Signer: jwt.NewSigner(s.keys.Signing), Verifier: verifier,
		Resources: o.Resources, Scopes: o.Scopes, DefaultScopes: o.DefaultScopes, RequiredScopes: o.RequiredScopes, ScopeHierarchy: s.hierarchy,
		Lives: o.Lives, Limits: o.Limits, Registration: o.Registration, Pages: o.Pages, LoginPath: o.LoginPath, LoginHandler: o.LoginHandler, Admission: s.classes,
		Draining: s.draining.Load, OtherStore: s.otherStore.Load, Stale: s.stale, ClocksDiffer: s.clocksDiffer, ClientIP: s.addresses.of, Count: s.metrics.count, CountConnection: s.metrics.countConnection, Log: o.Log,
	}
	h.EndSessions = s.users.EndSessions
	if s.gatewayConfig.Load() != nil {
		h.Elsewhere = fetch.New(fetch.Options{Loopback: o.loopback(), Deny: o.ClientDocuments.DeniedHosts, Agent: "Signet/" + Version})
		h.Connections, h.Audiences, h.Vault, h.GatewayResource = s.gatewayConnections, s.gatewayAudiences, s.vault, o.Resources[0]
		h.ConnectionChanged = func(subject, connection string) {
			if s.gateway != nil {
				s.gateway.ConnectionChanged(subject, connection)
			}
		}
	}
	if s.upstreams != nil {
		h.Upstreams, h.Vault, h.Settle, h.PasswordLogin = s.upstreams, s.vault, s.settled, s.passwordLogin
	}
	if f := s.usersFile; f != nil {
		s.classes.Logins(f.Stats().Limit)
		h.UsersGeneration = f.Generation
		h.ChangePassword = func(ctx context.Context, subject, old, next string) (users.User, error) {
			return f.ChangePassword(ctx, subject, old, next, o.App)
		}
	}
	return handlers.New(h)
}
