// Package vault keeps what the store knows of users who come from elsewhere: their accounts,
// and the tokens that providers gave for them. All of it is sealed at rest, except for what
// rows are found by: the subject, the provider, and a hash of the session at the provider.
//
// Tokens are refreshed exactly once, whatever the number of servers and requests that want it:
// one claims the entry, calls the provider and commits its answer by compare-and-swap, while the
// others wait for the outcome. A server that dies in between leaves a claim that lapses.
//
// Nothing here ends by itself: an account stays until it is removed, and tokens stay until they
// are taken or the provider ends them. An account takes about half a KiB and the tokens of a
// user one to four, so a million users take some GiB. Every statement reads its rows by the
// primary key or an index, so the number of rows slows none of them.
package vault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"signet/internal/seal"
	"signet/internal/store"
)

// Errors that a caller branches on. Any other error is the store's, which is not a verdict.
var (
	ErrUnknown  = errors.New("no such entry")
	ErrDisabled = errors.New("the account is disabled")
	ErrBusy     = errors.New("another request is refreshing the tokens")
	ErrEnded    = errors.New("the provider has ended the tokens")
)

// Options are the parts that a vault uses.
type Options struct {
	Store *store.Store
	Ring  *seal.Keyring
	Log   *slog.Logger // nil logs nothing
}

// Vault is the vault of one store. It is safe for concurrent use. Several vaults, in one process
// or in many, may use the same store.
type Vault struct {
	store *store.Store
	ring  *seal.Keyring
	log   *slog.Logger
	now   func() time.Time // by the clock that the store's servers have in common; tests replace it

	mu      sync.Mutex
	flights map[flightKey]*flight
	closed  bool
	running sync.WaitGroup

	unreadable unreadable
}

// New returns the vault of a store. [Vault.Close] ends it.
func New(o Options) *Vault {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Vault{store: o.Store, ring: o.Ring, log: o.Log, now: o.Store.Common, flights: map[flightKey]*flight{}, unreadable: unreadable{seen: map[string]bool{}}}
}

// Close waits for the refreshes that have begun, so that what a provider answers is kept. The
// store must be open until Close returns.
func (v *Vault) Close() {
	v.mu.Lock()
	v.closed = true
	v.mu.Unlock()
	v.running.Wait()
}

// The longest ids, in bytes, that rows are found by.
const (
	maxSubject  = 1024
	maxProvider = 128
)

// checkID returns an error if the store cannot keep a text as the id of a row.
func checkID(what, id string, most int) error {
	switch {
	case len(id) > most:
		return fmt.Errorf("vault: the %s is longer than %d bytes", what, most)
	case !utf8.ValidString(id) || strings.ContainsRune(id, 0): // PostgreSQL's text is UTF-8 without NUL
		return fmt.Errorf("vault: the %s is not UTF-8, or has a NUL", what)
	}
	return nil
}

func checkSubject(subject string) error {
	if subject == "" {
		return errors.New("vault: the subject is empty")
	}
	return checkID("subject", subject, maxSubject)
}

func checkProvider(provider string) error { return checkID("provider's id", provider, maxProvider) }

// known reports whether there can be a row of these ids.
func known(subject, provider string) bool {
	return checkSubject(subject) == nil && checkProvider(provider) == nil
}

// sealed seals a value for a row. A value that could not be opened again is an error.
func sealed[T seal.Artefact](ring *seal.Keyring, value T, what string) (string, error) {
	raw, err := seal.Seal(ring, value)
	if err != nil {
		return "", err
	}
	if _, err := seal.Open[T](ring, raw); err != nil {
		return "", fmt.Errorf("vault: the %s too large to be kept", what)
	}
	return raw, nil
}

// unreadable remembers which rows were logged as unreadable, so that each is logged once.
type unreadable struct {
	mu   sync.Mutex
	seen map[string]bool
}

// mostLogged bounds the memory of unreadable rows; further ones are not logged.
const mostLogged = 1000

// noteUnreadable logs, once, that no root secret opens a row. The row is left alone: the root
// may come back.
func (v *Vault) noteUnreadable(what, subject, provider string) {
	u := &v.unreadable
	u.mu.Lock()
	defer u.mu.Unlock()
	key := what + "\x00" + subject + "\x00" + provider
	if u.seen[key] || len(u.seen) >= mostLogged {
		return
	}
	u.seen[key] = true
	v.log.Error("no root secret opens what the store has of a user from elsewhere: the user signs in again", "what", what, "sub", subject, "provider", provider)
}

// change runs one statement that changes at most one row, and reports whether it did.
func (v *Vault) change(ctx context.Context, query string, args ...any) (changed bool, err error) {
	err = v.store.Write(ctx, func(tx store.Tx) error {
		changed, err = exec(tx, query, args...)
		return err
	})
	return changed, err
}

func exec(tx store.Tx, query string, args ...any) (changed bool, err error) {
	res, err := tx.Exec(query, args...)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}
