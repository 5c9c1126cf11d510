package backend

import (
	"context"
	"log/slog"
	"net/http"

	"signet/internal/gatewayconfig"
)

// absent is an instance that nothing can be sent to.
type absent struct{ server *gatewayconfig.Server }

func newStdio(s *gatewayconfig.Server, _ gatewayconfig.Instance, _ *slog.Logger, _ func(string)) conn {
	return absent{s}
}

func (a absent) err() error { return unsent(a.server, "servers over stdio are not supported") }

func (a absent) do(context.Context, Message, Notify) (Answer, error) { return Answer{}, a.err() }

func (a absent) listen(context.Context, string, http.Header, []string, Notify) error { return a.err() }

func (a absent) check(context.Context) error   { return a.err() }
func (a absent) era() string                   { return "" }
func (a absent) restart(context.Context) error { return nil }
func (a absent) close()                        {}
