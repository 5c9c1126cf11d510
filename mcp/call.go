package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// call is the body of a request whose message is the call of a tool. It says what has been
// read of the message, so that [calls] need not read it once more.
type call struct {
	io.ReadCloser
	version string // of the protocol
	tool    string
	params  []byte
}

// asCall returns the body in another form if m is such a call, or else nil. The SDK's server
// then sees the standIn in place of the id.
func (m *message) asCall(body io.ReadCloser, h http.Header) *call {
	version := h.Get("Mcp-Protocol-Version")
	switch {
	case m.method != callTool || !m.standard || m.id == nil || m.params == nil:
		return nil
	case (m.modern || version >= modern) && !m.agrees(h):
		return nil
	case version == "":
		version = versions[len(versions)-1]
	}
	m.replaced = true
	return &call{body, version, m.name, m.params}
}

// agrees reports whether m is a call of the protocol without sessions in which the SDK's
// handler would find nothing to refuse, except headers with arguments. What it may refuse is
// left to it.
func (m *message) agrees(h http.Header) bool {
	return m.version == modern && h.Get("Mcp-Protocol-Version") == modern &&
		h.Get("Mcp-Method") == callTool && h.Get("Mcp-Name") == m.name && m.ordinary &&
		bytes.Count(m.params, []byte("{"))+bytes.Count(m.params, []byte("[")) < maxNesting
}

// maxNesting is less than the depth at which the SDK reads no further.
const maxNesting = 500

// calls runs calls of tools in the SDK's server, and passes all other messages to its
// handler.
//
// The handler decodes the body of a call seven to nine times before the server sees it, each
// time into a buffer of 32 KiB, and is made for streams that these calls do not have. The
// server with its middleware, its checks of arguments and its tools is the same on both ways.
//
// The handler also compares headers with arguments, if the schema of the tool says so. Such
// tools are left to it. To know them, calls asks the server for its tools at each call of the
// protocol that has such headers.
type calls struct {
	server  func() *sdk.Server
	handler http.Handler

	innermost atomic.Pointer[sdk.MethodHandler] // runs a method without the program's middleware; nil until setCaller has told
	known     atomic.Pointer[toolset]
}

// toolset is what is known of a server's tools.
type toolset struct {
	tools  []*sdk.Tool
	headed map[string]bool // tools with arguments in headers
}

// callsKey is where a context holds the *calls that setCaller tells its next handler.
type callsKey struct{}

func (c *calls) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if one, ok := r.Body.(*call); ok && c.run(w, r, one) {
		return
	}
	if c.innermost.Load() == nil {
		r = r.WithContext(context.WithValue(r.Context(), callsKey{}, c))
	}
	c.handler.ServeHTTP(w, r)
}

// run runs a call, or returns false if the handler must do so.
func (c *calls) run(w http.ResponseWriter, r *http.Request, one *call) bool {
	if known := c.known.Load(); one.modern() && known != nil && known.headed[one.tool] {
		return false
	}
	x := newExchange()
	session, err := c.server().Connect(r.Context(), x, one.session())
	if err != nil { // cannot happen: an exchange connects
		http.Error(w, "failed connection", http.StatusInternalServerError)
		return true
	}
	defer session.Close()
	if one.modern() && !c.plain(r.Context(), session, one.tool) {
		return false
	}
	if res := x.do(r.Context(), one.request(r), one.modern()); res != nil {
		one.writeResponse(w, res)
	}
	return true
}

// plain reports whether the server has a tool without arguments in headers. It may be false
// for others, too.
func (c *calls) plain(ctx context.Context, session *sdk.ServerSession, tool string) bool {
	run := c.innermost.Load()
	if run == nil {
		return false
	}
	res, err := (*run)(ctx, "tools/list", &sdk.ListToolsRequest{Session: session, Params: &sdk.ListToolsParams{}})
	list, ok := res.(*sdk.ListToolsResult)
	if err != nil || !ok {
		return false
	}
	known := c.known.Load()
	if known == nil || !slices.Equal(known.tools, list.Tools) {
		known = newToolset(list.Tools)
		c.known.Store(known)
	}
	return !known.headed[tool] && slices.ContainsFunc(list.Tools, func(t *sdk.Tool) bool { return t.Name == tool })
}

func newToolset(tools []*sdk.Tool) *toolset {
	known := &toolset{tools, map[string]bool{}}
	for _, tool := range tools {
		known.headed[tool.Name] = takesHeaders(tool.InputSchema)
	}
	return known
}

// takesHeaders reports whether a schema may name headers for arguments. It may be true for
// schemas that only speak of them.
func takesHeaders(schema any) bool {
	var plain any // without escapes
	text, err := json.Marshal(schema)
	if err == nil {
		err = json.Unmarshal(text, &plain)
	}
	if err == nil {
		text, err = json.Marshal(plain)
	}
	return err != nil || bytes.Contains(text, []byte("x-mcp-header"))
}

// modern reports whether the call is one of the protocol without sessions.
func (c *call) modern() bool { return c.version >= modern }

// session is the state of a session in which the client has negotiated its version, or has
// none, as the SDK's handler has it without sessions.
func (c *call) session() *sdk.ServerSessionOptions {
	if c.modern() {
		return &sdk.ServerSessionOptions{State: new(sdk.ServerSessionState)}
	}
	return &sdk.ServerSessionOptions{State: &sdk.ServerSessionState{
		InitializeParams:  &sdk.InitializeParams{ProtocolVersion: c.version},
		InitializedParams: new(sdk.InitializedParams),
		LogLevel:          "info",
	}}
}

// request is the message, with the standIn in place of its id.
func (c *call) request(r *http.Request) *jsonrpc.Request {
	return &jsonrpc.Request{ID: standInID, Method: callTool, Params: c.params, Extra: &sdk.RequestExtra{
		TokenInfo:      auth.TokenInfoFromContext(r.Context()),
		Header:         r.Header,
		CloseSSEStream: func(sdk.CloseSSEStreamArgs) {}, // there is none
	}}
}

var standInID, _ = jsonrpc.MakeID("0")

// writeResponse writes a response as the SDK's handler does.
func (c *call) writeResponse(w http.ResponseWriter, res *jsonrpc.Response) {
	w.Header().Set("Cache-Control", "no-cache, no-transform")
	w.Header().Set("Content-Type", "application/json")
	if res.Error == nil {
		io.WriteString(w, beginOfResponse+standIn+`,"result":`)
		w.Write(res.Result)
		io.WriteString(w, "}")
		return
	}
	b, err := jsonrpc.EncodeMessage(res)
	if err != nil {
		http.Error(w, "malformed answer", http.StatusInternalServerError)
		return
	}
	w.WriteHeader(c.status(res.Error))
	w.Write(b)
}

// status is that of an answer with an error (MCP 2026-07-28, streamable HTTP).
func (c *call) status(err error) int {
	if e, ok := errors.AsType[*jsonrpc.Error](err); ok && c.modern() {
		switch e.Code {
		case jsonrpc.CodeMethodNotFound:
			return http.StatusNotFound
		case jsonrpc.CodeInvalidParams, sdk.CodeUnsupportedProtocolVersion, sdk.CodeMissingRequiredClientCapabilities:
			return http.StatusBadRequest
		}
	}
	return http.StatusOK
}

// exchange is the connection of a session that has one call. It is a Transport and a
// Connection of the SDK.
type exchange struct {
	in     chan jsonrpc.Message
	out    chan *jsonrpc.Response
	closed chan struct{}
	end    func() // closes closed
}

func newExchange() *exchange {
	x := &exchange{in: make(chan jsonrpc.Message, 1), out: make(chan *jsonrpc.Response, 1), closed: make(chan struct{})}
	x.end = sync.OnceFunc(func() { close(x.closed) })
	return x
}

// do returns the response to a call, or nil if ctx ends before. The call may end with ctx,
// too: the SDK cancels what runs when there is nothing more to read.
func (x *exchange) do(ctx context.Context, req *jsonrpc.Request, ends bool) *jsonrpc.Response {
	x.in <- req
	select {
	case res := <-x.out:
		return res
	case <-x.closed:
	case <-ctx.Done():
		if ends {
			x.end()
		}
	}
	return nil
}

// Connect returns x.
func (x *exchange) Connect(context.Context) (sdk.Connection, error) { return x, nil }

// Read returns what the client says: the call, and that it takes no requests.
func (x *exchange) Read(ctx context.Context) (jsonrpc.Message, error) {
	select {
	case m := <-x.in:
		return m, nil
	case <-x.closed:
		return nil, io.EOF
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Write takes what the server says: the response, after which nothing follows. A request to
// the client is refused on its behalf, and a notification goes nowhere: without a stream,
// neither reaches it.
func (x *exchange) Write(_ context.Context, m jsonrpc.Message) error {
	switch m := m.(type) {
	case *jsonrpc.Response:
		x.out <- m
	case *jsonrpc.Request:
		if m.IsCall() {
			x.refuse(m)
		}
	}
	return nil
}

func (x *exchange) refuse(m *jsonrpc.Request) {
	no := &jsonrpc.Response{ID: m.ID, Error: &jsonrpc.Error{Code: jsonrpc.CodeInvalidRequest, Message: "stateless servers cannot make requests"}}
	select {
	case x.in <- no:
	case <-x.closed:
	}
}

// Close ends Read.
func (x *exchange) Close() error {
	x.end()
	return nil
}

// SessionID is empty: there are no sessions.
func (x *exchange) SessionID() string { return "" }

// beginOfResponse is how the SDK begins a response. The id follows.
const beginOfResponse = `{"jsonrpc":"2.0","id":`
