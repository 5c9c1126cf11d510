package mcp

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"

	"signet/internal/admission"
	"signet/internal/oauth"
	"signet/internal/rawjson"
	"signet/jwt"
)

// plainMethods are the methods of [Endpoint.Plain], by the end of their path. Their body is the
// object of parameters.
var plainMethods = map[string]string{
	"/tools/list":     "tools/list",
	"/tools/call":     callTool,
	"/resources/list": "resources/list",
	"/resources/read": "resources/read",
	"/prompts/list":   "prompts/list",
	"/prompts/get":    "prompts/get",
}

// PlainPaths are the paths below the endpoint's own that [Endpoint.Plain] serves.
func PlainPaths() (paths []string) {
	for path := range plainMethods {
		paths = append(paths, path)
	}
	return paths
}

// Plain returns a handler for programs that send a method's parameters as the body of a POST and
// read its result, without JSON-RPC. It serves the endpoint's Router, and allows the same requests
// as the endpoint. A failure is a result with isError and status 200, as that of a tool. Mount it
// at the endpoint's path followed by those of [PlainPaths].
func (e *Endpoint) Plain() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for path, method := range plainMethods {
			if strings.HasSuffix(r.URL.Path, path) {
				e.servePlain(w, r, method)
				return
			}
		}
		http.NotFound(w, r)
	})
}

func (e *Endpoint) servePlain(w http.ResponseWriter, r *http.Request, method string) {
	claims, ok := e.enter(w, r)
	if !ok {
		return
	}
	load, ok := e.weigh(w, r, claims)
	if !ok {
		return
	}
	defer load.Close()
	m, call, err := e.plainMessage(w, r, method, load)
	if err != nil && err.Status() == http.StatusServiceUnavailable {
		e.refuseCrowd(w, r, load)
		return
	}
	if err != nil {
		if err.Status() == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", "POST, OPTIONS")
		}
		err.WriteJSON(w, false)
		return
	}
	if granted, ok := e.allows(w, call, m, claims); ok {
		e.answerPlain(w, call, m, claims, granted, load)
	}
}

// plainMessage turns a request into the message that an MCP client would send.
func (e *Endpoint) plainMessage(w http.ResponseWriter, r *http.Request, method string, load *admission.Load) (message, *http.Request, *oauth.Error) {
	if r.Method != http.MethodPost {
		return message{}, nil, oauth.Errorf(oauth.InvalidRequest, "%s is not allowed here: send a POST", r.Method).WithStatus(http.StatusMethodNotAllowed)
	}
	params, err := readArguments(w, r, load)
	if err != nil {
		return message{}, nil, err
	}
	body := append([]byte(`{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":`), params...)
	m, no := inspect(append(body, '}'))
	if no != nil {
		return message{}, nil, no.oauth()
	}
	call := *r
	call.Header = r.Header.Clone()
	for name := range call.Header {
		if strings.HasPrefix(name, "Mcp-") {
			delete(call.Header, name)
		}
	}
	return m, &call, nil
}

func (e *Endpoint) answerPlain(w http.ResponseWriter, r *http.Request, m message, claims *jwt.Claims, granted []string, load *admission.Load) {
	c := newCall(r, m, claims, granted)
	c.Plain, c.Modern = true, false
	reply, ok := e.routeOnce(w, r, c)
	if !ok {
		return
	}
	body := plainResult(m.method, reply)
	load.Reset()
	if load.Take(int64(len(body))) != nil {
		oauth.Errorf(oauth.ServerError, "%s", unread).WriteJSON(w, false)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_ = admission.Send(w, body) // fails if the client is gone
}

// routeOnce passes a message to the router for a client that reads no notifications. It answers
// itself, unless ok, that the client has to sign in again.
func (e *Endpoint) routeOnce(w http.ResponseWriter, r *http.Request, c *Call) (reply Reply, ok bool) {
	control := http.NewResponseController(w)
	expectNothing(control)
	defer admission.ExpectProgress(control)
	watched := new(stream)
	e.guard.streams.watch(watched, r, c.Claims, false)
	defer e.guard.streams.done(watched)
	reply = e.router.Route(watched, c, func(json.RawMessage) {})
	if reply.Challenge != "" {
		e.guard.refuse(w, r, oauth.Errorf(oauth.InvalidToken, "%s", reply.Challenge), e.guard.challenge)
		return Reply{}, false
	}
	return reply, true
}

// plainResult returns the body of an answer.
func plainResult(method string, reply Reply) []byte {
	switch {
	case reply.Error != nil:
		text, _ := rawjson.String(rawjson.Get(reply.Error, "message"))
		return append(append([]byte(`{"content":[{"type":"text","text":`), rawjson.Quote(text)...), `}],"isError":true}`...)
	case method == "resources/read":
		return plainResource(reply.Result)
	}
	return reply.Result
}

// plainResource returns the first content of a resource: its text, or its bytes in Base64. A result
// whose contents are a text has this form already.
func plainResource(result json.RawMessage) []byte {
	if raw := rawjson.Get(result, "contents"); len(raw) > 0 && raw[0] == '"' {
		return result
	}
	for content := range rawjson.Elements(rawjson.Get(result, "contents")) {
		text := rawjson.Get(content, "text")
		if text == nil {
			text = rawjson.Get(content, "blob")
		}
		if text == nil {
			text = []byte(`""`)
		}
		body := append([]byte(`{"contents":`), text...)
		if media := rawjson.Get(content, "mimeType"); media != nil {
			body = append(append(body, `,"mimeType":`...), media...)
		}
		return append(body, '}')
	}
	return []byte(`{"contents":""}`)
}

// Capabilities returns a handler that answers a GET with the lists of tools, resources and prompts
// that the caller may use. Mount it at /capabilities.
func (e *Endpoint) Capabilities() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims, ok := e.enter(w, r)
		if !ok {
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD, OPTIONS")
			oauth.Errorf(oauth.InvalidRequest, "%s is not allowed here", r.Method).WithStatus(http.StatusMethodNotAllowed).WriteJSON(w, false)
			return
		}
		granted, ok := e.allows(w, r, message{method: "tools/list"}, claims)
		if !ok {
			return
		}
		var body bytes.Buffer
		for i, list := range []string{"tools", "resources", "prompts"} {
			c := newCall(r, message{method: list + "/list"}, claims, granted)
			c.Plain = true
			reply := e.router.Route(r.Context(), c, func(json.RawMessage) {})
			items := rawjson.Get(reply.Result, list)
			if items == nil {
				items = []byte("[]")
			}
			body.WriteString([]string{"{", ",", ","}[i] + `"` + list + `":`)
			body.Write(items)
		}
		body.WriteByte('}')
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = io.Copy(w, &body) // fails if the client is gone
	})
}
