package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	maxReaders = 4
	busyWait   = 2 * time.Second // for another process that writes
	smallFile  = 64 << 20        // is checked at every start
)

// sqliteSchema is the schema's history: step n takes a store from schema n to
// n+1, in one transaction. Steps are added, never changed.
//
// Ids begin with their expiry, so rows are appended in one place; WITHOUT ROWID
// keeps them in that order and saves an index. Only revoked rows are in the
// index by which other processes learn of revocations.
var sqliteSchema = []string{`
	CREATE TABLE meta (
		one         INTEGER PRIMARY KEY CHECK (one = 1),
		epoch       TEXT    NOT NULL,
		schema      INTEGER NOT NULL,
		commits     INTEGER NOT NULL,
		fingerprint TEXT    NOT NULL,
		last_seen   INTEGER NOT NULL -- Unix milliseconds
	);
	CREATE TABLE signing_keys (
		period         INTEGER PRIMARY KEY,
		kid            TEXT    NOT NULL UNIQUE,
		public         TEXT    NOT NULL,
		sealed_private TEXT,
		starts_at      INTEGER NOT NULL,
		published_at   INTEGER NOT NULL
	);
	CREATE TABLE grants (
		id           TEXT    PRIMARY KEY,
		gen          INTEGER NOT NULL,
		rotated_at   INTEGER NOT NULL, -- Unix milliseconds, as revoked_at
		revoked_at   INTEGER NOT NULL,
		sub          TEXT    NOT NULL,
		client_hash  TEXT    NOT NULL,
		client_name  TEXT    NOT NULL,
		consent_hash TEXT    NOT NULL,
		scope        TEXT    NOT NULL,
		resource     TEXT    NOT NULL,
		created_at   INTEGER NOT NULL, -- Unix seconds, as expires_at
		expires_at   INTEGER NOT NULL
	) WITHOUT ROWID;
	CREATE INDEX grants_sub ON grants (sub);
	CREATE INDEX grants_revoked ON grants (revoked_at) WHERE revoked_at > 0;
	CREATE TABLE spent (
		kind       TEXT    NOT NULL,
		id         TEXT    NOT NULL,
		expires_at INTEGER NOT NULL, -- Unix seconds
		PRIMARY KEY (kind, id)
	) WITHOUT ROWID;
	CREATE INDEX spent_expires ON spent (expires_at);
`, `
	ALTER TABLE grants ADD COLUMN replays INTEGER NOT NULL DEFAULT 0;
	CREATE TABLE attempts (
		key        BLOB    PRIMARY KEY,
		failures   INTEGER NOT NULL,
		since      INTEGER NOT NULL, -- Unix milliseconds, as latest
		latest     INTEGER NOT NULL,
		expires_at INTEGER NOT NULL  -- Unix seconds
	) WITHOUT ROWID;
	CREATE INDEX attempts_expires ON attempts (expires_at);
`, `
	ALTER TABLE meta ADD COLUMN rooted_at INTEGER NOT NULL DEFAULT 0; -- Unix milliseconds: since when the fingerprint is this one
	CREATE TABLE withdrawn_keys (
		kid          TEXT    PRIMARY KEY,
		published_at INTEGER NOT NULL, -- Unix milliseconds, as withdrawn_at
		withdrawn_at INTEGER NOT NULL
	) WITHOUT ROWID;
	CREATE TABLE servers (
		id      TEXT    PRIMARY KEY,
		roots   TEXT    NOT NULL,
		ahead   INTEGER NOT NULL, -- milliseconds by which its clock is before the database's
		seen_at INTEGER NOT NULL  -- Unix milliseconds, by the database's clock
	) WITHOUT ROWID;
`}

// use is what a connection is for. None of them creates a file.
type use string

const (
	writing    use = "mode=rw&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=secure_delete(ON)&_pragma=cache_size(-32000)"
	reading    use = "mode=rw&_query_only=1&_pragma=cache_size(-8000)"
	inspecting use = "mode=ro"             // the file is not touched, also not by a checkpoint at close
	fileAlone  use = "mode=ro&immutable=1" // without its log
)

// openConn opens the file and reads from it once, so that what is no database
// fails here.
func openConn(ctx context.Context, o Options, u use) (*conn, error) {
	path, err := filepath.Abs(o.Path)
	if err != nil {
		return nil, err
	}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: fmt.Sprintf(
		"_busy_timeout=%d&_dqs=0&_error_rc=1&_pragma=wal_autocheckpoint(0)&%s", busyWait.Milliseconds(), u.breakable())}
	connector, err := sqlite.NewConnector(dsn.String())
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(1)
	sc, err := db.Conn(ctx)
	if err != nil {
		db.Close()
		return nil, err
	}
	c := &conn{db: db, c: sc, stmts: map[string]*sql.Stmt{}, fault: o.fault}
	var n int
	if err := c.one("SELECT count(*) FROM sqlite_schema", nil, &n); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// conn is one connection with its prepared statements. It is the Tx of both
// Write and Read, and used by one goroutine at a time.
type conn struct {
	db    *sql.DB
	c     *sql.Conn
	stmts map[string]*sql.Stmt // by the text as the caller wrote it
	fault func(query string) error
	record
}

var placeholder = regexp.MustCompile(`\$([0-9]+)`)

// translate turns PostgreSQL's words into SQLite's, which takes $1 for a name and
// numbers names as they come (?1 is the numbered form), and has one writer at a
// time, so that there is no row to lock.
func translate(query string) string {
	return placeholder.ReplaceAllString(strings.TrimSuffix(query, " FOR UPDATE"), "?$1")
}

func (c *conn) prepare(query string) (*sql.Stmt, error) {
	if c.fault != nil {
		if err := c.fault(query); err != nil {
			return nil, err
		}
	}
	if st, ok := c.stmts[query]; ok {
		return st, nil
	}
	st, err := c.c.PrepareContext(context.Background(), translate(query))
	if err == nil {
		c.stmts[query] = st
	}
	return st, err
}

// Exec runs a statement that writes.
func (c *conn) Exec(query string, args ...any) (sql.Result, error) {
	st, err := c.prepare(query)
	if err != nil {
		c.failed(err)
		return nil, err
	}
	res, err := st.Exec(args...)
	if err != nil {
		c.failed(err)
		return nil, err
	}
	c.executed(res)
	return res, nil
}

// QueryRow reads one row.
func (c *conn) QueryRow(query string, args ...any) *sql.Row {
	c.returning(query)
	st, err := c.prepare(query)
	if err != nil {
		c.failed(err)
		ended, end := context.WithCancel(context.Background())
		end() // there is no other way to make a Row that holds an error
		return c.c.QueryRowContext(ended, "SELECT 1")
	}
	row := st.QueryRow(args...)
	if err := row.Err(); err != nil {
		c.failed(err)
	}
	return row
}

// Query reads rows.
func (c *conn) Query(query string, args ...any) (*sql.Rows, error) {
	c.returning(query)
	st, err := c.prepare(query)
	if err != nil {
		c.failed(err)
		return nil, err
	}
	rows, err := st.Query(args...)
	if err != nil {
		c.failed(err)
	}
	return rows, err
}

// one reads one row, of a statement of our own.
func (c *conn) one(query string, args []any, dest ...any) error {
	c.err = nil
	err := c.QueryRow(query, args...).Scan(dest...)
	if c.err != nil {
		return c.err
	}
	return err
}

// failure is the engine's part in a transaction that returned err.
func (c *conn) failure(err error) error {
	if c.err != nil {
		return c.err
	}
	if e := (*sqlite.Error)(nil); errors.As(err, &e) {
		return err
	}
	return nil
}

// begin also ends a transaction before, if its rollback has failed: otherwise this
// connection would be of no use any more.
func (c *conn) begin(how string) error {
	c.record = record{}
	err := c.control(how)
	if e := (*sqlite.Error)(nil); errors.As(err, &e) && e.Code() == sqlite3.SQLITE_ERROR {
		c.rollback()
		err = c.control(how)
	}
	return err
}

func (c *conn) commit() error { return c.control("COMMIT") }

// rollback also ends a transaction that the engine has ended by itself.
func (c *conn) rollback() { c.control("ROLLBACK") }

func (c *conn) control(query string) error {
	st, err := c.prepare(query)
	if err == nil {
		_, err = st.Exec()
	}
	return err
}

// close finalizes the statements first: with one left the engine would keep the
// connection open behind our back, and the log would stay.
func (c *conn) close() {
	for _, st := range c.stmts {
		st.Close()
	}
	c.c.Close()
	c.db.Close()
}

// isDamage reports whether the engine says that the file is no whole database.
func isDamage(err error) bool {
	e := (*sqlite.Error)(nil)
	return errors.As(err, &e) && (e.Code()&0xff == sqlite3.SQLITE_CORRUPT || e.Code()&0xff == sqlite3.SQLITE_NOTADB)
}

// meta is the one row by which a store is known.
type meta struct {
	epoch, fingerprint        string
	schema, commits, lastSeen int64
}

func readMeta(c *conn) (m meta, err error) {
	err = c.one("SELECT epoch, schema, commits, fingerprint, last_seen FROM meta WHERE one = 1", nil,
		&m.epoch, &m.schema, &m.commits, &m.fingerprint, &m.lastSeen)
	return m, err
}

// inspect looks at a store without changing it: is it there, is it whole, is it
// the one that its mirror knows, has it lost anything. The mirror is read before
// the store, because a running server may write both meanwhile.
func inspect(ctx context.Context, o Options) (small bool, err error) {
	seen, mirrorErr := readMirror(o.Mirror)
	small, err = inspectFile(o)
	if errors.Is(err, fs.ErrNotExist) {
		return false, missing(o, seen, mirrorErr)
	}
	if err != nil {
		return false, err
	}
	if errors.Is(mirrorErr, fs.ErrNotExist) {
		return false, fmt.Errorf("%w: %s is there, its mirror %s is not (%s)", ErrHalf, o.Path, o.Mirror, acceptLoss)
	}
	if mirrorErr != nil {
		return false, mirrorErr
	}
	return small, inspectContent(ctx, o, seen, small)
}

// missing tells a first start from a loss. A mirror that counts no commit was
// left by a first start that was cut short.
func missing(o Options, seen mark, mirrorErr error) error {
	_, logErr := os.Stat(o.Path + "-wal")
	if logErr != nil && (errors.Is(mirrorErr, fs.ErrNotExist) || mirrorErr == nil && seen.commits == 0) {
		return fmt.Errorf("%w: %s", ErrNoStore, o.Path)
	}
	return fmt.Errorf("%w: %w: %s is gone, its mirror or its log is not (%s)", ErrNoStore, ErrHalf, o.Path, acceptLoss)
}

// inspectFile checks what can be seen without the engine, which would take an
// empty file for an empty database. It does not open the file: closing it would
// drop the locks that the engine may hold for others in this process.
func inspectFile(o Options) (small bool, err error) {
	path := o.Path
	fi, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	if mode := fi.Mode().Perm(); mode&0o077 != 0 {
		return false, fmt.Errorf("%s: mode is %04o, want 0600: the store holds sealed keys and what users granted", path, mode)
	}
	if fi.Size() == 0 {
		return false, damaged(path, errors.New("empty"))
	}
	return fi.Size() < o.small, nil
}

func inspectContent(ctx context.Context, o Options, seen mark, small bool) error {
	c, err := openConn(ctx, o, inspecting)
	if err != nil {
		return inspected(o.Path, err)
	}
	defer c.close()
	if small {
		if err := quickCheck(ctx, c); err != nil {
			return inspected(o.Path, err)
		}
	}
	m, err := readMeta(c)
	if err != nil {
		return inspected(o.Path, fmt.Errorf("it does not say which store it is: %w", err))
	}
	switch {
	case m.schema > int64(len(o.steps)):
		return fmt.Errorf("%w: %s has schema %d, this one knows %d", ErrNewer, o.Path, m.schema, len(o.steps))
	case !o.Root(m.fingerprint):
		return fmt.Errorf("%w: %s: give the right one back (%s)", ErrOtherRoot, o.Path, acceptLoss)
	case m.epoch != seen.epoch:
		return fmt.Errorf("%w: %s and its mirror %s have different epochs (%s)", ErrOtherStore, o.Path, o.Mirror, acceptLoss)
	case m.commits < seen.commits:
		return fmt.Errorf("%w: %s has %d commits, its mirror %s counted %d (%s)", ErrRolledBack, o.Path, m.commits, o.Mirror, seen.commits, acceptLoss)
	}
	if base, ok := fileCommits(ctx, o); ok && base < seen.base {
		return fmt.Errorf("%w: %s by itself has %d commits, its mirror %s counted %d: an old copy under a later log (%s)",
			ErrRolledBack, o.Path, base, o.Mirror, seen.base, acceptLoss)
	}
	return nil
}

// inspected tells damage from a file that cannot be read now.
func inspected(path string, err error) error {
	e := (*sqlite.Error)(nil)
	if errors.As(err, &e) && !isDamage(err) && e.Code()&0xff != sqlite3.SQLITE_ERROR {
		return unavailable(path, err)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return unavailable(path, err)
	}
	return damaged(path, err)
}

// fileCommits reads the counter from the file without its log. While another
// process moves the log into the file it may be in between, and says nothing.
func fileCommits(ctx context.Context, o Options) (int64, bool) {
	c, err := openConn(ctx, o, fileAlone)
	if err != nil {
		return 0, false
	}
	defer c.close()
	m, err := readMeta(c)
	return m.commits, err == nil
}

// quickCheck looks at every page.
func quickCheck(ctx context.Context, c *conn) error {
	rows, err := c.c.QueryContext(ctx, "PRAGMA quick_check(3)")
	if err != nil {
		return err
	}
	defer rows.Close()
	var found []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return err
		}
		found = append(found, line)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if len(found) != 1 || found[0] != "ok" {
		return errors.New(strings.Join(found, "; "))
	}
	return nil
}

// migrate takes the store to the latest schema, step by step.
func migrate(c *conn, o Options) error {
	for {
		more, err := migrateOnce(c, o)
		if err != nil {
			return unavailable(o.Path, fmt.Errorf("migrating: %w", err))
		}
		if !more {
			return nil
		}
	}
}

func migrateOnce(c *conn, o Options) (more bool, err error) {
	m, err := readMeta(c)
	if err != nil || m.schema >= int64(len(o.steps)) {
		return false, err
	}
	if err := c.begin("BEGIN IMMEDIATE"); err != nil {
		return false, err
	}
	defer c.rollback()
	if m, err = readMeta(c); err != nil || m.schema >= int64(len(o.steps)) {
		return false, err // another process was faster
	}
	if _, err := c.c.ExecContext(context.Background(), o.steps[m.schema]); err != nil {
		return false, fmt.Errorf("to schema %d: %w", m.schema+1, err)
	}
	if _, err := c.Exec("UPDATE meta SET schema = schema + 1, commits = commits + 1"); err != nil {
		return false, err
	}
	return true, c.commit()
}
