package backend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Status of a server and of its instances.
const (
	statusRunning  = "running"
	statusError    = "error"
	statusDisabled = "disabled"
)

// watch checks the instances until ctx ends.
func (b *Backend) watch(ctx context.Context) {
	every := b.o.Server.HealthEvery
	if every <= 0 {
		every = defaultHealthEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if !b.disabled.Load() {
			_ = b.Check(ctx) // the outcome is in the state
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-b.due:
		}
	}
}

// Check checks all instances now. The error names those that are down.
func (b *Backend) Check(ctx context.Context) error {
	errs := make([]error, len(b.instances))
	var wait sync.WaitGroup
	for i, n := range b.instances {
		wait.Go(func() { errs[i] = b.check(ctx, n) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

func (b *Backend) check(ctx context.Context, n *instance) error {
	b.running.Add(1)
	defer b.left()
	err := n.conn.check(ctx)
	v := judge(ctx, err)
	if v == none {
		return err
	}
	b.mu.Lock()
	n.rate(v, scoreCheck)
	n.checked = v == bad
	b.mu.Unlock()
	b.mark(n, err)
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s%w", b.name(n), err)
}

// learn notes what a message says of the health of an instance. That it cannot be reached is clear
// at once. If a check found it ill, only a check finds it well again.
func (b *Backend) learn(n *instance, v verdict, err error) {
	e, _ := errors.AsType[*Error](err)
	b.mu.Lock()
	known, checked := n.status == statusRunning, n.checked
	b.mu.Unlock()
	switch {
	case v == good && !known && !checked:
		b.mark(n, nil)
	case v == bad && e.unsent && known:
		b.mark(n, err)
	}
}

// mark notes that an instance is up, or why it is down.
func (b *Backend) mark(n *instance, why error) {
	status, problem := statusRunning, ""
	if e, ok := errors.AsType[*Error](why); ok && judge(context.Background(), why) == bad {
		status, problem = statusError, e.What
	}
	b.mu.Lock()
	before, whole := n.status, b.status
	n.status, n.problem = status, problem
	b.summarize()
	now := b.status
	b.mu.Unlock()
	if before != status && (before != "" || status == statusError) {
		level := slog.LevelWarn
		if status == statusRunning {
			level = slog.LevelInfo
		}
		b.o.Log.Log(context.Background(), level, "health of a server", "server", b.o.Server.ID, "instance", n.address, "status", status, "problem", problem)
	}
	if whole == statusError && now == statusRunning {
		b.o.Changed("") // it may be another version of the server
	}
}

// summarize sets the status of the server by those of its instances. The caller holds mu.
func (b *Backend) summarize() {
	status := ""
	for _, n := range b.instances {
		if n.status == statusRunning || status == "" {
			status = n.status
		}
	}
	if status != b.status {
		b.status, b.since = status, time.Now()
	}
}

// State is the state of the server and its instances now.
func (b *Backend) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := State{ID: b.o.Server.ID, Status: b.status, Since: b.since}
	if b.disabled.Load() {
		s.Status = statusDisabled
	}
	for _, n := range b.instances {
		breaker, _ := n.breaker.state()
		s.Instance = append(s.Instance, InstanceState{Address: n.address, Status: n.status, Breaker: breaker})
		if s.Era == "" {
			s.Era = n.conn.era()
		}
		if s.Problem == "" && s.Status == statusError {
			s.Problem = n.problem
		}
	}
	return s
}

// Enable lets messages through from now on, or refuses them. Those that run go on, and when they
// have ended, so do the processes and sessions of a disabled server. A server that is enabled again
// is checked at once, which starts its processes.
func (b *Backend) Enable(on bool) {
	if !b.enable(on) {
		return
	}
	if on {
		select {
		case b.due <- struct{}{}:
		default:
		}
	} else {
		b.rest()
	}
	b.o.Changed("")
}

// enable reports whether it has changed anything.
func (b *Backend) enable(on bool) bool {
	b.switching.Lock()
	defer b.switching.Unlock()
	if b.disabled.Swap(!on) == !on {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.since = time.Now()
	return true
}

// left notes that a message or check has ended.
func (b *Backend) left() {
	if b.running.Add(-1) == 0 && b.disabled.Load() {
		b.rest()
	}
}

// restTime is how long a disabled server may take to end.
const restTime = 10 * time.Second

// rest ends what is open at the instances of a disabled server for which nothing runs.
func (b *Backend) rest() {
	b.switching.Lock()
	defer b.switching.Unlock()
	if !b.disabled.Load() || b.running.Load() > 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), restTime)
	defer cancel()
	for _, n := range b.instances {
		if err := n.conn.restart(ctx); err != nil {
			b.o.Log.Warn("a disabled server does not end", "server", b.o.Server.ID, "instance", n.address, "error", err)
		}
	}
}

// Restart restarts all instances: processes begin anew, sessions and protocol versions are
// forgotten, circuit breakers close.
func (b *Backend) Restart(ctx context.Context) error {
	var errs []error
	for _, n := range b.instances {
		if err := n.conn.restart(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s%w", b.name(n), err))
		}
		n.breaker.reset()
	}
	errs = append(errs, b.Check(ctx))
	b.o.Changed("")
	return errors.Join(errs...)
}
