package pages

import (
	"time"
)

// Consent is what the consent page shows.
type Consent struct {
	State      string
	Client     string
	ClientHost string // host of a client id that is a URL
	Unverified bool   // the client chose its name itself
	Host       string // where the browser goes on approval
	Loopback   bool
	Scopes     []Scope
	Had        []string // scopes that the client has already
	ReadOnly   bool     // the user may approve for reading only
	Durations  []Duration
	Problem    string // key of a message
	Resource   string
	Account    string
	Other      URL    // link to sign in with another account
	SignInAt   string // name of the provider where the user signs in afterwards, in place of Account and Other
}

// Scope is a scope on the consent page.
type Scope struct {
	Name     string
	Free     bool // it may be refused
	Ticked   bool
	Required bool // it may not, while others may
}

// Duration is a duration on the consent page.
type Duration struct {
	Name   string
	Text   string // key of a message
	Ticked bool
	At     time.Time
}

func (p Consent) content(v view) content {
	return content{title: "consent.title", main: group(
		el("h1", v.say("consent.title")),
		el("p", v.say("consent.wants", with{"client": v.client(p.Client)})),
		when(p.Unverified, el("p", class("hint"), el("span", class("badge"), v.say("consent.unverified")), text(" "), p.unverified(v))),
		v.form("/consent",
			hidden("state", p.State),
			v.problem(p.Problem),
			p.scopes(v),
			p.facts(v),
			when(len(p.Durations) > 0, el("fieldset",
				el("legend", v.say("consent.duration")),
				each(p.Durations, func(d Duration) part {
					return choice("radio", "duration", d.Name, d.Ticked, v.say(d.Text, with{"date": v.date(d.At)}))
				}),
			)),
			when(p.Loopback, el("div", class("warning"), attr("role", "note"),
				el("strong", v.say("consent.local_title")), text(" "), v.say("consent.local", with{"host": host(p.Host)}))),
			el("div", class("choice"),
				submit("decision", "deny", v.say("consent.deny")),
				submit("decision", "approve", class("primary"), v.say("consent.approve")),
			),
			when(p.ReadOnly, submit("decision", "read_only", v.say("consent.read_only"))),
		),
	)}
}

// unverified says what is known of a client that chose its name itself.
func (p Consent) unverified(v view) part {
	if p.ClientHost != "" {
		return v.say("consent.document_hint", with{"host": host(p.ClientHost)})
	}
	return v.say("consent.unverified_hint")
}

// scopes lists what the client has and what it asks for.
func (p Consent) scopes(v view) part {
	may := "consent.may"
	if len(p.Had) > 0 {
		may = "consent.may_also"
	}
	return group(
		when(len(p.Had) > 0, group(
			el("h2", attr("id", "had"), v.say("consent.had")),
			el("ul", class("scopes"), attr("aria-labelledby", "had"), each(p.Had, func(s string) part { return el("li", v.scope(s)) })),
		)),
		el("h2", attr("id", "may"), v.say(may)),
		el("ul", class("scopes"), attr("aria-labelledby", "may"), each(p.Scopes, func(s Scope) part {
			if s.Free {
				return el("li", class("free"), choice("checkbox", "allow", s.Name, s.Ticked, v.scope(s.Name)))
			}
			return el("li", v.scope(s.Name), when(s.Required, group(text(" "), el("span", class("needed"), v.say("consent.required")))))
		})),
	)
}

// choice is a box or a button to tick.
func choice(kind, name, value string, ticked bool, text part) part {
	return el("label", el("input", attr("type", kind), attr("name", name), attr("value", value), when(ticked, flag("checked"))), el("span", text))
}

// facts lists who gets access to what.
func (p Consent) facts(v view) part {
	account := part(group(text(p.Account), el("br"), el("a", href(p.Other), v.say("consent.other"))))
	if p.SignInAt != "" {
		account = v.say("consent.sign_in_at", with{"provider": name(p.SignInAt)})
	}
	return el("dl",
		row(v.say("consent.account"), account),
		when(p.ClientHost != "", row(v.say("consent.application"), class("host"), text(p.ClientHost))),
		row(v.say("consent.destination"), class("host"), text(p.Host)),
		row(v.say("consent.resource"), class("host"), text(p.Resource)),
	)
}
