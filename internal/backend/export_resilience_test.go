package backend

import (
	"context"
	"log/slog"
	"time"

	"github.com/failsafe-go/failsafe-go/bulkhead"

	"signet/internal/gatewayconfig"
)

// instant is an instance that answers at once.
type instant struct{ conn }

func (instant) do(context.Context, Message, Notify) (Answer, error) {
	return Answer{Result: []byte(`{}`)}, nil
}

// Instant returns a server whose only instance answers at once, and the instance without retries,
// circuit breaker and bulkhead.
func Instant(r gatewayconfig.Routing) (*Backend, func(context.Context, Message) (Answer, error)) {
	o := Options{
		Server: &gatewayconfig.Server{ID: "s"}, Routing: withDefaults(r), Log: slog.New(slog.DiscardHandler),
		Changed: func(string) {}, Observe: func(string, time.Duration) {}, params: &params{},
	}
	b := &Backend{o: o, requests: bulkhead.New[any](defaultMaxRequests), twice: newRetry(r, true), once: newRetry(r, false)}
	b.instances = []*instance{{conn: instant{}, breaker: newBreaker(o.Routing, func(string) {}), weight: 1, status: statusRunning}}
	return b, func(ctx context.Context, m Message) (Answer, error) { return b.instances[0].conn.do(ctx, m, nil) }
}
