package admission

import (
	"context"
	"sync"
	"time"
)

// Caller says whose request it is. Requests of one address, and requests for one account,
// share their turns. An empty field means that it is not known, and is shared with no
// other request.
type Caller struct {
	Address, Account string
}

// turnPatience is how long a request waits for its turn. It is longer than the wait for
// other slots, because the work in the slot takes long.
const turnPatience = 2 * time.Second

// turns gives the slots of a class to addresses and accounts in turn, so that none of them
// can keep the slots from the others, however many requests it sends. The next slot goes to
// the request whose address and account had their turns longest ago. If all places in the
// queue are taken, a request that comes takes the place of one of the largest crowd: of the
// address or account with the most requests there.
type turns struct {
	slots, places int // how many requests run, and how many wait

	mu      sync.Mutex
	running int
	waiting []*turn // in the order in which they came
	parties map[string]*party
	clock   uint64 // of turns: two ticks each, because a newcomer comes before the latest turn and after the one before
}

// party is an address or an account with requests that wait or run.
type party struct {
	key      string
	latest   uint64 // time of its latest turn, or the time at which it came
	waiting  int
	requests int
}

// turn is a request that waits or runs.
type turn struct {
	address, account *party
	result           chan error // nil for a slot, ErrFull for a refusal
}

func newTurns(slots, places int) *turns {
	return &turns{slots: slots, places: places, parties: map[string]*party{}}
}

// order is when t had its turn, by the later one of its address and its account, and by the
// other one. The smallest order is next.
func (t *turn) order() (later, earlier uint64) {
	return max(t.address.latest, t.account.latest), min(t.address.latest, t.account.latest)
}

// crowd is how many requests wait with t, of its address or its account, whichever are
// more, and of the other.
func (t *turn) crowd() (most, least int) {
	return max(t.address.waiting, t.account.waiting), min(t.address.waiting, t.account.waiting)
}

// enter returns when it is the caller's turn, or fails with ErrFull.
func (q *turns) enter(ctx context.Context, caller Caller) (*turn, error) {
	t := q.come(caller)
	late := time.NewTimer(turnPatience)
	defer late.Stop()
	select {
	case err := <-t.result:
		return t, err
	case <-late.C:
	case <-ctx.Done():
	}
	if q.abandon(t) {
		return nil, ErrFull
	}
	return t, <-t.result // it came at the same moment
}

// come gives a new request a slot, a place in the queue, or a refusal.
func (q *turns) come(caller Caller) *turn {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := &turn{address: q.party("address ", caller.Address), account: q.party("account ", caller.Account), result: make(chan error, 1)}
	if q.running < q.slots {
		q.grant(t)
		return t
	}
	q.waiting = append(q.waiting, t)
	t.address.waiting++
	t.account.waiting++
	if len(q.waiting) > q.places {
		out := q.largestCrowd()
		q.unqueue(out)
		q.forget(out)
		out.result <- ErrFull
	}
	return t
}

func (q *turns) party(kind, name string) *party {
	p := &party{key: kind + name, latest: max(q.clock, 1) - 1}
	if name != "" {
		if known, ok := q.parties[p.key]; ok {
			p = known
		} else {
			q.parties[p.key] = p
		}
	}
	p.requests++
	return p
}

func (q *turns) grant(t *turn) {
	q.running++
	q.clock += 2
	t.address.latest, t.account.latest = q.clock, q.clock
	t.result <- nil
}

// largestCrowd returns the last request of the largest crowd.
func (q *turns) largestCrowd() (out *turn) {
	for _, t := range q.waiting {
		if out == nil {
			out = t
			continue
		}
		most, least := t.crowd()
		outMost, outLeast := out.crowd()
		if most > outMost || most == outMost && least >= outLeast {
			out = t
		}
	}
	return out
}

// next returns the request whose turn it is, or nil.
func (q *turns) next() (first *turn) {
	for _, t := range q.waiting {
		if first == nil {
			first = t
			continue
		}
		later, earlier := t.order()
		firstLater, firstEarlier := first.order()
		if later < firstLater || later == firstLater && earlier < firstEarlier {
			first = t
		}
	}
	return first
}

// unqueue removes t from the queue, and reports whether it was there.
func (q *turns) unqueue(t *turn) bool {
	for i, other := range q.waiting {
		if other == t {
			q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
			t.address.waiting--
			t.account.waiting--
			return true
		}
	}
	return false
}

// forget ends t.
func (q *turns) forget(t *turn) {
	for _, p := range []*party{t.address, t.account} {
		if p.requests--; p.requests == 0 {
			delete(q.parties, p.key)
		}
	}
}

// abandon reports whether t was still waiting, and ends it in that case.
func (q *turns) abandon(t *turn) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.unqueue(t) {
		return false
	}
	q.forget(t)
	return true
}

// leave passes the slot of t on.
func (q *turns) leave(t *turn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	q.forget(t)
	if following := q.next(); following != nil {
		q.unqueue(following)
		q.grant(following)
	}
}

// count returns how many requests run and wait.
func (q *turns) count() (running, waiting int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running, len(q.waiting)
}
