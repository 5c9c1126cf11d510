package clients_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"

	"signet/internal/clients"
	"signet/internal/oauth"
)

// document is a good registration; a test changes one thing.
func document(member string, value any) string {
	m := map[string]any{"redirect_uris": []string{"https://app.test/cb"}, "client_name": "App"}
	if member != "" {
		m[member] = value
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func refused(t *testing.T, r *clients.Registry, doc string, code oauth.Code) {
	t.Helper()
	reg, err := r.Register(context.Background(), []byte(doc))
	if err == nil {
		t.Errorf("%s was registered: %s", doc, marshal(t, reg))
		return
	}
	wantError(t, err, code, 400)
}

var unreservedOnly = regexp.MustCompile(`^[A-Za-z0-9._~-]+$`)

// The answer says what will be enforced and repeats what was said, and a client
// library can read it.
func TestRegistrationEchoes(t *testing.T) {
	r := open(t, options(t))
	reg := register(t, r, `{"redirect_uris":["http://localhost:5000/callback"],"client_name":"My App","scope":"read write offline_access","grant_types":["authorization_code"],
		"client_uri":"https://app.test","logo_uri":"https://app.test/logo.png","tos_uri":"https://app.test/tos","policy_uri":"https://app.test/policy","contacts":["ops@app.test"],
		"software_id":"s","software_version":"1","application_type":"native","jwks":{"keys":[{"kty":"EC","crv":"P-256","x":"a","y":"b"}]},"client_name#ja":"x","unknown":{"a":[1]},"logo_uri#de":null}`)
	var got map[string]any
	if err := json.Unmarshal([]byte(marshal(t, reg)), &got); err != nil {
		t.Fatal(err)
	}
	id, secret, issued := got["client_id"].(string), got["client_secret"].(string), got["client_id_issued_at"].(float64)
	if !unreservedOnly.MatchString(id) || !unreservedOnly.MatchString(secret) || len(secret) < 43 {
		t.Errorf("id %q or secret %q: not the same raw and form-encoded, or too short", id, secret)
	}
	if now := float64(time.Now().Unix()); issued < now-60 || issued > now {
		t.Errorf("issued at %v, now is %v", issued, now)
	}
	want := map[string]any{
		"client_id": id, "client_secret": secret, "client_id_issued_at": issued, "client_secret_expires_at": 0.0,
		"redirect_uris": []any{"http://localhost:5000/callback"}, "client_name": "My App", "scope": "read write offline_access", "token_endpoint_auth_method": "client_secret_basic",
		"grant_types": []any{"authorization_code", "refresh_token"}, "response_types": []any{"code"},
		"client_uri": "https://app.test", "logo_uri": "https://app.test/logo.png", "tos_uri": "https://app.test/tos", "policy_uri": "https://app.test/policy", "contacts": []any{"ops@app.test"},
		"software_id": "s", "software_version": "1", "application_type": "native",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var sdk oauthex.ClientRegistrationResponse
	if err := json.Unmarshal([]byte(marshal(t, reg)), &sdk); err != nil || sdk.ClientID != id || sdk.ClientSecret != secret {
		t.Errorf("the SDK reads %+v, %v", sdk, err)
	}
	if log := fmt.Sprint(reg.LogValue()); strings.Contains(log, secret) {
		t.Errorf("the log says %s", log)
	}
}

func TestPublicRegistrationHasNoSecret(t *testing.T) {
	reg := register(t, open(t, options(t)), document("token_endpoint_auth_method", "none"))
	if got := marshal(t, reg); strings.Contains(got, "client_secret") {
		t.Errorf("%s: want no word about a secret", got)
	}
	if reg.Scope != "read" {
		t.Errorf("scope %q, want the default", reg.Scope)
	}
}

func TestRedirectURIsOfRealClients(t *testing.T) {
	r := open(t, options(t))
	for name, uris := range map[string][]string{
		"Cursor":    {"cursor://anysphere.cursor-mcp/oauth/callback", "https://www.cursor.com/agents/mcp/oauth/callback", "http://localhost:8787/callback"},
		"VS Code":   {"https://vscode.dev/redirect", "https://insiders.vscode.dev/redirect", "http://127.0.0.1/", "http://127.0.0.1:33418/"},
		"claude.ai": {"https://claude.ai/api/mcp/auth_callback"},
		"ChatGPT":   {"https://chatgpt.com/connector_platform_oauth_redirect"},
		"Inspector": {"http://127.0.0.1:6276/oauth/callback"},
	} {
		reg := register(t, r, document("redirect_uris", uris))
		if diff := cmp.Diff(uris, find(t, r, reg.ClientID).RedirectURIs); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	c := find(t, r, register(t, r, document("redirect_uris", []string{"http://127.0.0.1/", "http://127.0.0.1:33418/"})).ClientID)
	if _, err := c.RedirectURI("http://127.0.0.1:40001/"); err != nil {
		t.Error(err)
	}
	same := []string{"https://a.test/", "https://a.test/"}
	if got := register(t, r, document("redirect_uris", same)).RedirectURIs; len(got) != 1 {
		t.Errorf("one URI twice became %q, so it can never be left out", got)
	}
}

func TestDangerousRedirectURIsAreRefused_H01(t *testing.T) {
	r := open(t, options(t))
	register(t, r, document("", nil))
	for _, uri := range []string{
		"javascript:alert(1)", "JaVaScRiPt:alert(1)", " https://app.test/cb", "\tjavascript:x", "\x00javascript:x", "data:text/html,x", "vbscript:x", "file:///x", "about:blank", "blob:https://x",
		"http://app.test/cb", "https://*/cb", "https://u:p@app.test/", "https:///cb", "https:cb", "https://app.test/cb#", "https://app.test/#x", `https:\\app.test\cb`, "",
		"vscode://vscode.microsoft-authentication", "com.example.app:/cb", "https://app.test/" + strings.Repeat("a", 2<<10),
	} {
		refused(t, r, document("redirect_uris", []string{uri}), oauth.InvalidRedirectURI)
		refused(t, r, document("redirect_uris", []string{"https://app.test/cb", uri}), oauth.InvalidRedirectURI)
	}
	var eleven []string
	for i := range 11 {
		eleven = append(eleven, fmt.Sprintf("https://a.test/%d", i))
	}
	register(t, r, document("redirect_uris", eleven[:10]))
	for name, value := range map[string]any{"eleven": eleven, "none": []string{}, "null": nil, "a string": "https://app.test/cb", "numbers": []int{1}, "an object": map[string]string{}} {
		t.Run(name, func(t *testing.T) { refused(t, r, document("redirect_uris", value), oauth.InvalidRedirectURI) })
	}
	refused(t, r, `{"client_name":"x"}`, oauth.InvalidRedirectURI)
	refused(t, r, `{"Redirect_URIs":["https://app.test/cb"]}`, oauth.InvalidRedirectURI)
}

func TestOtherURIsOfMetadataAreChecked_H02(t *testing.T) {
	r := open(t, options(t))
	for _, member := range []string{"client_uri", "logo_uri", "tos_uri", "policy_uri", "jwks_uri"} {
		register(t, r, document(member, "https://app.test/page?x#y"))
		register(t, r, document(member, "")) // clients send empty members for what they do not have
		for _, uri := range []any{"http://app.test/", "javascript:alert(1)", "data:image/png,x", "https://u@app.test/", "https://u:p@app.test/", "//app.test", "app.test", "https:///x", "https:x", `https:\\app.test`, `https://app.test/\x`, "https://app.test/\x7f", "https://app.test/\n", " https://app.test", 7, []string{"https://a.test"}} {
			refused(t, r, document(member, uri), oauth.InvalidClientMetadata)
		}
	}
}

func TestInconsistentCapabilitiesAreRefused_H03(t *testing.T) {
	r := open(t, options(t))
	jwk := func(member string) any {
		return map[string]any{"keys": []any{map[string]string{"kty": "EC"}, map[string]string{"kty": "EC", "x": "a", member: "secret"}}}
	}
	register(t, r, document("jwks", jwk("y")))
	for _, c := range []struct {
		member string
		value  any
	}{
		{"grant_types", []string{"password"}},
		{"grant_types", []string{"authorization_code", "implicit"}},
		{"grant_types", []string{"client_credentials"}},
		{"grant_types", []string{"refresh_token"}},
		{"grant_types", "authorization_code"},
		{"response_types", []string{"token"}},
		{"response_types", []string{"code", "id_token"}},
		{"response_types", []string{"code token"}},
		{"token_endpoint_auth_method", "private_key_jwt"},
		{"token_endpoint_auth_method", "client_secret_jwt"},
		{"token_endpoint_auth_method", "None"},
		{"token_endpoint_auth_method", 1},
		{"application_type", "service"},
		{"scope", "read root"},
		{"scope", `read "x"`},
		{"scope", "*"},
		{"scope", []string{"read"}},
		{"client_name", []string{"x"}},
		{"contacts", "ops@app.test"},
		{"jwks", jwk("d")}, {"jwks", jwk("p")}, {"jwks", jwk("q")}, {"jwks", jwk("dp")}, {"jwks", jwk("dq")}, {"jwks", jwk("qi")}, {"jwks", jwk("oth")}, {"jwks", jwk("k")},
		{"jwks", "x"}, {"jwks", map[string]string{}}, {"jwks", []string{}}, {"jwks", map[string]any{"keys": []string{"x"}}},
	} {
		refused(t, r, document(c.member, c.value), oauth.InvalidClientMetadata)
	}
	refused(t, r, `{"redirect_uris":["https://a.test/"],"jwks":{"keys":[]},"jwks_uri":"https://a.test/jwks"}`, oauth.InvalidClientMetadata)
	for _, scope := range []string{"openid profile email offline_access", "admin", ""} {
		register(t, r, document("scope", scope))
	}
	for _, member := range []string{"grant_types", "response_types", "jwks", "contacts"} {
		register(t, r, document(member, nil))
		if member != "jwks" {
			register(t, r, document(member, []string{}))
		}
	}
}

func TestRegistrationDocumentIsOneJSONObject(t *testing.T) {
	r := open(t, options(t))
	good := document("", nil)
	for _, doc := range []string{"", "x", "null", "[]", `"x"`, "1", "{", good[:len(good)-1], good + good, good + "x", good + "]", `{"a"}`, `{"a":}`, `{1:2}`, `{"a":1,}`,
		`{"redirect_uris":["https://a.test/"],"redirect_uris":["https://evil.test/"]}`, `{"redirect_uris":["https://a.test/"],"redirect\u005furis":["https://evil.test/"]}`,
		strings.Replace(good, "App", "A\xff", 1), strings.Repeat("[", 5000)} {
		refused(t, r, doc, oauth.InvalidClientMetadata)
	}
}

// What would make an id too long for a URL is refused when it is registered, not
// when it is used.
func TestTooLargeRegistrationIsRefused_H06(t *testing.T) {
	r := open(t, options(t))
	_, err := r.Register(context.Background(), []byte(document("software_id", strings.Repeat("a", 16<<10))))
	wantError(t, err, oauth.InvalidClientMetadata, 413)
	register(t, r, document("software_id", strings.Repeat("a", 15<<10))) // said, but not sealed

	long := func(n int) string {
		return document("redirect_uris", []string{"https://a.test/" + strings.Repeat("a", n)})
	}
	accepted := 0
	for n := 0; n < 1500; n += 10 {
		reg, err := r.Register(context.Background(), []byte(long(n)))
		if err != nil {
			wantError(t, err, oauth.InvalidClientMetadata, 400)
			continue
		}
		accepted = n
		if len(reg.ClientID) > 1500 {
			t.Fatalf("id of %d characters", len(reg.ClientID))
		}
	}
	if accepted < 800 || accepted > 1200 {
		t.Errorf("the longest URI that was accepted has about %d characters", accepted)
	}
}

// A name is one line, and shows in its own direction what it consists of.
func TestNamesAreCleaned(t *testing.T) {
	r := open(t, options(t))
	for name, want := range map[string]string{
		"Näme 日本 🙂":                    "Näme 日本 🙂",
		"a\u202Eb\u2066c\u200Bd\uFEFF": "abcd",
		"  a \r\n\t b\u2028c\u00A0d ":  "a b c d",
		"a\x00\x1b[31mb\u0085c":        "a[31mb c",
		"\u3164\u115Fx":                "x",
		"<script>alert(1)</script>":    "<script>alert(1)</script>", // the page's templates escape
		strings.Repeat("ü", 300):       strings.Repeat("ü", 100),
		"\u200D":                       "",
	} {
		reg := register(t, r, document("client_name", name))
		if reg.Name != want || find(t, r, reg.ClientID).Name != want {
			t.Errorf("%q became %q, want %q", name, reg.Name, want)
		}
	}
}

// Whatever is registered is found again, obeys the rules, and reads back; whatever
// is not gets one of the two codes.
func FuzzRegister(f *testing.F) {
	r := open(f, options(f))
	f.Add(document("", nil))
	f.Add(document("redirect_uris", []string{"javascript:alert(1)"}))
	f.Add(document("redirect_uris", []string{"cursor"}))
	f.Add(document("jwks", map[string]any{"keys": []any{map[string]string{"d": "x"}}}))
	f.Add(`{"redirect_uris":["https://a.test/"],"Redirect_uris":["https://evil.test/"],"client_id":"alice"}`)
	f.Add(`{"redirect_uris":["cursor://a/b"],"client_name":"\ud800\u202e","scope":"read  read"}`)
	f.Fuzz(func(t *testing.T, doc string) {
		reg, err := r.Register(context.Background(), []byte(doc))
		if err != nil {
			var e *oauth.Error
			if !errors.As(err, &e) || e.Code != oauth.InvalidClientMetadata && e.Code != oauth.InvalidRedirectURI {
				t.Errorf("%q: %v", doc, err)
			}
			return
		}
		c := find(t, r, reg.ClientID)
		if !slices.Equal(c.RedirectURIs, reg.RedirectURIs) || c.Method != reg.Method || strings.Join(c.Scopes, " ") != reg.Scope || c.Name != reg.Name {
			t.Errorf("%q: enforced is %+v, said was %s", doc, c, marshal(t, reg))
		}
		if len(reg.ClientID) > 1500 || strings.HasPrefix(reg.ClientID, "https://") || (reg.ClientSecret == "") != (reg.Method == "none") {
			t.Errorf("%q: %s", doc, marshal(t, reg))
		}
		if !utf8.ValidString(c.Name) || strings.ContainsAny(c.Name, "\r\n\t\x00\u202e") {
			t.Errorf("name %q", c.Name)
		}
		for _, uri := range c.RedirectURIs {
			if !strings.HasPrefix(uri, "https://") && !oauth.IsLoopbackRedirect(uri) && !strings.HasPrefix(uri, "cursor:/") {
				t.Errorf("%q was registered", uri)
			}
		}
	})
}

func BenchmarkFindRegistered(b *testing.B) {
	r := open(b, options(b))
	id := register(b, r, document("", nil)).ClientID
	for b.Loop() {
		if _, err := r.Find(context.Background(), id); err != nil {
			b.Fatal(err)
		}
	}
}
