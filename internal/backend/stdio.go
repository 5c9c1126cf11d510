package backend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"signet/internal/gatewayconfig"
	"signet/internal/rawjson"
)

// stdioConn is a server that speaks over the standard input and output of a process, one line for
// each message. All callers share one process: it is started when the first message needs it, and
// again after it has ended, with growing pauses. Nothing that the server sends reaches another
// caller than that of the message it belongs to. A notifications/message does not say to which one
// it belongs, so it reaches the log only.
type stdioConn struct {
	server   *gatewayconfig.Server
	instance gatewayconfig.Instance
	timeout  time.Duration // without an answer and without progress
	max      int           // bytes of one line
	agent    string        // name and version of the client: "signet/1.2"
	log      *slog.Logger
	pace     pace
	changes  changes

	lives sync.WaitGroup // one for each life

	mu       sync.Mutex
	life     *life // the latest one that has not ended
	closed   bool
	old      bool      // the process once ended at server/discover, and is not asked again
	again    bool      // there was a life before
	failures int       // starts that failed and processes that ended soon, in a row
	next     time.Time // when the process may be started again
}

// pace has the durations that a stdioConn keeps to.
type pace struct {
	start    time.Duration // for the start, with the agreement on a version
	discover time.Duration // the part of start in which server/discover is to be answered
	grace    time.Duration // after each request to end, until the next and less polite one
	steady   time.Duration // of a process that ended without a fault in how it was started
	pause    time.Duration // before the second start in a row; doubled for each further one
	maxPause time.Duration
	patience time.Duration // messages wait for a pause that is not longer than this
}

var usualPace = pace{start: 10 * time.Second, discover: 3 * time.Second, grace: time.Second, steady: time.Minute,
	pause: 250 * time.Millisecond, maxPause: 30 * time.Second, patience: time.Second}

// life is a process from its start to its end.
type life struct {
	stop  context.CancelFunc
	meant bool          // the end was asked for; under mu of the stdioConn
	up    chan struct{} // closed when the process answers, or has not come so far
	over  chan struct{} // closed when nothing of the process is left

	process *process // set under mu of the stdioConn before up is closed, unless err is
	err     error
}

// newStdio returns an instance that is a process. It calls o.Changed with the name of each list
// that the server says has changed, and with "" after a restart, from a goroutine of its own.
func newStdio(o Options, i gatewayconfig.Instance) *stdioConn {
	c := &stdioConn{server: o.Server, instance: i, agent: o.Agent, log: o.Log.With("server", o.Server.ID), changes: changes{tell: o.Changed}, pace: o.pace,
		timeout: cmp.Or(o.Server.Timeout, defaultTimeout), max: cmp.Or(o.Server.MaxAnswer, defaultMaxAnswer)}
	if c.pace == (pace{}) {
		c.pace = usualPace
	}
	return c
}

// unsent is the failure of a message that did not reach the process.
func (c *stdioConn) unsent(format string, args ...any) *Error {
	return unsent(c.server, fmt.Sprintf(format, args...))
}

// down is the failure of a message that may have reached the process.
func (c *stdioConn) down(format string, args ...any) *Error {
	return &Error{Server: c.server.ID, Kind: Down, What: fmt.Sprintf(format, args...)}
}

func (c *stdioConn) do(ctx context.Context, m Message, notify Notify) (Answer, error) {
	p, err := c.running(ctx)
	if err != nil {
		return Answer{}, err
	}
	return p.do(ctx, m, notify)
}

// check reports whether the server answers. A process that does not, although it has nothing else
// to do, is ended.
func (c *stdioConn) check(ctx context.Context) error {
	p, err := c.running(ctx)
	if err != nil {
		return err
	}
	err = p.ping(ctx)
	if err != nil && !errors.Is(err, context.Canceled) && p.idle() {
		c.end(ctx, p)
	}
	return err
}

// listen passes on that the resources have changed, until ctx or the process ends. That lists have
// changed is told to Changed, whoever listens.
func (c *stdioConn) listen(ctx context.Context, _ string, _ http.Header, uris []string, notify Notify) error {
	p, err := c.running(ctx)
	if err != nil {
		return err
	}
	return p.listen(ctx, uris, notify)
}

// restart ends the process, and lets the next message start another one at once.
func (c *stdioConn) restart(ctx context.Context) error {
	if err := c.end(ctx, nil); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures, c.next = 0, time.Time{}
	return nil
}

// end ends the process, if it is p or p is nil, and waits until nothing of it is left.
func (c *stdioConn) end(ctx context.Context, p *process) error {
	c.mu.Lock()
	l := c.life
	if l == nil || p != nil && l.process != p {
		c.mu.Unlock()
		return nil
	}
	l.meant = p == nil
	l.stop()
	c.mu.Unlock()
	select {
	case <-l.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close ends the process and waits until nothing of it is left. Messages fail from now on.
func (c *stdioConn) close() {
	c.mu.Lock()
	c.closed = true
	if c.life != nil {
		c.life.meant = true
		c.life.stop()
	}
	c.mu.Unlock()
	c.lives.Wait()
	c.changes.work.Wait()
}

// running returns the process, which it starts if need be.
func (c *stdioConn) running(ctx context.Context) (*process, error) {
	for {
		l, pause, err := c.current()
		if err != nil {
			return nil, err
		}
		if l == nil {
			if err := sleep(ctx, pause); err != nil {
				return nil, err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-l.up:
		}
		if l.err != nil {
			return nil, l.err
		}
		if !l.process.hasEnded() {
			return l.process, nil
		}
		select { // until the stdioConn knows of the end as well
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-l.over:
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// current returns the present life, or a new one, or how long it is until there may be one.
func (c *stdioConn) current() (*life, time.Duration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, 0, c.unsent("is being stopped")
	}
	if c.life != nil {
		return c.life, 0, nil
	}
	if pause := time.Until(c.next); pause > c.pace.patience {
		err := c.unsent("its process ended, and will be started again in %s", pause.Round(time.Second))
		err.RetryAfter = pause
		return nil, 0, err
	} else if pause > 0 {
		return nil, pause, nil
	}
	ctx, stop := context.WithCancel(context.Background())
	c.life = &life{stop: stop, up: make(chan struct{}), over: make(chan struct{})}
	l, again := c.life, c.again
	c.again = true
	c.lives.Go(func() { c.live(ctx, l, again) })
	return l, 0, nil
}

// live starts the process and stays until its end.
func (c *stdioConn) live(ctx context.Context, l *life, again bool) {
	begin := time.Now()
	defer close(l.over)
	defer l.stop()
	process, err := c.start(ctx)
	c.mu.Lock() // end looks at the process of a life that is not up yet
	l.process, l.err = process, err
	c.mu.Unlock()
	if err != nil {
		c.ended(l, time.Since(begin)) // before callers who hear of it come back
		close(l.up)
		return
	}
	close(l.up)
	if again {
		c.changes.add("")
	}
	select {
	case <-process.ended:
	case <-ctx.Done():
		process.stop()
	}
	c.ended(l, time.Since(begin))
}

// ended decides when the process may be started again.
func (c *stdioConn) ended(l *life, lived time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.life = nil
	c.next = time.Now()
	if l.meant {
		return
	}
	if lived > c.pace.steady {
		c.failures = 0
	}
	c.failures++
	pause := min(c.pace.pause<<min(c.failures-1, 10), c.pace.maxPause)
	c.next = c.next.Add(pause)
	if l.err != nil {
		c.log.Warn("the server cannot be started", "error", l.err, "next_try", pause)
	} else {
		c.log.Warn("the server's process has ended", "status", l.process.status(), "lived", lived.Round(time.Millisecond), "next_start", pause)
	}
}

// start starts a process and agrees with it on a version of the protocol.
func (c *stdioConn) start(ctx context.Context) (*process, error) {
	ctx, cancel := context.WithTimeout(ctx, c.pace.start)
	defer cancel()
	p, err := c.spawn()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	old := c.old
	c.mu.Unlock()
	if err = p.agree(ctx, old); err != nil && !old && p.hasEnded() && ctx.Err() == nil {
		if p, err = c.spawn(); err != nil { // it may be too old for the first question
			return nil, err
		}
		if err = p.agree(ctx, true); err == nil {
			c.mu.Lock()
			c.old = true
			c.mu.Unlock()
		}
	}
	if err != nil {
		p.stop()
		return nil, c.startFault(ctx, err)
	}
	c.log.Debug("the server has been started", "pid", p.cmd.Process.Pid, "protocol", p.version)
	return p, nil
}

// startFault is the failure of a start for the callers, whose own contexts have not ended.
func (c *stdioConn) startFault(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return c.unsent("its process did not answer within %s of its start", c.pace.start)
	case ctx.Err() != nil:
		return c.unsent("is being stopped")
	}
	return err
}

// agree finds the version of the protocol. Old says that the process does not know server/discover.
func (p *process) agree(ctx context.Context, old bool) error {
	var slow bool
	if !old {
		asking, cancel := context.WithTimeout(ctx, p.conn.pace.discover)
		err := p.discover(asking)
		slow = asking.Err() != nil
		cancel()
		if err == nil || p.hasEnded() {
			return err
		}
	}
	err := p.initialize(ctx)
	if err != nil && slow && ctx.Err() == nil {
		if p.discover(ctx) == nil { // it was only slow to start
			return nil
		}
	}
	return err
}

func (c *stdioConn) era() string {
	c.mu.Lock()
	l := c.life
	c.mu.Unlock()
	if l == nil {
		return ""
	}
	select {
	case <-l.up:
		if l.err == nil {
			return l.process.version
		}
	default:
	}
	return ""
}

// environment returns the whole environment of the process, and a replacer of its secrets.
func (c *stdioConn) environment(lookup func(string) (string, bool)) ([]string, *strings.Replacer) {
	var env, secrets []string
	for _, name := range []string{"PATH", "HOME", "LANG", "TMPDIR"} {
		if value, ok := lookup(name); ok {
			env = append(env, name+"="+value)
		}
	}
	for name, value := range c.instance.Env {
		env = append(env, name+"="+string(value))
		if len(value) >= 6 { // shorter ones, such as "true", are in ordinary words
			quoted := rawjson.Quote(string(value))
			secrets = append(secrets, string(value), "***", string(quoted[1:len(quoted)-1]), "***")
		}
	}
	slices.Sort(env[len(env)-len(c.instance.Env):])
	return env, strings.NewReplacer(secrets...)
}
