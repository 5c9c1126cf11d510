package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// postgresSession runs single statements, on one connection or on any of a pool.
type postgresSession interface {
	exec(ctx context.Context, query string, args ...any) error
	queryRow(ctx context.Context, query string) interface{ Scan(...any) error }
}

type connSession struct{ c *pgx.Conn }

func (s connSession) exec(ctx context.Context, query string, args ...any) error {
	_, err := s.c.Exec(ctx, query, args...)
	return err
}

func (s connSession) queryRow(ctx context.Context, query string) interface{ Scan(...any) error } {
	return s.c.QueryRow(ctx, query)
}

type poolSession struct{ db *sql.DB }

func (s poolSession) exec(ctx context.Context, query string, args ...any) error {
	_, err := s.db.ExecContext(ctx, query, args...)
	return err
}

func (s poolSession) queryRow(ctx context.Context, query string) interface{ Scan(...any) error } {
	return s.db.QueryRowContext(ctx, query)
}

// readShared reads meta and the database's clock, in Unix milliseconds.
func readShared(ctx context.Context, s postgresSession) (m meta, now int64, err error) {
	err = s.queryRow(ctx, `SELECT epoch, fingerprint, schema, last_seen, (extract(epoch FROM clock_timestamp()) * 1000)::bigint, ended, rolled_back_at, not_before FROM meta`).
		Scan(&m.epoch, &m.fingerprint, &m.schema, &m.lastSeen, &now, &m.ended, &m.rolledBackAt, &m.notBefore)
	return m, now, err
}

// fate is what has become of a store since it was last read.
type fate int

const (
	unchanged  fate = iota
	renewed         // another server found a rollback, or an operator's alarm was noted
	rolledBack      // it is older than before
	replaced        // it is another store
)

// fateOf compares meta with what was known before it was read: known, and the latest
// last_seen.
func fateOf(m, known *meta, last int64) fate {
	switch {
	case m.epoch == known.epoch && m.lastSeen < last, known.hasEnded(m.epoch):
		return rolledBack
	case m.epoch == known.epoch && m.rolledBackAt == known.rolledBackAt && m.notBefore == known.notBefore:
		return unchanged
	case m.epoch == known.epoch, m.isKin(known):
		return renewed
	}
	return replaced
}

// readSettled reads meta and the database's clock, and makes sure that the database has the
// known store, in the epoch that is known: it takes up an epoch that another server has
// begun, and begins one if the store was rolled back.
func (p *postgresDatabase) readSettled(ctx context.Context, s postgresSession) (m meta, now int64, err error) {
	for range tries {
		last, known := p.seenLast.Load(), p.known.Load() // first, so that what is read is never older
		if m, now, err = readShared(ctx, s); err != nil {
			return m, now, err
		}
		switch fateOf(&m, known, last) {
		case unchanged:
			p.sawLast(m)
			return m, now, nil
		case renewed:
			p.takeEpoch(m)
			return m, now, nil
		case replaced:
			return m, now, errOtherEpoch
		}
		if !p.options.Serve { // a command leaves it to the servers
			return m, now, fmt.Errorf("%w: %s", ErrRolledBack, p.name)
		}
		query, args := p.afterRollback(m.epoch)
		if err := s.exec(ctx, query, args...); err != nil {
			return m, now, err
		}
		if p.options.KeepEpoch {
			p.takeEpoch(m)
		}
	}
	return m, now, errOtherEpoch
}

// sawLast raises seenLast, unless m was read before the present epoch began.
func (p *postgresDatabase) sawLast(m meta) {
	p.adopting.Lock()
	defer p.adopting.Unlock()
	if p.known.Load().epoch == m.epoch {
		p.seenLast.Store(max(p.seenLast.Load(), m.lastSeen))
	}
}

// takeEpoch goes on with the store as it is now.
func (p *postgresDatabase) takeEpoch(m meta) {
	p.adopting.Lock()
	defer p.adopting.Unlock()
	if m.epoch != p.known.Load().epoch || p.options.KeepEpoch {
		p.seenLast.Store(m.lastSeen)
	}
	p.adoptLocked(m)
}

// look reads the epoch now, instead of at the next beat.
func (p *postgresDatabase) look(ctx context.Context) error {
	db := p.pools.Load()
	if db == nil {
		return p.health()
	}
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	m, _, err := p.readSettled(ctx, poolSession{db.writing})
	return p.judge(m, err)
}

// compare does nothing: each beat compares.
func (p *postgresDatabase) compare(context.Context) error { return nil }
