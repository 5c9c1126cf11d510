package mcpclient

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"code.dny.dev/ssrf"

	"signet/internal/oauth"
)

// place says from where an address can be reached.
type place int

const (
	here   place = iota // only from this machine, or its link
	nearby              // only from networks that are not the internet
	public
)

// internet lets public addresses pass.
var internet = ssrf.New(ssrf.WithAnyPort(), ssrf.WithAnyNetwork())

func placeOf(ip netip.Addr) place {
	ip = ip.Unmap()
	switch {
	case ip.IsLoopback(), ip.IsUnspecified(), ip.IsLinkLocalUnicast(), ip.IsMulticast(), ip.Is4() && ip.As4()[0] == 0, ip.Zone() != "":
		return here
	case internet.SafeAddr(ip) != nil:
		return nearby
	}
	return public
}

// isHere reports whether host is a name or an address of this machine.
func isHere(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	ip, err := netip.ParseAddr(host)
	return err == nil && placeOf(ip) == here || host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// isPlain reports a host that every program understands in the same way. Browsers also
// read 127.1, 0x7f000001 and fullwidth digits as addresses.
func isPlain(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	if host == "" || strings.ContainsFunc(host, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_'
	}) {
		return false
	}
	host = strings.TrimSuffix(host, ".")
	last := host[strings.LastIndex(host, ".")+1:]
	return last != "" && (last[0] < '0' || last[0] > '9')
}

// hostPort is what is dialled for u.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80", "socks5": "1080", "socks5h": "1080"}[strings.ToLower(u.Scheme)]
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// reach says which addresses the client may use. The user names the MCP server; everything
// else is named by that server, in metadata, redirects and forms, and may not lead to where
// the server itself is not: a server on the internet names no address of a private
// network, and only a server on this machine names addresses of this machine. The address
// that is dialled counts, whatever name it has.
type reach struct {
	endpoint *url.URL

	mu     sync.Mutex
	named  map[string]bool // hosts and ports that the user named
	where  place           // of the endpoint; public until it was reached
	learnt bool            // where is known
}

// newReach returns the reach of a client for the endpoint, and for issuer if that is not
// nil: the user named both.
func newReach(endpoint, issuer *url.URL) *reach {
	a := &reach{endpoint: endpoint, named: map[string]bool{hostPort(endpoint): true}, where: public}
	if issuer != nil {
		a.named[hostPort(issuer)] = true
	}
	if isHere(endpoint.Hostname()) {
		a.where, a.learnt = here, true
	}
	return a
}

func (a *reach) isNamed(hostPort string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.named[hostPort]
}

// check refuses a URL by what it says: the scheme, and the host.
func (a *reach) check(u *url.URL) error {
	switch {
	case !isSecure(u):
		return fmt.Errorf("the server %s names %s://%s: it must be https, or http on this machine", a.endpoint.Host, u.Scheme, u.Host)
	case u.User != nil:
		return fmt.Errorf("the server %s names %s with a user name in it", a.endpoint.Host, u.Host)
	case a.isNamed(hostPort(u)):
		return nil
	case !isPlain(u.Hostname()):
		return fmt.Errorf("the server %s names the host %q, which programs read in different ways", a.endpoint.Host, u.Host)
	case isHere(u.Hostname()) && !isHere(a.endpoint.Hostname()):
		return fmt.Errorf("the server %s names %s, an address of this machine", a.endpoint.Host, u.Host)
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil {
		return a.checkAddress(ip)
	}
	return nil
}

func (a *reach) checkAddress(ip netip.Addr) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if placeOf(ip) < a.where {
		return fmt.Errorf("the server %s names %s, an address of this machine or of a private network", a.endpoint.Host, ip)
	}
	return nil
}

// transport connects to what is within reach, or to the proxy of the environment.
func (a *reach) transport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = a.dial
	t.Proxy = func(r *http.Request) (*url.URL, error) {
		proxy, err := http.ProxyFromEnvironment(r)
		if proxy != nil {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.named[hostPort(proxy)] = true
		}
		return proxy, err
	}
	return t
}

func (a *reach) dial(ctx context.Context, network, to string) (net.Conn, error) {
	named := a.isNamed(strings.ToLower(to))
	d := net.Dialer{Timeout: 30 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		if named {
			return nil
		}
		ip, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		return a.checkAddress(ip.Addr())
	}}
	conn, err := d.DialContext(ctx, network, to)
	if err == nil && strings.EqualFold(to, hostPort(a.endpoint)) {
		a.learn(conn.RemoteAddr())
	}
	return conn, err
}

// learn remembers where the endpoint is. Only its first address counts: a name may get
// another one later.
func (a *reach) learn(address net.Addr) {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.learnt {
		a.where, a.learnt = placeOf(tcp.AddrPort().Addr()), true
	}
}

// redirectError reports a redirect that is not followed.
type redirectError struct{ what string }

func (e *redirectError) Error() string { return e.what }

// sameOrigin is the redirect policy of requests that may hold a token: no other origin
// gets it, and a POST remains one.
func sameOrigin(r *http.Request, via []*http.Request) error {
	switch first := via[0]; {
	case oauth.Origin(r.URL) != oauth.Origin(first.URL):
		return &redirectError{fmt.Sprintf("the server redirects to %s, which is another origin", oauth.Origin(r.URL))}
	case r.Method != first.Method:
		return &redirectError{"the server answers a POST with a redirect to another page"}
	case len(via) > 5:
		return &redirectError{"the server redirects in circles"}
	}
	return nil
}

// sameIssuer compares two issuers (RFC 8414 §3.3), except for a slash at the end, which
// some libraries add.
func sameIssuer(a, b string) bool { return strings.TrimSuffix(a, "/") == strings.TrimSuffix(b, "/") }

// isSecure reports a URL that a token may be sent to.
func isSecure(u *url.URL) bool {
	return u.Scheme == "https" || u.Scheme == "http" && oauth.IsLoopbackHost(u.Hostname())
}
