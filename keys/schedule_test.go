package keys_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signet/jwt"
	"signet/keys"
)

var epoch = time.Unix(1_800_000_000, 0).Truncate(time.Hour)

// at checks what is so at minute m of a schedule with periods of an hour, so with a
// max-age of 15 minutes.
func at(t *testing.T, s *keys.Simulation, m int, signing string, private, published []string) {
	t.Helper()
	now := epoch.Add(time.Duration(m) * time.Minute)
	s.Update(now)
	v := s.Read()
	if got := s.Signing(v, now); got != signing {
		t.Errorf("minute %d: %s signs, want %s", m, got, signing)
	}
	if diff := cmp.Diff(private, v.Private()); diff != "" {
		t.Errorf("minute %d: private halves (-want +got):\n%s", m, diff)
	}
	if diff := cmp.Diff(published, s.Published(v, now)); diff != "" {
		t.Errorf("minute %d: published (-want +got):\n%s", m, diff)
	}
}

func TestScheduleFromAnEmptyStore(t *testing.T) {
	s := keys.NewSimulation(time.Hour, 5*time.Minute)
	const a, b, c, d = "key500000", "key500001", "key500002", "key500003"
	at(t, s, 10, a, []string{a, b}, []string{a, b}) // the first signs at once
	at(t, s, 59, a, []string{a, b}, []string{a, b})
	at(t, s, 60, b, []string{b, c}, []string{a, b, c})
	at(t, s, 65, b, []string{b, c}, []string{a, b, c})
	at(t, s, 66, b, []string{b, c}, []string{b, c}) // TTL and leeway later
	at(t, s, 119, b, []string{b, c}, []string{b, c})
	at(t, s, 120, c, []string{c, d}, []string{b, c, d})
}

// The second key of a store that was made late in a period has to wait.
func TestScheduleNewStoreLateInItsPeriod(t *testing.T) {
	s := keys.NewSimulation(time.Hour, 5*time.Minute)
	const a, b, c = "key500000", "key500001", "key500002"
	at(t, s, 55, a, []string{a, b}, []string{a, b})
	at(t, s, 84, a, []string{a, b, c}, []string{a, b, c})
	at(t, s, 85, b, []string{b, c}, []string{a, b, c})
	at(t, s, 91, b, []string{b, c}, []string{b, c})
}

// After a long stop the last key goes on until a fresh one is known everywhere.
func TestScheduleLongStop(t *testing.T) {
	s := keys.NewSimulation(time.Hour, 5*time.Minute)
	const a, b = "key500000", "key500001"
	at(t, s, 0, a, []string{a, b}, []string{a, b})
	at(t, s, 600, b, []string{b, "key500010", "key500011"}, []string{b, "key500010", "key500011"})
	at(t, s, 629, b, []string{b, "key500010", "key500011"}, []string{b, "key500010", "key500011"})
	at(t, s, 630, "key500010", []string{"key500010", "key500011"}, []string{b, "key500010", "key500011"})
	at(t, s, 660, "key500011", []string{"key500011", "key500012"}, []string{"key500010", "key500011", "key500012"})
}

// While nothing can be made, the newest key goes on and stays published.
func TestScheduleOutage(t *testing.T) {
	s := keys.NewSimulation(time.Hour, 5*time.Minute)
	const b = "key500001"
	s.Update(epoch)
	v := s.Read() // all that a replica knows from now on
	for m := 60; m < 6000; m += 7 {
		now := epoch.Add(time.Duration(m) * time.Minute)
		if got := s.Signing(v, now); got != b {
			t.Fatalf("minute %d: %s signs", m, got)
		}
		if got := s.Published(v, now); !slices.Contains(got, b) {
			t.Fatalf("minute %d: %s published", m, got)
		}
	}
}

// A replica whose clock is behind makes no key that would be older than the one
// that signs, and takes the successor when the older private half is gone.
func TestScheduleClockBehind(t *testing.T) {
	s := keys.NewSimulation(time.Hour, 5*time.Minute)
	s.Update(epoch.Add(time.Minute))
	if created := s.Update(epoch.Add(-20 * time.Minute)); created != nil {
		t.Errorf("made %v", created)
	}
	s.Update(epoch.Add(61 * time.Minute))
	if got := s.Signing(s.Read(), epoch.Add(50*time.Minute)); got != "key500001" {
		t.Errorf("%s signs", got)
	}
}

// Another rotation numbers periods otherwise; the order of keys is that of time.
func TestScheduleRotationChanges(t *testing.T) {
	for _, rotation := range []time.Duration{30 * time.Minute, 2 * time.Hour, 24 * time.Hour} {
		s := keys.NewSimulation(time.Hour, 5*time.Minute)
		s.Update(epoch)
		changed := s.With(rotation)
		now := epoch.Add(time.Minute)
		for range 500 {
			before := changed.Signing(changed.Read(), now)
			created := changed.Update(now)
			if after := changed.Signing(changed.Read(), now); slices.Contains(created, after) {
				t.Errorf("%v: %s signs as soon as it is made, after %s", rotation, after, before)
			}
			now = now.Add(rotation / 50)
		}
		if last := changed.Signing(changed.Read(), now); last == "key500000" || last == "key500001" {
			t.Errorf("%v: still %s", rotation, last)
		}
	}
}

// INV9: several replicas with clocks that differ, that poll at their own times and
// lose the store for a while. Whatever key signs was published for long enough, and
// stays so for as long as its tokens live; there is a key at any time.
func TestINV9_ScheduleSimulation(t *testing.T) {
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 1))
		const rotation, ttl, replicas = time.Hour, 5 * time.Minute, 3
		s := keys.NewSimulation(rotation, ttl)
		type replica struct {
			skew, next, back time.Duration // back: the end of an outage
			view             keys.View
		}
		rs := make([]replica, replicas)
		for i := range rs {
			rs[i].skew = time.Duration(rng.Int64N(int64(20*time.Second))) - 10*time.Second
		}
		made := map[string]time.Duration{}   // true time at which a key could be read
		needed := map[string]time.Duration{} // true time until which its tokens live
		var first string
		for at := time.Duration(0); at < 20*rotation; at += time.Second {
			for i := range rs {
				r := &rs[i]
				now := epoch.Add(at + r.skew)
				if r.back < at && rng.IntN(20_000) == 0 {
					r.back = at + time.Duration(rng.Int64N(int64(3*rotation)))
				}
				if at >= r.next && at >= r.back {
					for _, id := range s.Update(now) {
						made[id] = at
						if first == "" {
							first = id
						}
					}
					r.view, r.next = s.Read(), at+5*time.Second
				}
				if len(r.view) == 0 {
					continue
				}
				id := s.Signing(r.view, now)
				if id == "" {
					t.Fatalf("seed %d, %v: nothing signs", seed, at)
				}
				// Clocks 20 s apart and polls of 5 s are what the second max-age is for.
				if since := at - made[id]; id != first && since < s.MaxAge()+25*time.Second {
					t.Fatalf("seed %d, %v: %s signs %v after it was made", seed, at, id, since)
				}
				if r.back <= at { // one cut off from the store signs with what it has: no promise to others
					needed[id] = max(needed[id], at+ttl)
				}
			}
			for i := range rs {
				if rs[i].back > at || len(rs[i].view) == 0 {
					continue
				}
				published := s.Published(rs[i].view, epoch.Add(at+rs[i].skew))
				for id, until := range needed {
					// The verifier's leeway is for clocks that differ.
					if at > made[id]+10*time.Second && at < until && at >= rs[i].next-4*time.Second && !slices.Contains(published, id) {
						t.Fatalf("seed %d, %v: %s is needed until %v, published are %v", seed, at, id, until, published)
					}
				}
			}
		}
	}
}

func TestScheduleKeepsKeysForTheLeeway(t *testing.T) {
	s := keys.NewSimulation(time.Hour, 5*time.Minute)
	s.Update(epoch)
	s.Update(epoch.Add(time.Hour))
	end := epoch.Add(time.Hour + 5*time.Minute + jwt.Leeway)
	if got := s.Published(s.Read(), end.Add(-time.Millisecond)); !slices.Contains(got, "key500000") {
		t.Errorf("gone early: %v", got)
	}
	if got := s.Published(s.Read(), end); slices.Contains(got, "key500000") {
		t.Errorf("still there: %v", got)
	}
}
