// Package gateway serves many MCP servers at one endpoint: their tools, resources and prompts
// under their servers' ids. It checks what a caller may use, gets the credential that a server is
// to be sent, and passes the rest on as it came.
//
// It is a [mcp.Router]: the endpoint has checked the caller's access token before.
package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"signet/internal/backend"
	"signet/internal/gatewayconfig"
	"signet/jwt"
)

// Caller is whose message it is.
type Caller struct {
	Claims *jwt.Claims
	Token  string // the access token; it is for the issuer only, and for servers that opted in by name

	Granted []string // scopes, also implied ones; nil: those of the claims
}

// Strategy returns the headers by which server knows the caller. The error is a *Missing if the
// user has to connect something first, and ErrEnded if the caller has to sign in again. Refused
// says that the server has refused the headers of the time before: then they are got anew.
type Strategy func(ctx context.Context, caller Caller, server *gatewayconfig.Server, refused bool) (http.Header, error)

// Credential is what the issuer gave for a caller and a server.
type Credential struct {
	Token   string
	Version int64     // of a token that the vault has; 0: none
	Expires time.Time // zero: not known
}

// Issuer is where credentials come from: the authorization server of this process, or a client of
// another one (RFC 8693). Its errors are *Missing, ErrEnded, or no verdict.
type Issuer interface {
	// ForAudience returns an access token of the caller for another audience, with a part of the
	// scopes; none means all.
	ForAudience(ctx context.Context, caller Caller, audience string, scope []string) (Credential, error)

	// OfUpstream returns the caller's token at the upstream of the login. Stale is the version of
	// one that was refused there, or 0.
	OfUpstream(ctx context.Context, caller Caller, stale int64) (Credential, error)

	// OfConnection returns what the caller has connected, or the gateway's own credential.
	OfConnection(ctx context.Context, caller Caller, connection string, stale int64) (Credential, error)
}

// Options are the parts that a gateway uses.
type Options struct {
	Config     *gatewayconfig.Config
	Issuer     Issuer
	IssuerURL  string              // for links to the page where users connect
	Strategies map[string]Strategy // strategies of the program, by the name that auth_strategy gives
	Agent      string              // User-Agent for servers
	Log        *slog.Logger        // nil logs nothing

	// Observe counts a message of a server by its outcome: ok, or a kind of [backend.Error]. Nil
	// counts nothing.
	Observe func(server, outcome string, d time.Duration)
}

// Gateway serves the servers of a configuration, which [Gateway.Reload] replaces. It is safe for
// concurrent use.
type Gateway struct {
	o          Options
	strategies *strategies
	ask        asker
	now        atomic.Pointer[set]
	patience   time.Duration // how long a client waits for the lists of a server that is slow
	dial       func(backend.Options) (connection, error)
	changes    changes
	levels     levels

	reload sync.Mutex // held by Reload and Close
	closed bool
}

// connection is a [backend.Backend].
type connection interface {
	Do(ctx context.Context, m backend.Message, notify backend.Notify) (backend.Answer, error)
	List(ctx context.Context, list, session string, header http.Header) ([]json.RawMessage, error)
	Listen(ctx context.Context, session string, header http.Header, uris []string, notify backend.Notify) error
	State() backend.State
	Check(ctx context.Context) error
	Enable(on bool)
	Restart(ctx context.Context) error
	Close()
}

// set are the servers of one configuration.
type set struct {
	config  *gatewayconfig.Config
	members []*member // in the order of the configuration
}

// New returns a gateway, which connects to its servers when they are needed. Close ends it.
func New(o Options) (*Gateway, error) {
	return newGateway(o, func(o backend.Options) (connection, error) { return backend.New(o) })
}

func newGateway(o Options, dial func(backend.Options) (connection, error)) (*Gateway, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Observe == nil {
		o.Observe = func(string, string, time.Duration) {}
	}
	g := &Gateway{o: o, patience: listPatience, dial: dial, strategies: newStrategies(o.Issuer, o.IssuerURL, o.Strategies, o.Log), ask: newAsker(o.IssuerURL)}
	g.now.Store(&set{config: &gatewayconfig.Config{}})
	return g, g.Reload(o.Config)
}

// Reload replaces the configuration. Servers that it does not change go on, with their sessions
// and processes. After an error nothing has changed.
func (g *Gateway) Reload(config *gatewayconfig.Config) error {
	g.reload.Lock()
	defer g.reload.Unlock()
	if g.closed {
		return errors.New("the gateway is closed")
	}
	if err := g.check(config); err != nil {
		return err
	}
	old := g.now.Load()
	next, added, err := g.members(config, old)
	if err != nil {
		for _, m := range added {
			m.close()
		}
		return err
	}
	g.now.Store(next)
	g.strategies.forget()
	for _, m := range added {
		g.watch(m)
	}
	for _, m := range old.members {
		if !slices.Contains(next.members, m) {
			go m.close()
		}
	}
	g.changes.tell("")
	return nil
}

// check returns an error if names would be ambiguous, or a strategy is not known.
func (g *Gateway) check(config *gatewayconfig.Config) error {
	var faults []error
	for i, s := range config.Servers {
		if !g.strategies.knows(s) {
			faults = append(faults, fmt.Errorf("servers[%d].auth_strategy: there is no strategy %q", i, s.Strategy))
		}
		for _, other := range config.Servers {
			if config.Prefix && s != other && strings.HasPrefix(other.ID+config.Separator, s.ID+config.Separator) {
				faults = append(faults, fmt.Errorf("servers[%d].id: names of the server %q could be those of %q", i, other.ID, s.ID))
			}
		}
	}
	return errors.Join(faults...)
}

// members returns the servers of a configuration: those of old that are not changed, and new ones.
func (g *Gateway) members(config *gatewayconfig.Config, old *set) (next *set, added []*member, err error) {
	next = &set{config: config}
	for _, s := range config.Servers {
		prefix := ""
		if config.Prefix {
			prefix = s.ID + config.Separator
		}
		if i := slices.IndexFunc(old.members, func(m *member) bool { return m.same(s, prefix, config, old.config) }); i >= 0 {
			next.members = append(next.members, old.members[i])
			continue
		}
		m := &member{config: s, prefix: prefix, deny: config.DenyByDefault, own: g.o.Strategies[ForServer+s.ID] != nil}
		m.backend, err = g.dial(backend.Options{
			Server: s, Routing: config.Routing, Log: g.o.Log, Agent: g.o.Agent,
			Changed: func(list string) { g.changed(m, list) },
			Observe: func(outcome string, d time.Duration) { g.o.Observe(s.ID, outcome, d) },
		})
		if err != nil {
			return nil, added, err
		}
		added = append(added, m)
		next.members = append(next.members, m)
	}
	return next, added, nil
}

// same reports whether m serves what s describes.
func (m *member) same(s *gatewayconfig.Server, prefix string, config, old *gatewayconfig.Config) bool {
	return m.prefix == prefix && m.deny == config.DenyByDefault && reflect.DeepEqual(config.Routing, old.Routing) && reflect.DeepEqual(m.config, s)
}

// close ends a server when its running messages have been answered.
func (m *member) close() {
	if m.end != nil {
		m.end()
	}
	m.use.Lock() // no message comes after this one
	m.backend.Close()
}

// Close ends the servers when their running messages have been answered. The gateway serves
// nothing any more.
func (g *Gateway) Close() {
	g.reload.Lock()
	defer g.reload.Unlock()
	g.closed = true
	old := g.now.Swap(&set{config: &gatewayconfig.Config{}})
	var work sync.WaitGroup
	for _, m := range old.members {
		work.Go(m.close)
	}
	work.Wait()
}

// changed forgets a list of a server and tells listeners.
func (g *Gateway) changed(m *member, list string) {
	m.lists.forget(list)
	g.changes.tell(list)
}

const (
	watchAgain    = time.Second // time to the next try to listen to a server
	watchAgainMax = time.Minute
)

// watch listens to a server for changes of its lists, and reads these ahead, if all callers see the
// same.
func (g *Gateway) watch(m *member) {
	if !m.shares() {
		return
	}
	ctx, end := context.WithCancel(context.Background())
	m.end = end
	go g.listenAgain(ctx, m.config.ID, func() error {
		header, err := g.strategies.headers(ctx, Caller{}, m.config, false)
		if err != nil {
			return err
		}
		return m.backend.Listen(ctx, "", header, nil, nil)
	})
}

// listenAgain calls listen, which returns when a server is no longer listened to, again and again
// until ctx ends. It pauses longer after each time, unless listen has lasted.
func (g *Gateway) listenAgain(ctx context.Context, server string, listen func() error) {
	for wait := watchAgain; ; wait = min(2*wait, watchAgainMax) {
		begin := time.Now()
		err := listen()
		if ctx.Err() != nil {
			return
		}
		if time.Since(begin) > watchAgainMax {
			wait = watchAgain
		}
		g.o.Log.Debug("no longer listening to a server", "server", server, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// State returns the states of the servers, in the order of the configuration.
func (g *Gateway) State() []backend.State {
	var states []backend.State
	s := g.now.Load()
	collisions := s.collisions()
	for _, m := range s.members {
		state := m.backend.State()
		state.LeftOut = collisions[m]
		for i, k := range kinds {
			if why := m.unlisted[i].Load(); why != nil && state.Status == "running" {
				state.LeftOut = append(state.LeftOut, fmt.Sprintf("its %ss cannot be listed: %s", k.item, *why))
			}
		}
		states = append(states, state)
	}
	return states
}

// ErrUnknown says that there is no server of that id.
var ErrUnknown = errors.New("no such server")

// Enable lets a server be used, or not, until the next start.
func (g *Gateway) Enable(id string, on bool) error {
	return g.with(id, func(m *member) error {
		m.backend.Enable(on)
		g.changed(m, "")
		return nil
	})
}

// Restart ends the sessions or the process of a server and begins anew.
func (g *Gateway) Restart(ctx context.Context, id string) error {
	return g.with(id, func(m *member) error {
		defer g.changed(m, "")
		return m.backend.Restart(ctx)
	})
}

// Check asks a server whether it works.
func (g *Gateway) Check(ctx context.Context, id string) error {
	return g.with(id, func(m *member) error { return m.backend.Check(ctx) })
}

func (g *Gateway) with(id string, do func(m *member) error) error {
	for _, m := range g.now.Load().members {
		if m.config.ID == id {
			return do(m)
		}
	}
	return ErrUnknown
}
