package server_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"

	"signet/server"
)

// conn is a connection of an address.
type conn struct {
	net.Conn
	address string
	closed  bool
}

func (c *conn) Close() error { c.closed = true; return nil }

func (c *conn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(c.address), 1000))
}

// hall is a server's open connections.
type hall struct {
	change func(net.Conn, http.ConnState)
	count  func() int
}

func newHall(most int) hall {
	change, count := server.Connections(most, netip.MustParsePrefix("10.0.0.0/8"))
	return hall{change, count}
}

// open opens a connection that sends a request at once if it is busy.
func (h hall) open(address string, busy bool) *conn {
	c := &conn{address: address}
	h.change(c, http.StateNew)
	if busy && !c.closed {
		h.change(c, http.StateActive)
	}
	return c
}

func closed(cs []*conn) (n int) {
	for _, c := range cs {
		if c.closed {
			n++
		}
	}
	return n
}

// One address, or one network of IPv6, has a quarter of the connections at most. Its own idle
// ones go first, and no other address loses one.
func TestOneAddressCannotHaveAllConnections_K03(t *testing.T) {
	for name, address := range map[string]func(int) string{
		"IPv4":         func(int) string { return "192.0.2.1" },
		"IPv6 network": func(i int) string { return fmt.Sprintf("2001:db8::%x", i+1) },
		"IPv4 as IPv6": func(i int) string { return []string{"192.0.2.1", "::ffff:192.0.2.1"}[i%2] },
	} {
		for _, busy := range []bool{true, false} {
			h := newHall(40)
			others := []*conn{h.open("198.51.100.1", false), h.open("2001:db8:0:1::1", true)}
			var all []*conn
			for i := range 100 {
				all = append(all, h.open(address(i), busy))
			}
			if got := closed(all); got != 90 || h.count() != 12 {
				t.Errorf("%s, busy: %t: %d of 100 connections were closed, %d are open", name, busy, got, h.count())
			}
			if all[0].closed == busy || all[99].closed != busy {
				t.Errorf("%s, busy: %t: the first was closed: %t, the last: %t", name, busy, all[0].closed, all[99].closed)
			}
			if closed(others) != 0 {
				t.Errorf("%s, busy: %t: another address has lost a connection", name, busy)
			}
		}
	}
}

// A trusted proxy may have all connections, and its idle ones close after those of others.
func TestTrustedProxyMayHaveAllConnections_K03(t *testing.T) {
	h := newHall(40)
	var all []*conn
	for range 40 {
		all = append(all, h.open("10.1.2.3", false))
	}
	if closed(all) != 0 || h.count() != 40 {
		t.Errorf("%d of 40 were closed", closed(all))
	}
	if c := h.open("192.0.2.1", false); !c.closed || closed(all) != 0 {
		t.Errorf("a connection that waits, like those of the proxy: closed %t, and %d of the proxy's", c.closed, closed(all))
	}
	h.change(all[0], http.StateActive)
	if c := h.open("10.1.2.3", false); c.closed || !all[1].closed || all[0].closed {
		t.Error("the proxy's idle connection did not make room for another of its own")
	}
}

// At the bound, the connection that is idle for longest makes room. If none is idle, the new
// one is closed. A closed one is counted once.
func TestIdleConnectionsMakeRoom_K03(t *testing.T) {
	h := newHall(4) // one of each address
	var all []*conn
	for i := range 4 {
		all = append(all, h.open(fmt.Sprintf("192.0.2.%d", i), true))
	}
	if c := h.open("192.0.2.9", false); !c.closed || closed(all) != 0 {
		t.Error("a new connection was let in although all were busy")
	}
	h.change(all[2], http.StateIdle)
	h.change(all[0], http.StateIdle)
	for i, out := range []*conn{all[2], all[0]} {
		c := h.open(fmt.Sprintf("192.0.2.%d", 10+i), true)
		if c.closed || !out.closed {
			t.Errorf("new connection %d is closed: %t; the one that was idle longest is closed: %t", i+1, c.closed, out.closed)
		}
		h.change(out, http.StateClosed)
		h.change(out, http.StateClosed)
		if h.count() != 4 {
			t.Errorf("%d are counted, want 4", h.count())
		}
	}
	h.change(all[1], http.StateHijacked)
	h.change(all[3], http.StateClosed)
	if h.count() != 2 {
		t.Errorf("%d are counted, want 2", h.count())
	}
}

// recorder is a connection of an address that says whether it was written to and closed.
type recorder struct {
	net.Conn
	address         net.Addr
	written, closed atomic.Bool
}

func (r *recorder) RemoteAddr() net.Addr        { return r.address }
func (r *recorder) Write(b []byte) (int, error) { r.written.Store(true); return r.Conn.Write(b) }
func (r *recorder) Close() error                { r.closed.Store(true); return r.Conn.Close() }

// A TLS connection makes room without a last message: its caller may not read, and then
// all other connections would wait for it.
func TestTLSConnectionMakesRoomWithoutAMessage_K03(t *testing.T) {
	file, key := selfSigned(t)
	pair, err := tls.LoadX509KeyPair(file, key)
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	defer far.Close()
	below := &recorder{Conn: near, address: (&conn{address: "192.0.2.9"}).RemoteAddr()}
	go tls.Client(far, &tls.Config{InsecureSkipVerify: true}).Handshake()
	secured := tls.Server(below, &tls.Config{Certificates: []tls.Certificate{pair}, SessionTicketsDisabled: true})
	if err := secured.Handshake(); err != nil {
		t.Fatal(err)
	}
	below.written.Store(false)
	h := newHall(4)
	h.change(secured, http.StateNew)
	for i := range 4 {
		h.open(fmt.Sprintf("192.0.2.%d", i), true)
	}
	if !below.closed.Load() || below.written.Load() || h.count() != 4 {
		t.Errorf("closed: %t, written to: %t, %d open; want a connection that closed at once", below.closed.Load(), below.written.Load(), h.count())
	}
}
