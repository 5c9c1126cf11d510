package backend

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"signet/internal/gatewayconfig"
)

// Options are what a Backend is made of.
type Options struct {
	Server  *gatewayconfig.Server
	Routing gatewayconfig.Routing
	Log     *slog.Logger
	Agent   string // User-Agent of requests, and name and version of the client: "signet/1.2"

	// Changed is called when the server says that one of its lists has changed: "tools",
	// "prompts" or "resources"; or empty if all may have, as after a restart. Nil: nobody cares.
	Changed func(list string)

	// Observe is called with the outcome of each message: "ok", or the kind of its error, or
	// "canceled" if the caller left. Nil: nobody counts.
	Observe func(outcome string, d time.Duration)
}

// Backend is one server with all its instances.
type Backend struct {
	o         Options
	instances []*instance
}

type instance struct {
	gatewayconfig.Instance
	conn conn
}

// New returns a server. Nothing is sent to it before the first message, apart from health checks.
// The caller closes it.
func New(o Options) (*Backend, error) {
	if len(o.Server.Instances) == 0 {
		return nil, errors.New("server " + o.Server.ID + " has no instance")
	}
	if o.Changed == nil {
		o.Changed = func(string) {}
	}
	if o.Observe == nil {
		o.Observe = func(string, time.Duration) {}
	}
	b := &Backend{o: o}
	for _, i := range o.Server.Instances {
		c, err := newConn(o, i)
		if err != nil {
			return nil, err
		}
		b.instances = append(b.instances, &instance{i, c})
	}
	return b, nil
}

// Do sends a message and returns the answer. Its error is an *Error, or that of ctx.
func (b *Backend) Do(ctx context.Context, m Message, notify Notify) (Answer, error) {
	return b.instances[0].conn.do(ctx, m, notify)
}

// List returns all pages of a list: "tools", "prompts", "resources" or "resourceTemplates".
func (b *Backend) List(ctx context.Context, list string, session string, header http.Header) ([]json.RawMessage, error) {
	return nil, malformed(b.o.Server, "lists are not supported")
}

// Listen passes on what the server says unasked, until ctx ends.
func (b *Backend) Listen(ctx context.Context, session string, header http.Header, uris []string, notify Notify) error {
	return b.instances[0].conn.listen(ctx, session, header, uris, notify)
}

// State is the state of the server and its instances now.
func (b *Backend) State() State { return State{ID: b.o.Server.ID, Era: b.instances[0].conn.era()} }

// Check checks all instances now.
func (b *Backend) Check(ctx context.Context) error { return b.instances[0].conn.check(ctx) }

// Enable lets messages through, or refuses them.
func (b *Backend) Enable(on bool) {}

// Restart restarts all instances.
func (b *Backend) Restart(ctx context.Context) error { return b.instances[0].conn.restart(ctx) }

// Close ends everything that is open. It is called once, and no message comes after it.
func (b *Backend) Close() {
	for _, i := range b.instances {
		i.conn.close()
	}
}
