package handlers_test

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"signet/internal/test/authtest"
)

// For every authorization request, the browser goes to a page of this server or to the
// redirect URI of the client that it names.
func FuzzAuthorize(f *testing.F) {
	s := authtest.New(f)
	for _, c := range []authtest.Client{s.PRE, s.NAT} {
		good := strings.TrimPrefix(s.AuthorizeURL(c), authtest.Issuer+"/authorize?")
		f.Add(good)
		f.Add(good + "&redirect_uri=https://evil.test")
		f.Add(good + "&client_id=pre")
		f.Add(good + "%00&prompt=none")
		f.Add(strings.Replace(good, "127.0.0.1", "127.0.0.1:80@evil.test", 1))
		f.Add(strings.Replace(good, "pre.test", "pre.test.evil.test", 1))
		f.Add(good + "&resource=//evil.test;x")
	}
	f.Fuzz(func(t *testing.T, query string) {
		r := request("GET", authtest.Issuer+"/authorize", "")
		r.URL.RawQuery = query
		res := s.Do(t, r)
		to := res.Header.Get("Location")
		if to == "" && res.StatusCode == 400 || res.StatusCode == http.StatusSeeOther && strings.HasPrefix(to, "/login?state=") {
			return
		}
		if res.StatusCode != http.StatusSeeOther || !strings.HasPrefix(to, s.PRE.RedirectURI+"?error=") && !strings.HasPrefix(to, "http://127.0.0.1") && !strings.HasPrefix(to, "http://localhost") {
			t.Errorf("%d to %q", res.StatusCode, to)
		}
		if strings.Contains(to, "@") || strings.ContainsAny(to, "\r\n") {
			t.Errorf("redirect to %q", to)
		}
	})
}

// Whatever is posted to the token endpoint, without a valid code or handle there
// is no token, and the answer is a proper error.
func FuzzToken(f *testing.F) {
	s := authtest.New(f)
	tok := s.Tokens(f, "alice", s.PUB)
	f.Add("grant_type=refresh_token&client_id=" + s.PUB.ID + "&refresh_token=" + tok.Access)
	f.Add("grant_type=authorization_code&client_id=pre&code=" + tok.Refresh + "&code_verifier=" + authtest.Verifier)
	f.Add("grant_type=refresh_token&client_id=pre&refresh_token=" + tok.Refresh)
	f.Add("grant_type=refresh_token;client_id=pre")
	f.Add("grant_type=%zz")
	f.Fuzz(func(t *testing.T, body string) {
		if strings.Contains(body, tok.Refresh) && strings.Contains(body, s.PUB.ID) {
			return
		}
		r := s.Post(t, "/token", formType, body)
		if r.StatusCode < 400 || r.Error() == "" {
			t.Errorf("%d %s", r.StatusCode, r.Body)
		}
	})
}

// Whatever a browser sends as cookies, only the one that it was given signs it in.
func FuzzCookie(f *testing.F) {
	s := authtest.New(f)
	b := s.NewBrowser()
	b.SignIn(f, "alice", s.PUB)
	var good []string
	for name, c := range b.Cookies {
		good = append(good, name+"="+c.Value)
		for _, bad := range []string{"", c.Value + "A", c.Value[1:], strings.ToUpper(c.Value), c.Value + "\n", `"` + c.Value[:len(c.Value)-1] + `"`, strings.Repeat(c.Value, 100)} {
			f.Add(name + "=" + bad)
		}
		f.Add(name + "=x; " + name + "=y")
	}
	account := func(t testing.TB, cookies string) *authtest.Response {
		r := request("GET", authtest.Issuer+"/account", "")
		r.Header.Set("Cookie", cookies)
		return s.Do(t, r)
	}
	const signedIn = "Sign out"
	if r := account(f, strings.Join(good, "; ")); !strings.Contains(r.Body, signedIn) {
		f.Fatalf("the right cookies: %d %s", r.StatusCode, r.Body)
	}
	f.Fuzz(func(t *testing.T, cookies string) {
		for _, c := range good {
			if _, value, _ := strings.Cut(c, "="); strings.Contains(cookies, value) {
				return
			}
		}
		if r := account(t, cookies); r.StatusCode >= 500 || strings.Contains(r.Body, signedIn) {
			t.Errorf("%q: %d %s", cookies, r.StatusCode, r.Body)
		}
	})
}

// A client's name is shown without what could reorder, hide or stretch it, on the
// consent page, and escaped.
func FuzzClientName(f *testing.F) {
	s := authtest.New(f)
	for _, name := range []string{"<script>", "\u202Egnp.exe", "a\u200Bb", "\u0301\u0301\u0301\u0301", "\xff\xfe", "{{.}}", "\u3164"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		shown := s.ShownName(t, name)
		for _, r := range shown {
			if r < 0x20 || r >= 0x7f && r < 0xa0 || r >= 0x200b && r <= 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x2060 && r <= 0x206f || r == 0xfeff {
				t.Errorf("%q is shown as %q", name, shown)
			}
		}
		if strings.ContainsAny(shown, `<>"`) || shown == "" {
			t.Errorf("%q is shown as %q", name, shown)
		}
	})
}

// C01: the policy allows the style of the page and nothing else that is in it.
func TestPagesHaveAStrictPolicy_C01(t *testing.T) {
	s := authtest.New(t)
	b := s.NewBrowser()
	login := b.Get(t, s.AuthorizeURL(s.PUB))
	for _, page := range []*authtest.Response{login, b.Submit(t, login, aliceLogin), b.Get(t, "/logout"), b.Get(t, "/nothing"), b.Get(t, "/authorize")} {
		_, style, _ := strings.Cut(page.Body, "<style>")
		style, _, _ = strings.Cut(style, "</style>")
		hash := sha256.Sum256([]byte(style))
		if want := "style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'"; !strings.Contains(page.Header.Get("Content-Security-Policy"), want) {
			t.Errorf("policy %s, want %s", page.Header.Get("Content-Security-Policy"), want)
		}
		for _, bad := range []string{"<script", "style=", "http://", "src=", "@import", "url("} {
			if strings.Contains(strings.ReplaceAll(page.Body, ` src="/assets/logo"`, ""), bad) {
				t.Errorf("the page has %s", bad)
			}
		}
	}
}
