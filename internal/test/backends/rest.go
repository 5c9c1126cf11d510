package backends

import (
	"encoding/json"
	"net/http"
	"testing"
)

// RESTOptions say what a [REST] server is like.
type RESTOptions struct {
	Address        string // HOST:PORT; default: a free port of 127.0.0.1
	NoCapabilities bool   // there is no /capabilities: each list has a path of its own
}

// REST is a server in the shape of gateways that speak no MCP to their servers. Its tool echo
// returns its arguments, and its resource is file://a.
type REST struct{ *Server }

// NewREST starts a server, which ends with the test.
func NewREST(t testing.TB, o RESTOptions) *REST {
	t.Helper()
	mux := http.NewServeMux()
	tools := json.RawMessage(`[{"name":"echo","description":"Returns its arguments","inputSchema":` + EchoSchema + `}]`)
	resources := json.RawMessage(`[{"uri":"file://a","name":"a","mimeType":"text/plain"}]`)
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, map[string]bool{"ok": true}) })
	if !o.NoCapabilities {
		mux.HandleFunc("GET /capabilities", func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, map[string]any{"capabilities": map[string]any{"tools": tools, "resources": resources}})
		})
	}
	mux.HandleFunc("/mcp/tools/list", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, map[string]any{"tools": tools}) })
	mux.HandleFunc("/mcp/resources/list", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, map[string]any{"resources": resources}) })
	mux.HandleFunc("POST /mcp/tools/call", restCall)
	mux.HandleFunc("POST /mcp/resources/read", restRead)
	s, err := listen(o.Address, mux)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Down)
	return &REST{s}
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

func restCall(w http.ResponseWriter, r *http.Request) {
	var call struct {
		Name      string          `json:"name"`
		Arguments json.RawMessage `json:"arguments"`
	}
	if err := json.NewDecoder(r.Body).Decode(&call); err != nil {
		http.Error(w, "not JSON", http.StatusBadRequest)
		return
	}
	text, failed := string(call.Arguments), false
	if call.Name != "echo" {
		text, failed = "no such tool", true
	}
	writeJSON(w, map[string]any{"content": []map[string]string{{"type": "text", "text": text}}, "isError": failed})
}

func restRead(w http.ResponseWriter, r *http.Request) {
	var read struct {
		URI string `json:"uri"`
	}
	if err := json.NewDecoder(r.Body).Decode(&read); err != nil || read.URI != "file://a" {
		http.Error(w, "no such resource", http.StatusNotFound)
		return
	}
	writeJSON(w, map[string]string{"contents": "the text of a", "mimeType": "text/plain"})
}
