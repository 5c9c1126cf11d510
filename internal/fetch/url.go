package fetch

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"signet/internal/oauth"
)

const maxURL = 1024 // bytes

// Check returns why a document at rawURL is never fetched, or nil. It sends no request:
// the rules are about the text of the URL (draft-ietf-oauth-client-id-metadata-document
// §3) and about the hosts that the operator lists.
func (o Options) Check(rawURL string) error {
	u, err := parse(rawURL)
	if err != nil {
		return err
	}
	host := u.Hostname()
	if isLoopback(host) {
		if !o.Loopback {
			return errors.New("the host is this machine, which is allowed only while the issuer is")
		}
	} else if err := checkPublic(u); err != nil {
		return err
	}
	if matches(o.Deny, host) || len(o.Allow) > 0 && !matches(o.Allow, host) {
		return fmt.Errorf("the operator does not allow the host %s", host)
	}
	return nil
}

// parse reads a URL that has one spelling only: nothing in it would be changed by a
// browser, a proxy or a server on the way.
func parse(rawURL string) (*url.URL, error) {
	if len(rawURL) > maxURL {
		return nil, fmt.Errorf("the URL is longer than %d bytes", maxURL)
	}
	for _, c := range []byte(rawURL) {
		if c <= ' ' || c > '~' || strings.IndexByte("\\\"<>^`{|}", c) >= 0 {
			return nil, errors.New("the URL has a character that is not allowed in URLs")
		}
	}
	u, err := url.Parse(rawURL)
	switch {
	case err != nil || u.Opaque != "":
		return nil, errors.New("not a URL")
	case u.Scheme+"://" != rawURL[:min(len(rawURL), len(u.Scheme)+3)]:
		return nil, errors.New("the scheme must be in lower case")
	case u.User != nil || strings.Contains(u.Host, "@"):
		return nil, errors.New("the URL has user information")
	case strings.Contains(rawURL, "#"):
		return nil, errors.New("the URL has a fragment")
	case u.Path == "" || u.Path == "/":
		return nil, errors.New("the URL has no path")
	case u.Host != strings.ToLower(u.Host):
		return nil, errors.New("the host must be in lower case")
	case strings.HasSuffix(u.Host, ":"):
		return nil, errors.New("the port is empty")
	}
	for segment := range strings.SplitSeq(u.EscapedPath(), "/") {
		segment = strings.ReplaceAll(strings.ToLower(segment), "%2e", ".")
		if segment == "." || segment == ".." {
			return nil, errors.New("the path has a dot segment")
		}
	}
	return u, nil
}

// checkPublic returns what is wrong with a URL on another machine. An address in place of
// a name, and a name that can exist in a private network only, are refused before any
// name is resolved: behind an egress proxy the address that it connects to cannot be
// checked.
func checkPublic(u *url.URL) error {
	host := u.Hostname()
	labels := strings.Split(host, ".")
	last := labels[len(labels)-1]
	switch {
	case u.Scheme != "https":
		return errors.New("the scheme must be https")
	case u.Port() != "" && u.Port() != "443":
		return errors.New("the port must be 443")
	case len(labels) < 2 || last == "" || '0' <= last[0] && last[0] <= '9':
		return errors.New("the host must be the full name of a public host")
	}
	for _, l := range labels {
		if l == "" || len(l) > 63 || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" || l[0] == '-' || l[len(l)-1] == '-' {
			return errors.New("the host is not a host name")
		}
	}
	if oauth.IsPrivateName(host) || slices.Contains(reserved, last) {
		return errors.New("the host is in a private network")
	}
	return nil
}

// reserved are further last labels of names that no public server has (RFC 6761, RFC 7686).
var reserved = []string{"localhost", "invalid", "onion", "arpa"}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Zone() == "" && (addr == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || addr == netip.IPv6Loopback())
}

// CheckHost returns what is wrong with an entry of [Options].Allow or Deny.
func CheckHost(pattern string) error {
	host := strings.TrimPrefix(pattern, "*.")
	if isLoopback(host) {
		return nil
	}
	if strings.Count(host, ":") == 1 { // it would match nothing: the port of a URL is not compared
		return fmt.Errorf("%q has a port: name the host alone", pattern)
	}
	if err := checkPublic(&url.URL{Scheme: "https", Host: host}); err != nil {
		return fmt.Errorf("%q is not a host such as claude.ai or *.example.com", pattern)
	}
	return nil
}

// matches reports whether host is in a list of names, or below one that begins with "*.".
func matches(list []string, host string) bool {
	for _, pattern := range list {
		if parent, ok := strings.CutPrefix(pattern, "*."); ok && strings.HasSuffix(host, "."+parent) || pattern == host {
			return true
		}
	}
	return false
}
