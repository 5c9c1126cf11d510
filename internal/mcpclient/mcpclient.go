// Package mcpclient is a complete MCP client with the authorization flow of the MCP
// specification: it finds the authorization server, registers, signs its user in, calls
// a tool and refreshes its token. It tells a [Narrator] what it does at each step, so a
// single call shows where a server goes wrong. `signet call` prints what it returns.
//
// Errors, results and narration contain text of the server as it was sent: a program
// that writes them to a terminal removes control characters first.
package mcpclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/oauth2"
)

// Options says which server to call, and how to sign in.
type Options struct {
	Name, Version string   // of the client, as servers are told
	Endpoint      *url.URL // of the MCP server, from [ParseEndpoint]
	Scopes        []string // to ask for; empty means those that the server suggests

	// Issuer is the authorization server to sign in at. If it is nil the MCP server
	// chooses; the password then goes to the MCP server's own origin only, or to an origin
	// that Confirm returns true for.
	Issuer  *url.URL
	Confirm func(ctx context.Context, origin string) (bool, error) // may be nil

	// With a user name the client fills in the login page itself. Without one it calls
	// ShowLogin, which shows the page at an address to a person, and waits for the answer.
	Username, Password string
	ShowLogin          func(ctx context.Context, address string)

	Narrator Narrator
}

// A Narrator is told what the client does. Its methods are called one at a time.
type Narrator interface {
	Step(text string)                        // what comes next
	Exchange(method, url string, status int) // one HTTP request and its answer; the URL has no query, which may hold a code
}

// Tool is a tool that the server offers.
type Tool struct{ Name, Description string }

// Result is what a tool returned.
type Result struct {
	Raw     any   // all of it, as the server sent it; for JSON
	Content []any // its parts: a string for text, another value for anything else
	IsError bool  // the tool says that it failed
}

// ScopeError reports that the token allows too little.
type ScopeError struct{ Doing, Scope string }

func (e *ScopeError) Error() string {
	return fmt.Sprintf("%s: the token does not allow it: the server wants the scope %q", e.Doing, e.Scope)
}

// OriginError reports a login at an origin that the password may not go to.
type OriginError struct {
	Origin string
	Issuer string // naming it allows the login; empty if the page is not the issuer's own
}

func (e *OriginError) Error() string {
	return fmt.Sprintf("the password would go to %s, which is not the server that was named", e.Origin)
}

const (
	maxPages  = 200      // of a list of tools
	maxAnswer = 64 << 20 // bytes
)

// ErrBrowser reports a login that needs a person with a browser.
var ErrBrowser = errors.New("a browser is needed")

// ParseEndpoint parses the URL of an MCP server. It refuses URLs that no token may be
// sent to.
func ParseEndpoint(raw string) (*url.URL, error) {
	if raw == "" {
		return nil, errors.New("the URL of the MCP server is missing, such as http://localhost:8080/mcp")
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "":
		return nil, fmt.Errorf("%q is not the URL of an MCP server, such as https://mcp.example.com/mcp", raw)
	case !isSecure(u):
		return nil, fmt.Errorf("%q must be https: only on this machine may a token travel in clear", raw)
	}
	return u, nil
}

// Client is connected to one MCP server.
type Client struct {
	options  Options
	endpoint *url.URL

	reach   *reach
	web     narrated     // all requests go through it
	as      *http.Client // for the authorization server
	session *sdk.ClientSession
	tools   []*sdk.Tool
	again   func(ctx context.Context) error // repeats the last request with another token

	mu       sync.Mutex // guards the fields below, also during a login or refresh
	config   *oauth2.Config
	token    *oauth2.Token
	needs    string // scopes that a refused request needed
	loginErr error  // makes another login useless
}

// Connect signs in if the server wants it, opens a session and lists the tools.
func Connect(ctx context.Context, o Options) (*Client, error) {
	c := &Client{options: o, endpoint: o.Endpoint, reach: newReach(o.Endpoint, o.Issuer)}
	base := c.reach.transport()
	c.web = narrated{&sync.Mutex{}, o.Narrator, c.reach, base}
	c.as = &http.Client{Transport: c.web, Timeout: 30 * time.Second, CheckRedirect: sameOrigin}
	if err := c.open(ctx); err != nil {
		base.CloseIdleConnections()
		return nil, err
	}
	return c, nil
}

// open does the work of Connect.
func (c *Client) open(ctx context.Context) error {
	if err := c.findEndpoint(ctx); err != nil {
		return err
	}
	if err := c.probe(ctx); err != nil {
		return err
	}
	c.say("Opening an MCP session")
	client := sdk.NewClient(&sdk.Implementation{Name: c.options.Name, Version: c.options.Version}, nil)
	session, err := client.Connect(ctx, &sdk.StreamableClientTransport{
		Endpoint: c.endpoint.String(), HTTPClient: &http.Client{Transport: authorized{c}, CheckRedirect: sameOrigin}, DisableStandaloneSSE: true,
	}, nil)
	if err != nil {
		return c.explain("opening an MCP session", err)
	}
	c.session = session
	if c.tools, err = c.listTools(ctx); err != nil {
		return errors.Join(c.explain("listing the tools", err), c.Close())
	}
	c.again = func(ctx context.Context) error {
		_, err := c.listTools(ctx)
		return err
	}
	return nil
}

// Close ends the session.
func (c *Client) Close() error {
	err := c.session.Close()
	c.web.next.CloseIdleConnections()
	return err
}

// Tools returns the tools that the server lists, and the list as it was sent.
func (c *Client) Tools() (list []Tool, raw any) {
	for _, t := range c.tools {
		list = append(list, Tool{t.Name, t.Description})
	}
	return list, &sdk.ListToolsResult{Tools: c.tools}
}

// Call calls a tool. An error of type [ArgumentError] means that nothing was called.
func (c *Client) Call(ctx context.Context, name string, args []Argument) (*Result, error) {
	tool := &sdk.Tool{Name: name} // a tool that is not listed may exist, and need another scope
	i := slices.IndexFunc(c.tools, func(t *sdk.Tool) bool { return t.Name == name })
	if i >= 0 {
		tool = c.tools[i]
	}
	typed, err := typedArguments(tool, args)
	if err != nil {
		return nil, ArgumentError{err}
	}
	params := &sdk.CallToolParams{Name: name, Arguments: typed}
	c.say("Calling %s", name)
	result, err := c.session.CallTool(ctx, params)
	switch {
	case err != nil && i < 0 && !c.refused():
		return nil, c.noTool(name)
	case err != nil:
		return nil, c.explain("calling "+name, err)
	}
	c.again = func(ctx context.Context) error { return c.callAgain(ctx, tool, params) }
	return resultOf(result), nil
}

// callAgain calls a tool a second time, unless that may do something twice.
func (c *Client) callAgain(ctx context.Context, tool *sdk.Tool, params *sdk.CallToolParams) error {
	if a := tool.Annotations; a == nil || !a.ReadOnlyHint && !a.IdempotentHint {
		c.say("Listing the tools with the new token: a second call of %s may do something twice", tool.Name)
		_, err := c.listTools(ctx)
		return err
	}
	c.say("Calling %s with the new token", tool.Name)
	_, err := c.session.CallTool(ctx, params)
	return err
}

func resultOf(r *sdk.CallToolResult) *Result {
	result := &Result{Raw: r, IsError: r.IsError}
	for _, content := range r.Content {
		if text, ok := content.(*sdk.TextContent); ok {
			result.Content = append(result.Content, text.Text)
		} else {
			result.Content = append(result.Content, content)
		}
	}
	if len(r.Content) == 0 && r.StructuredContent != nil {
		result.Content = append(result.Content, r.StructuredContent)
	}
	return result
}

func (c *Client) noTool(name string) error {
	var names []string
	for _, t := range c.tools {
		names = append(names, t.Name)
	}
	return fmt.Errorf("the server has no tool %q; it has %s", name, strings.Join(names, ", "))
}

// Refresh refreshes the token, if there is one to refresh, and repeats the last request
// with the new one: it shows that the login lasts longer than its first token.
func (c *Client) Refresh(ctx context.Context) error {
	switch token := c.currentToken(); {
	case token == nil:
		c.say("Done. The server asked for no token")
		return nil
	case token.RefreshToken == "":
		c.say("Done. The server issued no refresh token, so the login ends with the token")
		return nil
	}
	c.say("Refreshing the token")
	if err := c.refresh(ctx); err != nil {
		return err
	}
	if err := c.again(ctx); err != nil {
		return c.explain("using the refreshed token", err)
	}
	c.say("Done. The refreshed token works")
	return nil
}

func (c *Client) listTools(ctx context.Context) ([]*sdk.Tool, error) {
	tools, params := []*sdk.Tool{}, &sdk.ListToolsParams{}
	for range maxPages {
		page, err := c.session.ListTools(ctx, params)
		if err != nil {
			return nil, err
		}
		if tools = append(tools, page.Tools...); page.NextCursor == "" {
			return tools, nil
		}
		params.Cursor = page.NextCursor
	}
	return nil, fmt.Errorf("the list of the tools does not end after %d pages", maxPages)
}

func (c *Client) say(format string, args ...any) { c.web.step(fmt.Sprintf(format, args...)) }

// narrated sends requests within reach, bounds the answers, and tells the narrator of each.
type narrated struct {
	mu       *sync.Mutex
	narrator Narrator
	reach    *reach
	next     *http.Transport
}

func (n narrated) step(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.narrator.Step(text)
}

func (n narrated) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := n.reach.check(r.URL); err != nil {
		return nil, err
	}
	resp, err := n.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &bounded{resp.Body, maxAnswer}
	where := *r.URL
	where.RawQuery = ""
	n.mu.Lock()
	defer n.mu.Unlock()
	n.narrator.Exchange(r.Method, where.String(), resp.StatusCode)
	return resp, nil
}

// bounded is a body that fails when it gets too long.
type bounded struct {
	io.ReadCloser
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("the answer has more than %d MiB", maxAnswer>>20)
	}
	return n, err
}

// explain makes an error of the MCP client one for people.
func (c *Client) explain(doing string, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.loginErr != nil:
		return c.loginErr
	case c.needs != "":
		return &ScopeError{doing, c.needs}
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// refused reports whether the login failed or the token allows too little.
func (c *Client) refused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.loginErr != nil || c.needs != ""
}
