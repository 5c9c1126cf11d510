package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// connect opens a connection outside of the pools, with the session's settings.
func (p *postgresDatabase) connect(ctx context.Context) (*pgx.Conn, error) {
	c, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	if err = p.checkPooler(ctx, c); err == nil { // first, because a pooler may give the settings to others
		err = p.setUp(ctx, c)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close(ctx))
	}
	return c, nil
}

// dial opens a connection and nothing more.
func (p *postgresDatabase) dial(ctx context.Context) (*pgx.Conn, error) {
	c, err := pgx.ConnectConfig(ctx, p.config)
	if err == nil {
		registerTypes(c)
	}
	return c, err
}

// registerTypes names the types of arguments, for a URL whose default_query_exec_mode prepares no
// statements. The program is built with the tag nopgxregisterdefaulttypes, because pgx's own
// registration, of all types, is 1.4 MiB.
func registerTypes(c *pgx.Conn) {
	for _, t := range []struct {
		name   string
		values []any
	}{
		{"int8", []any{int64(0), 0}}, {"_int8", []any{[]int64{}}}, {"text", []any{""}}, {"_text", []any{[]string{}}}, {"bytea", []any{[]byte{}}}, {"bool", []any{false}},
	} {
		for _, value := range t.values {
			c.TypeMap().RegisterDefaultPgType(value, t.name)
		}
	}
}

// setUp makes the session's settings. They are no parameters of the startup packet,
// because PgBouncer refuses most of these.
func (p *postgresDatabase) setUp(ctx context.Context, c *pgx.Conn) error {
	var calls []string
	var args [][]byte
	for _, name := range slices.Sorted(maps.Keys(p.settings)) {
		args = append(args, []byte(name), []byte(p.settings[name]))
		calls = append(calls, fmt.Sprintf("set_config($%d, $%d, false)", len(args)-1, len(args)))
	}
	return c.PgConn().ExecParams(ctx, "SELECT "+strings.Join(calls, ", "), args, nil, nil, nil).Read().Err
}

var errPooled = errors.New("a pooler such as PgBouncer stands before the database and lends a connection for one transaction only, so that locks and settings of a session are lost: " +
	"set pool_mode = session for this database, or name the PostgreSQL server itself")

// checkPooler returns errPooled if the connection leads to another session of the database
// in each transaction.
//
// A pooler shows by the session's number, which is not the one that the connection began
// with: the number is a part of the secret by which statements are cancelled, and poolers
// make their own. In transaction mode a session that has become free goes to the next
// caller: this connection gets one that it did not have before, or the other connection
// gets the one that this connection still has. The other connection keeps its session
// while this one asks again, so that a pooler that takes turns is found out too. While
// other programs use the pool a round may miss it; all of them do not.
func (p *postgresDatabase) checkPooler(ctx context.Context, c *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, lookIn)
	defer cancel()
	session, err := sessionNumber(ctx, c)
	if err != nil || session == fmt.Sprint(c.PgConn().PID()) {
		return err
	}
	other, err := p.dial(ctx)
	if err != nil {
		return pooled(err)
	}
	defer other.Close(ctx)
	for range poolerRounds {
		if err := comparePooled(ctx, c, other, session); err != nil {
			return err
		}
	}
	return nil
}

const poolerRounds = 8

// comparePooled fails if c has left the session, or if other has it.
func comparePooled(ctx context.Context, c, other *pgx.Conn, session string) error {
	if now, err := sessionNumber(ctx, c); err != nil || now != session {
		return pooled(err)
	}
	if err := simpleQuery(ctx, other, "BEGIN"); err != nil {
		return pooled(err)
	}
	if others, err := sessionNumber(ctx, other); err != nil || others == session {
		return pooled(err)
	}
	if now, err := sessionNumber(ctx, c); err != nil || now != session {
		return pooled(err)
	}
	return simpleQuery(ctx, other, "ROLLBACK")
}

// pooled is the error of a comparison that ended with err, or with another number.
func pooled(err error) error {
	var refused *pgconn.PgError
	switch {
	case err == nil, errors.As(err, &refused) && strings.Contains(refused.Message, "statement pooling"):
		return errPooled
	case pgconn.Timeout(err):
		return fmt.Errorf("the pooler before the database has no second connection: raise default_pool_size of PgBouncer: each replica takes up to %d (%w)", allConnections, err)
	}
	return err
}

// sessionNumber is the number of the process that serves the session.
func sessionNumber(ctx context.Context, c *pgx.Conn) (string, error) {
	results, err := c.PgConn().Exec(ctx, "SELECT pg_backend_pid()").ReadAll()
	if err != nil {
		return "", err
	}
	return string(results[0].Rows[0][0]), nil
}

func simpleQuery(ctx context.Context, c *pgx.Conn, query string) error {
	_, err := c.PgConn().Exec(ctx, query).ReadAll()
	return err
}
