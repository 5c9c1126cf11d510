package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"signet/handlers"
	"signet/internal/seal"
	"signet/internal/vault"
	"signet/users"
)

// accounts are the users of all sources: those of the users file or of the program's check, and
// those who sign in by a provider elsewhere. Of the latter, and of users of the check, the vault
// has what was said at their last sign-in. Users of the file cost no read of the store.
type accounts struct {
	vault *vault.Vault
	file  handlers.Users // nil if check replaces the file
	check users.CheckFunc

	signOut func(ctx context.Context, subject string) error               // of users of the file
	lookup  func(ctx context.Context, subject string) (users.User, error) // Options.Lookup; may be nil
}

func isUpstream(subject string) bool { return strings.HasPrefix(subject, users.UpstreamPrefix) }

// Check checks a name and a password. It keeps what the program's check says about the user. A
// user whom the operator has disabled is refused whatever the check says.
func (a *accounts) Check(ctx context.Context, name, password string) (users.User, error) {
	if a.check == nil {
		return a.file.Check(ctx, name, password)
	}
	u, err := a.check.Check(ctx, name, password)
	if err != nil {
		return users.User{}, err
	}
	_, err = a.vault.SignedIn(ctx, vault.Account{Account: seal.Account{
		Subject: u.Subject, Name: u.Name, Email: u.Email, DisplayName: u.DisplayName, Picture: u.Picture, Scopes: u.Scopes,
	}})
	switch {
	case errors.Is(err, vault.ErrDisabled):
		return users.User{}, users.ErrInvalid
	case err != nil:
		return users.User{}, err
	}
	return u, nil
}

// Lookup returns a user who signed in earlier, or [users.ErrUnknown].
func (a *accounts) Lookup(ctx context.Context, subject string) (users.User, error) {
	switch {
	case isUpstream(subject):
		return a.kept(ctx, subject)
	case a.check == nil:
		return a.file.Lookup(ctx, subject)
	}
	return a.ofProgram(ctx, subject)
}

// kept returns what the vault has of a user.
func (a *accounts) kept(ctx context.Context, subject string) (users.User, error) {
	account, err := a.vault.Account(ctx, subject)
	switch {
	case errors.Is(err, vault.ErrUnknown) || err == nil && account.Disabled:
		return users.User{}, users.ErrUnknown
	case err != nil:
		return users.User{}, err
	}
	u := users.User{Subject: subject, Name: account.Name, Email: account.Email, DisplayName: account.DisplayName, Picture: account.Picture,
		Scopes: account.Scopes, Version: account.Version}
	if account.NoScope {
		u.Scopes = []string{}
	}
	return u, nil
}

// ofProgram returns a user of the program's check, who has no version. The program may know
// whether the user is still there. A user who signed in before there was a vault is known by
// the subject alone.
func (a *accounts) ofProgram(ctx context.Context, subject string) (u users.User, err error) {
	if a.lookup != nil {
		if u, err = a.lookup(ctx, subject); err != nil {
			return users.User{}, err
		}
		if u.Subject != "" && u.Subject != subject {
			return users.User{}, fmt.Errorf("Options.Lookup returned another user than the one of the subject %q", subject)
		}
	}
	account, err := a.vault.Account(ctx, subject)
	switch {
	case err == nil && account.Disabled:
		return users.User{}, users.ErrUnknown
	case err != nil && !errors.Is(err, vault.ErrUnknown):
		return users.User{}, err
	}
	if len(u.Scopes) == 0 {
		u.Scopes = nil // each session and grant keeps those of its own login
	}
	return users.User{Subject: subject, Name: cmp.Or(u.Name, account.Name), Email: cmp.Or(u.Email, account.Email),
		DisplayName: cmp.Or(u.DisplayName, account.DisplayName), Picture: cmp.Or(u.Picture, account.Picture), Scopes: u.Scopes, Updated: u.Updated}, nil
}

// EndSessions ends the sessions of a user with a version.
func (a *accounts) EndSessions(ctx context.Context, subject string) error {
	switch {
	case isUpstream(subject):
		err := a.vault.EndSessions(ctx, subject)
		if errors.Is(err, vault.ErrUnknown) {
			return users.ErrUnknown
		}
		return err
	case a.signOut == nil:
		return users.ErrUnknown
	}
	return a.signOut(ctx, subject)
}
