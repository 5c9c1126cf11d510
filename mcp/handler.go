package mcp

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/admission"
	"signet/internal/oauth"
	"signet/jwt"
)

const (
	initialize = "initialize"
	listen     = "subscriptions/listen" // its answer is a stream of events
	cancelled  = "notifications/cancelled"
)

// maxBody is the largest request body, in bytes.
const maxBody = sdk.DefaultMaxRequestBodyBytes

// Handler serves the tools of o.Server over streamable HTTP, both to clients of the
// sessionless protocol and to those that initialize. It refuses, in this order, a request
// that
//
//   - comes from a foreign origin or, if Resource is on a loopback host, names a foreign
//     host: 403;
//   - has no valid access token, whatever its method: 401 with a challenge;
//   - is not a POST: 405; is not JSON: 415; is too large: 413;
//   - is not exactly one JSON-RPC message that all parsers read alike: 400;
//   - names a protocol version that is not supported, except to initialize: 400;
//   - lacks a scope, and would not be public without a token: 403 with a challenge.
//
// It does not insist on what only the form of a message needs: the header Accept, or the
// version after initialize. Answers are JSON, except for the events of a subscription, and
// the id of a message comes back as it was sent.
//
// Refusals of the bearer check have the JSON body of RFC 6750 servers, the others a
// JSON-RPC error. A CORS preflight needs no token. If o.Access has public tools, a request
// without a token is refused with 401 unless it needs none, or is not a POST: clients of
// the older protocol send a GET after they have initialized, and begin a login if it is
// answered with 401.
//
// A panic in a tool is logged, and the caller gets an internal error. Handler adds this
// protection and o.Access to o.Server with the first request, so they cover every
// middleware that was added before.
func Handler(o Options) (*Endpoint, error) {
	if o.Verifier == nil || o.Server == nil {
		return nil, errors.New("mcp: a Handler needs a Verifier and a Server")
	}
	resource, err := url.Parse(o.Resource)
	if err != nil || resource.Host == "" || resource.Fragment != "" {
		return nil, fmt.Errorf("mcp: resource %q is not an absolute URL without fragment", o.Resource)
	}
	// Its switches bring back sessions in stateless mode, among others.
	if os.Getenv("MCPGODEBUG") != "" {
		return nil, errors.New("mcp: the environment variable MCPGODEBUG changes the MCP SDK's behaviour: unset it")
	}
	door, err := newDoorkeeper(resource, o.Origins)
	if err != nil {
		return nil, err
	}
	access := o.Access
	if access == nil {
		access = new(Access)
	}
	protect := sync.OnceFunc(func() { o.Server.AddReceivingMiddleware(Contain(o.logger()), access.Middleware) })
	server := func() *sdk.Server { protect(); return o.Server }
	handler := sdk.NewStreamableHTTPHandler(
		func(*http.Request) *sdk.Server { return server() },
		&sdk.StreamableHTTPOptions{
			Stateless:    true,
			JSONResponse: true, // an event stream for one event costs 40 us more
			Logger:       o.Log,
			// The doorkeeper compares Host with the resource. The SDK would compare it
			// with the address of the listener, and refuse every proxy on this machine.
			DisableLocalhostProtection:   true,
			MaxRequestBodyBytes:          maxBody,
			PropagateRequestCancellation: true,
		})
	return &Endpoint{guard: newGuard(o), door: door, access: access, admission: o.Admission, budget: o.Budget, caller: o.caller(), router: o.Router, calls: &calls{server: server, handler: handler}}, nil
}

// Endpoint is a protected MCP endpoint, made by [Handler].
type Endpoint struct {
	guard  *guard
	door   *doorkeeper
	access *Access

	admission *admission.Class
	budget    *admission.Budget
	caller    func(*http.Request) string

	router  Router // nil: the SDK runs all messages
	running running

	calls http.Handler // runs a message
}

func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	claims, ok := e.enter(w, r)
	if !ok {
		return
	}
	load, ok := e.weigh(w, r, claims)
	if !ok {
		return
	}
	defer load.Close()
	r, m, no := receive(w, r, load)
	switch {
	case no == noRoom:
		e.refuseCrowd(w, r, load)
	case no != nil && claims == nil && no.status != http.StatusMethodNotAllowed:
		e.guard.refuse(w, r, errNoCredentials, e.guard.challenge)
	case no != nil:
		no.write(w)
	default:
		e.serve(w, r, m, claims, load)
	}
}

// serve answers one message.
func (e *Endpoint) serve(w http.ResponseWriter, r *http.Request, m message, claims *jwt.Claims, load *admission.Load) {
	granted, ok := e.allows(w, r, m, claims)
	switch {
	case !ok:
	case e.router != nil && m.method == cancelled:
		e.running.cancel(claims, m.params)
		w.WriteHeader(http.StatusAccepted)
	case e.router != nil && !isLocal(m.method):
		e.route(w, r, m, claims, granted, load)
	case m.method == listen:
		e.listen(w, r, claims)
	default:
		if a := e.run(w, r, claims, w.Header()); a != nil {
			load.Reset()
			a.send(w, m, load)
		}
	}
}

// EndStreams ends the answers that last until the client hangs up. A server that stops
// calls it, and the clients listen again at another replica. Running calls go on.
func (e *Endpoint) EndStreams() { e.guard.streams.endAll() }

// enter makes the decisions that do not depend on the message, and answers unless ok. The
// claims are nil if there is no token, which only messages that need none may lack. Before they
// are read, these wait for their turn.
func (e *Endpoint) enter(w http.ResponseWriter, r *http.Request) (claims *jwt.Claims, ok bool) {
	if no := e.door.check(r); no != nil {
		no.write(w)
		return nil, false
	}
	e.door.grant(w, r)
	if r.Method == http.MethodOptions {
		preflight(w, r)
		return nil, false
	}
	if err := e.admission.Door(r.Context()); err != nil {
		refuseBusy(w, err)
		return nil, false
	}
	claims, err := e.guard.authenticate(r)
	if err == errNoCredentials && e.router == nil && e.access.hasPublicTools() {
		e.admission.Yield(r.Context())
		return nil, true
	}
	if err != nil {
		e.guard.refuse(w, r, err, e.guard.challenge)
		return nil, false
	}
	return claims, true
}

// weigh takes what the request needs of the budget of bytes, before the body is read, or
// answers that there is no room. The grant pays, or the address if there is no token.
func (e *Endpoint) weigh(w http.ResponseWriter, r *http.Request, claims *jwt.Claims) (load *admission.Load, ok bool) {
	holder := ""
	if claims != nil {
		holder = "grant " + claims.GrantID
	} else if address := e.caller(r); address != "" {
		holder = "address " + address
	}
	load, err := e.budget.Open(holder)
	if err != nil {
		e.refuseCrowd(w, r, load)
	}
	return load, err == nil
}

// refuseCrowd refuses a message whose sender has too many messages or bytes here already. It
// holds nothing of the budget while it waits for the turn of its answer.
func (e *Endpoint) refuseCrowd(w http.ResponseWriter, r *http.Request, load *admission.Load) {
	load.Close()
	refuseBusy(w, e.admission.Refuse(r.Context()))
}

// allows reports whether m may run on behalf of claims, and answers if not. For a Router it
// returns the scopes of the claims and those that they imply. The decision is made here because
// a tool cannot answer 403; the middleware of Access, which the SDK runs later, decides for itself.
func (e *Endpoint) allows(w http.ResponseWriter, r *http.Request, m message, claims *jwt.Claims) (granted []string, ok bool) {
	if claims == nil {
		if !e.access.public(m.method, m.name) {
			e.guard.refuse(w, r, errNoCredentials, e.guard.challenge)
			return nil, false
		}
		return nil, true
	}
	if e.router == nil && e.access.public(m.method, m.name) { // a login takes nothing away
		e.admission.Known()
		return nil, true
	}
	needed := e.guard.required
	if m.method == callTool {
		needed = union(needed, e.access.needed(m.name))
	}
	if e.router != nil {
		granted = e.guard.hierarchy.Expand(claims.Scopes())
		needed = union(needed, e.router.Needs(m.method, m.name, granted))
	}
	if err := e.guard.authorize(claims, needed); err != nil {
		e.guard.refuse(w, r, err, stepUp(r, claims.Scopes(), needed))
		return nil, false
	}
	e.admission.Known()
	return granted, true
}

// refuseBusy refuses a message for lack of room, in a form on which clients keep their
// tokens and call again.
func refuseBusy(w http.ResponseWriter, cause error) {
	oauth.Errorf(oauth.TemporarilyUnavailable, "try again in a moment").Because(cause).WriteJSON(w, false)
}

// run runs an allowed message in the SDK and returns its answer, or answers that there is no
// slot for it. While the message runs, which may take long, there is no write deadline.
func (e *Endpoint) run(w http.ResponseWriter, r *http.Request, claims *jwt.Claims, header http.Header) *answer {
	slot, err := e.admission.Enter(r.Context())
	if err != nil {
		refuseBusy(w, err)
		return nil
	}
	defer slot.Leave()
	control := http.NewResponseController(w)
	expectNothing(control)
	defer admission.ExpectProgress(control)
	if claims != nil {
		r = &e.guard.admit(r, claims).request
	}
	a := &answer{header: header}
	e.calls.ServeHTTP(a, r)
	return a
}

// listen passes a subscription to the SDK, whose answer is a stream. It needs no slot: while
// it waits for events, it costs nothing.
func (e *Endpoint) listen(w http.ResponseWriter, r *http.Request, claims *jwt.Claims) {
	control := http.NewResponseController(w)
	expectNothing(control)
	defer admission.ExpectProgress(control)
	if claims != nil {
		ctx := e.guard.admit(r, claims)
		e.guard.streams.watch(&ctx.stream, r, claims, true)
		defer e.guard.streams.done(&ctx.stream)
		ctx.Context = &ctx.stream
		r = &ctx.request
	}
	passAtOnce(w.Header())
	e.calls.ServeHTTP(&events{w, control}, r)
}

// receive reads the one message in r. It returns the request to run, which has the body
// again, and headers that the SDK reads as this package does.
func receive(w http.ResponseWriter, r *http.Request, load *admission.Load) (*http.Request, message, *refusal) {
	if no := checkForm(r); no != nil {
		if no.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", "POST, OPTIONS")
		}
		return r, message{}, no
	}
	body, no := readBody(w, r, load)
	if no != nil {
		return r, message{}, no
	}
	m, no := inspect(body)
	m.events = acceptsEvents(r)
	m.id = bytes.Clone(m.id) // the body may be large, and the id is needed longer
	if no == nil {
		no = checkVersion(r, m)
	}
	if no != nil {
		return r, message{}, no
	}
	body = m.forSDK(body)
	r2 := *r
	r2.Body = io.NopCloser(bytes.NewReader(body))
	r2.ContentLength = int64(len(body))
	r2.Header, no = headers(r.Header, m)
	if one := m.asCall(r2.Body, r2.Header); one != nil {
		r2.Body = one
	}
	if no == nil && m.replaced && m.method == listen { // its events repeat the id
		no = badMessage("the id of a subscription is a string without escapes, or an integer of at most 2^53")
	}
	if no != nil {
		no.id = m.id
	}
	return &r2, m, no
}

// checkForm refuses a request that cannot carry a message.
func checkForm(r *http.Request) *refusal {
	if r.Method != http.MethodPost {
		return refused(http.StatusMethodNotAllowed, jsonrpc.CodeInvalidRequest, "%s is not allowed: this server keeps no sessions", r.Method)
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/json" {
		return refused(http.StatusUnsupportedMediaType, jsonrpc.CodeInvalidRequest, "Content-Type must be application/json")
	}
	return nil
}

// readBody reads the body of r. It takes the bytes from the budget before it reads them.
func readBody(w http.ResponseWriter, r *http.Request, load *admission.Load) ([]byte, *refusal) {
	if r.ContentLength > maxBody {
		return nil, tooLarge()
	}
	from := io.Reader(http.MaxBytesReader(w, r.Body, maxBody))
	if r.ContentLength < 0 {
		from = &weighed{from, load}
	} else if err := load.Take(r.ContentLength); err != nil {
		return nil, noRoom
	}
	var b bytes.Buffer
	b.Grow(int(min(max(r.ContentLength, 0), 64<<10)) + bytes.MinRead)
	_, err := b.ReadFrom(from)
	switch _, over := errors.AsType[*http.MaxBytesError](err); {
	case over:
		return nil, tooLarge()
	case errors.Is(err, admission.ErrFull):
		return nil, noRoom
	case err != nil:
		return nil, badMessage("the body ended early")
	}
	return b.Bytes(), nil
}

// weighed takes the bytes of a body of unknown length from the budget.
type weighed struct {
	io.Reader
	load *admission.Load
}

func (b *weighed) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if full := b.load.Take(int64(n)); full != nil {
		return 0, full
	}
	return n, err
}

// noRoom refuses a message whose sender has too many bytes here already.
var noRoom = refused(http.StatusServiceUnavailable, codeForbidden, "try again in a moment")

func tooLarge() *refusal {
	return refused(http.StatusRequestEntityTooLarge, jsonrpc.CodeInvalidRequest, "the body is larger than %d bytes", maxBody)
}

// checkVersion refuses a message of an unsupported protocol version. A missing version is
// taken for 2025-03-26 (MCP 2025-11-25, Protocol Version Header), because this server keeps
// no session in which it could have been negotiated. Initialize negotiates the version in
// its body, whatever its header says. The SDK refuses later versions than it knows itself,
// in the form that these prescribe.
func checkVersion(r *http.Request, m message) *refusal {
	version := r.Header.Get("Mcp-Protocol-Version")
	switch {
	case m.method == listen && (version == "" || slices.Contains(versions[1:], version)):
		// The SDK would open a stream.
		no := refused(http.StatusOK, jsonrpc.CodeMethodNotFound, "method not found")
		no.id = m.id
		return no
	case version == "" || m.method == initialize:
		return nil
	case version >= modern || slices.Contains(versions, version):
		return nil
	}
	no := refused(http.StatusBadRequest, sdk.CodeUnsupportedProtocolVersion, "protocol version %q is not supported", version)
	no.id = m.id
	no.reason.Data, _ = json.Marshal(sdk.UnsupportedProtocolVersionData{Supported: versions, Requested: version})
	return no
}

// headers returns the headers for the SDK to run m. Of several lines the SDK takes the first
// and a proxy maybe the last, so no MCP header may occur twice.
func headers(h http.Header, m message) (http.Header, *refusal) {
	for name, lines := range h {
		if len(lines) > 1 && strings.HasPrefix(name, "Mcp-") {
			return nil, refused(http.StatusBadRequest, sdk.CodeHeaderMismatch, "more than one %s header", name)
		}
	}
	name := h.Get("Mcp-Name")
	decoded, ok := decodeHeader(name)
	if !ok {
		return nil, refused(http.StatusBadRequest, sdk.CodeHeaderMismatch, "the Mcp-Name header is not valid Base64")
	}
	_, resumes := h["Last-Event-Id"]
	negotiates := m.method == initialize && !m.modern
	if decoded == name && !resumes && !negotiates && acceptsBoth(h) {
		return h, nil
	}
	h = h.Clone()
	// Without sessions there is nothing to resume, and the SDK would refuse it.
	h.Del("Last-Event-ID")
	// The answer is JSON, and events for a subscription alone, whatever else the client
	// would take. The SDK insists on both.
	h.Set("Accept", bothTypes)
	if negotiates {
		h.Del("Mcp-Protocol-Version")
	}
	if name != "" {
		// The SDK compares names undecoded (go-sdk#1234).
		h.Set("Mcp-Name", decoded)
	}
	return h, nil
}

// bothTypes is what the protocol tells clients to accept. Many send only one of them, or
// no Accept at all.
const bothTypes = "application/json, text/event-stream"

func acceptsBoth(h http.Header) bool {
	accept := h["Accept"]
	return len(accept) == 1 && accept[0] == bothTypes
}

// decodeHeader undoes the encoding of header values that are not plain ASCII
// (MCP streamable HTTP, Value Encoding).
func decodeHeader(value string) (string, bool) {
	encoded, ok := strings.CutPrefix(value, "=?base64?")
	if !ok {
		return value, true
	}
	if encoded, ok = strings.CutSuffix(encoded, "?="); !ok {
		return value, true
	}
	decoded, err := base64.StdEncoding.Strict().DecodeString(encoded)
	return string(decoded), err == nil
}
