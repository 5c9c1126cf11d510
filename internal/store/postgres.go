package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	maxConnections = 4                        // for writing, and as many for reading: a database takes 100, and there are many replicas
	allConnections = 2*(maxConnections+1) + 1 // of a replica at most: its heartbeat may take one of each pool, and its start one more
	beatEvery      = time.Second
	connectIn      = 2500 * time.Millisecond

	// A group gives up a locked row after groupWait, which is less than the second
	// after which PostgreSQL looks for deadlocks: two groups that wait for each other
	// fall apart before that, into separate writes. Each of these locks its rows in one
	// order, so they wait for each other in turn, for at most aloneWait.
	groupWait = 100 * time.Millisecond
	aloneWait = 1500 * time.Millisecond

	// hungUp is the time after which the database ends the transaction of a replica
	// that has stopped in the middle of it, and releases its rows.
	hungUp = 2 * time.Second
)

// postgresEngine keeps a store in a PostgreSQL database that many servers share.
type postgresEngine struct{}

func (postgresEngine) shared() bool { return true }

func (postgresEngine) checkLocation(text string) error {
	_, _, err := postgresConfig(text)
	return err
}

func (postgresEngine) schema() []string { return postgresSchema }

// runningServers is true for the rows of servers that were seen lately, by the
// database's clock.
func (postgresEngine) runningServers() string {
	return fmt.Sprintf("seen_at >= (extract(epoch FROM clock_timestamp()) * 1000)::bigint - %d", GoneAfter.Milliseconds())
}

// ofSubject names what the index of a new store contains. It is little more than half as large
// as one of names, however long these are, and hashtext is what PostgreSQL's own hash indexes are
// made with. In a store that an earlier release made, the other half of the condition names the
// index.
func (postgresEngine) ofSubject() string { return "hashtext(sub) = hashtext($1) AND sub = $1" }

func (postgresEngine) staleServers(now int64) int64 { return now - 2*GoneAfter.Milliseconds() }

// hold does nothing: what must not run beside servers takes an advisory lock.
func (postgresEngine) hold(string) (release func(), err error) { return func() {}, nil }

// postgresDatabase is a store in a PostgreSQL database.
//
// There is no statement_timeout. If a commit waits for a standby, the timeout would
// end the wait without an error but with the commit in place, and we would acknowledge
// a write that the standby does not have. Deadlines on this side end the connection
// instead.
type postgresDatabase struct {
	*state
	config    *pgx.ConnConfig
	settings  map[string]string     // of each session
	pools     atomic.Pointer[pools] // nil until the database could be reached once
	trouble   atomic.Pointer[error] // why no writes are taken; nil: they are
	announced time.Time             // when this server announced itself
	skewed    bool                  // the log knows that the clocks differ
	reported  time.Time             // when trouble that lasts was logged; zero: there is none
}

type pools struct{ writing, reading *sql.DB }

// open connects. If it cannot, a server keeps trying, unless its settings are wrong.
func (postgresEngine) open(ctx context.Context, s *state) (database, error) {
	config, settings, err := postgresConfig(s.options.Path)
	if err != nil {
		return nil, err
	}
	p := &postgresDatabase{state: s, config: config, settings: settings}
	p.name = postgresName(config)
	if p.options.Serve && mayBeUnencrypted(config) {
		p.options.Log.Warn("the connection to the database may be made without TLS: sslmode=verify-full in the URL keeps others from reading it", "store", p.name)
	}
	if err := p.open(ctx); err != nil {
		if !p.options.Serve || isRefusal(err) {
			return nil, err
		}
		p.report(err)
	}
	return p, nil
}

// open makes sure that the store exists and is the right one, and opens the pools.
func (p *postgresDatabase) open(ctx context.Context) error {
	m, err := p.prepare(ctx)
	if err != nil {
		err = p.unavailable(err)
		trouble := fmt.Errorf("waiting for the store: %w", err)
		if !errors.Is(err, ErrUnavailable) {
			trouble = fmt.Errorf("%w: %w", ErrUnavailable, trouble)
		}
		p.trouble.Store(&trouble)
		return err
	}
	p.takeUp(m.lastSeen)
	p.known.Store(&m)
	p.seenLast.Store(m.lastSeen)
	p.pools.Store(&pools{writing: p.pool(), reading: p.pool()})
	p.trouble.Store(nil)
	return nil
}

// pool opens a pool of connections to the known store. Connections are renewed
// now and then, so that after a failover none of them stays for long with a server that
// has become a standby.
func (p *postgresDatabase) pool() *sql.DB {
	db := stdlib.OpenDB(*p.config, stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		registerTypes(c)
		err := p.checkConnection(ctx, c)
		if err != nil {
			c.Close(ctx)
		}
		return err
	}))
	db.SetMaxOpenConns(maxConnections + 1) // one more for the heartbeat
	db.SetMaxIdleConns(maxConnections + 1)
	db.SetConnMaxLifetime(5 * time.Minute)
	return db
}

// checkConnection checks that a new connection leads to the known store, and has it
// commit to disk. A server's connections hold the lock that keeps NewEpoch away.
func (p *postgresDatabase) checkConnection(ctx context.Context, c *pgx.Conn) error {
	if err := p.setUp(ctx, c); err != nil {
		return err
	}
	if p.options.Serve {
		free := false
		if err := c.QueryRow(ctx, "SELECT pg_try_advisory_lock_shared($1)", servingLock).Scan(&free); err != nil {
			return err
		}
		if !free {
			return errors.New("the store is being given a new epoch")
		}
	}
	var commit string
	if err := c.QueryRow(ctx, "SELECT current_setting('synchronous_commit')").Scan(&commit); err != nil {
		return err
	}
	if commit == "off" { // what is acknowledged must be on disk, whatever the database's default is
		if _, err := c.Exec(ctx, "SET synchronous_commit = on"); err != nil {
			return err
		}
	}
	// After a failover every connection is a new one, so here a standby shows that it has
	// lost records.
	_, _, err := p.readSettled(ctx, connSession{c})
	return err
}

var errOtherEpoch = fmt.Errorf("%w: its epoch changed since this server started: if that was meant, restart it", ErrOtherStore)

func (p *postgresDatabase) writers() []writer {
	list := make([]writer, maxConnections-1) // one connection is for changes
	for i := range list {
		list[i] = p
	}
	return list
}

func (p *postgresDatabase) idle() {}

// full is nil: an error of the database's disk passes with the write that it refuses.
func (p *postgresDatabase) full() error { return nil }

func (p *postgresDatabase) health() error {
	if err := p.trouble.Load(); err != nil {
		return *err
	}
	return nil
}

// transact runs fn between BEGIN and COMMIT. If the connection is lost, or the answer
// to COMMIT, fn does not run again: it may have been committed, and then a second run
// would look like reuse.
func (p *postgresDatabase) transact(by time.Time, m mode, fn func(session) error) error {
	db := p.pools.Load()
	if db == nil {
		return fmt.Errorf("%w: %w", errLost, p.health())
	}
	ctx, cancel := context.WithDeadline(context.Background(), by)
	defer cancel()
	tx, err := p.begin(ctx, db.writing, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return fmt.Errorf("%w: %w", errLost, p.explain(err))
	}
	defer tx.tx.Rollback()
	if m == alone {
		if _, err := tx.Exec(fmt.Sprintf("SET LOCAL lock_timeout = %d", aloneWait.Milliseconds())); err != nil {
			return fmt.Errorf("%w: %w", errLost, p.explain(err))
		}
		tx.record = record{}
	}
	if err := fn(tx); err != nil {
		if e := tx.tx.Rollback(); e != nil && !errors.Is(err, errUndone) {
			return fmt.Errorf("%w: %w", errLost, p.explain(err))
		}
		return p.classify(err, m != alone)
	}
	if tx.writes == 0 {
		return nil
	}
	if err := tx.commit(); err != nil {
		if postgresCode(err) == "" || !isConflict(postgresCode(err)) {
			return fmt.Errorf("%w: %w", errLost, p.explain(err))
		}
		return p.classify(err, m != alone)
	}
	return nil
}

func (p *postgresDatabase) read(ctx context.Context, fn func(Tx) error) error {
	db := p.pools.Load()
	if err := p.health(); err != nil || db == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	tx, err := p.begin(ctx, db.reading, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return p.unavailable(err)
	}
	defer tx.tx.Rollback()
	err = fn(tx)
	if e := tx.failure(err); e != nil {
		return p.unavailable(e)
	}
	if e := tx.commit(); e != nil { // also if the connection broke between rows
		return p.unavailable(e)
	}
	return err
}

func (p *postgresDatabase) begin(ctx context.Context, db *sql.DB, how *sql.TxOptions) (*postgresTx, error) {
	tx := &postgresTx{ctx: ctx, fault: p.options.fault}
	err := tx.check("BEGIN")
	if err == nil {
		tx.tx, err = db.BeginTx(ctx, how)
	}
	return tx, err
}

// finish persists the latest time, if the database can be reached.
func (p *postgresDatabase) finish() error {
	db := p.pools.Load()
	if db == nil || p.health() != nil || !p.options.Serve {
		return nil
	}
	if err := p.beat(context.Background()); err != nil {
		p.options.Log.Warn("the time of the last second is not persisted", "err", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerIn)
	defer cancel()
	if err := p.deleteServer(executor(ctx, db.writing)); err != nil {
		p.options.Log.Warn("other servers count this one as running for a while", "err", err)
	}
	return nil
}

func (p *postgresDatabase) release() {
	if db := p.pools.Load(); db != nil {
		db.writing.Close()
		db.reading.Close()
	}
}
