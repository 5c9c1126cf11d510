package handlers

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"signet/clients"
	"signet/oauth"
	"signet/users"
)

//go:embed templates/*.html style.css
var files embed.FS

// pages are the parsed templates.
type pages struct {
	app, path string
	style     template.CSS
	policy    string // Content-Security-Policy
	byName    map[string]*template.Template
}

// view is what the layout is given; Data is the page's own.
type view struct {
	App, Path string
	Style     template.CSS
	Data      any
}

// newPages parses the templates. The style is part of every page and allowed by
// its hash, so a page is one response and nothing else may be loaded. There is no
// form-action in the policy: Chromium applies it to the redirect that follows a
// form, and the way back to a client is such a redirect.
func newPages(app, path string) (*pages, error) {
	css, err := files.ReadFile("style.css")
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(css)
	p := &pages{
		app: app, path: path, style: template.CSS(css), byName: map[string]*template.Template{},
		policy: "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'",
	}
	for _, name := range []string{"login", "consent", "logout", "error"} {
		t, err := template.ParseFS(files, "templates/layout.html", "templates/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("reading page %s: %w", name, err)
		}
		p.byName[name] = t
	}
	return p, nil
}

func (p *pages) render(w io.Writer, name string, data any) error {
	return p.byName[name].ExecuteTemplate(w, "layout.html", view{App: p.app, Path: p.path, Style: p.style, Data: data})
}

type errorData struct {
	Title, Text, Code, Host string
}

// errorPage tells the user what went wrong. The status never asks for credentials:
// a page has no use for 401.
func errorPage(e *oauth.Error, err error) page {
	status := e.Status()
	if status == http.StatusUnauthorized {
		status = http.StatusBadRequest
	}
	data := errorData{Title: "This request cannot be completed", Text: e.Description, Code: string(e.Code)}
	switch {
	case status == http.StatusNotFound:
		data.Title = "Page not found"
	case status == http.StatusServiceUnavailable:
		data.Title = "Please try again in a moment"
		data.Text = "The server is busy or being maintained. Reload this page in a few seconds."
	case status >= 500:
		data.Title, data.Text = "Something went wrong", "The server could not handle this request. The operator finds the reason in the log."
	}
	var aboutClient *userError
	if errors.As(err, &aboutClient) {
		data.Host = aboutClient.host
	}
	return page{name: "error", status: status, data: data}
}

// Lengths to which foreign text is shown.
const (
	maxName = 60
	maxHost = 255
)

// plain makes foreign text safe to read: without control and formatting
// characters, which reorder or hide what stands around them (bidirectional
// overrides, zero-width characters), in one line, and short. Escaping is the
// template's.
func plain(s string, limit int) string {
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

// invisible reports whether r shows nothing where it stands.
func invisible(r rune) bool {
	switch r {
	case 0x115F, 0x1160, 0x3164, 0xFFA0, 0x2800: // letters and a symbol that look like nothing
		return true
	}
	return unicode.In(r, unicode.C, unicode.Zl, unicode.Zp, unicode.Me, unicode.Variation_Selector)
}

func clientName(c *clients.Client) string {
	if name := plain(c.Name, maxName); name != "" {
		return name
	}
	if c.Registered {
		return "An application without a name"
	}
	return plain(c.ID, maxName)
}

func accountName(u users.User) string {
	for _, name := range []string{u.Name, u.Email, u.DisplayName, u.Subject} {
		if name = plain(name, maxName); name != "" {
			return name
		}
	}
	return ""
}

// hostOf is the part of a redirect URI that tells the user where it leads: host
// and port, or the whole beginning of one with a private-use scheme.
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

type scopeText struct{ Name, Text string }

// describeScopes puts scopes into words, as far as their names mean the same
// everywhere.
func describeScopes(scope []string) []scopeText {
	words := map[string]string{
		"openid": "Know who you are", "profile": "See your name", "email": "See your e-mail address", "offline_access": "Stay connected while you are away",
		"read": "Read your data", "write": "Change your data", "admin": "Administer",
	}
	var list []scopeText
	for _, name := range scope {
		list = append(list, scopeText{Name: name, Text: words[name]})
	}
	return list
}
