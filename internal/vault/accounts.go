package vault

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"signet/internal/seal"
	"signet/internal/store"
)

// Account is a user who comes from elsewhere.
type Account struct {
	seal.Account
	Provider string // by which the user signed in last; empty: the program's own check
	Session  string // sid of the sign-in at the provider; only [Vault.SignedIn] reads it, and nothing returns it
	Version  string // changes when the user's sessions and grants have to end
	Disabled bool
	Created  int64 // Unix seconds, as Seen
	Seen     int64 // the last sign-in
}

// mostSessions is how many sessions at providers are remembered for a user, the latest.
const mostSessions = 16

// SignedIn records that a user has signed in, and what the provider said about the user. It
// returns the account with its version, which a sign-in does not change. The error is
// [ErrDisabled] for a user who is disabled; then nothing is recorded.
func (v *Vault) SignedIn(ctx context.Context, a Account) (Account, error) {
	if err := errors.Join(checkSubject(a.Subject), checkProvider(a.Provider)); err != nil {
		return Account{}, err
	}
	raw, err := sealed(v.ring, a.Account, "account is")
	if err != nil {
		return Account{}, err
	}
	now, fresh := v.store.Now(), rand.Text()
	err = v.store.Write(ctx, func(tx store.Tx) error {
		a.Version, a.Disabled, a.Created, a.Seen = fresh, false, now.Unix(), now.Unix()
		var disabled int64
		err := tx.QueryRow("SELECT version, disabled, created_at FROM accounts WHERE sub = $1 FOR UPDATE", a.Subject).Scan(&a.Version, &disabled, &a.Created)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			_, err = tx.Exec("INSERT INTO accounts (sub, provider, sealed, version, disabled, created_at, seen_at) VALUES ($1, $2, $3, $4, 0, $5, $5)",
				a.Subject, a.Provider, raw, fresh, a.Seen)
		case err == nil && disabled != 0:
			return ErrDisabled
		case err == nil:
			_, err = tx.Exec("UPDATE accounts SET provider = $1, sealed = $2, seen_at = $3 WHERE sub = $4", a.Provider, raw, a.Seen, a.Subject)
		}
		if err != nil || a.Session == "" {
			return err
		}
		return addSession(tx, a, now.UnixMilli())
	})
	a.Session = ""
	if err != nil {
		return Account{}, err
	}
	return a, nil
}

// addSession remembers the session of a sign-in, and forgets the earliest ones beyond
// mostSessions.
func addSession(tx store.Tx, a Account, at int64) error {
	_, err := tx.Exec("INSERT INTO upstream_sessions (id, sub, seen_at) VALUES ($1, $2, $3) ON CONFLICT (id, sub) DO UPDATE SET seen_at = $3",
		sessionID(a.Provider, a.Session), a.Subject, at)
	if err != nil {
		return err
	}
	_, err = tx.Exec(`DELETE FROM upstream_sessions WHERE sub = $1 AND id NOT IN
		(SELECT id FROM upstream_sessions WHERE sub = $1 ORDER BY seen_at DESC, id LIMIT $2)`, a.Subject, mostSessions)
	return err
}

// sessionID is what the store has of a session at a provider.
func sessionID(provider, sid string) string {
	h := sha256.Sum256(fmt.Appendf(nil, "upstream session %q %q", provider, sid))
	return base64.RawURLEncoding.EncodeToString(h[:16])
}

// BySession returns the subjects of the users who have signed in with a session at a provider
// (sid of OpenID Connect Back-Channel Logout 1.0 §2.4). The latest sessions of each user are
// known, whichever server the user signed in at.
func (v *Vault) BySession(ctx context.Context, provider, sid string) (subjects []string, err error) {
	err = v.store.Read(ctx, func(tx store.Tx) error {
		subjects = nil
		rows, err := tx.Query(selectSession, sessionID(provider, sid))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var subject string
			if err := rows.Scan(&subject); err != nil {
				return err
			}
			subjects = append(subjects, subject)
		}
		return rows.Err()
	})
	return subjects, err
}

// The queries of accounts. All of them find their rows by a key.
const (
	accountColumns = "sub, provider, sealed, version, disabled, created_at, seen_at"
	selectAccount  = "SELECT " + accountColumns + " FROM accounts WHERE sub = $1"
	selectAccounts = "SELECT " + accountColumns + " FROM accounts WHERE sub > $1 ORDER BY sub LIMIT $2"
	selectSession  = "SELECT sub FROM upstream_sessions WHERE id = $1 ORDER BY sub"
)

// scanAccount scans accountColumns. opens says whether a root secret opens what the provider
// said; otherwise only the columns are known.
func (v *Vault) scanAccount(row interface{ Scan(...any) error }) (a Account, opens bool, err error) {
	var subject, raw string
	var disabled int64
	if err := row.Scan(&subject, &a.Provider, &raw, &a.Version, &disabled, &a.Created, &a.Seen); err != nil {
		return Account{}, false, err
	}
	a.Disabled = disabled != 0
	a.Account, err = seal.Open[seal.Account](v.ring, raw)
	if opens = err == nil && a.Subject == subject; !opens {
		a.Account = seal.Account{Subject: subject}
		v.noteUnreadable("account", subject, a.Provider)
	}
	return a, opens, nil
}

// Account returns the account of a subject, also if it is disabled. The error is [ErrUnknown] if
// there is none, and for an account that no root secret opens.
func (v *Vault) Account(ctx context.Context, subject string) (a Account, err error) {
	if !known(subject, "") {
		return Account{}, ErrUnknown
	}
	opens := false
	err = v.store.Read(ctx, func(tx store.Tx) (err error) {
		a, opens, err = v.scanAccount(tx.QueryRow(selectAccount, subject))
		if errors.Is(err, sql.ErrNoRows) {
			return ErrUnknown
		}
		return err
	})
	switch {
	case err != nil:
		return Account{}, err
	case !opens && !a.Disabled: // a disabled account counts, whatever else is known of it
		return Account{}, ErrUnknown
	}
	return a, nil
}

// Accounts returns the next accounts after a subject, in the order of their subjects: at most
// limit of them, and none after the last one. Of an account that no root secret opens, only
// the subject and the columns are known.
func (v *Vault) Accounts(ctx context.Context, after string, limit int) (list []Account, err error) {
	err = v.store.Read(ctx, func(tx store.Tx) error {
		list = nil
		rows, err := tx.Query(selectAccounts, after, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			a, _, err := v.scanAccount(rows)
			if err != nil {
				return err
			}
			list = append(list, a)
		}
		return rows.Err()
	})
	return list, err
}

// SetDisabled disables or enables an account. A change moves its version, so that sessions,
// codes and handles of before end; the caller ends the grants. The error is [ErrUnknown] if
// there is no such account.
func (v *Vault) SetDisabled(ctx context.Context, subject string, disabled bool) error {
	if !known(subject, "") {
		return ErrUnknown
	}
	var want int64
	if disabled {
		want = 1
	}
	version := rand.Text()
	return v.store.Write(ctx, func(tx store.Tx) error {
		var is int64
		err := tx.QueryRow("SELECT disabled FROM accounts WHERE sub = $1 FOR UPDATE", subject).Scan(&is)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return ErrUnknown
		case err != nil || is == want:
			return err
		}
		_, err = tx.Exec("UPDATE accounts SET disabled = $1, version = $2 WHERE sub = $3", want, version, subject)
		return err
	})
}

// EndSessions moves the version of an account, but not its [Identity], so that sessions, codes and
// handles of before end; the caller ends the grants. The error is [ErrUnknown] if there is no such
// account.
func (v *Vault) EndSessions(ctx context.Context, subject string) error {
	if !known(subject, "") {
		return ErrUnknown
	}
	next := rand.Text()
	return v.store.Write(ctx, func(tx store.Tx) error {
		var version string
		err := tx.QueryRow("SELECT version FROM accounts WHERE sub = $1 FOR UPDATE", subject).Scan(&version)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return ErrUnknown
		case err == nil:
			_, err = tx.Exec("UPDATE accounts SET version = $1 WHERE sub = $2", Identity(version)+"."+next, subject)
		}
		return err
	})
}

// Identity is the part of an account's version that changes when the account is disabled or
// removed, and not when its sessions end.
func Identity(version string) string {
	identity, _, _ := strings.Cut(version, ".")
	return identity
}

// Remove forgets an account and its sessions. Tokens of the user stay until they are taken, so
// that they can be revoked at the provider. A user who signs in again has a new account with
// another version. The error is [ErrUnknown] if there is no such account.
func (v *Vault) Remove(ctx context.Context, subject string) error {
	if !known(subject, "") {
		return ErrUnknown
	}
	return v.store.Write(ctx, func(tx store.Tx) error {
		removed, err := exec(tx, "DELETE FROM accounts WHERE sub = $1", subject)
		switch {
		case err != nil:
			return err
		case !removed:
			return ErrUnknown
		}
		_, err = tx.Exec("DELETE FROM upstream_sessions WHERE sub = $1", subject)
		return err
	})
}
