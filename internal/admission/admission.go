// Package admission decides which requests run under overload. Every kind of request has a
// [Class] of its own: a number of its requests run at once, some more wait for a moment, and
// the rest is refused at the door, before the body is read, with an error that clients
// understand. Refusals cost something too, so their number per second is limited; beyond
// the limit a refusal waits for its turn.
//
// Anybody may ask for a page, register a client or present a wrong token. While credentials
// are in use, such requests wait for their turn as well, so that they get a sixth of the
// cores in all, however many of them come, and password hashes get a quarter if the requests
// with a credential are many. What is in memory for everybody, such as keys and health, has
// turns of its own, so that no other flood delays it.
//
// Passwords are checked for one caller after the other: no address and no account can keep
// the others from signing in.
//
// Classes share nothing, so a flood in one class leaves the slots of the others free. The
// number of slots is also the weight of a class: on a busy core the requests in all slots
// get equal turns. Health, keys and metadata have no class and are never refused.
package admission

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// ErrFull is the refusal: more requests of this class came than the server can handle. It
// says nothing about the request itself.
var ErrFull = errors.New("too many requests at once")

const (
	// patience is the longest expected wait with which the door admits a request. It is
	// long enough for a burst, as when a proxy comes back, and short compared with a
	// client's deadline.
	patience = 60 * time.Millisecond

	// longest is the wait after which a request is refused after all, because those before
	// it took longer than expected: as when the store hangs.
	longest = 2 * patience

	// maxQueue bounds the requests that wait, however short their wait is.
	maxQueue = 1024

	// usualQueue is the number of requests per core that wait at all times if more come than
	// are served. A longer queue would let each wait longer and serve fewer: what a request
	// needs has left the caches of the processor when its turn comes. But a burst is over when
	// its requests have waited, so they may fill the whole queue, and again after burstRest.
	usualQueue = 32
	burstRest  = 4 * time.Second

	// burstSlots is the number of slots per core that are in use while the requests of a burst
	// are being read. With more, those that have been read would delay all others, also of
	// other kinds.
	burstSlots = 16
)

// Class bounds the requests of one kind. It is safe for concurrent use.
type Class struct {
	name   string
	slots  chan struct{}
	usual  int64                 // requests that wait without being a burst
	bursts *rate.Limiter         // counts further requests that wait; nil: none may wait
	pace   *pace                 // of refusals; nil: at once
	also   func() bool           // whether the door is closed for another reason; may be nil
	turns  *turns                // orders requests by their callers; nil: they run as they come
	used   *used                 // takes note of the requests with a valid credential; nil: they need none
	yield  func(context.Context) // waits for the turn of a request without one; nil: all need one
	open   bool                  // none needs one

	inbox inbox
	spare int64        // slots that nobody needs while the requests of a burst are being read
	kept  atomic.Int64 // those of them that nobody gets now

	waiting  atomic.Int64
	service  atomic.Int64 // nanoseconds that a slot is held while all are, smoothed
	admitted atomic.Uint64
	refused  atomic.Uint64
}

func newClass(name string, slots int, queued bool) *Class {
	c := &Class{name: name, slots: make(chan struct{}, slots)}
	if queued {
		usual := min(maxQueue, usualQueue*runtime.GOMAXPROCS(0))
		c.usual = int64(usual)
		c.bursts = rate.NewLimiter(rate.Every(burstRest/maxQueue), maxQueue-usual)
		c.spare = int64(max(0, slots-burstSlots*runtime.GOMAXPROCS(0)))
	}
	return c
}

// NewClass returns a class for a program's own use. At most slots requests run at once, and
// no request waits.
func NewClass(name string, slots int) *Class { return newClass(name, slots, false) }

// Slot is the right of one request to run. The zero Slot belongs to no class.
type Slot struct {
	class *Class
	since time.Time
	among int64 // slots in use at that time
	turn  *turn // of a class with turns
}

// Door refuses a request with [ErrFull] if it would get no slot in time. It takes no slot,
// so it may be called before the rest of a request has arrived. A request that anybody may
// send waits here for its turn, see [Classes.Yield]. A nil Class refuses no request, nor
// does a class with turns: whether there is room depends on the caller.
func (c *Class) Door(ctx context.Context) error {
	if c == nil || c.turns != nil {
		return nil
	}
	if c.open {
		c.yield(ctx)
	}
	if !c.full() && (c.also == nil || !c.also()) {
		return nil
	}
	return c.refuse(ctx)
}

func (c *Class) refuse(ctx context.Context) error {
	c.refused.Add(1)
	c.pace.wait(ctx)
	return ErrFull
}

// Refuse is for a request that is refused for lack of room elsewhere, such as a [Budget]. It
// waits as one that the Door refuses does, and returns [ErrFull].
func (c *Class) Refuse(ctx context.Context) error {
	if c == nil {
		return ErrFull
	}
	return c.refuse(ctx)
}

// full reports whether all slots are taken and the queue or the wait for one is too long. The
// expected wait is the length of the queue, times how long a slot is held, over the number of
// slots.
func (c *Class) full() bool {
	if len(c.slots) < cap(c.slots) {
		return false
	}
	n := c.waiting.Load()
	return c.bursts == nil || n >= maxQueue || (n+1)*c.service.Load()/int64(cap(c.slots)) > int64(patience) ||
		n >= c.usual && c.bursts.Tokens() < 1
}

// Enter takes a slot until [Slot.Leave], and waits for it if necessary. It fails with
// ErrFull, also if ctx has ended when there is one. The caller has read the request before, so that slow
// clients hold no slots.
func (c *Class) Enter(ctx context.Context) (Slot, error) { return c.EnterAs(ctx, Caller{}) }

// EnterAs is like Enter for a request of a known caller. In a class with turns, callers
// have the slots in turn.
func (c *Class) EnterAs(ctx context.Context, caller Caller) (Slot, error) {
	if c == nil {
		return Slot{}, nil
	}
	if c.turns != nil {
		t, err := c.turns.enter(ctx, caller)
		if err != nil {
			return Slot{}, c.refuse(ctx)
		}
		c.admitted.Add(1)
		return Slot{class: c, turn: t}, nil
	}
	select {
	case c.slots <- struct{}{}: // overtakes no waiting request: those take a free slot at once
	default:
		if err := c.wait(ctx); err != nil {
			return Slot{}, err
		}
	}
	c.admitted.Add(1)
	return Slot{class: c, since: time.Now(), among: int64(cap(c.slots)) - c.kept.Load()}, nil
}

// Known takes note of a request whose credential was valid, if the requests of the class need
// one. Those that anybody can send leave the cores to such requests.
func (c *Class) Known() {
	if c != nil && c.used != nil {
		c.used.note(time.Now())
	}
}

// Yield is [Classes.Yield], in a class whose requests need not all have a credential.
func (c *Class) Yield(ctx context.Context) {
	if c != nil && c.yield != nil {
		c.yield(ctx)
	}
}

func (c *Class) wait(ctx context.Context) error {
	if c.full() {
		return c.refuse(ctx)
	}
	if n := c.waiting.Add(1); n > maxQueue || n > c.usual && !c.bursts.Allow() {
		c.waiting.Add(-1)
		return c.refuse(ctx)
	}
	defer c.waiting.Add(-1)
	late := time.NewTimer(longest)
	defer late.Stop()
	select {
	case c.slots <- struct{}{}:
	case <-late.C:
		c.refused.Add(1)
		return ErrFull
	}
	// Whether the caller has gone is looked at here and not in the select: the wait is short, and
	// many contexts make a timer for the first who waits for their end.
	if err := ctx.Err(); err != nil {
		<-c.slots
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return nil
}

// Leave frees the slot for the next request.
func (s Slot) Leave() {
	if s.class == nil {
		return
	}
	if s.turn != nil {
		s.class.turns.leave(s.turn)
		return
	}
	took, c := int64(time.Since(s.since)), s.class
	// If two requests leave at the same time, one of them may not be counted.
	before := c.service.Load()
	c.service.Store(before + (took*int64(cap(c.slots))/s.among-before)/16)
	if !c.burst() || !c.inbox.behind(c.caughtUp) || !c.keep() {
		<-c.slots
		return
	}
	c.inbox.behind(c.caughtUp) // the byte may have arrived before the slot was kept
}

// burst reports whether there are slots to spare, and more requests wait than those that always
// may, and as many again as run. On many cores the queue is never so long, and one of them looks
// at the connections.
func (c *Class) burst() bool {
	return c.spare > 0 && c.waiting.Load() > c.usual+int64(cap(c.slots))
}

// keep keeps a slot, unless only the burstSlots are left.
func (c *Class) keep() bool {
	for n := c.kept.Load(); n < c.spare; n = c.kept.Load() {
		if c.kept.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

// caughtUp gives some of the slots that were kept to the requests that wait, and then has the
// connections looked at again: a process that is not behind soon has all slots in use.
func (c *Class) caughtUp() {
	kept := c.kept.Load()
	n := min(kept, int64(cap(c.slots))-c.spare)
	if c.kept.CompareAndSwap(kept, kept-n) {
		for range n {
			<-c.slots
		}
	}
	if c.kept.Load() > 0 {
		c.inbox.behind(c.caughtUp)
	}
}

// Stats are the numbers of one class.
type Stats struct {
	Class    string
	Admitted uint64 // requests that got a slot
	Refused  uint64 // requests refused with ErrFull
	Running  int    // requests that hold a slot now, at most Slots
	Waiting  int    // requests that wait now
	Slots    int
}

// Stats returns the numbers of this instant.
func (c *Class) Stats() Stats {
	if c.turns != nil {
		running, waiting := c.turns.count()
		return Stats{Class: c.name, Admitted: c.admitted.Load(), Refused: c.refused.Load(), Running: running, Waiting: waiting, Slots: c.turns.slots}
	}
	return Stats{
		Class: c.name, Admitted: c.admitted.Load(), Refused: c.refused.Load(),
		Running: max(0, len(c.slots)-int(c.kept.Load())), Waiting: int(c.waiting.Load()), Slots: cap(c.slots),
	}
}

// Classes are the classes of a server, the most important first.
type Classes struct {
	Revoke     *Class
	Refresh    *Class // also the door of the token endpoint, before the grant type is known
	Introspect *Class // also userinfo
	Code       *Class
	Pages      *Class
	Login      *Class // passwords
	Upstream   *Class // requests that wait for the provider at which a user signs in
	Register   *Class
	Documents  *Class
	MCP        *Class

	refusals *pace // of all classes
	open     *pace // of requests without a credential, whatever their answer
	public   *pace // of answers that are in memory for everybody
	used     used  // requests with a valid credential
}

// Refuse waits for the turn of the answer to a request that shows no valid credential, or
// that is over a limit of its caller. The first answers of a burst do not wait. Later ones
// do, for five seconds at most, so that a flood of such requests leaves the cores to others.
func (c *Classes) Refuse(ctx context.Context) { c.open.wait(ctx) }

// Yield waits for the turn of a request that anybody may send, and that is not refused. It
// takes its turn among those of Refuse, but only while requests with a credential come.
func (c *Classes) Yield(ctx context.Context) {
	if c.inUse() {
		c.open.wait(ctx)
	}
}

// YieldLong waits likewise before so many bytes are read, for as many turns as they are worth.
// Requests with a credential are short.
func (c *Classes) YieldLong(ctx context.Context, bytes int64) {
	if n := bytes / bytesOfTurn; n > 0 && c.inUse() {
		c.open.waitFor(ctx, n)
	}
}

// Public waits for the turn of an answer that is in memory for everybody: a document, health,
// or what a browser asks before a request. It waits only while requests with a credential come,
// and for no other requests than these.
func (c *Classes) Public(ctx context.Context) {
	if c.inUse() {
		c.public.wait(ctx)
	}
}

// inUse reports whether requests with a credential come.
func (c *Classes) inUse() bool {
	return time.Since(time.Unix(0, c.used.latest.Load())) < inUse
}

// New returns the classes of one process. Classes of requests that need the store have
// enough slots to fill its groups of writes, and more on more cores.
func New() *Classes {
	cores := runtime.GOMAXPROCS(0)
	c := &Classes{
		Revoke:     newClass("revoke", 16*cores, true),
		Refresh:    newClass("refresh", 128*cores, true),
		Introspect: newClass("introspect", 32*cores, true),
		Code:       newClass("code", 32*cores, true),
		Pages:      newClass("pages", 16*cores, true),
		// A check of a password may ask another machine. See Logins for hashes.
		Login:    &Class{name: "login", turns: newTurns(64*cores, 64*cores)},
		Upstream: &Class{name: "upstream", turns: newTurns(64*cores, 64*cores)},
		Register: newClass("register", 4*cores, true),
		// Requests that wait for other machines. The fetches themselves are bounded, too.
		Documents: newClass("documents", 128*cores, false),
		// A tool may wait for other machines for a long time.
		MCP: newClass("mcp", 1024*cores, false),
	}
	c.refusals = &pace{gap: time.Second / time.Duration(refusals*cores), slowest: slowest, longest: longestTurn}
	c.open = &pace{gap: time.Second / time.Duration(openRequests*cores), slowest: slowest, longest: longestTurn}
	c.public = &pace{gap: time.Second / time.Duration(publicAnswers*cores), slowest: slowestPublic, longest: longestPublic}
	for _, class := range c.All() {
		class.pace = c.refusals
	}
	for _, class := range []*Class{c.Revoke, c.Refresh, c.Introspect, c.Code, c.MCP} {
		class.used = &c.used
	}
	c.Pages.open, c.Register.open = true, true
	for _, class := range []*Class{c.Pages, c.Register, c.MCP} { // a tool may be public
		class.yield = c.Yield
	}
	// Clients that register have no tokens to lose yet.
	c.Register.also = func() bool { return c.tokensWait() || c.Pages.waits() }
	return c
}

// Rest returns how long a core is left to other requests after a password hash that took so
// long. A hash runs in slices of 10 ms, and while it has the only core no request begins, so
// without a rest others would run only between the slices of a flood of hashes. Requests with a
// credential get three quarters of the time if there are many of them, less in proportion if
// there are fewer, and none if there are few: a login is itself followed by some.
func (c *Classes) Rest(took time.Duration) time.Duration {
	perCore := c.used.rate(time.Now()) / float64(runtime.GOMAXPROCS(0))
	share := min(1, max(0, perCore-fewUses)/(manyUses-fewUses))
	return time.Duration(3 * share * float64(took))
}

// used counts the requests with a valid credential.
type used struct {
	latest atomic.Int64 // time in Unix nanoseconds
	count  atomic.Int64

	mu        sync.Mutex
	since     time.Time // of the present window
	before    int64     // count at that time
	perSecond float64   // in the window before
}

// window is the shortest time over which requests are counted.
const window = 100 * time.Millisecond

func (u *used) note(now time.Time) {
	u.latest.Store(now.UnixNano())
	u.count.Add(1)
}

// rate returns how many requests came per second lately.
func (u *used) rate(now time.Time) float64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	if lasted := now.Sub(u.since); lasted >= window {
		count := u.count.Load()
		u.perSecond = float64(count-u.before) / lasted.Seconds()
		u.since, u.before = now, count
	}
	return u.perSecond
}

func (c *Classes) tokensWait() bool {
	return c.Revoke.waits() || c.Refresh.waits() || c.Introspect.waits() || c.Code.waits()
}

func (c *Class) waits() bool { return c.waiting.Load() > 0 }

// Logins says that a login computes a hash, and how many hashes run at once. As many more
// logins run: they wait for a hash in package users, or for the store. The others wait here,
// where callers have turns. Call it before the first request.
func (c *Classes) Logins(hashes int) { c.Login.turns = newTurns(2*hashes, 7*hashes) }

// All returns the classes, the most important first.
func (c *Classes) All() []*Class {
	return []*Class{c.Revoke, c.Refresh, c.Introspect, c.Code, c.Pages, c.Login, c.Upstream, c.Register, c.Documents, c.MCP}
}

const (
	// refusals is the number of refusals per second and core for lack of room. One costs two
	// thirds of a refresh: more of them would take the core from the admitted requests.
	refusals = 250

	// openRequests is the number of requests without a credential per second and core. One
	// costs about 50 µs, so they take a sixth of a core.
	openRequests = 3000

	// bytesOfTurn is the length of a form that costs as much as a request without one.
	bytesOfTurn = 8 << 10

	// publicAnswers is the number of answers per second and core that are in memory for
	// everybody. One costs about 15 µs.
	publicAnswers = 5000

	// fewUses and manyUses are numbers of requests with a credential per second and core. One
	// costs about 100 µs. Password hashes take no heed of few, and have a quarter of the time
	// beside many.
	fewUses, manyUses = 200, 1500

	// burst is the number of requests without a wait after a quiet moment.
	burst = 50

	// longestTurn is the longest wait for a turn. Probes of health and verifiers that ask for keys
	// have short time limits, so they wait for less.
	longestTurn   = 5 * time.Second
	longestPublic = 500 * time.Millisecond

	// inUse is how long after a request with a credential the cores are shared with such
	// requests.
	inUse = time.Second

	// tolerable is how late a timer may be on a busy core. A pace is half as fast if its
	// timers are so late, and slowest times slower at most.
	tolerable     = time.Millisecond
	slowest       = 16
	slowestPublic = 2
)

// pace spreads answers. A client that waits for its answer costs nothing meanwhile, and
// sends nothing more over its connection. If the answers of the longest wait are not enough
// for all clients, each waits as long: the number of connections is bounded.
//
// Timers that fire late show that the cores have more to do than they can, because of a slow
// machine, its other programs, or requests of other kinds. The answers get slower then.
type pace struct {
	gap     time.Duration // between two answers, if the cores are not busy
	slowest time.Duration // how many gaps there are between them at most
	longest time.Duration // wait

	mu   sync.Mutex
	next time.Time
	late time.Duration // by which timers fire, smoothed
}

func (p *pace) wait(ctx context.Context) { p.waitFor(ctx, 1) }

// waitFor waits for the first of so many turns.
func (p *pace) waitFor(ctx context.Context, turns int64) {
	if p == nil {
		return
	}
	due, d := p.turn(time.Now(), turns)
	if d <= 0 {
		return
	}
	turn := time.NewTimer(d)
	defer turn.Stop()
	select {
	case <-turn.C:
		p.fired(time.Since(due))
	case <-ctx.Done():
	}
}

// turn returns when the next answer is due, which takes so many turns, and how long that is from
// now.
func (p *pace) turn(now time.Time, turns int64) (due time.Time, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	gap := min(p.gap+time.Duration(float64(p.gap)*float64(p.late)/float64(tolerable)), p.slowest*p.gap)
	if earliest := now.Add(-burst * gap); p.next.Before(earliest) {
		p.next = earliest
	}
	if latest := now.Add(p.longest); p.next.After(latest) {
		return latest, p.longest
	}
	due = p.next
	p.next = p.next.Add(time.Duration(turns) * gap)
	return due, due.Sub(now)
}

// fired takes note of how late a timer was.
func (p *pace) fired(late time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late += (late - p.late) / 64
}
