package mcp

import (
	"context"
	"io"
	"net/http"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// call is the body of a request whose message is the call of a tool in a protocol version
// with sessions. It says what has been read of the message, so that [calls] need not read it
// once more.
type call struct {
	io.ReadCloser
	version string // of the protocol
	params  []byte
}

// asCall returns the body in another form if m is such a call, or else nil. The SDK's server
// then sees the standIn in place of the id.
func (m *message) asCall(body io.ReadCloser, version string) *call {
	if m.method != callTool || !m.standard || m.id == nil || m.params == nil || m.modern || version >= modern {
		return nil
	}
	if version == "" {
		version = versions[len(versions)-1]
	}
	m.replaced = true
	return &call{body, version, m.params}
}

// calls runs calls of tools in the SDK's server, and passes all other messages to its
// handler.
//
// The handler decodes the body of a call seven times before the server sees it, each time
// into a buffer of 32 KiB, and is made for streams that these calls do not have. The server
// with its middleware, its checks of arguments and its tools is the same on both ways.
type calls struct {
	server  func() *sdk.Server
	handler http.Handler
}

func (c *calls) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	one, ok := r.Body.(*call)
	if !ok {
		c.handler.ServeHTTP(w, r)
		return
	}
	x := newExchange()
	session, err := c.server().Connect(r.Context(), x, one.session())
	if err != nil { // cannot happen: an exchange connects
		http.Error(w, "failed connection", http.StatusInternalServerError)
		return
	}
	defer session.Close()
	if res := x.do(r.Context(), one.request(r)); res != nil {
		writeResponse(w, res)
	}
}

// session is the state of a session in which the client has negotiated its version, as the
// SDK's handler has it without sessions.
func (c *call) session() *sdk.ServerSessionOptions {
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
func writeResponse(w http.ResponseWriter, res *jsonrpc.Response) {
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
	w.Write(b)
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

// do returns the response to a call, or nil if ctx ends before.
func (x *exchange) do(ctx context.Context, req *jsonrpc.Request) *jsonrpc.Response {
	x.in <- req
	select {
	case res := <-x.out:
		return res
	case <-x.closed:
	case <-ctx.Done():
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
