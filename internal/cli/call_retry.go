package cli

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/oauth2"
)

const (
	tokenTries   = 4
	longestPause = 5 * time.Second
)

// patiently asks a token endpoint again when it has no time for us (503 and 429,
// with Retry-After): it has not looked at what it was sent.
func (c *caller) patiently(ctx context.Context, ask func() (*oauth2.Token, error)) (token *oauth2.Token, err error) {
	for try := 1; ; try++ {
		if token, err = ask(); err == nil || try == tokenTries {
			return token, err
		}
		var refused *oauth2.RetrieveError
		if !errors.As(err, &refused) || refused.Response.StatusCode != http.StatusServiceUnavailable && refused.Response.StatusCode != http.StatusTooManyRequests {
			return nil, err
		}
		pause := retryAfter(refused.Response.Header)
		c.say("The server has no time: trying again in %v", pause)
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// lost repeats what failed without an answer, once. A refresh may be repeated within
// the server's replay window, and without it the handle is gone anyway; a code may
// not.
func (c *caller) lost(ctx context.Context, ask func() (*oauth2.Token, error)) (*oauth2.Token, error) {
	token, err := ask()
	var refused *oauth2.RetrieveError
	if err == nil || errors.As(err, &refused) || ctx.Err() != nil {
		return token, err
	}
	c.say("No answer came: asking again with the same refresh token")
	return ask()
}

func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || seconds < 1 {
		return time.Second
	}
	return min(time.Duration(seconds)*time.Second, longestPause)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
