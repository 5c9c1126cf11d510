package configfile

import (
	"net/url"
	"strings"

	"signet/internal/oauth"
)

// NotURL is what [CheckURL] says of a text that is no URL at all.
const NotURL = "is not a URL"

// CheckURL returns what is wrong with the URL of an endpoint, or "". It must be https, or http on a
// loopback host.
func CheckURL(raw string) string {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "" || len(raw) > 1024:
		return NotURL
	case strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "has a character that is not allowed in URLs"
	case u.Scheme != "https" && u.Scheme != "http":
		return "must be an https URL"
	case u.Scheme == "http" && !oauth.IsLoopbackHost(u.Hostname()):
		return "must be https unless its host is localhost, 127.0.0.0/8 or ::1"
	case u.User != nil:
		return "has user information"
	case strings.Contains(raw, "#"):
		return "has a fragment"
	}
	return ""
}
