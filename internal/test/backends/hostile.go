package backends

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Manner is the way in which a [Hostile] server answers.
type Manner string

// Manners of a server that is broken, or worse.
const (
	Good       Manner = ""
	HTML       Manner = "HTML"
	Huge       Manner = "100 MB"
	Endless    Manner = "a body that never ends"
	Stalled    Manner = "a stream that stalls"
	Silent     Manner = "no answer at all"
	WrongID    Manner = "the id of another request"
	WrongShape Manner = "a result of the wrong shape"
	NotJSON    Manner = "half of an answer"
	Redirect   Manner = "a redirect"
	Challenge  Manner = "a challenge that names another authorization server"
)

// Manners are all that are not good.
var Manners = []Manner{HTML, Huge, Endless, Stalled, Silent, WrongID, WrongShape, NotJSON, Redirect, Challenge}

// Canary is in everything that a [Hostile] server sends in place of an answer.
const Canary = "hostile-canary-5e1f"

// HostileOptions say what a [Hostile] server is like.
type HostileOptions struct {
	Elsewhere string            // where redirects and challenges lead
	Tools     []json.RawMessage // default: echo
}

// Hostile is a server of protocol version 2025-11-25 without sessions. Its methods answer well
// until [Hostile.Switch] says otherwise.
type Hostile struct {
	*Server
	o HostileOptions

	mu      sync.Mutex
	manner  Manner
	methods []string // for which manner holds; empty: all
}

// NewHostile starts a server, which ends with the test.
func NewHostile(t testing.TB, o HostileOptions) *Hostile {
	t.Helper()
	if o.Tools == nil {
		o.Tools = []json.RawMessage{Tool("echo", "Returns its arguments")}
	}
	h := &Hostile{o: o}
	s, err := listen("", http.HandlerFunc(h.answer))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Down)
	h.Server = s
	return h
}

// Endpoint is the URL of the MCP endpoint.
func (h *Hostile) Endpoint() string { return h.URL() + "/mcp" }

// Switch makes the server answer some methods, or all, in a manner.
func (h *Hostile) Switch(m Manner, methods ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.manner, h.methods = m, methods
}

// Tool returns a tool of a list.
func Tool(name, description string) json.RawMessage {
	b, _ := json.Marshal(map[string]any{"name": name, "description": description, "inputSchema": map[string]string{"type": "object"}}) // strings can always be marshalled
	return b
}

// BadNames are tools that a server may not have beside echo, or that must not reach another
// server whose id is other: twice the same name, the separator, control characters, the prefix
// of the other server, no name, a very long one.
func BadNames(other string) (list []json.RawMessage) {
	for _, name := range []string{"echo", "echo", other + ".echo", ".." + other + ".echo", "two\nlines", "bell\a", "nul\x00", "\u202eohce", "", strings.Repeat("x", 5000)} {
		list = append(list, Tool(name, Canary))
	}
	return append(list, json.RawMessage(`{"name":7}`), json.RawMessage(`"echo"`), json.RawMessage(`null`))
}

// ManyTools are n tools, tool0 to tool<n-1>.
func ManyTools(n int) (list []json.RawMessage) {
	for i := range n {
		list = append(list, Tool("tool"+strconv.Itoa(i), "One of many"))
	}
	return list
}

func (h *Hostile) answer(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	var m struct {
		ID     json.RawMessage
		Method string
		Params struct{ Arguments json.RawMessage }
	}
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		http.Error(w, "not JSON", http.StatusBadRequest)
		return
	}
	if m.ID == nil {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	if bad := h.mannerFor(m.Method); bad != Good {
		h.misbehave(w, r, bad, m.ID)
		return
	}
	result := h.result(m.Method, m.Params.Arguments)
	if result == nil {
		writeJSON(w, map[string]any{"jsonrpc": "2.0", "id": m.ID, "error": map[string]any{"code": -32601, "message": "no such method"}})
		return
	}
	writeJSON(w, map[string]any{"jsonrpc": "2.0", "id": m.ID, "result": result})
}

func (h *Hostile) mannerFor(method string) Manner {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.methods {
		if m == method {
			return h.manner
		}
	}
	if len(h.methods) > 0 {
		return Good
	}
	return h.manner
}

// result is the good result of a method, or nil.
func (h *Hostile) result(method string, arguments json.RawMessage) any {
	switch method {
	case "initialize":
		return map[string]any{"protocolVersion": "2025-11-25", "capabilities": map[string]any{"tools": map[string]any{}}, "serverInfo": map[string]string{"name": "hostile", "version": "1"}}
	case "ping":
		return map[string]any{}
	case "tools/list":
		return map[string]any{"tools": h.o.Tools}
	case "tools/call":
		return map[string]any{"content": []map[string]string{{"type": "text", "text": string(arguments)}}}
	}
	return nil
}

func (h *Hostile) misbehave(w http.ResponseWriter, r *http.Request, m Manner, id json.RawMessage) {
	switch m {
	case HTML:
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, "<h1>"+Canary+"</h1>")
	case Huge, Endless:
		h.pour(w, m == Endless, id)
	case Stalled:
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, ": "+Canary+"\n\n")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	case Silent:
		<-r.Context().Done()
	case WrongID:
		writeJSON(w, map[string]any{"jsonrpc": "2.0", "id": Canary, "result": map[string]any{"content": []map[string]string{{"type": "text", "text": Canary}}}})
	case WrongShape:
		writeJSON(w, map[string]any{"jsonrpc": "2.0", "id": id, "result": []string{Canary}})
	case NotJSON:
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"jsonrpc":"2.0","result":{"content":[{"type":"text","text":"`+Canary)
	case Redirect:
		http.Redirect(w, r, h.o.Elsewhere+"/"+Canary, http.StatusTemporaryRedirect)
	case Challenge:
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token", resource_metadata="`+h.o.Elsewhere+`/.well-known/oauth-protected-resource", error_description="`+Canary+`"`)
		w.WriteHeader(http.StatusUnauthorized)
	}
}

// pour writes an answer of 100 MB, or one that goes on until the client leaves.
func (h *Hostile) pour(w http.ResponseWriter, endless bool, id json.RawMessage) {
	w.Header().Set("Content-Type", "application/json")
	if _, err := io.WriteString(w, `{"jsonrpc":"2.0","id":`+string(id)+`,"result":{"content":[{"type":"text","text":"`+Canary); err != nil {
		return
	}
	block := strings.Repeat("x", 1<<20)
	for i := 0; endless || i < 100; i++ {
		if _, err := io.WriteString(w, block); err != nil {
			return
		}
	}
	io.WriteString(w, `"}]}}`)
}
