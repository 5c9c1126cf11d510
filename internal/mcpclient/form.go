package mcpclient

import (
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/html"
)

// form is a form of a page.
type form struct {
	action, method string
	inputs         []input
}

type input struct {
	kind, name, value string // kind is the attribute type, or "button" for a <button>
	checked           bool
}

// fill returns the form's values with name and password in their fields, and the
// button pressed that approves or puts off.
func (f *form) fill(username, password string) url.Values {
	values := url.Values{}
	for _, in := range f.inputs {
		switch {
		case in.name == "":
		case in.kind == "password":
			values.Set(in.name, password)
		case isUserField(in):
			values.Set(in.name, username)
		case in.kind == "button" || in.kind == "submit":
			if isApproval(in) || isLater(in) {
				values.Set(in.name, in.value)
			}
		case (in.kind == "checkbox" || in.kind == "radio") && !in.checked:
		case in.kind != "reset" && in.kind != "image" && in.kind != "file":
			values.Add(in.name, in.value)
		}
	}
	return values
}

func isUserField(in input) bool {
	return (in.kind == "text" || in.kind == "email") && slices.Contains([]string{"username", "email", "user", "login"}, in.name)
}

func isApproval(in input) bool {
	return in.name == "decision" && in.value == "approve"
}

// isLater reports whether a button puts off what a page offers, such as to connect an account.
func isLater(in input) bool {
	return in.name == "decision" && in.value == "later"
}

// chooseForm picks the form that signs in, or else the form that approves, or else the one that puts
// off what the page offers.
func chooseForm(forms []form) (f *form, isLogin bool) {
	for i := range forms {
		if isLoginForm(forms[i]) {
			return &forms[i], true
		}
	}
	for _, button := range []func(input) bool{isApproval, isLater} {
		for i := range forms {
			if slices.ContainsFunc(forms[i].inputs, button) {
				return &forms[i], false
			}
		}
	}
	return nil, false
}

// isLoginForm reports whether a form takes the password. One with a decision takes another secret,
// such as a key.
func isLoginForm(f form) bool {
	return slices.ContainsFunc(f.inputs, func(in input) bool { return in.kind == "password" }) &&
		!slices.ContainsFunc(f.inputs, func(in input) bool { return in.name == "decision" })
}

// readPage reads the forms and the title of a page. A form ends with its end tag and
// cannot contain another form, as in browsers without scripts.
func readPage(page string) (forms []form, title string) {
	z := html.NewTokenizer(strings.NewReader(page))
	open, templates := false, 0
	for {
		kind := z.Next()
		if kind == html.ErrorToken {
			return forms, title
		}
		t := z.Token()
		switch start := kind == html.StartTagToken || kind == html.SelfClosingTagToken; {
		case t.Data == "template" && start:
			templates++
		case t.Data == "template" && kind == html.EndTagToken:
			templates = max(templates-1, 0)
		case templates > 0: // a template is not part of the page
		case t.Data == "form" && kind == html.EndTagToken:
			open = false
		case !start:
		case t.Data == "noscript":
			z.NextIsNotRawText()
		case t.Data == "title":
			if z.Next() == html.TextToken {
				title = z.Token().Data
			}
		case t.Data == "form" && !open:
			forms = append(forms, form{action: attribute(t, "action"), method: attribute(t, "method")})
			open = true
		case open && (t.Data == "input" || t.Data == "button"):
			f := &forms[len(forms)-1]
			f.inputs = append(f.inputs, inputOf(t))
		}
	}
}

func inputOf(t html.Token) input {
	in := input{kind: strings.ToLower(attribute(t, "type")), name: attribute(t, "name"), value: attribute(t, "value")}
	switch {
	case t.Data == "button":
		in.kind = "button"
	case in.kind == "":
		in.kind = "text"
	}
	in.checked = slices.ContainsFunc(t.Attr, func(a html.Attribute) bool { return a.Key == "checked" })
	return in
}

// attribute returns the value of an attribute. If it is there twice the first one counts.
func attribute(t html.Token, name string) string {
	for _, a := range t.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}
