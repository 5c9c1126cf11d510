package throttle_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/store"
	"signet/internal/test/storetest"
	"signet/internal/throttle"
)

func openThrottle(t *testing.T, o store.Options) (*throttle.Logins, *store.Store) {
	t.Helper()
	s := storetest.Open(t, o)
	return throttle.NewLogins(s, nil), s
}

func newThrottle(t *testing.T) (*throttle.Logins, *store.Store) {
	t.Helper()
	return throttleOn(t, storetest.SQLite)
}

func throttleOn(t *testing.T, e storetest.Engine) (*throttle.Logins, *store.Store) {
	t.Helper()
	return openThrottle(t, e.Empty(t))
}

var (
	home   = netip.MustParseAddr("192.0.2.1")
	abroad = netip.MustParseAddr("198.51.100.7")
)

// refusal begins an attempt and returns how long it has to wait, 0 if it need not.
func refusal(t *testing.T, th *throttle.Logins, name string, addr netip.Addr, now time.Time) (*throttle.Attempt, time.Duration) {
	t.Helper()
	a, err := th.Begin(t.Context(), name, addr, now)
	var throttled *throttle.TooManyError
	switch {
	case err == nil:
		return a, 0
	case !errors.As(err, &throttled) || !errors.Is(err, throttle.ErrTooMany) || throttled.RetryAfter <= 0 || a != nil:
		t.Fatalf("%s from %s: %v, %v; want an attempt or a wait", name, addr, a, err)
	}
	return nil, throttled.RetryAfter
}

// wantFail begins an attempt that fails.
func wantFail(t *testing.T, th *throttle.Logins, name string, addr netip.Addr, now time.Time) {
	t.Helper()
	if _, wait := refusal(t, th, name, addr, now); wait != 0 {
		t.Errorf("%s from %s: refused for %v, want an attempt", name, addr, wait)
	}
}

func wantWait(t *testing.T, th *throttle.Logins, name string, addr netip.Addr, now time.Time, want time.Duration) {
	t.Helper()
	if _, wait := refusal(t, th, name, addr, now); wait != want {
		t.Errorf("%s from %s: refused for %v, want %v", name, addr, wait, want)
	}
}

func succeed(t *testing.T, th *throttle.Logins, name string, addr netip.Addr, now time.Time) {
	t.Helper()
	a, wait := refusal(t, th, name, addr, now)
	if wait != 0 {
		t.Fatalf("%s from %s: refused for %v, want a login", name, addr, wait)
	}
	if err := a.Succeeded(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func rows(t *testing.T, s *store.Store) (n int) {
	t.Helper()
	err := s.Read(t.Context(), func(tx store.Tx) error { return tx.QueryRow("SELECT count(*) FROM attempts").Scan(&n) })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// After five failures each wait is twice as long as the one before, up to a quarter of an
// hour. A refusal is not counted, and no other account or address has to wait.
func TestWaitsDoubleForOneAccountAndAddress_C09(t *testing.T) {
	storetest.Each(t, testWaitsDoubleForOneAccountAndAddress_C09)
}

func testWaitsDoubleForOneAccountAndAddress_C09(t *testing.T, e storetest.Engine) {
	th, s := throttleOn(t, e)
	now := s.Now().Truncate(time.Millisecond)
	for range 5 {
		wantFail(t, th, "alice", home, now)
		now = now.Add(10 * time.Millisecond)
	}
	now = now.Add(-10 * time.Millisecond)
	for i, seconds := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900} {
		wait := seconds * time.Second
		wantWait(t, th, "alice", home, now, wait)
		wantWait(t, th, "alice", home, now.Add(wait-time.Millisecond), time.Millisecond)
		wantFail(t, th, "bob", netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), now)
		succeed(t, th, "bob", home, now)
		succeed(t, th, "alice", abroad, now)
		wantWait(t, th, "alice", home, now, wait) // other addresses change nothing
		now = now.Add(wait)
		wantFail(t, th, "alice", home, now)
	}
	if n := th.Stats().Refused; n != 3*13 {
		t.Errorf("%d refusals counted, want %d", n, 3*13)
	}
}

// Other addresses are not affected.
func TestOnePasswordOnManyUsersIsStoppedAtTheAddress_C09(t *testing.T) {
	storetest.Each(t, testOnePasswordOnManyUsersIsStoppedAtTheAddress_C09)
}

func testOnePasswordOnManyUsersIsStoppedAtTheAddress_C09(t *testing.T, e storetest.Engine) {
	th, s := throttleOn(t, e)
	now := s.Now().Truncate(time.Millisecond)
	tried := 0
	for i := range 200 {
		if _, wait := refusal(t, th, fmt.Sprint("user", i), home, now); wait == 0 {
			tried++
		}
	}
	if tried != 30 {
		t.Errorf("%d of 200 users were tried, want 30", tried)
	}
	succeed(t, th, "user1", abroad, now)
	for _, seconds := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900} {
		_, wait := refusal(t, th, "user77", home, now)
		if wait != seconds*time.Second {
			t.Errorf("told to wait %v, want %v", wait, seconds*time.Second)
		}
		now = now.Add(wait)
		wantFail(t, th, fmt.Sprint("other", now), home, now)
	}
}

// All texts that are no names share a count too.
func TestSpellingsOfANameShareACount_C09(t *testing.T) {
	for what, names := range map[string][]string{
		"spellings": {"zoë", "Zoë", " ZOË ", "zoe\u0308", "ZOE\u0308\t"},
		"no names":  {"", " ", "a\x00b", "a\u200bb", "\xff", strings.Repeat("a", 200), strings.Repeat("b", 100_000)},
	} {
		th, s := newThrottle(t)
		now := s.Now()
		tried := 0
		for i := range 30 {
			if _, wait := refusal(t, th, names[i%len(names)], home, now); wait == 0 {
				tried++
			}
		}
		if tried != 5 {
			t.Errorf("%s: %d of 30 were tried, want 5", what, tried)
		}
	}
}

// patient repeats do while the store is too busy, as a browser does after 503.
func patient(do func() error) (err error) {
	for range 5 {
		if err = do(); !errors.Is(err, store.ErrUnavailable) {
			break
		}
	}
	return err
}

// The attempts come at three replicas.
func TestAttemptsAtOnceCountFromTheirBeginning_C09(t *testing.T) {
	storetest.Each(t, testAttemptsAtOnceCountFromTheirBeginning_C09)
}

func testAttemptsAtOnceCountFromTheirBeginning_C09(t *testing.T, e storetest.Engine) {
	o := e.Empty(t)
	var replicas []*throttle.Logins
	for range 3 {
		th, _ := openThrottle(t, o)
		replicas = append(replicas, th)
	}
	now := time.Now()
	for what, test := range map[string]struct {
		name func(i int) string
		addr netip.Addr
		want int64
	}{
		"one user":   {func(int) string { return "alice" }, home, 5},
		"many users": {func(i int) string { return fmt.Sprint("user", i) }, abroad, 30},
	} {
		var tried, refused atomic.Int64
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				switch err := patient(func() error {
					_, err := replicas[i%3].Begin(context.Background(), test.name(i), test.addr, now)
					return err
				}); {
				case err == nil:
					tried.Add(1)
				case errors.Is(err, throttle.ErrTooMany):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		if tried.Load() != test.want || refused.Load() != 50-test.want {
			t.Errorf("%s: %d tried, %d refused; want %d tried", what, tried.Load(), refused.Load(), test.want)
		}
	}
}

func TestIPv6NetworksCountAsOneAddress_C09(t *testing.T) {
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"192.0.2.1", "::ffff:192.0.2.2", false},
		{"::ffff:192.0.2.1", "::ffff:192.0.2.2", false},
		{"2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", true},
		{"2001:db8:0:1::1", "2001:db8:0:2::1", false},
		{"fe80::1%eth0", "fe80::1%eth1", true},
		{"::1", "127.0.0.1", false},
		{"", "", true},
		{"", "192.0.2.1", false},
	} {
		th, s := newThrottle(t)
		now := s.Now()
		a, _ := netip.ParseAddr(test.a)
		b, _ := netip.ParseAddr(test.b)
		for range 5 {
			wantFail(t, th, "alice", a, now)
		}
		if _, wait := refusal(t, th, "alice", b, now); (wait > 0) != test.same {
			t.Errorf("%q and %q: wait %v, want them to be one: %v", test.a, test.b, wait, test.same)
		}
	}
}

// A success deletes the failures before it, and leaves no row.
func TestSuccessBeginsAnew(t *testing.T) { storetest.Each(t, testSuccessBeginsAnew) }

func testSuccessBeginsAnew(t *testing.T, e storetest.Engine) {
	th, s := throttleOn(t, e)
	now := s.Now()
	for range 20 {
		for range 4 {
			wantFail(t, th, "alice", home, now)
		}
		now = now.Add(time.Minute)
		succeed(t, th, "alice", home, now)
		now = now.Add(11 * time.Minute) // the address forgets, too
	}
	th, s = throttleOn(t, e)
	for i := range 100 {
		succeed(t, th, fmt.Sprint("user", i), home, s.Now())
	}
	if n := rows(t, s); n != 0 {
		t.Errorf("%d rows after logins that all went well, want none", n)
	}
}

// An attacker with an account gains nothing by signing in between guesses: they wait as long
// as without the logins.
func TestSuccessDoesNotHideGuessing(t *testing.T) {
	for _, own := range []bool{false, true} {
		th, s := newThrottle(t)
		begin := s.Now().Truncate(time.Millisecond)
		guesses := 0
		for now := begin; now.Sub(begin) < 6*time.Hour; {
			if own {
				if a, wait := refusal(t, th, "mallory", home, now); wait == 0 {
					if err := a.Succeeded(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			_, wait := refusal(t, th, fmt.Sprint("user", guesses), home, now)
			if wait == 0 {
				guesses++
			}
			now = now.Add(wait)
		}
		if want := 30 + 10 + 6*4; guesses > want || guesses < want-5 {
			t.Errorf("own account %v: %d guesses in six hours, want about %d", own, guesses, want)
		}
	}
}

// Other logins from the address wait no longer because of it.
func TestSuccessDelaysNoOtherLogin(t *testing.T) { storetest.Each(t, testSuccessDelaysNoOtherLogin) }

func testSuccessDelaysNoOtherLogin(t *testing.T, e storetest.Engine) {
	th, s := throttleOn(t, e)
	now := s.Now().Truncate(time.Millisecond)
	for i := range 34 {
		if _, wait := refusal(t, th, fmt.Sprint("user", i), home, now); wait > 0 {
			now = now.Add(wait)
			wantFail(t, th, fmt.Sprint("user", i), home, now)
		}
	}
	now = now.Add(16 * time.Second)
	for i := range 10 {
		succeed(t, th, fmt.Sprint("neighbour", i), home, now)
	}
	for i := range 3 {
		a, wait := refusal(t, th, fmt.Sprint("busy", i), home, now)
		if wait != 0 {
			t.Fatalf("told to wait %v", wait)
		}
		wantWait(t, th, "meanwhile", home, now, 32*time.Second)
		if err := a.Withdraw(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	slow, _ := refusal(t, th, "slow", home, now)
	now = now.Add(32 * time.Second)
	wantFail(t, th, "wrong", home, now)
	if err := slow.Succeeded(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantWait(t, th, "next", home, now, 32*time.Second) // as after the one failure alone
}

// An attempt in which no password was checked does not count.
func TestWithdrawnAttemptLeavesNoTrace(t *testing.T) {
	storetest.Each(t, testWithdrawnAttemptLeavesNoTrace)
}

func testWithdrawnAttemptLeavesNoTrace(t *testing.T, e storetest.Engine) {
	th, s := throttleOn(t, e)
	now := s.Now()
	for range 100 {
		a, wait := refusal(t, th, "alice", home, now)
		if wait > 0 {
			t.Fatalf("told to wait %v", wait)
		}
		for range 3 { // the first call takes effect
			if err := a.Withdraw(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := a.Succeeded(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := rows(t, s); n != 0 {
		t.Errorf("%d rows, want none", n)
	}
	for range 3 {
		wantFail(t, th, "alice", home, now)
	}
	twice, _ := refusal(t, th, "alice", home, now)
	for range 2 {
		if err := twice.Withdraw(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	wantFail(t, th, "alice", home, now)
	a, _ := refusal(t, th, "alice", home, now)
	wantWait(t, th, "alice", home, now, refusedFor(t, th, now))
	if err := a.Withdraw(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantFail(t, th, "alice", home, now)
	if _, wait := refusal(t, th, "alice", home, now); wait == 0 {
		t.Error("the failures before the withdrawn attempt are forgotten")
	}
	late, _ := refusal(t, th, "carol", home, now)
	now = now.Add(25 * time.Hour) // by now it is another count
	for range 5 {
		wantFail(t, th, "carol", home, now)
	}
	if err := late.Withdraw(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, wait := refusal(t, th, "carol", home, now); wait == 0 {
		t.Error("an attempt of an earlier count was taken back from a later one")
	}
}

func refusedFor(t *testing.T, th *throttle.Logins, now time.Time) time.Duration {
	t.Helper()
	_, wait := refusal(t, th, "alice", home, now)
	if wait < 900*time.Millisecond || wait > time.Second {
		t.Errorf("refused for %v, want a second", wait)
	}
	return wait
}

// Failures are forgotten when their window is over; failures that caused a wait, when there
// was no other for that long after the wait.
func TestFailuresAreForgotten(t *testing.T) { storetest.Each(t, testFailuresAreForgotten) }

func testFailuresAreForgotten(t *testing.T, e storetest.Engine) {
	th, s := throttleOn(t, e)
	now := s.Now().Truncate(time.Millisecond)
	many := func(n int, at time.Time) {
		t.Helper()
		for i := range n {
			wantFail(t, th, fmt.Sprint(at, i), home, at)
		}
	}
	many(1, now)
	many(28, now.Add(10*time.Minute-time.Millisecond))
	many(30, now.Add(10*time.Minute)) // the 29 no longer count
	now = now.Add(10 * time.Minute)
	wantFail(t, th, "x", home, now.Add(time.Second))
	now = now.Add(time.Second)
	wantFail(t, th, "y", home, now.Add(2*time.Second+10*time.Minute-time.Millisecond))
	now = now.Add(2*time.Second + 10*time.Minute - time.Millisecond)
	wantWait(t, th, "z", home, now, 4*time.Second)
	many(30, now.Add(4*time.Second+10*time.Minute))

	for range 5 {
		wantFail(t, th, "alice", abroad, now)
	}
	wantFail(t, th, "alice", abroad, now.Add(time.Second+24*time.Hour-time.Millisecond))
	now = now.Add(time.Second + 24*time.Hour - time.Millisecond)
	wantWait(t, th, "alice", abroad, now, 2*time.Second)
	now = now.Add(2*time.Second + 24*time.Hour)
	for range 5 {
		wantFail(t, th, "alice", abroad, now)
	}
}

// A replica whose clock is behind does not add the difference to a wait.
func TestCountsSurviveARestart(t *testing.T) { storetest.Each(t, testCountsSurviveARestart) }

func testCountsSurviveARestart(t *testing.T, e storetest.Engine) {
	o := e.Empty(t)
	th, s := openThrottle(t, o)
	now := s.Now().Truncate(time.Millisecond)
	for range 5 {
		wantFail(t, th, "alice", home, now)
	}
	s.Close()
	th, _ = openThrottle(t, o)
	if wait := refusedFor(t, th, now); wait == 0 {
		t.Error("forgotten after a restart")
	}
	wantWait(t, th, "alice", home, now.Add(-time.Hour), time.Second)
	for range 5 {
		wantFail(t, th, "alice", abroad, now)
		now = now.Add(-time.Minute)
	}
	wantWait(t, th, "alice", abroad, now.Add(5*time.Minute), time.Second)
}

// A name that is no user's may be a password.
func TestStoreHasNoNamesOrAddresses(t *testing.T) {
	o := storetest.SQLite.Empty(t)
	th, s := openThrottle(t, o)
	names := []string{"correct-horse", "alice-of-wonderland"}
	for _, name := range names {
		wantFail(t, th, name, home, s.Now())
	}
	if rows(t, s) != 3 {
		t.Fatalf("%d rows, want 3", rows(t, s))
	}
	s.Close()
	for _, part := range []string{"", "-wal"} {
		b, err := os.ReadFile(o.Path + part)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for _, s := range append(names, home.String(), string(home.AsSlice())) {
			if bytes.Contains(b, []byte(s)) {
				t.Errorf("%q is in the store", s)
			}
		}
	}
}

func TestKeysDifferBetweenStores(t *testing.T) {
	var keys [2]string
	for i := range keys {
		th, s := newThrottle(t)
		wantFail(t, th, "alice", home, s.Now())
		err := s.Read(t.Context(), func(tx store.Tx) error {
			return tx.QueryRow("SELECT group_concat(hex(key)) FROM attempts").Scan(&keys[i])
		})
		if err != nil || len(keys[i]) != 2*32+1 {
			t.Fatalf("keys %q, %v; want two of 16 bytes", keys[i], err)
		}
	}
	if keys[0] == keys[1] {
		t.Errorf("both stores have %s", keys[0])
	}
}

func TestNoLoginBeginsWithoutTheStore(t *testing.T) {
	storetest.Each(t, testNoLoginBeginsWithoutTheStore)
}

func testNoLoginBeginsWithoutTheStore(t *testing.T, e storetest.Engine) {
	th, s := throttleOn(t, e)
	now := s.Now()
	a, _ := refusal(t, th, "alice", home, now)
	s.Close()
	if a, err := th.Begin(t.Context(), "alice", home, now); a != nil || !errors.Is(err, store.ErrUnavailable) || errors.Is(err, throttle.ErrTooMany) {
		t.Errorf("Begin: %v, %v; want ErrUnavailable", a, err)
	}
	if err := a.Succeeded(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Succeeded: %v, want ErrUnavailable", err)
	}
	if err := th.Prune(t.Context(), now); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Prune: %v, want ErrUnavailable", err)
	}
}

// Beyond the bound, the counts that would be forgotten next are dropped.
func TestCountsAreBounded_L15(t *testing.T) { storetest.Each(t, testCountsAreBounded_L15) }

func testCountsAreBounded_L15(t *testing.T, e storetest.Engine) {
	const most = 200
	o := e.Empty(t)
	var replicas [2]*throttle.Logins
	var s *store.Store
	for i := range replicas {
		replicas[i], s = openThrottle(t, o)
		replicas[i].KeepAtMost(most)
	}
	now := s.Now()
	for range 5 {
		wantFail(t, replicas[0], "alice", home, now.Add(time.Hour)) // forgotten last
	}
	attack := func(th *throttle.Logins, from, n int) {
		t.Helper()
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() {
				addr := netip.AddrFrom4([4]byte{10, 0, byte((from + i) >> 8), byte(from + i)})
				if err := patient(func() error { _, err := th.Begin(context.Background(), fmt.Sprint("user", i), addr, now); return err }); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	for i := range 10 {
		attack(replicas[0], 100*i, 100)
		if n := rows(t, s); n > most+2*100 { // attempts at the same time do not see each other
			t.Fatalf("%d rows, want at most %d", n, most+2*100)
		}
	}
	attack(replicas[1], 1000, 100)
	if err := replicas[0].Prune(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if n := rows(t, s); n != most {
		t.Errorf("%d rows after pruning, want %d", n, most)
	}
	for i := range 20 { // one after the other, the bound is exact
		attack(replicas[0], 2000+i, 1)
		if n := rows(t, s); n > most {
			t.Fatalf("%d rows, want at most %d", n, most)
		}
	}
	if _, wait := refusal(t, replicas[1], "alice", home, now.Add(time.Hour)); wait == 0 {
		t.Error("the count that is forgotten last was dropped")
	}
}

// They are deleted when their time is over, not before.
func TestCountsArePruned_L15(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s, err := store.Open(t.Context(), storetest.SQLite.Empty(t))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		th := throttle.NewLogins(s, slog.New(slog.NewTextHandler(&log, nil)))
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { th.Run(ctx) })
		for i := range 300 {
			wantFail(t, th, fmt.Sprint("user", i%150), netip.AddrFrom4([4]byte{10, 0, byte(i >> 4), 1}), time.Now())
		}
		time.Sleep(10*time.Minute - time.Second)
		if n := rows(t, s); n != 300+19 {
			t.Errorf("%d rows, want all", n)
		}
		time.Sleep(2 * time.Minute)
		if n := rows(t, s); n != 300 {
			t.Errorf("%d rows after the addresses' time, want 300", n)
		}
		time.Sleep(24 * time.Hour)
		if n := rows(t, s); n != 0 || th.Stats().Pruned != 319 {
			t.Errorf("%d rows after a day, %d pruned; want 0, 319", n, th.Stats().Pruned)
		}
		stop()
		running.Wait()
		if log.Len() > 0 {
			t.Errorf("logged: %s", &log)
		}
	})
}
