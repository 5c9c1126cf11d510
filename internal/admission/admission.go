// Package admission decides which requests are worked on when more come than can be
// served. Every kind of request has a [Class] of its own: so many run at once, some
// more wait for a moment, and the rest is refused at the door, before its body is read,
// with an error that clients take for what it is. Refusals cost something too, so there
// is a limit to how many are given a second; beyond it a refusal waits for its turn.
//
// Classes share nothing, so a flood in one leaves the slots of the others alone. How
// many slots they have is also their weight: on a busy core a request of each slot
// gets an equal turn. Health, keys and metadata have no class and are never refused.
package admission

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// ErrFull is the refusal: more requests of this class came than can be served. It is
// about us and says nothing about the request.
var ErrFull = errors.New("too many requests at once")

const (
	// patience is the longest wait that the door lets anybody in for. It is long enough
	// for a burst, as when a proxy comes back, and short beside a client's deadline.
	patience = 100 * time.Millisecond

	// longest is when somebody who waits is refused after all, because those before
	// took longer than others had: as when the store hangs.
	longest = 2 * patience

	// maxQueue bounds what waits whatever it costs.
	maxQueue = 1024
)

// Class bounds the requests of one kind. It is safe for concurrent use.
type Class struct {
	name   string
	slots  chan struct{}
	queued bool        // whether requests may wait
	pace   *pace       // of refusals; nil: at once
	also   func() bool // closes the door as well; may be nil

	waiting  atomic.Int64
	service  atomic.Int64 // nanoseconds that a slot is held, smoothed
	admitted atomic.Uint64
	refused  atomic.Uint64
}

func newClass(name string, slots int, queued bool) *Class {
	return &Class{name: name, slots: make(chan struct{}, slots), queued: queued}
}

// NewClass returns a class for a program's own use: so many run at once, and nobody
// waits.
func NewClass(name string, slots int) *Class { return newClass(name, slots, false) }

// Slot is the place of one request among those that run. The zero Slot is none.
type Slot struct {
	class *Class
	since time.Time
}

// Door refuses a request with [ErrFull] if it would find no slot in time. It takes
// none, so it may be asked before the rest of a request has arrived. A nil Class
// refuses nobody.
func (c *Class) Door(ctx context.Context) error {
	if c == nil || !c.full() && (c.also == nil || !c.also()) {
		return nil
	}
	return c.refuse(ctx)
}

func (c *Class) refuse(ctx context.Context) error {
	c.refused.Add(1)
	c.pace.wait(ctx)
	return ErrFull
}

// full reports whether all slots are taken and the wait for one is too long: the time
// that a slot is held, for each in the queue, over the number of slots.
func (c *Class) full() bool {
	if len(c.slots) < cap(c.slots) {
		return false
	}
	n := c.waiting.Load()
	return !c.queued || n >= maxQueue || (n+1)*c.service.Load()/int64(cap(c.slots)) > int64(patience)
}

// Enter takes a slot, after a wait if need be, until [Slot.Leave]. It fails with
// ErrFull, also when ctx ends first. The caller has read the request:
// nobody holds a slot whose client takes its time.
func (c *Class) Enter(ctx context.Context) (Slot, error) {
	if c == nil {
		return Slot{}, nil
	}
	select {
	case c.slots <- struct{}{}: // never past somebody who waits: they fill a free slot at once
	default:
		if err := c.wait(ctx); err != nil {
			return Slot{}, err
		}
	}
	c.admitted.Add(1)
	return Slot{c, time.Now()}, nil
}

func (c *Class) wait(ctx context.Context) error {
	if c.full() {
		return c.refuse(ctx)
	}
	defer c.waiting.Add(-1)
	if c.waiting.Add(1) > maxQueue {
		c.refused.Add(1)
		return ErrFull
	}
	late := time.NewTimer(longest)
	defer late.Stop()
	select {
	case c.slots <- struct{}{}:
		return nil
	case <-late.C:
		c.refused.Add(1)
		return ErrFull
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrFull, ctx.Err()) // nobody is there to be told
	}
}

// Leave gives the slot to whoever waits.
func (s Slot) Leave() {
	if s.class == nil {
		return
	}
	took, c := time.Since(s.since), s.class
	// Of two that leave together one may go uncounted.
	before := c.service.Load()
	c.service.Store(before + (int64(took)-before)/16)
	<-c.slots
}

// Stats are the numbers of one class.
type Stats struct {
	Class    string
	Admitted uint64 // requests that got a slot
	Refused  uint64 // with ErrFull
	Running  int    // now, at most Slots
	Waiting  int    // now
	Slots    int
}

// Stats returns the numbers of this instant.
func (c *Class) Stats() Stats {
	return Stats{
		Class: c.name, Admitted: c.admitted.Load(), Refused: c.refused.Load(),
		Running: len(c.slots), Waiting: int(c.waiting.Load()), Slots: cap(c.slots),
	}
}

// Classes are the classes of a server, the most important first.
type Classes struct {
	Revoke     *Class
	Refresh    *Class // also the door of the token endpoint, before it is known what is asked
	Introspect *Class // and userinfo
	Code       *Class
	Pages      *Class
	Login      *Class // passwords
	Register   *Class
	MCP        *Class

	refusals *pace // of all of them together
}

// Refuse waits for the turn of a refusal that no class has given, as for a caller's own
// limit. The first of a moment have it at once; so that a flood of refusals leaves the
// core to others, more than can be given without that wait, for two seconds at most.
func (c *Classes) Refuse(ctx context.Context) { c.refusals.wait(ctx) }

// New returns the classes of one process. The slots of a request that needs the store
// are many enough to fill its groups of writes, and grow with the cores.
func New() *Classes {
	cores := runtime.GOMAXPROCS(0)
	c := &Classes{
		Revoke:     newClass("revoke", 16*cores, true),
		Refresh:    newClass("refresh", 64*cores, true),
		Introspect: newClass("introspect", 32*cores, true),
		Code:       newClass("code", 16*cores, true),
		Pages:      newClass("pages", 16*cores, true),
		// Those who wait for a hash wait in package users, longer than others.
		Login:    newClass("login", 64*cores, false),
		Register: newClass("register", 4*cores, true),
		// A tool may take its time over something else than our core.
		MCP: newClass("mcp", 1024*cores, false),
	}
	c.refusals = &pace{gap: time.Second / time.Duration(refusals*cores)}
	for _, class := range c.All() {
		class.pace = c.refusals
	}
	// Who registers has nothing to lose yet.
	c.Register.also = func() bool { return c.tokensWait() || c.Pages.waits() }
	return c
}

// Rest is how long a core is left to others that a password hash has had for took. A
// hash runs in slices of 10 ms, so without a rest a flood of logins would give every
// refresh its turns only between them: half of the time is theirs while there are any,
// and four fifths while some wait for a slot.
func (c *Classes) Rest(took time.Duration) time.Duration {
	switch {
	case c.tokensWait():
		return 4 * took
	case len(c.Revoke.slots)+len(c.Refresh.slots)+len(c.Introspect.slots)+len(c.Code.slots) > 0:
		return took
	}
	return 0
}

func (c *Classes) tokensWait() bool {
	return c.Revoke.waits() || c.Refresh.waits() || c.Introspect.waits() || c.Code.waits()
}

func (c *Class) waits() bool { return c.waiting.Load() > 0 }

// Logins sets how many logins are in hand at once, those included that wait for a
// hash: what else is let in is refused later, for more work. Call it before the first
// request.
func (c *Classes) Logins(most int) { c.Login.slots = make(chan struct{}, most) }

// All returns the classes, the most important first.
func (c *Classes) All() []*Class {
	return []*Class{c.Revoke, c.Refresh, c.Introspect, c.Code, c.Pages, c.Login, c.Register, c.MCP}
}

const (
	// refusals is how many are given a second and core. One costs a quarter of a refresh:
	// more of them would take the core from those who were let in.
	refusals = 5000

	// refusalBurst are given at once after a quiet moment.
	refusalBurst = 50

	// refusalDelay is the longest that one is put off.
	refusalDelay = 2 * time.Second
)

// pace spreads refusals. Whoever waits for one costs nothing meanwhile, and sends
// nothing more over its connection.
type pace struct {
	gap time.Duration // between two

	mu   sync.Mutex
	next time.Time
}

func (p *pace) wait(ctx context.Context) {
	if p == nil {
		return
	}
	if d := p.turn(time.Now()); d > 0 {
		turn := time.NewTimer(d)
		defer turn.Stop()
		select {
		case <-turn.C:
		case <-ctx.Done():
		}
	}
}

// turn returns how long the next refusal has to wait.
func (p *pace) turn(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if earliest := now.Add(-refusalBurst * p.gap); p.next.Before(earliest) {
		p.next = earliest
	}
	d := p.next.Sub(now)
	if d > refusalDelay {
		return 0 // there is no keeping up, and a limit to how many may be kept waiting
	}
	p.next = p.next.Add(p.gap)
	return d
}
