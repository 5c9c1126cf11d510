package oauth

import (
	"cmp"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"path"
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

// RoutePath returns the path of u as a router compares it with those of requests: decoded, unless
// decoding loses something, such as the difference between %2F and a slash.
func RoutePath(u *url.URL) string { return cmp.Or(u.RawPath, u.Path) }

// WellKnownResource is where an origin has the metadata of its resources (RFC 9728 §3).
const WellKnownResource = "/.well-known/oauth-protected-resource"

// CoversResource reports whether the metadata of a resource, which came from a URL, counts for an
// endpoint. RFC 9728 §3.3 requires the URL of the endpoint. Many servers name their origin instead,
// or a path above, and most clients accept that. A token for such a resource is good for its other
// paths too, so that the metadata must come from the well-known places of the origin, which belong
// to its owner.
func CoversResource(resource string, from, endpoint *url.URL) bool {
	u, err := url.Parse(resource)
	if err != nil || Origin(u) != Origin(endpoint) || u.User != nil || u.Fragment != "" {
		return false
	}
	want, parent := strings.TrimSuffix(endpoint.EscapedPath(), "/")+"/", strings.TrimSuffix(u.EscapedPath(), "/")+"/"
	byOwner := Origin(from) == Origin(endpoint) && strings.HasPrefix(path.Clean(from.Path)+"/", WellKnownResource+"/")
	return want == parent || byOwner && strings.HasPrefix(want, parent)
}

// Origin returns scheme, host and port of a URL in lower case, without the default port of the
// scheme.
func Origin(u *url.URL) string {
	origin := strings.ToLower(u.Scheme) + "://" + strings.ToLower(u.Host)
	if port := map[string]string{"https": ":443", "http": ":80"}[strings.ToLower(u.Scheme)]; port != "" {
		origin = strings.TrimSuffix(origin, port)
	}
	return strings.TrimSuffix(origin, ":")
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
