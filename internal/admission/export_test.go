package admission

import (
	"context"
	"time"
)

// Pace is a pace of a test's own.
type Pace struct{ pace }

func NewPace(gap time.Duration) *Pace { return &Pace{pace{gap: gap}} }

func (p *Pace) Wait(ctx context.Context) { p.wait(ctx) }

func (p *Pace) Fired(late time.Duration) { p.fired(late) }
