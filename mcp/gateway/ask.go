package gateway

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/gatewayconfig"
	"signet/internal/oauth"
	"signet/internal/rawjson"
	"signet/mcp"
)

// Values of Server.Ask, besides auto.
const (
	askElicit    = "elicit"
	askChallenge = "challenge"
	askError     = "error"
)

// codeNotConnected is the code of the JSON-RPC error for what is no tool, if the user has not
// connected what a server needs.
const codeNotConnected = -32010

// asker answers the messages for which the user has to connect something first.
type asker struct {
	issuer     string // its URL
	challenged *challenges
}

func newAsker(issuerURL string) asker { return asker{issuerURL, &challenges{}} }

// answer returns what the client gets. It is one of
//
//   - the request to show the user the link ([canElicit]);
//   - a challenge, on which the client runs its login again, where the user is asked;
//   - an error with the link in its text, and with the object that gateways without the others
//     send.
//
// Server.Ask chooses. A user who said "Later", or whose client has just had a challenge for the
// same, gets the error.
func (a asker) answer(c *mcp.Call, server *gatewayconfig.Server, missing *Missing) mcp.Reply {
	q := a.question(c, server, missing)
	switch a.manner(c, server, missing) {
	case askElicit:
		if c.Modern {
			return q.inputRequired()
		}
		return q.elicitationError()
	case askChallenge:
		return mcp.Reply{Challenge: fmt.Sprintf("%s has to be connected before %s can be used: sign in again", q.connection, q.server)}
	}
	switch {
	case c.Plain && c.Method == "resources/read":
		return mcp.Reply{Result: encode(plainContents{string(encode(q.delegation())), "application/json"})}
	case c.Plain:
		return mcp.Reply{Result: encode(plainResult{q.delegation(), true})}
	case c.Method == "tools/call":
		return q.toolResult(c.Modern)
	}
	return mcp.Reply{Error: encode(&jsonrpc.Error{Code: codeNotConnected, Message: q.text(), Data: encode(q.delegation())})}
}

// manner returns how the user is asked.
func (a asker) manner(c *mcp.Call, server *gatewayconfig.Server, missing *Missing) string {
	manner := server.Ask
	switch {
	case c.Plain || manner == askError || response(c.Params, missing.Connection) != "":
		return askError
	case manner != askChallenge && canElicit(c):
		return askElicit
	case manner == askElicit && !c.Modern:
		// The capabilities of this client were in its initialize, which another replica may have
		// answered. The operator knows the clients.
		return askElicit
	case manner == askElicit || missing.Declined || missing.Scope != "": // a login does not offer what is connected
		return askError
	case !a.challenged.first(c, missing.Connection):
		return askError
	}
	return askChallenge
}

// canElicit reports whether the client shows links to its user, and answers to a request for that.
func canElicit(c *mcp.Call) bool {
	if !c.Modern || c.Method != "tools/call" && c.Method != "prompts/get" && c.Method != "resources/read" {
		return false
	}
	url := rawjson.Get(rawjson.Get(c.Capabilities, "elicitation"), "url")
	return len(url) > 0 && url[0] == '{'
}

// responsePrefix, before the id of a connection, is the key of the request to show the link.
const responsePrefix = "signet-connect-"

// response returns what the user answered to the request to open the link for a connection: accept,
// decline or cancel. It is empty if the message is no answer to that.
func response(params json.RawMessage, connection string) string {
	action, _ := rawjson.String(rawjson.Get(rawjson.Get(rawjson.Get(params, "inputResponses"), responsePrefix+connection), "action"))
	return action
}

// accepted reports whether the user is following the link for what is missing.
func accepted(c *mcp.Call, missing *Missing) bool {
	return c.Modern && response(c.Params, missing.Connection) == "accept"
}

// withoutResponses returns parameters without the answers that are for the gateway. They are part
// of params if there are none.
func withoutResponses(params json.RawMessage) json.RawMessage {
	if !bytes.Contains(params, []byte(responsePrefix)) {
		return params
	}
	responses := rawjson.Get(params, "inputResponses")
	if !bytes.Contains(responses, []byte(responsePrefix)) {
		return params
	}
	kept := filter(responses, func(key string) bool { return !strings.HasPrefix(key, responsePrefix) })
	if len(kept) == len("{}") {
		return filter(params, func(key string) bool { return key != "inputResponses" })
	}
	return rawjson.Replace(params, responses, kept)
}

// filter returns an object with a part of its members, which are as they were.
func filter(object json.RawMessage, keep func(key string) bool) json.RawMessage {
	out := []byte{'{'}
	for key, value := range rawjson.Members(object) {
		if !keep(key) {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, rawjson.Quote(key)...), ':'), value...)
	}
	return append(out, '}')
}

// connectQuestion is what a user has to be told.
type connectQuestion struct {
	id, connection, server string // the latter two for people
	key                    bool   // an API key is to be entered
	more                   bool   // it is connected, but not with the scopes that are needed
	link                   string
	details                delegationDetails
}

func (a asker) question(c *mcp.Call, server *gatewayconfig.Server, missing *Missing) connectQuestion {
	q := connectQuestion{
		id: missing.Connection, connection: missing.Connection, server: cmp.Or(server.Name, server.ID),
		link: oauth.ConnectionLink(a.issuer, server.ID, c.Claims.Subject), more: missing.Scope != "",
	}
	if q.more {
		q.link += "&scope=" + url.QueryEscape(missing.Scope)
	}
	q.details = delegationDetails{
		Type: "oauth_delegation", AuthEndpoint: q.link, TokenEndpoint: a.issuer + "/oauth/token",
		Scopes: []string{"openid"}, Redirect: true,
	}
	q.details.Client.Metadata.State = rand.Text()
	connection := server.Connection
	if connection == nil || connection.ID != missing.Connection {
		return q
	}
	q.connection, q.key, q.details.Client.ID = cmp.Or(connection.Name, connection.ID), connection.Key, connection.ClientID
	if connection.AuthorizationEndpoint != "" && connection.TokenEndpoint != "" {
		q.details.AuthEndpoint, q.details.TokenEndpoint = connection.AuthorizationEndpoint, connection.TokenEndpoint
	}
	switch {
	case q.more:
		q.details.Scopes = strings.Fields(missing.Scope)
	case len(connection.Scopes) > 0:
		q.details.Scopes = connection.Scopes
	}
	return q
}

// message is the text beside a link.
func (q connectQuestion) message() string {
	switch {
	case q.key:
		return fmt.Sprintf("%s needs your API key for %s.", q.server, q.connection)
	case q.more:
		return fmt.Sprintf("%s needs more access to your account at %s. Sign in there to allow it.", q.server, q.connection)
	}
	return fmt.Sprintf("%s needs your account at %s. Sign in there to connect it.", q.server, q.connection)
}

// text is the whole of what the user is told.
func (q connectQuestion) text() string {
	return q.message() + " Open " + q.link + " in a browser, and then try again."
}

// delegation is the object by which older gateways say that the user has to connect something.
type delegation struct {
	Error   string            `json:"error"`
	Details delegationDetails `json:"details"`
}

type delegationDetails struct {
	Type          string `json:"type"`
	AuthEndpoint  string `json:"auth_endpoint"`
	TokenEndpoint string `json:"token_endpoint"`
	Client        struct {
		ID       string `json:"client_id"`
		Metadata struct {
			State string `json:"state"` // random: it leads nowhere, and is no secret
		} `json:"metadata"`
	} `json:"client_info"`
	Scopes   []string `json:"required_scopes"`
	Redirect bool     `json:"redirect_after_auth"`
}

func (q connectQuestion) delegation() delegation {
	return delegation{"OAuth delegation required", q.details}
}

// plainResult is the result of a tool for clients that do not speak MCP.
type plainResult struct {
	Content delegation `json:"content"`
	IsError bool       `json:"isError"`
}

// plainContents is a resource for clients that do not speak MCP.
type plainContents struct {
	Contents  string `json:"contents"`
	MediaType string `json:"mimeType"`
}

// toolResult is the result of a tool that failed.
func (q connectQuestion) toolResult(modern bool) mcp.Reply {
	type block struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	result := struct {
		ResultType string     `json:"resultType,omitempty"`
		Content    []block    `json:"content"`
		Structured delegation `json:"structuredContent"`
		IsError    bool       `json:"isError"`
	}{Content: []block{{"text", q.text()}}, Structured: q.delegation(), IsError: true}
	if modern {
		result.ResultType = "complete"
	}
	return mcp.Reply{Result: encode(result)}
}

// elicitation is the request to show the user the link. The protocol without sessions has no id
// for it, and some of its clients demand one.
func (q connectQuestion) elicitation() *sdk.ElicitParams {
	return &sdk.ElicitParams{Mode: "url", Message: q.message(), URL: q.link, ElicitationID: rand.Text()}
}

// inputRequired is the result that asks the client to show the link, and to send the message
// again (MCP 2026-07-28, Multi Round-Trip Requests). It has no requestState: whether the user has
// connected is known at the issuer, and not by what a client says.
func (q connectQuestion) inputRequired() mcp.Reply {
	type request struct {
		Method string            `json:"method"`
		Params *sdk.ElicitParams `json:"params"`
	}
	return mcp.Reply{Result: encode(struct {
		ResultType string             `json:"resultType"`
		Requests   map[string]request `json:"inputRequests"`
	}{"input_required", map[string]request{responsePrefix + q.id: {"elicitation/create", q.elicitation()}}})}
}

// elicitationError is the same for the protocol with sessions (MCP 2025-11-25).
func (q connectQuestion) elicitationError() mcp.Reply {
	data := encode(struct {
		Elicitations []*sdk.ElicitParams `json:"elicitations"`
	}{[]*sdk.ElicitParams{q.elicitation()}})
	return mcp.Reply{Error: encode(&jsonrpc.Error{Code: sdk.CodeURLElicitationRequired, Message: q.text(), Data: data})}
}

// encode returns v as JSON, in which links are readable. V can always be encoded.
func encode(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

const (
	challengedFor = 10 * time.Minute // how long a client gets no second challenge for the same
	maxChallenged = 4096
)

// challenges remembers who got one. It is in memory only: a client that comes to another replica
// may get another challenge.
type challenges struct {
	mu    sync.Mutex
	until map[string]time.Time // by user, client and connection
}

// first reports whether the client of c has had no challenge for a connection of late, and notes
// that it has one now.
func (s *challenges) first(c *mcp.Call, connection string) bool {
	now, key := time.Now(), c.Claims.Subject+"\n"+c.Claims.ClientID+"\n"+connection
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.until[key]) {
		return false
	}
	if len(s.until) >= maxChallenged || s.until == nil {
		s.prune(now)
	}
	s.until[key] = now.Add(challengedFor)
	return true
}

// prune makes room: what is over goes, and if that is not enough, all.
func (s *challenges) prune(now time.Time) {
	kept := map[string]time.Time{}
	for key, until := range s.until {
		if now.Before(until) {
			kept[key] = until
		}
	}
	if len(kept) >= maxChallenged {
		clear(kept)
	}
	s.until = kept
}
