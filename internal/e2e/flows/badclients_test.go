package flows

import (
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"signet/internal/e2e"
	"signet/internal/test/clientdoc"
	"signet/internal/test/person"
)

// badHost serves wrong answers, one at the path of each entry, and counts the bytes that it
// could send.
type badHost struct {
	url    string
	sent   atomic.Int64
	canary atomic.Int64 // requests for what redirects lead to
}

const endless = 10 << 20

func newBadHost(t *testing.T) *badHost {
	t.Helper()
	h := &badHost{}
	mux := http.NewServeMux()
	serve := func(path, kind, body string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			io.WriteString(w, strings.ReplaceAll(body, "HOST", h.url))
		})
	}
	good := func(path string) string {
		return `{"client_id":"HOST` + path + `","client_name":"App","redirect_uris":["` + e2e.RedirectURI + `"],"token_endpoint_auth_method":"none"`
	}
	serve("/good.json", "application/json", good("/good.json")+"}")
	serve("/name-twice.json", "application/json", good("/name-twice.json")+`,"client_name":"Another"}`)
	serve("/redirects-twice.json", "application/json", good("/redirects-twice.json")+`,"redirect_uris":["https://evil.test/cb"]}`)
	serve("/id-twice.json", "application/json", good("/id-twice.json")+`,"client_id":"https://claude.ai/oauth/claude-code-client-metadata"}`)
	serve("/html.json", "text/html", good("/html.json")+"}")
	serve("/page.json", "application/json", "<!doctype html><title>Sign in</title>")
	serve("/empty.json", "application/json", "")
	serve("/list.json", "application/json", "["+good("/list.json")+"}]")
	for path, length := range map[string]string{"/long.json": "10485760", "/long-chunked.json": ""} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if length != "" {
				w.Header().Set("Content-Length", length)
			}
			for h.sent.Load() < endless {
				n, err := io.WriteString(w, strings.Repeat(" ", 4<<10))
				if h.sent.Add(int64(n)); err != nil || http.NewResponseController(w).Flush() != nil || r.Context().Err() != nil {
					return
				}
			}
		})
	}
	for path, code := range map[string]int{"/301.json": 301, "/302.json": 302, "/303.json": 303, "/307.json": 307, "/308.json": 308} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, h.url+"/behind.json", code) })
	}
	mux.HandleFunc("/behind.json", func(w http.ResponseWriter, _ *http.Request) { h.canary.Add(1) })
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	h.url = s.URL
	return h
}

// A wrong answer in place of a document makes no client: the user reads the reason, the browser is
// not redirected, the token endpoint says invalid_client, and no code is spent.
func TestAnswerThatIsNoDocumentMakesNoClient_I04_I05_I06(t *testing.T) {
	h := newBadHost(t)
	site := newSite(t)
	good := &e2e.Client{Issuer: site.proxy.URL, RedirectURI: e2e.RedirectURI, ID: h.url + "/good.json"}
	code := good.Code(t, "demo_user", "demo_password")
	for path, why := range map[string]string{
		"/name-twice.json": "occurs more than once", "/redirects-twice.json": "occurs more than once", "/id-twice.json": "occurs more than once",
		"/html.json": "not application/json", "/page.json": "not one JSON object", "/empty.json": "not one JSON object", "/list.json": "not one JSON object",
		"/long.json": "longer than", "/long-chunked.json": "longer than",
		"/301.json": "answered 301", "/302.json": "answered 302", "/303.json": "answered 303", "/307.json": "answered 307", "/308.json": "answered 308", "/missing.json": "answered 404",
	} {
		bad := &e2e.Client{Issuer: site.proxy.URL, RedirectURI: e2e.RedirectURI, ID: h.url + path}
		page, err := person.New("demo_user", "demo_password").Open(bad.AuthorizationURL("s"))
		if err != nil || page.StatusCode != http.StatusBadRequest || page.Left() != nil || !strings.Contains(page.Body, why) {
			t.Errorf("%s: %v, %v; want a page that says %q", path, page, err, why)
		}
		form := bad.CodeForm(code)
		if got, status := e2e.Post(t, site.proxy.URL, form); status != http.StatusUnauthorized || got.Error != "invalid_client" {
			t.Errorf("%s, at the token endpoint: %d %+v", path, status, got)
		}
	}
	if n := h.canary.Load(); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
	if n := h.sent.Load(); n > endless/2 {
		t.Errorf("%d bytes were read of documents that are too long", n)
	}
	good.Exchange(t, code)
}

// signedBy makes a compact JWS of these parts by an ES256 key.
func signedBy(t *testing.T, key *clientdoc.Key, header, claims string) string {
	t.Helper()
	private, ok := key.Private().Key.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatal("no key for ES256")
	}
	text := encoded(header) + "." + encoded(claims)
	hash := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, private, hash[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

func encoded(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// claimsFor are those of a good assertion, with the changes of more; nil leaves one out.
func claimsFor(t *testing.T, client, audience string, more map[string]any) string {
	t.Helper()
	now := time.Now().Unix()
	claims := map[string]any{"iss": client, "sub": client, "aud": audience, "jti": rand.Text(), "iat": now, "exp": now + 60}
	for name, v := range more {
		if claims[name] = v; v == nil {
			delete(claims, name)
		}
	}
	text, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// An assertion with one thing wrong is invalid_client, for a code as for a refresh, and spends
// neither of them.
func TestAssertionWithOneThingWrongSpendsNothing_D14(t *testing.T) {
	host := clientdoc.NewTLSHost(t)
	site := newSite(t, e2e.Trusts(host))
	issuer, key := site.proxy.URL, clientdoc.NewKeyFor(t, "ES256", "one")
	set := clientdoc.Set(t, key)
	client := &e2e.Client{Issuer: issuer, RedirectURI: e2e.RedirectURI,
		ID: e2e.PublishClient(t, host, "/signs.json", map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks": set})}
	const header = `{"alg":"ES256","kid":"one"}`
	with := func(more map[string]any) string {
		return signedBy(t, key, header, claimsFor(t, client.ID, issuer, more))
	}
	now := time.Now().Unix()
	good := claimsFor(t, client.ID, issuer, nil)
	wrong := map[string]string{
		"alg none, unsigned":   encoded(`{"alg":"none"}`) + "." + encoded(good) + ".",
		"alg none, signed":     signedBy(t, key, `{"alg":"none","kid":"one"}`, good),
		"alg NONE":             signedBy(t, key, `{"alg":"NONE","kid":"one"}`, good),
		"an HMAC, real header": hmacOver(t, `{"alg":"ES256","kid":"one"}`, good, set),
		"HS256 by the set":     hmacOver(t, `{"alg":"HS256","kid":"one"}`, good, set),
		"HS256 by the key":     hmacOver(t, `{"alg":"HS256","kid":"one"}`, good, set["keys"].([]any)[0]),
		"nested":               signedBy(t, key, `{"alg":"ES256","kid":"one","cty":"JWT"}`, with(nil)),
		"nested, not said":     signedBy(t, key, header, with(nil)),
		"nested in a string":   signedBy(t, key, header, `"`+with(nil)+`"`),
		"encrypted":            encoded(`{"alg":"ECDH-ES","enc":"A256GCM","cty":"JWT"}`) + ".." + encoded("x") + "." + encoded("x") + "." + encoded("x"),
		"key in the header":    signedBy(t, clientdoc.NewKeyFor(t, "ES256", "one"), `{"alg":"ES256","jwk":{}}`, good),
		"for another issuer":   with(map[string]any{"aud": "https://as.example"}),
		"for two":              with(map[string]any{"aud": []string{issuer, "https://as.example"}}),
		"for the resource":     with(map[string]any{"aud": issuer + "/mcp"}),
		"no exp":               with(map[string]any{"exp": nil}),
		"exp 0":                with(map[string]any{"exp": 0}),
		"exp of this second":   with(map[string]any{"exp": now}),
		"exp huge":             signedBy(t, key, header, strings.Replace(claimsFor(t, client.ID, issuer, map[string]any{"exp": "EXP"}), `"EXP"`, "18446744073709551676", 1)),
		"exp in two hours":     with(map[string]any{"exp": now + 7200}),
		"nbf in an hour":       with(map[string]any{"nbf": now + 3000}),
		"no jti":               with(map[string]any{"jti": nil}),
		"another sub":          with(map[string]any{"sub": "https://claude.ai/oauth/claude-code-client-metadata"}),
		"by another key":       signedBy(t, clientdoc.NewKeyFor(t, "ES256", "one"), header, good),
		"claims twice":         signedBy(t, key, header, strings.Replace(good, "{", `{"aud":"`+issuer+`",`, 1)),
	}
	code := client.Code(t, "demo_user", "demo_password")
	refuse := func(what string, form func() url.Values) {
		t.Helper()
		for name, assertion := range wrong {
			if got, status := e2e.Post(t, issuer, e2e.Signed(form(), assertion)); status != http.StatusUnauthorized || got.Error != "invalid_client" {
				t.Errorf("%s, an assertion %s: %d %+v", what, name, status, got)
			}
		}
	}
	refuse("code", func() url.Values { return client.CodeForm(code) })
	tok, status := e2e.Post(t, issuer, e2e.Signed(client.CodeForm(code), signedBy(t, key, header, good)))
	if status != http.StatusOK {
		t.Fatalf("the good assertion, whose jti the wrong ones had, too: %d %+v", status, tok)
	}
	refuse("refresh", func() url.Values { return client.RefreshForm(tok.RefreshToken) })

	// An assertion in its last second is accepted at most once.
	last := with(map[string]any{"exp": time.Now().Unix() + 1})
	accepted := 0
	for until := time.Now().Add(1500 * time.Millisecond); time.Now().Before(until); {
		got, status := e2e.Post(t, issuer, e2e.Signed(client.RefreshForm(tok.RefreshToken), last))
		switch {
		case status == http.StatusOK:
			accepted++
		case status != http.StatusUnauthorized || got.Error != "invalid_client":
			t.Errorf("in the last second: %d %+v", status, got)
		}
	}
	if accepted > 1 {
		t.Errorf("an assertion that ends in a second was accepted %d times", accepted)
	}
	if tok, status = e2e.Post(t, issuer, e2e.Signed(client.RefreshForm(tok.RefreshToken), with(nil))); status != http.StatusOK {
		t.Errorf("a good refresh after all: %d %+v", status, tok)
	}
}

// hmacOver signs with a public key as the secret.
func hmacOver(t *testing.T, header, claims string, secret any) string {
	t.Helper()
	key, err := json.Marshal(secret)
	if err != nil {
		t.Fatal(err)
	}
	text := encoded(header) + "." + encoded(claims)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
