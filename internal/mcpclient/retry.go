package mcpclient

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	"golang.org/x/oauth2"
)

const (
	tokenTries   = 4
	longestPause = 5 * time.Second
)

// retryBusy repeats a token request that the server has no time for (503 and 429, with
// Retry-After): it did not look at what it was sent.
func (c *Client) retryBusy(ctx context.Context, ask func() (*oauth2.Token, error)) (*oauth2.Token, error) {
	busy := retrypolicy.NewBuilder[*oauth2.Token]().
		HandleIf(func(_ *oauth2.Token, err error) bool { return busyAnswer(err) != nil }).
		WithMaxAttempts(tokenTries).ReturnLastFailure().
		WithDelayFunc(func(e failsafe.ExecutionAttempt[*oauth2.Token]) time.Duration {
			return retryAfter(busyAnswer(e.LastError()).Header)
		}).
		OnRetryScheduled(func(e failsafe.ExecutionScheduledEvent[*oauth2.Token]) {
			c.say("The server has no time: trying again in %v", e.Delay)
		})
	return failsafe.With(busy.Build()).WithContext(ctx).Get(ask)
}

// retryLost repeats, once, a token request that got no answer. A refresh may be repeated
// within the server's replay window, and without it the handle is gone anyway; a code may
// not be repeated.
func (c *Client) retryLost(ctx context.Context, ask func() (*oauth2.Token, error)) (*oauth2.Token, error) {
	lost := retrypolicy.NewBuilder[*oauth2.Token]().
		HandleIf(func(_ *oauth2.Token, err error) bool {
			var refused *oauth2.RetrieveError
			var elsewhere *redirectError
			return err != nil && !errors.As(err, &refused) && !errors.As(err, &elsewhere)
		}).
		WithMaxAttempts(2).ReturnLastFailure().
		OnRetry(func(failsafe.ExecutionEvent[*oauth2.Token]) {
			c.say("No answer came: asking again with the same refresh token")
		})
	return failsafe.With(lost.Build()).WithContext(ctx).Get(ask)
}

// busyAnswer returns the answer of a server that has no time, nil for any other error.
func busyAnswer(err error) *http.Response {
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) && (refused.Response.StatusCode == http.StatusServiceUnavailable || refused.Response.StatusCode == http.StatusTooManyRequests) {
		return refused.Response
	}
	return nil
}

func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || seconds < 1 {
		return time.Second
	}
	return min(time.Duration(seconds)*time.Second, longestPause)
}
