package backend

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/bulkhead"

	"signet/internal/gatewayconfig"
)

// Options are what a Backend is made of.
type Options struct {
	Server  *gatewayconfig.Server
	Routing gatewayconfig.Routing
	Log     *slog.Logger
	Agent   string // User-Agent of requests, and name and version of the client: "signet/1.2"

	// Changed is called when the server says that one of its lists has changed: "tools",
	// "prompts" or "resources"; or empty if all may have, as after a restart. Nil: nobody cares.
	Changed func(list string)

	// Observe is called with the outcome of each message: "ok", or the kind of its error, or
	// "canceled" if the caller left. Nil: nobody counts.
	Observe func(outcome string, d time.Duration)

	pace pace // of processes; zero: the usual one

	params *params // of the server's tools; New makes it
}

// Backend is one server with all its instances. Its methods may be called concurrently.
type Backend struct {
	o         Options
	instances []*instance
	requests  bulkhead.Bulkhead[any]
	twice     failsafe.Executor[Answer] // for messages that may be sent twice; nil: nothing is repeated
	once      failsafe.Executor[Answer] // for others

	switching sync.Mutex // held while disabled changes, and while a disabled server is put to rest
	disabled  atomic.Bool
	running   atomic.Int64 // messages and checks

	end    context.CancelFunc // of the health checks
	checks sync.WaitGroup
	due    chan struct{} // has one if a check is due now

	mu     sync.Mutex
	status string // as in State, apart from disabled
	since  time.Time
}

// maxWait is how long a message waits when too many run.
const maxWait = time.Second

// New returns a server, and begins to check its health. The caller closes it.
func New(o Options) (*Backend, error) {
	if len(o.Server.Instances) == 0 {
		return nil, errors.New("server " + o.Server.ID + " has no instance")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func(string) {}
	}
	if o.Observe == nil {
		o.Observe = func(string, time.Duration) {}
	}
	o.Routing = withDefaults(o.Routing)
	o.params = &params{}
	most := o.Server.MaxRequests
	if most <= 0 {
		most = defaultMaxRequests
	}
	b := &Backend{o: o, requests: bulkhead.New[any](uint(most)), since: time.Now(), due: make(chan struct{}, 1)}
	if o.Routing.Retries > 0 {
		b.twice, b.once = newRetry(o.Routing, true), newRetry(o.Routing, o.Routing.RetryAnyMethod)
	}
	for _, i := range o.Server.Instances {
		n, err := b.newInstance(i)
		if err != nil {
			return nil, err
		}
		b.instances = append(b.instances, n)
	}
	ctx, end := context.WithCancel(context.Background())
	b.end = end
	b.checks.Go(func() { b.watch(ctx) })
	return b, nil
}

func withDefaults(r gatewayconfig.Routing) gatewayconfig.Routing {
	if r.FailureThreshold <= 0 {
		r.FailureThreshold = 5
	}
	if r.SuccessThreshold <= 0 {
		r.SuccessThreshold = 2
	}
	if r.Recovery <= 0 {
		r.Recovery = 30 * time.Second
	}
	return r
}

// Do sends a message and returns the answer. Its error is an *Error, or that of ctx.
func (b *Backend) Do(ctx context.Context, m Message, notify Notify) (Answer, error) {
	begin := time.Now()
	a, err := b.do(ctx, m, notify)
	if a.Error != nil && b.lacksHeaders(ctx, m, a) {
		a, err = b.do(ctx, m, notify)
	}
	b.o.Observe(outcome(ctx, err), time.Since(begin))
	return a, err
}

// lacksHeaders reports whether a server has refused the call of a tool because it wants arguments
// in headers, which its list now says.
func (b *Backend) lacksHeaders(ctx context.Context, m Message, a Answer) bool {
	if m.Method != "tools/call" || errorCode(a.Error) != codeHeaderMismatch || b.o.params.knows(m.Name) {
		return false
	}
	_, err := b.List(ctx, "tools", m.Session, m.Header)
	return err == nil && b.o.params.knows(m.Name)
}

// outcome is the name of what became of a message.
func outcome(ctx context.Context, err error) string {
	e, ok := errors.AsType[*Error](err)
	switch {
	case err == nil:
		return "ok"
	case ok:
		return e.Kind
	case ctx.Err() != nil:
		return "canceled"
	}
	return Down
}

func (b *Backend) do(ctx context.Context, m Message, notify Notify) (Answer, error) {
	if err := b.enter(); err != nil {
		return Answer{}, err
	}
	defer b.left()
	if err := b.requests.AcquirePermitWithMaxWait(ctx, maxWait); err != nil {
		if ctx.Err() != nil {
			return Answer{}, ctx.Err()
		}
		return Answer{}, &Error{Server: b.o.Server.ID, Kind: Busy, What: "too many requests run at once", RetryAfter: maxWait}
	}
	defer b.requests.ReleasePermit()
	way := &message{b: b}
	defer way.done()
	a, err := way.send(ctx, m, notify)
	repeat := b.once
	if m.Safe {
		repeat = b.twice
	}
	if err == nil || repeat == nil {
		return a, err
	}
	return again(ctx, repeat, a, err, func() (Answer, error) { return way.send(ctx, m, notify) })
}

// again repeats a message whose first attempt has failed. A message that succeeds at once, as most
// do, has nothing of the cost of repeat.
func again(ctx context.Context, repeat failsafe.Executor[Answer], first Answer, failure error, send func() (Answer, error)) (Answer, error) {
	made := false
	a, err := repeat.WithContext(ctx).Get(func() (Answer, error) {
		if !made {
			made = true
			return first, failure
		}
		return send()
	})
	if err != nil && ctx.Err() != nil {
		return Answer{}, ctx.Err()
	}
	return a, err
}

// enter counts a message, which calls left when it ends, unless the server is disabled.
func (b *Backend) enter() error {
	if err := b.refused(); err != nil {
		return err // without a wait for what ends it
	}
	b.running.Add(1)
	err := b.refused()
	if err != nil {
		b.left()
	}
	return err
}

// refused is the error of a server that the operator has disabled.
func (b *Backend) refused() error {
	if b.disabled.Load() {
		return &Error{Server: b.o.Server.ID, Kind: Disabled, What: "it is disabled"}
	}
	return nil
}

// send sends a message once, to the instance whose turn it is.
func (m *message) send(ctx context.Context, msg Message, notify Notify) (Answer, error) {
	u, err := m.take()
	if err != nil {
		return Answer{}, err
	}
	a, err := u.conn.do(ctx, msg, notify)
	u.verdict = judge(ctx, err)
	if e, ok := errors.AsType[*Error](err); ok && e.single {
		u.verdict = none
	}
	m.b.learn(u.instance, u.verdict, err)
	return a, err
}

// judge returns what the outcome of a message says of an instance. One that refuses a message is
// well.
func judge(ctx context.Context, err error) verdict {
	e, ok := errors.AsType[*Error](err)
	switch {
	case err == nil:
		return good
	case !ok || ctx.Err() != nil:
		return none
	case 400 <= e.Status && e.Status < 500:
		return good
	}
	return bad
}

// Listen passes on what the server says unasked, until ctx or the connection ends: that its lists
// have changed, and that the resources of uris have. Changes of lists also go to Options.Changed.
// The error says how it ended; a server that says nothing unasked is listened to until ctx ends.
func (b *Backend) Listen(ctx context.Context, session string, header http.Header, uris []string, notify Notify) error {
	if err := b.refused(); err != nil {
		return err
	}
	return b.listener().conn.listen(ctx, session, header, uris, notify)
}

// listener is the instance that is listened to: the first that is not down.
func (b *Backend) listener() *instance {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.instances {
		if n.status != statusError {
			return n
		}
	}
	return b.instances[0]
}

// Close ends everything that is open. It is called once, and no message comes after it.
func (b *Backend) Close() {
	b.end()
	var wait sync.WaitGroup
	for _, n := range b.instances {
		wait.Go(n.conn.close)
	}
	wait.Wait()
	b.checks.Wait()
}

// name is an instance in an error, if there are several.
func (b *Backend) name(n *instance) string {
	for i, other := range b.instances {
		if other == n && len(b.instances) > 1 {
			return "instance " + strconv.Itoa(i+1) + " (" + n.address + "): "
		}
	}
	return ""
}
