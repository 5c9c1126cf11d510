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
		"software_id": "s", "software_version": "1", "application_type": "native", "id_token_signed_response_alg": "ES256",
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
		"Cline":     {"vscode://saoudrizwan.claude-dev/mcp-auth/callback/3f2a"},
		"Claude":    {"claude://claude.ai/mcp-auth-callback/sdk"},
		"Warp":      {"warp://mcp/oauth2callback"},
		"WorkBuddy": {"workbuddy://workbuddy/mcp/connector%3A/oauth/callback"},
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
		"http://app.test/cb", "http://10.1.2.3/cb", "https://*/cb", "https://u:p@app.test/", "https:///cb", "https:cb", "https://app.test/cb#", "https://app.test/#x", `https:\\app.test\cb`, "",
		"com.example.app:/cb", "myapp://cb", "https://app.test/" + strings.Repeat("a", 2<<10),
		"vscode:vscode.microsoft-authentication", // vscode is a default scheme, in the form that has a host or path
	} {
		refused(t, r, document("redirect_uris", []string{uri}), oauth.InvalidRedirectURI)
		reg := register(t, r, document("redirect_uris", []string{uri, "https://app.test/cb", uri}))
		if diff := cmp.Diff([]string{"https://app.test/cb"}, reg.RedirectURIs); diff != "" {
			t.Errorf("%q beside another one (-want +got):\n%s", uri, diff)
		}
		if got := find(t, r, reg.ClientID).RedirectURIs; len(got) != 1 {
			t.Errorf("%q: enforced are %q", uri, got)
		}
	}
	var eleven []string
	for i := range 11 {
		eleven = append(eleven, fmt.Sprintf("https://a.test/%d", i))
	}
	register(t, r, document("redirect_uris", eleven[:10]))
	register(t, r, document("redirect_uris", append([]string{"javascript:x", eleven[0]}, eleven[:10]...)))
	for name, value := range map[string]any{"eleven": eleven, "none": []string{}, "null": nil, "a string": "https://app.test/cb", "numbers": []int{1}, "an object": map[string]string{}} {
		t.Run(name, func(t *testing.T) { refused(t, r, document("redirect_uris", value), oauth.InvalidRedirectURI) })
	}
	register(t, r, document("redirect_uris", []any{1, nil, "https://app.test/cb", []string{"x"}}))
	refused(t, r, `{"client_name":"x"}`, oauth.InvalidRedirectURI)
	refused(t, r, `{"Redirect_URIs":["https://app.test/cb"]}`, oauth.InvalidRedirectURI)
}

// The refusal has the reason of each URI, and says what an operator can do about a scheme.
func TestRefusedRedirectURIsHaveReasons(t *testing.T) {
	r := open(t, options(t))
	_, err := r.Register(t.Context(), []byte(document("redirect_uris", []string{"http://app.test/cb", "myapp://cb", "https://app.test/#x"})))
	wantError(t, err, oauth.InvalidRedirectURI, 400)
	for _, want := range []string{"redirect_uris[0]: must be https", "redirect_uris[1]: has a scheme that SIGNET_REDIRECT_SCHEMES does not list: myapp", "redirect_uris[2]: has a fragment"} {
		if got := oauth.AsError(err).Description; !strings.Contains(got, want) {
			t.Errorf("%q does not say %q", got, want)
		}
	}
	_, err = r.Register(t.Context(), []byte(document("redirect_uris", []string{"javascript:alert(1)"})))
	if got := oauth.AsError(err).Description; strings.Contains(got, "SIGNET_") {
		t.Errorf("%q names a setting that cannot allow this", got)
	}
}

// The schemes that registrations may use are the operator's.
func TestRedirectSchemesAreASetting(t *testing.T) {
	uris := []string{"cursor://h/cb", "vscode://saoudrizwan.claude-dev/cb", "claude://claude.ai/mcp-auth-callback/sdk", "warp://mcp/oauth2callback", "workbuddy://workbuddy/mcp/connector%3A/oauth/callback", "myapp://cb", "com.example.app:/cb", "http://app.test/cb"}
	for _, c := range []struct {
		schemes []string
		want    []string
	}{
		{nil, uris[:5]},
		{[]string{"myapp", "com.example.app"}, uris[5:7]},
		{[]string{"http", "javascript", "cursor"}, uris[:1]}, // http on loopback only, whatever the list says
		{[]string{}, nil},
	} {
		o := options(t)
		o.Schemes = c.schemes
		r := open(t, o)
		for _, uri := range append(uris, "javascript://x/y") {
			_, err := r.Register(t.Context(), []byte(document("redirect_uris", []string{uri})))
			if ok := slices.Contains(c.want, uri); (err == nil) != ok {
				t.Errorf("%q: %s: %v", c.schemes, uri, err)
			}
		}
	}
}

// What may not be shown is left out of the answer. It is no reason to refuse: clients in
// development name http pages.
func TestOtherURIsOfMetadataAreLeftOut_H02(t *testing.T) {
	r := open(t, options(t))
	for _, member := range []string{"client_uri", "logo_uri", "tos_uri", "policy_uri", "jwks_uri"} {
		said := func(uri any) any {
			var got map[string]any
			if err := json.Unmarshal([]byte(marshal(t, register(t, r, document(member, uri)))), &got); err != nil {
				t.Fatal(err)
			}
			return got[member]
		}
		if got := said("https://app.test/page?x#y"); got != "https://app.test/page?x#y" {
			t.Errorf("%s: %v", member, got)
		}
		for _, uri := range []any{"", "http://localhost:5173", "http://app.test/", "javascript:alert(1)", "data:image/png,x", "https://u@app.test/", "https://u:p@app.test/", "//app.test", "app.test", "https:///x", "https:x", `https:\\app.test`, `https://app.test/\x`, "https://app.test/\x7f", "https://app.test/\n", " https://app.test", 7, true, []string{"https://a.test"}, map[string]int{"a": 1}} {
			if got := said(uri); got != nil {
				t.Errorf("%s %v is repeated as %v", member, uri, got)
			}
		}
	}
}

// A client that asks for more than there is gets what there is, and is told (RFC 7591 §3.2.1).
func TestRegistrationIsNarrowed_H03(t *testing.T) {
	r := open(t, options(t))
	plain := register(t, r, document("", nil))
	jwk := func(member string) any {
		return map[string]any{"keys": []any{map[string]string{"kty": "EC"}, map[string]string{"kty": "EC", "x": "a", member: "secret"}}}
	}
	for _, c := range []struct {
		member string
		value  any
	}{
		{"grant_types", []string{"authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:jwt-bearer"}},
		{"grant_types", []string{"authorization_code", "implicit", "password"}},
		{"grant_types", []string{"refresh_token"}},
		{"grant_types", "authorization_code"}, {"grant_types", []any{1}}, {"grant_types", nil}, {"grant_types", []string{}}, {"grant_types", map[string]any{"a": 1}},
		{"response_types", []string{"code", "id_token"}}, {"response_types", []string{"code token", "code"}}, {"response_types", "token"}, {"response_types", nil}, {"response_types", []string{}},
		{"token_endpoint_auth_method", "private_key_jwt"}, {"token_endpoint_auth_method", "client_secret_jwt"}, {"token_endpoint_auth_method", "tls_client_auth"}, {"token_endpoint_auth_method", 1}, {"token_endpoint_auth_method", nil},
		{"application_type", "service"}, {"application_type", 1},
		{"scope", "claudeai"}, {"scope", "mcp:tools"}, {"scope", "https://graph.example/.default"}, {"scope", `"x"`}, {"scope", "*"}, {"scope", ""}, {"scope", []string{"read"}}, {"scope", strings.Repeat("a ", 1<<11)}, {"scope", nil},
		{"contacts", "ops@app.test"}, {"contacts", []any{1, nil}}, {"contacts", nil},
		{"software_id", 1}, {"software_version", 2.5},
		{"jwks", jwk("y")}, {"jwks", jwk("d")}, {"jwks", jwk("k")}, {"jwks", "x"}, {"jwks", map[string]string{}}, {"jwks", []string{}}, {"jwks", nil},
		{"id_token_signed_response_alg", "RS256"}, {"id_token_signed_response_alg", "ES256"}, {"id_token_signed_response_alg", "none"}, {"id_token_signed_response_alg", 1},
		{"post_logout_redirect_uris", []string{"javascript:x", "http://app.test/"}}, {"post_logout_redirect_uris", "https://app.test/"}, {"post_logout_redirect_uris", nil},
		{"dpop_bound_access_tokens", true}, {"default_max_age", "x"}, {"client_id", "alice"}, {"client_secret", "chosen-by-me"},
	} {
		got := register(t, r, document(c.member, c.value))
		want := *plain
		want.ClientID, want.ClientSecret, want.IssuedAt = got.ClientID, got.ClientSecret, got.IssuedAt
		if diff := cmp.Diff(marshal(t, &want), marshal(t, got)); diff != "" {
			t.Errorf("%s %v (-want +got):\n%s", c.member, c.value, diff)
		}
	}
	if got := marshal(t, plain); !strings.Contains(got, `"id_token_signed_response_alg":"ES256"`) || !strings.Contains(got, `"client_secret_basic"`) {
		t.Errorf("%s", got)
	}
	for asked, want := range map[string]string{"read root": "read", "mcp:tools write claudeai": "write", "openid profile email offline_access": "openid profile email offline_access", "admin": "admin"} {
		if got := register(t, r, document("scope", asked)).Scope; got != want {
			t.Errorf("scope %q became %q, want %q", asked, got, want)
		}
	}
	if got := register(t, r, document("contacts", []any{1, "ops@app.test", nil})).Contacts; !slices.Equal(got, []string{"ops@app.test"}) {
		t.Errorf("contacts %q", got)
	}
	if got := register(t, r, document("client_name", []string{"x"})).Name; got != "" {
		t.Errorf("name %q", got)
	}
	uris := []string{"https://app.test/bye", "data:x", "https://app.test/bye", "http://localhost/bye"}
	if got := register(t, r, document("post_logout_redirect_uris", uris)).PostLogoutRedirectURIs; !slices.Equal(got, []string{uris[0], uris[3]}) {
		t.Errorf("post-logout redirect URIs %q", got)
	}
}

// A client that asks only for what does not exist could do nothing with its registration.
func TestRegistrationForNothingIsRefused_H03(t *testing.T) {
	r := open(t, options(t))
	for _, list := range [][]string{{"password"}, {"client_credentials"}, {"implicit", "password"}, {"urn:ietf:params:oauth:grant-type:device_code"}, {"Authorization_Code"}} {
		refused(t, r, document("grant_types", list), oauth.InvalidClientMetadata)
	}
	for _, list := range [][]string{{"token"}, {"id_token", "code token"}, {"none"}} {
		refused(t, r, document("response_types", list), oauth.InvalidClientMetadata)
	}
}

func TestRegistrationDocumentIsOneJSONObject(t *testing.T) {
	r := open(t, options(t))
	good := document("", nil)
	for _, doc := range []string{"", "x", "null", "[]", `"x"`, "1", "{", good[:len(good)-1], good + good, good + "x", good + "]", `{"a"}`, `{"a":}`, `{1:2}`, `{"a":1,}`,
		`{"redirect_uris":["https://a.test/"],"redirect_uris":["https://evil.test/"]}`, `{"redirect_uris":["https://a.test/"],"redirect\u005furis":["https://evil.test/"]}`,
		`{"redirect_uris":["https://a.test/"],"client_name":"a","client_name":"a"}`, `{"redirect_uris":["https://a.test/"],"x":1,"x":1}`,
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

// A registration gives up what its id has no room for, before it is refused.
func TestLongRegistrationGoesWithoutWhatItCan_H06(t *testing.T) {
	o := options(t)
	for i := range 40 {
		o.Scopes = append(o.Scopes, fmt.Sprintf("scope-%02d-with-a-long-name", i))
	}
	r := open(t, o)
	long := "https://app.test/" + strings.Repeat("a", 700)
	doc := func(members map[string]any) []byte {
		b, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	reg, err := r.Register(t.Context(), doc(map[string]any{"redirect_uris": []string{long}, "scope": "read write", "post_logout_redirect_uris": []string{long + "?bye"}}))
	if err != nil || len(reg.PostLogoutRedirectURIs) != 0 || reg.Scope != "read write" || len(reg.ClientID) > 1500 {
		t.Fatalf("%s, %v; want no post-logout URI", marshal(t, reg), err)
	}
	reg, err = r.Register(t.Context(), doc(map[string]any{"redirect_uris": []string{long}, "scope": strings.Join(o.Scopes, " ")}))
	if err != nil || reg.Scope != "read" || len(reg.ClientID) > 1500 {
		t.Fatalf("%s, %v; want the default scope", marshal(t, reg), err)
	}
	if c := find(t, r, reg.ClientID); !slices.Equal(c.Scopes, []string{"read"}) || !slices.Equal(c.RedirectURIs, []string{long}) {
		t.Errorf("enforced is %+v", c)
	}
	refused(t, r, document("redirect_uris", []string{long, long + "?x"}), oauth.InvalidClientMetadata)
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
			scheme, _, _ := strings.Cut(uri, ":")
			if scheme != "https" && !oauth.IsLoopbackRedirect(uri) && !slices.Contains(clients.DefaultSchemes, scheme) {
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
