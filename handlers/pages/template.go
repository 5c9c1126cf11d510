package pages

import (
	"bytes"
	"errors"
	"fmt"
	"html"
	"html/template"
	"regexp"
	"slices"
	"strings"
)

// maxTemplate is the greatest size of the operator's login page.
const maxTemplate = 1 << 20

// macros are the placeholders in a login template, and the fields that replace them.
// The first is the sealed transaction, never the client's state.
var macros = map[string]string{"{state}": "State", "{username}": "Username", "{app_name}": "App", "{error_message}": "Error"}

var macro = regexp.MustCompile(`\{(state|username|app_name|error_message)\}`)

// Braces in the template have no meaning, so actions stand between characters that have
// no meaning anywhere.
const left, right = "\uE000", "\uE001"

// readLogin returns the operator's login page, nil if there is none.
func readLogin(o Options, site Site) (*template.Template, error) {
	from, text := "LoginHTML", o.LoginHTML
	if o.LoginTemplate != "" {
		b, err := readFile(o.LoginTemplate, maxTemplate)
		if err != nil {
			return nil, err
		}
		from, text = o.LoginTemplate, string(b)
	} else if text == "" {
		return nil, nil
	}
	t, err := parseLogin(text, []string{site.Path + site.Login, site.Path + "/login", site.Path + "/oauth/login"})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	return t, nil
}

// parseLogin checks and parses the source of a login page: HTML in which {state},
// {username}, {app_name} and {error_message} are replaced wherever they stand. The last one
// is empty or a <div class="error"> that contains the text. Values are escaped for their
// place and not scanned for macros again. A macro in a place where escaping would not be
// enough is an error. The form must be sent to one of the given paths.
func parseLogin(src string, actions []string) (*template.Template, error) {
	if strings.ContainsAny(src, left+right) {
		return nil, errors.New("the characters U+E000 and U+E001 may not be used")
	}
	s := &scanner{src: src, actions: actions}
	s.scan()
	if err := errors.Join(s.faults...); err != nil {
		return nil, err
	}
	if err := s.checkForms(); err != nil {
		return nil, err
	}
	// html/template escapes each macro for the place where it finds it.
	src = macro.ReplaceAllStringFunc(src, func(m string) string { return left + "." + macros[m] + right })
	t, err := template.New("login").Delims(left, right).Parse(src)
	if err == nil {
		err = t.Execute(new(bytes.Buffer), ownLogin{})
	}
	return t, err
}

// ownLogin is the data of a login template.
type ownLogin struct {
	State, Username, App string
	Error                template.HTML
}

func (s *Set) renderOwn(body *bytes.Buffer, l *translation, login Login) error {
	own := ownLogin{State: login.State, Username: login.Username, App: s.site.App}
	if login.Problem != "" {
		text, err := l.texts.fill(login.Problem)
		if err != nil {
			return err
		}
		own.Error = `<div class="error">` + text + `</div>`
	}
	return s.login.Execute(body, own)
}

// scanner reads HTML as a browser does (HTML Standard §13.2.5), as far as it is needed
// to know where a macro stands.
type scanner struct {
	src     string
	actions []string
	faults  []error
	forms   []form
}

// form is a form with its fields.
type form struct {
	line           int
	method, action string
	fields         map[string]string // values by name
}

type attribute struct {
	name, value string
	at          int // offset at which the value begins
	quoted      bool
}

// fault records a mistake at an offset.
func (s *scanner) fault(at int, format string, args ...any) {
	s.faults = append(s.faults, fmt.Errorf("line %d: %s", s.line(at), fmt.Sprintf(format, args...)))
}

func (s *scanner) line(at int) int { return strings.Count(s.src[:at], "\n") + 1 }

// refuse records the macros between two offsets, where none are allowed.
func (s *scanner) refuse(from, to int, place string) {
	for _, m := range macro.FindAllStringIndex(s.src[from:to], -1) {
		s.fault(from+m[0], "%s cannot stand in %s", s.src[from+m[0]:from+m[1]], place)
	}
}

func (s *scanner) scan() {
	for at := 0; at < len(s.src); {
		i := strings.IndexByte(s.src[at:], '<')
		if i < 0 {
			return
		}
		at += i
		rest := s.src[at:]
		switch {
		case strings.HasPrefix(rest, "<!--"):
			at = s.comment(at)
		case len(rest) > 1 && letter(rest[1]):
			at = s.tag(at, at+1)
		case len(rest) > 2 && rest[1] == '/' && letter(rest[2]):
			at = s.tag(at, at+2)
		case len(rest) > 1 && strings.IndexByte("!?/", rest[1]) >= 0: // a declaration, or something that counts as a comment
			end := at + until(rest, ">")
			s.refuse(at, end, "a declaration")
			at = end
		default:
			at++
		}
	}
}

// comment skips a comment. The short forms end at once.
func (s *scanner) comment(at int) int {
	rest := s.src[at:]
	end := until(rest[2:], "-->") + 2
	if i := strings.Index(rest[4:], "--!>"); i >= 0 {
		end = min(end, 4+i+4)
	}
	s.refuse(at, at+end, "a comment")
	return at + end
}

// until is the length of s up to the end of the first occurrence of end.
func until(s, end string) int {
	if i := strings.Index(s, end); i >= 0 {
		return i + len(end)
	}
	return len(s)
}

func letter(b byte) bool { return 'a' <= b|0x20 && b|0x20 <= 'z' }

const space = " \t\n\f\r"

// tag skips a tag whose name begins at an offset, and the content of an element that is
// not parsed as HTML.
func (s *scanner) tag(at, name int) int {
	i := name
	for i < len(s.src) && !strings.ContainsRune(space+"/>", rune(s.src[i])) {
		i++
	}
	element := strings.ToLower(s.src[name:i])
	s.refuse(name, i, "a tag's name")
	var list []attribute
	for {
		for i < len(s.src) && strings.ContainsRune(space+"/", rune(s.src[i])) {
			i++
		}
		if i >= len(s.src) {
			s.fault(at, "the tag <%s is not closed", element)
			return i
		}
		if s.src[i] == '>' {
			i++
			break
		}
		var a attribute
		a, i = s.attribute(i)
		list = append(list, a)
	}
	if s.src[name-1] == '/' {
		s.refuse(at, i, "an end tag")
		return i
	}
	s.element(at, element, list)
	return s.content(i, element)
}

// attribute reads an attribute.
func (s *scanner) attribute(i int) (attribute, int) {
	begin := i
	for i++; i < len(s.src) && !strings.ContainsRune(space+"/>=", rune(s.src[i])); i++ {
	}
	a := attribute{name: strings.ToLower(s.src[begin:i])}
	s.refuse(begin, i, "an attribute's name")
	value := i + len(s.src[i:]) - len(strings.TrimLeft(s.src[i:], space))
	if value >= len(s.src) || s.src[value] != '=' {
		return a, i
	}
	value++
	value += len(s.src[value:]) - len(strings.TrimLeft(s.src[value:], space))
	if value < len(s.src) && (s.src[value] == '"' || s.src[value] == '\'') {
		quote := s.src[value : value+1]
		a.at, a.quoted = value+1, true
		i = a.at + until(s.src[a.at:], quote)
		a.value = strings.TrimSuffix(s.src[a.at:i], quote)
		return a, i
	}
	for i = value; i < len(s.src) && !strings.ContainsRune(space+">", rune(s.src[i])); i++ {
	}
	a.at, a.value = value, s.src[value:i]
	s.refuse(value, i, "an attribute without quotes")
	return a, i
}

// element checks the attributes of an element.
func (s *scanner) element(at int, element string, list []attribute) {
	value := func(name string) string {
		i := slices.IndexFunc(list, func(a attribute) bool { return a.name == name })
		if i < 0 {
			return ""
		}
		return html.UnescapeString(list[i].value)
	}
	for _, a := range list {
		if a.quoted && macro.MatchString(a.value) {
			s.quoted(a, element == "meta" && value("http-equiv") != "")
		}
	}
	switch element {
	case "form":
		s.forms = append(s.forms, form{line: s.line(at), method: value("method"), action: value("action"), fields: map[string]string{}})
	case "input":
		if n := len(s.forms); n > 0 {
			s.forms[n-1].fields[value("name")] = value("value")
		}
	}
}

var urlAttributes = []string{"action", "background", "cite", "data", "formaction", "href", "longdesc", "manifest", "ping", "poster", "src", "srcset", "usemap", "xlink:href"}

// ours is the beginning of a URL that a macro further on cannot turn into another site
// or a script.
var ours = regexp.MustCompile(`^(/[^/\\{]|\./|[?#]|https?://[^/?#{]+[/?#])`)

// quoted checks a macro in a quoted attribute.
func (s *scanner) quoted(a attribute, refresh bool) {
	end := a.at + len(a.value)
	switch {
	case strings.HasPrefix(a.name, "on"):
		s.refuse(a.at, end, "the script "+a.name)
	case a.name == "style" || a.name == "srcdoc" || refresh:
		s.refuse(a.at, end, "the attribute "+a.name)
	case slices.Contains(urlAttributes, a.name) && !ours.MatchString(strings.TrimSpace(html.UnescapeString(a.value))):
		s.refuse(a.at, end, "the beginning of the URL "+a.name)
	case strings.Contains(a.value, "{error_message}"):
		s.fault(a.at, "{error_message} is an element and cannot stand in an attribute")
	}
}

// content skips the content of an element that is text and not HTML.
func (s *scanner) content(at int, element string) int {
	switch element {
	case "plaintext":
		s.fault(at, "<plaintext> has no end")
		return len(s.src)
	case "script", "style", "xmp", "iframe", "noembed", "noframes", "noscript", "title", "textarea":
	default:
		return at
	}
	end := len(s.src)
	closing := regexp.MustCompile(`(?i)</` + element + `[\s/>]`)
	if m := closing.FindStringIndex(s.src[at:]); m != nil {
		end = at + m[0]
	}
	switch {
	case element != "title" && element != "textarea":
		s.refuse(at, end, "<"+element+">")
	case strings.Contains(s.src[at:end], "{error_message}"):
		s.fault(at, "{error_message} is an element and cannot stand in <%s>", element)
	}
	// In such a script, </script> does not always end it.
	if element == "script" && strings.Contains(s.src[at:end], "<!--") {
		s.fault(at, "a script with a comment in HTML's way")
	}
	return end
}

// checkForms demands one form that signs in.
func (s *scanner) checkForms() error {
	var faults []error
	for _, f := range s.forms {
		err := s.checkForm(f)
		if err == nil {
			return nil
		}
		faults = append(faults, fmt.Errorf("line %d: the form %w", f.line, err))
	}
	if len(faults) == 0 {
		return errors.New("there is no form")
	}
	return errors.Join(faults...)
}

func (s *scanner) checkForm(f form) error {
	for _, name := range []string{"state", "username", "password"} {
		if _, ok := f.fields[name]; !ok {
			return fmt.Errorf("has no field named %s", name)
		}
	}
	if f.fields["state"] != "{state}" {
		return errors.New("has a field state whose value is not {state}")
	}
	if !strings.EqualFold(f.method, "post") {
		return errors.New("does not have the method post")
	}
	action, _, _ := strings.Cut(f.action, "?")
	if action != "" && !slices.Contains(s.actions, action) {
		return fmt.Errorf("is sent to %s, not to %s", action, s.actions[len(s.actions)-1])
	}
	return nil
}
