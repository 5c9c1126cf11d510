package admission_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/admission"
)

const hash = 20 * time.Millisecond

// flood sends logins of one kind over as many connections until ctx ends: each connection
// sends the next one when it has the answer to the last.
func flood(ctx context.Context, c *admission.Class, connections int, caller func(n int64) admission.Caller) (served *atomic.Int64) {
	served = new(atomic.Int64)
	var n atomic.Int64
	for range connections {
		go func() {
			for ctx.Err() == nil {
				slot, err := c.EnterAs(ctx, caller(n.Add(1)))
				if err != nil {
					time.Sleep(time.Millisecond)
					continue
				}
				time.Sleep(hash)
				slot.Leave()
				served.Add(1)
			}
		}()
	}
	return served
}

// Whoever floods the logins, with right passwords or wrong ones, another address and another
// account have their turn after a few hashes.
func TestNoAddressAndNoAccountKeepsOthersFromSigningIn_C10(t *testing.T) {
	const network, home, us, them = "203.0.113.8", "198.51.100.7", "alice", "mallory"
	same := func(caller admission.Caller) func(int64) admission.Caller {
		return func(int64) admission.Caller { return caller }
	}
	for name, c := range map[string]struct {
		connections int
		flood       func(int64) admission.Caller
		victim      admission.Caller
	}{
		"fourteen connections of another user":     {14, same(admission.Caller{Address: network, Account: them}), admission.Caller{Address: home, Account: us}},
		"hundreds of them":                         {300, same(admission.Caller{Address: network, Account: them}), admission.Caller{Address: home, Account: us}},
		"guesses for many accounts":                {300, func(n int64) admission.Caller { return admission.Caller{Address: network, Account: fmt.Sprint(n)} }, admission.Caller{Address: home, Account: us}},
		"guesses for one account from everywhere":  {300, func(n int64) admission.Caller { return admission.Caller{Address: fmt.Sprint(n), Account: them} }, admission.Caller{Address: home, Account: us}},
		"guesses for the user's own account":       {300, same(admission.Caller{Address: network, Account: us}), admission.Caller{Address: home, Account: us}},
		"another user behind the same address":     {300, same(admission.Caller{Address: network, Account: them}), admission.Caller{Address: network, Account: us}},
		"another user behind a proxy that is mute": {300, same(admission.Caller{Account: them}), admission.Caller{Account: us}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				classes := admission.New()
				classes.Logins(1)
				ctx, stop := context.WithCancel(t.Context())
				served := flood(ctx, classes.Login, c.connections, c.flood)
				time.Sleep(time.Second)
				for range 50 {
					begin := time.Now()
					slot, err := classes.Login.EnterAs(ctx, c.victim)
					if took := time.Since(begin); err != nil || took > 3*hash {
						t.Fatalf("after %v: %v", took, err)
					}
					time.Sleep(hash)
					slot.Leave()
				}
				if served.Load() < 50 {
					t.Errorf("the others were served %d times: no slot may stay empty", served.Load())
				}
				stop()
				time.Sleep(3 * time.Second)
				if s := classes.Login.Stats(); s.Running != 0 || s.Waiting != 0 {
					t.Errorf("afterwards: %+v", s)
				}
			})
		})
	}
}

// Addresses share the slots equally, whatever they send.
func TestAddressesShareTheSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		classes := admission.New()
		classes.Logins(2)
		ctx, stop := context.WithCancel(t.Context())
		var served []*atomic.Int64
		for i, connections := range []int{100, 30, 5, 5} {
			served = append(served, flood(ctx, classes.Login, connections, func(int64) admission.Caller {
				return admission.Caller{Address: fmt.Sprint(i), Account: fmt.Sprint(i)}
			}))
		}
		time.Sleep(10 * time.Second)
		stop()
		time.Sleep(3 * time.Second)
		for i, n := range served {
			if n := n.Load(); n < 400 || n > 600 {
				t.Errorf("address %d was served %d times of 2000, want a quarter", i, n)
			}
		}
	})
}

// The queue is bounded, a request that waits too long or whose client goes away leaves it,
// and whoever comes when it is full is refused unless others crowd it.
func TestQueueForTurnsIsBounded_INV20(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		classes := admission.New()
		classes.Logins(1)
		c := classes.Login
		results := make(chan error, 100)
		come := func(ctx context.Context, name string) {
			go func() {
				_, err := c.EnterAs(ctx, admission.Caller{Address: name, Account: name})
				results <- err
			}()
			synctest.Wait()
		}
		ctx, leave := context.WithCancel(t.Context())
		for i := range 9 { // two run
			come(ctx, fmt.Sprint(i))
		}
		if s := c.Stats(); s.Running != 2 || s.Waiting != 7 {
			t.Fatalf("%+v", s)
		}
		<-results
		<-results
		come(t.Context(), "another")
		if err := <-results; !errors.Is(err, admission.ErrFull) {
			t.Errorf("the tenth of ten callers: %v", err)
		}
		leave()
		for range 7 {
			if err := <-results; !errors.Is(err, admission.ErrFull) {
				t.Errorf("a client that has gone: %v", err)
			}
		}
		begin := time.Now()
		come(t.Context(), "late")
		if err := <-results; !errors.Is(err, admission.ErrFull) || time.Since(begin) != 2*time.Second {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		if s := c.Stats(); s.Running != 2 || s.Waiting != 0 || s.Refused != 9 {
			t.Errorf("afterwards: %+v", s)
		}
	})
}
