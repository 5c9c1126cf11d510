package mcp

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"signet/internal/admission"
	"signet/internal/oauth"
	"signet/jwt"
)

// toolsPath is the path of a tool without its name.
const toolsPath = "/tools/"

// Tools returns a handler that calls one tool per request, for programs that do not speak
// MCP. A POST to /tools/ and the tool's name, with a JSON object of arguments or without a
// body, is answered with the result of tools/call. It allows the same requests as the
// endpoint, with the same 401 and 403. An unknown tool is 404, arguments that are not an
// object are 400. As over MCP, a tool that fails has status 200 and isError in its result.
// Mount it at /tools/.
func (e *Endpoint) Tools() http.Handler { return http.HandlerFunc(e.serveTool) }

func (e *Endpoint) serveTool(w http.ResponseWriter, r *http.Request) {
	claims, ok := e.enter(w, r)
	if !ok {
		return
	}
	load, ok := e.weigh(w, r, claims)
	if !ok {
		return
	}
	defer load.Close()
	call, m, err := toolCall(w, r, load)
	switch {
	case err != nil && err.Status() == http.StatusServiceUnavailable:
		e.refuseCrowd(w, r, load)
		return
	case err != nil && claims == nil:
		e.guard.refuse(w, r, errNoCredentials, e.guard.challenge)
		return
	case err != nil:
		if err.Status() == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", "POST, OPTIONS")
		}
		err.WriteJSON(w, false)
		return
	}
	granted, ok := e.allows(w, call, m, claims)
	if !ok {
		return
	}
	a := e.runTool(w, call, m, claims, granted)
	if a == nil {
		return
	}
	load.Reset()
	result, err := e.result(call, m, a)
	if err == nil && load.Take(int64(len(result))) != nil {
		err = oauth.Errorf(oauth.ServerError, "%s", unread)
	}
	switch {
	case err != nil:
		err.WriteJSON(w, false)
	case result != nil:
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Length", strconv.Itoa(len(result)))
		_ = admission.Send(w, result) // fails if the client is gone
	}
}

// runTool runs the call of a tool in the SDK, or in the router.
func (e *Endpoint) runTool(w http.ResponseWriter, r *http.Request, m message, claims *jwt.Claims, granted []string) *answer {
	if e.router == nil {
		return e.run(w, r, claims, http.Header{})
	}
	reply, ok := e.routeOnce(w, r, newCall(r, m, claims, granted))
	if !ok {
		return nil
	}
	a := &answer{header: http.Header{}, status: http.StatusOK}
	a.body.Write(envelope(m.id, reply))
	return a
}

// toolCall turns r into the request that an MCP client would send, so that the request that
// is authorized is the one that runs.
//
// That request is of the older protocol: the newer one demands some arguments in headers
// that only the tool's schema names.
func toolCall(w http.ResponseWriter, r *http.Request, load *admission.Load) (*http.Request, message, *oauth.Error) {
	if r.Method != http.MethodPost {
		return nil, message{}, oauth.Errorf(oauth.InvalidRequest, "%s is not allowed here: tools are called with POST", r.Method).WithStatus(http.StatusMethodNotAllowed)
	}
	name, ok := strings.CutPrefix(r.URL.Path, toolsPath)
	if !ok {
		return nil, message{}, unknownTool(name)
	}
	arguments, err := readArguments(w, r, load)
	if err != nil {
		return nil, message{}, err
	}
	body, jsonErr := json.Marshal(rpcCall{Version: "2.0", ID: 1, Method: callTool, Params: rpcParams{Name: name, Arguments: arguments}})
	if jsonErr != nil {
		return nil, message{}, notArguments()
	}
	m, no := inspect(body)
	if no == nil && len(body) > maxBody {
		no = tooLarge()
	}
	if no != nil {
		return nil, message{}, no.oauth()
	}
	call := *r
	call.Body = io.NopCloser(bytes.NewReader(body))
	call.ContentLength = int64(len(body))
	call.Header = r.Header.Clone()
	for name := range call.Header {
		if strings.HasPrefix(name, "Mcp-") || name == "Last-Event-Id" {
			delete(call.Header, name)
		}
	}
	call.Header.Set("Content-Type", "application/json")
	call.Header.Set("Accept", "application/json, text/event-stream")
	call.Header.Set("Mcp-Protocol-Version", versions[1])
	return &call, m, nil
}

// rpcCall is the call of a tool, rpcAnswer the SDK's answer.
type (
	rpcCall struct {
		Version string    `json:"jsonrpc"`
		ID      int       `json:"id"`
		Method  string    `json:"method"`
		Params  rpcParams `json:"params"`
	}
	rpcParams struct {
		Name      string          `json:"name"`
		Arguments json.RawMessage `json:"arguments"`
	}
	rpcAnswer struct {
		Result json.RawMessage `json:"result"`
		Error  *jsonrpc.Error  `json:"error"`
	}
)

// readArguments returns the body of r, which must begin like a JSON object.
func readArguments(w http.ResponseWriter, r *http.Request, load *admission.Load) ([]byte, *oauth.Error) {
	body, no := readBody(w, r, load)
	if no != nil {
		return nil, no.oauth()
	}
	body = bytes.TrimSpace(body)
	if len(body) == 0 {
		return []byte("{}"), nil
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return nil, oauth.Errorf(oauth.InvalidRequest, "Content-Type must be application/json").WithStatus(http.StatusUnsupportedMediaType)
	}
	if body[0] != '{' {
		return nil, notArguments()
	}
	return body, nil
}

func notArguments() *oauth.Error {
	return oauth.Errorf(oauth.InvalidRequest, "the body is not one JSON object, the tool's arguments")
}

// result returns the result in the SDK's answer to the call of a tool, or nil if the caller
// hung up.
func (e *Endpoint) result(call *http.Request, m message, a *answer) ([]byte, *oauth.Error) {
	answer, ok := a.decode()
	switch {
	case !ok && call.Context().Err() != nil:
		return nil, nil
	case !ok:
		e.guard.log.ErrorContext(call.Context(), "the MCP SDK did not answer the call of a tool", "tool", m.name, "status", a.status)
		return nil, oauth.Errorf(oauth.ServerError, "the tool was not run")
	case answer.Error == nil:
		return answer.Result, nil
	case answer.Error.Code == jsonrpc.CodeInvalidParams && strings.HasPrefix(answer.Error.Message, "unknown tool"):
		return nil, unknownTool(m.name)
	case answer.Error.Code == jsonrpc.CodeInvalidParams:
		return nil, oauth.Errorf(oauth.InvalidRequest, "%s", answer.Error.Message)
	case answer.Error.Code == codeForbidden: // the needed scopes have changed since allows
		return nil, oauth.Errorf(oauth.AccessDenied, "%s", answer.Error.Message)
	}
	return nil, oauth.Errorf(oauth.ServerError, "%s", answer.Error.Message)
}

func unknownTool(name string) *oauth.Error {
	return oauth.Errorf(oauth.InvalidRequest, "unknown tool %q", name).WithStatus(http.StatusNotFound)
}

// oauth returns e in the form for clients that do not speak JSON-RPC.
func (e *refusal) oauth() *oauth.Error {
	code := oauth.InvalidRequest
	if e.status == http.StatusServiceUnavailable {
		code = oauth.TemporarilyUnavailable
	}
	return oauth.Errorf(code, "%s", e.reason.Message).WithStatus(e.status)
}

func (a *answer) decode() (answer rpcAnswer, ok bool) {
	err := json.Unmarshal(a.body.Bytes(), &answer)
	return answer, err == nil && (answer.Result != nil || answer.Error != nil)
}

// Connect answers every request with 401 and the places where a login begins, for programs
// that ask how to log in. Mount it at the path of the endpoint and /connect. It reads the
// fields Resource, Issuer and Challenge of o. registration is the endpoint where clients register;
// empty: there is none.
func Connect(o Options, registration string) http.Handler {
	hint, _ := json.Marshal(struct {
		Error         string `json:"error"`
		Description   string `json:"error_description"`
		Configuration string `json:"oauth_metadata_url"`
		Registration  string `json:"registration_endpoint,omitempty"`
	}{
		"authentication_required", "This MCP server requires OAuth authentication",
		o.Issuer + "/.well-known/openid-configuration", registration,
	})
	var none *oauth.Error
	challenge := none.Challenge(oauth.ResourceMetadataURL(o.Resource), withoutOffline(o.Challenge))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", "*")
		if r.Method == http.MethodOptions {
			h.Set("Access-Control-Allow-Methods", "POST")
			h.Set("Access-Control-Allow-Headers", allowedHeaders)
			w.WriteHeader(http.StatusNoContent)
			return
		}
		h.Set("Access-Control-Expose-Headers", "WWW-Authenticate")
		h.Set("WWW-Authenticate", challenge)
		h.Set("Content-Type", "application/json")
		h.Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusUnauthorized)
		w.Write(hint)
	})
}
