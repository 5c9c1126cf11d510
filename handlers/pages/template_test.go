package pages_test

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"signet/handlers/pages"
)

// plain is a login page as operators have it from elsewhere.
const plain = `<!DOCTYPE html>
<html>
<head>
	<title>Login - {app_name}</title>
	<style>body { font-family: sans-serif; } .error { color: red; }</style>
</head>
<body>
	<!-- our own page -->
	<h1>{app_name}</h1>
	{error_message}
	<form method="post" action="/oauth/login">
		<input type="hidden" name="state" value="{state}">
		<input type="text" name="username" value='{username}' required>
		<input type="password" name="password" required>
		<button type="submit" title="for {username}">Sign in to {app_name}</button>
	</form>
	<a href="/help?user={username}">Help</a>
</body>
</html>
`

// Row 28: the values of macros are text, everywhere, and are replaced once.
func TestLoginTemplateIsFilledInSafely_Row28(t *testing.T) {
	s := newSet(t, pages.Options{LoginTemplate: write(t, "login.html", plain)})
	page, h := login(t, s, "", pages.Login{State: "abc", Problem: "login.invalid"})
	for _, want := range []string{`<title>Login - Test App</title>`, `<h1>Test App</h1>`, `name="state" value="abc"`, `<div class="error">Invalid credentials</div>`,
		".error { color: red; }", `<form method="post" action="/oauth/login">`} {
		if !strings.Contains(page, want) {
			t.Errorf("no %s in\n%s", want, page)
		}
	}
	policy := h.Get("Content-Security-Policy")
	if !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "style-src 'unsafe-inline'") || strings.Contains(policy, "script") || !strings.Contains(policy, "frame-ancestors 'none'") {
		t.Errorf("policy %s", policy)
	}
	if page, _ := login(t, s, "", pages.Login{}); strings.Contains(page, `class="error"`) {
		t.Error("an error without a problem")
	}
	if page, _ := login(t, s, "de", pages.Login{Problem: "login.missing"}); !strings.Contains(page, `<div class="error">Bitte`) {
		t.Errorf("not in German:\n%s", page)
	}
	for _, evil := range []string{`"><script>alert(1)</script>`, `' onfocus='alert(1)`, `{app_name}`, `{state}{error_message}`, "{{.App}}", "\uE000.App\uE001", "javascript:alert(1)"} {
		page, _ := login(t, s, "", pages.Login{State: evil, Username: evil})
		if strings.Contains(page, "<script") || strings.Contains(page, `' onfocus`) || strings.Count(page, "Test App") != 3 {
			t.Errorf("%s gave\n%s", evil, page)
		}
		if _, value, _ := strings.Cut(page, `name="state" value="`); html.UnescapeString(value[:strings.Index(value, `"`)]) != evil {
			t.Errorf("%s is not kept in\n%s", evil, page)
		}
	}
	newSetFor(t, pages.Site{Path: "/auth", Login: "/norman/login"}, pages.Options{LoginTemplate: write(t, "login.html", strings.Replace(plain, "/oauth/login", "/auth/norman/login", 1))})
}

// A program may pass the page itself. It is the same as a file with that text.
func TestLoginPageMayBePassedAsHTML_Row28(t *testing.T) {
	render := func(o pages.Options) string {
		page, _ := login(t, newSet(t, o), "", pages.Login{State: "s", Username: `<b>"`, Problem: "login.invalid"})
		return page
	}
	if file, html := render(pages.Options{LoginTemplate: write(t, "login.html", plain)}), render(pages.Options{LoginHTML: plain}); file != html || !strings.Contains(html, "&lt;b&gt;") {
		t.Errorf("the page is\n%s\nas a file it is\n%s", html, file)
	}
	wantFault(t, pages.Options{LoginHTML: "<p>no form</p>"}, "LoginHTML: there is no form")
	if err := (pages.Options{LoginHTML: plain, LoginTemplate: "x"}).Check(); err == nil || !strings.Contains(err.Error(), "LoginHTML") {
		t.Errorf("a file and HTML: %v", err)
	}
}

func TestWrongLoginTemplatesAreRefused_Row28(t *testing.T) {
	change := func(from, to string) string { return strings.Replace(plain, from, to, 1) }
	for _, c := range []struct{ name, src, line, word string }{
		{"script", change("</head>", "<script>\nlet a = '{username}'</script></head>"), "line 7", "<script>"},
		{"style", change(".error {", ".{state} {"), "line 5", "<style>"},
		{"unquoted", change(`value="{state}"`, `value={state}`), "line 12", "without quotes"},
		{"attribute name", change(" required>", " {username}>"), "line 13", "name"},
		{"tag name", change("<h1>", "<{app_name}><h{app_name}>"), "line 9", "name"},
		{"comment", change("our own page", "page of {app_name}"), "line 8", "comment"},
		{"script attribute", change("<h1>", `<h1 onclick="f('{username}')">`), "line 9", "onclick"},
		{"style attribute", change("<h1>", `<h1 style="color: {username}">`), "line 9", "style"},
		{"script URL", change(`href="/help?user=`, `href="javascript:f('`), "line 17", "URL href"},
		{"entity in the URL", change(`href="/help?user=`, `href="java&#115;cript:`), "line 17", "URL href"},
		{"whole URL", change(`href="/help?user=`, `href="`), "line 17", "URL href"},
		{"half a scheme", change(`href="/help?user=`, `href="java`), "line 17", "URL href"},
		{"another host", change(`href="/help?user=`, `href="//`), "line 17", "URL href"},
		{"host", change(`href="/help?user=`, `href="https://`), "line 17", "URL href"},
		{"root", change(`href="/help?user=`, `href="/`), "line 17", "URL href"},
		{"refresh", change("<title>", `<meta http-equiv="refresh" content="0;url=/{username}"><title>`), "line 4", "content"},
		{"error in attribute", change(`title="for {username}"`, `title="{error_message}"`), "line 15", "{error_message}"},
		{"error in title", change("Login - {app_name}", "{error_message}"), "line 4", "{error_message}"},
		{"noscript", change("<h1>", "<noscript>{app_name}</noscript><h1>"), "line 9", "noscript"},
		{"end tag", change("</h1>", `</h1 title="{username}">`), "line 9", "end tag"},
		{"plaintext", change("<h1>", "<plaintext><h1>"), "line 9", "plaintext"},
		{"doctype", change("<!DOCTYPE html>", "<!DOCTYPE {app_name}>"), "line 1", "declaration"},
		{"open tag", plain + `<a title="{username}`, "line 20", "not closed"},
		{"odd script", change("<h1>", "<script><!--<script></script>{username}</script><h1>"), "line 9", "comment"},
		{"no state", change("{state}", ""), "line 11", "{state}"},
		{"no state field", change(`name="state"`, `name="s"`), "line 11", "state"},
		{"no user name", change(`name="username"`, `id="username"`), "line 11", "username"},
		{"no password", change(`name="password"`, ""), "line 11", "password"},
		{"no form", change("<form", "<div"), "", "no form"},
		{"get", change(`method="post"`, ""), "line 11", "post"},
		{"elsewhere", change("/oauth/login", "https://evil.example/oauth/login"), "line 11", "evil.example"},
		{"tag in a style of SVG", change("<h1>", "<svg><style><a href='</style>{username}'></svg><h1>"), "line 9", "<style>"},
		{"open comment", plain + "<!-- the end", "line 20", "not closed"},
		{"open title", plain + "<title>x</titles>", "line 20", "not closed"},
		{"open style", plain + "<style>x</style", "line 20", "not closed"},
		{"letters that fold to ASCII", change("<h1>", "<style></\u017ftyle>{username}</style><h1>"), "line 9", "<style>"},
		{"set of URLs", change("<h1>", `<img srcset="{username} 2x"><h1>`), "line 9", "URL srcset"},
		{"set of URLs of a link", change("<title>", `<link rel="preload" imagesrcset="{username}"><title>`), "line 4", "URL imagesrcset"},
		{"URL that is called", change("<h1>", `<img src="/x" attributionsrc="{username}"><h1>`), "line 9", "URL attributionsrc"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantFault(t, pages.Options{LoginTemplate: write(t, "login.html", c.src)}, "login.html", c.line, c.word)
		})
	}
	wantFault(t, pages.Options{LoginTemplate: "/nowhere/login.html"}, "/nowhere/login.html")
	wantFaultFor(t, pages.Site{Path: "/auth"}, pages.Options{LoginTemplate: write(t, "login.html", plain)}, "/oauth/login, not to /auth/oauth/login")
}

// Each value is escaped for its place.
func TestMacrosAreEscapedForTheirPlace_Row28(t *testing.T) {
	const value = "a+ b/c?d=e&f#g%41\"'<i>\x00é</textarea></title>"
	const inText = "a+ b/c?d=e&amp;f#g%41&#34;&#39;&lt;i&gt;\uFFFDé&lt;/textarea&gt;&lt;/title&gt;"
	const inURL = "a%2B%20b%2Fc%3Fd%3De%26f%23g%2541%22%27%3Ci%3E%00%C3%A9%3C%2Ftextarea%3E%3C%2Ftitle%3E"
	for place, want := range map[string]string{
		"<p>{username}</p>":                          "<p>" + inText + "</p>",
		"{username}":                                 inText,
		`<p title="{username}">`:                     `<p title="` + inText + `">`,
		`<p title='{username}, {state}'>`:            `<p title='` + inText + `, s'>`,
		`<p data-href="{username}">`:                 `<p data-href="` + inText + `">`,
		"<title>{username}</title>":                  "<title>" + inText + "</title>",
		"<textarea>{username}</textarea>":            "<textarea>" + inText + "</textarea>",
		`<a href="/x?u={username}#{username}">`:      `<a href="/x?u=` + inURL + "#" + inURL + `">`,
		`<a HREF='/users/{username}/{state}'>`:       `<a HREF='/users/` + inURL + `/s'>`,
		`<a href=" https://a.example/{username}">`:   `<a href=" https://a.example/` + inURL + `">`,
		`<img src="/a?{username}" alt="{username}">`: `<img src="/a?` + inURL + `" alt="` + inText + `">`,
		`<img srcset="/a?{username} 2x, /b 1x">`:     `<img srcset="/a?` + inURL + ` 2x, /b 1x">`,
		`<form action="/x?{username}">`:              `<form action="/x?` + inURL + `">`,
		"{user}{{username}}{USERNAME}":               "{user}{" + inText + "}{USERNAME}",
	} {
		page, _ := login(t, newSet(t, pages.Options{LoginHTML: place + plain}), "", pages.Login{State: "s", Username: value})
		if got, _, _ := strings.Cut(page, "<!DOCTYPE"); got != want {
			t.Errorf("%s became\n%s, want\n%s", place, got, want)
		}
	}
}

// An error is text too, whatever the operator's file says.
func TestErrorMessageOfALoginTemplateIsText_Row28(t *testing.T) {
	s := newSet(t, pages.Options{LoginHTML: plain, Messages: write(t, "m.json", `{"en": {"login.invalid": "<b>\"No\""}}`)})
	if page, _ := login(t, s, "", pages.Login{Problem: "login.invalid"}); !strings.Contains(page, `<div class="error">&lt;b&gt;&#34;No&#34;</div>`) {
		t.Error(page)
	}
}

// Comments are for the authors of a page and not sent. A < that begins no tag is text, whatever
// stands after it.
func TestLoginTemplateIsSentWithoutComments_Row28(t *testing.T) {
	for src, want := range map[string]string{
		"a<!-- TODO: {nothing} -->b":                      "ab",
		"<!-- 1 -->{username}<!-- 2 --><!-- 3 --!>":       "u",
		"<!-->a<!--->b":                                   "ab",
		"<<!-- x -->b title={username}>":                  "&lt;b title=u>",
		"1 < 2 <{username}":                               "1 &lt; 2 &lt;u",
		"<?xml x?><![CDATA[<p>]]></ p>":                   "&lt;?xml x?>&lt;![CDATA[<p>]]>&lt;/ p>",
		"<svg><style><![CDATA[a > b {}]]></style></svg>":  "<svg><style><![CDATA[a > b {}]]></style></svg>",
		"<style><!-- p {} --></style><title><!--</title>": "<style><!-- p {} --></style><title>&lt;!--</title>",
	} {
		page, _ := login(t, newSet(t, pages.Options{LoginHTML: src + plain}), "", pages.Login{Username: "u"})
		if got, _, _ := strings.Cut(page, "<!DOCTYPE"); got != want || strings.Contains(page, "our own page") {
			t.Errorf("%s became\n%s, want\n%s", src, got, want)
		}
	}
}

// attacks are values that would become markup in one place or another.
var attacks = []string{`zq"'><zq onzq=zq>`, "zq onzq=zq", "zq", "/title ", "/textarea", "title", "!--", "!--zq", "--", "!", "?zq", "lt;zq onzq=zq", "#60;zq", " onzq=zq ", "x>", "\x00<zq>"}

// shape is the elements of a page and the names of their attributes, as a browser sees them.
func shape(t *testing.T, page string) string {
	t.Helper()
	document, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for n := range document.Descendants() {
		switch n.Type {
		case html.ElementNode:
			fmt.Fprint(&out, "<", n.Data)
			for _, a := range n.Attr {
				fmt.Fprint(&out, " ", a.Namespace, a.Key)
			}
			fmt.Fprint(&out, ">")
		case html.CommentNode:
			fmt.Fprint(&out, "<!", n.Data, ">")
		}
	}
	return out.String()
}

// If a template is accepted, no value changes the shape of the page.
func FuzzLoginTemplate(f *testing.F) {
	for _, src := range []string{"", "<a title='{username}'>", "<a href={username}>", "<script>{username}</script>", "<svg><style>{username}</style></svg>", "<!--{username}--!>", "<b {username}>",
		"<textarea>{username}</textarea>", "<a href='/x{username}'>", "<![CDATA[>{username}]]>", "<a =\"{username}\">", "<a title=\"'>{username}\">", "<title></title >{username}",
		"<<!-- -->b title={username}>", "<style></\u017ftyle>{username}</style>", "<svg><title><b title='</title>{username}'>",
		"<{username}>", "<{username} x>", "</{username}>", "</ {username}>", "<!{username}>", "<?{username}>", "&{username}", "&#{username}", "<title><{username}></title>", "<title></{username}><b>x</b></title>",
		"<title></ti{username}></title>", "<textarea></text{username} x>y</textarea>", "<textarea><!--</textarea>{username}-->", "<svg><![CDATA[<{username}]]></svg>", "a<!-- -->{username}", "<<{username}",
		"<svg><iframe><a href='/x</iframe>", "<svg><title>{username}</title><style><![CDATA[a{}]]></style></svg>", "<svg><![CDATA[><a title=\"]]><b {username}\">"} {
		f.Add(src)
	}
	f.Fuzz(func(t *testing.T, extra string) {
		s, err := pages.New(pages.Site{App: "A"}, pages.Options{LoginHTML: extra + plain})
		if err != nil {
			return
		}
		usual, _ := login(t, s, "", pages.Login{Username: "x"})
		want := shape(t, usual)
		for _, value := range attacks {
			page, _ := login(t, s, "", pages.Login{Username: value})
			if got := shape(t, page); got != want {
				t.Errorf("%q in %q changes\n%s to\n%s", value, extra, want, got)
			}
		}
	})
}
