package backend

import (
	"context"
	"net/http"

	"signet/internal/gatewayconfig"
)

// conn is one instance of a server. All its methods may be called concurrently, and their errors
// are *Error, or that of ctx if the caller has left. Retries, limits and the circuit breaker are
// not its business.
type conn interface {
	// do sends a message. It opens what has to be open for that. A notification is answered with
	// the zero Answer. A nil notify drops notifications.
	do(ctx context.Context, m Message, notify Notify) (Answer, error)

	// listen passes on what the server says unasked, until ctx or the stream ends: that lists
	// have changed, and that the resources of uris have.
	listen(ctx context.Context, session string, header http.Header, uris []string, notify Notify) error

	// check reports whether the instance is alive. It needs no credential: that the server
	// demands one is a sign of life.
	check(ctx context.Context) error

	// era is the protocol version in use, "rest", or empty if it is not known yet.
	era() string

	// restart ends what is open; the next message opens it again.
	restart(ctx context.Context) error

	// close ends what is open. Messages that run fail, and so do all that come after.
	close()
}

// newConn returns the connection to an instance. Nothing is opened yet.
func newConn(o Options, i gatewayconfig.Instance) (conn, error) {
	if len(i.Command) > 0 {
		return newStdio(o, i), nil
	}
	return newHTTP(o, i)
}

// unsent is the failure of a message of which nothing has reached the server. It may be sent
// again, whatever it does.
func unsent(s *gatewayconfig.Server, what string) *Error {
	return &Error{Server: s.ID, Kind: Down, What: what, unsent: true}
}

// ofMessage notes that a failure says nothing of the instance. Without that, the calls of one user
// could open the circuit breaker for all.
func (e *Error) ofMessage() *Error {
	e.single = true
	return e
}

// malformed is the failure of a message whose answer is none.
func malformed(s *gatewayconfig.Server, what string) *Error {
	return &Error{Server: s.ID, Kind: Malformed, What: what}
}
