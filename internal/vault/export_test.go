package vault

import (
	"context"
	"time"
)

// SetNow replaces the clock by which claims lapse.
func (v *Vault) SetNow(now func() time.Time) { v.now = now }

// Die claims an entry as a server does that then dies.
func (v *Vault) Die(ctx context.Context, subject, provider string) error {
	r, err := v.read(ctx, subject, provider)
	if err == nil {
		_, err = v.claim(ctx, &r)
	}
	return err
}

// Queries are those that requests make.
var Queries = []string{selectAccount, selectAccounts, selectSession, selectEntry, selectEntries}

// Limits that tests reach.
const (
	ClaimLapses  = claimLapses
	MostSessions = mostSessions
	ResealPage   = resealPage
)
