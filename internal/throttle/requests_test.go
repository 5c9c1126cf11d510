package throttle_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/throttle"
)

func TestRequestsAreLimitedForEachKeyAndMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := throttle.NewRequests(3, 1<<14)
		for range 3 {
			if err := errors.Join(r.Full("a"), r.Take("a")); err != nil {
				t.Fatal(err)
			}
		}
		for name, ask := range map[string]func(string) error{"Full": r.Full, "Take": r.Take} {
			var tooMany *throttle.TooManyError
			if err := ask("a"); !errors.As(err, &tooMany) || tooMany.RetryAfter != time.Minute {
				t.Errorf("%s after three requests: %v, want a wait of a minute", name, err)
			}
		}
		for range 10 {
			if err := r.Full("b"); err != nil {
				t.Errorf("Full has counted a request, or another key's: %v", err)
			}
		}
		time.Sleep(2 * time.Minute)
		if err := r.Take("a"); err != nil {
			t.Errorf("two minutes later: %v", err)
		}
	})
	var none *throttle.Requests
	if err := errors.Join(none.Full("a"), none.Take("a")); err != nil {
		t.Errorf("without a limit: %v", err)
	}
}
