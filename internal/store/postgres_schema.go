package store

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// postgresSchema is the history of the schema, like sqliteSchema. Identifiers compare by
// their bytes, whatever the database's language is: ids of grants sort by time.
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
		ahead   BIGINT NOT NULL, -- milliseconds by which its clock is ahead of the database's
		seen_at BIGINT NOT NULL  -- Unix milliseconds, by the database's clock
	);
`, `
	ALTER TABLE meta ADD COLUMN keep_revoked BIGINT NOT NULL DEFAULT 0; -- seconds: how long revoked grants are remembered, for the longest access tokens ever issued
	ALTER TABLE meta ADD COLUMN rows_epoch TEXT NOT NULL DEFAULT ''; -- the epoch of grants whose column epoch is empty, see keepRowsEpoch
	UPDATE meta SET rows_epoch = epoch;
	ALTER TABLE grants ADD COLUMN user_version TEXT NOT NULL DEFAULT ''; -- empty: not known
	ALTER TABLE grants ADD COLUMN epoch        TEXT NOT NULL DEFAULT '';
	DROP INDEX grants_sub;
	CREATE INDEX grants_live ON grants (sub, consent_hash) WHERE revoked_at = 0;
`, `
	CREATE TABLE blocked_clients (
		client_hash TEXT   COLLATE "C" PRIMARY KEY,
		client_id   TEXT   NOT NULL, -- empty: not known
		client_name TEXT   NOT NULL,
		blocked_at  BIGINT NOT NULL  -- Unix seconds
	);
	CREATE TABLE retired_roots (
		fingerprint TEXT   COLLATE "C" PRIMARY KEY,
		retired_at  BIGINT NOT NULL -- Unix milliseconds: since when the root is for client ids only
	);
`, `
	ALTER TABLE meta ADD COLUMN ended TEXT NOT NULL DEFAULT ''; -- the latest epochs before this one that ended because of a rollback
	ALTER TABLE meta ADD COLUMN rolled_back_at BIGINT NOT NULL DEFAULT 0; -- Unix milliseconds: when a rollback was found; 0: never
	ALTER TABLE meta ADD COLUMN not_before BIGINT NOT NULL DEFAULT 0; -- Unix seconds: access tokens that were issued before are refused
	ALTER TABLE meta ADD COLUMN pruned_to BIGINT NOT NULL DEFAULT 0; -- Unix seconds: grants that expired before may have no row any longer
`, `
	CREATE TABLE client_ends (
		client_hash TEXT   COLLATE "C" PRIMARY KEY,
		ended_at    BIGINT NOT NULL -- Unix milliseconds: when the tokens that the client got for itself were ended last
	);
`, `
	CREATE TABLE accounts (
		sub        TEXT   COLLATE "C" PRIMARY KEY,
		provider   TEXT   NOT NULL, -- empty: the program's own check
		sealed     TEXT   NOT NULL,
		version    TEXT   NOT NULL,
		disabled   BIGINT NOT NULL, -- 1 or 0
		created_at BIGINT NOT NULL, -- Unix seconds, as seen_at
		seen_at    BIGINT NOT NULL  -- the last sign-in
	);
	CREATE TABLE upstream_sessions (
		id      TEXT   COLLATE "C" NOT NULL, -- hash of the provider and of the session's id there
		sub     TEXT   COLLATE "C" NOT NULL,
		seen_at BIGINT NOT NULL, -- Unix milliseconds
		PRIMARY KEY (id, sub)
	);
	CREATE INDEX upstream_sessions_sub ON upstream_sessions (sub, seen_at);
	CREATE TABLE credentials (
		sub        TEXT   COLLATE "C" NOT NULL,
		provider   TEXT   COLLATE "C" NOT NULL,
		sealed     TEXT   NOT NULL,
		version    BIGINT NOT NULL,
		changed_at BIGINT NOT NULL, -- Unix milliseconds
		claim      TEXT   NOT NULL DEFAULT '', -- of the request that is refreshing the tokens; empty: none is
		claimed_at BIGINT NOT NULL DEFAULT 0,  -- Unix milliseconds, by the clock that all servers have in common
		PRIMARY KEY (sub, provider)
	);
`, `
	-- The hash of the consent doubled the index: a user has a few grants, among which it is found as well.
	DROP INDEX grants_live;
	CREATE INDEX grants_live ON grants (sub) WHERE revoked_at = 0;
`, `
	-- Only a store that is being made, which has no meta yet, gets the grants that take less room:
	-- numbers without padding between them, and an index of hashes, see ofSubject. In place of
	-- others it would take a lock for minutes, and replicas of the earlier release would read
	-- all grants for each user.
	DO $$ BEGIN IF NOT EXISTS (SELECT FROM meta) THEN
		DROP TABLE grants;
		CREATE TABLE grants (
			rotated_at   BIGINT  NOT NULL, -- Unix milliseconds, as revoked_at
			revoked_at   BIGINT  NOT NULL,
			created_at   BIGINT  NOT NULL, -- Unix seconds, as expires_at
			expires_at   BIGINT  NOT NULL,
			gen          INTEGER NOT NULL,
			replays      INTEGER NOT NULL DEFAULT 0,
			id           TEXT    COLLATE "C" PRIMARY KEY,
			sub          TEXT    COLLATE "C" NOT NULL,
			client_hash  TEXT    NOT NULL,
			client_name  TEXT    NOT NULL,
			consent_hash TEXT    NOT NULL,
			scope        TEXT    NOT NULL,
			resource     TEXT    NOT NULL,
			user_version TEXT    NOT NULL DEFAULT '', -- empty: not known
			epoch        TEXT    NOT NULL DEFAULT ''
		);
		CREATE INDEX grants_live ON grants (hashtext(sub)) WHERE revoked_at = 0;
		CREATE INDEX grants_revoked ON grants (revoked_at) WHERE revoked_at > 0;
	END IF; END $$;
`}

// createTables makes the tables and the epoch.
func (p *postgresDatabase) createTables(ctx context.Context, tx pgx.Tx, m meta) (meta, error) {
	var encoding string
	var schema *string
	if err := tx.QueryRow(ctx, "SELECT current_setting('server_encoding'), current_schema()").Scan(&encoding, &schema); err != nil {
		return m, err
	}
	if encoding != "UTF8" {
		return m, fmt.Errorf("store: %s has the encoding %s: create a database with ENCODING 'UTF8'", p.name, encoding)
	}
	if schema == nil { // the right to create one is not needed once it exists
		if _, err := tx.Exec(ctx, "CREATE SCHEMA "+defaultSchema); err != nil {
			return m, err
		}
	}
	if err := p.runSteps(ctx, tx, 0); err != nil {
		return m, err
	}
	m.epoch, m.schema, m.lastSeen = rand.Text(), int64(len(p.options.steps)), time.Now().UnixMilli()
	_, err := tx.Exec(ctx, "INSERT INTO meta (one, epoch, fingerprint, schema, last_seen) VALUES (1, $1, $2, $3, $4)", m.epoch, m.fingerprint, m.schema, m.lastSeen)
	if err == nil && m.notBefore != 0 {
		_, err = tx.Exec(ctx, "UPDATE meta SET not_before = $1", m.notBefore)
	}
	if err == nil {
		p.options.Log.Info("the store was made", "store", p.name)
	}
	return m, err
}

// migrate takes the store to the latest schema. Replicas of the earlier release go on
// using it, so a step only adds.
func (p *postgresDatabase) migrate(ctx context.Context, tx pgx.Tx, from int64) error {
	if from == int64(len(p.options.steps)) {
		return nil // another replica was faster
	}
	if err := p.runSteps(ctx, tx, from); err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	_, err := tx.Exec(ctx, "UPDATE meta SET schema = $1", len(p.options.steps))
	if err == nil {
		p.options.Log.Info("the store was migrated", "store", p.name, "from", from, "to", len(p.options.steps))
	}
	return err
}

func (p *postgresDatabase) runSteps(ctx context.Context, tx pgx.Tx, from int64) error {
	for i, step := range p.options.steps[from:] {
		if _, err := tx.Exec(ctx, step); err != nil {
			return fmt.Errorf("to schema %d: %w", from+int64(i)+1, err)
		}
	}
	return nil
}
