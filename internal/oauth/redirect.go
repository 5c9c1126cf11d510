package oauth

import (
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

// dangerousSchemes make a browser run, read or show something. No configuration allows
// them.
var dangerousSchemes = []string{"javascript", "data", "file", "vbscript", "about", "blob", "filesystem", "view-source", "ws", "wss", "ftp", "mailto"}

// responseParameters are the parameters that a response adds to a redirect URI, each
// exactly once. A redirect URI that already has one would lead to two.
var responseParameters = []string{"code", "state", "iss", "error", "error_description", "error_uri", "access_token", "id_token", "response"}

// CheckRedirectURI returns invalid_redirect_uri unless uri may be registered as a
// redirect URI. It accepts https, http on a loopback host, and the given private-use
// schemes (RFC 8252 §7.1). The latter deviate from the MCP specification, for clients
// that can receive a redirect in no other way.
func CheckRedirectURI(uri string, schemes []string) error {
	refuse := func(why string) error { return Errorf(InvalidRedirectURI, "redirect URI %s", why) }
	if why := checkURI(uri); why != "" {
		return refuse(why)
	}
	scheme, _, absolute := strings.Cut(uri, ":")
	u, err := url.Parse(uri)
	if err != nil || !absolute {
		return refuse("is not an absolute URI")
	}
	switch {
	case scheme == "https":
		if why := checkAuthority(u); why != "" {
			return refuse(why)
		}
	case scheme == "http":
		if !IsLoopbackRedirect(uri) {
			return refuse("must be https, or http on 127.0.0.1, [::1] or localhost")
		}
	case !slices.Contains(schemes, scheme) || slices.Contains(dangerousSchemes, scheme):
		return refuse("has a scheme that is not allowed here: " + scheme)
	case u.User != nil || u.Opaque != "" || u.Host+u.Path == "":
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
	}
	return ""
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
