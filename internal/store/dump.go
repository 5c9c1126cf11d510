package store

import (
	"context"
	"fmt"
	"strings"
)

// Table is the part of one table that a backup contains.
type Table struct {
	Name    string
	Columns []string // in the order of a row's values
	key     string   // the columns that rows are ordered by
}

// Tables returns what a backup contains, which is the same for both engines. It leaves
// out meta, because a restored store has an epoch of its own; failed logins, which
// are forgotten within hours; what running servers announce; and the claims by which they
// refresh the tokens of users.
func Tables() []Table {
	return []Table{
		{"signing_keys", []string{"period", "kid", "public", "sealed_private", "starts_at", "published_at"}, "period"},
		{"withdrawn_keys", []string{"kid", "published_at", "withdrawn_at"}, "kid"},
		{"grants", []string{"id", "gen", "rotated_at", "revoked_at", "sub", "client_hash", "client_name", "consent_hash", "scope", "resource",
			"created_at", "expires_at", "replays", "user_version", "epoch"}, "id"},
		{"spent", []string{"kind", "id", "expires_at"}, "kind, id"},
		{"blocked_clients", []string{"client_hash", "client_id", "client_name", "blocked_at"}, "client_hash"},
		{"client_ends", []string{"client_hash", "ended_at"}, "client_hash"},
		{"retired_roots", []string{"fingerprint", "retired_at"}, "fingerprint"},
		{"accounts", []string{"sub", "provider", "sealed", "version", "disabled", "created_at", "seen_at"}, "sub"},
		{"upstream_sessions", []string{"id", "sub", "seen_at"}, "id, sub"},
		{"credentials", []string{"sub", "provider", "sealed", "version", "changed_at"}, "sub, provider"},
	}
}

func (t Table) query() string {
	return fmt.Sprintf("SELECT %s FROM %s ORDER BY %s", strings.Join(t.Columns, ", "), t.Name, t.key)
}

func (t Table) insert() string {
	places := make([]string, len(t.Columns))
	for i := range places {
		places[i] = fmt.Sprintf("$%d", i+1)
	}
	return fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", t.Name, strings.Join(t.Columns, ", "), strings.Join(places, ", "))
}

// Dump calls fn with each row of [Tables], table by table, all of one snapshot. The
// values are whole numbers (int64, or int32 of a narrow column), strings or nil; fn must not
// keep the slice. Writes are not blocked.
func (s *Store) Dump(ctx context.Context, fn func(t Table, values []any) error) error {
	if s.isClosed() {
		return unavailable(s.name, errClosed)
	}
	return s.database.dump(ctx, fn)
}
