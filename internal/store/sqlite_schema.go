package store

import (
	"context"
	"fmt"
)

// sqliteSchema is the history of the schema: step n takes a store from schema n to
// n+1, in one transaction. Steps are added, never changed.
//
// Ids begin with their expiry, so rows are appended in one place; WITHOUT ROWID keeps
// them in that order and saves an index. The index by which other processes learn of
// revocations contains revoked rows only.
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
		ahead   INTEGER NOT NULL, -- milliseconds by which its clock is ahead of the database's
		seen_at INTEGER NOT NULL  -- Unix milliseconds, by the database's clock
	) WITHOUT ROWID;
`, `
	ALTER TABLE meta ADD COLUMN keep_revoked INTEGER NOT NULL DEFAULT 0; -- seconds: how long revoked grants are remembered, for the longest access tokens ever issued
	ALTER TABLE meta ADD COLUMN rows_epoch TEXT NOT NULL DEFAULT ''; -- the epoch of grants whose column epoch is empty, see keepRowsEpoch
	UPDATE meta SET rows_epoch = epoch;
	ALTER TABLE grants ADD COLUMN user_version TEXT NOT NULL DEFAULT ''; -- empty: not known
	ALTER TABLE grants ADD COLUMN epoch        TEXT NOT NULL DEFAULT '';
	DROP INDEX grants_sub;
	CREATE INDEX grants_live ON grants (sub, consent_hash) WHERE revoked_at = 0;
`, `
	CREATE TABLE blocked_clients (
		client_hash TEXT    PRIMARY KEY,
		client_id   TEXT    NOT NULL, -- empty: not known
		client_name TEXT    NOT NULL,
		blocked_at  INTEGER NOT NULL  -- Unix seconds
	) WITHOUT ROWID;
	CREATE TABLE retired_roots (
		fingerprint TEXT    PRIMARY KEY,
		retired_at  INTEGER NOT NULL -- Unix milliseconds: since when the root is for client ids only
	) WITHOUT ROWID;
`, `
	ALTER TABLE meta ADD COLUMN ended TEXT NOT NULL DEFAULT ''; -- the latest epochs before this one that ended because of a rollback
	ALTER TABLE meta ADD COLUMN rolled_back_at INTEGER NOT NULL DEFAULT 0; -- Unix milliseconds: when a rollback was found; 0: never
	ALTER TABLE meta ADD COLUMN not_before INTEGER NOT NULL DEFAULT 0; -- Unix seconds: access tokens that were issued before are refused
	ALTER TABLE meta ADD COLUMN pruned_to INTEGER NOT NULL DEFAULT 0; -- Unix seconds: grants that expired before may have no row any longer
`, `
	CREATE TABLE client_ends (
		client_hash TEXT    PRIMARY KEY,
		ended_at    INTEGER NOT NULL -- Unix milliseconds: when the tokens that the client got for itself were ended last
	) WITHOUT ROWID;
`, `
	CREATE TABLE accounts (
		sub        TEXT    PRIMARY KEY,
		provider   TEXT    NOT NULL, -- empty: the program's own check
		sealed     TEXT    NOT NULL,
		version    TEXT    NOT NULL,
		disabled   INTEGER NOT NULL, -- 1 or 0
		created_at INTEGER NOT NULL, -- Unix seconds, as seen_at
		seen_at    INTEGER NOT NULL  -- the last sign-in
	) WITHOUT ROWID;
	CREATE TABLE upstream_sessions (
		id      TEXT    NOT NULL, -- hash of the provider and of the session's id there
		sub     TEXT    NOT NULL,
		seen_at INTEGER NOT NULL, -- Unix milliseconds
		PRIMARY KEY (id, sub)
	) WITHOUT ROWID;
	CREATE INDEX upstream_sessions_sub ON upstream_sessions (sub, seen_at);
	CREATE TABLE credentials (
		sub        TEXT    NOT NULL,
		provider   TEXT    NOT NULL,
		sealed     TEXT    NOT NULL,
		version    INTEGER NOT NULL,
		changed_at INTEGER NOT NULL, -- Unix milliseconds
		claim      TEXT    NOT NULL DEFAULT '', -- of the request that is refreshing the tokens; empty: none is
		claimed_at INTEGER NOT NULL DEFAULT 0,  -- Unix milliseconds, by the clock that all servers have in common
		PRIMARY KEY (sub, provider)
	) WITHOUT ROWID;
`}

// migrate takes the store to the latest schema, step by step.
func migrate(c *sqliteConn, o Options) error {
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

func migrateOnce(c *sqliteConn, o Options) (more bool, err error) {
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
	if _, err := c.raw.ExecContext(context.Background(), o.steps[m.schema]); err != nil {
		return false, fmt.Errorf("to schema %d: %w", m.schema+1, err)
	}
	if _, err := c.Exec("UPDATE meta SET schema = schema + 1, commits = commits + 1"); err != nil {
		return false, err
	}
	return true, c.commit()
}
