package pages

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

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
	var languages map[string]json.RawMessage
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&languages); err != nil {
		return nil, fmt.Errorf("%s: line %d: not an object of languages, each an object of texts: %w", path, lineOf(b, err), err)
	}
	if d.More() {
		return nil, fmt.Errorf("%s: more than one JSON value", path)
	}
	if name := twice(b); name != "" {
		return nil, fmt.Errorf("%s: %s is there twice", path, name)
	}
	added := map[string]texts{}
	for _, name := range slices.Sorted(maps.Keys(languages)) {
		if added[name], err = textsOf(languages[name]); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", path, name, err)
		}
	}
	return added, nil
}

// textsOf reads the texts of one language. Its error names those that are none.
func textsOf(object json.RawMessage) (texts, error) {
	var values map[string]json.RawMessage
	if err := json.Unmarshal(object, &values); err != nil {
		return nil, errors.New("not an object of texts, as all languages are")
	}
	all := texts{}
	var faults []error
	if key := twice(object); key != "" {
		faults = append(faults, fmt.Errorf("%s: is there twice", key))
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		var text string
		if err := json.Unmarshal(values[key], &text); err != nil {
			faults = append(faults, fmt.Errorf("%s: is not a string", key))
		}
		all[key] = text
	}
	return all, errors.Join(faults...)
}

// twice returns the name of the first member that a valid JSON object has already, of which
// the decoder would keep the last one; empty: there is none.
func twice(object []byte) string {
	d := json.NewDecoder(bytes.NewReader(object))
	d.Token() // the brace
	seen := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		name, ok := token.(string)
		if seen[name] {
			return name
		}
		var value json.RawMessage
		if err != nil || !ok || d.Decode(&value) != nil {
			break
		}
		seen[name] = true
	}
	return ""
}

// lineOf returns the line of an error of the JSON decoder. That of a file that is cut off is
// the last one.
func lineOf(b []byte, err error) int {
	at := len(b)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		at = int(syntax.Offset) // after the wrong character
	case errors.As(err, &kind):
		at = int(kind.Offset)
	}
	return 1 + bytes.Count(b[:max(at-1, 0)], []byte("\n"))
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

// with is the values of placeholders, by name.
type with map[string]part

// say is a message with its placeholders filled in. If there is no such message, or no value for a
// placeholder, the page fails.
func (t texts) say(key string, values ...with) part {
	message, ok := t[key]
	if !ok {
		return part{err: fmt.Errorf("there is no message %q", key)}
	}
	var given with
	if len(values) > 0 {
		given = values[0]
	}
	var said part
	at := 0
	for _, m := range placeholder.FindAllStringIndex(message, -1) {
		name := message[m[0]+1 : m[1]-1]
		value, ok := given[name]
		if !ok {
			return part{err: fmt.Errorf("message %q: no value for %s", key, name)}
		}
		said = group(said, text(message[at:m[0]]), value)
		at = m[1]
	}
	return group(said, text(message[at:]))
}

// label names an element for screen readers, by a message with one placeholder.
func (t texts) label(key, name, value string) part {
	return attr("aria-label", strings.ReplaceAll(t[key], "{"+name+"}", value))
}

// date formats a time, in UTC because the reader's time zone is unknown.
func (t texts) date(at time.Time) part {
	u := at.UTC()
	month := strings.TrimSpace(strings.Split(t["date.months"], ",")[u.Month()-1])
	return t.say("date.format", with{
		"day": text(strconv.Itoa(u.Day())), "month": text(month), "year": text(strconv.Itoa(u.Year())), "time": text(u.Format("15:04")),
	})
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
