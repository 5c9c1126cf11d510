// Package person goes through a server's login and consent pages with plain requests,
// as a user does in a browser. Only this package knows the fields of the forms.
package person

import (
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// Page is an answer whose body was read.
type Page struct {
	*http.Response
	Body string
	At   *url.URL // URL of the request
}

// To returns the target of a redirect, or nil.
func (p *Page) To() *url.URL {
	location := p.Header.Get("Location")
	if location == "" {
		return nil
	}
	to, err := p.At.Parse(location)
	if err != nil {
		return nil
	}
	return to
}

// Left returns the target of a redirect that leaves the server, or nil.
func (p *Page) Left() *url.URL {
	if to := p.To(); to != nil && to.Host != p.At.Host {
		return to
	}
	return nil
}

// String formats a page for the message of a test.
func (p *Page) String() string {
	return fmt.Sprintf("%d %s %s", p.StatusCode, p.Header.Get("Location"), p.Body)
}

var (
	formAction  = regexp.MustCompile(`<form[^>]*action="([^"]*)"`)
	hiddenField = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)"`)
)

// Form returns the action and the hidden fields of the first form on the page. Without
// a form, action is empty.
func (p *Page) Form() (action string, fields url.Values) {
	fields = url.Values{}
	m := formAction.FindStringSubmatch(p.Body)
	if m == nil {
		return "", fields
	}
	for _, f := range hiddenField.FindAllStringSubmatch(p.Body, -1) {
		fields.Set(html.UnescapeString(f[1]), html.UnescapeString(f[2]))
	}
	return html.UnescapeString(m[1]), fields
}

// AsksPassword reports whether this is the login page.
func (p *Page) AsksPassword() bool { return strings.Contains(p.Body, `name="password"`) }

// AsksConsent reports whether this is the consent page.
func (p *Page) AsksConsent() bool { return strings.Contains(p.Body, `value="approve"`) }

// Person is a user with a browser, which keeps cookies.
type Person struct {
	Name, Password string
	Cookies        map[string]*http.Cookie
	Header         http.Header // sent with forms; nil: the Origin of the server
	Way            http.RoundTripper
}

// New returns a person without cookies, for requests over the network.
func New(name, password string) *Person { return Over(http.DefaultTransport, name, password) }

// Over is New with another transport.
func Over(way http.RoundTripper, name, password string) *Person {
	return &Person{Name: name, Password: password, Cookies: map[string]*http.Cookie{}, Way: way}
}

// Do sends one request, with cookies, and follows no redirect.
func (p *Person) Do(r *http.Request) (*Page, error) {
	r.Header.Set("Accept", "text/html")
	for _, c := range p.Cookies {
		r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
	}
	resp, err := p.Way.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	for _, c := range resp.Cookies() {
		p.Cookies[c.Name] = c
		if c.MaxAge < 0 {
			delete(p.Cookies, c.Name)
		}
	}
	return &Page{Response: resp, Body: string(body), At: r.URL}, nil
}

// Open opens a link, such as an authorization request, and follows redirects on the
// same server.
func (p *Person) Open(link string) (*Page, error) {
	r, err := http.NewRequest(http.MethodGet, link, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	return p.follow(r)
}

func (p *Person) follow(r *http.Request) (*Page, error) {
	for range 10 {
		page, err := p.Do(r)
		if err != nil {
			return nil, err
		}
		to := page.To()
		if to == nil || page.Left() != nil {
			return page, nil
		}
		if r, err = http.NewRequest(http.MethodGet, to.String(), nil); err != nil {
			return nil, err
		}
		r.Header.Set("Sec-Fetch-Site", "cross-site")
	}
	return nil, fmt.Errorf("%s: too many redirects", r.URL)
}

// Answer returns the request that the filled form of the page sends.
func (p *Person) Answer(page *Page, typed url.Values) (*http.Request, error) {
	action, fields := page.Form()
	if action == "" {
		return nil, fmt.Errorf("no form: %s", page)
	}
	to, err := page.At.Parse(action)
	if err != nil {
		return nil, err
	}
	maps.Copy(fields, typed)
	return p.Form(to.String(), fields)
}

// Form returns the request that a page of the server sends with these fields.
func (p *Person) Form(to string, fields url.Values) (*http.Request, error) {
	r, err := http.NewRequest(http.MethodPost, to, strings.NewReader(fields.Encode()))
	if err != nil {
		return nil, err
	}
	if p.Header == nil {
		r.Header.Set("Origin", r.URL.Scheme+"://"+r.URL.Host)
	}
	maps.Copy(r.Header, p.Header)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r, nil
}

// Submit fills in the page's form, sends it and follows redirects on the same server.
func (p *Person) Submit(page *Page, typed url.Values) (*Page, error) {
	r, err := p.Answer(page, typed)
	if err != nil {
		return nil, err
	}
	return p.follow(r)
}

// Post sends a form as a page of the server does, and follows redirects on it.
func (p *Person) Post(to string, fields url.Values) (*Page, error) {
	r, err := p.Form(to, fields)
	if err != nil {
		return nil, err
	}
	return p.follow(r)
}

// SignIn fills in the login page and returns the next page. It returns any other page
// unchanged.
func (p *Person) SignIn(page *Page) (*Page, error) {
	if !page.AsksPassword() {
		return page, nil
	}
	return p.Submit(page, p.Credentials())
}

// Credentials are the fields that the user fills in on the login page.
func (p *Person) Credentials() url.Values {
	return url.Values{"username": {p.Name}, "password": {p.Password}}
}

// Approve approves on the consent page and returns the next page. It returns any other
// page unchanged.
func (p *Person) Approve(page *Page) (*Page, error) {
	if !page.AsksConsent() {
		return page, nil
	}
	return p.Submit(page, url.Values{"decision": {"approve"}})
}

// Authorize opens an authorization request, signs in and approves, if the pages ask for
// it. It returns the redirect to the client, or the last page.
func (p *Person) Authorize(link string) (*Page, error) {
	page, err := p.Open(link)
	if err == nil {
		page, err = p.SignIn(page)
	}
	if err == nil {
		page, err = p.Approve(page)
	}
	return page, err
}
