package pages

// Home is shown to people who open the issuer in a browser.
type Home struct {
	Resources []string
	Documents []URL
}

func (p Home) content(v view) content {
	return content{title: "home.title", main: group(
		el("h1", v.say("home.title")),
		el("p", v.say("home.text")),
		each(p.Resources, func(r string) part { return el("p", class("host"), text(r)) }),
		el("p", class("hint"), v.say("home.documents"), each(p.Documents, func(d URL) part {
			return group(el("br"), el("a", class("host"), href(d), text(string(d))))
		})),
	)}
}
