package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"signet/internal/background"
)

// work opens the store once its database can be reached, and from then on keeps it
// compared with the other replicas.
func (p *postgresDatabase) work(ctx context.Context) {
	once := func() {
		if err := p.openOrBeat(ctx); ctx.Err() == nil {
			p.report(err)
		}
	}
	once()
	background.Every(ctx, beatEvery, once)
}

// report logs trouble, once a minute while it lasts, and its end.
func (p *postgresDatabase) report(err error) {
	switch {
	case err == nil && !p.reported.IsZero():
		p.options.Log.Info("the store is there again", "store", p.name)
		p.reported = time.Time{}
	case err != nil && time.Since(p.reported) >= time.Minute:
		p.options.Log.Error("waiting for the store: requests that need it are answered with 503", "err", err)
		p.reported = time.Now()
	}
}

func (p *postgresDatabase) openOrBeat(ctx context.Context) error {
	if p.pools.Load() != nil {
		return p.beat(ctx)
	}
	err := p.open(ctx)
	switch {
	case err == nil:
		p.warnBehind(p.name, p.options.Log)
	case ctx.Err() == nil && isRefusal(err):
		select {
		case p.refused <- err:
		default: // an earlier one was not taken yet
		}
	}
	return err
}

// maxAhead is how far the persisted time may be ahead of the database's clock, so that
// a replica with a wrong clock does not mislead all the others.
const maxAhead = time.Minute

// beat checks that the database still has the known store, and persists the latest
// time, which one replica does for all of them.
func (p *postgresDatabase) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	db := p.pools.Load().writing
	before := time.Now()
	m, now, err := p.readSettled(ctx, poolSession{db})
	if err == nil {
		p.measure(before, time.Now(), now)
	}
	if err := p.judge(m, err); err != nil {
		return err
	}
	p.hear(m.lastSeen)
	p.compareClocks(time.UnixMilli(now))
	if err := p.compareServers(ctx, db); err != nil {
		return p.unavailable(err)
	}
	if p.Now().UnixMilli()-m.lastSeen < beatEvery.Milliseconds() {
		return nil
	}
	_, err = db.ExecContext(ctx, "UPDATE meta SET last_seen = GREATEST(last_seen, $1) WHERE epoch = $2",
		min(p.Now().UnixMilli(), now+maxAhead.Milliseconds()), m.epoch)
	if err != nil {
		return p.unavailable(err)
	}
	return nil
}

// judge decides whether the store takes writes. m was read from the database, or err
// says why that failed.
func (p *postgresDatabase) judge(m meta, err error) error {
	known := p.known.Load()
	foreign := p.foreign.Load()
	if err == nil {
		foreign = !p.options.Root(m.fingerprint)
	}
	if err == nil && foreign {
		err = unavailable(p.name, fmt.Errorf("%w: it was rotated: give this replica the secrets of the others (SIGNET_SECRET)", ErrOtherRoot))
	}
	if err != nil {
		if !errors.Is(err, ErrOtherRoot) {
			err = p.unavailable(err)
		}
		if errors.Is(err, ErrOtherStore) || errors.Is(err, ErrOtherRoot) { // found here, or by a new connection
			p.trouble.Store(&err)
		}
		p.foreign.Store(foreign) // after trouble, so that nothing is written any longer
		return err
	}
	p.foreign.Store(false)
	p.trouble.Store(nil)
	if m.fingerprint != known.fingerprint && m.epoch == known.epoch {
		p.adopt(m)
	}
	return nil
}

// compareServers announces this server now and then, and reads the clocks of the others.
func (p *postgresDatabase) compareServers(ctx context.Context, db *sql.DB) error {
	if !p.options.Serve || p.roots.Load() == nil || time.Since(p.announced) < announceEvery {
		return nil
	}
	if err := p.writeServer(executor(ctx, db)); err != nil {
		return err
	}
	var least, most int64
	err := db.QueryRowContext(ctx, "SELECT min(ahead), max(ahead) FROM servers WHERE "+p.options.engine.runningServers()).Scan(&least, &most)
	if err != nil {
		return err
	}
	p.apart.Store(int64(time.Duration(max(most, 0)-min(least, 0)) * time.Millisecond))
	p.announced = time.Now()
	return nil
}

func executor(ctx context.Context, db *sql.DB) func(query string, args ...any) error {
	return func(query string, args ...any) error {
		_, err := db.ExecContext(ctx, query, args...)
		return err
	}
}

func (p *postgresDatabase) compareClocks(database time.Time) {
	ahead := time.Since(database)
	skewed := ahead.Abs() > backwards
	if skewed && !p.skewed {
		p.options.Log.Warn("this machine's clock is not the database's: replicas must agree on the time", "store", p.name, "ahead", ahead)
	}
	p.skewed = skewed
}
