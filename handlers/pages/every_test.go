package pages_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"signet/handlers/pages"
)

// everyPage returns the pages in the states in which they differ. s is each text from elsewhere.
func everyPage(s string) []pages.Page {
	const link = "/auth/here"
	at := time.Date(2026, time.March, 1, 12, 30, 0, 0, time.UTC)
	two := []string{s, "read"}
	grant := pages.Grant{ID: s, Client: s, Scopes: two, Resource: s, Since: at, Until: at.AddDate(0, 1, 0)}
	used := grant
	used.Used, used.Replays = at, 3
	consent := pages.Consent{State: s, Client: s, Host: s, Scopes: []pages.Scope{{Name: s}, {Name: "openid"}}, Resource: s, Account: s, Other: link}
	choice := consent
	choice.Unverified, choice.Loopback, choice.ReadOnly, choice.Problem, choice.Had = true, true, true, "consent.no_scope", two
	choice.Scopes = []pages.Scope{{Name: s, Free: true, Ticked: true}, {Name: "write", Free: true}, {Name: "read", Required: true}}
	choice.Durations = []pages.Duration{{Name: s, Text: "consent.revoked", Ticked: true, At: at}, {Name: "day", Text: "consent.day", At: at}}
	document := consent
	document.Unverified, document.ClientHost, document.SignInAt = true, s, s
	offers := []pages.Offer{{ID: s, Name: s, Host: s, Servers: two, Scopes: two}, {ID: s, Name: s, Servers: two, Key: true}}
	return []pages.Page{
		pages.Login{State: s, Form: true, Field: "username"},
		pages.Login{State: s, Form: true, Field: "username", Account: true, Username: s, Problem: "login.invalid"},
		pages.Login{State: s, Form: true, Field: "email", Client: s, Host: s, Provider: s, At: s},
		pages.Login{State: s, Form: true, Field: "email", Client: s, Username: s, Problem: "login.missing", Ways: []pages.Way{{ID: s, Name: s}, {ID: "b", Name: "B"}}},
		pages.Login{State: s, Client: s, Problem: "login.upstream_down", Ways: []pages.Way{{ID: s, Name: s}}},
		consent, choice, document,
		pages.Account{Token: s, Account: s},
		pages.Account{
			Token: s, Account: s, Apps: []pages.App{{Client: s, Key: s, Count: 3, Grants: []pages.Grant{grant, used}}, {Key: s, Count: 1, Grants: []pages.Grant{grant}}},
			Previous: 1, Next: 3, Password: true, EndsSessions: true, Done: "password",
			Provider: &pages.Provider{Name: s, Account: s, Renewed: at},
			Links:    []pages.Link{{ID: s, Name: s}, {ID: s, Name: s, Since: at}, {ID: s, Name: s, Since: at, Used: at, Scopes: two}},
		},
		pages.Account{Token: s, Account: s, Password: true, Problem: "account.password_invalid", WrongOld: true, Provider: &pages.Provider{Name: s, Account: s}},
		pages.Account{Token: s, Account: s, Password: true, Problem: "account.password_refused", Reason: s, Done: "link", Apps: []pages.App{{Client: s, Key: s, Count: 1}}, Next: 2},
		pages.Account{Token: s, Account: s, Done: "disconnected"},
		pages.Logout{},
		pages.Logout{Account: s},
		pages.Logout{Account: s, Host: s, ClientID: s, RedirectURI: s, State: s},
		pages.Logout{Host: s, ClientID: s, RedirectURI: s, State: s},
		pages.SignedOut{}, pages.SignedOut{Note: "logout.everywhere"}, pages.SignedOut{Note: "logout.disconnected"},
		pages.Error{Kind: "request", Description: s, Code: s}, pages.Error{Kind: "request", Code: s, Host: s}, pages.Error{Kind: "missing"}, pages.Error{Kind: "busy", Code: s},
		pages.Home{Resources: two, Documents: []pages.URL{link, link}},
		pages.Connect{State: s, Account: s, Offers: offers}, pages.Connect{State: s, Account: s, Client: s, Problem: "connect.bad_key", Offers: offers},
		pages.Connected{}, pages.ConnectFailed{}, pages.ConnectFailed{Message: s},
	}
}

// Text from elsewhere is text on every page: neither an element, nor an attribute, nor the beginning
// of a URL, and no placeholder.
func TestTextFromElsewhereIsText(t *testing.T) {
	s := newSetFor(t, pages.Site{Path: "/auth"}, pages.Options{})
	for _, evil := range []string{`"'><zq onzq=zq>zq`, `</title></style></textarea></script><zq onzq=zq>`, " onzq=zq ", "javascript:zq", "//zq.example", "{client}{host}", "zq\x00&lt;zq&#62;"} {
		for _, lang := range []string{"en", "de"} {
			for _, p := range everyPage(evil) {
				page, _ := render(t, s, lang, p)
				document, err := html.Parse(strings.NewReader(page))
				if err != nil {
					t.Fatal(err)
				}
				whole := strings.ReplaceAll(evil, "\x00", "\uFFFD")
				for n := range document.Descendants() {
					if n.Type == html.ElementNode && strings.HasPrefix(n.Data, "zq") || n.Type == html.TextNode && n.Parent.Data != "style" && broken(n.Data, whole) {
						t.Errorf("%T, %q: it became %q", p, evil, n.Data)
					}
					for _, a := range n.Attr {
						ours := strings.HasPrefix(a.Val, "/auth/")
						if isURL := slices.Contains([]string{"href", "src", "action"}, a.Key); isURL && !ours || strings.HasPrefix(a.Key, "onzq") || !isURL && broken(a.Val, whole) {
							t.Errorf("%T, %q: it became the attribute %s=%q", p, evil, a.Key, a.Val)
						}
					}
				}
			}
		}
	}
}

// broken reports whether there is a part of the whole in s, but not the whole.
func broken(s, whole string) bool {
	rest := strings.ReplaceAll(s, whole, "")
	return strings.Contains(rest, "zq") || strings.Contains(rest, "{")
}
