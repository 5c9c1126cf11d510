package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/oauth"
	"signet/internal/upstream"
	"signet/jwt"
	"signet/mcp"
)

// LocalOptions say what a [Local] serves. The zero value of each field stands for the default
// that its comment names.
type LocalOptions struct {
	App    string   // name in the MCP handshake; default: Signet
	Scopes []string // scopes that the caller has; default: read write admin

	// Upstream has the file with the upstream, of which Username and Password are an
	// account. It must have one upstream of the type password. Default: tools get no token.
	Upstream           Upstream
	Username, Password string

	Log *slog.Logger // default: nothing is logged
}

// Local is an MCP server for programs on the machine of its one user. It speaks over stdin and
// stdout, has no OAuth, listens nowhere and keeps nothing. Every caller may call every tool.
type Local struct {
	// MCP takes the tools.
	MCP *sdk.Server

	upstreams *upstream.Set
	caller    jwt.Claims
	account   *account // nil: no upstream
	log       *slog.Logger
}

// NewLocal signs in at the upstream, if there is an account. It returns an error if the upstream
// refuses the account. If the upstream does not answer, the first tool that needs it signs in.
func NewLocal(ctx context.Context, o LocalOptions) (*Local, error) {
	setDefault(&o.App, "Signet")
	if len(o.Scopes) == 0 {
		o.Scopes = []string{"read", "write", "admin"}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &Local{MCP: mcp.NewServer(o.App, Version), log: o.Log, caller: jwt.Claims{Subject: "local", ClientID: "stdio", Scope: oauth.FormatScope(o.Scopes)}}
	var err error
	if l.upstreams, err = o.Upstream.OpenForTools(); err != nil {
		return nil, err
	}
	if o.Username == "" && o.Password == "" {
		return l, nil
	}
	provider, err := onlyPassword(l.upstreams)
	if err != nil {
		return nil, err
	}
	if o.Username == "" || o.Password == "" {
		return nil, errors.New("SIGNET_UPSTREAM_USERNAME, SIGNET_UPSTREAM_PASSWORD: one is of no use without the other")
	}
	l.account = &account{provider: provider, name: o.Username, password: o.Password, log: o.Log}
	who, err := l.account.signIn(ctx)
	switch {
	case errors.Is(err, upstream.ErrCredentials):
		return nil, fmt.Errorf("SIGNET_UPSTREAM_USERNAME, SIGNET_UPSTREAM_PASSWORD: %s refuses them", provider.Name())
	case err != nil:
		o.Log.WarnContext(ctx, "the upstream does not answer; the first tool that needs it tries again", "upstream", provider.ID(), "err", err)
		who = o.Username
	}
	l.caller.Subject = "upstream:" + provider.ID() + ":" + who
	return l, nil
}

// onlyPassword returns the one provider of set that takes passwords.
func onlyPassword(set *upstream.Set) (one *upstream.Provider, err error) {
	if set != nil {
		for _, p := range set.All() {
			switch {
			case p.Kind() != upstream.Password:
			case one != nil:
				return nil, fmt.Errorf("SIGNET_UPSTREAM_CONFIG: SIGNET_UPSTREAM_USERNAME may be an account at %s or at %s: leave one upstream of the type password", one.ID(), p.ID())
			default:
				one = p
			}
		}
	}
	if one == nil {
		return nil, errors.New("SIGNET_UPSTREAM_CONFIG: SIGNET_UPSTREAM_USERNAME needs a file with an upstream of the type password")
	}
	return one, nil
}

// AddSamples is [Server.AddSamples].
func (l *Local) AddSamples() { addSamples(l.MCP, new(mcp.Access).Require, l.upstreams) }

// Serve answers the messages in in until it ends, or ctx does, and then returns nil. Requests before
// the end of in are answered, if that takes no longer than half a minute.
func (l *Local) Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	l.MCP.AddReceivingMiddleware(mcp.Contain(l.log))
	var source mcp.UpstreamSource // nil, and not a nil *account
	if l.account != nil {
		source = l.account
	}
	l.log.Info("serving", "transport", "stdio", "sub", l.caller.Subject)
	err := l.MCP.Run(mcp.WithCaller(ctx, l.caller, source), answering{&sdk.IOTransport{Reader: closer(in), Writer: keepOpen{out}}})
	if ctx.Err() != nil || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// lastAnswers is how long the end of the input waits for the answers to the requests before it.
const lastAnswers = 30 * time.Second

// answering is a transport that ends once its requests are answered. The SDK gives up all calls
// at the end of the input, which for requests in a file or a pipe comes at once.
type answering struct{ sdk.Transport }

// Connect is [sdk.Transport.Connect].
func (t answering) Connect(ctx context.Context) (sdk.Connection, error) {
	conn, err := t.Transport.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &answeringConn{Connection: conn, open: map[jsonrpc.ID]bool{}, answered: make(chan struct{}, 1)}, nil
}

type answeringConn struct {
	sdk.Connection

	mu       sync.Mutex
	open     map[jsonrpc.ID]bool // requests without an answer
	answered chan struct{}       // gets a value when open has become empty
}

// Read is [sdk.Connection.Read].
func (c *answeringConn) Read(ctx context.Context) (jsonrpc.Message, error) {
	m, err := c.Connection.Read(ctx)
	if r, ok := m.(*jsonrpc.Request); ok && r.IsCall() {
		c.mu.Lock()
		c.open[r.ID] = true
		c.mu.Unlock()
	}
	if errors.Is(err, io.EOF) {
		c.wait(ctx)
	}
	return m, err
}

func (c *answeringConn) wait(ctx context.Context) {
	limit := time.NewTimer(lastAnswers)
	defer limit.Stop()
	for {
		c.mu.Lock()
		n := len(c.open)
		c.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-limit.C:
			return
		case <-c.answered:
		}
	}
}

// Write is [sdk.Connection.Write].
func (c *answeringConn) Write(ctx context.Context, m jsonrpc.Message) error {
	err := c.Connection.Write(ctx, m)
	if r, ok := m.(*jsonrpc.Response); ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.open, r.ID)
		if len(c.open) == 0 {
			select {
			case c.answered <- struct{}{}:
			default:
			}
		}
	}
	return err
}

// closer returns in with a Close, which ends a Read of a pipe.
func closer(in io.Reader) io.ReadCloser {
	if c, ok := in.(io.ReadCloser); ok {
		return c
	}
	return io.NopCloser(in)
}

// keepOpen is stdout, which is not this package's to close.
type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }

// account is an account at an upstream, and its present token. It is the [mcp.UpstreamSource] of
// a process with one user.
type account struct {
	provider       *upstream.Provider
	name, password string
	log            *slog.Logger

	asking sync.Mutex // held while the upstream is asked

	mu      sync.Mutex
	tokens  upstream.Tokens
	version int64 // of tokens; 0: there are none
}

// Open is [mcp.UpstreamSource.Open].
func (a *account) Open(*jwt.Claims) (mcp.UpstreamToken, error) {
	token, _ := a.current()
	return token, nil
}

func (a *account) current() (mcp.UpstreamToken, upstream.Tokens) {
	a.mu.Lock()
	defer a.mu.Unlock()
	token := mcp.UpstreamToken{Provider: a.provider.ID(), Access: a.tokens.Access, Version: a.version}
	if a.tokens.Expires != 0 {
		token.Expires = time.Unix(a.tokens.Expires, 0)
	}
	return token, a.tokens
}

// Renew is [mcp.UpstreamSource.Renew]. It signs in anew if the upstream refuses to refresh.
func (a *account) Renew(ctx context.Context, _ *jwt.Claims, _ string, stale int64) (mcp.UpstreamToken, error) {
	a.asking.Lock()
	defer a.asking.Unlock()
	token, tokens := a.current()
	if token.Access != "" && token.Version > stale {
		return token, nil
	}
	newer, err := a.provider.Refresh(ctx, tokens)
	switch {
	case err == nil:
		a.keep(newer)
	case errors.Is(err, upstream.ErrRefused) || errors.Is(err, upstream.ErrNoRefresh):
		_, err = a.login(ctx)
	}
	if errors.Is(err, upstream.ErrCredentials) {
		err = fmt.Errorf("%w: %w", mcp.ErrUpstreamEnded, err)
	}
	if err != nil {
		a.log.WarnContext(ctx, "the upstream gave no token", "upstream", a.provider.ID(), "err", err)
		return mcp.UpstreamToken{}, err
	}
	token, _ = a.current()
	return token, nil
}

// Provider is [mcp.UpstreamSource.Provider].
func (a *account) Provider(string) mcp.UpstreamProvider { return describeProvider(a.provider) }

// signIn signs in and returns the user's id at the upstream.
func (a *account) signIn(ctx context.Context) (userID string, err error) {
	a.asking.Lock()
	defer a.asking.Unlock()
	return a.login(ctx)
}

func (a *account) login(ctx context.Context) (userID string, err error) {
	who, tokens, err := a.provider.Login(ctx, a.name, a.password)
	if err != nil {
		return "", err
	}
	a.keep(tokens)
	return who.ID, nil
}

func (a *account) keep(tokens upstream.Tokens) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tokens = tokens
	a.version++
}
