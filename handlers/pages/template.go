package pages

import (
	"bytes"
	"errors"
	"fmt"
	"html"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// maxTemplate is the greatest size of the operator's login page.
const maxTemplate = 1 << 20

// macro is a placeholder in a login template. {state} is the sealed transaction, never the
// client's state.
var macro = regexp.MustCompile(`\{(state|username|app_name|error_message)\}`)

// ownPage is a login page that an operator wrote, in pieces.
type ownPage []piece

// piece is some of the page's text, or a macro.
type piece struct {
	text  string
	macro bool
	inURL bool // the macro is a part of a URL
}

// readLogin returns the operator's login page, nil if there is none.
func readLogin(o Options, site Site) (ownPage, error) {
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
func parseLogin(src string, actions []string) (ownPage, error) {
	s := &scanner{src: src, actions: actions}
	s.scan()
	if err := errors.Join(s.faults...); err != nil {
		return nil, err
	}
	if err := s.checkForms(); err != nil {
		return nil, err
	}
	return s.pieces(), nil
}

func (s *Set) renderOwn(body *bytes.Buffer, l *translation, login Login) error {
	values := map[string]string{"{state}": login.State, "{username}": login.Username, "{app_name}": s.site.App}
	problem := when(login.Problem != "", el("div", class("error"), l.texts.say(login.Problem)))
	for _, p := range s.login {
		switch {
		case !p.macro:
			body.WriteString(p.text)
		case p.text == "{error_message}":
			body.WriteString(problem.content)
		case p.inURL: // no character of the value can end its part of the URL
			body.WriteString(strings.ReplaceAll(url.QueryEscape(values[p.text]), "+", "%20"))
		default: // between elements, in a title, or in an attribute with quotes
			body.WriteString(escaper.Replace(values[p.text]))
		}
	}
	return problem.err
}

// scanner reads HTML as a browser does (HTML Standard §13.2.5), as far as it is needed
// to know where a macro stands.
type scanner struct {
	src     string
	actions []string
	faults  []error
	forms   []form
	urls    []edit // values of attributes that are URLs
	edits   []edit // what is sent in another form
	foreign int    // how many <svg> and <math> are open
}

// edit is a part of the source, from an offset to another, and what is sent in its place.
type edit struct {
	from, to int
	text     string
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
			if !doctype.MatchString(rest) { // where it ends depends on the element around it
				s.less(at)
				end = at + 1
			}
			at = end
		default:
			s.less(at)
			at++
		}
	}
}

var doctype = regexp.MustCompile(`^<!(?i:DOCTYPE)[^>]*>`)

// less makes a < that begins no tag text, whatever comes to stand after it.
func (s *scanner) less(at int) { s.edits = append(s.edits, edit{at, at + 1, "&lt;"}) }

// comment leaves out a comment, which is for the authors of the page. The short forms end at once.
func (s *scanner) comment(at int) int {
	rest := s.src[at:]
	end := len(rest) + 1
	if i := strings.Index(rest[2:], "-->"); i >= 0 {
		end = 2 + i + 3
	}
	if i := strings.Index(rest[4:], "--!>"); i >= 0 {
		end = min(end, 4+i+4)
	}
	if end > len(rest) {
		s.fault(at, "the comment is not closed")
		return len(s.src)
	}
	s.refuse(at, at+end, "a comment")
	s.edits = append(s.edits, edit{at, at + end, ""})
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
	step := 1
	if s.src[name-1] == '/' {
		step = -1
	}
	if element == "svg" || element == "math" {
		s.foreign = max(0, s.foreign+step)
	}
	if step < 0 {
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

var urlAttributes = []string{"action", "archive", "attributionsrc", "background", "cite", "classid", "codebase", "data", "formaction", "href", "icon", "imagesrcset", "longdesc", "manifest",
	"ping", "poster", "profile", "src", "srcset", "usemap", "xlink:href"}

// ours is the beginning of a URL that a macro further on cannot turn into another site
// or a script.
var ours = regexp.MustCompile(`^(/[^/\\{]|\./|[?#]|https?://[^/?#{]+[/?#])`)

// quoted checks a macro in a quoted attribute.
func (s *scanner) quoted(a attribute, refresh bool) {
	end := a.at + len(a.value)
	isURL := slices.Contains(urlAttributes, a.name)
	if isURL {
		s.urls = append(s.urls, edit{from: a.at, to: end})
	}
	switch {
	case strings.HasPrefix(a.name, "on"):
		s.refuse(a.at, end, "the script "+a.name)
	case a.name == "style" || a.name == "srcdoc" || refresh:
		s.refuse(a.at, end, "the attribute "+a.name)
	case isURL && !ours.MatchString(strings.TrimSpace(html.UnescapeString(a.value))):
		s.refuse(a.at, end, "the beginning of the URL "+a.name)
	case strings.Contains(a.value, "{error_message}"):
		s.fault(a.at, "{error_message} is an element and cannot stand in an attribute")
	}
}

var cdata = regexp.MustCompile(`<!\[CDATA\[[^<]*?\]\]>`)

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
	end := s.end(at, element)
	if end < 0 {
		s.fault(at, "the <%s> is not closed", element)
		return len(s.src)
	}
	// In SVG it is HTML after all, unless it is in a CDATA section.
	if s.foreign > 0 && strings.Contains(cdata.ReplaceAllString(s.src[at:end], ""), "<") {
		s.fault(at, "<%s> in an image with < in it", element)
	}
	if element != "title" && element != "textarea" {
		s.refuse(at, end, "<"+element+">")
	} else if strings.Contains(s.src[at:end], "{error_message}") {
		s.fault(at, "{error_message} is an element and cannot stand in <%s>", element)
	} else {
		for i := at; i < end; i++ {
			if s.src[i] == '<' {
				s.less(i)
			}
		}
	}
	// In such a script, </script> does not always end it.
	if element == "script" && strings.Contains(s.src[at:end], "<!--") {
		s.fault(at, "a script with a comment in HTML's way")
	}
	return end
}

// end is the offset of the end tag that closes an element, or -1. As many bytes are equal only if
// all are ASCII: </ſtyle> ends no style.
func (s *scanner) end(at int, element string) int {
	for i := at; ; i += 2 {
		next := strings.Index(s.src[i:], "</")
		if next < 0 {
			return -1
		}
		i += next
		name := s.src[i+2:]
		if len(name) > len(element) && strings.EqualFold(name[:len(element)], element) && strings.IndexByte(space+"/>", name[len(element)]) >= 0 {
			return i
		}
	}
}

// pieces splits the source at the macros.
func (s *scanner) pieces() (page ownPage) {
	at := 0
	for _, m := range macro.FindAllStringIndex(s.src, -1) {
		inURL := slices.ContainsFunc(s.urls, func(u edit) bool { return u.from <= m[0] && m[0] < u.to })
		page = append(page, piece{text: s.edited(at, m[0])}, piece{text: s.src[m[0]:m[1]], macro: true, inURL: inURL})
		at = m[1]
	}
	return append(page, piece{text: s.edited(at, len(s.src))})
}

// edited is a part of the source as it is sent. No edit is partly in it.
func (s *scanner) edited(from, to int) string {
	var text strings.Builder
	for _, e := range s.edits {
		if from <= e.from && e.to <= to {
			text.WriteString(s.src[from:e.from] + e.text)
			from = e.to
		}
	}
	return text.String() + s.src[from:to]
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
