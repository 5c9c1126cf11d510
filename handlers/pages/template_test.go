package pages_test

import (
	"html"
	"os"
	"strings"
	"testing"

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
		{"our delimiters", plain + "\uE000", "", "U+E000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantFault(t, pages.Options{LoginTemplate: write(t, "login.html", c.src)}, "login.html", c.line, c.word)
		})
	}
	wantFault(t, pages.Options{LoginTemplate: "/nowhere/login.html"}, "/nowhere/login.html")
	wantFaultFor(t, pages.Site{Path: "/auth"}, pages.Options{LoginTemplate: write(t, "login.html", plain)}, "/oauth/login, not to /auth/oauth/login")
}

// If a template is accepted, no input of a user becomes markup in it.
func FuzzLoginTemplate(f *testing.F) {
	for _, src := range []string{"", "<a title='{username}'>", "<a href={username}>", "<script>{username}</script>", "<svg><style>{username}</style></svg>", "<!--{username}--!>", "<b {username}>",
		"<textarea>{username}</textarea>", "<a href='/x{username}'>", "<![CDATA[>{username}]]>", "<a =\"{username}\">", "<a title=\"'>{username}\">", "<title></title >{username}"} {
		f.Add(src)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, extra string) {
		s, err := pages.New(pages.Site{App: "A"}, pages.Options{LoginTemplate: writeIn(t, dir, extra+plain)})
		if err != nil {
			return
		}
		page, _ := login(t, s, "", pages.Login{Username: `zq"'><zq onzq=zq>`})
		for _, bad := range []string{`zq"`, "zq'", "<zq", "zq>"} {
			if strings.Contains(page, bad) && !strings.Contains(extra, "zq") {
				t.Errorf("%s came out of\n%s", bad, extra)
			}
		}
	})
}

func writeIn(t *testing.T, dir, content string) string {
	t.Helper()
	path := dir + "/login.html"
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
