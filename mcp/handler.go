package mcp

import (
	"bytes"
	"context"
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
)

// maxBody is the largest request body, in bytes.
const maxBody = sdk.DefaultMaxRequestBodyBytes

// Handler serves the tools of o.Server over streamable HTTP, both to clients
// of the sessionless protocol and to those that initialize. In this order, a
// request is refused that
//
//   - comes from a foreign origin or, if Resource is on a loopback host, names
//     a foreign host: 403;
//   - has no valid access token, whatever its method: 401 with a challenge;
//   - is not a POST: 405; is not JSON: 415; is too large: 413;
//   - is not exactly one JSON-RPC message that all parsers read alike: 400;
//   - lacks a protocol version that we speak (only initialize may): 400;
//   - lacks a scope: 403 with a challenge.
//
// Refusals of the bearer check have the JSON body of RFC 6750 servers, the
// others a JSON-RPC error. A CORS preflight needs no token.
//
// A panic in a tool is logged, and its caller gets an internal error. Handler
// sees to that from the first request on, so it covers every middleware which
// o.Server was given until then.
func Handler(o Options) (http.Handler, error) {
	if o.Verifier == nil || o.Server == nil {
		return nil, errors.New("mcp: a Handler needs a Verifier and a Server")
	}
	resource, err := url.Parse(o.Resource)
	if err != nil || resource.Host == "" || resource.Fragment != "" {
		return nil, fmt.Errorf("mcp: resource %q is not an absolute URL without fragment", o.Resource)
	}
	// Switches in it bring back sessions in stateless mode and more.
	if os.Getenv("MCPGODEBUG") != "" {
		return nil, errors.New("mcp: the environment variable MCPGODEBUG changes the MCP SDK's behaviour: unset it")
	}
	door, err := newDoorkeeper(resource, o.Origins)
	if err != nil {
		return nil, err
	}
	e := &endpoint{guard: newGuard(o), door: door}
	protect := sync.OnceFunc(func() { o.Server.AddReceivingMiddleware(Contain(o.logger())) })
	e.run = newAdmit(sdk.NewStreamableHTTPHandler(
		func(*http.Request) *sdk.Server { protect(); return o.Server },
		&sdk.StreamableHTTPOptions{
			Stateless:    true,
			JSONResponse: true, // an event stream for one event costs 40 us more
			Logger:       o.Log,
			// The door checks Host by what the resource is called. The SDK would by
			// where we listen, and refuse every proxy on this machine.
			DisableLocalhostProtection:   true,
			MaxRequestBodyBytes:          maxBody,
			PropagateRequestCancellation: true,
		}))
	return e, nil
}

type endpoint struct {
	guard *guard
	door  *doorkeeper
	run   admit
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if no := e.door.check(r); no != nil {
		no.write(w)
		return
	}
	e.door.grant(w, r)
	if r.Method == http.MethodOptions {
		preflight(w, r)
		return
	}
	claims, err := e.guard.authenticate(r)
	if err != nil {
		e.guard.refuse(w, r, err, e.guard.challenge)
		return
	}
	r, m, no := receive(w, r)
	if no != nil {
		no.write(w)
		return
	}
	needed := e.scopes(m.method, m.name)
	granted := claims.Scopes()
	if err := authorize(granted, needed); err != nil {
		e.guard.refuse(w, r, err, stepUp(r, granted, needed))
		return
	}
	if m.method == "subscriptions/listen" {
		ctx, cancel := context.WithDeadline(r.Context(), lastMoment(claims))
		defer cancel()
		r = r.WithContext(ctx)
	}
	e.run(w, r, claims, granted)
}

// scopes are all that calling method for name needs.
func (e *endpoint) scopes(method, name string) []string {
	return e.guard.required
}

// receive reads the one message in r. The request it returns is the one to
// run: it has the body again, and headers that the SDK reads as we do.
func receive(w http.ResponseWriter, r *http.Request) (*http.Request, message, *refusal) {
	if no := checkForm(r); no != nil {
		if no.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", "POST, OPTIONS")
		}
		return r, message{}, no
	}
	body, no := readBody(w, r)
	if no != nil {
		return r, message{}, no
	}
	m, no := inspect(body)
	if no == nil {
		no = checkVersion(r, m)
	}
	if no != nil {
		return r, message{}, no
	}
	r2 := *r
	r2.Body = io.NopCloser(bytes.NewReader(body))
	r2.Header, no = headers(r.Header)
	if no != nil {
		no.id = m.id
	}
	return &r2, m, no
}

// checkForm refuses what cannot carry a message.
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

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, *refusal) {
	tooLarge := refused(http.StatusRequestEntityTooLarge, jsonrpc.CodeInvalidRequest, "the body is larger than %d bytes", maxBody)
	if r.ContentLength > maxBody {
		return nil, tooLarge
	}
	var b bytes.Buffer
	b.Grow(int(min(max(r.ContentLength, 0), 64<<10)) + bytes.MinRead)
	_, err := b.ReadFrom(http.MaxBytesReader(w, r.Body, maxBody))
	switch _, over := errors.AsType[*http.MaxBytesError](err); {
	case over:
		return nil, tooLarge
	case err != nil:
		return nil, badMessage("the body ended early")
	}
	return b.Bytes(), nil
}

// checkVersion refuses a message of a protocol version that we do not speak.
// The SDK takes a missing version for 2025-03-26, with rules of its own.
// Versions later than ours it refuses itself, in the words of theirs.
func checkVersion(r *http.Request, m message) *refusal {
	version := r.Header.Get("Mcp-Protocol-Version")
	switch {
	case version >= modern || slices.Contains(versions, version):
		return nil
	case version == "" && m.method == "initialize":
		return nil
	case version == "":
		no := refused(http.StatusBadRequest, sdk.CodeHeaderMismatch, "the MCP-Protocol-Version header is required, except to initialize")
		no.id = m.id
		return no
	}
	no := refused(http.StatusBadRequest, sdk.CodeUnsupportedProtocolVersion, "protocol version %q is not supported", version)
	no.id = m.id
	no.reason.Data, _ = json.Marshal(sdk.UnsupportedProtocolVersionData{Supported: versions, Requested: version})
	return no
}

// headers returns the headers for the SDK. It takes the first of several lines,
// others may take the last, so none of ours may occur twice.
func headers(h http.Header) (http.Header, *refusal) {
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
	if decoded == name && !resumes {
		return h, nil
	}
	h = h.Clone()
	// Without sessions there is nothing to resume; the SDK would refuse it.
	h.Del("Last-Event-ID")
	if name != "" {
		// The SDK compares names undecoded (go-sdk#1234).
		h.Set("Mcp-Name", decoded)
	}
	return h, nil
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
