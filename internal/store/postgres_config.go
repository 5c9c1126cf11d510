package store

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// postgresConfig parses the URL. Its errors never show it: it may contain a password.
// settings are made in a session once it is connected, see [postgresDatabase.connect].
func postgresConfig(raw string) (config *pgx.ConnConfig, settings map[string]string, err error) {
	const form = "not the URL of a PostgreSQL database (postgres://user:password@host:5432/database?sslmode=verify-full): "
	if err := checkURL(raw); err != nil {
		return nil, nil, fmt.Errorf(form+"%w", err)
	}
	config, err = pgx.ParseConfig(raw)
	if err != nil {
		return nil, nil, errors.New(form + parseFault(raw, err))
	}
	if config.ConnectTimeout == 0 || config.ConnectTimeout > connectIn {
		config.ConnectTimeout = connectIn
	}
	// A standby takes no writes, and learns of revocations late.
	config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	settings = map[string]string{
		"search_path":                         defaultSchema,
		"lock_timeout":                        milliseconds(groupWait),
		"idle_in_transaction_session_timeout": milliseconds(hungUp),
	}
	startup := map[string]string{"application_name": "signet"}
	for name, value := range config.RuntimeParams {
		if name == "application_name" || name == "options" {
			startup[name] = value
		} else {
			settings[name] = value
		}
	}
	config.RuntimeParams = startup
	return config, settings, nil
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// parseFault is the reason of a parse error, without the URL that the error quotes.
func parseFault(raw string, err error) string {
	reason := err.Error()
	if at := strings.LastIndex(reason, "`: "); at >= 0 {
		reason = reason[at+len("`: "):]
	}
	if slices.ContainsFunc(secretsOf(raw), func(secret string) bool { return strings.Contains(reason, secret) }) {
		return "a parameter of the URL is wrong"
	}
	return reason
}

// mayBeUnencrypted reports whether a connection may cross a network without TLS. By
// PostgreSQL's own default (sslmode=prefer) it may, if an attacker on the network says
// that there is no TLS, who then sees the password and the rows.
func mayBeUnencrypted(c *pgx.ConnConfig) bool {
	plain := func(host string, tls *tls.Config) bool {
		ip := net.ParseIP(host)
		return tls == nil && !strings.HasPrefix(host, "/") && host != "localhost" && (ip == nil || !ip.IsLoopback())
	}
	return plain(c.Host, c.TLSConfig) || slices.ContainsFunc(c.Fallbacks, func(f *pgconn.FallbackConfig) bool { return plain(f.Host, f.TLSConfig) })
}

// postgresName is the database's name in errors and logs.
func postgresName(c *pgx.ConnConfig) string {
	return fmt.Sprintf("postgres://%s@%s/%s", c.User, net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))), c.Database)
}

// defaultSchema contains the tables, unless the URL has a search_path. The database may
// have other schemas.
const defaultSchema = "signet"
