package mcpclient

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"
)

// silent is a narrator that counts steps.
type silent struct{ steps int }

func (s *silent) Step(string)                  { s.steps++ }
func (s *silent) Exchange(string, string, int) {}

func newClient() (*Client, *silent) {
	n := &silent{}
	return &Client{web: narrated{mu: &sync.Mutex{}, narrator: n}}, n
}

// answers returns a token request that fails with these errors, one after the other, and
// then succeeds.
func answers(errs ...error) (ask func() (*oauth2.Token, error), asked *int) {
	asked = new(int)
	return func() (*oauth2.Token, error) {
		*asked++
		if *asked <= len(errs) {
			return nil, errs[*asked-1]
		}
		return &oauth2.Token{AccessToken: "a"}, nil
	}, asked
}

func refusal(status int, retryAfter string) error {
	h := http.Header{}
	if retryAfter != "" {
		h.Set("Retry-After", retryAfter)
	}
	return &oauth2.RetrieveError{Response: &http.Response{StatusCode: status, Header: h}}
}

// A server without time for a token request is asked again when it says, within limits;
// no other answer is.
func TestBusyServerIsAskedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		errs  []error
		asked int
		waits time.Duration
		fails bool
	}{
		"at once":          {nil, 1, 0, false},
		"503, 429":         {[]error{refusal(503, "2"), refusal(429, "1")}, 3, 3 * time.Second, false},
		"no Retry-After":   {[]error{refusal(503, "")}, 2, time.Second, false},
		"a date":           {[]error{refusal(503, "Fri, 31 Dec 1999 23:59:59 GMT")}, 2, time.Second, false},
		"negative":         {[]error{refusal(503, "-3")}, 2, time.Second, false},
		"too long":         {[]error{refusal(503, "3600")}, 2, longestPause, false},
		"always":           {[]error{refusal(503, "1"), refusal(503, "1"), refusal(503, "1"), refusal(503, "1"), refusal(503, "1")}, tokenTries, 3 * time.Second, true},
		"refused":          {[]error{refusal(400, "1")}, 1, 0, true},
		"failed":           {[]error{refusal(500, "1")}, 1, 0, true},
		"busy, then wrong": {[]error{refusal(503, "1"), refusal(400, "")}, 2, time.Second, true},
		"no answer":        {[]error{errors.New("lost")}, 1, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, said := newClient()
				ask, asked := answers(c.errs...)
				begin := time.Now()
				token, err := client.retryBusy(t.Context(), ask)
				if *asked != c.asked || time.Since(begin) != c.waits || said.steps != c.asked-1 {
					t.Errorf("asked %d times in %v, want %d in %v; said %d", *asked, time.Since(begin), c.asked, c.waits, said.steps)
				}
				if c.fails && (!errors.Is(err, c.errs[c.asked-1]) || token != nil) || !c.fails && (err != nil || token.AccessToken != "a") {
					t.Errorf("%v, %v", token, err)
				}
			})
		})
	}
}

func TestWaitForABusyServerCanBeInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := newClient()
		ask, asked := answers(refusal(503, "5"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := client.retryBusy(ctx, ask); !errors.Is(err, context.DeadlineExceeded) || *asked != 1 {
			t.Errorf("%v after %d requests", err, *asked)
		}
	})
}

// A refresh without an answer is repeated once. A refusal is an answer.
func TestLostAnswerIsAskedForOnceMore(t *testing.T) {
	lost := errors.New("connection reset")
	for name, c := range map[string]struct {
		errs  []error
		asked int
	}{
		"no loss":       {nil, 1},
		"lost":          {[]error{lost}, 2},
		"lost twice":    {[]error{lost, lost, lost}, 2},
		"refused":       {[]error{refusal(400, "")}, 1},
		"lost, refused": {[]error{lost, refusal(400, "")}, 2},
	} {
		client, said := newClient()
		ask, asked := answers(c.errs...)
		var want error
		if len(c.errs) >= c.asked {
			want = c.errs[c.asked-1]
		}
		if _, err := client.retryLost(t.Context(), ask); !errors.Is(err, want) || *asked != c.asked || said.steps != c.asked-1 {
			t.Errorf("%s: %v after %d requests, want %v after %d; said %d", name, err, *asked, want, c.asked, said.steps)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	client, _ := newClient()
	asked := 0
	_, err := client.retryLost(ctx, func() (*oauth2.Token, error) { asked++; cancel(); return nil, lost })
	if err == nil || asked != 1 {
		t.Errorf("interrupted: %v after %d requests", err, asked)
	}
}
