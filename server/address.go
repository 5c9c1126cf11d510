package server

import (
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"signet/internal/background"
)

// addresses finds the addresses of callers, for limits and the audit log.
type addresses struct {
	trusted []netip.Prefix // proxies whose X-Forwarded-For is believed
	log     *slog.Logger

	mu      sync.Mutex
	silent  background.Condition // a trusted proxy does not tell the addresses of callers
	latest  time.Time            // time of the latest request without one
	foreign bool                 // whether the log has been told of a proxy that is not trusted
}

// quietTime is how long every request must have an address until the log says so.
const quietTime = 10 * time.Minute

func newAddresses(trusted []netip.Prefix, log *slog.Logger) *addresses {
	return &addresses{trusted: trusted, log: log, silent: background.Condition{
		Log: log, Level: slog.LevelWarn,
		Begin: "a trusted proxy does not tell the addresses of its callers in X-Forwarded-For: limits by address do not count these requests",
		End:   "trusted proxies tell the addresses of their callers again",
	}}
}

// of returns the address of the caller of r, for limits and the audit log: the peer's
// address or, if the peer is a trusted proxy, the last address in X-Forwarded-For that is
// not one. What is to the left of that address may be the caller's invention.
//
// If the proxies do not tell an address, it is the peer's, and own is false: limits that
// counted it would take all users behind the proxy for one.
func (a *addresses) of(r *http.Request) (address netip.Addr, own bool) {
	peer, ok := parseHop(r.RemoteAddr)
	chain := r.Header["X-Forwarded-For"]
	if !ok || !a.trusts(peer) {
		if len(chain) > 0 && (peer.IsPrivate() || peer.IsLoopback()) {
			a.noticeForeign(peer)
		}
		return peer, ok
	}
	address, ok = a.caller(chain)
	a.notice(ok, peer, chain)
	if !ok {
		return peer, false
	}
	return address, true
}

// caller returns the last address in a chain that is not a trusted proxy's, unless a part
// after it cannot be read.
func (a *addresses) caller(chain []string) (address netip.Addr, ok bool) {
	for _, line := range slices.Backward(chain) {
		for last := true; last; {
			var hop string
			if i := strings.LastIndexByte(line, ','); i >= 0 {
				line, hop = line[:i], line[i+1:]
			} else {
				hop, last = line, false
			}
			if hop = strings.Trim(hop, " \t"); hop == "" { // RFC 9110 §5.6.1
				continue
			}
			if address, ok = parseHop(hop); !ok || !a.trusts(address) {
				return address, ok
			}
		}
	}
	return netip.Addr{}, false
}

func (a *addresses) trusts(address netip.Addr) bool {
	return slices.ContainsFunc(a.trusted, func(p netip.Prefix) bool { return p.Contains(address) })
}

// parseHop reads an address as proxies write it: with or without a port, which may be
// obfuscated (RFC 7239 §6), with or without brackets or quotes, IPv4 as IPv6, and with a
// zone, which means nothing on another machine.
func parseHop(s string) (address netip.Addr, ok bool) {
	if len(s) > 1 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	if inner, bracketed := strings.CutPrefix(s, "["); bracketed {
		var port string
		if s, port, bracketed = strings.Cut(inner, "]"); !bracketed || port != "" && port[0] != ':' {
			return netip.Addr{}, false
		}
	}
	address, err := netip.ParseAddr(s)
	if i := strings.LastIndexByte(s, ':'); err != nil && i >= 0 { // IPv4 and a port, or all of an IPv6 address and a port
		address, err = netip.ParseAddr(s[:i])
	}
	address = address.Unmap().WithZone("")
	return address, err == nil && !address.IsUnspecified()
}

// notice tells the log when trusted proxies begin, and when they cease, not to tell
// addresses.
func (a *addresses) notice(told bool, peer netip.Addr, chain []string) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case !told:
		a.latest = now
		header := strings.Join(chain, ", ")
		a.silent.Holds(true, "proxy", peer.String(), "header", header[max(0, len(header)-100):])
	case !a.latest.IsZero() && now.Sub(a.latest) > quietTime:
		a.latest = time.Time{}
		a.silent.Holds(false)
	}
}

// noticeForeign warns the operator, once, of a proxy that is missing in the settings: for
// the limits, all clients behind it are one address.
func (a *addresses) noticeForeign(peer netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.foreign {
		a.foreign = true
		a.log.Warn("requests come through a proxy that SIGNET_TRUSTED_PROXIES does not name: limits take its users for one", "address", peer.String())
	}
}
