package store

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// postgresSchema is the schema's history, as sqliteSchema. Identifiers compare by
// their bytes, whatever the database's language: ids of grants sort by time.
var postgresSchema = []string{`
	CREATE TABLE meta (
		one         BIGINT PRIMARY KEY CHECK (one = 1),
		epoch       TEXT   NOT NULL,
		schema      BIGINT NOT NULL,
		fingerprint TEXT   NOT NULL,
		last_seen   BIGINT NOT NULL -- Unix milliseconds
	);
	CREATE TABLE signing_keys (
		period         BIGINT PRIMARY KEY,
		kid            TEXT   NOT NULL UNIQUE,
		public         TEXT   NOT NULL,
		sealed_private TEXT,
		starts_at      BIGINT NOT NULL,
		published_at   BIGINT NOT NULL
	);
	CREATE TABLE grants (
		id           TEXT   COLLATE "C" PRIMARY KEY,
		gen          BIGINT NOT NULL,
		rotated_at   BIGINT NOT NULL, -- Unix milliseconds, as revoked_at
		revoked_at   BIGINT NOT NULL,
		sub          TEXT   COLLATE "C" NOT NULL,
		client_hash  TEXT   NOT NULL,
		client_name  TEXT   NOT NULL,
		consent_hash TEXT   NOT NULL,
		scope        TEXT   NOT NULL,
		resource     TEXT   NOT NULL,
		created_at   BIGINT NOT NULL, -- Unix seconds, as expires_at
		expires_at   BIGINT NOT NULL,
		replays      BIGINT NOT NULL DEFAULT 0
	);
	CREATE INDEX grants_sub ON grants (sub);
	CREATE INDEX grants_revoked ON grants (revoked_at) WHERE revoked_at > 0;
	CREATE TABLE spent (
		kind       TEXT   COLLATE "C" NOT NULL,
		id         TEXT   COLLATE "C" NOT NULL,
		expires_at BIGINT NOT NULL, -- Unix seconds
		PRIMARY KEY (kind, id)
	);
	CREATE INDEX spent_expires ON spent (expires_at);
	CREATE TABLE attempts (
		key        BYTEA  PRIMARY KEY,
		failures   BIGINT NOT NULL,
		since      BIGINT NOT NULL, -- Unix milliseconds, as latest
		latest     BIGINT NOT NULL,
		expires_at BIGINT NOT NULL  -- Unix seconds
	);
	CREATE INDEX attempts_expires ON attempts (expires_at);
`, `
	ALTER TABLE meta ADD COLUMN rooted_at BIGINT NOT NULL DEFAULT 0; -- Unix milliseconds: since when the fingerprint is this one
	CREATE TABLE withdrawn_keys (
		kid          TEXT   COLLATE "C" PRIMARY KEY,
		published_at BIGINT NOT NULL, -- Unix milliseconds, as withdrawn_at
		withdrawn_at BIGINT NOT NULL
	);
	CREATE TABLE servers (
		id      TEXT   COLLATE "C" PRIMARY KEY,
		roots   TEXT   NOT NULL,
		ahead   BIGINT NOT NULL, -- milliseconds by which its clock is before the database's
		seen_at BIGINT NOT NULL  -- Unix milliseconds, by the database's clock
	);
`}

// defaultSchema is where the tables are, in a database that may have others, unless
// the URL has a search_path.
const defaultSchema = "signet"

// Advisory locks, by numbers that nobody else is likely to have.
const (
	makingLock  int64 = 0x5349474e45540001 // held while the store is made, migrated or renewed
	servingLock int64 = 0x5349474e45540002 // shared by the servers that use it
)

// postgresConfig reads the URL. Its errors never show it: it may have a password.
func postgresConfig(raw string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(raw)
	if err != nil {
		return nil, fmt.Errorf("not the URL of a PostgreSQL database (postgres://user:password@host:5432/database?sslmode=verify-full): %s", parseFault(raw, err))
	}
	if config.ConnectTimeout == 0 || config.ConnectTimeout > connectIn {
		config.ConnectTimeout = connectIn
	}
	// A standby cannot take writes, and is behind with revocations.
	config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	for name, value := range map[string]string{
		"application_name":                    "signet",
		"search_path":                         defaultSchema,
		"lock_timeout":                        milliseconds(groupWait),
		"idle_in_transaction_session_timeout": milliseconds(hungUp),
	} {
		if _, set := config.RuntimeParams[name]; !set {
			config.RuntimeParams[name] = value
		}
	}
	return config, nil
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// parseFault is the reason of a parse error. That a URL is none is all that can be
// said of it: the rest of that error quotes the part that may be the password.
func parseFault(raw string, err error) string {
	if _, bad := url.Parse(raw); bad != nil {
		return "special characters in user or password must be percent-encoded"
	}
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err.Error()
}

// CheckURL reports what is wrong with the URL of a PostgreSQL database, without
// connecting, and without showing it.
func CheckURL(raw string) error {
	_, err := postgresConfig(raw)
	return err
}

// readableOnTheWay reports whether a connection may cross a network in the clear. It
// may by PostgreSQL's own default (sslmode=prefer), for whoever says that there is no
// TLS: the password and what is in the store are then theirs to see.
func readableOnTheWay(c *pgx.ConnConfig) bool {
	plain := func(host string, tls *tls.Config) bool {
		ip := net.ParseIP(host)
		return tls == nil && !strings.HasPrefix(host, "/") && host != "localhost" && (ip == nil || !ip.IsLoopback())
	}
	return plain(c.Host, c.TLSConfig) || slices.ContainsFunc(c.Fallbacks, func(f *pgconn.FallbackConfig) bool { return plain(f.Host, f.TLSConfig) })
}

// postgresName is how errors and logs speak of the database.
func postgresName(c *pgx.ConnConfig) string {
	return fmt.Sprintf("postgres://%s@%s/%s", c.User, net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))), c.Database)
}

// lookIn is for looking at the store at a start, makeIn for making or migrating it.
const (
	lookIn = 5 * time.Second
	makeIn = 15 * time.Minute
)

// prepare checks the store. It makes it, if o.First says so and there is none, or
// migrates it, while no other replica does.
func (p *postgres) prepare(ctx context.Context) (m meta, err error) {
	there := false
	look := func(ctx context.Context, tx pgx.Tx) error {
		if there, err = isThere(ctx, tx); err != nil || !there {
			return err
		}
		m, err = p.inspect(ctx, tx)
		return err
	}
	if err := p.connected(ctx, lookIn, look); err != nil || there && m.schema == int64(len(p.o.steps)) {
		return m, err
	}
	if !there && p.o.First == "" {
		return m, fmt.Errorf("%w: %s has no tables of ours", ErrNoStore, p.name)
	}
	err = p.exclusively(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := look(ctx, tx); err != nil {
			return err
		}
		if !there {
			m, err = p.establish(ctx, tx, p.o.First)
			return err
		}
		return p.migrate(ctx, tx, m.schema)
	})
	return m, err
}

// connected runs fn in a transaction on a connection of its own.
func (p *postgres) connected(ctx context.Context, within time.Duration, fn func(context.Context, pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	c, err := pgx.ConnectConfig(ctx, p.config)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	tx, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	if err := fn(ctx, tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// exclusively is connected while nobody else makes or migrates the store.
func (p *postgres) exclusively(ctx context.Context, fn func(context.Context, pgx.Tx) error) error {
	return p.connected(ctx, makeIn, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = "+milliseconds(lookIn)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", makingLock); err != nil {
			if pgCode(err) == lockNotAvailable {
				return fmt.Errorf("another replica is just making or migrating it: %w", err)
			}
			return err
		}
		return fn(ctx, tx)
	})
}

func isThere(ctx context.Context, tx pgx.Tx) (there bool, err error) {
	err = tx.QueryRow(ctx, "SELECT to_regclass('meta') IS NOT NULL").Scan(&there)
	return there, err
}

// inspect reads what the store is, and refuses what is not for us.
func (p *postgres) inspect(ctx context.Context, tx pgx.Tx) (m meta, err error) {
	err = tx.QueryRow(ctx, "SELECT epoch, fingerprint, schema, last_seen FROM meta WHERE one = 1").Scan(&m.epoch, &m.fingerprint, &m.schema, &m.lastSeen)
	switch {
	case errors.Is(err, pgx.ErrNoRows), pgCode(err) == "42703":
		return m, fmt.Errorf("%w: %s: its table meta does not say which store it is (%s)", ErrDamaged, p.name, acceptLoss)
	case err != nil:
		return m, err
	case m.schema > int64(len(p.o.steps)):
		return m, fmt.Errorf("%w: %s has schema %d, this one knows %d", ErrNewer, p.name, m.schema, len(p.o.steps))
	case !p.o.Root(m.fingerprint):
		return m, fmt.Errorf("%w: %s: give this replica the secret of the others (SIGNET_SECRET), or, if it is lost, %s", ErrOtherRoot, p.name, acceptLoss)
	}
	return m, nil
}

// establish makes tables and epoch.
func (p *postgres) establish(ctx context.Context, tx pgx.Tx, fingerprint string) (m meta, err error) {
	var encoding string
	var schema *string
	if err := tx.QueryRow(ctx, "SELECT current_setting('server_encoding'), current_schema()").Scan(&encoding, &schema); err != nil {
		return m, err
	}
	if encoding != "UTF8" {
		return m, fmt.Errorf("store: %s has the encoding %s: make a database with ENCODING 'UTF8'", p.name, encoding)
	}
	if schema == nil { // a right that is not needed once it is there
		if _, err := tx.Exec(ctx, "CREATE SCHEMA "+defaultSchema); err != nil {
			return m, err
		}
	}
	if err := p.steps(ctx, tx, 0); err != nil {
		return m, err
	}
	m = meta{epoch: rand.Text(), fingerprint: fingerprint, schema: int64(len(p.o.steps)), lastSeen: time.Now().UnixMilli()}
	_, err = tx.Exec(ctx, "INSERT INTO meta (one, epoch, fingerprint, schema, last_seen) VALUES (1, $1, $2, $3, $4)", m.epoch, m.fingerprint, m.schema, m.lastSeen)
	if err == nil {
		p.o.Log.Info("the store is made", "store", p.name)
	}
	return m, err
}

// migrate takes the store to the latest schema. Replicas of the release before go
// on with it, so a step only adds.
func (p *postgres) migrate(ctx context.Context, tx pgx.Tx, from int64) error {
	if from == int64(len(p.o.steps)) {
		return nil // another replica was faster
	}
	if err := p.steps(ctx, tx, from); err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	_, err := tx.Exec(ctx, "UPDATE meta SET schema = $1", len(p.o.steps))
	if err == nil {
		p.o.Log.Info("the store is migrated", "store", p.name, "from", from, "to", len(p.o.steps))
	}
	return err
}

func (p *postgres) steps(ctx context.Context, tx pgx.Tx, from int64) error {
	for i, step := range p.o.steps[from:] {
		if _, err := tx.Exec(ctx, step); err != nil {
			return fmt.Errorf("to schema %d: %w", from+int64(i)+1, err)
		}
	}
	return nil
}

// createPostgres is [Create].
func createPostgres(ctx context.Context, o Options, fingerprint string) error {
	return alter(ctx, o, func(ctx context.Context, p *postgres, tx pgx.Tx) error {
		there, err := isThere(ctx, tx)
		if err != nil {
			return err
		}
		if there {
			return fmt.Errorf("creating a store: %s: %w", p.name, fs.ErrExist)
		}
		_, err = p.establish(ctx, tx, fingerprint)
		return err
	})
}

// renewPostgres is [NewEpoch].
func renewPostgres(ctx context.Context, o Options, fingerprint string) error {
	return alter(ctx, o, func(ctx context.Context, p *postgres, tx pgx.Tx) error {
		if err := p.alone(ctx, tx); err != nil {
			return err
		}
		there, err := isThere(ctx, tx)
		if err != nil {
			return err
		}
		var m meta
		if there {
			m, err = p.inspect(ctx, tx)
		}
		switch {
		case errors.Is(err, ErrOtherRoot), errors.Is(err, ErrDamaged):
			if _, err := p.setAside(ctx, tx, "lost"); err != nil {
				return err
			}
			there = false
		case err != nil:
			return err
		}
		if !there {
			_, err := p.establish(ctx, tx, fingerprint)
			return err
		}
		if err := p.migrate(ctx, tx, m.schema); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE meta SET epoch = $1, fingerprint = $2, last_seen = $3", rand.Text(), fingerprint, time.Now().UnixMilli())
		return err
	})
}

// alone refuses while a server runs, and keeps others from starting until tx ends.
func (p *postgres) alone(ctx context.Context, tx pgx.Tx) error {
	// The session of a server that has just stopped may take a moment to end.
	if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '2s'"); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", servingLock)
	if pgCode(err) == lockNotAvailable {
		return fmt.Errorf("%w: servers are connected to %s: stop all replicas first", ErrLocked, p.name)
	}
	return err
}

// setAside gives the schema with all its tables another name, which says why.
func (p *postgres) setAside(ctx context.Context, tx pgx.Tx, why string) (aside string, err error) {
	var schema string
	if err := tx.QueryRow(ctx, "SELECT current_schema()").Scan(&schema); err != nil {
		return "", err
	}
	if schema != defaultSchema {
		return "", fmt.Errorf("store: the tables in schema %s of %s are in the way: give them another name, or make another database", schema, p.name)
	}
	aside = schema + "_" + why + time.Now().UTC().Format("_20060102_150405")
	p.o.Log.Warn("what was left of the store is set aside", "store", p.name, "schema", aside)
	_, err = tx.Exec(ctx, "ALTER SCHEMA "+defaultSchema+" RENAME TO "+aside)
	return aside, err
}

// alter changes the store itself.
func alter(ctx context.Context, o Options, fn func(context.Context, *postgres, pgx.Tx) error) error {
	config, err := postgresConfig(o.Path)
	if err != nil {
		return err
	}
	p := &postgres{state: &state{o: o, name: postgresName(config)}, config: config}
	err = p.exclusively(ctx, func(ctx context.Context, tx pgx.Tx) error { return fn(ctx, p, tx) })
	return p.unavailable(err)
}

// unavailable wraps what the database said, unless it is a verdict of ours.
func (p *postgres) unavailable(err error) error {
	if err == nil {
		return nil
	}
	for _, verdict := range []error{ErrNoStore, ErrNewer, ErrOtherRoot, ErrLocked, ErrDamaged, fs.ErrExist} {
		if errors.Is(err, verdict) {
			return err
		}
	}
	return unavailable(p.name, p.explain(err))
}

// passing reports whether an error may go away by itself: the server is away,
// starting, full, or a standby for now. Errors of a wrong setting do not.
func passing(err error) bool {
	if code := pgCode(err); code != "" {
		return slices.Contains([]string{"08", "25", "40", "53", "55", "57", "58", "XX"}, code[:2])
	}
	return !isUntrusted(err) && !isWithoutTLS(err)
}

func isUntrusted(err error) bool {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	return errors.As(err, &unknown) || errors.As(err, &host)
}

func isWithoutTLS(err error) bool {
	var alert tls.AlertError
	return errors.As(err, &alert) || strings.Contains(err.Error(), "refused TLS")
}

// explain adds to an error what can be done about it.
func (p *postgres) explain(err error) error {
	hint := ""
	switch code := pgCode(err); {
	case code == "28P01", code == "28000":
		hint = "the database does not let us in: check user and password of the URL, and the server's pg_hba.conf"
	case code == "3D000":
		hint = fmt.Sprintf("make the database first: CREATE DATABASE %s", pgx.Identifier{p.config.Database}.Sanitize())
	case code == "42501":
		hint = fmt.Sprintf("give the user the right to make a schema: GRANT CREATE ON DATABASE %s TO %s",
			pgx.Identifier{p.config.Database}.Sanitize(), pgx.Identifier{p.config.User}.Sanitize())
	case code == "53300":
		hint = fmt.Sprintf("raise max_connections of the server: each replica takes up to %d", 2*maxConnections+1)
	case code == "25006", errors.Is(err, pgconn.ErrReadOnlyConnection):
		hint = "this is a standby: name the primary, or all of them (host1,host2)"
	case isUntrusted(err):
		hint = "the server's certificate is not trusted: sslrootcert=FILE names the authority"
	case isWithoutTLS(err):
		hint = "no TLS could be agreed on: check sslmode of the URL"
	default:
		return err
	}
	return fmt.Errorf("%s (%w)", hint, err)
}
