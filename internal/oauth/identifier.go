package oauth

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// CanonicalResource returns a resource indicator (RFC 8707 §2) in the form in which it
// is compared: scheme and host in lower case, the rest unchanged. The error is
// invalid_target unless raw is an absolute http or https URL without fragment.
func CanonicalResource(raw string) (string, error) {
	refuse := func(why string) error { return Errorf(InvalidTarget, "resource %s", why) }
	if why := checkURI(raw); why != "" {
		return "", refuse(why)
	}
	scheme, host, rest := splitURL(raw)
	if scheme != "https" && scheme != "http" {
		return "", refuse("is not an absolute http or https URL")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "", refuse("is not a URL")
	}
	if why := checkAuthority(u); why != "" {
		return "", refuse(why)
	}
	return scheme + "://" + host + rest, nil
}

// SameResource reports whether two resource indicators name the same resource. They must be
// equal, except that the path of a URL without a path may be written as a slash (RFC 3986
// §6.2.3).
func SameResource(a, b string) bool { return a == b || withoutRoot(a) == withoutRoot(b) }

// withoutRoot returns a URL without the slash after its host, if that is its path.
func withoutRoot(resource string) string {
	scheme, after, ok := strings.Cut(resource, "://")
	end := strings.IndexAny(after, "/?")
	if !ok || end < 0 || after[end] == '?' {
		return resource
	}
	if rest := after[end+1:]; rest == "" || rest[0] == '?' {
		return scheme + "://" + after[:end] + rest
	}
	return resource
}

// splitURL cuts raw where its host begins and ends. Scheme and host are in lower case,
// the rest is unchanged. All are empty if there is no "://".
func splitURL(raw string) (scheme, host, rest string) {
	scheme, after, ok := strings.Cut(raw, "://")
	if !ok {
		return "", "", ""
	}
	end := strings.IndexAny(after, "/?")
	if end < 0 {
		end = len(after)
	}
	return strings.ToLower(scheme), strings.ToLower(after[:end]), after[end:]
}

// CheckIssuer returns an error unless issuer can be an issuer identifier (RFC 8414 §2):
// a URL in its one canonical spelling, without query and fragment, https unless its
// host is loopback. The same string is compared byte by byte in tokens, metadata and
// responses, so spellings that URL libraries rewrite are errors too.
func CheckIssuer(issuer string) error {
	if why := checkURI(issuer); why != "" {
		return errors.New("issuer " + why)
	}
	u, err := url.Parse(issuer)
	if err != nil {
		return errors.New("issuer is not a URL")
	}
	if why := checkAuthority(u); why != "" {
		return errors.New("issuer " + why)
	}
	scheme, host, rest := splitURL(issuer)
	switch {
	case scheme != "https" && scheme != "http":
		return errors.New("issuer must be an https URL")
	case scheme == "http" && !IsLoopbackHost(u.Hostname()):
		return errors.New("issuer must be https unless its host is localhost, 127.0.0.0/8 or ::1")
	case strings.Contains(rest, "?"):
		return errors.New("issuer has a query")
	case strings.HasSuffix(rest, "/"):
		return errors.New("issuer ends in a slash")
	case scheme+"://"+host+rest != issuer:
		return errors.New("issuer must have its scheme and host in lower case")
	case scheme == "https" && u.Port() == "443" || scheme == "http" && u.Port() == "80":
		return errors.New("issuer names the default port, which clients drop")
	case u.JoinPath().EscapedPath() != u.EscapedPath() && rest != "":
		return errors.New("issuer has a path that clients rewrite")
	}
	return nil
}

// Hostname returns host without its port and without the brackets of an IPv6 address.
func Hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.Trim(host, "[]")
}

// IsLoopbackHost reports whether host (no port; an IPv6 address with or without
// brackets) is localhost, in 127.0.0.0/8, or ::1.
func IsLoopbackHost(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && (ip.Is4() && ip.IsLoopback() || ip == netip.IPv6Loopback())
}
