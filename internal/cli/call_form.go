package cli

import (
	"html"
	"net/url"
	"slices"
	"strings"
)

// form is what is read of a form in a page.
type form struct {
	action, method string
	inputs         []input
}

type input struct {
	kind, name, value string // kind is the type attribute, "button" for a <button>
	checked           bool
}

// fill returns the form's values with name and password where they belong, and the
// approving button pressed.
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
			if isApproval(in) {
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

// chooseForm picks the form that signs in, else the one that approves.
func chooseForm(forms []form) (f *form, isLogin bool) {
	for i := range forms {
		if slices.ContainsFunc(forms[i].inputs, func(in input) bool { return in.kind == "password" }) {
			return &forms[i], true
		}
	}
	for i := range forms {
		if slices.ContainsFunc(forms[i].inputs, isApproval) {
			return &forms[i], false
		}
	}
	return nil, false
}

// parseForms reads the forms of a page. It is no HTML parser: it knows tags,
// attributes, comments and the elements whose text is no markup, which is what
// forms are made of.
func parseForms(page string) []form {
	var forms []form
	open := false
	for {
		var t tag
		if t, page = nextTag(page); t.name == "" {
			return forms
		}
		switch t.name {
		case "script", "style", "textarea", "title", "template":
			i := indexFold(page, "</"+t.name)
			if i < 0 {
				return forms // the rest is its text
			}
			page = page[i:]
		case "form":
			forms = append(forms, form{action: t.attrs["action"], method: t.attrs["method"]})
			open = true
		case "/form":
			open = false
		case "input", "button":
			if !open {
				continue
			}
			f := &forms[len(forms)-1]
			_, checked := t.attrs["checked"]
			f.inputs = append(f.inputs, input{kind: kindOf(t), name: t.attrs["name"], value: t.attrs["value"], checked: checked})
		}
	}
}

func kindOf(t tag) string {
	switch kind := strings.ToLower(t.attrs["type"]); {
	case t.name == "button":
		return "button"
	case kind == "":
		return "text"
	default:
		return kind
	}
}

// pageTitle is the text of the title element.
func pageTitle(page string) string {
	_, rest, ok := strings.Cut(page, "<title>")
	title, _, end := strings.Cut(rest, "</title>")
	if !ok || !end {
		return ""
	}
	return html.UnescapeString(title)
}

// tag is a start tag, or an end tag with a name that begins with a slash.
type tag struct {
	name  string
	attrs map[string]string
}

// nextTag returns the first tag of s and what follows it. Without one the name is empty.
func nextTag(s string) (tag, string) {
	for {
		i := strings.IndexByte(s, '<')
		if i < 0 {
			return tag{}, ""
		}
		s = s[i+1:]
		if comment, ok := strings.CutPrefix(s, "!--"); ok {
			if _, s, ok = strings.Cut(comment, "-->"); !ok {
				return tag{}, ""
			}
			continue
		}
		n := 0
		for n < len(s) && (isLetter(s[n]) || n == 0 && s[n] == '/' || n > 0 && s[n] >= '0' && s[n] <= '9') {
			n++
		}
		name := strings.ToLower(s[:n])
		if name == "" || name == "/" {
			continue
		}
		attrs, rest := attributes(s[n:])
		return tag{name, attrs}, rest
	}
}

// attributes reads attributes up to the end of the tag, and returns what follows. Of
// one that stands there twice the first counts.
func attributes(s string) (map[string]string, string) {
	attrs := map[string]string{}
	for {
		s = strings.TrimLeft(s, " \t\r\n\f/")
		if s == "" {
			return attrs, ""
		}
		if s[0] == '>' {
			return attrs, s[1:]
		}
		n := strings.IndexAny(s[1:], " \t\r\n\f/>=") + 1 // a name is at least one character
		if n == 0 {
			return attrs, ""
		}
		name, value := strings.ToLower(s[:n]), ""
		s = strings.TrimLeft(s[n:], " \t\r\n\f")
		if rest, ok := strings.CutPrefix(s, "="); ok {
			value, s = attributeValue(strings.TrimLeft(rest, " \t\r\n\f"))
		}
		if _, twice := attrs[name]; !twice {
			attrs[name] = html.UnescapeString(value)
		}
	}
}

func attributeValue(s string) (value, rest string) {
	if s != "" && (s[0] == '"' || s[0] == '\'') {
		value, rest, _ = strings.Cut(s[1:], s[:1])
		return value, rest
	}
	n := strings.IndexAny(s, " \t\r\n\f>")
	if n < 0 {
		return s, ""
	}
	return s[:n], s[n:]
}

func isLetter(b byte) bool { return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' }

// indexFold is the index of an ASCII string in any case.
func indexFold(s, substr string) int {
	for i := 0; i+len(substr) <= len(s); i++ {
		if strings.EqualFold(s[i:i+len(substr)], substr) {
			return i
		}
	}
	return -1
}
