package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net/http"
	"sync"

	"github.com/go-chi/chi/v5"
)

type requestIDKey struct{}

// requestContext is the context of a request. It holds what the log and the router look up, so
// that one copy of the request is enough for both.
type requestContext struct {
	context.Context
	id    string
	route *chi.Context
}

func (c *requestContext) Value(key any) any {
	switch key {
	case requestIDKey{}:
		return c
	case chi.RouteCtxKey:
		return c.route
	}
	return c.Context.Value(key)
}

// routes are contexts of the router that are used again, as the router itself would do.
var routes = sync.Pool{New: func() any { return chi.NewRouteContext() }}

// addRequestID gives every request a random ID, in its context for the log and in the
// answer for people who report a problem. An ID that the client sends is ignored. The context of
// a router that the program has around this one ends here: routing would go on at the part of the
// path that is left there, and the paths here are whole.
func addRequestID(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var b [8]byte
		rand.Read(b[:])
		ctx := &requestContext{Context: r.Context(), id: hex.EncodeToString(b[:]), route: routes.Get().(*chi.Context)}
		ctx.route.Reset()
		w.Header()["X-Request-Id"] = []string{ctx.id}
		next.ServeHTTP(w, r.WithContext(ctx))
		routes.Put(ctx.route)
	})
}

// WithRequestID adds the request's ID to every record that is logged with the context of
// a request.
func WithRequestID(h slog.Handler) slog.Handler { return requestIDHandler{h} }

type requestIDHandler struct{ slog.Handler }

func (h requestIDHandler) Handle(ctx context.Context, rec slog.Record) error {
	if c, ok := ctx.Value(requestIDKey{}).(*requestContext); ok {
		rec.AddAttrs(slog.String("request_id", c.id))
	}
	return h.Handler.Handle(ctx, rec)
}

func (h requestIDHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return requestIDHandler{h.Handler.WithAttrs(attrs)}
}

func (h requestIDHandler) WithGroup(name string) slog.Handler {
	return requestIDHandler{h.Handler.WithGroup(name)}
}
