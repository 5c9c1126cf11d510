package e2e

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"html"
)

// The one PKCE pair of these tests (RFC 7636 appendix B).
const verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"

func challenge() string {
	h := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

type registration struct {
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
}

// registerClient registers a public client.
func registerClient(t testing.TB, issuer, redirectURI string) registration {
	t.Helper()
	body := `{"client_name":"Test client","redirect_uris":["` + redirectURI + `"],"token_endpoint_auth_method":"none","grant_types":["authorization_code","refresh_token"]}`
	resp, err := http.Post(issuer+"/register", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var r registration
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil || resp.StatusCode != 201 || r.ClientID == "" {
		t.Fatalf("registration: %d, %+v, %v", resp.StatusCode, r, err)
	}
	return r
}

func authorizationURL(issuer string, client registration, redirectURI, state string) string {
	q := url.Values{
		"response_type": {"code"}, "client_id": {client.ClientID}, "redirect_uri": {redirectURI}, "state": {state}, "scope": {"read write"},
		"code_challenge": {challenge()}, "code_challenge_method": {"S256"}, "resource": {issuer + "/mcp"},
	}
	return issuer + "/authorize?" + q.Encode()
}

var (
	formAction = regexp.MustCompile(`<form[^>]*action="([^"]*)"`)
	hidden     = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)"`)
)

// signIn does with plain requests what a person does in a browser, and returns
// where the browser is sent at the end.
func signIn(t testing.TB, authorize, name, password string) *url.URL {
	t.Helper()
	return signInOver(t, http.DefaultTransport, authorize, name, password)
}

func signInOver(t testing.TB, transport http.RoundTripper, authorize, name, password string) *url.URL {
	t.Helper()
	jar, _ := cookiejar.New(nil)
	issuer, _ := url.Parse(authorize)
	var left *url.URL // where a redirect leaves the server
	c := &http.Client{Transport: transport, Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if r.URL.Host != issuer.Host {
			left = r.URL
			return http.ErrUseLastResponse
		}
		return nil
	}}
	resp, err := c.Get(authorize)
	for range 4 {
		if err != nil {
			t.Fatal(err)
		}
		page, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if left != nil {
			return left
		}
		action := formAction.FindSubmatch(page)
		if action == nil {
			t.Fatalf("no form in the answer %d:\n%s", resp.StatusCode, page)
		}
		form := url.Values{"username": {name}, "password": {password}, "decision": {"approve"}}
		for _, field := range hidden.FindAllSubmatch(page, -1) {
			form.Set(html.UnescapeString(string(field[1])), html.UnescapeString(string(field[2])))
		}
		to, err2 := resp.Request.URL.Parse(html.UnescapeString(string(action[1])))
		if err2 != nil {
			t.Fatal(err2)
		}
		r, _ := http.NewRequest("POST", to.String(), strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", issuer.Scheme+"://"+issuer.Host)
		resp, err = c.Do(r)
	}
	t.Fatal("the login does not end")
	return nil
}

type tokens struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	TokenType    string `json:"token_type"`
	Scope        string `json:"scope"`
	ExpiresIn    int    `json:"expires_in"`
	Error        string `json:"error"`
}

// post sends a form to the token endpoint and returns the answer, good or bad.
func post(t testing.TB, issuer string, form url.Values) (tokens, int) {
	t.Helper()
	resp, err := http.PostForm(issuer+"/token", form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var tok tokens
	if err := json.NewDecoder(resp.Body).Decode(&tok); err != nil {
		t.Fatalf("token endpoint: %d: %v", resp.StatusCode, err)
	}
	return tok, resp.StatusCode
}

func exchange(t testing.TB, issuer string, client registration, code string) tokens {
	t.Helper()
	tok, status := post(t, issuer, url.Values{"grant_type": {"authorization_code"}, "code": {code}, "client_id": {client.ClientID}, "code_verifier": {verifier}})
	if status != 200 {
		t.Fatalf("code exchange: %d %+v", status, tok)
	}
	return tok
}

func refresh(t testing.TB, issuer string, client registration, handle string) (tokens, int) {
	t.Helper()
	return post(t, issuer, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {handle}, "client_id": {client.ClientID}})
}

// login registers a client and brings the demo user's tokens home.
func (d *daemon) login() (registration, tokens) {
	d.t.Helper()
	const redirectURI = "http://127.0.0.1:9/callback"
	client := registerClient(d.t, d.issuer, redirectURI)
	back := signIn(d.t, authorizationURL(d.issuer, client, redirectURI, "s"), "demo_user", "demo_password")
	code := back.Query().Get("code")
	if code == "" {
		d.t.Fatalf("no code in %s", back)
	}
	return client, exchange(d.t, d.issuer, client, code)
}
