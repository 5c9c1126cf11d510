package mcpclient

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"sync"
	"testing"

	"signet/internal/oauth"
)

func TestPlaceOfAnAddress(t *testing.T) {
	for want, list := range map[place][]string{
		here: {"127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "169.254.169.254", "224.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254"},
		nearby: {"10.0.0.1", "172.16.0.1", "172.31.255.254", "192.168.0.1", "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "240.0.0.1", "255.255.255.255", "fd00::1", "fec0::1", "2001:db8::1", "64:ff9b::7f00:1",
			"2002:7f00:1::", "::ffff:10.0.0.1", "100::1", "::127.0.0.1"},
		public: {"1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8"},
	} {
		for _, ip := range list {
			if got := placeOf(netip.MustParseAddr(ip)); got != want {
				t.Errorf("%s is %d, want %d", ip, got, want)
			}
		}
	}
}

// What a server may name depends on where it is, and not on where its name leads later.
func TestReachEndsWhereTheServerIs(t *testing.T) {
	for _, c := range []struct {
		endpoint, address string // of its first connection; empty if it goes through a proxy
		names             map[string]bool
	}{
		{"https://mcp.example.com", "8.8.8.8", map[string]bool{"https://as.example.com": true, "https://8.8.4.4": true, "https://10.0.0.1": false, "https://[fd00::1]": false, "https://127.0.0.1": false, "http://localhost": false, "https://169.254.169.254": false}},
		{"https://mcp.example.com", "", map[string]bool{"https://as.example.com": true, "https://10.0.0.1": false, "https://192.0.2.1": false, "https://127.0.0.1": false}},
		{"https://mcp.example.com", "10.0.0.1", map[string]bool{"https://8.8.4.4": true, "https://10.0.0.2": true, "https://[fd00::1]": true, "https://169.254.169.254": false, "https://127.0.0.1": false, "https://localhost": false, "http://10.0.0.1": false}},
		{"https://10.0.0.1", "10.0.0.1", map[string]bool{"https://192.168.0.1": true, "https://127.0.0.1": false}},
		{"https://mcp.example.com", "127.0.0.1", map[string]bool{"https://127.0.0.1": false, "http://localhost": false, "https://10.0.0.1": true}},
		{"http://localhost:8080", "127.0.0.1", map[string]bool{"http://127.0.0.1:9": true, "http://[::1]:9": true, "https://10.0.0.1": true, "https://as.example.com": true, "http://as.example.com": false, "http://10.0.0.1": false}},
		{"https://localhost", "127.0.0.1", map[string]bool{"https://x.localhost": true, "http://x.localhost": false, "https://127.1": false, "https://1": false, "https://a.0x7f": false, "https://ä.example": false, "https://u@localhost": false, "ftp://localhost": false}},
	} {
		endpoint, err := url.Parse(c.endpoint)
		if err != nil {
			t.Fatal(err)
		}
		a := newReach(endpoint, nil)
		if c.address != "" {
			a.learn(&net.TCPAddr{IP: net.ParseIP(c.address)})
		}
		for range 2 {
			for raw, want := range c.names {
				u, err := url.Parse(raw)
				if err != nil {
					t.Fatal(err)
				}
				if err := a.check(u); (err == nil) != want {
					t.Errorf("%s at %s names %s: %v, want it taken: %v", c.endpoint, c.address, raw, err, want)
				}
			}
			a.learn(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}) // the name gets another address
			if c.address == "" {
				break // that is its first
			}
		}
	}
}

// What the user names is within reach, and nothing beside it.
func TestReachHasWhatTheUserNames(t *testing.T) {
	if err := newReach(&url.URL{Scheme: "https", Host: "ä.example"}, nil).check(&url.URL{Scheme: "https", Host: "ä.example", Path: "/token"}); err != nil {
		t.Errorf("an endpoint with letters of its own: %v", err)
	}
	endpoint, issuer := &url.URL{Scheme: "https", Host: "mcp.example.com"}, &url.URL{Scheme: "http", Host: "localhost:8080"}
	a := newReach(endpoint, issuer)
	for raw, want := range map[string]bool{"http://localhost:8080/token": true, "http://LOCALHOST:8080": true, "http://localhost:8081": false, "https://localhost": false, "http://127.0.0.1:8080": false, "https://mcp.example.com": true} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.check(u); (err == nil) != want {
			t.Errorf("%s: %v, want it taken: %v", raw, err, want)
		}
	}
}

// No request leaves for an address out of reach, whatever part of the client makes it.
func TestNoRequestLeavesOutOfReach(t *testing.T) {
	asked := false
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer s.Close()
	for host, want := range map[string]bool{"https://mcp.example.com": false, s.URL: true} {
		endpoint, err := url.Parse(host)
		if err != nil {
			t.Fatal(err)
		}
		asked = false
		a := newReach(endpoint, nil)
		n := narrated{&sync.Mutex{}, &silent{}, a, a.transport()}
		resp, err := (&http.Client{Transport: n}).Get(s.URL)
		if err == nil {
			resp.Body.Close()
		}
		n.next.CloseIdleConnections()
		if (err == nil) != want || asked != want {
			t.Errorf("for %s: %v, asked %v, want %v", host, err, asked, want)
		}
	}
}

func TestOriginHasOneSpelling(t *testing.T) {
	for raw, want := range map[string]string{
		"https://A.example:443/x": "https://a.example", "HTTPS://a.example": "https://a.example", "http://a.example:80": "http://a.example", "https://a.example:80": "https://a.example:80",
		"https://a.example:": "https://a.example", "https://[::1]:443": "https://[::1]", "https://a.example:8443": "https://a.example:8443",
	} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := oauth.Origin(u); got != want {
			t.Errorf("%s: %s, want %s", raw, got, want)
		}
	}
}
