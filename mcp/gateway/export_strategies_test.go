package gateway

import (
	"context"
	"net/http"

	"signet/internal/gatewayconfig"
	"signet/mcp"
)

type Strategies = strategies

var NewStrategies = newStrategies

const MaxCredentials = maxCredentials

func (s *strategies) Headers(ctx context.Context, caller Caller, server *gatewayconfig.Server, refused bool) (http.Header, error) {
	return s.headers(ctx, caller, server, refused)
}

func (s *strategies) Await(ctx context.Context, caller Caller, server *gatewayconfig.Server) (http.Header, error) {
	return s.await(ctx, caller, server)
}

func (s *strategies) Knows(server *gatewayconfig.Server) bool { return s.knows(server) }

func (s *strategies) Changed(subject, connection string) { s.changed(subject, connection) }

func (s *strategies) Forget() { s.forget() }

// Kept is the number of credentials that are kept.
func (s *strategies) Kept() int {
	s.known.mu.Lock()
	defer s.known.mu.Unlock()
	return s.known.order.Len()
}

// Answer is what c gets from an asker that has answered before.
func Answer(a asker, c *mcp.Call, server *gatewayconfig.Server, missing *Missing) mcp.Reply {
	return a.answer(c, server, missing)
}

type Asker = asker

var (
	NewAsker         = newAsker
	Accepted         = accepted
	WithoutResponses = withoutResponses
)

const MaxChallenged = maxChallenged
