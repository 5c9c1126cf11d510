package store

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

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

// mayPass reports whether an error may go away by itself: the database is down,
// starting, full, or a standby at the moment. Errors of a wrong setting do not.
func mayPass(err error) bool {
	if code := postgresCode(err); code != "" {
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

// explain adds to an error how to mend it.
func (p *postgresDatabase) explain(err error) error {
	hint := ""
	switch code := postgresCode(err); {
	case code == "28P01", code == "28000":
		hint = "the database refuses the login: check user and password of the URL, and the server's pg_hba.conf"
	case code == "3D000":
		hint = fmt.Sprintf("create the database first: CREATE DATABASE %s", pgx.Identifier{p.config.Database}.Sanitize())
	case code == "42501":
		hint = fmt.Sprintf("give the user the right to create a schema: GRANT CREATE ON DATABASE %s TO %s",
			pgx.Identifier{p.config.Database}.Sanitize(), pgx.Identifier{p.config.User}.Sanitize())
	case code == "53300":
		hint = fmt.Sprintf("raise max_connections of the database: each replica takes up to %d", 2*maxConnections+1)
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
