package vault

import (
	"context"
	"database/sql"
	"errors"

	"signet/internal/seal"
	"signet/internal/store"
)

// Entry is what a provider gave for a user.
type Entry struct {
	seal.Credential
	Version int64 // grows with each change; the first one is 1
	Changed int64 // Unix milliseconds
}

// The queries of entries. All of them find their rows by the key.
const (
	selectEntry   = "SELECT sealed, version, changed_at, claim, claimed_at FROM credentials WHERE sub = $1 AND provider = $2"
	selectEntries = "SELECT sub, provider, version, changed_at FROM credentials WHERE (sub, provider) > ($1, $2) ORDER BY sub, provider LIMIT $3"
)

// row is an entry with its claim.
type row struct {
	Entry
	sealed    string // as the row has it; no two rows, and no two states of a row, have the same
	claim     string // empty: none
	claimedAt int64  // Unix milliseconds, by the clock that all servers have in common
}

// Put keeps the tokens of a user who has just signed in, in place of earlier ones, and also in
// place of a claim: the refresh of the earlier tokens then comes to nothing.
func (v *Vault) Put(ctx context.Context, c seal.Credential) (Entry, error) {
	if err := errors.Join(checkSubject(c.Subject), checkProvider(c.Provider)); err != nil {
		return Entry{}, err
	}
	raw, err := sealed(v.ring, c, "provider's tokens are")
	if err != nil {
		return Entry{}, err
	}
	e := Entry{Credential: c, Changed: v.store.Now().UnixMilli()}
	err = v.store.Write(ctx, func(tx store.Tx) error {
		return tx.QueryRow(`INSERT INTO credentials (sub, provider, sealed, version, changed_at) VALUES ($1, $2, $3, 1, $4)
			ON CONFLICT (sub, provider) DO UPDATE SET sealed = $3, version = credentials.version + 1, changed_at = $4, claim = '', claimed_at = 0
			RETURNING version`, c.Subject, c.Provider, raw, e.Changed).Scan(&e.Version)
	})
	if err != nil {
		return Entry{}, err
	}
	return e, nil
}

// Add keeps tokens of a user at a provider, unless there is an entry already, and returns the entry
// that there is then. An entry that no root secret opens makes way.
func (v *Vault) Add(ctx context.Context, c seal.Credential) (Entry, error) {
	if err := errors.Join(checkSubject(c.Subject), checkProvider(c.Provider)); err != nil {
		return Entry{}, err
	}
	raw, err := sealed(v.ring, c, "provider's tokens are")
	if err != nil {
		return Entry{}, err
	}
	_, err = v.change(ctx, "INSERT INTO credentials (sub, provider, sealed, version, changed_at) VALUES ($1, $2, $3, 1, $4) ON CONFLICT (sub, provider) DO NOTHING",
		c.Subject, c.Provider, raw, v.store.Now().UnixMilli())
	if err != nil {
		return Entry{}, err
	}
	e, err := v.Get(ctx, c.Subject, c.Provider)
	if errors.Is(err, ErrUnknown) { // taken meanwhile, or not readable
		return v.Put(ctx, c)
	}
	return e, err
}

// Get returns the tokens of a user at a provider. The error is [ErrUnknown] if there are none,
// and for tokens that no root secret opens.
func (v *Vault) Get(ctx context.Context, subject, provider string) (Entry, error) {
	r, err := v.read(ctx, subject, provider)
	return r.Entry, err
}

// read is Get with the claim.
func (v *Vault) read(ctx context.Context, subject, provider string) (r row, err error) {
	if !known(subject, provider) {
		return row{}, ErrUnknown
	}
	err = v.store.Read(ctx, func(tx store.Tx) error {
		r = row{}
		err := tx.QueryRow(selectEntry, subject, provider).
			Scan(&r.sealed, &r.Version, &r.Changed, &r.claim, &r.claimedAt)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrUnknown
		}
		return err
	})
	if err == nil {
		r.Credential, err = v.open(r.sealed, subject, provider)
	}
	if err != nil {
		return row{}, err
	}
	return r, nil
}

// open opens what a row has. Tokens that were moved to the row of another user count as
// unreadable.
func (v *Vault) open(raw, subject, provider string) (seal.Credential, error) {
	c, err := seal.Open[seal.Credential](v.ring, raw)
	if err != nil || c.Subject != subject || c.Provider != provider {
		v.noteUnreadable("tokens", subject, provider)
		return seal.Credential{}, ErrUnknown
	}
	return c, nil
}

// Use notes when tokens were last given out. Their version stays. Tokens that have changed since they
// were read, or are being refreshed, are left alone.
func (v *Vault) Use(ctx context.Context, subject, provider string, version, used int64) error {
	r, err := v.read(ctx, subject, provider)
	if err != nil || r.Version != version || r.claim != "" {
		return err
	}
	r.Used = used
	raw, err := sealed(v.ring, r.Credential, "provider's tokens are")
	if err != nil {
		return err
	}
	_, err = v.change(ctx, "UPDATE credentials SET sealed = $1 WHERE sub = $2 AND provider = $3 AND version = $4 AND claim = '' AND sealed = $5", raw, subject, provider, version, r.sealed)
	return err
}

// Take deletes the tokens of a user at a provider and returns them, so that they can be revoked
// there. Of several calls one gets them; the others get [ErrUnknown]. Tokens that no root
// secret opens stay, also with ErrUnknown.
func (v *Vault) Take(ctx context.Context, subject, provider string) (e Entry, err error) {
	if !known(subject, provider) {
		return Entry{}, ErrUnknown
	}
	err = v.store.Write(ctx, func(tx store.Tx) error {
		e = Entry{}
		var raw string
		err := tx.QueryRow("SELECT sealed, version, changed_at FROM credentials WHERE sub = $1 AND provider = $2 FOR UPDATE", subject, provider).
			Scan(&raw, &e.Version, &e.Changed)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrUnknown
		}
		if err != nil {
			return err
		}
		if e.Credential, err = v.open(raw, subject, provider); err != nil {
			return err
		}
		_, err = tx.Exec("DELETE FROM credentials WHERE sub = $1 AND provider = $2", subject, provider)
		return err
	})
	if err != nil {
		return Entry{}, err
	}
	return e, nil
}

// Entries returns the next entries after one of a subject and provider, in the order of subject
// and provider: at most limit of them, and none after the last one. It opens nothing: of the
// credential, only Subject and Provider are set.
func (v *Vault) Entries(ctx context.Context, afterSubject, afterProvider string, limit int) (list []Entry, err error) {
	err = v.store.Read(ctx, func(tx store.Tx) error {
		list = nil
		rows, err := tx.Query(selectEntries, afterSubject, afterProvider, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var e Entry
			if err := rows.Scan(&e.Subject, &e.Provider, &e.Version, &e.Changed); err != nil {
				return err
			}
			list = append(list, e)
		}
		return rows.Err()
	})
	return list, err
}
