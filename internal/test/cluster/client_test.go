package cluster_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"signet/internal/test/cluster"
)

// reply is an answer that was read to its end. Status 0: there is none.
type reply struct {
	status int
	header http.Header
	body   string
}

// error is the OAuth error code of a JSON answer, or "".
func (r reply) error() string {
	var v struct {
		Error string `json:"error"`
	}
	if json.Unmarshal([]byte(r.body), &v) != nil {
		return ""
	}
	return v.Error
}

// label names the answer for people.
func (r reply) label() string {
	if r.status == 0 {
		return "no answer"
	}
	return strings.TrimSpace(fmt.Sprint(r.status, " ", r.error()))
}

// ours reports whether one of our processes gave the answer, not nginx for one that
// did not.
func (r reply) ours() bool { return r.status != 0 && r.status != 502 && r.status != 504 }

// timeout is longer than anything here takes, so that no request of which its client
// knows nothing any more arrives later.
const timeout = 40 * time.Second

// newHTTP returns a client that follows no redirect.
func newHTTP() *http.Client {
	return &http.Client{
		Timeout:       timeout,
		Transport:     &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: 20 * time.Second},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func do(c *http.Client, r *http.Request) reply {
	resp, err := c.Do(r)
	if err != nil {
		return reply{}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return reply{} // half an answer is none
	}
	return reply{resp.StatusCode, resp.Header, string(body)}
}

func post(c *http.Client, target, contentType, body string) reply {
	r, err := http.NewRequest(http.MethodPost, target, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	r.Header.Set("Content-Type", contentType)
	return do(c, r)
}

func postForm(c *http.Client, target string, form url.Values) reply {
	return post(c, target, "application/x-www-form-urlencoded", form.Encode())
}

// call calls a tool with an access token.
func call(c *http.Client, base, access, tool string, arguments any) reply {
	body, err := json.Marshal(map[string]any{
		"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": map[string]any{"name": tool, "arguments": arguments},
	})
	if err != nil {
		panic(err)
	}
	r, err := http.NewRequest(http.MethodPost, base+"/mcp", strings.NewReader(string(body)))
	if err != nil {
		panic(err)
	}
	for k, v := range map[string]string{
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25", "Authorization": "Bearer " + access,
	} {
		r.Header.Set(k, v)
	}
	return do(c, r)
}

const redirectURI = "http://127.0.0.1:9/callback"

// registered is a client that registered itself.
type registered struct{ id string }

func register(c *http.Client, base string) (registered, reply) {
	r := post(c, base+"/register", "application/json",
		`{"client_name":"Cluster","redirect_uris":["`+redirectURI+`"],"token_endpoint_auth_method":"none","grant_types":["authorization_code","refresh_token"]}`)
	var v struct {
		ID string `json:"client_id"`
	}
	if r.status == http.StatusCreated && json.Unmarshal([]byte(r.body), &v) != nil {
		r = reply{}
	}
	return registered{v.ID}, r
}

// person is somebody with a password and a browser, which keeps cookies.
type person struct {
	name, password string
	cookies        map[string]string
}

// everybody may sign in at every replica. The first costs no password hash.
func newPerson(name, password string) *person {
	return &person{name, password, map[string]string{}}
}

func demoPerson() *person { return newPerson(cluster.User, cluster.Password) }

// code is what an authorization brings: the code, and what else redeems it.
type code struct{ code, verifier string }

var (
	formAction  = regexp.MustCompile(`<form[^>]*action="([^"]*)"`)
	hiddenField = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)"`)
)

// authorize goes through the pages, as far as they go: without a code, the answer that
// was the last is returned.
func (p *person) authorize(c *http.Client, base string, client registered, scope string) (code, reply) {
	verifier := rand.Text() + rand.Text()
	hash := sha256.Sum256([]byte(verifier))
	q := url.Values{
		"response_type": {"code"}, "client_id": {client.id}, "redirect_uri": {redirectURI}, "state": {"s"}, "scope": {scope},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(hash[:])}, "code_challenge_method": {"S256"},
	}
	at, err := url.Parse(base + "/authorize?" + q.Encode())
	if err != nil {
		panic(err)
	}
	var form url.Values
	for range 8 {
		r := p.visit(c, at, form)
		form = nil
		to, err := at.Parse(r.header.Get("Location"))
		switch {
		case r.status == http.StatusSeeOther && err == nil && strings.HasPrefix(to.String(), redirectURI):
			return code{to.Query().Get("code"), verifier}, r
		case r.status == http.StatusSeeOther && err == nil:
			at = to
			continue
		case r.status != http.StatusOK:
			return code{}, r
		}
		action := formAction.FindStringSubmatch(r.body)
		if action == nil {
			return code{}, r
		}
		form = url.Values{"username": {p.name}, "password": {p.password}, "decision": {"approve"}}
		for _, f := range hiddenField.FindAllStringSubmatch(r.body, -1) {
			form.Set(html.UnescapeString(f[1]), html.UnescapeString(f[2]))
		}
		if at, err = at.Parse(html.UnescapeString(action[1])); err != nil {
			return code{}, r
		}
	}
	return code{}, reply{status: 508} // round and round
}

// visit opens a page, or sends a form as a page of ours does.
func (p *person) visit(c *http.Client, at *url.URL, form url.Values) reply {
	method, body := http.MethodGet, ""
	if form != nil {
		method, body = http.MethodPost, form.Encode()
	}
	r, err := http.NewRequest(method, at.String(), strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", at.Scheme+"://"+at.Host)
	}
	for name, value := range p.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	answer := do(c, r)
	for _, cookie := range (&http.Response{Header: answer.header}).Cookies() {
		p.cookies[cookie.Name] = cookie.Value
		if cookie.MaxAge < 0 {
			delete(p.cookies, cookie.Name)
		}
	}
	return answer
}

// tokens are a token response.
type tokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	Expires int    `json:"expires_in"`
	Scope   string `json:"scope"`
}

func (r reply) tokens() (t tokens) {
	if r.status == http.StatusOK && json.Unmarshal([]byte(r.body), &t) != nil {
		return tokens{}
	}
	return t
}

func codeForm(client registered, c code) url.Values {
	return url.Values{"grant_type": {"authorization_code"}, "code": {c.code}, "client_id": {client.id}, "code_verifier": {c.verifier}}
}

func refreshForm(client registered, handle string) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {handle}, "client_id": {client.id}}
}
