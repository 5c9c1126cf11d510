package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/admission"
	"signet/internal/oauth"
	"signet/internal/rawjson"
	"signet/jwt"
)

// Router takes the messages of an [Endpoint] that concern tools, resources and prompts, in
// place of its Server, which answers what concerns the endpoint itself: initialize,
// server/discover, ping and notifications. All methods are safe for concurrent use.
type Router interface {
	// Needs returns the scopes that a message needs, besides those of every request. It is
	// given the scopes that the caller has.
	Needs(method, name string, granted []string) []string

	// Route answers a message. Notify sends notifications to the client before the answer, if
	// it accepts events. ctx ends when the client cancels the message, hangs up, or its grant is
	// revoked.
	Route(ctx context.Context, c *Call, notify func(message json.RawMessage)) Reply

	// Listen sends the notifications that a client subscribes to, as whole messages, until
	// ctx ends. The first one is the acknowledgement.
	Listen(ctx context.Context, c *Call, notify func(message json.RawMessage)) Reply
}

// Call is a message for a [Router].
type Call struct {
	Claims  *jwt.Claims
	Token   string   // the access token
	Granted []string // scopes, also implied ones

	Method string
	Name   string          // of the tool or prompt, or URI of the resource; otherwise empty
	ID     json.RawMessage // as it was sent; nil for notifications
	Params json.RawMessage // as they were sent; nil: there are none

	Modern       bool            // the protocol without sessions
	Capabilities json.RawMessage // of the client, in a modern message; nil: they are not known
	Header       http.Header     // of the request
	Plain        bool            // the client does not speak MCP, but asks by one HTTP request

	rawName []byte // Name in Params, with its quotes
}

// Renamed returns the parameters with another name or URI in place of Name. Every other byte is
// as it was sent.
func (c *Call) Renamed(name string) json.RawMessage {
	if c.rawName == nil {
		return c.Params
	}
	return rawjson.Replace(c.Params, c.rawName, rawjson.Quote(name))
}

// NewCall returns a copy of c with the name that its parameters have, as an endpoint reads it. It is
// for tests of a Router.
func NewCall(c *Call) (*Call, error) {
	m, no := inspect([]byte(`{"jsonrpc":"2.0","id":1,"method":` + string(rawjson.Quote(c.Method)) + `,"params":` + string(c.Params) + `}`))
	if no != nil {
		return nil, &no.reason
	}
	named := *c
	named.Name, named.Params, named.rawName = m.name, m.params, m.rawName
	return &named, nil
}

// Reply is the answer of a [Router]. Exactly one of Result, Error and Challenge is set.
type Reply struct {
	Result    json.RawMessage
	Error     json.RawMessage // a JSON-RPC error object
	Challenge string          // the client is to sign in again: why, for its user
}

// ErrorReply returns a reply with a JSON-RPC error.
func ErrorReply(code int64, message string) Reply {
	raw, _ := json.Marshal(&jsonrpc.Error{Code: code, Message: message}) // cannot fail
	return Reply{Error: raw}
}

// isLocal reports whether the endpoint's own server answers a method.
func isLocal(method string) bool {
	switch method {
	case "", initialize, "ping", "server/discover":
		return true
	}
	return strings.HasPrefix(method, "notifications/")
}

// route passes one message to the router, and writes its answer.
func (e *Endpoint) route(w http.ResponseWriter, r *http.Request, m message, claims *jwt.Claims, granted []string, load *admission.Load) {
	no := checkModern(r, m)
	if !m.standard {
		no = badMessage(`jsonrpc must be "2.0"`)
	}
	if no != nil {
		no.id = m.id
		no.write(w)
		return
	}
	control := http.NewResponseController(w)
	expectNothing(control)
	defer admission.ExpectProgress(control)
	watched := new(stream)
	e.guard.streams.watch(watched, r, claims, m.method == listen)
	defer e.guard.streams.done(watched)
	call := newCall(r, m, claims, granted)
	ctx, done := e.running.begin(watched, call)
	defer done()
	s := &routed{w: w, control: control, events: m.events}
	if m.method == listen {
		s.begin()
		s.end(call, e.router.Listen(ctx, call, s.notify))
		return
	}
	reply := e.router.Route(ctx, call, s.notify)
	switch {
	case reply.Challenge != "" && !s.started:
		e.guard.refuse(w, r, oauth.Errorf(oauth.InvalidToken, "%s", reply.Challenge), e.guard.challenge)
	case ctx.Err() != nil && r.Context().Err() != nil: // nobody reads the answer
	default:
		load.Reset()
		if load.Take(int64(len(reply.Result)+len(reply.Error))) != nil {
			reply = ErrorReply(jsonrpc.CodeInternalError, unread)
		}
		s.end(call, reply)
	}
}

// newCall returns what the router gets of a request that receive has read.
func newCall(r *http.Request, m message, claims *jwt.Claims, granted []string) *Call {
	raw, _, _ := oauth.Bearer(r.Header["Authorization"]) // Guard has read it
	return &Call{
		Claims: claims, Token: raw, Granted: granted, Method: m.method, Name: m.name, ID: m.id, Params: m.params,
		Modern: m.modern, Capabilities: m.capabilities, Header: r.Header, rawName: m.rawName,
	}
}

// checkModern refuses a message whose headers and body a proxy and a server could read
// differently (MCP 2026-07-28, Streamable HTTP), as the SDK does for its own.
func checkModern(r *http.Request, m message) *refusal {
	version := r.Header.Get("Mcp-Protocol-Version")
	mismatch := func(format string, args ...any) *refusal {
		return refused(http.StatusBadRequest, sdk.CodeHeaderMismatch, format, args...)
	}
	if version < modern && !m.modern {
		return nil
	}
	switch {
	case version == "":
		return mismatch("the header Mcp-Protocol-Version is missing")
	case !m.modern:
		return refused(http.StatusBadRequest, jsonrpc.CodeInvalidParams, "_meta has no %s", sdk.MetaKeyProtocolVersion)
	case version != m.version:
		return mismatch("the header Mcp-Protocol-Version is not the version in _meta")
	case version != modern:
		no := refused(http.StatusBadRequest, sdk.CodeUnsupportedProtocolVersion, "protocol version %q is not supported", version)
		no.reason.Data, _ = json.Marshal(sdk.UnsupportedProtocolVersionData{Supported: versions, Requested: version})
		return no
	case len(m.capabilities) == 0 || m.capabilities[0] != '{':
		return refused(http.StatusBadRequest, jsonrpc.CodeInvalidParams, "_meta has no %s", sdk.MetaKeyClientCapabilities)
	case r.Header.Get("Mcp-Method") == "":
		return mismatch("the header Mcp-Method is missing")
	case r.Header.Get("Mcp-Method") != m.method:
		return mismatch("the header Mcp-Method is not the method of the message")
	}
	switch m.method {
	case callTool, "prompts/get", "resources/read":
		name := r.Header.Get("Mcp-Name") // decoded by headers
		if name == "" {
			return mismatch("the header Mcp-Name is missing")
		}
		if name != m.name {
			return mismatch("the header Mcp-Name is not the name in the message")
		}
	}
	return nil
}

// routed writes the answer to a routed message: JSON, or events if there are notifications.
type routed struct {
	w       http.ResponseWriter
	control *http.ResponseController
	events  bool // the client accepts events

	mu      sync.Mutex
	started bool // events are being written
}

// begin answers with events.
func (s *routed) begin() {
	s.started = true
	s.w.Header().Set("Content-Type", "text/event-stream")
	s.w.Header().Set("Cache-Control", "no-store")
	passAtOnce(s.w.Header())
	s.w.WriteHeader(http.StatusOK)
}

// notify sends a notification, if the client accepts events.
func (s *routed) notify(message json.RawMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.events && !s.started {
		return
	}
	if !s.started {
		s.begin()
	}
	s.event(message)
}

// event writes one event. Line breaks in JSON are white space.
func (s *routed) event(message []byte) {
	admission.ExpectProgress(s.control)
	defer expectNothing(s.control)
	var b bytes.Buffer
	b.Grow(len(message) + 32)
	b.WriteString("event: message\ndata: ")
	for _, c := range message {
		if c == '\n' || c == '\r' {
			c = ' '
		}
		b.WriteByte(c)
	}
	b.WriteString("\n\n")
	s.w.Write(b.Bytes())
	_ = s.control.Flush() // the next write fails too if the client is gone
}

// end sends the reply, if the message was a request.
func (s *routed) end(c *Call, reply Reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.ID == nil {
		if !s.started {
			s.w.WriteHeader(http.StatusAccepted)
		}
		return
	}
	body := envelope(c.ID, reply)
	if s.started {
		s.event(body)
		return
	}
	h := s.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	s.w.WriteHeader(replyStatus(c, reply))
	_ = admission.Send(s.w, body) // fails if the client is gone
}

// envelope returns a JSON-RPC response.
func envelope(id json.RawMessage, reply Reply) []byte {
	body := make([]byte, 0, len(id)+len(reply.Result)+len(reply.Error)+48)
	body = append(body, `{"jsonrpc":"2.0","id":`...)
	body = append(body, id...)
	if reply.Error != nil {
		body = append(append(body, `,"error":`...), reply.Error...)
	} else {
		body = append(append(body, `,"result":`...), reply.Result...)
	}
	return append(body, '}')
}

// replyStatus returns the HTTP status of a reply: the newer protocol has one for some errors.
func replyStatus(c *Call, reply Reply) int {
	if reply.Error == nil || !c.Modern {
		return http.StatusOK
	}
	var e struct{ Code int64 }
	if json.Unmarshal(reply.Error, &e) != nil {
		return http.StatusOK
	}
	switch e.Code {
	case jsonrpc.CodeMethodNotFound:
		return http.StatusNotFound
	case jsonrpc.CodeInvalidParams, sdk.CodeHeaderMismatch, sdk.CodeUnsupportedProtocolVersion, sdk.CodeMissingRequiredClientCapabilities:
		return http.StatusBadRequest
	}
	return http.StatusOK
}

// running are the routed messages that a client may cancel by a notification, as clients of the
// older protocol do. The notification must reach this process.
type running struct {
	mu    sync.Mutex
	calls map[string]*cancellable // by grant and id
}

// cancellable are the messages of one grant and id.
type cancellable struct {
	end context.CancelFunc // nil: there were several, of clients of one grant, which cannot be told apart
	n   int                // how many run
}

func (s *running) begin(ctx context.Context, c *Call) (context.Context, func()) {
	if c.Modern || c.ID == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	key := c.Claims.GrantID + "\n" + string(c.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls == nil {
		s.calls = map[string]*cancellable{}
	}
	one := s.calls[key]
	if one == nil {
		one = &cancellable{end: cancel}
		s.calls[key] = one
	} else {
		one.end = nil
	}
	one.n++
	return ctx, func() {
		s.mu.Lock()
		if one.n--; one.n == 0 {
			delete(s.calls, key)
		}
		s.mu.Unlock()
		cancel()
	}
}

// cancel ends the message that a notification of a caller names.
func (s *running) cancel(claims *jwt.Claims, params []byte) {
	var p struct {
		ID json.RawMessage `json:"requestId"`
	}
	if claims == nil || json.Unmarshal(params, &p) != nil || p.ID == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if one := s.calls[claims.GrantID+"\n"+string(p.ID)]; one != nil && one.end != nil {
		one.end()
	}
}

// NewRouterServer returns an SDK server for an endpoint with a [Router]: it declares that there
// are tools, resources and prompts, and has none itself.
func NewRouterServer(name, version string) *sdk.Server {
	s := newServer(name, version, &sdk.ServerCapabilities{
		Tools:       &sdk.ToolCapabilities{ListChanged: true},
		Prompts:     &sdk.PromptCapabilities{ListChanged: true},
		Resources:   &sdk.ResourceCapabilities{ListChanged: true, Subscribe: true},
		Completions: &sdk.CompletionCapabilities{},
		//lint:ignore SA1019 clients of the older protocol versions ask for log messages
		Logging: &sdk.LoggingCapabilities{},
	})
	s.AddReceivingMiddleware(declareNoStream)
	return s
}

// declareNoStream takes back, for clients of the older protocol versions, what needs a stream of the
// server's own, which is not there: they would wait for changes in vain.
func declareNoStream(next sdk.MethodHandler) sdk.MethodHandler {
	return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
		result, err := next(ctx, method, req)
		if r, ok := result.(*sdk.InitializeResult); ok && r.Capabilities != nil {
			c := *r.Capabilities
			c.Tools, c.Prompts, c.Resources = &sdk.ToolCapabilities{}, &sdk.PromptCapabilities{}, &sdk.ResourceCapabilities{}
			r.Capabilities = &c
		}
		return result, err
	}
}
