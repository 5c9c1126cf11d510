package pages

// Connect is what the page shows on which users connect providers.
type Connect struct {
	State   string
	Account string
	Client  string // that waits for the user; empty: the user has followed a link
	Problem string // key of a message
	Offers  []Offer
}

// Offer is a connection that the user may make.
type Offer struct {
	ID, Name, Host  string
	Servers, Scopes []string
	Key             bool // the user enters a key
}

func (p Connect) content(v view) content {
	why := v.say("connect.by_link")
	leave := submit("decision", "later", v.say("connect.cancel"))
	if p.Client != "" {
		why = v.say("connect.after_login", with{"client": v.client(p.Client)})
		leave = group(
			el("p", class("hint"), attr("id", "later"), v.say("connect.later_hint")),
			submit("decision", "later", described("later"), v.say("connect.later")),
		)
	}
	return content{title: "connect.title", main: group(
		el("h1", v.say("connect.title")),
		el("p", why),
		el("p", class("hint"), v.say("account.signed_in", with{"account": name(p.Account)})),
		v.problem(p.Problem),
		each(p.Offers, func(o Offer) part { return o.section(v, p.State) }),
		v.form("/oauth/connect", hidden("state", p.State), leave),
	)}
}

// section offers to make a connection.
func (o Offer) section(v view, state string) part {
	return el("section", attr("aria-label", o.Name),
		el("h2", name(o.Name)),
		el("dl",
			when(o.Host != "", row(v.say("consent.destination"), class("host"), text(o.Host))),
			row(v.say("connect.servers"), codes(o.Servers)),
			when(len(o.Scopes) > 0, row(v.say("connect.scopes"), codes(o.Scopes))),
		),
		v.form("/oauth/connect",
			hidden("state", state),
			hidden("connection", o.ID),
			when(o.Key, group(
				el("label", attr("for", "key-"+o.ID), v.say("connect.key")),
				el("input", attr("id", "key-"+o.ID), attr("name", "key"), attr("type", "password"), attr("autocomplete", "off"), flag("required"), described("hint-"+o.ID)),
				el("p", class("hint"), attr("id", "hint-"+o.ID), v.say("connect.key_hint")),
			)),
			submit("decision", "connect", class("primary"), v.say("connect.submit", with{"connection": name(o.Name)})),
		),
	)
}

// Connected is shown to users whose new connection no application waits for.
type Connected struct{}

func (Connected) content(v view) content {
	return content{title: "connect.done_title", main: group(
		el("h1", v.say("connect.done_title")),
		el("p", attr("role", "status"), v.say("connect.done")),
		toAccount(v),
	)}
}

// ConnectFailed is shown to users whose connection was not made.
type ConnectFailed struct{ Message string }

func (p ConnectFailed) content(v view) content {
	return content{title: "connect.failed_title", main: group(
		el("h1", v.say("connect.failed_title")),
		el("p", attr("role", "alert"), v.say("connect.failed")),
		when(p.Message != "", el("div", class("details"), el("p", v.say("connect.message"), text(": "), english(p.Message)))),
		toAccount(v),
	)}
}

func toAccount(v view) part {
	return el("p", el("a", href(v.path("/account")), v.say("account.title")))
}
