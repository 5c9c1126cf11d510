package pages

import (
	"cmp"
	"time"
)

// Page is what one page shows: [Login], [Consent], [Account] and the other types of this
// package that have a content.
type Page interface{ content(v view) content }

// content is a page without its layout.
type content struct {
	title string // key of a message
	wide  bool
	main  part
}

// view is what all pages need to be rendered.
type view struct {
	texts // of the reader's language
	site  Site
}

// path is an address below the issuer's.
func (v view) path(p string) URL { return URL(v.site.Path + p) }

// layout is the whole page.
func (s *Set) layout(l *translation, v view, c content) part {
	width := "narrow"
	if c.wide {
		width = "wide"
	}
	logo := v.path("/assets/logo")
	return group(part{content: "<!DOCTYPE html>"}, el("html", attr("lang", l.tag.String()), when(l.dir != "", attr("dir", l.dir)),
		el("head",
			el("meta", attr("charset", "utf-8")),
			el("meta", attr("name", "viewport"), attr("content", "width=device-width, initial-scale=1")),
			el("meta", attr("name", "color-scheme"), attr("content", "light dark")),
			el("title", v.say(c.title), text(" · "+v.site.App)),
			el("link", attr("rel", "icon"), href(logo)),
			el("style", part{content: s.style}), // whose hash the policy has
		),
		el("body", class(width),
			el("header", el("img", attr("src", string(logo)), attr("alt", "")), el("p", class("app"), text(v.site.App))),
			el("main", c.main),
		),
	))
}

// form is a form that is posted to a path of the site.
func (v view) form(path string, children ...part) part {
	return el("form", attr("method", "post"), attr("action", string(v.path(path))), group(children...))
}

func hidden(name, value string) part {
	return el("input", attr("type", "hidden"), attr("name", name), attr("value", value))
}

func submit(name, value string, children ...part) part {
	return el("button", attr("type", "submit"), attr("name", name), attr("value", value), group(children...))
}

// row is a row of a list of descriptions.
func row(term part, description ...part) part {
	return el("div", el("dt", term), el("dd", description...))
}

// codes is a row of words that are not in the reader's language.
func codes(list []string) part {
	return each(list, func(s string) part { return group(el("code", text(s)), text(" ")) })
}

// problem is a message about what the user sent, or nothing.
func (v view) problem(key string) part {
	if key == "" {
		return part{}
	}
	return problemBox(v.say(key))
}

func problemBox(text part) part {
	return el("div", class("error"), attr("role", "alert"), attr("id", "problem"), text)
}

// wrong marks the field that a problem is about.
func wrong(is bool) part { return when(is, attr("aria-invalid", "true")) }

// described says that the element with an id describes a field.
func described(by string) part { return attr("aria-describedby", by) }

// name is a name from elsewhere.
func name(s string) part { return el("strong", class("name"), text(s)) }

// client is the name of a client.
func (t texts) client(s string) part { return name(t.clientName(s)) }

func (t texts) clientName(s string) string { return cmp.Or(s, t["client.unnamed"]) }

// host is the host that an address leads to.
func host(s string) part { return el("span", class("host"), text(s)) }

// english is text for developers.
func english(s string) part { return el("span", attr("lang", "en"), text(s)) }

// scope is a scope, in words too if there are any.
func (t texts) scope(name string) part {
	code := el("code", text(name))
	if words := t["scope."+name]; words != "" {
		return group(text(words+" "), code)
	}
	return code
}

// moment shows a time. If it is zero, it shows a message instead.
func (t texts) moment(at time.Time, ifZero string) part {
	if at.IsZero() {
		return t.say(ifZero)
	}
	return el("time", attr("datetime", at.UTC().Format(time.RFC3339)), t.date(at))
}
