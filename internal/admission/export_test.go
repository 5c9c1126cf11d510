package admission

import (
	"context"
	"time"
)

// Pace is a pace of a test's own.
type Pace struct{ pace }

func NewPace(gap time.Duration) *Pace {
	return &Pace{pace{gap: gap, slowest: slowest, longest: longestTurn}}
}

func (p *Pace) Wait(ctx context.Context) { p.wait(ctx) }

func (p *Pace) Fired(late time.Duration) { p.fired(late) }

// PublicFired has the timers of public answers be so late.
func (c *Classes) PublicFired(late time.Duration) { c.public.late = late }

// Inbox is an inbox of a test's own.
type Inbox struct{ inbox }

func NewInboxWithoutPipe() *Inbox {
	i := &Inbox{}
	i.open.Do(func() {})
	return i
}

func (i *Inbox) Behind(arrived func()) bool { return i.behind(arrived) }

func (i *Inbox) Late() bool { return i.late.Load() }

func (i *Inbox) SetLate(late bool) { i.late.Store(late) }

// IsLate says that a byte is on its way until the returned function is called.
func (c *Class) IsLate() (arrives func()) {
	c.inbox.late.Store(true)
	return func() {
		c.inbox.late.Store(false)
		c.caughtUp()
	}
}
