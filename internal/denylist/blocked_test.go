package denylist_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signet/internal/denylist"
	"signet/internal/seal"
	"signet/internal/test/storetest"
)

// A block is known to the process that makes it at once, and to others after their next look.
func TestClientsAreBlockedAndUnblocked(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		now := time.Now().Truncate(time.Second)
		l, s := listIn(t, e, window)
		other := listOn(t, s, window)
		if got := l.Blocked(); len(got) != 0 {
			t.Errorf("%v are blocked", got)
		}
		evil := denylist.BlockedClient{Hash: seal.ClientHash("evil"), ID: "evil", Name: "Evil", At: now}
		worse := denylist.BlockedClient{Hash: seal.ClientHash("worse"), Name: "Worse", At: now.Add(time.Second)}
		for _, c := range []denylist.BlockedClient{evil, worse, evil} {
			if err := l.Block(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if !l.Blocked()[c.Hash] {
				t.Errorf("%s is not blocked", c.Name)
			}
		}
		all, err := l.BlockedClients(t.Context())
		if diff := cmp.Diff([]denylist.BlockedClient{worse, evil}, all); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
		stop := run(t, other)
		defer stop()
		for deadline := time.Now().Add(20 * time.Second); len(other.Blocked()) != 2; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("another process does not learn of it")
			}
		}
		if err := l.Unblock(t.Context(), evil.Hash); err != nil || l.Blocked()[evil.Hash] || !l.Blocked()[worse.Hash] {
			t.Errorf("%v, blocked are %v", err, l.Blocked())
		}
		if err := l.Unblock(t.Context(), evil.Hash); !errors.Is(err, denylist.ErrUnknown) {
			t.Errorf("unblocking twice: %v", err)
		}
	})
}

// The audit log has the hash of a client, so an operator can name it by that.
func TestNameOfClient(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		l, s := listIn(t, e, window)
		g := of(t, l, s, "alice", "1", "c", "h", time.Now())
		if name, err := l.NameOfClient(t.Context(), g.ClientHash); name != g.ClientName || err != nil {
			t.Errorf("%q, %v", name, err)
		}
		if _, err := l.NameOfClient(t.Context(), "x"); !errors.Is(err, denylist.ErrUnknown) {
			t.Error(err)
		}
	})
}
