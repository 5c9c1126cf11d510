package handlers

import (
	"context"
	"time"
)

// NewBounded returns the context of a request that may take so long, and what ends it.
func NewBounded(ctx context.Context, lasts time.Duration) (bounded context.Context, end func()) {
	b := newBounded(ctx, lasts)
	return b, b.end
}
