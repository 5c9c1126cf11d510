package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"signet/internal/denylist"
	"signet/internal/state"
	"signet/internal/store"
	"signet/internal/vault"
	"signet/users"
)

// accountPage is how many users from elsewhere are read and printed at a time.
const accountPage = 1000

// elsewhere is what the store knows of users who are in no users file.
type elsewhere struct {
	accounts *vault.Vault
	grants   *denylist.List
	now      time.Time
}

// withElsewhere opens the store, also while a server runs. Before the first start, do is not
// called.
func withElsewhere(ctx context.Context, cfg *config, do func(elsewhere) error) (err error) {
	st, err := state.OpenStore(ctx, cfg.data())
	if errors.Is(err, store.ErrNoStore) && !errors.Is(err, store.ErrHalf) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	ring, err := cfg.data().Ring()
	if err != nil {
		return err
	}
	grants, err := denylist.New(ctx, denylist.Options{Store: st})
	if err != nil {
		return err
	}
	accounts := vault.New(vault.Options{Store: st, Ring: ring})
	defer accounts.Close()
	return do(elsewhere{accounts, grants, st.Now()})
}

// each calls print with all users from elsewhere, page by page.
func (e elsewhere) each(ctx context.Context, print func([]account) error) error {
	for after := ""; ; {
		page, err := e.accounts.Accounts(ctx, after, accountPage)
		if err != nil || len(page) == 0 {
			return err
		}
		var list []account
		for _, a := range page {
			list = append(list, accountElsewhere(a))
		}
		if err := print(list); err != nil {
			return err
		}
		after = page[len(page)-1].Subject
	}
}

func accountElsewhere(a vault.Account) account {
	seen := time.Unix(a.Seen, 0).UTC()
	return account{Subject: a.Subject, Provider: a.Provider, Name: a.Name, Email: a.Email, DisplayName: a.DisplayName, Scopes: a.Scopes, Disabled: a.Disabled, LastSignIn: &seen}
}

// setDisabled disables a user and ends the user's grants, or enables the user.
func (e elsewhere) setDisabled(ctx context.Context, subject string, disabled bool) error {
	if err := e.accounts.SetDisabled(ctx, subject, disabled); err != nil || !disabled {
		return err
	}
	n, err := e.grants.RevokeAll(ctx, subject, e.now)
	if err != nil {
		return fmt.Errorf("the user is disabled and %d grants are revoked, then: %w", n, err)
	}
	return nil
}

// remove ends a user's grants and removes the user. If it is interrupted, the user stays
// disabled, and it can be repeated.
func (e elsewhere) remove(ctx context.Context, subject string) error {
	if err := e.setDisabled(ctx, subject, true); err != nil {
		return err
	}
	return e.accounts.Remove(ctx, subject)
}

// editElsewhere changes the user from elsewhere with a subject, which may be given in another
// case if it is a name. The error is [users.ErrUnknown] if there is none.
func editElsewhere(ctx context.Context, cfg *config, user string, edit func(elsewhere, context.Context, string) error) error {
	unknown := fmt.Errorf("%w: %q", users.ErrUnknown, user)
	result := unknown
	err := withElsewhere(ctx, cfg, func(e elsewhere) error {
		for _, subject := range subjects(user) {
			if result = edit(e, ctx, subject); !errors.Is(result, vault.ErrUnknown) {
				return result
			}
		}
		result = unknown
		return nil
	})
	if err != nil {
		return err
	}
	return result
}
