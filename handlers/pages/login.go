package pages

// Login is what the login page shows.
type Login struct {
	State    string // value of the hidden field
	Username string // kept after a failure
	Problem  string // key of a message, or ""
	Account  bool   // the login is for the account page, not for a client
	Client   string // name of the client; may be empty
	Host     string // where the client gets its answer
	Form     bool   // whether there is a form for a name and a password
	Field    string // name of the form's field for the name: username or email
	Provider string // id of the provider that checks the password, or ""
	At       string // name of that provider
	Ways     []Way  // other ways to sign in
}

// Way is a provider at which the user may sign in.
type Way struct{ ID, Name string }

func (p Login) content(v view) content {
	to := v.say("login.to", with{"client": v.client(p.Client)})
	switch {
	case p.Account:
		to = v.say("login.to_account")
	case p.Host != "":
		to = v.say("login.to_host", with{"client": v.client(p.Client), "host": host(p.Host)})
	}
	return content{title: "login.title", main: group(
		el("h1", v.say("login.title")),
		el("p", to),
		v.problem(p.Problem),
		when(p.Form, p.form(v)),
		when(len(p.Ways) > 0, v.form(v.site.Login, class("ways"),
			hidden("state", p.State),
			each(p.Ways, func(w Way) part {
				return submit("provider", w.ID, v.say("login.with", with{"provider": name(w.Name)}))
			}),
		)),
	)}
}

// form asks for a name and a password.
func (p Login) form(v view) part {
	field := func(id string, children ...part) part {
		return el("input", attr("id", id), attr("name", id), group(children...))
	}
	mistake := when(p.Problem != "", group(wrong(true), described("problem")))
	username := group(
		attr("value", p.Username), attr("autocomplete", "username"), attr("autocapitalize", "none"), attr("autocorrect", "off"), attr("spellcheck", "false"),
		flag("required"), when(p.Username == "", flag("autofocus")), mistake,
	)
	names := group(el("label", attr("for", "username"), v.say("login.username")), field("username", username))
	if p.Field == "email" {
		names = group(el("label", attr("for", "email"), v.say("login.email")), field("email", attr("type", "email"), username))
	}
	return group(
		when(p.At != "", el("p", class("hint"), attr("id", "at"), v.say("login.at", with{"provider": name(p.At)}))),
		v.form(v.site.Login,
			hidden("state", p.State),
			when(p.Provider != "", hidden("provider", p.Provider)),
			names,
			el("label", attr("for", "password"), v.say("login.password")),
			field("password", attr("type", "password"), attr("autocomplete", "current-password"), flag("required"), when(p.Username != "", flag("autofocus")), mistake),
			el("button", attr("type", "submit"), class("primary"), v.say("login.submit")),
		),
	)
}
