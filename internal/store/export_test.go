package store

import (
	"slices"
	"time"
)

// WithSteps gives a store another history of its schema.
func (o Options) WithSteps(steps ...string) Options { o.steps = steps; return o }

// WithFault calls fault before every statement; its error is the engine's.
func (o Options) WithFault(fault func(query string) error) Options { o.fault = fault; return o }

// WithSmall sets the size from which a file is checked in the background.
func (o Options) WithSmall(size int64) Options { o.small = size; return o }

// Schema is the history of the real schema.
func Schema() []string { return sqliteSchema }

// Writers is how many writes can be held up.
func (s *Store) Writers() int { return len(s.database.writers()) }

// PostgresSchema is the history of the real schema there.
func PostgresSchema() []string { return slices.Clone(postgresSchema) }

// TakeUp sets the store's clock forward, as a wrong clock would.
func (s *Store) TakeUp(t time.Time) { s.takeUp(t.UnixMilli()) }

// WithClockAhead compares clocks as if ours were that much ahead.
func (o Options) WithClockAhead(d time.Duration) Options { o.ahead = d; return o }
