package store

import (
	"slices"
	"time"
)

// WithSteps replaces the history of the schema.
func (o Options) WithSteps(steps ...string) Options { o.steps = steps; return o }

// WithFault calls fault before every statement. An error of fault counts as the engine's.
func (o Options) WithFault(fault func(query string) error) Options { o.fault = fault; return o }

// WithSmall sets the size from which a file is checked in the background.
func (o Options) WithSmall(size int64) Options { o.small = size; return o }

// Schema is the history of the schema on SQLite.
func Schema() []string { return sqliteSchema }

// Writers is how many writes can run at once.
func (s *Store) Writers() int { return len(s.database.writers()) }

// PostgresSchema is the history of the schema on PostgreSQL.
func PostgresSchema() []string { return slices.Clone(postgresSchema) }

// Waiting is how many writes wait in the queues.
func (s *Store) Waiting() int { return len(s.queue) + len(s.unsynced) + len(s.changes) }

// TakeUp sets the store's clock forward, as a wrong clock would.
func (s *Store) TakeUp(t time.Time) { s.takeUp(t.UnixMilli()) }

// Clock is a clock whose two sources a test sets.
type Clock struct{ clock }

// At returns Now and Sure.
func (c *Clock) At(passing, wall time.Time) (now, sure time.Time) {
	now = c.at(passing, wall)
	if sure = c.sure.Add(passing.Sub(c.sureAt)); sure.After(now) {
		sure = now
	}
	return now, sure
}

// WithClockAhead compares clocks as if the local one were ahead by d.
func (o Options) WithClockAhead(d time.Duration) Options { o.ahead = d; return o }

// Gatherer collects groups of calls that do nothing.
type Gatherer struct{ gatherer }

func NewGatherer() *Gatherer { return &Gatherer{gatherer{queue: make(chan *request, queueSize)}} }

// Ask puts calls into the queue.
func (g *Gatherer) Ask(calls int) {
	for range calls {
		g.queue <- &request{}
	}
}

// Group collects a group, whose commit takes so long, and returns its size.
func (g *Gatherer) Group(commit time.Duration) (size int) {
	for r := <-g.queue; r != nil; r = g.next(size) {
		size++
	}
	time.Sleep(commit)
	g.committed(size)
	return size
}
