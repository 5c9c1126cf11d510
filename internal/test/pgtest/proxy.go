package pgtest

import (
	"net"
	"net/url"
	"sync"
	"testing"
)

// Mode is what a [Proxy] does to its connections, and to new ones.
type Mode int

const (
	Pass     Mode = iota
	Stall         // take what comes, pass nothing on, and say nothing
	HalfOpen      // pass on what the store says, and none of the answers
	Reset         // break them off
)

// Proxy stands between a store and its database, as a network does.
type Proxy struct {
	URL string

	upstream string
	mu       sync.Mutex
	changed  *sync.Cond
	mode     Mode
	conns    map[*net.TCPConn]bool
}

// NewProxy leads to the database of url until the test ends.
func NewProxy(t testing.TB, to string) *Proxy {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{upstream: u.Host, conns: map[*net.TCPConn]bool{}}
	p.changed = sync.NewCond(&p.mu)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u.Host = l.Addr().String()
	p.URL = u.String()
	t.Cleanup(func() {
		l.Close()
		p.Set(Reset)
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c.(*net.TCPConn))
		}
	}()
	return p
}

// Set changes what happens from now on.
func (p *Proxy) Set(m Mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = m
	p.changed.Broadcast()
	if m == Reset {
		for c := range p.conns {
			c.SetLinger(0)
			c.Close()
		}
	}
}

// passes waits for the mode in which something, or an answer, may go on.
func (p *Proxy) passes(answer bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.mode == Stall || p.mode == HalfOpen && answer {
		p.changed.Wait()
	}
	return p.mode != Reset
}

func (p *Proxy) serve(c *net.TCPConn) {
	p.add(c)
	defer p.remove(c)
	if !p.passes(false) {
		c.SetLinger(0)
		return
	}
	up, err := net.Dial("tcp", p.upstream)
	if err != nil {
		return
	}
	d := up.(*net.TCPConn)
	p.add(d)
	defer p.remove(d)
	var both sync.WaitGroup
	both.Go(func() { p.copy(d, c, false) })
	both.Go(func() { p.copy(c, d, true) })
	both.Wait()
}

func (p *Proxy) copy(to, from *net.TCPConn, answers bool) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if !p.passes(answers) || err != nil { // also an end is not passed on while it stalls
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (p *Proxy) add(c *net.TCPConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = true
}

func (p *Proxy) remove(c *net.TCPConn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}
