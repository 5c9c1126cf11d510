package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	maxReaders = 4
	busyWait   = 2 * time.Second // for another process that is writing
)

// use is the purpose of a connection, as its settings. None of them creates a file.
type use string

const (
	writing   use = "mode=rw&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=secure_delete(ON)&_pragma=cache_size(-32000)"
	reading   use = "mode=ro&_pragma=cache_size(-8000)" // changes nothing, not even by a checkpoint at close
	fileAlone use = "mode=ro&immutable=1"               // reads the file without its log
)

// openConn opens the file and reads from it once, so that a file that is not a
// database fails here.
func openConn(ctx context.Context, o Options, u use) (*sqliteConn, error) {
	path, err := filepath.Abs(o.Path)
	if err != nil {
		return nil, err
	}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: fmt.Sprintf(
		"_busy_timeout=%d&_dqs=0&_error_rc=1&_pragma=wal_autocheckpoint(0)&%s", busyWait.Milliseconds(), u.withFailpoints())}
	connector, err := sqlite.NewConnector(dsn.String())
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(1)
	raw, err := db.Conn(ctx)
	if err != nil {
		db.Close()
		return nil, err
	}
	c := &sqliteConn{db: db, raw: raw, stmts: map[string]*sql.Stmt{}, fault: o.fault}
	var n int
	if err := c.one("SELECT count(*) FROM sqlite_schema", nil, &n); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// sqliteConn is one connection with its prepared statements. It is the Tx of both
// Write and Read, and is used by one goroutine at a time.
type sqliteConn struct {
	db    *sql.DB
	raw   *sql.Conn
	stmts map[string]*sql.Stmt // by the text that the caller wrote
	fault func(query string) error
	level string // of synchronous while commits do not wait for the disk: what it is otherwise
	record
}

var placeholder = regexp.MustCompile(`\$([0-9]+)`)

// translate turns a statement for PostgreSQL into one for SQLite. SQLite takes $1 for a
// name and numbers names in the order in which they appear; ?1 is its numbered form. It
// has one writer at a time, so there is no row to lock.
func translate(query string) string {
	return placeholder.ReplaceAllString(strings.TrimSuffix(query, " FOR UPDATE"), "?$1")
}

func (c *sqliteConn) prepare(query string) (*sql.Stmt, error) {
	if c.fault != nil {
		if err := c.fault(query); err != nil {
			return nil, err
		}
	}
	if st, ok := c.stmts[query]; ok {
		return st, nil
	}
	st, err := c.raw.PrepareContext(context.Background(), translate(query))
	if err == nil {
		c.stmts[query] = st
	}
	return st, err
}

// Exec runs a statement that writes.
func (c *sqliteConn) Exec(query string, args ...any) (sql.Result, error) {
	st, err := c.prepare(query)
	if err != nil {
		c.noteError(err)
		return nil, err
	}
	res, err := st.Exec(args...)
	if err != nil {
		c.noteError(err)
		return nil, err
	}
	c.noteExec(res)
	return res, nil
}

// QueryRow reads one row.
func (c *sqliteConn) QueryRow(query string, args ...any) *sql.Row {
	c.noteQuery(query)
	st, err := c.prepare(query)
	if err != nil {
		c.noteError(err)
		ended, end := context.WithCancel(context.Background())
		end() // there is no other way to make a Row that holds an error
		return c.raw.QueryRowContext(ended, "SELECT 1")
	}
	row := st.QueryRow(args...)
	if err := row.Err(); err != nil {
		c.noteError(err)
	}
	return row
}

// Query reads rows.
func (c *sqliteConn) Query(query string, args ...any) (*sql.Rows, error) {
	c.noteQuery(query)
	st, err := c.prepare(query)
	if err != nil {
		c.noteError(err)
		return nil, err
	}
	rows, err := st.Query(args...)
	if err != nil {
		c.noteError(err)
	}
	return rows, err
}

// one reads one row, with a statement of this package.
func (c *sqliteConn) one(query string, args []any, dest ...any) error {
	c.err = nil
	err := c.QueryRow(query, args...).Scan(dest...)
	if c.err != nil {
		return c.err
	}
	return err
}

// failure returns the engine's error, if there was one in a transaction that returned
// err.
func (c *sqliteConn) failure(err error) error {
	if c.err != nil {
		return c.err
	}
	if e := (*sqlite.Error)(nil); errors.As(err, &e) {
		return err
	}
	return nil
}

// begin also ends an earlier transaction whose rollback failed: otherwise this
// connection could not be used again.
func (c *sqliteConn) begin(how string) error {
	c.record = record{}
	err := c.control(how)
	if e := (*sqlite.Error)(nil); errors.As(err, &e) && e.Code() == sqlite3.SQLITE_ERROR {
		c.rollback()
		err = c.control(how)
	}
	return err
}

// syncs has the next commits wait for the disk, or not. It is called between transactions.
func (c *sqliteConn) syncs(on bool) error {
	if on == (c.level == "") {
		return nil
	}
	if on {
		err := c.synchronous(c.level)
		if err == nil {
			c.level = ""
		}
		return err
	}
	var level string
	if err := c.one("PRAGMA synchronous", nil, &level); err != nil {
		return err
	}
	c.level = level // although it may fail: then the next synced commit sets it
	return c.synchronous("NORMAL")
}

// synchronous does not keep the statement: SQLite sets the level when it compiles it. A
// transaction whose rollback failed is ended first, as in begin.
func (c *sqliteConn) synchronous(level string) error {
	query := "PRAGMA synchronous = " + level
	if c.fault != nil {
		if err := c.fault(query); err != nil {
			return err
		}
	}
	_, err := c.raw.ExecContext(context.Background(), query)
	if err != nil {
		c.rollback()
		_, err = c.raw.ExecContext(context.Background(), query)
	}
	return err
}

func (c *sqliteConn) commit() error { return c.control("COMMIT") }

// rollback does no harm if the engine has ended the transaction by itself.
func (c *sqliteConn) rollback() { c.control("ROLLBACK") }

func (c *sqliteConn) control(query string) error {
	st, err := c.prepare(query)
	if err == nil {
		_, err = st.Exec()
	}
	return err
}

// close finalizes the statements first: if one were left, the engine would keep the
// connection open in secret, and the log would stay.
func (c *sqliteConn) close() {
	for _, st := range c.stmts {
		st.Close()
	}
	c.raw.Close()
	c.db.Close()
}

// isDamage reports whether SQLite says that the file is not a whole database.
func isDamage(err error) bool {
	e := (*sqlite.Error)(nil)
	return errors.As(err, &e) && (e.Code()&0xff == sqlite3.SQLITE_CORRUPT || e.Code()&0xff == sqlite3.SQLITE_NOTADB)
}

// diskRefuses reports whether SQLite could not write because of the disk: it is full, fails, or
// cannot be written any longer.
func diskRefuses(err error) bool {
	e := (*sqlite.Error)(nil)
	if !errors.As(err, &e) {
		return false
	}
	code := e.Code() & 0xff
	return code == sqlite3.SQLITE_FULL || code == sqlite3.SQLITE_IOERR || code == sqlite3.SQLITE_READONLY
}

// readEnded reads the part of meta that the schemas before sqliteWithEnded do not have.
func readEnded(c *sqliteConn, m *meta) error {
	return c.one("SELECT ended, rolled_back_at, not_before FROM meta WHERE one = 1", nil, &m.ended, &m.rolledBackAt, &m.notBefore)
}

func readMeta(c *sqliteConn) (m meta, err error) {
	err = c.one("SELECT epoch, schema, commits, fingerprint, last_seen FROM meta WHERE one = 1", nil,
		&m.epoch, &m.schema, &m.commits, &m.fingerprint, &m.lastSeen)
	return m, err
}
