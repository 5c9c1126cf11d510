package oauth

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const maxURI = 2 << 10 // bytes; a URI is shorter

// loopbackHosts are the hosts whose http redirect URIs may have any port. One does not
// match another. RFC 8252 §7.3 names the two addresses; localhost is in the list
// because common clients register nothing else (OAuth 2.1 §8.4.2 only recommends
// against it).
var loopbackHosts = []string{"127.0.0.1", "[::1]", "localhost"}

// neverSchemes are no private-use schemes: a browser or the system runs, opens or shows what
// they name, or connects to it. No configuration allows them. Schemes that begin with ms-
// belong here too: Windows and Office act on them.
var neverSchemes = []string{
	"javascript", "vbscript", "livescript", "data", "file", "filesystem", "about", "blob", "view-source", "jar", "mhtml", "cid", "mid", "res", "resource", "feed", "wyciwyg",
	"chrome", "edge", "brave", "opera", "vivaldi", "devtools", "chrome-extension", "moz-extension", "safari-extension", "safari-web-extension",
	"ws", "wss", "ftp", "ftps", "sftp", "ssh", "telnet", "tn3270", "rlogin", "gopher", "ldap", "ldaps", "smb", "cifs", "nfs", "afp", "dav", "davs", "webdav", "webdavs", "rsync", "tftp", "nntp", "news", "irc", "ircs", "rtsp", "mms", "vnc", "rdp",
	"mailto", "tel", "sms", "callto", "facetime", "facetime-audio", "sip", "sips", "xmpp", "geo", "market", "itms", "itmss", "itms-apps", "itms-services", "magnet", "bitcoin", "webcal",
	"intent", "android-app", "android-resource", "content", "shell", "search-ms", "mk", "hcp", "applescript", "shortcuts", "x-man-page", "urn", "tag",
}

// responseParameters are the parameters that a response adds to a redirect URI, each
// exactly once. A redirect URI that already has one would lead to two.
var responseParameters = []string{"code", "state", "iss", "error", "error_description", "error_uri", "access_token", "id_token", "response"}

// CheckRedirectURI returns invalid_redirect_uri unless a client may register uri as a
// redirect URI. It accepts https, http on a loopback host, and the given private-use
// schemes (RFC 8252 §7.1). The latter deviate from the MCP specification, for clients
// that can receive a redirect in no other way.
func CheckRedirectURI(uri string, schemes []string) error {
	return checkRedirectURI(uri, func(u *url.URL) string {
		switch {
		case u.Scheme == "https":
			return ""
		case u.Scheme == "http":
			if !IsLoopbackRedirect(uri) {
				return "must be https, or http on 127.0.0.1, [::1] or localhost"
			}
		case !slices.Contains(schemes, u.Scheme):
			return "has a scheme that SIGNET_REDIRECT_SCHEMES does not list: " + u.Scheme
		}
		return ""
	})
}

// CheckConfiguredRedirectURI is CheckRedirectURI for a client that the operator configures, who
// vouches for it. It also accepts every private-use scheme, and http on a host of a private
// network.
func CheckConfiguredRedirectURI(uri string) error {
	return checkRedirectURI(uri, func(u *url.URL) string {
		if u.Scheme == "http" && !IsLoopbackRedirect(uri) && !isPrivateHost(u.Hostname()) {
			return "must be https, or http on 127.0.0.1, [::1], localhost or a host of a private network"
		}
		return ""
	})
}

// RedirectURIWarning returns what the operator should know about a redirect URI that
// CheckConfiguredRedirectURI accepts, or "".
func RedirectURIWarning(uri string) string {
	scheme, _, _ := strings.Cut(uri, ":")
	switch {
	case scheme == "https" || IsLoopbackRedirect(uri):
		return ""
	case scheme == "http":
		return "the authorization code travels in clear text over the network"
	case !strings.Contains(scheme, "."):
		return "the scheme " + scheme + " is not based on a domain name (RFC 8252 §7.1): another program on the user's machine may claim it"
	}
	return ""
}

// CheckScheme returns what is wrong with a scheme that registrations are to be allowed, or "".
func CheckScheme(scheme string) string {
	switch {
	case scheme == "https" || scheme == "http":
		return "needs no entry, and has its own rules"
	case !isScheme(scheme):
		return "is not a scheme: it begins with a lower-case letter, and has lower-case letters, digits, +, - and . only"
	case isNeverScheme(scheme):
		return "is never allowed: it is no private-use scheme"
	case isMisspelt(scheme):
		return "looks like https or http misspelt"
	}
	return ""
}

// checkRedirectURI checks the form of a redirect URI, and its scheme and host by policy, which
// returns what is wrong with them.
func checkRedirectURI(uri string, policy func(*url.URL) string) error {
	refuse := func(why string) error { return Errorf(InvalidRedirectURI, "redirect URI %s", why) }
	if why := checkURI(uri); why != "" {
		return refuse(why)
	}
	scheme, _, absolute := strings.Cut(uri, ":")
	u, err := url.Parse(uri)
	if err != nil || !absolute {
		return refuse("is not an absolute URI")
	}
	web := scheme == "https" || scheme == "http"
	if why := CheckScheme(scheme); why != "" && !web {
		return refuse("has a scheme that " + why + ": " + scheme)
	}
	if why := checkAuthority(u); web && why != "" {
		return refuse(why)
	}
	if why := policy(u); why != "" {
		return refuse(why)
	}
	if !web && (u.User != nil || u.Opaque != "" || u.Host+u.Path == "") {
		return refuse("must be scheme://host/path or scheme:/path, without user information")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return refuse("has a malformed query")
	}
	for _, name := range responseParameters {
		if query.Has(name) {
			return refuse("has the parameter " + name + ", which the response sets")
		}
	}
	return nil
}

// isScheme reports whether s has the form of a scheme (RFC 3986 §3.1), in lower case.
func isScheme(s string) bool {
	for i, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z'
		if !letter && (i == 0 || !('0' <= c && c <= '9' || c == '+' || c == '-' || c == '.')) {
			return false
		}
	}
	return s != ""
}

func isNeverScheme(scheme string) bool {
	return strings.HasPrefix(scheme, "ms-") || slices.Contains(neverSchemes, scheme)
}

// isMisspelt reports whether one letter more, less, changed or exchanged with its neighbour
// makes scheme https or http.
func isMisspelt(scheme string) bool {
	for _, meant := range []string{"https", "http"} {
		a, b := scheme, meant
		for a != "" && b != "" && a[0] == b[0] {
			a, b = a[1:], b[1:]
		}
		for a != "" && b != "" && a[len(a)-1] == b[len(b)-1] {
			a, b = a[:len(a)-1], b[:len(b)-1]
		}
		if len(a) <= 1 && len(b) <= 1 || len(a) == 2 && len(b) == 2 && a[0] == b[1] && a[1] == b[0] {
			return true
		}
	}
	return false
}

// privateNames are the domains of hosts that no public DNS knows (RFC 6762, RFC 8375, and
// .internal, which ICANN has reserved).
var privateNames = []string{".local", ".internal", ".lan", ".home.arpa"}

// isPrivateHost reports whether host is a host of a private network, by its address or its name.
func isPrivateHost(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast()
	}
	return host != "" && !strings.Contains(host, ".") || IsPrivateName(host)
}

// IsPrivateName reports whether a host is in a domain that no public DNS knows.
func IsPrivateName(host string) bool {
	return slices.ContainsFunc(privateNames, func(domain string) bool { return strings.HasSuffix(host, domain) })
}

// checkURI returns what is wrong with the raw bytes of a URI, before a parser can
// repair it. A fragment is wrong even if it is empty.
func checkURI(uri string) string {
	switch {
	case uri == "":
		return "is empty"
	case len(uri) >= maxURI:
		return "is 2 KB or longer"
	case strings.Contains(uri, "#"):
		return "has a fragment"
	}
	for _, c := range []byte(uri) {
		if c <= ' ' || c > '~' || strings.IndexByte("\\\"<>^`{|}", c) >= 0 {
			return "has a character that is not allowed in a URI"
		}
	}
	return ""
}

// checkAuthority returns what is wrong with the host of an http or https URL.
func checkAuthority(u *url.URL) string {
	port := u.Port()
	switch {
	case u.User != nil:
		return "has user information"
	case u.Opaque != "" || u.Hostname() == "":
		return "has no host"
	case strings.ContainsAny(u.Host, "*%,;!$&'()+="):
		return "has a host with a character that is not allowed"
	case strings.HasSuffix(u.Host, ":") || port != "" && !isPort(port):
		return "has a port that is not a number from 1 to 65535"
	case endsInNumber(u.Hostname()) && !isIP(u.Hostname()):
		return "has a host that browsers read as an IP address, in another spelling"
	}
	return ""
}

// endsInNumber reports whether browsers take a host for an IPv4 address: its last label is a
// number, possibly a hexadecimal one (WHATWG URL, "ends in a number").
func endsInNumber(host string) bool {
	host = strings.TrimSuffix(host, ".")
	last := host[strings.LastIndexByte(host, '.')+1:]
	if digits, ok := strings.CutPrefix(strings.ToLower(last), "0x"); ok {
		return strings.Trim(digits, "0123456789abcdef") == ""
	}
	return last != "" && strings.Trim(last, "0123456789") == ""
}

func isIP(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0 && s[0] != '0'
}

// RedirectURIMatches compares a requested redirect URI with a registered one, as
// strings: no decoding, no case folding, no cleaning of paths. Only the port of a
// loopback http URI may differ, also if one of them has none (OAuth 2.1 §2.3.1, §8.4.2).
func RedirectURIMatches(registered, requested string) bool {
	if registered == requested {
		return true
	}
	host, rest, ok := splitLoopback(registered)
	if !ok {
		return false
	}
	otherHost, otherRest, ok := splitLoopback(requested)
	return ok && host == otherHost && rest == otherRest
}

// IsLoopbackRedirect reports whether uri is http on 127.0.0.1, [::1] or localhost,
// so that it leads to any program that listens on the user's machine.
func IsLoopbackRedirect(uri string) bool {
	_, _, ok := splitLoopback(uri)
	return ok
}

// splitLoopback cuts the port out of an http URI on a loopback host.
func splitLoopback(uri string) (host, rest string, ok bool) {
	after, ok := strings.CutPrefix(uri, "http://")
	if !ok {
		return "", "", false
	}
	for _, h := range loopbackHosts {
		if rest, ok := strings.CutPrefix(after, h); ok {
			host, after = h, rest
			break
		}
	}
	if host == "" {
		return "", "", false
	}
	if port, ok := strings.CutPrefix(after, ":"); ok {
		end := strings.IndexAny(port, "/?")
		if end < 0 {
			end = len(port)
		}
		if !isPort(port[:end]) {
			return "", "", false
		}
		after = port[end:]
	}
	return host, after, after == "" || after[0] == '/' || after[0] == '?'
}
