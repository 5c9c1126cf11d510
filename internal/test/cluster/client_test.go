package cluster_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"signet/internal/test/cluster"
	"signet/internal/test/person"
)

// reply is an answer that was read to its end; status 0 means no answer.
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

// label names the answer for messages.
func (r reply) label() string {
	if r.status == 0 {
		return "no answer"
	}
	return strings.TrimSpace(fmt.Sprint(r.status, " ", r.error()))
}

// ours reports whether a replica gave the answer, and not nginx in place of a replica.
func (r reply) ours() bool { return r.status != 0 && r.status != 502 && r.status != 504 }

// timeout is longer than any request takes, so that no request arrives after its client
// has given it up.
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
		return reply{} // half an answer counts as none
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

func demoPerson() *person.Person { return person.New(cluster.User, cluster.Password) }

// code is the result of an authorization: the code and its verifier.
type code struct{ code, verifier string }

// authorize goes through the pages. It returns the code, or the last answer if there is
// no code.
func authorize(p *person.Person, c *http.Client, base string, client registered, scope string) (code, reply) {
	verifier := rand.Text() + rand.Text()
	hash := sha256.Sum256([]byte(verifier))
	q := url.Values{
		"response_type": {"code"}, "client_id": {client.id}, "redirect_uri": {redirectURI}, "state": {"s"}, "scope": {scope},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(hash[:])}, "code_challenge_method": {"S256"},
	}
	p.Way = byClient{c}
	page, err := p.Authorize(base + "/authorize?" + q.Encode())
	if err != nil {
		return code{}, reply{}
	}
	r := reply{page.StatusCode, page.Header, page.Body}
	if page.Left() == nil {
		return code{}, r
	}
	return code{page.Left().Query().Get("code"), verifier}, r
}

// byClient sends requests by a client.
type byClient struct{ c *http.Client }

func (b byClient) RoundTrip(r *http.Request) (*http.Response, error) { return b.c.Do(r) }

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
