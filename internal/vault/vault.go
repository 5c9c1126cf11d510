// Package vault keeps what the store knows of users who come from elsewhere: their accounts,
// and the tokens that providers gave for them. All of it is sealed at rest.
//
// Tokens are refreshed exactly once, whatever the number of servers and requests that want it:
// one claims the entry, calls the provider and commits its answer by compare-and-swap, while the
// others wait for the outcome. A server that dies in between leaves a claim that lapses.
package vault

import "errors"

// Errors that a caller branches on. Any other error is the store's, which is not a verdict.
var (
	ErrUnknown  = errors.New("no such entry")
	ErrDisabled = errors.New("the account is disabled")
	ErrBusy     = errors.New("another request is refreshing the tokens")
	ErrEnded    = errors.New("the provider has ended the tokens")
)
