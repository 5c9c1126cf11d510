package backend

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"

	"signet/internal/gatewayconfig"
)

// newRetry returns what repeats messages: those that may be sent twice, or those of which nothing
// was sent.
func newRetry(r gatewayconfig.Routing, twice bool) failsafe.Executor[Answer] {
	return failsafe.With(retrypolicy.NewBuilder[Answer]().
		WithMaxRetries(r.Retries).
		ReturnLastFailure().
		HandleIf(func(_ Answer, err error) bool { return mayRetry(r, err, twice) }).
		WithDelayFunc(func(e failsafe.ExecutionAttempt[Answer]) time.Duration {
			return delay(r, e.Attempts(), e.LastError())
		}).
		Build())
}

// mayRetry reports whether a message with this failure is sent again. What the server wants us to
// wait is waited, or the message is given up.
func mayRetry(r gatewayconfig.Routing, err error, twice bool) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.RetryAfter > r.MaxDelay {
		return false
	}
	switch {
	case e.unsent:
		return r.RetryNetwork
	case !twice, e.Kind == Unauthorized, e.Kind == Open:
		return false
	case e.Status != 0:
		return slices.Contains(r.RetryStatuses, e.Status) || slices.Contains(r.RetryClasses, e.Status/100)
	}
	return e.Kind == Down && r.RetryNetwork
}

// delay is the time before the next attempt, after so many.
func delay(r gatewayconfig.Routing, attempts int, err error) time.Duration {
	if e, ok := errors.AsType[*Error](err); ok && e.RetryAfter > 0 {
		return e.RetryAfter
	}
	d := float64(r.BaseDelay) * math.Pow(max(1, r.Backoff), float64(attempts-1))
	d = min(d, float64(r.MaxDelay))
	if r.Jitter {
		d *= rand.Float64()
	}
	return time.Duration(d)
}
