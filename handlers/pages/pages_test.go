package pages_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"signet/handlers/pages"
)

// newSet makes the pages, or fails the test.
func newSet(t testing.TB, o pages.Options) *pages.Set {
	t.Helper()
	return newSetFor(t, pages.Site{}, o)
}

// newSetFor makes the pages of a site.
func newSetFor(t testing.TB, site pages.Site, o pages.Options) *pages.Set {
	t.Helper()
	site.App = "Test App"
	s, err := pages.New(site, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// login renders the login page.
func login(t testing.TB, s *pages.Set, accept string, data pages.Login) (string, http.Header) {
	t.Helper()
	data.Form = true
	return render(t, s, accept, data)
}

func render(t testing.TB, s *pages.Set, accept string, p pages.Page) (string, http.Header) {
	t.Helper()
	var body bytes.Buffer
	h := http.Header{}
	if err := s.Render(h, &body, accept, p); err != nil {
		t.Fatalf("%+v in %q: %v", p, accept, err)
	}
	return body.String(), h
}

func write(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// wantFault demands an error that names every word.
func wantFault(t *testing.T, o pages.Options, words ...string) {
	t.Helper()
	wantFaultFor(t, pages.Site{Scopes: []string{"mcp:tools"}}, o, words...)
}

// wantFaultFor demands an error for the pages of a site.
func wantFaultFor(t *testing.T, site pages.Site, o pages.Options, words ...string) {
	t.Helper()
	_, err := pages.New(site, o)
	if err == nil {
		t.Errorf("%+v is accepted", o)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not name %q: %v", word, err)
		}
	}
}

func TestLanguages(t *testing.T) {
	added := write(t, "messages.json", `{
		"fr": {"login.title": "Se connecter", "login.to": "pour continuer vers {client}"},
		"de-AT": {"login.title": "Grüß Gott"}, "he": {"login.title": "כניסה"}, "cs": {"login.title": "Přihlášení"}, "en": {"login.submit": "Go"}}`)
	s := newSet(t, pages.Options{Messages: added})
	for accept, want := range map[string][]string{
		"":                              {`lang="en"`, "<h1>Sign in</h1>", ">Go</button>"},
		"en-GB,en;q=0.9":                {`lang="en"`, "<h1>Sign in</h1>"},
		"de":                            {`lang="de"`, "<h1>Anmelden</h1>", ">Anmelden</button>"},
		"de-CH, en;q=0.8":               {`lang="de"`},
		"fr-CA, de;q=0.5":               {`lang="fr"`, "<h1>Se connecter</h1>", `pour continuer vers <strong class="name">C&lt;b&gt;</strong>`, ">Go</button>"},
		"de-AT":                         {`lang="de-AT"`, "<h1>Grüß Gott</h1>", ">Anmelden</button>"},
		"he":                            {`lang="he" dir="rtl"`},
		"cs":                            {`lang="cs"`, ">Go</button>"},
		"ja, zh;q=0.9":                  {`lang="en"`},
		"en;q=0.5, de;q=0.9":            {`lang="de"`},
		"*":                             {`lang="en"`},
		"de;q=x":                        {`lang="en"`},
		strings.Repeat("xx-XX,", 10000): {`lang="en"`},
	} {
		page, h := login(t, s, accept, pages.Login{Client: "C<b>"})
		for _, w := range want {
			if !strings.Contains(page, w) {
				t.Errorf("Accept-Language %.40q: no %s:\n%s", accept, w, page[strings.Index(page, "<main>"):])
			}
		}
		if h.Get("Vary") != "Accept-Language" || !strings.Contains(page, `lang="`+h.Get("Content-Language")+`"`) {
			t.Errorf("Accept-Language %.40q: headers %v", accept, h)
		}
	}
}

func FuzzAcceptLanguage(f *testing.F) {
	s := newSet(f, pages.Options{})
	for _, accept := range []string{"de", "en;q=0", "*", ",,,", "de-x-\x00", "a-b-c-d-e-f-g-h;q=9"} {
		f.Add(accept)
	}
	f.Fuzz(func(t *testing.T, accept string) {
		if title := s.Text(accept, "login.title"); title != "Sign in" && title != "Anmelden" {
			t.Errorf("%q: %q", accept, title)
		}
	})
}

func TestWrongMessagesAreRefused(t *testing.T) {
	for content, words := range map[string][]string{
		`{"fr": {"login.titel": "x"}}`:                         {"fr", "login.titel"},
		`{"fr": {"login.to": "pour continuer"}}`:               {"fr", "login.to", "{client}"},
		`{"fr": {"login.title": "Bonjour {name}"}}`:            {"fr", "login.title", "{name}"},
		`{"fr": {"login.title": " "}}`:                         {"fr", "login.title", "empty"},
		`{"fr": {"date.months": "janvier"}}`:                   {"date.months", "1 months"},
		`{"fr": {"scope.root": "x"}}`:                          {"scope.root"},
		`{"fr": {"scope.mcp:tools": "{x}"}}`:                   {"scope.mcp:tools", "{x}"},
		`{"not a language": {"login.title": "x"}}`:             {"not a language"},
		`{"fr": "login.title"}`:                                {"languages"},
		`{"fr": {"login.title": "x"}} {}`:                      {"more than one"},
		`["fr"]`:                                               {"languages", "line 1"},
		``:                                                     {"languages", "line 1"},
		"{\"fr\": {\n\"login.title\": \"x\"\n\"a\": \"\"}}":    {"line 3"},
		"{\"fr\": {\n\"login.title\": \"x\",\n\n":              {"line 3", "EOF"},
		`{"fr": {"login.title": "x", "login.to": 7, "a": []}}`: {"fr", "login.to: is not a string", "a: is not a string"},
		`{"en": {"login.title": "a", "login.title": "b"}}`:     {"en", "login.title: is there twice"},
		`{"fr": {"login.title": "x"}, "fr": {}}`:               {": fr is there twice"},
		`{"de": {}, "fr": 7}`:                                  {"fr: not an object of texts"},
		`{"fr": {"login.title": "x", "a": "1", "b": "2"}}`:     {": a:", "b: "},
		strings.Repeat(" ", 1<<20) + `{"fr":{"a":"too big"}}`:  {"KiB"},
	} {
		path := write(t, "words.json", content)
		wantFault(t, pages.Options{Messages: path}, append(words, "words.json")...)
	}
	wantFault(t, pages.Options{Messages: "/nowhere/words.json"}, "/nowhere/words.json")
	newSetFor(t, pages.Site{Scopes: []string{"mcp:tools"}}, pages.Options{Messages: write(t, "w.json", `{"en": {"scope.mcp:tools": "Use the tools"}}`)})
}

// Both built-in languages have all messages, with the same placeholders, and every
// message is used on a page.
func TestBuiltInMessagesAreComplete(t *testing.T) {
	b, err := os.ReadFile("messages.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]map[string]string
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, pattern := range []string{"*.go", "../*.go"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(b)
		}
	}
	placeholder := regexp.MustCompile(`\{[^}]*\}`)
	for key, english := range all["en"] {
		german, ok := all["de"][key]
		one, other := placeholder.FindAllString(english, -1), placeholder.FindAllString(german, -1)
		slices.Sort(one)
		slices.Sort(other)
		if !ok || !slices.Equal(one, other) {
			t.Errorf("%s: en %v, de %v", key, one, other)
		}
		prefix, name, _ := strings.Cut(key, ".")
		kind := strings.TrimSuffix(strings.TrimPrefix(name, "done_"), "_title")
		if !strings.Contains(source.String(), `"`+key+`"`) && prefix != "scope" && !strings.Contains(source.String(), `"`+kind+`"`) {
			t.Errorf("%s is on no page", key)
		}
	}
	if len(all["de"]) != len(all["en"]) {
		t.Errorf("%d messages in German, %d in English", len(all["de"]), len(all["en"]))
	}
}

// contrast is WCAG's, of colours written as #rrggbb.
func contrast(t *testing.T, a, b string) float64 {
	t.Helper()
	luminance := func(s string) float64 {
		v, err := strconv.ParseUint(s[1:], 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		linear := func(b uint64) float64 {
			if c := float64(b&0xff) / 255; c > 0.04045 {
				return math.Pow((c+0.055)/1.055, 2.4)
			} else {
				return c / 12.92
			}
		}
		return 0.2126*linear(v>>16) + 0.7152*linear(v>>8) + 0.0722*linear(v)
	}
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// Whatever the colour: the text on buttons, and links on the cards of style.css, can
// be read in either theme.
func TestEveryColourIsReadable(t *testing.T) {
	accent := regexp.MustCompile(`--accent: (#\w+); --on-accent: (#\w+); --link: (#\w+);`)
	card := regexp.MustCompile(`--card: (#\w+);`)
	for i := range 600 {
		c := fmt.Sprintf("#%06x", i*27961&0xffffff)
		page, _ := login(t, newSet(t, pages.Options{Color: c}), "", pages.Login{})
		themes, cards := accent.FindAllStringSubmatch(page, -1), card.FindAllStringSubmatch(page, -1)
		if len(themes) != 2 || len(cards) != 2 || themes[0][1] != c {
			t.Fatalf("%s: themes %v, cards %v", c, themes, cards)
		}
		for n, theme := range themes {
			if got := contrast(t, theme[1], theme[2]); got < 4.5 {
				t.Errorf("%s, theme %d: text on a button has a contrast of %.2f", c, n, got)
			}
			if got := contrast(t, theme[3], cards[n][1]); got < 4.5 {
				t.Errorf("%s, theme %d: a link has a contrast of %.2f", c, n, got)
			}
		}
	}
	for _, wrong := range []string{"green", "#fff", "#12345g", "#1234567", "123456", "#1f6f5c;}", "#+12345"} {
		wantFault(t, pages.Options{Color: wrong}, wrong)
	}
}

func TestLogo(t *testing.T) {
	const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><style>a{}</style><path d="M0 0"/></svg>`
	logo := newSet(t, pages.Options{Logo: write(t, "logo.png", svg)}).Logo()
	if logo.Type != "image/svg+xml" || string(logo.Body) != svg || logo.Policy != "default-src 'none'; style-src 'unsafe-inline'" || len(logo.ETag) < 10 {
		t.Errorf("logo %+v", logo)
	}
	const png = "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89"
	if logo := newSet(t, pages.Options{Logo: write(t, "logo", png)}).Logo(); logo.Type != "image/png" {
		t.Errorf("logo %+v", logo)
	}
	ours := newSet(t, pages.Options{Color: "#aa0000"}).Logo()
	if !bytes.Contains(ours.Body, []byte("#aa0000")) || ours.Type != "image/svg+xml" {
		t.Errorf("our mark has not the operator's colour: %s", ours.Body)
	}
	for content, word := range map[string]string{
		"": "neither", "GIF89a": "neither", "<html></html>": "root element", "<svg></svg>": "root element",
		strings.Replace(svg, "</svg>", "", 1):                      "neither",
		strings.Replace(svg, "<path", "<script/><path", 1):         "script",
		strings.Replace(svg, "viewBox", `onload="x()" viewBox`, 1): "onload",
		png[:20]: "damaged", strings.Replace(png, "\x01", "\xff", 1): "damaged",
		svg + strings.Repeat(" ", 256<<10): "256 KiB",
	} {
		wantFault(t, pages.Options{Logo: write(t, "logo.svg", content)}, "logo.svg", word)
	}
	wantFault(t, pages.Options{Logo: t.TempDir()}, "regular file")
	wantFault(t, pages.Options{Logo: "/nowhere"}, "/nowhere")
}

// The page offers every way to sign in, in the reader's language, and shows names from elsewhere as
// text.
func TestLoginPageShowsWays(t *testing.T) {
	data := pages.Login{Client: "C", Ways: []pages.Way{{ID: "corp", Name: "<b>Corp</b>"}, {ID: "forge", Name: "Forge"}}}
	page, _ := render(t, newSet(t, pages.Options{}), "de", data)
	for _, want := range []string{`name="provider" value="corp"`, "Weiter mit", "&lt;b&gt;Corp&lt;/b&gt;", `value="forge"`} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	if strings.Contains(page, `name="password"`) {
		t.Error("the page asks for a password that nobody has")
	}
}

// A user learns what else ends a connection, if anything does: a key is not shown again.
func TestAccountPageSaysWhatEndsConnections(t *testing.T) {
	s := newSet(t, pages.Options{})
	for _, ends := range []bool{true, false} {
		page, _ := render(t, s, "en", pages.Account{EndsSessions: ends, Links: []pages.Link{{ID: "docs", Name: "Docs"}}})
		if got := strings.Contains(page, "disconnected when you sign out everywhere"); got != ends {
			t.Errorf("sessions end: %v; the page says so: %v", ends, got)
		}
	}
}
