package backend

import (
	"net/url"
	"slices"
	"time"

	"signet/internal/gatewayconfig"
)

// instance is one process or address of a server.
type instance struct {
	conn    conn
	breaker *breaker
	address string
	weight  int

	// These belong to Backend.mu.
	turn    int    // how far it is behind its share of the messages, in weights
	score   int    // of the strategy health: 0 to maxScore
	status  string // as in InstanceState
	problem string
	checked bool // the status is error because of a check
}

// Scores of the strategy health: an instance gets messages in proportion to its score, and some
// even at 0, by which it can recover.
const (
	maxScore   = 100
	scoreGood  = 5
	scoreBad   = -20
	scoreCheck = 20 // for a check that went well
)

func (b *Backend) newInstance(i gatewayconfig.Instance) (*instance, error) {
	c, err := newConn(b.o, i)
	if err != nil {
		return nil, err
	}
	n := &instance{conn: c, address: address(i), weight: max(1, i.Weight), score: maxScore}
	n.breaker = newBreaker(b.o.Routing, func(to string) {
		b.o.Log.Warn("circuit breaker of a server", "server", b.o.Server.ID, "instance", n.address, "state", to)
	})
	return n, nil
}

// address is what logs and operators see of an instance.
func address(i gatewayconfig.Instance) string {
	if len(i.Command) > 0 {
		return i.Command[0]
	}
	u, err := url.Parse(i.URL)
	if err != nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// share is the part of the messages that an instance gets. The caller holds mu.
func (b *Backend) share(n *instance) int {
	switch b.o.Routing.Strategy {
	case "weighted":
		return n.weight
	case "health":
		return n.score + 1
	}
	return 1
}

// message is one message on its way, with the instances that it has been sent to.
type message struct {
	b    *Backend
	uses []use
}

type use struct {
	*instance
	permit  permit
	verdict verdict // of the last time
}

// take returns the use of an instance whose turn it is: one that is new to the message, or else the
// one whose use is longest ago. The error is that of open circuit breakers.
func (m *message) take() (*use, error) {
	fresh := m.fresh()
	for len(fresh) > 0 {
		n := m.b.next(fresh)
		if p, ok := n.breaker.acquire(); ok {
			m.uses = append(m.uses, use{instance: n, permit: p})
			return &m.uses[len(m.uses)-1], nil
		}
		fresh = without(fresh, n)
	}
	if len(m.uses) == 0 {
		return nil, m.b.open()
	}
	m.uses = append(m.uses[1:], m.uses[0])
	return &m.uses[len(m.uses)-1], nil
}

// fresh are the instances that the message has not been sent to.
func (m *message) fresh() []*instance {
	fresh := m.b.instances
	for _, u := range m.uses {
		fresh = without(fresh, u.instance)
	}
	return fresh
}

func without(list []*instance, n *instance) (rest []*instance) {
	for _, other := range list {
		if other != n {
			rest = append(rest, other)
		}
	}
	return rest
}

// done gives the verdicts of a message.
func (m *message) done() {
	m.b.mu.Lock()
	for _, u := range m.uses {
		u.rate(u.verdict, scoreGood)
	}
	m.b.mu.Unlock()
	for _, u := range m.uses {
		u.breaker.done(u.permit, u.verdict)
	}
}

// rate changes the score of an instance. The caller holds Backend.mu.
func (n *instance) rate(v verdict, plus int) {
	switch v {
	case good:
		n.score = min(maxScore, n.score+plus)
	case bad:
		n.score = max(0, n.score+scoreBad)
	}
}

// next returns the instance of list whose turn it is. Those that are down only have a turn if all
// are. Over time each gets its share, evenly mixed.
func (b *Backend) next(list []*instance) *instance {
	if len(list) == 1 {
		return list[0]
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	allDown := !slices.ContainsFunc(list, func(n *instance) bool { return n.status != statusError })
	var best *instance
	total := 0
	for _, n := range list {
		if n.status == statusError && !allDown {
			continue
		}
		share := b.share(n)
		n.turn += share
		total += share
		if best == nil || n.turn > best.turn {
			best = n
		}
	}
	best.turn -= total
	return best
}

// open is the error of a server of which every instance is kept away from.
func (b *Backend) open() error {
	e := &Error{Server: b.o.Server.ID, Kind: Open, What: "circuit open: it has failed too often"}
	for _, n := range b.instances {
		state, wait := n.breaker.state()
		if state != "open" || wait <= 0 {
			wait = time.Second // another message tries it out
		}
		if e.RetryAfter == 0 || wait < e.RetryAfter {
			e.RetryAfter = wait
		}
	}
	return e
}
