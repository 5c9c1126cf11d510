package pages

// Error describes an error. Kind chooses the words; Description and Code are for the
// developer of a client. Host is that of a client to which the user was not sent back.
type Error struct{ Kind, Description, Code, Host string }

func (p Error) content(v view) content {
	title, what := "error."+p.Kind+"_title", v.say("error."+p.Kind)
	if p.Host != "" {
		what = v.say("error.redirect", with{"host": host(p.Host)})
	}
	return content{title: title, main: group(
		el("h1", v.say(title)),
		el("p", attr("role", "alert"), what),
		when(p.Kind != "missing", el("div", class("details"),
			when(p.Description != "", el("p", english(p.Description))),
			el("p", v.say("error.code"), text(": "), el("code", text(p.Code))),
		)),
	)}
}
