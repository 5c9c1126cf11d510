package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	maxConnections = 4 // that write, and again that read: a database takes 100, and there are many replicas
	beatEvery      = time.Second
	connectIn      = 2500 * time.Millisecond

	// A group gives up a row that is locked after groupWait, which is less than the
	// second after which PostgreSQL looks for deadlocks: two groups that wait for each
	// other fall apart before that, into writes of their own. Each of those locks
	// its rows in one order, so they wait for each other in turn.
	groupWait = 100 * time.Millisecond
	aloneWait = 1500 * time.Millisecond

	// hungUp is when the database ends the transaction of a replica that has stopped
	// in the middle of it, and lets go of its rows.
	hungUp = 2 * time.Second
)

// IsURL reports whether path is the URL of a PostgreSQL database, not a file.
func IsURL(path string) bool {
	return strings.HasPrefix(path, "postgres://") || strings.HasPrefix(path, "postgresql://")
}

// postgres is the PostgreSQL engine.
//
// There is no statement_timeout: where a commit waits for a standby, it would end
// the wait with the commit in place and no error, and we would acknowledge what the
// standby does not have. Our own deadlines end the connection instead.
type postgres struct {
	*state
	config    *pgx.ConnConfig
	pools     atomic.Pointer[pools] // nil until the database was there once
	why       atomic.Pointer[error] // why it takes nothing
	announced time.Time             // when we said who we are
	skewed    bool                  // the log knows that our clock is not the database's
	said      time.Time             // when the log was told of trouble that goes on; else zero
}

type pools struct{ writing, reading *sql.DB }

// openPostgres connects. A server that cannot goes on trying, unless it is set up
// wrongly.
func openPostgres(ctx context.Context, st *state) (*postgres, error) {
	config, err := postgresConfig(st.o.Path)
	if err != nil {
		return nil, err
	}
	p := &postgres{state: st, config: config}
	p.name = postgresName(config)
	if st.o.Serve && readableOnTheWay(config) {
		st.o.Log.Warn("the connection to the database may be made without TLS: sslmode=verify-full in the URL keeps others from reading it", "store", p.name)
	}
	if err := p.open(ctx); err != nil {
		if !st.o.Serve || !errors.Is(err, ErrUnavailable) || !passing(err) {
			return nil, err
		}
		p.report(err)
	}
	return p, nil
}

// open makes sure that the store is there and is ours, and opens the pools.
func (p *postgres) open(ctx context.Context) error {
	m, err := p.prepare(ctx)
	if err != nil {
		err = p.unavailable(err)
		why := fmt.Errorf("waiting for the store: %w", err)
		if !errors.Is(err, ErrUnavailable) {
			why = fmt.Errorf("%w: %w", ErrUnavailable, why)
		}
		p.why.Store(&why)
		return err
	}
	p.takeUp(m.lastSeen)
	p.known.Store(&m)
	p.pools.Store(&pools{writing: p.pool(m.epoch), reading: p.pool(m.epoch)})
	p.why.Store(nil)
	return nil
}

// pool opens a pool of connections to the store of that epoch. A connection is
// renewed now and then, so that after a failover none of them stays for long with
// a server that has become a standby.
func (p *postgres) pool(epoch string) *sql.DB {
	db := stdlib.OpenDB(*p.config, stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		err := p.greet(ctx, c, epoch)
		if err != nil {
			c.Close(ctx)
		}
		return err
	}))
	db.SetMaxOpenConns(maxConnections + 1) // the beat
	db.SetMaxIdleConns(maxConnections + 1)
	db.SetConnMaxLifetime(5 * time.Minute)
	return db
}

// greet checks a new connection: it leads to the store that we know, and what it
// commits is on disk. A server's connections hold the lock that keeps NewEpoch away.
func (p *postgres) greet(ctx context.Context, c *pgx.Conn, epoch string) error {
	if p.o.Serve {
		free := false
		if err := c.QueryRow(ctx, "SELECT pg_try_advisory_lock_shared($1)", servingLock).Scan(&free); err != nil {
			return err
		}
		if !free {
			return errors.New("the store is just being given a new epoch")
		}
	}
	var there, commit string
	err := c.QueryRow(ctx, "SELECT epoch, current_setting('synchronous_commit') FROM meta").Scan(&there, &commit)
	if err != nil {
		return err
	}
	if there != epoch {
		return errOtherEpoch
	}
	if commit == "off" { // acknowledged is on disk, whatever the database's default is
		_, err = c.Exec(ctx, "SET synchronous_commit = on")
	}
	return err
}

var errOtherEpoch = fmt.Errorf("%w: its epoch changed since this server started: if that was meant, restart it", ErrOtherStore)

func (p *postgres) writers() []writer {
	list := make([]writer, maxConnections)
	for i := range list {
		list[i] = p
	}
	return list
}

func (p *postgres) idle() {}

func (p *postgres) sound() error {
	if err := p.why.Load(); err != nil {
		return *err
	}
	return nil
}

// transact runs fn between BEGIN and COMMIT. Where the connection is lost, or where
// the answer to COMMIT is, nothing runs again by itself: a second run of what was
// committed would look like reuse.
func (p *postgres) transact(by time.Time, group bool, fn func(session) error) error {
	db := p.pools.Load()
	if db == nil {
		return fmt.Errorf("%w: %w", errLost, p.sound())
	}
	ctx, cancel := context.WithDeadline(context.Background(), by)
	defer cancel()
	tx, err := p.begin(ctx, db.writing, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return fmt.Errorf("%w: %w", errLost, p.explain(err))
	}
	defer tx.tx.Rollback()
	if !group {
		if _, err := tx.Exec(fmt.Sprintf("SET LOCAL lock_timeout = %d", aloneWait.Milliseconds())); err != nil {
			return fmt.Errorf("%w: %w", errLost, p.explain(err))
		}
		tx.record = record{}
	}
	if err := fn(tx); err != nil {
		if e := tx.tx.Rollback(); e != nil && !errors.Is(err, errUndone) {
			return fmt.Errorf("%w: %w", errLost, p.explain(err))
		}
		return p.classify(err, group)
	}
	if tx.writes == 0 {
		return nil
	}
	if err := tx.commit(); err != nil {
		if pgCode(err) == "" || !conflicts(pgCode(err)) {
			return fmt.Errorf("%w: %w", errLost, p.explain(err))
		}
		return p.classify(err, group)
	}
	return nil
}

// classify says which errors may be gone the next time.
func (p *postgres) classify(err error, group bool) error {
	if errors.Is(err, errUndone) {
		return err
	}
	if code := pgCode(err); conflicts(code) || group && code == lockNotAvailable {
		return fmt.Errorf("%w: %w", errConflict, p.explain(err))
	}
	return p.explain(err)
}

const lockNotAvailable = "55P03"

// conflicts reports whether a transaction was undone because of another one: that
// inserted the row that was missing here, or that waited for us as we for it.
func conflicts(code string) bool {
	return code == "23505" || code == "40001" || code == "40P01"
}

func pgCode(err error) string {
	if e := (*pgconn.PgError)(nil); errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func (p *postgres) read(ctx context.Context, fn func(Tx) error) error {
	db := p.pools.Load()
	if err := p.sound(); err != nil || db == nil {
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
	if e := tx.commit(); e != nil { // also what broke off between rows
		return p.unavailable(e)
	}
	return err
}

func (p *postgres) begin(ctx context.Context, db *sql.DB, how *sql.TxOptions) (*pgTx, error) {
	tx := &pgTx{ctx: ctx, fault: p.o.fault}
	err := tx.check("BEGIN")
	if err == nil {
		tx.tx, err = db.BeginTx(ctx, how)
	}
	return tx, err
}

// pgTx is the session of a transaction.
type pgTx struct {
	ctx   context.Context // of the transaction: its statements have no other
	tx    *sql.Tx
	fault func(query string) error
	record
}

func (t *pgTx) check(query string) error {
	if t.fault == nil {
		return nil
	}
	err := t.fault(query)
	if err != nil {
		t.failed(err)
	}
	return err
}

// Exec runs a statement that writes.
func (t *pgTx) Exec(query string, args ...any) (sql.Result, error) {
	if err := t.check(query); err != nil {
		return nil, err
	}
	res, err := t.tx.ExecContext(t.ctx, query, args...)
	if err != nil {
		t.failed(err)
		return nil, err
	}
	t.executed(res)
	return res, nil
}

// QueryRow reads one row.
func (t *pgTx) QueryRow(query string, args ...any) *sql.Row {
	t.returning(query)
	ctx := t.ctx
	if t.check(query) != nil {
		ended, end := context.WithCancel(ctx)
		end() // there is no other way to make a Row that holds an error
		ctx = ended
	}
	row := t.tx.QueryRowContext(ctx, query, args...)
	if err := row.Err(); err != nil {
		t.failed(err)
	}
	return row
}

// Query reads rows.
func (t *pgTx) Query(query string, args ...any) (*sql.Rows, error) {
	t.returning(query)
	if err := t.check(query); err != nil {
		return nil, err
	}
	rows, err := t.tx.QueryContext(t.ctx, query, args...)
	if err != nil {
		t.failed(err)
	}
	return rows, err
}

// failure is also what came between two rows, and that the deadline has passed.
func (t *pgTx) failure(err error) error {
	switch {
	case t.err != nil:
		return t.err
	case pgCode(err) != "":
		return err
	}
	return t.ctx.Err()
}

func (t *pgTx) commit() error {
	if err := t.check("COMMIT"); err != nil {
		return err
	}
	return t.tx.Commit()
}

// work opens the store once its database is there, and from then on keeps time with
// the other replicas.
func (p *postgres) work(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		err := p.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		p.report(err)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// report tells the log of trouble, once a minute while it lasts, and when it is over.
func (p *postgres) report(err error) {
	switch {
	case err == nil && !p.said.IsZero():
		p.o.Log.Info("the store is there again", "store", p.name)
		p.said = time.Time{}
	case err != nil && time.Since(p.said) >= time.Minute:
		p.o.Log.Error("waiting for the store: what needs it is answered with 503", "err", err)
		p.said = time.Now()
	}
}

func (p *postgres) follow(ctx context.Context) error {
	if p.pools.Load() != nil {
		return p.beat(ctx)
	}
	err := p.open(ctx)
	if err == nil {
		p.warnBehind(p.name, p.o.Log)
	}
	return err
}

// maxAhead is how far the persisted time may be ahead of the database's clock. A
// replica whose clock is wrong does not take all the others with it.
const maxAhead = time.Minute

// beat looks whether the database still is the store that we know, and persists the
// latest time: one replica does it for all of them.
func (p *postgres) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	db := p.pools.Load().writing
	known := p.known.Load()
	before := time.Now()
	m, now, err := readShared(ctx, db)
	foreign := p.foreign.Load()
	if err == nil {
		p.measure(before, time.Now(), now)
		foreign = !p.o.Root(m.fingerprint)
	}
	switch {
	case err == nil && m.epoch != known.epoch:
		err = errOtherEpoch
	case err == nil && foreign:
		err = unavailable(p.name, fmt.Errorf("%w: it was rotated: give this replica the secrets of the others (SIGNET_SECRET)", ErrOtherRoot))
	}
	if err != nil {
		if !errors.Is(err, ErrOtherRoot) {
			err = p.unavailable(err)
		}
		if errors.Is(err, ErrOtherStore) || errors.Is(err, ErrOtherRoot) { // found here, or by a connection that is new
			p.why.Store(&err)
		}
		p.foreign.Store(foreign) // when nothing is written any more
		return err
	}
	p.foreign.Store(false)
	p.why.Store(nil)
	if m.fingerprint != known.fingerprint {
		p.known.Store(&m)
	}
	p.takeUp(m.lastSeen)
	p.compareClocks(time.UnixMilli(now))
	if err := p.compareServers(ctx, db); err != nil {
		return p.unavailable(err)
	}
	if p.Now().UnixMilli()-m.lastSeen < beatEvery.Milliseconds() {
		return nil
	}
	_, err = db.ExecContext(ctx, "UPDATE meta SET last_seen = GREATEST(last_seen, $1) WHERE epoch = $2",
		min(p.Now().UnixMilli(), now+maxAhead.Milliseconds()), known.epoch)
	if err != nil {
		return p.unavailable(err)
	}
	return nil
}

// compareServers says now and then who we are, and looks at what the others say.
func (p *postgres) compareServers(ctx context.Context, db *sql.DB) error {
	if !p.o.Serve || p.roots.Load() == nil || time.Since(p.announced) < announceEvery {
		return nil
	}
	if err := p.sayWho(executor(ctx, db)); err != nil {
		return err
	}
	var least, most int64
	err := db.QueryRowContext(ctx, "SELECT min(ahead), max(ahead) FROM servers WHERE "+p.alive()).Scan(&least, &most)
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

func readShared(ctx context.Context, db *sql.DB) (m meta, now int64, err error) {
	err = db.QueryRowContext(ctx, "SELECT epoch, fingerprint, schema, last_seen, (extract(epoch FROM clock_timestamp()) * 1000)::bigint FROM meta").
		Scan(&m.epoch, &m.fingerprint, &m.schema, &m.lastSeen, &now)
	return m, now, err
}

func (p *postgres) compareClocks(database time.Time) {
	off := time.Since(database)
	skewed := off.Abs() > backwards
	if skewed && !p.skewed {
		p.o.Log.Warn("our clock is not the database's: replicas must agree on the time", "store", p.name, "ahead", off)
	}
	p.skewed = skewed
}

// finish leaves the latest time, if the database is there to take it.
func (p *postgres) finish() error {
	db := p.pools.Load()
	if db == nil || p.sound() != nil || !p.o.Serve {
		return nil
	}
	if err := p.beat(context.Background()); err != nil {
		p.o.Log.Warn("the last second's time is not persisted", "err", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerIn)
	defer cancel()
	if err := p.leave(executor(ctx, db.writing)); err != nil {
		p.o.Log.Warn("the others take this server for a running one for a while", "err", err)
	}
	return nil
}

func (p *postgres) release() {
	if db := p.pools.Load(); db != nil {
		db.writing.Close()
		db.reading.Close()
	}
}
