package keys_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signet/jwt"
	"signet/keys"
)

var epoch = time.Unix(1_800_000_000, 0).Truncate(time.Hour)

// at checks the state at minute m of a schedule with periods of an hour, so with a max-age
// of 15 minutes.
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

// After a long stop the last key goes on until a new one is known everywhere.
func TestScheduleLongStop(t *testing.T) {
	s := keys.NewSimulation(time.Hour, 5*time.Minute)
	const a, b = "key500000", "key500001"
	at(t, s, 0, a, []string{a, b}, []string{a, b})
	at(t, s, 600, b, []string{b, "key500010", "key500011"}, []string{b, "key500010", "key500011"})
	at(t, s, 629, b, []string{b, "key500010", "key500011"}, []string{b, "key500010", "key500011"})
	at(t, s, 630, "key500010", []string{"key500010", "key500011"}, []string{b, "key500010", "key500011"})
	at(t, s, 660, "key500011", []string{"key500011", "key500012"}, []string{"key500010", "key500011", "key500012"})
}

// While no key can be made, the newest key goes on and stays published.
func TestScheduleOutage(t *testing.T) {
	s := keys.NewSimulation(time.Hour, 5*time.Minute)
	const b = "key500001"
	s.Update(epoch)
	v := s.Read() // the rows that the replica knows from now on
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

// A replica whose clock is behind makes no key that would be older than the signing one,
// and signs with the successor if the older private half is erased.
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

// With another rotation periods have other numbers, but the order of keys is that of
// time.
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

// A key that is brought forward signs as soon as all caches know it, another key takes its
// place, and a second call changes nothing.
func TestScheduleRotate(t *testing.T) {
	s := keys.NewSimulation(time.Hour, 5*time.Minute)
	const a, b, c, d = "key500000", "key500001", "key500001a", "key500002"
	s.Update(epoch)
	minute := func(m int) time.Time { return epoch.Add(time.Duration(m) * time.Minute) }
	for _, m := range []int{10, 11} {
		if id, signs, err := s.Rotate(minute(m)); err != nil || id != b || !signs.Equal(minute(30)) {
			t.Errorf("minute %d: %s signs from %v (%v), want %s from minute 30", m, id, signs, err, b)
		}
	}
	at(t, s, 12, a, []string{a, b, c}, []string{a, b, c})
	at(t, s, 29, a, []string{a, b, c}, []string{a, b, c})
	at(t, s, 30, b, []string{b, c}, []string{a, b, c})
	at(t, s, 36, b, []string{b, c}, []string{b, c})
	at(t, s, 60, c, []string{c, d}, []string{b, c, d})
	// The key is known already: it signs when every replica has read its new time.
	if id, signs, err := s.Rotate(minute(95)); err != nil || id != d || !signs.Equal(minute(95).Add(10*time.Second)) {
		t.Errorf("%s signs from %v (%v)", id, signs, err)
	}
	at(t, s, 96, d, []string{d, "key500002a"}, []string{c, d, "key500002a"})
}

// A withdrawn key is gone at once, a published key signs, and another key follows it.
func TestScheduleWithdraw(t *testing.T) {
	const a, b, c = "key500000", "key500001", "key500002"
	prepared := func() *keys.Simulation {
		s := keys.NewSimulation(time.Hour, 5*time.Minute)
		s.Update(epoch)
		at(t, s, 60, b, []string{b, c}, []string{a, b, c})
		return s
	}
	for _, tc := range []struct {
		name, kid, signs   string
		private, published []string
	}{
		{"the signing one", b, c, []string{c, "key500002a"}, []string{a, c, "key500002a"}},
		{"the next one", c, b, []string{b, "key500002a"}, []string{a, b, "key500002a"}},
		{"a past one", a, b, []string{b, c}, []string{b, c}},
	} {
		s := prepared()
		signs, err := s.Withdraw(tc.kid, epoch.Add(62*time.Minute))
		if err != nil || signs != tc.signs {
			t.Errorf("%s: %s signs (%v), want %s", tc.name, signs, err, tc.signs)
		}
		if got := s.Signing(s.Read(), epoch.Add(62*time.Minute)); got != tc.signs {
			t.Errorf("%s: with the remaining rows %s signs, want %s", tc.name, got, tc.signs)
		}
		at(t, s, 62, tc.signs, tc.private, tc.published)
		at(t, s, 89, tc.signs, tc.private, s.Published(s.Read(), epoch.Add(89*time.Minute)))
	}
	s := prepared()
	if _, err := s.Withdraw(b, epoch.Add(62*time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Withdraw(c, epoch.Add(62*time.Minute)); !errors.Is(err, keys.ErrOnlyKey) {
		t.Errorf("the last one: %v, want ErrOnlyKey", err)
	}
	// If the predecessor still has its private half, it does not sign again.
	s = keys.NewSimulation(time.Hour, 5*time.Minute)
	s.Update(epoch)
	s.Update(epoch.Add(40 * time.Minute))
	if id, _, err := s.Rotate(epoch.Add(40 * time.Minute)); err != nil || id != b {
		t.Fatal(id, err)
	}
	s.Update(epoch.Add(40 * time.Minute)) // no replica has erased a's private half when b signs
	if signs, err := s.Withdraw(b, epoch.Add(41*time.Minute)); err != nil || signs != "key500001a" || !slices.Equal(s.Read().Private(), []string{"key500001a"}) {
		t.Errorf("%s signs (%v), private halves %v", signs, err, s.Read().Private())
	}
}

// Several replicas have clocks that differ, poll at their own times and lose the store now
// and then, while an operator rotates and withdraws keys at any time. A key that signs has
// been published for long enough, and stays published while its tokens live. There is a
// signing key at any time, and it is never a withdrawn one.
func TestScheduleAlwaysHasAPublishedSigningKey_INV9(t *testing.T) {
	rotated, withdrawn := 0, 0
	for seed := range uint64(12) {
		m := newModel(t, seed)
		for m.at < 20*m.rotation {
			m.operate()
			for i := range m.replicas {
				m.step(i)
			}
			for i := range m.replicas {
				m.checkPublished(i)
			}
			m.at += time.Second
		}
		rotated += m.rotated
		withdrawn += len(m.withdrawn)
	}
	if rotated < 50 || withdrawn < 20 {
		t.Errorf("%d rotations and %d withdrawals, want 50 and 20: the test tests too little", rotated, withdrawn)
	}
}

// model is a store, its replicas, and the facts by which they are judged.
type model struct {
	t        *testing.T
	seed     uint64
	rng      *rand.Rand
	s        *keys.Simulation
	rotation time.Duration
	ttl      time.Duration
	at       time.Duration // true time
	replicas []replica

	made      map[string]time.Duration // when a key could be read
	needed    map[string]time.Duration // until when its tokens live
	early     map[string]bool          // keys that may sign before they are known: the first, and successors of withdrawn keys
	withdrawn map[string]bool
	rotated   int
}

type replica struct {
	skew, next, back time.Duration // back: the end of an outage
	view             keys.View
}

func newModel(t *testing.T, seed uint64) *model {
	const replicas = 3
	m := &model{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), rotation: time.Hour, ttl: 5 * time.Minute, replicas: make([]replica, replicas),
		made: map[string]time.Duration{}, needed: map[string]time.Duration{}, early: map[string]bool{}, withdrawn: map[string]bool{},
	}
	m.s = keys.NewSimulation(m.rotation, m.ttl)
	for i := range m.replicas {
		m.replicas[i].skew = time.Duration(m.rng.Int64N(int64(20*time.Second))) - 10*time.Second
	}
	return m
}

func (m *model) now(skew time.Duration) time.Time { return epoch.Add(m.at + skew) }

// operate is the operator, whose clock is right. With half of the seeds the operator does
// nothing.
func (m *model) operate() {
	if m.seed%2 == 0 || m.at < time.Minute {
		return
	}
	if m.rng.IntN(2000) == 0 {
		if _, _, err := m.s.Rotate(m.now(0)); err == nil {
			m.rotated++
		}
	}
	if m.rng.IntN(6000) != 0 {
		return
	}
	view := m.s.Read()
	published := m.s.Published(view, m.now(0))
	kid := published[m.rng.IntN(len(published))]
	signed := m.s.Signing(view, m.now(0))
	if _, err := m.s.Withdraw(kid, m.now(0)); err != nil {
		return
	}
	m.withdrawn[kid] = true
	delete(m.needed, kid)
	if kid == signed { // the successors have to sign, even if they are withdrawn again before the next key is known
		for _, id := range m.s.Read().Private() {
			m.early[id] = true
		}
	}
}

// step is one second of a replica: it polls if it is time, and signs.
func (m *model) step(i int) {
	r, now := &m.replicas[i], m.now(m.replicas[i].skew)
	if r.back < m.at && m.rng.IntN(20_000) == 0 {
		r.back = m.at + time.Duration(m.rng.Int64N(int64(3*m.rotation)))
	}
	if m.at >= r.next && m.at >= r.back {
		for _, id := range m.s.Update(now) {
			m.made[id] = m.at
			m.early[id] = m.early[id] || len(m.made) == 1
		}
		r.view, r.next = m.s.Read(), m.at+5*time.Second
		if id := m.s.Signing(r.view, now); m.withdrawn[id] {
			m.t.Fatalf("seed %d, %v: %s signs, although it was withdrawn", m.seed, m.at, id)
		}
	}
	if len(r.view) == 0 {
		return
	}
	id := m.s.Signing(r.view, now)
	if id == "" {
		m.t.Fatalf("seed %d, %v: no key signs", m.seed, m.at)
	}
	// Clocks 20 s apart and polls of 5 s are what the second max-age is for.
	if since := m.at - m.made[id]; !m.early[id] && since < m.s.MaxAge()+25*time.Second {
		m.t.Fatalf("seed %d, %v: %s signs %v after it was made", m.seed, m.at, id, since)
	}
	if r.back <= m.at && !m.withdrawn[id] { // a replica that is cut off from the store signs with the keys that it has
		m.needed[id] = max(m.needed[id], m.at+m.ttl)
	}
}

// checkPublished expects a replica that has just polled to publish every needed key.
func (m *model) checkPublished(i int) {
	r := &m.replicas[i]
	if r.back > m.at || len(r.view) == 0 || m.at < r.next-4*time.Second {
		return
	}
	published := m.s.Published(r.view, m.now(r.skew))
	for id, until := range m.needed {
		// The verifier's leeway is for clocks that differ.
		if m.at > m.made[id]+10*time.Second && m.at < until && !slices.Contains(published, id) {
			m.t.Fatalf("seed %d, %v: %s is needed until %v, published are %v", m.seed, m.at, id, until, published)
		}
	}
}

func TestScheduleKeepsKeysForTheLeeway(t *testing.T) {
	s := keys.NewSimulation(time.Hour, 5*time.Minute)
	s.Update(epoch)
	s.Update(epoch.Add(time.Hour))
	end := epoch.Add(time.Hour + 5*time.Minute + jwt.Leeway)
	if got := s.Published(s.Read(), end.Add(-time.Millisecond)); !slices.Contains(got, "key500000") {
		t.Errorf("retired too early: %v", got)
	}
	if got := s.Published(s.Read(), end); slices.Contains(got, "key500000") {
		t.Errorf("still published: %v", got)
	}
}
