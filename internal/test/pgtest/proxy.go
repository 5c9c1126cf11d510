package pgtest

import (
	"net"
	"net/url"
	"sync"
	"testing"
)

// Mode is the treatment of present and new connections of a [Proxy].
type Mode int

const (
	Pass     Mode = iota
	Stall         // accept data and pass nothing on, in either direction
	HalfOpen      // pass on requests of the store, and none of the answers
	Reset         // reset the connections
)

// Proxy is a network between a store and its database.
type Proxy struct {
	URL string

	upstream string
	mu       sync.Mutex
	changed  *sync.Cond
	mode     Mode
	answers  int // that pass before the mode becomes Reset; 0: no such end
	conns    map[*net.TCPConn]bool
}

// NewProxy returns a proxy to a database that runs until the test ends.
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

// Set changes the mode.
func (p *Proxy) Set(m Mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers = 0
	p.set(m)
}

// ResetAfter sets the mode Pass, and Reset after some answers of the database.
func (p *Proxy) ResetAfter(answers int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(Pass)
	p.answers = answers
}

// Mode returns the mode.
func (p *Proxy) Mode() Mode {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode
}

func (p *Proxy) set(m Mode) {
	p.mode = m
	p.changed.Broadcast()
	if m == Reset {
		for c := range p.conns {
			c.SetLinger(0)
			c.Close()
		}
	}
}

// passes waits for a mode in which data, or an answer, may pass.
func (p *Proxy) passes(answer bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.mode == Stall || p.mode == HalfOpen && answer {
		p.changed.Wait()
	}
	if answer && p.answers > 0 {
		if p.answers--; p.answers == 0 {
			p.set(Reset)
		}
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
		if !p.passes(answers) || err != nil { // the end of a connection is not passed on either while it stalls
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
