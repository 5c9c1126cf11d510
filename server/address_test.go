package server_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"signet/server"
)

var proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}

func through(peer string, header ...string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = peer
	r.Header["X-Forwarded-For"] = header
	return r
}

// Proxies write addresses in many forms, and each of them is the caller's own address.
func TestAddressesAreReadAsProxiesWriteThem_K04(t *testing.T) {
	for _, c := range []struct{ header, want string }{
		{"203.0.113.8", "203.0.113.8"},
		{"203.0.113.8:51234", "203.0.113.8"},
		{"203.0.113.8:0", "203.0.113.8"},
		{"203.0.113.8:_port", "203.0.113.8"},
		{" \t203.0.113.8:51234\t ", "203.0.113.8"},
		{`"203.0.113.8:51234"`, "203.0.113.8"},
		{"2001:db8::2", "2001:db8::2"},
		{"2001:DB8:0::2", "2001:db8::2"},
		{"[2001:db8::2]", "2001:db8::2"},
		{"[2001:db8::2]:51234", "2001:db8::2"},
		{`"[2001:db8::2]:51234"`, "2001:db8::2"},
		{"2001:db8:1:2:3:4:5:6:51234", "2001:db8:1:2:3:4:5:6"},
		{"fe80::1%eth0", "fe80::1"},
		{"[fe80::1%25eth0]:51234", "fe80::1"},
		{"::ffff:203.0.113.8", "203.0.113.8"},
		{"[::ffff:203.0.113.8]:51234", "203.0.113.8"},
		{"203.0.113.9:1, 203.0.113.8:51234", "203.0.113.8"},
		{"unknown, 203.0.113.8", "203.0.113.8"}, // left of the address that a proxy has added
		{"203.0.113.8:51234, 10.1.2.3:80", "203.0.113.8"},
		{"203.0.113.8,10.1.2.3:80,[::ffff:10.1.2.4]:80", "203.0.113.8"},
		{"[2001:db8::2]:51234, [fd00::1]:80, 127.0.0.1:80", "2001:db8::2"},
		{"203.0.113.8, fd00::1%eth1", "203.0.113.8"},
		{"203.0.113.8, , ,", "203.0.113.8"},
		{"203.0.113.9\n203.0.113.8:51234", "203.0.113.8"},
		{"203.0.113.8\n10.1.2.3:80\n", "203.0.113.8"},
	} {
		for _, peer := range []string{"127.0.0.1:1000", "[::ffff:10.0.0.1]:1000", "[fd00::7%eth0]:1000"} {
			log := &safeBuffer{}
			r := through(peer, strings.Split(c.header, "\n")...)
			address, own := server.Callers(slog.New(slog.NewJSONHandler(log, nil)), proxies...)(r)
			if address.String() != c.want || !own {
				t.Errorf("%q from %s: %s, own: %t, want %s", c.header, peer, address, own, c.want)
			}
			if log.String() != "" {
				t.Errorf("%q: %s", c.header, log)
			}
		}
	}
	// The header of a peer that is no trusted proxy does not count.
	for peer, want := range map[string]string{"192.0.2.1:1000": "192.0.2.1", "[2001:db8::9]:1000": "2001:db8::9", "[::ffff:192.0.2.1]:1000": "192.0.2.1"} {
		address, own := server.Callers(slog.New(slog.DiscardHandler), proxies...)(through(peer, "203.0.113.8"))
		if address.String() != want || !own {
			t.Errorf("untrusted peer %s: %s, own: %t", peer, address, own)
		}
	}
}

// An address that a trusted proxy does not tell is unknown, and the log says so.
func TestAddressThatIsNotToldIsNotTheProxys_K04(t *testing.T) {
	for _, header := range []string{
		"", "unknown", "_hidden", "_SEVKISEK", "-", "203.0.113.8, unknown", "203.0.113.8, unknown, 10.1.2.3", "localhost", "proxy.example", "203.0.113.300", "203.0.113", "203.0.113.8:1:2",
		"[2001:db8::2", "2001:db8::2]", "[2001:db8::2]x", "[]:80", "[", `"`, "0.0.0.0", "[::]:80", "10.1.2.3", "10.1.2.3, 127.0.0.1:80", "%", "203.0.113.8;203.0.113.9",
	} {
		log := &safeBuffer{}
		address, own := server.Callers(slog.New(slog.NewJSONHandler(log, nil)), proxies...)(through("127.0.0.1:1000", header))
		if own || address.String() != "127.0.0.1" {
			t.Errorf("%q: %s, own: %t, want the proxy's address", header, address, own)
		}
		if text := log.String(); !strings.Contains(text, "does not tell the addresses") || !strings.Contains(text, `"proxy":"127.0.0.1"`) {
			t.Errorf("%q: the log says %q", header, text)
		}
	}
	if _, own := server.Callers(slog.New(slog.DiscardHandler))(through("@")); own {
		t.Error("a peer without an address has one")
	}
}

// One bad header or a million make one line.
func TestUnreadableAddressesAreToldOnce_K04(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &safeBuffer{}
		of := server.Callers(slog.New(slog.NewJSONHandler(log, nil)), proxies...)
		for i := range 1000 {
			of(through("127.0.0.1:1000", fmt.Sprintf("unknown%d%s", i, strings.Repeat("x", 1000))))
			of(through("127.0.0.1:1000", "203.0.113.8"))
		}
		if n := strings.Count(log.String(), "\n"); n != 1 || len(log.String()) > 500 {
			t.Errorf("%d lines, want one short one: %.600s", n, log)
		}
	})
}
