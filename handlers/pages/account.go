package pages

import (
	"net/url"
	"strconv"
	"time"
)

// Account is what the account page shows.
type Account struct {
	Token        string // ties the forms to the session
	Account      string
	Apps         []App
	Previous     int // number of the page before, 0: none
	Next         int
	Password     bool   // the user can change the password here
	EndsSessions bool   // signing out everywhere ends every session of the user
	Done         string // the action just done, as the end of a message's key
	Problem      string // key of a message about the password
	WrongOld     bool   // the problem is the current password, not the new one
	Provider     *Provider
	Links        []Link
	Reason       string // why the new password is refused, in English
}

// App is one connected application.
type App struct {
	Client, Key string  // Key is the hash of its id
	Count       int     // of its grants
	Grants      []Grant // the newest of them
}

// Grant is one sign-in with an application.
type Grant struct {
	ID, Client  string
	Scopes      []string
	Resource    string
	Since, Used time.Time // Used is zero until the first refresh
	Until       time.Time
	Replays     int64
}

// Provider is the provider at which the user signs in.
type Provider struct {
	Name    string
	Account string    // what the provider says of the user: name and e-mail address
	Renewed time.Time // when the provider's tokens were got; zero: there are none
}

// Link is a connection that the user has made, or may make.
type Link struct {
	ID, Name string
	Scopes   []string
	Since    time.Time // zero: it is not made
	Used     time.Time // to the hour; zero: never
}

func (p Account) content(v view) content {
	return content{title: "account.title", wide: true, main: group(
		el("h1", v.say("account.title")),
		el("p", v.say("account.signed_in", with{"account": name(p.Account)})),
		when(p.Done != "", el("div", class("done"), attr("role", "status"), v.say("account.done_"+p.Done))),
		p.apps(v),
		when(len(p.Links) > 0, p.links(v)),
		p.provider(v),
		when(p.Password, p.password(v)),
		p.leave(v),
	)}
}

// form is a form of the account page, with a button for one action.
func (p Account) form(v view, children ...part) part {
	return v.form("/account", hidden("token", p.Token), group(children...))
}

func section(id string, children ...part) part {
	return el("section", attr("aria-labelledby", id), group(children...))
}

func hint(text part) part { return el("p", class("hint"), text) }

// apps lists the applications on one page of the list.
func (p Account) apps(v view) part {
	if len(p.Apps) == 0 {
		return section("apps", el("h2", attr("id", "apps"), v.say("account.apps")), el("p", v.say("account.no_apps")))
	}
	turn := func(page int, text string) part {
		return when(page != 0, el("a", href(v.path("/account?page="+strconv.Itoa(page))), v.say(text)))
	}
	return section("apps",
		el("h2", attr("id", "apps"), v.say("account.apps")),
		hint(v.say("account.apps_hint")),
		el("ul", class("grants"), each(p.Apps, func(a App) part { return p.app(v, a) })),
		when(p.Previous != 0 || p.Next != 0, el("nav", class("choice"), attr("aria-labelledby", "apps"),
			turn(p.Previous, "account.previous"), text(" "), turn(p.Next, "account.next"))),
	)
}

// app is one application with its grants.
func (p Account) app(v view, a App) part {
	label := func(client string) part { return v.label("account.disconnect_one", "client", v.clientName(client)) }
	return el("li",
		el("h3", v.client(a.Client)),
		each(a.Grants, func(grant Grant) part {
			return group(
				grant.facts(v),
				p.form(v, hidden("grant", grant.ID), submit("action", "disconnect", label(grant.Client), v.say("account.disconnect"))),
			)
		}),
		when(a.Count > 1, v.form("/account",
			hint(v.say("account.connections", with{"count": text(strconv.Itoa(a.Count))})),
			hidden("token", p.Token),
			hidden("client", a.Key),
			submit("action", "disconnect_all", class("danger"), label(a.Client), v.say("account.disconnect_all")),
		)),
	)
}

// facts lists what a grant is for.
func (a Grant) facts(v view) part {
	return el("dl",
		row(v.say("account.may"), each(a.Scopes, func(s string) part {
			return group(el("span", class("scope"), v.scope(s)), text(" "))
		})),
		row(v.say("account.resource"), class("host"), text(a.Resource)),
		row(v.say("account.since"), v.moment(a.Since, "account.unused")),
		row(v.say("account.used"), v.moment(a.Used, "account.unused")),
		row(v.say("account.until"), v.moment(a.Until, "account.unused")),
		when(a.Replays != 0, row(v.say("account.replays"),
			text(strconv.FormatInt(a.Replays, 10)+" "), el("span", class("hint"), v.say("account.replays_hint")))),
	)
}

// links lists the user's connections.
func (p Account) links(v view) part {
	return section("links",
		el("h2", attr("id", "links"), v.say("account.links")),
		hint(v.say("account.links_hint")),
		when(p.EndsSessions, hint(v.say("account.links_end"))),
		el("ul", class("grants"), each(p.Links, func(l Link) part {
			return el("li", el("h3", name(l.Name)), p.link(v, l))
		})),
	)
}

// link offers to end a connection, or to make it.
func (p Account) link(v view, l Link) part {
	since := row(v.say("account.link_since"), v.moment(l.Since, "account.link_none"))
	connection := with{"connection": name(l.Name)}
	if l.Since.IsZero() {
		connect := v.path("/oauth/authorize?provider=" + url.QueryEscape(l.ID) + "&return_to=" + url.QueryEscape(v.site.Path+"/account"))
		return group(el("dl", since), el("p", el("a", href(connect), v.say("account.link_connect", connection))))
	}
	return group(
		el("dl",
			since,
			when(len(l.Scopes) > 0, row(v.say("account.link_scopes"), codes(l.Scopes))),
			row(v.say("account.link_used"), v.moment(l.Used, "account.unused")),
		),
		p.form(v, hidden("connection", l.ID), submit("action", "disconnect_link", class("danger"), v.say("account.link_disconnect", connection))),
	)
}

// provider offers to take what the user's provider gave.
func (p Account) provider(v view) part {
	if p.Provider == nil {
		return part{}
	}
	provider := with{"provider": name(p.Provider.Name)}
	return section("provider",
		el("h2", attr("id", "provider"), v.say("account.provider", provider)),
		hint(v.say("account.provider_hint", provider)),
		el("dl",
			row(v.say("consent.account"), text(p.Provider.Account)),
			row(v.say("account.provider_renewed"), v.moment(p.Provider.Renewed, "account.provider_none")),
		),
		p.form(v, submit("action", "disconnect_provider", class("danger"), v.say("account.provider_disconnect", provider))),
	)
}

// password offers to change the password.
func (p Account) password(v view) part {
	problem, describes := v.problem(p.Problem), "change-hint"
	if p.Reason != "" {
		problem = problemBox(v.say(p.Problem, with{"reason": english(p.Reason)}))
	}
	if p.Problem != "" {
		describes = "problem change-hint"
	}
	return section("change",
		el("h2", attr("id", "change"), v.say("account.password")),
		el("p", class("hint"), attr("id", "change-hint"), v.say("account.password_hint")),
		problem,
		p.form(v,
			el("input", attr("type", "hidden"), attr("name", "username"), attr("value", p.Account), attr("autocomplete", "username")),
			el("label", attr("for", "old"), v.say("account.password_old")),
			el("input", attr("id", "old"), attr("name", "old"), attr("type", "password"), attr("autocomplete", "current-password"), flag("required"),
				when(p.Problem != "", group(flag("autofocus"), described("problem"))), wrong(p.WrongOld)),
			el("label", attr("for", "new"), v.say("account.password_new")),
			el("input", attr("id", "new"), attr("name", "new"), attr("type", "password"), attr("autocomplete", "new-password"), flag("required"), described(describes), wrong(p.Reason != "")),
			submit("action", "password", v.say("account.password_submit")),
		),
	)
}

// leave offers to sign out.
func (p Account) leave(v view) part {
	what := "account.sign_out_limited"
	if p.EndsSessions {
		what = "account.sign_out_hint"
	}
	return section("leave",
		el("h2", attr("id", "leave"), v.say("account.sign_out")),
		hint(v.say(what)),
		p.form(v, el("div", class("choice"),
			submit("action", "sign_out", v.say("account.sign_out_here")),
			submit("action", "sign_out_all", class("danger"), v.say("account.sign_out_all")),
		)),
	)
}
