package pages

import (
	"cmp"
	"strings"
)

// part is a part of a page: attributes of the element around it, and HTML that is content of that
// element. The functions of this file make it from text, and escape the text. The zero part is
// nothing.
type part struct {
	attributes, content string
	err                 error
}

// group is several parts, one after another.
func group(parts ...part) (all part) {
	for _, p := range parts {
		all.attributes += p.attributes
		all.content += p.content
		all.err = cmp.Or(all.err, p.err)
	}
	return all
}

// when is a part if the condition is met, or else nothing.
func when(condition bool, p part) part {
	if condition {
		return p
	}
	return part{}
}

// each is a part for each item of a list.
func each[T any](list []T, show func(T) part) (all part) {
	for _, item := range list {
		all = group(all, show(item))
	}
	return all
}

// el is an element.
func el(name string, parts ...part) part {
	inside := group(parts...)
	begin := "<" + name + inside.attributes + ">"
	switch name {
	case "br", "img", "input", "link", "meta":
		return part{content: begin, err: inside.err}
	}
	return part{content: begin + inside.content + "</" + name + ">", err: inside.err}
}

// escaper makes text safe in an element, and in an attribute with quotes.
var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;", "'", "&#39;", "\x00", "\uFFFD")

func text(s string) part { return part{content: escaper.Replace(s)} }

func attr(name, value string) part {
	return part{attributes: " " + name + `="` + escaper.Replace(value) + `"`}
}

// flag is an attribute without a value.
func flag(name string) part { return part{attributes: " " + name} }

func class(name string) part { return attr("class", name) }

// URL is an address that the server has made. Text from elsewhere is in it only if it was
// escaped for its place, so no link leads to a script.
type URL string

func href(u URL) part { return attr("href", string(u)) }
