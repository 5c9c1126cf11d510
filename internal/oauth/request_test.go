package oauth_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signet/internal/oauth"
)

const form = "application/x-www-form-urlencoded"

func read(contentType, body string) (url.Values, error) {
	r := httptest.NewRequest(http.MethodPost, "/token?grant_type=from_the_url&code=x", strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	return oauth.Form(httptest.NewRecorder(), r, 64<<10)
}

func TestFormReadsTheBodyAlone(t *testing.T) {
	got, err := read(form+"; charset=utf-8", "grant_type=refresh_token&prompt=&Code=x&Code=y&a=b%2Bc+d&empty")
	if err != nil {
		t.Fatal(err)
	}
	want := url.Values{"grant_type": {"refresh_token"}, "Code": {"x", "y"}, "a": {"b+c d"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRequestWithoutABodyHasNoParameters(t *testing.T) {
	if got, err := read("", ""); err != nil || got == nil || len(got) > 0 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestFormRefusesMalformedRequests(t *testing.T) {
	const good = "grant_type=authorization_code&code=c&client_id=app"
	if _, err := read(form, good); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		contentType, body string
		code              oauth.Code
		status            int
	}{
		"JSON":            {"application/json", good, oauth.InvalidRequest, 415},
		"multipart":       {"multipart/form-data; boundary=x", good, oauth.InvalidRequest, 415},
		"no content type": {"", good, oauth.InvalidRequest, 415},
		"JSON, no body":   {"application/json", "", oauth.InvalidRequest, 415},
		"other type":      {form + "x", good, oauth.InvalidRequest, 415},
		"too long":        {form, good + "&x=" + strings.Repeat("a", 64<<10), oauth.InvalidRequest, 413},
		"bad escape":      {form, good + "&x=%zz", oauth.InvalidRequest, 400},
		"cut escape":      {form, good + "&x=%4", oauth.InvalidRequest, 400},
		"semicolon":       {form, good + ";x=y", oauth.InvalidRequest, 400},
		"not UTF-8":       {form, good + "&x=%ff", oauth.InvalidRequest, 400},
		"name not UTF-8":  {form, good + "&%ff=x", oauth.InvalidRequest, 400},
		"many parameters": {form, good + strings.Repeat("&x=y", 1000), oauth.InvalidRequest, 400},
		"empty ones":      {form, good + strings.Repeat("&", 10_001), oauth.InvalidRequest, 400},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := read(c.contentType, c.body)
			wantCode(t, err, c.code)
			if got := oauth.AsError(err).Status(); got != c.status {
				t.Errorf("status %d, want %d", got, c.status)
			}
			if v.Has("code") {
				t.Error("a form comes with the error, so a handler that ignores the error would use it")
			}
		})
	}
}

func TestFormStopsReadingAtTheLimit(t *testing.T) {
	endless := &counter{}
	r := httptest.NewRequest(http.MethodPost, "/token", endless)
	r.Header.Set("Content-Type", form)
	_, err := oauth.Form(httptest.NewRecorder(), r, 64<<10)
	if status := oauth.AsError(err).Status(); status != 413 || endless.n > 128<<10 {
		t.Errorf("status %d after %d bytes, want 413 after at most 128 KB", status, endless.n)
	}
}

type counter struct{ n int }

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	c.n += len(p)
	return len(p), nil
}

func TestBrokenBodyKeepsItsCause(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/token", io.MultiReader(strings.NewReader("a=b"), brokenReader{}))
	r.Header.Set("Content-Type", form)
	_, err := oauth.Form(httptest.NewRecorder(), r, 100)
	wantCode(t, err, oauth.InvalidRequest)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v: the text for the log lacks the cause", err)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// A known parameter occurs once. An unknown one may occur again, also if its name
// differs from a known one only in case.
func TestKnownParametersOccurOnce_B11(t *testing.T) {
	for _, name := range []string{"client_id", "redirect_uri", "response_type", "scope", "state", "code_challenge", "code_challenge_method", "resource", "nonce", "prompt", "max_age",
		"grant_type", "code", "code_verifier", "refresh_token", "client_secret", "token", "token_type_hint", "username", "password", "decision", "logout_token", "proof", "stale"} {
		want := oauth.InvalidRequest
		if name == "resource" {
			want = oauth.InvalidTarget
		}
		for _, twice := range []string{name + "=a&" + name + "=a", name + "=a&" + name + "=b", name + "=&" + name + "=b"} {
			_, err := read(form, twice)
			wantCode(t, err, want)
			v, err := oauth.Query(httptest.NewRequest(http.MethodGet, "/authorize?"+twice, nil))
			if err != nil {
				t.Fatalf("%s: %v; want no error, as the caller decides how to report it", twice, err)
			}
			wantCode(t, oauth.CheckDuplicates(v), want)
			stay := name == "client_id" || name == "redirect_uri"
			if got := oauth.Duplicated(v, "client_id", "redirect_uri") == name; got != stay {
				t.Errorf("%s twice: redirect forbidden: %v, want %v", name, got, stay)
			}
		}
	}
	for _, q := range []string{"foo=1&foo=2", "Client_ID=a&Client_ID=b&client_id=c", "STATE=1&state=2"} {
		if _, err := read(form, q); err != nil {
			t.Errorf("%s: %v", q, err)
		}
	}
}

func TestQueryIsStrict(t *testing.T) {
	for _, q := range []string{"state=%zz", "state=a;b=c", "state=%ff", strings.Repeat("a&", 1000)} {
		r := httptest.NewRequest(http.MethodGet, "/authorize", nil)
		r.URL.RawQuery = q
		_, err := oauth.Query(r)
		wantCode(t, err, oauth.InvalidRequest)
	}
	v, err := oauth.Query(httptest.NewRequest(http.MethodGet, "/authorize?state=a+b%26c%3D%25%23%22%2B&code_challenge=", nil))
	if err != nil || v.Get("state") != `a b&c=%#"+` || v.Has("code_challenge") {
		t.Errorf("%v, %v", v, err)
	}
}

func basic(userinfo string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(userinfo))
}

func TestBasicIsReadRawAndDecoded(t *testing.T) {
	for header, want := range map[string]oauth.BasicCredentials{
		basic("app:s3cret"):                       {"app", "s3cret", "app", "s3cret"},
		"bASIC " + basic("app:a:b")[6:]:           {"app", "a:b", "app", "a:b"},
		basic("app:"):                             {"app", "", "app", ""},
		basic("https%3A%2F%2Fapp.test%2Fm.json:"): {"https%3A%2F%2Fapp.test%2Fm.json", "", "https://app.test/m.json", ""},
		basic("a+b:c%2Bd"):                        {"a+b", "c%2Bd", "a b", "c+d"},
		basic("100%:50%zz"):                       {"100%", "50%zz", "100%", "50%zz"},
		basic("a%00b:c%ff"):                       {"a%00b", "c%ff", "a%00b", "c%ff"},
		"Basic  " + basic("app:s")[6:] + " ":      {"app", "s", "app", "s"},
		basic("é:ü"):                              {"é", "ü", "é", "ü"},
	} {
		got, ok, err := oauth.Basic(header)
		if err != nil || !ok || got != want {
			t.Errorf("%q: %+v, %v, %v; want %+v", header, got, ok, err, want)
		}
	}
	for _, header := range []string{"", "Bearer abc", "Basically x", "DPoP x", "BasicYTpi"} {
		if got, ok, err := oauth.Basic(header); ok || err != nil {
			t.Errorf("%q: %+v, %v, %v; want not Basic", header, got, ok, err)
		}
	}
	for _, header := range []string{"Basic", "Basic ", "Basic !", basic("app"), basic(":s"), basic(""), basic("a:b") + "!", strings.TrimRight(basic("a:bb"), "="), basic("a:b\x00"), basic("a\n:b"), basic("\xff:b"),
		basic("a:" + strings.Repeat("b", 8<<10)), basic("app:s")[:9] + "\n" + basic("app:s")[9:], "Basic YTpi YTpi"} {
		got, ok, err := oauth.Basic(header)
		if !ok || got != (oauth.BasicCredentials{}) {
			t.Errorf("%q: %+v, %v; want Basic without credentials", header, got, ok)
		}
		wantCode(t, err, oauth.InvalidClient)
	}
}

// Credentials come back as they were sent, raw or form-encoded.
func FuzzBasic(f *testing.F) {
	f.Add("app", "s3cret")
	f.Add("https://app.test/m.json", "")
	f.Add("a+b", "%zz:%41")
	f.Fuzz(func(t *testing.T, id, secret string) {
		if raw, ok, err := oauth.Basic("Basic " + id + secret); !ok || err != nil && raw != (oauth.BasicCredentials{}) {
			t.Errorf("%q: %+v, %v, %v", id+secret, raw, ok, err)
		}
		raw, _, err := oauth.Basic(basic(id + ":" + secret))
		if err == nil && !strings.Contains(id, ":") && (raw.ID != id || raw.Secret != secret) {
			t.Errorf("raw %q:%q read as %+v", id, secret, raw)
		}
		encoded, _, encodedErr := oauth.Basic(basic(url.QueryEscape(id) + ":" + url.QueryEscape(secret)))
		if err == nil && encodedErr == nil && !strings.Contains(id, ":") && (encoded.DecodedID != id || encoded.DecodedSecret != secret) {
			t.Errorf("form-encoded %q:%q read as %+v", id, secret, encoded)
		}
	})
}

// Form reads what net/url reads, or returns an error that repeats no value.
func FuzzForm(f *testing.F) {
	f.Add("grant_type=authorization_code&code=x")
	f.Add("a=b;c=d")
	f.Add("resource=a&resource=b")
	f.Add("%zz=%ff&&&=")
	f.Fuzz(func(t *testing.T, body string) {
		got, err := read(form, body)
		if err != nil {
			var e *oauth.Error
			if !errors.As(err, &e) || e.Status() < 400 || e.Status() > 499 || !allowed.MatchString(e.Description) {
				t.Errorf("%q: %v", body, err)
			}
			return
		}
		naive, _ := url.ParseQuery(body)
		for name, values := range got {
			if !cmp.Equal(values, naive[name]) {
				t.Errorf("%q: %s is %q, want %q", body, name, values, naive[name])
			}
		}
		for name, values := range naive {
			if !got.Has(name) && !cmp.Equal(values, []string{""}) {
				t.Errorf("%q: %s=%q is lost", body, name, values)
			}
		}
	})
}

// Metadata has no field that was not set, except for the two whose absence would mean
// something else.
func TestMetadataOmitsUnsetFields_A02(t *testing.T) {
	got, err := json.Marshal(oauth.ServerMetadata{Issuer: "https://as.test"})
	if want := `{"issuer":"https://as.test","client_id_metadata_document_supported":false,"request_uri_parameter_supported":false}`; err != nil || string(got) != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	got, err = json.Marshal(oauth.ResourceMetadata{Resource: "r", AuthorizationServers: []string{"i"}, BearerMethodsSupported: []string{"header"}})
	if want := `{"resource":"r","authorization_servers":["i"],"bearer_methods_supported":["header"]}`; err != nil || string(got) != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
}

func TestBearerTokenComesFromOneHeader(t *testing.T) {
	for _, c := range []struct {
		lines []string
		token string
		ok    bool
		code  oauth.Code
	}{
		{nil, "", false, ""},
		{[]string{"Basic abc"}, "", false, ""},
		{[]string{"Bearer abc"}, "abc", true, ""},
		{[]string{"bearer   abc "}, "abc", true, ""},
		{[]string{"Bearer"}, "", true, oauth.InvalidToken},
		{[]string{"Bearer  "}, "", true, oauth.InvalidToken},
		{[]string{"Bearer a b"}, "", true, oauth.InvalidToken},
		{[]string{"Bearer a, Bearer b"}, "", true, oauth.InvalidRequest},
		{[]string{"Bearer a", "Bearer a"}, "", true, oauth.InvalidRequest},
	} {
		token, ok, err := oauth.Bearer(c.lines)
		var code oauth.Code
		if err != nil {
			code = oauth.AsError(err).Code
		}
		if token != c.token || ok != c.ok || code != c.code {
			t.Errorf("%q: %q, %t, %v; want %q, %t, %s", c.lines, token, ok, err, c.token, c.ok, c.code)
		}
	}
}
