package store

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// unavailable wraps an error of the database. An error that says something about the
// store itself is returned as it is.
func (p *postgresDatabase) unavailable(err error) error {
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

// isRefusal reports whether an error of open will be the same at the next attempt.
func isRefusal(err error) bool { return !errors.Is(err, ErrUnavailable) || !mayPass(err) }

// mayPass reports whether an error may go away by itself: the database cannot be reached,
// is starting, full, or a standby at the moment. If the database refuses the user or a
// setting, or the two sides do not agree on TLS, waiting does not help.
func mayPass(err error) bool {
	if refused := (*pgconn.PgError)(nil); errors.As(err, &refused) {
		return refusalMayPass(refused)
	}
	if isUntrusted(err) || isWithoutTLS(err) {
		return false
	}
	var network net.Error // deadlines too
	var system syscall.Errno
	return errors.As(err, &network) || errors.As(err, &system) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, pgconn.ErrReadOnlyConnection)
}

func refusalMayPass(refused *pgconn.PgError) bool {
	switch refused.Code {
	case "55P02": // a setting that no session can make
		return false
	case protocolViolation:
		return poolerRefusal(refused) == ""
	}
	return slices.Contains([]string{"08", "25", "40", "53", "55", "57", "58", "XX"}, refused.Code[:min(2, len(refused.Code))])
}

// protocolViolation is also the code of everything that PgBouncer says itself.
const protocolViolation = "08P01"

// poolerRefusal is how to mend what PgBouncer refuses for good. It is empty if waiting may
// help, for example because PgBouncer cannot reach the database.
func poolerRefusal(refused *pgconn.PgError) string {
	for _, r := range []struct{ text, hint string }{
		{"startup parameter", "PgBouncer refuses a parameter of the URL: leave it out, or name it in ignore_startup_parameters of PgBouncer"},
		{"authentication failed", "PgBouncer or the database behind it refuses the login: check user and password of the URL, and auth_file of PgBouncer"},
		{"no such user", "PgBouncer does not know the user of the URL: see auth_file of PgBouncer"},
		{"does not exist", "PgBouncer does not know the database or the user of the URL: see [databases] and auth_file of PgBouncer"},
		{"no such database", "PgBouncer does not know the database of the URL: see [databases] of PgBouncer"},
		{"SSL required", "PgBouncer wants TLS: check sslmode of the URL"},
		{"statement pooling", errPooled.Error()},
	} {
		if strings.Contains(refused.Message, r.text) {
			return r.hint
		}
	}
	return ""
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

// explain adds to an error how to mend it.
func (p *postgresDatabase) explain(err error) error {
	hint := ""
	var refused *pgconn.PgError
	switch code := postgresCode(err); {
	case code == protocolViolation && errors.As(err, &refused) && poolerRefusal(refused) != "":
		hint = poolerRefusal(refused)
	case code == "42704", code == "22023", code == "55P02":
		hint = "the database refuses a setting: check the parameters of the URL"
	case code == "28P01", code == "28000":
		hint = "the database refuses the login: check user and password of the URL, and the server's pg_hba.conf"
	case code == "3D000":
		hint = fmt.Sprintf("create the database first: CREATE DATABASE %s", pgx.Identifier{p.config.Database}.Sanitize())
	case code == "42501":
		hint = fmt.Sprintf("give the user the right to create a schema: GRANT CREATE ON DATABASE %s TO %s",
			pgx.Identifier{p.config.Database}.Sanitize(), pgx.Identifier{p.config.User}.Sanitize())
	case code == "53300":
		hint = fmt.Sprintf("raise max_connections of the database: each replica takes up to %d", allConnections)
	case code == "25006", errors.Is(err, pgconn.ErrReadOnlyConnection):
		hint = "this is a standby: name the primary, or all of them (host1,host2)"
	case isUntrusted(err):
		hint = "the server's certificate is not trusted: sslrootcert=FILE names the authority"
	case isWithoutTLS(err):
		hint = "the database and Signet could not agree on TLS: check sslmode of the URL"
	default:
		return err
	}
	return fmt.Errorf("%s (%w)", hint, err)
}

// classify marks the errors after which another try may succeed.
func (p *postgresDatabase) classify(err error, group bool) error {
	if errors.Is(err, errUndone) {
		return err
	}
	if code := postgresCode(err); isConflict(code) || group && code == lockNotAvailable {
		return fmt.Errorf("%w: %w", errConflict, p.explain(err))
	}
	return p.explain(err)
}

const lockNotAvailable = "55P03"

// isConflict reports whether a transaction was undone because of another one, which
// inserted the row that was missing in this one, or waited for it in a circle.
func isConflict(code string) bool {
	return code == "23505" || code == "40001" || code == "40P01"
}

func postgresCode(err error) string {
	if e := (*pgconn.PgError)(nil); errors.As(err, &e) {
		return e.Code
	}
	return ""
}
