package gateway

import "errors"

// Missing says that the user has not connected what a server needs, or has to do it again.
type Missing struct {
	Connection string // id
	Declined   bool   // the user was asked in this login, and said "Later"
	Scope      string // scopes that the user's token for the server lacks; empty: there is no token
}

func (m *Missing) Error() string { return "the user has not connected " + m.Connection }

// ErrEnded says that the caller's grant has ended: the caller has to sign in again.
var ErrEnded = errors.New("the grant has ended")
