// Package pages renders the pages that users see: login, consent, account, sign-out,
// home and errors, in their language and with the logo, colour and words of the
// operator.
//
// A page is one response of plain HTML and CSS. It needs no script and loads nothing
// but the logo, from the same origin. Text from elsewhere, such as names of clients and
// the input of users, is escaped for the place where it stands.
package pages

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"net/http"

	"golang.org/x/text/language"
)

//go:embed style.css messages.json mark.svg
var files embed.FS

// Site is the server that the pages belong to.
type Site struct {
	App    string   // name of the server on the pages
	Path   string   // path of the issuer, which begins the path of every page
	Login  string   // path that the login form is sent to, without Path; /login
	Scopes []string // scopes that exist, which messages may describe in words
}

// Options are what an operator may change of the pages. The zero value of every
// field is a sensible default.
type Options struct {
	Logo          string // SVG or PNG file; empty: Signet's mark
	Color         string // accent colour, as #rrggbb
	Messages      string // JSON file with texts in more languages, or in other words (see readMessages)
	LoginTemplate string // HTML file in place of the login page (see parseLogin)
	LoginHTML     string // the HTML itself, for a program that has it; in place of LoginTemplate
}

// Check checks what can be checked without reading a file.
func (o Options) Check() error {
	if o.LoginTemplate != "" && o.LoginHTML != "" {
		return errors.New("LoginTemplate and LoginHTML are both set: there is one login page")
	}
	_, err := parseColor(o.Color)
	return err
}

// Set is the pages, ready to be rendered. It is safe for concurrent use.
type Set struct {
	site      Site
	o         Options
	style     string
	policy    string // Content-Security-Policy
	languages []*translation
	matcher   language.Matcher
	logo      Asset
	login     ownPage // login page of the operator, or nil
}

// translation is one language and the texts in it.
type translation struct {
	tag   language.Tag
	dir   string // rtl, or empty
	texts texts
}

// New reads the operator's files. An error names the file and the mistake in it.
func New(site Site, o Options) (*Set, error) {
	if site.Login == "" {
		site.Login = "/login"
	}
	s := &Set{site: site, o: o}
	if err := s.setStyle(); err != nil {
		return nil, err
	}
	var err error
	if s.logo, err = readLogo(o.Logo, o.Color); err != nil {
		return nil, err
	}
	if err := s.translate(); err != nil {
		return nil, err
	}
	if s.login, err = readLogin(o, site); err != nil {
		return nil, err
	}
	return s, nil
}

// setStyle makes the style sheet with the operator's colour. It is part of every page
// and allowed by its hash. The policy has no form-action: Chromium applies it to the
// redirect that follows a form, and the way back to a client is such a redirect.
func (s *Set) setStyle() error {
	css, err := files.ReadFile("style.css")
	if err != nil {
		return err
	}
	accent, err := accentStyle(s.o.Color)
	if err != nil {
		return err
	}
	css = append(css, accent...)
	hash := sha256.Sum256(css)
	s.style = string(css)
	s.policy = "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'"
	return nil
}

// translate reads the texts of all languages.
func (s *Set) translate() error {
	all, err := allTexts(s.o.Messages, s.site.Scopes)
	if err != nil {
		return err
	}
	var tags []language.Tag
	for _, l := range all {
		tags = append(tags, l.tag)
	}
	s.languages, s.matcher = all, language.NewMatcher(tags)
	return nil
}

// Render writes a page in the language that the reader prefers, and sets its headers.
func (s *Set) Render(h http.Header, body *bytes.Buffer, acceptLanguage string, p Page) error {
	l := s.match(acceptLanguage)
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Vary", "Accept-Language")
	if login, ok := p.(Login); ok && s.login != nil {
		h.Set("Content-Security-Policy", LenientPolicy)
		return s.renderOwn(body, l, login)
	}
	h.Set("Content-Security-Policy", s.policy)
	h.Set("Content-Language", l.tag.String())
	v := view{texts: l.texts, site: s.site}
	page := s.layout(l, v, p.content(v))
	body.WriteString(page.content)
	return page.err
}

// LenientPolicy is the policy of pages that an operator wrote: any styles, images from
// the same origin, no scripts.
const LenientPolicy = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'"

// Logo is the operator's logo or Signet's mark.
func (s *Set) Logo() Asset { return s.logo }

// Text returns a message in the language that the reader prefers, for use outside of
// the built-in pages.
func (s *Set) Text(acceptLanguage, key string) string { return s.match(acceptLanguage).texts[key] }

func (s *Set) match(acceptLanguage string) *translation {
	const longest = 512 // longer lists take time and mean nothing
	wanted, _, err := language.ParseAcceptLanguage(acceptLanguage[:min(len(acceptLanguage), longest)])
	if err != nil {
		return s.languages[0]
	}
	_, i, _ := s.matcher.Match(wanted...)
	return s.languages[i]
}
