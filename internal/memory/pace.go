package memory

import (
	"io/fs"
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"
	"sync"
)

const (
	// floor is the size in bytes to which the heap may grow before it is collected,
	// however little of it is live.
	floor = 128 << 20

	// profileRate is how many bytes are allocated for each sample of the heap profile.
	profileRate = 8 << 20

	// smallestGoal is the runtime's smallest goal of a collection at GOGC=100, in bytes.
	// It grows with GOGC.
	smallestGoal = 4 << 20
)

// Pace makes the runtime collect garbage when the heap reaches 128 MiB, or a third of
// the memory that the process may have, whichever is less. While more than half of that is
// live, the pace is the runtime's own: a collection each time the heap has doubled. So a
// live heap of any size costs no more collections than it would without Pace. Three
// quarters of the limit of a control group are the runtime's soft limit: what is not Go's
// own memory counts there too.
//
// A message of MCP leaves half a megabyte of garbage behind, most of it from the SDK, and a
// collection costs as much as the live heap is large. GOGC and GOMEMLIMIT in environ are
// the runtime's and override the pace and the soft limit.
//
// The heap profile has one allocation in 8 MiB, not in 512 KiB: at that rate of garbage the
// stacks of the samples cost 2 % of a token. GODEBUG=memprofilerate overrides it.
//
// The function that it returns ends the pacing. Until then each collection adjusts GOGC,
// and a process without garbage does nothing.
func Pace(environ []string, root fs.FS) (stop func()) {
	if !slices.ContainsFunc(environ, func(kv string) bool {
		return strings.HasPrefix(kv, "GODEBUG=") && strings.Contains(kv, "memprofilerate=")
	}) {
		runtime.MemProfileRate = profileRate
	}
	limit, most, own := Limit(root), int64(math.MaxInt64), isSet(environ, "GOMEMLIMIT")
	switch {
	case own:
		most = debug.SetMemoryLimit(-1)
		if most < math.MaxInt64 {
			limit = most
		}
	case limit > 0:
		most = limit / 4 * 3
		debug.SetMemoryLimit(most)
	}
	if isSet(environ, "GOGC") {
		return func() {}
	}
	p := &pacer{floor: floor, most: most, own: own}
	if limit > 0 {
		p.floor = min(floor, limit/3)
	}
	p.adjust()
	p.watch()
	return p.stop
}

// isSet reports whether a variable is set and not empty, as the runtime sees it.
func isSet(environ []string, name string) bool {
	return slices.ContainsFunc(environ, func(kv string) bool { return strings.HasPrefix(kv, name+"=") && len(kv) > len(name)+1 })
}

// pacer adjusts the runtime's settings to what a collection has found.
type pacer struct {
	floor int64 // goal of a collection while little is live, in bytes
	most  int64 // largest soft limit, in bytes
	own   bool  // whether the soft limit is the operator's

	mu      sync.Mutex
	set     settings
	stopped bool
}

// settings are the values of GOGC and GOMEMLIMIT.
type settings struct{ percent, limit int64 }

// usage is what the last collection has found, in bytes.
type usage struct {
	live  int64 // of live objects
	roots int64 // of stacks and globals, which GOGC counts too
	rest  int64 // of stacks and of the runtime itself, which GOMEMLIMIT counts too
}

// cycle is garbage as soon as it is made, so its finalizer runs after each collection.
type cycle struct{ p *pacer }

func (p *pacer) watch() { runtime.SetFinalizer(&cycle{p}, (*cycle).end) }

func (c *cycle) end() {
	if c.p.adjust() {
		runtime.SetFinalizer(c, (*cycle).end)
	}
}

func (p *pacer) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
}

// adjust sets GOGC and the soft limit, and returns false if the pacer was stopped. The
// runtime stops the world for some microseconds to set one, so small changes wait.
func (p *pacer) adjust() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return false
	}
	want := p.settings(read())
	if differs(want.percent, p.set.percent) {
		debug.SetGCPercent(int(want.percent))
		p.set.percent = want.percent
	}
	if !p.own && differs(want.limit, p.set.limit) {
		debug.SetMemoryLimit(want.limit)
		p.set.limit = want.limit
	}
	return true
}

func differs(a, b int64) bool { return a-b > b/8 || b-a > b/8 }

// settings returns GOGC so that a heap as u says is next collected at the floor: the
// runtime's goal is live + (live + roots) * GOGC/100. If much becomes live at once, that
// goal is too high until it is adjusted, which the soft limit bounds. In all other cases
// the soft limit is out of reach.
func (p *pacer) settings(u usage) settings {
	percent := p.floor * 100 / smallestGoal
	if u.live+u.roots > 0 {
		percent = min(percent, (p.floor-u.live)*100/(u.live+u.roots))
	}
	return settings{
		percent: max(100, percent),
		limit:   min(p.most, 2*p.floor+4*u.live+2*u.rest),
	}
}

// read asks the runtime, without stopping it.
func read() usage {
	s := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"},
		{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(s)
	at := func(i int) int64 { return int64(s[i].Value.Uint64()) }
	return usage{live: at(0), roots: at(1) + at(2), rest: at(3) - at(4) - at(5) - at(6) - at(7)}
}
