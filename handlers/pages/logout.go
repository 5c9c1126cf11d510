package pages

// Logout asks whether to sign out, and is shown without an account when nobody is signed in. Its form
// sends back the rest. Host is where the browser goes afterwards; it may be empty.
type Logout struct {
	Account, Host                string
	ClientID, RedirectURI, State string
}

func (p Logout) content(v view) content {
	c := content{title: "logout.done_title", main: signedOut(v, part{})}
	button := v.say("logout.back_submit", with{"host": host(p.Host)})
	if p.Account != "" {
		c.title, button = "logout.title", v.say("logout.submit")
		c.main = group(
			el("h1", v.say("logout.title")),
			el("p", v.say("logout.text", with{"account": name(p.Account)})),
			when(p.Host != "", el("p", v.say("logout.back", with{"host": host(p.Host)}))),
		)
	}
	if p.Account != "" || p.Host != "" {
		c.main = group(c.main, v.form("/logout",
			when(p.Host != "", group(hidden("client_id", p.ClientID), hidden("post_logout_redirect_uri", p.RedirectURI), hidden("state", p.State))),
			el("button", attr("type", "submit"), class("primary"), button),
		))
	}
	return c
}

// SignedOut is shown after signing out on the account page.
type SignedOut struct{ Note string } // key of a message, or ""

func (p SignedOut) content(v view) content {
	var note part
	if p.Note != "" {
		note = group(text(" "), v.say(p.Note))
	}
	return content{title: "logout.done_title", main: signedOut(v, note)}
}

func signedOut(v view, note part) part {
	return group(el("h1", v.say("logout.done_title")), el("p", attr("role", "status"), v.say("logout.done"), note))
}
