package admission_test

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/admission"
)

// A byte is sent if none is on its way, and arrives.
func TestInboxIsBehindUntilItsByteArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var arrived int
		behind := func(i *admission.Inbox) bool {
			answer := i.Behind(func() { arrived++ })
			synctest.Wait()
			return answer
		}
		i := &admission.Inbox{}
		for want := range 3 {
			if !behind(i) || arrived != want+1 || i.Late() {
				t.Errorf("%d bytes have arrived, late %t, want %d", arrived, i.Late(), want+1)
			}
		}
		arrived = 0
		i.SetLate(true)
		if !behind(i) || arrived != 0 {
			t.Error("a second byte was sent, or none is on its way")
		}
		if behind(admission.NewInboxWithoutPipe()) || arrived != 0 {
			t.Error("without a pipe a byte is on its way")
		}
	})
}

// The numbers of requests of class refresh on two cores.
const (
	all  = 256      // that may run
	few  = 32       // that run while a burst is being read
	long = 64 + all // that wait if it is no burst yet
)

func twoCores(t *testing.T) {
	before := runtime.GOMAXPROCS(2)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
}

// While the requests of a burst are being read, few of them run. When they have been read, all
// slots are in use, also if no request leaves.
func TestFewRunWhileABurstIsRead(t *testing.T) {
	twoCores(t)
	synctest.Test(t, func(t *testing.T) {
		c := admission.New().Refresh
		end := make(chan bool)
		var calls sync.WaitGroup
		come := func(n int) {
			for range n {
				calls.Go(func() {
					s := enter(t, c)
					<-end
					s.Leave()
				})
			}
			synctest.Wait()
		}
		leave := func(n, running int) {
			t.Helper()
			for range n {
				end <- true
			}
			synctest.Wait()
			if s := c.Stats(); s.Running != running {
				t.Fatalf("%d run and %d wait, want %d to run", s.Running, s.Waiting, running)
			}
		}
		come(all + long + 300)
		arrives := c.IsLate()
		leave(all-few, few)
		leave(200, few)
		arrives()
		leave(0, all)
		c.IsLate()
		leave(100, all) // as few wait as always may
		leave(long+few, 0)
		calls.Wait()
		come(all)
		if s := c.Stats(); s.Running != all || s.Waiting != 0 {
			t.Errorf("after the burst: %+v", s)
		}
		leave(all, 0)
		calls.Wait()
	})
}

// The expected wait is that of the slots that are in use.
func TestDoorKnowsThatFewRun(t *testing.T) {
	twoCores(t)
	synctest.Test(t, func(t *testing.T) {
		c := admission.New().Refresh
		var calls sync.WaitGroup
		arrives := c.IsLate()
		for range all + 1000 {
			calls.Go(func() {
				if s, err := c.Enter(t.Context()); err == nil {
					time.Sleep(10 * time.Millisecond)
					s.Leave()
				}
			})
		}
		time.Sleep(35 * time.Millisecond)
		if s := c.Stats(); s.Running != few || s.Waiting <= long {
			t.Fatalf("%+v, want %d to run", s, few)
		}
		wantDoor(t, c, false) // a thousand requests, a few in ten milliseconds
		arrives()
		calls.Wait()
	})
}
