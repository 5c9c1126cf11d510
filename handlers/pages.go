package handlers

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"signet/handlers/pages"
	"signet/internal/clients"
	"signet/internal/oauth"
	"signet/users"
)

// errorKinds are the errors that a user can do something about.
var errorKinds = map[error]string{errExpired: "expired", errAnswered: "answered", errOtherBrowser: "browser", errForeignForm: "foreign", errForeignSession: "session", errForeignLogin: "login", errNotAllowed: "denied", errOtherUser: "other_user"}

// errorPage tells the user what went wrong. The status never asks for credentials:
// a page has no use for 401.
func errorPage(e *oauth.Error, err error) page {
	status := e.Status()
	if status == http.StatusUnauthorized {
		status = http.StatusBadRequest
	}
	data := pages.Error{Kind: "request", Description: e.Description, Code: string(e.Code)}
	var over *loginOver
	switch {
	case status == http.StatusServiceUnavailable && errors.As(err, &over):
		data.Kind, data.Description = "upstream", "" // the page cannot be reloaded: the login is spent
	case status == http.StatusNotFound:
		data.Kind = "missing"
	case status == http.StatusTooManyRequests:
		data.Kind = "many"
	case status == http.StatusServiceUnavailable:
		data.Kind = "busy"
		if outage := (*clients.OutageError)(nil); !errors.As(err, &outage) {
			data.Description = ""
		}
	case status >= 500:
		data.Kind, data.Description = "failed", ""
	default:
		if kind, ok := errorKinds[e]; ok {
			data.Kind = kind
		}
	}
	var aboutClient *userError
	if errors.As(err, &aboutClient) {
		data.Host = aboutClient.host
	}
	return page{status: status, data: data}
}

// Lengths to which foreign text is shown.
const (
	maxName = 60
	maxHost = 255
)

// plain makes foreign text safe to read: one line, short, and without control and
// formatting characters, which reorder or hide the text around them (bidirectional
// overrides, zero-width characters). Escaping is left to the pages.
func plain(s string, limit int) string {
	if len(s) <= limit && isPlain(s) {
		return s
	}
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "\uFFFD")), " ")
	var out []rune
	marks := 0
	for _, r := range s {
		if marks++; !unicode.Is(unicode.Mn, r) {
			marks = 0
		}
		// Some scripts put two marks on a letter; more cover the lines around them.
		if invisible(r) || marks > 2 {
			continue
		}
		if len(out) == limit {
			out[limit-1] = '…'
			break
		}
		out = append(out, r)
	}
	return strings.TrimSpace(string(out))
}

// isPlain reports whether s is words of visible ASCII with one space between them, as most
// names are.
func isPlain(s string) bool {
	before := byte(' ')
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == ' ' && before == ' ' {
			return false
		}
		before = s[i]
	}
	return s == "" || before != ' '
}

// invisible reports whether r shows nothing where it stands.
func invisible(r rune) bool {
	switch r {
	case 0x115F, 0x1160, 0x3164, 0xFFA0, 0x2800: // letters and a symbol that look like nothing
		return true
	}
	return unicode.In(r, unicode.C, unicode.Zl, unicode.Zp, unicode.Me, unicode.Variation_Selector)
}

// clientName is the display name of a client, or "" if its name has no visible
// character. A client with an operator or a URL behind it is shown by its id in that
// case.
func clientName(c *clients.Client) string {
	name := plain(c.Name, maxName)
	if name == "" && (!c.Registered || c.Document != "") {
		return plain(c.ID, maxName)
	}
	return name
}

func accountName(u users.User) string {
	for _, name := range []string{u.Name, u.Email, u.DisplayName, u.Subject} {
		if name = plain(name, maxName); name != "" {
			return name
		}
	}
	return ""
}

// hostOf is the part of a redirect URI that shows the user where it leads: host and
// port, or scheme and host of a private-use URI.
func hostOf(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return ""
	}
	if u.Scheme != "https" && u.Scheme != "http" {
		return plain(u.Scheme+"://"+u.Host, maxHost)
	}
	return plain(u.Host, maxHost)
}
