package fetch

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// names is a name server that this process asks. Each question for an address of a family takes
// the next list of answers, and the last one again.
type names struct {
	mu      sync.Mutex
	answers [][]netip.Addr
	asked   int
}

// resolveBy makes this process resolve all names by a name server on loopback.
func resolveBy(t *testing.T, n *names) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.serve(conn)
	}()
	t.Cleanup(func() {
		net.DefaultResolver = before
		conn.Close()
		<-done
	})
}

func (n *names) serve(conn net.PacketConn) {
	buffer := make([]byte, 1500)
	for {
		size, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buffer[:size]) != nil || len(m.Questions) != 1 {
			continue
		}
		m.Header = dnsmessage.Header{ID: m.Header.ID, Response: true, RecursionAvailable: true}
		m.Additionals = nil
		m.Answers = n.next(m.Questions[0])
		if packed, err := m.Pack(); err == nil {
			conn.WriteTo(packed, from)
		}
	}
}

func (n *names) next(q dnsmessage.Question) (all []dnsmessage.Resource) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if q.Type != dnsmessage.TypeA && q.Type != dnsmessage.TypeAAAA {
		return nil
	}
	list := n.answers[min(n.asked/2, len(n.answers)-1)] // both families of one look-up get one list
	n.asked++
	for _, addr := range list {
		head := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: dnsmessage.ClassINET}
		switch {
		case q.Type == dnsmessage.TypeA && addr.Is4():
			all = append(all, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: addr.As4()}})
		case q.Type == dnsmessage.TypeAAAA && addr.Is6():
			all = append(all, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
		}
	}
	return all
}

var errTested = errors.New("a public address, which the test does not connect to")

// judged makes a fetcher whose guard is asked as ever, and which connects nowhere. It returns
// the addresses that the guard let pass.
func judged(f *Fetcher) (allowed func() []string) {
	var mu sync.Mutex
	var passed []string
	dialer := &net.Dialer{Control: func(network, address string, c syscall.RawConn) error {
		if err := f.guard.Safe(network, address, c); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		passed = append(passed, address)
		return errTested
	}}
	f.direct.(*http.Transport).DialContext = dialer.DialContext
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(passed)
	}
}

// A name may lead to a public address when it is looked at, and to a private one when it is
// connected to. The address of each connection counts.
func TestNameThatChangesItsAddressIsJudgedAtEachConnection_I02(t *testing.T) {
	public, private := netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("10.0.0.1")
	resolveBy(t, &names{answers: [][]netip.Addr{{public}, {private}, {public}}})
	f := New(Options{})
	allowed := judged(f)
	for n, want := range []string{errTested.Error(), errNotPublic.Error(), errTested.Error()} {
		if _, err := f.JSON(t.Context(), "https://client.test/m.json", 100); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("fetch %d: %v, want %s", n+1, err, want)
		}
	}
	if got := allowed(); !slices.Equal(got, []string{"8.8.8.8:443", "8.8.8.8:443"}) {
		t.Errorf("connections to %v", got)
	}
}

// None of the other addresses of a name is connected to, in whatever order and form they come.
func TestNameWithAPrivateAddressAmongItsOwnIsNotConnectedToThere_I02(t *testing.T) {
	public := []netip.Addr{netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("2606:4700::1111")}
	for _, a := range specialUse {
		addr := netip.MustParseAddr(a)
		for name, list := range map[string][]netip.Addr{"first": append([]netip.Addr{addr}, public...), "last": append(slices.Clone(public), addr), "alone": {addr}} {
			t.Run(a+" "+name, func(t *testing.T) {
				resolveBy(t, &names{answers: [][]netip.Addr{list}})
				f := New(Options{})
				allowed := judged(f)
				_, err := f.JSON(t.Context(), "https://client.test/m.json", 100)
				if err == nil || name == "alone" && !errors.Is(err, errNotPublic) {
					t.Errorf("error %v", err)
				}
				for _, to := range allowed() {
					if !slices.Contains(public, netip.MustParseAddrPort(to).Addr()) {
						t.Errorf("a connection to %s would be made", to)
					}
				}
			})
		}
	}
}
