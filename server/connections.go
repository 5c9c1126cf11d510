package server

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"signet/internal/throttle"
)

// connections bounds how many connections are open, so that a flood of them takes a bounded
// number of descriptors and bytes, and no address can have them all. At a bound, the
// connection that has waited longest for a request makes room; if none waits, the new one is
// closed. Those that are answered stay, and slow ones end at their deadline.
type connections struct {
	most, share int                   // in all, and of one address
	shared      func(netip.Addr) bool // whether an address is that of a proxy, whose share is not bounded

	mu      sync.Mutex
	open    map[net.Conn]*connection
	callers map[string]*caller
	waiting list.List // of *connection, the one that has waited longest first
	proxies list.List // likewise, those of proxies, which go last: a request may be on its way
}

// connection is an open connection. While it waits for a request, it is in two lists.
type connection struct {
	net.Conn
	caller   *caller
	all, own *list.Element
}

// caller is an address with open connections.
type caller struct {
	network string
	proxy   bool
	open    int
	waiting list.List // of *connection
}

func newConnections(most int, shared func(netip.Addr) bool) *connections {
	return &connections{most: most, share: max(1, most/4), shared: shared, open: map[net.Conn]*connection{}, callers: map[string]*caller{}}
}

// changed is the hook of [http.Server.ConnState].
func (cs *connections) changed(c net.Conn, state http.ConnState) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if state == http.StateNew {
		cs.add(c)
		return
	}
	known, ok := cs.open[c]
	if !ok {
		return // it made room
	}
	cs.stopWaiting(known)
	switch state {
	case http.StateIdle:
		cs.wait(known)
	case http.StateClosed, http.StateHijacked:
		cs.remove(known)
	}
}

func (cs *connections) add(c net.Conn) {
	address, ok := parseHop(c.RemoteAddr().String())
	network := throttle.Network(address)
	from := cs.callers[network]
	if from == nil {
		from = &caller{network: network, proxy: !ok || cs.shared(address)}
		cs.callers[network] = from
	}
	added := &connection{Conn: c, caller: from}
	cs.open[c] = added
	from.open++
	cs.wait(added)
	switch {
	case from.open > cs.share && !from.proxy:
		cs.close(from.waiting.Front())
	case len(cs.open) > cs.most && cs.waiting.Len() > 0:
		cs.close(cs.waiting.Front())
	case len(cs.open) > cs.most:
		cs.close(cs.proxies.Front())
	}
}

// close ends a connection that waits. The new connection does, so there always is one.
func (cs *connections) close(waiting *list.Element) {
	c := waiting.Value.(*connection)
	cs.stopWaiting(c)
	cs.remove(c)
	if secured, ok := c.Conn.(*tls.Conn); ok {
		secured.NetConn().Close() // Close of a TLS connection writes an alert first, for up to 5 seconds
		return
	}
	c.Close()
}

func (cs *connections) remove(c *connection) {
	delete(cs.open, c.Conn)
	if c.caller.open--; c.caller.open == 0 {
		delete(cs.callers, c.caller.network)
	}
}

func (cs *connections) list(c *connection) *list.List {
	if c.caller.proxy {
		return &cs.proxies
	}
	return &cs.waiting
}

func (cs *connections) wait(c *connection) {
	c.all, c.own = cs.list(c).PushBack(c), c.caller.waiting.PushBack(c)
}

func (cs *connections) stopWaiting(c *connection) {
	if c.all != nil {
		cs.list(c).Remove(c.all)
		c.caller.waiting.Remove(c.own)
		c.all, c.own = nil, nil
	}
}

// count returns the number of open connections.
func (cs *connections) count() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.open)
}
