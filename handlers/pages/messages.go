package pages

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/text/language"
)

// maxMessages is the greatest size of the operator's file.
const maxMessages = 1 << 20

// texts are the messages of one language by key. A word in braces is a placeholder.
type texts map[string]string

var placeholder = regexp.MustCompile(`\{[a-z_]+\}`)

// allTexts returns the built-in languages, English first, with the additions and
// changes in the operator's file. If a language lacks a message, it takes that of the
// nearest language: de-AT takes that of de, others take English.
func allTexts(path string, scopes []string) ([]*translation, error) {
	builtIn, err := files.ReadFile("messages.json")
	if err != nil {
		return nil, err
	}
	var own map[string]texts
	if err := json.Unmarshal(builtIn, &own); err != nil {
		return nil, err
	}
	all := []*translation{newTranslation(language.English, own["en"]), newTranslation(language.German, own["de"])}
	if path == "" {
		return all, nil
	}
	added, err := readMessages(path)
	if err != nil {
		return nil, err
	}
	// The built-in languages come first, because others are based on them.
	byAge := func(a, b string) int {
		return cmp.Or(cmp.Compare(len(own[b]), len(own[a])), cmp.Compare(a, b))
	}
	for _, name := range slices.SortedFunc(maps.Keys(added), byAge) {
		tag, err := language.Parse(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %q is not a language such as fr or pt-BR", path, name)
		}
		if err := checkTexts(added[name], own["en"], scopes); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", path, name, err)
		}
		all = merge(all, tag, added[name])
	}
	return all, nil
}

// merge adds messages to their language, or makes a new language on the basis of the
// nearest one.
func merge(all []*translation, tag language.Tag, added texts) []*translation {
	base := all[0]
	for _, l := range all {
		if l.tag == tag {
			maps.Copy(l.texts, added)
			return all
		}
		if same(l.tag, tag) {
			base = l
		}
	}
	l := newTranslation(tag, maps.Clone(base.texts))
	maps.Copy(l.texts, added)
	return append(all, l)
}

func same(a, b language.Tag) bool {
	one, _ := a.Base()
	other, _ := b.Base()
	return one == other
}

func newTranslation(tag language.Tag, t texts) *translation {
	l := &translation{tag: tag, texts: t}
	switch script, _ := tag.Script(); script.String() {
	case "Arab", "Hebr", "Syrc", "Thaa", "Nkoo", "Adlm":
		l.dir = "rtl"
	}
	return l
}

// readMessages reads a file such as
//
//	{"fr": {"login.submit": "Se connecter"}, "en": {"scope.mcp:tools": "Use the tools"}}
//
// A message whose key is scope. and the name of a scope describes the scope in words.
func readMessages(path string) (map[string]texts, error) {
	b, err := readFile(path, maxMessages)
	if err != nil {
		return nil, err
	}
	var added map[string]texts
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&added); err != nil {
		return nil, fmt.Errorf("%s: not an object of languages, each an object of texts: %w", path, err)
	}
	if d.More() {
		return nil, fmt.Errorf("%s: more than one JSON value", path)
	}
	return added, nil
}

// checkTexts finds messages that no page shows, and mistakes that would be seen on a
// page.
func checkTexts(added, english texts, scopes []string) error {
	var faults []error
	for _, key := range slices.Sorted(maps.Keys(added)) {
		known, ok := english[key]
		if scope, isScope := strings.CutPrefix(key, "scope."); isScope && !ok {
			if !slices.Contains(scopes, scope) {
				faults = append(faults, fmt.Errorf("%s: there is no scope %q", key, scope))
			}
		} else if !ok {
			faults = append(faults, fmt.Errorf("%s: there is no such message", key))
			continue
		}
		if want, got := placeholders(known), placeholders(added[key]); !slices.Equal(want, got) {
			faults = append(faults, fmt.Errorf("%s: has the placeholders %v, needs %v", key, got, want))
		}
		if strings.TrimSpace(added[key]) == "" {
			faults = append(faults, fmt.Errorf("%s: is empty", key))
		}
		if n := strings.Count(added[key], ",") + 1; key == "date.months" && n != 12 {
			faults = append(faults, fmt.Errorf("%s: names %d months", key, n))
		}
	}
	return errors.Join(faults...)
}

// placeholders returns the placeholders of a text, each once and in order.
func placeholders(text string) []string {
	return slices.Compact(slices.Sorted(slices.Values(placeholder.FindAllString(text, -1))))
}

// functions are the functions with which templates use texts:
//
//	{{t "login.to" "client" (client .Client)}}
//
// The value of a placeholder is escaped unless one of these functions made it.
func (t texts) functions() template.FuncMap {
	return template.FuncMap{
		"t":     t.fill,
		"scope": func(name string) string { return t["scope."+name] },
		"name":  func(s string) template.HTML { return wrap("strong", "name", s) },
		"client": func(s string) template.HTML {
			if s == "" {
				s = t["client.unnamed"]
			}
			return wrap("strong", "name", s)
		},
		"host": func(s string) template.HTML { return wrap("span", "host", s) },
		"english": func(s string) template.HTML {
			return `<span lang="en">` + template.HTML(template.HTMLEscapeString(s)) + `</span>`
		},
		"date": t.date,
	}
}

func wrap(element, class, s string) template.HTML {
	return template.HTML("<" + element + ` class="` + class + `">` + template.HTMLEscapeString(s) + "</" + element + ">")
}

// fill returns a message with its placeholders filled in. pairs are names and values.
func (t texts) fill(key string, pairs ...any) (template.HTML, error) {
	text, ok := t[key]
	if !ok {
		return "", fmt.Errorf("there is no message %q", key)
	}
	values := map[string]string{}
	for i := 0; i+1 < len(pairs); i += 2 {
		name := fmt.Sprint("{", pairs[i], "}")
		if html, ok := pairs[i+1].(template.HTML); ok {
			values[name] = string(html)
		} else {
			values[name] = template.HTMLEscapeString(fmt.Sprint(pairs[i+1]))
		}
	}
	var missing error
	filled := placeholder.ReplaceAllStringFunc(template.HTMLEscapeString(text), func(p string) string {
		v, ok := values[p]
		if !ok {
			missing = fmt.Errorf("message %q: no value for %s", key, p)
		}
		return v
	})
	return template.HTML(filled), missing
}

// date formats a time, in UTC because the reader's time zone is unknown.
func (t texts) date(m Moment) (template.HTML, error) {
	u := m.UTC()
	month := strings.TrimSpace(strings.Split(t["date.months"], ",")[u.Month()-1])
	return t.fill("date.format", "day", u.Day(), "month", month, "year", u.Year(), "time", u.Format("15:04"))
}

// readFile reads a file whose size is bounded.
func readFile(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%s is not a regular file of at most %d KiB", path, limit>>10)
	}
	return os.ReadFile(path)
}
